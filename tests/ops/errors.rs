//! What each op says about inputs it cannot take.

use handloom_engine::device::Device;
use handloom_engine::dtype::DType;
use handloom_engine::error::Result;
use handloom_engine::ops::attention::{Attention, attention, attention_packed};
use handloom_engine::ops::cast::cast;
use handloom_engine::ops::cross_entropy::cross_entropy;
use handloom_engine::ops::dropout::dropout;
use handloom_engine::ops::elementwise::{add, add_in_place, mul, scale, sub};
use handloom_engine::ops::embedding::embedding;
use handloom_engine::ops::gelu::{Gelu, gelu};
use handloom_engine::ops::layernorm::{layernorm, residual_layernorm};
use handloom_engine::ops::linear_cross_entropy::linear_cross_entropy;
use handloom_engine::ops::matmul::{Epilogue, WeightLayout, linear, matmul};
use handloom_engine::ops::reduce::{mean, sum};
use handloom_engine::ops::softmax::{Mask, softmax, softmax_masked};
use handloom_engine::ops::view::{narrow, reshape, transpose};
use handloom_engine::philox::Stream;
use handloom_engine::tensor::Tensor;

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, Device::Cpu).expect("the CPU has room")
}

fn half(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::BF16, Device::Cpu).expect("the CPU has room")
}

fn ids(values: &[i32]) -> Tensor {
    Tensor::from_slice(values, &[values.len()]).unwrap()
}

#[track_caller]
fn says<T>(result: Result<T>, message: &str) {
    match result {
        Ok(_) => panic!("accepted; expected: {message}"),
        Err(error) => assert_eq!(error.to_string(), message),
    }
}

#[test]
fn elementwise() {
    says(add(&zeros(&[2, 3]), &zeros(&[2])), "add: shapes [2, 3] and [2] do not broadcast");
    says(sub(&zeros(&[4]), &zeros(&[2])), "sub: shapes [4] and [2] do not broadcast");
    says(mul(&zeros(&[2]), &half(&[2])), "mul: rhs has dtype bf16, expected f32");
    says(add(&ids(&[1]), &ids(&[1])), "add: lhs has dtype i32, expected f32, f16 or bf16");
    says(scale(&ids(&[1]), 2.0), "scale: inp has dtype i32, expected f32, f16 or bf16");
    says(
        add_in_place(&mut zeros(&[2]), &zeros(&[3])),
        "add_in_place: sum [2] and gradient [3] must have one shape",
    );
}

#[test]
fn reductions_and_casts() {
    says(sum(&ids(&[1])), "sum: inp has dtype i32, expected f32, f16 or bf16");
    says(mean(&ids(&[1])), "mean: inp has dtype i32, expected f32, f16 or bf16");
    says(cast(&ids(&[1]), DType::F32), "cast: inp has dtype i32, expected f32, f16 or bf16");
    says(cast(&zeros(&[1]), DType::I32), "cast: result has dtype i32, expected f32, f16 or bf16");
    says(zeros(&[2]).item(), "item: expected one element, got shape [2]");
    assert!(mean(&zeros(&[0])).unwrap().item().unwrap().is_nan(), "the mean of nothing");
}

#[test]
fn views() {
    says(reshape(&zeros(&[2, 3]), &[4, 2]), "reshape: [2, 3] has 6 elements, [4, 2] does not");
    says(transpose(&zeros(&[2, 3]), 0, 2), "transpose: dimensions 0 and 2 of [2, 3] do not both exist");
    says(narrow(&zeros(&[2, 3]), 1, 2, 2), "narrow: 2..4 along dimension 1 leaves [2, 3]");
    says(narrow(&zeros(&[2, 3]), 2, 0, 1), "narrow: 0..1 along dimension 2 leaves [2, 3]");
    assert!(narrow(&zeros(&[2]), 0, 1, usize::MAX).is_err(), "an end past usize");
    says(
        transpose(&zeros(&[2, 3]), 0, 1).unwrap().slice::<f32>(),
        "slice: tensor [3, 2] with strides [1, 3] is not contiguous; call contiguous()",
    );
}

#[test]
fn empty_views_at_the_end_are_readable() {
    let x = narrow(&narrow(&zeros(&[2, 3]), 0, 2, 0).unwrap(), 1, 3, 0).unwrap();
    assert_eq!(x.slice::<f32>().unwrap(), [0.0; 0]);
    assert_eq!(add(&x, &x).unwrap().shape(), [0, 0]);
}

#[test]
fn products() {
    says(
        matmul(&zeros(&[2, 3]), &zeros(&[4, 5])),
        "matmul: inner sizes differ: lhs [2, 3] has K=3, rhs [4, 5] has K=4; expected (.., M, K) x (.., K, N)",
    );
    says(
        matmul(&zeros(&[3]), &zeros(&[3, 2])),
        "matmul: operands need 2 dimensions or more, got [3] x [3, 2]",
    );
    says(
        matmul(&zeros(&[2, 3, 4]), &zeros(&[5, 4, 3])),
        "matmul: leading dimensions of [2, 3, 4] and [5, 4, 3] differ",
    );
    says(matmul(&zeros(&[2, 3]), &half(&[3, 2])), "matmul: rhs has dtype bf16, expected f32");
    says(matmul(&ids(&[1]), &ids(&[1])), "matmul: operands need 2 dimensions or more, got [1] x [1]");
    let none = Epilogue::None;
    says(
        linear(&zeros(&[2, 3]), &zeros(&[4, 5]), None, WeightLayout::InOut, none),
        "linear: inp [2, 3] has K=3, weight [4, 5] (InOut) has K=4",
    );
    says(
        linear(&zeros(&[2, 3]), &zeros(&[4, 5]), None, WeightLayout::OutIn, none),
        "linear: inp [2, 3] has K=3, weight [4, 5] (OutIn) has K=5",
    );
    says(
        linear(&zeros(&[2, 3]), &zeros(&[3, 5]), Some(&zeros(&[3])), WeightLayout::InOut, none),
        "linear: bias is [3], weight has 5 outputs",
    );
    says(
        linear(
            &zeros(&[2, 3]),
            &zeros(&[3, 5]),
            None,
            WeightLayout::InOut,
            Epilogue::Residual(&zeros(&[2, 3])),
        ),
        "linear: residual is [2, 3], the output [2, 5]",
    );
    says(
        linear(&zeros(&[2, 3]), &half(&[3, 5]), None, WeightLayout::InOut, none),
        "linear: weight has dtype bf16, expected f32",
    );
    says(
        linear(&zeros(&[]), &zeros(&[3, 5]), None, WeightLayout::InOut, none),
        "linear: inp must have at least 1 dimension, got a scalar",
    );
}

#[test]
fn activations_and_norms() {
    says(gelu(&ids(&[1]), Gelu::Tanh), "gelu: inp has dtype i32, expected f32, f16 or bf16");
    says(softmax(&ids(&[1]), 1.0), "softmax: inp has dtype i32, expected f32, f16 or bf16");
    says(softmax(&zeros(&[]), 1.0), "softmax: inp must have at least 1 dimension, got a scalar");
    let (x, mask) = (zeros(&[2, 3, 4]), zeros(&[2, 3, 5]));
    says(
        softmax_masked(&x, 1.0, Mask::Added(&mask)),
        "softmax: mask [2, 3, 5] does not fit inp [2, 3, 4]; expected the same sizes, 1 or nothing in leading dimensions, 1 in those \
         right before the last",
    );
    says(softmax_masked(&x, 1.0, Mask::Keys(&x)), "softmax: mask has dtype f32, expected i32");
    says(softmax_masked(&x, 1.0, Mask::Added(&ids(&[4]))), "softmax: mask has dtype i32, expected f32");
    let (three, four) = (zeros(&[3]), zeros(&[4]));
    says(layernorm(&zeros(&[2, 3]), &four, &three, 1e-5), "layernorm: weight is [4], inp [2, 3] needs [3]");
    says(layernorm(&zeros(&[2, 3]), &three, &four, 1e-5), "layernorm: bias is [4], inp [2, 3] needs [3]");
    says(
        layernorm(&half(&[2, 3]), &three, &three, 1e-5),
        "layernorm: weight or bias has dtype f32, expected bf16",
    );
    says(
        residual_layernorm(&zeros(&[2, 3]), &zeros(&[3]), &three, &three, 1e-5),
        "residual_layernorm: residual [2, 3] and branch [3] must have one shape",
    );
}

#[test]
fn dropout_probabilities() {
    let stream = Stream { seed: 0, stream: 0, step: 0 };
    for (drop_prob, shown) in [(1.0, "1"), (-0.5, "-0.5"), (f32::NAN, "NaN")] {
        let message = format!("dropout: drop_prob is {shown}, expected 0 <= drop_prob < 1");
        says(dropout(&zeros(&[1]), drop_prob, stream), &message);
    }
    says(dropout(&ids(&[1]), 0.5, stream), "dropout: inp has dtype i32, expected f32, f16 or bf16");
}

#[test]
fn lookups_and_losses() {
    let table = zeros(&[5, 2]);
    says(embedding(&ids(&[0, 5]), &table), "embedding: id 5 at position 1 is outside the table of 5 rows");
    says(embedding(&ids(&[-1]), &table), "embedding: id -1 at position 0 is outside the table of 5 rows");
    says(embedding(&zeros(&[1]), &table), "embedding: ids has dtype f32, expected i32");
    says(embedding(&ids(&[0]), &zeros(&[5])), "embedding: weight must have 2 dimensions, got [5]");
    let logits = zeros(&[2, 5]);
    says(
        cross_entropy(&logits, &ids(&[0, 5]), None),
        "cross_entropy: target 5 in row 1 is outside the vocabulary of 5 (or -100)",
    );
    says(
        cross_entropy(&logits, &ids(&[-1, 0]), None),
        "cross_entropy: target -1 in row 0 is outside the vocabulary of 5 (or -100)",
    );
    says(cross_entropy(&logits, &ids(&[0]), None), "cross_entropy: 1 targets for 2 rows of logits");
    says(cross_entropy(&logits, &zeros(&[2]), None), "cross_entropy: targets has dtype f32, expected i32");
    says(
        linear_cross_entropy(&zeros(&[2, 3]), &zeros(&[5, 4]), &ids(&[0, 1]), None),
        "linear_cross_entropy: inp [2, 3] and weight [5, 4] (V, C) differ in C",
    );
    says(
        linear_cross_entropy(&zeros(&[2, 3]), &half(&[5, 3]), &ids(&[0, 1]), None),
        "linear_cross_entropy: weight has dtype bf16, expected f32",
    );
    says(
        linear_cross_entropy(&zeros(&[2, 3]), &zeros(&[5, 3]), &ids(&[0, 7]), None),
        "linear_cross_entropy: target 7 in row 1 is outside the vocabulary of 5 (or -100)",
    );
}

#[test]
fn attentions() {
    let x = zeros(&[2, 3, 2, 4]);
    let plain = Attention::default();
    says(
        attention(&x, &zeros(&[2, 3, 2, 5]), &x, &plain),
        "attention: q [2, 3, 2, 4], k [2, 3, 2, 5], v [2, 3, 2, 4]; expected q (B, Tq, NH, HS) and k, v (B, Tk, NH, HS)",
    );
    says(
        attention(&zeros(&[2, 3, 8]), &x, &x, &plain),
        "attention: q must have 4 dimensions (B, T, NH, HS), got [2, 3, 8]",
    );
    says(attention(&x, &half(&[2, 3, 2, 4]), &x, &plain), "attention: k has dtype bf16, expected f32");
    let short = zeros(&[2, 2, 2, 4]);
    let causal = Attention { causal: true, ..Attention::default() };
    says(
        attention(&x, &short, &short, &causal),
        "attention: causal needs at least as many keys as queries, got 2 < 3",
    );
    let stream = Stream { seed: 0, stream: 0, step: 0 };
    let certain = Attention { dropout: Some((1.0, stream)), ..Attention::default() };
    says(attention(&x, &x, &x, &certain), "attention: drop_prob is 1, expected 0 <= drop_prob < 1");
    let masked = |mask: Tensor| Attention { key_mask: Some(mask), ..Attention::default() };
    says(attention(&x, &x, &x, &masked(zeros(&[2, 4]))), "attention: key_mask is [2, 4], expected [2, 3]");
    says(attention(&x, &x, &x, &masked(zeros(&[2, 3]))), "attention: key_mask has dtype f32, expected i32");
    let biased = |bias: Tensor| Attention { bias: Some(bias), ..Attention::default() };
    for shape in [&[2, 3, 4][..], &[2, 2, 3, 3], &[3, 3]] {
        let message =
            format!("attention: bias is {shape:?}, expected [2, 3, 3] (NH, Tq, Tk), or 1 before that");
        says(attention(&x, &x, &x, &biased(zeros(shape))), &message);
    }
    says(attention(&x, &x, &x, &biased(half(&[2, 3, 3]))), "attention: bias has dtype bf16, expected f32");
    says(
        attention_packed(&zeros(&[2, 3, 8]), 2, &plain),
        "attention_packed: qkv [2, 3, 8] does not hold q, k and v of 2 heads",
    );
    says(
        attention_packed(&zeros(&[2, 3, 6]), 0, &plain),
        "attention_packed: qkv [2, 3, 6] does not hold q, k and v of 0 heads",
    );
    says(attention_packed(&zeros(&[6]), 1, &plain), "attention_packed: qkv must have 3 dimensions, got [6]");
}
