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
