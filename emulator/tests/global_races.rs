//! Races in global memory: what orders blocks and what does not. Each kernel is right, in every schedule; each change
//! takes away one thing it relies on, and is found.

mod common;

use common::Run;
use handloom_emulator::{Checks, FindingKind as Kind, LaunchConfig, LaunchReport, Options, Schedule};

const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

/// The last block to finish adds up what all have written (CUDA's threadFenceReduction): thread 0 of each block writes,
/// fences, and draws a ticket; there is no fence after the ticket.
const TICKET: &str = "
.visible .entry k(.param .u64 out, .param .u64 parts, .param .u64 ticket) {
    .reg .b32 %r<20>; .reg .b64 %rd<12>; .reg .pred %p<4>;
    .shared .align 4 .b8 last[4];
    ld.param.u64 %rd1, [out]; ld.param.u64 %rd2, [parts]; ld.param.u64 %rd3, [ticket];
    mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %nctaid.x;
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra WAIT;
    mul.wide.u32 %rd4, %r2, 4;
    add.s64 %rd5, %rd2, %rd4;
    add.u32 %r4, %r2, 1;
    st.global.u32 [%rd5], %r4;
    membar.gl;
    sub.u32 %r5, %r3, 1;
    atom.global.inc.u32 %r6, [%rd3], %r5;
    setp.eq.u32 %p2, %r6, %r5;
    selp.u32 %r7, 1, 0, %p2;
    st.shared.u32 [last], %r7;
WAIT:
    bar.sync 0;
    ld.shared.u32 %r8, [last];
    setp.eq.u32 %p3, %r8, 0;
    @%p3 bra DONE;
    mul.wide.u32 %rd6, %r1, 4;
    add.s64 %rd7, %rd2, %rd6;
    ld.global.u32 %r9, [%rd7];
    add.s64 %rd8, %rd1, %rd6;
    st.global.u32 [%rd8], %r9;
DONE:
    ret;
}";

/// Every block waits for all others (a grid barrier): counted up by an atomic, awaited by volatile loads.
const GRID_BARRIER: &str = "
.visible .entry k(.param .u64 out, .param .u64 parts, .param .u64 ticket) {
    .reg .b32 %r<20>; .reg .b64 %rd<12>; .reg .pred %p<4>;
    ld.param.u64 %rd1, [out]; ld.param.u64 %rd2, [parts]; ld.param.u64 %rd3, [ticket];
    mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %nctaid.x;
    mad.lo.u32 %r4, %r2, 32, %r1;
    mul.wide.u32 %rd4, %r4, 4;
    add.s64 %rd5, %rd2, %rd4;
    st.global.u32 [%rd5], %r4;
    bar.sync 0;
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra WAIT;
    membar.gl;
    atom.global.add.u32 %r5, [%rd3], 1;
SPIN:
    ld.volatile.global.u32 %r6, [%rd3];
    setp.lt.u32 %p2, %r6, %r3;
    @%p2 bra SPIN;
    membar.gl;
WAIT:
    bar.sync 0;
    add.u32 %r7, %r4, 32;
    mul.lo.u32 %r8, %r3, 32;
    rem.u32 %r7, %r7, %r8;
    mul.wide.u32 %rd6, %r7, 4;
    add.s64 %rd7, %rd2, %rd6;
    ld.global.u32 %r9, [%rd7];
    add.s64 %rd8, %rd1, %rd4;
    st.global.u32 [%rd8], %r9;
    ret;
}";

/// Blocks add to one tile in turn (split-K): each waits for its number with ld.acquire and hands on with st.release.
const TURNSTILE: &str = "
.visible .entry k(.param .u64 out, .param .u64 parts, .param .u64 ticket) {
    .reg .b32 %r<20>; .reg .b64 %rd<12>; .reg .pred %p<4>;
    ld.param.u64 %rd1, [out]; ld.param.u64 %rd3, [ticket];
    mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x;
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra TURN;
SPIN:
    ld.acquire.gpu.global.u32 %r6, [%rd3];
    setp.ne.u32 %p2, %r6, %r2;
    @%p2 bra SPIN;
TURN:
    bar.sync 0;
    mul.wide.u32 %rd4, %r1, 4;
    add.s64 %rd5, %rd1, %rd4;
    mov.u32 %r7, 0;
    setp.eq.u32 %p3, %r2, 0;
    @!%p3 ld.global.u32 %r7, [%rd5];
    add.u32 %r7, %r7, %r2;
    st.global.u32 [%rd5], %r7;
    bar.sync 0;
    @%p1 bra DONE;
    add.u32 %r8, %r2, 1;
    st.release.gpu.global.u32 [%rd3], %r8;
DONE:
    ret;
}";

/// A critical section: threads of all blocks take a lock, add without atomics, and give it back.
const LOCK: &str = "
.visible .entry k(.param .u64 out, .param .u64 parts, .param .u64 ticket) {
    .reg .b32 %r<20>; .reg .b64 %rd<12>; .reg .pred %p<4>;
    ld.param.u64 %rd2, [parts]; ld.param.u64 %rd3, [ticket];
    mov.u32 %r1, %tid.x;
    setp.gt.u32 %p1, %r1, 3;
    @%p1 bra DONE;
TAKE:
    atom.global.cas.b32 %r5, [%rd3], 0, 1;
    setp.ne.u32 %p2, %r5, 0;
    @%p2 bra TAKE;
    ld.global.u32 %r6, [%rd2];
    add.u32 %r6, %r6, 1;
    st.global.u32 [%rd2], %r6;
    membar.gl;
    atom.global.exch.b32 %r7, [%rd3], 0;
DONE:
    ret;
}";

/// Each thread writes its own element; neighbours in the block read it after a barrier.
const PLAIN: &str = "
.visible .entry k(.param .u64 out, .param .u64 parts, .param .u64 ticket) {
    .reg .b32 %r<20>; .reg .b64 %rd<12>; .reg .pred %p<4>;
    ld.param.u64 %rd1, [out]; ld.param.u64 %rd2, [parts];
    mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x;
    mad.lo.u32 %r4, %r2, %r3, %r1;
    mul.wide.u32 %rd4, %r4, 4;
    add.s64 %rd5, %rd2, %rd4;
    st.global.u32 [%rd5], %r4;
    bar.sync 0;
    xor.b32 %r5, %r4, 17;
    mul.wide.u32 %rd6, %r5, 4;
    add.s64 %rd7, %rd2, %rd6;
    ld.global.u32 %r6, [%rd7];
    add.s64 %rd8, %rd1, %rd4;
    st.global.u32 [%rd8], %r6;
    ret;
}";

/// Block 0 hands data to the others by a flag, with the instructions that take the places of PRODUCE and CONSUME.
const FLAG: &str = "
.visible .entry k(.param .u64 out, .param .u64 parts, .param .u64 ticket) {
    .reg .b32 %r<20>; .reg .b64 %rd<12>; .reg .pred %p<4>;
    ld.param.u64 %rd1, [out]; ld.param.u64 %rd2, [parts]; ld.param.u64 %rd3, [ticket];
    mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x;
    mul.wide.u32 %rd4, %r1, 4;
    add.s64 %rd5, %rd2, %rd4;
    setp.ne.u32 %p1, %r2, 0;
    @%p1 bra SPIN;
    st.global.u32 [%rd5], %r1;
    bar.sync 0;
    setp.ne.u32 %p2, %r1, 0;
    @%p2 bra DONE;
    PRODUCE
    bra DONE;
SPIN:
    CONSUME
    setp.eq.u32 %p3, %r6, 0;
    @%p3 bra SPIN;
    AFTER
    ld.global.u32 %r7, [%rd5];
    mad.lo.u32 %r8, %r2, 32, %r1;
    mul.wide.u32 %rd6, %r8, 4;
    add.s64 %rd7, %rd1, %rd6;
    st.global.u32 [%rd7], %r7;
DONE:
    ret;
}";

struct Case {
    kernel: &'static str,
    what: &'static str,
    change: (&'static str, &'static str),
}

const MUTANTS: &[Case] = &[
    Case { kernel: TICKET, what: "fence before the ticket missing", change: ("    membar.gl;\n", "") },
    Case { kernel: TICKET, what: "fence of the block's scope only", change: ("membar.gl;", "membar.cta;") },
    Case {
        kernel: TICKET,
        what: "write after the fence",
        change: ("st.global.u32 [%rd5], %r4;\n    membar.gl;", "membar.gl;\n    st.global.u32 [%rd5], %r4;"),
    },
    Case {
        kernel: GRID_BARRIER,
        what: "fence of the grid barrier missing",
        change: ("    membar.gl;\n    atom", "    atom"),
    },
    Case { kernel: GRID_BARRIER, what: "grid barrier left out", change: ("@%p1 bra WAIT;", "bra WAIT;") },
    Case { kernel: TURNSTILE, what: "release made relaxed", change: ("st.release", "st.relaxed") },
    Case { kernel: TURNSTILE, what: "no waiting for the turn", change: ("    @%p2 bra SPIN;\n", "") },
    Case { kernel: LOCK, what: "lock given back without a fence", change: ("    membar.gl;\n", "") },
    Case {
        kernel: LOCK,
        what: "counter touched outside the lock",
        change: ("TAKE:", "ld.global.u32 %r6, [%rd2];\nTAKE:"),
    },
    Case {
        kernel: PLAIN,
        what: "barrier before reading a neighbour's missing",
        change: ("    bar.sync 0;\n", ""),
    },
    Case {
        kernel: PLAIN,
        what: "element of another block read",
        change: ("xor.b32 %r5, %r4, 17;", "xor.b32 %r5, %r4, 64;"),
    },
    Case {
        kernel: PLAIN,
        what: "element of another block written",
        change: ("mad.lo.u32 %r4, %r2, %r3, %r1;", "mad.lo.u32 %r4, %r2, 16, %r1;"),
    },
];

/// Defects that an order of blocks can hide.
const BY_CHANCE: &[&str] = &["no waiting for the turn", "counter touched outside the lock"];

fn run(ptx: &str, options: Options) -> LaunchReport {
    let mut run = Run::new(ptx, options);
    let (out, parts) = (run.empty::<u32>("out", 256), run.put("parts", &[0u32; 256]));
    let ticket = run.put("ticket", &[0u32]);
    // Two warps where a block's threads exchange with each other, one where blocks do.
    let threads = if ptx.contains("%ntid") { 64 } else { 4.max(32 * ptx.contains("bar.sync") as u32) };
    let blocks = if ptx.contains("last[4]") { threads } else { 4 };
    run.launch("k", LaunchConfig::linear(blocks, threads), &[out.into(), parts.into(), ticket.into()])
}

fn schedules() -> Vec<Options> {
    let base = Options { instruction_limit: 3_000_000, ..Options::default() };
    let random = (1..5).map(|seed| Options { schedule: Schedule::Random, seed, ..base.clone() });
    let priority = (1..3).map(|seed| Options { schedule: Schedule::Priority, seed, ..base.clone() });
    [base.clone()].into_iter().chain(random).chain(priority).collect()
}

#[test]
fn what_is_ordered_is_clean_and_what_is_not_is_found() {
    for kernel in [TICKET, GRID_BARRIER, TURNSTILE, LOCK, PLAIN] {
        for options in schedules() {
            let report = run(&format!("{HEAD}{kernel}"), options);
            assert!(report.is_clean(), "an original is accused:\n{kernel}\n{}", report.text());
        }
    }
    println!("{:<48} flagged in of schedules", "defect");
    let mut missed = Vec::new();
    for m in MUTANTS {
        assert!(m.kernel.contains(m.change.0), "{}: nothing to change", m.what);
        let ptx = format!("{HEAD}{}", m.kernel.replacen(m.change.0, m.change.1, 1));
        let reports: Vec<LaunchReport> = schedules().into_iter().map(|o| run(&ptx, o)).collect();
        let hits = reports.iter().filter(|r| r.findings.iter().any(|f| f.kind == Kind::GlobalRace)).count();
        println!("{:<48} {hits} of {}", m.what, reports.len());
        // Where one order of blocks is right by chance, some other must show the defect.
        let enough = if BY_CHANCE.contains(&m.what) { 1 } else { reports.len() };
        if hits < enough {
            let silent = reports.iter().find(|r| r.findings.iter().all(|f| f.kind != Kind::GlobalRace));
            missed.push(format!("{}: {hits}; {}", m.what, silent.unwrap().text()));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn the_report_names_both_threads_and_the_check_can_be_switched_off() {
    let ptx = format!("{HEAD}{}", PLAIN.replacen("xor.b32 %r5, %r4, 17;", "xor.b32 %r5, %r4, 64;", 1));
    let text = run(&ptx, Options::default()).text();
    assert!(
        text.contains("thread (32,0,0) block (1,0,0) reads 4 B of global memory, 128 bytes into parts (1024 B), which thread (32,0,0) of block (0,0,0) wrote with nothing to order them"),
        "{text}"
    );
    let checks = Checks { global_races: false, ..Checks::ALL };
    assert!(run(&ptx, Options { checks, ..Options::default() }).is_clean());
}

#[test]
fn launches_are_ordered() {
    let mut r = Run::new(&format!("{HEAD}{PLAIN}"), Options::default());
    let (out, parts) = (r.empty::<u32>("out", 256), r.empty::<u32>("parts", 256));
    for (blocks, threads) in [(4, 64), (2, 128), (1, 256), (4, 64)] {
        r.clean("k", LaunchConfig::linear(blocks, threads), &[out.into(), parts.into(), parts.into()]);
    }
}

/// What the producer does, how the consumers poll, what they do then; whether that orders them (PTX ISA 8.7 to 8.10).
const PROTOCOLS: &[(&str, &str, &str, bool)] = &[
    ("st.release.gpu.global.u32 [%rd3], 1;", "ld.acquire.gpu.global.u32 %r6, [%rd3];", "", true),
    ("st.release.sys.global.u32 [%rd3], 1;", "ld.acquire.sys.global.u32 %r6, [%rd3];", "", true),
    (
        "membar.gl; st.volatile.global.u32 [%rd3], 1;",
        "ld.volatile.global.u32 %r6, [%rd3];",
        "membar.gl;",
        true,
    ),
    (
        "fence.acq_rel.gpu; st.relaxed.gpu.global.u32 [%rd3], 1;",
        "ld.relaxed.gpu.global.u32 %r6, [%rd3];",
        "fence.acq_rel.gpu;",
        true,
    ),
    (
        "fence.sc.gpu; red.relaxed.gpu.global.add.u32 [%rd3], 1;",
        "ld.relaxed.gpu.global.u32 %r6, [%rd3];",
        "fence.sc.gpu;",
        true,
    ),
    ("red.release.gpu.global.add.u32 [%rd3], 1;", "ld.acquire.gpu.global.u32 %r6, [%rd3];", "", true),
    (
        "atom.release.gpu.global.exch.b32 %r5, [%rd3], 1;",
        "atom.acquire.gpu.global.add.u32 %r6, [%rd3], 0;",
        "",
        true,
    ),
    (
        "membar.gl; atom.global.exch.b32 %r5, [%rd3], 1;",
        "atom.global.or.b32 %r6, [%rd3], 0;",
        "membar.gl;",
        true,
    ),
    // Nothing is released, or nothing acquired.
    ("st.relaxed.gpu.global.u32 [%rd3], 1;", "ld.acquire.gpu.global.u32 %r6, [%rd3];", "", false),
    ("red.relaxed.gpu.global.add.u32 [%rd3], 1;", "ld.acquire.gpu.global.u32 %r6, [%rd3];", "", false),
    ("st.volatile.global.u32 [%rd3], 1;", "ld.volatile.global.u32 %r6, [%rd3];", "membar.gl;", false),
    ("st.release.gpu.global.u32 [%rd3], 1;", "ld.relaxed.gpu.global.u32 %r6, [%rd3];", "", false),
    ("membar.gl; st.volatile.global.u32 [%rd3], 1;", "ld.volatile.global.u32 %r6, [%rd3];", "", false),
    ("st.release.gpu.global.u32 [%rd3], 1; membar.gl;", "ld.global.u32 %r6, [%rd3];", "membar.gl;", false),
    // The fence comes before the load that it would make an acquire.
    (
        "st.release.gpu.global.u32 [%rd3], 1;",
        "fence.acq_rel.gpu; ld.relaxed.gpu.global.u32 %r6, [%rd3];",
        "",
        false,
    ),
    // Scopes that do not reach the other block.
    ("st.release.cta.global.u32 [%rd3], 1;", "ld.acquire.gpu.global.u32 %r6, [%rd3];", "", false),
    ("st.release.gpu.global.u32 [%rd3], 1;", "ld.acquire.cta.global.u32 %r6, [%rd3];", "", false),
    (
        "st.release.gpu.global.u32 [%rd3], 1;",
        "ld.relaxed.gpu.global.u32 %r6, [%rd3];",
        "fence.acq_rel.cta;",
        false,
    ),
    ("red.release.cta.global.add.u32 [%rd3], 1;", "ld.acquire.gpu.global.u32 %r6, [%rd3];", "", false),
    (
        "membar.cta; st.volatile.global.u32 [%rd3], 1;",
        "ld.volatile.global.u32 %r6, [%rd3];",
        "membar.gl;",
        false,
    ),
];

#[test]
fn flags_order_as_the_memory_model_says() {
    for &(produce, consume, after, ordered) in PROTOCOLS {
        let text = FLAG.replace("PRODUCE", produce).replace("CONSUME", consume).replace("AFTER", after);
        for options in schedules() {
            let report = run(&format!("{HEAD}{text}"), options);
            let raced = report.findings.iter().any(|f| f.kind == Kind::GlobalRace);
            assert_eq!(raced, !ordered, "{produce} / {consume} / {after}\n{}", report.text());
            assert!(raced || report.is_clean(), "{}", report.text());
        }
    }
}

/// A block that asks in a loop for what others have not done yet lets them run.
#[test]
fn waiting_blocks_do_not_burn_instructions() {
    let mut run = Run::new(&format!("{HEAD}{GRID_BARRIER}"), Options::default());
    let blocks = 100;
    let n = 32 * blocks as usize;
    let (out, parts) = (run.empty::<u32>("out", n), run.empty::<u32>("parts", n));
    let ticket = run.put("ticket", &[0u32]);
    let args = [out.into(), parts.into(), ticket.into()];
    let config = LaunchConfig::linear(blocks, 32);
    let report = run.launch("k", config, &args);
    assert!(report.is_clean(), "{}", report.text());
    // About 30 instructions of its own for each warp; a question is 3.
    let per_warp = report.counters.total.warp_instructions() / blocks as u64;
    assert!(per_warp < 300, "{per_warp} instructions for each warp");
}
