//! Activations, element by element.

use rayon::prelude::*;

use super::math::{self, bell, below, sigmoid, swish_slope, vectorized};
use super::memory::{build, fill, fill_parts};

/// Elements that one task computes.
const CHUNK: usize = 1 << 14;

/// `f` of each element.
#[inline(always)]
fn map(x: &[f32], f: impl Fn(f32) -> f32 + Sync + Copy) -> Vec<f32> {
    build(x.len(), CHUNK, |index, out| {
        let x = &x[index * CHUNK..][..out.len()];
        vectorized(
            #[inline(always)]
            move || {
                fill(
                    out,
                    #[inline(always)]
                    |i| f(x[i]),
                )
            },
        )
    })
}

/// `f` of each element and its gradient.
#[inline(always)]
fn map2(x: &[f32], grad: &[f32], f: impl Fn(f32, f32) -> f32 + Sync + Copy) -> Vec<f32> {
    assert_eq!(x.len(), grad.len());
    build(x.len(), CHUNK, |index, out| {
        let (x, grad) = (
            &x[index * CHUNK..][..out.len()],
            &grad[index * CHUNK..][..out.len()],
        );
        vectorized(
            #[inline(always)]
            move || {
                fill(
                    out,
                    #[inline(always)]
                    |i| f(x[i], grad[i]),
                )
            },
        )
    })
}

/// `x · sigmoid(rate · x)`: SiLU at 1, quick-GELU at 1.702.
pub(crate) fn swish(x: &[f32], rate: f32) -> Vec<f32> {
    map(
        x,
        #[inline(always)]
        move |x| x * sigmoid(rate * x),
    )
}

pub(crate) fn swish_backward(x: &[f32], grad: &[f32], rate: f32) -> Vec<f32> {
    map2(
        x,
        grad,
        #[inline(always)]
        move |x, grad| grad * swish_slope(x, rate),
    )
}

/// `x · Φ(x)`.
pub(crate) fn gelu(x: &[f32]) -> Vec<f32> {
    map(x, math::gelu)
}

pub(crate) fn gelu_backward(x: &[f32], grad: &[f32]) -> Vec<f32> {
    map2(
        x,
        grad,
        #[inline(always)]
        |x, grad| grad * x.mul_add(bell(x), below(x)),
    )
}

/// `hidden · gate · Φ(gate)` of rows `[hidden, gate]`, each of `channels`.
pub(crate) fn geglu(x: &[f32], channels: usize) -> Vec<f32> {
    let rows = (CHUNK / channels).max(1);
    build(x.len() / 2, rows * channels, |index, out| {
        let x = &x[index * rows * 2 * channels..][..2 * out.len()];
        vectorized(
            #[inline(always)]
            move || {
                fill_parts(
                    out,
                    channels,
                    #[inline(always)]
                    |row, out| {
                        let (hidden, gate) =
                            x[row * 2 * channels..][..2 * channels].split_at(channels);
                        fill(
                            out,
                            #[inline(always)]
                            |i| hidden[i] * math::gelu(gate[i]),
                        )
                    },
                )
            },
        )
    })
}

pub(crate) fn geglu_backward(x: &[f32], grad: &[f32], channels: usize) -> Vec<f32> {
    let rows = (CHUNK / channels).max(1);
    build(x.len(), rows * 2 * channels, |index, out| {
        let x = &x[index * rows * 2 * channels..][..out.len()];
        let grad = &grad[index * rows * channels..][..out.len() / 2];
        vectorized(
            #[inline(always)]
            move || {
                fill_parts(
                    out,
                    channels,
                    #[inline(always)]
                    |half, out| {
                        let row = half / 2;
                        let (hidden, gate) =
                            x[row * 2 * channels..][..2 * channels].split_at(channels);
                        let grad = &grad[row * channels..][..channels];
                        if half % 2 == 0 {
                            fill(
                                out,
                                #[inline(always)]
                                |i| grad[i] * math::gelu(gate[i]),
                            )
                        } else {
                            fill(
                                out,
                                #[inline(always)]
                                |i| {
                                    let slope = gate[i].mul_add(bell(gate[i]), below(gate[i]));
                                    grad[i] * hidden[i] * slope
                                },
                            )
                        }
                    },
                )
            },
        )
    })
}

/// Adds to every channel's cells its own number: `[.., channels, cells]`.
pub(crate) fn add_channels(values: &mut [f32], channels: &[f32], cells: usize) {
    values
        .par_chunks_exact_mut(cells)
        .enumerate()
        .for_each(|(index, values)| {
            let value = channels[index % channels.len()];
            vectorized(
                #[inline(always)]
                || {
                    values.iter_mut().for_each(
                        #[inline(always)]
                        |x| *x += value,
                    )
                },
            );
        });
}

/// Adds `other` to `values`, element by element.
pub(crate) fn add_to(values: &mut [f32], other: &[f32]) {
    assert_eq!(values.len(), other.len());
    let parts = values.par_chunks_mut(CHUNK).zip(other.par_chunks(CHUNK));
    parts.for_each(|(values, other)| {
        vectorized(
            #[inline(always)]
            || {
                values.iter_mut().zip(other).for_each(
                    #[inline(always)]
                    |(value, other)| *value += other,
                )
            },
        );
    });
}

/// The sum of two, element by element.
pub(crate) fn sum_of(a: &[f32], b: &[f32]) -> Vec<f32> {
    map2(
        a,
        b,
        #[inline(always)]
        |a, b| a + b,
    )
}

/// The sum of every channel's cells, over all members of a batch: `[batch, channels, cells]` to `[channels]`.
pub(crate) fn sum_channels(values: &[f32], channels: usize, cells: usize) -> Vec<f32> {
    let sum_of = |values: &[f32]| values.iter().map(|&value| f64::from(value)).sum::<f64>();
    let sums: Vec<f64> = values.par_chunks_exact(cells).map(sum_of).collect();
    (0..channels)
        .map(|channel| sums.iter().skip(channel).step_by(channels).sum::<f64>() as f32)
        .collect()
}

/// The sum of each cell's four: rows of `width` to half as many of half the width.
pub(crate) fn halve(x: &[f32], width: usize) -> Vec<f32> {
    build(x.len() / 4, width / 2, |row, out| {
        let (upper, lower) = x[2 * row * width..][..2 * width].split_at(width);
        fill(out, |i| {
            upper[2 * i] + upper[2 * i + 1] + lower[2 * i] + lower[2 * i + 1]
        })
    })
}
