//! Clusters: the blocks that an engine holds together, their barrier, addresses in each other's shared memory, and the
//! order of accesses to it (PTX ISA 2.2.2, 9.7.9.23 and 9.7.13.3).
//!
//! An address of a block's own shared memory is its offset; one of another block of the cluster holds that block's rank
//! plus one from bit 24 on. A block is swapped into `Engine::b` while one of its warps runs or its memory is accessed.

use super::access::What;
use super::engine::Engine;
use super::hopper::Flow;
use super::mbarrier::Place;
use super::rows::lanes_of;
use super::state::{Block, Status, Warp};
use crate::check::Kind as Check;
use crate::check::proxy::{Conflict, GRANULE, Pair, Stamp, What as Clash};
use crate::check::race::Access;
use crate::code::{Fence, Strength};
use crate::memory::{RANK_SHIFT, SHARED_WINDOW};
use crate::ptx::ast::Space;

/// The barrier of a cluster.
#[derive(Default)]
pub(super) struct ClusterBarrier {
    arriving: Pair,
    complete: Pair,
}

impl Engine<'_> {
    /// Makes the block of `rank` the one in `b`.
    pub(super) fn enter(&mut self, rank: usize) {
        if rank != self.b.rank {
            let old = self.b.rank;
            std::mem::swap(&mut self.b, &mut self.cluster[old]);
            std::mem::swap(&mut self.b, &mut self.cluster[rank]);
        }
    }

    /// The block of a rank; the one in `b` leaves an empty one in its place of the list.
    pub(super) fn block(&self, rank: usize) -> &Block {
        if rank == self.b.rank { &self.b } else { &self.cluster[rank] }
    }

    pub(super) fn block_mut(&mut self, rank: usize) -> &mut Block {
        if rank == self.b.rank { &mut self.b } else { &mut self.cluster[rank] }
    }

    /// A warp's number among those of the cluster.
    pub(super) fn warp_agent(&self, warp: u32) -> usize {
        self.running * self.warps + warp as usize
    }

    /// Where an address lies in the cluster's shared memory, with a finding when it does not, or may not be used.
    pub(super) fn shared_place(
        &mut self,
        warp: u32,
        lane: u32,
        pc: u32,
        space: Space,
        address: u64,
        bytes: u32,
        noun: &str,
    ) -> Option<Place> {
        if space == Space::Generic && address >> 32 != SHARED_WINDOW >> 32 {
            self.report(Check::WrongSpace, pc, warp, lane, || {
                format!("names {noun} at {address:#x}, which is not in shared memory")
            });
            return None;
        }
        let low = address as u32;
        let (high, offset) = ((low >> RANK_SHIFT) as usize, low & ((1 << RANK_SHIFT) - 1));
        let rank = if high == 0 { self.running } else { high - 1 };
        if space == Space::Shared && rank != self.running {
            self.report(Check::ClusterMisuse, pc, warp, lane, || {
                format!("names {noun} of block {rank} of the cluster with a shared::cta address")
            });
            return None;
        }
        if rank != self.running && !self.may_use(warp, lane, pc, rank) {
            return None;
        }
        let align = bytes.clamp(1, 16).next_power_of_two();
        if offset % align != 0 {
            self.report(Check::Misaligned, pc, warp, lane, || {
                format!("names {noun} at byte {offset} of shared memory, which is not a multiple of {align}")
            });
            return None;
        }
        let size = self.l.shared_bytes;
        if offset as u64 + bytes as u64 > size as u64 {
            self.report(Check::OutOfBounds, pc, warp, lane, || {
                format!("names {noun} of {bytes} B at byte {offset} of shared memory, the block has {size} B")
            });
            return None;
        }
        Some(Place { rank, offset })
    }

    /// True when the running block may use the shared memory of another of its cluster now.
    fn may_use(&mut self, warp: u32, lane: u32, pc: u32, rank: usize) -> bool {
        let size = self.cluster.len();
        let problem = if rank >= size {
            Some(format!("uses shared memory of block {rank} of a cluster of {size}"))
        } else if self.block(rank).done {
            Some(format!("uses shared memory of block {rank} of its cluster, which has exited"))
        } else {
            let me = self.warp_agent(warp);
            let warps = rank * self.warps..(rank + 1) * self.warps;
            let unknown = self.tracking && !self.order.knows_any(me, warps);
            unknown.then(|| {
                format!("uses shared memory of block {rank} of its cluster before a barrier of the cluster: it may not have started")
            })
        };
        let Some(problem) = problem else { return true };
        self.report(Check::ClusterMisuse, pc, warp, lane, || problem);
        rank < size && !self.block(rank).done
    }

    /// An ordinary access to shared memory of the cluster: `f` runs with each block that lanes name in `b`, and gets
    /// their offsets in it.
    pub(super) fn cluster_access(
        &mut self,
        what: What,
        addresses: &[u64; 32],
        mask: u32,
        mut f: impl FnMut(&mut Self, &[u64; 32], u32),
    ) {
        let mut left = mask;
        while left != 0 {
            let lane = left.trailing_zeros();
            let high = |a: u64| (a as u32 >> RANK_SHIFT) as usize;
            let named = high(addresses[lane as usize]);
            let same: u32 =
                lanes_of(left).map(|i| ((high(addresses[i as usize]) == named) as u32) << i).sum();
            left &= !same;
            let rank = if named == 0 { self.running } else { named - 1 };
            if rank != self.running && !self.may_use(what.warp, lane, what.pc, rank) {
                continue;
            }
            let offsets = addresses.map(|a| a & ((1 << RANK_SHIFT) - 1));
            let back = self.b.rank;
            self.enter(rank);
            f(self, &offsets, same);
            self.enter(back);
        }
    }

    // the barrier --------------------------------------------------------------------------------------------------

    pub(super) fn cluster_arrive(&mut self, warp: &mut Warp, pc: u32, mask: u32, relaxed: bool) {
        let again = warp.cluster_waits & mask;
        if again != 0 && self.l.options.checks.barriers {
            self.report(Check::BarrierMisuse, pc, warp.index, again.trailing_zeros(), || {
                "arrives at the barrier of the cluster twice with no wait between".to_string()
            });
        }
        warp.cluster_arrived |= mask;
        warp.cluster_waits |= mask;
        warp.cluster_target = self.b.cluster_phase + 1;
        if self.tracking {
            let me = self.warp_agent(warp.index);
            if !relaxed {
                self.order.release(me, &mut self.cluster_barrier.arriving);
            } else if let Some(fenced) = &warp.fenced {
                self.cluster_barrier.arriving.join(fenced);
            }
        }
        self.complete_cluster_barrier(Some(warp));
    }

    /// Completes the cluster's barrier if every thread that has not exited is there. `warp` is out of its block.
    pub(super) fn complete_cluster_barrier(&mut self, mut warp: Option<&mut Warp>) {
        let arrived = |w: &Warp| w.alive & !w.cluster_arrived == 0;
        let some = |w: &Warp| w.cluster_arrived != 0;
        let mut any = warp.as_ref().is_some_and(|w| some(w));
        if !warp.as_ref().is_none_or(|w| arrived(w)) {
            return;
        }
        for rank in 0..self.cluster.len() {
            let block = self.block(rank);
            if !block.warps.iter().all(arrived) {
                return;
            }
            any |= block.warps.iter().any(some);
        }
        if !any {
            return;
        }
        self.cluster_barrier.complete = std::mem::take(&mut self.cluster_barrier.arriving);
        for rank in 0..self.cluster.len() {
            let block = self.block_mut(rank);
            block.cluster_phase += 1;
            block.warps.iter_mut().for_each(|w| w.cluster_arrived = 0);
        }
        if let Some(w) = warp.as_mut() {
            w.cluster_arrived = 0;
        }
        self.progress += 1;
    }

    pub(super) fn cluster_wait(&mut self, warp: &mut Warp, pc: u32, mask: u32) -> Flow {
        let missing = mask & !warp.cluster_waits;
        if missing != 0 {
            if self.l.options.checks.barriers {
                self.report(Check::BarrierMisuse, pc, warp.index, missing.trailing_zeros(), || {
                    "waits at the barrier of the cluster without having arrived".to_string()
                });
            }
            return Flow::Next;
        }
        if self.b.cluster_phase < warp.cluster_target {
            return Flow::Wait(mask, Status::AtCluster(warp.cluster_target));
        }
        warp.cluster_waits &= !mask;
        if self.tracking {
            let me = self.warp_agent(warp.index);
            self.order.acquire(me, &self.cluster_barrier.complete);
            self.order.all_started(me);
            self.order.sync_lanes(me, mask, self.step.wrapping_add(1));
        }
        Flow::Next
    }

    // order --------------------------------------------------------------------------------------------------------

    /// A fence between threads: what comes before it is released by later relaxed operations, and what earlier ones
    /// have seen comes before what follows.
    pub(super) fn order_fence(&mut self, warp: &mut Warp, fence: Fence) {
        if fence.wide {
            self.clock.fence(fence.acquires, fence.releases);
        }
        if !self.tracking {
            return;
        }
        let me = self.warp_agent(warp.index);
        if fence.acquires
            && let Some(seen) = warp.seen.take()
        {
            self.order.acquire(me, &seen);
        }
        if fence.releases {
            let mut sum = Pair::default();
            self.order.release(me, &mut sum);
            warp.fenced = Some(Box::new(sum));
        }
    }

    /// fence.mbarrier_init: the warp's initialisations are visible past the cluster's next barrier.
    pub(super) fn fence_inits(&mut self, warp: &Warp) {
        let me = self.warp_agent(warp.index);
        let phase = self.b.cluster_phase;
        for m in self.b.mbarriers.values_mut() {
            m.fence_init(me, phase);
        }
    }

    /// Warp `w` of the running block arrives at barrier `id` of the block.
    pub(super) fn order_arrives(&mut self, w: usize, id: usize) {
        if self.tracking {
            let me = self.warp_agent(w as u32);
            self.order.release(me, &mut self.b.barriers[id].order);
        }
    }

    /// Warp `w` has come past a barrier whose arrivals knew `sum`.
    pub(super) fn order_passes(&mut self, w: usize, sum: &Pair) {
        if self.tracking {
            let me = self.warp_agent(w as u32);
            self.order.acquire(me, sum);
            let step = self.b.warps[w].steps as u32;
            self.order.sync_lanes(me, u32::MAX, step.wrapping_add(1));
        }
    }

    /// Records an ordinary access to the block in `b`, and reports what it is in conflict with.
    pub(super) fn record_access(&mut self, what: What, offset: u32, lane: u32) {
        let base = self.b.rank * (self.l.shared_bytes as usize).div_ceil(16) * 4;
        let (mut at, end) = (offset, offset + what.bytes * what.count);
        let access = Access {
            warp: self.warp_agent(what.warp) as u32,
            lane,
            step: self.step,
            write: what.write,
            strong: what.strength.is_strong(),
        };
        while at < end {
            let next = (at / 4 * 4 + 4).min(end);
            let bytes = (((1u32 << (next - at)) - 1) << (at % 4)) as u8;
            if let Some(conflict) = self.order.access(base + at as usize / 4, bytes, access) {
                let verb = what.verb();
                self.report_conflict(conflict, what.pc, what.warp, lane, || format!("{verb} byte {at}"));
            }
            at = next;
        }
    }

    /// As [`Engine::record_access`], for bytes of any block.
    pub(super) fn record_shared(
        &mut self,
        warp: u32,
        lane: u32,
        pc: u32,
        place: Place,
        bytes: u32,
        write: bool,
    ) {
        if !self.tracking {
            return;
        }
        let back = self.b.rank;
        self.enter(place.rank);
        let what = What { pc, warp, bytes, count: 1, write, strength: Strength::Weak, atomic: false };
        self.record_access(what, place.offset, lane);
        self.enter(back);
    }

    /// Records an access through the async proxy to the granule at byte `offset` of a block.
    pub(super) fn record_async(
        &mut self,
        (rank, offset): (usize, u32),
        warp: usize,
        write: bool,
        stamp: Stamp,
    ) -> Option<Conflict> {
        let base = rank * (self.l.shared_bytes as usize).div_ceil(16);
        self.order.async_access(base + (offset / GRANULE) as usize, warp, write, stamp)
    }

    /// Reports a conflict over shared memory; `access` says what is done to which byte.
    pub(super) fn report_conflict(
        &self,
        conflict: Conflict,
        pc: u32,
        warp: u32,
        lane: u32,
        access: impl FnOnce() -> String,
    ) {
        let checks = self.l.options.checks;
        let (kind, wanted) = match conflict.what {
            Clash::Unordered => (Check::SharedRace, checks.races),
            Clash::InFlight => (Check::MissingAsyncWait, checks.async_copies),
            Clash::NoProxyFence => (Check::MissingProxyFence, checks.async_copies),
        };
        if !wanted {
            return;
        }
        self.report(kind, pc, warp, lane, || {
            let access = access();
            let did = if conflict.wrote { "writes" } else { "reads" };
            if conflict.what == Clash::InFlight {
                let issued = self.place(conflict.pc);
                return format!(
                    "{access} of shared memory, which the asynchronous operation at {issued} {did}: it has not waited for it"
                );
            }
            let (rank, w) = (conflict.warp as usize / self.warps, conflict.warp % self.warps as u32);
            let mut who = match conflict.lane {
                Some(lane) => {
                    let [x, y, z] = self.thread_of(w, lane);
                    format!("thread ({x},{y},{z})")
                }
                None => format!("warp {w}"),
            };
            if rank != self.running {
                who += &format!(" of block {rank} of the cluster");
            }
            let did = if conflict.wrote { "wrote" } else { "read" };
            let missing =
                if conflict.what == Clash::NoProxyFence { "fence.proxy.async" } else { "barrier" };
            format!("{access} of shared memory, which {who} {did} with no {missing} between")
        });
    }
}
