//! How the token stream becomes rows: as it is, framed for BERT, or a document a row.

use super::TokenStream;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// What a row of `block` ids holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `block` tokens of the stream.
    Plain,
    /// `[CLS]`, `block` - 2 tokens of the stream, `[SEP]`.
    Framed(Frame),
    /// `[CLS]`, a document or a piece of one, `[SEP]`, and padding. A document longer than `block` - 2 tokens is cut into
    /// pieces.
    Padded(Frame),
}

/// The tokens around a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub cls: u32,
    pub sep: u32,
    pub pad: u32,
    /// What the stream has before each document ([`Tokenizer::end_of_text`]).
    pub separator: u32,
}

impl Frame {
    /// # Errors
    /// [`Error::Run`] naming the token that the tokenizer lacks.
    pub fn of(tokenizer: &Tokenizer) -> Result<Self> {
        let find = |names: [&str; 2]| {
            names.iter().find_map(|name| tokenizer.token_to_id(name)).ok_or_else(|| {
                Error::Run(format!(
                    "the tokenizer ({}, {} tokens) has no {} token, which rows of objective.kind = \"mlm\" need",
                    tokenizer.kind(),
                    tokenizer.vocab_size(),
                    names[0]
                ))
            })
        };
        let sep = find(["[SEP]", "</s>"])?;
        let separator = tokenizer.end_of_text().unwrap_or(sep);
        Ok(Frame { cls: find(["[CLS]", "<s>"])?, sep, pad: find(["[PAD]", "<pad>"])?, separator })
    }
}

/// A piece of the stream that has a row of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub start: u64,
    pub len: usize,
}

/// The stream's documents in pieces of at most `most` tokens, at most `limit` of them. Empty documents have none.
pub(super) fn pieces(stream: &TokenStream, separator: u32, most: usize, limit: usize) -> Vec<Piece> {
    const READ: usize = 1 << 16;
    let mut pieces = Vec::new();
    let mut piece = Piece { start: 0, len: 0 };
    let mut buffer = vec![0; READ];
    for first in (0..stream.len()).step_by(READ) {
        let buffer = &mut buffer[..READ.min((stream.len() - first) as usize)];
        stream.fill(first, buffer);
        for (place, &id) in (first..).zip(buffer.iter()) {
            let separates = id as u32 == separator;
            if separates || piece.len == most {
                pieces.extend((piece.len > 0).then_some(piece));
                piece = Piece { start: place + u64::from(separates), len: 0 };
            }
            piece.len += usize::from(!separates);
            if pieces.len() == limit {
                return pieces;
            }
        }
    }
    pieces.extend((piece.len > 0).then_some(piece));
    pieces
}
