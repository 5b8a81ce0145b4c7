//! The token cache: a file of ids that is memory-mapped, made once per content and tokenizer.
//!
//! Layout in docs/src/formats.md. A file is written under a temporary name, flushed to the disk and renamed, so a
//! reader sees a whole file or none, and two processes that build the same one do no harm: the last rename wins and both
//! files are equal. Opening checks everything, the payload's hash included.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use tempfile::NamedTempFile;

/// First bytes of a cache file.
const MAGIC: [u8; 8] = *b"HLTOKENS";
/// Changes whenever the layout or the way documents are joined does.
pub(super) const VERSION: u32 = 1;
/// magic 8, version 4, bytes per token 4, tokens 8, documents 8, key 32, payload hash 32, hash of the above 32.
const HEADER_BYTES: usize = 128;

/// A cache file that passed every check, memory-mapped.
pub(super) struct CacheFile {
    map: Mmap,
    pub(super) token_bytes: usize,
    pub(super) tokens: u64,
    pub(super) documents: u64,
}

impl CacheFile {
    /// Opens the cache file at `path`; `None` where there is none.
    ///
    /// # Errors
    /// A sentence about the damage.
    pub(super) fn open(path: &Path, key: &blake3::Hash) -> Result<Option<Self>, String> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| e.to_string())?,
        };
        let bytes = file.metadata().map_err(|e| e.to_string())?.len();
        if bytes < HEADER_BYTES as u64 {
            return Err(format!("{bytes} bytes, shorter than its header"));
        }
        // SAFETY: the mapping is only read, and cache files are replaced by renaming, never written in place.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| e.to_string())?;
        let (header, payload) = map.split_at(HEADER_BYTES);
        if header[..8] != MAGIC {
            return Err("it does not start as a token cache".to_owned());
        }
        if *blake3::hash(&header[..96]).as_bytes() != header[96..] {
            return Err("its header's checksum does not match".to_owned());
        }
        let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        let (version, token_bytes) = (number(8) as u32, (number(8) >> 32) as usize);
        if version != VERSION || header[32..64] != *key.as_bytes() {
            return Err("it belongs to other data or another version".to_owned());
        }
        let (tokens, documents) = (number(16), number(24));
        if !matches!(token_bytes, 2 | 4)
            || Some(payload.len() as u64) != tokens.checked_mul(token_bytes as u64)
        {
            return Err(format!("{bytes} bytes, not what its header's {tokens} tokens take"));
        }
        if *blake3::Hasher::new().update_rayon(payload).finalize().as_bytes() != header[64..96] {
            return Err("its tokens' checksum does not match".to_owned());
        }
        Ok(Some(Self { token_bytes, tokens, documents, map }))
    }

    /// The tokens, little-endian, `token_bytes` each.
    pub(super) fn payload(&self) -> &[u8] {
        &self.map[HEADER_BYTES..]
    }
}

/// Writes a cache file.
pub(super) struct CacheWriter {
    file: BufWriter<NamedTempFile>,
    path: PathBuf,
    key: blake3::Hash,
    hasher: blake3::Hasher,
    token_bytes: usize,
    tokens: u64,
    documents: u64,
}

impl CacheWriter {
    /// Begins a file that will be `path`, making its directory.
    pub(super) fn create(path: &Path, key: blake3::Hash, token_bytes: usize) -> io::Result<Self> {
        let dir = parent(path);
        std::fs::create_dir_all(dir)?;
        let mut file = BufWriter::with_capacity(1 << 20, temporary_in(dir)?);
        file.write_all(&[0; HEADER_BYTES])?;
        let hasher = blake3::Hasher::new();
        Ok(Self { file, path: path.to_owned(), key, hasher, token_bytes, tokens: 0, documents: 0 })
    }

    /// Appends one document's tokens.
    pub(super) fn push(&mut self, ids: &[u32]) -> io::Result<()> {
        let bytes: Vec<u8> = match self.token_bytes {
            2 => ids.iter().flat_map(|&id| (id as u16).to_le_bytes()).collect(),
            _ => ids.iter().flat_map(|&id| id.to_le_bytes()).collect(),
        };
        self.hasher.update(&bytes);
        self.tokens += ids.len() as u64;
        self.documents += 1;
        self.file.write_all(&bytes)
    }

    /// Completes the header, flushes to the disk and gives the file its name.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend((self.token_bytes as u32).to_le_bytes());
        header.extend(self.tokens.to_le_bytes());
        header.extend(self.documents.to_le_bytes());
        header.extend(self.key.as_bytes());
        header.extend(self.hasher.finalize().as_bytes());
        header.extend(blake3::hash(&header).as_bytes());
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&header)?;
        let file = self.file.into_inner().map_err(|e| e.into_error())?;
        persist(file, &self.path)
    }
}

/// Where tokens are cached unless `data.cache` says otherwise: `$HANDLOOM_CACHE`, else the platform's cache
/// directory (`$XDG_CACHE_HOME` or `~/.cache`, macOS `~/Library/Caches`, Windows `%LOCALAPPDATA%`) with `handloom`
/// in it. `None` where none of these is set.
pub fn default_cache_dir() -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let platform = || {
        if cfg!(windows) {
            var("LOCALAPPDATA")
        } else if cfg!(target_os = "macos") {
            var("HOME").map(|home| home.join("Library/Caches"))
        } else {
            var("XDG_CACHE_HOME").or_else(|| var("HOME").map(|home| home.join(".cache")))
        }
    };
    var("HANDLOOM_CACHE").or_else(|| platform().map(|dir| dir.join("handloom")))
}

/// Writes a file so that `path` holds either what it held before or all of what `write` wrote, also after a
/// crash: beside it, flushed to the disk, renamed.
///
/// # Errors
/// The first that the system reports; nothing is left behind then.
pub fn write_atomic(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut file = BufWriter::new(temporary_in(parent(path))?);
    write(&mut file)?;
    persist(file.into_inner().map_err(|e| e.into_error())?, path)
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| *dir != OsStr::new("")).unwrap_or(Path::new("."))
}

/// A file that is removed unless it is persisted, with the permissions of a file made the usual way.
fn temporary_in(dir: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".handloom-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(dir)
}

fn persist(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    // The rename itself is on the disk only when the directory is.
    #[cfg(unix)]
    File::open(parent(path))?.sync_all()?;
    Ok(())
}
