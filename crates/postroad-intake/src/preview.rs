use std::future::ready;
use std::net::IpAddr;

use postroad_mail::{Address, Envelope, Origin, Reply, ReversePath};
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
