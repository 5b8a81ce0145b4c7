//! The forms of sm_90 and sm_90a, in the notation of [`super::table`]: mbarriers, clusters, bulk and tensor copies,
//! warpgroup matrix instructions and what goes with them (PTX ISA 9.7.9.25 to 28, 9.7.13 and 9.7.15).

use super::table::Op;

pub(super) const SETS: &[(&str, &str)] = &[
    ("cta", ".shared|.shared::cta"),
    ("cluster", ".shared|.shared::cta|.shared::cluster"),
    ("csem", ".release|.relaxed"),
    ("cscope", ".cta|.cluster"),
    ("tx", ".mbarrier::complete_tx::bytes"),
    ("dim", ".1d|.2d|.3d|.4d|.5d"),
    ("redop", ".add|.min|.max|.inc|.dec|.and|.or|.xor"),
    (
        "m64k16",
        ".m64n8k16|.m64n16k16|.m64n24k16|.m64n32k16|.m64n40k16|.m64n48k16|.m64n56k16|.m64n64k16|.m64n72k16|.m64n80k16|.m64n88k16|.m64n96k16|.m64n104k16|.m64n112k16|.m64n120k16|.m64n128k16|.m64n136k16|.m64n144k16|.m64n152k16|.m64n160k16|.m64n168k16|.m64n176k16|.m64n184k16|.m64n192k16|.m64n200k16|.m64n208k16|.m64n216k16|.m64n224k16|.m64n232k16|.m64n240k16|.m64n248k16|.m64n256k16",
    ),
    (
        "m64k8",
        ".m64n8k8|.m64n16k8|.m64n24k8|.m64n32k8|.m64n40k8|.m64n48k8|.m64n56k8|.m64n64k8|.m64n72k8|.m64n80k8|.m64n88k8|.m64n96k8|.m64n104k8|.m64n112k8|.m64n120k8|.m64n128k8|.m64n136k8|.m64n144k8|.m64n152k8|.m64n160k8|.m64n168k8|.m64n176k8|.m64n184k8|.m64n192k8|.m64n200k8|.m64n208k8|.m64n216k8|.m64n224k8|.m64n232k8|.m64n240k8|.m64n248k8|.m64n256k8",
    ),
    (
        "m64k32",
        ".m64n8k32|.m64n16k32|.m64n24k32|.m64n32k32|.m64n40k32|.m64n48k32|.m64n56k32|.m64n64k32|.m64n72k32|.m64n80k32|.m64n88k32|.m64n96k32|.m64n104k32|.m64n112k32|.m64n120k32|.m64n128k32|.m64n136k32|.m64n144k32|.m64n152k32|.m64n160k32|.m64n168k32|.m64n176k32|.m64n184k32|.m64n192k32|.m64n200k32|.m64n208k32|.m64n216k32|.m64n224k32|.m64n232k32|.m64n240k32|.m64n248k32|.m64n256k32",
    ),
    (
        "m64k32i",
        ".m64n8k32|.m64n16k32|.m64n24k32|.m64n32k32|.m64n48k32|.m64n64k32|.m64n80k32|.m64n96k32|.m64n112k32|.m64n128k32|.m64n144k32|.m64n160k32|.m64n176k32|.m64n192k32|.m64n208k32|.m64n224k32|.m64n240k32|.m64n256k32",
    ),
];

pub(super) const FORMS: &[(Op, &str)] = &[
    // 9.7.13.15 mbarrier
    (Op::MbarrierInit, "mbarrier .init {@cta} .b64"),
    (Op::MbarrierInval, "mbarrier .inval {@cta} .b64"),
    (Op::MbarrierArrive, "mbarrier .arrive|.arrive_drop {.expect_tx} {@csem} {@cscope} {@cluster} .b64"),
    (Op::MbarrierArrive, "mbarrier .arrive|.arrive_drop .noComplete {.release} {.cta} {@cta} .b64"),
    (Op::MbarrierTx, "mbarrier .expect_tx|.complete_tx {.relaxed} {@cscope} {@cluster} .b64"),
    (Op::MbarrierWait, "mbarrier .test_wait|.try_wait {.parity} {.acquire|.relaxed} {@cscope} {@cta} .b64"),
    (Op::MbarrierPending, "mbarrier .pending_count .b64"),
    (Op::CpAsyncMbarrier, "cp .async .mbarrier .arrive {.noinc} {@cta} .b64"),
    // 9.7.13.3 and 9.7.9.23 clusters
    (Op::BarrierCluster, "barrier .cluster .arrive {.release|.relaxed} {.aligned}"),
    (Op::BarrierCluster, "barrier .cluster .wait {.acquire} {.aligned}"),
    (Op::Mapa, "mapa {.shared::cluster} .u32|.u64"),
    (Op::GetCtaRank, "getctarank {.shared::cluster} .u32|.u64"),
    // 9.7.9.25 bulk copies
    (Op::BulkCopy, "cp .async .bulk .shared::cluster .global @tx {.multicast::cluster} {.L2::cache_hint}"),
    (Op::BulkCopy, "cp .async .bulk .shared::cluster .shared::cta @tx"),
    (Op::BulkCopy, "cp .async .bulk .shared::cta .global @tx {.L2::cache_hint}"),
    (Op::BulkCopy, "cp .async .bulk .global .shared::cta .bulk_group {.L2::cache_hint}"),
    (Op::BulkPrefetch, "cp .async .bulk .prefetch .L2 .global {.L2::cache_hint}"),
    (Op::BulkReduce, "cp .reduce .async .bulk .shared::cluster .shared::cta @tx .and|.or|.xor .b32|.b64"),
    (Op::BulkReduce, "cp .reduce .async .bulk .shared::cluster .shared::cta @tx .add .u32|.s32|.u64"),
    (Op::BulkReduce, "cp .reduce .async .bulk .shared::cluster .shared::cta @tx .inc|.dec .u32"),
    (
        Op::BulkReduce,
        "cp .reduce .async .bulk .shared::cluster .shared::cta @tx .min|.max .u32|.s32|.u64|.s64",
    ),
    (
        Op::BulkReduce,
        "cp .reduce .async .bulk .global .shared::cta .bulk_group {.L2::cache_hint} .and|.or|.xor .b32|.b64",
    ),
    (
        Op::BulkReduce,
        "cp .reduce .async .bulk .global .shared::cta .bulk_group {.L2::cache_hint} .add .u32|.s32|.u64|.f32|.f64",
    ),
    (
        Op::BulkReduce,
        "cp .reduce .async .bulk .global .shared::cta .bulk_group {.L2::cache_hint} .add .noftz .f16|.bf16",
    ),
    (
        Op::BulkReduce,
        "cp .reduce .async .bulk .global .shared::cta .bulk_group {.L2::cache_hint} .inc|.dec .u32",
    ),
    (
        Op::BulkReduce,
        "cp .reduce .async .bulk .global .shared::cta .bulk_group {.L2::cache_hint} .min|.max .u32|.s32|.u64|.s64|.f16|.bf16",
    ),
    (Op::BulkCommit, "cp .async .bulk .commit_group"),
    (Op::BulkWait, "cp .async .bulk .wait_group {.read}"),
    // 9.7.9.27 tensor copies
    (
        Op::TensorCopy,
        "cp .async .bulk .tensor @dim .shared::cluster .global {.tile} @tx {.multicast::cluster} {.L2::cache_hint}",
    ),
    (Op::TensorCopy, "cp .async .bulk .tensor @dim .shared::cta .global {.tile} @tx {.L2::cache_hint}"),
    (
        Op::TensorCopy,
        "cp .async .bulk .tensor @dim .global .shared::cta {.tile} .bulk_group {.L2::cache_hint}",
    ),
    (
        Op::TensorReduce,
        "cp .reduce .async .bulk .tensor @dim .global .shared::cta @redop {.tile} .bulk_group {.L2::cache_hint}",
    ),
    (Op::TensorPrefetch, "cp .async .bulk .prefetch .tensor @dim .L2 .global {.tile} {.L2::cache_hint}"),
    (Op::Prefetch, "prefetch {.const|.param} .tensormap"),
    (
        Op::TensormapReplace,
        "tensormap .replace .tile .global_address|.global_stride {.global|.shared::cta} .b1024 .b64",
    ),
    (
        Op::TensormapReplace,
        "tensormap .replace .tile .rank|.box_dim|.global_dim|.element_stride|.elemtype|.interleave_layout|.swizzle_mode|.fill_mode {.global|.shared::cta} .b1024 .b32",
    ),
    (
        Op::TensormapCopy,
        "tensormap .cp_fenceproxy .global.shared::cta .tensormap::generic .release @scope .sync .aligned",
    ),
    // 9.7.9.12 and 9.7.13.7 stores and reductions that signal an mbarrier
    (
        Op::StAsync,
        "st .async {.weak} {.cluster} {.shared::cluster} @tx {@vec} .b32|.b64|.u32|.u64|.s32|.s64|.f32|.f64",
    ),
    (Op::RedAsync, "red .async .relaxed .cluster {.shared::cluster} @tx .inc|.dec .u32"),
    (Op::RedAsync, "red .async .relaxed .cluster {.shared::cluster} @tx .min|.max .u32|.s32"),
    (Op::RedAsync, "red .async .relaxed .cluster {.shared::cluster} @tx .and|.or|.xor .b32"),
    (Op::RedAsync, "red .async .relaxed .cluster {.shared::cluster} @tx .add .u32|.s32|.u64"),
    // 9.7.15 warpgroup matrix
    (Op::Wgmma, "wgmma .mma_async .sync .aligned @m64k16 .f32 .f16 .f16"),
    (Op::Wgmma, "wgmma .mma_async .sync .aligned @m64k16 .f16 .f16 .f16"),
    (Op::Wgmma, "wgmma .mma_async .sync .aligned @m64k16 .f32 .bf16 .bf16"),
    (Op::Wgmma, "wgmma .mma_async .sync .aligned @m64k8 .f32 .tf32 .tf32"),
    (Op::Wgmma, "wgmma .mma_async .sync .aligned @m64k32 .f32|.f16 .e4m3|.e5m2 .e4m3|.e5m2"),
    (Op::Wgmma, "wgmma .mma_async .sync .aligned @m64k32i {.satfinite} .s32 .s8|.u8 .s8|.u8"),
    (Op::WgmmaFence, "wgmma .fence .sync .aligned"),
    (Op::WgmmaCommit, "wgmma .commit_group .sync .aligned"),
    (Op::WgmmaWait, "wgmma .wait_group .sync .aligned"),
    (Op::SetMaxNReg, "setmaxnreg .inc|.dec .sync .aligned .u32"),
    (Op::Stmatrix, "stmatrix .sync .aligned .m8n8 .x1|.x2|.x4 {.trans} {@cta} .b16"),
    // fences
    (
        Op::FenceProxy,
        "fence .proxy .async.global|.async.shared::cta|.async.shared::cluster|.async::global|.async::shared::cta|.async::shared::cluster|.async",
    ),
    (Op::FenceAlias, "fence .proxy .alias"),
    (Op::FenceAlias, "fence .proxy .tensormap::generic .release @scope"),
    (Op::FenceAlias, "fence .proxy .tensormap::generic .acquire @scope"),
    (Op::FenceMbarrierInit, "fence .mbarrier_init .release .cluster"),
    (Op::Fence, "fence .acquire|.release @scope"),
    // miscellaneous
    (Op::Elect, "elect .sync"),
    (Op::Griddepcontrol, "griddepcontrol .launch_dependents|.wait"),
    (
        Op::CreatePolicy,
        "createpolicy .fractional .L2::evict_last|.L2::evict_normal|.L2::evict_first|.L2::evict_unchanged {.L2::evict_first|.L2::evict_unchanged} .b64",
    ),
    (
        Op::CreatePolicy,
        "createpolicy .range {.global} .L2::evict_last|.L2::evict_normal|.L2::evict_first|.L2::evict_unchanged {.L2::evict_first|.L2::evict_unchanged} .b64",
    ),
    (Op::CreatePolicy, "createpolicy .cvt .L2 .b64"),
    (Op::Prefetch, "applypriority {.global} .L2::evict_normal"),
    (Op::Prefetch, "discard {.global} .L2"),
    // vectors of floats, packed 16-bit integers, and conversions
    (Op::AtomVector, "atom {.relaxed|.acquire|.release|.acq_rel} {@scope} {.global} .add @vec .f32"),
    (
        Op::AtomVector,
        "atom {.relaxed|.acquire|.release|.acq_rel} {@scope} {.global} .add .noftz .v2|.v4|.v8 .f16|.bf16",
    ),
    (
        Op::AtomVector,
        "atom {.relaxed|.acquire|.release|.acq_rel} {@scope} {.global} .add .noftz @vec .f16x2|.bf16x2",
    ),
    (
        Op::AtomVector,
        "atom {.relaxed|.acquire|.release|.acq_rel} {@scope} {.global} .min|.max .v2|.v4|.v8 .f16|.bf16",
    ),
    (
        Op::AtomVector,
        "atom {.relaxed|.acquire|.release|.acq_rel} {@scope} {.global} .min|.max @vec .f16x2|.bf16x2",
    ),
    (Op::RedVector, "red {.relaxed|.release} {@scope} {.global} .add @vec .f32"),
    (Op::RedVector, "red {.relaxed|.release} {@scope} {.global} .add .noftz .v2|.v4|.v8 .f16|.bf16"),
    (Op::RedVector, "red {.relaxed|.release} {@scope} {.global} .add .noftz @vec .f16x2|.bf16x2"),
    (Op::RedVector, "red {.relaxed|.release} {@scope} {.global} .min|.max .v2|.v4|.v8 .f16|.bf16"),
    (Op::RedVector, "red {.relaxed|.release} {@scope} {.global} .min|.max @vec .f16x2|.bf16x2"),
    (Op::Add, "add .u16x2|.s16x2"),
    (Op::Min, "min .u16x2|.s16x2"),
    (Op::Max, "max .u16x2|.s16x2"),
    (Op::Cvt, "cvt .rn|.rz {.relu} .tf32 .f32"),
];
