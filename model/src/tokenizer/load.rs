//! Loading a tokenizer from a file or a directory.

use std::path::Path;

use serde_json::{Value, json};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::{AddedToken, ModelWrapper};

use super::train::{BERT_SPECIAL, bert_pipeline};
use super::{EMBEDDED, Tokenizer, TokenizerError};

impl Tokenizer {
    /// An embedded tokenizer by its name ([`EMBEDDED`](super::EMBEDDED)), or one loaded from a path. A file that has
    /// an embedded tokenizer's name is reached as `./name`.
    ///
    /// # Errors
    /// `NotFound` when it is neither, and those of [`Tokenizer::load`].
    pub fn open(name: &str) -> Result<Self, TokenizerError> {
        if EMBEDDED.contains(&name) {
            return Self::embedded(name);
        }
        let path = Path::new(name);
        if !path.exists() {
            return Err(TokenizerError::NotFound { name: name.to_owned(), known: EMBEDDED.join(", ") });
        }
        Self::load(path)
    }

    /// Loads a `tokenizer.json`, a `vocab.txt` (BERT's WordPiece), or the one of these that a directory holds.
    ///
    /// # Errors
    /// `Read`, `NoTokenizerIn`, `Malformed`, each with the path.
    pub fn load(path: &Path) -> Result<Self, TokenizerError> {
        if path.is_dir() {
            let found = ["tokenizer.json", "vocab.txt"].map(|name| path.join(name));
            return match found.iter().find(|file| file.is_file()) {
                Some(file) => Self::load(file),
                None => Err(TokenizerError::NoTokenizerIn { path: path.to_owned() }),
            };
        }
        let malformed = |problem: String| TokenizerError::Malformed { path: path.to_owned(), problem };
        let bytes =
            std::fs::read(path).map_err(|source| TokenizerError::Read { path: path.to_owned(), source })?;
        let text = String::from_utf8(bytes).map_err(|e| {
            malformed(format!(
                "not UTF-8 at byte {}; expected tokenizer.json or vocab.txt (a sentencepiece .model file has to be \
                 converted to tokenizer.json first)",
                e.utf8_error().valid_up_to()
            ))
        })?;
        let inner = if path.extension().is_some_and(|ext| ext == "txt") {
            from_vocab(&text).map_err(malformed)?
        } else {
            from_json(&text).map_err(malformed)?
        };
        Self::new(inner)
    }
}

/// Reads `tokenizer.json` text, of today's layout or of the one before models named their type.
fn from_json(text: &str) -> Result<tokenizers::Tokenizer, String> {
    let mut json: Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
    let Some(model) = json.get_mut("model").and_then(Value::as_object_mut) else {
        return Err(
            "no \"model\" in it, so it is not a tokenizer.json (a vocab.json of old GPT-2 files, or \
                    another JSON file?)"
                .to_owned(),
        );
    };
    if !model.contains_key("type") {
        // Files before tokenizers 0.9 name no type; what the model holds tells it.
        let kind = if model.contains_key("merges") {
            "BPE"
        } else if model.get("vocab").is_some_and(Value::is_array) {
            "Unigram"
        } else if model.contains_key("continuing_subword_prefix") {
            "WordPiece"
        } else {
            "WordLevel"
        };
        model.insert("type".to_owned(), json!(kind));
    }
    let kind = model["type"].as_str().unwrap_or("?").to_owned();
    serde_json::from_value::<tokenizers::Tokenizer>(json)
        .map_err(|e| format!("its {kind} model or its rules cannot be read: {e}"))
}

/// Builds BERT's tokenizer from a `vocab.txt`, one token a line. Uncased when no ordinary token has an ASCII capital.
fn from_vocab(text: &str) -> Result<tokenizers::Tokenizer, String> {
    let mut vocab = tokenizers::models::wordpiece::WordPiece::read_bytes(text.as_bytes())
        .map_err(|e| format!("not a vocab.txt: {e}"))?;
    vocab.retain(|token, _| !token.is_empty());
    for token in ["[UNK]", "[CLS]", "[SEP]"] {
        if !vocab.contains_key(token) {
            return Err(format!(
                "no {token} among its {} lines; expected a BERT vocab.txt with one token a line",
                vocab.len()
            ));
        }
    }
    let special = |token: &str| BERT_SPECIAL.contains(&token) || token.starts_with("[unused");
    let uncased =
        !vocab.keys().any(|token| !special(token) && token.contains(|c: char| c.is_ascii_uppercase()));
    let present: Vec<&str> = BERT_SPECIAL.into_iter().filter(|t| vocab.contains_key(*t)).collect();
    let (cls, sep) = (vocab["[CLS]"], vocab["[SEP]"]);
    let model = WordPiece::builder()
        .vocab(vocab)
        .unk_token("[UNK]".to_owned())
        .build()
        .map_err(|e| format!("cannot build a WordPiece model from it: {e}"))?;
    let mut tokenizer = tokenizers::Tokenizer::new(ModelWrapper::WordPiece(model));
    bert_pipeline(&mut tokenizer, uncased, cls, sep).map_err(|e| e.to_string())?;
    tokenizer
        .add_special_tokens(present.into_iter().map(|token| AddedToken::from(token, true)))
        .map_err(|e| format!("cannot add its special tokens: {e}"))?;
    Ok(tokenizer)
}
