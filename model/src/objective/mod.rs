//! Objectives: from blocks of tokens to what the model sees and what it must predict.

mod masked;

pub use masked::{Draw, Masking};

use std::ops::Range;

use handloom_engine::device::Device;
use handloom_engine::ops::cross_entropy::{IGNORE_INDEX, count_targets};
use handloom_engine::tensor::Tensor;

use crate::config::{ObjectiveKind, RunConfig};
use crate::data::{Blocks, Frame, Layout, Order};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

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
    /// The positions that count, where a model looks at no others; `None` leaves it to the model to find them, on the CPU.
    pub chosen: Option<Chosen>,
}

/// The positions that count and what is to be predicted there.
#[derive(Clone)]
pub struct Chosen {
    /// (K) i32, rows of the flattened (B * T) positions, ascending.
    pub rows: Tensor,
    /// (K) i32.
    pub targets: Tensor,
}

impl Chosen {
    /// Those of targets on the CPU. Where none counts, one that does not count: every parameter then still gets its gradient, which
    /// is 0.
    ///
    /// # Errors
    /// When the targets are on a GPU or not i32.
    pub fn of(targets: &Tensor) -> Result<Self> {
        let targets = handloom_engine::ops::view::contiguous(targets)?;
        let targets = targets.slice::<i32>()?;
        let mut rows: Vec<i32> =
            (0..targets.len() as i32).filter(|&row| targets[row as usize] != IGNORE_INDEX).collect();
        if rows.is_empty() && !targets.is_empty() {
            rows.push(0);
        }
        let targets: Vec<i32> = rows.iter().map(|&row| targets[row as usize]).collect();
        Ok(Chosen {
            rows: Tensor::from_slice(&rows, &[rows.len()])?,
            targets: Tensor::from_slice(&targets, &[targets.len()])?,
        })
    }

    /// The same, filled up to `len` with a row that does not count; a GPU's steps then have one shape. Loss, hits and gradients are
    /// those without: an ignored row adds 0.
    ///
    /// # Errors
    /// When there are more than `len`, or they are not on the CPU.
    pub fn padded(&self, len: usize) -> Result<Self> {
        let fill = |tensor: &Tensor, with: i32| {
            let mut values = tensor.slice::<i32>()?.to_vec();
            values.resize(len, with);
            Tensor::from_slice(&values, &[len])
        };
        if len < self.rows.numel() {
            let message =
                format!("bug in handloom-model: {} chosen rows in a place for {len}", self.rows.numel());
            return Err(Error::Run(message));
        }
        Ok(Chosen { rows: fill(&self.rows, 0)?, targets: fill(&self.targets, IGNORE_INDEX)? })
    }
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
            chosen: None,
        })
    }

    /// The batch with each of its tensors replaced by what `f` makes of it, always in the same order.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn map(&self, mut f: impl FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let (ids, targets) = (f(&self.ids)?, f(&self.targets)?);
        let key_mask = self.key_mask.as_ref().map(&mut f).transpose()?;
        let segment_ids = self.segment_ids.as_ref().map(&mut f).transpose()?;
        let chosen = match &self.chosen {
            Some(Chosen { rows, targets }) => Some(Chosen { rows: f(rows)?, targets: f(targets)? }),
            None => None,
        };
        Ok(Batch { ids, targets, counted: self.counted, key_mask, segment_ids, chosen })
    }

    /// The batch on another device.
    ///
    /// # Errors
    /// When a GPU has no room for it.
    pub fn to_device(&self, device: Device) -> Result<Self> {
        self.map(|tensor| Ok(tensor.to_device(device)?))
    }

    /// Whether all ids and targets are tokens of a vocabulary; on the CPU, where looking costs next to nothing.
    ///
    /// # Errors
    /// [`Error::Run`] naming the first that is not.
    pub fn check_ids(&self, vocab: usize) -> Result<()> {
        let time = self.ids.shape().last().copied().unwrap_or(1).max(1);
        let (ids, targets) = (self.ids.slice::<i32>()?, self.targets.slice::<i32>()?);
        let outside = |id: i32| usize::try_from(id).map_or(true, |id| id >= vocab);
        let bad = |(_, id): &(usize, &i32)| outside(**id);
        let bad_target = |(_, id): &(usize, &i32)| **id != IGNORE_INDEX && outside(**id);
        let found = ids.iter().enumerate().find(bad).map(|found| ("token", found));
        let found =
            found.or_else(|| targets.iter().enumerate().find(bad_target).map(|found| ("target", found)));
        match found {
            None => Ok(()),
            Some((what, (at, id))) => Err(Error::Run(format!(
                "{what} {id} at position {} of row {} of the batch is outside the model's vocabulary of {vocab}; data and model do \
                 not belong together",
                at % time,
                at / time
            ))),
        }
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

    /// A masked language model's batch: block numbers, each with the draws that mask it.
    pub fn masked(
        blocks: &Blocks,
        rows: impl ExactSizeIterator<Item = (usize, Draw)>,
        masking: &Masking,
    ) -> Result<Self> {
        let (batch, time) = (rows.len(), blocks.block());
        let mut ids = vec![0i32; batch * time];
        let mut targets = Vec::with_capacity(batch * time);
        let mut seen = vec![1i32; batch * time];
        for ((ids, seen), (block, draw)) in
            ids.chunks_exact_mut(time).zip(seen.chunks_exact_mut(time)).zip(rows)
        {
            let used = blocks.fill(block, ids);
            seen[used..].fill(0);
            targets.extend(masking.apply(&mut ids[..used], draw));
            targets.resize(targets.len() + time - used, IGNORE_INDEX);
        }
        let key_mask = seen.contains(&0).then(|| Tensor::from_slice(&seen, &[batch, time])).transpose()?;
        let batch = Self::new(&ids, &targets, time)?;
        Ok(Batch { key_mask, chosen: Some(Chosen::of(&batch.targets)?), ..batch })
    }
}

/// An objective with all it needs to make batches.
pub enum Objective {
    /// Each token from those before it.
    Causal,
    /// Some tokens from all the others.
    Masked {
        masking: Masking,
        layout: Layout,
        /// Of the training masks.
        seed: u64,
    },
}

impl Objective {
    /// The objective of a run.
    ///
    /// # Errors
    /// Those of [`Masking::new`] and [`Frame::of`].
    pub fn new(config: &RunConfig, tokenizer: &Tokenizer) -> Result<Self> {
        match config.objective.kind {
            ObjectiveKind::Clm => Ok(Objective::Causal),
            ObjectiveKind::Mlm => {
                let masking = Masking::new(&config.objective, tokenizer)?;
                let frame = Frame::of(tokenizer)?;
                let layout = if config.train.pack { Layout::Framed(frame) } else { Layout::Padded(frame) };
                Ok(Objective::Masked { masking, layout, seed: config.train.seed })
            }
        }
    }

    /// How rows of data have to be laid out for it.
    pub fn layout(&self) -> Layout {
        match self {
            Objective::Causal => Layout::Plain,
            Objective::Masked { layout, .. } => *layout,
        }
    }

    /// Which objective this is.
    pub fn kind(&self) -> ObjectiveKind {
        match self {
            Objective::Causal => ObjectiveKind::Clm,
            Objective::Masked { .. } => ObjectiveKind::Mlm,
        }
    }

    /// The batch of these rows of a run, rows counted over all epochs.
    pub fn training_batch(&self, blocks: &Blocks, order: &Order, rows: Range<u64>) -> Result<Batch> {
        let numbered: Vec<(u64, usize)> = rows.map(|row| (row, order.block_of_row(row))).collect();
        match self {
            Objective::Causal => Batch::causal(blocks, numbered.into_iter().map(|(_, block)| block)),
            Objective::Masked { masking, seed, .. } => {
                let draw = |(row, block)| (block, Draw::Training { seed: *seed, row });
                Batch::masked(blocks, numbered.into_iter().map(draw), masking)
            }
        }
    }

    /// The batch of these blocks for evaluation: the same at every call.
    pub fn evaluation_batch(&self, blocks: &Blocks, numbers: Range<usize>) -> Result<Batch> {
        match self {
            Objective::Causal => Batch::causal(blocks, numbers),
            Objective::Masked { masking, .. } => {
                let draw = |block| (block, Draw::Evaluation { block: block as u64 });
                Batch::masked(blocks, numbers.map(draw), masking)
            }
        }
    }
}
