//! Which warp of a block runs, and which group of lanes of a warp.
//!
//! The group furthest behind in layout order runs first, so lanes meet again where paths join; a group that loops
//! while others wait is overtaken after some turns, so a lane that spins on a lock held by another lane gets its lock.
//! There is no reconvergence stack (independent thread scheduling, PTX ISA section 3.1).

use super::engine::Engine;
use super::interpret::Stop;
use super::state::*;
use crate::check::Kind as Check;

/// Turns around a loop after which other groups of the warp get to run.
pub(super) const SPIN_TURNS: u32 = 64;
/// Steps a warp runs while others of its block are ready, unless the schedule is random.
const WARP_QUANTUM: u64 = 100_000;

/// What became of a warp's turn.
enum Turn {
    Done,
    /// Nothing of it can run until something else does.
    Waiting,
    /// Its quantum is over.
    Preempted,
}

impl Engine<'_> {
    /// Runs the block for about `steps` instructions. True when it is done (or the launch has stopped).
    pub(super) fn block_turn(&mut self, steps: u64) -> bool {
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
