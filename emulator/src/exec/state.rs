//! The state of a running block: warps, groups of lanes, shared memory, barriers.

use std::collections::VecDeque;

use super::lanes::{Banks, Row32, Row64};
use crate::check::race::Races;

/// Where a frame's rows start in the banks of its warp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bases {
    pub r32: u32,
    pub r64: u32,
    pub preds: u32,
    /// Bytes into each lane's local memory.
    pub local: u32,
    /// Frame number in the code.
    pub frame: u32,
}

/// A caller to return to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Return {
    pub pc: u32,
    pub bases: Bases,
    pub call: u32,
}

/// Why a group of lanes does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ready,
    /// At a warp-wide instruction, until the lanes it names are there too.
    Converging,
    /// Arrived at a barrier.
    AtBarrier(u32),
}

/// Lanes of a warp that are at the same instruction.
#[derive(Clone, Debug)]
pub struct Group {
    pub pc: u32,
    pub mask: u32,
    pub bases: Bases,
    pub stack: Vec<Return>,
    pub status: Status,
    /// When it last ran, for fairness.
    pub ran: u64,
}

/// One asynchronous copy that has been issued and may not have happened.
#[derive(Clone, Copy, Debug)]
pub struct PendingCopy {
    pub lane: u8,
    pub bytes: u8,
    /// Bytes to take from global memory; the rest is zeros.
    pub source_bytes: u8,
    pub shared: u32,
    pub global: u64,
    pub pc: u32,
    pub done: bool,
}

/// Groups of asynchronous copies of one lane, the oldest first; the last one is open.
#[derive(Clone, Debug, Default)]
pub struct CopyQueue {
    pub groups: VecDeque<Vec<PendingCopy>>,
    pub open: Vec<PendingCopy>,
}

#[derive(Default)]
pub struct Warp {
    pub index: u32,
    pub r32: Vec<Row32>,
    pub r64: Vec<Row64>,
    pub preds: Vec<u32>,
    pub groups: Vec<Group>,
    /// Lanes that exist and have not exited.
    pub alive: u32,
    pub local: Vec<u8>,
    pub local_written: Vec<u8>,
    /// Bytes of local memory per lane.
    pub local_bytes: u32,
    pub copies: Vec<CopyQueue>,
    /// Instructions issued.
    pub steps: u64,
    /// Steps left before another warp may run.
    pub quantum: u64,
    pub spins: u32,
}

impl Warp {
    /// Pointers to the rows of a frame. Valid until the vectors grow.
    pub fn banks(&mut self, bases: &Bases) -> Banks {
        debug_assert!(bases.r32 as usize <= self.r32.len() && bases.r64 as usize <= self.r64.len());
        // SAFETY: a frame's bases lie within the vectors, which `grow` has made long enough for its rows.
        unsafe {
            Banks {
                r32: self.r32.as_mut_ptr().add(bases.r32 as usize),
                r64: self.r64.as_mut_ptr().add(bases.r64 as usize),
                preds: self.preds.as_mut_ptr().add(bases.preds as usize),
            }
        }
    }

    /// Makes room for a frame at `bases`.
    pub fn grow(&mut self, bases: &Bases, rows32: u32, rows64: u32, preds: u32) {
        let need = |base: u32, rows: u32| (base + rows) as usize;
        if self.r32.len() < need(bases.r32, rows32) {
            self.r32.resize(need(bases.r32, rows32), Row32([0; 32]));
        }
        if self.r64.len() < need(bases.r64, rows64) {
            self.r64.resize(need(bases.r64, rows64), Row64([0; 32]));
        }
        if self.preds.len() < need(bases.preds, preds) {
            self.preds.resize(need(bases.preds, preds), 0);
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct BarrierState {
    /// Warps that have arrived since the last completion, and how many arrivals.
    pub arrived: u32,
    pub arrivals: u32,
    /// Warps that wait.
    pub waiting: u32,
    /// Arrivals, in warps, that complete it; None when all warps of the block are meant.
    pub expected: Option<u32>,
    /// Votes of a reducing barrier: lanes for which the predicate held, and lanes that voted.
    pub votes: u32,
    pub voters: u32,
    pub reduces: bool,
    pub clock: Vec<u32>,
    /// The instruction of the first arrival, for reports.
    pub pc: u32,
}

pub struct Shared {
    pub data: Vec<u8>,
    /// 1 where written.
    pub written: Vec<u8>,
    /// 1 + warp * 32 + lane of an asynchronous copy into this byte that has not been waited for.
    pub in_flight: Vec<u16>,
    pub any_in_flight: bool,
}

pub struct Block {
    pub index: [u32; 3],
    pub warps: Vec<Warp>,
    pub shared: Shared,
    pub barriers: [BarrierState; 16],
    pub races: Races,
    /// The warp to run next.
    pub turn: usize,
    pub random: u64,
}

impl Block {
    /// A pseudo-random number below `n` (xorshift64*).
    pub fn random(&mut self, n: usize) -> usize {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        ((self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize) % n.max(1)
    }
}
