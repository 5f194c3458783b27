//! A database as a table: a real PostgreSQL (Debian package `postgresql`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a panic is the failure"
)]

mod kit;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use kit::{Certificate, Running, said};
use postroad_lookup::{GuardOptions, SharedTable, SqlOptions, SqlTable};
use postroad_mail::Secret;
use rustls::ClientConfig;
use tokio::io::AsyncWriteExt as _;

const USER: &str = "postgres";
const PASSWORD: &str = "s3cret";
const QUERY: &str = "SELECT via FROM routes WHERE address = $1 ORDER BY via";

const SCHEMA: &str = "\
CREATE TABLE routes (address TEXT, via TEXT, backup VARCHAR(50), weight INT);
INSERT INTO routes VALUES
    ('bob@example.org', 'smtp://a:25', 'smtp://z:25', 1),
    ('two@example.org', 'smtp://a:25', NULL, 1),
    ('two@example.org', 'smtp://b:25', '', 2),
    ('null@example.org', NULL, NULL, NULL),
    ('it''s@example.org', 'quoted', NULL, NULL);
";

/// A PostgreSQL in a directory of its own, that may be stopped and started.
struct Postgres {
    directory: tempfile::TempDir,
    programs: PathBuf,
    port: u16,
    running: Option<Running>,
}

impl Postgres {
    fn new(certificate: &Certificate) -> Self {
        let directory = kit::directory();
        let top = directory.path();
        kit::give(top, USER);
        let file = |name: &str, text: &str| {
            use std::os::unix::fs::PermissionsExt as _;
            let path = kit::write(top.join(name), text);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            kit::give(&path, USER);
            path
        };
        let password = file("password", PASSWORD);
        file("certificate.pem", &certificate.pem);
        file("key.pem", &certificate.key_pem);
        let mut postgres = Self {
            programs: programs(),
            port: kit::free_port(),
            running: None,
            directory,
        };
        let mut initdb = postgres.command("initdb");
        initdb.args([
            "--no-sync",
            "-U",
            USER,
            "-A",
            "scram-sha-256",
            "-E",
            "UTF8",
            "--locale=C",
        ]);
        initdb.arg("--pwfile").arg(password);
        kit::run(&mut initdb);
        postgres.start();
        let mut psql = postgres.command("psql");
        psql.env("PGPASSWORD", PASSWORD)
            .args(["-q", "-U", USER, "-h"]);
        psql.arg(postgres.directory.path())
            .args(["-p", &postgres.port.to_string(), "-c", SCHEMA]);
        kit::run(&mut psql);
        postgres
    }

    /// One of its programs, on its directory.
    fn command(&self, program: &str) -> Command {
        let mut command = kit::as_user(&self.programs.join(program), USER);
        command.current_dir(self.directory.path());
        command.env("PGDATA", self.directory.path().join("data"));
        command
    }

    fn start(&mut self) {
        let top = self.directory.path().display();
        let mut postgres = self.command("postgres");
        for setting in [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={}", self.port),
            format!("unix_socket_directories={top}"),
            format!("ssl_cert_file={top}/certificate.pem"),
            format!("ssl_key_file={top}/key.pem"),
            "ssl=on".to_owned(),
            "fsync=off".to_owned(),
        ] {
            postgres.args(["-c", &setting]);
        }
        self.running = Some(Running::start(&mut postgres, "ready to accept connections"));
    }

    fn stop(&mut self) {
        if self.running.is_some() {
            kit::run(
                self.command("pg_ctl")
                    .args(["stop", "-w", "-m", "immediate"]),
            );
        }
        self.running = None;
    }

    fn url(&self, more: &str) -> String {
        format!("postgres://{USER}@localhost:{}/postgres?{more}", self.port)
    }

    fn options(&self, url: &str, query: &str) -> SqlOptions {
        SqlOptions {
            url: url.to_owned(),
            password: Some(Secret::new(PASSWORD.to_owned())),
            query: query.to_owned(),
            timeout: Duration::from_secs(5),
            connections: 3,
        }
    }

    fn plain(&self, query: &str) -> SharedTable {
        let options = self.options(&self.url("sslmode=disable"), query);
        table(&options, &kit::distrusting())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Where Debian puts the programs of the newest version.
fn programs() -> PathBuf {
    let versions =
        fs::read_dir("/usr/lib/postgresql").expect("is the package postgresql installed?");
    let newest = versions
        .map(|version| version.unwrap().path())
        .max_by_key(|path| {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            name.parse::<u32>().unwrap_or_default()
        });
    newest
        .unwrap_or_else(|| Path::new("/usr").to_owned())
        .join("bin")
}

fn table(options: &SqlOptions, tls: &Arc<ClientConfig>) -> SharedTable {
    let table = SqlTable::new(options, tls).unwrap();
    SharedTable::new(table).guarded(GuardOptions {
        failures: u32::MAX,
        ..GuardOptions::default()
    })
}

/// One server for all of it: making one takes longer than the rest.
#[tokio::test]
async fn postgres() {
    let certificate = kit::certificate(&["localhost"]);
    let mut postgres = Postgres::new(&certificate);
    finds(&postgres).await;
    says_no(&postgres).await;
    slow_queries_end(&postgres).await;
    what_is_given_up_holds_nobody_up(&postgres).await;
    connections_are_bounded(&postgres).await;
    over_tls(&postgres, &certificate).await;
    comes_back(&mut postgres).await;
}

async fn finds(postgres: &Postgres) {
    let by_key = postgres.plain(QUERY);
    for (key, expected) in [
        ("bob@example.org", "smtp://a:25"),
        ("two@example.org", "smtp://a:25|smtp://b:25"),
        ("null@example.org", "-"),
        ("none@example.org", "-"),
        ("it's@example.org", "quoted"),
        ("' OR ''='", "-"),
        ("'; DROP TABLE routes; --", "-"),
        ("\u{fc}", "-"),
    ] {
        assert_eq!(said(&by_key, key).await, expected, "{key}");
    }
    let several =
        postgres.plain("SELECT via, backup FROM routes WHERE address = $1 ORDER BY weight");
    assert_eq!(
        said(&several, "bob@example.org").await,
        "smtp://a:25|smtp://z:25"
    );
    assert_eq!(
        said(&several, "two@example.org").await,
        "smtp://a:25|smtp://b:25"
    );
    let parts = postgres.plain("SELECT via FROM routes WHERE address = $2 || '@' || $3");
    assert_eq!(said(&parts, "bob@example.org").await, "smtp://a:25");
    assert_eq!(said(&parts, "bob").await, "-");
    let unix = format!(
        "postgres:///postgres?host={}&port={}&user={USER}",
        postgres.directory.path().display(),
        postgres.port
    );
    let unix = table(&postgres.options(&unix, QUERY), &kit::distrusting());
    assert_eq!(said(&unix, "bob@example.org").await, "smtp://a:25");
}

async fn says_no(postgres: &Postgres) {
    for (query, expected) in [
        (
            "SELECT via FROM nowhere WHERE address = $1",
            "wrong: db error: ERROR: relation \"nowhere\"",
        ),
        ("SELEKT $1", "wrong: db error: ERROR: syntax error"),
        ("SELECT $1, $4", "wrong: the query has other parameters"),
        (
            "SELECT weight FROM routes WHERE address = $1",
            "wrong: the column `weight` is of type int4, which is no text",
        ),
        (
            "SELECT via FROM routes, generate_series(1, 2000) WHERE address = $1",
            "wrong: more than 1000 values",
        ),
        (
            "SELECT (1 / 0)::text || $1",
            "wrong: db error: ERROR: division by zero",
        ),
    ] {
        let said = said(&postgres.plain(query), "bob@example.org").await;
        assert!(said.starts_with(expected), "{query}: {said}");
    }
    let nul = said(&postgres.plain(QUERY), "a\0b").await;
    assert!(
        nul.starts_with("wrong: db error: ERROR: invalid byte sequence"),
        "{nul}"
    );
    let wrong = SqlOptions {
        password: Some(Secret::new("guess".to_owned())),
        ..postgres.options(&postgres.url("sslmode=disable"), QUERY)
    };
    let said = said(&table(&wrong, &kit::distrusting()), "bob@example.org").await;
    assert!(
        said.starts_with("wrong: ") && said.contains("password authentication failed"),
        "{said}"
    );
}

async fn slow_queries_end(postgres: &Postgres) {
    let options = SqlOptions {
        timeout: Duration::from_millis(50),
        ..postgres.options(
            &postgres.url("sslmode=disable"),
            "SELECT pg_sleep(600)::text || $1",
        )
    };
    let slow = table(&options, &kit::distrusting());
    let said = said(&slow, "x").await;
    assert!(
        said.starts_with("later: ") && said.contains("statement timeout"),
        "{said}"
    );
}

async fn what_is_given_up_holds_nobody_up(postgres: &Postgres) {
    let query = "SELECT pg_sleep($1::float8)::text || 'slept'";
    let options = SqlOptions {
        timeout: Duration::from_secs(600),
        connections: 1,
        ..postgres.options(&postgres.url("sslmode=disable"), query)
    };
    let sleeping = SqlTable::new(&options, &kit::distrusting()).unwrap();
    let sleeping = SharedTable::new(sleeping).guarded(GuardOptions {
        timeout: Duration::from_secs(1),
        ..GuardOptions::default()
    });
    assert_eq!(said(&sleeping, "0").await, "slept");
    assert_eq!(said(&sleeping, "600").await, "later: no answer within 1s");
    assert_eq!(said(&sleeping, "0").await, "slept");
}

async fn connections_are_bounded(postgres: &Postgres) {
    let count = "SELECT count(*)::text FROM pg_stat_activity WHERE application_name = $1";
    let busy = postgres.url("sslmode=disable&application_name=busy");
    let busy = table(&postgres.options(&busy, QUERY), &kit::distrusting());
    let lookups = (0..40).map(|_| {
        let busy = busy.clone();
        tokio::spawn(async move { said(&busy, "bob@example.org").await })
    });
    for lookup in lookups.collect::<Vec<_>>() {
        assert_eq!(lookup.await.unwrap(), "smtp://a:25");
    }
    let open: usize = said(&postgres.plain(count), "busy").await.parse().unwrap();
    assert!((1..=3).contains(&open), "{open}");
}

async fn over_tls(postgres: &Postgres, certificate: &Certificate) {
    let encrypted = "SELECT ssl::text || $1 FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let open = |mode: &str, tls: &Arc<ClientConfig>| {
        let url = postgres.url(&format!("sslmode={mode}"));
        table(&postgres.options(&url, encrypted), tls)
    };
    for (mode, expected) in [
        ("verify-full", "true"),
        ("require", "true"),
        ("prefer", "true"),
        ("disable", "false"),
    ] {
        let found = said(&open(mode, &certificate.client), "").await;
        assert_eq!(found, expected, "{mode}");
    }
    for mode in ["verify-full", "require", "prefer"] {
        let refused = said(&open(mode, &kit::distrusting()), "").await;
        assert!(
            refused.starts_with("later: ") && refused.contains("UnknownIssuer"),
            "{mode}: {refused}"
        );
    }
}

async fn comes_back(postgres: &mut Postgres) {
    let table = postgres.plain(QUERY);
    assert_eq!(said(&table, "bob@example.org").await, "smtp://a:25");
    postgres.stop();
    let gone = said(&table, "bob@example.org").await;
    assert!(gone.starts_with("later: "), "{gone}");
    postgres.start();
    assert_eq!(said(&table, "bob@example.org").await, "smtp://a:25");
    // Restarted between two lookups: the connection that was kept is of no use.
    postgres.stop();
    postgres.start();
    assert_eq!(said(&table, "bob@example.org").await, "smtp://a:25");
}

fn of(url: String) -> SharedTable {
    let options = SqlOptions {
        url,
        password: None,
        query: QUERY.to_owned(),
        timeout: Duration::from_secs(5),
        connections: 1,
    };
    table(&options, &kit::distrusting())
}

#[tokio::test]
async fn nobody_there_and_nonsense() {
    let nobody = of(format!("postgres://x@127.0.0.1:{}/x", kit::free_port()));
    let said_nobody = said(&nobody, "k").await;
    assert!(
        said_nobody.starts_with("later: error connecting to server"),
        "{said_nobody}"
    );
    for answer in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"Z\xff\xff\xff\xff",
        b"E\0\0\0\x04",
        b"",
    ] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                stream.write_all(answer).await.unwrap();
            }
        });
        let said = said(&of(format!("postgres://x@{at}/x?sslmode=disable")), "k").await;
        assert!(said.starts_with("later: "), "{answer:?}: {said}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_database_that_hangs() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let table = of(format!("postgres://x@{}/x", listener.local_addr().unwrap()));
    let start = tokio::time::Instant::now();
    for _ in 0..2 {
        assert_eq!(said(&table, "k").await, "later: no answer within 5s");
    }
    assert_eq!(start.elapsed(), Duration::from_secs(10));
}
