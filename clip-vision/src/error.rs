/// What can be wrong with the configuration files of an image encoder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClipVisionError {
    /// A text is not the JSON it should be.
    #[error(
        "expected {expected} as a JSON object; the file may be cut short or be of another kind"
    )]
    Json {
        /// What it should hold.
        expected: &'static str,
        /// Where and why reading stopped; none where it is JSON, but no object.
        #[source]
        source: Option<serde_json::Error>,
    },
    /// A value that no image encoder of CLIP has, or that asks for something that is not computed here.
    #[error("`{key}` is {found}, expected {expected}")]
    Value {
        /// The key, with the keys of the objects that it is in.
        key: String,
        /// What stands there.
        found: String,
        /// What may stand there.
        expected: String,
    },
    /// The processor makes pictures of another size than the encoder takes.
    #[error(
        "the image processor makes pictures of {processor}×{processor} pixels, and the encoder's `image_size` is {encoder}; they do not belong together"
    )]
    Size {
        /// The processor's side, in pixels.
        processor: usize,
        /// The encoder's side, in pixels.
        encoder: usize,
    },
}

/// A result with this crate's [`ClipVisionError`].
pub type Result<T> = std::result::Result<T, ClipVisionError>;
