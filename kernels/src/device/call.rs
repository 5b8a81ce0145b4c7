//! Every call of the driver goes through here: its errors get names, and calls are counted.

use std::cell::RefCell;
use std::collections::BTreeMap;

use cudarc::driver::result::DriverError;

use crate::error::{Error, Result};

thread_local! {
    /// The driver's calls that this thread has made, by name. Names are few: a list is searched faster than a map.
    static CALLS: RefCell<Vec<(&'static str, u64)>> = const { RefCell::new(Vec::new()) };
}

/// Calls of the driver that this thread has made, by name. Copies between the host's pageable memory and a device, which the driver
/// stages and may wait for, are named apart from those of pinned memory.
pub fn driver_calls() -> BTreeMap<&'static str, u64> {
    CALLS.with_borrow(|calls| calls.iter().copied().collect())
}

fn count(call: &'static str) {
    CALLS.with_borrow_mut(|calls| match calls.iter_mut().find(|(name, _)| std::ptr::eq(*name, call)) {
        Some((_, times)) => *times += 1,
        None => match calls.iter_mut().find(|(name, _)| *name == call) {
            Some((_, times)) => *times += 1,
            None => calls.push((call, 1)),
        },
    });
}

/// Adds the call's name, and the driver's name and sentence for the code.
pub(super) trait Call<T> {
    fn call(self, call: &'static str) -> Result<T>;
}

impl<T> Call<T> for std::result::Result<T, DriverError> {
    fn call(self, call: &'static str) -> Result<T> {
        count(call);
        self.map_err(|error| {
            let text = |found: std::result::Result<&std::ffi::CStr, DriverError>| {
                found
                    .map_or_else(|_| format!("code {}", error.0 as u32), |s| s.to_string_lossy().into_owned())
            };
            Error::Driver { call, name: text(error.error_name()), text: text(error.error_string()) }
        })
    }
}
