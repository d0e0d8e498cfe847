use std::fmt;
use std::str::FromStr;

use burn::tensor::Tensor;

use crate::solver::{self, Solver};
use crate::{Error, Noise, SchedulerConfig};

/// The samplers, by the names that the command line has for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SamplerKind {
    /// `ddim`: diffusers' `DDIMScheduler` with η = 0.
    Ddim,
    /// `euler`: diffusers' `EulerDiscreteScheduler`.
    Euler,
    /// `euler-a`: diffusers' `EulerAncestralDiscreteScheduler`.
    EulerAncestral,
    /// `heun`: diffusers' `HeunDiscreteScheduler`.
    Heun,
    /// `pndm`: diffusers' `PNDMScheduler`.
    Pndm,
    /// `dpmpp-2m`: diffusers' `DPMSolverMultistepScheduler`.
    Dpmpp2m,
    /// `unipc`: diffusers' `UniPCMultistepScheduler`.
    UniPc,
    /// `lcm`: diffusers' `LCMScheduler`, for latent consistency models and LCM-LoRAs.
    Lcm,
    /// `tcd`: diffusers' `TCDScheduler`, for trajectory consistency models and TCD-LoRAs.
    Tcd,
}

impl SamplerKind {
    /// All samplers.
    pub const ALL: [Self; 9] = [
        Self::Ddim,
        Self::Euler,
        Self::EulerAncestral,
        Self::Heun,
        Self::Pndm,
        Self::Dpmpp2m,
        Self::UniPc,
        Self::Lcm,
        Self::Tcd,
    ];

    /// The sampler's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ddim => "ddim",
            Self::Euler => "euler",
            Self::EulerAncestral => "euler-a",
            Self::Heun => "heun",
            Self::Pndm => "pndm",
            Self::Dpmpp2m => "dpmpp-2m",
            Self::UniPc => "unipc",
            Self::Lcm => "lcm",
            Self::Tcd => "tcd",
        }
    }

    pub(crate) fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

impl fmt::Display for SamplerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for SamplerKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        (Self::ALL.into_iter().find(|kind| kind.name() == name)).ok_or_else(|| {
            Error::UnknownSampler {
                name: name.to_owned(),
            }
        })
    }
}

/// How a sampler spreads its noise levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Schedule {
    /// `default`: as the configuration says, which is evenly in timesteps unless it asks for Karras's.
    #[default]
    Default,
    /// `karras`: evenly in σ^(1/7) (Karras et al. 2022); for `euler`, `heun`, `dpmpp-2m` and `unipc`.
    Karras,
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Default => "default",
            Self::Karras => "karras",
        })
    }
}

impl FromStr for Schedule {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "default" => Ok(Self::Default),
            "karras" => Ok(Self::Karras),
            name => Err(Error::UnknownSchedule {
                name: name.to_owned(),
            }),
        }
    }
}

/// One evaluation of the model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Its place in the whole schedule, from 0, whether or not sampling starts there.
    pub index: usize,
    /// What the UNet is told. Between two trained timesteps where the sampler is `euler`, `euler-a` or `heun`.
    pub timestep: f32,
}

/// Goes from noise to an image's latent, one evaluation of the model at a time, with the results of diffusers' scheduler of that name
/// as built by `from_config(pipe.scheduler.config)`.
///
/// A sampler holds the history that its method needs: use one for each picture or batch, or call [`steps`](Self::steps) again. Keep the
/// latent in f32. Nothing here waits for the device.
#[derive(Debug)]
pub struct Sampler {
    kind: SamplerKind,
    solver: Box<dyn Solver>,
    timesteps: Vec<f32>,
}

impl Sampler {
    /// A sampler for a model with this scheduler configuration.
    ///
    /// # Errors
    /// When the configuration is no noise schedule, asks for something that the sampler does not do, or the sampler has not this schedule.
    pub fn new(
        kind: SamplerKind,
        schedule: Schedule,
        config: &SchedulerConfig,
    ) -> Result<Self, Error> {
        Ok(Self {
            kind,
            solver: solver::new(kind, schedule, config)?,
            timesteps: Vec::new(),
        })
    }

    /// The same sampler with another share of noise that is made anew in every step, the γ of `tcd` (Zheng et al. 2024): 0 makes none, 1
    /// all of it. Without this call it is 0.3, as in diffusers' class. (diffusers' *pipelines* pass 0 on unless they are told another.)
    ///
    /// # Errors
    /// When `eta` is not in `[0, 1]`, or the sampler has no such share.
    pub fn with_eta(mut self, eta: f64) -> Result<Self, Error> {
        if (0.0..=1.0).contains(&eta) && self.solver.set_eta(eta) {
            return Ok(self);
        }
        Err(Error::Eta {
            sampler: self.kind,
            eta,
        })
    }

    /// Which sampler this is.
    pub fn kind(&self) -> SamplerKind {
        self.kind
    }

    /// Plans `count` steps from pure noise and forgets the last picture's history.
    ///
    /// There are more evaluations than steps for `heun` (2 · count − 1) and `pndm` (count + 1, or count + 9 with its warm-up).
    ///
    /// # Errors
    /// When the sampler cannot take so many steps, or so few.
    pub fn steps(&mut self, count: usize) -> Result<Vec<Step>, Error> {
        self.timesteps = self.solver.plan(count)?;
        Ok(self.steps_from(0))
    }

    /// Plans `count` steps and leaves out the first ones, so that `⌊count · strength⌋` are taken from a noised image: see
    /// [`add_noise`](Self::add_noise).
    ///
    /// # Errors
    /// When `strength` is not in `[0, 1]` or leaves no step, or when the sampler cannot take `count` steps.
    pub fn image_steps(&mut self, count: usize, strength: f64) -> Result<Vec<Step>, Error> {
        self.timesteps = self.solver.plan(count)?;
        let taken = (count as f64 * strength) as usize;
        if !(0.0..=1.0).contains(&strength) || taken == 0 {
            return Err(Error::Strength {
                strength,
                steps: count,
            });
        }
        Ok(self.steps_from((count - taken) * self.solver.evaluations()))
    }

    fn steps_from(&self, first: usize) -> Vec<Step> {
        let steps = self.timesteps.iter().enumerate().skip(first);
        steps
            .map(|(index, &timestep)| Step { index, timestep })
            .collect()
    }

    /// The latent that sampling from pure noise starts with: standard normal `noise` at the first step's level.
    ///
    /// # Panics
    /// If no steps were planned.
    pub fn initial(&self, noise: Tensor<4>) -> Tensor<4> {
        assert!(!self.timesteps.is_empty(), "call `steps` first");
        noise * self.solver.initial_scale()
    }

    /// The latent of an image at the level of `step`, the first of [`image_steps`](Self::image_steps).
    ///
    /// # Shapes
    /// - `latent`, `noise` (standard normal), output: `[batch, channels, height, width]`
    ///
    /// # Panics
    /// If the shapes differ, or the step is not of the last plan.
    pub fn add_noise(&self, latent: Tensor<4>, noise: Tensor<4>, step: &Step) -> Tensor<4> {
        self.solver.add_noise(latent, noise, step.index)
    }

    /// The latent as the UNet wants it at this step.
    ///
    /// # Panics
    /// If the step is not of the last plan.
    pub fn scale(&self, latent: Tensor<4>, step: &Step) -> Tensor<4> {
        self.solver.scale(latent, step.index)
    }

    /// The latent after `step`, given what the model predicted at it. Call it for every planned step in order.
    ///
    /// `euler-a` draws from `noise` once a step, `lcm` and `tcd` (unless its η is 0) once a step but for the last, as diffusers does; the
    /// others leave it alone.
    ///
    /// # Shapes
    /// - `latent`, `predicted`, output: `[batch, channels, height, width]`
    ///
    /// # Panics
    /// If the shapes differ, or the step is not of the last plan.
    pub fn step(
        &mut self,
        latent: Tensor<4>,
        predicted: Tensor<4>,
        step: &Step,
        noise: &mut dyn Noise,
    ) -> Tensor<4> {
        self.solver.step(latent, predicted, step.index, noise)
    }
}
