//! Mail from other servers: for our domains from anyone, to anywhere from trusted networks.

mod domains;

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use postroad_intake::{ByDomain, Intake, Prelude, RcptAsked, RoutePreview, shown_recipients};
use postroad_mail::{Address, ForwardPath, ReversePath, escape_peer_text, replies};
use postroad_net::server::{Handler, Role};
use postroad_net::{Networks, clock};
use postroad_proto::server::{Answer, Info, Question};
use postroad_queue::Store;
use tracing::info;

pub use domains::{DomainPatternError, DomainPatterns};

/// The settings of the role.
#[derive(Clone, Debug)]
pub struct InboundConfig {
    /// Those of its sessions.
    pub session: Arc<postroad_proto::server::Config>,
    /// Those of its intake.
    pub intake: Arc<postroad_intake::Config>,
    /// Mail for these is accepted from anyone.
    pub domains: DomainPatterns,
    /// Peers that may relay anywhere.
    pub trusted: Networks,
}

/// The relay role, inbound.
pub struct Inbound {
    config: ArcSwap<InboundConfig>,
    store: Arc<dyn Store>,
    routes: Arc<dyn RoutePreview>,
}

impl std::fmt::Debug for Inbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbound")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Inbound {
    /// The role with a store.
    #[must_use]
    pub fn new(config: InboundConfig, store: Arc<dyn Store>) -> Self {
        Self {
            config: ArcSwap::from_pointee(config),
            store,
            routes: Arc::new(ByDomain),
        }
    }

    /// With routes, which say which recipients travel together, and whom to refuse at once:
    /// usually the [`Outbound`](crate::Outbound) of the same process, whose reloads it follows.
    #[must_use]
    pub fn with_routes(mut self, routes: Arc<dyn RoutePreview>) -> Self {
        self.routes = routes;
        self
    }

    /// New settings, for sessions from now on.
    pub fn reload(&self, config: InboundConfig) {
        self.config.store(Arc::new(config));
    }
}

impl Role for Inbound {
    type Handler = InboundHandler;

    fn open(&self, peer: IpAddr) -> (Arc<postroad_proto::server::Config>, InboundHandler) {
        let config = self.config.load_full();
        let session = Arc::clone(&config.session);
        (
            session,
            InboundHandler {
                config,
                store: Arc::clone(&self.store),
                routes: Arc::clone(&self.routes),
                peer,
                sender: (ReversePath::Null, 0),
                prelude: Prelude::default(),
                transaction: None,
            },
        )
    }

    fn is_trusted(&self, peer: IpAddr) -> bool {
        self.config.load().trusted.contains(peer)
    }

    fn name(&self) -> &'static str {
        "relay"
    }
}

/// The role's side of one session.
pub struct InboundHandler {
    config: Arc<InboundConfig>,
    store: Arc<dyn Store>,
    routes: Arc<dyn RoutePreview>,
    peer: IpAddr,
    /// What MAIL has said: the reverse-path, and SIZE=.
    sender: (ReversePath, u64),
    /// What was found out about the transaction.
    prelude: Prelude,
    transaction: Option<Transaction>,
}

impl std::fmt::Debug for InboundHandler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InboundHandler")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

struct Transaction {
    intake: Intake,
    from: String,
    to: String,
    recipients: usize,
    size: usize,
}

impl Handler for InboundHandler {
    async fn ask(&mut self, info: &Info, question: Question) -> Answer {
        match question {
            Question::Connect | Question::Hello(_) => Answer::Accept,
            Question::Mail(mail) => {
                self.sender = (mail.from, mail.size.unwrap_or(0));
                self.prelude = Prelude::new(clock::now());
                Answer::Accept
            }
            Question::Rcpt(rcpt) => self.recipient(info, &rcpt.to).await,
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
                        self.transaction = Some(Transaction {
                            intake: intake.after(std::mem::take(&mut self.prelude)),
                            from,
                            to,
                            recipients,
                            size: 0,
                        });
                        Answer::Accept
                    }
                    Err(reply) => Answer::Reject(reply),
                }
            }
            Question::Commit => self.commit().await,
            // A relay has no users.
            Question::Password { .. } => Answer::Reject(replies::AUTH_FAILED),
            Question::Verify(_) | Question::Expand(_) => Answer::Reject(replies::CANNOT_VERIFY),
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

impl InboundHandler {
    /// `%` and `!` in a local part are letters like others: an address is where it says, at its domain.
    fn takes(&self, to: &ForwardPath, trusted: bool) -> bool {
        match to {
            ForwardPath::Postmaster => true,
            ForwardPath::Address(address) => {
                trusted
                    || self.is_own_postmaster(address)
                    || self.config.domains.contains(address.domain())
                    || (self.config.intake.aliases).is_alias_domain(address.domain())
            }
        }
    }

    async fn recipient(&mut self, info: &Info, to: &ForwardPath) -> Answer {
        let shown = escape_peer_text(&to.to_string());
        if !self.takes(to, info.peer.trusted) {
            info!(peer = %self.peer, to = shown, "relaying denied");
            return Answer::Reject(replies::RELAY_DENIED);
        }
        let address = match to {
            ForwardPath::Address(address) if !self.is_own_postmaster(address) => address,
            // The postmaster is there always, and for everyone (RFC 5321 section 4.5.1).
            ForwardPath::Address(_) | ForwardPath::Postmaster => {
                self.prelude.postmaster(&self.config.intake).await;
                return Answer::Accept;
            }
        };
        let aliases = &*self.config.intake.aliases;
        let only = match self.prelude.recipient(aliases, address).await {
            Ok(only) => only,
            Err(reply) => {
                info!(peer = %self.peer, to = shown, %reply, "refused by the aliases");
                return Answer::Reject(reply);
            }
        };
        let (sender, size) = &self.sender;
        let asked = RcptAsked {
            recipient: only.as_ref().unwrap_or(address),
            sender,
            user: None,
            network: Some(info.peer.address),
            size: *size,
        };
        match self.routes.refusal(&asked).await {
            Some(reply) => {
                info!(peer = %self.peer, to = shown, %reply, "refused by a route");
                Answer::Reject(reply)
            }
            None => Answer::Accept,
        }
    }

    fn is_own_postmaster(&self, address: &Address) -> bool {
        *address.domain() == self.config.intake.hostname && address.local_part().is_postmaster()
    }

    async fn commit(&mut self) -> Answer {
        let Some(Transaction {
            intake,
            from,
            to,
            recipients,
            size,
        }) = self.transaction.take()
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
                    peer = %self.peer,
                    helo = origin.helo.as_deref().map(escape_peer_text),
                    tls = origin.tls.as_ref().map(|tls| tls.version.as_str()),
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
