//! Aliases and virtual alias domains: one address that stands for others.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use postroad_mail::{Address, Domain, EnhancedCode, ReversePath};
use tokio::time::timeout;

use crate::key::address_key;
use crate::table::{LookupError, SharedTable};

/// Aliases within aliases, at most.
pub const DEPTH_MAX: usize = 10;
/// Addresses that one stands for, those between included, at most.
pub const MEMBERS_MAX: usize = 1000;
/// How long one expansion may take: it happens while a client waits for the reply to RCPT, for
/// which it grants five minutes (RFC 5321 section 4.5.3.2.3).
pub const EXPANSION_TIME_MAX: Duration = Duration::from_secs(60);
/// What stands before the local part of a list for whoever looks after it.
const OWNER: &str = "owner-";

/// An alias table with the domains that live of it.
#[derive(Clone, Debug)]
pub struct AliasTable {
    /// Asked for `user@domain`, then for `@domain`; see [`address_key`] for the form.
    pub table: SharedTable,
    /// Virtual alias domains: what no table knows does not exist there.
    pub domains: Vec<Domain>,
}

/// All alias tables, in order.
///
/// A value is an address, several with commas between, or `@domain`: the same local part there.
#[derive(Clone, Debug, Default)]
pub struct Aliases {
    tables: Vec<AliasTable>,
}

/// What an address stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expanded {
    /// Itself: no table knows it.
    NotAnAlias,
    /// These, at least one, each once.
    Members(Vec<Member>),
    /// Nothing: it is in a virtual alias domain, and no table knows it (550 5.1.1).
    Unknown,
}

/// One that an alias stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The address: no alias, or one that stands for itself too. It may be one that does not exist,
    /// of a virtual alias domain also: who sends to it finds that out, and the owner is told.
    pub address: Address,
    /// The reverse-path for mail to it, where the innermost list that it is in has an owner
    /// (`owner-list@domain`). It takes the place of the message's own, unless that is null: a
    /// notification stays one.
    pub from: Option<ReversePath>,
}

/// Why it is not known what an address stands for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AliasError {
    /// A table could not say.
    #[error(transparent)]
    Table(#[from] LookupError),
    /// All of it takes longer than [`EXPANSION_TIME_MAX`].
    #[error("expanding {0} takes longer than {EXPANSION_TIME_MAX:?}")]
    Slow(String),
    /// A value is no address.
    #[error(
        "{table}, key `{key}`: `{value}` is no address; expected `user@domain`, several with commas between, or `@domain`; commands, files and includes are not supported"
    )]
    Value {
        /// The table.
        table: String,
        /// The key.
        key: String,
        /// What it said, or the start of it.
        value: String,
    },
    /// An alias leads back to itself through others.
    #[error("the alias {address} leads back to itself through {through}")]
    Loop {
        /// The alias.
        address: String,
        /// The one which names it.
        through: String,
    },
    /// More than [`DEPTH_MAX`] aliases within aliases.
    #[error("the alias {0} leads through more than {DEPTH_MAX} others")]
    TooDeep(String),
    /// More than [`MEMBERS_MAX`] addresses.
    #[error("the alias {0} stands for more than {MEMBERS_MAX} addresses")]
    TooLarge(String),
}

impl AliasError {
    /// What to tell the client (RFC 3463): 4.4.3 where a table fails, 4.3.5 where one is wrong, 5.4.6
    /// for a loop, 5.5.3 for too many. 4.x.y is a 451, 5.x.y a 550.
    #[must_use]
    pub const fn enhanced(&self) -> EnhancedCode {
        match self {
            Self::Table(_) | Self::Slow(_) => EnhancedCode::transient(4, 3),
            Self::Value { .. } => EnhancedCode::transient(3, 5),
            Self::Loop { .. } | Self::TooDeep(_) => EnhancedCode::permanent(4, 6),
            Self::TooLarge(_) => EnhancedCode::permanent(5, 3),
        }
    }
}

impl Aliases {
    /// With these tables.
    #[must_use]
    pub const fn new(tables: Vec<AliasTable>) -> Self {
        Self { tables }
    }

    /// Whether there is no table.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Whether a domain is a virtual alias domain: its mail is accepted, as far as the addresses
    /// are known.
    #[must_use]
    pub fn is_virtual(&self, domain: &Domain) -> bool {
        self.tables
            .iter()
            .any(|table| table.domains.contains(domain))
    }

    /// What an address stands for in the end.
    ///
    /// An alias that names itself keeps itself: `bob: bob, archive`.
    ///
    /// # Errors
    /// Where that cannot be known now, or never will: see [`AliasError::enhanced`].
    pub async fn expand(&self, address: &Address) -> Result<Expanded, AliasError> {
        if self.tables.is_empty() {
            return Ok(Expanded::NotAnAlias);
        }
        timeout(EXPANSION_TIME_MAX, self.members(address))
            .await
            .map_err(|_| AliasError::Slow(address.to_string()))?
    }

    async fn members(&self, address: &Address) -> Result<Expanded, AliasError> {
        let Some(first) = self.found(address).await? else {
            return Ok(if self.is_virtual(address.domain()) {
                Expanded::Unknown
            } else {
                Expanded::NotAnAlias
            });
        };
        let mut expansion = Expansion::new(address);
        expansion.enter(address, first, self.owner(address).await?, None)?;
        while let Some((member, owner)) = expansion.next()? {
            match self.found(&member).await? {
                Some(values) => {
                    let own = self.owner(&member).await?;
                    expansion.enter(&member, values, own, owner)?;
                }
                None => expansion.keep(member, owner),
            }
        }
        Ok(Expanded::Members(expansion.members))
    }

    /// What the tables say for the address itself, then for all of its domain.
    async fn found(&self, address: &Address) -> Result<Option<Vec<Address>>, AliasError> {
        let keys = [
            address_key(address),
            format!("@{}", address.domain().ascii()),
        ];
        for key in &keys {
            for AliasTable { table, .. } in &self.tables {
                if let Some(values) = table.lookup(key).await? {
                    return parsed(&values, address, &table.name(), key).map(Some);
                }
            }
        }
        Ok(None)
    }

    /// The owner of a list, where some table knows that address itself.
    async fn owner(&self, list: &Address) -> Result<Option<ReversePath>, AliasError> {
        let local = list.local_part().as_str();
        let starts = local.get(..OWNER.len());
        // Owners have none themselves: who looks after `owner-x` would be asked for for ever.
        if starts.is_some_and(|start| start.eq_ignore_ascii_case(OWNER)) {
            return Ok(None);
        }
        // In the form of keys: whoever writes to it in another case has no other reverse-path.
        let list = address_key(list);
        let name = match list.strip_prefix('"') {
            Some(quoted) => format!("\"{OWNER}{quoted}"),
            None => format!("{OWNER}{list}"),
        };
        // One that would be too long is nobody's.
        let Ok(owner) = name.parse::<Address>() else {
            return Ok(None);
        };
        let key = address_key(&owner);
        for AliasTable { table, .. } in &self.tables {
            if table.lookup(&key).await?.is_some() {
                return Ok(Some(ReversePath::Address(owner)));
            }
        }
        Ok(None)
    }
}

/// The addresses in the values of a key.
pub(crate) fn parsed(
    values: &[String],
    asked: &Address,
    table: &str,
    key: &str,
) -> Result<Vec<Address>, AliasError> {
    const SHOWN: usize = 100;
    let mut addresses = Vec::new();
    for value in values {
        let wrong = || AliasError::Value {
            table: table.to_owned(),
            key: key.to_owned(),
            value: postroad_mail::escape_peer_text(&value.chars().take(SHOWN).collect::<String>()),
        };
        let between = |c: char| c == ',' || c.is_ascii_whitespace();
        let mut rest = value.trim_start_matches(between);
        while !rest.is_empty() {
            let (address, behind) = if let Some(domain) = rest.strip_prefix('@') {
                let end = domain.find(between).unwrap_or(domain.len());
                let (domain, behind) = domain.split_at(end);
                (asked.at(domain.parse().map_err(|_| wrong())?), behind)
            } else {
                Address::parse_prefix(rest).map_err(|_| wrong())?
            };
            if !(behind.is_empty() || behind.starts_with(between)) {
                return Err(wrong());
            }
            if addresses.len() >= MEMBERS_MAX {
                return Err(AliasError::TooLarge(asked.to_string()));
            }
            addresses.push(address);
            rest = behind.trim_start_matches(between);
        }
    }
    if addresses.is_empty() {
        return Err(AliasError::Value {
            table: table.to_owned(),
            key: key.to_owned(),
            value: String::new(),
        });
    }
    Ok(addresses)
}

/// An expansion under way: depth first, so that the members stand in the order of the tables.
struct Expansion {
    of: String,
    /// The aliases that lead to where we are, each with what of it is left, reversed.
    open: Vec<Open>,
    /// Each alias met, and whether it is still open.
    seen: HashMap<String, bool>,
    /// Addresses named so far.
    named: usize,
    kept: HashSet<String>,
    members: Vec<Member>,
}

struct Open {
    key: String,
    left: Vec<Address>,
    owner: Option<ReversePath>,
}

impl Expansion {
    fn new(of: &Address) -> Self {
        Self {
            of: of.to_string(),
            open: Vec::new(),
            seen: HashMap::new(),
            named: 0,
            kept: HashSet::new(),
            members: Vec::new(),
        }
    }

    /// Opens an alias. Its own owner counts, else the one that its members have anyway.
    fn enter(
        &mut self,
        alias: &Address,
        mut values: Vec<Address>,
        own: Option<ReversePath>,
        inherited: Option<ReversePath>,
    ) -> Result<(), AliasError> {
        self.named += values.len();
        if self.named > MEMBERS_MAX {
            return Err(AliasError::TooLarge(self.of.clone()));
        }
        // The one asked for is within no other.
        if self.open.len() > DEPTH_MAX {
            return Err(AliasError::TooDeep(self.of.clone()));
        }
        values.reverse();
        let key = address_key(alias);
        self.seen.insert(key.clone(), true);
        self.open.push(Open {
            key,
            left: values,
            owner: own.or(inherited),
        });
        Ok(())
    }

    /// The next address to look at, and the owner of the list that it is in.
    fn next(&mut self) -> Result<Option<(Address, Option<ReversePath>)>, AliasError> {
        while let Some(innermost) = self.open.last_mut() {
            let Some(address) = innermost.left.pop() else {
                self.seen.insert(std::mem::take(&mut innermost.key), false);
                self.open.pop();
                continue;
            };
            let key = address_key(&address);
            if key == innermost.key {
                let owner = innermost.owner.clone();
                self.keep(address, owner);
                continue;
            }
            match self.seen.get(&key) {
                Some(true) => {
                    return Err(AliasError::Loop {
                        address: address.to_string(),
                        through: innermost.key.clone(),
                    });
                }
                Some(false) => {}
                None if self.kept.contains(&key) => {}
                None => return Ok(Some((address, innermost.owner.clone()))),
            }
        }
        Ok(None)
    }

    fn keep(&mut self, address: Address, from: Option<ReversePath>) {
        if self.kept.insert(address_key(&address)) {
            self.members.push(Member { address, from });
        }
    }
}

#[cfg(test)]
#[path = "aliases_tests.rs"]
mod tests;
