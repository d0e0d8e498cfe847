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
    /// An IP-Adapter that cannot be used.
    #[error(transparent)]
    IpAdapter(#[from] ip_adapter::IpAdapterError),
    /// An adapter that sees pictures, and no encoder for it.
    #[error(
        "{} is a {variant} adapter, which sees pictures through an image encoder; give {} by --image-encoder",
        adapter.display(), encoder.unwrap_or("the one that it was trained with")
    )]
    NoEncoder {
        /// The adapter.
        adapter: PathBuf,
        /// Its kind.
        variant: String,
        /// The encoder that it wants, if that is a known one.
        encoder: Option<&'static str>,
    },
    /// An encoder for an adapter that sees no pictures.
    #[error(
        "{} is a {variant} adapter, which sees face embeddings and no pictures; leave --image-encoder {} out",
        adapter.display(), encoder.display()
    )]
    UselessEncoder {
        /// The adapter.
        adapter: PathBuf,
        /// Its kind.
        variant: String,
        /// The encoder.
        encoder: PathBuf,
    },
    /// The encoder is gone, and what is asked for was not made while it was there.
    #[error(
        "--image-encoder {}: does not exist, and the cache has no portrait of this picture by this adapter; give the encoder",
        path.display()
    )]
    EncoderAbsent {
        /// Where it was.
        path: PathBuf,
    },
    /// A reference has not what the adapter takes.
    #[error("{} is a {variant} adapter, which takes {expected}; {found} was given", adapter.display())]
    Reference {
        /// The adapter.
        adapter: PathBuf,
        /// Its kind.
        variant: String,
        /// What it takes.
        expected: String,
        /// What it was given.
        found: String,
    },
    /// A file of face embeddings that holds something else.
    #[error("{}: {reason}", path.display())]
    Face {
        /// The file.
        path: PathBuf,
        /// What was expected and found.
        reason: String,
    },
    /// The folder of portraits cannot be used.
    #[error("{}: this folder cannot be used for portraits ({source}); give another one", folder.display())]
    Cache {
        /// The folder.
        folder: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// A file cannot be read.
    #[error("{}: cannot be read ({source})", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
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
