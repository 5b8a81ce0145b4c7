//! The tape: what is added, freed, recomputed, and refused.

use handloom_engine::dtype::DType;
use handloom_engine::error::Result;
use handloom_engine::ops::attention::{Attention, attention_packed};
use handloom_engine::ops::dropout::dropout;
use handloom_engine::ops::elementwise::{add, mul, scale, sub};
use handloom_engine::ops::gelu::{Gelu, gelu};
use handloom_engine::ops::layernorm::layernorm;
use handloom_engine::ops::matmul::{Epilogue, WeightLayout, linear};
use handloom_engine::ops::reduce::{mean, sum};
use handloom_engine::ops::view::{reshape, transpose};
use handloom_engine::philox::Stream;
use handloom_engine::tape::{Tape, no_backward};
use handloom_engine::tensor::Tensor;
use handloom_tests::oracle::normal;

const STREAM: Stream = Stream { seed: 17, stream: 1, step: 2 };

fn leaf(tape: &Tape, values: &[f32]) -> Tensor {
    tape.leaf(&Tensor::from_slice(values, &[values.len()]).unwrap(), DType::F32)
}

#[test]
fn gradients_of_a_tensor_used_several_times_add() {
    let tape = Tape::new();
    let x = leaf(&tape, &[1.0, -2.0, 3.0]);
    // y = sum(x^2 - x + x) + 2 sum(x): dy/dx = 2x + 2
    let square = mul(&x, &x).unwrap();
    let y = sum(&add(&sub(&square, &x).unwrap(), &x).unwrap()).unwrap();
    let y = add(&y, &scale(&sum(&x).unwrap(), 2.0).unwrap()).unwrap();
    let mut grads = tape.gradients();
    tape.backward(&y, Tensor::scalar(1.0), &mut grads).unwrap();
    assert_eq!(grads.take(x.grad_id()).unwrap().to_vec_f32(), [4.0, -2.0, 8.0]);
}

#[test]
fn an_intermediate_used_by_many_gets_the_sum_before_it_goes_on() {
    let tape = Tape::new();
    let x = leaf(&tape, &[2.0]);
    let y = mul(&x, &x).unwrap(); // 4, dy/dx = 4
    // z = y^3: dz/dx = 3 y^2 * 4 = 192
    let z = mul(&mul(&y, &y).unwrap(), &y).unwrap();
    let mut grads = tape.gradients();
    tape.backward(&z, Tensor::from_slice(&[1.0f32], &[1]).unwrap(), &mut grads).unwrap();
    assert_eq!(grads.take(x.grad_id()).unwrap().to_vec_f32(), [192.0]);
    assert!(grads.take(y.grad_id()).is_none(), "an intermediate's gradient is used up");
}

#[test]
fn a_shared_upstream_gradient_is_not_written_through() {
    // Both sides of an addition receive the same tensor; adding to one must not change the other.
    let tape = Tape::new();
    let (x, y) = (leaf(&tape, &[1.0, 2.0]), leaf(&tape, &[3.0, 4.0]));
    let z = add(&add(&x, &y).unwrap(), &mul(&x, &x).unwrap()).unwrap();
    let mut grads = tape.gradients();
    tape.backward(&z, Tensor::from_slice(&[1.0f32, 1.0], &[2]).unwrap(), &mut grads).unwrap();
    assert_eq!(grads.take(x.grad_id()).unwrap().to_vec_f32(), [3.0, 5.0]);
    assert_eq!(grads.take(y.grad_id()).unwrap().to_vec_f32(), [1.0, 1.0]);
}

#[test]
fn leaves_not_reached_have_no_gradient_and_detached_inputs_pass_none() {
    let tape = Tape::new();
    let (x, y) = (leaf(&tape, &[1.0]), leaf(&tape, &[5.0]));
    let unused = gelu(&y, Gelu::Erf).unwrap();
    let z = mul(&x, &y.detach()).unwrap();
    let mut grads = tape.gradients();
    tape.backward(&z, Tensor::from_slice(&[1.0f32], &[1]).unwrap(), &mut grads).unwrap();
    assert_eq!(grads.take(x.grad_id()).unwrap().to_vec_f32(), [5.0]);
    assert!(grads.take(y.grad_id()).is_none());
    assert!(unused.needs_grad() && !y.detach().needs_grad());
    assert!(grads.take(None).is_none());
}

#[test]
fn gradients_already_there_are_added_to() {
    let x = Tensor::from_slice(&[1.0f32, 2.0], &[2]).unwrap();
    let mut total: Option<Tensor> = None;
    for factor in [3.0, 10.0] {
        let tape = Tape::new();
        let x = tape.leaf(&x, DType::F32);
        let y = scale(&x, factor).unwrap();
        let mut grads = tape.gradients();
        if let Some(total) = total.take() {
            grads.set(x.grad_id(), total);
        }
        tape.backward(&y, Tensor::from_slice(&[1.0f32, 1.0], &[2]).unwrap(), &mut grads).unwrap();
        total = grads.take(x.grad_id());
    }
    assert_eq!(total.unwrap().to_vec_f32(), [13.0, 13.0]);
}

#[test]
fn a_leafs_gradient_has_the_dtype_it_asked_for() {
    let half =
        handloom_engine::ops::cast::cast(&Tensor::from_slice(&[1.0f32; 3], &[3]).unwrap(), DType::BF16)
            .unwrap();
    for dtype in [DType::F32, DType::BF16] {
        let tape = Tape::new();
        let x = tape.leaf(&half, dtype);
        let mut grads = tape.gradients();
        tape.backward(&sum(&x).unwrap(), Tensor::scalar(1.0), &mut grads).unwrap();
        assert_eq!(grads.take(x.grad_id()).unwrap().dtype(), dtype);
    }
}

#[test]
fn a_second_backward_is_an_error() {
    let tape = Tape::new();
    let x = leaf(&tape, &[1.0]);
    let y = gelu(&x, Gelu::Tanh).unwrap();
    let (first, second) = (sum(&y).unwrap(), mean(&y).unwrap());
    let mut grads = tape.gradients();
    tape.backward(&first, Tensor::scalar(1.0), &mut grads).unwrap();
    let error = tape.backward(&first, Tensor::scalar(1.0), &mut grads).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tape: the backward of sum has run already and freed what it held; run forward again, \
         or add the losses and run backward once"
    );
    // Another output over the same gelu: the part of its gradient that would be lost is an error too.
    let error = tape.backward(&second, Tensor::scalar(1.0), &mut tape.gradients()).unwrap_err();
    assert!(error.to_string().starts_with("tape: the backward of gelu has run already"), "{error}");
}

#[test]
fn misuse_of_backward_is_reported() {
    let (tape, other) = (Tape::new(), Tape::new());
    let y = sum(&leaf(&tape, &[1.0, 2.0])).unwrap();
    let constant = Tensor::scalar(2.0);
    for foreign in [&constant, &sum(&leaf(&other, &[1.0])).unwrap()] {
        let error = tape.backward(foreign, Tensor::scalar(1.0), &mut tape.gradients()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "tape: backward from a tensor [] that this tape has not recorded; nothing it depends on is a leaf"
        );
    }
    let wrong = Tensor::from_slice(&[1.0f32, 1.0], &[2]).unwrap();
    let error = tape.backward(&y, wrong, &mut tape.gradients()).unwrap_err();
    assert_eq!(error.to_string(), "tape: upstream gradient has shape [2], the output []");
}

#[test]
fn an_op_without_backward_is_an_error_where_a_gradient_is_needed() {
    let tape = Tape::new();
    let x = leaf(&tape, &[1.0]);
    let error = no_backward("argmax", &[&x.detach(), &x]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "argmax: has no backward, but its input needs a gradient; \
         use it outside the tape (Tensor::detach) or write its backward"
    );
    no_backward("argmax", &[&x.detach()]).unwrap();
}

#[test]
fn nothing_is_recorded_without_a_leaf() {
    let x = Tensor::from_slice(&[1.0f32, 2.0], &[2]).unwrap();
    let tape = Tape::new();
    assert!(!sum(&gelu(&x, Gelu::Erf).unwrap()).unwrap().needs_grad());
    assert!(tape.is_empty());
    let y = gelu(&tape.leaf(&x, DType::F32), Gelu::Erf).unwrap();
    assert_eq!(tape.len(), 2);
    assert_eq!(format!("{tape:?}"), r#"[("leaf", [2]), ("gelu", [2])]"#);
    drop(tape);
    // The tape is gone: its tensors are plain values.
    assert!(!sum(&y).unwrap().needs_grad());
}

/// Parameters of a block: weight in, bias in, weight out, bias out, norm weight, norm bias.
fn parameters() -> Vec<Tensor> {
    let mut reader = STREAM.reader();
    [&[8, 24][..], &[24], &[8, 8], &[8], &[8], &[8]].map(|shape| normal(shape, &mut reader)).into()
}

/// Attention with dropout, a projection with residual, a norm: a little Transformer block.
fn block(x: &Tensor, p: &[Tensor], stream: u32) -> Result<Tensor> {
    let stream = Stream { stream, ..STREAM };
    let qkv = linear(x, &p[0], Some(&p[1]), WeightLayout::InOut, Epilogue::None)?;
    let options = Attention { causal: true, dropout: Some((0.2, stream)), ..Attention::default() };
    let y = dropout(&attention_packed(&qkv, 2, &options)?, 0.3, stream)?;
    let y = linear(&y, &p[2], Some(&p[3]), WeightLayout::OutIn, Epilogue::Residual(x))?;
    layernorm(&reshape(&transpose(&y, 0, 1)?, &[2, 5, 8])?, &p[4], &p[5], 1e-5)
}

/// Bits of the output and of every gradient of three blocks, recomputed as `how` says.
fn three_blocks(how: u32, dtype: DType) -> Vec<Vec<u32>> {
    let tape = Tape::new();
    let mut reader = Stream { step: 9, ..STREAM }.reader();
    let cast = |x: &Tensor| handloom_engine::ops::cast::cast(x, dtype).unwrap();
    let x = tape.leaf(&cast(&normal(&[2, 5, 8], &mut reader)), dtype);
    let p: Vec<Tensor> = parameters().iter().map(|p| tape.leaf(&cast(p), DType::F32)).collect();
    let step = |x: &Tensor, stream: u32| {
        let p = p.clone();
        tape.checkpoint(x, move |x| block(x, &p, stream))
    };
    let out = match how {
        0 => block(&block(&block(&x, &p, 1).unwrap(), &p, 2).unwrap(), &p, 3).unwrap(),
        1 => step(&step(&step(&x, 1).unwrap(), 2).unwrap(), 3).unwrap(),
        _ => {
            let (p, inner) = (p.clone(), tape.clone());
            let nested = move |x: &Tensor| {
                let first = block(x, &p, 1)?;
                let deep = p.clone();
                let second = inner.checkpoint(&first, move |x| block(x, &deep, 2))?;
                block(&second, &p, 3)
            };
            tape.checkpoint(&x, nested).unwrap()
        }
    };
    let mut grads = tape.gradients();
    let dout = cast(&normal(&[2, 5, 8], &mut reader));
    tape.backward(&out, dout, &mut grads).unwrap();
    let bits = |x: &Tensor| x.to_vec_f32().iter().map(|x| x.to_bits()).collect();
    let leaves = std::iter::once(&x).chain(&p);
    std::iter::once(bits(&out)).chain(leaves.map(|leaf| bits(&grads.take(leaf.grad_id()).unwrap()))).collect()
}

#[test]
fn checkpoints_do_not_change_a_bit() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let plain = three_blocks(0, dtype);
        assert!(plain.iter().flatten().all(|bits| f32::from_bits(*bits).is_finite()));
        assert_eq!(plain, three_blocks(1, dtype), "{dtype}: each block recomputed");
        assert_eq!(plain, three_blocks(2, dtype), "{dtype}: nested");
    }
}

#[test]
fn a_checkpoint_records_itself_alone() {
    let tape = Tape::new();
    let x = tape.leaf(&normal(&[2, 5, 8], &mut STREAM.reader()), DType::F32);
    let p: Vec<Tensor> = parameters().iter().map(|p| tape.leaf(p, DType::F32)).collect();
    let before = tape.len();
    let out = tape.checkpoint(&x, move |x| block(x, &p, 1)).unwrap();
    // The parameters inside are on the tape; what is made of them must not be.
    assert_eq!(tape.len(), before + 1, "{tape:?}");
    let dout = normal(&[2, 5, 8], &mut STREAM.reader());
    tape.backward(&out, dout, &mut tape.gradients()).unwrap();
    assert_eq!(tape.len(), before + 1, "what was recomputed is gone");
}

#[test]
fn a_checkpoint_that_fails_leaves_the_tape_usable() {
    let tape = Tape::new();
    let x = leaf(&tape, &[1.0, 2.0]);
    let fails = tape.checkpoint(&x, |x| reshape(x, &[3]));
    assert_eq!(fails.unwrap_err().to_string(), "reshape: [2] has 2 elements, [3] does not");
    assert!(sum(&x).unwrap().needs_grad(), "recording goes on");
}
