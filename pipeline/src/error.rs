use std::path::PathBuf;

use crate::CheckpointError;

/// Why a model cannot be opened or a picture not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// The checkpoint's files.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The tokenizer or the text encoder's configuration.
    #[error(transparent)]
    Text(#[from] clip_text::Error),
    /// The UNet's configuration.
    #[error("{}: {source}", path.display())]
    Unet {
        /// The model.
        path: PathBuf,
        /// What is wrong.
        source: sd_unet::UNetConfigError,
    },
    /// The VAE's configuration.
    #[error("{}: {source}", path.display())]
    Vae {
        /// The model.
        path: PathBuf,
        /// What is wrong.
        source: sd_vae::VaeConfigError,
    },
    /// The sampler, its schedule or the number of steps.
    #[error(transparent)]
    Sampler(#[from] sd_diffusion::Error),
    /// A LoRA that does not fit the model.
    #[error(transparent)]
    Lora(#[from] lora_core::LoraError),
    /// The image encoder's settings.
    #[error("{}: {source}", path.display())]
    ImageEncoder {
        /// The encoder.
        path: PathBuf,
        /// What is wrong.
        source: clip_vision::ClipVisionError,
    },
    /// A request's value is out of its range.
    #[error("--{option} is {found}; {expected} is expected")]
    Option {
        /// The option's name on the command line.
        option: &'static str,
        /// Its value.
        found: String,
        /// What would do.
        expected: String,
    },
    /// Some number became infinite or none at all.
    #[error(
        "{what} holds NaN or infinity: a weight of the model or of a LoRA is damaged, or its numbers overflow; try --precision f32, another --vae, or download the files again"
    )]
    NotFinite {
        /// Where it was seen.
        what: &'static str,
    },
    /// The caller broke off.
    #[error("stopped")]
    Stopped,
}
