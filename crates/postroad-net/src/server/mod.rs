//! The server's side: listeners and the driver of [`postroad_proto::server::Session`].

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use postroad_proto::server::{Answer, Config, Info, Question};

/// A role's side of one session: answers its questions and takes its content.
pub trait Handler: Send + 'static {
    /// Decides. What is ready at once must not yield.
    fn ask(&mut self, info: &Info, question: Question) -> impl Future<Output = Answer> + Send;

    /// Takes a piece of content. A failure is remembered, and is the answer to `Commit`.
    fn body(&mut self, chunk: Bytes) -> impl Future<Output = ()> + Send;

    /// Forgets the transaction under way.
    fn abandon(&mut self);
}

/// A role: what a listener serves.
pub trait Role: Send + Sync + 'static {
    /// Its side of a session.
    type Handler: Handler;

    /// The session settings now in force, and a handler, for a new connection from `peer`.
    fn open(&self, peer: IpAddr) -> (Arc<Config>, Self::Handler);

    /// Whether the peer is in a trusted network.
    fn is_trusted(&self, peer: IpAddr) -> bool;

    /// `submission` or `relay`, for the log.
    fn name(&self) -> &'static str;
}
