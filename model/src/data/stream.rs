//! The token stream of a data set and its blocks.

use std::path::Path;

use super::cache::CacheFile;
use super::layout::{Layout, Piece, pieces};
use super::{DataError, Progress, Shard, Source, Split, tokenise};
use crate::tokenizer::Tokenizer;

/// Where a stretch of the stream lies.
pub(super) enum Tokens {
    Cached(CacheFile),
    Shard { shard: Shard, documents: u64 },
    Memory { ids: Vec<u32>, documents: u64 },
}

impl Tokens {
    fn len(&self) -> u64 {
        match self {
            Self::Cached(file) => file.tokens,
            Self::Shard { shard, .. } => shard.tokens().len() as u64,
            Self::Memory { ids, .. } => ids.len() as u64,
        }
    }

    fn documents(&self) -> u64 {
        match self {
            Self::Cached(file) => file.documents,
            Self::Shard { documents, .. } | Self::Memory { documents, .. } => *documents,
        }
    }

    /// Copies the tokens from `start` on into `out`.
    fn fill(&self, start: usize, out: &mut [i32]) {
        let range = start..start + out.len();
        match self {
            Self::Cached(file) if file.token_bytes == 2 => {
                copy(&bytemuck::cast_slice::<u8, u16>(file.payload())[range], out, |id| {
                    i32::from(u16::from_le(id))
                });
            }
            Self::Cached(file) => {
                copy(&bytemuck::cast_slice::<u8, u32>(file.payload())[range], out, |id| {
                    u32::from_le(id) as i32
                });
            }
            Self::Shard { shard, .. } => copy(&shard.tokens()[range], out, |id| i32::from(u16::from_le(id))),
            Self::Memory { ids, .. } => copy(&ids[range], out, |id| id as i32),
        }
    }
}

fn copy<T: Copy>(ids: &[T], out: &mut [i32], convert: impl Fn(T) -> i32) {
    for (to, &id) in out.iter_mut().zip(ids) {
        *to = convert(id);
    }
}

/// All tokens of a data set in order: each document's, an end-of-text token before each.
pub struct TokenStream {
    segments: Vec<Tokens>,
    /// Start of each segment in the stream.
    starts: Vec<u64>,
    len: u64,
}

impl TokenStream {
    /// Opens the sources of these names (see [`Source::parse`]): tokenises what is not cached yet, maps the rest.
    /// `cache` is the cache directory; without one, or where it cannot be written, tokens are kept in memory.
    ///
    /// # Errors
    /// Those of reading and tokenising ([`DataError`] names each), `NoSource` for an empty list.
    pub fn open(
        names: &[String],
        role: Split,
        tokenizer: &Tokenizer,
        cache: Option<&Path>,
        progress: &dyn Progress,
    ) -> Result<Self, DataError> {
        if names.is_empty() {
            return Err(DataError::NoSource);
        }
        let sources = names.iter().map(|name| Source::parse(name, role)).collect::<Result<Vec<_>, _>>()?;
        let mut segments = Vec::new();
        // Neighbours that have to be tokenised share a cache file; a shard is used where it lies.
        for group in sources.chunk_by(|a, b| !a.is_shard() && !b.is_shard()) {
            segments.push(match group {
                [Source::Shard(path)] => {
                    let shard = Shard::open(path, tokenizer.vocab_size())?;
                    let separator = tokenizer.end_of_text().and_then(|id| u16::try_from(id).ok());
                    let ends = |&&id: &&u16| Some(u16::from_le(id)) == separator;
                    let documents = shard.tokens().iter().filter(ends).count() as u64;
                    Tokens::Shard { shard, documents }
                }
                texts => tokenise::tokens(texts, tokenizer, cache, progress)?,
            });
        }
        let mut len = 0;
        let starts = segments
            .iter()
            .map(|segment| {
                let start = len;
                len += segment.len();
                start
            })
            .collect();
        Ok(Self { segments, starts, len })
    }

    /// Number of tokens.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of documents; of a shard, the end-of-text tokens in it.
    pub fn documents(&self) -> u64 {
        self.segments.iter().map(Tokens::documents).sum()
    }

    /// Copies the tokens from `start` on into `out`.
    ///
    /// # Panics
    /// When the stream ends before `out` does: a bug of the caller.
    pub fn fill(&self, start: u64, out: &mut [i32]) {
        let end = start + out.len() as u64;
        assert!(end <= self.len, "bug in handloom-model: tokens {start}..{end} of a stream of {}", self.len);
        let mut done = 0;
        let mut segment = self.starts.partition_point(|&s| s <= start).saturating_sub(1);
        while done < out.len() {
            let within = start + done as u64 - self.starts[segment];
            let take = (out.len() - done).min((self.segments[segment].len() - within) as usize);
            self.segments[segment].fill(within as usize, &mut out[done..done + take]);
            done += take;
            segment += 1;
        }
    }
}

/// A token stream cut into blocks of equal length.
pub struct Blocks {
    stream: TokenStream,
    block: usize,
    num_blocks: usize,
    layout: Layout,
    /// Of [`Layout::Padded`], what each block holds.
    pieces: Vec<Piece>,
}

impl Blocks {
    /// Cuts `stream` into blocks of `block` tokens, of which the first `max_blocks` count. What is left after the
    /// last whole block is not used ([`Blocks::unused_tokens`]).
    ///
    /// # Errors
    /// `ShorterThanBlock`, naming the data as `what`.
    pub fn new(
        stream: TokenStream,
        block: usize,
        max_blocks: Option<usize>,
        what: &str,
    ) -> Result<Self, DataError> {
        Self::with_layout(stream, block, max_blocks, what, Layout::Plain)
    }

    /// As [`Blocks::new`], laid out otherwise.
    ///
    /// # Errors
    /// `ShorterThanBlock`, and `OutOfRange` for a block that has no room within its frame.
    pub fn with_layout(
        stream: TokenStream,
        block: usize,
        max_blocks: Option<usize>,
        what: &str,
        layout: Layout,
    ) -> Result<Self, DataError> {
        let body = match layout {
            Layout::Plain => block.max(1),
            Layout::Framed(_) | Layout::Padded(_) => block.saturating_sub(2),
        };
        if body == 0 {
            let expected = "at least 3: [CLS], a token, [SEP]";
            return Err(DataError::OutOfRange { key: "block", value: block.to_string(), expected });
        }
        let most = max_blocks.unwrap_or(usize::MAX);
        let mut in_pieces = Vec::new();
        let num_blocks = if let Layout::Padded(frame) = layout {
            in_pieces = pieces(&stream, frame.separator, body, most);
            in_pieces.len()
        } else {
            usize::try_from(stream.len() / body as u64).unwrap_or(usize::MAX).min(most)
        };
        if num_blocks == 0 {
            return Err(DataError::ShorterThanBlock { what: what.to_owned(), tokens: stream.len(), block });
        }
        Ok(Self { stream, block, num_blocks, layout, pieces: in_pieces })
    }

    /// Number of blocks, at least 1.
    pub fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// Tokens in a block.
    pub fn block(&self) -> usize {
        self.block
    }

    /// Tokens of the stream that are in no block.
    pub fn unused_tokens(&self) -> u64 {
        let in_blocks = match self.layout {
            Layout::Plain => self.num_blocks as u64 * self.block as u64,
            Layout::Framed(_) => self.num_blocks as u64 * (self.block - 2) as u64,
            Layout::Padded(_) => self.pieces.iter().map(|piece| piece.len as u64).sum(),
        };
        self.stream.len() - in_blocks
    }

    /// The whole stream.
    pub fn stream(&self) -> &TokenStream {
        &self.stream
    }

    /// A hash of the rows' length and all their tokens, 64 hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(self.block as u64).to_le_bytes());
        // Many rows at a time: hashing is parallel from about 128 KiB on.
        let rows = (1usize << 18).div_ceil(self.block);
        let mut ids = vec![0; rows * self.block];
        for first in (0..self.num_blocks).step_by(rows) {
            let count = rows.min(self.num_blocks - first);
            let ids = &mut ids[..count * self.block];
            for (i, row) in ids.chunks_exact_mut(self.block).enumerate() {
                self.fill(first + i, row);
            }
            hasher.update_rayon(bytemuck::cast_slice(ids));
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Copies block `index` into `out` (`block` ids) and returns how many of them are no padding.
    ///
    /// # Panics
    /// When `index` is not below `num_blocks` or `out` is not `block` long: a bug of the caller.
    pub fn fill(&self, index: usize, out: &mut [i32]) -> usize {
        assert!(index < self.num_blocks, "bug in handloom-model: block {index} of {}", self.num_blocks);
        assert_eq!(out.len(), self.block, "bug in handloom-model: a block's buffer has another length");
        let (frame, piece) = match self.layout {
            Layout::Plain => {
                self.stream.fill(index as u64 * self.block as u64, out);
                return self.block;
            }
            Layout::Framed(frame) => {
                let len = self.block - 2;
                (frame, Piece { start: index as u64 * len as u64, len })
            }
            Layout::Padded(frame) => (frame, self.pieces[index]),
        };
        out[0] = frame.cls as i32;
        self.stream.fill(piece.start, &mut out[1..=piece.len]);
        out[piece.len + 1] = frame.sep as i32;
        out[piece.len + 2..].fill(frame.pad as i32);
        piece.len + 2
    }
}

/// "2412 blocks of 128 tokens from 6 documents; 66 of 308802 tokens are in no block"
impl std::fmt::Display for Blocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (unused, tokens, documents) = (self.unused_tokens(), self.stream.len(), self.stream.documents());
        let plural = if documents == 1 { "" } else { "s" };
        write!(f, "{} blocks of {} tokens from {documents} document{plural}; ", self.num_blocks, self.block)?;
        write!(f, "{unused} of {tokens} tokens are in no block")
    }
}
