//! Functions that programs look for and that are not supported: they say so once, and never succeed.

use crate::errors::*;
use crate::state::say_once;

macro_rules! unsupported {
    ($($name:ident),* $(,)?) => {
        $(
            /// Not supported; its arguments are not read.
            #[unsafe(no_mangle)]
            pub extern "C" fn $name() -> Code {
                say_once(stringify!($name), concat!(stringify!($name), " is not supported"));
                ERROR_NOT_SUPPORTED
            }
        )*

        /// Addresses by name.
        pub fn find(name: &str) -> Option<*mut std::ffi::c_void> {
            match name {
                $( stringify!($name) => Some($name as *mut std::ffi::c_void), )*
                _ => None,
            }
        }
    };
}

unsupported! {
    cuArray3DCreate, cuArray3DCreate_v2, cuArray3DGetDescriptor, cuArray3DGetDescriptor_v2, cuArrayCreate,
    cuArrayCreate_v2, cuArrayDestroy, cuArrayGetDescriptor, cuArrayGetDescriptor_v2,
    cuArrayGetMemoryRequirements, cuArrayGetPlane, cuArrayGetSparseProperties,
    cuCheckpointProcessCheckpoint, cuCheckpointProcessGetRestoreThreadId, cuCheckpointProcessGetState,
    cuCheckpointProcessLock, cuCheckpointProcessRestore, cuCheckpointProcessUnlock, cuCoredumpGetAttribute,
    cuCoredumpGetAttributeGlobal, cuCoredumpSetAttribute, cuCoredumpSetAttributeGlobal, cuCtxAttach,
    cuCtxDetach, cuCtxFromGreenCtx, cuCtxGetDevResource, cuCtxGetExecAffinity, cuCtxRecordEvent,
    cuCtxWaitEvent, cuDestroyExternalMemory, cuDestroyExternalSemaphore, cuDevResourceGenerateDesc,
    cuDevSmResourceSplitByCount, cuDeviceGetDevResource, cuDeviceGetExecAffinitySupport,
    cuDeviceGetHostAtomicCapabilities, cuDeviceGetLuid, cuDeviceGetNvSciSyncAttributes,
    cuDeviceGetP2PAtomicCapabilities, cuDeviceGetTexture1DLinearMaxWidth, cuDeviceRegisterAsyncNotification,
    cuDeviceSetGraphMemAttribute, cuDeviceTotalMem, cuDeviceUnregisterAsyncNotification,
    cuExternalMemoryGetMappedBuffer, cuExternalMemoryGetMappedMipmappedArray, cuFlushGPUDirectRDMAWrites,
    cuFuncSetBlockShape, cuFuncSetSharedSize, cuGraphAddBatchMemOpNode,
    cuGraphAddExternalSemaphoresSignalNode, cuGraphAddExternalSemaphoresWaitNode,
    cuGraphBatchMemOpNodeGetParams, cuGraphBatchMemOpNodeSetParams, cuGraphConditionalHandleCreate,
    cuGraphExecBatchMemOpNodeSetParams, cuGraphExecChildGraphNodeSetParams,
    cuGraphExecExternalSemaphoresSignalNodeSetParams, cuGraphExecExternalSemaphoresWaitNodeSetParams,
    cuGraphExternalSemaphoresSignalNodeGetParams, cuGraphExternalSemaphoresSignalNodeSetParams,
    cuGraphExternalSemaphoresWaitNodeGetParams, cuGraphExternalSemaphoresWaitNodeSetParams,
    cuGraphInstantiate, cuGraphicsMapResources, cuGraphicsMapResources_ptsz,
    cuGraphicsResourceGetMappedMipmappedArray, cuGraphicsResourceGetMappedPointer,
    cuGraphicsResourceGetMappedPointer_v2, cuGraphicsResourceSetMapFlags, cuGraphicsResourceSetMapFlags_v2,
    cuGraphicsSubResourceGetMappedArray, cuGraphicsUnmapResources, cuGraphicsUnmapResources_ptsz,
    cuGraphicsUnregisterResource, cuGreenCtxCreate, cuGreenCtxDestroy, cuGreenCtxGetDevResource,
    cuGreenCtxGetId, cuGreenCtxRecordEvent, cuGreenCtxStreamCreate, cuGreenCtxWaitEvent,
    cuImportExternalMemory, cuImportExternalSemaphore, cuIpcCloseMemHandle, cuIpcGetEventHandle,
    cuIpcGetMemHandle, cuIpcOpenEventHandle, cuIpcOpenMemHandle, cuIpcOpenMemHandle_v2, cuLaunch,
    cuLaunchCooperativeKernelMultiDevice, cuLaunchGrid, cuLaunchGridAsync, cuLibraryGetUnifiedFunction,
    cuLogsCurrent, cuLogsDumpToFile, cuLogsDumpToMemory, cuLogsRegisterCallback, cuLogsUnregisterCallback,
    cuMemAlloc, cuMemAllocHost, cuMemAllocPitch, cuMemBatchDecompressAsync, cuMemBatchDecompressAsync_ptsz,
    cuMemExportToShareableHandle, cuMemFree, cuMemGetAddressRange, cuMemGetHandleForAddressRange,
    cuMemGetInfo, cuMemHostGetDevicePointer, cuMemImportFromShareableHandle, cuMemMapArrayAsync,
    cuMemMapArrayAsync_ptsz, cuMemPoolExportPointer, cuMemPoolExportToShareableHandle,
    cuMemPoolImportFromShareableHandle, cuMemPoolImportPointer, cuMemcpy2D, cuMemcpy2DAsync,
    cuMemcpy2DUnaligned, cuMemcpy3D, cuMemcpy3DAsync, cuMemcpy3DPeer, cuMemcpy3DPeerAsync,
    cuMemcpy3DPeerAsync_ptsz, cuMemcpy3DPeer_ptds, cuMemcpyAtoA, cuMemcpyAtoA_v2, cuMemcpyAtoA_v2_ptds,
    cuMemcpyAtoD, cuMemcpyAtoD_v2, cuMemcpyAtoD_v2_ptds, cuMemcpyAtoH, cuMemcpyAtoHAsync,
    cuMemcpyAtoHAsync_v2, cuMemcpyAtoHAsync_v2_ptsz, cuMemcpyAtoH_v2, cuMemcpyAtoH_v2_ptds, cuMemcpyDtoA,
    cuMemcpyDtoA_v2, cuMemcpyDtoA_v2_ptds, cuMemcpyDtoD, cuMemcpyDtoDAsync, cuMemcpyDtoH, cuMemcpyDtoHAsync,
    cuMemcpyHtoA, cuMemcpyHtoAAsync, cuMemcpyHtoAAsync_v2, cuMemcpyHtoAAsync_v2_ptsz, cuMemcpyHtoA_v2,
    cuMemcpyHtoA_v2_ptds, cuMemcpyHtoD, cuMemcpyHtoDAsync, cuMemsetD16, cuMemsetD2D16, cuMemsetD2D32,
    cuMemsetD2D8, cuMemsetD32, cuMemsetD8, cuMipmappedArrayCreate, cuMipmappedArrayDestroy,
    cuMipmappedArrayGetLevel, cuMipmappedArrayGetMemoryRequirements, cuMipmappedArrayGetSparseProperties,
    cuModuleGetGlobal, cuModuleGetSurfRef, cuModuleGetTexRef, cuMulticastAddDevice, cuMulticastBindAddr,
    cuMulticastBindMem, cuMulticastCreate, cuMulticastGetGranularity, cuMulticastUnbind, cuParamSetSize,
    cuParamSetTexRef, cuParamSetf, cuParamSeti, cuParamSetv, cuSignalExternalSemaphoresAsync,
    cuSignalExternalSemaphoresAsync_ptsz, cuStreamGetGreenCtx, cuSurfObjectCreate, cuSurfObjectDestroy,
    cuSurfObjectGetResourceDesc, cuSurfRefGetArray, cuSurfRefSetArray, cuTensorMapEncodeIm2col,
    cuTensorMapEncodeIm2colWide, cuTexObjectCreate, cuTexObjectDestroy, cuTexObjectGetResourceDesc,
    cuTexObjectGetResourceViewDesc, cuTexObjectGetTextureDesc, cuTexRefCreate, cuTexRefDestroy,
    cuTexRefGetAddress, cuTexRefGetAddressMode, cuTexRefGetAddress_v2, cuTexRefGetArray,
    cuTexRefGetBorderColor, cuTexRefGetFilterMode, cuTexRefGetFlags, cuTexRefGetFormat,
    cuTexRefGetMaxAnisotropy, cuTexRefGetMipmapFilterMode, cuTexRefGetMipmapLevelBias,
    cuTexRefGetMipmapLevelClamp, cuTexRefGetMipmappedArray, cuTexRefSetAddress, cuTexRefSetAddress2D,
    cuTexRefSetAddress2D_v2, cuTexRefSetAddress2D_v3, cuTexRefSetAddressMode, cuTexRefSetAddress_v2,
    cuTexRefSetArray, cuTexRefSetBorderColor, cuTexRefSetFilterMode, cuTexRefSetFlags, cuTexRefSetFormat,
    cuTexRefSetMaxAnisotropy, cuTexRefSetMipmapFilterMode, cuTexRefSetMipmapLevelBias,
    cuTexRefSetMipmapLevelClamp, cuTexRefSetMipmappedArray, cuWaitExternalSemaphoresAsync,
    cuWaitExternalSemaphoresAsync_ptsz,
}
