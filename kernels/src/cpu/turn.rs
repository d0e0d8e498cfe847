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
                        |square| turned16(simd, square),
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
                        |square| turned8(simd, square),
                    )
                },
            ),
            _ => self.by_squares(out, stride, turned::<4>),
        }
    }

    #[inline(always)]
    fn by_squares<const N: usize>(
        self,
        out: &mut [f32],
        stride: usize,
        turned: impl Fn(Square<N>) -> Square<N>,
    ) {
        let Self { rows, columns, .. } = self;
        assert!(rows <= stride);
        if rows == 0 || columns == 0 {
            return;
        }
        let out = &mut out[..(columns - 1) * stride + rows];
        // What is written after a column's end is the next column's, which comes later.
        let dense = self.rows <= N && self.rows == stride;
        for row in (0..self.rows).step_by(N) {
            let high = N.min(self.rows - row);
            let mut rows: [&[f32]; N] = [&[]; N];
            for (i, from) in rows.iter_mut().take(high).enumerate() {
                *from = self.from.row(row + i, self.columns);
            }
            for (index, out) in out.chunks_mut(N * stride).enumerate() {
                let first = index * N;
                if first >= self.columns {
                    break;
                }
                let mut square = Square([[0f32; N]; N]);
                for (square, from) in square.0.iter_mut().zip(&rows) {
                    match from.get(first..first + N) {
                        Some(whole) => square.copy_from_slice(whole),
                        None => copy_part(from.get(first..).unwrap_or(&[]), square),
                    }
                    square.iter_mut().for_each(
                        #[inline(always)]
                        |value| *value *= self.scale,
                    );
                }
                let square = turned(square);
                let wide = N.min(self.columns - first);
                for (j, from) in square.0.iter().take(wide).enumerate() {
                    let out = &mut out[j * stride + row..];
                    match out.first_chunk_mut::<N>() {
                        Some(whole) if high == N || dense => *whole = *from,
                        _ => copy_part(&from[..high], out),
                    }
                }
            }
        }
    }
}

/// Rows of a square, each from a cache line's begin.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(align(64))]
struct Square<const N: usize>([[f32; N]; N]);

/// Copies fewer than 16 floats, without a call for so few.
#[inline(always)]
fn copy_part(from: &[f32], to: &mut [f32]) {
    let mut at = 0;
    macro_rules! chunk {
        ($size:literal) => {
            if let Some(these) = from[at..].first_chunk::<$size>() {
                to[at..at + $size].copy_from_slice(these);
                at += $size;
            }
        };
    }
    chunk!(8);
    chunk!(4);
    chunk!(2);
    chunk!(1);
    assert!(at == from.len());
}

fn turned<const N: usize>(square: Square<N>) -> Square<N> {
    Square(std::array::from_fn(|i| {
        std::array::from_fn(|j| square.0[j][i])
    }))
}

/// Four rounds, each of which interleaves the first eight vectors with the last eight.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn turned16(simd: pulp::x86::V4, square: Square<16>) -> Square<16> {
    const LOW: [i32; 16] = [0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23];
    const HIGH: [i32; 16] = [8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31];
    let (low, high) = (pulp::cast(LOW), pulp::cast(HIGH));
    let mut vectors: [__m512; 16] = pulp::cast(square.0);
    for _ in 0..4 {
        let mut next = vectors;
        for i in 0..8 {
            let (a, b) = (vectors[i], vectors[i + 8]);
            next[2 * i] = simd.avx512f._mm512_permutex2var_ps(a, low, b);
            next[2 * i + 1] = simd.avx512f._mm512_permutex2var_ps(a, high, b);
        }
        vectors = next;
    }
    Square(pulp::cast(vectors))
}

/// Pairs within half a vector, pairs of pairs, and halves.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn turned8(simd: pulp::x86::V3, square: Square<8>) -> Square<8> {
    let avx = simd.avx;
    let rows: [__m256; 8] = pulp::cast(square.0);
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
    Square(pulp::cast(done))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_are_turned_alike_by_every_instruction_set() {
        let number = |i: usize, j: usize| (100 * i + j) as f32;
        let of16 = Square(std::array::from_fn(|i| {
            std::array::from_fn(|j| number(i, j))
        }));
        let of8 = Square(std::array::from_fn(|i| {
            std::array::from_fn(|j| number(i, j))
        }));
        assert_eq!(turned::<16>(of16).0[3][5], number(5, 3));
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V4::try_new() {
            assert_eq!(turned16(simd, of16), turned(of16));
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V3::try_new() {
            assert_eq!(turned8(simd, of8), turned(of8));
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
                turn.by_squares(&mut by8, stride, turned::<8>);
                turn.by_squares(&mut by4, stride, turned::<4>);
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
