//! The ops against PyTorch's numbers (tests/goldens/ops.safetensors, f64 rounded once to f32).

use std::path::Path;

use handloom_engine::dtype::DType;
use handloom_engine::error::Result;
use handloom_engine::ops::attention::{Attention, attention_packed};
use handloom_engine::ops::cross_entropy::cross_entropy;
use handloom_engine::ops::embedding::embedding;
use handloom_engine::ops::gelu::{Gelu, gelu};
use handloom_engine::ops::layernorm::layernorm;
use handloom_engine::ops::matmul::{Epilogue, WeightLayout, linear};
use handloom_engine::ops::softmax::softmax;
use handloom_engine::tape::Tape;
use handloom_engine::tensor::Tensor;
use handloom_tests::close::{Tolerance, assert_close, rms};
use handloom_tests::oracle::values;
use safetensors::{Dtype, SafeTensors};

fn read(file: &SafeTensors, name: &str) -> Tensor {
    let view = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let bytes = view.data();
    match view.dtype() {
        Dtype::F32 => {
            let data: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            Tensor::from_slice(&data, view.shape()).unwrap()
        }
        Dtype::I64 => {
            let data: Vec<i32> = bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as i32).collect();
            Tensor::from_slice(&data, view.shape()).unwrap()
        }
        Dtype::U8 => {
            let data: Vec<i32> = bytes.iter().map(|b| *b as i32).collect();
            Tensor::from_slice(&data, view.shape()).unwrap()
        }
        other => panic!("{name} has dtype {other:?}"),
    }
}

/// Runs `op` on the file's `<name>.<input>` and compares its output and gradients with `.out` and `.d<input>`. Rounding may
/// show `condition` times more than an epsilon.
fn check(
    name: &str,
    inputs: &[&str],
    condition: f64,
    op: impl Fn(&SafeTensors, &[Tensor]) -> Result<Tensor>,
) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/ops.safetensors");
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file = SafeTensors::deserialize(&bytes).expect("goldens/ops.safetensors is a safetensors file");
    let tape = Tape::new();
    let leaves: Vec<Tensor> =
        inputs.iter().map(|input| tape.leaf(&read(&file, &format!("{name}.{input}")), DType::F32)).collect();
    let out = op(&file, &leaves).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut grads = tape.gradients();
    tape.backward(&out, read(&file, &format!("{name}.dout")), &mut grads).unwrap();
    let close = |what: String, got: &Tensor, want: Tensor| {
        assert_eq!(got.shape(), want.shape(), "{what}");
        let (got, want_values) = (values(got), values(&want));
        let relative = condition * DType::F32.epsilon();
        assert_close(
            &what,
            want.shape(),
            &got,
            &want_values,
            Tolerance { absolute: relative * rms(&want_values), relative },
        );
    };
    close(format!("{name}.out"), &out, read(&file, &format!("{name}.out")));
    for (input, leaf) in inputs.iter().zip(&leaves) {
        let grad = grads.take(leaf.grad_id()).unwrap_or_else(|| panic!("{name}.d{input} is missing"));
        close(format!("{name}.d{input}"), &grad, read(&file, &format!("{name}.d{input}")));
    }
}

#[test]
fn gelu_is_pytorchs() {
    check("gelu_tanh", &["inp"], 16.0, |_, x| gelu(&x[0], Gelu::Tanh));
    check("gelu_erf", &["inp"], 16.0, |_, x| gelu(&x[0], Gelu::Erf));
}

#[test]
fn layernorm_is_pytorchs() {
    // One row has mean 1000 and deviation 1: rounding of its mean shows a thousand times.
    check("layernorm", &["inp", "weight", "bias"], 1000.0, |_, x| layernorm(&x[0], &x[1], &x[2], 1e-5));
}

#[test]
fn softmax_and_cross_entropy_are_pytorchs() {
    check("softmax", &["inp"], 64.0, |_, x| softmax(&x[0], 1.0));
    // One row lies at 500, where its log-sum-exp is rounded to 2^-15: 128 epsilons of a probability.
    check("cross_entropy", &["logits"], 192.0, |file, x| {
        cross_entropy(&x[0], &read(file, "cross_entropy.targets"), None)
    });
}

#[test]
fn embedding_and_linear_are_pytorchs() {
    check("embedding", &["weight"], 8.0, |file, x| embedding(&read(file, "embedding.ids"), &x[0]));
    check("linear", &["inp", "weight", "bias"], 32.0, |_, x| {
        linear(&x[0], &x[1], Some(&x[2]), WeightLayout::InOut, Epilogue::None)
    });
}

#[test]
fn attention_is_pytorchs() {
    let heads = 3;
    check("attention_causal", &["qkv"], 64.0, |_, x| {
        attention_packed(&x[0], heads, &Attention { causal: true, ..Attention::default() })
    });
    check("attention_padded", &["qkv"], 64.0, |file, x| {
        let key_mask = Some(read(file, "attention_padded.key_mask"));
        attention_packed(&x[0], heads, &Attention { key_mask, ..Attention::default() })
    });
}
