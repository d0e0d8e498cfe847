use burn::tensor::Tensor;

use super::euler::scale;
use super::{Levels, Sigmas, Solver, image_at_sigma};
use crate::{Error, Noise, SchedulerConfig};

/// Heun's method (Karras et al. 2022, algorithm 1): an Euler step, then the same step again with the mean of the slopes at both ends.
/// As diffusers' `HeunDiscreteScheduler`.
///
/// Evaluations 2k and 2k + 1 are the two halves of step k; the last step is Euler's and has one.
#[derive(Debug)]
pub(crate) struct Heun {
    levels: Levels,
    clip: Option<f64>,
    grid: Sigmas,
    /// Latent and slope at the start of the step that is half done.
    start: Option<(Tensor<4>, Tensor<4>)>,
}

impl Heun {
    pub(crate) fn new(levels: Levels, config: &SchedulerConfig) -> Self {
        Self {
            levels,
            clip: (config.clip_sample.unwrap_or(false)).then_some(config.clip_sample_range),
            grid: Sigmas::default(),
            start: None,
        }
    }

    /// σ at which evaluation `index` takes place.
    fn sigma(&self, index: usize) -> f32 {
        self.grid.sigmas[index.div_ceil(2)]
    }
}

impl Solver for Heun {
    fn plan(&mut self, steps: usize) -> Result<Vec<f32>, Error> {
        self.start = None;
        self.grid = self.levels.continuous_sigmas(steps)?;
        let timestep = |index: usize| self.grid.timesteps[index.div_ceil(2)];
        Ok((0..2 * steps - 1).map(timestep).collect())
    }

    fn evaluations(&self) -> usize {
        2
    }

    fn initial_scale(&self) -> f32 {
        self.levels.initial_sigma(&self.grid.sigmas)
    }

    fn scale(&self, latent: Tensor<4>, index: usize) -> Tensor<4> {
        scale(latent, self.sigma(index))
    }

    fn add_noise(&self, latent: Tensor<4>, noise: Tensor<4>, index: usize) -> Tensor<4> {
        latent + noise * self.sigma(index)
    }

    fn step(
        &mut self,
        latent: Tensor<4>,
        predicted: Tensor<4>,
        index: usize,
        _noise: &mut dyn Noise,
    ) -> Tensor<4> {
        let sigma = self.sigma(index);
        let mut image = image_at_sigma(self.levels.prediction, latent.clone(), predicted, sigma);
        if let Some(range) = self.clip {
            image = image.clamp(-range, range);
        }
        let slope = (latent.clone() - image) / sigma;
        match self.start.take() {
            None => {
                let next = self.grid.sigmas[index / 2 + 1];
                self.start = Some((latent.clone(), slope.clone()));
                latent + slope * (next - sigma)
            }
            Some((latent, first)) => {
                let before = self.grid.sigmas[index / 2];
                latent + (first + slope) / 2.0 * (sigma - before)
            }
        }
    }
}
