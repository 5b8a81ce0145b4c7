//! Launches: `<<<...>>>`, the functions it becomes, and what can be asked of kernels.

use std::cell::RefCell;
use std::ffi::{c_int, c_uint, c_void};

use crate::driver::{self, Code, INVALID_VALUE, SUCCESS};
use crate::errors::{MISSING_CONFIGURATION, done};
use crate::registry::function;

/// dim3.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Dim3 {
    x: c_uint,
    y: c_uint,
    z: c_uint,
}

#[derive(Clone, Copy)]
struct Configuration {
    grid: Dim3,
    block: Dim3,
    shared: usize,
    stream: usize,
}

thread_local! {
    /// What `<<<...>>>` has said, until the kernel's stub takes it.
    static CONFIGURATIONS: RefCell<Vec<Configuration>> = const { RefCell::new(Vec::new()) };
}

#[unsafe(no_mangle)]
pub extern "C" fn __cudaPushCallConfiguration(
    grid: Dim3,
    block: Dim3,
    shared: usize,
    stream: usize,
) -> c_uint {
    CONFIGURATIONS.with_borrow_mut(|c| c.push(Configuration { grid, block, shared, stream }));
    0
}

/// # Safety
/// Pointers to one result each.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __cudaPopCallConfiguration(
    grid: *mut Dim3,
    block: *mut Dim3,
    shared: *mut usize,
    stream: *mut usize,
) -> Code {
    let Some(c) = CONFIGURATIONS.with_borrow_mut(Vec::pop) else { return done(MISSING_CONFIGURATION) };
    // SAFETY: the caller's promise.
    unsafe {
        grid.write(c.grid);
        block.write(c.block);
        shared.write(c.shared);
        stream.write(c.stream);
    }
    SUCCESS
}

/// A kernel's handle is the driver's function.
///
/// # Safety
/// A pointer to one result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __cudaGetKernel(out: *mut usize, stub: *const c_void) -> Code {
    done(match function(stub) {
        Ok(function) => {
            // SAFETY: the caller's promise.
            unsafe { out.write(function) };
            SUCCESS
        }
        Err(code) => code,
    })
}

/// # Safety
/// `params` points to as many pointers as the kernel has parameters.
unsafe fn launch(function: usize, c: Configuration, params: *mut *mut c_void) -> Code {
    let Configuration { grid: g, block: b, shared, stream } = c;
    let Ok(shared) = c_uint::try_from(shared) else { return INVALID_VALUE };
    let none = std::ptr::null_mut();
    // SAFETY: the caller's promise.
    let code = unsafe {
        driver::cuLaunchKernel(function, g.x, g.y, g.z, b.x, b.y, b.z, shared, stream, params, none)
    };
    configuration_error(code)
}

/// The runtime has a name of its own for a shape that is not possible.
fn configuration_error(code: Code) -> Code {
    const INVALID_CONFIGURATION: Code = 9;
    if code == INVALID_VALUE { INVALID_CONFIGURATION } else { code }
}

/// # Safety
/// As [`launch`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __cudaLaunchKernel(
    kernel: usize,
    grid: Dim3,
    block: Dim3,
    params: *mut *mut c_void,
    shared: usize,
    stream: usize,
) -> Code {
    // SAFETY: the caller's promise.
    done(unsafe { launch(kernel, Configuration { grid, block, shared, stream }, params) })
}

/// # Safety
/// As [`launch`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaLaunchKernel(
    stub: *const c_void,
    grid: Dim3,
    block: Dim3,
    params: *mut *mut c_void,
    shared: usize,
    stream: usize,
) -> Code {
    done(match function(stub) {
        // SAFETY: the caller's promise.
        Ok(function) => unsafe { launch(function, Configuration { grid, block, shared, stream }, params) },
        Err(code) => code,
    })
}

/// # Safety
/// As [`launch`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaLaunchCooperativeKernel(
    stub: *const c_void,
    g: Dim3,
    b: Dim3,
    params: *mut *mut c_void,
    shared: usize,
    stream: usize,
) -> Code {
    done(match (function(stub), c_uint::try_from(shared)) {
        (Ok(f), Ok(shared)) => {
            // SAFETY: the caller's promise.
            configuration_error(unsafe {
                driver::cuLaunchCooperativeKernel(f, g.x, g.y, g.z, b.x, b.y, b.z, shared, stream, params)
            })
        }
        (Err(code), _) => code,
        _ => INVALID_VALUE,
    })
}

/// cudaLaunchConfig_t.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Config {
    grid: Dim3,
    block: Dim3,
    shared: usize,
    stream: usize,
    attributes: *const c_void,
    count: c_uint,
}

/// CUlaunchConfig, which differs in the size of one field. The attributes are the same.
#[repr(C)]
struct DriverConfig {
    grid: Dim3,
    block: Dim3,
    shared: c_uint,
    stream: usize,
    attributes: *const c_void,
    count: c_uint,
}

/// # Safety
/// As [`launch`], with a pointer to the configuration.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaLaunchKernelExC(
    config: *const Config,
    stub: *const c_void,
    params: *mut *mut c_void,
) -> Code {
    // SAFETY: the caller's promise.
    let Some(&Config { grid, block, shared, stream, attributes, count }) = (unsafe { config.as_ref() })
    else {
        return done(INVALID_VALUE);
    };
    done(match function(stub) {
        Ok(f) => {
            let shared = shared as c_uint;
            let config = DriverConfig { grid, block, shared, stream, attributes, count };
            // SAFETY: the caller's promise.
            configuration_error(unsafe {
                driver::cuLaunchKernelEx((&raw const config).cast(), f, params, std::ptr::null_mut())
            })
        }
        Err(code) => code,
    })
}

/// cudaFuncAttributes.
#[repr(C)]
pub struct FunctionAttributes {
    shared: usize,
    constant: usize,
    local: usize,
    max_threads: c_int,
    registers: c_int,
    ptx: c_int,
    binary: c_int,
    cache: c_int,
    max_dynamic: c_int,
    carveout: c_int,
    cluster: [c_int; 6],
    reserved: [c_int; 16],
}

/// # Safety
/// A pointer to one result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaFuncGetAttributes(out: *mut FunctionAttributes, stub: *const c_void) -> Code {
    let function = match function(stub) {
        Ok(function) => function,
        Err(code) => return done(code),
    };
    let get = |which: c_int| {
        let mut value = 0;
        // SAFETY: a pointer to one result. An attribute that the driver does not have stays 0.
        unsafe { driver::cuFuncGetAttribute(&mut value, which, function) };
        value
    };
    let attributes = FunctionAttributes {
        shared: get(1) as usize,
        constant: get(2) as usize,
        local: get(3) as usize,
        max_threads: get(0),
        registers: get(4),
        ptx: get(5),
        binary: get(6),
        cache: get(7),
        max_dynamic: get(8),
        carveout: get(9),
        cluster: [get(10), get(11), get(12), get(13), get(15), get(14)],
        reserved: [0; 16],
    };
    // SAFETY: the caller's promise.
    unsafe { out.write(attributes) };
    SUCCESS
}

fn of_function(stub: *const c_void, f: impl FnOnce(usize) -> Code) -> Code {
    done(match function(stub) {
        Ok(function) => f(function),
        Err(code) => code,
    })
}

/// cudaFuncAttribute has the driver's numbers.
#[unsafe(no_mangle)]
pub extern "C" fn cudaFuncSetAttribute(stub: *const c_void, attribute: c_int, value: c_int) -> Code {
    // SAFETY: numbers only.
    of_function(stub, |f| unsafe { driver::cuFuncSetAttribute(f, attribute, value) })
}

#[unsafe(no_mangle)]
pub extern "C" fn cudaFuncSetCacheConfig(stub: *const c_void, config: c_int) -> Code {
    // SAFETY: numbers only.
    of_function(stub, |f| unsafe { driver::cuFuncSetCacheConfig(f, config) })
}

/// # Safety
/// A pointer to one result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    out: *mut c_int,
    stub: *const c_void,
    block: c_int,
    shared: usize,
    flags: c_uint,
) -> Code {
    // SAFETY: the caller's promise.
    of_function(stub, |f| unsafe {
        driver::cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(out, f, block, shared, flags)
    })
}

/// # Safety
/// A pointer to one result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaOccupancyMaxActiveBlocksPerMultiprocessor(
    out: *mut c_int,
    stub: *const c_void,
    block: c_int,
    shared: usize,
) -> Code {
    // SAFETY: the caller's promise.
    unsafe { cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(out, stub, block, shared, 0) }
}

/// # Safety
/// A pointer to one result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaOccupancyAvailableDynamicSMemPerBlock(
    out: *mut usize,
    stub: *const c_void,
    blocks: c_int,
    block: c_int,
) -> Code {
    // SAFETY: the caller's promise.
    of_function(stub, |f| unsafe { driver::cuOccupancyAvailableDynamicSMemPerBlock(out, f, blocks, block) })
}
