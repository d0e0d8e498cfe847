//! The inner loop of every fused kernel: a tile of a matrix product in vector registers (Goto & van de Geijn 2008), and the buffers it reads.
//!
//! A left operand is packed into *strips* of a few rows, `[strip][inner][rows]`, and a right one into *panels* of two vectors' columns,
//! `[panel][inner][columns]`, so that both are read from front to back.

use pulp::{Arch, Simd, WithSimd};

use super::math::EXP2_TERMS;
use super::memory;
use super::turn::Turn;

/// Rows of a strip, where nothing asks for another number: with two columns of vectors, a tile of 24 of AVX-512's 32 registers.
pub(crate) const STRIP: usize = 12;
/// Floats of a cache line.
const LINE: usize = 16;

/// Floats that begin at a cache line, so that no vector crosses one.
#[derive(Debug)]
pub(crate) struct Buffer {
    data: Vec<f32>,
    start: usize,
    len: usize,
}

impl Buffer {
    pub(crate) fn zeros(len: usize) -> Self {
        let mut buffer = Self::scratch(len);
        buffer.write().fill(0.0);
        buffer
    }

    /// Floats of any values: those that a buffer before left behind, which takes less time than zeros.
    pub(crate) fn scratch(len: usize) -> Self {
        let data = memory::take_spare(len + LINE);
        let start = data.as_ptr().align_offset(4 * LINE).min(LINE);
        Self { data, start, len }
    }

    pub(crate) fn read(&self) -> &[f32] {
        &self.data[self.start..][..self.len]
    }

    pub(crate) fn write(&mut self) -> &mut [f32] {
        &mut self.data[self.start..][..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        memory::put_spare(std::mem::take(&mut self.data));
    }
}

/// A matrix somewhere in a slice: element `(row, column)` lies at `row · stride + column`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    pub data: &'a [f32],
    pub stride: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    pub(crate) fn row(&self, row: usize, columns: usize) -> &'a [f32] {
        &self.data[row * self.stride..][..columns]
    }

    /// Those after the first `rows`.
    #[inline(always)]
    pub(crate) fn skip(self, rows: usize) -> Self {
        Self {
            data: &self.data[(rows * self.stride).min(self.data.len())..],
            ..self
        }
    }
}

/// Packs the rows `first..first + count` into strips along the rows: `[strip][columns][R]`, filled up with zeros.
#[inline(always)]
pub(crate) fn pack_rows<const R: usize>(
    matrix: Rows<'_>,
    first: usize,
    count: usize,
    columns: usize,
    out: &mut [f32],
) {
    for (strip, out) in out[..count.div_ceil(R) * columns * R]
        .chunks_exact_mut(columns * R)
        .enumerate()
    {
        let row = strip * R;
        let rows = R.min(count - row);
        if rows < R {
            out.fill(0.0);
        }
        let turn = Turn {
            from: matrix.skip(first + row),
            rows,
            columns,
            scale: 1.0,
        };
        turn.write(out, R);
    }
}

/// Packs the rows `first..first + count` into strips along the columns: `[strip][count][R]`, filled up with zeros.
#[inline(always)]
pub(crate) fn pack_columns<const R: usize>(
    matrix: Rows<'_>,
    first: usize,
    count: usize,
    columns: usize,
    out: &mut [f32],
) {
    for (strip, out) in out[..columns.div_ceil(R) * count * R]
        .chunks_exact_mut(count * R)
        .enumerate()
    {
        let wide = R.min(columns - strip * R);
        for (row, out) in pulp::as_arrays_mut::<R, _>(out).0.iter_mut().enumerate() {
            copy_strip(&matrix.row(first + row, columns)[strip * R..][..wide], out);
        }
    }
}

/// Copies `R` floats, or fewer and zeros after them.
#[inline(always)]
pub(crate) fn copy_strip<const R: usize>(from: &[f32], out: &mut [f32; R]) {
    match from.first_chunk::<R>() {
        // Of a size that is known here, so that it is no call.
        Some(whole) => *out = *whole,
        None => {
            let (some, rest) = out.split_at_mut(from.len());
            some.copy_from_slice(from);
            rest.fill(0.0);
        }
    }
}

/// Rows `first..first + count`, times `scale`, as columns: `[columns][width]`, filled up with zeros.
#[inline(always)]
pub(crate) fn pack_lanes(
    matrix: Rows<'_>,
    first: usize,
    count: usize,
    columns: usize,
    width: usize,
    scale: f32,
    out: &mut [f32],
) {
    if count < width {
        out.fill(0.0);
    }
    let turn = Turn {
        from: matrix.skip(first),
        rows: count,
        columns,
        scale,
    };
    turn.write(out, width);
}

/// The lanes of a vector on this machine.
pub(crate) fn lanes() -> usize {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    Arch::new().dispatch(Lanes)
}

/// A tile: `R` rows of `V` vectors.
pub(crate) type Tile<S, const R: usize, const V: usize> = [[<S as Simd>::f32s; V]; R];

#[inline(always)]
pub(crate) fn zero_tile<S: Simd, const R: usize, const V: usize>(simd: S) -> Tile<S, R, V> {
    [[simd.splat_f32s(0.0); V]; R]
}

/// `tile + strip · panel`: the inner axis of both is the slices' own.
///
/// A tile that has more vectors than the machine has registers, as those of 12 rows of AVX2 are, is computed in two halves, which fit.
#[inline(always)]
pub(crate) fn multiply_strip<S: Simd, const R: usize, const V: usize>(
    simd: S,
    strip: &[[f32; R]],
    panel: &[[S::f32s; V]],
    mut tile: Tile<S, R, V>,
) -> Tile<S, R, V> {
    if R * V + V >= S::REGISTER_COUNT {
        match R {
            12 => return in_halves::<S, R, 6, V>(simd, strip, panel, tile),
            10 => return in_halves::<S, R, 5, V>(simd, strip, panel, tile),
            8 => return in_halves::<S, R, 4, V>(simd, strip, panel, tile),
            // Any other is right whole, though slower.
            _ => {}
        }
    }
    for (column, row) in strip.iter().zip(panel) {
        for (tile, &value) in tile.iter_mut().zip(column) {
            let value = simd.splat_f32s(value);
            for (tile, &row) in tile.iter_mut().zip(row) {
                *tile = simd.mul_add_e_f32s(value, row, *tile);
            }
        }
    }
    tile
}

/// [`multiply_strip`] of `H` rows after `H` others.
#[inline(always)]
fn in_halves<S: Simd, const R: usize, const H: usize, const V: usize>(
    simd: S,
    strip: &[[f32; R]],
    panel: &[[S::f32s; V]],
    mut tile: Tile<S, R, V>,
) -> Tile<S, R, V> {
    for (half, tile) in tile.chunks_exact_mut(H).enumerate() {
        let mut sums = zero_tile::<S, H, V>(simd);
        sums.copy_from_slice(tile);
        for (column, row) in strip.iter().zip(panel) {
            let (halves, _) = pulp::as_arrays::<H, _>(column);
            for (sums, &value) in sums.iter_mut().zip(&halves[half]) {
                let value = simd.splat_f32s(value);
                for (sum, &row) in sums.iter_mut().zip(row) {
                    *sum = simd.mul_add_e_f32s(value, row, *sum);
                }
            }
        }
        tile.copy_from_slice(&sums);
    }
    tile
}

/// `tile + rows · panel`, where the left operand lies row by row, each as long as the inner axis.
#[inline(always)]
pub(crate) fn multiply_rows<S: Simd, const R: usize, const V: usize>(
    simd: S,
    rows: &[&[f32]; R],
    panel: &[[S::f32s; V]],
    mut tile: Tile<S, R, V>,
) -> Tile<S, R, V> {
    for row in rows {
        assert!(row.len() >= panel.len());
    }
    for (p, &columns) in panel.iter().enumerate() {
        for (tile, row) in tile.iter_mut().zip(rows) {
            let value = simd.splat_f32s(row[p]);
            for (tile, &column) in tile.iter_mut().zip(&columns) {
                *tile = simd.mul_add_e_f32s(value, column, *tile);
            }
        }
    }
    tile
}

/// Vectors of a slice, `V` at a time.
#[inline(always)]
pub(crate) fn vectors<S: Simd, const V: usize>(slice: &[f32]) -> &[[S::f32s; V]] {
    pulp::as_arrays::<V, _>(S::as_simd_f32s(slice).0).0
}

/// Vectors of a slice, `V` at a time.
#[inline(always)]
pub(crate) fn vectors_mut<S: Simd, const V: usize>(slice: &mut [f32]) -> &mut [[S::f32s; V]] {
    pulp::as_arrays_mut::<V, _>(S::as_mut_simd_f32s(slice).0).0
}

/// The vector that a slice begins with.
#[inline(always)]
pub(crate) fn load<S: Simd>(slice: &[f32]) -> S::f32s {
    S::as_simd_f32s(slice).0[0]
}

/// Writes the vector that a slice begins with.
#[inline(always)]
pub(crate) fn store<S: Simd>(slice: &mut [f32], value: S::f32s) {
    S::as_mut_simd_f32s(slice).0[0] = value;
}

/// 2ˣ of x up to 127, to a unit in the last place; below -126 it is 2⁻¹²⁶.
#[inline(always)]
pub(crate) fn exp2<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // Adding 1.5 · 2²³ leaves the nearest integer in the lowest bits.
    let magic = simd.splat_f32s(12_582_912.0);
    // In this order of the operands what is no number stays none.
    let x = simd.max_f32s(simd.splat_f32s(-126.0), x);
    let shifted = simd.add_f32s(x, magic);
    let rest = simd.sub_f32s(x, simd.sub_f32s(shifted, magic));
    let mut sum = simd.splat_f32s(EXP2_TERMS[0]);
    for term in &EXP2_TERMS[1..] {
        sum = simd.mul_add_e_f32s(sum, rest, simd.splat_f32s(*term));
    }
    let exponent =
        simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    simd.transmute_f32s_u32s(simd.add_u32s(simd.transmute_u32s_f32s(sum), exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A strip of `R` rows times a panel of `V` vectors, added to ones.
    struct Product<'a, const R: usize, const V: usize> {
        strip: &'a [f32],
        panel: &'a [f32],
        inner: usize,
    }

    impl<const R: usize, const V: usize> WithSimd for Product<'_, R, V> {
        type Output = Vec<f32>;

        fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
            let width = V * S::F32_LANES;
            let (strip, _) = pulp::as_arrays::<R, _>(self.strip);
            let panel = vectors::<S, V>(&self.panel[..self.inner * width]);
            let tile = multiply_strip(simd, strip, panel, [[simd.splat_f32s(1.0); V]; R]);
            let mut out = vec![0.0; R * width];
            vectors_mut::<S, V>(&mut out).copy_from_slice(&tile);
            out
        }
    }

    fn agrees<const R: usize, const V: usize>(simd: impl Simd) {
        for inner in [0, 1, 7, 40] {
            let number = |i: usize| ((i * 7919) % 1013) as f32 / 1013.0 - 0.5;
            let strip: Vec<f32> = (0..inner * R).map(number).collect();
            let panel: Vec<f32> = (0..inner * V * 16).map(|i| number(i + 31)).collect();
            let (strip, panel) = (&strip[..], &panel[..]);
            let found = simd.vectorize(Product::<R, V> {
                strip,
                panel,
                inner,
            });
            let width = found.len() / R;
            for (at, found) in found.into_iter().enumerate() {
                let (row, column) = (at / width, at % width);
                let terms = (0..inner).map(|k| strip[k * R + row] * panel[k * width + column]);
                let expected = 1.0 + terms.sum::<f32>();
                assert!(
                    (found - expected).abs() < 1e-5,
                    "{R}×{V}, {inner} deep, row {row}, column {column}: {found}, expected {expected}"
                );
            }
        }
    }

    fn agrees_in_every_shape(simd: impl Simd) {
        agrees::<12, 2>(simd);
        agrees::<10, 2>(simd);
        agrees::<8, 2>(simd);
        agrees::<6, 4>(simd);
        agrees::<12, 1>(simd);
    }

    /// On everything that this machine can, not on the best of it alone.
    #[test]
    fn tiles_are_the_same_on_every_instruction_set() {
        agrees_in_every_shape(pulp::Scalar);
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V3::try_new() {
            agrees_in_every_shape(simd);
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V4::try_new() {
            agrees_in_every_shape(simd);
        }
        #[cfg(target_arch = "aarch64")]
        if let Some(simd) = pulp::aarch64::Neon::try_new() {
            agrees_in_every_shape(simd);
        }
    }
}
