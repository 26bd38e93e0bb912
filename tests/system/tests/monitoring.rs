//! The alert rules, by Prometheus's own tool.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

#[test]
fn the_rules_say_what_their_tests_expect() {
    let output = Command::new("promtool")
        .args(["test", "rules", "alerts.test.yml"])
        .current_dir(format!("{}/../../monitoring", env!("CARGO_MANIFEST_DIR")))
        .output();
    let output = output.expect("promtool is installed; `bash tests/run` installs it");
    assert!(output.status.success(), "{output:?}");
}
