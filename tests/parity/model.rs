//! One forward and backward pass: logits, loss, gradients.

use handloom_model::gpt2::Gpt2;
use handloom_model::huggingface;
use handloom_model::layers::Forward;
use handloom_tests::close::{Tolerance, assert_close};
use handloom_tests::goldens::{self, Golden, batch};

use crate::run::gradients;

fn absolute(absolute: f64) -> Tolerance {
    Tolerance { absolute, relative: 0.0 }
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |most, x| if x.abs() > most { x.abs() } else { most })
}

/// Compares gradients with the golden's, relative to each tensor's largest value: what is 0 in exact arithmetic (the
/// biases of the keys) is noise in both.
fn assert_gradients(golden: &Golden, got: &[(String, Vec<f32>)]) {
    assert_eq!(got.len(), 28, "parameters of two blocks and the four outside");
    for (name, got) in got {
        let (shape, want) = golden.floats(&format!("grad.{name}"));
        let got: Vec<f64> = got.iter().map(|x| *x as f64).collect();
        assert!(largest(&want) > 0.0, "{name}");
        // PyTorch's own f32 is within 7e-7.
        assert_close(name, &shape, &got, &want, absolute(3e-6 * largest(&want)));
    }
}

/// The golden model with other keys in its configuration.
fn tiny_with(keys: &[(&str, serde_json::Value)]) -> Gpt2 {
    let dir = tempfile::tempdir().unwrap();
    let mut config = goldens::json("gpt2-tiny/config.json");
    for (key, value) in keys {
        config[key] = value.clone();
    }
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let weights = goldens::path("gpt2-tiny/model.safetensors");
    std::fs::copy(weights, dir.path().join("model.safetensors")).unwrap();
    huggingface::load_model(dir.path()).unwrap()
}

/// The golden model, its output matrix a parameter of its own with the token embedding's values.
fn untied() -> Gpt2 {
    let mut tied = goldens::tiny();
    let mut model = Gpt2::new({
        let mut config = tied.config.clone();
        config.tie_word_embeddings = false;
        config
    })
    .unwrap();
    for param in model.params.iter_mut() {
        let source = if param.name == "lm_head.weight" { "transformer.wte.weight" } else { &param.name };
        param.value = tied.params.by_name(source).unwrap().value.clone();
    }
    model
}

fn logits(model: &Gpt2, golden: &Golden) -> (Vec<usize>, Vec<f64>) {
    let ids = golden.batch("input_ids", "targets").ids;
    let logits = model.logits(&Forward::inference(&model.params), &ids).unwrap();
    (logits.shape().to_vec(), logits.to_vec_f32().into_iter().map(f64::from).collect())
}

#[test]
fn logits_are_pytorchs() {
    let golden = Golden::open("gpt2-tiny/step.safetensors");
    let (shape, want) = golden.floats("logits");
    for (what, model) in [("tied", goldens::tiny()), ("untied", untied())] {
        let (got_shape, got) = logits(&model, &golden);
        assert_eq!(got_shape, shape);
        assert_close(what, &shape, &got, &want, absolute(1e-5));
    }
}

#[test]
fn loss_and_every_gradient_are_pytorchs() {
    let golden = Golden::open("gpt2-tiny/step.safetensors");
    let batch = golden.batch("input_ids", "targets");
    assert_eq!(batch.counted as u64, golden.json["counted_tokens"].as_u64().unwrap());
    let (measured, grads) = gradients(goldens::tiny(), vec![batch], &[]);
    let want = [&golden.json["loss_f64"], &golden.json["grad_norm_f64"]].map(|x| x.as_f64().unwrap());
    let got = [measured.loss.unwrap(), measured.grad_norm.unwrap()];
    assert_close("loss and gradient norm", &[2], &got, &want, absolute(5e-6));
    assert_gradients(&golden, &grads);
}

#[test]
fn an_untied_models_two_gradients_add_up_to_the_tied_ones() {
    let golden = Golden::open("gpt2-tiny/step.safetensors");
    let batch = golden.batch("input_ids", "targets");
    let (_, mut grads) = gradients(untied(), vec![batch], &[]);
    let (name, head) = grads.pop().unwrap();
    assert_eq!(name, "lm_head.weight");
    assert_eq!(grads[0].0, "transformer.wte.weight");
    assert!(grads[0].1.iter().any(|x| *x != 0.0) && head.iter().any(|x| *x != 0.0));
    grads[0].1.iter_mut().zip(head).for_each(|(table, head)| *table += head);
    assert_gradients(&golden, &grads);
}

#[test]
fn accumulated_micro_batches_are_the_big_batch() {
    let golden = Golden::open("gpt2-tiny/accumulate.safetensors");
    let micro = |i: u8| golden.batch(&format!("micro{i}.input_ids"), &format!("micro{i}.targets"));
    let parts = vec![micro(0), micro(1)];
    // 31 and 7 counted tokens: averaging the two means would be far off.
    let counted: Vec<f64> = parts.iter().map(|part| part.counted as f64).collect();
    assert_eq!(counted, goldens::numbers(&golden.json["counted_tokens"]));
    let (measured, grads) = gradients(goldens::tiny(), parts, &["train.accumulate=2"]);
    let want = [&golden.json["loss_f64"], &golden.json["grad_norm_f64"]].map(|x| x.as_f64().unwrap());
    let got = [measured.loss.unwrap(), measured.grad_norm.unwrap()];
    assert_close("loss and gradient norm", &[2], &got, &want, absolute(5e-6));
    assert_gradients(&golden, &grads);
}

#[test]
fn recomputed_activations_give_the_same_bits() {
    let golden = Golden::open("gpt2-tiny/step.safetensors");
    let drops = ["embd_pdrop", "attn_pdrop", "resid_pdrop"].map(|key| (key, serde_json::json!(0.2)));
    for keys in [&[][..], &drops] {
        let run = |more: &[&str]| {
            let batches = vec![golden.batch("input_ids", "targets"), golden.batch("input_ids", "targets")];
            let (measured, grads) = gradients(tiny_with(keys), batches, more);
            (measured.loss, measured.grad_norm, grads)
        };
        let (kept, recomputed) = (run(&[]), run(&["train.recompute=true"]));
        assert!(kept == recomputed, "dropout {}", !keys.is_empty());
        // Dropout is on where it should be: two seeds differ.
        assert_eq!(run(&["train.seed=1"]) == kept, keys.is_empty());
    }
}

#[test]
fn a_rows_logits_do_not_depend_on_the_batch() {
    let golden = Golden::open("gpt2-tiny/step.safetensors");
    let model = goldens::tiny();
    let (shape, together) = logits(&model, &golden);
    let (rows, time) = (shape[0], shape[1]);
    let (_, ids) = golden.ids("input_ids");
    let fwd = Forward::inference(&model.params);
    for (row, ids) in ids.chunks_exact(time).enumerate() {
        let alone = model.logits(&fwd, &batch(ids, ids, time).ids).unwrap();
        let alone: Vec<f64> = alone.to_vec_f32().into_iter().map(f64::from).collect();
        let size = together.len() / rows;
        assert_close("row", &[time, shape[2]], &alone, &together[row * size..][..size], absolute(2e-6));
    }
}
