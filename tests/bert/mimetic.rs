//! `model.init = "mimetic"`: what the first block looks at, and what a block copies, before any training.

use handloom_engine::philox::Stream;
use handloom_model::bert::{Bert, BertConfig};
use handloom_model::config::RunConfig;
use handloom_model::params::Init;

use crate::golden::values;

const WIDTH: usize = 96;
const HEADS: usize = 4;
const HEAD_SIZE: usize = WIDTH / HEADS;
const TIME: usize = 40;

fn mimetic(seed: u64) -> Bert {
    let config = BertConfig {
        vocab_size: 500,
        hidden_size: WIDTH,
        num_hidden_layers: 2,
        num_attention_heads: HEADS,
        intermediate_size: 64,
        max_position_embeddings: TIME,
        ..BertConfig::default()
    };
    let mut model = Bert::new(config).unwrap();
    model.initialise(Init::Mimetic, seed).unwrap();
    model
}

fn weights(model: &mut Bert, name: &str) -> Vec<f64> {
    values(&model.params.by_name(&format!("bert.{name}.weight")).unwrap().value)
}

/// x (N, C) times weight^T, weight (C, C).
fn times_transposed(x: &[f64], weight: &[f64]) -> Vec<f64> {
    let row = |x: &[f64]| -> Vec<f64> {
        weight.chunks_exact(WIDTH).map(|w| w.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
    };
    x.chunks_exact(WIDTH).flat_map(row).collect()
}

/// The normalised embeddings of random tokens, (T, C).
fn embedded(model: &mut Bert) -> Vec<f64> {
    let word = weights(model, "embeddings.word_embeddings");
    let position = weights(model, "embeddings.position_embeddings");
    let segment = weights(model, "embeddings.token_type_embeddings");
    let mut reader = Stream { seed: 3, stream: 0, step: 0 }.reader();
    let row = |t: usize| {
        let token = reader.below(500) as usize;
        let x: Vec<f64> =
            (0..WIDTH).map(|c| word[token * WIDTH + c] + position[t * WIDTH + c] + segment[c]).collect();
        let mean = x.iter().sum::<f64>() / WIDTH as f64;
        let std = (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / WIDTH as f64).sqrt();
        x.into_iter().map(move |x| (x - mean) / std)
    };
    (0..TIME).flat_map(row).collect()
}

#[test]
fn each_head_of_the_first_block_looks_at_its_neighbour() {
    let mut model = mimetic(5);
    let x = embedded(&mut model);
    let [query, key] = ["query", "key"].map(|name| {
        let weight = weights(&mut model, &format!("encoder.layer.0.attention.self.{name}"));
        times_transposed(&x, &weight)
    });
    for (head, offset) in [-1i64, 1, -2, 2].into_iter().enumerate() {
        let part = |x: &[f64], t: usize| x[t * WIDTH + head * HEAD_SIZE..][..HEAD_SIZE].to_vec();
        let (mut weight, mut first, mut rows) = (0.0, 0, 0);
        for t in 2..TIME - 2 {
            let score = |s: usize| {
                let dot: f64 = part(&query, t).iter().zip(part(&key, s)).map(|(a, b)| a * b).sum();
                dot / (HEAD_SIZE as f64).sqrt()
            };
            let scores: Vec<f64> = (0..TIME).map(score).collect();
            let total: f64 = scores.iter().map(|x| x.exp()).sum();
            let seen = (t as i64 + offset) as usize;
            weight += scores[seen].exp() / total;
            first += usize::from(scores.iter().all(|x| *x <= scores[seen]));
            rows += 1;
        }
        let weight = weight / rows as f64;
        assert!(weight > 0.4, "head {head}: weight {weight} on the token at {offset:+}");
        assert!(first * 10 >= rows * 8, "head {head}: looks at {offset:+} first in {first} of {rows} rows");
    }
}

#[test]
fn a_block_copies_a_part_of_what_it_looks_at() {
    let mut model = mimetic(6);
    for layer in 0..2 {
        let name = |part: &str| format!("encoder.layer.{layer}.attention.{part}");
        let value = weights(&mut model, &name("self.value"));
        let output = weights(&mut model, &name("output.dense"));
        // output value, (C, C): the sum over the inner features.
        let product = |i: usize, j: usize| -> f64 {
            (0..WIDTH).map(|k| output[i * WIDTH + k] * value[k * WIDTH + j]).sum()
        };
        let diagonal: f64 = (0..WIDTH).map(|i| product(i, i)).sum::<f64>() / WIDTH as f64;
        // The mean of C^2 squares has a relative deviation of sqrt(2) / C = 0.015; 5 of them.
        assert!((diagonal / 0.4 - 1.0).abs() < 0.075, "layer {layer}: {diagonal}");
        let others = (0..WIDTH).flat_map(|i| (0..WIDTH).filter(move |j| *j != i).map(move |j| (i, j)));
        let squares: f64 = others.map(|(i, j)| product(i, j).powi(2)).sum();
        // Off the diagonal C products of independent terms of variance (0.4 / C)^2: deviation 0.4 / sqrt(C).
        let rms = (squares / (WIDTH * (WIDTH - 1)) as f64).sqrt();
        assert!((rms / (0.4 / (WIDTH as f64).sqrt()) - 1.0).abs() < 0.1, "layer {layer}: {rms}");
    }
}

#[test]
fn the_rest_is_the_usual_draw_and_odd_sizes_work() {
    let mut model = mimetic(7);
    let mut usual = mimetic(7);
    usual.initialise(Init::Gpt2, 7).unwrap();
    for name in
        ["embeddings.word_embeddings", "encoder.layer.1.attention.self.query", "encoder.layer.0.output.dense"]
    {
        assert_eq!(weights(&mut model, name), weights(&mut usual, name), "{name}");
    }
    // Heads of one and of three features.
    for (width, heads) in [(3, 3), (15, 5)] {
        let config = BertConfig {
            vocab_size: 11,
            hidden_size: width,
            num_attention_heads: heads,
            num_hidden_layers: 1,
            intermediate_size: 7,
            max_position_embeddings: 9,
            ..BertConfig::default()
        };
        let mut model = Bert::new(config).unwrap();
        model.initialise(Init::Mimetic, 1).unwrap();
        assert!(model.params.iter().all(|p| values(&p.value).iter().all(|x| x.is_finite())));
    }
    let settings = ["model.init=mimetic".to_owned()];
    assert_eq!(
        RunConfig::from_toml("", "test", &settings).unwrap_err().to_string(),
        "configuration: model.init is mimetic, expected another: only model.kind = \"bert\" has this one"
    );
}
