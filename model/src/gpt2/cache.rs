//! Generation's forward pass: keys and values of earlier tokens are kept, each new token costs one token's work.
//!
//! The prompt, or any run of several tokens, is one pass. A single token after it is always the same launches on a GPU: token and
//! position are two numbers in device memory, which arrive through pinned memory, and the logits leave the same way. So from the second
//! one on they are one CUDA graph, and memory is flat.

use handloom_engine::device::{Cuda, Device, Graph, Pinned};
use handloom_engine::dispatch_float;
use handloom_engine::dtype::{DType, Float};
use handloom_engine::ops::attention::{Attention, attention};
use handloom_engine::ops::cached_attention::{Cache, cached_attention};
use handloom_engine::ops::matmul::Epilogue;
use handloom_engine::ops::view::{narrow, reshape};
use handloom_engine::tensor::Tensor;

use super::Gpt2;
use crate::error::{Error, Result};
use crate::layers::Forward;
use crate::params::Weights;

/// Keys and values of the tokens so far, per block.
pub struct KvCache {
    layers: Vec<Cache>,
    len: usize,
    /// On a GPU.
    stepper: Option<Stepper>,
}

/// What a single token's pass on a GPU keeps between tokens.
struct Stepper {
    gpu: Cuda,
    /// The token and its position, (2) i32.
    input: Tensor,
    sent: Pinned,
    /// Room for the logits, in the dtype that the model computes in.
    received: Pinned,
    /// Whether a pass has loaded the kernels.
    warm: bool,
    captured: Option<Captured>,
}

/// A pass as a graph, and what it reads and writes.
struct Captured {
    graph: Graph,
    weights: Weights,
    logits: Tensor,
}

impl KvCache {
    /// Room for the model's whole context, where the model is.
    ///
    /// # Errors
    /// When a GPU has no room for it.
    pub fn new(model: &Gpt2) -> Result<Self> {
        let config = &model.config;
        let table = &model.params.get(model.wte).value;
        let (dtype, device) = (table.dtype(), table.device());
        let cache = |_| Cache::new(1, config.n_positions, config.n_embd, dtype, device);
        let layers = (0..config.n_layer).map(cache).collect::<Result<_, _>>()?;
        let stepper = match device {
            Device::Cpu => None,
            Device::Cuda(gpu) => Some(Stepper {
                gpu,
                input: Tensor::zeros(&[2], DType::I32, device)?,
                sent: gpu.gpu().pinned(2 * size_of::<i32>())?,
                received: gpu.gpu().pinned(config.vocab_size * dtype.size())?,
                warm: false,
                captured: None,
            }),
        };
        Ok(KvCache { layers, len: 0, stepper })
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

    /// Kernels of a token's pass, once it is one CUDA graph.
    pub fn graph_kernels(&self) -> Option<u64> {
        Some(self.stepper.as_ref()?.captured.as_ref()?.graph.kernels())
    }
}

impl Gpt2 {
    /// Runs `ids` (at least one) after what the cache holds, and returns the f32 logits (V) after the last of them.
    ///
    /// # Errors
    /// When the tokens leave the context or the vocabulary.
    pub fn next_logits(&self, fwd: &Forward, cache: &mut KvCache, ids: &[i32]) -> Result<Vec<f32>> {
        let until = cache.len + ids.len();
        self.check_fits(until)?;
        let vocab = self.config.vocab_size;
        if let Some((at, id)) = ids.iter().enumerate().find(|(_, id)| !(0..vocab as i32).contains(*id)) {
            let at = cache.len + at;
            return Err(Error::Run(format!(
                "gpt2: token {id} at position {at} is outside the vocabulary of {vocab}"
            )));
        }
        let logits = match (ids, &mut cache.stepper) {
            ([], _) => return Err(Error::Run("gpt2: no token to run".into())),
            (&[id], Some(stepper)) => stepper.step(self, fwd, &mut cache.layers, id, cache.len)?,
            (&[id], None) => {
                let position = Tensor::from_slice(&[cache.len as i32], &[1])?;
                let logits =
                    self.token(fwd, &mut cache.layers, &Tensor::from_slice(&[id], &[1, 1])?, &position)?;
                logits.read_f32()?
            }
            _ => self.prompt(fwd, &mut cache.layers, ids, cache.len)?.read_f32()?,
        };
        cache.len = until;
        Ok(logits)
    }

    /// Logits (1, 1, V) after several tokens, the first of them at position `start`.
    fn prompt(&self, fwd: &Forward, layers: &mut [Cache], ids: &[i32], start: usize) -> Result<Tensor> {
        let (w, time) = (&fwd.weights, ids.len());
        let (heads, width) = (self.config.n_head, self.config.n_embd);
        let ids = Tensor::from_slice(ids, &[1, time])?.to_device(self.params.device())?;
        let mut x = self.embed(fwd, &ids, &self.params.indices(start, time)?)?;
        for (block, cache) in self.blocks.iter().zip(layers) {
            let qkv = block.c_attn.forward(w, &block.ln_1.forward(w, &x)?, Epilogue::None)?;
            cache.append(&qkv, start)?;
            let q = reshape(&narrow(&qkv, 2, 0, width)?, &[1, time, heads, width / heads])?;
            let [k, v] = cache.first(start + time, heads)?;
            let options = Attention { causal: true, ..Attention::default() };
            let attended = reshape(&attention(&q, &k, &v, &options)?, &[1, time, width])?;
            x = block.finish(fwd, &x, &attended)?;
        }
        self.project(fwd, &self.ln_f.forward(w, &narrow(&x, 1, time - 1, 1)?)?)
    }

    /// Logits (1, 1, V) after one token (1, 1) at a position (1) that the device knows.
    fn token(&self, fwd: &Forward, layers: &mut [Cache], id: &Tensor, position: &Tensor) -> Result<Tensor> {
        let w = &fwd.weights;
        let mut x = self.embed(fwd, id, position)?;
        for (block, cache) in self.blocks.iter().zip(layers) {
            let qkv = block.c_attn.forward(w, &block.ln_1.forward(w, &x)?, Epilogue::None)?;
            let attended = cached_attention(&qkv, self.config.n_head, cache, position)?;
            x = block.finish(fwd, &x, &attended)?;
        }
        self.project(fwd, &self.ln_f.forward(w, &x)?)
    }
}

impl Stepper {
    /// The logits after one token.
    fn step(
        &mut self,
        model: &Gpt2,
        fwd: &Forward,
        layers: &mut [Cache],
        id: i32,
        position: usize,
    ) -> Result<Vec<f32>> {
        let numbers = [id, position as i32];
        self.sent.write()?.copy_from_slice(bytemuck::cast_slice(&numbers));
        self.sent.upload(self.input.cuda_slice_mut()?, 0)?;
        // A graph holds the addresses of the weights that it was captured with.
        if self.captured.as_ref().is_some_and(|captured| !captured.weights.is_same(&fwd.weights)) {
            self.captured = None;
        }
        let token = reshape(&narrow(&self.input, 0, 0, 1)?, &[1, 1])?;
        let place = narrow(&self.input, 0, 1, 1)?;
        if self.captured.is_none() && self.warm {
            let pass = || model.token(fwd, layers, &token, &place);
            let (graph, logits) = Graph::capture(self.gpu.gpu(), pass)?;
            self.captured = Some(Captured { graph, weights: fwd.weights.clone(), logits });
        }
        let logits = match &self.captured {
            Some(captured) => {
                captured.graph.launch()?;
                captured.logits.clone()
            }
            None => model.token(fwd, layers, &token, &place)?,
        };
        self.warm = true;
        self.received.download(logits.cuda_slice()?, 0)?;
        let bytes = self.received.read()?;
        let values = dispatch_float!(logits.dtype(), "generate", "logits", |E| {
            Ok(bytemuck::cast_slice::<u8, E>(bytes).iter().map(|x| Float::to_f32(*x)).collect())
        })?;
        Ok(values)
    }
}
