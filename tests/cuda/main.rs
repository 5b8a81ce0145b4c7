//! The CUDA backend on the emulated GPU, all its checks on.

mod attention;
mod cached_attention;
mod cards;
mod guarded;
mod loss;
mod moving;
mod norms;
mod optimizer;
