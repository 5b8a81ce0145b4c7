//! Dynamic loss scaling on the device: overflow skips and recovers, underflow is what the scale prevents.

use crate::run::{Place, Run, alone, batches, gpt};

const FP16: [&str; 2] = ["train.precision=fp16", "model.layers=1"];

#[test]
fn a_scale_far_too_large_skips_changes_nothing_and_recovers() {
    let _alone = alone();
    let far = [
        "optimizer.loss_scale=68719476736",
        "optimizer.loss_scale_max=1e11",
        "optimizer.loss_scale_backoff=0.00390625",
    ];
    let mut run = Run::new(Place::Graph, gpt(&[&FP16[..], &far].concat()), 6);
    let (mut scale, mut skipped, mut losses) = (2f64.powi(36), 0, Vec::new());
    for step in 0..6 {
        let before = run.bits();
        let measured = run.step(batches(step));
        let finite = measured.grad_norm.unwrap().is_finite();
        if !finite {
            (scale, skipped) = (scale / 256.0, skipped + 1);
        }
        assert_eq!(
            run.bits() == before,
            !finite,
            "step {step}: a skipped step changes nothing, any other does"
        );
        assert_eq!((measured.loss_scale, measured.skipped_steps), (Some(scale), Some(skipped)));
        assert_eq!(run.state.updates, step + 1 - skipped);
        losses.push(measured.loss.unwrap());
    }
    // f16 ends at 2^16: 2^36 and 2^28 overflow by far, 2^12 does not.
    assert!((2..=3).contains(&skipped), "{skipped} steps skipped, scale {scale}");
    assert!(losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
}

#[test]
fn the_lowest_scale_that_overflows_is_an_error_a_step_late() {
    let _alone = alone();
    let far = [
        "optimizer.loss_scale=68719476736",
        "optimizer.loss_scale_max=1e11",
        "optimizer.loss_scale_min=68719476736",
    ];
    let (model, config) = gpt(&[&FP16[..], &far].concat());
    let mut run = Run::new(Place::Kernels, (model, config.clone()), 6);
    assert!(run.step_late(batches(0)).is_none());
    let step = run.device_step.as_mut().unwrap();
    let error = step.finish(&*run.model, &mut run.state, &config).unwrap_err().to_string();
    assert!(
        error.starts_with("step 1: gradients overflow with the lowest loss scale, 68719476736"),
        "{error}"
    );
}

#[test]
fn a_loss_that_is_not_finite_ends_a_run_without_a_scaler() {
    let _alone = alone();
    let (mut model, config) = gpt(&["model.layers=1"]);
    model.params_mut().iter_mut().for_each(|param| {
        if param.name.ends_with("wte.weight") {
            param.value.slice_mut::<f32>().unwrap()[5] = f32::INFINITY;
        }
    });
    let mut run = Run::new(Place::Kernels, (model, config.clone()), 6);
    assert!(run.step_late(batches(0)).is_none());
    let step = run.device_step.as_mut().unwrap();
    let error = step.finish(&*run.model, &mut run.state, &config).unwrap_err().to_string();
    assert!(error.contains("training has diverged"), "{error}");
}

#[test]
fn gradients_that_vanish_without_scaling_are_kept_by_it() {
    let _alone = alone();
    let norm = |more: &[&str]| {
        let settings = [&["model.layers=1", "optimizer.clip_norm=0"], more].concat();
        let mut run = Run::new(Place::Kernels, gpt(&settings), 2);
        let norm = run.step(batches(0)).grad_norm.unwrap();
        run.device_step = None;
        norm
    };
    let want = norm(&[]);
    let got = norm(&["train.precision=fp16", "optimizer.loss_scale=65536"]);
    assert!((got / want - 1.0).abs() < 0.01, "norm {got} with scale 2^16, f32 {want}");
    // 2^-24 is f16's smallest number; a loss 2^20 times smaller puts the gradients of activations below it.
    let scale = format!("optimizer.loss_scale={}", 2f64.powi(-20));
    let got = norm(&["train.precision=fp16", &scale, "optimizer.loss_scale_min=1e-9"]);
    assert!(got < 0.9 * want, "norm {got} with scale 2^-20, f32 {want}");
}
