//! The embedded corpus: Jane Austen's six novels (data/README.md says where they come from and how they are split).

use std::sync::OnceLock;

use serde::Deserialize;

use super::{Document, Split};
use crate::tokenizer::unpack;

const AUSTEN: &[u8] = include_bytes!("../../../data/austen.jsonl.zst");

#[derive(Deserialize)]
struct Part {
    title: String,
    split: Split,
    text: String,
}

/// The novels' training or held-out parts, a document a novel.
pub(super) fn austen(split: Split) -> &'static [Document] {
    static PARTS: OnceLock<[Vec<Document>; 2]> = OnceLock::new();
    let [train, valid] = PARTS.get_or_init(|| {
        let mut parts = [Vec::new(), Vec::new()];
        for line in unpack(AUSTEN).lines() {
            let part: Part =
                serde_json::from_str(line).expect("bug in handloom-model: the embedded corpus parses");
            parts[part.split as usize].push(Document { name: part.title, text: part.text });
        }
        parts
    });
    match split {
        Split::Train => train,
        Split::Valid => valid,
    }
}
