//! A C program on the runtime and the emulated driver, found by the search path of libraries.

use std::path::PathBuf;
use std::process::Command;

use cuda as _; // so that libcuda.so is built

/// Where a library lies: next to the test, or one above.
fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let places = test.ancestors().skip(1).take(2).map(|p| p.join(name));
    places.into_iter().find(|p| p.exists()).unwrap_or_else(|| panic!("{name} is built with the test"))
}

#[test]
fn a_program_of_the_runtime_runs_on_the_emulated_gpu() {
    if Command::new("gcc").arg("--version").output().is_err() {
        eprintln!("not run: gcc is absent");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(built("libcudart.so"), dir.path().join("libcudart.so.13")).unwrap();
    std::os::unix::fs::symlink(built("libcudart.so"), dir.path().join("libcudart.so")).unwrap();
    std::os::unix::fs::symlink(built("libcuda.so"), dir.path().join("libcuda.so.1")).unwrap();
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/c/program.c");
    let program = dir.path().join("program");
    let mut gcc = Command::new("gcc");
    gcc.args(["-Wall", "-Werror", "-o"]).arg(&program).arg(source).arg("-L").arg(dir.path()).arg("-lcudart");
    assert!(gcc.status().unwrap().success());
    let ran = Command::new(&program).env("LD_LIBRARY_PATH", dir.path()).output().unwrap();
    let (out, errors) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success() && out.trim() == "ok", "{out}\n{errors}");
}

#[test]
fn without_a_driver_the_error_says_so() {
    if Command::new("gcc").arg("--version").output().is_err() {
        eprintln!("not run: gcc is absent");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(built("libcudart.so"), dir.path().join("libcudart.so.13")).unwrap();
    std::os::unix::fs::symlink(built("libcudart.so"), dir.path().join("libcudart.so")).unwrap();
    // A driver that is none: an empty file in place of the system's.
    std::fs::write(dir.path().join("libcuda.so.1"), "").unwrap();
    std::fs::write(dir.path().join("libcuda.so"), "").unwrap();
    let source = dir.path().join("program.c");
    std::fs::write(&source, "int cudaFree(void *); int main(void) { return cudaFree(0); }").unwrap();
    let program = dir.path().join("program");
    let mut gcc = Command::new("gcc");
    gcc.arg("-o").arg(&program).arg(source).arg("-L").arg(dir.path()).arg("-lcudart");
    assert!(gcc.status().unwrap().success());
    let ran = Command::new(&program).env("LD_LIBRARY_PATH", dir.path()).status().unwrap();
    assert_eq!(ran.code(), Some(35), "cudaErrorInsufficientDriver");
}
