use std::path::Path;

use anyhow::{Context, Result};
use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNormConfig, LayerNormConfig, LinearConfig, PaddingConfig2d};
use burn::tensor::{Device, FloatDType, Gradients, Int, Tensor, TensorData};
use clip_text::ClipTextConfig;
use lora_core::{Component, FactorSize, attach, kohya_sizes, with_factors};
use sd_pipeline::{Checkpoint, CheckpointOptions, Part};
use sd_unet::{Conditioning, UNet2DConditionModel, UNetConfig};
use sd_vae::VaeConfig;
use serde::Deserialize;

use crate::pattern::{fill, pattern};

/// Something to be timed.
#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    /// What tables call it.
    pub name: String,
    /// Whether its gradient is of no use to anyone: what runs in the VAE alone, and whole models.
    #[serde(default)]
    pub forward_only: bool,
    /// What is computed.
    #[serde(flatten)]
    pub operation: Operation,
}

/// What a case computes. Shapes are those of the input, `[batch, channels, height, width]` or `[batch, positions, channels]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Operation {
    Product {
        rows: usize,
        inner: usize,
        columns: usize,
    },
    Attention {
        query: [usize; 4],
        tokens: usize,
        #[serde(default)]
        causal: bool,
    },
    GroupNorm {
        shape: [usize; 4],
        silu: bool,
    },
    LayerNorm {
        shape: [usize; 3],
    },
    Silu {
        shape: [usize; 3],
    },
    Geglu {
        shape: [usize; 3],
    },
    Gelu {
        shape: [usize; 3],
    },
    QuickGelu {
        shape: [usize; 3],
    },
    Linear {
        shape: [usize; 3],
        out: usize,
    },
    Convolution {
        shape: [usize; 4],
        out: usize,
        kernel: usize,
    },
    UpsampledConvolution {
        shape: [usize; 4],
        out: usize,
    },
    TextEncoder {
        batch: usize,
    },
    Unet {
        batch: usize,
        side: usize,
    },
    VaeDecode {
        side: usize,
    },
    LoraStep {
        batch: usize,
        side: usize,
        rank: usize,
        checkpointing: bool,
    },
}

impl Operation {
    /// Whether it is a whole model, with weights from a checkpoint where one is given.
    pub fn is_model(&self) -> bool {
        matches!(
            self,
            Self::TextEncoder { .. }
                | Self::Unet { .. }
                | Self::VaeDecode { .. }
                | Self::LoraStep { .. }
        )
    }
}

/// Where a case is computed, and in which numbers. The VAE and training steps are in 32 bits whatever these are.
#[derive(Clone, Debug)]
pub struct Place {
    /// The device.
    pub device: Device,
    /// The type of weights and activations.
    pub dtype: FloatDType,
}

impl Place {
    /// A device with 32-bit floats.
    pub fn new(device: &Device) -> Self {
        Self {
            device: device.clone(),
            dtype: FloatDType::F32,
        }
    }

    /// [`pattern`], rounded to this place's numbers.
    fn pattern<const D: usize>(&self, shape: [usize; D], seed: u32, scale: f64) -> Tensor<D> {
        pattern(shape, seed, scale, &self.device).cast(self.dtype)
    }
}

/// A case made ready: each call computes it once, and gives the output, or the gradient of the first input.
pub type Work = Box<dyn FnMut() -> Box<dyn Output>>;

/// A tensor as it was computed. To copy what does not lie in order is not the case's work.
pub trait Output {
    /// All elements in order.
    fn flat(self: Box<Self>) -> Tensor<1>;
}

impl<const D: usize> Output for Tensor<D> {
    fn flat(self: Box<Self>) -> Tensor<1> {
        let count = self.shape().num_elements();
        self.reshape([count])
    }
}

/// All cases, from `side_by_side/cases.json`.
///
/// # Panics
/// If that file is garbled.
pub fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("../side_by_side/cases.json"))
        .expect("side_by_side/cases.json holds cases")
}

/// Makes the inputs and weights of a case. With `backward`, the gradient of its inputs is computed too, for an output gradient of ones;
/// weights are frozen, as LoRA training has them. A model comes from the checkpoint `model`, or else has random weights.
///
/// # Errors
/// If the checkpoint cannot be read.
pub fn prepare(
    operation: &Operation,
    backward: bool,
    model: Option<&Path>,
    place: &Place,
) -> Result<Work> {
    let tracked = place.device.clone().autodiff();
    let place = &Place {
        device: if backward {
            tracked.clone()
        } else {
            place.device.clone()
        },
        dtype: place.dtype,
    };
    let device = &place.device;
    Ok(match *operation {
        Operation::Product {
            rows,
            inner,
            columns,
        } => {
            let right = place.pattern([inner, columns], 2, 1.0);
            one(place.pattern([rows, inner], 1, 1.0), backward, move |x| {
                sd_kernels::product(x, right.clone(), None)
            })
        }
        Operation::Attention {
            query,
            tokens,
            causal,
        } => {
            let [batch, heads, _, dim] = query;
            let kv = |seed| place.pattern([batch, heads, tokens, dim], seed, 2.0);
            let inputs = [place.pattern(query, 1, 2.0), kv(2), kv(3)];
            let attend = move |[q, k, v]: [Tensor<4>; 3]| sd_kernels::attention(q, k, v, causal);
            some(inputs, backward, attend)
        }
        Operation::GroupNorm { shape, silu } => {
            let mut norm = GroupNormConfig::new(32, shape[1])
                .with_epsilon(1e-5)
                .init(device);
            norm.gamma = Some(Param::from_tensor(place.pattern([shape[1]], 2, 1.0)));
            norm.beta = Some(Param::from_tensor(place.pattern([shape[1]], 3, 1.0)));
            let norm = norm.no_grad();
            one(
                place.pattern(shape, 1, 2.0),
                backward,
                move |x| match silu {
                    true => sd_kernels::group_norm_silu(x, &norm),
                    false => sd_kernels::group_norm(x, &norm),
                },
            )
        }
        Operation::LayerNorm { shape } => {
            let mut norm = LayerNormConfig::new(shape[2])
                .with_epsilon(1e-5)
                .init(device);
            norm.gamma = Param::from_tensor(place.pattern([shape[2]], 2, 1.0));
            norm.beta = Some(Param::from_tensor(place.pattern([shape[2]], 3, 1.0)));
            let norm = norm.no_grad();
            one(place.pattern(shape, 1, 2.0), backward, move |x| {
                sd_kernels::layer_norm(x, &norm, 1e-5)
            })
        }
        Operation::Silu { shape } => one(place.pattern(shape, 1, 4.0), backward, sd_kernels::silu),
        Operation::Geglu { shape } => {
            one(place.pattern(shape, 1, 4.0), backward, sd_kernels::geglu)
        }
        Operation::Gelu { shape } => one(place.pattern(shape, 1, 4.0), backward, sd_kernels::gelu),
        Operation::QuickGelu { shape } => one(
            place.pattern(shape, 1, 4.0),
            backward,
            sd_kernels::quick_gelu,
        ),
        Operation::Linear { shape, out } => {
            let from = shape[2];
            let mut layer = LinearConfig::new(from, out).init(device);
            layer.weight = Param::from_tensor(place.pattern([from, out], 2, scale(from)));
            layer.bias = Some(Param::from_tensor(place.pattern([out], 3, 1.0)));
            let layer = layer.no_grad();
            one(place.pattern(shape, 1, 1.0), backward, move |x| {
                sd_kernels::linear(x, &layer)
            })
        }
        Operation::Convolution { shape, out, kernel } => {
            let layer = convolution(shape[1], out, kernel, place);
            one(place.pattern(shape, 1, 1.0), backward, move |x| {
                sd_kernels::conv2d(x, &layer)
            })
        }
        Operation::UpsampledConvolution { shape, out } => {
            let layer = convolution(shape[1], out, 3, place);
            one(place.pattern(shape, 1, 1.0), backward, move |x| {
                sd_kernels::upsample_conv2d(x, &layer)
            })
        }
        Operation::TextEncoder { batch } => {
            let encoder = ClipTextConfig::default().init(device);
            let encoder = load(encoder, Part::TextEncoder, model, place.dtype)?;
            // The start, words, and the end up to the last position.
            let row = (0..77).map(|at| match at {
                0 => 49406,
                1..12 => 320 + 1009 * at,
                _ => 49407,
            });
            let row: Vec<i64> = row.collect();
            let tokens = TensorData::new(row.repeat(batch), [batch, 77]);
            let tokens = Tensor::<2, Int>::from_data(tokens, device);
            Box::new(move || Box::new(encoder.forward(tokens.clone())))
        }
        Operation::Unet { batch, side } => {
            let unet = load(
                UNetConfig::default().init(device),
                Part::Unet,
                model,
                place.dtype,
            )?;
            let latent = place.pattern([batch, 4, side, side], 1, 1.7);
            let text = Conditioning::text(place.pattern([batch, 77, 768], 2, 1.7));
            Box::new(move || Box::new(unet.forward(latent.clone(), 700.0, &text)))
        }
        Operation::VaeDecode { side } => {
            let full = Place::new(device);
            let config = VaeConfig::default();
            let scaled = 1.7 * config.scaling_factor;
            let vae = load(config.init(device), Part::Vae, model, full.dtype)?;
            let latent = full.pattern([1, 4, side, side], 1, scaled);
            Box::new(move || Box::new(vae.decode(latent.clone())))
        }
        Operation::LoraStep {
            batch,
            side,
            rank,
            checkpointing,
        } => {
            let full = Place::new(&tracked);
            let unet = load(
                UNetConfig::default().init(&tracked),
                Part::Unet,
                model,
                full.dtype,
            )?;
            let latent = full.pattern([batch, 4, side, side], 1, 1.7);
            let text = Conditioning::text(full.pattern([batch, 77, 768], 2, 1.7));
            let target = full.pattern([batch, 4, side, side], 3, 1.7);
            lora_step(unet, rank, latent, text, target, checkpointing)?
        }
    })
}

/// The mean squared error of a UNet with factors on all its transformers' layers, and the gradient of every factor: a training step up to
/// what the optimiser does. Gives the gradient of the first `down` by path.
fn lora_step(
    unet: UNet2DConditionModel,
    rank: usize,
    latent: Tensor<4>,
    text: Conditioning,
    target: Tensor<4>,
    checkpointing: bool,
) -> Result<Work> {
    const TIME: f32 = 700.0;
    let alpha = rank as f64;
    let sizes = kohya_sizes(Component::Unet, FactorSize { rank, alpha }, None);
    let zeros = |_: &str, _, length| vec![0.0; length];
    let unet = attach(unet, Component::Unet, sizes, zeros)?;
    let mut factors = lora_core::factors(&unet);
    factors.sort_by(|a, b| a.path.cmp(&b.path));
    for (at, factor) in factors.iter_mut().enumerate() {
        let (down, up) = (factor.down.dims(), factor.up.dims());
        let (device, seed) = (factor.down.device(), 1000 + 2 * at as u32);
        factor.down = pattern(down, seed, scale(down[1]), &device);
        factor.up = pattern(up, seed + 1, 0.1 * scale(rank), &device);
    }
    let unet = with_factors(unet, Component::Unet, &factors)?;
    let mut leaves = lora_core::factors(&unet);
    leaves.sort_by(|a, b| a.path.cmp(&b.path));
    let of = move |gradients: &Gradients| -> Vec<Option<Tensor<2>>> {
        let each = leaves.iter().flat_map(|factor| [&factor.down, &factor.up]);
        each.map(|leaf| leaf.grad(gradients)).collect()
    };
    let error = move |predicted: Tensor<4>| (predicted - target.clone()).square().mean();
    let first = |found: Vec<Option<Tensor<2>>>| {
        let first = found.into_iter().next().flatten();
        Box::new(first.expect("the loss depends on every factor")) as Box<dyn Output>
    };
    if !checkpointing {
        return Ok(Box::new(move || {
            let loss = error(unet.forward(latent.clone(), TIME, &text));
            first(of(&loss.backward()))
        }));
    }
    Ok(Box::new(move || {
        let mut all: Vec<Option<Tensor<2>>> = vec![];
        unet.backward(latent.clone(), TIME, &text, &error, |gradients| {
            let found = of(gradients);
            all.resize(found.len(), None);
            for (sum, found) in all.iter_mut().zip(found) {
                *sum = found.or(sum.take());
            }
        });
        first(all)
    }))
}

fn load<M: Module>(module: M, part: Part, model: Option<&Path>, dtype: FloatDType) -> Result<M> {
    match model {
        None => Ok(fill(module, dtype)),
        Some(path) => {
            let checkpoint = Checkpoint::open(path, &CheckpointOptions::default())?;
            let loaded = checkpoint.load(part, module, dtype);
            Ok(loaded
                .with_context(|| path.display().to_string())?
                .no_grad())
        }
    }
}

fn convolution(from: usize, out: usize, kernel: usize, place: &Place) -> Conv2d {
    let padding = kernel / 2;
    let mut layer = Conv2dConfig::new([from, out], [kernel, kernel])
        .with_padding(PaddingConfig2d::Explicit(
            padding, padding, padding, padding,
        ))
        .init(&place.device);
    let weight = [out, from, kernel, kernel];
    let scale = scale(from * kernel * kernel);
    layer.weight = Param::from_tensor(place.pattern(weight, 2, scale));
    layer.bias = Some(Param::from_tensor(place.pattern([out], 3, 1.0)));
    layer.no_grad()
}

fn scale(fan_in: usize) -> f64 {
    (fan_in as f64).sqrt().recip()
}

fn one<const D: usize>(
    input: Tensor<D>,
    backward: bool,
    forward: impl Fn(Tensor<D>) -> Tensor<D> + 'static,
) -> Work {
    some([input], backward, move |[input]| forward(input))
}

fn some<const D: usize, const N: usize>(
    inputs: [Tensor<D>; N],
    backward: bool,
    forward: impl Fn([Tensor<D>; N]) -> Tensor<D> + 'static,
) -> Work {
    if !backward {
        return Box::new(move || Box::new(forward(inputs.clone())));
    }
    Box::new(move || {
        let inputs = inputs.clone().map(|input| input.detach().require_grad());
        let mut gradients = forward(inputs.clone()).backward();
        let mut found = inputs
            .map(|input| input.grad_remove(&mut gradients))
            .into_iter();
        let first = found.next().flatten();
        Box::new(first.expect("a gradient of the input"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use parity::{device, values};

    #[test]
    fn every_kernel_of_the_table_can_be_asked_for() {
        let cases = cases();
        let mut names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), cases.len());
        for model in ["text encoder", "UNet step", "VAE decode", "LoRA step"] {
            assert!(
                cases
                    .iter()
                    .any(|case| case.name == model && case.operation.is_model())
            );
        }
    }

    #[test]
    fn a_gradient_is_that_of_the_sum_of_the_output() {
        let operation = Operation::Silu { shape: [1, 2, 8] };
        let mut work = prepare(&operation, true, None, &Place::new(&device())).unwrap();
        let found = values(work().flat());
        let input = values(pattern([16], 1, 4.0, &device()));
        for (found, x) in found.into_iter().zip(input) {
            let sigmoid = 1.0 / (1.0 + (-x).exp());
            let wanted = sigmoid * (1.0 + x * (1.0 - sigmoid));
            assert!((found - wanted).abs() < 1e-5, "{found} {wanted}");
        }
    }
}
