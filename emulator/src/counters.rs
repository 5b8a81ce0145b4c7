//! Counters of a launch, per instruction: what a profiler shows. Facts, never times.

use std::collections::BTreeMap;

use crate::code::{Class, Code};
use crate::exec::lanes::by_level;

/// Counts at one instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Times a warp issued it.
    pub warps: u64,
    /// Lanes that executed it.
    pub lanes: u64,
    /// Bytes the lanes asked for.
    pub bytes: u64,
    /// Global memory: 32-byte sectors touched. Shared memory: passes over the 32 banks. Atomics: updates one after the
    /// other, that is, of the address that most lanes share. Barriers: arrivals that had to wait.
    pub transfers: u64,
    /// The least sectors or passes that these bytes need; requests of atomics; arrivals at barriers.
    pub ideal: u64,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, o: Count) {
        self.warps += o.warps;
        self.lanes += o.lanes;
        self.bytes += o.bytes;
        self.transfers += o.transfers;
        self.ideal += o.ideal;
    }
}

/// Sums over a launch, a source line or a PTX line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sums {
    /// Instructions of warps and of lanes, by class.
    pub by_class: BTreeMap<Class, Count>,
    /// Floating-point operations of the scalar pipes, and of the tensor cores.
    pub flops: u64,
    pub tensor_flops: u64,
    /// The same by pipe.
    pub flops_by_pipe: BTreeMap<Class, u64>,
}

impl Sums {
    fn add(&mut self, class: Class, count: Count, flops: u64) {
        if class == Class::None {
            return;
        }
        *self.by_class.entry(class).or_default() += count;
        match class {
            Class::Tensor => self.tensor_flops += flops,
            _ => self.flops += flops,
        }
        if flops > 0 {
            *self.flops_by_pipe.entry(class).or_default() += flops;
        }
    }

    pub fn class(&self, class: Class) -> Count {
        self.by_class.get(&class).copied().unwrap_or_default()
    }

    fn together(&self, classes: &[Class]) -> Count {
        let mut sum = Count::default();
        classes.iter().for_each(|&c| sum += self.class(c));
        sum
    }

    /// Loads and stores of global memory, generic ones included: bytes, sectors, and the least sectors.
    pub fn global(&self) -> Count {
        self.together(&[Class::LoadGlobal, Class::StoreGlobal, Class::Generic])
    }

    /// Loads and stores of shared memory: bytes, passes over the banks, and the least passes.
    pub fn shared(&self) -> Count {
        self.together(&[Class::LoadShared, Class::StoreShared])
    }

    /// Instructions that warps issued.
    pub fn warp_instructions(&self) -> u64 {
        self.by_class.values().map(|c| c.warps).sum()
    }

    /// Instructions that lanes executed.
    pub fn lane_instructions(&self) -> u64 {
        self.by_class.values().map(|c| c.lanes).sum()
    }

    /// Lanes that took part, of those that could: 1 without divergence or partly filled warps.
    pub fn lane_efficiency(&self) -> f64 {
        let warps = self.warp_instructions();
        if warps == 0 { 1.0 } else { self.lane_instructions() as f64 / (32 * warps) as f64 }
    }

    /// The least sectors of global memory, of those touched: 1 when all accesses are coalesced.
    pub fn coalescing(&self) -> f64 {
        let c = self.global();
        if c.transfers == 0 { 1.0 } else { (c.ideal as f64 / c.transfers as f64).min(1.0) }
    }

    /// Passes over the banks of shared memory beyond the least: conflicts.
    pub fn bank_conflicts(&self) -> u64 {
        let c = self.shared();
        c.transfers.saturating_sub(c.ideal)
    }

    /// How many updates an atomic of a warp makes one after the other, on average: 1 without contention.
    pub fn atomic_contention(&self) -> f64 {
        let c = self.class(Class::Atomic);
        if c.ideal == 0 { 1.0 } else { c.transfers as f64 / c.ideal as f64 }
    }

    /// Floating-point operations per byte of global memory asked for; None without such bytes.
    pub fn intensity(&self) -> Option<f64> {
        let bytes = self.global().bytes;
        (bytes > 0).then(|| (self.flops + self.tensor_flops) as f64 / bytes as f64)
    }

    fn json(&self) -> String {
        let classes: Vec<String> = self
            .by_class
            .iter()
            .map(|(class, c)| {
                format!(
                    "\"{class:?}\":{{\"warps\":{},\"lanes\":{},\"bytes\":{},\"transfers\":{},\"ideal\":{}}}",
                    c.warps, c.lanes, c.bytes, c.transfers, c.ideal
                )
            })
            .collect();
        let pipes: Vec<String> =
            self.flops_by_pipe.iter().map(|(pipe, flops)| format!("\"{pipe:?}\":{flops}")).collect();
        format!(
            "{{\"warp_instructions\":{},\"lane_instructions\":{},\"lane_efficiency\":{:.6},\"flops\":{},\"tensor_flops\":{},\"flops_by_pipe\":{{{}}},\"coalescing\":{:.6},\"bank_conflicts\":{},\"atomic_contention\":{:.6},\"barrier_waits\":{},\"classes\":{{{}}}}}",
            self.warp_instructions(),
            self.lane_instructions(),
            self.lane_efficiency(),
            self.flops,
            self.tensor_flops,
            pipes.join(","),
            self.coalescing(),
            self.bank_conflicts(),
            self.atomic_contention(),
            self.class(Class::Barrier).transfers,
            classes.join(",")
        )
    }
}

/// A line of PTX: what ran there, and the line of CUDA source it comes from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PtxLine {
    pub sums: Sums,
    pub source: Option<(String, u32)>,
}

/// The counters of a launch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    pub total: Sums,
    /// By source line: (file, line); without line information the file is empty and the line is the PTX's.
    pub lines: BTreeMap<(String, u32), Sums>,
    /// By line of PTX.
    pub ptx_lines: BTreeMap<u32, PtxLine>,
}

impl Counters {
    pub fn new(code: &Code, counts: &[Count], file: impl Fn(u32) -> String) -> Counters {
        let mut out = Counters::default();
        for (info, &count) in code.info.iter().zip(counts) {
            if count.warps == 0 || info.class == Class::None {
                continue;
            }
            let flops = info.flops as u64 * count.lanes;
            out.total.add(info.class, count, flops);
            let source = info.loc.map(|loc| (file(loc.file), loc.line));
            let line = source.clone().unwrap_or((String::new(), info.ptx_line));
            out.lines.entry(line).or_default().add(info.class, count, flops);
            let ptx = out.ptx_lines.entry(info.ptx_line).or_default();
            ptx.sums.add(info.class, count, flops);
            ptx.source = source.or(ptx.source.take());
        }
        out
    }

    /// A table for people.
    pub fn text(&self) -> String {
        let t = &self.total;
        let mut out = format!(
            "warp instructions {}   lane instructions {}   lane efficiency {:.1} %   flops {}   tensor flops {}\n",
            t.warp_instructions(),
            t.lane_instructions(),
            100.0 * t.lane_efficiency(),
            t.flops,
            t.tensor_flops
        );
        let (global, shared, barrier) = (t.global(), t.shared(), t.class(Class::Barrier));
        out += &format!(
            "global memory     {} B in {} sectors of 32 B, at least {} (coalescing {:.1} %)\n",
            global.bytes,
            global.transfers,
            global.ideal,
            100.0 * t.coalescing()
        );
        out += &format!(
            "shared memory     {} B in {} passes over the banks, at least {} ({} conflicts)\n",
            shared.bytes,
            shared.transfers,
            shared.ideal,
            t.bank_conflicts()
        );
        out += &format!(
            "barriers          {} arrivals of warps, {} of which waited; atomics: {:.2} updates one after the other\n",
            barrier.ideal,
            barrier.transfers,
            t.atomic_contention()
        );
        out += "class            warp instructions   lane instructions          bytes   sectors/passes     at least\n";
        for (class, c) in &t.by_class {
            out += &format!(
                "{:<16} {:>17} {:>19} {:>14} {:>16} {:>12}\n",
                format!("{class:?}"),
                c.warps,
                c.lanes,
                c.bytes,
                c.transfers,
                c.ideal
            );
        }
        out += "source line      warp instructions   lane instructions  lane efficiency   global B  coalescing  conflicts\n";
        for ((file, line), s) in &self.lines {
            let place = if file.is_empty() { format!("PTX:{line}") } else { format!("{file}:{line}") };
            out += &format!(
                "{place:<16} {:>17} {:>19} {:>14.1} % {:>10} {:>9.1} % {:>10}\n",
                s.warp_instructions(),
                s.lane_instructions(),
                100.0 * s.lane_efficiency(),
                s.global().bytes,
                100.0 * s.coalescing(),
                s.bank_conflicts()
            );
        }
        out
    }

    /// The same as JSON: `{"total": {...}, "lines": [{"file", "line", "counts"}], "ptx": [{"line", "counts"}]}`.
    pub fn json(&self) -> String {
        let lines: Vec<String> = self
            .lines
            .iter()
            .map(|((file, line), sums)| {
                let file = file.replace('\\', "\\\\").replace('"', "\\\"");
                format!("{{\"file\":\"{file}\",\"line\":{line},\"counts\":{}}}", sums.json())
            })
            .collect();
        let ptx: Vec<String> = self
            .ptx_lines
            .iter()
            .map(|(line, l)| format!("{{\"line\":{line},\"counts\":{}}}", l.sums.json()))
            .collect();
        format!(
            "{{\"total\":{},\"lines\":[{}],\"ptx\":[{}]}}",
            self.total.json(),
            lines.join(","),
            ptx.join(",")
        )
    }
}

/// Updates that atomics of a warp make one after the other: as many as lanes share the most popular address.
pub fn serial_updates(addresses: &[u64; 32], mask: u32) -> u64 {
    let mut active: Vec<u64> = (0..32).filter(|i| mask >> i & 1 != 0).map(|i| addresses[i]).collect();
    active.sort_unstable();
    active.chunk_by(|a, b| a == b).map(|same| same.len() as u64).max().unwrap_or(0)
}

by_level! {
    /// True if lane i accesses `first + i * bytes`, for all 32.
    fn is_contiguous(addresses: &[u64; 32], bytes: u64) -> bool {
        let mut same = true;
        for i in 0..32 {
            same &= addresses[i] == addresses[0].wrapping_add(i as u64 * bytes);
        }
        same
    }
}

/// 32-byte sectors that accesses of `bytes` bytes at `addresses` touch.
pub fn sectors(addresses: &[u64; 32], mask: u32, bytes: u64) -> u64 {
    if mask == u32::MAX && is_contiguous(addresses, bytes) {
        return addresses[31].saturating_add(bytes - 1) / 32 - addresses[0] / 32 + 1;
    }
    let lanes = || (0..32).filter(move |i| mask >> i & 1 != 0);
    let Some(low) = lanes().map(|i| addresses[i] / 32).min() else { return 0 };
    let mut near = 0u128;
    let mut far = Vec::new();
    for i in lanes() {
        for sector in addresses[i] / 32..=addresses[i].saturating_add(bytes - 1) / 32 {
            if sector - low < 128 { near |= 1 << (sector - low) } else { far.push(sector) }
        }
    }
    far.sort_unstable();
    far.dedup();
    near.count_ones() as u64 + far.len() as u64
}

by_level! {
    /// True if no two of 32 words share a bank without being the same word.
    fn no_conflict(words: &[u32; 32]) -> bool {
        let mut asked = [0; 32];
        for &w in words {
            asked[w as usize & 31] = w;
        }
        let mut same = true;
        for &w in words {
            same &= asked[w as usize & 31] == w;
        }
        same
    }
}

/// How the lanes of an instruction's last access lay to each other, and what that cost: loops repeat it.
#[derive(Clone, Copy, Default)]
pub struct Pattern {
    from_first: [u32; 32],
    mask: u32,
    /// Bytes of the access, and of the first lane into its word.
    kind: (u64, u32),
    passes: u64,
}

by_level! {
    fn repeats(offsets: &[u32; 32], from_first: &[u32; 32]) -> bool {
        let mut different = 0;
        for i in 0..32 {
            different |= offsets[i].wrapping_sub(offsets[0]) ^ from_first[i];
        }
        different == 0
    }
}

impl Pattern {
    /// [`bank_passes`] of the access; a shift by whole words only renames the banks.
    #[inline]
    pub fn bank_passes(&mut self, offsets: &[u32; 32], mask: u32, bytes: u64) -> u64 {
        if self.mask != mask || self.kind != (bytes, offsets[0] % 4) || !repeats(offsets, &self.from_first) {
            (self.mask, self.kind) = (mask, (bytes, offsets[0] % 4));
            self.from_first = std::array::from_fn(|i| offsets[i].wrapping_sub(offsets[0]));
            self.passes = bank_passes(offsets, mask, bytes);
        }
        self.passes
    }
}

/// Passes over the banks of shared memory: 32 banks of 4 bytes; 8-byte accesses go by half warps, 16-byte ones by
/// quarters; lanes that read one word share it.
pub fn bank_passes(offsets: &[u32; 32], mask: u32, bytes: u64) -> u64 {
    let (group, words) = match bytes {
        0..=4 => (32, 1),
        5..=8 => (16, 2),
        _ => (8, 4),
    };
    let mut passes = 0;
    for first in (0..32).step_by(group) {
        // The group's words, 32 of them; lanes outside the mask repeat one inside.
        let lanes = mask >> first & (u32::MAX >> (32 - group));
        if lanes == 0 {
            continue;
        }
        let some = offsets[first + lanes.trailing_zeros() as usize];
        let wanted: [u32; 32] = std::array::from_fn(|i| {
            let lane = i / words;
            let offset = if lanes >> lane & 1 != 0 { offsets[first + lane] } else { some };
            offset / 4 + (i % words) as u32
        });
        passes += if no_conflict(&wanted) { 1 } else { passes_of(wanted) };
    }
    passes
}

/// The most different words that one bank is asked for.
fn passes_of(mut words: [u32; 32]) -> u64 {
    words.sort_unstable();
    let mut asked = [0u64; 32];
    for (i, &w) in words.iter().enumerate() {
        asked[w as usize & 31] += (i == 0 || words[i - 1] != w) as u64;
    }
    asked.into_iter().max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(f: impl Fn(u64) -> u64) -> [u64; 32] {
        std::array::from_fn(|i| f(i as u64))
    }

    #[test]
    fn sectors_of_known_patterns() {
        assert_eq!(sectors(&addresses(|i| 4 * i), !0, 4), 4, "contiguous words");
        assert_eq!(sectors(&addresses(|i| 4 * i + 16), !0, 4), 5, "shifted by half a sector");
        assert_eq!(sectors(&addresses(|i| 128 * i), !0, 4), 32, "a column");
        assert_eq!(sectors(&addresses(|_| 64), !0, 4), 1, "broadcast");
        assert_eq!(sectors(&addresses(|i| 16 * i), !0, 16), 16, "contiguous 16 bytes");
        assert_eq!(sectors(&addresses(|i| 4096 * i), 3, 4), 2, "two far lanes");
    }

    #[test]
    fn atomics_on_one_address_go_one_after_the_other() {
        assert_eq!(serial_updates(&addresses(|i| 4 * i), !0), 1);
        assert_eq!(serial_updates(&addresses(|_| 8), !0), 32);
        assert_eq!(serial_updates(&addresses(|i| i / 4), 0xff), 4);
        assert_eq!(serial_updates(&addresses(|_| 0), 0), 0);
    }

    #[test]
    fn bank_conflicts_of_known_patterns() {
        let addresses = |f: fn(u64) -> u64| std::array::from_fn(|i| f(i as u64) as u32);
        assert_eq!(bank_passes(&addresses(|i| 4 * i), !0, 4), 1);
        assert_eq!(bank_passes(&addresses(|i| 8 * i), !0, 4), 2, "stride two");
        assert_eq!(bank_passes(&addresses(|i| 128 * i), !0, 4), 32, "one bank");
        assert_eq!(bank_passes(&addresses(|i| 132 * i), !0, 4), 1, "padded column");
        assert_eq!(bank_passes(&addresses(|_| 0), !0, 4), 1, "broadcast");
        assert_eq!(bank_passes(&addresses(|i| 16 * i), !0, 16), 4, "contiguous 16 bytes");
    }
}
