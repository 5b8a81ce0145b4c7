//! What the runtime's memory functions have that the driver's do not: directions of copies, symbols, types of pointers.

use std::ffi::{c_int, c_void};

use crate::device;
use crate::driver::{self, Code, INVALID_VALUE, SUCCESS};
use crate::errors::{INVALID_MEMCPY_DIRECTION, done};
use crate::registry::variable;

/// Nothing at all is a null pointer, not an error as for the driver.
///
/// # Safety
/// A pointer to one result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaMalloc(out: *mut u64, bytes: usize) -> Code {
    if out.is_null() {
        return done(INVALID_VALUE);
    }
    done(match device::ready() {
        Ok(()) if bytes == 0 => {
            // SAFETY: the caller's promise.
            unsafe { out.write(0) };
            SUCCESS
        }
        // SAFETY: the caller's promise.
        Ok(()) => unsafe { driver::cuMemAlloc_v2(out, bytes) },
        Err(code) => code,
    })
}

/// cudaMemcpyKind: host and device in four combinations, or as the addresses say (4). With unified addresses they
/// always do.
fn directed(kind: c_int, copy: impl FnOnce() -> Code) -> Code {
    done(match device::ready() {
        Ok(()) if !(0..=4).contains(&kind) => INVALID_MEMCPY_DIRECTION,
        Ok(()) => copy(),
        Err(code) => code,
    })
}

/// # Safety
/// Both ranges are valid for `bytes` bytes, in the memory that the direction names.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaMemcpy(to: u64, from: u64, bytes: usize, kind: c_int) -> Code {
    // SAFETY: the caller's promise.
    directed(kind, || unsafe { driver::cuMemcpy(to, from, bytes) })
}

/// # Safety
/// As [`cudaMemcpy`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaMemcpyAsync(
    to: u64,
    from: u64,
    bytes: usize,
    kind: c_int,
    stream: usize,
) -> Code {
    // SAFETY: the caller's promise.
    directed(kind, || unsafe { driver::cuMemcpyAsync(to, from, bytes, stream) })
}

/// One end of CUDA_MEMCPY2D, at an address of either side.
#[repr(C)]
struct Side {
    x: usize,
    y: usize,
    memory: u32,
    host: usize,
    address: u64,
    array: usize,
    pitch: usize,
}

#[repr(C)]
struct Copy2 {
    from: Side,
    to: Side,
    width: usize,
    height: usize,
}

fn copy2(to: u64, to_pitch: usize, from: u64, from_pitch: usize, width: usize, height: usize) -> Copy2 {
    const UNIFIED: u32 = 4;
    let side = |address, pitch| Side { x: 0, y: 0, memory: UNIFIED, host: 0, address, array: 0, pitch };
    Copy2 { from: side(from, from_pitch), to: side(to, to_pitch), width, height }
}

/// # Safety
/// As [`cudaMemcpy`], for `height` rows of `width` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaMemcpy2D(
    to: u64,
    to_pitch: usize,
    from: u64,
    from_pitch: usize,
    width: usize,
    height: usize,
    kind: c_int,
) -> Code {
    let copy = copy2(to, to_pitch, from, from_pitch, width, height);
    // SAFETY: the caller's promise.
    directed(kind, || unsafe { driver::cuMemcpy2D_v2((&raw const copy).cast()) })
}

/// # Safety
/// As [`cudaMemcpy2D`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaMemcpy2DAsync(
    to: u64,
    to_pitch: usize,
    from: u64,
    from_pitch: usize,
    width: usize,
    height: usize,
    kind: c_int,
    stream: usize,
) -> Code {
    let copy = copy2(to, to_pitch, from, from_pitch, width, height);
    // SAFETY: the caller's promise.
    directed(kind, || unsafe { driver::cuMemcpy2DAsync_v2((&raw const copy).cast(), stream) })
}

/// Where `bytes` bytes from `offset` on of a variable lie.
fn part(symbol: *const c_void, bytes: usize, offset: usize) -> Result<u64, Code> {
    let (address, size) = variable(symbol)?;
    match offset.checked_add(bytes) {
        Some(end) if end <= size => Ok(address + offset as u64),
        _ => Err(INVALID_VALUE),
    }
}

/// # Safety
/// `from` is valid for `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaMemcpyToSymbol(
    symbol: *const c_void,
    from: u64,
    bytes: usize,
    offset: usize,
    kind: c_int,
) -> Code {
    match part(symbol, bytes, offset) {
        // SAFETY: the caller's promise.
        Ok(to) => unsafe { cudaMemcpy(to, from, bytes, kind) },
        Err(code) => done(code),
    }
}

/// # Safety
/// As [`cudaMemcpyToSymbol`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaMemcpyToSymbolAsync(
    symbol: *const c_void,
    from: u64,
    bytes: usize,
    offset: usize,
    kind: c_int,
    stream: usize,
) -> Code {
    match part(symbol, bytes, offset) {
        // SAFETY: the caller's promise.
        Ok(to) => unsafe { cudaMemcpyAsync(to, from, bytes, kind, stream) },
        Err(code) => done(code),
    }
}

/// # Safety
/// `to` is valid for `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaMemcpyFromSymbol(
    to: u64,
    symbol: *const c_void,
    bytes: usize,
    offset: usize,
    kind: c_int,
) -> Code {
    match part(symbol, bytes, offset) {
        // SAFETY: the caller's promise.
        Ok(from) => unsafe { cudaMemcpy(to, from, bytes, kind) },
        Err(code) => done(code),
    }
}

/// # Safety
/// As [`cudaMemcpyFromSymbol`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaMemcpyFromSymbolAsync(
    to: u64,
    symbol: *const c_void,
    bytes: usize,
    offset: usize,
    kind: c_int,
    stream: usize,
) -> Code {
    match part(symbol, bytes, offset) {
        // SAFETY: the caller's promise.
        Ok(from) => unsafe { cudaMemcpyAsync(to, from, bytes, kind, stream) },
        Err(code) => done(code),
    }
}

/// # Safety
/// A pointer to one result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaGetSymbolAddress(out: *mut u64, symbol: *const c_void) -> Code {
    done(match variable(symbol) {
        Ok((address, _)) => {
            // SAFETY: the caller's promise.
            unsafe { out.write(address) };
            SUCCESS
        }
        Err(code) => code,
    })
}

/// # Safety
/// A pointer to one result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaGetSymbolSize(out: *mut usize, symbol: *const c_void) -> Code {
    done(match variable(symbol) {
        Ok((_, bytes)) => {
            // SAFETY: the caller's promise.
            unsafe { out.write(bytes) };
            SUCCESS
        }
        Err(code) => code,
    })
}

/// cudaPointerAttributes.
#[repr(C)]
pub struct PointerAttributes {
    kind: c_int,
    device: c_int,
    device_pointer: u64,
    host_pointer: u64,
    reserved: [i64; 8],
}

/// Memory that no call of CUDA made is of type 0, and no error.
///
/// # Safety
/// A pointer to one result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaPointerGetAttributes(out: *mut PointerAttributes, address: u64) -> Code {
    if let Err(code) = device::ready() {
        return done(code);
    }
    let get = |which: c_int| {
        let mut value = 0u64;
        // SAFETY: room for the largest attribute.
        let code = unsafe { driver::cuPointerGetAttribute((&raw mut value).cast(), which, address) };
        (code == SUCCESS).then_some(value)
    };
    const MANAGED: c_int = 3;
    let managed = get(8).is_some_and(|v| v & 1 == 1);
    let (kind, device_pointer, host_pointer) = match get(2) {
        Some(_) if managed => (MANAGED, address, address),
        Some(1) => (1, address, address),
        Some(_) => (2, address, 0),
        None => (0, 0, address),
    };
    let device = if kind == 0 { -2 } else { 0 };
    // SAFETY: the caller's promise.
    unsafe { out.write(PointerAttributes { kind, device, device_pointer, host_pointer, reserved: [0; 8] }) };
    SUCCESS
}
