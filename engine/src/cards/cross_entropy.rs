//! Cards of cross_entropy and linear_cross_entropy. Targets: some ignored, all ignored.

use super::{Array, Card, Case, Input, Pattern, Values, case};
use crate::error::Result;
use crate::ops::cross_entropy::{IGNORE_INDEX, cross_entropy};
use crate::ops::linear_cross_entropy::{linear_cross_entropy, linear_cross_entropy_scored};
use crate::philox::Reader;
use crate::tensor::Tensor;

/// What linear_cross_entropy_divisor divides by.
pub(crate) const DIVISOR: f64 = 37.0;

fn targets(case: &Case, rows: usize, vocab: usize, reader: &mut Reader) -> Input {
    Input::ids(Array::from_fn(&[rows], |row| {
        let ignored = match case.pattern {
            Pattern::Plain => false,
            Pattern::Some => row % 3 == 0,
            Pattern::All => true,
        };
        if ignored || vocab == 0 { IGNORE_INDEX as f64 } else { reader.below(vocab as u32) as f64 }
    }))
}

/// Sum over counted rows of log(sum e^x) - x[target], over the divisor (default: the number of counted rows).
fn loss(logits: &Array, targets: &Array, divisor: Option<f64>) -> Array {
    let counted = targets.data.iter().filter(|t| **t != IGNORE_INDEX as f64);
    let divisor = divisor.unwrap_or(counted.count() as f64);
    let total: f64 = targets
        .data
        .iter()
        .enumerate()
        .filter(|(_, target)| **target != IGNORE_INDEX as f64)
        .map(|(n, target)| {
            let row = logits.row(n);
            let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            // log(1 + what the others add) keeps its digits when one logit is far above the rest.
            let at_max = row.iter().position(|x| *x == max).unwrap_or(0);
            let others: f64 =
                row.iter().enumerate().filter(|(i, _)| *i != at_max).map(|(_, x)| (x - max).exp()).sum();
            max - row[*target as usize] + others.ln_1p()
        })
        .sum();
    Array::scalar(if total == 0.0 { 0.0 } else { total / divisor })
}

pub static CARD: Card = Card {
    op: "cross_entropy",
    name: "cross_entropy",
    formula: "out = mean over counted n of log(sum over v of e^logits[n, v]) - logits[n, target[n]]",
    source: "definition",
    size_names: "N V",
    cases: &[
        case(&[0, 5], "no rows: 0"),
        case(&[3, 0], "no vocabulary, nothing counted: 0"),
        case(&[3, 1], "one token: loss 0, gradient 0"),
        case(&[5, 15], "one short of the lanes"),
        case(&[5, 17], "one past the lanes"),
        case(&[131, 257], "more rows than a task holds"),
        case(&[31, 33], "some targets ignored").pattern(Pattern::Some),
        case(&[7, 33], "all targets ignored: loss 0, gradient 0").pattern(Pattern::All),
        case(&[7, 33], "logits far apart: e^x overflows without the shift")
            .values(Values::Scaled(150.0))
            .condition(20.0),
        case(&[7, 33], "mean far from 0").values(Values::Shifted(300.0)).condition(100.0),
        case(&[7, 33], "equal logits: loss log V").values(Values::Scaled(1e-6)),
    ],
    bench: case(&[2048, 50257], "the textbook model's loss"),
    inputs: |case, reader| {
        let logits = Input::activation(case.draw(case.sizes, reader));
        vec![logits, targets(case, case.sizes[0], case.sizes[1], reader)]
    },
    forward: |_, x| cross_entropy(&x[0], &x[1], None),
    reference: |_, x| loss(&x[0], &x[1], None),
    flops: |sizes| 5.0 * super::product(sizes),
    bytes: |sizes, dtype| super::product(sizes) * dtype.size() as f64 + 4.0 * sizes[0] as f64,
    terms: |sizes| sizes[1] as f64,
    roundings: 1.0,
};

fn linear_reference(case: &Case, x: &[Array], divisor: Option<f64>) -> Array {
    let [n, v, c] = *case.sizes else { unreachable!("the card's cases have three sizes") };
    let logits = Array::from_fn(&[n, v], |at| {
        let (inp, weight) = (&x[0].data[at / v * c..][..c], &x[1].data[at % v * c..][..c]);
        inp.iter().zip(weight).map(|(a, b)| a * b).sum()
    });
    loss(&logits, &x[2], divisor)
}

const LINEAR_CASES: &[Case] = &[
    case(&[0, 5, 3], "no rows: loss and gradients 0"),
    case(&[3, 0, 5], "no vocabulary, nothing counted: 0"),
    case(&[3, 7, 0], "no features: loss log V"),
    case(&[1, 1, 1], "one token"),
    case(&[17, 31, 15], "around the vector width"),
    case(&[511, 13, 5], "one row short of a chunk of 512"),
    case(&[512, 13, 5], "one chunk"),
    case(&[513, 13, 5], "one row into the second chunk: the weight's gradient accumulates"),
    case(&[1030, 7, 3], "three chunks, some targets ignored").pattern(Pattern::Some),
    case(&[5, 251, 3], "one word short of a block of 252"),
    case(&[5, 252, 3], "one block"),
    case(&[5, 253, 3], "one word into the second block: maxima and sums merge"),
    case(&[3, 8200, 2], "more blocks than parts: a part's blocks share its dx"),
    case(&[4, 9, 260], "features beyond one block of k"),
    case(&[19, 17, 5], "all targets ignored: loss and gradients 0").pattern(Pattern::All),
    case(&[9, 17, 5], "large logits").values(Values::Scaled(20.0)).condition(8.0),
];

const fn linear_card(
    name: &'static str,
    formula: &'static str,
    forward: fn(&Case, &[Tensor]) -> Result<Tensor>,
    reference: fn(&Case, &[Array]) -> Array,
) -> Card {
    Card {
        op: "linear_cross_entropy",
        name,
        formula,
        source: "definition",
        size_names: "N V C",
        cases: LINEAR_CASES,
        bench: case(&[2048, 50257, 256], "the textbook model's head"),
        inputs: |case, reader| {
            let [n, v, c] = *case.sizes else { unreachable!("the card's cases have three sizes") };
            let inp = Input::activation(case.draw(&[n, c], reader));
            let weight = Input::parameter(super::normal(&[v, c], reader));
            vec![inp, weight, targets(case, n, v, reader)]
        },
        forward,
        reference,
        flops: |sizes| 2.0 * super::product(sizes) + 5.0 * (sizes[0] * sizes[1]) as f64,
        bytes: |sizes, dtype| {
            (sizes[0] * sizes[2] + sizes[1] * sizes[2]) as f64 * dtype.size() as f64 + 4.0 * sizes[0] as f64
        },
        terms: |sizes| sizes.iter().copied().max().unwrap_or(1) as f64,
        roundings: 1.0,
    }
}

pub static LINEAR: Card = linear_card(
    "linear_cross_entropy",
    "out = cross_entropy(inp weight^T, targets)",
    |_, x| linear_cross_entropy(&x[0], &x[1], &x[2], None),
    |case, x| linear_reference(case, x, None),
);

pub static LINEAR_DIVISOR: Card = linear_card(
    "linear_cross_entropy_divisor",
    "out = summed cross_entropy(inp weight^T, targets) / 37",
    |_, x| linear_cross_entropy(&x[0], &x[1], &x[2], Some(DIVISOR)),
    |case, x| linear_reference(case, x, Some(DIVISOR)),
);

pub static LINEAR_BIAS: Card = Card {
    op: "linear_cross_entropy",
    name: "linear_cross_entropy_bias",
    formula: "out = cross_entropy(inp weight^T + bias, targets)",
    source: "definition",
    size_names: "N V C",
    cases: &[
        case(&[0, 5, 3], "no rows: loss and gradients 0"),
        case(&[3, 0, 5], "no vocabulary, nothing counted: 0"),
        case(&[1, 1, 1], "one token"),
        case(&[17, 31, 15], "around the vector width"),
        case(&[513, 13, 5], "one row into the second chunk: the gradients of weight and bias accumulate"),
        case(&[1030, 7, 3], "three chunks, some targets ignored").pattern(Pattern::Some),
        case(&[5, 253, 3], "one word into the second block: its bias is not the first one's"),
        case(&[3, 8200, 2], "more blocks than parts: a part's blocks share its bias gradient"),
        case(&[19, 17, 5], "all targets ignored: loss and gradients 0").pattern(Pattern::All),
        case(&[9, 17, 5], "large logits").values(Values::Scaled(20.0)).condition(8.0),
    ],
    bench: case(&[307, 30522, 256], "BERT's head on the chosen rows"),
    inputs: |case, reader| {
        let [n, v, c] = *case.sizes else { unreachable!("the card's cases have three sizes") };
        let inp = Input::activation(case.draw(&[n, c], reader));
        let weight = Input::parameter(super::normal(&[v, c], reader));
        let bias = Input::parameter(super::normal(&[v], reader));
        vec![inp, weight, bias, targets(case, n, v, reader)]
    },
    forward: |_, x| Ok(linear_cross_entropy_scored(&x[0], &x[1], Some(&x[2]), &x[3], None)?.loss),
    reference: |case, x| {
        let [n, v, c] = *case.sizes else { unreachable!("the card's cases have three sizes") };
        let logits = Array::from_fn(&[n, v], |at| {
            let (inp, weight) = (&x[0].data[at / v * c..][..c], &x[1].data[at % v * c..][..c]);
            x[2].data[at % v] + inp.iter().zip(weight).map(|(a, b)| a * b).sum::<f64>()
        });
        loss(&logits, &x[3], None)
    },
    flops: |sizes| 2.0 * super::product(sizes) + 6.0 * (sizes[0] * sizes[1]) as f64,
    bytes: |sizes, dtype| {
        let [n, v, c] = *sizes else { return 0.0 };
        (n * c + v * c + v) as f64 * dtype.size() as f64 + 4.0 * n as f64
    },
    terms: |sizes| sizes.iter().copied().max().unwrap_or(1) as f64,
    roundings: 1.0,
};
