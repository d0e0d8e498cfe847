//! The few tensor operations that Stable Diffusion spends its time in.
//!
//! Each is one function with a plain meaning and a body of burn operations, which runs and differentiates on every device. The model crates
//! call these and nothing else for attention, norms, activations, linear layers and convolutions.
//!
//! With the feature `flex`, which a program turns on together with burn's CPU backend of that name, f32 tensors on the CPU take fused paths
//! with gradients of their own: they keep no score matrix, pass over the memory once, and choose AVX-512, AVX2, NEON or plain code at run
//! time. Results do not depend on the number of threads. The feature `cube`, for burn's GPU backends in the same way, gives attention a
//! gradient that keeps no scores either.
//!
//! ```
//! use burn::tensor::{Device, Distribution, Tensor};
//!
//! # let device = parity::device();
//! let query = Tensor::<4>::random([1, 8, 64, 40], Distribution::Default, &device);
//! let words = Tensor::<4>::random([1, 8, 77, 40], Distribution::Default, &device);
//! let mixed = sd_kernels::attention(query, words.clone(), words, false);
//! assert_eq!(mixed.dims(), [1, 8, 64, 40]);
//! ```

mod low_rank;
mod portable;
#[cfg(any(feature = "flex", feature = "cube"))]
mod recomputed;

#[cfg(feature = "flex")]
mod cpu;

#[cfg(all(test, feature = "flex"))]
mod agreement;

use burn::module::{Param, Reparameterization as _};
use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, LayerNorm, Linear, PaddingConfig2d};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, FloatDType, Tensor, module};
#[cfg(feature = "flex")]
use cpu::{CpuOps, Factored, all_fused, is_short, on_cpu, rounds_products, stays_short};
#[cfg(any(feature = "flex", feature = "cube"))]
use {burn::backend::Dispatch, recomputed::Recomputed};

pub use low_rank::{LowRank, LowRankStack};

/// Tells the C library to keep the memory of a freed tensor for the next one. By itself it gives large blocks back to the system at once, and the
/// system fills every page anew with zeros when it is touched again: up to nine tenths of the time of what is computed element by element, a
/// twentieth to a quarter of a whole model's, on a virtual machine. What is freed for good goes back by [`return_freed_memory`].
///
/// A program calls it first of all. It does nothing without the feature `flex`, or where the C library is not glibc.
pub fn keep_freed_memory() {
    #[cfg(feature = "flex")]
    cpu::keep_freed_memory();
}

/// Gives all that is freed back to the system: where a large part of a model has been dropped, after [`keep_freed_memory`].
pub fn return_freed_memory() {
    #[cfg(feature = "flex")]
    cpu::return_freed_memory();
}

/// Runs `work` on one of the threads that the CPU kernels compute on. Called from any other, each operation wakes one of them and sleeps until it
/// is done.
///
/// A program does in it all that it computes. `work` may not wait for a thread that computes as well: it could wait for this one. Without the feature
/// `flex` it runs on the thread that calls.
///
/// # Panics
/// If `work` does.
pub fn on_workers<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    #[cfg(feature = "flex")]
    {
        /// Bytes, of which a main thread usually has 8 MiB and one of rayon's 2.
        const STACK: usize = 16 << 20;
        // Where the threads are there already, they stay as they are.
        let _ = rayon::ThreadPoolBuilder::new()
            .stack_size(STACK)
            .build_global();
        rayon::scope(|_| work())
    }
    #[cfg(not(feature = "flex"))]
    work()
}

/// How exactly the products of f32 numbers are computed, in PyTorch's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Float32MatmulPrecision {
    /// In f32.
    #[default]
    Highest,
    /// Each factor rounded to bf16, sums in f32, where the processor multiplies so faster; in f32 where it does not.
    Medium,
}

/// How the CPU's products are computed from now on, in the whole process: those of linear layers, convolutions and attention, forward and backward.
/// PyTorch's function of that name.
///
/// At `Medium`, results differ from those in f32 by 2⁻⁹ of each factor, as where PyTorch computes in bf16; what is between the products, and where
/// they are summed, stays f32. Weights in 16 bits are taken as they are. It changes anything only with the feature `flex`, and where
/// [`has_bf16_products`]; on a processor without AMX 3×3 convolutions stay in f32, for by minimal filtering they are faster so.
pub fn set_float32_matmul_precision(precision: Float32MatmulPrecision) {
    #[cfg(feature = "flex")]
    cpu::allow_rounding(precision == Float32MatmulPrecision::Medium);
    #[cfg(not(feature = "flex"))]
    let _ = precision;
}

/// How the CPU's products are computed now: [`Float32MatmulPrecision::Medium`] only where it was set and the processor does it.
pub fn get_float32_matmul_precision() -> Float32MatmulPrecision {
    #[cfg(feature = "flex")]
    if rounds_products() {
        return Float32MatmulPrecision::Medium;
    }
    Float32MatmulPrecision::Highest
}

/// Whether this processor multiplies bf16 faster than f32, and the system lets it: AMD's since Zen 4, twice as fast, and Intel's with AMX, under Linux
/// 5.16 or newer, many times.
pub fn has_bf16_products() -> bool {
    #[cfg(feature = "flex")]
    return cpu::can_round();
    #[cfg(not(feature = "flex"))]
    false
}

/// Takes the fused path, where it is compiled in and all tensors are f32 on the CPU backend; else goes on.
macro_rules! fused {
    ([$($tensor:expr),*], $operation:ident($($argument:expr),*)) => {
        fused!([$($tensor),*] where [$($tensor),*], $operation($($argument),*))
    };
    ([$($tensor:expr),*] where [$($checked:expr),*], $operation:ident($($argument:expr),*)) => {
        #[cfg(feature = "flex")]
        if all_fused([$(&$checked),*]) {
            return Tensor::from_dispatch(Dispatch::$operation($($tensor.into_dispatch(),)* $($argument),*));
        }
    };
}

/// A weight in the number type of what it meets. Weights may be kept in 16 bits while activations are f32: they are widened as they are used.
fn in_type_of<const D: usize, const E: usize>(weight: Tensor<D>, input: &Tensor<E>) -> Tensor<D> {
    if weight.dtype() == input.dtype() {
        return weight;
    }
    #[cfg(feature = "flex")]
    if on_cpu(&weight)
        && matches!(weight.dtype(), DType::F16 | DType::BF16)
        && input.dtype() == DType::F32
    {
        return Tensor::from_dispatch(Dispatch::fused_widen(weight.into_dispatch()));
    }
    weight.cast(FloatDType::from(input.dtype()))
}

/// As [`in_type_of`], but a product on the CPU takes the weight as it is where it rounds it anyway.
fn factor<const D: usize, const E: usize>(weight: Tensor<D>, input: &Tensor<E>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if input.dtype() == DType::F32 && stays_short(&weight) {
        return weight;
    }
    in_type_of(weight, input)
}

/// The sum of two tensors, as a block adds its input to its output. On the CPU all threads add, over one of the two where nothing else holds it.
///
/// # Shapes
/// - `first`, `second`, output: the same, or what burn broadcasts
///
/// # Panics
/// If burn cannot broadcast one to the other.
pub fn add<const D: usize>(first: Tensor<D>, second: Tensor<D>) -> Tensor<D> {
    if first.shape() == second.shape() && first.shape().num_elements() > 0 {
        fused!([first, second], fused_add());
    }
    first + second
}

/// Scaled dot-product attention, `softmax(Q Kᵀ / √head_dim) V` (Vaswani et al. 2017, eq. 1).
///
/// With `causal`, position *i* sees positions up to *i* alone. No `[positions × tokens]` matrix is kept for the gradients.
///
/// # Shapes
/// - `query`: `[batch, heads, positions, head_dim]`
/// - `key`, `value`: `[batch, heads, tokens, head_dim]`
/// - output: `[batch, heads, positions, head_dim]`
///
/// # Panics
/// If the shapes do not fit each other, or there are fewer tokens than causal positions.
pub fn attention(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, causal: bool) -> Tensor<4> {
    let [batch, heads, positions, dim] = query.dims();
    let [_, _, tokens, _] = key.dims();
    assert!(
        key.dims() == [batch, heads, tokens, dim] && value.dims() == key.dims(),
        "attention of queries {:?} over keys {:?} and values {:?}",
        query.dims(),
        key.dims(),
        value.dims()
    );
    assert!(
        !causal || tokens >= positions,
        "causal attention of {positions} positions over {tokens} tokens"
    );
    if positions > 0 && tokens > 0 {
        fused!([query, key, value], fused_attention(causal));
    }
    // burn counts causal positions from the last token: without those that no position sees, the last is the position's own.
    let [key, value] = match causal && tokens > positions {
        true => [key, value].map(|tensor| tensor.narrow(2, 0, positions)),
        false => [key, value],
    };
    if positions > 0 && tokens > 0 {
        #[cfg(any(feature = "flex", feature = "cube"))]
        if [&query, &key, &value].into_iter().any(recomputed::takes) {
            return Tensor::from_dispatch(Dispatch::recomputed_attention(
                query.into_dispatch(),
                key.into_dispatch(),
                value.into_dispatch(),
                causal,
            ));
        }
    }
    portable::attention(query, key, value, causal)
}

/// Group normalisation (Wu & He 2018).
///
/// # Shapes
/// - `input`, output: `[batch, channels, ..]`
///
/// # Panics
/// If `input` has not the channels of `norm`.
pub fn group_norm<const D: usize>(input: Tensor<D>, norm: &GroupNorm) -> Tensor<D> {
    normalize(input, norm, false)
}

/// Group normalisation followed by SiLU, as every residual block begins.
///
/// # Shapes
/// - `input`, output: `[batch, channels, ..]`
///
/// # Panics
/// If `input` has not the channels of `norm`.
pub fn group_norm_silu<const D: usize>(input: Tensor<D>, norm: &GroupNorm) -> Tensor<D> {
    normalize(input, norm, true)
}

fn normalize<const D: usize>(input: Tensor<D>, norm: &GroupNorm, silu: bool) -> Tensor<D> {
    assert_eq!(
        input.dims()[1],
        norm.num_channels,
        "channels of a group norm's input"
    );
    #[cfg(feature = "flex")]
    if let (Some(weight), Some(bias)) = (&norm.gamma, &norm.beta)
        && input.shape().num_elements() > 0
    {
        let (weight, bias) = (weight.val(), bias.val());
        fused!(
            [input, weight, bias],
            fused_group_norm(norm.num_groups, norm.epsilon, silu)
        );
    }
    portable::group_norm(input, norm, silu)
}

/// Layer normalisation over the last axis (Ba et al. 2016). `epsilon` is the one that `norm` was made with, which burn keeps to itself.
///
/// # Shapes
/// - `input`, output: `[.., channels]`
///
/// # Panics
/// If `input` has not the channels of `norm`.
pub fn layer_norm<const D: usize>(input: Tensor<D>, norm: &LayerNorm, epsilon: f64) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if let Some(bias) = &norm.beta
        && input.shape().num_elements() > 0
    {
        let (weight, bias) = (norm.gamma.val(), bias.val());
        assert_eq!(
            input.dims()[D - 1],
            weight.dims()[0],
            "channels of a layer norm's input"
        );
        fused!([input, weight, bias], fused_layer_norm(epsilon));
    }
    portable::layer_norm(input, norm, epsilon)
}

/// A linear layer, `x W + b`. Its weight may be of another float type than the input, which decides.
///
/// Where a pair of [low-rank factors](LowRank) is on the weight, the CPU's gradients of the factors come from the activations, and none of
/// the weight's size is computed.
///
/// # Shapes
/// - `input`: `[.., in]`
/// - output: `[.., out]`
///
/// # Panics
/// If `input` has not the width of `layer`.
pub fn linear<const D: usize>(input: Tensor<D>, layer: &Linear) -> Tensor<D> {
    let bias = layer.bias.as_ref().map(Param::val);
    #[cfg(feature = "flex")]
    if let Some(out) = adapted(&input, &layer.weight, |weight| weight, bias.as_ref()) {
        return out;
    }
    if let Some(pairs) = beside(&input, &layer.weight, rounds(&input)) {
        let out = product(input.clone(), layer.weight.base(), bias);
        return add_products(out, &input, pairs);
    }
    let weight = with_factors(&layer.weight, &input);
    product(input, weight, bias)
}

/// A 1×1 convolution of positions: [`linear`] with a convolution's weight.
///
/// # Shapes
/// - `input`: `[.., in]`
/// - output: `[.., out]`
///
/// # Panics
/// If `input` has not the channels of `layer`, or its kernel is larger.
pub fn pointwise<const D: usize>(input: Tensor<D>, layer: &Conv2d) -> Tensor<D> {
    let matrix = |weight: Tensor<4>| {
        let [out, from, _, _] = weight.dims();
        weight.reshape([out, from]).transpose()
    };
    let bias = layer.bias.as_ref().map(Param::val);
    #[cfg(feature = "flex")]
    if let Some(out) = adapted(&input, &layer.weight, matrix, bias.as_ref()) {
        return out;
    }
    if let Some(pairs) = beside(&input, &layer.weight, rounds(&input)) {
        let out = product(input.clone(), matrix(layer.weight.base()), bias);
        return add_products(out, &input, pairs);
    }
    let weight = matrix(with_factors(&layer.weight, &input));
    product(input, weight, bias)
}

/// The pairs of factors that are to be multiplied with the input and not added to the weight: where a weight of so few bits would not change by
/// what they add to it. That is so if they are trained in 16 bits, or if the product is `rounded` to them.
fn beside<'a, const D: usize, const E: usize>(
    input: &Tensor<D>,
    weight: &'a Param<Tensor<E>>,
    rounded: bool,
) -> Option<Vec<&'a LowRank>> {
    let stack = weight.reparameterization::<LowRankStack>()?;
    let short = matches!(input.dtype(), DType::F16 | DType::BF16);
    (short && stack.is_trained() || rounded).then(|| stack.live().collect())
}

/// Whether the factors of this input's products are rounded to bf16.
fn rounds<const D: usize>(input: &Tensor<D>) -> bool {
    #[cfg(feature = "flex")]
    return input.dtype() == DType::F32 && rounds_products() && on_cpu(input);
    #[cfg(not(feature = "flex"))]
    {
        let _ = input;
        false
    }
}

/// A weight with its factors on it, for a product with this input. Where the weight is kept in 16 bits and the input is not, it is widened first,
/// so that none of the factors is lost.
fn with_factors<const D: usize, const E: usize>(
    weight: &Param<Tensor<E>>,
    input: &Tensor<D>,
) -> Tensor<E> {
    match weight.reparameterization::<LowRankStack>() {
        Some(stack) if input.dtype() == DType::F32 => stack.apply(in_type_of(weight.base(), input)),
        _ => weight.val(),
    }
}

/// `out + Σ x downᵀ upᵀ`.
fn add_products<const D: usize>(
    out: Tensor<D>,
    input: &Tensor<D>,
    pairs: Vec<&LowRank>,
) -> Tensor<D> {
    pairs.into_iter().fold(out, |out, pair| {
        let hidden = product(input.clone(), pair.down.val().transpose(), None);
        out + product(hidden, pair.scaled_up().transpose(), None)
    })
}

/// `x (W + ΔW) + b` where one pair of factors is on a weight, all else is frozen, and the CPU computes.
#[cfg(feature = "flex")]
fn adapted<const D: usize, const E: usize>(
    input: &Tensor<D>,
    weight: &Param<Tensor<E>>,
    matrix: impl Fn(Tensor<E>) -> Tensor<2>,
    bias: Option<&Tensor<1>>,
) -> Option<Tensor<D>> {
    let factors = weight.reparameterization::<LowRankStack>()?.single()?;
    let base = weight.base();
    let frozen = !base.is_require_grad() && bias.is_none_or(|bias| !bias.is_require_grad());
    let base = factor(matrix(base), input);
    let [from, out] = base.dims();
    assert_eq!(
        input.dims()[D - 1],
        from,
        "channels of a linear layer's input"
    );
    let bias = match bias {
        Some(bias) => in_type_of(bias.clone(), input),
        None => Tensor::zeros([out], (&input.device(), input.dtype())),
    };
    let (down, up) = (factors.down.val(), factors.scaled_up());
    if !frozen || !all_fused([input, &Factored(&base), &bias, &down, &up]) {
        return None;
    }
    Some(Tensor::from_dispatch(Dispatch::fused_adapted(
        input.clone().into_dispatch(),
        base.into_dispatch(),
        bias.into_dispatch(),
        down.into_dispatch(),
        up.into_dispatch(),
    )))
}

/// `x W + b`, as a linear layer of this weight and bias.
///
/// # Shapes
/// - `input`: `[.., in]`
/// - `weight`: `[in, out]`, in whatever order it lies
/// - `bias`: `[out]`
/// - output: `[.., out]`
///
/// # Panics
/// If the sizes do not fit each other.
pub fn product<const D: usize>(
    input: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    assert_eq!(
        input.dims()[D - 1],
        weight.dims()[0],
        "channels of a linear layer's input"
    );
    let weight = factor(weight, &input);
    let bias = bias.map(|bias| in_type_of(bias, &input));
    match bias {
        Some(bias) => {
            fused!([input, weight, bias] where [input, Factored(&weight), bias], fused_linear());
            portable::linear(input, weight, Some(bias))
        }
        None => {
            fused!([input, weight] where [input, Factored(&weight)], fused_product());
            portable::linear(input, weight, None)
        }
    }
}

/// A convolution. On the CPU those of 3×3 with stride and padding 1, and those of 1×1, are computed by minimal filtering (Lavin & Gray 2016)
/// and as a matrix product; the others as burn does. Its weight may be of another float type than the input, which decides.
///
/// [Low-rank factors](LowRank) on the weight that are trained, or that take fewer multiplications so, are multiplied with the input, one convolution
/// after the other; others are put on the weight first.
///
/// # Shapes
/// - `input`: `[batch, in, height, width]`
/// - output: `[batch, out, height, width]`, where the stride is 1 and the padding keeps the size
///
/// # Panics
/// If `input` has not the channels of `layer`.
pub fn conv2d(input: Tensor<4>, layer: &Conv2d) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if let Some(bias) = &layer.bias
        && input.dtype() == DType::F32
        && keeps_size(layer)
        && input.shape().num_elements() > 0
    {
        return convolve(input, &layer.weight, bias.val(), false);
    }
    forward(input, layer)
}

/// As burn computes it, with the weight in the input's number type.
fn forward(input: Tensor<4>, layer: &Conv2d) -> Tensor<4> {
    let options = options(layer, &input);
    let convolve = |input: Tensor<4>, weight, bias, options| {
        let weight = in_type_of(weight, &input);
        module::conv2d(input, weight, bias, options)
    };
    let bias = layer.bias.as_ref();
    let bias = bias.map(|bias| in_type_of(bias.val(), &input));
    let positions = input.shape().num_elements() / layer.weight.dims()[1].max(1);
    let Some(pairs) = beside_convolution(&input, &layer.weight, positions, false) else {
        let weight = with_factors(&layer.weight, &input);
        return convolve(input, weight, bias, options);
    };
    let out = convolve(input.clone(), layer.weight.base(), bias, options.clone());
    pairs.into_iter().fold(out, |out, pair| {
        let [down, up] = kernels(pair, &layer.weight);
        let hidden = convolve(input.clone(), down, None, options.clone());
        let alone = ConvOptions::new([1, 1], [0, 0], [1, 1], 1);
        out + convolve(hidden, up, None, alone)
    })
}

/// As [`beside`], of a convolution of so many positions: also where its factors are trained, so that no gradient of the weight's size is
/// computed, and where putting them on the weight would take more multiplications.
fn beside_convolution<'a>(
    input: &Tensor<4>,
    weight: &'a Param<Tensor<4>>,
    positions: usize,
    rounded: bool,
) -> Option<Vec<&'a LowRank>> {
    let stack = weight.reparameterization::<LowRankStack>()?;
    let [out, from, high, wide] = weight.dims();
    let inner = from * high * wide;
    let fewer = positions * (inner + out) < inner * out;
    if fewer || stack.is_trained() {
        return Some(stack.live().collect());
    }
    beside(input, weight, rounded)
}

/// A pair as two convolutions, one after the other: from the input's channels to the rank, and at each position from there to the output's.
fn kernels(pair: &LowRank, weight: &Param<Tensor<4>>) -> [Tensor<4>; 2] {
    let [out, from, high, wide] = weight.dims();
    let rank = pair.rank();
    [
        pair.down.val().reshape([rank, from, high, wide]),
        pair.scaled_up().reshape([out, rank, 1, 1]),
    ]
}

/// How burn's layer convolves an input.
fn options(layer: &Conv2d, input: &Tensor<4>) -> ConvOptions<2> {
    let [_, _, height, width] = input.dims();
    let same = |kernel: usize, stride: usize, size: usize| {
        let padding = (size.div_ceil(stride).max(1) - 1) * stride + kernel;
        let padding = padding.saturating_sub(size);
        (padding / 2, padding.div_ceil(2))
    };
    let ([high, wide], [down, along]) = (layer.kernel_size, layer.stride);
    let padding = match layer.padding {
        PaddingConfig2d::Valid => [(0, 0); 2],
        PaddingConfig2d::Same => [same(high, down, height), same(wide, along, width)],
        PaddingConfig2d::Explicit(top, left, bottom, right) => [(top, bottom), (left, right)],
    };
    ConvOptions::new_with_padding(layer.stride, padding, layer.dilation, layer.groups)
}

/// Nearest-neighbour upsampling to twice the height and width, then a convolution. Where the convolution is a fused one, the enlarged
/// picture is never stored.
///
/// # Shapes
/// - `input`: `[batch, in, height, width]`
/// - output: `[batch, out, 2 · height, 2 · width]`, where the stride is 1 and the padding keeps the size
///
/// # Panics
/// If `input` has not the channels of `layer`.
pub fn upsample_conv2d(input: Tensor<4>, layer: &Conv2d) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if let Some(bias) = &layer.bias
        && input.dtype() == DType::F32
        && keeps_size(layer)
        && layer.kernel_size == [3, 3]
        && input.shape().num_elements() > 0
    {
        return convolve(input, &layer.weight, bias.val(), true);
    }
    forward(portable::double(input), layer)
}

/// A convolution that [`keeps_size`], of the input as it is or doubled, with the factors on its weight.
#[cfg(feature = "flex")]
fn convolve(
    input: Tensor<4>,
    weight: &Param<Tensor<4>>,
    bias: Tensor<1>,
    doubled: bool,
) -> Tensor<4> {
    let [batch, _, height, width] = input.dims();
    let positions = batch * height * width * if doubled { 4 } else { 1 };
    let rounded = rounds(&input) && (weight.dims()[2] == 1 || cpu::rounds_convolutions());
    let Some(pairs) = beside_convolution(&input, weight, positions, rounded) else {
        let weight = with_factors(weight, &input);
        return convolve_by(input, weight, bias, doubled);
    };
    let no_bias = |channels| Tensor::zeros([channels], (&input.device(), DType::F32));
    let out = convolve_by(input.clone(), weight.base(), bias, doubled);
    pairs.into_iter().fold(out, |out, pair| {
        let [down, up] = kernels(pair, weight);
        let [channels, rank, _, _] = up.dims();
        let hidden = convolve_by(input.clone(), down, no_bias(rank), doubled);
        add(out, convolve_by(hidden, up, no_bias(channels), false))
    })
}

/// The same with this weight.
#[cfg(feature = "flex")]
fn convolve_by(input: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>, doubled: bool) -> Tensor<4> {
    assert_eq!(
        input.dims()[1],
        weight.dims()[1],
        "channels of a convolution's input"
    );
    let bias = in_type_of(bias, &input);
    // Its kernels are widened as they are transformed.
    let weight = match input.dtype() == DType::F32 && is_short(&weight) {
        true => weight,
        false => in_type_of(weight, &input),
    };
    fused!([input, weight, bias] where [input, Factored(&weight), bias], fused_convolution(doubled));
    let input = if doubled {
        portable::double(input)
    } else {
        input
    };
    portable::convolve(input, weight, bias)
}

/// Whether a layer is a 3×3 convolution with padding 1, or a 1×1 one, with no stride, dilation or groups.
#[cfg(feature = "flex")]
fn keeps_size(layer: &Conv2d) -> bool {
    let plain = layer.stride == [1, 1] && layer.dilation == [1, 1] && layer.groups == 1;
    plain
        && matches!(
            (layer.kernel_size, &layer.padding),
            ([3, 3], PaddingConfig2d::Explicit(1, 1, 1, 1))
                | (
                    [1, 1],
                    PaddingConfig2d::Valid | PaddingConfig2d::Explicit(0, 0, 0, 0)
                )
                | ([3, 3] | [1, 1], PaddingConfig2d::Same)
        )
}

/// `x · sigmoid(x)` (Elfwing et al. 2017), of each element.
pub fn silu<const D: usize>(input: Tensor<D>) -> Tensor<D> {
    fused!([input], fused_swish(1.0));
    portable::silu(input)
}

/// `x · Φ(x)`, of each element: the exact, error-function GELU (Hendrycks & Gimpel 2016).
pub fn gelu<const D: usize>(input: Tensor<D>) -> Tensor<D> {
    fused!([input], fused_gelu());
    portable::gelu(input)
}

/// `hidden · GELU(gate)` with the exact, error-function GELU, where the last axis of the input holds `hidden`, then `gate` (Shazeer 2020).
///
/// # Shapes
/// - `input`: `[.., 2 · channels]`
/// - output: `[.., channels]`
///
/// # Panics
/// If the last axis is odd.
pub fn geglu<const D: usize>(input: Tensor<D>) -> Tensor<D> {
    let channels = input.dims()[D - 1];
    assert!(
        channels.is_multiple_of(2),
        "GEGLU halves its last axis, which has {channels} channels"
    );
    if channels > 0 {
        fused!([input], fused_geglu());
    }
    portable::geglu(input)
}

/// `x · sigmoid(1.702 x)`, of each element: the approximation of GELU that OpenAI's CLIP was trained with.
pub fn quick_gelu<const D: usize>(input: Tensor<D>) -> Tensor<D> {
    fused!([input], fused_swish(1.702));
    portable::quick_gelu(input)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::GroupNormConfig;
    use parity::{device, relative_error, values};

    fn ramp<const D: usize>(shape: [usize; D]) -> Tensor<D> {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count)
            .map(|i| (i as f32 * 0.37).sin() + 0.2 * (i as f32 * 0.011).cos())
            .collect();
        Tensor::<1>::from_floats(values.as_slice(), &device()).reshape(shape)
    }

    /// Softmax attention in plain loops, in f64.
    fn attention_by_hand(q: &Tensor<4>, k: &Tensor<4>, v: &Tensor<4>, causal: bool) -> Vec<f32> {
        let ([batch, heads, positions, dim], tokens) = (q.dims(), k.dims()[2]);
        let (q, k, v) = (values(q.clone()), values(k.clone()), values(v.clone()));
        let mut out = vec![];
        for head in 0..batch * heads {
            for i in 0..positions {
                let seen = if causal { i + 1 } else { tokens };
                let score = |j: usize| -> f64 {
                    (0..dim)
                        .map(|d| {
                            f64::from(q[(head * positions + i) * dim + d])
                                * f64::from(k[(head * tokens + j) * dim + d])
                        })
                        .sum::<f64>()
                        / (dim as f64).sqrt()
                };
                let weights: Vec<f64> = (0..seen).map(|j| score(j).exp()).collect();
                let total: f64 = weights.iter().sum();
                for d in 0..dim {
                    let sum: f64 = (0..seen)
                        .map(|j| weights[j] * f64::from(v[(head * tokens + j) * dim + d]))
                        .sum();
                    out.push((sum / total) as f32);
                }
            }
        }
        out
    }

    #[test]
    fn attention_is_the_softmax_of_scaled_products() {
        for (positions, tokens, causal) in [(7, 5, false), (33, 77, false), (9, 9, true)] {
            let q = ramp([2, 3, positions, 10]);
            let k = ramp([2, 3, tokens, 10]).flip([2]);
            let v = ramp([2, 3, tokens, 10]).flip([3]) + 0.5;
            let wanted = attention_by_hand(&q, &k, &v, causal);
            let error = relative_error(&values(attention(q, k, v, causal)), &wanted);
            assert!(
                error < 1e-5,
                "{positions}×{tokens} causal={causal}: {error:e}"
            );
        }
    }

    #[test]
    fn a_causal_position_sees_as_many_tokens_in_every_number_type() {
        let [q, k, v] = [(5, 0), (9, 3), (9, 4)].map(|(length, axis)| match axis {
            0 => ramp([1, 2, length, 10]),
            axis => ramp([1, 2, length, 10]).flip([axis - 1]),
        });
        let wanted = attention_by_hand(&q, &k, &v, true);
        for (dtype, most) in [(FloatDType::F32, 1e-5), (FloatDType::F16, 0.01)] {
            for tracked in [false, true] {
                let [q, k, v] = [&q, &k, &v].map(|tensor| {
                    let tensor = tensor.clone().cast(dtype);
                    match tracked {
                        true => Tensor::from_inner(tensor).require_grad(),
                        false => tensor,
                    }
                });
                let error = relative_error(&values(attention(q, k, v, true)), &wanted);
                assert!(error < most, "{dtype:?}, tracked={tracked}: {error:e}");
            }
        }
    }

    #[test]
    fn group_norm_centres_each_group_and_silu_follows() {
        let norm = GroupNormConfig::new(2, 4).init(&device());
        let input = ramp([2, 4, 3, 5]) * 3.0 + 2.0;
        let plain = group_norm(input.clone(), &norm);
        for group in values(plain.clone()).chunks(2 * 15) {
            let mean: f32 = group.iter().sum::<f32>() / group.len() as f32;
            let square: f32 = group.iter().map(|x| x * x).sum::<f32>() / group.len() as f32;
            assert!(
                mean.abs() < 1e-5 && (square - 1.0).abs() < 1e-3,
                "{mean} {square}"
            );
        }
        let wanted: Vec<f32> = values(plain)
            .iter()
            .map(|x| x / (1.0 + (-x).exp()))
            .collect();
        assert!(relative_error(&values(group_norm_silu(input, &norm)), &wanted) < 1e-6);
    }

    #[test]
    fn geglu_gates_the_first_half_by_the_second() {
        let ours = geglu(Tensor::<2>::from_floats(
            [[2.0, -1.0, 1.0, -0.5]],
            &device(),
        ));
        // GELU(1) = 0.841345, GELU(-0.5) = -0.154269
        assert!(relative_error(&values(ours), &[1.682_689, 0.154_269]) < 1e-5);
    }

    #[test]
    fn quick_gelu_is_the_sigmoid_approximation() {
        let ours = quick_gelu(Tensor::<1>::from_floats([1.0, -2.0], &device()));
        assert!(relative_error(&values(ours), &[0.845_796, -0.064_337]) < 1e-4);
    }
}
