//! Cards of attention. Masks: 0 hides a key; `Some` hides about a third, `All` hides every key of the first sequence. A bias has the
//! parameters' role: its gradient is f32 in every precision.

use super::dropout::{STREAM, factor};
use super::{Array, Card, Case, Input, Pattern, Values, case, softmax::softmax_row};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::attention::{Attention, attention, attention_packed};
use crate::ops::view::narrow;
use crate::philox::Reader;
use crate::tensor::Tensor;

const DROP_PROB: f32 = 0.3;

/// What the reference needs beside q, k and v.
#[derive(Default)]
struct Options<'a> {
    causal: bool,
    drop_prob: Option<f32>,
    mask: Option<&'a Array>,
    /// (NH, Tq, Tk), or 1 before that.
    bias: Option<&'a Array>,
}

/// q (B, Tq, NH, HS), k, v (B, Tk, NH, HS) to (B, Tq, NH, HS).
fn formula(q: &Array, k: &Array, v: &Array, options: Options) -> Array {
    let [batch, queries, heads, hs] = [q.shape[0], q.shape[1], q.shape[2], q.shape[3]];
    let keys = k.shape[1];
    let mut out = Array::from_fn(&q.shape, |_| 0.0);
    for b in 0..batch {
        for h in 0..heads {
            let at = |t: usize, length: usize| ((b * length + t) * heads + h) * hs;
            for i in 0..queries {
                let hidden = |j: usize| {
                    options.causal && j + queries > keys + i
                        || options.mask.is_some_and(|mask| mask.data[b * keys + j] == 0.0)
                };
                let score = |j: usize| -> f64 {
                    let (q, k) = (&q.data[at(i, queries)..][..hs], &k.data[at(j, keys)..][..hs]);
                    let bias = options.bias.map_or(0.0, |bias| bias.data[(h * queries + i) * keys + j]);
                    q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() / (hs as f64).sqrt() + bias
                };
                let seen: Vec<usize> = (0..keys).filter(|j| !hidden(*j)).collect();
                let mut weights: Vec<f64> = seen.iter().map(|j| score(*j)).collect();
                softmax_row(&mut weights);
                let row = (b * heads + h) * queries + i;
                for (&j, weight) in seen.iter().zip(weights) {
                    let kept = options
                        .drop_prob
                        .map_or(1.0, |p| factor(STREAM, p, (row * keys.div_ceil(4)) as u64, j));
                    for d in 0..hs {
                        out.data[at(i, queries) + d] += weight * kept * v.data[at(j, keys) + d];
                    }
                }
            }
        }
    }
    out
}

fn qkv(case: &Case, reader: &mut Reader) -> Vec<Input> {
    let [b, tq, tk, nh, hs] = *case.sizes else { unreachable!("the card's cases have five sizes") };
    [tq, tk, tk].map(|t| Input::activation(case.draw(&[b, t, nh, hs], reader))).into()
}

fn mask(case: &Case, keys: usize, reader: &mut Reader) -> Input {
    Input::ids(Array::from_fn(&[case.sizes[0], keys], |at| match case.pattern {
        Pattern::Plain => 1.0,
        // The first key too: with `causal`, the first queries then see nothing.
        Pattern::Some => (at % keys != 0 && reader.below(3) > 0) as u8 as f64,
        Pattern::All => (at >= keys) as u8 as f64,
    }))
}

fn options(causal: bool, drop_prob: Option<f32>, mask: Option<&Tensor>) -> Attention {
    let (dropout, key_mask) = (drop_prob.map(|p| (p, STREAM)), mask.map(Tensor::detach));
    Attention { causal, dropout, key_mask, ..Attention::default() }
}

const CAUSAL_CASES: &[Case] = &[
    case(&[0, 3, 3, 2, 4], "no sequences"),
    case(&[2, 0, 3, 2, 4], "no queries: gradients 0"),
    case(&[2, 3, 3, 0, 4], "no heads"),
    case(&[2, 3, 3, 2, 0], "no head size"),
    case(&[1, 1, 1, 1, 1], "one of everything: weight 1"),
    case(&[2, 5, 5, 3, 7], "primes: no two sizes can be confused"),
    case(&[1, 1, 19, 2, 4], "one query on many keys (generation)"),
    case(&[2, 4, 9, 2, 5], "fewer queries than keys"),
    case(&[1, 63, 63, 1, 8], "one short of a block of queries"),
    case(&[1, 64, 64, 1, 8], "a block of queries"),
    case(&[1, 65, 65, 2, 8], "one past a block of queries"),
    case(&[1, 66, 131, 1, 4], "two blocks of queries, more keys"),
    case(&[2, 9, 9, 2, 16], "scores far apart")
        .values(Values::Scaled(6.0))
        .condition(40.0)
        .half_condition(12.0),
    case(&[2, 9, 9, 2, 16], "equal scores").values(Values::Scaled(1e-4)),
];

const fn card(
    name: &'static str,
    formula: &'static str,
    cases: &'static [Case],
    inputs: fn(&Case, &mut Reader) -> Vec<Input>,
    forward: fn(&Case, &[Tensor]) -> Result<Tensor>,
    reference: fn(&Case, &[Array]) -> Array,
) -> Card {
    Card {
        op: "attention",
        name,
        formula,
        source: "Vaswani et al. 2017, arXiv:1706.03762, equation 1",
        size_names: "B Tq Tk NH HS",
        cases,
        bench: case(&[16, 128, 128, 4, 64], "the textbook model's attention"),
        inputs,
        forward,
        reference,
        flops: |sizes| 4.0 * super::product(sizes),
        bytes: |sizes, dtype: DType| {
            let [b, tq, tk, nh, hs] = *sizes else { unreachable!("the card's cases have five sizes") };
            (2 * b * (tq + tk) * nh * hs * dtype.size()) as f64
        },
        terms: |sizes| sizes[1].max(sizes[2]).max(sizes[4]) as f64,
        // Backward works from the rounded output.
        roundings: 4.0,
    }
}

pub static CAUSAL: Card = card(
    "attention_causal",
    "out = softmax(q k^T / sqrt(HS)) v, query i seeing keys 0 ..= Tk - Tq + i",
    CAUSAL_CASES,
    qkv,
    |_, x| attention(&x[0], &x[1], &x[2], &options(true, None, None)),
    |_, x| formula(&x[0], &x[1], &x[2], Options { causal: true, ..Options::default() }),
);

const MASKED_CASES: &[Case] = &[
    case(&[2, 3, 0, 2, 4], "no keys: out 0"),
    case(&[2, 7, 5, 3, 4], "more queries than keys, nothing hidden"),
    case(&[3, 5, 11, 2, 4], "some keys hidden").pattern(Pattern::Some),
    case(&[2, 5, 7, 2, 3], "all keys of a sequence hidden: out and gradients 0").pattern(Pattern::All),
    case(&[2, 65, 67, 1, 5], "one past a block of queries").pattern(Pattern::Some),
];

fn masked_inputs(case: &Case, reader: &mut Reader) -> Vec<Input> {
    let mut inputs = qkv(case, reader);
    inputs.push(mask(case, case.sizes[2], reader));
    inputs
}

pub static MASKED: Card = card(
    "attention_masked",
    "out = softmax(q k^T / sqrt(HS)) v over the keys whose mask is not 0",
    MASKED_CASES,
    masked_inputs,
    |_, x| attention(&x[0], &x[1], &x[2], &options(false, None, Some(&x[3]))),
    |_, x| formula(&x[0], &x[1], &x[2], Options { causal: false, mask: Some(&x[3]), ..Options::default() }),
);

pub static CAUSAL_MASKED: Card = card(
    "attention_causal_masked",
    "as attention_causal, over the keys whose mask is not 0",
    &[
        case(&[3, 5, 5, 2, 4], "some queries see no key").pattern(Pattern::Some),
        case(&[2, 5, 7, 2, 3], "no query of a sequence sees a key").pattern(Pattern::All),
        case(&[1, 67, 67, 1, 5], "blocks of queries").pattern(Pattern::Some),
    ],
    masked_inputs,
    |_, x| attention(&x[0], &x[1], &x[2], &options(true, None, Some(&x[3]))),
    |_, x| formula(&x[0], &x[1], &x[2], Options { causal: true, mask: Some(&x[3]), ..Options::default() }),
);

pub static DROPOUT: Card = card(
    "attention_dropout",
    "as attention_causal, each weight dropped with probability p or divided by 1 - p",
    &[
        case(&[2, 5, 5, 3, 4], "rows of draws that are not whole words"),
        case(&[1, 3, 8, 2, 4], "rows of whole words"),
        case(&[1, 67, 67, 1, 5], "blocks of queries, more than 64 keys"),
    ],
    qkv,
    |_, x| attention(&x[0], &x[1], &x[2], &options(true, Some(DROP_PROB), None)),
    |_, x| {
        formula(
            &x[0],
            &x[1],
            &x[2],
            Options { causal: true, drop_prob: Some(DROP_PROB), ..Options::default() },
        )
    },
);

/// A bias of this shape; it does not follow the case's values.
fn bias(shape: &[usize], reader: &mut Reader) -> Input {
    Input::parameter(super::normal(shape, reader))
}

/// As the cards without bias, and the bias.
fn bytes_with_bias(sizes: &[usize], dtype: DType) -> f64 {
    let [_, tq, tk, nh, _] = *sizes else { unreachable!("the card's cases have five sizes") };
    (CAUSAL.bytes)(sizes, dtype) + (nh * tq * tk * dtype.size()) as f64
}

const fn card_with_bias(
    name: &'static str,
    formula: &'static str,
    cases: &'static [Case],
    inputs: fn(&Case, &mut Reader) -> Vec<Input>,
    forward: fn(&Case, &[Tensor]) -> Result<Tensor>,
    reference: fn(&Case, &[Array]) -> Array,
) -> Card {
    let source = "Vaswani et al. 2017, arXiv:1706.03762, equation 1; Raffel et al. 2020, arXiv:1910.10683, section 2.1";
    Card { source, bytes: bytes_with_bias, ..card(name, formula, cases, inputs, forward, reference) }
}

pub static BIAS: Card = card_with_bias(
    "attention_bias",
    "out = softmax(q k^T / sqrt(HS) + bias[h]) v over the keys whose mask is not 0",
    &[
        case(&[2, 0, 3, 2, 4], "no queries: no bias"),
        case(&[2, 3, 0, 2, 4], "no keys: no bias"),
        case(&[0, 3, 5, 2, 4], "no sequences: gradient of the bias 0"),
        case(&[1, 1, 1, 1, 1], "one of everything: gradient of the bias 0"),
        case(&[3, 5, 7, 2, 3], "primes; the bias' gradient sums over the batch"),
        case(&[2, 3, 11, 2, 4], "some keys hidden").pattern(Pattern::Some),
        case(&[2, 3, 8, 2, 4], "all keys of a sequence hidden").pattern(Pattern::All),
        case(&[2, 65, 67, 1, 5], "one past a block of queries, rows of bias that are not aligned"),
        case(&[1, 33, 68, 2, 72], "larger heads, rows of bias that are").pattern(Pattern::Some),
    ],
    |case, reader| {
        let [_, tq, tk, nh, _] = *case.sizes else { unreachable!("the card's cases have five sizes") };
        let mut inputs = masked_inputs(case, reader);
        inputs.push(bias(&[nh, tq, tk], reader));
        inputs
    },
    |_, x| {
        let bias = Some(x[4].clone());
        attention(&x[0], &x[1], &x[2], &Attention { bias, ..options(false, None, Some(&x[3])) })
    },
    |_, x| {
        let (mask, bias) = (Some(&x[3]), Some(&x[4]));
        formula(&x[0], &x[1], &x[2], Options { mask, bias, ..Options::default() })
    },
);

pub static BIAS_CAUSAL_DROPOUT: Card = card_with_bias(
    "attention_bias_causal_dropout",
    "as attention_bias, query i seeing keys 0 ..= Tk - Tq + i, with dropout; bias (1, NH, Tq, Tk)",
    &[
        case(&[2, 1, 6, 2, 4], "one query after many keys"),
        // A query that sees one key has gradient 0: what is left is the rounding of the saved output, through delta.
        case(&[3, 5, 5, 3, 7], "some queries see no key").pattern(Pattern::Some).half_condition(3.0),
        case(&[2, 4, 9, 2, 5], "fewer queries than keys").pattern(Pattern::All),
        case(&[1, 67, 70, 1, 5], "blocks of queries, more than 64 keys").pattern(Pattern::Some),
    ],
    |case, reader| {
        let [_, tq, tk, nh, _] = *case.sizes else { unreachable!("the card's cases have five sizes") };
        let mut inputs = masked_inputs(case, reader);
        inputs.push(bias(&[1, nh, tq, tk], reader));
        inputs
    },
    |_, x| {
        let bias = Some(x[4].clone());
        attention(&x[0], &x[1], &x[2], &Attention { bias, ..options(true, Some(DROP_PROB), Some(&x[3])) })
    },
    |_, x| {
        let (mask, bias) = (Some(&x[3]), Some(&x[4]));
        formula(&x[0], &x[1], &x[2], Options { causal: true, drop_prob: Some(DROP_PROB), mask, bias })
    },
);

/// q, and k and v of which the op sees a window: positions 1 .. 1 + Tk of Tk + 3.
fn cache_inputs(case: &Case, reader: &mut Reader) -> Vec<Input> {
    let [b, tq, tk, nh, hs] = *case.sizes else { unreachable!("the card's cases have five sizes") };
    [tq, tk + 3, tk + 3].map(|t| Input::activation(case.draw(&[b, t, nh, hs], reader))).into()
}

fn cached(case: &Case, x: &[Tensor], options: &Attention) -> Result<Tensor> {
    let window = |x: &Tensor| narrow(x, 1, 1, case.sizes[2]);
    attention(&x[0], &window(&x[1])?, &window(&x[2])?, options)
}

fn cached_formula(case: &Case, x: &[Array], options: Options) -> Array {
    let [b, _, tk, nh, hs] = *case.sizes else { unreachable!("the card's cases have five sizes") };
    let window = |x: &Array| {
        let row = nh * hs;
        Array::from_fn(&[b, tk, nh, hs], |at| {
            x.data[(at / (tk * row) * (tk + 3) + at / row % tk + 1) * row + at % row]
        })
    };
    formula(&x[0], &window(&x[1]), &window(&x[2]), options)
}

pub static CACHE: Card = card(
    "attention_cache",
    "as attention_causal, k and v being views of the first keys in a longer cache",
    &[
        case(&[1, 1, 5, 2, 4], "one new query"),
        case(&[3, 2, 5, 2, 4], "batch stride longer than the keys"),
        case(&[2, 5, 7, 1, 1], "one head of size 1: strides say little"),
    ],
    cache_inputs,
    |case, x| cached(case, x, &options(true, None, None)),
    |case, x| cached_formula(case, x, Options { causal: true, ..Options::default() }),
);

pub static CACHE_BIAS: Card = card_with_bias(
    "attention_cache_bias",
    "as attention_cache, with a bias (NH, Tq, Tk) of the new queries",
    &[
        case(&[1, 1, 5, 2, 4], "one new query"),
        // Weights near 1 leave small gradients, differences of larger terms.
        case(&[3, 2, 7, 2, 4], "a few, the batch strided").half_condition(3.0),
        case(&[2, 3, 68, 1, 8], "keys in two tiles"),
    ],
    |case, reader| {
        let [_, tq, tk, nh, _] = *case.sizes else { unreachable!("the card's cases have five sizes") };
        let mut inputs = cache_inputs(case, reader);
        inputs.push(bias(&[nh, tq, tk], reader));
        inputs
    },
    |case, x| cached(case, x, &Attention { bias: Some(x[3].clone()), ..options(true, None, None) }),
    |case, x| cached_formula(case, x, Options { causal: true, bias: Some(&x[3]), ..Options::default() }),
);

/// q, k or v (part 0, 1, 2) of qkv (B, T, 3 NH HS).
fn part(case: &Case, qkv: &Array, part: usize) -> Array {
    let [b, t, _, nh, hs] = *case.sizes else { unreachable!("the card's cases have five sizes") };
    let c = nh * hs;
    Array::from_fn(&[b, t, nh, hs], |at| qkv.data[at / c * 3 * c + part * c + at % c])
}

fn packed_formula(case: &Case, x: &[Array], options: Options) -> Array {
    let out = formula(&part(case, &x[0], 0), &part(case, &x[0], 1), &part(case, &x[0], 2), options);
    let [b, t, _, nh, hs] = *case.sizes else { unreachable!("the card's cases have five sizes") };
    Array { shape: vec![b, t, nh * hs], data: out.data }
}

fn packed_input(case: &Case, reader: &mut Reader) -> Input {
    let [b, t, _, nh, hs] = *case.sizes else { unreachable!("the card's cases have five sizes") };
    Input::activation(case.draw(&[b, t, 3 * nh * hs], reader))
}

pub static PACKED: Card = card(
    "attention_packed",
    "as attention_causal, q, k and v side by side in one input",
    &[
        case(&[0, 3, 3, 2, 4], "no sequences"),
        case(&[2, 0, 0, 2, 4], "no time"),
        case(&[1, 1, 1, 1, 1], "one of everything"),
        case(&[2, 5, 5, 3, 7], "primes: no two sizes can be confused"),
        case(&[2, 65, 65, 2, 8], "one past a block of queries"),
    ],
    |case, reader| vec![packed_input(case, reader)],
    |case, x| attention_packed(&x[0], case.sizes[3], &options(true, None, None)),
    |case, x| packed_formula(case, x, Options { causal: true, ..Options::default() }),
);

pub static PACKED_MASKED: Card = card(
    "attention_packed_masked",
    "as attention_packed, bidirectional with key mask and dropout",
    &[
        case(&[3, 5, 5, 2, 4], "some keys hidden").pattern(Pattern::Some),
        case(&[2, 7, 7, 2, 3], "all keys of a sequence hidden").pattern(Pattern::All),
        case(&[1, 67, 67, 2, 5], "blocks of queries").pattern(Pattern::Some),
    ],
    |case, reader| vec![packed_input(case, reader), mask(case, case.sizes[1], reader)],
    |case, x| attention_packed(&x[0], case.sizes[3], &options(false, Some(DROP_PROB), Some(&x[1]))),
    |case, x| {
        packed_formula(
            case,
            x,
            Options { drop_prob: Some(DROP_PROB), mask: Some(&x[1]), ..Options::default() },
        )
    },
);

pub static PACKED_BIAS: Card = card_with_bias(
    "attention_packed_bias",
    "as attention_packed_masked, with a bias (NH, T, T)",
    &[
        case(&[2, 0, 0, 2, 4], "no time"),
        case(&[3, 5, 5, 2, 4], "some keys hidden").pattern(Pattern::Some),
        case(&[2, 7, 7, 2, 3], "all keys of a sequence hidden").pattern(Pattern::All),
        case(&[2, 65, 65, 2, 5], "blocks of queries").pattern(Pattern::Some),
    ],
    |case, reader| {
        let [_, t, _, nh, _] = *case.sizes else { unreachable!("the card's cases have five sizes") };
        vec![packed_input(case, reader), mask(case, t, reader), bias(&[nh, t, t], reader)]
    },
    |case, x| {
        let options = Attention { bias: Some(x[2].clone()), ..options(false, Some(DROP_PROB), Some(&x[1])) };
        attention_packed(&x[0], case.sizes[3], &options)
    },
    |case, x| {
        let (drop_prob, mask, bias) = (Some(DROP_PROB), Some(&x[1]), Some(&x[2]));
        packed_formula(case, x, Options { causal: false, drop_prob, mask, bias })
    },
);
