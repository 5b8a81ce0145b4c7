//! Runs CUDA kernels, as PTX text, on the CPU: stricter than hardware, and counting as a profiler does.
//!
//! [`Module::parse`] reads PTX and lowers each kernel; [`Device`] has global memory and launches kernels, and every
//! launch gives a [`LaunchReport`]: what the kernel did wrong ([`Finding`]) and what it did ([`Counters`]). It knows
//! nothing of any particular kernel. Results are bit-exact where the PTX ISA defines them; where it allows an error
//! (`ex2.approx` and its kin, tensor cores) the arithmetic is stated in [`exec::scalar`] and in the module of
//! tensor-core instructions. It says nothing about time.
//!
//! Supported are the instruction sets of sm_80 and sm_90a as listed in [`ptx::table`]; an unknown form is an error that
//! names it and its line. Not in: im2col, gather and scatter modes of tensor copies and their interleaved layouts,
//! multimem, textures and surfaces.
//!
//! # How it runs a kernel
//! Lanes of a warp at the same instruction form a group; a warp is a list of groups, and there is no reconvergence
//! stack. Registers are rows of 32 lanes in slots that liveness assigns; operations on whole rows are compiled for
//! AVX2 and AVX-512 and chosen at run time. Blocks run in parallel when the kernel cannot make them see each other's
//! work; otherwise one host thread runs all of them, interleaved. The blocks of a cluster always run together.
//!
//! Bulk copies and wgmma are queued when they are issued and happen then, when a wait forces them, or at random
//! ([`AsyncTiming`]); vector clocks for both proxies say who may touch their bytes when ([`check::proxy`]).

pub mod arch;
pub mod check;
mod code;
pub mod counters;
mod device;
mod error;
pub mod exec;
pub mod html;
mod lower;
pub mod memory;
mod module;
mod options;
pub mod ptx;
pub mod tensormap;

pub use arch::Arch;
pub use check::{Finding, Kind as FindingKind};
pub use code::Class;
pub use counters::{Count, Counters, Sums};
pub use device::{Arg, Device, LaunchConfig, LaunchReport, Loaded};
pub use error::{Error, Result};
pub use exec::trace::{Step, TraceTarget, Write};
pub use module::{Kernel, Module, Param};
pub use options::{AsyncTiming, Checks, Options, Schedule, Tensor};
pub use ptx::link::link;
