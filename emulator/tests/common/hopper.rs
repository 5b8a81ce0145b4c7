//! Broken copies of the kernels of tests/cuda/hopper.cu, changed in their PTX: how they are launched and judged.

use super::{Run, tensor_map};
use handloom_emulator::{Arch, Arg, AsyncTiming, FindingKind as Kind, LaunchConfig, LaunchReport, Options};

const PTX: &str = include_str!("../ptx/hopper.ptx");

/// The text of one kernel, with the head of the module.
pub fn kernel(name: &str) -> String {
    let head = &PTX[..PTX.find(".visible .entry").unwrap()];
    let start = PTX.find(&format!(".visible .entry {name}(")).unwrap();
    let rest = &PTX[start + 1..];
    let end = rest.find(".visible .entry").or_else(|| rest.find("\t.file")).unwrap_or(rest.len());
    let files = &PTX[PTX.find("\t.file").unwrap()..];
    let files = &files[..files.find("\t.section").unwrap_or(files.len())];
    format!("{head}{}\n{files}", &PTX[start..start + 1 + end])
}

pub fn options(timing: AsyncTiming) -> Options {
    Options { arch: Arch::named("sm_90a").unwrap(), async_timing: timing, ..Options::default() }
}

pub fn launch(name: &str, ptx: &str, timing: AsyncTiming) -> LaunchReport {
    let mut run = Run::new(ptx, options(timing));
    let shape = |grid: [u32; 3], threads, dynamic_shared| LaunchConfig {
        grid,
        block: [threads, 1, 1],
        cluster: [1; 3],
        dynamic_shared,
    };
    let (config, args): (LaunchConfig, Vec<Arg>) = match name {
        "tma_copy" => {
            let a = run.put("in", &vec![1.5f32; 128 * 16]);
            let b = run.empty::<f32>("out", 128 * 16);
            let map = |p| tensor_map(7, p, &[128, 16], &[32, 16], 0, 4);
            (shape([1, 1, 1], 128, 0), vec![map(a), map(b), 4i32.into()])
        }
        "matmul" => {
            let a = run.put("a", &vec![0x3f80u16; 256 * 512]);
            let b = run.put("b", &vec![0x4000u16; 128 * 512]);
            let c = run.empty::<f32>("c", 256 * 128);
            let maps = [
                tensor_map(9, a, &[512, 256], &[64, 128], 3, 2),
                tensor_map(9, b, &[512, 128], &[64, 64], 3, 2),
            ];
            let [ma, mb] = maps;
            let config = shape([1, 2, 1], 384, 3 * 2 * 128 * 64 * 2 + 64);
            (config, vec![ma, mb, c.into(), 128i32.into(), 512i32.into()])
        }
        "cluster_sum" => {
            let (a, b) = (run.put("in", &vec![1.0f32; 1000]), run.empty::<f32>("out", 1));
            (shape([4, 1, 1], 128, 0), vec![a.into(), b.into(), 1000i32.into()])
        }
        "send" => {
            let (a, b) = (run.put("in", &vec![3i32; 128]), run.empty::<i32>("out", 128));
            (shape([2, 1, 1], 64, 0), vec![a.into(), b.into()])
        }
        "tma_reduce" => {
            let a = run.put("out", &vec![0.0f32; 36 * 10]);
            (shape([2, 1, 1], 64, 0), vec![tensor_map(7, a, &[36, 10], &[32, 8], 0, 4)])
        }
        _ => {
            let (a, b) = (run.put("in", &vec![1i32; 200]), run.empty::<i32>("out", 200));
            let s = run.put("sum", &vec![0i32; 100]);
            (shape([2, 1, 1], 128, 400), vec![a.into(), b.into(), s.into(), 100i32.into()])
        }
    };
    run.launch(name, config, &args)
}

/// Which occurrences a change concerns.
#[derive(Clone, Copy)]
pub enum At {
    All,
    Nth(usize),
}
pub use At::{All, Nth};

pub struct Mutant {
    pub kernel: &'static str,
    pub what: &'static str,
    pub at: At,
    pub change: (&'static str, &'static str),
    /// A second change, made after the first.
    pub and: Option<(At, (&'static str, &'static str))>,
    pub expected: Kind,
    /// A part of a message.
    pub says: &'static str,
}

pub const fn m(
    kernel: &'static str,
    what: &'static str,
    at: At,
    change: (&'static str, &'static str),
    expected: Kind,
    says: &'static str,
) -> Mutant {
    Mutant { kernel, what, at, change, and: None, expected, says }
}

/// A mutant with a second change.
pub const fn then(first: Mutant, at: At, change: (&'static str, &'static str)) -> Mutant {
    Mutant { and: Some((at, change)), ..first }
}

pub fn mutate(text: &str, at: At, (from, to): (&str, &str)) -> String {
    assert!(text.contains(from), "the kernel does not contain `{from}`");
    match at {
        All => text.replace(from, to),
        Nth(n) => {
            let (start, _) =
                text.match_indices(from).nth(n).unwrap_or_else(|| panic!("no occurrence {n} of `{from}`"));
            format!("{}{to}{}", &text[..start], &text[start + from.len()..])
        }
    }
}

/// Launches every mutant early and late, prints the table, and fails unless each is found late.
#[track_caller]
pub fn assert_flagged(mutants: &[Mutant]) {
    let mut missed = Vec::new();
    println!("{:<12} {:<48} {:<20} late early", "kernel", "defect", "finding");
    for mutant in mutants {
        let mut ptx = mutate(&kernel(mutant.kernel), mutant.at, mutant.change);
        if let Some((at, change)) = mutant.and {
            ptx = mutate(&ptx, at, change);
        }
        let flagged = [AsyncTiming::Late, AsyncTiming::Early].map(|timing| {
            let report = launch(mutant.kernel, &ptx, timing);
            let found =
                report.findings.iter().any(|f| f.kind == mutant.expected && f.message.contains(mutant.says));
            if !found && timing == AsyncTiming::Late {
                missed.push(format!(
                    "{} {}: expected {:?} `{}`, found\n{}",
                    mutant.kernel,
                    mutant.what,
                    mutant.expected,
                    mutant.says,
                    report.findings.iter().map(|f| format!("  {:?}: {f}\n", f.kind)).collect::<String>()
                ));
            }
            found
        });
        let word = |found| if found { "yes" } else { "-" };
        println!(
            "{:<12} {:<48} {:<20} {:<4} {}",
            mutant.kernel,
            mutant.what,
            format!("{:?}", mutant.expected),
            word(flagged[0]),
            word(flagged[1])
        );
    }
    assert!(
        missed.is_empty(),
        "{} of {} mutants missed:\n{}",
        missed.len(),
        mutants.len(),
        missed.join("\n")
    );
}
