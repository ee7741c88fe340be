//! One error type below the FFI. Facts live in the error; only `ffi` turns them into codes.
use std::path::PathBuf;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    BadArgument(String),
    #[error("{what} {id} is not live (never opened, released, or made stale by a weight change)")]
    BadHandle { what: &'static str, id: u64 },
    #[error("{path}: {problem}")]
    File { path: PathBuf, problem: String },
    #[error("{path}: unsupported model: {problem}")]
    Unsupported { path: PathBuf, problem: String },
    #[error("{op}: not a finite number")]
    NonFinite { op: &'static str },
    #[error("cancelled")]
    Cancelled,
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}
