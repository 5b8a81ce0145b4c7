//! `libcudart.so`: the CUDA runtime API, as far as programs mostly use it, on the public functions of a CUDA driver.
//!
//! NVIDIA's runtime works with NVIDIA's driver only, by private tables. This one asks a driver for nothing but what
//! `cuda.h` documents, so programs that `nvcc -cudart shared` has built run on the emulated GPU. Where both APIs have
//! the same function under two names, this is a call to the other; what the runtime adds is the registry of kernels and
//! variables that the compiler announces, the current device, and the last error.
//!
//! It is for programs of CUDA 13: those of CUDA 12 have functions with other arguments under the same names. There are
//! no textures and arrays, no `_ptsz` forms, and of the graph API what programs mostly use.
#![allow(non_snake_case)] // the names are the API's

mod calls;
mod device;
mod driver;
mod errors;
mod graphs;
mod launch;
mod memory;
mod registry;
