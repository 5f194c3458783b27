//! An LDAP directory as a table.

use std::fmt;
use std::sync::Arc;

use ldap3::{
    Ldap, LdapConnAsync, LdapConnSettings, LdapError, LdapResult, ResultEntry, Scope, SearchOptions,
};
use postroad_mail::{Secret, escape_peer_text};
use rustls::ClientConfig;
use tokio::task::{AbortHandle, JoinHandle};

use crate::fetch::chain;
use crate::ldap_filter::filled;
use crate::pool::Pool;
use crate::table::{LookupError, Table, bounded};

/// Entries that a search may find, at most.
const ENTRIES_MAX: i32 = 1000;

/// What to ask a directory, and how.
#[derive(Clone, Debug)]
pub struct LdapOptions {
    /// `ldap://host:389`, `ldaps://host:636` or `ldapi://%2Frun%2Fslapd%2Fldapi`.
    pub url: String,
    /// TLS over `ldap://` before anything is asked (RFC 4511 section 4.14); without it no go.
    pub starttls: bool,
    /// Where the search starts, as `ou=people,dc=example,dc=org`; all that is below counts.
    pub base: String,
    /// The search filter (RFC 4515). In it `%s` is the key, `%u` its local part and `%d` its
    /// domain, each escaped; `%%` is a `%`. Where the key has no such part, nothing is found.
    pub filter: String,
    /// The attributes whose values count, in order; at least one.
    pub attributes: Vec<String>,
    /// Who asks: a DN and its password; without, nobody in particular.
    pub bind: Option<(String, Secret)>,
    /// Connections, at most.
    pub connections: usize,
}

/// Why a directory cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LdapOptionsError {
    /// Not the URL of a directory.
    #[error(
        "`{0}` is no URL of a directory; expected `ldap://host`, `ldaps://host` or `ldapi://%2Fpath`, with nothing behind"
    )]
    Url(String),
    /// Twice TLS, or TLS over a Unix socket.
    #[error("starttls goes with `ldap://` only, and the URL is `{0}`")]
    StartTls(String),
    /// Not a search filter.
    #[error(
        "`{0}` is no search filter; expected one as `(mail=%s)`, with %s for the key, %u for its local part, %d for its domain and %% for a %"
    )]
    Filter(String),
    /// A filter that is the same for all keys.
    #[error("`{0}` has no %s, %u or %d in it: it would find the same for every key")]
    NoKey(String),
    /// No attribute.
    #[error("no attribute is named whose values to take")]
    NoAttribute,
}

/// A directory that is searched for each key.
///
/// Waits for ever by itself: put it into [`guarded`](crate::SharedTable::guarded).
pub struct LdapTable {
    shared: Arc<Shared>,
    pool: Pool<Ldap>,
}

struct Shared {
    options: LdapOptions,
    tls: Arc<ClientConfig>,
}

/// Why a search gave nothing.
enum Failure {
    /// There is no connection, or it broke: one that was used before may have been closed.
    Connection(String),
    /// The directory says that it cannot now.
    Later(String),
    /// It says that the question is wrong, or says nonsense.
    Wrong(String),
}

impl From<LdapError> for Failure {
    fn from(error: LdapError) -> Self {
        match error {
            LdapError::LdapResult { result } => Self::said(&result),
            error => Self::Connection(chain(&error)),
        }
    }
}

impl Failure {
    /// RFC 4511 appendix A.
    fn said(result: &LdapResult) -> Self {
        const TIME_LIMIT: u32 = 3;
        const SIZE_LIMIT: u32 = 4;
        const ADMIN_LIMIT: u32 = 11;
        const NO_SUCH_OBJECT: u32 = 32;
        const INVALID_CREDENTIALS: u32 = 49;
        const BUSY: u32 = 51;
        const UNAVAILABLE: u32 = 52;
        const OTHER: u32 = 80;
        let check = match result.rc {
            SIZE_LIMIT => "; the filter finds too much",
            NO_SUCH_OBJECT => "; is the base right, and may it be seen?",
            INVALID_CREDENTIALS => "; are bind and password right?",
            _ => "",
        };
        let detail = format!("it says: {result}{check}");
        match result.rc {
            TIME_LIMIT | ADMIN_LIMIT | BUSY | UNAVAILABLE | OTHER => Self::Later(detail),
            _ => Self::Wrong(detail),
        }
    }
}

impl LdapTable {
    /// A directory; `tls` decides which certificates are good. Nothing is connected yet.
    ///
    /// # Errors
    /// Where the options make no sense.
    pub fn new(options: LdapOptions, tls: Arc<ClientConfig>) -> Result<Self, LdapOptionsError> {
        let (scheme, rest) = options.url.split_once("://").unwrap_or_default();
        let host = rest.trim_end_matches('/');
        let good = matches!(scheme, "ldap" | "ldaps" | "ldapi")
            && !host.is_empty()
            && host
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || b"-._~%:[]".contains(&c))
            && (scheme != "ldapi" || !host.contains(':'));
        if !good {
            return Err(LdapOptionsError::Url(options.url));
        }
        if options.starttls && scheme != "ldap" {
            return Err(LdapOptionsError::StartTls(options.url));
        }
        let (example, keyed) = filled(&options.filter, "user@example.org")
            .ok_or_else(|| LdapOptionsError::Filter(options.filter.clone()))?;
        if example.is_none_or(|example| ldap3::parse_filter(example).is_err()) {
            return Err(LdapOptionsError::Filter(options.filter));
        }
        if !keyed {
            return Err(LdapOptionsError::NoKey(options.filter));
        }
        if options.attributes.iter().all(String::is_empty) {
            return Err(LdapOptionsError::NoAttribute);
        }
        let pool = Pool::new(options.connections);
        let shared = Arc::new(Shared { options, tls });
        Ok(Self { shared, pool })
    }

    /// Searches in a task of its own: the library panics on some answers that are not well-formed.
    async fn search(
        &self,
        used: Option<Ldap>,
        filter: &str,
    ) -> Result<(Ldap, Vec<String>), Failure> {
        let (shared, filter) = (Arc::clone(&self.shared), filter.to_owned());
        let task = tokio::spawn(async move {
            let mut ldap = match used {
                Some(used) => used,
                None => shared.connect().await?,
            };
            let values = shared.search(&mut ldap, &filter).await?;
            Ok((ldap, values))
        });
        ended(task).await
    }

    fn failed(&self, failure: &Failure) -> LookupError {
        match failure {
            Failure::Connection(detail) | Failure::Later(detail) => {
                LookupError::unavailable(self, &escape_peer_text(detail))
            }
            Failure::Wrong(detail) => LookupError::invalid(self, &escape_peer_text(detail)),
        }
    }
}

impl Table for LdapTable {
    async fn lookup(&self, key: &str) -> Result<Option<Vec<String>>, LookupError> {
        let filled = filled(&self.shared.options.filter, key);
        let Some(filter) = filled.and_then(|(filter, _)| filter) else {
            return Ok(None);
        };
        let slot = self.pool.slot().await;
        let mut found = Err(Failure::Connection(String::new()));
        if let Some(mut used) = slot.idle()
            && !used.is_closed()
        {
            found = self.search(Some(used), &filter).await;
        }
        // It may have been closed while nobody used it; a new one has not.
        if matches!(found, Err(Failure::Connection(_))) {
            found = self.search(None, &filter).await;
        }
        let (ldap, values) = found.map_err(|failure| self.failed(&failure))?;
        slot.give_back(ldap);
        Ok((!values.is_empty()).then_some(values))
    }

    fn name(&self) -> String {
        let options = &self.shared.options;
        format!("ldap {} {}", options.url, options.base)
    }
}

impl fmt::Debug for LdapTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LdapTable({:?}, {:?})", self.shared.options, self.pool)
    }
}

impl Shared {
    async fn connect(&self) -> Result<Ldap, Failure> {
        let LdapOptions { url, bind, .. } = &self.options;
        let settings = LdapConnSettings::new()
            .set_config(Arc::clone(&self.tls))
            .set_starttls(self.options.starttls);
        let (connection, mut ldap) = LdapConnAsync::with_settings(settings, url)
            .await
            .map_err(|error| match Failure::from(error) {
                Failure::Connection(why) => Failure::Connection(format!(
                    "connecting to {url}: {why}; is the directory running, and its certificate good?"
                )),
                said => said,
            })?;
        // It ends when the last handle goes.
        tokio::spawn(async move {
            if let Err(error) = connection.drive().await {
                tracing::debug!(error = %chain(&error), "a connection to a directory broke");
            }
        });
        if let Some((name, password)) = bind {
            let bound = ldap.simple_bind(name, password.expose()).await?;
            bound.success()?;
        }
        Ok(ldap)
    }

    async fn search(&self, ldap: &mut Ldap, filter: &str) -> Result<Vec<String>, Failure> {
        let LdapOptions {
            base, attributes, ..
        } = &self.options;
        ldap.with_search_options(SearchOptions::new().sizelimit(ENTRIES_MAX));
        let names: Vec<&str> = attributes.iter().map(String::as_str).collect();
        let mut found = ldap
            .streaming_search(base, Scope::Subtree, filter, names)
            .await?;
        let (mut values, mut entries) = (Vec::new(), 0);
        while let Some(entry) = found.next().await? {
            // A directory that keeps to the limit says so itself.
            entries += 1;
            if entries > ENTRIES_MAX {
                return Err(Failure::Wrong(format!("more than {ENTRIES_MAX} entries")));
            }
            if entry.is_ref() || entry.is_intermediate() {
                continue;
            }
            let mut entry = parsed(entry)
                .ok_or_else(|| Failure::Wrong("an entry is not well-formed".to_owned()))?;
            for name in attributes {
                let same = |(is, _): &(String, _)| is.eq_ignore_ascii_case(name);
                if let Some(at) = entry.iter().position(same) {
                    for value in entry.swap_remove(at).1 {
                        // To leave it out would be to say that there is none.
                        let not_text =
                            |_| Failure::Wrong(format!("a value of `{name}` is not UTF-8"));
                        values.push(String::from_utf8(value).map_err(not_text)?);
                    }
                }
            }
            bounded(&values).map_err(Failure::Wrong)?;
        }
        found.finish().await.success()?;
        Ok(values)
    }
}

/// The attributes of an entry with their values (RFC 4511 section 4.5.2). The library's own function
/// for that panics on what is not well-formed.
fn parsed(entry: ResultEntry) -> Option<Vec<(String, Vec<Vec<u8>>)>> {
    const SEARCH_RESULT_ENTRY: u64 = 4;
    let mut parts = entry
        .0
        .match_id(SEARCH_RESULT_ENTRY)?
        .expect_constructed()?;
    let attributes = parts.pop()?.expect_constructed()?;
    let attribute = |attribute: ldap3::asn1::StructureTag| {
        let mut parts = attribute.expect_constructed()?.into_iter();
        let name = String::from_utf8(parts.next()?.expect_primitive()?).ok()?;
        let mut values = Vec::new();
        for value in parts.next()?.expect_constructed()? {
            values.push(value.expect_primitive()?);
        }
        Some((name, values))
    };
    attributes.into_iter().map(attribute).collect()
}

/// Waits for a task, and ends it where nobody waits any longer.
async fn ended<T>(task: JoinHandle<Result<T, Failure>>) -> Result<T, Failure> {
    struct Abort(AbortHandle);
    impl Drop for Abort {
        fn drop(&mut self) {
            self.0.abort();
        }
    }
    let _abort = Abort(task.abort_handle());
    let wrong = || Failure::Wrong("an answer is not well-formed LDAP".to_owned());
    task.await.unwrap_or_else(|_| Err(wrong()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let tls = Arc::new(tls);
        let good = LdapOptions {
            url: "ldap://127.0.0.1:389".to_owned(),
            starttls: false,
            base: String::new(),
            filter: "(mail=%s)".to_owned(),
            attributes: vec!["mail".to_owned()],
            bind: None,
            connections: 1,
        };
        assert!(LdapTable::new(good.clone(), Arc::clone(&tls)).is_ok());
        let refused = |options| LdapTable::new(options, Arc::clone(&tls)).unwrap_err();
        for url in [
            "",
            "ldap:",
            "ldap://",
            "ldap:///",
            "http://x",
            "ldap://h/dc=x",
            "ldap://a b",
        ] {
            let url = url.to_owned();
            let error = refused(LdapOptions {
                url,
                ..good.clone()
            });
            assert!(matches!(error, LdapOptionsError::Url(_)), "{error}");
        }
        for filter in ["", "mail=%s)", "(mail=%s", "(mail=%x)", "(mail=%s)%"] {
            let filter = filter.to_owned();
            let error = refused(LdapOptions {
                filter,
                ..good.clone()
            });
            assert!(matches!(error, LdapOptionsError::Filter(_)), "{error}");
        }
        let (filter, url) = ("(mail=x)".to_owned(), "ldaps://h".to_owned());
        let error = refused(LdapOptions {
            filter,
            ..good.clone()
        });
        assert!(matches!(error, LdapOptionsError::NoKey(_)), "{error}");
        let error = refused(LdapOptions {
            url,
            starttls: true,
            ..good.clone()
        });
        assert!(matches!(error, LdapOptionsError::StartTls(_)), "{error}");
        let error = refused(LdapOptions {
            attributes: vec![],
            ..good
        });
        assert_eq!(error, LdapOptionsError::NoAttribute);
    }
}
