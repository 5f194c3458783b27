//! Tables, as `postroad check` finds them.

use super::{GOOD, Site};

#[test]
fn the_check_opens_tables() {
    let site = Site::new();
    let check = |more: &str| {
        site.write("main.toml", &format!("{GOOD}{more}"));
        site.run(&["check", "--config", "main.toml"])
    };
    site.write(
        "good.txt",
        "*@a.test mx\nb.test smtp://h.test:26, smtp://i.test\n",
    );
    site.write("bad.txt", "*@a.test mx\n\nb.test pigeon\n");
    site.write("aliases.txt", "bob@a.test |/bin/sh\n");
    let (status, text) = check("[[route]]\ntable = \"good.txt\"\n");
    assert_eq!(status, Some(0), "{text}");
    for (more, said) in [
        (
            "[[route]]\ntable = \"none.txt\"\n",
            "main.toml:14: route.table: reading ",
        ),
        (
            "[[route]]\nvia = \"mx\"\n[[route]]\ntable = \"bad.txt\"\n",
            "main.toml:16: route.table: ",
        ),
        ("[[route]]\ntable = \"bad.txt\"\n", "bad.txt:3: "),
        (
            "[[alias]]\ntable = \"aliases.txt\"\n",
            "main.toml:14: alias.table: ",
        ),
        ("[[alias]]\ntable = \"aliases.txt\"\n", "aliases.txt:1: "),
        (
            "[[route]]\ntable = { kind = \"http\", url = \"gopher://x\" }\n",
            "main.toml:14: route.table: `gopher://x` is no URL",
        ),
        (
            "[[route]]\ntable = { kind = \"ldap\", url = \"ldap://x\", base = \"\", filter = \"(mail=x)\", attributes = [\"a\"] }\n",
            "route.table: `(mail=x)` has no %s",
        ),
    ] {
        let (status, text) = check(more);
        assert_eq!(status, Some(1), "{more}: {text}");
        assert!(text.contains(said), "{more}: {said}: {text}");
    }
}

/// A server that does not answer is a warning: it may, later, and mail waits for it.
#[test]
fn servers_that_do_not_answer_are_warned_of() {
    let site = Site::new();
    // Nothing answers at port 9.
    for table in [
        "{ kind = \"socketmap\", socket = \"127.0.0.1:9\", map = \"m\" }",
        "{ kind = \"http\", url = \"http://127.0.0.1:9/\" }",
        "{ kind = \"ldap\", url = \"ldap://127.0.0.1:9\", base = \"\", filter = \"(mail=%s)\", attributes = [\"a\"] }",
        "{ kind = \"sql\", url = \"postgres://u@127.0.0.1:9/d\", query = \"SELECT $1\" }",
    ] {
        for entry in ["route", "alias"] {
            site.write(
                "main.toml",
                &format!("{GOOD}[[{entry}]]\ntable = {table}\n"),
            );
            let (status, text) = site.run(&["check", "--config", "main.toml"]);
            assert_eq!(status, Some(0), "{table}: {text}");
            let warning = format!("warning: main.toml:14: {entry}.table: ");
            assert!(
                text.contains(&warning) && text.contains("mail that needs it waits"),
                "{table}: {text}"
            );
        }
    }
}
