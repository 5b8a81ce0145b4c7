//! Events: points in the order of a device's stream.

use crate::device::{Gpu, RawEvent};
use crate::error::Result;

/// A point in the stream's order, once recorded.
pub struct Event {
    gpu: &'static Gpu,
    raw: RawEvent,
}

impl Gpu {
    /// An event that is not recorded yet: waiting for it returns at once.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::error::Error::Driver) when the driver refuses, as in all of this file.
    pub fn event(&'static self) -> Result<Event> {
        Ok(Event { gpu: self, raw: self.event_create()? })
    }
}

impl Event {
    /// Puts the event after everything enqueued so far.
    ///
    /// # Errors
    /// As [`Gpu::event`].
    pub fn record(&self) -> Result<()> {
        self.gpu.event_record(self.raw)
    }

    /// Waits until everything before it is done.
    ///
    /// # Errors
    /// As [`Gpu::event`], and when a kernel before it failed.
    pub fn wait(&self) -> Result<()> {
        self.gpu.event_wait(self.raw)
    }

    /// Milliseconds of device time from `start` to this event, both waited for.
    ///
    /// # Errors
    /// As [`Gpu::event`].
    pub fn ms_since(&self, start: &Event) -> Result<f32> {
        self.gpu.event_elapsed_ms(start.raw, self.raw)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // An error here could only say that the device is lost, which the next call says too.
        let _ = self.gpu.event_destroy(self.raw);
    }
}
