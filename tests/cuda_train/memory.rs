//! Too little device memory: one error that says what was asked for, who holds the most, and what to change.

use std::process::Command;
use std::sync::atomic::AtomicBool;

use handloom_engine::device::Device;
use handloom_model::data::Quiet;
use handloom_model::eval::Evaluation;
use handloom_model::objective::Batch;
use handloom_model::train::metrics::StepMetrics;
use handloom_model::train::{Observer, Placement, Trainer};

use crate::masked;
use crate::resume::config;
use crate::run::{Place, Run, alone, batches, emulator, gpt};

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
        "out of device memory: mlp asked for 524288 B, ", // 64 rows of 16 tokens, 4 x 32 wide, f32
        " B of 1.9 MiB are free; live buffers hold ",
        "moments ",
        "Lower train.batch (and raise train.accumulate",
        "train.recompute=true",
        "--precision bf16",
    ] {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

/// Bytes planned for a step, and the most that two steps held beside what was there.
fn planned_and_measured(mut run: Run, batches: impl Fn(u64) -> Vec<Batch>) -> (f64, f64) {
    let gpu = emulator();
    let before = gpu.buffers();
    let planned = run.plan();
    assert_eq!(gpu.buffers(), before, "planning leaves the counters as they were");
    gpu.reset_peak();
    (0..2).for_each(|step| drop(run.step(batches(step))));
    (planned as f64, (gpu.buffers().peak - before.live) as f64)
}

#[test]
fn what_is_planned_is_what_a_step_takes() {
    let _alone = alone();
    let gpts: [&[&str]; 6] = [
        &[],
        &["train.precision=bf16"],
        &["train.precision=fp16", "model.layers=5"],
        &["train.recompute=true", "model.layers=4"],
        &["model.width=192", "model.heads=3", "model.dropout=0"],
        &["train.precision=bf16", "model.width=128", "train.recompute=true"],
    ];
    let mut compared: Vec<_> = gpts
        .iter()
        .map(|settings| {
            (
                format!("{settings:?}"),
                planned_and_measured(Run::new(Place::Kernels, gpt(settings), 3), batches),
            )
        })
        .collect();
    let rows = |step| [step, 50 + step].map(|seed| masked::batch_of(16, &[16, 7], seed)).into();
    compared.push(("BERT".into(), planned_and_measured(Run::new(Place::Kernels, masked::bert(), 3), rows)));
    for (what, (planned, measured)) in compared {
        println!("{what}: planned {planned}, measured {measured}");
        assert!((planned / measured - 1.0).abs() < 0.05, "{what}: planned {planned}, measured {measured}");
    }
}

#[test]
fn a_planned_run_trains_as_any_other() {
    let _alone = alone();
    let [plain, planned] = [false, true].map(|plan| {
        let mut run = Run::new(Place::Graph, gpt(&[]), 4);
        if plan {
            run.plan();
        }
        let losses: Vec<_> = (0..4).map(|step| run.step(batches(step)).loss).collect();
        run.device_step = None;
        (losses, run.bits())
    });
    assert_eq!(plain.0, planned.0);
    assert!(plain.1 == planned.1, "other bits after planning");
}
