//! 3×3 convolution as a product: channels out by positions, over channels in and taps.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use pulp::bytemuck::{cast_slice, cast_slice_mut};
use rayon::prelude::*;

use super::super::convolution::Shape;
use super::super::memory::build_by;
use super::super::tile::Buffer;
use super::amx::Amx;
use super::panel::{
    DEPTH, Line, Number, PANEL, TILE, Target, in_order, in_pairs, lines, lines_mut, load, turn,
};
use super::unit::Unit;
use super::{Kernels, Numbers};

/// Positions whose sums are written together.
const RUN: usize = 8 * PANEL;
/// Bytes of a frame that stay in the second-level cache while the channels out go over them.
const PART: usize = 512 << 10;
/// Numbers of a kernel.
const TAPS: usize = 9;

/// Whether a convolution is worth it: one of few channels fills its tiles with zeros.
pub(super) fn pays(shape: &Shape) -> bool {
    shape.channels_in >= TILE && shape.channels_out >= TILE
}

/// What a convolution reads: of every pair of channels a plane of all members of the batch, each with a border of zeros, so that what a tap reads of
/// positions that follow each other follows each other too.
struct Frame {
    planes: Buffer,
    /// Pairs of a plane.
    plane: usize,
    /// Tiles of channels in.
    blocks: usize,
}

/// Positions of a row with its border.
fn across(shape: &Shape) -> usize {
    shape.width + 2
}

/// Positions that are computed: those of a batch with their borders, from the first cell on, but for the last member's two rows after it.
fn positions(shape: &Shape) -> usize {
    (shape.batch * (shape.height + 2) - 2) * across(shape)
}

impl Frame {
    fn of(unit: Unit, input: &[f32], shape: Shape) -> Self {
        let blocks = shape.channels_in.div_ceil(DEPTH);
        // The last tap of the last panel reads beyond the positions. The planes are of whole lines, an odd number of them, so that a tile's lines lie
        // in different sets of the cache.
        let plane = positions(&shape).next_multiple_of(PANEL) + 2 * across(&shape) + 2;
        let plane = (plane.div_ceil(TILE) | 1) * TILE;
        let mut planes = Buffer::scratch(blocks * TILE * plane);
        cast_slice_mut::<f32, u32>(planes.write())
            .par_chunks_exact_mut(plane)
            .enumerate()
            .for_each(|(pair, out)| fill_plane(unit, input, shape, pair, out));
        Self {
            planes,
            plane,
            blocks,
        }
    }
}

/// Writes the plane of one pair of channels.
fn fill_plane(_: Unit, input: &[f32], shape: Shape, pair: usize, out: &mut [u32]) {
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn put(low: &[f32], high: &[f32], out: &mut [u32]) {
        for (at, out) in out.chunks_mut(TILE).enumerate() {
            let here = at * TILE..at * TILE + out.len();
            let line = in_pairs(
                load(&low[here.clone()]),
                load(high.get(here).unwrap_or(&[])),
            );
            match out.first_chunk_mut::<TILE>() {
                Some(out) => *out = line,
                None => out.copy_from_slice(&line[..out.len()]),
            }
        }
    }
    out.fill(0);
    let channels = 2 * pair..shape.channels_in.min(2 * pair + 2);
    let mut wide = [vec![0.0; shape.width], vec![0.0; shape.width]];
    for member in 0..shape.batch {
        let planes: Vec<&[f32]> = channels
            .clone()
            .map(|channel| shape.plane(input, member * shape.channels_in + channel))
            .collect();
        for y in 0..shape.height {
            let first = (member * (shape.height + 2) + y + 1) * across(&shape) + 1;
            for (wide, plane) in wide.iter_mut().zip(&planes) {
                shape.copy(shape.line(plane, y), 0, wide);
            }
            let [low, high] = &wide;
            let (low, high): (&[f32], &[f32]) = match planes.len() {
                0 => break,
                1 => (low, &[]),
                _ => (low, high),
            };
            // SAFETY: a `Unit` is there only where the processor has these instructions.
            unsafe { put(low, high, &mut out[first..][..shape.width]) };
        }
    }
}

/// Packs 32 channels out as a left panel: `[half][block of channels in][tap]` tiles.
fn pack_kernels(_: Unit, weight: Kernels<'_>, shape: Shape, panel: usize, out: &mut [Line]) {
    // SAFETY: a `Unit` is there only where the processor has these instructions.
    unsafe {
        match weight.numbers {
            Numbers::F32(data) => pack_from(data, weight.backward, shape, panel, out),
            Numbers::F16(data) => pack_from(data, weight.backward, shape, panel, out),
            Numbers::Bf16(data) => pack_from(data, weight.backward, shape, panel, out),
        }
    }
}

/// Numbers of 32 kernels, and of 16 kernels of each of two channels.
const KERNELS: usize = TAPS * DEPTH;

/// Where number `j` of a line comes from: its vector of 32 among nine, and its place there.
struct Order {
    places: [u16; DEPTH],
    /// Of each vector, which numbers of the line are its own.
    masks: [__mmask32; TAPS],
}

/// Of every tap, of `KERNELS` numbers: those of 32 kernels that follow each other, or by turns those of the first 16 and of the last 16.
const fn orders(by_turns: bool) -> [Order; TAPS] {
    let mut orders = [const {
        Order {
            places: [0; DEPTH],
            masks: [0; TAPS],
        }
    }; TAPS];
    let mut tap = 0;
    while tap < TAPS {
        let mut j = 0;
        while j < DEPTH {
            let kernel = if by_turns { j % 2 * TILE + j / 2 } else { j };
            let from = kernel * TAPS + tap;
            orders[tap].places[j] = (from % DEPTH) as u16;
            orders[tap].masks[from / DEPTH] |= 1 << j;
            j += 1;
        }
        tap += 1;
    }
    orders
}

static IN_ORDER: [Order; TAPS] = orders(false);
static BY_TURNS: [Order; TAPS] = orders(true);

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pack_from<T: Number>(data: &[T], backward: bool, shape: Shape, panel: usize, out: &mut [Line]) {
    let (from, to) = (shape.channels_in, shape.channels_out);
    assert!(data.len() == from * to * TAPS);
    let blocks = from.div_ceil(DEPTH);
    let mut numbers = [T::ZERO; KERNELS];
    for (half, out) in out.chunks_exact_mut(blocks * TAPS * TILE).enumerate() {
        let first = panel * PANEL + half * TILE;
        let lanes = TILE.min(to.saturating_sub(first));
        if lanes < TILE {
            out.fill([0; TILE]);
        }
        for (block, out) in out.chunks_exact_mut(TAPS * TILE).enumerate() {
            let channel = block * DEPTH;
            let here = DEPTH.min(from - channel);
            if !backward {
                for lane in 0..lanes {
                    let kernels = &data[((first + lane) * from + channel) * TAPS..][..here * TAPS];
                    let kernels = match kernels.first_chunk::<KERNELS>() {
                        Some(whole) => whole,
                        None => {
                            numbers[..kernels.len()].copy_from_slice(kernels);
                            numbers[kernels.len()..].fill(T::ZERO);
                            &numbers
                        }
                    };
                    let kernels = rounded(kernels);
                    for (tap, order) in IN_ORDER.iter().enumerate() {
                        out[tap * TILE + lane] = picked(&kernels, order);
                    }
                }
                continue;
            }
            for pair in 0..TILE {
                for (which, numbers) in numbers.chunks_exact_mut(TILE * TAPS).enumerate() {
                    let channel = channel + 2 * pair + which;
                    let wanted = if channel < from { lanes * TAPS } else { 0 };
                    let kernels = &data[((channel * to) + first).min(from * to) * TAPS..][..wanted];
                    numbers[..wanted].copy_from_slice(kernels);
                    numbers[wanted..].fill(T::ZERO);
                }
                let kernels = rounded(&numbers);
                for (tap, order) in BY_TURNS.iter().rev().enumerate() {
                    out[tap * TILE + pair] = picked(&kernels, order);
                }
            }
            for tile in out.as_chunks_mut::<TILE>().0 {
                turn(tile);
            }
        }
    }
}

/// Nine vectors of 32 numbers each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn rounded<T: Number>(numbers: &[T; KERNELS]) -> [__m512i; TAPS] {
    let mut all = [_mm512_setzero_si512(); TAPS];
    for (out, numbers) in all.iter_mut().zip(numbers.chunks_exact(DEPTH)) {
        let (low, high) = numbers.split_at(TILE);
        // SAFETY: both are 64 bytes, of which any are a value.
        *out = unsafe { std::mem::transmute::<Line, __m512i>(in_order(load(low), load(high))) };
    }
    all
}

/// The line of a tap.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn picked(kernels: &[__m512i; TAPS], order: &Order) -> Line {
    // SAFETY: all are 64 bytes, of which any are a value.
    unsafe {
        let places = std::mem::transmute::<[u16; DEPTH], __m512i>(order.places);
        let mut line = _mm512_setzero_si512();
        for (kernels, &mask) in kernels.iter().zip(&order.masks) {
            line = _mm512_mask_permutexvar_epi16(line, mask, places, *kernels);
        }
        std::mem::transmute::<__m512i, Line>(line)
    }
}

/// The convolution of `input`, `[batch, in, height, width]`, and a bias.
///
/// # Panics
/// If the sizes do not fit each other.
pub(super) fn convolve(
    amx: Amx,
    input: &[f32],
    weight: Kernels<'_>,
    bias: Option<&[f32]>,
    shape: Shape,
) -> Vec<f32> {
    let Shape {
        batch,
        channels_out,
        height,
        width,
        ..
    } = shape;
    assert!(bias.is_none_or(|bias| bias.len() == channels_out));
    let unit = Unit::Tiles(amx);
    if batch * height * width == 0 {
        return vec![];
    }
    let frame = Frame::of(unit, input, shape);
    let size = 2 * frame.blocks * TAPS * TILE;
    let panels = channels_out.div_ceil(PANEL);
    let mut kernels = Buffer::scratch(panels * size * TILE);
    lines_mut(kernels.write())
        .par_chunks_exact_mut(size)
        .enumerate()
        .for_each(|(panel, out)| pack_kernels(unit, weight, shape, panel, out));
    let (across, positions) = (across(&shape), positions(&shape));
    let part = (PART / (frame.blocks * TILE * size_of::<u32>())).max(RUN) / RUN * RUN;
    let parts = positions.div_ceil(part);
    let kernels = lines(kernels.read());
    let planes = cast_slice::<f32, u32>(frame.planes.read());
    let write = |out: &mut [MaybeUninit<f32>]| {
        let target = Target::of(out);
        let tasks = (0..parts * panels).into_par_iter().map(|task| {
            let (first, panel) = (task / panels * part, task % panels);
            let kernels = &kernels[panel * size..][..size];
            let channels = panel * PANEL..channels_out.min((panel + 1) * PANEL);
            let tiles = amx.on_this_thread();
            let mut sums = Buffer::scratch(PANEL * RUN);
            let mut written = 0;
            let end = positions.min(first + part);
            for first in (first..end).step_by(RUN) {
                let end = end.min(first + RUN);
                for at in (first..end).step_by(PANEL) {
                    let places = std::array::from_fn(|tap| at + tap / 3 * across + tap % 3);
                    let sums = &mut sums.write()[at - first..];
                    tiles.multiply_places(kernels, planes, frame.plane, &places, sums, RUN);
                }
                // Rows of the picture, of each of which the run has a part.
                let mut at = first;
                while at < end {
                    let (row, x) = (at / across, at % across);
                    let (member, y) = (row / (height + 2), row % (height + 2));
                    let next = end.min((row + 1) * across);
                    let wide = (next - at).min(width.saturating_sub(x));
                    if y < height && wide > 0 {
                        for (lane, channel) in channels.clone().enumerate() {
                            let sums = &sums.read()[lane * RUN + at - first..][..wide];
                            let place = (member * channels_out + channel) * height + y;
                            // SAFETY: the cells lie in one row of the picture. No other task has these positions of this channel.
                            let out = unsafe { target.part(place * width + x, wide) };
                            put(unit, sums, bias.map_or(0.0, |bias| bias[channel]), out);
                        }
                        written += channels.len() * wide;
                    }
                    at = next;
                }
            }
            written
        });
        tasks.sum()
    };
    // SAFETY: each cell of each channel is at one position, which belongs to one task, and that counts it once.
    unsafe { build_by(batch * channels_out * height * width, write) }
}

/// Copies floats, and adds a number to each.
fn put(_: Unit, from: &[f32], more: f32, out: &mut [MaybeUninit<f32>]) {
    #[target_feature(enable = "avx512f")]
    fn put(from: &[f32], more: f32, out: &mut [MaybeUninit<f32>]) {
        for (out, from) in out.iter_mut().zip(from) {
            out.write(from + more);
        }
    }
    // SAFETY: a `Unit` is there only where the processor has these instructions.
    unsafe { put(from, more, out) }
}
