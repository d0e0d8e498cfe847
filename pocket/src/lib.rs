//! A model small enough to carry along, and all that it takes to make it.
//!
//! So far it holds the [`puppet`]: cartoon portraits, drawn from a seed, with captions.

#[cfg(feature = "train")]
pub mod examiners;
mod files;
//pub mod model;
pub mod puppet;
#[cfg(feature = "train")]
pub mod school;
