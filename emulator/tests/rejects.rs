//! The emulator rejects what ptxas rejects: right instructions, each made wrong in one way by a rule, and what the
//! parser must survive. Where a ptxas is found (`HANDLOOM_PTXAS`, `CUDA_HOME`, `CUDA_PATH` or `PATH`) it confirms.

mod common;

use std::time::{Duration, Instant};

use common::{Random, ptxas};
use handloom_emulator::Module;

const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

/// A kernel with registers of every type around one instruction, which is line 12 of it.
fn kernel(head: &str, line: &str) -> String {
    format!(
        "{head}.visible .entry k(.param .u64 p)\n{{\n.reg .pred %p<4>; .reg .b16 %h<4>; .reg .f32 %f<8>;\n\
         .reg .b32 %r<16>; .reg .b64 %rd<8>; .reg .f64 %d<4>;\n.shared .align 16 .b8 sh[256];\n.local .align 8 .b8 lo[16];\n\
         ld.param.u64 %rd1, [p];\nmov.u32 %r1, 1;\n{line}\nret;\n}}\n"
    )
}

/// Instructions that are right.
const RIGHT: &[&str] = &[
    "add.s32 %r2, %r1, %r3;",
    "sub.u64 %rd2, %rd1, %rd3;",
    "mul.lo.s32 %r2, %r1, %r3;",
    "mul.wide.u32 %rd2, %r1, %r3;",
    "mad.lo.s32 %r2, %r1, %r3, %r4;",
    "min.u32 %r2, %r1, %r3;",
    "and.b32 %r2, %r1, %r3;",
    "shl.b32 %r2, %r1, %r3;",
    "shf.l.wrap.b32 %r2, %r1, %r3, %r4;",
    "lop3.b32 %r2, %r1, %r3, %r4, 0x80;",
    "prmt.b32 %r2, %r1, %r3, 0x5410;",
    "bfe.u32 %r2, %r1, %r3, %r4;",
    "popc.b32 %r2, %r1;",
    "add.rn.f32 %f1, %f2, %f3;",
    "fma.rn.f32 %f1, %f2, %f3, %f4;",
    "fma.rn.f64 %d1, %d2, %d3, %d0;",
    "div.rn.f32 %f1, %f2, %f3;",
    "sqrt.rn.f32 %f1, %f2;",
    "ex2.approx.ftz.f32 %f1, %f2;",
    "rsqrt.approx.f32 %f1, %f2;",
    "fma.rn.bf16x2 %r2, %r1, %r3, %r4;",
    "setp.lt.f32 %p1, %f1, %f2;",
    "setp.ge.s32 %p1, %r1, %r2;",
    "selp.b32 %r2, %r1, %r3, %p1;",
    "cvt.rn.f32.s32 %f1, %r1;",
    "cvt.rzi.s32.f32 %r1, %f1;",
    "cvt.rn.bf16x2.f32 %r1, %f1, %f2;",
    "mov.b32 %r2, %f1;",
    "mov.b64 %rd2, {%r1, %r2};",
    "ld.global.u32 %r2, [%rd1];",
    "ld.global.nc.v4.f32 {%f1, %f2, %f3, %f4}, [%rd1+16];",
    "st.global.v2.b32 [%rd1], {%r1, %r2};",
    "ld.shared.u32 %r2, [sh+4];",
    "st.local.u32 [lo], %r1;",
    "ld.volatile.global.u32 %r2, [%rd1];",
    "ld.acquire.gpu.global.u32 %r2, [%rd1];",
    "st.release.gpu.global.u32 [%rd1], %r2;",
    "atom.global.add.u32 %r2, [%rd1], %r3;",
    "atom.global.cas.b32 %r2, [%rd1], %r3, %r4;",
    "red.global.add.f32 [%rd1], %f1;",
    "shfl.sync.bfly.b32 %r2|%p1, %r1, 1, 31, -1;",
    "vote.sync.ballot.b32 %r2, %p1, -1;",
    "redux.sync.add.s32 %r2, %r1, -1;",
    "match.any.sync.b32 %r2, %r1, -1;",
    "bar.sync 0;",
    "bar.warp.sync -1;",
    "barrier.sync.aligned 1, 64;",
    "membar.gl;",
    "cp.async.cg.shared.global [%r1], [%rd1], 16;",
    "cp.async.wait_group 1;",
    "ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r1, %r2}, [%r3];",
    "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%f1,%f2,%f3,%f4}, {%r1,%r2}, {%r3}, {%f1,%f2,%f3,%f4};",
    "nanosleep.u32 100;",
    "cvta.to.global.u64 %rd2, %rd1;",
    "@%p1 bra END; END:",
];

/// An instruction made wrong in every way the rules know: what, and the text.
fn wrong_ones(right: &str) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    let (form, operands) = right.split_once(' ').unwrap_or((right, ""));
    if form.starts_with('@') {
        out.push(("label that is not there", right.replace("bra END", "bra NOWHERE")));
        out.push(("guard of the wrong type", right.replace("@%p1", "@%r1")));
        return out;
    }
    let root = form.split('.').next().unwrap_or_default();
    out.push(("unknown root", right.replacen(root, &format!("{root}x"), 1)));
    out.push(("unknown modifier", right.replacen(form, &format!("{form}.frob"), 1)));
    // A type that no instruction has.
    if let Some(last) = form.rsplit('.').next().filter(|t| t.ends_with("32") || t.ends_with("64")) {
        let size = &last[last.len() - 2..];
        let broken = form.strip_suffix(size).unwrap_or(form);
        out.push(("type of a size there is not", right.replacen(form, &format!("{broken}33"), 1)));
    }
    let list = operands.trim_end_matches(';');
    if !list.is_empty() {
        out.push((
            "unknown register",
            right.replacen(
                list,
                &list
                    .replacen("%r1", "%zz", 1)
                    .replacen("%rd1", "%zz", 1)
                    .replacen("%f2", "%zz", 1)
                    .replacen("%d2", "%zz", 1),
                1,
            ),
        ));
        out.push(("operand too many", format!("{form} {list}, %r1, %r1, %r1, %r1;")));
        if let Some((front, _)) = list
            .rsplit_once(", ")
            .filter(|_| !list.ends_with('}') && !list.ends_with("-1") && root != "barrier")
        {
            out.push(("operand missing", format!("{form} {front};")));
        }
        out.push(("semicolon missing", format!("{form} {list}")));
        if list.starts_with("%f1,") && root != "cvt" {
            out.push(("float result in a 64-bit register", right.replacen("%f1", "%rd2", 1)));
            out.push(("float source that is an integer constant", right.replacen(", %f2", ", 3", 1)));
        }
        if list.starts_with("%r2,") {
            out.push(("32-bit result in a predicate", right.replacen("%r2", "%p2", 1)));
            out.push(("32-bit result in a 64-bit register", right.replacen("%r2", "%d1", 1)));
            out.push(("result that is a constant", right.replacen("%r2", "7", 1)));
        }
        if list.starts_with("%rd2,") {
            out.push(("64-bit result in a 32-bit register", right.replacen("%rd2", "%r2", 1)));
        }
        if list.contains("[%rd1") {
            if root != "cp" {
                out.push(("global address in a 32-bit register", right.replacen("[%rd1", "[%r1", 1)));
            }
            out.push(("address in a float", right.replacen("[%rd1", "[%d1", 1)));
            out.push(("brackets missing", right.replacen("[%rd1]", "%rd1", 1)));
        }
    }
    out.retain(|(_, text)| text != right);
    out
}

/// Wrong texts that no rule makes.
const SINGLE: &[(&str, &str)] = &[
    ("rounding missing", "fma.f32 %f1, %f2, %f3, %f4;"),
    ("rounding missing in a conversion", "cvt.f32.s32 %f1, %r1;"),
    ("two roundings", "add.rn.rz.f32 %f1, %f2, %f3;"),
    ("saturation of an unsigned sum", "add.sat.u32 %r2, %r1, %r3;"),
    ("wide product of 64 bits", "mul.wide.u64 %rd2, %rd1, %rd3;"),
    ("product without a half", "mul.s32 %r2, %r1, %r3;"),
    ("order of bits", "setp.lt.b32 %p1, %r1, %r2;"),
    ("shift of a signed type to the left", "shl.s32 %r2, %r1, 1;"),
    ("vector of too many registers", "ld.global.v2.u32 {%r1, %r2, %r3}, [%rd1];"),
    ("vector of too few", "ld.global.v4.u32 {%r1, %r2}, [%rd1];"),
    ("vector over 16 bytes", "ld.global.v4.u64 {%rd1, %rd2, %rd3, %rd4}, [%rd1];"),
    ("store to constants", "st.const.u32 [%rd1], %r1;"),
    ("store to parameters of the kernel", "st.param.u32 [p], %r1;"),
    ("unknown parameter", "ld.param.u64 %rd1, [q];"),
    ("wrong size of an asynchronous copy", "cp.async.cg.shared.global [%r1], [%rd1], 8;"),
    ("size of an asynchronous copy in a register", "cp.async.ca.shared.global [%r1], [%rd1], %r2;"),
    ("groups in a register", "cp.async.wait_group %r1;"),
    ("truth table in a register", "lop3.b32 %r2, %r1, %r3, %r4, %r5;"),
    ("barrier number out of range", "bar.sync 16;"),
    ("arrival without a count", "bar.arrive 1;"),
    (
        "matrix with a register too few",
        "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%f1,%f2,%f3,%f4}, {%r1}, {%r3}, {%f1,%f2,%f3,%f4};",
    ),
    (
        "matrix of a shape there is not",
        "mma.sync.aligned.m16n8k9.row.col.f32.bf16.bf16.f32 {%f1,%f2,%f3,%f4}, {%r1,%r2}, {%r3}, {%f1,%f2,%f3,%f4};",
    ),
    (
        "matrix of mixed types",
        "mma.sync.aligned.m16n8k8.row.col.f32.bf16.f16.f32 {%f1,%f2,%f3,%f4}, {%r1,%r2}, {%r3}, {%f1,%f2,%f3,%f4};",
    ),
    ("matrix rows in global memory", "ldmatrix.sync.aligned.m8n8.x1.global.b16 {%r1}, [%rd1];"),
    ("rounding to tf32 in a float", "cvt.rna.tf32.f32 %f1, %f2;"),
    ("cas of a float", "atom.global.cas.f32 %f1, [%rd1], %f2, %f3;"),
    ("atomic in local memory", "atom.local.add.u32 %r1, [lo], %r2;"),
    ("shuffle without a mask", "shfl.bfly.b32 %r2, %r1, 1, 31;"),
    ("label twice", "END: END: add.s32 %r1, %r1, 1;"),
    ("register declared twice", ".reg .b32 %q; .reg .b64 %q;"),
    ("brace too many", "add.s32 %r1, %r1, 1; }"),
    ("call of what there is not", "call.uni nothing;"),
    ("predicate as a number", "add.s32 %r1, %p1, 1;"),
    ("negated predicate as a number", "mov.u32 %r1, !%p1;"),
    ("half of the wrong size", "add.f16 %r1, %r2, %r3;"),
    ("special register of the wrong type", "mov.f32 %f1, %tid.x;"),
    ("special register without an axis", "mov.u32 %r1, %tid;"),
    ("special register there is not", "mov.u32 %r1, %tidy.x;"),
    ("newer than the target: mbarrier try_wait", "mbarrier.try_wait.shared.b64 %p1, [%rd1], %rd2;"),
    ("newer than the target: cluster barrier", "barrier.cluster.arrive.aligned;"),
    ("newer than the target: wgmma", "wgmma.fence.sync.aligned;"),
    ("newer than the target: elect", "elect.sync %r1|%p1, -1;"),
    ("newer than the target: bulk copy", "cp.async.bulk.commit_group;"),
    ("newer than the target: register pool", "setmaxnreg.inc.sync.aligned.u32 96;"),
    ("newer than the target: fp8", "cvt.rn.satfinite.e4m3x2.f32 %h1, %f1, %f2;"),
    ("newer than the target: packed 16-bit sum", "add.u16x2 %r2, %r1, %r3;"),
    ("newer than the target: packed float atomic", "atom.global.v2.f32.add {%f1, %f2}, [%rd1], {%f1, %f2};"),
    ("newer than the target: stmatrix", "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r1], {%r2};"),
];

fn cases() -> Vec<(&'static str, String)> {
    let mut out: Vec<(&'static str, String)> = RIGHT.iter().flat_map(|r| wrong_ones(r)).collect();
    out.extend(SINGLE.iter().map(|(what, text)| (*what, text.to_string())));
    out
}

#[test]
fn right_instructions_are_accepted() {
    for line in RIGHT {
        let result = Module::parse(&kernel(HEAD, line));
        assert!(result.is_ok(), "{line}: {}", result.err().unwrap());
    }
}

#[test]
fn wrong_instructions_are_rejected_with_a_line() {
    let cases = cases();
    let mut accepted = Vec::new();
    for (what, line) in &cases {
        match Module::parse(&kernel(HEAD, line)) {
            Ok(_) => accepted.push(format!("{what}: {line}")),
            Err(e) => assert!(e.to_string().starts_with("PTX line"), "{line}: {e}"),
        }
    }
    println!("{} wrong texts, {} accepted", cases.len(), accepted.len());
    assert!(accepted.is_empty(), "accepted:\n{}", accepted.join("\n"));
}

/// ptxas confirms both lists: what is called right, and what is called wrong.
#[test]
fn ptxas_agrees() {
    let Some(ptxas) = ptxas("rejects") else {
        println!("ptxas: not run, {} texts", cases().len() + RIGHT.len());
        return;
    };
    let accepts = |text: &str| ptxas.compile("sm_80", text).is_ok();
    let mut differ = Vec::new();
    for line in RIGHT {
        if !accepts(&kernel(HEAD, line)) {
            differ.push(format!("refused by ptxas: {line}"));
        }
    }
    for (what, line) in cases() {
        if accepts(&kernel(HEAD, &line)) {
            differ.push(format!("accepted by ptxas: {what}: {line}"));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

/// Bytes dropped, doubled, swapped and replaced in real files: an error or a module, in bounded time, never a panic.
#[test]
fn no_mutation_of_a_real_file_makes_the_parser_panic() {
    let corpus = [
        include_str!("ptx/basic.ptx"),
        include_str!("ptx/shared.ptx"),
        include_str!("ptx/control.ptx"),
        include_str!("ptx/tensor.ptx"),
    ];
    let words = [
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        ";",
        ",",
        ":",
        ".",
        "%",
        "@",
        "-",
        "\"",
        "/*",
        "999999999999",
        ".b128",
        ".v4",
        "bra",
        "0x",
    ];
    let mut random = Random(7);
    let mut slowest = Duration::ZERO;
    for round in 0..400 {
        // A window of a file keeps a round short.
        let text = corpus[round % corpus.len()];
        let start = random.next() as usize % text.len().saturating_sub(4000).max(1);
        let head = &text[..text.find(".visible").unwrap_or(0)];
        let mut bytes =
            format!("{head}{}", text.get(start..(start + 4000).min(text.len())).unwrap_or(text)).into_bytes();
        if round % 2 == 0 {
            bytes = text.as_bytes()[..text.len().min(9000)].to_vec();
        }
        for _ in 0..1 + random.next() % 6 {
            let at = random.next() as usize % bytes.len();
            let other = random.next() as usize % bytes.len();
            match random.next() % 5 {
                0 => _ = bytes.remove(at),
                1 => bytes.swap(at, other),
                2 => bytes[at] = random.next() as u8,
                3 => {
                    let word = words[random.next() as usize % words.len()];
                    bytes.splice(at..at, word.bytes());
                }
                _ => {
                    let end = (at + random.next() as usize % 60).min(bytes.len());
                    let copy = bytes[at..end].to_vec();
                    bytes.splice(other..other, copy);
                }
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        let begin = Instant::now();
        let _ = Module::parse(&text);
        slowest = slowest.max(begin.elapsed());
    }
    // A hundred times what a file of this size takes on a busy machine.
    assert!(slowest < Duration::from_secs(20), "{slowest:?}");
}
