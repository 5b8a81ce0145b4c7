//! A run's configuration: TOML sections, each key settable with `--set section.key=value`.

mod keys;

pub use keys::KEYS;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::bert::BertConfig;
use crate::data::DataConfig;
use crate::error::{Error, Result};
use crate::gpt2::Gpt2Config;
use crate::params::{Init, Precision};
use crate::train::loss_scaler::{LossScaler, LossScaling};
use crate::train::schedule::ScheduleConfig;

/// The default run: a small GPT on the Austen novels.
pub const DEFAULT: &str = include_str!("../../../configs/austen-gpt2.toml");

/// Everything that determines a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    pub model: ModelConfig,
    pub tokenizer: TokenizerConfig,
    pub data: DataConfig,
    pub objective: ObjectiveConfig,
    pub optimizer: OptimizerConfig,
    pub schedule: ScheduleConfig,
    pub train: TrainConfig,
}

/// `[model]`: sizes and dropout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    pub kind: ModelKind,
    pub layers: usize,
    pub heads: usize,
    pub width: usize,
    /// Longest sequence; at least `data.block`.
    pub context: usize,
    /// Width of the MLP; 4 * width when absent.
    pub inner: Option<usize>,
    /// Dropout probability, everywhere GPT-2 has it.
    pub dropout: f64,
    pub tie_embeddings: bool,
    pub init: Init,
    /// Standard deviation of the gpt2 and mimetic initialisations.
    pub init_std: f64,
}

/// Which architecture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelKind {
    #[default]
    Gpt2,
    Bert,
}

impl Default for ModelConfig {
    fn default() -> Self {
        ModelConfig {
            kind: ModelKind::Gpt2,
            layers: 4,
            heads: 4,
            width: 256,
            context: 128,
            inner: None,
            dropout: 0.1,
            tie_embeddings: true,
            init: Init::Gpt2,
            init_std: 0.02,
        }
    }
}

/// `[tokenizer]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenizerConfig {
    /// An embedded tokenizer's name, or a path.
    pub name: String,
}

impl Default for TokenizerConfig {
    fn default() -> Self {
        TokenizerConfig { name: "gpt2".into() }
    }
}

/// `[objective]`: what the model learns to predict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectiveConfig {
    pub kind: ObjectiveKind,
    /// mlm: probability that a position is chosen for prediction.
    pub mask_prob: f64,
    /// mlm: of the chosen positions, the share that becomes `[MASK]`.
    pub mask_token_share: f64,
    /// mlm: of the chosen positions, the share that becomes a random token; what is left of 1 stays as it is.
    pub random_token_share: f64,
    /// mlm: choose whole words instead of single tokens.
    pub whole_word: bool,
}

impl Default for ObjectiveConfig {
    fn default() -> Self {
        ObjectiveConfig {
            kind: ObjectiveKind::Clm,
            mask_prob: 0.15,
            mask_token_share: 0.8,
            random_token_share: 0.1,
            whole_word: false,
        }
    }
}

/// Which objective.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectiveKind {
    /// Causal language modelling: each token from those before it.
    #[default]
    Clm,
    /// Masked language modelling: some tokens from all the others (Devlin et al. 2019, arXiv:1810.04805).
    Mlm,
}

/// `[optimizer]`: AdamW.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    pub lr: f64,
    pub betas: [f64; 2],
    pub eps: f64,
    pub weight_decay: f64,
    /// Which parameters decay.
    pub decay: Decay,
    /// Largest global gradient norm; 0 switches clipping off.
    pub clip_norm: f64,
    /// fp16: the first loss scale. See [`OptimizerConfig::loss_scaling`] for this and the next five.
    pub loss_scale: f64,
    pub loss_scale_growth: f64,
    pub loss_scale_growth_interval: u64,
    pub loss_scale_backoff: f64,
    pub loss_scale_min: f64,
    pub loss_scale_max: f64,
}

/// Which parameters weight decay applies to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Matrices and tables; not biases and layernorm weights.
    #[default]
    Matrices,
    All,
}

impl OptimizerConfig {
    /// The rules of fp16's loss scale.
    pub fn loss_scaling(&self) -> LossScaling {
        LossScaling {
            initial: self.loss_scale,
            growth: self.loss_scale_growth,
            growth_interval: self.loss_scale_growth_interval,
            backoff: self.loss_scale_backoff,
            min: self.loss_scale_min,
            max: self.loss_scale_max,
        }
    }
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        let scaling = LossScaling::default();
        OptimizerConfig {
            lr: 5e-5,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.01,
            decay: Decay::Matrices,
            clip_norm: 1.0,
            loss_scale: scaling.initial,
            loss_scale_growth: scaling.growth,
            loss_scale_growth_interval: scaling.growth_interval,
            loss_scale_backoff: scaling.backoff,
            loss_scale_min: scaling.min,
            loss_scale_max: scaling.max,
        }
    }
}

/// `[train]`: batch, length and bookkeeping.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Rows (blocks) per micro-batch.
    pub batch: usize,
    /// Micro-batches per optimizer step; the loss is averaged over all their tokens.
    pub accumulate: usize,
    /// Optimizer steps; overrides `epochs`.
    pub steps: Option<u64>,
    /// Cut the joined documents into full rows; otherwise each row is one document or a piece of one, and padding.
    pub pack: bool,
    /// Passes over the training blocks, when `steps` is absent.
    pub epochs: f64,
    /// Evaluate every so many steps; 0 evaluates at the end only.
    pub eval_every: u64,
    /// Save a checkpoint every so many steps; 0 saves at the end only.
    pub save_every: u64,
    /// Checkpoints kept besides the best one.
    pub keep_last: usize,
    pub seed: u64,
    pub precision: Precision,
    /// Keep only block inputs and recompute the rest in backward.
    pub recompute: bool,
    /// A model directory to start from instead of a fresh initialisation.
    pub init_from: Option<String>,
    /// Text to generate after training; empty generates nothing.
    pub sample_prompt: String,
    pub sample_tokens: usize,
}

impl Default for TrainConfig {
    fn default() -> Self {
        TrainConfig {
            batch: 16,
            accumulate: 1,
            steps: None,
            pack: true,
            epochs: 1.0,
            eval_every: 0,
            save_every: 0,
            keep_last: 2,
            seed: 42,
            precision: Precision::Fp32,
            recompute: false,
            init_from: None,
            sample_prompt: String::new(),
            sample_tokens: 120,
        }
    }
}

impl RunConfig {
    /// Reads a TOML file, or [`DEFAULT`] without one, and applies `key=value` settings on top.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read; [`Error::Config`] for TOML that does not parse, unknown keys (with
    /// the nearest known one) and values that cannot be.
    pub fn load(path: Option<&Path>, settings: &[String]) -> Result<Self> {
        let (text, origin) = match path {
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).map_err(Error::io("cannot read configuration", path))?;
                (text, path.display().to_string())
            }
            None => (DEFAULT.to_owned(), "the embedded default".to_owned()),
        };
        Self::from_toml(&text, &origin, settings)
    }

    /// As [`RunConfig::load`], from TOML text; `origin` names it in messages.
    pub fn from_toml(text: &str, origin: &str, settings: &[String]) -> Result<Self> {
        let mut table: toml::Table = text
            .parse()
            .map_err(|e| Error::Config(format!("{origin} is not valid TOML: {}", one_line(&e))))?;
        let mut config = parse(&table, origin)?;
        // One at a time, so that a mistake is blamed on the setting that makes it.
        for setting in settings {
            apply_setting(&mut table, setting)?;
            config = parse(&table, &format!("--set {setting}"))?;
        }
        config.validate()?;
        Ok(config)
    }

    /// The loss scaler a run begins with; `None` in precisions that need none.
    pub fn loss_scaler(&self) -> Option<LossScaler> {
        (self.train.precision == Precision::Fp16).then(|| self.optimizer.loss_scaling().start())
    }

    /// The configuration as TOML, complete.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string_pretty(self).map_err(|e| Error::Config(format!("cannot be written as TOML: {e}")))
    }

    /// The model's sizes, given the tokenizer's vocabulary.
    pub fn gpt2(&self, vocab_size: usize, end_of_text: Option<u32>) -> Gpt2Config {
        let model = &self.model;
        Gpt2Config {
            vocab_size,
            n_positions: model.context,
            n_embd: model.width,
            n_layer: model.layers,
            n_head: model.heads,
            n_inner: model.inner,
            embd_pdrop: model.dropout,
            attn_pdrop: model.dropout,
            resid_pdrop: model.dropout,
            initializer_range: model.init_std,
            tie_word_embeddings: model.tie_embeddings,
            bos_token_id: end_of_text,
            eos_token_id: end_of_text,
            ..Gpt2Config::default()
        }
    }

    /// BERT's sizes, given the tokenizer's vocabulary and its padding token.
    pub fn bert(&self, vocab_size: usize, pad: Option<u32>) -> BertConfig {
        let model = &self.model;
        BertConfig {
            vocab_size,
            hidden_size: model.width,
            num_hidden_layers: model.layers,
            num_attention_heads: model.heads,
            intermediate_size: model.inner.unwrap_or(4 * model.width),
            hidden_dropout_prob: model.dropout,
            attention_probs_dropout_prob: model.dropout,
            max_position_embeddings: model.context,
            initializer_range: model.init_std,
            pad_token_id: pad,
            tie_word_embeddings: model.tie_embeddings,
            ..BertConfig::default()
        }
    }

    fn validate(&self) -> Result<()> {
        let fail = |key: &str, got: String, expected: &str| {
            Err(Error::Config(format!("{key} is {got}, expected {expected}")))
        };
        self.data.validate()?;
        let (train, optimizer) = (&self.train, &self.optimizer);
        if self.data.block > self.model.context {
            return Err(Error::Config(format!(
                "data.block is {}, longer than model.context {}; lower data.block or raise model.context",
                self.data.block, self.model.context
            )));
        }
        for (key, value) in [("train.batch", train.batch), ("train.accumulate", train.accumulate)] {
            if value == 0 {
                return fail(key, "0".into(), "at least 1");
            }
        }
        if train.steps == Some(0) {
            return fail("train.steps", "0".into(), "at least 1, or no such key to train for train.epochs");
        }
        if !(train.epochs > 0.0 && train.epochs.is_finite()) {
            return fail("train.epochs", train.epochs.to_string(), "a positive number");
        }
        if train.keep_last == 0 {
            return fail(
                "train.keep_last",
                "0".into(),
                "at least 1: the last checkpoint is what --resume reads",
            );
        }
        if !(optimizer.lr >= 0.0 && optimizer.lr.is_finite()) {
            return fail("optimizer.lr", optimizer.lr.to_string(), "0 or a positive number");
        }
        for (i, beta) in optimizer.betas.into_iter().enumerate() {
            if !(0.0..1.0).contains(&beta) {
                return fail(&format!("optimizer.betas[{i}]"), beta.to_string(), "0 <= beta < 1");
            }
        }
        for (key, value) in [
            ("optimizer.eps", optimizer.eps),
            ("optimizer.weight_decay", optimizer.weight_decay),
            ("optimizer.clip_norm", optimizer.clip_norm),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                return fail(key, value.to_string(), "0 or a positive number");
            }
        }
        optimizer.loss_scaling().validate()?;
        let (model, objective) = (self.model.kind, self.objective.kind);
        let wanted = match model {
            ModelKind::Gpt2 => ObjectiveKind::Clm,
            ModelKind::Bert => ObjectiveKind::Mlm,
        };
        if objective != wanted && train.init_from.is_none() {
            let name = |x: &dyn std::fmt::Debug| format!("{x:?}").to_lowercase();
            return Err(Error::Config(format!(
                "objective.kind is {}, but model.kind {} is trained with {}",
                name(&objective),
                name(&model),
                name(&wanted)
            )));
        }
        if self.model.init == Init::Mimetic && model != ModelKind::Bert {
            return fail("model.init", "mimetic".into(), "another: only model.kind = \"bert\" has this one");
        }
        if !train.pack && objective != ObjectiveKind::Mlm {
            return fail("train.pack", "false".into(), "true: only objective.kind = \"mlm\" pads its rows");
        }
        self.objective.validate()?;
        self.schedule.validate()
    }
}

impl ObjectiveConfig {
    /// Checks that the shares are shares.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key.
    pub fn validate(&self) -> Result<()> {
        for (key, value) in [
            ("mask_prob", self.mask_prob),
            ("mask_token_share", self.mask_token_share),
            ("random_token_share", self.random_token_share),
        ] {
            if !(0.0..=1.0).contains(&value) {
                let message = format!("objective.{key} is {value}, expected a number from 0 to 1");
                return Err(Error::Config(message));
            }
        }
        let sum = self.mask_token_share + self.random_token_share;
        if sum > 1.0 + 1e-9 {
            return Err(Error::Config(format!(
                "objective.mask_token_share {} and objective.random_token_share {} add up to {sum}, expected at most 1",
                self.mask_token_share, self.random_token_share
            )));
        }
        Ok(())
    }
}

/// The configuration that a table describes; `origin` is blamed for what it cannot be.
fn parse(table: &toml::Table, origin: &str) -> Result<RunConfig> {
    keys::check(table, origin)?;
    table.clone().try_into().map_err(|e| Error::Config(format!("{origin}: {}", one_line(&e))))
}

/// Parser messages span lines with a picture of the source; errors here are one line.
fn one_line(e: &dyn std::fmt::Display) -> String {
    let text = e.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(" ")
}

/// Puts `section.key=value` into the table. The value is TOML where it parses as such, else a string; commas outside
/// brackets make a list of strings where the key takes a list.
fn apply_setting(table: &mut toml::Table, setting: &str) -> Result<()> {
    let usage =
        || Error::Config(format!("--set {setting}: expected section.key=value, for example train.steps=100"));
    let (path, value) = setting.split_once('=').ok_or_else(usage)?;
    let (section, key) = path.trim().split_once('.').ok_or_else(usage)?;
    let value = value.trim();
    let parsed = format!("value = {value}").parse::<toml::Table>().ok().and_then(|mut t| t.remove("value"));
    let mut parsed = parsed.unwrap_or_else(|| toml::Value::String(value.to_owned()));
    if keys::takes_list(section, key) && !parsed.is_array() {
        let items = match parsed {
            toml::Value::String(text) => {
                text.split(',').map(|s| toml::Value::String(s.trim().to_owned())).collect()
            }
            other => vec![other],
        };
        parsed = toml::Value::Array(items);
    }
    // Whole numbers are fine where a fraction is expected.
    if let (toml::Value::Integer(i), true) = (&parsed, keys::takes_float(section, key)) {
        parsed = toml::Value::Float(*i as f64);
    }
    let entry = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
    let toml::Value::Table(entry) = entry else { return Err(usage()) };
    entry.insert(key.to_owned(), parsed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(settings: &[&str]) -> Result<RunConfig> {
        let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
        RunConfig::from_toml("", "test.toml", &settings)
    }

    fn message(settings: &[&str]) -> String {
        set(settings).unwrap_err().to_string()
    }

    #[test]
    fn settings_override_and_are_typed() {
        let config = set(&[
            "train.steps=7",
            "optimizer.lr=1",
            "optimizer.betas=[0.8, 0.9]",
            "data.train=a.txt,b.txt",
            "data.valid=c.txt",
            "schedule.kind=cosine",
            "tokenizer.name=austen",
            "train.recompute=true",
        ])
        .unwrap();
        assert_eq!(config.train.steps, Some(7));
        assert_eq!(config.optimizer.lr, 1.0);
        assert_eq!(config.optimizer.betas, [0.8, 0.9]);
        assert_eq!(config.data.train, ["a.txt", "b.txt"]);
        assert_eq!(config.data.valid, ["c.txt"]);
        assert!(config.train.recompute);
    }

    #[test]
    fn a_written_configuration_reads_back_equal() {
        let config = set(&["train.steps=7", "model.inner=99", "optimizer.lr=0.001"]).unwrap();
        assert_eq!(RunConfig::from_toml(&config.to_toml().unwrap(), "run.toml", &[]).unwrap(), config);
    }

    #[test]
    fn the_embedded_default_is_valid() {
        RunConfig::load(None, &[]).unwrap();
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(
            message(&["train.stepz=7"]),
            "configuration: --set train.stepz=7 has an unknown key train.stepz; did you mean train.steps?"
        );
        assert_eq!(
            message(&["trian.steps=7"]),
            "configuration: --set trian.steps=7 has an unknown section [trian]; did you mean [train]?"
        );
        assert_eq!(
            message(&["steps=7"]),
            "configuration: --set steps=7: expected section.key=value, for example train.steps=100"
        );
        assert_eq!(message(&["train.batch=0"]), "configuration: train.batch is 0, expected at least 1");
        for (setting, rest) in [
            ("loss_scale=0", "loss_scale is 0, expected a positive number that f32 holds"),
            (
                "loss_scale_max=1e39",
                &*format!("loss_scale_max is 1{}, expected a positive number that f32 holds", "0".repeat(39)),
            ),
            ("loss_scale=nan", "loss_scale is NaN, expected a positive number that f32 holds"),
            ("loss_scale=0.5", "loss_scale is 0.5, expected loss_scale_min 1 to loss_scale_max 16777216"),
            (
                "loss_scale_min=70000",
                "loss_scale is 65536, expected loss_scale_min 70000 to loss_scale_max 16777216",
            ),
            ("loss_scale_growth=0.5", "loss_scale_growth is 0.5, expected 1 or more"),
            ("loss_scale_backoff=1", "loss_scale_backoff is 1, expected 0 < factor < 1"),
            ("loss_scale_backoff=0", "loss_scale_backoff is 0, expected 0 < factor < 1"),
            ("loss_scale_growth_interval=0", "loss_scale_growth_interval is 0, expected at least 1 step"),
        ] {
            assert_eq!(
                message(&[&format!("optimizer.{setting}")]),
                format!("configuration: optimizer.{rest}")
            );
        }
        // The file is blamed for its own mistakes only, and a setting for its own.
        let two = message(&["train.steps=7", "train.batch=many"]);
        assert!(
            two.starts_with("configuration: --set train.batch=many: invalid type: string \"many\""),
            "{two}"
        );
        let file = RunConfig::from_toml("[train]\nbatch = \"x\"\n", "x.toml", &["train.steps=7".to_owned()]);
        let file = file.unwrap_err().to_string();
        assert!(file.starts_with("configuration: x.toml: invalid type: string \"x\""), "{file}");
        assert!(
            message(&["schedule.kind=cosin"]).contains("unknown variant `cosin`"),
            "{}",
            message(&["schedule.kind=cosin"])
        );
        assert_eq!(
            message(&["data.block=200"]),
            "configuration: data.block is 200, longer than model.context 128; lower data.block or raise model.context"
        );
        let e = RunConfig::from_toml("[train\n", "x.toml", &[]).unwrap_err().to_string();
        assert!(e.starts_with("configuration: x.toml is not valid TOML: ") && !e.contains('\n'), "{e}");
    }
}
