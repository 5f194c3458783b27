//! Mistakes in operators' words: serde names the types that we happen to use.

/// What serde says a value must be, and what that means in the file. The first that fits counts.
const EXPECTED: &[(&str, &str)] = &[
    (
        "expected struct Directory",
        "expected a table, as in directory = { kind = \"file\", path = \"users.toml\" }",
    ),
    (
        "expected struct RouteAuth",
        "expected a table, as in auth = { user = \"…\", password = { file = \"…\" } }",
    ),
    (
        "expected struct RouteLimit",
        "expected a table, as in limits = { per_destination = 5, messages = \"100/1m\" }",
    ),
    ("expected struct", "expected a table"),
    ("expected a sequence", "expected a list, as in [\"…\"]"),
    (
        "expected socket address",
        "expected an address with a port, as in \"127.0.0.1:25\" or \"[::]:25\"",
    ),
    (
        "expected IP address",
        "expected an address, as in \"192.0.2.1\" or \"2001:db8::1\"",
    ),
    ("expected usize", "expected a whole number, 0 or more"),
    ("expected u64", "expected a whole number, 0 or more"),
    ("expected u32", "expected a whole number, 0 or more"),
    ("expected u16", "expected a whole number, 0 to 65535"),
    ("expected a boolean", "expected true or false"),
    ("expected path string", "expected a path, in quotes"),
    ("expected a string", "expected a text, in quotes"),
];

/// What is wrong as a whole, where serde does not say what was expected.
const WRONG: &[(&str, &str)] = &[
    ("invalid socket address syntax", "socket address"),
    ("invalid IP address syntax", "IP address"),
];

/// Kinds that have their names, so that one day they can be used, and are not built: each is
/// refused by name where it is given, and must not be offered.
const NOT_BUILT: &[&str] = &["postgres", "ldap", "sql"];

/// A message of serde's in other words.
pub(super) fn plain(message: &str) -> String {
    let message = message.trim().replace('\n', " ");
    for (wrong, kind) in WRONG {
        if message.starts_with(wrong) {
            let expected = meaning(&format!("expected {kind}"));
            return format!("not what it must be: {expected}");
        }
    }
    if message.starts_with("unknown variant ") {
        return variants(&message);
    }
    let Some((start, expected)) = message.split_once(", expected ") else {
        return message;
    };
    let start = start
        .replace("invalid type: ", "not of the right kind: ")
        .replace("invalid value: ", "not a good value: ")
        .replace(": sequence", ": a list")
        .replace(": map", ": a table");
    format!("{start}, {}", meaning(&format!("expected {expected}")))
}

fn meaning(expected: &str) -> String {
    let known = EXPECTED.iter().find(|(of, _)| expected.starts_with(of));
    known.map_or_else(|| expected.to_owned(), |(_, words)| (*words).to_owned())
}

/// ``unknown variant `x`, expected `a` `` or ``…, expected one of `a`, `b` ``.
fn variants(message: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    let given = names.next().unwrap_or_default();
    let names: Vec<_> = names.collect();
    // Tables have kinds that directories have not yet.
    let all_built = names.contains(&"socketmap");
    let known: Vec<_> = names
        .into_iter()
        .filter(|name| all_built || !NOT_BUILT.contains(name))
        .map(|name| format!("`{name}`"))
        .collect();
    let one_of = if known.len() > 1 { "one of " } else { "" };
    format!(
        "unknown value `{given}`, expected {one_of}{}",
        known.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn said(text: &str) -> String {
        plain(toml::from_str::<Config>(text).unwrap_err().message())
    }

    #[test]
    fn no_types_of_rust_are_named() {
        let address = "expected an address with a port, as in \"127.0.0.1:25\" or \"[::]:25\"";
        let count = "expected a whole number, 0 or more";
        let list = "expected a list, as in [\"…\"]";
        let listener = |bind: &str| format!("[[listener]]\nservice = \"relay\"\nbind = {bind}\n");
        for (text, expected) in [
            (listener("[\"[::]\"]"), address),
            (listener("[25]"), address),
            (listener("\"[::]:25\""), list),
            ("admin.http = \"localhost:8025\"".to_owned(), address),
            (
                "delivery.own_addresses = [\"x\"]".to_owned(),
                "expected an address, as in \"192.0.2.1\"",
            ),
            ("limits.recipients = -1".to_owned(), count),
            ("limits.recipients = \"many\"".to_owned(), count),
            ("limits.errors = 1.5".to_owned(), count),
            ("limits.errors = 5000000000".to_owned(), count),
            ("delivery.port = 70000".to_owned(), "0 to 65535"),
            ("relay.domains = \"a.test\"".to_owned(), list),
            ("include = {}".to_owned(), list),
            (
                "submission.directory = \"users.toml\"".to_owned(),
                "as in directory = { kind = \"file\", path = \"users.toml\" }",
            ),
            ("limits = 5".to_owned(), "expected a table"),
            (
                "submission.sender_must_match = \"yes\"".to_owned(),
                "expected true or false",
            ),
            ("queue.path = 5".to_owned(), "expected a path, in quotes"),
            ("hostname = 5".to_owned(), "expected a text, in quotes"),
            (
                "submission.directory = { kind = \"pam\" }".to_owned(),
                "unknown value `pam`, expected `file`",
            ),
            (
                "queue.store = \"disk\"".to_owned(),
                "expected one of `local`, `memory`",
            ),
            (
                "limits.verify = \"all\"".to_owned(),
                "expected one of `none`, `authenticated`",
            ),
            ("limits.drain = 5".to_owned(), "expected a time such as"),
        ] {
            let said = said(&text);
            assert!(said.contains(expected), "{text}: {said}");
            for word in [
                "usize", "u16", "u32", "struct", "sequence", "variant", "syntax", "socket", "map",
                "postgres", "ldap",
            ] {
                assert!(!said.contains(word), "{text}: {said}");
            }
        }
    }
}
