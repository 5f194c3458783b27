//! Tests of [`super`].

use super::*;

fn hops(via: Via) -> Vec<Hop> {
    match via {
        Via::Hops(hops) => hops,
        other => panic!("{other:?}"),
    }
}

#[test]
fn hosts() {
    for (text, at, shown) in [
        (
            "smtp://mail.example.org",
            "mail.example.org:25",
            "smtp://mail.example.org:25",
        ),
        (
            "smtps://mail.example.org/",
            "mail.example.org:465",
            "smtps://mail.example.org:465",
        ),
        (
            "smtp://127.0.0.1:2525",
            "[127.0.0.1]:2525",
            "smtp://127.0.0.1:2525",
        ),
        (
            "smtp://[127.0.0.1]",
            "[127.0.0.1]:25",
            "smtp://127.0.0.1:25",
        ),
        ("smtp://[::1]:2525", "[IPv6:::1]:2525", "smtp://[::1]:2525"),
        ("lmtp://127.0.0.1", "[127.0.0.1]:24", "lmtp://127.0.0.1:24"),
        (
            "lmtp://Store.example:2424",
            "store.example:2424",
            "lmtp://store.example:2424",
        ),
        (
            "lmtp+unix:///run/lmtp",
            "/run/lmtp",
            "lmtp+unix:///run/lmtp",
        ),
        (
            "smtp://a weight=0  preference=65535",
            "a:25",
            "smtp://a:25 preference=65535 weight=0",
        ),
        (
            "lmtp+unix:///run/lmtp weight=3",
            "/run/lmtp",
            "lmtp+unix:///run/lmtp weight=3",
        ),
        ("smtp://a preference=0 weight=1", "a:25", "smtp://a:25"),
    ] {
        let hops = hops(text.parse().unwrap());
        let [hop] = hops.as_slice() else {
            panic!("{hops:?}")
        };
        let found = match &hop.at {
            HopAddress::Tcp { host, port } => format!("{}:{port}", host.ascii()),
            HopAddress::Unix(path) => path.display().to_string(),
        };
        // Literals are written in lower case or upper case.
        assert_eq!(found.to_lowercase(), at.to_lowercase(), "{text}");
        assert_eq!(hop.to_string(), shown);
        let again: Via = shown.parse().unwrap();
        assert_eq!(again, Via::Hops(hops), "{shown}");
    }
    let one = hops("lmtp+unix:///run/lmtp weight=3".parse().unwrap()).remove(0);
    assert_eq!((one.protocol, one.implicit_tls), (Protocol::Lmtp, false));
    assert_eq!((one.preference, one.weight), (0, 3));
    assert!(hops("smtps://a".parse().unwrap()).remove(0).implicit_tls);
}

#[test]
fn replies() {
    let shown = |via: &str| match via.parse().unwrap() {
        Via::Reject(reply) | Via::Defer(reply) => reply.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(shown("reject 5.1.1 no such user"), "550 5.1.1 no such user");
    assert_eq!(shown("reject"), "550 5.7.1 Rejected by a route");
    assert_eq!(shown("defer"), "451 4.7.1 Deferred by a route");
    assert_eq!(shown("defer 4.2.0 come back"), "451 4.2.0 come back");
}

#[test]
fn errors_say_what_was_expected() {
    for (bad, hint) in [
        ("", "expected `mx`"),
        ("mix", "expected `mx`"),
        ("mx now", "expected `mx`"),
        ("smtp:a", "`smtp://host:port`"),
        ("lmtp:/run/lmtp", "`lmtp+unix:///path`"),
        ("http://a", "`lmtp://host:port`"),
        ("smtp://", "`mail.example.org:25`"),
        ("smtp:// a", "`mail.example.org:25`"),
        ("smtp://a:0", "`mail.example.org:25`"),
        ("smtp://a:99999", "`mail.example.org:25`"),
        ("smtp://[::1", "`[2001:db8::1]:25`"),
        ("smtp://::1", "`[2001:db8::1]:25`"),
        ("lmtp://[::1]x", "`[2001:db8::1]:25`"),
        ("smtp://a b", "`b` is unknown"),
        ("smtp://a weight", "`weight` is unknown"),
        ("smtp://a weight=x", "`weight=x` is unknown"),
        ("smtp://a weight=65536", "numbers from 0 to 65535"),
        ("smtp://a weight=1 weight=2", "each once"),
        ("smtp://a tls=require", "`tls=require` is unknown"),
        ("lmtp+unix://run/lmtp", "`lmtp+unix:///run/dovecot/lmtp`"),
        ("lmtp+unix:///run/", "an absolute path"),
        ("lmtp+unix://", "`mail.example.org:25`"),
        ("reject 4.1.1 x", "5.x.y"),
        ("defer 5.1.1 x", "4.x.y"),
        ("defer come back", "4.x.y"),
        ("reject 550 5.1.1 x", "5.x.y"),
        ("reject no such user", "5.x.y"),
        ("maildir:rel", "an absolute path"),
        ("maildir:/a/{user}", "{local} and {domain}"),
    ] {
        let error = bad.parse::<Via>().unwrap_err().to_string();
        assert!(error.contains(hint), "{bad}: {error}");
    }
    let long = format!("lmtp+unix:///{}", "x".repeat(SOCKET_PATH_MAX));
    assert!(matches!(long.parse::<Via>(), Err(ViaError::Socket(_))));
}

#[test]
fn lists() {
    let list = Via::list(&[
        "smtp://a:25",
        "smtp://b preference=10 weight=3",
        "lmtp+unix:///l",
    ]);
    let shown: Vec<_> = hops(list.unwrap())
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        shown,
        [
            "smtp://a:25",
            "smtp://b:25 preference=10 weight=3",
            "lmtp+unix:///l"
        ]
    );
    assert_eq!(Via::list(&["mx"]), Ok(Via::Mx));
    assert_eq!(Via::list(&["discard".to_owned()]), Ok(Via::Discard));
    let none: [&str; 0] = [];
    assert_eq!(Via::list(&none), Err(ViaError::Count(0)));
    let many: Vec<String> = (0..=HOPS_MAX).map(|n| format!("smtp://h{n}")).collect();
    assert_eq!(Via::list(&many), Err(ViaError::Count(HOPS_MAX + 1)));
    assert_eq!(hops(Via::list(&many[1..]).unwrap()).len(), HOPS_MAX);
    for alone in ["mx", "discard", "maildir:/a", "reject", "defer"] {
        for list in [["smtp://a", alone], [alone, "smtp://a"]] {
            assert_eq!(Via::list(&list), Err(ViaError::Alone(alone.to_owned())));
        }
    }
    let twice = Via::list(&["smtp://a", "smtp://A:25 preference=1"]);
    assert!(matches!(twice, Err(ViaError::Twice(_))), "{twice:?}");
    // Another port is another server.
    assert!(Via::list(&["smtp://a", "smtp://a:26"]).is_ok());
}

proptest::proptest! {
    #[test]
    fn nothing_panics(
        s in "(smtps?|lmtp|lmtp\\+unix)://[a-z0-9.:\\[\\]/]{0,16}( (weight|preference)=[0-9]{0,6}){0,3}|.{0,40}",
    ) {
        crate::fuzz::via(s.as_bytes());
    }

    #[test]
    fn a_host_is_read_as_it_is_shown(
        host in "[a-z]{1,8}(\\.[a-z]{1,8}){0,2}",
        port in 1_u16..,
        lmtp: bool,
        preference: u16,
        weight: u16,
    ) {
        let hop = Hop {
            protocol: if lmtp { Protocol::Lmtp } else { Protocol::Smtp },
            preference,
            weight,
            ..Hop::smtp(host.parse().unwrap(), port)
        };
        proptest::prop_assert_eq!(hop.to_string().parse::<Via>().unwrap(), Via::Hops(vec![hop]));
    }
}
