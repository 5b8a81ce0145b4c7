//! Running the binary on a tiny configuration in a directory of its own.
#![allow(dead_code)] // each test target uses a part

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// A directory with a corpus, a validation text, a tokenizer of 300 tokens, and a token cache.
pub struct Place {
    dir: tempfile::TempDir,
}

/// Words drawn by a linear congruential generator.
pub fn text(words: usize, mut seed: u64) -> String {
    const WORDS: [&str; 24] = [
        "the", "a", "girl", "walks", "home", "slowly", "and", "sees", "bright", "birds", "over", "old",
        "trees", "while", "her", "brother", "sings", "loudly", "in", "green", "fields", "of", "winter",
        "wheat",
    ];
    let mut text = String::new();
    for i in 0..words {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        text.push_str(WORDS[(seed >> 33) as usize % WORDS.len()]);
        text.push_str(if i % 11 == 10 { ".\n" } else { " " });
    }
    text
}

/// A command of the binary, away from the user's cache.
pub fn handloom(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_handloom"));
    command.args(args).current_dir(dir).env("HANDLOOM_CACHE", dir.join("cache"));
    command.env("RAYON_NUM_THREADS", "2").stdin(Stdio::null());
    command
}

impl Place {
    pub fn new() -> Self {
        let place = Place { dir: tempfile::tempdir().unwrap() };
        std::fs::write(place.path("train.txt"), text(1500, 1)).unwrap();
        std::fs::write(place.path("valid.txt"), text(120, 2)).unwrap();
        let train = ["tokenizer", "train", "--vocab-size", "300", "--out", "tok.json", "train.txt"];
        place.ok(&train);
        std::fs::write(
            place.path("tiny.toml"),
            r#"
model = { layers = 1, heads = 2, width = 16, context = 16, dropout = 0.1 }
tokenizer = { name = "tok.json" }
data = { train = ["train.txt"], valid = ["valid.txt"], block = 16, max_valid_blocks = 4 }
optimizer = { lr = 1e-2 }
schedule = { kind = "cosine", warmup_steps = 3 }
train = { batch = 2, accumulate = 2, steps = 12, eval_every = 4, save_every = 4, keep_last = 3, seed = 5 }
"#,
        )
        .unwrap();
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn run(&self, args: &[&str]) -> Output {
        handloom(self.dir.path(), args).output().unwrap()
    }

    /// Starts a command whose output goes to pipes.
    pub fn spawn(&self, args: &[&str]) -> Child {
        handloom(self.dir.path(), args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Standard output and standard error of a command that must succeed.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> (String, String) {
        let output = self.run(args);
        let (out, err) = texts(&output);
        assert!(
            output.status.success() && !err.contains("panicked"),
            "{args:?}: {}\n{out}\n{err}",
            output.status
        );
        (out, err)
    }

    /// The error of a command that must fail: one line, exit code 1.
    #[track_caller]
    pub fn error(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let (_, err) = texts(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {err}");
        // Notes may come first.
        let lines: Vec<&str> = err.lines().filter(|line| !line.starts_with("note: ")).collect();
        assert_eq!(lines.len(), 1, "{args:?}: {err}");
        let message = lines[0].strip_prefix("error: ").unwrap_or_else(|| panic!("{args:?}: {err}"));
        message.replace(&format!("{}/", self.dir.path().display()), "")
    }

    /// The usage error of a command: exit code 2.
    #[track_caller]
    pub fn usage(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let (_, err) = texts(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {err}");
        assert!(err.starts_with("error: ") && !err.contains("panicked"), "{args:?}: {err}");
        err
    }

    /// `train tiny.toml --out OUT` and `more`.
    pub fn train<'a>(&self, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        [&["train", "tiny.toml", "--out", out], more].concat()
    }

    /// The files of a checkpoint that hold what was trained.
    pub fn trained(&self, run: &str, step: u64) -> Vec<Vec<u8>> {
        let dir = self.path(run).join(format!("checkpoints/step-{step:06}"));
        let read = |name: &str| {
            std::fs::read(dir.join(name)).unwrap_or_else(|e| panic!("{}/{name}: {e}", dir.display()))
        };
        ["model.safetensors", "optimizer.safetensors", "state.json"].map(read).to_vec()
    }

    /// The lines of a run's metrics.
    pub fn metrics(&self, run: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path(run).join("metrics.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Names in a run's checkpoints directory, sorted.
    pub fn checkpoints(&self, run: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(run).join("checkpoints")).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Contents of a file of a run, without the line's end.
    pub fn marker(&self, run: &str, name: &str) -> String {
        std::fs::read_to_string(self.path(run).join(name)).unwrap().trim_end().to_owned()
    }

    /// Copies a run directory.
    pub fn copy(&self, from: &str, to: &str) {
        copy_dir(&self.path(from), &self.path(to));
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (entry, target) = (entry.unwrap(), to.to_owned());
        let target = target.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}
