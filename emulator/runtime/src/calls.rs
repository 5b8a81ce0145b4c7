//! Functions that are the driver's under another name: memory, streams, events, graphs.

use std::ffi::{c_char, c_int, c_uint, c_void};

use crate::device;
use crate::driver::{self, Callback, Code};
use crate::errors::done;

/// Calls after a device is current; the name of the runtime, its arguments, and the driver's call.
macro_rules! calls {
    ($($name:ident($($arg:ident: $ty:ty),*) = $function:ident($($value:expr),*);)*) => {
        $(
            /// # Safety
            /// Pointers are valid for what the CUDA runtime's function of this name reads or writes.
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($arg: $ty),*) -> Code {
                done(match device::ready() {
                    // SAFETY: the caller's promise, passed on.
                    Ok(()) => unsafe { driver::$function($($value),*) },
                    Err(code) => code,
                })
            }
        )*
    };
}

calls! {
    cudaMemGetInfo(free: *mut usize, total: *mut usize) = cuMemGetInfo_v2(free, total);
    cudaMallocPitch(out: *mut u64, pitch: *mut usize, width: usize, height: usize) = cuMemAllocPitch_v2(out, pitch, width, height, 16);
    cudaMallocManaged(out: *mut u64, bytes: usize, flags: c_uint) = cuMemAllocManaged(out, bytes, flags.max(1));
    cudaMallocAsync(out: *mut u64, bytes: usize, stream: usize) = cuMemAllocAsync(out, bytes, stream);
    cudaFree(address: u64) = cuMemFree_v2(address);
    cudaFreeAsync(address: u64, stream: usize) = cuMemFreeAsync(address, stream);
    cudaHostAlloc(out: *mut *mut c_void, bytes: usize, flags: c_uint) = cuMemHostAlloc(out, bytes, flags);
    cudaMallocHost(out: *mut *mut c_void, bytes: usize) = cuMemHostAlloc(out, bytes, 0);
    cudaFreeHost(address: *mut c_void) = cuMemFreeHost(address);
    cudaHostRegister(address: *mut c_void, bytes: usize, flags: c_uint) = cuMemHostRegister_v2(address, bytes, flags);
    cudaHostUnregister(address: *mut c_void) = cuMemHostUnregister(address);
    cudaHostGetDevicePointer(out: *mut u64, address: *mut c_void, flags: c_uint) = cuMemHostGetDevicePointer_v2(out, address, flags);
    cudaMemset(address: u64, value: c_int, bytes: usize) = cuMemsetD8_v2(address, value as u8, bytes);
    cudaMemsetAsync(address: u64, value: c_int, bytes: usize, stream: usize) = cuMemsetD8Async(address, value as u8, bytes, stream);
    cudaMemset2D(address: u64, pitch: usize, value: c_int, width: usize, height: usize) = cuMemsetD2D8_v2(address, pitch, value as u8, width, height);
    cudaMemAdvise(address: u64, bytes: usize, advice: c_int, location: u64) = cuMemAdvise_v2(address, bytes, advice, location);
    cudaMemPrefetchAsync(address: u64, bytes: usize, location: u64, flags: c_uint, stream: usize) = cuMemPrefetchAsync_v2(address, bytes, location, flags, stream);
    cudaMemPoolSetAttribute(pool: usize, attribute: c_int, value: *mut c_void) = cuMemPoolSetAttribute(pool, attribute, value);
    cudaMemPoolGetAttribute(pool: usize, attribute: c_int, value: *mut c_void) = cuMemPoolGetAttribute(pool, attribute, value);
    cudaMemPoolTrimTo(pool: usize, keep: usize) = cuMemPoolTrimTo(pool, keep);

    cudaMallocFromPoolAsync(out: *mut u64, bytes: usize, pool: usize, stream: usize) = cuMemAllocFromPoolAsync(out, bytes, pool, stream);
    cudaMemPoolCreate(out: *mut usize, properties: *const c_void) = cuMemPoolCreate(out, properties);
    cudaMemPoolDestroy(pool: usize) = cuMemPoolDestroy(pool);
    cudaMemPoolSetAccess(pool: usize, list: *const c_void, count: usize) = cuMemPoolSetAccess(pool, list, count);
    cudaMemset2DAsync(address: u64, pitch: usize, value: c_int, width: usize, height: usize, stream: usize) = cuMemsetD2D8Async(address, pitch, value as u8, width, height, stream);
    cudaHostGetFlags(out: *mut c_uint, address: *mut c_void) = cuMemHostGetFlags(out, address);

    cudaStreamGetId(stream: usize, out: *mut u64) = cuStreamGetId(stream, out);
    cudaStreamGetDevice(stream: usize, out: *mut c_int) = cuStreamGetDevice(stream, out);
    cudaStreamCopyAttributes(to: usize, from: usize) = cuStreamCopyAttributes(to, from);
    cudaEventRecordWithFlags(event: usize, stream: usize, flags: c_uint) = cuEventRecordWithFlags(event, stream, flags);
    cudaGraphDebugDotPrint(graph: usize, path: *const c_char, flags: c_uint) = cuGraphDebugDotPrint(graph, path, flags);
    cudaDeviceGetPCIBusId(out: *mut c_char, length: c_int, device: c_int) = cuDeviceGetPCIBusId(out, length, device);
    cudaDeviceGetByPCIBusId(out: *mut c_int, name: *const c_char) = cuDeviceGetByPCIBusId(out, name);
    cudaDeviceGetMemPool(out: *mut usize, device: c_int) = cuDeviceGetMemPool(out, device);
    cudaDeviceSetMemPool(device: c_int, pool: usize) = cuDeviceSetMemPool(device, pool);
    cudaGetDriverEntryPointByVersion(symbol: *const c_char, out: *mut *mut c_void, version: c_uint, flags: u64, status: *mut c_int) = cuGetProcAddress_v2(symbol, out, version as c_int, flags, status);

    cudaStreamCreate(out: *mut usize) = cuStreamCreateWithPriority(out, 0, 0);
    cudaStreamCreateWithFlags(out: *mut usize, flags: c_uint) = cuStreamCreateWithPriority(out, flags, 0);
    cudaStreamCreateWithPriority(out: *mut usize, flags: c_uint, priority: c_int) = cuStreamCreateWithPriority(out, flags, priority);
    cudaStreamDestroy(stream: usize) = cuStreamDestroy_v2(stream);
    cudaStreamSynchronize(stream: usize) = cuStreamSynchronize(stream);
    cudaStreamQuery(stream: usize) = cuStreamQuery(stream);
    cudaStreamWaitEvent(stream: usize, event: usize, flags: c_uint) = cuStreamWaitEvent(stream, event, flags);
    cudaStreamGetFlags(stream: usize, out: *mut c_uint) = cuStreamGetFlags(stream, out);
    cudaStreamGetPriority(stream: usize, out: *mut c_int) = cuStreamGetPriority(stream, out);
    cudaStreamAddCallback(stream: usize, callback: *const c_void, data: *mut c_void, flags: c_uint) = cuStreamAddCallback(stream, callback, data, flags);
    cudaLaunchHostFunc(stream: usize, function: Callback, data: *mut c_void) = cuLaunchHostFunc(stream, function, data);
    cudaStreamBeginCapture(stream: usize, mode: c_int) = cuStreamBeginCapture_v2(stream, mode);
    cudaStreamEndCapture(stream: usize, graph: *mut usize) = cuStreamEndCapture(stream, graph);
    cudaStreamIsCapturing(stream: usize, out: *mut c_int) = cuStreamIsCapturing(stream, out);
    cudaThreadExchangeStreamCaptureMode(mode: *mut c_int) = cuThreadExchangeStreamCaptureMode(mode);

    cudaEventCreate(out: *mut usize) = cuEventCreate(out, 0);
    cudaEventCreateWithFlags(out: *mut usize, flags: c_uint) = cuEventCreate(out, flags);
    cudaEventDestroy(event: usize) = cuEventDestroy_v2(event);
    cudaEventRecord(event: usize, stream: usize) = cuEventRecord(event, stream);
    cudaEventSynchronize(event: usize) = cuEventSynchronize(event);
    cudaEventQuery(event: usize) = cuEventQuery(event);
    cudaEventElapsedTime(out: *mut f32, a: usize, b: usize) = cuEventElapsedTime_v2(out, a, b);

    cudaGraphCreate(out: *mut usize, flags: c_uint) = cuGraphCreate(out, flags);
    cudaGraphDestroy(graph: usize) = cuGraphDestroy(graph);
    cudaGraphGetNodes(graph: usize, nodes: *mut usize, count: *mut usize) = cuGraphGetNodes(graph, nodes, count);
    cudaGraphInstantiate(out: *mut usize, graph: usize, flags: u64) = cuGraphInstantiateWithFlags(out, graph, flags);
    cudaGraphInstantiateWithFlags(out: *mut usize, graph: usize, flags: u64) = cuGraphInstantiateWithFlags(out, graph, flags);
    cudaGraphLaunch(exec: usize, stream: usize) = cuGraphLaunch(exec, stream);
    cudaGraphUpload(exec: usize, stream: usize) = cuGraphUpload(exec, stream);
    cudaGraphExecDestroy(exec: usize) = cuGraphExecDestroy(exec);
    cudaGraphExecUpdate(exec: usize, graph: usize, info: *mut c_void) = cuGraphExecUpdate_v2(exec, graph, info);

    cudaGraphClone(out: *mut usize, graph: usize) = cuGraphClone(out, graph);
    cudaGraphAddHostNode(out: *mut usize, graph: usize, after: *const usize, count: usize, params: *const c_void) = cuGraphAddHostNode(out, graph, after, count, params);
    cudaGraphAddEmptyNode(out: *mut usize, graph: usize, after: *const usize, count: usize) = cuGraphAddEmptyNode(out, graph, after, count);
    cudaGraphAddChildGraphNode(out: *mut usize, graph: usize, after: *const usize, count: usize, child: usize) = cuGraphAddChildGraphNode(out, graph, after, count, child);
    cudaGraphAddMemAllocNode(out: *mut usize, graph: usize, after: *const usize, count: usize, params: *mut c_void) = cuGraphAddMemAllocNode(out, graph, after, count, params);
    cudaGraphAddMemFreeNode(out: *mut usize, graph: usize, after: *const usize, count: usize, address: u64) = cuGraphAddMemFreeNode(out, graph, after, count, address);
    cudaGraphAddDependencies(graph: usize, from: *const usize, to: *const usize, edges: *const c_void, count: usize) = cuGraphAddDependencies_v2(graph, from, to, edges, count);
    cudaStreamAttachMemAsync(stream: usize, address: u64, bytes: usize, flags: c_uint) = cuStreamAttachMemAsync(stream, address, bytes, flags);
    cudaStreamSetAttribute(stream: usize, attribute: c_int, value: *const c_void) = cuStreamSetAttribute(stream, attribute, value);
    cudaStreamGetAttribute(stream: usize, attribute: c_int, value: *mut c_void) = cuStreamGetAttribute(stream, attribute, value);
    cudaStreamGetCaptureInfo(stream: usize, status: *mut c_int, id: *mut u64, graph: *mut usize, nodes: *mut *const usize, edges: *mut *const c_void, count: *mut usize) = cuStreamGetCaptureInfo_v3(stream, status, id, graph, nodes, edges, count);
    cudaStreamUpdateCaptureDependencies(stream: usize, nodes: *mut usize, edges: *const c_void, count: usize, flags: c_uint) = cuStreamUpdateCaptureDependencies_v2(stream, nodes, edges, count, flags);
    cudaStreamBeginCaptureToGraph(stream: usize, graph: usize, nodes: *const usize, edges: *const c_void, count: usize, mode: c_int) = cuStreamBeginCaptureToGraph(stream, graph, nodes, edges, count, mode);

    cudaDeviceGraphMemTrim(device: c_int) = cuDeviceGraphMemTrim(device);
    cudaDeviceGetGraphMemAttribute(device: c_int, attribute: c_int, value: *mut c_void) = cuDeviceGetGraphMemAttribute(device, attribute, value);
    cudaCtxResetPersistingL2Cache() = cuCtxResetPersistingL2Cache();
    cudaDeviceSynchronize() = cuCtxSynchronize();
    cudaDeviceSetLimit(limit: c_int, value: usize) = cuCtxSetLimit(limit, value);
    cudaDeviceGetLimit(out: *mut usize, limit: c_int) = cuCtxGetLimit(out, limit);
    cudaDeviceSetCacheConfig(config: c_int) = cuCtxSetCacheConfig(config);
    cudaDeviceGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) = cuCtxGetStreamPriorityRange(least, greatest);
    cudaDeviceCanAccessPeer(out: *mut c_int, a: c_int, b: c_int) = cuDeviceCanAccessPeer(out, a, b);
    cudaDeviceGetAttribute(out: *mut c_int, attribute: c_int, device: c_int) = cuDeviceGetAttribute(out, attribute, device);
    cudaDeviceGetDefaultMemPool(out: *mut usize, device: c_int) = cuDeviceGetDefaultMemPool(out, device);
    cudaProfilerStart() = cuProfilerStart();
    cudaProfilerStop() = cuProfilerStop();
}
