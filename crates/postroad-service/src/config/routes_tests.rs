use std::time::Duration;

use postroad_lookup::TableKind;
use postroad_mail::Protocol;
use postroad_routing::{HopAddress, TlsMode, Via};

use super::super::{Roles, RouteStep, load};

/// From a file, so that mistakes have a place.
fn roles(text: &str) -> Result<Roles, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.toml");
    std::fs::write(&path, format!("{text}\n")).unwrap();
    let loaded = load(&path).map_err(|error| error.to_string())?;
    Roles::from_config(&loaded).map_err(|error| error.to_string())
}

/// What is said of a mistake; each has its line.
fn said_of(text: &str) -> String {
    let found = roles(text).map_or_else(|error| error, |_| String::new());
    assert!(found.contains("c.toml:"), "{text}: {found}");
    found
}

const ROUTES: &str = r#"hostname = "mx.test"
[[route]]
recipient = "*@a.test"
sender = "<>"
user = "alice"
network = "192.0.2.0/24"
via = ["smtp://b.test:26 preference=10 weight=3", "smtps://[192.0.2.9]", "lmtp+unix:///run/l.sock preference=7"]
tls = "verify"
source = ["192.0.2.3", "2001:db8::3"]
helo = "out.mx.test"
limits = { per_destination = 5, messages = "100/1m", connections = "10/1s" }

[[route]]
via = "smtp://b.test"
auth = { user = "bob", password = { file = "secret" } }

[[route]]
via = "mx"
port = 2525
source = "192.0.2.4"
tls = "none"
"#;

#[test]
fn every_key_of_a_route_reaches_it() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("secret"), "s3cret\n").unwrap();
    let path = directory.path().join("c.toml");
    std::fs::write(&path, ROUTES).unwrap();
    let roles = Roles::from_config(&load(&path).unwrap()).unwrap();
    let [
        RouteStep::Rule(first),
        RouteStep::Rule(second),
        RouteStep::Rule(third),
    ] = roles.routes.as_slice()
    else {
        panic!("{:?}", roles.routes);
    };
    assert_eq!(first.recipient, Some("*@a.test".parse().unwrap()));
    assert_eq!(first.sender, Some("<>".parse().unwrap()));
    assert_eq!(first.user.as_deref(), Some("alice"));
    assert_eq!(first.network, Some("192.0.2.0/24".parse().unwrap()));
    let Via::Hops(hops) = &first.via else {
        panic!("{first:?}");
    };
    let [one, two, three] = hops.as_slice() else {
        panic!("{hops:?}");
    };
    assert_eq!((one.preference, one.weight), (10, 3));
    assert!(two.implicit_tls && two.preference == 0);
    assert!(matches!(&three.at, HopAddress::Unix(path) if path.ends_with("l.sock")));
    assert_eq!((three.protocol, three.preference), (Protocol::Lmtp, 7));
    let options = &first.options;
    assert_eq!(options.tls, TlsMode::Verify);
    let source: [std::net::IpAddr; 2] =
        ["192.0.2.3".parse().unwrap(), "2001:db8::3".parse().unwrap()];
    assert_eq!(options.source, source);
    assert_eq!(options.helo, Some("out.mx.test".parse().unwrap()));
    let limits = options.limits.as_ref().unwrap();
    assert_eq!(
        (limits.name.as_str(), limits.per_destination),
        ("[[route]] 1", Some(5))
    );
    let rates = [limits.messages, limits.connections].map(|rate| rate.unwrap());
    assert_eq!(rates.map(|rate| rate.count), [100, 10]);
    assert_eq!(rates.map(|rate| rate.per), [60, 1].map(Duration::from_secs));
    let place = format!("{}:2, [[route]] 1", path.display());
    assert_eq!(first.chosen_by.as_str(), Some(place.as_str()));

    let auth = second.options.auth.as_ref().unwrap();
    assert_eq!(
        (auth.user.as_str(), auth.secret.expose()),
        ("bob", "s3cret")
    );
    assert_eq!(second.options.tls, TlsMode::Require, "a login is worth TLS");

    assert_eq!((&third.via, third.options.port), (&Via::Mx, Some(2525)));
    assert_eq!(third.options.tls, TlsMode::None);
    assert_eq!(third.options.source.len(), 1);
}

const TABLES: &str = r#"hostname = "mx.test"
[[route]]
recipient = "*@a.test"
table = "routes.txt"
[[route]]
table = { kind = "socketmap", socket = "unix:map.sock", map = "m", timeout = "7s", connections = 9, cache = "11m", cache_negative = "13s", cache_entries = 17 }
[[alias]]
domains = ["v.test"]
table = { kind = "http", url = "http://127.0.0.1/x", token = { file = "token" } }
[[alias]]
table = { kind = "ldap", url = "ldap://l.test", starttls = true, base = "dc=t", filter = "(mail=%s)", attributes = ["a", "b"], bind = "cn=x", password = "p" }
[[alias]]
table = { kind = "sql", url = "postgres://u@h/d", password = "q", query = "SELECT $1" }
"#;

fn tables() -> (tempfile::TempDir, Roles) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("token"), "t0ken").unwrap();
    let path = directory.path().join("c.toml");
    std::fs::write(&path, TABLES).unwrap();
    let roles = Roles::from_config(&load(&path).unwrap()).unwrap();
    (directory, roles)
}

#[test]
fn every_key_of_a_table_reaches_it() {
    let (directory, roles) = tables();
    let at = |name: &str| directory.path().join(name);
    let [
        RouteStep::Table { only, spec: file },
        RouteStep::Table { spec: map, .. },
    ] = roles.routes.as_slice()
    else {
        panic!("{:?}", roles.routes);
    };
    assert_eq!(only.recipient, Some("*@a.test".parse().unwrap()));
    assert!(matches!(&file.kind, TableKind::File { path } if *path == at("routes.txt")));
    let TableKind::Socketmap { socket, map: name } = &map.kind else {
        panic!("{map:?}");
    };
    let expected = format!("unix:{}", at("map.sock").display());
    assert_eq!((socket.to_string(), name.as_str()), (expected, "m"));
    assert_eq!(
        (map.guard.timeout, map.connections),
        (Duration::from_secs(7), 9)
    );
    assert_eq!(map.cache.ttl, Duration::from_secs(660));
    assert_eq!(
        (map.cache.negative, map.cache.entries),
        (Duration::from_secs(13), 17)
    );
}

#[test]
fn every_key_of_a_server_reaches_it() {
    let (_directory, roles) = tables();
    let [http, ldap, sql] = roles.aliases.as_slice() else {
        panic!("{:?}", roles.aliases);
    };
    assert_eq!(http.domains, ["v.test".parse().unwrap()]);
    let TableKind::Http { url, table, token } = &http.spec.kind else {
        panic!("{http:?}");
    };
    assert_eq!(
        (url.as_str(), table.as_str()),
        ("http://127.0.0.1/x", "aliases")
    );
    assert_eq!(token.as_ref().unwrap().expose(), "t0ken");
    let TableKind::Ldap {
        url,
        starttls,
        base,
        filter,
        attributes,
        bind,
    } = &ldap.spec.kind
    else {
        panic!("{ldap:?}");
    };
    assert_eq!(
        (url.as_str(), *starttls, base.as_str()),
        ("ldap://l.test", true, "dc=t")
    );
    assert_eq!(
        (filter.as_str(), attributes.join(" ")),
        ("(mail=%s)", "a b".to_owned())
    );
    let (name, password) = bind.as_ref().unwrap();
    assert_eq!((name.as_str(), password.expose()), ("cn=x", "p"));
    let TableKind::Sql {
        url,
        password,
        query,
    } = &sql.spec.kind
    else {
        panic!("{sql:?}");
    };
    assert_eq!(
        (url.as_str(), query.as_str()),
        ("postgres://u@h/d", "SELECT $1")
    );
    assert_eq!(password.as_ref().unwrap().expose(), "q");
}

/// Each mistake, and what is said of it.
const MISTAKES: &[(&str, &str)] = &[
    (
        "[[route]]\nrecipient = \"*\"",
        "route: needs `via` or `table`",
    ),
    ("[[route]]\nvia = []", "route: needs `via` or `table`"),
    (
        "[[route]]\nvia = \"mx\"\ntable = \"t\"",
        "route.table: `via` says where the mail goes",
    ),
    ("[[route]]\nvia = \"pigeon\"", "route.via: `pigeon`"),
    (
        "[[route]]\nvia = [\"mx\", \"smtp://a.test\"]",
        "route.via: `mx` in a list: only hosts can be several",
    ),
    (
        "[[route]]\nvia = [\"smtp://a.test\", \"pigeon\"]",
        "route.via: `pigeon`",
    ),
    (
        "[[route]]\nvia = 5",
        "expected a text in quotes, or a list of them",
    ),
    (
        "[[route]]\nvia = \"mx\"\nhelo = \"a b\"",
        "route.helo: `a b`",
    ),
    (
        "[[route]]\nvia = \"mx\"\nport = 0",
        "route.port: must be more",
    ),
    (
        "[[route]]\nvia = \"smtp://a.test\"\nport = 26",
        "route.port: is the port of MX hosts",
    ),
    (
        "[[route]]\nvia = \"mx\"\nsource = \"x\"",
        "expected an address, as in",
    ),
    (
        "[[route]]\nvia = \"mx\"\nsource = \"0.0.0.0\"",
        "route.source: 0.0.0.0 is no address to call from",
    ),
    (
        "[[route]]\nvia = \"mx\"\nsource = [\"192.0.2.1\", \"192.0.2.2\"]",
        "route.source: 192.0.2.2 is the second of its family",
    ),
    (
        "[[route]]\nvia = \"smtp://a.test\"\ntls = \"none\"\nauth = { user = \"u\", password = \"p\" }",
        "route.tls: \"none\" with `auth` would send the password",
    ),
    (
        "[[route]]\nvia = \"mx\"\nauth = { user = \"u\", password = \"p\" }",
        "route.auth: a login is for hosts that `via` names",
    ),
    (
        "[[route]]\nvia = \"lmtp+unix:///l.sock\"\nauth = { user = \"u\", password = \"p\" }",
        "route.auth: there is no TLS on a Unix socket",
    ),
    (
        "[[route]]\nvia = \"smtp://a.test\"\nauth = { user = \"\", password = \"p\" }",
        "route.auth.user: is empty",
    ),
    (
        "[[route]]\nvia = \"smtp://a.test\"\nauth = { user = \"u\", password = { file = \"/no/such\" } }",
        "route.auth.password: reading /no/such: ",
    ),
    (
        "[[route]]\nvia = \"smtp://a.test\"\nauth = { user = \"u\", password = 5 }",
        "expected a text in quotes, { file = ",
    ),
    (
        "[[route]]\nvia = \"mx\"\nlimits = { per_destination = 0 }",
        "route.limits.per_destination: must be more",
    ),
    (
        "[[route]]\nvia = \"mx\"\nlimits = { messages = \"100\" }",
        "such as \"100/1m\"",
    ),
    (
        "[[route]]\nvia = \"discard\"\nhelo = \"a.test\"",
        "route.helo: nobody is called",
    ),
    (
        "[[route]]\ntable = { kind = \"nis\" }",
        "expected one of `file`, `socketmap`, `http`, `ldap`, `sql`",
    ),
    (
        "[[route]]\ntable = 5",
        "expected the path of a file, in quotes, or a table such as { kind = \"http\"",
    ),
    (
        "[[route]]\ntable = { kind = \"http\" }",
        "route.table: kind = \"http\" needs `url`",
    ),
    (
        "[[route]]\ntable = { kind = \"file\", path = \"t\", url = \"x\" }",
        "route.table.url: is no key of kind = \"file\"; expected one of path, kind",
    ),
    (
        "[[route]]\ntable = { kind = \"file\", path = \"t\", cache = \"1s\" }",
        "route.table: a file is held in memory",
    ),
    (
        "[[route]]\ntable = { kind = \"socketmap\", socket = \"x\", map = \"m\" }",
        "route.table.socket: `x` is no address of a server",
    ),
    (
        "[[route]]\ntable = { kind = \"http\", url = \"http://a\", timeout = \"0s\", connections = 0 }",
        "route.table.connections: must be more",
    ),
    (
        "[[alias]]\ntable = { kind = \"ldap\", url = \"ldap://l\", base = \"\", filter = \"(m=%s)\", attributes = [\"a\"], bind = \"cn=x\" }",
        "alias.table: `bind` and `password` belong together",
    ),
    (
        "[[alias]]\ntable = \"t\"\ndomains = [\"*\"]",
        "alias.domains: `*`",
    ),
    ("[[alias]]\ndomains = [\"a.test\"]", "missing field `table`"),
];

#[test]
fn mistakes_in_routes_and_tables() {
    for (text, said) in MISTAKES {
        let found = said_of(text);
        assert!(found.contains(said), "{text}\n{said}\n{found}");
    }
}

#[test]
fn mistakes_of_other_new_keys() {
    for (text, said) in [
        (
            "dns.nameservers = [\"x\"]",
            "tls://9.9.9.9:853#dns.quad9.net",
        ),
        ("dns.dnssec = \"on\"", "`auto`, `off`"),
        (
            "[dns]\nttl_min = \"2h\"\nttl_max = \"1h\"",
            "dns.ttl_min: must not be more",
        ),
        (
            "delivery.tls_policy = \"yes\"",
            "`enforce`, `observe`, `off`",
        ),
        (
            "delivery.messages_per_connection = 0",
            "delivery.messages_per_connection: must be",
        ),
        (
            "delivery.connection_lifetime = \"0s\"",
            "delivery.connection_lifetime: must be",
        ),
        ("tls_reports.from = \"x\"", "tls_reports.from: `x`"),
        ("tls_reports.contact = \"x\"", "tls_reports: without `from`"),
        (
            "[tls_reports]\nfrom = \"a@b.test\"\norganization = \"a\\nb\"",
            "tls_reports.organization: must be some text",
        ),
        ("log.history = 7", "expected a time such as"),
    ] {
        let found = said_of(text);
        assert!(found.contains(said), "{text}\n{said}\n{found}");
    }
    let reports = "[tls_reports]\nfrom = \"a@b.test\"\norganization = \"B\"\ncontact = \"c\"";
    let reports = roles(reports).unwrap().tls_reports.unwrap();
    assert_eq!(reports.from.to_string(), "a@b.test");
    assert_eq!(reports.organization.as_deref(), Some("B"));
    assert_eq!(reports.contact.as_deref(), Some("c"));
}
