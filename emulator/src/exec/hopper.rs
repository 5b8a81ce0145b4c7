//! Instructions of sm_90 that one warp executes: the way to their modules, and the small ones.

use super::access::What;
use super::engine::Engine;
use super::lanes::Banks;
use super::rows::{lanes_of, read32, read64, write32, write64};
use super::state::{Status, Warp};
use crate::check::Kind as Check;
use crate::code::{HopperOp, Strength};
use crate::memory::RANK_SHIFT;

/// What a group does after an instruction.
pub(super) enum Flow {
    /// Goes on.
    Next,
    /// Goes on, but lets others run first.
    Yield,
    /// These lanes stay at the instruction.
    Wait(u32, Status),
}

impl Engine<'_> {
    pub(super) fn hopper(
        &mut self,
        warp: &mut Warp,
        g: usize,
        banks: &Banks,
        index: u32,
        pc: u32,
        mask: u32,
    ) -> Flow {
        let code = self.l.code;
        let op = code.hoppers[index as usize];
        let pool = &code.pool[code.insts[pc as usize].pool as usize..];
        match op {
            HopperOp::ClusterArrive { aligned: true, .. } | HopperOp::ClusterWait { aligned: true }
                if mask != warp.alive =>
            {
                return Flow::Wait(mask, Status::Converging);
            }
            HopperOp::ClusterArrive { relaxed, .. } => self.cluster_arrive(warp, pc, mask, relaxed),
            HopperOp::ClusterWait { .. } => return self.cluster_wait(warp, pc, mask),
            HopperOp::Mapa { wide, generic } => {
                let ranks = read32(banks, pool[2]);
                let size = self.cluster.len() as u32;
                let wrong = lanes_of(mask).find(|&i| ranks[i as usize] >= size);
                if let Some(lane) = wrong {
                    self.report(Check::ClusterMisuse, pc, warp.index, lane, || {
                        format!("maps an address to block {} of a cluster of {size}", ranks[lane as usize])
                    });
                }
                let keep = (1u64 << RANK_SHIFT) - 1;
                let map = |a: u64, i: u32| {
                    let window = if generic { a >> 32 << 32 } else { 0 };
                    window | (a & keep) | (ranks[i as usize] as u64 + 1) << RANK_SHIFT
                };
                if wide {
                    let a = read64(banks, pool[1]);
                    write64(banks, pool[0], mask, |i| map(a[i as usize], i));
                } else {
                    let a = read32(banks, pool[1]);
                    write32(banks, pool[0], mask, |i| map(a[i as usize] as u64, i) as u32);
                }
            }
            HopperOp::GetCtaRank { wide } => {
                let a = if wide { read64(banks, pool[1]).map(|a| a as u32) } else { read32(banks, pool[1]) };
                let own = self.running as u32;
                write32(banks, pool[0], mask, |i| match a[i as usize] >> RANK_SHIFT {
                    0 => own,
                    rank => rank - 1,
                });
            }
            HopperOp::Bulk(op) => self.bulk_copy(warp, banks, op, pool, pc, mask),
            HopperOp::BulkCommit => self.bulk_commit(warp, mask),
            HopperOp::BulkWait { keep, read } => self.bulk_wait(warp, mask, keep, read),
            HopperOp::StAsync { at, mbarrier, ty, count, reduce } => {
                self.store_async(warp, banks, (at, mbarrier, ty, count as usize, reduce), pool, pc, mask);
            }
            HopperOp::TensormapReplace { at, field, wide } => {
                self.tensormap_replace(warp, banks, (at, field, wide), pool, pc, mask);
            }
            HopperOp::TensormapCopy { to, from } => {
                self.tensormap_copy(warp, banks, (to, from), pool, pc, mask);
            }
            HopperOp::ProxyFence { shared, global } => {
                if shared && self.tracking {
                    let me = self.warp_agent(warp.index);
                    self.order.proxy_fence(me);
                }
                if global {
                    self.clock.proxy_fence();
                }
            }
            HopperOp::MbarrierInitFence => self.fence_inits(warp),
            HopperOp::CreatePolicy => write64(banks, pool[0], mask, |_| 0),
            HopperOp::Stmatrix { count, transpose } => {
                if mask != warp.alive {
                    return Flow::Wait(mask, Status::Converging);
                }
                self.stmatrix(warp.index, banks, pool, (count as usize, transpose), pc, mask);
            }
            HopperOp::CpAsyncArrive { at, noinc } => {
                self.cp_async_arrive(warp, banks, (at, noinc), pool, pc, mask);
            }
            _ => return self.mbarrier(warp, g, banks, op, pool, pc, mask),
        }
        Flow::Next
    }

    /// The inverse of ldmatrix: lane 8m + r gives the address of row r of matrix m.
    fn stmatrix(
        &mut self,
        warp: u32,
        banks: &Banks,
        pool: &[u16],
        (count, transpose): (usize, bool),
        pc: u32,
        mask: u32,
    ) {
        let addresses = read64(banks, pool[0]);
        let giving = if count == 4 { u32::MAX } else { (1 << (8 * count)) - 1 };
        let what =
            What { pc, warp, bytes: 16, count: 1, write: true, strength: Strength::Weak, atomic: false };
        let (good, offsets) = self.shared_lanes(what, &addresses, giving & mask);
        for (m, &slot) in pool[1..].iter().enumerate().take(count) {
            let values = read32(banks, slot);
            let mut rows = [[0u16; 8]; 8];
            for (lane, v) in values.iter().enumerate() {
                let (r, t) = (lane / 4, lane % 4);
                let (low, high) = (*v as u16, (*v >> 16) as u16);
                if transpose {
                    (rows[2 * t][r], rows[2 * t + 1][r]) = (low, high);
                } else {
                    (rows[r][2 * t], rows[r][2 * t + 1]) = (low, high);
                }
            }
            for (r, row) in rows.iter().enumerate() {
                let lane = 8 * m + r;
                if good >> lane & 1 == 0 {
                    continue;
                }
                let at = offsets[lane] as usize;
                for (e, v) in row.iter().enumerate() {
                    self.b.shared.data[at + 2 * e..at + 2 * e + 2].copy_from_slice(&v.to_le_bytes());
                }
                self.b.shared.mark(at, 16);
            }
        }
    }
}
