//! A C program, compiled by gcc against prototypes written by hand, on the emulated driver; and what the library exports.

mod common;

use std::process::Command;

/// The library's directory, with the name that programs linked against a real driver look for.
fn library_directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::os::unix::fs::symlink(common::path(), dir.path().join(name)).unwrap();
    }
    dir
}

fn present(tool: &str) -> bool {
    Command::new(tool).arg("--version").output().is_ok_and(|o| o.status.success())
}

#[test]
fn a_c_program_runs_through_ld_library_path() {
    if !present("gcc") {
        eprintln!("not run: gcc is absent");
        return;
    }
    let root = env!("CARGO_MANIFEST_DIR");
    let dir = library_directory();
    let program = dir.path().join("program");
    let compiled = Command::new("gcc")
        .args(["-std=c11", "-Wall", "-Werror", "-O1", "-o"])
        .arg(&program)
        .arg(format!("{root}/tests/c/program.c"))
        .arg("-L")
        .arg(dir.path())
        .arg("-lcuda")
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let ran = Command::new(&program)
        .arg(format!("{root}/../tests/ptx/basic.ptx"))
        .env("LD_LIBRARY_PATH", dir.path())
        .env("HANDLOOM_EMULATOR", "arch=sm_80,memory=67108864,threads=1")
        .output()
        .unwrap();
    let (out, errors) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success() && out == "ok\n", "{out}{errors}");
    assert!(errors.contains("cuTexObjectCreate is not supported"), "{errors}");
    assert!(errors.contains("vector_add: thread (44,0,0) block (2,0,0) reads 4 B"), "{errors}");
}

#[test]
fn a_wrong_configuration_says_what_is_wrong() {
    if !present("gcc") {
        eprintln!("not run: gcc is absent");
        return;
    }
    let dir = library_directory();
    let source = dir.path().join("init.c");
    std::fs::write(&source, "int cuInit(unsigned); int main(void) { return cuInit(0); }").unwrap();
    let program = dir.path().join("init");
    let mut gcc = Command::new("gcc");
    gcc.arg("-o").arg(&program).arg(&source).arg("-L").arg(dir.path()).arg("-lcuda");
    assert!(gcc.status().unwrap().success());
    let ran = Command::new(&program)
        .env("LD_LIBRARY_PATH", dir.path())
        .env("HANDLOOM_EMULATOR", "arch=sm_12")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(!ran.status.success() && errors.contains("HANDLOOM_EMULATOR: options: arch=sm_12"), "{errors}");
}

/// Every exported function can be found by its name, and nothing else is exported.
#[test]
fn exported_functions_are_listed() {
    if !present("nm") {
        eprintln!("not run: nm is absent");
        return;
    }
    let listed = Command::new("nm").args(["-D", "--defined-only"]).arg(common::path()).output().unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    let names: Vec<&str> =
        text.lines().filter_map(|l| l.split_whitespace().nth(2)).filter(|n| n.starts_with("cu")).collect();
    let library = common::driver();
    type GetProc = unsafe extern "C" fn(*const i8, *mut *mut (), i32, u64, *mut i32) -> i32;
    let mut unsupported = 0;
    for name in &names {
        // SAFETY: the signatures are the API's; functions that are not supported read no arguments.
        unsafe {
            let get = library.get::<GetProc>(b"cuGetProcAddress_v2").unwrap();
            let text = std::ffi::CString::new(*name).unwrap();
            let (mut found, mut status) = (std::ptr::null_mut(), 0);
            assert_eq!(get(text.as_ptr(), &mut found, 0, 0, &mut status), 0, "{name}");
        }
        unsupported += is_unsupported(name) as usize;
    }
    println!(
        "libcuda.so exports {} functions: {} work, {unsupported} return CUDA_ERROR_NOT_SUPPORTED",
        names.len(),
        names.len() - unsupported
    );
    assert!(names.len() >= 500, "{}", names.len());
    // The page lists the same names.
    let page = include_str!("../../../docs/src/emulator.md");
    let missing: Vec<&&str> =
        names.iter().filter(|n| !is_unsupported(n) && !page.contains(&format!("`{n}`"))).collect();
    assert!(missing.is_empty(), "docs/src/emulator.md does not list {missing:?}");
}

fn is_unsupported(name: &str) -> bool {
    let list = include_str!("../src/unsupported.rs");
    list.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name)
}
