//! What is found out about a transaction before its content comes: when it began, and whom its
//! recipients stand for.
//!
//! What becomes of the DSN parameters (RFC 3461 section 5.2.7):
//!
//! | the recipient is | its members get | and where NOTIFY had SUCCESS |
//! |---|---|---|
//! | an alias of one address | all of its parameters | the member's host tells |
//! | an alias of several | the same, but NOTIFY without SUCCESS: way (c) | the sender gets an `expanded` notice |
//! | a list with an owner | none; its own reverse-path, so that ENVID and RET do not count either | the sender gets a `delivered` notice |
//!
//! ORCPT is the recipient's own address where the sender gave none, so that notices name the one
//! that the sender knows.

use std::collections::{HashMap, HashSet};

use postroad_mail::{
    Address, Envelope, Notify, OriginalRecipient, Recipient, Reply, Timestamp, escape_peer_text,
    replies,
};
use postroad_message::dsn::Action;
use tracing::warn;

use crate::Config;
use crate::preview::{AliasPreview, Expansion, Member};

/// Recipients of one message after its aliases are expanded, at most.
pub const EXPANDED_MAX: usize = 10_000;
/// Aliases of one message, and members of each, that the history names.
const NAMED_MAX: usize = 100;
/// Octets of all that, at most.
const NAMED_OCTETS: usize = 64 << 10;

/// What was found out about a transaction before its content came.
#[derive(Clone, Debug, Default)]
pub struct Prelude {
    pub(crate) began: Timestamp,
    members: HashMap<Address, Vec<Member>>,
    count: usize,
}

/// A recipient about which the sender is told that it was expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) recipient: Recipient,
    pub(crate) action: Action,
}

/// What an expansion has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expanded {
    pub(crate) told: Vec<Told>,
    /// For the history: `list@example.org -> a@b, c@d`.
    pub(crate) named: Vec<String>,
}

impl Expanded {
    /// Remembers a line, as far as there is room.
    fn name(&mut self, line: String) {
        let octets: usize = self.named.iter().map(String::len).sum();
        if self.named.len() < NAMED_MAX && octets + line.len() <= NAMED_OCTETS {
            self.named.push(line);
        }
    }
}

impl Prelude {
    /// A transaction begins: MAIL has come.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self {
            began: now,
            ..Self::default()
        }
    }

    /// RCPT has come: whom that address stands for, to be remembered. Where it stands for one
    /// other, that one.
    ///
    /// # Errors
    /// The reply to give, where it stands for nobody, or that cannot be told.
    pub async fn recipient(
        &mut self,
        aliases: &dyn AliasPreview,
        address: &Address,
    ) -> Result<Option<Address>, Reply> {
        let members = match aliases.expand(address).await {
            Expansion::Itself => return Ok(None),
            Expansion::Members(members) => members,
            Expansion::Unknown => return Err(replies::UNKNOWN_RECIPIENT),
            Expansion::Unavailable => return Err(replies::ALIAS_UNAVAILABLE),
            Expansion::Unusable => return Err(replies::ALIAS_UNUSABLE),
            Expansion::Loop => return Err(replies::ALIAS_LOOP),
            Expansion::TooLarge => return Err(replies::ALIAS_TOO_LARGE),
        };
        let before = self.members.get(address).map_or(0, Vec::len);
        let count = self.count - before + members.len();
        if count > EXPANDED_MAX {
            // One that would not fit alone never will.
            let alone = members.len() > EXPANDED_MAX;
            return Err(if alone {
                replies::ALIAS_TOO_LARGE
            } else {
                replies::TOO_MANY_RECIPIENTS
            });
        }
        let only = match members.as_slice() {
            [one] => Some(one.address.clone()),
            _ => None,
        };
        self.count = count;
        self.members.insert(address.clone(), members);
        Ok(only)
    }

    /// RCPT has named the postmaster of this host, who is always there: whom the address that gets
    /// that mail stands for. Where it cannot be told, it stands for itself.
    pub async fn postmaster(&mut self, config: &Config) {
        if let Some(postmaster) = &config.postmaster
            && let Err(reply) = self.recipient(&*config.aliases, postmaster).await
        {
            warn!(%reply, "the postmaster's mail goes to the address as it stands");
        }
    }

    /// Whether a recipient is an alias.
    pub(crate) fn has_aliases(&self) -> bool {
        !self.members.is_empty()
    }

    /// Puts members in the place of the recipients that stand for them, each once. Who is named
    /// by the sender is that, whatever alias stands for them too.
    pub(crate) fn expand(&self, envelope: &mut Envelope) -> Expanded {
        let mut expanded = Expanded::default();
        if self.members.is_empty() {
            return expanded;
        }
        let notices = !envelope.from.is_null();
        let named = envelope.recipients().iter();
        let direct: HashSet<Address> = named
            .map(|recipient| &recipient.address)
            .filter(|address| !self.members.contains_key(*address))
            .cloned()
            .collect();
        let mut seen = direct.clone();
        let mut all = Vec::with_capacity(envelope.recipients().len() + self.count);
        for recipient in envelope.recipients() {
            let Some(members) = self.members.get(&recipient.address) else {
                all.push(recipient.clone());
                continue;
            };
            for member in members {
                if seen.insert(member.address.clone()) {
                    all.push(stands_for(recipient, member, members.len() == 1, notices));
                }
            }
            expanded.name(line(&recipient.address, members));
            if notices && recipient.notify().success {
                let told = told(recipient, members);
                expanded.told.extend(told);
            }
        }
        envelope.replace_recipients(all);
        expanded
    }
}

/// Puts those for whom the recipients of a message of our own stand in their place. A recipient
/// for whom that cannot be told for good stays.
///
/// # Errors
/// The reply of a table that cannot say it now, and nothing is changed: the message is to wait for
/// it, since to an alias as it stands it may come back to us, and be lost.
pub async fn expand_own(aliases: &dyn AliasPreview, envelope: &mut Envelope) -> Result<(), Reply> {
    let mut prelude = Prelude::default();
    for recipient in envelope.recipients() {
        if let Err(reply) = prelude.recipient(aliases, &recipient.address).await {
            if reply == replies::ALIAS_UNAVAILABLE {
                return Err(reply);
            }
            let to = escape_peer_text(&recipient.address.to_string());
            warn!(to, %reply, "a notice goes to an address as it stands");
        }
    }
    prelude.expand(envelope);
    Ok(())
}

fn stands_for(recipient: &Recipient, member: &Member, only: bool, notices: bool) -> Recipient {
    // A notification stays one.
    if let Some(from) = member.from.as_ref().filter(|_| notices) {
        return Recipient {
            from: Some(from.clone()),
            ..Recipient::new(member.address.clone())
        };
    }
    let without_success = |notify| Notify {
        success: false,
        ..notify
    };
    let original = recipient.original.clone();
    Recipient {
        address: member.address.clone(),
        notify: if only {
            recipient.notify
        } else {
            recipient.notify.map(without_success)
        },
        original: original.or_else(|| Some(as_original(&recipient.address))),
        from: recipient.from.clone(),
    }
}

/// An address as ORCPT has it.
pub(crate) fn as_original(address: &Address) -> OriginalRecipient {
    OriginalRecipient {
        address_type: "rfc822".to_owned(),
        address: address.to_ascii_domain(),
    }
}

/// What a sender who asked for notices of success is told of an alias.
fn told(recipient: &Recipient, members: &[Member]) -> Option<Told> {
    let list = members.iter().all(|member| member.from.is_some());
    let action = match (list, members.len()) {
        (true, _) => Action::Delivered,
        (false, 0 | 1) => return None,
        (false, _) => Action::Expanded,
    };
    Some(Told {
        recipient: recipient.clone(),
        action,
    })
}

fn line(address: &Address, members: &[Member]) -> String {
    let mut line = format!("{address} -> ");
    for (place, member) in members.iter().take(NAMED_MAX).enumerate() {
        let separator = if place == 0 { "" } else { ", " };
        line.push_str(separator);
        line.push_str(&member.address.to_string());
    }
    if members.len() > NAMED_MAX {
        line.push_str(", \u{2026}");
    }
    line
}
