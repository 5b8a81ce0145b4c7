//! The embedded PTX: its modules, and the parameters of each entry.

/// What a kernel's parameter holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A pointer or a 64-bit integer.
    Word64,
    /// A 32-bit integer.
    Word32,
    F32,
    /// 128 bytes, [`crate::slice::TensorMap`].
    TensorMap,
}

/// One PTX file.
pub struct Module {
    /// The stem of its `.cu` file.
    pub stem: &'static str,
    /// NUL-terminated, as the driver takes it.
    pub text: &'static str,
}

/// One `__global__` function.
pub struct Entry {
    pub name: &'static str,
    /// Position in [`modules`].
    pub module: usize,
    pub params: &'static [Kind],
    /// Most threads of a block, where the kernel says so (`__launch_bounds__`).
    pub threads: Option<u32>,
}

include!(concat!(env!("OUT_DIR"), "/ptx.rs"));

/// All modules, by name.
pub fn modules() -> &'static [Module] {
    MODULES
}

/// All entries, by name.
pub fn entries() -> &'static [Entry] {
    ENTRIES
}

/// The entry of that name.
pub fn entry(name: &str) -> Option<&'static Entry> {
    ENTRIES.binary_search_by(|entry| entry.name.cmp(name)).ok().map(|i| &ENTRIES[i])
}
