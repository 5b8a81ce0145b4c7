//! What a kernel did wrong, collected: the findings of a launch.

pub mod epoch;
pub mod global;
pub mod proxy;
pub mod race;

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// The kind of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    OutOfBounds,
    Misaligned,
    WrongSpace,
    ReadOnlyWrite,
    Uninitialised,
    SharedRace,
    GlobalRace,
    BarrierDivergence,
    BarrierMisuse,
    WarpSyncMisuse,
    MissingAsyncWait,
    DivisionByZero,
    Deadlock,
    StackOverflow,
    /// An indirect call to what is not a function, or one with another signature.
    IllegalCall,
    Trap,
    AssertFailed,
    Endless,
    /// An mbarrier used against its protocol.
    MbarrierMisuse,
    /// More or fewer bytes arrive at an mbarrier than it expects.
    TransactionBytes,
    /// A store and an asynchronous access with no `fence.proxy.async` between.
    MissingProxyFence,
    /// Copies or matrix operations that no group takes up.
    MissingCommit,
    /// Use of a block of the cluster that has exited or may not have started.
    ClusterMisuse,
    /// A bulk or tensor copy whose operands are not valid.
    CopyMisuse,
    /// A register that a wgmma uses is accessed with no wait or fence between.
    WgmmaRegister,
    /// Warps of a warpgroup that do not execute one instruction, or not with the same descriptors.
    WarpgroupDivergence,
    /// A matrix descriptor that is not valid, or of another swizzle than the bytes were written with.
    DescriptorMismatch,
    /// `free` in a kernel of what is no block of `malloc`.
    HeapMisuse,
    /// `setmaxnreg` beyond the registers of the block.
    RegisterPool,
}

/// One thing a kernel did wrong, where, and by whom; repeated ones are counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub kind: Kind,
    pub kernel: String,
    pub block: [u32; 3],
    pub thread: [u32; 3],
    pub ptx_line: u32,
    /// File and line of the CUDA source, where the PTX has line information.
    pub source: Option<(String, u32)>,
    pub message: String,
    /// How often this kind happened at this instruction; of a source line's further ones too, in the last that is listed.
    pub count: u64,
    /// Options under which it happened, where the order of things was chosen: the same ones repeat it.
    pub order: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [bx, by, bz] = self.block;
        let [tx, ty, tz] = self.thread;
        write!(f, "{}: thread ({tx},{ty},{tz}) block ({bx},{by},{bz}) {}", self.kernel, self.message)?;
        if let Some((file, line)) = &self.source {
            write!(f, " at {file}:{line},")?;
        } else {
            write!(f, " at")?;
        }
        write!(f, " PTX line {}", self.ptx_line)?;
        if self.count > 1 {
            write!(f, " ({} times)", self.count)?;
        }
        if !self.order.is_empty() {
            write!(f, " ({})", self.order)?;
        }
        Ok(())
    }
}

/// Where something happened: a line of the source, or an instruction where the PTX has no line information.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Site {
    /// File number and line.
    Source(u32, u32),
    Instruction(u32),
}

/// Instructions of a kind and site that are listed apart: a line reads two arrays and writes a third, but it may also be an unrolled loop.
const APART: usize = 3;

/// The findings, and where each kind at each site is among them, with its instruction.
type List = (Vec<Finding>, HashMap<(Kind, Site), Vec<(u32, usize)>>);

/// Which of a site's findings an instruction's next one is counted with, if it is not listed apart.
fn counted_with(listed: &[(u32, usize)], ptx_line: u32) -> Option<usize> {
    let same = listed.iter().find(|(line, _)| *line == ptx_line);
    same.or(listed.get(APART - 1)).map(|(_, i)| *i)
}

/// Findings of a launch, shared by the threads that run its blocks.
pub struct Findings {
    list: Mutex<List>,
    max: usize,
    stop: AtomicBool,
}

impl Findings {
    pub fn new(max: usize) -> Findings {
        Findings { list: Mutex::new((Vec::new(), HashMap::new())), max, stop: AtomicBool::new(false) }
    }

    /// Adds a finding, or counts it with one of the same kind at the same site. A full list stops the launch.
    pub fn add(&self, site: Site, finding: Finding) {
        let mut guard = self.list.lock().unwrap_or_else(|e| e.into_inner());
        let (list, known) = &mut *guard;
        let listed = known.entry((finding.kind, site)).or_default();
        if let Some(i) = counted_with(listed, finding.ptx_line) {
            list[i].count += finding.count;
        } else if list.len() < self.max {
            listed.push((finding.ptx_line, list.len()));
            list.push(finding);
        } else {
            self.stop();
        }
    }

    /// True when a finding of this kind, at this site and line of the PTX, would only be counted.
    pub fn knows(&self, site: Site, ptx_line: u32, kind: Kind) -> bool {
        let guard = self.list.lock().unwrap_or_else(|e| e.into_inner());
        guard.1.get(&(kind, site)).is_some_and(|listed| counted_with(listed, ptx_line).is_some())
    }

    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    pub fn stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    pub fn into_list(self) -> Vec<Finding> {
        self.list.into_inner().unwrap_or_else(|e| e.into_inner()).0
    }
}
