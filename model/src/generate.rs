//! Text generation: sampling from the next-token distribution, one token at a time, with cached keys and values.

use handloom_engine::philox::{Reader, Stream};

use crate::error::{Error, Result};
use crate::gpt2::{Gpt2, KvCache};
use crate::layers::Forward;
use crate::tokenizer::Tokenizer;

/// How the next token is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Always the most probable token; the rest does not matter then.
    pub greedy: bool,
    /// Divides the logits.
    pub temperature: f64,
    /// Only the so many most probable tokens; 0 for all.
    pub top_k: usize,
    /// Only the smallest set of tokens whose probability reaches this; 1 for all (Holtzman et al. 2020,
    /// arXiv:1904.09751).
    pub top_p: f64,
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling { greedy: false, temperature: 0.9, top_k: 50, top_p: 0.95, seed: 42 }
    }
}

impl Sampling {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Config`] naming the option.
    pub fn validate(&self) -> Result<()> {
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            let message =
                format!("temperature is {}, expected a positive number (or --greedy)", self.temperature);
            return Err(Error::Config(message));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::Config(format!("top-p is {}, expected 0 < p <= 1", self.top_p)));
        }
        Ok(())
    }

    /// The tokens that may come next and their probabilities, most probable first: temperature, then top-k (ties at the
    /// k-th place all stay), then top-p (at least one token stays).
    ///
    /// # Errors
    /// [`Error::Run`] when a logit is NaN.
    pub fn distribution(&self, logits: &[f32]) -> Result<Vec<(u32, f64)>> {
        if let Some(token) = logits.iter().position(|x| x.is_nan()) {
            return Err(Error::Run(format!(
                "the model's logit for token {token} is NaN; its weights are damaged"
            )));
        }
        let mut kept: Vec<(u32, f32)> = logits.iter().enumerate().map(|(i, &x)| (i as u32, x)).collect();
        // Equal logits are ordered by token, so that the result is a function of the logits.
        let by_logit = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if self.greedy {
            return Ok(kept
                .into_iter()
                .min_by(by_logit)
                .map(|(token, _)| (token, 1.0))
                .into_iter()
                .collect());
        }
        if self.top_k > 0 && self.top_k < kept.len() {
            let (_, kth, _) = kept.select_nth_unstable_by(self.top_k - 1, by_logit);
            let least = kth.1;
            kept.retain(|(_, x)| *x >= least);
        }
        kept.sort_unstable_by(by_logit);
        let Some(&(_, max)) = kept.first() else { return Ok(Vec::new()) };
        let weight = |x: f32| ((x as f64 - max as f64) / self.temperature).exp();
        let mut kept: Vec<(u32, f64)> = kept.into_iter().map(|(token, x)| (token, weight(x))).collect();
        let total: f64 = kept.iter().map(|(_, p)| p).sum();
        if self.top_p < 1.0 {
            let mut reached = 0.0;
            let enough = kept.iter().position(|(_, p)| {
                reached += p / total;
                reached >= self.top_p
            });
            kept.truncate(enough.map_or(kept.len(), |i| i + 1));
        }
        let total: f64 = kept.iter().map(|(_, p)| p).sum();
        kept.iter_mut().for_each(|(_, p)| *p /= total);
        Ok(kept)
    }
}

/// Stream of sampling's draws.
const SAMPLE_STREAM: u32 = u32::MAX;

/// Chooses tokens; one draw per token, from the seed.
pub struct Sampler {
    sampling: Sampling,
    reader: Reader,
}

impl Sampler {
    /// # Errors
    /// As [`Sampling::validate`].
    pub fn new(sampling: Sampling) -> Result<Self> {
        sampling.validate()?;
        let reader = Stream { seed: sampling.seed, stream: SAMPLE_STREAM, step: 0 }.reader();
        Ok(Sampler { sampling, reader })
    }

    /// The next token for these logits.
    pub fn next(&mut self, logits: &[f32]) -> Result<u32> {
        let kept = self.sampling.distribution(logits)?;
        let mut left = self.reader.uniform_f64();
        for &(token, p) in &kept {
            left -= p;
            if left < 0.0 {
                return Ok(token);
            }
        }
        let last = kept.last().ok_or_else(|| Error::Run("the model has an empty vocabulary".into()))?;
        Ok(last.0)
    }
}

/// What came out of [`generate`].
#[derive(Clone, Debug)]
pub struct Generated {
    /// New tokens, without the prompt and without the end-of-text token.
    pub tokens: Vec<u32>,
    pub prompt_tokens: usize,
    /// Seconds from the end of the prompt's pass to the last token.
    pub seconds: f64,
}

/// Continues `prompt` by up to `max_new_tokens` tokens, handing out text as it comes; ends early at the end-of-text token.
/// When the context is full, the later half of it is kept and read again.
///
/// # Errors
/// When the prompt has no token and the tokenizer no end-of-text token to start from; whatever `on_text` reports.
pub fn generate(
    model: &Gpt2,
    tokenizer: &Tokenizer,
    prompt: &str,
    max_new_tokens: usize,
    sampling: &Sampling,
    mut on_text: impl FnMut(&str) -> Result<()>,
) -> Result<Generated> {
    let mut history: Vec<i32> = tokenizer.encode(prompt)?.into_iter().map(|id| id as i32).collect();
    let vocab = model.config.vocab_size;
    if tokenizer.vocab_size() > vocab {
        return Err(Error::Run(format!(
            "the tokenizer has {} tokens, the model {vocab}; they do not belong together",
            tokenizer.vocab_size()
        )));
    }
    if history.is_empty() {
        let start = tokenizer.end_of_text();
        let start = start
            .ok_or_else(|| Error::Run("the prompt has no token to start from; give a longer one".into()))?;
        history.push(start as i32);
    }
    let prompt_tokens = history.len();
    let mut sampler = Sampler::new(sampling.clone())?;
    let mut cache = KvCache::new(model);
    let context = model.config.n_positions;
    let fwd = Forward::inference(&model.params);
    let mut text = tokenizer.decode_stream();
    let mut tokens = Vec::new();
    let mut started = std::time::Instant::now();
    let mut unread = history.len().min(context);
    while tokens.len() < max_new_tokens {
        if cache.len() + unread > context {
            cache.clear();
            unread = (context / 2).max(1);
        }
        let logits = model.next_logits(&fwd, &mut cache, &history[history.len() - unread..])?;
        if tokens.is_empty() {
            started = std::time::Instant::now();
        }
        let token = sampler.next(&logits)?;
        if Some(token) == tokenizer.end_of_text() {
            break;
        }
        tokens.push(token);
        history.push(token as i32);
        unread = 1;
        let piece = text.push(token)?;
        if !piece.is_empty() {
            on_text(&piece)?;
        }
    }
    let rest = text.finish()?;
    if !rest.is_empty() {
        on_text(&rest)?;
    }
    Ok(Generated { tokens, prompt_tokens, seconds: started.elapsed().as_secs_f64() })
}
