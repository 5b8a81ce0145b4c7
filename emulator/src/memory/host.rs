//! Memory that the host and kernels share: pinned, registered and managed memory of a driver. Its address is the host's
//! own, so one pointer serves both.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};

use super::{Allocation, Bytes, GlobalMemory};
use crate::error::{Error, Result};

/// Words are stored at multiples of this, so a range of the host is widened to it.
const GRAIN: u64 = 8;

impl GlobalMemory {
    /// Reserves `size` zeroed bytes that the host may access at the address given back. They count as written, for the
    /// host's writes are not seen, and they take none of the device's memory.
    ///
    /// # Errors
    /// `Error::Memory` when the host does not have as much.
    pub fn allocate_host(&mut self, size: u64, name: &str) -> Result<u64> {
        let data = Bytes::aligned(size)
            .ok_or_else(|| Error::Memory(format!("the host does not have {size} B for {name}")))?;
        let base = data.start as u64;
        self.insert(host_allocation(base, size, name, data));
        Ok(base)
    }

    /// Makes `size` bytes of the host accessible to kernels at their own address.
    ///
    /// # Errors
    /// `Error::Memory` when the range is empty or overlaps an allocation.
    ///
    /// # Safety
    /// The range stays valid for reads and writes until [`GlobalMemory::free`] is called for `address`.
    pub unsafe fn map_host(&mut self, address: u64, size: u64, name: &str) -> Result<u64> {
        let base = address / GRAIN * GRAIN;
        let size = size + (address - base);
        let overlaps = self.live.iter().any(|a| a.base < base + size && base < a.base + a.size);
        if address == 0 || size == 0 || overlaps {
            return Err(Error::Memory(format!(
                "{size} B of the host at {address:#x}: empty, or mapped already"
            )));
        }
        let data = Bytes { start: base as *mut u8, size, _owned: None };
        self.insert(host_allocation(base, size, name, data));
        Ok(base)
    }

    pub(super) fn insert(&mut self, allocation: Allocation) {
        let i = self.live.partition_point(|a| a.base < allocation.base);
        self.live.insert(i, allocation);
    }

    /// Takes an address range for `size` bytes without memory behind it, for [`GlobalMemory::allocate_at`].
    ///
    /// # Errors
    /// `Error::Memory` when the device could never hold as much.
    pub fn reserve(&mut self, size: u64) -> Result<u64> {
        if size > self.capacity {
            return Err(Error::Memory(format!("{size} B exceed the device's {} B", self.capacity)));
        }
        Ok(self.take_range(size))
    }

    /// As [`GlobalMemory::allocate`], at an address from [`GlobalMemory::reserve`].
    ///
    /// # Errors
    /// `Error::Memory` when the memory does not suffice, or the range is in use.
    pub fn allocate_at(&mut self, base: u64, size: u64, name: &str) -> Result<()> {
        if self.find(base).is_some() {
            return Err(Error::Memory(format!("{base:#x} is {}", self.describe(base))));
        }
        self.freed.retain(|(b, _, _)| *b != base);
        let used = self.take_bytes(size, name)?;
        self.used += used;
        self.insert(Allocation::new(base, size, name, false));
        Ok(())
    }
}

fn host_allocation(base: u64, size: u64, name: &str, data: Bytes) -> Allocation {
    Allocation {
        base,
        size,
        name: name.to_string(),
        read_only: false,
        host: true,
        mapped: false,
        data,
        written: Bytes::new(0, 0),
        all_written: AtomicBool::new(true),
        shadow: OnceLock::new(),
    }
}

impl Bytes {
    /// As [`Bytes::new`], zeroed and aligned to a page, as memory of the host is; None when there is not enough.
    fn aligned(size: u64) -> Option<Bytes> {
        const PAGE: u64 = 4096;
        let words = size.checked_add(PAGE)?.div_ceil(8) as usize;
        let mut owned: Vec<AtomicU64> = Vec::new();
        owned.try_reserve_exact(words).ok()?;
        owned.resize_with(words, AtomicU64::default);
        let owned = Arc::new(owned);
        let start = owned.as_ptr() as *mut u8;
        let skip = start.align_offset(PAGE as usize);
        // SAFETY: the buffer is a page longer than `size`, and the next multiple of a page is less than one away.
        Some(Bytes { start: unsafe { start.add(skip) }, size, _owned: Some(owned) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_sees_what_the_device_writes() {
        let mut m = GlobalMemory::new(1 << 20);
        let device = m.allocate(8, "device", false).unwrap();
        let pinned = m.allocate_host(16, "pinned").unwrap();
        m.write(pinned + 4, &[1, 2, 3, 4]).unwrap();
        // SAFETY: 16 bytes of the host, just allocated.
        let seen = unsafe { std::slice::from_raw_parts(pinned as *const u8, 16) };
        assert_eq!(seen[4..8], [1, 2, 3, 4]);
        assert!(m.find(device).is_some() && m.find(pinned + 15).is_some() && m.find(pinned + 16).is_none());
        assert_eq!(m.used(), 512, "only the device's own memory counts");
        m.free(pinned).unwrap();
        assert_eq!(m.used(), 512);
    }

    #[test]
    fn a_mapped_range_is_the_hosts_own() {
        let mut m = GlobalMemory::new(1 << 20);
        let mut own = vec![0u64; 4];
        let address = own.as_mut_ptr() as u64;
        // SAFETY: the vector lives to the end of the test, and is not touched while it is mapped.
        unsafe {
            assert_eq!(m.map_host(address, 32, "own").unwrap(), address);
            assert!(m.map_host(address + 8, 8, "twice").is_err());
        }
        m.write(address + 8, &7u64.to_le_bytes()).unwrap();
        m.free(address).unwrap();
        assert_eq!(own, [0, 7, 0, 0]);
    }

    #[test]
    fn a_reserved_range_comes_and_goes_at_one_address() {
        let mut m = GlobalMemory::new(1 << 20);
        let at = m.reserve(100).unwrap();
        assert!(m.find(at).is_none());
        m.allocate_at(at, 100, "node").unwrap();
        assert!(m.allocate_at(at, 100, "node").is_err());
        m.write(at, &[1; 100]).unwrap();
        m.free(at).unwrap();
        m.allocate_at(at, 100, "node").unwrap();
        // SAFETY: offset 0 lies within the allocation.
        assert!(!unsafe { m.find(at).unwrap().is_written(0, 1) }, "fresh again");
        assert!(m.reserve(2 << 20).is_err());
    }
}
