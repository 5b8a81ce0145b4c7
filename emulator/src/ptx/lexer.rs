//! The PTX lexer: text to tokens with line numbers (PTX ISA section 4, "Syntax").
//!
//! It knows nothing of instructions. A dotted word (`.global`, `.shared::cta`, `.L2::128B`) is one token, so
//! `add.rn.f32` is the tokens `add` `.rn` `.f32`. Comments and preprocessor lines (`#line`) are skipped.

use crate::error::{Error, Result};

/// One lexical element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Token<'a> {
    /// An identifier, with its leading `%`, `$` or `_` where it has one.
    Word(&'a str),
    /// A dotted word, without the dot.
    Dot(&'a str),
    /// An integer literal; negative numbers are a `Punct('-')` and this.
    Int(u64),
    /// A literal `0f3f800000`: the bits of an f32.
    F32(u32),
    /// A literal `0d...` or a decimal such as `1.5`: the bits of an f64.
    F64(u64),
    Text(&'a str),
    Punct(char),
}

impl std::fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Token::Word(w) => write!(f, "`{w}`"),
            Token::Dot(w) => write!(f, "`.{w}`"),
            Token::Int(i) => write!(f, "`{i}`"),
            Token::F32(b) => write!(f, "`0f{b:08X}`"),
            Token::F64(b) => write!(f, "`0d{b:016X}`"),
            Token::Text(_) => write!(f, "a string"),
            Token::Punct(c) => write!(f, "`{c}`"),
        }
    }
}

/// Splits `text` into tokens, each with its line number (from 1).
///
/// # Errors
/// `Error::Parse` for an unterminated comment or string, a malformed number, or a character PTX does not use.
pub fn lex(text: &str) -> Result<Vec<(Token<'_>, u32)>> {
    let mut lexer =
        Lexer { bytes: text.as_bytes(), text, at: 0, line: 1, out: Vec::with_capacity(text.len() / 4) };
    lexer.run()?;
    Ok(lexer.out)
}

struct Lexer<'a> {
    bytes: &'a [u8],
    text: &'a str,
    at: usize,
    line: u32,
    out: Vec<(Token<'a>, u32)>,
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'$'
}

impl<'a> Lexer<'a> {
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn error<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Error::Parse { line: self.line, message: message.into() })
    }

    fn run(&mut self) -> Result<()> {
        while self.at < self.bytes.len() {
            let b = self.bytes[self.at];
            match b {
                b'\n' => {
                    self.line += 1;
                    self.at += 1;
                }
                b' ' | b'\t' | b'\r' | 0x0b | 0x0c => self.at += 1,
                b'/' if self.peek(1) == b'/' => self.skip_line(),
                b'#' => self.skip_line(),
                b'/' if self.peek(1) == b'*' => self.skip_comment()?,
                b'"' => self.string()?,
                b'0'..=b'9' => self.number()?,
                b'.' if is_word(self.peek(1)) => {
                    let start = self.at + 1;
                    self.at += 1;
                    self.word_bytes();
                    while self.peek(0) == b':' && self.peek(1) == b':' && is_word(self.peek(2)) {
                        self.at += 2;
                        self.word_bytes();
                    }
                    self.push(Token::Dot(&self.text[start..self.at]));
                }
                b'%' if is_word(self.peek(1)) => {
                    let start = self.at;
                    self.at += 1;
                    self.word_bytes();
                    self.push(Token::Word(&self.text[start..self.at]));
                }
                _ if is_word(b) => {
                    let start = self.at;
                    self.word_bytes();
                    self.push(Token::Word(&self.text[start..self.at]));
                }
                b'{' | b'}' | b'(' | b')' | b'[' | b']' | b',' | b';' | b':' | b'=' | b'+' | b'-' | b'@'
                | b'!' | b'|' | b'<' | b'>' | b'~' | b'*' | b'/' | b'&' | b'^' | b'?' | b'%' => {
                    self.push(Token::Punct(b as char));
                    self.at += 1;
                }
                0 if self.bytes[self.at..].iter().all(|&b| b == 0) => break, // a C string handed over whole
                _ => {
                    let c = self.text[self.at..].chars().next().unwrap_or('?');
                    return self.error(format!("unexpected character `{}`", c.escape_default()));
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, token: Token<'a>) {
        self.out.push((token, self.line));
    }

    fn word_bytes(&mut self) {
        while is_word(self.peek(0)) {
            self.at += 1;
        }
    }

    fn skip_line(&mut self) {
        while self.at < self.bytes.len() && self.bytes[self.at] != b'\n' {
            self.at += 1;
        }
    }

    fn skip_comment(&mut self) -> Result<()> {
        let opened = self.line;
        self.at += 2;
        while self.at < self.bytes.len() {
            match self.bytes[self.at] {
                b'*' if self.peek(1) == b'/' => {
                    self.at += 2;
                    return Ok(());
                }
                b'\n' => self.line += 1,
                _ => {}
            }
            self.at += 1;
        }
        Err(Error::Parse { line: opened, message: "comment `/*` is never closed".into() })
    }

    fn string(&mut self) -> Result<()> {
        let start = self.at + 1;
        self.at += 1;
        while self.at < self.bytes.len() && self.bytes[self.at] != b'"' {
            if self.bytes[self.at] == b'\n' {
                return self.error("string is not closed on its line");
            }
            self.at += if self.bytes[self.at] == b'\\' { 2 } else { 1 };
        }
        if self.at >= self.bytes.len() {
            return self.error("string is never closed");
        }
        let text = self.text.get(start..self.at).unwrap_or_default();
        self.at += 1;
        self.push(Token::Text(text));
        Ok(())
    }

    fn number(&mut self) -> Result<()> {
        let start = self.at;
        self.word_bytes();
        let mut word = &self.text[start..self.at];
        // The commonest numbers: small decimal integers.
        let plain = word.len() <= 9 && (word.len() == 1 || !word.starts_with('0'));
        if plain && self.peek(0) != b'.' && word.bytes().all(|b| b.is_ascii_digit()) {
            let v = word.bytes().fold(0, |v, b| 10 * v + (b - b'0') as u64);
            self.push(Token::Int(v));
            return Ok(());
        }
        let lower = word.to_ascii_lowercase();
        if let Some(hex) = lower.strip_prefix("0f").filter(|h| h.len() == 8)
            && let Ok(bits) = u32::from_str_radix(hex, 16)
        {
            self.push(Token::F32(bits));
            return Ok(());
        }
        if let Some(hex) = lower.strip_prefix("0d").filter(|h| h.len() == 16)
            && let Ok(bits) = u64::from_str_radix(hex, 16)
        {
            self.push(Token::F64(bits));
            return Ok(());
        }
        let decimal = lower.bytes().all(|b| b.is_ascii_digit());
        let exponent = |s: &str| s.ends_with('e') && !s.starts_with("0x");
        if (decimal && self.peek(0) == b'.' && !self.peek(1).is_ascii_alphabetic())
            || (exponent(&lower) && matches!(self.peek(0), b'+' | b'-'))
        {
            if self.peek(0) == b'.' {
                self.at += 1;
                self.word_bytes();
            }
            if exponent(&self.text[start..self.at].to_ascii_lowercase())
                && matches!(self.peek(0), b'+' | b'-')
            {
                self.at += 1;
                self.word_bytes();
            }
            word = &self.text[start..self.at];
            return match word.parse::<f64>() {
                Ok(v) => {
                    self.push(Token::F64(v.to_bits()));
                    Ok(())
                }
                Err(_) => self.error(format!("malformed number `{word}`")),
            };
        }
        let digits = lower.strip_suffix('u').unwrap_or(&lower);
        let (digits, radix) = if let Some(hex) = digits.strip_prefix("0x") {
            (hex, 16)
        } else if let Some(binary) = digits.strip_prefix("0b") {
            (binary, 2)
        } else if digits.len() > 1 && digits.starts_with('0') {
            (&digits[1..], 8)
        } else {
            (digits, 10)
        };
        match u64::from_str_radix(digits, radix) {
            Ok(v) => {
                self.push(Token::Int(v));
                Ok(())
            }
            Err(_) => self.error(format!("malformed number `{word}`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<Token<'_>> {
        lex(text).unwrap().into_iter().map(|(t, _)| t).collect()
    }

    #[test]
    fn splits_an_instruction() {
        assert_eq!(
            words("@%p1 ld.shared::cta.f32 %f1, [%r2+-4];"),
            vec![
                Token::Punct('@'),
                Token::Word("%p1"),
                Token::Word("ld"),
                Token::Dot("shared::cta"),
                Token::Dot("f32"),
                Token::Word("%f1"),
                Token::Punct(','),
                Token::Punct('['),
                Token::Word("%r2"),
                Token::Punct('+'),
                Token::Punct('-'),
                Token::Int(4),
                Token::Punct(']'),
                Token::Punct(';'),
            ]
        );
    }

    #[test]
    fn reads_every_kind_of_number() {
        assert_eq!(
            words("0x1F 017 0b101 42U 0f3F800000 0d3FF0000000000000 1.5 2e-3"),
            vec![
                Token::Int(31),
                Token::Int(15),
                Token::Int(5),
                Token::Int(42),
                Token::F32(0x3f80_0000),
                Token::F64(1.0f64.to_bits()),
                Token::F64(1.5f64.to_bits()),
                Token::F64(2e-3f64.to_bits()),
            ]
        );
    }

    #[test]
    fn counts_lines_through_comments() {
        let tokens = lex("a // x\n/* y\n z */ b").unwrap();
        assert_eq!(tokens[1], (Token::Word("b"), 3));
    }

    #[test]
    fn names_the_line_of_a_bad_character() {
        let message = lex("ok\n  `").unwrap_err().to_string();
        assert!(message.contains("line 2") && message.contains("unexpected character"), "{message}");
    }
}
