//! Contexts. All of them share the one device's memory; a failed launch fails its own context.

use std::ffi::{c_int, c_uint};

use crate::device::{VERSION, check_device};
use crate::errors::*;
use crate::ffi::{In, Out};
use crate::state::*;

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRetain(out: Out<usize>, device: c_int) -> Code {
    code(state().and_then(|mut s| {
        check_device(device)?;
        out.put(PRIMARY)?;
        s.retained += 1;
        Ok(())
    }))
}

/// The last release destroys the context.
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> Code {
    code(state().and_then(|mut s| {
        check_device(device)?;
        s.retained = s.retained.checked_sub(1).ok_or(ERROR_INVALID_CONTEXT)?;
        if s.retained == 0 {
            s.reset();
        }
        Ok(())
    }))
}

/// Frees what the context holds, and forgets a failed launch.
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxReset_v2(device: c_int) -> Code {
    code(state().and_then(|mut s| {
        check_device(device)?;
        s.reset();
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, flags: c_uint) -> Code {
    code(state().and_then(|mut s| {
        check_device(device)?;
        s.contexts.entry(PRIMARY).or_default().flags = flags;
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxGetState(device: c_int, flags: Out<c_uint>, active: Out<c_int>) -> Code {
    code(state().and_then(|mut s| {
        check_device(device)?;
        flags.put(s.contexts.entry(PRIMARY).or_default().flags)?;
        active.put((s.retained > 0) as c_int)
    }))
}

fn create_context(out: Out<usize>, flags: c_uint, device: c_int) -> Code {
    code(state().and_then(|mut s| {
        check_device(device)?;
        out.required()?;
        let handle = s.new_handle();
        s.contexts.insert(handle, Context { flags, ..Context::default() });
        CURRENT.with_borrow_mut(|c| c.push(handle));
        out.put(handle)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxCreate_v2(out: Out<usize>, flags: c_uint, device: c_int) -> Code {
    create_context(out, flags, device)
}

/// Execution affinities (a part of the SMs) are not supported.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxCreate_v3(
    out: Out<usize>,
    _affinities: Handle,
    count: c_int,
    flags: c_uint,
    device: c_int,
) -> Code {
    if count != 0 { ERROR_UNSUPPORTED_EXEC_AFFINITY } else { create_context(out, flags, device) }
}

/// CUctxCreateParams: execution affinities, and sharing with a graphics context.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CreateParams {
    affinities: usize,
    affinity_count: c_int,
    graphics: usize,
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxCreate_v4(
    out: Out<usize>,
    params: In<CreateParams>,
    flags: c_uint,
    device: c_int,
) -> Code {
    match params.get() {
        Ok(p) if p.affinity_count != 0 => ERROR_UNSUPPORTED_EXEC_AFFINITY,
        Ok(p) if p.graphics != 0 => {
            say_once("CUctxCigParam", "contexts that share the device with graphics are not supported");
            ERROR_NOT_SUPPORTED
        }
        // Absent, or empty.
        _ => create_context(out, flags, device),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxDestroy_v2(context: Handle) -> Code {
    code(state().and_then(|mut s| {
        let handle = context as usize;
        if handle == PRIMARY || s.contexts.remove(&handle).is_none() {
            return Err(ERROR_INVALID_CONTEXT);
        }
        CURRENT.with_borrow_mut(|c| c.retain(|&h| h != handle));
        Ok(())
    }))
}

fn known(s: &State, context: Handle) -> Result<usize, Code> {
    let handle = context as usize;
    if s.contexts.contains_key(&handle) { Ok(handle) } else { Err(ERROR_INVALID_CONTEXT) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: Handle) -> Code {
    code(state().and_then(|s| {
        let new = if context.is_null() { None } else { Some(known(&s, context)?) };
        CURRENT.with_borrow_mut(|c| {
            c.pop();
            c.extend(new);
        });
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetCurrent(out: Out<usize>) -> Code {
    code(state().and_then(|_| out.put(current())))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPushCurrent_v2(context: Handle) -> Code {
    code(state().and_then(|s| {
        let handle = known(&s, context)?;
        CURRENT.with_borrow_mut(|c| c.push(handle));
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPopCurrent_v2(out: Out<usize>) -> Code {
    code(state().and_then(|_| {
        let top = CURRENT.with_borrow_mut(|c| c.pop()).ok_or(ERROR_INVALID_CONTEXT)?;
        out.put_if_wanted(top);
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetDevice(out: Out<c_int>) -> Code {
    code(working().and_then(|_| out.put(0)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetDevice_v2(out: Out<c_int>, context: Handle) -> Code {
    if context.is_null() {
        return cuCtxGetDevice(out);
    }
    code(state().and_then(|s| known(&s, context).and_then(|_| out.put(0))))
}

/// Work is done when it is submitted: there is nothing to wait for. Unused memory of the pools goes back.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> Code {
    code(working().and_then(|mut s| {
        s.may_wait()?;
        s.release_pools();
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize_v2(context: Handle) -> Code {
    if context.is_null() {
        return cuCtxSynchronize();
    }
    code(state().and_then(|mut s| {
        let handle = known(&s, context)?;
        match s.contexts.get(&handle).map_or(ERROR_INVALID_CONTEXT, |c| c.failed) {
            SUCCESS => {}
            failed => return Err(failed),
        }
        s.may_wait()?;
        s.release_pools();
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetFlags(out: Out<c_uint>) -> Code {
    code(working().and_then(|mut s| out.put(s.context()?.flags)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetFlags(flags: c_uint) -> Code {
    code(working().and_then(|mut s| {
        s.context()?.flags = flags;
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetId(context: Handle, out: Out<u64>) -> Code {
    code(state().and_then(|s| {
        let handle = if context.is_null() { current() as Handle } else { context };
        out.put(known(&s, handle)? as u64)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetApiVersion(context: Handle, out: Out<c_uint>) -> Code {
    code(state().and_then(|s| {
        if !context.is_null() {
            known(&s, context)?;
        }
        out.put(VERSION as c_uint)
    }))
}

/// A preference for L1 or shared memory, 0 to 3: kept and given back.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCacheConfig(config: c_uint) -> Code {
    code(working().and_then(|mut s| {
        if config > 3 {
            return Err(ERROR_INVALID_VALUE);
        }
        s.context()?.cache_config = config;
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetCacheConfig(out: Out<c_uint>) -> Code {
    code(working().and_then(|mut s| out.put(s.context()?.cache_config)))
}

/// CUlimit: stack, printf buffer, heap, two of dynamic parallelism, L2 fetch granularity, persisting L2, and others.
const LIMITS: std::ops::Range<u32> = 0..9;

/// Of a thread's stack, and of the heap of `malloc` in kernels.
const STACK: u32 = 0;
const HEAP: u32 = 2;

/// The stack and the heap are as large as it says; the others are kept and given back.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetLimit(limit: c_uint, value: usize) -> Code {
    code(working().and_then(|mut s| {
        if !LIMITS.contains(&limit) {
            return Err(ERROR_UNSUPPORTED_LIMIT);
        }
        match limit {
            STACK => s.device.set_stack(value.min(1 << 20) as u32),
            HEAP => s.device.memory_mut().heap_mut().set_limit(value as u64),
            _ => {}
        }
        s.context()?.limits.insert(limit, value);
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetLimit(out: Out<usize>, limit: c_uint) -> Code {
    code(working().and_then(|mut s| {
        let own = match limit {
            STACK => return out.put(s.device.options().stack_bytes as usize),
            HEAP => return out.put(s.device.memory().heap().limit() as usize),
            1 => 1 << 20, // printf: there is no limit; hardware's default
            5 => 64,      // bytes fetched into L2
            l if LIMITS.contains(&l) => 0,
            _ => return Err(ERROR_UNSUPPORTED_LIMIT),
        };
        out.put(s.context()?.limits.get(&limit).copied().unwrap_or(own))
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxResetPersistingL2Cache() -> Code {
    code(working().map(|_| ()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxEnablePeerAccess(context: Handle, _flags: c_uint) -> Code {
    code(working().and_then(|s| known(&s, context).and(Err(ERROR_PEER_ACCESS_UNSUPPORTED))))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxDisablePeerAccess(context: Handle) -> Code {
    code(working().and_then(|s| known(&s, context).and(Err(ERROR_PEER_ACCESS_NOT_ENABLED))))
}

/// Nothing listens to the profiler's range; the counters cover every launch.
#[unsafe(no_mangle)]
pub extern "C" fn cuProfilerStart() -> Code {
    code(working().map(|_| ()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuProfilerStop() -> Code {
    code(working().map(|_| ()))
}
