//! One device and one stream: the only file that names the CUDA binding.
//!
//! Everything this crate does on a device is enqueued on one stream, in program order; memory that is freed goes to the next
//! asker in the same order. Nothing here waits for the device but [`Gpu::download`], [`Gpu::synchronize`] and what says so.
//!
//! The driver is looked for when a device is opened, never before, so that the program starts on machines without one.

use std::cell::Cell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use crate::arena::Arena;
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::ptx::{self, Kind};
use crate::slice::{Arg, Slice, SliceMut};

/// Which driver to open a device of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Driver {
    /// The machine's own.
    Installed,
    /// The emulated one: `libcuda.so` beside the running program.
    Emulated,
}

/// What a launch may use on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Major and minor number, 8 and 0 for sm_80.
    pub compute_capability: (u32, u32),
    pub multiprocessors: u32,
    pub threads_per_block: u32,
    /// Most dynamic shared memory of a block, after asking for it.
    pub shared_bytes_per_block: usize,
    pub grid: [u32; 3],
}

/// One device with its stream, its loaded kernels and its memory.
pub struct Gpu {
    ordinal: usize,
    name: String,
    emulated: bool,
    limits: Limits,
    context: sys::CUcontext,
    stream: sys::CUstream,
    modules: Mutex<HashMap<usize, Handle<sys::CUmodule>>>,
    functions: Mutex<HashMap<&'static str, Function>>,
    pub(crate) arena: Mutex<Arena>,
    /// Device address of the one u32 behind [`Gpu::draw_step`].
    draw_step: u64,
    tf32: AtomicBool,
    capturing: AtomicBool,
    launches: AtomicU64,
}

/// An event of the driver, as `event.rs` holds it.
#[derive(Clone, Copy)]
pub(crate) struct RawEvent(Handle<sys::CUevent>);

/// An executable graph of the driver, as `graph.rs` holds it.
#[derive(Clone, Copy)]
pub(crate) struct RawGraph(Handle<sys::CUgraphExec>);

/// A driver handle; the driver's calls are thread-safe.
#[derive(Clone, Copy)]
struct Handle<T>(T);
// SAFETY: the CUDA driver API may be called from any thread; handles are plain pointers into it.
unsafe impl<T> Send for Handle<T> {}

#[derive(Clone, Copy)]
struct Function {
    handle: Handle<sys::CUfunction>,
    params: &'static [Kind],
    /// Dynamic shared memory the function has been allowed so far.
    shared_bytes: usize,
}

// SAFETY: context and stream are handles that any thread may use after making the context current, which every call does.
unsafe impl Send for Gpu {}
// SAFETY: as above; mutable state is behind mutexes.
unsafe impl Sync for Gpu {}

thread_local! {
    /// The context this thread has made current.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Adds the call's name, and the driver's name and sentence for the code.
trait Call<T> {
    fn call(self, call: &'static str) -> Result<T>;
}

impl<T> Call<T> for std::result::Result<T, DriverError> {
    fn call(self, call: &'static str) -> Result<T> {
        self.map_err(|error| {
            let text = |found: std::result::Result<&std::ffi::CStr, DriverError>| {
                found
                    .map_or_else(|_| format!("code {}", error.0 as u32), |s| s.to_string_lossy().into_owned())
            };
            Error::Driver { call, name: text(error.error_name()), text: text(error.error_string()) }
        })
    }
}

fn unavailable(reason: impl Into<String>) -> Error {
    Error::Unavailable { reason: reason.into() }
}

/// Opens the emulated driver's library, so that the binding finds it under its soname from then on.
fn load_emulated() -> Result<()> {
    static LOADED: OnceLock<std::result::Result<libloading::Library, String>> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        // A test runs in target/<profile>/deps, an example in target/<profile>/examples.
        let folders: Vec<PathBuf> = program.ancestors().skip(1).take(2).map(PathBuf::from).collect();
        let path = folders.iter().map(|folder| folder.join("libcuda.so")).find(|path| path.exists());
        let path = path.ok_or_else(|| {
            format!(
                "no libcuda.so in {} or its parent; build it with `cargo build -p handloom-emulator-driver`",
                folders.first().map_or_else(String::new, |folder| folder.display().to_string())
            )
        })?;
        // SAFETY: the library is this project's own emulated driver; loading it runs no code of consequence.
        unsafe { libloading::Library::new(&path) }.map_err(|error| error.to_string())
    });
    loaded.as_ref().map(|_| ()).map_err(|reason| unavailable(format!("the emulated driver: {reason}")))
}

/// Number of devices of a driver.
///
/// # Errors
/// [`Error::Unavailable`] with one sentence that says what is missing.
pub fn device_count(driver: Driver) -> Result<usize> {
    if driver == Driver::Emulated {
        load_emulated()?;
    }
    // SAFETY: only looks for the library; nothing of it is called yet.
    if !unsafe { sys::is_culib_present() } {
        return Err(unavailable("no NVIDIA driver (libcuda.so) on this machine"));
    }
    result::init().call("cuInit").map_err(|error| unavailable(error.to_string()))?;
    let count = result::device::get_count().call("cuDeviceGetCount")?;
    if count == 0 {
        return Err(unavailable("the driver is there but has no device"));
    }
    Ok(count as usize)
}

/// Newest CUDA version the driver supports: 12040 for 12.4.
///
/// # Errors
/// As [`device_count`].
pub fn driver_version(driver: Driver) -> Result<i32> {
    device_count(driver)?;
    let mut version = 0;
    // SAFETY: the driver is there and `version` is a valid place for its answer.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().call("cuDriverGetVersion")?;
    Ok(version)
}

impl Gpu {
    /// Opens device `ordinal`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when there is no such device or it is older than sm_80.
    pub fn open(driver: Driver, ordinal: usize) -> Result<Gpu> {
        let count = device_count(driver)?;
        if ordinal >= count {
            return Err(unavailable(format!(
                "device {ordinal} does not exist; there are {count}, counted from 0"
            )));
        }
        let device = result::device::get(ordinal as i32).call("cuDeviceGet")?;
        let name = result::device::get_name(device).call("cuDeviceGetName")?;
        let attribute = |which| {
            // SAFETY: `device` is a device of this driver.
            unsafe { result::device::get_attribute(device, which) }
                .call("cuDeviceGetAttribute")
                .map(|value| value as u32)
        };
        use sys::CUdevice_attribute as A;
        let limits = Limits {
            compute_capability: (
                attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            multiprocessors: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            threads_per_block: attribute(A::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
            shared_bytes_per_block: attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?
                as usize,
            grid: [
                attribute(A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X)?,
                attribute(A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y)?,
                attribute(A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z)?,
            ],
        };
        let (major, minor) = limits.compute_capability;
        if major < 8 {
            return Err(unavailable(format!(
                "{name} is sm_{major}{minor}; the kernels need sm_80 (Ampere) or newer"
            )));
        }
        // SAFETY: `device` is a device of this driver; the primary context is retained for the life of the process.
        let context = unsafe { result::primary_ctx::retain(device) }.call("cuDevicePrimaryCtxRetain")?;
        // SAFETY: the context was just retained.
        unsafe { result::ctx::set_current(context) }.call("cuCtxSetCurrent")?;
        let stream =
            result::stream::create(result::stream::StreamKind::NonBlocking).call("cuStreamCreate")?;
        // SAFETY: the word is written right below, before anything reads it.
        let draw_step = unsafe { result::malloc_sync(4) }.call("cuMemAlloc")?;
        let gpu = Gpu {
            ordinal,
            emulated: name.contains("emulated"),
            name,
            limits,
            context,
            stream,
            modules: Mutex::new(HashMap::new()),
            functions: Mutex::new(HashMap::new()),
            arena: Mutex::new(Arena::default()),
            draw_step,
            tf32: AtomicBool::new(false),
            capturing: AtomicBool::new(false),
            launches: AtomicU64::new(0),
        };
        gpu.set_draw_step(0)?;
        Ok(gpu)
    }

    /// Position among the driver's devices.
    pub fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// The device's marketing name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether this is the emulated GPU.
    pub fn is_emulated(&self) -> bool {
        self.emulated
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Kernels and graphs launched so far, kernels that became part of a graph among them.
    pub fn launches(&self) -> u64 {
        self.launches.load(Ordering::Relaxed)
    }

    /// One i32 in device memory that is added to the step of every generator's stream on this device. It is 0 unless a trainer keeps
    /// its count of micro-batches there, so that a captured graph draws new masks each time it runs.
    pub fn draw_step(&self) -> Slice<'_> {
        // SAFETY: the word lives as long as the device.
        unsafe { Slice::new(self.draw_step, 1, Elem::I32) }
    }

    /// [`Gpu::draw_step`] for the kernel that advances it: whoever counts micro-batches on this device.
    pub fn draw_step_mut(&self) -> SliceMut<'_> {
        // SAFETY: the word lives as long as the device; kernels that read it are ordered by the one stream.
        unsafe { SliceMut::new(self.draw_step, 1, Elem::I32) }
    }

    /// Sets [`Gpu::draw_step`], in stream order.
    ///
    /// # Errors
    /// [`Error::Driver`] when the driver refuses.
    pub fn set_draw_step(&self, step: u32) -> Result<()> {
        self.bind()?;
        // SAFETY: the word lives as long as the device.
        unsafe { sys::cuMemsetD32Async(self.draw_step, step, 1, self.stream) }
            .result()
            .call("cuMemsetD32Async")
    }

    /// Whether products of f32 matrices may round their factors to tf32, for tensor cores.
    pub fn tf32(&self) -> bool {
        self.tf32.load(Ordering::Relaxed)
    }

    pub fn set_tf32(&self, allowed: bool) {
        self.tf32.store(allowed, Ordering::Relaxed);
    }

    /// Whether what is enqueued becomes part of a graph instead of running ([`Graph::capture`](crate::graph::Graph::capture)).
    pub fn is_capturing(&self) -> bool {
        self.capturing.load(Ordering::Relaxed)
    }

    /// A captured copy would read the host's memory again whenever the graph runs, and a wait would never end.
    fn refuse_while_capturing(&self, op: &'static str) -> Result<()> {
        if self.is_capturing() {
            let message = "waits for the device or reads host memory, inside what is captured as a graph";
            return Err(Error::argument(op, message.into()));
        }
        Ok(())
    }

    /// Makes the context current on this thread.
    fn bind(&self) -> Result<()> {
        CURRENT.with(|current| {
            if current.get() == self.context as usize {
                return Ok(());
            }
            // SAFETY: the primary context lives as long as the process.
            unsafe { result::ctx::set_current(self.context) }.call("cuCtxSetCurrent")?;
            current.set(self.context as usize);
            Ok(())
        })
    }

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
        let mut words: Vec<u64> = args.iter().map(|arg| word(*arg)).collect();
        let mut pointers: Vec<*mut std::ffi::c_void> =
            words.iter_mut().map(|w| (w as *mut u64).cast()).collect();
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

    /// Waits until everything enqueued is done.
    ///
    /// # Errors
    /// [`Error::Driver`] when a kernel failed.
    pub fn synchronize(&self) -> Result<()> {
        self.refuse_while_capturing("synchronize")?;
        self.bind()?;
        // SAFETY: the stream lives as long as self.
        unsafe { result::stream::synchronize(self.stream) }.call("cuStreamSynchronize")
    }

    /// Free and total bytes of the device.
    ///
    /// # Errors
    /// [`Error::Driver`] when the driver does.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.bind()?;
        result::mem_get_info().call("cuMemGetInfo")
    }

    /// New device memory, or `None` when there is not enough.
    pub(crate) fn allocate(&self, bytes: usize) -> Result<Option<u64>> {
        self.bind()?;
        // SAFETY: the memory is handed to the arena, which treats it as uninitialised.
        match unsafe { result::malloc_sync(bytes) } {
            Ok(address) => Ok(Some(address)),
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Ok(None),
            Err(error) => Err(error).call("cuMemAlloc"),
        }
    }

    /// Gives memory back to the driver; waits for the device.
    pub(crate) fn release(&self, address: u64) -> Result<()> {
        self.bind()?;
        // SAFETY: the arena passes each address it got from `allocate` once, and no buffer uses it any more.
        unsafe { result::free_sync(address) }.call("cuMemFree")
    }

    /// Sets every byte.
    ///
    /// # Errors
    /// [`Error::Driver`] when the driver refuses.
    pub fn fill_bytes(&self, out: SliceMut, byte: u8) -> Result<()> {
        let bytes = out.len() * out.elem().size();
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the slice is live device memory of that many bytes.
        unsafe { result::memset_d8_async(out.address(), byte, bytes, self.stream) }.call("cuMemsetD8Async")
    }

    /// Sets every element to zero.
    ///
    /// # Errors
    /// As [`Gpu::fill_bytes`].
    pub fn fill_zero(&self, out: SliceMut) -> Result<()> {
        self.fill_bytes(out, 0)
    }

    /// Copies within the device.
    ///
    /// # Errors
    /// [`Error::Argument`] when dtypes or lengths differ.
    pub fn copy(&self, out: SliceMut, inp: Slice) -> Result<()> {
        out.expect("copy", "out", inp.elem(), inp.len())?;
        let bytes = inp.len() * inp.elem().size();
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: both slices are live device memory of at least that many bytes.
        unsafe { result::memcpy_dtod_async(out.address(), inp.address(), bytes, self.stream) }
            .call("cuMemcpyDtoDAsync")
    }

    /// Copies host bytes to the device. The driver stages pageable memory, so `data` may be reused on return.
    ///
    /// # Errors
    /// [`Error::Argument`] when the sizes differ.
    pub fn upload(&self, out: SliceMut, data: &[u8]) -> Result<()> {
        check_bytes("upload", out.len() * out.elem().size(), data.len())?;
        if data.is_empty() {
            return Ok(());
        }
        self.refuse_while_capturing("upload")?;
        self.bind()?;
        // SAFETY: the slice is live device memory of exactly that many bytes; the source is read before the call returns.
        unsafe { result::memcpy_htod_async(out.address(), data, self.stream) }.call("cuMemcpyHtoDAsync")
    }

    /// Copies to the host and waits for it.
    ///
    /// # Errors
    /// [`Error::Argument`] when the sizes differ, [`Error::Driver`] when a kernel before it failed.
    pub fn download(&self, data: &mut [u8], inp: Slice) -> Result<()> {
        check_bytes("download", inp.len() * inp.elem().size(), data.len())?;
        self.refuse_while_capturing("download")?;
        if !data.is_empty() {
            self.bind()?;
            // SAFETY: the slice is live device memory of exactly that many bytes, and the call below waits for the copy.
            unsafe { result::memcpy_dtoh_async(data, inp.address(), self.stream) }
                .call("cuMemcpyDtoHAsync")?;
        }
        self.synchronize()
    }
}

/// Events, pinned memory and graphs: the driver's calls, for the files that make something safe of them.
impl Gpu {
    pub(crate) fn event_create(&self) -> Result<RawEvent> {
        self.bind()?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).call("cuEventCreate")?;
        Ok(RawEvent(Handle(event)))
    }

    pub(crate) fn event_record(&self, event: RawEvent) -> Result<()> {
        self.bind()?;
        // SAFETY: `event.rs` passes events it created and has not destroyed.
        unsafe { result::event::record(event.0.0, self.stream) }.call("cuEventRecord")
    }

    pub(crate) fn event_wait(&self, event: RawEvent) -> Result<()> {
        self.refuse_while_capturing("event")?;
        self.bind()?;
        // SAFETY: as in `event_record`.
        unsafe { result::event::synchronize(event.0.0) }.call("cuEventSynchronize")
    }

    pub(crate) fn event_elapsed_ms(&self, start: RawEvent, end: RawEvent) -> Result<f32> {
        self.bind()?;
        // SAFETY: as in `event_record`.
        unsafe { result::event::elapsed(start.0.0, end.0.0) }.call("cuEventElapsedTime")
    }

    pub(crate) fn event_destroy(&self, event: RawEvent) -> Result<()> {
        self.bind()?;
        // SAFETY: `event.rs` destroys each event once.
        unsafe { result::event::destroy(event.0.0) }.call("cuEventDestroy")
    }

    /// Host memory that the device copies from and to without the driver's staging.
    pub(crate) fn pinned_allocate(&self, bytes: usize) -> Result<*mut u8> {
        self.bind()?;
        // SAFETY: `pinned.rs` fills the memory before it lets anyone read it.
        Ok(unsafe { result::malloc_host(bytes, 0) }.call("cuMemHostAlloc")?.cast())
    }

    pub(crate) fn pinned_free(&self, pointer: *mut u8) -> Result<()> {
        self.bind()?;
        // SAFETY: `pinned.rs` frees each block once, when no copy uses it any more.
        unsafe { result::free_host(pointer.cast()) }.call("cuMemFreeHost")
    }

    /// # Safety
    /// `data` must stay alive and unwritten until an event recorded after this call has been waited for.
    pub(crate) unsafe fn pinned_upload(&self, out: SliceMut, data: &[u8]) -> Result<()> {
        check_bytes("upload", out.len() * out.elem().size(), data.len())?;
        self.refuse_while_capturing("upload")?;
        self.bind()?;
        // SAFETY: the slice is live device memory of exactly that many bytes; the caller answers for `data`.
        unsafe { result::memcpy_htod_async(out.address(), data, self.stream) }.call("cuMemcpyHtoDAsync")
    }

    /// # Safety
    /// `data` must stay alive and untouched until an event recorded after this call has been waited for.
    pub(crate) unsafe fn pinned_download(&self, data: &mut [u8], inp: Slice) -> Result<()> {
        check_bytes("download", inp.len() * inp.elem().size(), data.len())?;
        self.refuse_while_capturing("download")?;
        self.bind()?;
        // SAFETY: the slice is live device memory of exactly that many bytes; the caller answers for `data`.
        unsafe { result::memcpy_dtoh_async(data, inp.address(), self.stream) }.call("cuMemcpyDtoHAsync")
    }

    /// From here on, what is enqueued is recorded and does not run. Relaxed: memory may be allocated and modules loaded meanwhile.
    pub(crate) fn capture_begin(&self) -> Result<()> {
        self.bind()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream lives as long as self.
        unsafe { result::stream::begin_capture(self.stream, mode) }.call("cuStreamBeginCapture")?;
        self.capturing.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Ends the recording and makes it executable.
    pub(crate) fn capture_end(&self) -> Result<RawGraph> {
        self.capturing.store(false, Ordering::Relaxed);
        self.bind()?;
        // SAFETY: the stream is being captured.
        let graph = unsafe { result::stream::end_capture(self.stream) }.call("cuStreamEndCapture")?;
        // SAFETY: the graph was just made; without flags nothing is freed behind the arena's back.
        let made = unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) }
            .call("cuGraphInstantiate");
        // SAFETY: the executable graph does not need the recording.
        unsafe { result::graph::destroy(graph) }.call("cuGraphDestroy")?;
        Ok(RawGraph(Handle(made?)))
    }

    pub(crate) fn graph_launch(&self, graph: RawGraph) -> Result<()> {
        self.refuse_while_capturing("graph")?;
        self.bind()?;
        // SAFETY: `graph.rs` passes graphs it has not destroyed, and keeps the memory that they use.
        unsafe { result::graph::launch(graph.0.0, self.stream) }.call("cuGraphLaunch")?;
        self.launches.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn graph_destroy(&self, graph: RawGraph) -> Result<()> {
        self.bind()?;
        // SAFETY: `graph.rs` destroys each graph once.
        unsafe { result::graph::exec_destroy(graph.0.0) }.call("cuGraphExecDestroy")
    }
}

fn check_bytes(op: &'static str, device: usize, host: usize) -> Result<()> {
    if device != host {
        return Err(Error::argument(op, format!("{host} B on the host, {device} B on the device")));
    }
    Ok(())
}

fn word(arg: Arg) -> u64 {
    match arg {
        Arg::Pointer(value) | Arg::U64(value) => value,
        Arg::U32(value) => value as u64,
        Arg::I32(value) => value as u32 as u64,
        Arg::F32(value) => value.to_bits() as u64,
    }
}

/// The launcher's arguments against the PTX's parameters.
fn check_params(name: &'static str, params: &[Kind], args: &[Arg]) -> Result<()> {
    let kind = |arg: &Arg| match arg {
        Arg::Pointer(_) | Arg::U64(_) => Kind::Word64,
        Arg::U32(_) | Arg::I32(_) => Kind::Word32,
        Arg::F32(_) => Kind::F32,
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
