//! Runs a launch: sets blocks up and runs them, in parallel where they cannot see each other's work.

use std::sync::Mutex;

use rayon::prelude::*;

use super::state::*;
use crate::check::{Finding, Findings, Kind as Check};
use crate::code::*;
use crate::counters::Count;
use crate::memory::GlobalMemory;
use crate::options::{Options, Schedule};

/// Steps a block runs before the next one is admitted beside it.
const BLOCK_QUANTUM: u64 = 4_000_000;

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
    pub(super) fn enter_frame(&mut self, warp: &mut Warp, bases: &Bases, mask: u32) {
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
}
