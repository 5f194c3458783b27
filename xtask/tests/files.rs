//! Files that no build looks into do what others say of them.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it must be"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The exposure that a unit may have, of 100: ten times what `systemd-analyze security` prints.
const EXPOSURE_MAX: &str = "--threshold=20";

/// What keeps it so low, where systemd is not there to ask.
const HARDENING: &[&str] = &[
    "AmbientCapabilities=CAP_NET_BIND_SERVICE",
    "CapabilityBoundingSet=CAP_NET_BIND_SERVICE",
    "NoNewPrivileges=true",
    "ProtectSystem=strict",
    "ProtectHome=true",
    "PrivateTmp=true",
    "PrivateDevices=true",
    "ProtectClock=true",
    "ProtectHostname=true",
    "ProtectKernelLogs=true",
    "ProtectKernelModules=true",
    "ProtectKernelTunables=true",
    "ProtectControlGroups=true",
    "ProtectProc=invisible",
    "ProcSubset=pid",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK",
    "RestrictNamespaces=true",
    "RestrictRealtime=true",
    "RestrictSUIDSGID=true",
    "RemoveIPC=true",
    "LockPersonality=true",
    "MemoryDenyWriteExecute=true",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged @resources",
    "UMask=0077",
];

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

/// The commands of the first block of shell behind a heading of README.md.
fn commands_of(heading: &str) -> Vec<String> {
    let readme = read("README.md");
    let (_, section) = readme.split_once(&format!("\n## {heading}\n")).unwrap();
    let (_, block) = section.split_once("```sh\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    block.lines().map(str::to_owned).collect()
}

#[test]
fn ci_runs_what_the_readme_says() {
    let ci = read(".ci/run");
    let commands = commands_of("Run the tests");
    assert_eq!(commands, ["cargo test --workspace --locked"]);
    for command in commands {
        assert!(ci.lines().any(|line| line == command), "{command}");
    }
    // What it tells to run first compiles.
    assert_eq!(
        commands_of("Try it"),
        ["cargo run --release -p postroad -- dev"]
    );
    let build = "cargo build --release --locked -p postroad";
    assert!(ci.lines().any(|line| line == build));
    assert!(ci.lines().any(|line| line == "cargo xtask ci --skip test"));
    // Whatever fails ends it.
    assert!(ci.lines().any(|line| line == "set -euo pipefail"));
}

fn units() -> Vec<PathBuf> {
    let files = fs::read_dir(root().join("deploy/systemd")).unwrap();
    let mut units: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    units.retain(|path| path.extension().is_some_and(|e| e == "service"));
    units.sort();
    units
}

#[test]
fn units_are_locked_up() {
    let units = units();
    assert_eq!(units.len(), 3, "{units:?}");
    for unit in &units {
        let text = fs::read_to_string(unit).unwrap();
        for line in HARDENING {
            let name = unit.display();
            assert!(text.lines().any(|l| l == *line), "{name}: no {line}");
        }
        let user = text.lines().find_map(|line| line.strip_prefix("User="));
        assert!(user.is_some_and(|user| user.starts_with("postroad")));
        let asked = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager", EXPOSURE_MAX])
            .arg(unit)
            .output();
        // Not every machine has systemd; where it is not, the lines above have to do.
        let Ok(output) = asked else { continue };
        assert!(
            output.status.success(),
            "{}:\n{}{}",
            unit.display(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
