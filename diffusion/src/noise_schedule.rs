use burn::tensor::{Tensor, TensorData};

use crate::{BetaSchedule, Error, SchedulerConfig};

/// The noise levels a model was trained on: ᾱₜ of `latent = √ᾱₜ · image + √(1 − ᾱₜ) · noise` (Ho et al. 2020, eq. 4).
///
/// Levels are numbered by the timestep `t` that the UNet is told, from 0 (almost no noise) to `num_train_timesteps − 1`.
#[derive(Debug, Clone, PartialEq)]
pub struct NoiseSchedule {
    alphas_cumprod: Vec<f32>,
}

/// More levels than any model has; a larger number in a file is an error rather than an allocation.
const MOST_TIMESTEPS: usize = 100_000;

impl NoiseSchedule {
    /// The schedule that a configuration describes, computed in f32 and to f32 rounding as in diffusers.
    ///
    /// # Errors
    /// When the βs are not a noise schedule: fewer than 2, or one outside of `[0, 1)`.
    pub fn new(config: &SchedulerConfig) -> Result<Self, Error> {
        let count = config.num_train_timesteps;
        if !(2..=MOST_TIMESTEPS).contains(&count) {
            return Err(Error::Value {
                key: "num_train_timesteps",
                found: count.to_string(),
                expected: format!("2 to {MOST_TIMESTEPS}"),
            });
        }
        let (start, end) = (config.beta_start, config.beta_end);
        let (key, betas) = match (&config.trained_betas, config.beta_schedule) {
            (Some(betas), _) if betas.len() != count => {
                return Err(Error::Value {
                    key: "trained_betas",
                    found: format!("a list of {}", betas.len()),
                    expected: format!("`num_train_timesteps` of them, {count}"),
                });
            }
            (Some(betas), _) => (
                "trained_betas",
                betas.iter().map(|&b| b as f32).collect::<Vec<_>>(),
            ),
            (None, BetaSchedule::Linear) => ("beta_end", linspace(start, end, count)),
            (None, BetaSchedule::ScaledLinear) => {
                let roots = linspace(start.sqrt(), end.sqrt(), count);
                (
                    "beta_end",
                    roots.into_iter().map(|root| root * root).collect(),
                )
            }
            (None, BetaSchedule::SquaredCosine) => ("beta_schedule", squared_cosine(count)),
        };
        // NaN is in no range.
        if let Some(beta) = betas.iter().find(|b| !(0.0..1.0).contains(*b)) {
            return Err(Error::Value {
                key,
                found: format!("the source of a β of {beta}"),
                expected: "every β to be at least 0 and below 1".into(),
            });
        }
        let alphas_cumprod = products(betas.iter().map(|beta| 1.0 - beta));
        let alphas_cumprod = match config.rescale_betas_zero_snr {
            true => with_zero_terminal_snr(alphas_cumprod),
            false => alphas_cumprod,
        };
        // Only βs that are all 0 come so far: there is nothing to rescale.
        if !alphas_cumprod.iter().all(|a| (0.0..=1.0).contains(a)) {
            return Err(Error::Value {
                key: "rescale_betas_zero_snr",
                found: "true".into(),
                expected: "false where every β is 0".into(),
            });
        }
        Ok(Self { alphas_cumprod })
    }

    /// How many levels there are.
    pub fn timesteps(&self) -> usize {
        self.alphas_cumprod.len()
    }

    /// ᾱₜ of every level, falling.
    pub fn alphas_cumprod(&self) -> &[f32] {
        &self.alphas_cumprod
    }

    /// σₜ = √((1 − ᾱₜ) / ᾱₜ) of every level, rising: the noise beside an image that is not scaled down (Karras et al. 2022).
    pub fn sigmas(&self) -> Vec<f32> {
        let sigma = |a: &f32| ((1.0 - a) / a).sqrt();
        self.alphas_cumprod.iter().map(sigma).collect()
    }

    /// The signal-to-noise ratio ᾱₜ / (1 − ᾱₜ) of a level.
    ///
    /// # Panics
    /// If there is no level `timestep`.
    pub fn snr(&self, timestep: usize) -> f32 {
        let alpha_bar = self.alphas_cumprod[timestep];
        alpha_bar / (1.0 - alpha_bar)
    }

    /// √ᾱₜ · latent + √(1 − ᾱₜ) · noise, each sample at its own timestep.
    ///
    /// # Shapes
    /// - `latent`, `noise`, output: `[batch, channels, height, width]`
    /// - `timesteps`: one for each sample of the batch
    ///
    /// # Panics
    /// If the shapes differ, or there is no level of a timestep.
    pub fn add_noise(&self, latent: Tensor<4>, noise: Tensor<4>, timesteps: &[usize]) -> Tensor<4> {
        let (signal, spread) = self.factors(&latent, timesteps);
        latent * signal + noise * spread
    }

    /// √ᾱₜ · noise − √(1 − ᾱₜ) · latent, each sample at its own timestep: the target of a model with v-prediction.
    ///
    /// # Shapes
    /// - `latent`, `noise`, output: `[batch, channels, height, width]`
    /// - `timesteps`: one for each sample of the batch
    ///
    /// # Panics
    /// If the shapes differ, or there is no level of a timestep.
    pub fn velocity(&self, latent: Tensor<4>, noise: Tensor<4>, timesteps: &[usize]) -> Tensor<4> {
        let (signal, spread) = self.factors(&latent, timesteps);
        noise * signal - latent * spread
    }

    /// √ᾱₜ and √(1 − ᾱₜ), `[batch, 1, 1, 1]`.
    fn factors(&self, latent: &Tensor<4>, timesteps: &[usize]) -> (Tensor<4>, Tensor<4>) {
        let [batch, ..] = latent.dims();
        assert_eq!(
            timesteps.len(),
            batch,
            "one timestep for each sample of the batch"
        );
        let alpha_bars = || timesteps.iter().map(|&t| self.alphas_cumprod[t]);
        let column = |values: Vec<f32>| {
            let data = TensorData::new(values, [batch, 1, 1, 1]);
            Tensor::<4>::from_data(data, &latent.device()).cast(latent.dtype())
        };
        (
            column(alpha_bars().map(f32::sqrt).collect()),
            column(alpha_bars().map(|a| (1.0 - a).sqrt()).collect()),
        )
    }

    /// With the last ᾱ just above 0 instead of 0, so that the first σ is large and not infinite.
    pub(crate) fn with_finite_sigmas(mut self) -> Self {
        if let Some(last) = self.alphas_cumprod.last_mut()
            && *last == 0.0
        {
            *last = 2f32.powi(-24);
        }
        self
    }
}

/// `torch.linspace` in f32: from both ends towards the middle, multiplied and added in one rounding. Equal to the bit.
fn linspace(start: f64, end: f64, count: usize) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    let step = (end - start) / (count - 1) as f32;
    (0..count)
        .map(|i| {
            if i < count / 2 {
                step.mul_add(i as f32, start)
            } else {
                step.mul_add(-((count - 1 - i) as f32), end)
            }
        })
        .collect()
}

fn squared_cosine(count: usize) -> Vec<f32> {
    let alpha_bar = |t: f64| {
        ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2)
            .cos()
            .powi(2)
    };
    let at = |i: usize| alpha_bar(i as f64 / count as f64);
    (0..count)
        .map(|i| (1.0 - at(i + 1) / at(i)).min(0.999) as f32)
        .collect()
}

/// `torch.cumprod`, which multiplies f32 values in f64.
fn products(alphas: impl Iterator<Item = f32>) -> Vec<f32> {
    alphas
        .scan(1f64, |product, alpha| {
            *product *= f64::from(alpha);
            Some(*product as f32)
        })
        .collect()
}

/// Shifts and scales √ᾱ so that the last is 0 and the first stays (Lin et al. 2023, algorithm 1), by way of β as in diffusers.
fn with_zero_terminal_snr(alphas_cumprod: Vec<f32>) -> Vec<f32> {
    let roots: Vec<f32> = alphas_cumprod.iter().map(|a| a.sqrt()).collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    let scale = first / (first - last);
    let shifted: Vec<f32> = roots
        .iter()
        .map(|root| ((root - last) * scale).powi(2))
        .collect();
    let alphas = (0..shifted.len()).map(|i| match i {
        0 => shifted[0],
        _ => shifted[i] / shifted[i - 1],
    });
    products(alphas.map(|alpha| 1.0 - (1.0 - alpha)))
}
