//! cuGetProcAddress: the address of a function by name, for the newest version of it that there is.

use std::ffi::{c_int, c_void};

use crate::errors::*;
use crate::ffi::{Out, Text};
use crate::graph::{create, exec, params, query};
use crate::{
    batches, capture, context, copy, device, errors, events, export_tables, fills, functions, hints,
    host_memory, launch, library, linker, memory, modules, occupancy, older_forms, per_thread, pointers,
    pools, stream_values, streams, tensormap, unsupported, virtual_memory,
};

macro_rules! table {
    ($($module:ident: $($name:ident),*;)*) => {
        fn exact(name: &str) -> Option<*mut c_void> {
            match name {
                $( $( stringify!($name) => Some($module::$name as *mut c_void), )* )*
                "cuGetProcAddress_v2" => Some(cuGetProcAddress_v2 as *mut c_void),
                "cuGetProcAddress" => Some(cuGetProcAddress as *mut c_void),
                _ => per_thread::find(name).or_else(|| older_forms::find(name)).or_else(|| unsupported::find(name)),
            }
        }
    };
}

table! {
    batches: cuMemDiscardAndPrefetchBatchAsync, cuMemDiscardBatchAsync, cuMemPrefetchBatchAsync,
        cuMemcpy3DBatchAsync, cuMemcpy3DBatchAsync_v2, cuMemcpyBatchAsync, cuMemcpyBatchAsync_v2;
    capture: cuStreamBeginCapture, cuStreamBeginCaptureToGraph, cuStreamBeginCapture_v2, cuStreamEndCapture,
        cuStreamGetCaptureInfo, cuStreamGetCaptureInfo_v2, cuStreamGetCaptureInfo_v3, cuStreamIsCapturing,
        cuStreamUpdateCaptureDependencies, cuStreamUpdateCaptureDependencies_v2,
        cuThreadExchangeStreamCaptureMode;
    context: cuCtxCreate_v2, cuCtxCreate_v3, cuCtxCreate_v4, cuCtxDestroy_v2, cuCtxDisablePeerAccess,
        cuCtxEnablePeerAccess, cuCtxGetApiVersion, cuCtxGetCacheConfig, cuCtxGetCurrent, cuCtxGetDevice, cuCtxGetDevice_v2,
        cuCtxGetFlags, cuCtxGetId, cuCtxGetLimit, cuCtxPopCurrent_v2, cuCtxPushCurrent_v2,
        cuCtxResetPersistingL2Cache, cuCtxSetCacheConfig, cuCtxSetCurrent, cuCtxSetFlags, cuCtxSetLimit,
        cuCtxSynchronize, cuCtxSynchronize_v2, cuDevicePrimaryCtxGetState, cuDevicePrimaryCtxRelease_v2,
        cuDevicePrimaryCtxReset_v2, cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxSetFlags_v2,
        cuProfilerStart, cuProfilerStop;
    copy: cuMemcpy, cuMemcpy2DAsync_v2, cuMemcpy2DUnaligned_v2, cuMemcpy2D_v2, cuMemcpy3DAsync_v2,
        cuMemcpy3D_v2, cuMemcpyAsync, cuMemcpyDtoDAsync_v2, cuMemcpyDtoD_v2, cuMemcpyDtoHAsync_v2,
        cuMemcpyDtoH_v2, cuMemcpyHtoDAsync_v2, cuMemcpyHtoD_v2, cuMemcpyPeer, cuMemcpyPeerAsync;
    fills:
        cuMemsetD16Async, cuMemsetD16_v2, cuMemsetD2D16Async, cuMemsetD2D16_v2, cuMemsetD2D32Async,
        cuMemsetD2D32_v2, cuMemsetD2D8Async, cuMemsetD2D8_v2, cuMemsetD32Async, cuMemsetD32_v2,
        cuMemsetD8Async, cuMemsetD8_v2;
    device: cuDeviceCanAccessPeer, cuDeviceComputeCapability, cuDeviceGet, cuDeviceGetAttribute,
        cuDeviceGetByPCIBusId, cuDeviceGetCount, cuDeviceGetGraphMemAttribute, cuDeviceGetName,
        cuDeviceGetPCIBusId, cuDeviceGetProperties, cuDeviceGetUuid, cuDeviceGetUuid_v2,
        cuDeviceGraphMemTrim, cuDeviceTotalMem_v2, cuDriverGetVersion, cuInit;
    errors: cuGetErrorName, cuGetErrorString;
    export_tables: cuGetExportTable;
    events: cuEventCreate, cuEventDestroy_v2, cuEventElapsedTime, cuEventElapsedTime_v2, cuEventQuery,
        cuEventRecord, cuEventRecordWithFlags, cuEventSynchronize;
    functions: cuFuncGetAttribute, cuFuncGetModule, cuFuncGetName, cuFuncGetParamInfo, cuFuncIsLoaded,
        cuFuncLoad, cuFuncSetAttribute, cuFuncSetCacheConfig, cuFuncSetSharedMemConfig,
        cuKernelGetAttribute, cuKernelGetFunction, cuKernelGetLibrary, cuKernelGetName,
        cuKernelGetParamInfo, cuKernelSetAttribute, cuKernelSetCacheConfig;
    create: cuGraphAddChildGraphNode, cuGraphAddDependencies, cuGraphAddDependencies_v2,
        cuGraphAddEmptyNode, cuGraphAddEventRecordNode, cuGraphAddEventWaitNode, cuGraphAddHostNode,
        cuGraphAddKernelNode, cuGraphAddKernelNode_v2, cuGraphAddMemAllocNode, cuGraphAddMemFreeNode,
        cuGraphAddMemcpyNode, cuGraphAddMemsetNode, cuGraphAddNode, cuGraphAddNode_v2, cuGraphClone,
        cuGraphCreate, cuGraphDestroy, cuGraphDestroyNode, cuGraphNodeFindInClone,
        cuGraphRemoveDependencies, cuGraphRemoveDependencies_v2;
    exec: cuGraphExecDestroy, cuGraphExecEventRecordNodeSetEvent, cuGraphExecEventWaitNodeSetEvent,
        cuGraphExecGetFlags, cuGraphExecHostNodeSetParams, cuGraphExecKernelNodeSetParams,
        cuGraphExecKernelNodeSetParams_v2, cuGraphExecMemcpyNodeSetParams, cuGraphExecMemsetNodeSetParams,
        cuGraphExecNodeSetParams, cuGraphExecUpdate, cuGraphExecUpdate_v2, cuGraphInstantiateWithFlags,
        cuGraphInstantiateWithParams, cuGraphInstantiate_v2, cuGraphLaunch, cuGraphNodeGetEnabled,
        cuGraphNodeSetEnabled, cuGraphUpload;
    params: cuGraphChildGraphNodeGetGraph, cuGraphEventRecordNodeGetEvent, cuGraphEventRecordNodeSetEvent,
        cuGraphEventWaitNodeGetEvent, cuGraphEventWaitNodeSetEvent, cuGraphHostNodeGetParams,
        cuGraphHostNodeSetParams, cuGraphKernelNodeGetParams, cuGraphKernelNodeGetParams_v2,
        cuGraphKernelNodeSetParams, cuGraphKernelNodeSetParams_v2, cuGraphMemAllocNodeGetParams,
        cuGraphMemFreeNodeGetParams, cuGraphMemcpyNodeGetParams, cuGraphMemcpyNodeSetParams,
        cuGraphMemsetNodeGetParams, cuGraphMemsetNodeSetParams, cuGraphNodeSetParams;
    query: cuGraphDebugDotPrint, cuGraphGetEdges, cuGraphGetEdges_v2, cuGraphGetNodes, cuGraphGetRootNodes,
        cuGraphNodeGetDependencies, cuGraphNodeGetDependencies_v2, cuGraphNodeGetDependentNodes,
        cuGraphNodeGetDependentNodes_v2, cuGraphNodeGetType;
    hints: cuCtxGetSharedMemConfig, cuCtxSetSharedMemConfig, cuGraphKernelNodeCopyAttributes,
        cuGraphKernelNodeGetAttribute, cuGraphKernelNodeSetAttribute, cuGraphReleaseUserObject,
        cuGraphRetainUserObject, cuMemAdvise_v2, cuMemPrefetchAsync_v2, cuMemRangeGetAttribute, cuMemRangeGetAttributes, cuStreamGetAttribute,
        cuUserObjectCreate, cuUserObjectRelease, cuUserObjectRetain;
    host_memory: cuMemAllocHost_v2, cuMemAllocManaged, cuMemFreeHost, cuMemHostAlloc,
        cuMemHostGetDevicePointer_v2, cuMemHostGetFlags, cuMemHostRegister_v2, cuMemHostUnregister;
    launch: cuLaunchCooperativeKernel, cuLaunchKernel, cuLaunchKernelEx;
    library: cuLibraryEnumerateKernels, cuLibraryGetGlobal, cuLibraryGetKernel, cuLibraryGetKernelCount,
        cuLibraryGetManaged, cuLibraryGetModule, cuLibraryLoadData, cuLibraryLoadFromFile, cuLibraryUnload;
    linker: cuLinkAddData_v2, cuLinkAddFile_v2, cuLinkComplete, cuLinkCreate_v2, cuLinkDestroy;
    memory: cuMemAllocPitch_v2, cuMemAlloc_v2, cuMemFree_v2, cuMemGetAddressRange_v2, cuMemGetInfo_v2;
    modules: cuModuleEnumerateFunctions, cuModuleGetFunction, cuModuleGetFunctionCount,
        cuModuleGetGlobal_v2, cuModuleGetLoadingMode, cuModuleLoad, cuModuleLoadData, cuModuleLoadDataEx,
        cuModuleLoadFatBinary, cuModuleUnload;
    occupancy: cuOccupancyAvailableDynamicSMemPerBlock, cuOccupancyMaxActiveBlocksPerMultiprocessor,
        cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags, cuOccupancyMaxActiveClusters,
        cuOccupancyMaxPotentialBlockSize, cuOccupancyMaxPotentialBlockSizeWithFlags,
        cuOccupancyMaxPotentialClusterSize;
    pointers: cuPointerGetAttribute, cuPointerGetAttributes, cuPointerSetAttribute;
    pools: cuDeviceGetDefaultMemPool, cuDeviceGetMemPool, cuDeviceSetMemPool, cuMemAllocAsync,
        cuMemAllocFromPoolAsync, cuMemFreeAsync, cuMemGetDefaultMemPool, cuMemGetMemPool, cuMemSetMemPool, cuMemPoolCreate, cuMemPoolDestroy, cuMemPoolGetAccess,
        cuMemPoolGetAttribute, cuMemPoolSetAccess, cuMemPoolSetAttribute, cuMemPoolTrimTo;
    streams: cuCtxGetStreamPriorityRange, cuDeviceGetP2PAttribute, cuLaunchHostFunc, cuStreamAddCallback,
        cuStreamAttachMemAsync, cuStreamCopyAttributes, cuStreamCreate, cuStreamCreateWithPriority,
        cuStreamDestroy_v2, cuStreamGetCtx, cuStreamGetCtx_v2, cuStreamGetDevice, cuStreamGetFlags, cuStreamGetId,
        cuStreamGetPriority, cuStreamQuery, cuStreamSetAttribute, cuStreamSynchronize, cuStreamWaitEvent;
    stream_values: cuStreamBatchMemOp_v2, cuStreamWaitValue32_v2, cuStreamWaitValue64_v2,
        cuStreamWriteValue32_v2, cuStreamWriteValue64_v2;
    tensormap: cuTensorMapEncodeTiled, cuTensorMapReplaceAddress;
    virtual_memory: cuMemAddressFree, cuMemAddressReserve, cuMemCreate, cuMemGetAccess,
        cuMemGetAllocationGranularity, cuMemGetAllocationPropertiesFromHandle, cuMemMap, cuMemRelease,
        cuMemRetainAllocationHandle, cuMemSetAccess, cuMemUnmap;
}

/// Since which version of CUDA a name means its newer form, for forms that differ in their arguments (cudaTypedefs.h).
const SINCE: [(&str, c_int); 25] = [
    ("cuCtxCreate_v3", 11040),
    ("cuCtxCreate_v4", 12050),
    ("cuCtxGetDevice_v2", 13000),
    ("cuCtxSynchronize_v2", 13000),
    ("cuGraphAddDependencies_v2", 12030),
    ("cuGraphAddKernelNode_v2", 12000),
    ("cuGraphAddNode_v2", 12030),
    ("cuGraphExecKernelNodeSetParams_v2", 12000),
    ("cuGraphExecUpdate_v2", 12000),
    ("cuGraphGetEdges_v2", 12030),
    ("cuGraphKernelNodeGetParams_v2", 12000),
    ("cuGraphKernelNodeSetParams_v2", 12000),
    ("cuGraphNodeGetDependencies_v2", 12030),
    ("cuGraphNodeGetDependentNodes_v2", 12030),
    ("cuGraphRemoveDependencies_v2", 12030),
    ("cuGetProcAddress_v2", 12000),
    ("cuMemAdvise_v2", 12020),
    ("cuMemPrefetchAsync_v2", 12020),
    ("cuMemcpy3DBatchAsync_v2", 13000),
    ("cuMemcpyBatchAsync_v2", 13000),
    ("cuStreamBatchMemOp_v2", 12000),
    ("cuStreamGetCaptureInfo_v2", 11030),
    ("cuStreamGetCaptureInfo_v3", 12030),
    ("cuStreamGetCtx_v2", 12050),
    ("cuStreamUpdateCaptureDependencies_v2", 12030),
];

/// CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM.
const PER_THREAD_STREAM: u64 = 2;

/// `cuMemAlloc` means `cuMemAlloc_v2`, as the header's macros have it: the newest form that `version` of CUDA knows.
fn newest(name: &str, version: c_int, per_thread_stream: bool) -> Option<*mut c_void> {
    let known = |symbol: &str| {
        SINCE.iter().all(|(newer, since)| *newer != symbol || *since <= version || version == 0)
    };
    ["_v4", "_v3", "_v2", ""].iter().map(|v| format!("{name}{v}")).filter(|symbol| known(symbol)).find_map(
        |symbol| {
            let own = ["_ptsz", "_ptds"].iter().filter(|_| per_thread_stream);
            own.map(|suffix| format!("{symbol}{suffix}")).find_map(|s| exact(&s)).or_else(|| exact(&symbol))
        },
    )
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetProcAddress_v2(
    symbol: Text,
    out: Out<*mut c_void>,
    version: c_int,
    flags: u64,
    status: Out<c_int>,
) -> Code {
    let Ok(name) = symbol.get() else { return ERROR_INVALID_VALUE };
    if flags > PER_THREAD_STREAM {
        return ERROR_INVALID_VALUE;
    }
    let found = newest(&name, version, flags == PER_THREAD_STREAM);
    // CU_GET_PROC_ADDRESS_SUCCESS, or _SYMBOL_NOT_FOUND.
    status.put_if_wanted(found.is_none() as c_int);
    match out.put(found.unwrap_or(std::ptr::null_mut())) {
        Ok(()) if found.is_some() => SUCCESS,
        Ok(()) => ERROR_NOT_FOUND,
        Err(code) => code,
    }
}

/// The older form, without a status.
#[unsafe(no_mangle)]
pub extern "C" fn cuGetProcAddress(symbol: Text, out: Out<*mut c_void>, version: c_int, flags: u64) -> Code {
    cuGetProcAddress_v2(symbol, out, version, flags, Out::NULL)
}
