//! Embeds `ptx/<arch>/*.ptx` and a table of their entries with the parameters each takes.
//!
//! No toolkit is needed: the PTX is committed. `build-kernels` writes it from `cuda/*.cu`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn main() {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let folder = |path: PathBuf| -> Vec<PathBuf> {
        println!("cargo::rerun-if-changed={}", path.display());
        std::fs::read_dir(&path)
            .map(|files| files.flatten().map(|file| file.path()).collect())
            .unwrap_or_default()
    };
    let archs = folder(root.join("ptx")).into_iter().filter(|path| path.is_dir());
    let mut paths: Vec<PathBuf> = archs.flat_map(folder).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "ptx"));
    paths.sort();
    let mut modules = String::from("pub(crate) static MODULES: &[Module] = &[\n");
    let mut entries = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        println!("cargo::rerun-if-changed={}", path.display());
        let stem = path.file_stem().expect("a .ptx file has a name").to_string_lossy();
        writeln!(modules, "    Module {{ stem: {stem:?}, text: concat!(include_str!({path:?}), \"\\0\") }},")
            .expect("writing to a string");
        entries.extend(entries_of(path).into_iter().map(|entry| (entry, index)));
    }
    modules.push_str("];\n");
    entries.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    modules.push_str("pub(crate) static ENTRIES: &[Entry] = &[\n");
    for (Entry { name, params, threads }, module) in entries {
        let params: Vec<String> = params.iter().map(|param| format!("Kind::{param}")).collect();
        let params = params.join(", ");
        let line = format!(
            "Entry {{ name: {name:?}, module: {module}, params: &[{params}], threads: {threads:?} }},"
        );
        writeln!(modules, "    {line}").expect("writing to a string");
    }
    modules.push_str("];\n");
    let manifest = root.join("ptx/manifest.json");
    println!("cargo::rerun-if-changed={}", manifest.display());
    let text = if manifest.exists() { format!("include_str!({manifest:?})") } else { "\"{}\"".into() };
    writeln!(modules, "pub(crate) const MANIFEST: &str = {text};").expect("writing to a string");
    let out = Path::new(&std::env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("ptx.rs");
    std::fs::write(out, modules).expect("OUT_DIR is writable");
}

/// Name, parameter kinds and block size of each `.visible .entry` of a PTX file, as nvcc writes them: one parameter a line.
fn entries_of(path: &Path) -> Vec<Entry> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut entries: Vec<Entry> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix(".visible .entry ") {
            let name = rest.split(['(', ' ']).next().unwrap_or_default();
            entries.push(Entry { name: name.to_string(), params: Vec::new(), threads: None });
            inside = !rest.contains("()");
        } else if inside && line.starts_with(')') {
            inside = false;
        } else if inside && let Some(rest) = line.trim_start().strip_prefix(".param ") {
            let kind = match rest.split_whitespace().next() {
                Some(".u64" | ".b64" | ".s64") => "Word64",
                Some(".u32" | ".b32" | ".s32") => "Word32",
                Some(".f32") => "F32",
                Some(".align") if rest.ends_with("[128],") => "TensorMap",
                other => panic!("{}: parameter type {other:?} has no launcher argument", path.display()),
            };
            entries.last_mut().expect("a parameter follows its entry").params.push(kind);
        } else if let Some(rest) = line.strip_prefix(".maxntid ")
            && let Some(entry) = entries.last_mut()
        {
            let sizes = rest.split(',').map(|size| size.trim().parse::<u32>().unwrap_or(1));
            entry.threads = Some(sizes.product());
        }
    }
    entries
}

struct Entry {
    name: String,
    params: Vec<&'static str>,
    /// `__launch_bounds__`.
    threads: Option<u32>,
}
