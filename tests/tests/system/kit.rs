//! The kit itself: the peers work without us.

use postroad_tests::dialogue::Dialogue;
use postroad_tests::dovecot::{BROKEN, Dovecot};
use postroad_tests::exim::Exim;
use postroad_tests::peers::{Security, Submission};
use postroad_tests::postfix::{Postfix, Settings};
use postroad_tests::process::{free_port, loopback};
use postroad_tests::site::{Site, USER};

#[tokio::test]
async fn swaks_and_python_reach_a_postfix() {
    let postfix = Postfix::start(
        free_port(loopback()),
        &Settings {
            domain: "box.test",
            ..Settings::default()
        },
    )
    .unwrap();
    let submission = Submission {
        server: postfix.address(),
        security: Security::Plain,
        login: None,
        from: "a@sender.test",
        to: &["b@box.test"],
        message: "Subject: kit\n\nhello\n",
    };
    let _ = submission.by_swaks(&[]).await.unwrap().succeeded();
    let _ = submission.by_python(&[]).await.unwrap().succeeded();
    let mail = tokio::task::spawn_blocking(move || postfix.wait_for_mail(2))
        .await
        .unwrap()
        .unwrap();
    assert!(
        mail.iter()
            .all(|m| String::from_utf8_lossy(m).contains("\nhello\n"))
    );
}

/// LMTP as RFC 2033 has it: a reply for each recipient behind the end of data.
#[tokio::test]
async fn a_dovecot_answers_for_each_recipient() {
    let mut dovecot = Dovecot::start(free_port(loopback())).unwrap();
    let mut dialogue = Dialogue::connect(dovecot.address()).await.unwrap();
    dialogue.expect("220").await.unwrap();
    dialogue.say("LHLO kit.test", "250").await.unwrap();
    dialogue.say("MAIL FROM:<a@b.test>", "250").await.unwrap();
    for (user, reply) in [(USER, "250"), ("nobody", "550 5.1.1"), (BROKEN, "250")] {
        let line = format!("RCPT TO:<{user}@box.test>");
        dialogue.say(&line, reply).await.unwrap();
    }
    dialogue.say("DATA", "354").await.unwrap();
    dialogue
        .say("Subject: kit\r\n\r\nhello\r\n.", "250 2.0.0")
        .await
        .unwrap();
    dialogue.expect("451 4.2.0").await.unwrap();
    dialogue.say("QUIT", "221").await.unwrap();
    let mail = dovecot.wait_for_mail(USER, 1).unwrap();
    assert!(String::from_utf8_lossy(&mail[0]).contains("\nhello\n"));
}

#[tokio::test]
async fn swaks_reaches_an_exim() {
    let site = Site::new();
    let address = free_port(loopback());
    let mut exim = Exim::start(address, "box.test", site.certificate()).unwrap();
    let submission = Submission {
        server: exim.address(),
        security: Security::StartTls,
        login: None,
        from: "a@sender.test",
        to: &["b@box.test"],
        message: "Subject: kit\n\nhello\n",
    };
    let _ = submission.by_swaks(&[]).await.unwrap().succeeded();
    let mail = exim.wait_for_mail(1).unwrap();
    assert!(String::from_utf8_lossy(&mail[0]).contains("\nhello\n"));
}
