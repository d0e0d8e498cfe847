use burn::tensor::Tensor;

use super::ddim::add_noise;
use super::{Levels, Solver};
use crate::{Error, Noise, PredictionType, SchedulerConfig};

/// Pseudo linear multistep (Liu et al. 2022), with or without the pseudo Runge-Kutta warm-up. As diffusers' `PNDMScheduler`.
///
/// Without the warm-up the second step is taken twice, the second time with the mean of two slopes; so there is one evaluation more
/// than steps. With it the first three steps take four evaluations each. Both beginnings belong to the start of the schedule; diffusers
/// goes through them wherever an image starts, which leaves the latent a step behind the timesteps, and so does this.
#[derive(Debug)]
pub(crate) struct Pndm {
    levels: Levels,
    skip_runge_kutta: bool,
    final_alpha_bar: f32,
    stride: usize,
    timesteps: Vec<usize>,
    /// How many of `timesteps` belong to the warm-up.
    runge_kutta: usize,
    /// Evaluations so far. The scheme goes by this count, wherever in the schedule it started.
    done: usize,
    slopes: Vec<Tensor<4>>,
    /// The latent at the start of the step that is being taken again.
    start: Option<Tensor<4>>,
    /// The Runge-Kutta mean so far.
    mean: Option<Tensor<4>>,
}

impl Pndm {
    pub(crate) fn new(levels: Levels, config: &SchedulerConfig) -> Self {
        Self {
            skip_runge_kutta: config.skip_prk_steps,
            final_alpha_bar: match config.set_alpha_to_one.unwrap_or(false) {
                true => 1.0,
                false => levels.noise.alphas_cumprod()[0],
            },
            levels,
            stride: 0,
            timesteps: Vec::new(),
            runge_kutta: 0,
            done: 0,
            slopes: Vec::new(),
            start: None,
            mean: None,
        }
    }

    /// Steps from `timestep` to `next`, below 0 the end (Liu et al. 2022, eq. 9).
    fn transfer(
        &self,
        latent: Tensor<4>,
        predicted: Tensor<4>,
        timestep: usize,
        next: Option<usize>,
    ) -> Tensor<4> {
        let alpha_bars = self.levels.noise.alphas_cumprod();
        let alpha_bar = alpha_bars[timestep];
        let alpha_bar_next = next.map_or(self.final_alpha_bar, |next| alpha_bars[next]);
        let (beta_bar, beta_bar_next) = (1.0 - alpha_bar, 1.0 - alpha_bar_next);
        let noise = match self.levels.prediction {
            PredictionType::VPrediction => {
                predicted * alpha_bar.sqrt() + latent.clone() * beta_bar.sqrt()
            }
            _ => predicted,
        };
        let divisor =
            alpha_bar * beta_bar_next.sqrt() + (alpha_bar * beta_bar * alpha_bar_next).sqrt();
        latent * (alpha_bar_next / alpha_bar).sqrt()
            - noise * (alpha_bar_next - alpha_bar) / divisor
    }

    fn runge_kutta_step(
        &mut self,
        latent: Tensor<4>,
        predicted: Tensor<4>,
        timestep: usize,
    ) -> Tensor<4> {
        let stage = self.done % 4;
        let next = match stage {
            0 | 2 => timestep.checked_sub(self.stride / 2),
            _ => Some(timestep),
        };
        let from = self.timesteps[self.done - stage];
        let start = match stage {
            0 => latent,
            _ => self.start.take().unwrap_or(latent),
        };
        let weight = if stage == 0 || stage == 3 {
            1.0 / 6.0
        } else {
            1.0 / 3.0
        };
        let weighted = predicted.clone() * weight;
        let mean = match self.mean.take() {
            Some(mean) => mean + weighted,
            None => weighted,
        };
        let slope = if stage == 3 {
            mean
        } else {
            self.mean = Some(mean);
            predicted.clone()
        };
        if stage == 0 {
            self.slopes.push(predicted);
        }
        self.start = Some(start.clone());
        self.transfer(start, slope, from, next)
    }

    fn multistep_step(
        &mut self,
        latent: Tensor<4>,
        predicted: Tensor<4>,
        timestep: usize,
    ) -> Tensor<4> {
        let again = self.done == 1;
        let (from, next) = match again {
            true => (timestep + self.stride, Some(timestep)),
            false => (timestep, timestep.checked_sub(self.stride)),
        };
        if !again {
            if self.slopes.len() > 3 {
                self.slopes.remove(0);
            }
            self.slopes.push(predicted.clone());
        }
        let past = |age: usize| self.slopes[self.slopes.len() - age].clone();
        let (mut latent, mut kept) = (latent, None);
        // Adams-Bashforth of the order that the past allows.
        let slope = match self.slopes.len() {
            1 if again => {
                latent = self.start.take().unwrap_or(latent);
                (predicted + past(1)) / 2.0
            }
            1 => {
                kept = Some(latent.clone());
                predicted
            }
            2 => (past(1) * 3.0 - past(2)) / 2.0,
            3 => (past(1) * 23.0 - past(2) * 16.0 + past(3) * 5.0) / 12.0,
            _ => (past(1) * 55.0 - past(2) * 59.0 + past(3) * 37.0 - past(4) * 9.0) * (1.0 / 24.0),
        };
        self.start = kept;
        self.transfer(latent, slope, from, next)
    }
}

impl Solver for Pndm {
    fn plan(&mut self, steps: usize) -> Result<Vec<f32>, Error> {
        let timesteps = self.levels.whole_timesteps(steps)?;
        self.stride = self.levels.noise.timesteps() / steps;
        if self.skip_runge_kutta {
            self.runge_kutta = 0;
            let again = (steps > 1).then(|| timesteps[1]);
            self.timesteps = (timesteps[..1].iter().copied())
                .chain(again)
                .chain(timesteps[1..].iter().copied())
                .collect();
        } else {
            if steps < 4 {
                let reason = "its Runge-Kutta warm-up takes 4 (`skip_prk_steps` is false or missing in scheduler_config.json)";
                return Err(self.levels.refuse(steps, reason));
            }
            // Start, middle twice, end of each of the first three steps, the middle as diffusers rounds it.
            let half = self.stride / 2;
            let stages = |i: usize| {
                let middle = timesteps[i + 1] + half;
                [timesteps[i], middle, middle, timesteps[i + 1]]
            };
            self.runge_kutta = 12;
            self.timesteps = (0..3)
                .flat_map(stages)
                .chain(timesteps[3..].iter().copied())
                .collect();
        }
        self.done = 0;
        self.slopes.clear();
        self.start = None;
        self.mean = None;
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
        _noise: &mut dyn Noise,
    ) -> Tensor<4> {
        let timestep = self.timesteps[index];
        let latent = if self.done < self.runge_kutta {
            self.runge_kutta_step(latent, predicted, timestep)
        } else {
            self.multistep_step(latent, predicted, timestep)
        };
        self.done += 1;
        latent
    }
}
