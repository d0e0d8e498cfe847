//! Panels: operands of a product as AMX takes them.
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

use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::sync::OnceLock;

use half::{bf16, f16};
use pulp::bytemuck::{cast_slice, cast_slice_mut};
use rayon::prelude::*;

use super::super::tile::{Buffer, Rows};
use super::{Factor, Numbers};

/// Pairs of a line, and lines of a tile.
pub(super) const TILE: usize = 16;
/// Numbers of the inner axis that a tile holds.
pub(super) const DEPTH: usize = 2 * TILE;
/// Lanes of a panel.
pub(super) const PANEL: usize = 2 * TILE;

/// A line of a tile: pairs of bf16, the first of each in the lower half.
pub(super) type Line = [u32; TILE];

/// The proof that this processor has AMX's tiles and bf16 products, and AVX-512 with its conversions to bf16, and that the system lets this process
/// use them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amx(());

impl Amx {
    pub(super) fn get() -> Option<Self> {
        static FOUND: OnceLock<Option<Amx>> = OnceLock::new();
        *FOUND.get_or_init(|| {
            let vectors = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512bf16");
            (vectors && Self::permitted()).then_some(Self(()))
        })
    }

    fn permitted() -> bool {
        /// `ARCH_REQ_XCOMP_PERM` of Linux' `asm/prctl.h`, since 5.16.
        const REQUEST: libc::c_long = 0x1023;
        /// The number of the state that holds the tiles' data.
        const TILE_DATA: libc::c_long = 18;
        /// AMX-BF16 and AMX-TILE.
        const BOTH: u32 = 1 << 22 | 1 << 24;
        let has = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & BOTH == BOTH;
        // SAFETY: the call takes two numbers and touches no memory of this process. A system that does not know it, or refuses, says so.
        has && unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) } == 0
    }
}

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
    /// Whether what rounding takes from each number is packed, in place of the number.
    pub rest: bool,
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
            rest: false,
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
            rest: false,
        }
    }

    /// Packs a panel, and zeros where there are no more lanes or numbers.
    ///
    /// # Panics
    /// If a number lies outside the operand's slice.
    pub(super) fn pack(self, _: Amx, panel: usize, side: Side, out: &mut [Line]) {
        // SAFETY: an `Amx` is there only where the processor has these instructions.
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
            rest,
            ..
        } = self;
        let packed = Packed {
            scale: _mm512_set1_ps(scale),
            rest,
        };
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
                        let (low, high) = (packed.of(load(low)), packed.of(load(high)));
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
                        *out = packed.of(*out);
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
    /// Packs one tile of each half of every right panel, where lanes follow each other in memory.
    ///
    /// # Safety
    /// All panels lie at `out`, and nothing else has those tiles meanwhile.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn pack_across<T: Number>(self, data: &[T], tile: usize, out: Place) {
        let Self {
            count,
            inner,
            strides: [_, stride],
            scale,
            rest,
            ..
        } = self;
        let packed = Packed {
            scale: _mm512_set1_ps(scale),
            rest,
        };
        let half_size = inner.div_ceil(DEPTH) * TILE;
        for pair in 0..TILE {
            let number = tile * DEPTH + 2 * pair;
            let [low, high] = [number, number + 1].map(|number| match number < inner {
                true => &data[number * stride..][..count],
                false => &[],
            });
            for half in 0..2 * count.div_ceil(PANEL) {
                let lanes = (half * TILE).min(count)..((half + 1) * TILE).min(count);
                let line = in_pairs(
                    packed.of(load(low.get(lanes.clone()).unwrap_or(&[]))),
                    packed.of(load(high.get(lanes).unwrap_or(&[]))),
                );
                // SAFETY: this line of the tile lies in half `half` of all panels' halves.
                unsafe { out.0.add(half * half_size + tile * TILE + pair).write(line) };
            }
        }
    }
}

/// What is packed of a number, before it is rounded.
#[derive(Clone, Copy)]
struct Packed {
    scale: __m512,
    rest: bool,
}

impl Packed {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn of(self, numbers: __m512) -> __m512 {
        let numbers = _mm512_mul_ps(numbers, self.scale);
        if !self.rest {
            return numbers;
        }
        // SAFETY: both are 32 bytes, of which any are a value.
        let short: __m256i = unsafe { std::mem::transmute(_mm512_cvtneps_pbh(numbers)) };
        let rounded = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(short));
        _mm512_sub_ps(numbers, _mm512_castsi512_ps(rounded))
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

/// All panels of a right operand, one after the other, or of what rounding takes from it.
///
/// # Panics
/// If a number lies outside the operand's slice.
pub(super) fn pack_right(amx: Amx, matrix: Factor<'_>, rest: bool) -> Buffer {
    let lanes = Lanes {
        rest,
        ..Lanes::of(matrix, Side::Right)
    };
    let size = lines_of(lanes.inner);
    let mut packed = Buffer::scratch(lanes.count.div_ceil(PANEL) * size * TILE);
    let lines = lines_mut(packed.write());
    if lanes.strides[0] == 1 && lanes.strides[1] > PANEL {
        // Along the rows, so that what is read is read in a row.
        let place = Place(lines.as_mut_ptr());
        (0..lanes.inner.div_ceil(DEPTH))
            .into_par_iter()
            // SAFETY: an `Amx` is there only where the processor has these instructions. The task writes tile `tile` of both halves of every panel,
            // which lie in `packed`, and no other does.
            .for_each(|tile| unsafe {
                match lanes.numbers {
                    Numbers::F32(numbers) => lanes.pack_across(numbers, tile, place),
                    Numbers::F16(numbers) => lanes.pack_across(numbers, tile, place),
                    Numbers::Bf16(numbers) => lanes.pack_across(numbers, tile, place),
                }
            });
    } else {
        let panels = lines.par_chunks_exact_mut(size).enumerate();
        panels.for_each(|(panel, out)| lanes.pack(amx, panel, Side::Right, out));
    }
    packed
}

/// Where several tasks write lines.
#[derive(Clone, Copy)]
struct Place(*mut Line);

// SAFETY: `pack_right` hands every line to one task.
unsafe impl Send for Place {}
// SAFETY: as above.
unsafe impl Sync for Place {}

/// The tiles of this thread, made ready. While it is there, the thread must run no task that makes its own: it waits for no other thread.
pub(super) struct Tiles {
    /// They are of one thread.
    _here: PhantomData<*const ()>,
}

/// Of all eight tiles.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

/// Each is of 16 lines of 64 bytes.
static WHOLE: Configuration = {
    let (mut bytes, mut rows) = ([0; 16], [0; 16]);
    let mut tile = 0;
    while tile < 8 {
        bytes[tile] = 64;
        rows[tile] = 16;
        tile += 1;
    }
    Configuration {
        palette: 1,
        start: 0,
        reserved: [0; 14],
        bytes,
        rows,
    }
};

impl Tiles {
    pub(super) fn new(_: Amx) -> Self {
        // SAFETY: an `Amx` is there only where the processor has tiles and the system lets them be used; these 64 bytes configure them. Compiled code
        // uses none.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const WHOLE, options(nostack, readonly, preserves_flags));
        }
        Self { _here: PhantomData }
    }

    /// Writes the product of two panels, or adds it to what is there: 32 rows of 32 floats each, `stride` apart.
    ///
    /// # Panics
    /// If they are not of one length, or the rows do not fit.
    #[inline]
    pub(super) fn multiply(
        &self,
        left: [&[Line]; 2],
        right: [&[Line]; 2],
        out: &mut [f32],
        stride: usize,
        add: bool,
    ) {
        let half = left[0].len();
        assert!(half > 0 && half.is_multiple_of(TILE) && left[1].len() == half);
        assert!(right[0].len() == half && right[1].len() == half);
        assert!(stride >= PANEL && out.len() >= (PANEL - 1) * stride + PANEL);
        // SAFETY: the tiles are configured. The loop reads a tile of 1024 bytes from each of the four halves, `half / 16` times, one after the other.
        // The begin reads and the end writes four quarters of the 32 rows, each 16 rows of 64 bytes. No tile is used outside this function.
        unsafe {
            asm!(
                "test {add}, {add}",
                "jz 2f",
                "tileloadd tmm0, [{out} + {stride}]",
                "tileloadd tmm1, [{out} + {stride} + 64]",
                "tileloadd tmm2, [{lower} + {stride}]",
                "tileloadd tmm3, [{lower} + {stride} + 64]",
                "jmp 3f",
                "2:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "3:",
                "tileloadd tmm4, [{a0} + {line}]",
                "tileloadd tmm6, [{b0} + {line}]",
                "tileloadd tmm7, [{b1} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a1} + {line}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a0}, 1024",
                "add {a1}, 1024",
                "add {b0}, 1024",
                "add {b1}, 1024",
                "dec {tiles}",
                "jnz 3b",
                "tilestored [{out} + {stride}], tmm0",
                "tilestored [{out} + {stride} + 64], tmm1",
                "tilestored [{lower} + {stride}], tmm2",
                "tilestored [{lower} + {stride} + 64], tmm3",
                a0 = inout(reg) left[0].as_ptr() => _,
                a1 = inout(reg) left[1].as_ptr() => _,
                b0 = inout(reg) right[0].as_ptr() => _,
                b1 = inout(reg) right[1].as_ptr() => _,
                tiles = inout(reg) half / TILE => _,
                add = in(reg) usize::from(add),
                line = in(reg) size_of::<Line>(),
                out = in(reg) out.as_mut_ptr(),
                lower = in(reg) out.as_mut_ptr().add(TILE * stride),
                stride = in(reg) stride * size_of::<f32>(),
                options(nostack),
            );
        }
    }

    /// Writes the product of a left panel by what lies in planes, at nine places of each: 32 rows of 32 floats each, `stride` apart. Line `pair` of
    /// the right tile of a block and a place begins at `planes[(16 · block + pair) · plane + place]`.
    ///
    /// # Panics
    /// If something does not fit.
    #[inline]
    pub(super) fn multiply_places(
        &self,
        left: &[Line],
        planes: &[u32],
        plane: usize,
        places: &[usize; 9],
        out: &mut [f32],
        stride: usize,
    ) {
        let half = left.len() / 2;
        let blocks = half / (9 * TILE);
        assert!(blocks > 0 && left.len() == 2 * blocks * 9 * TILE);
        assert!(planes.len() >= blocks * TILE * plane);
        assert!(places.iter().all(|place| place + PANEL <= plane));
        assert!(stride >= PANEL && out.len() >= (PANEL - 1) * stride + PANEL);
        // SAFETY: the tiles are configured. The loop reads `blocks · 9` tiles of 1024 bytes from each half of the left panel, one after the other, and
        // for each place of each block 16 lines of 128 bytes, a plane apart, each of which ends within its plane. The end writes four quarters of the
        // 32 rows, each 16 rows of 64 bytes. No tile is used outside this function.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "xor {index:e}, {index:e}",
                "3:",
                "mov {at}, [{places} + {index}*8]",
                "lea {at}, [{b} + {at}*4]",
                "tileloadd tmm4, [{a0} + {line}]",
                "tileloadd tmm6, [{at} + {plane}]",
                "tileloadd tmm7, [{at} + {plane} + 64]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a1} + {line}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a0}, 1024",
                "add {a1}, 1024",
                "inc {index}",
                "cmp {index}, 9",
                "jne 3b",
                "mov {at}, {plane}",
                "shl {at}, 4",
                "add {b}, {at}",
                "dec {blocks}",
                "jnz 2b",
                "mov {at}, {stride}",
                "shl {at}, 4",
                "add {at}, {out}",
                "tilestored [{out} + {stride}], tmm0",
                "tilestored [{out} + {stride} + 64], tmm1",
                "tilestored [{at} + {stride}], tmm2",
                "tilestored [{at} + {stride} + 64], tmm3",
                a0 = inout(reg) left.as_ptr() => _,
                a1 = inout(reg) left.as_ptr().add(half) => _,
                b = inout(reg) planes.as_ptr() => _,
                at = out(reg) _,
                index = out(reg) _,
                places = in(reg) places.as_ptr(),
                line = in(reg) size_of::<Line>(),
                plane = in(reg) plane * size_of::<u32>(),
                blocks = inout(reg) blocks => _,
                out = in(reg) out.as_mut_ptr(),
                stride = in(reg) stride * size_of::<f32>(),
                options(nostack),
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: `new` configured the tiles of this thread, which nothing else uses.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
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
