//! What both receiving roles share: from an agreed envelope and a stream of content to a message
//! in the queue.

use std::sync::Arc;

use bytes::Bytes;
use postroad_mail::{Envelope, Origin, Reply, Timestamp};
use postroad_proto::server::Info;
use postroad_queue::{QueueId, Store};

/// What intake does besides storing.
#[derive(Clone, Debug)]
pub struct Config {
    /// The host name in the Received header.
    pub hostname: postroad_mail::Domain,
    /// `submission` or `relay`: the origin's service.
    pub service: &'static str,
    /// Octets of header, at most.
    pub header_size: usize,
    /// Received headers, at which a message is taken to loop (100).
    pub hops_max: usize,
    /// Add Date and Message-ID where they are missing (RFC 6409 section 8).
    pub fix_up: bool,
}

/// One message on its way in. Dropping it leaves nothing.
#[allow(missing_debug_implementations, reason = "stub")]
pub struct Intake {}

impl Intake {
    /// Begins; refuses at once where there is no room.
    ///
    /// # Errors
    /// The reply to give.
    pub fn begin(
        _now: Timestamp,
        _config: Arc<Config>,
        _store: &Arc<dyn Store>,
        _info: &Info,
        _envelope: Envelope,
    ) -> Result<Self, Reply> {
        unimplemented!()
    }

    /// Takes a piece of content. Errors are remembered for [`Intake::commit`].
    pub async fn body(&mut self, _chunk: Bytes) {
        unimplemented!()
    }

    /// Adds trace and fix-ups, and makes the message durable.
    ///
    /// # Errors
    /// The reply to give.
    pub async fn commit(self, _now: Timestamp) -> Result<(QueueId, Origin), Reply> {
        unimplemented!()
    }
}
