//! BERT's sizes, under their Hugging Face names.

use handloom_engine::ops::gelu::Gelu;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The part of a Hugging Face `config.json` that BERT needs. Unknown keys are kept out; missing ones take the values
/// `transformers` gives them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BertConfig {
    pub model_type: String,
    pub architectures: Vec<String>,
    pub vocab_size: usize,
    /// Width C.
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    pub hidden_act: String,
    pub hidden_dropout_prob: f64,
    pub attention_probs_dropout_prob: f64,
    /// Rows of the position table.
    pub max_position_embeddings: usize,
    /// Rows of the segment table.
    pub type_vocab_size: usize,
    pub initializer_range: f64,
    pub layer_norm_eps: f64,
    pub pad_token_id: Option<u32>,
    pub tie_word_embeddings: bool,
    pub position_embedding_type: String,
    pub is_decoder: bool,
}

impl Default for BertConfig {
    fn default() -> Self {
        BertConfig {
            model_type: "bert".into(),
            architectures: vec!["BertForMaskedLM".into()],
            vocab_size: 30522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".into(),
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            initializer_range: 0.02,
            layer_norm_eps: 1e-12,
            pad_token_id: Some(0),
            tie_word_embeddings: true,
            position_embedding_type: "absolute".into(),
            is_decoder: false,
        }
    }
}

impl BertConfig {
    /// The activation; valid after [`BertConfig::validate`].
    pub fn gelu(&self) -> Gelu {
        if self.hidden_act == "gelu" { Gelu::Erf } else { Gelu::Tanh }
    }

    /// Checks that the sizes fit together and that nothing is asked for that this model does not do.
    ///
    /// # Errors
    /// [`Error::Config`] naming the value.
    pub fn validate(&self) -> Result<()> {
        let fail = |message: String| Err(Error::Config(message));
        for (key, size) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size (model.width)", self.hidden_size),
            ("num_hidden_layers (model.layers)", self.num_hidden_layers),
            ("num_attention_heads (model.heads)", self.num_attention_heads),
            ("intermediate_size (model.inner)", self.intermediate_size),
            ("max_position_embeddings (model.context)", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ] {
            if size == 0 {
                return fail(format!("{key} is 0, expected at least 1"));
            }
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let (width, heads) = (self.hidden_size, self.num_attention_heads);
            return fail(format!(
                "width {width} is not a multiple of {heads} heads (model.width, model.heads)"
            ));
        }
        if !["gelu", "gelu_new", "gelu_pytorch_tanh"].contains(&self.hidden_act.as_str()) {
            return fail(format!(
                "hidden_act {:?} is not supported; expected gelu, gelu_new or gelu_pytorch_tanh",
                self.hidden_act
            ));
        }
        if self.position_embedding_type != "absolute" {
            return fail(format!(
                "position_embedding_type {:?} is not supported; expected absolute",
                self.position_embedding_type
            ));
        }
        if self.is_decoder {
            return fail("is_decoder = true is not supported; expected an encoder".into());
        }
        for (key, p) in [
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
        ] {
            if !(0.0..1.0).contains(&p) {
                return fail(format!("{key} is {p}, expected 0 <= probability < 1"));
            }
        }
        for (key, x) in
            [("layer_norm_eps", self.layer_norm_eps), ("initializer_range", self.initializer_range)]
        {
            if !(x > 0.0 && x.is_finite()) {
                return fail(format!("{key} is {x}, expected a positive number"));
            }
        }
        Ok(())
    }
}
