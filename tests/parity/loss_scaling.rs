//! Dynamic loss scaling on the CPU: a scale far too large recovers, one far too small loses gradients.

use handloom_tests::close::{Tolerance, assert_close};
use handloom_tests::goldens::{self, Golden};

use crate::run::{Run, gradients};

const CONSTANT: [&str; 2] = ["schedule.kind=constant", "schedule.warmup_steps=0"];

fn run(golden: &Golden, more: &[&str]) -> Run {
    Run::like(golden, goldens::tiny(), &[&CONSTANT, more].concat())
}

#[test]
fn a_scale_far_too_large_recovers_and_training_matches_f32() {
    let golden = Golden::open("gpt2-tiny/bf16.safetensors");
    let batches = || golden.run_batches().into_iter();
    let far = ["train.precision=fp16", "optimizer.loss_scale=68719476736", "optimizer.loss_scale_max=1e11"];
    let mut half = run(&golden, &far);
    let mut full = run(&golden, &[]);
    let (mut losses, mut want, mut scales) = (Vec::new(), Vec::new(), vec![2f64.powi(36)]);
    for (batch, again) in batches().zip(batches()) {
        let updates = half.state.updates;
        let measured = half.step(vec![batch]);
        let skipped = half.state.updates == updates;
        assert_eq!(skipped, !measured.grad_norm.unwrap().is_finite());
        let scale = measured.loss_scale.unwrap();
        assert_eq!(scale, scales[scales.len() - 1] * if skipped { 0.5 } else { 1.0 });
        scales.push(scale);
        // f32 trains on the batches that fp16 did not skip.
        if !skipped {
            losses.push(measured.loss.unwrap());
            want.push(full.step(vec![again]).loss.unwrap());
        }
    }
    let skipped = half.state.loss_scaler.unwrap().skipped_steps as usize;
    // The largest gradient of a logit is near 1/64, and f16 ends at 2^16: scales above 2^22 overflow, 2^10 does not.
    assert!((14..=26).contains(&skipped), "{skipped} steps skipped: {scales:?}");
    assert_eq!(losses.len() + skipped, 50);
    let band = Tolerance { absolute: 0.0, relative: 0.003 };
    assert_close("loss", &[want.len()], &losses, &want, band);
}

#[test]
fn gradients_that_vanish_without_scaling_are_kept_by_it() {
    let golden = Golden::open("gpt2-tiny/bf16.safetensors");
    let norm = |settings: &[&str]| {
        let batch = golden.run_batches().swap_remove(0);
        let (measured, grads) = gradients(goldens::tiny(), vec![batch], settings);
        let zeros = grads.iter().flat_map(|(_, grad)| grad).filter(|g| **g == 0.0).count();
        (measured.grad_norm.unwrap(), zeros)
    };
    let (want, zeros) = norm(&[]);
    let (got, kept) = norm(&["train.precision=fp16", "optimizer.loss_scale=65536"]);
    assert!((got / want - 1.0).abs() < 0.01, "norm {got} with scale 2^16, f32 {want}");
    assert!(kept <= zeros + zeros / 10 + 10, "{kept} gradients are 0, {zeros} in f32");
    // A loss 2^18 times smaller: 2^-18 / 64 targets is 2^-24, f16's smallest number, and most gradients are below it.
    let scale = format!("optimizer.loss_scale={}", 2f64.powi(-18));
    let (got, lost) = norm(&["train.precision=fp16", &scale, "optimizer.loss_scale_min=1e-9"]);
    assert!(got < 0.5 * want, "norm {got} with scale 2^-18, f32 {want}");
    assert!(lost > kept + 1000, "{lost} gradients are 0, {kept} with scale 2^16");
}
