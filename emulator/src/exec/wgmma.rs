//! Warpgroup matrix instructions (PTX ISA 9.7.15) and `setmaxnreg` (9.7.19.5): what the four warps of a warpgroup execute
//! together.
//!
//! Each of the four warps waits at such an instruction until the others are there. wgmma.mma_async joins the warpgroup's
//! queue with its registers of A; it reads shared memory and writes its accumulators when it is issued (early), when a
//! wait_group covers it (late), or at random, always in order.
//!
//! How matrices lie in registers and in shared memory is in [`super::matrix`].

use std::collections::VecDeque;

use super::accumulate::{Sum, accumulate};
use super::engine::Engine;
use super::matrix::*;
use super::rows::{lanes_of, read_pred, read32, read64};
use super::state::{Bases, Block, Status, Warp};
use crate::check::Kind as Check;
use crate::check::proxy::{Agent, GRANULE, Stamp};
use crate::code::{Kind, WarpgroupOp, WgmmaOp};
use crate::tensormap::Swizzle;

/// Threads of a warpgroup.
const THREADS: u32 = 128;

/// The queue of a warpgroup, and its registers.
#[derive(Clone, Debug, Default)]
pub struct Warpgroup {
    agent: Option<Agent>,
    committed: u32,
    queue: VecDeque<Pending>,
    /// Registers of each thread.
    pub registers: u32,
}

impl Warpgroup {
    /// A warpgroup whose threads have this many registers each.
    pub fn new(registers: u32) -> Warpgroup {
        Warpgroup { registers, ..Warpgroup::default() }
    }
}

/// An operation that has not been waited for.
#[derive(Clone, Debug)]
struct Pending {
    /// Number of the operation, and its instruction.
    op: u32,
    pc: u32,
    /// The group it is in, or will be in with the next commit.
    group: u32,
    /// A of each warp, when it comes from registers.
    a: Option<Box<[[[u32; 32]; 4]; 4]>>,
    /// The metadata of each warp, when A is sparse.
    metadata: Option<Box<[[u32; 32]; 4]>>,
    descriptors: [u64; 2],
    accumulates: bool,
    bases: [Bases; 4],
    done: bool,
}

impl Block {
    /// Notes with which swizzle a granule was written; none for anything but a tensor copy.
    pub(super) fn set_swizzle(&mut self, granule: u32, swizzle: Option<Swizzle>) {
        if self.swizzles.is_empty() {
            if swizzle.is_none() {
                return;
            }
            self.swizzles.resize(self.shared.data.len().div_ceil(GRANULE as usize), None);
        }
        if let Some(s) = self.swizzles.get_mut(granule as usize) {
            *s = swizzle;
        }
    }
}

impl Engine<'_> {
    fn warpgroup_op(&self, pc: u32) -> Option<(u32, &'static str)> {
        let Kind::Warpgroup(index) = self.l.code.insts[pc as usize].kind else { return None };
        let name = match &self.l.code.warpgroups[index as usize] {
            WarpgroupOp::Mma(_) => "wgmma.mma_async",
            WarpgroupOp::Fence => "wgmma.fence",
            WarpgroupOp::Commit => "wgmma.commit_group",
            WarpgroupOp::Wait(_) => "wgmma.wait_group",
            WarpgroupOp::SetMaxNReg { .. } => "setmaxnreg",
        };
        Some((index, name))
    }

    /// Group `g` of warp `w`, with all its lanes, has come to an instruction of its warpgroup.
    pub(super) fn warpgroup_arrive(&mut self, w: usize, g: usize) {
        self.b.warps[w].groups[g].status = Status::AtWarpgroup;
        let pc = self.b.warps[w].groups[g].pc;
        let Some((index, name)) = self.warpgroup_op(pc) else { return };
        let first = w / 4 * 4;
        let count = self.b.warps.len().min(first + 4) - first;
        if count < 4 {
            let lane = 0;
            return self.fatal(Check::WarpgroupDivergence, pc, w as u32, lane, || {
                format!("executes {name} in a warpgroup of {count} warps; it needs four")
            });
        }
        let mut members = [0usize; 4];
        for (k, member) in members.iter_mut().enumerate() {
            let warp = &self.b.warps[first + k];
            let Some(at) = warp.groups.iter().position(|g| g.status == Status::AtWarpgroup) else { return };
            *member = at;
            let other = warp.groups[at].pc;
            if other != pc {
                let there = self.place(other);
                return self.fatal(Check::WarpgroupDivergence, pc, w as u32, 0, || {
                    format!("executes {name} while warp {} of its warpgroup is at {there}", first + k)
                });
            }
        }
        let next = self.warpgroup_execute(first, members, index, pc);
        for (k, &member) in members.iter().enumerate() {
            let group = &mut self.b.warps[first + k].groups[member];
            match next {
                Some(status) => group.status = status,
                None => {
                    group.status = Status::Ready;
                    group.pc = pc + 1;
                }
            }
        }
        self.progress += 1;
    }

    /// Executes an operation of a warpgroup; returns what its warps wait for, if anything.
    fn warpgroup_execute(
        &mut self,
        first: usize,
        members: [usize; 4],
        index: u32,
        pc: u32,
    ) -> Option<Status> {
        let code = self.l.code;
        let wg = first / 4;
        match &code.warpgroups[index as usize] {
            WarpgroupOp::Mma(op) => self.mma_issue(first, members, index, op, pc),
            WarpgroupOp::Fence => {}
            WarpgroupOp::Commit => self.b.warpgroups[wg].committed += 1,
            WarpgroupOp::Wait(keep) => {
                let group = &mut self.b.warpgroups[wg];
                let done = group.committed.saturating_sub(*keep);
                let agent = group.agent;
                self.mma_perform(first, done);
                self.b.warpgroups[wg].queue.retain(|p| p.group > done);
                if let Some(agent) = agent.filter(|_| self.tracking) {
                    for k in 0..4 {
                        let me = self.warp_agent((first + k) as u32);
                        self.order.learn(me, agent, done);
                    }
                }
            }
            WarpgroupOp::SetMaxNReg { increase, count } => {
                return self.set_registers(first, *increase, *count, pc);
            }
        }
        None
    }

    fn set_registers(&mut self, first: usize, increase: bool, count: u32, pc: u32) -> Option<Status> {
        // Without a bound at compile time the instruction may have no effect (9.7.19.5).
        self.l.registers?;
        let now = self.b.warpgroups[first / 4].registers;
        let wrong = if increase { count < now } else { count > now };
        if wrong {
            let (verb, relation) = if increase { ("inc", "more") } else { ("dec", "fewer") };
            self.report(Check::RegisterPool, pc, first as u32, 0, || {
                format!("executes setmaxnreg.{verb} to {count} registers; its threads have {relation}: {now}")
            });
        }
        if count > now {
            let needed = (count - now) * THREADS;
            if self.b.pool < needed {
                return Some(Status::ForRegisters(needed));
            }
            self.b.pool -= needed;
        } else {
            self.b.pool += (now - count) * THREADS;
        }
        self.b.warpgroups[first / 4].registers = count;
        None
    }

    // wgmma --------------------------------------------------------------------------------------------------------

    fn mma_issue(&mut self, first: usize, members: [usize; 4], index: u32, op: &WgmmaOp, pc: u32) {
        let code = self.l.code;
        let pool = &code.pool[code.insts[pc as usize].pool as usize..];
        let registers = op.registers();
        let after = 2 * registers + if op.a_registers { 4 } else { 1 };
        let mut bases = [Bases::default(); 4];
        let mut a = Box::new([[[0u32; 32]; 4]; 4]);
        let mut metadata = op.sparse.map(|_| Box::new([[0u32; 32]; 4]));
        let mut found: Option<([u64; 2], bool)> = None;
        let mut differs = None;
        for k in 0..4 {
            let warp = &mut self.b.warps[first + k];
            bases[k] = warp.groups[members[k]].bases;
            let banks = warp.banks(&bases[k]);
            let b = read64(&banks, pool[after]);
            let own = match op.a_registers {
                true => [0; 32],
                false => read64(&banks, pool[2 * registers]),
            };
            if op.a_registers {
                for (row, &slot) in a[k].iter_mut().zip(&pool[2 * registers..]) {
                    *row = read32(&banks, slot);
                }
            }
            if let Some(words) = &mut metadata {
                words[k] = read32(&banks, pool[after + 1]);
            }
            let scale = read_pred(&banks, pool[after + 1 + op.sparse.is_some() as usize]);
            for lane in lanes_of(warp.alive) {
                let here = ([own[lane as usize], b[lane as usize]], scale >> lane & 1 != 0);
                if *found.get_or_insert(here) != here {
                    differs.get_or_insert((first + k, lane));
                }
            }
        }
        let Some((descriptors, accumulates)) = found else { return };
        if let Some((w, lane)) = differs {
            self.report(Check::WarpgroupDivergence, pc, w as u32, lane, || {
                "executes wgmma.mma_async with another descriptor or scale-d than the rest of its warpgroup"
                    .to_string()
            });
        }
        if let Some(number) = op.unfenced {
            self.report(Check::WgmmaRegister, pc, first as u32, 0, || {
                let name = &code.register_names[number as usize];
                format!("executes wgmma.mma_async on register {name}, which is accessed before it with no wgmma.fence between")
            });
        }
        self.check_overlap(first, op, pc);
        let agent = match self.b.warpgroups[first / 4].agent {
            Some(agent) => agent,
            None => self.order.new_agent(),
        };
        let group = &mut self.b.warpgroups[first / 4];
        group.agent = Some(agent);
        let number = group.committed + 1;
        group.queue.push_back(Pending {
            op: index,
            pc,
            group: number,
            a: op.a_registers.then_some(a),
            metadata,
            descriptors,
            accumulates,
            bases,
            done: false,
        });
        let stamp = Stamp { agent, time: number, pc };
        let valid = (op.a_registers || self.check_matrix(first, op, 0, descriptors[0], stamp))
            & self.check_matrix(first, op, 1, descriptors[1], stamp);
        if !valid {
            self.b.warpgroups[first / 4].queue.pop_back();
            return;
        }
        let early = self.early();
        if early {
            self.mma_perform(first, u32::MAX);
        }
    }

    /// Registers that an earlier operation in flight uses in another way.
    fn check_overlap(&mut self, first: usize, op: &WgmmaOp, pc: u32) {
        let code = self.l.code;
        for pending in &self.b.warpgroups[first / 4].queue {
            let WarpgroupOp::Mma(other) = &code.warpgroups[pending.op as usize] else { continue };
            let shared = |x: &[u32], y: &[u32]| x.iter().copied().find(|v| y.contains(v));
            let same = other.d == op.d
                && (other.n, other.ty, other.half_accumulator) == (op.n, op.ty, op.half_accumulator);
            let clash = shared(&op.a, &other.d)
                .or_else(|| shared(&other.a, &op.d))
                .or_else(|| if same { None } else { shared(&op.d, &other.d) });
            if let Some(number) = clash {
                let issued = self.place(pending.pc);
                return self.report(Check::WgmmaRegister, pc, first as u32, 0, || {
                    let name = &code.register_names[number as usize];
                    format!("uses register {name}, which the wgmma at {issued} uses and which has not been waited for")
                });
            }
        }
    }

    /// Checks where a descriptor leads, and puts the reads into the order.
    fn check_matrix(&mut self, first: usize, op: &WgmmaOp, which: usize, bits: u64, stamp: Stamp) -> bool {
        let descriptor = Descriptor::new(bits);
        let name = ["A", "B"][which];
        let pc = stamp.pc;
        let (rows, chunks) = extents(op, which);
        let size = self.l.shared_bytes;
        let (mut outside, mut other) = (None, None);
        let swizzles = self.l.options.checks.async_copies && !self.b.swizzles.is_empty();
        for i in 0..rows {
            for c in 0..chunks {
                let at = descriptor.chunk(op.transpose[which], i, c);
                if at + GRANULE > size {
                    outside.get_or_insert(at);
                    continue;
                }
                if swizzles
                    && let Some(Some(written)) = self.b.swizzles.get((at / GRANULE) as usize)
                    && *written != descriptor.swizzle
                {
                    other.get_or_insert((at, *written));
                }
                if !self.tracking {
                    continue;
                }
                // Every warp reads all of B and its own rows of A; each is asked about a part.
                let k = if which == 0 && !op.transpose[0] { i / 16 } else { (i + c) % 4 };
                let w = first as u32 + k;
                let me = self.warp_agent(w);
                if let Some(conflict) = self.record_async((self.b.rank, at), me, false, stamp) {
                    self.report_conflict(conflict, pc, w, 0, || format!("reads matrix {name} at byte {at}"));
                }
            }
        }
        if let Some(at) = outside {
            self.report(Check::OutOfBounds, pc, first as u32, 0, || {
                format!("reads matrix {name} at byte {at} of shared memory, the block has {size} B (descriptor {bits:#018x})")
            });
            return false;
        }
        if let Some((at, written)) = other {
            self.report(Check::DescriptorMismatch, pc, first as u32, 0, || {
                format!(
                    "reads matrix {name} at byte {at} of shared memory with {}, a tensor copy wrote it with {written}",
                    descriptor.swizzle
                )
            });
        }
        true
    }

    /// Performs the operations of groups up to `last` that have not been, those on the same accumulators at one go.
    fn mma_perform(&mut self, first: usize, last: u32) {
        let code = self.l.code;
        let mut chain: Vec<Pending> = Vec::new();
        for at in 0..self.b.warpgroups[first / 4].queue.len() {
            let pending = &mut self.b.warpgroups[first / 4].queue[at];
            if pending.done || pending.group > last {
                continue;
            }
            pending.done = true;
            let next = pending.clone();
            let same = |a: &Pending| {
                let (x, y) = (&code.warpgroups[a.op as usize], &code.warpgroups[next.op as usize]);
                let (WarpgroupOp::Mma(x), WarpgroupOp::Mma(y)) = (x, y) else { return false };
                a.bases == next.bases
                    && x.d == y.d
                    && x.ty == y.ty
                    && x.half_accumulator == y.half_accumulator
            };
            if !chain.last().is_none_or(same) {
                self.mma_execute(first, &std::mem::take(&mut chain));
            }
            chain.push(next);
        }
        self.mma_execute(first, &chain);
    }

    /// A matrix from shared memory, as `[mn][k]` or, for B, `[k][n]`.
    fn load_matrix(&mut self, op: &WgmmaOp, which: usize, pending: &Pending, w: u32) -> Vec<f64> {
        let descriptor = Descriptor::new(pending.descriptors[which]);
        let (rows, chunks) = extents(op, which);
        let (k, n) = (op.k_of(which), if which == 0 { 64 } else { op.n as usize });
        let per = (8 * GRANULE / op.ty.bits()) as usize;
        let mut values = [0.0; MOST];
        let sign = if op.negate[which] { -1.0 } else { 1.0 };
        let transposed = op.transpose[which];
        let mut out = vec![0.0; k * n];
        let mut missing = None;
        for i in 0..rows {
            for c in 0..chunks {
                let at = descriptor.chunk(transposed, i, c) as usize;
                let Some(bytes) = self.b.shared.data.get(at..at + GRANULE as usize) else { continue };
                if !self.b.shared.is_written(at, GRANULE as usize) {
                    missing.get_or_insert(at);
                }
                decode(op.ty, which, bytes, &mut values);
                // Along K when the matrix is K-major, along M or N otherwise; A is kept as [m][k], B as [k][n].
                let (start, step) = match (which == 0, transposed) {
                    (true, false) => (i as usize * k + c as usize * per, 1),
                    (true, true) => (c as usize * per * k + i as usize, k),
                    (false, false) => (c as usize * per * n + i as usize, n),
                    (false, true) => (i as usize * n + c as usize * per, 1),
                };
                for (e, v) in values.iter().take(per).enumerate() {
                    out[start + e * step] = sign * v;
                }
            }
        }
        if let Some(at) = missing.filter(|_| self.l.options.checks.uninitialised) {
            self.report(Check::Uninitialised, pending.pc, w, 0, || {
                let name = ["A", "B"][which];
                format!("reads matrix {name} at byte {at} of shared memory, which nothing has written")
            });
        }
        out
    }

    /// Executes operations on the same accumulators one after the other; each rounds its sums.
    fn mma_execute(&mut self, first: usize, chain: &[Pending]) {
        let code = self.l.code;
        let operation = |p: &Pending| match &code.warpgroups[p.op as usize] {
            WarpgroupOp::Mma(op) => Some(&**op),
            _ => None,
        };
        let Some((start, op)) = chain.first().and_then(|p| Some((p, operation(p)?))) else { return };
        let d = &code.pool[code.insts[start.pc as usize].pool as usize..][..op.registers()];
        let n = op.n as usize;
        let mut sums: [Vec<f64>; 4] = std::array::from_fn(|_| vec![0.0; 16 * n]);
        for (w, sums) in sums.iter_mut().enumerate().filter(|_| start.accumulates) {
            let banks = self.b.warps[first + w].banks(&start.bases[w]);
            load_accumulators(op, &banks, d, sums);
        }
        for pending in chain {
            let Some(op) = operation(pending) else { continue };
            let k = op.k();
            let b = self.load_matrix(op, 1, pending, first as u32);
            let mut a: Vec<f64> = match &pending.a {
                Some(registers) => registers.iter().flat_map(|r| register_rows(op, r)).collect(),
                None => self.load_matrix(op, 0, pending, first as u32),
            };
            if let (Some(selector), Some(words)) = (op.sparse, &pending.metadata) {
                let warps = a.chunks_exact(16 * op.stored_k()).zip(words.iter());
                a = warps.flat_map(|(rows, words)| expand(op, selector, words, rows)).collect();
            }
            let (element_a, element_b) = elements(op.ty);
            let arithmetic = Sum::new(self.l.options.tensor, element_a, element_b, op.half_accumulator);
            for (a, sums) in a.chunks_exact(16 * k).zip(&mut sums) {
                if !pending.accumulates {
                    sums.fill(0.0);
                }
                for (row, sum) in a.chunks_exact(k).zip(sums.chunks_exact_mut(n)) {
                    accumulate(row, &b, sum, arithmetic);
                }
                round(op, sums);
            }
        }
        for (w, sums) in sums.iter().enumerate() {
            let warp = &mut self.b.warps[first + w];
            let (alive, banks) = (warp.alive, warp.banks(&start.bases[w]));
            store_accumulators(op, &banks, d, alive, sums);
        }
    }

    /// A register that `CheckInFlight` names is accessed.
    pub(super) fn check_in_flight_register(&mut self, warp: &Warp, number: u32, pc: u32, mask: u32) {
        let code = self.l.code;
        let Some(group) = self.b.warpgroups.get(warp.index as usize / 4) else { return };
        let used = group.queue.iter().find(|p| match &code.warpgroups[p.op as usize] {
            WarpgroupOp::Mma(op) => op.d.contains(&number) || op.a.contains(&number),
            _ => false,
        });
        if let Some(pending) = used.filter(|_| self.l.options.checks.async_copies) {
            let issued = self.place(pending.pc);
            let missing = if pending.group > group.committed {
                "it is in no group: wgmma.commit_group is missing"
            } else {
                "its group has not been waited for"
            };
            self.report(Check::WgmmaRegister, pc, warp.index, mask.trailing_zeros(), || {
                let name = &code.register_names[number as usize];
                format!("accesses register {name}, which the wgmma at {issued} uses: {missing}")
            });
        }
    }

    /// Operations that a warp has not waited for when it ends.
    pub(super) fn check_mma_at_exit(&mut self, warp: &Warp, pc: u32) {
        if !self.l.options.checks.async_copies {
            return;
        }
        let Some(group) = self.b.warpgroups.get(warp.index as usize / 4) else { return };
        let Some(pending) = group.queue.front() else { return };
        let issued = self.place(pending.pc);
        if pending.group > group.committed {
            self.report(Check::MissingCommit, pc, warp.index, 0, || {
                format!(
                    "ends while the wgmma issued at {issued} is in no group: wgmma.commit_group is missing"
                )
            });
        } else {
            self.report(Check::MissingAsyncWait, pc, warp.index, 0, || {
                format!("ends while the wgmma issued at {issued} has not been waited for")
            });
        }
    }
}
