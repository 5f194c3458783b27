//! LOGIN (draft-murchison-sasl-login-00): the name, then the password, each when asked for.

use std::borrow::Cow;

use postroad_mail::replies;
use zeroize::Zeroizing;

use super::{
    Ask, ClientSide, Exchange, Mechanism, PasswordShown, Response, Secret, ServerSide, Step,
};

/// What the server waits for.
#[derive(Debug)]
pub(super) enum Server {
    Name,
    Password { user: String },
}

impl ServerSide for Server {
    fn opening(&self) -> Cow<'static, [u8]> {
        Cow::Borrowed(match self {
            Self::Name => b"Username:",
            Self::Password { .. } => b"Password:",
        })
    }

    fn respond(self: Box<Self>, response: &[u8]) -> Step {
        let text = match std::str::from_utf8(response) {
            Ok(text) if !text.is_empty() && !text.contains('\0') => text.to_owned(),
            _ => return Step::Refuse(replies::AUTH_BAD_RESPONSE),
        };
        match *self {
            Self::Name => {
                let next = Self::Password { user: text };
                let prompt = next.opening();
                Step::Challenge(Exchange(Box::new(next)), prompt)
            }
            Self::Password { user } => PasswordShown::ask(Ask::Password {
                mechanism: Mechanism::Login,
                authorization: None,
                user,
                secret: Secret::new(text),
            }),
        }
    }
}

/// What the client has still to say. The prompts are not read: servers word them as they like.
#[derive(Debug)]
pub(super) struct Client {
    user: Option<String>,
    secret: Option<Secret>,
}

impl Client {
    pub(super) fn new(user: &str, secret: &Secret) -> Self {
        Self {
            user: Some(user.to_owned()),
            secret: Some(secret.clone()),
        }
    }
}

impl ClientSide for Client {
    fn respond(&mut self, _: &[u8]) -> Option<Response> {
        if let Some(user) = self.user.take() {
            return Some(Zeroizing::new(user.into_bytes()));
        }
        let secret = self.secret.take()?;
        Some(Zeroizing::new(secret.expose().as_bytes().to_vec()))
    }
}
