//! A model small enough to carry along, and all that it takes to make it.
//!
//! - [`model`]: the model itself, a Stable Diffusion 1.x of 96 pixels with the encoders that score it;
//! - [`puppet`]: what it learned from, cartoon portraits drawn from a seed, with captions;
//! - `school` and `examiners`, with the feature `train`: how it learned, and who judges it.

#[cfg(feature = "train")]
pub mod examiners;
mod files;
pub mod model;
pub mod puppet;
#[cfg(feature = "train")]
pub mod school;
