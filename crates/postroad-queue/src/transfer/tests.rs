use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use postroad_mail::Origin;
use proptest::prelude::*;

use super::{
    Damage, Export, HEAD_MAX, Import, ImportError, Imported, PIECE, Part, Reader, Skip,
    TransferError,
};
use crate::contract::{START, accept, at, claim, draft, evidence, read};
use crate::mem::MemStore;
use crate::outcome::RecipientState;
use crate::resume::{Resume, Resumed};
use crate::store::{Filter, Listed, Operation, Store, StoreError};

/// Stores in memory never wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("it never waits")
}

fn export(store: &MemStore, filter: Filter) -> Bytes {
    let mut export = Export::new(Arc::new(store.clone()), filter);
    let mut all = BytesMut::new();
    while let Some(piece) = now(export.next()).unwrap() {
        all.extend_from_slice(&piece);
    }
    assert!(now(export.next()).unwrap().is_none());
    all.freeze()
}

fn import(
    store: &MemStore,
    stream: &Bytes,
    cut: usize,
    skip: Skip,
) -> Result<Imported, ImportError> {
    let mut import = Import::new(Arc::new(store.clone()), skip);
    let mut stream = stream.clone();
    while !stream.is_empty() {
        let piece = stream.split_to(cut.min(stream.len()));
        if !now(import.take(at(99), piece)) {
            break;
        }
    }
    now(import.finish())
}

fn listing(store: &MemStore) -> Vec<Listed> {
    now(store.page(&Filter::default(), None, 10_000)).unwrap()
}

/// All that is to be the same, and the content.
fn told(store: &MemStore) -> Vec<(Listed, Bytes)> {
    let nameless = crate::QueueId::from_bytes([0; 16]);
    let mut messages = listing(store);
    let contents: Vec<_> = messages
        .iter()
        .map(|m| now(read(&*now(store.content(m.id)).unwrap())))
        .collect();
    for message in &mut messages {
        message.id = nameless;
    }
    messages.into_iter().zip(contents).collect()
}

fn resumed() -> impl Strategy<Value = Resumed> {
    let state = prop_oneof![
        3 => Just(RecipientState::Waiting),
        1 => Just(RecipientState::Delivered),
        1 => Just(RecipientState::Failed),
        1 => Just(RecipientState::Removed),
    ];
    (state, 0_u32..9, 0_u64..9000, any::<bool>(), any::<bool>()).prop_map(
        |(state, attempts, due, warned, last)| Resumed {
            state,
            attempts,
            due: Some(at(due)),
            warned,
            last: last.then(|| evidence(at(due))),
        },
    )
}

/// Recipients, where each stands, whether it is held, content.
type Message = (Vec<(u8, Resumed)>, bool, Vec<u8>);

fn message() -> impl Strategy<Value = Message> {
    let recipients = prop::collection::vec((0_u8..4, resumed()), 1..5);
    let line = prop_oneof![
        Just("\r\n"),
        Just("X: y\r\n"),
        Just("\n"),
        Just("\r"),
        Just("end 1 0\n"),
        Just("ü")
    ];
    let content = prop::collection::vec(line, 0..12).prop_map(|lines| lines.concat().into_bytes());
    (recipients, any::<bool>(), content)
}

/// A queue with these messages, and the number of those of which nobody waits.
fn queue(messages: &[Message]) -> MemStore {
    let store = MemStore::default();
    for (recipients, held, content) in messages {
        let to: Vec<_> = recipients
            .iter()
            .enumerate()
            .map(|(n, (domain, _))| format!("bob{n}@d{domain}.example"))
            .collect();
        let mut draft = draft(&to.iter().map(String::as_str).collect::<Vec<_>>());
        draft.head = Bytes::new();
        draft.origin = Origin {
            user: Some("alice".into()),
            ..Origin::default()
        };
        draft.resumes = Some(Resume {
            arrived: at(5),
            held: *held,
            recipients: recipients
                .iter()
                .map(|(_, resumed)| resumed.clone())
                .collect(),
        });
        let mut incoming = store.begin(START).unwrap();
        now(incoming.write(content.clone().into())).unwrap();
        match now(incoming.commit(START, draft)) {
            Ok(_) | Err(StoreError::NobodyWaits) => {}
            Err(other) => panic!("{other}"),
        }
    }
    store
}

/// A queue of three messages, and its export.
fn three() -> (MemStore, Bytes) {
    let store = MemStore::default();
    for body in [&b"one"[..], b"two\r\n", &[0; 300_000]] {
        now(accept(
            &store,
            START,
            &["bob@b.example", "carol@c.example"],
            body,
        ));
    }
    let stream = export(&store, Filter::default());
    (store, stream)
}

proptest! {
    #[test]
    fn a_queue_is_the_same_at_the_other_end(
        messages in prop::collection::vec(message(), 0..6),
        cut in prop_oneof![1_usize..50, Just(1 << 20)],
    ) {
        let from = queue(&messages);
        let stream = export(&from, Filter::default());
        let to = MemStore::default();
        let imported = import(&to, &stream, cut, Skip::default()).unwrap();
        prop_assert_eq!(imported.messages, from.totals().messages);
        prop_assert_eq!(imported.octets, from.totals().bytes);
        prop_assert_eq!(told(&to), told(&from));
        prop_assert_eq!(to.totals(), from.totals());
    }

    /// Any octets: never a panic, and no more in memory than was put in.
    #[test]
    fn any_octets_are_read_or_refused(octets: Vec<u8>, cut in 1_usize..20) {
        super::fuzz::export(&octets, cut);
        let mut octets = octets;
        octets.splice(..0, *b"postroad-queue 1\n");
        super::fuzz::export(&octets, cut);
    }

    #[test]
    fn a_stream_with_other_octets_in_it_too(
        place: prop::sample::Index,
        octets in prop::collection::vec(any::<u8>(), 0..40),
        cut in 1_usize..5000,
    ) {
        let mut stream = three().1.to_vec();
        let place = place.index(stream.len());
        let end = stream.len().min(place + octets.len() / 2);
        stream.splice(place..end, octets);
        super::fuzz::export(&stream, cut);
    }

    #[test]
    fn a_stream_with_any_change_is_refused(place: prop::sample::Index, bit in 0_u8..8, cut in 1_usize..5000) {
        let (_, stream) = three();
        let mut octets = stream.to_vec();
        octets[place.index(stream.len())] ^= 1 << bit;
        let to = MemStore::default();
        let error = import(&to, &octets.into(), cut, Skip::default()).unwrap_err();
        prop_assert!(matches!(*error.cause, TransferError::Damage(_)), "{}", error);
        prop_assert_eq!(to.totals().messages, error.imported.messages);
        // What is sound is taken later, and comes once.
        import(&to, &stream, cut, error.skip).unwrap();
        prop_assert_eq!(to.totals().messages, 3);
    }

    #[test]
    fn a_stream_that_is_cut_off_is_refused(place: prop::sample::Index, cut in 1_usize..5000) {
        let (_, stream) = three();
        let to = MemStore::default();
        let begun = stream.slice(..place.index(stream.len()));
        let error = import(&to, &begun, cut, Skip::default()).unwrap_err();
        prop_assert!(matches!(*error.cause, TransferError::Damage(_)), "{}", error);
        import(&to, &stream, cut, error.skip).unwrap();
        prop_assert_eq!(to.totals().messages, 3);
    }
}

#[test]
fn a_filter_chooses() {
    let (store, _) = three();
    now(accept(&store, at(1), &["dan@d.example"], b"four"));
    let filter = Filter {
        to: Some("dan".into()),
        ..Filter::default()
    };
    let stream = export(&store, filter);
    let to = MemStore::default();
    assert_eq!(
        import(&to, &stream, 7, Skip::default()).unwrap().messages,
        1
    );
    assert_eq!(listing(&to)[0].recipients[0].address, "dan@d.example");
}

/// What is held, or under lease, has no due time in a listing: it is due when it may be.
#[test]
fn held_stays_held_and_a_lease_stays_behind() {
    let (store, _) = three();
    let id = listing(&store)[1].id;
    let only = Filter {
        ids: vec![id],
        ..Filter::default()
    };
    now(store.operate(at(1), Operation::Hold, &only)).unwrap();
    assert_eq!(now(claim(&store, at(1))).len(), 4);
    let to = MemStore::default();
    import(
        &to,
        &export(&store, Filter::default()),
        1000,
        Skip::default(),
    )
    .unwrap();
    assert_eq!((to.totals().held, to.totals().in_flight), (1, 0));
    assert_eq!(now(claim(&to, at(99))).len(), 4);
    now(to.operate(at(99), Operation::Release, &Filter::default())).unwrap();
    assert_eq!(now(claim(&to, at(99))).len(), 2);
}

#[test]
fn a_header_block_of_any_length_is_taken() {
    for (head, body) in [
        (0, 10),
        (PIECE + 5, 10),
        (HEAD_MAX + 5, 10),
        (HEAD_MAX * 2, 0),
    ] {
        let content = [&vec![b'h'; head][..], b"\r\n\r\n", &vec![b'b'; body]].concat();
        let from = MemStore::default();
        let mut draft = draft(&["bob@b.example"]);
        draft.head = content.clone().into();
        now(from.begin(START).unwrap().commit(START, draft)).unwrap();
        let to = MemStore::default();
        import(
            &to,
            &export(&from, Filter::default()),
            PIECE,
            Skip::default(),
        )
        .unwrap();
        assert!(told(&to)[0].1 == content, "{head} {body}");
    }
}

/// A store with room for the first two.
#[test]
fn a_full_store_says_where_to_go_on() {
    let (_, stream) = three();
    let small = MemStore::new(1000);
    let error = import(&small, &stream, 4096, Skip::default()).unwrap_err();
    assert!(
        matches!(*error.cause, TransferError::Store(StoreError::Full { .. })),
        "{error}"
    );
    assert_eq!(
        (error.imported.messages, error.skip.to_string()),
        (2, "2".into())
    );
    assert_eq!(listing(&small).len(), 2);
    let rest = MemStore::default();
    let imported = import(&rest, &stream, 4096, error.skip).unwrap();
    assert_eq!((imported.messages, imported.skipped), (1, 2));
    assert_eq!(listing(&rest)[0].size, 300_000 + 17);
}

fn damage(text: &str) -> Damage {
    let to = MemStore::default();
    let stream = Bytes::copy_from_slice(text.as_bytes());
    match *import(&to, &stream, 1 << 20, Skip::default())
        .unwrap_err()
        .cause
    {
        TransferError::Damage(damage) => damage,
        other => panic!("{other}"),
    }
}

#[test]
fn what_is_wrong_is_said() {
    for (text, at, message, detail) in [
        ("", 0, None, "is it an export"),
        ("From alice@example.org\n", 0, None, "no export of a queue"),
        (&"x".repeat(1000), 0, None, "no export of a queue"),
        ("postroad-queue 2\n", 0, None, "knows version 1"),
        ("postroad-queue 1\n", 17, None, "before its end"),
        (
            "postroad-queue 1\nhello\n",
            17,
            None,
            "neither a message nor the end",
        ),
        ("postroad-queue 1\n{}\n", 17, None, "message 1 is none"),
        ("postroad-queue 1\nend 0 00000000\n", 17, None, "checksum"),
    ] {
        let found = damage(text);
        assert_eq!((found.at, found.message), (at, message), "{text}: {found}");
        assert!(found.detail.contains(detail), "{text}: {found}");
    }
    let (_, stream) = three();
    let text = String::from_utf8(stream.to_vec()).unwrap();
    let second = text.find("two\r\n").unwrap();
    let found = damage(&text.replacen("two\r\n", "twO\r\n", 1));
    assert_eq!(
        (found.at, found.message),
        (second as u64 + 6, Some(2)),
        "{found}"
    );
    let found = damage(text.get(..second + 1).unwrap());
    assert_eq!(
        (found.at, found.message),
        (second as u64 + 1, Some(2)),
        "{found}"
    );
    let found = damage(&format!("{text}\n"));
    assert_eq!(
        (found.at, found.message),
        (text.len() as u64, None),
        "{found}"
    );
    assert!(found.detail.contains("after its end"), "{found}");
}

/// A message that cannot be read is left out, and the others come.
#[test]
fn void_is_forgotten() {
    let (_, stream) = three();
    let mut reader = Reader::default();
    let mut rest = stream.clone();
    let mut rewritten = BytesMut::new();
    // The same stream with a word in place of another, and checksums that fit.
    for line in stream.split_inclusive(|octet| *octet == b'\n') {
        let text = String::from_utf8_lossy(line);
        let line = match text.split(' ').collect::<Vec<_>>()[..] {
            ["ok", _] => format!("void {:08x}\n", crc32c::crc32c(&rewritten)),
            ["end", count, _] => format!("end {count} {:08x}\n", crc32c::crc32c(&rewritten)),
            _ => text.into_owned(),
        };
        rewritten.extend_from_slice(line.as_bytes());
    }
    while let Some(part) = reader.next(&mut rest).unwrap() {
        assert_ne!(part, Part::Void);
    }
    let to = MemStore::default();
    let imported = import(&to, &rewritten.freeze(), 10_000, Skip::default()).unwrap();
    assert_eq!(
        imported,
        Imported {
            void: 3,
            ..Imported::default()
        }
    );
    assert!(listing(&to).is_empty());
}

#[test]
fn many_messages_are_committed_together_in_their_order() {
    let from = MemStore::default();
    for n in 0..500_u64 {
        now(accept(&from, START, &[&format!("bob{n}@b.example")], b"x"));
    }
    let to = MemStore::default();
    let stream = export(&from, Filter::default());
    assert_eq!(
        import(&to, &stream, 1 << 16, Skip::first(100))
            .unwrap()
            .messages,
        400
    );
    let addresses: Vec<_> = listing(&to)
        .iter()
        .map(|m| m.recipients[0].address.clone())
        .collect();
    assert_eq!(
        addresses,
        (100..500)
            .map(|n| format!("bob{n}@b.example"))
            .collect::<Vec<_>>()
    );
}
