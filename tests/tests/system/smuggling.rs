//! SMTP smuggling, and injection around STARTTLS, at a running service.

use postroad_tests::dialogue::Dialogue;
use postroad_tests::site::{Settings, Site};

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
    let address = site.port();
    let settings = Settings {
        listeners: vec![("relay", address, "none")],
        domains: &["box.test"],
        routes: vec![("*", "defer 4.2.0 held for the test".to_owned())],
        ..Settings::default()
    };
    let service = site
        .start("postroad-relay", "relay", &settings)
        .await
        .unwrap();
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
            more.is_empty() || more == ["221 2.2.0 Bye"] && ending.contains('\0'),
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
