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
            .find_map(|line| line.strip_prefix("ExecStart=/usr/bin/"))
            .unwrap();
        assert_eq!(start.split(' ').next(), Some(name));
        let config = start.rsplit('/').next().unwrap();
        assert!(
            top().join("deploy/config").join(config).exists(),
            "{config}"
        );
        for hardening in [
            "NoNewPrivileges=true",
            "ProtectSystem=strict",
            "CapabilityBoundingSet=CAP_NET_BIND_SERVICE",
            "Type=notify",
        ] {
            assert!(unit.contains(hardening), "{name}: {hardening}");
        }
    }
}
