use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Device, Tensor, TensorData};

use crate::UNetConfig;

/// Where in the noise schedule a batch is: one timestep for all its members, or one for each.
#[derive(Clone, Debug)]
pub struct Timesteps(Vec<f32>);

impl From<f32> for Timesteps {
    fn from(timestep: f32) -> Self {
        Self(vec![timestep])
    }
}

impl From<Vec<f32>> for Timesteps {
    fn from(timesteps: Vec<f32>) -> Self {
        Self(timesteps)
    }
}

/// Sinusoidal embedding of the timesteps (Vaswani et al. 2017, section 3.5), `[batch, channels]`.
///
/// # Panics
/// If there is neither one timestep nor one for each of the batch.
pub(crate) fn sinusoids(
    timesteps: &Timesteps,
    batch: usize,
    config: &UNetConfig,
    device: &Device,
) -> Tensor<2> {
    let Timesteps(timesteps) = timesteps;
    assert!(
        timesteps.len() == 1 || timesteps.len() == batch,
        "{} timesteps for a batch of {batch}",
        timesteps.len()
    );
    let channels = config.block_out_channels[0];
    let half = channels / 2;
    let frequencies: Vec<f32> = (0..half)
        .map(|i| (-(10_000f32.ln()) * i as f32 / (half as f32 - config.freq_shift)).exp())
        .collect();
    let mut values = Vec::with_capacity(batch * channels);
    for member in 0..batch {
        let timestep = timesteps[if timesteps.len() == 1 { 0 } else { member }];
        let sines = frequencies.iter().map(|f| (timestep * f).sin());
        let cosines = frequencies.iter().map(|f| (timestep * f).cos());
        if config.flip_sin_to_cos {
            values.extend(cosines.chain(sines));
        } else {
            values.extend(sines.chain(cosines));
        }
    }
    Tensor::from_data(TensorData::new(values, [batch, channels]), device)
}

/// Two linear layers over the sinusoids.
#[derive(Module, Debug)]
pub struct TimestepEmbedding {
    pub(crate) linear_1: Linear,
    pub(crate) linear_2: Linear,
}

impl TimestepEmbedding {
    /// # Shapes
    /// - `time`: `[batch, channels]`
    /// - output: `[batch, 4 · channels]`
    pub(crate) fn forward(&self, time: Tensor<2>) -> Tensor<2> {
        let hidden = sd_kernels::silu(sd_kernels::linear(time, &self.linear_1));
        sd_kernels::linear(hidden, &self.linear_2)
    }
}
