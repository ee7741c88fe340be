//! Models, sampling and gradient steps for grpo-cl. Imports go left to right:
//! `kernels · model · train · text · engine · ffi`; `ffi` alone holds raw pointers.
pub mod engine;
pub mod error;
pub mod ffi;
pub mod kernels;
pub mod model;
pub mod text;
pub mod train;
