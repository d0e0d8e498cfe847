use std::path::PathBuf;

use crate::Component;

/// What can go wrong with a LoRA: reading it, putting it on a model, training it, writing it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoraError {
    /// The file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },

    /// The bytes are no whole safetensors file.
    #[error(
        "{file} is no readable safetensors file (expected a whole one; convert a `.pt`, `.bin` or `.ckpt`; else fetch it anew)"
    )]
    Malformed {
        /// The file.
        file: String,
        /// What the parser found.
        source: safetensors::SafeTensorError,
    },

    /// A safetensors file without any LoRA key.
    #[error(
        "{file} is no LoRA: none of its {count} keys ends as a LoRA's do (it begins with `{example}`); give a LoRA file"
    )]
    NotALora {
        /// The file.
        file: String,
        /// How many keys it has.
        count: usize,
        /// The first of them.
        example: String,
    },

    /// A LoRA for another kind of model.
    #[error(
        "{file} is a LoRA for {found}, not for Stable Diffusion 1.x: see `{evidence}`; use it with that model"
    )]
    Architecture {
        /// The file.
        file: String,
        /// The model it is for.
        found: &'static str,
        /// The key or metadata entry that tells.
        evidence: String,
    },

    /// A kind of adapter that this version does not read.
    #[error(
        "{file}: `{key}` is {kind}, which is not supported in this version; use a plain LoRA (`lora_down` and `lora_up`)"
    )]
    Unsupported {
        /// The file.
        file: String,
        /// The first such key.
        key: String,
        /// What it is.
        kind: &'static str,
    },

    /// Keys that no dialect has.
    #[error(
        "{file}: {count} keys of no known LoRA dialect: {}; expected Stable Diffusion 1.x modules with endings such as `.lora_down.weight`",
        list(keys, *count)
    )]
    UnknownKeys {
        /// The file.
        file: String,
        /// The first of them.
        keys: Vec<String>,
        /// How many there are.
        count: usize,
    },

    /// One half of a factor pair is absent.
    #[error("{file}: `{key}` has no partner `{missing}`; the file is damaged or was cut apart")]
    MissingPartner {
        /// The file.
        file: String,
        /// The key that is there.
        key: String,
        /// The key that is not.
        missing: &'static str,
    },

    /// The two factors cannot be multiplied.
    #[error(
        "{file}: `{key}`: down is {down:?} and up is {up:?}; expected the same rank in down's first and up's second axis, none of them 0"
    )]
    Rank {
        /// The file.
        file: String,
        /// The module.
        key: String,
        /// Shape of the down factor.
        down: Vec<usize>,
        /// Shape of the up factor.
        up: Vec<usize>,
    },

    /// A tensor of a number type that factors do not have.
    #[error("{file}: `{key}` holds {found}; expected {expected}")]
    DType {
        /// The file.
        file: String,
        /// The key.
        key: String,
        /// Its type and shape.
        found: String,
        /// What would do.
        expected: &'static str,
    },

    /// NaN or infinity.
    #[error(
        "{file}: `{key}` holds a value that is not finite (NaN or infinity): its training failed, or the number type is too narrow"
    )]
    NonFinite {
        /// The file.
        file: String,
        /// The key.
        key: String,
    },

    /// The same weight under two spellings.
    #[error("{file}: `{first}` and `{second}` are the same factor; expected one")]
    Duplicate {
        /// The file.
        file: String,
        /// The one.
        first: String,
        /// The other.
        second: String,
    },

    /// Metadata that contradicts the tensors or cannot be read.
    #[error("{file}: metadata `{entry}`: {reason}")]
    Metadata {
        /// The file.
        file: String,
        /// The entry.
        entry: String,
        /// What is wrong.
        reason: String,
    },

    /// Keys that found no weight in the model.
    #[error(
        "{file}: {count} of {total} {component} modules found no weight in the model: {}; is it a LoRA for this model?",
        list(keys, *count)
    )]
    Unmatched {
        /// The file.
        file: String,
        /// The part of the model.
        component: Component,
        /// The first of them, as the file spells them.
        keys: Vec<String>,
        /// How many there are.
        count: usize,
        /// How many modules the file has for this component.
        total: usize,
    },

    /// The factors make another shape than the weight has.
    #[error(
        "{file}: `{key}`: factors make {found:?}, the weight is {expected:?}; is it a LoRA for this model?"
    )]
    Shape {
        /// The file.
        file: String,
        /// The module, as the file spells it.
        key: String,
        /// `[out, in]` or `[out, in, height, width]` that the factors make.
        found: Vec<usize>,
        /// The weight's, in the same order.
        expected: Vec<usize>,
    },

    /// A strength that is no number.
    #[error("{file}: strength is {strength}; expected a finite number, such as 0.8")]
    Strength {
        /// The file.
        file: String,
        /// The strength given.
        strength: f64,
    },

    /// Training factors were asked for on a model that has some.
    #[error("`{path}` is adapted already; `materialize()` the model first, then attach")]
    AlreadyAdapted {
        /// The first adapted module.
        path: String,
    },

    /// No weight of the model is a target.
    #[error(
        "no linear or convolution weight of the {component} is a target; is it the right component and model?"
    )]
    NoTargets {
        /// The part of the model.
        component: Component,
    },

    /// A rank or alpha that makes no factors.
    #[error(
        "rank {rank} with alpha {alpha}: expected a rank of at least 1 and an alpha that is a finite number above 0"
    )]
    RankAlpha {
        /// The rank given.
        rank: usize,
        /// The alpha given.
        alpha: f64,
    },

    /// Factor values that do not fit.
    #[error("`{path}`: {reason}")]
    Factor {
        /// The module.
        path: String,
        /// What was found and expected.
        reason: String,
    },

    /// All factors are zero.
    #[error(
        "{file} would change nothing: up or down is zero in every module; not written. Is it untrained, or the number type too narrow?"
    )]
    Untrained {
        /// The file.
        file: String,
    },

    /// A module whose dotted name cannot be told from its kohya key.
    #[error(
        "{file}: `{key}` is no name of a diffusers module, so it cannot be written in the PEFT dialect; write kohya's"
    )]
    Unspeakable {
        /// The file.
        file: String,
        /// The module.
        key: String,
    },
}

/// The first few of `count` keys.
fn list(keys: &[String], count: usize) -> String {
    let shown = keys
        .iter()
        .take(5)
        .map(|k| format!("`{k}`"))
        .collect::<Vec<_>>()
        .join(", ");
    match count.saturating_sub(5.min(keys.len())) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
