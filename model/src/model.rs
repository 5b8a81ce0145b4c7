//! What training, checkpoints, evaluation and the program need to know of a model, whatever its architecture.

use handloom_engine::tensor::Tensor;

use crate::config::ObjectiveKind;
use crate::error::Result;
use crate::layers::Forward;
use crate::objective::Batch;
use crate::params::Params;

/// A batch's loss and how often the model was right.
pub struct Score {
    /// Mean loss per counted target in nats, an f32 scalar on the forward pass's tape.
    pub loss: Tensor,
    /// Counted targets that got the largest logit.
    pub hits: usize,
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

    /// Tensors of the model's file that nothing here computes with, by name: written again as they were read.
    fn kept(&self) -> &[(String, Tensor)] {
        &[]
    }
}
