//! Order between warps, asynchronous copies and matrix operations on the shared memory of a cluster.
//!
//! Each warp has two vector clocks: what its ordinary accesses come after, and what its accesses through the async
//! proxy come after (PTX ISA 8.2 and 8.9). A synchronisation joins both pairwise; `fence.proxy.async` adds the first
//! to the second. Copies and matrix operations are agents of their own: one for each mbarrier, whose time is the number
//! of the phase that completes them; one for each thread's bulk groups; one for each warpgroup. Who waits for them
//! learns their time. An async write over bytes that were only read needs no proxy fence (as the consumers of every
//! pipeline release their slots), an async access to bytes written by an ordinary store does.
//!
//! Ordinary accesses are remembered for each 4-byte word, asynchronous ones for each 16-byte granule.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::race::{Access, WordHash};

pub type Time = u32;
/// A warp of the cluster, or something asynchronous.
pub type Agent = u16;

/// Bytes of a granule; copies start and end on its multiples.
pub const GRANULE: u32 = 16;
const NOBODY: Agent = u16::MAX;

#[derive(Clone, Debug, Default)]
pub struct Clock(Vec<Time>);

impl Clock {
    fn get(&self, agent: Agent) -> Time {
        self.0.get(agent as usize).copied().unwrap_or(0)
    }

    fn raise(&mut self, agent: Agent, time: Time) {
        if self.0.len() <= agent as usize {
            self.0.resize(agent as usize + 1, 0);
        }
        let t = &mut self.0[agent as usize];
        *t = (*t).max(time);
    }

    fn join(&mut self, other: &Clock) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(a, &b)| *a = (*a).max(b));
    }
}

/// What ordinary accesses, and accesses through the async proxy, come after.
#[derive(Clone, Debug, Default)]
pub struct Pair {
    generic: Clock,
    asynchronous: Clock,
}

impl Pair {
    pub fn join(&mut self, other: &Pair) {
        self.generic.join(&other.generic);
        self.asynchronous.join(&other.asynchronous);
    }

    /// The work of an asynchronous agent up to `time` is complete, for both proxies.
    pub fn learn(&mut self, agent: Agent, time: Time) {
        self.generic.raise(agent, time);
        self.asynchronous.raise(agent, time);
    }
}

#[derive(Clone, Copy)]
struct Word {
    writer: Agent,
    reader: Agent,
    write_time: Time,
    read_time: Time,
    write_step: u32,
    read_step: u32,
    read_lanes: u32,
    write_lane: u8,
    write_bytes: u8,
    read_bytes: u8,
    write_strong: bool,
    read_strong: bool,
    /// More readers are in `Order::readers`.
    many: bool,
}

const FRESH: Word = Word {
    writer: NOBODY,
    reader: NOBODY,
    write_time: 0,
    read_time: 0,
    write_step: 0,
    read_step: 0,
    read_lanes: 0,
    write_lane: 0,
    write_bytes: 0,
    read_bytes: 0,
    write_strong: false,
    read_strong: false,
    many: false,
};

/// An asynchronous access: who does it, when it is complete, and where it was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub agent: Agent,
    pub time: Time,
    pub pc: u32,
}

const NEVER: Stamp = Stamp { agent: NOBODY, time: 0, pc: 0 };

#[derive(Clone, Copy)]
struct Granule {
    write: Stamp,
    reads: [Stamp; 4],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// No synchronisation between.
    Unordered,
    /// Still in flight, or not waited for by this warp.
    InFlight,
    /// Ordered, but written through the other proxy.
    NoProxyFence,
}

/// An earlier access in conflict with one now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub what: What,
    /// The warp in the cluster, for an ordinary access.
    pub warp: u32,
    pub lane: Option<u32>,
    pub wrote: bool,
    /// Where an asynchronous access was issued.
    pub pc: u32,
}

/// The detector of one cluster.
#[derive(Default)]
pub struct Order {
    clocks: Vec<Pair>,
    words: Vec<Word>,
    granules: Vec<Granule>,
    readers: HashMap<u32, Vec<(Agent, Time)>>,
    released: HashMap<u32, Pair, BuildHasherDefault<WordHash>>,
    /// As in [`super::race::Races`].
    synced: Vec<Vec<u32>>,
    met: Vec<u32>,
    agents: usize,
}

impl Order {
    /// Prepares for `warps` warps and `bytes` of shared memory, both of the whole cluster.
    pub fn reset(&mut self, warps: usize, bytes: usize) {
        self.clocks.clear();
        self.clocks.resize(warps, Pair::default());
        for w in 0..warps {
            // Time 1 is the warp's start.
            self.clocks[w].generic.raise(w as Agent, 2);
        }
        self.words.clear();
        self.words.resize(bytes.div_ceil(4), FRESH);
        self.granules.clear();
        self.granules.resize(bytes.div_ceil(GRANULE as usize), Granule { write: NEVER, reads: [NEVER; 4] });
        self.readers.clear();
        self.released.clear();
        self.synced.clear();
        self.synced.resize(warps, Vec::new());
        self.met.clear();
        self.met.resize(warps, 0);
        self.agents = warps;
    }

    /// A number for something asynchronous.
    pub fn new_agent(&mut self) -> Agent {
        self.agents = (self.agents + 1).min(NOBODY as usize - 1);
        self.agents as Agent - 1
    }

    /// Adds what a warp knows to `sum`, and starts a new time of it.
    pub fn release(&mut self, warp: usize, sum: &mut Pair) {
        sum.join(&self.clocks[warp]);
        self.tick(warp);
    }

    pub fn acquire(&mut self, warp: usize, sum: &Pair) {
        self.clocks[warp].join(sum);
    }

    fn tick(&mut self, warp: usize) {
        let clock = &mut self.clocks[warp].generic;
        let now = clock.get(warp as Agent);
        clock.raise(warp as Agent, now + 1);
    }

    /// `fence.proxy.async`: later accesses through the async proxy come after all that earlier ordinary ones do.
    pub fn proxy_fence(&mut self, warp: usize) {
        let pair = &mut self.clocks[warp];
        pair.asynchronous.join(&pair.generic);
        self.tick(warp);
    }

    /// The warp has waited for an asynchronous agent.
    pub fn learn(&mut self, warp: usize, agent: Agent, time: Time) {
        self.clocks[warp].learn(agent, time);
    }

    /// The warp has passed a barrier of the cluster, even a relaxed one: every warp of it has started.
    pub fn all_started(&mut self, warp: usize) {
        for other in 0..self.clocks.len() {
            self.clocks[warp].generic.raise(other as Agent, 1);
        }
    }

    /// True when the warp comes after the start of some warp of `others`.
    pub fn knows_any(&self, warp: usize, mut others: std::ops::Range<usize>) -> bool {
        others.any(|o| o == warp || self.clocks[warp].generic.get(o as Agent) > 0)
    }

    /// The warp's own time now.
    pub fn now(&self, warp: usize) -> Time {
        self.clocks[warp].generic.get(warp as Agent)
    }

    /// True when `warp` comes after something asynchronous.
    pub fn has_learnt(&self, warp: usize, stamp: Stamp) -> bool {
        self.clocks[warp].generic.get(stamp.agent) >= stamp.time
    }

    /// True when `warp` comes after what `other` had done at `time`.
    pub fn is_after(&self, warp: usize, other: usize, time: Time) -> bool {
        warp == other || self.clocks[warp].generic.get(other as Agent) >= time
    }

    /// Orders lanes of a warp, as [`super::race::Races::sync_lanes`].
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
    pub fn lanes_follow(&mut self, warp: usize, mask: u32, step: u32) {
        let table = &mut self.synced[warp];
        if table.is_empty() {
            table.resize(32 * 32, 0);
        }
        for i in (0..32).filter(|i| mask >> i & 1 != 0) {
            table[i * 32..i * 32 + 32].fill(step);
        }
    }

    fn lanes_ordered(&self, warp: u32, earlier: u32, later: u32, step: u32) -> bool {
        let known = self.synced[warp as usize].get((later * 32 + earlier) as usize);
        earlier == later || self.met[warp as usize] > step || known.is_some_and(|&known| known > step)
    }

    /// Records an ordinary access to `bytes` (a mask of 4) of word `word` of the cluster's shared memory.
    pub fn access(&mut self, word: usize, bytes: u8, a: Access) -> Option<Conflict> {
        self.words.get(word)?;
        let (warp, me) = (a.warp as usize, a.warp as Agent);
        if a.strong
            && let Some(left) = self.released.get(&(word as u32))
        {
            self.clocks[warp].join(left);
            self.lanes_follow(warp, 1 << a.lane, a.step);
        }
        let found = self.ordinary_conflict(word, bytes, a).or_else(|| self.async_conflict(word, a));
        let now = self.now(warp);
        let cell = &mut self.words[word];
        if a.write {
            (cell.writer, cell.write_time, cell.write_step) = (me, now, a.step);
            (cell.write_lane, cell.write_bytes, cell.write_strong) = (a.lane as u8, bytes, a.strong);
            if cell.read_bytes & !bytes == 0 {
                // Who comes after this write comes after the reads before it.
                cell.reader = NOBODY;
                if std::mem::take(&mut cell.many) {
                    self.readers.remove(&(word as u32));
                }
            }
        } else if cell.reader == me && cell.read_step == a.step && cell.read_time == now {
            cell.read_lanes |= 1 << a.lane;
            cell.read_bytes |= bytes;
        } else {
            if cell.reader != NOBODY && cell.reader != me {
                let known = self.clocks[warp].generic.get(cell.reader) >= cell.read_time;
                if !known {
                    let list = self.readers.entry(word as u32).or_default();
                    list.retain(|r| r.0 != cell.reader);
                    list.push((cell.reader, cell.read_time));
                    cell.many = true;
                }
            }
            (cell.reader, cell.read_time, cell.read_step) = (me, now, a.step);
            (cell.read_lanes, cell.read_strong) = (1 << a.lane, a.strong);
            cell.read_bytes = if cell.many { cell.read_bytes | bytes } else { bytes };
        }
        if a.strong && a.write {
            let left = self.released.entry(word as u32).or_default();
            left.generic.0.clone_from(&self.clocks[warp].generic.0);
            left.asynchronous.0.clone_from(&self.clocks[warp].asynchronous.0);
            self.tick(warp);
        }
        found
    }

    fn ordinary_conflict(&self, word: usize, bytes: u8, a: Access) -> Option<Conflict> {
        let cell = &self.words[word];
        let clock = &self.clocks[a.warp as usize].generic;
        let race = |warp: Agent, lane: Option<u32>, wrote: bool| {
            Some(Conflict { what: What::Unordered, warp: warp as u32, lane, wrote, pc: 0 })
        };
        if cell.writer != NOBODY && cell.write_bytes & bytes != 0 && !(a.strong && cell.write_strong) {
            let ordered = if cell.writer as u32 == a.warp {
                cell.write_step == a.step
                    || self.lanes_ordered(a.warp, cell.write_lane as u32, a.lane, cell.write_step)
            } else {
                cell.write_time <= clock.get(cell.writer)
            };
            if !ordered {
                return race(cell.writer, Some(cell.write_lane as u32), true);
            }
        }
        if a.write && cell.reader != NOBODY && cell.read_bytes & bytes != 0 && !(a.strong && cell.read_strong)
        {
            if cell.reader as u32 != a.warp {
                if cell.read_time > clock.get(cell.reader) {
                    return race(cell.reader, None, false);
                }
            } else if cell.read_step != a.step {
                let lane = (0..32).find(|&j| {
                    cell.read_lanes >> j & 1 != 0 && !self.lanes_ordered(a.warp, j, a.lane, cell.read_step)
                });
                if lane.is_some() {
                    return race(cell.reader, lane, false);
                }
            }
            let more = cell.many.then(|| self.readers.get(&(word as u32))).flatten();
            let unknown = more
                .into_iter()
                .flatten()
                .find(|(agent, time)| *agent as u32 != a.warp && *time > clock.get(*agent));
            if let Some((agent, _)) = unknown {
                return race(*agent, None, false);
            }
        }
        None
    }

    fn async_conflict(&self, word: usize, a: Access) -> Option<Conflict> {
        let granule = &self.granules[word * 4 / GRANULE as usize];
        let clock = &self.clocks[a.warp as usize].generic;
        pending(granule, clock, a.write)
    }

    /// Records an access through the async proxy to a granule, issued by `warp`.
    pub fn async_access(
        &mut self,
        granule: usize,
        warp: usize,
        write: bool,
        stamp: Stamp,
    ) -> Option<Conflict> {
        let cell = *self.granules.get(granule)?;
        let pair = &self.clocks[warp];
        let mut found = pending(&cell, &pair.generic, write);
        let words = granule * 4..(granule * 4 + 4).min(self.words.len());
        if found.is_none() {
            found = words.clone().find_map(|w| self.word_conflict(w, warp, write));
        }
        let granule = &mut self.granules[granule];
        if write {
            *granule = Granule { write: stamp, reads: [NEVER; 4] };
            self.words[words].fill(FRESH);
        } else if !granule.reads.contains(&stamp) {
            let clock = &self.clocks[warp].generic;
            let place = granule.reads.iter().position(|r| r.agent == stamp.agent || r.agent == NOBODY);
            let known = || granule.reads.iter().position(|r| r.time <= clock.get(r.agent));
            let place = place.or_else(known).unwrap_or(0);
            granule.reads[place] = stamp;
        }
        found
    }

    /// Records an asynchronous store through the ordinary proxy (st.async, red.async) to the words `words`. Those that
    /// complete with the same phase do not conflict with each other.
    pub fn async_store(
        &mut self,
        words: std::ops::Range<usize>,
        warp: usize,
        stamp: Stamp,
    ) -> Option<Conflict> {
        let mut found = None;
        for word in words {
            let Some(cell) = self.words.get(word) else { break };
            let clock = &self.clocks[warp].generic;
            let granule = &mut self.granules[word * 4 / GRANULE as usize];
            let mine = |s: &Stamp| (s.agent, s.time) == (stamp.agent, stamp.time);
            let open = pending(granule, clock, true).filter(|_| !mine(&granule.write));
            let unknown =
                |agent: Agent, time| agent != NOBODY && agent as usize != warp && time > clock.get(agent);
            let race = |agent: Agent, wrote| {
                Some(Conflict { what: What::Unordered, warp: agent as u32, lane: None, wrote, pc: 0 })
            };
            let ordinary = if unknown(cell.writer, cell.write_time) {
                race(cell.writer, true)
            } else if unknown(cell.reader, cell.read_time) {
                race(cell.reader, false)
            } else {
                None
            };
            found = found.or(open).or(ordinary);
            *granule = Granule { write: stamp, reads: [NEVER; 4] };
            self.words[word] = FRESH;
        }
        found
    }

    fn word_conflict(&self, word: usize, warp: usize, write: bool) -> Option<Conflict> {
        let cell = &self.words[word];
        let pair = &self.clocks[warp];
        let conflict =
            |what, agent: Agent, lane, wrote| Some(Conflict { what, warp: agent as u32, lane, wrote, pc: 0 });
        if cell.writer != NOBODY && cell.write_time > pair.asynchronous.get(cell.writer) {
            let lane = Some(cell.write_lane as u32);
            let ordered = cell.write_time <= pair.generic.get(cell.writer);
            let what = if ordered { What::NoProxyFence } else { What::Unordered };
            return conflict(what, cell.writer, lane, true);
        }
        if write && cell.reader != NOBODY {
            let unknown = |agent: Agent, time: Time| agent as usize != warp && time > pair.generic.get(agent);
            if unknown(cell.reader, cell.read_time) {
                return conflict(What::Unordered, cell.reader, None, false);
            }
            let more = cell.many.then(|| self.readers.get(&(word as u32))).flatten();
            if let Some((agent, _)) = more.into_iter().flatten().find(|r| unknown(r.0, r.1)) {
                return conflict(What::Unordered, *agent, None, false);
            }
        }
        None
    }
}

/// The asynchronous access of a granule that `clock` does not come after.
fn pending(granule: &Granule, clock: &Clock, write: bool) -> Option<Conflict> {
    let open = |s: &Stamp| s.agent != NOBODY && s.time > clock.get(s.agent);
    let conflict = |s: &Stamp, wrote| Conflict { what: What::InFlight, warp: 0, lane: None, wrote, pc: s.pc };
    if open(&granule.write) {
        return Some(conflict(&granule.write, true));
    }
    if !write {
        return None;
    }
    granule.reads.iter().find(|s| open(s)).map(|s| conflict(s, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(warp: u32, step: u32, write: bool) -> Access {
        Access { warp, lane: 0, step, write, strong: false }
    }

    fn order() -> (Order, Agent) {
        let mut o = Order::default();
        o.reset(2, 64);
        let agent = o.new_agent();
        (o, agent)
    }

    fn sync(o: &mut Order, from: usize, to: usize) {
        let mut sum = Pair::default();
        o.release(from, &mut sum);
        o.acquire(to, &sum);
    }

    #[test]
    fn a_copy_must_be_waited_for_and_the_wait_passes_on() {
        let (mut o, agent) = order();
        let stamp = Stamp { agent, time: 1, pc: 7 };
        assert_eq!(o.async_access(0, 0, true, stamp), None);
        let found = o.access(1, 15, access(1, 1, false)).unwrap();
        assert_eq!((found.what, found.pc, found.wrote), (What::InFlight, 7, true));
        o.learn(0, agent, 1);
        assert!(o.access(1, 15, access(1, 2, false)).is_some(), "warp 1 has not waited");
        sync(&mut o, 0, 1);
        assert_eq!(o.access(1, 15, access(1, 3, false)), None);
    }

    #[test]
    fn stores_need_a_proxy_fence_on_the_way_to_the_async_proxy() {
        let stamp = |agent| Stamp { agent, time: 1, pc: 0 };
        for (before, after, expected) in
            [(false, false, Some(What::NoProxyFence)), (true, false, None), (false, true, None)]
        {
            let (mut o, agent) = order();
            o.access(0, 15, access(0, 1, true));
            if before {
                o.proxy_fence(0);
            }
            sync(&mut o, 0, 1);
            if after {
                o.proxy_fence(1);
            }
            assert_eq!(o.async_access(0, 1, false, stamp(agent)).map(|c| c.what), expected);
        }
        let (mut o, agent) = order();
        o.proxy_fence(0);
        o.access(0, 15, access(0, 1, true));
        let found = o.async_access(0, 0, false, stamp(agent)).map(|c| c.what);
        assert_eq!(found, Some(What::NoProxyFence), "the fence came before the store");
        let (mut o, agent) = order();
        o.access(0, 15, access(0, 1, true));
        assert_eq!(o.async_access(0, 1, false, stamp(agent)).map(|c| c.what), Some(What::Unordered));
    }

    #[test]
    fn a_slot_is_reused_after_its_readers_have_arrived() {
        let (mut o, agent) = order();
        let stamp = |time| Stamp { agent, time, pc: 0 };
        o.async_access(0, 0, true, stamp(1));
        o.learn(1, agent, 1);
        assert_eq!(o.access(0, 15, access(1, 1, false)), None);
        let early = o.async_access(0, 0, true, stamp(2));
        assert!(early.is_some(), "the reader has not arrived");
        let (mut o, agent) = order();
        let stamp = |time| Stamp { agent, time, pc: 0 };
        o.async_access(0, 0, true, stamp(1));
        o.learn(1, agent, 1);
        o.access(0, 15, access(1, 1, false));
        sync(&mut o, 1, 0);
        assert_eq!(o.async_access(0, 0, true, stamp(2)), None, "no proxy fence after a read");
    }

    #[test]
    fn bytes_that_a_copy_reads_are_not_overwritten() {
        let (mut o, agent) = order();
        o.async_access(0, 0, false, Stamp { agent, time: 1, pc: 3 });
        let found = o.access(0, 15, access(0, 1, true)).unwrap();
        assert_eq!((found.what, found.wrote), (What::InFlight, false));
        o.learn(0, agent, 1);
        assert_eq!(o.access(0, 15, access(0, 2, true)), None);
        assert_eq!(o.access(0, 15, access(1, 2, false)).map(|c| c.what), Some(What::Unordered));
    }
}
