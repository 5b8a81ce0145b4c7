//! The linker: several PTX texts become one. What it gives back as the image is PTX too, to be loaded like any other.

use std::ffi::{c_uint, c_void};

use crate::errors::*;
use crate::ffi::{In, Out, Text};
use crate::image::{Failure, image_of_bytes};
use crate::modules::*;
use crate::state::*;

/// CUjitInputType: a cubin, PTX, a fat binary; those after them are objects, libraries and LLVM's code.
const LAST_IMAGE: c_uint = 2;
const LIBRARY: c_uint = 4;

/// The functions of this library that programs call are the emulator's own.
const DEVICE_RUNTIME: &str = "libcudadevrt.a";

pub struct Link {
    parts: Vec<(String, String)>,
    jit: JitOptions,
    /// The image, with a zero at its end; alive as long as the link.
    image: Vec<u8>,
}

fn link_of(s: &mut State, link: Handle) -> Result<&mut Link, Code> {
    s.links.get_mut(&(link as usize)).ok_or(ERROR_INVALID_HANDLE)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLinkCreate_v2(
    count: c_uint,
    options: In<c_uint>,
    values: In<usize>,
    out: Out<usize>,
) -> Code {
    code(working().and_then(|mut s| {
        out.required()?;
        let jit = JitOptions::read(count, options, values)?;
        let handle = s.new_handle();
        s.links.insert(handle, Link { parts: Vec::new(), jit, image: Vec::new() });
        out.put(handle)
    }))
}

fn text_of(bytes: &[u8]) -> Result<String, Failure> {
    let arch = state().map_err(|code| (code, String::new()))?.device.options().arch;
    image_of_bytes(bytes, arch)
}

fn add(link: Handle, kind: c_uint, text: Result<String, Failure>, name: String) -> Code {
    code(working().and_then(|mut s| {
        let link = link_of(&mut s, link)?;
        if kind == LIBRARY && name.ends_with(DEVICE_RUNTIME) {
            return Ok(());
        }
        if kind > LAST_IMAGE {
            let message = format!("{name}: the linker takes what holds PTX, this is input of type {kind}");
            return Err(report((ERROR_NOT_SUPPORTED, message), &link.jit));
        }
        let text = text.map_err(|failure| report(failure, &link.jit))?;
        // Each part must be sound by itself, so that an error names its own line.
        handloom_emulator::ptx::parser::parse(&text)
            .map_err(|e| report((ERROR_INVALID_PTX, format!("{name}: {e}")), &link.jit))?;
        link.parts.push((name, text));
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLinkAddData_v2(
    link: Handle,
    kind: c_uint,
    data: In<u8>,
    size: usize,
    name: Text,
    _count: c_uint,
    _options: In<c_uint>,
    _values: In<usize>,
) -> Code {
    let bytes = data.bytes(size).map_err(|code| (code, "there is no data".to_string()));
    let text = bytes.and_then(text_of);
    add(link, kind, text, name.get().unwrap_or_else(|_| "<unnamed>".to_string()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLinkAddFile_v2(
    link: Handle,
    kind: c_uint,
    path: Text,
    _count: c_uint,
    _options: In<c_uint>,
    _values: In<usize>,
) -> Code {
    let path = match path.get() {
        Ok(path) => path,
        Err(code) => return code,
    };
    let bytes = std::fs::read(&path).map_err(|e| (ERROR_FILE_NOT_FOUND, format!("{path}: {e}")));
    let text = bytes.and_then(|bytes| text_of(&bytes));
    add(link, kind, text, path)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLinkComplete(link: Handle, image: Out<*const c_void>, size: Out<usize>) -> Code {
    code(working().and_then(|mut s| {
        let link = link_of(&mut s, link)?;
        let parts: Vec<(&str, &str)> = link.parts.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect();
        let linked = handloom_emulator::link(&parts)
            .and_then(|text| handloom_emulator::Module::parse(&text).map(|_| text))
            .map_err(|e| report((ERROR_INVALID_PTX, format!("linking: {e}")), &link.jit))?;
        link.jit.log_error("");
        link.jit.log_info("");
        link.image = linked.into_bytes();
        link.image.push(0);
        image.put(link.image.as_ptr().cast())?;
        size.put_if_wanted(link.image.len());
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLinkDestroy(link: Handle) -> Code {
    code(state().and_then(|mut s| s.links.remove(&(link as usize)).map(|_| ()).ok_or(ERROR_INVALID_HANDLE)))
}
