//! Races in shared memory of kernels whose every barrier is the whole block's: one clock for the block.
//!
//! The common case of [`super::race`], at a fraction of its cost. Such a barrier orders all before it with all after
//! it, so a granule of memory needs only its last write and its last read: when, by which warp, by which lane. Whole
//! rows of 32 lanes are tested at once. The granule is the kernel's smallest access, so that neighbouring elements
//! never share one.

use super::race::Conflict;
use crate::exec::lanes::by_level;
use crate::exec::rows::lanes_of;

/// A tag is time, warp (6 bits) and lane (6 bits); 0 is before everything.
const TIME: u32 = 12;
const LAST_TIME: u32 = u32::MAX >> TIME;
/// In place of a warp or lane: several.
const MANY: u32 = 32;

/// The race detector of one block; reused from block to block.
#[derive(Default)]
pub struct Epochs {
    /// Bytes of a granule, as a power of two.
    shift: u32,
    writes: Vec<u32>,
    reads: Vec<u32>,
    now: u32,
    /// The time of the last barrier: what is older is ordered before everything.
    barrier: u32,
    /// For each warp, the time since which its lanes are unordered.
    warps: Vec<u32>,
}

/// Who accesses, in the form the row tests need.
#[derive(Clone, Copy)]
struct Now {
    /// Tags below are of before the last barrier.
    block: u32,
    /// Tags of this warp below are of before the last barrier of its lanes.
    lanes: u32,
    warp: u32,
    /// Time and warp of a tag made now.
    stamp: u32,
}

#[inline(always)]
fn ordered(tag: u32, n: Now, lane: u32) -> bool {
    // Written without short cuts, so that a row of them is vectorised.
    let own = (tag >> 6 & 63 == n.warp) & ((tag < n.lanes) | (tag & 63 == lane));
    (tag < n.block) | own
}

/// What the tag of the last read becomes when `lane` reads too.
#[inline(always)]
fn joined(tag: u32, n: Now, lane: u32) -> u32 {
    let same_warp = tag >> 6 & 63 == n.warp;
    let alone = (tag < n.block) | (same_warp & (tag < n.lanes));
    let many_lanes = if tag & 63 == lane { tag } else { tag & !63 | MANY };
    let many_warps = tag & !((1 << TIME) - 1) | MANY << 6 | MANY;
    if alone {
        n.stamp | lane
    } else if same_warp {
        many_lanes
    } else {
        many_warps
    }
}

/// A row of accesses to the granule `k` after each offset.
#[derive(Clone, Copy)]
struct Row<'a> {
    offsets: &'a [u32; 32],
    mask: u32,
    shift: u32,
    k: u32,
    write: bool,
}

impl Row<'_> {
    /// Lanes outside the mask stand for its first one, whose offset they have.
    #[inline(always)]
    fn lane(&self, i: usize) -> u32 {
        if self.mask >> i & 1 != 0 { i as u32 } else { self.mask.trailing_zeros() }
    }

    #[inline(always)]
    fn cell(&self, i: usize) -> u32 {
        (self.offsets[i] >> self.shift) + self.k
    }
}

by_level! {
    /// Lanes that conflict with an earlier access. If there are none, or `record`, the access is recorded.
    fn row_access(writes: &mut [u32], reads: &mut [u32], row: Row, n: Now, record: bool) -> u32 {
        let mut highest = 0;
        for i in 0..32 {
            highest = row.cell(i).max(highest);
        }
        if highest as usize >= writes.len().min(reads.len()) {
            return 0;
        }
        let (mut bad, mut new, mut changed) = ([0u32; 32], [0; 32], 0);
        for i in 0..32 {
            let (at, lane) = (row.cell(i) as i32 as isize, row.lane(i));
            // SAFETY: no cell is beyond the highest, which was tested against both lengths.
            let (w, r) = unsafe { (*writes.as_ptr().offset(at), *reads.as_ptr().offset(at)) };
            bad[i] = (!ordered(w, n, lane) | (row.write & !ordered(r, n, lane))) as u32;
            new[i] = if row.write { n.stamp | lane } else { joined(r, n, lane) };
            changed |= new[i] ^ r;
        }
        let mut mask = 0;
        for (i, &b) in bad.iter().enumerate() {
            mask |= b << i;
        }
        if mask != 0 && !record || changed == 0 && !row.write {
            return mask;
        }
        let tags = if row.write { writes } else { reads };
        for i in 0..32 {
            // SAFETY: as above.
            unsafe { *tags.get_unchecked_mut(row.cell(i) as usize) = new[i] };
        }
        if row.write {
            return mask;
        }
        // Lanes that find another's tag have read the same granule.
        let mut shared = 0u32;
        for i in 0..32 {
            // SAFETY: as above.
            let tag = unsafe { *tags.as_ptr().offset(row.cell(i) as i32 as isize) };
            shared |= ((tag != new[i]) as u32) << i;
            new[i] = tag & !63 | MANY;
        }
        while shared != 0 {
            let i = shared.trailing_zeros() as usize;
            shared &= shared - 1;
            // SAFETY: as above.
            unsafe { *tags.get_unchecked_mut(row.cell(i) as usize) = new[i] };
        }
        mask
    }
}

/// Whose access a tag is.
fn one_of(tag: u32, wrote: bool) -> Conflict {
    let one = |v: u32| (v < MANY).then_some(v);
    Conflict { warp: one(tag >> 6 & 63), lane: one(tag & 63), wrote }
}

impl Epochs {
    /// Prepares for a block of `warps` warps and `bytes` of shared memory.
    pub fn reset(&mut self, warps: usize, bytes: usize, shift: u32) {
        let cells = bytes.div_ceil(1 << shift);
        if self.writes.len() != cells || self.shift != shift || self.now == 0 {
            (self.writes, self.reads) = (vec![0; cells], vec![0; cells]);
            self.now = 1;
        }
        self.shift = shift;
        self.warps.resize(warps, 0);
        self.barrier();
    }

    /// A barrier of the whole block.
    pub fn barrier(&mut self) {
        if self.now == LAST_TIME {
            self.writes.fill(0);
            self.reads.fill(0);
            self.now = 0;
        }
        self.now += 1;
        self.barrier = self.now;
        self.warps.fill(self.now);
    }

    /// A barrier of all lanes of a warp.
    pub fn sync_warp(&mut self, warp: usize) {
        if self.now == LAST_TIME {
            self.renumber();
        }
        self.now += 1;
        self.warps[warp] = self.now;
    }

    /// Times have run out between two barriers: those since the last become one, before which lanes are ordered.
    fn renumber(&mut self) {
        let first = self.barrier << TIME;
        for tag in self.writes.iter_mut().chain(&mut self.reads) {
            *tag = if *tag < first { 0 } else { 1 << TIME | *tag & ((1 << TIME) - 1) };
        }
        (self.barrier, self.now) = (1, 2);
        self.warps.fill(2);
    }

    /// Records that the lanes of `mask` access `bytes` bytes from `offsets` on, which lie within the memory; returns
    /// the first lane that races, the byte, and whom with. Offsets of other lanes must be those of a lane of the mask.
    pub fn access(
        &mut self,
        offsets: &[u32; 32],
        mask: u32,
        bytes: u32,
        warp: u32,
        write: bool,
    ) -> Option<(u32, u32, Conflict)> {
        let n = self.moment(warp);
        let mut conflict = None;
        for k in 0..(bytes >> self.shift).max(1) {
            let row = Row { offsets, mask, shift: self.shift, k, write };
            let bad = row_access(&mut self.writes, &mut self.reads, row, n, false);
            if bad != 0 {
                let i = bad.trailing_zeros() as usize;
                let found = self.conflict(row.cell(i) as usize, n, row.lane(i));
                conflict = conflict.or(found.map(|c| (row.lane(i), row.cell(i) << self.shift, c)));
                row_access(&mut self.writes, &mut self.reads, row, n, true);
            }
        }
        conflict
    }

    /// As [`Epochs::access`], for lanes that store what is there already: they race with reads alone, and leave no trace.
    pub fn rewrite(
        &self,
        offsets: &[u32; 32],
        mask: u32,
        bytes: u32,
        warp: u32,
    ) -> Option<(u32, u32, Conflict)> {
        let n = self.moment(warp);
        let steps = (bytes >> self.shift).max(1);
        lanes_of(mask).find_map(|lane| {
            let first = offsets[lane as usize] >> self.shift;
            let cell = (first..first + steps)
                .find(|&cell| self.reads.get(cell as usize).is_some_and(|&tag| !ordered(tag, n, lane)))?;
            Some((lane, cell << self.shift, one_of(self.reads[cell as usize], false)))
        })
    }

    /// What an access of `warp` is now.
    fn moment(&self, warp: u32) -> Now {
        Now {
            block: self.barrier << TIME,
            lanes: self.warps[warp as usize] << TIME,
            warp,
            stamp: self.now << TIME | warp << 6,
        }
    }

    fn conflict(&self, cell: usize, n: Now, lane: u32) -> Option<Conflict> {
        [(self.writes[cell], true), (self.reads[cell], false)]
            .into_iter()
            .find_map(|(tag, wrote)| (!ordered(tag, n, lane)).then(|| one_of(tag, wrote)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(f: impl Fn(u32) -> u32) -> [u32; 32] {
        std::array::from_fn(|i| f(i as u32))
    }

    fn new(warps: usize) -> Epochs {
        let mut e = Epochs::default();
        e.reset(warps, 4096, 2);
        e
    }

    #[test]
    fn barriers_separate_warps_and_their_absence_does_not() {
        let mut e = new(2);
        assert!(e.access(&row(|i| 4 * i), !0, 4, 0, true).is_none());
        let (lane, byte, c) = e.access(&row(|i| 4 * (31 - i)), !0, 4, 1, false).unwrap();
        assert_eq!((lane, byte, c), (0, 124, Conflict { warp: Some(0), lane: Some(31), wrote: true }));
        e.barrier();
        assert!(e.access(&row(|_| 8), !0, 4, 1, false).is_none(), "all lanes read one word");
        assert!(e.access(&row(|_| 8), !0, 4, 0, false).is_none());
        let (_, _, c) = e.access(&row(|_| 8), 1, 4, 0, true).unwrap();
        assert_eq!(c, Conflict { warp: None, lane: None, wrote: false });
        e.reset(2, 4096, 2);
        assert!(e.access(&row(|i| 4 * i), !0, 4, 1, true).is_none(), "the last block is over");
    }

    #[test]
    fn lanes_of_a_warp_need_a_warp_barrier() {
        let mut e = new(1);
        assert!(e.access(&row(|i| 4 * i), !0, 4, 0, true).is_none());
        assert!(e.access(&row(|i| 4 * i), !0, 4, 0, false).is_none(), "its own");
        assert!(e.access(&row(|i| 4 * (i ^ 1)), !0, 4, 0, false).is_some());
        e.sync_warp(0);
        assert!(e.access(&row(|i| 4 * (i ^ 1)), !0, 4, 0, true).is_none());
        assert!(e.access(&row(|_| 0), !0, 4, 0, true).is_some(), "lane 0 and lane 1 wrote it");
    }

    #[test]
    fn wide_accesses_cover_their_granules_and_masks_are_kept() {
        let mut e = new(2);
        assert!(e.access(&row(|i| 16 * i), !0, 16, 0, true).is_none());
        assert!(e.access(&row(|_| 16 * 5 + 12), 1 << 7, 4, 1, false).is_some());
        let mut e = new(2);
        assert!(e.access(&row(|_| 0), 2, 4, 0, true).is_none());
        assert!(e.access(&row(|_| 4), 4, 4, 1, true).is_none());
        assert!(e.access(&row(|_| 0), 2, 4, 0, false).is_none());
    }

    #[test]
    fn times_that_run_out_are_renumbered() {
        let mut e = new(2);
        e.access(&row(|_| 0), 1, 4, 0, true);
        (0..=LAST_TIME).for_each(|_| e.sync_warp(0));
        assert!(e.access(&row(|_| 0), 1, 4, 0, true).is_none());
        assert!(e.access(&row(|_| 0), 1, 4, 1, false).is_some(), "still unordered with the other warp");
        (0..=LAST_TIME).for_each(|_| e.barrier());
        assert!(e.access(&row(|_| 0), 1, 4, 1, true).is_none());
    }
}
