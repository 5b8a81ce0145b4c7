//! `handloom emulate`: kernels from PTX files, arguments, results, reports, and each mistake's error.

mod common;

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const BASIC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../emulator/tests/ptx/basic.ptx");
const CUDA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../emulator/tests/cuda");
const GRID: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../emulator/tests/ptx/grid.ptx");

/// `vector_add(out, a, b, n)` with these arguments and more options.
fn add<'a>(args: [&'a str; 4], more: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["emulate", BASIC, "--kernel", "vector_add", "--grid", "1", "--block", "128"];
    for a in args {
        all.extend(["--arg", a]);
    }
    all.extend(more);
    all
}

const GOOD: [&str; 4] = ["f32[100]=zeros", "f32[100]=arange", "f32[100]=fill:0.5", "i32:100"];

fn run(dir: &Path, args: &[&str]) -> Output {
    common::handloom(dir, args).output().unwrap()
}

fn ok(dir: &Path, args: &[&str]) -> String {
    let output = run(dir, args);
    let (out, err) = common::texts(&output);
    assert!(output.status.success(), "{args:?}: {out}{err}");
    out
}

fn error(args: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let output = run(dir.path(), args);
    let (_, err) = common::texts(&output);
    assert!(!output.status.success() && !err.contains("panicked"), "{args:?}: {err}");
    err
}

#[test]
fn a_kernel_runs_and_its_result_is_printed_and_written() {
    let dir = tempfile::tempdir().unwrap();
    let out = ok(dir.path(), &add(GOOD, &["--print", "0", "--out", "0=sum.npy"]));
    assert!(out.contains("vector_add: no findings"), "{out}");
    assert!(out.contains("f32[100]: 0.5, 1.5, 2.5") && out.contains("(100 in all)"), "{out}");
    assert!(out.contains("coalescing 100.0 %"), "{out}");
    // The file is an argument like any other: twice the sum.
    let again = ["f32[100]=uninit", "sum.npy", "npy:sum.npy", "i32:100"];
    let out = ok(dir.path(), &add(again, &["--print", "0", "--set", "counters=off"]));
    assert!(out.contains("f32[100]: 1.0, 3.0, 5.0"), "{out}");
}

#[test]
fn a_buffer_is_passed_again_and_numbers_take_the_parameters_type() {
    let dir = tempfile::tempdir().unwrap();
    let out = ok(dir.path(), &add(["f32[100]=arange", "@0", "@0", "100"], &["--print", "0"]));
    assert!(out.contains("f32[100]: 0.0, 2.0, 4.0"), "{out}");
    // Half the buffer is left from there on.
    let err = error(&add(["f32[100]=zeros", "f32[100]=arange", "@1+200", "100"], &[]));
    assert!(err.contains("1 finding"), "{err}");
    let err = error(&add(["f32[100]=arange", "@1", "@0", "100"], &[]));
    assert!(err.contains("argument 1 is no buffer before it"), "{err}");
}

#[test]
fn numpy_reads_what_is_written() {
    let dir = tempfile::tempdir().unwrap();
    ok(dir.path(), &add(GOOD, &["--out", "0=sum.npy"]));
    let check = "import numpy; a = numpy.load('sum.npy'); assert a.dtype == 'f4' and a.shape == (100,) and a[9] == 9.5";
    match Command::new("python3").args(["-c", check]).current_dir(dir.path()).output() {
        Ok(o) if o.status.success() => {}
        Ok(o) if String::from_utf8_lossy(&o.stderr).contains("No module named") => {
            eprintln!("not run: numpy is absent")
        }
        Ok(o) => panic!("{}", String::from_utf8_lossy(&o.stderr)),
        Err(_) => eprintln!("not run: python3 is absent"),
    }
}

#[test]
fn findings_fail_the_command_and_json_lists_them() {
    let dir = tempfile::tempdir().unwrap();
    let past = ["f32[100]=zeros", "f32[100]=ones", "f32[100]=ones", "i32:101"];
    let output = run(dir.path(), &add(past, &["--json"]));
    let (out, err) = common::texts(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(err.starts_with("error: vector_add: 3 findings"), "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["clean"], false);
    assert_eq!(report["findings"][0]["kind"], "OutOfBounds");
    assert_eq!(report["findings"][0]["thread"], serde_json::json!([100, 0, 0]));
    assert!(report["findings"][0]["message"].as_str().unwrap().contains("(f32[100]=ones)"));
    assert!(report["counters"]["total"]["warp_instructions"].as_u64().unwrap() > 0);
    // Memory that nothing has written is found too.
    let unwritten = ["f32[100]=zeros", "f32[100]=uninit", "f32[100]=ones", "i32:100"];
    let out = common::texts(&run(dir.path(), &add(unwritten, &[]))).0;
    assert!(out.contains("that nothing has written"), "{out}");
}

#[test]
fn a_trace_shows_what_instructions_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let out = ok(dir.path(), &add(GOOD, &["--trace", "3"]));
    // Warp 3 has threads 96 to 127: 4 of them are below 100.
    assert!(out.contains("%tid.x") && out.contains("= 96, 97, 98, 99, … 127"), "{out}");
    assert!(out.contains("= 96.5, 97.5, 98.5, 99.5"), "{out}");
    let out = ok(dir.path(), &add(GOOD, &["--trace", "0,0,0:0", "--trace-limit", "2", "--json"]));
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["trace"].as_array().unwrap().len(), 2);
    assert_eq!(report["trace"][0]["mask"], u32::MAX);
}

#[test]
fn a_page_is_written() {
    let dir = tempfile::tempdir().unwrap();
    ok(dir.path(), &add(GOOD, &["--html", "page.html", "--source", CUDA]));
    let page = std::fs::read_to_string(dir.path().join("page.html")).unwrap();
    assert!(
        page.starts_with("<!doctype html>")
            && page.contains("basic.cu")
            && page.contains("out[i] = a[i] + b[i]")
            && page.contains("add.rn.f32")
    );
}

#[test]
fn a_cooperative_kernel_waits_for_its_grid() {
    let dir = tempfile::tempdir().unwrap();
    let args =
        ["emulate", GRID, "--grid", "5", "--block", "32", "--cooperative", "--arg", "i32[5]=zeros", "--arg"];
    let out = ok(dir.path(), &[&args[..], &["i32[5]=zeros", "--print", "0"]].concat());
    assert!(out.contains("i32[5]: 15, 15, 15, 15, 15"), "{out}"); // 1 + 2 + 3 + 4 + 5
}

#[test]
fn mistakes_are_named() {
    let with = |args: [&'static str; 4]| add(args, &[]);
    let kernel = |name: &'static str| vec!["emulate", BASIC, "--kernel", name, "--grid", "1", "--block", "1"];
    for (args, expected) in [
        (vec!["emulate", "missing.ptx", "--grid", "1", "--block", "1"], "missing.ptx: No such file"),
        (
            vec!["emulate", BASIC, "--grid", "1", "--block", "1"],
            "several kernels, choose one with --kernel: ",
        ),
        (kernel("nothing"), "no kernel `nothing`; the file has "),
        (kernel("vector_add"), "takes 4 arguments, 0 are given with --arg; it takes: .u64 "),
        (with(["f32[4]=zeros", "f32[4]=zeros", "f32[4]=zeros", "u8:1"]), "has 4 B, 1 are given"),
        (
            with(["f32[4]=zeros", "f32[4]=zeros", "f32[4]=zeros", "f32[4]=zeros"]),
            "is no pointer, `f32[4]=zeros` is a buffer",
        ),
        (with(["f32[4]=zeroes", "f32[4]=zeros", "f32[4]=zeros", "i32:4"]), "unknown generator `zeroes`"),
        (add(GOOD, &["--out", "4=a.npy"]), "there are 4 arguments"),
        (add(GOOD, &["--out", "a.npy"]), "expected N=PATH"),
        (add(GOOD, &["--print", "3"]), "argument 3 is no buffer"),
        (add(GOOD, &["--set", "checks=some"]), "checks=some: expected all, none"),
        (add(GOOD, &["--set", "checks"]), "expected KEY=VALUE"),
        (add(GOOD, &["--arch", "sm_12"]), "arch=sm_12: expected one of sm_80"),
        (add(GOOD, &["--trace", "x"]), "expected WARP or X,Y,Z:WARP"),
        (add(GOOD, &["--shared", "200000"]), "200000 B dynamic shared memory, sm_80 allows"),
        (add(GOOD, &["--cluster", "2"]), "cluster"),
        (add(GOOD, &["--html", "no/such/page.html"]), "no/such/page.html: No such file"),
    ] {
        let err = error(&args);
        assert!(err.contains(expected), "{args:?}: {err}");
    }
    let mut bad = add(GOOD, &[]);
    bad[5] = "1,2,3,4";
    assert!(error(&bad).contains("4 numbers, at most three are possible"));
}
