//! Products of whole matrices.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::super::memory::build;
use super::super::tile::Buffer;
use super::Factor;
use super::panel::{
    Amx, DEPTH, Lanes, Line, PANEL, Side, TILE, Target, Tiles, halves, lines, lines_mut, lines_of,
    pack_right,
};

/// Bytes of packed rows that a task keeps in the second-level cache while the columns go over them.
const GROUP: usize = 768 << 10;
/// Bytes of packed columns that stay in that cache beside them.
const BESIDE: usize = 128 << 10;
/// Panels of columns at most whose sums are written together, so that what is written to a row is long.
const ACROSS: usize = 8;
/// Multiplications from which a product is worth packing.
const LEAST: usize = 1 << 18;

/// Whether a product is worth it.
pub(super) fn pays(a: &Factor<'_>, b: &Factor<'_>) -> bool {
    let (rows, inner, columns) = (a.rows, a.columns, b.columns);
    rows * columns * inner >= LEAST && rows.min(columns) >= TILE / 2 && inner >= TILE
}

/// `A · B`, rows one after the other, with a bias added to every row. What is `precise` takes B as a sum of two bf16, which holds 16 of its bits.
///
/// # Panics
/// If the sizes do not fit each other.
pub(super) fn product(
    amx: Amx,
    a: Factor<'_>,
    b: Factor<'_>,
    bias: Option<&[f32]>,
    precise: bool,
) -> Vec<f32> {
    let (rows, columns, inner) = (a.rows, b.columns, a.columns);
    assert!(inner == b.rows && bias.is_none_or(|bias| bias.len() == columns));
    let (size, depth) = (lines_of(inner), inner.div_ceil(DEPTH));
    let right = pack_right(amx, b, false);
    let rest = precise.then(|| pack_right(amx, b, true));
    let left = Lanes::of(a, Side::Left);
    let (high, wide) = (rows.div_ceil(PANEL), columns.div_ceil(PANEL));
    let threads = rayon::current_num_threads();
    let most = (GROUP / (size * size_of::<Line>())).clamp(1, 16);
    let group = high.div_ceil(2 * threads).min(most);
    let groups = high.div_ceil(group);
    // Where there are few rows, the columns are shared out too.
    let parts = if groups >= threads {
        1
    } else {
        (2 * threads).div_ceil(groups).min(wide)
    };
    let part = wide.div_ceil(parts);
    let across = (BESIDE / (size * size_of::<Line>())).clamp(1, ACROSS);
    build(rows * columns, rows * columns, |_, out| {
        let target = Target::of(out);
        (0..groups * parts).into_par_iter().for_each(|task| {
            let panels = task / parts * group..(task / parts * group + group).min(high);
            let columns_of = task % parts * part..(task % parts * part + part).min(wide);
            let mut packed = Buffer::scratch(panels.len() * size * TILE);
            let own = lines_mut(packed.write());
            for (panel, out) in panels.clone().zip(own.chunks_exact_mut(size)) {
                left.pack(amx, panel, Side::Left, out);
            }
            let tiles = Tiles::new(amx);
            let mut sums = Buffer::scratch(PANEL * ACROSS * PANEL);
            let right = lines(right.read());
            let rest = rest.as_ref().map(|rest| lines(rest.read()));
            for column in columns_of.clone().step_by(across) {
                let across = across.min(columns_of.end - column);
                let (first, stride) = (column * PANEL, across * PANEL);
                let here = stride.min(columns - first);
                for (panel, left) in panels.clone().zip(own.chunks_exact(size)) {
                    let left = halves(left, 0, depth);
                    let sums = &mut sums.write()[..PANEL * stride];
                    for at in 0..across {
                        let sums = &mut sums[at * PANEL..];
                        let place = (column + at) * size..(column + at + 1) * size;
                        let right = halves(&right[place.clone()], 0, depth);
                        tiles.multiply(left, right, sums, stride, false);
                        if let Some(rest) = rest {
                            tiles.multiply(
                                left,
                                halves(&rest[place], 0, depth),
                                sums,
                                stride,
                                true,
                            );
                        }
                    }
                    let top = panel * PANEL;
                    let rows = top..rows.min(top + PANEL);
                    for (row, sums) in rows.zip(sums.chunks_exact(stride)) {
                        // SAFETY: these columns of the row belong to this task alone.
                        let out = unsafe { target.part(row * columns + first, here) };
                        let bias = bias.map(|bias| &bias[first..][..here]);
                        put(amx, &sums[..here], bias, out);
                    }
                }
            }
        });
        // SAFETY: the tasks' blocks cover the output, and each was written.
        unsafe { out.assume_init_mut() }
    })
}

/// Copies floats, and adds a bias.
fn put(_: Amx, from: &[f32], bias: Option<&[f32]>, out: &mut [MaybeUninit<f32>]) {
    #[target_feature(enable = "avx512f")]
    fn put(from: &[f32], bias: Option<&[f32]>, out: &mut [MaybeUninit<f32>]) {
        match bias {
            Some(bias) => {
                for ((out, from), bias) in out.iter_mut().zip(from).zip(bias) {
                    out.write(from + bias);
                }
            }
            None => {
                for (out, from) in out.iter_mut().zip(from) {
                    out.write(*from);
                }
            }
        }
    }
    // SAFETY: an `Amx` is there only where the processor has these instructions.
    unsafe { put(from, bias, out) }
}
