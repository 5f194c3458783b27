//! What delivery says of itself, where no hop has said it: the table of `postroad_mail::replies`
//! continued for what is not answered to a client, but kept as evidence and shown in notices.
//!
//! Where a row needs a name put in, its text is replaced and its codes stay.

use postroad_mail::{EnhancedCode, Reply};

const fn ok(code: u16, subject: u16, detail: u16, text: &'static str) -> Reply {
    Reply::row(code, EnhancedCode::success(subject, detail), text)
}

const fn later(code: u16, subject: u16, detail: u16, text: &'static str) -> Reply {
    Reply::row(code, EnhancedCode::transient(subject, detail), text)
}

const fn no(code: u16, subject: u16, detail: u16, text: &'static str) -> Reply {
    Reply::row(code, EnhancedCode::permanent(subject, detail), text)
}

/// A route throws away.
pub(crate) const DISCARDED: Reply = ok(250, 0, 0, "Discarded by a route");
/// In a Maildir.
pub(crate) const DELIVERED: Reply = ok(250, 1, 5, "Delivered to the mailbox");

/// A Maildir fails.
pub(crate) const MAILBOX_FAILED: Reply = later(451, 3, 0, "The mailbox cannot be written now");
/// The store fails.
pub(crate) const UNREADABLE: Reply =
    later(451, 3, 0, "The message cannot be read from the queue now");
/// A kind of route that is newer than this code.
pub(crate) const UNKNOWN_WAY: Reply =
    later(451, 3, 5, "The route leads where this version cannot go");
/// A route without hosts.
pub(crate) const NO_HOST: Reply = later(451, 3, 5, "The route of the recipient names no host");
/// Mail for `postmaster` of our own name, and nobody configured to get it.
pub(crate) const NO_POSTMASTER: Reply =
    later(451, 3, 5, "The postmaster's mailbox is not set up yet");
/// The router fails.
pub(crate) const NO_ROUTE: Reply =
    later(451, 4, 3, "The route of the recipient cannot be found now");
/// No connection: why stands in its place.
pub(crate) const UNCONNECTED: Reply = later(451, 4, 1, "The host cannot be reached");
/// A session ended too early: how, and where, stands in its place.
pub(crate) const BROKEN: Reply = later(451, 4, 2, "The session with the host has broken");
/// AUTH is configured and not offered: the host's name stands in its place.
pub(crate) const NO_AUTH: Reply = later(454, 7, 0, "The host offers no AUTH");
/// TLS is required and not offered: the host's name stands in its place.
pub(crate) const NO_STARTTLS: Reply = later(454, 7, 4, "The host offers no STARTTLS");
/// A handshake that failed: the host and why stand in its place.
pub(crate) const TLS_FAILED: Reply = later(454, 7, 5, "TLS with the host failed");

/// Without SIZE large enough: the host and its limit stand in its place.
pub(crate) const TOO_LARGE: Reply = no(552, 3, 4, "The message is larger than the host takes");
/// Without 8BITMIME: the host's name stands in its place.
pub(crate) const EIGHT_BIT: Reply = no(554, 6, 3, "The host does not take 8-bit octets");
/// Without BINARYMIME and CHUNKING: the host's name stands in its place.
pub(crate) const BINARY: Reply = no(554, 6, 3, "The host does not take binary messages");
/// Without REQUIRETLS (RFC 8689 section 5): the host's name stands in its place.
pub(crate) const REQUIRE_TLS: Reply = no(550, 7, 30, "The host does not have REQUIRETLS");
/// Without SMTPUTF8: the host's name stands in its place.
pub(crate) const UTF8: Reply = no(553, 6, 7, "The host does not have SMTPUTF8");

/// The status of a recipient who was deferred until its time was up; the last reply stays.
pub(crate) const EXPIRED: EnhancedCode = EnhancedCode::permanent(4, 7);
