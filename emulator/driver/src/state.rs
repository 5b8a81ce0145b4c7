//! The driver's state: one device, and tables of handles. Handles are numbers, so a stale one is recognised.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Instant;

use handloom_emulator::{Device, Kernel, Loaded, Options};

use crate::capture::Capture;
use crate::errors::*;
use crate::graph::{Exec, Graph};
use crate::host_memory::HostMemory;
use crate::linker::Link;
use crate::pools::Pool;
use crate::virtual_memory::VirtualMemory;

/// A handle as the API passes it.
pub type Handle = *mut std::ffi::c_void;

/// The handle of the device's primary context; contexts made by cuCtxCreate have others.
pub const PRIMARY: usize = 0x10;
/// The handle of the device's default memory pool.
pub const DEFAULT_POOL: usize = 0x20;
/// The legacy default stream (also 0), and the calling thread's own default stream.
pub const LEGACY: usize = 1;
pub const PER_THREAD: usize = 2;
/// CU_STREAM_NON_BLOCKING: does not wait for the legacy stream.
pub const NON_BLOCKING: u32 = 1;

pub struct Context {
    pub flags: u32,
    pub cache_config: u32,
    pub limits: HashMap<u32, usize>,
    /// Set by a failed launch; every call that touches the device returns it until the context is reset.
    pub failed: Code,
}

impl Default for Context {
    fn default() -> Context {
        Context { flags: 0, cache_config: 0, limits: HashMap::new(), failed: SUCCESS }
    }
}

pub struct Function {
    pub module: usize,
    pub name: String,
    /// CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, once set.
    pub max_dynamic_shared: Option<u32>,
    /// Attributes that are kept and given back, by number.
    pub hints: HashMap<i32, i32>,
}

#[derive(Default)]
pub struct Stream {
    pub flags: u32,
    pub priority: i32,
    /// The capture it takes part in.
    pub capture: Option<u64>,
    /// The nodes that the next captured one comes after.
    pub last: Vec<usize>,
}

#[derive(Default)]
pub struct Event {
    pub timing: bool,
    pub recorded: Option<Instant>,
    /// The capture in which it was recorded last, and the nodes before it.
    pub captured: Option<(u64, Vec<usize>)>,
}

pub struct State {
    pub device: Device,
    pub contexts: HashMap<usize, Context>,
    pub modules: HashMap<usize, Loaded>,
    pub functions: HashMap<usize, Function>,
    /// Names of functions as C strings, for callers that asked for them.
    pub names: HashMap<usize, std::ffi::CString>,
    pub links: HashMap<usize, Link>,
    pub streams: HashMap<usize, Stream>,
    pub events: HashMap<usize, Event>,
    pub captures: HashMap<u64, Capture>,
    pub graphs: HashMap<usize, Graph>,
    pub execs: HashMap<usize, Exec>,
    pub graph_of_node: HashMap<usize, usize>,
    /// Addresses that nodes allocate, and how many bytes.
    pub graph_allocations: HashMap<u64, u64>,
    /// Parameters of kernel nodes as pointers, for callers that asked for them.
    pub node_pointers: HashMap<usize, Box<[usize]>>,
    pub pools: HashMap<usize, Pool>,
    pub current_pool: usize,
    /// The pool of each allocation that came from one.
    pub pool_of: HashMap<u64, usize>,
    /// Pinned, registered and managed memory, by its first address.
    pub host_memory: HashMap<u64, HostMemory>,
    pub virtual_memory: VirtualMemory,
    /// How often the primary context is retained.
    pub retained: u64,
    /// Modules that belong to no context.
    pub libraries: HashSet<usize>,
    pub configuration: Configuration,
    allocations: u64,
    next: usize,
}

static STATE: OnceLock<std::result::Result<Mutex<State>, String>> = OnceLock::new();

thread_local! {
    /// Stack of current contexts of this thread.
    pub static CURRENT: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
    /// The handle behind this thread's default stream, once used.
    static OWN_STREAM: Cell<usize> = const { Cell::new(0) };
}

/// What the driver itself is told: the device's options are the others.
#[derive(Default)]
pub struct Configuration {
    /// Where findings and counters go.
    pub report: Option<String>,
    /// Only what hardware would notice fails a launch; other findings are reported and no more.
    pub hardware_errors: bool,
}

/// Splits `report=PATH` and `errors=all|hardware` from the options of the device.
fn configuration(text: &str) -> std::result::Result<(Options, Configuration), String> {
    let (mut own, mut rest) = (Configuration::default(), Vec::new());
    for pair in text.split(',') {
        match pair.trim().split_once('=') {
            Some(("report", path)) => own.report = Some(path.to_string()),
            Some(("errors", "all")) => own.hardware_errors = false,
            Some(("errors", "hardware")) => own.hardware_errors = true,
            Some(("errors", other)) => {
                return Err(format!("HANDLOOM_EMULATOR: errors={other}; expected all or hardware"));
            }
            _ => rest.push(pair),
        }
    }
    let mut options = Options::parse(&rest.join(",")).map_err(|e| format!("HANDLOOM_EMULATOR: {e}"))?;
    if own.hardware_errors {
        options.max_findings = usize::MAX; // none of them stops a launch
    }
    Ok((options, own))
}

fn start() -> std::result::Result<Mutex<State>, String> {
    let (options, configuration) = configuration(&std::env::var("HANDLOOM_EMULATOR").unwrap_or_default())?;
    Ok(Mutex::new(State {
        device: Device::new(options),
        contexts: HashMap::from([(PRIMARY, Context::default())]),
        modules: HashMap::new(),
        functions: HashMap::new(),
        names: HashMap::new(),
        links: HashMap::new(),
        streams: HashMap::from([(LEGACY, Stream::default())]),
        events: HashMap::new(),
        captures: HashMap::new(),
        graphs: HashMap::new(),
        execs: HashMap::new(),
        graph_of_node: HashMap::new(),
        graph_allocations: HashMap::new(),
        node_pointers: HashMap::new(),
        pools: HashMap::from([(DEFAULT_POOL, Pool::default())]),
        current_pool: DEFAULT_POOL,
        pool_of: HashMap::new(),
        host_memory: HashMap::new(),
        virtual_memory: VirtualMemory::default(),
        retained: 0,
        libraries: HashSet::new(),
        configuration,
        allocations: 0,
        next: 0x1000,
    }))
}

/// Starts the driver; says on standard error what is wrong with the configuration.
pub fn init() -> Code {
    match STATE.get_or_init(start) {
        Ok(_) => SUCCESS,
        Err(message) => {
            eprintln!("emulator: {message}");
            ERROR_INVALID_VALUE
        }
    }
}

/// The state, if `cuInit` has been called.
pub fn state() -> Result<MutexGuard<'static, State>, Code> {
    match STATE.get() {
        Some(Ok(state)) => Ok(state.lock().unwrap_or_else(|e| e.into_inner())),
        _ => Err(ERROR_NOT_INITIALIZED),
    }
}

/// The calling thread's current context, 0 if it has none.
pub fn current() -> usize {
    CURRENT.with_borrow(|c| c.last().copied().unwrap_or(0))
}

/// The state, for a call that needs a current context and a device that has not failed.
pub fn working() -> Result<MutexGuard<'static, State>, Code> {
    let state = state()?;
    match state.contexts.get(&current()) {
        Some(c) if c.failed == SUCCESS => Ok(state),
        Some(c) => Err(c.failed),
        None => Err(ERROR_INVALID_CONTEXT),
    }
}

/// Turns a result into a code.
pub fn code(result: Result<(), Code>) -> Code {
    result.err().unwrap_or(SUCCESS)
}

impl State {
    pub fn new_handle(&mut self) -> usize {
        self.next += 0x10;
        self.next
    }

    /// A name for the next allocation, as findings show it.
    pub fn allocation_name(&mut self) -> String {
        self.allocations += 1;
        format!("allocation {}", self.allocations)
    }

    /// The context that is current.
    pub fn context(&mut self) -> Result<&mut Context, Code> {
        self.contexts.get_mut(&current()).ok_or(ERROR_INVALID_CONTEXT)
    }

    /// The key of a stream in the table: the default streams have several handles.
    pub fn stream(&mut self, stream: Handle) -> Result<usize, Code> {
        match stream as usize {
            0 | LEGACY => Ok(LEGACY),
            PER_THREAD => {
                let mut own = OWN_STREAM.get();
                if !self.streams.contains_key(&own) {
                    own = self.new_handle();
                    OWN_STREAM.set(own);
                    self.streams.insert(own, Stream::default());
                }
                Ok(own)
            }
            own if self.streams.contains_key(&own) => Ok(own),
            _ => Err(ERROR_INVALID_HANDLE),
        }
    }

    /// A kernel and what the driver keeps about it.
    pub fn kernel(&self, function: Handle) -> Result<(&Kernel, &Function, &Loaded), Code> {
        let f = self.functions.get(&(function as usize)).ok_or(ERROR_INVALID_HANDLE)?;
        let loaded = self.modules.get(&f.module).ok_or(ERROR_INVALID_HANDLE)?;
        Ok((loaded.module.kernel(&f.name).ok_or(ERROR_INVALID_HANDLE)?, f, loaded))
    }

    /// Frees all that the primary context holds, and forgets a failed launch. Libraries stay, with fresh variables.
    pub fn reset(&mut self) {
        let options = self.device.options().clone();
        self.contexts.insert(PRIMARY, Context::default());
        self.modules.retain(|module, _| self.libraries.contains(module));
        self.functions.retain(|_, f| self.modules.contains_key(&f.module));
        self.names.retain(|f, _| self.functions.contains_key(f));
        self.links.clear();
        self.streams.clear();
        self.streams.insert(LEGACY, Stream::default());
        self.events.clear();
        self.captures.clear();
        self.graphs.clear();
        self.execs.clear();
        self.graph_of_node.clear();
        self.graph_allocations.clear();
        self.node_pointers.clear();
        self.pools = HashMap::from([(DEFAULT_POOL, Pool::default())]);
        self.current_pool = DEFAULT_POOL;
        self.pool_of.clear();
        self.host_memory.clear();
        self.virtual_memory = VirtualMemory::default();
        self.device = Device::new(options);
        for loaded in self.modules.values_mut() {
            // It was loaded on a device like this, which had less room.
            if let Ok(anew) = self.device.load(&loaded.module) {
                *loaded = anew;
            }
        }
    }
}

/// Says a sentence on standard error, once for each `key`.
pub fn say_once(key: &str, sentence: &str) {
    static SAID: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    let mut said = SAID.lock().unwrap_or_else(|e| e.into_inner());
    if said.get_or_insert_with(HashSet::new).insert(key.to_string()) {
        eprintln!("emulator: {sentence}");
    }
}

/// Says on standard error what is wrong with a call, and gives its code.
pub fn refuse(code: Code, what: impl std::fmt::Display) -> Code {
    eprintln!("emulator: {what}");
    code
}
