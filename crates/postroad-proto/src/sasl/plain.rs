//! PLAIN (RFC 4616): `[authzid] NUL authcid NUL passwd`.

use postroad_mail::replies;

use super::{Ask, Exchange, Mechanism, Secret, Step};

pub(super) fn respond(response: &[u8]) -> Step {
    parse(response).map_or(Step::Refuse(replies::AUTH_BAD_RESPONSE), |ask| {
        Step::Ask(Exchange::Password, ask)
    })
}

fn parse(response: &[u8]) -> Option<Ask> {
    let message = std::str::from_utf8(response).ok()?;
    let mut parts = message.split('\0');
    let (authorization, user, secret) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || user.is_empty() || secret.is_empty() {
        return None;
    }
    let other = !authorization.is_empty() && authorization != user;
    Some(Ask::Password {
        mechanism: Mechanism::Plain,
        authorization: other.then(|| authorization.to_owned()),
        user: user.to_owned(),
        secret: Secret::new(secret.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        for (message, want) in [
            ("\0u\0p", (None, "u", "p")),
            ("u\0u\0p", (None, "u", "p")),
            ("boss\0u\0p", (Some("boss"), "u", "p")),
            ("\0ü\0p ä", (None, "ü", "p ä")),
        ] {
            let Ask::Password {
                mechanism: _,
                authorization,
                user,
                secret,
            } = parse(message.as_bytes()).unwrap();
            assert_eq!(
                (authorization.as_deref(), user.as_str(), secret.expose()),
                want
            );
        }
        for bad in [
            &b""[..],
            b"\0",
            b"u\0p",
            b"\0\0p",
            b"\0u\0",
            b"\0u\0p\0",
            b"\0\xff\0p",
        ] {
            assert!(parse(bad).is_none(), "{bad:?}");
        }
    }
}
