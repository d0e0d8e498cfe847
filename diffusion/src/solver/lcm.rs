use burn::tensor::Tensor;

use super::ddim::add_noise;
use super::{Levels, Solver, image};
use crate::{Error, Noise, SchedulerConfig};

/// Multistep consistency sampling with a latent consistency model (Luo et al. 2023, algorithm 3). As diffusers' `LCMScheduler`.
#[derive(Debug)]
pub(crate) struct Lcm {
    levels: Levels,
    clip: Option<f64>,
    timestep_scaling: f32,
    timesteps: Vec<usize>,
}

/// Beyond, the square of a scaled timestep would be too large a number.
const MAX_SCALING: f32 = 1e6;

impl Lcm {
    pub(crate) fn new(levels: Levels, config: &SchedulerConfig) -> Self {
        Self {
            levels,
            clip: (config.clip_sample.unwrap_or(false)).then_some(config.clip_sample_range),
            timestep_scaling: config.timestep_scaling as f32,
            timesteps: Vec::new(),
        }
    }

    /// The shares of the latent and of the guessed image, c_skip and c_out, which make the model the identity at timestep 0
    /// (Luo et al. 2023, eq. 9, with σ_data = 0.5).
    fn boundary(&self, timestep: usize) -> (f32, f32) {
        const VARIANCE: f32 = 0.25;
        let scaled = timestep as f32 * self.timestep_scaling;
        let length = scaled * scaled + VARIANCE;
        (VARIANCE / length, scaled / length.sqrt())
    }
}

impl Solver for Lcm {
    fn plan(&mut self, steps: usize) -> Result<Vec<f32>, Error> {
        let scaling = self.timestep_scaling;
        if !(scaling > 0.0 && scaling <= MAX_SCALING) {
            return Err(Error::Value {
                key: "timestep_scaling",
                found: scaling.to_string(),
                expected: format!("more than 0 and up to {MAX_SCALING}; 10 is usual"),
            });
        }
        self.timesteps = self.levels.distilled_timesteps(steps)?;
        Ok(self.timesteps.iter().map(|&t| t as f32).collect())
    }

    fn add_noise(&self, latent: Tensor<4>, noise: Tensor<4>, index: usize) -> Tensor<4> {
        add_noise(&self.levels, latent, noise, self.timesteps[index])
    }

    /// The image that the model sees in the latent, and fresh noise over it at the next step's level.
    fn step(
        &mut self,
        latent: Tensor<4>,
        predicted: Tensor<4>,
        index: usize,
        noise: &mut dyn Noise,
    ) -> Tensor<4> {
        let timestep = self.timesteps[index];
        let alpha_bar = self.levels.noise.alphas_cumprod()[timestep];
        let (alpha, sigma) = (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt());
        let mut image = image(
            self.levels.prediction,
            latent.clone(),
            predicted,
            alpha,
            sigma,
        );
        if let Some(range) = self.clip {
            image = image.clamp(-range, range);
        }
        let (skip, out) = self.boundary(timestep);
        let image = image * out + latent * skip;
        match self.timesteps.get(index + 1) {
            Some(&next) => {
                let fresh = noise.randn_tensor(image.dims(), &image.device());
                let fresh = fresh.cast(image.dtype());
                add_noise(&self.levels, image, fresh, next)
            }
            None => image,
        }
    }
}
