//! The queue without mail: a program that owes others calls over HTTP keeps them in a
//! [`LocalStore`]. What it has promised survives a crash, each host has its own pace, and what
//! fails is tried again later. `cargo run -p postroad-store --example webhooks`

use std::error::Error;
use std::time::Duration;

use postroad_mail::{Envelope, Origin, Recipient, Reply, ReversePath, Timestamp, replies};
use postroad_queue::{
    AttemptRecord, Change, ClaimRequest, Draft, Evidence, Filter, Lane, Next, Outcome,
    RetrySchedule, Store, StoreError,
};
use postroad_store::{LocalStore, Options};

/// A call that is owed: the job's recipient says to whom, its lane to which host, its content what.
async fn owe(
    store: &dyn Store,
    now: Timestamp,
    hook: &str,
    payload: &'static str,
) -> Result<(), Box<dyn Error>> {
    let recipient = Recipient::new(hook.parse()?);
    let lane = Lane::new(recipient.address.domain().ascii());
    let mut incoming = store.begin(now)?;
    incoming.write(payload.into()).await?;
    let draft = Draft {
        envelope: Envelope::new(ReversePath::Null, recipient),
        origin: Origin::default(),
        head: "Content-Type: application/json\r\n\r\n".into(),
        lanes: vec![lane],
        resumes: None,
    };
    incoming.commit(now, draft).await?; // from here on it is kept, whatever happens
    Ok(())
}

/// Stands for the call: one host is down.
fn call(host: &str, payload: &[u8]) -> Result<Reply, Reply> {
    if host == "down.example" || payload.is_empty() {
        return Err(replies::LOCAL_ERROR);
    }
    Ok(replies::OK)
}

/// Makes the calls that are due; says how many have been answered.
async fn work(store: &dyn Store, now: Timestamp) -> Result<usize, StoreError> {
    let schedule = RetrySchedule::default();
    let request = ClaimRequest {
        max: 100,
        per_lane: 4, // calls to one host at the same time
        lease: Duration::from_secs(60),
    };
    let mut answered = 0;
    for job in store.claim(now, &request).await? {
        let payload = job.content.read(0, 64 << 10).await?;
        let result = call(job.lease.lane.as_str(), &payload);
        answered += usize::from(result.is_ok());
        let evidence = |reply| Evidence {
            at: now,
            hop: Some(job.lease.lane.as_str().to_owned()),
            remote_mta: None,
            reply,
            remote: true,
            tls: None,
        };
        let next = schedule.next(job.message.arrived, job.attempts + 1, now, 0);
        let (outcome, next_due) = match (result, next) {
            (Ok(reply), _) => (Outcome::Delivered(evidence(reply)), None),
            (Err(reply), Next::Retry(at)) => (Outcome::Deferred(evidence(reply)), Some(at)),
            (Err(reply), Next::Expired) => (Outcome::Failed(evidence(reply)), None),
        };
        let record = AttemptRecord {
            changes: vec![Change {
                recipient: 0,
                outcome,
            }],
            next_due,
            counts: true,
            ..AttemptRecord::default()
        };
        store.record(now, &job.lease, record).await?;
    }
    Ok(answered)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let options = Options {
        min_free: 0,
        ..Options::new(directory.path())
    };
    let now = Timestamp::from_millis(1_800_000_000_000);
    let (store, _) = LocalStore::open(options.clone())?;
    owe(&store, now, "orders@shop.example", r#"{"order": 1}"#).await?;
    owe(&store, now, "orders@shop.example", r#"{"order": 2}"#).await?;
    owe(&store, now, "backup@down.example", r#"{"order": 1}"#).await?;
    assert_eq!(work(&store, now).await?, 2);
    store.close().await?;
    drop(store);

    // Another process, later: what has not been answered is still owed, and due when it was said.
    let (store, _) = LocalStore::open(options)?;
    let left = store.page(&Filter::default(), None, 10).await?;
    assert_eq!(left.len(), 1);
    for recipient in left.iter().flat_map(|message| &message.recipients) {
        assert_eq!(recipient.address, "backup@down.example");
        assert_eq!(recipient.attempts, 1);
    }
    assert_eq!(work(&store, now).await?, 0, "not before it is due");
    assert!(store.next_due(now) > Some(now));
    store.close().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn runs() {
        super::main().unwrap();
    }
}
