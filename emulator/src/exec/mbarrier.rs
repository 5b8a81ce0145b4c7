//! mbarriers (PTX ISA 9.7.13.15): 8 bytes of shared memory that count arrivals and transaction bytes in phases.
//!
//! Their state is kept beside shared memory; the bytes themselves are no ordinary data while an mbarrier is in them. A
//! phase completes when no arrival and no byte is pending. `try_wait` blocks until its phase completes, but turns the
//! first question away when copies are late or the schedule is random: as hardware may, so a wait that does not loop
//! shows.

use super::access::What;
use super::engine::Engine;
use super::hopper::Flow;
use super::lanes::Banks;
use super::rows::{lanes_of, read32, read64, write_pred, write32, write64};
use super::state::{Status, Warp};
use crate::check::Kind as Check;
use crate::check::proxy::{Agent, Pair, Time};
use crate::code::{At, HopperOp};
use crate::options::AsyncTiming;

/// Largest count of arrivals and of bytes.
const MAX_COUNT: i64 = (1 << 20) - 1;
/// Bits of a state that `arrive` returns: the parity of its phase, then the arrivals pending before it.
const STATE_PENDING: u32 = 1;

#[derive(Clone, Debug)]
pub struct Mbarrier {
    pub expected: u32,
    pub pending: i64,
    /// Bytes expected and not yet arrived.
    pub tx: i64,
    /// Phases completed.
    pub phase: u64,
    /// Its number among asynchronous agents.
    pub agent: Agent,
    /// Someone has seen the last completed phase complete.
    observed: bool,
    /// Phases that a wait has seen complete, and the last copy that signals this mbarrier.
    seen: u64,
    pub copy: Option<Awaited>,
    /// What those who arrived in this phase knew, and in the last completed one.
    arriving: Pair,
    arrived: Pair,
    /// The warp that initialised it, when, and how often the cluster's barrier had completed when it made that visible
    /// with fence.mbarrier_init.
    init_warp: usize,
    init_time: Time,
    init_fenced: Option<u64>,
    pub init_pc: u32,
}

impl Mbarrier {
    /// fence.mbarrier_init of warp `me`, after `phase` barriers of the cluster.
    pub(super) fn fence_init(&mut self, me: usize, phase: u64) {
        if self.init_warp == me {
            self.init_fenced.get_or_insert(phase);
        }
    }
}

/// A copy that a phase of an mbarrier stands for.
#[derive(Clone, Copy, Debug)]
pub struct Awaited {
    /// Phases completed when it is done.
    pub phase: u64,
    pub pc: u32,
    pub warp: u32,
    pub lane: u32,
    /// Rank of the block that issued it.
    pub rank: usize,
}

impl Mbarrier {
    /// The last copy, if no wait has seen it done.
    pub(super) fn unawaited(&self) -> Option<Awaited> {
        self.copy.filter(|c| c.phase > self.seen)
    }
}

/// What a group waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    pub offset: u32,
    pub phase: u64,
    pub agent: Agent,
    pub pc: u32,
}

/// Where an mbarrier is: the block's rank in the cluster, and the offset in its shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub rank: usize,
    pub offset: u32,
}

impl Engine<'_> {
    /// Runs an mbarrier instruction for the lanes of `mask`, lane by lane.
    pub(super) fn mbarrier(
        &mut self,
        warp: &mut Warp,
        g: usize,
        banks: &Banks,
        op: HopperOp,
        pool: &[u16],
        pc: u32,
        mask: u32,
    ) -> Flow {
        match op {
            HopperOp::MbarrierInit(at) => {
                let counts = read32(banks, pool[1]);
                self.each_place(warp, banks, at, pool[0], pc, mask, |this, _, i, place| {
                    this.mbarrier_init(warp.index, i, pc, place, counts[i as usize]);
                });
            }
            HopperOp::MbarrierInval(at) => {
                self.each_place(warp, banks, at, pool[0], pc, mask, |this, _, i, place| {
                    this.mbarrier_inval(warp.index, i, pc, place);
                });
            }
            HopperOp::MbarrierArrive { at, drop, expect, no_complete, relaxed, has_count, has_state } => {
                let address = pool[has_state as usize];
                let numbers = if has_count { read32(banks, pool[has_state as usize + 1]) } else { [1; 32] };
                let mut states = [0u64; 32];
                self.each_place(warp, banks, at, address, pc, mask, |this, _, i, place| {
                    let number = numbers[i as usize];
                    let (count, bytes) = if expect { (1, number) } else { (number, 0) };
                    let Some(m) = this.mbarrier_at(warp.index, i, pc, place) else { return };
                    let state = (m.phase & 1) | (m.pending.max(0) as u64) << STATE_PENDING;
                    states[i as usize] = state;
                    if expect {
                        this.add_bytes(warp.index, i, pc, place, bytes as i64);
                    }
                    if drop {
                        this.drop_arrivals(warp.index, i, pc, place, count);
                    }
                    match (relaxed, &warp.fenced) {
                        (false, _) => this.release_into(place, warp.index),
                        (true, Some(fenced)) => this.join_arrival(place, fenced),
                        _ => {}
                    }
                    this.arrive_at(warp.index, i, pc, place, count, no_complete);
                });
                if has_state {
                    write64(banks, pool[0], mask, |i| states[i as usize]);
                }
            }
            HopperOp::MbarrierTx { at, complete } => {
                let counts = read32(banks, pool[1]);
                self.each_place(warp, banks, at, pool[0], pc, mask, |this, _, i, place| {
                    if this.mbarrier_at(warp.index, i, pc, place).is_none() {
                        return;
                    }
                    let bytes = counts[i as usize] as i64;
                    this.add_bytes(warp.index, i, pc, place, if complete { -bytes } else { bytes });
                    if complete {
                        this.complete_phase(warp.index, i, pc, place);
                    }
                });
            }
            HopperOp::MbarrierWait { at, blocking, parity, relaxed } => {
                return self.mbarrier_wait(warp, g, banks, (at, blocking, parity, relaxed), pool, pc, mask);
            }
            HopperOp::MbarrierPending => {
                let states = read64(banks, pool[1]);
                write32(banks, pool[0], mask, |i| (states[i as usize] >> STATE_PENDING) as u32);
            }
            _ => {}
        }
        Flow::Next
    }

    /// Calls `f` for each lane whose address is a place of the cluster; the lanes of one instruction go in order.
    pub(super) fn each_place(
        &mut self,
        warp: &Warp,
        banks: &Banks,
        at: At,
        slot: u16,
        pc: u32,
        mask: u32,
        mut f: impl FnMut(&mut Self, u64, u32, Place),
    ) {
        let addresses = Self::addresses(banks, at.bank, slot, at.offset);
        for i in lanes_of(mask) {
            let address = addresses[i as usize];
            if let Some(place) = self.shared_place(warp.index, i, pc, at.space, address, 8, "an mbarrier") {
                f(self, address, i, place);
            }
        }
    }

    fn mbarrier_init(&mut self, warp: u32, lane: u32, pc: u32, place: Place, count: u32) {
        if place.rank != self.running {
            return self.misuse(pc, warp, lane, || "initialises an mbarrier of another block".to_string());
        }
        if count == 0 || count as i64 > MAX_COUNT {
            self.misuse(pc, warp, lane, || {
                format!("initialises an mbarrier for {count} arrivals, it must be 1 to {MAX_COUNT}")
            });
        }
        if let Some(old) = self.block(place.rank).mbarriers.get(&place.offset) {
            let before = self.place(old.init_pc);
            self.misuse(pc, warp, lane, || {
                format!("initialises an mbarrier over the one of {before}, which has not been invalidated")
            });
        }
        self.record_shared(warp, lane, pc, place, 8, true);
        let agent = self.order.new_agent();
        let init_warp = self.warp_agent(warp);
        let m = Mbarrier {
            expected: count,
            pending: count as i64,
            tx: 0,
            phase: 0,
            agent,
            observed: true,
            seen: 0,
            copy: None,
            arriving: Pair::default(),
            arrived: Pair::default(),
            init_warp,
            init_time: if self.tracking { self.order.now(init_warp) } else { 0 },
            init_fenced: None,
            init_pc: pc,
        };
        self.block_mut(place.rank).mbarriers.insert(place.offset, m);
    }

    fn mbarrier_inval(&mut self, warp: u32, lane: u32, pc: u32, place: Place) {
        if self.mbarrier_at(warp, lane, pc, place).is_none() {
            return;
        }
        let Some(m) = self.block_mut(place.rank).mbarriers.remove(&place.offset) else { return };
        let open = self.pending.iter().any(|t| t.signals(place));
        if m.tx != 0 || open || m.pending != m.expected as i64 {
            self.misuse(pc, warp, lane, || {
                format!(
                    "invalidates an mbarrier in the middle of a phase ({} arrivals and {} B are pending)",
                    m.pending, m.tx
                )
            });
        }
        self.pending.retain(|t| !t.signals(place));
        self.report_unawaited(&m);
        self.record_shared(warp, lane, pc, place, 8, true);
        self.block_mut(place.rank).shared.forget(place.offset as usize, 8);
    }

    fn misuse(&self, pc: u32, warp: u32, lane: u32, message: impl FnOnce() -> String) {
        if self.l.options.checks.barriers {
            self.report(Check::MbarrierMisuse, pc, warp, lane, message);
        }
    }

    /// The mbarrier at a place, with a finding where there is none or its initialisation is not visible yet.
    pub(super) fn mbarrier_at(
        &mut self,
        warp: u32,
        lane: u32,
        pc: u32,
        place: Place,
    ) -> Option<&mut Mbarrier> {
        let Some(m) = self.block(place.rank).mbarriers.get(&place.offset) else {
            self.misuse(pc, warp, lane, || {
                format!(
                    "uses byte {} of shared memory as an mbarrier, which has not been initialised",
                    place.offset
                )
            });
            return None;
        };
        let me = self.warp_agent(warp);
        let phase = self.block(self.running).cluster_phase;
        let fenced = m.init_fenced.is_some_and(|fenced| phase > fenced);
        if self.tracking && !fenced && !self.order.is_after(me, m.init_warp, m.init_time) {
            let init = self.place(m.init_pc);
            let how = if place.rank == self.running {
                "with no barrier after"
            } else {
                "with no fence.mbarrier_init and barrier of the cluster after"
            };
            self.misuse(pc, warp, lane, || format!("uses an mbarrier {how} its initialisation at {init}"));
        }
        self.block_mut(place.rank).mbarriers.get_mut(&place.offset)
    }

    fn release_into(&mut self, place: Place, warp: u32) {
        if !self.tracking {
            return;
        }
        let me = self.warp_agent(warp);
        let mut sum = Pair::default();
        self.order.release(me, &mut sum);
        if let Some(m) = self.block_mut(place.rank).mbarriers.get_mut(&place.offset) {
            m.arriving.join(&sum);
        }
    }

    fn join_arrival(&mut self, place: Place, sum: &Pair) {
        if let Some(m) = self.block_mut(place.rank).mbarriers.get_mut(&place.offset) {
            m.arriving.join(sum);
        }
    }

    /// Expects more bytes, or fewer.
    pub(super) fn add_bytes(&mut self, warp: u32, lane: u32, pc: u32, place: Place, bytes: i64) {
        let Some(m) = self.block_mut(place.rank).mbarriers.get_mut(&place.offset) else { return };
        m.tx += bytes;
        let tx = m.tx;
        if tx.abs() > MAX_COUNT && self.l.options.checks.barriers {
            self.report(Check::TransactionBytes, pc, warp, lane, || {
                format!("brings the bytes pending at an mbarrier to {tx}; at most {MAX_COUNT} are counted")
            });
        }
    }

    fn drop_arrivals(&mut self, warp: u32, lane: u32, pc: u32, place: Place, count: u32) {
        let Some(m) = self.block_mut(place.rank).mbarriers.get_mut(&place.offset) else { return };
        let expected = m.expected;
        m.expected = expected.saturating_sub(count);
        if expected < count {
            self.misuse(pc, warp, lane, || format!("drops {count} of {expected} expected arrivals"));
        }
    }

    /// `count` arrivals at an mbarrier, which may complete its phase.
    pub(super) fn arrive_at(
        &mut self,
        warp: u32,
        lane: u32,
        pc: u32,
        place: Place,
        count: u32,
        no_complete: bool,
    ) {
        let Some(m) = self.block_mut(place.rank).mbarriers.get_mut(&place.offset) else { return };
        let (pending, tx) = (m.pending, m.tx);
        let unseen = !std::mem::replace(&mut m.observed, true);
        m.pending -= count as i64;
        if unseen {
            self.misuse(pc, warp, lane, || {
                "arrives at an mbarrier whose last phase nobody has waited for".to_string()
            });
        }
        if count as i64 > pending || count == 0 {
            self.misuse(pc, warp, lane, || {
                format!("arrives {count} times at an mbarrier that {pending} arrivals are pending at")
            });
            if let Some(m) = self.block_mut(place.rank).mbarriers.get_mut(&place.offset) {
                m.pending = m.pending.max(0);
            }
        }
        if no_complete && pending == count as i64 && tx == 0 {
            self.misuse(pc, warp, lane, || {
                "completes a phase with an arrival marked .noComplete".to_string()
            });
        }
        self.complete_phase(warp, lane, pc, place);
    }

    /// Goes on to the next phase if nothing is pending in this one.
    pub(super) fn complete_phase(&mut self, warp: u32, lane: u32, pc: u32, place: Place) {
        let Some(m) = self.block_mut(place.rank).mbarriers.get_mut(&place.offset) else { return };
        if m.pending > 0 || m.tx != 0 {
            return;
        }
        m.phase += 1;
        m.pending = m.expected as i64;
        m.observed = false;
        m.arrived = std::mem::take(&mut m.arriving);
        let now = m.phase;
        self.progress += 1;
        let early = self
            .pending
            .iter()
            .find(|t| t.signals(place) && t.stamp.time as u64 <= now)
            .map(|t| (t.pc, t.bytes));
        if let Some((issued, bytes)) = early
            && self.l.options.checks.barriers
        {
            let issued = self.place(issued);
            self.report(Check::TransactionBytes, pc, warp, lane, || {
                format!("completes a phase of an mbarrier while {bytes} B of the copy at {issued} are in flight: it expects too few bytes")
            });
        }
    }

    fn mbarrier_wait(
        &mut self,
        warp: &mut Warp,
        g: usize,
        banks: &Banks,
        (at, blocking, parity, relaxed): (At, bool, bool, bool),
        pool: &[u16],
        pc: u32,
        mask: u32,
    ) -> Flow {
        let wanted: [u64; 32] =
            if parity { read32(banks, pool[2]).map(|p| p as u64) } else { read64(banks, pool[2]) };
        let (mut done, mut waiting) = (0u32, 0u32);
        let mut first: Option<Wait> = None;
        let own = warp.groups[g].wait;
        let index = warp.index;
        let mut seen = Pair::default();
        self.each_place(warp, banks, at, pool[1], pc, mask, |this, _, i, place| {
            if place.rank != this.running {
                return this.misuse(pc, index, i, || "waits for an mbarrier of another block".to_string());
            }
            let wanted = wanted[i as usize];
            if parity && wanted > 1 {
                this.misuse(pc, index, i, || format!("waits for parity {wanted}; it is 0 or 1"));
            }
            let Some(m) = this.mbarrier_at(index, i, pc, place) else {
                done |= 1 << i;
                return;
            };
            let resumed = own.filter(|w| w.offset == place.offset && w.pc == pc && w.agent == m.agent);
            // The phase asked about is the last completed one or the current one, told apart by parity.
            let complete = (m.phase & 1) != (wanted & 1);
            let (phase, agent) = (m.phase, m.agent);
            if let Some(w) = resumed.filter(|w| phase > w.phase + 1 && !complete) {
                this.misuse(pc, index, i, || {
                    let behind = phase - w.phase;
                    format!("waits for phase {} of an mbarrier that is {behind} phases on", w.phase)
                });
                done |= 1 << i;
            } else if complete {
                if let Some(m) = this.block_mut(place.rank).mbarriers.get_mut(&place.offset) {
                    m.observed = true;
                    m.seen = m.phase;
                }
                this.acquire_phase(index, place, relaxed.then_some(&mut seen));
                done |= 1 << i;
            } else {
                waiting |= 1 << i;
                first.get_or_insert(Wait { offset: place.offset, phase, agent, pc });
            }
        });
        if relaxed && done != 0 && self.tracking {
            warp.seen.get_or_insert_default().join(&seen);
        }
        if done != 0 && self.tracking {
            let me = self.warp_agent(index);
            self.order.lanes_follow(me, done, self.step);
        }
        write_pred(banks, pool[0], mask, done);
        let Some(wait) = first else {
            warp.groups[g].wait = None;
            return Flow::Next;
        };
        let asked = own == Some(wait);
        let turn_away = match self.random {
            true => self.b.random(4) == 0,
            false => !asked && self.l.options.async_timing != AsyncTiming::Early,
        };
        warp.groups[g].wait = Some(wait);
        if !blocking || turn_away {
            self.polls += 1;
            return Flow::Yield;
        }
        Flow::Wait(waiting, Status::AtMbarrier)
    }

    /// Comes after everything that the completed phase stands for; with `seen`, only once there is a fence.
    fn acquire_phase(&mut self, warp: u32, place: Place, seen: Option<&mut Pair>) {
        if !self.tracking {
            return;
        }
        let me = self.warp_agent(warp);
        let Some(m) = self.block(place.rank).mbarriers.get(&place.offset) else { return };
        let (agent, phase) = (m.agent, m.phase);
        if let Some(seen) = seen {
            seen.join(&m.arrived);
            return seen.learn(agent, phase as Time);
        }
        let sum = m.arrived.clone();
        self.order.acquire(me, &sum);
        self.order.learn(me, agent, phase as Time);
    }

    /// cp.async.mbarrier.arrive: an arrival once the thread's earlier cp.async copies are done.
    pub(super) fn cp_async_arrive(
        &mut self,
        warp: &mut Warp,
        banks: &Banks,
        (at, noinc): (At, bool),
        pool: &[u16],
        pc: u32,
        mask: u32,
    ) {
        let mut places = [None; 32];
        self.each_place(warp, banks, at, pool[0], pc, mask, |_, _, i, place| {
            places[i as usize] = Some(place)
        });
        for i in lanes_of(mask) {
            let Some(place) = places[i as usize] else { continue };
            if self.mbarrier_at(warp.index, i, pc, place).is_none() {
                continue;
            }
            let rank = self.running;
            let copies = warp.copies.get(i as usize).and_then(|q| q.copies.back()).map(|copy| copy.pc);
            if let (Some(pc), Some(m)) = (copies, self.block_mut(place.rank).mbarriers.get_mut(&place.offset))
            {
                let phase = m.phase + 1;
                m.copy = Some(Awaited { phase, pc, warp: warp.index, lane: i, rank });
            }
            // The copies happen now: an arrival that nobody waits for would otherwise hold them back for ever.
            self.finish_copies(warp, i);
            if !noinc && let Some(m) = self.block_mut(place.rank).mbarriers.get_mut(&place.offset) {
                m.pending += 1;
            }
            self.release_into(place, warp.index);
            self.arrive_at(warp.index, i, pc, place, 1, false);
        }
    }

    /// A copy that is done, or will be, without anyone's waiting for it.
    pub(super) fn report_unawaited(&mut self, m: &Mbarrier) {
        let Some(copy) = m.unawaited().filter(|_| self.l.options.checks.async_copies) else { return };
        let running = std::mem::replace(&mut self.running, copy.rank);
        self.report(Check::MissingAsyncWait, copy.pc, copy.warp, copy.lane, || {
            "issues a copy that may still be in flight when the block it writes to ends: nobody waits for the phase of its mbarrier".to_string()
        });
        self.running = running;
    }

    /// Drops lanes that access the bytes of an mbarrier of the block in `b` with an ordinary instruction.
    pub(super) fn check_mbarriers(&mut self, what: What, offsets: &[u32; 32], mask: u32) -> u32 {
        let all = &self.b.mbarriers;
        let (Some((&low, _)), Some((&high, _))) = (all.first_key_value(), all.last_key_value()) else {
            return mask;
        };
        let mut wrong = 0u32;
        for i in lanes_of(mask) {
            let (start, end) = (offsets[i as usize], offsets[i as usize] + what.bytes * what.count);
            if end > low && start < high + 8 && all.range((start + 1).saturating_sub(8)..end).next().is_some()
            {
                wrong |= 1 << i;
            }
        }
        if wrong != 0 {
            let lane = wrong.trailing_zeros();
            self.misuse(what.pc, what.warp, lane, || {
                format!(
                    "{} byte {} of shared memory, where an mbarrier is",
                    what.verb(),
                    offsets[lane as usize]
                )
            });
        }
        mask & !wrong
    }

    /// What a waiting group waits for, for the report of a deadlock; and whether its bytes are what is wrong.
    pub(super) fn describe_wait(&self, wait: &Wait) -> (String, bool) {
        let Some(m) = self.b.mbarriers.get(&wait.offset) else {
            return ("waits at an mbarrier".to_string(), false);
        };
        let bytes = m.pending == 0 && m.tx != 0;
        let text = format!(
            "waits at the mbarrier at byte {} of shared memory for phase {}: {} of {} arrivals and {} B pending",
            wait.offset, wait.phase, m.pending, m.expected, m.tx
        );
        (text, bytes)
    }
}
