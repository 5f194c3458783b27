//! TLS reports, sent once a day (RFC 8460 section 5), and what else is done for TLS in the
//! background.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use postroad_mail::{
    Address, Envelope, Origin, Recipient, ReversePath, Timestamp, escape_peer_text,
};
use postroad_policy::{ReportTo, TlsReport, Written};
use postroad_queue::{Draft, StoreError};
use postroad_routing::{NoAnswer, TxtLookup};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::tls_books::{TLS_REPORT_SERVICE, TlsBooks};
use super::tls_counts::{Counts, DAY, Day};
use super::{ObservedDomain, Outbound, lanes};

/// How often the books are saved.
const SAVE: Duration = Duration::from_secs(60);
/// How often it is looked for reports that are due, and policies are refreshed.
const ROUND: Duration = Duration::from_secs(600);
/// Reports of a day are sent within this time after its end, each domain's at a time of its own:
/// all senders of the world at midnight would be too many (RFC 8460 section 4.1 asks for a delay
/// of up to four hours).
const SPREAD: u64 = 4 * 60 * 60 * 1000;
/// Domains that are asked for where they want their report, at the same time.
const AT_ONCE: usize = 8;

/// How TLS reports are sent.
#[derive(Clone)]
pub struct TlsReportOptions {
    /// The sender: bounces and questions go there.
    pub from: Address,
    /// Who reports; none: the host's name.
    pub organization: Option<String>,
    /// Whom to ask; none: the sender.
    pub contact: Option<String>,
    /// Finds out where domains want their reports.
    pub txt: Arc<dyn TxtLookup>,
}

impl fmt::Debug for TlsReportOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsReportOptions")
            .field("from", &self.from)
            .finish_non_exhaustive()
    }
}

/// Why a report was not put into the queue.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Write(#[from] postroad_policy::ReportError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Outbound {
    /// TLS reports (RFC 8460) are sent by these options, or not at all, from now on.
    pub fn reload_tls_reports(&self, options: Option<TlsReportOptions>) {
        self.tls_reports.store(options.map(Arc::new));
    }

    /// How TLS goes with destinations that have a policy, by domain: also what would fail, were the
    /// policy in force. Empty without [`Outbound::with_cache`].
    #[must_use]
    pub fn tls_report(&self) -> Vec<ObservedDomain> {
        let books = self.books.as_ref();
        books.map_or_else(Vec::new, |books| books.observed(self.clock.now()))
    }

    /// What is to be done for TLS besides delivery, until the shutdown: figures are saved, reports
    /// of past days sent, policies refreshed.
    pub async fn run_tls(&self, shutdown: CancellationToken) {
        let saving = async {
            loop {
                tokio::time::sleep(SAVE).await;
                if let Some(books) = &self.books {
                    books.save();
                }
            }
        };
        let refreshing = async {
            loop {
                let security = Arc::clone(&self.settings.load().security);
                security.maintain().await;
                tokio::time::sleep(ROUND).await;
            }
        };
        let sending = async {
            loop {
                self.send_tls_reports().await;
                tokio::time::sleep(ROUND).await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = saving => {}
            () = refreshing => {}
            () = sending => {}
        }
        if let Some(books) = &self.books {
            books.save();
        }
    }

    /// Puts the reports that are due into the queue.
    async fn send_tls_reports(&self) {
        let Some(books) = &self.books else {
            return;
        };
        let now = self.clock.now();
        books.forget(now);
        let Some(options) = self.tls_reports.load_full() else {
            return;
        };
        let own = self.settings.load().config.hostname.ascii().to_owned();
        let mut due = books.ended(now);
        due.retain(|(day, domain)| now >= due_at(*day, &own, domain));
        stream::iter(due)
            .for_each_concurrent(AT_ONCE, |(day, domain)| {
                let options = Arc::clone(&options);
                async move { self.send_tls_report(books, &options, day, &domain).await }
            })
            .await;
    }

    async fn send_tls_report(
        &self,
        books: &TlsBooks,
        options: &TlsReportOptions,
        day: Day,
        domain: &str,
    ) {
        let to = match wanted(options, domain).await {
            Ok(to) => to,
            Err(error) => {
                debug!(domain, %error, "where TLS reports go cannot be found out now");
                return;
            }
        };
        if to.mail.is_empty() {
            books.end_report(day, domain);
            return;
        }
        let Some(counts) = books.begin_report(day, domain) else {
            books.end_report(day, domain);
            return;
        };
        match self
            .queue_tls_report(options, day, domain, &counts, &to.mail)
            .await
        {
            Ok(()) => {
                books.end_report(day, domain);
                let to: Vec<_> = to
                    .mail
                    .iter()
                    .map(|a| escape_peer_text(&a.to_string()))
                    .collect();
                info!(domain, to = to.join(" "), "TLS report queued");
            }
            Err(error) => warn!(domain, %error, "a TLS report cannot be queued"),
        }
    }

    async fn queue_tls_report(
        &self,
        options: &TlsReportOptions,
        day: Day,
        domain: &str,
        counts: &Counts,
        to: &[Address],
    ) -> Result<(), SendError> {
        let settings = self.settings.load_full();
        let now = self.clock.now();
        let own = settings.config.hostname.ascii();
        let report = TlsReport {
            organization: options
                .organization
                .clone()
                .unwrap_or_else(|| own.to_owned()),
            contact: Some(
                options
                    .contact
                    .clone()
                    .unwrap_or_else(|| options.from.to_string()),
            ),
            domain: domain.to_owned(),
            submitter: own.to_owned(),
            start: day.start(),
            end: day.end(),
            policies: counts.report(domain),
        };
        let Written { head, body } = report.write(&options.from, to, now)?;
        let mut recipients = to.iter().cloned().map(Recipient::new);
        let Some(first) = recipients.next() else {
            return Ok(());
        };
        let from = ReversePath::Address(options.from.clone());
        let mut envelope = Envelope::new(from, first);
        recipients.for_each(|recipient| envelope.push(recipient));
        let origin = Origin {
            service: TLS_REPORT_SERVICE.to_owned(),
            ..Origin::default()
        };
        let size = u64::try_from(head.len() + body.len()).unwrap_or(u64::MAX);
        let lanes = lanes(&settings.router, &envelope, &origin, size).await;
        let mut incoming = self.store.begin(now)?;
        incoming.write(Bytes::from(body)).await?;
        let draft = Draft {
            envelope,
            origin,
            head: head.into(),
            lanes,
            resumes: None,
        };
        incoming.commit(now, draft).await?;
        Ok(())
    }
}

/// Where a domain wants its reports; nowhere, where it does not say so.
async fn wanted(options: &TlsReportOptions, domain: &str) -> Result<ReportTo, NoAnswer> {
    if domain.starts_with('[') {
        return Ok(ReportTo::default());
    }
    let records = match options.txt.txt(&format!("_smtp._tls.{domain}")).await {
        Ok(records) => records,
        Err(NoAnswer::NoName | NoAnswer::NoData) => Vec::new(),
        Err(error) => return Err(error),
    };
    let to = ReportTo::find(&records).unwrap_or_default();
    if !to.https.is_empty() {
        let services = to.https.iter().map(|url| escape_peer_text(url));
        let services: Vec<_> = services.collect();
        info!(
            domain,
            services = services.join(" "),
            "a TLS report is wanted by HTTPS, which is not done: mail only"
        );
    }
    Ok(to)
}

/// When a report is sent: after the end of its day, at the same time each day.
fn due_at(day: Day, own: &str, domain: &str) -> Timestamp {
    // FNV-1a: it need only spread.
    let octets = own.bytes().chain(domain.bytes());
    let hash = octets.fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
        (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3)
    });
    day.start() + Duration::from_millis(DAY + hash % SPREAD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use mail_parser::MessageParser;
    use postroad_mail::Domain;
    use postroad_net::client::Connector;
    use postroad_queue::{Filter, MemStore, Store as _};
    use postroad_routing::{
        BoxFuture, DnsOptions, DnsResolver, Host, HostSecurity, SecurityLookup, SharedRouter,
    };

    use super::super::tls_books::tests::{Kept, expired, noon, session, sts};
    use crate::{Clock, OutboundConfig};

    #[derive(Clone)]
    struct Set(Arc<Mutex<Timestamp>>);

    impl Clock for Set {
        fn now(&self) -> Timestamp {
            *self.0.lock().unwrap()
        }
    }

    /// Text records; a name without an entry does not exist, one without records fails.
    struct Records(Mutex<HashMap<String, Vec<String>>>);

    impl TxtLookup for Records {
        fn txt<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<String>, NoAnswer>> {
            let found = match self.0.lock().unwrap().get(name) {
                None => Err(NoAnswer::NoName),
                Some(records) if records.is_empty() => Err(NoAnswer::Failed("SERVFAIL".to_owned())),
                Some(records) => Ok(records.clone()),
            };
            Box::pin(std::future::ready(found))
        }
    }

    struct World {
        outbound: Outbound,
        store: MemStore,
        clock: Set,
        records: Arc<Records>,
        cache: Arc<Kept>,
        maintained: Arc<AtomicUsize>,
    }

    struct Counted(Arc<AtomicUsize>);

    impl SecurityLookup for Counted {
        fn security<'a>(
            &'a self,
            _: Option<&'a Domain>,
            _: &'a Host,
            _: u16,
        ) -> BoxFuture<'a, HostSecurity> {
            Box::pin(std::future::ready(HostSecurity::none()))
        }

        fn maintain(&self) -> BoxFuture<'_, ()> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Box::pin(std::future::ready(()))
        }
    }

    fn world() -> World {
        let clock = Set(Arc::new(Mutex::new(noon())));
        let store = MemStore::new(1 << 20);
        let (cache, maintained) = (Arc::<Kept>::default(), Arc::default());
        let dns = DnsOptions {
            nameservers: vec!["127.0.0.1:9".parse().unwrap()],
            ..DnsOptions::default()
        };
        let outbound = Outbound::new(
            OutboundConfig::new("mx.sender.test".parse().unwrap()),
            Arc::new(store.clone()),
            SharedRouter::default(),
            Arc::new(DnsResolver::new(dns).unwrap()),
            Connector::new(&[]).unwrap(),
        )
        .with_clock(clock.clone())
        .with_cache(Arc::<Kept>::clone(&cache))
        .with_security(Arc::new(Counted(Arc::clone(&maintained))));
        let records = Arc::new(Records(Mutex::default()));
        let txt: Arc<dyn TxtLookup> = records.clone();
        outbound.reload_tls_reports(Some(TlsReportOptions {
            from: "tlsrpt@sender.test".parse().unwrap(),
            organization: None,
            contact: Some("admin@sender.test".to_owned()),
            txt,
        }));
        World {
            outbound,
            store,
            clock,
            records,
            cache,
            maintained,
        }
    }

    impl World {
        fn record(&self, domain: &str, records: &[&str]) {
            let records = records.iter().map(|&r| r.to_owned()).collect();
            let name = format!("_smtp._tls.{domain}");
            self.records.0.lock().unwrap().insert(name, records);
        }

        fn failed(&self, domain: &str) {
            let books = self.outbound.books.as_ref().unwrap();
            let now = self.clock.now();
            books.session(now, &session(domain, &sts(), expired()), true);
        }

        fn pass(&self, time: Duration) {
            let mut now = self.clock.0.lock().unwrap();
            *now = *now + time;
        }

        async fn queued(&self) -> Vec<postroad_queue::Listed> {
            self.store.page(&Filter::default(), None, 99).await.unwrap()
        }

        fn waiting(&self) -> usize {
            let now = self.clock.now();
            self.outbound.books.as_ref().unwrap().ended(now).len()
        }
    }

    const HALF_A_DAY: Duration = Duration::from_secs(12 * 3600);
    const FOUR_HOURS: Duration = Duration::from_secs(4 * 3600);

    #[tokio::test]
    async fn a_report_for_each_domain_that_wants_one() {
        let world = world();
        world.record(
            "a.test",
            &["v=TLSRPTv1; rua=mailto:r@a.test,mailto:r@b.test"],
        );
        world.record("https.test", &["v=TLSRPTv1; rua=https://https.test/"]);
        for domain in ["a.test", "https.test", "silent.test", "[192.0.2.1]"] {
            world.failed(domain);
        }
        world.outbound.send_tls_reports().await;
        assert_eq!(world.queued().await.len(), 0, "the day is not over");
        world.pass(HALF_A_DAY + FOUR_HOURS);
        world.outbound.send_tls_reports().await;
        world.outbound.send_tls_reports().await;
        let queued = world.queued().await;
        assert_eq!(queued.len(), 1, "one, once");
        assert_eq!(world.waiting(), 0, "nothing is left of the others");
        let message = &queued[0];
        assert_eq!(message.envelope.from.to_string(), "tlsrpt@sender.test");
        assert_eq!(message.envelope.recipients().len(), 2);
        assert!(!message.envelope.require_tls);
        assert_eq!(message.origin.service, TLS_REPORT_SERVICE);
        let content = world.store.content(message.id).await.unwrap();
        let mut octets = Vec::new();
        while (octets.len() as u64) < content.len() {
            let piece = content.read(octets.len() as u64, 1 << 20).await.unwrap();
            octets.extend_from_slice(&piece);
        }
        let parsed = MessageParser::default().parse(&octets).unwrap();
        assert_eq!(
            parsed.header_raw("TLS-Report-Domain").unwrap().trim(),
            "a.test"
        );
        assert_eq!(parsed.header_raw("TLS-Required").unwrap().trim(), "No");
    }

    #[tokio::test]
    async fn where_dns_fails_the_report_waits_for_some_days() {
        let world = world();
        world.record("a.test", &[]);
        world.failed("a.test");
        world.pass(HALF_A_DAY + FOUR_HOURS);
        world.outbound.send_tls_reports().await;
        assert_eq!(world.waiting(), 1);
        world.record("a.test", &["v=TLSRPTv1; rua=mailto:r@a.test"]);
        world.outbound.send_tls_reports().await;
        assert_eq!((world.queued().await.len(), world.waiting()), (1, 0));
        world.record("b.test", &[]);
        world.failed("b.test");
        world.pass(5 * 2 * HALF_A_DAY);
        world.outbound.send_tls_reports().await;
        assert_eq!((world.queued().await.len(), world.waiting()), (1, 0));
    }

    #[tokio::test]
    async fn without_a_sender_none_are_sent() {
        let world = world();
        world.record("a.test", &["v=TLSRPTv1; rua=mailto:r@a.test"]);
        world.failed("a.test");
        world.outbound.reload_tls_reports(None);
        world.pass(HALF_A_DAY + FOUR_HOURS);
        world.outbound.send_tls_reports().await;
        assert_eq!(world.queued().await.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn in_the_background() {
        let world = world();
        let shutdown = CancellationToken::new();
        let running = world.outbound.run_tls(shutdown.clone());
        let meanwhile = async {
            world.failed("a.test");
            assert_eq!(world.cache.len(), 0);
            tokio::time::sleep(SAVE + Duration::from_secs(1)).await;
            assert_eq!(world.cache.len(), 2, "figures and observations");
            tokio::time::sleep(ROUND * 2).await;
            assert_eq!(world.maintained.load(Ordering::SeqCst), 3);
            world.failed("b.test");
            shutdown.cancel();
        };
        tokio::join!(running, meanwhile);
        assert_eq!(world.cache.len(), 4, "saved at the end");
    }

    /// RFC 8460 section 4.1: spread over four hours, never before the day is over.
    #[test]
    fn spread() {
        let day = Day::of(noon());
        let times: Vec<_> = (0..100)
            .map(|n| due_at(day, "mx.sender.test", &format!("d{n}.test")))
            .collect();
        let begin = day.start() + Duration::from_millis(DAY);
        assert!(
            times
                .iter()
                .all(|&at| at >= begin && at.since(begin) < FOUR_HOURS)
        );
        let early = times.iter().filter(|at| at.since(begin) < FOUR_HOURS / 2);
        assert!((30..70).contains(&early.count()));
    }
}
