//! The forms of functions for programs compiled with a default stream for each thread: a null stream means the calling
//! thread's own. Copies that wait (`_ptds`) do what they do in any stream.

use std::ffi::{c_int, c_uint, c_void};

use crate::batches::{self, Attributes, Batch3};
use crate::copy::{self, Memcpy2, Memcpy3};
use crate::errors::Code;
use crate::ffi::{In, Out};
use crate::graph::exec::{self, InstantiateParams};
use crate::launch::{self, Config};
use crate::pools::{self, Location};
use crate::state::*;
use crate::stream_values::{self, BatchOp};
use crate::{capture, events, fills, hints, streams};

/// A stream whose null is the thread's own.
#[repr(transparent)]
pub struct Own(Handle);

impl From<Own> for Handle {
    fn from(stream: Own) -> Handle {
        if stream.0.is_null() { PER_THREAD as Handle } else { stream.0 }
    }
}

/// As [`Own`], in the configuration of a launch.
#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchKernelEx_ptsz(
    config: In<Config>,
    function: Handle,
    params: In<usize>,
    extra: In<usize>,
) -> Code {
    launch::launch_with(config, PER_THREAD, function, params, extra)
}

macro_rules! per_thread {
    ($($name:ident = $module:ident::$function:ident($($arg:ident: $ty:ty),*);)*) => {
        $(
            #[unsafe(no_mangle)]
            pub extern "C" fn $name($($arg: $ty),*) -> Code {
                #[allow(clippy::useless_conversion)] // only the stream is converted
                $module::$function($($arg.into()),*)
            }
        )*

        /// Addresses by name.
        pub fn find(name: &str) -> Option<*mut c_void> {
            match name {
                "cuLaunchKernelEx_ptsz" => Some(cuLaunchKernelEx_ptsz as *mut c_void),
                $( stringify!($name) => Some($name as *mut c_void), )*
                _ => None,
            }
        }
    };
}

per_thread! {
    cuEventRecord_ptsz = events::cuEventRecord(event: Handle, stream: Own);
    cuEventRecordWithFlags_ptsz = events::cuEventRecordWithFlags(event: Handle, stream: Own, flags: c_uint);
    cuGraphInstantiateWithParams_ptsz = exec::cuGraphInstantiateWithParams(out: Out<usize>, graph: Handle, params: Out<InstantiateParams>);
    cuGraphLaunch_ptsz = exec::cuGraphLaunch(exec: Handle, stream: Own);
    cuGraphUpload_ptsz = exec::cuGraphUpload(exec: Handle, stream: Own);
    cuLaunchCooperativeKernel_ptsz = launch::cuLaunchCooperativeKernel(function: Handle, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint, block_z: c_uint, shared: c_uint, stream: Own, params: In<usize>);
    cuLaunchHostFunc_ptsz = streams::cuLaunchHostFunc(stream: Own, function: Option<unsafe extern "C" fn(*mut c_void)>, data: *mut c_void);
    cuLaunchKernel_ptsz = launch::cuLaunchKernel(function: Handle, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint, block_z: c_uint, shared: c_uint, stream: Own, params: In<usize>, extra: In<usize>);
    cuMemAllocAsync_ptsz = pools::cuMemAllocAsync(out: Out<u64>, bytes: usize, stream: Own);
    cuMemAllocFromPoolAsync_ptsz = pools::cuMemAllocFromPoolAsync(out: Out<u64>, bytes: usize, pool: Handle, stream: Own);
    cuMemFreeAsync_ptsz = pools::cuMemFreeAsync(address: u64, stream: Own);
    cuMemPrefetchAsync_v2_ptsz = hints::cuMemPrefetchAsync_v2(address: u64, bytes: usize, location: Location, flags: c_uint, stream: Own);
    cuMemcpy_ptds = copy::cuMemcpy(to: u64, from: u64, bytes: usize);
    cuMemcpy2DAsync_v2_ptsz = copy::cuMemcpy2DAsync_v2(copy: In<Memcpy2>, stream: Own);
    cuMemcpy2DUnaligned_v2_ptds = copy::cuMemcpy2DUnaligned_v2(copy: In<Memcpy2>);
    cuMemcpy2D_v2_ptds = copy::cuMemcpy2D_v2(copy: In<Memcpy2>);
    cuMemcpy3DAsync_v2_ptsz = copy::cuMemcpy3DAsync_v2(copy: In<Memcpy3>, stream: Own);
    cuMemcpy3D_v2_ptds = copy::cuMemcpy3D_v2(copy: In<Memcpy3>);
    cuMemcpyAsync_ptsz = copy::cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: Own);
    cuMemcpyDtoDAsync_v2_ptsz = copy::cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Own);
    cuMemcpyDtoD_v2_ptds = copy::cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize);
    cuMemcpyDtoHAsync_v2_ptsz = copy::cuMemcpyDtoHAsync_v2(to: Out<u8>, from: u64, bytes: usize, stream: Own);
    cuMemcpyDtoH_v2_ptds = copy::cuMemcpyDtoH_v2(to: Out<u8>, from: u64, bytes: usize);
    cuMemcpyHtoDAsync_v2_ptsz = copy::cuMemcpyHtoDAsync_v2(to: u64, from: In<u8>, bytes: usize, stream: Own);
    cuMemcpyHtoD_v2_ptds = copy::cuMemcpyHtoD_v2(to: u64, from: In<u8>, bytes: usize);
    cuMemcpyPeer_ptds = copy::cuMemcpyPeer(to: u64, to_context: Handle, from: u64, from_context: Handle, n: usize);
    cuMemcpyPeerAsync_ptsz = copy::cuMemcpyPeerAsync(to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize, stream: Own);
    cuMemsetD16Async_ptsz = fills::cuMemsetD16Async(address: u64, value: u16, count: usize, stream: Own);
    cuMemsetD16_v2_ptds = fills::cuMemsetD16_v2(address: u64, value: u16, count: usize);
    cuMemsetD2D16Async_ptsz = fills::cuMemsetD2D16Async(address: u64, pitch: usize, value: u16, width: usize, height: usize, stream: Own);
    cuMemsetD2D16_v2_ptds = fills::cuMemsetD2D16_v2(address: u64, pitch: usize, value: u16, width: usize, height: usize);
    cuMemsetD2D32Async_ptsz = fills::cuMemsetD2D32Async(address: u64, pitch: usize, value: u32, width: usize, height: usize, stream: Own);
    cuMemsetD2D32_v2_ptds = fills::cuMemsetD2D32_v2(address: u64, pitch: usize, value: u32, width: usize, height: usize);
    cuMemsetD2D8Async_ptsz = fills::cuMemsetD2D8Async(address: u64, pitch: usize, value: u8, width: usize, height: usize, stream: Own);
    cuMemsetD2D8_v2_ptds = fills::cuMemsetD2D8_v2(address: u64, pitch: usize, value: u8, width: usize, height: usize);
    cuMemsetD32Async_ptsz = fills::cuMemsetD32Async(address: u64, value: c_uint, count: usize, stream: Own);
    cuMemsetD32_v2_ptds = fills::cuMemsetD32_v2(address: u64, value: c_uint, count: usize);
    cuMemsetD8Async_ptsz = fills::cuMemsetD8Async(address: u64, value: u8, count: usize, stream: Own);
    cuMemsetD8_v2_ptds = fills::cuMemsetD8_v2(address: u64, value: u8, count: usize);
    cuStreamAddCallback_ptsz = streams::cuStreamAddCallback(stream: Own, callback: Option<streams::Callback>, data: *mut c_void, flags: c_uint);
    cuStreamAttachMemAsync_ptsz = streams::cuStreamAttachMemAsync(stream: Own, address: u64, length: usize, flags: c_uint);
    cuStreamBeginCaptureToGraph_ptsz = capture::cuStreamBeginCaptureToGraph(stream: Own, graph: Handle, dependencies: In<usize>, edges: In<u64>, count: usize, mode: c_uint);
    cuStreamBeginCapture_v2_ptsz = capture::cuStreamBeginCapture_v2(stream: Own, mode: c_uint);
    cuStreamCopyAttributes_ptsz = streams::cuStreamCopyAttributes(to: Own, from: Own);
    cuStreamEndCapture_ptsz = capture::cuStreamEndCapture(stream: Own, graph: Out<usize>);
    cuStreamGetAttribute_ptsz = hints::cuStreamGetAttribute(stream: Own, attribute: c_int, value: Out<[u64; 8]>);
    cuStreamGetCaptureInfo_v3_ptsz = capture::cuStreamGetCaptureInfo_v3(stream: Own, status: Out<c_int>, id: Out<u64>, graph: Out<usize>, dependencies: Out<*const usize>, edges: Out<*const u64>, count: Out<usize>);
    cuStreamGetCtx_ptsz = streams::cuStreamGetCtx(stream: Own, out: Out<usize>);
    cuStreamGetDevice_ptsz = streams::cuStreamGetDevice(stream: Own, out: Out<c_int>);
    cuStreamGetFlags_ptsz = streams::cuStreamGetFlags(stream: Own, out: Out<c_uint>);
    cuStreamGetId_ptsz = streams::cuStreamGetId(stream: Own, out: Out<u64>);
    cuStreamGetPriority_ptsz = streams::cuStreamGetPriority(stream: Own, out: Out<c_int>);
    cuStreamIsCapturing_ptsz = capture::cuStreamIsCapturing(stream: Own, out: Out<c_int>);
    cuStreamQuery_ptsz = streams::cuStreamQuery(stream: Own);
    cuStreamSetAttribute_ptsz = streams::cuStreamSetAttribute(stream: Own, attribute: c_int, value: In<u8>);
    cuStreamSynchronize_ptsz = streams::cuStreamSynchronize(stream: Own);
    cuStreamUpdateCaptureDependencies_v2_ptsz = capture::cuStreamUpdateCaptureDependencies_v2(stream: Own, nodes: In<usize>, edges: In<u64>, count: usize, flags: c_uint);
    cuStreamWaitEvent_ptsz = streams::cuStreamWaitEvent(stream: Own, event: Handle, flags: c_uint);
    cuStreamGetCaptureInfo_v2_ptsz = capture::cuStreamGetCaptureInfo_v2(stream: Own, status_out: Out<c_int>, id: Out<u64>, graph: Out<usize>, dependencies: Out<*const usize>, count: Out<usize>);
    cuStreamGetCaptureInfo_ptsz = capture::cuStreamGetCaptureInfo(stream: Own, status: Out<c_int>, id: Out<u64>);
    cuStreamBeginCapture_ptsz = capture::cuStreamBeginCapture(stream: Own);
    cuStreamUpdateCaptureDependencies_ptsz = capture::cuStreamUpdateCaptureDependencies(stream: Own, nodes: In<usize>, count: usize, flags: c_uint);
    cuStreamGetCtx_v2_ptsz = streams::cuStreamGetCtx_v2(stream: Own, out: Out<usize>, green: Out<usize>);
    cuStreamWaitValue32_v2_ptsz = stream_values::cuStreamWaitValue32_v2(stream: Own, address: u64, value: u32, flags: c_uint);
    cuStreamWaitValue64_v2_ptsz = stream_values::cuStreamWaitValue64_v2(stream: Own, address: u64, value: u64, flags: c_uint);
    cuStreamWriteValue32_v2_ptsz = stream_values::cuStreamWriteValue32_v2(stream: Own, address: u64, value: u32, flags: c_uint);
    cuStreamWriteValue64_v2_ptsz = stream_values::cuStreamWriteValue64_v2(stream: Own, address: u64, value: u64, flags: c_uint);
    cuStreamBatchMemOp_v2_ptsz = stream_values::cuStreamBatchMemOp_v2(stream: Own, count: c_uint, ops: In<BatchOp>, flags: c_uint);
    cuMemcpyBatchAsync_v2_ptsz = batches::cuMemcpyBatchAsync_v2(targets: In<u64>, sources: In<u64>, sizes: In<usize>, count: usize, attributes: In<Attributes>, starts: In<usize>, attribute_count: usize, stream: Own);
    cuMemcpy3DBatchAsync_v2_ptsz = batches::cuMemcpy3DBatchAsync_v2(count: usize, ops: In<Batch3>, flags: u64, stream: Own);
    cuMemPrefetchBatchAsync_ptsz = batches::cuMemPrefetchBatchAsync(addresses: In<u64>, sizes: In<usize>, count: usize, locations: In<Location>, starts: In<usize>, location_count: usize, flags: u64, stream: Own);
    cuMemDiscardBatchAsync_ptsz = batches::cuMemDiscardBatchAsync(addresses: In<u64>, sizes: In<usize>, count: usize, flags: u64, stream: Own);
    cuMemDiscardAndPrefetchBatchAsync_ptsz = batches::cuMemDiscardAndPrefetchBatchAsync(addresses: In<u64>, sizes: In<usize>, count: usize, locations: In<Location>, starts: In<usize>, location_count: usize, flags: u64, stream: Own);
}
