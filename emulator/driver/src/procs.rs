//! cuGetProcAddress: the address of a function by name, for the newest version of it that there is.

use std::ffi::{CStr, c_char, c_int, c_void};

use crate::errors::*;
use crate::state::put;
use crate::unsupported;

macro_rules! table {
    ($($module:ident: $($name:ident),*;)*) => {
        fn exact(name: &str) -> Option<*mut c_void> {
            match name {
                $( $( stringify!($name) => Some(crate::$module::$name as *mut c_void), )* )*
                "cuGetProcAddress_v2" => Some(cuGetProcAddress_v2 as *mut c_void),
                _ => unsupported::find(name),
            }
        }
    };
}

table! {
    device: cuCtxCreate_v2, cuCtxCreate_v4, cuCtxDestroy_v2, cuCtxGetCacheConfig, cuCtxGetCurrent, cuCtxGetDevice, cuCtxGetLimit, cuCtxGetStreamPriorityRange, cuCtxPopCurrent_v2, cuCtxPushCurrent_v2, cuCtxSetCacheConfig, cuCtxSetCurrent, cuCtxSetFlags, cuCtxSetLimit, cuCtxSynchronize, cuDeviceComputeCapability, cuDeviceGet, cuDeviceGetAttribute, cuDeviceGetCount, cuDeviceGetName, cuDeviceGetUuid, cuDeviceGetUuid_v2, cuDevicePrimaryCtxGetState, cuDevicePrimaryCtxRelease_v2, cuDevicePrimaryCtxReset_v2, cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxSetFlags_v2, cuDeviceTotalMem_v2, cuDriverGetVersion, cuInit;
    errors: cuGetErrorName, cuGetErrorString;
    events: cuEventCreate, cuEventDestroy_v2, cuEventElapsedTime, cuEventElapsedTime_v2, cuEventQuery, cuEventRecord, cuEventRecordWithFlags, cuEventSynchronize, cuStreamCreate, cuStreamCreateWithPriority, cuStreamDestroy_v2, cuStreamIsCapturing, cuStreamQuery, cuStreamSynchronize, cuStreamWaitEvent;
    launch: cuLaunchHostFunc, cuLaunchKernel;
    memory: cuMemAllocAsync, cuMemAllocHost_v2, cuMemAlloc_v2, cuMemFreeAsync, cuMemFreeHost, cuMemFree_v2, cuMemGetInfo_v2, cuMemHostAlloc, cuMemcpyDtoDAsync_v2, cuMemcpyDtoD_v2, cuMemcpyDtoHAsync_v2, cuMemcpyDtoH_v2, cuMemcpyHtoDAsync_v2, cuMemcpyHtoD_v2, cuMemsetD16Async, cuMemsetD16_v2, cuMemsetD32Async, cuMemsetD32_v2, cuMemsetD8Async, cuMemsetD8_v2;
    modules: cuFuncGetAttribute, cuFuncSetAttribute, cuFuncSetCacheConfig, cuModuleGetFunction, cuModuleGetGlobal_v2, cuModuleLoad, cuModuleLoadData, cuModuleLoadDataEx, cuModuleUnload, cuOccupancyMaxActiveBlocksPerMultiprocessor, cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags;
}

/// `cuMemAlloc` means `cuMemAlloc_v2`, as the header's macros have it.
fn newest(name: &str) -> Option<*mut c_void> {
    ["_v4", "_v3", "_v2", ""].iter().find_map(|version| exact(&format!("{name}{version}")))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress_v2(
    symbol: *const c_char,
    out: *mut *mut c_void,
    _version: c_int,
    _flags: u64,
    status: *mut c_int,
) -> Code {
    if symbol.is_null() || out.is_null() {
        return ERROR_INVALID_VALUE;
    }
    // SAFETY: a C string, by the API's contract.
    let name = unsafe { CStr::from_ptr(symbol) }.to_string_lossy();
    let found = newest(&name);
    // SAFETY: `out` is valid and `status` null or valid, by the API's contract.
    unsafe {
        out.write(found.unwrap_or(std::ptr::null_mut()));
        if !status.is_null() {
            // CU_GET_PROC_ADDRESS_SUCCESS, or _SYMBOL_NOT_FOUND.
            if let Err(code) = put(status, found.is_none() as c_int) {
                return code;
            }
        }
    }
    if found.is_some() { SUCCESS } else { ERROR_NOT_FOUND }
}
