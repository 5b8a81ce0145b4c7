//! Where the time of a step goes: exclusive wall time per op and pass.
//!
//! Ops open a [`scope`]; the tape opens one around each backward. A scope's time excludes the scopes inside it, so the rows of
//! a report add up to what was measured. Off by default, and then one relaxed load per op.
//!
//! A scope also names who allocates device memory inside it, for out-of-memory errors; that is always on.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use handloom_kernels::arena::set_owner;

/// Forward, backward, or neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pass {
    Forward,
    Backward,
    Other,
}

/// Time of one op in one pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entry {
    pub calls: u64,
    pub time: Duration,
}

#[derive(Default)]
struct Recorder {
    /// Start of each open scope, and the time of the scopes inside it.
    open: Vec<(Instant, Duration)>,
    entries: BTreeMap<(&'static str, Pass), Entry>,
}

static ENABLED: AtomicBool = AtomicBool::new(false);

thread_local! {
    static RECORDER: RefCell<Recorder> = RefCell::new(Recorder::default());
}

/// Starts recording, for scopes of the threads that open them.
pub fn enable() {
    ENABLED.store(true, Ordering::Relaxed);
}

/// Stops recording.
pub fn disable() {
    ENABLED.store(false, Ordering::Relaxed);
}

/// What this thread has recorded since the last call, by op and pass.
pub fn take() -> BTreeMap<(&'static str, Pass), Entry> {
    RECORDER.with_borrow_mut(|recorder| std::mem::take(&mut recorder.entries))
}

/// An open scope; ends when dropped.
pub struct Scope {
    /// None when nothing is recorded.
    key: Option<(&'static str, Pass)>,
    outer_owner: &'static str,
}

/// Opens a scope.
pub fn scope(op: &'static str, pass: Pass) -> Scope {
    let outer_owner = set_owner(op);
    if !ENABLED.load(Ordering::Relaxed) {
        return Scope { key: None, outer_owner };
    }
    RECORDER.with_borrow_mut(|recorder| recorder.open.push((Instant::now(), Duration::ZERO)));
    Scope { key: Some((op, pass)), outer_owner }
}

impl Drop for Scope {
    fn drop(&mut self) {
        set_owner(self.outer_owner);
        let Some(key) = self.key else { return };
        RECORDER.with_borrow_mut(|recorder| {
            let Some((started, inner)) = recorder.open.pop() else { return };
            let whole = started.elapsed();
            let entry = recorder.entries.entry(key).or_default();
            entry.calls += 1;
            entry.time += whole.saturating_sub(inner);
            if let Some((_, outer)) = recorder.open.last_mut() {
                *outer += whole;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_scopes_are_exclusive_and_add_up() {
        enable();
        let started = Instant::now();
        {
            let _outer = scope("outer", Pass::Forward);
            std::thread::sleep(Duration::from_millis(5));
            let _inner = scope("inner", Pass::Forward);
            std::thread::sleep(Duration::from_millis(20));
        }
        let whole = started.elapsed();
        disable();
        let entries = take();
        let time = |op| entries[&(op, Pass::Forward)].time;
        assert!(time("inner") >= Duration::from_millis(20));
        assert!(time("outer") >= Duration::from_millis(5) && time("outer") < time("inner"));
        assert!(time("outer") + time("inner") <= whole);
    }
}
