//! Checkpoints: atomic, checksummed, complete.
//!
//! A checkpoint is a directory `checkpoints/step-NNNNNN`: a model directory ([`crate::huggingface`]) with the optimizer's
//! state and the run's position beside it, and a manifest of every file's size and BLAKE3 hash. It is written under another
//! name, flushed, and renamed: it is there whole or not at all. docs/src/formats.md describes the files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use handloom_engine::device::Device;
use handloom_engine::dtype::DType;
use handloom_engine::profile::{Pass, scope};
use handloom_engine::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::loss_scaler::LossScaler;
use crate::data::write_atomic;
use crate::error::{Error, Result};
use crate::huggingface::{self, read_tensors, write_tensors, write_text};
use crate::model::LanguageModel;
use crate::tokenizer::Tokenizer;

const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
const MANIFEST: &str = "manifest.json";
const FORMAT: u32 = 1;
/// What the manifest vouches for.
const FILES: [&str; 5] =
    [huggingface::CONFIG, huggingface::WEIGHTS, huggingface::TOKENIZER, OPTIMIZER, STATE];

/// The run's position: with the configuration, the model and the moments, all that a resumed run needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Optimizer steps done.
    pub step: u64,
    /// Rows of data used. The order of the data and all random draws are functions of this, of `step` and of the seed.
    pub rows: u64,
    /// Micro-batches done: the step of dropout's streams.
    pub micro_steps: u64,
    /// Optimizer updates applied: steps less the skipped ones.
    pub updates: u64,
    pub loss_scaler: Option<LossScaler>,
    /// Best evaluation so far.
    pub best: Option<Best>,
    /// Blocks of the training data, to notice when it has changed.
    pub num_blocks: u64,
    /// Hash of those blocks' tokens.
    pub data: String,
    /// Hash of the tokenizer.
    pub tokenizer: String,
}

/// The best evaluation of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    pub step: u64,
    pub val_loss: f64,
}

/// First and second moments, one of each per parameter.
pub struct Moments {
    pub m: Vec<Tensor>,
    pub v: Vec<Tensor>,
}

impl Moments {
    /// The moments on another device.
    ///
    /// # Errors
    /// When a GPU has no room for them.
    pub fn to_device(&self, device: Device) -> Result<Self> {
        let _owner = scope("moments", Pass::Other);
        let all = |moments: &[Tensor]| moments.iter().map(|x| x.to_device(device)).collect::<Result<_, _>>();
        Ok(Moments { m: all(&self.m)?, v: all(&self.v)? })
    }

    /// The moments of a model that has not been trained, where its parameters are.
    ///
    /// # Errors
    /// When a GPU has no room for them.
    pub fn zeros(model: &dyn LanguageModel) -> Result<Self> {
        let _owner = scope("moments", Pass::Other);
        let device = model.params().device();
        let zeros = || model.params().iter().map(|p| Tensor::zeros(p.value.shape(), DType::F32, device));
        Ok(Moments { m: zeros().collect::<Result<_, _>>()?, v: zeros().collect::<Result<_, _>>()? })
    }
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    step: u64,
    files: BTreeMap<String, Entry>,
}

#[derive(Serialize, Deserialize, PartialEq)]
struct Entry {
    bytes: u64,
    blake3: String,
}

/// What a checkpoint holds.
type Loaded = (Box<dyn LanguageModel>, Moments, State);

/// The checkpoints of one run directory.
pub struct Checkpoints {
    run: PathBuf,
}

fn name_of(step: u64) -> String {
    format!("step-{step:06}")
}

fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(Error::io("cannot flush directory", path))
}

fn hash(path: &Path) -> Result<Entry> {
    let bytes = fs::read(path).map_err(Error::io("cannot read", path))?;
    Ok(Entry { bytes: bytes.len() as u64, blake3: blake3::hash(&bytes).to_hex().to_string() })
}

impl Checkpoints {
    /// The checkpoints below `run`; creates the directory and removes what an interrupted save left.
    pub fn open(run: &Path) -> Result<Self> {
        let dir = run.join("checkpoints");
        fs::create_dir_all(&dir).map_err(Error::io("cannot create", &dir))?;
        let checkpoints = Checkpoints { run: run.to_owned() };
        for entry in fs::read_dir(&dir).map_err(Error::io("cannot list", &dir))? {
            let path = entry.map_err(Error::io("cannot list", &dir))?.path();
            if path.extension().is_some_and(|ext| ext == "partial" || ext == "old") {
                fs::remove_dir_all(&path).map_err(Error::io("cannot remove unfinished", &path))?;
            }
        }
        Ok(checkpoints)
    }

    /// Where the checkpoint of `step` is.
    pub fn path(&self, step: u64) -> PathBuf {
        self.run.join("checkpoints").join(name_of(step))
    }

    /// Steps that have a checkpoint, ascending. Other entries of the directory are ignored.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let dir = self.run.join("checkpoints");
        let mut steps = Vec::new();
        for entry in fs::read_dir(&dir).map_err(Error::io("cannot list", &dir))? {
            let name = entry.map_err(Error::io("cannot list", &dir))?.file_name();
            let step = name.to_str().and_then(|name| name.strip_prefix("step-")?.parse::<u64>().ok());
            steps.extend(step.filter(|step| name.to_str() == Some(&name_of(*step))));
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// Writes the checkpoint of `state.step`, points `latest` (and with `is_best`, `best`) to it, and removes all but the
    /// last `keep_last` and the best.
    pub fn save(
        &self,
        model: &dyn LanguageModel,
        tokenizer: &Tokenizer,
        moments: &Moments,
        state: &State,
        keep_last: usize,
        is_best: bool,
    ) -> Result<PathBuf> {
        let path = self.path(state.step);
        let partial = path.with_extension("partial");
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(Error::io("cannot remove unfinished", &partial))?;
        }
        fs::create_dir_all(&partial).map_err(Error::io("cannot create", &partial))?;
        huggingface::save(&partial, model, tokenizer)?;
        let names = || model.params().iter().map(|p| &p.name);
        let m = names().zip(&moments.m).map(|(name, m)| (format!("m.{name}"), m));
        let v = names().zip(&moments.v).map(|(name, v)| (format!("v.{name}"), v));
        write_tensors(&partial.join(OPTIMIZER), m.chain(v))?;
        let json = serde_json::to_string_pretty(state).expect("bug in handloom-model: the state is JSON");
        write_text(&partial.join(STATE), &json)?;
        let mut files = BTreeMap::new();
        for name in FILES {
            files.insert(name.to_owned(), hash(&partial.join(name))?);
        }
        let manifest = Manifest { format: FORMAT, step: state.step, files };
        let json =
            serde_json::to_string_pretty(&manifest).expect("bug in handloom-model: the manifest is JSON");
        write_text(&partial.join(MANIFEST), &json)?;
        sync_dir(&partial)?;
        if path.exists() {
            // A resumed run comes past a step it had saved before: the same bits, or a damaged one to replace.
            let old = path.with_extension("old");
            fs::rename(&path, &old).map_err(Error::io("cannot replace", &path))?;
            fs::rename(&partial, &path).map_err(Error::io("cannot rename", &partial))?;
            fs::remove_dir_all(&old).map_err(Error::io("cannot remove", &old))?;
        } else {
            fs::rename(&partial, &path).map_err(Error::io("cannot rename", &partial))?;
        }
        sync_dir(&self.run.join("checkpoints"))?;
        self.point("latest", state.step)?;
        if is_best {
            self.point("best", state.step)?;
        }
        self.prune(keep_last, state)?;
        Ok(path)
    }

    /// Completes the save of `state`, just loaded: a process killed after renaming its checkpoint had not yet moved the
    /// markers or removed older ones; and markers may name a newer one that was passed over.
    pub fn settle(&self, state: &State, keep_last: usize) -> Result<()> {
        self.point("latest", state.step)?;
        if let Some(best) = state.best.filter(|best| self.path(best.step).is_dir()) {
            self.point("best", best.step)?;
        }
        self.prune(keep_last, state)
    }

    /// Makes the file `marker` of the run directory name the checkpoint of `step`.
    fn point(&self, marker: &str, step: u64) -> Result<()> {
        let path = self.run.join(marker);
        write_atomic(&path, |file| writeln!(file, "{}", name_of(step)))
            .map_err(Error::io("cannot write", &path))
    }

    /// Keeps the newest `keep_last` checkpoints and the best. A later step than the state's is a damaged checkpoint that
    /// the run has not come past again; it counts for nothing.
    fn prune(&self, keep_last: usize, state: &State) -> Result<()> {
        let best = state.best.map(|best| best.step);
        let steps = self.steps()?;
        let until_now = steps.iter().rev().filter(|step| **step <= state.step);
        for &step in until_now.skip(keep_last).filter(|step| Some(**step) != best) {
            let path = self.path(step);
            fs::remove_dir_all(&path).map_err(Error::io("cannot remove old checkpoint", &path))?;
        }
        Ok(())
    }

    /// Loads the newest checkpoint that is whole, telling `notice` of each newer one that is not. `None` when there is no
    /// checkpoint at all.
    ///
    /// # Errors
    /// When there are checkpoints but none is whole.
    pub fn load_latest(&self, mut notice: impl FnMut(&str)) -> Result<Option<Loaded>> {
        let steps = self.steps()?;
        let mut last_error = None;
        for &step in steps.iter().rev() {
            match self.load(step) {
                Ok(found) => return Ok(Some(found)),
                Err(e) => {
                    notice(&format!("checkpoint passed over: {e}"));
                    last_error = Some(e);
                }
            }
        }
        match last_error {
            None => Ok(None),
            Some(e) => Err(Error::Run(format!(
                "none of the {} checkpoints in {} is whole; the oldest: {e}. Start the run anew in another --out directory",
                steps.len(),
                self.run.join("checkpoints").display()
            ))),
        }
    }

    /// Loads the checkpoint of `step` after comparing every file with the manifest.
    fn load(&self, step: u64) -> Result<Loaded> {
        let dir = self.path(step);
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).map_err(Error::io("cannot read", &path))
        };
        let manifest: Manifest = serde_json::from_str(&read(MANIFEST)?)
            .map_err(|e| Error::file(&dir.join(MANIFEST), format!("is damaged: {e}")))?;
        if manifest.format != FORMAT || manifest.step != step {
            let problem = format!(
                "describes format {} and step {}, expected format {FORMAT} and step {step}",
                manifest.format, manifest.step
            );
            return Err(Error::file(&dir.join(MANIFEST), problem));
        }
        if let Some(name) = FILES.into_iter().find(|name| !manifest.files.contains_key(*name)) {
            return Err(Error::file(&dir.join(MANIFEST), format!("does not name {name}; it is damaged")));
        }
        for (name, entry) in &manifest.files {
            let path = dir.join(name);
            let found = hash(&path)?;
            if found.bytes != entry.bytes {
                let problem =
                    format!("has {} bytes, was written with {}; it is damaged", found.bytes, entry.bytes);
                return Err(Error::file(&path, problem));
            }
            if found != *entry {
                return Err(Error::file(
                    &path,
                    "does not have the checksum it was written with; it is damaged",
                ));
            }
        }
        let state: State =
            serde_json::from_str(&read(STATE)?).map_err(|e| Error::file(&dir.join(STATE), e.to_string()))?;
        let model = huggingface::load(&dir)?;
        let moments = load_moments(&dir.join(OPTIMIZER), &*model)?;
        Ok((model, moments, state))
    }
}

fn load_moments(path: &Path, model: &dyn LanguageModel) -> Result<Moments> {
    let mut found = BTreeMap::new();
    read_tensors(path, |name, shape, values| {
        found.insert(name.to_owned(), Tensor::from_slice(&values()?, shape)?);
        Ok(())
    })?;
    let mut take = |moment: &str| -> Result<Vec<Tensor>> {
        let tensors = model.params().iter().map(|param| {
            let name = format!("{moment}.{}", param.name);
            let tensor = found.remove(&name).ok_or_else(|| Error::file(path, format!("lacks {name}")))?;
            if tensor.shape() != param.value.shape() {
                let problem =
                    format!("{name} is {:?}, the parameter {:?}", tensor.shape(), param.value.shape());
                return Err(Error::file(path, problem));
            }
            Ok(tensor)
        });
        tensors.collect()
    };
    Ok(Moments { m: take("m")?, v: take("v")? })
}
