//! 3×3 convolution with stride 1 by minimal filtering (Winograd 1980, Lavin & Gray 2016): F(4×4, 3×3) needs 4 times fewer multiplications
//! than the sum it computes, F(2×2, 3×3) needs 2.25 times fewer.
//!
//! ```text
//! input ── tiles of T×T, Bᵀ d B ── [panel of tiles][T·T][channels in][tiles] ─┐
//!                                                                            ├─ products by T·T ── Aᵀ m A ── output
//! weight ─ G w Gᵀ ── [strip of channels out][T·T][channels in][rows] ────────┘
//! ```
//!
//! A task takes some strips, transforms their weights itself, and runs them over some panels: no transformed weight outlives its task, and no
//! product leaves the cache.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::{Add, Mul, Range, Sub};

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::bf16::{Kernels, Numbers};
use super::gemm::{Matrix, accumulate};
use super::memory::{build, build_by, fill};
use super::tile::{
    Buffer, Rows, STRIP, lanes, load, multiply_strip, store, vectors, vectors_mut, zero_tile,
};
use super::turn::Turn;

/// Floats of transformed input that are held at once.
const HELD: usize = 6 << 20;
/// Strips of a task at most: what is read of the input serves all of them.
const GROUP: usize = 4;
/// Panels that are multiplied before the next place of the transform, so that what is read of the weight serves all of them.
const PANELS: usize = 2;
/// Panels of a task up to which its weights are transformed a few channels at a time, and never leave the second-level cache.
const FEW_PANELS: usize = 4;
/// So many channels.
const DEPTH: usize = 64;
/// Tasks for each thread, so that those which end late are short.
const TASKS: usize = 4;
/// Channels in whose kernels are turned over at once, in the first-level cache.
const TURNED: usize = 32;
/// Numbers of a kernel.
const TAPS: usize = 9;
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
            let (odd, pairs) = out.split_at_mut((begin % 2).min(out.len()));
            odd.fill(line[begin / 2]);
            let (pairs, last) = pairs.as_chunks_mut::<2>();
            let line = &line[begin.div_ceil(2)..];
            for (pair, &value) in pairs.iter_mut().zip(line) {
                *pair = [value; 2];
            }
            if let [last] = last {
                *last = line[pairs.len()];
            }
        } else {
            out.copy_from_slice(&line[begin..][..out.len()]);
        }
    }
}

impl Kernels<'_> {
    /// The nine numbers of the kernels between `inputs`, one after the other, and `outputs`, next to each other. `wide` is room for those of 16 bits.
    #[inline(always)]
    fn turned(
        &self,
        shape: Shape,
        outputs: Range<usize>,
        inputs: Range<usize>,
        wide: &mut Wide,
        out: &mut [[[f32; STRIP]; TAPS]],
    ) {
        if !self.backward {
            let (stride, columns) = (shape.channels_in * TAPS, inputs.len() * TAPS);
            let first = |output: usize| output * stride + inputs.start * TAPS;
            let from = match self.numbers {
                Numbers::F32(data) => Rows {
                    data: &data[first(outputs.start)..],
                    stride,
                },
                _ => {
                    for (output, out) in outputs.clone().zip(wide.chunks_exact_mut(columns)) {
                        self.numbers.widen(first(output), out);
                    }
                    Rows {
                        data: wide,
                        stride: columns,
                    }
                }
            };
            let turn = Turn {
                from,
                rows: outputs.len(),
                columns,
                scale: 1.0,
            };
            turn.write(out.as_flattened_mut().as_flattened_mut(), STRIP);
            return;
        }
        let wide = &mut wide[..outputs.len() * TAPS];
        for (input, out) in inputs.zip(out) {
            let first = (input * shape.channels_out + outputs.start) * TAPS;
            let kernels = match self.numbers {
                Numbers::F32(data) => &data[first..][..wide.len()],
                _ => {
                    self.numbers.widen(first, wide);
                    &*wide
                }
            };
            for (row, kernel) in pulp::as_arrays::<TAPS, _>(kernels).0.iter().enumerate() {
                for (all, &value) in out.iter_mut().rev().zip(kernel) {
                    all[row] = value;
                }
            }
        }
    }
}

/// Kernels that follow each other in a weight of 16-bit floats, as f32.
type Wide = [f32; STRIP * TURNED * TAPS];

/// The one-dimensional transforms of F(OUT, 3), with `IN = OUT + 2`.
trait Filter<const OUT: usize, const IN: usize>: Sync + Send {
    fn data<T: Number>(d: [T; IN]) -> [T; IN];
    fn kernel<T: Number>(g: [T; 3]) -> [T; IN];
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
    fn kernel<T: Number>([a, b, c]: [T; 3]) -> [T; 4] {
        [a, (a + b + c) * 0.5, (a - b + c) * 0.5, c]
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
    fn kernel<T: Number>([a, b, c]: [T; 3]) -> [T; 6] {
        let (ends, wide) = ((a + c) * (-1.0 / 6.0), a * (1.0 / 24.0) + c * (1.0 / 6.0));
        let (middle, half) = (b * (1.0 / 6.0), b * (1.0 / 12.0));
        [
            a * 0.25,
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
    weight: Kernels<'_>,
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
    weight: Kernels<'_>,
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
    let groups = strips.div_ceil(GROUP).max(rayon::current_num_threads());
    let per_task = strips.div_ceil(groups);
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

    /// The tiles of a range, row by row.
    #[inline(always)]
    fn runs(self, tiles: Range<usize>) -> impl Iterator<Item = Run> {
        let columns = self.grid[1];
        let mut next = tiles.start;
        std::iter::from_fn(
            #[inline(always)]
            move || {
                let left = next % columns;
                let run = Run {
                    row: next / columns,
                    left,
                    count: (columns - left).min(tiles.end.saturating_sub(next)),
                };
                next += run.count;
                (run.count > 0).then_some(run)
            },
        )
    }
}

/// Tiles of one row, next to each other.
#[derive(Clone, Copy)]
struct Run {
    /// Counted in the block.
    row: usize,
    /// The first of them.
    left: usize,
    count: usize,
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
/// Tiles of a panel at most.
const MAX_TILES: usize = 2 * MAX_LANES;
/// Cells of an output tile both ways at most.
const MAX_OUT: usize = 4;

/// Where a run of tiles finds its input, and where it lies in a panel's lines.
#[derive(Clone, Copy, Default)]
struct Source {
    /// Index of the first channel's plane.
    plane: usize,
    /// The first tile's row in the input, which the filter's margin lies above.
    top: usize,
    /// Rows of the tiles that are there.
    rows: [usize; 2],
    /// The input's first column that is there, and how many follow.
    left: usize,
    wide: usize,
    /// Where that column lies in the lines.
    at: usize,
}

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
        let channels = shape.channels_in;
        let lanes = S::F32_LANES;
        let tiles = 2 * panel * lanes..block.tiles().min(2 * (panel + 1) * lanes);
        // The input's rows that the tiles are made of, run by run: of each run its columns, a zero where it has none, and then what its last tile
        // reads beyond them. A tile that is not there reads the zeros before the first run.
        let mut lines = [[0f32; MAX_OUT * (2 * MAX_TILES + 2)]; IN];
        let mut offsets = [0; MAX_TILES];
        let mut sources = [Source::default(); MAX_TILES];
        let (mut count, mut done, mut offset) = (0, 0, 2 * OUT);
        for run in block.runs(tiles) {
            let row = block.first + run.row;
            let top = row % block.grid[0] * OUT;
            let skip = usize::from(run.left == 0);
            let left = run.left * OUT + skip - 1;
            sources[count] = Source {
                plane: row / block.grid[0] * channels,
                top,
                rows: [usize::from(top == 0), IN.min(shape.height + 1 - top)],
                left,
                wide: (run.count * OUT + 2 - skip).min(shape.width - left),
                at: offset + skip,
            };
            for tile in 0..run.count {
                offsets[done + tile] = offset + tile * OUT;
            }
            count += 1;
            done += run.count;
            offset += (run.count + 1) * OUT;
        }
        // Where each vector of the tiles' columns begins, if they follow each other.
        let mut begins = [[None; OUT]; 2];
        for (half, begins) in begins.iter_mut().enumerate() {
            for (part, begin) in begins.iter_mut().enumerate() {
                let (first, last) = (part * lanes, (part + 1) * lanes - 1);
                let offset = |element: usize| offsets[half * lanes + element / OUT] + element % OUT;
                let follow = (first..last).all(|at| offset(at) + 1 == offset(at + 1));
                *begin = follow.then_some(offset(first));
            }
        }
        for channel in 0..channels {
            for source in &sources[..count] {
                let plane = shape.plane(input, source.plane + channel);
                let [above, below] = source.rows;
                for (i, out) in lines.iter_mut().enumerate().take(below).skip(above) {
                    let line = shape.line(plane, source.top + i - 1);
                    shape.copy(line, source.left, &mut out[source.at..][..source.wide]);
                }
            }
            for (half, begins) in begins.iter().enumerate() {
                let offsets = &offsets[half * lanes..][..lanes];
                let mut d = [[vector(simd, simd.splat_f32s(0.0)); IN]; IN];
                for (d, line) in d.iter_mut().zip(&lines) {
                    let mut these = [simd.splat_f32s(0.0); OUT];
                    let mut next = these;
                    if begins.iter().all(Option::is_some) {
                        for (part, begin) in begins.iter().enumerate() {
                            let begin = begin.unwrap_or_default();
                            these[part] = load::<S>(&line[begin..][..lanes]);
                            next[part] = load::<S>(&line[begin + OUT..][..lanes]);
                        }
                    } else {
                        let mut copies = [[0f32; MAX_OUT * MAX_LANES]; 2];
                        for (skip, copy) in copies.iter_mut().enumerate() {
                            let tiles = pulp::as_arrays_mut::<OUT, _>(copy).0;
                            for (tile, offset) in tiles.iter_mut().zip(offsets) {
                                let from = &line[offset + skip * OUT..][..OUT];
                                *tile = pulp::as_arrays::<OUT, _>(from).0[0];
                            }
                        }
                        for part in 0..OUT {
                            these[part] = load::<S>(&copies[0][part * lanes..]);
                            next[part] = load::<S>(&copies[1][part * lanes..]);
                        }
                    }
                    let (these, next) = (F::apart(simd, these), F::apart(simd, next));
                    for j in 0..IN {
                        d[j] = vector(simd, if j < OUT { these[j] } else { next[j - OUT] });
                    }
                }
                let d = both_ways::<_, F, OUT, IN>(d);
                for (place, d) in d.iter().flatten().enumerate() {
                    let at = (place * channels + channel) * 2 * lanes + half * lanes;
                    store::<S>(&mut out[at..][..lanes], d.value);
                }
            }
        }
    }
}

/// The products of some strips with all panels, transformed back.
struct Products<'a, F, const OUT: usize, const IN: usize> {
    filter: PhantomData<F>,
    tiles: &'a [f32],
    weight: Kernels<'a>,
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
        let count = tiles_of_task.end;
        let panels = tiles_of_task.start / panel..count.div_ceil(panel);
        let few = panels.len() <= FEW_PANELS;
        let (depth, together) = if few {
            (DEPTH.min(channels), panels.len().max(1))
        } else {
            (channels, PANELS)
        };
        let place = place_of_kernels(depth);
        let size = IN * IN * place;
        let mut kernels = Buffer::scratch(strips.len() * size);
        let mut wide = [0f32; STRIP * TURNED * TAPS];
        if !few {
            let (strips, inputs) = (strips.clone(), 0..channels);
            let kernels = kernels.write();
            transform_weights::<_, F, OUT, IN>(
                simd, weight, shape, strips, inputs, &mut wide, kernels,
            );
        }
        planes.sort_by_key(|plane| (plane.channel, plane.first));
        let tile = STRIP * panel;
        let mut products = Buffer::scratch(together * strips.len() * IN * IN * tile);
        let mut written = 0;
        for begin in panels.clone().step_by(together) {
            let panels = begin..panels.end.min(begin + together);
            for first in (0..channels).step_by(depth) {
                let inputs = first..channels.min(first + depth);
                if few {
                    let (strips, inputs) = (strips.clone(), inputs.clone());
                    let kernels = kernels.write();
                    transform_weights::<_, F, OUT, IN>(
                        simd, weight, shape, strips, inputs, &mut wide, kernels,
                    );
                }
                for t in 0..IN * IN {
                    for index in panels.clone() {
                        let from = (index * IN * IN + t) * channels + first;
                        let tiles = &tiles[from * panel..][..inputs.len() * panel];
                        for strip in 0..strips.len() {
                            let from = strip * size + t * place;
                            let kernels = &kernels.read()[from..][..inputs.len() * STRIP];
                            let to = ((index - begin) * strips.len() + strip) * IN * IN + t;
                            let out = &mut products.write()[to * tile..][..tile];
                            let out = vectors_mut::<S, 2>(out);
                            let mut sum = zero_tile::<S, STRIP, 2>(simd);
                            if first > 0 {
                                sum.copy_from_slice(out);
                            }
                            let product = multiply_strip(
                                simd,
                                pulp::as_arrays::<STRIP, _>(kernels).0,
                                vectors::<S, 2>(tiles),
                                sum,
                            );
                            for (out, product) in out.iter_mut().zip(product) {
                                *out = product;
                            }
                        }
                    }
                }
            }
            for (at, products) in products.read().chunks_exact(IN * IN * tile).enumerate() {
                let (index, at) = (begin + at / strips.len(), strips.start + at % strips.len());
                if index >= panels.end {
                    break;
                }
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
                        let mut all = [[0f32; MAX_OUT * MAX_LANES]; OUT];
                        for (all, done) in all.iter_mut().zip(done) {
                            let values = done.map(
                                #[inline(always)]
                                |value| (value + bias).value,
                            );
                            // As the lines hold them: tile by tile.
                            let values = F::together(simd, values);
                            for (all, value) in all.chunks_exact_mut(lanes).zip(values) {
                                store::<S>(all, value);
                            }
                        }
                        written += write_tiles::<OUT>(
                            &all,
                            start..start + run,
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

/// Writes some tiles of the block to the rows of their channel, and gives the number of their cells.
#[inline(always)]
fn write_tiles<const OUT: usize>(
    all: &[[f32; MAX_OUT * MAX_LANES]; OUT],
    tiles: Range<usize>,
    block: Block,
    shape: Shape,
    channel: usize,
    planes: &mut [Plane<'_>],
) -> usize {
    let first = planes.partition_point(|plane| plane.channel < channel);
    let (mut from, mut written) = (0, 0);
    for run in block.runs(tiles) {
        let ours = planes[first..]
            .iter()
            .take_while(|plane| plane.channel == channel && plane.first <= run.row)
            .count();
        let plane = &mut planes[first + ours - 1];
        for (i, all) in all.iter().enumerate() {
            let y = (run.row - plane.first) * OUT + i;
            let Some(line) = plane.lines.get_mut(y * shape.width..(y + 1) * shape.width) else {
                break;
            };
            let line = &mut line[run.left * OUT..];
            let count = line.len().min(OUT * run.count);
            line[..count].write_copy_of_slice(&all[from..][..count]);
            written += count;
        }
        from += run.count * OUT;
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

/// Floats from one place of a strip's transformed kernels to the next: of all channels, and as many more as keep the places from sharing a set of the
/// first-level cache, into which they are written by turns.
fn place_of_kernels(channels: usize) -> usize {
    channels * STRIP + MAX_LANES
}

/// Transforms the weights of some strips, each to its share of `out`.
#[inline(always)]
fn transform_weights<S: Simd, F: Filter<OUT, IN>, const OUT: usize, const IN: usize>(
    simd: S,
    weight: Kernels<'_>,
    shape: Shape,
    strips: Range<usize>,
    inputs: Range<usize>,
    wide: &mut Wide,
    out: &mut [f32],
) {
    let size = out.len() / strips.len();
    for (strip, out) in strips.zip(out.chunks_exact_mut(size)) {
        transform_weight::<_, F, OUT, IN>(simd, weight, shape, strip, inputs.clone(), wide, out);
    }
}

/// `[IN · IN][channels in][STRIP]` of some channels in and the channels out of one strip, filled up with zeros, the places as far apart as
/// [`place_of_kernels`] says.
#[inline(always)]
fn transform_weight<S: Simd, F: Filter<OUT, IN>, const OUT: usize, const IN: usize>(
    simd: S,
    weight: Kernels<'_>,
    shape: Shape,
    strip: usize,
    inputs: Range<usize>,
    wide: &mut Wide,
    out: &mut [f32],
) {
    let lanes = S::F32_LANES;
    let stride = out.len() / (IN * IN);
    let begin = inputs.start;
    let outputs = strip * STRIP..shape.channels_out.min((strip + 1) * STRIP);
    // A vector of the last numbers reaches beyond them.
    let mut turned = [[[0f32; STRIP]; TAPS]; TURNED + 1];
    for first in inputs.clone().step_by(TURNED) {
        let inputs = first..inputs.end.min(first + TURNED);
        weight.turned(shape, outputs.clone(), inputs.clone(), wide, &mut turned);
        let turned = turned.as_flattened().as_flattened();
        for (index, input) in inputs.enumerate() {
            for lane in (0..STRIP).step_by(lanes) {
                let mut taps = [vector(simd, simd.splat_f32s(0.0)); TAPS];
                for (tap, number) in taps.iter_mut().enumerate() {
                    let at = (index * TAPS + tap) * STRIP + lane;
                    number.value = load::<S>(&turned[at..][..lanes]);
                }
                let mut half = [[taps[0]; 3]; IN];
                for j in 0..3 {
                    let column = F::kernel([taps[j], taps[3 + j], taps[6 + j]]);
                    for i in 0..IN {
                        half[i][j] = column[i];
                    }
                }
                for (i, half) in half.into_iter().enumerate() {
                    for (j, number) in F::kernel(half).into_iter().enumerate() {
                        // What is written after the strip is the next channel's, which comes later, or lies between the places.
                        let at = (i * IN + j) * stride + (input - begin) * STRIP + lane;
                        store::<S>(&mut out[at..][..lanes], number.value);
                    }
                }
            }
        }
    }
}
