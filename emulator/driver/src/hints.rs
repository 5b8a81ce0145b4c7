//! Calls that advise, prefetch or keep things alive: accepted where their arguments are sound, for the memory they
//! speak of is always where it is needed.

use std::collections::HashMap;
use std::ffi::{c_int, c_uint, c_void};
use std::sync::Mutex;

use crate::errors::*;
use crate::ffi::{In, Out};
use crate::pools::Location;
use crate::state::*;

/// The range is managed memory.
pub fn managed(s: &State, address: u64, bytes: usize) -> Result<(), Code> {
    let memory = s.host_memory_at(address).ok_or(ERROR_INVALID_VALUE)?;
    let inside = address + bytes as u64 <= memory.address + memory.bytes;
    if inside && memory.kind == crate::host_memory::Kind::Managed { Ok(()) } else { Err(ERROR_INVALID_VALUE) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAdvise_v2(address: u64, bytes: usize, advice: c_uint, location: Location) -> Code {
    code(working().and_then(|mut s| {
        managed(&s, address, bytes)?;
        let kept = &mut s.host_memory_at_mut(address).ok_or(ERROR_INVALID_VALUE)?.advice;
        match advice {
            1 | 2 => kept.read_mostly = advice == 1,
            3 => kept.preferred = Some(location),
            4 => kept.preferred = None,
            5 => kept.accessed_by = Some(location),
            6 => kept.accessed_by = None,
            _ => return Err(ERROR_INVALID_VALUE),
        }
        Ok(())
    }))
}

/// What advice and prefetching have said of a range, which nothing here follows. Kept for a whole allocation.
fn range_attribute(
    s: &State,
    out: Out<c_int>,
    bytes: usize,
    attribute: c_uint,
    address: u64,
) -> Result<(), Code> {
    const NOWHERE: c_int = -2; // CU_DEVICE_INVALID
    let advice = &s.host_memory_at(address).ok_or(ERROR_INVALID_VALUE)?.advice;
    let device = |l: Option<Location>| l.map_or(NOWHERE, |l| if l.kind == 1 { l.id } else { -1 });
    let words = bytes / 4;
    if words == 0 || !bytes.is_multiple_of(4) || attribute != 3 && words != 1 {
        return Err(ERROR_INVALID_VALUE);
    }
    match attribute {
        1 => out.put(advice.read_mostly as c_int),
        2 => out.put(device(advice.preferred)),
        3 => {
            out.put(device(advice.accessed_by))?;
            (1..words).try_for_each(|i| out.put_at(i, NOWHERE))
        }
        4 => out.put(device(advice.prefetched)),
        5 => out.put(advice.preferred.map_or(0, |l| l.kind)),
        6 => out.put(advice.preferred.map_or(0, |l| l.id)),
        7 => out.put(advice.prefetched.map_or(0, |l| l.kind)),
        8 => out.put(advice.prefetched.map_or(0, |l| l.id)),
        _ => Err(ERROR_INVALID_VALUE),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemRangeGetAttribute(
    out: Out<c_int>,
    size: usize,
    attribute: c_uint,
    address: u64,
    bytes: usize,
) -> Code {
    code(working().and_then(|s| {
        managed(&s, address, bytes)?;
        range_attribute(&s, out, size, attribute, address)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemRangeGetAttributes(
    outs: In<usize>,
    sizes: In<usize>,
    attributes: In<c_uint>,
    count: usize,
    address: u64,
    bytes: usize,
) -> Code {
    code(working().and_then(|s| {
        managed(&s, address, bytes)?;
        (0..count).try_for_each(|i| {
            let out = Out::at(outs.get_at(i)?);
            range_attribute(&s, out, sizes.get_at(i)?, attributes.get_at(i)?, address)
        })
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPrefetchAsync_v2(
    address: u64,
    bytes: usize,
    location: Location,
    flags: c_uint,
    stream: Handle,
) -> Code {
    code(working().and_then(|mut s| {
        s.stream(stream)?;
        if flags != 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        managed(&s, address, bytes)?;
        s.host_memory_at_mut(address).ok_or(ERROR_INVALID_VALUE)?.advice.prefetched = Some(location);
        Ok(())
    }))
}

/// Banks of shared memory are 4 bytes wide (1).
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetSharedMemConfig(out: Out<c_uint>) -> Code {
    code(working().and_then(|_| out.put(1)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetSharedMemConfig(config: c_uint) -> Code {
    code(working().and(if config > 2 { Err(ERROR_INVALID_VALUE) } else { Ok(()) }))
}

/// Attributes of streams are hints that are not kept: they read as zero.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetAttribute(stream: Handle, _attribute: c_int, value: Out<[u64; 8]>) -> Code {
    code(working().and_then(|mut s| s.stream(stream).and_then(|_| value.put([0; 8]))))
}

type Destroy = unsafe extern "C" fn(*mut c_void);

struct UserObject {
    destroy: Destroy,
    data: usize,
    count: u64,
}

/// Objects of callers that graphs keep alive; apart from the state, for their destructors may call the driver.
static OBJECTS: Mutex<Option<HashMap<usize, UserObject>>> = Mutex::new(None);

/// Changes how often an object is held, and destroys it at zero.
fn count_object(object: Handle, change: i64) -> Result<(), Code> {
    let destroyed = {
        let mut objects = OBJECTS.lock().unwrap_or_else(|e| e.into_inner());
        let objects = objects.get_or_insert_default();
        let held = objects.get_mut(&(object as usize)).ok_or(ERROR_INVALID_VALUE)?;
        held.count = held.count.checked_add_signed(change).ok_or(ERROR_INVALID_VALUE)?;
        if held.count == 0 { objects.remove(&(object as usize)) } else { None }
    };
    if let Some(o) = destroyed {
        // SAFETY: a function that takes `data`, by the API's contract; nothing is locked.
        unsafe { (o.destroy)(o.data as *mut c_void) };
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuUserObjectCreate(
    out: Out<usize>,
    data: usize,
    destroy: Option<Destroy>,
    count: c_uint,
    flags: c_uint,
) -> Code {
    code(working().and_then(|mut s| {
        out.required()?;
        let destroy = destroy.ok_or(ERROR_INVALID_VALUE)?;
        // CU_USER_OBJECT_NO_DESTRUCTOR_SYNC, which must be given.
        if count == 0 || flags != 1 {
            return Err(ERROR_INVALID_VALUE);
        }
        let handle = s.new_handle();
        let mut objects = OBJECTS.lock().unwrap_or_else(|e| e.into_inner());
        objects.get_or_insert_default().insert(handle, UserObject { destroy, data, count: count as u64 });
        out.put(handle)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuUserObjectRetain(object: Handle, count: c_uint) -> Code {
    code(count_object(object, count as i64))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuUserObjectRelease(object: Handle, count: c_uint) -> Code {
    code(count_object(object, -(count as i64)))
}

/// A graph holds the object until it is destroyed; with flag 1 the caller's own references move to it.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphRetainUserObject(
    graph: Handle,
    object: Handle,
    count: c_uint,
    flags: c_uint,
) -> Code {
    code(working().and_then(|mut s| {
        if flags > 1 {
            return Err(ERROR_INVALID_VALUE);
        }
        let g = s.graphs.get_mut(&(graph as usize)).ok_or(ERROR_INVALID_HANDLE)?;
        g.objects.extend(std::iter::repeat_n(object as usize, count as usize));
        drop(s);
        if flags == 1 { Ok(()) } else { count_object(object, count as i64) }
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphReleaseUserObject(graph: Handle, object: Handle, count: c_uint) -> Code {
    code(working().and_then(|mut s| {
        let g = s.graphs.get_mut(&(graph as usize)).ok_or(ERROR_INVALID_HANDLE)?;
        let held = g.objects.iter().filter(|&&o| o == object as usize).count();
        if held < count as usize {
            return Err(ERROR_INVALID_VALUE);
        }
        for _ in 0..count {
            if let Some(i) = g.objects.iter().position(|&o| o == object as usize) {
                g.objects.remove(i);
            }
        }
        drop(s);
        count_object(object, -(count as i64))
    }))
}

/// Lets go of what a graph held.
pub fn release(objects: Vec<usize>) {
    for object in objects {
        let _ = count_object(object as Handle, -1); // the caller may have released more than it held
    }
}

/// Attributes of kernel nodes that are read from a launch: cooperative (2) and cluster dimensions (4).
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphKernelNodeGetAttribute(
    node: Handle,
    attribute: c_int,
    value: Out<[u32; 16]>,
) -> Code {
    code(working().and_then(|s| {
        let crate::ops::Op::Launch(launch) = &s.node(node)?.op else { return Err(ERROR_INVALID_VALUE) };
        let mut out = [0; 16];
        match attribute {
            2 => out[0] = launch.shape.cooperative as u32,
            4 => out[..3].copy_from_slice(&launch.shape.cluster),
            0..=16 => {}
            _ => return Err(ERROR_INVALID_VALUE),
        }
        value.put(out)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphKernelNodeSetAttribute(
    node: Handle,
    attribute: c_int,
    value: In<[u32; 16]>,
) -> Code {
    code(working().and_then(|mut s| {
        let v = value.get()?;
        let crate::ops::Op::Launch(launch) = &mut s.node_mut(node)?.op else {
            return Err(ERROR_INVALID_VALUE);
        };
        match attribute {
            2 => launch.shape.cooperative = v[0] != 0,
            4 => launch.shape.cluster = [v[0], v[1], v[2]],
            0..=16 => {}
            _ => return Err(ERROR_INVALID_VALUE),
        }
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphKernelNodeCopyAttributes(to: Handle, from: Handle) -> Code {
    code(working().and_then(|mut s| {
        let crate::ops::Op::Launch(source) = &s.node(from)?.op else { return Err(ERROR_INVALID_VALUE) };
        let (cluster, cooperative) = (source.shape.cluster, source.shape.cooperative);
        let crate::ops::Op::Launch(launch) = &mut s.node_mut(to)?.op else { return Err(ERROR_INVALID_VALUE) };
        (launch.shape.cluster, launch.shape.cooperative) = (cluster, cooperative);
        Ok(())
    }))
}
