//! Global memory: a table of allocations with guard gaps, and which of their bytes have been written.
//!
//! Blocks run in parallel on it, so every access is an atomic of its own size with relaxed order: a kernel with races
//! gets some value, as on hardware, never undefined behaviour of the host. Addresses are stable and never reused, so
//! that a pointer kept after `free` is recognised.

mod bytes;
mod heap;
mod host;
mod mapping;

pub use heap::Heap;
pub use mapping::Physical;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use crate::check::global::{LAUNCHES, MAX_BYTES, Shadow};
use crate::error::{Error, Result};

/// Where shared memory appears in generic addresses; 4 GiB wide.
pub const SHARED_WINDOW: u64 = 0x7e00_0000_0000;
/// Where a thread's local memory appears in generic addresses; 4 GiB wide.
pub const LOCAL_WINDOW: u64 = 0x7e80_0000_0000;
/// Where a kernel's parameters appear in generic addresses.
pub const PARAM_WINDOW: u64 = 0x7e40_0000_0000;
/// Where functions have their addresses, which hold no data.
const CODE_WINDOW: u64 = 0x7d00_0000_0000;

/// The address of a module's function, by its place in the file.
pub fn function_address(index: usize) -> u64 {
    CODE_WINDOW + 16 * (index as u64 + 1)
}
/// A shared-memory address in a cluster holds the block's rank plus one from this bit on; the block's own addresses
/// hold 0 there.
pub const RANK_SHIFT: u32 = 24;
/// Bytes of shared memory that a kernel which names them gets for system software (PTX ISA 10.29).
pub const RESERVED_SHARED: u32 = 1 << 10;
/// The first global address: where no system puts memory of the host, so that an address tells whose it is.
const GLOBAL_BASE: u64 = 0x1000_0000_0000;
/// Unmapped bytes between allocations, at least.
const GUARD: u64 = 4096;
/// Alignment of allocations, as the driver's.
const ALIGN: u64 = 512;
/// Allocations of this size or more have pages of their own.
const LARGE: u64 = 1 << 20;
const PAGE: u64 = 2 << 20;
/// Freed allocations that reports still know.
const REMEMBERED: usize = 10_000;

/// Bytes that the host and blocks share. Starts at a multiple of 8, so any naturally aligned access is possible.
struct Bytes {
    start: *mut u8,
    size: u64,
    /// The buffer behind `start`; None for memory of the host that is only mapped.
    _owned: Option<Arc<Vec<AtomicU64>>>,
}

// SAFETY: the bytes are only accessed through atomics.
unsafe impl Send for Bytes {}
// SAFETY: as above.
unsafe impl Sync for Bytes {}

impl Bytes {
    fn new(size: u64, fill: u64) -> Bytes {
        let owned: Vec<AtomicU64> = (0..size.div_ceil(8)).map(|_| AtomicU64::new(fill)).collect();
        let owned = Arc::new(owned);
        Bytes { start: owned.as_ptr() as *mut u8, size, _owned: Some(owned) }
    }

    fn at(&self, offset: u64) -> *mut u8 {
        debug_assert!(
            offset <= self.size.next_multiple_of(8),
            "bug in handloom-emulator: beyond an allocation"
        );
        // SAFETY: callers pass offsets within the buffer; the pointer is only used for atomics within it.
        unsafe { self.start.add(offset as usize) }
    }

    /// # Safety
    /// `offset..offset + bytes` lies within the buffer, `bytes` is 1, 2, 4 or 8, and `offset` is a multiple of it.
    #[inline(always)]
    unsafe fn load(&self, offset: u64, bytes: u32) -> u64 {
        let p = self.at(offset);
        // SAFETY: the caller promises an aligned range within the buffer, which is only accessed through atomics.
        unsafe {
            match bytes {
                1 => AtomicU8::from_ptr(p).load(Relaxed) as u64,
                2 => AtomicU16::from_ptr(p as *mut u16).load(Relaxed) as u64,
                4 => AtomicU32::from_ptr(p as *mut u32).load(Relaxed) as u64,
                _ => AtomicU64::from_ptr(p as *mut u64).load(Relaxed),
            }
        }
    }

    /// # Safety
    /// As [`Bytes::load`].
    #[inline(always)]
    unsafe fn store(&self, offset: u64, bytes: u32, value: u64) {
        let p = self.at(offset);
        // SAFETY: the caller promises an aligned range within the buffer, which is only accessed through atomics.
        unsafe {
            match bytes {
                1 => AtomicU8::from_ptr(p).store(value as u8, Relaxed),
                2 => AtomicU16::from_ptr(p as *mut u16).store(value as u16, Relaxed),
                4 => AtomicU32::from_ptr(p as *mut u32).store(value as u32, Relaxed),
                _ => AtomicU64::from_ptr(p as *mut u64).store(value, Relaxed),
            }
        }
    }
}

/// A range of global memory.
pub struct Allocation {
    pub base: u64,
    pub size: u64,
    /// What reports call it.
    pub name: String,
    /// Constant memory: kernels may not write it.
    pub read_only: bool,
    /// Memory of the host, at the host's own address.
    pub host: bool,
    /// A mapping of memory that is counted elsewhere and may outlive it.
    mapped: bool,
    data: Bytes,
    /// One byte per byte: 1 where written. Empty when all of it is.
    written: Bytes,
    all_written: AtomicBool,
    /// Who accessed what, for the race check; made when a launch first looks.
    shadow: OnceLock<Shadow>,
}

impl Allocation {
    fn new(base: u64, size: u64, name: &str, read_only: bool) -> Allocation {
        Allocation {
            base,
            size,
            name: name.to_string(),
            read_only,
            host: false,
            mapped: false,
            // Fresh memory holds NaNs in every format, so that a value read too early shows.
            data: Bytes::new(size, u64::MAX),
            written: Bytes::new(size, 0),
            all_written: AtomicBool::new(size == 0),
            shadow: OnceLock::new(),
        }
    }

    /// Loads an element. Callers have checked range and alignment.
    ///
    /// # Safety
    /// `offset..offset + bytes` lies within the allocation, `bytes` is 1, 2, 4 or 8, `offset` is a multiple of it.
    #[inline(always)]
    pub unsafe fn load(&self, offset: u64, bytes: u32) -> u64 {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.data.load(offset, bytes) }
    }

    /// Stores an element and marks it written.
    ///
    /// # Safety
    /// As [`Allocation::load`].
    #[inline(always)]
    pub unsafe fn store(&self, offset: u64, bytes: u32, value: u64) {
        // SAFETY: the caller's promise, passed on; the record of writes has the same size.
        unsafe {
            self.data.store(offset, bytes, value);
            if !self.all_written.load(Relaxed) {
                self.written.store(offset, bytes, 0x0101_0101_0101_0101);
            }
        }
    }

    /// True if every byte of the element has been written.
    ///
    /// # Safety
    /// As [`Allocation::load`].
    #[inline(always)]
    pub unsafe fn is_written(&self, offset: u64, bytes: u32) -> bool {
        if self.all_written.load(Relaxed) {
            return true;
        }
        let all =
            if bytes == 8 { 0x0101_0101_0101_0101 } else { 0x0101_0101_0101_0101 & ((1 << (8 * bytes)) - 1) };
        // SAFETY: the caller's promise; the record of writes has the same size.
        unsafe { self.written.load(offset, bytes) == all }
    }

    /// The tags of the race check; None for what it does not follow.
    pub fn shadow(&self) -> Option<&Shadow> {
        let followed = self.size <= MAX_BYTES && !self.read_only;
        followed.then(|| self.shadow.get_or_init(|| Shadow::new(self.size)))
    }

    #[inline(always)]
    pub fn all_written(&self) -> bool {
        self.all_written.load(Relaxed)
    }
}

/// All of a device's global memory.
pub struct GlobalMemory {
    /// Sorted by address.
    live: Vec<Allocation>,
    /// The last ones given back.
    freed: VecDeque<(u64, u64, String)>,
    next: u64,
    used: u64,
    capacity: u64,
    launches: AtomicU64,
    heap: Heap,
}

impl GlobalMemory {
    pub fn new(capacity: u64) -> GlobalMemory {
        GlobalMemory {
            live: Vec::new(),
            freed: VecDeque::new(),
            next: GLOBAL_BASE,
            used: 0,
            capacity,
            launches: AtomicU64::new(0),
            heap: Heap::default(),
        }
    }

    pub fn used(&self) -> u64 {
        self.used
    }

    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Reserves `size` bytes, not written.
    ///
    /// # Errors
    /// `Error::Memory` when the device's memory does not suffice.
    pub fn allocate(&mut self, size: u64, name: &str, read_only: bool) -> Result<u64> {
        let bytes = self.take_bytes(size, name)?;
        self.used += bytes;
        let base = self.take_range(size);
        // Addresses of the device grow, but those of the host lie above them.
        let allocation = Allocation::new(base, size, name, read_only);
        let i = self.live.partition_point(|a| a.base < base);
        self.live.insert(i, allocation);
        Ok(base)
    }

    /// Bytes of the device that an allocation takes, if it has them.
    fn take_bytes(&self, size: u64, name: &str) -> Result<u64> {
        let rounded =
            size.max(1).div_ceil(ALIGN).checked_mul(ALIGN).filter(|r| *r <= self.capacity - self.used);
        rounded.ok_or_else(|| {
            Error::Memory(format!(
                "allocating {size} B for {name} exceeds the device's {} B, of which {} B are used",
                self.capacity, self.used
            ))
        })
    }

    /// The next addresses, never given out again. Large ranges start at a page, as on hardware, which programs that
    /// align within their own buffer count on.
    fn take_range(&mut self, size: u64) -> u64 {
        let base = self.next.next_multiple_of(if size >= LARGE { PAGE } else { ALIGN });
        self.next = (base + size.max(1) + GUARD).div_ceil(ALIGN) * ALIGN;
        base
    }

    /// Gives an allocation back.
    ///
    /// # Errors
    /// `Error::Memory` when `base` is not the start of a live allocation.
    pub fn free(&mut self, base: u64) -> Result<()> {
        match self.live.binary_search_by_key(&base, |a| a.base) {
            Ok(i) => {
                let old = self.live.remove(i);
                if !old.host && !old.mapped {
                    self.used -= old.size.max(1).div_ceil(ALIGN) * ALIGN;
                }
                if self.freed.len() == REMEMBERED {
                    self.freed.pop_front();
                }
                self.freed.push_back((old.base, old.size, old.name));
                Ok(())
            }
            Err(_) => Err(Error::Memory(format!(
                "{base:#x} is not the start of an allocation: {}",
                self.describe(base)
            ))),
        }
    }

    /// A number for a launch, 1 to [`LAUNCHES`] - 1, by which tags of the race check tell it from others.
    pub fn next_launch(&self) -> u64 {
        let n = self.launches.fetch_add(1, Relaxed) % (LAUNCHES - 1);
        if n == 0 {
            self.live.iter().filter_map(|a| a.shadow.get()).for_each(Shadow::clear);
        }
        n + 1
    }

    /// The allocation that holds `address`.
    #[inline]
    pub fn find(&self, address: u64) -> Option<&Allocation> {
        if address < heap::END {
            return self.heap.find(address);
        }
        let i = self.live.partition_point(|a| a.base <= address);
        let allocation = &self.live[i.checked_sub(1)?];
        (address < allocation.base + allocation.size).then_some(allocation)
    }

    /// The memory of `malloc` in kernels.
    pub fn heap(&self) -> &Heap {
        &self.heap
    }

    pub fn heap_mut(&mut self) -> &mut Heap {
        &mut self.heap
    }

    /// What lies at or near an address, in words.
    pub fn describe(&self, address: u64) -> String {
        if Heap::is_address(address) {
            return self.heap.describe(address);
        }
        if let Some(a) = self.find(address) {
            return format!("{} bytes into {} ({} B)", address - a.base, a.name, a.size);
        }
        if let Some((base, size, name)) = self.freed.iter().find(|(b, s, _)| address >= *b && address < b + s)
        {
            return format!("{} bytes into {name} ({size} B), which has been freed", address - base);
        }
        let i = self.live.partition_point(|a| a.base <= address);
        let before = i.checked_sub(1).map(|i| &self.live[i]).map(|a| (address - (a.base + a.size), a));
        let after = self.live.get(i).map(|a| (a.base - address, a));
        match (before, after) {
            (Some((past, a)), _) if past < GUARD => {
                format!("{past} B past the end of {} ({} B)", a.name, a.size)
            }
            (_, Some((short, a))) if short <= GUARD => format!("{short} B before {} ({} B)", a.name, a.size),
            _ if address < 0x1_0000 => "a null pointer".to_string(),
            _ => "not near any allocation".to_string(),
        }
    }

    fn host_range(&self, address: u64, length: u64) -> Result<&Allocation> {
        match self.find(address) {
            Some(_) if Heap::is_address(address) => Err(Error::Memory(format!(
                "{address:#x} is memory of malloc in a kernel, which only kernels access"
            ))),
            Some(a) if length <= a.base + a.size - address => Ok(a),
            Some(a) => Err(Error::Memory(format!(
                "{length} B at {address:#x} run past the end of {} ({} B, {} left)",
                a.name,
                a.size,
                a.base + a.size - address
            ))),
            None => Err(Error::Memory(format!("{address:#x} is {}", self.describe(address)))),
        }
    }

    /// True for an address that the device has given out, in use or not.
    pub fn is_of_device(&self, address: u64) -> bool {
        (GLOBAL_BASE..self.next).contains(&address)
    }

    /// Copies from the host.
    ///
    /// # Errors
    /// `Error::Memory` when the range does not lie in one allocation, or in mappings side by side.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        for (a, start, length) in self.pieces(address, bytes.len() as u64)? {
            let (now, later) = rest.split_at(length as usize);
            a.write(start, now);
            rest = later;
        }
        Ok(())
    }

    /// Copies to the host; bytes never written are as they are.
    ///
    /// # Errors
    /// As [`GlobalMemory::write`].
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<()> {
        let mut rest = out;
        for (a, start, length) in self.pieces(address, rest.len() as u64)? {
            let (now, later) = rest.split_at_mut(length as usize);
            a.read(start, now);
            rest = later;
        }
        Ok(())
    }

    /// Copies within the device; bytes not written stay so.
    ///
    /// # Errors
    /// As [`GlobalMemory::write`], for either range.
    pub fn copy(&self, to: u64, from: u64, length: u64) -> Result<()> {
        let (sources, targets) = (self.pieces(from, length)?, self.pieces(to, length)?);
        let mut done = 0;
        let (mut i, mut j, mut at_source, mut at_target) = (0, 0, 0, 0);
        while done < length {
            let ((a, from, n), (b, to, m)) = (sources[i], targets[j]);
            let now = (n - at_source).min(m - at_target);
            b.copy_from(to + at_target, a, from + at_source, now);
            (done, at_source, at_target) = (done + now, at_source + now, at_target + now);
            if at_source == n {
                (i, at_source) = (i + 1, 0);
            }
            if at_target == m {
                (j, at_target) = (j + 1, 0);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_describes_and_keeps_what_is_freed() {
        let mut m = GlobalMemory::new(1 << 20);
        let (a, b) = (m.allocate(100, "a", false).unwrap(), m.allocate(8, "b", false).unwrap());
        assert_eq!(m.find(a + 99).map(|x| x.base), Some(a));
        assert!(m.find(a + 100).is_none());
        assert_eq!(m.describe(a + 104), "4 B past the end of a (100 B)");
        assert_eq!(m.describe(b - 4), "4 B before b (8 B)");
        assert_eq!(m.describe(0), "a null pointer");
        let mut large = GlobalMemory::new(4 << 20);
        large.allocate(8, "small", false).unwrap();
        assert!(large.allocate(LARGE, "large", false).unwrap().is_multiple_of(PAGE));
        m.free(a).unwrap();
        assert_eq!(m.describe(a + 4), "4 bytes into a (100 B), which has been freed");
        assert!(m.free(a).unwrap_err().to_string().contains("not the start of an allocation"));
        assert!(m.allocate(2 << 20, "big", false).unwrap_err().to_string().contains("exceeds"));
    }

    #[test]
    fn tracks_written_bytes_through_copies() {
        let mut m = GlobalMemory::new(1 << 20);
        let (a, b) = (m.allocate(16, "a", false).unwrap(), m.allocate(16, "b", false).unwrap());
        m.write(a + 3, &[1, 2, 3, 4, 5]).unwrap();
        m.copy(b, a, 16).unwrap();
        let x = m.find(b).unwrap();
        // SAFETY: offsets 0 and 4 lie within 16 bytes and are aligned to 4; 3 to 1.
        unsafe {
            assert!(!x.is_written(0, 4) && x.is_written(4, 4) && x.is_written(3, 1) && !x.is_written(8, 1));
        }
        let mut out = [0; 5];
        m.read(b + 3, &mut out).unwrap();
        assert_eq!(out, [1, 2, 3, 4, 5]);
        assert!(m.write(a + 12, &[0; 5]).unwrap_err().to_string().contains("run past the end of a"));
    }
}
