//! The one table of replies: every reply that Postroad's server gives is a row here.
//!
//! Wording and codes are reviewed in this file; nowhere else is a reply typed as a string. Where
//! a row needs a name or number put in, [`Reply::with_text`] changes the text and keeps the codes.

use crate::reply::Reply;
use crate::status::EnhancedCode;

const fn ok(code: u16, subject: u16, detail: u16, text: &'static str) -> Reply {
    Reply::row(code, EnhancedCode::success(subject, detail), text)
}

const fn later(code: u16, subject: u16, detail: u16, text: &'static str) -> Reply {
    Reply::row(code, EnhancedCode::transient(subject, detail), text)
}

const fn no(code: u16, subject: u16, detail: u16, text: &'static str) -> Reply {
    Reply::row(code, EnhancedCode::permanent(subject, detail), text)
}

macro_rules! table {
    ($($(#[doc = $doc:literal])+ $name:ident = $row:expr;)+) => {
        $($(#[doc = $doc])+ pub const $name: Reply = $row;)+

        /// Every row with its name, for tests and documentation.
        pub const ALL: &[(&str, Reply)] = &[$((stringify!($name), $name)),+];
    };
}

table! {
    // Success.
    /// HELP.
    HELP = ok(214, 0, 0, "Commands: EHLO HELO MAIL RCPT DATA BDAT RSET VRFY EXPN NOOP HELP QUIT STARTTLS AUTH\nSee RFC 5321; for help with your mail, write to <postmaster>");
    /// QUIT.
    BYE = ok(221, 0, 0, "Bye");
    /// STARTTLS taken: the handshake follows.
    READY_FOR_TLS = ok(220, 0, 0, "Ready to start TLS");
    /// AUTH succeeded.
    AUTHENTICATED = ok(235, 7, 0, "Authentication successful");
    /// NOOP, and anything else that just worked.
    OK = ok(250, 0, 0, "OK");
    /// RSET.
    RESET = ok(250, 0, 0, "Reset");
    /// MAIL accepted.
    SENDER_OK = ok(250, 1, 0, "Sender OK");
    /// RCPT accepted.
    RECIPIENT_OK = ok(250, 1, 5, "Recipient OK");
    /// A BDAT chunk that is not the last.
    CHUNK_OK = ok(250, 0, 0, "Chunk received");
    /// End of data: the text is replaced by one that names the queue id.
    QUEUED = ok(250, 0, 0, "Queued");
    /// VRFY of a user whose mail goes on to another host: the address is put behind the text.
    WILL_FORWARD = ok(251, 1, 5, "User not local; will forward to");
    /// VRFY where real answers are not given.
    CANNOT_VERIFY = ok(252, 0, 0, "Cannot verify the user, but will take mail for it and try to deliver");

    /// The greeting: the text is replaced by one that begins with the host's name.
    GREETING = Reply::plain(220, "ESMTP Postroad");
    /// HELO: the text is replaced by the host's name.
    HELLO = Reply::plain(250, "Hello");

    // Intermediate.
    /// A challenge of AUTH: the text is replaced by it, in base64, and written uncut.
    CHALLENGE = Reply::plain(334, "");
    /// DATA.
    START_DATA = Reply::plain(354, "Start mail input; end with <CRLF>.<CRLF>");

    // Transient.
    /// The service stops.
    SHUTTING_DOWN = later(421, 3, 2, "Service shutting down, try again later");
    /// Nothing came for too long.
    IDLE = later(421, 4, 2, "Idle for too long, closing the connection");
    /// The session as a whole took too long.
    SESSION_TOO_LONG = later(421, 4, 2, "Session too long, closing the connection");
    /// No room for another connection.
    TOO_MANY_CONNECTIONS = later(421, 7, 0, "Too many connections, try again later");
    /// One error too many.
    TOO_MANY_ERRORS = later(421, 7, 0, "Too many errors, closing the connection");
    /// The message could not be stored for a reason of ours.
    LOCAL_ERROR = later(451, 3, 0, "Local error, try again later");
    /// The recipient or its domain could not be looked up now.
    LOOKUP_FAILED = later(451, 4, 3, "Temporary look-up failure, try again later");
    /// The disk under the queue is (nearly) full.
    QUEUE_FULL = later(452, 3, 1, "Insufficient system storage, try again later");
    /// One recipient too many for one transaction.
    TOO_MANY_RECIPIENTS = later(452, 5, 3, "Too many recipients, send the rest in another transaction");
    /// STARTTLS cannot be served now.
    TLS_UNAVAILABLE = later(454, 7, 0, "TLS not available for a temporary reason");
    /// The directory of users cannot be reached.
    AUTH_UNAVAILABLE = later(454, 7, 0, "Temporary authentication failure, try again later");

    // Permanent.
    /// Not a command we know.
    UNKNOWN_COMMAND = no(500, 5, 1, "Command not recognised");
    /// A command line longer than its limit.
    LINE_TOO_LONG = no(500, 5, 2, "Line too long");
    /// A command line ended by a bare LF, or with a bare CR in it.
    BARE_NEWLINE = no(500, 5, 2, "Lines must end with CRLF; bare CR and LF are not accepted");
    /// Octets that no command may hold.
    INVALID_OCTETS = no(500, 5, 2, "Commands must be ASCII, or UTF-8 with SMTPUTF8, without control characters");
    /// An AUTH response longer than its limit (RFC 4954 section 4).
    AUTH_LINE_TOO_LONG = no(500, 5, 6, "Authentication exchange line is too long");
    /// The arguments are wrong; the text is replaced by one that says how.
    BAD_ARGUMENTS = no(501, 5, 4, "Syntax error in parameters or arguments");
    /// A path without its brackets.
    BAD_PATH = no(501, 5, 2, "Syntax error: the address must be enclosed in < and >");
    /// The reverse-path is no address.
    BAD_SENDER = no(501, 1, 7, "Bad sender address syntax");
    /// The forward-path is no address.
    BAD_RECIPIENT = no(501, 1, 3, "Bad recipient address syntax");
    /// HELO or EHLO without a usable name.
    BAD_HELLO = no(501, 5, 4, "HELO and EHLO need the name of your host");
    /// `*` in an AUTH exchange.
    AUTH_CANCELLED = no(501, 7, 0, "Authentication cancelled");
    /// An AUTH response that is not base64.
    AUTH_BAD_BASE64 = no(501, 5, 2, "Cannot decode the response: not base64");
    /// An AUTH response that its mechanism does not allow.
    AUTH_BAD_RESPONSE = no(501, 5, 2, "The response is not valid for this mechanism");
    /// A command that exists, and that this server does not have.
    NOT_IMPLEMENTED = no(502, 5, 1, "Command not implemented");
    /// Right command, wrong time.
    BAD_SEQUENCE = no(503, 5, 1, "Bad sequence of commands");
    /// MAIL before HELO or EHLO.
    HELLO_FIRST = no(503, 5, 1, "Send HELO or EHLO first");
    /// RCPT, DATA or BDAT before MAIL.
    MAIL_FIRST = no(503, 5, 1, "Send MAIL first");
    /// DATA or BDAT before RCPT.
    RCPT_FIRST = no(503, 5, 1, "Send RCPT first");
    /// MAIL within a transaction.
    NESTED_MAIL = no(503, 5, 1, "Sender already given");
    /// STARTTLS under TLS.
    TLS_ALREADY = no(503, 5, 1, "TLS is already active");
    /// AUTH after AUTH.
    AUTH_ALREADY = no(503, 5, 1, "Already authenticated");
    /// DATA after BDAT, DATA with BINARYMIME.
    CHUNKING_SEQUENCE = no(503, 5, 1, "DATA and BDAT do not mix, and BINARYMIME needs BDAT");
    /// Anything more of a transaction after a failed chunk.
    CHUNK_FAILED = no(503, 5, 1, "A chunk of this message has failed; send RSET");
    /// An AUTH mechanism that is not offered.
    UNKNOWN_MECHANISM = no(504, 5, 4, "Authentication mechanism not supported");
    /// Submission before AUTH.
    AUTH_REQUIRED = no(530, 7, 0, "Authentication required");
    /// A service that takes nothing outside TLS.
    TLS_REQUIRED = no(530, 7, 0, "Send STARTTLS first");
    /// Wrong user or password.
    AUTH_FAILED = no(535, 7, 8, "Authentication credentials invalid");
    /// A mechanism that shows the password, outside TLS.
    ENCRYPTION_REQUIRED = no(538, 7, 11, "Encryption required for this authentication mechanism; send STARTTLS first");
    /// No such mailbox.
    UNKNOWN_RECIPIENT = no(550, 1, 1, "No such recipient here");
    /// The client may not send to this domain.
    RELAY_DENIED = no(550, 7, 1, "Relaying denied: we take mail for our own domains only");
    /// VRFY of a user who is at another host, which the client is to ask: a role puts the address
    /// behind the text.
    NOT_LOCAL = no(551, 1, 6, "User not local; please try");
    /// The login may not use this reverse-path.
    SENDER_NOT_OWNED = no(553, 7, 1, "This sender address does not belong to the authenticated user");
    /// VRFY or EXPN of something that is not one mailbox.
    AMBIGUOUS = no(553, 1, 4, "User ambiguous");
    /// SIZE=, DATA or BDAT over the limit.
    MESSAGE_TOO_BIG = no(552, 3, 4, "Message size exceeds the limit");
    /// A non-ASCII address without SMTPUTF8 (RFC 6531 section 3.5).
    NEEDS_SMTPUTF8 = no(553, 6, 7, "Non-ASCII addresses need the SMTPUTF8 parameter");
    /// The client sent before it was greeted.
    EARLY_TALKER = no(554, 5, 0, "Wait for the greeting before you send");
    /// The connection itself is refused.
    CONNECTION_REFUSED = no(554, 7, 1, "Connection refused by policy");
    /// Refused by policy.
    REFUSED = no(554, 7, 1, "Refused by policy");
    /// The domain does not exist (RFC 3463: bad destination system address).
    NO_SUCH_DOMAIN = no(550, 1, 2, "The domain does not exist");
    /// The domain exists, and no host that would take its mail has an address.
    NO_MAIL_HOST = no(550, 4, 4, "No host that takes mail for the domain has an address");
    /// The best host for the domain is this one, which does not take its mail.
    MX_LOOP = no(550, 4, 6, "The mail exchangers of the domain lead back to this host");
    /// Whether the recipient is an alias, and of whom, cannot be found out now.
    ALIAS_UNAVAILABLE = later(451, 4, 3, "What this address stands for cannot be looked up now, try again later");
    /// An alias table says something that makes no sense.
    ALIAS_UNUSABLE = later(451, 3, 5, "What this address stands for is not configured well, try again later");
    /// An alias leads back to itself.
    ALIAS_LOOP = no(550, 4, 6, "The address stands for itself, through others");
    /// An alias stands for more than a message may have recipients.
    ALIAS_TOO_LARGE = no(550, 5, 3, "The address stands for too many others");
    /// The domain takes no mail (RFC 7505).
    NULL_MX = no(556, 1, 10, "The domain takes no mail (null MX)");
    /// DATA where all recipients were refused.
    NO_VALID_RECIPIENTS = no(554, 5, 1, "No valid recipients");
    /// A bare CR or LF in the message.
    BARE_NEWLINE_IN_DATA = no(554, 6, 0, "The message holds a bare CR or LF; lines must end with CRLF");
    /// A NUL in the message.
    NUL_IN_DATA = no(554, 6, 0, "The message holds a NUL character");
    /// An octet outside ASCII in the header, where that is refused.
    EIGHT_BIT_HEADER = no(554, 6, 0, "The header of the message holds 8-bit characters, and SMTPUTF8 was not given");
    /// The header is larger than we take.
    HEADER_TOO_BIG = no(554, 6, 0, "The header of the message is too large");
    /// Mail loop.
    TOO_MANY_HOPS = no(554, 4, 6, "Too many hops: the message has been going around in a loop");
    /// A MAIL or RCPT parameter that we do not know.
    UNKNOWN_PARAMETER = no(555, 5, 4, "Parameter not recognised or not implemented");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_fits_and_is_printable() {
        for (name, reply) in ALL {
            let mut out = Vec::new();
            reply.write_to(&mut out);
            for line in out.split_inclusive(|&b| b == b'\n') {
                assert!(line.len() <= 512, "{name}");
                assert!(
                    line[..line.len() - 2]
                        .iter()
                        .all(|b| (b' '..=b'~').contains(b)),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn names_are_unique_and_the_codes_are_those_of_the_behaviour_table() {
        let of = |name: &str| {
            let rows: Vec<_> = ALL.iter().filter(|(n, _)| *n == name).collect();
            assert_eq!(rows.len(), 1, "{name}");
            let reply = &rows[0].1;
            format!("{} {}", reply.code, reply.enhanced.unwrap())
        };
        for (name, codes) in [
            ("LINE_TOO_LONG", "500 5.5.2"),
            ("AUTH_LINE_TOO_LONG", "500 5.5.6"),
            ("BARE_NEWLINE", "500 5.5.2"),
            ("BARE_NEWLINE_IN_DATA", "554 5.6.0"),
            ("NUL_IN_DATA", "554 5.6.0"),
            ("EARLY_TALKER", "554 5.5.0"),
            ("TLS_UNAVAILABLE", "454 4.7.0"),
            ("ENCRYPTION_REQUIRED", "538 5.7.11"),
            ("AUTH_REQUIRED", "530 5.7.0"),
            ("UNKNOWN_COMMAND", "500 5.5.1"),
            ("BAD_SEQUENCE", "503 5.5.1"),
            ("BAD_ARGUMENTS", "501 5.5.4"),
            ("UNKNOWN_PARAMETER", "555 5.5.4"),
            ("UNKNOWN_MECHANISM", "504 5.5.4"),
            ("CANNOT_VERIFY", "252 2.0.0"),
            ("NOT_IMPLEMENTED", "502 5.5.1"),
            ("TOO_MANY_ERRORS", "421 4.7.0"),
            ("TOO_MANY_HOPS", "554 5.4.6"),
            ("BAD_PATH", "501 5.5.2"),
            ("RELAY_DENIED", "550 5.7.1"),
            ("UNKNOWN_RECIPIENT", "550 5.1.1"),
            ("MESSAGE_TOO_BIG", "552 5.3.4"),
            ("TOO_MANY_RECIPIENTS", "452 4.5.3"),
            ("NO_VALID_RECIPIENTS", "554 5.5.1"),
            ("AUTHENTICATED", "235 2.7.0"),
            ("AUTH_FAILED", "535 5.7.8"),
            ("AUTH_UNAVAILABLE", "454 4.7.0"),
            ("AUTH_CANCELLED", "501 5.7.0"),
            ("AUTH_BAD_BASE64", "501 5.5.2"),
            ("NEEDS_SMTPUTF8", "553 5.6.7"),
            ("SHUTTING_DOWN", "421 4.3.2"),
            ("IDLE", "421 4.4.2"),
            ("TOO_MANY_CONNECTIONS", "421 4.7.0"),
            ("QUEUE_FULL", "452 4.3.1"),
            ("LOCAL_ERROR", "451 4.3.0"),
        ] {
            assert_eq!(of(name), codes, "{name}");
        }
    }
}
