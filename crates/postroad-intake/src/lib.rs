//! What both receiving roles share: from an agreed envelope and a stream of content to a message
//! in the queue.
//!
//! The header block is held (bounded) until the end, since what goes before it, the Received
//! field first of all, is known only then; what follows it streams into the store.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use postroad_intake::{ByDomain, Config, Intake};
//! use postroad_mail::{Envelope, Recipient, Timestamp};
//! use postroad_proto::server::{Info, Peer};
//! use postroad_queue::{MemStore, Store};
//!
//! let store: Arc<dyn Store> = Arc::new(MemStore::new(1 << 20));
//! let config = Arc::new(Config::new("mx.example.org".parse()?, "relay"));
//! let peer = Peer { address: [192, 0, 2, 1].into(), trusted: false, tls: None };
//! let info = Info { peer, hello: None, identity: None };
//! let envelope = Envelope::new("<a@b.example>".parse()?, Recipient::new("c@d.example".parse()?));
//!
//! let now = Timestamp::from_millis(1_795_524_541_000);
//! let mut intake = Intake::begin(now, config, &store, &info, envelope).map_err(|reply| reply.to_string())?;
//! intake.body("Subject: hello\r\n\r\nHello\r\n".into()).await;
//! let (id, _origin) = intake.commit(now, &ByDomain).await.map_err(|reply| reply.to_string())?;
//! assert_eq!(store.totals().messages, 1);
//! # let _ = id; Ok(()) }
//! ```

mod accepted;
mod notice;
mod prelude;
mod preview;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use postroad_mail::{
    Address, BodyKind, Domain, Envelope, Origin, Recipient, Reply, Timestamp, escape_peer_text,
    replies,
};
use postroad_message::{Fields, HeadScanner, Received, Scanned, fix_ups};
use postroad_proto::server::Info;
use postroad_queue::history::{History, NoHistory};
use postroad_queue::{Draft, Incoming, QueueId, Store, StoreError};
use tracing::error;

pub use prelude::{EXPANDED_MAX, Prelude, expand_own};
pub use preview::{AliasPreview, ByDomain, Expansion, Member, NoAliases, RcptAsked, RoutePreview};

/// Recipients that a log line names, at most.
const SHOWN_MAX: usize = 10;

/// What intake does besides storing.
#[derive(Clone, Debug)]
pub struct Config {
    /// The host name in the Received header; mail for postmaster at it goes to `postmaster`.
    pub hostname: Domain,
    /// `submission` or `relay`: the origin's service.
    pub service: &'static str,
    /// Where mail for this host's postmaster goes.
    pub postmaster: Option<Address>,
    /// Octets of header, at most.
    pub header_size: usize,
    /// Received headers, at which a message is taken to loop (RFC 5321 section 6.3).
    pub hops_max: usize,
    /// Add Date and Message-ID where they are missing (RFC 6409 section 8).
    pub fix_up: bool,
    /// Whom addresses stand for.
    pub aliases: Arc<dyn AliasPreview>,
    /// Told of each message that has come.
    pub history: Arc<dyn History>,
}

impl Config {
    /// With the usual bounds; `submission` gets fix-ups.
    #[must_use]
    pub fn new(hostname: Domain, service: &'static str) -> Self {
        Self {
            hostname,
            service,
            postmaster: None,
            header_size: 256 << 10,
            hops_max: 100,
            fix_up: service == "submission",
            aliases: Arc::new(NoAliases),
            history: Arc::new(NoHistory),
        }
    }
}

/// One message on its way in. Dropping it leaves nothing.
pub struct Intake {
    config: Arc<Config>,
    store: Arc<dyn Store>,
    /// As the client gave it, each recipient once.
    envelope: Envelope,
    prelude: Prelude,
    origin: Origin,
    extended: bool,
    scanner: HeadScanner,
    head: BytesMut,
    in_head: bool,
    /// For the Received header, where there is just one.
    only_recipient: Option<Address>,
    eight_bit_body: bool,
    /// Octets behind the header block.
    body_size: u64,
    /// Or why it cannot be kept, known before its end; what was kept of it is gone then, however
    /// long the client goes on.
    incoming: Result<Box<dyn Incoming>, Reply>,
}

impl std::fmt::Debug for Intake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intake")
            .field("id", &self.incoming.as_ref().map(|incoming| incoming.id()))
            .field("envelope", &self.envelope)
            .finish_non_exhaustive()
    }
}

impl Intake {
    /// Begins; refuses at once where there is no room.
    ///
    /// # Errors
    /// The reply to give.
    pub fn begin(
        now: Timestamp,
        config: Arc<Config>,
        store: &Arc<dyn Store>,
        info: &Info,
        mut envelope: Envelope,
    ) -> Result<Self, Reply> {
        let incoming = store.begin(now).map_err(|error| refusal(&error))?;
        envelope.drop_duplicates();
        // As the client named it: where the postmaster's mail goes is nobody's business.
        let only_recipient = match envelope.recipients() {
            [one] => Some(one.address.clone()),
            _ => None,
        };
        if let Some(postmaster) = &config.postmaster {
            for recipient in envelope.recipients_mut() {
                if recipient.address.local_part().is_postmaster()
                    && *recipient.address.domain() == config.hostname
                {
                    to_postmaster(recipient, postmaster);
                }
            }
        }
        envelope.drop_duplicates();
        let origin = Origin {
            service: config.service.to_owned(),
            user: info.identity.clone(),
            address: Some(info.peer.address),
            helo: info.hello.as_ref().map(|hello| hello.name.clone()),
            tls: info.peer.tls.clone(),
        };
        Ok(Self {
            scanner: HeadScanner::new(config.header_size),
            config,
            store: Arc::clone(store),
            envelope,
            prelude: Prelude::new(now),
            origin,
            extended: info.hello.as_ref().is_some_and(|hello| hello.extended),
            head: BytesMut::new(),
            in_head: true,
            only_recipient,
            eight_bit_body: false,
            body_size: 0,
            incoming: Ok(incoming),
        })
    }

    /// With what was found out about the transaction before its content came.
    #[must_use]
    pub fn after(mut self, prelude: Prelude) -> Self {
        self.prelude = prelude;
        self
    }

    /// Takes a piece of content. Errors are remembered for [`Intake::commit`]; what follows them is dropped.
    pub async fn body(&mut self, chunk: Bytes) {
        if self.incoming.is_err() {
            return;
        }
        let mut chunk = chunk;
        if self.in_head {
            match self.scanner.push(&chunk) {
                Scanned::More => {
                    self.head.extend_from_slice(&chunk);
                    return;
                }
                Scanned::TooLarge => {
                    self.incoming = Err(replies::HEADER_TOO_BIG);
                    return;
                }
                Scanned::End { body_at } => {
                    self.in_head = false;
                    let earlier = self.scanner.unfinished();
                    let unfinished = self.head.split_off(self.head.len().saturating_sub(earlier));
                    self.head.extend_from_slice(&chunk.split_to(body_at));
                    self.write(unfinished.freeze()).await;
                }
            }
        }
        self.write(chunk).await;
    }

    async fn write(&mut self, chunk: Bytes) {
        if chunk.is_empty() {
            return;
        }
        let Ok(incoming) = &mut self.incoming else {
            return;
        };
        self.eight_bit_body = self.eight_bit_body || !chunk.is_ascii();
        self.body_size += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        if let Err(error) = incoming.write(chunk).await {
            self.incoming = Err(refusal(&error));
        }
    }

    /// Adds trace and fix-ups, and makes the message durable, its recipients in the lanes that
    /// the routes give them.
    ///
    /// # Errors
    /// The reply to give.
    pub async fn commit(
        mut self,
        now: Timestamp,
        routes: &dyn RoutePreview,
    ) -> Result<(QueueId, Origin), Reply> {
        if self.in_head {
            // The message ended in a line that is no header field.
            let rest = self
                .head
                .split_off(self.head.len().saturating_sub(self.scanner.unfinished()));
            self.write(rest.freeze()).await;
        }
        let Self {
            config,
            store,
            mut envelope,
            prelude,
            origin,
            extended,
            scanner,
            head,
            eight_bit_body,
            body_size,
            only_recipient,
            incoming,
            ..
        } = self;
        let incoming = incoming?;
        let fields = scanner.fields();
        if fields.received >= config.hops_max {
            return Err(replies::TOO_MANY_HOPS);
        }
        // What was declared 8-bit and is not can go where 8-bit cannot.
        if envelope.body == BodyKind::EightBitMime && !eight_bit_body && !fields.eight_bit {
            envelope.body = BodyKind::SevenBit;
        }
        let id = incoming.id().to_string();
        let head = with_trace(
            &config,
            &Received {
                origin: &origin,
                extended,
                smtputf8: envelope.smtputf8,
                by: config.hostname.ascii(),
                id: &id,
                only_recipient: only_recipient.as_ref(),
                at: now,
            },
            fields,
            &head,
        );
        let size = body_size + u64::try_from(head.len()).unwrap_or(u64::MAX);
        let whole = Whole {
            config: &config,
            store: &store,
            routes,
            now,
            origin: &origin,
            head,
            size,
        };
        let id = whole.keep(incoming, envelope, &prelude).await?;
        Ok((id, origin))
    }
}

/// A message that has come to its end, and is to be kept.
struct Whole<'a> {
    config: &'a Config,
    store: &'a Arc<dyn Store>,
    routes: &'a dyn RoutePreview,
    now: Timestamp,
    origin: &'a Origin,
    head: Bytes,
    size: u64,
}

impl Whole<'_> {
    /// Puts it into the queue for those for whom its recipients stand, and tells of it.
    async fn keep(
        &self,
        incoming: Box<dyn Incoming>,
        mut envelope: Envelope,
        prelude: &Prelude,
    ) -> Result<QueueId, Reply> {
        let given = prelude.has_aliases().then(|| envelope.clone());
        let expanded = prelude.expand(&mut envelope);
        // Known before the message is kept: a notice that it owes must be one that can be sent.
        let notices = notice::to_sender(self.config, &envelope, &expanded.told).await?;
        let lanes = self.routes.lanes(&envelope, self.origin, self.size).await;
        let event = accepted::event(accepted::Come {
            id: incoming.id(),
            began: prelude.began,
            at: self.now,
            envelope: &envelope,
            origin: self.origin,
            size: self.size,
            head: &self.head,
            expansions: expanded.named,
        });
        let draft = Draft {
            envelope,
            origin: self.origin.clone(),
            head: self.head.clone(),
            lanes,
            resumes: None,
        };
        let id = incoming.commit(self.now, draft).await;
        let id = id.map_err(|error| refusal(&error))?;
        self.config.history.record(event);
        if let (Some(given), Some(notices)) = (given, notices) {
            let come = notice::Come {
                id,
                envelope: &given,
                notices,
                head: &self.head,
                at: self.now,
            };
            notice::tell(self.config, self.store, self.routes, &come, &expanded.told).await;
        }
        Ok(id)
    }
}

/// The header block as it is kept, what is added before what came.
fn with_trace(config: &Config, received: &Received<'_>, fields: Fields, head: &[u8]) -> Bytes {
    let mut before = received.to_field();
    if config.fix_up {
        before.push_str(&fix_ups(fields, received.at, received.id, received.by));
    }
    if fields.mailbox_line {
        // As Postfix does: no field, but what stands behind it is the header.
        before.push_str("X-Mailbox-Line: ");
    }
    complete_head(&before, head)
}

/// Puts the postmaster's own address in the place of the host's. ORCPT keeps the one that the
/// sender knows, and is added where there was none (RFC 3461 section 5.2.1 (d)): notices show it.
fn to_postmaster(recipient: &mut Recipient, postmaster: &Address) {
    if recipient.original.is_none() {
        recipient.original = Some(prelude::as_original(&recipient.address));
    }
    recipient.address = postmaster.clone();
}

/// The recipients of an envelope for a log line: the first few, escaped.
#[must_use]
pub fn shown_recipients(envelope: &Envelope) -> String {
    let all = envelope.recipients();
    let mut shown = String::new();
    for recipient in all.iter().take(SHOWN_MAX) {
        if !shown.is_empty() {
            shown.push(' ');
        }
        shown.push_str(&escape_peer_text(&recipient.address.to_string()));
    }
    if all.len() > SHOWN_MAX {
        shown.push_str(" \u{2026}");
    }
    shown
}

/// The header block in its final form, with the empty line that ends it, also where the message had none.
fn complete_head(before: &str, head: &[u8]) -> Bytes {
    let mut whole = BytesMut::with_capacity(before.len() + head.len() + 4);
    whole.extend_from_slice(before.as_bytes());
    whole.extend_from_slice(head);
    // Lines of a binary message may end in LF alone; they stay as they are.
    let ended = [b"\r\n\r\n".as_slice(), b"\n\n", b"\n\r\n"]
        .iter()
        .any(|end| whole.ends_with(end));
    if !ended {
        whole.extend_from_slice(if whole.ends_with(b"\r\n") {
            b"\r\n"
        } else {
            b"\r\n\r\n"
        });
    }
    whole.freeze()
}

/// The reply to a store's error. The cause goes to the log, never to the client.
fn refusal(cause: &StoreError) -> Reply {
    let reply = match cause {
        StoreError::Full { .. } => replies::QUEUE_FULL,
        StoreError::Closed => replies::SHUTTING_DOWN,
        _ => replies::LOCAL_ERROR,
    };
    let source = std::error::Error::source(cause).map(ToString::to_string);
    error!(error = %cause, source, %reply, "a message cannot be kept");
    reply
}
