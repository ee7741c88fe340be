//! C (+)= A·B on the CPU, with one fixed chain of additions per output element. A and C are f32; B is f32, bf16 or f16.
//!
//! c[i][j] is ((c0 + a[i][0]·b[0][j]) + a[i][1]·b[1][j]) + …, fused multiply-adds in the order of k, whatever m, n, the
//! blocking, the number of threads or the instruction set. So a row's result depends neither on how many other rows are
//! computed with it nor on sharing (DESIGN.md, determinism); the gemm crate takes other paths for small m and n.
//! Where the processor has bf16 dot products (`Isa::Avx512Bf16`), A is rounded to bf16 before it meets a bf16 B, for every
//! m alike; the chain stays the same (micro.rs).
//! The scheme is BLIS's: panels of B (KC × NR) in L1, blocks of A (MC × KC) in L2.
use super::micro::{Ahead, Element, Left, Pair, Stored, copy_few, panel_height, panel_width};
use super::simd::{Isa, isa, simd};
use bytemuck::{cast_slice, cast_slice_mut};
use half::{bf16, f16};
use rayon::prelude::*;
use std::cell::RefCell;

const KC: usize = 256;
const MC: usize = 96;
const NC: usize = 2048;
/// How far ahead of its use a panel that is read from end to end is fetched.
const STREAM_AHEAD_BYTES: usize = 16 << 10;
/// Below this many multiply-adds a second thread costs more than it brings.
const PARALLEL_MULTIPLY_ADDS: usize = 1 << 18;

/// A matrix in memory: element (i, j) lies at `data[i * row + j * column]`.
#[derive(Clone, Copy)]
pub struct View<'a, T = f32> {
    pub data: &'a [T],
    pub row: usize,
    pub column: usize,
}

impl<'a, T> View<'a, T> {
    pub fn rows(data: &'a [T], width: usize) -> Self {
        Self { data, row: width, column: 1 }
    }
    pub fn transposed(self) -> Self {
        Self { data: self.data, row: self.column, column: self.row }
    }
    pub(super) fn reaches(&self, rows: usize, columns: usize) -> bool {
        rows == 0 || columns == 0 || (rows - 1) * self.row + (columns - 1) * self.column < self.data.len()
    }
}

/// B laid out in panels of the processor's width, made once and used for many products.
pub struct Packed {
    k: usize,
    n: usize,
    holds: Holds,
    /// Panels of `holds`.
    data: Vec<u32>,
}

/// What the panels of a packed B hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    F32,
    F16,
    Bf16,
    Pairs,
}

impl Packed {
    /// Of one of the views.
    pub fn new(b: Right, k: usize, n: usize, threads: Threads) -> Self {
        assert!(b.reaches(k, n), "packing reads past the matrix");
        match b {
            Right::View(b) => Self::of(Holds::F32, k, n, threads, &|at, out: &mut [f32]| pack_b(b, at, out)),
            Right::F16(b) => Self::of(Holds::F16, k, n, threads, &|at, out: &mut [f16]| pack_b(b, at, out)),
            Right::Bf16(b) if has_dots() => Self::pairs(b, k, n, threads),
            Right::Bf16(b) => Self::of(Holds::Bf16, k, n, threads, &|at, out: &mut [bf16]| pack_b(b, at, out)),
            Right::Packed(_) => unreachable!("packed already"),
        }
    }

    fn pairs(b: View<bf16>, k: usize, n: usize, threads: Threads) -> Self {
        Self::of(Holds::Pairs, k, n, threads, &|at, out: &mut [Pair]| pack_pairs(b, k, at, out))
    }

    fn of<T: Element>(holds: Holds, k: usize, n: usize, threads: Threads, pack: &PackPanel<T>) -> Self {
        let (width, steps) = (panel_width(), if holds == Holds::Pairs { k.div_ceil(2) } else { k });
        let mut data = vec![0u32; n.div_ceil(width) * width * steps * size_of::<T>() / size_of::<u32>()];
        let panels: &mut [T] = cast_slice_mut(&mut data);
        let pack = |(panel, out): (usize, &mut [T])| {
            pack(PanelAt { step: 0, steps, column: panel * width, columns: width.min(n - panel * width) }, out)
        };
        match threads {
            Threads::One => panels.chunks_mut(width * steps.max(1)).enumerate().for_each(pack),
            Threads::All => panels.par_chunks_mut(width * steps.max(1)).enumerate().for_each(pack),
        }
        Self { k, n, holds, data }
    }
}

/// Is a bf16 B met by bf16 dot products, and A rounded for them? One rule for all shapes, so that rows do not depend on m.
fn has_dots() -> bool {
    isa() == Isa::Avx512Bf16
}

#[derive(Clone, Copy)]
pub enum Right<'a> {
    View(View<'a>),
    Bf16(View<'a, bf16>),
    F16(View<'a, f16>),
    Packed(&'a Packed),
}

impl Right<'_> {
    fn reaches(&self, k: usize, n: usize) -> bool {
        match self {
            Right::View(view) => view.reaches(k, n),
            Right::Bf16(view) => view.reaches(k, n),
            Right::F16(view) => view.reaches(k, n),
            Right::Packed(packed) => packed.k == k && packed.n >= n,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    One,
    All,
}

/// Output of a product, `rows × columns` at `data[i * row + j]`.
pub struct Out<'a> {
    pub data: &'a mut [f32],
    pub row: usize,
    pub accumulate: bool,
}

pub fn gemm(m: usize, n: usize, k: usize, a: View, b: Right, out: Out, threads: Threads) {
    assert!(m == 0 || n == 0 || (m - 1) * out.row + n <= out.data.len(), "product writes past its output");
    // SAFETY: the assertion above bounds every write; the slice is borrowed exclusively.
    unsafe {
        gemm_at(m, n, k, a, b, OutAt { data: out.data.as_mut_ptr(), row: out.row, accumulate: out.accumulate }, threads)
    }
}

/// As `Out`, for callers that write disjoint columns of one buffer from several threads.
#[derive(Clone, Copy)]
pub struct OutAt {
    pub data: *mut f32,
    pub row: usize,
    pub accumulate: bool,
}
// SAFETY: the pointer is only followed inside `gemm_at`, whose contract makes the target exclusive.
unsafe impl Send for OutAt {}
// SAFETY: as above; tiles written by different threads never overlap.
unsafe impl Sync for OutAt {}

/// # Safety
/// `out.data` must be valid for writes (and reads when accumulating) at `i * row + j` for i < m, j < n, and nobody else
/// may touch these elements during the call.
pub unsafe fn gemm_at(m: usize, n: usize, k: usize, a: View, b: Right, out: OutAt, threads: Threads) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(a.reaches(m, k), "product reads past A");
    assert!(b.reaches(k, n), "product reads past B, or B was packed for another shape than {k}x{n}");
    if k == 0 {
        if !out.accumulate {
            for i in 0..m {
                // SAFETY: within the caller's m × n.
                unsafe { std::slice::from_raw_parts_mut(out.data.add(i * out.row), n).fill(0.0) };
            }
        }
        return;
    }
    let parallel = threads == Threads::All && m * n * k >= PARALLEL_MULTIPLY_ADDS && rayon::current_num_threads() > 1;
    let product = Product { m, n, steps: k, out, parallel };
    let dots = |b: Source<Pair>| {
        let (pairs, steps) = (rounded_pairs(a, m, k, parallel), k.div_ceil(2));
        // SAFETY: the caller's contract.
        unsafe { Product { steps, ..product }.run(View::rows(&pairs, steps), b) }
    };
    // SAFETY: the caller's contract.
    unsafe {
        match b {
            // each panel is used once or twice: reading B where it lies is cheaper than packing it
            Right::View(b) if b.column == 1 && m <= MC => product.run(a, Source::Rows(b)),
            Right::View(b) => product.run(a, Source::Pack(&|at, out: &mut [f32]| pack_b(b, at, out))),
            Right::F16(b) => product.run(a, Source::Pack(&|at, out: &mut [f32]| pack_b(b, at, out))),
            Right::Bf16(b) if has_dots() => dots(Source::Pack(&|at, out| pack_pairs(b, k, at, out))),
            Right::Bf16(b) => product.run(a, Source::Pack(&|at, out: &mut [f32]| pack_b(b, at, out))),
            Right::Packed(Packed { data, holds, .. }) => match holds {
                Holds::F32 => product.run(a, Source::Packed(cast_slice::<_, f32>(data))),
                Holds::F16 => product.run(a, Source::Packed(cast_slice::<_, f16>(data))),
                Holds::Bf16 => product.run(a, Source::Packed(cast_slice::<_, bf16>(data))),
                Holds::Pairs => dots(Source::Packed(cast_slice(data))),
            },
        }
    }
}

/// Where a product finds the panels of B.
enum Source<'a, T> {
    /// All panels, each of all steps.
    Packed(&'a [T]),
    /// Rows end to end, no panels.
    Rows(View<'a, T>),
    Pack(&'a PackPanel<'a, T>),
}

type PackPanel<'a, T> = dyn Fn(PanelAt, &mut [T]) + Sync + 'a;

/// A part of B that makes a panel, or of one.
#[derive(Clone, Copy)]
struct PanelAt {
    step: usize,
    steps: usize,
    column: usize,
    /// As many as there are; zeros fill the panel.
    columns: usize,
}

#[derive(Clone, Copy)]
struct Product {
    m: usize,
    n: usize,
    /// Elements of B along k: k, or half of it when they are pairs.
    steps: usize,
    out: OutAt,
    parallel: bool,
}

impl Product {
    /// # Safety
    /// As `gemm_at`.
    unsafe fn run<T: Element>(self, a: View<T::Left>, b: Source<T>) {
        let width = panel_width();
        // few rows of A need no cutting to stay in the cache, and packed panels of B are then read from end to end
        let whole = self.m <= panel_height() && matches!(b, Source::Packed(_));
        let depth = if whole { self.steps } else { KC };
        for jc in (0..self.n).step_by(NC) {
            for pc in (0..self.steps).step_by(depth) {
                let (nc, kc) = (NC.min(self.n - jc), depth.min(self.steps - pc));
                // SAFETY: column jc < n.
                let data = unsafe { self.out.data.add(jc) };
                let out = OutAt { data, accumulate: self.out.accumulate || pc > 0, ..self.out };
                let block = Block { m: self.m, nc, kc, pc, width, out };
                match b {
                    // panel p of the whole matrix holds all steps; this block uses pc..pc + kc of them
                    Source::Packed(panels) => {
                        let data = &panels[jc / width * width * self.steps + pc * width..];
                        let stride = width * self.steps;
                        block.run(a, Panels { data, stride, row: width, packed: true }, self.parallel);
                    }
                    Source::Rows(view) => {
                        let data = &view.data[pc * view.row + jc..];
                        block.run(a, Panels { data, stride: width, row: view.row, packed: false }, self.parallel);
                    }
                    Source::Pack(pack) => PACKED_B.with_borrow_mut(|buffer| {
                        let data = sized(buffer, nc.div_ceil(width) * width * kc);
                        let pack = |(panel, target): (usize, &mut [T])| {
                            let column = jc + panel * width;
                            let columns = width.min(jc + nc - column);
                            pack(PanelAt { step: pc, steps: kc, column, columns }, target)
                        };
                        if self.parallel {
                            data.par_chunks_mut(width * kc).enumerate().for_each(pack);
                        } else {
                            data.chunks_mut(width * kc).enumerate().for_each(pack);
                        }
                        let stride = width * kc;
                        block.run(a, Panels { data, stride, row: width, packed: true }, self.parallel);
                    }),
                }
            }
        }
    }
}

thread_local! {
    static PACKED_A: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    static PACKED_B: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    static LAST_PANEL: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// The first `len` elements of a buffer, which grows as needed.
fn sized<T: bytemuck::Pod>(buffer: &mut Vec<u32>, len: usize) -> &mut [T] {
    let words = (len * size_of::<T>()).div_ceil(size_of::<u32>());
    if buffer.len() < words {
        buffer.resize(words, 0);
    }
    &mut cast_slice_mut(buffer)[..len]
}

/// The panels of B that a block uses: panel j starts at `data[j * stride]`, its rows `row` apart.
#[derive(Clone, Copy)]
struct Panels<'a, T> {
    data: &'a [T],
    stride: usize,
    row: usize,
    /// False: the last panel may be narrower than the kernels want it.
    packed: bool,
}

/// One KC-deep slice of a product: m rows of A against nc columns of packed B.
struct Block {
    m: usize,
    nc: usize,
    kc: usize,
    pc: usize,
    width: usize,
    out: OutAt,
}

impl Block {
    fn run<T: Element>(&self, a: View<T::Left>, b: Panels<T>, parallel: bool) {
        let row_blocks = self.m.div_ceil(MC);
        let panels = self.nc.div_ceil(self.width);
        if !parallel {
            for row_block in 0..row_blocks {
                self.tile(a, b, row_block, 0..panels);
            }
            return;
        }
        let wanted = 4 * rayon::current_num_threads();
        let chunks = wanted.div_ceil(row_blocks).clamp(1, panels);
        (0..row_blocks * chunks).into_par_iter().for_each(|task| {
            let (row_block, chunk) = (task / chunks, task % chunks);
            self.tile(a, b, row_block, chunk * panels / chunks..(chunk + 1) * panels / chunks);
        });
    }

    fn tile<T: Element>(&self, a: View<T::Left>, b: Panels<T>, row_block: usize, panels: std::ops::Range<usize>) {
        let first = row_block * MC;
        let rows = MC.min(self.m - first);
        if panels.len() == 1 {
            // used once: reading A where it lies is cheaper than packing it
            return self.panel(b, row_block, panels.start, |i, _| {
                let start = (first + i) * a.row + self.pc * a.column;
                Left { data: &a.data[start..], row: a.row, column: a.column, packed: false }
            });
        }
        PACKED_A.with_borrow_mut(|buffer| {
            let packed = sized(buffer, rows * self.kc);
            pack_a(a, first, rows, self.pc, self.kc, packed);
            for panel in panels {
                self.panel(b, row_block, panel, |i, m| Left {
                    data: &packed[i * self.kc..][..m * self.kc],
                    row: 1,
                    column: m,
                    packed: true,
                });
            }
        });
    }

    /// A block of rows against one panel of B; `left(i, m)` gives rows i..i + m of the block.
    fn panel<'a, T: Element>(
        &self,
        b: Panels<T>,
        row_block: usize,
        panel: usize,
        left: impl Fn(usize, usize) -> Left<'a, T::Left>,
    ) {
        let columns = self.width.min(self.nc - panel * self.width);
        let data = &b.data[panel * b.stride..];
        let multiply = |b: View<T>, ahead: Ahead| {
            let first = row_block * MC;
            let (rows, height) = (MC.min(self.m - first), panel_height());
            for i in (0..rows).step_by(height) {
                let m = height.min(rows - i);
                // SAFETY: rows first + i .. + m and these columns lie inside the caller's m × n.
                unsafe {
                    let c = self.out.data.add((first + i) * self.out.row + panel * self.width);
                    let ahead = if i == 0 { ahead } else { 0 };
                    tile_kernel(m, columns, self.kc, left(i, m), b, ahead, OutAt { data: c, ..self.out });
                }
            }
        };
        let view = View { data, row: b.row, column: 1 };
        if b.packed || columns == self.width {
            return multiply(view, if self.kc > KC { STREAM_AHEAD_BYTES / size_of::<T>() } else { b.stride });
        }
        LAST_PANEL.with_borrow_mut(|buffer| {
            let full: &mut [T] = sized(buffer, self.kc * self.width);
            for (to, from) in full.chunks_exact_mut(self.width).zip(view.data.chunks(view.row)) {
                copy_few(&mut to[..columns], &from[..columns]);
                to[columns..].fill(T::zeroed());
            }
            multiply(View::rows(full, self.width), 0);
        });
    }
}

/// Rows `first..first + rows` of A in panels of the kernels' height, each column of a panel contiguous; the last panel is
/// narrower.
fn pack_a<L: Copy>(a: View<L>, first: usize, rows: usize, pc: usize, kc: usize, out: &mut [L]) {
    let height = panel_height();
    for i in (0..rows).step_by(height) {
        let m = height.min(rows - i);
        let panel = &mut out[i * kc..][..m * kc];
        if a.row == 1 {
            for (p, column) in panel.chunks_exact_mut(m).enumerate() {
                copy_few(column, &a.data[(pc + p) * a.column + first + i..][..m]);
            }
            continue;
        }
        for r in 0..m {
            let start = (first + i + r) * a.row + pc * a.column;
            for (p, value) in a.data[start..].iter().step_by(a.column).take(kc).enumerate() {
                panel[p * m + r] = *value;
            }
        }
    }
}

/// A rounded to bf16, `[m, k / 2]` pairs; an odd k is filled with 0.
fn rounded_pairs(a: View, m: usize, k: usize, parallel: bool) -> Vec<Pair> {
    let steps = k.div_ceil(2);
    let mut pairs: Vec<Pair> = bytemuck::cast_vec(vec![0u32; m * steps]);
    let round = |(i, out): (usize, &mut [Pair])| {
        let row = &a.data[i * a.row..];
        if a.column == 1 {
            return round_row(out, &row[..k]);
        }
        for (p, pair) in out.iter_mut().enumerate() {
            let at = |p: usize| if p < k { row[p * a.column] } else { 0.0 };
            *pair = Pair::rounded(at(2 * p), at(2 * p + 1));
        }
    };
    if parallel {
        pairs.par_chunks_mut(steps).enumerate().for_each(round);
    } else {
        pairs.chunks_mut(steps).enumerate().for_each(round);
    }
    pairs
}

simd! {
    pub fn round_row(out: &mut [Pair], row: &[f32]) {
        let (whole, odd) = row.as_chunks::<2>();
        for (pair, [earlier, later]) in out.iter_mut().zip(whole) { *pair = Pair::rounded(*earlier, *later); }
        if let ([last], Some(pair)) = (odd, out.last_mut()) { *pair = Pair::rounded(*last, 0.0); }
    }
}

/// What a panel is made of.
trait MadeFrom<S>: Copy {
    fn one(from: S) -> Self;
    fn run(from: &[S], to: &mut [Self]);
}

impl<S: Stored> MadeFrom<S> for S {
    #[inline(always)]
    fn one(from: S) -> S {
        from
    }
    #[inline(always)]
    fn run(from: &[S], to: &mut [S]) {
        copy_few(to, from);
    }
}

macro_rules! widened {
    ($($half:ty)*) => {$(
        impl MadeFrom<$half> for f32 {
            #[inline(always)]
            fn one(from: $half) -> f32 {
                from.widen()
            }
            #[inline(always)]
            fn run(from: &[$half], to: &mut [f32]) {
                <$half>::widen_into(from, to);
            }
        }
    )*};
}
widened!(bf16 f16);

/// One panel of B, or a part of its steps.
fn pack_b<S: Copy, T: MadeFrom<S> + Element>(b: View<S>, at: PanelAt, out: &mut [T]) {
    let width = panel_width();
    if at.columns < width {
        out.fill(T::zeroed());
    }
    if b.column == 1 {
        for (p, row) in out.chunks_exact_mut(width).enumerate() {
            let start = (at.step + p) * b.row + at.column;
            T::run(&b.data[start..start + at.columns], &mut row[..at.columns]);
        }
    } else if b.row == 1 {
        for j in 0..at.columns {
            let start = (at.column + j) * b.column + at.step;
            for (p, value) in b.data[start..start + at.steps].iter().enumerate() {
                out[p * width + j] = T::one(*value);
            }
        }
    } else {
        for p in 0..at.steps {
            for j in 0..at.columns {
                out[p * width + j] = T::one(b.data[(at.step + p) * b.row + (at.column + j) * b.column]);
            }
        }
    }
}

/// As `pack_b`, with neighbours along k as pairs; an odd k is filled with 0.
fn pack_pairs(b: View<bf16>, k: usize, at: PanelAt, out: &mut [Pair]) {
    let width = panel_width();
    if at.columns < width {
        out.fill(Pair::new(bf16::ZERO, bf16::ZERO));
    }
    if b.column == 1 {
        let row = |p: usize| &b.data[p * b.row + at.column..][..at.columns];
        for (p, pairs) in out.chunks_exact_mut(width).enumerate() {
            let earlier = 2 * (at.step + p);
            let later = if earlier + 1 < k { row(earlier + 1) } else { &[bf16::ZERO; 32][..at.columns] };
            for ((pair, earlier), later) in pairs.iter_mut().zip(row(earlier)).zip(later) {
                *pair = Pair::new(*earlier, *later);
            }
        }
        return;
    }
    for j in 0..at.columns {
        let element = |p: usize| if p < k { b.data[p * b.row + (at.column + j) * b.column] } else { bf16::ZERO };
        for p in 0..at.steps {
            let earlier = 2 * (at.step + p);
            out[p * width + j] = Pair::new(element(earlier), element(earlier + 1));
        }
    }
}

/// # Safety
/// `out` must be writable for m × columns, m ≤ panel_height(), columns ≤ panel_width().
unsafe fn tile_kernel<T: Element>(
    m: usize,
    columns: usize,
    kc: usize,
    a: Left<T::Left>,
    b: View<T>,
    ahead: Ahead,
    out: OutAt,
) {
    let width = panel_width();
    assert!((m - 1) * a.row + (kc - 1) * a.column < a.data.len(), "panel of A too short");
    assert!(b.reaches(kc, width), "panel of B too short");
    if columns == width {
        // SAFETY: the caller's contract.
        return unsafe { T::kernel(m, kc, a, b, ahead, out) };
    }
    let mut tile = [0f32; 12 * 32];
    if out.accumulate {
        for i in 0..m {
            for j in 0..columns {
                // SAFETY: i < m, j < columns.
                tile[i * width + j] = unsafe { *out.data.add(i * out.row + j) };
            }
        }
    }
    // SAFETY: the tile holds 12 × 32 floats.
    unsafe { T::kernel(m, kc, a, b, ahead, OutAt { data: tile.as_mut_ptr(), row: width, accumulate: out.accumulate }) };
    for i in 0..m {
        for j in 0..columns {
            // SAFETY: i < m, j < columns.
            unsafe { *out.data.add(i * out.row + j) = tile[i * width + j] };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 40) as f32 / (1 << 24) as f32 - 0.5
            })
            .collect()
    }

    fn transpose<T: Copy>(x: &[T], rows: usize, columns: usize) -> Vec<T> {
        (0..columns * rows).map(|i| x[i % rows * columns + i / rows]).collect()
    }

    /// The chain that every element must follow.
    fn chain(a: &[f32], b: &[f32], c0: f32) -> f32 {
        a.iter().zip(b).fold(c0, |sum, (x, y)| x.mul_add(*y, sum))
    }

    fn rounded(x: &[f32]) -> Vec<f32> {
        x.iter().map(|x| bf16::from_f32(*x).to_f32()).collect()
    }

    const SHAPES: [(usize, usize, usize); 12] = [
        (1, 1, 1),
        (1, 33, 300),
        (3, 64, 1025),
        (7, 16, 5),
        (12, 32, 257),
        (13, 47, 64),
        (100, 70, 513),
        (97, 2100, 3),
        (2, 2080, 40),
        (98, 40, 1040),
        (5, 0, 4),
        (4, 5, 0),
    ];

    /// Every product of a·b with b in these forms follows the chain over `a` and the columns of B, `b_t`.
    fn check((m, n, k): (usize, usize, usize), a: &[f32], met: &[f32], b_t: &[f32], rights: &[(&str, Right)]) {
        let (a_t, c0) = (transpose(a, m, k), numbers(m * n, 3));
        for accumulate in [false, true] {
            let expected: Vec<u32> = (0..m * n)
                .map(|at| {
                    let (i, j, start) = (at / n, at % n, if accumulate { c0[at] } else { 0.0 });
                    chain(&met[i * k..(i + 1) * k], &b_t[j * k..(j + 1) * k], start).to_bits()
                })
                .collect();
            for left in [View::rows(a, k), View::rows(&a_t, m).transposed()] {
                for (what, right) in rights {
                    for threads in [Threads::One, Threads::All] {
                        let mut c = c0.clone();
                        gemm(m, n, k, left, *right, Out { data: &mut c, row: n, accumulate }, threads);
                        let wrong = c.iter().zip(&expected).position(|(c, expected)| c.to_bits() != *expected);
                        assert_eq!(wrong, None, "{what} {m}x{n}x{k}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_shape_layout_and_type_gives_the_same_chain_of_fused_additions() {
        for (m, n, k) in SHAPES {
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            let shape = (m, n, k);

            let b_t = transpose(&b, k, n);
            let packed = Packed::new(Right::View(View::rows(&b, n)), k, n, Threads::All);
            let rights = [
                ("f32", Right::View(View::rows(&b, n))),
                ("f32 transposed", Right::View(View::rows(&b_t, k).transposed())),
                ("f32 packed", Right::Packed(&packed)),
            ];
            check(shape, &a, &a, &b_t, &rights);

            let half: Vec<f16> = b.iter().map(|x| f16::from_f32(*x)).collect();
            let half_t = transpose(&half, k, n);
            let values_t: Vec<f32> = half_t.iter().map(|x| x.to_f32()).collect();
            let packed = Packed::new(Right::F16(View::rows(&half_t, k).transposed()), k, n, Threads::All);
            assert_eq!(packed.data.len() * 4, n.div_ceil(panel_width()) * panel_width() * k * 2);
            let rights = [
                ("f16", Right::F16(View::rows(&half, n))),
                ("f16 transposed", Right::F16(View::rows(&half_t, k).transposed())),
                ("f16 packed", Right::Packed(&packed)),
            ];
            check(shape, &a, &a, &values_t, &rights);

            let brain: Vec<bf16> = b.iter().map(|x| bf16::from_f32(*x)).collect();
            let brain_t = transpose(&brain, k, n);
            let values_t: Vec<f32> = brain_t.iter().map(|x| x.to_f32()).collect();
            let met = if has_dots() { rounded(&a) } else { a.clone() };
            let rights = [
                ("bf16", Right::Bf16(View::rows(&brain, n))),
                ("bf16 transposed", Right::Bf16(View::rows(&brain_t, k).transposed())),
            ];
            check(shape, &a, &met, &values_t, &rights);
            let view = View::rows(&brain_t, k).transposed();
            let widened = Packed::of(Holds::Bf16, k, n, Threads::All, &|at, out: &mut [bf16]| pack_b(view, at, out));
            check(shape, &a, &a, &values_t, &[("bf16 packed", Right::Packed(&widened))]);
            // without bf16 dot products these run through the kernels' plain twin
            let pairs =
                [Packed::pairs(view, k, n, Threads::All), Packed::pairs(View::rows(&brain, n), k, n, Threads::One)];
            let rights = pairs.each_ref().map(|pairs| ("pairs", Right::Packed(pairs)));
            check(shape, &a, &rounded(&a), &values_t, &rights);
        }
    }

    #[test]
    fn rounding_is_to_the_nearest_and_keeps_what_is_not_finite() {
        for x in [
            1.0f32,
            -1.0 - 1.0 / 256.0,
            1.0 + 3.0 / 256.0,
            3e38,
            f32::MAX,
            f32::INFINITY,
            f32::NEG_INFINITY,
            1e-40,
            -0.0,
        ] {
            let mut pair = [Pair::new(bf16::ZERO, bf16::ZERO)];
            round_row(&mut pair, &[x]);
            assert_eq!(bytemuck::cast::<_, u32>(pair[0]) >> 16, bf16::from_f32(x).to_bits() as u32, "{x}");
        }
        let mut c = [0f32];
        let (a, b) = ([f32::NAN, 1.0], [bf16::ONE; 2]);
        gemm(
            1,
            1,
            2,
            View::rows(&a, 2),
            Right::Bf16(View::rows(&b, 1)),
            Out { data: &mut c, row: 1, accumulate: false },
            Threads::One,
        );
        assert!(c[0].is_nan());
    }

    #[test]
    fn narrower_instruction_sets_pass_these_tests_too() {
        if std::env::var_os("GRPO_CL_ISA").is_some() {
            return;
        }
        for isa in ["avx512", "avx2", "scalar"] {
            let mut tests = Command::new(std::env::current_exe().unwrap());
            let output = tests.arg("kernels::").env("GRPO_CL_ISA", isa).output().unwrap();
            assert!(output.status.success(), "{isa}: {}", String::from_utf8_lossy(&output.stdout));
        }
    }
}
