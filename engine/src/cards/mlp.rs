//! Cards of the MLP: GPT-2's with its residual, BERT's without.

use super::{Array, Card, Case, Input, Values, case, gelu::tanh_form, normal};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::gelu::Gelu;
use crate::ops::matmul::{WeightLayout, Weights, mlp};
use crate::philox::Reader;
use crate::tensor::Tensor;

const CASES: &[Case] = &[
    case(&[0, 3, 7, 5], "no rows: parameter gradients are 0"),
    case(&[3, 4, 0, 5], "no hidden features: the second bias alone"),
    case(&[3, 4, 7, 0], "no inputs: a constant"),
    case(&[3, 0, 7, 5], "no outputs"),
    case(&[1, 1, 1, 1], "one of everything"),
    case(&[5, 7, 17, 13], "primes: no two sizes can be confused"),
    case(&[67, 33, 129, 65], "past blocks by one"),
    case(&[70, 64, 72, 64], "aligned rows, which tensor cores take"),
    case(&[5, 3, 7, 11], "tiny inputs").values(Values::Scaled(1e-6)),
];

/// inp (R, K), weights as the layout says, biases, residual (R, N).
fn inputs<const OUT_IN: bool>(case: &Case, reader: &mut Reader) -> Vec<Input> {
    let [rows, n, h, k] = *case.sizes else { unreachable!("the cards' cases have four sizes") };
    let mut weight = |from: usize, to: usize| {
        let shape = if OUT_IN { [to, from] } else { [from, to] };
        let scale = 1.0 / (from.max(1) as f64).sqrt();
        Input::parameter(Array::from_fn(&shape, |_| scale * reader.normal()))
    };
    let (first, second) = (weight(k, h), weight(h, n));
    let biases = [h, n].map(|size| Input::parameter(normal(&[size], reader)));
    let residual = Input::activation(normal(&[rows, n], reader));
    let inp = Input::activation(case.draw(&[rows, k], reader));
    let [first_bias, second_bias] = biases;
    let mut inputs = vec![inp, first, first_bias, second, second_bias];
    if !OUT_IN {
        inputs.push(residual);
    }
    inputs
}

fn forward<const OUT_IN: bool>(_: &Case, x: &[Tensor]) -> Result<Tensor> {
    let layout = if OUT_IN { WeightLayout::OutIn } else { WeightLayout::InOut };
    let first = Weights { weight: &x[1], bias: Some(&x[2]), layout };
    let second = Weights { weight: &x[3], bias: Some(&x[4]), layout };
    mlp(&x[0], first, Gelu::Tanh, second, x.get(5))
}

fn reference<const OUT_IN: bool>(case: &Case, x: &[Array]) -> Array {
    let [rows, n, h, k] = *case.sizes else { unreachable!("the cards' cases have four sizes") };
    let product = |inp: &Array, weight: &Array, from: usize, to: usize, at: usize| -> f64 {
        let (row, output) = (at / to, at % to);
        let weight = |p: usize| weight.data[if OUT_IN { output * from + p } else { p * to + output }];
        (0..from).map(|p| inp.data[row * from + p] * weight(p)).sum()
    };
    let hidden =
        Array::from_fn(&[rows, h], |at| tanh_form(product(&x[0], &x[1], k, h, at) + x[2].data[at % h]));
    Array::from_fn(&[rows, n], |at| {
        let residual = x.get(5).map_or(0.0, |residual| residual.data[at]);
        residual + product(&hidden, &x[3], h, n, at) + x[4].data[at % n]
    })
}

const fn card<const OUT_IN: bool>(name: &'static str, formula: &'static str) -> Card {
    Card {
        op: "matmul",
        name,
        formula,
        source: "Vaswani et al. 2017, arXiv:1706.03762, section 3.3; Hendrycks and Gimpel 2016, arXiv:1606.08415",
        size_names: "R N H K",
        cases: CASES,
        bench: case(&[2048, 256, 1024, 256], "the textbook model's MLP"),
        inputs: inputs::<OUT_IN>,
        forward: forward::<OUT_IN>,
        reference: reference::<OUT_IN>,
        flops: |sizes| 2.0 * (sizes[0] * sizes[2] * (sizes[1] + sizes[3])) as f64,
        bytes: |sizes, dtype: DType| {
            let [r, n, h, k] = *sizes else { unreachable!("the cards' cases have four sizes") };
            let residual = if OUT_IN { 0 } else { r * n };
            ((r * k + k * h + 2 * r * h + h * n + r * n + residual) * dtype.size()) as f64
        },
        terms: |sizes| sizes.iter().copied().max().unwrap_or(1) as f64,
        // Of the linear layer with GELU, and the second product.
        roundings: 5.0,
    }
}

pub static RESIDUAL: Card =
    card::<false>("mlp_in_out_residual", "out = residual + gelu(inp W1 + b1) W2 + b2, weights (in, out)");
pub static PLAIN: Card = card::<true>("mlp_out_in", "out = gelu(inp W1^T + b1) W2^T + b2, weights (out, in)");
