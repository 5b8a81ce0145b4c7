//! From the syntax tree to code: names and types, operations on virtual registers, control flow, slots, emission.

mod bits;
mod builder;
mod call;
mod compare;
mod convert;
mod flow;
mod hopper;
mod inflight;
mod matrix;
mod memory;
mod select;
mod slots;
mod sync;
mod taint;
mod video;
mod wmma;

use std::collections::HashMap;

use crate::code::*;
use crate::error::{Error, Result};
use crate::ptx::ast::*;
use builder::{Builder, KernelBuilder, LInst, V};
use taint::Effect;

/// Lowers the kernel `function` and all it calls.
///
/// # Errors
/// `Error::Parse` naming the line: unknown names, ill-typed operands, forms that are not supported.
pub fn lower(ast: &Ast, function: &Function) -> Result<Code> {
    // Dynamic shared memory starts where its strictest declaration says.
    let dynamic = ast.variables.iter().filter(|v| v.space == Space::Shared && v.size == 0);
    let shared_align = dynamic.map(|v| v.align).max().unwrap_or(1);
    let mut kernel = KernelBuilder {
        ast,
        code: Code { shared_align, ..Code::default() },
        functions: vec![function.name.clone()],
        shared: HashMap::new(),
        has_shared: ast.variables.iter().any(|v| v.space == Space::Shared && v.size > 0),
        partial_warp_barriers: false,
        address_taken: None,
    };
    let mut next = 0;
    while next < kernel.functions.len() {
        let name = kernel.functions[next].clone();
        let Some(function) = ast.functions.iter().find(|f| f.name == name && f.body.is_some()) else {
            return Err(Error::Parse {
                line: function.line,
                message: format!("function `{name}` has no body"),
            });
        };
        lower_function(&mut kernel, function)?;
        next += 1;
    }
    let mut code = kernel.code;
    code.plain_barriers = !kernel.partial_warp_barriers && code.insts.iter().all(|i| is_plain(&code, i));
    code.shared_granule = shared_granule(&code);
    Ok(code)
}

/// True of what neither orders accesses to shared memory nor needs order, whole-block barriers apart.
fn is_plain(code: &Code, inst: &Inst) -> bool {
    let may_be_shared = |space| matches!(space, Space::Shared | Space::Generic);
    match inst.kind {
        Kind::Load(i) | Kind::Store(i) => {
            let op = &code.mems[i as usize];
            !(op.strength.is_strong() && may_be_shared(op.space))
        }
        Kind::Atomic(i) => !may_be_shared(code.atoms[i as usize].space),
        Kind::Barrier(b) => !b.has_count && b.op != BarrierOp::Arrive,
        Kind::Lane(_)
        | Kind::Scalar(_)
        | Kind::Branch(_)
        | Kind::BranchIndex(_)
        | Kind::Call(_)
        | Kind::CallIndirect(_)
        | Kind::Alloca(_)
        | Kind::StackSave
        | Kind::StackRestore
        | Kind::Ret
        | Kind::Exit
        | Kind::Trap
        | Kind::Print
        | Kind::Malloc
        | Kind::Free
        | Kind::Assert
        | Kind::Shuffle(_)
        | Kind::Vote(_)
        | Kind::Match { .. }
        | Kind::Redux(_)
        | Kind::Activemask
        | Kind::BarWarp
        | Kind::Fence(_)
        | Kind::CpAsync(_)
        | Kind::CpAsyncCommit
        | Kind::CpAsyncWait(_)
        | Kind::Mma(_)
        | Kind::QuadMma(_)
        | Kind::Ldmatrix { .. }
        | Kind::Movmatrix
        | Kind::ReadSpecial(_)
        | Kind::Isspacep(_)
        | Kind::Nanosleep
        | Kind::Prefetch
        | Kind::CheckWritten(_)
        | Kind::MarkWritten(_)
        | Kind::PassWritten
        | Kind::CheckDivisor(_) => true,
        #[allow(unreachable_patterns)] // kinds added later order memory until they are listed here
        _ => false,
    }
}

/// Logarithm of the smallest access to shared memory.
fn shared_granule(code: &Code) -> u32 {
    let bytes = code.insts.iter().filter_map(|inst| match inst.kind {
        Kind::Load(i) | Kind::Store(i) => {
            let op = &code.mems[i as usize];
            matches!(op.space, Space::Shared | Space::Generic).then_some(op.bytes as u32 * op.count as u32)
        }
        Kind::Atomic(_) => Some(2),
        Kind::CpAsync(i) => Some(code.cps[i as usize].bytes as u32),
        _ => None,
    });
    bytes.min().unwrap_or(16).clamp(1, 16).ilog2()
}

fn lower_function<'a>(kernel: &mut KernelBuilder<'a>, function: &'a Function) -> Result<()> {
    let mut builder = Builder::new(kernel, function);
    builder.run()?;
    let mut labels = Vec::with_capacity(builder.labels.len());
    for (at, (name, line)) in builder.labels.iter().zip(&builder.label_lines) {
        match at {
            Some(at) => labels.push(*at),
            None => {
                return Err(Error::Parse { line: *line, message: format!("label `{name}` is not placed") });
            }
        }
    }
    let (mut insts, mut vregs, calls, local_bytes) = (
        std::mem::take(&mut builder.insts),
        std::mem::take(&mut builder.vregs),
        builder.calls.clone(),
        builder.local_bytes,
    );
    let blocks = flow::blocks(&insts, &labels);
    let order = flow::order(&blocks);
    let in_flight = inflight::analyse(&kernel.code, &insts, &blocks, &order, &vregs);
    let numbers = inflight::number_registers(&mut kernel.code, &insts, &vregs, &in_flight);
    let mut in_flight_checks: HashMap<usize, Vec<u32>> = HashMap::new();
    for (at, v) in in_flight.checks {
        in_flight_checks.entry(at).or_default().push(numbers[&v]);
    }
    for (at, kept) in in_flight.kept {
        insts[at].uses.extend(kept);
    }
    let live = slots::liveness(&insts, &blocks, &order, &vregs);
    let unwritten = live.maybe_unwritten(order[0]);
    let tainted = taint::spread(&unwritten, &insts, &vregs);
    // One mask of lanes that have written, for each register that may be read too early.
    let mut masks: HashMap<V, (u32, V)> = HashMap::new();
    for &v in &tainted {
        let name = vregs[v as usize].name.clone();
        kernel.code.tracked.push(if name.is_empty() { "a temporary".to_string() } else { name });
        vregs.push(builder::VInfo {
            bank: Bank::Pred,
            ty: Ty::Pred,
            name: String::new(),
            fixed: Some(Fixed::Constant(0)),
        });
        masks.insert(v, (kernel.code.tracked.len() as u32 - 1, vregs.len() as V - 1));
    }
    let assignment = slots::assign(&insts, &blocks, &order, &vregs, &live, &unwritten);
    if assignment.rows.iter().any(|&r| r >= NO_GUARD as u32) {
        let message = format!("`{}` needs more registers at once than the emulator has", function.name);
        return Err(Error::Parse { line: function.line, message });
    }
    let slot = |v: V| assignment.slot[v as usize] as u16;
    let mut fixed = Vec::new();
    for (v, info) in vregs.iter().enumerate() {
        if let Some(value) = info.fixed {
            fixed.push((value, info.bank, slot(v as V)));
        }
    }
    let code = &mut kernel.code;
    code.max_live = code.max_live.max(assignment.max_live);
    let entry = code.insts.len() as u32;
    code.frames.push(Frame {
        name: function.name.clone(),
        entry,
        rows32: assignment.rows[0],
        rows64: assignment.rows[1],
        preds: assignment.rows[2],
        fixed,
        local_bytes: local_bytes.div_ceil(16) * 16,
        calls,
    });
    // Emission, with branch targets as block numbers first.
    let mut starts = vec![u32::MAX; blocks.len()];
    let mut patches: Vec<(usize, usize)> = Vec::new();
    let mut table_patches: Vec<(u32, Vec<usize>)> = Vec::new();
    for (position, &b) in order.iter().enumerate() {
        let block = &blocks[b];
        starts[b] = code.insts.len() as u32;
        for (at, inst) in (block.start..).zip(&insts[block.start..block.end]) {
            let helper = |kind, v: V, code: &mut Code| {
                let info = Info { class: Class::None, flops: 0, ..inst.info };
                let helper =
                    LInst { kind, guard: inst.guard, defs: vec![], uses: vec![v], info, targets: vec![] };
                push(code, &helper, &slot);
            };
            for &number in in_flight_checks.get(&at).into_iter().flatten() {
                let info = Info { class: Class::None, flops: 0, ..inst.info };
                let kind = Kind::CheckInFlight(number);
                let check =
                    LInst { kind, guard: inst.guard, defs: vec![], uses: vec![], info, targets: vec![] };
                push(code, &check, &slot);
            }
            let (checked, conditional) = read_registers(code, inst);
            let effect = taint::effect(code, inst, &vregs, |v| masks.contains_key(&v));
            let checked = match effect {
                Effect::Uses => checked,
                Effect::UsesFirst(n) => &checked[..n.min(checked.len())],
                Effect::Passes | Effect::Hides => &[],
            };
            for v in conditional {
                if let Some(&(number, mask)) = masks.get(v) {
                    // An accumulator is only read where scale-d is true.
                    let info = Info { class: Class::None, flops: 0, ..inst.info };
                    let (kind, guard) = (Kind::CheckWritten(number), inst.uses.last().map(|&p| (p, false)));
                    push(
                        code,
                        &LInst { kind, guard, defs: vec![], uses: vec![mask], info, targets: vec![] },
                        &slot,
                    );
                }
            }
            for v in checked.iter().chain(inst.guard.iter().map(|g| &g.0)) {
                if let Some(&(number, mask)) = masks.get(v) {
                    let unguarded = LInst { guard: None, ..inst.clone() };
                    let is_guard = inst.guard.is_some_and(|g| g.0 == *v);
                    if is_guard {
                        let info = Info { class: Class::None, flops: 0, ..inst.info };
                        let kind = Kind::CheckWritten(number);
                        push(
                            code,
                            &LInst {
                                kind,
                                defs: vec![],
                                uses: vec![mask],
                                info,
                                targets: vec![],
                                ..unguarded
                            },
                            &slot,
                        );
                    } else {
                        helper(Kind::CheckWritten(number), mask, code);
                    }
                }
            }
            match inst.kind {
                Kind::Branch(_) => patches.push((code.insts.len(), block.targets[0])),
                Kind::BranchIndex(table) => table_patches.push((table, block.targets.clone())),
                _ => {}
            }
            push(code, inst, &slot);
            for v in &inst.defs {
                let builder::VInfo { bank, name, .. } = &vregs[*v as usize];
                if !name.is_empty() {
                    let inst = code.insts.len() as u32 - 1;
                    code.writes.push(NamedWrite { inst, bank: *bank, slot: slot(*v), name: name.clone() });
                }
                if let Some(&(number, mask)) = masks.get(v) {
                    // What adds to itself stays as it was.
                    if effect != Effect::Passes || !inst.uses.contains(v) {
                        helper(Kind::MarkWritten(number), mask, code);
                    }
                    let sources =
                        inst.uses.iter().filter_map(|u| masks.get(u)).filter(|_| effect == Effect::Passes);
                    for &(_, source) in sources {
                        let info = Info { class: Class::None, flops: 0, ..inst.info };
                        let pass = LInst {
                            kind: Kind::PassWritten,
                            guard: inst.guard,
                            defs: vec![],
                            uses: vec![mask, source],
                            info,
                            targets: vec![],
                        };
                        push(code, &pass, &slot);
                    }
                }
            }
        }
        if let Some(next) = block.fallthrough.filter(|&f| order.get(position + 1) != Some(&f)) {
            patches.push((code.insts.len(), next));
            let info = Info { class: Class::None, flops: 0, ..insts[block.end - 1].info };
            let jump = LInst {
                kind: Kind::Branch(0),
                guard: None,
                defs: vec![],
                uses: vec![],
                info,
                targets: vec![],
            };
            push(code, &jump, &slot);
        }
    }
    for (at, block) in patches {
        code.insts[at].kind = Kind::Branch(starts[block]);
    }
    for (table, targets) in table_patches {
        code.tables[table as usize].targets = targets.iter().map(|&b| starts[b]).collect();
    }
    code.leader.resize(code.insts.len(), false);
    starts.iter().filter(|&&s| s != u32::MAX).for_each(|&s| code.leader[s as usize] = true);
    Ok(())
}

/// The registers that an instruction reads, and those that a wgmma reads only if it accumulates. What a wait_group
/// keeps alive it does not read.
fn read_registers<'i>(code: &Code, inst: &'i LInst) -> (&'i [V], &'i [V]) {
    match inst.kind {
        Kind::Warpgroup(index) => match &code.warpgroups[index as usize] {
            WarpgroupOp::Mma(op) => (&inst.uses[op.registers()..], &inst.uses[..op.registers()]),
            _ => (&[], &[]),
        },
        _ => (&inst.uses, &[]),
    }
}

fn push(code: &mut Code, inst: &LInst, slot: &impl Fn(V) -> u16) {
    let all: Vec<u16> = inst.defs.iter().chain(&inst.uses).map(|&v| slot(v)).collect();
    let mut slots = [0; 5];
    let pool = code.pool.len() as u32;
    if matches!(inst.kind, Kind::Lane(_) | Kind::Scalar(_)) {
        slots[..all.len()].copy_from_slice(&all);
    } else {
        code.pool.extend(&all);
    }
    let (guard, negated) = inst.guard.map_or((NO_GUARD, false), |(v, n)| (slot(v), n));
    code.insts.push(Inst { kind: inst.kind, slots, guard, negated, pool });
    code.info.push(inst.info);
}
