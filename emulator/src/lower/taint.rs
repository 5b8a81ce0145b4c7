//! Registers that nothing may have written, and what is computed from them: programs carry such values about (the last
//! items of a tile, the padding of a structure) and never use them. Reading one is a mistake where it decides something:
//! as an address, a guard, an argument of a call, an operand of an atomic or a matrix operation, a value for global memory. Arithmetic passes
//! the mark on to its result; what selects, packs or exchanges values, and what stores them in the block's own memory,
//! hides it.

use std::collections::HashSet;

use super::builder::{LInst, V, VInfo};
use crate::code::*;
use crate::ptx::ast::Space;

/// What an instruction does with a value that nothing has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Its result is as undefined.
    Passes,
    /// Nobody can say what becomes of it.
    Hides,
    /// It matters.
    Uses,
    /// Only the first operands matter.
    UsesFirst(usize),
}

/// Results of plain computations, by what goes in.
fn pure_effect(inst: &LInst, vregs: &[VInfo]) -> Option<Effect> {
    if !matches!(inst.kind, Kind::Lane(_) | Kind::Scalar(_)) {
        return None;
    }
    let bank = |v: &V| vregs[*v as usize].bank;
    let count = |b: Bank| inst.uses.iter().filter(|u| bank(u) == b).count();
    let to = inst.defs.first().map(bank);
    let logic = count(Bank::Pred) > 1;
    let selects = count(Bank::Pred) > 0 && to != Some(Bank::Pred);
    let packs = to == Some(Bank::R64) && count(Bank::R32) > 1 && count(Bank::R64) == 0;
    Some(if logic || selects || packs { Effect::Hides } else { Effect::Passes })
}

pub fn effect(code: &Code, inst: &LInst, vregs: &[VInfo], is_tracked: impl Fn(V) -> bool) -> Effect {
    if let Some(effect) = pure_effect(inst, vregs) {
        return effect;
    }
    match inst.kind {
        Kind::Shuffle(_) => Effect::Hides,
        // Arguments and results of calls lie in local memory.
        Kind::Store(_) if matches!(inst.info.class, Class::None | Class::ConstParam) => Effect::Uses,
        Kind::Store(index) => match code.mems[index as usize].space {
            // A vector with something in it: the rest is padding.
            Space::Global if inst.uses[1..].iter().all(|&v| is_tracked(v)) => Effect::UsesFirst(2),
            _ => Effect::UsesFirst(1),
        },
        _ => Effect::Uses,
    }
}

/// All registers that may hold a value made from ones that nothing has written.
pub fn spread(unwritten: &[V], insts: &[LInst], vregs: &[VInfo]) -> Vec<V> {
    let mut all = unwritten.to_vec();
    if all.is_empty() {
        return all;
    }
    let mut known: HashSet<V> = all.iter().copied().collect();
    let passing: Vec<&LInst> =
        insts.iter().filter(|i| pure_effect(i, vregs) == Some(Effect::Passes)).collect();
    let mut changed = true;
    while changed {
        changed = false;
        for inst in &passing {
            if inst.uses.iter().any(|u| known.contains(u)) {
                for &d in &inst.defs {
                    if known.insert(d) {
                        all.push(d);
                        changed = true;
                    }
                }
            }
        }
    }
    all
}
