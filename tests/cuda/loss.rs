//! The loss over the vocabulary in several chunks, and its hits, against the CPU.

use handloom_engine::check::oracle::values;
use handloom_engine::check::plain::{self, Rounding};
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
fn chunks_add_up_to_the_cpus_loss_and_hits_with_at_most_twice_the_error_of_a_plain_program() {
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
        let ids: Vec<i32> =
            (0..rows).map(|n| if n % 5 == 0 { -100 } else { draw.below(vocab as u32) as i32 }).collect();
        let targets = Tensor::from_slice(&ids, &[rows]).unwrap();
        let inputs = [&inputs[0], &inputs[1], &inputs[2]];
        let arrays = inputs.map(values);
        let targets_f64: Vec<f64> = ids.iter().map(|id| f64::from(*id)).collect();
        let upstream = UPSTREAM as f64 / ids.iter().filter(|id| **id >= 0).count() as f64;
        let computed = |rounding| {
            let arrays = [&arrays[0][..], &arrays[1], &arrays[2]];
            plain::linear_cross_entropy(arrays, &targets_f64, cols, upstream, rounding)
        };
        let (exact, plainly) = (computed(Rounding::NONE), computed(Rounding::plain(dtype)));
        let (loss, hits, cpu_grads) = run(Device::Cpu, inputs, &targets, None);
        let judge = |where_run: &str, grads: &[Vec<f64>]| {
            for (which, got) in grads.iter().enumerate() {
                let result = if which == 0 { dtype } else { DType::F32 };
                let what = format!("{dtype}, {where_run}, gradient {which}");
                plain::judge(&what, got, &exact[which], &plainly[which], result, 0.0)
                    .unwrap_or_else(|message| panic!("{message}"));
            }
        };
        judge("CPU", &cpu_grads);
        let device = Device::emulator().unwrap();
        // All rows at once; whole tiles of 128; eleven rows (80 padded columns of 4 bytes each).
        for bytes in [None, Some(128 * 320), Some(11 * 320)] {
            let (got_loss, got_hits, grads) = run(device, inputs, &targets, bytes);
            assert!(
                (got_loss / loss - 1.0).abs() < 2e-6,
                "{dtype}, {bytes:?}: loss {got_loss}, {loss} on the CPU"
            );
            assert_eq!(got_hits, hits, "{dtype}, {bytes:?}");
            judge(&format!("{bytes:?}"), &grads);
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
