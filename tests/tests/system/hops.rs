//! Next hops that lack an extension: what a message needs of them, and what it does without.

use postroad_tests::peers::{Security, Submission, parse_dsn};
use postroad_tests::sink::{Received, Sink};

use crate::world::World;

fn text(message: &Received) -> String {
    String::from_utf8(message.data.clone()).unwrap()
}

/// A server from before 1995 knows neither EHLO nor parameters.
#[tokio::test]
async fn one_that_knows_helo_only() {
    let world = World::new("").await;
    let sink = world.domain("old.test").await;
    sink.reply_always("EHLO", "500 5.5.1 what?");
    world
        .send(&["<bob@old.test>", "<ann@old.test>"], " BODY=7BIT RET=HDRS")
        .await;
    let message = sink.wait_for(1).await.remove(0);
    assert_eq!(message.hello, "HELO relay.test");
    assert_eq!(
        message.commands,
        [
            "MAIL FROM:<me@sender.test>",
            "RCPT TO:<bob@old.test>",
            "RCPT TO:<ann@old.test>"
        ]
    );
    assert!(!message.pipelined && !message.wire.is_empty());
    assert!(text(&message).ends_with("\r\n\r\nhello\r\n"));
}

/// Commands travel in groups where that is offered, else each waits for the reply to the last.
#[tokio::test]
async fn one_without_pipelining() {
    let world = World::new("").await;
    for hidden in [&["PIPELINING"][..], &["PIPELINING", "CHUNKING"]] {
        let name = format!("step{}.test", hidden.len());
        let sink = world.domain(&name).await;
        for extension in hidden {
            sink.hide(extension);
        }
        sink.reply_once("RCPT", "550 5.1.1 no such user");
        let to = ["ann", "bob", "eve"].map(|user| format!("<{user}@{name}> NOTIFY=NEVER"));
        world.send(&to.each_ref().map(String::as_str), "").await;
        let message = sink.wait_for(1).await.remove(0);
        assert_eq!(message.to.len(), 2, "{message:?}");
        assert!(!message.pipelined, "{hidden:?}");
        assert_eq!(message.wire.is_empty(), hidden.len() == 1);
    }
    // That the sink can tell is shown by one that offers it.
    for hidden in [&[][..], &["CHUNKING"]] {
        let name = format!("group{}.test", hidden.len());
        let sink = world.domain(&name).await;
        for extension in hidden {
            sink.hide(extension);
        }
        world.send(&[&format!("<bob@{name}>")], "").await;
        assert!(sink.wait_for(1).await[0].pipelined, "{hidden:?}");
    }
}

/// Sends with Python's smtplib to the relay of a world.
async fn by_python(world: &World, to: &str, message: &str, options: &[&str]) {
    let mail = Submission {
        server: world.address,
        security: Security::StartTls,
        login: None,
        from: "me@sender.test",
        to: &[to],
        message,
    };
    let finished = mail.by_python(options).await.unwrap().succeeded();
    assert_eq!(finished.output, "", "a recipient was refused");
}

async fn bounce_status(world: &World) -> String {
    let notices = world.sender.wait_for(1).await;
    let parsed = parse_dsn(&notices[0].data).await.unwrap();
    assert_eq!(parsed["recipients"][0]["action"], "failed");
    parsed["recipients"][0]["status"]
        .as_str()
        .unwrap()
        .to_owned()
}

const UTF8: &str =
    "From: me@sender.test\nTo: b\u{fc}cher@utf8.test\nSubject: Gr\u{fc}\u{df}e\n\nsch\u{f6}n\n";

async fn utf8_sink(world: &World) -> Sink {
    world.domain("utf8.test").await
}

#[tokio::test]
async fn smtputf8_where_it_is_offered() {
    let world = World::new("").await;
    let sink = utf8_sink(&world).await;
    by_python(
        &world,
        "b\u{fc}cher@utf8.test",
        UTF8,
        &["SMTPUTF8", "BODY=8BITMIME"],
    )
    .await;
    let message = sink.wait_for(1).await.remove(0);
    assert_eq!(message.to, ["b\u{fc}cher@utf8.test"]);
    assert!(
        message.commands[0].contains(" SMTPUTF8"),
        "{:?}",
        message.commands
    );
    let text = text(&message);
    assert!(
        text.contains("\r\nSubject: Gr\u{fc}\u{df}e\r\n") && text.ends_with("sch\u{f6}n\r\n"),
        "{text}"
    );
}

#[tokio::test]
async fn smtputf8_where_it_is_not() {
    let world = World::new("").await;
    let sink = utf8_sink(&world).await;
    sink.hide("SMTPUTF8");
    by_python(
        &world,
        "b\u{fc}cher@utf8.test",
        UTF8,
        &["SMTPUTF8", "BODY=8BITMIME"],
    )
    .await;
    assert_eq!(bounce_status(&world).await, "5.6.7");
    assert!(sink.received().is_empty());
}

const EIGHT_BIT: &str = "From: me@sender.test\nTo: bob@eight.test\nSubject: eight\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\nsch\u{f6}n\n";

#[tokio::test]
async fn eight_bits_where_they_are_offered() {
    let world = World::new("").await;
    let sink = world.domain("eight.test").await;
    by_python(&world, "bob@eight.test", EIGHT_BIT, &["BODY=8BITMIME"]).await;
    let message = sink.wait_for(1).await.remove(0);
    assert!(
        message.commands[0].contains(" BODY=8BITMIME"),
        "{:?}",
        message.commands
    );
    assert!(text(&message).ends_with("\r\n\r\nsch\u{f6}n\r\n"));
}

#[tokio::test]
async fn eight_bits_where_they_are_not() {
    let world = World::new("").await;
    let sink = world.domain("eight.test").await;
    sink.hide("8BITMIME");
    by_python(&world, "bob@eight.test", EIGHT_BIT, &["BODY=8BITMIME"]).await;
    assert_eq!(bounce_status(&world).await, "5.6.3");
    assert!(sink.received().is_empty());
}
