//! What can be asked of a kernel, and set.

use std::ffi::{c_char, c_int, c_uint};

use crate::device::check_device;
use crate::errors::*;
use crate::ffi::Out;
use crate::occupancy::registers;
use crate::state::*;

/// CUfunction_attribute.
const MAX_DYNAMIC_SHARED: c_int = 8;
/// Hints that may be set: carveout, cluster width, height and depth, large clusters, cluster scheduling.
const CARVEOUT: c_int = 9;
const CLUSTER_MUST_BE_SET: c_int = 10;
const HINTS: std::ops::RangeInclusive<c_int> = 11..=15;

fn attribute(s: &State, function: Handle, which: c_int) -> Result<c_int, Code> {
    let (kernel, f, _) = s.kernel(function)?;
    let arch = s.device.options().arch;
    let hint = |default: c_int| f.hints.get(&which).copied().unwrap_or(default);
    Ok(match which {
        0 => kernel.max_threads.unwrap_or(u32::MAX).min(arch.max_threads_per_block) as c_int,
        1 => kernel.shared_bytes as c_int,
        2 => 0, // constants of the compiler: none
        3 => kernel.local_bytes as c_int,
        4 => registers(kernel, arch) as c_int,
        5 | 6 => arch.number() as c_int,
        7 => 0,
        MAX_DYNAMIC_SHARED => {
            let default = arch.shared_per_block.saturating_sub(kernel.shared_bytes);
            f.max_dynamic_shared.unwrap_or(default) as c_int
        }
        CARVEOUT => hint(-1),
        CLUSTER_MUST_BE_SET => 0,
        w if HINTS.contains(&w) => hint(0),
        _ => return Err(ERROR_INVALID_VALUE),
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetAttribute(out: Out<c_int>, which: c_int, function: Handle) -> Code {
    code(working().and_then(|s| out.put(attribute(&s, function, which)?)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(function: Handle, which: c_int, value: c_int) -> Code {
    code(working().and_then(|mut s| {
        let arch = s.device.options().arch;
        let fixed = s.kernel(function)?.0.shared_bytes;
        let f = s.functions.get_mut(&(function as usize)).ok_or(ERROR_INVALID_HANDLE)?;
        match which {
            MAX_DYNAMIC_SHARED => {
                if value < 0 || value as u32 > arch.shared_per_block_optin.saturating_sub(fixed) {
                    let message = format!(
                        "{}: {value} B of dynamic and {fixed} B of static shared memory, {} allows {} B",
                        f.name, arch.name, arch.shared_per_block_optin
                    );
                    return Err(refuse(ERROR_INVALID_VALUE, message));
                }
                f.max_dynamic_shared = Some(value as u32);
            }
            CARVEOUT if (-1..=100).contains(&value) => {
                f.hints.insert(which, value);
            }
            w if HINTS.contains(&w) && value >= 0 && arch.major >= 9 => {
                f.hints.insert(which, value);
            }
            _ => return Err(ERROR_INVALID_VALUE),
        }
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetCacheConfig(function: Handle, config: c_uint) -> Code {
    code(working().and_then(|s| {
        s.kernel(function)?;
        if config > 3 { Err(ERROR_INVALID_VALUE) } else { Ok(()) }
    }))
}

/// Banks of shared memory are 4 bytes wide; a preference for 8 changes nothing, as on hardware of today.
#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetSharedMemConfig(function: Handle, config: c_uint) -> Code {
    cuFuncSetCacheConfig(function, config)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetModule(out: Out<usize>, function: Handle) -> Code {
    code(working().and_then(|s| out.put(s.kernel(function)?.1.module)))
}

/// The name stays valid until the module is unloaded.
#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetName(out: Out<*const c_char>, function: Handle) -> Code {
    code(working().and_then(|mut s| {
        let name = s.kernel(function)?.0.name.clone();
        let text = std::ffi::CString::new(name).map_err(|_| ERROR_INVALID_VALUE)?;
        let kept = s.names.entry(function as usize).or_insert(text);
        out.put(kept.as_ptr())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetParamInfo(
    function: Handle,
    index: usize,
    offset: Out<usize>,
    size: Out<usize>,
) -> Code {
    code(working().and_then(|s| {
        let p = s.kernel(function)?.0.params.get(index).ok_or(ERROR_INVALID_VALUE)?;
        offset.put(p.offset as usize)?;
        size.put_if_wanted(p.size as usize);
        Ok(())
    }))
}

/// CU_FUNCTION_LOADING_STATE_LOADED.
#[unsafe(no_mangle)]
pub extern "C" fn cuFuncIsLoaded(out: Out<c_uint>, function: Handle) -> Code {
    code(working().and_then(|s| s.kernel(function).and_then(|_| out.put(1))))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncLoad(function: Handle) -> Code {
    code(working().and_then(|s| s.kernel(function).map(|_| ())))
}

// the same of kernels of a library, which are functions of its module ---------------------------------------------

#[unsafe(no_mangle)]
pub extern "C" fn cuKernelGetAttribute(out: Out<c_int>, which: c_int, kernel: Handle, device: c_int) -> Code {
    code(check_device(device).and_then(|_| out.put(attribute(&*working()?, kernel, which)?)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuKernelSetAttribute(which: c_int, value: c_int, kernel: Handle, device: c_int) -> Code {
    match check_device(device) {
        Ok(()) => cuFuncSetAttribute(kernel, which, value),
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuKernelSetCacheConfig(kernel: Handle, config: c_uint, device: c_int) -> Code {
    match check_device(device) {
        Ok(()) => cuFuncSetCacheConfig(kernel, config),
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuKernelGetFunction(out: Out<usize>, kernel: Handle) -> Code {
    code(working().and_then(|s| s.kernel(kernel).and_then(|_| out.put(kernel as usize))))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuKernelGetName(out: Out<*const c_char>, kernel: Handle) -> Code {
    cuFuncGetName(out, kernel)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuKernelGetParamInfo(
    kernel: Handle,
    index: usize,
    offset: Out<usize>,
    size: Out<usize>,
) -> Code {
    cuFuncGetParamInfo(kernel, index, offset, size)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuKernelGetLibrary(out: Out<usize>, kernel: Handle) -> Code {
    cuFuncGetModule(out, kernel)
}
