//! Bulk and tensor copies in the check of races in global memory.

use std::sync::atomic::Ordering::Relaxed;

use super::{
    Access, COPIED, Clash, Clock, IN_FLIGHT, LAST_TIME, MANY, MANY_BLOCKS, Missing, Shadow, Tag, covers,
};

impl Clock {
    /// Records a copy that lane `lane` issues, of `length` bytes at `offset` of an allocation; returns the first byte
    /// that races. A copy that writes does so until [`Clock::copied`].
    pub fn copy(
        &self,
        shadow: &Shadow,
        (offset, length): (u64, u64),
        lane: u32,
        a: Access,
    ) -> Option<(u64, Clash)> {
        let stamp = self.launch << 53 | (a.strong as u64) << 52 | self.block << 28 | self.now << 12;
        let own = stamp | (a.warp as u64) << 6 | if a.write { IN_FLIGHT } else { COPIED };
        let mut clash = None;
        for (word, bytes) in words_of(offset, length) {
            let (Some(w), Some(r)) = (shadow.0.get(2 * word), shadow.0.get(2 * word + 1)) else { break };
            let (written, read) = (Tag(w.load(Relaxed)), Tag(r.load(Relaxed)));
            if clash.is_none() && (written.launch() == self.launch || read.launch() == self.launch) {
                let unfenced = || {
                    let plain = !a.write && written.lane() <= MANY && written.bytes() & bytes != 0;
                    (plain && !self.proxy_ordered(written))
                        .then(|| self.clash(written, lane, true, Missing::ProxyFence))
                };
                let found = self.test(shadow, word, bytes, lane, a).or_else(unfenced);
                clash = found.map(|found| (4 * word as u64, found));
            }
            let own = Tag(own | bytes << 48);
            if a.write {
                w.store(own.0, Relaxed);
            } else {
                let new = self.joined(read, own);
                if new != read {
                    r.store(new.0, Relaxed);
                }
            }
        }
        clash
    }

    /// True when copies issued now come after a plain write, through a fence between the proxies.
    fn proxy_ordered(&self, tag: Tag) -> bool {
        if tag.launch() != self.launch || tag.time() == LAST_TIME {
            return true;
        }
        if tag.block() == self.block {
            return tag.time() < self.proxied as u64;
        }
        tag.block() == MANY_BLOCKS || covers(&self.known.copies, tag)
    }

    /// A copy that has written `length` bytes at `offset` has been waited for.
    pub fn copied(&self, shadow: &Shadow, (offset, length): (u64, u64), warp: u32) {
        let done = self.now << 12 | (warp as u64) << 6 | COPIED;
        for (word, _) in words_of(offset, length) {
            let Some(cell) = shadow.0.get(2 * word) else { break };
            let tag = Tag(cell.load(Relaxed));
            if tag.launch() == self.launch && tag.block() == self.block && tag.lane() == IN_FLIGHT {
                cell.store(tag.0 & !((1 << 28) - 1) | done, Relaxed);
            }
        }
    }
}

/// The words of a range, and which of their bytes are in it.
fn words_of(offset: u64, length: u64) -> impl Iterator<Item = (usize, u64)> {
    let end = offset + length;
    (offset / 4..end.div_ceil(4)).map(move |word| {
        let (first, last) = (offset.max(4 * word) % 4, end.min(4 * word + 4) - 4 * word);
        (word as usize, (1 << last) - (1 << first))
    })
}

#[cfg(test)]
mod tests {
    use super::super::Releases;
    use super::super::tests::{ATOMIC, clocks, one};
    use super::*;

    fn copy(c: &Clock, s: &Shadow, word: u64, write: bool, strong: bool) -> Option<Missing> {
        c.copy(s, (4 * word, 16), 0, Access { warp: 0, bytes: 16, write, strong }).map(|(_, c)| c.missing)
    }

    #[test]
    fn a_copy_writes_until_it_has_been_waited_for() {
        let ([mut a, mut b, _], s, mut r) = (clocks(true), Shadow::new(64), Releases::default());
        assert_eq!(copy(&a, &s, 0, true, false), None);
        assert_eq!(one(&a, &s, 1, false, false).unwrap().missing, Missing::Wait);
        a.fence(true, true);
        a.strong(&mut r, 100, ATOMIC, true);
        b.strong(&mut r, 100, ATOMIC, true);
        assert!(one(&b, &s, 1, false, false).is_some(), "the fence does not cover it");
        a.copied(&s, (0, 16), 0);
        assert!(one(&a, &s, 1, false, false).is_none());
        assert!(one(&b, &s, 1, false, false).is_some(), "it is not released yet");
        a.fence(true, true);
        a.strong(&mut r, 100, ATOMIC, true);
        b.strong(&mut r, 100, ATOMIC, true);
        assert!(one(&b, &s, 1, false, false).is_none());
        assert_eq!(copy(&b, &s, 0, false, false), None, "no proxy fence between copies");
    }

    #[test]
    fn reductions_do_not_race_with_each_other() {
        let ([a, b, c], s) = (clocks(true), Shadow::new(64));
        assert_eq!((copy(&a, &s, 0, true, true), copy(&b, &s, 0, true, true)), (None, None));
        assert_eq!(copy(&c, &s, 0, true, false), Some(Missing::Order));
    }

    #[test]
    fn stores_need_a_proxy_fence_before_a_copy_reads_them() {
        for fences in [[false; 2], [true, false], [false, true]] {
            let ([mut a, mut b, _], s, mut r) = (clocks(true), Shadow::new(64), Releases::default());
            one(&a, &s, 0, true, false);
            assert_eq!(copy(&a, &s, 0, false, false), Some(Missing::ProxyFence));
            if fences[0] {
                a.proxy_fence();
            }
            a.fence(true, true);
            a.strong(&mut r, 100, ATOMIC, true);
            b.strong(&mut r, 100, ATOMIC, false);
            if fences[1] {
                b.proxy_fence();
            }
            let expected = (fences == [false; 2]).then_some(Missing::ProxyFence);
            assert_eq!(copy(&b, &s, 0, false, false), expected, "{fences:?}");
        }
    }

    #[test]
    fn ranges_are_told_apart_by_bytes() {
        let all: Vec<(usize, u64)> = words_of(6, 7).collect();
        assert_eq!(all, [(1, 0b1100), (2, 15), (3, 1)]);
    }
}
