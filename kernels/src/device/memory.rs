//! Device memory, pinned host memory, and copies.

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::Gpu;
use super::call::Call;
use crate::error::{Error, Result};
use crate::slice::{Slice, SliceMut};

impl Gpu {
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
        if self.is_planning() {
            return Ok(Some(self.planned_address(bytes)));
        }
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
        if bytes == 0 || self.is_planning() {
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
        if bytes == 0 || self.is_planning() {
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
        unsafe { result::memcpy_htod_async(out.address(), data, self.stream) }
            .call("cuMemcpyHtoDAsync from pageable memory")
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
                .call("cuMemcpyDtoHAsync to pageable memory")?;
        }
        self.synchronize()
    }
}

/// Pinned memory, for `pinned.rs`, which makes something safe of it.
impl Gpu {
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
}

fn check_bytes(op: &'static str, device: usize, host: usize) -> Result<()> {
    if device != host {
        return Err(Error::argument(op, format!("{host} B on the host, {device} B on the device")));
    }
    Ok(())
}
