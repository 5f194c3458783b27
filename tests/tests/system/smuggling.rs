//! SMTP smuggling, and injection around STARTTLS, at a running service.

use postroad_tests::dialogue::Dialogue;
use postroad_tests::sink::{Received, Sink};
use postroad_tests::site::{CREDENTIALS, Settings, Site};

use crate::kept;

/// Every ending of data that some server has taken for CRLF.CRLF.
const ENDINGS: &[&str] = &[
    "\n.\n",
    "\n.\r\n",
    "\r\n.\n",
    "\r.\r",
    "\r.\r\n",
    "\r\n.\r",
    "\n.\r",
    "\r.\n",
    "\r\n\0.\r\n",
    "\r\n.\0\r\n",
    "\r\r\n.\r\r\n",
    "\r\n.\r\r\n",
    "\r\n\r.\r\n",
    "\n\n.\n\n",
    "\r\n.\r\0\n",
];

const SMUGGLED: &str = "MAIL FROM:<evil@evil.test>\r\nRCPT TO:<victim@box.test>\r\nDATA\r\nSubject: smuggled\r\n\r\nowned\r\n.\r\n";

#[tokio::test]
async fn no_ending_but_the_real_one() {
    let site = Site::new();
    let (service, address) = kept::relay(&site, "").await;
    for ending in ENDINGS {
        let mut dialogue = Dialogue::open(address).await.unwrap();
        dialogue.say("MAIL FROM:<a@b.test>", "250").await.unwrap();
        dialogue.say("RCPT TO:<c@box.test>", "250").await.unwrap();
        dialogue.say("DATA", "354").await.unwrap();
        // What follows the false ending is data up to the true one, at the end of SMUGGLED.
        dialogue
            .send(format!("Subject: x\r\n\r\nhello{ending}{SMUGGLED}QUIT\r\n"))
            .await
            .unwrap();
        let rest = dialogue.rest().await.unwrap();
        assert!(rest.starts_with("554 5.6.0"), "{ending:?}: {rest}");
        // A bare newline ends the session; a NUL only the message, so that QUIT is answered.
        let more: Vec<_> = rest.lines().skip(1).collect();
        assert!(
            more.is_empty() || more == ["221 2.0.0 Bye"] && ending.contains('\0'),
            "{ending:?}: {rest}"
        );
    }
    assert_eq!(site.queued("relay").await.unwrap(), 0);
    assert!(service.terminate().await.unwrap().success());
}

#[tokio::test]
async fn nothing_crosses_the_handshake() {
    let site = Site::new();
    let address = site.port();
    let settings = Settings {
        listeners: vec![("relay", address, "starttls")],
        domains: &["box.test"],
        ..Settings::default()
    };
    let _service = site
        .start("postroad-relay", "relay", &settings)
        .await
        .unwrap();
    let mut dialogue = Dialogue::open(address).await.unwrap();
    dialogue
        .send("STARTTLS\r\nNOOP\r\nMAIL FROM:<evil@evil.test>\r\n")
        .await
        .unwrap();
    dialogue.expect("220 2.0.0").await.unwrap();
    let mut dialogue = dialogue.tls().await.unwrap();
    // Neither the injected commands nor the EHLO from before the handshake count.
    dialogue
        .say("MAIL FROM:<a@b.test>", "503 5.5.1")
        .await
        .unwrap();
    dialogue.say("EHLO client.test", "250").await.unwrap();
    dialogue
        .say("RCPT TO:<c@box.test>", "503 5.5.1")
        .await
        .unwrap();
    dialogue.say("STARTTLS", "503 5.5.1").await.unwrap();
    dialogue.say("QUIT", "221").await.unwrap();
    assert_eq!(dialogue.rest().await.unwrap(), "");
}

/// The one message to each of two next hops, one that takes BDAT and one that does not.
fn pair(received: &[Received], number: usize) -> &Received {
    let subject = format!("\r\nSubject: {number}\r\n");
    let mut found = received
        .iter()
        .filter(|m| String::from_utf8_lossy(&m.data).contains(&subject));
    let first = found.next().unwrap();
    assert!(found.next().is_none(), "two messages with {subject}");
    first
}

/// Bare newlines of an authenticated user are mended, and none leaves, by DATA or by BDAT.
#[tokio::test]
async fn what_leaves_has_only_crlf() {
    let site = Site::new();
    site.add_user().await.unwrap();
    let (bdat, data) = (
        Sink::start(site.port()).await,
        Sink::start(site.port()).await,
    );
    data.hide("CHUNKING");
    let address = site.port();
    let settings = Settings {
        listeners: vec![("submission", address, "implicit")],
        routes: vec![
            ("*@bdat.test", format!("smtp://{}", bdat.address())),
            ("*@data.test", format!("smtp://{}", data.address())),
        ],
        limits: "error_delay = \"0s\"",
        ..Settings::default()
    };
    let _service = site
        .start("postroad-submission", "submission", &settings)
        .await
        .unwrap();
    let mut dialogue = Dialogue::open_tls(address).await.unwrap();
    dialogue
        .say(&format!("AUTH PLAIN {CREDENTIALS}"), "235 2.7.0")
        .await
        .unwrap();
    let mut sent = Vec::new();
    for (number, ending) in ENDINGS.iter().chain(&["a\nb", "a\rb"]).enumerate() {
        dialogue
            .say("MAIL FROM:<alice@home.test>", "250")
            .await
            .unwrap();
        for to in ["x@bdat.test", "x@data.test"] {
            dialogue
                .say(&format!("RCPT TO:<{to}>"), "250")
                .await
                .unwrap();
        }
        dialogue.say("DATA", "354").await.unwrap();
        // The text ends in what would be a transaction of its own, if the ending were one.
        let text = format!("Subject: {number}\r\n\r\nbefore{ending}{SMUGGLED}");
        dialogue.send(text).await.unwrap();
        if ending.contains('\0') {
            dialogue.expect("554 5.6.0").await.unwrap();
        } else {
            dialogue.expect("250 2.0.0").await.unwrap();
            sent.push((number, ending));
        }
    }
    let (by_bdat, by_data) = (
        bdat.wait_for(sent.len()).await,
        data.wait_for(sent.len()).await,
    );
    assert_eq!((by_bdat.len(), by_data.len()), (sent.len(), sent.len()));
    for (number, ending) in sent {
        let (chunk, dotted) = (pair(&by_bdat, number), pair(&by_data, number));
        assert_eq!(chunk.to, ["x@bdat.test"], "{ending:?}");
        assert_eq!(dotted.to, ["x@data.test"], "{ending:?}");
        assert!(chunk.wire.is_empty() && !dotted.wire.is_empty());
        let text = String::from_utf8(chunk.data.clone()).unwrap();
        assert!(
            text.contains("MAIL FROM:<evil@evil.test>\r\n") && text.ends_with("owned\r\n"),
            "{ending:?}: {text:?}"
        );
        let bare = text.replace("\r\n", "");
        assert!(
            !bare.contains('\r') && !bare.contains('\n'),
            "{ending:?}: {text:?}"
        );
        assert_eq!(chunk.data, dotted.data, "{ending:?}");
        // On the wire every line that begins with a dot has one more.
        let stuffed: String = text
            .split_inclusive("\r\n")
            .map(|line| {
                if line.starts_with('.') {
                    format!(".{line}")
                } else {
                    line.to_owned()
                }
            })
            .collect();
        assert_eq!(String::from_utf8_lossy(&dotted.wire), stuffed, "{ending:?}");
    }
}
