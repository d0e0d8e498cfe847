use burn::tensor::Tensor;

use super::{Levels, Solver, image};
use crate::{Error, Noise, PredictionType, SchedulerConfig};

/// DDIM (Song et al. 2021), η = 0. As diffusers' `DDIMScheduler`.
#[derive(Debug)]
pub(crate) struct Ddim {
    levels: Levels,
    clip: Option<f64>,
    final_alpha_bar: f32,
    timesteps: Vec<usize>,
    stride: usize,
}

impl Ddim {
    pub(crate) fn new(levels: Levels, config: &SchedulerConfig) -> Self {
        Self {
            clip: (config.clip_sample.unwrap_or(true)).then_some(config.clip_sample_range),
            final_alpha_bar: match config.set_alpha_to_one.unwrap_or(true) {
                true => 1.0,
                false => levels.noise.alphas_cumprod()[0],
            },
            levels,
            timesteps: Vec::new(),
            stride: 0,
        }
    }
}

impl Solver for Ddim {
    fn plan(&mut self, steps: usize) -> Result<Vec<f32>, Error> {
        self.timesteps = self.levels.whole_timesteps(steps)?;
        self.stride = self.levels.noise.timesteps() / steps;
        self.levels.check_divisor(&self.timesteps)?;
        Ok(self.timesteps.iter().map(|&t| t as f32).collect())
    }

    fn add_noise(&self, latent: Tensor<4>, noise: Tensor<4>, index: usize) -> Tensor<4> {
        add_noise(&self.levels, latent, noise, self.timesteps[index])
    }

    /// Song et al. 2021, eq. 12.
    fn step(
        &mut self,
        latent: Tensor<4>,
        predicted: Tensor<4>,
        index: usize,
        _noise: &mut dyn Noise,
    ) -> Tensor<4> {
        let timestep = self.timesteps[index];
        let alpha_bars = self.levels.noise.alphas_cumprod();
        let alpha_bar = alpha_bars[timestep];
        let alpha_bar_next = match timestep.checked_sub(self.stride) {
            Some(next) => alpha_bars[next],
            None => self.final_alpha_bar,
        };
        let (alpha, sigma) = (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt());

        let noise = match self.levels.prediction {
            PredictionType::Epsilon => predicted.clone(),
            PredictionType::VPrediction => predicted.clone() * alpha + latent.clone() * sigma,
            PredictionType::Sample => (latent.clone() - predicted.clone() * alpha) / sigma,
        };
        let mut image = image(self.levels.prediction, latent, predicted, alpha, sigma);
        if let Some(range) = self.clip {
            image = image.clamp(-range, range);
        }
        image * alpha_bar_next.sqrt() + noise * (1.0 - alpha_bar_next).sqrt()
    }
}

/// √ᾱ · latent + √(1 − ᾱ) · noise.
pub(super) fn add_noise(
    levels: &Levels,
    latent: Tensor<4>,
    noise: Tensor<4>,
    timestep: usize,
) -> Tensor<4> {
    let alpha_bar = levels.noise.alphas_cumprod()[timestep];
    latent * alpha_bar.sqrt() + noise * (1.0 - alpha_bar).sqrt()
}
