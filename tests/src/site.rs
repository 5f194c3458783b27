//! A site: a directory with certificates, users and configurations, on a loopback address of its own.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::certificates::{Certificate, make};
use crate::process::{Finished, Service, free_port, loopback, program, run};

/// The user of every site that has one.
pub const USER: &str = "alice";
/// Her password.
pub const PASSWORD: &str = "correct horse battery";

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
    /// `delivery.port`
    pub port: u16,
    /// Lines of `[delivery]`, besides.
    pub delivery: &'a str,
    /// Lines of `[limits]`.
    pub limits: &'a str,
    /// Lines of `[submission]`, besides.
    pub submission: &'a str,
    /// Whole tables.
    pub more: &'a str,
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
        let file = self.path("users.toml").to_string_lossy().into_owned();
        let arguments = ["user", "add", USER, "--file", &file, "--password-stdin"];
        let _ = run(
            program("postroad"),
            &arguments,
            format!("{PASSWORD}\n").as_bytes(),
        )
        .await?
        .succeeded();
        Ok(())
    }

    /// Writes the configuration `name` (queue and admin socket are named after it); gives its path.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn configure(&self, name: &str, settings: &Settings<'_>) -> anyhow::Result<String> {
        let listeners: String = settings
            .listeners
            .iter()
            .map(|(service, address, tls)| {
                format!("[[listener]]\nservice = \"{service}\"\nbind = [\"{address}\"]\ntls = \"{tls}\"\n\n")
            })
            .collect();
        let routes: String = settings
            .routes
            .iter()
            .map(|(recipient, via)| {
                format!("[[route]]\nrecipient = \"{recipient}\"\nvia = \"{via}\"\n\n")
            })
            .collect();
        let nameservers = settings
            .nameserver
            .map_or_else(String::new, |a| format!("\"{a}\""));
        let submission = if settings
            .listeners
            .iter()
            .any(|(service, ..)| *service == "submission")
        {
            format!(
                "[submission]\ndirectory = {{ kind = \"file\", path = \"users.toml\" }}\n{}\n",
                settings.submission
            )
        } else {
            String::new()
        };
        let Settings {
            domains,
            trusted,
            port,
            delivery,
            limits,
            more,
            ..
        } = settings;
        let port = if *port == 0 { 25 } else { *port };
        let text = format!(
            r#"hostname = "{name}.test"
postmaster = "postmaster@admin.test"

[queue]
path = "queue-{name}"

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

[limits]
min_free = "1MiB"
{limits}

[admin]
socket = "{name}.sock"

[log]
format = "compact"

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
        if binary == "postroad" {
            return Service::start(binary, &["run", "--config", configuration]).await;
        }
        Service::start(binary, &["--config", configuration]).await
    }

    /// Runs `postroad queue …` with the configuration `name`.
    ///
    /// # Errors
    /// Where it cannot be run.
    pub async fn queue(&self, name: &str, arguments: &[&str]) -> anyhow::Result<Finished> {
        let path = self
            .path(&format!("{name}.toml"))
            .to_string_lossy()
            .into_owned();
        let mut all = vec!["queue"];
        all.extend(arguments);
        all.extend(["--config", &path]);
        run(program("postroad"), &all, b"").await
    }

    /// How many messages the queue of `name` holds.
    ///
    /// # Errors
    /// Where it cannot be asked.
    ///
    /// # Panics
    /// Where the answer is no JSON.
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
