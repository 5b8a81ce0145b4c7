//! Filling in: what a masked language model expects at each `[MASK]` of a text.

use handloom_engine::ops::cross_entropy::IGNORE_INDEX;
use serde::Serialize;

use crate::bert::Bert;
use crate::error::{Error, Result};
use crate::layers::Forward;
use crate::objective::Batch;
use crate::tokenizer::Tokenizer;

/// One candidate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    pub id: u32,
    /// As the vocabulary writes it.
    pub token: String,
    /// Of the softmax over the whole vocabulary.
    pub probability: f64,
}

/// One `[MASK]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mask {
    /// Its place among the text's tokens, `[CLS]` being 0.
    pub position: usize,
    /// The most probable tokens, most probable first; equal ones in order of id.
    pub predictions: Vec<Prediction>,
}

/// The `top_k` most probable tokens for each `[MASK]` of `text`.
///
/// # Errors
/// [`Error::Run`] when the text has no `[MASK]` or is longer than the model's position table, when tokenizer and model do
/// not belong together, and when a logit is NaN.
pub fn fill(model: &Bert, tokenizer: &Tokenizer, text: &str, top_k: usize) -> Result<Vec<Mask>> {
    let fail = |message: String| Err(Error::Run(message));
    let (vocab, context) = (model.config.vocab_size, model.config.max_position_embeddings);
    if tokenizer.vocab_size() > vocab {
        return fail(format!(
            "the tokenizer has {} tokens, the model {vocab}; they do not belong together",
            tokenizer.vocab_size()
        ));
    }
    let Some(mask) = tokenizer.token_to_id("[MASK]").or_else(|| tokenizer.token_to_id("<mask>")) else {
        return fail(
            "the tokenizer has no [MASK] token; this needs a masked language model's tokenizer".into(),
        );
    };
    let ids: Vec<i32> = tokenizer.encode(text)?.into_iter().map(|id| id as i32).collect();
    if ids.len() > context {
        return fail(format!(
            "the text has {} tokens, the model's position table {context}; give a shorter text",
            ids.len()
        ));
    }
    let masks: Vec<i32> = (0..ids.len() as i32).filter(|&i| ids[i as usize] == mask as i32).collect();
    if masks.is_empty() {
        return fail(format!(
            "the text has no {} to fill in; write one for each missing token",
            tokenizer.id_to_token(mask).unwrap_or_default()
        ));
    }
    if let Some((at, id)) = ids.iter().enumerate().find(|(_, id)| **id as usize >= vocab) {
        return fail(format!("token {id} at position {at} is outside the model's vocabulary of {vocab}"));
    }
    let batch = Batch::new(&ids, &vec![IGNORE_INDEX; ids.len()], ids.len())?;
    let batch = batch.to_device(model.params.device())?;
    let logits = model.logits_at(&Forward::inference(&model.params), &batch, &masks)?.read_f32()?;
    masks
        .into_iter()
        .zip(logits.chunks_exact(vocab))
        .map(|(position, logits)| {
            let predictions = most_probable(logits, top_k)?
                .into_iter()
                .map(|(id, probability)| {
                    let token = tokenizer.id_to_token(id).unwrap_or_default();
                    Prediction { id, token, probability }
                })
                .collect();
            Ok(Mask { position: position as usize, predictions })
        })
        .collect()
}

/// The `count` largest of softmax(logits).
fn most_probable(logits: &[f32], count: usize) -> Result<Vec<(u32, f64)>> {
    if let Some(token) = logits.iter().position(|x| x.is_nan()) {
        let message = format!("the model's logit for token {token} is NaN; its weights are damaged");
        return Err(Error::Run(message));
    }
    let max = logits.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b)) as f64;
    let total: f64 = logits.iter().map(|&x| (x as f64 - max).exp()).sum();
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    order.truncate(count);
    Ok(order.into_iter().map(|id| (id, (logits[id as usize] as f64 - max).exp() / total)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_those_of_the_softmax_over_everything() {
        // e^0 : e^1 : e^2 : e^1 = 1 : 2.71828 : 7.38906 : 2.71828, sum 13.82562.
        let top = most_probable(&[0.0, 1.0, 2.0, 1.0], 3).unwrap();
        assert_eq!(top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [2, 1, 3]);
        for ((_, got), want) in top.iter().zip([0.534447, 0.196612, 0.196612]) {
            assert!((got - want).abs() < 1e-6, "{got} {want}");
        }
        assert!(most_probable(&[0.0, f32::NAN], 1).unwrap_err().to_string().contains("token 1 is NaN"));
    }
}
