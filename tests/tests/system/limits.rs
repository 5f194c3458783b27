//! Bounds on connections, errors, messages and time.

use std::net::SocketAddr;
use std::time::Duration;

use postroad_tests::dialogue::Dialogue;
use postroad_tests::process::{PATIENCE, Signal};
use postroad_tests::site::{Settings, Site};
use tokio::time::Instant;

use crate::kept::{self, assert_nothing_kept, relay, transaction};

const TOO_MANY: &str = "421 4.7.0";

/// Connects until the greeting starts with `start`: a connection that has just ended gives its
/// place back, and its errors, a moment after its client knows.
async fn until_greeted(address: SocketAddr, start: &str) -> Dialogue {
    let greeted = async {
        loop {
            let mut dialogue = Dialogue::connect(address).await.unwrap();
            if dialogue.reply().await.unwrap().starts_with(start) {
                return dialogue;
            }
        }
    };
    tokio::time::timeout(PATIENCE, greeted)
        .await
        .unwrap_or_else(|_| panic!("never greeted with {start}"))
}

#[tokio::test]
async fn connections_in_all_and_by_address() {
    for limit in ["connections = 2", "connections_per_address = 2"] {
        let site = Site::new();
        let (service, address) = relay(&site, limit).await;
        let mut first = Dialogue::open(address).await.unwrap();
        let mut second = Dialogue::open(address).await.unwrap();
        for _ in 0..3 {
            let mut third = Dialogue::connect(address).await.unwrap();
            third.expect(TOO_MANY).await.unwrap();
            assert_eq!(third.rest().await.unwrap(), "", "{limit}");
        }
        // Those who are in are served all the same, and whoever leaves makes room.
        second.say("NOOP", "250 2.0.0").await.unwrap();
        first.say("QUIT", "221 2.0.0").await.unwrap();
        assert_eq!(first.rest().await.unwrap(), "");
        let mut third = until_greeted(address, "220").await;
        third.say("EHLO third.test", "250").await.unwrap();
        second.say("QUIT", "221 2.0.0").await.unwrap();
        third.say("QUIT", "221 2.0.0").await.unwrap();
        assert!(service.terminate().await.unwrap().success());
    }
}

#[tokio::test]
async fn errors_end_the_session() {
    let site = Site::new();
    let (_service, address) = relay(&site, "errors = 5\nerror_delay = \"0s\"").await;
    let mut dialogue = Dialogue::open(address).await.unwrap();
    for _ in 0..4 {
        dialogue.say("WHAT", "500 5.5.1").await.unwrap();
    }
    dialogue.send("WHAT\r\n").await.unwrap();
    let rest = dialogue.rest().await.unwrap();
    assert!(rest.contains(TOO_MANY), "{rest}");
}

/// So do recipients that are refused, which is how addresses are guessed.
#[tokio::test]
async fn refused_recipients_end_the_session() {
    let site = Site::new();
    let (_service, address) = relay(&site, "errors = 5\nerror_delay = \"0s\"").await;
    let mut dialogue = Dialogue::open(address).await.unwrap();
    dialogue.say("MAIL FROM:<a@b.test>", "250").await.unwrap();
    for n in 0..4 {
        let line = format!("RCPT TO:<user{n}@other.test>");
        dialogue.say(&line, "550 5.7.1").await.unwrap();
    }
    dialogue
        .send("RCPT TO:<user@other.test>\r\n")
        .await
        .unwrap();
    let rest = dialogue.rest().await.unwrap();
    assert!(rest.contains(TOO_MANY), "{rest}");
}

#[tokio::test]
async fn errors_of_an_address_outlive_its_connections() {
    let site = Site::new();
    // One error is forgiven every 6 s: far more are made than the limit has.
    let limits = "errors_per_address = 4\nerrors = 100\nerror_delay = \"0s\"";
    let (service, address) = relay(&site, limits).await;
    let mut dialogue = Dialogue::open(address).await.unwrap();
    for _ in 0..40 {
        dialogue.say("WHAT", "500 5.5.1").await.unwrap();
    }
    dialogue.say("QUIT", "221 2.0.0").await.unwrap();
    let mut refused = until_greeted(address, TOO_MANY).await;
    assert_eq!(refused.rest().await.unwrap(), "");
    service
        .log()
        .wait_for(&["connection refused", "Errors"])
        .await
        .unwrap();
}

/// What was sent before the greeting left is answered by 554 and the end, and counts as an error.
#[tokio::test]
async fn early_talkers_are_refused_and_counted() {
    let site = Site::new();
    let (service, address) = relay(&site, "errors_per_address = 4").await;
    // While the service stands still the system accepts for it, so that every octet is there
    // before the greeting.
    service.pause().unwrap();
    let mut early = Vec::new();
    for _ in 0..8 {
        let mut dialogue = Dialogue::connect(address).await.unwrap();
        dialogue.send("EHLO early.test\r\n").await.unwrap();
        early.push(dialogue);
    }
    service.signal(Signal::SIGCONT).unwrap();
    let (mut refused, mut shut_out) = (0, 0);
    for mut dialogue in early {
        let words = dialogue.rest().await.unwrap();
        assert_eq!(words.lines().count(), 1, "{words}");
        // Those that are looked at when the first have been counted do not get as far.
        refused += usize::from(words.starts_with("554 5.5.0"));
        shut_out += usize::from(words.starts_with(TOO_MANY));
    }
    assert_eq!(refused + shut_out, 8);
    assert!(refused >= 4, "{refused}");
    if shut_out == 0 {
        until_greeted(address, TOO_MANY).await;
    }
}

/// Below the free space that is to be left, mail is put off before it is sent; what is there is not touched.
#[tokio::test]
async fn a_disk_that_is_nearly_full() {
    let site = Site::new();
    // More than any disk of a test machine has.
    let (service, address) = relay(&site, "min_free = 1000000000000000000").await;
    let mut dialogue = Dialogue::open(address).await.unwrap();
    dialogue
        .send("MAIL FROM:<a@b.test>\r\nRCPT TO:<c@box.test>\r\nDATA\r\n")
        .await
        .unwrap();
    let mut replies = Vec::new();
    for _ in 0..3 {
        replies.push(dialogue.reply().await.unwrap());
    }
    if replies.iter().all(|reply| !reply.starts_with("452 4.3.1")) {
        assert!(replies[2].starts_with("354"), "{replies:?}");
        dialogue
            .say("Subject: x\r\n\r\nx\r\n.", "452 4.3.1")
            .await
            .unwrap();
    }
    dialogue.say("NOOP", "250 2.0.0").await.unwrap();
    assert_nothing_kept(&site).await;
    assert!(service.terminate().await.unwrap().success());
}

/// A queue that cannot be written is a reason of ours: 451, and nothing is promised.
#[tokio::test]
async fn a_queue_that_cannot_be_written() {
    let site = Site::new();
    let (service, address) = relay(&site, "").await;
    let mut dialogue = Dialogue::open(address).await.unwrap();
    let big = site.path("queue-relay/big");
    std::fs::remove_dir(&big).unwrap();
    let line = format!("{}\r\n", "x".repeat(998));
    for code in ["451 4.3.0", "250 2.0.0"] {
        transaction(&mut dialogue).await;
        dialogue.send("Subject: big\r\n\r\n").await.unwrap();
        dialogue.send(line.repeat(400)).await.unwrap();
        dialogue.say(".", code).await.unwrap();
        // The cause is gone: so is the failure.
        let _ = std::fs::create_dir(&big);
    }
    assert_eq!(site.queued("relay").await.unwrap(), 1);
    assert!(service.terminate().await.unwrap().success());
}

const BARE: &str = "Subject: bare\r\n\r\none\ntwo\rthree\r\n.\r\n";

/// A message with a bare LF and a bare CR is stored with CRLF in their places.
async fn assert_mended(site: &Site, address: SocketAddr) {
    let mut dialogue = Dialogue::open(address).await.unwrap();
    transaction(&mut dialogue).await;
    dialogue.send(BARE).await.unwrap();
    let queued = dialogue.expect("250 2.0.0").await.unwrap();
    dialogue.say("QUIT", "221 2.0.0").await.unwrap();
    let id = queued.split(' ').next_back().unwrap();
    let body = site.queue("relay", &["body", id]).await.unwrap();
    let body = body.succeeded().output;
    assert!(
        body.ends_with("\r\n\r\none\r\ntwo\r\nthree\r\n"),
        "{body:?}"
    );
}

/// Such a message is refused, and the session ends.
async fn assert_refused(address: SocketAddr) {
    let mut dialogue = Dialogue::open(address).await.unwrap();
    transaction(&mut dialogue).await;
    dialogue.send(BARE).await.unwrap();
    let rest = dialogue.rest().await.unwrap();
    assert!(rest.starts_with("554 5.6.0"), "{rest}");
    assert_eq!(rest.lines().count(), 1, "{rest}");
}

/// A word on bare newlines counts for everyone; without one, whoever is trusted is mended.
#[tokio::test]
async fn bare_newlines_of_friends_and_strangers() {
    const FRIENDS: &[&str] = &["127.0.0.0/8"];
    for (limits, trusted, mended) in [
        ("bare_newline = \"reject\"", FRIENDS, false),
        ("bare_newline = \"reject\"", &[], false),
        ("bare_newline = \"normalize\"", FRIENDS, true),
        ("bare_newline = \"normalize\"", &[], true),
        ("", FRIENDS, true),
        ("", &[], false),
    ] {
        let site = Site::new();
        let address = site.port();
        let settings = Settings {
            limits,
            trusted,
            ..kept::settings(address)
        };
        let service = site
            .start("postroad-relay", "relay", &settings)
            .await
            .unwrap();
        if mended {
            assert_mended(&site, address).await;
        } else {
            assert_refused(address).await;
            assert_nothing_kept(&site).await;
        }
        assert!(service.terminate().await.unwrap().success());
    }
}

/// The word of a listener counts before that of all.
#[tokio::test]
async fn bare_newlines_by_listener() {
    for (in_general, here) in [("reject", "normalize"), ("normalize", "reject")] {
        let site = Site::new();
        let (address, other) = (site.port(), site.port());
        let more = format!(
            "[[listener]]\nservice = \"relay\"\nbind = [\"{other}\"]\ntls = \"none\"\nbare_newline = \"{here}\"\n"
        );
        let limits = format!("bare_newline = \"{in_general}\"");
        let settings = Settings {
            limits: &limits,
            more: &more,
            ..kept::settings(address)
        };
        let _service = site
            .start("postroad-relay", "relay", &settings)
            .await
            .unwrap();
        let (mends, refuses) = if here == "normalize" {
            (other, address)
        } else {
            (address, other)
        };
        assert_mended(&site, mends).await;
        assert_refused(refuses).await;
        assert_eq!(site.queued("relay").await.unwrap(), 1);
    }
}

#[tokio::test]
async fn eight_bits_in_headers() {
    const HEADER: &str = "Subject: Gr\u{fc}\u{df}e\r\n\r\nhello\r\n.";
    const BODY: &str = "Subject: hello\r\n\r\nGr\u{fc}\u{df}e\r\n.";
    for (setting, header) in [
        ("eight_bit_headers = \"reject\"", "554 5.6.0"),
        ("eight_bit_headers = \"accept\"", "250 2.0.0"),
    ] {
        let site = Site::new();
        let (_service, address) = relay(&site, setting).await;
        let mut dialogue = Dialogue::open(address).await.unwrap();
        for (parameters, text, reply) in [
            ("", HEADER, header),
            (" BODY=8BITMIME", HEADER, header),
            (" SMTPUTF8", HEADER, "250 2.0.0"),
            (" BODY=8BITMIME", BODY, "250 2.0.0"),
        ] {
            let line = format!("MAIL FROM:<a@b.test>{parameters}");
            dialogue.say(&line, "250 2.1.0").await.unwrap();
            dialogue
                .say("RCPT TO:<c@box.test>", "250 2.1.5")
                .await
                .unwrap();
            dialogue.say("DATA", "354").await.unwrap();
            let said = dialogue.say(text, reply).await.unwrap();
            assert_eq!(said.contains("8-bit"), reply.starts_with('5'), "{said}");
        }
        let kept = if header.starts_with('2') { 4 } else { 2 };
        assert_eq!(site.queued("relay").await.unwrap(), kept);
    }
}

#[tokio::test]
async fn headers_have_a_size() {
    let site = Site::new();
    let (_service, address) = relay(&site, "header_size = \"1KiB\"").await;
    let mut dialogue = Dialogue::open(address).await.unwrap();
    for (octets, reply) in [(900, "250 2.0.0"), (1100, "554 5.6.0")] {
        for by_data in [true, false] {
            // A body of any size beside it, and the end of the header within many lines.
            let field = format!("X-Long: {}\r\n", "x".repeat(90));
            let text = format!(
                "{}\r\n{}",
                field.repeat(octets / field.len()),
                "text\r\n".repeat(1000)
            );
            dialogue.say("MAIL FROM:<a@b.test>", "250").await.unwrap();
            dialogue.say("RCPT TO:<c@box.test>", "250").await.unwrap();
            if by_data {
                dialogue.say("DATA", "354").await.unwrap();
                dialogue.send(format!("{text}.\r\n")).await.unwrap();
            } else {
                let chunk = format!("BDAT {} LAST\r\n{text}", text.len());
                dialogue.send(chunk).await.unwrap();
            }
            let said = dialogue.expect(reply).await.unwrap();
            assert_eq!(said.contains("too large"), octets > 1024, "{said}");
        }
    }
    assert_eq!(site.queued("relay").await.unwrap(), 2);
}

/// Once half of the errors are used, each costs its sender time. How long no delay takes is not
/// asked: a busy machine may be slow, but none is early.
#[tokio::test]
async fn errors_cost_time() {
    let limits = "errors = 8\nerror_delay = \"1s\"";
    let site = Site::new();
    let (_service, address) = relay(&site, limits).await;
    let mut dialogue = Dialogue::open(address).await.unwrap();
    for _ in 0..4 {
        dialogue.say("WHAT", "500 5.5.1").await.unwrap();
    }
    for (nth, seconds) in [(5, 1), (6, 2)] {
        let asked = Instant::now();
        dialogue.say("WHAT", "500 5.5.1").await.unwrap();
        let took = asked.elapsed();
        assert!(
            took >= Duration::from_secs(seconds),
            "error {nth}: {took:?}"
        );
    }
}

/// With "0s" they cost none: one of two clients who make the same errors is done before the other.
#[tokio::test]
async fn errors_cost_no_time_where_that_is_said() {
    let (quick, slow) = (Site::new(), Site::new());
    let (_quick, quick) = relay(&quick, "errors = 8\nerror_delay = \"0s\"").await;
    let (_slow, slow) = relay(&slow, "errors = 8\nerror_delay = \"20s\"").await;
    let errors = async |address| {
        let mut dialogue = Dialogue::open(address).await.unwrap();
        for _ in 0..7 {
            dialogue.say("WHAT", "500 5.5.1").await.unwrap();
        }
    };
    tokio::select! {
        biased;
        () = errors(slow) => panic!("a delay of 20 s was over first"),
        () = errors(quick) => {}
    }
}

/// A wait for a command ends by `command_timeout`, one for more of a message by `data_timeout`,
/// whichever of the two is longer.
#[tokio::test]
async fn each_wait_has_its_own_end() {
    const SHORT: Duration = Duration::from_secs(1);
    const LONG: Duration = Duration::from_secs(3);
    const IDLE: &str = "421 4.4.2";
    // The wait begins when the server has what was sent last: not before it was sent.
    let ended = async |mut dialogue: Dialogue, since: Instant, bound: Duration| {
        let rest = dialogue.rest().await.unwrap();
        assert!(rest.starts_with(IDLE), "{rest}");
        assert_eq!(rest.lines().count(), 1, "{rest}");
        let took = since.elapsed();
        assert!(took >= bound, "{took:?} of {bound:?}");
    };
    let longer_command = async {
        let site = Site::new();
        let limits = "command_timeout = \"3s\"\ndata_timeout = \"1s\"";
        let (_service, address) = relay(&site, limits).await;
        let command = async {
            let since = Instant::now();
            let dialogue = Dialogue::open(address).await.unwrap();
            ended(dialogue, since, LONG).await;
        };
        let data = async {
            let mut dialogue = Dialogue::open(address).await.unwrap();
            transaction(&mut dialogue).await;
            let since = Instant::now();
            dialogue.send("Subject: half\r\n").await.unwrap();
            ended(dialogue, since, SHORT).await;
        };
        tokio::join!(command, data);
    };
    let longer_data = async {
        let site = Site::new();
        let limits = "command_timeout = \"1s\"\ndata_timeout = \"3s\"";
        let (_service, address) = relay(&site, limits).await;
        let command = async {
            let since = Instant::now();
            let dialogue = Dialogue::open(address).await.unwrap();
            ended(dialogue, since, SHORT).await;
        };
        let data = async {
            let mut dialogue = Dialogue::open(address).await.unwrap();
            transaction(&mut dialogue).await;
            let since = Instant::now();
            dialogue.send("Subject: half\r\n").await.unwrap();
            ended(dialogue, since, LONG).await;
        };
        let chunk = async {
            let mut dialogue = Dialogue::open(address).await.unwrap();
            dialogue.say("MAIL FROM:<a@b.test>", "250").await.unwrap();
            dialogue.say("RCPT TO:<c@box.test>", "250").await.unwrap();
            let since = Instant::now();
            dialogue.send("BDAT 9 LAST\r\nSub").await.unwrap();
            ended(dialogue, since, LONG).await;
        };
        tokio::join!(command, data, chunk);
        assert_nothing_kept(&site).await;
    };
    tokio::join!(longer_command, longer_data);
}
