//! Models, sampling and gradient steps for grpo-cl. Imports go left to right:
//! `kernels · model · train · text · engine · ffi`. Raw pointers from outside are `ffi`'s alone; `kernels` has some of its own,
//! where threads write disjoint parts of one array.
pub mod engine;
pub mod error;
pub mod ffi;
pub mod kernels;
pub mod model;
pub mod text;
pub mod train;
