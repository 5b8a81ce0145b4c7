//! Barriers of a block: `bar` and `barrier`, with names, counts and reductions (PTX ISA 9.7.13.1).
//!
//! Warps arrive whole. `.aligned` barriers (and every `bar`) need all lanes of a warp at one instruction; plain
//! `barrier` lets them arrive from different ones. Lanes that have exited are not waited for.

use super::engine::{Engine, RaceCheck};
use super::rows::{lanes_of, read_pred, read32, write_pred, write32};
use super::state::Status;
use crate::check::Kind as Check;
use crate::code::{Barrier, BarrierOp, Kind};

impl Engine<'_> {
    fn barrier_at(&self, pc: u32) -> Option<Barrier> {
        match self.l.code.insts[pc as usize].kind {
            Kind::Barrier(b) => Some(b),
            _ => None,
        }
    }

    /// The barrier's number and thread count that a group names, from its first lane.
    fn barrier_operands(&mut self, w: usize, g: usize) -> (u32, Option<u32>) {
        let (pc, mask, bases) = {
            let group = &self.b.warps[w].groups[g];
            (group.pc, group.mask, group.bases)
        };
        let Some(barrier) = self.barrier_at(pc) else { return (0, None) };
        let inst = self.l.code.insts[pc as usize];
        let banks = self.b.warps[w].banks(&bases);
        let reduces = !matches!(barrier.op, BarrierOp::Sync | BarrierOp::Arrive);
        let at = inst.pool as usize + reduces as usize;
        let pool = &self.l.code.pool;
        let lane = mask.trailing_zeros() as usize;
        let id = read32(&banks, pool[at])[lane];
        let count = barrier.has_count.then(|| read32(&banks, pool[at + 1])[lane]);
        (id, count)
    }

    /// Group `g` of warp `w` has come to a barrier.
    pub(super) fn arrive(&mut self, w: usize, g: usize) {
        let warp = &mut self.b.warps[w];
        if warp.groups[g].mask == warp.alive {
            return self.arrive_groups(w, &[g]);
        }
        warp.groups[g].status = Status::Converging;
        // Lanes of a plain `barrier` may come from several instructions.
        let here: Vec<usize> =
            (0..warp.groups.len()).filter(|&i| warp.groups[i].status == Status::Converging).collect();
        let all = here.iter().map(|&i| self.b.warps[w].groups[i].mask).sum::<u32>() == self.b.warps[w].alive;
        let plain =
            here.iter().all(|&i| self.barrier_at(self.b.warps[w].groups[i].pc).is_some_and(|b| !b.aligned));
        if all && plain && self.same_barrier(w, &here) {
            self.arrive_groups(w, &here);
        }
    }

    fn same_barrier(&mut self, w: usize, groups: &[usize]) -> bool {
        let first = self.barrier_operands(w, groups[0]);
        groups.iter().all(|&g| self.barrier_operands(w, g) == first)
    }

    /// Nothing in the block can run: reports a barrier in divergent code of warp `w`, and lets the warp arrive where
    /// hardware would. True if that changed anything.
    pub(super) fn force_barrier(&mut self, w: usize) -> bool {
        let groups: Vec<usize> = (0..self.b.warps[w].groups.len())
            .filter(|&i| {
                let group = &self.b.warps[w].groups[i];
                group.status == Status::Converging && self.barrier_at(group.pc).is_some()
            })
            .collect();
        let Some(&first) = groups.first() else { return false };
        let (pc, mask) = (self.b.warps[w].groups[first].pc, self.b.warps[w].groups[first].mask);
        let others: String = self.b.warps[w]
            .groups
            .iter()
            .filter(|g| g.mask != mask)
            .map(|g| format!("; lanes {:08x} are at {}", g.mask, self.place(g.pc)))
            .collect();
        if self.l.options.checks.barriers {
            self.report(Check::BarrierDivergence, pc, w as u32, mask.trailing_zeros(), || {
                format!("comes to a barrier with lanes {mask:08x} of its warp only{others}")
            });
        }
        let all =
            groups.iter().map(|&i| self.b.warps[w].groups[i].mask).sum::<u32>() == self.b.warps[w].alive;
        if all && self.same_barrier(w, &groups) {
            self.arrive_groups(w, &groups);
            return true;
        }
        false
    }

    fn arrive_groups(&mut self, w: usize, groups: &[usize]) {
        let (id, count) = self.barrier_operands(w, groups[0]);
        let (pc, mask) = (self.b.warps[w].groups[groups[0]].pc, self.b.warps[w].groups[groups[0]].mask);
        let Some(barrier) = self.barrier_at(pc) else { return };
        let lane = mask.trailing_zeros();
        let warp_index = w as u32;
        if id >= 16 {
            return self.fatal(Check::BarrierMisuse, pc, warp_index, lane, || {
                format!("names barrier {id}; there are 0 to 15")
            });
        }
        let checks = self.l.options.checks.barriers;
        if let Some(count) = count.filter(|c| c % 32 != 0 || *c == 0)
            && checks
        {
            self.report(Check::BarrierMisuse, pc, warp_index, lane, || {
                format!("gives barrier {id} a count of {count} threads, which is not a multiple of 32")
            });
        }
        let expected = count.map(|c| c.div_ceil(32).max(1));
        let state = &self.b.barriers[id as usize];
        if checks && state.arrivals > 0 && state.expected != expected {
            let before = self.place(state.pc);
            self.report(Check::BarrierMisuse, pc, warp_index, lane, || {
                format!("comes to barrier {id} with another thread count than those who came at {before}")
            });
        }
        if checks && state.arrived >> w & 1 != 0 {
            self.report(Check::BarrierMisuse, pc, warp_index, lane, || {
                format!("comes to barrier {id} a second time before it is complete")
            });
        }
        let reduces = !matches!(barrier.op, BarrierOp::Sync | BarrierOp::Arrive);
        if checks && state.arrivals > 0 && state.reduces != reduces {
            self.report(Check::BarrierMisuse, pc, warp_index, lane, || {
                format!("mixes a reduction with plain arrivals at barrier {id}")
            });
        }
        let mut votes = (0, 0);
        for &g in groups {
            let (pc, mask, bases) = {
                let group = &self.b.warps[w].groups[g];
                (group.pc, group.mask, group.bases)
            };
            if reduces {
                let at = self.l.code.insts[pc as usize].pool as usize + 2 + barrier.has_count as usize;
                let banks = self.b.warps[w].banks(&bases);
                let held = read_pred(&banks, self.l.code.pool[at]) & mask;
                votes = (votes.0 + held.count_ones(), votes.1 + mask.count_ones());
            }
        }
        let state = &mut self.b.barriers[id as usize];
        if state.arrivals == 0 {
            (state.expected, state.reduces, state.pc) = (expected, reduces, pc);
        }
        state.arrivals += 1;
        state.arrived |= 1 << w;
        state.votes += votes.0;
        state.voters += votes.1;
        if self.races == RaceCheck::Clocks {
            self.b.races.release(w, &mut state.clock);
        }
        self.order_arrives(w, id as usize);
        let state = &mut self.b.barriers[id as usize];
        let waits = barrier.op != BarrierOp::Arrive;
        if waits {
            state.waiting |= 1 << w;
        }
        for &g in groups {
            let group = &mut self.b.warps[w].groups[g];
            if waits {
                group.status = Status::AtBarrier(id);
            } else {
                group.status = Status::Ready;
                group.pc += 1;
            }
        }
        self.try_complete(id as usize);
        if self.l.options.counters && waits {
            let still = self.b.warps[w].groups.iter().any(|g| g.status == Status::AtBarrier(id));
            let count = &mut self.counts[pc as usize];
            count.transfers += still as u64;
            count.ideal += 1;
        }
    }

    /// Warps that have ended are not waited for.
    pub(super) fn warp_exited(&mut self) {
        for id in 0..16 {
            if self.b.barriers[id].arrivals > 0 && self.b.barriers[id].expected.is_none() {
                self.try_complete(id);
            }
        }
    }

    fn try_complete(&mut self, id: usize) {
        let alive = self.b.warps.iter().filter(|w| w.alive != 0).count() as u32;
        let needed = self.b.barriers[id].expected.unwrap_or(alive);
        if self.b.barriers[id].arrivals < needed {
            return;
        }
        let state = std::mem::take(&mut self.b.barriers[id]);
        if self.races == RaceCheck::Epochs {
            self.b.epochs.barrier();
        }
        self.clock.barrier();
        for w in lanes_of(state.waiting) {
            let w = w as usize;
            if self.races == RaceCheck::Clocks {
                self.b.races.acquire(w, &state.clock);
                let step = self.b.warps[w].steps as u32;
                self.b.races.sync_lanes(w, u32::MAX, step.wrapping_add(1));
            }
            self.order_passes(w, &state.order);
            for g in 0..self.b.warps[w].groups.len() {
                let group = &self.b.warps[w].groups[g];
                if group.status != Status::AtBarrier(id as u32) {
                    continue;
                }
                let (pc, mask, bases) = (group.pc, group.mask, group.bases);
                let banks = self.b.warps[w].banks(&bases);
                let d =
                    self.l.code.pool.get(self.l.code.insts[pc as usize].pool as usize).copied().unwrap_or(0);
                match self.barrier_at(pc).map(|b| b.op) {
                    Some(BarrierOp::RedPopc) => write32(&banks, d, mask, |_| state.votes),
                    Some(BarrierOp::RedAnd) => {
                        write_pred(&banks, d, mask, if state.votes == state.voters { u32::MAX } else { 0 });
                    }
                    Some(BarrierOp::RedOr) => {
                        write_pred(&banks, d, mask, if state.votes != 0 { u32::MAX } else { 0 })
                    }
                    _ => {}
                }
                let group = &mut self.b.warps[w].groups[g];
                group.status = Status::Ready;
                group.pc += 1;
            }
        }
    }
}
