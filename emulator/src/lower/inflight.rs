//! Registers that wgmma operations use while they run (PTX ISA 9.7.15.7).
//!
//! Two forward analyses over the blocks: which registers may belong to an operation that no wait_group has covered, and
//! which have been accessed since the last wgmma.fence. The first says where a check at run time is worth its cost and
//! keeps the slots of results in flight; the second is a finding where the wgmma executes.

use super::builder::{LInst, V, VInfo};
use super::flow::Block;
use crate::code::{Code, Kind, WarpgroupOp};

/// State of one register: 0 idle, 1 in an operation not committed, 2 + k in a group with k commits after it.
type Age = u8;
const OLDEST: Age = 250;

#[derive(Clone, PartialEq)]
struct State {
    ages: Vec<Age>,
    touched: Vec<bool>,
}

impl State {
    /// What holds on one path or the other: the youngest operation, any access.
    fn join(&mut self, other: &State) -> bool {
        let mut changed = false;
        for (a, &b) in self.ages.iter_mut().zip(&other.ages) {
            let joined = if *a == 0 || b != 0 && b < *a { b } else { *a };
            changed |= joined != *a;
            *a = joined;
        }
        for (a, &b) in self.touched.iter_mut().zip(&other.touched) {
            changed |= b && !*a;
            *a |= b;
        }
        changed
    }
}

/// Where checks go: for each instruction, the registers it touches that may be in flight.
#[derive(Default)]
pub struct InFlight {
    pub checks: Vec<(usize, V)>,
    /// Accumulators in flight at each wait_group, which must keep their slots until there.
    pub kept: Vec<(usize, Vec<V>)>,
    /// The first register of each wgmma that is accessed without a fence.
    pub unfenced: Vec<(u32, V)>,
}

/// Registers that wgmma uses, numbered densely.
struct Registers {
    number: Vec<u32>,
    list: Vec<V>,
    accumulator: Vec<bool>,
}

const NONE: u32 = u32::MAX;

/// Analyses the function whose instructions are `insts`.
pub fn analyse(code: &Code, insts: &[LInst], blocks: &[Block], order: &[usize], vregs: &[VInfo]) -> InFlight {
    let mut out = InFlight::default();
    let mut registers = Registers { number: vec![NONE; vregs.len()], list: vec![], accumulator: vec![] };
    for inst in insts {
        if let Kind::Warpgroup(index) = inst.kind
            && let WarpgroupOp::Mma(op) = &code.warpgroups[index as usize]
        {
            for (list, accumulator) in [(&op.d, true), (&op.a, false)] {
                for &v in list.iter().filter(|&&v| vregs[v as usize].fixed.is_none()) {
                    if registers.number[v as usize] == NONE {
                        registers.number[v as usize] = registers.list.len() as u32;
                        registers.list.push(v);
                        registers.accumulator.push(false);
                    }
                    registers.accumulator[registers.number[v as usize] as usize] |= accumulator;
                }
            }
        }
    }
    let n = registers.list.len();
    if n == 0 {
        return out;
    }
    let mut states: Vec<Option<State>> = vec![None; blocks.len()];
    states[order[0]] = Some(State { ages: vec![0; n], touched: vec![true; n] });
    let mut changed = true;
    while changed {
        changed = false;
        for &b in order {
            let Some(mut state) = states[b].clone() else { continue };
            for at in blocks[b].start..blocks[b].end {
                step(code, insts, at, &registers, &mut state, None);
            }
            for s in blocks[b].successors() {
                match &mut states[s] {
                    Some(old) => changed |= old.join(&state),
                    none => {
                        *none = Some(state.clone());
                        changed = true;
                    }
                }
            }
        }
    }
    for &b in order {
        let Some(mut state) = states[b].clone() else { continue };
        for at in blocks[b].start..blocks[b].end {
            step(code, insts, at, &registers, &mut state, Some(&mut out));
        }
    }
    out
}

fn step(
    code: &Code,
    insts: &[LInst],
    at: usize,
    registers: &Registers,
    state: &mut State,
    mut out: Option<&mut InFlight>,
) {
    let inst = &insts[at];
    let number = |v: V| Some(registers.number[v as usize]).filter(|&n| n != NONE).map(|n| n as usize);
    let operation = match inst.kind {
        Kind::Warpgroup(index) => Some((index, &code.warpgroups[index as usize])),
        _ => None,
    };
    match operation {
        Some((index, WarpgroupOp::Mma(op))) => {
            let all = || op.d.iter().chain(&op.a).copied();
            if let Some(out) = out
                && let Some(v) = all().find(|&v| number(v).is_some_and(|n| state.touched[n]))
            {
                out.unfenced.push((index, v));
            }
            all().filter_map(number).for_each(|n| state.ages[n] = 1);
        }
        Some((_, WarpgroupOp::Fence)) => state.touched.fill(false),
        Some((_, WarpgroupOp::Commit)) => {
            state.ages.iter_mut().filter(|a| **a != 0).for_each(|a| *a = (*a + 1).min(OLDEST));
        }
        Some((_, WarpgroupOp::Wait(keep))) => {
            if let Some(out) = out.as_mut() {
                let kept = (0..registers.list.len())
                    .filter(|&n| state.ages[n] != 0 && registers.accumulator[n])
                    .map(|n| registers.list[n]);
                out.kept.push((at, kept.collect()));
            }
            state.ages.iter_mut().filter(|a| **a >= 2 && (**a - 2) as u32 >= *keep).for_each(|a| *a = 0);
        }
        _ => {
            for v in inst.defs.iter().chain(&inst.uses).copied() {
                let Some(n) = number(v) else { continue };
                if state.ages[n] != 0
                    && let Some(out) = out.as_mut()
                    && out.checks.last() != Some(&(at, v))
                {
                    out.checks.push((at, v));
                }
                state.touched[n] = true;
            }
        }
    }
}

/// Gives the registers of wgmma operations numbers that are unique in the kernel, and writes what the analysis found
/// into the operations. Returns the numbers.
pub fn number_registers(
    code: &mut Code,
    insts: &[LInst],
    vregs: &[VInfo],
    found: &InFlight,
) -> std::collections::HashMap<V, u32> {
    let mut numbers = std::collections::HashMap::new();
    for inst in insts {
        let Kind::Warpgroup(index) = inst.kind else { continue };
        let names = &mut code.register_names;
        let WarpgroupOp::Mma(op) = &mut code.warpgroups[index as usize] else { continue };
        let mut number = |v: V| {
            *numbers.entry(v).or_insert_with(|| {
                names.push(vregs[v as usize].name.clone());
                names.len() as u32 - 1
            })
        };
        op.unfenced = found.unfenced.iter().find(|u| u.0 == index).map(|u| number(u.1));
        op.d.iter_mut().chain(&mut op.a).for_each(|v| *v = number(*v));
    }
    numbers
}
