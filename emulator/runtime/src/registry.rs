//! What a program's own start-up code announces: images with device code, and the kernels and variables in them, by
//! addresses of the host. A module is loaded when something of it is first needed.

use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_void};
use std::sync::{Mutex, MutexGuard};

use crate::device;
use crate::driver::{self, Code, SUCCESS};
use crate::errors::{self, INVALID_DEVICE_FUNCTION, INVALID_SYMBOL};

/// A kernel or a variable: in which image, under what name.
#[derive(Clone, Copy)]
struct Entry {
    image: usize,
    name: usize,
}

#[derive(Default)]
struct Registry {
    /// Addresses of the wrappers of fat binaries, which live as long as the program.
    images: Vec<usize>,
    modules: HashMap<usize, usize>,
    kernels: HashMap<usize, Entry>,
    functions: HashMap<usize, usize>,
    variables: HashMap<usize, Entry>,
    /// Pointers of the host to managed variables, to be filled in: where, and of what.
    managed: Vec<(usize, Entry)>,
}

static REGISTRY: Mutex<Option<Registry>> = Mutex::new(None);

fn locked() -> MutexGuard<'static, Option<Registry>> {
    let mut registry = REGISTRY.lock().unwrap_or_else(|e| e.into_inner());
    registry.get_or_insert_default();
    registry
}

impl Registry {
    fn module(&mut self, image: usize) -> Result<usize, Code> {
        if let Some(&module) = self.modules.get(&image) {
            return Ok(module);
        }
        let wrapper = *self.images.get(image).ok_or(driver::INVALID_VALUE)?;
        let mut module = 0;
        // SAFETY: the wrapper that the compiler has put into the program.
        match unsafe { driver::cuModuleLoadData(&mut module, wrapper as *const c_void) } {
            SUCCESS => {}
            code => return Err(code),
        }
        self.modules.insert(image, module);
        Ok(module)
    }
}

/// The driver's function for a kernel, by the address of its stub in the host's code.
pub fn function(stub: *const c_void) -> Result<usize, Code> {
    device::ready()?;
    let mut registry = locked();
    let registry = registry.get_or_insert_default();
    if let Some(&function) = registry.functions.get(&(stub as usize)) {
        return Ok(function);
    }
    let entry = *registry.kernels.get(&(stub as usize)).ok_or(INVALID_DEVICE_FUNCTION)?;
    let module = registry.module(entry.image)?;
    let mut function = 0;
    // SAFETY: the name is a string in the program's data.
    match unsafe { driver::cuModuleGetFunction(&mut function, module, entry.name as *const c_char) } {
        SUCCESS => {}
        _ => return Err(INVALID_DEVICE_FUNCTION),
    }
    registry.functions.insert(stub as usize, function);
    Ok(function)
}

/// Address and size of a variable of the device, by the address of its shadow in the host's memory.
pub fn variable(shadow: *const c_void) -> Result<(u64, usize), Code> {
    device::ready()?;
    let mut registry = locked();
    let registry = registry.get_or_insert_default();
    let entry = *registry.variables.get(&(shadow as usize)).ok_or(INVALID_SYMBOL)?;
    let module = registry.module(entry.image)?;
    let (mut address, mut bytes) = (0, 0);
    // SAFETY: the name is a string in the program's data.
    match unsafe {
        driver::cuModuleGetGlobal_v2(&mut address, &mut bytes, module, entry.name as *const c_char)
    } {
        SUCCESS => Ok((address, bytes)),
        _ => Err(INVALID_SYMBOL),
    }
}

/// The modules are gone with their context.
pub fn forget_modules() {
    let mut registry = locked();
    let registry = registry.get_or_insert_default();
    registry.modules.clear();
    registry.functions.clear();
}

/// A handle is the image's number, plus one so that it is not null.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaRegisterFatBinary(wrapper: *const c_void) -> usize {
    let mut registry = locked();
    let images = &mut registry.get_or_insert_default().images;
    images.push(wrapper as usize);
    images.len()
}

#[unsafe(no_mangle)]
pub extern "C" fn __cudaRegisterFatBinaryEnd(_handle: usize) {}

/// At the program's end: the system takes back what there is.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaUnregisterFatBinary(_handle: usize) {}

/// The host is about to use a managed variable of the image: its pointers are filled in.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaInitModule(handle: usize) -> c_char {
    let pointers: Vec<usize> = {
        let registry = locked();
        let all = registry.as_ref().map(|r| r.managed.as_slice()).unwrap_or_default();
        all.iter().filter(|(_, e)| e.image == handle.wrapping_sub(1)).map(|&(pointer, _)| pointer).collect()
    };
    for pointer in pointers {
        match variable(pointer as *const c_void) {
            // SAFETY: the address of a pointer in the program's data.
            Ok((address, _)) => unsafe { (pointer as *mut u64).write(address) },
            Err(code) => {
                errors::done(code);
            }
        }
    }
    1
}

#[unsafe(no_mangle)]
pub extern "C" fn __cudaRegisterFunction(
    handle: usize,
    stub: *const c_void,
    _device_stub: *mut c_char,
    name: *const c_char,
    _thread_limit: c_int,
    _tid: *mut c_void,
    _bid: *mut c_void,
    _block: *mut c_void,
    _grid: *mut c_void,
    _warp: *mut c_int,
) {
    let entry = Entry { image: handle.wrapping_sub(1), name: name as usize };
    locked().get_or_insert_default().kernels.insert(stub as usize, entry);
}

#[unsafe(no_mangle)]
pub extern "C" fn __cudaRegisterVar(
    handle: usize,
    shadow: *mut c_void,
    _device_address: *mut c_char,
    name: *const c_char,
    _is_extern: c_int,
    _bytes: usize,
    _constant: c_int,
    _global: c_int,
) {
    let entry = Entry { image: handle.wrapping_sub(1), name: name as usize };
    locked().get_or_insert_default().variables.insert(shadow as usize, entry);
}

/// A variable that the host uses through a pointer of its own, which is the shadow here.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaRegisterManagedVar(
    handle: usize,
    shadow: *mut *mut c_void,
    _device_address: *mut c_char,
    name: *const c_char,
    _is_extern: c_int,
    _bytes: usize,
    _constant: c_int,
    _global: c_int,
) {
    let entry = Entry { image: handle.wrapping_sub(1), name: name as usize };
    let mut registry = locked();
    let registry = registry.get_or_insert_default();
    registry.variables.insert(shadow as usize, entry);
    registry.managed.push((shadow as usize, entry));
}
