//! Pinned host memory: copies from and to it run while the host goes on.

use crate::device::Gpu;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::slice::{Slice, SliceMut};

/// A block of pinned host memory. Reading and writing it waits for the copies that use it, so that a copy under way is never seen.
pub struct Pinned {
    gpu: &'static Gpu,
    pointer: *mut u8,
    bytes: usize,
    /// Recorded after the last copy.
    copied: Event,
}

// SAFETY: the block belongs to this value alone, and the driver may be called from any thread.
unsafe impl Send for Pinned {}

impl Gpu {
    /// Pinned host memory, all zero.
    ///
    /// # Errors
    /// [`Error::Driver`] when the host has no memory to pin.
    pub fn pinned(&'static self, bytes: usize) -> Result<Pinned> {
        let copied = self.event()?;
        let pointer = self.pinned_allocate(bytes.max(1))?;
        // SAFETY: the block was just allocated with this size.
        unsafe { pointer.write_bytes(0, bytes) };
        Ok(Pinned { gpu: self, pointer, bytes, copied })
    }
}

impl Pinned {
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// The bytes, once the last copy is done.
    ///
    /// # Errors
    /// [`Error::Driver`] when a kernel before the copy failed.
    pub fn read(&self) -> Result<&[u8]> {
        self.copied.wait()?;
        // SAFETY: the block holds `bytes` initialised bytes, and no copy is under way: starting one takes `&mut self`.
        Ok(unsafe { std::slice::from_raw_parts(self.pointer, self.bytes) })
    }

    /// The bytes for writing, once the last copy is done.
    ///
    /// # Errors
    /// As [`Pinned::read`].
    pub fn write(&mut self) -> Result<&mut [u8]> {
        self.copied.wait()?;
        // SAFETY: as in `read`, and `&mut self` excludes other references.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.pointer, self.bytes) })
    }

    fn range(&self, op: &'static str, at: usize, bytes: usize) -> Result<*mut u8> {
        if at.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            let message = format!("bytes {at} to {} of {} pinned ones", at.saturating_add(bytes), self.bytes);
            return Err(Error::argument(op, message));
        }
        // SAFETY: `at` is within the block, as just checked.
        Ok(unsafe { self.pointer.add(at) })
    }

    /// Enqueues a copy of the bytes from `at` on to the device, as many as `out` takes.
    ///
    /// # Errors
    /// [`Error::Argument`] when they leave the block.
    pub fn upload(&mut self, out: SliceMut, at: usize) -> Result<()> {
        let bytes = out.len() * out.elem().size();
        let pointer = self.range("upload", at, bytes)?;
        // SAFETY: the range is inside the block; `read`, `write` and drop wait for the event recorded below.
        unsafe { self.gpu.pinned_upload(out, std::slice::from_raw_parts(pointer, bytes))? };
        self.copied.record()
    }

    /// Enqueues a copy of `inp` to the bytes from `at` on.
    ///
    /// # Errors
    /// As [`Pinned::upload`].
    pub fn download(&mut self, inp: Slice, at: usize) -> Result<()> {
        let bytes = inp.len() * inp.elem().size();
        let pointer = self.range("download", at, bytes)?;
        // SAFETY: as in `upload`.
        unsafe { self.gpu.pinned_download(std::slice::from_raw_parts_mut(pointer, bytes), inp)? };
        self.copied.record()
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Errors here could only say that the device is lost; then nothing copies any more.
        let _ = self.copied.wait();
        let _ = self.gpu.pinned_free(self.pointer);
    }
}
