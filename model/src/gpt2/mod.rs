//! GPT-2: a decoder-only Transformer with learned positions and pre-layernorm blocks (Radford et al. 2019).
//!
//! ```text
//! x = wte[ids] + wpe[0..T]                      dropout
//! per block:  x = x + c_proj(attention(c_attn(ln_1(x))))   dropout on the weights and on the branch
//!             x = x + c_proj(gelu(c_fc(ln_2(x))))          dropout on the branch
//! logits = ln_f(x) wte^T                        (or a matrix of its own when untied)
//! ```

mod cache;
mod config;

pub use cache::KvCache;
pub use config::Gpt2Config;

use handloom_engine::error::Result as EngineResult;
use handloom_engine::ops::attention::Attention;
use handloom_engine::ops::gelu::Gelu;
use handloom_engine::ops::linear_cross_entropy::{Scored, linear_cross_entropy_scored};
use handloom_engine::ops::matmul::{Epilogue, WeightLayout};
use handloom_engine::ops::{self};
use handloom_engine::tensor::Tensor;

use crate::config::ObjectiveKind;
use crate::error::Result;
use crate::layers::{Forward, LayerNorm, Linear};
use crate::model::{LanguageModel, Score};
use crate::objective::Batch;
use crate::params::{InitOptions, Kind, ParamId, Params};

/// A GPT-2 model: its sizes, its parameters, and where each is used.
pub struct Gpt2 {
    pub config: Gpt2Config,
    pub params: Params,
    wte: ParamId,
    wpe: ParamId,
    blocks: Vec<Block>,
    ln_f: LayerNorm,
    /// (V, C); the same as `wte` when tied.
    lm_head: ParamId,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    /// Place in the model, for dropout's streams.
    index: u32,
    ln_1: LayerNorm,
    c_attn: Linear,
    attn_proj: Linear,
    ln_2: LayerNorm,
    c_fc: Linear,
    mlp_proj: Linear,
    heads: usize,
    gelu: Gelu,
    attn_drop_prob: f32,
    resid_drop_prob: f32,
}

/// Dropout places: one for the embedding, four per block (the fourth is unused).
fn site(block: u32, place: u32) -> u32 {
    1 + 4 * block + place
}

impl Gpt2 {
    /// A model with all parameters 0; load or [`Gpt2::initialise`] it.
    ///
    /// # Errors
    /// A configuration error when the sizes do not fit together.
    pub fn new(config: Gpt2Config) -> Result<Self> {
        config.validate()?;
        let mut params = Params::default();
        let width = config.n_embd;
        let eps = config.layer_norm_epsilon as f32;
        let wte = params.add("transformer.wte.weight".into(), Kind::Embedding, &[config.vocab_size, width]);
        let wpe = params.add("transformer.wpe.weight".into(), Kind::Embedding, &[config.n_positions, width]);
        let blocks = (0..config.n_layer)
            .map(|i| {
                let name = |part: &str| format!("transformer.h.{i}.{part}");
                let inner = config.inner();
                let params = &mut params;
                Block {
                    index: i as u32,
                    ln_1: LayerNorm::new(params, &name("ln_1"), width, eps),
                    c_attn: Linear::conv1d(params, &name("attn.c_attn"), width, 3 * width, false),
                    attn_proj: Linear::conv1d(params, &name("attn.c_proj"), width, width, true),
                    ln_2: LayerNorm::new(params, &name("ln_2"), width, eps),
                    c_fc: Linear::conv1d(params, &name("mlp.c_fc"), width, inner, false),
                    mlp_proj: Linear::conv1d(params, &name("mlp.c_proj"), inner, width, true),
                    heads: config.n_head,
                    gelu: config.gelu(),
                    attn_drop_prob: config.attn_pdrop as f32,
                    resid_drop_prob: config.resid_pdrop as f32,
                }
            })
            .collect();
        let ln_f = LayerNorm::new(&mut params, "transformer.ln_f", width, eps);
        let lm_head = if config.tie_word_embeddings {
            wte
        } else {
            let kind = Kind::Weight { fan_in: width, fan_out: config.vocab_size };
            params.add("lm_head.weight".into(), kind, &[config.vocab_size, width])
        };
        params.keep_indices(config.n_positions)?;
        Ok(Gpt2 { config, params, wte, wpe, blocks, ln_f, lm_head })
    }

    /// Draws the parameters from `seed`.
    pub fn initialise(&mut self, init: crate::params::Init, seed: u64) -> Result<()> {
        let (layers, width) = (self.config.n_layer, self.config.n_embd);
        let options = InitOptions { init, std: self.config.initializer_range, layers, width, seed };
        Ok(self.params.initialise(options)?)
    }

    /// The normalised last hidden state, (B, T, C).
    pub fn hidden(&self, fwd: &Forward, ids: &Tensor) -> Result<Tensor> {
        let (_, time) = ids.dims2("gpt2", "ids")?;
        self.check_fits(time)?;
        let mut x = self.embed(fwd, ids, &self.params.indices(0, time)?)?;
        for &block in &self.blocks {
            x = match (&fwd.tape, fwd.recompute) {
                (Some(tape), true) => {
                    // The tape holds this closure: it must not hold the tape.
                    let inner = Forward { tape: None, ..fwd.clone() };
                    tape.checkpoint(&x, move |x| block.forward(&inner, x))?
                }
                _ => block.forward(fwd, &x)?,
            };
        }
        Ok(self.ln_f.forward(&fwd.weights, &x)?)
    }

    fn check_fits(&self, tokens: usize) -> Result<()> {
        let context = self.config.n_positions;
        if tokens > context {
            return Err(crate::error::Error::Run(format!(
                "gpt2: {tokens} tokens do not fit the model's context of {context}"
            )));
        }
        Ok(())
    }

    /// Token plus position embeddings of ids (B, T) at `positions` (T).
    fn embed(&self, fwd: &Forward, ids: &Tensor, positions: &Tensor) -> Result<Tensor> {
        let tokens = ops::embedding::embedding(ids, fwd.weights.get(self.wte))?;
        let positions = ops::embedding::embedding(positions, fwd.weights.get(self.wpe))?;
        let x = ops::elementwise::add(&tokens, &positions)?;
        Ok(fwd.dropout(&x, self.config.embd_pdrop as f32, 0)?)
    }

    /// Mean next-token loss: targets (B, T) i32 as in [`ops::cross_entropy`]. `divisor` replaces the number of counted
    /// targets.
    pub fn loss(
        &self,
        fwd: &Forward,
        ids: &Tensor,
        targets: &Tensor,
        divisor: Option<f64>,
    ) -> Result<Tensor> {
        Ok(self.scored(fwd, ids, targets, divisor)?.loss)
    }

    fn scored(&self, fwd: &Forward, ids: &Tensor, targets: &Tensor, divisor: Option<f64>) -> Result<Scored> {
        let hidden = self.hidden(fwd, ids)?;
        let head = fwd.weights.get(self.lm_head);
        Ok(linear_cross_entropy_scored(&hidden, head, None, targets, divisor)?)
    }

    /// Logits (B, T, V) of every position.
    pub fn logits(&self, fwd: &Forward, ids: &Tensor) -> Result<Tensor> {
        let hidden = self.hidden(fwd, ids)?;
        self.project(fwd, &hidden)
    }

    fn project(&self, fwd: &Forward, hidden: &Tensor) -> Result<Tensor> {
        let head = fwd.weights.get(self.lm_head);
        Ok(ops::matmul::linear(hidden, head, None, WeightLayout::OutIn, Epilogue::None)?)
    }
}

impl LanguageModel for Gpt2 {
    fn params(&self) -> &Params {
        &self.params
    }

    fn params_mut(&mut self) -> &mut Params {
        &mut self.params
    }

    fn score(&self, fwd: &Forward, batch: &Batch, divisor: Option<f64>) -> Result<Score> {
        let Scored { loss, hits } = self.scored(fwd, &batch.ids, &batch.targets, divisor)?;
        Ok(Score { loss, hits })
    }

    fn objective(&self) -> ObjectiveKind {
        ObjectiveKind::Clm
    }

    fn config_json(&self) -> String {
        serde_json::to_string_pretty(&self.config).expect("bug in handloom-model: the config is JSON")
    }

    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn context(&self) -> usize {
        self.config.n_positions
    }

    fn describe(&self) -> String {
        let Gpt2Config { n_layer, n_head, n_embd, n_positions, .. } = &self.config;
        format!("GPT-2, {n_layer} layers, {n_head} heads, width {n_embd}, context {n_positions}")
    }
}

impl Block {
    fn forward(&self, fwd: &Forward, x: &Tensor) -> EngineResult<Tensor> {
        let w = &fwd.weights;
        let qkv = self.c_attn.forward(w, &self.ln_1.forward(w, x)?, Epilogue::None)?;
        let options = Attention {
            causal: true,
            dropout: fwd.dropout_at(self.attn_drop_prob, site(self.index, 0)),
            ..Attention::default()
        };
        let attended = ops::attention::attention_packed(&qkv, self.heads, &options)?;
        self.finish(fwd, x, &attended)
    }

    /// From attention's output to the block's.
    fn finish(&self, fwd: &Forward, x: &Tensor, attended: &Tensor) -> EngineResult<Tensor> {
        let w = &fwd.weights;
        let branch = self.attn_proj.forward(w, attended, Epilogue::None)?;
        let branch = fwd.dropout(&branch, self.resid_drop_prob, site(self.index, 1))?;
        let (h, normalised) = self.ln_2.residual_forward(w, x, &branch)?;
        if fwd.dropout_at(self.resid_drop_prob, 0).is_none() {
            return self.c_fc.mlp(w, &normalised, self.gelu, &self.mlp_proj, Some(&h));
        }
        let branch = self.c_fc.mlp(w, &normalised, self.gelu, &self.mlp_proj, None)?;
        ops::elementwise::add(&h, &fwd.dropout(&branch, self.resid_drop_prob, site(self.index, 2))?)
    }
}
