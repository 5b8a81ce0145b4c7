//! What must hold whatever the numbers are.

use handloom_engine::dtype::DType;
use handloom_engine::ops::attention::{Attention, attention};
use handloom_engine::ops::cast::cast;
use handloom_engine::ops::dropout::dropout;
use handloom_engine::ops::elementwise::{add, mul, scale, sub};
use handloom_engine::ops::layernorm::layernorm;
use handloom_engine::ops::matmul::matmul;
use handloom_engine::ops::softmax::softmax;
use handloom_engine::ops::view::{narrow, transpose};
use handloom_engine::philox::Stream;
use handloom_engine::tape::Tape;
use handloom_engine::tensor::Tensor;
use handloom_tests::close::{Tolerance, assert_close};
use handloom_tests::oracle::{normal, values};

const STREAM: Stream = Stream { seed: 23, stream: 0, step: 0 };

fn same(what: &str, got: &Tensor, want: &Tensor, relative: f64) {
    assert_eq!(got.shape(), want.shape(), "{what}");
    assert_close(what, want.shape(), &values(got), &values(want), Tolerance { absolute: relative, relative });
}

#[test]
fn softmax_rows_sum_to_one_and_ignore_a_shift() {
    let mut reader = STREAM.reader();
    for cols in [1, 2, 15, 16, 17, 1000] {
        let x = normal(&[7, cols], &mut reader);
        let y = softmax(&x, 3.0).unwrap();
        for row in values(&y).chunks(cols) {
            assert!(
                (row.iter().sum::<f64>() - 1.0).abs() < 1e-6,
                "{cols} columns sum to {}",
                row.iter().sum::<f64>()
            );
            assert!(row.iter().all(|p| (0.0..=1.0).contains(p)));
        }
        // 64 added to numbers below 8: at most 4 more bits are lost to rounding.
        let shifted = softmax(&add(&x, &Tensor::scalar(64.0)).unwrap(), 3.0).unwrap();
        same("shifted", &shifted, &y, 3.0 * 64.0 * DType::F32.epsilon());
    }
}

#[test]
fn layernorm_rows_have_mean_0_and_variance_1() {
    let mut reader = STREAM.reader();
    for cols in [2, 15, 16, 17, 768] {
        let x = add(&scale(&normal(&[5, cols], &mut reader), 3.0).unwrap(), &Tensor::scalar(50.0)).unwrap();
        let one = Tensor::from_slice(&vec![1.0f32; cols], &[cols]).unwrap();
        let zero = Tensor::from_slice(&vec![0.0f32; cols], &[cols]).unwrap();
        let y = values(&layernorm(&x, &one, &zero, 1e-12).unwrap());
        for row in y.chunks(cols) {
            let mean = row.iter().sum::<f64>() / cols as f64;
            let var = row.iter().map(|y| (y - mean).powi(2)).sum::<f64>() / cols as f64;
            assert!(
                mean.abs() < 1e-4 && (var - 1.0).abs() < 1e-4,
                "{cols} columns: mean {mean}, variance {var}"
            );
        }
    }
}

#[test]
fn matmul_is_linear_and_transposes() {
    let mut reader = STREAM.reader();
    let [a, b] = [(); 2].map(|_| normal(&[13, 37], &mut reader));
    let c = normal(&[37, 17], &mut reader);
    let sum = matmul(&sub(&scale(&a, 2.0).unwrap(), &b).unwrap(), &c).unwrap();
    let parts = sub(&scale(&matmul(&a, &c).unwrap(), 2.0).unwrap(), &matmul(&b, &c).unwrap()).unwrap();
    same("(2a - b) c", &sum, &parts, 1e-5);
    let ct_at = matmul(&transpose(&c, 0, 1).unwrap(), &transpose(&a, 0, 1).unwrap()).unwrap();
    same("(a c)^T", &transpose(&ct_at, 0, 1).unwrap(), &matmul(&a, &c).unwrap(), 1e-5);
}

#[test]
fn attention_treats_heads_and_sequences_alike() {
    let mut reader = STREAM.reader();
    let [q, k, v] = [(); 3].map(|_| normal(&[3, 7, 2, 5], &mut reader));
    let options = Attention { causal: true, ..Attention::default() };
    let all = attention(&q, &k, &v, &options).unwrap();
    for b in 0..3 {
        for h in 0..2 {
            let one = |x: &Tensor| narrow(&narrow(x, 0, b, 1).unwrap(), 2, h, 1).unwrap();
            let alone = attention(&one(&q), &one(&k), &one(&v), &options).unwrap();
            assert_eq!(alone.to_vec_f32(), one(&all).to_vec_f32(), "sequence {b}, head {h}");
        }
    }
}

#[test]
fn causal_attention_does_not_see_the_future() {
    let mut reader = STREAM.reader();
    let [q, k, v] = [(); 3].map(|_| normal(&[1, 70, 1, 4], &mut reader));
    let options = Attention { causal: true, ..Attention::default() };
    let all = attention(&q, &k, &v, &options).unwrap();
    for t in [1, 63, 64, 65] {
        let head = |x: &Tensor| narrow(x, 1, 0, t).unwrap();
        let short = attention(&head(&q), &head(&k), &head(&v), &options).unwrap();
        same("the first queries", &short, &head(&all), 1e-6);
    }
}

#[test]
fn dropout_keeps_its_share_without_bias() {
    let n = 200_000;
    let ones = Tensor::from_slice(&vec![1.0f32; n], &[n]).unwrap();
    for drop_prob in [0.1, 0.5, 0.9] {
        let y = values(&dropout(&ones, drop_prob, STREAM).unwrap());
        let keep = 1.0 - drop_prob as f64;
        // Kept elements are binomial: 5 standard deviations of the share.
        let bound = 5.0 * (keep * (1.0 - keep) / n as f64).sqrt();
        let share = y.iter().filter(|y| **y != 0.0).count() as f64 / n as f64;
        assert!((share - keep).abs() < bound, "kept {share} of {keep}");
        let mean = y.iter().sum::<f64>() / n as f64;
        assert!((mean - 1.0).abs() < bound / keep, "mean {mean}");
    }
}

#[test]
fn dropout_masks_depend_on_seed_stream_and_step_alone() {
    let x = Tensor::from_slice(&[1.0f32; 256], &[256]).unwrap();
    let mask = |stream| dropout(&x, 0.5, stream).unwrap().to_vec_f32();
    assert_eq!(mask(STREAM), mask(STREAM));
    for other in [Stream { seed: 24, ..STREAM }, Stream { stream: 1, ..STREAM }, Stream { step: 1, ..STREAM }]
    {
        let agree = mask(STREAM).iter().zip(mask(other)).filter(|(a, b)| **a == *b).count();
        // Half of 256 fair coins agree, 8 standard deviations at most 64 more.
        assert!((64..=192).contains(&agree), "{other:?}: {agree} of 256 agree");
    }
    // The same elements are dropped in every dtype, and in backward.
    for dtype in [DType::F16, DType::BF16] {
        assert_eq!(dropout(&cast(&x, dtype).unwrap(), 0.5, STREAM).unwrap().to_vec_f32(), mask(STREAM));
    }
    let tape = Tape::new();
    let leaf = tape.leaf(&x, DType::F32);
    let y = dropout(&leaf, 0.5, STREAM).unwrap();
    let mut grads = tape.gradients();
    tape.backward(&y, x.clone(), &mut grads).unwrap();
    assert_eq!(grads.take(leaf.grad_id()).unwrap().to_vec_f32(), mask(STREAM));
}

#[test]
fn views_and_their_copies_give_the_same() {
    let mut reader = STREAM.reader();
    let x = normal(&[6, 8, 10], &mut reader);
    let view = transpose(&narrow(&narrow(&x, 0, 1, 3).unwrap(), 2, 2, 7).unwrap(), 0, 2).unwrap();
    let copy = Tensor::from_slice(&view.to_vec_f32(), view.shape()).unwrap();
    assert!(!view.is_contiguous() && copy.is_contiguous());
    assert_eq!(softmax(&view, 1.0).unwrap().to_vec_f32(), softmax(&copy, 1.0).unwrap().to_vec_f32());
    assert_eq!(mul(&view, &view).unwrap().to_vec_f32(), mul(&copy, &copy).unwrap().to_vec_f32());
    let y = normal(&[3, 5], &mut reader);
    assert_eq!(matmul(&view, &y).unwrap().to_vec_f32(), matmul(&copy, &y).unwrap().to_vec_f32());
}
