//! Writes what a BERT directory computes, for `bench/pytorch/check_hf.py` and `bench/reference/minilm.py`:
//!
//! ```text
//! cargo run -p handloom-tests --example dump_bert -- DIR INPUTS.safetensors OUT.safetensors [COPY]
//! ```
//! INPUTS holds `input_ids`, `attention_mask` and `token_type_ids`, (B, T) i64 each. OUT gets `hidden.0` (after the
//! embedding) to `hidden.L`, (B, T, C), and where the model has a head `logits`, (B, T, V). COPY is a directory to write the
//! model to as Handloom writes it, with its own tokenizer or, where it has none, the embedded austen-wordpiece.

use std::path::Path;

use handloom_engine::ops::cross_entropy::IGNORE_INDEX;
use handloom_engine::tensor::Tensor;
use handloom_model::huggingface;
use handloom_model::layers::Forward;
use handloom_model::objective::Batch;
use handloom_model::tokenizer::Tokenizer;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, inputs, out, copy @ ..] = &args[..] else {
        return Err("usage: dump_bert DIR INPUTS.safetensors OUT.safetensors [COPY]".into());
    };
    let model = huggingface::load_bert(Path::new(dir))?;
    let batch = read(Path::new(inputs))?;
    let fwd = Forward::inference(&model.params);
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    for (i, state) in model.hidden_states(&fwd, &batch)?.into_iter().enumerate() {
        tensors.push((format!("hidden.{i}"), state));
    }
    if model.has_head() {
        tensors.push(("logits".into(), model.logits(&fwd, &batch)?));
    }
    let mut views = Vec::new();
    for (name, tensor) in &tensors {
        views.push((name, TensorView::new(Dtype::F32, tensor.shape().to_vec(), tensor.bytes()?)?));
    }
    safetensors::serialize_to_file(views, None, Path::new(out))?;
    if let Some(copy) = copy.first() {
        std::fs::create_dir_all(copy)?;
        let own = Path::new(dir).join(huggingface::TOKENIZER);
        let tokenizer =
            if own.is_file() { Tokenizer::load(&own)? } else { Tokenizer::embedded("austen-wordpiece")? };
        huggingface::save(Path::new(copy), &model, &tokenizer)?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Batch, Box<dyn std::error::Error>> {
    let bytes = std::fs::read(path)?;
    let file = SafeTensors::deserialize(&bytes)?;
    let ints = |name: &str| -> Result<Tensor, Box<dyn std::error::Error>> {
        let view = file.tensor(name)?;
        if view.dtype() != Dtype::I64 {
            return Err(format!("{}: {name} is {:?}, expected I64", path.display(), view.dtype()).into());
        }
        let values: Vec<i32> =
            view.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as i32).collect();
        Ok(Tensor::from_slice(&values, view.shape())?)
    };
    let ids = ints("input_ids")?;
    let targets = Tensor::from_slice(&vec![IGNORE_INDEX; ids.numel()], ids.shape())?;
    let (key_mask, segment_ids) = (Some(ints("attention_mask")?), Some(ints("token_type_ids")?));
    Ok(Batch { ids, targets, counted: 0, key_mask, segment_ids, chosen: None })
}
