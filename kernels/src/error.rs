//! What can go wrong between a launcher and the device; every message names the op or the driver's call.

use crate::ids::Site;

/// An error of this crate.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// There is no usable device; the reason is one sentence.
    #[error("CUDA is not available: {reason}")]
    Unavailable { reason: String },
    /// A size, dtype or limit that the kernel does not take.
    #[error("{op}: {message}")]
    Argument { op: &'static str, message: String },
    /// The driver refused a call, or a kernel failed before it.
    #[error("{call}: {name}: {text}")]
    Driver { call: &'static str, name: String, text: String },
    /// A kernel met an id outside its table. Without a site: one of many tables.
    #[error("{}", outside(*site, *id, *position))]
    Id { site: Option<Site>, id: i32, position: usize },
    /// The device has no room for a buffer. `asked` is what `owner` wanted, `largest` who holds the most.
    #[error(
        "out of device memory: {owner} asked for {}, {} of {} are free; live buffers hold {}{}, {} wait in free lists",
        bytes(.asked), bytes(.free), bytes(.total), bytes(.live), owners(.largest), bytes(.cached)
    )]
    OutOfMemory {
        owner: &'static str,
        asked: usize,
        free: usize,
        total: usize,
        live: usize,
        cached: usize,
        largest: Vec<(&'static str, usize)>,
    },
}

fn outside(site: Option<Site>, id: i32, position: usize) -> String {
    match site {
        Some(Site { op, limit }) if op == crate::cross_entropy::OP => {
            format!("{op}: target {id} in row {position} is outside the vocabulary of {limit}")
        }
        Some(Site { op, limit }) => {
            format!("{op}: id {id} at position {position} is outside the table of {limit} rows")
        }
        None => format!("id {id} at position {position} is outside its table"),
    }
}

/// "1.50 GiB"
fn bytes(bytes: &usize) -> String {
    match *bytes as f64 {
        b if b >= (1u64 << 30) as f64 => format!("{:.2} GiB", b / (1u64 << 30) as f64),
        b if b >= (1 << 20) as f64 => format!("{:.1} MiB", b / (1 << 20) as f64),
        b => format!("{b} B"),
    }
}

/// " (matmul 1.50 GiB, attention 3.2 MiB)", or nothing where nobody holds any.
fn owners(largest: &[(&'static str, usize)]) -> String {
    let each: Vec<String> = largest.iter().map(|(owner, held)| format!("{owner} {}", bytes(held))).collect();
    if each.is_empty() { String::new() } else { format!(" ({})", each.join(", ")) }
}

/// Shorthand used throughout the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An [`Error::Argument`].
    pub fn argument(op: &'static str, message: String) -> Self {
        Error::Argument { op, message }
    }
}
