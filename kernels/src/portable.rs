//! The meaning of each operation in burn's own, which every device runs and differentiates. What is fused must agree with these.

use burn::module::Param;
use burn::nn::{GroupNorm, LayerNorm};
use burn::tensor::ops::AttentionModuleOptions;
#[cfg(feature = "flex")]
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, FloatDType, Tensor, activation, module};

pub(crate) fn attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    causal: bool,
) -> Tensor<4> {
    let options = AttentionModuleOptions {
        is_causal: causal,
        ..Default::default()
    };
    module::attention(query, key, value, None, None, options)
}

/// In f32 at least, as PyTorch computes it: where a group is nearly constant, 16 bits would leave nothing of its gradient but rounding.
pub(crate) fn group_norm<const D: usize>(
    input: Tensor<D>,
    norm: &GroupNorm,
    and_silu: bool,
) -> Tensor<D> {
    let (shape, dtype) = (input.dims(), input.dtype());
    let (batch, channels) = (shape[0], shape[1]);
    let cells = shape[2..].iter().product::<usize>();
    let groups = norm.num_groups;
    let x = wide(input).reshape([batch, groups, channels / groups * cells]);
    let centred = x.clone() - x.mean_dim(2);
    let variance = centred.clone().square().mean_dim(2);
    let normed = centred / (variance + norm.epsilon).sqrt();
    let mut normed = normed.reshape([batch, channels, cells]);
    let each = |param: &Param<Tensor<1>>| wide(param.val()).reshape([1, channels, 1]);
    if let Some(weight) = &norm.gamma {
        normed = normed * each(weight);
    }
    if let Some(bias) = &norm.beta {
        normed = normed + each(bias);
    }
    if and_silu {
        normed = silu(normed);
    }
    normed.reshape(shape).cast(FloatDType::from(dtype))
}

/// In f32 at least, too.
pub(crate) fn layer_norm<const D: usize>(
    input: Tensor<D>,
    norm: &LayerNorm,
    epsilon: f64,
) -> Tensor<D> {
    let dtype = FloatDType::from(input.dtype());
    let bias = norm.beta.as_ref().map(|bias| wide(bias.val()));
    module::layer_norm(wide(input), wide(norm.gamma.val()), bias, epsilon).cast(dtype)
}

/// In f32 what is narrower.
fn wide<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    match tensor.dtype() {
        DType::F16 | DType::BF16 => tensor.cast(FloatDType::F32),
        _ => tensor,
    }
}

pub(crate) fn linear<const D: usize>(
    input: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    module::linear(input, weight, bias)
}

/// Each cell four times.
pub(crate) fn double(input: Tensor<4>) -> Tensor<4> {
    let [batch, channels, height, width] = input.dims();
    input
        .reshape([batch, channels, height, 1, width, 1])
        .expand([batch, channels, height, 2, width, 2])
        .reshape([batch, channels, 2 * height, 2 * width])
}

/// A 3×3 convolution with padding 1, or a 1×1 one.
#[cfg(feature = "flex")]
pub(crate) fn convolve(input: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>) -> Tensor<4> {
    let padding = usize::from(weight.dims()[2] == 3);
    let options = ConvOptions::new([1, 1], [padding, padding], [1, 1], 1);
    module::conv2d(input, weight, Some(bias), options)
}

pub(crate) fn silu<const D: usize>(input: Tensor<D>) -> Tensor<D> {
    activation::silu(input)
}

pub(crate) fn gelu<const D: usize>(input: Tensor<D>) -> Tensor<D> {
    activation::gelu(input)
}

pub(crate) fn geglu<const D: usize>(input: Tensor<D>) -> Tensor<D> {
    let channels = input.dims()[D - 1];
    let hidden = input.clone().narrow(D - 1, 0, channels / 2);
    let gate = input.narrow(D - 1, channels / 2, channels / 2);
    hidden * activation::gelu(gate)
}

pub(crate) fn quick_gelu<const D: usize>(input: Tensor<D>) -> Tensor<D> {
    input.clone() * activation::sigmoid(input * 1.702)
}
