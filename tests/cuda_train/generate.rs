//! Generation on the emulated GPU: cached logits are those of a full pass, greedy text is the CPU's, a token is one launch.

use handloom_engine::check::close::{Tolerance, assert_close};
use handloom_engine::device::Device;
use handloom_engine::tensor::Tensor;
use handloom_model::generate::{Sampling, generate};
use handloom_model::gpt2::{Gpt2, Gpt2Config, KvCache};
use handloom_model::layers::Forward;
use handloom_model::params::{Init, Precision};
use handloom_model::tokenizer::Tokenizer;

use crate::run::{alone, emulator};

const VOCAB: usize = 97;
const CONTEXT: usize = 19;

/// Heads of 13: no row of a head is aligned.
fn model(vocab_size: usize, precision: Precision, device: Device) -> Gpt2 {
    let config = Gpt2Config {
        vocab_size,
        n_positions: CONTEXT,
        n_embd: 39,
        n_layer: 2,
        n_head: 3,
        initializer_range: 0.3,
        ..Gpt2Config::default()
    };
    let mut model = Gpt2::new(config).unwrap();
    model.initialise(Init::Gpt2, 3).unwrap();
    model.params.set_precision(precision).unwrap();
    model.params.to_device(device).unwrap();
    model
}

fn ids() -> Vec<i32> {
    (0..CONTEXT as i32).map(|t| (t * 37 + 11) % VOCAB as i32).collect()
}

fn wide(values: Vec<f32>) -> Vec<f64> {
    values.into_iter().map(f64::from).collect()
}

/// Logits (T, V) of all positions in one pass on the CPU, computed in f32.
fn full_logits(model: &Gpt2) -> Vec<f64> {
    let ids = Tensor::from_slice(&ids(), &[1, CONTEXT]).unwrap();
    wide(model.logits(&Forward::inference(&model.params), &ids).unwrap().read_f32().unwrap())
}

/// Cached logits of the positions at which a piece ends, beside those of one full pass.
fn compare(precision: Precision, absolute: f64) {
    let _alone = alone();
    let want = full_logits(&model(VOCAB, precision, Device::Cpu));
    let model = model(VOCAB, precision, Device::Cuda(emulator()));
    let fwd = Forward::inference(&model.params);
    let mut cache = KvCache::new(&model).unwrap();
    // The cache is used again: what an earlier text left in it must not be seen.
    for pieces in [
        vec![1; CONTEXT],
        [vec![5], vec![1; CONTEXT - 5]].concat(),
        vec![3, 7, 1, 4, 1, 1, 1, 1],
        vec![CONTEXT],
    ] {
        cache.clear();
        let mut done = 0;
        for piece in pieces {
            let got = wide(model.next_logits(&fwd, &mut cache, &ids()[done..done + piece]).unwrap());
            done += piece;
            let want = &want[(done - 1) * VOCAB..][..VOCAB];
            let tolerance = Tolerance { absolute, relative: 0.0 };
            assert_close(&format!("{precision:?} position {}", done - 1), &[VOCAB], &got, want, tolerance);
        }
        assert_eq!(done, CONTEXT);
        let full = model.next_logits(&fwd, &mut cache, &[0]).unwrap_err().to_string();
        assert_eq!(full, "gpt2: 20 tokens do not fit the model's context of 19");
    }
    cache.clear();
    let outside = model.next_logits(&fwd, &mut cache, &[5, 97]).unwrap_err().to_string();
    assert_eq!(outside, "gpt2: token 97 at position 1 is outside the vocabulary of 97");
}

#[test]
fn cached_logits_are_the_full_ones_at_every_position() {
    compare(Precision::Fp32, 1e-5);
}

#[test]
fn cached_logits_in_half_precision_are_those_of_the_cpu() {
    // Logits reach 8: a rounding of one is 2^-8 in f16 and 2^-5 in bf16; both devices round activations, at the same places, in other orders.
    compare(Precision::Fp16, 4.0 / 256.0);
    compare(Precision::Bf16, 4.0 / 32.0);
}

#[test]
fn a_token_is_one_launch_and_memory_is_flat() {
    let _alone = alone();
    let model = model(VOCAB, Precision::Fp32, Device::Cuda(emulator()));
    let fwd = Forward::inference(&model.params);
    let mut cache = KvCache::new(&model).unwrap();
    let after = |ids: &[i32], cache: &mut KvCache| {
        let launches = emulator().launches();
        model.next_logits(&fwd, cache, ids).unwrap();
        (emulator().launches() - launches, emulator().buffers())
    };
    after(&[1, 2, 3], &mut cache);
    after(&[4], &mut cache);
    assert_eq!(cache.graph_kernels(), None, "the first token loads the kernels");
    let (captured, memory) = after(&[5], &mut cache);
    let kernels = cache.graph_kernels().expect("the second token is captured");
    assert_eq!(captured, kernels + 1);
    for token in 6..15 {
        assert_eq!(after(&[token], &mut cache), (1, memory));
    }
    // Forgetting moves nothing: the graph stays.
    cache.clear();
    assert_eq!(after(&[7], &mut cache), (1, memory));
}

#[test]
fn another_models_weights_are_never_mistaken_for_the_captured_ones() {
    let _alone = alone();
    let mut model = model(VOCAB, Precision::Fp32, Device::Cuda(emulator()));
    let mut cache = KvCache::new(&model).unwrap();
    let logits = |model: &Gpt2, cache: &mut KvCache| {
        let fwd = Forward::inference(&model.params);
        cache.clear();
        (0..4).map(|id| model.next_logits(&fwd, cache, &[id]).unwrap()).collect::<Vec<_>>()
    };
    let before = logits(&model, &mut cache);
    assert_eq!(before, logits(&model, &mut cache));
    model.params.to_device(Device::Cpu).unwrap();
    model.initialise(Init::Gpt2, 4).unwrap();
    model.params.to_device(Device::Cuda(emulator())).unwrap();
    let after = logits(&model, &mut cache);
    assert_ne!(before, after);
    let mut fresh = KvCache::new(&model).unwrap();
    assert_eq!(after, logits(&model, &mut fresh));
}

#[test]
fn greedy_text_is_the_cpus_past_the_end_of_the_context() {
    let _alone = alone();
    let tokenizer = Tokenizer::embedded("austen-2048").unwrap();
    let greedy = Sampling { greedy: true, ..Sampling::default() };
    let drawn = Sampling { seed: 5, ..Sampling::default() };
    let long = "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want";
    for (sampling, prompt) in [(&greedy, "Emma was"), (&greedy, long), (&drawn, "")] {
        let [cpu, gpu] = [Device::Cpu, Device::Cuda(emulator())].map(|device| {
            let model = model(tokenizer.vocab_size(), Precision::Fp32, device);
            let mut text = String::new();
            let done = generate(&model, &tokenizer, prompt, 30, sampling, |piece| {
                text.push_str(piece);
                Ok(())
            });
            (done.unwrap().tokens, text)
        });
        assert_eq!(cpu.0.len(), 30, "{prompt:?} ends early");
        assert_eq!(gpu, cpu, "{prompt:?} {sampling:?}");
    }
}
