//! Masking as BERT does it (Devlin et al. 2019, arXiv:1810.04805, section 3.1 and appendix A.1).
//!
//! Every position that is no special token is chosen with probability `mask_prob`. Of the chosen ones, a share becomes
//! `[MASK]`, a share becomes a token drawn from the whole vocabulary, and the rest stays as it is. All chosen positions are
//! predicted.
//!
//! The draws are functions of the seed, the row's number and the position: word 0 of the stream decides whether the position
//! is chosen, word 1 what becomes of it, word 2 which random token. Rows are numbered over all epochs, so that every epoch
//! has new masks, the same ones on every device and after a resume.

use handloom_engine::ops::cross_entropy::IGNORE_INDEX;
use handloom_engine::philox::Stream;

use crate::config::ObjectiveConfig;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// Stream of the draws for training rows; sampling has the number above, dropout and initialisation lower ones.
const TRAINING_STREAM: u32 = u32::MAX - 1;
/// Stream of the draws for evaluation.
const EVALUATION_STREAM: u32 = u32::MAX - 2;

/// Which draws a row gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// Row of a run, rows counted over all epochs, of the run with this seed.
    Training { seed: u64, row: u64 },
    /// Block of an evaluation: the same mask in every evaluation of every run.
    Evaluation { block: u64 },
}

impl Draw {
    fn words(self, position: usize) -> [u32; 4] {
        let (seed, stream, row) = match self {
            Draw::Training { seed, row } => (seed, TRAINING_STREAM, row),
            Draw::Evaluation { block } => (0, EVALUATION_STREAM, block),
        };
        Stream { seed, stream, step: position as u32 }.words(row)
    }
}

/// What masking does with one tokenizer's ids.
pub struct Masking {
    /// A draw below it chooses the position. All three are out of 2^32.
    chosen_below: u64,
    masked_below: u64,
    random_below: u64,
    mask: i32,
    vocab_size: usize,
    /// By id: never chosen.
    special: Vec<bool>,
    /// By id: belongs to the word of the token before it. `None` when tokens are chosen one by one.
    continues: Option<Vec<bool>>,
}

impl Masking {
    /// # Errors
    /// [`Error::Config`] for shares that are none, [`Error::Run`] for a tokenizer that has no `[MASK]` token, or for whole
    /// words of a tokenizer that does not mark them.
    pub fn new(config: &ObjectiveConfig, tokenizer: &Tokenizer) -> Result<Self> {
        config.validate()?;
        let mask = tokenizer.token_to_id("[MASK]").or_else(|| tokenizer.token_to_id("<mask>"));
        let mask = mask.ok_or_else(|| {
            Error::Run(format!(
                "the tokenizer ({}, {} tokens) has no [MASK] token, which objective.kind = \"mlm\" needs; use a \
                 BERT tokenizer, for example: handloom tokenizer train --kind wordpiece",
                tokenizer.kind(),
                tokenizer.vocab_size()
            ))
        })?;
        let vocab_size = tokenizer.vocab_size();
        let mut special = vec![false; vocab_size];
        tokenizer.special_tokens().iter().for_each(|(id, _)| special[*id as usize] = true);
        let continues = config.whole_word.then(|| {
            if tokenizer.kind() != "WordPiece" {
                return Err(Error::Run(format!(
                    "objective.whole_word needs a WordPiece tokenizer, which marks the pieces of a word with ##; this \
                     one is {}",
                    tokenizer.kind()
                )));
            }
            let piece = |id| tokenizer.id_to_token(id).is_some_and(|token| token.starts_with("##"));
            Ok((0..vocab_size as u32).map(piece).collect())
        });
        let out_of_2_32 = |share: f64| (share.min(1.0) * 4_294_967_296.0).round() as u64;
        Ok(Masking {
            chosen_below: out_of_2_32(config.mask_prob),
            masked_below: out_of_2_32(config.mask_token_share),
            random_below: out_of_2_32(config.mask_token_share + config.random_token_share),
            mask: mask as i32,
            vocab_size,
            special,
            continues: continues.transpose()?,
        })
    }

    /// Masks a row of ids in place and returns its targets: the original id where a position is chosen,
    /// [`IGNORE_INDEX`] elsewhere.
    pub fn apply(&self, ids: &mut [i32], draw: Draw) -> Vec<i32> {
        let mut targets = vec![IGNORE_INDEX; ids.len()];
        // Whether the word that the position belongs to is chosen; a special token belongs to none.
        let mut word_chosen = None;
        for (position, (id, target)) in ids.iter_mut().zip(&mut targets).enumerate() {
            let [choice, fate, random, _] = draw.words(position);
            let token = *id as usize;
            if self.special[token] {
                word_chosen = None;
                continue;
            }
            let inside_word = self.continues.as_ref().is_some_and(|continues| continues[token]);
            let chosen = match word_chosen {
                Some(chosen) if inside_word => chosen,
                _ => (choice as u64) < self.chosen_below,
            };
            word_chosen = Some(chosen);
            if !chosen {
                continue;
            }
            *target = *id;
            if (fate as u64) < self.masked_below {
                *id = self.mask;
            } else if (fate as u64) < self.random_below {
                *id = ((random as u64 * self.vocab_size as u64) >> 32) as i32;
            }
        }
        targets
    }
}
