//! Races in global memory within a launch: two threads access the same bytes, one of them writes, and nothing orders
//! them.
//!
//! Every 4-byte word of an allocation has a tag of its last write and one of its last read: launch, block, the block's
//! time, warp, lane, and which bytes. Blocks are ordered by a fence followed by an atomic or strong store, and in the
//! other block an atomic, an acquire load, or a relaxed load followed by a fence, of the same address (PTX ISA section
//! 8), all of the device's scope or wider; what a block knows of the others is kept per block, not per thread, so that a
//! correct program is never accused. Within a block, barriers order, and are checked in kernels that have no other
//! means. Atomics and strong accesses of such scopes do not race with each other.
//!
//! Bulk and tensor copies write until their group has been waited for, whenever the bytes move. They read through the
//! async proxy: what a plain store of the launch has written needs a `fence.proxy.async` on the way, on either side.
//!
//! A tag forgets what it replaces, so a race can be missed, not made up.

mod copies;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::exec::rows::lanes_of;

/// Larger allocations are not followed: tags take four times the memory they describe.
pub const MAX_BYTES: u64 = 64 << 20;
/// Launches with more blocks are not followed.
const MAX_BLOCKS: u64 = (1 << 20) - 2;
/// Kernels whose blocks communicate are followed up to this many.
const MAX_COMMUNICATING: u64 = 4096;
/// Addresses through which blocks are ordered; further ones share one entry, which orders more than it should.
const MAX_ADDRESSES: usize = 1 << 14;

const MANY: u64 = 32;
/// In place of a lane: a bulk copy that has not been waited for, and one that has.
const IN_FLIGHT: u64 = 33;
const COPIED: u64 = 34;
const MANY_BLOCKS: u64 = (1 << 20) - 1;
/// A block's time stops here; what happens then counts as ordered.
const LAST_TIME: u64 = (1 << 16) - 1;

/// launch 11 | strong 1 | bytes 4 | block 20 | time 16 | warp 6 | lane 6
#[derive(Clone, Copy, PartialEq, Eq)]
struct Tag(u64);

impl Tag {
    fn launch(self) -> u64 {
        self.0 >> 53
    }
    fn strong(self) -> bool {
        self.0 >> 52 & 1 != 0
    }
    fn bytes(self) -> u64 {
        self.0 >> 48 & 15
    }
    fn block(self) -> u64 {
        self.0 >> 28 & MANY_BLOCKS
    }
    fn time(self) -> u64 {
        self.0 >> 12 & LAST_TIME
    }
    fn warp(self) -> u64 {
        self.0 >> 6 & 63
    }
    fn lane(self) -> u64 {
        self.0 & 63
    }
}

/// Launches that tags tell apart; 0 is none.
pub const LAUNCHES: u64 = 1 << 11;

/// The tags of an allocation: for each word, that of its last write and that of its last read.
pub struct Shadow(Box<[AtomicU64]>);

impl Shadow {
    pub fn new(bytes: u64) -> Shadow {
        // Zeroed pages cost nothing until they are touched.
        let zeros = vec![0u64; 2 * bytes.div_ceil(4) as usize];
        let mut zeros = std::mem::ManuallyDrop::new(zeros);
        // SAFETY: AtomicU64 has the size, alignment and representation of u64, and the vector is not used again.
        let atomics = unsafe {
            Vec::from_raw_parts(zeros.as_mut_ptr() as *mut AtomicU64, zeros.len(), zeros.capacity())
        };
        Shadow(atomics.into_boxed_slice())
    }

    pub fn clear(&self) {
        self.0.iter().for_each(|t| t.store(0, Relaxed));
    }
}

/// Times of blocks up to which a block knows what they did, and up to which its copies do.
#[derive(Clone, Default)]
struct Known {
    plain: Vec<u32>,
    copies: Vec<u32>,
}

impl Known {
    fn join(&mut self, other: &Known) {
        raise(&mut self.plain, &other.plain);
        raise(&mut self.copies, &other.copies);
    }

    fn clear(&mut self) {
        self.plain.clear();
        self.copies.clear();
    }
}

fn raise(to: &mut Vec<u32>, from: &[u32]) {
    if to.len() < from.len() {
        to.resize(from.len(), 0);
    }
    to.iter_mut().zip(from).for_each(|(t, f)| *t = (*t).max(*f));
}

fn covers(known: &[u32], tag: Tag) -> bool {
    known.get(tag.block() as usize).is_some_and(|&k| tag.time() < k as u64)
}

/// What strong accesses of a launch have left at their addresses.
#[derive(Default)]
pub struct Releases {
    at: HashMap<u64, Left>,
    rest: Left,
}

/// What has been left at an address, and how often.
#[derive(Default)]
struct Left {
    known: Known,
    times: u32,
}

/// The clock of the block (or cluster) that an engine runs.
#[derive(Default)]
pub struct Clock {
    /// Off when the launch is not followed.
    on: bool,
    launch: u64,
    block: u64,
    now: u64,
    /// Time of the last barrier of the block, and of the last barrier of each warp's lanes.
    barrier: u64,
    warps: Vec<u64>,
    /// Barriers are all that orders the block's threads.
    inside: bool,
    communicates: bool,
    /// What the last fence covers, and the last fence between the proxies.
    fenced: u32,
    proxied: u32,
    known: Known,
    /// What relaxed loads have seen: a fence makes it known.
    seen: Known,
    /// The address that was looked at last, how often something had been left there, and whether that is known.
    looked: (u64, u32, bool),
}

/// An access of lanes of one warp.
#[derive(Clone, Copy)]
pub struct Access {
    pub warp: u32,
    pub bytes: u32,
    pub write: bool,
    /// Atomic, volatile, relaxed, acquire or release, of the device's scope or wider.
    pub strong: bool,
}

/// What is missing between two accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Anything that orders them.
    Order,
    /// A fence after the relaxed load that saw the other's flag.
    Fence,
    /// The wait for a bulk copy.
    Wait,
    /// A fence between the proxies.
    ProxyFence,
}

/// Who made the earlier access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clash {
    pub lane: u32,
    pub block: Option<u64>,
    pub warp: Option<u32>,
    pub other: Option<u32>,
    pub wrote: bool,
    pub missing: Missing,
}

impl Clock {
    /// Prepares for a launch of `blocks` blocks.
    pub fn new(launch: u64, blocks: u64, inside: bool, communicates: bool) -> Clock {
        let max = if communicates { MAX_COMMUNICATING } else { MAX_BLOCKS };
        Clock { on: blocks <= max, launch, inside, communicates, ..Clock::default() }
    }

    pub fn is_on(&self) -> bool {
        self.on
    }

    /// The number of the block.
    pub fn block(&self) -> u64 {
        self.block
    }

    pub fn start(&mut self, block: u64, warps: usize) {
        self.block = block;
        (self.now, self.barrier, self.fenced, self.proxied) = (1, 1, 0, 0);
        self.warps.clear();
        self.warps.resize(warps, 1);
        self.known.clear();
        self.seen.clear();
        self.looked = (0, 0, false);
    }

    fn tick(&mut self) -> u64 {
        self.now = (self.now + 1).min(LAST_TIME);
        self.now
    }

    pub fn barrier(&mut self) {
        self.barrier = self.tick();
        let now = self.now;
        self.warps.fill(now);
    }

    pub fn sync_warp(&mut self, warp: usize) {
        let now = self.tick();
        if let Some(w) = self.warps.get_mut(warp) {
            *w = now;
        }
    }

    /// A fence of the device's or the system's scope.
    pub fn fence(&mut self, acquires: bool, releases: bool) {
        if acquires {
            self.known.join(&self.seen);
        }
        if releases {
            self.fenced = self.tick() as u32;
        }
    }

    /// `fence.proxy.async` for global memory: later copies come after all that earlier plain accesses do.
    pub fn proxy_fence(&mut self) {
        self.proxied = self.tick() as u32;
        raise(&mut self.known.copies, &self.known.plain);
    }

    /// A strong access of the device's scope: if it reads it takes what others have left at the address, for good
    /// (`acquires`) or until a fence, and if it writes it leaves what the last fence covers.
    pub fn strong(
        &mut self,
        releases: &mut Releases,
        address: u64,
        (reads, acquires): (bool, bool),
        write: bool,
    ) {
        let full = releases.at.len() >= MAX_ADDRESSES;
        let left = match releases.at.get_mut(&address) {
            Some(left) => Some(left),
            None if full => Some(&mut releases.rest),
            None => None,
        };
        if let Some(left) = left.as_ref().filter(|_| reads) {
            let look = (address, left.times, acquires);
            if self.looked != look {
                if acquires { &mut self.known } else { &mut self.seen }.join(&left.known);
                self.looked = look;
            }
        }
        if write && (self.fenced > 0 || !self.known.plain.is_empty()) {
            let block = self.block as usize;
            for (known, time) in [
                (&mut self.known.plain, self.fenced),
                (&mut self.known.copies, self.fenced.min(self.proxied)),
            ] {
                known.resize(known.len().max(block + 1), 0);
                known[block] = time;
            }
            match left {
                Some(left) => {
                    left.known.join(&self.known);
                    left.times += 1;
                }
                None => {
                    let left = Left { known: self.known.clone(), times: 1 };
                    releases.at.insert(address, left);
                }
            }
        }
    }

    /// What is missing between an earlier access and one now.
    fn missing(&self, tag: Tag, strong: bool) -> Missing {
        let seen = self.communicates && tag.block() != self.block && covers(&self.seen.plain, tag);
        match tag.lane() {
            IN_FLIGHT if tag.block() == self.block => Missing::Wait,
            _ if seen && !strong => Missing::Fence,
            _ => Missing::Order,
        }
    }

    fn ordered(&self, tag: Tag, warp: u64, lane: u64, strong: bool) -> bool {
        if tag.launch() != self.launch || tag.time() == LAST_TIME {
            return true;
        }
        if tag.block() == self.block {
            if tag.lane() == IN_FLIGHT {
                return false;
            }
            let alone = tag.warp() == warp
                && (tag.lane() == lane || tag.time() < self.warps.get(warp as usize).copied().unwrap_or(0));
            return !self.inside || alone || tag.time() < self.barrier;
        }
        if !self.communicates {
            return false;
        }
        // Of several readers in several blocks no one is known.
        tag.block() == MANY_BLOCKS
            || tag.lane() != IN_FLIGHT
                && (covers(&self.known.plain, tag) || strong && covers(&self.seen.plain, tag))
    }

    /// Records the access of the lanes of `mask` to an allocation at `base`; returns the first that races. The accesses
    /// lie within it and are aligned.
    pub fn access(
        &self,
        shadow: &Shadow,
        base: u64,
        addresses: &[u64; 32],
        mask: u32,
        a: Access,
    ) -> Option<Clash> {
        let warp = a.warp as u64;
        let stamp =
            self.launch << 53 | (a.strong as u64) << 52 | self.block << 28 | self.now << 12 | warp << 6;
        if mask == u32::MAX && a.bytes >= 4 && self.first_access(shadow, base, addresses, a, stamp) {
            return None;
        }
        let mut clash = None;
        // Lanes of one instruction do not race with each other: all are tested before any is recorded.
        if a.write {
            for lane in lanes_of(mask) {
                self.words(addresses[lane as usize] - base, a, |word, bytes| {
                    clash = clash.or_else(|| self.test(shadow, word, bytes, lane, a));
                });
            }
        }
        for lane in lanes_of(mask) {
            self.words(addresses[lane as usize] - base, a, |word, bytes| {
                let own = Tag(stamp | bytes << 48 | lane as u64);
                if a.write {
                    if let Some(cell) = shadow.0.get(2 * word) {
                        cell.store(own.0, Relaxed);
                    }
                    return;
                }
                let (Some(w), Some(r)) = (shadow.0.get(2 * word), shadow.0.get(2 * word + 1)) else { return };
                let written = Tag(w.load(Relaxed));
                if written.launch() == self.launch && clash.is_none() {
                    clash = self.test(shadow, word, bytes, lane, a);
                }
                let old = Tag(r.load(Relaxed));
                let new = self.joined(old, own);
                if new != old {
                    r.store(new.0, Relaxed);
                }
            });
        }
        clash
    }

    /// Records an access of all lanes to words that the launch has not touched yet; false, and nothing done, when it has.
    fn first_access(&self, shadow: &Shadow, base: u64, addresses: &[u64; 32], a: Access, stamp: u64) -> bool {
        let words = a.bytes as usize / 4;
        let highest = addresses.iter().map(|a| a - base).max().unwrap_or(0) as usize / 4;
        if 2 * (highest + words) > shadow.0.len() {
            return false;
        }
        let mut touched = false;
        for &address in addresses {
            let word = (address - base) as usize / 4;
            for tag in 2 * word..2 * (word + words) {
                // SAFETY: the highest word was tested above.
                let tag = unsafe { shadow.0.get_unchecked(tag) };
                touched |= tag.load(Relaxed) >> 53 == self.launch;
            }
        }
        if touched {
            return false;
        }
        for (lane, &address) in addresses.iter().enumerate() {
            let word = (address - base) as usize / 4;
            for word in word..word + words {
                // SAFETY: as above.
                let tag = unsafe { shadow.0.get_unchecked(2 * word + !a.write as usize) };
                tag.store(stamp | 15 << 48 | lane as u64, Relaxed);
            }
        }
        true
    }

    /// Calls `f` with each word of an access and the bytes of it.
    #[inline(always)]
    fn words(&self, offset: u64, a: Access, mut f: impl FnMut(usize, u64)) {
        let word = (offset / 4) as usize;
        if a.bytes < 4 {
            return f(word, ((1 << a.bytes) - 1) << (offset % 4));
        }
        for k in 0..a.bytes as usize / 4 {
            f(word + k, 15);
        }
    }

    fn test(&self, shadow: &Shadow, word: usize, bytes: u64, lane: u32, a: Access) -> Option<Clash> {
        let written = self.against(shadow, (word, true), bytes, lane, a);
        written.or_else(|| if a.write { self.against(shadow, (word, false), bytes, lane, a) } else { None })
    }

    /// Whether an access races with the last write of a word, or with its last read.
    fn against(
        &self,
        shadow: &Shadow,
        (word, wrote): (usize, bool),
        bytes: u64,
        lane: u32,
        a: Access,
    ) -> Option<Clash> {
        let tag = shadow.0.get(2 * word + !wrote as usize).map_or(Tag(0), |t| Tag(t.load(Relaxed)));
        let exempt = a.strong && tag.strong() || tag.bytes() & bytes == 0;
        (!exempt && !self.ordered(tag, a.warp as u64, lane as u64, a.strong))
            .then(|| self.clash(tag, lane, wrote, self.missing(tag, a.strong)))
    }

    /// As [`Clock::access`], for lanes that store what is there already: they race with reads alone, and leave no trace.
    pub fn rewrite(
        &self,
        shadow: &Shadow,
        base: u64,
        addresses: &[u64; 32],
        mask: u32,
        a: Access,
    ) -> Option<Clash> {
        let mut clash = None;
        for lane in lanes_of(mask) {
            self.words(addresses[lane as usize] - base, a, |word, bytes| {
                clash = clash.or_else(|| self.against(shadow, (word, false), bytes, lane, a));
            });
        }
        clash
    }

    fn clash(&self, tag: Tag, lane: u32, wrote: bool, missing: Missing) -> Clash {
        Clash {
            lane,
            block: (tag.block() < MANY_BLOCKS).then_some(tag.block()),
            warp: (tag.warp() < MANY).then_some(tag.warp() as u32),
            other: (tag.lane() < MANY).then_some(tag.lane() as u32),
            wrote,
            missing,
        }
    }

    /// The tag of the last read when `own` reads after `old`.
    fn joined(&self, old: Tag, own: Tag) -> Tag {
        if old.launch() != self.launch || old.0 == own.0 {
            return own;
        }
        let same_thread = old.block() == self.block && old.warp() == own.warp() && old.lane() == own.lane();
        // One tag stands for both readers: of bytes that only one of them read it cannot say who.
        let bytes = if same_thread { old.bytes() | own.bytes() } else { old.bytes() & own.bytes() };
        if bytes == 0 {
            return own;
        }
        let both = bytes << 48 | ((old.strong() && own.strong()) as u64) << 52;
        let rest = |tag: Tag| tag.0 & !(31 << 48);
        if old.block() != self.block {
            let known = self.communicates && self.ordered(old, own.warp(), own.lane(), false);
            let many = self.launch << 53 | MANY_BLOCKS << 28 | MANY << 6 | MANY;
            return if known { own } else { Tag(many | both) };
        }
        if old.time() < self.barrier {
            return own;
        }
        if old.warp() != own.warp() {
            return Tag(rest(old) & !0xfff | MANY << 6 | MANY | both);
        }
        let lanes = self.warps.get(own.warp() as usize).copied().unwrap_or(0);
        if old.time() < lanes || old.lane() == own.lane() {
            return Tag(rest(own) | both);
        }
        Tag(rest(old) & !63 | MANY | both)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const ATOMIC: (bool, bool) = (true, true);
    const RELAXED: (bool, bool) = (true, false);

    pub(super) fn clocks(communicates: bool) -> [Clock; 3] {
        std::array::from_fn(|b| {
            let mut c = Clock::new(1, 3, !communicates, communicates);
            c.start(b as u64, 2);
            c
        })
    }

    pub(super) fn one(c: &Clock, s: &Shadow, word: u64, write: bool, strong: bool) -> Option<Clash> {
        c.access(s, 0, &[4 * word; 32], 1, Access { warp: 0, bytes: 4, write, strong })
    }

    #[test]
    fn neighbours_update_the_halves_of_a_word() {
        let ([a, ..], s) = (clocks(false), Shadow::new(64));
        let halves: [u64; 32] = std::array::from_fn(|lane| 2 * lane as u64);
        let access =
            |write| a.access(&s, 0, &halves, u32::MAX, Access { warp: 0, bytes: 2, write, strong: false });
        assert_eq!((access(false), access(true), access(false), access(true)), (None, None, None, None));
        // Lane 0 writes what lane 1 has read.
        let found = a.access(&s, 0, &[2; 32], 1, Access { warp: 0, bytes: 2, write: true, strong: false });
        assert_eq!(found.unwrap().other, Some(1));
    }

    #[test]
    fn blocks_that_do_not_communicate_may_only_read_alike() {
        let ([a, b, _], s) = (clocks(false), Shadow::new(64));
        assert!(one(&a, &s, 0, false, false).is_none() && one(&b, &s, 0, false, false).is_none());
        let found = one(&a, &s, 0, true, false).unwrap();
        assert_eq!((found.block, found.wrote), (None, false));
        assert!(one(&a, &s, 1, true, false).is_none());
        assert_eq!(one(&b, &s, 1, false, false).unwrap().block, Some(0));
    }

    #[test]
    fn a_fence_and_a_flag_order_and_a_flag_alone_does_not() {
        for fence in [true, false] {
            let ([mut a, mut b, mut c], s, mut r) = (clocks(true), Shadow::new(64), Releases::default());
            assert!(one(&a, &s, 0, true, false).is_none());
            if fence {
                a.fence(true, true);
            }
            a.strong(&mut r, 100, ATOMIC, true);
            b.strong(&mut r, 100, ATOMIC, false);
            assert_eq!(one(&b, &s, 0, false, false).is_none(), fence);
            // On through another flag: order is handed on.
            b.strong(&mut r, 200, ATOMIC, true);
            c.strong(&mut r, 200, ATOMIC, false);
            assert_eq!(one(&c, &s, 0, false, false).is_none(), fence);
        }
    }

    #[test]
    fn what_is_written_after_the_fence_is_not_covered() {
        let ([mut a, mut b, _], s, mut r) = (clocks(true), Shadow::new(64), Releases::default());
        a.fence(true, true);
        one(&a, &s, 0, true, false);
        a.strong(&mut r, 100, ATOMIC, true);
        b.strong(&mut r, 100, ATOMIC, true);
        assert!(one(&b, &s, 0, false, false).is_some());
    }

    #[test]
    fn atomics_race_with_plain_accesses_only() {
        let ([a, b, c], s) = (clocks(true), Shadow::new(64));
        assert!(one(&a, &s, 0, true, true).is_none() && one(&b, &s, 0, true, true).is_none());
        assert!(one(&c, &s, 0, false, false).is_some());
    }

    #[test]
    fn barriers_order_a_block_and_bytes_are_told_apart() {
        let ([mut a, ..], s) = (clocks(false), Shadow::new(64));
        let access = |a: &Clock, warp, offset: u64, bytes, write| {
            a.access(&s, 0, &[offset; 32], 1, Access { warp, bytes, write, strong: false })
        };
        assert!(access(&a, 0, 0, 2, true).is_none());
        assert!(access(&a, 1, 2, 2, true).is_none(), "the other half of the word");
        assert!(access(&a, 0, 2, 2, false).is_some());
        a.barrier();
        assert!(access(&a, 0, 2, 2, false).is_none());
        let mut later = Clock::new(2, 3, true, false);
        later.start(1, 2);
        assert!(access(&later, 0, 0, 4, true).is_none(), "launches are ordered");
    }

    #[test]
    fn a_relaxed_load_needs_a_fence_after_it() {
        let ([mut a, mut b, _], s, mut r) = (clocks(true), Shadow::new(64), Releases::default());
        one(&a, &s, 0, true, false);
        a.fence(false, true);
        a.strong(&mut r, 100, RELAXED, true);
        b.strong(&mut r, 100, RELAXED, false);
        assert_eq!(one(&b, &s, 0, false, false).unwrap().missing, Missing::Fence);
        assert!(one(&b, &s, 0, false, true).is_none(), "loads that are strong themselves are let pass");
        b.fence(false, true);
        assert!(one(&b, &s, 0, false, false).is_some(), "a release acquires nothing");
        b.fence(true, false);
        assert!(one(&b, &s, 0, false, false).is_none());
    }
}
