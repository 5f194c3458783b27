use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use postroad_intake::{ByDomain, Intake, Prelude, RcptAsked, RoutePreview, shown_recipients};
use postroad_mail::{Address, ForwardPath, ReversePath, escape_peer_text, replies};
use postroad_net::server::{Handler, Role};
use postroad_net::{Networks, clock};
use postroad_proto::sasl::{Mechanism, Secret};
use postroad_proto::server::{Answer, Info, Question};
use postroad_queue::Store;
use tracing::{error, info};

use crate::auth::{Found, Identity, SharedAuthenticator};
use crate::sender::{AnyAddress, OwnAddress, SenderPolicy};

/// The settings of the role.
#[derive(Clone, Debug)]
pub struct Config {
    /// Those of its sessions; AUTH must be required.
    pub session: Arc<postroad_proto::server::Config>,
    /// Those of its intake; with fix-ups.
    pub intake: Arc<postroad_intake::Config>,
    /// Peers whose bare newlines are mended, and whose errors are not held against them. They must log in all the same.
    pub trusted: Networks,
    /// Whether the reverse-path must be the user's own.
    pub sender_must_match: bool,
}

/// The submission role.
pub struct Submission {
    config: ArcSwap<Config>,
    store: Arc<dyn Store>,
    authenticator: SharedAuthenticator,
    routes: Arc<dyn RoutePreview>,
    /// Of the site's own; else as the settings say.
    senders: Option<Arc<dyn SenderPolicy>>,
}

impl std::fmt::Debug for Submission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Submission")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Submission {
    /// The role with a store and a directory.
    #[must_use]
    pub fn new(config: Config, store: Arc<dyn Store>, authenticator: SharedAuthenticator) -> Self {
        Self {
            config: ArcSwap::from_pointee(config),
            store,
            authenticator,
            routes: Arc::new(ByDomain),
            senders: None,
        }
    }

    /// With a policy of the site's own on reverse-paths, in place of `sender_must_match`.
    #[must_use]
    pub fn with_senders(mut self, senders: Arc<dyn SenderPolicy>) -> Self {
        self.senders = Some(senders);
        self
    }

    /// With routes, which say which recipients travel together, and whom to refuse at once.
    #[must_use]
    pub fn with_routes(mut self, routes: Arc<dyn RoutePreview>) -> Self {
        self.routes = routes;
        self
    }

    /// New settings, for sessions from now on.
    pub fn reload(&self, config: Config) {
        self.config.store(Arc::new(config));
    }
}

impl Role for Submission {
    type Handler = SubmissionHandler;

    fn open(&self, peer: IpAddr) -> (Arc<postroad_proto::server::Config>, SubmissionHandler) {
        let config = self.config.load_full();
        let session = Arc::clone(&config.session);
        let handler = SubmissionHandler {
            config,
            store: Arc::clone(&self.store),
            authenticator: self.authenticator.clone(),
            routes: Arc::clone(&self.routes),
            senders: self.senders.clone(),
            peer,
            identity: None,
            sender: (ReversePath::Null, 0),
            prelude: Prelude::default(),
            transaction: None,
        };
        (session, handler)
    }

    fn is_trusted(&self, peer: IpAddr) -> bool {
        self.config.load().trusted.contains(peer)
    }

    fn name(&self) -> &'static str {
        "submission"
    }
}

/// The role's side of one session.
#[allow(
    missing_debug_implementations,
    reason = "it holds a store and a message half received"
)]
pub struct SubmissionHandler {
    config: Arc<Config>,
    store: Arc<dyn Store>,
    authenticator: SharedAuthenticator,
    routes: Arc<dyn RoutePreview>,
    senders: Option<Arc<dyn SenderPolicy>>,
    peer: IpAddr,
    identity: Option<Identity>,
    /// What MAIL has said: the reverse-path, and SIZE=.
    sender: (ReversePath, u64),
    /// What was found out about the transaction.
    prelude: Prelude,
    /// Boxed: most of the time there is none.
    transaction: Option<Box<Transaction>>,
}

struct Transaction {
    intake: Intake,
    from: String,
    to: String,
    recipients: usize,
    size: usize,
}

impl Handler for SubmissionHandler {
    async fn ask(&mut self, info: &Info, question: Question) -> Answer {
        match question {
            Question::Connect | Question::Hello(_) => Answer::Accept,
            Question::Rcpt(rcpt) => self.recipient(info, &rcpt.to).await,
            Question::Password {
                mechanism,
                authorization,
                user,
                secret,
            } => {
                self.password(mechanism, authorization.as_deref(), &user, &secret)
                    .await
            }
            Question::Mail(mail) => {
                let Some(identity) = &self.identity else {
                    return Answer::Reject(replies::AUTH_REQUIRED);
                };
                let allowed = match &self.senders {
                    Some(senders) => senders.allows(identity, &mail.from),
                    None if self.config.sender_must_match => {
                        OwnAddress.allows(identity, &mail.from)
                    }
                    None => AnyAddress.allows(identity, &mail.from),
                };
                if allowed {
                    self.sender = (mail.from, mail.size.unwrap_or(0));
                    self.prelude = Prelude::new(clock::now());
                    Answer::Accept
                } else {
                    Answer::Reject(replies::SENDER_NOT_OWNED)
                }
            }
            Question::Data(envelope) => {
                let (from, recipients) = (envelope.from.to_string(), envelope.recipients().len());
                let to = shown_recipients(&envelope);
                match Intake::begin(
                    clock::now(),
                    Arc::clone(&self.config.intake),
                    &self.store,
                    info,
                    *envelope,
                ) {
                    Ok(intake) => {
                        self.transaction = Some(Box::new(Transaction {
                            intake: intake.after(std::mem::take(&mut self.prelude)),
                            from,
                            to,
                            recipients,
                            size: 0,
                        }));
                        Answer::Accept
                    }
                    Err(reply) => Answer::Reject(reply),
                }
            }
            Question::Commit => self.commit().await,
            Question::Verify(whom) => self.find(&whom).await,
            // There are no lists; a user is none.
            Question::Expand(_) => Answer::Reject(replies::UNKNOWN_RECIPIENT),
            // Questions that this role does not know: it offers nothing that leads to them.
            _ => Answer::Reject(replies::LOCAL_ERROR),
        }
    }

    async fn body(&mut self, chunk: Bytes) {
        if let Some(transaction) = &mut self.transaction {
            transaction.size += chunk.len();
            transaction.intake.body(chunk).await;
        }
    }

    fn abandon(&mut self) {
        self.transaction = None;
        self.prelude = Prelude::default();
    }
}

impl SubmissionHandler {
    async fn password(
        &mut self,
        mechanism: Mechanism,
        authorization: Option<&str>,
        user: &str,
        secret: &Secret,
    ) -> Answer {
        let shown = escape_peer_text(user);
        let found = self.authenticator.verify(user, secret).await;
        // Nobody may act as somebody else.
        let itself = authorization.is_none_or(|other| other == user);
        match found {
            Ok(Some(identity)) if itself => {
                info!(user = shown, peer = %self.peer, %mechanism, "authenticated");
                let name = identity.user.clone();
                self.identity = Some(identity);
                Answer::Identity(name)
            }
            Ok(_) => {
                info!(user = shown, peer = %self.peer, %mechanism, "authentication failed");
                Answer::Reject(replies::AUTH_FAILED)
            }
            Err(error) => {
                error!(user = shown, peer = %self.peer, %error, "authentication is not possible");
                Answer::Reject(replies::AUTH_UNAVAILABLE)
            }
        }
    }

    async fn find(&mut self, whom: &str) -> Answer {
        match self.authenticator.find(whom).await {
            Ok(Found::Mailbox(address)) => Answer::Lines(vec![format!("<{address}>")]),
            Ok(Found::Ambiguous) => Answer::Reject(replies::AMBIGUOUS),
            Ok(Found::Unknown) => Answer::Reject(replies::UNKNOWN_RECIPIENT),
            Ok(Found::CannotSay) => Answer::Reject(replies::CANNOT_VERIFY),
            Err(error) => {
                error!(peer = %self.peer, %error, "a user cannot be looked up");
                Answer::Reject(replies::CANNOT_VERIFY)
            }
        }
    }

    async fn recipient(&mut self, info: &Info, to: &ForwardPath) -> Answer {
        let own = |address: &Address| {
            *address.domain() == self.config.intake.hostname && address.local_part().is_postmaster()
        };
        let address = match to {
            ForwardPath::Address(address) if !own(address) => address,
            // The postmaster is there always (RFC 5321 section 4.5.1).
            ForwardPath::Address(_) | ForwardPath::Postmaster => {
                self.prelude.postmaster(&self.config.intake).await;
                return Answer::Accept;
            }
        };
        let aliases = &*self.config.intake.aliases;
        let only = match self.prelude.recipient(aliases, address).await {
            Ok(only) => only,
            Err(reply) => {
                let shown = escape_peer_text(&address.to_string());
                info!(peer = %self.peer, to = shown, %reply, "refused by the aliases");
                return Answer::Reject(reply);
            }
        };
        let (sender, size) = &self.sender;
        let asked = RcptAsked {
            recipient: only.as_ref().unwrap_or(address),
            sender,
            user: info.identity.as_deref(),
            network: Some(info.peer.address),
            size: *size,
        };
        match self.routes.refusal(&asked).await {
            Some(reply) => {
                let shown = escape_peer_text(&address.to_string());
                info!(peer = %self.peer, to = shown, %reply, "refused by a route");
                Answer::Reject(reply)
            }
            None => Answer::Accept,
        }
    }

    async fn commit(&mut self) -> Answer {
        let Some(Transaction {
            intake,
            from,
            to,
            recipients,
            size,
        }) = self.transaction.take().map(|boxed| *boxed)
        else {
            return Answer::Reject(replies::LOCAL_ERROR);
        };
        match intake.commit(clock::now(), &*self.routes).await {
            Ok((id, origin)) => {
                info!(
                    queue_id = %id,
                    from = escape_peer_text(&from),
                    to,
                    recipients,
                    size,
                    user = origin.user.as_deref().map(escape_peer_text),
                    peer = %self.peer,
                    helo = origin.helo.as_deref().map(escape_peer_text),
                    "message queued"
                );
                Answer::Queued(id.to_string())
            }
            Err(reply) => {
                info!(from = escape_peer_text(&from), to, recipients, size, peer = %self.peer, %reply, "message refused");
                Answer::Reject(reply)
            }
        }
    }
}
