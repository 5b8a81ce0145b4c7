//! GPT-2's sizes, under their Hugging Face names.

use handloom_engine::ops::gelu::Gelu;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The part of a Hugging Face `config.json` that GPT-2 needs. Unknown keys are kept out; missing ones take the values
/// `transformers` gives them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gpt2Config {
    pub model_type: String,
    pub architectures: Vec<String>,
    pub vocab_size: usize,
    /// Context length: rows of the position table.
    pub n_positions: usize,
    /// Width C.
    pub n_embd: usize,
    pub n_layer: usize,
    pub n_head: usize,
    /// Width of the MLP; 4 C when absent.
    pub n_inner: Option<usize>,
    pub activation_function: String,
    pub embd_pdrop: f64,
    pub attn_pdrop: f64,
    pub resid_pdrop: f64,
    pub layer_norm_epsilon: f64,
    pub initializer_range: f64,
    pub tie_word_embeddings: bool,
    pub scale_attn_weights: bool,
    pub scale_attn_by_inverse_layer_idx: bool,
    pub bos_token_id: Option<u32>,
    pub eos_token_id: Option<u32>,
}

impl Default for Gpt2Config {
    fn default() -> Self {
        Gpt2Config {
            model_type: "gpt2".into(),
            architectures: vec!["GPT2LMHeadModel".into()],
            vocab_size: 50257,
            n_positions: 1024,
            n_embd: 768,
            n_layer: 12,
            n_head: 12,
            n_inner: None,
            activation_function: "gelu_new".into(),
            embd_pdrop: 0.1,
            attn_pdrop: 0.1,
            resid_pdrop: 0.1,
            layer_norm_epsilon: 1e-5,
            initializer_range: 0.02,
            tie_word_embeddings: true,
            scale_attn_weights: true,
            scale_attn_by_inverse_layer_idx: false,
            bos_token_id: Some(50256),
            eos_token_id: Some(50256),
        }
    }
}

impl Gpt2Config {
    /// Width of the MLP.
    pub fn inner(&self) -> usize {
        self.n_inner.unwrap_or(4 * self.n_embd)
    }

    /// The activation; valid after [`Gpt2Config::validate`].
    pub fn gelu(&self) -> Gelu {
        if self.activation_function == "gelu" { Gelu::Erf } else { Gelu::Tanh }
    }

    /// Checks that the sizes fit together and that nothing is asked for that this model does not do.
    ///
    /// # Errors
    /// [`Error::Config`] naming the value.
    pub fn validate(&self) -> Result<()> {
        let fail = |message: String| Err(Error::Config(message));
        for (key, size) in [
            ("vocab_size", self.vocab_size),
            ("n_positions (model.context)", self.n_positions),
            ("n_embd (model.width)", self.n_embd),
            ("n_layer (model.layers)", self.n_layer),
            ("n_head (model.heads)", self.n_head),
            ("n_inner (model.inner)", self.inner()),
        ] {
            if size == 0 {
                return fail(format!("{key} is 0, expected at least 1"));
            }
        }
        if !self.n_embd.is_multiple_of(self.n_head) {
            let (width, heads) = (self.n_embd, self.n_head);
            return fail(format!(
                "width {width} is not a multiple of {heads} heads (model.width, model.heads)"
            ));
        }
        if !["gelu_new", "gelu_pytorch_tanh", "gelu"].contains(&self.activation_function.as_str()) {
            return fail(format!(
                "activation_function {:?} is not supported; expected gelu_new, gelu_pytorch_tanh or gelu",
                self.activation_function
            ));
        }
        if !self.scale_attn_weights || self.scale_attn_by_inverse_layer_idx {
            return fail(
                "scale_attn_weights = false and scale_attn_by_inverse_layer_idx are not supported".into(),
            );
        }
        for (key, p) in [
            ("embd_pdrop", self.embd_pdrop),
            ("attn_pdrop", self.attn_pdrop),
            ("resid_pdrop", self.resid_pdrop),
        ] {
            if !(0.0..1.0).contains(&p) {
                return fail(format!("{key} is {p}, expected 0 <= probability < 1"));
            }
        }
        for (key, x) in
            [("layer_norm_epsilon", self.layer_norm_epsilon), ("initializer_range", self.initializer_range)]
        {
            if !(x > 0.0 && x.is_finite()) {
                return fail(format!("{key} is {x}, expected a positive number"));
            }
        }
        Ok(())
    }
}
