//! Older forms of functions under the names that they had before a newer form took their place. NVIDIA's driver keeps
//! them, and programs that look functions up by plain name still call them. Those that only know 32-bit addresses stay
//! unsupported.

use std::ffi::{c_int, c_uint, c_void};

use crate::errors::*;
use crate::ffi::{In, Out, Text};
use crate::hints;
use crate::pools::Location;
use crate::state::*;
use crate::stream_values::{self, BatchOp};
use crate::{context, events, host_memory, linker, streams};

/// A device's ordinal as the newer forms say it; CU_DEVICE_CPU (-1) is the host.
fn location(device: c_int) -> Location {
    if device < 0 { Location { kind: 2, id: 0 } } else { Location { kind: 1, id: device } }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAdvise(address: u64, bytes: usize, advice: c_uint, device: c_int) -> Code {
    hints::cuMemAdvise_v2(address, bytes, advice, location(device))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPrefetchAsync(address: u64, bytes: usize, device: c_int, stream: Handle) -> Code {
    hints::cuMemPrefetchAsync_v2(address, bytes, location(device), 0, stream)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPrefetchAsync_ptsz(address: u64, bytes: usize, device: c_int, stream: Handle) -> Code {
    let stream = if stream.is_null() { PER_THREAD as Handle } else { stream };
    cuMemPrefetchAsync(address, bytes, device, stream)
}

macro_rules! older {
    ($($name:ident = $module:ident::$function:ident($($arg:ident: $ty:ty),*);)*) => {
        $(
            #[unsafe(no_mangle)]
            pub extern "C" fn $name($($arg: $ty),*) -> Code {
                $module::$function($($arg),*)
            }
        )*

        /// Addresses by name.
        pub fn find(name: &str) -> Option<*mut c_void> {
            match name {
                "cuMemAdvise" => Some(cuMemAdvise as *mut c_void),
                "cuMemPrefetchAsync" => Some(cuMemPrefetchAsync as *mut c_void),
                "cuMemPrefetchAsync_ptsz" => Some(cuMemPrefetchAsync_ptsz as *mut c_void),
                $( stringify!($name) => Some($name as *mut c_void), )*
                _ => None,
            }
        }
    };
}

older! {
    cuCtxCreate = context::cuCtxCreate_v2(out: Out<usize>, flags: c_uint, device: c_int);
    cuCtxDestroy = context::cuCtxDestroy_v2(context: Handle);
    cuCtxPopCurrent = context::cuCtxPopCurrent_v2(out: Out<usize>);
    cuCtxPushCurrent = context::cuCtxPushCurrent_v2(context: Handle);
    cuDevicePrimaryCtxRelease = context::cuDevicePrimaryCtxRelease_v2(device: c_int);
    cuDevicePrimaryCtxReset = context::cuDevicePrimaryCtxReset_v2(device: c_int);
    cuDevicePrimaryCtxSetFlags = context::cuDevicePrimaryCtxSetFlags_v2(device: c_int, flags: c_uint);
    cuEventDestroy = events::cuEventDestroy_v2(event: Handle);
    cuLinkAddData = linker::cuLinkAddData_v2(link: Handle, kind: c_uint, data: In<u8>, size: usize, name: Text, count: c_uint, options: In<c_uint>, values: In<usize>);
    cuLinkAddFile = linker::cuLinkAddFile_v2(link: Handle, kind: c_uint, path: Text, count: c_uint, options: In<c_uint>, values: In<usize>);
    cuLinkCreate = linker::cuLinkCreate_v2(count: c_uint, options: In<c_uint>, values: In<usize>, out: Out<usize>);
    cuMemHostRegister = host_memory::cuMemHostRegister_v2(address: u64, bytes: usize, flags: c_uint);
    cuStreamBatchMemOp = stream_values::cuStreamBatchMemOp_v2(stream: Handle, count: c_uint, ops: In<BatchOp>, flags: c_uint);
    cuStreamDestroy = streams::cuStreamDestroy_v2(stream: Handle);
    cuStreamWaitValue32 = stream_values::cuStreamWaitValue32_v2(stream: Handle, address: u64, value: u32, flags: c_uint);
    cuStreamWaitValue64 = stream_values::cuStreamWaitValue64_v2(stream: Handle, address: u64, value: u64, flags: c_uint);
    cuStreamWriteValue32 = stream_values::cuStreamWriteValue32_v2(stream: Handle, address: u64, value: u32, flags: c_uint);
    cuStreamWriteValue64 = stream_values::cuStreamWriteValue64_v2(stream: Handle, address: u64, value: u64, flags: c_uint);
}
