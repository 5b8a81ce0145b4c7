//! The order in which a run sees its blocks.

/// Rounds of the Feistel network: four make it a permutation that no polynomial test tells from a random one
/// (Luby and Rackoff 1988); eight leave a margin for small domains.
const ROUNDS: u64 = 8;

/// Which block each row of a run is. Row `r` of the run is place `r % num_blocks` of epoch `r / num_blocks`, so
/// every block is seen exactly once per epoch and a batch at the end of an epoch takes its last rows from the
/// next: none is dropped, none is short.
///
/// Unshuffled, place `p` is block `p` (row j of micro-batch i of B rows is block `i*B + j`). Shuffled, each epoch has a
/// permutation that is a pure function of `seed` and the epoch, computed without a table in whole numbers: equal
/// on every platform, and a resumed run continues it. It is a Feistel network on `2*h` bits, the
/// smallest even number of bits at least 8 that holds `num_blocks` values; a value beyond the last block is
/// permuted again until it is one (cycle walking, Black and Rogaway 2002). Round `i` on halves (left, right) is
/// `(left, right) <- (right, left ^ (mix(key + i * G + right) >> (64 - h)))` with
/// `key = mix(mix(seed) + epoch)`, `G = 0x9E3779B97F4A7C15`, all sums modulo 2^64, and `mix` the output function of
/// SplitMix64 (Steele, Lea and Flood 2014).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    pub seed: u64,
    pub shuffle: bool,
    /// Blocks in an epoch, at least 1.
    pub num_blocks: usize,
}

impl Order {
    /// The block at a place of an epoch.
    ///
    /// # Panics
    /// When `position` is not below `num_blocks`: a bug of the caller.
    pub fn block_at(&self, epoch: u64, position: usize) -> usize {
        assert!(
            position < self.num_blocks,
            "bug in handloom-model: place {position} of an epoch of {} blocks",
            self.num_blocks
        );
        if !self.shuffle {
            return position;
        }
        let bits = u64::BITS - (self.num_blocks as u64 - 1).leading_zeros();
        let half = bits.div_ceil(2).max(4);
        let key = mix(mix(self.seed).wrapping_add(epoch));
        let mut value = position as u64;
        loop {
            value = feistel(value, half, key);
            if value < self.num_blocks as u64 {
                return value as usize;
            }
        }
    }

    /// The block of row `row` of the run, rows counted over all epochs.
    pub fn block_of_row(&self, row: u64) -> usize {
        let num_blocks = self.num_blocks as u64;
        self.block_at(row / num_blocks, (row % num_blocks) as usize)
    }
}

fn feistel(value: u64, half: u32, key: u64) -> u64 {
    let (mut left, mut right) = (value >> half, value & ((1 << half) - 1));
    for round in 0..ROUNDS {
        let noise = mix(key.wrapping_add(round.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_add(right));
        (left, right) = (right, left ^ (noise >> (u64::BITS - half)));
    }
    left << half | right
}

/// The output function of SplitMix64.
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(seed: u64, epoch: u64, num_blocks: usize) -> Vec<usize> {
        let order = Order { seed, shuffle: true, num_blocks };
        (0..num_blocks).map(|position| order.block_at(epoch, position)).collect()
    }

    #[test]
    fn mix_is_splitmix64() {
        // The first output of SplitMix64 seeded with 0, from its reference implementation.
        assert_eq!(mix(0), 0xE220_A839_7B1D_CDAF);
    }

    #[test]
    fn the_order_is_the_documented_one() {
        // Computed by a Python program written from the doc comment of `Order`.
        assert_eq!(epoch(42, 0, 10), [4, 3, 8, 7, 5, 1, 0, 9, 6, 2]);
        assert_eq!(epoch(42, 1, 10), [9, 3, 0, 4, 5, 1, 2, 6, 8, 7]);
        assert_eq!(epoch(7, 3, 100_000)[..6], [11516, 4206, 51968, 51246, 88611, 98741]);
    }

    #[test]
    fn every_block_is_seen_once_in_an_epoch() {
        for num_blocks in [1, 2, 3, 7, 255, 256, 257, 1000, 65_537] {
            for seed in [0, 1, u64::MAX] {
                let mut seen = epoch(seed, 5, num_blocks);
                seen.sort_unstable();
                assert!(seen.into_iter().eq(0..num_blocks), "{num_blocks} blocks, seed {seed}");
            }
        }
    }

    #[test]
    fn epochs_and_seeds_differ() {
        assert_ne!(epoch(1, 0, 100), epoch(1, 1, 100));
        assert_ne!(epoch(1, 0, 100), epoch(2, 0, 100));
        // Seed and epoch are not simply added: (1, 1) is not (2, 0) or (0, 2).
        assert_ne!(epoch(1, 1, 100), epoch(2, 0, 100));
        assert_ne!(epoch(1, 1, 100), epoch(0, 2, 100));
    }

    #[test]
    fn each_of_the_six_orders_of_three_blocks_is_as_likely() {
        let mut counts = std::collections::HashMap::new();
        for seed in 0..6000 {
            *counts.entry(epoch(seed, 0, 3)).or_insert(0.0) += 1.0;
        }
        assert_eq!(counts.len(), 6);
        // Chi squared with 5 degrees of freedom is above 20.5 once in a thousand times.
        let chi_squared: f64 = counts.values().map(|count: &f64| (count - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi_squared < 20.5, "chi squared {chi_squared}: {counts:?}");
    }

    #[test]
    fn rows_run_on_over_the_end_of_an_epoch() {
        let plain = Order { seed: 9, shuffle: false, num_blocks: 5 };
        let rows: Vec<usize> = (0..12).map(|row| plain.block_of_row(row)).collect();
        assert_eq!(rows, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]);
        let shuffled = Order { shuffle: true, ..plain };
        let rows: Vec<usize> = (0..10).map(|row| shuffled.block_of_row(row)).collect();
        assert_eq!(rows, [epoch(9, 0, 5), epoch(9, 1, 5)].concat());
    }
}
