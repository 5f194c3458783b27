//! Runs rows of the table: each with its host alone, and again with a second host that is well.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use postroad_mta::{Clock as _, SystemClock};
use postroad_queue::{Filter, Operation, Outcome, QueueId, Store as _};
use postroad_tests::hop::{Authority, Hop, Identity, Language, Script};
use postroad_tests::process::{free_port, loopback};

use crate::queue::Watched;
use crate::table::{Fate, Retry, Row};
use crate::world::World;

/// How long all rows together may take, for each of two attempts.
const PATIENCE: Duration = Duration::from_secs(90);

/// What is tried again within this time comes back soon; a schedule's delay is longer here.
const SOON: Duration = Duration::from_mins(5);
/// What is not tried again within this time comes back later; a little of it has passed.
const LATER: Duration = Duration::from_mins(58);

/// A row under test, with its hosts.
struct Case<'a> {
    row: &'a Row,
    domain: String,
    first: Hop,
    second: Option<Hop>,
    id: QueueId,
}

impl Case<'_> {
    fn to(&self) -> Vec<String> {
        let users = self.row.fates.iter();
        users
            .map(|(user, _)| format!("{user}@{}", self.domain))
            .collect()
    }
}

/// Tries rows; gives what was not as it says there.
pub(crate) async fn run(rows: &[Row], hasty: bool) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new().unwrap();
    authority.write(&directory.path().join("root.pem")).unwrap();
    let identity = Arc::new(Identity::new("*.hosts.test", &authority).unwrap());
    let sender = Hop::start(
        free_port(loopback()),
        Language::Smtp,
        Script::default(),
        Arc::clone(&identity),
    )
    .await;
    let port = sender.address().port();
    let mut world = World::new(port, directory, hasty);
    let host = ("sender.hosts.test".to_owned(), sender.address().ip());
    world.domain("sender.test", vec![host], &Default::default());

    let mut cases = Vec::new();
    for row in rows {
        for with_second in [false, true] {
            cases.push(case(&world, row, with_second, port, &identity).await);
        }
    }
    let mut faults = once(&mut world, &mut cases).await;
    for case in &cases {
        case.first.follow(well(case.row));
    }
    faults.extend(until_empty(&mut world).await);
    faults.extend(cases.iter().flat_map(copies));
    faults.extend(notices(&sender, &cases));
    faults
}

/// The first attempts, to the last goodbye.
async fn once(world: &mut World, cases: &mut [Case<'_>]) -> Vec<String> {
    let mut faults = Vec::new();
    world.run();
    // What came first has been refused; now comes what the row is about.
    let came_first = |case: &&mut Case<'_>| case.row.conditions.has("after");
    for case in cases.iter_mut().filter(came_first) {
        let id = case.id;
        let tried = |store: &Watched| store.outcomes().contains_key(&id);
        if !world.store.until(PATIENCE, tried).await {
            faults.push(case.fault("the message before was not tried in time"));
        }
        case.id = world.send(&case.to(), &case.row.conditions).await;
    }
    let tried = |store: &Watched| all_tried(store, cases);
    if !world.store.until(PATIENCE, tried).await {
        faults.push("not all was tried in time".to_owned());
    }
    for case in &*cases {
        faults.extend(first_attempt(world, case).await);
    }
    // Hosts are told goodbye; only then can all rules have come to pass.
    world.restart().await;
    for case in &*cases {
        let wrong = case.first.wrong_rules().into_iter();
        faults.extend(wrong.map(|rule| case.fault(&format!("the rule {rule:?}"))));
    }
    faults
}

/// Tries again what waits, by a role that remembers no host, until nothing does.
async fn until_empty(world: &mut World) -> Vec<String> {
    world.restart().await;
    let (store, everything) = (&world.store, Filter::default());
    let now = SystemClock.now();
    let retried = store.operate(now, Operation::Retry, &everything).await;
    retried.unwrap();
    if store.until(PATIENCE, |s| s.totals().messages == 0).await {
        return Vec::new();
    }
    let left = store.page(&everything, None, 1000).await.unwrap();
    let left = left.iter().flat_map(|m| &m.recipients);
    left.map(|r| format!("still there: {} {:?}", r.address, r.last))
        .collect()
}

/// A host that does what it should.
fn well(row: &Row) -> Script {
    let script = if row.conditions.needs_tls() {
        "EHLO: with STARTTLS, AUTH PLAIN LOGIN"
    } else {
        "EHLO: usual; LHLO: usual"
    };
    script.parse().unwrap()
}

async fn case<'a>(
    world: &World,
    row: &'a Row,
    with_second: bool,
    port: u16,
    identity: &Arc<Identity>,
) -> Case<'a> {
    let language = if row.conditions.has("lmtp") {
        Language::Lmtp
    } else {
        Language::Smtp
    };
    let start = |script: Script| {
        let address = SocketAddr::new(loopback(), port);
        Hop::start(address, language, script, Arc::clone(identity))
    };
    let first = start(row.host.clone()).await;
    let second = if with_second {
        Some(start(well(row)).await)
    } else {
        None
    };
    let suffix = if with_second { "two" } else { "one" };
    let domain = format!("{}.{suffix}.test", row.name);
    let mut hosts = vec![("first", &first)];
    hosts.extend(second.as_ref().map(|hop| ("second", hop)));
    let hosts = hosts
        .into_iter()
        .map(|(which, hop)| {
            let name = format!("{which}-{}-{suffix}.hosts.test", row.name);
            (name, hop.address().ip())
        })
        .collect();
    world.domain(&domain, hosts, &row.conditions);
    let mut case = Case {
        row,
        domain,
        first,
        second,
        id: QueueId::from_bytes([0; 16]),
    };
    let to = if row.conditions.has("after") {
        vec![format!("nobody@{}", case.domain)]
    } else {
        case.to()
    };
    case.id = world.send(&to, &row.conditions).await;
    case
}

fn all_tried(store: &Watched, cases: &[Case<'_>]) -> bool {
    let outcomes = store.outcomes();
    cases.iter().all(|case| {
        let of_case = outcomes.get(&case.id);
        let tried = |n| of_case.is_some_and(|all| all.iter().any(|(place, _)| *place == n));
        (0..case.row.fates.len()).all(tried)
    })
}

/// What the first attempt brought, beside what it should have.
async fn first_attempt(world: &World, case: &Case<'_>) -> Vec<String> {
    let outcomes = world.store.outcomes();
    let retries = retries(world, case).await;
    let mut faults = Vec::new();
    for (place, (user, expected)) in case.row.fates.iter().enumerate() {
        let all = outcomes.get(&case.id).into_iter().flatten();
        let Some((_, outcome)) = all.clone().find(|(n, _)| *n == place) else {
            faults.push(case.fault(&format!("{user} has no outcome")));
            continue;
        };
        let retry = retries.get(place).copied().unwrap_or_default();
        let (happened, by_second) = (fate(outcome, retry), by_second(outcome));
        let goes_on = case.goes_on(expected);
        let as_expected = if goes_on {
            by_second && happened.is("delivered 250")
        } else {
            !by_second && expected.matches(&happened)
        };
        if !as_expected {
            let by = if by_second { " by the second host" } else { "" };
            let expected = if goes_on {
                "delivered by the second host".to_owned()
            } else {
                expected.to_string()
            };
            let text = &outcome.evidence().reply.text;
            let what = format!("{user} is {happened}{by} ({text}), not {expected}");
            faults.push(case.fault(&what));
        }
    }
    faults
}

/// When each recipient that waits is tried again; the usual for those that do not.
async fn retries(world: &World, case: &Case<'_>) -> Vec<Retry> {
    let only = Filter {
        ids: vec![case.id],
        ..Filter::default()
    };
    let now = SystemClock.now();
    let listed = world.store.page(&only, None, 1).await.unwrap();
    let recipients = listed.iter().flat_map(|message| &message.recipients);
    recipients
        .map(|recipient| match recipient.due {
            Some(due) if due.since(now) <= SOON => Retry::Soon,
            Some(due) if due.since(now) >= LATER => Retry::Later,
            _ => Retry::Usual,
        })
        .collect()
}

fn fate(outcome: &Outcome, retry: Retry) -> Fate {
    let kind = match outcome {
        Outcome::Delivered(_) => "delivered",
        Outcome::Deferred(_) => "deferred",
        Outcome::Failed(_) => "failed",
    };
    let evidence = outcome.evidence();
    let code = evidence.reply.code.get();
    let enhanced = evidence
        .reply
        .enhanced
        .map_or_else(|| "-".to_owned(), |code| code.to_string());
    let ours = if evidence.remote { "" } else { " ours" };
    Fate {
        reply: format!("{kind} {code} {enhanced}{ours}"),
        tls: Some(evidence.tls.is_some()),
        retry,
    }
}

fn by_second(outcome: &Outcome) -> bool {
    let hop = outcome.evidence().hop.as_deref();
    hop.is_some_and(|hop| hop.starts_with("second-"))
}

/// Nothing is lost, and nothing comes twice but where it may.
fn copies(case: &Case<'_>) -> Vec<String> {
    let mut faults = Vec::new();
    for ((user, expected), &wanted) in case.row.fates.iter().zip(&case.row.copies) {
        let address = format!("{user}@{}", case.domain);
        let hops = [Some(&case.first), case.second.as_ref()];
        let kept = hops.into_iter().flatten().flat_map(Hop::kept);
        let copies = kept.filter(|kept| kept.to.contains(&address)).count();
        let wanted = if expected.is("failed") && !case.goes_on(expected) {
            0
        } else {
            wanted
        };
        if copies != wanted {
            let what = format!("{user} has {copies} copies in the end, not {wanted}");
            faults.push(case.fault(&what));
        }
    }
    faults
}

/// The sender is told of what has failed, and of nothing else.
fn notices(sender: &Hop, cases: &[Case<'_>]) -> Vec<String> {
    let notices: Vec<_> = sender
        .kept()
        .iter()
        .map(|kept| String::from_utf8_lossy(&kept.octets).into_owned())
        .collect();
    let mut faults = Vec::new();
    for case in cases {
        for (user, expected) in &case.row.fates {
            let about = format!("Final-Recipient: rfc822; {user}@{}\r\n", case.domain);
            let told: Vec<_> = notices
                .iter()
                .filter_map(|notice| notice.split_once(&about))
                .filter_map(|(_, rest)| rest.split_once("Action: ")?.1.lines().next())
                .collect();
            let wanted: &[&str] = match () {
                () if expected.is("failed") && !case.goes_on(expected) => &["failed"],
                () if case.row.relayed => &["relayed"],
                () => &[],
            };
            if told != wanted {
                let what = format!("the sender is told of {user} {told:?}, not {wanted:?}");
                faults.push(case.fault(&what));
            }
        }
    }
    faults
}

impl Case<'_> {
    /// Whether a recipient of that fate gets it from the second host.
    fn goes_on(&self, fate: &Fate) -> bool {
        self.second.is_some() && self.row.asks_next(fate)
    }

    fn fault(&self, what: &str) -> String {
        let hosts = if self.second.is_some() {
            "two hosts"
        } else {
            "one host"
        };
        format!("{} ({hosts}): {what}", self.row.name)
    }
}
