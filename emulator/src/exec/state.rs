//! The state of a running block: warps, groups of lanes, shared memory, barriers.

use std::collections::{BTreeMap, VecDeque};

use super::bulk::BulkQueue;
use super::lanes::{Banks, Row32, Row64};
use super::mbarrier::{Mbarrier, Wait};
pub use super::shared::Shared;
use super::wgmma::Warpgroup;
use crate::check::epoch::Epochs;
use crate::check::proxy::{Pair, Stamp};
use crate::check::race::Races;
use crate::counters::Pattern;
use crate::tensormap::Swizzle;

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
    /// Waits for a phase of the mbarrier in [`Group::wait`].
    AtMbarrier,
    /// Waits for the cluster's barrier to complete this many times.
    AtCluster(u64),
    /// At an instruction that the warps of a warpgroup execute together.
    AtWarpgroup,
    /// Waits for this many registers of the block's pool.
    ForRegisters(u32),
}

/// Lanes of a warp that are at the same instruction.
#[derive(Clone, Debug)]
pub struct Group {
    pub pc: u32,
    pub mask: u32,
    pub bases: Bases,
    pub stack: Vec<Return>,
    pub status: Status,
    /// The phase it waits for, or has asked for and been turned away.
    pub wait: Option<Wait>,
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

/// Asynchronous copies of one lane that it has not waited for, the oldest first.
#[derive(Clone, Debug, Default)]
pub struct CopyQueue {
    pub copies: VecDeque<PendingCopy>,
    /// How many of them belong to each committed group; those beyond are not committed yet.
    pub groups: VecDeque<u32>,
    pub uncommitted: u32,
}

impl CopyQueue {
    pub fn clear(&mut self) {
        self.copies.clear();
        self.groups.clear();
        self.uncommitted = 0;
    }
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
    /// Where the part of each lane's local memory starts that `alloca` has taken, from the end.
    pub taken: [u32; 32],
    pub copies: Vec<CopyQueue>,
    /// Bulk groups of each lane; empty until one is used.
    pub bulk: Vec<BulkQueue>,
    /// Lanes that have arrived at the cluster's barrier and not waited yet.
    pub cluster_arrived: u32,
    /// Lanes that have arrived there and not waited yet, and the phase that completes their arrival.
    pub cluster_waits: u32,
    pub cluster_target: u64,
    /// What it knew at its last fence.
    pub fenced: Option<Box<Pair>>,
    /// What its relaxed waits have seen since: a fence makes it known.
    pub seen: Option<Box<Pair>>,
    /// Instructions issued.
    pub steps: u64,
    /// Steps left before another warp may run.
    pub quantum: u64,
    pub spins: u32,
    /// The last strong access to global memory and what it found, as a number, and how often in a row it was the same.
    pub asked: (u64, u32),
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
    pub order: Pair,
    /// The instruction of the first arrival, for reports.
    pub pc: u32,
}

#[derive(Default)]
pub struct Block {
    pub index: [u32; 3],
    pub warps: Vec<Warp>,
    pub shared: Shared,
    pub barriers: [BarrierState; 16],
    /// The race detector of kernels that synchronise in many ways, and that of those with plain barriers only.
    pub races: Races,
    pub epochs: Epochs,
    /// The block's rank in its cluster.
    pub rank: usize,
    /// Copies out of its shared memory into other blocks of the cluster: when they are done, and who issued them.
    pub sent: Vec<(Stamp, u32, u32)>,
    /// By offset in shared memory.
    pub mbarriers: BTreeMap<u32, Mbarrier>,
    /// How often the cluster's barrier has completed.
    pub cluster_phase: u64,
    pub warpgroups: Vec<Warpgroup>,
    /// With which swizzle a tensor copy wrote each granule; empty until one has.
    pub swizzles: Vec<Option<Swizzle>>,
    /// Registers that no warp owns.
    pub pool: u32,
    /// All threads have exited.
    pub done: bool,
    /// The warp to run next.
    pub turn: usize,
    /// Turns in a row that ended because a warp only asks for what has not happened.
    pub idle_turns: usize,
    pub random: u64,
    /// Warp instructions so far, the priority of each warp, and when priorities change next (the priority schedule).
    pub ran: u64,
    pub priorities: Vec<i64>,
    pub changes: Vec<u64>,
    /// Bank patterns of shared accesses, by instruction modulo [`PATTERNS`].
    pub patterns: Vec<Pattern>,
}

/// Instructions whose bank pattern is remembered.
pub const PATTERNS: usize = 256;

impl Block {
    /// True when a group can run: it is ready, or what it waits for has happened.
    pub fn can_run(&self, group: &Group) -> bool {
        match group.status {
            Status::Ready => true,
            Status::AtMbarrier => group.wait.is_some_and(|w| {
                self.mbarriers.get(&w.offset).is_none_or(|m| m.phase > w.phase || m.agent != w.agent)
            }),
            Status::AtCluster(phase) => self.cluster_phase >= phase,
            Status::ForRegisters(count) => self.pool >= count,
            _ => false,
        }
    }

    /// A pseudo-random number below `n` (xorshift64*).
    pub fn random(&mut self, n: usize) -> usize {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        ((self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize) % n.max(1)
    }
}
