//! The limits of each architecture, in one table (CUDA C++ Programming Guide, "Technical Specifications per Compute
//! Capability").

/// What a GPU of one compute capability allows.
#[derive(Clone, Debug, PartialEq)]
pub struct Arch {
    /// `sm_80`
    pub name: &'static str,
    pub major: u32,
    pub minor: u32,
    pub max_threads_per_block: u32,
    pub max_block: [u32; 3],
    pub max_grid: [u32; 3],
    /// Shared memory of a block, static and dynamic, without opting in.
    pub shared_per_block: u32,
    /// With opting in (dynamic shared memory only).
    pub shared_per_block_optin: u32,
    pub shared_per_sm: u32,
    /// Taken by the system from each block's share of an SM.
    pub shared_reserved: u32,
    pub registers_per_block: u32,
    pub registers_per_sm: u32,
    pub max_registers_per_thread: u32,
    pub max_threads_per_sm: u32,
    pub max_blocks_per_sm: u32,
    pub sms: u32,
    pub const_bytes: u32,
    pub param_bytes: u32,
    /// Blocks of a cluster, with opting in beyond 8; 0 where there are no clusters.
    pub max_cluster: u32,
}

const ARCHS: &[Arch] = &[SM_80, SM_86, SM_89, SM_90A];

const SM_80: Arch = Arch {
    name: "sm_80",
    major: 8,
    minor: 0,
    max_threads_per_block: 1024,
    max_block: [1024, 1024, 64],
    max_grid: [0x7fff_ffff, 65535, 65535],
    shared_per_block: 48 << 10,
    shared_per_block_optin: 163 << 10,
    shared_per_sm: 164 << 10,
    shared_reserved: 1 << 10,
    registers_per_block: 65536,
    registers_per_sm: 65536,
    max_registers_per_thread: 255,
    max_threads_per_sm: 2048,
    max_blocks_per_sm: 32,
    sms: 108,
    const_bytes: 64 << 10,
    param_bytes: 4352,
    max_cluster: 0,
};

/// A GeForce RTX 3090.
const SM_86: Arch = Arch {
    name: "sm_86",
    minor: 6,
    shared_per_block_optin: 99 << 10,
    shared_per_sm: 100 << 10,
    max_threads_per_sm: 1536,
    max_blocks_per_sm: 16,
    sms: 82,
    ..SM_80
};

/// A GeForce RTX 4090.
const SM_89: Arch = Arch { name: "sm_89", minor: 9, max_blocks_per_sm: 24, sms: 128, ..SM_86 };

/// An H100 or H200 (SXM).
const SM_90A: Arch = Arch {
    name: "sm_90a",
    major: 9,
    minor: 0,
    shared_per_block_optin: 227 << 10,
    shared_per_sm: 228 << 10,
    sms: 132,
    param_bytes: 32764,
    max_cluster: 16,
    ..SM_80
};

/// The number of a target: 80 of `sm_80`, 90 of `sm_90a`.
pub(crate) fn number_of(target: &str) -> Option<u32> {
    let digits: String = target.chars().filter(char::is_ascii_digit).collect();
    digits.parse().ok()
}

impl Arch {
    /// The architecture called `name`, if the emulator has it.
    pub fn named(name: &str) -> Option<&'static Arch> {
        ARCHS.iter().find(|a| a.name == name)
    }

    /// The oldest architecture that runs PTX made for `target`, such as `sm_75` or `sm_90`.
    pub fn running(target: &str) -> Option<&'static Arch> {
        ARCHS.iter().find(|a| a.runs(target))
    }

    /// Whether PTX made for `target` runs: one that is not newer, and of those with a suffix, such as `sm_90a`, only this one.
    pub fn runs(&self, target: &str) -> bool {
        match target.ends_with(['a', 'f']) {
            true => target == self.name,
            false => number_of(target).is_some_and(|number| number <= self.number()),
        }
    }

    pub fn names() -> String {
        ARCHS.iter().map(|a| a.name).collect::<Vec<_>>().join(", ")
    }

    /// The architecture's number as in `sm_80`.
    pub fn number(&self) -> u32 {
        self.major * 10 + self.minor
    }
}

#[cfg(test)]
mod tests {
    use super::Arch;

    #[test]
    fn a_target_runs_on_what_is_not_older() {
        for (target, arch) in [
            ("sm_52", Some("sm_80")),
            ("sm_80", Some("sm_80")),
            ("sm_86", Some("sm_86")),
            ("sm_87", Some("sm_89")),
            ("sm_90", Some("sm_90a")),
            ("sm_90a", Some("sm_90a")),
            ("sm_100", None),
            ("sm_100a", None),
            ("sm_x", None),
        ] {
            assert_eq!(Arch::running(target).map(|a| a.name), arch, "{target}");
        }
    }
}
