//! Tensor operations. Each fused one has a plain twin in candle operations, which is its documentation, its test, and
//! what runs on devices other than the CPU.
mod attention;
mod elementwise;
pub mod gemm;
mod micro;
mod products;
pub mod simd;
mod slices;
mod vocabulary;

pub use attention::{
    Attended, CachedRows, CachedSpan, HeadShape, Node, attention, attention_backward, cached_attention,
};
pub use elementwise::{
    Rotation, column_sums, gather_rows, rms_norm, rms_norm_backward, rotate, scatter_add_rows, sum, swiglu,
    swiglu_backward, zeros_like,
};
pub use products::{Operand, Weight, linear, linear_weight_gradient, product_into};
pub use slices::{read, uninitialised, write};
pub use vocabulary::{
    Chunk, Distribution, Slope, Target, log_softmax, token_gradient, vocabulary_backward, vocabulary_forward,
    vocabulary_logits,
};

/// Which body runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kernels {
    /// Fused loops of this crate, on the CPU.
    Fused,
    /// candle's operations, on any device.
    Plain,
}
