//! Cards of matmul: operands as stored and as transposed views, batches, one right-hand side for all.

use super::{Array, Card, Case, Input, Values, case};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::{matmul::matmul, view::transpose};
use crate::tensor::Tensor;

const CASES: &[Case] = &[
    case(&[0, 3, 2], "no rows"),
    case(&[3, 0, 2], "no columns"),
    case(&[3, 2, 0], "nothing to sum: zeros"),
    case(&[1, 1, 1], "one product"),
    case(&[1, 17, 13], "one row"),
    case(&[19, 1, 13], "one column"),
    case(&[15, 16, 17], "around the vector width"),
    case(&[16, 17, 15], "around the vector width, rotated"),
    case(&[31, 67, 129], "primes past register tiles"),
    case(&[65, 63, 257], "past cache blocks by one"),
    case(&[7, 11, 13], "huge values").values(Values::Scaled(1e12)),
    case(&[7, 11, 13], "tiny values").values(Values::Scaled(1e-6)),
];

/// lhs (m, k), its element (i, p) at `i * row + p * col`.
fn product(
    out: &mut Vec<f64>,
    a: &[f64],
    a_strides: [usize; 2],
    b: &[f64],
    b_strides: [usize; 2],
    mnk: [usize; 3],
) {
    let [m, n, k] = mnk;
    for i in 0..m {
        for j in 0..n {
            let term =
                |p: usize| a[i * a_strides[0] + p * a_strides[1]] * b[p * b_strides[0] + j * b_strides[1]];
            out.push((0..k).map(term).sum());
        }
    }
}

fn mnk(sizes: &[usize]) -> [usize; 3] {
    [sizes[sizes.len() - 3], sizes[sizes.len() - 2], sizes[sizes.len() - 1]]
}

fn batch(sizes: &[usize]) -> f64 {
    super::product(&sizes[..sizes.len() - 3])
}

fn flops(sizes: &[usize]) -> f64 {
    2.0 * super::product(sizes)
}

fn bytes(sizes: &[usize], dtype: DType) -> f64 {
    let [m, n, k] = mnk(sizes).map(|x| x as f64);
    batch(sizes) * (m * k + k * n + m * n) * dtype.size() as f64
}

fn terms(sizes: &[usize]) -> f64 {
    // The gradients sum over M and N, and that of a shared right-hand side over the batch too.
    mnk(sizes).into_iter().max().unwrap_or(1) as f64 * batch(sizes)
}

const fn card(
    name: &'static str,
    formula: &'static str,
    forward: fn(&Case, &[Tensor]) -> Result<Tensor>,
    reference: fn(&Case, &[Array]) -> Array,
) -> Card {
    Card {
        op: "matmul",
        name,
        formula,
        source: "definition",
        size_names: "M N K",
        cases: CASES,
        bench: case(&[2048, 1024, 256], "the first product of the MLP"),
        inputs: |case, reader| {
            let [m, n, k] = mnk(case.sizes);
            vec![Input::activation(case.draw(&[m, k], reader)), Input::activation(case.draw(&[k, n], reader))]
        },
        forward,
        reference,
        flops,
        bytes,
        terms,
        roundings: 1.0,
    }
}

pub static NN: Card = card(
    "matmul_nn",
    "out[i, j] = sum over p of lhs[i, p] rhs[p, j]",
    |_, x| matmul(&x[0], &x[1]),
    |case, x| {
        let [m, n, k] = mnk(case.sizes);
        let mut data = Vec::new();
        product(&mut data, &x[0].data, [k, 1], &x[1].data, [n, 1], [m, n, k]);
        Array { shape: vec![m, n], data }
    },
);

pub static NT: Card = Card {
    inputs: |case, reader| {
        let [m, n, k] = mnk(case.sizes);
        vec![Input::activation(case.draw(&[m, k], reader)), Input::activation(case.draw(&[n, k], reader))]
    },
    ..card(
        "matmul_nt",
        "out[i, j] = sum over p of lhs[i, p] rhs[j, p]: rhs is a transposed view",
        |_, x| matmul(&x[0], &transpose(&x[1], 0, 1)?),
        |case, x| {
            let [m, n, k] = mnk(case.sizes);
            let mut data = Vec::new();
            product(&mut data, &x[0].data, [k, 1], &x[1].data, [1, k], [m, n, k]);
            Array { shape: vec![m, n], data }
        },
    )
};

pub static TN: Card = Card {
    inputs: |case, reader| {
        let [m, n, k] = mnk(case.sizes);
        vec![Input::activation(case.draw(&[k, m], reader)), Input::parameter(case.draw(&[k, n], reader))]
    },
    ..card(
        "matmul_tn",
        "out[i, j] = sum over p of lhs[p, i] rhs[p, j]: lhs is a transposed view, rhs a parameter",
        |_, x| matmul(&transpose(&x[0], 0, 1)?, &x[1]),
        |case, x| {
            let [m, n, k] = mnk(case.sizes);
            let mut data = Vec::new();
            product(&mut data, &x[0].data, [1, m], &x[1].data, [n, 1], [m, n, k]);
            Array { shape: vec![m, n], data }
        },
    )
};

const BATCHED_CASES: &[Case] = &[
    case(&[0, 2, 3, 5, 7], "no batches"),
    case(&[2, 1, 0, 5, 7], "batches without rows"),
    case(&[1, 1, 3, 5, 7], "one batch"),
    case(&[2, 3, 5, 7, 11], "two batch dimensions"),
    case(&[3, 1, 17, 15, 16], "around the vector width"),
    case(&[1, 5, 1, 1, 1], "products of one"),
];

/// `rhs_step` is 0 when all batches share it.
fn batched_reference(case: &Case, a: &Array, b: &Array, rhs_step: usize, b_strides: [usize; 2]) -> Array {
    let [m, n, k] = mnk(case.sizes);
    let mut data = Vec::new();
    for i in 0..case.sizes[0] * case.sizes[1] {
        product(&mut data, &a.data[i * m * k..], [k, 1], &b.data[i * rhs_step..], b_strides, [m, n, k]);
    }
    Array { shape: vec![case.sizes[0], case.sizes[1], m, n], data }
}

pub static BATCHED: Card = Card {
    size_names: "B H M N K",
    cases: BATCHED_CASES,
    bench: case(&[16, 4, 128, 128, 64], "attention scores"),
    inputs: |case, reader| {
        let [b, h, m, n, k] = *case.sizes else { unreachable!("the card's cases have five sizes") };
        vec![
            Input::activation(case.draw(&[b, h, m, k], reader)),
            Input::activation(case.draw(&[b, h, n, k], reader)),
        ]
    },
    ..card(
        "matmul_batched",
        "out[b, h, i, j] = sum over p of lhs[b, h, i, p] rhs[b, h, j, p]: rhs is a transposed view",
        |_, x| matmul(&x[0], &transpose(&x[1], 2, 3)?),
        |case, x| {
            let [_, n, k] = mnk(case.sizes);
            batched_reference(case, &x[0], &x[1], n * k, [1, k])
        },
    )
};

pub static SHARED: Card = Card {
    size_names: "B H M N K",
    cases: BATCHED_CASES,
    bench: case(&[16, 1, 128, 1024, 256], "a projection of every sequence"),
    inputs: |case, reader| {
        let [b, h, m, n, k] = *case.sizes else { unreachable!("the card's cases have five sizes") };
        vec![
            Input::activation(case.draw(&[b, h, m, k], reader)),
            Input::parameter(case.draw(&[k, n], reader)),
        ]
    },
    ..card(
        "matmul_shared_rhs",
        "out[b, h, i, j] = sum over p of lhs[b, h, i, p] rhs[p, j]",
        |_, x| matmul(&x[0], &x[1]),
        |case, x| {
            let [_, n, _] = mnk(case.sizes);
            batched_reference(case, &x[0], &x[1], 0, [n, 1])
        },
    )
};
