//! Loss, hidden states, gradients and training against PyTorch's f64 numbers.

use handloom_engine::tensor::Tensor;
use handloom_model::bert::Bert;
use handloom_model::config::RunConfig;
use handloom_model::layers::{DropoutSource, Forward};
use handloom_model::model::{LanguageModel, Score};
use handloom_model::objective::Batch;
use handloom_model::train::checkpoint::{Moments, State};
use handloom_model::train::train_step;

use crate::golden::{Golden, assert_near, tiny, values};

const NO_DROPOUT: DropoutSource = DropoutSource { seed: 0, step: 0 };

/// Loss, hits and the gradients in the order of the parameters.
pub fn gradients(model: &Bert, batch: &Batch, recompute: bool) -> (f64, usize, Vec<Tensor>) {
    let fwd = Forward::training(&model.params, NO_DROPOUT, recompute);
    let tape = fwd.tape.clone().unwrap();
    let Score { loss, hits } = model.score(&fwd, batch, None).unwrap();
    let mut grads = tape.gradients();
    tape.backward(&loss, Tensor::scalar(1.0), &mut grads).unwrap();
    let grads = fwd.weights.take_gradients(&mut grads);
    let grads = model.params.iter().zip(grads).map(|(p, g)| g.unwrap_or_else(|| panic!("{}: none", p.name)));
    (loss.item().unwrap() as f64, hits.item().unwrap() as usize, grads.collect())
}

#[test]
fn hidden_states_and_logits_are_those_of_pytorch() {
    let model = tiny();
    for file in ["step.safetensors", "plain.safetensors"] {
        let golden = Golden::open(file);
        let batch = &golden.batches()[0];
        let fwd = Forward::inference(&model.params);
        let states = model.hidden_states(&fwd, batch).unwrap();
        assert_eq!(states.len(), 3);
        for (i, state) in states.iter().enumerate() {
            assert_near(&format!("{file} hidden.{i}"), state, &golden.floats(&format!("hidden.{i}")), 1e-5);
        }
        let logits = model.logits(&fwd, batch).unwrap();
        assert_near(&format!("{file} logits"), &logits, &golden.floats("logits"), 1e-5);
    }
}

#[test]
fn loss_hits_and_every_gradient_are_those_of_pytorch() {
    let model = tiny();
    for file in ["step.safetensors", "plain.safetensors"] {
        let golden = Golden::open(file);
        let batch = &golden.batches()[0];
        for recompute in [false, true] {
            let (loss, hits, grads) = gradients(&model, batch, recompute);
            let want = golden.json["loss_f64"].as_f64().unwrap();
            assert!((loss - want).abs() < 1e-5, "{file}: loss {loss}, PyTorch {want}");
            assert_eq!(hits as u64, golden.json["hits"].as_u64().unwrap(), "{file}: hits");
            for (param, grad) in model.params.iter().zip(&grads) {
                let name = format!("grad.{}", param.name);
                let (shape, want) = golden.floats(&name);
                if name.ends_with("self.key.bias") {
                    // 0 in exact arithmetic: a softmax does not see a constant added to its row.
                    assert!(want.iter().all(|g| g.abs() < 1e-12), "{name}");
                    assert!(values(grad).iter().all(|g| g.abs() < 1e-6), "{file} {name}: {:?}", values(grad));
                    continue;
                }
                assert_near(&format!("{file} {name}"), grad, &(shape, want), 1e-4);
            }
        }
    }
}

#[test]
fn twenty_steps_of_adamw_are_those_of_pytorch() {
    let golden = Golden::open("adamw.safetensors");
    let (json, optimizer) = (&golden.json, &golden.json["optimizer"]);
    let mut settings: Vec<String> = ["lr", "betas", "eps", "weight_decay"]
        .iter()
        .map(|key| format!("optimizer.{key}={}", optimizer[key]))
        .collect();
    settings.push(format!("optimizer.clip_norm={}", json["clip_norm"]));
    settings.push(format!("schedule.kind={}", json["schedule"]["kind"]));
    settings.push(format!("schedule.warmup_steps={}", json["schedule"]["warmup_steps"]));
    let config = RunConfig::from_toml("", "test", &settings).unwrap();
    let mut model = tiny();
    let (mut moments, mut state) = (Moments::zeros(&model).unwrap(), State::default());
    let losses: Vec<f64> = json["loss_f64"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    let batches = golden.batches();
    assert_eq!((batches.len(), losses.len()), (20, 20));
    for (step, (batch, want)) in batches.into_iter().zip(&losses).enumerate() {
        let measured =
            train_step(&mut model, &mut moments, &mut state, &config, vec![batch], losses.len() as u64)
                .unwrap();
        let loss = measured.loss.unwrap();
        assert!((loss - want).abs() < 1e-4, "step {step}: loss {loss}, PyTorch {want}");
        let (norm, want) = (measured.grad_norm.unwrap(), json["grad_norm_f64"][step].as_f64().unwrap());
        assert!((norm - want).abs() < 1e-3 * want, "step {step}: gradient norm {norm}, PyTorch {want}");
    }
}
