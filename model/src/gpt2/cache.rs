//! Generation's forward pass: keys and values of earlier tokens are kept, each new token costs one token's work.

use handloom_engine::device::Device;
use handloom_engine::dispatch_float;
use handloom_engine::ops::attention::{Attention, attention};
use handloom_engine::ops::matmul::Epilogue;
use handloom_engine::ops::view::{narrow, reshape};
use handloom_engine::tensor::Tensor;

use super::Gpt2;
use crate::error::Result;
use crate::layers::Forward;

/// Keys and values of the tokens so far, per block: (1, context, NH, HS).
pub struct KvCache {
    keys: Vec<Tensor>,
    values: Vec<Tensor>,
    len: usize,
}

impl KvCache {
    /// Room for the model's whole context.
    ///
    /// # Errors
    /// When a GPU has no room for it.
    pub fn new(model: &Gpt2) -> Result<Self> {
        let config = &model.config;
        let shape = [1, config.n_positions, config.n_head, config.n_embd / config.n_head];
        let dtype = model.params.get(model.wte).value.dtype();
        let empty = || {
            (0..config.n_layer).map(|_| Tensor::empty(&shape, dtype, Device::Cpu)).collect::<Result<_, _>>()
        };
        Ok(KvCache { keys: empty()?, values: empty()?, len: 0 })
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

/// Copies rows of a contiguous (1, T, 3C) projection into a cache at token `at`: column block 1 is k, 2 is v.
fn store(cache: &mut Tensor, qkv: &Tensor, part: usize, at: usize) -> Result<()> {
    let (_, time, packed) = qkv.dims3("kv_cache", "qkv")?;
    let width = packed / 3;
    dispatch_float!(qkv.dtype(), "kv_cache", "qkv", |E| {
        let cache = cache.slice_mut::<E>()?;
        for (t, row) in qkv.slice::<E>()?.chunks_exact(packed).enumerate().take(time) {
            cache[(at + t) * width..][..width].copy_from_slice(&row[part * width..][..width]);
        }
        Ok(())
    })?;
    Ok(())
}

impl Gpt2 {
    /// Runs `ids` (at least one) after what the cache holds, and returns the f32 logits (V) after the last of them.
    ///
    /// # Errors
    /// When the tokens leave the context or the vocabulary.
    pub fn next_logits(&self, fwd: &Forward, cache: &mut KvCache, ids: &[i32]) -> Result<Vec<f32>> {
        let time = ids.len();
        let mut x = self.embed(fwd, &Tensor::from_slice(ids, &[1, time])?, cache.len)?;
        let w = &fwd.weights;
        let (heads, width) = (self.config.n_head, self.config.n_embd);
        let until = cache.len + time;
        for (i, block) in self.blocks.iter().enumerate() {
            let qkv = block.c_attn.forward(w, &block.ln_1.forward(w, &x)?, Epilogue::None)?;
            store(&mut cache.keys[i], &qkv, 1, cache.len)?;
            store(&mut cache.values[i], &qkv, 2, cache.len)?;
            let q = reshape(&narrow(&qkv, 2, 0, width)?, &[1, time, heads, width / heads])?;
            let k = narrow(&cache.keys[i], 1, 0, until)?;
            let v = narrow(&cache.values[i], 1, 0, until)?;
            let options = Attention { causal: true, ..Attention::default() };
            let attended = reshape(&attention(&q, &k, &v, &options)?, &[1, time, width])?;
            x = block.finish(fwd, &x, &attended)?;
        }
        cache.len = until;
        let last = narrow(&x, 1, time - 1, 1)?;
        let logits = self.project(fwd, &self.ln_f.forward(w, &last)?)?;
        Ok(logits.to_vec_f32())
    }
}
