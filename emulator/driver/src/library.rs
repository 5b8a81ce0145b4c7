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
    code(out.required().and_then(|_| {
        let jit = JitOptions::read(count, options, values)?;
        out.put(load_image(image, Owner::Library, &jit)?)
    }))
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
        out.put(load_file(path, Owner::Library, &jit)?)
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

/// A variable that the host may use too, at the same address.
#[unsafe(no_mangle)]
pub extern "C" fn cuLibraryGetManaged(
    address: Out<u64>,
    size: Out<usize>,
    library: Handle,
    name: Text,
) -> Code {
    code(state().and_then(|s| {
        let loaded = s.modules.get(&(library as usize)).ok_or(ERROR_INVALID_HANDLE)?;
        let (at, bytes) = loaded.variable(&name.get()?).ok_or(ERROR_NOT_FOUND)?;
        if !loaded.managed().any(|(own, _)| own == at) {
            return Err(ERROR_NOT_FOUND);
        }
        address.put_if_wanted(at);
        size.put_if_wanted(bytes as usize);
        Ok(())
    }))
}
