use burn::tensor::Tensor;

use super::{Levels, Sigmas, Solver, image_at_sigma};
use crate::{Error, Noise};

/// Euler's method on dx/dσ = (x − image) / σ (Karras et al. 2022, algorithm 1), plain or ancestral. As diffusers'
/// `EulerDiscreteScheduler` and `EulerAncestralDiscreteScheduler`.
#[derive(Debug)]
pub(crate) struct Euler {
    levels: Levels,
    ancestral: bool,
    grid: Sigmas,
}

impl Euler {
    pub(crate) fn new(levels: Levels, ancestral: bool) -> Self {
        Self {
            levels,
            ancestral,
            grid: Sigmas::default(),
        }
    }
}

impl Solver for Euler {
    fn plan(&mut self, steps: usize) -> Result<Vec<f32>, Error> {
        self.grid = self.levels.continuous_sigmas(steps)?;
        Ok(self.grid.timesteps.clone())
    }

    fn initial_scale(&self) -> f32 {
        self.levels.initial_sigma(&self.grid.sigmas)
    }

    fn scale(&self, latent: Tensor<4>, index: usize) -> Tensor<4> {
        scale(latent, self.grid.sigmas[index])
    }

    fn add_noise(&self, latent: Tensor<4>, noise: Tensor<4>, index: usize) -> Tensor<4> {
        latent + noise * self.grid.sigmas[index]
    }

    fn step(
        &mut self,
        latent: Tensor<4>,
        predicted: Tensor<4>,
        index: usize,
        noise: &mut dyn Noise,
    ) -> Tensor<4> {
        let (sigma, next) = (self.grid.sigmas[index], self.grid.sigmas[index + 1]);
        let (down, up) = match self.ancestral {
            true => ancestral(sigma, next),
            false => (next, 0.0),
        };
        let image = image_at_sigma(self.levels.prediction, latent.clone(), predicted, sigma);
        let slope = (latent.clone() - image) / sigma;
        let stepped = latent + slope * (down - sigma);
        if !self.ancestral {
            return stepped;
        }
        // Drawn even where `up` is 0, since the generator goes on to the next picture.
        let fresh = noise.randn_tensor(stepped.dims(), &stepped.device());
        let fresh = fresh.cast(stepped.dtype());
        stepped + fresh * up
    }
}

/// σ to step down to, and σ of the fresh noise that leads back up to `next`: down² + up² = next².
fn ancestral(sigma: f32, next: f32) -> (f32, f32) {
    let (square, next_square) = (sigma * sigma, next * next);
    let up = (next_square * (square - next_square) / square).sqrt();
    // Not below 0: rounding can bring it there where σ falls by orders of magnitude, and diffusers to NaN.
    ((next_square - up * up).max(0.0).sqrt(), up)
}

/// The latent with variance 1, as the model saw it in training.
pub(super) fn scale(latent: Tensor<4>, sigma: f32) -> Tensor<4> {
    latent / (sigma * sigma + 1.0).sqrt()
}
