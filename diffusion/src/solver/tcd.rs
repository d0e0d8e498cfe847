use burn::tensor::Tensor;

use super::ddim::add_noise;
use super::{Levels, Solver, image};
use crate::{Error, Noise, PredictionType};

/// Strategic stochastic sampling with a trajectory consistency model (Zheng et al. 2024, algorithm 4): down the trajectory to a level
/// below the next step's, then fresh noise back up to it. As diffusers' `TCDScheduler`.
#[derive(Debug)]
pub(crate) struct Tcd {
    levels: Levels,
    /// The paper's γ: 0 is deterministic, 1 makes all the noise anew.
    eta: f32,
    timesteps: Vec<usize>,
}

impl Tcd {
    pub(crate) fn new(levels: Levels) -> Self {
        Self {
            levels,
            eta: 0.3,
            timesteps: Vec::new(),
        }
    }
}

impl Solver for Tcd {
    fn set_eta(&mut self, eta: f64) -> bool {
        self.eta = eta as f32;
        true
    }

    fn plan(&mut self, steps: usize) -> Result<Vec<f32>, Error> {
        self.timesteps = self.levels.distilled_timesteps(steps)?;
        Ok(self.timesteps.iter().map(|&t| t as f32).collect())
    }

    fn add_noise(&self, latent: Tensor<4>, noise: Tensor<4>, index: usize) -> Tensor<4> {
        add_noise(&self.levels, latent, noise, self.timesteps[index])
    }

    fn step(
        &mut self,
        latent: Tensor<4>,
        predicted: Tensor<4>,
        index: usize,
        noise: &mut dyn Noise,
    ) -> Tensor<4> {
        let alpha_bars = self.levels.noise.alphas_cumprod();
        let next = self.timesteps.get(index + 1).copied();
        let below = ((1.0 - self.eta) * next.unwrap_or(0) as f32).floor() as usize;
        let (alpha_bar, alpha_bar_below) = (alpha_bars[self.timesteps[index]], alpha_bars[below]);
        let (alpha, sigma) = (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt());

        let prediction = self.levels.prediction;
        let image = image(prediction, latent.clone(), predicted.clone(), alpha, sigma);
        let epsilon = match prediction {
            PredictionType::Epsilon => predicted,
            PredictionType::VPrediction => predicted * alpha + latent * sigma,
            PredictionType::Sample => (latent - predicted * alpha) / sigma,
        };
        let lower = image * alpha_bar_below.sqrt() + epsilon * (1.0 - alpha_bar_below).sqrt();
        match next {
            Some(next) if self.eta > 0.0 => {
                let fresh = noise.randn_tensor(lower.dims(), &lower.device());
                let fresh = fresh.cast(lower.dtype());
                let kept = alpha_bars[next] / alpha_bar_below;
                lower * kept.sqrt() + fresh * (1.0 - kept).sqrt()
            }
            _ => lower,
        }
    }
}
