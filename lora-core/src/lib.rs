//! LoRA for burn modules: low-rank weights on linear and convolution layers, and the files in which Stable Diffusion 1.x LoRAs are shared.
//!
//! This crate knows names and no models: a module takes a LoRA when its fields carry the reference's names, as in diffusers' UNet and
//! transformers' CLIP.
//!
//! ```no_run
//! use burn::module::Module;
//! use lora_core::{Component, Lora, LoraError};
//!
//! /// The same model with two LoRAs merged into it; the model given keeps its weights.
//! fn dressed<M: Module>(unet: &M) -> Result<M, LoraError> {
//!     let mira = Lora::open("mira.safetensors")?;
//!     let ink = Lora::open("ink-style.safetensors")?;
//!     let unet = mira.apply(unet.clone(), Component::Unet, 0.8)?;
//!     ink.merge(unet, Component::Unet, 0.4)
//! }
//! ```

mod apply;
mod error;
mod lora;
mod names;
mod peft;
mod stack;
mod summary;
mod train;
mod write;

pub use error::LoraError;
pub use lora::{Hashes, Lora};
pub use names::{Component, Spelling};
pub use sd_kernels::{LowRank, LowRankStack};
pub use summary::{ComponentSummary, Summary};
pub use train::{Factor, FactorSize, attach, factors, kohya_sizes, with_factors};
pub use write::{Dialect, Precision};
