//! Too little device memory: one error that says what was asked for, who holds the most, and what to change.

use std::process::Command;
use std::sync::atomic::AtomicBool;

use handloom_engine::device::Device;
use handloom_model::data::Quiet;
use handloom_model::eval::Evaluation;
use handloom_model::train::metrics::StepMetrics;
use handloom_model::train::{Observer, Placement, Trainer};

use crate::resume::config;

/// Options of the emulated GPU; read when it is opened, so that a process of its own has to set them.
const OPTIONS: &str = "HANDLOOM_EMULATOR";
const LITTLE: &str = "memory=2000000";

struct Silent;

impl Observer for Silent {
    fn step(&mut self, _: &StepMetrics, _: u64) {}
    fn evaluating(&mut self, _: usize, _: usize) {}
    fn evaluated(&mut self, _: u64, _: &Evaluation, _: bool) {}
    fn notice(&mut self, _: &str) {}
}

/// Does nothing but in the process that the test below starts.
#[test]
fn in_two_megabytes() {
    if std::env::var(OPTIONS).ok().as_deref() != Some(LITTLE) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), "fp32");
    config.train.batch = 64;
    let placement = Placement { device: Device::emulator().unwrap(), cuda_graph: true };
    let run = dir.path().join("run");
    let trained = Trainer::open_on(placement, config, &run, false, &Quiet)
        .and_then(|mut trainer| trainer.run(&mut Silent, &AtomicBool::new(false)));
    println!("MESSAGE {}", trained.expect_err("two megabytes are too few"));
}

#[test]
fn running_out_of_memory_says_who_holds_it_and_what_to_change() {
    let program = std::env::current_exe().unwrap();
    let child = Command::new(program)
        .args(["--exact", "memory::in_two_megabytes", "--nocapture"])
        .env(OPTIONS, LITTLE)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    let message = text.lines().find_map(|line| line.split_once("MESSAGE ")).map(|(_, message)| message);
    let message = message.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&child.stderr)));
    for part in [
        "out of device memory: linear asked for 524288 B, ", // 64 rows of 16 tokens, 4 x 32 wide, f32
        " B of 1.9 MiB are free; live buffers hold ",
        "moments ",
        "Lower train.batch (and raise train.accumulate",
        "train.recompute=true",
        "--precision bf16",
    ] {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}
