//! What a configuration leads to on this machine: `postroad check`.

use std::path::Path;

use nix::unistd::{AccessFlags, access, geteuid};

use super::{ConfigError, Durability, Loaded, Problem, Roles, Service, StoreKind, files, reach};
use crate::service::foreign_owner;

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// It would not start, or not work.
    pub errors: Vec<String>,
    /// It would, but look at it.
    pub warnings: Vec<String>,
}

impl Findings {
    pub(super) fn error(&mut self, problem: &Problem) {
        self.errors.push(problem.to_string());
    }

    pub(super) fn warning(&mut self, problem: &Problem) {
        self.warnings.push(problem.to_string());
    }
}

impl From<ConfigError> for Findings {
    fn from(mistakes: ConfigError) -> Self {
        Self {
            errors: mistakes.0.iter().map(ToString::to_string).collect(),
            warnings: Vec::new(),
        }
    }
}

/// Looks at all that the configuration names: certificates, users, directories, and, by DNS and
/// TCP, where mail would go.
pub async fn check(loaded: &Loaded) -> Findings {
    let mut findings = Findings::default();
    if loaded.config.listener.is_empty() {
        let message = "none: nothing would be served; add a table [[listener]]";
        findings.error(&loaded.problem("listener", 0, message));
    }
    named_files(loaded, &mut findings);
    directories(loaded, &mut findings);
    doubtful(loaded, &mut findings);
    match Roles::from_config(loaded) {
        Ok(roles) => reach::look(loaded, &roles, &mut findings).await,
        Err(mistakes) => findings.errors.extend(Findings::from(mistakes).errors),
    }
    findings
}

fn named_files(loaded: &Loaded, findings: &mut Findings) {
    let mut listeners = loaded.config.listener.iter();
    let users = if listeners.any(|l| l.service == Service::Submission) {
        files::users(loaded).map(|_| ())
    } else {
        Ok(())
    };
    for found in [
        files::certificates(loaded).map(|_| ()),
        users,
        files::authorities(loaded).map(|_| ()),
    ] {
        if let Err(problem) = found {
            findings.error(&problem);
        }
    }
}

fn directories(loaded: &Loaded, findings: &mut Findings) {
    let mut test = |key: &str, nth: usize, path: &Path| {
        if let Err(message) = takes_files(path) {
            findings.error(&loaded.problem(key, nth, message));
        }
    };
    if loaded.config.queue.store == StoreKind::Local {
        test("queue.path", 0, &loaded.config.queue.path);
    }
    for (nth, route) in loaded.config.route.iter().enumerate() {
        if let Some(path) = route.via.strip_prefix("maildir:") {
            test("route.via", nth, fixed_part(Path::new(path)));
        }
    }
    if let Some(owner) = foreign_owner(&loaded.config.queue.path, geteuid()) {
        let message = format!(
            "belongs to {owner}, and root may read and write everything: run the check as {owner}, too"
        );
        findings.warning(&loaded.problem("queue.path", 0, message));
    }
}

/// What of a Maildir's path is the same for all recipients.
fn fixed_part(path: &Path) -> &Path {
    path.ancestors()
        .find(|ancestor| !ancestor.to_string_lossy().contains('{'))
        .unwrap_or(path)
}

/// The directory, or the nearest that there is above it, must take files.
fn takes_files(path: &Path) -> Result<(), String> {
    let existing = path
        .ancestors()
        .find(|p| p.exists())
        .unwrap_or(Path::new("/"));
    if !existing.is_dir() {
        return Err(format!("{} is no directory", existing.display()));
    }
    access(existing, AccessFlags::W_OK | AccessFlags::X_OK)
        .map_err(|error| format!("{} cannot be written: {error}", existing.display()))
}

fn doubtful(loaded: &Loaded, findings: &mut Findings) {
    let config = &loaded.config;
    if config.postmaster.is_none() {
        findings.warnings.push("postmaster: not set: mail for <postmaster> stays at this host's name, and double bounces are only logged".to_owned());
    }
    if config.queue.store == StoreKind::Memory {
        let message = "\"memory\" keeps nothing: all mail is lost at a stop";
        findings.warning(&loaded.problem("queue.store", 0, message));
    }
    if config.queue.durability == Durability::Os {
        let message = "\"os\" loses mail at a power loss";
        findings.warning(&loaded.problem("queue.durability", 0, message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_files_can_be() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert!(takes_files(path).is_ok() && takes_files(&path.join("a/b")).is_ok());
        std::fs::write(path.join("file"), "").unwrap();
        assert!(takes_files(&path.join("file/below")).is_err());
        for (whole, fixed) in [
            ("/mail/{domain}/{local}", "/mail"),
            ("/mail/of-{local}/x", "/mail"),
            ("/mail/all", "/mail/all"),
        ] {
            assert_eq!(fixed_part(Path::new(whole)), Path::new(fixed), "{whole}");
        }
    }
}
