use burn::tensor::Tensor;

use super::{Levels, Sigmas, Solver, half_log_snr, image, on_the_circle};
use crate::{Error, FinalSigma, Noise, SchedulerConfig, SolverType};

/// UniPC of order 2 on the predicted image (Zhao et al. 2023, algorithms 5 to 8). As diffusers' `UniPCMultistepScheduler`.
///
/// Each evaluation first corrects the step that led to it, then predicts the next.
#[derive(Debug)]
pub(crate) struct UniPc {
    levels: Levels,
    bh1: bool,
    lower_order_final: bool,
    disable_corrector: Vec<usize>,
    grid: Sigmas,
    last: Option<Last>,
}

/// What the predictor did last.
#[derive(Debug)]
struct Last {
    /// The latent it started from.
    latent: Tensor<4>,
    /// The image seen there.
    image: Tensor<4>,
    /// The image seen one evaluation before.
    image_before: Option<Tensor<4>>,
    order: usize,
}

/// One step in λ from σ number `from` to number `to`.
struct Stride {
    /// σ_to / σ_from.
    decay: f32,
    alpha: f32,
    /// λ_from.
    lambda: f32,
    h: f32,
    /// B(h), of −h since images are predicted.
    b: f32,
    /// e^−h − 1.
    phi_1: f32,
}

impl UniPc {
    pub(crate) fn new(levels: Levels, config: &SchedulerConfig) -> Result<Self, Error> {
        if !config.lower_order_final && levels.final_sigma == FinalSigma::Zero {
            return Err(Error::Unsupported {
                key: "lower_order_final",
                found: "false".into(),
                sampler: levels.kind,
                supported: "true where `final_sigmas_type` is \"zero\", since the last step is infinite in λ",
            });
        }
        Ok(Self {
            levels,
            bh1: config.solver_type == Some(SolverType::Bh1),
            lower_order_final: config.lower_order_final,
            disable_corrector: config.disable_corrector.clone(),
            grid: Sigmas::default(),
            last: None,
        })
    }

    fn lambda(&self, index: usize) -> f32 {
        let (alpha, sigma) = on_the_circle(self.grid.sigmas[index]);
        half_log_snr(alpha, sigma)
    }

    fn stride(&self, from: usize, to: usize) -> Stride {
        let (_, sigma_from) = on_the_circle(self.grid.sigmas[from]);
        let (alpha, sigma) = on_the_circle(self.grid.sigmas[to]);
        let lambda = self.lambda(from);
        let h = half_log_snr(alpha, sigma) - lambda;
        let phi_1 = (-h).exp_m1();
        Stride {
            decay: sigma / sigma_from,
            alpha,
            lambda,
            h,
            b: if self.bh1 { -h } else { phi_1 },
            phi_1,
        }
    }

    /// UniC: the step to `index` again, now that the image there is known.
    fn correct(&self, last: &Last, image: Tensor<4>, index: usize) -> Tensor<4> {
        let stride = self.stride(index - 1, index);
        let change = image - last.image.clone();
        let slope = match (last.order, &last.image_before) {
            (2, Some(before)) => {
                let h = -stride.h;
                let phi_2 = stride.phi_1 / h - 1.0;
                let phi_3 = phi_2 / h - 0.5;
                let (b1, b2) = (phi_2 / stride.b, phi_3 * 2.0 / stride.b);
                let ratio = (self.lambda(index - 2) - stride.lambda) / stride.h;
                // ρ₁ + ρ₂ = b₁ and r ρ₁ + ρ₂ = b₂.
                let rho_1 = (b1 - b2) / (1.0 - ratio);
                let rho_2 = b1 - rho_1;
                (before.clone() - last.image.clone()) / ratio * rho_1 + change * rho_2
            }
            _ => change * 0.5,
        };
        stride.first_order(last.latent.clone(), last.image.clone())
            - slope * (stride.alpha * stride.b)
    }
}

impl Stride {
    fn first_order(&self, latent: Tensor<4>, image: Tensor<4>) -> Tensor<4> {
        latent * self.decay - image * (self.alpha * self.phi_1)
    }
}

impl Solver for UniPc {
    fn plan(&mut self, steps: usize) -> Result<Vec<f32>, Error> {
        self.last = None;
        self.grid = self.levels.multistep_sigmas(steps, f64::round_ties_even)?;
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
        let image = image(
            self.levels.prediction,
            latent.clone(),
            predicted,
            alpha,
            sigma,
        );
        let last = self.last.take();
        let latent = match &last {
            Some(last) if !self.disable_corrector.contains(&(index - 1)) => {
                self.correct(last, image.clone(), index)
            }
            _ => latent,
        };

        // UniP. The first step has no past; the last is short of a future.
        let left = self.grid.timesteps.len() - index;
        let is_first_order = last.is_none() || (self.lower_order_final && left == 1);
        let image_before = last.map(|last| last.image);
        let stride = self.stride(index, index + 1);
        let first_order = stride.first_order(latent.clone(), image.clone());
        let stepped = match &image_before {
            Some(before) if !is_first_order => {
                let ratio = (self.lambda(index - 1) - stride.lambda) / stride.h;
                let slope = (before.clone() - image.clone()) / ratio;
                first_order - slope * (0.5 * (stride.alpha * stride.b))
            }
            _ => first_order,
        };
        self.last = Some(Last {
            latent,
            image,
            image_before,
            order: if is_first_order { 1 } else { 2 },
        });
        stepped
    }
}
