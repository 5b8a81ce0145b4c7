//! Cutting a long text so that its pieces, encoded on their own, give the ids of the whole.
//!
//! A cut is made only where a character that is not white space meets white space, and the cut falls before the
//! white space. That is a boundary of the words a tokenizer sees, whatever stands around it, when
//! - its pre-tokenizer's first act is to split at white space. GPT-2's pattern
//!   `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+` takes white space only at the start
//!   of a word, and its one look-ahead belongs to runs of white space, which are not cut;
//! - no added token contains white space or takes the white space around it;
//! - its normalizer works on single characters or words, and adds nothing at the start of a text.

use serde_json::Value;

/// Size of the pieces of a text of `text_bytes`: some for each core, none so short that its words rarely repeat.
pub(super) fn piece_bytes(text_bytes: usize) -> usize {
    (text_bytes / (4 * rayon::current_num_threads())).clamp(64 << 10, 1 << 20)
}

/// Whether `tokenizer` (its `tokenizer.json`) is one for which cutting before white space is known to be safe.
pub(super) fn splits_at_space(tokenizer: &Value) -> bool {
    let pre_tokenizer = match &tokenizer["pre_tokenizer"] {
        sequence if sequence["type"] == "Sequence" => &sequence["pretokenizers"][0],
        single => single,
    };
    let pre_tokenizer_splits = match pre_tokenizer["type"].as_str() {
        Some("ByteLevel") => pre_tokenizer["use_regex"] == true && pre_tokenizer["add_prefix_space"] == false,
        Some("BertPreTokenizer" | "WhitespaceSplit" | "Whitespace") => true,
        _ => false,
    };
    let normalizer = &tokenizer["normalizer"];
    let normalizer_is_local = match normalizer["type"].as_str() {
        None => normalizer.is_null(),
        Some("BertNormalizer" | "Lowercase" | "Precompiled") => true,
        Some(_) => false,
    };
    let added_tokens_are_words = tokenizer["added_tokens"].as_array().is_none_or(|tokens| {
        tokens.iter().all(|token| {
            token["lstrip"] != true
                && token["rstrip"] != true
                && token["content"].as_str().is_some_and(|content| !content.contains(char::is_whitespace))
        })
    });
    let random = tokenizer["model"]["dropout"].as_f64().is_some_and(|dropout| dropout > 0.0);
    pre_tokenizer_splits && normalizer_is_local && added_tokens_are_words && !random
}

/// Cuts `text` into pieces of at least `min_bytes` (the last may be shorter), each cut before white space that
/// follows an ASCII character that is none. A text without such a place stays whole.
pub(super) fn pieces(text: &str, min_bytes: usize) -> Vec<&str> {
    let bytes = text.as_bytes();
    let mut pieces = Vec::with_capacity(text.len() / min_bytes.max(1) + 1);
    let mut start = 0;
    while start < bytes.len() {
        let search = (start + min_bytes.max(1)).min(bytes.len());
        let cut = (search..bytes.len())
            .find(|&at| matches!(bytes[at], b' ' | b'\n') && bytes[at - 1].is_ascii_graphic())
            .unwrap_or(bytes.len());
        pieces.push(&text[start..cut]);
        start = cut;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_join_to_the_text_and_cut_before_white_space_only() {
        let text = "ab  cd\n\nef 中文 gh\u{a0} ij";
        for min_bytes in 1..text.len() + 2 {
            let cut = pieces(text, min_bytes);
            assert_eq!(cut.concat(), text);
            for (left, right) in cut.iter().zip(&cut[1..]) {
                assert!(left.ends_with(|c: char| c.is_ascii_graphic()), "{left:?} | {right:?}");
                assert!(right.starts_with([' ', '\n']), "{left:?} | {right:?}");
            }
        }
        // Of "中文 gh" and "\u{a0} ij" no cut is made: what stands before is not ASCII.
        assert_eq!(pieces(text, 1), ["ab", "  cd", "\n\nef", " 中文 gh\u{a0} ij"]);
        assert_eq!(pieces("", 8), Vec::<&str>::new());
        assert_eq!(pieces("   ", 1), ["   "]);
    }

    #[test]
    fn pieces_of_any_size_have_the_ids_of_the_whole() {
        let text = "It  was,\n\n \n\"he'll\" said; 12 \t 3.5   \u{a0}x \u{3000} 中文 end.  \n\r\n  'tis <|endoftext|> so ";
        for name in super::super::EMBEDDED {
            let tokenizer = super::super::Tokenizer::embedded(name).unwrap();
            // The library's own way, without the tokens that frame a text.
            let library = |text: &str| tokenizer.inner.encode_fast(text, false).unwrap().get_ids().to_vec();
            let whole = library(text);
            for min_bytes in 1..text.len() {
                let cut = pieces(text, min_bytes);
                let short = cut.iter().flat_map(|piece| tokenizer.encode_piece(piece).unwrap());
                assert!(short.eq(whole.iter().copied()), "{name}, short way: {cut:?}");
                let general = cut.iter().flat_map(|piece| library(piece));
                assert!(general.eq(whole.iter().copied()), "{name}, general way: {cut:?}");
            }
        }
    }
}
