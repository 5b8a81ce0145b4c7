//! Races in shared memory: two accesses of one word, one of them a write, with no barrier between.
//!
//! Each warp has a vector clock; barriers join the clocks of those who meet, and so do shared-memory atomics and
//! strong accesses through the word they touch (PTX ISA section 8, simplified: a strong access is taken as acquire and
//! release, so that a missing fence is not found, and no correct program is accused). Lanes of one warp are ordered
//! only by their own instruction stream and by `bar.warp.sync` or a barrier; a conflict within one instruction is the
//! hardware's to resolve and no race. The last write of a word, and the last read of it by each warp, are remembered.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Spreads the numbers of words over a table.
#[derive(Default)]
pub struct WordHash(u64);

impl Hasher for WordHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.write_u32(b as u32));
    }

    fn write_u32(&mut self, n: u32) {
        self.0 = (self.0 ^ n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

/// A time on a warp's clock; 0 is before everything.
type Time = u32;

#[derive(Clone, Copy, Default)]
struct Cell {
    /// Time, warp, lane and bytes of the last write; atomics are marked.
    write_time: Time,
    write_warp: u8,
    write_lane: u8,
    write_bytes: u8,
    write_strong: bool,
    /// Step of the writing warp, for order between lanes.
    write_step: u32,
    /// Warps that have read since, bytes, and the lanes and step of the last of them.
    read_warps: u32,
    read_bytes: u8,
    read_strong: bool,
    read_last: u8,
    read_lanes: u32,
    read_step: u32,
}

/// Who accessed a word before, in conflict with who accesses it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The warp and lane, where they are known.
    pub warp: Option<u32>,
    pub lane: Option<u32>,
    pub wrote: bool,
}

/// An access of one lane.
#[derive(Clone, Copy)]
pub struct Access {
    pub warp: u32,
    pub lane: u32,
    /// A number that grows with each instruction of the warp.
    pub step: u32,
    pub write: bool,
    /// Atomic, volatile, relaxed, acquire or release.
    pub strong: bool,
}

/// The race detector of one block; reused from block to block.
#[derive(Default)]
pub struct Races {
    warps: usize,
    cells: Vec<Cell>,
    /// Last read of word w by warp v: `reads[w * warps + v]`.
    reads: Vec<Time>,
    /// `clocks[v * warps + u]`: what warp v knows of warp u.
    clocks: Vec<Time>,
    /// Clocks left at words by strong accesses.
    released: HashMap<u32, Vec<Time>, BuildHasherDefault<WordHash>>,
    /// For each warp, `synced[i * 32 + j]`: the last step of lane j that lane i is ordered after.
    synced: Vec<Vec<u32>>,
    /// For each warp, the step at which all its lanes last met.
    met: Vec<u32>,
    base: Time,
}

impl Races {
    /// Prepares for a block of `warps` warps and `words` 4-byte words of shared memory.
    pub fn reset(&mut self, warps: usize, words: usize) {
        // Clocks go on from the last block's, so that its accesses are before everything of this one.
        let newest = self.clocks.iter().copied().max().unwrap_or(0).max(self.base);
        if self.warps != warps || self.cells.len() != words || newest > 1 << 30 {
            self.cells = vec![Cell::default(); words];
            self.reads = vec![0; words * warps];
            self.base = 0;
        } else {
            self.base = newest;
        }
        self.warps = warps;
        self.clocks = vec![self.base; warps * warps];
        for v in 0..warps {
            self.clocks[v * warps + v] = self.base + 1;
        }
        self.released.clear();
        self.synced.resize(warps, Vec::new());
        self.synced.iter_mut().for_each(Vec::clear);
        self.met.clear();
        self.met.resize(warps, 0);
    }

    pub fn clock(&self, warp: usize) -> &[Time] {
        &self.clocks[warp * self.warps..][..self.warps]
    }

    /// Adds what warp `warp` knows to `sum`, and starts a new time of it.
    pub fn release(&mut self, warp: usize, sum: &mut Vec<Time>) {
        sum.resize(self.warps, 0);
        let own = &mut self.clocks[warp * self.warps..][..self.warps];
        sum.iter_mut().zip(own.iter()).for_each(|(s, &c)| *s = (*s).max(c));
        own[warp] += 1;
    }

    /// Makes warp `warp` know what `sum` holds.
    pub fn acquire(&mut self, warp: usize, sum: &[Time]) {
        let own = &mut self.clocks[warp * self.warps..][..self.warps];
        own.iter_mut().zip(sum).for_each(|(c, &s)| *c = (*c).max(s));
    }

    /// Orders the lanes of `mask` of a warp: `bar.warp.sync`, or a barrier (all lanes).
    pub fn sync_lanes(&mut self, warp: usize, mask: u32, step: u32) {
        if mask == u32::MAX {
            self.met[warp] = step;
            return;
        }
        let table = &mut self.synced[warp];
        if table.is_empty() {
            table.resize(32 * 32, 0);
        }
        let lanes = || (0..32).filter(move |i| mask >> i & 1 != 0);
        for j in 0..32 {
            let known =
                if mask >> j & 1 != 0 { step } else { lanes().map(|i| table[i * 32 + j]).max().unwrap_or(0) };
            lanes().for_each(|i| table[i * 32 + j] = known);
        }
    }

    /// Orders the lanes of `mask` after all that the warp has done before `step`: they have seen others' arrivals.
    fn lanes_follow(&mut self, warp: usize, mask: u32, step: u32) {
        let table = &mut self.synced[warp];
        if table.is_empty() {
            table.resize(32 * 32, 0);
        }
        for i in (0..32).filter(|i| mask >> i & 1 != 0) {
            table[i * 32..i * 32 + 32].fill(step);
        }
    }

    fn lanes_ordered(&self, warp: u32, earlier: u32, later: u32, step: u32) -> bool {
        earlier == later
            || self.met[warp as usize] > step
            || self.synced[warp as usize]
                .get((later * 32 + earlier) as usize)
                .is_some_and(|&known| known > step)
    }

    /// The read of `bytes` of `word` that a write races with. It is all that a store of what is there already races with, and such
    /// a store leaves no trace.
    pub fn rewrite(&self, word: usize, bytes: u8, a: Access) -> Option<Conflict> {
        let warps = self.warps;
        let &cell = self.cells.get(word)?;
        if cell.read_bytes & bytes == 0 || a.strong && cell.read_strong {
            return None;
        }
        let mut conflict = None;
        for u in (0..warps as u32).filter(|u| cell.read_warps >> u & 1 != 0) {
            let time = self.reads[word * warps + u as usize];
            if time <= self.base {
                continue;
            }
            if u != a.warp {
                if time > self.clocks[a.warp as usize * warps + u as usize] {
                    conflict = Some(Conflict { warp: Some(u), lane: None, wrote: false });
                }
            } else if cell.read_last as u32 == u && cell.read_step != a.step {
                let lane = (0..32).find(|&j| {
                    cell.read_lanes >> j & 1 != 0 && !self.lanes_ordered(u, j, a.lane, cell.read_step)
                });
                if lane.is_some() {
                    conflict = Some(Conflict { warp: Some(u), lane, wrote: false });
                }
            }
        }
        conflict
    }

    /// Records an access to `bytes` (a mask of 4) of `word`; returns whom it races with.
    pub fn access(&mut self, word: usize, bytes: u8, a: Access) -> Option<Conflict> {
        let warps = self.warps;
        let &cell = self.cells.get(word)?;
        if a.strong
            && let Some(left) = self.released.get(&(word as u32))
        {
            let own = &mut self.clocks[a.warp as usize * warps..][..warps];
            own.iter_mut().zip(left).for_each(|(c, &s)| *c = (*c).max(s));
            self.lanes_follow(a.warp as usize, 1 << a.lane, a.step);
        }
        let base = self.base;
        let slot = word * warps + a.warp as usize;
        let now = self.clocks[a.warp as usize * warps + a.warp as usize];
        // A stale cell of an earlier block may have this step's number; the clock tells them apart.
        let same_read =
            cell.read_last as u32 == a.warp && cell.read_step == a.step && self.reads[slot] == now;
        let foreign_write = cell.write_time <= base || cell.write_warp as u32 != a.warp;
        if same_read && foreign_write && !a.write && !a.strong && cell.read_bytes & bytes == bytes {
            // Another lane of this instruction has read the word: what holds for it holds for this one.
            self.cells[word].read_lanes |= 1 << a.lane;
            return None;
        }
        let mut conflict = None;
        let knows = |u: u32| self.clocks[a.warp as usize * warps + u as usize];
        if cell.write_time > base && cell.write_bytes & bytes != 0 && !(a.strong && cell.write_strong) {
            let (u, lane) = (cell.write_warp as u32, cell.write_lane as u32);
            let ordered = if u == a.warp {
                // One instruction writing a word from several lanes is left to the hardware.
                cell.write_step == a.step || self.lanes_ordered(u, lane, a.lane, cell.write_step)
            } else {
                cell.write_time <= knows(u)
            };
            if !ordered {
                conflict = Some(Conflict { warp: Some(u), lane: Some(lane), wrote: true });
            }
        }
        if a.write && conflict.is_none() {
            conflict = self.rewrite(word, bytes, a);
        }
        let cell = &mut self.cells[word];
        if a.write {
            let same_moment =
                cell.write_time == now && cell.write_warp as u32 == a.warp && cell.write_step == a.step;
            cell.write_bytes = if same_moment { cell.write_bytes | bytes } else { bytes };
            (cell.write_time, cell.write_warp, cell.write_lane) = (now, a.warp as u8, a.lane as u8);
            (cell.write_strong, cell.write_step) = (a.strong, a.step);
            // Reads that this write is after are of no more interest, unless they are of other bytes.
            if cell.read_bytes & !bytes == 0 && cell.read_step != a.step {
                (cell.read_warps, cell.read_bytes, cell.read_lanes) = (0, 0, 0);
            }
        } else {
            if !same_read {
                cell.read_lanes = 0;
            }
            cell.read_strong = if cell.read_bytes == 0 { a.strong } else { cell.read_strong && a.strong };
            cell.read_warps |= 1 << a.warp;
            cell.read_bytes |= bytes;
            cell.read_lanes |= 1 << a.lane;
            (cell.read_last, cell.read_step) = (a.warp as u8, a.step);
            self.reads[slot] = now;
        }
        if a.strong && a.write {
            let own = &mut self.clocks[a.warp as usize * warps..][..warps];
            let left = self.released.entry(word as u32).or_default();
            left.clear();
            left.extend_from_slice(own);
            own[a.warp as usize] += 1;
        }
        conflict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(warp: u32, lane: u32, step: u32, write: bool) -> Access {
        Access { warp, lane, step, write, strong: false }
    }

    fn barrier(r: &mut Races, warps: usize, step: u32) {
        let mut sum = Vec::new();
        (0..warps).for_each(|w| r.release(w, &mut sum));
        (0..warps).for_each(|w| r.acquire(w, &sum));
        (0..warps).for_each(|w| r.sync_lanes(w, u32::MAX, step));
    }

    #[test]
    fn a_barrier_separates_warps_and_its_absence_does_not() {
        let mut r = Races::default();
        r.reset(2, 4);
        assert_eq!(r.access(0, 15, access(0, 3, 1, true)), None);
        let found = r.access(0, 15, access(1, 5, 1, false)).unwrap();
        assert_eq!((found.warp, found.lane, found.wrote), (Some(0), Some(3), true));
        barrier(&mut r, 2, 2);
        assert_eq!(r.access(0, 15, access(1, 5, 3, false)), None);
        assert!(!r.access(0, 15, access(0, 3, 3, true)).unwrap().wrote);
        r.reset(2, 4);
        assert_eq!(r.access(0, 15, access(1, 0, 1, true)), None, "the last block's accesses are over");
    }

    #[test]
    fn lanes_that_read_in_an_earlier_block_are_forgotten() {
        let mut r = Races::default();
        r.reset(1, 1);
        r.access(0, 15, access(0, 3, 10, false));
        r.reset(1, 1);
        r.access(0, 15, access(0, 5, 10, false));
        assert_eq!(r.access(0, 15, access(0, 5, 12, true)), None);
        assert!(r.access(0, 15, access(0, 6, 13, true)).is_some());
    }

    #[test]
    fn different_bytes_of_a_word_do_not_conflict() {
        let mut r = Races::default();
        r.reset(2, 1);
        assert_eq!(r.access(0, 0b0011, access(0, 0, 1, true)), None);
        assert_eq!(r.access(0, 0b1100, access(1, 0, 1, true)), None);
    }

    #[test]
    fn lanes_of_a_warp_need_a_warp_barrier() {
        let mut r = Races::default();
        r.reset(1, 1);
        r.access(0, 15, access(0, 0, 1, true));
        assert!(r.access(0, 15, access(0, 1, 2, false)).is_some());
        r.sync_lanes(0, 3, 3);
        assert_eq!(r.access(0, 15, access(0, 1, 4, false)), None);
        assert!(r.access(0, 15, access(0, 2, 5, false)).is_some(), "lane 2 did not take part");
    }

    #[test]
    fn strong_accesses_order_what_is_around_them() {
        let mut r = Races::default();
        r.reset(2, 2);
        let strong = |warp, write| Access { strong: true, ..access(warp, 0, 2, write) };
        r.access(0, 15, access(0, 0, 1, true));
        r.access(1, 15, strong(0, true));
        assert_eq!(r.access(1, 15, strong(1, false)), None);
        assert_eq!(r.access(0, 15, access(1, 0, 3, false)), None, "the flag orders the data");
    }
}
