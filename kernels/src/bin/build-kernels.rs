//! Compiles `cuda/**/*.cu` to the committed PTX and writes its manifest.
//!
//! `CUDA=ROOT cargo run -p handloom-kernels --bin build-kernels [-- --check]`, where ROOT/bin holds nvcc and ptxas (pip's
//! nvidia-cuda-nvcc puts them under site-packages/nvidia/cu13). Only sources whose hash changed are compiled; `--check` compiles all
//! and fails where the committed files differ.

use std::path::PathBuf;
use std::process::ExitCode;

use handloom_kernels::build::build;

fn main() -> ExitCode {
    let Some(cuda) = std::env::var_os("CUDA").map(PathBuf::from) else {
        eprintln!(
            "build-kernels: set CUDA to the toolkit's root: pip install nvidia-cuda-nvcc nvidia-nvvm nvidia-cuda-crt \
             nvidia-cuda-runtime nvidia-cuda-cccl (13.0), then CUDA=.../site-packages/nvidia/cu13"
        );
        return ExitCode::FAILURE;
    };
    match build(&cuda, std::env::args().any(|arg| arg == "--check")) {
        Ok(message) => {
            println!("{message}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("build-kernels: {message}");
            ExitCode::FAILURE
        }
    }
}
