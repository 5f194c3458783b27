//! A mechanism for tests: of several steps, with long challenges made as it goes, a question in
//! the middle, and a server that proves itself, as those will have that hide the password. What
//! the proofs are made of is of no account here.
//!
//! ```text
//! client: name
//! server: 1,000 octets made from the name (asked for in between: a key for it)
//! client: proof of the challenge
//! server: proof, then an empty response
//! ```

use std::borrow::Cow;

use postroad_mail::replies;
use zeroize::Zeroizing;

use super::{Ask, ClientSide, Decision, Exchange, Mechanism, Response, Secret, ServerSide, Step};

/// Octets of the challenge.
pub(crate) const CHALLENGE: usize = 1000;

/// The challenge for a key; every octet of it counts.
pub(crate) fn challenge(key: &str) -> Vec<u8> {
    key.bytes()
        .cycle()
        .take(CHALLENGE)
        .enumerate()
        .map(|(n, b)| b ^ (n % 251) as u8)
        .collect()
}

/// What only who has read all of the challenge, and knows the secret, can say.
pub(crate) fn proof(challenge: &[u8], secret: &str) -> Vec<u8> {
    let sum = challenge
        .iter()
        .fold(7_u64, |sum, &b| sum.wrapping_mul(31).wrapping_add(b.into()));
    format!("{sum}{secret}").into_bytes()
}

#[derive(Debug)]
pub(crate) enum Server {
    Name,
    Key { user: String },
    Proof { user: String, challenge: Vec<u8> },
    Done { user: String },
}

/// The one secret there is.
pub(crate) const SECRET: &str = "s3cret";

impl ServerSide for Server {
    fn respond(self: Box<Self>, response: &[u8]) -> Step {
        match *self {
            Self::Name => {
                let user = String::from_utf8_lossy(response).into_owned();
                let ask = Ask::Password {
                    mechanism: Mechanism::Steps,
                    authorization: None,
                    user: user.clone(),
                    secret: Secret::new(String::new()),
                };
                Step::Ask(Exchange(Box::new(Self::Key { user })), ask)
            }
            Self::Proof { user, challenge } if response == proof(&challenge, SECRET) => {
                let own = proof(&challenge, "server");
                Step::Challenge(Exchange(Box::new(Self::Done { user })), Cow::Owned(own))
            }
            Self::Done { user } if response.is_empty() => Step::Accept(user),
            Self::Proof { .. } | Self::Done { .. } | Self::Key { .. } => {
                Step::Refuse(replies::AUTH_FAILED)
            }
        }
    }

    fn decided(self: Box<Self>, decision: Decision) -> Step {
        match (*self, decision) {
            (Self::Key { user }, Decision::Identity(key)) => {
                let challenge = challenge(&key);
                let text = Cow::Owned(challenge.clone());
                Step::Challenge(Exchange(Box::new(Self::Proof { user, challenge })), text)
            }
            (_, Decision::Reject(reply)) => Step::Refuse(reply),
            (_, Decision::Identity(_)) => Step::Refuse(replies::LOCAL_ERROR),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Client {
    user: Option<String>,
    secret: Secret,
    challenge: Option<Vec<u8>>,
    proven: bool,
}

impl Client {
    pub(crate) fn new(user: &str, secret: &Secret) -> Self {
        Self {
            user: Some(user.to_owned()),
            secret: secret.clone(),
            challenge: None,
            proven: false,
        }
    }
}

impl ClientSide for Client {
    fn initial(&mut self) -> Option<Response> {
        self.user
            .take()
            .map(|user| Zeroizing::new(user.into_bytes()))
    }

    fn respond(&mut self, challenge: &[u8]) -> Option<Response> {
        if let Some(user) = self.initial() {
            return Some(user);
        }
        if let Some(first) = &self.challenge {
            self.proven = challenge == proof(first, "server");
            return self.proven.then(Zeroizing::default);
        }
        self.challenge = Some(challenge.to_vec());
        Some(Zeroizing::new(proof(challenge, self.secret.expose())))
    }

    fn may_be_accepted(&self) -> bool {
        self.proven
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "any moment will do: the sessions never look at a clock"
)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use bytes::BytesMut;

    use super::*;
    use crate::client::{self, Credentials, StartTls, Timeouts};
    use crate::server::{self, Answer, Output, Question};

    fn server(now: Instant) -> server::Session {
        let mut config = server::Config::new("mx.example".parse().unwrap());
        config.extensions.auth = vec![Mechanism::Steps];
        let peer = server::Peer {
            address: [192, 0, 2, 1].into(),
            trusted: false,
            tls: None,
        };
        server::Session::new(now, Arc::new(config), peer)
    }

    fn client(now: Instant, secret: &str) -> client::Session {
        let config = client::Config {
            protocol: postroad_mail::Protocol::Smtp,
            helo: "me.example".to_owned(),
            starttls: StartTls::Never,
            credentials: Some(Credentials {
                user: "alice".to_owned(),
                secret: Secret::new(secret.to_owned()),
                mechanisms: vec![Mechanism::Steps],
            }),
            timeouts: Timeouts::default(),
        };
        client::Session::new(now, Arc::new(config), None)
    }

    /// Gives the server octets, and takes its replies; the key for alice is `key`.
    fn serve(now: Instant, session: &mut server::Session, said: &[u8]) -> String {
        let mut input = BytesMut::from(said);
        loop {
            match session.poll(now, &mut input) {
                Output::Ask(Question::Password { user, .. }) if user == "alice" => {
                    session.answer(now, Answer::Identity("key".to_owned()));
                }
                Output::Ask(Question::Password { .. }) => {
                    session.answer(now, Answer::Reject(replies::AUTH_FAILED));
                }
                Output::Ask(_) => session.answer(now, Answer::Accept),
                Output::Wait { .. } | Output::Close => break,
                other => panic!("{other:?}"),
            }
        }
        String::from_utf8(session.replies().split().to_vec()).unwrap()
    }

    #[test]
    fn the_server_walks_through_all_steps() {
        let now = Instant::now();
        let mut session = server(now);
        let challenge = challenge("key");
        let line = |octets: &[u8]| format!("{}\r\n", STANDARD.encode(octets));
        assert!(serve(now, &mut session, b"EHLO c\r\n").contains("AUTH X-STEPS\r\n"));
        assert_eq!(serve(now, &mut session, b"AUTH X-STEPS\r\n"), "334 \r\n");
        // 1,000 octets are 1,336 of base64: all of them, on one line.
        let reply = serve(now, &mut session, line(b"alice").as_bytes());
        assert_eq!(reply, format!("334 {}", line(&challenge)));
        assert_eq!(reply.len(), "334 ".len() + 1336 + 2);
        let reply = serve(
            now,
            &mut session,
            line(&proof(&challenge, SECRET)).as_bytes(),
        );
        assert_eq!(reply, format!("334 {}", line(&proof(&challenge, "server"))));
        let reply = serve(now, &mut session, b"\r\n");
        assert!(reply.starts_with("235 2.7.0 "), "{reply}");
        assert_eq!(session.info().identity.as_deref(), Some("alice"));
    }

    #[test]
    fn the_server_refuses_at_any_step() {
        let line = |octets: &[u8]| format!("{}\r\n", STANDARD.encode(octets));
        for (responses, want) in [
            (vec![line(b"bob")], "535 5.7.8 "),
            (vec![line(b"alice"), line(b"wrong")], "535 5.7.8 "),
            (vec![line(b"alice"), "*\r\n".to_owned()], "501 5.7.0 "),
            (vec![line(b"alice"), "?\r\n".to_owned()], "501 5.5.2 "),
        ] {
            let now = Instant::now();
            let mut session = server(now);
            let said = format!("EHLO c\r\nAUTH X-STEPS\r\n{}", responses.concat());
            let replies = serve(now, &mut session, said.as_bytes());
            let last = replies.lines().last().unwrap();
            assert!(last.starts_with(want), "{responses:?}: {last}");
            assert_eq!(session.info().identity, None);
        }
    }

    /// Both sessions, until nothing moves; what the server said last, and how the client is.
    fn pair(secret: &str) -> (String, client::Output) {
        let now = Instant::now();
        let (mut server, mut client) = (server(now), client(now, secret));
        let (mut to_server, mut last) = (BytesMut::new(), String::new());
        loop {
            let replies = serve(now, &mut server, &to_server);
            let output = client.poll(now, &mut BytesMut::from(replies.as_str()));
            to_server = client.requests().split();
            if replies.is_empty() && to_server.is_empty() {
                return (last, output);
            }
            last = replies.lines().last().unwrap_or(&last).to_owned();
        }
    }

    #[test]
    fn the_client_walks_through_all_steps() {
        let (last, output) = pair(SECRET);
        assert!(last.starts_with("235 2.7.0 "), "{last}");
        assert!(matches!(output, client::Output::Ready), "{output:?}");
        let (last, output) = pair("wrong");
        assert!(last.starts_with("535 5.7.8 "), "{last}");
        assert!(
            matches!(output, client::Output::Failed { .. }),
            "{output:?}"
        );
    }

    #[test]
    fn a_server_that_has_not_proven_itself_is_not_believed() {
        let base64 = |octets: &[u8]| STANDARD.encode(octets);
        let long = base64(&challenge("key"));
        let ours = base64(&proof(&challenge("key"), SECRET));
        for (replies, said) in [
            ("235 2.7.0 in\r\n".to_owned(), String::new()),
            (
                format!("334 {long}\r\n235 2.7.0 in\r\n"),
                format!("{ours}\r\n"),
            ),
            // A challenge that is not the right one, or none at all, ends the exchange.
            (
                format!("334 {long}\r\n334 {}\r\n334 {long}\r\n", base64(b"false")),
                format!("{ours}\r\n*\r\n"),
            ),
            (
                "334 ?\r\n501 5.7.0 cancelled\r\n".to_owned(),
                "*\r\n".to_owned(),
            ),
        ] {
            let now = Instant::now();
            let mut session = client(now, SECRET);
            let opening = "220 hi\r\n250-hi\r\n250 AUTH X-STEPS\r\n";
            session.poll(now, &mut BytesMut::from(opening));
            assert_eq!(
                &session.requests().split()[..],
                b"EHLO me.example\r\nAUTH X-STEPS YWxpY2U=\r\n"
            );
            let output = session.poll(now, &mut BytesMut::from(replies.as_str()));
            assert_eq!(String::from_utf8_lossy(&session.requests().split()), said);
            assert!(
                matches!(
                    output,
                    client::Output::Failed {
                        phase: client::Phase::Auth,
                        ..
                    }
                ),
                "{replies}: {output:?}"
            );
        }
    }

    #[test]
    fn an_initial_response_does_not_make_a_line_too_long() {
        // AUTH PLAIN and its end take 13 octets, and base64 comes by fours.
        for (mechanism, user, first, second) in [
            (Mechanism::Plain, 4, 13 + 12, None),
            (Mechanism::Plain, 369, 13 + 496, None),
            (Mechanism::Plain, 370, 12, Some(502)),
            (Mechanism::Plain, 3000, 12, Some(4006)),
        ] {
            let credentials = Credentials {
                user: "u".repeat(user),
                secret: Secret::new("p".to_owned()),
                mechanisms: vec![mechanism],
            };
            let now = Instant::now();
            let config = client::Config {
                protocol: postroad_mail::Protocol::Smtp,
                helo: "me.example".to_owned(),
                starttls: StartTls::Never,
                credentials: Some(credentials),
                timeouts: Timeouts::default(),
            };
            let tls = postroad_mail::TlsInfo {
                version: "TLS1.3".to_owned(),
                cipher: "X".to_owned(),
            };
            let mut session = client::Session::new(now, Arc::new(config), Some(tls));
            let opening = "220 hi\r\n250-hi\r\n250 AUTH PLAIN\r\n";
            session.poll(now, &mut BytesMut::from(opening));
            let said = session.requests().split();
            let line = &said["EHLO me.example\r\n".len()..];
            assert_eq!(
                line.len(),
                first,
                "{user}: {}",
                String::from_utf8_lossy(line)
            );
            if let Some(second) = second {
                session.poll(now, &mut BytesMut::from("334 \r\n"));
                assert_eq!(session.requests().split().len(), second, "{user}");
            }
            let output = session.poll(now, &mut BytesMut::from("235 in\r\n"));
            assert!(matches!(output, client::Output::Ready), "{output:?}");
        }
    }
}
