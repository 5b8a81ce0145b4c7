//! Modules, functions and launches.

use std::sync::atomic::Ordering;

use cudarc::driver::{result, sys};

use super::call::Call;
use super::{Gpu, Handle, lock};
use crate::error::{Error, Result};
use crate::ptx::{self, Kind};
use crate::slice::{Arg, TensorMap};

#[derive(Clone, Copy)]
pub(super) struct Function {
    handle: Handle<sys::CUfunction>,
    params: &'static [Kind],
    /// Dynamic shared memory the function has been allowed so far.
    shared_bytes: usize,
}

impl Gpu {
    /// Loads the module of `entry` when it is the first, and looks the function up once.
    fn function(&self, name: &'static str, shared_bytes: usize) -> Result<Function> {
        let mut functions = lock(&self.functions);
        let known = functions.get(name).copied();
        if let Some(function) = known.filter(|function| function.shared_bytes >= shared_bytes) {
            return Ok(function);
        }
        let mut function = match known {
            Some(function) => function,
            None => {
                let entry = ptx::entry(name).ok_or_else(|| {
                    Error::argument(name, "no such kernel in the embedded PTX; run build-kernels".into())
                })?;
                let module = self.module(entry.module)?;
                let c_name =
                    std::ffi::CString::new(name).expect("bug in handloom-kernels: NUL in an entry's name");
                // SAFETY: the module is loaded and never unloaded.
                let handle =
                    unsafe { result::module::get_function(module, c_name) }.call("cuModuleGetFunction")?;
                Function { handle: Handle(handle), params: entry.params, shared_bytes: 48 << 10 }
            }
        };
        if shared_bytes > function.shared_bytes {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function belongs to a loaded module.
            unsafe {
                result::function::set_function_attribute(function.handle.0, attribute, shared_bytes as i32)
            }
            .call("cuFuncSetAttribute")?;
            function.shared_bytes = shared_bytes;
        }
        functions.insert(name, function);
        Ok(function)
    }

    fn module(&self, index: usize) -> Result<sys::CUmodule> {
        let mut modules = lock(&self.modules);
        if let Some(module) = modules.get(&index) {
            return Ok(module.0);
        }
        let module = &ptx::modules()[index];
        let mut log = vec![0u8; 8 << 10];
        let mut options = [
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        let mut values = [log.as_mut_ptr().cast(), log.len() as *mut std::ffi::c_void];
        let mut handle = std::ptr::null_mut();
        // SAFETY: the text ends in NUL, the options' buffers outlive the call, and both lists have two entries.
        let loaded = unsafe {
            sys::cuModuleLoadDataEx(
                &mut handle,
                module.text.as_ptr().cast(),
                options.len() as u32,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        loaded.result().call("cuModuleLoadDataEx").map_err(|error| {
            let log = String::from_utf8_lossy(&log);
            let log = log.trim_end_matches('\0').trim();
            match error {
                Error::Driver { call, name, text } => {
                    Error::Driver { call, name, text: format!("{text} ({}.ptx) {log}", module.stem) }
                }
                other => other,
            }
        })?;
        modules.insert(index, Handle(handle));
        Ok(handle)
    }

    /// Enqueues a kernel.
    ///
    /// # Errors
    /// [`Error::Argument`] when there is no such kernel, its PTX takes other parameters, or the launch leaves the device's limits;
    /// [`Error::Driver`] when the driver refuses it or an earlier kernel failed.
    pub fn launch(
        &self,
        name: &'static str,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: usize,
        args: &[Arg],
    ) -> Result<()> {
        if shared_bytes > self.limits.shared_bytes_per_block {
            let (most, (major, minor)) = (self.limits.shared_bytes_per_block, self.limits.compute_capability);
            let message =
                format!("needs {shared_bytes} B shared per block, sm_{major}{minor} allows {most} B");
            return Err(Error::argument(name, message));
        }
        if (0..3).any(|i| grid[i] > self.limits.grid[i] || grid[i] == 0) {
            let message = format!("grid {grid:?} is outside 1..={:?}", self.limits.grid);
            return Err(Error::argument(name, message));
        }
        self.bind()?;
        let function = self.function(name, shared_bytes)?;
        check_params(name, function.params, args)?;
        if self.is_planning() {
            return Ok(());
        }
        let mut values: Vec<Value> = args.iter().map(Value::of).collect();
        let mut pointers: Vec<*mut std::ffi::c_void> = values.iter_mut().map(Value::pointer).collect();
        // SAFETY: number and width of the arguments were just compared with the kernel's; the launcher that made them vouches
        // for what they point to, and memory is returned in stream order.
        unsafe {
            result::launch_kernel(
                function.handle.0,
                grid.into(),
                block.into(),
                shared_bytes as u32,
                self.stream,
                &mut pointers,
            )
        }
        .call("cuLaunchKernel")
        .map_err(|error| match error {
            Error::Driver { call, name: code, text } => Error::Driver {
                call,
                name: code,
                text: format!("{text} ({name}, grid {grid:?}, block {block:?})"),
            },
            other => other,
        })?;
        self.launches.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// An argument as it lies in memory, for the driver to copy.
enum Value {
    Word(u64),
    TensorMap(TensorMap),
}

impl Value {
    fn of(arg: &Arg) -> Value {
        Value::Word(match *arg {
            Arg::Pointer(value) | Arg::U64(value) => value,
            Arg::U32(value) => value as u64,
            Arg::I32(value) => value as u32 as u64,
            Arg::F32(value) => value.to_bits() as u64,
            Arg::TensorMap(map) => return Value::TensorMap(map),
        })
    }

    fn pointer(&mut self) -> *mut std::ffi::c_void {
        match self {
            Value::Word(word) => (&raw mut *word).cast(),
            Value::TensorMap(map) => (&raw mut *map).cast(),
        }
    }
}

/// The launcher's arguments against the PTX's parameters.
fn check_params(name: &'static str, params: &[Kind], args: &[Arg]) -> Result<()> {
    let kind = |arg: &Arg| match arg {
        Arg::Pointer(_) | Arg::U64(_) => Kind::Word64,
        Arg::U32(_) | Arg::I32(_) => Kind::Word32,
        Arg::F32(_) => Kind::F32,
        Arg::TensorMap(_) => Kind::TensorMap,
    };
    let passed: Vec<Kind> = args.iter().map(kind).collect();
    // nvcc types a 32-bit float as .f32, but an untyped 32-bit word may hold either.
    if passed != params {
        return Err(Error::argument(
            name,
            format!(
                "its PTX takes {params:?}, the launcher passes {passed:?}; the .cu and .rs files disagree"
            ),
        ));
    }
    Ok(())
}
