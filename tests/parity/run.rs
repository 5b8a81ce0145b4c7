//! Training steps on given batches, through the trainer's own step.

use handloom_model::config::RunConfig;
use handloom_model::gpt2::Gpt2;
use handloom_model::objective::Batch;
use handloom_model::train::checkpoint::{Moments, State};
use handloom_model::train::metrics::StepMetrics;
use handloom_model::train::train_step;
use handloom_tests::goldens::Golden;

/// A model in training, without a run directory.
pub struct Run {
    pub model: Gpt2,
    pub moments: Moments,
    pub state: State,
    config: RunConfig,
    steps: u64,
}

impl Run {
    pub fn new(mut model: Gpt2, settings: &[&str], steps: u64) -> Self {
        let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
        let config = RunConfig::from_toml("", "test", &settings).unwrap();
        let precision = config.train.precision;
        model.params.set_precision(precision).unwrap();
        let state = State { loss_scaler: config.loss_scaler(), ..State::default() };
        Run { moments: Moments::zeros(&model).unwrap(), model, state, config, steps }
    }

    /// With the optimizer and the schedule of a golden training run.
    pub fn like(golden: &Golden, model: Gpt2, more: &[&str]) -> Self {
        let (json, optimizer) = (&golden.json, &golden.json["optimizer"]);
        let schedule = &json["schedule"];
        let mut settings: Vec<String> = ["lr", "betas", "eps", "weight_decay"]
            .map(|key| format!("optimizer.{key}={}", optimizer[key]))
            .to_vec();
        settings.push(format!("optimizer.clip_norm={}", json["clip_norm"]));
        settings.push(format!("schedule.kind={}", schedule["kind"]));
        settings.push(format!("schedule.warmup_steps={}", schedule["warmup_steps"]));
        let settings: Vec<&str> = settings.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Run::new(model, &settings, json["lr"].as_array().unwrap().len() as u64)
    }

    pub fn step(&mut self, batches: Vec<Batch>) -> StepMetrics {
        train_step(&mut self.model, &mut self.moments, &mut self.state, &self.config, batches, self.steps)
            .unwrap()
    }

    /// All steps of a golden run; the losses.
    pub fn losses(&mut self, golden: &Golden) -> Vec<f64> {
        golden.run_batches().into_iter().map(|batch| self.step(vec![batch]).loss.unwrap()).collect()
    }
}

/// Loss, gradient norm and gradients by parameter, of one step: with a first moment that forgets everything and no
/// clipping, the first moments are the gradients.
pub fn gradients(model: Gpt2, batches: Vec<Batch>, more: &[&str]) -> (StepMetrics, Vec<(String, Vec<f32>)>) {
    let settings = ["optimizer.betas=[0, 0.9]", "optimizer.clip_norm=0", "optimizer.lr=0"];
    let mut run = Run::new(model, &[&settings, more].concat(), 1);
    let measured = run.step(batches);
    let names = run.model.params.iter().map(|param| param.name.clone());
    (measured, names.zip(run.moments.m.iter().map(|m| m.to_vec_f32())).collect())
}
