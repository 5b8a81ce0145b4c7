//! The layers models are built from: parameter ids and a forward function each.

use handloom_engine::error::Result;
use handloom_engine::ops;
use handloom_engine::ops::gelu::Gelu;
use handloom_engine::ops::matmul::{Epilogue, WeightLayout};
use handloom_engine::philox::Stream;
use handloom_engine::tape::Tape;
use handloom_engine::tensor::Tensor;

use crate::params::{Kind, ParamId, Params, Weights};

/// What a forward pass needs besides its inputs.
#[derive(Clone)]
pub struct Forward {
    pub weights: Weights,
    pub tape: Option<Tape>,
    /// Where dropout draws from; `None` switches it off.
    pub dropout: Option<DropoutSource>,
    /// Recompute each block's inner activations in backward instead of keeping them.
    pub recompute: bool,
}

/// Names the draws of one micro-batch.
#[derive(Clone, Copy, Debug)]
pub struct DropoutSource {
    pub seed: u64,
    /// Micro-batches since the start of training.
    pub step: u32,
}

impl Forward {
    /// Without a tape and without dropout.
    pub fn inference(params: &Params) -> Self {
        Forward { weights: params.bind(None), tape: None, dropout: None, recompute: false }
    }

    /// With a new tape.
    pub fn training(params: &Params, dropout: DropoutSource, recompute: bool) -> Self {
        let tape = Tape::new();
        Forward { weights: params.bind(Some(&tape)), tape: Some(tape), dropout: Some(dropout), recompute }
    }

    /// Dropout's probability and stream at place `site` of the model; `None` when it is off.
    pub fn dropout_at(&self, drop_prob: f32, site: u32) -> Option<(f32, Stream)> {
        let source = self.dropout.filter(|_| drop_prob > 0.0)?;
        Some((drop_prob, Stream { seed: source.seed, stream: site, step: source.step }))
    }

    /// Drops out at place `site`.
    pub fn dropout(&self, x: &Tensor, drop_prob: f32, site: u32) -> Result<Tensor> {
        match self.dropout_at(drop_prob, site) {
            Some((drop_prob, stream)) => ops::dropout::dropout(x, drop_prob, stream),
            None => Ok(x.clone()),
        }
    }
}

/// y = x W + b.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    pub weight: ParamId,
    pub bias: Option<ParamId>,
    pub layout: WeightLayout,
}

impl Linear {
    /// GPT-2's Conv1D: weight (in, out). `residual` marks projections into the residual stream.
    pub(crate) fn conv1d(
        params: &mut Params,
        name: &str,
        fan_in: usize,
        fan_out: usize,
        residual: bool,
    ) -> Self {
        let kind = if residual {
            Kind::ResidualWeight { fan_in, fan_out }
        } else {
            Kind::Weight { fan_in, fan_out }
        };
        let weight = params.add(format!("{name}.weight"), kind, &[fan_in, fan_out]);
        let bias = params.add(format!("{name}.bias"), Kind::Bias, &[fan_out]);
        Linear { weight, bias: Some(bias), layout: WeightLayout::InOut }
    }

    /// PyTorch's Linear: weight (out, in).
    pub(crate) fn dense(params: &mut Params, name: &str, fan_in: usize, fan_out: usize) -> Self {
        let kind = Kind::Weight { fan_in, fan_out };
        let weight = params.add(format!("{name}.weight"), kind, &[fan_out, fan_in]);
        let bias = params.add(format!("{name}.bias"), Kind::Bias, &[fan_out]);
        Linear { weight, bias: Some(bias), layout: WeightLayout::OutIn }
    }

    pub fn forward(&self, weights: &Weights, x: &Tensor, epilogue: Epilogue) -> Result<Tensor> {
        let bias = self.bias.map(|bias| weights.get(bias));
        ops::matmul::linear(x, weights.get(self.weight), bias, self.layout, epilogue)
    }

    /// residual + second(gelu(self(x))).
    pub fn mlp(
        &self,
        weights: &Weights,
        x: &Tensor,
        form: Gelu,
        second: &Linear,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let [first, second] = [self, second].map(|linear| ops::matmul::Weights {
            weight: weights.get(linear.weight),
            bias: linear.bias.map(|bias| weights.get(bias)),
            layout: linear.layout,
        });
        ops::matmul::mlp(x, first, form, second, residual)
    }
}

/// Layer normalisation with weight and bias.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm {
    pub weight: ParamId,
    pub bias: ParamId,
    pub eps: f32,
}

impl LayerNorm {
    pub(crate) fn new(params: &mut Params, name: &str, width: usize, eps: f32) -> Self {
        LayerNorm {
            weight: params.add(format!("{name}.weight"), Kind::Scale, &[width]),
            bias: params.add(format!("{name}.bias"), Kind::Bias, &[width]),
            eps,
        }
    }

    pub fn forward(&self, weights: &Weights, x: &Tensor) -> Result<Tensor> {
        ops::layernorm::layernorm(x, weights.get(self.weight), weights.get(self.bias), self.eps)
    }

    /// (h, y) with h = residual + branch, y = norm(h).
    pub fn residual_forward(
        &self,
        weights: &Weights,
        residual: &Tensor,
        branch: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let (weight, bias) = (weights.get(self.weight), weights.get(self.bias));
        ops::layernorm::residual_layernorm(residual, branch, weight, bias, self.eps)
    }
}
