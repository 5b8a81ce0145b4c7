//! cp.async: copies from global to shared memory that happen between their issue and the wait for them (PTX ISA
//! 9.7.9.25). When exactly is an option: at issue, or as late as a wait allows. Their destination counts as in flight
//! until the issuing thread has waited; others need a barrier after that as well.

use super::access::What;
use super::engine::Engine;
use super::lanes::Banks;
use super::rows::{lanes_of, read32, read64};
use super::state::{CopyQueue, PendingCopy, Warp};
use crate::check::Kind as Check;
use crate::check::race::Access;
use crate::options::AsyncTiming;
use crate::ptx::ast::Space;

impl Engine<'_> {
    pub(super) fn cp_async(&mut self, warp: &mut Warp, banks: &Banks, index: u32, pc: u32, mask: u32) {
        let code = self.l.code;
        let op = code.cps[index as usize];
        let pool = &code.pool[code.insts[pc as usize].pool as usize..];
        let to = Self::addresses(banks, op.shared, pool[0], op.shared_offset);
        let from = read64(banks, pool[1]).map(|a| a.wrapping_add_signed(op.global_offset));
        let sizes = if op.source_size { read32(banks, pool[2]) } else { [op.bytes as u32; 32] };
        let bytes = op.bytes as u32;
        let what = What { pc, warp: warp.index, bytes, count: 1, write: true, strong: false, atomic: false };
        let races = self.l.options.checks.races;
        let mut lanes = self.shared_lanes_for_copy(what, &to, mask);
        let wrong: u32 = lanes_of(lanes).map(|i| ((sizes[i as usize] > bytes) as u32) << i).sum();
        if wrong != 0 {
            let lane = wrong.trailing_zeros();
            self.report(Check::OutOfBounds, pc, warp.index, lane, || {
                format!("cp.async of {bytes} B has a source size of {} B", sizes[lane as usize])
            });
            lanes &= !wrong;
        }
        // The source is read when the copy happens, but its range is checked now, where the fault is.
        let reading: u32 = lanes_of(lanes).map(|i| ((sizes[i as usize] > 0) as u32) << i).sum();
        let source = What { write: false, ..what };
        let mut good = 0;
        self.by_space(Space::Global, source, &from, reading, |this, _, m| {
            this.global_lanes(source, &from, m, false, |_, m| good |= m);
        });
        let lanes = lanes & !(reading & !good);
        if warp.copies.is_empty() {
            warp.copies.resize(32, CopyQueue::default());
        }
        let step = self.step;
        for i in lanes_of(lanes) {
            let shared = to[i as usize] as u32;
            let mut copy = PendingCopy {
                lane: i as u8,
                bytes: op.bytes,
                source_bytes: sizes[i as usize] as u8,
                shared,
                global: from[i as usize],
                pc,
                done: false,
            };
            if races {
                for word in shared / 4..(shared + bytes) / 4 {
                    let access = Access { warp: warp.index, lane: i, step, write: true, strong: false };
                    if let Some(conflict) = self.b.races.access(word as usize, 15, access) {
                        self.report(Check::SharedRace, pc, warp.index, i, || {
                            let did = if conflict.wrote { "wrote" } else { "read" };
                            format!("copies into byte {} of shared memory, which warp {} {did} with no barrier between", word * 4, conflict.warp)
                        });
                    }
                }
            }
            self.b.shared.in_flight[shared as usize..(shared + bytes) as usize]
                .fill((1 + warp.index * 32 + i) as u16);
            self.b.shared.any_in_flight = true;
            let early = if self.random {
                self.b.random(2) == 0
            } else {
                self.l.options.async_timing == AsyncTiming::Early
            };
            if early {
                self.perform(&mut copy);
            }
            warp.copies[i as usize].open.push(copy);
        }
    }

    fn shared_lanes_for_copy(&mut self, what: What, to: &[u64; 32], mask: u32) -> u32 {
        let mut left = self.aligned(what, to, mask, "shared");
        let size = self.b.shared.data.len() as u64;
        for i in lanes_of(left) {
            if to[i as usize] + what.bytes as u64 > size {
                left &= !(1 << i);
                self.report(Check::OutOfBounds, what.pc, what.warp, i, || {
                    format!(
                        "copies {} B to byte {} of shared memory, the block has {size} B",
                        what.bytes, to[i as usize]
                    )
                });
            }
        }
        left
    }

    fn perform(&mut self, copy: &mut PendingCopy) {
        copy.done = true;
        let mut data = [0u8; 16];
        if copy.source_bytes > 0
            && let Some(a) = self.l.memory.find(copy.global)
        {
            let offset = copy.global - a.base;
            for k in 0..copy.source_bytes as u64 {
                // SAFETY: the copy's range was checked when it was issued; bytes need no alignment.
                unsafe {
                    if self.l.options.checks.uninitialised && !a.is_written(offset + k, 1) {
                        let owner = self.b.shared.in_flight[copy.shared as usize].max(1) as u32 - 1;
                        self.report(Check::Uninitialised, copy.pc, owner / 32, copy.lane as u32, || {
                            format!(
                                "copies global memory that nothing has written, {}",
                                self.l.memory.describe(copy.global + k)
                            )
                        });
                        break;
                    }
                    data[k as usize] = a.load(offset + k, 1) as u8;
                }
            }
        }
        let range = copy.shared as usize..copy.shared as usize + copy.bytes as usize;
        self.b.shared.data[range.clone()].copy_from_slice(&data[..copy.bytes as usize]);
        self.b.shared.written[range].fill(1);
    }

    pub(super) fn cp_async_commit(&mut self, warp: &mut Warp, mask: u32) {
        if warp.copies.is_empty() {
            return;
        }
        for i in lanes_of(mask) {
            let queue = &mut warp.copies[i as usize];
            let group = std::mem::take(&mut queue.open);
            queue.groups.push_back(group);
        }
    }

    /// Waits until at most `n` groups of each lane are pending.
    pub(super) fn cp_async_wait(&mut self, warp: &mut Warp, mask: u32, n: u32) {
        if warp.copies.is_empty() {
            return;
        }
        for i in lanes_of(mask) {
            while warp.copies[i as usize].groups.len() > n as usize {
                let Some(group) = warp.copies[i as usize].groups.pop_front() else { break };
                for mut copy in group {
                    if !copy.done {
                        self.perform(&mut copy);
                    }
                    let owner = (1 + warp.index * 32 + i) as u16;
                    let range = copy.shared as usize..copy.shared as usize + copy.bytes as usize;
                    self.b.shared.in_flight[range].iter_mut().filter(|o| **o == owner).for_each(|o| *o = 0);
                }
            }
        }
        let open = |w: &Warp| w.copies.iter().any(|q| !q.open.is_empty() || !q.groups.is_empty());
        if !open(warp) && !self.b.warps.iter().any(open) {
            self.b.shared.any_in_flight = false;
        }
    }

    /// Copies that no wait covers when a thread ends.
    pub(super) fn check_copies_at_exit(&mut self, warp: &mut Warp, mask: u32, pc: u32) {
        if warp.copies.is_empty() || !self.l.options.checks.async_copies {
            return;
        }
        for i in lanes_of(mask) {
            let queue = &warp.copies[i as usize];
            let open = queue.groups.iter().flatten().chain(&queue.open).next();
            if let Some(copy) = open {
                let issued = self.place(copy.pc);
                return self.report(Check::MissingAsyncWait, pc, warp.index, i, || {
                    format!("ends while a cp.async issued at {issued} has not been waited for")
                });
            }
        }
    }
}
