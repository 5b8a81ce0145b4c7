//! How much memory work will take, found by doing all of it but the work.
//!
//! While something is planned, buffers have addresses of no memory, and launches, fills and copies are checked and then left out. So the
//! peak that is counted is that of the real thing: the same code asks for the same buffers in the same order.

use std::sync::atomic::Ordering;

use crate::device::{Gpu, lock};
use crate::error::Error;

/// Addresses from here on belong to planned buffers: above what a device's virtual memory has.
const FIRST: u64 = 1 << 60;

/// Whether a buffer at this address has no memory behind it.
pub(crate) fn is_planned(address: u64) -> bool {
    address >= FIRST
}

impl Gpu {
    /// The most bytes that the buffers of `work` hold at once, beside those that are live already. Nothing runs, and nothing is
    /// allocated; what `work` returns has no contents.
    ///
    /// # Errors
    /// What `work` reports; [`Error::Argument`] when it waits for the device or copies from or to the host.
    pub fn plan_memory<T, E: From<Error>>(
        &'static self,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<usize, E> {
        let before = self.buffers();
        let pool = lock(&self.arena).open_empty_pool();
        self.reset_peak();
        self.planning.store(true, Ordering::Relaxed);
        let planned = work().map(drop);
        self.planning.store(false, Ordering::Relaxed);
        let peak = self.buffers().peak;
        let mut arena = lock(&self.arena);
        arena.close_pool();
        arena.discard_pool(pool);
        arena.restore_peak(before.peak);
        planned.map(|()| peak.saturating_sub(before.live))
    }

    /// Whether launches, fills and copies are left out ([`Gpu::plan_memory`]).
    pub fn is_planning(&self) -> bool {
        self.planning.load(Ordering::Relaxed)
    }

    /// An address for a block that has no memory.
    pub(crate) fn planned_address(&self, bytes: usize) -> u64 {
        FIRST + self.planned.fetch_add(bytes as u64, Ordering::Relaxed)
    }
}
