//! Instructions: guard, form, operands (PTX ISA section 6).

use super::Parser;
use crate::error::{Error, Result};
use crate::ptx::ast::*;
use crate::ptx::lexer::Token;
use crate::ptx::table;

impl Parser<'_> {
    pub(super) fn instruction(&mut self) -> Result<Statement> {
        let line = self.line();
        let guard = if self.eat('@') {
            let negated = self.eat('!');
            Some((self.word("a predicate")?, negated))
        } else {
            None
        };
        let line = if guard.is_some() { self.line() } else { line };
        let Some(Token::Word(root)) = self.peek() else { return self.expected("an instruction") };
        self.at += 1;
        let mut written = vec![root];
        while let Some(word) = self.dot() {
            written.push(word);
            self.at += 1;
        }
        let form = match self.forms.get(&written) {
            Some(form) => form.clone(),
            None => {
                let form =
                    table::decode(root, &written[1..]).map_err(|message| Error::Parse { line, message })?;
                self.forms.insert(written, form.clone());
                form
            }
        };
        let mut operands = Vec::new();
        while !self.eat(';') {
            operands.push(self.operand()?);
            if !self.eat(',') && !self.is(';') {
                return self.expected("`,` or `;`");
            }
        }
        let used_bytes = self.used_bytes.take().unwrap_or(u16::MAX);
        let bar_root = root == "bar";
        Ok(Statement::Instruction(Instruction { line, guard, form, bar_root, operands, used_bytes }))
    }

    pub(super) fn list(&mut self, close: char) -> Result<Vec<Operand>> {
        self.deeper()?;
        let mut out = Vec::new();
        while !self.eat(close) {
            out.push(self.operand()?);
            if !self.eat(',') && !self.is(close) {
                return self.expected(&format!("`,` or `{close}`"));
            }
        }
        self.nesting -= 1;
        Ok(out)
    }

    pub(super) fn operand(&mut self) -> Result<Operand> {
        let first = match self.next()? {
            Token::Punct('{') => Operand::Vector(self.list('}')?),
            Token::Punct('(') => Operand::List(self.list(')')?),
            Token::Punct('[') => self.address()?,
            Token::Punct('!') => Operand::Not(self.word("a predicate")?),
            Token::Punct('-') => match self.next()? {
                Token::Int(v) => Operand::Int((v as i64).wrapping_neg()),
                Token::F64(bits) => Operand::F64((-f64::from_bits(bits)).to_bits()),
                Token::Word(_) => {
                    self.at -= 1;
                    Operand::Negated(Box::new(self.operand()?))
                }
                token => return self.error(format!("expected a number after `-`, found {token}")),
            },
            Token::Punct('~') => Operand::Int(!self.integer("a number after `~`")?),
            Token::Int(v) => Operand::Int(v as i64),
            Token::F32(bits) => Operand::F32(bits),
            Token::F64(bits) => Operand::F64(bits),
            Token::Word("_") => Operand::Sink,
            Token::Word(name) if self.compounds.contains_key(name) => self.compound_operand(name)?,
            Token::Word(name) => match self.dot() {
                Some(component) => {
                    self.at += 1;
                    Operand::Name(name.to_string(), Some(component.to_string()))
                }
                None if self.is('+') || self.is('-') => {
                    let offset = self.offset()?;
                    Operand::NameOffset(name.to_string(), offset)
                }
                // `a[2]` is the address of an element.
                None if self.eat('[') => {
                    let index = self.integer("the index of an element")?;
                    self.expect(']')?;
                    let Some(&bytes) = self.elements.get(name) else {
                        return self.error(format!("`{name}[{index}]`: `{name}` is not a variable"));
                    };
                    match index.checked_mul(bytes as i64) {
                        Some(offset) => Operand::NameOffset(name.to_string(), offset),
                        None => return self.error(format!("`{name}[{index}]` is out of range")),
                    }
                }
                None => Operand::Name(name.to_string(), None),
            },
            token => {
                self.at -= 1;
                return self.error(format!("expected an operand, found {token}"));
            }
        };
        if self.eat('|') {
            let second = self.operand()?;
            return Ok(Operand::Pair(Box::new(first), Box::new(second)));
        }
        Ok(first)
    }

    /// A vector register, whole or one component of it (`.x` or `.r`, ...), or a 128-bit register.
    pub(super) fn compound_operand(&mut self, name: &str) -> Result<Operand> {
        let parts = self.compounds.get(name).cloned().unwrap_or_default();
        let Some(component) = self.dot() else {
            return Ok(Operand::Vector(parts.into_iter().map(|p| Operand::Name(p, None)).collect()));
        };
        let index = "xyzw".find(component).or("rgba".find(component)).filter(|_| component.len() == 1);
        match index.and_then(|i| parts.get(i)) {
            Some(part) => {
                self.at += 1;
                Ok(Operand::Name(part.clone(), None))
            }
            None => self.error(format!("register `{name}` has no component `.{component}`")),
        }
    }

    pub(super) fn address(&mut self) -> Result<Operand> {
        let base = match self.peek() {
            Some(Token::Word(word)) => {
                self.at += 1;
                Some(word.to_string())
            }
            _ => None,
        };
        let offset = if base.is_none() { self.integer("an address")? } else { self.offset()? };
        if let Some(name) = base.as_ref().filter(|_| self.is(',')) {
            let base = name.clone();
            self.expect(',')?;
            self.expect('{')?;
            let coordinates = self.list('}')?;
            self.expect(']')?;
            return Ok(Operand::Tensor { base, offset, coordinates });
        }
        self.expect(']')?;
        Ok(Operand::Address { base, offset })
    }
}
