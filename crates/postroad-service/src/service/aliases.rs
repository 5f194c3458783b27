//! Intake's view of the aliases.

use postroad_intake::{AliasPreview, Expansion, Member};
use postroad_lookup::{AliasError, Aliases, Expanded};
use postroad_mail::{Address, Domain, escape_peer_text};
use postroad_queue::BoxFuture;
use tracing::warn;

/// The aliases of the configuration.
#[derive(Clone, Debug)]
pub(crate) struct ConfiguredAliases {
    pub(crate) aliases: Aliases,
    /// Who gets the mail for the postmaster of domains that have aliases only, where none is for
    /// them: every domain has one (RFC 5321 section 4.5.1).
    pub(crate) postmaster: Option<Address>,
}

impl AliasPreview for ConfiguredAliases {
    fn expand<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Expansion> {
        Box::pin(async move {
            match self.aliases.expand(address).await {
                Ok(Expanded::NotAnAlias) => Expansion::Itself,
                Ok(Expanded::Unknown) if address.local_part().is_postmaster() => {
                    let instead = self.postmaster.clone().map(|address| Member {
                        address,
                        from: None,
                    });
                    instead.map_or(Expansion::Itself, |one| Expansion::Members(vec![one]))
                }
                Ok(Expanded::Unknown) => Expansion::Unknown,
                Ok(Expanded::Members(members)) => {
                    let members = members.into_iter().map(|member| Member {
                        address: member.address,
                        from: member.from,
                    });
                    Expansion::Members(members.collect())
                }
                Err(error) => {
                    let to = escape_peer_text(&address.to_string());
                    warn!(to, %error, "an alias cannot be expanded");
                    refused(&error)
                }
            }
        })
    }

    fn is_alias_domain(&self, domain: &Domain) -> bool {
        self.aliases.is_virtual(domain)
    }
}

const fn refused(error: &AliasError) -> Expansion {
    match error {
        AliasError::Value { .. } => Expansion::Unusable,
        AliasError::Loop { .. } | AliasError::TooDeep(_) => Expansion::Loop,
        AliasError::TooLarge(_) => Expansion::TooLarge,
        // A table that cannot say, and whatever else may pass.
        _ => Expansion::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postroad_lookup::{AliasTable, LookupError, SharedTable, Table};

    struct Fixed;

    impl Table for Fixed {
        async fn lookup(&self, key: &str) -> Result<Option<Vec<String>>, LookupError> {
            match key {
                "list@v.test" => Ok(Some(vec!["a@b.test, c@d.test".to_owned()])),
                "owner-list@v.test" => Ok(Some(vec!["boss@b.test".to_owned()])),
                "bad@v.test" => Ok(Some(vec!["|/bin/sh".to_owned()])),
                "one@v.test" => Ok(Some(vec!["two@v.test".to_owned()])),
                "two@v.test" => Ok(Some(vec!["one@v.test".to_owned()])),
                "down@v.test" => Err(LookupError::Unavailable {
                    table: "fixed".to_owned(),
                    detail: "a test".to_owned(),
                }),
                _ => Ok(None),
            }
        }

        fn name(&self) -> String {
            "fixed".to_owned()
        }
    }

    #[tokio::test]
    async fn each_answer_has_its_word() {
        let mut aliases = ConfiguredAliases {
            aliases: Aliases::new(vec![AliasTable {
                table: SharedTable::new(Fixed),
                domains: vec!["v.test".parse().unwrap()],
            }]),
            postmaster: None,
        };
        let postmaster = "Postmaster@v.test".parse().unwrap();
        assert_eq!(aliases.expand(&postmaster).await, Expansion::Itself);
        aliases.postmaster = Some("admin@b.test".parse().unwrap());
        let Expansion::Members(members) = aliases.expand(&postmaster).await else {
            panic!("no members");
        };
        assert_eq!(members[0].address.to_string(), "admin@b.test");
        assert!(aliases.is_alias_domain(&"V.test".parse().unwrap()));
        assert!(!aliases.is_alias_domain(&"w.test".parse().unwrap()));
        let expand = async |to: &str| aliases.expand(&to.parse().unwrap()).await;
        for (to, expansion) in [
            ("x@w.test", Expansion::Itself),
            ("x@v.test", Expansion::Unknown),
            ("bad@v.test", Expansion::Unusable),
            ("one@v.test", Expansion::Loop),
            ("down@v.test", Expansion::Unavailable),
        ] {
            assert_eq!(expand(to).await, expansion, "{to}");
        }
        let Expansion::Members(members) = expand("list@v.test").await else {
            panic!("no members");
        };
        let from = Some("<owner-list@v.test>".parse().unwrap());
        let members: Vec<_> = members
            .into_iter()
            .map(|m| (m.address.to_string(), m.from))
            .collect();
        assert_eq!(
            members,
            [
                ("a@b.test".to_owned(), from.clone()),
                ("c@d.test".to_owned(), from)
            ]
        );
    }
}
