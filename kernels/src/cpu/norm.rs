//! Group norm (Wu & He 2018), with SiLU after it or not, and layer norm (Ba et al. 2016).

use std::mem::MaybeUninit;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::math::{sigmoid, swish_slope};
use super::memory::{build, fill, fill_parts};

/// Elements that are summed in f32 before the sum goes on in f64.
const BLOCK: usize = 4096;
/// Elements of the rows that one task of layer norm takes.
const CHUNK: usize = 1 << 14;

/// What a group norm is over: `[batch, channels, cells]`, in `groups`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Groups {
    pub channels: usize,
    pub cells: usize,
    pub groups: usize,
    pub epsilon: f32,
    pub silu: bool,
}

impl Groups {
    fn channels_of_group(&self) -> usize {
        self.channels / self.groups
    }

    fn size(&self) -> usize {
        self.channels_of_group() * self.cells
    }
}

/// Mean and reciprocal standard deviation.
#[derive(Clone, Copy)]
struct Moments {
    mean: f32,
    rate: f32,
}

/// What is added up over two slices.
trait Term {
    fn add<S: Simd>(&self, simd: S, x: S::f32s, y: S::f32s, sum: S::f32s) -> S::f32s;
    fn add_one(&self, x: f32, y: f32, sum: f32) -> f32;
}

/// x
struct Plain;

impl Term for Plain {
    #[inline(always)]
    fn add<S: Simd>(&self, simd: S, x: S::f32s, _: S::f32s, sum: S::f32s) -> S::f32s {
        simd.add_f32s(x, sum)
    }

    #[inline(always)]
    fn add_one(&self, x: f32, _: f32, sum: f32) -> f32 {
        x + sum
    }
}

/// (x - mean)²
struct Deviation(f32);

impl Term for Deviation {
    #[inline(always)]
    fn add<S: Simd>(&self, simd: S, x: S::f32s, _: S::f32s, sum: S::f32s) -> S::f32s {
        let x = simd.sub_f32s(x, simd.splat_f32s(self.0));
        simd.mul_add_e_f32s(x, x, sum)
    }

    #[inline(always)]
    fn add_one(&self, x: f32, _: f32, sum: f32) -> f32 {
        (x - self.0) * (x - self.0) + sum
    }
}

/// x · y
struct Product;

impl Term for Product {
    #[inline(always)]
    fn add<S: Simd>(&self, simd: S, x: S::f32s, y: S::f32s, sum: S::f32s) -> S::f32s {
        simd.mul_add_e_f32s(x, y, sum)
    }

    #[inline(always)]
    fn add_one(&self, x: f32, y: f32, sum: f32) -> f32 {
        x * y + sum
    }
}

/// The sum of a term, in f32 by lanes and in f64 by blocks.
#[inline(always)]
fn sum<S: Simd>(simd: S, term: impl Term, x: &[f32], y: &[f32]) -> f64 {
    let mut total = 0f64;
    for (x, y) in x.chunks(BLOCK).zip(y.chunks(BLOCK)) {
        // Four sums, so that an addition need not wait for the one before it.
        let (xs, x) = S::as_simd_f32s(x);
        let (ys, y) = S::as_simd_f32s(y);
        let (x_fours, xs) = pulp::as_arrays::<4, _>(xs);
        let (y_fours, ys) = pulp::as_arrays::<4, _>(ys);
        let mut sums = [simd.splat_f32s(0.0); 4];
        for (xs, ys) in x_fours.iter().zip(y_fours) {
            for i in 0..4 {
                sums[i] = term.add(simd, xs[i], ys[i], sums[i]);
            }
        }
        for (&x, &y) in xs.iter().zip(ys) {
            sums[0] = term.add(simd, x, y, sums[0]);
        }
        let left = simd.add_f32s(sums[0], sums[1]);
        let sums = simd.add_f32s(left, simd.add_f32s(sums[2], sums[3]));
        let rest = |sum, (&x, &y): (&f32, &f32)| term.add_one(x, y, sum);
        total += f64::from(x.iter().zip(y).fold(simd.reduce_sum_f32s(sums), rest));
    }
    total
}

#[inline(always)]
fn moments<S: Simd>(simd: S, x: &[f32], epsilon: f32) -> Moments {
    let count = x.len() as f64;
    let mean = (sum(simd, Plain, x, x) / count) as f32;
    let variance = sum(simd, Deviation(mean), x, x) / count;
    Moments {
        mean,
        rate: (1.0 / (variance + f64::from(epsilon)).sqrt()) as f32,
    }
}

/// `x · scale + shift` is the normalised channel.
#[inline(always)]
fn affine(moments: Moments, weight: f32, bias: f32) -> (f32, f32) {
    let scale = moments.rate * weight;
    (scale, (-moments.mean).mul_add(scale, bias))
}

pub(crate) fn group_norm(x: &[f32], weight: &[f32], bias: &[f32], shape: Groups) -> Vec<f32> {
    let (size, channels) = (shape.size(), shape.channels_of_group());
    build(x.len(), size, |index, out| {
        let own = index % shape.groups * channels..(index % shape.groups + 1) * channels;
        Arch::new().dispatch(Group {
            x: &x[index * size..][..size],
            weight: &weight[own.clone()],
            bias: &bias[own],
            shape,
            out,
        })
    })
}

/// One group of one member of a batch.
struct Group<'a, 'o> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    shape: Groups,
    out: &'o mut [MaybeUninit<f32>],
}

impl<'o> WithSimd for Group<'_, 'o> {
    type Output = &'o mut [f32];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> &'o mut [f32] {
        let Self {
            x,
            weight,
            bias,
            shape: Groups { cells, silu, .. },
            out,
        } = self;
        let moments = moments(simd, x, self.shape.epsilon);
        fill_parts(
            out,
            cells,
            #[inline(always)]
            |channel, out| {
                let x = &x[channel * cells..][..out.len()];
                let (scale, shift) = affine(moments, weight[channel], bias[channel]);
                if silu {
                    fill(
                        out,
                        #[inline(always)]
                        |i| {
                            let y = x[i].mul_add(scale, shift);
                            y * sigmoid(y)
                        },
                    )
                } else {
                    fill(
                        out,
                        #[inline(always)]
                        |i| x[i].mul_add(scale, shift),
                    )
                }
            },
        )
    }
}

/// Gradients of the input, the weight and the bias.
pub(crate) type NormGradients = (Vec<f32>, Vec<f32>, Vec<f32>);

pub(crate) fn group_norm_backward(
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    grad: &[f32],
    shape: Groups,
) -> NormGradients {
    let (size, channels) = (shape.size(), shape.channels_of_group());
    let count = x.len() / size;
    let mut sums = vec![[0f64; 2]; count * channels];
    let mut dx = vec![0f32; x.len()];
    dx.par_chunks_exact_mut(size)
        .zip(sums.par_chunks_exact_mut(channels))
        .enumerate()
        .for_each(|(index, (dx, sums))| {
            let own = index % shape.groups * channels..(index % shape.groups + 1) * channels;
            Arch::new().dispatch(GroupBackward {
                x: &x[index * size..][..size],
                grad: &grad[index * size..][..size],
                weight: &weight[own.clone()],
                bias: &bias[own],
                shape,
                dx,
                sums,
            });
        });
    let (mut dweight, mut dbias) = (vec![0f64; shape.channels], vec![0f64; shape.channels]);
    for member in sums.chunks_exact(shape.channels) {
        for (channel, [against, total]) in member.iter().enumerate() {
            dweight[channel] += against;
            dbias[channel] += total;
        }
    }
    (dx, narrow(&dweight), narrow(&dbias))
}

/// The gradient of one group of one member of a batch.
struct GroupBackward<'a> {
    x: &'a [f32],
    grad: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    shape: Groups,
    dx: &'a mut [f32],
    /// Of each channel, the gradients of its weight and its bias.
    sums: &'a mut [[f64; 2]],
}

impl WithSimd for GroupBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            x,
            grad,
            weight,
            bias,
            shape,
            dx,
            sums,
        } = self;
        let cells = shape.cells;
        let moments = moments(simd, x, shape.epsilon);
        let (mut pull, mut turn) = (0f64, 0f64);
        for (channel, sums) in sums.iter_mut().enumerate() {
            let part = channel * cells..(channel + 1) * cells;
            let (x, grad, out) = (&x[part.clone()], &grad[part.clone()], &mut dx[part]);
            let weight = weight[channel];
            // The gradient after the norm, kept where the result will stand.
            if shape.silu {
                let (scale, shift) = affine(moments, weight, bias[channel]);
                for ((out, &x), &grad) in out.iter_mut().zip(x).zip(grad) {
                    *out = grad * swish_slope(x.mul_add(scale, shift), 1.0);
                }
            }
            let pulls: &[f32] = if shape.silu { out } else { grad };
            let total = sum(simd, Plain, pulls, pulls);
            let against = (sum(simd, Product, pulls, x) - total * f64::from(moments.mean))
                * f64::from(moments.rate);
            *sums = [against, total];
            pull += total * f64::from(weight);
            turn += against * f64::from(weight);
        }
        let size = x.len() as f64;
        let (pull, turn) = ((pull / size) as f32, (turn / size) as f32);
        for (channel, out) in dx.chunks_exact_mut(cells).enumerate() {
            let part = channel * cells..(channel + 1) * cells;
            let (x, grad, weight) = (&x[part.clone()], &grad[part], weight[channel]);
            let moved = |pulled: f32, x: f32| {
                let normed = (x - moments.mean) * moments.rate;
                moments.rate * (-normed).mul_add(turn, pulled.mul_add(weight, -pull))
            };
            if shape.silu {
                for (out, &x) in out.iter_mut().zip(x) {
                    *out = moved(*out, x);
                }
            } else {
                for ((out, &grad), &x) in out.iter_mut().zip(grad).zip(x) {
                    *out = moved(grad, x);
                }
            }
        }
    }
}

/// Layer norm of each row.
pub(crate) fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32) -> Vec<f32> {
    let width = weight.len();
    let rows = (CHUNK / width).max(1);
    build(x.len(), rows * width, |index, out| {
        Arch::new().dispatch(Rows {
            x: &x[index * rows * width..][..out.len()],
            weight,
            bias,
            epsilon,
            out,
        })
    })
}

/// Some rows.
struct Rows<'a, 'o> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    epsilon: f32,
    out: &'o mut [MaybeUninit<f32>],
}

impl<'o> WithSimd for Rows<'_, 'o> {
    type Output = &'o mut [f32];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> &'o mut [f32] {
        let Self {
            x,
            weight,
            bias,
            epsilon,
            out,
        } = self;
        let width = weight.len();
        fill_parts(
            out,
            width,
            #[inline(always)]
            |row, out| {
                let x = &x[row * width..][..out.len()];
                let (weight, bias) = (&weight[..out.len()], &bias[..out.len()]);
                let Moments { mean, rate } = moments(simd, x, epsilon);
                fill(
                    out,
                    #[inline(always)]
                    |i| ((x[i] - mean) * rate).mul_add(weight[i], bias[i]),
                )
            },
        )
    }
}

/// The gradients of weight and bias are zeros unless they are `wanted`.
pub(crate) fn layer_norm_backward(
    x: &[f32],
    weight: &[f32],
    grad: &[f32],
    epsilon: f32,
    wanted: bool,
) -> NormGradients {
    let width = weight.len();
    let rows = (CHUNK / width).max(1);
    let mut dx = vec![0f32; x.len()];
    // Of each task, in their order, so that the sums do not depend on the threads.
    let sums: Vec<[Vec<f32>; 2]> = dx
        .par_chunks_mut(rows * width)
        .enumerate()
        .map(|(index, dx)| {
            let at = index * rows * width;
            let count = if wanted { width } else { 0 };
            let mut sums = [vec![0f32; count], vec![0f32; count]];
            Arch::new().dispatch(RowsBackward {
                x: &x[at..][..dx.len()],
                grad: &grad[at..][..dx.len()],
                weight,
                epsilon,
                dx,
                sums: &mut sums,
            });
            sums
        })
        .collect();
    let mut totals = [vec![0f64; width], vec![0f64; width]];
    for part in &sums {
        for (total, part) in totals.iter_mut().zip(part) {
            for (total, &part) in total.iter_mut().zip(part) {
                *total += f64::from(part);
            }
        }
    }
    (dx, narrow(&totals[0]), narrow(&totals[1]))
}

/// The gradient of some rows.
struct RowsBackward<'a> {
    x: &'a [f32],
    grad: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    dx: &'a mut [f32],
    /// To which the gradients of weight and bias are added, or empty.
    sums: &'a mut [Vec<f32>; 2],
}

impl WithSimd for RowsBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            x,
            grad,
            weight,
            epsilon,
            dx,
            sums: [dweight, dbias],
        } = self;
        let width = weight.len();
        for ((out, x), grad) in dx
            .chunks_exact_mut(width)
            .zip(x.chunks_exact(width))
            .zip(grad.chunks_exact(width))
        {
            let Moments { mean, rate } = moments(simd, x, epsilon);
            for ((out, grad), weight) in out.iter_mut().zip(grad).zip(weight) {
                *out = grad * weight;
            }
            let pull = sum(simd, Plain, out, out);
            let turn = (sum(simd, Product, out, x) - pull * f64::from(mean)) * f64::from(rate);
            let (pull, turn) = ((pull / width as f64) as f32, (turn / width as f64) as f32);
            for (out, x) in out.iter_mut().zip(x) {
                let normed = (x - mean) * rate;
                *out = rate * (-normed).mul_add(turn, *out - pull);
            }
            for ((dweight, grad), x) in dweight.iter_mut().zip(grad).zip(x) {
                *dweight = grad.mul_add((x - mean) * rate, *dweight);
            }
            for (dbias, grad) in dbias.iter_mut().zip(grad) {
                *dbias += grad;
            }
        }
    }
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| value as f32).collect()
}
