//! 3×3 convolution with stride 1 by minimal filtering (Winograd 1980, Lavin & Gray 2016): F(4×4, 3×3) needs 4 times fewer multiplications
//! than the sum it computes, F(2×2, 3×3) needs 2.25 times fewer.
//!
//! ```text
//! input ── tiles of T×T, Bᵀ d B ── [panel of tiles][T·T][channels in][tiles] ─┐
//!                                                                            ├─ products by T·T ── Aᵀ m A ── output
//! weight ─ G w Gᵀ ── [strip of channels out][T·T][channels in][rows] ────────┘
//! ```
//!
//! A task takes some strips, transforms their weights itself, and runs them over all panels: no transformed weight outlives its task, and no
//! product is stored.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::{Add, Mul, Range, Sub};

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::gemm::{Matrix, accumulate};
use super::memory::{build, build_by, fill};
use super::tile::{
    Buffer, STRIP, lanes, load, multiply_strip, store, vectors, vectors_mut, zero_tile,
};

/// Floats of transformed input that are held at once.
const HELD: usize = 6 << 20;
/// Floats of transformed weight that a task holds, of the second-level cache's size.
const TASK: usize = 1 << 18;
/// Tasks for each thread, so that those which end late are short.
const TASKS: usize = 4;
/// Tiles that a task has at least, where there are so many: beside their products its weights' transform costs little.
const TILES_OF_TASK: usize = 256;

/// A convolution with padding 1: every output has its input's height and width.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub batch: usize,
    pub channels_in: usize,
    pub channels_out: usize,
    /// Of the output, and of the input after it is doubled.
    pub height: usize,
    pub width: usize,
    /// Whether each cell of the input counts twice both ways.
    pub doubled: bool,
}

impl Shape {
    /// The input's row that row `y` is made of, and its columns.
    #[inline(always)]
    pub(super) fn line<'a>(&self, plane: &'a [f32], y: usize) -> &'a [f32] {
        let (y, width) = if self.doubled {
            (y / 2, self.width / 2)
        } else {
            (y, self.width)
        };
        &plane[y * width..][..width]
    }

    /// The input's plane of one channel, counted over the batch.
    #[inline(always)]
    pub(super) fn plane<'a>(&self, input: &'a [f32], index: usize) -> &'a [f32] {
        let size = self.height * self.width / if self.doubled { 4 } else { 1 };
        &input[index * size..][..size]
    }

    /// Copies columns `begin..` of a line, as they are after the input is doubled.
    #[inline(always)]
    pub(super) fn copy(&self, line: &[f32], begin: usize, out: &mut [f32]) {
        if self.doubled {
            for (i, out) in out.iter_mut().enumerate() {
                *out = line[(begin + i) / 2];
            }
        } else {
            out.copy_from_slice(&line[begin..][..out.len()]);
        }
    }
}

/// A weight `[out, in, 3, 3]`, or the one of its input gradient: channels exchanged, and turned by half a circle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weight<'a> {
    pub data: &'a [f32],
    pub backward: bool,
}

impl Weight<'_> {
    /// The 9 numbers between an output channel and an input channel.
    #[inline(always)]
    fn kernel(&self, shape: Shape, out: usize, input: usize) -> [f32; 9] {
        let index = if self.backward {
            input * shape.channels_out + out
        } else {
            out * shape.channels_in + input
        };
        let mut kernel: [f32; 9] = pulp::as_arrays::<9, _>(&self.data[index * 9..][..9]).0[0];
        if self.backward {
            kernel.reverse();
        }
        kernel
    }
}

/// The one-dimensional transforms of F(OUT, 3), with `IN = OUT + 2`.
trait Filter<const OUT: usize, const IN: usize>: Sync + Send {
    fn data<T: Number>(d: [T; IN]) -> [T; IN];
    fn kernel(g: [f32; 3]) -> [f32; IN];
    fn output<T: Number>(m: [T; IN]) -> [T; OUT];
    /// Vectors of a line become vectors of every `OUT`th element, in an order that `together` takes back.
    fn apart<S: Simd>(simd: S, line: [S::f32s; OUT]) -> [S::f32s; OUT];
    fn together<S: Simd>(simd: S, parts: [S::f32s; OUT]) -> [S::f32s; OUT];
}

/// What is transformed: a float, or a vector of them.
trait Number: Copy + Add<Output = Self> + Sub<Output = Self> + Mul<f32, Output = Self> {}

impl Number for f32 {}

/// A vector with its arithmetic.
#[derive(Clone, Copy)]
struct Vector<S: Simd> {
    simd: S,
    value: S::f32s,
}

#[inline(always)]
fn vector<S: Simd>(simd: S, value: S::f32s) -> Vector<S> {
    Vector { simd, value }
}

impl<S: Simd> Add for Vector<S> {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        let value = self.simd.add_f32s(self.value, other.value);
        Self { value, ..self }
    }
}

impl<S: Simd> Sub for Vector<S> {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        let value = self.simd.sub_f32s(self.value, other.value);
        Self { value, ..self }
    }
}

impl<S: Simd> Mul<f32> for Vector<S> {
    type Output = Self;
    #[inline(always)]
    fn mul(self, factor: f32) -> Self {
        let value = self.simd.mul_f32s(self.value, self.simd.splat_f32s(factor));
        Self { value, ..self }
    }
}

impl<S: Simd> Number for Vector<S> {}

struct F2;

impl Filter<2, 4> for F2 {
    #[inline(always)]
    fn data<T: Number>([a, b, c, d]: [T; 4]) -> [T; 4] {
        [a - c, b + c, c - b, b - d]
    }

    #[inline(always)]
    fn kernel([a, b, c]: [f32; 3]) -> [f32; 4] {
        [a, 0.5 * (a + b + c), 0.5 * (a - b + c), c]
    }

    #[inline(always)]
    fn output<T: Number>([a, b, c, d]: [T; 4]) -> [T; 2] {
        [a + b + c, b - c - d]
    }

    #[inline(always)]
    fn apart<S: Simd>(simd: S, line: [S::f32s; 2]) -> [S::f32s; 2] {
        simd.deinterleave_shfl_f32s(line)
    }

    #[inline(always)]
    fn together<S: Simd>(simd: S, parts: [S::f32s; 2]) -> [S::f32s; 2] {
        simd.interleave_shfl_f32s(parts)
    }
}

struct F4;

impl Filter<4, 6> for F4 {
    #[inline(always)]
    fn data<T: Number>([a, b, c, d, e, f]: [T; 6]) -> [T; 6] {
        let (even, odd) = (e - c * 4.0, d - b * 4.0);
        let (near, far) = (e - c, (d - b) * 2.0);
        [
            a * 4.0 - c * 5.0 + e,
            even + odd,
            even - odd,
            near + far,
            near - far,
            b * 4.0 - d * 5.0 + f,
        ]
    }

    #[inline(always)]
    fn kernel([a, b, c]: [f32; 3]) -> [f32; 6] {
        let (ends, wide) = ((a + c) * (-1.0 / 6.0), a * (1.0 / 24.0) + c * (1.0 / 6.0));
        let (middle, half) = (b * (1.0 / 6.0), b * (1.0 / 12.0));
        [
            0.25 * a,
            ends - middle,
            ends + middle,
            wide + half,
            wide - half,
            c,
        ]
    }

    #[inline(always)]
    fn output<T: Number>([a, b, c, d, e, f]: [T; 6]) -> [T; 4] {
        let (near, far) = (b + c, d + e);
        let (turn, twist) = (b - c, d - e);
        [
            a + near + far,
            turn + twist * 2.0,
            near + far * 4.0,
            turn + twist * 8.0 + f,
        ]
    }

    #[inline(always)]
    fn apart<S: Simd>(simd: S, line: [S::f32s; 4]) -> [S::f32s; 4] {
        simd.deinterleave_shfl_f32s(line)
    }

    #[inline(always)]
    fn together<S: Simd>(simd: S, parts: [S::f32s; 4]) -> [S::f32s; 4] {
        simd.interleave_shfl_f32s(parts)
    }
}

/// `Bᵀ d B`.
#[inline(always)]
fn both_ways<T: Number, F: Filter<OUT, IN>, const OUT: usize, const IN: usize>(
    d: [[T; IN]; IN],
) -> [[T; IN]; IN] {
    let mut half = d;
    for j in 0..IN {
        let mut column = d[0];
        for i in 0..IN {
            column[i] = d[i][j];
        }
        let column = F::data(column);
        for i in 0..IN {
            half[i][j] = column[i];
        }
    }
    for row in &mut half {
        *row = F::data(*row);
    }
    half
}

/// `Aᵀ m A`.
#[inline(always)]
fn both_ways_out<T: Number, F: Filter<OUT, IN>, const OUT: usize, const IN: usize>(
    m: [[T; IN]; IN],
) -> [[T; OUT]; OUT] {
    let mut half = [m[0]; OUT];
    for j in 0..IN {
        let mut column = m[0];
        for i in 0..IN {
            column[i] = m[i][j];
        }
        let column = F::output(column);
        for i in 0..OUT {
            half[i][j] = column[i];
        }
    }
    let mut done = [F::output(half[0]); OUT];
    for i in 1..OUT {
        done[i] = F::output(half[i]);
    }
    done
}

/// The convolution of `input`, `[batch, in, height, width]`, and a bias.
pub(crate) fn convolve(
    input: &[f32],
    weight: Weight<'_>,
    bias: Option<&[f32]>,
    shape: Shape,
) -> Vec<f32> {
    let width = 2 * lanes();
    // Multiplications of each channel pair, and what the transform of the weight costs beside them.
    let cost = |out: usize, transform: usize| {
        let tiles = shape.batch * shape.height.div_ceil(out) * shape.width.div_ceil(out);
        (out + 2).pow(2) * (tiles.next_multiple_of(width) + transform)
    };
    if cost(4, 24) <= cost(2, 24) {
        convolve_by::<F4, 4, 6>(input, weight, bias, shape)
    } else {
        convolve_by::<F2, 2, 4>(input, weight, bias, shape)
    }
}

fn convolve_by<F: Filter<OUT, IN>, const OUT: usize, const IN: usize>(
    input: &[f32],
    weight: Weight<'_>,
    bias: Option<&[f32]>,
    shape: Shape,
) -> Vec<f32> {
    let Shape {
        batch,
        channels_in,
        channels_out,
        height,
        width,
        ..
    } = shape;
    let grid = [height.div_ceil(OUT), width.div_ceil(OUT)];
    let panel = 2 * lanes();
    let rows = batch * grid[0];
    // So many rows of tiles at once.
    let block = (HELD / (IN * IN * channels_in * grid[1])).clamp(1, rows);
    let size = IN * IN * channels_in * panel;
    let mut tiles = Buffer::scratch((block * grid[1]).div_ceil(panel) * size);
    let strips = channels_out.div_ceil(STRIP);
    let per_task = (TASK / (IN * IN * channels_in * STRIP)).max(1);
    let per_task = per_task.min(strips.div_ceil(rayon::current_num_threads()));
    // So many rows of tiles fill whole panels.
    let step = (1..=panel).find(|rows| (rows * grid[1]).is_multiple_of(panel));
    let step = step.unwrap_or(panel);
    let mut write = |output: &mut [MaybeUninit<f32>]| {
        let mut written = 0;
        for first in (0..rows).step_by(block) {
            let block = Block {
                grid,
                first,
                rows: block.min(rows - first),
            };
            tiles
                .write()
                .par_chunks_mut(size)
                .take(block.tiles().div_ceil(panel))
                .enumerate()
                .for_each(|(panel, out)| {
                    Arch::new().dispatch(Patches::<F, OUT, IN> {
                        filter: PhantomData,
                        input,
                        shape,
                        block,
                        panel,
                        out,
                    });
                });
            // A task is some strips over some rows. Strips alone may be too few to share out.
            let groups = strips.div_ceil(per_task);
            let rows_of_part = (block.rows * groups)
                .div_ceil(TASKS * rayon::current_num_threads())
                .max(TILES_OF_TASK.div_ceil(grid[1]))
                .next_multiple_of(step);
            let tasks = share_out::<OUT>(output, shape, block, per_task, rows_of_part);
            let counts = tasks.into_par_iter().enumerate().map(|(task, planes)| {
                let (part, task) = (task / groups, task % groups);
                let rows = part * rows_of_part..((part + 1) * rows_of_part).min(block.rows);
                let strips = task * per_task..((task + 1) * per_task).min(strips);
                Arch::new().dispatch(Products::<F, OUT, IN> {
                    filter: PhantomData,
                    tiles: tiles.read(),
                    weight,
                    bias,
                    shape,
                    block,
                    tiles_of_task: rows.start * grid[1]..rows.end * grid[1],
                    strips,
                    planes,
                })
            });
            written += counts.sum::<usize>();
        }
        written
    };
    // SAFETY: the blocks are different rows of tiles, each channel of each of their rows belongs to one task, and that counts the cells of each of its
    // tiles once. Tiles do not overlap.
    unsafe { build_by(batch * channels_out * height * width, &mut write) }
}

/// What each task writes of a block: of some channels, so many that `per_task` strips hold, some rows. Tasks of the same rows follow each other.
fn share_out<const OUT: usize>(
    output: &mut [MaybeUninit<f32>],
    shape: Shape,
    block: Block,
    per_task: usize,
    rows_of_part: usize,
) -> Vec<Vec<Plane<'_>>> {
    let Shape {
        channels_out,
        height,
        width,
        ..
    } = shape;
    let groups = channels_out.div_ceil(STRIP).div_ceil(per_task);
    let count = groups * block.rows.div_ceil(rows_of_part);
    let mut tasks: Vec<Vec<Plane<'_>>> = (0..count).map(|_| vec![]).collect();
    for (index, plane) in output.chunks_exact_mut(height * width).enumerate() {
        let (member, channel) = (index / channels_out, index % channels_out);
        let above = member * block.grid[0];
        let line_of = |row: usize| ((row - above) * OUT).min(height);
        let (mut row, to) = (
            above.max(block.first),
            (above + block.grid[0]).min(block.first + block.rows),
        );
        if row >= to {
            continue;
        }
        let mut lines = &mut plane[line_of(row) * width..];
        while row < to {
            let part = (row - block.first) / rows_of_part;
            let end = to.min(block.first + (part + 1) * rows_of_part);
            let cells = (line_of(end) - line_of(row)) * width;
            let (here, rest) = std::mem::take(&mut lines).split_at_mut(cells);
            tasks[part * groups + channel / STRIP / per_task].push(Plane {
                channel,
                first: row - block.first,
                lines: here,
            });
            (row, lines) = (end, rest);
        }
    }
    tasks
}

/// Some rows of tiles, counted over the whole batch.
#[derive(Clone, Copy)]
struct Block {
    /// Rows and columns of tiles of one member of the batch.
    grid: [usize; 2],
    first: usize,
    rows: usize,
}

impl Block {
    fn tiles(&self) -> usize {
        self.rows * self.grid[1]
    }
}

/// Rows of one channel of one member of the batch, as many as lie in a block.
struct Plane<'a> {
    channel: usize,
    /// The first row of tiles, counted in the block.
    first: usize,
    lines: &'a mut [MaybeUninit<f32>],
}

/// Transforms the tiles of one panel: `[IN · IN][channels in][tiles]`.
struct Patches<'a, F, const OUT: usize, const IN: usize> {
    filter: PhantomData<F>,
    input: &'a [f32],
    shape: Shape,
    block: Block,
    panel: usize,
    out: &'a mut [f32],
}

/// The widest vector, of AVX-512, in floats.
const MAX_LANES: usize = 16;

impl<F: Filter<OUT, IN>, const OUT: usize, const IN: usize> WithSimd for Patches<'_, F, OUT, IN> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            input,
            shape,
            block,
            panel,
            out,
            ..
        } = self;
        let Shape {
            channels_in,
            height,
            width,
            ..
        } = shape;
        let lanes = S::F32_LANES;
        let columns = block.grid[1];
        for half in 0..2 {
            let start = (2 * panel + half) * lanes;
            let run = block.tiles().saturating_sub(start).min(lanes);
            let in_one_row = columns.is_multiple_of(lanes) && run == lanes;
            for channel in 0..channels_in {
                let mut d = [[vector(simd, simd.splat_f32s(0.0)); IN]; IN];
                if in_one_row {
                    let (row, left) = (block.first + start / columns, start % columns);
                    let (member, row) = (row / block.grid[0], row % block.grid[0]);
                    let plane = shape.plane(input, member * channels_in + channel);
                    for (i, d) in d.iter_mut().enumerate() {
                        let y = row * OUT + i;
                        if y == 0 || y > height {
                            continue;
                        }
                        let line = shape.line(plane, y - 1);
                        // Column x of a tile is element x + 1 of the line, which a zero precedes; two more tiles' columns follow.
                        let mut copy = [0f32; 4 * (MAX_LANES + 1)];
                        let need = OUT * (lanes + 1);
                        let x = left * OUT;
                        let from = if !shape.doubled && x > 0 && x - 1 + need <= width {
                            &line[x - 1..][..need]
                        } else {
                            let skip = usize::from(x == 0);
                            let begin = x + skip - 1;
                            let have = (width - begin).min(need - skip);
                            shape.copy(line, begin, &mut copy[skip..skip + have]);
                            &copy[..need]
                        };
                        let these = parts::<S, F, OUT, IN>(simd, from);
                        let next = parts::<S, F, OUT, IN>(simd, &from[OUT..]);
                        for j in 0..IN {
                            d[j] = vector(simd, if j < OUT { these[j] } else { next[j - OUT] });
                        }
                    }
                } else {
                    let mut patch = [[[0f32; MAX_LANES]; IN]; IN];
                    for lane in 0..run {
                        let (row, column) = (
                            block.first + (start + lane) / columns,
                            (start + lane) % columns,
                        );
                        let (member, row) = (row / block.grid[0], row % block.grid[0]);
                        let plane = shape.plane(input, member * channels_in + channel);
                        let left = usize::from(column == 0);
                        let right = (width + 1 - column * OUT).min(IN);
                        for (i, patch) in patch.iter_mut().enumerate() {
                            let y = row * OUT + i;
                            if y == 0 || y > height {
                                continue;
                            }
                            let line = shape.line(plane, y - 1);
                            let mut row = [0f32; IN];
                            shape.copy(line, column * OUT + left - 1, &mut row[left..right]);
                            for (patch, value) in patch.iter_mut().zip(row) {
                                patch[lane] = value;
                            }
                        }
                    }
                    for (d, patch) in d.iter_mut().zip(&patch) {
                        for (d, patch) in d.iter_mut().zip(patch) {
                            *d = vector(simd, load::<S>(&patch[..lanes]));
                        }
                    }
                }
                let d = both_ways::<_, F, OUT, IN>(d);
                for (place, d) in d.iter().flatten().enumerate() {
                    let at = (place * channels_in + channel) * 2 * lanes + half * lanes;
                    store::<S>(&mut out[at..][..lanes], d.value);
                }
            }
        }
    }
}

/// Every `OUT`th element of a line, from each of its first `OUT` elements on.
#[inline(always)]
fn parts<S: Simd, F: Filter<OUT, IN>, const OUT: usize, const IN: usize>(
    simd: S,
    line: &[f32],
) -> [S::f32s; OUT] {
    let mut parts = [simd.splat_f32s(0.0); OUT];
    for (part, from) in parts.iter_mut().zip(line.chunks_exact(S::F32_LANES)) {
        *part = load::<S>(from);
    }
    F::apart(simd, parts)
}

/// The products of some strips with all panels, transformed back.
struct Products<'a, F, const OUT: usize, const IN: usize> {
    filter: PhantomData<F>,
    tiles: &'a [f32],
    weight: Weight<'a>,
    bias: Option<&'a [f32]>,
    shape: Shape,
    block: Block,
    /// Counted in the block, from the first of a panel.
    tiles_of_task: Range<usize>,
    strips: Range<usize>,
    planes: Vec<Plane<'a>>,
}

impl<F: Filter<OUT, IN>, const OUT: usize, const IN: usize> WithSimd for Products<'_, F, OUT, IN> {
    /// The number of cells that were written.
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> usize {
        let Self {
            tiles,
            weight,
            bias,
            shape,
            block,
            tiles_of_task,
            strips,
            mut planes,
            ..
        } = self;
        let lanes = S::F32_LANES;
        let panel = 2 * lanes;
        let channels = shape.channels_in;
        let size = IN * IN * channels * STRIP;
        let mut kernels = Buffer::scratch(strips.len() * size);
        for (strip, out) in strips.clone().zip(kernels.write().chunks_exact_mut(size)) {
            transform_weight::<F, OUT, IN>(weight, shape, strip, out);
        }
        planes.sort_by_key(|plane| (plane.channel, plane.first));
        let count = tiles_of_task.end;
        let mut products = Buffer::scratch(strips.len() * IN * IN * STRIP * panel);
        let mut written = 0;
        for (index, tiles) in tiles
            .chunks_exact(IN * IN * channels * panel)
            .enumerate()
            .take(count.div_ceil(panel))
            .skip(tiles_of_task.start / panel)
        {
            // A panel of tiles stays in the first-level cache for all strips.
            for (t, tiles) in tiles.chunks_exact(channels * panel).enumerate() {
                for strip in 0..strips.len() {
                    let kernels =
                        &kernels.read()[strip * size + t * channels * STRIP..][..channels * STRIP];
                    let product = multiply_strip(
                        simd,
                        pulp::as_arrays::<STRIP, _>(kernels).0,
                        vectors::<S, 2>(tiles),
                        zero_tile::<S, STRIP, 2>(simd),
                    );
                    let out = &mut products.write()[(strip * IN * IN + t) * STRIP * panel..]
                        [..STRIP * panel];
                    for (out, product) in vectors_mut::<S, 2>(out).iter_mut().zip(product) {
                        *out = product;
                    }
                }
            }
            for (at, products) in strips
                .clone()
                .zip(products.read().chunks_exact(IN * IN * STRIP * panel))
            {
                for row in 0..STRIP.min(shape.channels_out - at * STRIP) {
                    let channel = at * STRIP + row;
                    let bias = Vector {
                        simd,
                        value: simd.splat_f32s(bias.map_or(0.0, |bias| bias[channel])),
                    };
                    for half in 0..2 {
                        let mut m = [[bias; IN]; IN];
                        for i in 0..IN {
                            for j in 0..IN {
                                let from = &products
                                    [((i * IN + j) * STRIP + row) * panel + half * lanes..]
                                    [..lanes];
                                m[i][j].value = load::<S>(from);
                            }
                        }
                        let done = both_ways_out::<_, F, OUT, IN>(m);
                        let start = index * panel + half * lanes;
                        let run = count.saturating_sub(start).min(lanes);
                        let one_row = block.grid[1].is_multiple_of(lanes) && run == lanes;
                        let mut all = [[0f32; 4 * MAX_LANES]; OUT];
                        for (all, done) in all.iter_mut().zip(done) {
                            let values = done.map(
                                #[inline(always)]
                                |value| (value + bias).value,
                            );
                            // As the lines hold them where the input was taken apart so, else part by part.
                            let values = if one_row {
                                F::together(simd, values)
                            } else {
                                values
                            };
                            for (all, value) in all.chunks_exact_mut(lanes).zip(values) {
                                store::<S>(all, value);
                            }
                        }
                        written += write_tiles::<OUT>(
                            &all,
                            one_row,
                            start,
                            run,
                            lanes,
                            block,
                            shape,
                            channel,
                            &mut planes,
                        );
                    }
                }
            }
        }
        written
    }
}

/// Writes tiles `start..start + run` of the block to the rows of their channel, and gives the number of their cells.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn write_tiles<const OUT: usize>(
    all: &[[f32; 4 * MAX_LANES]; OUT],
    one_row: bool,
    start: usize,
    run: usize,
    lanes: usize,
    block: Block,
    shape: Shape,
    channel: usize,
    planes: &mut [Plane<'_>],
) -> usize {
    let columns = block.grid[1];
    let first = planes.partition_point(|plane| plane.channel < channel);
    let (mut lane, mut written) = (0, 0);
    while lane < run {
        let (row, left) = ((start + lane) / columns, (start + lane) % columns);
        let here = (columns - left).min(run - lane);
        let ours = planes[first..]
            .iter()
            .take_while(|plane| plane.channel == channel && plane.first <= row)
            .count();
        let plane = &mut planes[first + ours - 1];
        for (i, all) in all.iter().enumerate() {
            let y = (row - plane.first) * OUT + i;
            let Some(line) = plane.lines.get_mut(y * shape.width..(y + 1) * shape.width) else {
                break;
            };
            let line = &mut line[left * OUT..];
            if one_row {
                let count = line.len().min(OUT * lanes);
                line[..count].write_copy_of_slice(&all[..count]);
                written += count;
            } else {
                for (t, group) in line.chunks_mut(OUT).take(here).enumerate() {
                    for (j, out) in group.iter_mut().enumerate() {
                        out.write(all[j * lanes + lane + t]);
                    }
                    written += group.len();
                }
            }
        }
        lane += here;
    }
    written
}

/// The gradient of a 3×3 weight, `[out, in, 3, 3]`: of each of its nine places a product of the output's gradient with the input, moved.
///
/// Both are copied with a margin, so that a moved input is a slice: rows of `width + 2` cells, of which the gradient's last two are zero.
pub(crate) fn weight_gradient(input: &[f32], grad: &[f32], shape: Shape) -> Vec<f32> {
    let Shape {
        batch,
        channels_in,
        channels_out,
        height,
        width,
        ..
    } = shape;
    let wide = width + 2;
    let (run, area) = (height * wide, (height + 2) * wide + 2);
    let mut places = vec![0f32; 9 * channels_out * channels_in];
    let mut pulls = vec![0f32; channels_out * run];
    let mut cells = vec![0f32; channels_in * area];
    for member in 0..batch {
        let grad = &grad[member * channels_out * height * width..];
        pulls
            .par_chunks_exact_mut(run)
            .zip(grad.par_chunks_exact(height * width))
            .for_each(|(out, from)| {
                for (out, from) in out.chunks_exact_mut(wide).zip(from.chunks_exact(width)) {
                    out[..width].copy_from_slice(from);
                }
            });
        cells
            .par_chunks_exact_mut(area)
            .enumerate()
            .for_each(|(channel, out)| {
                let plane = shape.plane(input, member * channels_in + channel);
                for y in 0..height {
                    let out = &mut out[(y + 1) * wide + 1..][..width];
                    shape.copy(shape.line(plane, y), 0, out);
                }
            });
        let pulls = Matrix::new(&pulls, channels_out, run);
        places
            .par_chunks_exact_mut(channels_out * channels_in)
            .enumerate()
            .for_each(|(place, out)| {
                let moved = Matrix {
                    data: &cells[place / 3 * wide + place % 3..],
                    rows: channels_in,
                    columns: run,
                    strides: [area, 1],
                };
                accumulate(out, pulls, moved.transposed());
            });
    }
    build(places.len(), 9, |index, out| {
        fill(out, |place| {
            places[place * channels_out * channels_in + index]
        })
    })
}

/// `[IN · IN][channels in][STRIP]` of the channels out of one strip, filled up with zeros.
#[inline(always)]
fn transform_weight<F: Filter<OUT, IN>, const OUT: usize, const IN: usize>(
    weight: Weight<'_>,
    shape: Shape,
    strip: usize,
    out: &mut [f32],
) {
    let channels = shape.channels_in;
    for input in 0..channels {
        let mut kernels = [[0f32; STRIP]; 9];
        for row in 0..STRIP.min(shape.channels_out - strip * STRIP) {
            let kernel = weight.kernel(shape, strip * STRIP + row, input);
            for (all, value) in kernels.iter_mut().zip(kernel) {
                all[row] = value;
            }
        }
        let mut half = [[[0f32; STRIP]; 3]; IN];
        for j in 0..3 {
            for row in 0..STRIP {
                let column = F::kernel([kernels[j][row], kernels[3 + j][row], kernels[6 + j][row]]);
                for i in 0..IN {
                    half[i][j][row] = column[i];
                }
            }
        }
        for i in 0..IN {
            let mut whole = [[0f32; STRIP]; IN];
            for row in 0..STRIP {
                let line = F::kernel([half[i][0][row], half[i][1][row], half[i][2][row]]);
                for j in 0..IN {
                    whole[j][row] = line[j];
                }
            }
            for (j, whole) in whole.iter().enumerate() {
                out[((i * IN + j) * channels + input) * STRIP..][..STRIP].copy_from_slice(whole);
            }
        }
    }
}
