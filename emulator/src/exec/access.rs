//! Loads and stores in every space, with their checks (PTX ISA 9.7.9.8 to 9.7.9.12).
//!
//! An access that fails a check is reported and left out: loads give all ones, stores do nothing.

use super::engine::Engine;
use super::lanes::Banks;
use super::rows::{any_set, lanes_of, load_bytes, read32, read64};
use super::state::Warp;
use crate::check::Kind as Check;
use crate::code::{Bank, Kind, MemOp, Strength};
use crate::counters;
use crate::memory::{Allocation, LOCAL_WINDOW, PARAM_WINDOW, RANK_SHIFT, SHARED_WINDOW};
use crate::ptx::ast::Space;

/// Values of up to four elements per lane.
pub(super) type Values = [[u64; 32]; 4];

/// A static description of an access for checks and reports.
#[derive(Clone, Copy)]
pub(super) struct What {
    pub pc: u32,
    pub warp: u32,
    pub bytes: u32,
    pub count: u32,
    pub write: bool,
    pub strength: Strength,
    /// Read-modify-write.
    pub atomic: bool,
}

impl What {
    pub(super) fn total(&self) -> u64 {
        (self.bytes * self.count) as u64
    }

    pub(super) fn verb(&self) -> &'static str {
        match (self.atomic, self.write) {
            (true, _) => "updates",
            (_, true) => "writes",
            _ => "reads",
        }
    }
}

pub(super) fn in_window(address: u64, window: u64) -> bool {
    address >> 32 == window >> 32
}

impl Engine<'_> {
    pub(super) fn is_in_space(&self, address: u64, space: Space) -> bool {
        match space {
            Space::Cluster => in_window(address, SHARED_WINDOW),
            Space::Shared => {
                let rank = address as u32 >> RANK_SHIFT;
                in_window(address, SHARED_WINDOW) && (rank == 0 || rank as usize - 1 == self.running)
            }
            Space::Local => in_window(address, LOCAL_WINDOW),
            Space::Const => self.l.memory.find(address).is_some_and(|a| a.read_only),
            Space::Param => in_window(address, PARAM_WINDOW),
            Space::Global => {
                !in_window(address, PARAM_WINDOW)
                    && !in_window(address, SHARED_WINDOW)
                    && !in_window(address, LOCAL_WINDOW)
                    && self.l.memory.find(address).is_none_or(|a| !a.read_only)
            }
            _ => false,
        }
    }

    pub(super) fn addresses(banks: &Banks, bank: Bank, slot: u16, offset: i64) -> [u64; 32] {
        match bank {
            Bank::R64 => read64(banks, slot).map(|a| a.wrapping_add_signed(offset)),
            // 32-bit addresses wrap at 32 bits.
            _ => read32(banks, slot).map(|a| (a as i64 + offset) as u32 as u64),
        }
    }

    pub(super) fn load(&mut self, warp: &mut Warp, banks: &Banks, index: u32, pc: u32, mask: u32) {
        let code = self.l.code;
        let op = &code.mems[index as usize];
        let pool = &code.pool[code.insts[pc as usize].pool as usize..];
        let count = op.count as usize;
        if op.space == Space::Shared && (!op.signed || op.bytes == op.reg_bytes) {
            let addresses = Self::addresses(banks, op.address, pool[count], op.offset);
            return self.shared_load_rows(op, warp.index, pc, &addresses, mask, banks, &pool[..count]);
        }
        let mut values: Values = [[u64::MAX; 32]; 4];
        let addresses = Self::addresses(banks, op.address, pool[count], op.offset);
        if op.space == Space::Param {
            self.load_param(op, (warp.index, pc), &addresses, &mut values, mask);
        } else {
            let what = What {
                pc,
                warp: warp.index,
                bytes: op.bytes as u32,
                count: op.count as u32,
                write: false,
                strength: op.strength,
                atomic: false,
            };
            self.by_space(op.space, what, &addresses, mask, |this, space, m| match space {
                Space::Shared => this.shared_load(what, &addresses, m, &mut values),
                Space::Cluster => this.cluster_access(what, &addresses, m, |this, addresses, m| {
                    this.shared_load(what, addresses, m, &mut values);
                }),
                Space::Param => this.load_param(op, (what.warp, pc), &addresses, &mut values, m),
                Space::Local => this.local_load(warp, what, &addresses, m, &mut values),
                _ => this.global_load(what, &addresses, m, &mut values, op.space == Space::Const),
            });
            if op.strength.is_strong() {
                self.asked(warp, pc, mask, &values[0]);
            }
        }
        let narrow = op.bytes < op.reg_bytes;
        for (e, row) in values.iter_mut().enumerate().take(count) {
            if narrow || op.bytes < 4 {
                let (shift, keep) = (64 - 8 * op.bytes as u32, u64::MAX >> (64 - 8 * op.reg_bytes as u32));
                for v in row.iter_mut() {
                    let wide =
                        if op.signed { ((*v << shift) as i64 >> shift) as u64 } else { *v << shift >> shift };
                    *v = wide & keep;
                }
            }
            let slot = pool[e] as usize;
            // SAFETY: slots of lowered code lie within the frame's banks, which only this warp accesses.
            unsafe {
                if op.reg_bytes == 8 {
                    let d = &mut (*banks.r64.add(slot)).0;
                    for i in 0..32 {
                        d[i] = if mask >> i & 1 != 0 { row[i] } else { d[i] };
                    }
                } else {
                    let d = &mut (*banks.r32.add(slot)).0;
                    for i in 0..32 {
                        d[i] = if mask >> i & 1 != 0 { row[i] as u32 } else { d[i] };
                    }
                }
            }
        }
    }

    pub(super) fn store(&mut self, warp: &mut Warp, banks: &Banks, index: u32, pc: u32, mask: u32) {
        let code = self.l.code;
        let op = &code.mems[index as usize];
        let pool = &code.pool[code.insts[pc as usize].pool as usize..];
        let count = op.count as usize;
        let addresses = Self::addresses(banks, op.address, pool[0], op.offset);
        if op.space == Space::Shared {
            return self.shared_store_rows(op, warp.index, pc, &addresses, mask, banks, &pool[1..1 + count]);
        }
        let mut values: Values = [[0; 32]; 4];
        for (e, row) in values.iter_mut().enumerate().take(count) {
            *row = if op.reg_bytes == 8 {
                read64(banks, pool[1 + e])
            } else {
                read32(banks, pool[1 + e]).map(|v| v as u64)
            };
        }
        let what = What {
            pc,
            warp: warp.index,
            bytes: op.bytes as u32,
            count: op.count as u32,
            write: true,
            strength: op.strength,
            atomic: false,
        };
        self.by_space(op.space, what, &addresses, mask, |this, space, m| match space {
            Space::Shared => this.shared_store(what, &addresses, m, &values),
            Space::Cluster => this.cluster_access(what, &addresses, m, |this, addresses, m| {
                this.shared_store(what, addresses, m, &values);
            }),
            Space::Param => this.report(Check::ReadOnlyWrite, pc, what.warp, m.trailing_zeros(), || {
                "writes the kernel's parameters".to_string()
            }),
            Space::Local => this.local_store(warp, what, &addresses, m, &values),
            _ => this.global_store(what, &addresses, m, &values),
        });
    }

    /// Calls `f` once for each space that lanes access. Generic addresses are sorted into their windows.
    pub(super) fn by_space(
        &mut self,
        space: Space,
        what: What,
        addresses: &[u64; 32],
        mask: u32,
        mut f: impl FnMut(&mut Self, Space, u32),
    ) {
        if space != Space::Generic {
            if matches!(space, Space::Global | Space::Const) {
                let windows = lanes_of(mask).filter(|&i| addresses[i as usize] >> 40 == SHARED_WINDOW >> 40);
                let wrong: u32 = windows.map(|i| 1 << i).sum();
                if wrong != 0 {
                    let lane = wrong.trailing_zeros();
                    self.report(Check::WrongSpace, what.pc, what.warp, lane, || {
                        let a = addresses[lane as usize];
                        let own = if in_window(a, SHARED_WINDOW) { "shared" } else { "local" };
                        format!("{} {own} memory ({a:#x}) with a {space} instruction", what.verb())
                    });
                }
                return f(self, space, mask & !wrong);
            }
            return f(self, space, mask);
        }
        let (mut shared, mut local, mut cluster, mut param) = (0u32, 0u32, 0u32, 0u32);
        for i in lanes_of(mask) {
            let a = addresses[i as usize];
            shared |= (in_window(a, SHARED_WINDOW) as u32) << i;
            cluster |= ((in_window(a, SHARED_WINDOW) && a as u32 >> RANK_SHIFT != 0) as u32) << i;
            local |= (in_window(a, LOCAL_WINDOW) as u32) << i;
            param |= (in_window(a, PARAM_WINDOW) as u32) << i;
        }
        for (space, m) in [
            (Space::Shared, shared & !cluster),
            (Space::Cluster, cluster),
            (Space::Local, local),
            (Space::Param, param),
            (Space::Global, mask & !shared & !local & !param),
        ] {
            if m != 0 {
                f(self, space, m);
            }
        }
    }

    /// Drops lanes whose address is not a multiple of the access, with a finding.
    pub(super) fn aligned(&self, what: What, addresses: &[u64; 32], mask: u32, space: &str) -> u32 {
        let low = what.total() - 1;
        let wrong: u32 = lanes_of(mask).map(|i| ((addresses[i as usize] & low != 0) as u32) << i).sum();
        if wrong != 0 {
            let lane = wrong.trailing_zeros();
            self.report(Check::Misaligned, what.pc, what.warp, lane, || {
                let a = addresses[lane as usize];
                let about = if space == "global" {
                    format!(", {}", self.l.memory.describe(a))
                } else {
                    String::new()
                };
                format!(
                    "{} {} B of {space} memory at {a:#x}, which is not a multiple of {}{about}",
                    what.verb(),
                    what.total(),
                    what.total()
                )
            });
        }
        mask & !wrong
    }

    // global -------------------------------------------------------------------------------------------------------

    /// Splits lanes by allocation after all checks, and calls `f` with the allocation and its lanes.
    pub(super) fn global_lanes(
        &mut self,
        what: What,
        addresses: &[u64; 32],
        mask: u32,
        constant: bool,
        mut f: impl FnMut(&Allocation, u32),
    ) {
        let mut left = self.aligned(what, addresses, mask, "global");
        if self.l.options.counters && left != 0 {
            let count = &mut self.counts[what.pc as usize];
            let bytes = what.total() * left.count_ones() as u64;
            count.bytes += bytes;
            count.transfers += counters::sectors(addresses, left, what.total());
            count.ideal += bytes.div_ceil(32);
        }
        let memory = self.l.memory;
        while left != 0 {
            let lane = left.trailing_zeros();
            let address = addresses[lane as usize];
            let found = memory.find(address).filter(|a| address + what.total() <= a.base + a.size);
            let Some(allocation) = found else {
                left &= left - 1;
                self.report(Check::OutOfBounds, what.pc, what.warp, lane, || {
                    format!(
                        "{} {} B of global memory at {address:#x}, {}",
                        what.verb(),
                        what.total(),
                        memory.describe(address)
                    )
                });
                continue;
            };
            let (low, high) = (allocation.base, allocation.base + allocation.size - what.total());
            let mut inside = 0u32;
            for (i, a) in addresses.iter().enumerate() {
                inside |= ((*a >= low && *a <= high) as u32) << i;
            }
            let inside = inside & left;
            left &= !inside;
            if allocation.read_only != constant && (allocation.read_only && what.write || constant) {
                self.report(
                    if constant { Check::WrongSpace } else { Check::ReadOnlyWrite },
                    what.pc,
                    what.warp,
                    lane,
                    || {
                        let space = if constant {
                            "a const instruction, but it is global memory"
                        } else {
                            "which is constant"
                        };
                        format!("{} {}, {space}", what.verb(), memory.describe(address))
                    },
                );
                continue;
            }
            if self.clock.is_on() {
                self.global_races(what, allocation, addresses, inside);
            }
            f(allocation, inside);
        }
    }

    fn unwritten(&self, what: What, lane: u32, address: u64) {
        self.report(Check::Uninitialised, what.pc, what.warp, lane, || {
            format!(
                "{} {} B of global memory that nothing has written, {}",
                what.verb(),
                what.total(),
                self.l.memory.describe(address)
            )
        });
    }

    fn global_load(
        &mut self,
        what: What,
        addresses: &[u64; 32],
        mask: u32,
        values: &mut Values,
        constant: bool,
    ) {
        let check = self.l.options.checks.uninitialised;
        let mut missing = 0u32;
        self.global_lanes(what, addresses, mask, constant, |allocation, lanes| {
            let (bytes, count) = (what.bytes, what.count as usize);
            let tracked = check && !allocation.all_written();
            // SAFETY: `global_lanes` gives lanes whose aligned access lies wholly within the allocation.
            unsafe {
                if lanes == u32::MAX && bytes == 4 && count == 1 && !tracked {
                    for i in 0..32 {
                        values[0][i] = allocation.load(addresses[i] - allocation.base, 4);
                    }
                    return;
                }
                for i in lanes_of(lanes) {
                    let offset = addresses[i as usize] - allocation.base;
                    for (e, row) in values.iter_mut().enumerate().take(count) {
                        let offset = offset + (e as u64) * bytes as u64;
                        row[i as usize] = allocation.load(offset, bytes);
                        if tracked && !allocation.is_written(offset, bytes) {
                            missing |= 1 << i;
                        }
                    }
                }
            }
        });
        if missing != 0 && self.all_used(what) {
            let lane = missing.trailing_zeros();
            self.unwritten(what, lane, addresses[lane as usize]);
        }
    }

    fn global_store(&mut self, what: What, addresses: &[u64; 32], mask: u32, values: &Values) {
        let weak = self.clock.is_on() && !what.strength.is_wide();
        self.quiet = if weak { self.unchanged(what, addresses, mask, values) } else { 0 };
        self.global_lanes(what, addresses, mask, false, |allocation, lanes| {
            for i in lanes_of(lanes) {
                let offset = addresses[i as usize] - allocation.base;
                for (e, row) in values.iter().enumerate().take(what.count as usize) {
                    // SAFETY: `global_lanes` gives lanes whose aligned access lies wholly within the allocation.
                    unsafe {
                        allocation.store(offset + e as u64 * what.bytes as u64, what.bytes, row[i as usize])
                    };
                }
            }
        });
        self.quiet = 0;
    }

    /// Lanes that store what is there already. Threads that set one flag to one value are a race by the letter, which
    /// programs rely on and hardware decides in one way only: with other writes they do not race, with reads they do.
    fn unchanged(&self, what: What, addresses: &[u64; 32], mask: u32, values: &Values) -> u32 {
        let mut same = 0;
        for i in lanes_of(mask) {
            let address = addresses[i as usize];
            let found = self.l.memory.find(address).filter(|a| address + what.total() <= a.base + a.size);
            let Some(a) = found.filter(|_| address.is_multiple_of(what.total())) else { continue };
            let keep = u64::MAX >> (64 - 8 * what.bytes);
            let equal = (0..what.count as usize).all(|e| {
                let offset = address - a.base + e as u64 * what.bytes as u64;
                // SAFETY: the element lies within the allocation and is aligned, both checked just above.
                unsafe {
                    a.is_written(offset, what.bytes)
                        && a.load(offset, what.bytes) == values[e][i as usize] & keep
                }
            });
            same |= (equal as u32) << i;
        }
        same
    }

    // local and parameters -----------------------------------------------------------------------------------------

    /// Start of each lane's access in the warp's local memory.
    fn local_lanes(&mut self, warp: &Warp, what: What, addresses: &[u64; 32], mask: u32) -> (u32, [u32; 32]) {
        let mut left = self.aligned(what, addresses, mask, "local");
        let mut at = [0u32; 32];
        for i in lanes_of(left) {
            let a = addresses[i as usize];
            let offset = if in_window(a, LOCAL_WINDOW) { a - LOCAL_WINDOW } else { a };
            if offset.checked_add(what.total()).is_none_or(|end| end > warp.local_bytes as u64) {
                left &= !(1 << i);
                self.report(Check::OutOfBounds, what.pc, what.warp, i, || {
                    format!(
                        "{} {} B at byte {offset} of local memory, the thread has {} B",
                        what.verb(),
                        what.total(),
                        warp.local_bytes
                    )
                });
                continue;
            }
            at[i as usize] = i * warp.local_bytes + offset as u32;
        }
        if self.l.options.counters {
            self.counts[what.pc as usize].bytes += what.total() * left.count_ones() as u64;
        }
        (left, at)
    }

    fn all_used(&self, what: What) -> bool {
        (0..what.total() as usize).all(|byte| self.is_used(what.pc, byte, 1))
    }

    /// False for bytes of a load that a pragma says nobody uses.
    fn is_used(&self, pc: u32, start: usize, bytes: usize) -> bool {
        match self.l.code.insts[pc as usize].kind {
            Kind::Load(index) => {
                let used = self.l.code.mems[index as usize].used_bytes as u32;
                used >> start & ((1 << bytes) - 1) != 0
            }
            _ => true,
        }
    }

    fn local_load(
        &mut self,
        warp: &mut Warp,
        what: What,
        addresses: &[u64; 32],
        mask: u32,
        values: &mut Values,
    ) {
        let (lanes, offsets) = self.local_lanes(warp, what, addresses, mask);
        let bytes = what.bytes as usize;
        for i in lanes_of(lanes) {
            for (e, row) in values.iter_mut().enumerate().take(what.count as usize) {
                let at = offsets[i as usize] as usize + e * bytes;
                row[i as usize] = load_bytes(&warp.local[at..at + bytes]);
                // Copies of structures read their padding: an element counts as written when some byte of it is.
                let written = any_set(&warp.local_written[at..at + bytes]);
                if self.l.options.checks.uninitialised && !written && self.is_used(what.pc, e * bytes, bytes)
                {
                    self.report(Check::Uninitialised, what.pc, what.warp, i, || {
                        let byte = at as u32 - i * warp.local_bytes;
                        format!(
                            "reads {} B at byte {byte} of local memory that it has not written",
                            what.bytes
                        )
                    });
                }
            }
        }
    }

    fn local_store(
        &mut self,
        warp: &mut Warp,
        what: What,
        addresses: &[u64; 32],
        mask: u32,
        values: &Values,
    ) {
        let (lanes, offsets) = self.local_lanes(warp, what, addresses, mask);
        let bytes = what.bytes as usize;
        for i in lanes_of(lanes) {
            for (e, row) in values.iter().enumerate().take(what.count as usize) {
                let at = offsets[i as usize] as usize + e * bytes;
                warp.local[at..at + bytes].copy_from_slice(&row[i as usize].to_le_bytes()[..bytes]);
                warp.local_written[at..at + bytes].fill(1);
            }
        }
    }

    /// Kernel parameters, by offset or generic address. Constant offsets were checked when the kernel was lowered.
    fn load_param(
        &mut self,
        op: &MemOp,
        (warp, pc): (u32, u32),
        addresses: &[u64; 32],
        values: &mut Values,
        mask: u32,
    ) {
        let bytes = op.bytes as usize;
        let window = if op.space == Space::Param { 0 } else { PARAM_WINDOW };
        let params = self.l.params;
        let read = |address: u64, e: usize| {
            let at = usize::try_from(address.wrapping_sub(window)).ok()?.checked_add(e * bytes)?;
            params.get(at..at.checked_add(bytes)?).map(load_bytes)
        };
        let first = addresses[(mask.trailing_zeros() & 31) as usize];
        let alike = op.space == Space::Param && addresses.iter().all(|&a| a == first);
        let mut outside = 0u32;
        for (e, row) in values.iter_mut().enumerate().take(op.count as usize) {
            if alike && let Some(v) = read(first, e) {
                row.fill(v);
                continue;
            }
            for i in lanes_of(mask) {
                let v = read(addresses[i as usize], e);
                outside |= (v.is_none() as u32) << i;
                row[i as usize] = v.unwrap_or(u64::MAX);
            }
        }
        if outside != 0 {
            let lane = outside.trailing_zeros();
            self.report(Check::OutOfBounds, pc, warp, lane, || {
                let at = addresses[lane as usize].wrapping_sub(window);
                format!("reads {bytes} B at byte {at} of {} B of kernel parameters", params.len())
            });
        }
    }
}
