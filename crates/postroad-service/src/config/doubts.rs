//! What works, and is hardly meant.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use ipnet::IpNet;

use super::check::Findings;
use super::{Durability, Loaded, RouteTls, StoreKind, own};

/// Recipients that every server must take at once.
const RECIPIENTS_MIN: usize = 100;
/// The rights of whoever is neither owner nor of the group.
const OTHERS: u32 = 0o007;

pub(super) fn look(loaded: &Loaded, findings: &mut Findings) {
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
    if let Some(after) = config.delivery.warn_after.0
        && after >= config.delivery.expire.0
    {
        let message = "is not before delivery.expire: no sender will be told of a delay";
        findings.warning(&loaded.problem("delivery.warn_after", 0, message));
    }
    if (1..RECIPIENTS_MIN).contains(&config.limits.recipients) {
        let message =
            format!("servers may send {RECIPIENTS_MIN} at once (RFC 5321 section 4.5.3.1.8)");
        findings.warning(&loaded.problem("limits.recipients", 0, message));
    }
    networks(loaded, findings);
    routes(loaded, findings);
    tokens(loaded, findings);
    private_key(loaded, findings);
}

/// `192.0.2.10/24`: a network, or a host of which the prefix was not thought through?
fn networks(loaded: &Loaded, findings: &mut Findings) {
    let config = &loaded.config;
    let trusted = config.relay.trusted_networks.iter().enumerate();
    let of_routes = config.route.iter().enumerate();
    let of_routes = of_routes.filter_map(|(nth, route)| Some((nth, route.network.as_ref()?)));
    let all = trusted
        .map(|(nth, text)| ("relay.trusted_networks", nth, text))
        .chain(of_routes.map(|(nth, text)| ("route.network", nth, text)));
    for (key, nth, text) in all {
        // What is no network at all is a mistake, and named elsewhere.
        if let Ok(network) = text.parse::<IpNet>()
            && network.addr() != network.network()
        {
            let message = format!(
                "`{text}` means all of {}; for the one host write `{}`",
                network.trunc(),
                network.addr()
            );
            findings.warning(&loaded.problem(key, nth, message));
        }
    }
}

/// A login that somebody in between can hear, and addresses that nobody can call from.
fn routes(loaded: &Loaded, findings: &mut Findings) {
    let interfaces = own::interfaces();
    for (nth, route) in loaded.config.route.iter().enumerate() {
        if route.auth.is_some() && route.tls != RouteTls::Verify {
            let message = "without tls = \"verify\" the password is told to whoever answers, with any certificate";
            findings.warning(&loaded.problem("route.auth", nth, message));
        }
        let strange = route.source.0.iter().find(|ip| !interfaces.contains(ip));
        if let Some(strange) = strange
            && !interfaces.is_empty()
        {
            let message =
                format!("{strange} is no address of this machine now: mail of this route waits");
            findings.warning(&loaded.problem("route.source", nth, message));
        }
    }
}

fn tokens(loaded: &Loaded, findings: &mut Findings) {
    let config = &loaded.config;
    let routes = config.route.iter().enumerate();
    let routes =
        routes.filter_map(|(nth, route)| Some(("route.table.token", nth, route.table.as_ref()?)));
    let aliases = config.alias.iter().enumerate();
    let aliases = aliases.map(|(nth, alias)| ("alias.table.token", nth, &alias.table));
    for (key, nth, table) in routes.chain(aliases) {
        let url = table.0.url.as_deref().unwrap_or_default();
        if table.0.token.is_some() && url.starts_with("http://") {
            let message = "is sent without TLS: whoever is in between can read it";
            findings.warning(&loaded.problem(key, nth, message));
        }
    }
}

fn private_key(loaded: &Loaded, findings: &mut Findings) {
    let Some(tls) = &loaded.config.tls else {
        return;
    };
    if let Ok(file) = fs::metadata(&tls.key)
        && file.mode() & OTHERS != 0
    {
        let message = format!(
            "everybody on this machine may read or write {}; chmod o= it",
            tls.key.display()
        );
        findings.warning(&loaded.problem("tls.key", 0, message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_is_doubtful() {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("key.pem");
        fs::write(&key, "").unwrap();
        let tls = format!("[tls]\ncertificate = \"c\"\nkey = \"{}\"\n", key.display());
        let looked = |text: &str| {
            let text = format!("postmaster = \"a@b.test\"\n{text}");
            let loaded = Loaded::from_config(toml::from_str(&text).unwrap());
            let mut findings = Findings::default();
            look(&loaded, &mut findings);
            assert!(findings.errors.is_empty(), "{findings:?}");
            findings.warnings.join("\n")
        };
        for (text, said) in [
            (
                "delivery.expire = \"1h\"",
                "delivery.warn_after: is not before",
            ),
            (
                "delivery.warn_after = \"5d\"",
                "delivery.warn_after: is not before",
            ),
            (
                "limits.recipients = 99",
                "limits.recipients: servers may send 100",
            ),
            (
                "relay.trusted_networks = [\"192.0.2.10/24\"]",
                "relay.trusted_networks: `192.0.2.10/24` means all of 192.0.2.0/24; for the one host write `192.0.2.10`",
            ),
            (
                "[[route]]\nvia = \"mx\"\nnetwork = \"2001:db8::1/64\"",
                "route.network: `2001:db8::1/64` means all of 2001:db8::/64",
            ),
            ("queue.store = \"memory\"", "keeps nothing"),
            (
                "[[route]]\nvia = \"smtp://a.test\"\nauth = { user = \"u\", password = \"p\" }",
                "route.auth: without tls = \"verify\"",
            ),
            (
                "[[route]]\nvia = \"mx\"\nsource = [\"127.0.0.1\", \"2001:db8::1\"]",
                "route.source: 2001:db8::1 is no address of this machine",
            ),
            (
                "[[alias]]\ntable = { kind = \"http\", url = \"http://a\", token = \"t\" }",
                "alias.table.token: is sent without TLS",
            ),
        ] {
            assert!(looked(text).contains(said), "{text}: {}", looked(text));
        }
        for text in [
            "",
            "delivery.warn_after = \"never\"",
            "limits.recipients = 100",
            "[[route]]\nvia = \"smtp://a.test\"\ntls = \"verify\"\nauth = { user = \"u\", password = \"p\" }",
            "[[route]]\nvia = \"mx\"\nsource = \"127.0.0.1\"",
            "[[route]]\ntable = { kind = \"http\", url = \"https://a\", token = \"t\" }",
            "relay.trusted_networks = [\"192.0.2.0/24\", \"192.0.2.10\", \"2001:db8::1/128\"]",
        ] {
            assert_eq!(looked(text), "", "{text}");
        }
        for (mode, said) in [(0o644, "tls.key: everybody"), (0o640, ""), (0o600, "")] {
            fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
            let text = looked(&tls);
            assert_eq!(text.is_empty(), said.is_empty(), "{mode:o}: {text}");
            assert!(text.contains(said), "{mode:o}: {text}");
        }
    }
}
