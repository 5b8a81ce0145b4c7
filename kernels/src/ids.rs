//! Ids outside their tables: found by the kernel that looks them up, told when the host reads results.
//!
//! Nobody waits for a device to check ids. A kernel that meets one outside its table goes on with NaN, and leaves the id and its position
//! in device memory: one word for each site, that is, for an op with a table of some size. Whoever reads results reads these words too.

use crate::device::{Gpu, lock};
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::slice::{Arg, Slice};

/// Words of a report. The last one serves all sites that come after the others.
const SITES: usize = 64;
/// A word of a site that has nothing to report.
const NONE: u64 = u64::MAX;

/// Where ids are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    pub op: &'static str,
    /// The table's rows, or the vocabulary's size.
    pub limit: usize,
}

/// Bytes of a device's report.
pub const REPORT_BYTES: usize = 8 * SITES;

impl Gpu {
    /// The word of a site, for the kernel that reports there.
    pub(crate) fn id_word(&self, site: Site) -> Arg {
        let mut sites = lock(&self.sites);
        let index = sites.iter().position(|known| *known == site).unwrap_or_else(|| {
            if sites.len() < SITES - 1 {
                sites.push(site);
                sites.len() - 1
            } else {
                SITES - 1
            }
        });
        Arg::Pointer(self.id_report().address() + 8 * index as u64)
    }

    /// The report as it lies in device memory, to be copied with other results and given to [`Gpu::check_id_report`].
    pub fn id_report(&self) -> Slice<'_> {
        // SAFETY: the words live as long as the device.
        unsafe { Slice::new(self.id_words, REPORT_BYTES / 4, Elem::I32) }
    }

    /// Whether a report says that all ids were inside their tables.
    ///
    /// # Errors
    /// [`Error::Id`] for the first of them that was not.
    pub fn check_id_report(&self, report: &[u8]) -> Result<()> {
        let words =
            report.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or([0xff; 8])));
        match words.enumerate().find(|(_, word)| *word != NONE) {
            None => Ok(()),
            Some((index, word)) => {
                let site = lock(&self.sites).get(index).copied();
                Err(Error::Id { site, id: word as u32 as i32, position: (word >> 32) as usize })
            }
        }
    }

    /// Waits for the device; whether all ids since the last call were inside their tables.
    ///
    /// # Errors
    /// As [`Gpu::check_id_report`]; [`Error::Driver`] when a kernel failed.
    pub fn check_ids(&self) -> Result<()> {
        let mut report = [0; REPORT_BYTES];
        self.download(&mut report, self.id_report())?;
        let checked = self.check_id_report(&report);
        if checked.is_err() {
            self.clear_id_report()?;
        }
        checked
    }

    /// Forgets what was reported, in stream order.
    ///
    /// # Errors
    /// [`Error::Driver`] when the driver refuses.
    pub fn clear_id_report(&self) -> Result<()> {
        self.fill_words(self.id_words, u32::MAX, REPORT_BYTES / 4)
    }
}
