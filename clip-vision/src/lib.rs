//! CLIP's image encoder and its preprocessing, for burn.
//!
//! ```
//! use clip_vision::{ClipImageProcessor, ClipVisionConfig, Fit};
//! use image::RgbImage;
//!
//! # let device = parity::device();
//! // Random weights of a small size; `ClipVisionConfig::default()` is ViT-H/14, which IP-Adapter uses.
//! let config = ClipVisionConfig {
//!     hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2, image_size: 56, ..Default::default()
//! };
//! let encoder = config.init(&device);
//! let processor = ClipImageProcessor::of_side(config.image_size);
//!
//! let portrait = RgbImage::new(300, 400);
//! let seen = encoder.forward(processor.pixels(&[&portrait], Fit::Crop, &device));
//! assert_eq!(seen.image_embeds.dims(), [1, 1024]);
//! assert_eq!(seen.penultimate.dims(), [1, 1 + 4 * 4, 32]);
//! ```

mod error;
mod json;
mod model;
mod processor;
mod resample;

pub use error::{ClipVisionError, Result};
pub use model::{ClipVisionConfig, ClipVisionModelWithProjection, ClipVisionOutput, HiddenAct};
pub use processor::{ClipImageProcessor, Fit, Resize, on_white};
