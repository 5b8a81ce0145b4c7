//! Training a tokenizer on texts.

use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::unigram::{Unigram, UnigramTrainer};
use tokenizers::models::wordpiece::{WordPiece, WordPieceTrainer};
use tokenizers::normalizers::bert::BertNormalizer;
use tokenizers::normalizers::unicode::NFKC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, ModelWrapper};

use super::{Tokenizer, TokenizerError, parallel};

/// The special tokens of BERT's tokenizers, in the order of BERT's ids.
pub(super) const BERT_SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// Size of the pieces that the trainer gets: it spreads texts over cores, and one novel is one text.
const TRAINING_PIECE_BYTES: usize = 64 << 10;

/// Which algorithm a tokenizer is trained with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenizerKind {
    /// Byte-level BPE, as GPT-2: any text comes back unchanged. Special token `<|endoftext|>`, id 0.
    Bpe,
    /// WordPiece, as BERT uncased: lower case, words split at white space and punctuation, `##` continuations.
    /// Special tokens `[PAD] [UNK] [CLS] [SEP] [MASK]`, ids 0 to 4.
    WordPiece,
    /// Unigram, as T5: NFKC, words marked with `▁`. Special tokens `<pad> </s> <unk>`, ids 0 to 2.
    Unigram,
}

/// What [`train`] needs beside the texts.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    pub kind: TokenizerKind,
    /// Number of tokens, special ones included. BPE needs at least 257 (every byte, and `<|endoftext|>`).
    pub vocab_size: usize,
    /// Special tokens after those of the kind.
    pub special: Vec<String>,
    /// Draws the `tokenizers` crate's progress bars on stderr.
    pub show_progress: bool,
}

/// Trains a tokenizer on `texts` (documents).
///
/// # Errors
/// `Training` for a vocabulary that cannot hold what it must, or texts that give fewer tokens than asked for.
pub fn train(
    texts: impl IntoIterator<Item = String>,
    options: &TrainOptions,
) -> Result<Tokenizer, TokenizerError> {
    let (mut tokenizer, mut trainer, least) = match options.kind {
        TokenizerKind::Bpe => bpe(options),
        TokenizerKind::WordPiece => wordpiece(options)?,
        TokenizerKind::Unigram => unigram(options)?,
    };
    if options.vocab_size < least {
        return Err(TokenizerError::Training {
            problem: format!(
                "a vocabulary of {} is too small; this kind needs at least {least}",
                options.vocab_size
            ),
        });
    }
    let pieces: Vec<String> = texts
        .into_iter()
        .flat_map(|text| {
            parallel::pieces(&text, TRAINING_PIECE_BYTES).into_iter().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    if pieces.iter().all(|piece| piece.trim().is_empty()) {
        return Err(TokenizerError::Training { problem: "the texts are empty".to_owned() });
    }
    tokenizer
        .train(&mut trainer, pieces.into_iter())
        .map_err(|source| TokenizerError::Training { problem: format!("the trainer stopped: {source}") })?;
    if options.kind != TokenizerKind::Bpe {
        finish_special(&mut tokenizer, options.kind)?;
    }
    let tokenizer = Tokenizer::new(tokenizer)?;
    if tokenizer.vocab_size() != options.vocab_size {
        return Err(TokenizerError::Training {
            problem: format!(
                "the texts give {} tokens where {} were asked for; give more text or ask for {}",
                tokenizer.vocab_size(),
                options.vocab_size,
                tokenizer.vocab_size()
            ),
        });
    }
    Ok(tokenizer)
}

fn special(kind: &[&str], options: &TrainOptions) -> Vec<AddedToken> {
    let all = kind.iter().map(|token| (*token).to_owned()).chain(options.special.iter().cloned());
    all.map(|token| AddedToken::from(token, true)).collect()
}

fn bpe(options: &TrainOptions) -> (tokenizers::Tokenizer, TrainerWrapper, usize) {
    let mut tokenizer = tokenizers::Tokenizer::new(ModelWrapper::BPE(BPE::default()));
    tokenizer
        .with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(false)))
        .with_post_processor(Some(ByteLevel::default().trim_offsets(false)))
        .with_decoder(Some(ByteLevel::default()));
    let special = special(&["<|endoftext|>"], options);
    let least = 256 + special.len();
    let trainer = BpeTrainer::builder()
        .vocab_size(options.vocab_size)
        .min_frequency(2)
        .show_progress(options.show_progress)
        .special_tokens(special)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    (tokenizer, trainer.into(), least)
}

fn wordpiece(
    options: &TrainOptions,
) -> Result<(tokenizers::Tokenizer, TrainerWrapper, usize), TokenizerError> {
    let model = WordPiece::builder()
        .unk_token("[UNK]".to_owned())
        .build()
        .map_err(TokenizerError::library("set up WordPiece"))?;
    let mut tokenizer = tokenizers::Tokenizer::new(ModelWrapper::WordPiece(model));
    bert_pipeline(&mut tokenizer, true, 2, 3)?;
    let special = special(&BERT_SPECIAL, options);
    let least = special.len() + 1;
    let trainer = WordPieceTrainer::builder()
        .vocab_size(options.vocab_size)
        .min_frequency(2)
        .show_progress(options.show_progress)
        .special_tokens(special)
        .build();
    Ok((tokenizer, trainer.into(), least))
}

fn unigram(options: &TrainOptions) -> Result<(tokenizers::Tokenizer, TrainerWrapper, usize), TokenizerError> {
    let mut tokenizer = tokenizers::Tokenizer::new(ModelWrapper::Unigram(Unigram::default()));
    let metaspace = Metaspace::new('▁', PrependScheme::Always, true);
    let words = Sequence::new(vec![
        PreTokenizerWrapper::WhitespaceSplit(WhitespaceSplit),
        PreTokenizerWrapper::Metaspace(metaspace.clone()),
    ]);
    tokenizer
        .with_normalizer(Some(NFKC))
        .map_err(TokenizerError::library("set up Unigram"))?
        .with_pre_tokenizer(Some(words))
        .with_decoder(Some(metaspace));
    let special = special(&["<pad>", "</s>", "<unk>"], options);
    let least = special.len() + 1;
    let vocab_size = u32::try_from(options.vocab_size).map_err(|_| TokenizerError::Training {
        problem: format!("a vocabulary of {} does not fit 32-bit ids", options.vocab_size),
    })?;
    let trainer = UnigramTrainer::builder()
        .vocab_size(vocab_size)
        .show_progress(options.show_progress)
        .special_tokens(special)
        .unk_token(Some("<unk>".to_owned()))
        .build()
        .map_err(|e| TokenizerError::Training { problem: e.to_string() })?;
    Ok((tokenizer, trainer.into(), least))
}

/// T5 ends every text with `</s>`. BERT's template was set before training: its ids are known.
fn finish_special(tokenizer: &mut tokenizers::Tokenizer, kind: TokenizerKind) -> Result<(), TokenizerError> {
    if kind == TokenizerKind::Unigram {
        let template = TemplateProcessing::builder()
            .try_single("$A </s>")
            .map_err(|message| TokenizerError::Training { problem: message })?
            .special_tokens(vec![("</s>", 1)])
            .build()
            .map_err(|e| TokenizerError::Training { problem: e.to_string() })?;
        tokenizer.with_post_processor(Some(template));
    }
    Ok(())
}

/// BERT's normalizer, word splitter, `[CLS] text [SEP]` template and decoder.
pub(super) fn bert_pipeline(
    tokenizer: &mut tokenizers::Tokenizer,
    uncased: bool,
    cls: u32,
    sep: u32,
) -> Result<(), TokenizerError> {
    let template = TemplateProcessing::builder()
        .try_single("[CLS]:0 $A:0 [SEP]:0")
        .and_then(|builder| builder.try_pair("[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"))
        .map_err(|message| TokenizerError::Training { problem: message })?
        .special_tokens(vec![("[CLS]", cls), ("[SEP]", sep)])
        .build()
        .map_err(|e| TokenizerError::Training { problem: e.to_string() })?;
    tokenizer
        .with_normalizer(Some(BertNormalizer::new(true, true, None, uncased)))
        .map_err(TokenizerError::library("set up WordPiece"))?
        .with_pre_tokenizer(Some(BertPreTokenizer))
        .with_post_processor(Some(template))
        .with_decoder(Some(WordPieceDecoder::new("##".to_owned(), true)));
    Ok(())
}
