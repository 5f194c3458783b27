//! SASL exchanges (RFC 4422) as SMTP's AUTH carries them (RFC 4954).
//!
//! A mechanism is a row of [`Mechanism`] and a file with its two sides: what the server does with
//! each response, and what the client does with each challenge. The sessions know no more of it
//! than that, so that another one, of any number of steps, changes neither.

mod login;
mod plain;
#[cfg(test)]
pub(crate) mod steps;

use std::borrow::Cow;
use std::fmt;

pub use postroad_mail::Secret;
use postroad_mail::{Reply, replies};
use zeroize::Zeroizing;

/// A mechanism this crate can speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Mechanism {
    /// PLAIN (RFC 4616)
    Plain,
    /// LOGIN (draft-murchison-sasl-login), for old clients.
    Login,
    /// One of several steps, for tests of the sessions.
    #[cfg(test)]
    Steps,
}

impl Mechanism {
    /// Whether the exchange shows the password to whoever reads the line.
    #[must_use]
    pub const fn is_plaintext(self) -> bool {
        match self {
            Self::Plain | Self::Login => true,
            #[cfg(test)]
            Self::Steps => false,
        }
    }

    /// The registered name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            #[cfg(test)]
            Self::Steps => "X-STEPS",
        }
    }

    /// The mechanism of that name, in any case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [
            Self::Plain,
            Self::Login,
            #[cfg(test)]
            Self::Steps,
        ]
        .into_iter()
        .find(|m| m.name().eq_ignore_ascii_case(name))
    }

    fn server(self) -> Box<dyn ServerSide> {
        match self {
            Self::Plain => Box::new(plain::Server),
            Self::Login => Box::new(login::Server::Name),
            #[cfg(test)]
            Self::Steps => Box::new(steps::Server::Name),
        }
    }

    /// The client's side of an exchange with these credentials.
    pub(crate) fn client(self, user: &str, secret: &Secret) -> Box<dyn ClientSide> {
        match self {
            Self::Plain => Box::new(plain::Client::new(user, secret)),
            Self::Login => Box::new(login::Client::new(user, secret)),
            #[cfg(test)]
            Self::Steps => Box::new(steps::Client::new(user, secret)),
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The server's side of one exchange, between two of its steps.
///
/// Every mechanism is walked the same way: [`Exchange::start`], then [`Exchange::respond`] with
/// what the client sends, and [`Exchange::decided`] with what was found out for a [`Step::Ask`],
/// until a step accepts or refuses. Challenges and questions may come in any order and number.
#[derive(Debug)]
pub struct Exchange(Box<dyn ServerSide>);

/// What an exchange comes to next.
#[derive(Debug)]
#[non_exhaustive]
pub enum Step {
    /// Send this (not yet base64), and give the response to the exchange.
    Challenge(Exchange, Cow<'static, [u8]>),
    /// Get this decided, and give what was decided to the exchange.
    Ask(Exchange, Ask),
    /// The client is who it says.
    Accept(String),
    /// It is not, or it does not keep to the mechanism.
    Refuse(Reply),
}

/// What an exchange cannot know by itself.
#[derive(Debug)]
#[non_exhaustive]
pub enum Ask {
    /// Is this the user's password?
    Password {
        /// How it came.
        mechanism: Mechanism,
        /// The identity to act as, where another one than `user` was asked for.
        authorization: Option<String>,
        /// Who it says it is.
        user: String,
        /// The password.
        secret: Secret,
    },
}

/// What was found out.
#[derive(Debug)]
#[non_exhaustive]
pub enum Decision {
    /// The password is right, and this is whose it is.
    Identity(String),
    /// No, with the reply to give.
    Reject(Reply),
}

impl Exchange {
    /// Begins an exchange. `initial` is the initial response, decoded, where the client sent one.
    #[must_use]
    pub fn start(mechanism: Mechanism, initial: Option<&[u8]>) -> Step {
        let side = mechanism.server();
        match initial {
            Some(response) => side.respond(response),
            None => {
                let text = side.opening();
                Step::Challenge(Self(side), text)
            }
        }
    }

    /// Takes the client's response, decoded.
    #[must_use]
    pub fn respond(self, response: &[u8]) -> Step {
        self.0.respond(response)
    }

    /// Takes what was found out for [`Step::Ask`].
    #[must_use]
    pub fn decided(self, decision: Decision) -> Step {
        self.0.decided(decision)
    }
}

/// What a mechanism does at the server.
trait ServerSide: fmt::Debug + Send + Sync {
    /// The challenge to a client that has sent no initial response: nothing, where the mechanism
    /// has the client speak first (RFC 4954 section 4).
    fn opening(&self) -> Cow<'static, [u8]> {
        Cow::Borrowed(b"")
    }

    /// Takes a response.
    fn respond(self: Box<Self>, response: &[u8]) -> Step;

    /// Takes a decision; the default is for states that have asked for none.
    fn decided(self: Box<Self>, _: Decision) -> Step {
        Step::Refuse(replies::LOCAL_ERROR)
    }
}

/// Any mechanism that shows the password, once it has been shown.
#[derive(Debug)]
struct PasswordShown;

impl PasswordShown {
    fn ask(ask: Ask) -> Step {
        Step::Ask(Exchange(Box::new(Self)), ask)
    }
}

impl ServerSide for PasswordShown {
    fn respond(self: Box<Self>, _: &[u8]) -> Step {
        Step::Refuse(replies::AUTH_BAD_RESPONSE)
    }

    fn decided(self: Box<Self>, decision: Decision) -> Step {
        match decision {
            Decision::Identity(identity) => Step::Accept(identity),
            Decision::Reject(reply) => Step::Refuse(reply),
        }
    }
}

/// What a client sends: wiped when dropped, since it may hold the password.
pub(crate) type Response = Zeroizing<Vec<u8>>;

/// What a mechanism does at the client.
pub(crate) trait ClientSide: fmt::Debug + Send + Sync {
    /// What to say before any challenge, where the mechanism has the client speak first.
    fn initial(&mut self) -> Option<Response> {
        None
    }

    /// The response to a challenge, decoded; `None` gives the exchange up.
    fn respond(&mut self, challenge: &[u8]) -> Option<Response>;

    /// Whether the server may accept now. A mechanism in which the server proves itself as well
    /// says no until it has.
    fn may_be_accepted(&self) -> bool {
        true
    }
}
