//! The socketmap client against servers of all tempers, one in Python, and Postfix's own client.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a panic is the failure"
)]

mod kit;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kit::said;
use postroad_lookup::{GuardOptions, SharedTable, SocketAddress, SocketmapTable};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::Semaphore;

fn table(at: &str, connections: usize) -> SharedTable {
    let table = SocketmapTable::new(at.parse().unwrap(), "routes", connections).unwrap();
    SharedTable::new(table).guarded(GuardOptions {
        failures: u32::MAX,
        ..GuardOptions::default()
    })
}

/// Reads one question; `None`: the client has gone.
async fn question(stream: &mut TcpStream) -> Option<String> {
    let mut length = 0;
    loop {
        match stream.read_u8().await.ok()? {
            b':' => break,
            digit => length = length * 10 + usize::from(digit - b'0'),
        }
    }
    let mut content = vec![0; length + 1];
    stream.read_exact(&mut content).await.ok()?;
    assert_eq!(content.pop(), Some(b','));
    Some(String::from_utf8(content).unwrap())
}

/// A server that sends, for the question `routes KEY`, what `answer` makes of the key, and closes
/// where that is nothing.
async fn server(answer: impl Fn(&str) -> String + Clone + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                while let Some(question) = question(&mut stream).await {
                    let answer = answer(question.strip_prefix("routes ").unwrap());
                    if answer.is_empty() || stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    at
}

fn netstring(content: &str) -> String {
    format!("{}:{content},", content.len())
}

#[tokio::test]
async fn answers() {
    let at = server(|key| match key {
        "ok@x" => netstring("OK smtp://a:25, smtp://b:25"),
        "\u{fc}@x" => netstring("OK \u{fc}"),
        "none@x" => netstring("NOTFOUND "),
        "temp@x" => netstring("TEMP try \u{1b}[1mlater"),
        "timeout@x" => netstring("TIMEOUT slow"),
        "perm@x" => netstring("PERM no such map"),
        "what@x" => netstring("MAYBE x"),
        "long@x" => netstring(&format!("OK {}", "x".repeat(99_997))),
        "longer@x" => netstring(&format!("OK {}", "x".repeat(99_998))),
        "garbage@x" => "HTTP/1.1 400 Bad Request\r\n\r\n".to_owned(),
        "comma@x" => "2:OK;".to_owned(),
        "two@x" => netstring("OK a") + &netstring("OK b"),
        _ => String::new(),
    })
    .await;
    let table = table(&at, 1);
    assert_eq!(table.name(), format!("socketmap {at} routes"));
    for (key, expected) in [
        ("ok@x", "smtp://a:25, smtp://b:25"),
        ("\u{fc}@x", "\u{fc}"),
        ("none@x", "-"),
        ("temp@x", "later: it says: try \\u{1b}[1mlater"),
        ("timeout@x", "later: it says: slow"),
        ("perm@x", "wrong: it says: no such map"),
        ("what@x", "wrong: `MAYBE x`; expected OK, NOTFOUND"),
        ("longer@x", "wrong: a netstring of more than 100000 octets"),
        ("garbage@x", "wrong: a length was expected"),
        ("comma@x", "wrong: no comma behind a netstring"),
        ("two@x", "wrong: more than was asked for"),
        ("closes@x", "later: the connection broke"),
        // After each of them, the next question is answered.
        ("ok@x", "smtp://a:25, smtp://b:25"),
    ] {
        let said = said(&table, key).await;
        assert!(said.starts_with(expected), "{key}: {said}");
    }
    assert_eq!(said(&table, "long@x").await.len(), 99_997);
    let long = said(&table, &"x".repeat(100_000)).await;
    assert!(long.starts_with("wrong: a question of more than"), "{long}");
}

/// A server that tells how many connections it was asked for, and closes each behind its first answer
/// where it is told to.
async fn counted(close: bool) -> (String, Arc<AtomicUsize>, Arc<Semaphore>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let (opened, answers) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let (count, may) = (Arc::clone(&opened), Arc::clone(&answers));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let may = Arc::clone(&may);
            tokio::spawn(async move {
                while question(&mut stream).await.is_some() {
                    may.acquire().await.unwrap().forget();
                    stream.write_all(b"4:OK x,").await.unwrap();
                    if close {
                        return;
                    }
                }
            });
        }
    });
    (at, opened, answers)
}

#[tokio::test]
async fn connections_are_kept_and_bounded() {
    let (at, opened, answers) = counted(false).await;
    let table = table(&at, 3);
    let lookups = (0..50).map(|_| {
        let table = table.clone();
        tokio::spawn(async move { said(&table, "k").await })
    });
    let lookups: Vec<_> = lookups.collect();
    answers.add_permits(50);
    for lookup in lookups {
        assert_eq!(lookup.await.unwrap(), "x");
    }
    let opened = opened.load(Ordering::SeqCst);
    assert!((1..=3).contains(&opened), "{opened}");
}

#[tokio::test]
async fn a_stale_connection_is_made_anew() {
    let (at, opened, answers) = counted(true).await;
    let table = table(&at, 1);
    answers.add_permits(10);
    for lookups in 1..=5 {
        assert_eq!(said(&table, "k").await, "x");
        assert_eq!(opened.load(Ordering::SeqCst), lookups);
    }
}

#[tokio::test]
async fn what_is_given_up_is_not_taken_for_the_next() {
    let (at, opened, answers) = counted(false).await;
    let table = table(&at, 1);
    let given_up = {
        let table = table.clone();
        tokio::spawn(async move { said(&table, "first").await })
    };
    while opened.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    given_up.abort();
    assert!(given_up.await.unwrap_err().is_cancelled());
    answers.add_permits(2);
    assert_eq!(said(&table, "second").await, "x");
    assert_eq!(opened.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn nobody_there() {
    let free = kit::free_port();
    let said_tcp = said(&table(&format!("127.0.0.1:{free}"), 1), "k").await;
    assert!(said_tcp.contains("is the server running"), "{said_tcp}");
    let said_unix = said(&table("unix:/nonexistent/socket", 1), "k").await;
    assert!(
        said_unix.starts_with("later: connecting to unix:/nonexistent"),
        "{said_unix}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hangs() {
    // Takes the connection, and the question, and says nothing.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let table = table(&listener.local_addr().unwrap().to_string(), 1);
    let start = tokio::time::Instant::now();
    for _ in 0..2 {
        assert_eq!(said(&table, "k").await, "later: no answer within 5s");
    }
    assert_eq!(start.elapsed(), Duration::from_secs(10));
}

const PYTHON: &str = r#"
import socketserver, sys
VALUES = {"routes bob@example.org": "smtp://10.0.0.5:25"}
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        while True:
            length = b""
            while (octet := self.rfile.read(1)) not in (b":", b""):
                length += octet
            if not octet:
                return
            request = self.rfile.read(int(length)).decode()
            assert self.rfile.read(1) == b","
            value = VALUES.get(request)
            reply = ("OK " + value if value else "NOTFOUND ").encode()
            self.wfile.write(b"%d:%s," % (len(reply), reply))
server = socketserver.ThreadingUnixStreamServer(sys.argv[1], Handler)
server.daemon_threads = True
print("listens", file=sys.stderr, flush=True)
server.serve_forever()
"#;

#[tokio::test]
async fn python_serves() {
    let directory = kit::directory();
    let socket = directory.path().join("map.sock");
    let script = kit::write(directory.path().join("server.py"), PYTHON);
    let mut python = Command::new("python3");
    let _server = kit::Running::start(python.arg(script).arg(&socket), "listens");
    let table = table(&format!("unix:{}", socket.display()), 2);
    for _ in 0..3 {
        assert_eq!(said(&table, "bob@example.org").await, "smtp://10.0.0.5:25");
        assert_eq!(said(&table, "alice@example.org").await, "-");
    }
}

/// What we take for the protocol is what Postfix's own client does: it asks, and takes these answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postmap_asks() {
    let directory = kit::directory();
    let path = directory.path().join("map.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = tokio::spawn(async move {
        let mut asked = Vec::new();
        for answer in ["OK smtp:[10.0.0.5]", "NOTFOUND ", "TEMP later"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut octets = vec![0; 100];
            let length = stream.read(&mut octets).await.unwrap();
            asked.push(String::from_utf8_lossy(&octets[..length]).into_owned());
            stream
                .write_all(netstring(answer).as_bytes())
                .await
                .unwrap();
        }
        asked
    });
    let map = format!("socketmap:unix:{}:routes", path.display());
    let etc = directory.path().join("etc");
    std::fs::create_dir(&etc).unwrap();
    kit::write(etc.join("main.cf"), "compatibility_level = 3.6\n");
    let postmap = move |key: &str| {
        let mut command = Command::new("postmap");
        command.args(["-c", &etc.to_string_lossy(), "-q", key, &map]);
        let output = command.output().expect("is the package postfix installed?");
        let found = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (output.status.success(), found)
    };
    let answers = tokio::task::spawn_blocking(move || {
        ["bob@example.org", "alice@example.org", "carol@example.org"].map(&postmap)
    });
    let answers = answers.await.unwrap();
    assert_eq!(answers[0], (true, "smtp:[10.0.0.5]".to_owned()));
    assert_eq!(answers[1], (false, String::new()));
    assert!(!answers[2].0);
    assert_eq!(
        server.await.unwrap(),
        [
            "22:routes bob@example.org,",
            "24:routes alice@example.org,",
            "24:routes carol@example.org,"
        ]
    );
    let address: SocketAddress = format!("unix:{}", path.display()).parse().unwrap();
    assert_eq!(address, SocketAddress::Unix(path));
}
