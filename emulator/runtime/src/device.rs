//! The current device: made ready at the first call of a thread, asked about, and reset.

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_uint};
use std::sync::OnceLock;

use crate::driver::{self, Code, INITIALIZATION_ERROR, SUCCESS};
use crate::errors::{INVALID_DEVICE, done};
use crate::registry;

/// CUDA 13.0.
const VERSION: c_int = 13000;

thread_local! {
    static CURRENT: Cell<bool> = const { Cell::new(false) };
}

fn checked(code: Code) -> Result<(), Code> {
    if code == SUCCESS { Ok(()) } else { Err(code) }
}

/// The driver is started and the device's primary context is current. One that the program has made current through
/// the driver stays.
pub fn ready() -> Result<(), Code> {
    if CURRENT.get() {
        return Ok(());
    }
    static CONTEXT: OnceLock<Result<usize, Code>> = OnceLock::new();
    let start = || {
        let mut context = 0;
        // SAFETY: a number, and a pointer to one result.
        unsafe {
            checked(driver::cuInit(0))
                .map_err(|c| if c == driver::INSUFFICIENT_DRIVER { c } else { INITIALIZATION_ERROR })?;
            checked(driver::cuDevicePrimaryCtxRetain(&mut context, 0))?;
        }
        Ok(context)
    };
    let context = (*CONTEXT.get_or_init(start))?;
    let mut own = 0;
    // SAFETY: a pointer to one result, and a context of the driver.
    unsafe {
        checked(driver::cuCtxGetCurrent(&mut own))?;
        if own == 0 {
            checked(driver::cuCtxSetCurrent(context))?;
        }
    }
    CURRENT.set(true);
    Ok(())
}

/// # Safety
/// A pointer to one result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaGetDeviceCount(out: *mut c_int) -> Code {
    // SAFETY: the caller's promise.
    done(ready().map_or_else(|code| code, |()| unsafe { driver::cuDeviceGetCount(out) }))
}

/// # Safety
/// A pointer to one result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaGetDevice(out: *mut c_int) -> Code {
    // SAFETY: the caller's promise.
    unsafe { out.write(0) };
    SUCCESS
}

/// There is one device here.
#[unsafe(no_mangle)]
pub extern "C" fn cudaSetDevice(device: c_int) -> Code {
    done(if device != 0 { INVALID_DEVICE } else { ready().err().unwrap_or(SUCCESS) })
}

/// Must come before a device is ready to mean anything; flags say how to wait, and nothing waits.
#[unsafe(no_mangle)]
pub extern "C" fn cudaSetDeviceFlags(_flags: c_uint) -> Code {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cudaDeviceReset() -> Code {
    done(match ready() {
        Ok(()) => {
            registry::forget_modules();
            // SAFETY: a number.
            unsafe { driver::cuDevicePrimaryCtxReset_v2(0) }
        }
        Err(code) => code,
    })
}

/// # Safety
/// A pointer to one result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaDriverGetVersion(out: *mut c_int) -> Code {
    // SAFETY: the caller's promise.
    done(unsafe { driver::cuDriverGetVersion(out) })
}

/// # Safety
/// A pointer to one result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaRuntimeGetVersion(out: *mut c_int) -> Code {
    // SAFETY: the caller's promise.
    unsafe { out.write(VERSION) };
    SUCCESS
}

/// cudaDeviceProp of CUDA 13. A run of fields that the driver has as attributes is an array here, in the same places.
#[repr(C)]
pub struct Properties {
    name: [c_char; 256],
    uuid: [u8; 16],
    luid: [u8; 8],
    luid_mask: c_uint,
    total_memory: usize,
    shared_per_block: usize,
    registers_per_block: c_int,
    warp: c_int,
    pitch: usize,
    max_threads: c_int,
    max_block: [c_int; 3],
    max_grid: [c_int; 3],
    constant: usize,
    major: c_int,
    minor: c_int,
    texture_alignment: usize,
    texture_pitch_alignment: usize,
    multiprocessors: c_int,
    integrated: c_int,
    can_map: c_int,
    /// Largest textures and surfaces: there are none.
    textures: [c_int; 39],
    surface_alignment: usize,
    /// concurrentKernels, ECCEnabled, pciBusID, pciDeviceID, pciDomainID, tccDriver, asyncEngineCount,
    /// unifiedAddressing, memoryBusWidth, l2CacheSize, persistingL2CacheMaxSize, maxThreadsPerMultiProcessor,
    /// streamPrioritiesSupported, globalL1CacheSupported, localL1CacheSupported.
    first: [c_int; 15],
    shared_per_multiprocessor: usize,
    /// regsPerMultiprocessor, managedMemory, isMultiGpuBoard, multiGpuBoardGroupID, hostNativeAtomicSupported,
    /// pageableMemoryAccess, concurrentManagedAccess, computePreemptionSupported, canUseHostPointerForRegisteredMem,
    /// cooperativeLaunch.
    second: [c_int; 10],
    shared_per_block_optin: usize,
    /// pageableMemoryAccessUsesHostPageTables, directManagedMemAccessFromHost, maxBlocksPerMultiProcessor,
    /// accessPolicyMaxWindowSize.
    third: [c_int; 4],
    reserved_shared: usize,
    /// hostRegisterSupported, sparseCudaArraySupported, hostRegisterReadOnlySupported,
    /// timelineSemaphoreInteropSupported, memoryPoolsSupported, gpuDirectRDMASupported,
    /// gpuDirectRDMAFlushWritesOptions, gpuDirectRDMAWritesOrdering, memoryPoolSupportedHandleTypes,
    /// deferredMappingCudaArraySupported, ipcEventSupported, clusterLaunch, unifiedFunctionPointers, deviceNumaConfig,
    /// deviceNumaId, mpsEnabled, hostNumaId, gpuPciDeviceID, gpuPciSubsystemID, hostNumaMultinodeIpcSupported.
    fourth: [c_int; 20],
    reserved: [c_int; 56],
}

fn attributes<const N: usize>(which: [c_int; N]) -> [c_int; N] {
    which.map(|attribute| {
        let mut value = 0;
        // SAFETY: a pointer to one result. What the driver does not know stays 0.
        unsafe { driver::cuDeviceGetAttribute(&mut value, attribute, 0) };
        value
    })
}

fn attribute(which: c_int) -> c_int {
    attributes([which])[0]
}

/// # Safety
/// A pointer to one result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaGetDeviceProperties(out: *mut Properties, device: c_int) -> Code {
    if let Err(code) = ready() {
        return done(code);
    }
    if device != 0 {
        return done(INVALID_DEVICE);
    }
    let mut p = Properties {
        name: [0; 256],
        uuid: [0; 16],
        luid: [0; 8],
        luid_mask: 0,
        total_memory: 0,
        shared_per_block: attribute(8) as usize,
        registers_per_block: attribute(12),
        warp: attribute(10),
        pitch: attribute(11) as usize,
        max_threads: attribute(1),
        max_block: attributes([2, 3, 4]),
        max_grid: attributes([5, 6, 7]),
        constant: attribute(9) as usize,
        major: attribute(75),
        minor: attribute(76),
        texture_alignment: attribute(14) as usize,
        texture_pitch_alignment: attribute(51) as usize,
        multiprocessors: attribute(16),
        integrated: attribute(18),
        can_map: attribute(19),
        textures: [0; 39],
        surface_alignment: attribute(30) as usize,
        first: attributes([31, 32, 33, 34, 50, 35, 40, 41, 37, 38, 108, 39, 78, 79, 80]),
        shared_per_multiprocessor: attribute(81) as usize,
        second: attributes([82, 83, 84, 85, 86, 88, 89, 90, 91, 95]),
        shared_per_block_optin: attribute(97) as usize,
        third: attributes([100, 101, 106, 109]),
        reserved_shared: attribute(111) as usize,
        fourth: attributes([
            99, 112, 113, 114, 115, 116, 117, 118, 119, 121, 125, 120, 129, 130, 131, 133, 134, 139, 140, 143,
        ]),
        reserved: [0; 56],
    };
    // SAFETY: pointers to as much room as is said; the caller's promise.
    unsafe {
        driver::cuDeviceGetName(p.name.as_mut_ptr(), 256, 0);
        driver::cuDeviceGetUuid_v2(p.uuid.as_mut_ptr(), 0);
        driver::cuDeviceTotalMem_v2(&mut p.total_memory, 0);
        out.write(p);
    }
    SUCCESS
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::Properties;

    #[test]
    fn properties_lie_where_cuda_13_has_them() {
        // offsetof in driver_types.h of CUDA 13.0, by a C compiler.
        let at = [
            (offset_of!(Properties, total_memory), 288),
            (offset_of!(Properties, texture_alignment), 368),
            (offset_of!(Properties, textures), 396),
            (offset_of!(Properties, surface_alignment), 552),
            (offset_of!(Properties, first), 560),
            (offset_of!(Properties, shared_per_multiprocessor), 624),
            (offset_of!(Properties, second), 632),
            (offset_of!(Properties, shared_per_block_optin), 672),
            (offset_of!(Properties, reserved_shared), 696),
            (offset_of!(Properties, fourth), 704),
            (offset_of!(Properties, reserved), 784),
            (size_of::<Properties>(), 1008),
        ];
        at.iter().for_each(|(ours, theirs)| assert_eq!(ours, theirs));
    }
}
