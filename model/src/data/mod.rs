//! Training data: from files to blocks of token ids.
//!
//! ```text
//! Source (text, JSON lines, embedded, .bin shard)
//!   -> TokenStream   every document's ids, an end-of-text token before each document; memory-mapped
//!   -> Blocks        the stream cut into blocks of `data.block` ids, as their Layout says
//!   -> Order         which block row r of the run is
//! ```
//! Nothing here prints: progress and notices go to a [`Progress`].

mod cache;
mod config;
mod corpus;
mod error;
mod layout;
mod order;
mod shard;
mod source;
mod stream;
mod tokenise;

pub use cache::{default_cache_dir, write_atomic};
pub use config::DataConfig;
pub use error::DataError;
pub use layout::{Frame, Layout};
pub use order::Order;
pub use shard::{SHARD_MAGIC, SHARD_VERSION, Shard, write_shards};
pub use source::{Document, Source, Split};
pub use stream::{Blocks, TokenStream};

/// Who is told how far the work is, and what the user should know.
pub trait Progress: Sync {
    /// Work on `what` begins; `total_bytes` of text will be reported by [`Progress::advance`].
    fn start(&self, what: &str, total_bytes: u64);
    /// `bytes` more are done.
    fn advance(&self, bytes: u64);
    /// The work begun last is done.
    fn finish(&self);
    /// One sentence for the user: something that did not stop the work.
    fn notice(&self, message: &str);
}

/// A [`Progress`] that says nothing.
pub struct Quiet;

impl Progress for Quiet {
    fn start(&self, _what: &str, _total_bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
    fn finish(&self) {}
    fn notice(&self, _message: &str) {}
}
