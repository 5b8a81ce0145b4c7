//! Matrix products of warps and warpgroups.

use crate::exec::soft::Round;

/// Element types of A and B. Pairs are of A and of B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MmaType {
    F16,
    Bf16,
    Tf32,
    F64(Round),
    /// True for e5m2, else e4m3.
    Fp8(bool, bool),
    /// Signedness.
    Int8(bool, bool),
    Int4(bool, bool),
    /// Combined by exclusive or, else by and; the sum counts bits.
    Bit {
        xor: bool,
    },
}

impl MmaType {
    /// Bits of an element of A or B.
    pub fn bits(self) -> usize {
        match self {
            MmaType::F64(_) => 64,
            MmaType::Tf32 => 32,
            MmaType::F16 | MmaType::Bf16 => 16,
            MmaType::Fp8(..) | MmaType::Int8(..) => 8,
            MmaType::Int4(..) => 4,
            MmaType::Bit { .. } => 1,
        }
    }

    /// Sums are 32-bit integers.
    pub fn is_integer(self) -> bool {
        matches!(self, MmaType::Int8(..) | MmaType::Int4(..) | MmaType::Bit { .. })
    }
}

/// m`m`n8k`k`; pool: D, A, B, C, and the metadata of a sparse A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mma {
    /// 16 or 8.
    pub m: u8,
    pub k: u16,
    pub ty: MmaType,
    /// D, C are f16 pairs instead of f32 (or s32).
    pub half: [bool; 2],
    pub satfinite: bool,
    /// The sparsity selector, where A holds half of its elements.
    pub sparse: Option<u8>,
}

impl Mma {
    /// Columns of A that its registers hold.
    pub fn stored_k(self) -> usize {
        self.k as usize / if self.sparse.is_some() { 2 } else { 1 }
    }

    /// Registers of D, A, B and C.
    pub fn registers(self) -> [usize; 4] {
        let m = self.m as usize;
        let per_lane = 32 * 32usize.max(self.ty.bits());
        let count = |elements: usize| elements * self.ty.bits() / per_lane;
        let [d, c] = self.half.map(|half| m * 8 / 32 / if half { 2 } else { 1 });
        [d, count(m * self.stored_k()), count(8 * self.k as usize), c]
    }
}

/// The quad-pair product m8n8k4 in f16, four of them in a warp; pool: D, A, B, C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuadMma {
    /// A is column-major, B is row-major.
    pub turned: [bool; 2],
    /// D, C are f16.
    pub half: [bool; 2],
}

/// Element types of A and B of wgmma.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WgmmaType {
    F16,
    Bf16,
    Tf32,
    /// True for e5m2, else e4m3, of A and B.
    Fp8(bool, bool),
    /// Signedness of A and B.
    Int8(bool, bool),
    /// Combined by and.
    Bit,
}

impl WgmmaType {
    /// Bits of an element.
    pub fn bits(self) -> u32 {
        match self {
            WgmmaType::F16 | WgmmaType::Bf16 => 16,
            WgmmaType::Tf32 => 32,
            WgmmaType::Fp8(..) | WgmmaType::Int8(..) => 8,
            WgmmaType::Bit => 1,
        }
    }

    /// Sums are 32-bit integers.
    pub fn is_integer(self) -> bool {
        matches!(self, WgmmaType::Int8(..) | WgmmaType::Bit)
    }
}

/// wgmma.mma_async of m64 x `n` with rows of A of 32 bytes. Pool: D; D again, A (four registers or a descriptor), the
/// descriptor of B, the metadata of a sparse A, scale-d.
#[derive(Clone, Debug, PartialEq)]
pub struct WgmmaOp {
    pub n: u16,
    pub ty: WgmmaType,
    pub half_accumulator: bool,
    pub satfinite: bool,
    pub a_registers: bool,
    /// The sparsity selector, where A holds half of its elements.
    pub sparse: Option<u8>,
    pub negate: [bool; 2],
    /// A is M-major, B is N-major.
    pub transpose: [bool; 2],
    /// Numbers of the registers of D and A.
    pub d: Vec<u32>,
    pub a: Vec<u32>,
    /// A register that some path accesses after the last wgmma.fence.
    pub unfenced: Option<u32>,
}

impl WgmmaOp {
    /// Columns of A.
    pub fn k(&self) -> usize {
        self.stored_k() * if self.sparse.is_some() { 2 } else { 1 }
    }

    /// Columns of A that are stored.
    pub fn stored_k(&self) -> usize {
        256 / self.ty.bits() as usize
    }

    /// Elements of a row of matrix `which` along K, as stored.
    pub fn k_of(&self, which: usize) -> usize {
        if which == 0 { self.stored_k() } else { self.k() }
    }

    /// Registers of D in a lane.
    pub fn registers(&self) -> usize {
        self.n as usize / if self.half_accumulator { 4 } else { 2 }
    }
}
