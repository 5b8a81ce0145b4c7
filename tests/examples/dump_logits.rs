//! Writes the logits of a model directory, for `bench/pytorch/check_hf.py --against`:
//!
//! ```text
//! cargo run -p handloom-tests --example dump_logits -- DIR IDS.json OUT.safetensors [COPY]
//! ```
//! IDS.json is a list of rows of token ids, all of one length. COPY is a directory to write the model to as Handloom
//! writes it, with the embedded tokenizer austen-2048.

use std::path::Path;

use handloom_engine::tensor::Tensor;
use handloom_model::huggingface;
use handloom_model::layers::Forward;
use handloom_model::tokenizer::Tokenizer;
use safetensors::tensor::{Dtype, TensorView};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, ids, out, copy @ ..] = &args[..] else {
        return Err("usage: dump_logits DIR IDS.json OUT.safetensors [COPY]".into());
    };
    let model = huggingface::load_model(Path::new(dir))?;
    let rows: Vec<Vec<i32>> = serde_json::from_str(&std::fs::read_to_string(ids)?)?;
    let time = rows.first().map_or(0, Vec::len);
    let ids = Tensor::from_slice(&rows.concat(), &[rows.len(), time])?;
    let logits = model.logits(&Forward::inference(&model.params), &ids)?;
    let view = TensorView::new(Dtype::F32, logits.shape().to_vec(), logits.bytes()?)?;
    safetensors::serialize_to_file([("logits", view)], None, Path::new(out))?;
    if let Some(copy) = copy.first() {
        std::fs::create_dir_all(copy)?;
        huggingface::save(Path::new(copy), &model, &Tokenizer::embedded("austen-2048")?)?;
    }
    println!("{dir}: logits {:?}", logits.shape());
    Ok(())
}
