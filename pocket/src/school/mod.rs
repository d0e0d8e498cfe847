//! How the pocket model was made: every part learned from pictures that the [`puppet`](crate::puppet) draws, with this workspace's own crates.
//!
//! A run depends on its seed and its steps alone: sample `n` is drawn from `n`, a step's gradient is the sum of the same parts in the same
//! order on any machine, and what is saved holds everything that the next step needs.

mod clip;
mod data;
mod export;
mod flat;
mod layout;
mod learn;
mod paint;
mod painter;
mod portrait;
mod vae;
mod words;

pub use clip::{
    Clip, Comparing, Comparison, LOGIT_SCALE, clip_text_config, clip_vision_config,
    measure as measure_clip,
};
pub use data::{Example, Stream, pictures};
pub use export::{ExportError, load_module, read_module, save_module};
pub use flat::{Shape, gradients, shapes, values, with_small_embeddings, with_values};
pub use layout::{SIZE, clip_name, write_clip, write_configs};
pub use learn::{LearnError, Lesson, Pupil, Rule};
pub use paint::{Studio, rgb};
pub use painter::{
    Latents, Painter, Painting, Siblings, scheduler_config, text_config, token_tensor, unet_config,
    velocity_loss,
};
pub use portrait::{Portraitist, Portraying, deepened, resampler_layers};
pub use vae::{Autoencoding, Decoding, measure as measure_vae, vae_config};
pub use words::{POSITIONS, train_tokenizer, training_caption};
