//! Video instructions (PTX ISA 9.7.18): their operands select bytes and half-words, `%r1.b2`, `%r1.h10`.

use super::builder::{Builder, V};
use crate::code::*;
use crate::error::Result;
use crate::exec::scalar::Scalar;
use crate::exec::video::{self, MultiplyAdd, Part, Relation, Secondary, Simd, VideoOp, WORD};
use crate::ptx::ast::*;

/// An operand without the selection after it, and the selection.
fn split(operand: &Operand) -> (Operand, Option<&str>) {
    match operand {
        Operand::Name(name, selection) => (Operand::Name(name.clone(), None), selection.as_deref()),
        other => (other.clone(), None),
    }
}

/// The operand inside a negation, and whether there is one.
fn sign(operand: &Operand) -> (&Operand, bool) {
    match operand {
        Operand::Negated(inner) => (inner, true),
        other => (other, false),
    }
}

fn part(selection: Option<&str>) -> Option<Part> {
    Some(match selection {
        None => WORD,
        Some("b0") => Part { at: 0, bits: 8 },
        Some("b1") => Part { at: 8, bits: 8 },
        Some("b2") => Part { at: 16, bits: 8 },
        Some("b3") => Part { at: 24, bits: 8 },
        Some("h0") => Part { at: 0, bits: 16 },
        Some("h1") => Part { at: 16, bits: 16 },
        Some(_) => return None,
    })
}

/// The digits of a selection such as `.b7106`, lowest lane first.
fn digits(selection: &str, lanes: u8, limit: u8) -> Option<Vec<u8>> {
    let letter = if lanes == 2 { 'h' } else { 'b' };
    let digits = selection.strip_prefix(letter)?.bytes().rev().map(|d| d.wrapping_sub(b'0'));
    let digits: Vec<u8> = digits.collect();
    digits.iter().all(|&d| d < limit).then_some(digits)
}

fn operation(name: &str, i: &Instruction) -> VideoOp {
    match name {
        "add" => VideoOp::Add,
        "sub" => VideoOp::Sub,
        "absdiff" => VideoOp::AbsDiff,
        "avrg" => VideoOp::Average,
        "min" => VideoOp::Min,
        "max" => VideoOp::Max,
        "shl" => VideoOp::Shl,
        "shr" => VideoOp::Shr,
        _ => VideoOp::Set(match i.form.one_of(&["eq", "ne", "lt", "le", "gt", "ge"]) {
            Some("eq") => Relation::Eq,
            Some("ne") => Relation::Ne,
            Some("lt") => Relation::Lt,
            Some("le") => Relation::Le,
            Some("gt") => Relation::Gt,
            _ => Relation::Ge,
        }),
    }
}

/// Signs of the result, of a, and of b: comparisons give unsigned results.
fn signs(i: &Instruction) -> [bool; 3] {
    let types: Vec<bool> = i.form.types().iter().map(|ty| ty.is_signed()).collect();
    match types[..] {
        [a, b] => [false, a, b],
        _ => [types[0], types[1], types[2]],
    }
}

impl<'a> Builder<'_, 'a> {
    pub(super) fn video(&mut self, i: &'a Instruction) -> Result<()> {
        let root = i.form.written.split('.').next().unwrap_or_default();
        let name = &root[1..];
        match (name, name.strip_suffix(['2', '4'])) {
            ("mad", _) => self.video_multiply_add(i),
            (_, Some(stem)) => self.video_simd(i, stem, if name.ends_with('2') { 2 } else { 4 }),
            _ => self.video_scalar(i, name),
        }
    }

    /// The result and up to three sources, once what they select is known.
    fn video_emit(&mut self, op: Scalar, d: &Operand, sources: &[Operand]) -> Result<()> {
        let d = self.dest(d, Ty::B32)?;
        let sources: Result<Vec<V>> = sources.iter().map(|s| self.source(s, Ty::B32)).collect();
        self.scalar(op, d, 32, &sources?, Class::Integer);
        Ok(())
    }

    fn selected(&self, operand: &Operand) -> Result<(Operand, Part)> {
        let (plain, selection) = split(operand);
        match part(selection) {
            Some(part) => Ok((plain, part)),
            None => self.error(format!("`.{}` selects no part of a word", selection.unwrap_or_default())),
        }
    }

    fn video_scalar(&mut self, i: &'a Instruction, name: &str) -> Result<()> {
        let secondary = match i.form.one_of(&["add", "min", "max"]) {
            Some("add") => Secondary::Add,
            Some("min") => Secondary::Min,
            Some(_) => Secondary::Max,
            None => Secondary::None,
        };
        let count = i.operands.len();
        if !(3..=4).contains(&count) || secondary != Secondary::None && count != 4 {
            return self.error(format!("`{}` has the wrong number of operands", i.form));
        }
        let (d, selection) = split(&i.operands[0]);
        let merge = match (selection, part(selection)) {
            (None, _) => None,
            (Some(_), Some(part)) if count == 4 && secondary == Secondary::None => Some(part),
            _ => return self.error(format!("`{}` cannot put its result into a part here", i.form)),
        };
        let (a, a_part) = self.selected(&i.operands[1])?;
        let (b, b_part) = self.selected(&i.operands[2])?;
        let op = video::Scalar {
            op: operation(name, i),
            signed: signs(i),
            saturate: i.form.has("sat"),
            wrap: i.form.has("wrap"),
            secondary,
            merge,
            a: a_part,
            b: b_part,
        };
        let mut sources = vec![a, b];
        sources.extend(i.operands.get(3).cloned());
        self.video_emit(Scalar::Video(op), &d, &sources)
    }

    fn video_multiply_add(&mut self, i: &'a Instruction) -> Result<()> {
        let [d, a, b, c] = self.operands(i)?;
        let ((a, a_negated), (b, b_negated), (c, negate_c)) = (sign(a), sign(b), sign(c));
        let ((a, a_part), (b, b_part)) = (self.selected(a)?, self.selected(b)?);
        let [_, a_signed, b_signed] = signs(i);
        let plus_one = i.form.has("po");
        let negate_product = a_negated != b_negated;
        if plus_one && (a_negated || b_negated || negate_c) || negate_product && negate_c {
            return self.error(format!("`{}` negates the product or c, and neither with .po", i.form));
        }
        let op = MultiplyAdd {
            a_signed,
            b_signed,
            a: a_part,
            b: b_part,
            negate_product,
            negate_c,
            plus_one,
            saturate: i.form.has("sat"),
            shift: match i.form.one_of(&["shr7", "shr15"]) {
                Some("shr7") => 7,
                Some(_) => 15,
                None => 0,
            },
        };
        self.video_emit(Scalar::VideoMultiplyAdd(op), d, &[a, b, c.clone()])
    }

    fn video_simd(&mut self, i: &'a Instruction, name: &str, lanes: u8) -> Result<()> {
        let [d, a, b, c] = self.operands(i)?;
        let ((d, mask), (a, a_lanes), (b, b_lanes)) = (split(d), split(a), split(b));
        let mask = match mask {
            None => Some((1 << lanes) - 1),
            Some(m) => digits(m, lanes, lanes).map(|list| list.iter().fold(0, |mask, d| mask | 1 << d)),
        };
        let pick = |selection: Option<&str>, first: u8| -> Option<[u8; 4]> {
            let mut out = [0, 1, 2, 3].map(|lane| first + lane);
            if let Some(selection) = selection {
                let list = digits(selection, lanes, 2 * lanes).filter(|l| l.len() == lanes as usize)?;
                out[..list.len()].copy_from_slice(&list);
            }
            Some(out)
        };
        let (Some(mask), Some(a_lanes), Some(b_lanes)) = (mask, pick(a_lanes, 0), pick(b_lanes, lanes))
        else {
            return self.error(format!("`{}` has an operand that selects no parts", i.form));
        };
        let op = Simd {
            op: operation(name, i),
            lanes,
            signed: signs(i),
            saturate: i.form.has("sat"),
            accumulate: i.form.has("add"),
            mask,
            a: a_lanes,
            b: b_lanes,
        };
        self.video_emit(Scalar::VideoSimd(op), &d, &[a, b, c.clone()])
    }
}
