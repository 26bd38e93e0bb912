//! An operator's drill: each fault of the runbook's table is caused in a running process, whose metrics then go through the alert
//! rules. Nothing is lost, and nothing is handled twice.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sendarix_webhooks::EventType;
use sendarix_webhooks::testing::Sample;
use sendarix_webhooks_system_tests::{
    Backend, Instance, Kind, SECRET, Sent, TempDir, eventually, libfaketime, program,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const MONITORING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../monitoring");
const RUNBOOK: &str = include_str!("../../../src/guide/runbook.md");
/// How many events come while something is wrong.
const EVENTS: usize = 10;
/// How often Sendarix tries each.
const ATTEMPTS: usize = 6;

/// A running application, and what an operator sees of it.
struct Drill {
    row: Row,
    backend: Backend,
    place: TempDir,
    application: Option<Instance>,
    /// The ids of all events that Sendarix has sent.
    sent: Vec<String>,
    /// The ids that were handled elsewhere, or by a process that has ended.
    handled: Vec<String>,
    scrapes: Vec<Scrape>,
}

/// A line of the runbook's table.
struct Row {
    situation: &'static str,
    alerts: Vec<String>,
    log: Vec<String>,
    repair: Vec<String>,
}

/// What Prometheus finds at the end of a period: each series, and its value.
struct Scrape {
    minutes: usize,
    series: BTreeMap<String, f64>,
}

impl Row {
    fn all() -> Vec<Self> {
        let (_, table) = RUNBOOK.split_once("|---|---|---|---|\n").unwrap();
        let row = |line: &'static str| {
            let code = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            Self { situation: cells[1], alerts: code(cells[2]), log: code(cells[3]), repair: code(cells[4]) }
        };
        table.lines().take_while(|line| line.starts_with('|')).map(row).collect()
    }

    fn of(situation: &str) -> Self {
        Self::all().into_iter().find(|row| row.situation == situation).expect("a row of the runbook's table")
    }
}

impl Drill {
    /// Begins with half an hour in which all is well.
    async fn begin(situation: &str, backend: Backend) -> Self {
        let mut drill = Self {
            row: Row::of(situation),
            backend,
            place: TempDir::new(),
            application: None,
            sent: Vec::new(),
            handled: Vec::new(),
            scrapes: Vec::new(),
        };
        drill.write("secret", SECRET);
        drill.write("clock", "+0");
        drill.start();
        drill.sendarix_delivers("before", 1).await;
        drill.scrape(30).await;
        drill
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Replaces a file at once, so that the process never reads half of it.
    fn write(&self, name: &str, content: &str) {
        let new = self.path("new");
        std::fs::write(&new, content).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }

    fn start(&mut self) {
        let mut command = Command::new(program("operated"));
        command.env("LD_PRELOAD", libfaketime()).env("FAKETIME_TIMESTAMP_FILE", self.path("clock"));
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command.current_dir(self.place.path());
        let arguments =
            ["--store", &self.backend.url(), "--secret", "secret", "--broken", "broken", "--hidden", "hidden"];
        self.application = Some(Instance::of_command("operated", &mut command, &arguments));
    }

    fn application(&self) -> &Instance {
        self.application.as_ref().unwrap()
    }

    /// Sendarix sends new events, this many times each. Returns how many requests were acknowledged.
    async fn sendarix_delivers(&mut self, what: &str, attempts: usize) -> usize {
        let ids: Vec<String> = (0..EVENTS).map(|number| format!("evt_{what}_{number}")).collect();
        let mut acknowledged = 0;
        for id in (0..attempts).flat_map(|_| &ids) {
            acknowledged += usize::from(self.application().send(id).await == Sent::Answered(200));
        }
        self.sent.extend(ids);
        acknowledged
    }

    /// Prometheus looks after a period of this many minutes.
    async fn scrape(&mut self, minutes: usize) {
        let mut series = BTreeMap::new();
        if let Some(application) = &self.application {
            let url = application.url().replace("/webhooks/sendarix", "/metrics");
            let text = reqwest::get(url).await.unwrap().text().await.unwrap();
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                if let Some((name, value)) = line.rsplit_once(' ') {
                    series.insert(name.to_owned(), value.parse().unwrap());
                }
            }
        }
        self.scrapes.push(Scrape { minutes, series });
    }

    /// The fault has lasted this long: the log says why.
    async fn fault_lasted(&mut self, minutes: usize) {
        self.scrape(minutes).await;
        let log = self.application().stderr().join("\n");
        for expected in &self.row.log {
            assert!(log.contains(expected), "{}: {expected:?} in\n{log}", self.row.situation);
        }
    }

    /// Waits until the process has exchanged its secrets this many times.
    async fn secrets_changed(&self, times: usize) {
        let changed = |line: &&String| line.contains("the signing secrets have changed");
        let log = async || self.application().stderr().iter().filter(changed).count() == times;
        eventually("the secrets are read again", log).await;
    }

    /// The cause is repaired. Looks at everything: each event is handled once, no letter is left, and of the alerts, none fires
    /// before the fault, those of the table fire between its beginning and its end, and none fires two hours later.
    async fn end(mut self) {
        for id in &self.sent {
            self.application().send_until_acknowledged(id).await;
        }
        self.handled.extend(self.application().all_handled().await);
        self.scrape(30).await;
        self.scrape(120).await;
        // What came while the disk filled up may have been handled without a record, and then again.
        let mut filling = BTreeSet::new();
        self.handled.retain(|id| !id.starts_with("evt_filling") || filling.insert(id.clone()));
        self.handled.sort_unstable();
        self.sent.sort_unstable();
        let situation = self.row.situation;
        assert_eq!(self.handled, self.sent, "{situation}: each event is handled, once");
        assert_eq!(letters(&self.backend, &["count"]), "", "{situation}: no letter is left");
        evaluate(&self.scrapes, &self.row);
    }
}

/// Runs the alert rules over the scrapes, with a sample each minute. What this test does in a second is spread evenly over its
/// period, as the events of an application come and fail.
fn evaluate(scrapes: &[Scrape], row: &Row) {
    let [well, fault, repaired, later] = scrapes else { panic!("four periods") };
    let names: BTreeSet<&String> = scrapes.iter().flat_map(|scrape| scrape.series.keys()).collect();
    let input: Vec<Value> = names
        .into_iter()
        .map(|name| {
            let (mut values, mut last) = (Vec::new(), 0.0);
            for Scrape { minutes, series } in scrapes {
                let Some(&value) = series.get(name) else {
                    // Not there yet: it begins with 0, as the series of a process do. Not there any more: the process is gone.
                    let absent = if values.is_empty() { "0" } else { "_" };
                    values.extend(vec![absent.to_owned(); *minutes]);
                    last = 0.0;
                    continue;
                };
                let is_gauge = name.starts_with("sendarix_open_dead_letters");
                // A process that was started anew counts from 0.
                let from = if value < last && !is_gauge { 0.0 } else { last };
                values.extend((1..=*minutes).map(|minute| {
                    let share = minute as f64 / *minutes as f64;
                    format!("{:.6}", from + (value - from) * share)
                }));
                last = value;
            }
            json!({"series": name, "values": values.join(" ")})
        })
        .collect();
    let firing = |expr: String, minute: usize, alerts: &[String]| {
        let samples: Vec<Value> =
            alerts.iter().map(|alert| json!({"labels": format!("{{alertname=\"{alert}\"}}"), "value": 1})).collect();
        let expr = format!("group by (alertname) ({expr})");
        json!({"expr": expr, "eval_time": format!("{minute}m"), "exp_samples": samples})
    };
    let now = || "ALERTS{alertstate=\"firing\"}".to_owned();
    let during = fault.minutes + repaired.minutes;
    let (before, after) = (well.minutes - 1, well.minutes + during - 1);
    let tests = json!({
        "rule_files": [format!("{MONITORING}/alerts.yml")],
        "evaluation_interval": "1m",
        "tests": [{
            "interval": "1m",
            "input_series": input,
            "promql_expr_test": [
                firing(now(), before, &[]),
                firing(format!("max_over_time({}[{during}m])", now()), after, &row.alerts),
                firing(now(), after + later.minutes, &[]),
            ],
        }],
    });
    let dir = TempDir::new();
    let file = dir.path().join("drill.yml");
    std::fs::write(&file, tests.to_string()).unwrap();
    let output = Command::new("promtool").args(["test", "rules"]).arg(&file).output().unwrap();
    let [said, failed] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{}: {said}{failed}", row.situation);
}

/// Runs `sendarix letters`.
fn letters(backend: &Backend, arguments: &[&str]) -> String {
    let mut command = Command::new(program("sendarix"));
    let output = command.args(["letters", "--store", &backend.url()]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn each_row_of_the_table_has_its_drill() {
    let drills = include_str!("drill.rs");
    for row in Row::all() {
        assert!(drills.contains(&format!("Drill::begin(\"{}\"", row.situation)), "{}", row.situation);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_is_wrong() {
    let mut drill = Drill::begin("The secret here is not Sendarix's", Backend::start(Kind::Sqlite)).await;
    drill.write("secret", "the secret of another endpoint");
    drill.secrets_changed(1).await;
    let refused = async || drill.application().send("evt_before_0").await == Sent::Answered(401);
    eventually("the wrong secret is read", refused).await;
    // What matched until then was before.
    drill.scrapes.clear();
    drill.scrape(30).await;
    assert_eq!(drill.sendarix_delivers("during", 1).await, 0);
    drill.fault_lasted(30).await;
    drill.write("secret", SECRET);
    // By the log: requests would be refused until then, and be taken for a flood.
    drill.secrets_changed(2).await;
    drill.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_is_wrong() {
    let mut drill = Drill::begin("The clock is wrong", Backend::start(Kind::Redis)).await;
    for (what, clock) in [("ahead", "+600"), ("behind", "-600")] {
        drill.write("clock", clock);
        assert_eq!(drill.sendarix_delivers(what, 1).await, 0);
    }
    drill.fault_lasted(30).await;
    drill.write("clock", "+0");
    drill.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_is_down() {
    let mut drill = Drill::begin("The store is down", Backend::start(Kind::Postgres)).await;
    drill.backend.kill();
    assert_eq!(drill.sendarix_delivers("during", 1).await, 0);
    drill.fault_lasted(30).await;
    drill.backend.start_again();
    drill.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_is_full() {
    let backend = Backend::on_small_disk(Kind::Sqlite, &[]);
    let mut drill = Drill::begin("The disk of an SQLite file is full", backend).await;
    let filling = drill.backend.fill_disk();
    // The last page has room for some more.
    for number in 0.. {
        let id = format!("evt_filling_{number}");
        let answer = drill.application().send(&id).await;
        drill.sent.push(id);
        if answer != Sent::Answered(200) {
            break;
        }
    }
    assert_eq!(drill.sendarix_delivers("during", 1).await, 0);
    drill.fault_lasted(30).await;
    std::fs::remove_file(filling).unwrap();
    drill.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_broke_the_handler() {
    let mut drill = Drill::begin("A deploy broke the handler", Backend::start(Kind::Postgres)).await;
    drill.write("broken", "");
    assert_eq!(drill.sendarix_delivers("during", ATTEMPTS).await, 0);
    // Longer than Sendarix tries.
    drill.fault_lasted(9 * 60).await;
    std::fs::remove_file(drill.path("broken")).unwrap();
    // The command of the runbook, with a program that handles an event.
    let redriven = drill.path("redriven");
    let handle = format!("#!/bin/sh\ncat > /dev/null; echo \"$SENDARIX_EVENT_ID\" >> {}\n", redriven.display());
    drill.write("handle-event", &handle);
    let program = drill.path("handle-event");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let command = drill.row.repair[0].replace("./handle-event", program.to_str().unwrap());
    let arguments: Vec<&str> = command.strip_prefix("sendarix letters ").unwrap().split(' ').collect();
    letters(&drill.backend, &arguments);
    drill.handled.extend(std::fs::read_to_string(&redriven).unwrap().lines().map(str::to_owned));
    assert_eq!(drill.handled.len(), EVENTS);
    drill.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_lost_the_route_to_the_handler() {
    let mut drill = Drill::begin("A deploy lost the route to the handler", Backend::start(Kind::Redis)).await;
    drill.write("hidden", "");
    assert_eq!(drill.sendarix_delivers("during", 1).await, 0);
    drill.fault_lasted(30).await;
    std::fs::remove_file(drill.path("hidden")).unwrap();
    drill.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_forged_requests() {
    let mut drill = Drill::begin("A flood of forged requests", Backend::start(Kind::Redis)).await;
    let flood = Arc::new(Flood::default());
    let mut forgers = JoinSet::new();
    for _ in 0..4 {
        let (flood, url) = (Arc::clone(&flood), drill.application().url().to_owned());
        forgers.spawn(async move { flood.forge(&url).await });
    }
    eventually("the flood has begun", || async { flood.refused.load(SeqCst) > 100 }).await;
    assert_eq!(drill.sendarix_delivers("during", 1).await, EVENTS, "real events are handled meanwhile");
    let refused = flood.refused.load(SeqCst);
    eventually("the flood goes on", || async { flood.refused.load(SeqCst) > refused.max(500) }).await;
    flood.is_over.store(true, SeqCst);
    forgers.join_all().await;
    drill.fault_lasted(30).await;
    drill.end().await;
}

/// Requests whose signature has the right form and is wrong.
#[derive(Default)]
struct Flood {
    refused: AtomicUsize,
    is_over: AtomicBool,
}

impl Flood {
    async fn forge(&self, url: &str) {
        let client = reqwest::Client::new();
        while !self.is_over.load(SeqCst) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
            let request = client.post(url).header("x-sendarix-signature", format!("{now:064x}"));
            let request = request.header("x-sendarix-timestamp", now).body(r#"{"event_id":"evt_forged"}"#);
            assert_eq!(request.send().await.unwrap().status().as_u16(), 401);
            self.refused.fetch_add(1, SeqCst);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_is_gone_for_a_day() {
    const HOUR: Duration = Duration::from_secs(60 * 60);
    let mut drill = Drill::begin("The process is gone for a day", Backend::start(Kind::Sqlite)).await;
    drill.handled.extend(drill.application().all_handled().await);
    drill.application.take().unwrap().kill();
    drill.scrape(24 * 60).await;
    drill.start();
    // Sendarix has given up all of these, and replays them.
    for number in 0..EVENTS {
        let id = format!("evt_during_{number}");
        let sample = Sample::new(EventType::Delivered).event_id(&*id).recipient(&*id);
        let body = sample.timestamp(SystemTime::now() - 20 * HOUR).body();
        assert_eq!(drill.application().send_body(&body).await, Sent::Answered(200));
        drill.sent.push(id);
    }
    drill.end().await;
}
