//! Bulk copies between global and shared memory, and stores that signal an mbarrier (PTX ISA 9.7.9.25, 9.7.9.12 and
//! 9.7.13.7).
//!
//! A copy is checked and takes its place in the order of accesses when it is issued; its bytes move then (early), when
//! nothing else in the cluster can run (late), or at random. A store's source is read at the latest by a `.read` wait,
//! its destination is written by a full wait or the end of the block.

use std::collections::VecDeque;

use super::engine::Engine;
use super::lanes::Banks;
use super::mbarrier::{Awaited, Place};
use super::rows::{lanes_of, read32, read64};
use super::state::Warp;
use super::transfer::{End, Signal, Transfer};
use crate::check::Kind as Check;
use crate::check::proxy::{Agent, GRANULE, Stamp, Time};
use crate::code::{At, AtomicOp, BulkOp, BulkWay};
use crate::ptx::ast::{Space, Ty};

/// Most bytes that an mbarrier can count at once.
const MAX_BYTES: u32 = (1 << 20) - 16;

/// Bulk groups of one thread.
#[derive(Clone, Debug, Default)]
pub struct BulkQueue {
    pub agent: Option<Agent>,
    /// Groups committed so far; a copy issued now goes into the next one.
    pub committed: u32,
    /// The group of the last copy, and where it was issued.
    pub last: u32,
    pub last_pc: u32,
    /// Groups waited for, `.read` or not.
    pub waited: u32,
    /// Copies to global memory that no full wait has covered yet, the oldest first.
    pub writes: VecDeque<Written>,
}

/// What a copy to global memory writes, and the group it is in.
#[derive(Clone, Debug)]
pub struct Written {
    pub(super) to: End,
    pub(super) bytes: u32,
    group: u32,
}

impl Engine<'_> {
    pub(super) fn bulk_copy(
        &mut self,
        warp: &mut Warp,
        banks: &Banks,
        op: BulkOp,
        pool: &[u16],
        pc: u32,
        mask: u32,
    ) {
        let row = |at: At, slot: u16| Self::addresses(banks, at.bank, slot, at.offset);
        let (to, from) = (row(op.to, pool[0]), row(op.from, pool[1]));
        let numbers = op.dimensions.max(1) as usize;
        let values: Vec<[u32; 32]> = pool[2..2 + numbers].iter().map(|&s| read32(banks, s)).collect();
        let mut next = 2 + numbers;
        let mbarriers = op.mbarrier.map(|at| {
            next += 1;
            row(at, pool[next - 1])
        });
        let masks = if op.multicast { read32(banks, pool[next]) } else { [0; 32] };
        for i in lanes_of(mask) {
            let lane = i as usize;
            let issue = Issue { op, pc, lane: i, numbers: values.iter().map(|v| v[lane]).collect() };
            let mbarrier = mbarriers.map(|m| m[lane]);
            self.issue(warp, &issue, to[lane], from[lane], mbarrier, masks[lane] & 0xffff);
        }
    }

    fn copy_misuse(&self, issue: &Issue, warp: u32, message: impl FnOnce() -> String) {
        self.report(Check::CopyMisuse, issue.pc, warp, issue.lane, message);
    }

    /// Checks one lane's copy and issues it.
    fn issue(
        &mut self,
        warp: &mut Warp,
        issue: &Issue,
        to: u64,
        from: u64,
        mbarrier: Option<u64>,
        blocks: u32,
    ) {
        let (op, pc, lane) = (issue.op, issue.pc, issue.lane);
        let index = warp.index;
        let mut tensor = None;
        let mut bytes = issue.numbers[0];
        if op.dimensions > 0 {
            let address = if op.way == BulkWay::SharedToGlobal { to } else { from };
            let Some(map) = self.tensor_map_at(index, lane, pc, address) else { return };
            if map.rank != op.dimensions as usize {
                return self.copy_misuse(issue, index, || {
                    format!("copies a box of {} dimensions of a tensor that has {}", op.dimensions, map.rank)
                });
            }
            bytes = map.box_bytes();
            let at = std::array::from_fn(|d| issue.numbers.get(d).map_or(0, |&c| c as i32 as i64));
            tensor = Some((map, at));
        } else if !bytes.is_multiple_of(GRANULE) {
            return self.copy_misuse(issue, index, || {
                format!("copies {bytes} B in bulk, which is not a multiple of 16")
            });
        }
        if bytes == 0 {
            return;
        }
        if bytes > MAX_BYTES {
            return self
                .copy_misuse(issue, index, || format!("copies {bytes} B at once, more than can be counted"));
        }
        let noun =
            if op.way == BulkWay::SharedToGlobal { "the source of a copy" } else { "the target of a copy" };
        let (shared, space) = match op.way {
            BulkWay::SharedToGlobal => (from, Space::Shared),
            _ => (to, op.to.space),
        };
        let Some(place) = self.copy_place(index, lane, pc, space, shared, bytes, noun) else { return };
        if tensor.is_some() && place.offset % 128 != 0 {
            return self.report(Check::Misaligned, pc, index, lane, || {
                format!("copies a box of a tensor to or from byte {} of shared memory, which is not a multiple of 128", place.offset)
            });
        }
        let global = |address: u64| match &tensor {
            Some((map, at)) => End::Tensor(Box::new(*map), *at),
            None => End::Global(address),
        };
        if op.way != BulkWay::SharedToShared {
            let address = if op.way == BulkWay::SharedToGlobal { to } else { from };
            let writes = op.way == BulkWay::SharedToGlobal;
            if !self.check_global(issue, index, &global(address), bytes, writes) {
                return;
            }
        }
        match op.way {
            BulkWay::SharedToGlobal => self.issue_store(warp, issue, place, global(to), bytes),
            _ => {
                let source = match op.way {
                    BulkWay::GlobalToShared => global(from),
                    _ => {
                        let noun = "the source of a copy";
                        match self.copy_place(index, lane, pc, Space::Shared, from, bytes, noun) {
                            Some(p) => End::Shared(p),
                            None => return,
                        }
                    }
                };
                if let End::Global(_) | End::Tensor(..) = source {
                    self.order_global_copy((pc, index, lane), &source, bytes, false, false);
                }
                let Some(mbarrier) = mbarrier else { return };
                let at =
                    self.shared_place(index, lane, pc, op.to.space, mbarrier, 8, "the mbarrier of a copy");
                let Some(mbarrier) = at else { return };
                if mbarrier.rank != place.rank {
                    return self.copy_misuse(issue, index, || {
                        "signals an mbarrier in another block than the copy's target".to_string()
                    });
                }
                let size = self.cluster.len();
                let ranks: Vec<usize> = match op.multicast {
                    false => vec![place.rank],
                    true => (0..16).filter(|r| blocks >> r & 1 != 0).collect(),
                };
                if ranks.is_empty() || ranks.iter().any(|&r| r >= size) {
                    return self.copy_misuse(issue, index, || {
                        format!("multicasts to the blocks {blocks:#06x} of a cluster of {size}")
                    });
                }
                for rank in ranks {
                    if rank != self.running && !self.usable(index, lane, pc, rank) {
                        continue;
                    }
                    let target = Place { rank, offset: place.offset };
                    let signal = Place { rank, offset: mbarrier.offset };
                    self.issue_load(warp, issue, source.clone(), target, signal, bytes);
                }
            }
        }
    }

    fn copy_place(
        &mut self,
        warp: u32,
        lane: u32,
        pc: u32,
        space: Space,
        address: u64,
        bytes: u32,
        noun: &str,
    ) -> Option<Place> {
        let place = self.shared_place(warp, lane, pc, space, address, GRANULE, noun)?;
        let size = self.l.shared_bytes;
        if place.offset as u64 + bytes as u64 > size as u64 {
            self.report(Check::OutOfBounds, pc, warp, lane, || {
                format!(
                    "names {noun} of {bytes} B at byte {} of shared memory, the block has {size} B",
                    place.offset
                )
            });
            return None;
        }
        Some(place)
    }

    /// Checks that the global end of a copy exists, and may be written.
    fn check_global(&mut self, issue: &Issue, warp: u32, end: &End, bytes: u32, writes: bool) -> bool {
        let (address, bytes) = match end {
            End::Global(address) => (*address, bytes as u64),
            // The part of the box that is inside the tensor, from its first byte to its last.
            End::Tensor(map, at) => match super::tensor_copy::extent(map, at) {
                Some(extent) => extent,
                None => return true,
            },
            _ => return true,
        };
        let (pc, lane) = (issue.pc, issue.lane);
        let memory = self.l.memory;
        if matches!(end, End::Global(_)) && address % GRANULE as u64 != 0 {
            self.report(Check::Misaligned, pc, warp, lane, || {
                format!(
                    "copies in bulk at {address:#x}, which is not a multiple of 16, {}",
                    memory.describe(address)
                )
            });
            return false;
        }
        let verb = if writes { "writes" } else { "reads" };
        let Some(a) = memory.find(address).filter(|a| bytes <= a.base + a.size - address) else {
            self.report(Check::OutOfBounds, pc, warp, lane, || {
                format!(
                    "{verb} {bytes} B of global memory at {address:#x} in bulk, {}",
                    memory.describe(address)
                )
            });
            return false;
        };
        if writes && a.read_only {
            self.report(Check::ReadOnlyWrite, pc, warp, lane, || {
                format!("writes {}, which is constant", memory.describe(address))
            });
            return false;
        }
        true
    }

    fn issue_load(&mut self, warp: &Warp, issue: &Issue, from: End, to: Place, mbarrier: Place, bytes: u32) {
        let (pc, lane, index, rank) = (issue.pc, issue.lane, warp.index, self.running);
        let Some(m) = self.mbarrier_at(index, lane, pc, mbarrier) else { return };
        let stamp = Stamp { agent: m.agent, time: m.phase as Time + 1, pc };
        m.copy = Some(Awaited { phase: m.phase + 1, pc, warp: index, lane, rank });
        let transfer = Transfer {
            from,
            to: End::Shared(to),
            bytes,
            reduce: issue.op.reduce,
            signal: Signal::Mbarrier(mbarrier),
            stamp,
            pc,
            warp: index,
            lane,
            rank: self.running,
        };
        self.order_transfer(&transfer);
        self.start_transfer(transfer);
    }

    fn issue_store(&mut self, warp: &mut Warp, issue: &Issue, from: Place, to: End, bytes: u32) {
        let (pc, lane, index) = (issue.pc, issue.lane, warp.index);
        if warp.bulk.is_empty() {
            warp.bulk.resize(32, BulkQueue::default());
        }
        let queue = &mut warp.bulk[lane as usize];
        let agent = *queue.agent.get_or_insert_with(|| self.order.new_agent());
        let stamp = Stamp { agent, time: queue.committed + 1, pc };
        (queue.last, queue.last_pc) = (queue.committed + 1, pc);
        if self.clock.is_on() {
            queue.writes.push_back(Written { to: to.clone(), bytes, group: stamp.time });
        }
        self.order_global_copy((pc, index, lane), &to, bytes, true, issue.op.reduce.is_some());
        let transfer = Transfer {
            from: End::Shared(from),
            to,
            bytes,
            reduce: issue.op.reduce,
            signal: Signal::Group(self.running, index, lane),
            stamp,
            pc,
            warp: index,
            lane,
            rank: self.running,
        };
        self.order_transfer(&transfer);
        self.start_transfer(transfer);
    }

    // groups -------------------------------------------------------------------------------------------------------

    pub(super) fn bulk_commit(&mut self, warp: &mut Warp, mask: u32) {
        if warp.bulk.is_empty() {
            warp.bulk.resize(32, BulkQueue::default());
        }
        lanes_of(mask).for_each(|i| warp.bulk[i as usize].committed += 1);
    }

    /// Waits until at most `keep` groups of each lane are pending.
    pub(super) fn bulk_wait(&mut self, warp: &mut Warp, mask: u32, keep: u32, read: bool) {
        if warp.bulk.is_empty() {
            return;
        }
        for i in lanes_of(mask) {
            let queue = &mut warp.bulk[i as usize];
            let done = queue.committed.saturating_sub(keep);
            queue.waited = queue.waited.max(done);
            let agent = queue.agent;
            while !read && queue.writes.front().is_some_and(|w| w.group <= done) {
                if let Some(written) = queue.writes.pop_front() {
                    self.global_copy_done(warp.index, &written);
                }
            }
            let me = Signal::Group(self.running, warp.index, i);
            let mut at = 0;
            while at < self.pending.len() {
                let t = &self.pending[at];
                if t.signal != me || t.stamp.time > done {
                    at += 1;
                } else if read {
                    // The source is read now, the destination is written later.
                    let t = self.pending[at].clone();
                    if matches!(t.from, End::Shared(_)) {
                        self.pending[at].from = End::Bytes(self.read_end(&t));
                    }
                    at += 1;
                } else if let Some(t) = self.pending.remove(at) {
                    self.perform_transfer(t);
                }
            }
            if let Some(agent) = agent.filter(|_| self.tracking) {
                let me = self.warp_agent(warp.index);
                self.order.learn(me, agent, done);
            }
        }
    }

    /// Bulk groups that a thread has not waited for when it ends.
    pub(super) fn check_bulk_at_exit(&mut self, warp: &Warp, mask: u32, pc: u32) {
        if warp.bulk.is_empty() || !self.l.options.checks.async_copies {
            return;
        }
        for i in lanes_of(mask) {
            let queue = &warp.bulk[i as usize];
            if queue.last <= queue.waited {
                continue;
            }
            let issued = self.place(queue.last_pc);
            if queue.last > queue.committed {
                return self.report(Check::MissingCommit, pc, warp.index, i, || {
                    format!("ends while the bulk copy issued at {issued} is in no group: cp.async.bulk.commit_group is missing")
                });
            }
            return self.report(Check::MissingAsyncWait, pc, warp.index, i, || {
                format!("ends while the bulk copy issued at {issued} has not been waited for")
            });
        }
    }

    // st.async and red.async ---------------------------------------------------------------------------------------

    pub(super) fn store_async(
        &mut self,
        warp: &Warp,
        banks: &Banks,
        (at, mbarrier, ty, count, reduce): (At, At, Ty, usize, Option<AtomicOp>),
        pool: &[u16],
        pc: u32,
        mask: u32,
    ) {
        let addresses = Self::addresses(banks, at.bank, pool[0], at.offset);
        let mbarriers = Self::addresses(banks, mbarrier.bank, pool[1 + count], mbarrier.offset);
        let wide = ty.bytes() == 8;
        let values: Vec<[u64; 32]> = pool[1..1 + count]
            .iter()
            .map(|&s| if wide { read64(banks, s) } else { read32(banks, s).map(|v| v as u64) })
            .collect();
        let bytes = ty.bytes() * count as u32;
        for i in lanes_of(mask) {
            let lane = i as usize;
            let to = self.shared_place(warp.index, i, pc, Space::Cluster, addresses[lane], bytes, "a target");
            let signal = self.shared_place(
                warp.index,
                i,
                pc,
                Space::Cluster,
                mbarriers[lane],
                8,
                "the mbarrier of a store",
            );
            let (Some(to), Some(signal)) = (to, signal) else { continue };
            if to.rank != signal.rank {
                self.report(Check::CopyMisuse, pc, warp.index, i, || {
                    "signals an mbarrier in another block than the store's target".to_string()
                });
                continue;
            }
            let rank = self.running;
            let Some(m) = self.mbarrier_at(warp.index, i, pc, signal) else { continue };
            let stamp = Stamp { agent: m.agent, time: m.phase as Time + 1, pc };
            m.copy = Some(Awaited { phase: m.phase + 1, pc, warp: warp.index, lane: i, rank });
            if self.tracking {
                let me = self.warp_agent(warp.index);
                let base = to.rank * (self.l.shared_bytes as usize).div_ceil(16) * 4 + to.offset as usize / 4;
                let found = self.order.async_store(base..base + bytes.div_ceil(4) as usize, me, stamp);
                if let Some(conflict) = found {
                    self.report_conflict(conflict, pc, warp.index, i, || {
                        format!("asynchronously writes byte {}", to.offset)
                    });
                }
            }
            let mut data = Vec::with_capacity(bytes as usize);
            values.iter().for_each(|v| data.extend(&v[lane].to_le_bytes()[..ty.bytes() as usize]));
            self.start_transfer(Transfer {
                from: End::Bytes(data),
                to: End::Shared(to),
                bytes,
                reduce: reduce.map(|op| (op, ty)),
                signal: Signal::Mbarrier(signal),
                stamp,
                pc,
                warp: warp.index,
                lane: i,
                rank: self.running,
            });
        }
    }

    /// True when the running block may use the block of `rank`, with a finding otherwise.
    fn usable(&mut self, warp: u32, lane: u32, pc: u32, rank: usize) -> bool {
        let address = (rank as u64 + 1) << crate::memory::RANK_SHIFT;
        self.shared_place(warp, lane, pc, Space::Cluster, address, 1, "shared memory").is_some()
    }
}

/// A copy of one lane.
struct Issue {
    op: BulkOp,
    pc: u32,
    lane: u32,
    /// The size, or the coordinates.
    numbers: Vec<u32>,
}
