//! Mail from other servers: for our domains from anyone, to anywhere from trusted networks.

mod domains;

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use postroad_intake::Intake;
use postroad_mail::{ForwardPath, escape_peer_text, replies};
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
        }
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
                peer,
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
    peer: IpAddr,
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
    recipients: usize,
    size: usize,
}

impl Handler for InboundHandler {
    async fn ask(&mut self, info: &Info, question: Question) -> Answer {
        match question {
            Question::Connect | Question::Hello(_) | Question::Mail(_) => Answer::Accept,
            Question::Rcpt(rcpt) => {
                if self.takes(&rcpt.to, info.peer.trusted) {
                    Answer::Accept
                } else {
                    info!(peer = %self.peer, to = escape_peer_text(&rcpt.to.to_string()), "relaying denied");
                    Answer::Reject(replies::RELAY_DENIED)
                }
            }
            Question::Data(envelope) => {
                let (from, recipients) = (envelope.from.to_string(), envelope.recipients().len());
                match Intake::begin(
                    clock::now(),
                    Arc::clone(&self.config.intake),
                    &self.store,
                    info,
                    *envelope,
                ) {
                    Ok(intake) => {
                        self.transaction = Some(Transaction {
                            intake,
                            from,
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
    }
}

impl InboundHandler {
    /// `%` and `!` in a local part are letters like others: an address is where it says, at its domain.
    fn takes(&self, to: &ForwardPath, trusted: bool) -> bool {
        match to {
            ForwardPath::Postmaster => true,
            ForwardPath::Address(address) => {
                let own = *address.domain() == self.config.intake.hostname
                    && address.local_part().is_postmaster();
                trusted || own || self.config.domains.contains(address.domain())
            }
        }
    }

    async fn commit(&mut self) -> Answer {
        let Some(Transaction {
            intake,
            from,
            recipients,
            size,
        }) = self.transaction.take()
        else {
            return Answer::Reject(replies::LOCAL_ERROR);
        };
        match intake.commit(clock::now()).await {
            Ok((id, origin)) => {
                info!(
                    queue_id = %id,
                    from = escape_peer_text(&from),
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
                info!(from = escape_peer_text(&from), recipients, size, peer = %self.peer, %reply, "message refused");
                Answer::Reject(reply)
            }
        }
    }
}
