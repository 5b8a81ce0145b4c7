//! Modules from PTX, their kernels and variables, and what can be asked of a kernel.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use handloom_emulator::{Kernel, Module};

use crate::errors::*;
use crate::state::*;

/// Options of cuModuleLoadDataEx that are read: the buffer for errors, and its size.
const JIT_ERROR_LOG_BUFFER: c_uint = 5;
const JIT_ERROR_LOG_BUFFER_SIZE: c_uint = 6;

fn load(ptx: &str) -> Result<usize, (Code, String)> {
    let module = Module::parse(ptx).map_err(|e| (ERROR_INVALID_PTX, e.to_string()))?;
    let mut s = working().map_err(|c| (c, String::new()))?;
    let loaded = s.device.load(&module).map_err(|e| (ERROR_INVALID_PTX, e.to_string()))?;
    let handle = s.new_handle();
    s.modules.insert(handle, loaded);
    Ok(handle)
}

/// PTX is a C string. A cubin or a fat binary is not PTX.
///
/// # Safety
/// `image` is null or points to a C string or to a binary image that starts with its magic number.
unsafe fn image_text<'a>(image: *const c_void) -> Result<&'a str, (Code, String)> {
    if image.is_null() {
        return Err((ERROR_INVALID_VALUE, "the image is a null pointer".to_string()));
    }
    // SAFETY: any image has at least its first byte.
    let first = unsafe { *(image as *const u8) };
    if first == 0x7f || first == 0x50 || first >= 0x80 {
        return Err((ERROR_INVALID_PTX, "the image is a binary (cubin or fat binary); give PTX".to_string()));
    }
    // SAFETY: not a binary, hence a C string by the API's contract.
    let text = unsafe { CStr::from_ptr(image as *const c_char) };
    text.to_str().map_err(|_| (ERROR_INVALID_PTX, "the PTX is not ASCII text".to_string()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(out: *mut Handle, image: *const c_void) -> Code {
    // SAFETY: the API's contract, passed on; no options are read.
    unsafe { cuModuleLoadDataEx(out, image, 0, std::ptr::null(), std::ptr::null()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadDataEx(
    out: *mut Handle,
    image: *const c_void,
    count: c_uint,
    options: *const c_uint,
    values: *const *mut c_void,
) -> Code {
    // SAFETY: the API's contract.
    let result = unsafe { image_text(image) }.and_then(load);
    let (failure, message) = match result {
        // SAFETY: the API's contract.
        Ok(handle) => return code(unsafe { put(out, handle as Handle) }),
        Err(e) => e,
    };
    if !message.is_empty() {
        eprintln!("emulator: {message}");
    }
    let option = |wanted: c_uint| {
        if options.is_null() || values.is_null() {
            return None;
        }
        // SAFETY: both arrays hold `count` elements, by the API's contract.
        (0..count as usize).find(|&i| unsafe { *options.add(i) } == wanted).map(|i| unsafe { *values.add(i) })
    };
    if let (Some(buffer), Some(size)) = (option(JIT_ERROR_LOG_BUFFER), option(JIT_ERROR_LOG_BUFFER_SIZE)) {
        let size = size as usize;
        if !buffer.is_null() && size > 0 {
            let bytes = &message.as_bytes()[..message.len().min(size - 1)];
            // SAFETY: the buffer holds `size` bytes, by the API's contract; one is kept for the end.
            unsafe {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer as *mut u8, bytes.len());
                *(buffer as *mut u8).add(bytes.len()) = 0;
            }
        }
    }
    failure
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoad(out: *mut Handle, path: *const c_char) -> Code {
    if path.is_null() {
        return ERROR_INVALID_VALUE;
    }
    // SAFETY: a C string, by the API's contract.
    let path = unsafe { CStr::from_ptr(path) }.to_string_lossy().into_owned();
    let Ok(text) = std::fs::read_to_string(&path) else { return ERROR_FILE_NOT_FOUND };
    match load(&text) {
        // SAFETY: the API's contract.
        Ok(handle) => code(unsafe { put(out, handle as Handle) }),
        Err((failure, message)) => {
            eprintln!("emulator: {path}: {message}");
            failure
        }
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: Handle) -> Code {
    code(state().and_then(|mut s| {
        let Some(loaded) = s.modules.remove(&(module as usize)) else { return Err(ERROR_INVALID_HANDLE) };
        s.functions.retain(|_, f| f.module != module as usize);
        for address in loaded.addresses() {
            // A variable's allocation is the module's own, so freeing it cannot fail.
            let _ = s.device.free(address);
        }
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(out: *mut Handle, module: Handle, name: *const c_char) -> Code {
    code(working().and_then(|mut s| {
        if name.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        // SAFETY: a C string, by the API's contract.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        let loaded = s.modules.get(&(module as usize)).ok_or(ERROR_INVALID_HANDLE)?;
        loaded.module.kernel(&name).ok_or(ERROR_NOT_FOUND)?;
        let known =
            s.functions.iter().find(|(_, f)| f.module == module as usize && f.name == name).map(|(h, _)| *h);
        let handle = known.unwrap_or_else(|| {
            let handle = s.new_handle();
            s.functions.insert(handle, Function { module: module as usize, name, max_dynamic_shared: None });
            handle
        });
        // SAFETY: the API's contract.
        unsafe { put(out, handle as Handle) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetGlobal_v2(
    address: *mut u64,
    bytes: *mut usize,
    module: Handle,
    name: *const c_char,
) -> Code {
    code(working().and_then(|s| {
        if name.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        // SAFETY: a C string, by the API's contract.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        let loaded = s.modules.get(&(module as usize)).ok_or(ERROR_INVALID_HANDLE)?;
        let (a, n) = loaded.variable(&name).ok_or(ERROR_NOT_FOUND)?;
        // SAFETY: both may be null, and are valid otherwise, by the API's contract.
        unsafe {
            if !address.is_null() {
                put(address, a)?;
            }
            if !bytes.is_null() {
                put(bytes, n as usize)?;
            }
        }
        Ok(())
    }))
}

/// Calls `f` with a function's kernel.
fn with_kernel<T>(s: &State, function: Handle, f: impl FnOnce(&Kernel, &Function) -> T) -> Result<T, Code> {
    let function = s.functions.get(&(function as usize)).ok_or(ERROR_INVALID_HANDLE)?;
    let loaded = s.modules.get(&function.module).ok_or(ERROR_INVALID_HANDLE)?;
    let kernel = loaded.module.kernel(&function.name).ok_or(ERROR_INVALID_HANDLE)?;
    Ok(f(kernel, function))
}

/// Registers of a kernel: the emulator does not allocate any, so it gives the number live at once, rounded up to the
/// hardware's unit of 8.
fn registers(kernel: &Kernel, most: u32) -> u32 {
    kernel.live_registers.max(1).next_multiple_of(8).min(most)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetAttribute(out: *mut c_int, attribute: c_int, function: Handle) -> Code {
    code(working().and_then(|s| {
        let arch = s.device.options().arch;
        let value = with_kernel(&s, function, |k, f| {
            let default_dynamic = arch.shared_per_block.saturating_sub(k.shared_bytes);
            Some(match attribute {
                0 => k.max_threads.unwrap_or(arch.max_threads_per_block).min(arch.max_threads_per_block),
                1 => k.shared_bytes,
                2 => 0,
                3 => k.local_bytes,
                4 => registers(k, arch.max_registers_per_thread),
                5 | 6 => arch.number(),
                7 => 0,
                8 => f.max_dynamic_shared.unwrap_or(default_dynamic),
                9 => u32::MAX, // no preference
                10..=15 => 0,
                _ => return None,
            })
        })?;
        // SAFETY: the API's contract.
        unsafe { put(out, value.ok_or(ERROR_INVALID_VALUE)? as c_int) }
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(function: Handle, attribute: c_int, value: c_int) -> Code {
    code(working().and_then(|mut s| {
        let arch = s.device.options().arch;
        let fixed = with_kernel(&s, function, |k, _| k.shared_bytes)?;
        match attribute {
            8 if value >= 0 && value as u32 + fixed <= arch.shared_per_block_optin => {
                let f = s.functions.get_mut(&(function as usize)).ok_or(ERROR_INVALID_HANDLE)?;
                f.max_dynamic_shared = Some(value as u32);
                Ok(())
            }
            9 => Ok(()),
            _ => Err(ERROR_INVALID_VALUE),
        }
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetCacheConfig(function: Handle, _config: c_uint) -> Code {
    code(working().and_then(|s| with_kernel(&s, function, |_, _| ())))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    out: *mut c_int,
    function: Handle,
    block: c_int,
    dynamic: usize,
) -> Code {
    code(working().and_then(|s| {
        let arch = s.device.options().arch;
        if block <= 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        let warps = (block as u32).div_ceil(32);
        let blocks = with_kernel(&s, function, |k, _| {
            let shared = k.shared_bytes as usize + dynamic + arch.shared_reserved as usize;
            let by_shared = arch.shared_per_sm as usize / shared.max(1);
            // Registers are given out to warps in units of 256.
            let per_warp = (registers(k, arch.max_registers_per_thread) * 32).next_multiple_of(256);
            let by_registers = arch.registers_per_sm / (per_warp * warps);
            let by_threads = arch.max_threads_per_sm / 32 / warps;
            by_threads.min(by_registers).min(arch.max_blocks_per_sm).min(by_shared as u32)
        })?;
        // SAFETY: the API's contract.
        unsafe { put(out, blocks as c_int) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    out: *mut c_int,
    function: Handle,
    block: c_int,
    dynamic: usize,
    _flags: c_uint,
) -> Code {
    // SAFETY: the API's contract, passed on.
    unsafe { cuOccupancyMaxActiveBlocksPerMultiprocessor(out, function, block, dynamic) }
}
