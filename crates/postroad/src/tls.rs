//! `postroad tls report`.

use std::process::ExitCode;
use std::time::Duration;

use postroad_mail::{Timestamp, escape_peer_text};
use postroad_service::config::{Loaded, TlsPolicy};
use postroad_service::queue::so_long_ago;
use postroad_service::tls_report::{TlsDomain, TlsSummary, ask};

use crate::moments::from_now;
use crate::output::{line, text};

pub(crate) async fn report(loaded: &Loaded, json: bool) -> anyhow::Result<ExitCode> {
    let summary = ask(loaded).await?;
    if json {
        line(format_args!("{}", serde_json::to_string(&summary)?))?;
    } else {
        text(&shown(&summary, so_long_ago(Duration::ZERO)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(summary: &TlsSummary, now: Timestamp) -> String {
    let policy = summary.tls_policy;
    let means = match policy {
        TlsPolicy::Enforce => "mail waits where TLS is not what DANE and MTA-STS ask for",
        TlsPolicy::Observe => {
            "DANE and MTA-STS are looked at and recorded, and mail goes all the same"
        }
        TlsPolicy::Off => "DANE and MTA-STS are not looked at: nothing new is recorded",
    };
    let mut out = format!("tls_policy = \"{}\": {means}\n", policy.name());
    let (failing, well): (Vec<_>, Vec<_>) = summary
        .domains
        .iter()
        .partition(|domain| domain.would_fail > 0);
    if summary.domains.is_empty() {
        out.push_str("no mail has gone to a domain with a policy in the last 30 days\n");
        return out;
    }
    let would = if policy == TlsPolicy::Enforce {
        "fail"
    } else {
        "would fail with \"enforce\""
    };
    out.push_str(&format!(
        "{} of {} domains with a policy {would} (last 30 days)\n",
        failing.len(),
        summary.domains.len()
    ));
    for domain in failing {
        out.push_str(&format!("  {}\n", one(domain, now)));
        if let Some(reason) = &domain.last_reason {
            out.push_str(&format!("      {}\n", escape_peer_text(reason)));
        }
    }
    if !well.is_empty() {
        out.push_str("all is well with\n");
    }
    for domain in well {
        out.push_str(&format!("  {}\n", one(domain, now)));
        if let Some(reason) = &domain.last_reason {
            out.push_str(&format!("      last: {}\n", escape_peer_text(reason)));
        }
    }
    out
}

fn one(domain: &TlsDomain, now: Timestamp) -> String {
    let policy = match domain.policy.as_str() {
        "tlsa" => "DANE",
        "sts" => "MTA-STS",
        _ => "no policy to be had",
    };
    format!(
        "{}  {policy}: {} sessions good, {} not; last {}",
        escape_peer_text(&domain.domain),
        domain.sessions_ok,
        domain.would_fail,
        from_now(domain.last, now)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(name: &str, would_fail: u64, reason: Option<&str>) -> TlsDomain {
        TlsDomain {
            domain: name.to_owned(),
            policy: "sts".to_owned(),
            enforced: false,
            sessions_ok: 7,
            would_fail,
            last_reason: reason.map(str::to_owned),
            last: Timestamp::from_millis(0),
        }
    }

    #[test]
    fn who_would_fail_comes_first() {
        let now = Timestamp::from_millis(1000);
        let mut summary = TlsSummary {
            tls_policy: TlsPolicy::Observe,
            domains: vec![
                domain("a.test", 0, None),
                domain("b.test", 2, Some("mx.b.test: certificate-expired: \u{1b}")),
            ],
        };
        assert_eq!(
            shown(&summary, now),
            "tls_policy = \"observe\": DANE and MTA-STS are looked at and recorded, and mail goes all the same\n\
             1 of 2 domains with a policy would fail with \"enforce\" (last 30 days)\n\
             \x20 b.test  MTA-STS: 7 sessions good, 2 not; last 1.000s ago\n\
             \x20     mx.b.test: certificate-expired: \\u{1b}\n\
             all is well with\n\
             \x20 a.test  MTA-STS: 7 sessions good, 0 not; last 1.000s ago\n"
        );
        summary.domains.clear();
        assert!(
            shown(&summary, now)
                .ends_with("no mail has gone to a domain with a policy in the last 30 days\n")
        );
    }
}
