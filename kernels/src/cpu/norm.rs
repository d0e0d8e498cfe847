//! Group norm (Wu & He 2018), with SiLU after it or not, and layer norm (Ba et al. 2016).

use rayon::prelude::*;

use super::math::{sigmoid, swish_slope, vectorized};
use super::memory::{build, fill, fill_parts};

/// Elements that are summed in f32 before the sum goes on in f64.
const BLOCK: usize = 4096;
/// Lanes of a partial sum.
const LANES: usize = 16;
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

/// Σ f(x), in f32 by lanes and in f64 by blocks.
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    let mut total = 0f64;
    for block in x.chunks(BLOCK) {
        let mut lanes = [0f32; LANES];
        let (whole, rest) = pulp::as_arrays::<LANES, _>(block);
        for values in whole {
            for i in 0..LANES {
                lanes[i] += f(values[i]);
            }
        }
        for (lane, &value) in lanes.iter_mut().zip(rest) {
            *lane += f(value);
        }
        total += f64::from(lanes.iter().sum::<f32>());
    }
    total
}

/// Σ x · y, as [`sum`].
#[inline(always)]
fn dot(x: &[f32], y: &[f32]) -> f64 {
    let mut total = 0f64;
    for (x, y) in x.chunks(BLOCK).zip(y.chunks(BLOCK)) {
        let mut lanes = [0f32; LANES];
        let (xs, x_rest) = pulp::as_arrays::<LANES, _>(x);
        let (ys, y_rest) = pulp::as_arrays::<LANES, _>(y);
        for (x, y) in xs.iter().zip(ys) {
            for i in 0..LANES {
                lanes[i] = x[i].mul_add(y[i], lanes[i]);
            }
        }
        for ((lane, &x), &y) in lanes.iter_mut().zip(x_rest).zip(y_rest) {
            *lane = x.mul_add(y, *lane);
        }
        total += f64::from(lanes.iter().sum::<f32>());
    }
    total
}

#[inline(always)]
fn moments(x: &[f32], epsilon: f32) -> Moments {
    let count = x.len() as f64;
    let mean = (sum(
        x,
        #[inline(always)]
        |x| x,
    ) / count) as f32;
    let variance = sum(
        x,
        #[inline(always)]
        |x| (x - mean) * (x - mean),
    ) / count;
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
        let x = &x[index * size..][..size];
        let first = index % shape.groups * channels;
        vectorized(
            #[inline(always)]
            move || {
                let moments = moments(x, shape.epsilon);
                fill_parts(
                    out,
                    shape.cells,
                    #[inline(always)]
                    |channel, out| {
                        let x = &x[channel * shape.cells..][..shape.cells];
                        let (scale, shift) =
                            affine(moments, weight[first + channel], bias[first + channel]);
                        if shape.silu {
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
            },
        )
    })
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
            let (x, grad) = (&x[index * size..][..size], &grad[index * size..][..size]);
            let first = index % shape.groups * channels;
            vectorized(
                #[inline(always)]
                move || {
                    let moments = moments(x, shape.epsilon);
                    let (mut pull, mut turn) = (0f64, 0f64);
                    for channel in 0..channels {
                        let part = channel * shape.cells..(channel + 1) * shape.cells;
                        let (x, grad, out) = (&x[part.clone()], &grad[part.clone()], &mut dx[part]);
                        let weight = weight[first + channel];
                        // The gradient after the norm, kept where the result will stand.
                        if shape.silu {
                            let (scale, shift) = affine(moments, weight, bias[first + channel]);
                            for ((out, &x), &grad) in out.iter_mut().zip(x).zip(grad) {
                                *out = grad * swish_slope(x.mul_add(scale, shift), 1.0);
                            }
                        } else {
                            out.copy_from_slice(grad);
                        }
                        let total = sum(
                            out,
                            #[inline(always)]
                            |x| x,
                        );
                        let against = (dot(out, x) - total * f64::from(moments.mean))
                            * f64::from(moments.rate);
                        sums[channel] = [against, total];
                        pull += total * f64::from(weight);
                        turn += against * f64::from(weight);
                    }
                    let (pull, turn) = ((pull / size as f64) as f32, (turn / size as f64) as f32);
                    for (channel, out) in dx.chunks_exact_mut(shape.cells).enumerate() {
                        let weight = weight[first + channel];
                        let x = &x[channel * shape.cells..][..shape.cells];
                        for (out, &x) in out.iter_mut().zip(x) {
                            let normed = (x - moments.mean) * moments.rate;
                            *out =
                                moments.rate * (-normed).mul_add(turn, out.mul_add(weight, -pull));
                        }
                    }
                },
            );
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

/// Layer norm of each row.
pub(crate) fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32) -> Vec<f32> {
    let width = weight.len();
    let rows = (CHUNK / width).max(1);
    build(x.len(), rows * width, |index, out| {
        let x = &x[index * rows * width..][..out.len()];
        vectorized(
            #[inline(always)]
            move || {
                fill_parts(
                    out,
                    width,
                    #[inline(always)]
                    |row, out| {
                        let x = &x[row * width..][..width];
                        let Moments { mean, rate } = moments(x, epsilon);
                        fill(
                            out,
                            #[inline(always)]
                            |i| ((x[i] - mean) * rate).mul_add(weight[i], bias[i]),
                        )
                    },
                )
            },
        )
    })
}

pub(crate) fn layer_norm_backward(
    x: &[f32],
    weight: &[f32],
    grad: &[f32],
    epsilon: f32,
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
            let (x, grad) = (&x[at..][..dx.len()], &grad[at..][..dx.len()]);
            let mut sums = [vec![0f32; width], vec![0f32; width]];
            vectorized(
                #[inline(always)]
                || {
                    let [dweight, dbias] = &mut sums;
                    for ((out, x), grad) in dx
                        .chunks_exact_mut(width)
                        .zip(x.chunks_exact(width))
                        .zip(grad.chunks_exact(width))
                    {
                        let Moments { mean, rate } = moments(x, epsilon);
                        for i in 0..width {
                            out[i] = grad[i] * weight[i];
                        }
                        let pull = sum(
                            out,
                            #[inline(always)]
                            |x| x,
                        );
                        let turn = (dot(out, x) - pull * f64::from(mean)) * f64::from(rate);
                        let (pull, turn) =
                            ((pull / width as f64) as f32, (turn / width as f64) as f32);
                        for i in 0..width {
                            let normed = (x[i] - mean) * rate;
                            dweight[i] = grad[i].mul_add(normed, dweight[i]);
                            dbias[i] += grad[i];
                            out[i] = rate * (-normed).mul_add(turn, out[i] - pull);
                        }
                    }
                },
            );
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

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| value as f32).collect()
}
