//! Philox 4x32-10, the counter-based generator behind dropout, initialisation and sampling.
//!
//! Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. A draw is a pure function of
//! (seed, stream, index): every device draws the same numbers in any order, and a resumed run continues the sequence.

const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Ten rounds of Philox 4x32 on one counter.
#[inline(always)]
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    let mut round = 0;
    while round < 10 {
        let p0 = MULTIPLIER[0] as u64 * c0 as u64;
        let p1 = MULTIPLIER[1] as u64 * c2 as u64;
        (c0, c1, c2, c3) = ((p1 >> 32) as u32 ^ c1 ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c3 ^ k1, p0 as u32);
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
        round += 1;
    }
    [c0, c1, c2, c3]
}

/// Maps 32 random bits to [0, 1) with 24-bit resolution.
#[inline(always)]
pub fn unit_f32(bits: u32) -> f32 {
    (bits >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// A stream of draws: `seed` names the run, `stream` what is drawn (an op's place in the model), `step` when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    pub seed: u64,
    pub stream: u32,
    pub step: u32,
}

impl Stream {
    /// The four words at position `index` of this stream.
    #[inline(always)]
    pub fn words(self, index: u64) -> [u32; 4] {
        philox4x32_10(
            [index as u32, (index >> 32) as u32, self.stream, self.step],
            [self.seed as u32, (self.seed >> 32) as u32],
        )
    }

    /// A sequential reader over this stream, for code that draws a varying number of values.
    pub fn reader(self) -> Reader {
        Reader { stream: self, index: 0, buffer: [0; 4], left: 0 }
    }
}

/// Draws one value after another from a [`Stream`].
#[derive(Clone, Debug)]
pub struct Reader {
    stream: Stream,
    index: u64,
    buffer: [u32; 4],
    left: usize,
}

impl Reader {
    /// 32 uniform bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.left == 0 {
            self.buffer = self.stream.words(self.index);
            self.index += 1;
            self.left = 4;
        }
        self.left -= 1;
        self.buffer[3 - self.left]
    }

    /// Uniform in [0, 1), 24-bit resolution.
    pub fn uniform(&mut self) -> f32 {
        unit_f32(self.next_u32())
    }

    /// Uniform in [0, 1), 53-bit resolution.
    pub fn uniform_f64(&mut self) -> f64 {
        let bits = (self.next_u32() as u64) << 32 | self.next_u32() as u64;
        (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Standard normal, by Box and Muller's transform in f64.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform_f64()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform_f64()).cos()
    }

    /// Uniform in 0..n without bias (Lemire's multiply-and-reject).
    pub fn below(&mut self, n: u32) -> u32 {
        assert!(n > 0, "bug in handloom-engine: below(0) has no values");
        loop {
            let product = self.next_u32() as u64 * n as u64;
            if (product as u32) >= n.wrapping_neg() % n {
                return (product >> 32) as u32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_of_the_paper() {
        // kat_vectors of the authors' Random123 library, philox4x32 10.
        let f = u32::MAX;
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(philox4x32_10([f; 4], [f; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            philox4x32_10([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn normal_has_the_moments_of_a_normal() {
        let mut reader = Stream { seed: 7, stream: 1, step: 0 }.reader();
        let n = 200_000;
        let draws: Vec<f64> = (0..n).map(|_| reader.normal()).collect();
        let moment = |p: i32| draws.iter().map(|x| x.powi(p)).sum::<f64>() / n as f64;
        // Standard errors: 1/sqrt(n), sqrt(2/n), sqrt(96/n); bounds are 5 of them.
        assert!(moment(1).abs() < 5.0 * 0.00224, "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < 5.0 * 0.00317, "variance {}", moment(2));
        assert!((moment(4) - 3.0).abs() < 5.0 * 0.0219, "fourth moment {}", moment(4));
    }

    #[test]
    fn below_is_uniform() {
        let mut reader = Stream { seed: 3, stream: 0, step: 0 }.reader();
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[reader.below(7) as usize] += 1;
        }
        // Chi-square with 6 degrees of freedom: 99.9 % below 22.46.
        let chi: f64 = counts.iter().map(|&c| (c as f64 - 1e4).powi(2) / 1e4).sum();
        assert!(chi < 22.46, "{counts:?}");
    }
}
