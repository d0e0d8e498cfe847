use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, FloatDType};
use clip_vision::{
    ClipImageProcessor, ClipVisionConfig, ClipVisionError, ClipVisionModelWithProjection,
    ClipVisionOutput, Fit,
};
use image::RgbImage;

use crate::checkpoint::{infer_clip_vision, read_json, weights_in};
use crate::{CheckpointError, PipelineError, TensorFile, Weights, load_module};

/// A CLIP image encoder's files, opened: settings and names are read and checked, weights are not.
#[derive(Debug)]
pub struct ImageEncoderFile {
    path: PathBuf,
    config: ClipVisionConfig,
    processor: ClipImageProcessor,
    weights: Weights,
    settings: Vec<PathBuf>,
    ignored: Vec<String>,
}

/// A CLIP image encoder with the preprocessing that belongs to it.
#[derive(Clone, Debug)]
pub struct ImageEncoder {
    /// The encoder.
    pub model: ClipVisionModelWithProjection,
    /// Pictures to its pixels.
    pub processor: ClipImageProcessor,
}

impl ImageEncoderFile {
    /// Opens an image encoder, in transformers' names:
    ///
    /// - a folder with `config.json`, `model.safetensors` or `pytorch_model.bin` (also in shards, also a variant such as `model.fp16.safetensors`),
    ///   and, where pictures are prepared in another way than CLIP's, `preprocessor_config.json`;
    /// - a diffusers folder with such a folder `image_encoder`, and `feature_extractor`;
    /// - a single file, whose sizes are told from its shapes. That goes for ViT-L/14, ViT-H/14 and ViT-bigG/14, the first with OpenAI's
    ///   activation: LAION's ViT-L/14 has the same shapes and another one, and opens as a folder.
    ///
    /// The text encoder's part of a whole CLIP is left out, as are `position_ids`: see [`ignored`](Self::ignored).
    ///
    /// # Errors
    /// If there is no image encoder, or it is of another kind; if a tensor is of unknown use; if the settings do not belong to each other.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, PipelineError> {
        let path = path.as_ref();
        if path.is_dir() {
            Self::open_folder(path)
        } else if path.exists() {
            Self::open_file(path)
        } else {
            Err(CheckpointError::NotAModel {
                path: path.to_owned(),
                found: "does not exist: expected an image encoder's folder, with `config.json` and `model.safetensors`, or a single file"
                    .to_owned(),
            }
            .into())
        }
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All files that its results depend on: weights and settings.
    pub fn files(&self) -> Vec<PathBuf> {
        let weights = self.weights.file();
        let index = weights.path();
        let mut files: Vec<PathBuf> = weights.files().map(Path::to_owned).collect();
        if !files.iter().any(|file| file == index) {
            files.push(index.to_owned());
        }
        files.extend(self.settings.iter().cloned());
        files
    }

    /// The encoder's sizes.
    pub fn config(&self) -> &ClipVisionConfig {
        &self.config
    }

    /// How pictures are prepared for it.
    pub fn processor(&self) -> &ClipImageProcessor {
        &self.processor
    }

    /// Its tensors.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Tensors that were left out because no picture needs them, by their names in the file.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// Reads the weights, and converts them to `dtype`.
    ///
    /// # Errors
    /// If a parameter has no tensor, a tensor no parameter, or the two have other shapes; if reading fails.
    pub fn load(&self, dtype: FloatDType, device: &Device) -> Result<ImageEncoder, PipelineError> {
        Ok(ImageEncoder {
            model: load_module(self.config.init(device), &self.weights, dtype)?,
            processor: self.processor.clone(),
        })
    }

    fn open_folder(path: &Path) -> Result<Self, PipelineError> {
        let inner = path.join("image_encoder");
        let (folder, processors) = match (path.join("config.json").is_file(), inner.is_dir()) {
            (false, true) => (inner, path.join("feature_extractor")),
            _ => (path.to_owned(), path.to_owned()),
        };
        let not_a_model = |found: &str| CheckpointError::NotAModel {
            path: folder.clone(),
            found: found.to_owned(),
        };
        let stems = [("model", "safetensors"), ("pytorch_model", "bin")];
        let Some(weights) = weights_in(&folder, stems) else {
            return Err(not_a_model(
                "is no image encoder: expected `config.json` with `model.safetensors` or `pytorch_model.bin`; else name a single file",
            )
            .into());
        };
        let (weights, ignored) = sorted(&weights)?;
        let config = folder.join("config.json");
        let mut settings = vec![config.clone()];
        let config = told(&config, ClipVisionConfig::from_value(&read_json(&config)?))?;
        let mut processor = ClipImageProcessor::of_side(config.image_size);
        let names = ["preprocessor_config.json", "processor_config.json"];
        let found = names.map(|name| processors.join(name));
        if let Some(file) = found.into_iter().find(|file| file.is_file()) {
            processor = told(&file, ClipImageProcessor::from_value(&read_json(&file)?))?;
            told(&file, processor.check(&config))?;
            settings.push(file);
        }
        Ok(Self {
            path: path.to_owned(),
            config,
            processor,
            weights,
            settings,
            ignored,
        })
    }

    fn open_file(path: &Path) -> Result<Self, PipelineError> {
        let (weights, ignored) = sorted(path)?;
        let config = infer_clip_vision(&weights).map_err(|reason| CheckpointError::Config {
            path: path.to_owned(),
            reason,
        })?;
        Ok(Self {
            path: path.to_owned(),
            processor: ClipImageProcessor::of_side(config.image_size),
            config,
            weights,
            settings: vec![],
            ignored,
        })
    }
}

impl ImageEncoder {
    /// Prepares and encodes pictures.
    ///
    /// # Panics
    /// If there is no picture, or a side of one is 0.
    pub fn encode(&self, pictures: &[&RgbImage], fit: Fit) -> ClipVisionOutput {
        let pixels = self.processor.pixels(pictures, fit, &self.model.device());
        self.model.forward(pixels)
    }

    /// Encodes the grey that is zero behind the normalisation: the unconditional picture of diffusers and tencent's code.
    pub fn mean_grey(&self) -> ClipVisionOutput {
        self.model
            .forward(self.processor.mean_grey(&self.model.device()))
    }

    /// Encodes a black picture: the unconditional one of ComfyUI.
    pub fn black(&self) -> ClipVisionOutput {
        self.model
            .forward(self.processor.black(&self.model.device()))
    }
}

/// Says in which file a setting is wrong.
fn told<T>(path: &Path, result: Result<T, ClipVisionError>) -> Result<T, PipelineError> {
    result.map_err(|source| PipelineError::ImageEncoder {
        path: path.to_owned(),
        source,
    })
}

/// The image encoder's tensors in a file, and the names of those that it does without.
fn sorted(path: &Path) -> Result<(Weights, Vec<String>), CheckpointError> {
    let file = Arc::new(TensorFile::open(path)?);
    let starts = |start: &str| file.names().any(|name| name.starts_with(start));
    if !starts("vision_model.") {
        let found = if starts("visual.") {
            "is a CLIP in OpenCLIP's own names (`visual.…`)"
        } else if starts("image_proj.") || starts("ip_adapter.") {
            "is an IP-Adapter, which is given with `--ip-adapter`"
        } else if starts("text_model.") || starts("embeddings.token_embedding.") {
            "is a text encoder"
        } else if starts("embeddings.patch_embedding.") {
            "is an image encoder without the projection to embeddings (transformers' `CLIPVisionModel`)"
        } else if starts("model.diffusion_model.") {
            "is a whole Stable Diffusion checkpoint"
        } else {
            "is no CLIP image encoder"
        };
        return Err(CheckpointError::NotAModel {
            path: path.to_owned(),
            found: format!(
                "{found}; expected tensors called `vision_model.…` and `visual_projection.weight`, as transformers' \
                 `CLIPVisionModelWithProjection` has them"
            ),
        });
    }
    let (mut names, mut ignored, mut unknown) = (BTreeMap::new(), vec![], vec![]);
    for name in file.names().map(str::to_owned) {
        let text = ["text_projection.weight", "logit_scale"];
        if name.ends_with(".position_ids")
            || name.starts_with("text_model.")
            || text.contains(&name.as_str())
        {
            ignored.push(name);
        } else if name.starts_with("vision_model.") || name == "visual_projection.weight" {
            names.insert(name.clone(), name);
        } else {
            unknown.push(name);
        }
    }
    if !unknown.is_empty() {
        return Err(CheckpointError::UnknownKeys {
            path: path.to_owned(),
            keys: unknown,
        });
    }
    Ok((Weights::renamed(file, names), ignored))
}
