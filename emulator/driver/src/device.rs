//! Initialisation, the device and its attributes, contexts, limits.

use std::ffi::{c_char, c_int, c_uint};

use crate::errors::*;
use crate::state::*;

/// CUDA 13.0.
const VERSION: c_int = 13000;

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(flags: c_uint) -> Code {
    if flags != 0 { ERROR_INVALID_VALUE } else { init() }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(out: *mut c_int) -> Code {
    // SAFETY: the API's contract.
    code(unsafe { put(out, VERSION) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(out: *mut c_int) -> Code {
    // SAFETY: the API's contract.
    code(state().and_then(|_| unsafe { put(out, 1) }))
}

fn check_device(device: c_int) -> Result<(), Code> {
    if device == 0 { Ok(()) } else { Err(ERROR_INVALID_DEVICE) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(out: *mut c_int, ordinal: c_int) -> Code {
    // SAFETY: the API's contract.
    code(state().and_then(|_| check_device(ordinal)).and_then(|_| unsafe { put(out, 0) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(out: *mut c_char, length: c_int, device: c_int) -> Code {
    code((|| {
        let state = state()?;
        check_device(device)?;
        if out.is_null() || length < 1 {
            return Err(ERROR_INVALID_VALUE);
        }
        let name = format!("Handloom emulated GPU ({})", state.device.options().arch.name);
        let bytes = &name.as_bytes()[..name.len().min(length as usize - 1)];
        // SAFETY: `out` holds `length` bytes, by the API's contract; one is kept for the end.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), out as *mut u8, bytes.len());
            *out.add(bytes.len()) = 0;
        }
        Ok(())
    })())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid_v2(out: *mut [u8; 16], device: c_int) -> Code {
    // SAFETY: the API's contract.
    code(state().and_then(|_| check_device(device)).and_then(|_| unsafe { put(out, *b"handloom-emulate") }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid(out: *mut [u8; 16], device: c_int) -> Code {
    // SAFETY: the API's contract, passed on.
    unsafe { cuDeviceGetUuid_v2(out, device) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(out: *mut usize, device: c_int) -> Code {
    code(state().and_then(|s| {
        check_device(device)?;
        // SAFETY: the API's contract.
        unsafe { put(out, s.device.memory().capacity() as usize) }
    }))
}

/// Attributes the emulator knows; others are 0 where that says "not supported", and an error where it would mislead.
fn attribute(state: &State, attribute: c_int) -> Option<u32> {
    let a = state.device.options().arch;
    Some(match attribute {
        1 => a.max_threads_per_block,
        2..=4 => a.max_block[attribute as usize - 2],
        5..=7 => a.max_grid[attribute as usize - 5],
        8 => a.shared_per_block,
        9 => a.const_bytes,
        10 => 32,
        11 => i32::MAX as u32,
        12 => a.registers_per_block,
        13 | 36 => 1_000_000, // kHz: the emulator has no clock, and programs divide by it
        14 | 30 => 512,
        15 => 0,
        16 => a.sms,
        37 => 4096,
        38 => 40 << 20,
        39 => a.max_threads_per_sm,
        41 => 1, // unified addressing
        51 => 32,
        75 => a.major,
        76 => a.minor,
        81 => a.shared_per_sm,
        82 => a.registers_per_sm,
        87 => 2,
        97 => a.shared_per_block_optin,
        106 => a.max_blocks_per_sm,
        111 => a.shared_reserved,
        115 => 1, // memory pools: allocation in stream order
        // Features that the emulator lacks: timeouts, mapping, managed memory, cooperative and cluster launches, ...
        17..=20
        | 31..=35
        | 40
        | 78..=80
        | 83..=86
        | 88..=96
        | 98..=105
        | 107..=110
        | 112..=114
        | 116..=147 => 0,
        _ => return None,
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(out: *mut c_int, which: c_int, device: c_int) -> Code {
    code(state().and_then(|s| {
        check_device(device)?;
        match attribute(&s, which) {
            // SAFETY: the API's contract.
            Some(v) => unsafe { put(out, v as c_int) },
            None => {
                say_once(&format!("attribute {which}"), &format!("device attribute {which} is not known"));
                Err(ERROR_INVALID_VALUE)
            }
        }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceComputeCapability(
    major: *mut c_int,
    minor: *mut c_int,
    device: c_int,
) -> Code {
    code(state().and_then(|s| {
        check_device(device)?;
        let arch = s.device.options().arch;
        // SAFETY: the API's contract.
        unsafe { put(major, arch.major as c_int).and_then(|_| put(minor, arch.minor as c_int)) }
    }))
}

// contexts -------------------------------------------------------------------------------------------------------

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(out: *mut Handle, device: c_int) -> Code {
    // SAFETY: the API's contract.
    code(state().and_then(|_| check_device(device)).and_then(|_| unsafe { put(out, PRIMARY as Handle) }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> Code {
    code(state().and_then(|_| check_device(device)))
}

/// Frees what the context holds, and forgets a failed launch.
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxReset_v2(device: c_int) -> Code {
    code(state().and_then(|mut s| {
        check_device(device)?;
        s.failed = SUCCESS;
        s.modules.clear();
        s.functions.clear();
        s.streams.clear();
        s.events.clear();
        let options = s.device.options().clone();
        s.device = handloom_emulator::Device::new(options);
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, _flags: c_uint) -> Code {
    code(state().and_then(|_| check_device(device)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxGetState(
    device: c_int,
    flags: *mut c_uint,
    active: *mut c_int,
) -> Code {
    code(state().and_then(|_| check_device(device)).and_then(|_| {
        // SAFETY: the API's contract.
        unsafe { put(flags, 0).and_then(|_| put(active, 1)) }
    }))
}

fn create_context(out: *mut Handle, device: c_int) -> Code {
    code(state().and_then(|mut s| {
        check_device(device)?;
        let handle = s.new_handle();
        // SAFETY: the API's contract.
        unsafe { put(out, handle as Handle) }?;
        s.contexts.insert(handle);
        CURRENT.with_borrow_mut(|c| c.push(handle));
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v2(out: *mut Handle, _flags: c_uint, device: c_int) -> Code {
    create_context(out, device)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v4(
    out: *mut Handle,
    _params: Handle,
    _flags: c_uint,
    device: c_int,
) -> Code {
    create_context(out, device)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxDestroy_v2(context: Handle) -> Code {
    code(state().and_then(|mut s| {
        let known = context as usize != PRIMARY && s.contexts.remove(&(context as usize));
        CURRENT.with_borrow_mut(|c| c.retain(|&h| h != context as usize || !known));
        if known { Ok(()) } else { Err(ERROR_INVALID_CONTEXT) }
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: Handle) -> Code {
    code(state().and_then(|s| {
        if !context.is_null() && !s.contexts.contains(&(context as usize)) {
            return Err(ERROR_INVALID_CONTEXT);
        }
        CURRENT.with_borrow_mut(|c| {
            c.pop();
            if !context.is_null() {
                c.push(context as usize);
            }
        });
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(out: *mut Handle) -> Code {
    let current = CURRENT.with_borrow(|c| c.last().copied().unwrap_or(0));
    // SAFETY: the API's contract.
    code(state().and_then(|_| unsafe { put(out, current as Handle) }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPushCurrent_v2(context: Handle) -> Code {
    code(state().and_then(|s| {
        if !s.contexts.contains(&(context as usize)) {
            return Err(ERROR_INVALID_CONTEXT);
        }
        CURRENT.with_borrow_mut(|c| c.push(context as usize));
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxPopCurrent_v2(out: *mut Handle) -> Code {
    code(state().and_then(|_| {
        let Some(top) = CURRENT.with_borrow_mut(|c| c.pop()) else { return Err(ERROR_INVALID_CONTEXT) };
        if out.is_null() {
            return Ok(());
        }
        // SAFETY: the API's contract.
        unsafe { put(out, top as Handle) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetDevice(out: *mut c_int) -> Code {
    // SAFETY: the API's contract.
    code(working().and_then(|_| unsafe { put(out, 0) }))
}

/// Work is done when it is submitted: nothing to wait for.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> Code {
    code(working().map(|_| ()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetFlags(_flags: c_uint) -> Code {
    code(working().map(|_| ()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCacheConfig(_config: c_uint) -> Code {
    code(working().map(|_| ()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCacheConfig(out: *mut c_uint) -> Code {
    // SAFETY: the API's contract.
    code(working().and_then(|_| unsafe { put(out, 0) }))
}

/// Remembered and given back; the stack's size is the emulator's option `stack`.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetLimit(limit: c_uint, value: usize) -> Code {
    code(working().map(|mut s| {
        s.limits.insert(limit, value);
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetLimit(out: *mut usize, limit: c_uint) -> Code {
    code(working().and_then(|s| {
        let own = if limit == 0 { s.device.options().stack_bytes as usize } else { 0 };
        // SAFETY: the API's contract.
        unsafe { put(out, s.limits.get(&limit).copied().unwrap_or(own)) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) -> Code {
    code(working().and_then(|_| {
        for out in [least, greatest] {
            if !out.is_null() {
                // SAFETY: the API's contract.
                unsafe { put(out, 0) }?;
            }
        }
        Ok(())
    }))
}
