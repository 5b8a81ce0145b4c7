//! Runs that are killed, interrupted, damaged, and continued: the end is the same bits.
#![cfg(unix)]

mod common;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use common::{Place, texts};
use handloom_model::config::RunConfig;

const SIGKILL: i32 = 9;

/// A pause between looks at what a child does.
fn pause() {
    std::thread::sleep(Duration::from_micros(300));
}

fn assert_same_end(place: &Place, whole: &str, resumed: &str, steps: u64) {
    assert!(place.trained(whole, steps) == place.trained(resumed, steps), "{resumed} ended with other bits");
    let of = |run: &str| -> Vec<(u64, String, String)> {
        let text = |value: &serde_json::Value| value.to_string();
        let lines = place.metrics(run).into_iter();
        lines.map(|m| (m["step"].as_u64().unwrap(), text(&m["loss"]), text(&m["val_loss"]))).collect()
    };
    assert_eq!(
        of(resumed).iter().map(|(step, ..)| *step).collect::<Vec<_>>(),
        (1..=steps).collect::<Vec<_>>()
    );
    assert_eq!(of(resumed), of(whole));
    assert_eq!(place.marker(resumed, "latest"), format!("step-{steps:06}"));
    assert_eq!(place.marker(resumed, "best"), place.marker(whole, "best"));
    assert_eq!(place.checkpoints(resumed), place.checkpoints(whole));
}

/// Kills `child` when a save it has not been seen in before is under way, the `nth` of them.
fn kill_while_saving(place: &Place, run: &str, child: &mut Child, nth: u64) {
    let mut seen = Vec::new();
    while child.try_wait().unwrap().is_none() {
        let entries = fs::read_dir(place.path(run).join("checkpoints")).into_iter().flatten().flatten();
        let partial =
            entries.map(|e| e.file_name()).find(|name| name.to_string_lossy().ends_with(".partial"));
        if let Some(name) = partial.filter(|name| !seen.contains(name)) {
            seen.push(name);
            if seen.len() as u64 == nth {
                break;
            }
        }
        pause();
    }
    child.kill().unwrap();
}

#[test]
fn a_run_killed_many_times_ends_with_the_same_bits() {
    const STEPS: u64 = 60;
    let place = Place::new();
    let more = ["--set", "train.steps=60", "--set", "train.save_every=3", "--set", "train.eval_every=5"];
    let started = Instant::now();
    place.ok(&place.train("whole", &more));
    let whole = started.elapsed();

    let mut random = 12345u64;
    let mut draw = |below: u64| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) % below
    };
    let (mut kills, mut hits, mut while_saving, mut resumes) = (0, 0, 0, 0);
    for run in 0.. {
        let run = format!("killed-{run}");
        let mut args = place.train(&run, &more);
        args.push("--resume");
        loop {
            let mut child = place.spawn(&args);
            kills += 1;
            if draw(2) == 0 {
                kill_while_saving(&place, &run, &mut child, 1 + draw(3));
            } else {
                let delay = whole.mul_f64(0.3 * draw(1000) as f64 / 1000.0);
                std::thread::sleep(delay);
                child.kill().unwrap();
            }
            let output = child.wait_with_output().unwrap();
            if output.status.signal() == Some(SIGKILL) {
                hits += 1;
                let left =
                    place.path(&run).join("checkpoints").is_dir() && !place.checkpoints(&run).is_empty();
                while_saving +=
                    u64::from(left && place.checkpoints(&run).iter().any(|name| name.ends_with(".partial")));
                continue;
            }
            let (_, err) = texts(&output);
            assert!(output.status.success(), "{err}");
            break;
        }
        resumes += 1;
        // Nothing is left to do: a further --resume changes nothing.
        place.ok(&args);
        assert_same_end(&place, "whole", &run, STEPS);
        if hits >= 20 && while_saving >= 3 {
            break;
        }
        assert!(kills < 200, "{kills} kills, {hits} hits, {while_saving} while saving");
    }
    println!(
        "{kills} kills, {hits} of a live process, {while_saving} of them while saving; {resumes} runs completed"
    );
    assert!(2 * hits >= kills, "only {hits} of {kills} kills hit a live process");
}

#[test]
fn ctrl_c_saves_and_resuming_completes_the_run() {
    const STEPS: u64 = 60;
    let place = Place::new();
    let more = ["--set", "train.steps=60", "--set", "train.save_every=0", "--set", "train.eval_every=20"];
    place.ok(&place.train("whole", &more));
    let child = place.spawn(&place.train("stopped", &more));
    let deadline = Instant::now() + Duration::from_secs(30);
    let lines =
        || fs::read_to_string(place.path("stopped/metrics.jsonl")).unwrap_or_default().lines().count();
    while lines() < 5 {
        assert!(Instant::now() < deadline, "no five steps in 30 s");
        pause();
    }
    let id = child.id().to_string();
    assert!(Command::new("sh").args(["-c", &format!("kill -INT {id}")]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(err.contains("stopping after this step; Ctrl-C again to stop at once"), "{err}");
    let sentence = out.lines().last().unwrap();
    let step = place.metrics("stopped").len();
    assert!((5..STEPS as usize).contains(&step), "it was stopped before its end, after step {step}");
    assert_eq!(sentence, format!("stopped after step {step}; continue with: --resume --out stopped"));
    assert_eq!(place.checkpoints("stopped"), [format!("step-{step:06}")]);

    // run.toml is enough: the configuration need not be named again.
    let (out, _) = place.ok(&["train", "--resume", "--out", "stopped"]);
    assert!(out.contains(&format!("resuming   after step {step}\n")), "{out}");
    assert!(place.trained("whole", STEPS)[..2] == place.trained("stopped", STEPS)[..2]);
    assert_eq!(place.metrics("stopped").len() as u64, STEPS);
}

#[test]
fn damaged_checkpoints_are_named_and_passed_over() {
    const FILES: [&str; 6] = [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "optimizer.safetensors",
        "state.json",
        "manifest.json",
    ];
    let place = Place::new();
    place.ok(&place.train("whole", &[]));
    assert_eq!(place.checkpoints("whole"), ["step-000004", "step-000008", "step-000012"]);

    type Damage = fn(&std::path::Path);
    let damages: [(&str, Damage); 3] = [
        ("flip", |path| {
            let mut bytes = fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        ("truncate", |path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("delete", |path| fs::remove_file(path).unwrap()),
    ];
    for (how, damage) in damages {
        for file in FILES {
            let run = format!("{how}-{file}");
            place.copy("whole", &run);
            damage(&place.path(&run).join("checkpoints/step-000012").join(file));
            let (out, err) = place.ok(&["train", "--resume", "--out", &run]);
            // A manifest with one wrong digit still reads: then it is the file it is about that differs.
            let about_another = (how, file) == ("flip", "manifest.json");
            let named = format!("step-000012/{}", if about_another { "" } else { file });
            let note = err.lines().find(|line| line.contains("checkpoint passed over: ")).unwrap_or_default();
            assert!(note.starts_with("note: ") && note.contains(&named), "{run}: {err}");
            assert!(out.contains("resuming   after step 8\n"), "{run}: {out}");
            assert_same_end(&place, "whole", &run, 12);
        }
    }

    // A manifest of another checkpoint; a file that the manifest does not name.
    for (what, manifest) in [
        ("foreign", fs::read_to_string(place.path("whole/checkpoints/step-000008/manifest.json")).unwrap()),
        ("empty", r#"{"format": 1, "step": 12, "files": {}}"#.to_owned()),
        ("newer", r#"{"format": 2, "step": 12, "files": {}}"#.to_owned()),
    ] {
        place.copy("whole", what);
        fs::write(place.path(what).join("checkpoints/step-000012/manifest.json"), manifest).unwrap();
        // The empty manifest vouches for nothing: a damaged file beside it would be read unseen.
        let state = place.path(what).join("checkpoints/step-000012/state.json");
        let text = fs::read_to_string(&state).unwrap().replace("\"micro_steps\": 24", "\"micro_steps\": 25");
        fs::write(&state, text).unwrap();
        let (_, err) = place.ok(&["train", "--resume", "--out", what]);
        assert!(
            err.contains("note: checkpoint passed over: ") && err.contains("step-000012/manifest.json"),
            "{what}: {err}"
        );
        assert_same_end(&place, "whole", what, 12);
    }

    for step in [4, 8, 12] {
        let weights = place.path(&format!("whole/checkpoints/step-{step:06}/model.safetensors"));
        fs::write(weights, "").unwrap();
    }
    let message = place.error(&["train", "--resume", "--out", "whole"]);
    assert!(
        message.starts_with("none of the 3 checkpoints in whole/checkpoints is whole; the oldest: ")
            && message.contains("step-000004/model.safetensors: has 0 bytes, was written with ")
            && message.ends_with("Start the run anew in another --out directory"),
        "{message}"
    );
}

#[test]
fn retention_keeps_what_was_just_saved_beside_a_damaged_later_checkpoint() {
    let place = Place::new();
    place.ok(&place.train("run", &[]));
    for step in ["step-000008", "step-000012"] {
        fs::remove_file(place.path("run/checkpoints").join(step).join("state.json")).unwrap();
    }
    place.ok(&["train", "--resume", "--out", "run", "--set", "train.steps=6", "--set", "train.keep_last=1"]);
    assert!(place.checkpoints("run").contains(&"step-000006".to_owned()), "{:?}", place.checkpoints("run"));
    assert_eq!(place.marker("run", "latest"), "step-000006");
}

#[test]
fn markers_left_behind_by_a_kill_are_restored() {
    let place = Place::new();
    place.ok(&place.train("run", &[]));
    let best = place.marker("run", "best");
    fs::write(place.path("run/latest"), "step-000008\n").unwrap();
    fs::remove_file(place.path("run/best")).unwrap();
    place.ok(&["train", "--resume", "--out", "run"]);
    assert_eq!(place.marker("run", "latest"), "step-000012");
    assert_eq!(place.marker("run", "best"), best);
}

#[test]
fn what_a_resumed_run_cannot_continue_is_named() {
    let place = Place::new();
    place.ok(&place.train("run", &[]));
    let resume =
        |more: &[&'static str]| place.error(&[&["train", "--resume", "--out", "run"], more].concat());

    let message = place.error(&place.train("run", &[]));
    assert_eq!(message, "run already holds a run; continue it with --resume, or choose another --out");

    place.ok(&["tokenizer", "train", "--vocab-size", "290", "--out", "other.json", "train.txt"]);
    let message = resume(&["--set", "tokenizer.name=other.json"]);
    assert!(message.starts_with("the tokenizer is not the one this run began with; restore it"), "{message}");

    let message = resume(&["--set", "model.width=32"]);
    assert!(
        message.starts_with("--resume keeps the [model] and [objective] the run began with"),
        "{message}"
    );

    let text = fs::read_to_string(place.path("train.txt")).unwrap();
    fs::write(place.path("train.txt"), &text[..text.len() / 2]).unwrap();
    let message = resume(&[]);
    assert!(
        message.starts_with("the training data has ") && message.contains(" when this run began"),
        "{message}"
    );

    // As long as it was, but other words.
    fs::write(place.path("train.txt"), text.replacen("girl", "home", 1)).unwrap();
    let message = resume(&[]);
    assert!(message.starts_with("the training data is not what it was when this run began"), "{message}");

    // None of these refusals touched the run.
    fs::write(place.path("train.txt"), text).unwrap();
    place.ok(&["train", "--resume", "--out", "run", "--set", "train.steps=14"]);
    assert_eq!(place.metrics("run").len(), 14);

    let message = place.error(&["train", "--resume"]);
    assert_eq!(message, "--resume: runs/austen-gpt2 holds no run; name one with --out");
}

#[test]
fn a_run_directory_holds_what_the_design_says() {
    let place = Place::new();
    // A rate at which a model of this size overshoots: the best evaluation is not among the last two.
    let settings = [
        "train.steps=24",
        "train.save_every=2",
        "train.eval_every=3",
        "train.keep_last=2",
        "optimizer.lr=0.3",
        "schedule.kind=constant",
    ];
    let mut args = place.train("run", &[]);
    settings.iter().for_each(|setting| args.extend(["--set", setting]));
    place.ok(&args);

    let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
    let want = RunConfig::load(Some(&place.path("tiny.toml")), &settings).unwrap();
    assert_eq!(RunConfig::load(Some(&place.path("run/run.toml")), &[]).unwrap(), want);

    let metrics = place.metrics("run");
    assert_eq!(metrics.len(), 24);
    let mut best = (f64::INFINITY, 0);
    for (i, line) in metrics.iter().enumerate() {
        let step = i as u64 + 1;
        assert_eq!(line["step"].as_u64(), Some(step));
        for key in ["loss", "ppl", "lr", "grad_norm", "tokens_per_s", "ms_per_step", "peak_bytes"] {
            assert!(line[key].as_f64().is_some_and(|x| x >= 0.0), "{key} in {line}");
        }
        assert_eq!((line["device"].as_str(), line["precision"].as_str()), (Some("cpu"), Some("fp32")));
        assert_eq!(line["lr"].as_f64(), Some(if step <= 3 { 0.3 * (step - 1) as f64 / 3.0 } else { 0.3 }));
        let val_loss = line["val_loss"].as_f64();
        assert_eq!(val_loss.is_some(), step.is_multiple_of(3), "{line}");
        if let Some(val_loss) = val_loss.filter(|loss| *loss < best.0) {
            best = (val_loss, step);
        }
    }
    assert!(best.1 < 22, "the case needs an early best, got {best:?}");
    let best = format!("step-{:06}", best.1);
    assert_eq!(place.marker("run", "latest"), "step-000024");
    assert_eq!(place.marker("run", "best"), best);
    // Saved last: 24 (the end), 22 (every second).
    assert_eq!(place.checkpoints("run"), [best.as_str(), "step-000022", "step-000024"]);
}
