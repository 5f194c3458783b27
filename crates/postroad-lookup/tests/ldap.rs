//! A directory as a table: a real slapd (Debian package `slapd`), and servers that are none.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a panic is the failure"
)]

mod kit;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use kit::{Certificate, Running, said};
use postroad_lookup::{GuardOptions, LdapOptions, LdapTable, SharedTable};
use postroad_mail::Secret;
use rustls::ClientConfig;
use tokio::io::AsyncWriteExt as _;

const ENTRIES: &str = "\
dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
o: Example
dc: example

dn: uid=bob,dc=example,dc=org
objectClass: inetOrgPerson
uid: bob
cn: Bob
sn: Example
mail: bob@example.org
mail: robert@example.org
labeledURI: smtp://10.0.0.5:25
labeledURI: smtp://10.0.0.6:25
description: Bob's

dn: uid=odd,dc=example,dc=org
objectClass: inetOrgPerson
uid: odd
cn: Odd
sn: Example
mail: o*d(d)\\x@example.org
description: odd one

dn: uid=bare,dc=example,dc=org
objectClass: inetOrgPerson
uid: bare
cn: Bare
sn: Example
mail: bare@example.org
audio:: //4=
";

/// A slapd in a directory of its own, that may be stopped and started.
struct Slapd {
    directory: tempfile::TempDir,
    port: u16,
    tls_port: u16,
    running: Option<Running>,
}

impl Slapd {
    fn new(certificate: &Certificate) -> Self {
        let directory = kit::directory();
        let top = directory.path();
        fs::create_dir(top.join("db")).unwrap();
        kit::write(top.join("certificate.pem"), &certificate.pem);
        kit::write(top.join("key.pem"), &certificate.key_pem);
        kit::write(top.join("entries.ldif"), ENTRIES);
        kit::write(top.join("slapd.conf"), &config(top));
        let mut slapadd = Command::new("/usr/sbin/slapadd");
        kit::run(
            slapadd
                .arg("-f")
                .arg(top.join("slapd.conf"))
                .arg("-l")
                .arg(top.join("entries.ldif")),
        );
        let mut slapd = Self {
            port: kit::free_port(),
            tls_port: kit::free_port(),
            directory,
            running: None,
        };
        slapd.start();
        slapd
    }

    fn start(&mut self) {
        let urls = [self.url(), self.ldaps(), self.ldapi()].join(" ");
        let mut slapd = Command::new("/usr/sbin/slapd");
        slapd.args(["-h", &urls, "-d", "conns", "-f"]);
        slapd.arg(self.directory.path().join("slapd.conf"));
        // That line is of its loop, before which it listens.
        self.running = Some(Running::start(&mut slapd, "listen="));
    }

    fn stop(&mut self) {
        self.running = None;
    }

    fn url(&self) -> String {
        format!("ldap://127.0.0.1:{}", self.port)
    }

    fn ldaps(&self) -> String {
        format!("ldaps://localhost:{}", self.tls_port)
    }

    fn ldapi(&self) -> String {
        let socket = self.directory.path().join("ldapi");
        format!(
            "ldapi://{}",
            socket.display().to_string().replace('/', "%2F")
        )
    }

    fn options(&self) -> LdapOptions {
        LdapOptions {
            url: self.url(),
            starttls: false,
            base: "dc=example,dc=org".to_owned(),
            filter: "(mail=%s)".to_owned(),
            attributes: vec!["description".to_owned(), "labeledURI".to_owned()],
            bind: Some((
                "cn=reader,dc=example,dc=org".to_owned(),
                Secret::new("s3cret".to_owned()),
            )),
            connections: 2,
        }
    }
}

fn config(top: &Path) -> String {
    let top = top.display();
    format!(
        "include /etc/ldap/schema/core.schema\n\
         include /etc/ldap/schema/cosine.schema\n\
         include /etc/ldap/schema/inetorgperson.schema\n\
         pidfile {top}/pid\n\
         modulepath /usr/lib/ldap\n\
         moduleload back_mdb\n\
         TLSCertificateFile {top}/certificate.pem\n\
         TLSCertificateKeyFile {top}/key.pem\n\
         database mdb\n\
         maxsize 10485760\n\
         directory {top}/db\n\
         suffix dc=example,dc=org\n\
         rootdn cn=reader,dc=example,dc=org\n\
         rootpw s3cret\n\
         access to * by * none\n"
    )
}

fn table(options: LdapOptions, tls: &Arc<ClientConfig>) -> SharedTable {
    let table = LdapTable::new(options, Arc::clone(tls)).unwrap();
    SharedTable::new(table).guarded(GuardOptions {
        failures: u32::MAX,
        ..GuardOptions::default()
    })
}

/// One slapd for all of it: starting one takes longer than the rest.
#[tokio::test]
async fn slapd() {
    let certificate = kit::certificate(&["localhost", "127.0.0.1"]);
    let mut slapd = Slapd::new(&certificate);
    finds(&slapd).await;
    what_is_no_text(&slapd).await;
    never_more_than_was_asked(&slapd).await;
    says_no(&slapd).await;
    over_tls(&slapd, &certificate).await;
    comes_back(&mut slapd).await;
}

async fn finds(slapd: &Slapd) {
    let table = table(slapd.options(), &kit::distrusting());
    let bob = "Bob's|smtp://10.0.0.5:25|smtp://10.0.0.6:25";
    for (key, expected) in [
        ("bob@example.org", bob),
        ("ROBERT@example.org", bob),
        ("alice@example.org", "-"),
        // There, and without any of the attributes.
        ("bare@example.org", "-"),
        ("o*d(d)\\x@example.org", "odd one"),
    ] {
        assert_eq!(said(&table, key).await, expected, "{key}");
    }
    let lookups = (0..30).map(|_| {
        let table = table.clone();
        tokio::spawn(async move { said(&table, "bob@example.org").await })
    });
    for lookup in lookups.collect::<Vec<_>>() {
        assert_eq!(lookup.await.unwrap(), bob);
    }
    let by_part = self::table(
        LdapOptions {
            filter: "(&(uid=%u)(mail=*@%d))".to_owned(),
            attributes: vec!["MAIL".to_owned()],
            ..slapd.options()
        },
        &kit::distrusting(),
    );
    for (key, expected) in [
        ("bob@example.org", "bob@example.org|robert@example.org"),
        ("bob@other.example", "-"),
        ("bob", "-"),
        ("@example.org", "-"),
    ] {
        assert_eq!(said(&by_part, key).await, expected, "{key}");
    }
}

/// Of what was asked for: that is not the same as nothing, for which mail would bounce.
async fn what_is_no_text(slapd: &Slapd) {
    let options = LdapOptions {
        attributes: vec!["mail".to_owned(), "audio".to_owned()],
        ..slapd.options()
    };
    let said = said(&table(options, &kit::distrusting()), "bare@example.org").await;
    assert_eq!(said, "wrong: a value of `audio` is not UTF-8");
}

async fn never_more_than_was_asked(slapd: &Slapd) {
    let table = table(slapd.options(), &kit::distrusting());
    for key in [
        "*",
        "*@example.org",
        "bob@example.org)(uid=*",
        "x)(|(uid=bob)",
        "bob@example.org\0",
        "\\2a",
        "",
    ] {
        assert_eq!(said(&table, key).await, "-", "{key}");
    }
}

async fn says_no(slapd: &Slapd) {
    let open = |options| table(options, &kit::distrusting());
    let wrong_password = open(LdapOptions {
        bind: Some((
            "cn=reader,dc=example,dc=org".to_owned(),
            Secret::new("guess".to_owned()),
        )),
        ..slapd.options()
    });
    let nobody = open(LdapOptions {
        bind: None,
        ..slapd.options()
    });
    let wrong_base = open(LdapOptions {
        base: "dc=elsewhere".to_owned(),
        ..slapd.options()
    });
    for (table, expected) in [
        (wrong_password, "are bind and password right?"),
        (nobody, "is the base right, and may it be seen?"),
        (wrong_base, "is the base right, and may it be seen?"),
    ] {
        let said = said(&table, "bob@example.org").await;
        assert!(
            said.starts_with("wrong: it says: rc=") && said.contains(expected),
            "{said}"
        );
    }
}

async fn over_tls(slapd: &Slapd, certificate: &Certificate) {
    let ways = [
        LdapOptions {
            starttls: true,
            ..slapd.options()
        },
        LdapOptions {
            url: slapd.ldaps(),
            ..slapd.options()
        },
    ];
    let open = table;
    for options in ways {
        let trusting = open(options.clone(), &certificate.client);
        let found = said(&trusting, "bob@example.org").await;
        assert!(found.starts_with("Bob's|"), "{found}");
        let distrusting = open(options, &kit::distrusting());
        let said = said(&distrusting, "bob@example.org").await;
        assert!(said.starts_with("later: connecting to ldap"), "{said}");
        assert!(
            said.contains("certificate") && said.contains("UnknownIssuer"),
            "{said}"
        );
    }
    let unix = LdapOptions {
        url: slapd.ldapi(),
        ..slapd.options()
    };
    let table = open(unix, &kit::distrusting());
    assert!(said(&table, "bob@example.org").await.starts_with("Bob's|"));
}

async fn comes_back(slapd: &mut Slapd) {
    let table = table(slapd.options(), &kit::distrusting());
    assert!(said(&table, "bob@example.org").await.starts_with("Bob's|"));
    slapd.stop();
    let gone = said(&table, "bob@example.org").await;
    assert!(
        gone.starts_with("later: connecting to ldap://127.0.0.1"),
        "{gone}"
    );
    slapd.start();
    assert!(said(&table, "bob@example.org").await.starts_with("Bob's|"));
    // Restarted between two lookups: the connection that was kept is of no use.
    slapd.stop();
    slapd.start();
    assert!(said(&table, "bob@example.org").await.starts_with("Bob's|"));
}

fn anonymous(url: String) -> SharedTable {
    let options = LdapOptions {
        url,
        starttls: false,
        base: "dc=x".to_owned(),
        filter: "(mail=%s)".to_owned(),
        attributes: vec!["mail".to_owned()],
        bind: None,
        connections: 1,
    };
    table(options, &kit::distrusting())
}

/// A server that sends the same to each connection.
async fn raw(answer: &'static [u8]) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(answer).await.unwrap();
            open.push(stream);
        }
    });
    format!("ldap://{at}")
}

#[tokio::test(start_paused = true)]
async fn nonsense_is_no_answer_and_no_panic() {
    for answer in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        // A message that is no response, an entry without its parts, a result without its code.
        b"\x30\x05\x02\x01\x01\x42\x00",
        b"\x30\x05\x02\x01\x01\x64\x00",
        b"\x30\x05\x02\x01\x01\x65\x00",
        b"\x30\x07\x02\x01\x01\x64\x02\x04\x00",
        b"\x30\x84\xff\xff\xff\xff",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"",
    ] {
        let table = anonymous(raw(answer).await);
        let said = said(&table, "bob@example.org").await;
        assert!(
            said.starts_with("later: ") || said.starts_with("wrong: "),
            "{answer:x?}: {said}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_hangs() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let table = anonymous(format!("ldap://{}", listener.local_addr().unwrap()));
    let start = tokio::time::Instant::now();
    for _ in 0..2 {
        assert_eq!(said(&table, "k").await, "later: no answer within 5s");
    }
    assert_eq!(start.elapsed(), Duration::from_secs(10));
}

#[tokio::test]
async fn nobody_there() {
    let table = anonymous(format!("ldap://127.0.0.1:{}", kit::free_port()));
    let said = said(&table, "k").await;
    assert!(
        said.contains("refused; is the directory running") || said.contains("(os error 111); is"),
        "{said}"
    );
}
