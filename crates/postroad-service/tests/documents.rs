//! What is shipped beside the code fits the code: example configurations, reference, units.

use std::fs;
use std::path::{Path, PathBuf};

use postroad_service::config::{Roles, load, reference, schema};

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn every_example_configuration_is_good() {
    let mut examples = 0;
    for entry in fs::read_dir(top().join("deploy/config")).unwrap() {
        let path = entry.unwrap().path();
        let loaded = load(&path).unwrap_or_else(|e| panic!("{e}"));
        let roles = Roles::from_config(&loaded).unwrap_or_else(|e| panic!("{e}"));
        assert!(
            roles.hostname.ascii().ends_with(".example.org"),
            "{}",
            path.display()
        );
        assert!(!loaded.config.listener.is_empty(), "{}", path.display());
        examples += 1;
    }
    assert_eq!(examples, 5);
}

/// `UPDATE=1 cargo test -p postroad-service --test documents` writes them anew.
#[test]
fn the_reference_is_current() {
    for (name, current) in [
        ("docs/config.md", reference()),
        ("docs/config.schema.json", schema()),
    ] {
        let path = top().join(name);
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, &current).unwrap();
        }
        assert!(
            fs::read_to_string(&path).unwrap_or_default() == current,
            "{name} is not what the types say; run this test with UPDATE=1"
        );
        assert!(
            current.contains("message_size") && current.contains("trusted_networks"),
            "{name}"
        );
    }
}

#[test]
fn every_unit_starts_a_program_that_there_is() {
    for name in ["postroad", "postroad-submission", "postroad-relay"] {
        let unit =
            fs::read_to_string(top().join(format!("deploy/systemd/{name}.service"))).unwrap();
        let start = unit
            .lines()
            .find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/"))
            .unwrap();
        assert_eq!(start.split(' ').next(), Some(name));
        let config = start.rsplit('/').next().unwrap();
        assert!(
            top().join("deploy/config").join(config).exists(),
            "{config}"
        );
        for line in [
            "NoNewPrivileges=true",
            "ProtectSystem=strict",
            "CapabilityBoundingSet=CAP_NET_BIND_SERVICE",
            "Type=notify",
            // The status of a wrong configuration.
            "RestartPreventExitStatus=2",
            // Without it there are no interface addresses, and MX loops go unseen.
            "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK",
        ] {
            assert!(unit.lines().any(|l| l == line), "{name}: {line}");
        }
        assert!(
            !unit.contains("Documentation="),
            "{name}: no page is installed"
        );
        let config = load(&top().join("deploy/config").join(config))
            .unwrap()
            .config;
        let setting = |key: &str| {
            let value = unit.lines().find_map(|line| line.strip_prefix(key));
            value.unwrap_or_else(|| panic!("{name}: {key}")).to_owned()
        };
        let stop: u64 = setting("TimeoutStopSec=").parse().unwrap();
        assert!(
            stop >= config.limits.drain.0.as_secs() + 15,
            "{name}: {stop}"
        );
        let users = fs::read_to_string(top().join("deploy/sysusers.d/postroad.conf")).unwrap();
        users_exist(&users, &setting("User="), &setting("Group="));
        let state = PathBuf::from("/var/lib").join(setting("StateDirectory="));
        let runtime = PathBuf::from("/run").join(setting("RuntimeDirectory="));
        let maildirs = config
            .route
            .iter()
            .flat_map(|r| &r.via.0)
            .filter_map(|via| via.strip_prefix("maildir:"));
        let written = maildirs
            .map(PathBuf::from)
            .chain([config.queue.path.clone(), config.admin_socket()]);
        for path in written {
            let may = path.starts_with(&state) || path.starts_with(&runtime);
            assert!(may, "{name}: {} cannot be written", path.display());
        }
    }
}

fn users_exist(users: &str, user: &str, group: &str) {
    for name in [user, group] {
        assert!(
            users
                .lines()
                .any(|line| line.starts_with(&format!("u {name} "))),
            "{name}"
        );
    }
    // /etc/postroad is for that group to read.
    let reads = user == "postroad"
        || users
            .lines()
            .any(|line| line == format!("m {user} postroad"));
    assert!(reads, "{user}");
}

/// Whoever copies the README's lines gets two services that work.
#[test]
fn the_readme_names_units_users_and_files_as_they_are() {
    let readme = fs::read_to_string(top().join("README.md")).unwrap();
    let set_up = readme.split("## Two services").nth(1).unwrap();
    let set_up = set_up.split("\n## ").next().unwrap();
    let users = fs::read_to_string(top().join("deploy/sysusers.d/postroad.conf")).unwrap();
    for service in ["submission", "relay"] {
        assert!(set_up.contains(&format!("--config /etc/postroad/{service}.toml")));
        let user = format!("postroad-{service}");
        users_exist(&users, &user, &user);
    }
    for line in set_up
        .lines()
        .filter(|line| line.contains("postroad queue "))
    {
        let service = line
            .strip_prefix("sudo -u postroad-")
            .and_then(|rest| rest.split(' ').next())
            .unwrap_or_else(|| panic!("{line}"));
        assert!(
            line.ends_with(&format!("--config /etc/postroad/{service}.toml")),
            "{line}"
        );
    }
    assert!(
        set_up.contains(" /usr/local/bin/\n"),
        "where the units look"
    );
}

/// The page on the users file shows one that is taken.
#[test]
fn the_users_file_is_as_the_page_has_it() {
    let page = fs::read_to_string(top().join("docs/users.md")).unwrap();
    let example = page.split("```toml\n").nth(1).unwrap();
    let example = example.split("```").next().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("users.toml");
    postroad_msa::add_user(&file, "x", "x").unwrap();
    let made = fs::read_to_string(&file).unwrap();
    let hash = made.split('"').nth(1).unwrap();
    let shown = "$argon2id$v=19$m=19456,t=2,p=1$…";
    assert!(hash.starts_with(shown.trim_end_matches('…')), "{hash}");
    fs::write(&file, example.replace(shown, hash)).unwrap();
    let users = postroad_msa::list_users(&file).unwrap();
    assert_eq!(users["alice@example.org"].addresses.len(), 2);
    assert!(users["backup"].disabled);
}

#[test]
fn the_image_is_made_of_what_there_is() {
    let image = fs::read_to_string(top().join("deploy/Containerfile")).unwrap();
    let copied = image
        .lines()
        .find_map(|line| line.strip_prefix("COPY deploy/"));
    let (source, target) = copied.unwrap().split_once(' ').unwrap();
    assert!(top().join("deploy").join(source).exists(), "{source}");
    assert_eq!(target, "/etc/postroad/postroad.toml");
    // Whoever runs it must know what to bring.
    let example = fs::read_to_string(top().join("deploy").join(source)).unwrap();
    for needed in ["tls/fullchain.pem", "tls/privkey.pem", "uid 2525"] {
        assert!(
            image.contains(needed) && example.contains(needed),
            "{needed}"
        );
    }
    let ignored = fs::read_to_string(top().join(".dockerignore")).unwrap();
    for large in ["target", ".git"] {
        assert!(ignored.lines().any(|line| line == large), "{large}");
    }
}

#[test]
fn the_readme_shows_the_example_that_is_compiled() {
    let readme = fs::read_to_string(top().join("README.md")).unwrap();
    let example = fs::read_to_string(top().join("tests/examples/partners.rs")).unwrap();
    assert!(
        readme.contains(&format!("```rust,no_run\n{example}```\n")),
        "the README does not quote tests/examples/partners.rs as it is"
    );
}

#[test]
fn sizes_are_texts_or_numbers() {
    let schema: serde_json::Value = serde_json::from_str(&schema()).unwrap();
    let size = &schema["$defs"]["Limits"]["properties"]["message_size"]["type"];
    assert_eq!(*size, serde_json::json!(["string", "integer"]));
}
