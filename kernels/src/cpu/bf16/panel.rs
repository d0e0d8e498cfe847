//! Panels: operands of a product as AMX takes them, and vectors of bf16 as well.
//!
//! An operand is packed into *panels* of 32 lanes, which are rows of the left matrix or columns of the right one. A panel is two halves of 16 lanes,
//! each a *tile* for every 32 numbers of the inner axis: 16 lines of 16 pairs, each pair two numbers that follow each other on the inner axis. A line
//! of a left tile is a lane, a line of a right tile a pair of each lane.
//!
//! ```text
//! left panel  ─ [half][inner / 32][lane][pair] ─┐
//!                                               ├─ 32 × 32 sums
//! right panel ─ [half][inner / 32][pair][lane] ─┘
//! ```

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use half::{bf16, f16};
use pulp::bytemuck::{cast_slice, cast_slice_mut};

use super::super::tile::Rows;
use super::unit::Unit;
use super::{Factor, Numbers};

/// Pairs of a line, and lines of a tile.
pub(super) const TILE: usize = 16;
/// Numbers of the inner axis that a tile holds.
pub(super) const DEPTH: usize = 2 * TILE;
/// Lanes of a panel.
pub(super) const PANEL: usize = 2 * TILE;

/// A line of a tile: pairs of bf16, the first of each in the lower half.
pub(super) type Line = [u32; TILE];

/// Which operand of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// An operand by its lanes: number `at` of a lane lies at `lane · strides[0] + at · strides[1]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lanes<'a> {
    pub numbers: Numbers<'a>,
    pub count: usize,
    pub inner: usize,
    pub strides: [usize; 2],
    /// What each number is multiplied by.
    pub scale: f32,
}

impl<'a> Lanes<'a> {
    pub(super) fn of(matrix: Factor<'a>, side: Side) -> Self {
        let Factor {
            numbers,
            rows,
            columns,
            strides: [down, along],
        } = matrix;
        let (count, inner, strides) = match side {
            Side::Left => (rows, columns, [down, along]),
            Side::Right => (columns, rows, [along, down]),
        };
        Self {
            numbers,
            count,
            inner,
            strides,
            scale: 1.0,
        }
    }

    /// Rows as lanes, or their columns.
    pub(super) fn of_rows(rows: Rows<'a>, [count, columns]: [usize; 2], turned: bool) -> Self {
        let (count, inner, strides) = match turned {
            false => (count, columns, [rows.stride, 1]),
            true => (columns, count, [1, rows.stride]),
        };
        Self {
            numbers: Numbers::F32(rows.data),
            count,
            inner,
            strides,
            scale: 1.0,
        }
    }

    /// Packs a panel, and zeros where there are no more lanes or numbers.
    ///
    /// # Panics
    /// If a number lies outside the operand's slice.
    pub(super) fn pack(self, _: Unit, panel: usize, side: Side, out: &mut [Line]) {
        // SAFETY: a `Unit` is there only where the processor has these instructions.
        unsafe {
            match self.numbers {
                Numbers::F32(numbers) => self.pack_from(numbers, panel, side, out),
                Numbers::F16(numbers) => self.pack_from(numbers, panel, side, out),
                Numbers::Bf16(numbers) => self.pack_from(numbers, panel, side, out),
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn pack_from<T: Number>(self, data: &[T], panel: usize, side: Side, out: &mut [Line]) {
        let Self {
            count,
            inner,
            strides: [lane_stride, stride],
            scale,
            ..
        } = self;
        let scale = _mm512_set1_ps(scale);
        let half_size = inner.div_ceil(DEPTH) * TILE;
        for (half, out) in out.chunks_exact_mut(half_size).take(2).enumerate() {
            let first = panel * PANEL + half * TILE;
            let lanes = TILE.min(count.saturating_sub(first));
            if lanes < TILE {
                out.fill([0; TILE]);
            }
            let at = |lane: usize, number: usize| (first + lane) * lane_stride + number * stride;
            if stride == 1 {
                for lane in 0..lanes {
                    let numbers = &data[at(lane, 0)..][..inner];
                    for (tile, numbers) in numbers.chunks(DEPTH).enumerate() {
                        let (low, high) = numbers.split_at(TILE.min(numbers.len()));
                        let (low, high) = (
                            _mm512_mul_ps(load(low), scale),
                            _mm512_mul_ps(load(high), scale),
                        );
                        out[tile * TILE + lane] = in_order(low, high);
                    }
                }
                if side == Side::Right {
                    for tile in out.as_chunks_mut::<TILE>().0 {
                        turn(tile);
                    }
                }
                continue;
            }
            for (tile, out) in out.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
                for (pair, line) in out.iter_mut().enumerate() {
                    let number = tile * DEPTH + 2 * pair;
                    let mut both = [_mm512_setzero_ps(); 2];
                    for (number, out) in (number..inner).zip(&mut both) {
                        if lane_stride == 1 {
                            let first = at(0, number).min(data.len());
                            *out = load(&data[first..][..lanes]);
                        } else {
                            let mut numbers = [T::ZERO; TILE];
                            for (lane, value) in numbers.iter_mut().take(lanes).enumerate() {
                                *value = data[at(lane, number)];
                            }
                            *out = load(&numbers);
                        }
                        *out = _mm512_mul_ps(*out, scale);
                    }
                    let [low, high] = both;
                    *line = in_pairs(low, high);
                }
                if side == Side::Left {
                    turn(out);
                }
            }
        }
    }
}

impl Lanes<'_> {
    /// Packs panels that follow each other, from panel `first` on, each at the begin of one of `out`'s.
    ///
    /// # Panics
    /// If a number lies outside the operand's slice.
    pub(super) fn pack_panels(self, unit: Unit, first: usize, side: Side, out: &mut [&mut [Line]]) {
        if side == Side::Left || self.strides[0] != 1 {
            for (index, out) in out.iter_mut().enumerate() {
                self.pack(unit, first + index, side, out);
            }
            return;
        }
        // SAFETY: a `Unit` is there only where the processor has these instructions.
        unsafe {
            match self.numbers {
                Numbers::F32(numbers) => self.pack_across(numbers, first, out),
                Numbers::F16(numbers) => self.pack_across(numbers, first, out),
                Numbers::Bf16(numbers) => self.pack_across(numbers, first, out),
            }
        }
    }

    /// Packs right panels whose lanes follow each other in memory: line by line of all of them, so that what is read is read in a row.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn pack_across<T: Number>(self, data: &[T], first: usize, out: &mut [&mut [Line]]) {
        let Self {
            count,
            inner,
            strides: [_, stride],
            scale,
            ..
        } = self;
        let scale = _mm512_set1_ps(scale);
        let half_size = inner.div_ceil(DEPTH) * TILE;
        let lanes = (first * PANEL).min(count)..((first + out.len()) * PANEL).min(count);
        for line in 0..half_size {
            let [low, high] = [2 * line, 2 * line + 1].map(|number| match number < inner {
                true => &data[number * stride..][lanes.clone()],
                false => &[],
            });
            for (half, at) in (0..2 * out.len()).zip((0..).step_by(TILE)) {
                let [low, high] = [low, high].map(|numbers| {
                    let numbers = &numbers[at.min(numbers.len())..];
                    _mm512_mul_ps(load(numbers), scale)
                });
                out[half / 2][half % 2 * half_size + line] = in_pairs(low, high);
            }
        }
    }
}

/// What is packed.
pub(super) trait Number: Copy + Send + Sync {
    const ZERO: Self;

    /// 16 numbers as f32, of which those outside the mask are 0.
    ///
    /// # Safety
    /// The processor has AVX-512 F and BW, and where the mask has a bit, a number may be read.
    unsafe fn load(from: *const Self, mask: __mmask16) -> __m512;
}

impl Number for f32 {
    const ZERO: Self = 0.0;

    #[inline(always)]
    unsafe fn load(from: *const Self, mask: __mmask16) -> __m512 {
        // SAFETY: as the caller says.
        unsafe { _mm512_maskz_loadu_ps(mask, from) }
    }
}

impl Number for f16 {
    const ZERO: Self = f16::ZERO;

    #[inline(always)]
    unsafe fn load(from: *const Self, mask: __mmask16) -> __m512 {
        // SAFETY: as the caller says; the mask has no bit for the upper half.
        unsafe {
            let all = _mm512_maskz_loadu_epi16(mask.into(), from.cast());
            _mm512_cvtph_ps(_mm512_castsi512_si256(all))
        }
    }
}

impl Number for bf16 {
    const ZERO: Self = bf16::ZERO;

    #[inline(always)]
    unsafe fn load(from: *const Self, mask: __mmask16) -> __m512 {
        // SAFETY: as the caller says; the mask has no bit for the upper half.
        unsafe {
            let all = _mm512_maskz_loadu_epi16(mask.into(), from.cast());
            let wide = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(all));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
}

/// At most 16 numbers, and zeros after them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn load<T: Number>(from: &[T]) -> __m512 {
    let mask = match from.len() {
        TILE.. => __mmask16::MAX,
        few => ((1u32 << few) - 1) as __mmask16,
    };
    // SAFETY: the mask lets no number be read but those of the slice.
    unsafe { T::load(from.as_ptr(), mask) }
}

/// 32 numbers that follow each other, as pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn in_order(low: __m512, high: __m512) -> Line {
    // SAFETY: both are 64 bytes, of which any are a value.
    unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(high, low)) }
}

/// The numbers of two vectors, one of each in every pair.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn in_pairs(first: __m512, second: __m512) -> Line {
    const ORDER: [u16; 32] = {
        let mut order = [0; 32];
        let mut pair = 0;
        while pair < TILE {
            order[2 * pair] = pair as u16;
            order[2 * pair + 1] = (TILE + pair) as u16;
            pair += 1;
        }
        order
    };
    // SAFETY: all are 64 bytes, of which any are a value.
    unsafe {
        let both = std::mem::transmute::<Line, __m512i>(in_order(first, second));
        std::mem::transmute(_mm512_permutexvar_epi16(
            std::mem::transmute::<[u16; 32], __m512i>(ORDER),
            both,
        ))
    }
}

/// Turns a tile over, pair by pair: four rounds, each of which interleaves the first eight lines with the last eight.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn turn(tile: &mut [Line; TILE]) {
    const LOW: Line = [0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23];
    const HIGH: Line = [8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31];
    // SAFETY: all are vectors of 64 bytes each, of which any are a value.
    unsafe {
        let [low, high] = std::mem::transmute::<[Line; 2], [__m512i; 2]>([LOW, HIGH]);
        let mut lines = std::mem::transmute::<[Line; TILE], [__m512i; TILE]>(*tile);
        for _ in 0..4 {
            let mut next = lines;
            for i in 0..8 {
                next[2 * i] = _mm512_permutex2var_epi32(lines[i], low, lines[i + 8]);
                next[2 * i + 1] = _mm512_permutex2var_epi32(lines[i], high, lines[i + 8]);
            }
            lines = next;
        }
        *tile = std::mem::transmute::<[__m512i; TILE], [Line; TILE]>(lines);
    }
}

/// Lines of a panel over an inner axis.
pub(super) fn lines_of(inner: usize) -> usize {
    2 * inner.div_ceil(DEPTH) * TILE
}

/// Floats as lines.
pub(super) fn lines(floats: &[f32]) -> &[Line] {
    cast_slice(floats)
}

/// Floats as lines.
pub(super) fn lines_mut(floats: &mut [f32]) -> &mut [Line] {
    cast_slice_mut(floats)
}

/// The two halves of a panel, of each the tiles from `first` on.
pub(super) fn halves(panel: &[Line], first: usize, count: usize) -> [&[Line]; 2] {
    let (low, high) = panel.split_at(panel.len() / 2);
    [low, high].map(|half| &half[first * TILE..][..count * TILE])
}

/// Where the tasks of one product write.
#[derive(Clone, Copy)]
pub(super) struct Target(*mut f32);

// SAFETY: a part is given out only where nothing else has it, as the caller of `part` says.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Target {
    pub(super) fn of(out: &mut [MaybeUninit<f32>]) -> Self {
        Self(out.as_mut_ptr().cast())
    }

    /// Some floats of the output.
    ///
    /// # Safety
    /// They lie in the output, which outlives them, and nothing else has them meanwhile.
    pub(super) unsafe fn part<'a>(self, first: usize, len: usize) -> &'a mut [MaybeUninit<f32>] {
        // SAFETY: as the caller says.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(first).cast(), len) }
    }
}
