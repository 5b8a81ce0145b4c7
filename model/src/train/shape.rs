//! The shapes of a step's batches on a GPU: alike from step to step, so that one captured graph serves them all.

use handloom_engine::dtype::DType;
use handloom_engine::tensor::Tensor;

use crate::config::{ObjectiveConfig, ObjectiveKind, RunConfig};
use crate::error::{Error, Result};
use crate::model::LanguageModel;
use crate::objective::{Batch, Chosen};

/// What decides whether a captured step may be replayed: for each batch the sizes of ids, of what may be missing (key mask, segments),
/// and of the chosen rows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shape(Vec<[Option<Vec<usize>>; 4]>);

impl Shape {
    pub(super) fn of(batches: &[Batch]) -> Self {
        let size = |tensor: &Tensor| Some(tensor.shape().to_vec());
        let of = |batch: &Batch| {
            [
                size(&batch.ids),
                batch.key_mask.as_ref().and_then(size),
                batch.segment_ids.as_ref().and_then(size),
                batch.chosen.as_ref().and_then(|chosen| size(&chosen.rows)),
            ]
        };
        Shape(batches.iter().map(of).collect())
    }
}

/// A masked language model's batch with as many chosen rows as any other of its size: filled up to [`capacity`], and beyond that to
/// twice, four times as many (such a step has another shape, and is launched kernel by kernel). Rows with padding always have a mask.
pub(super) fn masked_in_one_shape(batch: &Batch, config: &RunConfig) -> Result<Batch> {
    let mut batch = batch.map(|tensor| Ok(tensor.clone()))?;
    let positions = batch.ids.numel();
    let chosen = batch.chosen.take().map_or_else(|| Chosen::of(&batch.targets), Ok)?;
    let mut room = capacity(positions, &config.objective);
    while room < chosen.rows.numel() {
        room = (2 * room).min(positions);
    }
    batch.chosen = Some(chosen.padded(room)?);
    if batch.key_mask.is_none() && !config.train.pack {
        batch.key_mask = Some(Tensor::from_slice(&vec![1i32; positions], batch.ids.shape())?);
    }
    Ok(batch)
}

/// Rows that are set aside for the chosen ones of so many positions, each chosen with probability `mask_prob`: four standard deviations
/// above the mean, in whole sixteens, at most all. One batch in 30,000 has more. Whole words fall together: about four pieces at a time
/// at most, twice the deviation.
fn capacity(positions: usize, objective: &ObjectiveConfig) -> usize {
    let (n, p) = (positions as f64, objective.mask_prob);
    let deviation = (n * p * (1.0 - p)).sqrt() * if objective.whole_word { 2.0 } else { 1.0 };
    ((n * p + 4.0 * deviation).ceil() as usize).max(1).next_multiple_of(16).min(positions.max(1))
}

/// A batch of this run's sizes without contents.
pub(super) fn planned_batch(model: &dyn LanguageModel, config: &RunConfig) -> Result<Batch> {
    let shape = [config.train.batch, config.data.block];
    let device = model.params().device();
    let numbers = |shape: &[usize]| Tensor::empty(shape, DType::I32, device);
    let masked = model.objective() == ObjectiveKind::Mlm;
    let rows = [capacity(shape[0] * shape[1], &config.objective)];
    let chosen = || Ok::<_, Error>(Chosen { rows: numbers(&rows)?, targets: numbers(&rows)? });
    Ok(Batch {
        ids: numbers(&shape)?,
        targets: numbers(&shape)?,
        counted: 0,
        key_mask: (masked && !config.train.pack).then(|| numbers(&shape)).transpose()?,
        segment_ids: None,
        chosen: masked.then(chosen).transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_four_deviations_above_the_mean_and_at_most_all() {
        let with =
            |mask_prob, whole_word| ObjectiveConfig { mask_prob, whole_word, ..ObjectiveConfig::default() };
        // 4096 positions, 15 %: mean 614.4, deviation 22.85; 705.8 in whole sixteens.
        assert_eq!(capacity(4096, &with(0.15, false)), 720);
        assert_eq!(capacity(4096, &with(0.15, true)), 800);
        assert_eq!(capacity(26, &with(0.15, false)), 16);
        assert_eq!(capacity(9, &with(0.15, false)), 9);
        assert_eq!(capacity(100, &with(1.0, false)), 100);
        assert_eq!(capacity(100, &with(0.0, false)), 16);
    }
}
