//! What the programs say of themselves.

use postroad_tests::programs::{Finished, program, run};

async fn said(binary: &str, arguments: &[&str]) -> Finished {
    run(program(binary), arguments, b"").await.unwrap()
}

#[tokio::test]
async fn help_names_the_configuration() {
    for (binary, before) in [
        ("postroad-relay", &[][..]),
        ("postroad-submission", &[]),
        ("postroad", &["run"]),
        ("postroad", &["check"]),
        ("postroad", &["queue"]),
        ("postroad", &["queue", "list"]),
    ] {
        let arguments = [before, &["--help"]].concat();
        let help = said(binary, &arguments).await.succeeded();
        assert_eq!(help.errors, "", "{binary} {before:?}");
        // Wherever the lines are broken.
        let words: Vec<_> = help.output.split_whitespace().collect();
        let output = words.join(" ");
        for needle in [
            "--config <CONFIG>",
            "[env: POSTROAD_CONFIG=]",
            "[default: /etc/postroad/postroad.toml]",
        ] {
            assert!(output.contains(needle), "{binary} {before:?}: {output}");
        }
    }
    // The command of all shows where a configuration goes by an example.
    let help = said("postroad", &["--help"]).await.succeeded().output;
    assert!(help.contains("postroad check --config /etc/"), "{help}");
}

/// Exit status 2, as for a wrong configuration: it is no use to start it again so.
#[tokio::test]
async fn wrong_usage_is_said_and_is_no_success() {
    for (binary, arguments, needle) in [
        ("postroad-relay", &["--confog", "x"][..], "--confog"),
        ("postroad-relay", &["extra"], "extra"),
        ("postroad-relay", &["--config"], "--config"),
        ("postroad-submission", &["--confog", "x"], "--confog"),
        ("postroad-submission", &["extra"], "extra"),
        ("postroad-submission", &["--config"], "--config"),
        ("postroad", &[], "Usage: postroad"),
        ("postroad", &["sing"], "sing"),
        ("postroad", &["run", "--config"], "--config"),
        ("postroad", &["queue", "show", "no-id"], "no-id"),
    ] {
        let finished = said(binary, arguments).await;
        let said = finished.said();
        assert_eq!(finished.code, 2, "{binary} {arguments:?}: {said}");
        assert_eq!(finished.output, "", "{binary} {arguments:?}");
        assert!(finished.errors.contains(needle), "{said}");
    }
}
