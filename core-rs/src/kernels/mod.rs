//! Tensor operations: each fused one has a plain twin in candle operations.
