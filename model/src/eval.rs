//! Loss and perplexity over a data set.

use handloom_engine::device::Device;
use serde::Serialize;

use crate::config::ObjectiveKind;
use crate::data::Blocks;
use crate::error::Result;
use crate::layers::Forward;
use crate::model::LanguageModel;
use crate::objective::Objective;

/// What an evaluation found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Mean loss per predicted token, in nats.
    pub loss: f64,
    /// e^loss.
    pub perplexity: f64,
    /// Predicted tokens.
    pub tokens: usize,
    /// Of a masked language model: the share of predicted tokens that got the largest logit, ties included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masked_accuracy: Option<f64>,
}

/// Evaluates on all blocks, `batch` rows at a time. Dropout is off; the result does not depend on `batch` beyond rounding.
/// `on_batch(done, all)` is told the rows done.
///
/// # Errors
/// When an id is outside the vocabulary, a GPU has no room, or the data cannot be read.
pub fn evaluate(
    model: &dyn LanguageModel,
    objective: &Objective,
    blocks: &Blocks,
    batch: usize,
    mut on_batch: impl FnMut(usize, usize),
) -> Result<Evaluation> {
    let (fwd, device) = (Forward::inference(model.params()), model.params().device());
    let (mut total, mut tokens, mut hits) = (0.0f64, 0, 0);
    for first in (0..blocks.num_blocks()).step_by(batch) {
        let rows = first..(first + batch).min(blocks.num_blocks());
        on_batch(rows.end, blocks.num_blocks());
        let batch = objective.evaluation_batch(blocks, rows)?;
        batch.check_ids(model.vocab_size())?;
        let batch = batch.to_device(device)?;
        let score = model.score(&fwd, &batch, None)?;
        total += score.loss.item()? as f64 * batch.counted as f64;
        tokens += batch.counted;
        hits += score.hits.item()? as usize;
        if let Device::Cuda(gpu) = device {
            gpu.gpu().check_ids().map_err(handloom_engine::error::Error::from)?;
        }
    }
    let per_token = |sum: f64| sum / tokens.max(1) as f64;
    let loss = per_token(total);
    let masked = objective.kind() == ObjectiveKind::Mlm;
    let masked_accuracy = masked.then(|| per_token(hits as f64));
    Ok(Evaluation { loss, perplexity: loss.exp(), tokens, masked_accuracy })
}
