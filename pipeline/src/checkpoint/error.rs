use std::path::PathBuf;

use super::Part;

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// There is nothing at this path.
    #[error("`{}` does not exist: expected a diffusers folder, or a `.safetensors` or `.ckpt` file", path.display())]
    NotFound {
        /// The path as it was given.
        path: PathBuf,
    },
    /// The operating system refuses to read.
    #[error("`{}` cannot be read", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: std::io::Error,
    },
    /// The file or folder is of another kind than a model.
    #[error("`{}` {found}", path.display())]
    NotAModel {
        /// The file or folder.
        path: PathBuf,
        /// What it is, and what to do.
        found: String,
    },
    /// The file ends before its own table of contents says it does.
    #[error("`{}` is cut short: its header promises {expected} bytes, it has {found}; download it again", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes that the header promises.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// The file contradicts itself.
    #[error("`{}` is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it contradicts itself.
        reason: String,
    },
    /// The pickle asks for a call that no weights need. Nothing in a pickle is ever called here.
    #[error(
        "`{}` asks Python to call `{call}`, which weights have no use for. Nothing of it was run; the file is refused: get the \
         weights as safetensors from a source you trust",
        path.display()
    )]
    UnsafePickle {
        /// The file.
        path: PathBuf,
        /// Module and name of what it would call.
        call: String,
    },
    /// A sound file of another model.
    #[error("`{}` is {found}; expected a Stable Diffusion 1.x text-to-image model", path.display())]
    Architecture {
        /// The file or folder.
        path: PathBuf,
        /// What it is.
        found: String,
    },
    /// The model lacks one of its parts.
    #[error("`{}` has no {part}: {advice}", path.display())]
    MissingPart {
        /// The file or folder.
        path: PathBuf,
        /// What is missing.
        part: Part,
        /// What to do.
        advice: String,
    },
    /// A configuration that cannot be read, or that cannot be told from the weights.
    #[error("`{}`: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Field or key, expected and found.
        reason: String,
    },
    /// Tensors that have no place in the model.
    #[error(
        "`{}` has {} of unknown use: {}; no tensor is left out silently, so the file is refused",
        path.display(), count(keys.len()), listed(keys)
    )]
    UnknownKeys {
        /// The file.
        path: PathBuf,
        /// The tensors' names in the file, sorted.
        keys: Vec<String>,
    },
    /// Parameters that the file does not have.
    #[error("`{}` lacks {} of the model: {}", path.display(), count(keys.len()), listed(keys))]
    MissingKeys {
        /// The file.
        path: PathBuf,
        /// The names that the tensors would have, sorted.
        keys: Vec<String>,
    },
    /// A tensor of another shape than the model's parameter.
    #[error("`{}`: `{key}` has shape {found:?}, expected {expected:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        key: String,
        /// The parameter's shape, in the order of the file.
        expected: Vec<usize>,
        /// The tensor's shape.
        found: Vec<usize>,
    },
    /// A tensor whose values are no floating-point numbers that can be read.
    #[error("`{}`: `{key}` holds {found} values, expected f16, bf16, f32 or f64", path.display())]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        key: String,
        /// The type of its values.
        found: String,
    },
}

/// How many names an error message lists.
const LISTED: usize = 5;

fn count(tensors: usize) -> String {
    match tensors {
        1 => "one tensor".to_owned(),
        many => format!("{many} tensors"),
    }
}

fn listed(keys: &[String]) -> String {
    let mut text = String::new();
    for key in keys.iter().take(LISTED) {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push('`');
        // A hostile name may be long or hold control characters.
        text.extend(key.chars().take(120).flat_map(char::escape_debug));
        text.push('`');
    }
    if keys.len() > LISTED {
        text.push_str(&format!(" and {} more", keys.len() - LISTED));
    }
    text
}
