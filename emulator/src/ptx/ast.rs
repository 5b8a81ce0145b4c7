//! What the parser produces: a PTX module as written, names not yet resolved (PTX ISA sections 4 and 5).

use std::collections::HashMap;

/// A fundamental or packed type of PTX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ty {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    BF16,
    BF16x2,
    TF32,
    F32,
    F64,
    U16x2,
    S16x2,
    E4M3x2,
    E5M2x2,
    E4M3,
    E5M2,
    S4,
    U4,
    B1,
}

impl Ty {
    /// The type a dotted word names, if it names one.
    pub fn from_word(word: &str) -> Option<Ty> {
        Some(match word {
            "pred" => Ty::Pred,
            "b8" => Ty::B8,
            "b16" => Ty::B16,
            "b32" => Ty::B32,
            "b64" => Ty::B64,
            "b128" => Ty::B128,
            "u8" => Ty::U8,
            "u16" => Ty::U16,
            "u32" => Ty::U32,
            "u64" => Ty::U64,
            "s8" => Ty::S8,
            "s16" => Ty::S16,
            "s32" => Ty::S32,
            "s64" => Ty::S64,
            "f16" => Ty::F16,
            "f16x2" => Ty::F16x2,
            "bf16" => Ty::BF16,
            "bf16x2" => Ty::BF16x2,
            "tf32" => Ty::TF32,
            "f32" => Ty::F32,
            "f64" => Ty::F64,
            "u16x2" => Ty::U16x2,
            "s16x2" => Ty::S16x2,
            "e4m3x2" => Ty::E4M3x2,
            "e5m2x2" => Ty::E5M2x2,
            "e4m3" => Ty::E4M3,
            "e5m2" => Ty::E5M2,
            "s4" => Ty::S4,
            "u4" => Ty::U4,
            "b1" => Ty::B1,
            _ => return None,
        })
    }

    /// Size in bytes; a predicate has none, and parts of a byte count as one.
    pub fn bytes(self) -> u32 {
        match self {
            Ty::Pred => 0,
            Ty::B8 | Ty::U8 | Ty::S8 | Ty::E4M3 | Ty::E5M2 | Ty::S4 | Ty::U4 | Ty::B1 => 1,
            Ty::B16 | Ty::U16 | Ty::S16 | Ty::F16 | Ty::BF16 | Ty::E4M3x2 | Ty::E5M2x2 => 2,
            Ty::B32
            | Ty::U32
            | Ty::S32
            | Ty::F32
            | Ty::TF32
            | Ty::F16x2
            | Ty::BF16x2
            | Ty::U16x2
            | Ty::S16x2 => 4,
            Ty::B64 | Ty::U64 | Ty::S64 | Ty::F64 => 8,
            Ty::B128 => 16,
        }
    }

    pub fn is_signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64 | Ty::S16x2)
    }

    pub fn is_float(self) -> bool {
        matches!(self, Ty::F16 | Ty::F16x2 | Ty::BF16 | Ty::BF16x2 | Ty::TF32 | Ty::F32 | Ty::F64)
    }

    /// Untyped bits: compatible with any type of the same size (PTX ISA table 26).
    pub fn is_bits(self) -> bool {
        matches!(self, Ty::B8 | Ty::B16 | Ty::B32 | Ty::B64 | Ty::B128)
    }
}

impl std::fmt::Display for Ty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, ".{}", format!("{self:?}").to_ascii_lowercase())
    }
}

/// A state space (PTX ISA section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    Generic,
    Global,
    Shared,
    /// Shared memory of the blocks of a cluster, `.shared::cluster`.
    Cluster,
    Local,
    Const,
    Param,
}

impl std::fmt::Display for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", format!("{self:?}").to_ascii_lowercase())
    }
}

/// A variable declaration, at module level, as a parameter, or inside a function.
#[derive(Clone, Debug)]
pub struct Variable {
    pub name: String,
    pub space: Space,
    pub ty: Ty,
    /// Bytes; 0 for an unsized `extern .shared` array.
    pub size: u64,
    pub align: u32,
    pub init: Vec<Init>,
    pub is_extern: bool,
    /// `.attribute(.managed)`: the host may use it too.
    pub managed: bool,
    /// A parameter or result of a function that is declared `.reg`.
    pub in_register: bool,
    pub line: u32,
}

/// One element of an initialiser, in the variable's element type.
#[derive(Clone, Debug)]
pub enum Init {
    Bits(u64),
    /// The address of a symbol plus an offset; `generic` when written `generic(symbol)`.
    Symbol {
        name: String,
        offset: i64,
        generic: bool,
    },
}

/// A source position from a `.loc` directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Loc {
    pub file: u32,
    pub line: u32,
}

#[derive(Clone, Debug)]
pub enum Statement {
    Block(Vec<Statement>),
    Label(String, u32),
    Registers {
        ty: Ty,
        names: Vec<(String, Option<u32>)>,
        line: u32,
    },
    Variable(Variable),
    Loc(Loc),
    /// `name: .branchtargets L1, L2;`
    BranchTargets {
        name: String,
        labels: Vec<String>,
        line: u32,
    },
    /// `name: .callprototype (results) _ (parameters);`
    Prototype {
        name: String,
        returns: Vec<Variable>,
        params: Vec<Variable>,
    },
    /// `name: .calltargets f, g;`
    CallTargets {
        name: String,
        functions: Vec<String>,
    },
    Instruction(Instruction),
}

#[derive(Clone, Debug)]
pub struct Instruction {
    pub line: u32,
    /// `@p` or `@!p`: register name, and whether it is negated.
    pub guard: Option<(String, bool)>,
    pub form: super::table::Decoded,
    /// Written `bar...`, which is `barrier...aligned`.
    pub bar_root: bool,
    pub operands: Vec<Operand>,
    /// Bytes of a load that are used, one bit each: `.pragma "used_bytes_mask 0x0f"` before it.
    pub used_bytes: u16,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A register, symbol or label, with a component (`.x`) where written.
    Name(String, Option<String>),
    /// `symbol + 8` outside brackets.
    NameOffset(String, i64),
    Int(i64),
    F32(u32),
    F64(u64),
    /// `!p`
    Not(String),
    /// `-r`
    Negated(Box<Operand>),
    /// `_`
    Sink,
    /// `{a, b}`
    Vector(Vec<Operand>),
    /// `[base + offset]`; base is a name or nothing (an absolute address).
    Address {
        base: Option<String>,
        offset: i64,
    },
    /// `[map, {x, y}]`: a tensor map and the coordinates in it.
    Tensor {
        base: String,
        offset: i64,
        coordinates: Vec<Operand>,
    },
    /// `d|p`
    Pair(Box<Operand>, Box<Operand>),
    /// `(a, b)` of a call.
    List(Vec<Operand>),
}

#[derive(Clone, Debug)]
pub struct Function {
    pub name: String,
    pub is_entry: bool,
    pub params: Vec<Variable>,
    pub returns: Vec<Variable>,
    /// None for a declaration.
    pub body: Option<Vec<Statement>>,
    pub line: u32,
    /// `.maxntid`, product of the dimensions.
    pub max_threads: Option<u32>,
    /// `.reqntid`.
    pub required_threads: Option<[u32; 3]>,
    /// `.reqnctapercluster`.
    pub required_cluster: Option<[u32; 3]>,
    /// `.explicitcluster`: the launch must give the size of its clusters.
    pub explicit_cluster: bool,
    /// `.maxclusterrank`.
    pub max_cluster_rank: Option<u32>,
    /// `.maxnreg` and `.minnctapersm`.
    pub max_registers: Option<u32>,
    pub min_blocks: Option<u32>,
}

/// A parsed PTX file.
#[derive(Clone, Debug, Default)]
pub struct Ast {
    pub version: (u32, u32),
    /// The architecture named by `.target`, such as `sm_80`.
    pub target: String,
    pub variables: Vec<Variable>,
    pub functions: Vec<Function>,
    /// `.file` index to name.
    pub files: HashMap<u32, String>,
}
