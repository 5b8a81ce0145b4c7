//! The progress bar of long work, drawn on stderr when it is a terminal.

use std::sync::Mutex;
use std::time::Duration;

use handloom_model::data::Progress;
use indicatif::{ProgressBar, ProgressStyle};

/// Shows a [`Progress`] as a bar with bytes, rate and time left, and its notices as lines.
#[derive(Default)]
pub struct Bar {
    bar: Mutex<Option<ProgressBar>>,
}

impl Bar {
    fn with(&self, act: impl FnOnce(&mut Option<ProgressBar>)) {
        act(&mut self.bar.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    }
}

impl Progress for Bar {
    fn start(&self, what: &str, total_bytes: u64) {
        let style =
            ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left")
                .expect("bug in handloom: the progress bar's template parses");
        let bar = ProgressBar::new(total_bytes).with_style(style).with_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        self.with(|current| *current = Some(bar));
    }

    fn advance(&self, bytes: u64) {
        self.with(|current| {
            if let Some(bar) = current {
                bar.inc(bytes);
            }
        });
    }

    fn finish(&self) {
        self.with(|current| {
            if let Some(bar) = current.take() {
                bar.finish_and_clear();
            }
        });
    }

    fn notice(&self, message: &str) {
        self.with(|current| match current {
            Some(bar) => bar.suspend(|| eprintln!("note: {message}")),
            None => eprintln!("note: {message}"),
        });
    }
}
