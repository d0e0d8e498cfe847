//! Attention without a score matrix (Dao et al. 2022, Rabe & Staats 2021): tiles of scores live in the first-level cache, forward by an
//! online softmax, backward by computing them again from the logarithm of each row's sum.
//!
//! Forward, the lanes of a vector are queries: then the softmax runs down the rows of a tile and needs no sum across lanes. Backward, they are keys.

use std::mem::MaybeUninit;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::bf16;
use super::math::vectorized;
use super::memory::build_by;
use super::tile::{
    Buffer, Rows, STRIP, copy_strip, exp2, lanes, multiply_rows, multiply_strip, pack_columns,
    pack_lanes, pack_rows, store, vectors, vectors_mut, zero_tile,
};
use super::turn::Turn;

/// Keys of one tile of scores: with 32 queries, 12 KiB.
const KEYS: usize = 96;
/// Tiles of queries that go over the keys together.
const TILES: usize = 4;
/// Queries of one tile of scores in the backward pass.
const QUERIES: usize = 96;
/// Floats that the keys of a block take in the backward pass, with their values and gradients: they stay in the second-level cache while the
/// queries go over them.
const KEY_BLOCK: usize = if cfg!(test) { 6 << 10 } else { 96 << 10 };

/// The heads of a batch of queries, keys or values: `[batch, heads, positions, dim]`, with any strides before the last axis.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads<'a> {
    pub data: &'a [f32],
    pub batch: usize,
    pub heads: usize,
    pub positions: usize,
    pub dim: usize,
    /// Distance of two members of the batch, two heads, two positions.
    pub strides: [usize; 3],
}

impl<'a> Heads<'a> {
    pub(super) fn head(&self, index: usize) -> Rows<'a> {
        let [batch, head, position] = self.strides;
        let first = index / self.heads * batch + index % self.heads * head;
        Rows {
            data: self.data.get(first..).unwrap_or(&[]),
            stride: position,
        }
    }
}

/// The rows of `[batch, positions, heads, dim]` in memory, by head.
pub(super) fn rows_by_head<T>(
    data: &mut [T],
    heads: usize,
    positions: usize,
    dim: usize,
) -> Vec<Vec<&mut [T]>> {
    let mut all: Vec<Vec<&mut [T]>> = (0..data.len() / (positions * dim).max(1))
        .map(|_| vec![])
        .collect();
    for (index, row) in data.chunks_exact_mut(dim).enumerate() {
        all[index / (positions * heads) * heads + index % heads].push(row);
    }
    all
}

/// Rows of a strip that fit a head's width best: the accumulator of an output tile has so many rows. The more there are, the fewer times is its right
/// operand read.
fn strip_of(dim: usize) -> usize {
    [12, 10, 8]
        .into_iter()
        .min_by_key(|rows| dim.div_ceil(*rows) * (rows + 1))
        .unwrap_or(STRIP)
}

/// `softmax(Q Kᵀ / √dim) V`, `[batch, queries, heads, dim]`, and of each query the binary logarithm of its sum of exponentials, `[batch · heads,
/// queries]`.
pub(crate) fn forward(
    q: Heads<'_>,
    k: Heads<'_>,
    v: Heads<'_>,
    causal: bool,
) -> (Vec<f32>, Vec<f32>) {
    if let Some(done) = bf16::attend(q, k, v, causal) {
        return done;
    }
    match strip_of(q.dim) {
        12 => forward_by::<12>(q, k, v, causal),
        10 => forward_by::<10>(q, k, v, causal),
        _ => forward_by::<8>(q, k, v, causal),
    }
}

fn forward_by<const R: usize>(
    q: Heads<'_>,
    k: Heads<'_>,
    v: Heads<'_>,
    causal: bool,
) -> (Vec<f32>, Vec<f32>) {
    let (dim, queries, keys, heads) = (q.dim, q.positions, k.positions, q.batch * q.heads);
    let (k_size, v_size) = (
        keys.div_ceil(STRIP) * STRIP * dim,
        dim.div_ceil(R) * R * keys,
    );
    let pack = |head: usize, out: &mut [f32]| {
        let (k_out, v_out) = out.split_at_mut(k_size);
        vectorized(
            #[inline(always)]
            || {
                pack_rows::<STRIP>(k.head(head), 0, keys, dim, k_out);
                pack_columns::<R>(v.head(head), 0, keys, dim, v_out);
            },
        );
    };
    // One task takes some queries of one head; its output rows are not contiguous, so they are handed over as a list of rows.
    let tile = 2 * lanes();
    let chunk = queries
        .div_ceil((2 * rayon::current_num_threads()).div_ceil(heads))
        .next_multiple_of(tile)
        .min(1024);
    // Where a head is one task, it packs its keys and values itself.
    let shared = (chunk < queries).then(|| {
        let mut packed = Buffer::scratch(heads * (k_size + v_size));
        let each = packed.write().par_chunks_exact_mut(k_size + v_size);
        each.enumerate().for_each(|(head, out)| pack(head, out));
        packed
    });
    let mut sums = vec![0f32; heads * queries];
    let write = |out: &mut [MaybeUninit<f32>]| {
        let mut rows = rows_by_head(out, q.heads, queries, dim).into_iter();
        let mut tasks: Vec<Task<'_>> = Vec::new();
        for (head, sums) in sums.chunks_mut(queries).enumerate() {
            let mut rows = rows.next().into_iter().flatten();
            let parts = sums.chunks_mut(chunk).enumerate();
            tasks.extend(parts.map(|(index, sums)| Task {
                head,
                first: index * chunk,
                out: rows.by_ref().take(sums.len()).collect(),
                sums,
            }));
        }
        let counts = tasks.into_par_iter().map(|task| {
            let mut own = None;
            let packed = match &shared {
                Some(shared) => &shared.read()[task.head * (k_size + v_size)..][..k_size + v_size],
                None => {
                    let own = own.insert(Buffer::scratch(k_size + v_size));
                    pack(task.head, own.write());
                    own.read()
                }
            };
            let (packed_k, packed_v) = packed.split_at(k_size);
            Arch::new().dispatch(Forward::<R> {
                q: q.head(task.head),
                packed_k,
                packed_v,
                keys,
                dim,
                causal,
                task,
            })
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

struct Forward<'a, const R: usize> {
    q: Rows<'a>,
    packed_k: &'a [f32],
    packed_v: &'a [f32],
    keys: usize,
    dim: usize,
    causal: bool,
    task: Task<'a>,
}

/// What is known of one tile of queries: of each its largest score, and its sum of exponentials.
#[derive(Clone, Copy)]
struct Softmax<S: Simd> {
    largest: [S::f32s; 2],
    total: [S::f32s; 2],
}

impl<const R: usize> WithSimd for Forward<'_, R> {
    /// The number of floats written.
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> usize {
        let Self {
            q,
            packed_k,
            packed_v,
            keys,
            dim,
            causal,
            task,
        } = self;
        let Task {
            first,
            sums,
            mut out,
            ..
        } = task;
        let width = 2 * S::F32_LANES;
        let scale = std::f32::consts::LOG2_E / (dim as f32).sqrt();
        let (panel, tall) = (dim * width, dim.div_ceil(R) * R * width);
        let mut queries = Buffer::scratch(TILES * panel);
        // In the end it takes the output of a tile, row by row.
        let mut scores = Buffer::scratch(KEYS.max(dim) * width);
        let mut mixed = Buffer::scratch(TILES * tall);
        let count = sums.len();
        let mut written = 0;
        for group in (0..count).step_by(TILES * width) {
            let tiles = (count - group).div_ceil(width).min(TILES);
            let wide = |tile: usize| width.min(count - group - tile * width);
            // How many keys a tile sees.
            let seen = |tile: usize| {
                if causal {
                    keys.min(first + group + tile * width + wide(tile))
                } else {
                    keys
                }
            };
            for (tile, columns) in queries
                .write()
                .chunks_exact_mut(panel)
                .take(tiles)
                .enumerate()
            {
                let from = first + group + tile * width;
                pack_lanes(q, from, wide(tile), dim, width, scale, columns);
            }
            mixed.write().fill(0.0);
            let mut softmax = [Softmax::<S> {
                largest: [simd.splat_f32s(f32::NEG_INFINITY); 2],
                total: [simd.splat_f32s(0.0); 2],
            }; TILES];
            for key in (0..seen(tiles - 1)).step_by(KEYS) {
                // Keys and values stay in a near cache for all tiles of the group.
                for (tile, softmax) in softmax.iter_mut().take(tiles).enumerate() {
                    let here = KEYS.min(seen(tile).saturating_sub(key));
                    if here == 0 {
                        continue;
                    }
                    // Scores: rows are keys, lanes are queries.
                    let columns = vectors::<S, 2>(&queries.read()[tile * panel..][..panel]);
                    for (strip, out) in scores.write()[..here.div_ceil(STRIP) * STRIP * width]
                        .chunks_exact_mut(STRIP * width)
                        .enumerate()
                    {
                        let strip = &packed_k[(key / STRIP + strip) * STRIP * dim..][..STRIP * dim];
                        let tile = multiply_strip(
                            simd,
                            pulp::as_arrays::<STRIP, _>(strip).0,
                            columns,
                            zero_tile(simd),
                        );
                        for (out, tile) in vectors_mut::<S, 2>(out).iter_mut().zip(tile) {
                            *out = tile;
                        }
                    }
                    let scores = &mut scores.write()[..here * width];
                    let from = first + group + tile * width;
                    if causal && key + here > from {
                        for (row, out) in scores.chunks_exact_mut(width).enumerate() {
                            let hidden = (key + row).saturating_sub(from).min(width);
                            out[..hidden].fill(f32::NEG_INFINITY);
                        }
                    }
                    // Online softmax.
                    let Softmax { largest, total } = softmax;
                    let rows = vectors_mut::<S, 2>(scores);
                    let mut top = *largest;
                    for row in rows.iter() {
                        for (top, &score) in top.iter_mut().zip(row) {
                            *top = simd.max_f32s(*top, score);
                        }
                    }
                    let mut fade = [simd.splat_f32s(0.0); 2];
                    for i in 0..2 {
                        fade[i] = exp2(simd, simd.sub_f32s(largest[i], top[i]));
                        total[i] = simd.mul_f32s(total[i], fade[i]);
                    }
                    let mut sum = *total;
                    for row in rows.iter_mut() {
                        for i in 0..2 {
                            row[i] = exp2(simd, simd.sub_f32s(row[i], top[i]));
                            sum[i] = simd.add_f32s(sum[i], row[i]);
                        }
                    }
                    (*largest, *total) = (top, sum);
                    // Output: rows are channels, lanes are queries.
                    let rows = vectors::<S, 2>(scores);
                    let mixed = &mut mixed.write()[tile * tall..][..tall];
                    for (strip, mixed) in vectors_mut::<S, 2>(mixed).chunks_exact_mut(R).enumerate()
                    {
                        let mut tile = zero_tile::<S, R, 2>(simd);
                        for (tile, mixed) in tile.iter_mut().zip(mixed.iter()) {
                            for i in 0..2 {
                                tile[i] = simd.mul_f32s(mixed[i], fade[i]);
                            }
                        }
                        let strip = &packed_v[(strip * keys + key) * R..][..here * R];
                        let tile =
                            multiply_strip(simd, pulp::as_arrays::<R, _>(strip).0, rows, tile);
                        for (mixed, tile) in mixed.iter_mut().zip(tile) {
                            *mixed = tile;
                        }
                    }
                }
            }
            for (tile, softmax) in softmax.iter().take(tiles).enumerate() {
                let mut sum_of = [[0f32; 2 * MAX_LANES]; 2];
                for (out, vectors) in sum_of.iter_mut().zip([softmax.total, softmax.largest]) {
                    vectors_mut::<S, 2>(out)[0] = vectors;
                }
                let turn = Turn {
                    from: Rows {
                        data: &mixed.read()[tile * tall..][..tall],
                        stride: width,
                    },
                    rows: dim,
                    columns: wide(tile),
                    scale: 1.0,
                };
                turn.write(scores.write(), dim);
                let from = group + tile * width;
                let lines = scores.read().chunks_exact(dim).take(wide(tile));
                for (lane, line) in lines.enumerate() {
                    let inverse = 1.0 / sum_of[0][lane];
                    let out = &mut *out[from + lane];
                    for (out, &value) in out.iter_mut().zip(line) {
                        out.write(value * inverse);
                    }
                    written += out.len();
                    sums[from + lane] = sum_of[1][lane] + sum_of[0][lane].log2();
                }
            }
        }
        written
    }
}

/// The widest vector, of AVX-512, in floats.
const MAX_LANES: usize = 16;

/// Gradients of queries, keys and values, each `[batch, positions, heads, dim]` in memory.
pub(crate) struct Gradients {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
}

/// The backward pass, from the output and the sums of the forward one.
pub(crate) fn backward(inputs: [Heads<'_>; 5], sums: &[f32], causal: bool) -> Gradients {
    if let Some(gradients) = bf16::attention_gradients(inputs, sums, causal) {
        return gradients;
    }
    match strip_of(inputs[0].dim) {
        12 => backward_by::<12>(inputs, sums, causal),
        10 => backward_by::<10>(inputs, sums, causal),
        _ => backward_by::<8>(inputs, sums, causal),
    }
}

fn backward_by<const R: usize>(
    [q, k, v, out, grad]: [Heads<'_>; 5],
    sums: &[f32],
    causal: bool,
) -> Gradients {
    let (dim, queries, keys, heads) = (q.dim, q.positions, k.positions, q.batch * q.heads);
    let mut all = Gradients {
        q: vec![0.0; heads * queries * dim],
        k: vec![0.0; heads * keys * dim],
        v: vec![0.0; heads * keys * dim],
    };
    let dq = rows_by_head(&mut all.q, q.heads, queries, dim);
    let dk = rows_by_head(&mut all.k, q.heads, keys, dim);
    let dv = rows_by_head(&mut all.v, q.heads, keys, dim);
    dq.into_par_iter()
        .zip(dk)
        .zip(dv)
        .enumerate()
        .for_each(|(head, ((dq, dk), dv))| {
            Arch::new().dispatch(Backward::<R> {
                inputs: [q, k, v, out, grad].map(|heads| heads.head(head)),
                sums: &sums[head * queries..][..queries],
                shape: [queries, keys, dim],
                causal,
                dq,
                dk,
                dv,
            });
        });
    all
}

struct Backward<'a, const R: usize> {
    inputs: [Rows<'a>; 5],
    sums: &'a [f32],
    shape: [usize; 3],
    causal: bool,
    dq: Vec<&'a mut [f32]>,
    dk: Vec<&'a mut [f32]>,
    dv: Vec<&'a mut [f32]>,
}

impl<const R: usize> WithSimd for Backward<'_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            inputs: [q, k, v, out, grad],
            sums,
            shape: [queries, keys, dim],
            causal,
            mut dq,
            mut dk,
            mut dv,
        } = self;
        let lanes = S::F32_LANES;
        let width = 2 * lanes;
        let scale = 1.0 / (dim as f32).sqrt();
        let log_scale = std::f32::consts::LOG2_E * scale;
        let padded = dim.next_multiple_of(lanes);
        let strips = dim.div_ceil(R) * R;
        let tall = queries.next_multiple_of(STRIP);

        // Of each query: the logarithm of its sum, and Σ gradient · output.
        let mut sum_of = vec![f32::MAX; tall];
        sum_of[..queries].copy_from_slice(sums);
        let mut inner = vec![0f32; tall];
        for (row, inner) in inner.iter_mut().take(queries).enumerate() {
            *inner = out
                .row(row, dim)
                .iter()
                .zip(grad.row(row, dim))
                .map(|(a, b)| a * b)
                .sum();
        }

        let block = (KEY_BLOCK / (2 * dim + padded + 2 * strips) / width * width).max(width);
        let block = block.min(keys.next_multiple_of(width));
        // Queries that are packed at once: where the keys are one block, those of one tile.
        let all_queries = block < keys;
        let held = if all_queries { tall } else { QUERIES.min(tall) };
        let mut q_packed = PackedTwice::<R>::new(held, dim);
        let mut grad_packed = PackedTwice::<R>::new(held, dim);
        let mut dq_padded = Buffer::zeros(held * padded);
        if all_queries {
            q_packed.pack(q, 0, queries);
            grad_packed.pack(grad, 0, queries);
        }
        let mut k_lanes = Buffer::scratch(block * dim);
        let mut v_lanes = Buffer::scratch(block * dim);
        let mut k_padded = Buffer::scratch(block * padded);
        let mut dk_lanes = Buffer::scratch(block * strips);
        let mut dv_lanes = Buffer::scratch(block * strips);
        let mut lines = Buffer::scratch(width * dim);
        let mut weights = Buffer::scratch(QUERIES * width);
        let mut slopes = Buffer::scratch(QUERIES * width);

        for first in (0..keys).step_by(block) {
            let tiles = block.min(keys - first).div_ceil(width);
            for tile in 0..tiles {
                let key = first + tile * width;
                let wide = width.min(keys - key);
                for (matrix, out) in [(k, k_lanes.write()), (v, v_lanes.write())] {
                    let out = &mut out[tile * width * dim..][..width * dim];
                    pack_lanes(matrix, key, wide, dim, width, 1.0, out);
                }
                // `[vectors of the head][keys][lanes]`
                let k_out = &mut k_padded.write()[tile * width * padded..][..width * padded];
                if wide < width || padded > dim {
                    k_out.fill(0.0);
                }
                for lane in 0..wide {
                    let (whole, rest) = S::as_simd_f32s(k.row(key + lane, dim));
                    for (column, from) in whole.iter().enumerate() {
                        store::<S>(&mut k_out[(column * width + lane) * lanes..], *from);
                    }
                    if !rest.is_empty() {
                        k_out[(whole.len() * width + lane) * lanes..][..rest.len()]
                            .copy_from_slice(rest);
                    }
                }
            }
            dk_lanes.write().fill(0.0);
            dv_lanes.write().fill(0.0);
            for query in (0..tall).step_by(QUERIES) {
                let here = QUERIES.min(tall - query);
                let base = if all_queries { query } else { 0 };
                if !all_queries {
                    let count = here.min(queries - query);
                    q_packed.pack(q, query, count);
                    grad_packed.pack(grad, query, count);
                    dq_padded.write().fill(0.0);
                }
                for tile in 0..tiles {
                    let key = first + tile * width;
                    let wide = width.min(keys - key);
                    // Strips of queries that see none of these keys are left out.
                    let from = if causal {
                        key.saturating_sub(query) / STRIP * STRIP
                    } else {
                        0
                    };
                    if from >= here {
                        continue;
                    }
                    let of_tile = tile * width * dim;
                    let k_panel = vectors::<S, 2>(&k_lanes.read()[of_tile..][..width * dim]);
                    let v_panel = vectors::<S, 2>(&v_lanes.read()[of_tile..][..width * dim]);
                    for row in (from..here).step_by(STRIP) {
                        let scores = multiply_strip(
                            simd,
                            q_packed.strip_of_rows(base + row),
                            k_panel,
                            zero_tile(simd),
                        );
                        let part = row * width..(row + STRIP) * width;
                        let out = vectors_mut::<S, 2>(&mut weights.write()[part.clone()]);
                        for i in 0..STRIP {
                            let sum = simd.splat_f32s(sum_of[query + row + i]);
                            for half in 0..2 {
                                let score =
                                    simd.mul_f32s(scores[i][half], simd.splat_f32s(log_scale));
                                out[i][half] = exp2(simd, simd.sub_f32s(score, sum));
                            }
                        }
                        if wide < width {
                            for row in weights.write()[part.clone()].chunks_exact_mut(width) {
                                row[wide..].fill(0.0);
                            }
                        }
                        if causal {
                            for (i, out) in weights.write()[part.clone()]
                                .chunks_exact_mut(width)
                                .enumerate()
                            {
                                let visible = (query + row + i + 1).saturating_sub(key).min(width);
                                out[visible..].fill(0.0);
                            }
                        }
                        let pulls = multiply_strip(
                            simd,
                            grad_packed.strip_of_rows(base + row),
                            v_panel,
                            zero_tile(simd),
                        );
                        let weights = vectors::<S, 2>(&weights.read()[part.clone()]);
                        let out = vectors_mut::<S, 2>(&mut slopes.write()[part]);
                        for i in 0..STRIP {
                            let inner = simd.splat_f32s(inner[query + row + i]);
                            for half in 0..2 {
                                let pull = simd.mul_f32s(
                                    simd.sub_f32s(pulls[i][half], inner),
                                    simd.splat_f32s(scale),
                                );
                                out[i][half] = simd.mul_f32s(weights[i][half], pull);
                            }
                        }
                    }
                    // Gradients of values and keys: rows are channels, lanes are keys.
                    for (packed, sums, panel) in [
                        (&grad_packed, &mut dv_lanes, weights.read()),
                        (&q_packed, &mut dk_lanes, slopes.read()),
                    ] {
                        let panel = vectors::<S, 2>(&panel[from * width..here * width]);
                        let sums = &mut sums.write()[tile * width * strips..][..width * strips];
                        for (strip, out) in
                            vectors_mut::<S, 2>(sums).chunks_exact_mut(R).enumerate()
                        {
                            let mut sums = zero_tile::<S, R, 2>(simd);
                            for (sums, out) in sums.iter_mut().zip(out.iter()) {
                                *sums = *out;
                            }
                            let a = packed.strip_of_columns(strip, base + from, here - from);
                            let sums = multiply_strip(simd, a, panel, sums);
                            for (out, sums) in out.iter_mut().zip(sums) {
                                *out = sums;
                            }
                        }
                    }
                    // Gradient of the queries: rows are queries, lanes are channels.
                    let k_rows = &k_padded.read()[tile * width * padded..][..width * padded];
                    for row in (from..here).step_by(STRIP) {
                        let slopes = &slopes.read()[row * width..][..STRIP * width];
                        let mut rows: [&[f32]; STRIP] = [&[]; STRIP];
                        for (row, from) in rows.iter_mut().zip(slopes.chunks_exact(width)) {
                            *row = from;
                        }
                        for (column, panel) in k_rows.chunks_exact(width * lanes).enumerate() {
                            let panel = vectors::<S, 1>(panel);
                            let mut tile = zero_tile::<S, STRIP, 1>(simd);
                            let out = dq_padded.write();
                            let at = |i: usize| (base + row + i) * padded + column * lanes;
                            for (i, tile) in tile.iter_mut().enumerate() {
                                tile[0] = vectors::<S, 1>(&out[at(i)..][..lanes])[0][0];
                            }
                            let tile = multiply_rows(simd, &rows, panel, tile);
                            for (i, tile) in tile.iter().enumerate() {
                                vectors_mut::<S, 1>(&mut out[at(i)..][..lanes])[0] = *tile;
                            }
                        }
                    }
                }
                if !all_queries {
                    let from = dq_padded.read().chunks_exact(padded);
                    for (out, from) in dq.iter_mut().skip(query).zip(from) {
                        out.copy_from_slice(&from[..dim]);
                    }
                }
            }
            for tile in 0..tiles {
                let key = first + tile * width;
                let wide = width.min(keys - key);
                for (sums, out) in [(&dk_lanes, &mut dk), (&dv_lanes, &mut dv)] {
                    let turn = Turn {
                        from: Rows {
                            data: &sums.read()[tile * width * strips..][..width * strips],
                            stride: width,
                        },
                        rows: dim,
                        columns: wide,
                        scale: 1.0,
                    };
                    turn.write(lines.write(), dim);
                    let lines = lines.read().chunks_exact(dim);
                    for (out, line) in out[key..].iter_mut().zip(lines.take(wide)) {
                        out.copy_from_slice(line);
                    }
                }
            }
        }
        if all_queries {
            for (out, from) in dq.iter_mut().zip(dq_padded.read().chunks_exact(padded)) {
                out.copy_from_slice(&from[..dim]);
            }
        }
    }
}

/// Rows of a matrix twice: in strips along the rows for the scores, in strips along the columns for the keys' gradients.
struct PackedTwice<const R: usize> {
    rows: Buffer,
    columns: Buffer,
    held: usize,
    dim: usize,
}

impl<const R: usize> PackedTwice<R> {
    /// For `held` rows, a multiple of a strip's.
    fn new(held: usize, dim: usize) -> Self {
        Self {
            rows: Buffer::scratch(held * dim),
            columns: Buffer::scratch(dim.div_ceil(R) * R * held),
            held,
            dim,
        }
    }

    /// Takes `count` rows; the last strip is filled up with zeros.
    #[inline(always)]
    fn pack(&mut self, matrix: Rows<'_>, first: usize, count: usize) {
        let Self { held, dim, .. } = *self;
        pack_rows::<STRIP>(matrix, first, count, dim, self.rows.write());
        let strips = self.columns.write().chunks_exact_mut(held * R);
        for (strip, out) in strips.enumerate() {
            let wide = R.min(dim - strip * R);
            let (some, rest) = out.split_at_mut(count * R);
            for (row, out) in pulp::as_arrays_mut::<R, _>(some).0.iter_mut().enumerate() {
                copy_strip(&matrix.row(first + row, dim)[strip * R..][..wide], out);
            }
            let filled = count.next_multiple_of(STRIP) - count;
            rest[..filled * R].fill(0.0);
        }
    }

    #[inline(always)]
    fn strip_of_rows(&self, row: usize) -> &[[f32; STRIP]] {
        pulp::as_arrays(&self.rows.read()[row * self.dim..][..STRIP * self.dim]).0
    }

    #[inline(always)]
    fn strip_of_columns(&self, strip: usize, row: usize, count: usize) -> &[[f32; R]] {
        pulp::as_arrays(&self.columns.read()[(strip * self.held + row) * R..][..count * R]).0
    }
}
