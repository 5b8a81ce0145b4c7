//! Runs of bytes in and out of an allocation, as the host and copies move them. Callers have checked the ranges.

use std::sync::atomic::Ordering::Relaxed;

use super::Allocation;

impl Allocation {
    /// Copies from the host, within the allocation.
    pub(super) fn write(&self, start: u64, bytes: &[u8]) {
        debug_assert!(
            start + bytes.len() as u64 <= self.size,
            "bug in handloom-emulator: beyond an allocation"
        );
        if start == 0 && bytes.len() as u64 == self.size && !self.mapped {
            self.all_written.store(true, Relaxed);
        }
        let mut at = 0;
        while at < bytes.len() {
            let offset = start + at as u64;
            // SAFETY: callers keep the range within; words are stored at multiples of 8 that lie wholly inside it.
            unsafe {
                if offset.is_multiple_of(8) && bytes.len() - at >= 8 {
                    let word: [u8; 8] = bytes[at..at + 8].try_into().unwrap_or_default();
                    self.store(offset, 8, u64::from_le_bytes(word));
                    at += 8;
                } else {
                    self.store(offset, 1, bytes[at] as u64);
                    at += 1;
                }
            }
        }
    }

    /// Copies to the host, within the allocation.
    pub(super) fn read(&self, start: u64, out: &mut [u8]) {
        debug_assert!(
            start + out.len() as u64 <= self.size,
            "bug in handloom-emulator: beyond an allocation"
        );
        let mut at = 0;
        while at < out.len() {
            let offset = start + at as u64;
            // SAFETY: callers keep the range within; words are loaded at multiples of 8 that lie wholly inside it.
            unsafe {
                if offset.is_multiple_of(8) && out.len() - at >= 8 {
                    out[at..at + 8].copy_from_slice(&self.load(offset, 8).to_le_bytes());
                    at += 8;
                } else {
                    out[at] = self.load(offset, 1) as u8;
                    at += 1;
                }
            }
        }
    }

    /// Copies from an allocation, maybe itself; both ranges lie within.
    pub(super) fn copy_from(&self, to: u64, a: &Allocation, from: u64, length: u64) {
        let backwards = a.base == self.base && to > from;
        for i in 0..length {
            let i = if backwards { length - 1 - i } else { i };
            // SAFETY: callers keep both ranges within; single bytes need no alignment.
            unsafe {
                if a.is_written(from + i, 1) {
                    self.store(to + i, 1, a.load(from + i, 1));
                } else {
                    self.data.store(to + i, 1, a.load(from + i, 1));
                    if !self.all_written() {
                        self.written.store(to + i, 1, 0);
                    }
                }
            }
        }
    }
}
