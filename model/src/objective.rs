//! Objectives: from blocks of tokens to what the model sees and what it must predict.

use handloom_engine::ops::cross_entropy::{IGNORE_INDEX, count_targets};
use handloom_engine::tensor::Tensor;

use crate::data::Blocks;
use crate::error::Result;

/// A causal language model's batch: `targets[t] = ids[t + 1]`, nothing to predict after the last token of a row.
pub struct Batch {
    /// (B, T) i32.
    pub ids: Tensor,
    /// (B, T) i32.
    pub targets: Tensor,
    /// Targets that count.
    pub counted: usize,
}

impl Batch {
    /// Reads the blocks of these numbers.
    pub fn causal(blocks: &Blocks, rows: impl ExactSizeIterator<Item = usize>) -> Result<Self> {
        let (batch, time) = (rows.len(), blocks.block());
        let mut ids = vec![0i32; batch * time];
        for (row, block) in ids.chunks_exact_mut(time).zip(rows) {
            blocks.fill(block, row);
        }
        Self::causal_from_ids(&ids, batch, time)
    }

    /// From ids (batch, time) at hand.
    pub fn causal_from_ids(ids: &[i32], batch: usize, time: usize) -> Result<Self> {
        let mut targets = vec![IGNORE_INDEX; batch * time];
        for (targets, ids) in targets.chunks_exact_mut(time).zip(ids.chunks_exact(time)) {
            targets[..time - 1].copy_from_slice(&ids[1..]);
        }
        let counted = count_targets(&targets);
        Ok(Batch {
            ids: Tensor::from_slice(ids, &[batch, time])?,
            targets: Tensor::from_slice(&targets, &[batch, time])?,
            counted,
        })
    }
}
