//! Counters of a launch, per instruction: what a profiler shows. Facts, never times.

use std::collections::BTreeMap;

use crate::code::{Class, Code};

/// Counts at one instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Times a warp issued it.
    pub warps: u64,
    /// Lanes that executed it.
    pub lanes: u64,
    /// Bytes the lanes asked for.
    pub bytes: u64,
    /// Global memory: 32-byte sectors touched. Shared memory: passes over the 32 banks.
    pub transfers: u64,
    /// The least sectors, or passes, that these bytes need.
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

/// Sums over a launch or a source line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sums {
    /// Instructions of warps and of lanes, by class.
    pub by_class: BTreeMap<Class, Count>,
    /// Floating-point operations of the scalar pipes, and of the tensor cores.
    pub flops: u64,
    pub tensor_flops: u64,
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
    }

    pub fn class(&self, class: Class) -> Count {
        self.by_class.get(&class).copied().unwrap_or_default()
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
        format!(
            "{{\"warp_instructions\":{},\"lane_instructions\":{},\"lane_efficiency\":{:.6},\"flops\":{},\"tensor_flops\":{},\"classes\":{{{}}}}}",
            self.warp_instructions(),
            self.lane_instructions(),
            self.lane_efficiency(),
            self.flops,
            self.tensor_flops,
            classes.join(",")
        )
    }
}

/// The counters of a launch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    pub total: Sums,
    /// By source line: (file, line); without line information the file is empty and the line is the PTX's.
    pub lines: BTreeMap<(String, u32), Sums>,
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
            let line = match info.loc {
                Some(loc) => (file(loc.file), loc.line),
                None => (String::new(), info.ptx_line),
            };
            out.lines.entry(line).or_default().add(info.class, count, flops);
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
        out += "source line      warp instructions   lane instructions  lane efficiency\n";
        for ((file, line), s) in &self.lines {
            let place = if file.is_empty() { format!("PTX:{line}") } else { format!("{file}:{line}") };
            out += &format!(
                "{place:<16} {:>17} {:>19} {:>14.1} %\n",
                s.warp_instructions(),
                s.lane_instructions(),
                100.0 * s.lane_efficiency()
            );
        }
        out
    }

    /// The same as JSON: `{"total": {...}, "lines": [{"file", "line", ...}]}`.
    pub fn json(&self) -> String {
        let lines: Vec<String> = self
            .lines
            .iter()
            .map(|((file, line), sums)| {
                let file = file.replace('\\', "\\\\").replace('"', "\\\"");
                format!("{{\"file\":\"{file}\",\"line\":{line},\"counts\":{}}}", sums.json())
            })
            .collect();
        format!("{{\"total\":{},\"lines\":[{}]}}", self.total.json(), lines.join(","))
    }
}

/// 32-byte sectors that accesses of `bytes` bytes at `addresses` touch.
pub fn sectors(addresses: &[u64; 32], mask: u32, bytes: u64) -> u64 {
    let lanes = || (0..32).filter(move |i| mask >> i & 1 != 0);
    let Some(low) = lanes().map(|i| addresses[i] / 32).min() else { return 0 };
    let mut near = 0u128;
    let mut far = Vec::new();
    for i in lanes() {
        for sector in addresses[i] / 32..=(addresses[i] + bytes - 1) / 32 {
            if sector - low < 128 { near |= 1 << (sector - low) } else { far.push(sector) }
        }
    }
    far.sort_unstable();
    far.dedup();
    near.count_ones() as u64 + far.len() as u64
}

/// Passes over the banks of shared memory: 32 banks of 4 bytes; 8-byte accesses go by half warps, 16-byte ones by
/// quarters; lanes that read one word share it.
pub fn bank_passes(addresses: &[u64; 32], mask: u32, bytes: u64) -> u64 {
    let group = if bytes <= 4 {
        32
    } else if bytes <= 8 {
        16
    } else {
        8
    };
    let words = bytes.div_ceil(4);
    let mut passes = 0;
    for first in (0..32).step_by(group) {
        // The word each bank is asked for first, and those that conflict with it.
        let (mut asked, mut used) = ([0u64; 32], 0u32);
        let mut others: Vec<u64> = Vec::new();
        for i in (first..first + group).filter(|i| mask >> i & 1 != 0) {
            for word in addresses[i] / 4..addresses[i] / 4 + words {
                let bank = (word % 32) as usize;
                if used >> bank & 1 == 0 {
                    used |= 1 << bank;
                    asked[bank] = word;
                } else if asked[bank] != word {
                    others.push(word);
                }
            }
        }
        others.sort_unstable();
        others.dedup();
        let mut more = [0u64; 32];
        others.iter().for_each(|w| more[(w % 32) as usize] += 1);
        passes += (used != 0) as u64 + more.iter().max().copied().unwrap_or(0);
    }
    passes
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
    fn bank_conflicts_of_known_patterns() {
        assert_eq!(bank_passes(&addresses(|i| 4 * i), !0, 4), 1);
        assert_eq!(bank_passes(&addresses(|i| 8 * i), !0, 4), 2, "stride two");
        assert_eq!(bank_passes(&addresses(|i| 128 * i), !0, 4), 32, "one bank");
        assert_eq!(bank_passes(&addresses(|i| 132 * i), !0, 4), 1, "padded column");
        assert_eq!(bank_passes(&addresses(|_| 0), !0, 4), 1, "broadcast");
        assert_eq!(bank_passes(&addresses(|i| 16 * i), !0, 16), 4, "contiguous 16 bytes");
    }
}
