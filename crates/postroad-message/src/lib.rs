//! The RFC 5322 surface of a message: its header block, the trace field, what a submission
//! server adds, and delivery status notifications. Pure: time is an argument.
//!
//! ```
//! use postroad_message::{HeadScanner, Scanned};
//!
//! let mut scanner = HeadScanner::new(1 << 16);
//! // In pieces, as they come from a socket:
//! assert!(matches!(scanner.push(b"Subject: x\r\nReceived: a\r\n"), Scanned::More));
//! let Scanned::End { body_at } = scanner.push(b"\r\nHello\r\n") else { panic!() };
//! assert_eq!(body_at, 2); // what follows in this piece is the body
//! assert_eq!(scanner.fields().received, 1);
//! assert!(!scanner.fields().has_date);
//! ```

mod dates;
pub mod downgrade;
pub mod dsn;
mod fixups;
pub mod fuzz;
mod head;
mod received;
mod text;

pub use dates::rfc5322_date;
pub use fixups::{fix_ups, return_path_header};
pub use head::{Fields, HeadScanner, Scanned};
pub use received::{Received, with_protocol};
