//! cuGetExportTable: tables of functions without names or documents, by which NVIDIA's own libraries speak to NVIDIA's
//! driver. There are none here. The CUDA runtime is the library that programs need most of these; it asks for a proof
//! that the driver is NVIDIA's, which this one is not and does not claim to be.

use crate::errors::*;
use crate::ffi::{In, Out};
use crate::state::*;

/// The table by which the CUDA runtime begins; others are optional to those who ask.
const RUNTIME: [u8; 16] =
    [0x6b, 0xd5, 0xfb, 0x6c, 0x5b, 0xf4, 0xe7, 0x4a, 0x89, 0x87, 0xd9, 0x39, 0x12, 0xfd, 0x9d, 0xf9];

/// # Errors
/// `ERROR_NOT_FOUND`, and a word about what to do for those who cannot go on.
#[unsafe(no_mangle)]
pub extern "C" fn cuGetExportTable(out: Out<usize>, id: In<[u8; 16]>) -> Code {
    code(out.required().and_then(|_| id.get()).and_then(|id| {
        if id == RUNTIME {
            let what = "NVIDIA's CUDA runtime (libcudart) works with NVIDIA's driver only; build the program with \
                        `nvcc -cudart shared`, and let it find the emulator's libcudart.so instead";
            say_once("the runtime's table", what);
        }
        Err(ERROR_NOT_FOUND)
    }))
}
