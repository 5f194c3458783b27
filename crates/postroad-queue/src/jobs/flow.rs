//! Whose mail a message is, as far as fairness goes.

use postroad_mail::{Envelope, Origin, ReversePath};

/// Whose mail a message is: that of the authenticated user, else of the reverse-path. The flows
/// of a lane take turns, so that one sender's million messages do not delay another's single one.
///
/// There are 255 of them and one for notices; whose mail is in which is told by a checksum of the
/// name, so that two senders in 255 share one, and its turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow(u8);

impl Flow {
    /// Bounces and other mail with a null reverse-path that no user has submitted. It never
    /// counts as deferred: whoever waits for a notice has waited long enough.
    pub const NOTICES: Self = Self(0);

    /// That of a message.
    #[must_use]
    pub fn of(envelope: &Envelope, origin: &Origin) -> Self {
        Self::named(origin.user.as_deref(), &envelope.from)
    }

    /// That of a user, where there is one, else of a reverse-path.
    #[must_use]
    pub fn named(user: Option<&str>, from: &ReversePath) -> Self {
        let sum = match (user, from) {
            (Some(user), _) => crc32c::crc32c(user.as_bytes()),
            (None, ReversePath::Null) => return Self::NOTICES,
            (None, ReversePath::Address(address)) => {
                let domain = crc32c::crc32c(address.domain().ascii().as_bytes());
                crc32c::crc32c_append(domain, address.local_part().as_str().as_bytes())
            }
        };
        Self(u8::try_from(sum % 255 + 1).unwrap_or(u8::MAX))
    }

    /// As a store writes it down.
    #[must_use]
    pub const fn to_bits(self) -> u8 {
        self.0
    }

    /// As a store has written it down.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_user_else_by_reverse_path() {
        let named = |user, from: &str| Flow::named(user, &from.parse().unwrap());
        assert_eq!(named(None, "<>"), Flow::NOTICES);
        assert_ne!(named(Some("a"), "<>"), Flow::NOTICES);
        assert_eq!(named(Some("a"), "<x@y>"), named(Some("a"), "<z@y>"));
        assert_eq!(named(None, "<x@y.Example>"), named(None, "<x@Y.example>"));
        assert_ne!(named(None, "<x@y>"), named(None, "<z@y>"));
        let flows: std::collections::HashSet<_> = (0..2000)
            .map(|n| named(None, &format!("<u{n}@sender.example>")))
            .collect();
        assert!(flows.len() > 240, "they are spread: {}", flows.len());
        assert!(!flows.contains(&Flow::NOTICES));
    }
}
