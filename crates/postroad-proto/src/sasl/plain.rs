//! PLAIN (RFC 4616): `[authzid] NUL authcid NUL passwd`.

use postroad_mail::replies;
use zeroize::Zeroizing;

use super::{Ask, ClientSide, Mechanism, PasswordShown, Response, Secret, ServerSide, Step};

/// The server, before the client's one response.
#[derive(Debug)]
pub(super) struct Server;

impl ServerSide for Server {
    fn respond(self: Box<Self>, response: &[u8]) -> Step {
        parse(response).map_or(Step::Refuse(replies::AUTH_BAD_RESPONSE), PasswordShown::ask)
    }
}

/// The client, with its one message until that is sent.
#[derive(Debug)]
pub(super) struct Client(Option<Secret>);

impl Client {
    pub(super) fn new(user: &str, secret: &Secret) -> Self {
        let message = format!("\0{user}\0{}", secret.expose());
        Self(Some(Secret::new(message)))
    }
}

impl ClientSide for Client {
    fn initial(&mut self) -> Option<Response> {
        let message = self.0.take()?;
        Some(Zeroizing::new(message.expose().as_bytes().to_vec()))
    }

    fn respond(&mut self, _: &[u8]) -> Option<Response> {
        self.initial()
    }
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
