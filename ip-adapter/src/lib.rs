//! IP-Adapter (Ye et al. 2023): a reference picture steers Stable Diffusion 1.x, with no training.
//!
//! An image encoder makes [`Features`] of a picture, [`IpAdapter`] makes tokens of them and, for each cross-attention layer of the UNet,
//! keys and values, which go into the UNet's conditioning as an [`ImageStream`](sd_unet::ImageStream). Which encoder made the features,
//! this crate does not know; it knows which one an adapter needs.
//!
//! ```no_run
//! use burn::tensor::{Device, Tensor};
//! use ip_adapter::{Features, IpAdapter, IpAdapterError, Options, Uncond, pair};
//! use sd_unet::{Conditioning, UNet2DConditionModel};
//!
//! /// Words, without and with the prompt, and a portrait.
//! fn steered(
//!     unet: &UNet2DConditionModel,
//!     words: Tensor<3>,    // [2, tokens, 768]
//!     portrait: Tensor<2>, // [1, 1024], an image embedding
//!     device: &Device,
//! ) -> Result<Conditioning, IpAdapterError> {
//!     let adapter = IpAdapter::open("ip-adapter_sd15.safetensors", &Options::default(), device)?;
//!     adapter.check(&unet.cross_attentions())?;
//!     let seen = Features { pooled: Some(portrait), ..Features::default() };
//!     let tokens = pair(
//!         adapter.unconditional(Uncond::Reference, &seen, None)?,
//!         adapter.image_tokens(&seen)?,
//!     );
//!     Ok(Conditioning::text(words).with(adapter.stream(tokens).weighted(0.6)))
//! }
//! ```

mod adapter;
mod error;
mod features;
mod file;
mod layout;
mod projection;
mod weights;

pub use adapter::{FaceIdPlus, IpAdapter, LowRank, Options, Variant};
pub use error::IpAdapterError;
pub use features::{BlankPicture, EncoderInput, Features, Uncond, concat, pair};
pub use weights::LayerWeights;
