//! `postroad explain`: for people.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use postroad_mail::{Address, ReversePath, escape_peer_text};
use postroad_service::config::Loaded;
use postroad_service::explain::{
    ExplainRequest, Explained, ExplainedAddress, ExplainedHost, ExplainedLimits, ExplainedSecurity,
    ExplainedSession, Explanation, ask,
};

use crate::cli;
use crate::moments::{moment, span};
use crate::output::{line, text};

pub(crate) async fn run(arguments: &cli::Explain, loaded: &Loaded) -> anyhow::Result<ExitCode> {
    let request = ExplainRequest {
        recipient: arguments.recipient.clone(),
        sender: arguments.from.clone(),
        user: arguments.user.clone(),
        network: arguments.network,
        connect: arguments.connect,
    };
    let explained = ask(loaded, &request).await?;
    if arguments.json {
        line(format_args!("{}", serde_json::to_string(&explained)?))?;
    } else {
        text(&shown(&request, &explained))?;
    }
    Ok(if explained.deliverable {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// With angle brackets, or without.
pub(crate) fn recipient(given: &str) -> Result<Address, String> {
    let inner = given
        .strip_prefix('<')
        .and_then(|rest| rest.strip_suffix('>'));
    let parsed = inner.unwrap_or(given).parse::<Address>();
    parsed.map_err(|error| format!("{error}; expected an address such as bob@example.org"))
}

/// With angle brackets, or without.
pub(crate) fn sender(given: &str) -> Result<ReversePath, String> {
    let path = if given.starts_with('<') {
        given.to_owned()
    } else {
        format!("<{given}>")
    };
    let parsed = path.parse::<ReversePath>();
    parsed.map_err(|error| format!("{error}; expected an address such as alice@example.org, or <>"))
}

fn shown(request: &ExplainRequest, explained: &Explained) -> String {
    let mut out = String::new();
    if !explained.running {
        let _ = writeln!(
            out,
            "No service runs: this is what the configuration alone says; limits in force and dead hosts are not known.\n"
        );
    }
    if !explained.members.is_empty() {
        let _ = writeln!(out, "{} stands for", request.recipient);
        for member in &explained.members {
            let from = match &member.from {
                Some(from) if *from != request.sender.to_string() => {
                    format!("  (bounces go to <{}>)", bare(from))
                }
                _ => String::new(),
            };
            let _ = writeln!(out, "  {}{from}", member.address);
        }
        out.push('\n');
    }
    if let Some(outcome) = &explained.outcome {
        let _ = writeln!(out, "{} is {outcome}", request.recipient);
    }
    for (n, explanation) in explained.explanations.iter().enumerate() {
        if n > 0 {
            out.push('\n');
        }
        one(&mut out, explanation);
    }
    let more = explained
        .members
        .len()
        .saturating_sub(explained.explanations.len());
    if more > 0 && !explained.explanations.is_empty() {
        let _ = writeln!(
            out,
            "\nand {more} more, which are not explained: ask for each"
        );
    }
    let verdict = if explained.deliverable {
        "It would be delivered now, as far as can be known before it is tried."
    } else {
        "It would not be delivered now."
    };
    let _ = writeln!(out, "\n{verdict}");
    out
}

fn bare(path: &str) -> &str {
    path.trim_start_matches('<').trim_end_matches('>')
}

fn row(out: &mut String, name: &str, what: &str) {
    let _ = writeln!(out, "  {name:<10}  {what}");
}

fn one(out: &mut String, explanation: &Explanation) {
    let from = bare(&explanation.sender);
    let _ = writeln!(out, "{}, from <{from}>", explanation.recipient);
    if !explanation.route.is_empty() {
        row(out, "route", &way(explanation));
    }
    if let Some(chosen_by) = &explanation.chosen_by {
        row(out, "chosen by", &escape_peer_text(chosen_by));
    }
    if !explanation.lane.is_empty() {
        row(
            out,
            "limits",
            &limits(&explanation.lane, &explanation.limits),
        );
    }
    destination(out, explanation);
    if let Some(ttl) = explanation.mx_ttl {
        let ttl = span(Duration::from_secs(ttl));
        row(out, "MX", &format!("records may be kept for {ttl}"));
    }
    for warning in &explanation.warnings {
        row(out, "warning", &escape_peer_text(warning));
    }
    for (n, host) in explanation.hosts.iter().enumerate() {
        self::host(out, n + 1, host);
    }
    if let Some(outcome) = &explanation.outcome {
        row(out, "outcome", &escape_peer_text(outcome));
    }
}

/// Where it leads; what chose it has a row of its own.
fn way(explanation: &Explanation) -> String {
    let route = explanation.route.as_str();
    let route = route.strip_prefix("route: ").unwrap_or(route);
    let chosen = explanation.chosen_by.as_deref().unwrap_or_default();
    let shorter = route.strip_suffix(&format!(" ({chosen})"));
    escape_peer_text(shorter.unwrap_or(route))
}

fn limits(lane: &str, limits: &ExplainedLimits) -> String {
    let mut text = format!(
        "{} attempts at the same time to {lane}, {} in all",
        limits.per_destination, limits.concurrency
    );
    for (rate, what) in [
        (&limits.messages, "messages"),
        (&limits.connections, "new connections"),
    ] {
        if let Some(rate) = rate {
            let _ = write!(text, "; {what}: {rate}");
        }
    }
    if let Some(name) = &limits.name {
        let _ = write!(text, " ({name})");
    }
    text
}

/// What a running service knows of it.
fn destination(out: &mut String, explanation: &Explanation) {
    let Some(known) = &explanation.destination else {
        return;
    };
    let now = format!(
        "{} attempts under way, {} allowed now, up to {}",
        known.in_flight, known.window, known.window_max
    );
    row(out, "now", &now);
    if let Some(throttled) = &known.throttled {
        let until = moment(throttled.until);
        row(
            out,
            "held back",
            &format!("until {until}: {}", throttled.why),
        );
    }
    if let Some(error) = &known.last_error {
        row(
            out,
            "last error",
            &format!("{}: {}", moment(error.at), error.what),
        );
    }
    if let Some(at) = known.last_success {
        row(out, "last taken", &moment(at));
    }
}

fn host(out: &mut String, nth: usize, host: &ExplainedHost) {
    let mut about = vec![host.protocol.clone()];
    if let Some(preference) = host.preference {
        about.push(format!("preference {preference}"));
    }
    if let Some(ttl) = host.ttl {
        let ttl = span(Duration::from_secs(ttl));
        about.push(format!("addresses may be kept for {ttl}"));
    }
    let _ = writeln!(out, "  {nth}. {}  {}", host.name, about.join(", "));
    security(out, &host.security);
    for address in &host.addresses {
        self::address(out, address);
    }
}

fn security(out: &mut String, security: &ExplainedSecurity) {
    let in_force = if security.enforced {
        ""
    } else {
        " (observed, not enforced)"
    };
    let _ = writeln!(
        out,
        "       policy {}: it asks for {}{in_force}",
        security.policy, security.requirement
    );
    for reason in &security.reasons {
        let _ = writeln!(out, "         {}", escape_peer_text(reason));
    }
    match &security.unusable {
        Some(why) => {
            let why = escape_peer_text(why);
            let _ = writeln!(out, "       not used: {why}");
        }
        None => {
            let _ = writeln!(
                out,
                "       TLS {}, certificate {}",
                security.starttls, security.certificate
            );
        }
    }
}

fn address(out: &mut String, address: &ExplainedAddress) {
    let dead = address.dead.as_ref().map_or_else(String::new, |dead| {
        let (found, probe) = (moment(dead.found), moment(dead.next_probe));
        format!(
            "  dead since {found}: {}; tried again at {probe}",
            dead.error
        )
    });
    let _ = writeln!(out, "       {}{dead}", address.address);
    if let Some(session) = &address.session {
        self::session(out, session);
    }
}

fn session(out: &mut String, session: &ExplainedSession) {
    let took = span(Duration::from_millis(session.connect_ms));
    if let Some(error) = &session.error {
        let _ = writeln!(out, "         no session, after {took}: {error}");
        return;
    }
    let tls = session.tls.as_deref().unwrap_or("no TLS");
    let verdict = session
        .verdict
        .as_ref()
        .map_or_else(String::new, |verdict| format!(", certificate: {verdict}"));
    let _ = writeln!(out, "         session open after {took}, {tls}{verdict}");
    if !session.extensions.is_empty() {
        let _ = writeln!(out, "         offers {}", session.extensions.join(", "));
    }
    if let Some(reply) = &session.reply {
        let word = if session.accepts {
            "would take it"
        } else {
            "would not take it"
        };
        let _ = writeln!(out, "         {word}: {reply}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_people_write_them() {
        assert_eq!(recipient("<a@b>").unwrap(), recipient("a@b").unwrap());
        assert!(recipient("a").unwrap_err().contains("bob@example.org"));
        assert_eq!(sender("a@b").unwrap(), sender("<a@b>").unwrap());
        assert!(sender("<>").unwrap().address().is_none());
        assert!(sender("a b").is_err());
    }

    #[test]
    fn all_of_it_is_shown() {
        let value = serde_json::json!({
            "running": true,
            "members": [{ "address": "bob@b.test", "from": "owner-list@v.test" }],
            "explanations": [{
                "recipient": "bob@b.test", "sender": "owner-list@v.test",
                "chosen_by": "c.toml:3, [[route]] 1", "route": "route: by MX of b.test (c.toml:3, [[route]] 1)", "lane": "b.test",
                "warnings": ["mx.b.test is an alias"], "mx_ttl": 3600,
                "hosts": [{
                    "name": "mx.b.test", "preference": 10, "protocol": "smtp", "ttl": 60,
                    "security": {
                        "policy": "dane", "requirement": "a certificate that TLSA records match",
                        "enforced": false, "starttls": "if offered", "certificate": "any",
                        "reasons": ["DANE: 2 TLSA records"]
                    },
                    "addresses": [{ "address": "192.0.2.1:25", "dead": {
                        "name": "mx.b.test", "address": "192.0.2.1:25", "error": "no answer",
                        "found": 0, "next_probe": 30_000
                    } }, { "address": "192.0.2.2:25", "session": {
                        "connect_ms": 35, "tls": "TLS1.3 x", "verdict": "as it must be",
                        "extensions": ["PIPELINING"], "reply": "RCPT: 250 2.1.5 ok", "accepts": true
                    } }]
                }],
                "limits": {
                    "concurrency": 1000, "per_destination": 20, "name": "[[route]] 1",
                    "messages": "100 in 60 s"
                },
                "destination": {
                    "lane": "b.test", "in_flight": 1, "window": 5, "window_max": 20,
                    "throttled": { "until": 1000, "why": "a rate" },
                    "last_error": { "at": 0, "what": "421 no" }, "last_success": 5
                }
            }],
            "deliverable": false
        });
        let explained: Explained = serde_json::from_value(value).unwrap();
        let request = ExplainRequest {
            recipient: recipient("list@v.test").unwrap(),
            sender: sender("a@c.test").unwrap(),
            user: None,
            network: None,
            connect: true,
        };
        assert_eq!(
            shown(&request, &explained),
            "list@v.test stands for\n  bob@b.test  (bounces go to <owner-list@v.test>)\n\n\
             bob@b.test, from <owner-list@v.test>\n\
             \x20 route       by MX of b.test\n\
             \x20 chosen by   c.toml:3, [[route]] 1\n\
             \x20 limits      20 attempts at the same time to b.test, 1000 in all; messages: 100 in 60 s ([[route]] 1)\n\
             \x20 now         1 attempts under way, 5 allowed now, up to 20\n\
             \x20 held back   until 1970-01-01 00:00:01.000Z: a rate\n\
             \x20 last error  1970-01-01 00:00:00.000Z: 421 no\n\
             \x20 last taken  1970-01-01 00:00:00.005Z\n\
             \x20 MX          records may be kept for 1h00m\n\
             \x20 warning     mx.b.test is an alias\n\
             \x20 1. mx.b.test  smtp, preference 10, addresses may be kept for 1m00s\n\
             \x20      policy dane: it asks for a certificate that TLSA records match (observed, not enforced)\n\
             \x20        DANE: 2 TLSA records\n\
             \x20      TLS if offered, certificate any\n\
             \x20      192.0.2.1:25  dead since 1970-01-01 00:00:00.000Z: no answer; tried again at 1970-01-01 00:00:30.000Z\n\
             \x20      192.0.2.2:25\n\
             \x20        session open after 35ms, TLS1.3 x, certificate: as it must be\n\
             \x20        offers PIPELINING\n\
             \x20        would take it: RCPT: 250 2.1.5 ok\n\n\
             It would not be delivered now.\n"
        );
    }
}
