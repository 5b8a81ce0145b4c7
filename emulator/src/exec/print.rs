//! Device-side printf (`vprintf`), assert (`__assertfail`), `malloc` and `free`: the system calls of the CUDA ABI.

use super::engine::Engine;
use super::format;
use super::lanes::Banks;
use super::rows::load_bytes;
use super::rows::{lanes_of, read64, write32, write64};
use super::state::Warp;
use crate::check::Kind as Check;
use crate::memory::LOCAL_WINDOW;

/// Longest string that is followed.
const MAX_TEXT: u64 = 4096;

impl Engine<'_> {
    /// A C string at a generic address of local or global memory.
    fn text(&self, warp: &Warp, lane: u32, address: u64) -> Option<String> {
        let mut out = Vec::new();
        for k in 0..MAX_TEXT {
            match self.peek(warp, lane, address.checked_add(k)?, 1)? as u8 {
                0 => break,
                byte => out.push(byte),
            }
        }
        Some(String::from_utf8_lossy(&out).into_owned())
    }

    /// `bytes` bytes at a generic address of local or global memory.
    fn peek(&self, warp: &Warp, lane: u32, address: u64, bytes: u64) -> Option<u64> {
        if address >> 32 == LOCAL_WINDOW >> 32 {
            let at = (address - LOCAL_WINDOW) as usize;
            let end = at + bytes as usize;
            if end > warp.local_bytes as usize {
                return None;
            }
            let base = lane as usize * warp.local_bytes as usize;
            return Some(load_bytes(&warp.local[base + at..base + end]));
        }
        let a = self
            .l
            .memory
            .find(address)
            .filter(|a| address + bytes <= a.base + a.size && address.is_multiple_of(bytes))?;
        // SAFETY: the range lies within the allocation and is aligned, both checked just above.
        Some(unsafe { a.load(address - a.base, bytes as u32) })
    }

    pub(super) fn print(&mut self, warp: &Warp, banks: &Banks, pc: u32, mask: u32) {
        let pool = &self.l.code.pool[self.l.code.insts[pc as usize].pool as usize..];
        let (formats, buffers) = (read64(banks, pool[1]), read64(banks, pool[2]));
        let mut counts = [0; 32];
        for lane in lanes_of(mask) {
            let Some(format) = self.text(warp, lane, formats[lane as usize]) else {
                self.report(Check::OutOfBounds, pc, warp.index, lane, || {
                    "prints with a format that is not in global memory".to_string()
                });
                continue;
            };
            let mut at = buffers[lane as usize];
            let mut argument = |bytes: u64| {
                at = at.div_ceil(bytes) * bytes;
                let v = self.peek(warp, lane, at, bytes);
                at += bytes;
                v
            };
            let line = format::expand(&format, &mut argument, &|address| self.text(warp, lane, address));
            counts[lane as usize] = line.arguments;
            let mut printed = self.l.printed.lock().unwrap_or_else(|e| e.into_inner());
            printed.push_str(&line.text);
        }
        write32(banks, pool[0], mask, |i| counts[i as usize]);
    }

    pub(super) fn assert_failed(&mut self, warp: &Warp, banks: &Banks, pc: u32, mask: u32) {
        let pool = &self.l.code.pool[self.l.code.insts[pc as usize].pool as usize..];
        let lane = mask.trailing_zeros();
        let text = |slot: u16| self.text(warp, lane, read64(banks, slot)[lane as usize]).unwrap_or_default();
        let (condition, file, function) = (text(pool[0]), text(pool[1]), text(pool[2]));
        self.fatal(Check::AssertFailed, pc, warp.index, lane, || {
            format!("fails assert({condition}) in {function} of {file}")
        });
    }

    /// A block of the heap for each lane, null where it is full.
    pub(super) fn malloc(&self, banks: &Banks, pc: u32, mask: u32) {
        let pool = &self.l.code.pool[self.l.code.insts[pc as usize].pool as usize..];
        let sizes = read64(banks, pool[1]);
        write64(banks, pool[0], mask, |i| self.l.memory.heap().allocate(sizes[i as usize]));
    }

    pub(super) fn free(&self, warp: &Warp, banks: &Banks, pc: u32, mask: u32) {
        let pool = &self.l.code.pool[self.l.code.insts[pc as usize].pool as usize..];
        let addresses = read64(banks, pool[0]);
        for lane in lanes_of(mask) {
            let address = addresses[lane as usize];
            if let Err(why) = self.l.memory.heap().free(address) {
                self.report(Check::HeapMisuse, pc, warp.index, lane, || format!("frees {address:#x}, {why}"));
            }
        }
    }
}
