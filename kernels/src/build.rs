//! From `cuda/**/*.cu` to `ptx/`: needs the CUDA compiler, which `cargo build` never does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::device::lock;
use crate::manifest::{File, Manifest, Usage};

/// What a source is compiled for, unless it lies in a folder of `cuda` with the name of another.
const ARCH: &str = "sm_80";
const HOPPER: &str = "sm_90a";
const FLAGS: &[&str] = &["-ptx", "-std=c++17", "-O3", "-fmad=false", "-lineinfo"];
/// The oldest PTX version that has all the kernels use, so that drivers from CUDA 12.0 on take it; nvcc writes its own, newer one.
const PTX_VERSION: &str = "8.0";

/// Compiles what changed; with `check`, compiles everything and changes nothing.
///
/// # Errors
/// The compiler's message; with `check`, which committed file differs from a fresh compile.
pub fn build(cuda: &Path, check: bool) -> Result<String, String> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let tools = Tools { cuda: cuda.to_owned(), root: root.clone() };
    let manifest_path = root.join("ptx/manifest.json");
    let old: Manifest = std::fs::read_to_string(&manifest_path)
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default();
    let compiler = tools.version()?;
    let flags: Vec<String> = FLAGS.iter().map(|flag| flag.to_string()).collect();
    let same_tools = old.compiler == compiler && old.flags == flags && old.ptx_version == PTX_VERSION;
    let sources = files(&root.join("cuda"), "cu")?;
    for arch in [ARCH, HOPPER] {
        let folder = root.join("ptx").join(arch);
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }

    let jobs = std::sync::Mutex::new(sources.iter());
    let done = std::sync::Mutex::new((BTreeMap::new(), 0));
    let work = || -> Result<(), String> {
        loop {
            let Some(source) = lock(&jobs).next() else { return Ok(()) };
            let stem = stem(source);
            let hash = source_hash(&root, source)?;
            let path = ptx_path(&root, source);
            let current =
                std::fs::read(&path).map(|text| blake3::hash(&text).to_string()).unwrap_or_default();
            let known =
                old.files.get(&stem).filter(|file| same_tools && file.source == hash && file.ptx == current);
            let file = match known {
                Some(file) if !check => file.clone(),
                _ => {
                    let (text, entries) = tools.compile(source)?;
                    lock(&done).1 += 1;
                    let ptx = blake3::hash(text.as_bytes()).to_string();
                    if check && ptx != current {
                        return Err(format!(
                            "{stem}.ptx differs from a fresh compile of {stem}.cu; run build-kernels"
                        ));
                    }
                    if !check {
                        std::fs::write(&path, text)
                            .map_err(|error| format!("{}: {error}", path.display()))?;
                    }
                    File { arch: arch_of(source).into(), source: hash, ptx, entries }
                }
            };
            lock(&done).0.insert(stem, file);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().expect("bug in handloom-kernels: a worker panicked"))
    })?;
    let (new, compiled) = done.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    for path in files(&root.join("ptx"), "ptx")? {
        if new.get(&stem(&path)).is_none_or(|file| !path.parent().is_some_and(|p| p.ends_with(&file.arch))) {
            if check {
                return Err(format!("{} has no source", path.display()));
            }
            std::fs::remove_file(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    let manifest = Manifest { compiler, flags, ptx_version: PTX_VERSION.into(), files: new };
    if check && manifest != old {
        return Err("ptx/manifest.json differs from a fresh compile; run build-kernels".into());
    }
    if !check {
        let text = serde_json::to_string_pretty(&manifest).expect("a manifest is JSON") + "\n";
        std::fs::write(&manifest_path, text)
            .map_err(|error| format!("{}: {error}", manifest_path.display()))?;
    }
    let entries: usize = manifest.files.values().map(|file| file.entries.len()).sum();
    for (name, usage) in manifest.files.values().flat_map(|file| &file.entries) {
        if usage.spill_bytes > 0 || usage.stack_bytes > 0 {
            println!("warning: {name}: {} B spilled, {} B of stack", usage.spill_bytes, usage.stack_bytes);
        }
    }
    Ok(format!("{compiled} of {} files compiled; {entries} kernels", sources.len()))
}

/// What every kernel of the committed PTX that runs on `arch` needs there, by entry.
///
/// # Errors
/// The assembler's message.
pub fn usage_on(cuda: &Path, arch: &str) -> Result<BTreeMap<String, Usage>, String> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let tools = Tools { cuda: cuda.to_owned(), root: root.clone() };
    let folder = scratch_folder(arch)?;
    let cubin = folder.join("out.cubin").to_string_lossy().into_owned();
    let mut entries = BTreeMap::new();
    for path in ptx_for(&root, arch)? {
        entries.extend(tools.assemble(&path.to_string_lossy(), arch, &cubin)?);
    }
    std::fs::remove_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(entries)
}

/// SASS of every committed PTX file that runs on `arch`, by entry: one instruction a line, as `nvdisasm` prints them.
///
/// # Errors
/// The assembler's or disassembler's message.
pub fn disassemble(cuda: &Path, arch: &str) -> Result<BTreeMap<String, Vec<String>>, String> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let tools = Tools { cuda: cuda.to_owned(), root: root.clone() };
    let folder = scratch_folder("sass")?;
    let cubin = folder.join("out.cubin").to_string_lossy().into_owned();
    let mut functions = BTreeMap::new();
    for path in ptx_for(&root, arch)? {
        tools.assemble(&path.to_string_lossy(), arch, &cubin)?;
        let (text, _) = tools.output("nvdisasm", &["-c", &cubin])?;
        functions.extend(instructions(&text));
    }
    std::fs::remove_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(functions)
}

/// Splits `nvdisasm -c` into functions and their instructions, without addresses, predicates and encodings.
fn instructions(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut functions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix(".text.").and_then(|rest| rest.strip_suffix(':')) {
            current = Some(name.to_string());
        } else if let (Some(name), Some(rest)) = (&current, line.strip_prefix("/*")) {
            let Some((_, rest)) = rest.split_once("*/") else { continue };
            let instruction = rest.trim().trim_end_matches(';').trim();
            let instruction = match instruction.strip_prefix('@') {
                Some(guarded) => guarded.split_once(' ').map_or("", |(_, rest)| rest.trim()),
                None => instruction,
            };
            if !instruction.is_empty() {
                functions.entry(name.clone()).or_default().push(instruction.to_string());
            }
        }
    }
    functions
}

fn scratch_folder(what: &str) -> Result<PathBuf, String> {
    let folder = std::env::temp_dir().join(format!("handloom-{what}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

struct Tools {
    cuda: PathBuf,
    root: PathBuf,
}

impl Tools {
    fn output(&self, tool: &str, args: &[&str]) -> Result<(String, String), String> {
        let path = self.cuda.join("bin").join(tool);
        let output = Command::new(&path)
            .args(args)
            .current_dir(&self.root)
            .output()
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if !output.status.success() {
            return Err(format!(
                "{tool} {}:\n{}{}",
                args.join(" "),
                text(&output.stdout),
                text(&output.stderr)
            ));
        }
        Ok((text(&output.stdout), text(&output.stderr)))
    }

    /// The compiler's version, without where it is installed.
    fn version(&self) -> Result<String, String> {
        let (text, _) = self.output("nvcc", &["--version"])?;
        text.lines()
            .find_map(|line| line.split_once(", V").map(|(_, version)| format!("nvcc {version}")))
            .ok_or_else(|| format!("nvcc --version printed no version: {text}"))
    }

    /// PTX of a source and what each of its entries needs.
    fn compile(&self, source: &Path) -> Result<(String, BTreeMap<String, Usage>), String> {
        let relative = source
            .strip_prefix(&self.root)
            .expect("sources lie below the crate")
            .to_string_lossy()
            .into_owned();
        println!("{relative}");
        let folder = scratch_folder(&stem(source))?;
        let (ptx, cubin) = (folder.join("out.ptx"), folder.join("out.cubin"));
        let (ptx, cubin) = (ptx.to_string_lossy().into_owned(), cubin.to_string_lossy().into_owned());
        let arch = format!("-arch={}", arch_of(source).replace("sm_", "compute_"));
        let mut args = FLAGS.to_vec();
        args.extend([&arch, "-I", "cuda", &relative, "-o", &ptx]);
        self.output("nvcc", &args)?;
        let text = std::fs::read_to_string(&ptx).map_err(|error| format!("{ptx}: {error}"))?;
        let text = self.portable(&text);
        std::fs::write(&ptx, &text).map_err(|error| format!("{ptx}: {error}"))?;
        let entries = self.assemble(&ptx, arch_of(source), &cubin)?;
        std::fs::remove_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok((text, entries))
    }

    /// From PTX to machine code for `arch`; returns what each entry needs there.
    fn assemble(&self, ptx: &str, arch: &str, cubin: &str) -> Result<BTreeMap<String, Usage>, String> {
        let (_, report) = self.output("ptxas", &["-v", "-arch", arch, ptx, "-o", cubin])?;
        usage(&report)
    }

    /// The PTX without what differs between machines: absolute paths and their times; and with the version the drivers need.
    /// Where an instruction was inlined from is left out as well: it would take a third of the text.
    fn portable(&self, text: &str) -> String {
        let root = format!("{}/", self.root.display());
        let cuda = self.cuda.canonicalize().unwrap_or_else(|_| self.cuda.clone());
        let mut out = String::with_capacity(text.len());
        let (mut location, mut strings) = (String::new(), false);
        for line in text.lines() {
            if strings || line.starts_with("\t.section\t.debug_str") {
                // The names of inlined functions, up to the section's closing brace.
                strings = line.trim() != "}";
                continue;
            } else if line.starts_with("\t// begin inline asm") || line.starts_with("\t// end inline asm") {
                continue;
            } else if line.starts_with("\t.loc\t") {
                let short = line.split(',').next().unwrap_or(line);
                if short == location {
                    continue;
                }
                location = short.to_string();
                out.push_str(short);
            } else if line.starts_with(".version ") {
                out.push_str(&format!(".version {PTX_VERSION}"));
            } else if line.trim_start().starts_with(".file") {
                let line = line.replace(&root, "").replace(&format!("{}/", cuda.display()), "");
                let line = line.replace(&format!("{}/", self.cuda.display()), "").replace("bin/..//", "");
                // .file 1 "name", time, size: the two numbers belong to a checkout.
                out.push_str(line.rfind('"').map_or(line.as_str(), |end| &line[..=end]));
            } else {
                out.push_str(line);
            }
            out.push('\n');
        }
        out
    }
}

/// The architecture a source or PTX file is for: the name of its folder, if it has one of its own.
fn arch_of(path: &Path) -> &'static str {
    if path.parent().is_some_and(|folder| folder.ends_with(HOPPER)) { HOPPER } else { ARCH }
}

/// Where a source's PTX lies.
fn ptx_path(root: &Path, source: &Path) -> PathBuf {
    root.join("ptx").join(arch_of(source)).join(format!("{}.ptx", stem(source)))
}

/// The committed PTX that runs on `arch`: sm_80's on all, sm_90a's on itself alone.
fn ptx_for(root: &Path, arch: &str) -> Result<Vec<PathBuf>, String> {
    let mut paths = files(&root.join("ptx"), "ptx")?;
    paths.retain(|path| [ARCH, arch].contains(&arch_of(path)));
    Ok(paths)
}

fn stem(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Files below `folder` with this ending, sorted.
fn files(folder: &Path, ending: &str) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))? {
        let path = entry.map_err(|error| error.to_string())?.path();
        if path.is_dir() {
            found.extend(files(&path, ending)?);
        } else if path.extension().is_some_and(|end| end == ending) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// BLAKE3 of a source and of the headers it includes, directly or through others, as the manifest records it.
fn source_hash(root: &Path, source: &Path) -> Result<String, String> {
    let mut hasher = blake3::Hasher::new();
    for path in with_headers(&root.join("cuda"), source)? {
        let text = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        hasher.update(stem(&path).as_bytes()).update(&text);
    }
    Ok(hasher.finalize().to_string())
}

/// The source and every header that it or one of its headers names as `#include "name"`, sorted. nvcc looks beside the file that
/// includes, then in `cuda`.
fn with_headers(cuda: &Path, source: &Path) -> Result<BTreeSet<PathBuf>, String> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![source.to_owned()];
    while let Some(path) = waiting.pop() {
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let included = text.lines().filter_map(|line| {
            line.trim_start().strip_prefix("#include")?.trim_start().strip_prefix('"')?.split('"').next()
        });
        for name in included {
            let beside = path.with_file_name(name);
            waiting.push(if beside.exists() { beside } else { cuda.join(name) });
        }
        found.insert(path);
        waiting.retain(|path| !found.contains(path));
    }
    Ok(found)
}

/// Reads `ptxas -v`: two lines an entry, stack and spills on one, registers and shared memory on the other.
fn usage(report: &str) -> Result<BTreeMap<String, Usage>, String> {
    let mut entries: BTreeMap<String, Usage> = BTreeMap::new();
    let mut current = String::new();
    // The number before `unit` in a line.
    let before = |line: &str, unit: &str| -> u32 {
        let words: Vec<&str> = line[..line.find(unit).unwrap_or(0)].split_whitespace().collect();
        words.last().and_then(|word| word.parse().ok()).unwrap_or(0)
    };
    for line in report.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            current = rest.split('\'').next().unwrap_or_default().to_string();
            entries.insert(current.clone(), Usage::default());
        } else if line.contains("bytes stack frame") {
            if let Some(entry) = entries.get_mut(&current) {
                entry.stack_bytes = before(line, " bytes stack frame");
                entry.spill_bytes = before(line, " bytes spill stores") + before(line, " bytes spill loads");
            }
        } else if line.contains("Used ")
            && let Some(entry) = entries.get_mut(&current)
        {
            entry.registers = before(line, " registers");
            entry.shared_bytes = before(line, " bytes smem");
        }
    }
    if entries.values().any(|entry| entry.registers == 0) {
        return Err(format!("ptxas -v printed no registers:\n{report}"));
    }
    Ok(entries)
}

/// BLAKE3 of a source with its headers, and of a PTX file, as the manifest records them: whether the committed files belong
/// together can be told without a compiler.
///
/// # Errors
/// Which file cannot be read or does not belong to the manifest.
pub fn check_hashes(manifest: &Manifest) -> Result<(), String> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let sources = files(&root.join("cuda"), "cu")?;
    for source in &sources {
        let stem = stem(source);
        let file = manifest
            .files
            .get(&stem)
            .ok_or_else(|| format!("{stem}.cu is not in the manifest; run build-kernels"))?;
        if source_hash(&root, source)? != file.source {
            return Err(format!(
                "{stem}.cu or a header it includes changed since its PTX was made; run build-kernels"
            ));
        }
        let path = ptx_path(&root, source);
        let text = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        if blake3::hash(&text).to_string() != file.ptx {
            return Err(format!("{stem}.ptx is not what the manifest says; run build-kernels"));
        }
    }
    if manifest.files.len() != sources.len() {
        return Err("the manifest lists files that have no source; run build-kernels".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_belongs_with_the_headers_it_includes_and_no_others() {
        let cuda = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
        let names = |source: &str| -> Vec<String> {
            let found = with_headers(&cuda, &cuda.join(source)).expect("readable sources");
            found.iter().map(|path| path.strip_prefix(&cuda).unwrap().display().to_string()).collect()
        };
        assert_eq!(names("cast.cu"), ["cast.cu", "common.cuh"]);
        // gelu.cuh and mma.cuh come through matmul_epilogue.cuh.
        let product =
            ["common.cuh", "gelu.cuh", "matmul_epilogue.cuh", "matmul_f32.cu", "matmul_tile.cuh", "mma.cuh"];
        assert_eq!(names("matmul_f32.cu"), product);
        // Found in cuda/, not beside the source.
        let folder = std::env::temp_dir().join(format!("handloom-headers-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let source = folder.join("x.cu");
        std::fs::write(&source, "  #include \"norm_rows.cuh\"\n#include <cstddef>\n").expect("written");
        let found = with_headers(&cuda, &source).expect("readable sources");
        assert_eq!(found, [source.clone(), cuda.join("common.cuh"), cuda.join("norm_rows.cuh")].into());
        std::fs::write(&source, "#include \"nowhere.cuh\"\n").expect("written");
        let message = with_headers(&cuda, &source).expect_err("no such header");
        assert!(message.contains("nowhere.cuh"), "{message}");
        std::fs::remove_dir_all(&folder).expect("removed");
    }
}
