use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use sd_diffusion::{NoiseSchedule, PredictionType};
use sd_unet::{Conditioning, Timesteps, UNet2DConditionModel};

/// What one evaluation of the loss is about.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Latents of the pictures in the UNet's units, `[batch, channels, height, width]`.
    pub latents: Tensor<4>,
    /// Standard normal noise of the same shape.
    pub noise: Tensor<4>,
    /// How much of it is added, one timestep for each picture.
    pub timesteps: Vec<usize>,
    /// Text embedding of the captions, `[batch, tokens, channels]`.
    pub text: Tensor<3>,
}

/// How far the UNet's prediction is off: the squared error, mean over each picture, weighted by its timestep, mean over the batch
/// (Ho et al. 2020, eq. 14; the weight is Hang et al. 2023's min(SNR, γ) / SNR, or over SNR + 1 for a model that predicts velocity).
///
/// Returns a tensor of one element. Latents, noise and loss are f32; the UNet is asked in the number type that it computes in.
///
/// # Panics
/// If the shapes do not fit each other.
pub fn denoising_loss(
    unet: &UNet2DConditionModel,
    schedule: &NoiseSchedule,
    prediction: PredictionType,
    batch: Batch,
    min_snr_gamma: Option<f64>,
) -> Tensor<1> {
    let dtype = FloatDType::from(unet.dtype());
    let text = batch.text.clone().cast(dtype);
    let task = Denoising::new(schedule, prediction, batch, min_snr_gamma);
    let predicted = unet.forward(
        task.noisy.clone().cast(dtype),
        task.times.clone(),
        &Conditioning::text(text),
    );
    task.loss(predicted)
}

/// What the UNet is asked, and what the answer is measured by.
pub(crate) struct Denoising {
    /// `[batch, channels, height, width]`
    pub noisy: Tensor<4>,
    pub times: Timesteps,
    target: Tensor<4>,
    /// Of each picture; none weighs all alike.
    weights: Option<Tensor<1>>,
}

impl Denoising {
    pub fn new(
        schedule: &NoiseSchedule,
        prediction: PredictionType,
        batch: Batch,
        min_snr_gamma: Option<f64>,
    ) -> Self {
        let Batch {
            latents,
            noise,
            timesteps,
            ..
        } = batch;
        let device = latents.device();
        let noisy = schedule.add_noise(latents.clone(), noise.clone(), &timesteps);
        let target = match prediction {
            PredictionType::Epsilon => noise,
            PredictionType::VPrediction => schedule.velocity(latents, noise, &timesteps),
            PredictionType::Sample => latents,
        };
        let times: Vec<f32> = timesteps.iter().map(|&t| t as f32).collect();
        Self {
            noisy,
            times: Timesteps::from(times),
            target,
            weights: min_snr_gamma
                .map(|gamma| weights(schedule, prediction, &timesteps, gamma, &device)),
        }
    }

    /// One element.
    pub fn loss(self, predicted: Tensor<4>) -> Tensor<1> {
        let error = (predicted.cast(FloatDType::F32) - self.target).square();
        let each = error.flatten::<2>(1, 3).mean_dim(1).squeeze_dim::<1>(1);
        match self.weights {
            None => each.mean(),
            Some(weights) => (each * weights).mean(),
        }
    }
}

fn weights(
    schedule: &NoiseSchedule,
    prediction: PredictionType,
    timesteps: &[usize],
    gamma: f64,
    device: &Device,
) -> Tensor<1> {
    let weight = |timestep: &usize| {
        let snr = f64::from(schedule.snr(*timestep));
        let kept = snr.min(gamma);
        let weight = match prediction {
            PredictionType::Epsilon => kept / snr,
            PredictionType::VPrediction => kept / (snr + 1.0),
            PredictionType::Sample => kept,
        };
        weight as f32
    };
    let weights: Vec<f32> = timesteps.iter().map(weight).collect();
    Tensor::from_data(TensorData::new(weights, [timesteps.len()]), device)
}
