//! Stable Diffusion 1.x from a checkpoint to pictures: opens a diffusers folder or a single file, and composes text encoder, UNet, VAE and sampler.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use burn::tensor::FloatDType;
//! use sd_pipeline::{OpenOptions, Request, StableDiffusion};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let device = parity::device();
//! let model = StableDiffusion::open("realistic-vision.safetensors", &OpenOptions::default(), FloatDType::F32, &device)?;
//! let mira = lora_core::Lora::open("mira.safetensors")?;
//! let model = model.with_lora(&mira, 0.8)?;
//! let request = Request { prompt: "mychar001 reads under a tree".into(), seed: 7, ..Request::default() };
//! let made = model.generate(&request, |_| ControlFlow::Continue(()))?;
//! made.pictures[0].save("mira-reads.png")?;
//! # Ok(())
//! # }
//! ```

mod checkpoint;
mod clip;
mod error;
mod generate;
mod image_encoder;
mod memory;
mod model;
mod portrait;
mod reference;
mod resize;

pub use checkpoint::{
    Checkpoint, CheckpointError, CheckpointOptions, Layout, MatrixType, NumberTypes, Part,
    StoredType, TensorFile, Weights, load_module,
};
pub use clip::{Clip, TextTower};
pub use error::PipelineError;
pub use generate::{Evaluations, Generated, InitImage, Progress, Request, RngKind};
pub use image_encoder::{ImageEncoder, ImageEncoderFile};
pub use memory::{TrainedConvolutions, WeightsMemory};
pub use model::{OpenOptions, StableDiffusion};
pub use portrait::{
    AdapterFile, Faces, HashedFile, ImagePrompt, LazyImageEncoder, Portrait, PortraitCache,
    PortraitNote, Portraits, Reference, mask_of,
};
pub use reference::{Grade, ReferenceCheck, check_reference};
