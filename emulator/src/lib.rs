//! Runs CUDA kernels, as PTX text, on the CPU: stricter than hardware, and counting as a profiler does.
//!
//! [`Module::parse`] reads PTX and lowers each kernel; [`Device`] has global memory and launches kernels, and every
//! launch gives a [`LaunchReport`]: what the kernel did wrong ([`Finding`]) and what it did ([`Counters`]). It knows
//! nothing of any particular kernel. Results are bit-exact where the PTX ISA defines them; where it allows an error
//! (`ex2.approx` and its kin, tensor cores) the arithmetic is stated in [`exec::scalar`] and in the module of
//! tensor-core instructions. It says nothing about time.
//!
//! Supported is the sm_80 instruction set as listed in [`ptx::table`]; an unknown form is an error that names it and
//! its line. Not in yet: sm_90 (mbarrier, bulk and tensor copies, wgmma, clusters), textures and surfaces, video
//! instructions, the old `wmma`, indirect calls, 128-bit registers, linking of several modules, cooperative launches,
//! races in global memory, and the tensor cores' own rounding.
//!
//! # How it runs a kernel
//! Lanes of a warp at the same instruction form a group; a warp is a list of groups, and there is no reconvergence
//! stack. Registers are rows of 32 lanes in slots that liveness assigns; operations on whole rows are compiled for
//! AVX2 and AVX-512 and chosen at run time. Blocks run in parallel when the kernel cannot make them see each other's
//! work; otherwise one host thread runs all of them, interleaved.

pub mod arch;
pub mod check;
mod code;
pub mod counters;
mod device;
mod error;
pub mod exec;
mod lower;
pub mod memory;
mod module;
mod options;
pub mod ptx;

pub use arch::Arch;
pub use check::{Finding, Kind as FindingKind};
pub use code::Class;
pub use counters::{Count, Counters, Sums};
pub use device::{Arg, Device, LaunchConfig, LaunchReport, Loaded};
pub use error::{Error, Result};
pub use module::{Kernel, Module, Param};
pub use options::{AsyncTiming, Checks, Options, Schedule};
