//! Checkpoint files: what is in them, and how their tensors come into models.

mod convert;
mod error;
mod file;
mod infer;
mod ldm;
mod load;
mod pickle;
#[cfg(test)]
mod tests;
mod unpickle;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::module::Module;
use sd_unet::{PerAxis, UNetConfig};
use sd_vae::VaeConfig;
use serde_json::Value;

pub use convert::StoredType;
pub use error::CheckpointError;
pub use file::TensorFile;
pub use load::{MatrixType, NumberTypes, Weights, load_module};

pub(crate) use file::read_json;
pub(crate) use infer::clip_vision as infer_clip_vision;

/// A component of Stable Diffusion that has weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The denoiser, `UNet2DConditionModel`.
    Unet,
    /// Pictures to latents and back, `AutoencoderKL`.
    Vae,
    /// The words' encoder, `CLIPTextModel`.
    TextEncoder,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Unet, Self::Vae, Self::TextEncoder];

    /// The component's folder in a diffusers folder.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Unet => "unet",
            Self::Vae => "vae",
            Self::TextEncoder => "text_encoder",
        }
    }

    fn class(self) -> &'static str {
        match self {
            Self::Unet => "UNet2DConditionModel",
            Self::Vae => "AutoencoderKL",
            Self::TextEncoder => "CLIPTextModel",
        }
    }

    /// The file names of the weights, without ending: of safetensors and of pickles.
    fn stems(self) -> [(&'static str, &'static str); 2] {
        match self {
            Self::TextEncoder => [("model", "safetensors"), ("pytorch_model", "bin")],
            _ => ["safetensors", "bin"].map(|ending| ("diffusion_pytorch_model", ending)),
        }
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unet => "UNet",
            Self::Vae => "VAE",
            Self::TextEncoder => "text encoder",
        })
    }
}

/// How a checkpoint is opened.
#[derive(Clone, Debug, Default)]
pub struct CheckpointOptions {
    /// A VAE in place of the checkpoint's own, which may then be missing: a single file under the original's or diffusers' names, or a
    /// folder with its `config.json`.
    pub vae: Option<PathBuf>,
}

/// In what form a checkpoint comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A folder for each component, with its `config.json`.
    DiffusersFolder,
    /// All components in one file, under the names of the original latent-diffusion code.
    SingleFile,
}

/// A Stable Diffusion 1.x checkpoint, opened: configurations and names are read and checked, tensors are not.
///
/// ```no_run
/// use burn::tensor::FloatDType;
/// use sd_pipeline::{Checkpoint, CheckpointError, CheckpointOptions, Part};
///
/// # fn load<M: burn::module::Module>(made_by: fn(&serde_json::Value) -> M) -> Result<(), CheckpointError> {
/// let checkpoint = Checkpoint::open("realistic-vision.safetensors", &CheckpointOptions::default())?;
/// let unet = made_by(checkpoint.config(Part::Unet));
/// let unet = checkpoint.load(Part::Unet, unet, FloatDType::F32)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    layout: Layout,
    unet: Component,
    vae: Component,
    text_encoder: Component,
    tokenizer: Option<PathBuf>,
    scheduler: Option<Value>,
    ignored: Vec<String>,
}

#[derive(Debug)]
struct Component {
    config: Value,
    weights: Weights,
}

impl Checkpoint {
    /// Opens a diffusers folder or a single file.
    ///
    /// # Errors
    /// If there is no model, if it is another than Stable Diffusion 1.x for text to image, if it lacks a part, or if it has tensors of
    /// unknown use.
    pub fn open(
        path: impl AsRef<Path>,
        options: &CheckpointOptions,
    ) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        let vae = options.vae.as_deref().map(open_vae).transpose()?;
        let checkpoint = if path.is_dir() {
            Self::open_folder(path, vae)?
        } else {
            Self::open_file(path, vae)?
        };
        checkpoint.check()?;
        Ok(checkpoint)
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Folder or single file.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// A component's `config.json`: the folder's own, or one in the same form that was told from names and shapes.
    pub fn config(&self, part: Part) -> &Value {
        &self.component(part).config
    }

    /// A component's tensors.
    pub fn weights(&self, part: Part) -> &Weights {
        &self.component(part).weights
    }

    /// The folder with the tokenizer's files. A single file has none: it means CLIP's own vocabulary.
    pub fn tokenizer(&self) -> Option<&Path> {
        self.tokenizer.as_deref()
    }

    /// The folder's `scheduler_config.json`, if any.
    pub fn scheduler_config(&self) -> Option<&Value> {
        self.scheduler.as_ref()
    }

    /// Width and height, in pixels, of the pictures that the model was trained on, which are the best to draw: the UNet's `sample_size` in
    /// the VAE's cells. None where its files do not say.
    ///
    /// As in diffusers, 64 stands for a smaller number where the file is of a diffusers before 0.9, which wrote wrong ones.
    pub fn trained_size(&self) -> Option<[usize; 2]> {
        let config = self.config(Part::Unet);
        let cell = VaeConfig::from_value(self.config(Part::Vae))
            .ok()?
            .pixels_per_cell();
        // "0.8.1" and the like.
        let wrong = config["_diffusers_version"]
            .as_str()
            .and_then(|version| version.strip_prefix("0.")?.split('.').next()?.parse().ok())
            .is_some_and(|minor: u32| minor < 9);
        let [height, width] = match UNetConfig::from_value(config).ok()?.sample_size? {
            PerAxis::Square(side) if wrong => [side.max(64); 2],
            PerAxis::Square(side) => [side; 2],
            PerAxis::HeightWidth(height, width) => [height, width],
        };
        let pixels = |cells: usize| cells.checked_mul(cell);
        Some([pixels(width)?, pixels(height)?])
    }

    /// Tensors that were left out because no picture needs them, such as the training's moving average, by their names in the files.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// Fills a freshly made module with a component's weights, in the number types asked for. See [`load_module`].
    ///
    /// # Errors
    /// If a parameter has no tensor, a tensor no parameter, or the two have other shapes; if reading fails.
    pub fn load<M: Module>(
        &self,
        part: Part,
        module: M,
        types: impl Into<NumberTypes>,
    ) -> Result<M, CheckpointError> {
        load_module(module, self.weights(part), types)
    }

    fn component(&self, part: Part) -> &Component {
        match part {
            Part::Unet => &self.unet,
            Part::Vae => &self.vae,
            Part::TextEncoder => &self.text_encoder,
        }
    }

    fn open_folder(path: &Path, vae: Option<Opened>) -> Result<Self, CheckpointError> {
        let index = path.join("model_index.json");
        if index.is_file() {
            let index_json = file::read_json(&index)?;
            if !index_json.is_object() {
                return Err(CheckpointError::Config {
                    path: index,
                    reason: "expected an object that names the model's parts".to_owned(),
                });
            }
            let class = index_json
                .get("_class_name")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let known = class.is_empty()
                || class == "LatentConsistencyModelPipeline"
                || class.starts_with("StableDiffusion")
                    && !class.contains("XL")
                    && !class.starts_with("StableDiffusion3");
            if !known {
                return Err(CheckpointError::Architecture {
                    path: path.to_owned(),
                    found: format!("a model for diffusers' `{class}`"),
                });
            }
        } else if !path.join(Part::Unet.folder()).is_dir() {
            return Err(no_model_folder(path));
        }
        let mut ignored = Vec::new();
        let mut open = |part: Part| -> Result<Component, CheckpointError> {
            let folder = path.join(part.folder());
            if !folder.is_dir() {
                return Err(CheckpointError::MissingPart {
                    path: path.to_owned(),
                    part,
                    advice: match part {
                        Part::Vae => {
                            "the folder `vae` is missing; give one with `--vae`, a file or a folder"
                                .to_owned()
                        }
                        _ => format!(
                            "the folder `{}` is missing; download the whole model",
                            part.folder()
                        ),
                    },
                });
            }
            let opened = open_component(part, &folder)?;
            ignored.extend(opened.ignored);
            Ok(opened.component)
        };
        let unet = open(Part::Unet)?;
        let text_encoder = open(Part::TextEncoder)?;
        let vae = match vae {
            Some(vae) => vae.component,
            None => open(Part::Vae)?,
        };
        let scheduler = path.join("scheduler").join("scheduler_config.json");
        let tokenizer = path.join("tokenizer");
        Ok(Self {
            path: path.to_owned(),
            layout: Layout::DiffusersFolder,
            unet,
            vae,
            text_encoder,
            tokenizer: tokenizer.is_dir().then_some(tokenizer),
            scheduler: match scheduler.is_file() {
                true => Some(file::read_json(&scheduler)?),
                false => None,
            },
            ignored,
        })
    }

    fn open_file(path: &Path, vae: Option<Opened>) -> Result<Self, CheckpointError> {
        let file = Arc::new(TensorFile::open(path)?);
        let architecture = |found: &str| CheckpointError::Architecture {
            path: path.to_owned(),
            found: found.to_owned(),
        };
        let keys: Vec<&str> = file.names().collect();
        if let Some(found) = ldm::other_architecture(keys.iter().copied()) {
            return Err(architecture(found));
        }
        let mut sorted = ldm::sort(keys.iter().copied());
        if sorted.unet.is_empty() {
            return Err(architecture(match ldm::lone_part(keys.iter().copied()) {
                Some(part) => part,
                None => {
                    "no checkpoint that is known here: none of its tensors is called `model.diffusion_model.…`"
                }
            }));
        }
        if !sorted.unknown.is_empty() {
            return Err(CheckpointError::UnknownKeys {
                path: path.to_owned(),
                keys: sorted.unknown,
            });
        }
        let mut take = |part: Part| -> Result<Component, CheckpointError> {
            let names = std::mem::take(sorted.part(part));
            if names.is_empty() {
                return Err(CheckpointError::MissingPart {
                    path: path.to_owned(),
                    part,
                    advice: match part {
                        Part::Vae => "it was saved without one; give one with `--vae`, such as vae-ft-mse-840000-ema-pruned.safetensors",
                        _ => "it was saved without one; get the full checkpoint",
                    }
                    .to_owned(),
                });
            }
            inferred(part, path, Weights::renamed(file.clone(), names))
        };
        let unet = take(Part::Unet)?;
        let text_encoder = take(Part::TextEncoder)?;
        let vae = match vae {
            Some(vae) => {
                let own = std::mem::take(&mut sorted.vae);
                sorted.ignored.extend(own.into_values());
                vae.component
            }
            None => take(Part::Vae)?,
        };
        Ok(Self {
            path: path.to_owned(),
            layout: Layout::SingleFile,
            unet,
            vae,
            text_encoder,
            tokenizer: None,
            scheduler: None,
            ignored: sorted.ignored,
        })
    }

    /// Whether the components are Stable Diffusion 1.x's and fit each other.
    fn check(&self) -> Result<(), CheckpointError> {
        let number = |part: Part, field: &str, default: u64| {
            self.config(part)
                .get(field)
                .map_or(Some(default), Value::as_u64)
        };
        let architecture = |found: String| {
            Err(CheckpointError::Architecture {
                path: self.path.clone(),
                found,
            })
        };
        let latent = number(Part::Vae, "latent_channels", 4);
        match (number(Part::Unet, "in_channels", 4), latent) {
            (Some(9), Some(4)) => {
                return architecture(
                    "an inpainting model (its UNet takes 9 channels: latent, mask, masked latent)"
                        .to_owned(),
                );
            }
            (Some(8), Some(4)) => {
                return architecture(
                    "a model that edits pictures by instruction (its UNet takes 8 channels)"
                        .to_owned(),
                );
            }
            (Some(takes), Some(gives)) if takes != gives => {
                return architecture(format!(
                    "a UNet for latents of {takes} channels, with a VAE that makes {gives}"
                ));
            }
            _ => {}
        }
        let (wants, gives) = (
            number(Part::Unet, "cross_attention_dim", 1280),
            number(Part::TextEncoder, "hidden_size", 512),
        );
        match (wants, gives) {
            (Some(wants), Some(gives)) if wants != gives => architecture(format!(
                "a UNet for text embeddings of {wants} channels, with a text encoder that makes {gives}"
            )),
            _ => Ok(()),
        }
    }
}

/// A component and what was left out of its file.
struct Opened {
    component: Component,
    ignored: Vec<String>,
}

fn inferred(part: Part, path: &Path, weights: Weights) -> Result<Component, CheckpointError> {
    match infer::config(part, &weights) {
        Ok(config) => Ok(Component { config, weights }),
        Err(reason) => Err(CheckpointError::Config {
            path: path.to_owned(),
            reason,
        }),
    }
}

/// Opens a component's folder: `config.json` and the weights beside it.
fn open_component(part: Part, folder: &Path) -> Result<Opened, CheckpointError> {
    let config_path = folder.join("config.json");
    let config = file::read_json(&config_path)?;
    let class = match part {
        Part::TextEncoder => config.get("architectures").and_then(|names| names.get(0)),
        _ => config.get("_class_name"),
    };
    let class = class.and_then(Value::as_str).unwrap_or(part.class());
    // With projection, it is the same encoder and a matrix that Stable Diffusion does not use.
    if class != part.class()
        && !(part == Part::TextEncoder && class == "CLIPTextModelWithProjection")
    {
        return Err(CheckpointError::Architecture {
            path: config_path,
            found: format!(
                "the configuration of a `{class}`, where a `{}` belongs",
                part.class()
            ),
        });
    }
    if !config.is_object() {
        return Err(CheckpointError::Config {
            path: config_path,
            reason: "expected a JSON object".to_owned(),
        });
    }
    let Some(weights) = weights_file(part, folder) else {
        let [(stem, ending), (other_stem, other_ending)] = part.stems();
        return Err(CheckpointError::MissingPart {
            path: folder.to_owned(),
            part,
            advice: format!(
                "expected `{stem}.{ending}` or `{other_stem}.{other_ending}` in it; download the whole folder"
            ),
        });
    };
    let file = Arc::new(TensorFile::open(weights)?);
    let sorted = ldm::sort_part(part, file.names());
    let (names, ignored) = known(part, &file, sorted)?;
    Ok(Opened {
        component: Component {
            config,
            weights: Weights::renamed(file, names),
        },
        ignored,
    })
}

/// The names of a component, where the file has no tensor of unknown use.
fn known(
    part: Part,
    file: &TensorFile,
    mut sorted: ldm::Sorted,
) -> Result<(ldm::Names, Vec<String>), CheckpointError> {
    if !sorted.unknown.is_empty() {
        return Err(CheckpointError::UnknownKeys {
            path: file.path().to_owned(),
            keys: sorted.unknown,
        });
    }
    Ok((std::mem::take(sorted.part(part)), sorted.ignored))
}

/// The file with a component's weights.
fn weights_file(part: Part, folder: &Path) -> Option<PathBuf> {
    weights_in(folder, part.stems())
}

/// The file of a folder that has weights, by its name without ending, and its ending. Safetensors go before pickles, and the plain file before
/// the variants.
pub(crate) fn weights_in(folder: &Path, stems: [(&str, &str); 2]) -> Option<PathBuf> {
    for (stem, ending) in stems {
        let plain = [
            format!("{stem}.{ending}"),
            format!("{stem}.{ending}.index.json"),
        ];
        let variants = ["fp16", "bf16", "non_ema"].into_iter().flat_map(|variant| {
            [
                format!("{stem}.{variant}.{ending}"),
                format!("{stem}.{ending}.index.{variant}.json"),
                format!("{stem}.{variant}.{ending}.index.json"),
            ]
        });
        let found = plain
            .into_iter()
            .chain(variants)
            .map(|name| folder.join(name))
            .find(|path| path.is_file());
        if found.is_some() {
            return found;
        }
    }
    None
}

/// Opens what `--vae` names.
fn open_vae(path: &Path) -> Result<Opened, CheckpointError> {
    if path.is_dir() {
        let inner = path.join(Part::Vae.folder());
        return match (path.join("config.json").is_file(), inner.is_dir()) {
            (true, _) => open_component(Part::Vae, path),
            (false, true) => open_component(Part::Vae, &inner),
            (false, false) => Err(CheckpointError::NotAModel {
                path: path.to_owned(),
                found: "is no VAE: expected a folder with `config.json` and `diffusion_pytorch_model.safetensors`, or a file".to_owned(),
            }),
        };
    }
    let file = Arc::new(TensorFile::open(path)?);
    let whole = file
        .names()
        .any(|name| name.starts_with("model.diffusion_model."));
    let sorted = if whole {
        // The VAE of another whole checkpoint.
        let mut sorted = ldm::sort(file.names());
        sorted
            .unknown
            .retain(|key| key.starts_with("first_stage_model."));
        sorted
    } else {
        let vae = ["decoder.", "first_stage_model.decoder."];
        if !file
            .names()
            .any(|name| vae.iter().any(|start| name.starts_with(start)))
        {
            let found = ldm::other_architecture(file.names());
            return Err(CheckpointError::NotAModel {
                path: path.to_owned(),
                found: format!(
                    "is no VAE but {}: expected tensors called `decoder.…` or `first_stage_model.decoder.…`",
                    found.unwrap_or("something else")
                ),
            });
        }
        ldm::sort_part(Part::Vae, file.names())
    };
    let (names, ignored) = known(Part::Vae, &file, sorted)?;
    if names.is_empty() {
        return Err(CheckpointError::MissingPart {
            path: path.to_owned(),
            part: Part::Vae,
            advice: "the checkpoint given as `--vae` was saved without one".to_owned(),
        });
    }
    Ok(Opened {
        component: inferred(Part::Vae, path, Weights::renamed(file, names))?,
        ignored,
    })
}

/// Says what a folder without a model is.
fn no_model_folder(path: &Path) -> CheckpointError {
    let mut models: Vec<String> = std::fs::read_dir(path)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".safetensors") || name.ends_with(".ckpt"))
        .collect();
    models.sort();
    let found = if path.join("config.json").is_file() {
        "is a single component, not a whole model: expected the folder above it, with `model_index.json`".to_owned()
    } else if let Some(model) = models.first() {
        format!(
            "is no diffusers folder: it has no `model_index.json` and no `unet`; did you mean the file `{model}` in it?"
        )
    } else {
        "is no model: expected a diffusers folder with `model_index.json`, `unet`, `vae` and `text_encoder`, or a single file".to_owned()
    };
    CheckpointError::NotAModel {
        path: path.to_owned(),
        found,
    }
}
