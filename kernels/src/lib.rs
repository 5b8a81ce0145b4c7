//! The CUDA kernels of a Transformer: source in `cuda/`, PTX in `ptx/`, and typed launchers.
//!
//! A launcher takes device memory ([`slice::Slice`]) and sizes, checks the kernel's limits, computes its launch configuration and
//! starts it. It knows pointers and sizes, never tensors. [`device`] is the only module that names the CUDA binding.

pub mod arena;
pub mod build;
pub mod check;
pub mod device;
pub mod elem;
pub mod error;
pub mod event;
pub mod graph;
pub mod ids;
pub mod manifest;
pub mod memory_plan;
pub mod pinned;
pub mod ptx;
pub mod slice;

mod grid;
mod norm_rows;

pub mod adamw;
pub mod attention;
pub mod cached_attention;
pub mod cast;
pub mod cross_entropy;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
pub mod gelu;
pub mod layernorm;
pub mod loss_scaler;
pub mod matmul;
pub mod norm;
pub mod optimizer;
pub mod reduce;
pub mod rmsnorm;
pub mod softmax;
pub mod study;
pub mod view;
