//! What a device checks, counts, and in which order it runs warps.

use crate::arch::Arch;
use crate::error::{Error, Result};
use crate::exec::trace::TraceTarget;

/// The checks, each of which can be switched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Out of bounds, misaligned, wrong space, writes to constant memory. Without it such accesses still do nothing
    /// to the host: they stop the launch with a finding.
    pub memory: bool,
    /// Reads of global, shared and local memory and of registers that nothing has written.
    pub uninitialised: bool,
    /// Conflicting accesses to shared memory with no barrier between.
    pub races: bool,
    /// Conflicting accesses to global memory within a launch with nothing to order them.
    pub global_races: bool,
    /// Divergent, mismatched or misused barriers and warp operations.
    pub barriers: bool,
    /// Missing waits of asynchronous copies.
    pub async_copies: bool,
    /// Integer division by zero.
    pub division: bool,
}

impl Checks {
    pub const ALL: Checks = Checks {
        memory: true,
        uninitialised: true,
        races: true,
        global_races: true,
        barriers: true,
        async_copies: true,
        division: true,
    };
    pub const NONE: Checks = Checks {
        memory: false,
        uninitialised: false,
        races: false,
        global_races: false,
        barriers: false,
        async_copies: false,
        division: false,
    };
}

/// The order in which warps run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Each warp until it must wait: the fastest, the same every time.
    Fast,
    /// Warps and groups of lanes in an order drawn from the seed, switching at memory and synchronisation.
    Random,
    /// Warps by a priority drawn from the seed, which changes at `depth` - 1 random moments (Burckhardt et al. 2010, "A
    /// randomized scheduler with probabilistic guarantees of finding bugs"): finds rare orders in fewer runs.
    Priority,
}

/// When an asynchronous copy reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsyncTiming {
    /// Late in the fast schedule, at random in the others.
    Auto,
    /// When it is issued.
    Early,
    /// When a wait forces it.
    Late,
    /// Either, drawn from the seed.
    Random,
}

/// How tensor cores round their sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tensor {
    /// Once, to nearest.
    Ideal,
    /// As an A100: terms cut to 24 bits after the point, 16 bytes of a row at a time, the sum cut.
    Ampere,
    /// As an H100: terms cut to 25 bits (FP8: 13), all at once, the sum cut.
    Hopper,
}

/// Options of a device.
#[derive(Clone, Debug)]
pub struct Options {
    pub arch: &'static Arch,
    pub checks: Checks,
    pub schedule: Schedule,
    pub async_timing: AsyncTiming,
    pub tensor: Tensor,
    pub seed: u64,
    /// Of the priority schedule: moments at which priorities change, plus one.
    pub depth: u32,
    pub counters: bool,
    /// Findings kept per launch; the launch goes on past a finding where it can.
    pub max_findings: usize,
    /// Global memory in bytes.
    pub memory: u64,
    /// Threads of the host; 0 for all.
    pub threads: usize,
    /// Bytes of stack for the calls of one thread.
    pub stack_bytes: u32,
    /// Instructions a warp may run in one launch before it is taken to be endless.
    pub instruction_limit: u64,
    /// A warp whose steps the report lists; needs the counters.
    pub trace: Option<TraceTarget>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            arch: match Arch::named("sm_80") {
                Some(arch) => arch,
                None => unreachable!("bug in handloom-emulator: the table of architectures has sm_80"),
            },
            checks: Checks::ALL,
            schedule: Schedule::Fast,
            async_timing: AsyncTiming::Auto,
            tensor: Tensor::Ideal,
            seed: 0,
            depth: 3,
            counters: true,
            max_findings: 16,
            memory: 4 << 30,
            threads: 0,
            stack_bytes: 16 << 10,
            instruction_limit: 2_000_000_000,
            trace: None,
        }
    }
}

impl Options {
    /// Reads `arch=sm_80,checks=all,schedule=random,seed=7`. Checks are `all`, `none`, or names joined by `+`.
    ///
    /// # Errors
    /// `Error::Options` naming the key or value that is not known.
    pub fn parse(text: &str) -> Result<Options> {
        let mut options = Options::default();
        for pair in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(Error::Options(format!("`{pair}` is not key=value")));
            };
            options.set(key.trim(), value.trim())?;
        }
        Ok(options)
    }

    /// What chooses the order of things, as options that repeat it; empty for the fast schedule as it is by default.
    pub fn order(&self) -> String {
        let mut parts = Vec::new();
        match self.schedule {
            Schedule::Fast => {}
            Schedule::Random => parts.push("schedule=random".to_string()),
            Schedule::Priority => parts.push(format!("schedule=priority,depth={}", self.depth)),
        }
        match self.async_timing {
            AsyncTiming::Auto => {}
            AsyncTiming::Early => parts.push("async=early".to_string()),
            AsyncTiming::Late => parts.push("async=late".to_string()),
            AsyncTiming::Random => parts.push("async=random".to_string()),
        }
        if self.schedule != Schedule::Fast || self.async_timing == AsyncTiming::Random {
            parts.push(format!("seed={}", self.seed));
        }
        parts.join(",")
    }

    /// Sets one option by name.
    ///
    /// # Errors
    /// `Error::Options` naming the key or value that is not known.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let unknown = |expected: &str| Err(Error::Options(format!("{key}={value}: expected {expected}")));
        match key {
            "arch" => match Arch::named(value) {
                Some(arch) => self.arch = arch,
                None => return unknown(&format!("one of {}", Arch::names())),
            },
            "checks" => {
                self.checks = match value {
                    "all" => Checks::ALL,
                    "none" => Checks::NONE,
                    names => {
                        let mut checks = Checks::NONE;
                        for name in names.split('+') {
                            match name {
                                "memory" => checks.memory = true,
                                "uninitialised" => checks.uninitialised = true,
                                "races" => checks.races = true,
                                "global_races" => checks.global_races = true,
                                "barriers" => checks.barriers = true,
                                "async" => checks.async_copies = true,
                                "division" => checks.division = true,
                                _ => {
                                    return unknown(
                                        "all, none, or memory+uninitialised+races+global_races+barriers+async+division in part",
                                    );
                                }
                            }
                        }
                        checks
                    }
                };
            }
            "schedule" => match value {
                "fast" => self.schedule = Schedule::Fast,
                "random" => self.schedule = Schedule::Random,
                "priority" => self.schedule = Schedule::Priority,
                _ => return unknown("fast, random or priority"),
            },
            "async" => match value {
                "early" => self.async_timing = AsyncTiming::Early,
                "late" => self.async_timing = AsyncTiming::Late,
                "random" => self.async_timing = AsyncTiming::Random,
                "auto" => self.async_timing = AsyncTiming::Auto,
                _ => return unknown("auto, early, late or random"),
            },
            "tensor" => match value {
                "ideal" => self.tensor = Tensor::Ideal,
                "ampere" => self.tensor = Tensor::Ampere,
                "hopper" => self.tensor = Tensor::Hopper,
                _ => return unknown("ideal, ampere or hopper"),
            },
            "counters" => match value {
                "on" => self.counters = true,
                "off" => self.counters = false,
                _ => return unknown("on or off"),
            },
            "seed" | "depth" | "memory" | "threads" | "stack" | "findings" | "limit" => {
                let Ok(n) = value.parse::<u64>() else { return unknown("a number") };
                match key {
                    "seed" => self.seed = n,
                    "depth" => self.depth = n.clamp(1, 64) as u32,
                    "memory" => self.memory = n,
                    "threads" => self.threads = n as usize,
                    "stack" => self.stack_bytes = n.min(512 << 10) as u32,
                    "findings" => self.max_findings = n.max(1) as usize,
                    _ => self.instruction_limit = n.max(1),
                }
            }
            _ => {
                return Err(Error::Options(format!(
                    "unknown key `{key}`; known: arch, checks, schedule, async, tensor, counters, seed, depth, memory, threads, stack, findings, limit"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_configuration_string() {
        let o = Options::parse("arch=sm_80,checks=memory+races,schedule=random,seed=7").unwrap();
        assert!(o.checks.memory && o.checks.races && !o.checks.barriers);
        assert_eq!((o.schedule, o.seed), (Schedule::Random, 7));
        assert!(Options::parse("arch=sm_70").unwrap_err().to_string().contains("one of sm_80"));
        assert!(Options::parse("chekcs=all").unwrap_err().to_string().contains("unknown key `chekcs`"));
    }
}
