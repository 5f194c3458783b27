//! kill -9 of a relay under load, again and again: what it has acknowledged arrives, and arrives
//! whole; what an operator was told is done stays done.
//!
//! Some letters are deferred until after the last kill, and so outlive many: with nearly all
//! others of their segment gone they are moved to other segments by the queue's keeper, which
//! wakes each second. So kills come at random moments, about that second, right behind an
//! operator's order, and in the middle of a start.

use std::fmt;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::account::Account;
use crate::dns::TestDns;
use crate::http::post_json;
use crate::letters::{Dice, Letter};
use crate::load::{Load, Way};
use crate::orders::Orders;
use crate::process::{PATIENCE, Service, free_port, loopback};
use crate::sink::Sink;
use crate::site::{Settings, Site};

/// Letters that are taken after a start before the kill may come.
pub const GOING: usize = 5;
/// The kill comes at a random moment of so long a time.
const KILL_WITHIN: Duration = Duration::from_millis(300);
/// Likewise behind an order.
const KILL_AFTER_ORDER: Duration = Duration::from_millis(5);
/// Likewise about a moment at which the keeper wakes: from so long before.
const KILL_BEFORE_KEEPER: Duration = Duration::from_millis(50);
/// Likewise after the start of a program that is not waited for: as long as the last start took,
/// within these bounds.
const EARLY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// `delivery.per_destination` of all services here. One recipient a letter, all that are delivered
/// before the last kill at one domain, and an attempt keeps its place until what came of it is
/// written down. So a kill finds at most so many letters that the next hop has taken, or will, and
/// of which there is no record: each comes a second time. What was written down before the kill
/// does not.
pub const IN_FLIGHT: u64 = 4;
/// Such a `[delivery]`.
pub const DELIVERY: &str = "retry = [\"1s\", \"5s\", \"30s\"]\nper_destination = 4";

/// Commands about late letters, to the next hop.
const LATE: &str = "RCPT TO:<late";
const BINARY: &str = "postroad-relay";

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How often to kill; about a third of them in the middle of a start.
    pub kills: u64,
    /// What the moments depend on.
    pub seed: u64,
    /// Senders.
    pub sessions: usize,
    /// Lines of `[queue]`.
    pub queue: &'static str,
    /// Whether to say on standard error how far it is.
    pub tell: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// How often the service was killed.
    pub kills: u64,
    /// Orders that an operator gave meanwhile.
    pub orders: usize,
    /// What became of the letters.
    pub account: Account,
    /// How many may have come again.
    pub duplicated_max: u64,
    /// Segments that the last run has compacted; those before it took their counts with them.
    pub compacted: u64,
    /// From the first start to the last arrival.
    pub took: Duration,
    service: Service,
}

impl Report {
    /// Insists that all is as it must be, and that the service stops well.
    ///
    /// # Errors
    /// Where it is not so.
    pub async fn check(self) -> anyhow::Result<()> {
        self.account
            .check(self.duplicated_max, self.service.log())?;
        anyhow::ensure!(self.service.terminate().await?.success(), "no clean stop");
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kills,
            orders,
            account,
            duplicated_max,
            compacted,
            took,
            ..
        } = self;
        write!(
            f,
            "{kills} kills and {orders} orders in {} s: {account}; {duplicated_max} may be duplicated; {compacted} segments compacted in the last run",
            took.as_secs()
        )
    }
}

/// When a kill comes, after the first letters are taken.
#[derive(Clone, Copy, Debug)]
pub enum Moment<'a> {
    /// Soon.
    Any,
    /// About a second, or two, after the start.
    Keeper,
    /// Behind an order.
    Order(&'a Orders),
}

/// Lets time pass. Nothing is waited for: the moment of a kill is what is tried. On a thread of
/// its own, since the timers of a runtime that is busy with load may be late by seconds.
async fn pass(time: Duration) -> anyhow::Result<()> {
    Ok(tokio::task::spawn_blocking(move || std::thread::sleep(time)).await?)
}

/// Starts, waits until mail is taken, kills at a moment. Gives how long the start took.
///
/// # Errors
/// Where it does not start, or takes no mail.
pub async fn kill_under_load(
    binary: &str,
    configuration: &str,
    load: &Load,
    moment: Moment<'_>,
    dice: &mut Dice,
) -> anyhow::Result<Duration> {
    let before = load.acknowledged();
    let started = Instant::now();
    let service = Site::start_again(binary, configuration).await?;
    let (took, ready) = (started.elapsed(), Instant::now());
    let taken = load.until(before + GOING).await;
    taken.with_context(|| format!("the log:\n{}", service.log()))?;
    match moment {
        Moment::Any => pass(dice.time(KILL_WITHIN)).await?,
        Moment::Keeper => {
            let seconds = Duration::from_secs(1 + dice.below(2)) - KILL_BEFORE_KEEPER;
            let at = seconds + dice.time(KILL_BEFORE_KEEPER * 3);
            pass(at.saturating_sub(ready.elapsed())).await?;
        }
        Moment::Order(orders) => {
            orders.until_sent().await?;
            pass(dice.time(KILL_AFTER_ORDER)).await?;
        }
    }
    service.kill().await?;
    Ok(took)
}

/// Starts, and kills at a random moment of the start, which looks through the whole queue.
///
/// # Errors
/// Where it cannot be started.
pub async fn kill_at_start(
    binary: &str,
    configuration: &str,
    took: Duration,
    dice: &mut Dice,
) -> anyhow::Result<()> {
    let starting = Site::spawn(binary, configuration)?;
    pass(dice.time(took.clamp(EARLY.0, EARLY.1))).await?;
    starting.kill().await
}

/// Does it.
///
/// # Errors
/// Where the service does not start, takes no mail, or has forgotten an order.
pub async fn run(plan: &Plan) -> anyhow::Result<Report> {
    let started = Instant::now();
    let site = Site::new();
    let dns = TestDns::start().await;
    let sink = Sink::start(free_port(loopback())).await;
    sink.reply_always(LATE, "451 4.2.0 not before the end");
    for domain in ["sink.test", "late.test"] {
        dns.mx(domain, 10, "mx.sink.test");
    }
    dns.a("mx.sink.test", sink.address().ip());
    let address = site.port();
    let settings = Settings {
        listeners: vec![("relay", address, "none")],
        domains: &["sink.test", "late.test"],
        nameserver: Some(dns.address()),
        port: sink.address().port(),
        queue: plan.queue,
        delivery: DELIVERY,
        ..Settings::default()
    };
    let configuration = site.configure("relay", &settings)?;
    let load = Load::start(Way::Relay(address), plan.sessions, Letter::any);
    let orders = Orders::start(site.path("relay.sock"), plan.seed);
    kill(plan, &configuration, &load, &orders).await?;

    let service = Site::start_again(BINARY, &configuration).await?;
    let more = load.until_also_big(load.acknowledged() + GOING).await;
    more.with_context(|| format!("the log:\n{}", service.log()))?;
    let mut account = Account::of(load.stop().await?);
    let ended = orders.end().await?;
    account.excuse(ended.removed, ended.unsure);
    let compacted = compacted(&site).await?;
    sink.reply_usual(LATE);
    let all = json!({ "operation": "retry", "filter": {} });
    post_json(&site.path("relay.sock"), "/queue/operate", &all).await?;
    account.collect(&sink).await;
    if account.lost().is_empty() {
        until_empty(&site).await?;
        account.count(&sink.take_now());
    }
    Ok(Report {
        kills: plan.kills,
        orders: ended.orders,
        account,
        duplicated_max: plan.kills * IN_FLIGHT,
        compacted,
        took: started.elapsed(),
        service,
    })
}

async fn kill(
    plan: &Plan,
    configuration: &str,
    load: &Load,
    orders: &Orders,
) -> anyhow::Result<()> {
    let mut dice = Dice(plan.seed);
    let (mut kills, mut round) = (0, 0);
    while kills < plan.kills {
        // After every other one, one or two kills of a start: at least every third of all.
        let (moment, more) = match round % 4 {
            0 => (Moment::Any, 0),
            1 => (Moment::Keeper, 1),
            2 => (Moment::Any, 0),
            _ => (Moment::Order(orders), 2),
        };
        let took = kill_under_load(BINARY, configuration, load, moment, &mut dice).await?;
        kills += 1;
        for _ in 0..more.min(plan.kills - kills) {
            kill_at_start(BINARY, configuration, took, &mut dice).await?;
            kills += 1;
        }
        round += 1;
        if plan.tell && round % 10 == 0 {
            eprintln!(
                "{kills} of {} kills, {} acknowledged, the last start took {} ms",
                plan.kills,
                load.acknowledged(),
                took.as_millis()
            );
        }
    }
    Ok(())
}

/// Segments that the running service has compacted. Those that late letters alone are left of must
/// be, once the others have gone; where there are such, as there are after many kills.
async fn compacted(site: &Site) -> anyhow::Result<u64> {
    let compacted = async {
        loop {
            let finished = site.queue("relay", &["stats", "--json"]).await?.succeeded();
            let stats: Value = serde_json::from_str(&finished.output)?;
            let count = stats.pointer("/health/compactions");
            match count.and_then(Value::as_u64) {
                Some(0) => {}
                other => return anyhow::Ok(other.unwrap_or(0)),
            }
        }
    };
    let waited = tokio::time::timeout(PATIENCE, compacted).await;
    waited.unwrap_or(Ok(0))
}

/// Waits until nothing is in the queue: what has not arrived by then never will.
async fn until_empty(site: &Site) -> anyhow::Result<()> {
    let empty = async {
        while site.queued("relay").await? > 0 {}
        anyhow::Ok(())
    };
    let waited = tokio::time::timeout(PATIENCE, empty).await;
    waited.context("letters stay in the queue")?
}
