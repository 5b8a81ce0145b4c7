//! Errors: their names and sentences, and the last one of each thread.

use std::cell::Cell;
use std::ffi::{CStr, c_char};

use crate::driver::{self, Code, SUCCESS};

pub const INVALID_SYMBOL: Code = 13;
pub const INVALID_MEMCPY_DIRECTION: Code = 21;
pub const MISSING_CONFIGURATION: Code = 52;
pub const INVALID_DEVICE_FUNCTION: Code = 98;
pub const INVALID_DEVICE: Code = 101;

thread_local! {
    static LAST: Cell<Code> = const { Cell::new(SUCCESS) };
}

/// Keeps an error as the thread's last, and gives it back. "Not ready" is an answer, not an error.
pub fn done(code: Code) -> Code {
    const NOT_READY: Code = 600;
    if code != SUCCESS && code != NOT_READY {
        LAST.set(code);
    }
    code
}

/// Those that a launch has caused stay until the context is reset: the driver gives them again.
#[unsafe(no_mangle)]
pub extern "C" fn cudaGetLastError() -> Code {
    LAST.replace(SUCCESS)
}

#[unsafe(no_mangle)]
pub extern "C" fn cudaPeekAtLastError() -> Code {
    LAST.get()
}

macro_rules! names {
    ($($code:literal $name:literal,)*) => {
        fn name(code: Code) -> &'static CStr {
            match code {
                $( $code => $name, )*
                _ => c"unrecognized error code",
            }
        }
    };
}

names! {
    0 c"cudaSuccess",
    1 c"cudaErrorInvalidValue",
    2 c"cudaErrorMemoryAllocation",
    3 c"cudaErrorInitializationError",
    4 c"cudaErrorCudartUnloading",
    9 c"cudaErrorInvalidConfiguration",
    12 c"cudaErrorInvalidPitchValue",
    13 c"cudaErrorInvalidSymbol",
    21 c"cudaErrorInvalidMemcpyDirection",
    35 c"cudaErrorInsufficientDriver",
    52 c"cudaErrorMissingConfiguration",
    98 c"cudaErrorInvalidDeviceFunction",
    100 c"cudaErrorNoDevice",
    101 c"cudaErrorInvalidDevice",
    200 c"cudaErrorInvalidKernelImage",
    201 c"cudaErrorDeviceUninitialized",
    209 c"cudaErrorNoKernelImageForDevice",
    215 c"cudaErrorUnsupportedLimit",
    217 c"cudaErrorPeerAccessUnsupported",
    218 c"cudaErrorInvalidPtx",
    222 c"cudaErrorUnsupportedPtxVersion",
    300 c"cudaErrorInvalidSource",
    301 c"cudaErrorFileNotFound",
    400 c"cudaErrorInvalidResourceHandle",
    401 c"cudaErrorIllegalState",
    500 c"cudaErrorSymbolNotFound",
    600 c"cudaErrorNotReady",
    700 c"cudaErrorIllegalAddress",
    701 c"cudaErrorLaunchOutOfResources",
    702 c"cudaErrorLaunchTimeout",
    704 c"cudaErrorPeerAccessAlreadyEnabled",
    705 c"cudaErrorPeerAccessNotEnabled",
    709 c"cudaErrorContextIsDestroyed",
    710 c"cudaErrorAssert",
    712 c"cudaErrorHostMemoryAlreadyRegistered",
    713 c"cudaErrorHostMemoryNotRegistered",
    714 c"cudaErrorHardwareStackError",
    715 c"cudaErrorIllegalInstruction",
    716 c"cudaErrorMisalignedAddress",
    717 c"cudaErrorInvalidAddressSpace",
    718 c"cudaErrorInvalidPc",
    719 c"cudaErrorLaunchFailure",
    720 c"cudaErrorCooperativeLaunchTooLarge",
    800 c"cudaErrorNotPermitted",
    801 c"cudaErrorNotSupported",
    900 c"cudaErrorStreamCaptureUnsupported",
    901 c"cudaErrorStreamCaptureInvalidated",
    902 c"cudaErrorStreamCaptureMerge",
    903 c"cudaErrorStreamCaptureUnmatched",
    904 c"cudaErrorStreamCaptureUnjoined",
    905 c"cudaErrorStreamCaptureIsolation",
    906 c"cudaErrorStreamCaptureImplicit",
    907 c"cudaErrorCapturedEvent",
    908 c"cudaErrorStreamCaptureWrongThread",
    909 c"cudaErrorTimeout",
    910 c"cudaErrorGraphExecUpdateFailure",
    912 c"cudaErrorInvalidClusterSize",
    999 c"cudaErrorUnknown",
}

#[unsafe(no_mangle)]
pub extern "C" fn cudaGetErrorName(code: Code) -> *const c_char {
    name(code).as_ptr()
}

/// The driver's sentence; the runtime's own errors have one here.
#[unsafe(no_mangle)]
pub extern "C" fn cudaGetErrorString(code: Code) -> *const c_char {
    let own = match code {
        9 => c"invalid configuration argument",
        12 => c"invalid pitch argument",
        INVALID_SYMBOL => c"invalid device symbol",
        INVALID_MEMCPY_DIRECTION => c"invalid copy direction for memcpy",
        driver::INSUFFICIENT_DRIVER => c"CUDA driver version is insufficient for CUDA runtime version",
        MISSING_CONFIGURATION => c"__global__ function call is not configured",
        INVALID_DEVICE_FUNCTION => c"invalid device function",
        _ => {
            let mut text = std::ptr::null();
            // SAFETY: a pointer to one result.
            let known = unsafe { driver::cuGetErrorString(code, &mut text) };
            return if known == SUCCESS && !text.is_null() {
                text
            } else {
                c"unrecognized error code".as_ptr()
            };
        }
    };
    own.as_ptr()
}
