use burn::tensor::Tensor;

use super::{Levels, Sigmas, Solver, half_log_snr, image, on_the_circle};
use crate::{BetaSchedule, Error, FinalSigma, Noise, SchedulerConfig, SolverType};

/// DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2). As diffusers' `DPMSolverMultistepScheduler`.
#[derive(Debug)]
pub(crate) struct Dpmpp2m {
    levels: Levels,
    heun: bool,
    lower_order_final: bool,
    euler_at_final: bool,
    squared_cosine: bool,
    grid: Sigmas,
    previous_image: Option<Tensor<4>>,
}

impl Dpmpp2m {
    pub(crate) fn new(levels: Levels, config: &SchedulerConfig) -> Self {
        Self {
            levels,
            heun: config.solver_type == Some(SolverType::Heun),
            lower_order_final: config.lower_order_final,
            euler_at_final: config.euler_at_final,
            squared_cosine: config.beta_schedule == BetaSchedule::SquaredCosine,
            grid: Sigmas::default(),
            previous_image: None,
        }
    }

    fn ends_with_euler(&self) -> bool {
        let steps = self.grid.timesteps.len();
        self.levels.final_sigma == FinalSigma::Zero
            || self.euler_at_final
            || (self.lower_order_final && steps < 15)
    }
}

impl Solver for Dpmpp2m {
    fn plan(&mut self, steps: usize) -> Result<Vec<f32>, Error> {
        self.previous_image = None;
        let whole = if self.squared_cosine {
            f64::trunc
        } else {
            f64::round_ties_even
        };
        self.grid = self.levels.multistep_sigmas(steps, whole)?;
        Ok(self.grid.timesteps.clone())
    }

    fn add_noise(&self, latent: Tensor<4>, noise: Tensor<4>, index: usize) -> Tensor<4> {
        let (alpha, sigma) = on_the_circle(self.grid.sigmas[index]);
        latent * alpha + noise * sigma
    }

    fn step(
        &mut self,
        latent: Tensor<4>,
        predicted: Tensor<4>,
        index: usize,
        _noise: &mut dyn Noise,
    ) -> Tensor<4> {
        let (alpha, sigma) = on_the_circle(self.grid.sigmas[index]);
        let (alpha_next, sigma_next) = on_the_circle(self.grid.sigmas[index + 1]);
        let lambda = half_log_snr(alpha, sigma);
        let h = half_log_snr(alpha_next, sigma_next) - lambda;
        let decay = (-h).exp() - 1.0;

        let image = image(
            self.levels.prediction,
            latent.clone(),
            predicted,
            alpha,
            sigma,
        );
        let first_order = latent * (sigma_next / sigma) - image.clone() * (alpha_next * decay);
        let is_last = index + 1 == self.grid.timesteps.len();
        match self.previous_image.replace(image.clone()) {
            Some(previous) if !(is_last && self.ends_with_euler()) => {
                let (alpha_before, sigma_before) = on_the_circle(self.grid.sigmas[index - 1]);
                let ratio = (lambda - half_log_snr(alpha_before, sigma_before)) / h;
                let slope = (image - previous) * (1.0 / ratio);
                // A step that ends where it starts (σ_min twice) adds nothing.
                match (self.heun, h == 0.0) {
                    (_, true) => first_order,
                    (true, _) => first_order + slope * (alpha_next * (decay / h + 1.0)),
                    (false, _) => first_order - slope * (0.5 * (alpha_next * decay)),
                }
            }
            _ => first_order,
        }
    }
}
