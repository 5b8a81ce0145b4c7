//! The interpreter's loop over the instructions of one group of lanes, and calls.

use super::engine::Engine;
use super::hopper::Flow;
use super::lanes::Banks;
use super::rows::*;
use super::scalar;
use super::schedule::SPIN_TURNS;
use super::state::*;
use crate::check::Kind as Check;
use crate::code::*;
use crate::options::Schedule;

/// Deepest chain of calls.
const MAX_CALLS: usize = 256;

/// Why a group stopped.
pub(super) enum Stop {
    /// Another group may be better placed to run.
    Reschedule,
    Preempted,
    /// The group has arrived at a barrier: pool position of the instruction.
    Barrier,
    /// The group has come to an instruction that its warpgroup executes together.
    Warpgroup,
}

impl Engine<'_> {
    pub(super) fn run_group(&mut self, warp: &mut Warp, g: usize) -> Stop {
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
                if let Some(trace) = l.trace {
                    self.trace(trace, warp, g, pc, active, mask);
                }
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
                    if l.options.schedule == Schedule::Random && self.b.random(8) == 0 {
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
                Kind::Alloca(align) => {
                    let slots = &code.pool[inst.pool as usize..];
                    let bytes = read64(&banks, slots[1]);
                    warp.groups[g].pc = pc;
                    self.alloca(warp, g, mask, align, &bytes);
                    let taken = warp.taken;
                    write64(&banks, slots[0], mask, |lane| taken[lane as usize] as u64);
                    pc += 1;
                    if l.findings.stopped() {
                        stop!(Stop::Reschedule);
                    }
                }
                Kind::StackSave => {
                    let taken = warp.taken;
                    write64(&banks, code.pool[inst.pool as usize], mask, |lane| taken[lane as usize] as u64);
                    pc += 1;
                }
                Kind::StackRestore => {
                    let saved = read64(&banks, code.pool[inst.pool as usize]);
                    for lane in lanes_of(mask) {
                        // Only ever back: another value than one saved takes nothing.
                        let now = &mut warp.taken[lane as usize];
                        *now = saved[lane as usize].clamp(*now as u64, warp.local_bytes as u64) as u32;
                    }
                    pc += 1;
                }
                Kind::CallIndirect(index) => {
                    warp.steps = steps;
                    warp.groups[g].pc = pc;
                    if mask == 0 {
                        pc += 1;
                        continue;
                    }
                    let targets = read64(&banks, code.pool[inst.pool as usize]);
                    self.call_indirect(warp, g, index, mask, &targets);
                    return Stop::Reschedule;
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
                | Kind::Elect
                | Kind::BarWarp
                | Kind::Mma(_)
                | Kind::QuadMma(_)
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
                Kind::Malloc => {
                    self.malloc(&banks, pc, mask);
                    pc += 1;
                }
                Kind::Free => {
                    self.free(warp, &banks, pc, mask);
                    pc += 1;
                }
                Kind::Assert => {
                    if mask != 0 {
                        self.assert_failed(warp, &banks, pc, mask);
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
                    self.step = steps as u32;
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
                Kind::Fence(fence) => {
                    if mask != 0 {
                        self.order_fence(warp, fence);
                    }
                    pc += 1;
                }
                Kind::Prefetch => pc += 1,
                Kind::Hopper(index) => {
                    if mask == 0 {
                        pc += 1;
                        continue;
                    }
                    warp.steps = steps;
                    self.step = steps as u32;
                    match self.hopper(warp, g, &banks, index, pc, mask) {
                        Flow::Next => {
                            pc += 1;
                            if self.random && steps > warp.quantum {
                                stop!(Stop::Preempted);
                            }
                        }
                        Flow::Yield => {
                            pc += 1;
                            stop!(Stop::Preempted);
                        }
                        Flow::Wait(waiting, status) => {
                            self.branch(warp, g, active & !waiting, pc + 1);
                            warp.groups[g].mask = waiting;
                            warp.groups[g].status = status;
                            stop!(Stop::Reschedule);
                        }
                    }
                }
                Kind::Warpgroup(_) => {
                    if mask == 0 {
                        pc += 1;
                        continue;
                    }
                    if mask != active {
                        self.branch(warp, g, active & !mask, pc + 1);
                        warp.groups[g].mask = mask;
                    }
                    if mask != warp.alive {
                        warp.groups[g].status = Status::Converging;
                        stop!(Stop::Reschedule);
                    }
                    stop!(Stop::Warpgroup);
                }
                Kind::CheckInFlight(number) => {
                    if mask != 0 {
                        self.check_in_flight_register(warp, number, pc, mask);
                    }
                    pc += 1;
                }
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
                Kind::PassWritten => {
                    let [to, from] = [0, 1].map(|k| code.pool[inst.pool as usize + k] as usize);
                    // SAFETY: as above.
                    unsafe { *banks.preds.add(to) &= !mask | *banks.preds.add(from) };
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
        let group = Group { pc, mask, status: Status::Ready, wait: None, ..warp.groups[g].clone() };
        warp.groups.push(group);
    }

    fn exit(&mut self, warp: &mut Warp, g: usize, mask: u32, rest: u32, pc: u32) {
        self.check_copies_at_exit(warp, mask, pc);
        if self.hopper {
            self.check_bulk_at_exit(warp, mask, pc);
            if warp.alive & !mask == 0 {
                self.check_mma_at_exit(warp, pc);
            }
        }
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

    /// Takes stack for the lanes `mask` of group `g`, from the end of their local memory.
    fn alloca(&mut self, warp: &mut Warp, g: usize, mask: u32, align: u32, bytes: &[u64; 32]) {
        let bases = warp.groups[g].bases;
        let low = bases.local + self.l.code.frames[bases.frame as usize].local_bytes;
        for lane in lanes_of(mask) {
            let (end, size) = (warp.taken[lane as usize], bytes[lane as usize]);
            let start = (end as u64).checked_sub(size).map_or(0, |s| s as u32 / align * align);
            if start < low || size > end as u64 {
                let pc = warp.groups[g].pc;
                return self.fatal(Check::StackOverflow, pc, warp.index, lane, || {
                    format!("takes {size} B of stack, {} B are left (option stack)", end.saturating_sub(low))
                });
            }
            warp.taken[lane as usize] = start;
            let base = lane as usize * warp.local_bytes as usize;
            warp.local_written[base + start as usize..base + end as usize].fill(0);
        }
    }

    /// Sends the lanes `mask` of group `g` to the functions at `targets`, those with the same one together.
    fn call_indirect(&mut self, warp: &mut Warp, g: usize, index: u32, mask: u32, targets: &[u64; 32]) {
        let pc = warp.groups[g].pc;
        let known = &self.l.code.indirects[index as usize];
        let mut parts: Vec<(u32, u32)> = Vec::new();
        for lane in lanes_of(mask) {
            let address = targets[lane as usize];
            match known.iter().find(|k| k.0 == address) {
                Some(&(_, call)) => match parts.iter_mut().find(|p| p.0 == call) {
                    Some(part) => part.1 |= 1 << lane,
                    None => parts.push((call, 1 << lane)),
                },
                None => {
                    return self.fatal(Check::IllegalCall, pc, warp.index, lane, || {
                        format!("calls {address:#x}, where no function with this signature is")
                    });
                }
            }
        }
        for &(call, part) in &parts {
            self.branch(warp, g, part, pc);
            let own = warp.groups.len() - 1;
            self.call(warp, own, call, part, 0, pc);
        }
        warp.groups[g].pc = pc + 1;
        if warp.groups[g].mask == 0 {
            warp.groups.swap_remove(g);
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
        let room = lanes_of(mask).map(|lane| warp.taken[lane as usize]).min().unwrap_or(0);
        if warp.groups[g].stack.len() >= MAX_CALLS || bases.local + callee.local_bytes > room {
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
