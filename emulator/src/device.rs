//! A device: global memory, loaded modules, launches.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::check::{Finding, Findings};
use crate::counters::Counters;
use crate::error::{Error, Result};
use crate::exec;
use crate::exec::trace::{Step, Trace};
use crate::memory::{GlobalMemory, RESERVED_SHARED, function_address};
use crate::module::{Kernel, Module};
use crate::options::Options;
use crate::ptx::ast::{Init, Space, Ty};

/// An argument of a launch, as bytes; made from numbers and device addresses.
#[derive(Clone, Debug, PartialEq)]
pub struct Arg(pub Vec<u8>);

macro_rules! arg_from {
    ($($ty:ty),*) => { $(
        impl From<$ty> for Arg {
            fn from(v: $ty) -> Arg {
                Arg(v.to_le_bytes().to_vec())
            }
        }
    )* };
}
arg_from!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

impl From<&[u8]> for Arg {
    /// A structure passed by value.
    fn from(v: &[u8]) -> Arg {
        Arg(v.to_vec())
    }
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchConfig {
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y, z.
    pub block: [u32; 3],
    /// Blocks of a cluster along x, y, z; [1, 1, 1] for what the kernel was compiled for, or no clusters.
    pub cluster: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub dynamic_shared: u32,
}

impl LaunchConfig {
    /// One-dimensional, without clusters or dynamic shared memory.
    pub fn linear(blocks: u32, threads: u32) -> LaunchConfig {
        LaunchConfig { grid: [blocks, 1, 1], block: [threads, 1, 1], cluster: [1; 3], dynamic_shared: 0 }
    }
}

/// What a launch did.
#[derive(Clone, Debug, Default)]
pub struct LaunchReport {
    /// What the kernel did wrong; empty for a clean run.
    pub findings: Vec<Finding>,
    /// True when the launch was stopped before its end: trap, assert, deadlock, or too many findings.
    pub stopped: bool,
    pub counters: Counters,
    /// What the kernel printed.
    pub printed: String,
    /// The steps of the warp that the options name.
    pub trace: Vec<Step>,
}

impl LaunchReport {
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty() && !self.stopped
    }

    /// The findings, one to a line.
    pub fn text(&self) -> String {
        self.findings.iter().map(|f| format!("{f}\n")).collect()
    }
}

/// A module on a device: its variables have addresses.
pub struct Loaded {
    pub module: Module,
    addresses: Vec<u64>,
}

impl Loaded {
    /// Addresses of the module's variables that are allocations: all but shared ones.
    pub fn addresses(&self) -> Vec<u64> {
        self.addresses.iter().copied().filter(|&a| a != 0).collect()
    }

    /// Addresses and sizes of the variables that the host may use too.
    pub fn managed(&self) -> impl Iterator<Item = (u64, u64)> {
        let all = self.module.0.variables.iter().zip(&self.addresses);
        all.filter(|(v, _)| v.managed).map(|(v, &a)| (a, v.size))
    }

    /// Address and size of a `.global` or `.const` variable.
    pub fn variable(&self, name: &str) -> Option<(u64, u64)> {
        let i = self.module.0.variables.iter().position(|v| v.name == name && v.space != Space::Shared)?;
        Some((self.addresses[i], self.module.0.variables[i].size))
    }
}

/// Bytes of the memory behind a grid-wide barrier.
const WORKSPACE_BYTES: u64 = 64;

/// An emulated GPU.
///
/// # Example
/// ```
/// use handloom_emulator::{Device, LaunchConfig, Module, Options};
/// let ptx = ".version 8.0\n.target sm_80\n.address_size 64
/// .visible .entry fill(.param .u64 out, .param .u32 value) {
///     .reg .b32 %r<3>; .reg .b64 %rd<4>;
///     ld.param.u64 %rd1, [out];
///     ld.param.u32 %r1, [value];
///     mov.u32 %r2, %tid.x;
///     mul.wide.u32 %rd2, %r2, 4;
///     add.s64 %rd3, %rd1, %rd2;
///     st.global.u32 [%rd3], %r1;
///     ret;
/// }";
/// let mut device = Device::new(Options::default());
/// let module = device.load(&Module::parse(ptx)?)?;
/// let out = device.allocate(4 * 8, "out")?;
/// let report = device.launch(&module, "fill", LaunchConfig::linear(1, 8), &[out.into(), 7u32.into()])?;
/// assert!(report.is_clean(), "{}", report.text());
/// let mut bytes = [0; 32];
/// device.read(out, &mut bytes)?;
/// assert_eq!(bytes[28..], 7u32.to_le_bytes());
/// # Ok::<(), handloom_emulator::Error>(())
/// ```
pub struct Device {
    options: Options,
    memory: GlobalMemory,
    launches: AtomicU64,
    spare: exec::Spare,
}

impl Device {
    pub fn new(options: Options) -> Device {
        let memory = GlobalMemory::new(options.memory);
        Device { options, memory, launches: AtomicU64::new(0), spare: exec::Spare::default() }
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Bytes of each thread's stack in launches from now on.
    pub fn set_stack(&mut self, bytes: u32) {
        self.options.stack_bytes = bytes;
    }

    pub fn memory(&self) -> &GlobalMemory {
        &self.memory
    }

    pub fn memory_mut(&mut self) -> &mut GlobalMemory {
        &mut self.memory
    }

    /// Reserves `bytes` of global memory, not written; `name` is what findings call it.
    ///
    /// # Errors
    /// `Error::Memory` when the device's memory does not suffice.
    pub fn allocate(&mut self, bytes: u64, name: &str) -> Result<u64> {
        self.memory.allocate(bytes, name, false)
    }

    /// Gives an allocation back.
    ///
    /// # Errors
    /// `Error::Memory` when `address` is not the start of one.
    pub fn free(&mut self, address: u64) -> Result<()> {
        self.memory.free(address)
    }

    /// Copies from the host to the device.
    ///
    /// # Errors
    /// `Error::Memory` when the range does not lie in one allocation.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.memory.write(address, bytes)
    }

    /// Copies from the device to the host.
    ///
    /// # Errors
    /// `Error::Memory` when the range does not lie in one allocation.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.memory.read(address, bytes)
    }

    /// Gives a module's variables addresses and initial values.
    ///
    /// # Errors
    /// `Error::Options` when the PTX is for a newer architecture than the device's; `Error::Memory` when its variables
    /// do not fit.
    pub fn load(&mut self, module: &Module) -> Result<Loaded> {
        let arch = self.options.arch;
        if !arch.runs(module.target()) {
            let message = format!("the module is for {}, the device is {}", module.target(), arch.name);
            return Err(Error::Options(message));
        }
        let variables = &module.0.variables;
        let constants: u64 = variables.iter().filter(|v| v.space == Space::Const).map(|v| v.size).sum();
        if constants > arch.const_bytes as u64 {
            let message =
                format!("{constants} B of .const variables, {} allows {} B", arch.name, arch.const_bytes);
            return Err(Error::Memory(message));
        }
        let mut addresses = Vec::with_capacity(variables.len());
        for v in variables {
            addresses.push(match v.space {
                Space::Shared => 0,
                _ if v.managed => {
                    self.memory.allocate_host(v.size.max(1), &format!("managed variable {}", v.name))?
                }
                space => {
                    self.memory.allocate(v.size, &format!("variable {}", v.name), space == Space::Const)?
                }
            });
        }
        let by_name: HashMap<&str, u64> =
            variables.iter().zip(&addresses).map(|(v, &a)| (v.name.as_str(), a)).collect();
        for (v, &address) in variables.iter().zip(&addresses) {
            if v.space == Space::Shared {
                continue;
            }
            let width = v.ty.bytes() as usize;
            let mut bytes = vec![0; v.size as usize];
            for (chunk, init) in bytes.chunks_mut(width.max(1)).zip(&v.init) {
                let value = match init {
                    Init::Bits(bits) => *bits,
                    Init::Symbol { name, offset, .. } => match by_name.get(name.as_str()) {
                        None if module.0.functions.contains_key(name) && *offset == 0 && width == 8 => {
                            function_address(module.0.functions[name])
                        }
                        Some(a) if *a != 0 && matches!(v.ty, Ty::U64 | Ty::B64 | Ty::S64) => {
                            a.wrapping_add_signed(*offset)
                        }
                        _ => {
                            let message = format!(
                                "the initial value of `{}` names `{name}`, which has no address",
                                v.name
                            );
                            return Err(Error::Parse { line: v.line, message });
                        }
                    },
                };
                chunk.copy_from_slice(&value.to_le_bytes()[..chunk.len()]);
            }
            self.memory.write(address, &bytes)?;
        }
        Ok(Loaded { module: module.clone(), addresses })
    }

    /// Runs a kernel to its end.
    ///
    /// # Errors
    /// `Error::Launch`: no such kernel, arguments that do not match its parameters, or a shape that the architecture or
    /// the kernel does not allow. What goes wrong inside the kernel is in the report.
    pub fn launch(
        &self,
        module: &Loaded,
        kernel: &str,
        config: LaunchConfig,
        args: &[Arg],
    ) -> Result<LaunchReport> {
        let params = self.param_block(module, kernel, args)?;
        self.launch_block(module, kernel, config, &params)
    }

    /// The parameter block of a launch with these arguments.
    ///
    /// # Errors
    /// `Error::Launch`: no such kernel, or arguments that do not match its parameters.
    pub fn param_block(&self, module: &Loaded, kernel: &str, args: &[Arg]) -> Result<Vec<u8>> {
        let fail = |message: String| Err(Error::Launch { kernel: kernel.to_string(), message });
        let Some(k) = module.module.kernel(kernel) else {
            let known: Vec<&str> = module.module.kernels().iter().map(|k| k.name.as_str()).collect();
            return fail(format!("no such kernel; the module has {}", known.join(", ")));
        };
        if args.len() != k.params.len() {
            return fail(format!("takes {} arguments, {} are given", k.params.len(), args.len()));
        }
        let mut params = vec![0; k.param_bytes() as usize];
        for (i, (arg, p)) in args.iter().zip(&k.params).enumerate() {
            if arg.0.len() != p.size as usize {
                return fail(format!(
                    "argument {i} ({} {}) has {} B, {} are given",
                    p.ty,
                    p.name,
                    p.size,
                    arg.0.len()
                ));
            }
            params[p.offset as usize..][..arg.0.len()].copy_from_slice(&arg.0);
        }
        Ok(params)
    }

    /// Whether a launch of this shape is allowed, without running it.
    ///
    /// # Errors
    /// `Error::Launch` as for [`Device::launch`].
    pub fn check_launch(&self, module: &Loaded, kernel: &str, config: &LaunchConfig) -> Result<()> {
        let fail = |message: String| Error::Launch { kernel: kernel.to_string(), message };
        let k = module.module.kernel(kernel).ok_or_else(|| fail("no such kernel".to_string()))?;
        self.check_limits(k, config).and_then(|()| self.cluster_of(k, config)).map_err(fail)?;
        Ok(())
    }

    /// As [`Device::launch`], with the parameter block as bytes.
    ///
    /// # Errors
    /// As [`Device::launch`].
    pub fn launch_block(
        &self,
        module: &Loaded,
        kernel: &str,
        config: LaunchConfig,
        params: &[u8],
    ) -> Result<LaunchReport> {
        self.run(module, kernel, config, params, 0)
    }

    /// As [`Device::launch_block`], for kernels whose blocks wait for each other (`grid.sync()` of cooperative groups).
    ///
    /// # Errors
    /// As [`Device::launch`]; `Error::Memory` when there is no room for the barrier.
    pub fn launch_cooperative(
        &mut self,
        module: &Loaded,
        kernel: &str,
        config: LaunchConfig,
        params: &[u8],
    ) -> Result<LaunchReport> {
        // The size of the workspace, then the barrier: two words of 32 bits.
        let workspace = self.memory.allocate(WORKSPACE_BYTES, "the grid's barrier", false)?;
        let mut bytes = vec![0; WORKSPACE_BYTES as usize];
        bytes[0] = WORKSPACE_BYTES as u8;
        self.memory.write(workspace, &bytes)?;
        let report = self.run(module, kernel, config, params, workspace);
        self.memory.free(workspace)?;
        report
    }

    fn run(
        &self,
        module: &Loaded,
        kernel: &str,
        config: LaunchConfig,
        params: &[u8],
        workspace: u64,
    ) -> Result<LaunchReport> {
        let fail = |message: String| Err(Error::Launch { kernel: kernel.to_string(), message });
        let Some(k) = module.module.kernel(kernel) else { return fail("no such kernel".to_string()) };
        if let Err(message) = self.check_limits(k, &config) {
            return fail(message);
        }
        let cluster = match self.cluster_of(k, &config) {
            Ok(cluster) => cluster,
            Err(message) => return fail(message),
        };
        if params.len() < k.param_bytes() as usize {
            let message = format!("has {} B of parameters, {} B are given", k.param_bytes(), params.len());
            return fail(message);
        }
        let align = k.code.shared_align.max(16);
        let dynamic_start = k.shared_bytes.div_ceil(align) * align;
        let shared_bytes =
            if config.dynamic_shared > 0 { dynamic_start + config.dynamic_shared } else { k.shared_bytes };
        let reserved_shared = k.code.reserved_shared.then(|| shared_bytes.next_multiple_of(16));
        let shared_bytes = reserved_shared.map_or(shared_bytes, |start| start + RESERVED_SHARED);
        let findings = Findings::new(self.options.max_findings);
        let printed = Mutex::new(String::new());
        let trace = self.options.trace.map(Trace::new);
        let counts = exec::run(&exec::Launch {
            kernel,
            code: &k.code,
            files: &module.module.0.files,
            memory: &self.memory,
            options: &self.options,
            grid: config.grid,
            block: config.block,
            cluster,
            explicit_cluster: config.cluster != [1; 3] || k.required_cluster.is_some(),
            registers: self.registers_per_thread(k, &config),
            params,
            addresses: &module.addresses,
            shared_bytes,
            dynamic_shared: config.dynamic_shared,
            dynamic_start,
            reserved_shared,
            findings: &findings,
            printed: &printed,
            spare: &self.spare,
            number: self.memory.next_launch(),
            releases: Mutex::default(),
            grid_id: self.launches.fetch_add(1, Ordering::Relaxed),
            workspace,
            trace: trace.as_ref(),
        });
        let files = &module.module.0.files;
        let counters = Counters::new(&k.code, &counts, |f| files.get(&f).cloned().unwrap_or_default());
        let stopped = findings.stopped();
        let printed = printed.into_inner().unwrap_or_else(|e| e.into_inner());
        let trace = trace.map(|t| t.into_inner().unwrap_or_else(|e| e.into_inner()).into_steps());
        let trace = trace.unwrap_or_default();
        Ok(LaunchReport { findings: findings.into_list(), stopped, counters, printed, trace })
    }

    /// The size of a launch's clusters: as given, or as the kernel requires.
    fn cluster_of(&self, k: &Kernel, config: &LaunchConfig) -> std::result::Result<[u32; 3], String> {
        let arch = self.options.arch;
        let given = config.cluster;
        let size = match k.required_cluster {
            Some(required) if given != [1; 3] && given != required => {
                return Err(format!(
                    "cluster {given:?}, the kernel was compiled for {required:?} (.reqnctapercluster)"
                ));
            }
            Some(required) => required,
            None if k.explicit_cluster && given == [1; 3] => {
                return Err("the kernel needs a launch with clusters (.explicitcluster)".to_string());
            }
            None => given,
        };
        if size == [1; 3] {
            return Ok(size);
        }
        let blocks = size.iter().map(|&d| d as u64).product::<u64>();
        if arch.max_cluster == 0 {
            return Err(format!("clusters need sm_90, the device is {}", arch.name));
        }
        let max = k.max_cluster_rank.unwrap_or(arch.max_cluster).min(arch.max_cluster);
        if blocks == 0 || blocks > max as u64 {
            return Err(format!("cluster {size:?} of {blocks} blocks, at most {max} are allowed"));
        }
        if let Some(i) = (0..3).find(|&i| !config.grid[i].is_multiple_of(size[i])) {
            return Err(format!(
                "grid {:?} is not a multiple of cluster {size:?} along axis {i}",
                config.grid
            ));
        }
        Ok(size)
    }

    /// Registers that each thread starts with: what `.maxnreg`, or the bound on threads and blocks, leaves.
    fn registers_per_thread(&self, k: &Kernel, config: &LaunchConfig) -> Option<u32> {
        let arch = self.options.arch;
        if let Some(n) = k.max_registers {
            return Some(n.div_ceil(8) * 8);
        }
        let required = k.required_threads.map(|r| r.iter().product());
        let bound: u32 = required.or(k.max_threads)?;
        let threads = bound.max(config.block.iter().product()).div_ceil(32) * 32 * k.min_blocks.unwrap_or(1);
        Some((arch.registers_per_sm / threads / 8 * 8).clamp(24, 256))
    }

    fn check_limits(&self, k: &Kernel, config: &LaunchConfig) -> std::result::Result<(), String> {
        let arch = self.options.arch;
        for (i, axis) in ["x", "y", "z"].into_iter().enumerate() {
            let (block, grid) = (config.block[i], config.grid[i]);
            if block == 0 || block > arch.max_block[i] {
                return Err(format!(
                    "block {} is {block}, {} allows 1 to {}",
                    axis, arch.name, arch.max_block[i]
                ));
            }
            if grid == 0 || grid > arch.max_grid[i] {
                return Err(format!(
                    "grid {} is {grid}, {} allows 1 to {}",
                    axis, arch.name, arch.max_grid[i]
                ));
            }
        }
        let threads: u32 = config.block.iter().product();
        if threads > arch.max_threads_per_block {
            return Err(format!(
                "{threads} threads per block, {} allows {}",
                arch.name, arch.max_threads_per_block
            ));
        }
        if let Some(max) = k.max_threads.filter(|&m| threads > m) {
            return Err(format!(
                "{threads} threads per block, the kernel was compiled for at most {max} (.maxntid)"
            ));
        }
        if let Some(required) = k.required_threads.filter(|&r| r != config.block) {
            return Err(format!(
                "block {:?}, the kernel was compiled for {required:?} (.reqntid)",
                config.block
            ));
        }
        if k.shared_bytes > arch.shared_per_block {
            let allowed = arch.shared_per_block;
            return Err(format!(
                "{} B of static shared memory, {} allows {allowed} B",
                k.shared_bytes, arch.name
            ));
        }
        let total = k.shared_bytes as u64 + config.dynamic_shared as u64;
        if total > arch.shared_per_block_optin as u64 {
            return Err(format!(
                "{} B static + {} B dynamic shared memory, {} allows {} B",
                k.shared_bytes, config.dynamic_shared, arch.name, arch.shared_per_block_optin
            ));
        }
        if k.param_bytes() > arch.param_bytes {
            return Err(format!(
                "{} B of parameters, {} allows {} B",
                k.param_bytes(),
                arch.name,
                arch.param_bytes
            ));
        }
        Ok(())
    }
}
