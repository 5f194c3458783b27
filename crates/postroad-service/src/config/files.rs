//! The files that a configuration names: read, or what is wrong with which key.

use postroad_msa::UsersFile;
use postroad_net::client::{Connector, ConnectorError};
use postroad_net::tls::{TlsCertificates, TlsError};

use super::{Loaded, Problem};
use crate::causes::with_causes;

/// The certificate and its key.
pub(crate) fn certificates(loaded: &Loaded) -> Result<Option<TlsCertificates>, Problem> {
    let Some(tls) = &loaded.config.tls else {
        return Ok(None);
    };
    TlsCertificates::load(&tls.certificate, &tls.key)
        .map(Some)
        .map_err(|error| {
            let of_key = match &error {
                TlsError::NoKey { .. } => true,
                TlsError::Read { path, .. } => *path == tls.key,
                _ => false,
            };
            let key = if of_key { "tls.key" } else { "tls.certificate" };
            loaded.problem(key, 0, with_causes(&error))
        })
}

/// The users.
pub(crate) fn users(loaded: &Loaded) -> Result<Option<UsersFile>, Problem> {
    let directory = loaded.config.submission.directory.as_ref();
    let Some(path) = directory.and_then(|d| d.path.as_ref()) else {
        return Ok(None);
    };
    UsersFile::open(path)
        .map(Some)
        .map_err(|error| loaded.problem("submission.directory", 0, with_causes(&error)))
}

/// What next hops' certificates are checked against.
pub(crate) fn authorities(loaded: &Loaded) -> Result<Connector, Problem> {
    let paths = &loaded.config.delivery.authorities;
    Connector::new(paths).map_err(|error| {
        let nth = match &error {
            ConnectorError::Roots { path, .. } => paths.iter().position(|p| p == path),
            _ => None,
        };
        loaded.problem(
            "delivery.authorities",
            nth.unwrap_or(0),
            with_causes(&error),
        )
    })
}
