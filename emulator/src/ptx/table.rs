//! The opcode table: every instruction form the emulator knows, one line per form, as data.
//!
//! A form is a root (`add`) and groups of modifiers. `{...}` marks an optional group, `|` separates alternatives, and
//! `@name` stands for a set of `SETS`. Matching does not depend on the order of the modifiers of different groups
//! (compilers differ), only on the order of groups that share an alternative (the types of `cvt.d.a`). Every
//! modifier must be claimed by a group and every mandatory group must claim one: anything else is an unknown form,
//! reported with its line. Forms follow the "Syntax" boxes of PTX ISA section 9.7.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::ast::Ty;

/// What an instruction does; its modifiers say how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    Abs,
    Activemask,
    Alloca,
    Add,
    AddC,
    And,
    Atom,
    Bar,
    BarWarp,
    Bfe,
    Bfi,
    Bfind,
    Bmsk,
    Bra,
    Brev,
    Brkpt,
    BrxIdx,
    Call,
    Clz,
    Cnot,
    Copysign,
    Cos,
    CpAsync,
    CpAsyncCommit,
    CpAsyncWait,
    CpAsyncWaitAll,
    Cvt,
    CvtPack,
    Cvta,
    Div,
    Dp2a,
    Dp4a,
    Ex2,
    Exit,
    Fence,
    Fma,
    Fns,
    Isspacep,
    Ld,
    Ldmatrix,
    Lg2,
    Lop3,
    Mad,
    Mad24,
    MadC,
    Match,
    Max,
    Min,
    Mma,
    Mov,
    Movmatrix,
    Mul,
    Mul24,
    Nanosleep,
    Neg,
    Not,
    Or,
    Popc,
    Prefetch,
    Prmt,
    Rcp,
    Red,
    Redux,
    Rem,
    Ret,
    Rsqrt,
    Sad,
    Selp,
    Set,
    Setp,
    Shf,
    Shfl,
    Shl,
    Shr,
    Sin,
    Slct,
    Sqrt,
    St,
    StackRestore,
    StackSave,
    Sub,
    SubC,
    Szext,
    Tanh,
    Testp,
    Trap,
    Vote,
    Xor,
    // sm_90
    AtomVector,
    BarrierCluster,
    BulkCommit,
    BulkCopy,
    BulkPrefetch,
    BulkReduce,
    BulkWait,
    CpAsyncMbarrier,
    CreatePolicy,
    Elect,
    FenceAlias,
    FenceMbarrierInit,
    FenceProxy,
    GetCtaRank,
    Griddepcontrol,
    Mapa,
    MbarrierArrive,
    MbarrierInit,
    MbarrierInval,
    MbarrierPending,
    MbarrierTx,
    MbarrierWait,
    RedAsync,
    RedVector,
    SetMaxNReg,
    StAsync,
    Stmatrix,
    TensorCopy,
    TensorPrefetch,
    TensorReduce,
    TensormapCopy,
    TensormapReplace,
    Wgmma,
    WgmmaCommit,
    WgmmaFence,
    WgmmaWait,
    WmmaLoad,
    WmmaMma,
    WmmaStore,
}

/// Sets of alternatives that forms share.
const SETS: &[(&str, &str)] = &[
    ("rnd", ".rn|.rz|.rm|.rp"),
    ("irnd", ".rni|.rzi|.rmi|.rpi"),
    ("int", ".u16|.s16|.u32|.s32|.u64|.s64"),
    ("bits", ".b16|.b32|.b64"),
    ("logic", ".pred|.b16|.b32|.b64"),
    ("f16", ".f16|.f16x2|.bf16|.bf16x2"),
    ("scalar", ".b8|.b16|.b32|.b64|.u8|.u16|.u32|.u64|.s8|.s16|.s32|.s64|.f32|.f64|.b128"),
    ("value", ".b16|.b32|.b64|.u16|.u32|.u64|.s16|.s32|.s64|.f32|.f64"),
    ("cvt", ".u8|.u16|.u32|.u64|.s8|.s16|.s32|.s64|.f16|.bf16|.f32|.f64"),
    (
        "space",
        ".global|.shared|.shared::cta|.shared::cluster|.local|.const|.param|.param::entry|.param::func",
    ),
    ("scope", ".cta|.cluster|.gpu|.sys"),
    ("cop", ".ca|.cg|.cs|.cv|.lu|.wb|.wt"),
    ("evict", ".L1::evict_normal|.L1::evict_unchanged|.L1::evict_first|.L1::evict_last|.L1::no_allocate"),
    ("hint", ".L2::cache_hint"),
    ("prefetch", ".L2::64B|.L2::128B|.L2::256B"),
    ("vec", ".v2|.v4"),
    ("icmp", ".eq|.ne|.lt|.le|.gt|.ge|.lo|.ls|.hi|.hs"),
    ("fcmp", ".eq|.ne|.lt|.le|.gt|.ge|.equ|.neu|.ltu|.leu|.gtu|.geu|.num|.nan"),
    ("bool", ".and|.or|.xor"),
    ("wmma", ".m16n16k16|.m32n8k16|.m8n32k16"),
    ("wspace", ".global|.shared|.shared::cta"),
];

/// The forms. The first form of a root whose groups all match is taken.
const FORMS: &[(Op, &str)] = &[
    // 9.7.1 integer arithmetic
    (Op::Add, "add {.sat} .s32"),
    (Op::Add, "add .u16|.s16|.u32|.u64|.s64"),
    (Op::Sub, "sub {.sat} .s32"),
    (Op::Sub, "sub .u16|.s16|.u32|.u64|.s64"),
    (Op::Add, "add .cc .u32|.s32|.u64|.s64"),
    (Op::Sub, "sub .cc .u32|.s32|.u64|.s64"),
    (Op::AddC, "addc {.cc} .u32|.s32|.u64|.s64"),
    (Op::SubC, "subc {.cc} .u32|.s32|.u64|.s64"),
    (Op::Mul, "mul .lo|.hi @int"),
    (Op::Mul, "mul .wide .u16|.s16|.u32|.s32"),
    (Op::Mad, "mad .hi .sat .s32"),
    (Op::Mad, "mad .lo|.hi @int"),
    (Op::Mad, "mad .wide .u16|.s16|.u32|.s32"),
    (Op::Mad, "mad .lo|.hi .cc .u32|.s32|.u64|.s64"),
    (Op::MadC, "madc .lo|.hi {.cc} .u32|.s32|.u64|.s64"),
    (Op::Mul24, "mul24 .lo|.hi .u32|.s32"),
    (Op::Mad24, "mad24 .lo|.hi .u32|.s32"),
    (Op::Sad, "sad @int"),
    (Op::Div, "div @int"),
    (Op::Rem, "rem @int"),
    (Op::Abs, "abs .s16|.s32|.s64"),
    (Op::Neg, "neg .s16|.s32|.s64"),
    (Op::Min, "min @int"),
    (Op::Max, "max @int"),
    (Op::Popc, "popc .b32|.b64"),
    (Op::Clz, "clz .b32|.b64"),
    (Op::Bfind, "bfind {.shiftamt} .u32|.s32|.u64|.s64"),
    (Op::Brev, "brev .b32|.b64"),
    (Op::Bfe, "bfe .u32|.s32|.u64|.s64"),
    (Op::Bfi, "bfi .b32|.b64"),
    (Op::Fns, "fns .b32"),
    (Op::Szext, "szext .clamp|.wrap .u32|.s32"),
    (Op::Bmsk, "bmsk .clamp|.wrap .b32"),
    (Op::Dp4a, "dp4a .u32|.s32 .u32|.s32"),
    (Op::Dp2a, "dp2a .lo|.hi .u32|.s32 .u32|.s32"),
    // 9.7.3 to 9.7.5 floating point
    (Op::Testp, "testp .finite|.infinite|.number|.notanumber|.normal|.subnormal .f32|.f64"),
    (Op::Copysign, "copysign .f32|.f64"),
    (Op::Add, "add {@rnd} {.ftz} {.sat} .f32"),
    (Op::Add, "add {@rnd} .f64"),
    (Op::Add, "add {.rn} {.ftz} {.sat} .f16|.f16x2"),
    (Op::Add, "add {.rn} .bf16|.bf16x2"),
    (Op::Sub, "sub {@rnd} {.ftz} {.sat} .f32"),
    (Op::Sub, "sub {@rnd} .f64"),
    (Op::Sub, "sub {.rn} {.ftz} {.sat} .f16|.f16x2"),
    (Op::Sub, "sub {.rn} .bf16|.bf16x2"),
    (Op::Mul, "mul {@rnd} {.ftz} {.sat} .f32"),
    (Op::Mul, "mul {@rnd} .f64"),
    (Op::Mul, "mul {.rn} {.ftz} {.sat} .f16|.f16x2"),
    (Op::Mul, "mul {.rn} .bf16|.bf16x2"),
    (Op::Fma, "fma @rnd {.ftz} {.sat} .f32"),
    (Op::Fma, "fma @rnd .f64"),
    (Op::Fma, "fma .rn {.ftz} {.sat} .f16|.f16x2"),
    (Op::Fma, "fma .rn {.ftz} .relu .f16|.f16x2"),
    (Op::Fma, "fma .rn {.relu} .bf16|.bf16x2"),
    (Op::Fma, "mad @rnd {.ftz} {.sat} .f32"),
    (Op::Fma, "mad @rnd .f64"),
    (Op::Div, "div .approx|.full|@rnd {.ftz} .f32"),
    (Op::Div, "div @rnd .f64"),
    (Op::Abs, "abs {.ftz} .f32|.f16|.f16x2"),
    (Op::Abs, "abs .f64|.bf16|.bf16x2"),
    (Op::Neg, "neg {.ftz} .f32|.f16|.f16x2"),
    (Op::Neg, "neg .f64|.bf16|.bf16x2"),
    (Op::Min, "min {.ftz} {.NaN} {.xorsign.abs} .f32"),
    (Op::Max, "max {.ftz} {.NaN} {.xorsign.abs} .f32"),
    (Op::Min, "min .f64"),
    (Op::Max, "max .f64"),
    (Op::Min, "min {.ftz} {.NaN} .f16|.f16x2"),
    (Op::Max, "max {.ftz} {.NaN} .f16|.f16x2"),
    (Op::Min, "min {.NaN} .bf16|.bf16x2"),
    (Op::Max, "max {.NaN} .bf16|.bf16x2"),
    (Op::Rcp, "rcp .approx|@rnd {.ftz} .f32"),
    (Op::Rcp, "rcp @rnd .f64"),
    (Op::Sqrt, "sqrt .approx|@rnd {.ftz} .f32"),
    (Op::Sqrt, "sqrt @rnd .f64"),
    (Op::Rcp, "rcp .approx .ftz .f64"),
    (Op::Rsqrt, "rsqrt .approx {.ftz} .f32|.f64"),
    (Op::Sin, "sin .approx {.ftz} .f32"),
    (Op::Cos, "cos .approx {.ftz} .f32"),
    (Op::Lg2, "lg2 .approx {.ftz} .f32"),
    (Op::Ex2, "ex2 .approx {.ftz} .f32"),
    (Op::Ex2, "ex2 .approx .f16|.f16x2"),
    (Op::Ex2, "ex2 .approx .ftz .bf16|.bf16x2"),
    (Op::Tanh, "tanh .approx .f32|.f16|.f16x2|.bf16|.bf16x2"),
    // 9.7.6 and 9.7.7 comparison and selection
    (Op::Set, "set @icmp {@bool} .u32|.s32|.f32 @bits|.u16|.u32|.u64|.s16|.s32|.s64"),
    (Op::Set, "set @fcmp {@bool} {.ftz} .u32|.s32|.f32 .f32|.f64"),
    (Op::Set, "set @fcmp {@bool} {.ftz} .u16|.s16|.u32|.s32 .f16|.bf16"),
    (Op::Set, "set @fcmp {@bool} {.ftz} .f16x2|.u32|.s32 .f16x2"),
    (Op::Set, "set @fcmp {@bool} .bf16x2|.u32|.s32 .bf16x2"),
    (Op::Set, "set @icmp {@bool} .f16|.bf16 @bits|.u16|.u32|.u64|.s16|.s32|.s64"),
    (Op::Set, "set @fcmp {@bool} {.ftz} .f16|.bf16 .f16|.bf16|.f32|.f64"),
    (Op::Setp, "setp @icmp {@bool} @bits|.u16|.u32|.u64|.s16|.s32|.s64"),
    (Op::Setp, "setp @fcmp {@bool} {.ftz} .f32|.f64"),
    (Op::Setp, "setp @fcmp {@bool} {.ftz} .f16|.f16x2|.bf16|.bf16x2"),
    (Op::Selp, "selp @value"),
    (Op::Slct, "slct {.ftz} @value .s32|.f32"),
    // 9.7.8 logic and shift
    (Op::And, "and @logic"),
    (Op::Or, "or @logic"),
    (Op::Xor, "xor @logic"),
    (Op::Not, "not @logic"),
    (Op::Cnot, "cnot @bits"),
    (Op::Lop3, "lop3 .b32"),
    (Op::Shf, "shf .l|.r .clamp|.wrap .b32"),
    (Op::Shl, "shl @bits"),
    (Op::Shr, "shr @bits|@int"),
    // 9.7.9 data movement and conversion
    (Op::Mov, "mov .pred|@value|.b128"),
    (Op::Prmt, "prmt .b32 {.f4e|.b4e|.rc8|.ecl|.ecr|.rc16}"),
    (Op::Ld, "ld {.weak} {@space} {@cop} {@evict} {@hint} {@prefetch} {@vec} @scalar"),
    (Op::Ld, "ld .volatile|.mmio.relaxed.sys {@space} {@vec} @scalar"),
    (Op::Ld, "ld .relaxed|.acquire @scope {@space} {@evict} {@hint} {@prefetch} {@vec} @scalar"),
    (Op::Ld, "ld .global {@cop} .nc {@evict} {@hint} {@prefetch} {@vec} @scalar"),
    (Op::Ld, "ldu {.global} {@vec} @scalar"),
    (Op::St, "st {.weak} {@space} {@cop} {@evict} {@hint} {@vec} @scalar"),
    (Op::St, "st .volatile|.mmio.relaxed.sys {@space} {@vec} @scalar"),
    (Op::St, "st .relaxed|.release @scope {@space} {@evict} {@hint} {@vec} @scalar"),
    (Op::Prefetch, "prefetch {.global|.local} .L1|.L2|.L2::evict_last|.L2::evict_normal"),
    (Op::Prefetch, "prefetchu .L1"),
    // Hints to caches and profilers, which change no result.
    (Op::Prefetch, "applypriority {.global} .L2::evict_normal"),
    (Op::Prefetch, "pmevent {.mask}"),
    (Op::Isspacep, "isspacep .const|.global|.local|.shared|.shared::cta|.shared::cluster|.param"),
    (Op::Cvta, "cvta {.to} .const|.param|.global|.local|.shared|.shared::cta|.shared::cluster .u32|.u64"),
    (Op::Cvt, "cvt .rn|.rz {.relu} {.satfinite} .f16x2|.bf16x2 .f32"),
    (Op::Cvt, "cvt .rna .tf32 .f32"),
    (Op::Cvt, "cvt .rn|.rz {.relu} .f16|.bf16 .f32"),
    (Op::Cvt, "cvt .rn .satfinite {.relu} .e4m3x2|.e5m2x2 .f32|.f16x2"),
    (Op::Cvt, "cvt .rn {.relu} .f16x2 .e4m3x2|.e5m2x2"),
    (Op::Cvt, "cvt {@irnd|@rnd} {.ftz} {.sat} @cvt @cvt"),
    (Op::CvtPack, "cvt .pack .sat .u16|.s16 .s32"),
    (Op::CpAsync, "cp .async .ca|.cg .shared|.shared::cta .global {@hint} {@prefetch}"),
    (Op::CpAsyncCommit, "cp .async .commit_group"),
    (Op::CpAsyncWait, "cp .async .wait_group"),
    (Op::CpAsyncWaitAll, "cp .async .wait_all"),
    // 9.7.12 control flow
    (Op::Bra, "bra {.uni}"),
    (Op::BrxIdx, "brx .idx {.uni}"),
    (Op::Call, "call {.uni}"),
    (Op::Ret, "ret {.uni}"),
    (Op::Exit, "exit"),
    // 9.7.13 synchronisation and communication
    (Op::Bar, "bar|barrier {.cta} .sync|.arrive {.aligned}"),
    (Op::Bar, "bar|barrier {.cta} .red .popc {.aligned} .u32"),
    (Op::Bar, "bar|barrier {.cta} .red .and|.or {.aligned} .pred"),
    (Op::BarWarp, "bar .warp .sync"),
    (Op::Fence, "membar .cta|.gl|.sys"),
    (Op::Fence, "fence {.sc|.acq_rel} @scope"),
    (
        Op::Atom,
        "atom {.relaxed|.acquire|.release|.acq_rel} {@scope} {.global|.shared|.shared::cta|.shared::cluster} .cas {@hint} .b16|.b32|.b64",
    ),
    (
        Op::Atom,
        "atom {.relaxed|.acquire|.release|.acq_rel} {@scope} {.global|.shared|.shared::cta|.shared::cluster} .and|.or|.xor|.exch {@hint} .b32|.b64",
    ),
    (
        Op::Atom,
        "atom {.relaxed|.acquire|.release|.acq_rel} {@scope} {.global|.shared|.shared::cta|.shared::cluster} .add {@hint} .u32|.s32|.u64|.f32|.f64",
    ),
    (
        Op::Atom,
        "atom {.relaxed|.acquire|.release|.acq_rel} {@scope} {.global|.shared|.shared::cta|.shared::cluster} .add .noftz {@hint} @f16",
    ),
    (
        Op::Atom,
        "atom {.relaxed|.acquire|.release|.acq_rel} {@scope} {.global|.shared|.shared::cta|.shared::cluster} .min|.max {@hint} .u32|.s32|.u64|.s64",
    ),
    (
        Op::Atom,
        "atom {.relaxed|.acquire|.release|.acq_rel} {@scope} {.global|.shared|.shared::cta|.shared::cluster} .inc|.dec {@hint} .u32",
    ),
    (
        Op::Red,
        "red {.relaxed|.release} {@scope} {.global|.shared|.shared::cta|.shared::cluster} .and|.or|.xor {@hint} .b32|.b64",
    ),
    (
        Op::Red,
        "red {.relaxed|.release} {@scope} {.global|.shared|.shared::cta|.shared::cluster} .add {@hint} .u32|.s32|.u64|.f32|.f64",
    ),
    (
        Op::Red,
        "red {.relaxed|.release} {@scope} {.global|.shared|.shared::cta|.shared::cluster} .add .noftz {@hint} @f16",
    ),
    (
        Op::Red,
        "red {.relaxed|.release} {@scope} {.global|.shared|.shared::cta|.shared::cluster} .min|.max {@hint} .u32|.s32|.u64|.s64",
    ),
    (
        Op::Red,
        "red {.relaxed|.release} {@scope} {.global|.shared|.shared::cta|.shared::cluster} .inc|.dec {@hint} .u32",
    ),
    (Op::Vote, "vote .sync .all|.any|.uni .pred"),
    (Op::Vote, "vote .sync .ballot .b32"),
    (Op::Match, "match .any|.all .sync .b32|.b64"),
    (Op::Activemask, "activemask .b32"),
    (Op::Redux, "redux .sync .add|.min|.max .u32|.s32"),
    (Op::Redux, "redux .sync .and|.or|.xor .b32"),
    (Op::Shfl, "shfl .sync .up|.down|.bfly|.idx .b32"),
    // 9.7.14 warp matrix
    (Op::Mma, "mma .sync .aligned .m16n8k16|.m16n8k8 .row .col .f32 .f16|.bf16 .f16|.bf16 .f32"),
    (Op::Mma, "mma .sync .aligned .m16n8k16|.m16n8k8 .row .col .f16 .f16 .f16 .f16"),
    (Op::Mma, "mma .sync .aligned .m16n8k8|.m16n8k4 .row .col .f32 .tf32 .tf32 .f32"),
    (Op::Mma, "mma .sync .aligned .m16n8k32|.m16n8k16 .row .col {.satfinite} .s32 .s8|.u8 .s8|.u8 .s32"),
    (Op::Mma, "mma .sync .aligned .m8n8k4 .row .col {.rn} .f64 .f64 .f64 .f64"),
    (Op::WmmaLoad, "wmma .load .a|.b .sync .aligned .row|.col @wmma {@wspace} .f16|.bf16|.s8|.u8"),
    (Op::WmmaLoad, "wmma .load .a|.b .sync .aligned .row|.col .m16n16k8 {@wspace} .tf32"),
    (Op::WmmaLoad, "wmma .load .a|.b|.c .sync .aligned .row|.col .m8n8k4 {@wspace} .f64"),
    (Op::WmmaLoad, "wmma .load .c .sync .aligned .row|.col @wmma {@wspace} .f16|.f32|.s32"),
    (Op::WmmaLoad, "wmma .load .c .sync .aligned .row|.col .m16n16k8 {@wspace} .f32"),
    (Op::WmmaStore, "wmma .store .d .sync .aligned .row|.col @wmma {@wspace} .f16|.f32|.s32"),
    (Op::WmmaStore, "wmma .store .d .sync .aligned .row|.col .m16n16k8 {@wspace} .f32"),
    (Op::WmmaStore, "wmma .store .d .sync .aligned .row|.col .m8n8k4 {@wspace} .f64"),
    (Op::WmmaMma, "wmma .mma .sync .aligned .row|.col .row|.col @wmma .f16|.f32 .f16|.f32"),
    (Op::WmmaMma, "wmma .mma .sync .aligned .row|.col .row|.col @wmma .f32 .bf16 .bf16 .f32"),
    (Op::WmmaMma, "wmma .mma .sync .aligned .row|.col .row|.col .m16n16k8 .f32 .tf32 .tf32 .f32"),
    (Op::WmmaMma, "wmma .mma .sync .aligned .row|.col .row|.col @wmma .s32 .s8 .s8 .s32 {.satfinite}"),
    (Op::WmmaMma, "wmma .mma .sync .aligned .row|.col .row|.col @wmma .s32 .u8 .u8 .s32 {.satfinite}"),
    (Op::WmmaMma, "wmma .mma .sync .aligned .row|.col .row|.col .m8n8k4 {.rn} .f64 .f64 .f64 .f64"),
    (Op::Ldmatrix, "ldmatrix .sync .aligned .m8n8 .x1|.x2|.x4 {.trans} {.shared|.shared::cta} .b16"),
    (Op::Movmatrix, "movmatrix .sync .aligned .m8n8 .trans .b16"),
    // 9.7.19 miscellaneous
    (Op::Alloca, "alloca .u32|.u64"),
    (Op::StackSave, "stacksave .u32|.u64"),
    (Op::StackRestore, "stackrestore .u32|.u64"),
    (Op::Trap, "trap"),
    (Op::Brkpt, "brkpt"),
    (Op::Nanosleep, "nanosleep .u32"),
];

struct Group {
    optional: bool,
    /// Each alternative is one or more consecutive modifiers (`.xorsign.abs`).
    alternatives: Vec<&'static str>,
}

struct Form {
    op: Op,
    pattern: &'static str,
    groups: Vec<Group>,
}

fn forms() -> &'static HashMap<&'static str, Vec<Form>> {
    static TABLE: OnceLock<HashMap<&'static str, Vec<Form>>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table: HashMap<&'static str, Vec<Form>> = HashMap::new();
        for &(op, pattern) in FORMS.iter().chain(super::table_hopper::FORMS) {
            let mut words = pattern.split_whitespace();
            let roots = words.next().unwrap_or_default();
            for root in roots.split('|') {
                let groups = words.clone().map(group).collect();
                table.entry(root).or_default().push(Form { op, pattern, groups });
            }
        }
        table
    })
}

fn group(word: &'static str) -> Group {
    let inner = word.strip_prefix('{').and_then(|w| w.strip_suffix('}'));
    let mut alternatives = Vec::new();
    for part in inner.unwrap_or(word).split('|') {
        match part.strip_prefix('@') {
            Some(name) => {
                let mut sets = SETS.iter().chain(super::table_hopper::SETS);
                let set = sets.find(|(n, _)| *n == name).map(|(_, s)| *s).unwrap_or_default();
                alternatives.extend(set.split('|').map(|a| &a[1..]));
            }
            None => alternatives.push(&part[1..]),
        }
    }
    Group { optional: inner.is_some(), alternatives }
}

/// An instruction's opcode with its modifiers, matched against the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub op: Op,
    /// The instruction as written, for messages.
    pub written: String,
    /// The modifiers in the order of the form's groups.
    pub mods: Vec<&'static str>,
}

impl Decoded {
    pub fn has(&self, modifier: &str) -> bool {
        self.mods.contains(&modifier)
    }

    /// The first of `choices` that the instruction has.
    pub fn one_of(&self, choices: &[&'static str]) -> Option<&'static str> {
        self.mods.iter().copied().find(|m| choices.contains(m))
    }

    /// The types, in order: destination first where a form has several.
    pub fn types(&self) -> Vec<Ty> {
        self.mods.iter().filter_map(|m| Ty::from_word(m)).collect()
    }
}

impl std::fmt::Display for Decoded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.written)
    }
}

/// Finds the form of `root` with `mods` (dots removed).
///
/// # Errors
/// A sentence without position: the root is unknown, or no form of it has these modifiers (the nearest are listed).
pub fn decode(root: &str, mods: &[&str]) -> Result<Decoded, String> {
    let written = || format!("{root}{}", mods.iter().map(|m| format!(".{m}")).collect::<String>());
    let Some(forms) = forms().get(root) else {
        return Err(format!("unknown instruction `{}`", written()));
    };
    for form in forms {
        if let Some(mods) = claim(form, mods) {
            return Ok(Decoded { op: form.op, written: written(), mods });
        }
    }
    let known: Vec<&str> = forms.iter().map(|f| f.pattern).collect();
    Err(format!("unknown form `{}`; forms known: {}", written(), known.join(" ; ")))
}

fn claim(form: &Form, mods: &[&str]) -> Option<Vec<&'static str>> {
    let mut claimed = vec![false; mods.len()];
    let mut out = Vec::with_capacity(mods.len());
    for group in &form.groups {
        let found = (0..mods.len()).find_map(|i| {
            let choice = group.alternatives.iter().find(|alternative| {
                alternative
                    .split('.')
                    .enumerate()
                    .all(|(k, part)| mods.get(i + k).is_some_and(|m| *m == part) && !claimed[i + k])
            })?;
            Some((i, *choice))
        });
        match found {
            Some((i, choice)) => {
                (0..choice.split('.').count()).for_each(|k| claimed[i + k] = true);
                out.push(choice);
            }
            None if group.optional => {}
            None => return None,
        }
    }
    claimed.iter().all(|&c| c).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> Result<Decoded, String> {
        let mut parts = text.split('.');
        let root = parts.next().unwrap();
        decode(root, &parts.collect::<Vec<_>>())
    }

    #[test]
    fn every_set_and_alternative_is_well_formed() {
        for (_, pattern) in FORMS.iter().chain(super::super::table_hopper::FORMS) {
            for word in pattern.split_whitespace().skip(1) {
                let group = group(word);
                assert!(!group.alternatives.is_empty(), "{pattern}: {word}");
                assert!(
                    group.alternatives.iter().all(|a| !a.is_empty() && !a.contains(['{', '}', '@'])),
                    "{word}"
                );
            }
        }
    }

    #[test]
    fn modifiers_are_claimed_in_any_order_but_types_in_theirs() {
        let cvt = form("cvt.rn.f32.s64").unwrap();
        assert_eq!(cvt.types(), vec![Ty::F32, Ty::S64]);
        assert_eq!(form("ld.global.nc.L1::no_allocate.v4.f32").unwrap().op, Op::Ld);
        assert_eq!(form("ld.volatile.global.u32").unwrap().op, Op::Ld);
        assert_eq!(form("ld.global.volatile.u32").unwrap().op, Op::Ld);
        assert!(form("min.xorsign.abs.f32").unwrap().has("xorsign.abs"));
    }

    #[test]
    fn unknown_forms_are_refused() {
        for bad in
            ["add", "add.f33", "fma.f32", "cvt.f32.s32.s32", "mul.wide.u64", "shl.u32", "frobnicate.b32"]
        {
            assert!(form(bad).is_err(), "{bad} was accepted");
        }
        let message = form("add.sat.u32").unwrap_err();
        assert!(
            message.contains("unknown form `add.sat.u32`") && message.contains("add {.sat} .s32"),
            "{message}"
        );
    }
}
