//! What training, checkpoints, evaluation and the program need to know of a model, whatever its architecture.

use handloom_engine::tensor::Tensor;

use crate::bert::Bert;
use crate::config::{ModelKind, ObjectiveKind, RunConfig};
use crate::error::Result;
use crate::gpt2::Gpt2;
use crate::layers::Forward;
use crate::objective::Batch;
use crate::params::Params;

/// A freshly initialised model of this configuration. `end_of_text` and `pad` are noted in its `config.json`.
///
/// # Errors
/// When the sizes of `[model]` do not fit together.
pub fn new(
    config: &RunConfig,
    vocab_size: usize,
    end_of_text: Option<u32>,
    pad: Option<u32>,
) -> Result<Box<dyn LanguageModel>> {
    let (init, seed) = (config.model.init, config.train.seed);
    match config.model.kind {
        ModelKind::Gpt2 => {
            let mut model = Gpt2::new(config.gpt2(vocab_size, end_of_text))?;
            model.initialise(init, seed)?;
            Ok(Box::new(model))
        }
        ModelKind::Bert => {
            let mut model = Bert::new(config.bert(vocab_size, pad))?;
            model.initialise(init, seed)?;
            Ok(Box::new(model))
        }
    }
}

/// A batch's loss and how often the model was right.
pub struct Score {
    /// Mean loss per counted target in nats, an f32 scalar on the forward pass's tape.
    pub loss: Tensor,
    /// Counted targets that got the largest logit, ties included: an i32 scalar where the model computes.
    pub hits: Tensor,
}

/// A model that can be trained. Code that generates or looks inside takes the model's own type.
pub trait LanguageModel: Send {
    fn params(&self) -> &Params;

    fn params_mut(&mut self) -> &mut Params;

    /// The loss of a batch, recorded on `fwd`'s tape when it has one. `divisor` replaces the number of counted targets
    /// (accumulation over micro-batches).
    ///
    /// # Errors
    /// When the batch's ids leave the vocabulary or its rows the context.
    fn score(&self, fwd: &Forward, batch: &Batch, divisor: Option<f64>) -> Result<Score>;

    /// The objective that this architecture is made for.
    fn objective(&self) -> ObjectiveKind;

    /// The model's `config.json`.
    fn config_json(&self) -> String;

    /// Rows of the token embedding.
    fn vocab_size(&self) -> usize;

    /// Longest sequence in tokens.
    fn context(&self) -> usize;

    /// Architecture and sizes in one line.
    fn describe(&self) -> String;

    /// Parameters that the model's file holds once more, under a second name.
    fn aliases(&self) -> Vec<(String, &Tensor)> {
        Vec::new()
    }

    /// Tensors of the model's file that nothing here computes with, by name: written again as they were read.
    fn kept(&self) -> &[(String, Tensor)] {
        &[]
    }
}
