//! `handloom train`.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use handloom_engine::device::Device;
use handloom_model::config::{KEYS, ObjectiveKind, RunConfig};
use handloom_model::eval::Evaluation;
use handloom_model::fill::fill;
use handloom_model::generate::{Sampling, generate};
use handloom_model::huggingface;
use handloom_model::train::metrics::StepMetrics;
use handloom_model::train::{MemoryPlan, Observer, Outcome, Placement, Trainer};
use indicatif::{ProgressBar, ProgressStyle};

use super::CommandResult;
use super::device::DeviceArg;
use super::output::{say, to_stdout};
use super::progress::Bar;

/// Arguments of `handloom train`.
#[derive(Args, Debug)]
pub struct TrainArgs {
    /// The run to do; without one, the embedded default
    #[arg(value_name = "CONFIG.toml")]
    config: Option<PathBuf>,
    /// Override a configuration key, for example --set train.steps=100 (repeatable; --keys lists them)
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Run directory [default: runs/<name of the configuration>, or the next free name]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArg,
    /// On a GPU: launch every kernel of every step, instead of replaying a captured step as one CUDA graph
    #[arg(long, overrides_with = "cuda_graph")]
    no_cuda_graph: bool,
    /// On a GPU: replay a captured step as one CUDA graph (the default, where all steps have one shape)
    #[arg(long)]
    cuda_graph: bool,
    /// fp32, tf32 (on a GPU), bf16 or fp16; the same as --set train.precision=...
    #[arg(long)]
    precision: Option<String>,
    /// Continue the run in --out, or the newest run of this configuration, from its last checkpoint
    #[arg(long)]
    resume: bool,
    /// List every configuration key and stop
    #[arg(long)]
    keys: bool,
}

/// Runs the command.
pub fn run(args: TrainArgs) -> CommandResult {
    if args.keys {
        return to_stdout(|out| {
            for (section, key, meaning) in KEYS {
                writeln!(out, "{:<26} {meaning}", format!("{section}.{key}"))?;
            }
            Ok(())
        });
    }
    let placement = Placement { device: args.device.open()?, cuda_graph: !args.no_cuda_graph };
    let mut settings = args.set.clone();
    settings.extend(args.precision.iter().map(|precision| format!("train.precision={precision}")));
    let name = match &args.config {
        Some(path) => path.file_stem().map_or("run".into(), |stem| stem.to_string_lossy().into_owned()),
        None => "austen-gpt2".into(),
    };
    let (dir, config) = choose_run(&args, &name, &settings)?;

    let bar = Bar::default();
    let mut trainer = Trainer::open_on(placement, config.clone(), &dir, args.resume, &bar)?;
    introduce(&trainer, &config, &dir);
    report_memory(&mut trainer)?;
    let stop = Arc::new(AtomicBool::new(false));
    install_stop(stop.clone())?;
    let mut screen = Screen::new(trainer.steps(), trainer.step(), config.train.batch);
    let outcome = trainer.run(&mut screen, &stop)?;
    screen.bar.finish_and_clear();
    report_costs(&trainer);
    conclude(&trainer, &config, &dir, &outcome)
}

/// The run directory and its configuration.
fn choose_run(
    args: &TrainArgs,
    name: &str,
    settings: &[String],
) -> Result<(PathBuf, RunConfig), Box<dyn std::error::Error>> {
    let numbered =
        |i: usize| Path::new("runs").join(if i == 1 { name.to_owned() } else { format!("{name}-{i}") });
    let taken = (1..).take_while(|&i| Trainer::is_run(&numbered(i))).count();
    let dir = match (&args.out, args.resume) {
        (Some(dir), _) => dir.clone(),
        (None, true) if taken == 0 => {
            let place = numbered(1);
            return Err(format!("--resume: {} holds no run; name one with --out", place.display()).into());
        }
        (None, true) => numbered(taken),
        (None, false) => numbered(taken + 1),
    };
    let config = if args.resume && Trainer::is_run(&dir) {
        Trainer::stored_config(&dir, settings)?
    } else {
        RunConfig::load(args.config.as_deref(), settings)?
    };
    Ok((dir, config))
}

/// Ctrl-C asks the run to save and stop; a second one ends the process at once (checkpoints stay whole).
fn install_stop(stop: Arc<AtomicBool>) -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(move || {
        if stop.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\nstopping after this step; Ctrl-C again to stop at once");
    })
}

fn introduce(trainer: &Trainer, config: &RunConfig, dir: &Path) {
    let model = &trainer.model;
    say(format_args!(
        "model      {}: {:.2} M parameters, {}",
        model.describe(),
        model.params().numel() as f64 / 1e6,
        config.train.precision,
    ));
    if let Device::Cuda(gpu) = trainer.device() {
        say(format_args!("device     {} ({})", trainer.device(), gpu.name()));
    }
    say(format_args!("tokenizer  {}, {} tokens", config.tokenizer.name, trainer.tokenizer.vocab_size()));
    say(format_args!("data       {}", trainer.train_blocks()));
    say(format_args!(
        "run        {} steps of {} x {} rows, in {}",
        trainer.steps(),
        config.train.accumulate,
        config.train.batch,
        dir.display()
    ));
    if trainer.step() > 0 {
        say(format_args!("resuming   after step {}", trainer.step()));
    }
}

/// On a GPU: what the run will take, before it starts.
fn report_memory(trainer: &mut Trainer) -> CommandResult {
    let Some(MemoryPlan { resident, step, free }) = trainer.memory_plan()? else { return Ok(()) };
    let mb = |bytes: usize| bytes as f64 / 1e6;
    let fits = if step > free { ": more than there is" } else { "" };
    say(format_args!(
        "memory     {:.1} MB of parameters, moments and gradients; a step takes {:.1} MB of {:.1} MB free{fits}",
        mb(resident),
        mb(step),
        mb(free)
    ));
    Ok(())
}

/// On a GPU: what a step has cost the host.
fn report_costs(trainer: &Trainer) {
    let Some(step) = trainer.device_step() else { return };
    let (eager, replayed) = step.host_costs();
    for (name, cost) in [("kernel by kernel", eager), ("as a CUDA graph", replayed)] {
        if cost.steps > 0 {
            say(format_args!(
                "host       {:.2} ms and {:.0} launches a step, {name} ({} steps)",
                cost.ms_per_step(),
                cost.launches_per_step(),
                cost.steps
            ));
        }
    }
}

/// ", masked accuracy 12.34 %", where there is one.
fn accuracy(share: Option<f64>) -> String {
    share.map(|share| format!(", masked accuracy {:.2} %", 100.0 * share)).unwrap_or_default()
}

fn conclude(trainer: &Trainer, config: &RunConfig, dir: &Path, outcome: &Outcome) -> CommandResult {
    if outcome.interrupted {
        say(format_args!(
            "stopped after step {}; continue with: --resume --out {}",
            outcome.steps,
            dir.display()
        ));
        return Ok(());
    }
    if let Some(evaluation) = &outcome.evaluation {
        say(format_args!(
            "validation loss {:.4}, perplexity {:.2}{} over {} tokens",
            evaluation.loss,
            evaluation.perplexity,
            accuracy(evaluation.masked_accuracy),
            evaluation.tokens
        ));
    }
    if let Some(best) = outcome.best.filter(|best| best.step != outcome.steps) {
        say(format_args!("best       step {} with validation loss {:.4}", best.step, best.val_loss));
    }
    say(format_args!("checkpoint {}", outcome.checkpoint.display()));
    if !config.train.sample_prompt.is_empty() && config.train.sample_tokens > 0 {
        if trainer.model.objective() == ObjectiveKind::Mlm {
            let best = huggingface::load_bert(&huggingface::resolve(dir)?)?;
            let masks = fill(&best, &trainer.tokenizer, &config.train.sample_prompt, 5)?;
            say("");
            super::fill::print(&mut std::io::stdout(), &config.train.sample_prompt, &masks)?;
            say(format_args!("\nmore: handloom fill --model {} --text \"... [MASK] ...\"", dir.display()));
            return Ok(());
        }
        // The best checkpoint's text, which is what `handloom generate --model RUN` gives too.
        let best = huggingface::load_model(&huggingface::resolve(dir)?)?;
        // A little colder than the default of `generate`: a first text should be readable.
        let sampling = Sampling { seed: config.train.seed, temperature: 0.7, ..Sampling::default() };
        let prompt = &config.train.sample_prompt;
        let mut out = std::io::stdout();
        // A closed pipe is not an error of the run.
        let _ = write!(out, "\n{prompt}");
        generate(&best, &trainer.tokenizer, prompt, config.train.sample_tokens, &sampling, |text| {
            let _ = write!(out, "{text}").and_then(|()| out.flush());
            Ok(())
        })?;
        say(format_args!("\n\nmore: handloom generate --model {} --prompt \"...\"", dir.display()));
    }
    Ok(())
}

/// The progress bar, or a line now and then where there is no terminal.
struct Screen {
    bar: ProgressBar,
    terminal: bool,
    last_line: Instant,
    rows: usize,
    /// Exponential mean of the loss, for a readable figure.
    loss: Option<f64>,
}

impl Screen {
    fn new(steps: u64, done: u64, rows: usize) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let style =
            ProgressStyle::with_template("step {pos}/{len} {bar:20} {msg} · {elapsed} gone, {eta} left")
                .expect("bug in handloom: the progress bar's template parses");
        let bar = if terminal { ProgressBar::new(steps) } else { ProgressBar::hidden() };
        let bar = bar.with_style(style);
        bar.set_position(done);
        bar.reset_eta();
        if terminal {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Screen { bar, terminal, last_line: Instant::now(), rows, loss: None }
    }

    fn line(&self, text: &str) {
        if self.terminal {
            self.bar.suspend(|| say(text));
        } else {
            say(text);
        }
    }
}

impl Observer for Screen {
    fn step(&mut self, metrics: &StepMetrics, steps: u64) {
        let loss = metrics.loss.unwrap_or(f64::NAN);
        let smooth = self.loss.map_or(loss, |mean| 0.9 * mean + 0.1 * loss);
        self.loss = Some(smooth);
        let text = format!(
            "loss {smooth:.3} ppl {:.1} lr {:.2e} |g| {:.2} {:.0} tok/s",
            smooth.exp(),
            metrics.lr.unwrap_or(f64::NAN),
            metrics.grad_norm.unwrap_or(f64::NAN),
            metrics.tokens_per_s.unwrap_or(f64::NAN),
        );
        self.bar.set_position(metrics.step);
        self.bar.set_message(text.clone());
        let due =
            metrics.step == 1 || metrics.step == steps || self.last_line.elapsed() > Duration::from_secs(10);
        if !self.terminal && due {
            self.last_line = Instant::now();
            say(format_args!("step {}/{steps} {text}", metrics.step));
        }
    }

    fn evaluating(&mut self, done: usize, all: usize) {
        self.bar.set_message(format!("evaluating {}/{}", done.div_ceil(self.rows), all.div_ceil(self.rows)));
    }

    fn evaluated(&mut self, step: u64, evaluation: &Evaluation, best: bool) {
        let mark = if best { ", the best so far" } else { "" };
        let (loss, perplexity) = (evaluation.loss, evaluation.perplexity);
        let accuracy = accuracy(evaluation.masked_accuracy);
        self.line(&format!(
            "step {step}: validation loss {loss:.4}, perplexity {perplexity:.2}{accuracy}{mark}"
        ));
    }

    fn notice(&mut self, message: &str) {
        self.line(&format!("note: {message}"));
    }
}
