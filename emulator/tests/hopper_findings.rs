//! For each check of sm_90a, a kernel with exactly that defect: the mutant is flagged, the original is clean. The
//! kernels are those of tests/cuda/hopper.cu, changed in their PTX. Prints the table.

mod common;

use common::hopper::{All, Mutant, Nth, assert_flagged, kernel, launch, m};
use handloom_emulator::{AsyncTiming, FindingKind as Kind};

const MUTANTS: &[Mutant] = &[
    m(
        "tma_copy",
        "wait that does not loop",
        All,
        ("@done bra.uni OVER;", "bra.uni OVER;"),
        Kind::MissingAsyncWait,
        "has not waited for it",
    ),
    m(
        "tma_copy",
        "wrong parity",
        All,
        ("mbarrier.try_wait.parity", "xor.b32 %r44, %r44, 1;\nmbarrier.try_wait.parity"),
        Kind::MissingAsyncWait,
        "has not waited for it",
    ),
    m(
        "tma_copy",
        "proxy fence missing",
        All,
        ("fence.proxy.async.shared::cta;", ""),
        Kind::MissingProxyFence,
        "no fence.proxy.async between",
    ),
    m(
        "tma_copy",
        "too few bytes expected",
        All,
        ("2048;", "1024;"),
        Kind::TransactionBytes,
        "-1024 B pending",
    ),
    m("tma_copy", "too many bytes expected", All, ("2048;", "2064;"), Kind::TransactionBytes, "16 B pending"),
    m(
        "tma_copy",
        "commit missing",
        All,
        ("cp.async.bulk.commit_group;", ""),
        Kind::MissingCommit,
        "commit_group is missing",
    ),
    m(
        "tma_copy",
        "store's source not waited for",
        Nth(0),
        ("cp.async.bulk.wait_group.read 0", "cp.async.bulk.wait_group.read 1"),
        Kind::MissingAsyncWait,
        "reads: it has not waited",
    ),
    m(
        "tma_copy",
        "last wait missing",
        Nth(1),
        ("cp.async.bulk.wait_group.read 0;", ""),
        Kind::MissingAsyncWait,
        "ends while the bulk copy",
    ),
    m(
        "tma_copy",
        "no barrier after init",
        Nth(0),
        ("bar.sync \t0;", ""),
        Kind::MbarrierMisuse,
        "with no barrier after its initialisation",
    ),
    m(
        "tma_copy",
        "init for too many arrivals",
        All,
        ("mov.u32 \t%r24, 1;", "mov.u32 \t%r24, 2;"),
        Kind::Deadlock,
        "1 of 2 arrivals",
    ),
    m(
        "tma_copy",
        "no init",
        Nth(0),
        ("mbarrier.init.shared::cta.b64 [%r21], %r24;", ""),
        Kind::MbarrierMisuse,
        "not been initialised",
    ),
    m(
        "tma_copy",
        "init twice",
        Nth(0),
        (
            "mbarrier.init.shared::cta.b64 [%r21], %r24;",
            "mbarrier.init.shared::cta.b64 [%r21], %r24;\nmbarrier.init.shared::cta.b64 [%r21], %r24;",
        ),
        Kind::MbarrierMisuse,
        "has not been invalidated",
    ),
    m(
        "tma_copy",
        "arrives twice",
        Nth(0),
        (
            "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r30], %r28;",
            "mbarrier.arrive.shared::cta.b64 _, [%r30];\nmbarrier.arrive.expect_tx.shared::cta.b64 _, [%r30], %r28;",
        ),
        Kind::MbarrierMisuse,
        "nobody has waited for",
    ),
    m(
        "tma_copy",
        "slot refilled before its readers are done",
        Nth(2),
        ("bar.sync \t0;", "fence.proxy.async;"),
        Kind::SharedRace,
        "no barrier between",
    ),
    m(
        "tma_copy",
        "target not aligned",
        Nth(0),
        ("complete_tx::bytes [%r29]", "complete_tx::bytes [%r29+16]"),
        Kind::Misaligned,
        "not a multiple of 128",
    ),
    m(
        "tma_copy",
        "map pointer off",
        Nth(0),
        ("[%rd5, {", "[%rd5+64, {"),
        Kind::CopyMisuse,
        "where there is none",
    ),
    m(
        "tma_copy",
        "mbarrier overwritten by a store",
        Nth(0),
        (
            "fence.mbarrier_init.release.cluster;",
            "st.shared.u32 [_ZZ8tma_copyE4full], 7;\nfence.mbarrier_init.release.cluster;",
        ),
        Kind::MbarrierMisuse,
        "where an mbarrier is",
    ),
    m(
        "tma_copy",
        "invalidated in the middle of a phase",
        Nth(0),
        (
            "complete_tx::bytes [%r29], [%rd5, {%r31, %r2}], [%r30];",
            "complete_tx::bytes [%r29], [%rd5, {%r31, %r2}], [%r30];\nmbarrier.inval.shared.b64 [%r30];",
        ),
        Kind::MbarrierMisuse,
        "in the middle of a phase",
    ),
    m(
        "tma_copy",
        "tx-count out of range",
        Nth(0),
        (
            "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r30], %r28;",
            "mbarrier.expect_tx.shared::cta.b64 [%r30], 1048575;\nmbarrier.arrive.expect_tx.shared::cta.b64 _, [%r30], %r28;",
        ),
        Kind::TransactionBytes,
        "at most 1048575",
    ),
    m(
        "tma_copy",
        "completes with noComplete",
        Nth(0),
        (
            "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r30], %r28;",
            "mbarrier.arrive.noComplete.shared::cta.b64 _, [%r30], 1;\nmbarrier.expect_tx.shared::cta.b64 [%r30], %r28;",
        ),
        Kind::MbarrierMisuse,
        "marked .noComplete",
    ),
    m(
        "matmul",
        "wgmma.fence missing",
        All,
        ("wgmma.fence.sync.aligned;", ""),
        Kind::WgmmaRegister,
        "no wgmma.fence between",
    ),
    m(
        "matmul",
        "wgmma.commit_group missing",
        All,
        ("wgmma.commit_group.sync.aligned;", ""),
        Kind::WgmmaRegister,
        "commit_group is missing",
    ),
    m(
        "matmul",
        "wgmma.wait_group missing",
        All,
        ("wgmma.wait_group.sync.aligned 0;", ""),
        Kind::WgmmaRegister,
        "has not been waited for",
    ),
    m(
        "matmul",
        "slot released one wgmma group early",
        All,
        ("wgmma.wait_group.sync.aligned 0;", "wgmma.wait_group.sync.aligned 1;"),
        Kind::MissingAsyncWait,
        "reads: it has not waited",
    ),
    m(
        "matmul",
        "accumulator touched in flight",
        All,
        (
            "wgmma.wait_group.sync.aligned 0;",
            "add.f32 %f896, %f896, 0f3F800000;\nwgmma.wait_group.sync.aligned 0;",
        ),
        Kind::WgmmaRegister,
        "accesses register %f896",
    ),
    m(
        "matmul",
        "swizzle of the descriptor swapped",
        All,
        ("46116862933053603", "92233723117326827"),
        Kind::DescriptorMismatch,
        "64-byte swizzle, a tensor copy wrote it with 128-byte swizzle",
    ),
    m(
        "matmul",
        "descriptors differ in a warpgroup",
        Nth(0),
        (
            "or.b64  \t%rd6, %rd16, 4611686293305360384;",
            "or.b64  \t%rd6, %rd16, 4611686293305360384;\n{ .reg .b32 t; .reg .b64 u; mov.u32 t, %tid.x; shr.u32 t, t, 5; and.b32 t, t, 1; cvt.u64.u32 u, t; add.s64 %rd6, %rd6, u; }",
        ),
        Kind::WarpgroupDivergence,
        "another descriptor",
    ),
    m(
        "matmul",
        "warps of a warpgroup at different instructions",
        Nth(0),
        (
            "wgmma.fence.sync.aligned;",
            "{ .reg .b32 t; .reg .pred q; mov.u32 t, %tid.x; and.b32 t, t, 32; setp.ne.u32 q, t, 0; @q wgmma.fence.sync.aligned; @!q wgmma.commit_group.sync.aligned; }",
        ),
        Kind::WarpgroupDivergence,
        "is at",
    ),
    m(
        "matmul",
        "consumers waited for too early",
        Nth(1),
        ("@done bra.uni OVER;", "bra.uni OVER;"),
        Kind::MissingAsyncWait,
        "has not waited for it",
    ),
    m(
        "matmul",
        "slots freed by half of their readers",
        All,
        ("mov.u32 \t%r41, 4;", "mov.u32 \t%r41, 2;"),
        Kind::MbarrierMisuse,
        "mbarrier",
    ),
    m(
        "matmul",
        "setmaxnreg beyond the pool",
        All,
        ("setmaxnreg.inc.sync.aligned.u32 232;", "setmaxnreg.inc.sync.aligned.u32 240;"),
        Kind::RegisterPool,
        "registers",
    ),
    m(
        "matmul",
        "setmaxnreg.dec to more",
        All,
        ("setmaxnreg.dec.sync.aligned.u32 40;", "setmaxnreg.dec.sync.aligned.u32 200;"),
        Kind::RegisterPool,
        "setmaxnreg.dec to 200",
    ),
    m(
        "matmul",
        "fence.mbarrier_init missing",
        All,
        ("fence.mbarrier_init.release.cluster;", ""),
        Kind::MbarrierMisuse,
        "no fence.mbarrier_init",
    ),
    m(
        "matmul",
        "first barrier of the cluster dropped",
        Nth(0),
        ("barrier.cluster.wait.acquire.aligned;", ""),
        Kind::ClusterMisuse,
        "may not have started",
    ),
    m(
        "matmul",
        "last barrier of the cluster dropped",
        Nth(0),
        ("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;", ""),
        Kind::ClusterMisuse,
        "has exited",
    ),
    m(
        "matmul",
        "multicast to too few blocks",
        All,
        ("mov.u16 \t%rs1, 3;", "mov.u16 \t%rs1, 1;"),
        Kind::TransactionBytes,
        "B pending",
    ),
    m(
        "matmul",
        "multicast to a block that is not",
        All,
        ("mov.u16 \t%rs1, 3;", "mov.u16 \t%rs1, 7;"),
        Kind::CopyMisuse,
        "multicasts to the blocks",
    ),
    m(
        "cluster_sum",
        "barrier before the reads dropped",
        Nth(0),
        ("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;", ""),
        Kind::ClusterMisuse,
        "may not have started",
    ),
    m(
        "cluster_sum",
        "arrival relaxed",
        Nth(0),
        ("barrier.cluster.arrive.release.aligned;", "barrier.cluster.arrive.relaxed.aligned;"),
        Kind::SharedRace,
        "of the cluster wrote",
    ),
    m(
        "cluster_sum",
        "block exits while it is read",
        Nth(1),
        ("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;", ""),
        Kind::ClusterMisuse,
        "has exited",
    ),
    m(
        "cluster_sum",
        "rank out of range",
        All,
        ("remote, %r23, %r28;", "remote, %r23, 4;"),
        Kind::ClusterMisuse,
        "cluster of 4",
    ),
    m(
        "cluster_sum",
        "waits without arriving",
        Nth(0),
        ("barrier.cluster.arrive.release.aligned;", ""),
        Kind::BarrierMisuse,
        "without having arrived",
    ),
    m(
        "send",
        "wait missing",
        All,
        ("@done bra.uni OVER;", "bra.uni OVER;"),
        Kind::MissingAsyncWait,
        "has not waited for it",
    ),
    m(
        "send",
        "nothing expected",
        All,
        ("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r4], %r7;", ""),
        Kind::Deadlock,
        "1 of 1 arrivals",
    ),
    m(
        "send",
        "half of the bytes expected",
        All,
        ("mov.u32 \t%r7, 256;", "mov.u32 \t%r7, 128;"),
        Kind::TransactionBytes,
        "expects too few bytes",
    ),
    m(
        "send",
        "receiver exits early",
        All,
        ("@done bra.uni OVER;", "exit;"),
        Kind::MissingAsyncWait,
        "still be in flight when the block",
    ),
    m(
        "tma_reduce",
        "proxy fence missing",
        All,
        ("fence.proxy.async.shared::cta;", ""),
        Kind::MissingProxyFence,
        "no fence.proxy.async between",
    ),
    m(
        "tma_reduce",
        "barrier missing",
        All,
        ("bar.sync \t0;", ""),
        Kind::MissingAsyncWait,
        "reads: it has not waited",
    ),
    m(
        "bulk",
        "proxy fence before the stores",
        All,
        ("fence.proxy.async.shared::cta;", "fence.proxy.async.global;\nst.shared.u32 [%r9+0], 1;"),
        Kind::MbarrierMisuse,
        "where an mbarrier is",
    ),
    m(
        "bulk",
        "size not a multiple of 16",
        All,
        ("[%rd4], %r1, [%r11];", "[%rd4], 200, [%r11];"),
        Kind::CopyMisuse,
        "not a multiple of 16",
    ),
    m(
        "bulk",
        "past the end of the source",
        All,
        ("[%rd4], %r1, [%r11];", "[%rd4+512], %r1, [%r11];"),
        Kind::OutOfBounds,
        "in bulk",
    ),
    m(
        "bulk",
        "past the end of shared memory",
        All,
        ("complete_tx::bytes [%r13]", "complete_tx::bytes [%r13+256]"),
        Kind::OutOfBounds,
        "the target of a copy",
    ),
    m(
        "bulk",
        "commit missing",
        All,
        ("cp.async.bulk.commit_group;", ""),
        Kind::MissingCommit,
        "commit_group is missing",
    ),
    m(
        "bulk",
        "source written while it is read",
        All,
        ("cp.async.bulk.wait_group.read 0;", "st.shared.u32 [%r24], 3;\ncp.async.bulk.wait_group.read 0;"),
        Kind::MissingAsyncWait,
        "reads: it has not waited",
    ),
];

#[test]
fn the_originals_are_clean() {
    for name in ["tma_copy", "matmul", "cluster_sum", "send", "tma_reduce", "bulk"] {
        for timing in [AsyncTiming::Late, AsyncTiming::Early] {
            let report = launch(name, &kernel(name), timing);
            assert!(report.is_clean(), "{name} {timing:?}\n{}", report.text());
        }
    }
}

#[test]
fn every_mutant_is_flagged() {
    assert_flagged(MUTANTS);
}

/// Lanes of one warp that meet at an mbarrier, and cp.async that it counts (cuda::pipeline on sm_80).
#[test]
fn lanes_of_a_warp_meet_at_an_mbarrier() {
    let text = ".version 8.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 out, .param .u64 inp) {
    .reg .b32 %r<12>; .reg .b64 %rd<8>; .reg .pred %p<4>;
    .shared .align 16 .b8 tile[128]; .shared .align 8 .b8 bar[8];
    ld.param.u64 %rd1, [out]; ld.param.u64 %rd2, [inp];
    mov.u32 %r1, %tid.x; mov.u32 %r2, tile; mov.u32 %r3, bar;
    setp.ne.u32 %p1, %r1, 0;
    @!%p1 mbarrier.init.shared.b64 [%r3], 32;
    bar.sync 0;
    setp.gt.u32 %p2, %r1, 7;
    @%p2 bra ARRIVE;
    shl.b32 %r4, %r1, 4;
    cvt.u64.u32 %rd3, %r4;
    add.s64 %rd3, %rd2, %rd3;
    add.u32 %r4, %r2, %r4;
    cp.async.cg.shared.global [%r4], [%rd3], 16;
ARRIVE:
    cp.async.mbarrier.arrive.shared.b64 [%r3];
    mbarrier.arrive.shared.b64 %rd4, [%r3];
WAIT:
    mbarrier.test_wait.parity.shared.b64 %p3, [%r3], 0;
    @!%p3 bra WAIT;
    xor.b32 %r5, %r1, 31;
    shl.b32 %r5, %r5, 2;
    add.u32 %r5, %r2, %r5;
    ld.shared.u32 %r6, [%r5];
    shl.b32 %r7, %r1, 2;
    cvt.u64.u32 %rd5, %r7;
    add.s64 %rd5, %rd1, %rd5;
    st.global.u32 [%rd5], %r6;
    ret;
}";
    let launch = |text: &str| {
        let mut run = common::Run::new(text, handloom_emulator::Options::default());
        let inp = run.put("inp", &(0..32u32).collect::<Vec<u32>>());
        let out = run.empty::<u32>("out", 32);
        let config = handloom_emulator::LaunchConfig::linear(1, 32);
        let report = run.launch("k", config, &[out.into(), inp.into()]);
        (report, run.get::<u32>(out, 32))
    };
    let (report, out) = launch(text);
    assert!(report.is_clean(), "{}", report.text());
    assert_eq!(out, (0..32).rev().collect::<Vec<u32>>());
    let (report, _) = launch(
        &text.replace("    mbarrier.test_wait.parity.shared.b64 %p3, [%r3], 0;\n    @!%p3 bra WAIT;\n", ""),
    );
    assert!(report.findings.iter().any(|f| f.kind == Kind::SharedRace), "{}", report.text());
}
