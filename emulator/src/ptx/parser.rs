//! Recursive descent over the tokens: directives, functions, scopes, instructions (PTX ISA sections 4, 5 and 11).
//!
//! Names are not resolved here. Debug sections (`.section {...}`) are skipped, `.loc` and `.file` are kept.

mod instructions;
mod variables;

use std::collections::HashMap;

use super::ast::*;
use super::lexer::{Token, lex};
use super::table;
use crate::error::{Error, Result};

/// Parameters of one function together, in bytes: far beyond what any architecture allows.
const MAX_PARAMETERS: u64 = 1 << 20;

/// Scopes may nest this deep; deeper input is refused rather than overflowing the stack.
const MAX_NESTING: u32 = 64;

/// Parses a PTX file.
///
/// # Errors
/// `Error::Parse` with the line and what was expected there.
pub fn parse(text: &str) -> Result<Ast> {
    let mut parser = Parser {
        tokens: lex(text)?,
        at: 0,
        nesting: 0,
        ast: Ast::default(),
        elements: HashMap::new(),
        compounds: HashMap::new(),
        aliases: Vec::new(),
        used_bytes: None,
        managed: false,
        forms: HashMap::new(),
    };
    parser.module()?;
    parser.apply_aliases()?;
    Ok(parser.ast)
}

struct Parser<'a> {
    tokens: Vec<(Token<'a>, u32)>,
    at: usize,
    nesting: u32,
    ast: Ast,
    /// Bytes of an element of each variable so far: `a[2]` is an address.
    elements: HashMap<String, u32>,
    /// Vector registers and registers of 128 bits, by the registers they are made of.
    compounds: HashMap<String, Vec<String>>,
    /// `.alias` directives: new name, function.
    aliases: Vec<(String, String)>,
    /// What a pragma says of the next instruction.
    used_bytes: Option<u16>,
    /// The variable at hand has the attribute `.managed`.
    managed: bool,
    /// Forms seen before: real files repeat a few.
    forms: HashMap<Vec<&'a str>, table::Decoded>,
}

/// Linkage words before a declaration.
#[derive(Default)]
struct Linkage {
    is_extern: bool,
}

impl<'a> Parser<'a> {
    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(0, |t| t.1)
    }

    fn error<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Error::Parse { line: self.line(), message: message.into() })
    }

    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).map(|t| t.0)
    }

    fn next(&mut self) -> Result<Token<'a>> {
        match self.tokens.get(self.at) {
            Some((token, _)) => {
                self.at += 1;
                Ok(*token)
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
        self.peek() == Some(Token::Punct(c))
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.is(c);
        self.at += found as usize;
        found
    }

    fn expect(&mut self, c: char) -> Result<()> {
        if self.eat(c) { Ok(()) } else { self.expected(&format!("`{c}`")) }
    }

    fn dot(&self) -> Option<&'a str> {
        match self.peek() {
            Some(Token::Dot(word)) => Some(word),
            _ => None,
        }
    }

    fn word(&mut self, what: &str) -> Result<String> {
        match self.peek() {
            Some(Token::Word(word)) => {
                self.at += 1;
                Ok(word.to_string())
            }
            _ => self.expected(what),
        }
    }

    fn integer(&mut self, what: &str) -> Result<i64> {
        let negative = self.eat('-');
        match self.peek() {
            Some(Token::Int(v)) => {
                let v = v as i64;
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
            let Some(word) = self.dot() else { return self.expected("a directive") };
            match word {
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
                "alias" => self.alias()?,
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
        self.ast.files.insert(index, name.to_string());
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

    /// `.alias name, function;`
    fn alias(&mut self) -> Result<()> {
        self.at += 1;
        let name = self.word("a function's name")?;
        self.expect(',')?;
        let function = self.word("a function's name")?;
        self.aliases.push((name, function));
        self.expect(';')
    }

    /// Gives each alias the body of its function.
    fn apply_aliases(&mut self) -> Result<()> {
        for (alias, name) in std::mem::take(&mut self.aliases) {
            let found = self.ast.functions.iter().find(|f| f.name == name && f.body.is_some());
            let Some(function) = found.cloned() else {
                return self.error(format!("`.alias {alias}` names `{name}`, which has no body"));
            };
            self.ast.functions.push(Function { name: alias, ..function });
        }
        Ok(())
    }

    /// `.attribute(.managed)`: true; `.attribute(.unified(1, 2))`, which means nothing to the emulator.
    fn attribute(&mut self) -> Result<bool> {
        self.expect('(')?;
        let managed = self.dot() == Some("managed");
        let mut open = 1;
        while open > 0 {
            match self.next()? {
                Token::Punct('(') => open += 1,
                Token::Punct(')') => open -= 1,
                _ => {}
            }
        }
        Ok(managed)
    }

    fn pragma(&mut self) -> Result<()> {
        self.at += 1;
        loop {
            let Token::Text(text) = self.next()? else { return self.error("`.pragma` needs a string") };
            if let Some(mask) = text.strip_prefix("used_bytes_mask") {
                let digits = mask.trim().trim_start_matches("0x");
                self.used_bytes = u16::from_str_radix(digits, 16).ok();
            }
            if !self.eat(',') {
                return self.expect(';');
            }
        }
    }

    // functions ----------------------------------------------------------------------------------------------------

    fn function(&mut self) -> Result<()> {
        let line = self.line();
        let is_entry = self.dot() == Some("entry");
        self.compounds.clear();
        self.at += 1;
        if self.dot() == Some("attribute") {
            self.at += 1;
            self.attribute()?;
        }
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
            required_cluster: None,
            explicit_cluster: false,
            max_cluster_rank: None,
            max_registers: None,
            min_blocks: None,
        };
        while let Some(word) = self.dot() {
            self.at += 1;
            match word {
                "maxntid" => function.max_threads = Some(self.dimensions()?.iter().product()),
                "reqntid" => function.required_threads = Some(self.dimensions()?),
                "reqnctapercluster" => function.required_cluster = Some(self.dimensions()?),
                "explicitcluster" => function.explicit_cluster = true,
                "maxclusterrank" => function.max_cluster_rank = Some(self.small("a number of blocks")?),
                "maxnreg" => function.max_registers = Some(self.small("a number of registers")?),
                "minnctapersm" => function.min_blocks = Some(self.small("a count")?.max(1)),
                "maxnctapersm" => {
                    self.small("a count")?;
                }
                "noreturn" | "blocksareclusters" => {}
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
            let in_register = match self.dot() {
                Some("param") => false,
                Some("reg") => true,
                _ => return self.expected("`.param` or `.reg`"),
            };
            self.at += 1;
            let (ty, align) = self.variable_type()?;
            let variable = self.declarator(Space::Param, ty, align, false, line)?;
            if in_register && (!matches!(variable.size, 2 | 4 | 8) || ty.1 > 1) {
                return self.error("a parameter in a register (`.reg`) must be of 16, 32 or 64 bits");
            }
            out.push(Variable { in_register, ..variable });
            if !self.eat(',') && !self.is(')') {
                return self.expected("`,` or `)`");
            }
            let bytes: u64 = out.iter().map(|p: &Variable| p.size.saturating_add(p.align as u64)).sum();
            if bytes > MAX_PARAMETERS {
                return self.error(format!("the parameters take more than {MAX_PARAMETERS} B"));
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
                Some(Token::Dot(word)) => match word {
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
        let directive = self.dot();
        self.at += 1;
        if directive == Some("callprototype") {
            return self.prototype(name);
        }
        let mut names = vec![self.word("a name")?];
        while self.eat(',') {
            names.push(self.word("a name")?);
        }
        self.expect(';')?;
        Ok(match directive {
            Some("calltargets") => Statement::CallTargets { name, functions: names },
            _ => Statement::BranchTargets { name, labels: names, line },
        })
    }

    /// `.callprototype (.param .b32 _) _ (.param .b64 _);`
    fn prototype(&mut self, name: String) -> Result<Statement> {
        let returns = if self.is('(') { self.parameters()? } else { Vec::new() };
        if matches!(self.peek(), Some(Token::Word(_))) {
            self.at += 1;
        }
        let params = if self.is('(') { self.parameters()? } else { Vec::new() };
        while let Some("noreturn" | "abi_preserve" | "abi_preserve_control") = self.dot() {
            let counted = self.dot() != Some("noreturn");
            self.at += 1;
            if counted {
                self.small("a number of registers")?;
            }
        }
        self.expect(';')?;
        Ok(Statement::Prototype { name, returns, params })
    }

    /// `.reg .b32 %r<10>, a, b;`
    fn registers(&mut self) -> Result<Statement> {
        let line = self.line();
        self.at += 1;
        let lanes = match self.dot() {
            Some("v2") => 2,
            Some("v4") => 4,
            _ => 1,
        };
        self.at += (lanes > 1) as usize;
        let Some(word) = self.dot() else { return self.expected("a register type") };
        let Some(ty) = Ty::from_word(word) else {
            return self.error(format!("registers of type `.{word}` are not supported"));
        };
        self.at += 1;
        let (ty, parts): (Ty, &[&str]) = match (ty, lanes) {
            (Ty::B128, 1) => (Ty::B64, &["lo", "hi"]),
            (_, 1) => (ty, &[]),
            (_, 2) => (ty, &["x", "y"]),
            _ => (ty, &["x", "y", "z", "w"]),
        };
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
            if parts.is_empty() {
                self.compounds.remove(&name);
                names.push((name, count));
            } else {
                names.extend(self.compound(name, count, parts)?.into_iter().map(|name| (name, None)));
            }
            if !self.eat(',') {
                break;
            }
        }
        self.expect(';')?;
        Ok(Statement::Registers { ty, names, line })
    }

    /// The registers that the vectors or 128-bit registers `name` (`count` of them, numbered) are made of.
    fn compound(&mut self, name: String, count: Option<u32>, parts: &[&str]) -> Result<Vec<String>> {
        if count.is_some_and(|n| n > 1 << 16) {
            return self.error("more than 65536 wide registers are declared");
        }
        let names = match count {
            Some(n) => (0..n).map(|i| format!("{name}{i}")).collect(),
            None => vec![name],
        };
        let mut all = Vec::new();
        for name in names {
            let own: Vec<String> = parts.iter().map(|part| format!("{name}.{part}")).collect();
            all.extend(own.iter().cloned());
            self.compounds.insert(name, own);
        }
        Ok(all)
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
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = ".version 9.0\n.target sm_80\n.address_size 64\n";

    fn message(body: &str) -> String {
        parse(&format!("{HEAD}{body}")).unwrap_err().to_string()
    }

    #[test]
    fn an_indexed_variable_is_an_address() {
        let body = format!("{HEAD}.entry k() {{\n.reg .b64 r;\n.shared .v2 .b16 a[8];\nmov.u64 r, a[3];\n}}");
        let ast = parse(&body).unwrap();
        let Some(Statement::Instruction(i)) = ast.functions[0].body.as_ref().and_then(|b| b.last()) else {
            panic!("an instruction")
        };
        assert_eq!(i.operands[1], Operand::NameOffset("a".to_string(), 12), "elements of four bytes");
        assert!(message(".entry k() { .reg .b64 r; mov.u64 r, b[1]; }").contains("not a variable"));
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
