//! The CPU kernels: plain loops over slices, vectorised by the compiler, parallel over rayon's threads.
//!
//! They know slices and sizes, never tensors. Storage may be f32, f16 or bf16; every accumulator is f32. A reduction's
//! order is a function of the sizes alone, so results do not depend on the number of threads or the CPU's vector width.

pub mod attention;
pub mod cross_entropy;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
pub mod gelu;
pub mod gemm;
pub mod gemv;
pub mod layernorm;
pub mod linear_cross_entropy;
pub mod matmul;
pub mod parallel;
pub mod rmsnorm;
pub mod simd;
pub mod softmax;
