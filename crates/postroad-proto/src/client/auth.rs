use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postroad_mail::{Reply, Severity};

use super::Credentials;
use crate::sasl::Mechanism;

/// A login under way.
#[derive(Debug)]
pub(crate) struct Login {
    mechanism: Mechanism,
    /// Responses still to be sent, the last one first.
    responses: Vec<String>,
}

/// What follows a reply.
pub(crate) enum Next {
    Send(String),
    Done,
    Refused(Reply),
}

impl Login {
    /// The first line to send.
    pub(crate) fn start(mechanism: Mechanism, credentials: &Credentials) -> (Self, String) {
        let (user, secret) = (&credentials.user, credentials.secret.expose());
        match mechanism {
            Mechanism::Plain => {
                let response = STANDARD.encode(format!("\0{user}\0{secret}"));
                (
                    Self {
                        mechanism,
                        responses: Vec::new(),
                    },
                    format!("AUTH PLAIN {response}\r\n"),
                )
            }
            Mechanism::Login => {
                let responses = vec![STANDARD.encode(secret), STANDARD.encode(user)];
                (
                    Self {
                        mechanism,
                        responses,
                    },
                    "AUTH LOGIN\r\n".to_owned(),
                )
            }
        }
    }

    pub(crate) fn reply(&mut self, reply: Reply) -> Next {
        match reply.severity() {
            Severity::Success => Next::Done,
            Severity::Continue => match self.responses.pop() {
                Some(response) => Next::Send(format!("{response}\r\n")),
                // The server asks for more than the mechanism has.
                None => Next::Send("*\r\n".to_owned()),
            },
            Severity::Transient | Severity::Permanent => {
                let text = format!("({}) {}", self.mechanism, reply.text);
                Next::Refused(reply.with_text(text))
            }
        }
    }
}
