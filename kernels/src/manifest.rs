//! What was compiled from what, and what each kernel needs: `ptx/manifest.json`.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// `ptx/manifest.json`: what was compiled from what, and what it needs.
#[derive(Serialize, Deserialize, Default, Debug, PartialEq)]
pub struct Manifest {
    pub compiler: String,
    pub flags: Vec<String>,
    pub ptx_version: String,
    /// By the stem of the `.cu` file.
    pub files: BTreeMap<String, File>,
}

/// One `.cu` file.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct File {
    /// What the PTX is for: `sm_80` runs on all newer devices too, `sm_90a` on no other.
    pub arch: String,
    /// BLAKE3 of the source and of the headers it includes.
    pub source: String,
    /// BLAKE3 of the PTX.
    pub ptx: String,
    /// By entry.
    pub entries: BTreeMap<String, Usage>,
}

/// ptxas's figures for an entry; in the manifest those for its file's architecture.
#[derive(Serialize, Deserialize, Clone, Copy, Default, Debug, PartialEq)]
pub struct Usage {
    /// Per thread.
    pub registers: u32,
    /// Static, per block.
    pub shared_bytes: u32,
    pub stack_bytes: u32,
    pub spill_bytes: u32,
}

/// The manifest of the embedded PTX.
pub fn embedded() -> &'static Manifest {
    static MANIFEST: OnceLock<Manifest> = OnceLock::new();
    MANIFEST.get_or_init(|| {
        serde_json::from_str(crate::ptx::MANIFEST)
            .expect("bug in handloom-kernels: ptx/manifest.json does not parse")
    })
}

impl Manifest {
    /// What an entry needs.
    pub fn usage(&self, entry: &str) -> Option<Usage> {
        self.files.values().find_map(|file| file.entries.get(entry)).copied()
    }
}

impl Usage {
    /// Blocks of `threads` threads with `dynamic_shared_bytes` that an sm_80 multiprocessor holds at once: the least of what its
    /// 65,536 registers (given out by 256 a warp), 164 KiB of shared memory (1 KiB of each block is the system's), 2,048 threads
    /// and 32 blocks allow. (CUDA C++ Programming Guide, table of technical specifications per compute capability.)
    pub fn resident_blocks(&self, threads: u32, dynamic_shared_bytes: u32) -> u32 {
        let warps = threads.div_ceil(32).max(1);
        let registers_per_warp = (self.registers * 32).next_multiple_of(256).max(256);
        // Registers belong to one of four partitions, each with a quarter of them and of the warps.
        let warps_by_registers = 4 * (16_384 / registers_per_warp);
        let shared = (self.shared_bytes + dynamic_shared_bytes + 1024).next_multiple_of(128);
        (warps_by_registers / warps).min(164 * 1024 / shared).min(2048 / (warps * 32)).min(32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn occupancy_is_the_tightest_limit() {
        let usage = |registers, shared_bytes| Usage { registers, shared_bytes, ..Usage::default() };
        // 32 registers: 2,048 threads; 8 blocks of 256.
        assert_eq!(usage(32, 0).resident_blocks(256, 0), 8);
        // 128 registers x 256 threads = half of 65,536.
        assert_eq!(usage(128, 0).resident_blocks(256, 0), 2);
        // 255 registers round up to 8,192 a warp: 8 warps.
        assert_eq!(usage(255, 0).resident_blocks(256, 0), 1);
        // 48 KiB + 1 KiB of 164 KiB: 3 blocks.
        assert_eq!(usage(32, 48 << 10).resident_blocks(128, 0), 3);
        assert_eq!(usage(16, 0).resident_blocks(32, 0), 32);
    }
}
