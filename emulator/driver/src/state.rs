//! The driver's state: one device, and tables of handles. Handles are numbers, so a stale one is recognised.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Instant;

use handloom_emulator::{Device, Loaded, Options};

use crate::errors::*;

/// A handle as the API passes it.
pub type Handle = *mut std::ffi::c_void;

/// The handle of the device's primary context; contexts made by cuCtxCreate have others.
pub const PRIMARY: usize = 0x10;

pub struct Function {
    pub module: usize,
    pub name: String,
    /// CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, once set.
    pub max_dynamic_shared: Option<u32>,
}

pub struct State {
    pub device: Device,
    pub modules: HashMap<usize, Loaded>,
    pub functions: HashMap<usize, Function>,
    pub streams: HashSet<usize>,
    /// When each event was recorded.
    pub events: HashMap<usize, Option<Instant>>,
    pub contexts: HashSet<usize>,
    pub host_allocations: HashMap<usize, std::alloc::Layout>,
    pub limits: HashMap<u32, usize>,
    /// Set by a failed launch; every call that touches the device returns it until the context is reset.
    pub failed: Code,
    pub report: Option<String>,
    allocations: u64,
    next: usize,
}

static STATE: OnceLock<std::result::Result<Mutex<State>, String>> = OnceLock::new();

thread_local! {
    /// Stack of current contexts of this thread.
    pub static CURRENT: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

fn start() -> std::result::Result<Mutex<State>, String> {
    let text = std::env::var("HANDLOOM_EMULATOR").unwrap_or_default();
    let (mut report, mut rest) = (None, Vec::new());
    for pair in text.split(',') {
        match pair.trim().strip_prefix("report=") {
            Some(path) => report = Some(path.to_string()),
            None => rest.push(pair),
        }
    }
    let options = Options::parse(&rest.join(",")).map_err(|e| format!("HANDLOOM_EMULATOR: {e}"))?;
    Ok(Mutex::new(State {
        device: Device::new(options),
        modules: HashMap::new(),
        functions: HashMap::new(),
        streams: HashSet::new(),
        events: HashMap::new(),
        contexts: HashSet::from([PRIMARY]),
        host_allocations: HashMap::new(),
        limits: HashMap::new(),
        failed: SUCCESS,
        report,
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

/// The state, for a call that needs a current context and a device that has not failed.
pub fn working() -> Result<MutexGuard<'static, State>, Code> {
    let state = state()?;
    let current = CURRENT.with_borrow(|c| c.last().copied());
    match current {
        Some(c) if state.contexts.contains(&c) => {}
        _ => return Err(ERROR_INVALID_CONTEXT),
    }
    if state.failed == SUCCESS { Ok(state) } else { Err(state.failed) }
}

/// Turns a result into a code.
pub fn code(result: Result<(), Code>) -> Code {
    result.err().unwrap_or(SUCCESS)
}

/// Writes through an output pointer.
///
/// # Safety
/// `out` is null or valid for a write.
pub unsafe fn put<T>(out: *mut T, value: T) -> Result<(), Code> {
    if out.is_null() {
        return Err(ERROR_INVALID_VALUE);
    }
    // SAFETY: not null, hence valid by the caller's promise. Callers of C may not align: write without assuming it.
    unsafe { out.write_unaligned(value) };
    Ok(())
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

    pub fn check_stream(&self, stream: Handle) -> Result<(), Code> {
        // 0, 1 and 2 are the default streams.
        let known = (stream as usize) < 3 || self.streams.contains(&(stream as usize));
        if known { Ok(()) } else { Err(ERROR_INVALID_HANDLE) }
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
