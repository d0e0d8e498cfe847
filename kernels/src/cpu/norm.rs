//! Group norm (Wu & He 2018), with SiLU after it or not, and layer norm (Ba et al. 2016).

use std::mem::MaybeUninit;

use pulp::{Arch, Simd, WithSimd};

use super::math::{sigmoid, swish_slope};
use super::memory::{build, build_beside, fill, fill_parts};

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

/// What is added up over two slices, `N` sums at once.
trait Term<const N: usize> {
    fn add<S: Simd>(&self, simd: S, x: S::f32s, y: S::f32s, sums: [S::f32s; N]) -> [S::f32s; N];
    fn add_one(&self, x: f32, y: f32, sums: [f32; N]) -> [f32; N];
}

/// x
struct Plain;

impl Term<1> for Plain {
    #[inline(always)]
    fn add<S: Simd>(&self, simd: S, x: S::f32s, _: S::f32s, [sum]: [S::f32s; 1]) -> [S::f32s; 1] {
        [simd.add_f32s(x, sum)]
    }

    #[inline(always)]
    fn add_one(&self, x: f32, _: f32, [sum]: [f32; 1]) -> [f32; 1] {
        [x + sum]
    }
}

/// (x - mean)²
struct Deviation(f32);

impl Term<1> for Deviation {
    #[inline(always)]
    fn add<S: Simd>(&self, simd: S, x: S::f32s, _: S::f32s, [sum]: [S::f32s; 1]) -> [S::f32s; 1] {
        let x = simd.sub_f32s(x, simd.splat_f32s(self.0));
        [simd.mul_add_e_f32s(x, x, sum)]
    }

    #[inline(always)]
    fn add_one(&self, x: f32, _: f32, [sum]: [f32; 1]) -> [f32; 1] {
        [(x - self.0) * (x - self.0) + sum]
    }
}

/// x, and x · (y - mean)
struct Against(f32);

impl Term<2> for Against {
    #[inline(always)]
    fn add<S: Simd>(
        &self,
        simd: S,
        x: S::f32s,
        y: S::f32s,
        [sum, product]: [S::f32s; 2],
    ) -> [S::f32s; 2] {
        let y = simd.sub_f32s(y, simd.splat_f32s(self.0));
        [simd.add_f32s(x, sum), simd.mul_add_e_f32s(x, y, product)]
    }

    #[inline(always)]
    fn add_one(&self, x: f32, y: f32, [sum, product]: [f32; 2]) -> [f32; 2] {
        [x + sum, x * (y - self.0) + product]
    }
}

/// The sums of a term over slices of a block at most.
#[inline(always)]
fn sums_of_block<S: Simd, const N: usize>(
    simd: S,
    term: &impl Term<N>,
    x: &[f32],
    y: &[f32],
) -> [f64; N] {
    // Four sums, so that an addition need not wait for the one before it.
    let (xs, x) = S::as_simd_f32s(x);
    let (ys, y) = S::as_simd_f32s(y);
    let (x_fours, xs) = pulp::as_arrays::<4, _>(xs);
    let (y_fours, ys) = pulp::as_arrays::<4, _>(ys);
    let mut sums = [[simd.splat_f32s(0.0); N]; 4];
    for (xs, ys) in x_fours.iter().zip(y_fours) {
        for i in 0..4 {
            sums[i] = term.add(simd, xs[i], ys[i], sums[i]);
        }
    }
    for (&x, &y) in xs.iter().zip(ys) {
        sums[0] = term.add(simd, x, y, sums[0]);
    }
    let mut rest = [0f32; N];
    for (&x, &y) in x.iter().zip(y) {
        rest = term.add_one(x, y, rest);
    }
    let mut totals = [0f64; N];
    for i in 0..N {
        let left = simd.add_f32s(sums[0][i], sums[1][i]);
        let all = simd.add_f32s(left, simd.add_f32s(sums[2][i], sums[3][i]));
        totals[i] = f64::from(simd.reduce_sum_f32s(all) + rest[i]);
    }
    totals
}

/// The sums of a term, in f32 within a block and in f64 over the blocks.
#[inline(always)]
fn sums<S: Simd, const N: usize>(simd: S, term: impl Term<N>, x: &[f32], y: &[f32]) -> [f64; N] {
    let mut totals = [0f64; N];
    for (x, y) in x.chunks(BLOCK).zip(y.chunks(BLOCK)) {
        let block = sums_of_block(simd, &term, x, y);
        for i in 0..N {
            totals[i] += block[i];
        }
    }
    totals
}

/// Each block goes over its cells twice, while they are in the first-level cache; the blocks are put together as Chan, Golub and LeVeque (1983) do.
#[inline(always)]
fn moments<S: Simd>(simd: S, x: &[f32], epsilon: f32) -> Moments {
    let (mut count, mut mean, mut spread) = (0f64, 0f64, 0f64);
    for x in x.chunks(BLOCK) {
        let here = x.len() as f64;
        let [total] = sums_of_block(simd, &Plain, x, x);
        let middle = total / here;
        let [around] = sums_of_block(simd, &Deviation(middle as f32), x, x);
        let (apart, share) = (middle - mean, here / (count + here));
        spread += around + apart * apart * count * share;
        mean += apart * share;
        count += here;
    }
    Moments {
        mean: mean as f32,
        rate: (1.0 / (spread / count + f64::from(epsilon)).sqrt()) as f32,
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

/// The sum of a gradient's products with the normalised input, and its own: the gradients of a norm's weight and bias.
#[inline(always)]
fn pulls_on<S: Simd>(simd: S, moments: Moments, pulls: &[f32], x: &[f32]) -> [f64; 2] {
    let [total, against] = sums(simd, Against(moments.mean), pulls, x);
    [against * f64::from(moments.rate), total]
}

/// What makes the input's gradient of the one after the norm: `rate · (pulled - pull - turn · (x - mean) · rate)`, where `pull` and `turn` are the
/// means of `pulled` and of its product with the normalised input.
#[derive(Clone, Copy)]
struct Moved {
    mean: f32,
    rate: f32,
    slope: f32,
    shift: f32,
}

impl Moved {
    #[inline(always)]
    fn new(Moments { mean, rate }: Moments, pull: f64, turn: f64) -> Self {
        let (pull, turn) = (pull as f32, turn as f32);
        Self {
            mean,
            rate,
            slope: -rate * rate * turn,
            shift: -rate * pull,
        }
    }

    #[inline(always)]
    fn by(self, pulled: f32, x: f32) -> f32 {
        pulled.mul_add(self.rate, (x - self.mean).mul_add(self.slope, self.shift))
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
    let (dx, sums) = build_beside(x.len(), size, |index, out| {
        let own = index % shape.groups * channels..(index % shape.groups + 1) * channels;
        Arch::new().dispatch(GroupBackward {
            x: &x[index * size..][..size],
            grad: &grad[index * size..][..size],
            weight: &weight[own.clone()],
            bias: &bias[own],
            shape,
            out,
        })
    });
    let (mut dweight, mut dbias) = (vec![0f64; shape.channels], vec![0f64; shape.channels]);
    for member in sums.chunks_exact(shape.groups) {
        for (channel, [against, total]) in member.iter().flatten().enumerate() {
            dweight[channel] += against;
            dbias[channel] += total;
        }
    }
    (dx, narrow(&dweight), narrow(&dbias))
}

/// The gradient of one group of one member of a batch.
struct GroupBackward<'a, 'o> {
    x: &'a [f32],
    grad: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    shape: Groups,
    out: &'o mut [MaybeUninit<f32>],
}

impl<'o> WithSimd for GroupBackward<'_, 'o> {
    /// The gradient, and of each channel those of its weight and its bias.
    type Output = (&'o mut [f32], Vec<[f64; 2]>);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let Self {
            x,
            grad,
            weight,
            bias,
            shape: Groups { cells, silu, .. },
            out,
        } = self;
        let moments = moments(simd, x, self.shape.epsilon);
        let mut all = Vec::with_capacity(weight.len());
        // With SiLU, the gradient before it is kept where the result will stand.
        let pulled = if silu {
            let pulled = fill_parts(
                out,
                cells,
                #[inline(always)]
                |channel, out| {
                    let x = &x[channel * cells..][..out.len()];
                    let grad = &grad[channel * cells..][..out.len()];
                    let (scale, shift) = affine(moments, weight[channel], bias[channel]);
                    let pulls = fill(
                        out,
                        #[inline(always)]
                        |i| grad[i] * swish_slope(x[i].mul_add(scale, shift), 1.0),
                    );
                    all.push(pulls_on(simd, moments, pulls, x));
                    pulls
                },
            );
            Ok(pulled)
        } else {
            for (grad, x) in grad.chunks_exact(cells).zip(x.chunks_exact(cells)) {
                all.push(pulls_on(simd, moments, grad, x));
            }
            Err(out)
        };
        let (mut pull, mut turn) = (0f64, 0f64);
        for (&[against, total], &weight) in all.iter().zip(weight) {
            pull += total * f64::from(weight);
            turn += against * f64::from(weight);
        }
        let size = x.len() as f64;
        let moved = Moved::new(moments, pull / size, turn / size);
        let out = match pulled {
            Ok(out) => {
                for (channel, out) in out.chunks_exact_mut(cells).enumerate() {
                    let (x, weight) = (&x[channel * cells..][..cells], weight[channel]);
                    for (out, &x) in out.iter_mut().zip(x) {
                        *out = moved.by(*out * weight, x);
                    }
                }
                out
            }
            Err(out) => fill_parts(
                out,
                cells,
                #[inline(always)]
                |channel, out| {
                    let x = &x[channel * cells..][..out.len()];
                    let grad = &grad[channel * cells..][..out.len()];
                    let weight = weight[channel];
                    fill(
                        out,
                        #[inline(always)]
                        |i| moved.by(grad[i] * weight, x[i]),
                    )
                },
            ),
        };
        (out, all)
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
    // Of each task, in their order, so that the sums do not depend on the threads.
    let (dx, sums) = build_beside(x.len(), rows * width, |index, out| {
        let at = index * rows * width;
        Arch::new().dispatch(RowsBackward {
            x: &x[at..][..out.len()],
            grad: &grad[at..][..out.len()],
            weight,
            epsilon,
            wanted,
            out,
        })
    });
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
struct RowsBackward<'a, 'o> {
    x: &'a [f32],
    grad: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    wanted: bool,
    out: &'o mut [MaybeUninit<f32>],
}

impl<'o> WithSimd for RowsBackward<'_, 'o> {
    /// The gradient, and those of weight and bias, which are empty unless they are wanted.
    type Output = (&'o mut [f32], [Vec<f32>; 2]);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let Self {
            x,
            grad,
            weight,
            epsilon,
            wanted,
            out,
        } = self;
        let width = weight.len();
        let count = if wanted { width } else { 0 };
        let mut sums = [vec![0f32; count], vec![0f32; count]];
        let [dweight, dbias] = &mut sums;
        let out = fill_parts(
            out,
            width,
            #[inline(always)]
            |row, out| {
                let x = &x[row * width..][..out.len()];
                let grad = &grad[row * width..][..out.len()];
                let weight = &weight[..out.len()];
                let moments = moments(simd, x, epsilon);
                let out = fill(
                    out,
                    #[inline(always)]
                    |i| grad[i] * weight[i],
                );
                let [turn, pull] = pulls_on(simd, moments, out, x);
                let size = width as f64;
                let moved = Moved::new(moments, pull / size, turn / size);
                for (out, x) in out.iter_mut().zip(x) {
                    *out = moved.by(*out, *x);
                }
                for ((dweight, grad), x) in dweight.iter_mut().zip(grad).zip(x) {
                    *dweight = grad.mul_add((x - moments.mean) * moments.rate, *dweight);
                }
                for (dbias, grad) in dbias.iter_mut().zip(grad) {
                    *dbias += grad;
                }
                out
            },
        );
        (out, sums)
    }
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| value as f32).collect()
}
