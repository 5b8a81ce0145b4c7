//! Sources: what a user names in `data.train` and `data.valid`, and the documents in it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{DataError, corpus};

/// Which part of a corpus that comes with its own split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// To train on.
    Train,
    /// Held out for validation.
    Valid,
}

/// One text that stands for itself: a file, a JSON line, a novel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// For messages: a path, a path with a line number, a title.
    pub name: String,
    pub text: String,
}

/// One entry of `data.train` or `data.valid`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The embedded novels.
    Austen(Split),
    /// A UTF-8 file: one document.
    Text(PathBuf),
    /// A file of JSON objects, one a line, each with a `text`: a document a line.
    JsonLines(PathBuf),
    /// Tokens in llm.c's `.bin` format, documents already joined.
    Shard(PathBuf),
}

impl Source {
    /// Reads a source's name. `embedded:austen` is the training part in `data.train` and the held-out part in
    /// `data.valid` (`role`); `embedded:austen/train` and `embedded:austen/valid` say it themselves. Files are told
    /// apart by their ending: `.jsonl` or `.ndjson`, `.bin`, and text for every other.
    ///
    /// # Errors
    /// `UnknownCorpus`, `Directory`, `NotAFile`.
    pub fn parse(name: &str, role: Split) -> Result<Self, DataError> {
        if let Some(corpus) = name.strip_prefix("embedded:") {
            return match corpus {
                "austen" => Ok(Self::Austen(role)),
                "austen/train" => Ok(Self::Austen(Split::Train)),
                "austen/valid" => Ok(Self::Austen(Split::Valid)),
                _ => Err(DataError::UnknownCorpus { name: name.to_owned() }),
            };
        }
        let path = PathBuf::from(name);
        if path.is_dir() {
            return Err(DataError::Directory { path });
        }
        if path.exists() && !path.is_file() {
            return Err(DataError::NotAFile { path });
        }
        let ending = path.extension().and_then(|ext| ext.to_str()).unwrap_or("").to_ascii_lowercase();
        Ok(match ending.as_str() {
            "jsonl" | "ndjson" => Self::JsonLines(path),
            "bin" => Self::Shard(path),
            _ => Self::Text(path),
        })
    }

    /// Whether its tokens are in the file already.
    pub fn is_shard(&self) -> bool {
        matches!(self, Self::Shard(_))
    }

    /// The path, where the source is a file.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Austen(_) => None,
            Self::Text(path) | Self::JsonLines(path) | Self::Shard(path) => Some(path),
        }
    }

    /// Size in bytes, for a progress bar.
    pub(super) fn bytes(&self) -> Result<u64, DataError> {
        match self.path() {
            None => Ok(self.austen().iter().map(|d| d.text.len() as u64).sum()),
            Some(path) => Ok(std::fs::metadata(path).map_err(read_error(path))?.len()),
        }
    }

    /// A hash of the kind of source and its content: what the tokens depend on beside the tokenizer. A file's name
    /// and time do not count, so a copied or touched file is not tokenised again and a changed one always is.
    pub(super) fn content_hash(&self) -> Result<blake3::Hash, DataError> {
        let mut hasher = blake3::Hasher::new();
        match self {
            Self::Austen(_) => {
                hasher.update(b"documents\0");
                for document in self.austen() {
                    hasher.update(&(document.text.len() as u64).to_le_bytes());
                    hasher.update(document.text.as_bytes());
                }
            }
            Self::Text(path) => {
                hasher.update(b"text\0");
                hasher
                    .update_reader(File::open(path).map_err(read_error(path))?)
                    .map_err(read_error(path))?;
            }
            Self::JsonLines(path) => {
                hasher.update(b"jsonl\0");
                hasher
                    .update_reader(File::open(path).map_err(read_error(path))?)
                    .map_err(read_error(path))?;
            }
            Self::Shard(path) => {
                hasher.update(b"shard\0");
                hasher
                    .update_reader(File::open(path).map_err(read_error(path))?)
                    .map_err(read_error(path))?;
            }
        }
        Ok(hasher.finalize())
    }

    /// Calls `each` with the documents in order, some at a time, and the bytes of the source they took. A shard has
    /// none: its documents are joined already.
    ///
    /// # Errors
    /// `Read`, `EmptyFile`, `NotUtf8`, `JsonLine`, and those of `each`.
    pub fn for_documents(
        &self,
        mut each: impl FnMut(&[Document], u64) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        match self {
            Self::Austen(_) => self.austen().chunks(1).try_for_each(|d| each(d, d[0].text.len() as u64)),
            Self::Text(path) => {
                let bytes = std::fs::read(path).map_err(read_error(path))?;
                if bytes.is_empty() {
                    return Err(DataError::EmptyFile { path: path.clone() });
                }
                let size = bytes.len() as u64;
                let text = into_utf8(path, bytes, 0)?;
                each(&[Document { name: path.display().to_string(), text }], size)
            }
            Self::JsonLines(path) => json_lines(path, each),
            Self::Shard(_) => Ok(()),
        }
    }

    fn austen(&self) -> &'static [Document] {
        match self {
            Self::Austen(split) => corpus::austen(*split),
            _ => &[],
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Austen(Split::Train) => write!(f, "embedded:austen/train"),
            Self::Austen(Split::Valid) => write!(f, "embedded:austen/valid"),
            Self::Text(path) | Self::JsonLines(path) | Self::Shard(path) => write!(f, "{}", path.display()),
        }
    }
}

pub(super) fn read_error(path: &Path) -> impl Fn(std::io::Error) -> DataError {
    move |source| DataError::Read { path: path.to_owned(), source }
}

/// `start` is the offset of `bytes` in the file, for the message. A byte order mark at the start of a file is no text.
fn into_utf8(path: &Path, bytes: Vec<u8>, start: u64) -> Result<String, DataError> {
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        DataError::NotUtf8 { path: path.to_owned(), offset: start + at as u64, byte: error.as_bytes()[at] }
    })?;
    match text.strip_prefix('\u{feff}') {
        Some(rest) if start == 0 => Ok(rest.to_owned()),
        _ => Ok(text),
    }
}

/// Bytes of JSON lines handed out together, so that many cores have work and memory stays bounded.
const BATCH_BYTES: u64 = 8 << 20;

fn json_lines(
    path: &Path,
    mut each: impl FnMut(&[Document], u64) -> Result<(), DataError>,
) -> Result<(), DataError> {
    #[derive(Deserialize)]
    struct Line {
        text: String,
    }
    let mut reader = BufReader::with_capacity(1 << 20, File::open(path).map_err(read_error(path))?);
    let (mut offset, mut number, mut documents, mut taken) = (0, 0, Vec::new(), 0);
    let mut any = false;
    loop {
        let mut bytes = Vec::new();
        let size = reader.read_until(b'\n', &mut bytes).map_err(read_error(path))? as u64;
        if size > 0 {
            number += 1;
            let line = into_utf8(path, bytes, offset)?;
            offset += size;
            taken += size;
            if !line.trim().is_empty() {
                let Line { text } = serde_json::from_str(&line).map_err(|e| DataError::JsonLine {
                    path: path.to_owned(),
                    line: number,
                    problem: e.to_string().replace(" at line 1 column", " at column"),
                })?;
                documents.push(Document { name: format!("{} line {number}", path.display()), text });
                any = true;
            }
        }
        if !documents.is_empty() && (size == 0 || taken >= BATCH_BYTES) {
            each(&documents, taken)?;
            documents.clear();
            taken = 0;
        }
        if size == 0 {
            return if any { Ok(()) } else { Err(DataError::EmptyFile { path: path.to_owned() }) };
        }
    }
}
