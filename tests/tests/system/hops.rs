//! Next hops that lack an extension: what a message needs of them, and what it does without.

use postroad_tests::dialogue::Dialogue;
use postroad_tests::peers::{Security, Submission, parse_dsn};
use postroad_tests::programs::run;
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

/// They are written in seven bits there, where nobody has signed them.
#[tokio::test]
async fn eight_bits_where_they_are_not() {
    let world = World::new("").await;
    let sink = world.domain("eight.test").await;
    sink.hide("8BITMIME");
    by_python(&world, "bob@eight.test", EIGHT_BIT, &["BODY=8BITMIME"]).await;
    let message = sink.wait_for(1).await.remove(0);
    assert!(
        !message.commands[0].contains("BODY"),
        "{:?}",
        message.commands
    );
    assert!(message.data.is_ascii());
    let text = text(&message);
    assert!(
        text.contains("\r\nContent-Transfer-Encoding: quoted-printable\r\n"),
        "{text}"
    );
    assert!(!text.contains("Transfer-Encoding: 8bit"), "{text}");
    assert!(text.ends_with("\r\n\r\nsch=C3=B6n\r\n"), "{text}");
}

/// What is signed stays as it is, or comes back.
#[tokio::test]
async fn signed_eight_bits_where_they_are_not() {
    let world = World::new("").await;
    let sink = world.domain("eight.test").await;
    sink.hide("8BITMIME");
    let signed = format!(
        "DKIM-Signature: v=1; a=rsa-sha256; d=sender.test; s=s; h=from; bh=eA==; b=eA==\n{EIGHT_BIT}"
    );
    by_python(&world, "bob@eight.test", &signed, &["BODY=8BITMIME"]).await;
    assert_eq!(bounce_status(&world).await, "5.6.3");
    assert!(sink.received().is_empty());
}

/// MAIL with such parameters, RCPT, and the message in one chunk.
async fn by_chunk(world: &World, parameters: &str, to: &str, message: &[u8]) {
    let mut dialogue = Dialogue::open(world.address).await.unwrap();
    let line = format!("MAIL FROM:<me@sender.test>{parameters}");
    dialogue.say(&line, "250 2.1.0").await.unwrap();
    let line = format!("RCPT TO:<{to}>");
    dialogue.say(&line, "250 2.1.5").await.unwrap();
    let mut chunk = format!("BDAT {} LAST\r\n", message.len()).into_bytes();
    chunk.extend_from_slice(message);
    dialogue.send(chunk).await.unwrap();
    dialogue.expect("250 2.0.0").await.unwrap();
    dialogue.say("QUIT", "221 2.0.0").await.unwrap();
}

/// What stands behind the header that a relay adds: one field, folded or not.
fn behind_received(data: &[u8]) -> &[u8] {
    assert!(data.starts_with(b"Received: "));
    let ends = data.windows(3).position(|three| {
        three.starts_with(b"\r\n") && !three.ends_with(b" ") && !three.ends_with(b"\t")
    });
    &data[ends.unwrap() + 2..]
}

/// A relay mends no message: 8-bit octets in a header, and a line that is too long, go on as they came.
#[tokio::test]
async fn what_is_not_quite_right_is_not_touched() {
    let mut message = b"From: me@sender.test\r\nSubject: Gr\xfc\xdfe\r\nMessage-ID: <1@sender.test>\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\n\r\n".to_vec();
    message.extend([b'x'; 2000]);
    message.extend_from_slice(b"\r\n..dots\r\nend\r\n");
    let world = World::new("").await;
    for hidden in [&[][..], &["CHUNKING"], &["CHUNKING", "PIPELINING"]] {
        let name = format!("raw{}.test", hidden.len());
        let sink = world.domain(&name).await;
        for extension in hidden {
            sink.hide(extension);
        }
        by_chunk(&world, " BODY=8BITMIME", &format!("bob@{name}"), &message).await;
        let received = sink.wait_for(1).await.remove(0);
        assert_eq!(received.wire.is_empty(), hidden.is_empty());
        assert!(
            behind_received(&received.data) == message,
            "{hidden:?}: {:?}",
            String::from_utf8_lossy(&received.data)
        );
    }
}

const BINARY: &[u8] = b"From: me@sender.test\r\nSubject: binary\r\nMIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary\r\nMessage-ID: <1@sender.test>\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\n\r\n\0\x01\n.\n\r.\r\xff\xfe\r\n.\r\n\0no line end";

#[tokio::test]
async fn binary_where_it_is_offered() {
    let world = World::new("").await;
    let sink = world.domain("binary.test").await;
    sink.offer("BINARYMIME");
    by_chunk(&world, " BODY=BINARYMIME", "bob@binary.test", BINARY).await;
    let message = sink.wait_for(1).await.remove(0);
    assert!(
        message.commands[0].contains(" BODY=BINARYMIME"),
        "{:?}",
        message.commands
    );
    assert!(message.wire.is_empty());
    assert_eq!(behind_received(&message.data), BINARY);
}

/// It is written as text where BINARYMIME is not offered, or without CHUNKING, which it needs.
#[tokio::test]
async fn binary_where_it_is_not() {
    for offered in [false, true] {
        let world = World::new("").await;
        let sink = world.domain("binary.test").await;
        if offered {
            sink.offer("BINARYMIME");
            sink.hide("CHUNKING");
        }
        by_chunk(&world, " BODY=BINARYMIME", "bob@binary.test", BINARY).await;
        let message = sink.wait_for(1).await.remove(0);
        assert!(!message.commands[0].contains("BINARYMIME"), "{message:?}");
        assert!(message.data.is_ascii());
        let decode = "import email, sys; m = email.message_from_bytes(sys.stdin.buffer.read()); print(m['Content-Transfer-Encoding'], m.get_payload(decode=True).hex(), end='')";
        let decoded = run("python3", &["-c", decode], &message.data)
            .await
            .unwrap()
            .succeeded();
        let at = BINARY
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap()
            + 4;
        let body: String = BINARY[at..].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(decoded.output, format!("base64 {body}"));
    }
}
