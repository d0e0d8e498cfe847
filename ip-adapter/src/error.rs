use std::path::PathBuf;

/// Why an IP-Adapter cannot be read or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IpAdapterError {
    /// The operating system refuses.
    #[error("`{}` cannot be {done}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        done: &'static str,
        /// What the operating system says.
        #[source]
        source: std::io::Error,
    },
    /// The file is no whole safetensors file.
    #[error("`{file}` is no safetensors file, or is cut short or damaged; download it again")]
    Malformed {
        /// The file.
        file: String,
        /// What is wrong with it.
        #[source]
        source: safetensors::SafeTensorError,
    },
    /// The file holds something else.
    #[error(
        "`{file}` is no IP-Adapter: expected tensors `image_proj.…` and `ip_adapter.…`, found {count} others such as `{example}`{hint}"
    )]
    NotAnAdapter {
        /// The file.
        file: String,
        /// Its number of tensors.
        count: usize,
        /// The first of their names.
        example: String,
        /// What it may be instead.
        hint: &'static str,
    },
    /// The adapter was made for another base model.
    #[error(
        "`{file}` is an IP-Adapter for {found}: `{key}` is {shape:?}; expected one for Stable Diffusion 1.x, whose text has 768 channels"
    )]
    Architecture {
        /// The file.
        file: String,
        /// The base model.
        found: &'static str,
        /// The tensor that tells.
        key: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// Tensors are missing, or have no use.
    #[error(
        "`{file}`, by its other tensors an adapter of the kind {variant}, {}",
        keys(missing, unknown)
    )]
    Keys {
        /// The file.
        file: String,
        /// The variant that it was taken for.
        variant: String,
        /// Names that the variant has and the file has not, sorted.
        missing: Vec<String>,
        /// Names that the file has and the variant has not, sorted.
        unknown: Vec<String>,
    },
    /// A tensor's shape does not fit the others'.
    #[error("`{file}`: `{key}` has shape {found:?}, expected {expected:?} by the other tensors")]
    Shape {
        /// The file.
        file: String,
        /// The tensor.
        key: String,
        /// The shape that fits.
        expected: Vec<usize>,
        /// Its shape.
        found: Vec<usize>,
    },
    /// A tensor holds no floating-point numbers.
    #[error("`{file}`: `{key}` holds {found} values, expected f16, bf16, f32 or f64")]
    Dtype {
        /// The file.
        file: String,
        /// The tensor.
        key: String,
        /// Its number type.
        found: String,
    },
    /// A tensor holds a number that is not finite.
    #[error("`{file}`: `{key}` has values that are no finite numbers; the file is damaged")]
    NonFinite {
        /// The file.
        file: String,
        /// The tensor.
        key: String,
    },
    /// A weight that the number type cannot hold.
    #[error("`{key}` has values that {dtype} cannot hold; write F32, or is the training broken?")]
    Unwritable {
        /// The tensor.
        key: String,
        /// The number type.
        dtype: String,
    },
    /// FaceID-Plus without its version.
    #[error(
        "`{file}` is a FaceID-Plus adapter, whose versions 1 and 2 have the very same tensors and compute another thing: say which it is \
         (the published `ip-adapter-faceid-plus_sd15` is version 1, `ip-adapter-faceid-plusv2_sd15` is version 2)"
    )]
    Version {
        /// The file.
        file: String,
    },
    /// A version for a variant that has none.
    #[error(
        "`{file}` is an adapter of the kind {variant}; a version is for FaceID-Plus alone, leave it out"
    )]
    NoVersion {
        /// The file.
        file: String,
        /// The variant.
        variant: String,
    },
    /// The adapter fits another UNet.
    #[error("`{file}` does not fit the model's UNet: {reason}")]
    Unet {
        /// The file.
        file: String,
        /// What differs.
        reason: String,
    },
    /// The image encoder, or the face network, is another one than the adapter was trained with.
    #[error("`{file}` takes {expected}, found {found}: {advice}")]
    Encoder {
        /// The file.
        file: String,
        /// What the adapter takes.
        expected: String,
        /// What it was given.
        found: String,
        /// Which encoder is the right one.
        advice: String,
    },
    /// No name of an unconditional input.
    #[error("`{text}` is no unconditional input; expected `reference`, `comfy` or `sdcpp`")]
    Uncond {
        /// The name as it was given.
        text: String,
    },
    /// Weights of layers that cannot be understood, or do not fit the UNet.
    #[error("the layer weights `{text}`: {reason}")]
    Weights {
        /// The weights as they were given.
        text: String,
        /// What is wrong.
        reason: String,
    },
}

fn keys(missing: &[String], unknown: &[String]) -> String {
    match (missing, unknown) {
        (missing, []) => format!("lacks {}", listed(missing)),
        ([], unknown) => format!(
            "has {}, of unknown use; no tensor is left out silently",
            listed(unknown)
        ),
        (missing, unknown) => format!(
            "lacks {} and has {}, of unknown use; was a tensor renamed?",
            listed(missing),
            listed(unknown)
        ),
    }
}

/// The first few keys.
fn listed(keys: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = String::new();
    for key in keys.iter().take(SHOWN) {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push('`');
        // A hostile name may be long or hold control characters.
        text.extend(key.chars().take(120).flat_map(char::escape_debug));
        text.push('`');
    }
    match keys.len().saturating_sub(SHOWN) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}
