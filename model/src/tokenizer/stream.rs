//! Decoding ids one by one, for text that is shown while it is generated.

use super::{Tokenizer, TokenizerError};

/// Turns a stream of ids into pieces of text that join to the decoded whole; never splits a character.
///
/// A byte-level token may hold part of a character: its text is held back until the character is complete. A
/// decoder may also look at its neighbours (a leading space is dropped from a text's first word), so each id is
/// decoded together with the ids of the piece before it.
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The ids of the last piece given out, then those held back.
    window: Vec<u32>,
    /// How many of `window` were given out.
    given: usize,
    /// The text of `window[..given]`.
    given_text: String,
}

impl<'a> DecodeStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, window: Vec::new(), given: 0, given_text: String::new() }
    }

    /// Takes the next id; returns the text that became certain, empty while a character is incomplete.
    ///
    /// # Errors
    /// `UnknownId` for an id outside the vocabulary; the stream stays as it was.
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        self.tokenizer.decode(&[id])?;
        self.window.push(id);
        let text = self.tokenizer.decode(&self.window)?;
        // U+FFFD at the end may be the start of a character whose other bytes come with the next id.
        if text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        let new = self.after_given(&text);
        self.window.drain(..self.given);
        self.given = self.window.len();
        self.given_text = self.tokenizer.decode(&self.window)?;
        Ok(new)
    }

    /// Ends the stream: the text held back, with U+FFFD for what never became a character.
    ///
    /// # Errors
    /// None that [`DecodeStream::push`] has not reported before.
    pub fn finish(self) -> Result<String, TokenizerError> {
        let text = self.tokenizer.decode(&self.window)?;
        Ok(self.after_given(&text))
    }

    fn after_given(&self, text: &str) -> String {
        text.strip_prefix(self.given_text.as_str()).unwrap_or(text).to_owned()
    }
}
