//! Streams and events. Work is done when it is submitted, so both are always complete; an event keeps its time.

use std::ffi::{c_int, c_uint};
use std::time::Instant;

use crate::errors::*;
use crate::state::*;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(out: *mut Handle, _flags: c_uint) -> Code {
    code(working().and_then(|mut s| {
        let handle = s.new_handle();
        s.streams.insert(handle);
        // SAFETY: the API's contract.
        unsafe { put(out, handle as Handle) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreateWithPriority(
    out: *mut Handle,
    flags: c_uint,
    _priority: c_int,
) -> Code {
    // SAFETY: the API's contract, passed on.
    unsafe { cuStreamCreate(out, flags) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: Handle) -> Code {
    code(state().and_then(|mut s| {
        if s.streams.remove(&(stream as usize)) { Ok(()) } else { Err(ERROR_INVALID_HANDLE) }
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: Handle) -> Code {
    code(working().and_then(|s| s.check_stream(stream)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamQuery(stream: Handle) -> Code {
    code(working().and_then(|s| s.check_stream(stream)))
}

fn check_event(s: &State, event: Handle) -> Result<(), Code> {
    if s.events.contains_key(&(event as usize)) { Ok(()) } else { Err(ERROR_INVALID_HANDLE) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: Handle, event: Handle, _flags: c_uint) -> Code {
    code(working().and_then(|s| s.check_stream(stream).and_then(|_| check_event(&s, event))))
}

/// Nothing captures: graphs are not supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamIsCapturing(stream: Handle, out: *mut c_int) -> Code {
    // SAFETY: the API's contract.
    code(working().and_then(|s| s.check_stream(stream).and_then(|_| unsafe { put(out, 0) })))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(out: *mut Handle, _flags: c_uint) -> Code {
    code(working().and_then(|mut s| {
        let handle = s.new_handle();
        s.events.insert(handle, None);
        // SAFETY: the API's contract.
        unsafe { put(out, handle as Handle) }
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: Handle) -> Code {
    code(state().and_then(|mut s| {
        if s.events.remove(&(event as usize)).is_some() { Ok(()) } else { Err(ERROR_INVALID_HANDLE) }
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: Handle, stream: Handle) -> Code {
    code(working().and_then(|mut s| {
        s.check_stream(stream)?;
        check_event(&s, event)?;
        s.events.insert(event as usize, Some(Instant::now()));
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecordWithFlags(event: Handle, stream: Handle, _flags: c_uint) -> Code {
    cuEventRecord(event, stream)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: Handle) -> Code {
    code(working().and_then(|s| check_event(&s, event)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(event: Handle) -> Code {
    code(working().and_then(|s| check_event(&s, event)))
}

/// Time on the host between two events, in milliseconds: the emulator's own, not a GPU's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime_v2(out: *mut f32, start: Handle, end: Handle) -> Code {
    code(working().and_then(|s| {
        let time = |e: Handle| s.events.get(&(e as usize)).copied().flatten().ok_or(ERROR_INVALID_HANDLE);
        let (start, end) = (time(start)?, time(end)?);
        let milliseconds = match end.checked_duration_since(start) {
            Some(d) => d.as_secs_f32() * 1e3,
            None => -start.duration_since(end).as_secs_f32() * 1e3,
        };
        // SAFETY: the API's contract.
        unsafe { put(out, milliseconds) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(out: *mut f32, start: Handle, end: Handle) -> Code {
    // SAFETY: the API's contract, passed on.
    unsafe { cuEventElapsedTime_v2(out, start, end) }
}
