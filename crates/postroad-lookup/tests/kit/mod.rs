//! What the tests of tables share: servers in temporary directories, certificates, and clients of
//! those.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use postroad_lookup::{LookupError, SharedTable};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// Lines that a server may write before the one that says that it listens.
const LINES_MAX: usize = 1000;

/// A certificate for `names` with its key, and a client that trusts it and nothing else.
pub struct Certificate {
    pub pem: String,
    pub key_pem: String,
    pub client: Arc<ClientConfig>,
    pub server: Arc<ServerConfig>,
}

pub fn certificate(names: &[&str]) -> Certificate {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let der = made.cert.der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(der.clone()).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![der], key)
        .unwrap();
    Certificate {
        pem: made.cert.pem(),
        key_pem: made.signing_key.serialize_pem(),
        client: client(roots),
        server: Arc::new(server),
    }
}

/// A client that trusts nobody.
pub fn distrusting() -> Arc<ClientConfig> {
    client(RootCertStore::empty())
}

fn client(roots: RootCertStore) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A program that runs until it is dropped.
pub struct Running {
    child: Child,
}

impl Running {
    /// Starts it, and waits for a line on its standard error that has `ready` in it.
    pub fn start(command: &mut Command, ready: &str) -> Self {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}; is its package installed?"));
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let running = Self { child };
        let mut seen = Vec::new();
        for line in lines.by_ref().take(LINES_MAX) {
            let line = line.unwrap();
            if line.contains(ready) {
                // It must not fill the pipe.
                std::thread::spawn(move || lines.for_each(drop));
                return running;
            }
            seen.push(line);
        }
        panic!("{program} does not start:\n{}", seen.join("\n"));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end; it must succeed.
pub fn run(command: &mut Command) -> Output {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; is its package installed?"));
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// A program, as the user `name` where we are root: some servers refuse to be.
pub fn as_user(program: &Path, name: &str) -> Command {
    let mut command = Command::new(program);
    if let Some((user, group)) = ids(name) {
        command.uid(user).gid(group);
    }
    command
}

/// Gives a file or directory to that user, where we are root.
pub fn give(path: &Path, name: &str) {
    if let Some((user, group)) = ids(name) {
        std::os::unix::fs::chown(path, Some(user), Some(group)).unwrap();
    }
}

fn ids(name: &str) -> Option<(u32, u32)> {
    let id = |option: &str, name: &str| {
        let mut command = Command::new("id");
        command.arg(option);
        if !name.is_empty() {
            command.arg(name);
        }
        let output = run(&mut command).stdout;
        String::from_utf8(output)
            .unwrap()
            .trim()
            .parse::<u32>()
            .unwrap()
    };
    (id("-u", "") == 0).then(|| (id("-u", name), id("-g", name)))
}

/// A directory that any user may go through.
pub fn directory() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

pub fn write(path: PathBuf, text: &str) -> PathBuf {
    fs::write(&path, text).unwrap();
    path
}

/// What a table says, short: `-` for nothing, `later: …` and `wrong: …` for failures.
pub async fn said(table: &SharedTable, key: &str) -> String {
    match table.lookup(key).await {
        Ok(None) => "-".to_owned(),
        Ok(Some(values)) => values.join("|"),
        Err(LookupError::Unavailable { detail, .. }) => format!("later: {detail}"),
        Err(LookupError::Invalid { detail, .. }) => format!("wrong: {detail}"),
        Err(other) => panic!("{other}"),
    }
}
