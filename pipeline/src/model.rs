use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, FloatDType, Tensor};
use clip_text::{ClipTextConfig, ClipTextModel, Tokenizer};
use lora_core::{Component, Lora};
use sd_diffusion::{PredictionType, SchedulerConfig, TimestepSpacing};
use sd_unet::{UNet2DConditionModel, UNetConfig};
use sd_vae::{AutoencoderKL, VaeConfig};

use crate::{
    AdapterFile, Checkpoint, CheckpointOptions, Layout, MatrixType, NumberTypes, Part,
    PipelineError,
};

/// A Stable Diffusion 1.x model with all its parts on one device.
#[derive(Clone, Debug)]
pub struct StableDiffusion {
    /// Words to tokens.
    pub tokenizer: Tokenizer,
    /// Tokens to an embedding.
    pub text_encoder: ClipTextModel,
    /// The denoiser.
    pub unet: UNet2DConditionModel,
    /// Latents to pictures and back.
    pub vae: AutoencoderKL,
    /// The noise schedule that the model was trained with.
    pub scheduler: SchedulerConfig,
    /// The number type of the text encoder and the UNet; the VAE is f32, since some overflow in f16.
    pub dtype: FloatDType,
}

/// How a model is opened.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// A VAE in place of the checkpoint's own: a file or a folder.
    pub vae: Option<PathBuf>,
    /// A folder with the tokenizer's files, in place of the checkpoint's own. A single file has none, and means CLIP's.
    pub tokenizer: Option<PathBuf>,
    /// What the model predicts, where its files do not say or are wrong.
    pub prediction_type: Option<PredictionType>,
    /// In what number type the UNet's matrices and kernels are kept. Where it is not the computed one, the VAE's stay in 16 bits too if the file
    /// has them so.
    pub unet_matrices: MatrixType,
}

impl OpenOptions {
    pub(crate) fn vae_matrices(&self) -> MatrixType {
        match self.unet_matrices {
            MatrixType::Computed => MatrixType::Computed,
            MatrixType::Stored | MatrixType::As(_) => MatrixType::Stored,
        }
    }
}

impl StableDiffusion {
    /// Opens a diffusers folder or a single file: see [`Checkpoint::open`].
    ///
    /// # Errors
    /// If a file is missing, damaged, or of another architecture.
    pub fn open(
        path: impl AsRef<Path>,
        options: &OpenOptions,
        dtype: FloatDType,
        device: &Device,
    ) -> Result<Self, PipelineError> {
        let checkpoint = Checkpoint::open(
            path,
            &CheckpointOptions {
                vae: options.vae.clone(),
            },
        )?;
        Self::load(&checkpoint, options, dtype, device)
    }

    /// Loads an opened checkpoint.
    ///
    /// # Errors
    /// If the configurations fit no model of ours, or the weights do not fit them.
    pub fn load(
        checkpoint: &Checkpoint,
        options: &OpenOptions,
        dtype: FloatDType,
        device: &Device,
    ) -> Result<Self, PipelineError> {
        let path = || checkpoint.path().to_path_buf();
        let unet = UNetConfig::from_value(checkpoint.config(Part::Unet)).map_err(|source| {
            PipelineError::Unet {
                path: path(),
                source,
            }
        })?;
        let vae = VaeConfig::from_value(checkpoint.config(Part::Vae)).map_err(|source| {
            PipelineError::Vae {
                path: path(),
                source,
            }
        })?;
        let text = checkpoint.config(Part::TextEncoder).to_string();
        let text_path = match checkpoint.layout() {
            Layout::DiffusersFolder => path().join("text_encoder").join("config.json"),
            Layout::SingleFile => path(),
        };
        let text = ClipTextConfig::from_json(&text, text_path)?;
        let tokenizer = match options.tokenizer.as_deref().or(checkpoint.tokenizer()) {
            Some(folder) => Tokenizer::open(folder)?,
            None => Tokenizer::built_in(),
        };
        tokenizer.check(&text)?;
        let mut scheduler = match checkpoint.scheduler_config() {
            Some(json) => SchedulerConfig::from_json(&json.to_string())?,
            // What diffusers saves for Stable Diffusion 1.5, so that a single file and a folder of one model give the same pictures.
            None => SchedulerConfig {
                timestep_spacing: Some(TimestepSpacing::Leading),
                ..SchedulerConfig::default()
            },
        };
        if let Some(prediction_type) = options.prediction_type {
            scheduler.prediction_type = prediction_type;
        }
        Ok(Self {
            tokenizer,
            text_encoder: checkpoint.load(Part::TextEncoder, text.init(device), dtype)?,
            unet: checkpoint.load(
                Part::Unet,
                unet.init(device),
                NumberTypes {
                    dtype,
                    matrices: options.unet_matrices,
                },
            )?,
            vae: checkpoint.load(
                Part::Vae,
                vae.init(device),
                NumberTypes {
                    dtype: FloatDType::F32,
                    matrices: options.vae_matrices(),
                },
            )?,
            scheduler,
            dtype,
        })
    }

    /// The same model with a LoRA at some strength. Several are put on one after the other.
    ///
    /// # Errors
    /// If a key of the LoRA matches nothing in the model, or a shape differs.
    pub fn with_lora(self, lora: &Lora, strength: f64) -> Result<Self, PipelineError> {
        let unet = widened(self.unet, lora, self.dtype)?;
        Ok(Self {
            text_encoder: lora.merge(self.text_encoder, Component::TextEncoder, strength)?,
            unet: lora.merge(unet, Component::Unet, strength)?,
            ..self
        })
    }

    /// The same model with what an adapter brings for it: a FaceID adapter was trained with a LoRA beside it, at strength 1. Others bring
    /// nothing.
    ///
    /// # Errors
    /// If the adapter does not fit the UNet.
    pub fn with_adapter(self, file: &AdapterFile) -> Result<Self, PipelineError> {
        let layers = self.unet.cross_attentions();
        file.adapter.check(&layers)?;
        match file.lora(&layers)? {
            Some(lora) => self.with_lora(&lora, 1.0),
            None => Ok(self),
        }
    }

    /// The device that it is on.
    pub fn device(&self) -> Device {
        self.text_encoder
            .devices()
            .into_iter()
            .next()
            .expect("a model has weights, and they have a device")
    }
}

/// The UNet with every weight that a LoRA changes in the number type that is computed in: a sum of both would lose digits in 16 bits.
fn widened(
    unet: UNet2DConditionModel,
    lora: &Lora,
    dtype: FloatDType,
) -> Result<UNet2DConditionModel, PipelineError> {
    let adapted = lora.apply(unet.clone(), Component::Unet, 1.0)?;
    let names = lora_core::factors(&adapted).into_iter();
    let mut widen = Widen {
        modules: names.map(|factor| factor.path).collect(),
        path: vec![],
        dtype,
    };
    Ok(unet.map(&mut widen))
}

struct Widen {
    modules: BTreeSet<String>,
    path: Vec<String>,
    dtype: FloatDType,
}

impl ModuleMapper for Widen {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let adapted = match self.path.split_last() {
            Some((name, module)) => name == "weight" && self.modules.contains(&module.join(".")),
            None => false,
        };
        if !adapted || FloatDType::from(param.val().dtype()) == self.dtype {
            return param;
        }
        let (id, value, mapper) = param.consume();
        Param::from_mapped_value(id, value.cast(self.dtype), mapper)
    }
}
