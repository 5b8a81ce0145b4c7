//! The kernels' machine code, without a GPU: `kernels/budget.toml` against the manifest, a fresh compile, and the disassembly.
//!
//! The first part needs nothing. The others (each kernel's machine code for its own architecture; that sm_80's PTX spills nothing on
//! Hopper either) need the CUDA compiler, assembler and disassembler (`CUDA=ROOT`, installed by `.ci/run` from pip); without them they
//! print "not run".

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use handloom_kernels::build;
use handloom_kernels::manifest::{File, Manifest, Usage, embedded};
use handloom_kernels::ptx;
use serde::Deserialize;

/// `kernels/budget.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Budget {
    kernel: Vec<Row>,
}

/// What the entries that match `pattern` may use and must do.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    /// An entry's name; `*` stands for any characters.
    pattern: String,
    max_registers: u32,
    /// Starts of SASS instructions of which there must be at least one.
    #[serde(default)]
    require: Vec<String>,
    /// Starts of SASS instructions of which there must be none.
    #[serde(default)]
    forbid: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_owned()
}

fn budget() -> Budget {
    let path = root().join("kernels/budget.toml");
    let text = std::fs::read_to_string(&path).expect("kernels/budget.toml");
    toml::from_str(&text).unwrap_or_else(|error| panic!("kernels/budget.toml: {error}"))
}

fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// What a kernel keeps in local memory, if anything.
fn spill(name: &str, usage: &Usage) -> Option<String> {
    let Usage { spill_bytes, stack_bytes, .. } = *usage;
    (spill_bytes > 0 || stack_bytes > 0)
        .then(|| format!("{name} spills {spill_bytes} B and has {stack_bytes} B of stack"))
}

fn usage_breaches(manifest: &Manifest, budget: &Budget) -> Vec<String> {
    let mut breaches = Vec::new();
    for (name, usage) in manifest.files.values().flat_map(|file| &file.entries) {
        breaches.extend(spill(name, usage));
        let rows: Vec<&Row> = budget.kernel.iter().filter(|row| matches(&row.pattern, name)).collect();
        if rows.is_empty() {
            breaches.push(format!("{name} matches no row of kernels/budget.toml"));
        }
        for row in rows.iter().filter(|row| usage.registers > row.max_registers) {
            let (got, most) = (usage.registers, row.max_registers);
            breaches.push(format!("{name} takes {got} registers, {} allows {most}", row.pattern));
        }
    }
    let entries = || manifest.files.values().flat_map(|file| file.entries.keys());
    for row in budget.kernel.iter().filter(|row| !entries().any(|name| matches(&row.pattern, name))) {
        breaches.push(format!("no kernel matches the row {}", row.pattern));
    }
    breaches
}

#[test]
fn patterns_match_like_globs() {
    for (pattern, name, want) in [
        ("cast_*", "cast_f32_f16", true),
        ("cast_*_f16", "cast_f32_f16", true),
        ("cast_*_f16", "cast_f32_bf16", false),
        ("a*b*c", "aXbYc", true),
        ("a*b*c", "aXc", false),
        ("gelu", "gelu", true),
        ("gelu", "gelu_tanh", false),
    ] {
        assert_eq!(matches(pattern, name), want, "{pattern} {name}");
    }
}

#[test]
fn sources_ptx_and_manifest_belong_together() {
    build::check_hashes(embedded()).unwrap_or_else(|message| panic!("{message}"));
    let listed: BTreeSet<&str> =
        embedded().files.values().flat_map(|file| file.entries.keys().map(String::as_str)).collect();
    let embedded: BTreeSet<&str> = ptx::entries().iter().map(|entry| entry.name).collect();
    assert_eq!(listed, embedded, "the manifest and the PTX list other kernels");
}

#[test]
fn registers_and_spills_are_within_budget() {
    let breaches = usage_breaches(embedded(), &budget());
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn a_breach_is_seen() {
    let mut manifest = Manifest::default();
    let usage = Usage { registers: 40, spill_bytes: 8, ..Default::default() };
    let entries = [("a".to_string(), usage), ("b".to_string(), usage)].into();
    manifest.files.insert("x".into(), File { entries, ..File::default() });
    let row = |pattern: &str, max_registers| Row {
        pattern: pattern.into(),
        max_registers,
        require: Vec::new(),
        forbid: Vec::new(),
    };
    let budget = Budget { kernel: vec![row("a", 39), row("c", 1)] };
    // Two spills, one row exceeded, one kernel without a row, one row without a kernel.
    assert_eq!(usage_breaches(&manifest, &budget).len(), 5);
}

/// Every kernel is launched by somebody: its name stands in a launcher.
#[test]
fn every_kernel_has_a_launcher() {
    let mut text = String::new();
    let mut folders = vec![root().join("kernels/src"), root().join("kernels/examples")];
    while let Some(folder) = folders.pop() {
        let Ok(files) = std::fs::read_dir(folder) else { continue };
        for path in files.flatten().map(|file| file.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                text += &std::fs::read_to_string(path).expect("a readable source");
            }
        }
    }
    let orphans: Vec<&str> = ptx::entries()
        .iter()
        .map(|entry| entry.name)
        .filter(|name| !text.contains(&format!("\"{name}\"")))
        .collect();
    assert!(orphans.is_empty(), "no launcher names {orphans:?}");
}

#[test]
fn a_fresh_compile_gives_the_committed_ptx_and_its_machine_code_keeps_the_budget() {
    let Some(cuda) = std::env::var_os("CUDA").map(PathBuf::from) else {
        println!(
            "not run: fresh compile and disassembly of {} kernels (CUDA is not set)",
            ptx::entries().len()
        );
        return;
    };
    build::build(&cuda, true).unwrap_or_else(|message| panic!("{message}"));
    let disassemble = |arch| build::disassemble(&cuda, arch).unwrap_or_else(|message| panic!("{message}"));
    let mut functions = disassemble("sm_90a");
    functions.extend(disassemble("sm_80")); // in place of the same kernels on Hopper
    let mut breaches = Vec::new();
    for entry in ptx::entries() {
        let Some(sass) = functions.get(entry.name) else {
            breaches.push(format!("{} is not in the disassembly", entry.name));
            continue;
        };
        for row in budget().kernel.iter().filter(|row| matches(&row.pattern, entry.name)) {
            let count = |start: &String| sass.iter().filter(|line| line.starts_with(start.as_str())).count();
            for start in row.require.iter().filter(|start| count(start) == 0) {
                breaches.push(format!("{} has no {start}", entry.name));
            }
            for start in row.forbid.iter().filter(|start| count(start) > 0) {
                breaches.push(format!("{} has {} {start}", entry.name, count(start)));
            }
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
    println!("{} kernels: compiled afresh, disassembled, within budget", functions.len());
}

/// The driver of a newer GPU assembles the same PTX anew, with other instructions and another use of registers.
#[test]
fn nothing_spills_on_hopper() {
    let Some(cuda) = std::env::var_os("CUDA").map(PathBuf::from) else {
        println!("not run: {} kernels assembled for sm_90a (CUDA is not set)", ptx::entries().len());
        return;
    };
    let usage = build::usage_on(&cuda, "sm_90a").unwrap_or_else(|message| panic!("{message}"));
    let missing: Vec<&str> =
        ptx::entries().iter().map(|entry| entry.name).filter(|name| !usage.contains_key(*name)).collect();
    assert!(missing.is_empty(), "not assembled for sm_90a: {missing:?}");
    let breaches: Vec<String> = usage.iter().filter_map(|(name, usage)| spill(name, usage)).collect();
    assert!(breaches.is_empty(), "on sm_90a:\n{}", breaches.join("\n"));
    println!("{} kernels assembled for sm_90a: no spills, no stack", usage.len());
}
