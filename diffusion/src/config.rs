use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::Error;

/// A diffusers `scheduler_config.json`, whichever scheduler class wrote it.
///
/// [`SchedulerConfig::default`] is the file of Stable Diffusion 1.5. [`SchedulerConfig::from_json`] reads a file as diffusers does when
/// another scheduler class takes it over (`XScheduler.from_config(pipe.scheduler.config)`): a key that the file lacks has the default *of
/// the class that samples*, which is why some fields are options.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SchedulerConfig {
    /// How many noise levels the model was trained on.
    pub num_train_timesteps: usize,
    /// The first β.
    pub beta_start: f64,
    /// The last β.
    pub beta_end: f64,
    /// How β goes from the first to the last.
    pub beta_schedule: BetaSchedule,
    /// The βs themselves, in place of the three fields above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trained_betas: Option<Vec<f64>>,
    /// Shift the schedule so that its last level is pure noise (Lin et al. 2023).
    pub rescale_betas_zero_snr: bool,
    /// What the model predicts.
    pub prediction_type: PredictionType,
    /// Which of the trained timesteps are visited. `None`: leading for `ddim` and `pndm`, linspace for the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestep_spacing: Option<TimestepSpacing>,
    /// Added to every timestep of the leading spacing.
    pub steps_offset: usize,
    /// Whether the last step ends at ᾱ = 1 rather than at ᾱ₀. `None`: yes for `ddim`, no for `pndm`; the others do not ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_alpha_to_one: Option<bool>,
    /// Whether `pndm` leaves out its Runge-Kutta warm-up.
    pub skip_prk_steps: bool,
    /// Whether the guessed image is clipped to ± `clip_sample_range`. `None`: yes for `ddim`, no for `heun`; the others do not ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_sample: Option<bool>,
    /// The range of `clip_sample`.
    pub clip_sample_range: f64,
    /// Whether the schedule that is called default is Karras's.
    pub use_karras_sigmas: bool,
    /// The last σ of Karras's schedule. `None`: as in the trained schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_min: Option<f64>,
    /// The first σ of Karras's schedule. `None`: as in the trained schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_max: Option<f64>,
    /// Where the last step of `euler`, `dpmpp-2m` and `unipc` ends.
    pub final_sigmas_type: FinalSigma,
    /// The second-order formula of `dpmpp-2m` (midpoint unless heun) and of `unipc` (bh2 unless bh1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub solver_type: Option<SolverType>,
    /// Whether `dpmpp-2m` (below 15 steps) and `unipc` end with a step of lower order.
    pub lower_order_final: bool,
    /// Whether `dpmpp-2m` always ends with an Euler step.
    pub euler_at_final: bool,
    /// The steps after which `unipc` does not correct.
    pub disable_corrector: Vec<usize>,
    /// How many timesteps a consistency model was distilled at (`lcm`, `tcd`), among which its steps are chosen.
    pub original_inference_steps: usize,
    /// What `lcm` multiplies timesteps by where it bounds the model to the identity at 0.
    pub timestep_scaling: f64,
    /// All other keys. [`Sampler::new`](crate::Sampler::new) refuses the ones that would change its result.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// How β goes from the first to the last noise level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// β in equal steps.
    Linear,
    /// √β in equal steps: Stable Diffusion's.
    ScaledLinear,
    /// ᾱ a squared cosine (Nichol and Dhariwal 2021), β at most 0.999.
    #[serde(rename = "squaredcos_cap_v2")]
    SquaredCosine,
}

/// What the model predicts of `latent = √ᾱ · image + √(1 − ᾱ) · noise`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise ε.
    Epsilon,
    /// The velocity v = √ᾱ · noise − √(1 − ᾱ) · image.
    VPrediction,
    /// The image.
    Sample,
}

impl fmt::Display for PredictionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Epsilon => "epsilon",
            Self::VPrediction => "v_prediction",
            Self::Sample => "sample",
        })
    }
}

/// Which of the trained timesteps a sampler visits (Lin et al. 2023, table 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    /// From the first to the last, both included.
    Linspace,
    /// Multiples of an integer, the last timestep left out.
    Leading,
    /// From the last in equal steps, the first left out.
    Trailing,
}

/// The σ at which the last step ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalSigma {
    /// No noise at all.
    Zero,
    /// The smallest σ of the trained schedule.
    SigmaMin,
}

/// The key `solver_type`, which several classes share; each takes the names of the others for its own default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SolverType {
    /// DPM-Solver's.
    Midpoint,
    /// DPM-Solver's other.
    Heun,
    /// DEIS's.
    Logrho,
    /// UniPC with B(h) = h.
    Bh1,
    /// UniPC with B(h) = eʰ − 1.
    Bh2,
}

impl Default for SchedulerConfig {
    /// Stable Diffusion 1.5's `scheduler_config.json`, which is also what diffusers takes for a single-file checkpoint.
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            trained_betas: None,
            rescale_betas_zero_snr: false,
            prediction_type: PredictionType::Epsilon,
            timestep_spacing: None,
            steps_offset: 1,
            set_alpha_to_one: Some(false),
            skip_prk_steps: true,
            clip_sample: Some(false),
            clip_sample_range: 1.0,
            use_karras_sigmas: false,
            sigma_min: None,
            sigma_max: None,
            final_sigmas_type: FinalSigma::Zero,
            solver_type: None,
            lower_order_final: true,
            euler_at_final: false,
            disable_corrector: Vec::new(),
            original_inference_steps: 50,
            timestep_scaling: 10.0,
            other: Map::new(),
        }
    }
}

impl SchedulerConfig {
    /// Reads the text of a `scheduler_config.json`.
    ///
    /// Two values are read as `StableDiffusionPipeline` corrects them: a `steps_offset` other than 1 becomes 1, and `clip_sample` is never
    /// true. (Only where the file has the key: a missing one is the sampling class's default, 0 and, for `ddim`, true.) Python's
    /// `-Infinity`, `Infinity` and `NaN` count as absent, and so does `null`.
    ///
    /// # Errors
    /// When the text is no JSON object, when β is nowhere given, or when a value is of the wrong kind, naming the key.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        match serde_json::from_str(&without_python_numbers(text)) {
            Ok(Value::Object(map)) => Self::from_map(map),
            Ok(_) => Err(Error::NotAnObject { source: None }),
            Err(source) => Err(Error::NotAnObject {
                source: Some(source),
            }),
        }
    }

    fn from_map(mut map: Map<String, Value>) -> Result<Self, Error> {
        let map = &mut map;
        let trained_betas: Option<Vec<f64>> = take(map, "trained_betas")?;
        let needed = trained_betas.is_none();
        let beta = |found: Option<f64>, key, usual| match found {
            None if needed => Err(Error::Missing { key, usual }),
            found => Ok(found.unwrap_or_default()),
        };
        Ok(Self {
            num_train_timesteps: take(map, "num_train_timesteps")?.unwrap_or(1000),
            beta_start: beta(take(map, "beta_start")?, "beta_start", "0.00085")?,
            beta_end: beta(take(map, "beta_end")?, "beta_end", "0.012")?,
            beta_schedule: take(map, "beta_schedule")?.unwrap_or(BetaSchedule::Linear),
            trained_betas,
            rescale_betas_zero_snr: take(map, "rescale_betas_zero_snr")?.unwrap_or(false),
            prediction_type: take(map, "prediction_type")?.unwrap_or(PredictionType::Epsilon),
            timestep_spacing: take(map, "timestep_spacing")?,
            steps_offset: take::<i64>(map, "steps_offset")?.map_or(0, |_| 1),
            set_alpha_to_one: take(map, "set_alpha_to_one")?,
            skip_prk_steps: take(map, "skip_prk_steps")?.unwrap_or(false),
            clip_sample: take::<bool>(map, "clip_sample")?.map(|_| false),
            clip_sample_range: take(map, "clip_sample_range")?.unwrap_or(1.0),
            use_karras_sigmas: take(map, "use_karras_sigmas")?.unwrap_or(false),
            sigma_min: take(map, "sigma_min")?,
            sigma_max: take(map, "sigma_max")?,
            final_sigmas_type: take(map, "final_sigmas_type")?.unwrap_or(FinalSigma::Zero),
            solver_type: take(map, "solver_type")?,
            lower_order_final: take(map, "lower_order_final")?.unwrap_or(true),
            euler_at_final: take(map, "euler_at_final")?.unwrap_or(false),
            disable_corrector: take(map, "disable_corrector")?.unwrap_or_default(),
            original_inference_steps: take(map, "original_inference_steps")?.unwrap_or(50),
            timestep_scaling: take(map, "timestep_scaling")?.unwrap_or(10.0),
            other: std::mem::take(map),
        })
    }
}

impl<'de> Deserialize<'de> for SchedulerConfig {
    /// As [`SchedulerConfig::from_json`].
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_map(Map::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Removes a key and reads its value; `null` is the same as no key.
fn take<T: DeserializeOwned>(
    map: &mut Map<String, Value>,
    key: &'static str,
) -> Result<Option<T>, Error> {
    match map.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let found = shortened(&value);
            serde_json::from_value(value)
                .map(Some)
                .map_err(|source| Error::Unreadable { key, found, source })
        }
    }
}

/// A value's text for an error message.
pub(crate) fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Replaces the bare words that Python's `json` writes for numbers that JSON does not have; `lambda_min_clipped` is often `-Infinity`.
fn without_python_numbers(text: &str) -> Cow<'_, str> {
    if !text.contains("Infinity") && !text.contains("NaN") {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let (mut rest, mut in_string) = (text, false);
    while let Some(c) = rest.chars().next() {
        let word = ["-Infinity", "Infinity", "NaN"]
            .into_iter()
            .find(|w| !in_string && rest.starts_with(w));
        if let Some(word) = word {
            plain.push_str("null");
            rest = &rest[word.len()..];
            continue;
        }
        plain.push(c);
        rest = &rest[c.len_utf8()..];
        if c == '"' {
            in_string = !in_string;
        } else if c == '\\'
            && in_string
            && let Some(escaped) = rest.chars().next()
        {
            plain.push(escaped);
            rest = &rest[escaped.len_utf8()..];
        }
    }
    Cow::Owned(plain)
}
