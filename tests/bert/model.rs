//! The model by itself: the gathered head against the full one, files, padding, and what is refused.

use std::collections::HashMap;
use std::path::Path;

use handloom_engine::ops::cross_entropy::{IGNORE_INDEX, cross_entropy};
use handloom_engine::philox::Stream;
use handloom_engine::tensor::Tensor;
use handloom_model::bert::{Bert, BertConfig};
use handloom_model::fill::fill;
use handloom_model::huggingface;
use handloom_model::layers::{DropoutSource, Forward};
use handloom_model::model::LanguageModel;
use handloom_model::objective::Batch;
use handloom_model::params::Init;
use handloom_model::tokenizer::Tokenizer;
use handloom_tests::close::{Tolerance, assert_close};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::golden::{Golden, path, tiny, values};
use crate::parity::gradients;

fn small(change: impl FnOnce(&mut BertConfig)) -> Bert {
    let mut config = BertConfig {
        vocab_size: 301,
        hidden_size: 20,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        intermediate_size: 33,
        max_position_embeddings: 23,
        ..BertConfig::default()
    };
    change(&mut config);
    let mut model = Bert::new(config).unwrap();
    model.initialise(Init::Gpt2, 5).unwrap();
    // Larger than they start, and no bias 0.
    for (i, param) in model.params.iter_mut().enumerate() {
        let mut reader = Stream { seed: 9, stream: i as u32, step: 0 }.reader();
        param.value.slice_mut::<f32>().unwrap().iter_mut().for_each(|x| *x += 0.2 * reader.normal() as f32);
    }
    model
}

/// Rows of these lengths in 13 positions; about a third of the real ones counts.
fn batch(lengths: &[usize], seed: u64) -> Batch {
    const T: usize = 13;
    let mut reader = Stream { seed, stream: 0, step: 0 }.reader();
    let (mut ids, mut targets, mut mask) = (Vec::new(), Vec::new(), Vec::new());
    for &length in lengths {
        for t in 0..T {
            let real = t < length;
            ids.push(if real { 5 + reader.below(296) as i32 } else { 0 });
            let counts = reader.below(3) == 0 && real;
            targets.push(if counts { reader.below(301) as i32 } else { IGNORE_INDEX });
            mask.push(i32::from(real));
        }
    }
    let key_mask = Some(Tensor::from_slice(&mask, &[lengths.len(), T]).unwrap());
    Batch { key_mask, ..Batch::new(&ids, &targets, T).unwrap() }
}

fn loss(model: &Bert, batch: &Batch) -> f64 {
    model.score(&Forward::inference(&model.params), batch, None).unwrap().loss.item().unwrap() as f64
}

#[test]
fn the_gathered_head_gives_what_all_positions_give() {
    for tied in [true, false] {
        let model = small(|c| c.tie_word_embeddings = tied);
        let batch = batch(&[13, 7, 1], 3);
        let (loss, _, grads) = gradients(&model, &batch, false);
        let fwd = Forward::training(&model.params, DropoutSource { seed: 0, step: 0 }, false);
        let tape = fwd.tape.clone().unwrap();
        let full = cross_entropy(&model.logits(&fwd, &batch).unwrap(), &batch.targets, None).unwrap();
        let mut under_way = tape.gradients();
        tape.backward(&full, Tensor::scalar(1.0), &mut under_way).unwrap();
        let full_grads = fwd.weights.take_gradients(&mut under_way);
        assert!((loss - full.item().unwrap() as f64).abs() < 1e-5, "{loss} {full:?}");
        for ((param, got), want) in model.params.iter().zip(grads).zip(full_grads) {
            let want = want.unwrap_or_else(|| panic!("{}: none", param.name));
            let most = values(&want).iter().fold(0.0, |a: f64, b| a.max(b.abs()));
            let tolerance = Tolerance { absolute: 1e-5 * most + 1e-7, relative: 1e-4 };
            assert_close(&param.name, want.shape(), &values(&got), &values(&want), tolerance);
        }
    }
}

#[test]
fn nothing_chosen_gives_loss_and_gradients_of_zero() {
    let model = small(|_| ());
    let mut batch = batch(&[13, 7], 3);
    batch.targets = Tensor::from_slice(&[IGNORE_INDEX; 26], &[2, 13]).unwrap();
    batch.counted = 0;
    let (loss, hits, grads) = gradients(&model, &batch, false);
    assert_eq!((loss, hits), (0.0, 0));
    for (param, grad) in model.params.iter().zip(grads) {
        assert!(values(&grad).iter().all(|g| *g == 0.0), "{}", param.name);
    }
}

#[test]
fn padding_changes_nothing() {
    let model = small(|_| ());
    let padded = batch(&[9], 4);
    let cut = |tensor: &Tensor| tensor.slice::<i32>().unwrap()[..9].to_vec();
    let alone = Batch::new(&cut(&padded.ids), &cut(&padded.targets), 9).unwrap();
    assert!(alone.counted > 0);
    assert!((loss(&model, &padded) - loss(&model, &alone)).abs() < 1e-6);
    // Without the mask, the padding would be seen.
    let seen = Batch { key_mask: None, ..batch(&[9], 4) };
    assert!((loss(&model, &seen) - loss(&model, &alone)).abs() > 1e-4);
}

#[test]
fn recomputation_gives_the_same_bits_with_dropout() {
    let model = small(|c| (c.hidden_dropout_prob, c.attention_probs_dropout_prob) = (0.3, 0.2));
    let batch = batch(&[13, 8], 6);
    let bits = |(loss, _, grads): (f64, usize, Vec<Tensor>)| {
        (loss, grads.iter().map(Tensor::to_vec_f32).collect::<Vec<_>>())
    };
    let kept = bits(gradients(&model, &batch, false));
    assert_eq!(kept, bits(gradients(&model, &batch, true)));
    assert!((kept.0 - loss(&model, &batch)).abs() > 1e-3, "dropout acts in training only");
}

/// Rewrites the golden model's file.
fn rewritten(dir: &Path, change: impl Fn(&str) -> Option<String>, more: &[(&str, &[usize], &[f32])]) {
    let bytes = std::fs::read(path("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let extra: Vec<(String, Vec<u8>, Vec<usize>)> = more
        .iter()
        .map(|(name, shape, values)| {
            (name.to_string(), values.iter().flat_map(|x| x.to_le_bytes()).collect(), shape.to_vec())
        })
        .collect();
    let mut views: HashMap<String, TensorView> =
        file.iter().filter_map(|(name, view)| Some((change(name)?, view))).collect();
    for (name, bytes, shape) in &extra {
        let view = TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap();
        views.insert(name.clone(), view);
    }
    safetensors::serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
    std::fs::copy(path("config.json"), dir.join("config.json")).unwrap();
}

#[test]
fn files_of_other_shapes_load() {
    let golden = Golden::open("step.safetensors");
    let batch = &golden.batches()[0];
    let want = loss(&tiny(), batch);
    let dir = tempfile::tempdir().unwrap();
    // As BertForPreTraining writes it, in TensorFlow's names, with the pooler and copies of what is tied.
    let old = |name: &str| {
        Some(name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"))
    };
    let pooler: Vec<f32> = (0..24 * 24).map(|i| i as f32 / 100.0).collect();
    let more: &[(&str, &[usize], &[f32])] = &[
        ("bert.pooler.dense.weight", &[24, 24], &pooler),
        ("bert.pooler.dense.bias", &[24], &pooler[..24]),
        ("cls.seq_relationship.weight", &[2, 24], &pooler[..48]),
        ("cls.predictions.decoder.weight", &[1, 24], &pooler[..24]),
        ("cls.predictions.decoder.bias", &[24], &pooler[..24]),
        ("bert.embeddings.position_ids", &[1, 19], &pooler[..19]),
    ];
    rewritten(dir.path(), old, more);
    let model = huggingface::load_bert(dir.path()).unwrap();
    assert_eq!(loss(&model, batch), want);
    // The pooler is written again.
    let again = tempfile::tempdir().unwrap();
    huggingface::save(again.path(), &model, &Tokenizer::embedded("austen-wordpiece").unwrap()).unwrap();
    let bytes = std::fs::read(again.path().join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let bits: Vec<u8> = pooler.iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(file.tensor("bert.pooler.dense.weight").unwrap().data(), bits);
    assert!(file.tensor("cls.seq_relationship.weight").is_err());
    let model = huggingface::load(again.path()).unwrap();
    assert_eq!(
        model.score(&Forward::inference(model.params()), batch, None).unwrap().loss.item().unwrap() as f64,
        want
    );

    // A bare encoder, its names without the prefix.
    let bare = |name: &str| name.strip_prefix("bert.").map(str::to_owned);
    rewritten(dir.path(), bare, &[("pooler.dense.bias", &[24], &pooler[..24])]);
    let encoder = huggingface::load_bert(dir.path()).unwrap();
    let fwd = Forward::inference(&encoder.params);
    let states = encoder.hidden_states(&fwd, batch).unwrap();
    assert_eq!(
        values(&states[2]),
        values(&tiny().hidden(&Forward::inference(&tiny().params), batch).unwrap())
    );
    assert_eq!(encoder.kept[0].0, "bert.pooler.dense.bias");
    let error = encoder.logits(&fwd, batch).unwrap_err().to_string();
    assert!(error.contains("no masked-language-model head"), "{error}");
}

#[test]
fn an_untied_head_keeps_its_bias_under_both_names() {
    let model = small(|c| c.tie_word_embeddings = false);
    let batch = batch(&[13, 7], 3);
    let want = loss(&model, &batch);
    let dir = tempfile::tempdir().unwrap();
    huggingface::save(dir.path(), &model, &Tokenizer::embedded("austen-wordpiece").unwrap()).unwrap();
    let file = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let data = |name: &str| tensors.tensor(name).unwrap().data().to_vec();
    assert_eq!(data("cls.predictions.decoder.bias"), data("cls.predictions.bias"));
    assert_eq!(loss(&huggingface::load_bert(dir.path()).unwrap(), &batch), want);
    // transformers computes with the decoder's; the other may hold anything, or (before version 5) be the only one.
    let noise = vec![7u8; 4 * 301];
    for (name, same) in [("cls.predictions.bias", true), ("cls.predictions.decoder.bias", false)] {
        let other = TensorView::new(safetensors::Dtype::F32, vec![301], &noise).unwrap();
        let views = tensors.iter().map(|(n, view)| (n, if n == name { other.clone() } else { view }));
        safetensors::serialize_to_file(views, None, &file).unwrap();
        assert_eq!(loss(&huggingface::load_bert(dir.path()).unwrap(), &batch) == want, same, "{name}");
    }
    let views = tensors.iter().filter(|(name, _)| *name != "cls.predictions.decoder.bias");
    safetensors::serialize_to_file(views, None, &file).unwrap();
    assert_eq!(loss(&huggingface::load_bert(dir.path()).unwrap(), &batch), want);
}

#[test]
fn a_file_that_does_not_fit_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let message = || huggingface::load_bert(dir.path()).err().expect("refused").to_string();
    rewritten(dir.path(), |name| (name != "cls.predictions.bias").then(|| name.to_owned()), &[]);
    assert!(
        message().contains("lacks 1 of the model's tensors, the first cls.predictions.bias"),
        "{}",
        message()
    );
    rewritten(dir.path(), |name| Some(name.to_owned()), &[("bert.adapter", &[1], &[0.0])]);
    assert!(
        message().contains("holds bert.adapter [1], which the model of config.json does not have"),
        "{}",
        message()
    );
    let config = std::fs::read_to_string(path("config.json")).unwrap();
    std::fs::write(dir.path().join("config.json"), config.replace("\"gelu\"", "\"relu\"")).unwrap();
    assert!(message().contains("hidden_act \"relu\" is not supported"), "{}", message());
    std::fs::write(dir.path().join("config.json"), config.replace("\"bert\"", "\"t5\"")).unwrap();
    assert!(message().ends_with("model_type is \"t5\"; supported: \"bert\""), "{}", message());
}

#[test]
fn rows_beyond_the_position_table_are_refused() {
    let model = tiny();
    let long = Batch::new(&[7; 20], &[IGNORE_INDEX; 20], 20).unwrap();
    let error = model.hidden(&Forward::inference(&model.params), &long).err().unwrap().to_string();
    assert_eq!(error, "bert: rows of 20 tokens do not fit the position table of 19");
}

#[test]
fn filling_in_is_the_softmax_at_the_masks() {
    let tokenizer = Tokenizer::embedded("austen-wordpiece").unwrap();
    let model = small(|c| (c.vocab_size, c.max_position_embeddings) = (4096, 16));
    let text = "it is a [MASK] that [MASK] is";
    let masks = fill(&model, &tokenizer, text, 4096).unwrap();
    let ids: Vec<i32> = tokenizer.encode(text).unwrap().into_iter().map(|id| id as i32).collect();
    let batch = Batch::new(&ids, &vec![IGNORE_INDEX; ids.len()], ids.len()).unwrap();
    let logits = values(&model.logits(&Forward::inference(&model.params), &batch).unwrap());
    assert_eq!(masks.iter().map(|mask| mask.position).collect::<Vec<_>>(), [4, 6]);
    for mask in &masks {
        let logits = &logits[mask.position * 4096..][..4096];
        let total: f64 = logits.iter().map(|x| x.exp()).sum();
        assert_eq!(mask.predictions.len(), 4096);
        for prediction in &mask.predictions {
            let want = logits[prediction.id as usize].exp() / total;
            assert!((prediction.probability - want).abs() < 1e-5 * want, "{prediction:?} {want}");
            assert_eq!(tokenizer.id_to_token(prediction.id).unwrap(), prediction.token);
        }
        assert!(mask.predictions.windows(2).all(|pair| pair[0].probability >= pair[1].probability));
    }
    let refused = |text: &str| fill(&model, &tokenizer, text, 5).unwrap_err().to_string();
    assert_eq!(refused("it is"), "the text has no [MASK] to fill in; write one for each missing token");
    let long = refused(&"[MASK] ".repeat(15));
    assert_eq!(long, "the text has 17 tokens, the model's position table 16; give a shorter text");
    let error = fill(&tiny(), &tokenizer, text, 5).unwrap_err().to_string();
    assert_eq!(error, "the tokenizer has 4096 tokens, the model 97; they do not belong together");
}
