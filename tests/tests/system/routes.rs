//! Routes with several hosts, and routes from tables, through the whole service.

use std::net::SocketAddr;

use postroad_tests::daemon::Daemon;
use postroad_tests::postgres::{self, Postgres};
use postroad_tests::process::{free_port, loopback};
use postroad_tests::sink::Sink;
use postroad_tests::site::Site;
use postroad_tests::slapd::{self, Slapd};
use postroad_tests::socketmap::Socketmap;

use crate::world::World;

async fn sink() -> Sink {
    Sink::start(free_port(loopback())).await
}

/// `smtp://` and where it listens.
fn via(address: SocketAddr) -> String {
    format!("smtp://{address}")
}

/// Lower preferences first; among equals those with a weight.
#[tokio::test]
async fn hosts_in_order() {
    const MESSAGES: usize = 10;
    let (dead, best, light, last) = (
        free_port(loopback()),
        sink().await,
        sink().await,
        sink().await,
    );
    let route = format!(
        "[[route]]\nrecipient = \"list.test\"\nvia = [\"{} preference=1\", \"{} preference=10 weight=3\", \"{} preference=10 weight=0\", \"{} preference=20\"]\n",
        via(dead),
        via(best.address()),
        via(light.address()),
        via(last.address())
    );
    let world = World::configured(Site::new(), &route).await;
    for n in 0..MESSAGES {
        world.send(&[&format!("<user{n}@list.test>")], "").await;
    }
    let all = best.wait_for(MESSAGES).await;
    assert_eq!(all.len(), MESSAGES);
    assert!(light.received().is_empty() && last.received().is_empty());
    // Where the best does not take it now, the next does.
    // The connection that is open is told so too.
    for host in [&best, &light] {
        host.reply_always("GREETING", "421 4.3.2 down");
        host.reply_always("MAIL", "421 4.3.2 down");
    }
    for n in 0..MESSAGES {
        world.send(&[&format!("<late{n}@list.test>")], "").await;
    }
    last.wait_for(MESSAGES).await;
    assert_eq!(best.received().len(), MESSAGES);
}

/// A table is read again when it has changed; while it has a mistake, it stays what it was.
#[tokio::test]
async fn a_table_of_routes() {
    /// The file is looked at once a second, and a lookup starts that.
    const SENT_MAX: usize = 2000;
    let site = Site::new();
    let (first, second) = (sink().await, sink().await);
    let file = site.path("routes.txt");
    let write = |text: String| std::fs::write(&file, text).unwrap();
    write(format!(
        "# Where it goes.\ntable.test {}\n",
        via(first.address())
    ));
    let route = "[[route]]\ntable = \"routes.txt\"\n";
    let world = World::configured(site, route).await;
    world.send(&["<bob@table.test>"], "").await;
    first.wait_for(1).await;
    // What is in no line goes by MX.
    let other = world.domain("other.test").await;
    world.send(&["<bob@other.test>"], "").await;
    other.wait_for(1).await;

    write(format!("table.test {}\n", via(second.address())));
    let mut sent = 1;
    while second.received().is_empty() {
        assert!(sent < SENT_MAX, "the table is not read again");
        world.send(&["<bob@table.test>"], "").await;
        sent += 1;
        while first.received().len() + second.received().len() < sent {
            tokio::task::yield_now().await;
        }
    }
    world
        .log(&["a table file has changed", "in force", "routes.txt"])
        .await;

    write(format!(
        "other.test {}\ntable.test nowhere://\n",
        via(first.address())
    ));
    let (before, other_before) = (second.received().len(), other.received().len());
    for _ in 0..SENT_MAX {
        let lines = world.relay.log().lines();
        if lines
            .iter()
            .any(|l| l.contains("cannot be used") && l.contains("routes.txt"))
        {
            break;
        }
        world.send(&["<bob@table.test>"], "").await;
    }
    let line = world.log(&["ERROR", "routes.txt"]).await;
    assert!(
        line.contains("routes.txt:2") && line.contains("nowhere"),
        "{line}"
    );
    world
        .send(&["<bob@table.test>", "<bob@other.test>"], "")
        .await;
    second.wait_for(before + 1).await;
    other.wait_for(other_before + 1).await;
    assert_eq!(first.received().len() + before, sent);
}

/// Found, not found, and not to be had: then mail waits, and no other route is asked.
#[tokio::test]
async fn a_socketmap() {
    let map = Socketmap::start(free_port(loopback())).await;
    let found = sink().await;
    let route = format!(
        "[[route]]\nrecipient = \"*.map.test\"\ntable = {{ kind = \"socketmap\", socket = \"{}\", map = \"routes\", cache = \"0s\", cache_negative = \"0s\", timeout = \"2s\" }}\n\n[[route]]\nrecipient = \"*.map.test\"\nvia = \"reject 5.7.1 never asked\"\n",
        map.address()
    );
    map.put(
        "routes",
        "found.map.test",
        &format!("OK {}", via(found.address())),
    );
    map.put(
        "routes",
        "bob@person.map.test",
        &format!("OK {}", via(found.address())),
    );
    map.put("routes", "temp.map.test", "TEMP the database sleeps");
    let world = World::configured(Site::new(), &route).await;
    world
        .send(&["<bob@found.map.test>", "<bob@person.map.test>"], "")
        .await;
    let to: Vec<_> = found
        .wait_for(1)
        .await
        .into_iter()
        .flat_map(|m| m.to)
        .collect();
    assert!(to.contains(&"bob@found.map.test".to_owned()), "{to:?}");
    world.send(&["<bob@temp.map.test>"], "").await;
    let line = world.log(&["deferred", "bob@temp.map.test"]).await;
    assert!(line.contains("451 4.4.3"), "{line}");
    drop(map);
    world.send(&["<ann@found.map.test>"], "").await;
    let line = world.log(&["deferred", "ann@found.map.test"]).await;
    assert!(line.contains("451 4.4.3"), "{line}");
    assert!(world.sender.received().is_empty(), "a bounce");
}

/// A service as a site would write it.
const ROUTE_SERVICE: &str = r#"
import http.server, json, sys

class Routes(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, answer = 404, {}
        if self.headers.get("Authorization") != "Bearer sesame":
            status = 401
        elif asked["key"] == "found.web.test":
            status, answer = 200, {"values": [sys.argv[2]]}
        elif asked["key"] == "temp.web.test":
            status = 503
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

host, port = sys.argv[1].rsplit(":", 1)
http.server.HTTPServer((host, int(port)), Routes).serve_forever()
"#;

/// A service over HTTP; what it does not know is for the next route, what it cannot say waits.
#[tokio::test]
async fn a_web_service() {
    let (found, next) = (sink().await, sink().await);
    let address = free_port(loopback());
    let mut service = Daemon::prepare("python3").unwrap();
    let arguments = [address.to_string(), via(found.address())];
    let mut command = std::process::Command::new("python3");
    command.arg("-c").arg(ROUTE_SERVICE).args(&arguments);
    service
        .start(&mut command, || {
            std::net::TcpStream::connect(address).is_ok()
        })
        .unwrap();
    let table = |token: &str| {
        format!(
            "[[route]]\nrecipient = \"*.web.test\"\ntable = {{ kind = \"http\", url = \"http://{address}/\", token = \"{token}\", cache = \"0s\", cache_negative = \"0s\", timeout = \"2s\" }}\n\n[[route]]\nrecipient = \"*.web.test\"\nvia = \"{}\"\n",
            via(next.address())
        )
    };
    let world = World::configured(Site::new(), &table("sesame")).await;
    world.send(&["<bob@found.web.test>"], "").await;
    world.send(&["<bob@other.web.test>"], "").await;
    assert_eq!(found.wait_for(1).await[0].to, ["bob@found.web.test"]);
    assert_eq!(next.wait_for(1).await[0].to, ["bob@other.web.test"]);
    world.send(&["<bob@temp.web.test>"], "").await;
    let line = world.log(&["deferred", "bob@temp.web.test"]).await;
    assert!(line.contains("451 4.4.3"), "{line}");
    service.stop();
    world.send(&["<ann@found.web.test>"], "").await;
    let line = world.log(&["deferred", "ann@found.web.test"]).await;
    assert!(line.contains("451 4.4.3"), "{line}");
    assert!(world.sender.received().is_empty(), "a bounce");
}

#[tokio::test]
async fn a_directory() {
    let found = sink().await;
    let to = via(found.address());
    let slapd = Slapd::start(free_port(loopback()), &[("bob@ldap.test", &to)]).unwrap();
    let route = format!(
        "[[route]]\nrecipient = \"ldap.test\"\ntable = {{ kind = \"ldap\", url = \"ldap://{}\", base = \"{}\", filter = \"(mail=%s)\", attributes = [\"description\"], bind = \"{}\", password = \"{}\", cache = \"0s\", timeout = \"5s\" }}\n",
        slapd.address(),
        slapd::BASE,
        slapd::BIND,
        slapd::PASSWORD
    );
    let world = World::configured(Site::new(), &route).await;
    world.send(&["<bob@ldap.test>"], "").await;
    assert_eq!(found.wait_for(1).await[0].to, ["bob@ldap.test"]);
    drop(slapd);
    world.send(&["<bob@ldap.test>"], "").await;
    let line = world.log(&["deferred", "bob@ldap.test"]).await;
    assert!(line.contains("451 4.4.3"), "{line}");
    assert!(world.sender.received().is_empty(), "a bounce");
}

#[tokio::test]
async fn a_database() {
    let found = sink().await;
    let mut postgres = Postgres::start(free_port(loopback())).unwrap();
    let statements = format!(
        "CREATE TABLE routes (address text PRIMARY KEY, via text); INSERT INTO routes VALUES ('sql.test', '{}');",
        via(found.address())
    );
    postgres.execute(&statements).unwrap();
    let route = format!(
        "[[route]]\nrecipient = \"sql.test\"\ntable = {{ kind = \"sql\", url = \"{}\", password = \"{}\", query = \"SELECT via FROM routes WHERE address = $1\", cache = \"0s\", timeout = \"5s\" }}\n",
        postgres.url(),
        postgres::PASSWORD
    );
    let world = World::configured(Site::new(), &route).await;
    world.send(&["<bob@sql.test>"], "").await;
    assert_eq!(found.wait_for(1).await[0].to, ["bob@sql.test"]);
    postgres.stop();
    world.send(&["<ann@sql.test>"], "").await;
    let line = world.log(&["deferred", "ann@sql.test"]).await;
    assert!(line.contains("451 4.4.3"), "{line}");
    assert!(world.sender.received().is_empty(), "a bounce");
}
