//! Memory of the device without an address, which can be mapped at any number of them: virtual memory management of a
//! driver. Neighbouring mappings join to one range for copies, as they do on hardware.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::{ALIGN, Allocation, Bytes, GUARD, GlobalMemory};
use crate::error::{Error, Result};

/// Memory with no address of its own.
pub struct Physical {
    data: Arc<Vec<AtomicU64>>,
    written: Arc<Vec<AtomicU64>>,
    size: u64,
}

impl Physical {
    pub fn size(&self) -> u64 {
        self.size
    }
}

fn shared(words: &Arc<Vec<AtomicU64>>, offset: u64, size: u64) -> Bytes {
    let start = words.as_ptr() as *mut u8;
    // SAFETY: the caller has checked that offset and size lie within the buffer.
    Bytes { start: unsafe { start.add(offset as usize) }, size, _owned: Some(words.clone()) }
}

impl GlobalMemory {
    /// Takes `size` bytes of the device's memory, not written, to be mapped.
    ///
    /// # Errors
    /// `Error::Memory` when the device's memory does not suffice.
    pub fn create_physical(&mut self, size: u64) -> Result<Physical> {
        self.used += self.take_bytes(size, "physical memory")?;
        let words = |fill| Arc::new((0..size.div_ceil(8)).map(|_| AtomicU64::new(fill)).collect());
        Ok(Physical { data: words(u64::MAX), written: words(0), size })
    }

    /// Gives it back to the device.
    pub fn release_physical(&mut self, physical: Physical) {
        self.used -= physical.size.max(1).div_ceil(ALIGN) * ALIGN;
    }

    /// Takes a range of addresses with nothing behind them, at a multiple of `align`.
    ///
    /// # Errors
    /// `Error::Memory` when there are not as many addresses.
    pub fn reserve_addresses(&mut self, size: u64, align: u64) -> Result<u64> {
        /// Addresses of the device end before those of the host and the windows.
        const END: u64 = 0x4000_0000_0000;
        let base = self.next.checked_next_multiple_of(align.max(ALIGN));
        let end = base.and_then(|b| b.checked_add(size)).filter(|end| *end < END);
        let (Some(base), Some(end)) = (base, end) else {
            return Err(Error::Memory(format!("there are no {size} B of addresses left")));
        };
        self.next = (end + GUARD).div_ceil(ALIGN) * ALIGN;
        Ok(base)
    }

    /// Puts `size` bytes of physical memory from `offset` on at `base`, in a range from
    /// [`GlobalMemory::reserve_addresses`]. [`GlobalMemory::free`] takes them away again.
    ///
    /// # Errors
    /// `Error::Memory` when the memory has fewer bytes, or something is mapped there.
    pub fn map_physical(
        &mut self,
        base: u64,
        size: u64,
        physical: &Physical,
        offset: u64,
        read_only: bool,
    ) -> Result<()> {
        if offset.checked_add(size).is_none_or(|end| end > physical.size) || !offset.is_multiple_of(8) {
            return Err(Error::Memory(format!(
                "{size} B from {offset} on: the physical memory has {} B",
                physical.size
            )));
        }
        if self.live.iter().any(|a| a.base < base + size && base < a.base + a.size) {
            return Err(Error::Memory(format!("{base:#x} is {}", self.describe(base))));
        }
        self.freed.retain(|(b, s, _)| b + s <= base || base + size <= *b);
        self.insert(Allocation {
            base,
            size,
            name: format!("mapping {base:#x}"),
            read_only,
            host: false,
            mapped: true,
            data: shared(&physical.data, offset, size),
            written: shared(&physical.written, offset, size),
            all_written: AtomicBool::new(false),
            shadow: OnceLock::new(),
        });
        Ok(())
    }

    /// True when a range lies in one allocation, or in mappings side by side.
    pub fn holds(&self, address: u64, length: u64) -> bool {
        self.pieces(address, length).is_ok()
    }

    /// The allocations that hold a range, with the offset and length in each: one, or mappings side by side.
    ///
    /// # Errors
    /// `Error::Memory` when part of the range is in none.
    pub(super) fn pieces(&self, address: u64, length: u64) -> Result<Vec<(&Allocation, u64, u64)>> {
        let (mut pieces, mut at, mut left) = (Vec::new(), address, length);
        while left > 0 {
            let first = self.find(at).filter(|a| a.mapped && a.base + a.size - at < left);
            let here = first.map_or(left, |a| a.base + a.size - at);
            // A range that ends in nothing is an error that names all of it.
            let next = here < left && self.find(at + here).is_some_and(|a| a.mapped);
            let here = if next { here } else { left };
            let a = self.host_range(at, here)?;
            pieces.push((a, at - a.base, here));
            (at, left) = (at + here, left - here);
        }
        Ok(pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_mappings_side_by_side_are_one_range_and_keep_their_bytes() {
        let mut m = GlobalMemory::new(1 << 20);
        let at = m.reserve_addresses(8192, 4096).unwrap();
        assert_eq!(at % 4096, 0);
        let p = m.create_physical(8192).unwrap();
        assert!(m.map_physical(at, 8192, &p, 4096, false).is_err(), "too long");
        // The halves in the other order.
        m.map_physical(at, 4096, &p, 4096, false).unwrap();
        m.map_physical(at + 4096, 4096, &p, 0, false).unwrap();
        assert!(m.map_physical(at + 4096, 4096, &p, 0, false).is_err(), "mapped already");
        let bytes: Vec<u8> = (0..100).collect();
        m.write(at + 4046, &bytes).unwrap();
        let other = m.allocate(200, "other", false).unwrap();
        m.copy(other, at + 4046, 100).unwrap();
        m.copy(at + 4040, other, 100).unwrap();
        let mut out = [0; 100];
        m.read(at + 4040, &mut out).unwrap();
        assert_eq!(out[..], bytes[..]);
        assert!(m.write(at + 8190, &[0; 3]).is_err());
        m.free(at).unwrap();
        m.free(at + 4096).unwrap();
        assert!(m.read(at, &mut out).is_err());
        m.map_physical(at, 8192, &p, 0, true).unwrap();
        m.read(at, &mut out[..46]).unwrap();
        assert_eq!(out[..44], bytes[56..], "what the second mapping held");
        // SAFETY: 8 bytes at the start, and at 4088.
        unsafe {
            assert!(m.find(at).unwrap().is_written(0, 8) && !m.find(at).unwrap().is_written(4088 - 512, 8));
        }
        m.free(at).unwrap();
        assert_eq!(m.used(), 8192 + 512);
        m.release_physical(p);
        assert_eq!(m.used(), 512);
    }
}
