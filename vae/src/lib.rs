//! Stable Diffusion's variational autoencoder, by diffusers' `config.json` and with diffusers' parameter names.
//!
//! ```
//! use burn::tensor::{Distribution, Tensor};
//! use sd_vae::VaeConfig;
//!
//! # let device = parity::device();
//! let config = VaeConfig {
//!     block_out_channels: vec![32, 32, 32, 32],
//!     ..VaeConfig::default()
//! };
//! let vae = config.init(&device);
//! let image = Tensor::<4>::random([1, 3, 64, 96], Distribution::Uniform(-1.0, 1.0), &device);
//! let latent = vae.encode(image).mean;
//! assert_eq!(latent.dims(), [1, 4, 8, 12]);
//! assert_eq!(vae.decode(latent).dims(), [1, 3, 64, 96]);
//! ```

mod config;
mod layers;
mod model;
mod tiles;

pub use config::{VaeConfig, VaeConfigError};
pub use model::{AutoencoderKL, Posterior};
