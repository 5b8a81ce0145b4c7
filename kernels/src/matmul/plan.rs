//! How a product is cut into blocks: tile, splits of K, order of tiles. A pure function of shape, type and device.
//!
//! The time of a plan is estimated in cycles of one multiprocessor, from the work of the busiest one:
//!
//! ```text
//! blocks   = tiles x batches x splits
//! busiest  = ceil(blocks / multiprocessors)                    blocks that one multiprocessor runs
//! block    = BM BN (K / splits) / (rate x efficiency) + BM BN / STORE_RATE + START
//! time     = busiest x block / min(1, occupancy) + the sum of splits: its bytes / bandwidth + LAUNCH
//! ```
//!
//! `rate` is what the instruction allows (multiply-adds per cycle), `efficiency` what a tile reaches of it: a smaller tile reads more
//! shared memory and L2 per multiply-add. A multiprocessor with fewer blocks than fit on it hides less latency: `occupancy`.
//! The constants are estimates from the instruction rates of sm_80 and published tile comparisons; nothing here was tuned on a device.

use crate::elem::Elem;

/// What multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Math {
    /// True f32, FFMA.
    F32,
    /// f32 rounded to tf32, tensor cores.
    Tf32,
    F16,
    Bf16,
}

impl Math {
    /// The kernels for operands of this dtype; `tf32` counts for f32 alone. `None` for integers.
    pub fn of(elem: Elem, tf32: bool) -> Option<Math> {
        match elem {
            Elem::F32 if tf32 => Some(Math::Tf32),
            Elem::F32 => Some(Math::F32),
            Elem::F16 => Some(Math::F16),
            Elem::BF16 => Some(Math::Bf16),
            Elem::I32 => None,
        }
    }

    /// Multiply-adds per cycle and multiprocessor, sm_80.
    fn rate(self) -> f64 {
        match self {
            Math::F32 => 64.0,
            Math::Tf32 => 512.0,
            Math::F16 | Math::Bf16 => 1024.0,
        }
    }

    /// The tiles of the kernels that need Hopper, largest first.
    pub fn wgmma_tiles(self) -> &'static [Tile] {
        match self {
            Math::F32 | Math::Tf32 => &[],
            Math::F16 | Math::Bf16 => &WGMMA_TILES,
        }
    }

    /// The tiles there are kernels for on every device, largest first.
    pub fn tiles(self) -> &'static [Tile] {
        match self {
            Math::F32 => &F32_TILES,
            Math::Tf32 => &TF32_TILES,
            Math::F16 | Math::Bf16 => &HALF_TILES,
        }
    }
}

/// Which operands have neighbours along K adjacent in memory; what the kernels' names start with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// lhs (M, K), rhs (K, N).
    Nn,
    /// lhs (M, K), rhs stored (N, K).
    Nt,
    /// lhs stored (K, M), rhs (K, N).
    Tn,
}

/// A kernel's tile, as its .cu file defines it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tile {
    /// Rows and columns of out that a block computes, and its step along K.
    pub bm: usize,
    pub bn: usize,
    pub bk: usize,
    pub threads: u32,
    /// Dynamic shared memory.
    pub shared_bytes: usize,
    /// Blocks on a multiprocessor that `__launch_bounds__` and shared memory leave room for (sm_80: 164 KB).
    pub resident: usize,
    /// Position of the tile's entries in the launcher's tables.
    pub index: usize,
    /// Whether its kernels are those of sm_90a.
    pub wgmma: bool,
    efficiency: f64,
}

const fn tile(
    index: usize,
    [bm, bn, bk]: [usize; 3],
    stages: usize,
    elem: Elem,
    threads: u32,
    resident: usize,
    efficiency: f64,
) -> Tile {
    Tile {
        bm,
        bn,
        bk,
        threads,
        shared_bytes: stages * (bm + bn) * bk * elem.size(),
        resident,
        index,
        wgmma: false,
        efficiency,
    }
}

/// As WgmmaTile in sm_90a/matmul_wgmma.cuh: beside the ring two barriers a tile, and what aligns it to 1,024 bytes.
const fn wgmma_tile(index: usize, bn: usize, stages: usize, resident: usize, efficiency: f64) -> Tile {
    let tile = tile(index, [128, bn, 64], stages, Elem::F16, 288, resident, efficiency);
    Tile { shared_bytes: tile.shared_bytes + stages * 16 + 1024, wgmma: true, ..tile }
}

const HALF_TILES: [Tile; 3] = [
    tile(0, [128, 256, 64], 3, Elem::F16, 256, 1, 0.85),
    tile(1, [128, 128, 32], 4, Elem::F16, 128, 2, 0.80),
    tile(2, [64, 64, 64], 3, Elem::F16, 128, 3, 0.50),
];
const WGMMA_TILES: [Tile; 2] = [wgmma_tile(0, 256, 4, 1, 0.75), wgmma_tile(1, 128, 3, 2, 0.70)];
const TF32_TILES: [Tile; 2] =
    [tile(0, [128, 128, 16], 4, Elem::F32, 256, 1, 0.75), tile(1, [64, 64, 32], 3, Elem::F32, 128, 3, 0.45)];
const F32_TILES: [Tile; 2] =
    [tile(0, [128, 128, 16], 4, Elem::F32, 256, 2, 0.90), tile(1, [64, 64, 16], 4, Elem::F32, 128, 4, 0.75)];
/// matmul_any's; its shared memory is static.
pub const ANY_TILE: Tile = Tile {
    bm: 64,
    bn: 64,
    bk: 16,
    threads: 256,
    shared_bytes: 0,
    resident: 2,
    index: 0,
    wgmma: false,
    efficiency: 0.4,
};

/// Outputs per cycle that a block's epilogue stores.
const STORE_RATE: f64 = 16.0;
/// Cycles before a block's first multiply-add: launch and the first tiles' way through memory.
const START: f64 = 1500.0;
/// Cycles of another kernel in the stream.
const LAUNCH: f64 = 4000.0;
/// Bytes per cycle and multiprocessor between it and device memory.
const BANDWIDTH: f64 = 12.0;
/// More splits than this never pay: their sums are read one after the other.
const MOST_SPLITS: usize = 64;
/// Rows of tiles in a group of the raster: 8 x 8 tiles of a wave share their operands in L2.
const RASTER: usize = 8;

/// Sizes of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub batches: usize,
}

/// What the device offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub multiprocessors: usize,
    /// Shared memory of a block.
    pub shared_bytes: usize,
    /// Whether the kernels of sm_90a run the product there.
    pub wgmma: bool,
}

/// How to run a product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    pub tile: Tile,
    /// Parts of K that are summed separately, and then together in order.
    pub splits: usize,
    /// Length of every part but the last; a multiple of the tile's `bk`.
    pub k_per_split: usize,
    /// Rows of tiles in a group, see matmul_tile.cuh.
    pub raster: usize,
}

impl Plan {
    /// Cuts K into at most `splits` parts of equal whole steps; fewer where some would be empty.
    pub fn new(tile: Tile, k: usize, splits: usize) -> Plan {
        let steps = k.div_ceil(tile.bk).max(1);
        let per_split = steps.div_ceil(splits.clamp(1, steps));
        Plan { tile, splits: steps.div_ceil(per_split), k_per_split: per_split * tile.bk, raster: RASTER }
    }

    /// Tiles of one batch.
    pub fn tiles(&self, shape: Shape) -> usize {
        shape.m.div_ceil(self.tile.bm) * shape.n.div_ceil(self.tile.bn)
    }

    /// Estimated cycles, see the head of the file.
    fn cycles(&self, shape: Shape, math: Math, room: Room) -> f64 {
        let Tile { bm, bn, resident, wgmma, efficiency, .. } = self.tile;
        // Hopper multiplies twice as fast by wgmma.
        let rate = if wgmma { 2.0 * math.rate() } else { math.rate() };
        let area = (bm * bn) as f64;
        let busiest = (self.tiles(shape) * shape.batches * self.splits).div_ceil(room.multiprocessors);
        let occupancy = (busiest as f64 / resident as f64).min(1.0);
        let multiply = area * self.k_per_split as f64 / (rate * efficiency);
        let block = multiply / (0.6 + 0.4 * occupancy) + area / STORE_RATE + START / resident as f64;
        let sum = if self.splits > 1 {
            let bytes = 4 * (2 * self.splits + 1) * shape.m * shape.n * shape.batches;
            bytes as f64 / (BANDWIDTH * room.multiprocessors as f64) + LAUNCH
        } else {
            0.0
        };
        busiest as f64 * block + sum
    }
}

/// The fastest plan by estimate; of equals the one with fewer splits, then the larger tile. `may_split` is false where the sum of
/// splits cannot do the epilogue.
pub fn plan(shape: Shape, math: Math, room: Room, may_split: bool) -> Plan {
    let wgmma = if room.wgmma { math.wgmma_tiles() } else { &[] };
    let fitting = wgmma.iter().chain(math.tiles()).filter(|tile| tile.shared_bytes <= room.shared_bytes);
    best(fitting.copied(), shape, math, room, may_split)
}

/// The plan of matmul_any.
pub fn plan_any(shape: Shape, room: Room, may_split: bool) -> Plan {
    best([ANY_TILE].into_iter(), shape, Math::F32, room, may_split)
}

fn best(tiles: impl Iterator<Item = Tile>, shape: Shape, math: Math, room: Room, may_split: bool) -> Plan {
    let most = if may_split { MOST_SPLITS } else { 1 };
    let mut best: Option<(f64, Plan)> = None;
    for tile in tiles {
        for splits in 1..=most {
            let plan = Plan::new(tile, shape.k, splits);
            // Fewer parts than asked for: the same plan came up before. Short parts only add overhead.
            if plan.splits != splits || (splits > 1 && plan.k_per_split < 4 * tile.bk) {
                continue;
            }
            let cycles = plan.cycles(shape, math, room);
            if best.is_none_or(|(least, _)| cycles < least) {
                best = Some((cycles, plan));
            }
        }
    }
    best.expect("bug in handloom-kernels: some tile fits every device").1
}

#[cfg(test)]
mod tests {
    use super::*;

    const H100: Room = Room { multiprocessors: 132, shared_bytes: 227 << 10, wgmma: false };
    const MATHS: [Math; 4] = [Math::F32, Math::Tf32, Math::F16, Math::Bf16];

    fn shape(m: usize, n: usize, k: usize) -> Shape {
        Shape { m, n, k, batches: 1 }
    }

    #[test]
    fn splits_cover_k_exactly_in_whole_steps() {
        for math in MATHS {
            for tile in math.tiles() {
                for k in [0, 1, 31, 32, 33, 63, 64, 65, 127, 1000, 65_536, 65_537] {
                    for splits in 1..=70 {
                        let plan = Plan::new(*tile, k, splits);
                        assert!(plan.splits <= splits && plan.k_per_split.is_multiple_of(tile.bk));
                        assert!(plan.splits * plan.k_per_split >= k, "{plan:?} of {k}");
                        assert!(
                            k == 0 || (plan.splits - 1) * plan.k_per_split < k,
                            "{plan:?}: an empty part of {k}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn large_products_take_large_tiles_and_no_splits() {
        // GPT-2 124M, B T = 65,536: fully connected layer, vocabulary.
        for (m, n, k) in [(65_536, 3072, 768), (65_536, 768, 3072), (65_536, 50_304, 768)] {
            for math in MATHS {
                let plan = plan(shape(m, n, k), math, H100, true);
                assert_eq!((plan.tile.index, plan.splits), (0, 1), "{math:?} {m} {n} {k}: {plan:?}");
            }
        }
    }

    #[test]
    fn weight_gradients_are_split_until_the_device_is_full() {
        // 768 x 3072 is 72 tiles of 128 x 256 for 132 multiprocessors; 768 x 768 is 18.
        for (m, n) in [(768, 3072), (768, 768), (768, 2304)] {
            for math in MATHS {
                let plan = plan(shape(m, n, 65_536), math, H100, true);
                let blocks = plan.tiles(shape(m, n, 0)) * plan.splits;
                let waves = blocks as f64 / H100.multiprocessors as f64;
                assert!(
                    plan.splits > 1 && waves / waves.ceil() > 0.85,
                    "{math:?} {m} {n}: {waves} in {plan:?}"
                );
            }
        }
    }

    #[test]
    fn wgmma_takes_what_is_large_enough() {
        let room = Room { wgmma: true, ..H100 };
        for (m, n, k) in [(65_536, 3072, 768), (65_536, 50_304, 768), (768, 3072, 65_536), (2048, 1024, 256)]
        {
            assert!(plan(shape(m, n, k), Math::Bf16, room, true).tile.wgmma, "{m} {n} {k}");
            assert!(!plan(shape(m, n, k), Math::Tf32, room, true).tile.wgmma, "{m} {n} {k}");
        }
        assert_eq!(plan(shape(5, 17, 13), Math::Bf16, room, true).tile.bm, 64);
    }

    #[test]
    fn small_products_take_small_tiles() {
        for math in MATHS {
            let plan = plan(shape(5, 17, 13), math, H100, true);
            assert_eq!((plan.tile.bm, plan.tile.bn, plan.splits), (64, 64, 1), "{math:?}");
        }
    }

    #[test]
    fn a_tile_that_does_not_fit_is_not_chosen() {
        // sm_86 and sm_89 have 99 KB of shared memory for a block.
        let room = Room { multiprocessors: 84, shared_bytes: 99 << 10, wgmma: false };
        let plan = plan(shape(8192, 8192, 8192), Math::Bf16, room, true);
        assert_eq!((plan.tile.bm, plan.tile.bn), (128, 128));
        for math in MATHS {
            assert!(
                math.tiles().iter().all(|tile| tile.shared_bytes <= 163 << 10),
                "sm_80 has room for each"
            );
            assert!(
                math.tiles().iter().any(|tile| tile.shared_bytes <= 48 << 10),
                "any device has room for one"
            );
        }
    }

    #[test]
    fn nothing_is_split_that_may_not_be() {
        assert_eq!(plan(shape(64, 64, 1 << 20), Math::Bf16, H100, false).splits, 1);
        assert!(plan(shape(64, 64, 1 << 20), Math::Bf16, H100, true).splits > 8);
    }
}
