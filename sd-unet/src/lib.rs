//! The UNet of Stable Diffusion, by diffusers' `config.json` and with diffusers' parameter names.
//!
//! It knows nothing of LoRA, IP-Adapter or samplers: adapters reach it as reparameterized weights and as [`Conditioning`],
//! whose [`ImageStream`]s are keys and values that the cross-attention layers attend to beside the text's.
//!
//! ```
//! use burn::tensor::{Distribution, Tensor};
//! use sd_unet::{Conditioning, UNetConfig};
//!
//! # let device = parity::device();
//! let config = UNetConfig {
//!     block_out_channels: vec![32, 32, 32, 32],
//!     ..UNetConfig::default()
//! };
//! let unet = config.init(&device);
//! let latent = Tensor::<4>::random([2, 4, 8, 8], Distribution::Default, &device);
//! let words = Tensor::<3>::random([2, 77, 768], Distribution::Default, &device);
//! let noise = unet.forward(latent, 999.0, &Conditioning::text(words));
//! assert_eq!(noise.dims(), [2, 4, 8, 8]);
//! ```
//!
//! A checkpoint in diffusers' layout loads with burn's own store and no name map; see `sd-pipeline` for a reader that knows every layout.

mod attention;
mod blocks;
mod checkpointing;
mod conditioning;
mod config;
mod merging;
mod model;
mod resnet;
mod time;

pub use conditioning::{Conditioning, ImageStream, KeyValue, Mask};
pub use config::{
    CrossAttention, DownBlockType, PerAxis, PerLevel, UNetConfig, UNetConfigError, UpBlockType,
};
pub use merging::TokenMerging;
pub use model::{DeepFeature, UNet2DConditionModel};
pub use time::Timesteps;
