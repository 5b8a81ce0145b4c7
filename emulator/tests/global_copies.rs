//! Bulk copies to and from global memory in the check of races: when their writes are done, who may read them, and the
//! fence between the proxies; and copies that nobody waits for, whenever they happen. Each kernel is right; each change
//! takes away one thing it relies on, and is found in every schedule.

mod common;

use common::Run;
use handloom_emulator::{
    Arch, AsyncTiming, FindingKind as Kind, LaunchConfig, LaunchReport, Options, Schedule,
};

/// Block 0 stores 128 bytes in bulk and raises a flag; block 1 reads them.
const STORE: &str = "
.visible .entry k(.param .u64 out, .param .u64 parts, .param .u64 ticket) {
    .reg .b32 %r<20>; .reg .b64 %rd<12>; .reg .pred %p<4>;
    .shared .align 128 .b8 tile[128];
    ld.param.u64 %rd1, [out]; ld.param.u64 %rd2, [parts]; ld.param.u64 %rd3, [ticket];
    mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, tile;
    mul.wide.u32 %rd4, %r1, 4;
    add.s64 %rd5, %rd2, %rd4;
    setp.ne.u32 %p1, %r2, 0;
    @%p1 bra SPIN;
    shl.b32 %r4, %r1, 2;
    add.u32 %r4, %r3, %r4;
    st.shared.u32 [%r4], %r1;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    setp.ne.u32 %p2, %r1, 0;
    @%p2 bra DONE;
    cp.async.bulk.global.shared::cta.bulk_group [%rd2], [%r3], 128;
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group 0;
    red.release.gpu.global.add.u32 [%rd3], 1;
    bra DONE;
SPIN:
    ld.acquire.gpu.global.u32 %r6, [%rd3];
    setp.eq.u32 %p3, %r6, 0;
    @%p3 bra SPIN;
    ld.global.u32 %r7, [%rd5];
    add.s64 %rd6, %rd1, %rd4;
    st.global.u32 [%rd6], %r7;
DONE:
    ret;
}";

/// Block 0 writes 128 bytes and raises a flag; block 1 loads them in bulk.
const LOAD: &str = "
.visible .entry k(.param .u64 out, .param .u64 parts, .param .u64 ticket) {
    .reg .b32 %r<20>; .reg .b64 %rd<12>; .reg .pred %p<4>;
    .shared .align 128 .b8 tile[128]; .shared .align 8 .b8 full[8];
    ld.param.u64 %rd1, [out]; ld.param.u64 %rd2, [parts]; ld.param.u64 %rd3, [ticket];
    mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, tile; mov.u32 %r9, full;
    mul.wide.u32 %rd4, %r1, 4;
    add.s64 %rd5, %rd2, %rd4;
    setp.ne.u32 %p2, %r1, 0;
    setp.ne.u32 %p1, %r2, 0;
    @%p1 bra LOADER;
    st.global.u32 [%rd5], %r1;
    bar.sync 0;
    @%p2 bra DONE;
    red.release.gpu.global.add.u32 [%rd3], 1;
    bra DONE;
LOADER:
    @%p2 bra WAIT;
    mbarrier.init.shared::cta.b64 [%r9], 1;
SPIN:
    ld.acquire.gpu.global.u32 %r6, [%rd3];
    setp.eq.u32 %p3, %r6, 0;
    @%p3 bra SPIN;
    fence.proxy.async;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r9], 128;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r3], [%rd2], 128, [%r9];
WAIT:
    bar.sync 0;
AGAIN:
    mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r9], 0;
    @!%p3 bra AGAIN;
    shl.b32 %r4, %r1, 2;
    add.u32 %r4, %r3, %r4;
    ld.shared.u32 %r7, [%r4];
    add.s64 %rd6, %rd1, %rd4;
    st.global.u32 [%rd6], %r7;
DONE:
    ret;
}";

/// Both blocks add to the same bytes in bulk.
const REDUCE: &str = "
.visible .entry k(.param .u64 out, .param .u64 parts, .param .u64 ticket) {
    .reg .b32 %r<20>; .reg .b64 %rd<12>; .reg .pred %p<4>;
    .shared .align 128 .b8 tile[128];
    ld.param.u64 %rd2, [parts];
    mov.u32 %r1, %tid.x; mov.u32 %r3, tile;
    shl.b32 %r4, %r1, 2;
    add.u32 %r4, %r3, %r4;
    st.shared.u32 [%r4], %r1;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    setp.ne.u32 %p2, %r1, 0;
    @%p2 bra DONE;
    cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%rd2], [%r3], 128;
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group.read 0;
DONE:
    ret;
}";

/// cp.async whose completion an mbarrier counts.
const COUNTED: &str = "
.visible .entry k(.param .u64 out, .param .u64 parts, .param .u64 ticket) {
    .reg .b32 %r<20>; .reg .b64 %rd<12>; .reg .pred %p<4>;
    .shared .align 16 .b8 tile[128]; .shared .align 8 .b8 full[8];
    ld.param.u64 %rd1, [out]; ld.param.u64 %rd2, [parts];
    mov.u32 %r1, %tid.x; mov.u32 %r3, tile; mov.u32 %r9, full;
    setp.ne.u32 %p2, %r1, 0;
    @!%p2 mbarrier.init.shared::cta.b64 [%r9], 32;
    bar.sync 0;
    mul.wide.u32 %rd4, %r1, 4;
    add.s64 %rd5, %rd2, %rd4;
    shl.b32 %r4, %r1, 2;
    add.u32 %r4, %r3, %r4;
    cp.async.ca.shared.global [%r4], [%rd5], 4;
    cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%r9];
AGAIN:
    mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r9], 0;
    @!%p3 bra AGAIN;
DONE:
    ret;
}";

struct Case {
    kernel: &'static str,
    what: &'static str,
    change: (&'static str, &'static str),
    expected: Kind,
    says: &'static str,
}

const WAIT: &str = "    cp.async.bulk.wait_group 0;\n";
const PROXY: &str = "    fence.proxy.async;\n";
const LOOP: &str = "    mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r9], 0;\n    @!%p3 bra AGAIN;\n";

const MUTANTS: &[Case] = &[
    Case {
        kernel: STORE,
        what: "wait for the source only",
        change: (WAIT, "    cp.async.bulk.wait_group.read 0;\n"),
        expected: Kind::GlobalRace,
        says: "which warp 0 of block (0,0,0) wrote",
    },
    Case {
        kernel: STORE,
        what: "flag raised before the wait",
        change: (
            "    cp.async.bulk.wait_group 0;\n    red.release.gpu.global.add.u32 [%rd3], 1;\n",
            "    red.release.gpu.global.add.u32 [%rd3], 1;\n    cp.async.bulk.wait_group 0;\n",
        ),
        expected: Kind::GlobalRace,
        says: "with nothing to order them",
    },
    Case {
        kernel: STORE,
        what: "flag not released",
        change: ("red.release", "red.relaxed"),
        expected: Kind::GlobalRace,
        says: "with nothing to order them",
    },
    Case {
        kernel: STORE,
        what: "written bytes read without a wait",
        change: (WAIT, "    ld.global.u32 %r8, [%rd2+64];\n    cp.async.bulk.wait_group 0;\n"),
        expected: Kind::MissingAsyncWait,
        says: "writes that has not been waited for",
    },
    Case {
        kernel: STORE,
        what: "both blocks store to one place",
        change: ("    @%p1 bra SPIN;\n", ""),
        expected: Kind::GlobalRace,
        says: "writes global memory in bulk",
    },
    Case {
        kernel: STORE,
        what: "two stores to one place in flight",
        change: (
            "    cp.async.bulk.commit_group;\n",
            "    cp.async.bulk.commit_group;\n    cp.async.bulk.global.shared::cta.bulk_group [%rd2], [%r3], 128;\n    cp.async.bulk.commit_group;\n",
        ),
        expected: Kind::MissingAsyncWait,
        says: "writes global memory in bulk",
    },
    Case {
        kernel: LOAD,
        what: "proxy fence missing",
        change: (PROXY, ""),
        expected: Kind::MissingProxyFence,
        says: "wrote with no fence.proxy.async between",
    },
    Case {
        kernel: LOAD,
        what: "proxy fence of shared memory",
        change: (PROXY, "    fence.proxy.async.shared::cta;\n"),
        expected: Kind::MissingProxyFence,
        says: "no fence.proxy.async",
    },
    Case {
        kernel: LOAD,
        what: "proxy fence before the flag is seen",
        change: (
            "LOADER:\n    @%p2 bra WAIT;\n",
            "LOADER:\n    @%p2 bra WAIT;\n    fence.proxy.async; bra OVER; OVER:\n",
        ),
        expected: Kind::MissingProxyFence,
        says: "no fence.proxy.async",
    },
    Case {
        kernel: LOAD,
        what: "flag not waited for",
        change: ("    @%p3 bra SPIN;\n", ""),
        expected: Kind::GlobalRace,
        says: "reads global memory in bulk",
    },
    Case {
        kernel: LOAD,
        what: "load that nobody waits for",
        change: (LOOP, "    bra DONE;\n"),
        expected: Kind::MissingAsyncWait,
        says: "may still be in flight when the block it writes to ends",
    },
    Case {
        kernel: REDUCE,
        what: "reduction made a store",
        change: (
            "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32",
            "cp.async.bulk.global.shared::cta.bulk_group",
        ),
        expected: Kind::GlobalRace,
        says: "writes global memory in bulk",
    },
    Case {
        kernel: REDUCE,
        what: "sum read without a wait",
        change: ("DONE:\n", "    ld.global.u32 %r5, [%rd2];\nDONE:\n"),
        expected: Kind::MissingAsyncWait,
        says: "not been waited for (cp.async.bulk.wait_group, not .read)",
    },
    Case {
        kernel: COUNTED,
        what: "copies counted, and nobody waits",
        change: (LOOP, ""),
        expected: Kind::MissingAsyncWait,
        says: "nobody waits for the phase of its mbarrier",
    },
];

fn run(kernel: &str, options: Options) -> LaunchReport {
    let ptx = format!(".version 8.6\n.target sm_90a\n.address_size 64\n{kernel}");
    let mut run = Run::new(&ptx, options);
    let (out, parts) = (run.empty::<u32>("out", 64), run.put("parts", &[0u32; 64]));
    let ticket = run.put("ticket", &[0u32]);
    run.launch("k", LaunchConfig::linear(2, 32), &[out.into(), parts.into(), ticket.into()])
}

fn schedules() -> Vec<Options> {
    let base =
        Options { arch: Arch::named("sm_90a").unwrap(), instruction_limit: 3_000_000, ..Options::default() };
    let timed = |async_timing| Options { async_timing, ..base.clone() };
    let random = (1..4).map(|seed| Options { schedule: Schedule::Random, seed, ..base.clone() });
    let priority = (1..3).map(|seed| Options { schedule: Schedule::Priority, seed, ..base.clone() });
    [timed(AsyncTiming::Late), timed(AsyncTiming::Early)].into_iter().chain(random).chain(priority).collect()
}

/// Defects that an order of blocks can hide.
const BY_CHANCE: &[&str] = &["flag not waited for"];

#[test]
fn copies_are_ordered_and_waited_for_in_every_schedule() {
    for kernel in [STORE, LOAD, REDUCE, COUNTED] {
        for options in schedules() {
            let report = run(kernel, options);
            assert!(report.is_clean(), "an original is accused:\n{kernel}\n{}", report.text());
        }
    }
    println!("{:<40} flagged in of schedules", "defect");
    let mut missed = Vec::new();
    for m in MUTANTS {
        let mut text = m.kernel.to_string();
        if m.what == "proxy fence before the flag is seen" {
            text = text.replacen(PROXY, "", 1);
        }
        assert!(text.contains(m.change.0), "{}: nothing to change", m.what);
        let text = text.replacen(m.change.0, m.change.1, 1);
        let reports: Vec<LaunchReport> = schedules().into_iter().map(|o| run(&text, o)).collect();
        let is_found =
            |r: &LaunchReport| r.findings.iter().any(|f| f.kind == m.expected && f.message.contains(m.says));
        let hits = reports.iter().filter(|r| is_found(r)).count();
        println!("{:<40} {hits} of {}", m.what, reports.len());
        let enough = if BY_CHANCE.contains(&m.what) { 1 } else { reports.len() };
        if hits < enough {
            let silent = reports.iter().find(|r| !is_found(r));
            missed.push(format!("{}: {hits}; {}", m.what, silent.unwrap().text()));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
