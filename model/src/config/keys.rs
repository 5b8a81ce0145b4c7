//! Every configuration key with its meaning: for help, and for naming the nearest one to a mistyped key.

use crate::error::{Error, Result};

/// Section, key, meaning.
pub const KEYS: &[(&str, &str, &str)] = &[
    ("model", "kind", "gpt2 | bert"),
    ("model", "layers", "number of Transformer blocks"),
    ("model", "heads", "attention heads per block"),
    ("model", "width", "size C of the hidden state; a multiple of heads"),
    ("model", "context", "longest sequence in tokens"),
    ("model", "inner", "size of the MLP's hidden layer; 4 * width when absent"),
    ("model", "dropout", "drop probability on embeddings, attention weights and branches"),
    ("model", "tie_embeddings", "use the token embedding as output matrix"),
    ("model", "init", "gpt2 | xavier | he | inverse_sqrt_width | mimetic (bert)"),
    ("model", "init_std", "standard deviation of init = gpt2 and mimetic"),
    ("tokenizer", "name", "gpt2, austen, austen-2048, austen-wordpiece, or a path"),
    ("data", "train", "list of sources: embedded:austen, text, .jsonl or .bin files"),
    ("data", "valid", "the same for validation; empty for none"),
    ("data", "block", "tokens per row"),
    ("data", "shuffle", "a new order of blocks each epoch"),
    ("data", "max_blocks", "use the first so many training blocks only"),
    ("data", "max_valid_blocks", "use the first so many validation blocks only"),
    ("data", "cache", "directory of tokenised data"),
    ("objective", "kind", "clm | mlm"),
    ("objective", "mask_prob", "mlm: probability that a position is chosen"),
    ("objective", "mask_token_share", "mlm: share of the chosen that becomes [MASK]"),
    (
        "objective",
        "random_token_share",
        "mlm: share of the chosen that becomes a random token; the rest stays",
    ),
    ("objective", "whole_word", "mlm: choose whole words (WordPiece tokenizers)"),
    ("optimizer", "lr", "peak learning rate"),
    ("optimizer", "betas", "decay rates of AdamW's two moments"),
    ("optimizer", "eps", "added to the root of the second moment"),
    ("optimizer", "weight_decay", "decoupled weight decay"),
    ("optimizer", "decay", "matrices | all: which parameters decay"),
    ("optimizer", "clip_norm", "largest global gradient norm; 0 for no clipping"),
    ("optimizer", "loss_scale", "fp16: the first loss scale"),
    ("optimizer", "loss_scale_growth", "fp16: factor on the scale after enough clean steps"),
    ("optimizer", "loss_scale_growth_interval", "fp16: how many clean steps are enough"),
    ("optimizer", "loss_scale_backoff", "fp16: factor on the scale after a step that overflowed"),
    ("optimizer", "loss_scale_min", "fp16: lowest scale"),
    ("optimizer", "loss_scale_max", "fp16: highest scale"),
    ("schedule", "kind", "constant | linear | cosine | wsd"),
    ("schedule", "warmup_steps", "steps of linear warm-up from 0"),
    ("schedule", "final_lr_ratio", "last learning rate over the peak"),
    ("schedule", "decay_steps", "wsd: steps of decay at the end; a fifth of the run when absent"),
    ("train", "batch", "rows per micro-batch"),
    ("train", "accumulate", "micro-batches per step"),
    ("train", "steps", "optimizer steps; overrides epochs"),
    (
        "train",
        "pack",
        "full rows of joined documents; false: a document, or a piece of one, per row, padded (mlm)",
    ),
    ("train", "epochs", "passes over the data"),
    ("train", "eval_every", "steps between evaluations; 0 for the end only"),
    ("train", "save_every", "steps between checkpoints; 0 for the end only"),
    ("train", "keep_last", "checkpoints kept besides the best"),
    ("train", "seed", "seed of everything random"),
    ("train", "precision", "fp32 | tf32 (on a GPU) | bf16 | fp16"),
    ("train", "recompute", "trade time for memory: keep only block inputs"),
    ("train", "init_from", "model directory to start from"),
    ("train", "sample_prompt", "text to continue (mlm: to fill in at [MASK]) after training; empty for none"),
    ("train", "sample_tokens", "tokens to generate after training"),
];

pub(super) fn takes_list(section: &str, key: &str) -> bool {
    section == "data" && (key == "train" || key == "valid")
}

pub(super) fn takes_float(section: &str, key: &str) -> bool {
    let floats = [
        "lr",
        "eps",
        "weight_decay",
        "clip_norm",
        "loss_scale",
        "loss_scale_growth",
        "loss_scale_backoff",
        "loss_scale_min",
        "loss_scale_max",
        "final_lr_ratio",
        "epochs",
        "dropout",
        "init_std",
        "mask_prob",
        "mask_token_share",
        "random_token_share",
    ];
    KEYS.iter().any(|(s, k, _)| (*s, *k) == (section, key)) && floats.contains(&key)
}

/// Refuses unknown sections and keys, naming the nearest known one.
pub(super) fn check(table: &toml::Table, origin: &str) -> Result<()> {
    for (section, entries) in table {
        if !KEYS.iter().any(|(s, _, _)| s == section) {
            let hint = nearest(section, KEYS.iter().map(|(s, _, _)| s.to_string()));
            let hint = hint.map(|s| format!("; did you mean [{s}]?")).unwrap_or_default();
            return Err(Error::Config(format!("{origin} has an unknown section [{section}]{hint}")));
        }
        let toml::Value::Table(entries) = entries else {
            return Err(Error::Config(format!("{origin}: [{section}] must be a section with keys")));
        };
        for key in entries.keys() {
            if !KEYS.iter().any(|(s, k, _)| s == section && k == key) {
                let name = format!("{section}.{key}");
                let hint = nearest(&name, KEYS.iter().map(|(s, k, _)| format!("{s}.{k}")));
                let hint = hint.map(|s| format!("; did you mean {s}?")).unwrap_or_default();
                return Err(Error::Config(format!("{origin} has an unknown key {name}{hint}")));
            }
        }
    }
    Ok(())
}

/// The known name most like `name`, when it is like it at all.
fn nearest(name: &str, known: impl Iterator<Item = String>) -> Option<String> {
    let likeness = |k: &String| strsim::jaro_winkler(name, k);
    let best = known.max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(&best) > 0.75).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RunConfig;

    #[test]
    fn the_list_and_the_structs_agree() {
        // Every field that is set, written out, is a listed key...
        let settings = [
            "model.inner=4",
            "data.max_blocks=1",
            "data.max_valid_blocks=1",
            "data.cache=x",
            "train.steps=1",
        ];
        let mut settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
        settings.extend(["train.init_from=x".to_owned(), "schedule.decay_steps=1".to_owned()]);
        let config = RunConfig::from_toml("", "t", &settings).unwrap();
        let table: toml::Table = config.to_toml().unwrap().parse().unwrap();
        let fields: Vec<(String, String)> = table
            .iter()
            .flat_map(|(s, keys)| keys.as_table().unwrap().keys().map(move |k| (s.clone(), k.clone())))
            .collect();
        for (section, key) in &fields {
            assert!(KEYS.iter().any(|(s, k, _)| s == section && k == key), "{section}.{key} is not listed");
        }
        // ... and there are as many of them as of fields.
        assert_eq!(KEYS.len(), fields.len());
    }
}
