use postroad_mail::Domain;

use crate::store::{Filter, Listed};

impl Filter {
    /// Whether a message is meant.
    #[must_use]
    pub fn matches(&self, message: &Listed) -> bool {
        (self.ids.is_empty() || self.ids.contains(&message.id))
            && self.held.is_none_or(|held| held == message.held)
            && self.arrived_before.is_none_or(|at| message.arrived < at)
            && self.from.as_deref().is_none_or(|part| {
                let from = &message.envelope.from;
                if part == "<>" {
                    from.is_null()
                } else {
                    !from.is_null() && contains(&from.to_string(), part)
                }
            })
            && self.to.as_deref().is_none_or(|part| {
                let mut all = message.recipients.iter();
                all.any(|recipient| contains(&recipient.address, part))
            })
            && self.lane.as_deref().is_none_or(|lane| {
                let mut all = message.recipients.iter();
                all.any(|r| !r.state.is_final() && r.lane.as_str() == lane)
            })
            && self.domain.as_deref().is_none_or(|domain| {
                let mut all = message.recipients.iter();
                all.any(|r| !r.state.is_final() && is_in(&r.address, domain))
            })
            && self.reason.as_deref().is_none_or(|reason| {
                let mut all = message.recipients.iter().filter(|r| !r.state.is_final());
                all.any(|r| {
                    r.last
                        .as_ref()
                        .is_some_and(|last| contains(&last.reply.to_string(), reason))
                })
            })
    }

    /// Whether all messages are meant, so that none needs to be looked at.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }
}

/// In either form of an international domain.
fn is_in(address: &str, domain: &str) -> bool {
    let of = address.rsplit_once('@').map(|(_, of)| of);
    match (of.map(str::parse::<Domain>), domain.parse::<Domain>()) {
        (Some(Ok(of)), Ok(domain)) => of == domain,
        _ => false,
    }
}

fn contains(text: &str, part: &str) -> bool {
    text.to_lowercase().contains(&part.to_lowercase())
}
