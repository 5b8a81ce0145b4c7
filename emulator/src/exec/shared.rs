//! Shared memory: loads and stores of whole rows of lanes, and the checks that every access to it passes.
//!
//! A warp's access is tested as a whole first: one comparison for the range, one for the alignment. Only when that
//! fails are lanes looked at one by one.

use super::access::{Values, What, in_window};
use super::engine::{Engine, RaceCheck};
use super::lanes::{Banks, by_level};
use super::rows::{all_set, lanes_of, load_bytes};
use super::state::PATTERNS;
use crate::check::Kind as Check;
use crate::check::race::{Access, Conflict};
use crate::code::MemOp;
use crate::memory::SHARED_WINDOW;

/// The shared memory of a block.
#[derive(Default)]
pub struct Shared {
    pub data: Vec<u8>,
    /// 1 where written.
    pub written: Vec<u8>,
    /// Bytes not yet marked in `written`; 0 spares both the test and the marking.
    pub unwritten: usize,
    tracked: bool,
    /// By 4-byte word: 1 + warp * 32 + lane of an asynchronous copy into it that has not been waited for.
    pub in_flight: Vec<u16>,
    pub any_in_flight: bool,
    /// Copies in flight.
    pub copies: usize,
}

impl Shared {
    /// Prepares for a block. Without `track`, everything counts as written.
    pub fn reset(&mut self, bytes: usize, track: bool) {
        // NaN in every format, so that a value read too early shows even without the check.
        self.data.clear();
        self.data.resize(bytes, 0xff);
        self.written.clear();
        self.written.resize(bytes, 0);
        self.tracked = track;
        self.unwritten = if track { bytes } else { 0 };
        if self.any_in_flight || self.in_flight.len() != bytes.div_ceil(4) {
            self.in_flight.clear();
            self.in_flight.resize(bytes.div_ceil(4), 0);
            self.any_in_flight = false;
            self.copies = 0;
        }
    }

    /// Marks bytes as written.
    #[inline]
    pub fn mark(&mut self, start: usize, bytes: usize) {
        if !self.is_written(start, bytes) {
            let range = &mut self.written[start..start + bytes];
            self.unwritten -= range.iter().filter(|&&w| w == 0).count();
            range.fill(1);
        }
    }

    /// Bytes that count as not written any more.
    pub fn forget(&mut self, start: usize, bytes: usize) {
        if !self.tracked {
            return;
        }
        let range = &mut self.written[start..start + bytes];
        self.unwritten += range.iter().filter(|&&w| w != 0).count();
        range.fill(0);
    }

    /// True if all of these bytes have been written.
    #[inline]
    pub fn is_written(&self, start: usize, bytes: usize) -> bool {
        self.unwritten == 0 || self.written[start..start + bytes].chunks(8).all(all_set)
    }
}

by_level! {
    /// Offsets of a row of addresses, plain or in the shared window, lanes outside the mask taking those of its first
    /// lane; with the OR of them all and the largest.
    fn offsets_of(addresses: &[u64; 32], mask: u32) -> ([u32; 32], u64, u64) {
        let first = addresses[(mask.trailing_zeros() & 31) as usize];
        let (mut low, mut high) = (0, 0);
        let mut out = [0; 32];
        for i in 0..32 {
            let a = if mask >> i & 1 != 0 { addresses[i] } else { first };
            let a = if a >> 32 == SHARED_WINDOW >> 32 { a - SHARED_WINDOW } else { a };
            low |= a;
            high = if a > high { a } else { high };
            out[i] = a as u32;
        }
        (out, low, high)
    }
}

by_level! {
    /// True if the `bytes` bytes, a multiple of 4, from each offset on are marked.
    fn row_written(written: &[u8], offsets: &[u32; 32], bytes: u32) -> bool {
        let highest = offsets.iter().copied().max().unwrap_or(0);
        if (highest + bytes) as usize > written.len() {
            return false;
        }
        let mut all = u32::MAX;
        for k in (0..bytes).step_by(4) {
            for i in 0..32 {
                let at = (offsets[i] + k) as i32 as isize;
                // SAFETY: the highest offset was tested just above.
                all &= unsafe { (written.as_ptr().offset(at) as *const u32).read_unaligned() };
            }
        }
        all == 0x0101_0101
    }
}

/// # Safety
/// Each offset plus `E` lies within `data`; `row` is a live row.
#[inline(always)]
unsafe fn gather<const E: usize>(
    data: *const u8,
    offsets: &[u32; 32],
    add: u32,
    row: *mut [u32; 32],
    mask: u32,
) {
    let mut out = [0u32; 32];
    for i in 0..32 {
        // SAFETY: the caller promises offsets within the data.
        unsafe {
            let p = data.offset((offsets[i] + add) as i32 as isize);
            out[i] = match E {
                1 => *p as u32,
                2 => (p as *const u16).read_unaligned() as u32,
                _ => (p as *const u32).read_unaligned(),
            };
        }
    }
    // SAFETY: the caller promises a live row that nothing else accesses.
    let row = unsafe { &mut *row };
    for i in 0..32 {
        row[i] = if mask >> i & 1 != 0 { out[i] } else { row[i] };
    }
}

by_level! {
    fn gather4(data: &[u8], offsets: &[u32; 32], add: u32, row: *mut [u32; 32], mask: u32) {
        // SAFETY: callers pass offsets that the range check has passed, and a row of the running warp.
        unsafe { gather::<4>(data.as_ptr(), offsets, add, row, mask) }
    }
}

impl Engine<'_> {
    fn shared_what(&self, op: &MemOp, warp: u32, pc: u32, write: bool) -> What {
        let (bytes, count) = (op.bytes as u32, op.count as u32);
        What { pc, warp, bytes, count, write, strength: op.strength, atomic: false }
    }

    /// Loads that need no sign extension, straight into the registers `slots`.
    pub(super) fn shared_load_rows(
        &mut self,
        op: &MemOp,
        warp: u32,
        pc: u32,
        addresses: &[u64; 32],
        mask: u32,
        banks: &Banks,
        slots: &[u16],
    ) {
        let what = self.shared_what(op, warp, pc, false);
        let (lanes, offsets) = self.shared_lanes(what, addresses, mask);
        if self.b.shared.unwritten > 0 {
            self.check_shared_written(what, &offsets, lanes);
        }
        let data = &self.b.shared.data;
        for (e, &slot) in slots.iter().enumerate() {
            let add = e as u32 * op.bytes as u32;
            // SAFETY: slots of lowered code lie within the frame's banks, which only this warp accesses; offsets of
            // `lanes` have passed the range check, and those of other lanes are copies of them when there are any.
            unsafe {
                if op.reg_bytes == 8 {
                    let row = &mut (*banks.r64.add(slot as usize)).0;
                    for i in lanes_of(lanes) {
                        let at = (offsets[i as usize] + add) as usize;
                        row[i as usize] = load_bytes(&data[at..at + op.bytes as usize]);
                    }
                    lanes_of(mask & !lanes).for_each(|i| row[i as usize] = u64::MAX);
                    continue;
                }
                let row: *mut [u32; 32] = &mut (*banks.r32.add(slot as usize)).0;
                if lanes != 0 {
                    match op.bytes {
                        1 => gather::<1>(data.as_ptr(), &offsets, add, row, lanes),
                        2 => gather::<2>(data.as_ptr(), &offsets, add, row, lanes),
                        _ => gather4(data, &offsets, add, row, lanes),
                    }
                }
                if lanes != mask {
                    let ones = u32::MAX >> (32 - 8 * op.reg_bytes.min(4) as u32);
                    lanes_of(mask & !lanes).for_each(|i| (*row)[i as usize] = ones);
                }
            }
        }
    }

    /// Stores from the registers `slots`.
    pub(super) fn shared_store_rows(
        &mut self,
        op: &MemOp,
        warp: u32,
        pc: u32,
        addresses: &[u64; 32],
        mask: u32,
        banks: &Banks,
        slots: &[u16],
    ) {
        let what = self.shared_what(op, warp, pc, true);
        self.quiet = self.unchanged_in_shared(what, addresses, mask, |e, lane| {
            let (slot, lane) = (slots[e] as usize, lane as usize);
            // SAFETY: slots of lowered code lie within the frame's banks.
            unsafe {
                if op.reg_bytes == 8 {
                    (*banks.r64.add(slot)).0[lane]
                } else {
                    (*banks.r32.add(slot)).0[lane] as u64
                }
            }
        });
        let (lanes, offsets) = self.shared_lanes(what, addresses, mask);
        self.quiet = 0;
        let bytes = op.bytes as usize;
        self.forget_swizzles(&offsets, lanes);
        let data = &mut self.b.shared.data;
        for (e, &slot) in slots.iter().enumerate() {
            let at = |i: u32| offsets[i as usize] as usize + e * bytes;
            // SAFETY: slots of lowered code lie within the frame's banks.
            unsafe {
                if op.reg_bytes == 8 {
                    let row = &(*banks.r64.add(slot as usize)).0;
                    lanes_of(lanes).for_each(|i| {
                        data[at(i)..at(i) + bytes].copy_from_slice(&row[i as usize].to_le_bytes()[..bytes]);
                    });
                } else if bytes == 4 {
                    let row = &(*banks.r32.add(slot as usize)).0;
                    lanes_of(lanes)
                        .for_each(|i| data[at(i)..at(i) + 4].copy_from_slice(&row[i as usize].to_le_bytes()));
                } else {
                    let row = &(*banks.r32.add(slot as usize)).0;
                    lanes_of(lanes).for_each(|i| {
                        data[at(i)..at(i) + bytes].copy_from_slice(&row[i as usize].to_le_bytes()[..bytes]);
                    });
                }
            }
        }
        self.mark_shared(&offsets, lanes, what.total() as usize);
    }

    /// Lanes that store what is there already, as [`Engine::unchanged`] says of global memory: one flag, one value. Not
    /// where bulk copies and wgmma read the memory too: there a store too early is a missing wait, whatever it writes.
    fn unchanged_in_shared(
        &self,
        what: What,
        addresses: &[u64; 32],
        mask: u32,
        value: impl Fn(usize, u32) -> u64,
    ) -> u32 {
        if !matches!(self.races, RaceCheck::Epochs | RaceCheck::Clocks) || what.strength.is_strong() {
            return 0;
        }
        let (bytes, total) = (what.bytes as usize, what.total() as usize);
        let same = |i: &u32| {
            let a = addresses[*i as usize];
            let at = if in_window(a, SHARED_WINDOW) { a - SHARED_WINDOW } else { a } as usize;
            let Some(now) = at.checked_add(total).and_then(|end| self.b.shared.data.get(at..end)) else {
                return false;
            };
            let new = |e: usize| value(e, *i).to_le_bytes();
            (0..what.count as usize).all(|e| now[e * bytes..][..bytes] == new(e)[..bytes])
                && (self.b.shared.unwritten == 0 || self.b.shared.is_written(at, total))
        };
        lanes_of(mask).filter(same).map(|i| 1 << i).sum()
    }

    /// What threads write has no swizzle.
    fn forget_swizzles(&mut self, offsets: &[u32; 32], lanes: u32) {
        if !self.b.swizzles.is_empty() {
            lanes_of(lanes).for_each(|i| self.b.set_swizzle(offsets[i as usize] / 16, None));
        }
    }

    fn mark_shared(&mut self, offsets: &[u32; 32], lanes: u32, bytes: usize) {
        if self.b.shared.unwritten > 0 {
            lanes_of(lanes).for_each(|i| self.b.shared.mark(offsets[i as usize] as usize, bytes));
        }
    }

    fn check_shared_written(&self, what: What, offsets: &[u32; 32], lanes: u32) {
        let bytes = what.total() as usize;
        if lanes == 0 || bytes.is_multiple_of(4) && row_written(&self.b.shared.written, offsets, bytes as u32)
        {
            return;
        }
        let missing =
            lanes_of(lanes).find(|&i| !self.b.shared.is_written(offsets[i as usize] as usize, bytes));
        if let Some(lane) = missing {
            self.report(Check::Uninitialised, what.pc, what.warp, lane, || {
                format!(
                    "reads {} B at byte {} of shared memory that nothing has written",
                    what.total(),
                    offsets[lane as usize]
                )
            });
        }
    }

    /// Lanes that pass the checks of a shared access, and their offsets; addresses are offsets or generic. Offsets of
    /// lanes that do not pass are those of one that does, if there is any.
    pub(super) fn shared_lanes(&mut self, what: What, addresses: &[u64; 32], mask: u32) -> (u32, [u32; 32]) {
        if mask == 0 {
            return (0, [0; 32]);
        }
        let size = self.b.shared.data.len() as u64;
        let (mut offsets, low, high) = offsets_of(addresses, mask);
        let mut left = mask;
        if low & (what.total() - 1) != 0 || high.saturating_add(what.total()) > size {
            left = self.shared_lanes_one_by_one(what, addresses, mask);
            if left == 0 {
                return (0, offsets);
            }
            offsets = offsets_of(addresses, left).0;
        }
        if self.l.options.counters {
            let passes =
                self.b.patterns[what.pc as usize % PATTERNS].bank_passes(&offsets, left, what.total());
            let count = &mut self.counts[what.pc as usize];
            let bytes = what.total() * left.count_ones() as u64;
            count.bytes += bytes;
            count.transfers += passes;
            count.ideal += bytes.div_ceil(128).max(1);
        }
        if !self.b.mbarriers.is_empty() {
            let passed = self.check_mbarriers(what, &offsets, left);
            if passed != left {
                left = passed;
                if left == 0 {
                    return (0, offsets);
                }
                offsets = offsets_of(addresses, left).0;
            }
        }
        if self.b.shared.any_in_flight && self.l.options.checks.async_copies {
            self.check_in_flight(what, &offsets, left);
        }
        match left & !self.quiet {
            loud if loud == left => self.check_races(what, &offsets, left),
            loud => {
                self.check_rewrites(what, &offsets, left & self.quiet);
                if loud != 0 {
                    self.check_races(what, &offsets_of(addresses, loud).0, loud);
                }
            }
        }
        (left, offsets)
    }

    /// What stores of what is there already race with, see [`Engine::unchanged`].
    fn check_rewrites(&mut self, what: What, offsets: &[u32; 32], mask: u32) {
        if self.races == RaceCheck::Epochs {
            let found = self.b.epochs.rewrite(offsets, mask, what.total() as u32, what.warp);
            if let Some((lane, byte, conflict)) = found {
                self.report_race(what, lane, byte, conflict);
            }
            return;
        }
        for lane in lanes_of(mask) {
            let access = Access { warp: what.warp, lane, step: self.step, write: true, strong: false };
            for (word, bytes) in words_of(offsets[lane as usize], what.total() as u32) {
                if let Some(conflict) = self.b.races.rewrite(word, bytes, access) {
                    self.report_race(what, lane, 4 * word as u32, conflict);
                }
            }
        }
    }

    fn shared_lanes_one_by_one(&mut self, what: What, addresses: &[u64; 32], mask: u32) -> u32 {
        let left = self.aligned(what, addresses, mask, "shared");
        let size = self.b.shared.data.len() as u64;
        let offset = |i: u32| {
            let a = addresses[i as usize];
            if in_window(a, SHARED_WINDOW) { a - SHARED_WINDOW } else { a }
        };
        let outside = |i: u32| offset(i).checked_add(what.total()).is_none_or(|end| end > size);
        let wrong: u32 = lanes_of(left).map(|i| (outside(i) as u32) << i).sum();
        if wrong != 0 {
            let lane = wrong.trailing_zeros();
            let a = addresses[lane as usize];
            let global = self.l.memory.find(a).is_some();
            let kind = if global { Check::WrongSpace } else { Check::OutOfBounds };
            self.report(kind, what.pc, what.warp, lane, || {
                if global {
                    return format!(
                        "{} global memory ({}) with a shared instruction",
                        what.verb(),
                        self.l.memory.describe(a)
                    );
                }
                format!(
                    "{} {} B at byte {} of shared memory, the block has {size} B",
                    what.verb(),
                    what.total(),
                    offset(lane)
                )
            });
        }
        left & !wrong
    }

    fn check_in_flight(&self, what: What, offsets: &[u32; 32], mask: u32) {
        for i in lanes_of(mask) {
            let start = offsets[i as usize] as usize;
            let words = &self.b.shared.in_flight[start / 4..(start + what.total() as usize).div_ceil(4)];
            if let Some(&owner) = words.iter().find(|&&o| o != 0) {
                let (warp, lane) = ((owner - 1) as u32 / 32, (owner - 1) as u32 % 32);
                return self.report(Check::MissingAsyncWait, what.pc, what.warp, i, || {
                    let [x, y, z] = self.thread_of(warp, lane);
                    format!(
                        "{} byte {start} of shared memory while a cp.async of thread ({x},{y},{z}) into it has not been waited for",
                        what.verb(),
                    )
                });
            }
        }
    }

    /// Records an access with the race detector of the launch. Offsets of lanes outside the mask are those of a lane
    /// inside.
    pub(super) fn check_races(&mut self, what: What, offsets: &[u32; 32], mask: u32) {
        match self.races {
            RaceCheck::Off => {}
            RaceCheck::Epochs => {
                let bytes = what.total() as u32;
                if let Some((lane, byte, conflict)) =
                    self.b.epochs.access(offsets, mask, bytes, what.warp, what.write)
                {
                    self.report_race(what, lane, byte, conflict);
                }
            }
            RaceCheck::Order => {
                lanes_of(mask).for_each(|i| self.record_access(what, offsets[i as usize], i));
            }
            RaceCheck::Clocks => {
                for i in lanes_of(mask) {
                    self.check_lane_races(what, i, offsets[i as usize]);
                }
            }
        }
    }

    fn check_lane_races(&mut self, what: What, lane: u32, start: u32) {
        let strong = what.strength.is_strong();
        let access = Access { warp: what.warp, lane, step: self.step, write: what.write, strong };
        for (word, bytes) in words_of(start, what.total() as u32) {
            if let Some(conflict) = self.b.races.access(word, bytes, access) {
                self.report_race(what, lane, start.max(4 * word as u32), conflict);
            }
        }
    }

    fn report_race(&self, what: What, lane: u32, byte: u32, conflict: Conflict) {
        self.report(Check::SharedRace, what.pc, what.warp, lane, || {
            let who = match (conflict.warp, conflict.lane) {
                (Some(warp), Some(lane)) => {
                    let [x, y, z] = self.thread_of(warp, lane);
                    format!("thread ({x},{y},{z})")
                }
                (Some(warp), None) => format!("warp {warp}"),
                _ => "several warps".to_string(),
            };
            let did = if conflict.wrote { "wrote" } else { "read" };
            format!("{} byte {byte} of shared memory, which {who} {did} with no barrier between", what.verb())
        });
    }

    /// Loads through generic addresses, or with sign extension.
    pub(super) fn shared_load(&mut self, what: What, addresses: &[u64; 32], mask: u32, values: &mut Values) {
        let (lanes, offsets) = self.shared_lanes(what, addresses, mask);
        if self.b.shared.unwritten > 0 {
            self.check_shared_written(what, &offsets, lanes);
        }
        let bytes = what.bytes as usize;
        for i in lanes_of(lanes) {
            for (e, row) in values.iter_mut().enumerate().take(what.count as usize) {
                let at = offsets[i as usize] as usize + e * bytes;
                row[i as usize] = load_bytes(&self.b.shared.data[at..at + bytes]);
            }
        }
    }

    /// Stores through generic addresses.
    pub(super) fn shared_store(&mut self, what: What, addresses: &[u64; 32], mask: u32, values: &Values) {
        self.quiet = self.unchanged_in_shared(what, addresses, mask, |e, lane| values[e][lane as usize]);
        let (lanes, offsets) = self.shared_lanes(what, addresses, mask);
        self.quiet = 0;
        let bytes = what.bytes as usize;
        self.forget_swizzles(&offsets, lanes);
        for i in lanes_of(lanes) {
            for (e, row) in values.iter().enumerate().take(what.count as usize) {
                let at = offsets[i as usize] as usize + e * bytes;
                self.b.shared.data[at..at + bytes].copy_from_slice(&row[i as usize].to_le_bytes()[..bytes]);
            }
        }
        self.mark_shared(&offsets, lanes, what.total() as usize);
    }
}

/// The words that `total` bytes from `start` on lie in, each with a mask of its bytes.
fn words_of(start: u32, total: u32) -> impl Iterator<Item = (usize, u8)> {
    let end = start + total;
    (start / 4..end.div_ceil(4)).map(move |word| {
        let (first, last) = (start.max(4 * word), end.min(4 * word + 4));
        (word as usize, (((1u32 << (last - first)) - 1) << (first % 4)) as u8)
    })
}
