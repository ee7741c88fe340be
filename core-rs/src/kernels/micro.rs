//! What panels of B hold, and the innermost loops that meet them with a few rows of A.
//!
//! f32, bf16 and f16 are widened to f32 as they are read: one fused multiply-add an element. Pairs of bf16 meet pairs of bf16
//! in the processor's dot products (`vdpbf16ps`), which add first the product of the upper halves and then that of the lower
//! ones, each fused and rounded. So with the earlier k in the upper half they are the same chain of fused additions in the
//! order of k, at twice the rate; only numbers below 2⁻¹²⁶ become 0 on the way.
use super::gemm::{OutAt, View};
use super::simd::{Isa, isa};
use bytemuck::{Pod, Zeroable};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Two neighbours along k, the earlier one in the upper half.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
pub struct Pair(u32);

impl Pair {
    #[inline(always)]
    pub fn new(earlier: bf16, later: bf16) -> Self {
        Self((earlier.to_bits() as u32) << 16 | later.to_bits() as u32)
    }
    #[inline(always)]
    pub fn rounded(earlier: f32, later: f32) -> Self {
        Self(rounded_bits(earlier) & 0xFFFF_0000 | rounded_bits(later) >> 16)
    }
    fn halves(self) -> [f32; 2] {
        [f32::from_bits(self.0 & 0xFFFF_0000), f32::from_bits(self.0 << 16)]
    }
}

/// An f32 whose upper half is the nearest bf16, ties to even. Without branches, so that loops over it become vectors.
#[inline(always)]
fn rounded_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    if x.is_nan() { bits | 0x0040_0000 } else { bits + 0x7FFF + (bits >> 16 & 1) }
}

/// Up to `panel_height()` rows of A: element (i, p) lies at `data[i * row + p * column]`.
#[derive(Clone, Copy)]
pub struct Left<'a, L> {
    pub data: &'a [L],
    pub row: usize,
    pub column: usize,
    /// Columns end to end (row 1, column m), which the kernels know at compile time.
    pub packed: bool,
}

/// How far behind a panel of B the next one lies, to be fetched into the cache meanwhile; 0 = not. Decoding would otherwise
/// wait for memory and compute in turns.
pub type Ahead = usize;

pub fn panel_width() -> usize {
    if isa().is_avx512() { 32 } else { 16 }
}

pub fn panel_height() -> usize {
    if isa().is_avx512() { 12 } else { 6 }
}

/// What a panel of B holds.
pub trait Element: Pod + Send + Sync {
    /// What it meets of A.
    type Left: Pod + Send + Sync;
    fn multiply_add(self, left: Self::Left, sum: f32) -> f32;
    /// `m` rows of A against a panel of B, `kc` elements deep.
    ///
    /// # Safety
    /// `a` reaches m × kc and `b` kc × panel_width(); `out` is writable for m × panel_width(), m ≤ panel_height().
    unsafe fn kernel(m: usize, kc: usize, a: Left<Self::Left>, b: View<Self>, ahead: Ahead, out: OutAt);
}

/// A type that weights are kept in.
pub trait Stored: Pod + Send + Sync + Lanes<Left = f32> {
    fn widen(self) -> f32;
    fn widen_into(from: &[Self], to: &mut [f32]);
    /// # Safety
    /// AVX2 and F16C; 8 elements are readable.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load_8(from: *const Self) -> __m256;
}

/// Sixteen at a time.
pub trait Lanes: Pod {
    type Left: Pod;
    /// # Safety
    /// AVX-512.
    #[cfg(target_arch = "x86_64")]
    unsafe fn splat(left: Self::Left) -> __m512;
    /// # Safety
    /// AVX-512; 16 elements are readable.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load(from: *const Self) -> __m512;
    /// # Safety
    /// AVX-512, for pairs with bf16 dot products.
    #[cfg(target_arch = "x86_64")]
    unsafe fn multiply_add(left: __m512, right: __m512, sum: __m512) -> __m512;
}

macro_rules! pick {
    ($kernel:ident, $kind:ty, $call:expr, $($rows:literal)*) => {{
        let (m, kc, a, b, ahead, out) = $call;
        // SAFETY: the caller's contract; `isa` has seen the features.
        match (m, a.packed) {
            $(($rows, true) => unsafe { $kernel::<$kind, $rows, true>(kc, a, b, ahead, out) },)*
            $(($rows, false) => unsafe { $kernel::<$kind, $rows, false>(kc, a, b, ahead, out) },)*
            _ => unreachable!("{m} rows in a panel"),
        }
    }};
}

impl<T: Stored> Element for T {
    type Left = f32;
    fn multiply_add(self, left: f32, sum: f32) -> f32 {
        left.mul_add(self.widen(), sum)
    }
    unsafe fn kernel(m: usize, kc: usize, a: Left<f32>, b: View<Self>, ahead: Ahead, out: OutAt) {
        match isa() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Avx512 => {
                pick!(kernel_avx512, T, (m, kc, a, b, ahead, out), 1 2 3 4 5 6 7 8 9 10 11 12)
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => pick!(kernel_avx2, T, (m, kc, a, b, ahead, out), 1 2 3 4 5 6),
            // SAFETY: the caller's contract.
            _ => unsafe { kernel_scalar(m, kc, a, b, out) },
        }
    }
}

impl Element for Pair {
    type Left = Pair;
    fn multiply_add(self, left: Pair, sum: f32) -> f32 {
        let ([a, c], [b, d]) = (left.halves(), self.halves());
        c.mul_add(d, a.mul_add(b, sum))
    }
    unsafe fn kernel(m: usize, kc: usize, a: Left<Pair>, b: View<Self>, ahead: Ahead, out: OutAt) {
        match isa() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => pick!(kernel_dots, Pair, (m, kc, a, b, ahead, out), 1 2 3 4 5 6 7 8 9 10 11 12),
            // SAFETY: the caller's contract.
            _ => unsafe { kernel_scalar(m, kc, a, b, out) },
        }
    }
}

impl Stored for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    #[inline(always)]
    fn widen_into(from: &[f32], to: &mut [f32]) {
        copy_few(to, from);
    }
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_8(from: *const f32) -> __m256 {
        // SAFETY: the caller's contract.
        unsafe { _mm256_loadu_ps(from) }
    }
}

impl Stored for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits((self.to_bits() as u32) << 16)
    }
    #[inline(always)]
    fn widen_into(from: &[bf16], to: &mut [f32]) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = from.widen());
    }
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_8(from: *const bf16) -> __m256 {
        // SAFETY: the caller's contract.
        let upper = unsafe { _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast())) };
        // SAFETY: as above.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(upper)) }
    }
}

impl Stored for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
    fn widen_into(from: &[f16], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_8(from: *const f16) -> __m256 {
        // SAFETY: the caller's contract.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }
}

macro_rules! widened_lanes {
    ($kind:ty, $from:ident => $load:expr) => {
        impl Lanes for $kind {
            type Left = f32;
            #[cfg(target_arch = "x86_64")]
            #[inline(always)]
            unsafe fn splat(left: f32) -> __m512 {
                // SAFETY: the caller's contract.
                unsafe { _mm512_set1_ps(left) }
            }
            #[cfg(target_arch = "x86_64")]
            #[inline(always)]
            unsafe fn load($from: *const Self) -> __m512 {
                // SAFETY: the caller's contract.
                unsafe { $load }
            }
            #[cfg(target_arch = "x86_64")]
            #[inline(always)]
            unsafe fn multiply_add(left: __m512, right: __m512, sum: __m512) -> __m512 {
                // SAFETY: the caller's contract.
                unsafe { _mm512_fmadd_ps(left, right, sum) }
            }
        }
    };
}
widened_lanes!(f32, from => _mm512_loadu_ps(from));
widened_lanes!(bf16, from => _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast())))));
widened_lanes!(f16, from => _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())));

impl Lanes for Pair {
    type Left = Pair;
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn splat(left: Pair) -> __m512 {
        // SAFETY: the caller's contract.
        unsafe { _mm512_castsi512_ps(_mm512_set1_epi32(left.0 as i32)) }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load(from: *const Self) -> __m512 {
        // SAFETY: the caller's contract.
        unsafe { _mm512_loadu_ps(from.cast()) }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn multiply_add(left: __m512, right: __m512, sum: __m512) -> __m512 {
        // SAFETY: the same 512 bits under another name.
        let bits = |x: __m512| unsafe { std::mem::transmute::<__m512, __m512bh>(x) };
        // SAFETY: the caller's contract.
        unsafe { _mm512_dpbf16_ps(sum, bits(left), bits(right)) }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn kernel_dots<T: Lanes, const M: usize, const PACKED: bool>(
    kc: usize,
    a: Left<T::Left>,
    b: View<T>,
    ahead: Ahead,
    out: OutAt,
) {
    // SAFETY: the caller's contract.
    unsafe { kernel_of_16_lanes::<T, M, PACKED>(kc, a, b, ahead, out) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn kernel_avx512<T: Lanes, const M: usize, const PACKED: bool>(
    kc: usize,
    a: Left<T::Left>,
    b: View<T>,
    ahead: Ahead,
    out: OutAt,
) {
    // SAFETY: the caller's contract.
    unsafe { kernel_of_16_lanes::<T, M, PACKED>(kc, a, b, ahead, out) }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn kernel_of_16_lanes<T: Lanes, const M: usize, const PACKED: bool>(
    kc: usize,
    a: Left<T::Left>,
    b: View<T>,
    ahead: Ahead,
    out: OutAt,
) {
    let (b, b_row) = (b.data.as_ptr(), b.row);
    let (a_row, a_column, a) = if PACKED { (1, M, a.data.as_ptr()) } else { (a.row, a.column, a.data.as_ptr()) };
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
            let left = T::load(b.add(p * b_row));
            let right = T::load(b.add(p * b_row + 16));
            if ahead != 0 {
                let next = b.wrapping_add(p * b_row + ahead).cast::<i8>(); // a prefetch never faults
                _mm_prefetch::<_MM_HINT_T1>(next);
                if size_of::<T>() == 4 {
                    _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(64));
                }
            }
            for (i, row) in sums.iter_mut().enumerate() {
                let x = T::splat(*a.add(p * a_column + i * a_row));
                row[0] = T::multiply_add(x, left, row[0]);
                row[1] = T::multiply_add(x, right, row[1]);
            }
        }
        for (i, row) in sums.iter().enumerate() {
            _mm512_storeu_ps(out.data.add(i * out.row), row[0]);
            _mm512_storeu_ps(out.data.add(i * out.row + 16), row[1]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn kernel_avx2<T: Stored, const M: usize, const PACKED: bool>(
    kc: usize,
    a: Left<f32>,
    b: View<T>,
    ahead: Ahead,
    out: OutAt,
) {
    let (b, b_row) = (b.data.as_ptr(), b.row);
    let (a_row, a_column, a) = if PACKED { (1, M, a.data.as_ptr()) } else { (a.row, a.column, a.data.as_ptr()) };
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
            let left = T::load_8(b.add(p * b_row));
            let right = T::load_8(b.add(p * b_row + 8));
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

/// The plain twin of the other kernels.
///
/// # Safety
/// As `Element::kernel`.
unsafe fn kernel_scalar<T: Element>(m: usize, kc: usize, a: Left<T::Left>, b: View<T>, out: OutAt) {
    let width = panel_width();
    for i in 0..m {
        // SAFETY: row i of the output.
        let row = unsafe { std::slice::from_raw_parts_mut(out.data.add(i * out.row), width) };
        if !out.accumulate {
            row.fill(0.0);
        }
        for p in 0..kc {
            let left = a.data[i * a.row + p * a.column];
            for (j, sum) in row.iter_mut().enumerate() {
                *sum = b.data[p * b.row + j].multiply_add(left, *sum);
            }
        }
    }
}

/// For runs of a few elements, where a call of memmove costs more than it moves.
#[inline(always)]
pub fn copy_few<T: Copy>(to: &mut [T], from: &[T]) {
    let (to_chunks, to_rest) = to.as_chunks_mut::<4>();
    let (from_chunks, from_rest) = from.as_chunks::<4>();
    for (to, from) in to_chunks.iter_mut().zip(from_chunks) {
        *to = *from;
    }
    for (to, from) in to_rest.iter_mut().zip(from_rest) {
        *to = *from;
    }
}
