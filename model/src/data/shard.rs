//! Token shards in llm.c's `.bin` format: 256 little-endian int32 (magic, version, token count, zeros), then the
//! tokens as little-endian uint16. docs/src/formats.md has the table.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::source::read_error;
use super::{DataError, write_atomic};

/// First number of a shard.
pub const SHARD_MAGIC: u32 = 20_240_520;
/// Second number of a shard.
pub const SHARD_VERSION: u32 = 1;

const HEADER_BYTES: usize = 256 * 4;

/// A shard, memory-mapped.
pub struct Shard {
    map: Mmap,
}

impl Shard {
    /// Maps a shard and checks its header, its length and that every id is below `vocab_size`.
    ///
    /// # Errors
    /// `Read`; `Shard` with what is wrong; `IdBeyondVocabulary` with the position of the first such id.
    pub fn open(path: &Path, vocab_size: usize) -> Result<Self, DataError> {
        let file = File::open(path).map_err(read_error(path))?;
        let bytes = file.metadata().map_err(read_error(path))?.len();
        let bad = |problem: String| DataError::Shard { path: path.to_owned(), problem };
        if bytes < HEADER_BYTES as u64 {
            return Err(bad(format!(
                "{bytes} bytes, too short for the {HEADER_BYTES}-byte header of an llm.c .bin shard"
            )));
        }
        // SAFETY: the mapping is only read. A shard is not written to while it trains a model: whoever truncates it
        // then gets a bus error, as with every reader that maps its data.
        let map = unsafe { Mmap::map(&file) }.map_err(read_error(path))?;
        let number = |index: usize| u32::from_le(bytemuck::cast_slice(&map[..HEADER_BYTES])[index]);
        let (magic, version, count) = (number(0), number(1), u64::from(number(2)));
        if magic != SHARD_MAGIC {
            return Err(bad(format!(
                "magic number {magic}, expected {SHARD_MAGIC}; not an llm.c .bin shard \
                 (name a text file .txt)"
            )));
        }
        if version != SHARD_VERSION {
            return Err(bad(format!("shard version {version}, expected {SHARD_VERSION} (uint16 tokens)")));
        }
        let expected = HEADER_BYTES as u64 + 2 * count;
        if bytes != expected {
            let what = if bytes < expected { "is cut short" } else { "has bytes after its last token" };
            return Err(bad(format!(
                "the shard {what}: {bytes} bytes, expected {expected} for the {count} tokens of its header"
            )));
        }
        let shard = Self { map };
        if let Some(position) =
            shard.tokens().iter().position(|&id| usize::from(u16::from_le(id)) >= vocab_size)
        {
            return Err(DataError::IdBeyondVocabulary {
                path: path.to_owned(),
                position: position as u64,
                id: u32::from(u16::from_le(shard.tokens()[position])),
                vocab_size,
            });
        }
        Ok(shard)
    }

    /// The tokens as they are in the file: little-endian, whatever the machine.
    pub(super) fn tokens(&self) -> &[u16] {
        bytemuck::cast_slice(&self.map[HEADER_BYTES..])
    }
}

/// Writes tokens as shards `<prefix>_000000.bin`, `<prefix>_000001.bin`, ... of at most `shard_tokens` tokens and
/// returns their paths. `tokens(start, out)` fills `out` with the tokens from `start` on.
///
/// # Errors
/// `Shard` for an id above 65,535, `Write`.
pub fn write_shards(
    prefix: &Path,
    total: u64,
    shard_tokens: u32,
    tokens: impl Fn(u64, &mut [i32]),
) -> Result<Vec<PathBuf>, DataError> {
    let mut paths = Vec::new();
    let mut start = 0;
    while start < total {
        let count = u64::from(shard_tokens.max(1)).min(total - start);
        let mut name = prefix.as_os_str().to_owned();
        name.push(format!("_{:06}.bin", paths.len()));
        let path = PathBuf::from(name);
        let mut ids = vec![0; count as usize];
        tokens(start, &mut ids);
        let ids: Vec<u16> =
            ids.iter().map(|&id| u16::try_from(id).map(u16::to_le)).collect::<Result<_, _>>().map_err(
                |_| DataError::Shard {
                    path: path.clone(),
                    problem: "the format has 16-bit tokens and the tokenizer has ids above 65,535".to_owned(),
                },
            )?;
        let mut header = [0u32; 256];
        header[..3].copy_from_slice(&[SHARD_MAGIC, SHARD_VERSION, count as u32].map(u32::to_le));
        write_atomic(&path, |file: &mut dyn Write| {
            file.write_all(bytemuck::cast_slice(&header))?;
            file.write_all(bytemuck::cast_slice(&ids))
        })
        .map_err(|source| DataError::Write { path: path.clone(), source })?;
        paths.push(path);
        start += count;
    }
    Ok(paths)
}
