//! A site: a directory with certificates, users and configurations, on a loopback address of its own.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::certificates::{Certificate, make};
use crate::process::{Service, Starting, free_port, loopback};
use crate::programs::{Finished, program, run};

/// The user of every site that has one.
pub const USER: &str = "alice";
/// Her password.
pub const PASSWORD: &str = "correct horse battery";
/// Both as AUTH PLAIN sends them.
pub const CREDENTIALS: &str = "AGFsaWNlAGNvcnJlY3QgaG9yc2UgYmF0dGVyeQ==";

/// A site.
#[derive(Debug)]
pub struct Site {
    directory: TempDir,
    address: IpAddr,
    certificate: Certificate,
}

/// The configuration of a service, as far as tests change it; the rest is TOML in `more`.
#[derive(Clone, Debug, Default)]
pub struct Settings<'a> {
    /// Listeners: service, address, TLS.
    pub listeners: Vec<(&'a str, SocketAddr, &'a str)>,
    /// `relay.domains`
    pub domains: &'a [&'a str],
    /// `relay.trusted_networks`
    pub trusted: &'a [&'a str],
    /// `[[route]]`: recipient pattern and `via`
    pub routes: Vec<(&'a str, String)>,
    /// `dns.nameservers`
    pub nameserver: Option<SocketAddr>,
    /// Lines of `[dns]`, besides.
    pub dns: &'a str,
    /// `delivery.port`
    pub port: u16,
    /// Lines of `[queue]`, besides.
    pub queue: &'a str,
    /// Lines of `[delivery]`, besides.
    pub delivery: &'a str,
    /// Lines of `[limits]`.
    pub limits: &'a str,
    /// Lines of `[submission]`, besides.
    pub submission: &'a str,
    /// Lines of `[admin]`, besides.
    pub admin: &'a str,
    /// Lines of `[log]`; none: compact.
    pub log: &'a str,
    /// Whole tables.
    pub more: &'a str,
}

impl Settings<'_> {
    fn listener_tables(&self) -> String {
        let table = |(service, address, tls): &(&str, SocketAddr, &str)| {
            format!(
                "[[listener]]\nservice = \"{service}\"\nbind = [\"{address}\"]\ntls = \"{tls}\"\n\n"
            )
        };
        self.listeners.iter().map(table).collect()
    }

    fn route_tables(&self) -> String {
        let table = |(recipient, via): &(&str, String)| {
            format!("[[route]]\nrecipient = \"{recipient}\"\nvia = \"{via}\"\n\n")
        };
        self.routes.iter().map(table).collect()
    }

    fn submission_table(&self) -> String {
        if self
            .listeners
            .iter()
            .all(|(service, ..)| *service != "submission")
        {
            return String::new();
        }
        format!(
            "[submission]\ndirectory = {{ kind = \"file\", path = \"users.toml\" }}\n{}\n",
            self.submission
        )
    }
}

impl Site {
    /// A fresh one.
    ///
    /// # Panics
    /// Where there is no room for it.
    #[must_use]
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("there is room for temporary files");
        let certificate = make(directory.path(), &["relay.test", "localhost"])
            .expect("a certificate can be written");
        Self {
            directory,
            address: loopback(),
            certificate,
        }
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// A free port at its address.
    #[must_use]
    pub fn port(&self) -> SocketAddr {
        free_port(self.address)
    }

    /// The path of the configuration `name`.
    #[must_use]
    pub fn configuration(&self, name: &str) -> String {
        self.path(&format!("{name}.toml"))
            .to_string_lossy()
            .into_owned()
    }

    /// Gives it another certificate, and its private key, at the same paths.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub fn renew_certificate(&self) -> anyhow::Result<()> {
        make(self.directory.path(), &["relay.test", "localhost"])?;
        Ok(())
    }

    /// A path in its directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Its certificate.
    #[must_use]
    pub fn certificate(&self) -> (&Path, &Path) {
        (&self.certificate.certificate, &self.certificate.key)
    }

    /// Makes the user.
    ///
    /// # Errors
    /// Where `postroad user add` cannot be run.
    ///
    /// # Panics
    /// Where it fails.
    pub async fn add_user(&self) -> anyhow::Result<()> {
        let _ = self.user("add", USER, PASSWORD).await?.succeeded();
        Ok(())
    }

    /// Runs `postroad user ORDER NAME` with a password for its standard input.
    ///
    /// # Errors
    /// Where it cannot be run.
    pub async fn user(&self, order: &str, name: &str, password: &str) -> anyhow::Result<Finished> {
        let file = self.path("users.toml").to_string_lossy().into_owned();
        let arguments = ["user", order, name, "--file", &file, "--password-stdin"];
        let password = format!("{password}\n");
        run(program("postroad"), &arguments, password.as_bytes()).await
    }

    /// Writes the configuration `name` (queue and admin socket are named after it); gives its path.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn configure(&self, name: &str, settings: &Settings<'_>) -> anyhow::Result<String> {
        let (listeners, routes) = (settings.listener_tables(), settings.route_tables());
        let nameservers = settings
            .nameserver
            .map_or_else(String::new, |a| format!("\"{a}\""));
        let submission = settings.submission_table();
        let min_free = if settings.limits.contains("min_free") {
            ""
        } else {
            "min_free = \"1MiB\""
        };
        let Settings {
            domains,
            trusted,
            port,
            queue,
            delivery,
            dns,
            limits,
            admin,
            log,
            more,
            ..
        } = settings;
        let log = if log.is_empty() {
            "format = \"compact\""
        } else {
            log
        };
        let port = if *port == 0 { 25 } else { *port };
        let text = format!(
            r#"hostname = "{name}.test"
postmaster = "postmaster@admin.test"

[queue]
path = "queue-{name}"
{queue}

{listeners}[tls]
certificate = "certificate.pem"
key = "key.pem"

{submission}
[relay]
domains = {domains:?}
trusted_networks = {trusted:?}

{routes}[delivery]
port = {port}
{delivery}

[dns]
nameservers = [{nameservers}]
{dns}

[limits]
{min_free}
{limits}

[admin]
socket = "{name}.sock"
{admin}

[log]
{log}

{more}
"#
        );
        let path = self.path(&format!("{name}.toml"));
        std::fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// Configures and starts a service (`postroad-relay`, `postroad-submission`, or `postroad` for both).
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn start(
        &self,
        binary: &str,
        name: &str,
        settings: &Settings<'_>,
    ) -> anyhow::Result<Service> {
        let path = self.configure(name, settings)?;
        Self::start_again(binary, &path).await
    }

    /// Starts a service with a configuration that is there.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn start_again(binary: &str, configuration: &str) -> anyhow::Result<Service> {
        Self::spawn(binary, configuration)?.ready().await
    }

    /// Starts a service with a configuration that is there, and waits for nothing.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn spawn(binary: &str, configuration: &str) -> anyhow::Result<Starting> {
        let both = ["run", "--config", configuration];
        let arguments = if binary == "postroad" {
            &both[..]
        } else {
            &both[1..]
        };
        Service::spawn(binary, arguments, &[])
    }

    /// Runs `postroad …` with the configuration `name`.
    ///
    /// # Errors
    /// Where it cannot be run.
    pub async fn postroad(&self, name: &str, arguments: &[&str]) -> anyhow::Result<Finished> {
        let path = self.configuration(name);
        let mut all = arguments.to_vec();
        all.extend(["--config", &path]);
        run(program("postroad"), &all, b"").await
    }

    /// Runs `postroad queue …` with the configuration `name`.
    ///
    /// # Errors
    /// Where it cannot be run.
    pub async fn queue(&self, name: &str, arguments: &[&str]) -> anyhow::Result<Finished> {
        let all = [&["queue"], arguments].concat();
        self.postroad(name, &all).await
    }

    /// How many messages the queue of `name` holds.
    ///
    /// # Errors
    /// Where it cannot be asked.
    ///
    /// # Panics
    /// Where the answer has no number.
    pub async fn queued(&self, name: &str) -> anyhow::Result<u64> {
        let finished = self.queue(name, &["stats", "--json"]).await?.succeeded();
        let stats: serde_json::Value = serde_json::from_str(&finished.output)?;
        let messages = stats
            .pointer("/totals/messages")
            .and_then(serde_json::Value::as_u64);
        Ok(messages.expect("a number of messages"))
    }
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}
