//! Products of pairs of bf16 in AVX-512's vectors, `vdpbf16ps`.

use std::arch::x86_64::*;

use super::panel::{Line, TILE};
use super::unit::Extent;

/// The proof that this processor has AVX-512 F, BW and BF16.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vectors(());

impl Vectors {
    pub(super) fn get() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512bf16");
        has.then_some(Self(()))
    }

    /// Whether `vdpbf16ps` takes the time of f32's multiplication, and so does two in that of one: as on AMD's processors. On Intel's it takes twice as
    /// long.
    pub(super) fn outrun_f32(self) -> bool {
        let found = __cpuid(0);
        let name = [found.ebx, found.edx, found.ecx].map(u32::to_le_bytes);
        name.as_flattened() == b"AuthenticAMD"
    }

    /// The product of two panels, as [`Multiplier`](super::unit::Multiplier) has it.
    ///
    /// # Safety
    /// The extent lies in the panels. At `out` 32 rows of 32 floats, `stride` apart, may be written, and read if they are to be added to.
    pub(super) unsafe fn multiply(
        &self,
        left: [*const Line; 2],
        right: [*const Line; 2],
        extent: Extent,
        out: *mut f32,
        stride: usize,
        add: bool,
    ) {
        // SAFETY: as the caller says, and the processor has these instructions. Sixteen rows of one vector take as many registers as eight of two:
        // enough for the product's latency.
        unsafe {
            match extent.columns > TILE {
                true => multiply::<8, 2>(left, right, extent, out, stride, add),
                false => multiply::<16, 1>(left, [right[0]], extent, out, stride, add),
            }
        }
    }
}

/// The product by some halves of the right panel, by so many rows at a time as divide 16.
///
/// # Safety
/// As for [`Vectors::multiply`].
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn multiply<const ROWS: usize, const HALVES: usize>(
    left: [*const Line; 2],
    right: [*const Line; HALVES],
    extent: Extent,
    out: *mut f32,
    stride: usize,
    add: bool,
) {
    for first in (0..extent.rows).step_by(ROWS) {
        // SAFETY: these rows of the left panel, and of the output. The lines of all tiles lie one after the other.
        unsafe {
            let left = left[first / TILE].add(first % TILE).cast();
            let out = out.add(first * stride);
            let mut sums = match add {
                true => read(out, stride),
                false => [[_mm512_setzero_ps(); HALVES]; ROWS],
            };
            for at in 0..extent.inner.div_ceil(2) {
                let right = right.map(
                    #[inline(always)]
                    |half| vector(half.add(at).cast()),
                );
                add_pair::<ROWS, HALVES>(&mut sums, left, at, right);
            }
            write(&sums, out, stride);
        }
    }
}

/// Adds the products of pair `at` of each row with those of each column.
///
/// # Safety
/// The tile that holds the pair may be read, of tiles that follow each other from `left` on, in each of whose lines a row has 16 pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn add_pair<const ROWS: usize, const HALVES: usize>(
    sums: &mut [[__m512; HALVES]; ROWS],
    left: *const i32,
    at: usize,
    right: [__m512bh; HALVES],
) {
    let (tile, pair) = (at / TILE, at % TILE);
    for (row, sums) in sums.iter_mut().enumerate() {
        // SAFETY: as the caller says; both vectors are 64 bytes, of which any are a value.
        let left = unsafe {
            let both = *left.add((tile * TILE + row) * TILE + pair);
            std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(both))
        };
        for (sum, right) in sums.iter_mut().zip(right) {
            *sum = _mm512_dpbf16_ps(*sum, left, right);
        }
    }
}

/// 16 pairs.
///
/// # Safety
/// They may be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn vector(from: *const u32) -> __m512bh {
    // SAFETY: as the caller says; both vectors are 64 bytes, of which any are a value.
    unsafe { std::mem::transmute(_mm512_loadu_si512(from.cast())) }
}

/// # Safety
/// At `from` these rows may be read.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn read<const ROWS: usize, const HALVES: usize>(
    from: *const f32,
    stride: usize,
) -> [[__m512; HALVES]; ROWS] {
    let mut sums = [[_mm512_setzero_ps(); HALVES]; ROWS];
    for (row, sums) in sums.iter_mut().enumerate() {
        for (half, sum) in sums.iter_mut().enumerate() {
            // SAFETY: as the caller says.
            *sum = unsafe { _mm512_loadu_ps(from.add(row * stride + half * TILE)) };
        }
    }
    sums
}

/// # Safety
/// At `out` these rows may be written.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn write<const ROWS: usize, const HALVES: usize>(
    sums: &[[__m512; HALVES]; ROWS],
    out: *mut f32,
    stride: usize,
) {
    for (row, sums) in sums.iter().enumerate() {
        for (half, sum) in sums.iter().enumerate() {
            // SAFETY: as the caller says.
            unsafe { _mm512_storeu_ps(out.add(row * stride + half * TILE), *sum) };
        }
    }
}
