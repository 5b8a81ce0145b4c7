//! Model directories in the Hugging Face layout: `config.json`, `model.safetensors`, `tokenizer.json`.
//!
//! What is written here, `transformers` loads, and the other way round. Weights are written as f32 whatever precision the
//! model computes in; they are read as f32, f16 or bf16.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use handloom_engine::device::Device;
use handloom_engine::dtype::Float;
use handloom_engine::tensor::Tensor;
use safetensors::tensor::{Dtype, SafeTensors, View};

use crate::bert::{Bert, BertConfig};
use crate::error::{Error, Result};
use crate::gpt2::Gpt2;
use crate::model::LanguageModel;
use crate::params::Params;
use crate::tokenizer::Tokenizer;

/// File names inside a model directory.
pub const CONFIG: &str = "config.json";
pub const WEIGHTS: &str = "model.safetensors";
pub const TOKENIZER: &str = "tokenizer.json";

/// An f32 tensor of any device as safetensors wants to see it; one on a GPU is copied when it is its turn.
pub(crate) struct F32View<'a>(pub &'a Tensor);

impl View for F32View<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        self.0.shape()
    }
    fn data(&self) -> Cow<'_, [u8]> {
        const CONTIGUOUS: &str = "bug in handloom-model: a parameter is not contiguous";
        match self.0.device() {
            Device::Cpu => Cow::Borrowed(self.0.bytes().expect(CONTIGUOUS)),
            // Whatever failed on the device before has been reported by the caller's wait.
            Device::Cuda(_) => {
                let host =
                    self.0.to_device(Device::Cpu).expect("bug in handloom-engine: an idle device copies");
                Cow::Owned(host.bytes().expect(CONTIGUOUS).to_vec())
            }
        }
    }
    fn data_len(&self) -> usize {
        self.0.numel() * size_of::<f32>()
    }
}

/// Writes f32 tensors to `path` and flushes them to disk.
pub(crate) fn write_tensors<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (String, &'a Tensor)>,
) -> Result<()> {
    let tensors: Vec<(String, &Tensor)> = tensors.into_iter().collect();
    if let Some((_, tensor)) = tensors.first() {
        tensor.device().synchronize()?;
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let views = tensors.into_iter().map(|(name, tensor)| (name, F32View(tensor)));
    safetensors::serialize_to_file(views, Some(metadata), path)
        .map_err(|e| Error::file(path, format!("cannot be written: {e}")))?;
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::io("cannot flush", path))
}

/// Writes `text` to `path` and flushes it to disk.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(Error::io("cannot write", path))
}

/// Writes a model and its tokenizer into the existing directory `dir`.
///
/// # Errors
/// [`Error::Io`] or [`Error::File`] naming the file.
pub fn save(dir: &Path, model: &dyn LanguageModel, tokenizer: &Tokenizer) -> Result<()> {
    write_text(&dir.join(CONFIG), &model.config_json())?;
    let params = model.params().iter().map(|p| (p.name.clone(), p.master()));
    let kept = model.kept().iter().map(|(name, tensor)| (name.clone(), tensor));
    write_tensors(&dir.join(WEIGHTS), params.chain(kept).chain(model.aliases()))?;
    tokenizer.save(dir)?;
    Ok(())
}

/// Reads a model directory's model.
///
/// # Errors
/// [`Error::Io`] for a missing file; [`Error::File`] for one that is damaged, of another architecture, or whose tensors do
/// not fit the configuration: nothing is guessed.
pub fn load(dir: &Path) -> Result<Box<dyn LanguageModel>> {
    let config = ModelConfig::read(dir)?;
    match &*config.model_type {
        "gpt2" => Ok(Box::new(load_gpt2(dir, config)?)),
        "bert" => Ok(Box::new(load_bert_as(dir, config)?)),
        _ => Err(config.unsupported("\"gpt2\", \"bert\"")),
    }
}

/// As [`load`], for what only GPT-2 does.
///
/// # Errors
/// As [`load`]; another architecture is one.
pub fn load_model(dir: &Path) -> Result<Gpt2> {
    let config = ModelConfig::read(dir)?;
    match &*config.model_type {
        "gpt2" => load_gpt2(dir, config),
        _ => Err(config.unsupported("\"gpt2\"")),
    }
}

/// As [`load`], for what only BERT does. A file without a masked-language-model head gives a bare encoder.
///
/// # Errors
/// As [`load`]; another architecture is one.
pub fn load_bert(dir: &Path) -> Result<Bert> {
    let config = ModelConfig::read(dir)?;
    match &*config.model_type {
        "bert" => load_bert_as(dir, config),
        _ => Err(config.unsupported("\"bert\"")),
    }
}

/// A `config.json` that names its architecture.
struct ModelConfig {
    path: PathBuf,
    model_type: String,
    json: serde_json::Value,
}

impl ModelConfig {
    fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG);
        let text =
            std::fs::read_to_string(&path).map_err(Error::io("cannot read model configuration", &path))?;
        let json: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| Error::file(&path, format!("is not valid JSON: {e}")))?;
        match json.get("model_type").and_then(|v| v.as_str()) {
            Some(kind) => Ok(ModelConfig { model_type: kind.to_owned(), path, json }),
            None => Err(Error::file(&path, "has no model_type; expected a Hugging Face config.json")),
        }
    }

    fn unsupported(&self, supported: &str) -> Error {
        Error::file(&self.path, format!("model_type is {:?}; supported: {supported}", self.model_type))
    }

    /// The configuration of `model`, which has an article.
    fn parse<T: serde::de::DeserializeOwned>(self, model: &str) -> Result<T> {
        serde_json::from_value(self.json)
            .map_err(|e| Error::file(&self.path, format!("does not describe {model}: {e}")))
    }
}

fn load_gpt2(dir: &Path, config: ModelConfig) -> Result<Gpt2> {
    let path = config.path.clone();
    let mut model = Gpt2::new(config.parse("a GPT-2")?).map_err(|e| Error::file(&path, e.to_string()))?;
    let tied = model.config.tie_word_embeddings;
    let transposed = "; GPT-2 stores Conv1D weights as (in, out)";
    load_weights(dir, &mut model.params, transposed, |name| {
        // Older files leave the prefix out, and carry causal masks as buffers.
        let full = if name.starts_with("transformer.") || name == "lm_head.weight" {
            name.to_owned()
        } else {
            format!("transformer.{name}")
        };
        let is_mask = full.ends_with(".attn.bias") || full.ends_with(".attn.masked_bias");
        if is_mask || (tied && full == "lm_head.weight") { Place::Skip } else { Place::Param(full) }
    })?;
    Ok(model)
}

const HEAD: &str = "cls.predictions.";
const DECODER_BIAS: &str = "cls.predictions.decoder.bias";

fn load_bert_as(dir: &Path, config: ModelConfig) -> Result<Bert> {
    let path = config.path.clone();
    let config: BertConfig = config.parse("a BERT")?;
    let tied = config.tie_word_embeddings;
    let (mut has_head, mut has_decoder_bias) = (false, false);
    for file in weight_files(dir)? {
        read_tensors(&file, |name, _, _| {
            has_head |= name.starts_with(HEAD);
            has_decoder_bias |= name == DECODER_BIAS;
            Ok(())
        })?;
    }
    // The head's bias has two names. Tied, they are one parameter, and any copy under the decoder's name is the same;
    // untied, `transformers` computes with the decoder's and leaves the other as it was drawn.
    let decoder_bias_counts = has_decoder_bias && !tied;
    let model = if has_head { Bert::new(config) } else { Bert::encoder(config) };
    let mut model = model.map_err(|e| Error::file(&path, e.to_string()))?;
    let kept = load_weights(dir, &mut model.params, "", |name| {
        let prefixed = ["bert.", "cls."].iter().any(|prefix| name.starts_with(prefix));
        let full = if prefixed { name.to_owned() } else { format!("bert.{name}") };
        // TensorFlow's names, in older files.
        let full =
            full.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias");
        let is_bias = full == "cls.predictions.bias";
        let is_decoder_bias = full == DECODER_BIAS;
        if full.starts_with("bert.pooler.") {
            Place::Keep(full)
        } else if decoder_bias_counts && is_decoder_bias {
            Place::Param("cls.predictions.bias".to_owned())
        } else if full == "bert.embeddings.position_ids"
            || full.starts_with("cls.seq_relationship.")
            || is_decoder_bias
            || (decoder_bias_counts && is_bias)
            || (tied && full == "cls.predictions.decoder.weight")
        {
            Place::Skip
        } else {
            Place::Param(full)
        }
    })?;
    model.kept = kept;
    Ok(model)
}

/// Where a tensor of a file belongs.
enum Place {
    /// The parameter of this name.
    Param(String),
    /// Beside the parameters, under this name: see [`LanguageModel::kept`].
    Keep(String),
    Skip,
}

/// The weight files of a directory: one, or those an index names.
fn weight_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let single = dir.join(WEIGHTS);
    let index = dir.join("model.safetensors.index.json");
    if single.exists() || !index.exists() {
        return Ok(vec![single]);
    }
    let text = std::fs::read_to_string(&index).map_err(Error::io("cannot read", &index))?;
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| Error::file(&index, format!("is not valid JSON: {e}")))?;
    let map = json.get("weight_map").and_then(|v| v.as_object());
    let map = map.ok_or_else(|| Error::file(&index, "has no weight_map"))?;
    let names: std::collections::BTreeSet<&str> = map.values().filter_map(|v| v.as_str()).collect();
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}

/// Reads every parameter; `place` says what each tensor of the files is. Returns those to keep. `transposed` follows the
/// message about a matrix that is the wrong way round.
fn load_weights(
    dir: &Path,
    params: &mut Params,
    transposed: &str,
    place: impl Fn(&str) -> Place,
) -> Result<Vec<(String, Tensor)>> {
    let mut kept = Vec::new();
    let mut missing: BTreeMap<String, ()> = params.iter().map(|p| (p.name.clone(), ())).collect();
    for path in weight_files(dir)? {
        read_tensors(&path, |name, shape, values| {
            let full = match place(name) {
                Place::Param(full) => full,
                Place::Skip => return Ok(()),
                Place::Keep(full) => {
                    kept.push((full, Tensor::from_slice(&values()?, shape)?));
                    return Ok(());
                }
            };
            let Some(param) = params.by_name(&full) else {
                let problem = format!("holds {name} {shape:?}, which the model of {CONFIG} does not have");
                return Err(Error::file(&path, problem));
            };
            if param.value.shape() != shape {
                let wanted = param.value.shape();
                let hint = if shape.iter().rev().eq(wanted) && shape.len() == 2 { transposed } else { "" };
                return Err(Error::file(
                    &path,
                    format!("{name} is {shape:?}, the model wants {wanted:?}{hint}"),
                ));
            }
            param.value = Tensor::from_slice(&values()?, shape)?;
            param.master = None;
            missing.remove(&full);
            Ok(())
        })?;
    }
    match missing.keys().next() {
        None => Ok(kept),
        Some(name) => {
            let problem = format!("lacks {} of the model's tensors, the first {name}", missing.len());
            Err(Error::file(&dir.join(WEIGHTS), problem))
        }
    }
}

/// Calls `each(name, shape, values)` for every tensor of a file; `values` converts to f32 when called.
pub(crate) fn read_tensors(
    path: &Path,
    mut each: impl FnMut(&str, &[usize], &dyn Fn() -> Result<Vec<f32>>) -> Result<()>,
) -> Result<()> {
    let file = File::open(path).map_err(Error::io("cannot read weights", path))?;
    // SAFETY: the map is private and read-only; another process truncating the file meanwhile would raise SIGBUS, which
    // is accepted for files that belong to this user.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io("cannot map", path))?;
    let tensors = SafeTensors::deserialize(&map).map_err(|e| {
        Error::file(path, format!("is not a whole safetensors file ({e}); copy or download it again"))
    })?;
    for (name, view) in tensors.iter() {
        let values = || {
            let bytes = view.data();
            match view.dtype() {
                Dtype::F32 => Ok(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
                Dtype::F16 => {
                    Ok(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect())
                }
                Dtype::BF16 => {
                    Ok(bytes.as_chunks().0.iter().map(|b| Float::to_f32(bf16::from_le_bytes(*b))).collect())
                }
                other => {
                    Err(Error::file(path, format!("{name} has dtype {other:?}; expected F32, F16 or BF16")))
                }
            }
        };
        each(name, view.shape(), &values)?;
    }
    Ok(())
}

/// The model directory that `path` stands for: itself, or of a run directory its best checkpoint (its latest, when none
/// is marked best).
///
/// # Errors
/// [`Error::Run`] when it is neither.
pub fn resolve(path: &Path) -> Result<PathBuf> {
    if path.join(CONFIG).is_file() {
        return Ok(path.to_owned());
    }
    for marker in ["best", "latest"] {
        if let Ok(name) = std::fs::read_to_string(path.join(marker)) {
            let dir = path.join("checkpoints").join(name.trim());
            if dir.join(CONFIG).is_file() {
                return Ok(dir);
            }
        }
    }
    Err(Error::Run(format!(
        "{} is not a model: it holds neither {CONFIG} nor a run's checkpoints; give a directory that `handloom train` or \
         `transformers` wrote",
        path.display()
    )))
}
