//! Libraries: modules that belong to no context. With one device a library is its module, under the same handle.

use std::ffi::c_uint;

use crate::errors::*;
use crate::ffi::{In, Out, Text};
use crate::modules::*;
use crate::state::*;

#[unsafe(no_mangle)]
pub extern "C" fn cuLibraryLoadData(
    out: Out<usize>,
    image: In<u8>,
    options: In<c_uint>,
    values: In<usize>,
    count: c_uint,
    _library_options: In<c_uint>,
    _library_values: In<usize>,
    _library_count: c_uint,
) -> Code {
    cuModuleLoadDataEx(out, image, count, options, values)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLibraryLoadFromFile(
    out: Out<usize>,
    path: Text,
    options: In<c_uint>,
    values: In<usize>,
    count: c_uint,
    _library_options: In<c_uint>,
    _library_values: In<usize>,
    _library_count: c_uint,
) -> Code {
    code(out.required().and_then(|_| {
        let jit = JitOptions::read(count, options, values)?;
        out.put(load_file(path, &jit)?)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLibraryUnload(library: Handle) -> Code {
    cuModuleUnload(library)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLibraryGetKernel(out: Out<usize>, library: Handle, name: Text) -> Code {
    cuModuleGetFunction(out, library, name)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLibraryGetKernelCount(out: Out<c_uint>, library: Handle) -> Code {
    cuModuleGetFunctionCount(out, library)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLibraryEnumerateKernels(out: Out<usize>, room: c_uint, library: Handle) -> Code {
    cuModuleEnumerateFunctions(out, room, library)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLibraryGetModule(out: Out<usize>, library: Handle) -> Code {
    code(working().and_then(|s| match s.modules.contains_key(&(library as usize)) {
        true => out.put(library as usize),
        false => Err(ERROR_INVALID_HANDLE),
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLibraryGetGlobal(
    address: Out<u64>,
    size: Out<usize>,
    library: Handle,
    name: Text,
) -> Code {
    cuModuleGetGlobal_v2(address, size, library, name)
}

/// Managed variables are plain variables of the device, which the host cannot reach: there are none.
#[unsafe(no_mangle)]
pub extern "C" fn cuLibraryGetManaged(
    _address: Out<u64>,
    _size: Out<usize>,
    library: Handle,
    _name: Text,
) -> Code {
    code(working().and_then(|s| match s.modules.contains_key(&(library as usize)) {
        true => Err(ERROR_NOT_FOUND),
        false => Err(ERROR_INVALID_HANDLE),
    }))
}
