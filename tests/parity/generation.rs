//! Generation: the key-value cache, the choice of the next token.

use handloom_engine::tensor::Tensor;
use handloom_model::generate::{Sampler, Sampling, generate};
use handloom_model::gpt2::{Gpt2, Gpt2Config, KvCache};
use handloom_model::layers::Forward;
use handloom_model::params::{Init, Precision};
use handloom_model::tokenizer::Tokenizer;
use handloom_tests::close::{Tolerance, assert_close};
use handloom_tests::goldens::{self, numbers};
use serde_json::Value;

const GREEDY: Sampling = Sampling { greedy: true, temperature: 1.0, top_k: 0, top_p: 1.0, seed: 0 };

fn ids(value: &Value) -> Vec<i32> {
    numbers(value).into_iter().map(|x| x as i32).collect()
}

/// Logits (T, V) of all positions, in one pass without a cache.
fn full_logits(model: &Gpt2, ids: &[i32]) -> Vec<f64> {
    let ids = Tensor::from_slice(ids, &[1, ids.len()]).unwrap();
    let logits = model.logits(&Forward::inference(&model.params), &ids).unwrap();
    logits.to_vec_f32().into_iter().map(f64::from).collect()
}

fn argmax(logits: &[f64]) -> i32 {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as i32
}

#[test]
fn greedy_continuations_are_those_of_transformers() {
    let model = goldens::tiny();
    let fwd = Forward::inference(&model.params);
    let golden = goldens::json("generate.json");
    for case in golden["greedy"].as_array().unwrap() {
        let (mut unread, want) = (ids(&case["prompt"]), ids(&case["new_tokens"]));
        let mut sampler = Sampler::new(GREEDY).unwrap();
        let mut cache = KvCache::new(&model).unwrap();
        let next = |_| {
            let logits = model.next_logits(&fwd, &mut cache, &unread).unwrap();
            let token = sampler.next(&logits).unwrap() as i32;
            unread = vec![token];
            token
        };
        let got: Vec<i32> = (0..want.len()).map(next).collect();
        assert_eq!(got, want);
    }
}

#[test]
fn filtered_distributions_are_those_of_transformers() {
    let golden = goldens::json("generate.json");
    let cases = golden["filtered"].as_array().unwrap();
    assert_eq!(cases.len(), 15);
    for (i, case) in cases.iter().enumerate() {
        let sampling = Sampling {
            greedy: false,
            temperature: case["temperature"].as_f64().unwrap(),
            top_k: case["top_k"].as_u64().unwrap() as usize,
            top_p: case["top_p"].as_f64().unwrap(),
            seed: 0,
        };
        let logits: Vec<f32> = numbers(&case["logits"]).into_iter().map(|x| x as f32).collect();
        let want = numbers(&case["probs"]);
        let kept = sampling.distribution(&logits).unwrap();
        let mut got = vec![0.0; logits.len()];
        for &(token, p) in &kept {
            assert!(p > 0.0 && got[token as usize] == 0.0);
            got[token as usize] = p;
        }
        assert_eq!(kept.len(), want.iter().filter(|p| **p > 0.0).count(), "case {i}");
        let tolerance = Tolerance { absolute: 1e-12, relative: 1e-9 };
        assert_close(&format!("case {i}"), &[logits.len()], &got, &want, tolerance);
    }
}

#[test]
fn a_sampler_draws_its_distribution() {
    let sampling = Sampling { greedy: false, temperature: 1.0, top_k: 0, top_p: 1.0, seed: 7 };
    // Probabilities 1/2, 1/4, 1/8, 1/8.
    let logits = [0.5f32.ln(), 0.25f32.ln(), 0.125f32.ln(), 0.125f32.ln()];
    let draw = |seed| {
        let mut sampler = Sampler::new(Sampling { seed, ..sampling.clone() }).unwrap();
        (0..8000).map(|_| sampler.next(&logits).unwrap()).collect::<Vec<u32>>()
    };
    let drawn = draw(7);
    let expected = [4000.0, 2000.0, 1000.0, 1000.0];
    let chi_squared: f64 = (0..4)
        .map(|token| {
            let count = drawn.iter().filter(|t| **t == token).count() as f64;
            (count - expected[token as usize]).powi(2) / expected[token as usize]
        })
        .sum();
    // With 3 degrees of freedom above 16.3 once in a thousand times.
    assert!(chi_squared < 16.3, "chi squared {chi_squared}");
    assert_eq!(draw(7), drawn);
    assert_ne!(draw(8), drawn);
}

#[test]
fn cached_logits_are_the_full_ones_at_every_position() {
    let model = goldens::tiny();
    let (context, vocab) = (model.config.n_positions, model.config.vocab_size);
    let ids: Vec<i32> = (0..context as i32).map(|t| (t * 37 + 11) % vocab as i32).collect();
    let want = full_logits(&model, &ids);
    let fwd = Forward::inference(&model.params);
    let mut cache = KvCache::new(&model).unwrap();
    // One token at a time, a prompt and single tokens, and pieces that do not divide the context. The cache is used
    // again: what an earlier text left in it must not be seen.
    for pieces in
        [vec![1; context], [vec![5], vec![1; context - 5]].concat(), vec![3, 7, 1, 4, 4], vec![context]]
    {
        cache.clear();
        assert!(cache.is_empty());
        let mut done = 0;
        for piece in pieces {
            let got = model.next_logits(&fwd, &mut cache, &ids[done..done + piece]).unwrap();
            done += piece;
            assert_eq!(cache.len(), done);
            let got: Vec<f64> = got.into_iter().map(f64::from).collect();
            let tolerance = Tolerance { absolute: 1e-5, relative: 0.0 };
            assert_close(
                &format!("position {}", done - 1),
                &[vocab],
                &got,
                &want[(done - 1) * vocab..][..vocab],
                tolerance,
            );
        }
        assert_eq!(done, context);
        let error = model.next_logits(&fwd, &mut cache, &[0]).unwrap_err().to_string();
        assert_eq!(error, "gpt2: 20 tokens do not fit the model's context of 19");
    }
}

#[test]
fn half_precision_models_generate_with_a_cache_of_their_own_precision() {
    let mut model = goldens::tiny();
    model.params.set_precision(Precision::Bf16).unwrap();
    let ids = [5, 77, 31, 96, 40];
    let want = full_logits(&model, &ids);
    let fwd = Forward::inference(&model.params);
    let mut cache = KvCache::new(&model).unwrap();
    model.next_logits(&fwd, &mut cache, &ids[..3]).unwrap();
    model.next_logits(&fwd, &mut cache, &ids[3..4]).unwrap();
    let got: Vec<f64> =
        model.next_logits(&fwd, &mut cache, &ids[4..]).unwrap().into_iter().map(f64::from).collect();
    // One rounding of a logit near 8 is 2^-6.
    let tolerance = Tolerance { absolute: 0.1, relative: 0.0 };
    assert_close("bf16", &[101], &got, &want[4 * 101..], tolerance);
}

/// A model with a short context over the embedded tokenizer.
fn short_model(tokenizer: &Tokenizer) -> Gpt2 {
    let config = Gpt2Config {
        vocab_size: tokenizer.vocab_size(),
        n_positions: 13,
        n_embd: 12,
        n_layer: 2,
        n_head: 3,
        initializer_range: 0.5,
        ..Gpt2Config::default()
    };
    let mut model = Gpt2::new(config).unwrap();
    model.initialise(Init::Gpt2, 3).unwrap();
    model
}

fn text_and_tokens(
    model: &Gpt2,
    tokenizer: &Tokenizer,
    prompt: &str,
    n: usize,
    sampling: &Sampling,
) -> (String, Vec<u32>) {
    let mut text = String::new();
    let generated = generate(model, tokenizer, prompt, n, sampling, |piece| {
        text.push_str(piece);
        Ok(())
    });
    (text, generated.unwrap().tokens)
}

#[test]
fn a_full_context_keeps_its_later_half() {
    let tokenizer = Tokenizer::embedded("austen-2048").unwrap();
    let model = short_model(&tokenizer);
    let (context, vocab) = (model.config.n_positions, model.config.vocab_size);
    // Shorter than the context, and longer: only its end is read.
    for prompt in [
        "Emma was",
        "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want",
    ] {
        let mut window: Vec<i32> =
            tokenizer.encode(prompt).unwrap().into_iter().map(|id| id as i32).collect();
        let drop = window.len().saturating_sub(context);
        window.drain(..drop);
        let mut want = Vec::new();
        while want.len() < 40 {
            if window.len() > context {
                window.drain(..window.len() - context / 2);
            }
            let logits = full_logits(&model, &window);
            let token = argmax(&logits[(window.len() - 1) * vocab..]);
            want.push(token as u32);
            window.push(token);
        }
        let end = tokenizer.end_of_text().unwrap();
        assert!(!want.contains(&end), "the reference below does not stop there");
        let (text, got) = text_and_tokens(&model, &tokenizer, prompt, 40, &GREEDY);
        assert_eq!(got, want, "{prompt}");
        assert_eq!(text, tokenizer.decode(&got).unwrap());
    }
}

#[test]
fn the_same_seed_gives_the_same_text_and_an_empty_prompt_starts_a_text() {
    let tokenizer = Tokenizer::embedded("austen-2048").unwrap();
    let model = short_model(&tokenizer);
    let with =
        |seed| text_and_tokens(&model, &tokenizer, "Emma", 30, &Sampling { seed, ..Sampling::default() });
    assert_eq!(with(1), with(1));
    assert_ne!(with(1), with(2));
    let (_, tokens) = text_and_tokens(&model, &tokenizer, "", 3, &GREEDY);
    assert_eq!(tokens.len(), 3);
    let (text, tokens) = text_and_tokens(&model, &tokenizer, "Emma", 0, &GREEDY);
    assert!(text.is_empty() && tokens.is_empty());
}

#[test]
fn settings_out_of_range_and_damaged_logits_are_named() {
    let fails = |sampling: Sampling| sampling.validate().unwrap_err().to_string();
    let message = fails(Sampling { temperature: 0.0, ..Sampling::default() });
    assert_eq!(message, "configuration: temperature is 0, expected a positive number (or --greedy)");
    for temperature in [-1.0, f64::NAN, f64::INFINITY] {
        fails(Sampling { temperature, ..Sampling::default() });
    }
    for top_p in [0.0, 1.5, f64::NAN] {
        let message = fails(Sampling { top_p, ..Sampling::default() });
        assert_eq!(message, format!("configuration: top-p is {top_p}, expected 0 < p <= 1"));
    }
    let message = Sampling::default().distribution(&[0.0, f32::NAN]).unwrap_err().to_string();
    assert_eq!(message, "the model's logit for token 1 is NaN; its weights are damaged");
}
