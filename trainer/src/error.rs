use std::path::PathBuf;

/// Why a LoRA could not be trained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// An option is out of its range.
    #[error("--{option} is {found}; {expected} is expected")]
    Option {
        /// The option's name on the command line.
        option: &'static str,
        /// Its value.
        found: String,
        /// What would do.
        expected: &'static str,
    },
    /// A file or folder cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("{}: cannot be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The folder holds no picture.
    #[error("{}: no picture in this folder; .png, .jpg, .jpeg, .webp or .bmp files of the character are expected", folder.display())]
    NoPictures {
        /// The folder.
        folder: PathBuf,
    },
    /// Two pictures differ in their ending alone.
    #[error("{} and {} would share one caption file; rename one of them", first.display(), second.display())]
    SharedCaption {
        /// One picture.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A file with a picture's ending is none.
    #[error("{}: is no picture that can be read ({source}); replace it or take it out of the folder", path.display())]
    Picture {
        /// The file.
        path: PathBuf,
        /// Why.
        source: image::ImageError,
    },
    /// A picture has too little on its short side.
    #[error("{}: {width} × {height} pixels are too long and thin to be cut to a square; cut the picture yourself", path.display())]
    Thin {
        /// The file.
        path: PathBuf,
        /// Its width in pixels.
        width: u32,
        /// Its height in pixels.
        height: u32,
    },
    /// A caption is not in UTF-8.
    #[error("{}: this caption is no UTF-8 text; save it as UTF-8", path.display())]
    CaptionEncoding {
        /// The file.
        path: PathBuf,
    },
    /// The picture's size does not fit the model.
    #[error("--resolution is {found}; a multiple of {cell} up to {most} is expected")]
    Resolution {
        /// The resolution asked for.
        found: usize,
        /// What it must be a multiple of.
        cell: usize,
        /// The largest.
        most: usize,
    },
    /// The loss is no number any more.
    #[error(
        "step {step}: the loss is {loss}; start again with a lower --learning-rate (it is {learning_rate:e}) and --force; if that does not help, a weight of the model is damaged"
    )]
    Diverged {
        /// The step, counted from 1.
        step: usize,
        /// The loss.
        loss: f32,
        /// The peak learning rate.
        learning_rate: f64,
    },
    /// A saved state does not belong to this run, or is damaged.
    #[error("{}: {reason}; start again without --resume, or give the options of the run that is to go on", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The caller broke off.
    #[error("stopped")]
    Stopped,
    /// The noise schedule of the model cannot be used.
    #[error("{0}")]
    Schedule(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The LoRA cannot be made or saved.
    #[error(transparent)]
    Lora(#[from] lora_core::LoraError),
}
