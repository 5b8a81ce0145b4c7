//! The lowered form of a kernel: what the interpreter runs.
//!
//! A [`Code`] holds one kernel and every function it can call, in one array of [`Inst`], with registers already
//! assigned to slots and constants to rows. It does not depend on a device: addresses of variables are rows filled at
//! launch.

use crate::exec::lanes::{LaneFn, Slots};
use crate::exec::scalar::Scalar;
use crate::ptx::ast::{Loc, Space, Ty};

/// Which bank of registers a value lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bank {
    R32,
    R64,
    Pred,
}

/// No guard predicate.
pub const NO_GUARD: u16 = u16::MAX;

/// One instruction. Lane and scalar operations use `slots`; others find theirs in [`Code::pool`] from `pool` on,
/// destinations first.
#[derive(Clone, Copy)]
pub struct Inst {
    pub kind: Kind,
    pub slots: Slots,
    pub guard: u16,
    pub negated: bool,
    pub pool: u32,
}

/// What an instruction does. Numbers index the tables of [`Code`].
#[derive(Clone, Copy)]
pub enum Kind {
    Lane(LaneFn),
    Scalar(u32),
    Load(u32),
    Store(u32),
    Atomic(u32),
    /// To an instruction, by the lanes of the guard; the others go on.
    Branch(u32),
    BranchIndex(u32),
    Call(u32),
    Ret,
    Exit,
    Trap,
    Print,
    Assert,
    Shuffle(Shuffle),
    Vote(Vote),
    Match {
        all: bool,
        wide: bool,
    },
    Redux(Redux),
    Activemask,
    Barrier(Barrier),
    BarWarp,
    Fence,
    CpAsync(u32),
    CpAsyncCommit,
    CpAsyncWait(u32),
    Mma(Mma),
    Ldmatrix {
        count: u8,
        transpose: bool,
    },
    Movmatrix,
    ReadSpecial(Dynamic),
    Isspacep(Space),
    Nanosleep,
    Prefetch,
    /// Reports a read of a register no instruction has written in this lane.
    CheckWritten(u32),
    MarkWritten(u32),
    /// Reports an integer division by zero; pool: divisor.
    CheckDivisor(Bank),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shuffle {
    Up,
    Down,
    Bfly,
    Idx,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vote {
    All,
    Any,
    Uni,
    Ballot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redux {
    Add,
    MinU,
    MinS,
    MaxU,
    MaxS,
    And,
    Or,
    Xor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarrierOp {
    Sync,
    Arrive,
    RedPopc,
    RedAnd,
    RedOr,
}

/// Pool: destination (reductions), barrier, thread count (0 rows where absent), predicate (reductions).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Barrier {
    pub op: BarrierOp,
    pub aligned: bool,
    pub has_count: bool,
}

/// Element types of A and B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MmaType {
    F16,
    Bf16,
    Tf32,
    /// Signedness of A and B.
    Int8(bool, bool),
}

/// m16n8k`k`; pool: D, A, B, C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mma {
    pub k: u8,
    pub ty: MmaType,
    /// D and C are f16 pairs instead of f32 (or s32).
    pub half_accumulator: bool,
    pub satfinite: bool,
}

impl Mma {
    /// Registers of D and C, of A, and of B.
    pub fn registers(self) -> (usize, usize, usize) {
        let element_bits = match self.ty {
            MmaType::F16 | MmaType::Bf16 => 16,
            MmaType::Tf32 => 32,
            MmaType::Int8(..) => 8,
        };
        let a = 16 * self.k as usize * element_bits / 32 / 32;
        (if self.half_accumulator { 2 } else { 4 }, a, a / 2)
    }
}

/// Special registers whose value changes while a kernel runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dynamic {
    Clock,
    Clock64,
    GlobalTimer,
    GlobalTimerLow,
}

/// Special registers and addresses whose value is fixed for a frame: rows filled when the frame is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fixed {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NWarpId,
    SmId,
    NSmId,
    GridId,
    LanemaskEq,
    LanemaskLe,
    LanemaskLt,
    LanemaskGe,
    LanemaskGt,
    DynamicSharedBytes,
    TotalSharedBytes,
    /// Where the frame's local variables start.
    LocalBase,
    /// Where dynamic shared memory starts.
    DynamicShared,
    /// The address of module variable `.0`, plus `.1`.
    Global(u32, i64),
    /// The bits of an immediate.
    Constant(u64),
}

/// A load or store. Pool: load: destinations, address; store: address, sources.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MemOp {
    pub space: Space,
    /// Bytes of one element in memory.
    pub bytes: u8,
    pub count: u8,
    /// Bytes of a register; a narrower element is extended to it.
    pub reg_bytes: u8,
    pub signed: bool,
    pub address: Bank,
    pub offset: i64,
    /// `.volatile`, `.relaxed`, `.acquire`, `.release`: may race with others of its kind.
    pub strong: bool,
    /// `.nc` or `ldu`: the data must not change during the kernel.
    pub read_only: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomicOp {
    Add,
    Min,
    Max,
    Inc,
    Dec,
    And,
    Or,
    Xor,
    Exch,
    Cas,
}

/// Pool: destination (where there is one), address, b, c (cas).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AtomOp {
    pub op: AtomicOp,
    pub ty: Ty,
    pub space: Space,
    pub address: Bank,
    pub offset: i64,
    pub has_result: bool,
}

/// Pool: shared address, global address, source size (where present).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CpAsyncOp {
    pub bytes: u8,
    pub shared: Bank,
    pub shared_offset: i64,
    pub global_offset: i64,
    pub source_size: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScalarOp {
    pub op: Scalar,
    pub result: Bank,
    /// The result is cut to this many bits.
    pub result_bits: u8,
    pub sources: [Option<Bank>; 4],
}

/// A call: the callee, and where parameters go, as (from offset in the caller's frame, to offset in the callee's, bytes).
#[derive(Clone, Debug)]
pub struct CallOp {
    pub function: u32,
    pub arguments: Vec<(u32, u32, u32)>,
    /// (from the callee's frame, to the caller's, bytes)
    pub results: Vec<(u32, u32, u32)>,
}

/// Jump table; pool: index.
#[derive(Clone, Debug)]
pub struct TableOp {
    pub targets: Vec<u32>,
}

/// Classes that counters separate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    Integer,
    Float32,
    Float64,
    Half,
    Special,
    Convert,
    Move,
    Predicate,
    Control,
    LoadGlobal,
    StoreGlobal,
    LoadShared,
    StoreShared,
    Local,
    ConstParam,
    Generic,
    Atomic,
    Barrier,
    WarpExchange,
    Tensor,
    AsyncCopy,
    /// Helpers of the emulator: not counted.
    None,
}

/// Where an instruction comes from and what counters make of it.
#[derive(Clone, Copy, Debug)]
pub struct Info {
    pub ptx_line: u32,
    pub loc: Option<Loc>,
    pub class: Class,
    /// Floating-point operations per lane.
    pub flops: u32,
}

/// A function within a [`Code`].
#[derive(Clone, Debug, Default)]
pub struct Frame {
    pub name: String,
    pub entry: u32,
    /// Rows in each bank, fixed rows included.
    pub rows32: u32,
    pub rows64: u32,
    pub preds: u32,
    /// Rows to fill at set-up: value, bank, slot.
    pub fixed: Vec<(Fixed, Bank, u16)>,
    /// Bytes of local memory: local variables and call parameters.
    pub local_bytes: u32,
    pub calls: Vec<u32>,
}

/// A kernel ready to run.
#[derive(Clone, Default)]
pub struct Code {
    pub insts: Vec<Inst>,
    pub info: Vec<Info>,
    /// True at the first instruction of a basic block, where groups of lanes may meet.
    pub leader: Vec<bool>,
    pub pool: Vec<u16>,
    pub scalars: Vec<ScalarOp>,
    pub mems: Vec<MemOp>,
    pub atoms: Vec<AtomOp>,
    pub cps: Vec<CpAsyncOp>,
    pub calls: Vec<CallOp>,
    pub tables: Vec<TableOp>,
    /// Registers whose writes are tracked, by the number in `CheckWritten`: name.
    pub tracked: Vec<String>,
    /// The kernel is frame 0.
    pub frames: Vec<Frame>,
    /// Static shared memory in bytes, and the alignment of what follows.
    pub shared_bytes: u32,
    pub shared_align: u32,
    /// True when the kernel exchanges data between blocks (atomics, fences, strong accesses to global memory).
    pub blocks_communicate: bool,
    /// Largest number of registers live at once, in 32-bit registers (what a compiler would need at least).
    pub max_live: u32,
}

impl Code {
    pub fn bank_of(ty: Ty) -> Bank {
        match ty.bytes() {
            0 => Bank::Pred,
            8 => Bank::R64,
            _ => Bank::R32,
        }
    }
}
