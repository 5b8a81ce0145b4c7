//! Error codes of the driver API, their names and sentences, and which finding gives which.

use std::ffi::{CStr, c_char};

use handloom_emulator::FindingKind;

/// A `CUresult`.
pub type Code = i32;

macro_rules! codes {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        $( pub const $name: Code = $value; )*

        /// Name and sentence of a code.
        fn known(code: Code) -> Option<(&'static CStr, &'static CStr)> {
            const fn c(text: &'static str) -> &'static CStr {
                match CStr::from_bytes_with_nul(text.as_bytes()) {
                    Ok(c) => c,
                    Err(_) => c"",
                }
            }
            match code {
                $( $value => Some((c(concat!("CUDA_", stringify!($name), "\0")), c(concat!($text, "\0")))), )*
                _ => None,
            }
        }
    };
}

codes! {
    SUCCESS = 0, "no error";
    ERROR_INVALID_VALUE = 1, "invalid argument";
    ERROR_OUT_OF_MEMORY = 2, "out of memory";
    ERROR_NOT_INITIALIZED = 3, "initialization error";
    ERROR_INVALID_DEVICE = 101, "invalid device ordinal";
    ERROR_INVALID_CONTEXT = 201, "invalid device context";
    ERROR_INVALID_PTX = 218, "a PTX JIT compilation failed";
    ERROR_FILE_NOT_FOUND = 301, "file not found";
    ERROR_INVALID_HANDLE = 400, "invalid resource handle";
    ERROR_NOT_FOUND = 500, "named symbol not found";
    ERROR_ILLEGAL_ADDRESS = 700, "an illegal memory access was encountered";
    ERROR_LAUNCH_TIMEOUT = 702, "the launch timed out and was terminated";
    ERROR_ASSERT = 710, "device-side assert triggered";
    ERROR_HARDWARE_STACK_ERROR = 714, "hardware stack error";
    ERROR_MISALIGNED_ADDRESS = 716, "misaligned address";
    ERROR_INVALID_ADDRESS_SPACE = 717, "operation not supported on global/shared address space";
    ERROR_LAUNCH_FAILED = 719, "unspecified launch failure";
    ERROR_NOT_SUPPORTED = 801, "operation not supported";
}

/// The code hardware gives for what a finding describes; checks that hardware lacks give a failed launch.
pub fn of_finding(kind: FindingKind) -> Code {
    match kind {
        FindingKind::OutOfBounds | FindingKind::ReadOnlyWrite => ERROR_ILLEGAL_ADDRESS,
        FindingKind::Misaligned => ERROR_MISALIGNED_ADDRESS,
        FindingKind::WrongSpace => ERROR_INVALID_ADDRESS_SPACE,
        FindingKind::AssertFailed => ERROR_ASSERT,
        FindingKind::StackOverflow => ERROR_HARDWARE_STACK_ERROR,
        FindingKind::Deadlock | FindingKind::Endless => ERROR_LAUNCH_TIMEOUT,
        _ => ERROR_LAUNCH_FAILED,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(code: Code, out: *mut *const c_char) -> Code {
    // SAFETY: `out` is null or valid, by the API's contract.
    unsafe { text(out, known(code).map(|k| k.0)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(code: Code, out: *mut *const c_char) -> Code {
    // SAFETY: `out` is null or valid, by the API's contract.
    unsafe { text(out, known(code).map(|k| k.1)) }
}

/// # Safety
/// `out` is null or valid for a write.
unsafe fn text(out: *mut *const c_char, text: Option<&'static CStr>) -> Code {
    // SAFETY: the caller's promise.
    let Some(out) = (unsafe { out.as_mut() }) else { return ERROR_INVALID_VALUE };
    *out = text.map_or(std::ptr::null(), CStr::as_ptr);
    if text.is_some() { SUCCESS } else { ERROR_INVALID_VALUE }
}
