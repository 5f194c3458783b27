//! Mail on its way from one queue to another: an export of a queue as a stream of octets, of any
//! length, that every store can write and read.
//!
//! The stream, version 1:
//!
//! ```text
//! postroad-queue 1
//! {"octets":1234,"message":{…}}       a line of JSON: a message as a listing shows it
//! …                                   its content, exactly as many octets, and a line feed
//! ok 89abcdef                         or `void 89abcdef`
//! …                                   and so on, for each message
//! end 2 89abcdef                      how many messages there were
//! ```
//!
//! Lines end in a line feed alone. The eight hexadecimal digits are the CRC32C of all octets of
//! the stream before their line. `void` ends a message whose content could not be read when it
//! was exported: what stands in its place is to be thrown away. A message counts only once its
//! `ok` is there and right, a stream only once its `end` is.
//!
//! The content is the octets of the message, header block and body, and nothing says where the
//! one ends. Whoever imports takes all up to the first empty line for the header block, where
//! that comes within [`HEAD_MAX`], and a message that ends within that without one as well; else
//! it keeps all as body. The octets are the same either way.
//!
//! A message that is held or under way at the export has no time in a listing at which it is due:
//! it is due at once where it is imported, or released there.
//!
//! Neither way is a queue, or a message, in memory at once.

mod export;
pub mod fuzz;
mod import;
mod reader;
mod skip;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::id::QueueId;
use crate::store::{Listed, StoreError};

pub use export::Export;
pub use import::{Import, ImportError, Imported};
pub use reader::{Damage, Part, Reader};
pub use skip::{Skip, SkipError};

/// The version of the stream that is written, and the only one that is read.
pub const VERSION: u32 = 1;
/// Octets of content in one piece of an export, at most.
pub const PIECE: usize = 256 << 10;
/// Octets of a line, at most: some ten thousand recipients with all that is known of each.
pub const LINE_MAX: usize = 64 << 20;
/// Octets of a header block that an import looks for the end of, at most.
pub const HEAD_MAX: usize = 1 << 20;
/// Messages that an import has being committed at once, at most, so that they share syncs.
pub const COMMITS_MAX: usize = 64;
/// Messages that an export asks the store for at once: each may have thousands of recipients.
pub const PAGE: usize = 16;

const MAGIC: &str = "postroad-queue";

/// The line before a message's content.
#[derive(Debug, Serialize, Deserialize)]
struct Line<M = Listed> {
    octets: u64,
    message: M,
}

/// Why mail cannot be exported or imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The store's fault.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stream is not what an export wrote.
    #[error(transparent)]
    Damage(#[from] Damage),
    /// What is known of a message makes a line that nobody would read.
    #[error(
        "message {id} has too many recipients to be exported: its line has {octets} octets, and at most {LINE_MAX} are read"
    )]
    Line {
        /// The message.
        id: QueueId,
        /// How many.
        octets: usize,
    },
    /// Reading the stream failed.
    #[error("reading the export: {0}")]
    Input(String),
}
