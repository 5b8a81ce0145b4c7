//! `bench/gpu/qualify.sh` with every program it can call replaced by one that only says what the real one would: the order of its steps,
//! its time limits, and what the report makes of each program's output.
//!
//! Needs bash and python3; without them it prints "not run".

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_owned()
}

fn program(dir: &Path, name: &str, body: &str) {
    let path = dir.join(name);
    fs::write(&path, format!("#!/usr/bin/env bash\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A binary on a machine with an H100, by its first words.
const HANDLOOM: &str = r#"
case "$1 $2" in
"doctor --json") echo '{"cuda":{"available":true,"devices":[{"name":"NVIDIA H100 80GB HBM3"}]},"emulator":{"available":false}}' ;;
"selftest --device") echo '{"op":"gelu","device":"cuda:0","cases":7,"failed":1,"failures":["gelu_tanh 5x7 bf16: 3 ulp"]}' ;;
"bench op") echo '{"op":"'$3'","sizes":[2,3],"forward_ms":0.5,"backward_ms":1.0,"forward_gflops":2000.0,"forward_gb_per_s":1500.0}' ;;
"bench train") echo '{"ms_per_step":{"median":10.0},"tokens_per_s":1000.0}' ;;
"bench generate") echo '{"tokens_per_s":{"median":812.5}}' ;;
generate*) echo 'Emma was' ;;
train*)
    while [ $# -gt 0 ]; do [ "$1" = --out ] && out=$2; shift; done
    mkdir -p "$out" && echo '{"step":1,"loss":4.5}' > "$out/metrics.jsonl" ;;
*) echo "what is $*?" >&2; exit 1 ;;
esac"#;

/// ncu's raw page: two kernels, of which the second takes longer together.
const NCU: &str = r#"
echo '==PROF== Connected to process 7'
echo '"ID","Kernel Name","gpu__time_duration.sum","dram__throughput.avg.pct_of_peak_sustained_elapsed","launch__registers_per_thread"'
echo '"","","ns","%","register/thread"'
echo '"0","gelu_forward_bf16","1,500","80.0","32"'
echo '"1","matmul_nn_bf16","3,000","20.0","128"'
echo '"2","matmul_nn_bf16","1,000","60.0","128"'"#;

fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|done| done.status.success())
}

/// Runs the script in a copy of its folder, with these programs in front of all others.
fn qualify(dir: &Path, programs: &[(&str, &str)], args: &[&str]) -> Output {
    let (bin, gpu, out) = (dir.join("bin"), dir.join("bench/gpu"), dir.join("out"));
    fs::create_dir_all(&bin).unwrap();
    fs::create_dir_all(&gpu).unwrap();
    for name in ["qualify.sh", "report.py", "torch_ops.py", "torch_step.py", "torch_parity.py"] {
        fs::copy(root().join("bench/gpu").join(name), gpu.join(name)).unwrap();
    }
    programs.iter().for_each(|(name, body)| program(&bin, name, body));
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    Command::new("bash")
        .arg(gpu.join("qualify.sh"))
        .args(["--binary", &bin.join("handloom").display().to_string(), "--out", &out.display().to_string()])
        .args(args)
        .env("PATH", path)
        // A torch that cannot be imported, whatever python3 this machine has.
        .env("PYTHONPATH", dir.join("no-torch"))
        .output()
        .unwrap()
}

fn steps(dir: &Path) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("out/steps.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn without_torch(dir: &Path) {
    let torch = dir.join("no-torch/torch");
    fs::create_dir_all(&torch).unwrap();
    fs::write(torch.join("__init__.py"), "raise ImportError('no torch here')\n").unwrap();
}

#[test]
fn every_step_is_run_and_read() {
    if !has("bash") || !has("python3") {
        println!("not run: no bash or no python3");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    without_torch(dir.path());
    let smi = "echo 'name, clocks.current.sm [MHz]'; echo 'NVIDIA H100 80GB HBM3, 1980 MHz'";
    let sanitizer = r#"echo "========= COMPUTE-SANITIZER"
        [ "$2" = racecheck ] && { echo '========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)'; exit 9; }
        echo '========= ERROR SUMMARY: 0 errors'"#;
    let programs =
        [("handloom", HANDLOOM), ("nvidia-smi", smi), ("ncu", NCU), ("compute-sanitizer", sanitizer)];
    let done = qualify(dir.path(), &programs, &["--minutes", "5"]);
    let said = String::from_utf8_lossy(&done.stdout);
    assert_eq!(
        done.status.code(),
        Some(1),
        "racecheck failed: {said}{}",
        String::from_utf8_lossy(&done.stderr)
    );

    let steps = steps(dir.path());
    let failed: Vec<&str> =
        steps.iter().filter(|s| s["status"] == "failed").map(|s| s["step"].as_str().unwrap()).collect();
    assert_eq!(failed, ["sanitizer_racecheck"], "{said}");
    let names: Vec<&str> = steps.iter().map(|s| s["step"].as_str().unwrap()).collect();
    let place = |name: &str| {
        names.iter().position(|n| *n == name).unwrap_or_else(|| panic!("no step {name}: {names:?}"))
    };
    let order = [
        "doctor",
        "train_fp32",
        "generate_agrees",
        "selftest",
        "sanitizer_memcheck",
        "step_gpt2_b64",
        "bench_attention",
        "ncu",
    ];
    assert!(order.windows(2).all(|pair| place(pair[0]) < place(pair[1])), "{names:?}");
    assert!(steps.iter().any(|s| s["step"] == "torch_parity" && s["status"] == "not run"));

    let folder = dir.path().join("bench/results");
    let [json, md] = ["json", "md"].map(|end| {
        let found = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let mut found = found.filter(|path| path.extension().is_some_and(|e| e == end));
        fs::read_to_string(
            found.next().unwrap_or_else(|| panic!("no .{end} in {}: {said}", folder.display())),
        )
        .unwrap()
    });
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["device"], "NVIDIA H100 80GB HBM3");
    assert_eq!(report["nvidia_smi"]["clocks.current.sm [MHz]"], "1980 MHz");
    assert_eq!(report["selftest"]["failed"], 1);
    assert_eq!(report["sanitizer"]["memcheck"], 0);
    assert_eq!(report["sanitizer"]["racecheck"], 2);
    let [longest, second] = [0, 1].map(|i| &report["ncu"][i]);
    assert_eq!((longest["kernel"].as_str(), longest["launches"].as_i64()), (Some("matmul_nn_bf16"), Some(2)));
    assert_eq!(longest["time_us"], 4.0);
    // Weighted by time: (20 * 3 + 60 * 1) / 4.
    assert_eq!(longest["dram__throughput.avg.pct_of_peak_sustained_elapsed"], 30.0);
    assert_eq!(second["time_us"], 1.5);
    for part in ["| matmul_nn_bf16 | 2 | 4 | 30 |", "812.5 tokens/s", "1980 MHz", "racecheck 2"] {
        assert!(md.contains(part), "the report lacks {part}:\n{md}");
    }
}

#[test]
fn without_time_left_nothing_is_started_and_everything_is_said() {
    if !has("bash") || !has("python3") {
        println!("not run: no bash or no python3");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    without_torch(dir.path());
    // No minute at all: nothing is started, everything is said.
    let done = qualify(dir.path(), &[("handloom", HANDLOOM)], &["--minutes", "0"]);
    assert!(!steps(dir.path()).is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(steps(dir.path()).iter().all(|step| step["status"] == "not run"));
}

#[test]
fn a_machine_without_a_gpu_is_told_so_at_once() {
    if !has("bash") {
        println!("not run: no bash");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    without_torch(dir.path());
    let none = r#"echo '{"cuda":{"available":false,"reason":"CUDA is not available: no NVIDIA driver"},"emulator":{}}'"#;
    let done = qualify(dir.path(), &[("handloom", none)], &[]);
    assert_eq!(done.status.code(), Some(1));
    let steps = steps(dir.path());
    assert_eq!(steps.len(), 2, "{steps:?}");
    assert_eq!(steps[1]["detail"], "CUDA is not available: no NVIDIA driver");
    // What a folder holds already is not mixed with another run.
    let done = qualify(dir.path(), &[("handloom", none)], &[]);
    assert_eq!(done.status.code(), Some(2));
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(said.contains("already holds a run; choose another --out"), "{said}");
    // The emulated driver in the library path is no GPU.
    fs::remove_dir_all(dir.path().join("out")).unwrap();
    let emulated = r#"echo '{"cuda":{"available":true,"devices":[{"name":"Handloom emulated GPU (sm_80)"}]},"emulator":{}}'"#;
    let done = qualify(dir.path(), &[("handloom", emulated)], &[]);
    assert_eq!(done.status.code(), Some(1));
}

/// Hopper's kernels are tried before all else, and measured beside the others; should they fail, the rest goes on without them.
#[test]
fn what_hopper_alone_has_is_tried_first_and_can_be_left_out() {
    if !has("bash") {
        println!("not run: no bash");
        return;
    }
    for works in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        without_torch(dir.path());
        let h100 = HANDLOOM
            .replace(r#""devices":[{"#, r#""devices":[{"compute_capability":"9.0","#)
            .replace(r#""op":"'$3'""#, r#""op":"'$3'","kernels":"'$HANDLOOM_KERNELS'""#)
            .replace("case", &format!("[ \"$2\" = matmul_tiles ] && {{ {works}; exit; }}\ncase"));
        qualify(dir.path(), &[("handloom", &h100)], &["--minutes", "5"]);
        let steps = steps(dir.path());
        let status = |name: &str| {
            steps.iter().find(|s| s["step"] == name).map(|s| s["status"].as_str().unwrap().to_string())
        };
        assert_eq!(steps[2]["step"], "selftest_hopper", "{steps:?}");
        assert_eq!(status("selftest_hopper").unwrap(), if works { "ok" } else { "failed" });
        assert_eq!(status("bench_linear_fc_sm_80").is_some(), works);
        assert_eq!(status("step_gpt2_b64_sm_80").is_some(), works);
        assert_eq!(status("bench_matmul_4096_f32_sm_80"), None);
        let kernels = |name: &str| {
            let text = fs::read_to_string(dir.path().join(format!("out/{name}.out"))).unwrap();
            let line: Value = serde_json::from_str(&text).unwrap();
            line["kernels"].as_str().unwrap().to_string()
        };
        assert_eq!(kernels("bench_linear_fc"), if works { "" } else { "sm_80" });
        if works {
            assert_eq!(kernels("bench_linear_fc_sm_80"), "sm_80");
        }
    }
}
