use postroad_mail::{Reply, Timestamp};
use serde::{Deserialize, Serialize};

/// What is known of one attempt for one recipient: enough to explain it to its sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// When it ended.
    pub at: Timestamp,
    /// Who was talked to, as `host[address]:port`; none where it came to no connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hop: Option<String>,
    /// The name of the host whose reply this is, for `Remote-MTA` (RFC 3464 section 2.3.5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_mta: Option<String>,
    /// What it said, or what we say of it where the fault was found here. Text at most 512 octets.
    pub reply: Reply,
    /// Whether `reply` is the peer's own.
    #[serde(default)]
    pub remote: bool,
    /// Protocol version and cipher suite, where TLS was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
}

/// How an attempt ended for one recipient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The next hop has taken it.
    Delivered(Evidence),
    /// To be tried again.
    Deferred(Evidence),
    /// Never to be tried again; a notice is owed unless the sender wants none.
    Failed(Evidence),
}

impl Outcome {
    /// What is known of the attempt.
    #[must_use]
    pub const fn evidence(&self) -> &Evidence {
        match self {
            Self::Delivered(e) | Self::Deferred(e) | Self::Failed(e) => e,
        }
    }
}

/// Where a recipient stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecipientState {
    /// To be delivered.
    #[default]
    Waiting,
    /// Delivered.
    Delivered,
    /// Failed for good.
    Failed,
    /// Removed by an operator.
    Removed,
}

impl RecipientState {
    /// Whether nothing more will happen.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Waiting)
    }

    /// What an attempt's outcome makes of it; a final state stays.
    #[must_use]
    pub const fn after(self, outcome: &Outcome) -> Self {
        match (self, outcome) {
            (Self::Waiting, Outcome::Delivered(_)) => Self::Delivered,
            (Self::Waiting, Outcome::Failed(_)) => Self::Failed,
            (state, _) => state,
        }
    }
}
