//! CPU memory of tensors: 64-byte aligned buffers, recycled through free lists.
//!
//! A training step asks for the same sizes again and again. Returning them to the system would cost a page fault
//! per 4 KiB at every step, so a dropped buffer waits in a free list of its size class instead. [`memory`] reports
//! what is in use, the peak, and what is held.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::Mutex;

const ALIGN: usize = 64;

/// Counters of the CPU memory pool, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Held by live tensors.
    pub live: usize,
    /// Largest `live` since the last [`reset_peak`].
    pub peak: usize,
    /// Live and waiting in free lists.
    pub reserved: usize,
}

#[derive(Default)]
struct Pool {
    free: HashMap<usize, Vec<Block>>,
    memory: Memory,
}

struct Block(NonNull<u8>);
// SAFETY: a block in a free list is owned by the list alone; whoever pops it owns it alone.
unsafe impl Send for Block {}

static POOL: Mutex<Option<Pool>> = Mutex::new(None);

fn with_pool<R>(f: impl FnOnce(&mut Pool) -> R) -> R {
    let mut guard = POOL.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    f(guard.get_or_insert_with(Pool::default))
}

/// The pool's counters now.
pub fn memory() -> Memory {
    with_pool(|pool| pool.memory)
}

/// Starts a new peak measurement from what is live now.
pub fn reset_peak() {
    with_pool(|pool| pool.memory.peak = pool.memory.live);
}

/// Gives the waiting buffers back to the system.
pub fn trim() {
    with_pool(|pool| {
        for (class, blocks) in pool.free.drain() {
            pool.memory.reserved -= class * blocks.len();
            for block in blocks {
                // SAFETY: every block of this list was allocated with this layout and has no other owner.
                unsafe { dealloc(block.0.as_ptr(), layout(class)) };
            }
        }
    });
}

fn layout(class: usize) -> Layout {
    Layout::from_size_align(class, ALIGN).expect("bug in handloom-engine: buffer size overflows isize")
}

/// Rounds up to one of eight sizes per power of two: at most 1/8 is wasted, and close sizes share a list.
fn size_class(bytes: usize) -> usize {
    let step = (bytes.next_power_of_two() / 16).max(ALIGN);
    bytes.max(1).next_multiple_of(step)
}

/// An owned run of bytes, always initialised (to what its last user left, or zero).
pub struct Storage {
    data: NonNull<u8>,
    bytes: usize,
    class: usize,
}

// SAFETY: Storage owns its bytes; shared references only read, and writing needs `&mut`.
unsafe impl Send for Storage {}
// SAFETY: as above.
unsafe impl Sync for Storage {}

impl Storage {
    /// A buffer of `bytes` bytes with unspecified contents (NaN in builds with debug assertions, so that reading
    /// what was never written shows up as NaN in every test).
    pub fn new(bytes: usize) -> Self {
        let class = size_class(bytes);
        let recycled = with_pool(|pool| {
            let block = pool.free.get_mut(&class).and_then(Vec::pop);
            pool.memory.live += class;
            pool.memory.peak = pool.memory.peak.max(pool.memory.live);
            if block.is_none() {
                pool.memory.reserved += class;
            }
            block
        });
        let data = recycled.map(|block| block.0).unwrap_or_else(|| {
            // SAFETY: the layout has a size of at least ALIGN bytes.
            let pointer = unsafe { alloc_zeroed(layout(class)) };
            NonNull::new(pointer).unwrap_or_else(|| handle_alloc_error(layout(class)))
        });
        let mut storage = Storage { data, bytes, class };
        if cfg!(debug_assertions) {
            storage.as_bytes_mut().fill(0xff);
        }
        storage
    }

    /// All bytes.
    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: `data` points to `class >= bytes` initialised bytes owned by self.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.bytes) }
    }

    /// All bytes, writable.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_bytes`, and `&mut self` excludes other references.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.bytes) }
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        with_pool(|pool| {
            pool.memory.live -= self.class;
            pool.free.entry(self.class).or_default().push(Block(self.data));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_classes_waste_at_most_an_eighth() {
        for bytes in (1..100_000).chain([1 << 20, (1 << 20) + 1, 3 << 29]) {
            let class = size_class(bytes);
            assert!(class >= bytes && class.is_multiple_of(ALIGN));
            assert!(class - bytes <= (bytes / 8).max(ALIGN), "{bytes} -> {class}");
        }
    }

    #[test]
    fn fresh_storage_reads_as_nan_in_debug_builds() {
        let storage = Storage::new(40);
        let floats: &[f32] = bytemuck::cast_slice(storage.as_bytes());
        assert!(floats.iter().all(|x| x.is_nan()) || !cfg!(debug_assertions));
        assert_eq!(storage.as_bytes().as_ptr() as usize % ALIGN, 0);
    }
}
