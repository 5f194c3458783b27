use std::time::Duration;

use bytes::{Bytes, BytesMut};
use postroad_mail::{Envelope, Origin, Recipient, Timestamp, replies};

use crate::id::QueueId;
use crate::outcome::{Evidence, Outcome};
use crate::store::{AttemptRecord, Change, ClaimRequest, Claimed, Content, Draft, Lane, Store};

/// The moment at which these tests begin.
pub const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// `START` and so many seconds.
#[must_use]
pub fn at(seconds: u64) -> Timestamp {
    START + Duration::from_secs(seconds)
}

/// A draft to these recipients, the lane of each its domain.
#[must_use]
pub fn draft(to: &[&str]) -> Draft {
    let recipient = |to: &&str| Recipient::new(to.parse().unwrap());
    let mut envelope = Envelope::new("<alice@sender.example>".parse().unwrap(), recipient(&to[0]));
    for more in &to[1..] {
        envelope.push(recipient(more));
    }
    let lanes = envelope
        .recipients()
        .iter()
        .map(|r| Lane::new(r.address.domain().ascii()))
        .collect();
    Draft {
        envelope,
        origin: Origin::default(),
        head: Bytes::from_static(b"Subject: test\r\n\r\n"),
        lanes,
        resumes: None,
    }
}

/// Commits a message with that body.
pub async fn accept<S: Store>(store: &S, now: Timestamp, to: &[&str], body: &[u8]) -> QueueId {
    let mut incoming = store.begin(now).unwrap();
    for chunk in body.chunks(64 * 1024) {
        incoming.write(Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    incoming.commit(now, draft(to)).await.unwrap()
}

/// Commits a message of that sender, as `<alice@sender.example>`.
pub async fn accept_from<S: Store>(store: &S, now: Timestamp, from: &str, to: &str) -> QueueId {
    let mut draft = draft(&[to]);
    draft.envelope.from = from.parse().unwrap();
    let incoming = store.begin(now).unwrap();
    incoming.commit(now, draft).await.unwrap()
}

/// Claims all that is due, up to a thousand jobs, for a minute.
pub async fn claim<S: Store>(store: &S, now: Timestamp) -> Vec<Claimed> {
    store.claim(now, &request(1000, 1000)).await.unwrap()
}

/// A request for leases of a minute.
#[must_use]
pub const fn request(max: usize, per_lane: usize) -> ClaimRequest {
    ClaimRequest {
        max,
        per_lane,
        lease: Duration::from_secs(60),
    }
}

/// All octets of a message, read in small pieces.
pub async fn read(content: &dyn Content) -> Bytes {
    let mut all = BytesMut::new();
    loop {
        let offset = u64::try_from(all.len()).unwrap();
        let piece = content.read(offset, 50_000).await.unwrap();
        if piece.is_empty() {
            assert_eq!(offset, content.len(), "it ends where it says");
            return all.freeze();
        }
        assert!(piece.len() <= 50_000, "no more than asked for");
        all.extend_from_slice(&piece);
    }
}

/// What an attempt is known by, in these tests.
#[must_use]
pub fn evidence(now: Timestamp) -> Evidence {
    Evidence {
        at: now,
        hop: Some("mx.example[192.0.2.1]:25".to_owned()),
        remote_mta: Some("mx.example".to_owned()),
        reply: replies::OK,
        remote: true,
        tls: None,
    }
}

/// A record that says the same of all recipients of a claim.
pub fn said(
    claimed: &Claimed,
    next_due: Option<Timestamp>,
    outcome: impl Fn() -> Outcome,
) -> AttemptRecord {
    let change = |&recipient: &usize| Change {
        recipient,
        outcome: outcome(),
    };
    AttemptRecord {
        changes: claimed.recipients.iter().map(change).collect(),
        next_due,
        counts: true,
        ..AttemptRecord::default()
    }
}

/// Records a claim as delivered.
pub async fn deliver<S: Store>(store: &S, now: Timestamp, claimed: &Claimed) {
    let record = said(claimed, None, || Outcome::Delivered(evidence(now)));
    store.record(now, &claimed.lease, record).await.unwrap();
}

/// Records a claim as deferred.
pub async fn defer<S: Store>(store: &S, now: Timestamp, claimed: &Claimed, due: Timestamp) {
    let record = said(claimed, Some(due), || Outcome::Deferred(evidence(now)));
    store.record(now, &claimed.lease, record).await.unwrap();
}
