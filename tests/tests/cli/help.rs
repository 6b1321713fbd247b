//! Help, completions, and what makes no sense.

use skald_tests::skald;
use tempfile::TempDir;

#[tokio::test]
async fn help_names_every_command() {
    let folder = TempDir::new().unwrap();
    let help = skald(folder.path(), &["--help"], &[]).await.ok().stdout;
    for command in [
        "dev",
        "serve",
        "publish",
        "events",
        "consumers",
        "dead-letters",
        "replay",
        "keys",
        "config",
        "completions",
    ] {
        assert!(help.contains(command), "{command} is missing in:\n{help}");
        let own = skald(folder.path(), &[command, "--help"], &[]).await.ok().stdout;
        assert!(own.contains("Usage:"), "{own}");
    }
    let version = skald(folder.path(), &["--version"], &[]).await.ok().stdout;
    assert!(version.starts_with("skald "), "{version}");
}

#[tokio::test]
async fn completions_are_printed_for_every_shell() {
    let folder = TempDir::new().unwrap();
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let script = skald(folder.path(), &["completions", shell], &[]).await.ok().stdout;
        assert!(script.contains("skald") && script.contains("dead-letters"), "{shell}");
    }
}

#[tokio::test]
async fn misuse_is_exit_code_2_and_tells_what_is_meant() {
    let folder = TempDir::new().unwrap();
    for arguments in [&["frobnicate"][..], &["events", "--colour"], &["keys", "create", "x"], &[]] {
        let done = skald(folder.path(), arguments, &[]).await;
        assert_eq!(done.code, Some(2), "{done:?}");
        assert!(done.stderr.contains("Usage:"), "{done:?}");
    }
    let done = skald(folder.path(), &["evnts"], &[]).await;
    assert!(done.stderr.contains("events"), "it says what may be meant: {done:?}");
}
