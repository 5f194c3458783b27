//! Other makers' servers as next hops.

use postroad_tests::dovecot::{BROKEN, Dovecot};
use postroad_tests::exim::Exim;
use postroad_tests::peers::parse_dsn;
use postroad_tests::postfix::{Postfix, Settings};
use postroad_tests::process::{free_port, loopback};
use postroad_tests::site::{PASSWORD, Site, USER};

use crate::world::World;

/// One recipient is there, one is not, and of one the mailbox is broken: a fate for each, by TCP
/// and over a Unix socket.
#[tokio::test]
async fn a_dovecot_by_lmtp() {
    let mut dovecot = Dovecot::start(free_port(loopback())).unwrap();
    let routes = format!(
        "[[route]]\nrecipient = \"tcp.test\"\nvia = \"lmtp://{}\"\n\n[[route]]\nrecipient = \"unix.test\"\nvia = \"lmtp+unix://{}\"\n",
        dovecot.address(),
        dovecot.socket().display()
    );
    let world = World::configured(Site::new(), &routes).await;
    for (nth, domain) in ["tcp.test", "unix.test"].into_iter().enumerate() {
        let to = [USER, BROKEN, "nobody"].map(|user| format!("<{user}@{domain}>"));
        world.send(&to.each_ref().map(String::as_str), "").await;
        let mail = dovecot.wait_for_mail(USER, nth + 1).unwrap();
        assert!(
            mail.iter()
                .all(|m| String::from_utf8_lossy(m).contains("\nhello\n"))
        );
        let line = world
            .log(&["deferred", &format!("{BROKEN}@{domain}")])
            .await;
        assert!(line.contains("451 4.2.0"), "{line}");
        let notices = world.sender.wait_for(nth + 1).await;
        let dsn = parse_dsn(&notices[nth].data).await.unwrap();
        let recipients = dsn["recipients"].as_array().unwrap();
        assert_eq!(recipients.len(), 1, "{recipients:?}");
        let about = format!("rfc822; nobody@{domain}");
        assert_eq!(recipients[0]["final-recipient"], about);
        assert_eq!(recipients[0]["status"], "5.1.1");
        world.log(&["delivered", &format!("{USER}@{domain}")]).await;
    }
    // Those who have it do not get it again with the others' next attempt.
    world
        .relay
        .log()
        .wait_for_many(2, &["deferred", BROKEN, "tcp.test"])
        .await
        .unwrap();
    assert_eq!(dovecot.wait_for_mail(USER, 2).unwrap().len(), 2);
}

#[tokio::test]
async fn an_exim() {
    let site = Site::new();
    let address = free_port(loopback());
    let mut exim = Exim::start(address, "box.test", site.certificate()).unwrap();
    let route = format!("[[route]]\nrecipient = \"box.test\"\nvia = \"smtp://{address}\"\n");
    let world = World::configured(site, &route).await;
    world
        .send(&["<bob@box.test>", "<nobody@box.test>"], "")
        .await;
    let mail = exim.wait_for_mail(1).unwrap().remove(0);
    let text = String::from_utf8(mail).unwrap();
    assert!(
        text.contains("\nhello\n") && text.contains("helo=relay.test"),
        "{text}"
    );
    let line = world.log(&["delivered", "bob@box.test"]).await;
    assert!(line.contains("TLS1."), "{line}");
    let (_, dsn) = world.notice().await;
    assert_eq!(dsn["recipients"].as_array().unwrap().len(), 1);
    let nobody = &dsn["recipients"][0];
    assert_eq!(nobody["final-recipient"], "rfc822; nobody@box.test");
    assert!(
        nobody["diagnostic-code"]
            .as_str()
            .unwrap()
            .contains("no such user here")
    );
}

/// A Postfix that takes mail under TLS after a login only, by such mechanisms.
fn smarthost(site: &Site, dovecot: &Dovecot, mechanisms: &str) -> Postfix {
    let more = format!(
        "mynetworks =
smtpd_tls_auth_only = yes
smtpd_tls_received_header = yes
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = {}
smtpd_sasl_security_options = noanonymous
smtpd_sasl_mechanism_filter = {mechanisms}
smtpd_sasl_authenticated_header = yes
smtpd_client_restrictions = permit_sasl_authenticated, reject
smtpd_relay_restrictions = permit_sasl_authenticated, reject
",
        dovecot.passwords().display()
    );
    let settings = Settings {
        domain: "box.test",
        tls: Some(site.certificate()),
        more: &more,
        ..Settings::default()
    };
    Postfix::start(free_port(loopback()), &settings).unwrap()
}

/// What a smarthost knows of its client is what the route says: login, address and name.
#[tokio::test]
async fn a_postfix_that_wants_a_login() {
    let dovecot = Dovecot::start(free_port(loopback())).unwrap();
    for mechanisms in ["plain", "login"] {
        let site = Site::new();
        let postfix = smarthost(&site, &dovecot, mechanisms);
        let (source, host) = (loopback(), postfix.address());
        std::fs::write(site.path("password"), format!("{PASSWORD}\n")).unwrap();
        let route = format!(
            "[[route]]\nrecipient = \"box.test\"\nvia = \"smtp://{host}\"\ntls = \"require\"\nsource = \"{source}\"\nhelo = \"out.relay.test\"\nauth = {{ user = \"{USER}\", password = {{ file = \"password\" }} }}\n"
        );
        let world = World::configured(site, &route).await;
        world.send(&["<bob@box.test>"], "").await;
        let mail = tokio::task::spawn_blocking(move || postfix.wait_for_mail(1));
        let mail = mail.await.unwrap().unwrap().remove(0);
        let text = String::from_utf8(mail).unwrap().replace("\n\t", " ");
        let received = text
            .lines()
            .find(|l| l.contains("by postfix.test"))
            .unwrap();
        assert!(
            received.contains(&format!("from out.relay.test (unknown [{source}])")),
            "{received}"
        );
        assert!(
            received.contains(&format!("(Authenticated sender: {USER}")),
            "{received}"
        );
        assert!(received.contains("using TLSv1."), "{received}");
    }
}

/// That our login is wrong is no fault of the mail.
#[tokio::test]
async fn a_postfix_that_refuses_the_login() {
    let dovecot = Dovecot::start(free_port(loopback())).unwrap();
    let site = Site::new();
    let postfix = smarthost(&site, &dovecot, "plain");
    let route = format!(
        "[[route]]\nrecipient = \"box.test\"\nvia = \"smtp://{}\"\nauth = {{ user = \"{USER}\", password = \"wrong\" }}\n",
        postfix.address()
    );
    let world = World::configured(site, &route).await;
    world.send(&["<bob@box.test>"], "").await;
    let line = world.log(&["deferred", "bob@box.test"]).await;
    assert!(line.contains("535 5.7.8"), "{line}");
    assert!(
        world
            .relay
            .log()
            .lines()
            .iter()
            .all(|l| !l.contains("wrong\""))
    );
    assert!(world.sender.received().is_empty());
}
