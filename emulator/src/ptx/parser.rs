//! Recursive descent over the tokens: directives, functions, scopes, instructions (PTX ISA sections 4, 5 and 11).
//!
//! Names are not resolved here. Debug sections (`.section {...}`) are skipped, `.loc` and `.file` are kept.

use super::ast::*;
use super::lexer::{Token, lex};
use super::table;
use crate::error::{Error, Result};

/// Scopes may nest this deep; deeper input is refused rather than overflowing the stack.
const MAX_NESTING: u32 = 64;

/// Parses a PTX file.
///
/// # Errors
/// `Error::Parse` with the line and what was expected there.
pub fn parse(text: &str) -> Result<Ast> {
    let mut parser = Parser { tokens: lex(text)?, at: 0, nesting: 0, ast: Ast::default() };
    parser.module()?;
    Ok(parser.ast)
}

struct Parser {
    tokens: Vec<(Token, u32)>,
    at: usize,
    nesting: u32,
    ast: Ast,
}

/// Linkage words before a declaration.
#[derive(Default)]
struct Linkage {
    is_extern: bool,
}

impl Parser {
    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(0, |t| t.1)
    }

    fn error<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Error::Parse { line: self.line(), message: message.into() })
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|t| &t.0)
    }

    fn next(&mut self) -> Result<Token> {
        match self.tokens.get(self.at) {
            Some((token, _)) => {
                self.at += 1;
                Ok(token.clone())
            }
            None => self.error("the file ends here, in the middle of a statement"),
        }
    }

    fn expected<T>(&self, what: &str) -> Result<T> {
        match self.peek() {
            Some(token) => self.error(format!("expected {what}, found {token}")),
            None => self.error(format!("expected {what}, found the end of the file")),
        }
    }

    fn is(&self, c: char) -> bool {
        self.peek() == Some(&Token::Punct(c))
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.is(c);
        self.at += found as usize;
        found
    }

    fn expect(&mut self, c: char) -> Result<()> {
        if self.eat(c) { Ok(()) } else { self.expected(&format!("`{c}`")) }
    }

    fn dot(&self) -> Option<&str> {
        match self.peek() {
            Some(Token::Dot(word)) => Some(word),
            _ => None,
        }
    }

    fn word(&mut self, what: &str) -> Result<String> {
        match self.peek() {
            Some(Token::Word(word)) => {
                let word = word.clone();
                self.at += 1;
                Ok(word)
            }
            _ => self.expected(what),
        }
    }

    fn integer(&mut self, what: &str) -> Result<i64> {
        let negative = self.eat('-');
        match self.peek() {
            Some(Token::Int(v)) => {
                let v = *v as i64;
                self.at += 1;
                Ok(if negative { v.wrapping_neg() } else { v })
            }
            _ => self.expected(what),
        }
    }

    fn small(&mut self, what: &str) -> Result<u32> {
        let v = self.integer(what)?;
        u32::try_from(v).or_else(|_| self.error(format!("{what} is {v}, out of range")))
    }

    // module level -------------------------------------------------------------------------------------------------

    fn module(&mut self) -> Result<()> {
        let mut linkage = Linkage::default();
        while self.peek().is_some() {
            let Some(word) = self.dot().map(str::to_string) else { return self.expected("a directive") };
            match word.as_str() {
                "version" => {
                    self.at += 1;
                    self.ast.version = match self.next()? {
                        Token::F64(bits) => {
                            let v = f64::from_bits(bits);
                            (v as u32, (v * 10.0).round() as u32 % 10)
                        }
                        _ => return self.error("`.version` needs a number such as 8.0"),
                    };
                }
                "target" => {
                    self.at += 1;
                    self.ast.target = self.word("a target such as sm_80")?;
                    while self.eat(',') {
                        let option = self.word("a target option")?;
                        if option != "debug" && !option.starts_with("texmode") && !option.starts_with("sm_") {
                            return self.error(format!("unknown target option `{option}`"));
                        }
                    }
                }
                "address_size" => {
                    self.at += 1;
                    let bits = self.integer("an address size")?;
                    if bits != 64 {
                        return self.error(format!("`.address_size {bits}` is not supported; only 64 is"));
                    }
                }
                "file" => {
                    self.at += 1;
                    self.file()?;
                }
                "section" => self.section()?,
                "visible" | "weak" | "common" => self.at += 1,
                "extern" => {
                    self.at += 1;
                    linkage.is_extern = true;
                }
                "entry" | "func" => {
                    self.function()?;
                    linkage = Linkage::default();
                }
                "global" | "const" | "shared" => {
                    let variables = self.variables(linkage.is_extern)?;
                    self.ast.variables.extend(variables);
                    linkage = Linkage::default();
                }
                "pragma" => self.pragma()?,
                _ => return self.error(format!("unknown directive `.{word}`")),
            }
        }
        Ok(())
    }

    fn file(&mut self) -> Result<()> {
        let index = self.small("a file index")?;
        let Token::Text(name) = self.next()? else { return self.error("`.file` needs a name in quotes") };
        while self.eat(',') {
            self.integer("a time stamp or size")?;
        }
        self.ast.files.insert(index, name);
        Ok(())
    }

    /// Debug sections carry DWARF as numbers and labels: nothing the emulator uses.
    fn section(&mut self) -> Result<()> {
        self.at += 1;
        self.next()?;
        self.expect('{')?;
        while !self.eat('}') {
            self.next()?;
        }
        Ok(())
    }

    fn pragma(&mut self) -> Result<()> {
        self.at += 1;
        loop {
            let Token::Text(_) = self.next()? else { return self.error("`.pragma` needs a string") };
            if !self.eat(',') {
                return self.expect(';');
            }
        }
    }

    /// `.space .align 4 .v4 .b8 name[4][2] = {...}, name2;`
    fn variables(&mut self, is_extern: bool) -> Result<Vec<Variable>> {
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
    fn variable_type(&mut self) -> Result<((Ty, u32), u32)> {
        let mut align = None;
        let mut lanes = 1;
        loop {
            let Some(word) = self.dot().map(str::to_string) else { return self.expected("a type") };
            self.at += 1;
            match word.as_str() {
                "align" => {
                    let a = self.small("an alignment")?;
                    if !a.is_power_of_two() || a > 1 << 16 {
                        return self.error(format!("alignment {a} is not a power of two"));
                    }
                    align = Some(a);
                }
                "v2" => lanes = 2,
                "v4" => lanes = 4,
                "ptr" | "global" | "const" | "shared" | "local" | "managed" => {}
                _ => {
                    let Some(ty) = Ty::from_word(&word) else {
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

    fn declarator(
        &mut self,
        space: Space,
        ty: (Ty, u32),
        align: u32,
        is_extern: bool,
        line: u32,
    ) -> Result<Variable> {
        let name = self.word("a variable's name")?;
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
        Ok(Variable { name, space, ty: ty.0, size, align, init, is_extern, line })
    }

    fn initialiser(&mut self, ty: Ty, out: &mut Vec<Init>) -> Result<()> {
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
                Init::Symbol { name, offset, generic: false }
            }
            token => return self.error(format!("expected an initial value, found {token}")),
        };
        out.push(value);
        Ok(())
    }

    /// An optional `+ 4`, `+-4` or `- 4`.
    fn offset(&mut self) -> Result<i64> {
        if self.eat('+') || self.is('-') { self.integer("an offset") } else { Ok(0) }
    }

    // functions ----------------------------------------------------------------------------------------------------

    fn function(&mut self) -> Result<()> {
        let line = self.line();
        let is_entry = self.dot() == Some("entry");
        self.at += 1;
        let returns = if self.is('(') { self.parameters()? } else { Vec::new() };
        let name = self.word("a function's name")?;
        let params = if self.is('(') { self.parameters()? } else { Vec::new() };
        let mut function = Function {
            name,
            is_entry,
            params,
            returns,
            body: None,
            line,
            max_threads: None,
            required_threads: None,
        };
        while let Some(word) = self.dot().map(str::to_string) {
            self.at += 1;
            match word.as_str() {
                "maxntid" => function.max_threads = Some(self.dimensions()?.iter().product()),
                "reqntid" => function.required_threads = Some(self.dimensions()?),
                "minnctapersm" | "maxnctapersm" | "maxnreg" => {
                    self.small("a count")?;
                }
                "noreturn" => {}
                "pragma" => {
                    self.at -= 1;
                    self.pragma()?;
                }
                _ => {
                    self.at -= 1;
                    return self.error(format!("unknown function directive `.{word}`"));
                }
            }
        }
        if !self.eat(';') {
            self.expect('{')?;
            function.body = Some(self.statements()?);
        }
        self.ast.functions.push(function);
        Ok(())
    }

    fn dimensions(&mut self) -> Result<[u32; 3]> {
        let mut dims = [1; 3];
        for (i, dim) in dims.iter_mut().enumerate() {
            if i > 0 && !self.eat(',') {
                break;
            }
            *dim = self.small("a block dimension")?;
            if *dim == 0 || *dim > 1 << 16 {
                return self.error(format!("block dimension {dim} is out of range"));
            }
        }
        Ok(dims)
    }

    fn parameters(&mut self) -> Result<Vec<Variable>> {
        self.expect('(')?;
        let mut out = Vec::new();
        while !self.eat(')') {
            let line = self.line();
            match self.dot() {
                Some("param") => self.at += 1,
                Some("reg") => {
                    return self.error("parameters in registers (`.reg`) are not supported; use `.param`");
                }
                _ => return self.expected("`.param`"),
            }
            let (ty, align) = self.variable_type()?;
            out.push(self.declarator(Space::Param, ty, align, false, line)?);
            if !self.eat(',') && !self.is(')') {
                return self.expected("`,` or `)`");
            }
        }
        Ok(out)
    }

    fn deeper(&mut self) -> Result<()> {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return self.error(format!("braces nest deeper than {MAX_NESTING}"));
        }
        Ok(())
    }

    /// Statements up to the closing brace, which is consumed.
    fn statements(&mut self) -> Result<Vec<Statement>> {
        self.deeper()?;
        let mut out = Vec::new();
        while !self.eat('}') {
            let line = self.line();
            match self.peek() {
                Some(Token::Punct('{')) => {
                    self.at += 1;
                    out.push(Statement::Block(self.statements()?));
                }
                Some(Token::Punct(';')) => self.at += 1,
                Some(Token::Punct('@')) => out.push(self.instruction()?),
                Some(Token::Dot(word)) => match word.as_str() {
                    "reg" => out.push(self.registers()?),
                    "shared" | "local" | "param" | "global" | "const" => {
                        out.extend(self.variables(false)?.into_iter().map(Statement::Variable));
                    }
                    "loc" => out.push(self.loc()?),
                    "pragma" => self.pragma()?,
                    "file" => {
                        self.at += 1;
                        self.file()?;
                    }
                    _ => return self.error(format!("unknown directive `.{word}` in a function")),
                },
                Some(Token::Word(_)) => {
                    if let Some((Token::Punct(':'), _)) = self.tokens.get(self.at + 1) {
                        let name = self.word("a label")?;
                        self.at += 1;
                        if let Some("branchtargets" | "calltargets" | "callprototype") = self.dot() {
                            out.push(self.targets(name, line)?);
                        } else {
                            out.push(Statement::Label(name, line));
                        }
                    } else {
                        out.push(self.instruction()?);
                    }
                }
                _ => return self.expected("a statement or `}`"),
            }
        }
        self.nesting -= 1;
        Ok(out)
    }

    fn targets(&mut self, name: String, line: u32) -> Result<Statement> {
        if self.dot() != Some("branchtargets") {
            return self.error("indirect calls (`.callprototype`, `.calltargets`) are not supported");
        }
        self.at += 1;
        let mut labels = vec![self.word("a label")?];
        while self.eat(',') {
            labels.push(self.word("a label")?);
        }
        self.expect(';')?;
        Ok(Statement::BranchTargets { name, labels, line })
    }

    /// `.reg .b32 %r<10>, a, b;`
    fn registers(&mut self) -> Result<Statement> {
        let line = self.line();
        self.at += 1;
        let Some(word) = self.dot().map(str::to_string) else { return self.expected("a register type") };
        let Some(ty) = Ty::from_word(&word) else {
            return self.error(format!("registers of type `.{word}` are not supported"));
        };
        if ty == Ty::B128 {
            return self.error("registers of type `.b128` are not supported");
        }
        self.at += 1;
        let mut names = Vec::new();
        loop {
            let name = self.word("a register's name")?;
            let count = if self.eat('<') {
                let n = self.small("a register count")?;
                self.expect('>')?;
                Some(n)
            } else {
                None
            };
            names.push((name, count));
            if !self.eat(',') {
                break;
            }
        }
        self.expect(';')?;
        Ok(Statement::Registers { ty, names, line })
    }

    /// `.loc file line column[, function_name label, inlined_at file line column]`
    fn loc(&mut self) -> Result<Statement> {
        self.at += 1;
        let file = self.small("a file index")?;
        let line = self.small("a line")?;
        self.small("a column")?;
        while self.eat(',') {
            match self.word("function_name or inlined_at")?.as_str() {
                "function_name" => {
                    self.word("a label")?;
                    self.offset()?;
                }
                "inlined_at" => {
                    for _ in 0..3 {
                        self.small("a number")?;
                    }
                }
                other => return self.error(format!("unknown `.loc` attribute `{other}`")),
            }
        }
        Ok(Statement::Loc(Loc { file, line }))
    }

    // instructions -------------------------------------------------------------------------------------------------

    fn instruction(&mut self) -> Result<Statement> {
        let line = self.line();
        let guard = if self.eat('@') {
            let negated = self.eat('!');
            Some((self.word("a predicate")?, negated))
        } else {
            None
        };
        let line = if guard.is_some() { self.line() } else { line };
        let root = self.word("an instruction")?;
        let mut mods = Vec::new();
        while let Some(word) = self.dot() {
            mods.push(word.to_string());
            self.at += 1;
        }
        let form = table::decode(&root, &mods).map_err(|message| Error::Parse { line, message })?;
        let mut operands = Vec::new();
        while !self.eat(';') {
            operands.push(self.operand()?);
            if !self.eat(',') && !self.is(';') {
                return self.expected("`,` or `;`");
            }
        }
        Ok(Statement::Instruction(Instruction { line, guard, form, bar_root: root == "bar", operands }))
    }

    fn list(&mut self, close: char) -> Result<Vec<Operand>> {
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

    fn operand(&mut self) -> Result<Operand> {
        let first = match self.next()? {
            Token::Punct('{') => Operand::Vector(self.list('}')?),
            Token::Punct('(') => Operand::List(self.list(')')?),
            Token::Punct('[') => self.address()?,
            Token::Punct('!') => Operand::Not(self.word("a predicate")?),
            Token::Punct('-') => match self.next()? {
                Token::Int(v) => Operand::Int((v as i64).wrapping_neg()),
                Token::F64(bits) => Operand::F64((-f64::from_bits(bits)).to_bits()),
                token => return self.error(format!("expected a number after `-`, found {token}")),
            },
            Token::Punct('~') => Operand::Int(!self.integer("a number after `~`")?),
            Token::Int(v) => Operand::Int(v as i64),
            Token::F32(bits) => Operand::F32(bits),
            Token::F64(bits) => Operand::F64(bits),
            Token::Word(name) if name == "_" => Operand::Sink,
            Token::Word(name) => match self.dot().map(str::to_string) {
                Some(component) => {
                    self.at += 1;
                    Operand::Name(name, Some(component))
                }
                None if self.is('+') || self.is('-') => {
                    let offset = self.offset()?;
                    Operand::NameOffset(name, offset)
                }
                None => Operand::Name(name, None),
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

    fn address(&mut self) -> Result<Operand> {
        let base = match self.peek() {
            Some(Token::Word(word)) => {
                let word = word.clone();
                self.at += 1;
                Some(word)
            }
            _ => None,
        };
        let offset = if base.is_none() { self.integer("an address")? } else { self.offset()? };
        if self.is(',') {
            return self.error("tensor coordinates in an address are not supported");
        }
        self.expect(']')?;
        Ok(Operand::Address { base, offset })
    }
}

/// The bits of `v` in `ty`, rounded to nearest.
fn float_bits(ty: Ty, v: f64) -> u64 {
    match ty {
        Ty::F32 | Ty::B32 => (v as f32).to_bits() as u64,
        _ => v.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = ".version 9.0\n.target sm_80\n.address_size 64\n";

    fn message(body: &str) -> String {
        parse(&format!("{HEAD}{body}")).unwrap_err().to_string()
    }

    #[test]
    fn names_the_line_of_an_unknown_form() {
        let text = ".entry k() {\n.reg .b32 r;\nadd.f33 r, r, r;\n}";
        assert!(message(text).starts_with("PTX line 6: unknown form `add.f33`"), "{}", message(text));
    }

    #[test]
    fn says_what_it_expected() {
        assert!(message(".entry k() { .reg .b32 r<; }").contains("a register count"));
        assert!(
            message(".entry k() { ret").contains("in the middle of a statement")
                || message(".entry k() { ret").contains("end")
        );
        assert!(message(".entry k(.param .u33 p) {}").contains("unknown type `.u33`"));
        assert!(message(".surface x;").contains("unknown directive"));
    }

    #[test]
    fn reads_variables_with_initial_values() {
        let ast = parse(&format!(
            "{HEAD}.global .align 8 .b8 t[4] = {{1, 2, 3}}; .const .f32 c[2] = {{1.5, 0f40000000}};"
        ))
        .unwrap();
        assert_eq!((ast.variables[0].size, ast.variables[0].align), (4, 8));
        let Init::Bits(two) = ast.variables[1].init[1] else { panic!("bits") };
        assert_eq!(two, 2.0f32.to_bits() as u64);
    }

    /// Cutting a real file anywhere, or dropping any one token, must give an error or a module, never a panic.
    #[test]
    fn survives_mutilated_input() {
        let text = include_str!("../../tests/ptx/control.ptx");
        for cut in (0..text.len()).step_by(97).filter(|&c| text.is_char_boundary(c)) {
            let _ = parse(&text[..cut]);
            let removed = format!("{}{}", &text[..cut], text.get(cut + 3..).unwrap_or(""));
            let _ = parse(&removed);
        }
        let deep = format!("{HEAD}.entry k() {}", "{".repeat(100_000));
        assert!(parse(&deep).unwrap_err().to_string().contains("nest deeper"));
    }
}
