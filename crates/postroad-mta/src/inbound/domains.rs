use std::collections::HashSet;

use postroad_mail::Domain;

/// The domains that a relay takes mail for: `example.org`, `*.example.org` (all below it), `*` (all).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainPatterns {
    exact: HashSet<Domain>,
    /// Parents, in their canonical form.
    below: HashSet<Box<str>>,
    all: bool,
}

/// Not a domain, nor a pattern over domains.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no domain; expected one such as `example.org`, or `*.example.org` for those below it"
)]
pub struct DomainPatternError(String);

impl DomainPatterns {
    /// From a list.
    ///
    /// # Errors
    /// The first that is none.
    pub fn parse<'a>(
        patterns: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, DomainPatternError> {
        let mut parsed = Self::default();
        for pattern in patterns {
            let domain = |s: &str| {
                s.parse::<Domain>()
                    .map_err(|_| DomainPatternError(pattern.to_owned()))
            };
            if pattern == "*" {
                parsed.all = true;
            } else if let Some(parent) = pattern.strip_prefix("*.") {
                parsed.below.insert(domain(parent)?.ascii().into());
            } else {
                parsed.exact.insert(domain(pattern)?);
            }
        }
        Ok(parsed)
    }

    /// Whether it is one of them. An address literal never is, unless it is named.
    #[must_use]
    pub fn contains(&self, domain: &Domain) -> bool {
        if self.exact.contains(domain) {
            return true;
        }
        if domain.is_literal() {
            return false;
        }
        let mut rest = domain.ascii();
        while let Some((_, parent)) = rest.split_once('.') {
            if self.below.contains(parent) {
                return true;
            }
            rest = parent;
        }
        self.all
    }

    /// Whether every domain is one of them.
    #[must_use]
    pub const fn is_all(&self) -> bool {
        self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_are_ours() {
        let ours =
            DomainPatterns::parse(["example.org", "*.sub.test", "bücher.example", "[192.0.2.1]"])
                .unwrap();
        for (domain, ok) in [
            ("EXAMPLE.org", true),
            ("x.example.org", false),
            ("a.b.sub.test", true),
            ("sub.test", false),
            ("notsub.test", false),
            ("xn--bcher-kva.example", true),
            ("[192.0.2.1]", true),
            ("[192.0.2.2]", false),
        ] {
            assert_eq!(ours.contains(&domain.parse().unwrap()), ok, "{domain}");
        }
        assert!(DomainPatterns::parse(["a b"]).is_err() && DomainPatterns::parse(["*."]).is_err());
        let all = DomainPatterns::parse(["*"]).unwrap();
        assert!(
            all.contains(&"x.y".parse().unwrap()) && !all.contains(&"[192.0.2.2]".parse().unwrap())
        );
    }
}
