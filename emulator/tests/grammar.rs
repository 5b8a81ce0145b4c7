//! Every instruction form that the emulator has, in every combination of its modifiers (`grammar/forms.txt`): accepted for
//! its oldest target and refused for an older one. Where a ptxas is found it says whether that is right, text by text.

mod common;

use std::collections::HashMap;

use common::{Ptxas, ptxas};
use handloom_emulator::Module;

const TABLE: &str = include_str!("grammar/forms.txt");
/// Lines of a kernel before the instruction.
const BEFORE: usize = 7;

fn kernel(target: &str, lines: &[&str]) -> String {
    format!(
        ".version 9.0\n.target {target}\n.address_size 64\n.const .align 16 .b8 cc[64];\n\
         .visible .entry k(.param .align 16 .b8 pa[128])\n{{\n.reg .pred %p<9>; .reg .b16 %h<40>; .reg .f32 %f<60>; \
         .reg .b32 %r<60>; .reg .b64 %rd<40>; .reg .f64 %d<40>; .reg .b128 %q<8>;\n{}\nEND: ret;\n}}\n",
        lines.join("\n")
    )
}

/// The letter of the registers that hold a type.
fn registers(ty: &str) -> Option<&'static str> {
    Some(match ty {
        "pred" => "p",
        "f32" => "f",
        "f64" => "d",
        "b128" => "q",
        "b64" | "u64" | "s64" => "rd",
        "b32" | "u32" | "s32" | "f16x2" | "bf16x2" | "u16x2" | "s16x2" => "r",
        "b8" | "u8" | "s8" | "b16" | "u16" | "s16" | "f16" | "bf16" => "h",
        _ => return None,
    })
}

/// Registers given out in turn.
#[derive(Default)]
struct Names(HashMap<String, usize>);

impl Names {
    fn one(&mut self, letter: &str) -> String {
        let letter = if letter == "l" { "rd" } else { letter };
        let n = self.0.entry(letter.to_string()).or_default();
        *n += 1;
        format!("%{letter}{n}")
    }

    fn many(&mut self, letter: &str, count: usize) -> String {
        let list: Vec<String> = (0..count).map(|_| self.one(letter)).collect();
        format!("{{{}}}", list.join(", "))
    }
}

fn operand(token: &str, modifiers: &[&str], names: &mut Names) -> String {
    let types: Vec<&str> = modifiers.iter().filter_map(|m| registers(m)).collect();
    let digit = |text: &str| text.bytes().next().map_or(0, |b| (b - b'0') as usize);
    match token {
        "A" => "[%rd7]".to_string(),
        "M" => {
            let rank = modifiers.iter().find(|m| m.ends_with('d') && m.len() == 2).map_or(0, |m| digit(m));
            let list: Vec<String> = (1..=rank).map(|i| format!("%r{i}")).collect();
            format!("[%rd6, {{{}}}]", list.join(", "))
        }
        "V" => {
            let count =
                modifiers.iter().find_map(|m| matches!(*m, "v2" | "v4" | "v8").then(|| digit(&m[1..])));
            let letter = types[types.len() - 1];
            match count {
                Some(count) => names.many(letter, count),
                None => names.one(letter),
            }
        }
        "W" => names.one(if types[0] == "h" { "r" } else { "rd" }),
        "r" | "l" | "h" | "f" | "d" | "p" | "q" => names.one(token),
        _ if token.starts_with("r|") || token.starts_with("_|") => {
            token.replacen('r', &names.one("r"), token.starts_with('r') as usize)
        }
        _ if token.starts_with('T') => names.one(types[digit(&token[1..]) - 1]),
        _ if token.starts_with('{') => names.many(&token[1..2], token[2..token.len() - 1].parse().unwrap()),
        _ => token.to_string(),
    }
}

/// The alternatives of a word of a form, the empty one where it is optional.
fn alternatives(word: &str, sets: &HashMap<&str, &str>) -> Vec<String> {
    let inner = word.strip_prefix('{').and_then(|w| w.strip_suffix('}'));
    let parts = inner.unwrap_or(word).split('|').flat_map(|part| match part.strip_prefix('@') {
        Some(name) => sets[name].split('|').map(str::to_string).collect::<Vec<_>>(),
        None => vec![part.to_string()],
    });
    inner.map(|_| String::new()).into_iter().chain(parts).collect()
}

/// Every text of the table with its oldest target.
fn texts() -> Vec<(&'static str, String)> {
    let mut sets = HashMap::new();
    let mut out = Vec::new();
    for line in TABLE.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        if let Some((name, set)) = line.strip_prefix('@').and_then(|l| l.split_once(" = ")) {
            sets.insert(name, set);
            continue;
        }
        let (target, rest) = line.split_once(" | ").unwrap();
        let (form, operands) = rest.split_once(" |").unwrap();
        let (operands, policy) = (operands.trim().trim_end_matches('+'), operands.ends_with('+'));
        let mut words = form.split_whitespace();
        let mut heads: Vec<String> = words.next().unwrap().split('|').map(str::to_string).collect();
        for word in words {
            let choices = alternatives(word, &sets);
            heads = heads.iter().flat_map(|h| choices.iter().map(move |c| format!("{h}{c}"))).collect();
        }
        for head in heads {
            let modifiers: Vec<&str> = head.split('.').skip(1).collect();
            let mut names = Names::default();
            let tokens = operands.split(", ").filter(|t| !t.is_empty());
            let mut list: Vec<String> = tokens.map(|t| operand(t, &modifiers, &mut names)).collect();
            if policy && modifiers.contains(&"L2::cache_hint") {
                list.push(names.one("rd"));
            }
            let space = if list.is_empty() { "" } else { " " };
            out.push((target, format!("{head}{space}{};", list.join(", "))));
        }
    }
    out
}

/// The newest target that does not have what this one has.
fn older(target: &str) -> Option<&'static str> {
    match target {
        "80" => None,
        "90a" => Some("sm_90"),
        _ => Some("sm_80"),
    }
}

#[test]
fn every_form_is_accepted_for_its_target_and_no_older_one() {
    let texts = texts();
    assert!(texts.len() > 5000, "{} texts", texts.len());
    let mut wrong = Vec::new();
    for (target, text) in &texts {
        if let Err(e) = Module::parse(&kernel(&format!("sm_{target}"), &[text])) {
            wrong.push(format!("sm_{target}: {text}: {e}"));
        }
        if let Some(older) = older(target)
            && Module::parse(&kernel(older, &[text])).is_ok()
        {
            wrong.push(format!("{older} accepts {text}"));
        }
    }
    println!("{} texts, {} wrong", texts.len(), wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// PTX versions and what came with them.
const VERSIONS: &[(&str, &str, &str, &str)] = &[
    (
        "7.0",
        "7.1",
        "sm_80",
        "mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32.and.popc {%r1, %r2}, {%r3}, {%r4}, {%r5, %r6};",
    ),
    (
        "7.0",
        "7.1",
        "sm_80",
        "mma.sp.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f1, %f2, %f3, %f4}, {%r1, %r2}, {%r3, %r4}, {%f1, %f2, %f3, %f4}, %r5, 0;",
    ),
    ("7.0", "7.1", "sm_80", "cvt.f32.bf16 %f1, %h1;"),
    ("7.0", "7.1", "sm_80", "mbarrier.test_wait.parity.b64 %p1, [%rd7], %r1;"),
    ("7.2", "7.3", "sm_80", "alloca.u64 %rd1, %rd2;"),
    ("7.3", "7.4", "sm_80", "ld.global.L2::128B.u32 %r1, [%rd7];"),
    ("7.3", "7.4", "sm_80", "st.global.L1::no_allocate.u32 [%rd7], %r1;"),
    ("7.3", "7.4", "sm_80", "discard.global.L2 [%rd7], 128;"),
    ("7.3", "7.4", "sm_80", "createpolicy.fractional.L2::evict_last.b64 %rd1;"),
    ("7.4", "7.5", "sm_80", "fence.proxy.alias;"),
    ("7.5", "7.6", "sm_80", "szext.clamp.s32 %r1, %r2, %r3;"),
    ("7.6", "7.7", "sm_80", "isspacep.param %p1, %rd1;"),
    ("7.7", "7.8", "sm_80", "ld.shared::cta.u32 %r1, [%rd7];"),
    ("7.8", "8.0", "sm_80", "mbarrier.arrive.release.cta.b64 %rd1, [%rd7];"),
    ("7.8", "8.0", "sm_90", "add.u16x2 %r1, %r2, %r3;"),
    ("7.8", "8.0", "sm_90", "elect.sync %r1|%p1, -1;"),
    ("7.8", "8.0", "sm_90", "cp.async.bulk.commit_group;"),
    ("7.8", "8.0", "sm_90", "mbarrier.try_wait.acquire.cta.b64 %p1, [%rd7], %rd1;"),
    ("8.0", "8.1", "sm_80", "cvt.rn.satfinite.f16.f32 %h1, %f1;"),
    ("8.0", "8.1", "sm_89", "cvt.rn.satfinite.e4m3x2.f32 %h1, %f1, %f2;"),
    ("8.0", "8.1", "sm_90", "fma.rn.oob.f16 %h1, %h2, %h3, %h4;"),
    ("8.0", "8.1", "sm_90", "red.global.add.v2.f32 [%rd7], {%f1, %f2};"),
    ("8.0", "8.1", "sm_90", "st.async.mbarrier::complete_tx::bytes.u32 [%rd7], %r1, [%rd7];"),
    ("8.1", "8.2", "sm_80", "lop3.and.b32 %r1|%p1, %r2, %r3, %r4, 0x1e, %p2;"),
    ("8.1", "8.2", "sm_80", "ld.mmio.relaxed.sys.global.u32 %r1, [%rd7];"),
    (
        "8.1",
        "8.2",
        "sm_90a",
        "wgmma.mma_async.sp.sync.aligned.m64n8k16.f32.tf32.tf32 {%f1, %f2, %f3, %f4}, %rd1, %rd2, %r1, 0, %p1, 1, 1;",
    ),
    ("8.2", "8.3", "sm_80", "ld.param::entry.u32 %r1, [pa];"),
    ("8.2", "8.3", "sm_90", "fence.proxy.tensormap::generic.release.gpu;"),
    (
        "8.3",
        "8.4",
        "sm_89",
        "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e5m2.f32 {%f1, %f2, %f3, %f4}, {%r1, %r2, %r3, %r4}, {%r5, %r6}, {%f1, %f2, %f3, %f4};",
    ),
    (
        "8.3",
        "8.4",
        "sm_90a",
        "wgmma.mma_async.sync.aligned.m64n8k32.s32.s8.u8 {%r1, %r2, %r3, %r4}, %rd1, %rd2, %p1;",
    ),
    (
        "8.4",
        "8.5",
        "sm_80",
        "mma.sp::ordered_metadata.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f1, %f2, %f3, %f4}, {%r1, %r2}, {%r3, %r4}, {%f1, %f2, %f3, %f4}, %r5, 0;",
    ),
    (
        "8.5",
        "8.6",
        "sm_90",
        "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%rd7], [%rd7], %r1, [%rd7];",
    ),
    ("8.5", "8.6", "sm_90", "mbarrier.arrive.relaxed.cta.b64 %rd1, [%rd7];"),
    (
        "8.6",
        "8.7",
        "sm_89",
        "mma.sync.aligned.m16n8k16.row.col.f16.e4m3.e5m2.f16 {%r1, %r2}, {%r3, %r4}, {%r5}, {%r6, %r7};",
    ),
];

/// A kernel of a PTX version, without the registers that came late.
fn kernel_of(version: &str, target: &str, line: &str) -> String {
    let text = kernel(target, &[line]).replacen("9.0", version, 1);
    text.replace(" .reg .b128 %q<8>;", "")
}

#[test]
fn forms_come_with_their_version() {
    let ptxas = ptxas("versions");
    if ptxas.is_none() {
        println!("ptxas: not run, {} texts", 2 * VERSIONS.len());
    }
    let mut wrong = Vec::new();
    for (before, since, target, line) in VERSIONS {
        for (version, accepted) in [(before, false), (since, true)] {
            let text = kernel_of(version, target, line);
            if Module::parse(&text).is_ok() != accepted {
                wrong.push(format!("{version} {target}: {line}"));
            }
            if let Some(ptxas) = &ptxas
                && ptxas.compile(target, &text).is_ok() != accepted
            {
                wrong.push(format!("ptxas, {version} {target}: {line}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Of `lines`, those that ptxas refuses, with what it says. It stops at a text that it cannot parse, so the rest goes
/// again without it.
fn refused<'a>(ptxas: &Ptxas, target: &str, lines: &[&'a str]) -> Vec<(&'a str, String)> {
    let mut out = Vec::new();
    for chunk in lines.chunks(400) {
        let mut left = chunk.to_vec();
        while !left.is_empty() {
            let Err(errors) = ptxas.compile(target, &kernel(target, &left)) else { break };
            let mut bad: HashMap<usize, String> = HashMap::new();
            for line in errors.lines() {
                let Some((at, message)) = line.split_once(", line ").and_then(|(_, l)| l.split_once(';'))
                else {
                    continue;
                };
                let at = at.parse::<usize>().unwrap_or(0);
                if at > BEFORE && at - BEFORE <= left.len() && !message.contains("warning") {
                    bad.entry(at - BEFORE - 1).or_insert_with(|| message.trim().to_string());
                }
            }
            assert!(
                !bad.is_empty(),
                "{target}: ptxas fails without naming a line: {errors}\n{}",
                left.join("\n")
            );
            let mut at = 0;
            left.retain(|line| {
                at += 1;
                bad.remove(&(at - 1)).inspect(|message| out.push((*line, message.clone()))).is_none()
            });
        }
    }
    out
}

#[test]
fn ptxas_agrees_with_every_form() {
    let texts = texts();
    let Some(ptxas) = ptxas("grammar") else {
        println!("ptxas: not run, {} texts", texts.len());
        return;
    };
    let mut wrong = Vec::new();
    for target in ["80", "89", "90", "90a"] {
        let mine: Vec<&str> = texts.iter().filter(|(t, _)| *t == target).map(|(_, text)| &text[..]).collect();
        for (text, message) in refused(&ptxas, &format!("sm_{target}"), &mine) {
            wrong.push(format!("refused for sm_{target}: {text} {message}"));
        }
        if let Some(older) = older(target) {
            let refused = refused(&ptxas, older, &mine).len();
            if refused != mine.len() {
                wrong.push(format!(
                    "{} of the forms of sm_{target} are accepted for {older}",
                    mine.len() - refused
                ));
            }
        }
    }
    println!("ptxas: {} texts, {} differ", texts.len(), wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
