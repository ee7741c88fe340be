//! C (+)= A·B in f32 on the CPU, with one fixed chain of additions per output element.
//!
//! c[i][j] is ((c0 + a[i][0]·b[0][j]) + a[i][1]·b[1][j]) + …, fused multiply-adds in the order of k, whatever m, n, the
//! blocking, the number of threads or the instruction set. So a row's result depends neither on how many other rows are
//! computed with it nor on sharing (DESIGN.md, determinism); the gemm crate takes other paths for small m and n.
//! The scheme is BLIS's: panels of B (KC × NR) in L1, blocks of A (MC × KC) in L2.
use super::simd::{Isa, isa};
use rayon::prelude::*;
use std::cell::RefCell;

const KC: usize = 256;
const MC: usize = 96;
const NC: usize = 2048;
/// How far ahead of its use a panel that is read from end to end is fetched (16 KiB).
const STREAM_AHEAD: usize = 4096;
/// Below this many multiply-adds a second thread costs more than it brings.
const PARALLEL_MULTIPLY_ADDS: usize = 1 << 18;

/// A matrix in memory: element (i, j) lies at `data[i * row + j * column]`.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub data: &'a [f32],
    pub row: usize,
    pub column: usize,
}

impl<'a> View<'a> {
    pub fn rows(data: &'a [f32], width: usize) -> Self {
        Self { data, row: width, column: 1 }
    }
    pub fn transposed(self) -> Self {
        Self { data: self.data, row: self.column, column: self.row }
    }
    fn reaches(&self, rows: usize, columns: usize) -> bool {
        rows == 0 || columns == 0 || (rows - 1) * self.row + (columns - 1) * self.column < self.data.len()
    }
}

/// B laid out in panels of the processor's width, made once and used for many products.
pub struct Packed {
    k: usize,
    n: usize,
    data: Vec<f32>,
}

impl Packed {
    pub fn new(b: View, k: usize, n: usize, threads: Threads) -> Self {
        assert!(b.reaches(k, n), "packing reads past the matrix");
        let width = panel_width();
        let mut data = vec![0f32; n.div_ceil(width) * width * k];
        let pack = |(panel, out): (usize, &mut [f32])| pack_b(b, 0, k, panel * width, n, width, out);
        match threads {
            Threads::One => data.chunks_mut(width * k.max(1)).enumerate().for_each(pack),
            Threads::All => data.par_chunks_mut(width * k.max(1)).enumerate().for_each(pack),
        }
        Self { k, n, data }
    }
}

#[derive(Clone, Copy)]
pub enum Right<'a> {
    View(View<'a>),
    Packed(&'a Packed),
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
    match b {
        Right::View(view) => assert!(view.reaches(k, n), "product reads past B"),
        Right::Packed(packed) => {
            assert!(packed.k == k && packed.n >= n, "packed B is {}x{}, not {k}x{n}", packed.k, packed.n)
        }
    }
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
    let width = panel_width();
    // few rows of A need no cutting to stay in the cache, and packed panels of B are then read from end to end
    let depth = if m <= panel_height() && matches!(b, Right::Packed(_)) { k } else { KC };
    for jc in (0..n).step_by(NC) {
        let nc = NC.min(n - jc);
        for pc in (0..k).step_by(depth) {
            let kc = depth.min(k - pc);
            let block = Block {
                m,
                nc,
                kc,
                pc,
                width,
                out: OutAt { data: unsafe { out.data.add(jc) }, accumulate: out.accumulate || pc > 0, ..out },
            };
            match b {
                Right::Packed(packed) => {
                    // panel p of the whole matrix holds k rows; this block uses rows pc..pc + kc of it
                    let data = &packed.data[jc / width * width * packed.k + pc * width..];
                    block.run(a, Panels { data, stride: width * packed.k, row: width, packed: true }, parallel);
                }
                // each panel is used once or twice: reading B where it lies is cheaper than packing it
                Right::View(view) if view.column == 1 && m <= MC => {
                    let data = &view.data[pc * view.row + jc..];
                    block.run(a, Panels { data, stride: width, row: view.row, packed: false }, parallel);
                }
                Right::View(view) => PACKED_B.with_borrow_mut(|buffer| {
                    let panels = nc.div_ceil(width);
                    if buffer.len() < panels * width * kc {
                        buffer.resize(panels * width * kc, 0.0);
                    }
                    let used = &mut buffer[..panels * width * kc];
                    let pack = |(panel, target): (usize, &mut [f32])| {
                        pack_b(view, pc, kc, jc + panel * width, n.min(jc + nc), width, target)
                    };
                    if parallel {
                        used.par_chunks_mut(width * kc).enumerate().for_each(pack);
                    } else {
                        used.chunks_mut(width * kc).enumerate().for_each(pack);
                    }
                    block.run(a, Panels { data: used, stride: width * kc, row: width, packed: true }, parallel);
                }),
            }
        }
    }
}

thread_local! {
    static PACKED_A: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static PACKED_B: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static LAST_PANEL: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// The panels of B that a block uses: panel j starts at `data[j * stride]`, its rows `row` apart.
#[derive(Clone, Copy)]
struct Panels<'a> {
    data: &'a [f32],
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
    fn run(&self, a: View, b: Panels, parallel: bool) {
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

    fn tile(&self, a: View, b: Panels, row_block: usize, panels: std::ops::Range<usize>) {
        let first = row_block * MC;
        let rows = MC.min(self.m - first);
        let height = panel_height();
        if panels.len() == 1 {
            // used once: reading A where it lies is cheaper than packing it
            return self.panel(b, row_block, panels.start, |i, _| {
                let start = (first + i) * a.row + self.pc * a.column;
                Left { data: &a.data[start..], row: a.row, column: a.column, packed: false }
            });
        }
        PACKED_A.with_borrow_mut(|buffer| {
            let needed = rows * self.kc;
            if buffer.len() < needed {
                buffer.resize(needed, 0.0);
            }
            pack_a(a, first, rows, self.pc, self.kc, height, buffer);
            for panel in panels {
                self.panel(b, row_block, panel, |i, m| Left {
                    data: &buffer[i * self.kc..][..m * self.kc],
                    row: 1,
                    column: m,
                    packed: true,
                });
            }
        });
    }

    /// A block of rows against one panel of B; `left(i, m)` gives rows i..i + m of the block.
    fn panel<'a>(&self, b: Panels, row_block: usize, panel: usize, left: impl Fn(usize, usize) -> Left<'a>) {
        let columns = self.width.min(self.nc - panel * self.width);
        let data = &b.data[panel * b.stride..];
        let multiply = |b: View, ahead: Ahead| {
            let first = row_block * MC;
            let (rows, height) = (MC.min(self.m - first), panel_height());
            for i in (0..rows).step_by(height) {
                let m = height.min(rows - i);
                // SAFETY: rows first + i .. + m and these columns lie inside the caller's m × n.
                unsafe {
                    let c = self.out.data.add((first + i) * self.out.row + panel * self.width);
                    let ahead = if i == 0 { ahead } else { 0 };
                    micro_kernel(m, columns, self.kc, left(i, m), b, ahead, OutAt { data: c, ..self.out });
                }
            }
        };
        let view = View { data, row: b.row, column: 1 };
        if b.packed || columns == self.width {
            return multiply(view, if self.kc > KC { STREAM_AHEAD } else { b.stride });
        }
        LAST_PANEL.with_borrow_mut(|buffer| {
            buffer.resize(self.kc * self.width, 0.0);
            pack_b(view, 0, self.kc, 0, columns, self.width, buffer);
            multiply(View::rows(buffer, self.width), 0);
        });
    }
}

/// Up to `panel_height()` rows of A: element (i, p) lies at `data[i * row + p * column]`.
#[derive(Clone, Copy)]
struct Left<'a> {
    data: &'a [f32],
    row: usize,
    column: usize,
    /// Columns end to end (row 1, column m), which the kernels know at compile time.
    packed: bool,
}

/// How far behind a panel of B the next one lies, to be fetched into the cache meanwhile; 0 = not. Decoding would otherwise
/// wait for memory and compute in turns.
type Ahead = usize;

fn panel_width() -> usize {
    if isa() == Isa::Avx512 { 32 } else { 16 }
}

fn panel_height() -> usize {
    if isa() == Isa::Avx512 { 12 } else { 6 }
}

/// Rows `first..first + rows` of A in panels of `height`, each column of a panel contiguous; the last panel is narrower.
fn pack_a(a: View, first: usize, rows: usize, pc: usize, kc: usize, height: usize, out: &mut [f32]) {
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

/// For runs of a few numbers, where a call of memmove costs more than it moves.
#[inline(always)]
fn copy_few(to: &mut [f32], from: &[f32]) {
    let (to_chunks, to_rest) = to.as_chunks_mut::<4>();
    let (from_chunks, from_rest) = from.as_chunks::<4>();
    for (to, from) in to_chunks.iter_mut().zip(from_chunks) {
        *to = *from;
    }
    for (to, from) in to_rest.iter_mut().zip(from_rest) {
        *to = *from;
    }
}

/// Columns `first..first + width` (zero beyond `n`) of rows `pc..pc + kc` of B, one panel.
fn pack_b(b: View, pc: usize, kc: usize, first: usize, n: usize, width: usize, out: &mut [f32]) {
    let columns = width.min(n - first);
    if columns < width {
        out.fill(0.0);
    }
    if b.column == 1 {
        for p in 0..kc {
            let start = (pc + p) * b.row + first;
            copy_few(&mut out[p * width..p * width + columns], &b.data[start..start + columns]);
        }
    } else if b.row == 1 {
        for j in 0..columns {
            let start = (first + j) * b.column + pc;
            for (p, value) in b.data[start..start + kc].iter().enumerate() {
                out[p * width + j] = *value;
            }
        }
    } else {
        for p in 0..kc {
            for j in 0..columns {
                out[p * width + j] = b.data[(pc + p) * b.row + (first + j) * b.column];
            }
        }
    }
}

/// # Safety
/// `out` must be writable for m × columns, m ≤ panel_height(), columns ≤ panel_width().
unsafe fn micro_kernel(m: usize, columns: usize, kc: usize, a: Left, b: View, ahead: Ahead, out: OutAt) {
    let width = panel_width();
    assert!((m - 1) * a.row + (kc - 1) * a.column < a.data.len(), "panel of A too short");
    assert!(b.reaches(kc, width), "panel of B too short");
    if columns == width {
        // SAFETY: the caller's contract.
        return unsafe { full_kernel(m, kc, a, b, ahead, out) };
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
    unsafe {
        full_kernel(m, kc, a, b, ahead, OutAt { data: tile.as_mut_ptr(), row: width, accumulate: out.accumulate })
    };
    for i in 0..m {
        for j in 0..columns {
            // SAFETY: i < m, j < columns.
            unsafe { *out.data.add(i * out.row + j) = tile[i * width + j] };
        }
    }
}

/// # Safety
/// As `micro_kernel`, with all `panel_width()` columns writable.
unsafe fn full_kernel(m: usize, kc: usize, a: Left, b: View, ahead: Ahead, out: OutAt) {
    macro_rules! pick {
        ($kernel:ident, $($rows:literal)*) => {
            // SAFETY: the caller's contract; `isa` has seen the features.
            match (m, a.packed) {
                $(($rows, true) => unsafe { $kernel::<$rows, true>(kc, a, b, ahead, out) },)*
                $(($rows, false) => unsafe { $kernel::<$rows, false>(kc, a, b, ahead, out) },)*
                _ => unreachable!("{m} rows in a panel"),
            }
        };
    }
    match isa() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => pick!(kernel_avx512, 1 2 3 4 5 6 7 8 9 10 11 12),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => pick!(kernel_avx2, 1 2 3 4 5 6),
        _ => unsafe { kernel_scalar(m, kc, a, b, out) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn kernel_avx512<const M: usize, const PACKED: bool>(kc: usize, a: Left, b: View, ahead: Ahead, out: OutAt) {
    let (b, b_row) = (b.data.as_ptr(), b.row);
    let (a_row, a_column, a) = if PACKED { (1, M, a.data.as_ptr()) } else { (a.row, a.column, a.data.as_ptr()) };
    use std::arch::x86_64::*;
    // SAFETY: the caller has checked that a reaches M × kc and b kc × 32; out has M rows of 32.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; M];
        if out.accumulate {
            for (i, row) in sums.iter_mut().enumerate() {
                row[0] = _mm512_loadu_ps(out.data.add(i * out.row));
                row[1] = _mm512_loadu_ps(out.data.add(i * out.row + 16));
            }
        }
        for p in 0..kc {
            let left = _mm512_loadu_ps(b.add(p * b_row));
            let right = _mm512_loadu_ps(b.add(p * b_row + 16));
            if ahead != 0 {
                let next = b.wrapping_add(p * b_row + ahead).cast::<i8>(); // a prefetch never faults
                _mm_prefetch::<_MM_HINT_T1>(next);
                _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(64));
            }
            for (i, row) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*a.add(p * a_column + i * a_row));
                row[0] = _mm512_fmadd_ps(x, left, row[0]);
                row[1] = _mm512_fmadd_ps(x, right, row[1]);
            }
        }
        for (i, row) in sums.iter().enumerate() {
            _mm512_storeu_ps(out.data.add(i * out.row), row[0]);
            _mm512_storeu_ps(out.data.add(i * out.row + 16), row[1]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn kernel_avx2<const M: usize, const PACKED: bool>(kc: usize, a: Left, b: View, ahead: Ahead, out: OutAt) {
    let (b, b_row) = (b.data.as_ptr(), b.row);
    let (a_row, a_column, a) = if PACKED { (1, M, a.data.as_ptr()) } else { (a.row, a.column, a.data.as_ptr()) };
    use std::arch::x86_64::*;
    // SAFETY: the caller has checked that a reaches M × kc and b kc × 16; out has M rows of 16.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; M];
        if out.accumulate {
            for (i, row) in sums.iter_mut().enumerate() {
                row[0] = _mm256_loadu_ps(out.data.add(i * out.row));
                row[1] = _mm256_loadu_ps(out.data.add(i * out.row + 8));
            }
        }
        for p in 0..kc {
            let left = _mm256_loadu_ps(b.add(p * b_row));
            let right = _mm256_loadu_ps(b.add(p * b_row + 8));
            if ahead != 0 {
                _mm_prefetch::<_MM_HINT_T1>(b.wrapping_add(p * b_row + ahead).cast()); // a prefetch never faults
            }
            for (i, row) in sums.iter_mut().enumerate() {
                let x = _mm256_set1_ps(*a.add(p * a_column + i * a_row));
                row[0] = _mm256_fmadd_ps(x, left, row[0]);
                row[1] = _mm256_fmadd_ps(x, right, row[1]);
            }
        }
        for (i, row) in sums.iter().enumerate() {
            _mm256_storeu_ps(out.data.add(i * out.row), row[0]);
            _mm256_storeu_ps(out.data.add(i * out.row + 8), row[1]);
        }
    }
}

/// # Safety
/// As `full_kernel`.
unsafe fn kernel_scalar(m: usize, kc: usize, a: Left, b: View, out: OutAt) {
    let width = panel_width();
    for i in 0..m {
        // SAFETY: row i of the output.
        let row = unsafe { std::slice::from_raw_parts_mut(out.data.add(i * out.row), width) };
        if !out.accumulate {
            row.fill(0.0);
        }
        for p in 0..kc {
            for (j, sum) in row.iter_mut().enumerate() {
                *sum = a.data[i * a.row + p * a.column].mul_add(b.data[p * b.row + j], *sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 40) as f32 / (1 << 24) as f32 - 0.5
            })
            .collect()
    }

    /// The chain that every element must follow.
    fn chain(a: &[f32], b: &[f32], c0: f32) -> f32 {
        a.iter().zip(b).fold(c0, |sum, (x, y)| x.mul_add(*y, sum))
    }

    #[test]
    fn every_shape_and_layout_gives_the_same_chain_of_fused_additions() {
        for (m, n, k) in [
            (1, 1, 1),
            (1, 33, 300),
            (7, 16, 5),
            (12, 32, 257),
            (13, 47, 64),
            (100, 70, 513),
            (97, 2100, 3),
            (5, 0, 4),
            (4, 5, 0),
        ] {
            let (a, b, c0) = (numbers(m * k, 1), numbers(k * n, 2), numbers(m * n, 3));
            let transpose = |x: &[f32], rows: usize, columns: usize| -> Vec<f32> {
                (0..columns * rows).map(|i| x[i % rows * columns + i / rows]).collect()
            };
            let (a_t, b_t) = (transpose(&a, m, k), transpose(&b, k, n));
            let packed = Packed::new(View::rows(&b, n), k, n, Threads::All);
            for accumulate in [false, true] {
                let lefts = [View::rows(&a, k), View::rows(&a_t, m).transposed()];
                let rights = [
                    Right::View(View::rows(&b, n)),
                    Right::View(View::rows(&b_t, k).transposed()),
                    Right::Packed(&packed),
                ];
                for left in lefts {
                    for right in rights {
                        for threads in [Threads::One, Threads::All] {
                            let mut c = c0.clone();
                            gemm(m, n, k, left, right, Out { data: &mut c, row: n, accumulate }, threads);
                            for i in 0..m {
                                for j in 0..n {
                                    let start = if accumulate { c0[i * n + j] } else { 0.0 };
                                    let expected = chain(&a[i * k..(i + 1) * k], &b_t[j * k..(j + 1) * k], start);
                                    assert_eq!(c[i * n + j].to_bits(), expected.to_bits(), "{m}x{n}x{k} at {i},{j}");
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
