//! The whole EHLO reply of every kind of listener; what it lists works there, what it does not
//! list is refused.

use std::net::SocketAddr;

use postroad_tests::dialogue::Dialogue;
use postroad_tests::process::Service;
use postroad_tests::site::{PASSWORD, Settings, Site, USER};

/// Both services, each on every kind of listener that it has.
struct Both {
    _site: Site,
    _service: Service,
    submission: SocketAddr,
    implicit: SocketAddr,
    relay: SocketAddr,
    plain: SocketAddr,
}

async fn both(limits: &str, mechanisms: &str) -> Both {
    let site = Site::new();
    site.add_user().await.unwrap();
    let [submission, implicit, relay, plain] = [(); 4].map(|()| site.port());
    let settings = Settings {
        listeners: vec![
            ("submission", submission, "starttls"),
            ("submission", implicit, "implicit"),
            ("relay", relay, "starttls"),
            ("relay", plain, "none"),
        ],
        domains: &["box.test"],
        routes: vec![("*", "defer 4.2.0 held for the test".to_owned())],
        delivery: "retry = [\"1h\"]",
        limits,
        submission: mechanisms,
        ..Settings::default()
    };
    let service = site.start("postroad", "both", &settings).await.unwrap();
    Both {
        _site: site,
        _service: service,
        submission,
        implicit,
        relay,
        plain,
    }
}

const LIMITS: &str = "message_size = 100000\nrecipients = 5\nerrors = 100\nerror_delay = \"0s\"";
const LOGIN_ONLY: &str = "mechanisms = [\"LOGIN\"]";

async fn assert_offer(dialogue: &mut Dialogue, offer: &[&str]) {
    let reply = dialogue.say("EHLO client.test", "250").await.unwrap();
    let lines: Vec<_> = reply.lines().collect();
    assert_eq!(lines, offer);
}

async fn starttls(address: SocketAddr) -> Dialogue {
    let mut dialogue = Dialogue::open(address).await.unwrap();
    dialogue.say("STARTTLS", "220 2.0.0").await.unwrap();
    dialogue.tls().await.unwrap()
}

async fn replies(dialogue: &mut Dialogue, rows: &[(&str, &str)]) {
    for (line, reply) in rows {
        dialogue.say(line, reply).await.unwrap();
    }
}

/// PIPELINING, ENHANCEDSTATUSCODES, SIZE, 8BITMIME, SMTPUTF8, CHUNKING, BINARYMIME, DSN, LIMITS
/// and HELP, with the limits of this file.
async fn assert_all_of_it_works(dialogue: &mut Dialogue) {
    // In one group, replies with enhanced codes.
    dialogue
        .send("MAIL FROM:<a@b.test> SIZE=100000 BODY=8BITMIME RET=HDRS ENVID=id1\r\nRCPT TO:<c@box.test> NOTIFY=DELAY,FAILURE ORCPT=rfc822;c@box.test\r\nRCPT TO:<d@box.test>\r\nRCPT TO:<e@box.test>\r\nRCPT TO:<f@box.test>\r\nRCPT TO:<g@box.test>\r\nRCPT TO:<h@box.test>\r\nNOOP\r\nBDAT 2\r\n\r\nBDAT 4 LAST\r\n\u{fc}\r\n")
        .await
        .unwrap();
    for reply in [
        "250 2.1.0",
        "250 2.1.5",
        "250 2.1.5",
        "250 2.1.5",
        "250 2.1.5",
        "250 2.1.5",
        "452 4.5.3",
        "250 2.0.0",
        "250 2.0.0",
        "250 2.0.0",
    ] {
        dialogue.expect(reply).await.unwrap();
    }
    replies(
        dialogue,
        &[
            ("MAIL FROM:<a@b.test> SIZE=100001", "552 5.3.4"),
            ("MAIL FROM:<\u{fc}@b.test> SMTPUTF8", "250 2.1.0"),
            ("RCPT TO:<\u{fc}@box.test>", "250 2.1.5"),
            ("RSET", "250 2.0.0"),
            ("MAIL FROM:<a@b.test> BODY=BINARYMIME", "250 2.1.0"),
            ("RCPT TO:<c@box.test>", "250 2.1.5"),
            ("DATA", "503 5.5.1"),
            // NUL, a bare LF and a bare CR are content here.
            ("BDAT 5 LAST\r\n\r\n\0\n\rNOOP", "250 2.0.0"),
        ],
    )
    .await;
    dialogue.expect("250 2.0.0").await.unwrap();
    dialogue.say("HELP", "214 2.0.0").await.unwrap();
}

/// What no service lists: real answers to VRFY and EXPN, parameters of extensions that are not
/// there, commands of none.
async fn assert_the_rest_is_refused(dialogue: &mut Dialogue) {
    replies(
        dialogue,
        &[
            ("VRFY c@box.test", "252 2.0.0"),
            ("EXPN list", "502 5.5.1"),
            ("ETRN box.test", "500 5.5.1"),
            ("MAIL FROM:<a@b.test> DELIVERBY=9;R", "555 5.5.4"),
        ],
    )
    .await;
}

/// RFC 8689: there under TLS, and unheard of outside it.
async fn assert_require_tls(dialogue: &mut Dialogue, under_tls: bool) {
    let mail = "MAIL FROM:<a@b.test> REQUIRETLS";
    if under_tls {
        replies(dialogue, &[(mail, "250 2.1.0"), ("RSET", "250 2.0.0")]).await;
    } else {
        replies(dialogue, &[(mail, "555 5.5.4")]).await;
    }
}

#[tokio::test]
async fn submission_in_clear() {
    let both = both(LIMITS, LOGIN_ONLY).await;
    let mut dialogue = Dialogue::open(both.submission).await.unwrap();
    let offer = [
        "250-both.test",
        "250-PIPELINING",
        "250-SIZE 100000",
        "250-8BITMIME",
        "250-SMTPUTF8",
        "250-CHUNKING",
        "250-BINARYMIME",
        "250-ENHANCEDSTATUSCODES",
        "250-DSN",
        "250-STARTTLS",
        "250-LIMITS RCPTMAX=5",
        "250 HELP",
    ];
    assert_offer(&mut dialogue, &offer).await;
    let rows = [
        ("HELP", "214 2.0.0"),
        // No password crosses the wire in clear, and nothing goes without one.
        ("AUTH LOGIN", "538 5.7.11"),
        ("AUTH PLAIN", "504 5.5.4"),
        ("MAIL FROM:<a@b.test>", "530 5.7.0"),
        ("RCPT TO:<c@box.test>", "530 5.7.0"),
        ("DATA", "530 5.7.0"),
        ("BDAT 6 LAST\r\nQUIT\r\nVRFY c", "530 5.7.0"),
    ];
    replies(&mut dialogue, &rows).await;
    dialogue.expect("530 5.7.0").await.unwrap();
    dialogue.say("EXPN list", "530 5.7.0").await.unwrap();
    dialogue.say("STARTTLS", "220 2.0.0").await.unwrap();
    let mut dialogue = dialogue.tls().await.unwrap();
    dialogue.say("EHLO client.test", "250").await.unwrap();
    dialogue.say("QUIT", "221 2.0.0").await.unwrap();
}

#[tokio::test]
async fn submission_under_tls() {
    let both = both(LIMITS, LOGIN_ONLY).await;
    let mut implicit = Dialogue::connect(both.implicit)
        .await
        .unwrap()
        .tls()
        .await
        .unwrap();
    implicit.expect("220").await.unwrap();
    let offer = [
        "250-both.test",
        "250-PIPELINING",
        "250-SIZE 100000",
        "250-8BITMIME",
        "250-SMTPUTF8",
        "250-CHUNKING",
        "250-BINARYMIME",
        "250-ENHANCEDSTATUSCODES",
        "250-DSN",
        "250-AUTH LOGIN",
        "250-REQUIRETLS",
        "250-LIMITS RCPTMAX=5",
        "250 HELP",
    ];
    for mut dialogue in [starttls(both.submission).await, implicit] {
        assert_offer(&mut dialogue, &offer).await;
        let (user, password) = (base64(USER), base64(PASSWORD));
        let rows = [
            ("MAIL FROM:<a@b.test>", "530 5.7.0"),
            ("STARTTLS", "503 5.5.1"),
            ("AUTH PLAIN", "504 5.5.4"),
            ("AUTH CRAM-MD5", "504 5.5.4"),
            ("AUTH LOGIN", "334"),
            (&user, "334"),
            (&password, "235 2.7.0"),
            ("AUTH LOGIN", "503 5.5.1"),
        ];
        replies(&mut dialogue, &rows).await;
        assert_all_of_it_works(&mut dialogue).await;
        assert_the_rest_is_refused(&mut dialogue).await;
        assert_require_tls(&mut dialogue, true).await;
        dialogue.say("QUIT", "221 2.0.0").await.unwrap();
    }
}

#[tokio::test]
async fn relay_in_clear_and_under_tls() {
    let both = both(LIMITS, LOGIN_ONLY).await;
    let clear = [
        "250-both.test",
        "250-PIPELINING",
        "250-SIZE 100000",
        "250-8BITMIME",
        "250-SMTPUTF8",
        "250-CHUNKING",
        "250-BINARYMIME",
        "250-ENHANCEDSTATUSCODES",
        "250-DSN",
        "250-STARTTLS",
        "250-LIMITS RCPTMAX=5",
        "250 HELP",
    ];
    let under_tls = [
        "250-both.test",
        "250-PIPELINING",
        "250-SIZE 100000",
        "250-8BITMIME",
        "250-SMTPUTF8",
        "250-CHUNKING",
        "250-BINARYMIME",
        "250-ENHANCEDSTATUSCODES",
        "250-DSN",
        "250-REQUIRETLS",
        "250-LIMITS RCPTMAX=5",
        "250 HELP",
    ];
    // Where there is none to be had.
    let without = [
        "250-both.test",
        "250-PIPELINING",
        "250-SIZE 100000",
        "250-8BITMIME",
        "250-SMTPUTF8",
        "250-CHUNKING",
        "250-BINARYMIME",
        "250-ENHANCEDSTATUSCODES",
        "250-DSN",
        "250-LIMITS RCPTMAX=5",
        "250 HELP",
    ];
    // RFC 3207 section 4: 454 where TLS is not to be had.
    for (mut dialogue, offer, tls) in [
        (Dialogue::open(both.relay).await.unwrap(), &clear[..], "220"),
        (starttls(both.relay).await, &under_tls, "503 5.5.1"),
        (
            Dialogue::open(both.plain).await.unwrap(),
            &without,
            "454 4.7.0",
        ),
    ] {
        assert_offer(&mut dialogue, offer).await;
        let rows = [("AUTH LOGIN", "502 5.5.1"), ("AUTH PLAIN =", "502 5.5.1")];
        replies(&mut dialogue, &rows).await;
        assert_all_of_it_works(&mut dialogue).await;
        assert_the_rest_is_refused(&mut dialogue).await;
        assert_require_tls(&mut dialogue, tls == "503 5.5.1").await;
        dialogue.say("STARTTLS", tls).await.unwrap();
    }
    // HELO lists nothing.
    let mut dialogue = Dialogue::connect(both.relay).await.unwrap();
    dialogue.expect("220 both.test ").await.unwrap();
    let hello = dialogue.say("HELO client.test", "250").await.unwrap();
    assert_eq!(hello, "250 both.test");
}

/// What is listed where the configuration says nothing.
#[tokio::test]
async fn the_usual_settings() {
    let both = both("", "").await;
    let mut dialogue = starttls(both.submission).await;
    let offer = [
        "250-both.test",
        "250-PIPELINING",
        "250-SIZE 52428800",
        "250-8BITMIME",
        "250-SMTPUTF8",
        "250-CHUNKING",
        "250-BINARYMIME",
        "250-ENHANCEDSTATUSCODES",
        "250-DSN",
        "250-AUTH PLAIN LOGIN",
        "250-REQUIRETLS",
        "250-LIMITS RCPTMAX=1000",
        "250 HELP",
    ];
    assert_offer(&mut dialogue, &offer).await;
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::new();
    for group in text.as_bytes().chunks(3) {
        let octets = (0..3).map(|n| group.get(n).copied().unwrap_or(0));
        let bits = octets.fold(0, |bits, octet| bits << 8 | usize::from(octet));
        for n in 0..4 {
            let digit = char::from(DIGITS[bits >> (18 - 6 * n) & 63]);
            encoded.push(if n <= group.len() { digit } else { '=' });
        }
    }
    encoded
}

/// Where users may ask, VRFY and EXPN are listed for them, and answered; for nobody else.
#[tokio::test]
async fn who_may_verify() {
    let limits = format!("{LIMITS}\nverify = \"authenticated\"");
    let both = both(&limits, "").await;
    let mut dialogue = Dialogue::open_tls(both.implicit).await.unwrap();
    let before = dialogue.say("EHLO client.test", "250").await.unwrap();
    assert!(!before.contains("VRFY"), "{before}");
    dialogue.say("VRFY alice", "530 5.7.0").await.unwrap();
    let login = base64(&format!("\0{USER}\0{PASSWORD}"));
    dialogue
        .say(&format!("AUTH PLAIN {login}"), "235 2.7.0")
        .await
        .unwrap();
    let after = dialogue.say("EHLO client.test", "250").await.unwrap();
    assert!(after.contains("VRFY") && after.contains("EXPN"), "{after}");
    dialogue.say("VRFY nobody", "550 5.1.1").await.unwrap();
    // The users file has no address for this name.
    dialogue
        .say(&format!("VRFY {USER}"), "252 2.0.0")
        .await
        .unwrap();
    dialogue.say("EXPN staff", "550 5.1.1").await.unwrap();
    let mut stranger = Dialogue::open(both.relay).await.unwrap();
    stranger.say("VRFY alice", "252 2.0.0").await.unwrap();
    stranger.say("EXPN staff", "502 5.5.1").await.unwrap();
}
