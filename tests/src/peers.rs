//! Real clients: swaks and Python's smtplib.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::programs::{Finished, run};

/// How a client secures its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Not at all.
    Plain,
    /// STARTTLS.
    StartTls,
    /// TLS from the first octet.
    Implicit,
}

/// Who submits, from whom, to whom.
#[derive(Clone, Debug)]
pub struct Submission<'a> {
    /// The server.
    pub server: SocketAddr,
    /// How.
    pub security: Security,
    /// User and password, where it logs in.
    pub login: Option<(&'a str, &'a str)>,
    /// The reverse-path.
    pub from: &'a str,
    /// The recipients.
    pub to: &'a [&'a str],
    /// The message, lines ended by `\n`.
    pub message: &'a str,
}

impl Submission<'_> {
    /// Sends it with swaks, which answers with exit code 0 where all went well.
    ///
    /// # Errors
    /// Where swaks cannot be run: the Debian package `swaks` has it.
    pub async fn by_swaks(&self, more: &[&str]) -> anyhow::Result<Finished> {
        let server = self.server.to_string();
        let to = self.to.join(",");
        let mut arguments = vec![
            "--server",
            &server,
            "--helo",
            "swaks.test",
            "--from",
            self.from,
            "--to",
            &to,
            "--timeout",
            "60",
        ];
        match self.security {
            Security::Plain => {}
            Security::StartTls => arguments.push("--tls"),
            Security::Implicit => arguments.push("--tls-on-connect"),
        }
        if let Some((user, password)) = self.login {
            if !more.contains(&"--auth") {
                arguments.extend(["--auth", "PLAIN"]);
            }
            arguments.extend(["--auth-user", user, "--auth-password", password]);
        }
        arguments.extend(["--data", "-"]);
        arguments.extend(more);
        run("swaks", &arguments, self.message.as_bytes()).await
    }

    /// Sends it with Python's smtplib, with such parameters to MAIL. Refused recipients are in the
    /// output.
    ///
    /// # Errors
    /// Where python3 cannot be run.
    pub async fn by_python(&self, options: &[&str]) -> anyhow::Result<Finished> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), self.message)?;
        let path = file.path().to_string_lossy().into_owned();
        let script = script("submit.py").to_string_lossy().into_owned();
        let (host, port) = (self.server.ip().to_string(), self.server.port().to_string());
        let mode = match self.security {
            Security::Plain => "plain",
            Security::StartTls => "starttls",
            Security::Implicit => "tls",
        };
        let (user, password) = self.login.unwrap_or_default();
        let options = options.join(" ");
        let mut arguments = vec![
            script.as_str(),
            &host,
            &port,
            mode,
            user,
            password,
            self.from,
            &path,
            &options,
        ];
        arguments.extend(self.to);
        run("python3", &arguments, b"").await
    }
}

/// Reads a delivery status notification with Python's email package.
///
/// # Errors
/// Where python3 cannot be run, or its parser finds no multipart/report.
pub async fn parse_dsn(message: &[u8]) -> anyhow::Result<serde_json::Value> {
    let script = script("parse_dsn.py").to_string_lossy().into_owned();
    let finished = run("python3", &[&script], message).await?;
    anyhow::ensure!(
        finished.code == 0,
        "{}\n{}",
        finished.errors,
        String::from_utf8_lossy(message)
    );
    Ok(serde_json::from_str(&finished.output)?)
}

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("scripts")
        .join(name)
}
