//! The kit itself: the peers work without us.

use postroad_tests::peers::{Security, Submission};
use postroad_tests::postfix::{Postfix, Settings};
use postroad_tests::process::{free_port, loopback};

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
