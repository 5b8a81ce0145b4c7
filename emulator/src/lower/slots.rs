//! Liveness of virtual registers and their assignment to slots of the banks.
//!
//! PTX has a register per value; what is live at once is a small part. Intervals are taken over the layout order, so
//! a value live around a loop keeps its slot throughout it. A predicated write does not end the life of the old
//! value. Registers that are live where the function starts may be read before any write: those get slots of their
//! own and a mask of the lanes that have written, checked at each read.

use super::builder::{LInst, V, VInfo};
use super::flow::Block;
use crate::code::Bank;

/// A set of virtual registers.
#[derive(Clone, PartialEq)]
struct Set(Vec<u64>);

impl Set {
    fn new(n: usize) -> Set {
        Set(vec![0; n.div_ceil(64)])
    }

    fn insert(&mut self, v: V) {
        self.0[v as usize / 64] |= 1 << (v % 64);
    }

    fn has(&self, v: V) -> bool {
        self.0[v as usize / 64] >> (v % 64) & 1 != 0
    }

    fn iter(&self) -> impl Iterator<Item = V> + '_ {
        self.0.iter().enumerate().flat_map(|(w, &word)| {
            (0..64).filter(move |b| word >> b & 1 != 0).map(move |b| (w * 64 + b) as V)
        })
    }
}

/// Live sets at the start and end of each block.
pub struct Liveness {
    live_in: Vec<Set>,
    live_out: Vec<Set>,
}

fn reads(inst: &LInst) -> impl Iterator<Item = V> + '_ {
    inst.uses.iter().copied().chain(inst.guard.map(|g| g.0))
}

pub fn liveness(insts: &[LInst], blocks: &[Block], order: &[usize], vregs: &[VInfo]) -> Liveness {
    let n = vregs.len();
    let mut live_in = vec![Set::new(n); blocks.len()];
    let mut live_out = vec![Set::new(n); blocks.len()];
    let (mut gen_sets, mut kill) = (vec![Set::new(n); blocks.len()], vec![Set::new(n); blocks.len()]);
    for &b in order {
        for inst in &insts[blocks[b].start..blocks[b].end] {
            for v in reads(inst).filter(|&v| vregs[v as usize].fixed.is_none()) {
                if !kill[b].has(v) {
                    gen_sets[b].insert(v);
                }
            }
            if inst.guard.is_none() {
                inst.defs.iter().for_each(|&v| kill[b].insert(v));
            }
        }
    }
    let mut changed = true;
    while changed {
        changed = false;
        for &b in order.iter().rev() {
            let mut out = Set::new(n);
            for s in blocks[b].successors() {
                for (o, i) in out.0.iter_mut().zip(&live_in[s].0) {
                    *o |= i;
                }
            }
            for w in 0..out.0.len() {
                let word = gen_sets[b].0[w] | (out.0[w] & !kill[b].0[w]);
                if word != live_in[b].0[w] {
                    live_in[b].0[w] = word;
                    changed = true;
                }
            }
            live_out[b] = out;
        }
    }
    Liveness { live_in, live_out }
}

impl Liveness {
    /// Registers that some path may read before writing.
    pub fn maybe_unwritten(&self, entry: usize) -> Vec<V> {
        self.live_in[entry].iter().collect()
    }
}

/// Slots of the virtual registers.
pub struct Assignment {
    pub slot: Vec<u32>,
    /// Rows in use: 32-bit, 64-bit, predicates.
    pub rows: [u32; 3],
    /// Most registers live at once, counted in 32-bit registers.
    pub max_live: u32,
}

fn index(bank: Bank) -> usize {
    match bank {
        Bank::R32 => 0,
        Bank::R64 => 1,
        Bank::Pred => 2,
    }
}

/// Linear scan over the layout order. `own_slot` registers live throughout.
pub fn assign(
    insts: &[LInst],
    blocks: &[Block],
    order: &[usize],
    vregs: &[VInfo],
    live: &Liveness,
    own_slot: &[V],
) -> Assignment {
    const NONE: (u64, u64) = (u64::MAX, 0);
    let mut interval = vec![NONE; vregs.len()];
    let mut extend = |v: V, at: u64| {
        let i = &mut interval[v as usize];
        *i = (i.0.min(at), i.1.max(at));
    };
    // Reads of instruction p happen at 2p, writes at 2p + 1: a result may take the slot of a source that ends there.
    let mut at = 0u64;
    for &b in order {
        live.live_in[b].iter().for_each(|v| extend(v, 2 * at));
        for inst in &insts[blocks[b].start..blocks[b].end] {
            reads(inst).for_each(|v| extend(v, 2 * at));
            inst.defs.iter().for_each(|&v| extend(v, 2 * at + 1));
            at += 1;
        }
        live.live_out[b].iter().for_each(|v| extend(v, 2 * at));
    }
    own_slot.iter().for_each(|&v| interval[v as usize] = (0, u64::MAX));
    let mut by_start: Vec<V> = (0..vregs.len() as V)
        .filter(|&v| vregs[v as usize].fixed.is_none() && interval[v as usize] != NONE)
        .collect();
    by_start.sort_by_key(|&v| interval[v as usize].0);
    let mut slot = vec![u32::MAX; vregs.len()];
    let (mut rows, mut free): ([u32; 3], [Vec<u32>; 3]) = ([0; 3], Default::default());
    let mut active: std::collections::BinaryHeap<std::cmp::Reverse<(u64, V)>> = Default::default();
    let (mut live_now, mut max_live) = (0u32, 0);
    let weight = |v: V| [1, 2, 0][index(vregs[v as usize].bank)];
    for v in by_start {
        let (start, end) = interval[v as usize];
        while let Some(&std::cmp::Reverse((e, old))) = active.peek() {
            if e >= start {
                break;
            }
            active.pop();
            free[index(vregs[old as usize].bank)].push(slot[old as usize]);
            live_now -= weight(old);
        }
        let k = index(vregs[v as usize].bank);
        slot[v as usize] = free[k].pop().unwrap_or_else(|| {
            rows[k] += 1;
            rows[k] - 1
        });
        active.push(std::cmp::Reverse((end, v)));
        live_now += weight(v);
        max_live = max_live.max(live_now);
    }
    for v in 0..vregs.len() {
        if vregs[v].fixed.is_some() {
            let k = index(vregs[v].bank);
            slot[v] = rows[k];
            rows[k] += 1;
        }
    }
    Assignment { slot, rows, max_live }
}
