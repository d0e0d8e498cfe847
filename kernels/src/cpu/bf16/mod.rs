//! Products of numbers rounded to bf16, with sums in f32, on processors that multiply those faster than f32: by AMX's tiles (Intel's Xeons since
//! 2023) many times, by AVX-512's vectors (AMD's processors since Zen 4) twice. Only where [`allow`] says so: PyTorch calls it
//! `torch.set_float32_matmul_precision("medium")`.
//!
//! Every function here gives `None` where it is not allowed, the processor cannot, or the work is too small to be worth it.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod attention;
#[cfg(target_arch = "x86_64")]
mod convolution;
#[cfg(target_arch = "x86_64")]
mod panel;
#[cfg(target_arch = "x86_64")]
mod product;
#[cfg(target_arch = "x86_64")]
mod unit;
#[cfg(target_arch = "x86_64")]
mod vectors;

use std::sync::atomic::{AtomicBool, Ordering};

use half::{bf16, f16};

use super::attention::{Gradients, Heads};
use super::convolution::Shape;
use super::gemm::Matrix;
use super::math::Short;
#[cfg(target_arch = "x86_64")]
use unit::Unit;

static ALLOWED: AtomicBool = AtomicBool::new(false);

/// Whether products may be rounded from now on.
pub(crate) fn allow(allowed: bool) {
    ALLOWED.store(allowed, Ordering::Relaxed);
}

/// Whether products are rounded: it is allowed, and the processor can.
pub(crate) fn used() -> bool {
    ALLOWED.load(Ordering::Relaxed) && available()
}

/// Whether the processor can, and the system lets it.
pub(crate) fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    return Unit::get().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether 3×3 convolutions are rounded too.
pub(crate) fn convolves() -> bool {
    #[cfg(target_arch = "x86_64")]
    return matches!(unit(), Some(Unit::Tiles(_)));
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// What multiplies, where it may.
#[cfg(target_arch = "x86_64")]
fn unit() -> Option<Unit> {
    ALLOWED.load(Ordering::Relaxed).then(Unit::get).flatten()
}

/// Numbers of any float type, which are rounded as they are packed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Numbers<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
}

impl Numbers<'_> {
    /// Those from `first` on as f32.
    pub(crate) fn widen(&self, first: usize, out: &mut [f32]) {
        let here = first..first + out.len();
        match self {
            Self::F32(data) => out.copy_from_slice(&data[here]),
            Self::F16(data) => Short::widen(&data[here], out),
            Self::Bf16(data) => Short::widen(&data[here], out),
        }
    }
}

/// A matrix of any float type: element `(row, column)` lies at `row · strides[0] + column · strides[1]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Factor<'a> {
    pub numbers: Numbers<'a>,
    pub rows: usize,
    pub columns: usize,
    pub strides: [usize; 2],
}

impl Factor<'_> {
    pub(crate) fn transposed(self) -> Self {
        let Self {
            rows,
            columns,
            strides: [down, along],
            ..
        } = self;
        Self {
            rows: columns,
            columns: rows,
            strides: [along, down],
            ..self
        }
    }
}

impl<'a> From<Matrix<'a>> for Factor<'a> {
    fn from(matrix: Matrix<'a>) -> Self {
        Self {
            numbers: Numbers::F32(matrix.data),
            rows: matrix.rows,
            columns: matrix.columns,
            strides: matrix.strides,
        }
    }
}

/// A convolution's weight `[out, in, 3, 3]`, or the one of its input gradient: channels exchanged, and turned by half a circle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernels<'a> {
    pub numbers: Numbers<'a>,
    pub backward: bool,
}

/// `A · B`, `[rows of A, columns of B]`, with a bias added to every row.
///
/// # Panics
/// If the sizes do not fit each other.
pub(crate) fn product(a: Factor<'_>, b: Factor<'_>, bias: Option<&[f32]>) -> Option<Vec<f32>> {
    sum_of_products(&[[a, b]], bias)
}

/// `Σ A · B` over pairs, of which there is one at least, with a bias added to every row.
///
/// # Panics
/// If the sizes do not fit each other.
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(unused_variables, reason = "there is no unit that would take them")
)]
pub(crate) fn sum_of_products(pairs: &[[Factor<'_>; 2]], bias: Option<&[f32]>) -> Option<Vec<f32>> {
    #[cfg(target_arch = "x86_64")]
    if let Some(unit) = unit()
        && product::pays(&pairs[0])
    {
        return Some(product::sum_of_products(unit, pairs, bias));
    }
    None
}

/// The 3×3 convolution of `input`, `[batch, in, height, width]`, and a bias.
///
/// # Panics
/// If the sizes do not fit each other.
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(unused_variables, reason = "there is no unit that would take them")
)]
pub(crate) fn convolve(
    input: &[f32],
    weight: Kernels<'_>,
    bias: Option<&[f32]>,
    shape: Shape,
) -> Option<Vec<f32>> {
    #[cfg(target_arch = "x86_64")]
    if let Some(Unit::Tiles(amx)) = unit()
        && convolution::pays(&shape)
    {
        return Some(convolution::convolve(amx, input, weight, bias, shape));
    }
    None
}

/// As [`attention::forward`](super::attention::forward).
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(unused_variables, reason = "there is no unit that would take them")
)]
pub(crate) fn attend(
    q: Heads<'_>,
    k: Heads<'_>,
    v: Heads<'_>,
    causal: bool,
) -> Option<(Vec<f32>, Vec<f32>)> {
    #[cfg(target_arch = "x86_64")]
    if let Some(unit) = unit()
        && attention::pays(&q, &k, causal)
    {
        return Some(attention::forward(unit, q, k, v));
    }
    None
}

/// As [`attention::backward`](super::attention::backward).
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(unused_variables, reason = "there is no unit that would take them")
)]
pub(crate) fn attention_gradients(
    inputs: [Heads<'_>; 5],
    sums: &[f32],
    causal: bool,
) -> Option<Gradients> {
    #[cfg(target_arch = "x86_64")]
    if let Some(unit) = unit()
        && attention::pays(&inputs[0], &inputs[1], causal)
    {
        return Some(attention::backward(unit, inputs, sums));
    }
    None
}
