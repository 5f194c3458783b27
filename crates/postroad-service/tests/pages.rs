//! The pages for operators show what is taken, and quote tables as the code has them.

use std::fs;
use std::path::{Path, PathBuf};

use postroad_lookup::{FileKeys, FileTable, RouteFile};
use postroad_service::config::{Roles, load};

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page(name: &str) -> String {
    let page = fs::read_to_string(top().join("docs").join(name));
    page.unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What stands in fenced blocks of a kind.
fn blocks(page: &str, kind: &str) -> Vec<String> {
    let fence = format!("\n```{kind}\n");
    let found = page.split(&fence).skip(1);
    let found = found.map(|rest| rest.split("```").next().unwrap_or_default().to_owned());
    found.collect()
}

#[test]
fn every_example_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("secrets")).unwrap();
    for secret in ["smarthost", "token", "ldap", "db"] {
        fs::write(at("secrets").join(secret), "secret\n").unwrap();
    }
    let mut examples = 0;
    for name in ["routing.md", "delivery.md"] {
        for block in blocks(&page(name), "toml") {
            fs::write(
                at("c.toml"),
                format!("hostname = \"mx.example.org\"\n{block}"),
            )
            .unwrap();
            let loaded = load(&at("c.toml")).unwrap_or_else(|e| panic!("{e}\n{block}"));
            let roles = Roles::from_config(&loaded).unwrap_or_else(|e| panic!("{e}\n{block}"));
            let shown = block.matches("[[route]]").count() + block.matches("[[alias]]").count();
            assert_eq!(roles.routes.len() + roles.aliases.len(), shown, "{block}");
            examples += 1;
        }
    }
    assert_eq!(examples, 5);
}

#[test]
fn every_table_file_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("table.txt");
    let blocks = blocks(&page("routing.md"), "text");
    let [routes, aliases] = blocks.as_slice() else {
        panic!("{blocks:?}");
    };
    fs::write(&path, routes).unwrap();
    RouteFile::open(&path).unwrap();
    fs::write(&path, aliases).unwrap();
    FileTable::open(&path, FileKeys::Aliases).unwrap();
}

#[test]
fn tables_are_those_of_the_code() {
    let page = page("delivery.md");
    for source in ["table.rs", "security.rs"] {
        let path = top().join("crates/postroad-mta/src/outbound").join(source);
        let code = fs::read_to_string(path).unwrap();
        let rows = code.lines().filter_map(|line| line.strip_prefix("//! |"));
        let rows: Vec<_> = rows.map(|row| format!("|{row}")).collect();
        assert!(rows.len() > 5, "{source}");
        let table = rows.join("\n");
        assert!(
            page.contains(&table),
            "docs/delivery.md does not have the table of {source}:\n{table}"
        );
    }
}

/// The orders that pages name are there.
#[test]
fn orders_are_those_of_the_command_line() {
    let program = fs::read_to_string(top().join("crates/postroad/src/cli.rs")).unwrap();
    for name in ["routing.md", "delivery.md"] {
        let page = page(name);
        for order in page.split("`postroad ").skip(1) {
            let order = order.split([' ', '\n', '`']).next().unwrap_or_default();
            let mut variant = order.to_owned();
            variant.replace_range(..1, &order[..1].to_uppercase());
            let there = ["(", " {"]
                .iter()
                .any(|end| program.contains(&format!("    {variant}{end}")));
            assert!(there, "{name}: postroad {order}");
        }
    }
}
