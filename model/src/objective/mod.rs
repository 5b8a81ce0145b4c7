//! Objectives: from blocks of tokens to what the model sees and what it must predict.

use std::ops::Range;

use handloom_engine::ops::cross_entropy::{IGNORE_INDEX, count_targets};
use handloom_engine::tensor::Tensor;

use crate::config::ObjectiveKind;
use crate::data::{Blocks, Order};
use crate::error::Result;

/// What a model sees and what it must predict.
pub struct Batch {
    /// (B, T) i32.
    pub ids: Tensor,
    /// (B, T) i32; [`IGNORE_INDEX`] where nothing is to be predicted.
    pub targets: Tensor,
    /// Targets that count.
    pub counted: usize,
    /// (B, T) i32, 0 where a token is padding; `None` when none is.
    pub key_mask: Option<Tensor>,
    /// (B, T) i32, the segment of each token; `None` when all are in segment 0.
    pub segment_ids: Option<Tensor>,
}

impl Batch {
    /// From ids and targets, both rows of `time` tokens, without padding.
    pub fn new(ids: &[i32], targets: &[i32], time: usize) -> Result<Self> {
        let shape = [ids.len() / time.max(1), time];
        Ok(Batch {
            ids: Tensor::from_slice(ids, &shape)?,
            targets: Tensor::from_slice(targets, &shape)?,
            counted: count_targets(targets),
            key_mask: None,
            segment_ids: None,
        })
    }

    /// A causal language model's batch of the blocks of these numbers: `targets[t] = ids[t + 1]`, nothing to predict
    /// after the last token of a row.
    pub fn causal(blocks: &Blocks, rows: impl ExactSizeIterator<Item = usize>) -> Result<Self> {
        let (batch, time) = (rows.len(), blocks.block());
        let mut ids = vec![0i32; batch * time];
        for (row, block) in ids.chunks_exact_mut(time).zip(rows) {
            blocks.fill(block, row);
        }
        Self::causal_from_ids(&ids, batch, time)
    }

    /// As [`Batch::causal`], from ids (batch, time) at hand.
    pub fn causal_from_ids(ids: &[i32], batch: usize, time: usize) -> Result<Self> {
        let mut targets = vec![IGNORE_INDEX; batch * time];
        for (targets, ids) in targets.chunks_exact_mut(time).zip(ids.chunks_exact(time)) {
            targets[..time - 1].copy_from_slice(&ids[1..]);
        }
        Self::new(ids, &targets, time)
    }
}

/// An objective with all it needs to make batches.
pub enum Objective {
    /// Each token from those before it.
    Causal,
}

impl Objective {
    /// Which objective this is.
    pub fn kind(&self) -> ObjectiveKind {
        match self {
            Objective::Causal => ObjectiveKind::Clm,
        }
    }

    /// The batch of these rows of a run, rows counted over all epochs.
    pub fn training_batch(&self, blocks: &Blocks, order: &Order, rows: Range<u64>) -> Result<Batch> {
        let numbers: Vec<usize> = rows.map(|row| order.block_of_row(row)).collect();
        match self {
            Objective::Causal => Batch::causal(blocks, numbers.into_iter()),
        }
    }

    /// The batch of these blocks for evaluation: the same at every call.
    pub fn evaluation_batch(&self, blocks: &Blocks, numbers: Range<usize>) -> Result<Batch> {
        match self {
            Objective::Causal => Batch::causal(blocks, numbers),
        }
    }
}
