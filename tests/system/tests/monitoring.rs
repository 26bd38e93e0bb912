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

/// Each metric of a rule or a panel is one that the crate documents.
#[test]
fn the_rules_and_the_dashboard_use_names_that_are_there() {
    let metrics = include_str!("../../../src/telemetry/metrics.rs");
    let others =
        [include_str!("../../../src/store/memory/telemetry.rs"), include_str!("../../../src/verify/refresh.rs")];
    for file in ["alerts.yml", "dashboard.json"] {
        let text = std::fs::read_to_string(format!("{MONITORING}/{file}")).unwrap();
        let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
        let names =
            text.split(|c| !is_part(c)).filter(|word| word.starts_with("sendarix_") && *word != "sendarix_webhooks");
        for name in names {
            let name = format!("\"{}\"", name.strip_suffix("_bucket").unwrap_or(name));
            assert!(metrics.contains(&name) || others.iter().any(|file| file.contains(&name)), "{file}: {name}");
        }
    }
}

#[test]
fn the_rules_say_what_their_tests_expect() {
    let output = Command::new("promtool").args(["test", "rules", "alerts.test.yml"]).current_dir(MONITORING).output();
    let output = output.expect("promtool is installed; `bash tests/run` installs it");
    assert!(output.status.success(), "{output:?}");
}
