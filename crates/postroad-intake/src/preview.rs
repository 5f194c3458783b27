use std::future::ready;
use std::net::IpAddr;

use postroad_mail::{Address, Domain, Envelope, Origin, Reply, ReversePath};
use postroad_queue::{BoxFuture, Lane};

/// What the routes say of mail before it is in the queue, without asking the DNS. Intake knows no
/// router; who has one tells it through this.
pub trait RoutePreview: Send + Sync + 'static {
    /// The lane of each recipient, in their order: recipients in one lane travel together where
    /// their routes are equal, and are limited together. Answers within seconds, come what may.
    fn lanes<'a>(
        &'a self,
        envelope: &'a Envelope,
        origin: &'a Origin,
        size: u64,
    ) -> BoxFuture<'a, Vec<Lane>>;

    /// The reply with which a route refuses this recipient for good, if one does.
    fn refusal<'a>(&'a self, asked: &'a RcptAsked<'a>) -> BoxFuture<'a, Option<Reply>>;
}

/// A recipient, as known when RCPT is answered.
#[derive(Clone, Copy, Debug)]
pub struct RcptAsked<'a> {
    /// The recipient.
    pub recipient: &'a Address,
    /// The reverse-path.
    pub sender: &'a ReversePath,
    /// The authenticated user.
    pub user: Option<&'a str>,
    /// The address of the client.
    pub network: Option<IpAddr>,
    /// What SIZE= said, or 0.
    pub size: u64,
}

/// What aliases there are. Intake knows no tables; who has some tells it through this.
pub trait AliasPreview: Send + Sync + std::fmt::Debug + 'static {
    /// What an address stands for in the end. Answers within the time that a client waits for the
    /// reply to RCPT (RFC 5321 section 4.5.3.2.3: five minutes), come what may.
    fn expand<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Expansion>;

    /// Whether mail for the domain is taken, as far as its addresses are aliases.
    fn is_alias_domain(&self, domain: &Domain) -> bool;
}

/// What an address stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expansion {
    /// Itself: it is no alias.
    Itself,
    /// These, at least one.
    Members(Vec<Member>),
    /// Nobody: its domain has aliases only, and it is none of them.
    Unknown,
    /// It cannot be found out now.
    Unavailable,
    /// What the table says is no address: somebody has to see to it.
    Unusable,
    /// It leads back to itself.
    Loop,
    /// More than one address may stand for.
    TooLarge,
}

/// One for whom an alias stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The address.
    pub address: Address,
    /// The reverse-path for mail to it, where the alias is a list with somebody who looks after
    /// it (RFC 5321 section 3.9.2).
    pub from: Option<ReversePath>,
}

/// There are none.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoAliases;

impl AliasPreview for NoAliases {
    fn expand<'a>(&'a self, _address: &'a Address) -> BoxFuture<'a, Expansion> {
        Box::pin(ready(Expansion::Itself))
    }

    fn is_alias_domain(&self, _domain: &Domain) -> bool {
        false
    }
}

/// No routes: a lane for each domain, and nobody is refused.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByDomain;

impl ByDomain {
    /// The lane of a recipient.
    #[must_use]
    pub fn lane(recipient: &Address) -> Lane {
        Lane::new(recipient.domain().ascii())
    }
}

impl RoutePreview for ByDomain {
    fn lanes<'a>(
        &'a self,
        envelope: &'a Envelope,
        _origin: &'a Origin,
        _size: u64,
    ) -> BoxFuture<'a, Vec<Lane>> {
        let recipients = envelope.recipients().iter();
        Box::pin(ready(recipients.map(|r| Self::lane(&r.address)).collect()))
    }

    fn refusal<'a>(&'a self, _asked: &'a RcptAsked<'a>) -> BoxFuture<'a, Option<Reply>> {
        Box::pin(ready(None))
    }
}
