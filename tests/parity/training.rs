//! Training runs: AdamW, schedules, half precision.

use handloom_model::params::Precision;
use handloom_model::train::loss_scaler::LossScaler;
use handloom_model::train::schedule::{ScheduleConfig, ScheduleKind};
use handloom_tests::close::{Tolerance, assert_close};
use handloom_tests::goldens::{self, Golden, numbers};

use crate::run::Run;

fn absolute(absolute: f64) -> Tolerance {
    Tolerance { absolute, relative: 0.0 }
}

fn relative(relative: f64) -> Tolerance {
    Tolerance { absolute: 0.0, relative }
}

/// Warm-up, decay, clipping: losses, norms, rates and the parameters after 20 steps. `batches_of` splits a step's rows.
fn assert_adamw_run(micro_batches: usize) {
    let golden = Golden::open("gpt2-tiny/adamw.safetensors");
    let accumulate = format!("train.accumulate={micro_batches}");
    let mut run = Run::like(&golden, goldens::tiny(), &[&accumulate]);
    let (mut losses, mut norms, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for batch in golden.run_batches() {
        let (rows, time) = (batch.ids.shape()[0], batch.ids.shape()[1]);
        let (ids, targets) = (batch.ids.slice::<i32>().unwrap(), batch.targets.slice::<i32>().unwrap());
        let size = rows / micro_batches * time;
        let parts = ids.chunks_exact(size).zip(targets.chunks_exact(size));
        let measured = run.step(parts.map(|(ids, targets)| goldens::batch(ids, targets, time)).collect());
        losses.push(measured.loss.unwrap());
        norms.push(measured.grad_norm.unwrap());
        rates.push(measured.lr.unwrap());
    }
    let json = |key: &str| numbers(&golden.json[key]);
    assert_close("lr", &[20], &rates, &json("lr"), relative(1e-12));
    assert_close("loss", &[20], &losses, &json("loss_f64"), absolute(1e-5));
    assert_close("gradient norm", &[20], &norms, &json("grad_norm_f64"), relative(1e-5));
    for param in run.model.params.iter() {
        let (shape, mut want) = golden.floats(&format!("final.{}", param.name));
        let mut got: Vec<f64> = param.value.to_vec_f32().into_iter().map(f64::from).collect();
        if param.name.ends_with("c_attn.bias") {
            // The keys' biases have gradient 0; AdamW divides rounding noise by its own size.
            let keys = want.len() / 3..2 * want.len() / 3;
            got[keys.clone()].fill(0.0);
            want[keys].fill(0.0);
        }
        assert_close(&param.name, &shape, &got, &want, absolute(2e-6));
    }
}

#[test]
fn twenty_adamw_steps_are_pytorchs() {
    assert_adamw_run(1);
}

#[test]
fn twenty_accumulated_adamw_steps_are_pytorchs() {
    assert_adamw_run(4);
}

#[test]
fn fp32_follows_pytorch_over_fifty_steps() {
    let golden = Golden::open("gpt2-tiny/bf16.safetensors");
    let losses = Run::like(&golden, goldens::tiny(), &[]).losses(&golden);
    assert_close("loss", &[50], &losses, &numbers(&golden.json["loss_f32"]), relative(2e-5));
}

#[test]
fn bf16_follows_pytorchs_autocast() {
    let golden = Golden::open("gpt2-tiny/bf16.safetensors");
    let losses = Run::like(&golden, goldens::tiny(), &["train.precision=bf16"]).losses(&golden);
    let json = |key: &str| numbers(&golden.json[key]);
    assert_close("autocast", &[50], &losses, &json("loss_bf16_autocast"), relative(0.01));
    assert_close("f32", &[50], &losses, &json("loss_f32"), relative(0.01));
    // It computes in bf16 at all: f32 is a hundred times closer.
    let furthest = losses.iter().zip(json("loss_f32")).map(|(a, b)| (a / b - 1.0).abs());
    assert!(furthest.clone().all(f64::is_finite) && furthest.fold(0.0, f64::max) > 1e-4);
}

#[test]
fn fp16_with_loss_scaling_follows_fp32() {
    let golden = Golden::open("gpt2-tiny/bf16.safetensors");
    let mut run = Run::like(&golden, goldens::tiny(), &["train.precision=fp16"]);
    let losses = run.losses(&golden);
    assert_close("f32", &[50], &losses, &numbers(&golden.json["loss_f32"]), relative(0.003));
    assert_eq!(run.state.loss_scaler.unwrap().skipped_steps, 0);
    assert_eq!(run.state.updates, 50);
}

#[test]
fn a_step_whose_gradients_overflow_is_skipped_and_the_scale_halves() {
    let golden = Golden::open("gpt2-tiny/bf16.safetensors");
    let mut run = Run::like(&golden, goldens::tiny(), &["train.precision=fp16", "schedule.warmup_steps=0"]);
    let values = |run: &Run| -> Vec<Vec<f32>> {
        let moments = run.moments.m.iter().chain(&run.moments.v);
        run.model.params.iter().map(|p| p.master()).chain(moments).map(|t| t.to_vec_f32()).collect()
    };
    // The largest gradient of a logit is near 1/64, times 2^24 beyond f16's 65504.
    let scale = (1u64 << 24) as f64;
    run.state.loss_scaler = Some(LossScaler { scale, ..LossScaler::default() });
    let before = values(&run);
    let mut batches = golden.run_batches().into_iter();
    let measured = run.step(vec![batches.next().unwrap()]);
    assert!(values(&run) == before, "a skipped step changes nothing");
    assert_eq!((run.state.step, run.state.updates, run.state.micro_steps), (1, 0, 1));
    assert_eq!((measured.loss_scale, measured.skipped_steps), (Some(scale / 2.0), Some(1)));
    // It recovers by itself, and then the first update is AdamW's first.
    while run.state.updates == 0 {
        run.step(vec![batches.next().unwrap()]);
    }
    assert!(values(&run) != before);
    let (m, v) = (&run.moments.m[0].to_vec_f32(), &run.moments.v[0].to_vec_f32());
    // m = (1 - b1) g and v = (1 - b2) g^2 with b1 = 0.9, b2 = 0.95: v / m^2 = 0.05 / 0.01.
    let ratio = |(m, v): (&f32, &f32)| (*m as f64).abs().gt(&1e-6).then(|| *v as f64 / (*m as f64).powi(2));
    let ratios: Vec<f64> = m.iter().zip(v).filter_map(ratio).collect();
    assert!(ratios.len() > 100);
    assert_close("v / m^2", &[ratios.len()], &ratios, &vec![5.0; ratios.len()], relative(1e-4));
}

#[test]
fn half_precision_keeps_masters_that_its_weights_round() {
    let golden = Golden::open("gpt2-tiny/bf16.safetensors");
    let mut run = Run::like(&golden, goldens::tiny(), &["train.precision=bf16"]);
    run.losses(&golden);
    for param in run.model.params.iter() {
        assert_eq!(param.value.dtype(), Precision::Bf16.dtype());
        let master = param.master().to_vec_f32();
        let rounded: Vec<f32> = master.iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect();
        assert_eq!(param.value.to_vec_f32(), rounded, "{}", param.name);
        assert_ne!(master, rounded, "{}: the master has no more bits than the weight", param.name);
    }
}

#[test]
fn schedules_are_those_of_transformers() {
    let golden = goldens::json("schedules.json");
    let number = |key: &str| golden[key].as_u64().unwrap();
    let (steps, warmup_steps, decay) = (number("steps"), number("warmup_steps"), number("wsd_decay_steps"));
    for (name, kind, final_lr_ratio) in [
        ("constant", ScheduleKind::Constant, 0.0),
        ("linear", ScheduleKind::Linear, 0.0),
        ("cosine", ScheduleKind::Cosine, 0.0),
        ("cosine_final_0.1", ScheduleKind::Cosine, 0.1),
        ("wsd_linear", ScheduleKind::Wsd, 0.0),
    ] {
        let schedule = ScheduleConfig { kind, warmup_steps, final_lr_ratio, decay_steps: Some(decay) };
        let got: Vec<f64> = (0..steps).map(|step| schedule.factor(step, steps)).collect();
        let want = numbers(&golden["multipliers"][name]);
        assert_close(name, &[steps as usize], &got, &want, absolute(1e-12));
    }
}

#[test]
fn schedules_end_at_their_final_rate_and_bear_odd_lengths() {
    let kinds = [ScheduleKind::Linear, ScheduleKind::Cosine, ScheduleKind::Wsd];
    for kind in kinds {
        let schedule = ScheduleConfig { kind, warmup_steps: 3, final_lr_ratio: 0.25, decay_steps: None };
        assert_close("final", &[1], &[schedule.factor(20, 20)], &[0.25], absolute(1e-12));
        // A run shorter than its warm-up, of one step, and steps beyond its end.
        for (step, steps) in [(0, 1), (1, 1), (2, 2), (5, 2), (100, 20), (3, 3)] {
            let factor = schedule.factor(step, steps);
            assert!((0.0..=1.0).contains(&factor), "{kind:?} {step}/{steps}: {factor}");
        }
    }
}
