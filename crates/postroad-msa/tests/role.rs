//! The role's answers to a session's questions.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it must be"
)]

use std::future::ready;
use std::sync::Arc;

use postroad_intake::{AliasPreview, Expansion, Member, RcptAsked, RoutePreview};
use postroad_mail::{Address, Domain, Envelope, Origin, Recipient, Reply, ReversePath, replies};
use postroad_msa::{
    AuthError, Authenticator, Config, Identity, SenderPolicy, SharedAuthenticator, Submission,
};
use postroad_net::Networks;
use postroad_net::server::{Handler, Role as _};
use postroad_proto::sasl::{Mechanism, Secret};
use postroad_proto::server::{Answer, Hello, Info, Mail, Peer, Question, Rcpt};
use postroad_queue::{BoxFuture, Filter, Lane, MemStore, Store};

/// Knows one user, unless it is down.
struct Directory {
    down: bool,
}

impl Authenticator for Directory {
    async fn verify(&self, user: &str, secret: &Secret) -> Result<Option<Identity>, AuthError> {
        if self.down {
            return Err(AuthError {
                directory: "ldap://10.0.0.1".to_owned(),
                detail: "refused".to_owned(),
            });
        }
        let right = user == "alice" && secret.expose() == "right";
        Ok(right.then(|| Identity {
            user: "alice@example.org".to_owned(),
            addresses: Vec::new(),
        }))
    }
}

/// Refuses Bob, to whoever is logged in; all others share a lane.
struct Routes;

impl RoutePreview for Routes {
    fn lanes<'a>(
        &'a self,
        envelope: &'a Envelope,
        origin: &'a Origin,
        _size: u64,
    ) -> BoxFuture<'a, Vec<Lane>> {
        assert_eq!(origin.user.as_deref(), Some("alice@example.org"));
        let lane = |_: &Recipient| Lane::new("smtp://relay.test:25");
        Box::pin(ready(envelope.recipients().iter().map(lane).collect()))
    }

    fn refusal<'a>(&'a self, asked: &'a RcptAsked<'a>) -> BoxFuture<'a, Option<Reply>> {
        let known = (asked.user, asked.size) == (Some("alice@example.org"), 123)
            && asked.sender.to_string() == "alice@example.org";
        let refused = known && asked.recipient.local_part().as_str() == "bob";
        Box::pin(ready(refused.then_some(replies::UNKNOWN_RECIPIENT)))
    }
}

fn config() -> Config {
    let hostname: Domain = "mx.test".parse().unwrap();
    Config {
        session: Arc::new(postroad_proto::server::Config::new(hostname.clone())),
        intake: Arc::new(postroad_intake::Config::new(hostname, "submission")),
        trusted: Networks::default(),
        sender_must_match: false,
    }
}

fn role(down: bool, store: &Arc<dyn Store>) -> Submission {
    let directory = SharedAuthenticator::new(Directory { down });
    Submission::new(config(), Arc::clone(store), directory).with_routes(Arc::new(Routes))
}

fn info(identity: Option<&str>) -> Info {
    Info {
        peer: Peer {
            address: [192, 0, 2, 1].into(),
            trusted: false,
            tls: None,
        },
        hello: Some(Hello {
            name: "c.test".to_owned(),
            extended: true,
        }),
        identity: identity.map(str::to_owned),
    }
}

fn password(user: &str, password: &str, authorization: Option<&str>) -> Question {
    Question::Password {
        mechanism: Mechanism::Plain,
        authorization: authorization.map(str::to_owned),
        user: user.to_owned(),
        secret: Secret::new(password.to_owned()),
    }
}

fn mail(from: &str) -> Question {
    Question::Mail(Mail {
        from: from.parse().unwrap(),
        size: Some(123),
        body: postroad_mail::BodyKind::SevenBit,
        smtputf8: false,
        require_tls: false,
        ret: None,
        envid: None,
        auth: None,
    })
}

fn rcpt(to: &str) -> Question {
    Question::Rcpt(Rcpt {
        to: to.parse().unwrap(),
        notify: None,
        original: None,
    })
}

fn store() -> Arc<dyn Store> {
    Arc::new(MemStore::new(1 << 20))
}

/// Only mail to the null reverse-path, whoever asks.
struct BouncesOnly;

impl SenderPolicy for BouncesOnly {
    fn allows(&self, _: &Identity, from: &ReversePath) -> bool {
        from.is_null()
    }
}

#[tokio::test]
async fn a_site_says_who_may_send_as_whom() {
    let role = role(false, &store()).with_senders(Arc::new(BouncesOnly));
    let (_, mut handler) = role.open([192, 0, 2, 1].into());
    let known = info(Some("alice@example.org"));
    handler.ask(&known, password("alice", "right", None)).await;
    for (from, allowed) in [("<>", true), ("<alice@example.org>", false)] {
        let answer = handler.ask(&known, mail(from)).await;
        assert_eq!(
            matches!(answer, Answer::Accept),
            allowed,
            "{from}: {answer:?}"
        );
    }
}

/// Looks nobody up, unlike a users file.
#[tokio::test]
async fn vrfy_where_the_directory_cannot_say() {
    let role = role(false, &store());
    let (_, mut handler) = role.open([192, 0, 2, 1].into());
    let known = info(Some("alice@example.org"));
    let answer = handler
        .ask(&known, Question::Verify("bob".to_owned()))
        .await;
    assert!(matches!(answer, Answer::Reject(reply) if reply == replies::CANNOT_VERIFY));
    let answer = handler
        .ask(&known, Question::Expand("staff".to_owned()))
        .await;
    assert!(matches!(answer, Answer::Reject(reply) if reply == replies::UNKNOWN_RECIPIENT));
}

#[tokio::test]
async fn vrfy_of_a_users_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users.toml");
    postroad_msa::add_user(&path, "alice@example.org", "right").unwrap();
    let users = SharedAuthenticator::new(postroad_msa::UsersFile::open(&path).unwrap());
    let role = Submission::new(config(), store(), users);
    let (_, mut handler) = role.open([192, 0, 2, 1].into());
    let known = info(Some("alice@example.org"));
    let ask = Question::Verify("alice@example.org".to_owned());
    let answer = handler.ask(&known, ask).await;
    let line = "<alice@example.org>".to_owned();
    assert!(matches!(answer, Answer::Lines(lines) if lines == [line]));
    let answer = handler
        .ask(&known, Question::Verify("nobody".to_owned()))
        .await;
    assert!(matches!(answer, Answer::Reject(reply) if reply == replies::UNKNOWN_RECIPIENT));
}

#[tokio::test]
async fn who_may_log_in() {
    let refused = |reply: &Reply| format!("{} {}", reply.code, reply.enhanced.unwrap());
    for (down, user, secret, acts_as, answer) in [
        (false, "alice", "right", None, "alice@example.org"),
        (false, "alice", "right", Some("alice"), "alice@example.org"),
        (false, "alice", "right", Some("bob"), "535 5.7.8"),
        (false, "alice", "wrong", None, "535 5.7.8"),
        (false, "carol", "right", None, "535 5.7.8"),
        // Not the user's fault: no other password would do.
        (true, "alice", "right", None, "454 4.7.0"),
    ] {
        let (_, mut handler) = role(down, &store()).open([192, 0, 2, 1].into());
        let said = match handler
            .ask(&info(None), password(user, secret, acts_as))
            .await
        {
            Answer::Identity(identity) => identity,
            Answer::Reject(reply) => refused(&reply),
            other => panic!("{other:?}"),
        };
        assert_eq!(said, answer, "{user} {secret} {acts_as:?} {down}");
        assert_eq!(
            matches!(
                handler.ask(&info(None), mail("<a@b>")).await,
                Answer::Accept
            ),
            !answer.starts_with(['4', '5'])
        );
    }
}

#[tokio::test]
async fn routes_refuse_at_rcpt_and_choose_the_lanes() {
    let store = store();
    let (_, mut handler) = role(false, &store).open([192, 0, 2, 1].into());
    handler
        .ask(&info(None), password("alice", "right", None))
        .await;
    let info = info(Some("alice@example.org"));
    handler.ask(&info, mail("<alice@example.org>")).await;
    for (to, answer) in [
        ("<bob@far.test>", Answer::Reject(replies::UNKNOWN_RECIPIENT)),
        ("<carol@far.test>", Answer::Accept),
        // Always there.
        ("<postmaster>", Answer::Accept),
        ("<Postmaster@mx.test>", Answer::Accept),
    ] {
        assert_eq!(handler.ask(&info, rcpt(to)).await, answer, "{to}");
    }
    let envelope = Envelope::new(
        "<alice@example.org>".parse().unwrap(),
        Recipient::new("carol@far.test".parse().unwrap()),
    );
    handler.ask(&info, Question::Data(Box::new(envelope))).await;
    handler.body("Subject: x\r\n\r\nx\r\n".into()).await;
    let answer = handler.ask(&info, Question::Commit).await;
    assert!(matches!(answer, Answer::Queued(_)), "{answer:?}");
    let listed = store.page(&Filter::default(), None, 1).await.unwrap();
    let lanes: Vec<_> = listed
        .iter()
        .flat_map(|m| &m.recipients)
        .map(|r| &r.lane)
        .collect();
    assert_eq!(lanes, [&Lane::new("smtp://relay.test:25")]);
}

/// Staff are Carol and Dan, Robert is Bob, and in `lists.test` there is nobody else.
#[derive(Debug)]
struct Aliases;

impl AliasPreview for Aliases {
    fn expand<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Expansion> {
        let members = |all: &[&str]| {
            let each = all.iter().map(|address| Member {
                address: address.parse().unwrap(),
                from: None,
            });
            Expansion::Members(each.collect())
        };
        Box::pin(ready(match address.to_string().as_str() {
            "staff@lists.test" => members(&["carol@far.test", "dan@far.test"]),
            "robert@lists.test" => members(&["bob@far.test"]),
            _ if self.is_alias_domain(address.domain()) => Expansion::Unknown,
            _ => Expansion::Itself,
        }))
    }

    fn is_alias_domain(&self, domain: &Domain) -> bool {
        domain.ascii() == "lists.test"
    }
}

#[tokio::test]
async fn aliases_are_expanded_and_those_unknown_refused_at_rcpt() {
    let store = store();
    let mut intake = (*config().intake).clone();
    intake.aliases = Arc::new(Aliases);
    let config = Config {
        intake: Arc::new(intake),
        ..config()
    };
    let directory = SharedAuthenticator::new(Directory { down: false });
    let role = Submission::new(config, Arc::clone(&store), directory).with_routes(Arc::new(Routes));
    let (_, mut handler) = role.open([192, 0, 2, 1].into());
    handler
        .ask(&info(None), password("alice", "right", None))
        .await;
    let info = info(Some("alice@example.org"));
    handler.ask(&info, mail("<alice@example.org>")).await;
    let unknown = || Answer::Reject(replies::UNKNOWN_RECIPIENT);
    for (to, answer) in [
        ("<nobody@lists.test>", unknown()),
        // The routes refuse Bob, by whatever name.
        ("<robert@lists.test>", unknown()),
        ("<staff@lists.test>", Answer::Accept),
    ] {
        assert_eq!(handler.ask(&info, rcpt(to)).await, answer, "{to}");
    }
    let envelope = Envelope::new(
        "<alice@example.org>".parse().unwrap(),
        Recipient::new("staff@lists.test".parse().unwrap()),
    );
    handler.ask(&info, Question::Data(Box::new(envelope))).await;
    handler.body("Subject: x\r\n\r\nx\r\n".into()).await;
    let answer = handler.ask(&info, Question::Commit).await;
    assert!(matches!(answer, Answer::Queued(_)), "{answer:?}");
    let listed = store.page(&Filter::default(), None, 1).await.unwrap();
    let to = listed.iter().flat_map(|m| &m.recipients);
    let to: Vec<_> = to.map(|r| r.address.as_str()).collect();
    assert_eq!(to, ["carol@far.test", "dan@far.test"]);
}
