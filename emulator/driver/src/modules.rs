//! Modules: loading, what they hold, and the logs of doing so.

use std::ffi::{c_char, c_uint};

use handloom_emulator::Module;

use crate::errors::*;
use crate::ffi::{In, Out, Text};
use crate::image::{Failure, image_of_bytes, image_text};
use crate::state::*;

/// CUjit_option: buffers for messages and errors, and their sizes.
const INFO_LOG: c_uint = 3;
const INFO_LOG_SIZE: c_uint = 4;
const ERROR_LOG: c_uint = 5;
const ERROR_LOG_SIZE: c_uint = 6;
const OPT_LEVEL: c_uint = 7;
const VERBOSE: c_uint = 12;
/// Addresses of the host for symbols that the PTX leaves open.
const SYMBOL_NAMES: c_uint = 17;
const SYMBOL_COUNT: c_uint = 19;
/// The first number that is no option.
const OPTION_COUNT: c_uint = 36;

/// Options as the API passes them: numbers, and for each a value or an address.
pub struct JitOptions {
    options: Vec<c_uint>,
    /// Where the values stand: logs write the length used there.
    values: usize,
}

impl JitOptions {
    pub const NONE: JitOptions = JitOptions { options: Vec::new(), values: 0 };

    pub fn read(count: c_uint, options: In<c_uint>, values: In<usize>) -> Result<JitOptions, Code> {
        let options = if count == 0 { Vec::new() } else { options.list(count as usize)? };
        let jit = JitOptions { options, values: values.address() };
        jit.check()?;
        Ok(jit)
    }

    /// Options say how machine code is made, and none is made here; those that change what a program means are refused.
    fn check(&self) -> Result<(), Code> {
        if self.options.iter().any(|&o| o >= OPTION_COUNT)
            || self.value(OPT_LEVEL).is_some_and(|v| v as u32 > 4)
        {
            return Err(ERROR_INVALID_VALUE);
        }
        if self.options.contains(&SYMBOL_NAMES) && self.value(SYMBOL_COUNT).is_some_and(|n| n as u32 > 0) {
            say_once(
                "JIT symbols",
                "CU_JIT_GLOBAL_SYMBOL_NAMES, addresses for open symbols, is not supported",
            );
            return Err(ERROR_NOT_SUPPORTED);
        }
        Ok(())
    }

    fn value(&self, option: c_uint) -> Option<usize> {
        let i = self.options.iter().position(|&o| o == option)?;
        In::<usize>::at(self.values).get_at(i).ok()
    }

    /// Fills a log, and writes the bytes used over its size, as the API has it.
    fn log(&self, buffer: c_uint, size: c_uint, text: &str) {
        let (Some(to), Some(room)) = (self.value(buffer), self.value(size)) else { return };
        let out = Out::<c_char>::at(to);
        if out.is_null() || room == 0 || out.put_text(text, room).is_err() {
            return;
        }
        if let Some(i) = self.options.iter().position(|&o| o == size) {
            let _ = Out::<usize>::at(self.values).put_at(i, text.len().min(room - 1)); // not null: it was read
        }
    }

    pub fn log_error(&self, text: &str) {
        self.log(ERROR_LOG, ERROR_LOG_SIZE, text);
    }

    pub fn log_info(&self, text: &str) {
        self.log(INFO_LOG, INFO_LOG_SIZE, text);
    }

    pub fn verbose(&self) -> bool {
        self.value(VERBOSE).is_some_and(|v| v as u32 != 0)
    }
}

/// What a compiler would print about each kernel.
fn info(module: &Module) -> String {
    let line = |k: &handloom_emulator::Kernel| {
        format!(
            "info    : {}: at least {} registers, {} bytes smem, {} bytes lmem, {} bytes of parameters\n",
            k.name,
            k.live_registers,
            k.shared_bytes,
            k.local_bytes,
            k.param_bytes()
        )
    };
    module.kernels().iter().map(line).collect()
}

/// Whether a module belongs to the current context, or to none.
#[derive(Clone, Copy, PartialEq)]
pub enum Owner {
    Context,
    Library,
}

/// Parses and loads PTX; gives the module's handle.
pub fn load(ptx: &str, owner: Owner, jit: &JitOptions) -> Result<usize, Code> {
    let loaded = Module::parse(ptx).map_err(|e| (ERROR_INVALID_PTX, e.to_string())).and_then(|module| {
        let s = if owner == Owner::Library { state() } else { working() };
        let mut s = s.map_err(|c| (c, String::new()))?;
        let loaded = s.device.load(&module).map_err(|e| match e {
            handloom_emulator::Error::Options(m) => (ERROR_NO_BINARY_FOR_GPU, m),
            handloom_emulator::Error::Memory(m) => (ERROR_OUT_OF_MEMORY, m),
            e => (ERROR_INVALID_PTX, e.to_string()),
        })?;
        let handle = s.new_handle();
        for (address, bytes) in loaded.managed() {
            s.add_managed_variable(address, bytes);
        }
        s.modules.insert(handle, loaded);
        if owner == Owner::Library {
            s.libraries.insert(handle);
        }
        Ok((handle, module))
    });
    match loaded {
        Ok((handle, module)) => {
            jit.log_error("");
            jit.log_info(&if jit.verbose() { info(&module) } else { String::new() });
            Ok(handle)
        }
        Err(failure) => Err(report(failure, jit)),
    }
}

/// A failure to the log and to standard error.
pub fn report((code, message): Failure, jit: &JitOptions) -> Code {
    jit.log_error(&message);
    if message.is_empty() { code } else { refuse(code, message) }
}

pub fn load_image(image: In<u8>, owner: Owner, jit: &JitOptions) -> Result<usize, Code> {
    let arch = state()?.device.options().arch;
    let text = image_text(image, arch).map_err(|failure| report(failure, jit))?;
    load(&text, owner, jit)
}

pub fn load_file(path: Text, owner: Owner, jit: &JitOptions) -> Result<usize, Code> {
    let path = path.get()?;
    let bytes = std::fs::read(&path).map_err(|e| refuse(ERROR_FILE_NOT_FOUND, format!("{path}: {e}")))?;
    let arch = state()?.device.options().arch;
    let text =
        image_of_bytes(&bytes, arch).map_err(|(code, m)| report((code, format!("{path}: {m}")), jit))?;
    load(&text, owner, jit)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleLoadData(out: Out<usize>, image: In<u8>) -> Code {
    code(out.required().and_then(|_| out.put(load_image(image, Owner::Context, &JitOptions::NONE)?)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleLoadDataEx(
    out: Out<usize>,
    image: In<u8>,
    count: c_uint,
    options: In<c_uint>,
    values: In<usize>,
) -> Code {
    code(out.required().and_then(|_| {
        let jit = JitOptions::read(count, options, values)?;
        out.put(load_image(image, Owner::Context, &jit)?)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleLoadFatBinary(out: Out<usize>, image: In<u8>) -> Code {
    cuModuleLoadData(out, image)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleLoad(out: Out<usize>, path: Text) -> Code {
    code(out.required().and_then(|_| out.put(load_file(path, Owner::Context, &JitOptions::NONE)?)))
}

impl State {
    /// Forgets a module, its functions and its variables.
    pub fn unload(&mut self, module: usize) -> Result<(), Code> {
        let loaded = self.modules.remove(&module).ok_or(ERROR_INVALID_HANDLE)?;
        self.libraries.remove(&module);
        self.functions.retain(|_, f| f.module != module);
        self.names.retain(|f, _| self.functions.contains_key(f));
        for address in loaded.addresses() {
            self.host_memory.remove(&address);
            // A variable's allocation is the module's own, so freeing it cannot fail.
            let _ = self.device.free(address);
        }
        Ok(())
    }

    /// The handle of a kernel, the same each time.
    pub fn function(&mut self, module: usize, name: &str) -> Result<usize, Code> {
        let loaded = self.modules.get(&module).ok_or(ERROR_INVALID_HANDLE)?;
        loaded.module.kernel(name).ok_or(ERROR_NOT_FOUND)?;
        let known = self.functions.iter().find(|(_, f)| f.module == module && f.name == name);
        if let Some((&handle, _)) = known {
            return Ok(handle);
        }
        let handle = self.new_handle();
        let name = name.to_string();
        self.functions
            .insert(handle, Function { module, name, max_dynamic_shared: None, hints: Default::default() });
        Ok(handle)
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: Handle) -> Code {
    code(state().and_then(|mut s| s.unload(module as usize)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetFunction(out: Out<usize>, module: Handle, name: Text) -> Code {
    code(state().and_then(|mut s| {
        out.required()?;
        out.put(s.function(module as usize, &name.get()?)?)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetGlobal_v2(
    address: Out<u64>,
    size: Out<usize>,
    module: Handle,
    name: Text,
) -> Code {
    code(working().and_then(|s| {
        let loaded = s.modules.get(&(module as usize)).ok_or(ERROR_INVALID_HANDLE)?;
        let (at, bytes) = loaded.variable(&name.get()?).ok_or(ERROR_NOT_FOUND)?;
        address.put_if_wanted(at);
        size.put_if_wanted(bytes as usize);
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetFunctionCount(out: Out<c_uint>, module: Handle) -> Code {
    code(state().and_then(|s| {
        let loaded = s.modules.get(&(module as usize)).ok_or(ERROR_INVALID_HANDLE)?;
        out.put(loaded.module.kernels().len() as c_uint)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleEnumerateFunctions(out: Out<usize>, room: c_uint, module: Handle) -> Code {
    code(state().and_then(|mut s| {
        let loaded = s.modules.get(&(module as usize)).ok_or(ERROR_INVALID_HANDLE)?;
        let names: Vec<String> = loaded.module.kernels().iter().map(|k| k.name.clone()).collect();
        for (i, name) in names.iter().take(room as usize).enumerate() {
            out.put_at(i, s.function(module as usize, name)?)?;
        }
        Ok(())
    }))
}

/// Modules are loaded at once (1), not when a kernel is first used.
#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetLoadingMode(out: Out<c_uint>) -> Code {
    code(state().and_then(|_| out.put(1)))
}
