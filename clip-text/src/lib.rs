//! CLIP's tokenizer and text encoder, and prompts in A1111's grammar.
//!
//! ```
//! use clip_text::{ClipTextConfig, EncodeOptions, Prompt, Tokenizer, encode};
//!
//! # let device = parity::device();
//! let tokenizer = Tokenizer::built_in();
//! // Random weights of a small size; `ClipTextConfig::default()` is Stable Diffusion 1.x.
//! let config = ClipTextConfig { hidden_size: 24, intermediate_size: 48, num_hidden_layers: 2, ..Default::default() };
//! tokenizer.check(&config)?;
//! let text = config.init(&device);
//!
//! let prompt = Prompt::parse("a (red:1.3) cat under a tree");
//! let negative = Prompt::parse("");
//! let words = encode(&text, &tokenizer, &[&negative, &prompt], &EncodeOptions::default());
//! assert_eq!(words.hidden.dims(), [2, 77, 24]);
//! # Ok::<(), clip_text::Error>(())
//! ```

mod encode;
mod error;
mod model;
mod prompt;
mod table;
mod tokenizer;

pub use encode::{EncodeOptions, Encoded, encode};
pub use error::{Error, Result};
pub use model::{
    ClipTextConfig, ClipTextModel, ClipTextModelWithProjection, ClipTextProjectionConfig, HiddenAct,
};
pub use prompt::{Chunk, Chunking, Chunks, Prompt, Weighted};
pub use tokenizer::Tokenizer;
