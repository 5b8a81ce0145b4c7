//! The repository agrees with itself: documents name files and commands that exist, every op has a card.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_owned()
}

fn documents() -> Vec<PathBuf> {
    let mut found = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    let mut open = vec![
        root().join("docs/src"),
        root().join("bench"),
        root().join("data"),
        root().join("tests/goldens"),
    ];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).expect("a directory of documents") {
            let path = entry.expect("a directory entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|ext| ext == "md") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 8, "hardly any documents: {found:?}");
    found
}

/// What stands between backticks on one line.
fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with("```")).flat_map(|line| line.split('`').skip(1).step_by(2))
}

#[test]
fn paths_named_in_documents_exist() {
    let tops = [
        "kernels/",
        "emulator/",
        "engine/",
        "model/",
        "bin/",
        "tests/",
        "bench/",
        "docs/",
        "data/",
        "configs/",
        ".ci/",
    ];
    let mut checked = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).expect("a readable document");
        for span in code_spans(&text) {
            let path = span.split([' ', ':']).next().unwrap_or("");
            let is_pattern = path.contains(['<', '*', '{', '$', '(']) || path.contains("NAME");
            if is_pattern || !tops.iter().any(|top| path.starts_with(top)) {
                continue;
            }
            // A document in a folder of its own may name its neighbours from there or from the root.
            let here = document.parent().expect("documents lie in a folder").join(path);
            assert!(
                root().join(path).exists() || here.exists(),
                "{}: `{path}` does not exist",
                document.display()
            );
            checked += 1;
        }
    }
    assert!(checked > 15, "only {checked} paths found: the check itself is broken");
}

#[test]
fn commands_named_in_documents_exist() {
    let main = fs::read_to_string(root().join("bin/src/main.rs")).expect("bin/src/main.rs");
    let mut checked = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).expect("a readable document");
        for rest in text.split("handloom ").skip(1) {
            let word: String = rest.chars().take_while(|c| c.is_ascii_lowercase()).collect();
            let next = rest[word.len()..].chars().next();
            let is_command =
                text.contains(&format!("`handloom {word}")) && matches!(next, Some(' ' | '`' | '\n'));
            if word.is_empty() || !is_command {
                continue;
            }
            assert!(
                main.contains(&format!("commands::{word}::run")),
                "{}: `handloom {word}`",
                document.display()
            );
            checked += 1;
        }
    }
    assert!(checked > 5, "only {checked} commands found: the check itself is broken");
}

#[test]
fn every_op_has_a_card_and_a_cpu_kernel_where_it_needs_one() {
    // The optimizer, the norm and generation's attention have no backward and are tested apart; mod.rs is the list.
    let apart = ["mod", "adamw", "norm", "cached_attention"];
    for entry in fs::read_dir(root().join("engine/src/ops")).expect("engine/src/ops") {
        let path = entry.expect("a directory entry").path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a file name").to_owned();
        let has_card = handloom_engine::cards::ALL.iter().any(|card| card.op == stem);
        assert!(has_card || apart.contains(&stem.as_str()), "engine/src/ops/{stem}.rs has no card");
    }
    let mut names: Vec<&str> = handloom_engine::cards::ALL.iter().map(|card| card.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "two cards share a name");
}

/// The files under `dir` whose names end with `end`.
fn sources(dir: &Path, end: &str) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).expect("a folder of sources") {
            let path = entry.expect("a directory entry").path();
            match path.is_dir() {
                true => open.push(path),
                false if path.to_string_lossy().ends_with(end) => found.push(path),
                false => {}
            }
        }
    }
    found
}

#[test]
fn one_module_names_the_cuda_binding() {
    let allowed = root().join("kernels/src/device");
    let mut named = 0;
    for top in ["kernels/src", "engine/src", "model/src", "bin/src"] {
        for path in sources(&root().join(top), ".rs") {
            let names = fs::read_to_string(&path).expect("a source file").contains("cudarc");
            assert!(!names || path.starts_with(&allowed), "{} names cudarc", path.display());
            named += usize::from(names);
        }
    }
    assert!(named > 3, "{named} files name cudarc: the check itself is broken");
}
