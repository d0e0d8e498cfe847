use crate::{PredictionType, SamplerKind, Schedule};

/// What can be wrong with a scheduler's configuration or with what is asked of a sampler.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not JSON, or not an object.
    #[error(
        "the scheduler's configuration is not a JSON object; a diffusers folder holds one in `scheduler/scheduler_config.json`"
    )]
    NotAnObject {
        /// What the JSON reader said, if it is not JSON at all.
        #[source]
        source: Option<serde_json::Error>,
    },

    /// A key without which the noise schedule is unknown.
    #[error("scheduler_config.json: `{key}` is missing; Stable Diffusion 1.5 has {usual}")]
    Missing {
        /// The key.
        key: &'static str,
        /// Its usual value.
        usual: &'static str,
    },

    /// A value of the wrong kind, or a name that is not known.
    #[error("scheduler_config.json: `{key}` cannot be {found}: {source}")]
    Unreadable {
        /// The key.
        key: &'static str,
        /// The value in the file.
        found: String,
        /// What the JSON reader expected.
        source: serde_json::Error,
    },

    /// A value that no scheduler can use.
    #[error("scheduler_config.json: `{key}` is {found}, expected {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value in the file.
        found: String,
        /// What was expected.
        expected: String,
    },

    /// A value that diffusers knows and this sampler does not.
    #[error(
        "scheduler_config.json: `{key}` is {found}, and sampler `{sampler}` has only {supported}; take another sampler or change the file"
    )]
    Unsupported {
        /// The key.
        key: &'static str,
        /// The value in the file.
        found: String,
        /// The sampler that reads it.
        sampler: SamplerKind,
        /// What the sampler can do.
        supported: &'static str,
    },

    /// A prediction type that the sampler's class in diffusers refuses too.
    #[error(
        "sampler `{sampler}` cannot use a model that predicts `{prediction}`; take ddim, euler, heun, dpmpp-2m or unipc"
    )]
    Prediction {
        /// The sampler.
        sampler: SamplerKind,
        /// What the model predicts.
        prediction: PredictionType,
    },

    /// A sampler's name that is not known.
    #[error("there is no sampler `{name}`; there are {}", SamplerKind::names())]
    UnknownSampler {
        /// The name.
        name: String,
    },

    /// A schedule's name that is not known.
    #[error("there is no schedule `{name}`; there are default, karras")]
    UnknownSchedule {
        /// The name.
        name: String,
    },

    /// A schedule that the sampler does not have.
    #[error(
        "sampler `{sampler}` has no `{schedule}` schedule; euler, heun, dpmpp-2m and unipc have"
    )]
    NoSchedule {
        /// The sampler.
        sampler: SamplerKind,
        /// The schedule.
        schedule: Schedule,
    },

    /// A number of steps that the sampler cannot take.
    #[error("sampler `{sampler}` cannot take {steps} steps: {reason}")]
    Steps {
        /// The sampler.
        sampler: SamplerKind,
        /// The number of steps.
        steps: usize,
        /// Why not, and what would do.
        reason: String,
    },

    /// A share of new noise outside of `[0, 1]`, or for a sampler that has none.
    #[error(
        "sampler `{sampler}` cannot take eta {eta}: it is the share of noise that `tcd` makes anew, 0 to 1, and no other sampler has it"
    )]
    Eta {
        /// The sampler.
        sampler: SamplerKind,
        /// The share.
        eta: f64,
    },

    /// A strength outside of `[0, 1]`, or one that leaves no step to take.
    #[error(
        "strength {strength} of {steps} steps leaves nothing to do: it must be at most 1 and strength × steps at least 1"
    )]
    Strength {
        /// The strength.
        strength: f64,
        /// The number of steps.
        steps: usize,
    },
}
