//! SASL exchanges (RFC 4422) as SMTP's AUTH carries them (RFC 4954).

mod login;
mod plain;

use std::fmt;

use postroad_mail::{Reply, replies};
use zeroize::Zeroizing;

use login::Login;

/// A mechanism this crate can speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Mechanism {
    /// PLAIN (RFC 4616)
    Plain,
    /// LOGIN (draft-murchison-sasl-login), for old clients.
    Login,
}

impl Mechanism {
    /// Whether the exchange shows the password to whoever reads the line.
    #[must_use]
    pub const fn is_plaintext(self) -> bool {
        match self {
            Self::Plain | Self::Login => true,
        }
    }

    /// The registered name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
        }
    }

    /// The mechanism of that name, in any case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Plain, Self::Login]
            .into_iter()
            .find(|m| m.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The server's side of one exchange: what it waits for next.
///
/// Every mechanism is walked the same way: [`Exchange::start`], then [`Exchange::respond`] with
/// what the client sends, and [`Exchange::decided`] with what was found out for an
/// [`Step::Ask`], until a step accepts or refuses. One with several challenges, or one that asks
/// for keys between them, needs no other way.
#[derive(Debug)]
pub enum Exchange {
    /// PLAIN, before the client's one response.
    Plain,
    /// LOGIN, before the name or the password.
    Login(Login),
    /// Any mechanism that shows the password, once it has been shown.
    Password,
}

/// What an exchange comes to next.
#[derive(Debug)]
pub enum Step {
    /// Send this (not yet base64), and give the response to the exchange.
    Challenge(Exchange, &'static [u8]),
    /// Get this decided, and give what was decided to the exchange.
    Ask(Exchange, Ask),
    /// The client is who it says.
    Accept(String),
    /// It is not, or it does not keep to the mechanism.
    Refuse(Reply),
}

/// What an exchange cannot know by itself.
#[derive(Debug)]
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
        let exchange = match mechanism {
            Mechanism::Plain => Self::Plain,
            Mechanism::Login => Self::Login(Login::Name),
        };
        match initial {
            Some(response) => exchange.respond(response),
            None => exchange.challenge(),
        }
    }

    /// Takes the client's response, decoded.
    #[must_use]
    pub fn respond(self, response: &[u8]) -> Step {
        match self {
            Self::Plain => plain::respond(response),
            Self::Login(login) => login.respond(response),
            Self::Password => Step::Refuse(replies::AUTH_BAD_RESPONSE),
        }
    }

    /// Takes what was found out for [`Step::Ask`].
    #[must_use]
    pub fn decided(self, decision: Decision) -> Step {
        match (self, decision) {
            (Self::Password, Decision::Identity(identity)) => Step::Accept(identity),
            (_, Decision::Reject(reply)) => Step::Refuse(reply),
            (Self::Plain | Self::Login(_), Decision::Identity(_)) => {
                Step::Refuse(replies::LOCAL_ERROR)
            }
        }
    }

    fn challenge(self) -> Step {
        let text: &[u8] = match &self {
            Self::Login(login) => login.prompt(),
            Self::Plain | Self::Password => b"",
        };
        Step::Challenge(self, text)
    }
}

/// A password: wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the password in.
    #[must_use]
    pub fn new(secret: String) -> Self {
        Self(Zeroizing::new(secret))
    }

    /// The password itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
