//! BERT: a bidirectional encoder with post-layernorm blocks and a masked-language-model head (Devlin et al. 2019,
//! arXiv:1810.04805).
//!
//! ```text
//! x = layernorm(word[ids] + position[0..T] + segment[segment_ids])       dropout
//! per block:  x = layernorm(x + dense(attention(q(x), k(x), v(x))))      dropout on the weights and on the branch
//!             x = layernorm(x + dense(gelu(dense(x))))                   dropout on the branch
//! logits = layernorm(gelu(dense(x))) word^T + bias                       of the chosen rows only
//! ```

mod config;
mod head;
mod mimetic;

pub use config::BertConfig;
pub use head::MlmHead;

use handloom_engine::error::Result as EngineResult;
use handloom_engine::ops::attention::{Attention, attention};
use handloom_engine::ops::gelu::Gelu;
use handloom_engine::ops::linear_cross_entropy::Scored;
use handloom_engine::ops::matmul::Epilogue;
use handloom_engine::ops::view::reshape;
use handloom_engine::ops::{self};
use handloom_engine::tensor::Tensor;

use crate::config::ObjectiveKind;
use crate::error::{Error, Result};
use crate::layers::{Forward, LayerNorm, Linear};
use crate::model::{LanguageModel, Score};
use crate::objective::{Batch, Chosen};
use crate::params::{Init, InitOptions, Kind, ParamId, Params};
use mimetic::Mimetic;

/// A BERT model: its sizes, its parameters, and where each is used.
pub struct Bert {
    pub config: BertConfig,
    pub params: Params,
    /// What the file had and this model does not use: the pooler.
    pub kept: Vec<(String, Tensor)>,
    word: ParamId,
    position: ParamId,
    segment: ParamId,
    norm: LayerNorm,
    blocks: Vec<Block>,
    /// `None` of a bare encoder.
    head: Option<MlmHead>,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    /// Place in the model, for dropout's streams.
    index: u32,
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    output_norm: LayerNorm,
    heads: usize,
    gelu: Gelu,
    attention_drop_prob: f32,
    hidden_drop_prob: f32,
}

/// Dropout places: one for the embedding, four per block (the fourth is unused).
fn site(block: u32, place: u32) -> u32 {
    1 + 4 * block + place
}

impl Bert {
    /// A model with a masked-language-model head and all parameters 0; load or [`Bert::initialise`] it.
    ///
    /// # Errors
    /// A configuration error when the sizes do not fit together.
    pub fn new(config: BertConfig) -> Result<Self> {
        Self::build(config, true)
    }

    /// As [`Bert::new`], without a head: for hidden states.
    pub fn encoder(config: BertConfig) -> Result<Self> {
        Self::build(config, false)
    }

    fn build(config: BertConfig, with_head: bool) -> Result<Self> {
        config.validate()?;
        let mut params = Params::default();
        let (width, eps) = (config.hidden_size, config.layer_norm_eps as f32);
        let mut table = |name: &str, rows: usize| {
            params.add(format!("bert.embeddings.{name}.weight"), Kind::Embedding, &[rows, width])
        };
        let word = table("word_embeddings", config.vocab_size);
        let position = table("position_embeddings", config.max_position_embeddings);
        let segment = table("token_type_embeddings", config.type_vocab_size);
        let norm = LayerNorm::new(&mut params, "bert.embeddings.LayerNorm", width, eps);
        let blocks = (0..config.num_hidden_layers)
            .map(|i| {
                let name = |part: &str| format!("bert.encoder.layer.{i}.{part}");
                let params = &mut params;
                let inner = config.intermediate_size;
                Block {
                    index: i as u32,
                    query: Linear::dense(params, &name("attention.self.query"), width, width),
                    key: Linear::dense(params, &name("attention.self.key"), width, width),
                    value: Linear::dense(params, &name("attention.self.value"), width, width),
                    attention_output: Linear::dense(params, &name("attention.output.dense"), width, width),
                    attention_norm: LayerNorm::new(params, &name("attention.output.LayerNorm"), width, eps),
                    intermediate: Linear::dense(params, &name("intermediate.dense"), width, inner),
                    output: Linear::dense(params, &name("output.dense"), inner, width),
                    output_norm: LayerNorm::new(params, &name("output.LayerNorm"), width, eps),
                    heads: config.num_attention_heads,
                    gelu: config.gelu(),
                    attention_drop_prob: config.attention_probs_dropout_prob as f32,
                    hidden_drop_prob: config.hidden_dropout_prob as f32,
                }
            })
            .collect();
        let head = with_head.then(|| MlmHead::new(&mut params, &config, word));
        params.keep_indices(config.max_position_embeddings)?;
        Ok(Bert { config, params, kept: Vec::new(), word, position, segment, norm, blocks, head })
    }

    /// Draws the parameters from `seed`.
    pub fn initialise(&mut self, init: Init, seed: u64) -> Result<()> {
        let (layers, width) = (self.config.num_hidden_layers, self.config.hidden_size);
        let options = InitOptions { init, std: self.config.initializer_range, layers, width, seed };
        self.params.initialise(options)?;
        if init == Init::Mimetic {
            self.mimetic().apply(&mut self.params)?;
        }
        Ok(())
    }

    fn mimetic(&self) -> Mimetic {
        let first = &self.blocks[0];
        Mimetic {
            width: self.config.hidden_size,
            heads: self.config.num_attention_heads,
            std: self.config.initializer_range,
            position: self.position,
            segment: self.segment,
            first: [first.query.weight, first.key.weight],
            blocks: self.blocks.iter().map(|b| [b.value.weight, b.attention_output.weight]).collect(),
        }
    }

    /// The hidden states (B, T, C): after the embedding, then after each block.
    ///
    /// # Errors
    /// When the ids leave the vocabulary or the rows the position table.
    pub fn hidden_states(&self, fwd: &Forward, batch: &Batch) -> Result<Vec<Tensor>> {
        self.run(fwd, batch, true)
    }

    /// The last hidden state, (B, T, C). Errors as [`Bert::hidden_states`].
    pub fn hidden(&self, fwd: &Forward, batch: &Batch) -> Result<Tensor> {
        let mut states = self.run(fwd, batch, false)?;
        Ok(states.pop().expect("bug in handloom-model: a forward pass has a result"))
    }

    /// All hidden states, or only the last.
    fn run(&self, fwd: &Forward, batch: &Batch, all: bool) -> Result<Vec<Tensor>> {
        let mut states = vec![self.embed(fwd, batch)?];
        for &block in &self.blocks {
            let x = states.last().expect("bug in handloom-model: a forward pass has an input");
            let next = match (&fwd.tape, fwd.recompute) {
                (Some(tape), true) => {
                    // The tape holds this closure: it must not hold the tape.
                    let inner = Forward { tape: None, ..fwd.clone() };
                    let key_mask = batch.key_mask.clone();
                    tape.checkpoint(x, move |x| block.forward(&inner, x, key_mask.as_ref()))?
                }
                _ => block.forward(fwd, x, batch.key_mask.as_ref())?,
            };
            if !all {
                states.clear();
            }
            states.push(next);
        }
        Ok(states)
    }

    /// The normalised sum of token, position and segment embeddings.
    fn embed(&self, fwd: &Forward, batch: &Batch) -> Result<Tensor> {
        let (_, time) = batch.ids.dims2("bert", "ids")?;
        let context = self.config.max_position_embeddings;
        if time > context {
            let message = format!("bert: rows of {time} tokens do not fit the position table of {context}");
            return Err(Error::Run(message));
        }
        let w = &fwd.weights;
        let position = ops::embedding::embedding(&self.params.indices(0, time)?, w.get(self.position))?;
        // Without segment ids, one row of the segment table is added everywhere.
        let segment = match &batch.segment_ids {
            Some(ids) => ops::embedding::embedding(ids, w.get(self.segment))?,
            None => ops::embedding::embedding(&self.params.indices(0, 1)?, w.get(self.segment))?,
        };
        let token = ops::embedding::embedding(&batch.ids, w.get(self.word))?;
        let x = ops::elementwise::add(&token, &ops::elementwise::add(&position, &segment)?)?;
        let x = self.norm.forward(w, &x)?;
        Ok(fwd.dropout(&x, self.config.hidden_dropout_prob as f32, 0)?)
    }

    /// Whether the model predicts tokens; a bare encoder only gives hidden states.
    pub fn has_head(&self) -> bool {
        self.head.is_some()
    }

    fn head(&self) -> Result<&MlmHead> {
        self.head.as_ref().ok_or_else(|| {
            Error::Run(
                "this BERT has no masked-language-model head (cls.predictions.*): its file is a bare encoder"
                    .into(),
            )
        })
    }

    /// Logits (K, V) of these rows of the flattened (B * T) positions.
    ///
    /// # Errors
    /// As [`Bert::hidden_states`], and when the model has no head.
    pub fn logits_at(&self, fwd: &Forward, batch: &Batch, rows: &[i32]) -> Result<Tensor> {
        let head = self.head()?;
        let hidden = self.hidden(fwd, batch)?;
        let rows = Tensor::from_slice(rows, &[rows.len()])?.to_device(hidden.device())?;
        let chosen = ops::gather::gather_rows(&hidden, &rows)?;
        Ok(head.logits(fwd, &chosen)?)
    }

    /// Logits (B, T, V) of every position. Errors as [`Bert::logits_at`].
    pub fn logits(&self, fwd: &Forward, batch: &Batch) -> Result<Tensor> {
        let (rows, time) = batch.ids.dims2("bert", "ids")?;
        let every: Vec<i32> = (0..(rows * time) as i32).collect();
        Ok(reshape(&self.logits_at(fwd, batch, &every)?, &[rows, time, self.config.vocab_size])?)
    }
}

impl Block {
    fn forward(&self, fwd: &Forward, x: &Tensor, key_mask: Option<&Tensor>) -> EngineResult<Tensor> {
        let w = &fwd.weights;
        let (batch, time, width) = x.dims3("bert", "x")?;
        let by_head = [batch, time, self.heads, width / self.heads];
        let project = |linear: &Linear| reshape(&linear.forward(w, x, Epilogue::None)?, &by_head);
        let options = Attention {
            dropout: fwd.dropout_at(self.attention_drop_prob, site(self.index, 0)),
            key_mask: key_mask.cloned(),
            ..Attention::default()
        };
        let attended =
            attention(&project(&self.query)?, &project(&self.key)?, &project(&self.value)?, &options)?;
        let attended = reshape(&attended, &[batch, time, width])?;
        let x = self.join(fwd, x, &self.attention_norm, 1, |residual| {
            let epilogue = residual.map_or(Epilogue::None, Epilogue::Residual);
            self.attention_output.forward(w, &attended, epilogue)
        })?;
        self.join(fwd, &x, &self.output_norm, 2, |residual| {
            self.intermediate.mlp(w, &x, self.gelu, &self.output, residual)
        })
    }

    /// norm(x + dropout(branch)); `branch` adds a residual itself where it is given one.
    fn join(
        &self,
        fwd: &Forward,
        x: &Tensor,
        norm: &LayerNorm,
        place: u32,
        branch: impl Fn(Option<&Tensor>) -> EngineResult<Tensor>,
    ) -> EngineResult<Tensor> {
        let w = &fwd.weights;
        let site = site(self.index, place);
        if fwd.dropout_at(self.hidden_drop_prob, site).is_none() {
            return norm.forward(w, &branch(Some(x))?);
        }
        let branch = fwd.dropout(&branch(None)?, self.hidden_drop_prob, site)?;
        Ok(norm.residual_forward(w, x, &branch)?.1)
    }
}

impl LanguageModel for Bert {
    fn params(&self) -> &Params {
        &self.params
    }

    fn params_mut(&mut self) -> &mut Params {
        &mut self.params
    }

    fn score(&self, fwd: &Forward, batch: &Batch, divisor: Option<f64>) -> Result<Score> {
        let head = self.head()?;
        let hidden = self.hidden(fwd, batch)?;
        let Chosen { rows, targets } = match &batch.chosen {
            Some(chosen) => chosen.clone(),
            None => Chosen::of(&batch.targets)?,
        };
        let gathered = ops::gather::gather_rows(&hidden, &rows)?;
        let Scored { loss, hits } = head.score(fwd, &gathered, &targets, divisor)?;
        Ok(Score { loss, hits })
    }

    fn objective(&self) -> ObjectiveKind {
        ObjectiveKind::Mlm
    }

    fn config_json(&self) -> String {
        serde_json::to_string_pretty(&self.config).expect("bug in handloom-model: the config is JSON")
    }

    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn context(&self) -> usize {
        self.config.max_position_embeddings
    }

    fn describe(&self) -> String {
        let c = &self.config;
        format!(
            "BERT, {} layers, {} heads, width {}, context {}",
            c.num_hidden_layers, c.num_attention_heads, c.hidden_size, c.max_position_embeddings
        )
    }

    fn aliases(&self) -> Vec<(String, &Tensor)> {
        let bias = self.head.and_then(|head| head.untied_bias(&self.config));
        let alias = |id| ("cls.predictions.decoder.bias".to_owned(), self.params.get(id).master());
        bias.map(alias).into_iter().collect()
    }

    fn kept(&self) -> &[(String, Tensor)] {
        &self.kept
    }
}
