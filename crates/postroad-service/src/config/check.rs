//! What a configuration leads to on this machine: `postroad check`.

use std::net::SocketAddr;
use std::path::Path;
use std::{fs, io};

use nix::unistd::geteuid;
use postroad_net::clock;
use tokio::net::TcpSocket;

use super::{
    ConfigError, Loaded, Problem, Roles, Service, StoreKind, certificate, doubts, files, reach,
    table_reach,
};
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

impl Findings {
    fn add(&mut self, more: Self) {
        self.errors.extend(more.errors);
        self.warnings.extend(more.warnings);
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
    ports(loaded, &mut findings);
    doubts::look(loaded, &mut findings);
    let roles = Roles::from_config(loaded);
    let hostname = roles.as_ref().ok().map(|roles| &roles.hostname);
    findings.add(certificate::look(loaded, hostname, clock::now()));
    match roles {
        Ok(roles) => {
            table_reach::look(loaded, &roles, &mut findings).await;
            reach::look(loaded, &roles, &mut findings).await;
        }
        Err(mistakes) => findings.add(mistakes.into()),
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
        for path in route
            .via
            .0
            .iter()
            .filter_map(|via| via.strip_prefix("maildir:"))
        {
            test("route.via", nth, fixed_part(Path::new(path)));
        }
    }
    socket_directory(loaded, findings);
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

/// A unit's `RuntimeDirectory=` is there only while the service runs: missing, it is no mistake.
fn socket_directory(loaded: &Loaded, findings: &mut Findings) {
    let socket = loaded.config.admin_socket();
    let Some(directory) = socket.parent() else {
        return;
    };
    let Err(message) = takes_files(directory) else {
        return;
    };
    if directory.exists() {
        findings.error(&loaded.problem("admin.socket", 0, message));
    } else {
        let message = format!(
            "{} is not there, and cannot be made by this user ({message}); with the shipped units systemd makes it (RuntimeDirectory=)",
            directory.display()
        );
        findings.warning(&loaded.problem("admin.socket", 0, message));
    }
}

/// The directory, or the nearest that there is above it, must take files: one is made and removed,
/// since rights say nothing of file systems that are full, or can only be read.
fn takes_files(path: &Path) -> Result<(), String> {
    let existing = path
        .ancestors()
        .find(|p| p.exists())
        .unwrap_or(Path::new("/"));
    if !existing.is_dir() {
        return Err(format!("{} is no directory", existing.display()));
    }
    let entry = existing.join(format!(".postroad-check.{}", std::process::id()));
    let made = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&entry);
    made.and_then(|_| fs::remove_file(&entry))
        .map_err(|error| format!("{} cannot be written: {error}", existing.display()))
}

/// Only root may bind ports below 1024, and whoever was given the right.
fn ports(loaded: &Loaded, findings: &mut Findings) {
    for (nth, listener) in loaded.config.listener.iter().enumerate() {
        for address in listener
            .bind
            .iter()
            .filter(|a| (1..1024).contains(&a.port()))
        {
            if let Some(message) = without_right(*address, &bound(*address)) {
                findings.warning(&loaded.problem("listener.bind", nth, message));
            }
        }
    }
}

/// Bound, and let go without having listened: no client finds anything there.
fn bound(address: SocketAddr) -> io::Result<()> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)
}

/// A port in use is what a running service looks like.
fn without_right(address: SocketAddr, bound: &io::Result<()>) -> Option<String> {
    let denied = matches!(bound, Err(error) if error.kind() == io::ErrorKind::PermissionDenied);
    denied.then(|| {
        format!(
            "{address} may not be bound by this user: ports below 1024 need CAP_NET_BIND_SERVICE; the shipped units give it to the service"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_files_can_be() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert!(takes_files(path).is_ok() && takes_files(&path.join("a/b")).is_ok());
        fs::write(path.join("file"), "").unwrap();
        assert!(takes_files(&path.join("file/below")).is_err());
        // Nothing is left behind; and a file system that takes nothing is found, by root as well.
        assert_eq!(fs::read_dir(path).unwrap().count(), 1);
        assert!(takes_files(Path::new("/proc")).is_err());
        for (whole, fixed) in [
            ("/mail/{domain}/{local}", "/mail"),
            ("/mail/of-{local}/x", "/mail"),
            ("/mail/all", "/mail/all"),
        ] {
            assert_eq!(fixed_part(Path::new(whole)), Path::new(fixed), "{whole}");
        }
    }

    #[test]
    fn where_the_socket_can_be() {
        let looked = |socket: &str| {
            let text = format!("queue.store = \"memory\"\nadmin.socket = \"{socket}\"\n");
            let loaded = Loaded::from_config(toml::from_str(&text).unwrap());
            let mut findings = Findings::default();
            directories(&loaded, &mut findings);
            (findings.errors.join("\n"), findings.warnings.join("\n"))
        };
        let directory = tempfile::tempdir().unwrap();
        let good = directory.path().join("new/admin.sock");
        let nothing = (String::new(), String::new());
        assert_eq!(looked(good.to_str().unwrap()), nothing);
        let (errors, warnings) = looked("/proc/admin.sock");
        assert!(
            errors.contains("admin.socket: /proc cannot be written"),
            "{errors}"
        );
        assert_eq!(warnings, "");
        let (errors, warnings) = looked("/proc/postroad/admin.sock");
        assert_eq!(errors, "");
        assert!(warnings.contains("RuntimeDirectory="), "{warnings}");
    }

    #[tokio::test]
    async fn a_port_in_use_is_a_running_service() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = listener.local_addr().unwrap();
        let in_use = bound(taken);
        assert!(in_use.is_err() && without_right(taken, &in_use).is_none());
        let denied = Err(io::ErrorKind::PermissionDenied.into());
        let said = without_right("[::]:25".parse().unwrap(), &denied).unwrap();
        assert!(said.starts_with("[::]:25 may not be bound"), "{said}");
        // Bound here, it is free again at once, and no client was let in.
        drop(listener);
        assert!(bound(taken).is_ok() && bound(taken).is_ok());
    }
}
