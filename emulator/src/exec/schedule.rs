//! Which warp of a block runs, and which group of lanes of a warp.
//!
//! The group furthest behind in layout order runs first, so lanes meet again where paths join; a group that loops
//! while others wait is overtaken after some turns, so a lane that spins on a lock held by another lane gets its lock.
//! There is no reconvergence stack (independent thread scheduling, PTX ISA section 3.1).

use super::engine::Engine;
use super::interpret::Stop;
use super::rows::lanes_of;
use super::state::*;
use crate::check::Kind as Check;
use crate::options::Schedule;

/// Turns around a loop after which other groups of the warp get to run.
pub(super) const SPIN_TURNS: u32 = 64;
/// Steps a warp runs while others of its block are ready, unless the schedule is random.
const WARP_QUANTUM: u64 = 100_000;
/// Steps a block of a cluster runs before the others do.
const CLUSTER_QUANTUM: u64 = 400_000;
/// Questions to mbarriers in a row, with nothing else happening, after which it is a deadlock.
const MAX_POLLS: u64 = 1_000_000;

/// Questions with one answer, in a row, after which a warp is taken to wait for others.
const PATIENCE: u32 = 8;

/// Steps a warp runs in the priority schedule before it is taken to wait for others.
const PRIORITY_QUANTUM: u64 = 4_000;

/// What became of a warp's turn.
enum Turn {
    Done,
    /// Nothing of it can run until something else does.
    Waiting,
    /// Its quantum is over.
    Preempted,
}

impl Engine<'_> {
    /// Runs the cluster for about `steps` instructions. True when it is done (or the launch has stopped).
    pub(super) fn cluster_turn(&mut self, steps: u64) -> bool {
        let size = self.cluster.len();
        let mut left = steps;
        let mut idle = 0;
        loop {
            let quantum = match (size, self.random) {
                (1, _) => left,
                (_, true) => 1 + self.b.random(2000) as u64,
                _ => CLUSTER_QUANTUM,
            };
            let (seen, ran) = (self.progress, self.block_turn(quantum));
            if self.l.findings.stopped() {
                return true;
            }
            left = left.saturating_sub(ran);
            idle = if ran > 0 || self.progress != seen { 0 } else { idle + 1 };
            if self.b.done && (0..size).all(|r| self.block(r).done) {
                return true;
            }
            if (0..size).all(|r| self.block(r).idle_turns > 0 || self.block(r).done) {
                // Only other blocks can bring what these ask for.
                (0..size).for_each(|r| self.block_mut(r).idle_turns = 0);
                left = 0;
            }
            if idle >= size {
                idle = 0;
                if !self.progress_transfer() && !self.resolve_stuck() {
                    return true;
                }
            }
            if size > 1 {
                self.run_block((self.b.rank + 1) % size);
            }
            if left == 0 {
                return false;
            }
        }
    }

    /// Priorities of a block that has none yet, and the moments at which they change.
    fn draw_priorities(&mut self) {
        let n = self.b.warps.len();
        if self.b.ran > 0 && self.b.priorities.len() == n {
            return;
        }
        self.b.priorities = (0..n as i64).collect();
        for i in (1..n).rev() {
            let j = self.b.random(i + 1);
            self.b.priorities.swap(i, j);
        }
        // How long the block runs is not known: moments of every order of magnitude.
        self.b.changes.clear();
        for _ in 1..self.l.options.depth {
            let range = 16 << self.b.random(12);
            let at = self.b.random(range) as u64;
            self.b.changes.push(at);
        }
        self.b.changes.sort_unstable_by(|a, b| b.cmp(a));
    }

    /// A warp whose turn was cut off falls behind all others, in the priority schedule: the moment of a change has come,
    /// or it waits in a loop for what they do.
    fn demote(&mut self, w: usize) {
        if self.l.options.schedule != Schedule::Priority {
            return;
        }
        while self.b.changes.last().is_some_and(|&c| c <= self.b.ran) {
            self.b.changes.pop();
        }
        let lowest = self.b.priorities.iter().copied().min().unwrap_or(0);
        self.b.priorities[w] = lowest - 1;
    }

    fn run_block(&mut self, rank: usize) {
        self.enter(rank);
        self.running = rank;
    }

    /// Runs the block in `b` for about `steps` instructions, or until nothing of it can run; returns how many ran.
    fn block_turn(&mut self, steps: u64) -> u64 {
        let mut left = steps;
        loop {
            if self.l.findings.stopped() || self.b.done {
                return steps - left;
            }
            self.maybe_transfer();
            self.polled_out();
            let n = self.b.warps.len();
            let ready = |b: &Block, w: usize| b.warps[w].groups.iter().any(|g| b.can_run(g));
            let chosen = if self.l.options.schedule == Schedule::Priority {
                self.draw_priorities();
                (0..n).filter(|&w| ready(&self.b, w)).max_by_key(|&w| self.b.priorities[w])
            } else if self.random {
                let first = self.b.random(n);
                (0..n).map(|i| (first + i) % n).find(|&w| ready(&self.b, w))
            } else {
                let first = self.b.turn;
                (0..n).map(|i| (first + i) % n).find(|&w| ready(&self.b, w))
            };
            let Some(w) = chosen else {
                return steps - left;
            };
            let quantum = match self.l.options.schedule {
                Schedule::Fast => WARP_QUANTUM,
                Schedule::Random => 1 + self.b.random(400) as u64,
                Schedule::Priority => {
                    let change = self.b.changes.last().map_or(u64::MAX, |c| c.saturating_sub(self.b.ran));
                    change.clamp(1, PRIORITY_QUANTUM)
                }
            };
            let before = self.b.warps[w].steps;
            let turn = self.run_warp(w, quantum);
            let steps_of_turn = self.b.warps[w].steps - before;
            left = left.saturating_sub(steps_of_turn + 1);
            self.b.ran += steps_of_turn;
            self.turns += 1;
            if let Turn::Preempted = turn {
                self.demote(w);
            }
            let idle = self.b.warps[w].asked.1 >= PATIENCE;
            self.b.idle_turns = if idle { self.b.idle_turns + 1 } else { 0 };
            self.b.turn = match turn {
                Turn::Done | Turn::Waiting | Turn::Preempted => (w + 1) % n,
            };
            if left == 0 {
                return steps;
            }
            if idle && (0..n).all(|w| !ready(&self.b, w) || self.b.warps[w].asked.1 >= PATIENCE) {
                return steps - left;
            }
        }
    }

    /// A strong access to global memory at `pc` has found `values`. A warp that goes on finding the same waits for
    /// others: its turn ends at the next jump back.
    pub(super) fn asked(&self, warp: &mut Warp, pc: u32, mask: u32, values: &[u64; 32]) {
        let mut sum = pc as u64 + 1;
        for i in lanes_of(mask) {
            sum = (sum ^ values[i as usize]).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17);
        }
        let (last, times) = warp.asked;
        warp.asked = (sum, if last == sum { times + 1 } else { 0 });
        if warp.asked.1 >= PATIENCE {
            warp.quantum = 0;
        }
    }

    /// Turns in which nothing happens that others wait for: a pending copy happens. Without one, warps that only ask
    /// mbarriers and are turned away are a deadlock.
    fn polled_out(&mut self) {
        if self.progress != self.seen {
            (self.seen, self.polls, self.turns) = (self.progress, 0, 0);
            return;
        }
        let patience = 4 * (self.warps * self.cluster.len()) as u64 + 16;
        if self.polls.max(self.turns) < patience {
            return;
        }
        if !self.progress_transfer() && self.polls > MAX_POLLS {
            self.resolve_stuck();
        }
    }

    /// Nothing can run: divergent barriers are reported and let go where hardware would; the rest is a deadlock.
    fn resolve_stuck(&mut self) -> bool {
        for rank in 0..self.cluster.len() {
            self.run_block(rank);
            for w in 0..self.b.warps.len() {
                if self.force_barrier(w) {
                    return true;
                }
            }
        }
        let mut dump = String::from("waits for ever; nothing that it waits for can run:");
        let (mut first, mut kind) = (None, Check::Deadlock);
        for rank in 0..self.cluster.len() {
            self.run_block(rank);
            self.describe_stuck(&mut dump, &mut first, &mut kind);
        }
        let (rank, pc, warp, lane) = first.unwrap_or((0, 0, 0, 0));
        self.run_block(rank);
        self.fatal(kind, pc, warp, lane, || dump);
        false
    }

    /// Adds who waits for what in the block in `b`, and what kind of mistake that is.
    fn describe_stuck(
        &self,
        dump: &mut String,
        first: &mut Option<(usize, u32, u32, u32)>,
        kind: &mut Check,
    ) {
        let mut lines: Vec<(u32, u32, String)> = Vec::new();
        for warp in &self.b.warps {
            for g in &warp.groups {
                let mut own = None;
                let what = match g.status {
                    Status::AtMbarrier | Status::Ready if g.wait.is_some() => {
                        let (text, bytes) = g.wait.map(|w| self.describe_wait(&w)).unwrap_or_default();
                        own = bytes.then_some(Check::TransactionBytes);
                        text
                    }
                    Status::AtMbarrier => "waits at an mbarrier".to_string(),
                    Status::AtCluster(_) => "waits at the barrier of the cluster".to_string(),
                    Status::AtWarpgroup => {
                        own = Some(Check::WarpgroupDivergence);
                        "waits for the other warps of its warpgroup".to_string()
                    }
                    Status::ForRegisters(n) => {
                        own = Some(Check::RegisterPool);
                        format!("waits for {n} registers, {} of the block's are free", self.b.pool)
                    }
                    Status::AtBarrier(id) => {
                        let b = &self.b.barriers[id as usize];
                        let expected = b.expected.map_or("all warps".to_string(), |e| format!("{e} warps"));
                        format!("waits at barrier {id} ({} warps of {expected} have arrived)", b.arrivals)
                    }
                    Status::Converging => "waits for other lanes of its warp".to_string(),
                    Status::Ready => "is ready".to_string(),
                };
                let here = (self.b.rank, g.pc, warp.index, g.mask.trailing_zeros());
                match own {
                    Some(own) if *kind == Check::Deadlock => (*kind, *first) = (own, Some(here)),
                    _ => _ = first.get_or_insert(here),
                }
                let text = format!("lanes {:08x} {what} at {}", g.mask, self.place(g.pc));
                // Neighbours that wait for the same thing share a line.
                match lines.last_mut() {
                    Some((_, last, same)) if *same == text && *last + 1 == warp.index => *last = warp.index,
                    _ => lines.push((warp.index, warp.index, text)),
                }
            }
        }
        for (first, last, text) in lines {
            let block = match self.cluster.len() {
                1 => String::new(),
                _ => format!("block {} of the cluster, ", self.b.rank),
            };
            let warps = match last - first {
                0 => format!("warp {first}"),
                _ => format!("each of warps {first} to {last},"),
            };
            *dump += &format!("\n  {block}{warps} {text}");
        }
    }

    fn run_warp(&mut self, w: usize, quantum: u64) -> Turn {
        let mut warp = std::mem::take(&mut self.b.warps[w]);
        warp.quantum = warp.steps + quantum;
        warp.asked.1 = warp.asked.1.min(PATIENCE / 2);
        let turn = loop {
            for g in &mut warp.groups {
                if g.status != Status::Ready && self.b.can_run(g) {
                    g.status = Status::Ready;
                }
            }
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
                Stop::Warpgroup => {
                    self.b.warps[w] = warp;
                    self.warpgroup_arrive(w, g);
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
            if self.hopper {
                self.complete_cluster_barrier(None);
                self.progress += 1;
            }
            if self.b.warps.iter().all(|w| w.alive == 0) {
                self.b.done = true;
                let rank = self.running;
                self.finish_transfers(rank);
            }
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
        let key = |g: &Group| -> Vec<u32> { g.stack.iter().map(|r| r.pc - 1).chain([g.pc]).collect() };
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
            let waiting = |g: &Group| !matches!(g.status, Status::Ready | Status::Converging);
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
