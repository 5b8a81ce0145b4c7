//! Launches: parameters from the caller's memory, the run, its findings and counters.

use std::ffi::{c_uint, c_void};
use std::io::Write;

use handloom_emulator::{LaunchConfig, LaunchReport};

use crate::errors::*;
use crate::state::*;

/// Keys of the `extra` argument.
const BUFFER_POINTER: usize = 1;
const BUFFER_SIZE: usize = 2;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: Handle,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared: c_uint,
    stream: Handle,
    params: *const *const c_void,
    extra: *const *const c_void,
) -> Code {
    code(working().and_then(|mut s| {
        s.check_stream(stream)?;
        let f = s.functions.get(&(function as usize)).ok_or(ERROR_INVALID_HANDLE)?;
        let loaded = s.modules.get(&f.module).ok_or(ERROR_INVALID_HANDLE)?;
        let kernel = loaded.module.kernel(&f.name).ok_or(ERROR_INVALID_HANDLE)?;
        let arch = s.device.options().arch;
        let allowed =
            f.max_dynamic_shared.unwrap_or(arch.shared_per_block.saturating_sub(kernel.shared_bytes));
        if shared > allowed {
            eprintln!(
                "emulator: launch of {}: {shared} B of dynamic shared memory, allowed are {allowed} B; raise \
                 CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES",
                f.name
            );
            return Err(ERROR_INVALID_VALUE);
        }
        let mut block = vec![0; kernel.param_bytes() as usize];
        if !params.is_null() {
            for (i, p) in kernel.params.iter().enumerate() {
                // SAFETY: one pointer per parameter of the kernel, each to a value of its size, by the API's contract.
                unsafe {
                    let from = *params.add(i);
                    if from.is_null() {
                        return Err(ERROR_INVALID_VALUE);
                    }
                    let to = &mut block[p.offset as usize..][..p.size as usize];
                    std::ptr::copy_nonoverlapping(from as *const u8, to.as_mut_ptr(), p.size as usize);
                }
            }
        } else if !extra.is_null() {
            // SAFETY: a list of keys and values that ends with a null key, by the API's contract.
            unsafe { from_extra(extra, &mut block) }?;
        } else if !kernel.params.is_empty() {
            eprintln!("emulator: launch of {}: {} parameters are missing", f.name, kernel.params.len());
            return Err(ERROR_INVALID_VALUE);
        }
        let config = LaunchConfig {
            grid: [grid_x, grid_y, grid_z],
            block: [block_x, block_y, block_z],
            cluster: [1; 3],
            dynamic_shared: shared,
        };
        let report = s.device.launch_block(loaded, &f.name, config, &block).map_err(|e| {
            eprintln!("emulator: {e}");
            ERROR_INVALID_VALUE
        })?;
        print!("{}", report.printed);
        let _ = std::io::stdout().flush(); // a closed standard output is not the kernel's fault
        let failed = match report.findings.first() {
            Some(f) => of_finding(f.kind),
            None if report.stopped => ERROR_LAUNCH_FAILED,
            None => SUCCESS,
        };
        let name = f.name.clone();
        record(&s, &name, &report);
        s.failed = failed;
        if failed == SUCCESS { Ok(()) } else { Err(failed) }
    }))
}

/// # Safety
/// `extra` is a list of keys and values that ends with a null key.
unsafe fn from_extra(extra: *const *const c_void, block: &mut [u8]) -> Result<(), Code> {
    let (mut from, mut size) = (std::ptr::null::<u8>(), 0usize);
    let mut at = 0;
    // SAFETY: the caller's promise; the buffer holds as many bytes as the size behind its pointer says.
    unsafe {
        loop {
            let (key, value) = (*extra.add(at) as usize, extra.add(at + 1));
            match key {
                0 => break,
                BUFFER_POINTER => from = *value as *const u8,
                BUFFER_SIZE => size = *(*value as *const usize),
                _ => return Err(ERROR_INVALID_VALUE),
            }
            at += 2;
        }
        if from.is_null() || size < block.len() {
            return Err(ERROR_INVALID_VALUE);
        }
        std::ptr::copy_nonoverlapping(from, block.as_mut_ptr(), block.len());
    }
    Ok(())
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out += "\\\"",
            '\\' => out += "\\\\",
            '\n' => out += "\\n",
            c if (c as u32) < 0x20 => out += &format!("\\u{:04x}", c as u32),
            c => out.push(c),
        }
    }
    out + "\""
}

/// Findings on standard error, and a line of JSON in the report file.
fn record(s: &State, kernel: &str, report: &LaunchReport) {
    for finding in &report.findings {
        eprintln!("emulator: {finding}");
    }
    let Some(path) = &s.report else { return };
    let findings: Vec<String> = report.findings.iter().map(|f| quoted(&f.to_string())).collect();
    let line = format!(
        "{{\"kernel\":{},\"findings\":[{}],\"counters\":{}}}\n",
        quoted(kernel),
        findings.join(","),
        report.counters.json()
    );
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    if let Err(e) = file.and_then(|mut f| f.write_all(line.as_bytes())) {
        say_once("report", &format!("cannot write the report {path}: {e}"));
    }
}

/// Work is done at once, so the function is called at once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchHostFunc(
    stream: Handle,
    function: Option<unsafe extern "C" fn(*mut c_void)>,
    data: *mut c_void,
) -> Code {
    code(working().and_then(|s| {
        s.check_stream(stream)?;
        drop(s);
        let function = function.ok_or(ERROR_INVALID_VALUE)?;
        // SAFETY: a function that takes `data`, by the API's contract.
        unsafe { function(data) };
        Ok(())
    }))
}
