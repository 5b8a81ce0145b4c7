//! Control flow: basic blocks, and the order in which they are laid out.
//!
//! The interpreter lets the lanes furthest behind in this order run first, so that lanes meet again where their paths
//! join. A loop's blocks are contiguous and its exits come after it (Bourdoncle's weak topological order, 1993), which
//! makes lanes that leave a loop early wait for those still in it.

use super::builder::LInst;
use crate::code::Kind;

/// A basic block: instructions `start..end`, successors with the fall-through (if any) first.
#[derive(Clone, Debug, Default)]
pub struct Block {
    pub start: usize,
    pub end: usize,
    pub fallthrough: Option<usize>,
    pub targets: Vec<usize>,
}

impl Block {
    pub fn successors(&self) -> impl Iterator<Item = usize> + '_ {
        self.fallthrough.into_iter().chain(self.targets.iter().copied())
    }
}

fn ends_block(kind: &Kind) -> bool {
    matches!(kind, Kind::Branch(_) | Kind::BranchIndex(_) | Kind::Ret | Kind::Exit | Kind::Trap)
}

/// Cuts instructions into blocks. `labels` gives the position of each label.
pub fn blocks(insts: &[LInst], labels: &[usize]) -> Vec<Block> {
    let mut leader = vec![false; insts.len() + 1];
    leader[0] = true;
    labels.iter().for_each(|&at| leader[at] = true);
    for (i, inst) in insts.iter().enumerate() {
        if ends_block(&inst.kind) {
            leader[i + 1] = true;
        }
    }
    let mut number = vec![0; insts.len()];
    let mut blocks: Vec<Block> = Vec::new();
    for i in 0..insts.len() {
        if leader[i] {
            if let Some(last) = blocks.last_mut() {
                last.end = i;
            }
            blocks.push(Block { start: i, end: insts.len(), ..Block::default() });
        }
        number[i] = blocks.len() - 1;
    }
    let count = blocks.len();
    for (b, block) in blocks.iter_mut().enumerate() {
        let last = &insts[block.end - 1];
        let falls = !ends_block(&last.kind) || last.guard.is_some();
        block.fallthrough = (falls && b + 1 < count).then_some(b + 1);
        // A label at the very end of a function stands before the final return, which always exists.
        block.targets = last.targets.iter().map(|&label| number[labels[label as usize]]).collect();
    }
    blocks
}

/// The reachable blocks in layout order, the entry first.
pub fn order(blocks: &[Block]) -> Vec<usize> {
    let mut out = Vec::with_capacity(blocks.len());
    if blocks.is_empty() {
        return out;
    }
    let members = vec![true; blocks.len()];
    component(blocks, 0, &members, None, 0, &mut out);
    out
}

/// Nesting beyond this is laid out in plain topological order: deeper loops than any compiler emits.
const MAX_NESTING: u32 = 200;

fn component(
    blocks: &[Block],
    entry: usize,
    members: &[bool],
    header: Option<usize>,
    depth: u32,
    out: &mut Vec<usize>,
) {
    let parts = strongly_connected(blocks, entry, members, header);
    for part in parts.into_iter().rev() {
        let looping =
            part.len() > 1 || (header != Some(part[0]) && blocks[part[0]].successors().any(|s| s == part[0]));
        if !looping || depth >= MAX_NESTING {
            out.extend(part);
            continue;
        }
        // Tarjan's root is the first node of the part that the search entered: the loop's header.
        let root = part[0];
        let mut inside = vec![false; blocks.len()];
        part.iter().for_each(|&b| inside[b] = true);
        component(blocks, root, &inside, Some(root), depth + 1, out);
    }
}

/// Tarjan's algorithm without recursion; edges to `header` are ignored. Parts come in reverse topological order, each
/// with its root first.
fn strongly_connected(
    blocks: &[Block],
    entry: usize,
    members: &[bool],
    header: Option<usize>,
) -> Vec<Vec<usize>> {
    const UNSEEN: usize = usize::MAX;
    let n = blocks.len();
    let (mut index, mut low, mut on_stack) = (vec![UNSEEN; n], vec![0; n], vec![false; n]);
    let (mut stack, mut parts, mut counter) = (Vec::new(), Vec::new(), 0);
    // Branch targets are visited before the fall-through: the last visited comes first in the order.
    let edges = |b: usize| -> Vec<usize> {
        let block = &blocks[b];
        let all = block.targets.iter().copied().chain(block.fallthrough);
        all.filter(|&s| members[s] && Some(s) != header).collect()
    };
    let mut work: Vec<(usize, Vec<usize>, usize)> = Vec::new();
    let mut enter = |b: usize,
                     work: &mut Vec<(usize, Vec<usize>, usize)>,
                     index: &mut Vec<usize>,
                     low: &mut Vec<usize>| {
        index[b] = counter;
        low[b] = counter;
        counter += 1;
        work.push((b, edges(b), 0));
    };
    enter(entry, &mut work, &mut index, &mut low);
    stack.push(entry);
    on_stack[entry] = true;
    while let Some((b, successors, at)) = work.last_mut() {
        let b = *b;
        if let Some(&s) = successors.get(*at) {
            *at += 1;
            if index[s] == UNSEEN {
                enter(s, &mut work, &mut index, &mut low);
                stack.push(s);
                on_stack[s] = true;
            } else if on_stack[s] {
                low[b] = low[b].min(index[s]);
            }
            continue;
        }
        work.pop();
        if let Some((parent, _, _)) = work.last() {
            low[*parent] = low[*parent].min(low[b]);
        }
        if low[b] == index[b] {
            let mut part = Vec::new();
            while let Some(s) = stack.pop() {
                on_stack[s] = false;
                part.push(s);
                if s == b {
                    break;
                }
            }
            part.reverse();
            parts.push(part);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(usize, usize)], n: usize) -> Vec<Block> {
        let mut blocks = vec![Block::default(); n];
        for &(a, b) in edges {
            blocks[a].targets.push(b);
        }
        blocks
    }

    #[test]
    fn loops_are_contiguous_and_exits_follow() {
        // 0 -> 1 (header) -> {4 exit, 2}; 2 -> {3, 4}; 3 -> 1
        for exit_first in [false, true] {
            let mut edges = vec![(0, 1), (1, 2), (1, 4), (2, 3), (2, 4), (3, 1)];
            if exit_first {
                edges.swap(1, 2);
                edges.swap(3, 4);
            }
            assert_eq!(order(&graph(&edges, 5)), vec![0, 1, 2, 3, 4]);
        }
    }

    #[test]
    fn nested_loops_stay_inside_each_other() {
        // outer 1..5, inner 2..3, exit 6
        let out = order(&graph(&[(0, 1), (1, 6), (1, 2), (2, 4), (2, 3), (3, 2), (4, 5), (5, 1)], 7));
        let at = |b| out.iter().position(|&x| x == b).unwrap();
        assert!(at(2) < at(3) && at(3) < at(4) && at(5) < at(6), "{out:?}");
    }

    #[test]
    fn unreachable_blocks_are_left_out_and_self_loops_end() {
        assert_eq!(order(&graph(&[(0, 0), (0, 2)], 3)), vec![0, 2]);
    }
}
