//! Products of whole matrices.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::super::memory::build;
use super::super::tile::Buffer;
use super::Factor;
use super::panel::{
    DEPTH, Lanes, Line, PANEL, Side, TILE, Target, halves, lines, lines_mut, lines_of,
};
use super::unit::{Extent, Multiplier, Unit};

/// Bytes of packed panels that a task keeps in the second-level cache.
const GROUP: usize = 768 << 10;
/// Bytes of the other operand's panels that stay in that cache beside them.
const BESIDE: usize = 128 << 10;
/// Bytes up to which it takes less time to pack an operand than to wake another thread for it.
const AT_ONCE: usize = 16 << 10;
/// Panels of columns at most whose sums are written together, so that what is written to a row is long.
const ACROSS: usize = 8;
/// Multiplications from which a product is worth packing.
const LEAST: usize = 1 << 18;

/// Whether a product is worth it.
pub(super) fn pays([a, b]: &[Factor<'_>; 2]) -> bool {
    let (rows, inner, columns) = (a.rows, a.columns, b.columns);
    rows * columns * inner >= LEAST && rows.min(columns) >= TILE / 2 && inner >= TILE
}

/// One of the products of a sum.
#[derive(Clone, Copy)]
struct Term<'a> {
    left: Lanes<'a>,
    right: Lanes<'a>,
    /// Lines of the terms before it, in a panel that holds all terms.
    first: usize,
}

impl Term<'_> {
    fn inner(&self) -> usize {
        self.left.inner
    }

    /// Its part of a panel.
    fn halves<'a>(&self, panel: &'a [Line]) -> [&'a [Line]; 2] {
        let lines = lines_of(self.inner());
        let depth = self.inner().div_ceil(DEPTH);
        halves(&panel[self.first..][..lines], 0, depth)
    }
}

/// `Σ A · B` over some pairs, rows one after the other, with a bias added to every row.
///
/// The operand of fewer panels is packed once, for all tasks. Each task packs some panels of the other, and multiplies them while they are in its cache.
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
        let (left, right) = (Lanes::of(a, Side::Left), Lanes::of(b, Side::Right));
        terms.push(Term { left, right, first });
    }
    let panels_of = |side| match side {
        Side::Left => rows.div_ceil(PANEL),
        Side::Right => columns.div_ceil(PANEL),
    };
    let (own, shared) = match panels_of(Side::Left) >= panels_of(Side::Right) {
        true => (Side::Left, Side::Right),
        false => (Side::Right, Side::Left),
    };
    // Panels from one on, as many as the lines hold.
    let pack = |side, first, out: &mut [Line]| {
        for term in &terms {
            let lanes = match side {
                Side::Left => term.left,
                Side::Right => term.right,
            };
            let panels = out.chunks_exact_mut(size);
            let mut panels: Vec<&mut [Line]> = panels
                .map(|panel| &mut panel[term.first..][..lines_of(term.inner())])
                .collect();
            lanes.pack_panels(unit, first, side, &mut panels);
        }
    };
    // Parts of an operand, four for each thread, of at most so many panels.
    let part = |side, most: usize| {
        let even = panels_of(side).div_ceil(4 * rayon::current_num_threads());
        even.clamp(1, most)
    };
    let mut common = Buffer::scratch(panels_of(shared) * size * TILE);
    let out = lines_mut(common.write());
    if size_of_val(out) <= AT_ONCE {
        pack(shared, 0, out);
    } else {
        let each = part(shared, usize::MAX);
        let parts = out.par_chunks_mut(each * size).enumerate();
        parts.for_each(|(index, out)| pack(shared, index * each, out));
    }
    let common = lines(common.read());
    let group = part(own, (GROUP / (size * size_of::<Line>())).clamp(1, 16));
    let across = (BESIDE / (size * size_of::<Line>())).clamp(1, ACROSS);
    build(rows * columns, rows * columns, |_, out| {
        let target = Target::of(out);
        let tasks = (0..panels_of(own)).into_par_iter().step_by(group);
        tasks.for_each(|first| {
            let here = first..panels_of(own).min(first + group);
            let mut packed = Buffer::scratch(here.len() * size * TILE);
            pack(own, first, lines_mut(packed.write()));
            let packed = lines(packed.read());
            let mut block = Block {
                unit,
                terms: &terms,
                size,
                bias,
                shape: [rows, columns],
                target,
                multiplier: unit.on_this_thread(),
                sums: Buffer::scratch(PANEL * ACROSS * PANEL),
            };
            // What stays in the cache is gone over by one part of the other operand after the other.
            match own {
                Side::Left => {
                    for (column, right) in (0..).step_by(across).zip(common.chunks(across * size)) {
                        for (panel, left) in here.clone().zip(packed.chunks_exact(size)) {
                            block.write(panel, left, column, right);
                        }
                    }
                }
                Side::Right => {
                    for (panel, left) in common.chunks_exact(size).enumerate() {
                        for (column, right) in here
                            .clone()
                            .step_by(across)
                            .zip(packed.chunks(across * size))
                        {
                            block.write(panel, left, column, right);
                        }
                    }
                }
            }
        });
        // SAFETY: the tasks' blocks cover the output, and each was written.
        unsafe { out.assume_init_mut() }
    })
}

/// Where a task writes, and what by.
struct Block<'a> {
    unit: Unit,
    terms: &'a [Term<'a>],
    /// Lines of a panel.
    size: usize,
    bias: Option<&'a [f32]>,
    shape: [usize; 2],
    target: Target,
    multiplier: Multiplier,
    sums: Buffer,
}

impl Block<'_> {
    /// Writes a panel of rows by some panels of columns, from panel `column` on, that belong to this task alone.
    fn write(&mut self, panel: usize, left: &[Line], column: usize, right: &[Line]) {
        let [rows, columns] = self.shape;
        let rows = panel * PANEL..rows.min((panel + 1) * PANEL);
        let (first, stride) = (column * PANEL, right.len() / self.size * PANEL);
        let here = stride.min(columns - first);
        let sums = &mut self.sums.write()[..PANEL * stride];
        for (at, right) in (0..).step_by(PANEL).zip(right.chunks_exact(self.size)) {
            for term in self.terms {
                let extent = Extent {
                    rows: rows.len(),
                    inner: term.inner(),
                    columns: PANEL.min(here - at),
                };
                let (left, right) = (term.halves(left), term.halves(right));
                let add = term.first > 0;
                self.multiplier
                    .multiply(left, right, extent, &mut sums[at..], stride, add);
            }
        }
        for (row, sums) in rows.zip(sums.chunks_exact(stride)) {
            // SAFETY: these columns of the row lie in the output, and belong to this task alone.
            let out = unsafe { self.target.part(row * columns + first, here) };
            let bias = self.bias.map(|bias| &bias[first..][..here]);
            put(self.unit, &sums[..here], bias, out);
        }
    }
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
