//! Trains a character LoRA for Stable Diffusion 1.5: a folder of pictures and captions in, a LoRA in kohya's format out.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use burn::tensor::Device;
//! use lora_core::{Dialect, Precision};
//! use lora_trainer::{Base, Dataset, TrainConfig, Trainer};
//!
//! # fn train(base: Base, device: &Device) -> Result<(), Box<dyn std::error::Error>> {
//! let config = TrainConfig { trigger: "mychar001".into(), ..TrainConfig::default() };
//! let dataset = Dataset::open("pictures", &config.trigger)?;
//! let mut run = Trainer::new(base, &dataset, config, device, |_, _| ControlFlow::Continue(()))?;
//! while !run.is_done() {
//!     let report = run.step()?;
//!     println!("{} {}", report.step, report.loss);
//! }
//! run.lora("mira")?.save("mira.safetensors", Dialect::Kohya, Precision::F16, &run.metadata("mira"))?;
//! # Ok(())
//! # }
//! ```

mod config;
mod dataset;
mod error;
mod factors;
mod loss;
mod metadata;
mod random;
mod state;
mod trainer;

pub use config::{LrScheduler, TrainConfig, auto_steps};
pub use dataset::{CaptionSource, Dataset, Sample};
pub use error::TrainError;
pub use loss::{Batch, denoising_loss};
pub use trainer::{Base, StepReport, Trainer};
