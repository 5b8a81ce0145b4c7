//! Masked language modelling on the command line: a whole run, and one clear error for each thing that cannot be.

mod common;

use common::Place;
use serde_json::Value;

/// A place with a WordPiece tokenizer of 90 tokens, word.json, and bert.toml for it.
fn place() -> Place {
    let place = Place::new();
    let train = ["tokenizer", "train", "--kind", "wordpiece", "--vocab-size", "90", "--out", "word.json"];
    place.ok(&[&train[..], &["train.txt"]].concat());
    std::fs::write(
        place.path("bert.toml"),
        r#"
model = { kind = "bert", layers = 1, heads = 2, width = 16, context = 16, dropout = 0.1 }
objective = { kind = "mlm" }
tokenizer = { name = "word.json" }
data = { train = ["train.txt"], valid = ["valid.txt"], block = 16, max_valid_blocks = 4 }
optimizer = { lr = 1e-2 }
train = { batch = 4, steps = 12, eval_every = 4, save_every = 6, sample_prompt = "[MASK] home" }
"#,
    )
    .unwrap();
    place
}

fn trained() -> Place {
    let place = place();
    place.ok(&["train", "bert.toml", "--out", "run"]);
    place
}

#[test]
fn a_run_is_trained_resumed_evaluated_and_asked() {
    let place = place();
    let train = ["train", "bert.toml", "--out", "run"];
    let (out, _) = place.ok(&train);
    for words in [
        "BERT, 1 layers, 2 heads, width 16",
        "masked accuracy",
        "mask 1 (token 1)",
        "handloom fill --model run",
    ] {
        assert!(out.contains(words), "{words:?} is not in\n{out}");
    }
    // Half the run, then the other half: the same bits.
    place.ok(&[
        "train",
        "bert.toml",
        "--out",
        "parts",
        "--set",
        "train.steps=6",
        "--set",
        "schedule.kind=constant",
    ]);
    place.ok(&["train", "--resume", "--out", "parts", "--set", "train.steps=12"]);
    place.ok(&["train", "bert.toml", "--out", "whole", "--set", "schedule.kind=constant"]);
    assert!(place.trained("parts", 12) == place.trained("whole", 12));
    let metrics = place.metrics("run");
    assert!(metrics.iter().all(|line| line["masked_accuracy"].is_number()));
    assert!(metrics[3]["val_masked_accuracy"].is_number() && metrics[4]["val_loss"].is_null());

    let eval = |more: &[&str]| -> Value {
        let (out, _) =
            place.ok(&[&["eval", "--model", "run", "--data", "valid.txt", "--json"], more].concat());
        serde_json::from_str(&out).unwrap()
    };
    let (one, other) = (eval(&["--batch", "4"]), eval(&["--batch", "3"]));
    let loss = |value: &Value| value["loss"].as_f64().unwrap();
    assert!((loss(&one) - loss(&other)).abs() < 1e-5, "{one} {other}");
    assert_eq!((&one["tokens"], &one["masked_accuracy"]), (&other["tokens"], &other["masked_accuracy"]));
    // On [MASK] alone nothing can be read off the position itself.
    let hard = ["--set", "objective.mask_token_share=1.0", "--set", "objective.random_token_share=0"];
    let hard = eval(&hard);
    assert_eq!(hard["tokens"], one["tokens"], "the same positions are chosen");
    assert_ne!(loss(&hard), loss(&one));

    let fill = ["fill", "--model", "run", "--text", "the [MASK] walks [MASK]", "--top-k", "3", "--json"];
    let masks: Value = serde_json::from_str(&place.ok(&fill).0).unwrap();
    assert_eq!(masks.as_array().unwrap().len(), 2);
    let predictions = masks[1]["predictions"].as_array().unwrap();
    assert_eq!(predictions.len(), 3);
    let probability = |i: usize| predictions[i]["probability"].as_f64().unwrap();
    assert!(probability(0) >= probability(1) && probability(1) >= probability(2) && probability(2) > 0.0);
}

#[test]
fn inspect_tells_the_entropy_and_bench_builds_bert() {
    let place = place();
    std::fs::write(place.path("half.txt"), "a. ".repeat(32)).unwrap();
    let (out, _) = place.ok(&["data", "inspect", "--tokenizer", "word.json", "--block", "8", "half.txt"]);
    // 32 of each token, and one token before the document: ln 65 - 64/65 ln 32.
    let want = 65f64.ln() - 64.0 / 65.0 * 32f64.ln();
    assert!(out.contains(&format!("entropy      {want:.4} nats a token")), "{want}\n{out}");

    let bench =
        ["bench", "train", "--set", "model.kind=bert", "--set", "objective.kind=mlm", "--vocab", "50"];
    let small =
        ["--set", "model.width=16", "--set", "model.layers=1", "--steps", "1", "--warmup", "0", "--json"];
    let report: Value = serde_json::from_str(&place.ok(&[&bench[..], &small].concat()).0).unwrap();
    assert_eq!(report["model"], "BERT, 1 layers, 4 heads, width 16, context 128");
    assert_eq!(report["vocab"], 50);
}

#[test]
fn what_cannot_be_trained_is_named() {
    let place = trained();
    let set = |settings: &[&str]| {
        let settings: Vec<&str> = settings.iter().flat_map(|s| ["--set", s]).collect();
        place.error(&[&["train", "bert.toml", "--out", "x"], &settings[..]].concat())
    };
    assert_eq!(
        set(&["tokenizer.name=tok.json"]),
        "the tokenizer (BPE, 300 tokens) has no [MASK] token, which objective.kind = \"mlm\" needs; use a BERT tokenizer, \
         for example: handloom tokenizer train --kind wordpiece"
    );
    assert_eq!(
        set(&["objective.mask_token_share=0.95"]),
        "configuration: objective.mask_token_share 0.95 and objective.random_token_share 0.1 add up to 1.05, expected at \
         most 1"
    );
    assert_eq!(
        set(&["objective.mask_prob=1.5"]),
        "configuration: objective.mask_prob is 1.5, expected a number from 0 to 1"
    );
    assert_eq!(
        set(&["objective.mask_share=1"]),
        "configuration: --set objective.mask_share=1 has an unknown key objective.mask_share; did you mean \
         objective.mask_token_share?"
    );
    // A vocabulary larger than the model's, and rows longer than its position table.
    assert_eq!(
        set(&["train.init_from=run", "tokenizer.name=austen-wordpiece"]),
        "run: has 90 tokens and a context of 16; the tokenizer has 4096 and data.block is 16"
    );
    assert_eq!(
        set(&["train.init_from=run", "model.context=32", "data.block=32"]),
        "run: has 90 tokens and a context of 16; the tokenizer has 90 and data.block is 32"
    );
    assert_eq!(
        set(&["data.block=17"]),
        "configuration: data.block is 17, longer than model.context 16; lower data.block or raise model.context"
    );
    assert_eq!(
        set(&["objective.whole_word=true", "tokenizer.name=uni.json"]),
        "tokenizer \"uni.json\": no such file or directory, and the embedded tokenizers are austen, austen-2048, \
         austen-wordpiece, gpt2"
    );
}

#[test]
fn what_cannot_be_evaluated_or_filled_in_is_named() {
    let place = trained();
    let eval =
        |more: &[&str]| place.error(&[&["eval", "--model", "run", "--data", "valid.txt"], more].concat());
    assert_eq!(
        eval(&["--tokenizer", "austen-wordpiece"]),
        "the tokenizer has 4096 tokens, the model 90; they do not belong together"
    );
    assert_eq!(
        eval(&["--set", "data.block=32"]),
        "configuration: data.block is 32, longer than model.context 16; lower data.block or raise model.context"
    );
    assert_eq!(
        eval(&["--set", "objective.mask_token_share=1.0"]),
        "configuration: objective.mask_token_share 1 and objective.random_token_share 0.1 add up to 1.1, expected at most 1"
    );
    let fill = |more: &[&str]| place.error(&[&["fill", "--model", "run"], more].concat());
    assert_eq!(
        fill(&["--text", "the girl"]),
        "the text has no [MASK] to fill in; write one for each missing token"
    );
    assert_eq!(
        fill(&["--text", &"[MASK] ".repeat(15)]),
        "the text has 17 tokens, the model's position table 16; give a shorter text"
    );
    assert_eq!(
        fill(&["--text", "[MASK]", "--tokenizer", "austen-wordpiece"]),
        "the tokenizer has 4096 tokens, the model 90; they do not belong together"
    );
    assert_eq!(
        fill(&["--text", "[MASK]", "--tokenizer", "tok.json"]),
        "the tokenizer has 300 tokens, the model 90; they do not belong together"
    );
    place.ok(&place.train("causal", &[]));
    let message = place.error(&["fill", "--model", "causal", "--text", "[MASK]"]);
    assert!(message.ends_with("config.json: model_type is \"gpt2\"; supported: \"bert\""), "{message}");
    let message = place.error(&["generate", "--model", "run", "--prompt", "the"]);
    assert!(message.ends_with("config.json: model_type is \"bert\"; supported: \"gpt2\""), "{message}");
}
