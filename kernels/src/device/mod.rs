//! One device and one stream: the only module that names the CUDA binding.
//!
//! Everything this crate does on a device is enqueued on one stream, in program order; memory that is freed goes to the next
//! asker in the same order. Nothing here waits for the device but [`Gpu::download`], [`Gpu::synchronize`] and what says so.
//!
//! The driver is looked for when a device is opened, never before, so that the program starts on machines without one.

mod call;
mod driver;
mod launch;
mod memory;
mod stream;
mod tensor_map;

pub use call::driver_calls;
pub use driver::{Driver, device_count, driver_version};
pub(crate) use stream::{RawEvent, RawGraph};

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use cudarc::driver::{result, sys};

use crate::arena::Arena;
use crate::elem::Elem;
use crate::error::Result;
use crate::ids::{REPORT_BYTES, Site};
use crate::slice::{Slice, SliceMut};
use call::Call;
use driver::unavailable;
use launch::Function;

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
    hopper: bool,
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
    /// Behind [`Gpu::plan_memory`]: whether something is planned, and the bytes that have been.
    pub(crate) planning: AtomicBool,
    pub(crate) planned: AtomicU64,
    /// Device address of the words behind [`Gpu::id_report`], and whose they are.
    pub(crate) id_words: u64,
    pub(crate) sites: Mutex<Vec<Site>>,
}

/// A driver handle; the driver's calls are thread-safe.
#[derive(Clone, Copy)]
struct Handle<T>(T);
// SAFETY: the CUDA driver API may be called from any thread; handles are plain pointers into it.
unsafe impl<T> Send for Handle<T> {}

// SAFETY: context and stream are handles that any thread may use after making the context current, which every call does.
unsafe impl Send for Gpu {}
// SAFETY: as above; mutable state is behind mutexes.
unsafe impl Sync for Gpu {}

thread_local! {
    /// The context this thread has made current.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// The environment variable that says for which architecture the newest kernels are: `sm_80` leaves out those of sm_90a, to compare.
pub const KERNELS: &str = "HANDLOOM_KERNELS";

fn without_hopper() -> Result<bool> {
    match std::env::var(KERNELS).as_deref() {
        Err(_) | Ok("" | "sm_90a") => Ok(false),
        Ok("sm_80") => Ok(true),
        Ok(other) => Err(unavailable(format!("{KERNELS}={other}: expected sm_80 or sm_90a"))),
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Gpu {
    /// Opens device `ordinal`.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::error::Error::Unavailable) when there is no such device or it is older than sm_80.
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
        let hopper = (major, minor) == (9, 0) && !without_hopper()?;
        // SAFETY: `device` is a device of this driver; the primary context is retained for the life of the process.
        let context = unsafe { result::primary_ctx::retain(device) }.call("cuDevicePrimaryCtxRetain")?;
        // SAFETY: the context was just retained.
        unsafe { result::ctx::set_current(context) }.call("cuCtxSetCurrent")?;
        let stream =
            result::stream::create(result::stream::StreamKind::NonBlocking).call("cuStreamCreate")?;
        // SAFETY: the word is written right below, before anything reads it.
        let draw_step = unsafe { result::malloc_sync(4) }.call("cuMemAlloc")?;
        // SAFETY: as above.
        let id_words = unsafe { result::malloc_sync(REPORT_BYTES) }.call("cuMemAlloc")?;
        let gpu = Gpu {
            ordinal,
            emulated: name.contains("emulated"),
            name,
            limits,
            hopper,
            context,
            stream,
            modules: Mutex::new(HashMap::new()),
            functions: Mutex::new(HashMap::new()),
            arena: Mutex::new(Arena::default()),
            draw_step,
            tf32: AtomicBool::new(false),
            capturing: AtomicBool::new(false),
            launches: AtomicU64::new(0),
            planning: AtomicBool::new(false),
            planned: AtomicU64::new(0),
            id_words,
            sites: Mutex::new(Vec::new()),
        };
        gpu.set_draw_step(0)?;
        gpu.clear_id_report()?;
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
    /// [`Error::Driver`](crate::error::Error::Driver) when the driver refuses.
    pub fn set_draw_step(&self, step: u32) -> Result<()> {
        self.fill_words(self.draw_step, step, 1)
    }

    /// Sets words of this device's own, in stream order.
    pub(crate) fn fill_words(&self, address: u64, value: u32, count: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: the words behind draws and id reports live as long as the device; only those are passed.
        unsafe { sys::cuMemsetD32Async(address, value, count, self.stream) }.result().call("cuMemsetD32Async")
    }

    /// Whether kernels for sm_90a run here: on compute capability 9.0, unless [`KERNELS`] says `sm_80`.
    pub fn has_hopper_kernels(&self) -> bool {
        self.hopper
    }

    /// Whether products of f32 matrices may round their factors to tf32, for tensor cores.
    pub fn tf32(&self) -> bool {
        self.tf32.load(Ordering::Relaxed)
    }

    pub fn set_tf32(&self, allowed: bool) {
        self.tf32.store(allowed, Ordering::Relaxed);
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
}
