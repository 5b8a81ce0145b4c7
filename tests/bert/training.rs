//! Whole runs: data in frames and padding, resuming, fixed masks, and what is refused.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use handloom_engine::ops::cross_entropy::IGNORE_INDEX;
use handloom_model::config::RunConfig;
use handloom_model::data::{Frame, Layout, Order, Quiet};
use handloom_model::eval::Evaluation;
use handloom_model::huggingface;
use handloom_model::objective::{Batch, Objective};
use handloom_model::tokenizer::Tokenizer;
use handloom_model::train::metrics::StepMetrics;
use handloom_model::train::{Observer, Outcome, Trainer};

const SMALL: [&str; 17] = [
    "model.kind=bert",
    "objective.kind=mlm",
    "model.layers=1",
    "model.heads=2",
    "model.width=16",
    "model.context=32",
    "model.dropout=0.1",
    "tokenizer.name=austen-wordpiece",
    "data.block=32",
    "data.max_blocks=11",
    "data.max_valid_blocks=9",
    "train.batch=4",
    "train.steps=8",
    "train.save_every=3",
    "train.eval_every=4",
    "optimizer.lr=0.01",
    "schedule.warmup_steps=0",
];

fn config(dir: &Path, more: &[&str]) -> handloom_model::error::Result<RunConfig> {
    let mut settings: Vec<String> = SMALL.iter().chain(more).map(|s| s.to_string()).collect();
    settings.push(format!("data.cache={}", dir.join("cache").display()));
    RunConfig::from_toml("", "test", &settings)
}

/// Stops after a step; keeps what it is told.
struct Watch<'a> {
    stop_after: u64,
    stop: &'a AtomicBool,
    steps: Vec<StepMetrics>,
    evaluations: Vec<Evaluation>,
}

impl Observer for Watch<'_> {
    fn step(&mut self, metrics: &StepMetrics, _: u64) {
        self.steps.push(metrics.clone());
        self.stop.store(metrics.step == self.stop_after, Ordering::Relaxed);
    }
    fn evaluating(&mut self, _: usize, _: usize) {}
    fn evaluated(&mut self, _: u64, evaluation: &Evaluation, _: bool) {
        self.evaluations.push(*evaluation);
    }
    fn notice(&mut self, _: &str) {}
}

fn run(
    config: RunConfig,
    out: &Path,
    resume: bool,
    stop_after: u64,
) -> (Outcome, Vec<StepMetrics>, Vec<Evaluation>) {
    let stop = AtomicBool::new(false);
    let mut watch = Watch { stop_after, stop: &stop, steps: Vec::new(), evaluations: Vec::new() };
    let mut trainer = Trainer::open(config, out, resume, &Quiet).unwrap();
    let outcome = trainer.run(&mut watch, &stop).unwrap();
    (outcome, watch.steps, watch.evaluations)
}

#[test]
fn a_resumed_run_ends_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    for precision in ["fp32", "bf16"] {
        let config = config(dir.path(), &[&format!("train.precision={precision}")]).unwrap();
        let [whole, parts] = ["whole", "parts"].map(|name| dir.path().join(format!("{name}-{precision}")));
        let (outcome, steps, _) = run(config.clone(), &whole, false, 0);
        assert!(!outcome.interrupted);
        let (first, _, _) = run(config.clone(), &parts, false, 5);
        assert!(first.interrupted);
        let (second, rest, _) = run(config, &parts, true, 0);
        for file in ["model.safetensors", "optimizer.safetensors", "state.json"] {
            let read = |outcome: &Outcome| std::fs::read(outcome.checkpoint.join(file)).unwrap();
            assert_eq!(read(&outcome), read(&second), "{precision}: {file}");
        }
        let figures = |step: &StepMetrics| (step.step, step.loss, step.masked_accuracy);
        assert_eq!(
            steps[5..].iter().map(figures).collect::<Vec<_>>(),
            rest.iter().map(figures).collect::<Vec<_>>()
        );
        // 11 blocks, 32 rows: every block comes again, with another mask, so no two losses are equal.
        assert!(steps.iter().all(|step| step.masked_accuracy.is_some_and(|a| (0.0..=1.0).contains(&a))));
    }
}

#[test]
fn evaluation_has_a_fixed_mask() {
    let dir = tempfile::tempdir().unwrap();
    // A learning rate of 0: the model stays as it is, and so must the evaluation; the training loss varies with the mask.
    let config = config(dir.path(), &["optimizer.lr=0", "model.dropout=0", "data.max_blocks=4"]).unwrap();
    let (_, steps, evaluations) = run(config, &dir.path().join("run"), false, 0);
    assert_eq!(evaluations.len(), 2);
    assert_eq!(evaluations[0], evaluations[1]);
    assert!(evaluations[0].masked_accuracy.is_some() && evaluations[0].tokens > 20);
    // Every step has the same four rows.
    assert!(steps.windows(2).all(|pair| pair[0].loss != pair[1].loss), "{steps:?}");
    let text = std::fs::read_to_string(dir.path().join("run/metrics.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!(last["masked_accuracy"].is_number() && last["val_masked_accuracy"].is_number(), "{last}");
}

#[test]
fn steps_in_which_nothing_is_chosen_change_nothing_but_decay() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), &["objective.mask_prob=0", "optimizer.weight_decay=0"]).unwrap();
    let out = dir.path().join("run");
    let weights = |outcome: &Outcome| std::fs::read(outcome.checkpoint.join("model.safetensors")).unwrap();
    let (first, _, _) = run(config.clone(), &out, false, 3);
    let begun = weights(&first);
    let (last, steps, evaluations) = run(config, &out, true, 0);
    for step in steps {
        assert_eq!((step.loss, step.grad_norm, step.masked_accuracy), (Some(0.0), Some(0.0), Some(0.0)));
    }
    assert!(evaluations.len() == 2 && evaluations.iter().all(|e| (e.loss, e.tokens) == (0.0, 0)));
    assert!(begun == weights(&last));
}

fn rows_of(config: &RunConfig, tokenizer: &Tokenizer) -> (Objective, handloom_model::data::Blocks) {
    let objective = Objective::new(config, tokenizer).unwrap();
    let blocks = config.data.open_train_as(objective.layout(), tokenizer, &Quiet).unwrap();
    (objective, blocks)
}

fn ints(batch: &Batch) -> (Vec<i32>, Vec<i32>) {
    (batch.ids.slice::<i32>().unwrap().to_vec(), batch.targets.slice::<i32>().unwrap().to_vec())
}

#[test]
fn packed_rows_are_framed_pieces_of_the_stream() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), &["objective.mask_prob=0"]).unwrap();
    let tokenizer = Tokenizer::embedded("austen-wordpiece").unwrap();
    let (objective, blocks) = rows_of(&config, &tokenizer);
    let mut stream = vec![0; 30 * 11];
    blocks.stream().fill(0, &mut stream);
    let order = Order { seed: 1, shuffle: false, num_blocks: 11 };
    let batch = objective.training_batch(&blocks, &order, 0..11).unwrap();
    assert!(batch.key_mask.is_none());
    for (row, body) in ints(&batch).0.chunks_exact(32).zip(stream.chunks_exact(30)) {
        assert_eq!((row[0], &row[1..31], row[31]), (2, body, 3));
    }
}

#[test]
fn unpacked_rows_are_documents_with_padding() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("texts.jsonl");
    let long = "truth ".repeat(70);
    let lines = ["it is a truth", "", &long, "a single man"]
        .map(|text| format!("{}\n", serde_json::json!({ "text": text })));
    std::fs::write(&file, lines.concat()).unwrap();
    let set = format!("data.train={}", file.display());
    let more = [&*set, "train.pack=false", "data.valid=", "data.max_blocks=100"];
    let tokenizer = Tokenizer::embedded("austen-wordpiece").unwrap();
    let config = config(dir.path(), &[&more[..], &["data.valid=[]"]].concat()).unwrap();
    let (objective, blocks) = rows_of(&config, &tokenizer);
    // 70 tokens are two rows of 30 and one of 10.
    assert_eq!((blocks.num_blocks(), blocks.unused_tokens()), (5, 4), "{blocks}");
    let order = Order { seed: 1, shuffle: false, num_blocks: 5 };
    let batch = objective.training_batch(&blocks, &order, 0..5).unwrap();
    let mask = batch.key_mask.as_ref().unwrap().slice::<i32>().unwrap().to_vec();
    let (ids, targets) = ints(&batch);
    let lengths: Vec<usize> =
        mask.chunks_exact(32).map(|row| row.iter().filter(|m| **m == 1).count()).collect();
    assert_eq!(lengths, [6, 32, 32, 12, 5]);
    for (row, length) in lengths.into_iter().enumerate() {
        let at = |values: &[i32]| values[row * 32..][..32].to_vec();
        let (ids, targets, mask) = (at(&ids), at(&targets), at(&mask));
        assert_eq!((ids[0], ids[length - 1]), (2, 3), "row {row}");
        assert!(ids[length..].iter().all(|id| *id == 0) && mask[..length].iter().all(|m| *m == 1));
        assert!(targets[length..].iter().all(|target| *target == IGNORE_INDEX));
        let original: Vec<i32> =
            ids.iter().zip(&targets).map(|(id, t)| if *t == IGNORE_INDEX { *id } else { *t }).collect();
        if row == 0 {
            let want = tokenizer.encode("it is a truth").unwrap();
            assert_eq!(original[..6], want.into_iter().map(|id| id as i32).collect::<Vec<_>>());
        }
    }
    let (outcome, _, _) = run(config, &dir.path().join("run"), false, 0);
    assert_eq!(outcome.steps, 8);
}

#[test]
fn what_cannot_be_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |more: &[&str]| match config(dir.path(), more) {
        Err(error) => error.to_string(),
        Ok(config) => {
            Trainer::open(config, &dir.path().join("run"), false, &Quiet).err().expect("refused").to_string()
        }
    };
    let message = refused(&["tokenizer.name=austen"]);
    assert!(message.contains("has no [MASK] token"), "{message}");
    assert_eq!(
        refused(&["objective.kind=clm"]),
        "configuration: objective.kind is clm, but model.kind bert is trained with mlm"
    );
    assert!(refused(&["objective.mask_token_share=0.95"]).contains("add up to 1.05, expected at most 1"));
    assert_eq!(
        refused(&["data.block=40"]),
        "configuration: data.block is 40, longer than model.context 32; lower data.block or raise model.context"
    );
    assert_eq!(refused(&["data.block=2"]), "data.block is 2; expected at least 3: [CLS], a token, [SEP]");
    assert!(
        refused(&["model.kind=gpt2", "objective.kind=clm", "train.pack=false"])
            .contains("train.pack is false")
    );
    // A model to start from that has fewer tokens than the tokenizer, or a shorter position table than a row.
    let tiny = crate::golden::path("");
    let message = refused(&[&format!("train.init_from={}", tiny.display())]);
    assert!(
        message.contains("has 97 tokens and a context of 19; the tokenizer has 4096 and data.block is 32"),
        "{message}"
    );
    let causal = Tokenizer::embedded("austen").unwrap();
    assert!(Frame::of(&causal).unwrap_err().to_string().contains("has no [SEP] token"));
}

#[test]
fn a_bare_encoder_cannot_be_trained() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), &[]).unwrap();
    let (outcome, _, _) = run(config, &dir.path().join("run"), false, 0);
    let model = huggingface::load_bert(&outcome.checkpoint).unwrap();
    assert_eq!(model.config.architectures, ["BertForMaskedLM"]);
    assert_eq!(model.config.pad_token_id, Some(0));
    assert!(matches!(
        Objective::new(&RunConfig::default(), &Tokenizer::embedded("austen").unwrap()).unwrap().layout(),
        Layout::Plain
    ));
}
