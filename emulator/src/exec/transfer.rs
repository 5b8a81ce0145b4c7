//! Transfers: bulk copies on their way, from issue to completion.

use super::engine::Engine;
use super::mbarrier::Place;
use super::rows::load_bytes;
use crate::check::Kind as Check;
use crate::check::proxy::{GRANULE, Stamp};
use crate::code::{AtomOp, AtomicOp, Bank, Strength};
use crate::ptx::ast::{Space, Ty};
use crate::tensormap::TensorMap;

/// One end of a transfer.
#[derive(Clone, Debug)]
pub(super) enum End {
    Global(u64),
    Shared(Place),
    /// A box of a tensor, at these coordinates.
    Tensor(Box<TensorMap>, [i64; 5]),
    Bytes(Vec<u8>),
}

/// How a transfer says that it is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Mbarrier(Place),
    /// The group of a thread, by rank, warp and lane.
    Group(usize, u32, u32),
}

/// A copy that has been issued.
#[derive(Clone, Debug)]
pub(super) struct Transfer {
    pub from: End,
    pub to: End,
    pub bytes: u32,
    pub reduce: Option<(AtomicOp, Ty)>,
    pub signal: Signal,
    pub stamp: Stamp,
    pub pc: u32,
    pub warp: u32,
    pub lane: u32,
    /// Rank of the block that issued it.
    pub rank: usize,
}

impl Transfer {
    pub fn signals(&self, place: Place) -> bool {
        self.signal == Signal::Mbarrier(place)
    }

    fn touches(&self, rank: usize) -> bool {
        let end = |e: &End| matches!(e, End::Shared(p) if p.rank == rank);
        end(&self.from) || end(&self.to)
    }
}

impl Engine<'_> {
    /// Puts a transfer's accesses to shared memory into the order.
    pub(super) fn order_transfer(&mut self, t: &Transfer) {
        if !self.tracking {
            return;
        }
        let me = self.warp_agent(t.warp);
        for (end, write) in [(&t.from, false), (&t.to, true)] {
            let End::Shared(place) = end else { continue };
            // A swizzle exchanges chunks within 128 bytes.
            let swizzled = match (&t.from, &t.to) {
                (End::Tensor(map, _), _) | (_, End::Tensor(map, _)) => Some(map.swizzle),
                _ => None,
            };
            for k in 0..t.bytes.div_ceil(GRANULE) {
                let at = place.offset + k * GRANULE;
                let at = swizzled.map_or(at, |s| s.apply(at));
                if at >= self.l.shared_bytes {
                    continue;
                }
                if let Some(conflict) = self.record_async((place.rank, at), me, write, t.stamp) {
                    let verb = if write { "writes" } else { "reads" };
                    self.report_conflict(conflict, t.pc, t.warp, t.lane, || {
                        format!("in bulk {verb} byte {at}")
                    });
                }
            }
        }
    }

    /// Copies to other blocks of the cluster, out of one that ends: someone in it must know that they are done.
    fn check_sources(&mut self, rank: usize) {
        let sent = std::mem::take(&mut self.block_mut(rank).sent);
        if !self.tracking || !self.l.options.checks.async_copies {
            return;
        }
        let warps = rank * self.warps..(rank + 1) * self.warps;
        for (stamp, warp, lane) in sent {
            if !warps.clone().any(|w| self.order.has_learnt(w, stamp)) {
                let running = std::mem::replace(&mut self.running, rank);
                self.report(Check::MissingAsyncWait, stamp.pc, warp, lane, || {
                    "issues a copy that may still be in flight when the block it reads ends: nothing in it waits until the copy is done".to_string()
                });
                self.running = running;
            }
        }
    }

    pub(super) fn start_transfer(&mut self, t: Transfer) {
        if let (End::Shared(from), Signal::Mbarrier(to)) = (&t.from, t.signal)
            && from.rank != to.rank
            && t.rank == from.rank
        {
            let (rank, sent) = (from.rank, (t.stamp, t.warp, t.lane));
            self.block_mut(rank).sent.push(sent);
        }

        let early = self.early();
        if early {
            return self.perform_transfer(t);
        }
        if let End::Shared(place) = &t.to
            && t.reduce.is_none()
        {
            // NaN until the bytes are there.
            let range = place.offset as usize..(place.offset + t.bytes) as usize;
            let (rank, shared) = (place.rank, range);
            self.block_mut(rank).shared.data[shared].fill(0xff);
        }
        self.pending.push_back(t);
    }

    /// Performs the pending transfer that someone waits for, or else the oldest. False when there is none.
    pub(super) fn progress_transfer(&mut self) -> bool {
        let wanted = self.pending.iter().position(|t| match t.signal {
            Signal::Mbarrier(place) => {
                let block = self.block(place.rank);
                block
                    .warps
                    .iter()
                    .flat_map(|w| &w.groups)
                    .any(|g| g.wait.is_some_and(|w| w.offset == place.offset) && !block.can_run(g))
            }
            Signal::Group(..) => false,
        });
        let at = wanted.or_else(|| self.pending.iter().position(|t| matches!(t.signal, Signal::Mbarrier(_))));
        let Some(t) = self.pending.remove(at.unwrap_or(0)) else { return false };
        self.perform_transfer(t);
        true
    }

    /// In a random schedule: sometimes performs some pending transfer.
    pub(super) fn maybe_transfer(&mut self) {
        if self.random && !self.pending.is_empty() && self.b.random(8) == 0 {
            let at = self.b.random(self.pending.len());
            if let Some(t) = self.pending.remove(at) {
                self.perform_transfer(t);
            }
        }
    }

    /// Moves a transfer's bytes and says so.
    pub(super) fn perform_transfer(&mut self, mut t: Transfer) {
        let data = self.read_end(&t);
        self.write_end(&t, &data);
        if let Signal::Mbarrier(place) = t.signal {
            let running = std::mem::replace(&mut self.running, t.rank);
            self.add_bytes(t.warp, t.lane, t.pc, place, -(t.bytes as i64));
            t.bytes = 0;
            self.complete_phase(t.warp, t.lane, t.pc, place);
            self.running = running;
        }
        self.progress += 1;
    }

    /// The bytes of a transfer as they lie in the box, without swizzle.
    pub(super) fn read_end(&mut self, t: &Transfer) -> Vec<u8> {
        let check = self.l.options.checks.uninitialised;
        match &t.from {
            End::Bytes(bytes) => bytes.clone(),
            End::Global(address) => {
                let mut out = vec![0u8; t.bytes as usize];
                if !self.read_global(*address, &mut out) && check {
                    self.unwritten_source(t, *address);
                }
                out
            }
            End::Tensor(map, at) => {
                let (out, missing) = super::tensor_copy::read(self.l.memory, map, at);
                if let Some(address) = missing.filter(|_| check) {
                    self.unwritten_source(t, address);
                }
                out
            }
            End::Shared(place) => {
                let shared = &self.block(place.rank).shared;
                let size = shared.data.len();
                let mut out = vec![0u8; t.bytes as usize];
                // What lies outside of the tensor is not stored, and need not be there.
                let mut stored = vec![u8::from(!matches!(t.to, End::Tensor(..))); t.bytes as usize];
                if let End::Tensor(map, at) = &t.to {
                    super::tensor_copy::inside(map, at, |start, n| stored[start..start + n].fill(1));
                }
                let mut missing = None;
                for (k, chunk) in out.chunks_mut(GRANULE as usize).enumerate() {
                    let linear = place.offset + k as u32 * GRANULE;
                    let start = match &t.to {
                        End::Tensor(map, _) => map.swizzle.apply(linear),
                        _ => linear,
                    } as usize;
                    let end = (start + chunk.len()).min(size);
                    if start >= end {
                        continue;
                    }
                    chunk[..end - start].copy_from_slice(&shared.data[start..end]);
                    let first = k * GRANULE as usize;
                    let unwritten = |b: usize| stored[first + b] != 0 && !shared.is_written(start + b, 1);
                    if !shared.is_written(start, end - start) && (0..end - start).any(unwritten) {
                        missing.get_or_insert(start);
                    }
                }
                if let Some(byte) = missing.filter(|_| check) {
                    self.report(Check::Uninitialised, t.pc, t.warp, t.lane, || {
                        format!("copies byte {byte} of shared memory, which nothing has written")
                    });
                }
                out
            }
        }
    }

    fn unwritten_source(&self, t: &Transfer, address: u64) {
        self.report(Check::Uninitialised, t.pc, t.warp, t.lane, || {
            format!("copies global memory that nothing has written, {}", self.l.memory.describe(address))
        });
    }

    /// Reads global bytes whose range has been checked; false when some were never written.
    fn read_global(&self, address: u64, out: &mut [u8]) -> bool {
        let Some(a) = self.l.memory.find(address) else { return true };
        let start = address - a.base;
        let mut written = true;
        for (k, word) in out.chunks_mut(8).enumerate() {
            let offset = start + 8 * k as u64;
            // SAFETY: the range was checked when the copy was issued; it starts and ends on multiples of 16.
            unsafe {
                word.copy_from_slice(&a.load(offset, 8).to_le_bytes()[..word.len()]);
                written &= a.is_written(offset, 8);
            }
        }
        written
    }

    fn write_end(&mut self, t: &Transfer, data: &[u8]) {
        match &t.to {
            End::Shared(place) => {
                let swizzle = match &t.from {
                    End::Tensor(map, _) => Some(map.swizzle),
                    _ => None,
                };
                let rank = place.rank;
                let offset = place.offset;
                let block = self.block_mut(rank);
                let size = block.shared.data.len();
                for (k, chunk) in data.chunks(GRANULE as usize).enumerate() {
                    let linear = offset + k as u32 * GRANULE;
                    let start = swizzle.map_or(linear, |s| s.apply(linear)) as usize;
                    if start + chunk.len() > size {
                        continue;
                    }
                    let cell = &mut block.shared.data[start..start + chunk.len()];
                    match t.reduce {
                        Some((op, ty)) => reduce(op, ty, cell, chunk),
                        None => cell.copy_from_slice(chunk),
                    }
                    block.shared.mark(start, chunk.len());
                    block.set_swizzle(start as u32 / GRANULE, swizzle);
                }
            }
            End::Global(address) => {
                let Some(a) = self.l.memory.find(*address) else { return };
                let start = address - a.base;
                for (k, chunk) in data.chunks(8).enumerate() {
                    let offset = start + 8 * k as u64;
                    // SAFETY: the range was checked when the copy was issued; it starts and ends on multiples of 16.
                    // Kernels with reductions in global memory run on one thread.
                    unsafe {
                        let value = match t.reduce {
                            Some((op, ty)) => {
                                let mut cell = a.load(offset, 8).to_le_bytes();
                                reduce(op, ty, &mut cell, chunk);
                                u64::from_le_bytes(cell)
                            }
                            None => load_bytes(chunk),
                        };
                        a.store(offset, 8, value);
                    }
                }
            }
            End::Tensor(map, at) => super::tensor_copy::write(self.l.memory, map, at, data, t.reduce),
            End::Bytes(_) => {}
        }
    }

    /// The last thread of block `rank` has ended: what is still on its way out of it arrives, what is on its way into
    /// it, or was and has not been waited for, is a finding.
    pub(super) fn finish_transfers(&mut self, rank: usize) {
        let mbarriers: Vec<_> =
            self.block(rank).mbarriers.values().filter(|m| m.unawaited().is_some()).cloned().collect();
        mbarriers.iter().for_each(|m| self.report_unawaited(m));
        self.check_sources(rank);
        self.pending.retain(|t| !matches!(t.signal, Signal::Mbarrier(place) if place.rank == rank));
        while let Some(at) = self.pending.iter().position(|t| {
            matches!(t.signal, Signal::Group(r, ..) if r == rank)
                || matches!(t.signal, Signal::Mbarrier(_)) && t.touches(rank)
        }) {
            let Some(t) = self.pending.remove(at) else { return };
            self.perform_transfer(t);
        }
    }
}

/// Combines `source` into `cell`, element by element.
pub(super) fn reduce(op: AtomicOp, ty: Ty, cell: &mut [u8], source: &[u8]) {
    let n = ty.bytes() as usize;
    let atom = AtomOp {
        op,
        ty,
        space: Space::Global,
        address: Bank::R64,
        offset: 0,
        has_result: false,
        strength: Strength::Relaxed,
    };
    for (c, s) in cell.chunks_mut(n).zip(source.chunks(n)) {
        let value = super::atomics::update(&atom, load_bytes(c), load_bytes(s), 0);
        c.copy_from_slice(&value.to_le_bytes()[..n]);
    }
}
