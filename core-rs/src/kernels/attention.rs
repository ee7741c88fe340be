//! Causal attention over a tree of token segments, forward and backward, without ever making a full score matrix.
//!
//! A row sees the keys of its ancestors' segments and those before it in its own. All segments of a path are visited in
//! order of absolute position and every output element is one chain of additions over it, so a result depends neither on
//! how a path is cut into segments nor on how many rows are computed together.
//! N rows · L keys a row can see · D head width · g query heads per key/value head.
use super::Kernels;
use super::gemm::{OutAt, Packed, Right, Threads, View, gemm_at};
use super::simd;
use super::slices::{Slice, read, uninitialised, write};
use crate::error::Result;
use candle_core::{D, DType, Tensor};
use rayon::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug)]
pub struct HeadShape {
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
}

impl HeadShape {
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
    fn scale(&self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }
    /// Rows of a query block: with its group of heads about 96 rows, one block of the product kernel.
    fn block_rows(&self) -> usize {
        (96 / self.group()).max(1)
    }
}

/// A segment of the training tree: keys `start..start + len`, behind those of its ancestors' segments (root first). Keys
/// may start with some that were computed before; queries are the rest of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub start: usize,
    pub len: usize,
    pub ancestors: Vec<(usize, usize)>,
}

impl Node {
    fn depth(&self) -> usize {
        self.ancestors.iter().map(|(_, len)| len).sum()
    }
}

/// Part of a live sequence's cache: keys `[kv_heads, D, capacity]`, values `[kv_heads, capacity, D]`, `len` of them in use.
#[derive(Clone)]
pub struct CachedSpan {
    pub keys: Tensor,
    pub values: Tensor,
    pub len: usize,
}

/// Keys and values of one head over one span: `k` as columns (D × len), `v` as rows (len × D).
#[derive(Clone, Copy)]
struct Keys<'a> {
    k: Right<'a>,
    v: View<'a>,
    len: usize,
}

/// Work arrays of one thread.
#[derive(Default)]
struct Scratch {
    q: Vec<f32>,
    scores: Vec<f32>,
    out: Vec<f32>,
    lse: Vec<f32>,
    sums: Vec<f32>,
    d_out: Vec<f32>,
    d_scores: Vec<f32>,
    dq: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// A block of queries: g heads × `rows` rows, of which row r sees the first `base + r + 1` keys.
#[derive(Clone, Copy)]
struct QueryBlock {
    group: usize,
    rows: usize,
    base: usize,
    dim: usize,
    scale: f32,
}

impl QueryBlock {
    fn keys(&self) -> usize {
        self.base + self.rows
    }

    /// scores ← Q·Kᵀ, span by span.
    fn scores(&self, q: &[f32], spans: &[Keys], scores: &mut [f32]) {
        let (stacked, keys) = (self.group * self.rows, self.keys());
        let mut column = 0;
        for span in spans {
            let out = OutAt { data: scores[column..].as_mut_ptr(), row: keys, accumulate: false };
            // SAFETY: columns column..column + span.len of a stacked × keys array that this thread owns.
            unsafe { gemm_at(stacked, span.len, self.dim, View::rows(q, self.dim), span.k, out, Threads::One) };
            column += span.len;
        }
        assert_eq!(column, keys, "spans and visible keys differ");
    }

    /// out ← weights·V, span by span, for weights `[g · rows, keys]`.
    fn weighted_values(&self, weights: &[f32], spans: &[Keys], out: &mut [f32]) {
        let (stacked, keys) = (self.group * self.rows, self.keys());
        let mut column = 0;
        for span in spans {
            let target = OutAt { data: out.as_mut_ptr(), row: self.dim, accumulate: column > 0 };
            let left = View { data: &weights[column..], row: keys, column: 1 };
            // SAFETY: out is stacked × dim and owned by this thread.
            unsafe { gemm_at(stacked, self.dim, span.len, left, Right::View(span.v), target, Threads::One) };
            column += span.len;
        }
    }

    /// Attends: fills `scratch.out` `[g · rows, D]` and `scratch.lse` from `scratch.q`.
    fn attend(&self, scratch: &mut Scratch, spans: &[Keys]) {
        let (stacked, keys) = (self.group * self.rows, self.keys());
        let scores = sized(&mut scratch.scores, stacked * keys);
        self.scores(&scratch.q, spans, scores);
        let lse = sized(&mut scratch.lse, stacked);
        let out = sized(&mut scratch.out, stacked * self.dim);
        let sums = sized(&mut scratch.sums, stacked);
        for (i, row) in scores.chunks_exact_mut(keys).enumerate() {
            let visible = self.base + i % self.rows + 1;
            let shift = simd::max(&row[..visible]) * self.scale;
            sums[i] = simd::exp_shifted(&mut row[..visible], self.scale, shift);
            row[visible..].fill(0.0);
            lse[i] = shift + sums[i].ln();
        }
        self.weighted_values(scores, spans, out);
        for (row, sum) in out.chunks_exact_mut(self.dim).zip(sums.iter()) {
            simd::scale(row, 1.0 / *sum);
        }
    }
}

/// One block of a node for one key/value head.
struct Task<'a> {
    node: &'a Node,
    /// Keys that have no query here.
    before: usize,
    first: usize,
    rows: usize,
    kv_head: usize,
}

impl<'a> Task<'a> {
    fn of_nodes(nodes: &'a [Node], before: usize, shape: HeadShape, kv_head: usize) -> impl Iterator<Item = Task<'a>> {
        nodes.iter().flat_map(move |node| {
            (0..node.len).step_by(shape.block_rows()).map(move |first| Task {
                node,
                before,
                first,
                rows: shape.block_rows().min(node.len - first),
                kv_head,
            })
        })
    }
    fn query(&self, shape: HeadShape) -> QueryBlock {
        QueryBlock {
            group: shape.group(),
            rows: self.rows,
            base: self.node.depth() + self.first,
            dim: shape.dim,
            scale: shape.scale(),
        }
    }
    /// Among the queries.
    fn first_row(&self) -> usize {
        self.node.start - self.before + self.first
    }
    /// (first row, rows) of each segment whose keys this block sees.
    fn segments(&self) -> impl Iterator<Item = (usize, usize)> {
        self.node.ancestors.iter().copied().chain([(self.node.start, self.first + self.rows)])
    }
    /// Keys as packed columns with values as rows; in backward also the reverse.
    fn spans<'b>(&self, packed_columns: &'b PackedColumns, rows: &'b [f32], shape: HeadShape) -> Vec<Keys<'b>> {
        let width = shape.kv_heads * shape.dim;
        let of = |(start, len)| Keys {
            k: Right::Packed(packed_columns.segment(start, self.kv_head)),
            v: View { data: &rows[start * width + self.kv_head * shape.dim..], row: width, column: 1 },
            len,
        };
        self.segments().map(of).collect()
    }
}

/// Each segment's rows of one key/value head, as the columns (D × len) of a product: packed once for all query blocks.
struct PackedColumns {
    /// First rows of the segments, rising.
    starts: Vec<usize>,
    kv_heads: usize,
    packed: Vec<Packed>,
}

impl PackedColumns {
    fn new(x: &[f32], nodes: &[Node], shape: HeadShape) -> Self {
        let width = shape.kv_heads * shape.dim;
        let own = nodes.iter().map(|node| (node.start, node.len));
        let segments: BTreeMap<usize, usize> =
            nodes.iter().flat_map(|node| node.ancestors.iter().copied()).chain(own).collect();
        let segments: Vec<(usize, usize)> = segments.into_iter().collect();
        let pack = |i: usize| {
            let ((start, len), kv_head) = (segments[i / shape.kv_heads], i % shape.kv_heads);
            let view = View { data: &x[start * width + kv_head * shape.dim..], row: width, column: 1 };
            Packed::new(Right::View(view.transposed()), shape.dim, len, Threads::One)
        };
        let packed = (0..segments.len() * shape.kv_heads).into_par_iter().map(pack).collect();
        Self { starts: segments.iter().map(|(start, _)| *start).collect(), kv_heads: shape.kv_heads, packed }
    }

    fn segment(&self, start: usize, kv_head: usize) -> &Packed {
        let segment = self.starts.binary_search(&start).expect("every segment was packed");
        &self.packed[segment * self.kv_heads + kv_head]
    }
}

/// Copies g heads of `rows` rows from `[N, heads · D]` into `[g · rows, D]`.
fn stack_heads(x: &[f32], first_row: usize, rows: usize, kv_head: usize, shape: HeadShape, out: &mut [f32]) {
    let width = shape.heads * shape.dim;
    for (i, target) in out.chunks_exact_mut(shape.dim).enumerate() {
        let (head, row) = (kv_head * shape.group() + i / rows, first_row + i % rows);
        target.copy_from_slice(&x[row * width + head * shape.dim..][..shape.dim]);
    }
}

/// Where several threads write disjoint rows or columns of one array.
#[derive(Clone, Copy)]
struct Shared(*mut f32);
// SAFETY: every use writes elements that belong to its own task.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// # Safety
    /// `at..at + values.len()` must lie inside the array and belong to the calling task.
    unsafe fn store(self, at: usize, values: &[f32]) {
        // SAFETY: the caller's contract.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.0.add(at), values.len()) }
    }
    /// The reverse of `stack_heads`.
    ///
    /// # Safety
    /// The array is `[N, heads · D]`, and these rows of these heads belong to the calling task.
    unsafe fn unstack_heads(self, values: &[f32], first_row: usize, rows: usize, kv_head: usize, shape: HeadShape) {
        for (i, source) in values.chunks_exact(shape.dim).enumerate() {
            let (head, row) = (kv_head * shape.group() + i / rows, first_row + i % rows);
            // SAFETY: the caller's contract.
            unsafe { self.store((row * shape.heads + head) * shape.dim, source) };
        }
    }
}

/// softmax(Q·Kᵀ / √D)·V along the tree. q `[N, heads · D]`, k and v `[B + N, kv_heads · D]`, of which the first B have no
/// query here; returns the output `[N, heads · D]` and each row's log-sum-exp `[N, heads]`.
pub fn attention(
    kernels: Kernels,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    nodes: &[Node],
    shape: HeadShape,
) -> Result<(Tensor, Tensor)> {
    if kernels == Kernels::Plain {
        return plain::attention(q, k, v, nodes, shape);
    }
    let (rows, before) = (q.dim(0)?, k.dim(0)? - q.dim(0)?);
    let (out, lse) = (uninitialised((rows, shape.heads * shape.dim))?, uninitialised((rows, shape.heads))?);
    let (q, k, v) = (read(q)?, read(k)?, read(v)?);
    let (q, v): (&[f32], &[f32]) = (&q, &v);
    let packed_k = PackedColumns::new(&k, nodes, shape);
    let tasks: Vec<Task> =
        (0..shape.kv_heads).flat_map(|kv_head| Task::of_nodes(nodes, before, shape, kv_head)).collect();
    write(&out, |out| {
        write(&lse, |lse| {
            let (out, lse) = (Shared(out.as_mut_ptr()), Shared(lse.as_mut_ptr()));
            tasks.par_iter().for_each(|task| {
                SCRATCH.with_borrow_mut(|scratch| {
                    let query = task.query(shape);
                    stack_heads(
                        q,
                        task.first_row(),
                        task.rows,
                        task.kv_head,
                        shape,
                        sized(&mut scratch.q, query.group * task.rows * shape.dim),
                    );
                    query.attend(scratch, &task.spans(&packed_k, v, shape));
                    let stacked = query.group * task.rows;
                    // SAFETY: a task owns its rows of its heads.
                    unsafe {
                        out.unstack_heads(
                            &scratch.out[..stacked * shape.dim],
                            task.first_row(),
                            task.rows,
                            task.kv_head,
                            shape,
                        );
                        lse.unstack_heads(
                            &scratch.lse[..stacked],
                            task.first_row(),
                            task.rows,
                            task.kv_head,
                            HeadShape { dim: 1, ..shape },
                        );
                    }
                });
            });
        })
    })??;
    Ok((out, lse))
}

/// What `attention` read and returned, for its backward.
pub struct Attended<'a> {
    pub q: &'a Tensor,
    pub k: &'a Tensor,
    pub v: &'a Tensor,
    pub out: &'a Tensor,
    pub lse: &'a Tensor,
}

/// (dq, dk, dv) from d_out. Probabilities are made again from the log-sum-exp, block by block (Dao et al. 2022):
/// P = exp(S/√D − lse), dV += Pᵀ·dO, dS = P·(dO·Vᵀ − rowsum(dO·O)), dQ += dS·K/√D, dK += dSᵀ·Q/√D.
pub fn attention_backward(
    kernels: Kernels,
    d_out: &Tensor,
    saved: &Attended,
    nodes: &[Node],
    shape: HeadShape,
) -> Result<(Tensor, Tensor, Tensor)> {
    if kernels == Kernels::Plain {
        return plain::attention_backward(d_out, saved, nodes, shape);
    }
    let (rows, keys) = (saved.q.dim(0)?, saved.k.dim(0)?);
    let width = shape.kv_heads * shape.dim;
    let dq = uninitialised((rows, shape.heads * shape.dim))?;
    let (dk, dv) = (
        Tensor::zeros((keys, width), DType::F32, d_out.device())?,
        Tensor::zeros((keys, width), DType::F32, d_out.device())?,
    );
    let (q, k, v, o, lse, d_out) =
        (read(saved.q)?, read(saved.k)?, read(saved.v)?, read(saved.out)?, read(saved.lse)?, read(d_out)?);
    let (packed_k, packed_v) = (PackedColumns::new(&k, nodes, shape), PackedColumns::new(&v, nodes, shape));
    let memory =
        Memory { q: &q, k: &k, v: &v, packed_k: &packed_k, packed_v: &packed_v, o: &o, lse: &lse, d_out: &d_out };
    write(&dq, |dq| {
        write(&dk, |dk| {
            write(&dv, |dv| {
                let targets =
                    Targets { dq: Shared(dq.as_mut_ptr()), dk: Shared(dk.as_mut_ptr()), dv: Shared(dv.as_mut_ptr()) };
                // one task per key/value head: only so do two tasks never add to the same key
                (0..shape.kv_heads).into_par_iter().for_each(|kv_head| {
                    for task in Task::of_nodes(nodes, keys - rows, shape, kv_head) {
                        SCRATCH.with_borrow_mut(|scratch| block_backward(&task, &memory, targets, shape, scratch));
                    }
                });
            })
        })
    })???;
    Ok((dq, dk, dv))
}

struct Memory<'a> {
    q: &'a Slice<'a>,
    k: &'a Slice<'a>,
    v: &'a Slice<'a>,
    packed_k: &'a PackedColumns,
    packed_v: &'a PackedColumns,
    o: &'a Slice<'a>,
    lse: &'a Slice<'a>,
    d_out: &'a Slice<'a>,
}

#[derive(Clone, Copy)]
struct Targets {
    dq: Shared,
    dk: Shared,
    dv: Shared,
}

fn block_backward(task: &Task, memory: &Memory, targets: Targets, shape: HeadShape, scratch: &mut Scratch) {
    let query = task.query(shape);
    let (stacked, keys, dim) = (query.group * task.rows, query.keys(), shape.dim);
    let stack = |x: &[f32], shape: HeadShape, out: &mut Vec<f32>| {
        stack_heads(x, task.first_row(), task.rows, task.kv_head, shape, sized(out, stacked * shape.dim))
    };
    stack(memory.q, shape, &mut scratch.q);
    stack(memory.o, shape, &mut scratch.out);
    stack(memory.d_out, shape, &mut scratch.d_out);
    stack(memory.lse, HeadShape { dim: 1, ..shape }, &mut scratch.lse);
    let spans = task.spans(memory.packed_k, memory.v, shape);

    let weights = sized(&mut scratch.scores, stacked * keys);
    query.scores(&scratch.q, &spans, weights);
    // dP = dO·Vᵀ is Q·Kᵀ with dO for Q and V for K
    let swapped = task.spans(memory.packed_v, memory.k, shape);
    let d_scores = sized(&mut scratch.d_scores, stacked * keys);
    query.scores(&scratch.d_out, &swapped, d_scores);
    for i in 0..stacked {
        let visible = query.base + i % task.rows + 1;
        let (weights, d_scores) = (&mut weights[i * keys..][..keys], &mut d_scores[i * keys..][..keys]);
        simd::exp_shifted(&mut weights[..visible], query.scale, scratch.lse[i]);
        weights[visible..].fill(0.0);
        d_scores[visible..].fill(0.0);
        let mean = simd::dot(&scratch.d_out[i * dim..][..dim], &scratch.out[i * dim..][..dim]);
        score_gradient(&mut d_scores[..visible], &weights[..visible], mean, query.scale);
    }

    let dq = sized(&mut scratch.dq, stacked * dim);
    query.weighted_values(d_scores, &swapped, dq);
    // SAFETY: a task owns its rows of its heads.
    unsafe { targets.dq.unstack_heads(dq, task.first_row(), task.rows, task.kv_head, shape) };
    let width = shape.kv_heads * dim;
    let mut column = 0;
    for (start, len) in task.segments() {
        let at = start * width + task.kv_head * dim;
        for (left, right, target) in [(&*d_scores, &scratch.q, targets.dk), (&*weights, &scratch.d_out, targets.dv)] {
            let left = View { data: &left[column..], row: keys, column: 1 }.transposed();
            // SAFETY: within dk or dv; this head's columns belong to this thread.
            unsafe {
                let out = OutAt { data: target.0.add(at), row: width, accumulate: true };
                gemm_at(len, dim, stacked, left, Right::View(View::rows(right, dim)), out, Threads::One);
            }
        }
        column += len;
    }
}

simd::simd! {
    /// d_i ← p_i · (d_i − mean) · scale
    pub fn score_gradient(d: &mut [f32], p: &[f32], mean: f32, scale: f32) {
        for (d, p) in d.iter_mut().zip(p) { *d = p * (*d - mean) * scale; }
    }
}

/// Rows `start..start + len` of a sampling step, the newest tokens of a sequence whose cache `spans` hold (these included).
pub struct CachedRows {
    pub start: usize,
    pub len: usize,
    pub spans: Vec<CachedSpan>,
}

/// `attention` against caches; gives the same bits. Sequences that share a span meet its keys in one product (cascade
/// attention, Juravsky et al. 2024): rows are independent chains, so stacking them changes no bit.
pub fn cached_attention(kernels: Kernels, q: &Tensor, segments: &[CachedRows], shape: HeadShape) -> Result<Tensor> {
    if kernels == Kernels::Plain {
        return plain::cached_attention(q, segments, shape);
    }
    let out = uninitialised(q.shape())?;
    let q = read(q)?;
    let caches = segments.iter().map(OpenSpan::of).collect::<Result<Vec<_>>>()?;
    let mut entries: Vec<Entry> = segments
        .iter()
        .zip(&caches)
        .flat_map(|(segment, cache)| {
            (0..segment.len).step_by(shape.block_rows()).map(move |first| Entry::new(segment, cache, first, shape))
        })
        .collect();
    entries.sort_by(|a, b| a.path().cmp(b.path()));
    let blocks = stacks(&entries, shape);
    let tasks: Vec<(&[Entry], usize)> =
        blocks.iter().flat_map(|block| (0..shape.kv_heads).map(move |kv_head| (*block, kv_head))).collect();
    write(&out, |out| {
        let out = Shared(out.as_mut_ptr());
        tasks.par_iter().for_each(|(block, kv_head)| {
            SCRATCH
                .with_borrow_mut(|scratch| Stack { entries: block, kv_head: *kv_head, shape }.attend(&q, scratch, out))
        });
    })?;
    Ok(out)
}

/// A span with its memory at hand.
struct OpenSpan<'a> {
    node: candle_core::TensorId,
    keys: Slice<'a>,
    values: Slice<'a>,
    capacity: usize,
    len: usize,
}

impl<'a> OpenSpan<'a> {
    fn of(segment: &'a CachedRows) -> Result<Vec<Self>> {
        let open = |span: &'a CachedSpan| {
            let (keys, values) = (read(&span.keys)?, read(&span.values)?);
            Ok(Self { node: span.keys.id(), keys, values, capacity: span.keys.dim(D::Minus1)?, len: span.len })
        };
        segment.spans.iter().map(open).collect()
    }
}

/// A block of one segment's rows, and the part of each span that they see.
struct Entry<'a> {
    first_row: usize,
    rows: usize,
    /// Keys before the first row's own.
    base: usize,
    spans: Vec<(&'a OpenSpan<'a>, usize)>,
}

impl<'a> Entry<'a> {
    fn new(segment: &CachedRows, cache: &'a [OpenSpan<'a>], first: usize, shape: HeadShape) -> Self {
        let rows = shape.block_rows().min(segment.len - first);
        let total: usize = segment.spans.iter().map(|span| span.len).sum();
        let base = total - segment.len + first;
        let mut left = base + rows;
        let visible = |span: &'a OpenSpan<'a>| {
            let len = span.len.min(left);
            left -= len;
            (len > 0).then_some((span, len))
        };
        Self { first_row: segment.start + first, rows, base, spans: cache.iter().filter_map(visible).collect() }
    }

    /// Entries that share spans are neighbours in the order of their paths.
    fn path(&self) -> impl Iterator<Item = usize> {
        self.spans.iter().map(|(span, _)| span.keys.as_ptr() as usize)
    }

    fn sees_as(&self, other: &Self, depth: usize) -> bool {
        match (self.spans.get(depth), other.spans.get(depth)) {
            (Some((a, len)), Some((b, other_len))) => a.node == b.node && len == other_len,
            _ => false,
        }
    }

    fn keys(&self) -> usize {
        self.base + self.rows
    }
}

/// Entries in stacks of about one block of the product kernel, fewer rows where there are threads to feed.
fn stacks<'b, 'a>(entries: &'b [Entry<'a>], shape: HeadShape) -> Vec<&'b [Entry<'a>]> {
    let rows: usize = entries.iter().map(|entry| entry.rows).sum();
    let rows_max = (rows * shape.kv_heads).div_ceil(2 * rayon::current_num_threads()).clamp(1, shape.block_rows());
    let mut blocks = Vec::new();
    let mut start = 0;
    while start < entries.len() {
        let mut end = start + 1;
        let mut stacked = entries[start].rows;
        while end < entries.len() && stacked + entries[end].rows <= rows_max {
            stacked += entries[end].rows;
            end += 1;
        }
        blocks.push(&entries[start..end]);
        start = end;
    }
    blocks
}

/// Entries whose queries of one key/value head lie one under the other: g heads × rows of the first, then the next.
struct Stack<'b, 'a> {
    entries: &'b [Entry<'a>],
    kv_head: usize,
    shape: HeadShape,
}

impl Stack<'_, '_> {
    fn attend(&self, q: &[f32], scratch: &mut Scratch, out: Shared) {
        let (group, dim, scale) = (self.shape.group(), self.shape.dim, self.shape.scale());
        let keys = self.entries.iter().map(Entry::keys).max().unwrap_or(0);
        let stacked = group * self.entries.iter().map(|entry| entry.rows).sum::<usize>();
        let queries = sized(&mut scratch.q, stacked * dim);
        let mut at = 0;
        for Entry { first_row, rows, .. } in self.entries {
            stack_heads(
                q,
                *first_row,
                *rows,
                self.kv_head,
                self.shape,
                &mut queries[at * dim..(at + group * rows) * dim],
            );
            at += group * rows;
        }
        let scores = sized(&mut scratch.scores, stacked * keys);
        self.for_each_span(|rows, column, span, len| {
            let at = self.kv_head * dim * span.capacity;
            let k = Right::View(View { data: &span.keys[at..], row: span.capacity, column: 1 });
            let left = View::rows(&queries[rows.start * dim..], dim);
            let target =
                OutAt { data: scores[rows.start * keys + column..].as_mut_ptr(), row: keys, accumulate: false };
            // SAFETY: these rows and columns lie within the stacked × keys scores, which this thread owns.
            unsafe { gemm_at(rows.len(), len, dim, left, k, target, Threads::One) };
        });
        let sums = sized(&mut scratch.sums, stacked);
        let mut row = 0;
        for entry in self.entries {
            for i in 0..group * entry.rows {
                let visible = entry.base + i % entry.rows + 1;
                let scores = &mut scores[(row + i) * keys..][..entry.keys()];
                let shift = simd::max(&scores[..visible]) * scale;
                sums[row + i] = simd::exp_shifted(&mut scores[..visible], scale, shift);
                scores[visible..].fill(0.0);
            }
            row += group * entry.rows;
        }
        let values = sized(&mut scratch.out, stacked * dim);
        self.for_each_span(|rows, column, span, len| {
            let v = Right::View(View::rows(&span.values[self.kv_head * dim * span.capacity..], dim));
            let left = View { data: &scores[rows.start * keys + column..], row: keys, column: 1 };
            let target = OutAt { data: values[rows.start * dim..].as_mut_ptr(), row: dim, accumulate: column > 0 };
            // SAFETY: these rows lie within the stacked × dim values, which this thread owns.
            unsafe { gemm_at(rows.len(), dim, len, left, v, target, Threads::One) };
        });
        for (row, sum) in values.chunks_exact_mut(dim).zip(sums.iter()) {
            simd::scale(row, 1.0 / *sum);
        }
        let mut at = 0;
        for Entry { first_row, rows, .. } in self.entries {
            let own = &values[at * dim..(at + group * rows) * dim];
            // SAFETY: an entry owns its rows of its heads.
            unsafe { out.unstack_heads(own, *first_row, *rows, self.kv_head, self.shape) };
            at += group * rows;
        }
    }

    /// Every span once for each run of entries that see it: (stacked rows, first key's column, span, keys seen).
    fn for_each_span(&self, mut visit: impl FnMut(std::ops::Range<usize>, usize, &OpenSpan, usize)) {
        let group = self.shape.group();
        let deepest = self.entries.iter().map(|entry| entry.spans.len()).max().unwrap_or(0);
        for depth in 0..deepest {
            let (mut first, mut row) = (0, 0);
            while first < self.entries.len() {
                let head = &self.entries[first];
                let run = self.entries[first..].iter().take_while(|entry| entry.sees_as(head, depth)).count().max(1);
                let rows: usize = self.entries[first..first + run].iter().map(|entry| group * entry.rows).sum();
                if let Some((span, len)) = head.spans.get(depth) {
                    let column = head.spans[..depth].iter().map(|(_, len)| len).sum();
                    visit(row..row + rows, column, span, *len);
                }
                (first, row) = (first + run, row + rows);
            }
        }
    }
}

/// The same in candle's operations.
mod plain {
    use super::*;

    /// `[L, kv_heads · D]` → `[heads, L, D]`, each key/value head repeated for its group.
    fn per_head(x: &Tensor, shape: HeadShape) -> Result<Tensor> {
        let keys = x.dim(0)?;
        let x = x.reshape((keys, shape.kv_heads, 1, shape.dim))?.expand((
            keys,
            shape.kv_heads,
            shape.group(),
            shape.dim,
        ))?;
        Ok(x.reshape((keys, shape.heads, shape.dim))?.transpose(0, 1)?.contiguous()?)
    }

    fn by_head(x: &Tensor, heads: usize, dim: usize) -> Result<Tensor> {
        Ok(x.reshape((x.dim(0)?, heads, dim))?.transpose(0, 1)?.contiguous()?)
    }

    fn by_row(x: &Tensor) -> Result<Tensor> {
        let (heads, rows, dim) = x.dims3()?;
        Ok(x.transpose(0, 1)?.contiguous()?.reshape((rows, heads * dim))?)
    }

    fn path(x: &Tensor, node: &Node) -> Result<Tensor> {
        let parts = node.ancestors.iter().copied().chain([(node.start, node.len)]);
        Ok(Tensor::cat(
            &parts.map(|(start, len)| x.narrow(0, start, len)).collect::<candle_core::Result<Vec<_>>>()?,
            0,
        )?)
    }

    /// −inf where row r must not see key c.
    fn mask(rows: usize, base: usize, like: &Tensor) -> Result<Tensor> {
        let keys = base + rows;
        let values: Vec<f32> =
            (0..rows * keys).map(|i| if i % keys > base + i / keys { f32::NEG_INFINITY } else { 0.0 }).collect();
        Ok(Tensor::from_vec(values, (1, rows, keys), like.device())?)
    }

    /// Probabilities `[heads, rows, L]` and log-sum-exp `[heads, rows, 1]`.
    fn softmax(q: &Tensor, k: &Tensor, base: usize, shape: HeadShape) -> Result<(Tensor, Tensor)> {
        let scores = (q.matmul(&k.transpose(1, 2)?.contiguous()?)? * shape.scale() as f64)?;
        let scores = scores.broadcast_add(&mask(q.dim(1)?, base, q)?)?;
        let shift = scores.max_keepdim(D::Minus1)?;
        let weights = scores.broadcast_sub(&shift)?.exp()?;
        let sum = weights.sum_keepdim(D::Minus1)?;
        Ok((weights.broadcast_div(&sum)?, (shift + sum.log()?)?))
    }

    pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, nodes: &[Node], shape: HeadShape) -> Result<(Tensor, Tensor)> {
        let (mut outs, mut lses) = (Vec::new(), Vec::new());
        let before = k.dim(0)? - q.dim(0)?;
        for node in nodes {
            let q = by_head(&q.narrow(0, node.start - before, node.len)?, shape.heads, shape.dim)?;
            let (k, v) = (per_head(&path(k, node)?, shape)?, per_head(&path(v, node)?, shape)?);
            let (weights, lse) = softmax(&q, &k, node.depth(), shape)?;
            outs.push(by_row(&weights.matmul(&v)?)?);
            lses.push(by_row(&lse)?);
        }
        Ok((Tensor::cat(&outs, 0)?, Tensor::cat(&lses, 0)?))
    }

    pub fn attention_backward(
        d_out: &Tensor,
        saved: &Attended,
        nodes: &[Node],
        shape: HeadShape,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let keys = saved.k.dim(0)?;
        let before = keys - saved.q.dim(0)?;
        let zeros = Tensor::zeros((keys, shape.kv_heads * shape.dim), DType::F32, d_out.device())?;
        let (mut dqs, mut dk, mut dv) = (Vec::new(), zeros.clone(), zeros);
        for node in nodes {
            let part = |x: &Tensor| by_head(&x.narrow(0, node.start - before, node.len)?, shape.heads, shape.dim);
            let (q, d_out) = (part(saved.q)?, part(d_out)?);
            let (k, v) = (per_head(&path(saved.k, node)?, shape)?, per_head(&path(saved.v, node)?, shape)?);
            let (weights, _) = softmax(&q, &k, node.depth(), shape)?;
            let d_weights = d_out.matmul(&v.transpose(1, 2)?.contiguous()?)?;
            let mean = (&d_weights * &weights)?.sum_keepdim(D::Minus1)?;
            let d_scores = ((weights.clone() * d_weights.broadcast_sub(&mean)?)? * shape.scale() as f64)?;
            dqs.push(by_row(&d_scores.matmul(&k)?)?);
            let ids: Vec<u32> = node
                .ancestors
                .iter()
                .copied()
                .chain([(node.start, node.len)])
                .flat_map(|(start, len)| start as u32..(start + len) as u32)
                .collect();
            let ids = Tensor::new(ids, d_out.device())?;
            // the group's query heads add to their one key/value head
            let fold = |x: Tensor| -> Result<Tensor> {
                let keys = x.dim(1)?;
                by_row(&x.reshape((shape.kv_heads, shape.group(), keys, shape.dim))?.sum(1)?)
            };
            dk = dk.index_add(&ids, &fold(d_scores.transpose(1, 2)?.contiguous()?.matmul(&q)?)?, 0)?;
            dv = dv.index_add(&ids, &fold(weights.transpose(1, 2)?.contiguous()?.matmul(&d_out)?)?, 0)?;
        }
        Ok((Tensor::cat(&dqs, 0)?, dk, dv))
    }

    pub fn cached_attention(q: &Tensor, segments: &[CachedRows], shape: HeadShape) -> Result<Tensor> {
        let mut outs = Vec::new();
        for segment in segments {
            let keys = segment
                .spans
                .iter()
                .map(|span| Ok(span.keys.narrow(2, 0, span.len)?.permute((2, 0, 1))?.contiguous()?))
                .collect::<Result<Vec<_>>>()?;
            let values = segment
                .spans
                .iter()
                .map(|span| Ok(span.values.narrow(1, 0, span.len)?.transpose(0, 1)?.contiguous()?))
                .collect::<Result<Vec<_>>>()?;
            let (keys, values) = (Tensor::cat(&keys, 0)?.flatten_from(1)?, Tensor::cat(&values, 0)?.flatten_from(1)?);
            let q = by_head(&q.narrow(0, segment.start, segment.len)?, shape.heads, shape.dim)?;
            let (weights, _) = softmax(&q, &per_head(&keys, shape)?, keys.dim(0)? - segment.len, shape)?;
            outs.push(by_row(&weights.matmul(&per_head(&values, shape)?)?)?);
        }
        Ok(Tensor::cat(&outs, 0)?)
    }
}
