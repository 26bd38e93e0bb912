//! The example that feeds four destinations, one of which goes away and comes back.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use async_nats::jetstream;
use sendarix_webhooks::SendarixEvent;
use tokio::task::JoinSet;

use crate::support::{Backend, Instance, Kind, Sent, eventually};

/// A bus of this test's own.
struct Nats {
    process: Child,
    port: u16,
    dir: std::path::PathBuf,
}

impl Nats {
    async fn start(backend: &Backend) -> Self {
        let dir = backend.dir().join("nats");
        // Another process may take the port before the server does.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut nats = Self { process: Self::spawn(port, &dir), port, dir: dir.clone() };
            nats.until_it_listens().await;
            if nats.process.try_wait().unwrap().is_none() {
                return nats;
            }
        }
        panic!("the bus does not start");
    }

    fn spawn(port: u16, dir: &std::path::Path) -> Child {
        let mut command = Command::new("nats-server");
        command.args(["--addr", "127.0.0.1", "--port", &port.to_string(), "--jetstream", "--store_dir"]).arg(dir);
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("nats-server is installed; `bash tests/run` installs it")
    }

    async fn until_it_listens(&self) {
        eventually("the bus listens", || async { TcpStream::connect(("127.0.0.1", self.port)).is_ok() }).await;
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    async fn start_again(&mut self) {
        self.process = Self::spawn(self.port, &self.dir);
        self.until_it_listens().await;
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The ids of all messages in the stream.
    async fn ids(&self) -> Vec<String> {
        let context = jetstream::new(async_nats::connect(self.url()).await.unwrap());
        let stream = context.get_stream("SENDARIX").await.unwrap();
        let mut ids = Vec::new();
        for sequence in 1..=stream.get_info().await.unwrap().state.last_sequence {
            let message = stream.get_raw_message(sequence).await.unwrap();
            assert_eq!(message.subject.as_str(), "sendarix.delivered");
            let event = SendarixEvent::decode(message.payload).unwrap();
            for (name, value) in event.to_cloud_event("/webhooks/sendarix").binary_headers() {
                assert_eq!(message.headers.get(name).map(|found| found.as_str()), Some(value.as_str()), "{name}");
            }
            let trace = ["traceparent", "tracestate", "forged"]
                .map(|name| message.headers.get(name).map(|found| found.as_str()));
            assert_eq!(trace, [Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), None, None]);
            ids.push(event.event_id.clone());
        }
        ids
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort_unstable();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bus_goes_away_for_a_while_and_each_destination_has_every_event_once() {
    let backend = Backend::start(Kind::Sqlite);
    let mut nats = Nats::start(&backend).await;
    let [jobs, warehouse] = ["jobs.sqlite", "events.jsonl"].map(|name| backend.dir().join(name));
    let arguments = ["--listen", "127.0.0.1:0", "--store", &backend.url(), "--nats", &nats.url(), "--jobs"];
    let paths = [jobs.to_str().unwrap(), "--warehouse", warehouse.to_str().unwrap()];
    let instance = std::sync::Arc::new(Instance::start("fan_out", &[arguments.as_slice(), &paths].concat()));
    let ids: Vec<String> = (0..60).map(|number| format!("evt_{number:02}")).collect();
    let send = async |ids: &[String]| {
        let mut sends = JoinSet::new();
        for id in ids {
            let (instance, id) = (std::sync::Arc::clone(&instance), id.clone());
            sends.spawn(async move { instance.send(&id).await });
        }
        sends.join_all().await
    };
    assert_eq!(send(&ids[..20]).await, [Sent::Answered(200); 20]);
    nats.kill();
    assert_eq!(send(&ids[20..40]).await, [Sent::Answered(503); 20], "the bus does not have it");
    nats.start_again().await;
    for id in &ids {
        instance.send_until_acknowledged(id).await;
    }
    assert_eq!(sorted(nats.ids().await), ids);
    let lines = std::fs::read_to_string(&warehouse).unwrap();
    let written = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    assert_eq!(sorted(written.map(|line| line["event_id"].as_str().unwrap().to_owned()).collect()), ids);
    let query = ["-cmd", ".timeout 5000", jobs.to_str().unwrap(), "SELECT CAST(job AS TEXT) FROM Jobs"];
    let output = Command::new("sqlite3").args(query).output().unwrap();
    let queued = String::from_utf8(output.stdout).unwrap();
    let queued = queued.lines().map(|job| serde_json::from_str::<SendarixEvent>(job).unwrap().event_id.clone());
    assert_eq!(sorted(queued.collect()), ids);
    assert_eq!(instance.handled(), [""; 0], "no alert of deliveries");
    let letters = backend.stores().1;
    for endpoint in ["default", "default/bus"] {
        assert!(letters.list(endpoint, None, 10).await.unwrap().is_empty(), "{endpoint}");
    }
}
