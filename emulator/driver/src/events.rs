//! Events. Work is done when it is submitted, so a recorded event is complete; it keeps its time.

use std::ffi::c_uint;

use crate::errors::*;
use crate::ffi::Out;
use crate::ops::{Op, run};
use crate::state::*;
use crate::streams::no_capture;

/// CU_EVENT_DISABLE_TIMING, and all flags there are: blocking, no timing, interprocess.
const DISABLE_TIMING: u32 = 2;
const ALL_FLAGS: u32 = 7;

#[unsafe(no_mangle)]
pub extern "C" fn cuEventCreate(out: Out<usize>, flags: c_uint) -> Code {
    code(working().and_then(|mut s| {
        out.required()?;
        if flags & !ALL_FLAGS != 0 || flags & 4 != 0 && flags & DISABLE_TIMING == 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        let handle = s.new_handle();
        s.events.insert(handle, Event { timing: flags & DISABLE_TIMING == 0, ..Event::default() });
        out.put(handle)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: Handle) -> Code {
    code(state().and_then(|mut s| s.events.remove(&(event as usize)).map(|_| ()).ok_or(ERROR_INVALID_HANDLE)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: Handle, stream: Handle) -> Code {
    cuEventRecordWithFlags(event, stream, 0)
}

/// In a capture the event stands for the nodes before it; with CU_EVENT_RECORD_EXTERNAL it is a node itself.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecordWithFlags(event: Handle, stream: Handle, flags: c_uint) -> Code {
    code(working().and_then(|mut s| {
        let (key, event) = (s.stream(stream)?, event as usize);
        if !s.events.contains_key(&event) {
            return Err(ERROR_INVALID_HANDLE);
        }
        match flags {
            1 => return s.capture(key, Op::Record(event)).map_err(no_capture).map(|_| ()),
            0 => {}
            _ => return Err(ERROR_INVALID_VALUE),
        }
        if let Some(id) = s.capturing(key)? {
            let before = s.streams[&key].last.clone();
            let e = s.events.get_mut(&event).ok_or(ERROR_INVALID_HANDLE)?;
            e.captured = Some((id, before));
            return Ok(());
        }
        s.legacy_is_free(key)?;
        drop(s);
        run(&Op::Record(event))
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: Handle) -> Code {
    code(working().and_then(|mut s| {
        s.event_is_outside(event as usize)?;
        s.is_safe()?;
        s.release_pools();
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(event: Handle) -> Code {
    code(working().and_then(|mut s| s.event_is_outside(event as usize).and_then(|_| s.is_safe())))
}

/// Time on the host between two events, in milliseconds: the emulator's own, not a GPU's.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventElapsedTime_v2(out: Out<f32>, start: Handle, end: Handle) -> Code {
    code(working().and_then(|mut s| {
        let mut time = |e: Handle| {
            s.event_is_outside(e as usize)?;
            let event = &s.events[&(e as usize)];
            event.recorded.filter(|_| event.timing).ok_or(ERROR_INVALID_HANDLE)
        };
        let (start, end) = (time(start)?, time(end)?);
        let milliseconds = match end.checked_duration_since(start) {
            Some(d) => d.as_secs_f32() * 1e3,
            None => -start.duration_since(end).as_secs_f32() * 1e3,
        };
        out.put(milliseconds)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventElapsedTime(out: Out<f32>, start: Handle, end: Handle) -> Code {
    cuEventElapsedTime_v2(out, start, end)
}
