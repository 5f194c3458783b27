//! The users file, and `postroad user`.

use postroad_tests::programs::{program, run};
use postroad_tests::site::{PASSWORD, Site, USER};

#[tokio::test]
async fn passwords_stay_out_of_files() {
    let site = Site::new();
    site.add_user().await.unwrap();
    let users = std::fs::read_to_string(site.path("users.toml")).unwrap();
    assert!(
        users.contains("$argon2id$") && !users.contains(PASSWORD),
        "{users}"
    );
    let file = site.path("users.toml").to_string_lossy().into_owned();
    let listed = run(program("postroad"), &["user", "list", "--file", &file], b"")
        .await
        .unwrap()
        .succeeded();
    assert!(
        listed.output.contains(USER) && !listed.output.contains("argon2"),
        "{}",
        listed.output
    );
    let again = ["user", "add", USER, "--file", &file, "--password-stdin"];
    assert_ne!(
        run(program("postroad"), &again, b"x\n").await.unwrap().code,
        0
    );
    let change = ["user", "passwd", USER, "--file", &file, "--password-stdin"];
    let _ = run(program("postroad"), &change, b"another one\n")
        .await
        .unwrap()
        .succeeded();
    assert_ne!(
        std::fs::read_to_string(site.path("users.toml")).unwrap(),
        users
    );
    let _ = run(
        program("postroad"),
        &["user", "remove", USER, "--file", &file],
        b"",
    )
    .await
    .unwrap()
    .succeeded();
    let listed = run(program("postroad"), &["user", "list", "--file", &file], b"")
        .await
        .unwrap()
        .succeeded();
    assert!(!listed.output.contains(USER));
}
