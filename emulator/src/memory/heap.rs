//! The heap of `malloc` and `free` in kernels. Every block is an allocation of its own with guard gaps, and its
//! addresses are not used again, so that an overrun or a use after `free` is found like any other wrong access.

use std::collections::BTreeMap;
use std::sync::RwLock;

use super::{Allocation, GUARD};

/// Where blocks have their addresses: before those of the device's other memory.
const START: u64 = 0x0800_0000_0000;
pub const END: u64 = super::GLOBAL_BASE;
/// Blocks start at multiples of this, as the CUDA C++ Programming Guide promises.
const ALIGN: u64 = 16;
/// The size of the heap, unless a program sets another.
const DEFAULT_LIMIT: u64 = 8 << 20;

struct Block {
    memory: Box<Allocation>,
    live: bool,
}

struct Blocks {
    by_address: BTreeMap<u64, Block>,
    next: u64,
    used: u64,
}

pub struct Heap {
    blocks: RwLock<Blocks>,
    limit: u64,
}

impl Default for Heap {
    fn default() -> Heap {
        let blocks = Blocks { by_address: BTreeMap::new(), next: START, used: 0 };
        Heap { blocks: RwLock::new(blocks), limit: DEFAULT_LIMIT }
    }
}

impl Heap {
    pub fn is_address(address: u64) -> bool {
        (START..END).contains(&address)
    }

    pub fn limit(&self) -> u64 {
        self.limit
    }

    pub fn set_limit(&mut self, bytes: u64) {
        self.limit = bytes;
    }

    /// Address of a new block of unwritten bytes, 0 when the heap has no room for it or it has no bytes.
    pub fn allocate(&self, bytes: u64) -> u64 {
        let mut blocks = self.blocks.write().unwrap_or_else(|e| e.into_inner());
        let rounded =
            bytes.checked_next_multiple_of(ALIGN).filter(|b| *b <= self.limit.saturating_sub(blocks.used));
        let Some(rounded) = rounded.filter(|b| *b > 0) else { return 0 };
        let base = blocks.next;
        if base + rounded + GUARD > END {
            return 0;
        }
        blocks.next = (base + rounded + GUARD).next_multiple_of(ALIGN);
        blocks.used += rounded;
        let memory = Box::new(Allocation::new(base, bytes, "a block of malloc", false));
        blocks.by_address.insert(base, Block { memory, live: true });
        base
    }

    /// Gives a block back; a null pointer is no block and no error.
    ///
    /// # Errors
    /// What is wrong with the address.
    pub fn free(&self, address: u64) -> Result<(), &'static str> {
        if address == 0 {
            return Ok(());
        }
        let mut blocks = self.blocks.write().unwrap_or_else(|e| e.into_inner());
        let Some(block) = blocks.by_address.get_mut(&address) else {
            return Err("which malloc did not give");
        };
        if !block.live {
            return Err("which has been freed");
        }
        block.live = false;
        blocks.used -= blocks.by_address[&address].memory.size.next_multiple_of(ALIGN);
        Ok(())
    }

    fn block<R>(&self, address: u64, f: impl FnOnce(&Block) -> R) -> Option<R> {
        let blocks = self.blocks.read().unwrap_or_else(|e| e.into_inner());
        let (_, block) = blocks.by_address.range(..=address).next_back()?;
        (address < block.memory.base + block.memory.size).then(|| f(block))
    }

    /// The live block that holds an address.
    pub fn find(&self, address: u64) -> Option<&Allocation> {
        let at: *const Allocation = self.block(address, |b| b.live.then_some(&*b.memory as *const _))??;
        // SAFETY: blocks are boxed, so they do not move, and only `sweep` drops them, which needs the heap for itself.
        Some(unsafe { &*at })
    }

    /// An address of the heap, in words.
    pub fn describe(&self, address: u64) -> String {
        if let Some(text) = self.block(address, |b| {
            let what = if b.live { "" } else { ", which has been freed" };
            format!("{} bytes into a block of malloc ({} B){what}", address - b.memory.base, b.memory.size)
        }) {
            return text;
        }
        let blocks = self.blocks.read().unwrap_or_else(|e| e.into_inner());
        match blocks.by_address.range(..=address).next_back() {
            Some((_, b)) if address - (b.memory.base + b.memory.size) < GUARD => {
                let past = address - (b.memory.base + b.memory.size);
                format!("{past} B past the end of a block of malloc ({} B)", b.memory.size)
            }
            _ => "not near any block of malloc".to_string(),
        }
    }

    /// Forgets blocks that have been freed, between launches.
    pub fn sweep(&mut self) {
        let blocks = self.blocks.get_mut().unwrap_or_else(|e| e.into_inner());
        blocks.by_address.retain(|_, b| b.live);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_go_and_are_told_apart() {
        let mut heap = Heap::default();
        heap.set_limit(128);
        let (a, b) = (heap.allocate(20), heap.allocate(64));
        assert!(a.is_multiple_of(16) && b.is_multiple_of(16) && a != 0 && b != 0);
        assert_eq!(heap.allocate(64), 0, "32 + 64 of 128 are taken");
        assert_eq!(heap.allocate(0), 0);
        assert_eq!(heap.find(a + 19).map(|x| x.base), Some(a));
        assert!(heap.find(a + 20).is_none());
        assert_eq!(heap.describe(a + 24), "4 B past the end of a block of malloc (20 B)");
        assert!(heap.free(a + 4).is_err());
        heap.free(a).unwrap();
        assert_eq!(heap.describe(a + 4), "4 bytes into a block of malloc (20 B), which has been freed");
        assert_eq!(heap.free(a), Err("which has been freed"));
        assert!(heap.find(a).is_none());
        heap.sweep();
        assert_eq!(heap.free(a), Err("which malloc did not give"));
        assert!(heap.allocate(64) > b && heap.free(0).is_ok());
    }
}
