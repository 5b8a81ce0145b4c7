//! Declarations of variables and of registers' types: spaces, types, array lengths, initial values (PTX ISA 5.4).

use super::Parser;
use crate::error::Result;
use crate::ptx::ast::*;
use crate::ptx::lexer::Token;

impl Parser<'_> {
    /// `.space .align 4 .v4 .b8 name[4][2] = {...}, name2;`
    pub(super) fn variables(&mut self, is_extern: bool) -> Result<Vec<Variable>> {
        let line = self.line();
        let space = match self.dot() {
            Some("global") => Space::Global,
            Some("const") => Space::Const,
            Some("shared") => Space::Shared,
            Some("local") => Space::Local,
            Some("param") => Space::Param,
            _ => return self.expected("a state space"),
        };
        self.at += 1;
        let (ty, align) = self.variable_type()?;
        let mut out = Vec::new();
        loop {
            out.push(self.declarator(space, ty, align, is_extern, line)?);
            if !self.eat(',') {
                break;
            }
        }
        self.expect(';')?;
        Ok(out)
    }

    /// Type and alignment, with vectors as an alignment and a count of elements.
    pub(super) fn variable_type(&mut self) -> Result<((Ty, u32), u32)> {
        let mut align = None;
        let mut lanes = 1;
        self.managed = false;
        loop {
            let Some(word) = self.dot() else { return self.expected("a type") };
            self.at += 1;
            match word {
                "align" => {
                    let a = self.small("an alignment")?;
                    if !a.is_power_of_two() || a > 1 << 16 {
                        return self.error(format!("alignment {a} is not a power of two"));
                    }
                    align = Some(a);
                }
                "attribute" => self.managed |= self.attribute()?,
                "v2" => lanes = 2,
                "v4" => lanes = 4,
                "ptr" | "global" | "const" | "shared" | "local" | "managed" => {}
                _ => {
                    let Some(ty) = Ty::from_word(word) else {
                        self.at -= 1;
                        return self.error(format!("unknown type `.{word}`"));
                    };
                    // `.param .u64 .ptr .global .align 16 name`
                    while let Some("ptr" | "global" | "const" | "shared" | "local" | "align") = self.dot() {
                        let is_align = self.dot() == Some("align");
                        self.at += 1;
                        if is_align {
                            self.small("an alignment")?;
                        }
                    }
                    let natural = ty.bytes().max(1) * lanes;
                    return Ok(((ty, lanes), align.unwrap_or(natural)));
                }
            }
        }
    }

    pub(super) fn declarator(
        &mut self,
        space: Space,
        ty: (Ty, u32),
        align: u32,
        is_extern: bool,
        line: u32,
    ) -> Result<Variable> {
        let name = self.word("a variable's name")?;
        self.elements.insert(name.clone(), ty.0.bytes() * ty.1);
        let mut count = ty.1 as u64;
        let mut unsized_array = false;
        while self.eat('[') {
            if self.eat(']') {
                unsized_array = true;
                continue;
            }
            let n = self.integer("an array length")?;
            count = match u64::try_from(n).ok().and_then(|n| count.checked_mul(n)) {
                Some(c) if c < 1 << 40 => c,
                _ => return self.error(format!("array `{name}` has an impossible length {n}")),
            };
            self.expect(']')?;
        }
        let mut init = Vec::new();
        if self.eat('=') {
            self.initialiser(ty.0, &mut init)?;
            if unsized_array {
                count = init.len() as u64;
                unsized_array = false;
            }
            if init.len() as u64 > count {
                return self
                    .error(format!("`{name}` has {} initial values for {count} elements", init.len()));
            }
        }
        let size = if unsized_array { 0 } else { count * ty.0.bytes() as u64 };
        let managed = self.managed;
        Ok(Variable {
            name,
            space,
            ty: ty.0,
            size,
            align,
            init,
            is_extern,
            managed,
            in_register: false,
            line,
        })
    }

    pub(super) fn initialiser(&mut self, ty: Ty, out: &mut Vec<Init>) -> Result<()> {
        if self.eat('{') {
            self.deeper()?;
            while !self.eat('}') {
                self.initialiser(ty, out)?;
                if !self.eat(',') && !self.is('}') {
                    return self.expected("`,` or `}`");
                }
            }
            self.nesting -= 1;
            return Ok(());
        }
        let value = match self.next()? {
            Token::Punct('-') => match self.next()? {
                Token::Int(v) => Init::Bits((v as i64).wrapping_neg() as u64),
                Token::F64(bits) => Init::Bits(float_bits(ty, -f64::from_bits(bits))),
                token => return self.error(format!("expected a number after `-`, found {token}")),
            },
            Token::Int(v) if ty.is_float() => Init::Bits(float_bits(ty, v as f64)),
            Token::Int(v) => Init::Bits(v),
            Token::F32(bits) => Init::Bits(match ty {
                Ty::F64 => (f32::from_bits(bits) as f64).to_bits(),
                _ => bits as u64,
            }),
            Token::F64(bits) => Init::Bits(float_bits(ty, f64::from_bits(bits))),
            Token::Word(word) if word == "generic" && self.is('(') => {
                self.expect('(')?;
                let name = self.word("a symbol")?;
                self.expect(')')?;
                let offset = self.offset()?;
                Init::Symbol { name, offset, generic: true }
            }
            Token::Word(name) => {
                let offset = self.offset()?;
                Init::Symbol { name: name.to_string(), offset, generic: false }
            }
            token => return self.error(format!("expected an initial value, found {token}")),
        };
        out.push(value);
        Ok(())
    }

    /// An optional `+ 4`, `+-4` or `- 4`.
    pub(super) fn offset(&mut self) -> Result<i64> {
        if self.eat('+') || self.is('-') { self.integer("an offset") } else { Ok(0) }
    }
}

/// The bits of `v` in `ty`, rounded to nearest.
fn float_bits(ty: Ty, v: f64) -> u64 {
    match ty {
        Ty::F32 | Ty::B32 => (v as f32).to_bits() as u64,
        _ => v.to_bits(),
    }
}
