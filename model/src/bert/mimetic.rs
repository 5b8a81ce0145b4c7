//! A start that resembles trained attention (`model.init = "mimetic"`), for runs too small to find it by themselves.
//!
//! A masked token knows nothing of itself: all it can go by comes through attention, and from small random weights
//! attention is an average over the whole row, which tells little. A small run can stay with the frequencies of words for
//! thousands of steps before a head finds a neighbour to look at. Trockman and Kolter (2023, arXiv:2305.09828) start a
//! Transformer's attention from what is found in trained ones instead: query times key near a multiple of the identity, value
//! times output near another. Of what is found in trained BERTs, this takes the heads that look at the token before or after
//! (Clark et al. 2019, arXiv:1906.04341, section 3.1):
//!
//! - **Positions** start as sines and cosines, for which a shift is a rotation (Vaswani et al. 2017, section 3.5):
//!   R(o) position\[t\] = position\[t + o\]. They fill the first r = head size (made even) of the C features, with as much energy as
//!   the token table has in all of them. The frequencies pi ((j + 1/2) / (r / 2))^2, j < r / 2, spread over 0..pi: the product of
//!   two positions falls off quickly with their distance and has no second peak.
//! - **Query and key** of head h of the first block, on those features: query = sqrt(a) R(o_h), key = sqrt(a) I, with the
//!   offsets o = -1, +1, -2, +2, ... and a such that the score of the position looked at is [`PEAK`].
//! - **Output** of every block is the transpose of value, both of a size that makes output value close to [`COPIED`] I:
//!   attention adds a part of what it looks at.
//!
//! Everything else, and a tenth of the positions' and segments' usual draws, is as with `init = "gpt2"`.

use handloom_engine::error::Result;
use handloom_engine::tensor::Tensor;

use crate::params::{ParamId, Params};

/// Score, after the division by sqrt(head size), between a query and the key it is meant for. At 6 and T = 128 a head gives
/// half its weight to that key.
const PEAK: f64 = 6.0;
/// Factor of the identity that output times value is close to.
const COPIED: f64 = 0.4;
/// What is left of the drawn position and segment tables.
const REMAINDER: f32 = 0.1;

/// The parameters this changes, drawn as with `init = "gpt2"` before.
pub(super) struct Mimetic {
    /// Width C, a multiple of `heads`.
    pub width: usize,
    pub heads: usize,
    /// Standard deviation of the token table.
    pub std: f64,
    /// (rows, C).
    pub position: ParamId,
    pub segment: ParamId,
    /// Query and key of the first block, (C, C).
    pub first: [ParamId; 2],
    /// Value and output of every block, (C, C).
    pub blocks: Vec<[ParamId; 2]>,
}

impl Mimetic {
    pub(super) fn apply(&self, params: &mut Params) -> Result<()> {
        let (width, head_size) = (self.width, self.width / self.heads);
        let pairs = head_size / 2;
        let frequencies: Vec<f64> =
            (0..pairs).map(|j| std::f64::consts::PI * ((j as f64 + 0.5) / pairs as f64).powi(2)).collect();

        for table in [self.position, self.segment] {
            values(params, table)?.iter_mut().for_each(|x| *x *= REMAINDER);
        }
        // pairs * amplitude^2 = C std^2: as long as a token's vector.
        let amplitude = self.std * (width as f64 / pairs.max(1) as f64).sqrt();
        for (t, row) in values(params, self.position)?.chunks_exact_mut(width).enumerate() {
            for (pair, frequency) in row.chunks_exact_mut(2).zip(&frequencies) {
                let (sin, cos) = (frequency * t as f64).sin_cos();
                pair[0] += (amplitude * sin) as f32;
                pair[1] += (amplitude * cos) as f32;
            }
        }

        // Layernorm makes the sum of two vectors of equal length one of squared length C: C / 2 for the position.
        let scale = (PEAK * (head_size as f64).sqrt() / (width as f64 / 2.0)).sqrt();
        for (id, looks_away) in self.first.into_iter().zip([true, false]) {
            let weight = values(params, id)?;
            for head in 0..self.heads {
                let offset = if looks_away { offset_of(head) } else { 0.0 };
                for (j, frequency) in frequencies.iter().enumerate() {
                    let (sin, cos) = (frequency * offset).sin_cos();
                    let at = (head * head_size + 2 * j) * width + 2 * j;
                    weight[at] += (scale * cos) as f32;
                    weight[at + 1] += (scale * sin) as f32;
                    weight[at + width] -= (scale * sin) as f32;
                    weight[at + width + 1] += (scale * cos) as f32;
                }
            }
        }

        // A matrix of deviation 1 / sqrt(C) times its transpose is the identity on average.
        let to_copy = ((COPIED / width as f64).sqrt() / self.std) as f32;
        for &[value, output] in &self.blocks {
            let value = values(params, value)?;
            value.iter_mut().for_each(|x| *x *= to_copy);
            let value = value.to_vec();
            for (row, output) in values(params, output)?.chunks_exact_mut(width).enumerate() {
                output.iter_mut().enumerate().for_each(|(col, x)| *x = value[col * width + row]);
            }
        }
        Ok(())
    }
}

/// -1, +1, -2, +2, ...
fn offset_of(head: usize) -> f64 {
    let distance = (head / 2 + 1) as f64;
    if head.is_multiple_of(2) { -distance } else { distance }
}

fn values(params: &mut Params, id: ParamId) -> Result<&mut [f32]> {
    let value: &mut Tensor = &mut params.get_mut(id).value;
    value.slice_mut::<f32>()
}
