//! What a configuration leads to on this machine: `postroad check`.

use std::path::Path;

use postroad_msa::UsersFile;
use postroad_net::client::Connector;
use postroad_net::tls::TlsCertificates;

use super::{Config, Loaded, Roles, Service, StoreKind};

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// It would not start, or not work.
    pub errors: Vec<String>,
    /// It would, but look at it.
    pub warnings: Vec<String>,
}

/// Looks at all that the configuration names: certificates, users, the queue's directory.
#[must_use]
pub fn check(loaded: &Loaded) -> Findings {
    let mut findings = Findings::default();
    if let Err(error) = Roles::from_config(loaded) {
        findings
            .errors
            .extend(error.0.iter().map(ToString::to_string));
    }
    let config = &loaded.config;
    if config.listener.is_empty() {
        findings.errors.push(
            loaded
                .problem(
                    "listener",
                    0,
                    "none: nothing would be served; add a table [[listener]]",
                )
                .to_string(),
        );
    }
    files(config, &mut findings);
    if config.postmaster.is_none() {
        findings.warnings.push("postmaster: not set: mail for <postmaster> stays at this host's name, and double bounces are only logged".to_owned());
    }
    if config.queue.store == StoreKind::Memory {
        findings
            .warnings
            .push("queue.store: \"memory\" keeps nothing: all mail is lost at a stop".to_owned());
    }
    if config.queue.durability == super::Durability::Os {
        findings
            .warnings
            .push("queue.durability: \"os\" loses mail at a power loss".to_owned());
    }
    findings
}

fn files(config: &Config, findings: &mut Findings) {
    if let Some(tls) = &config.tls
        && let Err(error) = TlsCertificates::load(&tls.certificate, &tls.key)
    {
        findings.errors.push(format!("tls: {error}"));
    }
    let submission = config
        .listener
        .iter()
        .any(|l| l.service == Service::Submission);
    if let Some(path) = config
        .submission
        .directory
        .as_ref()
        .and_then(|d| d.path.as_ref())
        .filter(|_| submission)
        && let Err(error) = UsersFile::open(path)
    {
        findings
            .errors
            .push(format!("submission.directory: {error}"));
    }
    if let Err(error) = Connector::new(&config.delivery.authorities) {
        findings
            .errors
            .push(format!("delivery.authorities: {error}"));
    }
    if config.queue.store == StoreKind::Local {
        queue(&config.queue.path, findings);
    }
}

/// The directory, or the nearest that there is above it, must take files.
fn queue(path: &Path, findings: &mut Findings) {
    let existing = path
        .ancestors()
        .find(|p| p.exists())
        .unwrap_or(Path::new("."));
    let writable = nix::unistd::access(
        existing,
        nix::unistd::AccessFlags::W_OK | nix::unistd::AccessFlags::X_OK,
    );
    if let Err(error) = writable {
        findings.errors.push(format!(
            "queue.path: {} cannot be written: {error}",
            existing.display()
        ));
    }
}
