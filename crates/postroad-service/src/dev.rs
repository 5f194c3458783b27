//! `postroad dev`: everything on loopback, nothing to configure, nothing leaves the machine.

use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use mail_parser::MessageParser;
use postroad_mail::escape_peer_text;

use crate::config::{
    Admin, Config, Delivery, Directory, DirectoryKind, Listener, ListenerTls, Loaded, Log,
    LogFormat, OneOrMany, Queue, Relay, Route, Service as Kind, Submission, Tls, TlsPolicy,
};
use crate::service::{Service, ServiceError};

/// The user that there is.
const USER: &str = "dev@localhost";
/// Octets of a message read to find its subject.
const SUBJECT_READ: usize = 64 << 10;

/// Ports on loopback.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// The relay.
    pub relay: u16,
    /// Submission with STARTTLS.
    pub submission: u16,
    /// Submission with TLS from the first octet.
    pub submissions: u16,
    /// Health over HTTP.
    pub http: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            relay: 2525,
            submission: 2587,
            submissions: 2465,
            http: 8025,
        }
    }
}

/// It cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DevError {
    /// Its directory cannot be used.
    #[error("setting up {place}")]
    Directory {
        /// What.
        place: String,
        /// Why not.
        source: io::Error,
    },
    /// No certificate can be made.
    #[error("making a certificate")]
    Certificate(#[from] rcgen::Error),
    /// No user can be made.
    #[error("making the user")]
    Users(#[from] postroad_msa::UsersFileError),
    /// It does not run.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The log.
    #[error(transparent)]
    Telemetry(#[from] crate::telemetry::TelemetryError),
    /// The system gives no random octets.
    #[error("making a password: {0}")]
    Random(io::Error),
}

/// Sets the directory up where it is new, and serves until interrupted.
///
/// # Errors
/// Where it cannot be set up, or a port is taken.
pub async fn run(directory: &Path, ports: Ports) -> Result<(), DevError> {
    let at = |source| DevError::Directory {
        place: directory.display().to_string(),
        source,
    };
    fs::create_dir_all(directory).map_err(at)?;
    let directory = directory.canonicalize().map_err(at)?;
    let password = set_up(&directory)?;
    let config = configuration(&directory, ports);
    crate::telemetry::start(&config.log)?;
    let inbox = directory.join("inbox");
    let shown = inbox.clone();
    Service::new(Loaded::from_config(config))
        .maildir_observer(Arc::new(show))
        .on_ready(move |addresses| {
            let _ = introduce(addresses, &password, &shown);
        })
        .run_until_signal()
        .await?;
    Ok(())
}

/// Certificate, user and password; kept for the next start.
fn set_up(directory: &Path) -> Result<String, DevError> {
    let at = |path: &Path| {
        let place = path.display().to_string();
        move |source| DevError::Directory { place, source }
    };
    let (certificate, key) = (directory.join("certificate.pem"), directory.join("key.pem"));
    if !certificate.exists() || !key.exists() {
        let made = rcgen::generate_simple_self_signed(vec![
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
        ])?;
        fs::write(&certificate, made.cert.pem()).map_err(at(&certificate))?;
        write_private(&key, &made.signing_key.serialize_pem()).map_err(at(&key))?;
    }
    let (users, kept) = (directory.join("users.toml"), directory.join("password"));
    if let Ok(password) = fs::read_to_string(&kept)
        && users.exists()
    {
        return Ok(password.trim().to_owned());
    }
    let password = random_password().map_err(DevError::Random)?;
    if users.exists() {
        fs::remove_file(&users).map_err(at(&users))?;
    }
    postroad_msa::add_user(&users, USER, &password)?;
    write_private(&kept, &format!("{password}\n")).map_err(at(&kept))?;
    Ok(password)
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}

/// 80 bits in letters that need no quoting in a shell.
fn random_password() -> io::Result<String> {
    use std::io::Read as _;
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut octets = [0_u8; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut octets)?;
    Ok(octets
        .iter()
        .filter_map(|octet| LETTERS.get(usize::from(octet % 32)))
        .map(|&b| char::from(b))
        .collect())
}

fn configuration(directory: &Path, ports: Ports) -> Config {
    let listener = |service, port, tls| Listener {
        service,
        bind: vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)],
        tls,
        bare_newline: None,
    };
    let inbox = format!("maildir:{}", directory.join("inbox").display());
    let route = Route {
        via: OneOrMany(vec![inbox]),
        ..Route::default()
    };
    Config {
        hostname: Some("localhost".to_owned()),
        queue: Queue {
            path: directory.join("queue"),
            ..Queue::default()
        },
        listener: vec![
            listener(Kind::Relay, ports.relay, ListenerTls::Starttls),
            listener(Kind::Submission, ports.submission, ListenerTls::Starttls),
            listener(Kind::Submission, ports.submissions, ListenerTls::Implicit),
        ],
        tls: Some(Tls {
            certificate: directory.join("certificate.pem"),
            key: directory.join("key.pem"),
        }),
        submission: Submission {
            directory: Some(Directory {
                kind: DirectoryKind::File,
                path: Some(directory.join("users.toml")),
            }),
            ..Submission::default()
        },
        relay: Relay {
            domains: vec!["*".to_owned()],
            ..Relay::default()
        },
        route: vec![route],
        // Nothing leaves the machine, no question either.
        delivery: Delivery {
            tls_policy: TlsPolicy::Off,
            ..Delivery::default()
        },
        limits: crate::config::Limits {
            min_free: crate::config::units::Size(16 << 20),
            ..crate::config::Limits::default()
        },
        admin: Admin {
            socket: Some(directory.join("admin.sock")),
            http: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), ports.http)),
        },
        log: Log {
            format: LogFormat::Compact,
            level: "warn".to_owned(),
            ..Log::default()
        },
        ..Config::default()
    }
}

fn introduce(addresses: &[SocketAddr], password: &str, inbox: &Path) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let [relay, submission, submissions] = addresses else {
        return Ok(());
    };
    writeln!(
        out,
        "Postroad listens on loopback only; nothing leaves this machine.\n"
    )?;
    writeln!(out, "  relay                    {relay}")?;
    writeln!(out, "  submission, STARTTLS     {submission}")?;
    writeln!(out, "  submission, implicit TLS {submissions}")?;
    writeln!(out, "  user                     {USER}")?;
    writeln!(out, "  password                 {password}")?;
    writeln!(out, "  inbox (a Maildir)        {}\n", inbox.display())?;
    writeln!(out, "Try it:\n")?;
    writeln!(
        out,
        "  swaks --server {submission} --tls --auth PLAIN --auth-user {USER} --auth-password {password} --from {USER} --to you@example.org\n"
    )?;
    out.flush()
}

/// One line for a message that has arrived.
fn show(file: &Path, from: &str, to: &str) {
    use std::io::Read as _;
    let mut start = Vec::new();
    if let Ok(opened) = fs::File::open(file) {
        let _ = opened.take(SUBJECT_READ as u64).read_to_end(&mut start);
    }
    let message = MessageParser::default().parse_headers(&start);
    let subject = message
        .as_ref()
        .and_then(|m| m.subject())
        .unwrap_or("(none)");
    let from = if from.is_empty() { "<>" } else { from };
    let mut out = io::stdout().lock();
    // A terminal that is gone is no reason to stop.
    let _ = writeln!(
        out,
        "mail from {} to {}, Subject: {}, in {}",
        escape_peer_text(from),
        escape_peer_text(to),
        escape_peer_text(subject),
        file.display()
    );
}
