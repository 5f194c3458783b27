//! SMTP without I/O, without a clock and without a runtime.
//!
//! Two machines, [`server::Session`] and [`client::Session`], take bytes and moments in time and
//! give bytes, questions and deadlines; a driver (such as the one in `postroad-net`) moves them.
//!
//! # The contract of the server's session
//! - Call [`poll`](server::Session::poll) with the input at hand until it says
//!   [`Wait`](server::Output::Wait) or [`Close`](server::Output::Close). It takes what it uses out
//!   of the input; at `Wait` at most [`server::INPUT_MAX`] octets are left, which must stay there.
//! - Everything that needs the world is a [`Question`](server::Question). One is open at a time,
//!   and while it is, only [`answer`](server::Session::answer) is called.
//! - An accepted `Question::Data` is followed by content, then by exactly one of
//!   `Question::Commit` and `Output::Abandon`. Only [`Answer::Queued`](server::Answer::Queued)
//!   makes the session say that a message has been taken.
//! - Replies gather in [`replies`](server::Session::replies), at most [`server::REPLIES_MAX`]
//!   octets. They are written out before the driver reads, pauses, starts TLS or closes.
//! - However the input is cut into pieces, replies, questions and content are the same; only
//!   what is thrown away at STARTTLS depends on what has come by then.
//! - No input makes a session panic, and none of its buffers grows with what a client sends.
//!
//! # The canonical loop
//! ```
//! use std::sync::Arc;
//! use std::time::Instant;
//!
//! use bytes::BytesMut;
//! use postroad_proto::Extensions;
//! use postroad_proto::server::{
//!     Answer, BareNewline, Config, Limits, Output, Peer, Question, Session, Verify,
//! };
//!
//! /// Serves a client that has written all it will write, and returns the replies.
//! fn serve(now: Instant, config: Config, written: &[u8]) -> String {
//!     let peer = Peer { address: [192, 0, 2, 1].into(), trusted: false, tls: None };
//!     let mut session = Session::new(now, Arc::new(config), peer);
//!     let (mut input, mut now) = (BytesMut::from(written), now);
//!     let (mut replies, mut message) = (BytesMut::new(), Vec::new());
//!     loop {
//!         match session.poll(now, &mut input) {
//!             Output::Ask(question) => {
//!                 let answer = match question {
//!                     // Here the message would be made durable.
//!                     Question::Commit => Answer::Queued(format!("{} octets", message.len())),
//!                     _ => Answer::Accept,
//!                 };
//!                 session.answer(now, answer);
//!             }
//!             Output::Body(piece) => message.extend_from_slice(&piece),
//!             Output::Abandon => message.clear(),
//!             Output::Pause { until } => now = until, // a driver writes the replies and sleeps
//!             Output::Wait { .. } => session.end_of_input(now), // a driver writes, then reads
//!             Output::StartTls | Output::Close => break, // a driver makes the handshake
//!         }
//!         replies.unsplit(session.replies().split());
//!     }
//!     replies.unsplit(session.replies().split());
//!     String::from_utf8_lossy(&replies).into_owned()
//! }
//!
//! let config = Config {
//!     hostname: "mx.example.org".parse()?,
//!     extensions: Extensions { pipelining: true, ..Extensions::default() },
//!     require_auth: false,
//!     require_tls: false,
//!     verify: Verify::None,
//!     bare_newline: BareNewline::Reject,
//!     reject_eight_bit_headers: false,
//!     limits: Limits::default(),
//! };
//! # #[allow(clippy::disallowed_methods)]
//! # fn now() -> Instant { Instant::now() }
//! let replies = serve(
//!     now(), // from the caller's clock
//!     config,
//!     b"HELO client\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nhi\r\n.\r\nQUIT\r\n",
//! );
//! assert_eq!(
//!     replies.lines().collect::<Vec<_>>(),
//!     [
//!         "220 mx.example.org ESMTP Postroad",
//!         "250 mx.example.org",
//!         "250 2.1.0 Sender OK",
//!         "250 2.1.5 Recipient OK",
//!         "354 Start mail input; end with <CRLF>.<CRLF>",
//!         "250 2.0.0 Queued as 4 octets",
//!         "221 2.0.0 Bye",
//!     ]
//! );
//! # Ok::<(), postroad_mail::PathError>(())
//! ```
//!
//! What each command does in each state is written out in `tests/snapshots/server_matrix.snap`,
//! and what a client sees in `tests/transcripts`.

mod bdat;
pub mod client;
pub mod command;
mod content;
mod data;
mod ehlo;
#[doc(hidden)]
pub mod fuzz;
mod grammar;
mod lines;
mod params;
pub mod sasl;
pub mod server;

pub use ehlo::Extensions;
