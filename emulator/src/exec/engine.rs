//! Runs blocks: schedules warps, groups of lanes within a warp, and interprets instructions.
//!
//! A warp is a list of groups of lanes at the same instruction (independent thread scheduling, PTX ISA section 3.1).
//! The group furthest behind in layout order runs first, so lanes meet again where paths join; a group that loops
//! while others wait is overtaken after some turns, so a lane that spins on a lock held by another lane gets its lock.
//! There is no reconvergence stack.

use std::sync::Mutex;

use rayon::prelude::*;

use super::lanes::Banks;
use super::scalar;
use super::state::*;
use crate::check::{Finding, Findings, Kind as Check};
use crate::code::*;
use crate::counters::Count;
use crate::memory::GlobalMemory;
use crate::options::{Options, Schedule};

/// Turns around a loop after which other groups of the warp get to run.
const SPIN_TURNS: u32 = 64;
/// Steps a warp runs while others of its block are ready, unless the schedule is random.
const WARP_QUANTUM: u64 = 100_000;
/// Steps a block runs before the next one is admitted beside it.
const BLOCK_QUANTUM: u64 = 4_000_000;
/// Deepest chain of calls.
const MAX_CALLS: usize = 256;

/// Everything about a launch that blocks share.
pub struct Launch<'a> {
    pub kernel: &'a str,
    pub code: &'a Code,
    pub files: &'a std::collections::HashMap<u32, String>,
    pub memory: &'a GlobalMemory,
    pub options: &'a Options,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub params: &'a [u8],
    /// Address of each variable of the module.
    pub addresses: &'a [u64],
    /// Static and dynamic bytes, and where the dynamic part starts.
    pub shared_bytes: u32,
    pub dynamic_shared: u32,
    pub dynamic_start: u32,
    pub findings: &'a Findings,
    pub printed: &'a Mutex<String>,
    pub grid_id: u64,
}

/// What became of a warp's turn.
enum Turn {
    Done,
    /// Nothing of it can run until something else does.
    Waiting,
    /// Its quantum is over.
    Preempted,
}

/// Why a group stopped.
pub(super) enum Stop {
    /// Another group may be better placed to run.
    Reschedule,
    Preempted,
    /// The group has arrived at a barrier: pool position of the instruction.
    Barrier,
}

pub(super) struct Engine<'a> {
    pub l: &'a Launch<'a>,
    pub b: Block,
    pub counts: Vec<Count>,
    /// The step of the warp that runs, for the order between its lanes.
    pub step: u32,
    /// Numbers clock reads.
    pub ticks: u64,
    pub random: bool,
}

/// Runs all blocks; returns the counts of each instruction.
pub fn run(l: &Launch) -> Vec<Count> {
    let total = l.grid.iter().map(|&d| d as u64).product::<u64>();
    let empty = || vec![Count::default(); l.code.insts.len()];
    let add = |mut a: Vec<Count>, b: Vec<Count>| {
        a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        a
    };
    let parallel = !l.code.blocks_communicate && total > 1 && l.options.threads != 1;
    if !parallel {
        return run_together(l, total);
    }
    // Blocks that cannot see each other's work run in any order, in runs that keep a block's memory warm.
    let chunk = total.div_ceil(64).clamp(1, 64);
    let work = || {
        (0..total.div_ceil(chunk))
            .into_par_iter()
            .fold(
                || None,
                |state: Option<Engine>, c| {
                    let mut engine = state.unwrap_or_else(|| Engine::new(l));
                    for b in c * chunk..((c + 1) * chunk).min(total) {
                        if l.findings.stopped() {
                            break;
                        }
                        engine.start(b);
                        while !engine.block_turn(u64::MAX) {}
                    }
                    Some(engine)
                },
            )
            .map(|engine| engine.map_or_else(empty, |e| e.counts))
            .reduce(empty, add)
    };
    match l.options.threads {
        0 => work(),
        n => match rayon::ThreadPoolBuilder::new().num_threads(n).build() {
            Ok(pool) => pool.install(work),
            Err(_) => work(),
        },
    }
}

/// Blocks that communicate: one host thread, every unfinished block resident, as many as the device would hold.
fn run_together(l: &Launch, total: u64) -> Vec<Count> {
    let arch = l.options.arch;
    let threads: u32 = l.block.iter().product();
    let by_threads = arch.max_threads_per_sm / threads.div_ceil(32).max(1) / 32;
    let by_shared = arch.shared_per_sm / (l.shared_bytes + arch.shared_reserved);
    let per_sm = by_threads.min(by_shared).min(arch.max_blocks_per_sm).max(1);
    let resident_max = (per_sm * arch.sms) as usize;
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
        if engine.block_turn(BLOCK_QUANTUM) {
            spare.push(engine);
        } else {
            resident.push_back(engine);
        }
    }
    for engine in spare.into_iter().chain(resident) {
        counts.iter_mut().zip(engine.counts).for_each(|(a, b)| *a += b);
    }
    counts
}

impl<'a> Engine<'a> {
    fn new(l: &'a Launch<'a>) -> Engine<'a> {
        let shared = l.shared_bytes as usize;
        Engine {
            l,
            b: Block {
                index: [0; 3],
                warps: Vec::new(),
                shared: Shared {
                    data: vec![0; shared],
                    written: vec![0; shared],
                    in_flight: vec![0; shared],
                    any_in_flight: false,
                },
                barriers: Default::default(),
                races: Default::default(),
                turn: 0,
                random: 1,
            },
            counts: vec![Count::default(); l.code.insts.len()],
            step: 0,
            ticks: 0,
            random: l.options.schedule == Schedule::Random,
        }
    }

    /// Sets up block number `number`.
    fn start(&mut self, number: u64) {
        let l = self.l;
        let [gx, gy, _] = l.grid.map(|d| d as u64);
        self.b.index = [(number % gx) as u32, (number / gx % gy) as u32, (number / gx / gy) as u32];
        self.b.random = (l.options.seed.wrapping_add(number).wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1;
        self.b.turn = 0;
        self.b.barriers = Default::default();
        // NaN in every format, so that a value read too early shows even without the check.
        self.b.shared.data.fill(0xff);
        self.b.shared.written.fill(0);
        self.b.shared.in_flight.fill(0);
        self.b.shared.any_in_flight = false;
        let threads: u32 = l.block.iter().product();
        let warps = threads.div_ceil(32);
        if l.options.checks.races {
            self.b.races.reset(warps as usize, (l.shared_bytes as usize).div_ceil(4));
        }
        self.b.warps.resize_with(warps as usize, Warp::default);
        for w in 0..warps {
            let mut warp = std::mem::take(&mut self.b.warps[w as usize]);
            warp.index = w;
            warp.alive = u32::MAX >> (32 - (threads - 32 * w).min(32));
            warp.steps = 0;
            warp.spins = 0;
            let bases = Bases::default();
            let frame = &l.code.frames[0];
            warp.local_bytes =
                frame.local_bytes + if l.code.frames.len() > 1 { l.options.stack_bytes } else { 0 };
            let local = warp.local_bytes as usize * 32;
            warp.local.resize(local, 0);
            warp.local.fill(0xff);
            warp.local_written.resize(local, 0);
            warp.local_written.fill(0);
            warp.copies.clear();
            self.enter_frame(&mut warp, &bases, u32::MAX);
            warp.groups.clear();
            warp.groups.push(Group {
                pc: frame.entry,
                mask: warp.alive,
                bases,
                stack: Vec::new(),
                status: Status::Ready,
                ran: 0,
            });
            self.b.warps[w as usize] = warp;
        }
    }

    /// Fills the rows of fixed values of a frame, for the lanes of `mask`.
    fn enter_frame(&mut self, warp: &mut Warp, bases: &Bases, mask: u32) {
        let frame = &self.l.code.frames[bases.frame as usize];
        warp.grow(bases, frame.rows32, frame.rows64, frame.preds);
        for &(fixed, bank, slot) in &frame.fixed {
            for lane in (0..32).filter(|i| mask >> i & 1 != 0) {
                let v = self.fixed_value(fixed, warp.index, lane, bases);
                match bank {
                    Bank::R32 => warp.r32[(bases.r32 + slot as u32) as usize].0[lane as usize] = v as u32,
                    Bank::R64 => warp.r64[(bases.r64 + slot as u32) as usize].0[lane as usize] = v,
                    Bank::Pred => {
                        let row = &mut warp.preds[(bases.preds + slot as u32) as usize];
                        *row = *row & !(1 << lane) | ((v & 1) as u32) << lane;
                    }
                }
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
            Fixed::DynamicSharedBytes => l.dynamic_shared,
            Fixed::TotalSharedBytes => l.shared_bytes,
            Fixed::LocalBase => bases.local,
            Fixed::DynamicShared => l.dynamic_start,
            Fixed::GridId => return l.grid_id,
            Fixed::Global(index, offset) => {
                return l.addresses.get(index as usize).copied().unwrap_or(0).wrapping_add_signed(offset);
            }
            Fixed::Constant(v) => return v,
        }) as u64
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
        let message = if self.l.findings.knows(pc, kind) { String::new() } else { message() };
        self.l.findings.add(
            pc,
            Finding {
                kind,
                kernel: self.l.kernel.to_string(),
                block: self.b.index,
                thread: self.thread_of(warp, lane),
                ptx_line: self.l.code.info[pc as usize].ptx_line,
                source: self.source(pc),
                message,
                count: 1,
                seed: self.random.then_some(self.l.options.seed),
            },
        );
    }

    /// Reports a finding that ends the launch.
    pub fn fatal(&self, kind: Check, pc: u32, warp: u32, lane: u32, message: impl FnOnce() -> String) {
        self.report(kind, pc, warp, lane, message);
        self.l.findings.stop();
    }

    // warps of a block ---------------------------------------------------------------------------------------------

    /// Runs the block for about `steps` instructions. True when it is done (or the launch has stopped).
    fn block_turn(&mut self, steps: u64) -> bool {
        let mut left = steps;
        loop {
            if self.l.findings.stopped() {
                return true;
            }
            let n = self.b.warps.len();
            let ready = |b: &Block, w: usize| b.warps[w].groups.iter().any(|g| g.status == Status::Ready);
            let chosen = if self.random {
                let first = self.b.random(n);
                (0..n).map(|i| (first + i) % n).find(|&w| ready(&self.b, w))
            } else {
                let first = self.b.turn;
                (0..n).map(|i| (first + i) % n).find(|&w| ready(&self.b, w))
            };
            let Some(w) = chosen else {
                if self.b.warps.iter().all(|w| w.alive == 0) {
                    return true;
                }
                if !self.resolve_stuck() {
                    return true;
                }
                continue;
            };
            let quantum = if self.random { 1 + self.b.random(400) as u64 } else { WARP_QUANTUM };
            let before = self.b.warps[w].steps;
            let turn = self.run_warp(w, quantum);
            left = left.saturating_sub(self.b.warps[w].steps - before + 1);
            self.b.turn = match turn {
                Turn::Done | Turn::Waiting | Turn::Preempted => (w + 1) % n,
            };
            if left == 0 {
                return false;
            }
        }
    }

    /// Nothing can run: divergent barriers are reported and let go where hardware would; the rest is a deadlock.
    fn resolve_stuck(&mut self) -> bool {
        for w in 0..self.b.warps.len() {
            if self.force_barrier(w) {
                return true;
            }
        }
        let mut dump = String::from("waits for ever; nothing in the block can run:");
        let mut first = None;
        for warp in &self.b.warps {
            for g in &warp.groups {
                let what = match g.status {
                    Status::AtBarrier(id) => {
                        let b = &self.b.barriers[id as usize];
                        let expected = b.expected.map_or("all warps".to_string(), |e| format!("{e} warps"));
                        format!("waits at barrier {id} ({} warps of {expected} have arrived)", b.arrivals)
                    }
                    Status::Converging => "waits for other lanes of its warp".to_string(),
                    Status::Ready => "is ready".to_string(),
                };
                first.get_or_insert((g.pc, warp.index, g.mask.trailing_zeros()));
                dump +=
                    &format!("\n  warp {} lanes {:08x} {what} at {}", warp.index, g.mask, self.place(g.pc));
            }
        }
        let (pc, warp, lane) = first.unwrap_or((0, 0, 0));
        self.fatal(Check::Deadlock, pc, warp, lane, || dump);
        false
    }

    fn run_warp(&mut self, w: usize, quantum: u64) -> Turn {
        let mut warp = std::mem::take(&mut self.b.warps[w]);
        warp.quantum = warp.steps + quantum;
        let turn = loop {
            if warp.groups.len() > 1 {
                merge(&mut warp.groups);
            }
            let Some(g) = self.choose(&mut warp) else {
                break if warp.groups.is_empty() { Turn::Done } else { Turn::Waiting };
            };
            match self.run_group(&mut warp, g) {
                Stop::Reschedule => {}
                Stop::Preempted => break Turn::Preempted,
                Stop::Barrier => {
                    // Other warps' groups may be released, so this warp must be back in its place.
                    let index = g;
                    self.b.warps[w] = warp;
                    self.arrive(w, index);
                    warp = std::mem::take(&mut self.b.warps[w]);
                }
            }
            if self.l.findings.stopped() {
                break Turn::Done;
            }
        };
        let finished = warp.alive == 0;
        self.b.warps[w] = warp;
        if finished {
            self.warp_exited();
        }
        turn
    }

    /// The group to run: the one furthest behind, or, when it has spun for long, the one that has waited longest.
    fn choose(&mut self, warp: &mut Warp) -> Option<usize> {
        let groups = &warp.groups;
        if groups.len() == 1 {
            return (groups[0].status == Status::Ready).then_some(0);
        }
        let ready = || (0..groups.len()).filter(|&i| groups[i].status == Status::Ready);
        if self.random && ready().count() > 1 && self.b.random(4) == 0 {
            let pick = self.b.random(ready().count());
            return ready().nth(pick);
        }
        if warp.spins >= SPIN_TURNS {
            warp.spins = 0;
            return ready().min_by_key(|&i| groups[i].ran);
        }
        let key = |g: &Group| -> Vec<u32> { g.stack.iter().map(|r| r.pc).chain([g.pc]).collect() };
        if groups.iter().all(|g| g.stack.is_empty()) {
            return ready().min_by_key(|&i| groups[i].pc);
        }
        ready().min_by(|&a, &b| key(&groups[a]).cmp(&key(&groups[b])))
    }

    // instructions -------------------------------------------------------------------------------------------------

    fn run_group(&mut self, warp: &mut Warp, g: usize) -> Stop {
        let l = self.l;
        let code = l.code;
        let counters = l.options.counters;
        let limit = l.options.instruction_limit;
        let mut banks = warp.banks(&warp.groups[g].bases.clone());
        let (mut pc, mut active) = (warp.groups[g].pc, warp.groups[g].mask);
        let mut steps = warp.steps;
        let mut first = true;
        // Leaves the loop with the group's position stored.
        macro_rules! stop {
            ($stop:expr) => {{
                warp.groups[g].pc = pc;
                warp.groups[g].ran = steps;
                warp.steps = steps;
                return $stop;
            }};
        }
        loop {
            let inst = &code.insts[pc as usize];
            if warp.groups.len() > 1 && !first && code.leader[pc as usize] {
                stop!(Stop::Reschedule);
            }
            first = false;
            steps += 1;
            let mut mask = active;
            if inst.guard != NO_GUARD {
                // SAFETY: guards of lowered code lie within the frame's predicates.
                let p = unsafe { *banks.preds.add(inst.guard as usize) };
                mask &= if inst.negated { !p } else { p };
            }
            if counters {
                let count = &mut self.counts[pc as usize];
                count.warps += 1;
                count.lanes += mask.count_ones() as u64;
            }
            match inst.kind {
                Kind::Lane(f) => {
                    // SAFETY: slots of lowered code lie within the frame's banks, which only this warp accesses; the
                    // function was chosen for this processor.
                    unsafe { f(&banks, &inst.slots, mask) };
                    pc += 1;
                }
                Kind::Branch(target) => {
                    let stay = active & !mask;
                    if mask == 0 {
                        pc += 1;
                    } else {
                        if target <= pc {
                            warp.spins += 1;
                            if steps > warp.quantum {
                                self.branch(warp, g, stay, pc + 1);
                                pc = target;
                                if steps > limit {
                                    let lane = mask.trailing_zeros();
                                    self.fatal(Check::Endless, pc, warp.index, lane, || {
                                        format!("is still running after {limit} instructions of its warp (option limit)")
                                    });
                                }
                                stop!(Stop::Preempted);
                            }
                        }
                        if stay == 0 {
                            pc = target;
                            if warp.groups.len() > 1 {
                                stop!(Stop::Reschedule);
                            }
                        } else {
                            self.branch(warp, g, stay, pc + 1);
                            pc = target;
                            stop!(Stop::Reschedule);
                        }
                    }
                }
                Kind::Scalar(index) => {
                    // SAFETY: as for lane operations.
                    unsafe { run_scalar(&code.scalars[index as usize], &banks, &inst.slots, mask) };
                    pc += 1;
                }
                Kind::Load(index) => {
                    if mask != 0 {
                        warp.steps = steps;
                        self.step = steps as u32;
                        self.load(warp, &banks, index, pc, mask);
                    }
                    pc += 1;
                    if self.random && steps > warp.quantum {
                        stop!(Stop::Preempted);
                    }
                }
                Kind::Store(index) => {
                    if mask != 0 {
                        warp.steps = steps;
                        self.step = steps as u32;
                        self.store(warp, &banks, index, pc, mask);
                    }
                    pc += 1;
                    if self.random && steps > warp.quantum {
                        stop!(Stop::Preempted);
                    }
                }
                Kind::Atomic(index) => {
                    if mask != 0 {
                        warp.steps = steps;
                        self.step = steps as u32;
                        self.atomic(warp, &banks, index, pc, mask);
                    }
                    pc += 1;
                    if self.random && self.b.random(8) == 0 {
                        stop!(Stop::Preempted);
                    }
                }
                Kind::Ret | Kind::Exit => {
                    warp.steps = steps;
                    warp.groups[g].pc = pc;
                    if mask == 0 {
                        pc += 1;
                        continue;
                    }
                    let rest = active & !mask;
                    let returning = matches!(inst.kind, Kind::Ret) && !warp.groups[g].stack.is_empty();
                    if returning {
                        self.ret(warp, g, mask, rest);
                    } else {
                        self.exit(warp, g, mask, rest, pc);
                    }
                    return Stop::Reschedule;
                }
                Kind::Call(index) => {
                    warp.steps = steps;
                    warp.groups[g].pc = pc;
                    if mask == 0 {
                        pc += 1;
                        continue;
                    }
                    self.call(warp, g, index, mask, active & !mask, pc);
                    if warp.groups.len() > 1 || l.findings.stopped() {
                        return Stop::Reschedule;
                    }
                    banks = warp.banks(&warp.groups[g].bases.clone());
                    pc = warp.groups[g].pc;
                    active = warp.groups[g].mask;
                }
                Kind::Barrier(_) => {
                    if mask == 0 {
                        pc += 1;
                        continue;
                    }
                    if mask != active {
                        self.branch(warp, g, active & !mask, pc + 1);
                        warp.groups[g].mask = mask;
                    }
                    stop!(Stop::Barrier);
                }
                Kind::Shuffle(_)
                | Kind::Vote(_)
                | Kind::Match { .. }
                | Kind::Redux(_)
                | Kind::BarWarp
                | Kind::Mma(_)
                | Kind::Ldmatrix { .. }
                | Kind::Movmatrix => {
                    if mask == 0 {
                        pc += 1;
                        continue;
                    }
                    warp.steps = steps;
                    self.step = steps as u32;
                    // The common case: every lane of the warp is here.
                    let done = self.warp_op(warp, &banks, pc, mask);
                    if done == active {
                        pc += 1;
                        continue;
                    }
                    // Lanes that the operation left out go on; those that wait for others stay.
                    let waiting = mask & !done;
                    let going = active & !waiting;
                    warp.groups[g].pc = pc;
                    if waiting == 0 {
                        pc += 1;
                        continue;
                    }
                    if going != 0 {
                        self.branch(warp, g, going, pc + 1);
                    }
                    warp.groups[g].mask = waiting;
                    warp.groups[g].status = Status::Converging;
                    stop!(Stop::Reschedule);
                }
                Kind::Activemask => {
                    let d = code.pool[inst.pool as usize];
                    write32(&banks, d, mask, |_| mask);
                    pc += 1;
                }
                Kind::BranchIndex(table) => {
                    warp.groups[g].pc = pc;
                    warp.steps = steps;
                    let slot = code.pool[inst.pool as usize];
                    let index = read32(&banks, slot);
                    let targets = &code.tables[table as usize].targets;
                    let mut rest = active & !mask;
                    let mut parts: Vec<(u32, u32)> = Vec::new();
                    for lane in lanes_of(mask) {
                        match targets.get(index[lane as usize] as usize) {
                            Some(&t) => match parts.iter_mut().find(|p| p.0 == t) {
                                Some(part) => part.1 |= 1 << lane,
                                None => parts.push((t, 1 << lane)),
                            },
                            None => {
                                rest |= 1 << lane;
                                self.fatal(Check::OutOfBounds, pc, warp.index, lane, || {
                                    format!(
                                        "branches to entry {} of a table of {}",
                                        index[lane as usize],
                                        targets.len()
                                    )
                                });
                            }
                        }
                    }
                    for (t, m) in parts {
                        self.branch(warp, g, m, t);
                    }
                    warp.groups[g].mask = rest;
                    warp.groups[g].pc = pc + 1;
                    if rest == 0 {
                        warp.groups.swap_remove(g);
                    }
                    return Stop::Reschedule;
                }
                Kind::Trap => {
                    if mask != 0 {
                        let lane = mask.trailing_zeros();
                        self.fatal(Check::Trap, pc, warp.index, lane, || "executes trap".to_string());
                        stop!(Stop::Reschedule);
                    }
                    pc += 1;
                }
                Kind::Print => {
                    self.print(warp, &banks, pc, mask);
                    pc += 1;
                }
                Kind::Assert => {
                    if mask != 0 {
                        self.assert_failed(&banks, pc, mask, warp.index);
                        stop!(Stop::Reschedule);
                    }
                    pc += 1;
                }
                Kind::CpAsync(index) => {
                    if mask != 0 {
                        warp.steps = steps;
                        self.step = steps as u32;
                        self.cp_async(warp, &banks, index, pc, mask);
                    }
                    pc += 1;
                }
                Kind::CpAsyncCommit => {
                    self.cp_async_commit(warp, mask);
                    pc += 1;
                }
                Kind::CpAsyncWait(n) => {
                    warp.steps = steps;
                    self.cp_async_wait(warp, mask, n);
                    pc += 1;
                }
                Kind::ReadSpecial(special) => {
                    let d = code.pool[inst.pool as usize];
                    self.ticks += 1;
                    let now = steps * 4 + self.ticks;
                    match special {
                        Dynamic::Clock | Dynamic::GlobalTimerLow => write32(&banks, d, mask, |_| now as u32),
                        Dynamic::Clock64 | Dynamic::GlobalTimer => write64(&banks, d, mask, |_| now),
                    }
                    pc += 1;
                }
                Kind::Isspacep(space) => {
                    let (d, a) = (code.pool[inst.pool as usize], code.pool[inst.pool as usize + 1]);
                    let address = read64(&banks, a);
                    let mut bits = 0;
                    for lane in lanes_of(mask) {
                        bits |= (self.is_in_space(address[lane as usize], space) as u32) << lane;
                    }
                    write_pred(&banks, d, mask, bits);
                    pc += 1;
                }
                Kind::Fence | Kind::Prefetch => pc += 1,
                Kind::Nanosleep => {
                    pc += 1;
                    warp.spins = SPIN_TURNS;
                    stop!(Stop::Preempted);
                }
                Kind::CheckWritten(number) => {
                    if l.options.checks.uninitialised && mask != 0 {
                        let slot = code.pool[inst.pool as usize];
                        // SAFETY: slots of lowered code lie within the frame's predicates.
                        let missing = mask & !unsafe { *banks.preds.add(slot as usize) };
                        if missing != 0 {
                            self.report(
                                Check::Uninitialised,
                                pc,
                                warp.index,
                                missing.trailing_zeros(),
                                || {
                                    format!(
                                        "reads register {}, which it has not written",
                                        code.tracked[number as usize]
                                    )
                                },
                            );
                        }
                    }
                    pc += 1;
                }
                Kind::MarkWritten(_) => {
                    let slot = code.pool[inst.pool as usize];
                    // SAFETY: slots of lowered code lie within the frame's predicates.
                    unsafe { *banks.preds.add(slot as usize) |= mask };
                    pc += 1;
                }
                Kind::CheckDivisor(bank) => {
                    if l.options.checks.division && mask != 0 {
                        let slot = code.pool[inst.pool as usize];
                        let zero = match bank {
                            Bank::R64 => zeros(&read64(&banks, slot)),
                            _ => zeros(&read32(&banks, slot)),
                        };
                        if zero & mask != 0 {
                            let lane = (zero & mask).trailing_zeros();
                            self.report(Check::DivisionByZero, pc, warp.index, lane, || {
                                "divides an integer by zero".to_string()
                            });
                        }
                    }
                    pc += 1;
                }
            }
        }
    }

    /// Puts the lanes `mask` of group `g` into a group of their own at `pc`.
    fn branch(&mut self, warp: &mut Warp, g: usize, mask: u32, pc: u32) {
        if mask == 0 {
            return;
        }
        warp.groups[g].mask &= !mask;
        let group = Group { pc, mask, status: Status::Ready, ..warp.groups[g].clone() };
        warp.groups.push(group);
    }

    fn exit(&mut self, warp: &mut Warp, g: usize, mask: u32, rest: u32, pc: u32) {
        self.check_copies_at_exit(warp, mask, pc);
        warp.alive &= !mask;
        if rest == 0 {
            warp.groups.swap_remove(g);
        } else {
            warp.groups[g].mask = rest;
            warp.groups[g].pc = pc + 1;
        }
        // Those who waited for these lanes need not any more.
        for group in &mut warp.groups {
            if group.status == Status::Converging {
                group.status = Status::Ready;
            }
        }
    }

    fn call(&mut self, warp: &mut Warp, g: usize, index: u32, mask: u32, rest: u32, pc: u32) {
        let code = self.l.code;
        let call = &code.calls[index as usize];
        let caller = warp.groups[g].bases;
        let frame = &code.frames[caller.frame as usize];
        let bases = Bases {
            r32: caller.r32 + frame.rows32,
            r64: caller.r64 + frame.rows64,
            preds: caller.preds + frame.preds,
            local: caller.local + frame.local_bytes,
            frame: call.function,
        };
        let callee = &code.frames[call.function as usize];
        if warp.groups[g].stack.len() >= MAX_CALLS || bases.local + callee.local_bytes > warp.local_bytes {
            let depth = warp.groups[g].stack.len();
            self.fatal(Check::StackOverflow, pc, warp.index, mask.trailing_zeros(), || {
                format!(
                    "calls {} at depth {depth} and runs out of stack ({} B, option stack)",
                    callee.name, warp.local_bytes
                )
            });
            return;
        }
        if rest != 0 {
            self.branch(warp, g, rest, pc + 1);
        }
        for lane in lanes_of(mask) {
            let lane_base = lane as usize * warp.local_bytes as usize;
            let new = lane_base + bases.local as usize;
            warp.local_written[new..new + callee.local_bytes as usize].fill(0);
            for &(from, to, size) in &call.arguments {
                let from = lane_base + (caller.local + from) as usize;
                warp.local.copy_within(from..from + size as usize, new + to as usize);
                warp.local_written.copy_within(from..from + size as usize, new + to as usize);
            }
        }
        self.enter_frame(warp, &bases, mask);
        let group = &mut warp.groups[g];
        group.stack.push(Return { pc: pc + 1, bases: caller, call: index });
        (group.pc, group.bases, group.mask) = (callee.entry, bases, mask);
    }

    fn ret(&mut self, warp: &mut Warp, g: usize, mask: u32, rest: u32) {
        if rest != 0 {
            let pc = warp.groups[g].pc + 1;
            self.branch(warp, g, rest, pc);
        }
        let Some(back) = warp.groups[g].stack.pop() else { return };
        let call = &self.l.code.calls[back.call as usize];
        let callee = warp.groups[g].bases;
        for lane in lanes_of(mask) {
            let lane_base = lane as usize * warp.local_bytes as usize;
            for &(from, to, size) in &call.results {
                let from = lane_base + (callee.local + from) as usize;
                let to = lane_base + (back.bases.local + to) as usize;
                warp.local.copy_within(from..from + size as usize, to);
                warp.local_written.copy_within(from..from + size as usize, to);
            }
        }
        let group = &mut warp.groups[g];
        (group.pc, group.bases) = (back.pc, back.bases);
    }
}

/// Joins groups at the same instruction of the same call. A group that waits for others joins those that arrive.
fn merge(groups: &mut Vec<Group>) {
    let mut i = 0;
    while i < groups.len() {
        let mut j = i + 1;
        while j < groups.len() {
            let (a, b) = (&groups[i], &groups[j]);
            let waiting = |g: &Group| matches!(g.status, Status::AtBarrier(_));
            if a.pc == b.pc && !waiting(a) && !waiting(b) && a.bases == b.bases && a.stack == b.stack {
                let b = groups.swap_remove(j);
                groups[i].mask |= b.mask;
                groups[i].ran = groups[i].ran.min(b.ran);
                groups[i].status = Status::Ready;
            } else {
                j += 1;
            }
        }
        i += 1;
    }
}

/// The lanes of a mask.
pub(super) fn lanes_of(mask: u32) -> impl Iterator<Item = u32> {
    let mut left = mask;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let lane = left.trailing_zeros();
        left &= left - 1;
        Some(lane)
    })
}

fn zeros<T: PartialEq + From<u8>>(row: &[T; 32]) -> u32 {
    (0..32).map(|i| ((row[i] == T::from(0)) as u32) << i).sum()
}

/// A copy of a 32-bit row.
pub(super) fn read32(banks: &Banks, slot: u16) -> [u32; 32] {
    // SAFETY: slots of lowered code lie within the frame's banks.
    unsafe { (*banks.r32.add(slot as usize)).0 }
}

pub(super) fn read64(banks: &Banks, slot: u16) -> [u64; 32] {
    // SAFETY: slots of lowered code lie within the frame's banks.
    unsafe { (*banks.r64.add(slot as usize)).0 }
}

pub(super) fn read_pred(banks: &Banks, slot: u16) -> u32 {
    // SAFETY: slots of lowered code lie within the frame's banks.
    unsafe { *banks.preds.add(slot as usize) }
}

pub(super) fn write32(banks: &Banks, slot: u16, mask: u32, f: impl Fn(u32) -> u32) {
    // SAFETY: slots of lowered code lie within the frame's banks, which only this warp accesses.
    let row = unsafe { &mut (*banks.r32.add(slot as usize)).0 };
    lanes_of(mask).for_each(|i| row[i as usize] = f(i));
}

pub(super) fn write64(banks: &Banks, slot: u16, mask: u32, f: impl Fn(u32) -> u64) {
    // SAFETY: slots of lowered code lie within the frame's banks, which only this warp accesses.
    let row = unsafe { &mut (*banks.r64.add(slot as usize)).0 };
    lanes_of(mask).for_each(|i| row[i as usize] = f(i));
}

pub(super) fn write_pred(banks: &Banks, slot: u16, mask: u32, bits: u32) {
    // SAFETY: slots of lowered code lie within the frame's banks, which only this warp accesses.
    let row = unsafe { &mut *banks.preds.add(slot as usize) };
    *row = *row & !mask | bits & mask;
}

/// # Safety
/// Slots lie within the banks, which nothing else accesses.
unsafe fn run_scalar(op: &ScalarOp, banks: &Banks, slots: &[u16; 5], mask: u32) {
    let cut = if op.result_bits >= 64 { u64::MAX } else { (1 << op.result_bits) - 1 };
    for lane in lanes_of(mask) {
        let mut args = [0; 4];
        for (k, (arg, source)) in args.iter_mut().zip(op.sources).enumerate() {
            let Some(bank) = source else { break };
            let slot = slots[k + 1] as usize;
            // SAFETY: the caller promises slots within the banks.
            *arg = unsafe {
                match bank {
                    Bank::R32 => (*banks.r32.add(slot)).0[lane as usize] as u64,
                    Bank::R64 => (*banks.r64.add(slot)).0[lane as usize],
                    Bank::Pred => (*banks.preds.add(slot) >> lane & 1) as u64,
                }
            };
        }
        let v = scalar::eval(&op.op, args) & cut;
        let slot = slots[0] as usize;
        // SAFETY: the caller promises slots within the banks, which nothing else accesses.
        unsafe {
            match op.result {
                Bank::R32 => (*banks.r32.add(slot)).0[lane as usize] = v as u32,
                Bank::R64 => (*banks.r64.add(slot)).0[lane as usize] = v,
                Bank::Pred => {
                    let row = &mut *banks.preds.add(slot);
                    *row = *row & !(1 << lane) | (v as u32 & 1) << lane;
                }
            }
        }
    }
}
