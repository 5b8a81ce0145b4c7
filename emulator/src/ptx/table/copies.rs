//! Asynchronous copies, stores and reductions: PTX ISA 9.7.9.12, 9.7.9.25 to 9.7.9.28, 9.7.13.7 and 9.7.13.16.

use super::{Entry, Op};

pub(super) const FORMS: &[Entry] = &[
    (Op::CpAsync, "cp .async .ca|.cg @cta .global {@hint} {@fetch}"),
    (Op::CpAsyncCommit, "cp .async .commit_group"),
    (Op::CpAsyncWait, "cp .async .wait_group"),
    (Op::CpAsyncWaitAll, "cp .async .wait_all"),
    // bulk copies
    (Op::BulkCopy, "cp .async .bulk .shared::cluster .global @tx {.multicast::cluster} {@hint} ; sm_90 8.0"),
    (Op::BulkCopy, "cp .async .bulk .shared::cluster .shared::cta @tx ; sm_90 8.0"),
    (Op::BulkCopy, "cp .async .bulk .shared::cta .global @tx {@hint} ; sm_90 8.6"),
    (Op::BulkCopy, "cp .async .bulk .global .shared::cta .bulk_group {@hint} ; sm_90 8.0"),
    (Op::BulkPrefetch, "cp .async .bulk .prefetch .L2 .global {@hint} ; sm_90 8.0"),
    (
        Op::BulkReduce,
        "cp .reduce .async .bulk .shared::cluster .shared::cta @tx .and|.or|.xor .b32 ; sm_90 8.0",
    ),
    (
        Op::BulkReduce,
        "cp .reduce .async .bulk .shared::cluster .shared::cta @tx .add .u32|.s32|.u64 ; sm_90 8.0",
    ),
    (Op::BulkReduce, "cp .reduce .async .bulk .shared::cluster .shared::cta @tx .inc|.dec .u32 ; sm_90 8.0"),
    (
        Op::BulkReduce,
        "cp .reduce .async .bulk .shared::cluster .shared::cta @tx .min|.max .u32|.s32 ; sm_90 8.0",
    ),
    (
        Op::BulkReduce,
        "cp .reduce .async .bulk .global .shared::cta .bulk_group {@hint} .and|.or|.xor .b32|.b64 ; sm_90 8.0",
    ),
    (
        Op::BulkReduce,
        "cp .reduce .async .bulk .global .shared::cta .bulk_group {@hint} .add .u32|.s32|.u64|.f32|.f64 ; sm_90 8.0",
    ),
    (
        Op::BulkReduce,
        "cp .reduce .async .bulk .global .shared::cta .bulk_group {@hint} .add .noftz .f16|.bf16 ; sm_90 8.0",
    ),
    (
        Op::BulkReduce,
        "cp .reduce .async .bulk .global .shared::cta .bulk_group {@hint} .inc|.dec .u32 ; sm_90 8.0",
    ),
    (
        Op::BulkReduce,
        "cp .reduce .async .bulk .global .shared::cta .bulk_group {@hint} .min|.max .u32|.s32|.u64|.s64|.f16|.bf16 ; sm_90 8.0",
    ),
    (Op::BulkCommit, "cp .async .bulk .commit_group ; sm_90 8.0"),
    (Op::BulkWait, "cp .async .bulk .wait_group {.read} ; sm_90 8.0"),
    // tensor copies
    (
        Op::TensorCopy,
        "cp .async .bulk .tensor @dim .shared::cluster .global {.tile} @tx {.multicast::cluster} {@hint} ; sm_90 8.0",
    ),
    (Op::TensorCopy, "cp .async .bulk .tensor @dim .shared::cta .global {.tile} @tx {@hint} ; sm_90 8.6"),
    (
        Op::TensorCopy,
        "cp .async .bulk .tensor @dim .global .shared::cta {.tile} .bulk_group {@hint} ; sm_90 8.0",
    ),
    (
        Op::TensorCopy,
        "cp .async .bulk .tensor @dim3 .shared::cluster .global .im2col @tx {.multicast::cluster} {@hint} ; sm_90 8.0",
    ),
    (Op::TensorCopy, "cp .async .bulk .tensor @dim3 .shared::cta .global .im2col @tx {@hint} ; sm_90 8.6"),
    (
        Op::TensorCopy,
        "cp .async .bulk .tensor @dim3 .global .shared::cta .im2col_no_offs .bulk_group {@hint} ; sm_90 8.0",
    ),
    (
        Op::TensorReduce,
        "cp .reduce .async .bulk .tensor @dim .global .shared::cta @redop {.tile} .bulk_group {@hint} ; sm_90 8.0",
    ),
    (
        Op::TensorReduce,
        "cp .reduce .async .bulk .tensor @dim3 .global .shared::cta @redop .im2col_no_offs .bulk_group {@hint} ; sm_90 8.0",
    ),
    (Op::TensorPrefetch, "cp .async .bulk .prefetch .tensor @dim .L2 .global {.tile} {@hint} ; sm_90 8.0"),
    (Op::TensorPrefetch, "cp .async .bulk .prefetch .tensor @dim3 .L2 .global .im2col {@hint} ; sm_90 8.0"),
    (
        Op::TensormapReplace,
        "tensormap .replace .tile .global_address|.global_stride {.global|.shared::cta} .b1024 .b64 ; sm_90a 8.3",
    ),
    (
        Op::TensormapReplace,
        "tensormap .replace .tile .rank|.box_dim|.global_dim|.element_stride|.elemtype|.interleave_layout|.swizzle_mode|.fill_mode {.global|.shared::cta} .b1024 .b32 ; sm_90a 8.3",
    ),
    (
        Op::TensormapCopy,
        "tensormap .cp_fenceproxy .global.shared::cta .tensormap::generic .release @scope .sync .aligned ; sm_90 8.3",
    ),
    // stores and reductions that signal an mbarrier
    (
        Op::StAsync,
        "st .async {.weak|.cluster} {.shared::cluster} @tx {@vec} .b32|.b64|.u32|.u64|.s32|.s64|.f32|.f64 ; sm_90 8.1",
    ),
    (Op::RedAsync, "red .async .relaxed .cluster {.shared::cluster} @tx .inc|.dec .u32 ; sm_90 8.1"),
    (Op::RedAsync, "red .async .relaxed .cluster {.shared::cluster} @tx .min|.max .u32|.s32 ; sm_90 8.1"),
    (Op::RedAsync, "red .async .relaxed .cluster {.shared::cluster} @tx .and|.or|.xor .b32 ; sm_90 8.1"),
    (
        Op::RedAsync,
        "red .async .relaxed .cluster {.shared::cluster} @tx .add .u32|.s32|.u64|.s64 ; sm_90 8.1",
    ),
];
