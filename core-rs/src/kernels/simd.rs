//! Run-time choice of the instruction set, and elementary functions that the compiler can vectorise.
//!
//! The binary is compiled for plain x86-64; `simd!` compiles a body again for AVX2 and for AVX-512 and picks one at run
//! time. Every body adds in an order that does not depend on the vector width, so all three give the same bits.
use std::sync::OnceLock;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 with dot products of bf16.
    Avx512Bf16,
    Avx512,
    Avx2,
    Scalar,
}

impl Isa {
    pub fn is_avx512(self) -> bool {
        matches!(self, Isa::Avx512Bf16 | Isa::Avx512)
    }
}

/// The widest set of this processor, or a narrower one that the environment variable GRPO_CL_ISA names (`avx512`, `avx2`,
/// `scalar`).
pub fn isa() -> Isa {
    static ISA: OnceLock<Isa> = OnceLock::new();
    *ISA.get_or_init(|| match std::env::var("GRPO_CL_ISA").as_deref() {
        Ok("scalar") => Isa::Scalar,
        Ok("avx2") if has_avx2() => Isa::Avx2,
        Ok("avx512") if has_avx512() => Isa::Avx512,
        _ if has_avx512() && has_bf16_dots() => Isa::Avx512Bf16,
        _ if has_avx512() => Isa::Avx512,
        _ if has_avx2() => Isa::Avx2,
        _ => Isa::Scalar,
    })
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    has_avx2() && is_x86_feature_detected!("avx512f")
}

#[cfg(target_arch = "x86_64")]
fn has_bf16_dots() -> bool {
    is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx2() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_bf16_dots() -> bool {
    false
}

/// Defines a function whose body is compiled for each instruction set.
macro_rules! simd {
    ($(#[$meta:meta])* pub fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        pub fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn wide($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn narrow($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                match $crate::kernels::simd::isa() {
                    // SAFETY: `isa` has seen these features on this processor.
                    $crate::kernels::simd::Isa::Avx512Bf16 | $crate::kernels::simd::Isa::Avx512 => return unsafe { wide($($arg),*) },
                    // SAFETY: as above.
                    $crate::kernels::simd::Isa::Avx2 => return unsafe { narrow($($arg),*) },
                    $crate::kernels::simd::Isa::Scalar => {}
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use simd;

/// Lanes of a reduction: element i goes to lane i mod LANES, lanes are joined in a fixed tree.
pub const LANES: usize = 16;

#[inline(always)]
pub fn join_sum(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// e^x to about 1 ulp, without branches; 0 below -87 (Cephes' reduction and polynomial).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    // adding 1.5·2²³ rounds to a whole number and leaves it in the low bits
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.0, 88.0);
    let rounded = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-LN2_LO, n.mul_add(-LN2_HI, clamped));
    let p = 1.987_569_1e-4f32;
    let p = p.mul_add(r, 1.398_2e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 5e-1);
    let e = p.mul_add(r * r, r) + 1.0;
    let scale = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.0 { 0.0 } else { e * scale }
}

simd! {
    /// Largest entry; -inf for an empty slice.
    pub fn max(x: &[f32]) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let chunks = x.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for i in 0..LANES { lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] }; }
        }
        let mut best = f32::NEG_INFINITY;
        for value in lanes.iter().chain(rest) { if *value > best { best = *value; } }
        best
    }
}

simd! {
    /// x_i ← e^(scale·x_i − shift); returns the sum.
    pub fn exp_shifted(x: &mut [f32], scale: f32, shift: f32) -> f32 {
        let mut lanes = [0f32; LANES];
        let mut chunks = x.chunks_exact_mut(LANES);
        for chunk in &mut chunks {
            for i in 0..LANES {
                chunk[i] = exp(chunk[i].mul_add(scale, -shift));
                lanes[i] += chunk[i];
            }
        }
        for (i, value) in chunks.into_remainder().iter_mut().enumerate() {
            *value = exp(value.mul_add(scale, -shift));
            lanes[i] += *value;
        }
        join_sum(lanes)
    }
}

simd! {
    /// Σ e^(scale·x_i − shift), leaving x as it is.
    pub fn sum_exp_shifted(x: &[f32], scale: f32, shift: f32) -> f32 {
        let mut lanes = [0f32; LANES];
        let chunks = x.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for i in 0..LANES { lanes[i] += exp(chunk[i].mul_add(scale, -shift)); }
        }
        for (i, value) in rest.iter().enumerate() { lanes[i] += exp(value.mul_add(scale, -shift)); }
        join_sum(lanes)
    }
}

simd! {
    pub fn dot(x: &[f32], y: &[f32]) -> f32 {
        let mut lanes = [0f32; LANES];
        let (xs, ys) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
        let (x_rest, y_rest) = (xs.remainder(), ys.remainder());
        for (a, b) in xs.zip(ys) {
            for i in 0..LANES { lanes[i] = a[i].mul_add(b[i], lanes[i]); }
        }
        for (i, (a, b)) in x_rest.iter().zip(y_rest).enumerate() { lanes[i] = a.mul_add(*b, lanes[i]); }
        join_sum(lanes)
    }
}

simd! {
    /// In double precision, for sums over millions of weights.
    pub fn dot_f64(x: &[f32], y: &[f32]) -> f64 {
        let mut lanes = [0f64; LANES];
        let (xs, ys) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
        let (x_rest, y_rest) = (xs.remainder(), ys.remainder());
        for (a, b) in xs.zip(ys) {
            for i in 0..LANES { lanes[i] = (a[i] as f64).mul_add(b[i] as f64, lanes[i]); }
        }
        for (i, (a, b)) in x_rest.iter().zip(y_rest).enumerate() { lanes[i] = (*a as f64).mul_add(*b as f64, lanes[i]); }
        lanes.iter().sum()
    }
}

simd! {
    pub fn scale(x: &mut [f32], factor: f32) {
        for value in x { *value *= factor; }
    }
}

/// log Σ_j e^(logits_j / temperature), the normaliser of the sampling distribution. Sampling and training both use this
/// one function, so their log-probabilities are the same bits.
pub fn log_sum_exp(logits_v: &[f32], inverse_temperature: f32) -> f32 {
    let shift = max(logits_v) * inverse_temperature;
    shift + sum_exp_shifted(logits_v, inverse_temperature, shift).ln()
}

#[cfg(test)]
mod tests {
    #[test]
    fn exp_is_within_two_ulp_of_the_standard_library() {
        for i in -86_000..87_000 {
            let x = i as f32 * 1e-3;
            let (ours, exact) = (super::exp(x) as f64, (x as f64).exp());
            assert!(((ours - exact) / exact).abs() < 2.4e-7, "exp({x}) = {ours}, not {exact}");
        }
        assert_eq!(super::exp(f32::NEG_INFINITY), 0.0);
    }
}
