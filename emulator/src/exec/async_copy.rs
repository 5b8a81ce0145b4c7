//! cp.async: copies from global to shared memory that happen between their issue and the wait for them (PTX ISA
//! 9.7.9.25). When exactly is an option: at issue, or as late as a wait allows. Their destination counts as in flight
//! until the issuing thread has waited; others need a barrier after that as well.

use super::access::What;
use super::engine::Engine;
use super::lanes::Banks;
use super::rows::{lanes_of, read32, read64};
use super::state::{CopyQueue, PendingCopy, Warp};
use crate::check::Kind as Check;
use crate::code::Strength;
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
        let what = What {
            pc,
            warp: warp.index,
            bytes,
            count: 1,
            write: true,
            strength: Strength::Weak,
            atomic: false,
        };
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
        self.race_of_copies(what, &to, lanes);
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
            self.b.shared.in_flight[shared as usize / 4..(shared + bytes) as usize / 4]
                .fill((1 + warp.index * 32 + i) as u16);
            self.b.shared.any_in_flight = true;
            let early = self.early();
            if early {
                self.perform(&mut copy);
            }
            warp.copies[i as usize].copies.push_back(copy);
            warp.copies[i as usize].uncommitted += 1;
            self.b.shared.copies += 1;
        }
    }

    fn shared_lanes_for_copy(&mut self, what: What, to: &[u64; 32], mask: u32) -> u32 {
        let mut left = self.aligned(what, to, mask, "shared");
        let size = self.b.shared.data.len() as u64;
        for i in lanes_of(left) {
            if to[i as usize].saturating_add(what.bytes as u64) > size {
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

    /// A copy writes for its lane from when it is issued on, and again when the lane has waited for it: others need a
    /// barrier after that.
    fn race_of_copies(&mut self, what: What, to: &[u64; 32], mask: u32) {
        if mask == 0 {
            return;
        }
        let first = to[mask.trailing_zeros() as usize] as u32;
        let offsets = std::array::from_fn(|i| if mask >> i & 1 != 0 { to[i] as u32 } else { first });
        self.check_races(what, &offsets, mask);
    }

    fn perform(&mut self, copy: &mut PendingCopy) {
        copy.done = true;
        let mut data = [0u8; 16];
        let memory = self.l.memory;
        if let Some(a) = memory.find(copy.global).filter(|_| copy.source_bytes > 0) {
            let check = self.l.options.checks.uninitialised && !a.all_written();
            let step = if copy.source_bytes.is_multiple_of(4) { 4 } else { 1 };
            for k in (0..copy.source_bytes as usize).step_by(step) {
                let offset = copy.global - a.base + k as u64;
                // SAFETY: the copy's range, and that it starts at a multiple of its size, were checked when it was
                // issued; `step` divides what there is to read.
                let (value, written) =
                    unsafe { (a.load(offset, step as u32), !check || a.is_written(offset, step as u32)) };
                if !written {
                    let owner = self.b.shared.in_flight[copy.shared as usize / 4].max(1) as u32 - 1;
                    self.report(Check::Uninitialised, copy.pc, owner / 32, copy.lane as u32, || {
                        let about = memory.describe(copy.global + k as u64);
                        format!("copies global memory that nothing has written, {about}")
                    });
                    break;
                }
                data[k..k + step].copy_from_slice(&value.to_le_bytes()[..step]);
            }
        }
        let range = copy.shared as usize..copy.shared as usize + copy.bytes as usize;
        self.b.shared.mark(range.start, range.len());
        self.b.shared.data[range].copy_from_slice(&data[..copy.bytes as usize]);
    }

    /// Performs every copy of a lane, as if it had waited.
    pub(super) fn finish_copies(&mut self, warp: &mut Warp, lane: u32) {
        self.cp_async_commit(warp, 1 << lane);
        self.cp_async_wait(warp, 1 << lane, 0);
    }

    pub(super) fn cp_async_commit(&mut self, warp: &mut Warp, mask: u32) {
        if warp.copies.is_empty() {
            return;
        }
        for i in lanes_of(mask) {
            let queue = &mut warp.copies[i as usize];
            queue.groups.push_back(std::mem::take(&mut queue.uncommitted));
        }
    }

    /// Waits until at most `n` groups of each lane are pending.
    pub(super) fn cp_async_wait(&mut self, warp: &mut Warp, mask: u32, n: u32) {
        if warp.copies.is_empty() {
            return;
        }
        let mut due = [0; 32];
        for i in lanes_of(mask) {
            let queue = &mut warp.copies[i as usize];
            while queue.groups.len() > n as usize {
                due[i as usize] += queue.groups.pop_front().unwrap_or(0);
            }
        }
        loop {
            // The next copy of each lane that has one due, together where they are alike.
            let (mut row, mut offsets, mut like) = (0u32, [0; 32], None);
            for i in lanes_of(mask).filter(|&i| due[i as usize] > 0) {
                let Some(&copy) = warp.copies[i as usize].copies.front() else { continue };
                if *like.get_or_insert((copy.pc, copy.bytes)) == (copy.pc, copy.bytes) {
                    row |= 1 << i;
                    offsets[i as usize] = copy.shared as u64;
                }
            }
            let Some((pc, bytes)) = like else { break };
            for i in lanes_of(row) {
                due[i as usize] -= 1;
                let Some(mut copy) = warp.copies[i as usize].copies.pop_front() else { continue };
                if !copy.done {
                    self.perform(&mut copy);
                }
                let owner = (1 + warp.index * 32 + i) as u16;
                let words = copy.shared as usize / 4..(copy.shared + bytes as u32) as usize / 4;
                self.b.shared.in_flight[words].iter_mut().filter(|o| **o == owner).for_each(|o| *o = 0);
                self.b.shared.copies -= 1;
            }
            let bytes = bytes as u32;
            let what = What {
                pc,
                warp: warp.index,
                bytes,
                count: 1,
                write: true,
                strength: Strength::Weak,
                atomic: false,
            };
            self.race_of_copies(what, &offsets, row);
        }
        if self.b.shared.copies == 0 {
            self.b.shared.any_in_flight = false;
        }
    }

    /// Copies that no wait covers when a thread ends.
    pub(super) fn check_copies_at_exit(&mut self, warp: &mut Warp, mask: u32, pc: u32) {
        if warp.copies.is_empty() || !self.l.options.checks.async_copies {
            return;
        }
        for i in lanes_of(mask) {
            if let Some(copy) = warp.copies[i as usize].copies.front() {
                let issued = self.place(copy.pc);
                return self.report(Check::MissingAsyncWait, pc, warp.index, i, || {
                    format!("ends while a cp.async issued at {issued} has not been waited for")
                });
            }
        }
    }
}
