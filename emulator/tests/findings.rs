//! For each check, a kernel with exactly that defect: the mutant is flagged, the original is clean. Prints the table.

mod common;

use common::Run;
use handloom_emulator::{AsyncTiming, Checks, FindingKind as Kind, LaunchConfig, Module, Options, Schedule};

const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

/// Threads exchange values through shared memory: thread t writes t, reads its neighbour t ^ 33 across warps.
const EXCHANGE: &str = "
.visible .entry k(.param .u64 out, .param .u32 n) {
    .reg .pred %p<4>; .reg .b32 %r<12>; .reg .b64 %rd<6>;
    .shared .align 16 .b8 tile[512];
    mov.u32 %r1, %tid.x;
    shl.b32 %r2, %r1, 2;
    mov.u32 %r3, tile;
    add.s32 %r4, %r3, %r2;
    st.shared.u32 [%r4], %r1;
    bar.sync 0;
    xor.b32 %r5, %r1, 33;
    shl.b32 %r6, %r5, 2;
    add.s32 %r7, %r3, %r6;
    ld.shared.u32 %r8, [%r7];
    ld.param.u32 %r9, [n];
    setp.ge.u32 %p1, %r1, %r9;
    @%p1 bra DONE;
    ld.param.u64 %rd1, [out];
    mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd3, %rd1, %rd2;
    st.global.u32 [%rd3], %r8;
DONE:
    ret;
}";

/// Lanes of one warp exchange through shared memory with a warp barrier.
const WARP_EXCHANGE: &str = "
.visible .entry k(.param .u64 out, .param .u32 n) {
    .reg .b32 %r<12>; .reg .b64 %rd<6>; .reg .pred %p<3>;
    .shared .align 4 .b8 tile[512];
    mov.u32 %r1, %tid.x;
    shl.b32 %r2, %r1, 2;
    mov.u32 %r3, tile;
    add.s32 %r4, %r3, %r2;
    st.shared.u32 [%r4], %r1;
    bar.warp.sync -1;
    xor.b32 %r5, %r2, 4;
    add.s32 %r6, %r3, %r5;
    ld.shared.u32 %r7, [%r6];
    shfl.sync.bfly.b32 %r8|%p1, %r7, 1, 31, -1;
    ld.param.u64 %rd1, [out];
    mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd3, %rd1, %rd2;
    st.global.u32 [%rd3], %r8;
    ret;
}";

/// Copies through shared memory with cp.async; thread t reads what thread t ^ 33 has copied.
const ASYNC: &str = "
.visible .entry k(.param .u64 out, .param .u64 inp) {
    .reg .b32 %r<12>; .reg .b64 %rd<8>;
    .shared .align 16 .b8 tile[2048];
    mov.u32 %r1, %tid.x;
    shl.b32 %r2, %r1, 4;
    mov.u32 %r3, tile;
    add.s32 %r4, %r3, %r2;
    ld.param.u64 %rd1, [inp];
    mul.wide.u32 %rd2, %r1, 16;
    add.s64 %rd3, %rd1, %rd2;
    cp.async.cg.shared.global [%r4], [%rd3], 16;
    cp.async.commit_group;
    cp.async.wait_group 0;
    bar.sync 0;
    xor.b32 %r5, %r2, 528;
    add.s32 %r6, %r3, %r5;
    ld.shared.u32 %r7, [%r6];
    ld.param.u64 %rd4, [out];
    mul.wide.u32 %rd5, %r1, 4;
    add.s64 %rd6, %rd4, %rd5;
    st.global.u32 [%rd6], %r7;
    ret;
}";

/// Local memory, division, a loop and a call.
const SCALAR: &str = "
.const .align 4 .b8 table[16] = {1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0};
.func (.param .b32 result) half(.param .b32 x) {
    .reg .b32 %r<4>; .reg .pred %p<2>;
    ld.param.b32 %r1, [x];
    shr.u32 %r2, %r1, 1;
    st.param.b32 [result], %r2;
    ret;
}
.visible .entry k(.param .u64 out, .param .u64 inp) {
    .reg .pred %p<4>; .reg .b32 %r<20>; .reg .b64 %rd<12>;
    .local .align 8 .b8 stack[16];
    mov.u32 %r1, %tid.x;
    ld.param.u64 %rd1, [inp];
    mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd3, %rd1, %rd2;
    ld.global.u32 %r2, [%rd3];
    st.local.u32 [stack], %r2;
    ld.local.u32 %r3, [stack];
    mov.u64 %rd4, table;
    ld.const.u32 %r4, [%rd4+4];
    div.u32 %r5, %r3, %r4;
    mov.u32 %r6, 0;
    mov.u32 %r7, 0;
LOOP:
    add.u32 %r7, %r7, %r5;
    add.u32 %r6, %r6, 1;
    setp.lt.u32 %p1, %r6, 5;
    @%p1 bra LOOP;
    {
    .param .b32 a; .param .b32 b;
    st.param.b32 [a], %r7;
    call.uni (b), half, (a);
    ld.param.b32 %r8, [b];
    }
    ld.param.u64 %rd5, [out];
    add.s64 %rd6, %rd5, %rd2;
    st.global.u32 [%rd6], %r8;
    ret;
}";

struct Mutant {
    kernel: &'static str,
    what: &'static str,
    change: (&'static str, &'static str),
    expected: Kind,
    /// A part of the message.
    says: &'static str,
}

const fn mutant(
    kernel: &'static str,
    what: &'static str,
    from: &'static str,
    to: &'static str,
    expected: Kind,
    says: &'static str,
) -> Mutant {
    Mutant { kernel, what, change: (from, to), expected, says }
}

const MUTANTS: &[Mutant] = &[
    mutant(
        EXCHANGE,
        "off-by-one bound",
        "setp.ge.u32",
        "setp.gt.u32",
        Kind::OutOfBounds,
        "writes 4 B of global memory",
    ),
    mutant(
        EXCHANGE,
        "store shifted by two bytes",
        "st.global.u32 [%rd3]",
        "st.global.u32 [%rd3+2]",
        Kind::Misaligned,
        "not a multiple of 4",
    ),
    mutant(
        EXCHANGE,
        "shared store to a global pointer",
        "st.global.u32 [%rd3]",
        "st.shared.u32 [%rd3]",
        Kind::WrongSpace,
        "writes global memory",
    ),
    mutant(EXCHANGE, "barrier dropped", "    bar.sync 0;\n", "", Kind::SharedRace, "no barrier between"),
    mutant(
        EXCHANGE,
        "barrier in divergent code",
        "bar.sync 0;",
        "and.b32 %r10, %r1, 16;\nsetp.eq.u32 %p2, %r10, 0;\n@%p2 bar.sync 0;\n@!%p2 bar.sync 0;",
        Kind::BarrierDivergence,
        "lanes 0000ffff of its warp only",
    ),
    mutant(
        EXCHANGE,
        "barrier before the store",
        "st.shared.u32 [%r4], %r1;\n    bar.sync 0;",
        "bar.sync 0;\nst.shared.u32 [%r4], %r1;",
        Kind::SharedRace,
        "no barrier between",
    ),
    mutant(
        EXCHANGE,
        "barrier count not whole warps",
        "bar.sync 0;",
        "bar.sync 0, 120;",
        Kind::BarrierMisuse,
        "not a multiple of 32",
    ),
    mutant(
        EXCHANGE,
        "barrier waits for too many",
        "bar.sync 0;",
        "bar.sync 0, 256;",
        Kind::Deadlock,
        "waits at barrier 0",
    ),
    mutant(
        EXCHANGE,
        "barrier number out of range",
        "bar.sync 0;",
        "mov.u32 %r10, 16; bar.sync %r10;",
        Kind::BarrierMisuse,
        "names barrier 16",
    ),
    mutant(
        EXCHANGE,
        "shared index past the end",
        "mov.u32 %r3, tile;",
        "mov.u32 %r3, tile+4;",
        Kind::OutOfBounds,
        "of shared memory, the block has 512 B",
    ),
    mutant(
        EXCHANGE,
        "shared memory never written",
        "st.shared.u32 [%r4], %r1;",
        "",
        Kind::Uninitialised,
        "of shared memory that nothing has written",
    ),
    mutant(
        EXCHANGE,
        "register never written",
        "ld.shared.u32 %r8, [%r7];",
        "",
        Kind::Uninitialised,
        "reads register %r8",
    ),
    mutant(EXCHANGE, "trap", "    ret;", "    trap;", Kind::Trap, "executes trap"),
    mutant(
        WARP_EXCHANGE,
        "warp barrier dropped",
        "    bar.warp.sync -1;\n",
        "",
        Kind::SharedRace,
        "no barrier between",
    ),
    mutant(
        WARP_EXCHANGE,
        "warp barrier without the neighbours",
        "bar.warp.sync -1;",
        "and.b32 %r9, %r1, 31; mov.u32 %r10, 1; shl.b32 %r10, %r10, %r9; bar.warp.sync %r10;",
        Kind::SharedRace,
        "no barrier between",
    ),
    mutant(
        WARP_EXCHANGE,
        "shuffle mask leaves lanes out",
        "1, 31, -1;",
        "1, 31, 0x55555555;",
        Kind::WarpSyncMisuse,
        "leaves itself out",
    ),
    mutant(
        WARP_EXCHANGE,
        "shuffle from an absent lane",
        "shfl.sync.bfly.b32 %r8|%p1, %r7, 1, 31, -1;",
        "setp.lt.u32 %p2, %r1, 1; mov.u32 %r8, 0; @%p2 shfl.sync.bfly.b32 %r8|%p1, %r7, 1, 31, 1;",
        Kind::WarpSyncMisuse,
        "does not take part",
    ),
    mutant(
        WARP_EXCHANGE,
        "half a warp leaves the shuffle",
        "shfl.sync.bfly.b32 %r8",
        "and.b32 %r9, %r1, 1; setp.eq.u32 %p2, %r9, 1; mov.u32 %r8, 0; @%p2 shfl.sync.bfly.b32 %r8",
        Kind::WarpSyncMisuse,
        "does not take part",
    ),
    mutant(
        ASYNC,
        "wait removed",
        "    cp.async.wait_group 0;\n",
        "",
        Kind::MissingAsyncWait,
        "has not been waited for",
    ),
    mutant(
        ASYNC,
        "wait allows one group",
        "wait_group 0",
        "wait_group 1",
        Kind::MissingAsyncWait,
        "has not been waited for",
    ),
    mutant(
        ASYNC,
        "commit removed",
        "    cp.async.commit_group;\n",
        "",
        Kind::MissingAsyncWait,
        "has not been waited for",
    ),
    mutant(
        ASYNC,
        "barrier after the wait removed",
        "    bar.sync 0;\n",
        "",
        Kind::SharedRace,
        "no barrier between",
    ),
    mutant(
        ASYNC,
        "wait after the barrier",
        "cp.async.wait_group 0;\n    bar.sync 0;",
        "bar.sync 0;\n    cp.async.wait_group 0;",
        Kind::MissingAsyncWait,
        "has not been waited for",
    ),
    mutant(
        ASYNC,
        "copy to a misaligned place",
        "mov.u32 %r3, tile;",
        "mov.u32 %r3, tile+8;",
        Kind::Misaligned,
        "not a multiple of 16",
    ),
    mutant(
        ASYNC,
        "copy from past the end",
        "mul.wide.u32 %rd2, %r1, 16;",
        "mul.wide.u32 %rd2, %r1, 32;",
        Kind::OutOfBounds,
        "past the end of inp",
    ),
    mutant(
        SCALAR,
        "read past the input",
        "add.s64 %rd3, %rd1, %rd2;",
        "add.s64 %rd3, %rd1, %rd2;\nadd.s64 %rd3, %rd3, 1540;",
        Kind::OutOfBounds,
        "past the end of inp",
    ),
    mutant(
        SCALAR,
        "null pointer",
        "ld.global.u32 %r2, [%rd3];",
        "ld.global.u32 %r2, [%rd2];",
        Kind::OutOfBounds,
        "a null pointer",
    ),
    mutant(
        SCALAR,
        "output read before it is written",
        "st.local.u32 [stack], %r2;",
        "ld.param.u64 %rd7, [out];\nld.global.u32 %r2, [%rd7];\nst.local.u32 [stack], %r2;",
        Kind::Uninitialised,
        "of global memory that nothing has written, 0 bytes into out",
    ),
    mutant(
        SCALAR,
        "local memory never written",
        "st.local.u32 [stack], %r2;",
        "",
        Kind::Uninitialised,
        "of local memory that it has not written",
    ),
    mutant(
        SCALAR,
        "local memory past the end",
        "ld.local.u32 %r3, [stack];",
        "mov.u64 %rd8, stack;\nadd.u64 %rd8, %rd8, 32768;\nld.local.u32 %r3, [%rd8];",
        Kind::OutOfBounds,
        "of local memory, the thread has",
    ),
    mutant(
        SCALAR,
        "constant memory written",
        "div.u32",
        "st.global.u32 [%rd4], %r3;\ndiv.u32",
        Kind::ReadOnlyWrite,
        "variable table (16 B), which is constant",
    ),
    mutant(
        SCALAR,
        "division by zero",
        "ld.const.u32 %r4, [%rd4+4];",
        "mov.u32 %r4, 0;",
        Kind::DivisionByZero,
        "divides an integer by zero",
    ),
    mutant(
        SCALAR,
        "a register written on one path",
        "mov.u32 %r7, 0;",
        "setp.lt.u32 %p2, %r1, 3;\n@%p2 mov.u32 %r7, 0;",
        Kind::Uninitialised,
        "reads register %r7",
    ),
    mutant(SCALAR, "endless loop", "add.u32 %r6, %r6, 1;", "", Kind::Endless, "still running"),
    mutant(
        SCALAR,
        "endless recursion",
        "shr.u32 %r2, %r1, 1;",
        "{ .param .b32 a; .param .b32 b; st.param.b32 [a], %r1; call.uni (b), half, (a); ld.param.b32 %r2, [b]; }",
        Kind::StackOverflow,
        "runs out of stack",
    ),
];

/// Runs a kernel of the table; 128 threads, n = 128 of 128 elements out.
fn run(ptx: &str, options: Options) -> handloom_emulator::LaunchReport {
    let mut run = Run::new(ptx, options);
    let out = run.empty::<u32>("out", 128);
    let inp = run.put("inp", &(0..512u32).map(|i| i + 1).collect::<Vec<_>>());
    let second = if run.module.module.kernels()[0].params[1].size == 4 { 128u32.into() } else { inp.into() };
    run.launch(
        "k",
        LaunchConfig::linear(1, if ptx.contains("setp.gt.u32") { 160 } else { 128 }),
        &[out.into(), second],
    )
}

fn schedules() -> Vec<Options> {
    let base = Options { instruction_limit: 3_000_000, ..Options::default() };
    let early = Options { async_timing: AsyncTiming::Early, ..base.clone() };
    let random = (1..4).map(|seed| Options { schedule: Schedule::Random, seed, ..base.clone() });
    let priority = Options { schedule: Schedule::Priority, seed: 5, ..base.clone() };
    [base.clone(), early, priority].into_iter().chain(random).collect()
}

#[test]
fn every_mutant_is_flagged_and_every_original_is_clean() {
    for kernel in [EXCHANGE, WARP_EXCHANGE, ASYNC, SCALAR] {
        for options in schedules() {
            let report = run(&format!("{HEAD}{kernel}"), options);
            assert!(report.is_clean(), "an original is accused:\n{}", report.text());
        }
    }
    let mut missed = Vec::new();
    println!("{:<40} {:<18} flagged in of schedules", "defect", "finding");
    for m in MUTANTS {
        assert!(m.kernel.contains(m.change.0), "{}: nothing to change", m.what);
        let ptx = format!("{HEAD}{}", m.kernel.replacen(m.change.0, m.change.1, 1));
        let mut flagged = 0;
        let mut seen = String::new();
        for options in schedules() {
            let report = run(&ptx, options);
            let hit = report.findings.iter().any(|f| f.kind == m.expected && f.to_string().contains(m.says));
            flagged += hit as u32;
            if !hit {
                seen = report.text();
            }
        }
        println!("{:<40} {:<18} {flagged} of 6", m.what, format!("{:?}", m.expected));
        if flagged < 6 {
            missed.push(format!("{}: {flagged} of 6; found instead:\n{seen}", m.what));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

/// Warp 1 divides by a flag that warp 0 raises, without waiting for it: right or wrong by the order of the two.
const ORDER: &str = "
.visible .entry k(.param .u64 out, .param .u64 inp) {
    .reg .b32 %r<12>; .reg .b64 %rd<8>; .reg .pred %p<3>;
    .shared .align 4 .b8 flag[4];
    mov.u32 %r1, %tid.x;
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra WAIT;
    mov.u32 %r2, 0;
    st.volatile.shared.u32 [flag], %r2;
WAIT:
    bar.sync 0;
    setp.ge.u32 %p1, %r1, 32;
    @%p1 bra READ;
    mov.u32 %r2, 1;
    st.volatile.shared.u32 [flag], %r2;
    bra DONE;
READ:
    ld.volatile.shared.u32 %r3, [flag];
    div.u32 %r4, %r1, %r3;
DONE:
    ret;
}";

#[test]
fn a_finding_of_a_random_schedule_prints_the_options_that_repeat_it() {
    let ptx = format!("{HEAD}{ORDER}");
    for schedule in ["random", "priority,depth=2"] {
        let reports: Vec<_> = (0..40)
            .map(|seed| {
                let options =
                    Options::parse(&format!("schedule={schedule},async=random,seed={seed}")).unwrap();
                run(&ptx, options)
            })
            .collect();
        let found: Vec<_> = reports.iter().filter(|r| !r.is_clean()).collect();
        assert!(!found.is_empty() && found.len() < reports.len(), "{schedule}: {} of 40", found.len());
        for report in found {
            let text = report.text();
            let options = text.trim_end().rsplit('(').next().unwrap().trim_end_matches(')');
            assert!(options.contains("schedule=") && options.contains("seed="), "{text}");
            assert_eq!(run(&ptx, Options::parse(options).unwrap()).text(), text);
        }
    }
}

#[test]
fn a_finding_names_kernel_block_thread_and_lines() {
    let mut run = Run::new(include_str!("ptx/basic.ptx"), Options::default());
    let a = run.put("a", &vec![1f32; 300]);
    let out = run.empty::<f32>("out", 300);
    let report = run.launch(
        "vector_add",
        LaunchConfig::linear(3, 128),
        &[out.into(), a.into(), a.into(), 310i32.into()],
    );
    let text = report.findings[0].to_string();
    assert!(
        text.starts_with("vector_add: thread (44,0,0) block (2,0,0) reads 4 B of global memory at 0x"),
        "{text}"
    );
    assert!(
        text.contains("0 B past the end of a (1200 B)") && text.contains("at basic.cu:6, PTX line"),
        "{text}"
    );
    assert!(!report.stopped, "findings do not stop a launch until there are too many");
    assert_eq!(run.get::<f32>(out, 300), vec![2.0; 300]);
}

#[test]
fn checks_can_be_switched_off_one_by_one() {
    let ptx = format!("{HEAD}{}", EXCHANGE.replacen("    bar.sync 0;\n", "", 1));
    let without = Checks { races: false, uninitialised: false, ..Checks::ALL };
    let report = run(&ptx, Options { checks: without, ..Options::default() });
    assert!(report.is_clean(), "{}", report.text());
}

#[test]
fn freed_memory_is_recognised() {
    let mut r = Run::new(&format!("{HEAD}{SCALAR}"), Options::default());
    let (out, inp) = (r.empty::<u32>("out", 32), r.put("weights", &[1u32; 32]));
    r.device.free(inp).unwrap();
    let report = r.launch("k", LaunchConfig::linear(1, 32), &[out.into(), inp.into()]);
    assert!(report.text().contains("weights (128 B), which has been freed"), "{}", report.text());
}

#[test]
fn limits_of_the_architecture_are_errors() {
    let ptx = format!(
        "{HEAD}.visible .entry k() .maxntid 256 {{ .shared .b8 s[1024]; .reg .b32 r; mov.u32 r, s; ret; }}\n.visible .entry free() {{ ret; }}"
    );
    let r = Run::new(&ptx, Options::default());
    let base = LaunchConfig::linear(1, 32);
    let message =
        |kernel: &str, config| r.device.launch(&r.module, kernel, config, &[]).unwrap_err().to_string();
    assert!(message("k", LaunchConfig::linear(1, 257)).contains("compiled for at most 256 (.maxntid)"));
    assert!(message("free", LaunchConfig::linear(1, 1025)).contains("sm_80 allows 1 to 1024"));
    assert!(
        message("free", LaunchConfig { block: [64, 32, 1], ..base })
            .contains("2048 threads per block, sm_80 allows 1024")
    );
    assert!(message("free", LaunchConfig { grid: [1, 65536, 1], ..base }).contains("grid y is 65536"));
    assert!(
        message("k", LaunchConfig { dynamic_shared: 165_889, ..base })
            .contains("1024 B static + 165889 B dynamic")
    );
    assert!(message("free", LaunchConfig { cluster: [2, 1, 1], ..base }).contains("clusters need sm_90"));
    assert!(message("nothing", base).contains("no such kernel; the module has k, free"));
    let one = r.device.launch(&r.module, "free", base, &[1u32.into()]).unwrap_err().to_string();
    assert!(one.contains("takes 0 arguments, 1 are given"));
}

#[test]
fn what_ptxas_rejects_is_rejected_with_the_line() {
    let cases = [
        ("add.s32 %r1, %f1, 1;", "register `%f1` has type .f32, this instruction needs .s32"),
        ("add.f32 %f1, %f1, %r1;", "register `%r1` has type .s32, this instruction needs .f32"),
        ("add.s32 %r1, %rd1, 1;", "has type .b64"),
        ("add.s32 %r1, %r1;", "takes 3 operands, 2 are given"),
        ("mov.u32 %r9, 1;", "unknown name `%r9`"),
        ("bra NOWHERE;", "`NOWHERE` is not a label"),
        ("ld.global.u32 %r1, [%r1];", "a global address needs a 64-bit register"),
        ("ld.param.u64 %rd1, [missing];", "unknown name `missing`"),
        ("cvt.f32.s32 %f1, %r1;", "needs a rounding modifier"),
        ("cvt.rna.tf32.f32 %f1, %f1;", "has type .f32, this instruction needs .b32"),
        ("setp.lt.b32 %p1, %r1, %r1;", "bit types compare with .eq and .ne only"),
        ("ld.global.v2.u32 %r1, [%rd1];", "moves 2 registers, 1 are given"),
        ("cp.async.cg.shared.global [%r1], [%rd1], 8;", "cp.async copies [16] bytes here, not 8"),
        (
            "tex.2d.v4.f32.f32 {%f1, %f1, %f1, %f1}, [%rd1, {%f1, %f1}];",
            "unknown instruction `tex.2d.v4.f32.f32`",
        ),
        ("wgmma.fence.sync.aligned;", "needs sm_90a, the module is for sm_80"),
        ("ld.param.u64 %rd1, [p+4];", "of 8 B of kernel parameters"),
    ];
    for (line, says) in cases {
        let body =
            format!(".reg .pred %p<2>; .reg .s32 %r<4>; .reg .f32 %f<4>; .reg .b64 %rd<4>;\n{line}\nret;");
        let ptx = format!("{HEAD}.visible .entry k(.param .u64 p) {{\n{body}\n}}");
        let message =
            Module::parse(&ptx).err().map(|e| e.to_string()).unwrap_or_else(|| "accepted".to_string());
        assert!(message.contains(says) && message.starts_with("PTX line 6:"), "{line}\n{message}");
    }
}
