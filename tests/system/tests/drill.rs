//! An operator's drill: each line of the runbook's table is done to a running process, whose metrics then go through the alert
//! rules. Nothing is lost, and nothing is handled twice.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use sendarix_webhooks_system_tests::{
    Backend, Instance, Kind, SECRET, Sent, TempDir, eventually, libfaketime, program,
};
use serde_json::{Value, json};

const MONITORING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../monitoring");
const RUNBOOK: &str = include_str!("../../../src/guide/runbook.md");
/// How many events come while something is wrong.
const EVENTS: usize = 10;
/// How often Sendarix tries each.
const ATTEMPTS: usize = 6;

/// A running application, and what an operator sees of it.
struct Drill {
    backend: Backend,
    place: TempDir,
    application: Option<Instance>,
    /// The ids of all events that Sendarix has sent.
    sent: Vec<String>,
    /// The handled ids of processes that have ended.
    handled: Vec<String>,
    scrapes: Vec<Scrape>,
}

/// How long things stay as they are until the next scrape, and the metrics then: series and values.
struct Scrape {
    minutes: usize,
    series: BTreeMap<String, f64>,
}

impl Drill {
    /// Begins with half an hour in which all is well.
    async fn begin(backend: Backend) -> Self {
        let mut drill = Self {
            backend,
            place: TempDir::new(),
            application: None,
            sent: Vec::new(),
            handled: Vec::new(),
            scrapes: Vec::new(),
        };
        drill.write_secret(SECRET);
        std::fs::write(drill.path("clock"), "+0").unwrap();
        drill.start();
        drill.sendarix_delivers("before", 1).await;
        drill.scrape(30).await;
        drill
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn write_secret(&self, secret: &str) {
        std::fs::write(self.path("secret"), secret).unwrap();
    }

    fn start(&mut self) {
        let mut command = Command::new(program("operated"));
        command.env("LD_PRELOAD", libfaketime()).env("FAKETIME_TIMESTAMP_FILE", self.path("clock"));
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let (secret, broken) = (self.path("secret"), self.path("broken"));
        let arguments = ["--store", &self.backend.url(), "--secret", secret.to_str().unwrap(), "--broken"];
        let arguments = [arguments.as_slice(), &[broken.to_str().unwrap()]].concat();
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

    /// Sendarix's retries of all that it has sent, or its replay: the cause is mended.
    async fn sendarix_retries(&self) {
        for id in &self.sent {
            self.application().send_until_acknowledged(id).await;
        }
    }

    /// Prometheus looks, after things were for so many minutes as they are now.
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

    /// What the process has logged since it began.
    fn log(&self) -> String {
        self.application().stderr().join("\n")
    }

    /// Looks at everything: before the fault no alert fires, at its end those of the table, and two hours after its repair none.
    async fn end(mut self, situation: &str) {
        let row = Row::of(situation);
        self.sendarix_retries().await;
        let handled = self.application().all_handled().await;
        self.scrape(30).await;
        self.scrape(120).await;
        self.handled.extend(handled);
        // What came while the disk filled up may have been handled without a record, and then again.
        for ids in [&mut self.handled, &mut self.sent] {
            ids.retain(|id| !id.starts_with("evt_filling"));
            ids.sort_unstable();
        }
        assert_eq!(self.handled, self.sent, "{situation}: each event is handled, once");
        assert_eq!(letters(&self.backend, &["count"]), "", "{situation}: no letter is left");
        assert_eq!(self.scrapes.len(), 4, "well, wrong, mended, and two hours later");
        evaluate(&self.scrapes, &row.alerts, situation);
    }
}

/// A line of the runbook's table.
struct Row {
    alerts: Vec<String>,
    log: Option<String>,
}

impl Row {
    fn of(situation: &str) -> Self {
        let line = RUNBOOK.lines().find(|line| line.starts_with(&format!("| {situation} |")));
        let line = line.unwrap_or_else(|| panic!("the table of the runbook has no {situation:?}"));
        let code = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        let cells: Vec<&str> = line.split('|').collect();
        Self { alerts: code(cells[2]), log: code(cells[3]).into_iter().next() }
    }

    fn assert_logged(situation: &str, log: &str) {
        let expected = Self::of(situation).log.unwrap();
        assert!(log.contains(&expected), "{situation}: {expected:?} in\n{log}");
    }
}

/// Runs the alert rules over the scrapes, with a sample each minute.
fn evaluate(scrapes: &[Scrape], expected: &[String], situation: &str) {
    let names: std::collections::BTreeSet<&String> = scrapes.iter().flat_map(|scrape| scrape.series.keys()).collect();
    let input: Vec<Value> = names
        .into_iter()
        .map(|name| {
            let mut values = Vec::new();
            // What is not there yet begins with 0, as the counters of a process do.
            let mut last = 0.0;
            for Scrape { minutes, series } in scrapes {
                let Some(&value) = series.get(name) else {
                    values.push(if values.is_empty() { format!("0x{}", minutes - 1) } else { format!("_x{minutes}") });
                    continue;
                };
                // A process that was started anew counts from 0.
                let from = if value < last && !name.contains("_dead_letters{") { 0.0 } else { last };
                let step = (value - from) / *minutes as f64;
                let sign = if step < 0.0 { "" } else { "+" };
                values.push(format!("{:.6}{sign}{step:.6}x{}", from + step, minutes - 1));
                last = value;
            }
            json!({"series": name, "values": values.join(" ")})
        })
        .collect();
    let [well, wrong, mended, later] = scrapes else { panic!("four scrapes") };
    let firing = |minute: usize, alerts: &[String]| {
        let samples: Vec<Value> =
            alerts.iter().map(|alert| json!({"labels": format!("{{alertname=\"{alert}\"}}"), "value": 1})).collect();
        let expr = "group by (alertname) (ALERTS{alertstate=\"firing\"})";
        json!({"expr": expr, "eval_time": format!("{minute}m"), "exp_samples": samples})
    };
    let end_of_fault = well.minutes + wrong.minutes - 1;
    let end = end_of_fault + mended.minutes + later.minutes;
    let tests = json!({
        "rule_files": [format!("{MONITORING}/alerts.yml")],
        "evaluation_interval": "1m",
        "tests": [{
            "interval": "1m",
            "input_series": input,
            "promql_expr_test": [firing(well.minutes - 1, &[]), firing(end_of_fault, expected), firing(end, &[])],
        }],
    });
    let dir = TempDir::new();
    let file = dir.path().join("drill.yml");
    std::fs::write(&file, tests.to_string()).unwrap();
    let output = Command::new("promtool").args(["test", "rules"]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{situation}: {}{said}", String::from_utf8_lossy(&output.stdout));
}

/// Runs `sendarix letters`.
fn letters(backend: &Backend, arguments: &[&str]) -> String {
    let mut command = Command::new(program("sendarix"));
    let output = command.args(["letters", "--store", &backend.url()]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_is_wrong() {
    let situation = "The secret here is not Sendarix's";
    let mut drill = Drill::begin(Backend::start(Kind::Sqlite)).await;
    drill.write_secret("the secret of another endpoint");
    let refused = async || drill.application().send("evt_before_0").await == Sent::Answered(401);
    eventually("the wrong secret is read", refused).await;
    // What matched until then was before.
    drill.scrapes.clear();
    drill.scrape(30).await;
    assert_eq!(drill.sendarix_delivers("during", 1).await, 0);
    drill.scrape(30).await;
    Row::assert_logged(situation, &drill.log());
    drill.write_secret(SECRET);
    drill.end(situation).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_is_wrong() {
    let situation = "The clock is wrong";
    let mut drill = Drill::begin(Backend::start(Kind::Redis)).await;
    std::fs::write(drill.path("clock"), "+600").unwrap();
    assert_eq!(drill.sendarix_delivers("during", 1).await, 0);
    drill.scrape(30).await;
    Row::assert_logged(situation, &drill.log());
    std::fs::write(drill.path("clock"), "+0").unwrap();
    drill.end(situation).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_is_down() {
    let situation = "The store is down";
    let mut drill = Drill::begin(Backend::start(Kind::Postgres)).await;
    drill.backend.kill();
    assert_eq!(drill.sendarix_delivers("during", 1).await, 0);
    drill.scrape(30).await;
    Row::assert_logged(situation, &drill.log());
    drill.backend.start_again();
    drill.end(situation).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_is_full() {
    let situation = "The disk is full";
    let mut drill = Drill::begin(Backend::on_small_disk(Kind::Sqlite, &[])).await;
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
    drill.scrape(30).await;
    Row::assert_logged(situation, &drill.log());
    std::fs::remove_file(filling).unwrap();
    drill.end(situation).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_broke_the_handler() {
    let situation = "A deploy broke the handler";
    let mut drill = Drill::begin(Backend::start(Kind::Postgres)).await;
    std::fs::write(drill.path("broken"), "").unwrap();
    assert_eq!(drill.sendarix_delivers("during", ATTEMPTS).await, 0);
    // Longer than Sendarix tries.
    drill.scrape(9 * 60).await;
    Row::assert_logged(situation, &drill.log());
    std::fs::remove_file(drill.path("broken")).unwrap();
    let redriven = drill.path("redriven");
    let handle = format!("cat > /dev/null; echo \"$SENDARIX_EVENT_ID\" >> {}", redriven.display());
    letters(&drill.backend, &["redrive", "--all", "--", "sh", "-c", &handle]);
    drill.handled.extend(std::fs::read_to_string(&redriven).unwrap().lines().map(str::to_owned));
    assert_eq!(drill.handled.len(), EVENTS);
    drill.end(situation).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_forged_requests() {
    let situation = "A flood of forged requests";
    let mut drill = Drill::begin(Backend::start(Kind::Redis)).await;
    let client = reqwest::Client::new();
    for number in 0..500 {
        let request = client.post(drill.application().url()).header("x-sendarix-signature", format!("{number:064x}"));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let request = request.header("x-sendarix-timestamp", now).body(r#"{"event_id":"evt_forged"}"#);
        assert_eq!(request.send().await.unwrap().status().as_u16(), 401);
    }
    assert_eq!(drill.sendarix_delivers("during", 1).await, EVENTS, "real events are handled meanwhile");
    drill.scrape(30).await;
    Row::assert_logged(situation, &drill.log());
    drill.end(situation).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_is_gone_for_a_day() {
    let situation = "The process is gone for a day";
    let mut drill = Drill::begin(Backend::start(Kind::Sqlite)).await;
    drill.handled.extend(drill.application().all_handled().await);
    drill.application.take().unwrap().kill();
    drill.sent.extend((0..EVENTS).map(|number| format!("evt_during_{number}")));
    drill.scrape(24 * 60).await;
    drill.start();
    drill.end(situation).await;
}
