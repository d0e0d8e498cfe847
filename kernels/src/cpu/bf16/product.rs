//! Products of whole matrices.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::super::memory::build;
use super::super::tile::Buffer;
use super::Factor;
use super::panel::{
    DEPTH, Lanes, Line, PANEL, Side, TILE, Target, halves, lines, lines_mut, lines_of, pack_right,
};
use super::unit::{Extent, Unit};

/// Bytes of packed rows that a task keeps in the second-level cache while the columns go over them.
const GROUP: usize = 768 << 10;
/// Bytes of packed columns that stay in that cache beside them.
const BESIDE: usize = 128 << 10;
/// Panels of columns at most whose sums are written together, so that what is written to a row is long.
const ACROSS: usize = 8;
/// Multiplications from which a product is worth packing.
const LEAST: usize = 1 << 18;

/// Whether a product is worth it.
pub(super) fn pays([a, b]: &[Factor<'_>; 2]) -> bool {
    let (rows, inner, columns) = (a.rows, a.columns, b.columns);
    rows * columns * inner >= LEAST && rows.min(columns) >= TILE / 2 && inner >= TILE
}

/// One of the products of a sum, its right factor packed.
struct Term<'a> {
    left: Lanes<'a>,
    right: Buffer,
    inner: usize,
    /// Lines of a panel.
    size: usize,
    /// Lines of a left panel of the terms before it.
    first: usize,
}

/// `Σ A · B` over some pairs, rows one after the other, with a bias added to every row.
///
/// # Panics
/// If the sizes do not fit each other.
pub(super) fn sum_of_products(
    unit: Unit,
    pairs: &[[Factor<'_>; 2]],
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let [rows, columns] = [pairs[0][0].rows, pairs[0][1].columns];
    assert!(bias.is_none_or(|bias| bias.len() == columns));
    let mut size = 0;
    let mut terms = vec![];
    for &[a, b] in pairs {
        assert!(a.rows == rows && b.columns == columns && a.columns == b.rows);
        let first = size;
        size += lines_of(a.columns);
        terms.push(Term {
            left: Lanes::of(a, Side::Left),
            right: pack_right(unit, b),
            inner: a.columns,
            size: size - first,
            first,
        });
    }
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
                for term in &terms {
                    let out = &mut out[term.first..][..term.size];
                    term.left.pack(unit, panel, Side::Left, out);
                }
            }
            let multiplier = unit.on_this_thread();
            let mut sums = Buffer::scratch(PANEL * ACROSS * PANEL);
            for column in columns_of.clone().step_by(across) {
                let across = across.min(columns_of.end - column);
                let (first, stride) = (column * PANEL, across * PANEL);
                let here = stride.min(columns - first);
                for (panel, own) in panels.clone().zip(own.chunks_exact(size)) {
                    let sums = &mut sums.write()[..PANEL * stride];
                    let rows = panel * PANEL..rows.min((panel + 1) * PANEL);
                    for at in 0..across {
                        let sums = &mut sums[at * PANEL..];
                        for term in &terms {
                            let depth = term.inner.div_ceil(DEPTH);
                            let left = &own[term.first..][..term.size];
                            let right = &lines(term.right.read())[(column + at) * term.size..];
                            let extent = Extent {
                                rows: rows.len(),
                                inner: term.inner,
                                columns: PANEL.min(columns - (column + at) * PANEL),
                            };
                            multiplier.multiply(
                                halves(left, 0, depth),
                                halves(&right[..term.size], 0, depth),
                                extent,
                                sums,
                                stride,
                                term.first > 0,
                            );
                        }
                    }
                    for (row, sums) in rows.zip(sums.chunks_exact(stride)) {
                        // SAFETY: these columns of the row belong to this task alone.
                        let out = unsafe { target.part(row * columns + first, here) };
                        let bias = bias.map(|bias| &bias[first..][..here]);
                        put(unit, &sums[..here], bias, out);
                    }
                }
            }
        });
        // SAFETY: the tasks' blocks cover the output, and each was written.
        unsafe { out.assume_init_mut() }
    })
}

/// Copies floats, and adds a bias.
fn put(_: Unit, from: &[f32], bias: Option<&[f32]>, out: &mut [MaybeUninit<f32>]) {
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
    // SAFETY: a `Unit` is there only where the processor has these instructions.
    unsafe { put(from, bias, out) }
}
