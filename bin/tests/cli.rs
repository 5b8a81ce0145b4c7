//! The command line: what it prints, and what it says of bad input.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use common::{Place, handloom, texts};

/// A place with a trained run, `run`.
fn trained() -> Place {
    let place = Place::new();
    place.ok(&place.train("run", &[]));
    place
}

#[test]
fn every_command_has_help_that_names_its_options() {
    let place = tempfile::tempdir().unwrap();
    let help = |args: &[&str]| {
        let output = handloom(place.path(), &[args, &["--help"]].concat()).output().unwrap();
        assert!(output.status.success(), "{args:?}");
        texts(&output).0
    };
    for (args, words) in [
        (&[][..], &["train", "eval", "generate", "data", "tokenizer", "bench"][..]),
        (&["train"], &["--set", "--out", "--device", "--precision", "--resume", "--keys", "CONFIG.toml"]),
        (&["eval"], &["--model", "--data", "--json", "--batch", "--tokenizer"]),
        (
            &["generate"],
            &["--model", "--prompt", "--max-new-tokens", "--temperature", "--top-k", "--top-p", "--greedy"],
        ),
        (&["data"], &["prepare", "inspect", "download"]),
        (&["data", "prepare"], &["--tokenizer", "--cache", "--out", "--shard-tokens"]),
        (&["data", "inspect"], &["--block", "--top", "--sample"]),
        (&["data", "download"], &["wikitext-2"]),
        (&["tokenizer"], &["train", "encode", "decode", "inspect"]),
        (&["tokenizer", "train"], &["--kind", "--vocab-size", "--special", "--out"]),
        (&["bench", "train"], &["--set", "--steps"]),
    ] {
        let text = help(args);
        for word in words {
            assert!(text.contains(word), "{args:?} --help does not mention {word}:\n{text}");
        }
    }
    let output = handloom(place.path(), &["--version"]).output().unwrap();
    assert_eq!(texts(&output).0, format!("handloom {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn usage_errors_exit_with_2() {
    let place = Place::new();
    assert!(place.usage(&["trian"]).contains("'train'"));
    assert!(place.usage(&["train", "--reusme"]).contains("'--resume'"));
    assert!(place.usage(&["generate", "--prompt", "x"]).contains("--model"));
    assert!(place.usage(&["generate", "--model", "m", "--prompt", "x", "--top-k", "-1"]).contains("'-1'"));
    assert!(place.usage(&["eval", "--model", "m", "--batch", "many"]).contains("invalid value 'many'"));
    assert!(place.usage(&["data", "download", "imagenet"]).contains("wikitext-2"));
    assert!(
        place
            .usage(&["tokenizer", "train", "--kind", "words", "--vocab-size", "9", "--out", "x", "y"])
            .contains("wordpiece")
    );
    assert_eq!(place.run(&[]).status.code(), Some(2));
}

#[test]
fn wrong_configurations_are_named() {
    let place = Place::new();
    let set = |setting: &str| place.error(&place.train("x", &["--set", setting]));
    assert_eq!(
        set("train.stepz=7"),
        "configuration: --set train.stepz=7 has an unknown key train.stepz; did you mean train.steps?"
    );
    assert_eq!(
        set("steps=7"),
        "configuration: --set steps=7: expected section.key=value, for example train.steps=100"
    );
    assert_eq!(set("train.batch=0"), "configuration: train.batch is 0, expected at least 1");
    assert_eq!(
        set("model.heads=3"),
        "configuration: width 16 is not a multiple of 3 heads (model.width, model.heads)"
    );
    assert_eq!(set("model.dropout=1"), "configuration: embd_pdrop is 1, expected 0 <= probability < 1");
    assert!(
        set("train.precision=fp8")
            .contains("unknown variant `fp8`, expected one of `fp32`, `tf32`, `bf16`, `fp16`")
    );
    assert!(set("schedule.kind=step").contains("unknown variant `step`"));
    assert!(set("optimizer.lr=-1").contains("optimizer.lr is -1, expected 0 or a positive number"));
    assert!(set("optimizer.betas=[0.9, 1]").contains("betas"));
    assert!(set("data.block=17").contains("data.block is 17, longer than model.context 16"));
    assert!(set("data.block=1").contains("data.block is 1; expected at least 2 tokens"));
    assert!(set("train.seed=-1").contains("seed"));
    let message = set("tokenizer.name=bertt");
    assert!(
        message
            .starts_with("tokenizer \"bertt\": no such file or directory, and the embedded tokenizers are")
    );

    let message = place.error(&["train", "no.toml"]);
    assert!(message.starts_with("cannot read configuration no.toml: "), "{message}");
    fs::write(place.path("bad.toml"), "[train\nsteps = 1\n").unwrap();
    let message = place.error(&["train", "bad.toml"]);
    assert!(message.starts_with("configuration: bad.toml is not valid TOML: "), "{message}");
    fs::write(place.path("latin.toml"), b"# caf\xe9\n").unwrap();
    assert!(place.error(&["train", "latin.toml"]).starts_with("cannot read configuration latin.toml: "));

    let message = place.error(&["train", "--device", "tpu"]);
    assert_eq!(message, "device: `tpu` is no device; expected auto, cpu, cuda, cuda:N or emulator");
    // No machine has so many.
    let message = place.error(&["train", "--device", "cuda:99"]);
    assert!(message.starts_with("CUDA is not available: "), "{message}");
    let message = place.error(&["train", "--device", "cpu", "--precision", "tf32"]);
    assert_eq!(message, "tf32 is a precision of GPUs; on the CPU use fp32 (--precision fp32)");
}

#[test]
fn bad_data_is_named() {
    let place = Place::new();
    let train = |source: &str| {
        let setting = format!("data.train={source}");
        place.error(&place.train("x", &["--set", &setting]))
    };
    fs::write(place.path("empty.txt"), "").unwrap();
    fs::write(place.path("latin.txt"), b"plain text, then caf\xe9").unwrap();
    fs::write(place.path("short.txt"), "the girl").unwrap();
    fs::write(place.path("bad.jsonl"), "{\"text\": \"fine\"}\n{\"words\": 1}\n").unwrap();
    fs::write(place.path("bad.bin"), [0u8; 2048]).unwrap();
    for (source, parts) in [
        ("missing.txt", &["data missing.txt: cannot read it: "][..]),
        ("empty.txt", &["data empty.txt: the file is empty"]),
        (
            "latin.txt",
            &["data latin.txt: not UTF-8 at byte offset 20 (byte 0xe9)", "convert the file to UTF-8"],
        ),
        ("short.txt", &["the training data (data.train) holds ", " tokens, fewer than one block of 16"]),
        (
            "bad.jsonl",
            &["data bad.jsonl, line 2: ", "expected one JSON object a line with a \"text\" string"],
        ),
        ("bad.bin", &["data bad.bin: "]),
        ("embedded:shakespeare", &["there is no such embedded corpus; the one there is: embedded:austen"]),
    ] {
        let message = train(source);
        for part in parts {
            assert!(message.contains(part), "{source}: {message}");
        }
    }
    assert!(train("cache").contains("cache"));
}

#[test]
fn places_that_cannot_be_written_are_named() {
    let place = Place::new();
    fs::write(place.path("file"), "").unwrap();
    let message = place.error(&place.train("file/run", &[]));
    assert!(message.starts_with("cannot create file/run: "), "{message}");
    if std::path::Path::new("/dev/full").exists() {
        // A full disk below standard output.
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let args = ["tokenizer", "encode", "--tokenizer", "tok.json", "the girl"];
        let output = handloom(&place.path(""), &args).stdout(Stdio::from(full)).output().unwrap();
        let (_, err) = texts(&output);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            err.starts_with("error: cannot write to standard output: ") && err.lines().count() == 1,
            "{err}"
        );
    }
}

#[test]
fn a_run_that_diverges_says_so_and_keeps_its_last_checkpoint() {
    let place = Place::new();
    let mut args = place.train("run", &[]);
    for setting in
        ["optimizer.lr=1e30", "optimizer.clip_norm=0", "train.save_every=1", "schedule.warmup_steps=2"]
    {
        args.extend(["--set", setting]);
    }
    let message = place.error(&args);
    assert!(message.starts_with("step ") && message.contains("optimizer.lr"), "{message}");
    let checkpoints = place.checkpoints("run");
    assert!(!checkpoints.is_empty());
    assert_eq!(&place.marker("run", "latest"), checkpoints.last().unwrap());
}

#[test]
fn eval_gives_loss_and_perplexity() {
    let place = trained();
    let eval = |more: &[&str]| {
        place.ok(&[&["eval", "--model", "run", "--data", "valid.txt", "--json"], more].concat()).0
    };
    let result: serde_json::Value = serde_json::from_str(&eval(&[])).unwrap();
    let (loss, perplexity) = (result["loss"].as_f64().unwrap(), result["perplexity"].as_f64().unwrap());
    assert!((perplexity - loss.exp()).abs() < 1e-9 * perplexity);
    // Better than guessing among 300 tokens.
    assert!(loss < 300f64.ln(), "{loss}");
    // A predicted token for every token of a block but its first; the size of the batch is of no matter.
    assert_eq!(result["tokens"].as_u64().unwrap() % 15, 0);
    let other: serde_json::Value = serde_json::from_str(&eval(&["--batch", "3"])).unwrap();
    assert!((other["loss"].as_f64().unwrap() - loss).abs() < 1e-6);

    // The run's own evaluation of the same blocks.
    let best: u64 = place.marker("run", "best").trim_start_matches("step-").parse().unwrap();
    let measured = place.metrics("run")[best as usize - 1]["val_loss"].as_f64().unwrap();
    let same: serde_json::Value = serde_json::from_str(&eval(&["--set", "data.max_valid_blocks=4"])).unwrap();
    assert!((same["loss"].as_f64().unwrap() - measured).abs() < 1e-6, "{same} is not {measured}");

    let (text, _) = place.ok(&["eval", "--model", "run", "--data", "valid.txt"]);
    assert_eq!(
        text,
        format!("loss {loss:.4}, perplexity {perplexity:.2} over {} tokens\n", result["tokens"])
    );

    let message = place.error(&["eval", "--model", "nowhere"]);
    assert!(message.starts_with("nowhere is not a model: "), "{message}");
    let message = place.error(&["eval", "--model", "run", "--set", "train.batch=3"]);
    assert_eq!(
        message,
        "--set train.batch=3: only keys of [data], [objective] and train.pack can be set here"
    );
    let message = place.error(&["eval", "--model", "run", "--data", "valid.txt", "--batch", "0"]);
    assert_eq!(message, "--batch is 0, expected at least 1");
    let message =
        place.error(&["eval", "--model", "run", "--data", "valid.txt", "--tokenizer", "austen-2048"]);
    assert!(!message.is_empty(), "ids beyond the vocabulary are an error");
}

#[test]
fn generate_continues_a_prompt() {
    let place = trained();
    let generate = |more: &[&str]| {
        let args = [&["generate", "--model", "run", "--prompt", "the girl", "--max-new-tokens", "40"], more]
            .concat();
        place.ok(&args).0
    };
    let greedy = generate(&["--greedy"]);
    assert!(greedy.starts_with("the girl") && greedy.ends_with('\n') && greedy.len() > 20, "{greedy}");
    assert_eq!(generate(&["--greedy", "--seed", "9"]), greedy);
    assert_eq!(generate(&["--top-k", "1"]), greedy);
    let sampled = generate(&["--seed", "1", "--temperature", "1.5", "--top-k", "0", "--top-p", "1"]);
    assert_eq!(generate(&["--seed", "1", "--temperature", "1.5", "--top-k", "0", "--top-p", "1"]), sampled);
    assert_ne!(generate(&["--seed", "2", "--temperature", "1.5", "--top-k", "0", "--top-p", "1"]), sampled);
    // The checkpoint is a model directory too.
    let best = format!("run/checkpoints/{}", place.marker("run", "best"));
    let args = ["generate", "--model", &best, "--prompt", "the girl", "--max-new-tokens", "40", "--greedy"];
    assert_eq!(place.ok(&args).0, greedy);

    let args = ["generate", "--model", "run", "--prompt", "-", "--max-new-tokens", "40", "--greedy"];
    let read_from = |prompt: &[u8]| {
        let mut child = handloom(&place.path(""), &args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(prompt).unwrap();
        child.wait_with_output().unwrap()
    };
    assert_eq!(texts(&read_from(b"the girl")).0, greedy);
    let (_, err) = texts(&read_from(b"caf\xe9"));
    assert!(err.starts_with("error: --prompt -: cannot read standard input: "), "{err}");

    let fails =
        |more: &[&str]| place.error(&[&["generate", "--model", "run", "--prompt", "x"], more].concat());
    assert_eq!(fails(&["--top-p", "0"]), "configuration: top-p is 0, expected 0 < p <= 1");
    assert_eq!(
        fails(&["--temperature", "0"]),
        "configuration: temperature is 0, expected a positive number (or --greedy)"
    );
    assert_eq!(
        fails(&["--tokenizer", "austen-2048"]),
        "the tokenizer has 2048 tokens, the model 300; they do not belong together"
    );
    let weights = place.path(&best).join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 5]).unwrap();
    assert!(fails(&[]).contains("model.safetensors: is not a whole safetensors file ("));
}

#[test]
fn data_and_tokenizer_commands_work_together() {
    let place = Place::new();
    let (ids, _) = place.ok(&["tokenizer", "encode", "--tokenizer", "tok.json", "the girl walks"]);
    let ids = ids.trim().to_owned();
    assert_eq!(place.ok(&["tokenizer", "decode", "--tokenizer", "tok.json", &ids]).0, "the girl walks\n");
    assert_eq!(place.ok(&["tokenizer", "encode", "Hello world"]).0, "15496 995\n");
    let (text, _) = place.ok(&["tokenizer", "inspect", "tok.json"]);
    assert!(text.contains("vocabulary   300 tokens") && text.contains("<|endoftext|>"), "{text}");

    let (text, _) = place.ok(&["data", "prepare", "--tokenizer", "tok.json", "--out", "shard", "train.txt"]);
    let tokens: u64 = text.split_whitespace().nth(2).unwrap().parse().unwrap();
    assert!(text.starts_with("1 documents, ") && text.contains("shard_000000.bin"), "{text}");
    let (text, _) =
        place.ok(&["data", "inspect", "--tokenizer", "tok.json", "--block", "16", "shard_000000.bin"]);
    assert!(text.contains(&format!("tokens       {tokens}\n")), "{text}");
    // A run on the shard is the run on the text.
    place.ok(&place.train("text", &[]));
    place.ok(&place.train("shard", &["--set", "data.train=shard_000000.bin"]));
    assert!(place.trained("text", 12)[..2] == place.trained("shard", 12)[..2]);

    let message = place.error(&["tokenizer", "decode", "--tokenizer", "tok.json", "300"]);
    assert!(message.starts_with("tokenizer: id 300 at position 0 is not in the vocabulary of 300 tokens"));
    let message = place.error(&["tokenizer", "decode", "one"]);
    assert_eq!(message, "tokenizer decode: \"one\" is not an id; expected whole numbers");
    let message = place.error(&["tokenizer", "train", "--vocab-size", "10", "--out", "t.json", "train.txt"]);
    assert!(message.starts_with("tokenizer training: "), "{message}");
    let message = place.error(&["tokenizer", "inspect", "train.txt"]);
    assert!(message.starts_with("tokenizer train.txt: "), "{message}");
    let message =
        place.error(&["data", "inspect", "--tokenizer", "tok.json", "--sample", "99999", "train.txt"]);
    assert!(message.starts_with("data inspect: --sample 99999 is beyond the last block, "), "{message}");
    let message = place.error(&["data", "prepare", "nothing.txt"]);
    assert!(message.starts_with("data nothing.txt: cannot read it: "), "{message}");
    // Ids of another vocabulary.
    place.ok(&["data", "prepare", "--tokenizer", "austen-2048", "--out", "wide", "train.txt"]);
    let message = place.error(&place.train("x", &["--set", "data.train=wide_000000.bin"]));
    assert!(
        message.contains("beyond the tokenizer's 300 tokens; the shard was made with another tokenizer"),
        "{message}"
    );
}

#[test]
fn a_reader_that_goes_early_is_no_panic() {
    let place = trained();
    let train = place.train("piped", &["--set", "train.steps=200", "--set", "train.eval_every=2"]);
    for args in [
        &["train", "--keys"][..],
        &["ops", "--json"],
        &["bench", "op", "reshape", "--runs", "1"],
        &["data", "inspect", "--tokenizer", "tok.json", "--top", "300", "train.txt"],
        &["generate", "--model", "run", "--prompt", "the girl\n", "--max-new-tokens", "3000", "--top-p", "1"],
        &train,
    ] {
        let mut child = place.spawn(args);
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.is_empty());
        // The reader is dropped here: the next write meets a closed pipe.
        let output = child.wait_with_output().unwrap();
        let (_, err) = texts(&output);
        assert_eq!((output.status.code(), err.contains("panicked")), (Some(0), false), "{args:?}: {err}");
    }
    // Training went on to its end.
    assert_eq!(place.metrics("piped").len(), 200);
}
