//! Runs a launch: sets blocks up and runs them, in parallel where they cannot see each other's work.

use std::collections::VecDeque;
use std::sync::Mutex;

use rayon::prelude::*;

use super::cluster::ClusterBarrier;
use super::rows::lanes_of;
use super::state::*;
use super::transfer::Transfer;
use super::wgmma::Warpgroup;
use crate::check::global::{Clock, Releases};
use crate::check::proxy::Order;
use crate::check::{Finding, Findings, Kind as Check, Site};
use crate::code::*;
use crate::counters::{Count, Pattern};
use crate::memory::GlobalMemory;
use crate::options::{AsyncTiming, Options, Schedule};

/// Steps a block runs before the next one is admitted beside it.
const BLOCK_QUANTUM: u64 = 50_000;
/// The same where blocks wait for the whole grid: those that wait should not wait for long.
const COOPERATIVE_QUANTUM: u64 = 20_000;

/// Warp instructions below which handing blocks to other threads costs more than it saves.
const WORTH_SHARING: u64 = 50_000;

/// Memory of blocks that have run, for the next launch.
#[allow(clippy::vec_box)] // blocks change places with the one that runs: by their pointers
pub type Spare = Mutex<Vec<Box<Block>>>;

/// Everything about a launch that blocks share.
pub struct Launch<'a> {
    pub kernel: &'a str,
    pub code: &'a Code,
    pub files: &'a std::collections::HashMap<u32, String>,
    pub memory: &'a GlobalMemory,
    pub options: &'a Options,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Blocks of a cluster along each axis, and whether the launch or the kernel asks for clusters.
    pub cluster: [u32; 3],
    pub explicit_cluster: bool,
    /// Registers of each thread at the start, where the kernel is compiled with a bound.
    pub registers: Option<u32>,
    pub params: &'a [u8],
    /// Address of each variable of the module.
    pub addresses: &'a [u64],
    /// Static and dynamic bytes, and where the dynamic part starts.
    pub shared_bytes: u32,
    pub dynamic_shared: u32,
    pub dynamic_start: u32,
    /// Where the reserved part starts, in kernels that name it.
    pub reserved_shared: Option<u32>,
    pub findings: &'a Findings,
    pub printed: &'a Mutex<String>,
    pub grid_id: u64,
    /// Where a cooperative launch keeps its grid-wide barrier; 0 in others.
    pub workspace: u64,
    /// Collects the steps of one warp.
    pub trace: Option<&'a Mutex<super::trace::Trace>>,
    pub spare: &'a Spare,
    /// Number of the launch for the check of global races, and what orders its blocks.
    pub number: u64,
    pub releases: Mutex<Releases>,
}

/// How races in shared memory are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RaceCheck {
    Off,
    /// One clock for the block ([`crate::check::epoch`]).
    Epochs,
    /// A vector clock for each warp ([`crate::check::race`]).
    Clocks,
    /// Clocks of a cluster's warps and asynchronous agents ([`crate::check::proxy`]).
    Order,
}

pub(super) struct Engine<'a> {
    pub l: &'a Launch<'a>,
    /// The block that runs, or whose memory is accessed.
    pub b: Box<Block>,
    /// The blocks of the cluster by rank; that of `b` is empty.
    #[expect(clippy::vec_box, reason = "blocks are swapped with `b` by their pointers")]
    pub cluster: Vec<Box<Block>>,
    /// Rank of the block whose warp runs.
    pub running: usize,
    /// Warps of a block.
    pub warps: usize,
    pub cluster_barrier: ClusterBarrier,
    /// True for kernels of sm_90 features and clusters, whose accesses are ordered by `order`.
    pub hopper: bool,
    /// True when `order` is kept up.
    pub tracking: bool,
    pub order: Order,
    /// Bulk copies that have been issued and not performed, the oldest first.
    pub pending: VecDeque<Transfer>,
    /// Grows with everything that may let a waiting warp go on.
    pub progress: u64,
    /// `progress` when last looked at; questions to mbarriers that were turned away since, and turns of warps.
    pub seen: u64,
    pub polls: u64,
    pub turns: u64,
    pub counts: Vec<Count>,
    /// The step of the warp that runs, for the order between its lanes.
    pub step: u32,
    /// Numbers clock reads.
    pub ticks: u64,
    pub random: bool,
    pub races: RaceCheck,
    /// Order of global accesses, for the check of their races.
    pub clock: Clock,
    /// Lanes of a store that leave memory as it is, which race with nobody.
    pub quiet: u32,
    /// The warps hold this launch's fixed values, as far as they do not depend on the block.
    filled: bool,
}

/// Runs all blocks; returns the counts of each instruction.
pub fn run(l: &Launch) -> Vec<Count> {
    let size = l.cluster.iter().map(|&d| d as u64).product::<u64>();
    let total = l.grid.iter().map(|&d| d as u64).product::<u64>() / size;
    let empty = || vec![Count::default(); l.code.insts.len()];
    let add = |mut a: Vec<Count>, b: Vec<Count>| {
        a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        a
    };
    let parallel = !l.code.blocks_communicate && total > 1 && l.options.threads != 1;
    if !parallel {
        return run_together(l, total);
    }
    // The first blocks run here, until it shows that the rest is worth sharing.
    let mut engine = Engine::new(l);
    let (mut next, mut steps) = (0, 0);
    while next < total && steps / (next + 1) * (total - next) < WORTH_SHARING && !l.findings.stopped() {
        engine.start(next);
        while !engine.cluster_turn(u64::MAX) {}
        next += 1;
        let blocks = std::iter::once(&engine.b).chain(&engine.cluster);
        steps += blocks.flat_map(|b| &b.warps).map(|w| w.steps).sum::<u64>();
    }
    let counts = engine.finish();
    let left = total - next;
    if left == 0 || l.findings.stopped() {
        return counts;
    }
    // Blocks that cannot see each other's work run in any order, in runs that keep a block's memory warm.
    let chunk = left.div_ceil(64).clamp(1, 64);
    let work = || {
        (0..left.div_ceil(chunk))
            .into_par_iter()
            .fold(
                || None,
                |state: Option<Engine>, c| {
                    let mut engine = state.unwrap_or_else(|| Engine::new(l));
                    for b in next + c * chunk..next + ((c + 1) * chunk).min(left) {
                        if l.findings.stopped() {
                            break;
                        }
                        engine.start(b);
                        while !engine.cluster_turn(u64::MAX) {}
                    }
                    Some(engine)
                },
            )
            .map(|engine| engine.map_or_else(empty, Engine::finish))
            .reduce(empty, add)
    };
    let rest = match l.options.threads {
        0 => work(),
        n => match rayon::ThreadPoolBuilder::new().num_threads(n).build() {
            Ok(pool) => pool.install(work),
            Err(_) => work(),
        },
    };
    add(counts, rest)
}

/// Blocks that communicate: one host thread, every unfinished block resident, as many as the device would hold.
fn run_together(l: &Launch, total: u64) -> Vec<Count> {
    let arch = l.options.arch;
    let threads: u32 = l.block.iter().product();
    let by_threads = arch.max_threads_per_sm / threads.div_ceil(32).max(1) / 32;
    let by_shared = arch.shared_per_sm / (l.shared_bytes + arch.shared_reserved);
    let per_sm = by_threads.min(by_shared).min(arch.max_blocks_per_sm).max(1);
    let resident_max = ((per_sm * arch.sms / l.cluster.iter().product::<u32>()) as usize).max(1);
    let mut counts = vec![Count::default(); l.code.insts.len()];
    let mut resident: std::collections::VecDeque<Engine> = Default::default();
    let mut spare: Vec<Engine> = Vec::new();
    let mut next = 0;
    loop {
        if l.findings.stopped() {
            break;
        }
        if next < total && resident.len() < resident_max {
            let mut engine = spare.pop().unwrap_or_else(|| Engine::new(l));
            engine.start(next);
            next += 1;
            resident.push_front(engine);
        }
        let Some(mut engine) = resident.pop_front() else { break };
        let quantum = match (engine.random, l.workspace) {
            // Turns of every order of magnitude.
            (true, _) => {
                let range = 16 << engine.b.random(9);
                1 + engine.b.random(range) as u64
            }
            (_, 0) => BLOCK_QUANTUM,
            _ => COOPERATIVE_QUANTUM,
        };
        if engine.cluster_turn(quantum) {
            spare.push(engine);
        } else {
            resident.push_back(engine);
        }
    }
    for engine in spare.into_iter().chain(resident) {
        counts.iter_mut().zip(engine.finish()).for_each(|(a, b)| *a += b);
    }
    counts
}

impl<'a> Engine<'a> {
    fn new(l: &'a Launch<'a>) -> Engine<'a> {
        let size = l.cluster.iter().product::<u32>() as usize;
        let hopper = l.code.uses_hopper || size > 1;
        let blocks = l.grid.iter().map(|&d| d as u64).product::<u64>() / size as u64;
        let tracking = hopper && (l.options.checks.races || l.options.checks.async_copies);
        let races = match (l.options.checks.races && l.shared_bytes > 0, l.code.plain_barriers) {
            _ if tracking => RaceCheck::Order,
            _ if hopper => RaceCheck::Off,
            (false, _) => RaceCheck::Off,
            (true, true) => RaceCheck::Epochs,
            (true, false) => RaceCheck::Clocks,
        };
        let inside = l.code.plain_barriers && !l.code.blocks_communicate && !hopper;
        let clock = match l.options.checks.global_races {
            true => Clock::new(l.number, blocks, inside, l.code.blocks_communicate),
            false => Clock::default(),
        };
        let block = || {
            let mut b = l.spare.lock().unwrap_or_else(|e| e.into_inner()).pop().unwrap_or_default();
            // It may have been another's of a cluster.
            b.rank = 0;
            b.patterns.resize(PATTERNS, Pattern::default());
            b
        };
        Engine {
            l,
            b: block(),
            cluster: (0..size).map(|rank| if rank == 0 { Box::default() } else { block() }).collect(),
            running: 0,
            warps: l.block.iter().product::<u32>().div_ceil(32) as usize,
            cluster_barrier: ClusterBarrier::default(),
            hopper,
            tracking,
            order: Order::default(),
            pending: VecDeque::new(),
            progress: 0,
            seen: 0,
            polls: 0,
            turns: 0,
            counts: vec![Count::default(); l.code.insts.len()],
            step: 0,
            ticks: 0,
            random: l.options.schedule != Schedule::Fast,
            races,
            quiet: 0,
            filled: false,
            clock,
        }
    }

    /// Gives the blocks' memory back; returns the counts.
    fn finish(self) -> Vec<Count> {
        let mut spare = self.l.spare.lock().unwrap_or_else(|e| e.into_inner());
        spare.extend(std::iter::once(self.b).chain(self.cluster).filter(|b| !b.patterns.is_empty()));
        self.counts
    }

    /// Sets up cluster number `number`; without clusters, block number `number`.
    fn start(&mut self, number: u64) {
        let l = self.l;
        let [gx, gy, _]: [u64; 3] = std::array::from_fn(|i| (l.grid[i] / l.cluster[i]) as u64);
        let at = [(number % gx) as u32, (number / gx % gy) as u32, (number / gx / gy) as u32];
        let [cx, cy, _] = l.cluster;
        self.cluster_barrier = ClusterBarrier::default();
        self.pending.clear();
        (self.polls, self.turns) = (0, 0);
        if self.tracking {
            let size = self.cluster.len();
            let bytes = (l.shared_bytes as usize).div_ceil(16) * 16;
            self.order.reset(size * self.warps, size * bytes);
        }
        self.clock.start(number, self.warps);
        for rank in 0..self.cluster.len() {
            let r = rank as u32;
            let inside = [r % cx, r / cx % cy, r / cx / cy];
            let index = std::array::from_fn(|i| at[i] * l.cluster[i] + inside[i]);
            self.cluster[rank].rank = rank;
            self.enter(rank);
            self.b.rank = rank;
            self.running = rank;
            self.start_block(number.wrapping_mul(self.cluster.len() as u64) + rank as u64, index);
        }
        self.enter(0);
        self.running = 0;
        self.filled = true;
    }

    /// Sets up the block in `b`.
    fn start_block(&mut self, number: u64, index: [u32; 3]) {
        let l = self.l;
        self.b.index = index;
        self.b.random = (l.options.seed.wrapping_add(number).wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1;
        (self.b.turn, self.b.idle_turns) = (0, 0);
        self.b.ran = 0;
        self.b.barriers = Default::default();
        let shared = l.shared_bytes as usize;
        self.b.shared.reset(shared, l.options.checks.uninitialised);
        if let Some(start) = l.reserved_shared {
            // System software finds its part zeroed, as the barriers of cooperative groups expect.
            self.b.shared.data[start as usize..].fill(0);
            self.b.shared.mark(start as usize, shared - start as usize);
        }
        let threads: u32 = l.block.iter().product();
        let warps = threads.div_ceil(32);
        self.b.mbarriers.clear();
        self.b.sent.clear();
        self.b.swizzles.clear();
        (self.b.cluster_phase, self.b.pool, self.b.done) = (0, 0, false);
        let registers = l.registers.unwrap_or(0);
        self.b.warpgroups.clear();
        self.b.warpgroups.resize(warps.div_ceil(4) as usize, Warpgroup::new(registers));
        match self.races {
            RaceCheck::Off | RaceCheck::Order => {}
            RaceCheck::Epochs => self.b.epochs.reset(warps as usize, shared, l.code.shared_granule),
            RaceCheck::Clocks => self.b.races.reset(warps as usize, shared.div_ceil(4)),
        }
        self.b.warps.resize_with(warps as usize, Warp::default);
        for w in 0..warps {
            let mut warp = std::mem::take(&mut self.b.warps[w as usize]);
            warp.index = w;
            warp.alive = u32::MAX >> (32 - (threads - 32 * w).min(32));
            warp.steps = 0;
            warp.spins = 0;
            warp.asked = (0, 0);
            let bases = Bases::default();
            let frame = &l.code.frames[0];
            warp.local_bytes =
                frame.local_bytes + if l.code.uses_stack() { l.options.stack_bytes } else { 0 };
            warp.taken = [warp.local_bytes; 32];
            let local = warp.local_bytes as usize * 32;
            warp.local.resize(local, 0);
            warp.local_written.resize(local, 0);
            // A function's frame is prepared when it is called.
            for lane in 0..if frame.local_bytes > 0 { 32 } else { 0 } {
                let start = (lane * warp.local_bytes) as usize;
                let own = start..start + frame.local_bytes as usize;
                warp.local[own.clone()].fill(0xff);
                warp.local_written[own].fill(0);
            }
            warp.copies.iter_mut().for_each(|queue| queue.clear());
            warp.bulk.clear();
            (warp.cluster_arrived, warp.cluster_waits, warp.cluster_target) = (0, 0, 0);
            (warp.fenced, warp.seen) = (None, None);
            if self.filled {
                self.renew_frame(&mut warp);
            } else {
                self.enter_frame(&mut warp, &bases, u32::MAX);
            }
            warp.groups.clear();
            warp.groups.push(Group {
                pc: frame.entry,
                mask: warp.alive,
                bases,
                stack: Vec::new(),
                status: Status::Ready,
                wait: None,
                ran: 0,
            });
            self.b.warps[w as usize] = warp;
        }
    }

    /// Fills those fixed rows of the kernel's own frame again that the last block had otherwise, or changed.
    fn renew_frame(&self, warp: &mut Warp) {
        for &(fixed, bank, slot) in &self.l.code.frames[0].fixed {
            let by_block = matches!(
                fixed,
                Fixed::Ctaid(_)
                    | Fixed::SmId
                    | Fixed::ClusterCtaid(_)
                    | Fixed::ClusterId(_)
                    | Fixed::ClusterRank
            );
            if bank == Bank::Pred || by_block {
                self.fill_row(warp, &Bases::default(), (fixed, bank, slot), u32::MAX);
            }
        }
    }

    /// Fills the rows of fixed values of a frame, for the lanes of `mask`.
    pub(super) fn enter_frame(&mut self, warp: &mut Warp, bases: &Bases, mask: u32) {
        let frame = &self.l.code.frames[bases.frame as usize];
        warp.grow(bases, frame.rows32, frame.rows64, frame.preds);
        for &row in &frame.fixed {
            self.fill_row(warp, bases, row, mask);
        }
    }

    fn fill_row(&self, warp: &mut Warp, bases: &Bases, (fixed, bank, slot): (Fixed, Bank, u16), mask: u32) {
        let by_lane = matches!(
            fixed,
            Fixed::Tid(_)
                | Fixed::LaneId
                | Fixed::LanemaskEq
                | Fixed::LanemaskLe
                | Fixed::LanemaskLt
                | Fixed::LanemaskGe
                | Fixed::LanemaskGt
        );
        let mut values = [self.fixed_value(fixed, warp.index, 0, bases); 32];
        if by_lane {
            values = std::array::from_fn(|lane| self.fixed_value(fixed, warp.index, lane as u32, bases));
        }
        match bank {
            Bank::R32 => {
                let row = &mut warp.r32[(bases.r32 + slot as u32) as usize].0;
                lanes_of(mask).for_each(|i| row[i as usize] = values[i as usize] as u32);
            }
            Bank::R64 => {
                let row = &mut warp.r64[(bases.r64 + slot as u32) as usize].0;
                lanes_of(mask).for_each(|i| row[i as usize] = values[i as usize]);
            }
            Bank::Pred => {
                let row = &mut warp.preds[(bases.preds + slot as u32) as usize];
                *row = *row & !mask | if values[0] & 1 != 0 { mask } else { 0 };
            }
        }
    }

    fn fixed_value(&self, fixed: Fixed, warp: u32, lane: u32, bases: &Bases) -> u64 {
        let l = self.l;
        let [bx, by, _] = l.block;
        let thread = warp * 32 + lane;
        (match fixed {
            Fixed::Tid(axis) => [thread % bx, thread / bx % by, thread / bx / by][axis as usize],
            Fixed::Ntid(axis) => l.block[axis as usize],
            Fixed::Ctaid(axis) => self.b.index[axis as usize],
            Fixed::Nctaid(axis) => l.grid[axis as usize],
            Fixed::LaneId => lane,
            Fixed::WarpId => warp,
            Fixed::NWarpId => l.options.arch.max_threads_per_sm / 32,
            Fixed::SmId => (self.b.index[0] + self.b.index[1] * l.grid[0]) % l.options.arch.sms,
            Fixed::NSmId => l.options.arch.sms,
            Fixed::LanemaskEq => 1 << lane,
            Fixed::LanemaskLt => (1 << lane) - 1,
            Fixed::LanemaskLe => u32::MAX >> (31 - lane),
            Fixed::LanemaskGe => u32::MAX << lane,
            Fixed::LanemaskGt => (u32::MAX << lane) & !(1 << lane),
            Fixed::ClusterCtaid(axis) => self.b.index[axis as usize] % l.cluster[axis as usize],
            Fixed::ClusterNctaid(axis) => l.cluster[axis as usize],
            Fixed::ClusterId(axis) => self.b.index[axis as usize] / l.cluster[axis as usize],
            Fixed::NClusterId(axis) => l.grid[axis as usize] / l.cluster[axis as usize],
            Fixed::ClusterRank => self.b.rank as u32,
            Fixed::ClusterSize => self.cluster.len() as u32,
            Fixed::IsExplicitCluster => l.explicit_cluster as u32,
            Fixed::DynamicSharedBytes => l.dynamic_shared,
            Fixed::TotalSharedBytes => l.reserved_shared.unwrap_or(l.shared_bytes),
            Fixed::ReservedShared(byte) => l.reserved_shared.unwrap_or(0) + byte as u32,
            Fixed::LocalBase => bases.local,
            Fixed::DynamicShared => l.dynamic_start,
            Fixed::GridId => return l.grid_id,
            Fixed::Global(index, offset) => {
                return l.addresses.get(index as usize).copied().unwrap_or(0).wrapping_add_signed(offset);
            }
            Fixed::Workspace(high) => (l.workspace >> if high { 32 } else { 0 }) as u32,
            Fixed::Constant(v) => return v,
        }) as u64
    }

    /// Whether an asynchronous operation that is issued now happens at once.
    pub(super) fn early(&mut self) -> bool {
        match (self.l.options.async_timing, self.random) {
            (AsyncTiming::Early, _) => true,
            (AsyncTiming::Random, _) | (AsyncTiming::Auto, true) => self.b.random(2) == 0,
            _ => false,
        }
    }

    // reports ------------------------------------------------------------------------------------------------------

    pub fn thread_of(&self, warp: u32, lane: u32) -> [u32; 3] {
        let [bx, by, _] = self.l.block;
        let t = warp * 32 + lane;
        [t % bx, t / bx % by, t / bx / by]
    }

    pub fn source(&self, pc: u32) -> Option<(String, u32)> {
        let loc = self.l.code.info[pc as usize].loc?;
        Some((self.l.files.get(&loc.file).cloned().unwrap_or_default(), loc.line))
    }

    /// Where an instruction is, in words.
    pub fn place(&self, pc: u32) -> String {
        let line = self.l.code.info[pc as usize].ptx_line;
        match self.source(pc) {
            Some((file, source)) => format!("{file}:{source} (PTX line {line})"),
            None => format!("PTX line {line}"),
        }
    }

    /// Reports a finding; the message is only made when it is new.
    pub fn report(&self, kind: Check, pc: u32, warp: u32, lane: u32, message: impl FnOnce() -> String) {
        let site = match self.l.code.info[pc as usize].loc {
            Some(loc) => Site::Source(loc.file, loc.line),
            None => Site::Instruction(pc),
        };
        let ptx_line = self.l.code.info[pc as usize].ptx_line;
        let known = self.l.findings.knows(site, ptx_line, kind);
        let message = if known { String::new() } else { message() };
        self.l.findings.add(
            site,
            Finding {
                kind,
                kernel: self.l.kernel.to_string(),
                block: self.block(self.running).index,
                thread: self.thread_of(warp, lane),
                ptx_line,
                source: self.source(pc),
                message,
                count: 1,
                order: self.l.options.order(),
            },
        );
    }

    /// Reports a finding that ends the launch.
    pub fn fatal(&self, kind: Check, pc: u32, warp: u32, lane: u32, message: impl FnOnce() -> String) {
        self.report(kind, pc, warp, lane, message);
        self.l.findings.stop();
    }
}
