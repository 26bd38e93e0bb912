//! The alert rules, by Prometheus's own tool.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

const MONITORING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../monitoring");

#[test]
fn each_alert_has_a_test_and_an_entry_in_the_runbook() {
    let read = |name: &str| std::fs::read_to_string(format!("{MONITORING}/{name}")).unwrap();
    let (rules, tests) = (read("alerts.yml"), read("alerts.test.yml"));
    let runbook = include_str!("../../../src/guide/runbook.md");
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let entries: Vec<&str> = runbook.lines().filter_map(|line| line.strip_prefix("## `")?.strip_suffix("`")).collect();
    assert_eq!(entries, alerts, "in the same order");
    for alert in alerts {
        assert!(tests.contains(&format!("alertname: {alert}")), "{alert} has no test");
    }
}

#[test]
fn the_rules_say_what_their_tests_expect() {
    let output = Command::new("promtool").args(["test", "rules", "alerts.test.yml"]).current_dir(MONITORING).output();
    let output = output.expect("promtool is installed; `bash tests/run` installs it");
    assert!(output.status.success(), "{output:?}");
}
