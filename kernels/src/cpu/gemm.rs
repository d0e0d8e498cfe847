//! Matrix products: the `gemm` crate on one thread for each block of the result.

use std::mem::MaybeUninit;

use gemm::Parallelism;
use rayon::prelude::*;

use super::math::vectorized;
use super::memory::build;
use super::tile::{Buffer, Rows};
use super::turn::Turn;

/// Rows or columns of a block at least, so that packing the other operand costs little beside it.
const BLOCK: usize = 128;
/// Rows of a product up to which it is cheaper to turn the result over than the right operand, if the inner axis is also three times as long:
/// the one costs rows times columns, the other the inner axis times columns.
const FEW_ROWS: usize = 512;

/// Length of the output's contiguous axis that `gemm` gets at once.
const SIDE: usize = 256;

/// A matrix somewhere in a slice: element `(row, column)` lies at `row · strides[0] + column · strides[1]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub columns: usize,
    pub strides: [usize; 2],
}

impl<'a> Matrix<'a> {
    /// Rows one after the other.
    pub(crate) fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self {
            data,
            rows,
            columns,
            strides: [columns, 1],
        }
    }

    pub(crate) fn transposed(self) -> Self {
        let Self {
            data,
            rows,
            columns,
            strides: [down, along],
        } = self;
        Self {
            data,
            rows: columns,
            columns: rows,
            strides: [along, down],
        }
    }

    /// Whether every element lies in the slice.
    fn fits(&self) -> bool {
        self.rows == 0
            || self.columns == 0
            || (self.rows - 1) * self.strides[0] + (self.columns - 1) * self.strides[1]
                < self.data.len()
    }
}

/// `A · B`, `[rows of A, columns of B]`, with a bias added to every row.
pub(crate) fn product(a: Matrix<'_>, b: Matrix<'_>, bias: Option<&[f32]>) -> Vec<f32> {
    let len = a.rows * b.columns;
    build(len, len, |_, out| multiply(out, a, b, bias))
}

/// `A · B` of each pair, one after the other.
pub(crate) fn products<'a>(
    count: usize,
    shape: [usize; 2],
    pair: impl Fn(usize) -> (Matrix<'a>, Matrix<'a>) + Sync,
) -> Vec<f32> {
    let size = shape[0] * shape[1];
    build(count * size, count * size, |_, out| {
        super::memory::fill_parts(out, size, |index, out| {
            let (a, b) = pair(index);
            multiply(out, a, b, None)
        })
    })
}

/// Where the blocks of one product are written.
#[derive(Clone, Copy)]
struct Target(*mut f32);

// SAFETY: `multiply` hands every block to one task, and the blocks do not overlap.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Target {
    /// The element at an offset.
    ///
    /// # Safety
    /// The offset lies in the output.
    unsafe fn at(self, offset: usize) -> *mut f32 {
        // SAFETY: as the caller says.
        unsafe { self.0.add(offset) }
    }
}

/// Writes `A · B`, rows one after the other, with a bias added to every row.
///
/// # Panics
/// If the sizes do not fit each other.
pub(crate) fn multiply<'a>(
    out: &'a mut [MaybeUninit<f32>],
    a: Matrix<'_>,
    b: Matrix<'_>,
    bias: Option<&[f32]>,
) -> &'a mut [f32] {
    let (rows, columns, inner) = (a.rows, b.columns, a.columns);
    assert!(a.fits() && b.fits() && inner == b.rows && out.len() == rows * columns);
    assert!(bias.is_none_or(|bias| bias.len() == columns));
    let target = Target(out.as_mut_ptr().cast());
    // The longer side is cut, into blocks for all threads.
    let by_rows = rows >= columns;
    let side = if by_rows { rows } else { columns };
    let block = side.div_ceil(rayon::current_num_threads()).max(BLOCK);
    let block = if by_rows && bias.is_some() {
        block.min(1024)
    } else {
        block
    };
    (0..side.div_ceil(block)).into_par_iter().for_each(|index| {
        let first = index * block;
        let here = block.min(side - first);
        let ([row, column], [high, wide]) = if by_rows {
            ([first, 0], [here, columns])
        } else {
            ([0, first], [rows, here])
        };
        let (left, right) = (
            &a.data[(row * a.strides[0]).min(a.data.len())..],
            &b.data[(column * b.strides[1]).min(b.data.len())..],
        );
        let multiply = |out: *mut f32, strides: [usize; 2]| {
            let a = Matrix {
                data: left,
                rows: high,
                ..a
            };
            let b = Matrix {
                data: right,
                columns: wide,
                ..b
            };
            // SAFETY: `fits` made sure that both operands' blocks lie in their slices, and `out` is a block of `high` rows and `wide` columns
            // with these strides: either a buffer of this task's, or the output's block, which begins at `row` and `column` and lies in an
            // output of `rows · columns` floats. The blocks of different tasks do not overlap. What was there is not read, so that the block
            // need not be initialised.
            unsafe { on_one_thread(out, strides, false, a, b) }
        };
        // SAFETY: the block begins in the output.
        let place = unsafe { target.at(row * columns + column) };
        // `gemm` wants vectors along the result's contiguous axis. Where the right operand's inner axis is the contiguous one, as in the gradient
        // of a linear layer's input, it would turn all of that over, which few rows do not pay for.
        let few = high <= FEW_ROWS && 3 * high <= inner;
        let bias = bias.map(|bias| &bias[column..][..wide]);
        if few && b.strides[0] == 1 && b.strides[1] > 1 {
            let mut turned = Buffer::scratch(high * wide);
            multiply(turned.write().as_mut_ptr(), [1, high]);
            // SAFETY: the rows of the block lie in the output, and belong to this task alone.
            unsafe { turn(turned.read(), [high, wide], bias, place, columns) };
            return;
        }
        multiply(place, [columns, 1]);
        let Some(bias) = bias else { return };
        for row in row..row + high {
            // SAFETY: this row of the block was written just now, and belongs to this task alone.
            let line =
                unsafe { std::slice::from_raw_parts_mut(target.at(row * columns + column), wide) };
            add(line, bias);
        }
    });
    // SAFETY: the blocks cover the output, and each was written; a product over an empty inner axis is written as zeros.
    unsafe { out.assume_init_mut() }
}

fn add(line: &mut [f32], bias: &[f32]) {
    vectorized(|| {
        line.iter_mut().zip(bias).for_each(
            #[inline(always)]
            |(value, bias)| *value += bias,
        )
    });
}

/// Copies columns that lie one after the other into rows, `stride` apart, with a bias added to each.
///
/// # Safety
/// `out` begins the first of `high` rows of `wide` floats each, `stride` apart, all of which may be written.
unsafe fn turn(
    from: &[f32],
    [high, wide]: [usize; 2],
    bias: Option<&[f32]>,
    out: *mut f32,
    stride: usize,
) {
    const ROWS: usize = 16;
    const COLUMNS: usize = 256;
    assert!(from.len() == high * wide);
    let mut lines = Buffer::scratch(ROWS * COLUMNS);
    for row in (0..high).step_by(ROWS) {
        let tall = ROWS.min(high - row);
        for column in (0..wide).step_by(COLUMNS) {
            let here = COLUMNS.min(wide - column);
            let turn = Turn {
                from: Rows {
                    data: &from[column * high + row..],
                    stride: high,
                },
                rows: here,
                columns: tall,
                scale: 1.0,
            };
            turn.write(&mut lines.write()[..tall * here], here);
            let bias = bias.map(|bias| &bias[column..][..here]);
            let rows = lines.write().chunks_exact_mut(here).take(tall);
            for (i, line) in rows.enumerate() {
                if let Some(bias) = bias {
                    add(line, bias);
                }
                // SAFETY: row `row + i` is one of `high`, `column + here` is at most `wide`, and the line has `here` floats of a buffer that is
                // not the output.
                unsafe {
                    let to = out.add((row + i) * stride + column);
                    to.copy_from_nonoverlapping(line.as_ptr(), here);
                }
            }
        }
    }
}

/// Adds `A · B` to rows one after the other, on all threads.
///
/// # Panics
/// If the sizes do not fit each other.
pub(crate) fn accumulate_rows(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>) {
    if b.columns == 0 {
        return;
    }
    let block = a.rows.div_ceil(rayon::current_num_threads()).max(BLOCK / 4);
    let blocks = out.par_chunks_mut(block * b.columns);
    blocks.enumerate().for_each(|(index, out)| {
        let first = index * block;
        let part = Matrix {
            data: &a.data[first * a.strides[0]..],
            rows: out.len() / b.columns,
            ..a
        };
        accumulate(out, part, b);
    });
}

/// Adds `A · B` to rows one after the other, on the thread that calls.
///
/// # Panics
/// If the sizes do not fit each other.
pub(crate) fn accumulate(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>) {
    let (rows, columns, inner) = (a.rows, b.columns, a.columns);
    assert!(a.fits() && b.fits() && inner == b.rows && out.len() == rows * columns);
    // SAFETY: `fits` made sure that both operands lie in their slices, and the output holds `rows · columns` floats, borrowed mutably.
    unsafe { on_one_thread(out.as_mut_ptr(), [columns, 1], true, a, b) }
}

/// Writes `A · B`, or adds it to what is there, on the thread that calls.
///
/// `gemm` packs as much of an operand at once as fills the whole second-level cache, from which its other data then drives it again. So it gets
/// less of the output's contiguous axis at a time: linear layers of 154 and 512 rows take 0.85 to 0.92 of the time.
///
/// # Safety
/// Element `(row, column)` of the output lies at `row · strides[0] + column · strides[1]` from `out`, and no other reference to it is in use. Both
/// operands lie in their slices. What is added to is initialised.
unsafe fn on_one_thread(
    out: *mut f32,
    [down, along]: [usize; 2],
    add: bool,
    a: Matrix<'_>,
    b: Matrix<'_>,
) {
    let (rows, columns) = (a.rows, b.columns);
    let by_rows = down == 1 && along > 1;
    let side = if by_rows { rows } else { columns };
    // The operand that is not packed then lies along the inner axis in most products, and is read as it lies.
    gemm::set_rhs_packing_threshold(usize::MAX);
    for first in (0..side).step_by(SIDE) {
        let here = SIDE.min(side - first);
        let ([row, column], [high, wide]) = if by_rows {
            ([first, 0], [here, columns])
        } else {
            ([0, first], [rows, here])
        };
        // SAFETY: as the caller says of the whole; this block of rows or columns lies in it.
        unsafe {
            gemm::gemm(
                high,
                wide,
                a.columns,
                out.add(row * down + column * along),
                along as isize,
                down as isize,
                add,
                a.data.as_ptr().add(row * a.strides[0]),
                a.strides[1] as isize,
                a.strides[0] as isize,
                b.data.as_ptr().add(column * b.strides[1]),
                b.strides[1] as isize,
                b.strides[0] as isize,
                if add { 1.0 } else { 0.0 },
                1.0,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    }
}

/// The sum of all rows.
pub(crate) fn sum_rows(data: &[f32], columns: usize) -> Vec<f32> {
    const ROWS: usize = 256;
    let parts: Vec<Vec<f32>> = data
        .par_chunks(ROWS * columns)
        .map(|rows| {
            let mut sum = vec![0f32; columns];
            vectorized(|| {
                for row in rows.chunks_exact(columns) {
                    for (sum, value) in sum.iter_mut().zip(row) {
                        *sum += value;
                    }
                }
            });
            sum
        })
        .collect();
    let mut total = vec![0f64; columns];
    for part in &parts {
        for (total, &part) in total.iter_mut().zip(part) {
            *total += f64::from(part);
        }
    }
    total.iter().map(|&value| value as f32).collect()
}
