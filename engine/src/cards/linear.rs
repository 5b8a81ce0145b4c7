//! Cards of the linear layer: two weight layouts times four epilogues.

use super::{Array, Card, Case, Input, Values, case, gelu::tanh_form, normal};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::gelu::Gelu;
use crate::ops::matmul::{Epilogue, WeightLayout, linear};
use crate::philox::Reader;
use crate::tensor::Tensor;

const NO_BIAS: u8 = 0;
const BIAS: u8 = 1;
const GELU: u8 = 2;
const RESIDUAL: u8 = 3;

const CASES: &[Case] = &[
    case(&[0, 7, 5], "no rows: parameter gradients are 0"),
    case(&[3, 7, 0], "no input features: the bias alone"),
    case(&[3, 0, 5], "no outputs"),
    case(&[1, 1, 1], "one of everything"),
    case(&[5, 17, 13], "one past the vector width"),
    case(&[17, 16, 31], "the vector width"),
    case(&[67, 129, 65], "past blocks by one"),
    case(&[300, 3, 127], "many rows: long sums in the parameters' gradients"),
    case(&[5, 7, 11], "tiny inputs").values(Values::Scaled(1e-6)),
];

/// inp (N, K), weight as the layout says, bias (M), residual (N, M) where the epilogue has one.
fn inputs<const OUT_IN: bool, const EPILOGUE: u8>(case: &Case, reader: &mut Reader) -> Vec<Input> {
    let [rows, outputs, k] = *case.sizes else { unreachable!("the card's cases have three sizes") };
    let weight = if OUT_IN { [outputs, k] } else { [k, outputs] };
    let mut inputs = vec![
        Input::activation(case.draw(&[rows, k], reader)),
        Input::parameter(Array::from_fn(&weight, |_| reader.normal() / (k as f64).sqrt())),
    ];
    if EPILOGUE != NO_BIAS {
        inputs.push(Input::parameter(normal(&[outputs], reader)));
    }
    if EPILOGUE == RESIDUAL {
        inputs.push(Input::activation(normal(&[rows, outputs], reader)));
    }
    inputs
}

fn forward<const OUT_IN: bool, const EPILOGUE: u8>(_: &Case, x: &[Tensor]) -> Result<Tensor> {
    let layout = if OUT_IN { WeightLayout::OutIn } else { WeightLayout::InOut };
    let epilogue = match EPILOGUE {
        GELU => Epilogue::Gelu(Gelu::Tanh),
        RESIDUAL => Epilogue::Residual(&x[3]),
        _ => Epilogue::None,
    };
    linear(&x[0], &x[1], x.get(2), layout, epilogue)
}

fn reference<const OUT_IN: bool, const EPILOGUE: u8>(case: &Case, x: &[Array]) -> Array {
    let [rows, outputs, k] = *case.sizes else { unreachable!("the card's cases have three sizes") };
    Array::from_fn(&[rows, outputs], |at| {
        let (row, output) = (at / outputs, at % outputs);
        let weight =
            |p: usize| if OUT_IN { x[1].data[output * k + p] } else { x[1].data[p * outputs + output] };
        let product: f64 = (0..k).map(|p| x[0].data[row * k + p] * weight(p)).sum();
        let biased = product + x.get(2).map_or(0.0, |bias| bias.data[output]);
        match EPILOGUE {
            GELU => tanh_form(biased),
            RESIDUAL => x[3].data[at] + biased,
            _ => biased,
        }
    })
}

const fn card<const OUT_IN: bool, const EPILOGUE: u8>(name: &'static str, formula: &'static str) -> Card {
    Card {
        op: "matmul",
        name,
        formula,
        source: if EPILOGUE == GELU { "Hendrycks and Gimpel 2016, arXiv:1606.08415" } else { "definition" },
        size_names: "N M K",
        cases: CASES,
        bench: case(&[2048, 1024, 256], "the first product of the MLP"),
        inputs: inputs::<OUT_IN, EPILOGUE>,
        forward: forward::<OUT_IN, EPILOGUE>,
        reference: reference::<OUT_IN, EPILOGUE>,
        flops: |sizes| 2.0 * super::product(sizes),
        bytes: |sizes, dtype: DType| {
            let [n, m, k] = [sizes[0] as f64, sizes[1] as f64, sizes[2] as f64];
            let residual = if EPILOGUE == RESIDUAL { n * m } else { 0.0 };
            (n * k + k * m + n * m + residual) * dtype.size() as f64
        },
        terms: |sizes| sizes.iter().copied().max().unwrap_or(1) as f64,
        // The product; the bias; the activation, and in backward the pre-activation's gradient.
        roundings: match EPILOGUE {
            NO_BIAS => 1.0,
            GELU => 4.0,
            _ => 2.0,
        },
    }
}

/// InOut (GPT-2's Conv1D) without and with bias, GELU, residual; then OutIn (PyTorch's Linear).
pub static CARDS: [Card; 8] = [
    card::<false, NO_BIAS>("linear_in_out", "out = inp W"),
    card::<false, BIAS>("linear_in_out_bias", "out = inp W + bias"),
    card::<false, GELU>("linear_in_out_gelu", "out = gelu(inp W + bias)"),
    card::<false, RESIDUAL>("linear_in_out_residual", "out = residual + inp W + bias"),
    card::<true, NO_BIAS>("linear_out_in", "out = inp W^T"),
    card::<true, BIAS>("linear_out_in_bias", "out = inp W^T + bias"),
    card::<true, GELU>("linear_out_in_gelu", "out = gelu(inp W^T + bias)"),
    card::<true, RESIDUAL>("linear_out_in_residual", "out = residual + inp W^T + bias"),
];
