//! Broken pipelines of Hopper kernels: what goes wrong in producers and consumers around mbarriers, slots, parities,
//! proxies and matrix operations. Each defect is one that programs have had; the originals are those of
//! tests/cuda/hopper.cu, clean in tests/hopper_findings.rs. Prints the table.

mod common;

use common::hopper::{Mutant, Nth, assert_flagged, m, then};
use handloom_emulator::FindingKind as Kind;

/// Waits for the full slot of the matmul, as the kernel does.
const WAIT: &str = "{
.reg .pred done;
AGAIN:
mbarrier.try_wait.parity.shared::cta.b64 done, [%r45], %r46;
@done bra.uni OVER;
bra.uni AGAIN;
OVER:
}
wgmma.wait_group.sync.aligned 0;";

const MUTANTS: &[Mutant] = &[
    then(
        m(
            "matmul",
            "full slot waited for after the multiplication",
            Nth(1),
            ("@done bra.uni OVER;", "bra.uni OVER;"),
            Kind::MissingAsyncWait,
            "has not waited for it",
        ),
        Nth(0),
        ("wgmma.wait_group.sync.aligned 0;", WAIT),
    ),
    m(
        "matmul",
        "parity of the full slots flipped",
        Nth(0),
        ("and.b32  \t%r46, %r47, 1;", "xor.b32 %r46, %r47, 1;\nand.b32 %r46, %r46, 1;"),
        Kind::MissingAsyncWait,
        "has not waited for it",
    ),
    m(
        "matmul",
        "parity of the full slots by step, not by turn",
        Nth(0),
        ("and.b32  \t%r46, %r47, 1;", "and.b32 %r46, %r115, 1;"),
        Kind::MissingAsyncWait,
        "has not waited for it",
    ),
    m(
        "matmul",
        "slot filled before its readers are done",
        Nth(0),
        (
            "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%r87], %r88;\n@done bra.uni OVER;\nbra.uni AGAIN;",
            "bra.uni OVER;",
        ),
        Kind::MissingAsyncWait,
        "asynchronous operation",
    ),
    m(
        "matmul",
        "producer starts with the wrong parity",
        Nth(0),
        ("and.b32  \t%r88, %r100, 1;", "and.b32 %r88, %r99, 1;"),
        Kind::Deadlock,
        "for phase 0",
    ),
    m(
        "matmul",
        "slots never released",
        Nth(0),
        ("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote];", ""),
        Kind::Deadlock,
        "4 of 4 arrivals",
    ),
    then(
        m(
            "matmul",
            "slot released before the multiplication",
            Nth(0),
            ("wgmma.wait_group.sync.aligned 0;", ""),
            Kind::WarpgroupDivergence,
            "",
        ),
        Nth(0),
        (
            "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote];",
            "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote];\n}\n{\nwgmma.wait_group.sync.aligned 0;",
        ),
    ),
    m(
        "matmul",
        "slot released to its own block twice",
        Nth(0),
        ("remote, %r61, %r4;", "remote, %r61, 0;"),
        Kind::MbarrierMisuse,
        "0 arrivals are pending",
    ),
    m(
        "matmul",
        "release of a slot relaxed",
        Nth(0),
        ("mbarrier.arrive.release.cluster", "mbarrier.arrive.relaxed.cluster"),
        Kind::MissingAsyncWait,
        "asynchronous operation",
    ),
    m(
        "matmul",
        "wait for a free slot relaxed, no fence",
        Nth(0),
        ("mbarrier.try_wait.parity.acquire.cluster", "mbarrier.try_wait.parity.relaxed.cluster"),
        Kind::MissingAsyncWait,
        "asynchronous operation",
    ),
    m(
        "matmul",
        "slots need more releases than come",
        Nth(0),
        ("mov.u32 \t%r41, 4;", "mov.u32 %r41, 8;"),
        Kind::Deadlock,
        "of 8 arrivals",
    ),
    m(
        "matmul",
        "slots need fewer releases than come",
        Nth(0),
        ("mov.u32 \t%r41, 4;", "mov.u32 %r41, 3;"),
        Kind::MbarrierMisuse,
        "mbarrier",
    ),
    m(
        "matmul",
        "multiplies another slot than it waited for",
        Nth(0),
        ("shl.b32 \t%r52, %r10, 14;", "mov.u32 %r52, 32768;"),
        Kind::MissingAsyncWait,
        "has not waited for it",
    ),
    m(
        "matmul",
        "bytes of one matrix expected only",
        Nth(0),
        ("mov.u32 \t%r90, 32768;", "mov.u32 %r90, 16384;"),
        Kind::TransactionBytes,
        "bytes",
    ),
    m(
        "matmul",
        "bytes of both halves expected twice",
        Nth(0),
        ("mov.u32 \t%r90, 32768;", "mov.u32 %r90, 49152;"),
        Kind::TransactionBytes,
        "B pending",
    ),
    m(
        "matmul",
        "tile written by a store before the multiplication",
        Nth(0),
        (
            "wgmma.fence.sync.aligned;",
            "{ .reg .pred q; setp.eq.u32 q, %r4, 0; .reg .b32 t; shl.b32 t, %r10, 14; add.s32 t, t, %r50; shl.b32 %r113, %r3, 13; add.s32 t, t, %r113; @q st.shared.u32 [t+-8192], %r4; }\nwgmma.fence.sync.aligned;",
        ),
        Kind::MissingProxyFence,
        "no fence.proxy.async between",
    ),
    m(
        "matmul",
        "one warp skips the multiplication",
        Nth(0),
        (
            "wgmma.fence.sync.aligned;",
            "{ .reg .pred q; .reg .b32 t; and.b32 t, %r2, 127; setp.lt.u32 q, t, 32; @q bra $L__BB1_8; }\nwgmma.fence.sync.aligned;",
        ),
        Kind::WarpgroupDivergence,
        "",
    ),
    m(
        "matmul",
        "setmaxnreg by one warp of the warpgroup",
        Nth(0),
        (
            "setmaxnreg.inc.sync.aligned.u32 232;",
            "{ .reg .pred q; setp.lt.u32 q, %r4, 32; @q setmaxnreg.inc.sync.aligned.u32 232; }",
        ),
        Kind::WarpgroupDivergence,
        "",
    ),
    m(
        "matmul",
        "setmaxnreg.dec missing",
        Nth(0),
        ("setmaxnreg.dec.sync.aligned.u32 40;", ""),
        Kind::RegisterPool,
        "registers",
    ),
    m(
        "matmul",
        "cluster barrier arrived at twice",
        Nth(0),
        (
            "barrier.cluster.arrive.relaxed.aligned;",
            "barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.arrive.relaxed.aligned;",
        ),
        Kind::BarrierMisuse,
        "twice",
    ),
    m(
        "tma_copy",
        "parity of a slot never flips",
        Nth(0),
        ("and.b32  \t%r44, %r45, 1;", "mov.u32 %r44, 0;"),
        Kind::MissingAsyncWait,
        "has not waited for it",
    ),
    m(
        "tma_copy",
        "refill without expecting its bytes",
        Nth(0),
        (
            "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r43], %r55;",
            "mbarrier.arrive.shared::cta.b64 _, [%r43];",
        ),
        Kind::MissingAsyncWait,
        "has not waited for it",
    ),
    m(
        "tma_copy",
        "refill signals the other slot",
        Nth(0),
        ("[%rd7, {%r58, %r2}], [%r43];", "[%rd7, {%r58, %r2}], [%r48];"),
        Kind::TransactionBytes,
        "",
    ),
    m(
        "tma_copy",
        "refill into the slot that is still in flight",
        Nth(0),
        ("shl.b32 \t%r60, %r8, 11;", "xor.b32 %r60, %r8, 1; shl.b32 %r60, %r60, 11;"),
        Kind::MissingAsyncWait,
        "",
    ),
    m(
        "tma_copy",
        "loads issued by every thread",
        Nth(0),
        ("or.pred  \t%p4, %p1, %p3;", "mov.pred %p4, %p3;"),
        Kind::MbarrierMisuse,
        "",
    ),
    then(
        m(
            "tma_copy",
            "one warp waits, the others do not",
            Nth(0),
            ("@done bra.uni OVER;", "@done bra.uni OVER;\nsetp.gt.u32 done, %r1, 31;\n@done bra OVER;"),
            Kind::MissingAsyncWait,
            "has not waited for it",
        ),
        Nth(1),
        ("bar.sync \t0;", ""),
    ),
    then(
        m(
            "tma_copy",
            "proxy fence after the barrier, by another thread",
            Nth(0),
            ("fence.proxy.async.shared::cta;", ""),
            Kind::MissingProxyFence,
            "no fence.proxy.async between",
        ),
        Nth(2),
        (
            "bar.sync \t0;",
            "bar.sync \t0;\n{ .reg .pred q; setp.eq.u32 q, %r1, 64; @q fence.proxy.async.shared::cta; }",
        ),
    ),
    m(
        "tma_copy",
        "proxy fence of global memory",
        Nth(0),
        ("fence.proxy.async.shared::cta;", "fence.proxy.async.global;"),
        Kind::MissingProxyFence,
        "no fence.proxy.async between",
    ),
    then(
        m(
            "tma_copy",
            "group committed after the wait for it",
            Nth(0),
            ("cp.async.bulk.commit_group;", ""),
            Kind::MissingAsyncWait,
            "reads: it has not waited",
        ),
        Nth(0),
        ("cp.async.bulk.wait_group.read 0;", "cp.async.bulk.wait_group.read 0;\ncp.async.bulk.commit_group;"),
    ),
    m(
        "tma_copy",
        "result stored by one thread, waited for by another",
        Nth(0),
        ("@%p1 bra \t$L__BB0_9;", "{ .reg .pred q; setp.ne.u32 q, %r1, 32; @q bra $L__BB0_9; }"),
        Kind::MissingAsyncWait,
        "",
    ),
    m(
        "tma_reduce",
        "source overwritten after the commit",
        Nth(0),
        (
            "cp.async.bulk.commit_group;",
            "cp.async.bulk.commit_group;\nst.shared.f32 [_ZZ10tma_reduceE4tile+4], 0f00000000;",
        ),
        Kind::MissingAsyncWait,
        "reads: it has not waited",
    ),
    m(
        "tma_reduce",
        "commit missing",
        Nth(0),
        ("cp.async.bulk.commit_group;", ""),
        Kind::MissingCommit,
        "commit_group is missing",
    ),
    m(
        "tma_reduce",
        "never waited for",
        Nth(0),
        ("cp.async.bulk.wait_group.read 0;", ""),
        Kind::MissingAsyncWait,
        "ends while the bulk copy",
    ),
    m(
        "send",
        "arrives relaxed and waits relaxed",
        Nth(0),
        ("mbarrier.try_wait.parity.acquire.cluster", "mbarrier.try_wait.parity.relaxed.cluster"),
        Kind::MissingAsyncWait,
        "has not waited for it",
    ),
    m(
        "bulk",
        "reads the copy before the wait",
        Nth(0),
        ("mbarrier.try_wait.parity", "ld.shared.u32 %r1, [raw];\nmbarrier.try_wait.parity"),
        Kind::MissingAsyncWait,
        "has not waited for it",
    ),
];

#[test]
fn every_broken_pipeline_is_flagged() {
    assert_flagged(MUTANTS);
}
