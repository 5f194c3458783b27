//! The client's side of AUTH: base64 and lines around whatever the mechanism says.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postroad_mail::{Reply, Severity};
use zeroize::Zeroizing;

use super::{Credentials, SessionError};
use crate::params::COMMAND_LINE;
use crate::sasl::{ClientSide, Mechanism, Response};
use crate::server::AUTH_LINE_MAX;

/// A login under way.
pub(crate) struct Login {
    mechanism: Mechanism,
    side: Box<dyn ClientSide>,
    /// What the mechanism says first, where it did not go with the command.
    initial: Option<Response>,
    /// `*` has been sent: nothing but a refusal may follow.
    cancelled: bool,
}

/// Without what is to be said, which may be a password.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("mechanism", &self.mechanism)
            .finish_non_exhaustive()
    }
}

/// What follows a reply.
pub(crate) enum Next {
    Send(Zeroizing<String>),
    Done,
    Failed(SessionError),
}

impl Login {
    /// The first line to send.
    pub(crate) fn start(
        mechanism: Mechanism,
        credentials: &Credentials,
    ) -> (Self, Zeroizing<String>) {
        let mut side = mechanism.client(&credentials.user, &credentials.secret);
        let mut initial = side.initial();
        let mut line = Zeroizing::new(format!("AUTH {mechanism}\r\n"));
        if let Some(response) = initial.take() {
            // RFC 4954 section 4: "=" is an initial response of no octets.
            let text = match encode(&response) {
                text if text.is_empty() => Zeroizing::new("=".to_owned()),
                text => text,
            };
            let whole = Zeroizing::new(format!("AUTH {mechanism} {}\r\n", *text));
            // RFC 4954 section 4: an initial response must not make the line too long.
            if whole.len() <= COMMAND_LINE {
                line = whole;
            } else {
                initial = Some(response);
            }
        }
        let login = Self {
            mechanism,
            side,
            initial,
            cancelled: false,
        };
        (login, line)
    }

    pub(crate) fn reply(&mut self, reply: Reply) -> Next {
        match reply.severity() {
            Severity::Success if self.side.may_be_accepted() => Next::Done,
            Severity::Success => Next::Failed(SessionError::Protocol(
                "an acceptance before the server has proven itself",
            )),
            Severity::Continue if self.cancelled => {
                Next::Failed(SessionError::Protocol("a challenge after the exchange"))
            }
            Severity::Continue => Next::Send(self.respond(&reply.text)),
            Severity::Transient | Severity::Permanent => {
                let text = format!("({}) {}", self.mechanism, reply.text);
                Next::Failed(SessionError::Refused {
                    reply: reply.with_text(text),
                })
            }
        }
    }

    /// The line that answers a challenge, `*` where there is no answer to it.
    fn respond(&mut self, challenge: &str) -> Zeroizing<String> {
        // What stands behind 334 where nothing is asked varies between servers, and is not read.
        let response = match self.initial.take() {
            Some(initial) => Some(initial),
            None => STANDARD
                .decode(challenge.trim())
                .ok()
                .and_then(|challenge| self.side.respond(&challenge)),
        };
        let text = response.map(|response| encode(&response));
        if let Some(text) = text.filter(|text| text.len() <= AUTH_LINE_MAX) {
            return Zeroizing::new(format!("{}\r\n", *text));
        }
        self.cancelled = true;
        Zeroizing::new("*\r\n".to_owned())
    }
}

fn encode(response: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(response))
}
