//! The functions of the driver that the runtime stands on, found in `libcuda.so.1` at their first use.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use libloading::Library;

/// A `CUresult`, or the `cudaError_t` of the same number: the two agree in all that a driver gives.
pub type Code = c_int;

pub const SUCCESS: Code = 0;
pub const INVALID_VALUE: Code = 1;
pub const INITIALIZATION_ERROR: Code = 3;
pub const INSUFFICIENT_DRIVER: Code = 35;

pub type Callback = unsafe extern "C" fn(*mut c_void);

fn library() -> Option<&'static Library> {
    static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
    let open = |name: &&str| {
        // SAFETY: a CUDA driver, whose initialisation does nothing.
        unsafe { Library::new(*name) }.ok()
    };
    LIBRARY.get_or_init(|| ["libcuda.so.1", "libcuda.so"].iter().find_map(open)).as_ref()
}

macro_rules! driver {
    ($($name:ident($($arg:ident: $ty:ty),*);)*) => {
        $(
            /// # Safety
            /// As the driver's function of this name asks for.
            pub unsafe fn $name($($arg: $ty),*) -> Code {
                type Function = unsafe extern "C" fn($($ty),*) -> Code;
                static FOUND: OnceLock<Option<Function>> = OnceLock::new();
                let find = || {
                    // SAFETY: the type is that of `cuda.h`.
                    unsafe { library()?.get::<Function>(concat!(stringify!($name), "\0").as_bytes()) }.ok().map(|f| *f)
                };
                match FOUND.get_or_init(find) {
                    // SAFETY: the caller's promise, passed on.
                    Some(function) => unsafe { function($($arg),*) },
                    None => INSUFFICIENT_DRIVER,
                }
            }
        )*
    };
}

driver! {
    cuInit(flags: c_uint);
    cuDriverGetVersion(version: *mut c_int);
    cuGetErrorString(code: Code, out: *mut *const c_char);
    cuDeviceGetCount(out: *mut c_int);
    cuDeviceGetName(out: *mut c_char, length: c_int, device: c_int);
    cuDeviceGetUuid_v2(out: *mut u8, device: c_int);
    cuDeviceGetAttribute(out: *mut c_int, attribute: c_int, device: c_int);
    cuDeviceTotalMem_v2(out: *mut usize, device: c_int);
    cuDevicePrimaryCtxRetain(out: *mut usize, device: c_int);
    cuDevicePrimaryCtxReset_v2(device: c_int);
    cuDeviceCanAccessPeer(out: *mut c_int, a: c_int, b: c_int);
    cuDeviceGetDefaultMemPool(out: *mut usize, device: c_int);
    cuMemPoolSetAttribute(pool: usize, attribute: c_int, value: *mut c_void);
    cuMemPoolGetAttribute(pool: usize, attribute: c_int, value: *mut c_void);
    cuMemPoolTrimTo(pool: usize, keep: usize);
    cuCtxSetCurrent(context: usize);
    cuCtxGetCurrent(out: *mut usize);
    cuCtxSynchronize();
    cuCtxSetLimit(limit: c_int, value: usize);
    cuCtxGetLimit(out: *mut usize, limit: c_int);
    cuCtxSetCacheConfig(config: c_int);
    cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int);
    cuProfilerStart();
    cuProfilerStop();
    cuModuleLoadData(out: *mut usize, image: *const c_void);
    cuModuleGetFunction(out: *mut usize, module: usize, name: *const c_char);
    cuModuleGetGlobal_v2(address: *mut u64, bytes: *mut usize, module: usize, name: *const c_char);
    cuFuncGetAttribute(out: *mut c_int, attribute: c_int, function: usize);
    cuFuncSetAttribute(function: usize, attribute: c_int, value: c_int);
    cuFuncSetCacheConfig(function: usize, config: c_int);
    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(out: *mut c_int, function: usize, block: c_int, shared: usize, flags: c_uint);
    cuOccupancyAvailableDynamicSMemPerBlock(out: *mut usize, function: usize, blocks: c_int, block: c_int);
    cuLaunchKernel(function: usize, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint, shared: c_uint, stream: usize, params: *mut *mut c_void, extra: *mut *mut c_void);
    cuLaunchCooperativeKernel(function: usize, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint, shared: c_uint, stream: usize, params: *mut *mut c_void);
    cuLaunchKernelEx(config: *const c_void, function: usize, params: *mut *mut c_void, extra: *mut *mut c_void);
    cuLaunchHostFunc(stream: usize, function: Callback, data: *mut c_void);
    cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
    cuMemAlloc_v2(out: *mut u64, bytes: usize);
    cuMemAllocPitch_v2(out: *mut u64, pitch: *mut usize, width: usize, height: usize, element: c_uint);
    cuMemAllocManaged(out: *mut u64, bytes: usize, flags: c_uint);
    cuMemAllocAsync(out: *mut u64, bytes: usize, stream: usize);
    cuMemFree_v2(address: u64);
    cuMemFreeAsync(address: u64, stream: usize);
    cuMemHostAlloc(out: *mut *mut c_void, bytes: usize, flags: c_uint);
    cuMemFreeHost(address: *mut c_void);
    cuMemHostRegister_v2(address: *mut c_void, bytes: usize, flags: c_uint);
    cuMemHostUnregister(address: *mut c_void);
    cuMemHostGetDevicePointer_v2(out: *mut u64, address: *mut c_void, flags: c_uint);
    cuMemcpy(to: u64, from: u64, bytes: usize);
    cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: usize);
    cuMemcpy2D_v2(copy: *const c_void);
    cuMemcpy2DAsync_v2(copy: *const c_void, stream: usize);
    cuMemsetD8_v2(address: u64, value: u8, bytes: usize);
    cuMemsetD8Async(address: u64, value: u8, bytes: usize, stream: usize);
    cuMemsetD2D8_v2(address: u64, pitch: usize, value: u8, width: usize, height: usize);
    cuMemAdvise_v2(address: u64, bytes: usize, advice: c_int, location: u64);
    cuMemPrefetchAsync_v2(address: u64, bytes: usize, location: u64, flags: c_uint, stream: usize);
    cuPointerGetAttribute(out: *mut c_void, attribute: c_int, address: u64);
    cuStreamCreateWithPriority(out: *mut usize, flags: c_uint, priority: c_int);
    cuStreamDestroy_v2(stream: usize);
    cuStreamSynchronize(stream: usize);
    cuStreamQuery(stream: usize);
    cuStreamWaitEvent(stream: usize, event: usize, flags: c_uint);
    cuStreamGetFlags(stream: usize, out: *mut c_uint);
    cuStreamGetPriority(stream: usize, out: *mut c_int);
    cuStreamAddCallback(stream: usize, callback: *const c_void, data: *mut c_void, flags: c_uint);
    cuStreamBeginCapture_v2(stream: usize, mode: c_int);
    cuStreamEndCapture(stream: usize, graph: *mut usize);
    cuStreamIsCapturing(stream: usize, out: *mut c_int);
    cuThreadExchangeStreamCaptureMode(mode: *mut c_int);
    cuEventCreate(out: *mut usize, flags: c_uint);
    cuEventDestroy_v2(event: usize);
    cuEventRecord(event: usize, stream: usize);
    cuEventSynchronize(event: usize);
    cuEventQuery(event: usize);
    cuEventElapsedTime_v2(out: *mut f32, a: usize, b: usize);
    cuGraphCreate(out: *mut usize, flags: c_uint);
    cuGraphDestroy(graph: usize);
    cuGraphGetNodes(graph: usize, nodes: *mut usize, count: *mut usize);
    cuGraphInstantiateWithFlags(out: *mut usize, graph: usize, flags: u64);
    cuGraphLaunch(exec: usize, stream: usize);
    cuGraphClone(out: *mut usize, graph: usize);
    cuGraphAddKernelNode_v2(out: *mut usize, graph: usize, after: *const usize, count: usize, params: *const c_void);
    cuGraphAddMemcpyNode(out: *mut usize, graph: usize, after: *const usize, count: usize, params: *const c_void, context: usize);
    cuGraphAddMemsetNode(out: *mut usize, graph: usize, after: *const usize, count: usize, params: *const c_void, context: usize);
    cuGraphAddHostNode(out: *mut usize, graph: usize, after: *const usize, count: usize, params: *const c_void);
    cuGraphAddEmptyNode(out: *mut usize, graph: usize, after: *const usize, count: usize);
    cuGraphAddChildGraphNode(out: *mut usize, graph: usize, after: *const usize, count: usize, child: usize);
    cuGraphAddMemAllocNode(out: *mut usize, graph: usize, after: *const usize, count: usize, params: *mut c_void);
    cuGraphAddMemFreeNode(out: *mut usize, graph: usize, after: *const usize, count: usize, address: u64);
    cuGraphAddDependencies_v2(graph: usize, from: *const usize, to: *const usize, edges: *const c_void, count: usize);
    cuGraphExecKernelNodeSetParams_v2(exec: usize, node: usize, params: *const c_void);
    cuDeviceGraphMemTrim(device: c_int);
    cuDeviceGetGraphMemAttribute(device: c_int, attribute: c_int, value: *mut c_void);
    cuMemcpy3D_v2(copy: *const c_void);
    cuMemcpy3DAsync_v2(copy: *const c_void, stream: usize);
    cuStreamAttachMemAsync(stream: usize, address: u64, bytes: usize, flags: c_uint);
    cuStreamSetAttribute(stream: usize, attribute: c_int, value: *const c_void);
    cuStreamGetAttribute(stream: usize, attribute: c_int, value: *mut c_void);
    cuStreamGetCaptureInfo_v3(stream: usize, status: *mut c_int, id: *mut u64, graph: *mut usize, nodes: *mut *const usize, edges: *mut *const c_void, count: *mut usize);
    cuStreamUpdateCaptureDependencies_v2(stream: usize, nodes: *mut usize, edges: *const c_void, count: usize, flags: c_uint);
    cuStreamBeginCaptureToGraph(stream: usize, graph: usize, nodes: *const usize, edges: *const c_void, count: usize, mode: c_int);
    cuCtxResetPersistingL2Cache();
    cuGetProcAddress_v2(symbol: *const c_char, out: *mut *mut c_void, version: c_int, flags: u64, status: *mut c_int);
    cuDeviceGetPCIBusId(out: *mut c_char, length: c_int, device: c_int);
    cuDeviceGetByPCIBusId(out: *mut c_int, name: *const c_char);
    cuDeviceGetMemPool(out: *mut usize, device: c_int);
    cuDeviceSetMemPool(device: c_int, pool: usize);
    cuMemPoolCreate(out: *mut usize, properties: *const c_void);
    cuMemPoolDestroy(pool: usize);
    cuMemPoolSetAccess(pool: usize, list: *const c_void, count: usize);
    cuMemAllocFromPoolAsync(out: *mut u64, bytes: usize, pool: usize, stream: usize);
    cuMemHostGetFlags(out: *mut c_uint, address: *mut c_void);
    cuMemsetD2D8Async(address: u64, pitch: usize, value: u8, width: usize, height: usize, stream: usize);
    cuStreamGetId(stream: usize, out: *mut u64);
    cuStreamGetDevice(stream: usize, out: *mut c_int);
    cuStreamCopyAttributes(to: usize, from: usize);
    cuEventRecordWithFlags(event: usize, stream: usize, flags: c_uint);
    cuGraphDebugDotPrint(graph: usize, path: *const c_char, flags: c_uint);
    cuGraphUpload(exec: usize, stream: usize);
    cuGraphExecDestroy(exec: usize);
    cuGraphExecUpdate_v2(exec: usize, graph: usize, info: *mut c_void);
}
