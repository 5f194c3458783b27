//! What a monitoring system reads of a running service: numbers about its queue, in the text
//! format of Prometheus. No name, address or subject of anybody is among them.

use std::collections::HashSet;
use std::fmt::Display;

use postroad_mta::Outbound;
use postroad_queue::Store;

/// The type of the text.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All of it, now.
pub(crate) fn text(store: &dyn Store, outbound: Option<&Outbound>) -> String {
    let mut text = Text(String::new());
    let version = env!("CARGO_PKG_VERSION");
    text.head("postroad_build_info", "gauge", "The program.");
    text.value(&format!("postroad_build_info{{version=\"{version}\"}}"), 1);
    queue(&mut text, store);
    health(&mut text, store);
    if let Some(outbound) = outbound {
        delivery(&mut text, outbound);
    }
    text.0
}

/// Of destinations met lately.
fn delivery(text: &mut Text, outbound: &Outbound) {
    let destinations = outbound.destinations();
    let throttled = destinations.iter().filter(|one| one.throttled.is_some());
    let dead = destinations.iter().flat_map(|one| &one.dead_hosts);
    let dead: HashSet<_> = dead.map(|host| (&host.name, &host.address)).collect();
    let failing = outbound.tls_report();
    let failing = failing.iter().filter(|domain| domain.would_fail > 0);
    for (name, help, value) in [
        (
            "destinations",
            "Destinations that mail went to lately.",
            destinations.len(),
        ),
        (
            "throttled_destinations",
            "Of those, the ones that are held back: `postroad queue stats` says why.",
            throttled.count(),
        ),
        (
            "dead_hosts",
            "Hosts of those that could not be called.",
            dead.len(),
        ),
        (
            "tls_failing_domains",
            "Domains whose DANE or MTA-STS some session in the last 30 days did not satisfy: `postroad tls report` names them.",
            failing.count(),
        ),
    ] {
        let name = format!("postroad_delivery_{name}");
        text.head(&name, "gauge", help);
        text.value(&name, value);
    }
}

fn queue(text: &mut Text, store: &dyn Store) {
    let totals = store.totals();
    let lanes = store.lanes();
    let parked = lanes.iter().filter(|lane| lane.parked_until.is_some());
    text.gauge(
        "messages",
        "Messages with a recipient that waits.",
        totals.messages,
    );
    text.gauge("held_messages", "Messages that are held.", totals.held);
    text.gauge(
        "message_octets",
        "Octets of the messages in the queue.",
        totals.bytes,
    );
    text.gauge(
        "in_flight",
        "Deliveries under way: a message's recipients of one lane each.",
        totals.in_flight,
    );
    text.gauge(
        "lanes",
        "Lanes (mostly the recipients' domains) that mail waits in.",
        lanes.len(),
    );
    text.gauge(
        "parked_lanes",
        "Lanes that are left alone for now.",
        parked.count(),
    );
}

fn health(text: &mut Text, store: &dyn Store) {
    let health = store.health();
    text.gauge(
        "fault",
        "1 where something keeps mail from being taken in, or state from being written: /health says what.",
        u8::from(health.fault.is_some()),
    );
    if let Some(since) = health.fault_since {
        text.gauge(
            "fault_since_seconds",
            "Since when, in seconds since 1970.",
            since.as_millis() / 1000,
        );
    }
    if let Some(free) = health.free {
        text.gauge("free_octets", "Octets free where the queue is.", free);
    }
    text.gauge(
        "min_free_octets",
        "Below so many free octets new mail is refused.",
        health.min_free,
    );
    text.gauge("disk_octets", "Octets of the queue's files.", health.disk);
    text.gauge(
        "live_octets",
        "Octets of those that mail in the queue needs.",
        health.live,
    );
    text.head(
        "postroad_queue_refused_total",
        "counter",
        "Messages refused because the queue could not take them.",
    );
    for (reason, count) in [
        ("full", health.refused_full),
        ("error", health.refused_error),
    ] {
        text.value(
            &format!("postroad_queue_refused_total{{reason=\"{reason}\"}}"),
            count,
        );
    }
    for (name, help, count) in [
        (
            "states_unwritten_total",
            "Outcomes of deliveries that could not be written down: they hold until a restart.",
            health.states_unwritten,
        ),
        (
            "sync_failures_total",
            "Syncs of outcomes that failed.",
            health.sync_failures,
        ),
        (
            "damaged_total",
            "Messages found damaged: `postroad queue verify` names them.",
            health.damaged,
        ),
        (
            "compactions_total",
            "Segments that compaction has emptied.",
            health.compactions,
        ),
        (
            "compacted_octets_total",
            "Octets that compaction has copied.",
            health.compacted,
        ),
    ] {
        text.one(name, "counter", help, count);
    }
}

struct Text(String);

impl Text {
    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.one(name, "gauge", help, value);
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        let name = format!("postroad_queue_{name}");
        self.head(&name, kind, help);
        self.value(&name, value);
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.0
            .push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn value(&mut self, name: &str, value: impl Display) {
        self.0.push_str(&format!("{name} {value}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use postroad_mta::OutboundConfig;
    use postroad_net::client::Connector;
    use postroad_queue::MemStore;
    use postroad_routing::{DnsOptions, DnsResolver, SharedRouter};

    #[tokio::test]
    async fn each_number_has_its_help_and_its_type_once() {
        let store = MemStore::new(1 << 20);
        let dns = DnsOptions {
            nameservers: vec!["127.0.0.1:9".parse().unwrap()],
            ..DnsOptions::default()
        };
        let outbound = Outbound::new(
            OutboundConfig::new("mx.test".parse().unwrap()),
            Arc::new(store.clone()),
            SharedRouter::default(),
            Arc::new(DnsResolver::new(dns).unwrap()),
            Connector::new(&[]).unwrap(),
        );
        let text = text(&store, Some(&outbound));
        let mut names = Vec::new();
        let mut lines = text.lines().peekable();
        while let Some(help) = lines.next() {
            let name = help.strip_prefix("# HELP ").unwrap();
            let name = name.split(' ').next().unwrap();
            let kind = lines.next().unwrap();
            let kind = kind.strip_prefix(&format!("# TYPE {name} ")).unwrap();
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
            assert!(!names.contains(&name), "{name}");
            names.push(name);
            while let Some(value) = lines.next_if(|line| !line.starts_with('#')) {
                let (of, value) = value.rsplit_once(' ').unwrap();
                assert_eq!(of.split('{').next(), Some(name));
                assert!(value.parse::<u64>().is_ok(), "{value}");
            }
        }
        assert!(names.contains(&"postroad_queue_fault"), "{text}");
        assert!(text.contains("postroad_delivery_dead_hosts 0\n"), "{text}");
        assert!(
            text.contains("postroad_queue_free_octets 1048576\n"),
            "{text}"
        );
        assert!(text.contains("postroad_queue_refused_total{reason=\"full\"} 0\n"));
    }
}
