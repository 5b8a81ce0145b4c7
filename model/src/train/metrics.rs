//! `metrics.jsonl`: one JSON object a line, what was measured at a step.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, Result};

/// Measurements of one optimizer step. What was not measured is left out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StepMetrics {
    /// 1 for the first step.
    pub step: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ppl: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Global gradient norm before clipping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ms_per_step: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped_steps: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_ppl: Option<f64>,
    /// Share of the predicted tokens of this step that got the largest logit, ties included (masked language models).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masked_accuracy: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_masked_accuracy: Option<f64>,
    /// Largest memory of live tensors so far, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<String>,
}

/// Appends to a run's `metrics.jsonl`.
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Opens the file and drops lines after `step`, and any unfinished line: a resumed run writes them again.
    pub fn open(run: &Path, step: u64) -> Result<Self> {
        let path = run.join("metrics.jsonl");
        let old = std::fs::read_to_string(&path).unwrap_or_default();
        let keep = |line: &&str| {
            let value: Option<serde_json::Value> = serde_json::from_str(line).ok();
            value.and_then(|v| v.get("step")?.as_u64()).is_some_and(|s| s <= step)
        };
        let kept: String = old.lines().filter(keep).flat_map(|line| [line, "\n"]).collect();
        if kept != old {
            crate::data::write_atomic(&path, |file| file.write_all(kept.as_bytes()))
                .map_err(Error::io("cannot write", &path))?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.map_err(Error::io("cannot open", &path))?;
        Ok(MetricsFile { path, file })
    }

    /// Adds a line.
    pub fn write(&mut self, metrics: &StepMetrics) -> Result<()> {
        let mut line = serde_json::to_string(metrics).expect("bug in handloom-model: metrics are JSON");
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(Error::io("cannot write", &self.path))
    }
}
