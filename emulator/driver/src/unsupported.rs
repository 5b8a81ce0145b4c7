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
    cuCtxCreate_v3,
    cuDeviceGetDefaultMemPool, cuDeviceGetMemPool, cuDeviceSetMemPool,
    cuGraphAddKernelNode_v2, cuGraphCreate, cuGraphDestroy, cuGraphExecDestroy, cuGraphExecUpdate_v2,
    cuGraphInstantiateWithFlags, cuGraphInstantiateWithParams, cuGraphLaunch, cuGraphUpload,
    cuImportExternalMemory,
    cuLaunchCooperativeKernel, cuLaunchKernelEx,
    cuLibraryLoadData, cuLibraryLoadFromFile, cuLibraryUnload, cuLibraryGetKernel,
    cuLinkAddData_v2, cuLinkAddFile_v2, cuLinkComplete, cuLinkCreate_v2, cuLinkDestroy,
    cuMemAdvise_v2, cuMemAllocFromPoolAsync, cuMemAllocManaged, cuMemAllocPitch_v2, cuMemHostGetDevicePointer_v2,
    cuMemHostRegister_v2, cuMemHostUnregister, cuMemPoolCreate, cuMemPoolDestroy, cuMemPoolGetAttribute,
    cuMemPoolSetAttribute, cuMemPoolTrimTo, cuMemPrefetchAsync_v2,
    cuMemcpy, cuMemcpyAsync, cuMemcpy2D_v2, cuMemcpy2DAsync_v2, cuMemcpy3D_v2, cuMemcpyPeerAsync,
    cuModuleLoadFatBinary,
    cuOccupancyAvailableDynamicSMemPerBlock, cuOccupancyMaxActiveClusters, cuOccupancyMaxPotentialBlockSize,
    cuOccupancyMaxPotentialBlockSizeWithFlags, cuOccupancyMaxPotentialClusterSize,
    cuPointerGetAttribute, cuPointerGetAttributes, cuProfilerStart, cuProfilerStop,
    cuStreamAddCallback, cuStreamAttachMemAsync, cuStreamBeginCapture_v2, cuStreamEndCapture,
    cuTensorMapEncodeTiled,
}
