use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::table::Table;

/// A table in memory: `key: values` lines.
struct Memory {
    entries: BTreeMap<String, Vec<String>>,
    asked: Arc<AtomicUsize>,
}

impl Table for Memory {
    async fn lookup(&self, key: &str) -> Result<Option<Vec<String>>, LookupError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        match key {
            "down@x" => Err(LookupError::Unavailable {
                table: self.name(),
                detail: "a test".to_owned(),
            }),
            "hangs@x" => std::future::pending().await,
            _ => Ok(self.entries.get(key).cloned()),
        }
    }

    fn name(&self) -> String {
        "memory".to_owned()
    }
}

fn aliases(lines: &str) -> (Aliases, Arc<AtomicUsize>) {
    let mut entries = BTreeMap::new();
    for line in lines.lines().filter(|line| line.contains(": ")) {
        let (key, value) = line.trim().split_once(": ").unwrap();
        let values: &mut Vec<String> = entries.entry(key.to_owned()).or_default();
        values.push(value.to_owned());
    }
    let asked = Arc::new(AtomicUsize::new(0));
    let memory = Memory {
        entries,
        asked: Arc::clone(&asked),
    };
    let table = AliasTable {
        table: SharedTable::new(memory),
        domains: vec!["virtual".parse().unwrap()],
    };
    (Aliases::new(vec![table]), asked)
}

/// The members with their reverse-paths, as `a@x<owner>`; or what else came of it.
async fn expanded(lines: &str, address: &str) -> String {
    match aliases(lines).0.expand(&address.parse().unwrap()).await {
        Ok(Expanded::Members(members)) => {
            let shown = members.iter().map(|member| match &member.from {
                Some(from) => format!("{}<{from}>", member.address),
                None => member.address.to_string(),
            });
            shown.collect::<Vec<_>>().join(" ")
        }
        Ok(other) => format!("{other:?}"),
        Err(error) => format!("{} {error}", error.enhanced()),
    }
}

#[tokio::test]
async fn expansions() {
    const TABLE: &str = r#"
        bob@x: bob@y
        both@x: a@y, b@y
        both@x: A@y c@y
        self@x: self@x, archive@y
        "odd, one"@x: "a,b"@y,c@y
        chain@x: both@x, bob@x
        @all: me@y
        kept@all: kept@all
        @old: @new
        catch@virtual: z@virtual
        me@catching: me@y
        @catching: box@catching
        diamond@x: left@x, right@x
        left@x: both@x
        right@x: both@x, d@y
    "#;
    for (address, expected) in [
        ("bob@x", "bob@y"),
        ("BOB@X", "bob@y"),
        ("other@x", "NotAnAlias"),
        ("nobody@virtual", "Unknown"),
        // The list is fine; that one is for whoever sends to it to find out.
        ("catch@virtual", "z@virtual"),
        ("both@x", "a@y b@y c@y"),
        ("self@x", "self@x archive@y"),
        ("\"odd, one\"@x", "\"a,b\"@y c@y"),
        ("chain@x", "a@y b@y c@y bob@y"),
        ("any@all", "me@y"),
        ("kept@all", "kept@all"),
        ("u+v@old", "u+v@new"),
        ("me@catching", "me@y"),
        // A catch-all for a mailbox of its own domain ends there.
        ("some@catching", "box@catching"),
        ("diamond@x", "a@y b@y c@y d@y"),
    ] {
        assert_eq!(expanded(TABLE, address).await, expected, "{address}");
    }
}

#[tokio::test]
async fn owners() {
    const TABLE: &str = r#"
        list@x: a@y, inner@x, plain@x, b@y
        owner-list@x: boss@y, list@x
        inner@x: c@y
        owner-inner@x: chief@y
        plain@x: d@y
        other@all: e@y
        @all: whoever@all
        "odd one"@x: f@y
        "owner-odd one"@x: boss@y
    "#;
    for (address, expected) in [
        (
            "list@x",
            "a@y<owner-list@x> c@y<owner-inner@x> d@y<owner-list@x> b@y<owner-list@x>",
        ),
        // A catch-all owns nothing.
        ("other@all", "e@y"),
        ("\"odd one\"@x", "f@y<\"owner-odd one\"@x>"),
        // Owners have no owner; what they name may.
        (
            "owner-list@x",
            "boss@y a@y<owner-list@x> c@y<owner-inner@x> d@y<owner-list@x> b@y<owner-list@x>",
        ),
    ] {
        assert_eq!(expanded(TABLE, address).await, expected, "{address}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_is_named() {
    const TABLE: &str = r"
        a@x: b@x
        b@x: c@x
        c@x: q@x, a@x
        pipe@x: |/bin/sh
        file@x: /etc/passwd
        include@x: :include:/etc/list
        local@x: bob
        half@x: a@y;b@y
        in@x: c@y, a@y@z
        from@x: down@x
        slow@x: hangs@x
        @old: @old2
        @old2: @old
    ";
    for (address, expected) in [
        (
            "a@x",
            "5.4.6 the alias a@x leads back to itself through c@x",
        ),
        (
            "u@old",
            "5.4.6 the alias u@old leads back to itself through u@old2",
        ),
        (
            "pipe@x",
            "4.3.5 memory, key `pipe@x`: `|/bin/sh` is no address",
        ),
        ("file@x", "4.3.5 memory, key `file@x`: `/etc/passwd` is"),
        (
            "include@x",
            "4.3.5 memory, key `include@x`: `:include:/etc/list` is",
        ),
        ("local@x", "4.3.5 memory, key `local@x`: `bob` is"),
        ("half@x", "4.3.5 memory, key `half@x`: `a@y;b@y` is"),
        ("in@x", "4.3.5 memory, key `in@x`: `c@y, a@y@z` is"),
        ("from@x", "4.4.3 memory cannot be asked now"),
        ("down@x", "4.4.3 memory cannot be asked now"),
        ("slow@x", "4.4.3 expanding slow@x takes longer than 60s"),
    ] {
        let got = expanded(TABLE, address).await;
        assert!(got.starts_with(expected), "{address}: {got}");
    }
}

#[tokio::test]
async fn bounded() {
    let chain = |length: usize| {
        let lines = (0..length).map(|n| format!("a{n}@x: a{}@x\n", n + 1));
        lines.collect::<String>()
    };
    // The first and ten within it, and then one that is no alias.
    assert_eq!(expanded(&chain(DEPTH_MAX + 1), "a0@x").await, "a11@x");
    let deep = expanded(&chain(DEPTH_MAX + 2), "a0@x").await;
    assert!(
        deep.starts_with("5.4.6 the alias a0@x leads through more"),
        "{deep}"
    );

    let wide = |width: usize| {
        let lines = (0..width).map(|n| format!("a@x: m{n}@y\n"));
        lines.collect::<String>()
    };
    let all = expanded(&wide(MEMBERS_MAX), "a@x").await;
    assert_eq!(all.split(' ').count(), MEMBERS_MAX);
    let more = expanded(&wide(MEMBERS_MAX + 1), "a@x").await;
    assert!(
        more.starts_with("5.5.3 the alias a@x stands for more"),
        "{more}"
    );

    // Each level names the next ten times over: no more than one look at each.
    let lines =
        (0..DEPTH_MAX).map(|n| format!("a{n}@x: {}\n", format!("a{}@x, ", n + 1).repeat(10)));
    let (aliases, asked) = aliases(&lines.collect::<String>());
    let members = aliases.expand(&"a0@x".parse().unwrap()).await;
    assert!(matches!(members, Ok(Expanded::Members(m)) if m.len() == 1));
    assert!(asked.load(Ordering::Relaxed) < 4 * DEPTH_MAX);
}

proptest::proptest! {
    /// Over any table: it ends, the members are each there once, and none is an alias that does
    /// not name itself.
    #[test]
    fn any_table(edges in proptest::collection::vec((0..8u8, 0..12u8), 0..40)) {
        let lines: String = edges.iter().map(|(from, to)| format!("n{from}@x: n{to}@x\n")).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let found = runtime.block_on(aliases(&lines).0.expand(&"n0@x".parse().unwrap()));
        match found {
            Ok(Expanded::Members(members)) => {
                let mut names: Vec<String> =
                    members.iter().map(|member| member.address.to_string()).collect();
                for name in &names {
                    let itself = format!("{name}: {name}\n");
                    let alias = lines.contains(&format!("{name}: "));
                    proptest::prop_assert!(!alias || lines.contains(&itself), "{}", name);
                }
                let all = names.len();
                names.sort();
                names.dedup();
                proptest::prop_assert_eq!(names.len(), all);
                proptest::prop_assert!(all > 0);
            }
            Ok(Expanded::NotAnAlias) => proptest::prop_assert!(!lines.contains("n0@x: ")),
            Err(error) => proptest::prop_assert!(matches!(error, AliasError::Loop { .. }), "{}", error),
            Ok(Expanded::Unknown) => proptest::prop_assert!(false, "no virtual domain here"),
        }
    }
}
