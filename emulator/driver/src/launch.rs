//! Launches: parameters from the caller's memory, the run, its findings and counters.

use std::ffi::{c_int, c_uint};
use std::io::Write;

use handloom_emulator::{LaunchConfig, LaunchReport};

use crate::errors::*;
use crate::ffi::In;
use crate::occupancy::blocks_per_sm;
use crate::ops::{Op, submit};
use crate::state::*;

/// Keys of the `extra` argument.
const BUFFER_POINTER: usize = 1;
const BUFFER_SIZE: usize = 2;

/// How many blocks of how many threads, in which clusters, with how much dynamic shared memory.
#[derive(Clone, Copy, PartialEq)]
pub struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub cluster: [u32; 3],
    pub shared: u32,
    /// All blocks run at once, so that they may wait for each other.
    pub cooperative: bool,
}

#[derive(Clone)]
pub struct Launch {
    pub function: usize,
    pub shape: Shape,
    /// The parameter block.
    pub params: Vec<u8>,
}

impl Launch {
    /// Reads the parameters: an array of pointers, or the list `extra`.
    pub fn new(
        s: &State,
        function: Handle,
        shape: Shape,
        params: In<usize>,
        extra: In<usize>,
    ) -> Result<Launch, Code> {
        let (kernel, ..) = s.kernel(function)?;
        let mut block = vec![0; kernel.param_bytes() as usize];
        if !params.is_null() {
            for (i, p) in kernel.params.iter().enumerate() {
                let value = In::<u8>::at(params.get_at(i)?).bytes(p.size as usize)?;
                block[p.offset as usize..][..p.size as usize].copy_from_slice(value);
            }
        } else if !extra.is_null() {
            from_extra(extra, &mut block)?;
        } else if !kernel.params.is_empty() {
            let n = kernel.params.len();
            return Err(refuse(
                ERROR_INVALID_VALUE,
                format!("launch of {}: its {n} parameters are missing", kernel.name),
            ));
        }
        Ok(Launch { function: function as usize, shape, params: block })
    }

    fn config(&self) -> LaunchConfig {
        let Shape { grid, block, cluster, shared, .. } = self.shape;
        LaunchConfig { grid, block, cluster, dynamic_shared: shared }
    }

    pub fn check(&self, s: &State) -> Result<(), Code> {
        let (kernel, f, loaded) = s.kernel(self.function as Handle)?;
        let arch = s.device.options().arch;
        let Shape { grid, block, cluster, shared, cooperative } = self.shape;
        let allowed =
            f.max_dynamic_shared.unwrap_or(arch.shared_per_block.saturating_sub(kernel.shared_bytes));
        if shared > allowed {
            return Err(refuse(
                ERROR_INVALID_VALUE,
                format!(
                    "launch of {}: {shared} B of dynamic shared memory, allowed are {allowed} B; raise \
                     CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES",
                    f.name
                ),
            ));
        }
        if let Err(e) = s.device.check_launch(loaded, &f.name, &self.config()) {
            let alone = LaunchConfig { cluster: [1; 3], ..self.config() };
            let threads: u64 = block.iter().map(|&d| d as u64).product();
            let code = if cluster != [1; 3] && s.device.check_launch(loaded, &f.name, &alone).is_ok() {
                ERROR_INVALID_CLUSTER_SIZE
            } else if kernel.max_threads.is_some_and(|max| threads > max as u64)
                && threads <= arch.max_threads_per_block as u64
            {
                ERROR_LAUNCH_OUT_OF_RESOURCES
            } else {
                ERROR_INVALID_VALUE
            };
            return Err(refuse(code, e));
        }
        let blocks: u64 = grid.iter().map(|&d| d as u64).product();
        let resident = blocks_per_sm(arch, kernel, block.iter().product(), shared as usize) as u64;
        if cooperative && blocks > resident * arch.sms as u64 {
            return Err(refuse(
                ERROR_COOPERATIVE_LAUNCH_TOO_LARGE,
                format!(
                    "cooperative launch of {}: {blocks} blocks, {} has room for {} at once",
                    f.name,
                    arch.name,
                    resident * arch.sms as u64
                ),
            ));
        }
        Ok(())
    }

    /// Runs the kernel to its end. A finding gives the code that hardware would, and the context keeps it.
    pub fn run(&self, s: &mut State) -> Result<(), Code> {
        s.device.memory_mut().heap_mut().sweep();
        let f = s.functions.get(&self.function).ok_or(ERROR_INVALID_HANDLE)?;
        let (name, loaded) = (f.name.as_str(), s.modules.get(&f.module).ok_or(ERROR_INVALID_HANDLE)?);
        let report = match self.shape.cooperative {
            true => s.device.launch_cooperative(loaded, name, self.config(), &self.params),
            false => s.device.launch_block(loaded, name, self.config(), &self.params),
        };
        let report = report.map_err(|e| refuse(ERROR_INVALID_VALUE, e))?;
        print!("{}", report.printed);
        let _ = std::io::stdout().flush(); // a closed standard output is not the kernel's fault
        let hardware = s.configuration.hardware_errors;
        let failed = match report.findings.iter().find(|f| !hardware || hardware_sees(f.kind)) {
            Some(f) => of_finding(f.kind),
            None if report.stopped => ERROR_LAUNCH_FAILED,
            None => SUCCESS,
        };
        record(s, &s.functions[&self.function].name, &report);
        if failed == SUCCESS {
            return Ok(());
        }
        s.context()?.failed = failed;
        Err(failed)
    }
}

/// Reads the list of keys and values that ends with a null key: a buffer with the parameters, and its size.
fn from_extra(extra: In<usize>, block: &mut [u8]) -> Result<(), Code> {
    let (mut from, mut size) = (0, 0);
    let mut at = 0;
    loop {
        match extra.get_at(at)? {
            0 => break,
            BUFFER_POINTER => from = extra.get_at(at + 1)?,
            BUFFER_SIZE => size = In::<usize>::at(extra.get_at(at + 1)?).get()?,
            _ => return Err(ERROR_INVALID_VALUE),
        }
        at += 2;
    }
    if size < block.len() {
        return Err(ERROR_INVALID_VALUE);
    }
    block.copy_from_slice(In::<u8>::at(from).bytes(block.len())?);
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
    let Some(path) = &s.configuration.report else { return };
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

fn launch(function: Handle, shape: Shape, stream: Handle, params: In<usize>, extra: In<usize>) -> Code {
    code(working().and_then(|s| {
        let launch = Launch::new(&s, function, shape, params, extra)?;
        submit(s, stream, Op::Launch(launch))
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchKernel(
    function: Handle,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared: c_uint,
    stream: Handle,
    params: In<usize>,
    extra: In<usize>,
) -> Code {
    let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
    launch(
        function,
        Shape { grid, block, cluster: [1; 3], shared, cooperative: false },
        stream,
        params,
        extra,
    )
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchCooperativeKernel(
    function: Handle,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared: c_uint,
    stream: Handle,
    params: In<usize>,
) -> Code {
    let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
    let shape = Shape { grid, block, cluster: [1; 3], shared, cooperative: true };
    launch(function, shape, stream, params, In::NULL)
}

/// CUlaunchAttribute: what it is, and its value.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Attribute {
    id: c_int,
    pad: c_int,
    value: [u32; 16],
}

/// CUlaunchConfig.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Config {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared: c_uint,
    stream: usize,
    attributes: In<Attribute>,
    count: c_uint,
}

/// CUlaunchAttributeID.
const COOPERATIVE: c_int = 2;
const CLUSTER: c_int = 4;
const PROGRAMMATIC_EVENT: c_int = 7;
const COMPLETION_EVENT: c_int = 12;
const UPDATABLE_NODE: c_int = 13;

impl Config {
    /// The shape with the attributes that change it. Those that let a kernel start early (programmatic stream
    /// serialisation) hold by themselves, for a kernel starts when the one before it is done; hints change nothing.
    pub fn shape(&self) -> Result<Shape, Code> {
        let Config { grid, block, shared, .. } = *self;
        let mut shape = Shape { grid, block, cluster: [1; 3], shared, cooperative: false };
        for i in 0..self.count as usize {
            let a = self.attributes.get_at(i)?;
            match a.id {
                COOPERATIVE => shape.cooperative = a.value[0] != 0,
                CLUSTER => shape.cluster = [a.value[0], a.value[1], a.value[2]],
                PROGRAMMATIC_EVENT | COMPLETION_EVENT | UPDATABLE_NODE => {
                    let sentence = format!("launch attribute {} is not supported", a.id);
                    say_once(&sentence, &sentence);
                    return Err(ERROR_NOT_SUPPORTED);
                }
                0..=16 => {}
                _ => return Err(ERROR_INVALID_VALUE),
            }
        }
        Ok(shape)
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchKernelEx(
    config: In<Config>,
    function: Handle,
    params: In<usize>,
    extra: In<usize>,
) -> Code {
    launch_with(config, 0, function, params, extra)
}

/// The launch, in the stream `default` where the configuration names none.
pub fn launch_with(
    config: In<Config>,
    default: usize,
    function: Handle,
    params: In<usize>,
    extra: In<usize>,
) -> Code {
    match config.get().and_then(|c| Ok((c.shape()?, c.stream))) {
        Ok((shape, 0)) => launch(function, shape, default as Handle, params, extra),
        Ok((shape, stream)) => launch(function, shape, stream as Handle, params, extra),
        Err(code) => code,
    }
}
