//! Matrix instructions of warps and of warpgroups: PTX ISA 9.7.14 and 9.7.15.

use std::sync::OnceLock;

use super::{Entry, Op};

/// The set of wgmma shapes that `name` stands for: `m64k16` has every N, `m64k32i` those of integers.
pub(super) fn shapes(name: &str) -> &'static str {
    static SETS: OnceLock<Vec<(String, String)>> = OnceLock::new();
    let sets = SETS.get_or_init(|| {
        let mut sets = Vec::new();
        for k in [8, 16, 32, 64, 256] {
            for (suffix, integers) in [("", false), ("i", true)] {
                let columns = (8..=256).step_by(8).filter(|n| !integers || *n <= 32 || n % 16 == 0);
                let shapes: Vec<String> = columns.map(|n| format!(".m64n{n}k{k}")).collect();
                sets.push((format!("m64k{k}{suffix}"), shapes.join("|")));
            }
        }
        sets
    });
    sets.iter().find(|(n, _)| n == name).map_or("", |(_, set)| set)
}

pub(super) const FORMS: &[Entry] = &[
    // 9.7.14.4 wmma
    (Op::WmmaLoad, "wmma .load .a|.b .sync .aligned .row|.col @wmma {@wspace} .f16|.bf16|.s8|.u8"),
    (Op::WmmaLoad, "wmma .load .a|.b .sync .aligned .row|.col .m16n16k8 {@wspace} .tf32"),
    (Op::WmmaLoad, "wmma .load .a|.b|.c .sync .aligned .row|.col .m8n8k4 {@wspace} .f64"),
    (Op::WmmaLoad, "wmma .load .a .sync .aligned .row .m8n8k32 {@wspace} .s4|.u4"),
    (Op::WmmaLoad, "wmma .load .b .sync .aligned .col .m8n8k32 {@wspace} .s4|.u4"),
    (Op::WmmaLoad, "wmma .load .a .sync .aligned .row .m8n8k128 {@wspace} .b1"),
    (Op::WmmaLoad, "wmma .load .b .sync .aligned .col .m8n8k128 {@wspace} .b1"),
    (Op::WmmaLoad, "wmma .load .c .sync .aligned .row|.col @wmma {@wspace} .f16|.f32|.s32"),
    (Op::WmmaLoad, "wmma .load .c .sync .aligned .row|.col .m16n16k8 {@wspace} .f32"),
    (Op::WmmaLoad, "wmma .load .c .sync .aligned .row|.col .m8n8k32|.m8n8k128 {@wspace} .s32"),
    (Op::WmmaStore, "wmma .store .d .sync .aligned .row|.col @wmma {@wspace} .f16|.f32|.s32"),
    (Op::WmmaStore, "wmma .store .d .sync .aligned .row|.col .m16n16k8 {@wspace} .f32"),
    (Op::WmmaStore, "wmma .store .d .sync .aligned .row|.col .m8n8k4 {@wspace} .f64"),
    (Op::WmmaStore, "wmma .store .d .sync .aligned .row|.col .m8n8k32|.m8n8k128 {@wspace} .s32"),
    (Op::WmmaMma, "wmma .mma .sync .aligned .row|.col .row|.col @wmma .f16|.f32 .f16|.f32"),
    (Op::WmmaMma, "wmma .mma .sync .aligned .row|.col .row|.col @wmma .f32 .bf16 .bf16 .f32"),
    (Op::WmmaMma, "wmma .mma .sync .aligned .row|.col .row|.col .m16n16k8 .f32 .tf32 .tf32 .f32"),
    (Op::WmmaMma, "wmma .mma .sync .aligned .row|.col .row|.col @wmma .s32 .s8 .s8 .s32 {.satfinite}"),
    (Op::WmmaMma, "wmma .mma .sync .aligned .row|.col .row|.col @wmma .s32 .u8 .u8 .s32 {.satfinite}"),
    (Op::WmmaMma, "wmma .mma .sync .aligned .row|.col .row|.col .m8n8k4 {@rnd} .f64 .f64 .f64 .f64"),
    (Op::WmmaMma, "wmma .mma .sync .aligned .row .col .m8n8k32 .s32 .s4 .s4 .s32 {.satfinite}"),
    (Op::WmmaMma, "wmma .mma .sync .aligned .row .col .m8n8k32 .s32 .u4 .u4 .s32 {.satfinite}"),
    (Op::WmmaMma, "wmma .mma .xor .popc .sync .aligned .row .col .m8n8k128 .s32 .b1 .b1 .s32"),
    (Op::WmmaMma, "wmma .mma .and .popc .sync .aligned .row .col .m8n8k128 .s32 .b1 .b1 .s32 ; 7.1"),
    // 9.7.14.5 mma.sync and its loads and stores
    (Op::Mma, "mma .sync .aligned .m8n8k4 .row|.col .row|.col .f32 .f16 .f16 .f32|.f16"),
    (Op::Mma, "mma .sync .aligned .m8n8k4 .row|.col .row|.col .f16 .f16 .f16 .f16"),
    (Op::Mma, "mma .sync .aligned .m16n8k16|.m16n8k8 .row .col .f32 .f16 .f16 .f32"),
    (Op::Mma, "mma .sync .aligned .m16n8k16|.m16n8k8 .row .col .f32 .bf16 .bf16 .f32"),
    (Op::Mma, "mma .sync .aligned .m16n8k16|.m16n8k8 .row .col .f16 .f16 .f16 .f16"),
    (Op::Mma, "mma .sync .aligned .m16n8k8|.m16n8k4 .row .col .f32 .tf32 .tf32 .f32"),
    (Op::Mma, "mma .sync .aligned .m16n8k32 .row .col .f32 .e4m3|.e5m2 .e4m3|.e5m2 .f32 ; sm_89 8.4"),
    (Op::Mma, "mma .sync .aligned .m16n8k16 .row .col .f32 .e4m3|.e5m2 .e4m3|.e5m2 .f32 ; sm_89 8.7"),
    (
        Op::Mma,
        "mma .sync .aligned .m16n8k32|.m16n8k16 .row .col .f16 .e4m3|.e5m2 .e4m3|.e5m2 .f16 ; sm_89 8.7",
    ),
    (Op::Mma, "mma .sync .aligned .m8n8k4 .row .col {@rnd} .f64 .f64 .f64 .f64"),
    (Op::Mma, "mma .sync .aligned .m16n8k4|.m16n8k8|.m16n8k16 .row .col {@rnd} .f64 .f64 .f64 .f64 ; sm_90"),
    (
        Op::Mma,
        "mma .sync .aligned .m8n8k16|.m16n8k16|.m16n8k32 .row .col {.satfinite} .s32 .s8|.u8 .s8|.u8 .s32",
    ),
    (
        Op::Mma,
        "mma .sync .aligned .m8n8k32|.m16n8k32|.m16n8k64 .row .col {.satfinite} .s32 .s4|.u4 .s4|.u4 .s32",
    ),
    (Op::Mma, "mma .sync .aligned .m8n8k128|.m16n8k128|.m16n8k256 .row .col .s32 .b1 .b1 .s32 .xor .popc"),
    (
        Op::Mma,
        "mma .sync .aligned .m8n8k128|.m16n8k128|.m16n8k256 .row .col .s32 .b1 .b1 .s32 .and .popc ; 7.1",
    ),
    (Op::Ldmatrix, "ldmatrix .sync .aligned .m8n8 .x1|.x2|.x4 {.trans} {@cta} .b16"),
    (Op::Stmatrix, "stmatrix .sync .aligned .m8n8 .x1|.x2|.x4 {.trans} {@cta} .b16 ; sm_90"),
    (Op::Movmatrix, "movmatrix .sync .aligned .m8n8 .trans .b16"),
    // 9.7.14.6 mma.sp
    (Op::Mma, "mma @sparse .sync .aligned .m16n8k16|.m16n8k32 .row .col .f32 .f16 .f16 .f32"),
    (Op::Mma, "mma @sparse .sync .aligned .m16n8k16|.m16n8k32 .row .col .f32 .bf16 .bf16 .f32"),
    (Op::Mma, "mma @sparse .sync .aligned .m16n8k16|.m16n8k32 .row .col .f16 .f16 .f16 .f16"),
    (Op::Mma, "mma @sparse .sync .aligned .m16n8k8|.m16n8k16 .row .col .f32 .tf32 .tf32 .f32"),
    (Op::Mma, "mma @sparse .sync .aligned .m16n8k64 .row .col .f32 .e4m3|.e5m2 .e4m3|.e5m2 .f32 ; sm_89 8.4"),
    (
        Op::Mma,
        "mma @sparse .sync .aligned .m16n8k32|.m16n8k64 .row .col {.satfinite} .s32 .s8|.u8 .s8|.u8 .s32",
    ),
    (
        Op::Mma,
        "mma @sparse .sync .aligned .m16n8k64|.m16n8k128 .row .col {.satfinite} .s32 .s4|.u4 .s4|.u4 .s32",
    ),
    // 9.7.15 warpgroups
    (Op::Wgmma, "wgmma .mma_async .sync .aligned @m64k16 .f32|.f16 .f16 .f16 ; sm_90a"),
    (Op::Wgmma, "wgmma .mma_async .sync .aligned @m64k16 .f32 .bf16 .bf16 ; sm_90a"),
    (Op::Wgmma, "wgmma .mma_async .sync .aligned @m64k8 .f32 .tf32 .tf32 ; sm_90a"),
    (Op::Wgmma, "wgmma .mma_async .sync .aligned @m64k32 .f32|.f16 .e4m3|.e5m2 .e4m3|.e5m2 ; sm_90a"),
    (Op::Wgmma, "wgmma .mma_async .sync .aligned @m64k32i {.satfinite} .s32 .s8.s8|.u8.u8 ; sm_90a"),
    (Op::Wgmma, "wgmma .mma_async .sync .aligned @m64k32i {.satfinite} .s32 .s8.u8|.u8.s8 ; sm_90a 8.4"),
    (Op::Wgmma, "wgmma .mma_async .sync .aligned @m64k256i .s32 .b1 .b1 .and .popc ; sm_90a"),
    (Op::Wgmma, "wgmma .mma_async .sp .sync .aligned @m64k32 .f32|.f16 .f16 .f16 ; sm_90a 8.2"),
    (Op::Wgmma, "wgmma .mma_async .sp .sync .aligned @m64k32 .f32 .bf16 .bf16 ; sm_90a 8.2"),
    (Op::Wgmma, "wgmma .mma_async .sp .sync .aligned @m64k16 .f32 .tf32 .tf32 ; sm_90a 8.2"),
    (Op::Wgmma, "wgmma .mma_async .sp .sync .aligned @m64k64 .f32|.f16 .e4m3|.e5m2 .e4m3|.e5m2 ; sm_90a 8.2"),
    (Op::Wgmma, "wgmma .mma_async .sp .sync .aligned @m64k64i {.satfinite} .s32 .s8.s8|.u8.u8 ; sm_90a 8.2"),
    (Op::Wgmma, "wgmma .mma_async .sp .sync .aligned @m64k64i {.satfinite} .s32 .s8.u8|.u8.s8 ; sm_90a 8.4"),
    (Op::WgmmaFence, "wgmma .fence .sync .aligned ; sm_90a"),
    (Op::WgmmaCommit, "wgmma .commit_group .sync .aligned ; sm_90a"),
    (Op::WgmmaWait, "wgmma .wait_group .sync .aligned ; sm_90a"),
];
