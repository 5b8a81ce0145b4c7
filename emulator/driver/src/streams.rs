//! Streams. Work is done when it is submitted, so a stream is always idle.

use std::ffi::{c_int, c_uint, c_void};

use crate::device::check_device;
use crate::errors::*;
use crate::ffi::{In, Out};
use crate::ops::{HostCall, Op, submit};
use crate::state::*;

/// Priorities that streams may have, the greatest first: kept and given back, for there is nothing to order.
pub const PRIORITIES: (c_int, c_int) = (-5, 0);

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamCreate(out: Out<usize>, flags: c_uint) -> Code {
    cuStreamCreateWithPriority(out, flags, 0)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamCreateWithPriority(out: Out<usize>, flags: c_uint, priority: c_int) -> Code {
    code(working().and_then(|mut s| {
        out.required()?;
        if flags > NON_BLOCKING {
            return Err(ERROR_INVALID_VALUE);
        }
        let handle = s.new_handle();
        let priority = priority.clamp(PRIORITIES.0, PRIORITIES.1);
        s.streams.insert(handle, Stream { flags, priority, ..Stream::default() });
        out.put(handle)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: Handle) -> Code {
    code(state().and_then(|mut s| {
        let key = stream as usize;
        if key <= PER_THREAD || !s.streams.contains_key(&key) {
            return Err(ERROR_INVALID_HANDLE);
        }
        s.abandon(key);
        s.streams.remove(&key);
        Ok(())
    }))
}

/// All work is done; unused memory of the pools goes back.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: Handle) -> Code {
    code(working().and_then(|mut s| {
        let key = s.stream(stream)?;
        s.may_wait_for(key)?;
        s.release_pools();
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamQuery(stream: Handle) -> Code {
    code(working().and_then(|mut s| {
        let key = s.stream(stream)?;
        s.may_wait_for(key)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: c_uint) -> Code {
    code(working().and_then(|mut s| {
        let (key, event) = (s.stream(stream)?, event as usize);
        match flags {
            // CU_EVENT_WAIT_EXTERNAL: a node that waits, only within a capture.
            1 => s.capture(key, Op::Wait(event)).map_err(no_capture).map(|_| ()),
            0 => s.wait_in_capture(key, event).map(|_| ()),
            _ => Err(ERROR_INVALID_VALUE),
        }
    }))
}

/// Flags that only mean something within a capture are invalid outside of one.
pub fn no_capture(code: Code) -> Code {
    if code == ERROR_ILLEGAL_STATE { ERROR_INVALID_VALUE } else { code }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetPriority(stream: Handle, out: Out<c_int>) -> Code {
    code(working().and_then(|mut s| {
        let key = s.stream(stream)?;
        out.put(s.streams[&key].priority)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetFlags(stream: Handle, out: Out<c_uint>) -> Code {
    code(working().and_then(|mut s| {
        let key = s.stream(stream)?;
        out.put(s.streams[&key].flags)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetId(stream: Handle, out: Out<u64>) -> Code {
    code(working().and_then(|mut s| out.put(s.stream(stream)? as u64)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetCtx(stream: Handle, out: Out<usize>) -> Code {
    code(working().and_then(|mut s| s.stream(stream).and_then(|_| out.put(current()))))
}

/// As cuStreamGetCtx; no stream belongs to a green context.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetCtx_v2(stream: Handle, out: Out<usize>, green: Out<usize>) -> Code {
    green.put_if_wanted(0);
    cuStreamGetCtx(stream, out)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetDevice(stream: Handle, out: Out<c_int>) -> Code {
    code(working().and_then(|mut s| s.stream(stream).and_then(|_| out.put(0))))
}

/// Attributes are hints about caches and synchronisation: accepted, for there is nothing that they could change.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSetAttribute(stream: Handle, _attribute: c_int, value: In<u8>) -> Code {
    code(working().and_then(|mut s| {
        s.stream(stream)?;
        if value.is_null() { Err(ERROR_INVALID_VALUE) } else { Ok(()) }
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamCopyAttributes(to: Handle, from: Handle) -> Code {
    code(working().and_then(|mut s| s.stream(to).and_then(|_| s.stream(from)).map(|_| ())))
}

/// There is no managed memory to attach: all of it is accessible to both sides at any time.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamAttachMemAsync(
    stream: Handle,
    address: u64,
    _length: usize,
    flags: c_uint,
) -> Code {
    code(working().and_then(|mut s| {
        s.stream(stream)?;
        let known = s.host_memory.values().any(|m| m.contains(address));
        if known && matches!(flags, 1 | 2 | 4) { Ok(()) } else { Err(ERROR_INVALID_VALUE) }
    }))
}

/// A function of the host, in order with the stream's work.
#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchHostFunc(
    stream: Handle,
    function: Option<unsafe extern "C" fn(*mut c_void)>,
    data: *mut c_void,
) -> Code {
    code(working().and_then(|s| {
        let function = function.ok_or(ERROR_INVALID_VALUE)?;
        submit(s, stream, Op::Host(HostCall { function, data: data as usize }))
    }))
}

pub type Callback = unsafe extern "C" fn(Handle, Code, *mut c_void);

/// The older form of it, which may not be captured.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamAddCallback(
    stream: Handle,
    callback: Option<Callback>,
    data: *mut c_void,
    flags: c_uint,
) -> Code {
    code(working().and_then(|mut s| {
        let callback = callback.ok_or(ERROR_INVALID_VALUE)?;
        if flags != 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        let key = s.stream(stream)?;
        s.may_wait_for(key)?;
        drop(s);
        // SAFETY: a function with these arguments, by the API's contract; the state is not locked.
        unsafe { callback(stream, SUCCESS, data) };
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetStreamPriorityRange(least: Out<c_int>, greatest: Out<c_int>) -> Code {
    code(working().map(|_| {
        least.put_if_wanted(PRIORITIES.1);
        greatest.put_if_wanted(PRIORITIES.0);
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetP2PAttribute(out: Out<c_int>, _attribute: c_int, a: c_int, b: c_int) -> Code {
    code(state().and_then(|_| {
        check_device(a)?;
        check_device(b)?;
        out.required()?;
        Err(ERROR_INVALID_DEVICE) // a device is no peer of itself
    }))
}
