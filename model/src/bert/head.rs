//! BERT's masked-language-model head: a transform, then the vocabulary projection with its bias.

use handloom_engine::error::Result;
use handloom_engine::ops::gelu::Gelu;
use handloom_engine::ops::linear_cross_entropy::{Scored, linear_cross_entropy_scored};
use handloom_engine::ops::matmul::{Epilogue, WeightLayout, linear};
use handloom_engine::tensor::Tensor;

use super::BertConfig;
use crate::layers::{Forward, LayerNorm, Linear};
use crate::params::{Kind, ParamId, Params};

/// logits = layernorm(gelu(dense(x))) decoder^T + bias.
#[derive(Clone, Copy, Debug)]
pub struct MlmHead {
    transform: Linear,
    norm: LayerNorm,
    /// (V, C); the token embedding when tied.
    decoder: ParamId,
    /// (V).
    bias: ParamId,
    gelu: Gelu,
}

impl MlmHead {
    pub(super) fn new(params: &mut Params, config: &BertConfig, word: ParamId) -> Self {
        let (width, vocab) = (config.hidden_size, config.vocab_size);
        let name = |part: &str| format!("cls.predictions.{part}");
        let bias = params.add(name("bias"), Kind::Bias, &[vocab]);
        let transform = Linear::dense(params, &name("transform.dense"), width, width);
        let eps = config.layer_norm_eps as f32;
        let norm = LayerNorm::new(params, &name("transform.LayerNorm"), width, eps);
        let decoder = if config.tie_word_embeddings {
            word
        } else {
            let kind = Kind::Weight { fan_in: width, fan_out: vocab };
            params.add(name("decoder.weight"), kind, &[vocab, width])
        };
        MlmHead { transform, norm, decoder, bias, gelu: config.gelu() }
    }

    /// The bias's id, when files hold it under the decoder's name too: `transformers` does not tie the two when it does
    /// not tie the decoder, and computes with that one.
    pub(super) fn untied_bias(&self, config: &BertConfig) -> Option<ParamId> {
        (!config.tie_word_embeddings).then_some(self.bias)
    }

    fn transformed(&self, fwd: &Forward, x: &Tensor) -> Result<Tensor> {
        let activated = self.transform.forward(&fwd.weights, x, Epilogue::Gelu(self.gelu))?;
        self.norm.forward(&fwd.weights, &activated)
    }

    /// Logits (..., V) of hidden states (..., C).
    pub fn logits(&self, fwd: &Forward, x: &Tensor) -> Result<Tensor> {
        let w = &fwd.weights;
        let transformed = self.transformed(fwd, x)?;
        linear(&transformed, w.get(self.decoder), Some(w.get(self.bias)), WeightLayout::OutIn, Epilogue::None)
    }

    /// Mean loss and hits of hidden states (N, C) against targets (N).
    pub fn score(&self, fwd: &Forward, x: &Tensor, targets: &Tensor, divisor: Option<f64>) -> Result<Scored> {
        let w = &fwd.weights;
        let transformed = self.transformed(fwd, x)?;
        let bias = Some(w.get(self.bias));
        linear_cross_entropy_scored(&transformed, w.get(self.decoder), bias, targets, divisor)
    }
}
