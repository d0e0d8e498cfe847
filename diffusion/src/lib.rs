//! Noise schedules, samplers, classifier-free guidance and torch's noise, for models on burn.
//!
//! Everything agrees with diffusers to f32 rounding: the same seed, steps and configuration lead to the same latent.
//!
//! ```
//! use burn::tensor::Tensor;
//! use sd_diffusion::{Noise, Sampler, SamplerKind, Schedule, SchedulerConfig, TorchRng, guide};
//!
//! # fn unet(latent: Tensor<4>, _timestep: f32) -> Tensor<4> { latent * 0.1 }
//! # let device = parity::device();
//! let config = SchedulerConfig::default(); // Stable Diffusion 1.5, or SchedulerConfig::from_json(…)
//! let mut sampler = Sampler::new(SamplerKind::Dpmpp2m, Schedule::Karras, &config)?;
//! let mut rng = TorchRng::new(42);
//!
//! let steps = sampler.steps(20)?;
//! let mut latent = sampler.initial(rng.randn_tensor([1, 4, 8, 8], &device));
//! for step in &steps {
//!     let scaled = sampler.scale(latent.clone(), step);
//!     let predicted = unet(scaled.repeat_dim(0, 2), step.timestep);
//!     latent = sampler.step(latent, guide(predicted, 7.5), step, &mut rng);
//! }
//! # assert_eq!(latent.dims(), [1, 4, 8, 8]);
//! # Ok::<(), sd_diffusion::Error>(())
//! ```

mod config;
mod error;
mod grid;
mod guidance;
mod noise;
mod noise_schedule;
mod philox_rng;
mod sampler;
mod solver;
mod torch_rng;

pub use config::{
    BetaSchedule, FinalSigma, PredictionType, SchedulerConfig, SolverType, TimestepSpacing,
};
pub use error::Error;
pub use guidance::guide;
pub use noise::Noise;
pub use noise_schedule::NoiseSchedule;
pub use philox_rng::PhiloxRng;
pub use sampler::{Sampler, SamplerKind, Schedule, Step};
pub use torch_rng::TorchRng;
