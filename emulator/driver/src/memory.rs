//! Allocation, copies and fills. Asynchronous forms are done at once.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ffi::{c_uint, c_void};

use handloom_emulator::Error;

use crate::errors::*;
use crate::state::*;

/// Says what is wrong with a range, and gives its code.
fn bad(e: Error) -> Code {
    eprintln!("emulator: {e}");
    ERROR_INVALID_VALUE
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(out: *mut u64, bytes: usize) -> Code {
    code(working().and_then(|mut s| {
        if bytes == 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        let name = s.allocation_name();
        let address = s.device.allocate(bytes as u64, &name).map_err(|e| {
            eprintln!("emulator: {e}");
            ERROR_OUT_OF_MEMORY
        })?;
        // SAFETY: the API's contract.
        unsafe { put(out, address) }
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> Code {
    code(working().and_then(|mut s| if address == 0 { Ok(()) } else { s.device.free(address).map_err(bad) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(out: *mut u64, bytes: usize, _stream: Handle) -> Code {
    // SAFETY: the API's contract, passed on.
    unsafe { cuMemAlloc_v2(out, bytes) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeAsync(address: u64, _stream: Handle) -> Code {
    cuMemFree_v2(address)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Code {
    code(working().and_then(|s| {
        let m = s.device.memory();
        // SAFETY: the API's contract.
        unsafe {
            put(free, (m.capacity() - m.used()) as usize).and_then(|_| put(total, m.capacity() as usize))
        }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(out: *mut *mut c_void, bytes: usize, _flags: c_uint) -> Code {
    code(working().and_then(|mut s| {
        let layout = Layout::from_size_align(bytes.max(1), 4096).map_err(|_| ERROR_OUT_OF_MEMORY)?;
        // SAFETY: the layout has a size above zero.
        let p = unsafe { alloc_zeroed(layout) };
        if p.is_null() {
            return Err(ERROR_OUT_OF_MEMORY);
        }
        s.host_allocations.insert(p as usize, layout);
        // SAFETY: the API's contract.
        unsafe { put(out, p as *mut c_void) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocHost_v2(out: *mut *mut c_void, bytes: usize) -> Code {
    // SAFETY: the API's contract, passed on.
    unsafe { cuMemHostAlloc(out, bytes, 0) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeHost(p: *mut c_void) -> Code {
    code(state().and_then(|mut s| match s.host_allocations.remove(&(p as usize)) {
        Some(layout) => {
            // SAFETY: the table says that this pointer came from `alloc_zeroed` with this layout, and is freed once.
            unsafe { dealloc(p as *mut u8, layout) };
            Ok(())
        }
        None => Err(ERROR_INVALID_VALUE),
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> Code {
    code(working().and_then(|s| {
        if bytes == 0 {
            return Ok(());
        }
        if from.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        // SAFETY: `from` holds `bytes` bytes, by the API's contract.
        s.device.write(to, unsafe { std::slice::from_raw_parts(from as *const u8, bytes) }).map_err(bad)
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> Code {
    code(working().and_then(|s| {
        if bytes == 0 {
            return Ok(());
        }
        if to.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        // The host's buffer may be uninitialised: it is written from a copy, never read.
        let mut copy = vec![0; bytes];
        s.device.read(from, &mut copy).map_err(bad)?;
        // SAFETY: `to` holds `bytes` bytes, by the API's contract, and cannot overlap a fresh vector.
        unsafe { std::ptr::copy_nonoverlapping(copy.as_ptr(), to as *mut u8, bytes) };
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> Code {
    code(working().and_then(|s| s.device.memory().copy(to, from, bytes as u64).map_err(bad)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    bytes: usize,
    _stream: Handle,
) -> Code {
    // SAFETY: the API's contract, passed on.
    unsafe { cuMemcpyHtoD_v2(to, from, bytes) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: u64,
    bytes: usize,
    _stream: Handle,
) -> Code {
    // SAFETY: the API's contract, passed on.
    unsafe { cuMemcpyDtoH_v2(to, from, bytes) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, _stream: Handle) -> Code {
    cuMemcpyDtoD_v2(to, from, bytes)
}

fn fill(address: u64, pattern: &[u8], count: usize) -> Code {
    code(working().and_then(|s| {
        if !address.is_multiple_of(pattern.len() as u64) {
            return Err(ERROR_INVALID_VALUE);
        }
        let total = pattern.len().checked_mul(count).ok_or(ERROR_INVALID_VALUE)?;
        // The range is checked before memory for the pattern is taken.
        let fits = s.device.memory().find(address).is_some_and(|a| total as u64 <= a.base + a.size - address);
        if !fits && total > 0 {
            return Err(bad(Error::Memory(format!(
                "filling {total} B at {address:#x}: {}",
                s.device.memory().describe(address)
            ))));
        }
        s.device.write(address, &pattern.repeat(count)).map_err(bad)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8_v2(address: u64, value: u8, count: usize) -> Code {
    fill(address, &[value], count)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD16_v2(address: u64, value: u16, count: usize) -> Code {
    fill(address, &value.to_le_bytes(), count)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32_v2(address: u64, value: u32, count: usize) -> Code {
    fill(address, &value.to_le_bytes(), count)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(address: u64, value: u8, count: usize, _stream: Handle) -> Code {
    fill(address, &[value], count)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD16Async(address: u64, value: u16, count: usize, _stream: Handle) -> Code {
    fill(address, &value.to_le_bytes(), count)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32Async(address: u64, value: u32, count: usize, _stream: Handle) -> Code {
    fill(address, &value.to_le_bytes(), count)
}
