//! Joins several PTX texts into one module, as a linker would: what one declares `.extern` another defines.
//!
//! It works on text, statement by statement, and does not look into functions. Names that are not visible outside
//! their file are made unique; declarations of what another file defines are dropped; debug sections, and the parts of
//! `.loc` that point into them, are dropped too, but lines stay.

use std::collections::{HashMap, HashSet};

use crate::error::{Error, Result};

/// One statement at the outermost level.
struct Statement<'a> {
    text: &'a str,
    line: u32,
}

/// What a statement declares.
#[derive(Clone, Copy, PartialEq)]
enum Linkage {
    /// Defined here, and seen by others; `weak` gives way to another definition.
    Visible { weak: bool },
    /// Defined elsewhere.
    Extern,
    /// Seen here only.
    Local,
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '%')
}

fn blank_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut quoted = false;
    while let Some(c) = rest.chars().next() {
        let end = if quoted {
            None
        } else if rest.starts_with("//") {
            Some(rest.find('\n').unwrap_or(rest.len()))
        } else if rest.starts_with("/*") {
            Some(rest.find("*/").map_or(rest.len(), |i| i + 2))
        } else {
            None
        };
        if let Some(end) = end {
            out.extend(rest[..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[end..];
            continue;
        }
        quoted ^= c == '"';
        out.push(c);
        rest = &rest[c.len_utf8()..];
    }
    out
}

/// Splits at the outermost level: a directive ends with its line, a function or section with its brace, the rest with
/// a semicolon.
fn statements(text: &str) -> Vec<Statement<'_>> {
    let mut out = Vec::new();
    let (mut start, mut line) = (0, 1);
    while start < text.len() {
        let skipped = text[start..].len() - text[start..].trim_start().len();
        line += text[start..start + skipped].matches('\n').count() as u32;
        start += skipped;
        if start >= text.len() {
            break;
        }
        let rest = &text[start..];
        let ends_with_line =
            [".version", ".target", ".address_size", ".file"].iter().any(|d| rest.starts_with(d));
        let length = if ends_with_line { rest.find('\n').unwrap_or(rest.len()) } else { length(rest) };
        out.push(Statement { text: &rest[..length], line });
        line += rest[..length].matches('\n').count() as u32;
        start += length;
    }
    out
}

fn length(rest: &str) -> usize {
    let (mut depth, mut quoted) = (0usize, false);
    let head = &rest[..rest.find(['{', ';', '=']).unwrap_or(rest.len())];
    let braces_end = head.starts_with(".section")
        || head.split(|c: char| !is_name(c) && c != '.').any(|w| matches!(w, ".func" | ".entry"));
    for (i, c) in rest.char_indices() {
        match c {
            '"' => quoted = !quoted,
            _ if quoted => {}
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 && braces_end {
                    return i + 1;
                }
            }
            ';' if depth == 0 => return i + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The name a statement declares, and how.
fn declaration(text: &str) -> Option<(String, Linkage)> {
    let head = &text[..text.find(['{', ';', '=']).unwrap_or(text.len())];
    let words: Vec<&str> = head.split_whitespace().collect();
    let has = |word: &str| words.contains(&word) || head.contains(&format!("{word} "));
    let function = has(".func") || has(".entry");
    if !function && ![".global", ".const", ".shared"].iter().any(|s| has(s)) {
        return None;
    }
    let linkage = if has(".extern") {
        Linkage::Extern
    } else if has(".weak") || has(".common") {
        Linkage::Visible { weak: true }
    } else if has(".visible") {
        Linkage::Visible { weak: false }
    } else {
        Linkage::Local
    };
    // A function's name comes before its parameters, after the result in parentheses; a variable's before `[`.
    let name = if function {
        let after = head.find(".func").map(|i| i + 5).or(head.find(".entry").map(|i| i + 6))?;
        let mut rest = head[after..].trim_start();
        while rest.starts_with('.') || rest.starts_with('(') {
            let end = if rest.starts_with('(') { rest.find(')')? + 1 } else { rest.find([' ', '\n', '\t'])? };
            rest = rest[end..].trim_start();
        }
        &rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())]
    } else {
        let end = head.find('[').unwrap_or(head.len());
        let end = head[..end].trim_end().len();
        let start = head[..end].rfind(|c| !is_name(c)).map_or(0, |i| i + 1);
        &head[start..end]
    };
    (!name.is_empty()).then(|| (name.to_string(), linkage))
}

/// Replaces whole names.
fn rename(text: &str, names: &HashMap<String, String>) -> String {
    if names.is_empty() {
        return text.to_string();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let name = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        if name > 0 {
            out += names.get(&rest[..name]).map_or(&rest[..name], String::as_str);
        }
        rest = &rest[name..];
        let other = rest.find(is_name).unwrap_or(rest.len());
        out += &rest[..other];
        rest = &rest[other..];
    }
    out
}

/// Moves the numbers of files, and drops what follows a `.loc`'s line and column.
fn renumber(text: &str, files: u32) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let Some(rest) = line.trim_start().strip_prefix(".loc") else {
            out += line;
            continue;
        };
        let numbers: Vec<&str> = rest.split([',', '\n']).next().unwrap_or("").split_whitespace().collect();
        match numbers.first().and_then(|f| f.parse::<u32>().ok()) {
            Some(file) => out += &format!("\t.loc\t{} {}\n", file + files, numbers[1..].join(" ")),
            None => out += line,
        }
    }
    out
}

/// Joins `parts`, each a name for messages and PTX text.
///
/// # Errors
/// `Error::Parse` when two parts define the same visible name, or are for different address sizes.
///
/// # Example
/// ```
/// let head = ".version 8.0\n.target sm_80\n.address_size 64\n";
/// let a = format!("{head}.extern .global .u32 count;\n.visible .entry k() {{ ret; }}");
/// let b = format!("{head}.visible .global .u32 count = 3;");
/// let text = handloom_emulator::link(&[("a", &a), ("b", &b)])?;
/// assert_eq!(handloom_emulator::Module::parse(&text)?.kernels().len(), 1);
/// # Ok::<(), handloom_emulator::Error>(())
/// ```
pub fn link(parts: &[(&str, &str)]) -> Result<String> {
    let clean: Vec<String> = parts.iter().map(|p| blank_comments(p.1)).collect();
    let split: Vec<Vec<Statement>> = clean.iter().map(|text| statements(text)).collect();
    let defined = definitions(parts, &split)?;
    let mut head = [String::new(), String::new(), String::new()];
    let mut body = String::new();
    let (mut files, mut prototypes) = (0, HashSet::new());
    for (i, statements) in split.iter().enumerate() {
        let mut renamed = HashMap::new();
        for s in statements {
            if let Some((name, Linkage::Local)) = declaration(s.text)
                && parts.len() > 1
            {
                renamed.insert(name.clone(), format!("{name}$part{i}"));
            }
        }
        let mut own_files = 0;
        for s in statements {
            if let Some(place) =
                [".version", ".target", ".address_size"].iter().position(|d| s.text.starts_with(d))
            {
                newest(&mut head[place], s, parts[i].0)?;
                continue;
            }
            if s.text.starts_with(".section") {
                continue;
            }
            if let Some(rest) = s.text.strip_prefix(".file") {
                let (number, name) = rest.trim_start().split_once(char::is_whitespace).unwrap_or(("0", rest));
                let number = number.parse::<u32>().unwrap_or(0);
                own_files = own_files.max(number);
                body += &format!(".file {} {}\n", number + files, name.trim());
                continue;
            }
            match declaration(s.text) {
                Some((name, Linkage::Extern)) => {
                    let known = defined.contains_key(&name);
                    let function = s.text.contains(".func");
                    // A prototype may precede its function; a declared variable must not meet its definition.
                    if known && !function || !prototypes.insert(name) {
                        continue;
                    }
                }
                // Another definition of a weak name is used, unless this is the prototype of a function that follows.
                Some((name, Linkage::Visible { .. }))
                    if defined.get(&name).is_some_and(|d| *d != (i, s.line))
                        && !(s.text.ends_with(';') && s.text.contains(".func")) =>
                {
                    continue;
                }
                _ => {}
            }
            body += &rename(&renumber(s.text, files), &renamed);
            body.push('\n');
        }
        files += own_files;
    }
    Ok(format!("{}\n{}\n{}\n{body}", head[0], head[1], head[2]))
}

/// Where each visible name is defined: part and line. A weak definition gives way to one that is not.
fn definitions(parts: &[(&str, &str)], split: &[Vec<Statement>]) -> Result<HashMap<String, (usize, u32)>> {
    let mut defined: HashMap<String, ((usize, u32), bool)> = HashMap::new();
    for (i, statements) in split.iter().enumerate() {
        for s in statements {
            let prototype = s.text.ends_with(';') && s.text.contains(".func") && !s.text.contains('{');
            let Some((name, Linkage::Visible { weak })) = declaration(s.text) else { continue };
            if prototype {
                continue;
            }
            match defined.get(&name) {
                Some((first, false)) if !weak => {
                    let message =
                        format!("`{name}` is defined in {} and in {}", parts[first.0].0, parts[i].0);
                    return Err(Error::Parse { line: s.line, message });
                }
                Some((_, first_weak)) if !*first_weak || weak => {}
                _ => {
                    defined.insert(name, ((i, s.line), weak));
                }
            }
        }
    }
    Ok(defined.into_iter().map(|(name, (at, _))| (name, at)).collect())
}

/// The greater of two `.version` or `.target` lines; address sizes must agree.
fn newest(kept: &mut String, s: &Statement, part: &str) -> Result<()> {
    let text = s.text.trim();
    if kept.is_empty() {
        *kept = text.to_string();
        return Ok(());
    }
    let number = |t: &str| -> f64 {
        t.chars()
            .skip_while(|c| !c.is_ascii_digit())
            .take_while(|c| c.is_ascii_digit() || *c == '.')
            .collect::<String>()
            .parse()
            .unwrap_or(0.0)
    };
    if text.starts_with(".address_size") && kept.as_str() != text {
        let message = format!("{part} has `{text}`, another part `{kept}`");
        return Err(Error::Parse { line: s.line, message });
    }
    // PTX versions count their minors in one digit; targets are whole numbers.
    if number(text) > number(kept) {
        *kept = text.to_string();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Module;

    const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

    #[test]
    fn functions_and_variables_are_found_in_other_parts() {
        let a = format!(
            "{HEAD}.extern .func (.param .b32 r) twice (.param .b32 x);
.extern .global .align 4 .b32 table[2];
.global .align 1 .b8 $str[3] = {{97, 98, 0}}; // local; `}}` in a comment
.visible .entry k(.param .u64 out) {{
    .reg .b32 %r<3>; .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [out];
    ld.global.u32 %r1, [table+4];
    {{ .param .b32 p; .param .b32 q;
    st.param.b32 [p], %r1;
    call.uni (q), twice, (p);
    ld.param.b32 %r2, [q]; }}
    st.global.u32 [%rd1], %r2;
    ret;
}}"
        );
        let b = format!(
            "{HEAD}.global .align 1 .b8 $str[2] = {{99, 0}};
.visible .global .align 4 .b32 table[2] = {{20, 21}};
.visible .func (.param .b32 r) twice (.param .b32 x) {{
    .reg .b32 %r<3>;
    ld.param.u32 %r1, [x];
    add.s32 %r2, %r1, %r1;
    st.param.b32 [r], %r2;
    ret;
}}"
        );
        let text = link(&[("a.ptx", &a), ("b.ptx", &b)]).unwrap();
        let module = Module::parse(&text).unwrap();
        let mut device = crate::Device::new(crate::Options::default());
        let loaded = device.load(&module).unwrap();
        let out = device.allocate(4, "out").unwrap();
        let report = device.launch(&loaded, "k", crate::LaunchConfig::linear(1, 1), &[out.into()]).unwrap();
        assert!(report.is_clean(), "{}", report.text());
        let mut bytes = [0; 4];
        device.read(out, &mut bytes).unwrap();
        assert_eq!(u32::from_le_bytes(bytes), 42, "2 * 21");
    }

    #[test]
    fn a_name_defined_twice_is_an_error_unless_one_is_weak() {
        let strong = format!("{HEAD}.visible .global .u32 x = 1;");
        let weak = format!("{HEAD}.weak .global .u32 x = 2;");
        let error = link(&[("a", &strong), ("b", &strong)]).unwrap_err();
        assert!(error.to_string().contains("`x` is defined in a and in b"), "{error}");
        for parts in [[("w", &weak), ("s", &strong)], [("s", &strong), ("w", &weak)]] {
            let text = link(&parts.map(|(n, t)| (n, t.as_str()))).unwrap();
            assert!(text.contains("x = 1") && !text.contains("x = 2"), "{text}");
        }
    }

    #[test]
    fn the_newest_version_and_the_files_of_all_parts_are_kept() {
        let a = format!("{HEAD}.file 1 \"a.cu\"\n.visible .entry a() {{\n.loc 1 5 0\nret;\n}}");
        let b = ".version 8.4\n.target sm_80\n.address_size 64\n.file 1 \"b.cu\"\n.visible .entry b() {\n.loc 1 7 0, function_name $L1, inlined_at 1 2 3\nret;\n}\n.section .debug_str { $L1: .b8 0 }";
        let text = link(&[("a", &a), ("b", b)]).unwrap();
        assert!(text.starts_with(".version 8.4\n"), "{text}");
        assert!(text.contains(".file 2 \"b.cu\"") && text.contains(".loc\t2 7 0\n"), "{text}");
        assert!(!text.contains(".section"), "{text}");
        let other = HEAD.replace("64", "32");
        assert!(link(&[("a", HEAD), ("b", &other)]).unwrap_err().to_string().contains("address_size"));
    }
}
