//! The loss over the vocabulary in several chunks, and its hits, against the CPU.

use handloom_engine::check::close::{Tolerance, assert_close, rms};
use handloom_engine::check::oracle::values;
use handloom_engine::device::Device;
use handloom_engine::dtype::DType;
use handloom_engine::ops::cast::cast;
use handloom_engine::ops::linear_cross_entropy::{
    Scored, linear_cross_entropy_scored, linear_cross_entropy_within,
};
use handloom_engine::ops::view::narrow;
use handloom_engine::tape::Tape;
use handloom_engine::tensor::Tensor;

use crate::guarded::{FLOATS, normal, reader};

const UPSTREAM: f32 = 1024.0;

/// Loss, hits and the gradients of inp, weight and bias.
fn run(
    device: Device,
    [inp, weight, bias]: [&Tensor; 3],
    targets: &Tensor,
    logits_bytes: Option<usize>,
) -> (f64, f64, Vec<Vec<f64>>) {
    let tape = Tape::new();
    let leaf = |x: &Tensor, dtype| tape.leaf(&x.to_device(device).unwrap(), dtype);
    let leaves = [leaf(inp, inp.dtype()), leaf(weight, DType::F32), leaf(bias, DType::F32)];
    let targets = targets.to_device(device).unwrap();
    let [x, w, b] = &leaves;
    let Scored { loss, hits } = match logits_bytes {
        Some(bytes) => linear_cross_entropy_within(x, w, Some(b), &targets, None, bytes),
        None => linear_cross_entropy_scored(x, w, Some(b), &targets, None),
    }
    .unwrap();
    let mut grads = tape.gradients();
    tape.backward(&loss, Tensor::scalar(UPSTREAM).to_device(device).unwrap(), &mut grads).unwrap();
    let grads = leaves.map(|leaf| values(&grads.take(leaf.grad_id()).expect("a gradient")));
    (loss.item().unwrap() as f64, hits.item().unwrap() as f64, grads.to_vec())
}

#[test]
fn chunks_add_up_to_the_cpus_loss_hits_and_gradients() {
    let (rows, vocab, cols) = (133, 77, 24);
    for dtype in FLOATS {
        let mut draw = reader(11);
        let mut tensor = |shape: &[usize]| {
            let data: Vec<f32> = normal(shape.iter().product(), 0.0, DType::F32, &mut draw)
                .iter()
                .map(|x| *x as f32)
                .collect();
            cast(&Tensor::from_slice(&data, shape).unwrap(), dtype).unwrap()
        };
        let inputs = [tensor(&[rows, cols]), tensor(&[vocab, cols]), tensor(&[vocab])];
        let targets: Vec<i32> =
            (0..rows).map(|n| if n % 5 == 0 { -100 } else { draw.below(vocab as u32) as i32 }).collect();
        let targets = Tensor::from_slice(&targets, &[rows]).unwrap();
        let inputs = [&inputs[0], &inputs[1], &inputs[2]];
        let (loss, hits, grads) = run(Device::Cpu, inputs, &targets, None);
        let device = Device::emulator().unwrap();
        // All rows at once; whole tiles of 128; eleven rows (80 padded columns of 4 bytes each).
        for bytes in [None, Some(128 * 320), Some(11 * 320)] {
            let (got_loss, got_hits, got_grads) = run(device, inputs, &targets, bytes);
            assert!(
                (got_loss / loss - 1.0).abs() < 2e-6,
                "{dtype}, {bytes:?}: loss {got_loss}, {loss} on the CPU"
            );
            assert_eq!(got_hits, hits, "{dtype}, {bytes:?}");
            for (which, (got, want)) in got_grads.iter().zip(&grads).enumerate() {
                // On a GPU each gradient of a logit is rounded to the operands' dtype: off by at most half an epsilon, with a standard
                // deviation of at most 0.29. Four of those cover sums of them; a gradient in that dtype is rounded once more.
                let (sum, last) = match dtype {
                    DType::F32 => (5e-6, 0.0),
                    _ => (4.0 * 0.29 * dtype.epsilon(), 0.5 * dtype.epsilon()),
                };
                let relative = if which == 0 { sum + last } else { sum };
                let tolerance = Tolerance { absolute: relative * rms(want), relative };
                assert_close(
                    &format!("{dtype}, {bytes:?}, gradient {which}"),
                    &[got.len()],
                    got,
                    want,
                    tolerance,
                );
            }
        }
    }
}

/// The kernel reads four words' bias at once where it may.
#[test]
fn a_bias_at_an_odd_address_gives_the_same_loss() {
    let (rows, vocab, cols) = (5, 77, 8);
    let device = Device::emulator().unwrap();
    for dtype in FLOATS {
        let mut draw = reader(12);
        let mut tensor = |shape: &[usize]| {
            let data: Vec<f32> = (0..shape.iter().product()).map(|_| draw.normal() as f32).collect();
            cast(&Tensor::from_slice(&data, shape).unwrap(), dtype).unwrap().to_device(device).unwrap()
        };
        let (inp, weight, longer) = (tensor(&[rows, cols]), tensor(&[vocab, cols]), tensor(&[vocab + 1]));
        let targets = Tensor::from_slice(&[0, 3, 76, 40, 41], &[rows]).unwrap().to_device(device).unwrap();
        let odd = narrow(&longer, 0, 1, vocab).unwrap();
        let aligned = odd.to_device(Device::Cpu).unwrap().to_device(device).unwrap();
        let loss = |bias: &Tensor| {
            linear_cross_entropy_scored(&inp, &weight, Some(bias), &targets, None)
                .unwrap()
                .loss
                .item()
                .unwrap()
        };
        assert_eq!(loss(&odd).to_bits(), loss(&aligned).to_bits(), "{dtype}");
        assert!(loss(&odd).is_finite());
    }
}

#[test]
fn a_target_outside_the_vocabulary_makes_the_loss_nan() {
    let device = Device::emulator().unwrap();
    let x = Tensor::from_slice(&[1.0f32; 6], &[2, 3]).unwrap().to_device(device).unwrap();
    let w = Tensor::from_slice(&[0.5f32; 12], &[4, 3]).unwrap().to_device(device).unwrap();
    for bad in [4, -1, i32::MAX] {
        let targets = Tensor::from_slice(&[0, bad], &[2]).unwrap().to_device(device).unwrap();
        let loss = linear_cross_entropy_scored(&x, &w, None, &targets, None).unwrap().loss;
        assert!(loss.item().unwrap().is_nan(), "target {bad} passed");
        let logits = Tensor::from_slice(&[0.0f32; 8], &[2, 4]).unwrap().to_device(device).unwrap();
        let loss = handloom_engine::ops::cross_entropy::cross_entropy(&logits, &targets, None).unwrap();
        assert!(loss.item().unwrap().is_nan(), "target {bad} passed");
    }
}
