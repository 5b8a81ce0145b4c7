//! The lowered form of a kernel: what the interpreter runs.
//!
//! A [`Code`] holds one kernel and every function it can call, in one array of [`Inst`], with registers already
//! assigned to slots and constants to rows. It does not depend on a device: addresses of variables are rows filled at
//! launch.

mod matrix;

pub use matrix::{Mma, MmaType, QuadMma, WgmmaOp, WgmmaType};

use crate::exec::lanes::{LaneFn, Slots};
use crate::exec::scalar::Scalar;
use crate::ptx::ast::{Loc, Space, Ty};
use crate::tensormap::Field;

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
    /// A number of [`Code::indirects`]; pool: the function's address.
    CallIndirect(u32),
    /// Takes bytes of the thread's stack, at a multiple of this; pool: address, bytes.
    Alloca(u32),
    /// Pool: where the stack ends.
    StackSave,
    StackRestore,
    Ret,
    Exit,
    Trap,
    Print,
    /// `malloc` in a kernel; pool: the block's address, its bytes.
    Malloc,
    /// `free` in a kernel; pool: the address.
    Free,
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
    Fence(Fence),
    /// A number of [`Code::hoppers`].
    Hopper(u32),
    /// Executed by the four warps of a warpgroup together; a number of [`Code::warpgroups`].
    Warpgroup(u32),
    /// Reports an access to a register that a wgmma in flight uses; pool: nothing.
    CheckInFlight(u32),
    /// Pool: lane, predicate, member mask.
    Elect,
    CpAsync(u32),
    CpAsyncCommit,
    CpAsyncWait(u32),
    Mma(Mma),
    QuadMma(QuadMma),
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
    /// What is computed from a register that nothing has written counts as not written either: masks of both.
    PassWritten,
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
    /// A byte of the part of shared memory that is kept for system software; cooperative groups use it.
    ReservedShared(u16),
    TotalSharedBytes,
    /// Along an axis: the block in its cluster, the cluster's size, the cluster in the grid, and the grid's size.
    ClusterCtaid(u8),
    ClusterNctaid(u8),
    ClusterId(u8),
    NClusterId(u8),
    ClusterRank,
    ClusterSize,
    IsExplicitCluster,
    /// Where the frame's local variables start.
    LocalBase,
    /// Where dynamic shared memory starts.
    DynamicShared,
    /// The address of module variable `.0`, plus `.1`.
    Global(u32, i64),
    /// Low and high half of the address where a cooperative launch keeps its grid-wide barrier; 0 in others.
    Workspace(bool),
    /// The bits of an immediate.
    Constant(u64),
}

/// How an access takes part in synchronisation (PTX ISA 8.5 to 8.7). A release is a fence before its access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// A plain load or store.
    Weak,
    /// Strong, of the block's or the cluster's scope.
    Narrow,
    /// Of the device's or the system's scope: `.relaxed`, `.volatile`.
    Relaxed,
    /// The same, and what it reads from is ordered before what follows: `.acquire`, and every atomic.
    Acquire,
}

impl Strength {
    pub fn is_strong(self) -> bool {
        self != Strength::Weak
    }

    /// Morally strong with such accesses of other blocks.
    pub fn is_wide(self) -> bool {
        matches!(self, Strength::Relaxed | Strength::Acquire)
    }
}

/// A fence between threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Of the device's or the system's scope.
    pub wide: bool,
    pub acquires: bool,
    pub releases: bool,
}

impl Fence {
    pub const FULL: Fence = Fence { wide: true, acquires: true, releases: true };
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
    pub strength: Strength,
    /// `.nc` or `ldu`: the data must not change during the kernel.
    pub read_only: bool,
    /// Bytes of a load that matter, one bit each; the rest may never have been written.
    pub used_bytes: u16,
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
    pub strength: Strength,
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

/// A named register that an instruction writes.
#[derive(Clone, Debug)]
pub struct NamedWrite {
    pub inst: u32,
    pub bank: Bank,
    pub slot: u16,
    pub name: String,
}

/// An address operand; its row comes from the pool.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct At {
    pub space: Space,
    pub bank: Bank,
    pub offset: i64,
}

/// Where a bulk copy goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BulkWay {
    GlobalToShared,
    SharedToShared,
    SharedToGlobal,
}

/// A bulk or tensor copy. Pool: destination, source, size or coordinates, mbarrier and block mask where present; a
/// tensor's own address is that of its map.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BulkOp {
    pub way: BulkWay,
    /// Dimensions of a tensor copy; 0 for a plain one.
    pub dimensions: u8,
    pub reduce: Option<(AtomicOp, Ty)>,
    pub multicast: bool,
    pub to: At,
    pub from: At,
    pub mbarrier: Option<At>,
}

/// Instructions of sm_90 that one warp executes. Pool: destinations, then sources in the order of the instruction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HopperOp {
    MbarrierInit(At),
    MbarrierInval(At),
    MbarrierArrive {
        at: At,
        drop: bool,
        expect: bool,
        no_complete: bool,
        relaxed: bool,
        has_count: bool,
        has_state: bool,
    },
    MbarrierTx {
        at: At,
        complete: bool,
    },
    MbarrierWait {
        at: At,
        blocking: bool,
        parity: bool,
        relaxed: bool,
    },
    MbarrierPending,
    CpAsyncArrive {
        at: At,
        noinc: bool,
    },
    ClusterArrive {
        relaxed: bool,
        aligned: bool,
    },
    ClusterWait {
        aligned: bool,
    },
    Mapa {
        wide: bool,
        generic: bool,
    },
    GetCtaRank {
        wide: bool,
    },
    Bulk(BulkOp),
    BulkCommit,
    BulkWait {
        keep: u32,
        read: bool,
    },
    /// Stores (`reduce` none) and reductions that signal an mbarrier. Pool: address, elements, mbarrier.
    StAsync {
        at: At,
        mbarrier: At,
        ty: Ty,
        count: u8,
        reduce: Option<AtomicOp>,
    },
    TensormapReplace {
        at: At,
        field: Field,
        wide: bool,
    },
    /// tensormap.cp_fenceproxy
    TensormapCopy {
        to: At,
        from: At,
    },
    /// fence.proxy.async, for one space or both.
    ProxyFence {
        shared: bool,
        global: bool,
    },
    MbarrierInitFence,
    CreatePolicy,
    Stmatrix {
        count: u8,
        transpose: bool,
    },
}

/// What the four warps of a warpgroup execute together.
#[derive(Clone, Debug, PartialEq)]
pub enum WarpgroupOp {
    Mma(Box<WgmmaOp>),
    Fence,
    Commit,
    Wait(u32),
    SetMaxNReg { increase: bool, count: u32 },
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
    pub hoppers: Vec<HopperOp>,
    pub warpgroups: Vec<WarpgroupOp>,
    /// Names of the registers that `CheckInFlight` and wgmma operations number.
    pub register_names: Vec<String>,
    /// True when the kernel uses mbarriers, clusters, bulk copies or wgmma: orders are then tracked for the cluster.
    pub uses_hopper: bool,
    pub calls: Vec<CallOp>,
    /// What an indirect call may go to: addresses, and numbers of `calls`.
    pub indirects: Vec<Vec<(u64, u32)>>,
    pub tables: Vec<TableOp>,
    /// Named registers that instructions write, in order of the instructions: for traces.
    pub writes: Vec<NamedWrite>,
    /// Registers whose writes are tracked, by the number in `CheckWritten`: name.
    pub tracked: Vec<String>,
    /// The kernel is frame 0.
    pub frames: Vec<Frame>,
    /// Some function takes stack while it runs (`alloca`).
    pub uses_alloca: bool,
    /// Static shared memory in bytes, and the alignment of what follows.
    pub shared_bytes: u32,
    pub shared_align: u32,
    /// True when whole-block barriers and whole-warp barriers are all that orders accesses to shared memory.
    pub plain_barriers: bool,
    /// The smallest access to shared memory, in bytes, as a power of two.
    pub shared_granule: u32,
    /// True when the kernel exchanges data between blocks (atomics, fences, strong accesses to global memory).
    pub blocks_communicate: bool,
    /// True when the kernel names the reserved part of shared memory.
    pub reserved_shared: bool,
    /// Largest number of registers live at once, in 32-bit registers (what a compiler would need at least).
    pub max_live: u32,
}

impl Code {
    /// True when threads need more local memory than the kernel's own frame.
    pub fn uses_stack(&self) -> bool {
        self.frames.len() > 1 || self.uses_alloca
    }

    pub fn bank_of(ty: Ty) -> Bank {
        match ty.bytes() {
            0 => Bank::Pred,
            8 => Bank::R64,
            _ => Bank::R32,
        }
    }
}
