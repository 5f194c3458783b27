//! Messages from another queue, and what is asked of a queue as a whole.

use bytes::Bytes;
use postroad_mail::{EnhancedCode, Reply};

use super::{START, accept, at, claim, defer, deliver, draft, evidence, said};
use crate::outcome::{Evidence, Outcome, RecipientState};
use crate::resume::{Resume, Resumed};
use crate::store::{Draft, Filter, Operation, Store, StoreError};

/// Two recipients wait in one lane, one in another; one is done with.
fn moved(held: bool) -> Draft {
    let tried = |state, due| Resumed {
        state,
        attempts: 3,
        due,
        warned: true,
        last: Some(evidence(at(7))),
    };
    let recipients = vec![
        tried(RecipientState::Waiting, Some(at(500))),
        tried(RecipientState::Delivered, None),
        tried(RecipientState::Waiting, Some(at(500))),
        // Beyond the end: as new.
    ];
    Draft {
        resumes: Some(Resume {
            arrived: at(5),
            held,
            recipients,
        }),
        ..draft(&[
            "bob@b.example",
            "gone@b.example",
            "bill@b.example",
            "carol@c.example",
        ])
    }
}

/// A message that comes from another queue is from its first moment where it stood there: held,
/// if it was; its recipients that are done with are never claimed; attempts, due time, warning,
/// arrival and last evidence of the others are as they were.
pub async fn resumes_where_it_stood<S: Store>(store: &S) {
    for held in [true, false] {
        let mut incoming = store.begin(at(100)).unwrap();
        incoming.write(Bytes::from_static(b"x")).await.unwrap();
        let id = incoming.commit(at(100), moved(held)).await.unwrap();
        let listed = store.page(&Filter::default(), None, 10).await.unwrap();
        assert_eq!((listed.len(), listed[0].id), (1, id));
        assert_eq!((listed[0].arrived, listed[0].held), (at(5), held));
        for (place, recipient) in listed[0].recipients.iter().enumerate() {
            let tried = place < 3;
            let state =
                [RecipientState::Waiting, RecipientState::Delivered][usize::from(place == 1)];
            assert_eq!(recipient.state, state);
            assert_eq!(recipient.last, tried.then(|| evidence(at(7))));
            if !state.is_final() {
                let attempts = if tried { 3 } else { 0 };
                assert_eq!((recipient.attempts, recipient.warned), (attempts, tried));
                let due = if tried { at(500) } else { at(100) };
                assert_eq!(recipient.due, (!held).then_some(due));
            }
        }
        assert_eq!(store.totals().held, u64::from(held));
        if held {
            assert!(claim(store, at(9000)).await.is_empty());
            let all = Filter::default();
            let released = store.operate(at(101), Operation::Release, &all).await;
            assert_eq!(released.unwrap(), 1);
        }
        let early = claim(store, at(499)).await;
        assert_eq!(early.len(), 1, "what was not known is due at once");
        assert_eq!(early[0].recipients, [3]);
        deliver(store, at(499), &early[0]).await;
        let claimed = claim(store, at(500)).await.remove(0);
        assert_eq!(claimed.recipients, [0, 2]);
        assert_eq!((claimed.attempts, claimed.warned), (3, true));
        assert_eq!(claimed.message.arrived, at(5));
        deliver(store, at(500), &claimed).await;
        assert_eq!(store.totals(), crate::store::Totals::default());
    }
}

/// A message of which nobody waits is refused, and leaves nothing.
pub async fn nobody_waits_leaves_nothing<S: Store>(store: &S) {
    let mut draft = moved(false);
    if let Some(resume) = &mut draft.resumes {
        let done = Resumed {
            state: RecipientState::Failed,
            ..Resumed::default()
        };
        resume.recipients = vec![done; 4];
    }
    for octets in [1, 400_000] {
        let mut incoming = store.begin(START).unwrap();
        incoming.write(vec![b'x'; octets].into()).await.unwrap();
        let id = incoming.id();
        let refused = incoming.commit(START, draft.clone()).await;
        assert!(
            matches!(refused, Err(StoreError::NobodyWaits)),
            "{refused:?}"
        );
        assert!(store.content(id).await.is_err());
    }
    let listed = store.page(&Filter::default(), None, 10).await.unwrap();
    assert!(listed.is_empty());
    assert_eq!(store.totals(), crate::store::Totals::default());
    assert_eq!(store.next_due(START), None);
}

/// A filter's reason is in the reply to the last attempt for a recipient that waits.
pub async fn filters_by_reason<S: Store>(store: &S) {
    let said_so = |text: &'static str| Evidence {
        reply: Reply::row(451, EnhancedCode::transient(7, 1), "").with_text(text),
        ..evidence(START)
    };
    let tried = accept(store, START, &["bob@b.example"], b"x").await;
    let done = accept(store, at(1), &["dan@d.example", "eve@e.example"], b"x").await;
    accept(store, at(2), &["carol@c.example"], b"x").await;
    for claimed in claim(store, at(1)).await {
        let lane = claimed.lease.lane.as_str().to_owned();
        let record = match lane.as_str() {
            "b.example" => said(&claimed, Some(at(99)), || {
                Outcome::Deferred(said_so("Greylisted, come again"))
            }),
            "d.example" => said(&claimed, None, || {
                Outcome::Failed(said_so("greylisted for good"))
            }),
            _ => {
                defer(store, at(1), &claimed, at(99)).await;
                continue;
            }
        };
        store.record(at(1), &claimed.lease, record).await.unwrap();
    }
    for (reason, want) in [
        ("greyLISTED", vec![tried]),
        ("451 4.7.1", vec![tried]),
        ("2.0.0", vec![done]),
        ("no such word", vec![]),
    ] {
        let filter = Filter {
            reason: Some(reason.to_owned()),
            ..Filter::default()
        };
        let page = store.page(&filter, None, 10).await.unwrap();
        let got: Vec<_> = page.iter().map(|m| m.id).collect();
        assert_eq!(got, want, "{reason}");
        let held = store.operate(at(2), Operation::Hold, &filter).await;
        assert_eq!(held.unwrap(), want.len() as u64, "{reason}");
    }
}

/// `verify` of a store that has what was written finds nothing, and has read all of it.
pub async fn good_is_verified<S: Store>(store: &S) {
    let verified = store.verify().await.unwrap();
    assert!(verified.is_good(), "{verified:?}");
    assert_eq!((verified.messages, verified.octets), (0, 0));
    for octets in [1_usize, 5000, 400_000] {
        accept(store, START, &["bob@b.example"], &vec![b'x'; octets]).await;
    }
    let claimed = claim(store, START).await.remove(0);
    defer(store, START, &claimed, at(5)).await;
    let verified = store.verify().await.unwrap();
    assert!(verified.is_good(), "{verified:?}");
    assert_eq!(verified.messages, 3);
    assert!(verified.octets >= store.totals().bytes, "{verified:?}");
}
