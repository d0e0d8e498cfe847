//! The samplers' arithmetic, one file each.

mod ddim;
mod dpmpp;
mod euler;
mod heun;
mod lcm;
mod pndm;
mod tcd;
mod unipc;

use std::fmt::Debug;

use burn::tensor::Tensor;
use serde_json::Value;

use crate::config::shortened;
use crate::grid::{self, Points};
use crate::{
    Error, FinalSigma, Noise, NoiseSchedule, PredictionType, SamplerKind, Schedule,
    SchedulerConfig, TimestepSpacing,
};

/// One sampler. `index` counts the evaluations of the model from the start of the whole schedule.
pub(crate) trait Solver: Debug + Send {
    /// Chooses the timesteps, one for each evaluation, and forgets the past.
    fn plan(&mut self, steps: usize) -> Result<Vec<f32>, Error>;

    /// Sets the share of noise that is made anew; false where the sampler has no such share.
    fn set_eta(&mut self, _eta: f64) -> bool {
        false
    }

    /// How many evaluations make one step, but for the last step.
    fn evaluations(&self) -> usize {
        1
    }

    /// The standard deviation of the latent that sampling starts from.
    fn initial_scale(&self) -> f32 {
        1.0
    }

    /// What the model gets in place of the latent.
    fn scale(&self, latent: Tensor<4>, _index: usize) -> Tensor<4> {
        latent
    }

    /// An image's latent at the noise level before evaluation `index`.
    fn add_noise(&self, latent: Tensor<4>, noise: Tensor<4>, index: usize) -> Tensor<4>;

    /// The latent after evaluation `index`.
    fn step(
        &mut self,
        latent: Tensor<4>,
        predicted: Tensor<4>,
        index: usize,
        noise: &mut dyn Noise,
    ) -> Tensor<4>;
}

pub(crate) fn new(
    kind: SamplerKind,
    schedule: Schedule,
    config: &SchedulerConfig,
) -> Result<Box<dyn Solver>, Error> {
    let levels = Levels::new(kind, schedule, config)?;
    Ok(match kind {
        SamplerKind::Ddim => Box::new(ddim::Ddim::new(levels, config)),
        SamplerKind::Euler => Box::new(euler::Euler::new(levels, false)),
        SamplerKind::EulerAncestral => Box::new(euler::Euler::new(levels, true)),
        SamplerKind::Heun => Box::new(heun::Heun::new(levels, config)),
        SamplerKind::Pndm => Box::new(pndm::Pndm::new(levels, config)),
        SamplerKind::Dpmpp2m => Box::new(dpmpp::Dpmpp2m::new(levels, config)),
        SamplerKind::UniPc => Box::new(unipc::UniPc::new(levels, config)?),
        SamplerKind::Lcm => Box::new(lcm::Lcm::new(levels, config)),
        SamplerKind::Tcd => Box::new(tcd::Tcd::new(levels)),
    })
}

/// What every sampler takes from a configuration.
#[derive(Debug)]
pub(crate) struct Levels {
    kind: SamplerKind,
    noise: NoiseSchedule,
    prediction: PredictionType,
    spacing: TimestepSpacing,
    steps_offset: usize,
    distilled_steps: usize,
    karras: bool,
    sigma_min: Option<f64>,
    sigma_max: Option<f64>,
    final_sigma: FinalSigma,
}

/// The σ before each evaluation and after the last, and the timesteps that the model is told.
#[derive(Debug, Default)]
pub(crate) struct Sigmas {
    timesteps: Vec<f32>,
    sigmas: Vec<f32>,
}

impl Levels {
    fn new(kind: SamplerKind, schedule: Schedule, config: &SchedulerConfig) -> Result<Self, Error> {
        use SamplerKind::{Ddim, Dpmpp2m, Euler, EulerAncestral, Heun, Lcm, Pndm, Tcd, UniPc};
        let has_karras = matches!(kind, Euler | Heun | Dpmpp2m | UniPc);
        if schedule == Schedule::Karras && !has_karras {
            return Err(Error::NoSchedule {
                sampler: kind,
                schedule,
            });
        }
        if config.prediction_type == PredictionType::Sample && matches!(kind, Pndm | EulerAncestral)
        {
            return Err(Error::Prediction {
                sampler: kind,
                prediction: config.prediction_type,
            });
        }
        refuse_what_would_differ(kind, config)?;
        let mut config_of_kind = config.clone();
        // diffusers' classes for these two do not know the key.
        config_of_kind.rescale_betas_zero_snr &= !matches!(kind, Heun | Pndm);
        let noise = NoiseSchedule::new(&config_of_kind)?;
        Ok(Self {
            kind,
            noise: match kind {
                Ddim | Pndm | Lcm | Tcd => noise,
                _ => noise.with_finite_sigmas(),
            },
            prediction: config.prediction_type,
            spacing: config.timestep_spacing.unwrap_or(match kind {
                Ddim | Pndm | Lcm | Tcd => TimestepSpacing::Leading,
                _ => TimestepSpacing::Linspace,
            }),
            steps_offset: config.steps_offset,
            distilled_steps: config.original_inference_steps,
            karras: has_karras && (schedule == Schedule::Karras || config.use_karras_sigmas),
            sigma_min: config.sigma_min,
            sigma_max: config.sigma_max,
            final_sigma: match kind {
                Euler | Dpmpp2m | UniPc => config.final_sigmas_type,
                _ => FinalSigma::Zero,
            },
        })
    }

    fn refuse(&self, steps: usize, reason: impl Into<String>) -> Error {
        Error::Steps {
            sampler: self.kind,
            steps,
            reason: reason.into(),
        }
    }

    fn check_steps(&self, steps: usize) -> Result<(), Error> {
        let most = self.noise.timesteps();
        match steps {
            0 => Err(self.refuse(steps, "it takes at least 1")),
            steps if steps > most => {
                let reason =
                    format!("the model was trained on {most} noise levels, so take at most {most}");
                Err(self.refuse(steps, reason))
            }
            _ => Ok(()),
        }
    }

    fn spaced(&self, points: Points, steps: usize) -> Vec<f64> {
        let trained = self.noise.timesteps();
        grid::spaced(self.spacing, points, trained, steps, self.steps_offset)
    }

    /// The timesteps of the samplers that look ᾱ up by timestep (`ddim`, `pndm`).
    fn whole_timesteps(&self, steps: usize) -> Result<Vec<usize>, Error> {
        self.check_steps(steps)?;
        let timesteps: Vec<usize> = (self.spaced(Points::Steps, steps).into_iter())
            .map(|t| t.round_ties_even() as usize)
            .collect();
        let most = self.noise.timesteps() - 1;
        match timesteps.iter().max() {
            Some(&highest) if highest > most => {
                let reason = format!(
                    "with `steps_offset` the first would be at timestep {highest} of {most}; take fewer"
                );
                Err(self.refuse(steps, reason))
            }
            _ => Ok(timesteps),
        }
    }

    /// The timesteps of the consistency models (`lcm`, `tcd`): evenly among those at which they were distilled, whatever the spacing is.
    fn distilled_timesteps(&self, steps: usize) -> Result<Vec<usize>, Error> {
        let (trained, most) = (self.noise.timesteps(), self.distilled_steps);
        if !(1..=trained).contains(&most) {
            return Err(Error::Value {
                key: "original_inference_steps",
                found: most.to_string(),
                expected: format!("1 to {trained}, the number of timesteps"),
            });
        }
        match steps {
            0 => return Err(self.refuse(steps, "it takes at least 1")),
            steps if steps > most => {
                let reason = format!(
                    "the model was distilled at {most} timesteps, so take at most {most}; 4 to 8 are usual"
                );
                return Err(self.refuse(steps, reason));
            }
            _ => {}
        }
        let stride = trained / most;
        let gap = most as f64 / steps as f64;
        let timesteps: Vec<usize> = (0..steps)
            .map(|i| (most - (i as f64 * gap).floor() as usize) * stride - 1)
            .collect();
        self.check_divisor(&timesteps)?;
        Ok(timesteps)
    }

    /// Where ᾱ is 0, a model that predicts the noise says nothing of the image.
    fn check_divisor(&self, timesteps: &[usize]) -> Result<(), Error> {
        let divides = self.prediction == PredictionType::Epsilon;
        if divides && (timesteps.iter()).any(|&t| self.noise.alphas_cumprod()[t] == 0.0) {
            let advice = match self.kind {
                SamplerKind::Ddim => "`timestep_spacing` leading leaves it out",
                _ => "take another sampler",
            };
            let reason = format!(
                "the first is pure noise, where a model that predicts `epsilon` says nothing of the image; {advice}"
            );
            return Err(self.refuse(timesteps.len(), reason));
        }
        Ok(())
    }

    /// The σ of the samplers that step along dx/dσ (`euler`, `euler-a`, `heun`).
    fn continuous_sigmas(&self, steps: usize) -> Result<Sigmas, Error> {
        self.check_steps(steps)?;
        let trained = self.noise.sigmas();
        let mut timesteps: Vec<f32> = (self.spaced(Points::Steps, steps).into_iter())
            .map(|t| t as f32)
            .collect();
        let mut sigmas: Vec<f64> = (timesteps.iter())
            .map(|&t| grid::interpolate(&trained, t.into()))
            .collect();
        if self.karras {
            // Between the σ of the first and the last step that the spacing chose.
            (timesteps, sigmas) = self.karras(sigmas[steps - 1], sigmas[0], steps, |t| t);
        }
        self.sigmas(timesteps, sigmas)
    }

    /// The σ of the multistep solvers (`dpmpp-2m`, `unipc`), whose timesteps are whole; `whole` makes Karras's so.
    fn multistep_sigmas(&self, steps: usize, whole: fn(f64) -> f64) -> Result<Sigmas, Error> {
        self.check_steps(steps)?;
        let trained = self.noise.sigmas();
        let (timesteps, sigmas) = if self.karras {
            let (first, last) = (trained[0], trained[trained.len() - 1]);
            self.karras(first.into(), last.into(), steps, whole)
        } else {
            (self.spaced(Points::StepsAndEnd, steps).into_iter())
                .map(f64::round_ties_even)
                .map(|t| (t as f32, grid::interpolate(&trained, t)))
                .unzip()
        };
        let sigmas = self.sigmas(timesteps, sigmas)?;
        // A step from a σ to itself has no slope. (The last step may be one: it adds nothing.)
        if sigmas.sigmas[..steps].windows(2).any(|w| w[0] == w[1]) {
            return Err(self.refuse(steps, "two of them fall on one noise level; take fewer"));
        }
        Ok(sigmas)
    }

    fn karras(
        &self,
        least: f64,
        most: f64,
        steps: usize,
        whole: fn(f64) -> f64,
    ) -> (Vec<f32>, Vec<f64>) {
        let log_sigmas: Vec<f32> = self.noise.sigmas().into_iter().map(f32::ln).collect();
        let sigmas = grid::karras(
            self.sigma_min.unwrap_or(least),
            self.sigma_max.unwrap_or(most),
            steps,
        );
        let timestep = |&sigma: &f64| whole(grid::timestep_of(sigma, &log_sigmas)) as f32;
        (sigmas.iter().map(timestep).collect(), sigmas)
    }

    /// Adds the σ at which the last step ends.
    fn sigmas(&self, timesteps: Vec<f32>, sigmas: Vec<f64>) -> Result<Sigmas, Error> {
        let last = match self.final_sigma {
            FinalSigma::Zero => 0.0,
            FinalSigma::SigmaMin => match (self.kind, sigmas.last()) {
                // diffusers' class repeats Karras's own last σ.
                (SamplerKind::UniPc, Some(&last)) if self.karras => last as f32,
                _ => self.noise.sigmas()[0],
            },
        };
        let sigmas: Vec<f32> = (sigmas.into_iter().map(|s| s as f32))
            .chain([last])
            .collect();
        if sigmas.iter().any(|s| !s.is_finite()) || sigmas[..timesteps.len()].contains(&0.0) {
            let reason = "the noise schedule has a σ that is zero or infinite; look at the βs in scheduler_config.json";
            return Err(self.refuse(timesteps.len(), reason));
        }
        Ok(Sigmas { timesteps, sigmas })
    }

    /// How much noise the first latent of `euler`, `euler-a` and `heun` has.
    fn initial_sigma(&self, sigmas: &[f32]) -> f32 {
        let most = sigmas.iter().copied().fold(0.0, f32::max);
        match self.spacing {
            TimestepSpacing::Leading => (most * most + 1.0).sqrt(),
            _ => most,
        }
    }
}

/// A key that makes a class of diffusers do what the sampler here does not.
struct Refused {
    key: &'static str,
    of: &'static [SamplerKind],
    supported: &'static str,
    is_fine: fn(&Value) -> bool,
}

fn refuse_what_would_differ(kind: SamplerKind, config: &SchedulerConfig) -> Result<(), Error> {
    use SamplerKind::{Ddim, Dpmpp2m, Euler, Heun, Lcm, UniPc};
    fn off(value: &Value) -> bool {
        matches!(value, Value::Null | Value::Bool(false))
    }
    let is_v = config.prediction_type == PredictionType::VPrediction;
    let switch = |key, of| Refused {
        key,
        of,
        supported: "false",
        is_fine: off,
    };
    let refused = [
        switch("thresholding", &[Ddim, Dpmpp2m, UniPc, Lcm]),
        switch("use_exponential_sigmas", &[Euler, Heun, Dpmpp2m, UniPc]),
        switch("use_beta_sigmas", &[Euler, Heun, Dpmpp2m, UniPc]),
        switch("use_lu_lambdas", &[Dpmpp2m]),
        switch("use_flow_sigmas", &[Dpmpp2m, UniPc]),
        switch("use_dynamic_shifting", &[UniPc]),
        Refused {
            key: "interpolation_type",
            of: &[Euler],
            supported: "\"linear\"",
            is_fine: |value| value == "linear",
        },
        Refused {
            key: "timestep_type",
            of: if is_v { &[Euler] } else { &[] },
            supported: "\"discrete\" with v-prediction",
            is_fine: |value| value == "discrete",
        },
        Refused {
            key: "algorithm_type",
            of: &[Dpmpp2m],
            supported: "\"dpmsolver++\"",
            // diffusers takes a DEIS folder's value for its own too, and then trips over its next check.
            is_fine: |value| value == "dpmsolver++" || value == "deis",
        },
        Refused {
            key: "solver_order",
            of: &[Dpmpp2m, UniPc],
            supported: "2",
            is_fine: |value| value == 2,
        },
        Refused {
            key: "lambda_min_clipped",
            of: &[Dpmpp2m],
            supported: "none",
            is_fine: Value::is_null,
        },
        Refused {
            key: "variance_type",
            of: &[Dpmpp2m],
            supported: "models that predict no variance",
            is_fine: |value| value != "learned" && value != "learned_range",
        },
        Refused {
            key: "predict_x0",
            of: &[UniPc],
            supported: "true",
            is_fine: |value| value == true,
        },
        Refused {
            key: "solver_p",
            of: &[UniPc],
            supported: "its own predictor",
            is_fine: Value::is_null,
        },
        Refused {
            key: "shift_terminal",
            of: &[UniPc],
            supported: "none",
            is_fine: Value::is_null,
        },
    ];
    for Refused {
        key,
        of,
        supported,
        is_fine,
    } in refused
    {
        if let Some(value) = config.other.get(key)
            && of.contains(&kind)
            && !is_fine(value)
        {
            return Err(Error::Unsupported {
                key,
                found: shortened(value),
                sampler: kind,
                supported,
            });
        }
    }
    Ok(())
}

/// The image in `latent = α · image + σ · noise` that a prediction stands for (α² + σ² = 1).
fn image(
    prediction: PredictionType,
    latent: Tensor<4>,
    predicted: Tensor<4>,
    alpha: f32,
    sigma: f32,
) -> Tensor<4> {
    match prediction {
        PredictionType::Epsilon => (latent - predicted * sigma) / alpha,
        PredictionType::VPrediction => latent * alpha - predicted * sigma,
        PredictionType::Sample => predicted,
    }
}

/// The image in `latent = image + σ · noise` that a prediction stands for.
fn image_at_sigma(
    prediction: PredictionType,
    latent: Tensor<4>,
    predicted: Tensor<4>,
    sigma: f32,
) -> Tensor<4> {
    let length = sigma * sigma + 1.0;
    match prediction {
        PredictionType::Epsilon => latent - predicted * sigma,
        PredictionType::VPrediction => predicted * (-sigma / length.sqrt()) + latent / length,
        PredictionType::Sample => predicted,
    }
}

/// α and σ with α² + σ² = 1 of a σ that stands beside an image of full size.
fn on_the_circle(sigma: f32) -> (f32, f32) {
    let alpha = 1.0 / (sigma * sigma + 1.0).sqrt();
    (alpha, sigma * alpha)
}

/// λ = log(α / σ), infinite at σ = 0 (Lu et al. 2022).
fn half_log_snr(alpha: f32, sigma: f32) -> f32 {
    alpha.ln() - sigma.ln()
}
