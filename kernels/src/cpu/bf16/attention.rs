//! Attention without a score matrix, as [`super::super::attention`] has it: the scores of a block are products of rounded queries and keys, and their
//! exponentials are rounded for the next product. Sums, maxima and what is divided by are f32.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::super::attention::{Gradients, Heads, rows_by_head};
use super::super::math;
use super::super::memory::build_by;
use super::super::tile::{Buffer, Rows};
use super::panel::{
    DEPTH, Lanes, Line, PANEL, Side, TILE, halves, in_order, lines, lines_mut, lines_of, load, turn,
};
use super::unit::{Extent, Unit};

/// Keys of a block of scores in the forward pass, with 32 queries; queries and keys of one in the backward pass.
const BLOCK: usize = 4 * PANEL;
/// Tiles along a block.
const DEEP: usize = BLOCK / DEPTH;
/// Queries of a task.
const QUERIES: usize = 512;
/// Multiplications from which attention is worth it.
const LEAST: usize = 1 << 20;

/// Whether attention is worth it. A causal one is of few positions, the text encoder's.
pub(super) fn pays(q: &Heads<'_>, k: &Heads<'_>, causal: bool) -> bool {
    let few = q.positions.min(k.positions).min(q.dim) < TILE;
    !causal && !few && q.batch * q.heads * q.positions * k.positions * q.dim >= LEAST
}

/// All panels of one head, one after the other.
fn pack(unit: Unit, lanes: Lanes<'_>, side: Side, out: &mut [Line]) {
    let size = lines_of(lanes.inner);
    for (panel, out) in out.chunks_exact_mut(size).enumerate() {
        lanes.pack(unit, panel, side, out);
    }
}

fn panel(packed: &[Line], index: usize, size: usize) -> &[Line] {
    &packed[index * size..][..size]
}

/// `softmax(Q Kᵀ / √dim) V`, `[batch, queries, heads, dim]`, and of each query the binary logarithm of its sum of exponentials, `[batch · heads,
/// queries]`.
pub(super) fn forward(
    unit: Unit,
    q: Heads<'_>,
    k: Heads<'_>,
    v: Heads<'_>,
) -> (Vec<f32>, Vec<f32>) {
    let (dim, queries, keys, heads) = (q.dim, q.positions, k.positions, q.batch * q.heads);
    let (k_panel, v_panel) = (lines_of(dim), lines_of(keys));
    let (k_size, v_size) = (
        keys.div_ceil(PANEL) * k_panel,
        dim.div_ceil(PANEL) * v_panel,
    );
    let mut packed = Buffer::scratch(heads * (k_size + v_size) * TILE);
    let each = lines_mut(packed.write()).par_chunks_exact_mut(k_size + v_size);
    each.enumerate().for_each(|(head, out)| {
        let (k_out, v_out) = out.split_at_mut(k_size);
        let of = |rows, turned| Lanes::of_rows(rows, [keys, dim], turned);
        pack(unit, of(k.head(head), false), Side::Right, k_out);
        pack(unit, of(v.head(head), true), Side::Right, v_out);
    });
    let chunk = queries
        .div_ceil((2 * rayon::current_num_threads()).div_ceil(heads))
        .next_multiple_of(PANEL)
        .min(QUERIES);
    let packed = lines(packed.read());
    let mut sums = vec![0f32; heads * queries];
    let write = |out: &mut [MaybeUninit<f32>]| {
        let mut tasks = vec![];
        let rows = rows_by_head(out, q.heads, queries, dim);
        for (head, (sums, rows)) in sums.chunks_mut(queries).zip(rows).enumerate() {
            let mut rows = rows.into_iter();
            for (index, sums) in sums.chunks_mut(chunk).enumerate() {
                tasks.push(Task {
                    head,
                    first: index * chunk,
                    out: rows.by_ref().take(sums.len()).collect(),
                    sums,
                });
            }
        }
        let counts = tasks.into_par_iter().map(|task| {
            let (k, v) =
                packed[task.head * (k_size + v_size)..][..k_size + v_size].split_at(k_size);
            task.run(unit, q, k, v, keys)
        });
        counts.sum()
    };
    // SAFETY: every row of the output belongs to one task, which counts it once, when it has written it.
    let out = unsafe { build_by(heads * queries * dim, write) };
    (out, sums)
}

/// Some queries of one head.
struct Task<'a> {
    head: usize,
    first: usize,
    sums: &'a mut [f32],
    /// Rows of the output.
    out: Vec<&'a mut [MaybeUninit<f32>]>,
}

impl Task<'_> {
    /// Gives the number of floats written.
    fn run(mut self, unit: Unit, q: Heads<'_>, k: &[Line], v: &[Line], keys: usize) -> usize {
        let (dim, count) = (q.dim, self.sums.len());
        let (k_panel, v_panel) = (lines_of(dim), lines_of(keys));
        let (deep, wide) = (dim.div_ceil(DEPTH), dim.next_multiple_of(PANEL));
        let queries = Lanes {
            scale: std::f32::consts::LOG2_E / (dim as f32).sqrt(),
            ..Lanes::of_rows(q.head(self.head).skip(self.first), [count, dim], false)
        };
        let multiplier = unit.on_this_thread();
        let mut q_packed = Buffer::scratch(k_panel * TILE);
        let mut scores = Buffer::scratch(PANEL * BLOCK);
        let mut weights = Buffer::scratch(lines_of(BLOCK) * TILE);
        let mut mixed = Buffer::scratch(PANEL * wide);
        let mut written = 0;
        for first in (0..count).step_by(PANEL) {
            queries.pack(unit, first / PANEL, Side::Left, lines_mut(q_packed.write()));
            let q_halves = halves(lines(q_packed.read()), 0, deep);
            let rows = PANEL.min(count - first);
            let mut softmax = Softmax::new();
            for key in (0..keys).step_by(BLOCK) {
                let here = BLOCK.min(keys - key);
                let stride = here.next_multiple_of(PANEL);
                let scores = &mut scores.write()[..PANEL * stride];
                for at in (0..here).step_by(PANEL) {
                    let k = halves(panel(k, (key + at) / PANEL, k_panel), 0, deep);
                    let extent = Extent {
                        rows,
                        inner: dim,
                        columns: PANEL.min(here - at),
                    };
                    multiplier.multiply(q_halves, k, extent, &mut scores[at..], stride, false);
                }
                let weights = &mut lines_mut(weights.write())[..lines_of(here)];
                let fades = softmax.weigh(unit, scores, stride, here, rows, weights);
                if key > 0 {
                    fade(unit, &fades, &mut mixed.write()[..], wide);
                }
                let depth = here.div_ceil(DEPTH);
                for (index, v) in v.chunks_exact(v_panel).enumerate() {
                    let v = halves(v, key / DEPTH, depth);
                    let out = &mut mixed.write()[index * PANEL..];
                    let extent = Extent {
                        rows,
                        inner: here,
                        columns: PANEL.min(dim - index * PANEL),
                    };
                    multiplier.multiply(halves(weights, 0, depth), v, extent, out, wide, key > 0);
                }
            }
            let lines = mixed.read().chunks_exact(wide);
            for (row, mixed) in lines.take(rows).enumerate() {
                let inverse = 1.0 / softmax.total[row];
                let out = &mut *self.out[first + row];
                for (out, value) in out.iter_mut().zip(mixed) {
                    out.write(value * inverse);
                }
                written += out.len();
                self.sums[first + row] = softmax.largest[row] + softmax.total[row].log2();
            }
        }
        written
    }
}

/// Of each of 32 queries its largest score yet, and its sum of exponentials.
struct Softmax {
    largest: [f32; PANEL],
    total: [f32; PANEL],
}

impl Softmax {
    fn new() -> Self {
        Self {
            largest: [f32::NEG_INFINITY; PANEL],
            total: [0.0; PANEL],
        }
    }

    /// Packs the weights of a block of scores, of which `count` in each of `rows` rows are some, as a left panel. Gives what all weights before
    /// are to be multiplied with.
    fn weigh(
        &mut self,
        _: Unit,
        scores: &mut [f32],
        stride: usize,
        count: usize,
        rows: usize,
        out: &mut [Line],
    ) -> [f32; PANEL] {
        // SAFETY: a `Unit` is there only where the processor has these instructions.
        unsafe { self.weigh_rows(scores, stride, count, rows, out) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn weigh_rows(
        &mut self,
        scores: &mut [f32],
        stride: usize,
        count: usize,
        rows: usize,
        out: &mut [Line],
    ) -> [f32; PANEL] {
        let mut fades = [1.0; PANEL];
        let half_size = out.len() / 2;
        if rows < PANEL {
            out.fill([0; TILE]);
        }
        for (row, scores) in scores.chunks_exact_mut(stride).take(rows).enumerate() {
            // Those after the last score are none.
            scores[count..].fill(f32::NEG_INFINITY);
            let mut tops = [_mm512_set1_ps(self.largest[row]); 2];
            for at in (0..stride).step_by(PANEL) {
                tops[0] = _mm512_max_ps(tops[0], whole(scores, at));
                tops[1] = _mm512_max_ps(tops[1], whole(scores, at + TILE));
            }
            let highest = _mm512_reduce_max_ps(_mm512_max_ps(tops[0], tops[1]));
            if highest > self.largest[row] {
                fades[row] = math::exp2(self.largest[row] - highest);
                self.largest[row] = highest;
            }
            let top = _mm512_set1_ps(self.largest[row]);
            let mut sums = [_mm512_setzero_ps(); 2];
            let lines = out[row / TILE * half_size..].iter_mut().skip(row % TILE);
            for (at, line) in (0..stride).step_by(PANEL).zip(lines.step_by(TILE)) {
                let low = exp2(_mm512_sub_ps(whole(scores, at), top));
                let high = exp2(_mm512_sub_ps(whole(scores, at + TILE), top));
                sums[0] = _mm512_add_ps(sums[0], low);
                sums[1] = _mm512_add_ps(sums[1], high);
                *line = in_order(low, high);
            }
            let sum = _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]));
            self.total[row] = self.total[row].mul_add(fades[row], sum);
        }
        fades
    }
}

/// The vector that begins at a place.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn whole(from: &[f32], at: usize) -> __m512 {
    let vector = from[at..].first_chunk::<TILE>().expect("a whole vector");
    // SAFETY: 16 floats lie there.
    unsafe { _mm512_loadu_ps(vector.as_ptr()) }
}

/// Multiplies each row with its own number.
fn fade(_: Unit, fades: &[f32; PANEL], rows: &mut [f32], stride: usize) {
    #[target_feature(enable = "avx512f")]
    fn each(fades: &[f32; PANEL], rows: &mut [f32], stride: usize) {
        for (fade, row) in fades.iter().zip(rows.chunks_exact_mut(stride)) {
            if *fade != 1.0 {
                row.iter_mut().for_each(|value| *value *= fade);
            }
        }
    }
    // SAFETY: a `Unit` is there only where the processor has these instructions.
    unsafe { each(fades, rows, stride) }
}

/// 2ˣ to 1e-4 of itself, which is a twentieth of bf16's step; below -126 it is 2⁻¹²⁶.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn exp2(x: __m512) -> __m512 {
    // Adding 1.5 · 2²³ leaves the nearest integer in the lowest bits.
    let magic = _mm512_set1_ps(12_582_912.0);
    // In this order of the operands what is no number stays none.
    let x = _mm512_max_ps(_mm512_set1_ps(-126.0), x);
    let shifted = _mm512_add_ps(x, magic);
    let rest = _mm512_sub_ps(x, _mm512_sub_ps(shifted, magic));
    let mut sum = _mm512_set1_ps(SHORT_EXP2[0]);
    for term in &SHORT_EXP2[1..] {
        sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(*term));
    }
    let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
    _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(sum), exponent))
}

/// A polynomial that is 2ˣ to 1e-4 for |x| ≤ ½, from the third power down.
const SHORT_EXP2: [f32; 4] = [0.055_171_642, 0.242_611_13, 0.693_260_97, 0.999_928_06];

/// The backward pass, from the output and the sums of the forward one.
pub(super) fn backward(unit: Unit, inputs: [Heads<'_>; 5], sums: &[f32]) -> Gradients {
    let [q, k, ..] = inputs;
    let (dim, queries, keys, heads) = (q.dim, q.positions, k.positions, q.batch * q.heads);
    let zeros = |positions: usize| vec![0.0; heads * positions * dim];
    let mut all = Gradients {
        q: zeros(queries),
        k: zeros(keys),
        v: zeros(keys),
    };
    let dq = rows_by_head(&mut all.q, q.heads, queries, dim);
    let dk = rows_by_head(&mut all.k, q.heads, keys, dim);
    let dv = rows_by_head(&mut all.v, q.heads, keys, dim);
    let tasks = dq.into_par_iter().zip(dk).zip(dv).enumerate();
    tasks.for_each(|(head, ((dq, dk), dv))| {
        let inputs = inputs.map(|heads| heads.head(head));
        let sums = &sums[head * queries..][..queries];
        backward_of_head(unit, inputs, sums, [queries, keys, dim], [dq, dk, dv]);
    });
    all
}

/// The gradients of one head. With P the weights, and D of each query Σ gradient · output: the scores' gradient is dS = P ∘ (dO Vᵀ − D), that of the
/// values Pᵀ dO, of the keys dSᵀ Q / √dim, of the queries dS K / √dim. Scores are computed with keys as rows, so that both left operands of the keys'
/// products lie ready.
fn backward_of_head(
    unit: Unit,
    [q, k, v, out, grad]: [Rows<'_>; 5],
    sums: &[f32],
    [queries, keys, dim]: [usize; 3],
    [mut dq, mut dk, mut dv]: [Vec<&mut [f32]>; 3],
) {
    let (deep, wide, parts) = (
        dim.div_ceil(DEPTH),
        dim.next_multiple_of(PANEL),
        dim.div_ceil(PANEL),
    );
    let scale = 1.0 / (dim as f32).sqrt();
    // Those that there are not have no weight and no slope.
    let tall = queries.next_multiple_of(BLOCK);
    let mut sum_of = vec![f32::INFINITY; tall];
    sum_of[..queries].copy_from_slice(sums);
    let mut inner = vec![0f32; tall];
    for (row, inner) in inner.iter_mut().take(queries).enumerate() {
        *inner = dot(unit, out.row(row, dim), grad.row(row, dim));
    }
    let packed = |lanes: Lanes<'_>, side| {
        let size = lines_of(lanes.inner);
        let mut packed = Buffer::scratch(lanes.count.div_ceil(PANEL) * size * TILE);
        pack(unit, lanes, side, lines_mut(packed.write()));
        packed
    };
    let of = |rows, count, turned| Lanes::of_rows(rows, [count, dim], turned);
    let q_scaled = Lanes {
        scale: std::f32::consts::LOG2_E * scale,
        ..of(q, queries, false)
    };
    let q_lanes = packed(q_scaled, Side::Right);
    let grad_lanes = packed(of(grad, queries, false), Side::Right);
    let q_columns = packed(of(q, queries, true), Side::Right);
    let grad_columns = packed(of(grad, queries, true), Side::Right);
    let k_rows = packed(of(k, keys, false), Side::Left);
    let v_rows = packed(of(v, keys, false), Side::Left);
    let k_columns = packed(of(k, keys, true), Side::Right);
    let [
        q_lanes,
        grad_lanes,
        q_columns,
        grad_columns,
        k_rows,
        v_rows,
        k_columns,
    ] = [
        &q_lanes,
        &grad_lanes,
        &q_columns,
        &grad_columns,
        &k_rows,
        &v_rows,
        &k_columns,
    ]
    .map(|buffer| lines(buffer.read()));
    let (by_dim, by_query, by_key) = (lines_of(dim), lines_of(queries), lines_of(keys));

    let multiplier = unit.on_this_thread();
    let mut dq_padded = Buffer::zeros(tall * wide);
    let mut dk_padded = Buffer::scratch(BLOCK * wide);
    let mut dv_padded = Buffer::scratch(BLOCK * wide);
    let mut scores = Buffer::scratch(PANEL * BLOCK);
    let mut slopes = Buffer::scratch(PANEL * BLOCK);
    let block = lines_of(BLOCK);
    let mut weights_packed = Buffer::scratch(block * TILE);
    let mut slopes_packed = Buffer::scratch(block * TILE);
    // Of each of a block's four panels of queries.
    let mut slopes_turned = Buffer::scratch(4 * block * TILE);
    for key in (0..keys).step_by(BLOCK) {
        let panels = BLOCK.min(keys - key).div_ceil(PANEL);
        let mut first_query = true;
        for query in (0..queries).step_by(BLOCK) {
            let here = BLOCK.min(queries - query);
            let (across, depth) = (here.div_ceil(PANEL), here.div_ceil(DEPTH));
            let stride = across * PANEL;
            let turned = lines_mut(slopes_turned.write());
            for index in 0..panels {
                let at = key / PANEL + index;
                let rows = PANEL.min(keys - key - index * PANEL);
                // Queries that there are not have scores of 0, for what comes of them must be a number.
                let extent = Extent {
                    rows,
                    inner: dim,
                    columns: PANEL,
                };
                let k = halves(panel(k_rows, at, by_dim), 0, deep);
                let v = halves(panel(v_rows, at, by_dim), 0, deep);
                for column in 0..across {
                    let at = query / PANEL + column;
                    let q = halves(panel(q_lanes, at, by_dim), 0, deep);
                    let grad = halves(panel(grad_lanes, at, by_dim), 0, deep);
                    let place = column * PANEL;
                    multiplier.multiply(k, q, extent, &mut scores.write()[place..], stride, false);
                    multiplier.multiply(
                        v,
                        grad,
                        extent,
                        &mut slopes.write()[place..],
                        stride,
                        false,
                    );
                }
                let size = lines_of(here);
                let weights = &mut lines_mut(weights_packed.write())[..size];
                let slopes_out = &mut lines_mut(slopes_packed.write())[..size];
                weigh_back(
                    unit,
                    [
                        &scores.read()[..PANEL * stride],
                        &slopes.read()[..PANEL * stride],
                    ],
                    [&sum_of[query..][..stride], &inner[query..][..stride]],
                    rows,
                    [weights, slopes_out],
                );
                let (weights, slopes_out) = (&*weights, &*slopes_out);
                for part in 0..parts {
                    let extent = Extent {
                        rows,
                        inner: here,
                        columns: PANEL.min(dim - part * PANEL),
                    };
                    let grad = halves(panel(grad_columns, part, by_query), query / DEPTH, depth);
                    let q = halves(panel(q_columns, part, by_query), query / DEPTH, depth);
                    let place = index * PANEL * wide + part * PANEL;
                    let (dv, dk) = (
                        &mut dv_padded.write()[place..],
                        &mut dk_padded.write()[place..],
                    );
                    let (weights, slopes) =
                        (halves(weights, 0, depth), halves(slopes_out, 0, depth));
                    multiplier.multiply(weights, grad, extent, dv, wide, !first_query);
                    multiplier.multiply(slopes, q, extent, dk, wide, !first_query);
                }
                turn_over(unit, slopes_out, index, turned);
            }
            for column in 0..across {
                let slopes = panel(turned, column, block);
                for part in 0..parts {
                    let k = halves(panel(k_columns, part, by_key), key / DEPTH, panels);
                    let place = (query + column * PANEL) * wide + part * PANEL;
                    let out = &mut dq_padded.write()[place..];
                    let extent = Extent {
                        rows: PANEL.min(here - column * PANEL),
                        inner: BLOCK.min(keys - key),
                        columns: PANEL.min(dim - part * PANEL),
                    };
                    multiplier.multiply(halves(slopes, 0, panels), k, extent, out, wide, key > 0);
                }
            }
            first_query = false;
        }
        let rows = key..keys.min(key + BLOCK);
        for (row, (dk_row, dv_row)) in rows.zip(
            dk_padded
                .read()
                .chunks_exact(wide)
                .zip(dv_padded.read().chunks_exact(wide)),
        ) {
            for (out, value) in dk[row].iter_mut().zip(dk_row) {
                *out = value * scale;
            }
            let wanted = dv[row].len();
            dv[row].copy_from_slice(&dv_row[..wanted]);
        }
    }
    for (out, row) in dq.iter_mut().zip(dq_padded.read().chunks_exact(wide)) {
        for (out, value) in out.iter_mut().zip(row) {
            *out = value * scale;
        }
    }
}

/// The sum of the products of two rows.
fn dot(_: Unit, a: &[f32], b: &[f32]) -> f32 {
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        let mut sum = _mm512_setzero_ps();
        for (a, b) in a.chunks(TILE).zip(b.chunks(TILE)) {
            sum = _mm512_fmadd_ps(load(a), load(b), sum);
        }
        _mm512_reduce_add_ps(sum)
    }
    // SAFETY: a `Unit` is there only where the processor has these instructions.
    unsafe { dot(a, b) }
}

/// Packs the weights and the scores' gradients of 32 keys, of which there are `rows`, by some queries, as left panels.
fn weigh_back(
    _: Unit,
    [scores, slopes]: [&[f32]; 2],
    [sums, inner]: [&[f32]; 2],
    rows: usize,
    [weights_out, slopes_out]: [&mut [Line]; 2],
) {
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn weigh(
        [scores, slopes]: [&[f32]; 2],
        [sums, inner]: [&[f32]; 2],
        rows: usize,
        [weights_out, slopes_out]: [&mut [Line]; 2],
    ) {
        let (stride, half) = (sums.len(), weights_out.len() / 2);
        if rows < PANEL {
            weights_out.fill([0; TILE]);
            slopes_out.fill([0; TILE]);
        }
        let both = scores.chunks_exact(stride).zip(slopes.chunks_exact(stride));
        for (row, (scores, slopes)) in both.take(rows).enumerate() {
            let first = row / TILE * half + row % TILE;
            for tile in 0..stride / DEPTH {
                let mut both = [(_mm512_setzero_ps(), _mm512_setzero_ps()); 2];
                for (part, out) in both.iter_mut().enumerate() {
                    let at = tile * DEPTH + part * TILE;
                    let weight = exp2(_mm512_sub_ps(whole(scores, at), whole(sums, at)));
                    let slope = _mm512_sub_ps(whole(slopes, at), whole(inner, at));
                    *out = (weight, _mm512_mul_ps(weight, slope));
                }
                let [low, high] = both;
                weights_out[first + tile * TILE] = in_order(low.0, high.0);
                slopes_out[first + tile * TILE] = in_order(low.1, high.1);
            }
        }
    }
    // SAFETY: a `Unit` is there only where the processor has these instructions.
    unsafe {
        weigh(
            [scores, slopes],
            [sums, inner],
            rows,
            [weights_out, slopes_out],
        )
    }
}

/// From a left panel of 32 keys by some queries, the tiles `index` of left panels of these queries by a block of keys.
fn turn_over(_: Unit, from: &[Line], index: usize, out: &mut [Line]) {
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn each(from: &[Line], index: usize, out: &mut [Line]) {
        let half = from.len() / 2;
        for tile in 0..half / TILE {
            // Both halves of the keys by 32 queries.
            let [low, high] = [0, half].map(|first| &from[first + tile * TILE..][..TILE]);
            let panel = &mut out[tile * 2 * DEEP * TILE..][..2 * DEEP * TILE];
            // Lines of pairs of queries, a key each, become lines of pairs of keys, a query each.
            let mut keys = [[0u32; TILE]; 2 * TILE];
            for (out, line) in keys.iter_mut().zip(low.iter().chain(high)) {
                *out = *line;
            }
            let (low, high) = keys.split_at_mut(TILE);
            let low: &mut [Line; TILE] = low.try_into().expect("16 lines");
            let high: &mut [Line; TILE] = high.try_into().expect("16 lines");
            turn(low);
            turn(high);
            for pair in 0..TILE {
                // Of two queries the numbers of 32 keys.
                let [first, second] = apart(&low[pair], &high[pair]);
                for (query, line) in [(2 * pair, first), (2 * pair + 1, second)] {
                    let place = query / TILE * DEEP * TILE + index * TILE + query % TILE;
                    panel[place] = line;
                }
            }
        }
    }
    // SAFETY: a `Unit` is there only where the processor has these instructions.
    unsafe { each(from, index, out) }
}

/// From lines of 16 pairs each, the first of all pairs and the second of all pairs, in their order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn apart(low: &Line, high: &Line) -> [Line; 2] {
    const FIRST: [u16; 32] = every_other(0);
    const SECOND: [u16; 32] = every_other(1);
    // SAFETY: all are 64 bytes, of which any are a value.
    unsafe {
        let [low, high] = std::mem::transmute::<[Line; 2], [__m512i; 2]>([*low, *high]);
        let mut done = [[0; TILE]; 2];
        for (done, order) in done.iter_mut().zip([FIRST, SECOND]) {
            let order = std::mem::transmute::<[u16; 32], __m512i>(order);
            let line = _mm512_permutex2var_epi16(low, order, high);
            *done = std::mem::transmute::<__m512i, Line>(line);
        }
        done
    }
}

const fn every_other(first: u16) -> [u16; 32] {
    let mut order = [0; 32];
    let mut at = 0;
    while at < 32 {
        order[at] = 2 * at as u16 + first;
        at += 1;
    }
    order
}
