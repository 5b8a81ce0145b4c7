//! Text generation: sampling from the next-token distribution, one token at a time, with cached keys and values.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

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
        // Equal logits are ordered by token, so that the result is a function of the logits.
        let by_logit = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        let all = logits.iter().enumerate().map(|(i, &x)| (i as u32, x));
        if self.greedy {
            return Ok(all.min_by(by_logit).map(|(token, _)| (token, 1.0)).into_iter().collect());
        }
        let least = if self.top_k == 0 { f32::NEG_INFINITY } else { kth_largest(logits, self.top_k) };
        let mut kept: Vec<(u32, f32)> = all.filter(|(_, x)| *x >= least).collect();
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

/// The k-th largest logit; -infinity when there are fewer. One pass with the k largest so far in a heap: after the first
/// few hundred values hardly any enters it.
fn kth_largest(logits: &[f32], k: usize) -> f32 {
    let mut largest = BinaryHeap::with_capacity(k.min(logits.len()) + 1);
    let mut least = f32::NEG_INFINITY;
    for &x in logits {
        if largest.len() < k {
            largest.push(Reverse(Ordered(x)));
        } else if x > least {
            largest.pop();
            largest.push(Reverse(Ordered(x)));
        } else {
            continue;
        }
        if largest.len() == k {
            least = largest.peek().map_or(least, |Reverse(Ordered(x))| *x);
        }
    }
    if largest.len() == k { least } else { f32::NEG_INFINITY }
}

/// A logit in total order.
struct Ordered(f32);

impl PartialEq for Ordered {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Ordered {}
impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
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
    let mut cache = KvCache::new(model)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(logits: &[f32], sampling: Sampling) -> Vec<u32> {
        sampling.distribution(logits).unwrap().into_iter().map(|(token, _)| token).collect()
    }

    #[test]
    fn top_k_keeps_ties_and_orders_by_probability() {
        let off = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, ..Sampling::default() };
        let logits = [0.0, 3.0, 1.0, 3.0, 2.0, 1.0, -5.0];
        assert_eq!(kept(&logits, off.clone()), [1, 3, 4, 2, 5, 0, 6]);
        for (k, want) in [(1, 2), (2, 2), (3, 3), (4, 5), (5, 5), (6, 6), (7, 7), (100, 7)] {
            assert_eq!(kept(&logits, Sampling { top_k: k, ..off.clone() }).len(), want, "k = {k}");
        }
        assert_eq!(kept(&logits, Sampling { greedy: true, ..off }), [1]);
    }

    #[test]
    fn draws_follow_the_distribution() {
        let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 9, greedy: false };
        let logits = [0.5f32.ln(), 0.3f32.ln(), 0.2f32.ln()];
        let mut sampler = Sampler::new(sampling).unwrap();
        let mut counts = [0.0f64; 3];
        for _ in 0..20_000 {
            counts[sampler.next(&logits).unwrap() as usize] += 1.0;
        }
        // Chi-square with 2 degrees of freedom: 99.9 % below 13.8.
        let chi: f64 =
            counts.iter().zip([10_000.0, 6_000.0, 4_000.0]).map(|(c, e)| (c - e).powi(2) / e).sum();
        assert!(chi < 13.8, "{counts:?}");
    }

    #[test]
    fn a_nan_logit_is_an_error() {
        let message = Sampling::default().distribution(&[0.0, f32::NAN]).unwrap_err().to_string();
        assert_eq!(message, "the model's logit for token 1 is NaN; its weights are damaged");
    }
}
