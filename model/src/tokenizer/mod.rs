//! Tokenizers: text to ids and back, in Hugging Face's `tokenizer.json` format.
//!
//! The algorithms are those of the `tokenizers` crate. Here are the embedded tokenizers, loading with errors that
//! say what is wrong, encoding of long documents on all cores, and decoding of a stream.

mod bytebpe;
mod embedded;
mod error;
mod load;
mod parallel;
mod stream;
mod train;

use std::path::Path;
use std::sync::OnceLock;

use rayon::prelude::*;

pub use embedded::EMBEDDED;
pub(crate) use embedded::unpack;
pub use error::TokenizerError;
pub use stream::DecodeStream;
pub use train::{TokenizerKind, TrainOptions, train};

/// Tokens that end a text, in the order in which [`Tokenizer::end_of_text`] looks for them.
const END_OF_TEXT: [&str; 4] = ["<|endoftext|>", "<eod>", "</s>", "[SEP]"];

/// A tokenizer: text to ids, ids to text. Cheap to share by reference; all methods take `&self`.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    vocab_size: usize,
    /// Whether a text may be encoded in pieces cut before white space, with the same ids (`parallel`).
    splits_at_space: bool,
    /// The short way to the ids, for GPT-2's kind.
    byte_bpe: Option<bytebpe::ByteBpe>,
    fingerprint: OnceLock<String>,
}

impl Tokenizer {
    /// Takes a tokenizer of the `tokenizers` crate. Truncation and padding are switched off: a data set is cut into
    /// blocks later, and a text that silently loses its end is never wanted.
    fn new(mut inner: tokenizers::Tokenizer) -> Result<Self, TokenizerError> {
        inner.with_padding(None);
        inner.with_truncation(None).map_err(TokenizerError::library("set up"))?;
        let json = serde_json::to_value(&inner)
            .map_err(|source| TokenizerError::library("serialise")(source.into()))?;
        let vocab_size = inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1);
        let splits_at_space = parallel::splits_at_space(&json);
        let byte_bpe = bytebpe::ByteBpe::of(&json);
        Ok(Self { inner, vocab_size, splits_at_space, byte_bpe, fingerprint: OnceLock::new() })
    }

    /// The ids of `text` as the tokenizer wraps a text of its own, with its special tokens where it adds any
    /// (BERT: `[CLS] ... [SEP]`; GPT-2: none).
    ///
    /// # Errors
    /// `Library` when the tokenizer's own rules fail on this text (a model without an unknown token, say).
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, true).map_err(TokenizerError::library("encode"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of a whole document, without added special tokens, on all cores where the text is long.
    /// The ids are those of encoding it in one piece. `done` is called with the bytes of each piece encoded.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_document(
        &self,
        text: &str,
        done: &(dyn Fn(u64) + Sync),
    ) -> Result<Vec<u32>, TokenizerError> {
        let pieces = if self.splits_at_space {
            parallel::pieces(text, parallel::piece_bytes(text.len()))
        } else {
            vec![text]
        };
        let encode = |piece: &&str| {
            let ids = self.encode_piece(piece)?;
            done(piece.len() as u64);
            Ok(ids)
        };
        Ok(pieces.par_iter().map(encode).collect::<Result<Vec<_>, _>>()?.concat())
    }

    fn encode_piece(&self, piece: &str) -> Result<Vec<u32>, TokenizerError> {
        let short = self.byte_bpe.as_ref().and_then(|b| b.encode(self.inner.get_model(), piece));
        short.unwrap_or_else(|| {
            let encoding = self.inner.encode_fast(piece, false).map_err(TokenizerError::library("encode"))?;
            Ok(encoding.get_ids().to_vec())
        })
    }

    /// [`Tokenizer::encode`] of each text, in parallel.
    pub fn encode_batch<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vec<Vec<u32>>, TokenizerError> {
        texts.par_iter().map(|text| self.encode(text.as_ref())).collect()
    }

    /// The text of `ids`, special tokens written out. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// `UnknownId` for an id that is not in the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.decode_ids(ids, false)
    }

    /// [`Tokenizer::decode`] without the special tokens.
    pub fn decode_plain(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.decode_ids(ids, true)
    }

    fn decode_ids(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        for (position, &id) in ids.iter().enumerate() {
            if self.inner.id_to_token(id).is_none() {
                return Err(TokenizerError::UnknownId { id, position, vocab_size: self.vocab_size });
            }
        }
        self.inner.decode(ids, skip_special).map_err(TokenizerError::library("decode"))
    }

    /// Decodes ids one at a time, each time giving the text that is certain by then.
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream::new(self)
    }

    /// One more than the largest id: the number of rows an embedding needs.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The token put between documents: the first of `<|endoftext|>` (GPT-2), `<eod>` (XLNet), `</s>` (T5),
    /// `[SEP]` (BERT) that exists.
    pub fn end_of_text(&self) -> Option<u32> {
        END_OF_TEXT.iter().find_map(|token| self.token_to_id(token))
    }

    /// The id of a token as the vocabulary writes it (GPT-2 writes a leading space as `Ġ`).
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token as the vocabulary writes it.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// A hash of the serialised tokenizer, 64 hexadecimal digits: equal exactly when the `tokenizer.json` is.
    pub fn fingerprint(&self) -> &str {
        self.fingerprint.get_or_init(|| blake3::hash(self.to_json().as_bytes()).to_hex().to_string())
    }

    /// The kind of model: "BPE", "WordPiece", "Unigram" or "WordLevel".
    pub fn kind(&self) -> &'static str {
        use tokenizers::ModelWrapper::*;
        match self.inner.get_model() {
            BPE(_) => "BPE",
            WordPiece(_) => "WordPiece",
            WordLevel(_) => "WordLevel",
            Unigram(_) => "Unigram",
        }
    }

    /// The special tokens and their ids, in order of id.
    pub fn special_tokens(&self) -> Vec<(u32, String)> {
        let mut tokens: Vec<_> = self
            .inner
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special)
            .map(|(id, token)| (id, token.content))
            .collect();
        tokens.sort();
        tokens
    }

    /// The `tokenizer.json` text, without line breaks.
    pub fn to_json(&self) -> String {
        self.inner.to_string(false).expect("bug in handloom-model: a tokenizer that was loaded serialises")
    }

    /// Writes `dir/tokenizer.json`, making `dir` where it is missing.
    ///
    /// # Errors
    /// `Write` with the path and the cause.
    pub fn save(&self, dir: &Path) -> Result<(), TokenizerError> {
        self.save_as(&dir.join("tokenizer.json"))
    }

    /// Writes the `tokenizer.json` text to `path` (beside, flushed, renamed), making its directory.
    ///
    /// # Errors
    /// `Write` with the path and the cause.
    pub fn save_as(&self, path: &Path) -> Result<(), TokenizerError> {
        let text = self
            .inner
            .to_string(true)
            .expect("bug in handloom-model: a tokenizer that was loaded serialises");
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("")))
            .and_then(|()| crate::data::write_atomic(path, |file| file.write_all(text.as_bytes())))
            .map_err(|source| TokenizerError::Write { path: path.to_owned(), source })
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({}, {} tokens)", self.kind(), self.vocab_size)
    }
}
