use postroad_mail::ReplyCode;
use postroad_queue::{ClaimRequest, Evidence, MemStore, Store as _};

use super::*;

#[test]
fn the_status_is_of_the_actions_class() {
    let reply = |code, enhanced: &str| Reply {
        code: ReplyCode::new(code).unwrap(),
        enhanced: enhanced.parse().ok(),
        text: "x".into(),
    };
    for (reply, action, shown) in [
        (reply(554, "5.7.1"), Action::Delayed, "4.7.1"),
        (reply(552, "5.5.3"), Action::Delayed, "4.5.3"),
        (reply(550, "4.1.1"), Action::Failed, "5.1.1"),
        (reply(550, "-"), Action::Failed, "5.0.0"),
        (reply(451, "-"), Action::Delayed, "4.0.0"),
        (reply(250, "2.1.5"), Action::Delivered, "2.1.5"),
        (reply(250, "-"), Action::Relayed, "2.0.0"),
    ] {
        assert_eq!(status(&reply, action).to_string(), shown, "{reply:?}");
    }
}

/// RFC 3461 sections 4.1 and 5.2: who said nothing hears of failures, and of delays, since we
/// choose to tell; NEVER is never; nobody hears of a success who has not asked, nor twice.
#[test]
fn what_is_told_of_what_has_happened() {
    let by = |remote| Evidence {
        at: Timestamp::default(),
        hop: None,
        remote_mta: None,
        reply: replies::DELIVERED,
        remote,
        tls: None,
    };
    let end = |outcome, hop_notifies| Ended {
        outcome,
        expired: false,
        hop_notifies,
    };
    let happened = [
        ("failed", end(Outcome::Failed(by(true)), false), false),
        ("failed late", end(Outcome::Failed(by(false)), true), true),
        ("deferred", end(Outcome::Deferred(by(true)), false), false),
        ("late", end(Outcome::Deferred(by(true)), true), true),
        ("local", end(Outcome::Delivered(by(false)), false), false),
        ("relayed", end(Outcome::Delivered(by(true)), false), false),
        ("hop tells", end(Outcome::Delivered(by(true)), true), true),
    ];
    for (notify, told) in [
        ("", "failed failed - delayed - - -"),
        ("NEVER", "- - - - - - -"),
        ("SUCCESS", "- - - - delivered relayed -"),
        ("FAILURE", "failed failed - - - - -"),
        ("DELAY", "- - - delayed - - -"),
        ("SUCCESS,FAILURE", "failed failed - - delivered relayed -"),
        ("SUCCESS,DELAY", "- - - delayed delivered relayed -"),
        ("FAILURE,DELAY", "failed failed - delayed - - -"),
        (
            "SUCCESS,FAILURE,DELAY",
            "failed failed - delayed delivered relayed -",
        ),
    ] {
        let mut recipient = Recipient::new("bob@far.test".parse().unwrap());
        recipient.notify = (!notify.is_empty()).then(|| notify.parse().unwrap());
        let told: Vec<_> = told.split(' ').collect();
        assert_eq!(told.len(), happened.len(), "{notify}");
        for ((what, end, late), told) in happened.iter().zip(told) {
            let action = action(end, recipient.notify(), *late);
            let name = action.map_or("-", Action::name);
            assert_eq!(name, told, "NOTIFY={notify}: {what}");
        }
    }
}

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn evidence() -> Evidence {
    Evidence {
        at: NOW,
        hop: None,
        remote_mta: Some("mx.far.test".to_owned()),
        reply: postroad_mail::replies::UNKNOWN_RECIPIENT,
        remote: true,
        tls: None,
    }
}

/// A message to members of two lists and others, as it is claimed.
async fn claimed(change: impl FnOnce(&mut Envelope)) -> Claimed {
    let mut all = Vec::new();
    for (to, from) in [
        ("a@far.test", None),
        ("b@far.test", Some("<owner-x@lists.test>")),
        ("c@far.test", Some("<owner-y@lists.test>")),
        ("d@far.test", Some("<owner-x@lists.test>")),
        ("e@far.test", None),
        ("f@far.test", None),
    ] {
        let mut recipient = Recipient::new(to.parse().unwrap());
        recipient.from = from.map(|from| from.parse().unwrap());
        all.push(recipient);
    }
    let mut envelope = Envelope::new("<s@sender.test>".parse().unwrap(), all[0].clone());
    envelope.replace_recipients(all);
    envelope.envid = Some("E1".to_owned());
    envelope.ret = Some(Ret::Full);
    change(&mut envelope);
    let store = MemStore::default();
    let mut incoming = store.begin(NOW).unwrap();
    incoming.write("SECRET\r\n".into()).await.unwrap();
    let draft = Draft {
        envelope,
        origin: Origin::default(),
        head: "Subject: x\r\n\r\n".into(),
        lanes: Vec::new(),
        resumes: None,
    };
    incoming.commit(NOW, draft).await.unwrap();
    let request = ClaimRequest {
        max: 1,
        per_lane: 1,
        lease: std::time::Duration::from_secs(60),
    };
    store.claim(NOW, &request).await.unwrap().remove(0)
}

/// All but the last have failed; that one is delivered.
fn all_failed() -> BTreeMap<usize, Ended> {
    let end = |index| Ended {
        outcome: if index == 5 {
            Outcome::Delivered(evidence())
        } else {
            Outcome::Failed(evidence())
        },
        expired: false,
        hop_notifies: false,
    };
    (0..6).map(|index| (index, end(index))).collect()
}

/// To whom, with which RET and ENVID, of whom; and what the notice says of the last.
async fn written(job: &Claimed, config: &OutboundConfig) -> Vec<(String, Vec<usize>, String)> {
    let ended = all_failed();
    let mut notices = Vec::new();
    for owed in owed(job, &ended, false) {
        let Some(to) = addressee(config, job, &owed) else {
            continue;
        };
        let about = about(&job.message.envelope, owed.from, to);
        let original = read(&*job.content, owed.action, about.ret).await.unwrap();
        let reported = Reported {
            config,
            job,
            ended: &ended,
            expires: NOW,
            now: NOW,
            to,
            about: &about,
            original,
        };
        let notice = reported.write(owed.action, &owed.recipients);
        assert_eq!(
            notice.draft.envelope.require_tls,
            job.message.envelope.require_tls
        );
        assert!(notice.draft.envelope.from.is_null());
        let body = String::from_utf8(notice.body.to_vec()).unwrap();
        notices.push((to.to_string(), owed.recipients, body));
    }
    notices
}

/// Each reverse-path has a notice of its own, about its own recipients; a list hears nothing of
/// what the sender asked for.
#[tokio::test]
async fn each_reverse_path_is_told_of_its_own() {
    let config = OutboundConfig::new("mx.near.test".parse().unwrap());
    let job = claimed(|_| {}).await;
    let notices = written(&job, &config).await;
    let to: Vec<_> = notices
        .iter()
        .map(|(to, about, _)| (to.as_str(), about.as_slice()))
        .collect();
    assert_eq!(
        to,
        [
            ("s@sender.test", &[0, 4][..]),
            ("owner-x@lists.test", &[1, 3]),
            ("owner-y@lists.test", &[2]),
        ]
    );
    for (to, _, body) in &notices {
        let own = to == "s@sender.test";
        assert_eq!(body.contains("Original-Envelope-Id: E1"), own, "{body}");
        assert!(body.contains("SECRET"), "{body}");
        assert_eq!(body.contains("a@far.test"), own);
        assert_eq!(body.contains("b@far.test"), to.starts_with("owner-x"));
    }
}

/// RFC 8689 section 5: RET=FULL is disregarded, and the notice requires TLS itself.
#[tokio::test]
async fn what_requires_tls_is_not_returned() {
    let config = OutboundConfig::new("mx.near.test".parse().unwrap());
    let job = claimed(|envelope| envelope.require_tls = true).await;
    let notices = written(&job, &config).await;
    assert_eq!(notices.len(), 3);
    for (_, _, body) in notices {
        assert!(
            !body.contains("SECRET") && body.contains("Subject: x"),
            "{body}"
        );
    }
}

/// A list's owner is told of what comes back from a notification as little as anybody else: the
/// postmaster is, once.
#[tokio::test]
async fn of_a_notification_the_postmaster_is_told() {
    let mut config = OutboundConfig::new("mx.near.test".parse().unwrap());
    let null = |envelope: &mut Envelope| {
        envelope.from = ReversePath::Null;
        for recipient in envelope.recipients_mut() {
            recipient.from = None;
        }
    };
    let job = claimed(null).await;
    assert!(written(&job, &config).await.is_empty());
    config.postmaster = Some("pm@near.test".parse().unwrap());
    let notices = written(&job, &config).await;
    assert_eq!(notices.len(), 1);
    assert_eq!(
        (notices[0].0.as_str(), notices[0].1.len()),
        ("pm@near.test", 5)
    );
    let config = OutboundConfig {
        postmaster: Some("c@far.test".parse().unwrap()),
        ..config
    };
    assert!(written(&job, &config).await.is_empty(), "its own failure");
}

/// The postmaster's own address is nobody's business, nor are those for whom it stands.
#[tokio::test]
async fn the_postmaster_is_not_betrayed() {
    let config = OutboundConfig {
        postmaster: Some("pm@far.test".parse().unwrap()),
        ..OutboundConfig::new("mx.near.test".parse().unwrap())
    };
    for (address, original, betrayed) in [
        ("pm@far.test", Some("rfc822;postmaster@mx.near.test"), false),
        ("a@far.test", Some("rfc822;Postmaster@mx.near.test"), false),
        ("a@far.test", Some("rfc822;staff@far.test"), true),
        ("a@far.test", None, true),
        ("pm@far.test", Some("rfc822;pm@far.test"), true),
    ] {
        let job = claimed(|envelope| {
            let mut recipient = Recipient::new(address.parse().unwrap());
            recipient.original = original.map(|original| original.parse().unwrap());
            envelope.replace_recipients(vec![recipient]);
        })
        .await;
        let body = &written(&job, &config).await[0].2;
        assert_eq!(body.contains(address), betrayed, "{original:?}: {body}");
        assert_eq!(body.contains("mx.far.test"), betrayed, "{body}");
    }
}
