//! Device memory, recycled through free lists in stream order.
//!
//! A training step asks for the same sizes again and again; asking the driver each time would cost a call that may wait for the
//! device. A dropped buffer waits in the free list of its size class instead: since everything runs on one stream, whoever gets it
//! next runs after whoever used it before. So the peak is flat over steps.
//!
//! A captured graph writes to the same addresses whenever it runs. So while one is captured, buffers come from a pool of its own, which
//! begins with the blocks that are free at that moment; they return to it when dropped, and to everybody when the graph is dropped.

use std::cell::Cell;
use std::collections::HashMap;

use crate::device::{Gpu, lock};
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::memory_plan::is_planned;
use crate::slice::{Slice, SliceMut};

/// Buffers start at multiples of this: the driver's own alignment.
const ALIGN: usize = 256;
/// Owners that an out-of-memory error names.
const OWNERS: usize = 5;

thread_local! {
    static OWNER: Cell<&'static str> = const { Cell::new("other") };
}

/// Says on whose behalf this thread allocates from now on, an op for instance; returns who it was before. Out-of-memory errors name the
/// owners of the most memory.
pub fn set_owner(owner: &'static str) -> &'static str {
    OWNER.replace(owner)
}

/// Counters of a device's memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Held by live buffers.
    pub live: usize,
    /// Largest `live` since the last [`Gpu::reset_peak`].
    pub peak: usize,
    /// Live and waiting in free lists.
    pub reserved: usize,
}

/// Blocks by size class.
type FreeLists = HashMap<usize, Vec<u64>>;

/// Free lists, those of graphs, and counters.
#[derive(Default)]
pub struct Arena {
    free: FreeLists,
    /// By graph: what only that graph's buffers may use.
    pools: HashMap<u32, FreeLists>,
    /// The pool in use, while a graph is captured.
    capturing: Option<u32>,
    pools_opened: u32,
    memory: Memory,
    live_by_owner: HashMap<&'static str, usize>,
}

/// Rounds up to one of eight sizes per power of two: at most 1/8 is wasted, and close sizes share a list.
fn size_class(bytes: usize) -> usize {
    let step = (bytes.next_power_of_two() / 16).max(ALIGN);
    bytes.max(1).next_multiple_of(step)
}

/// Owned device memory.
pub struct Buffer {
    gpu: &'static Gpu,
    address: u64,
    len: usize,
    elem: Elem,
    class: usize,
    /// The graph's pool that it came from.
    pool: Option<u32>,
    owner: &'static str,
}

impl Gpu {
    /// A buffer with unspecified contents (NaN in builds with debug assertions).
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the device has no room, even after the free lists have been given back.
    pub fn buffer(&'static self, elem: Elem, len: usize) -> Result<Buffer> {
        let class = size_class(len * elem.size());
        let (owner, recycled) = (OWNER.get(), lock(&self.arena).take(class));
        let address = match recycled {
            Some(address) => address,
            None => self.allocate_class(class, owner)?,
        };
        let pool = lock(&self.arena).count(class, owner, recycled.is_none());
        let mut buffer = Buffer { gpu: self, address, len, elem, class, pool, owner };
        if cfg!(debug_assertions) {
            self.fill_bytes(buffer.slice_mut(), 0xff)?;
        }
        Ok(buffer)
    }

    fn allocate_class(&self, class: usize, owner: &'static str) -> Result<u64> {
        if let Some(address) = self.allocate(class)? {
            return Ok(address);
        }
        // A capture began with all free blocks, and may not wait for the device as giving them back does.
        if !self.is_capturing() {
            self.trim()?;
            if let Some(address) = self.allocate(class)? {
                return Ok(address);
            }
        }
        let (free, total) = self.memory()?;
        let arena = lock(&self.arena);
        let Memory { live, reserved, .. } = arena.memory;
        let largest = arena.largest_owners();
        Err(Error::OutOfMemory { owner, asked: class, free, total, live, cached: reserved - live, largest })
    }

    /// The counters now.
    pub fn buffers(&self) -> Memory {
        lock(&self.arena).memory
    }

    /// Starts a new peak measurement from what is live now.
    pub fn reset_peak(&self) {
        let memory = &mut lock(&self.arena).memory;
        memory.peak = memory.live;
    }

    /// Gives the waiting buffers back to the driver, but for those of graphs; waits for the device.
    ///
    /// # Errors
    /// [`Error::Driver`] when the driver does.
    pub fn trim(&self) -> Result<()> {
        self.synchronize()?;
        let mut arena = lock(&self.arena);
        for (class, addresses) in std::mem::take(&mut arena.free) {
            for address in addresses {
                arena.memory.reserved -= class;
                self.release(address)?;
            }
        }
        Ok(())
    }
}

impl Arena {
    /// A free block of the pool in use.
    fn take(&mut self, class: usize) -> Option<u64> {
        let lists = match self.capturing {
            Some(pool) => self.pools.get_mut(&pool)?,
            None => &mut self.free,
        };
        lists.get_mut(&class)?.pop()
    }

    /// Takes note of a block that a buffer now holds; returns its pool.
    fn count(&mut self, class: usize, owner: &'static str, is_new: bool) -> Option<u32> {
        if is_new {
            self.memory.reserved += class;
        }
        self.memory.live += class;
        self.memory.peak = self.memory.peak.max(self.memory.live);
        *self.live_by_owner.entry(owner).or_default() += class;
        self.capturing
    }

    /// Takes a block back. What is dropped during a capture may be in what was captured: it stays with the graph.
    fn give_back(&mut self, buffer: &Buffer) {
        self.memory.live -= buffer.class;
        if let Some(live) = self.live_by_owner.get_mut(buffer.owner) {
            *live -= buffer.class;
        }
        let pool = buffer.pool.filter(|pool| self.pools.contains_key(pool)).or(self.capturing);
        if is_planned(buffer.address) && buffer.pool.is_none_or(|pool| !self.pools.contains_key(&pool)) {
            self.memory.reserved -= buffer.class;
            return;
        }
        let lists = pool.and_then(|pool| self.pools.get_mut(&pool)).unwrap_or(&mut self.free);
        lists.entry(buffer.class).or_default().push(buffer.address);
    }

    /// Begins a graph's pool, with the blocks that are free now: its launches come after whatever used them.
    pub(crate) fn open_pool(&mut self) -> u32 {
        self.pools_opened += 1;
        let pool = self.pools_opened;
        self.pools.insert(pool, std::mem::take(&mut self.free));
        self.capturing = Some(pool);
        pool
    }

    /// Begins a pool without blocks, for what is planned.
    pub(crate) fn open_empty_pool(&mut self) -> u32 {
        self.pools_opened += 1;
        self.pools.insert(self.pools_opened, FreeLists::new());
        self.capturing = Some(self.pools_opened);
        self.pools_opened
    }

    /// Forgets a pool's planned blocks; the others, which were dropped meanwhile, are everybody's.
    pub(crate) fn discard_pool(&mut self, pool: u32) {
        for (class, blocks) in self.pools.remove(&pool).into_iter().flatten() {
            let (planned, real): (Vec<u64>, Vec<u64>) =
                blocks.into_iter().partition(|block| is_planned(*block));
            self.memory.reserved -= class * planned.len();
            self.free.entry(class).or_default().extend(real);
        }
    }

    /// The peak of what is real, after something was planned.
    pub(crate) fn restore_peak(&mut self, peak: usize) {
        self.memory.peak = peak.max(self.memory.live);
    }

    /// Back to the blocks for everybody.
    pub(crate) fn close_pool(&mut self) {
        self.capturing = None;
    }

    /// Gives a graph's blocks to everybody; those that buffers still hold follow when they are dropped.
    pub(crate) fn dissolve_pool(&mut self, pool: u32) {
        for (class, blocks) in self.pools.remove(&pool).into_iter().flatten() {
            self.free.entry(class).or_default().extend(blocks);
        }
    }

    /// Who holds the most memory, most first.
    fn largest_owners(&self) -> Vec<(&'static str, usize)> {
        let mut owners: Vec<_> = self
            .live_by_owner
            .iter()
            .map(|(owner, bytes)| (*owner, *bytes))
            .filter(|(_, b)| *b > 0)
            .collect();
        owners.sort_by_key(|(owner, bytes)| (std::cmp::Reverse(*bytes), *owner));
        owners.truncate(OWNERS);
        owners
    }
}

impl Buffer {
    pub fn gpu(&self) -> &'static Gpu {
        self.gpu
    }

    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn elem(&self) -> Elem {
        self.elem
    }

    /// All elements, for reading.
    pub fn slice(&self) -> Slice<'_> {
        // SAFETY: the buffer holds `len` elements at `address` and is borrowed for the slice's life.
        unsafe { Slice::new(self.address, self.len, self.elem) }
    }

    /// All elements, for writing.
    pub fn slice_mut(&mut self) -> SliceMut<'_> {
        // SAFETY: as in `slice`, and `&mut self` excludes other slices.
        unsafe { SliceMut::new(self.address, self.len, self.elem) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        lock(&self.gpu.arena).give_back(self);
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
}
