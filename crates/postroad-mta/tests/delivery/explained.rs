//! What is told of delivery: the history of a message, and how one would travel.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postroad_mta::ExplainRequest;
use postroad_queue::history::{Event, Happening, History, Wanted};
use postroad_queue::{BoxFuture, Outcome, StoreError};
use postroad_routing::{
    ChosenBy, Destination, Hop as RouteHop, PlanError, Rate, Route, RouteLimits, RouteOptions,
    SharedRouter,
};

use crate::hop::{Act, Hop, Tls};
use crate::kit::World;
use crate::routes::Fixed;

#[derive(Debug, Default)]
struct Recorder(Mutex<Vec<Event>>);

impl History for Recorder {
    fn record(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }

    fn find<'a>(
        &'a self,
        _wanted: &'a Wanted,
        _max: usize,
    ) -> BoxFuture<'a, Result<Vec<Event>, StoreError>> {
        Box::pin(std::future::ready(Ok(self.0.lock().unwrap().clone())))
    }
}

impl Recorder {
    /// A line for each event, and for each step of an attempt.
    fn told(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for event in self.0.lock().unwrap().iter() {
            match &event.what {
                Happening::Attempt(attempt) => {
                    lines.push(format!("attempt {} {}", attempt.number, attempt.lane));
                    for step in &attempt.steps {
                        let hop = step.hop.as_deref().unwrap_or("-");
                        let host = hop.split('[').next().unwrap();
                        lines.push(format!("  {host}: {}", step.what));
                    }
                    for one in &attempt.outcomes {
                        let how = match &one.outcome {
                            Outcome::Delivered(_) => "delivered",
                            Outcome::Deferred(_) => "deferred",
                            Outcome::Failed(_) => "failed",
                        };
                        let due = attempt.next_due.is_some();
                        lines.push(format!("  {} {how}, due again: {due}", one.recipient));
                    }
                }
                Happening::Notice { kind, about, to } => {
                    lines.push(format!("notice: {about} {kind}, to {to}"));
                }
                Happening::Left => lines.push("left".to_owned()),
                other => lines.push(format!("{other:?}")),
            }
        }
        lines
    }
}

/// Milliseconds and cipher suites differ from run to run.
fn is_like(line: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        Some((start, end)) => line.starts_with(start) && line.ends_with(end),
        None => line == pattern,
    }
}

#[tokio::test]
async fn everything_that_happens_to_a_message() {
    let history = Arc::new(Recorder::default());
    let recorder = Arc::<Recorder>::clone(&history);
    let world = World::tuned(SharedRouter::default(), |outbound| {
        outbound.with_history(recorder)
    })
    .await;
    let busy = Hop::scripted(world.port, |command, _| match command {
        "GREETING" => Act::Say("421 4.3.2 bu\x07sy"),
        _ => Act::Usual,
    })
    .await;
    let asked = AtomicBool::new(false);
    let script = move |command: &str, _| match command.get(..12) {
        Some("RCPT TO:<lat") if !asked.swap(true, Ordering::Relaxed) => Act::Say("451 4.3.0 later"),
        Some("RCPT TO:<nev") => Act::Say("550 5.1.1 nobody"),
        _ => Act::Usual,
    };
    let hop = Hop::with(world.port, &[], Tls::Works, script).await;
    world.mx("s.test", &[("mx.s.test", &[hop.address.ip()])]);
    world.mx(
        "far.test",
        &[
            ("mx1.far.test", &[busy.address.ip()]),
            ("mx2.far.test", &[hop.address.ip()]),
        ],
    );
    let id = world
        .send("me@s.test", &["late@far.test", "never@far.test"])
        .await;
    world.run();
    world.settled(id, 1).await;
    world.advance(Duration::from_secs(10)).await;
    world.settled(id, 2).await;
    world.empty().await;
    let told = history.told();
    let expected = [
        "attempt 1 far.test",
        "  -: route: by the MX records of far.test (no route matches: by MX)",
        "  -: hosts: mx1.far.test, mx2.far.test",
        "  mx1.far.test: route: opportunistic",
        "  mx1.far.test: no session after * the server said 421 4.3.2 bu\\u{7}sy",
        "  mx2.far.test: route: opportunistic",
        "  mx2.far.test: connected in * the certificate was not asked for",
        "  mx2.far.test: a transaction: 0 of 2 recipients taken: Rcpt: 451 4.3.0 later",
        "  late@far.test deferred, due again: true",
        "  never@far.test failed, due again: true",
        "notice: never@far.test failed, to me@s.test",
    ];
    for (line, pattern) in told.iter().zip(expected) {
        assert!(is_like(line, pattern), "{line}, not {pattern}: {told:#?}");
    }
    // The second attempt goes by the host that is dead, over a connection that is open; the notice
    // has a history of its own.
    let again: Vec<_> = told.iter().filter(|l| *l == "left").collect();
    assert_eq!(again.len(), 2, "{told:#?}");
    let skipped = |l: &String| {
        l.starts_with("  mx1.far.test: mx1.far.test[") && l.contains("was not tried: 421")
    };
    assert!(told.iter().any(skipped), "{told:#?}");
    let events = history.0.lock().unwrap();
    let mut mine = events.iter().filter(|event| event.id == id);
    assert!(matches!(mine.next_back().unwrap().what, Happening::Left));
}

fn ask(connect: bool) -> ExplainRequest {
    ExplainRequest {
        recipient: "bob@far.test".parse().unwrap(),
        sender: "<me@s.test>".parse().unwrap(),
        user: None,
        network: None,
        connect,
    }
}

#[tokio::test]
async fn how_a_message_would_travel_by_mx() {
    for extensions in [crate::hop::ALL, &[]] {
        travel_by_mx(extensions).await;
    }
}

/// With pipelining and without.
async fn travel_by_mx(extensions: &'static [&'static str]) {
    let world = World::new().await;
    let dead = Hop::scripted(world.port, |command, _| match command {
        "GREETING" => Act::Say("421 4.3.2 dead"),
        _ => Act::Usual,
    })
    .await;
    let hop = Hop::with(world.port, extensions, Tls::Works, |command, _| {
        if command.starts_with("RCPT TO:<no") {
            Act::Say("550 5.1.1 nobody")
        } else {
            Act::Usual
        }
    })
    .await;
    world.mx(
        "far.test",
        &[
            ("mx1.far.test", &[dead.address.ip()]),
            ("mx2.far.test", &[hop.address.ip()]),
        ],
    );
    let explained = world.outbound.explain(&ask(false)).await;
    assert_eq!(explained.lane, "far.test");
    assert_eq!(
        explained.chosen_by.as_deref(),
        Some("no route matches: by MX")
    );
    let names: Vec<_> = explained.hosts.iter().map(|h| h.name.as_str()).collect();
    assert_eq!(names, ["mx1.far.test", "mx2.far.test"]);
    assert_eq!(
        explained.hosts[1].addresses[0].address,
        hop.address.to_string()
    );
    assert_eq!(explained.hosts[1].security.starttls, "if offered");
    assert_eq!(explained.limits.per_destination, 20);
    assert!(explained.destination.is_none() && explained.outcome.is_none());
    assert_eq!(hop.connections(), 0);

    // A message finds out that the first host is dead.
    world.run();
    world.send("me@s.test", &["bob@far.test"]).await;
    world.empty().await;
    let explained = world.outbound.explain(&ask(true)).await;
    let first = &explained.hosts[0].addresses[0];
    assert!(first.dead.as_ref().unwrap().error.starts_with("421 4.3.2"));
    let error = first.session.as_ref().unwrap().error.as_deref().unwrap();
    assert!(error.contains("421 4.3.2 dead"), "{error}");
    let second = explained.hosts[1].addresses[0].session.as_ref().unwrap();
    assert!(second.accepts && second.error.is_none(), "{second:?}");
    assert_eq!(second.reply.as_deref(), Some("RCPT: 250 2.1.5 ok"));
    assert!(second.tls.as_ref().unwrap().starts_with("TLS1.3"));
    assert_eq!(second.extensions.is_empty(), extensions.is_empty());
    // No message was sent; what was begun was taken back.
    assert_eq!(
        (hop.taken().len(), hop.count("RSET"), hop.count("DATA")),
        (1, 1, 1)
    );
    let mut request = ask(true);
    request.recipient = "no@far.test".parse().unwrap();
    let explained = world.outbound.explain(&request).await;
    let second = explained.hosts[1].addresses[0].session.as_ref().unwrap();
    assert!(!second.accepts);
    assert_eq!(second.reply.as_deref(), Some("RCPT: 550 5.1.1 nobody"));
    let json = serde_json::to_string(&explained).unwrap();
    assert_eq!(
        serde_json::from_str::<postroad_mta::Explanation>(&json).unwrap(),
        explained
    );
}

#[tokio::test]
async fn how_a_message_would_travel_by_a_route() {
    let hop = |host: &str, preference| RouteHop {
        preference,
        ..RouteHop::smtp(host.parse().unwrap(), 2525)
    };
    let route = Route {
        destination: Destination::Hops(vec![hop("[192.0.2.2]", 20), hop("[192.0.2.1]", 10)]),
        options: RouteOptions {
            limits: Some(Arc::new(RouteLimits {
                name: "partner".to_owned(),
                per_destination: Some(3),
                messages: Some(Rate {
                    count: 100,
                    per: Duration::from_secs(60),
                }),
                connections: None,
            })),
            ..RouteOptions::default()
        },
        chosen_by: ChosenBy::new("postroad.toml:41, [[route]] 2"),
    };
    let world = World::routed(SharedRouter::new(Fixed(route))).await;
    let explained = world.outbound.explain(&ask(false)).await;
    assert_eq!(
        explained.chosen_by.as_deref(),
        Some("postroad.toml:41, [[route]] 2")
    );
    let hosts: Vec<_> = explained
        .hosts
        .iter()
        .map(|h| format!("{:?} {}", h.preference, h.addresses[0].address))
        .collect();
    assert_eq!(
        hosts,
        ["Some(10) 192.0.2.1:2525", "Some(20) 192.0.2.2:2525"]
    );
    assert_eq!(explained.limits.messages.as_deref(), Some("100 in 60 s"));
    assert_eq!(explained.limits.per_destination, 3);

    let world = World::new().await;
    world.broken_mx(
        "far.test",
        PlanError::Permanent(postroad_mail::replies::NO_SUCH_DOMAIN),
    );
    let explained = world.outbound.explain(&ask(true)).await;
    assert!(explained.outcome.unwrap().starts_with("fails: 550 5.1.2"));
    assert!(explained.hosts.is_empty());
}
