//! LOGIN (draft-murchison-sasl-login-00): the name, then the password, each when asked for.

use postroad_mail::replies;

use super::{Ask, Exchange, Mechanism, Secret, Step};

/// What LOGIN waits for.
#[derive(Debug)]
pub enum Login {
    /// The name.
    Name,
    /// The password.
    Password {
        /// Whose.
        user: String,
    },
}

impl Login {
    pub(super) const fn prompt(&self) -> &'static [u8] {
        match self {
            Self::Name => b"Username:",
            Self::Password { .. } => b"Password:",
        }
    }

    pub(super) fn respond(self, response: &[u8]) -> Step {
        let text = match std::str::from_utf8(response) {
            Ok(text) if !text.is_empty() && !text.contains('\0') => text.to_owned(),
            _ => return Step::Refuse(replies::AUTH_BAD_RESPONSE),
        };
        match self {
            Self::Name => Exchange::Login(Self::Password { user: text }).challenge(),
            Self::Password { user } => Step::Ask(
                Exchange::Password,
                Ask::Password {
                    mechanism: Mechanism::Login,
                    authorization: None,
                    user,
                    secret: Secret::new(text),
                },
            ),
        }
    }
}
