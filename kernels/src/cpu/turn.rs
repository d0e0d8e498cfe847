//! Matrices turned over, square by square in the machine's registers. Element by element it takes 1.5 to 4 times as long, which attention over a
//! few hundred positions shows.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

use pulp::Arch;

use super::tile::Rows;

/// A matrix, somewhere in a slice, that is to be turned over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn<'a> {
    pub from: Rows<'a>,
    pub rows: usize,
    pub columns: usize,
    /// What each element is multiplied by.
    pub scale: f32,
}

impl Turn<'_> {
    /// Writes element `(row, column)` to `column · stride + row` of `out`. What lies between the columns, from `rows` on, is left as it is.
    ///
    /// # Panics
    /// If a column is longer than the stride, or the last one does not fit.
    #[inline(never)]
    pub(crate) fn write(self, out: &mut [f32], stride: usize) {
        match Arch::new() {
            #[cfg(target_arch = "x86_64")]
            Arch::V4(simd) => simd.vectorize(
                #[inline(always)]
                || {
                    self.by_squares(
                        out,
                        stride,
                        #[inline(always)]
                        |square: Square<'_, 16>| square.write16(simd),
                    )
                },
            ),
            #[cfg(target_arch = "x86_64")]
            Arch::V3(simd) => simd.vectorize(
                #[inline(always)]
                || {
                    self.by_squares(
                        out,
                        stride,
                        #[inline(always)]
                        |square: Square<'_, 8>| square.write8(simd),
                    )
                },
            ),
            _ => self.by_squares(out, stride, |square: Square<'_, 4>| square.write()),
        }
    }

    #[inline(always)]
    fn by_squares<const N: usize>(
        self,
        out: &mut [f32],
        stride: usize,
        write: impl Fn(Square<'_, N>),
    ) {
        let Self {
            rows,
            columns,
            scale,
            ..
        } = self;
        assert!(rows <= stride);
        if rows == 0 || columns == 0 {
            return;
        }
        let out = &mut out[..(columns - 1) * stride + rows];
        // What is written after a column's end is the next column's, which comes later.
        let dense = rows <= N && rows == stride;
        for row in (0..rows).step_by(N) {
            let high = N.min(rows - row);
            // What a square has more rows than the matrix repeats the last one.
            let mut from: [&[f32]; N] = [&[]; N];
            for (i, from) in from.iter_mut().enumerate() {
                *from = self.from.row(row + i.min(high - 1), columns);
            }
            for first in (0..columns).step_by(N) {
                let wide = N.min(columns - first);
                let out = &mut out[first * stride + row..];
                let fits = out.len() >= (N - 1) * stride + N;
                if wide == N && fits && (high == N || dense) {
                    write(Square {
                        rows: &from,
                        first,
                        scale,
                        out,
                        stride,
                    });
                    continue;
                }
                let mut part = [[0f32; N]; N];
                for (part, from) in part.iter_mut().zip(&from) {
                    copy(&from[first..][..wide], part);
                }
                let mut turned = [[0f32; N]; N];
                write(Square {
                    rows: &part.each_ref().map(|row| &row[..]),
                    first: 0,
                    scale,
                    out: turned.as_flattened_mut(),
                    stride: N,
                });
                for (j, from) in turned.iter().take(wide).enumerate() {
                    let out = &mut out[j * stride..];
                    let here = if dense { N.min(out.len()) } else { high };
                    copy(&from[..here], out);
                }
            }
        }
    }
}

/// Copies up to 16 floats, without a call for so few.
#[inline(always)]
fn copy(from: &[f32], to: &mut [f32]) {
    let mut at = 0;
    macro_rules! chunk {
        ($size:literal) => {
            if let Some(these) = from[at..].first_chunk::<$size>() {
                to[at..at + $size].copy_from_slice(these);
                at += $size;
            }
        };
    }
    chunk!(16);
    chunk!(8);
    chunk!(4);
    chunk!(2);
    chunk!(1);
    assert!(at == from.len());
}

/// A square of a matrix, from column `first` of some rows on, and where it is written, column by column.
struct Square<'a, const N: usize> {
    rows: &'a [&'a [f32]; N],
    first: usize,
    scale: f32,
    out: &'a mut [f32],
    stride: usize,
}

impl<const N: usize> Square<'_, N> {
    #[inline(always)]
    fn row(&self, i: usize) -> [f32; N] {
        *self.rows[i][self.first..]
            .first_chunk()
            .expect("the rows are as long as the square")
    }

    #[inline(always)]
    fn put(&mut self, j: usize, column: [f32; N]) {
        self.out[j * self.stride..][..N].copy_from_slice(&column);
    }

    fn write(mut self) {
        for j in 0..N {
            let column = std::array::from_fn(|i| self.rows[i][self.first + j] * self.scale);
            self.put(j, column);
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Square<'_, 16> {
    /// Four rounds, each of which interleaves the first eight vectors with the last eight.
    #[inline(always)]
    fn write16(mut self, simd: pulp::x86::V4) {
        const LOW: [i32; 16] = [0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23];
        const HIGH: [i32; 16] = [8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31];
        let (low, high) = (pulp::cast(LOW), pulp::cast(HIGH));
        let scale = simd.avx512f._mm512_set1_ps(self.scale);
        let mut vectors = [scale; 16];
        for (i, vector) in vectors.iter_mut().enumerate() {
            let row: __m512 = pulp::cast(self.row(i));
            *vector = simd.avx512f._mm512_mul_ps(row, scale);
        }
        for _ in 0..4 {
            let mut next = vectors;
            for i in 0..8 {
                let (a, b) = (vectors[i], vectors[i + 8]);
                next[2 * i] = simd.avx512f._mm512_permutex2var_ps(a, low, b);
                next[2 * i + 1] = simd.avx512f._mm512_permutex2var_ps(a, high, b);
            }
            vectors = next;
        }
        for (j, vector) in vectors.into_iter().enumerate() {
            self.put(j, pulp::cast(vector));
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Square<'_, 8> {
    /// Pairs within half a vector, pairs of pairs, and halves.
    #[inline(always)]
    fn write8(mut self, simd: pulp::x86::V3) {
        let avx = simd.avx;
        let scale = avx._mm256_set1_ps(self.scale);
        let mut rows = [scale; 8];
        for (i, vector) in rows.iter_mut().enumerate() {
            let row: __m256 = pulp::cast(self.row(i));
            *vector = avx._mm256_mul_ps(row, scale);
        }
        let mut pairs = rows;
        let mut fours = rows;
        let mut done = rows;
        for i in 0..4 {
            pairs[2 * i] = avx._mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = avx._mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
        }
        for (fours, pairs) in fours.chunks_exact_mut(4).zip(pairs.chunks_exact(4)) {
            for i in 0..2 {
                fours[2 * i] = avx._mm256_shuffle_ps::<0b01_00_01_00>(pairs[i], pairs[i + 2]);
                fours[2 * i + 1] = avx._mm256_shuffle_ps::<0b11_10_11_10>(pairs[i], pairs[i + 2]);
            }
        }
        for i in 0..4 {
            done[i] = avx._mm256_permute2f128_ps::<0x20>(fours[i], fours[i + 4]);
            done[i + 4] = avx._mm256_permute2f128_ps::<0x31>(fours[i], fours[i + 4]);
        }
        for (j, vector) in done.into_iter().enumerate() {
            self.put(j, pulp::cast(vector));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three times a square of `N` rows and columns, turned over by `write`, in columns `N + 3` apart.
    fn tripled<const N: usize>(write: impl Fn(Square<'_, N>)) -> Vec<f32> {
        let rows: [[f32; N]; N] =
            std::array::from_fn(|i| std::array::from_fn(|j| (100 * i + j) as f32));
        let mut out = vec![-1.0; N * (N + 3)];
        write(Square {
            rows: &rows.each_ref().map(|row| &row[..]),
            first: 0,
            scale: 3.0,
            out: &mut out,
            stride: N + 3,
        });
        out
    }

    #[test]
    fn squares_are_turned_alike_by_every_instruction_set() {
        let by_number = tripled::<16>(|square| square.write());
        assert_eq!(by_number[3 * 19 + 5], 3.0 * 503.0);
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V4::try_new() {
            assert_eq!(tripled(|square| square.write16(simd)), by_number);
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V3::try_new() {
            let by_number = tripled::<8>(|square| square.write());
            assert_eq!(tripled(|square| square.write8(simd)), by_number);
        }
    }

    #[test]
    fn any_size_is_turned_and_nothing_beside_it_written() {
        for (rows, stride) in [
            (0, 1),
            (1, 4),
            (5, 5),
            (8, 9),
            (12, 12),
            (16, 16),
            (31, 31),
            (32, 40),
        ] {
            for columns in [1, 7, 16, 40] {
                let wide = columns + 2;
                let data: Vec<f32> = (0..rows * wide).map(|i| i as f32).collect();
                let from = Rows {
                    data: &data,
                    stride: wide,
                };
                let turn = Turn {
                    from,
                    rows,
                    columns,
                    scale: 2.0,
                };
                let new = || vec![-1.0; columns * stride + 20];
                let (mut out, mut by8, mut by4) = (new(), new(), new());
                turn.write(&mut out, stride);
                turn.by_squares(&mut by8, stride, |square: Square<'_, 8>| square.write());
                turn.by_squares(&mut by4, stride, |square: Square<'_, 4>| square.write());
                assert!(out == by8 && out == by4, "{rows}×{columns}");
                for (at, found) in out.into_iter().enumerate() {
                    let (column, row) = (at / stride, at % stride);
                    let expected = if row < rows && column < columns {
                        2.0 * (row * wide + column) as f32
                    } else {
                        -1.0
                    };
                    assert_eq!(
                        found, expected,
                        "{rows}×{columns}, row {row}, column {column}"
                    );
                }
            }
        }
    }
}
