//! From sources to tokens, once: through the cache, or in memory where there is none.

use std::io;
use std::path::Path;

use rayon::prelude::*;

use super::cache::{self, CacheFile, CacheWriter};
use super::stream::Tokens;
use super::{DataError, Document, Progress, Source};
use crate::tokenizer::Tokenizer;

/// The tokens of `sources` (no shards among them), from the cache in `dir` where it holds them.
pub(super) fn tokens(
    sources: &[Source],
    tokenizer: &Tokenizer,
    dir: Option<&Path>,
    progress: &dyn Progress,
) -> Result<Tokens, DataError> {
    let hashes = sources.iter().map(Source::content_hash).collect::<Result<Vec<_>, _>>()?;
    let Some(dir) = dir else {
        progress.notice("no cache directory is known; the tokens are kept in memory (set data.cache)");
        return in_memory(sources, &hashes, tokenizer, progress);
    };
    let key = key(&hashes, tokenizer);
    let path = dir.join(format!("{}.tokens", &key.to_hex()[..32]));
    match CacheFile::open(&path, &key) {
        Ok(Some(file)) => return Ok(Tokens::Cached(file)),
        Ok(None) => {}
        Err(damage) => progress
            .notice(&format!("the token cache {} is damaged ({damage}); tokenising again", path.display())),
    }
    let not_cached = |error: &dyn std::fmt::Display| {
        progress.notice(&format!(
            "cannot use the token cache {} ({error}); the tokens are kept in memory (set data.cache)",
            path.display()
        ));
    };
    let token_bytes = if tokenizer.vocab_size() <= 1 << 16 { 2 } else { 4 };
    let mut writer = match CacheWriter::create(&path, key, token_bytes) {
        Ok(writer) => writer,
        Err(error) => {
            not_cached(&error);
            return in_memory(sources, &hashes, tokenizer, progress);
        }
    };
    // An error of the cache file (a full disk) is remembered while the tokens go on into nowhere, and the work is
    // done again in memory: it costs time only where the disk is full.
    let mut failure: Option<io::Error> = None;
    each_document(sources, &hashes, tokenizer, progress, |ids| {
        if failure.is_none() {
            failure = writer.push(&ids).err();
        }
    })?;
    let written = failure.map_or_else(|| writer.finish(), Err);
    let opened = written.map_err(|e| e.to_string()).and_then(|()| CacheFile::open(&path, &key));
    match opened {
        Ok(Some(file)) => Ok(Tokens::Cached(file)),
        Ok(None) => {
            not_cached(&"it was removed at once");
            in_memory(sources, &hashes, tokenizer, progress)
        }
        Err(error) => {
            not_cached(&error);
            in_memory(sources, &hashes, tokenizer, progress)
        }
    }
}

/// Everything the tokens depend on.
fn key(hashes: &[blake3::Hash], tokenizer: &Tokenizer) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"handloom tokens");
    hasher.update(&cache::VERSION.to_le_bytes());
    hasher.update(tokenizer.fingerprint().as_bytes());
    for hash in hashes {
        hasher.update(hash.as_bytes());
    }
    hasher.finalize()
}

fn in_memory(
    sources: &[Source],
    hashes: &[blake3::Hash],
    tokenizer: &Tokenizer,
    progress: &dyn Progress,
) -> Result<Tokens, DataError> {
    let (mut ids, mut documents) = (Vec::new(), 0);
    each_document(sources, hashes, tokenizer, progress, |document| {
        ids.extend(document);
        documents += 1;
    })?;
    Ok(Tokens::Memory { ids, documents })
}

/// Tokenises every document on all cores and calls `each` with its ids in order, the end-of-text token first (as
/// llm.c's shards have it, so that a model learns how a text begins and generation can start from that token).
fn each_document(
    sources: &[Source],
    hashes: &[blake3::Hash],
    tokenizer: &Tokenizer,
    progress: &dyn Progress,
    mut each: impl FnMut(Vec<u32>),
) -> Result<(), DataError> {
    let total = sources.iter().map(Source::bytes).sum::<Result<u64, _>>()?;
    progress.start("tokenising", total);
    let separator = tokenizer.end_of_text();
    if separator.is_none() {
        progress.notice("the tokenizer has no end-of-text token; documents are joined without one");
    }
    for (source, hash) in sources.iter().zip(hashes) {
        source.for_documents(|documents, taken| {
            let encode = |document: &Document| {
                let mut ids: Vec<u32> = separator.into_iter().collect();
                ids.extend(tokenizer.encode_document(&document.text, &|bytes| progress.advance(bytes))?);
                Ok(ids)
            };
            documents
                .par_iter()
                .map(encode)
                .collect::<Result<Vec<_>, DataError>>()?
                .into_iter()
                .for_each(&mut each);
            let text_bytes: u64 = documents.iter().map(|d| d.text.len() as u64).sum();
            progress.advance(taken.saturating_sub(text_bytes));
            Ok(())
        })?;
        if source.content_hash()? != *hash
            && let Some(path) = source.path()
        {
            return Err(DataError::Changed { path: path.to_owned() });
        }
    }
    progress.finish();
    Ok(())
}
