//! Single events, copies of them, and what a receiver must refuse.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Client;
use sendarix_webhooks::testing::{Sample, signed_headers};
use sendarix_webhooks::{EventType, SendarixEvent, SigningSecret};
use tokio::task::JoinSet;

use crate::client::{self, Endpoint};
use crate::output;

#[derive(Clone, Args)]
#[command(after_help = "Examples:
  sendarix trigger                                   one event of each documented type
  sendarix trigger accepted delivered open --message-id msg_1   three events of one message
  sendarix trigger bounce --event-id evt_1 --duplicates 1       one event, sent twice
  sendarix trigger all --count 1000 --concurrency 16            9,000 events and a summary
  sendarix trigger delivered --tamper                           a request that must be answered 401

Exits with 1 if a request got no answer.")]
pub(crate) struct Trigger {
    /// The types of event, in this order, or `all` for one of each documented type
    #[arg(default_value = "all", hide_default_value = true, value_name = "TYPE")]
    events: Vec<Events>,

    #[command(flatten)]
    endpoint: Endpoint,

    /// The id of the event, instead of a new one for each
    #[arg(long, value_name = "ID")]
    event_id: Option<String>,

    /// The message that the events are of, instead of a new one for each
    #[arg(long, value_name = "ID")]
    message_id: Option<String>,

    /// The recipient of the message
    #[arg(long, value_name = "ADDRESS")]
    recipient: Option<String>,

    /// How many events of each type
    #[arg(long, default_value_t = 1, value_name = "N")]
    count: usize,

    /// How many further copies of each event
    #[arg(long, default_value_t = 0, value_name = "N")]
    duplicates: usize,

    /// How many requests at the same time
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,

    /// Change the body after it was signed: expect 401
    #[arg(long)]
    tamper: bool,

    /// Send the timestamp of ten minutes ago: expect 401
    #[arg(long)]
    stale: bool,

    /// Send the bytes of this file instead of a sample, whatever they are
    #[arg(long, value_name = "FILE", conflicts_with_all = ["events", "event_id", "message_id", "recipient"])]
    body: Option<PathBuf>,
}

#[derive(Clone)]
enum Events {
    All,
    Of(EventType),
}

impl Events {
    fn types(&self) -> &[EventType] {
        match self {
            Self::All => EventType::ALL,
            Self::Of(event_type) => std::slice::from_ref(event_type),
        }
    }
}

impl Trigger {
    fn sample(&self, event_type: EventType) -> Sample {
        let mut sample = Sample::new(event_type);
        if let Some(id) = &self.event_id {
            sample = sample.event_id(id);
        }
        if let Some(id) = &self.message_id {
            sample = sample.message_id(id);
        }
        if let Some(address) = &self.recipient {
            sample = sample.recipient(address);
        }
        sample
    }
}

impl FromStr for Events {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if name == "all" {
            return Ok(Self::All);
        }
        let event_type: EventType = name.parse().map_err(|error| format!("{error}, or all"))?;
        Ok(Self::Of(event_type))
    }
}

/// More answers than this are summed up instead of printed.
const PRINTED: usize = 20;

pub(crate) async fn run(options: Trigger) -> anyhow::Result<ExitCode> {
    let secret = options.endpoint.secret()?;
    let bodies = bodies(&options)?;
    let total = bodies.len();
    // A short queue is printed answer by answer, a long one shows a bar and a summary.
    let progress = if total > PRINTED { bar(total) } else { ProgressBar::hidden() };

    let queue = Arc::new(Mutex::new(bodies.into_iter()));
    let client = client::builder().timeout(Duration::from_secs(10)).build()?;
    let start = Instant::now();
    let mut senders = JoinSet::new();
    for _ in 0..options.concurrency {
        let (options, secret, client) = (options.clone(), secret.clone(), client.clone());
        let (queue, progress) = (Arc::clone(&queue), progress.clone());
        senders.spawn(async move {
            let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let mut answers = Vec::new();
            while let Some(body) = next() {
                let answer = send(&client, &options, &secret, body).await;
                if total <= PRINTED {
                    output::print(&answer)?;
                }
                answers.push(answer);
                progress.inc(1);
            }
            anyhow::Ok(answers)
        });
    }
    let mut answers = Vec::new();
    while let Some(sent) = senders.join_next().await {
        answers.extend(sent??);
    }
    progress.finish_and_clear();
    if total > PRINTED {
        summarise(&answers, start.elapsed())?;
    }
    let lost = answers.iter().any(|answer| answer.status.is_err());
    Ok(if lost { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The bodies to send, copies of one next to each other.
fn bodies(options: &Trigger) -> anyhow::Result<Vec<Vec<u8>>> {
    let types: Vec<EventType> = options.events.iter().flat_map(|events| events.types()).copied().collect();
    anyhow::ensure!(
        options.event_id.is_none() || types.len() * options.count == 1,
        "--event-id is the id of one event; name one type, and let --duplicates send copies of it"
    );
    let mut bodies = Vec::new();
    for _ in 0..options.count {
        match &options.body {
            Some(path) => bodies.push(std::fs::read(path).with_context(|| format!("reading {}", path.display()))?),
            None => bodies.extend(types.iter().map(|event_type| options.sample(*event_type).body())),
        }
    }
    let copies = |body| std::iter::repeat_n(body, options.duplicates + 1);
    Ok(bodies.into_iter().flat_map(copies).collect())
}

struct Answer {
    event: String,
    /// The status and the text of the answer, or why there was none.
    status: Result<(u16, String), String>,
    took: Duration,
}

async fn send(client: &Client, options: &Trigger, secret: &SigningSecret, mut body: Vec<u8>) -> Answer {
    let event = match SendarixEvent::decode(body.clone()) {
        Ok(event) => format!("{} {}", event.type_name(), event.event_id),
        Err(_) => format!("{} bytes", body.len()),
    };
    let age = Duration::from_secs(if options.stale { 600 } else { 0 });
    let headers = signed_headers(secret, &body, SystemTime::now() - age);
    if options.tamper {
        body.push(b' ');
    }
    let mut request = client.post(options.endpoint.url.clone()).header("content-type", "application/json").body(body);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let start = Instant::now();
    let answer = async {
        let response = request.send().await?;
        Ok::<_, reqwest::Error>((response.status().as_u16(), response.text().await?))
    };
    let status = answer.await.map_err(|error| format!("{:#}", anyhow::Error::from(error)));
    Answer { event, status, took: start.elapsed() }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let took = self.took.as_secs_f64() * 1000.0;
        match &self.status {
            Ok((status, text)) => write!(f, "{status} {} {took:.1} ms {}", self.event, text.escape_debug()),
            Err(error) => write!(f, "no answer {} {took:.1} ms {error}", self.event),
        }
    }
}

fn bar(total: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta} left");
    ProgressBar::new(total as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn summarise(answers: &[Answer], took: Duration) -> io::Result<()> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for answer in answers {
        let label = match &answer.status {
            Ok((status, text)) => format!("{status} {}", text.escape_debug()),
            Err(error) => format!("no answer: {error}"),
        };
        *counts.entry(label).or_default() += 1;
    }
    for (label, count) in counts {
        output::print(format_args!("{count:>9} × {label}"))?;
    }
    let mut latencies: Vec<f64> = answers.iter().map(|answer| answer.took.as_secs_f64() * 1000.0).collect();
    latencies.sort_unstable_by(f64::total_cmp);
    let [p50, p90, p99, max] = [50, 90, 99, 100].map(|percent| {
        let rank = (latencies.len() * percent).div_ceil(100).saturating_sub(1);
        latencies.get(rank).copied().unwrap_or_default()
    });
    let seconds = took.as_secs_f64();
    let rate = answers.len() as f64 / seconds;
    output::print(format_args!("{} requests in {seconds:.2} s, {rate:.0} a second", answers.len()))?;
    output::print(format_args!("latency in ms: p50 {p50:.1}, p90 {p90:.1}, p99 {p99:.1}, max {max:.1}"))
}
