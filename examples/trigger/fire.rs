//! Single events, copies of them, and what a receiver must refuse.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{Client, Url};
use sendarix_webhooks::testing::{Sample, signed_headers};
use sendarix_webhooks::verify::SECRET_VARIABLE;
use sendarix_webhooks::{EventType, SendarixEvent, SigningSecret};
use tokio::task::JoinSet;

#[derive(Clone, Args)]
pub(crate) struct Fire {
    /// The type of event, or `all` for one of each documented type
    #[arg(required_unless_present = "body", default_value = "all", hide_default_value = true)]
    event: Events,

    /// The endpoint
    #[arg(long, default_value = "http://127.0.0.1:3000/webhooks/sendarix")]
    url: Url,

    /// The secret that the endpoint shares with Sendarix
    #[arg(env = SECRET_VARIABLE, long, hide_env_values = true, hide = true)]
    secret: Option<String>,

    /// The id of the events, instead of a new one for each
    #[arg(long, value_name = "ID")]
    event_id: Option<String>,

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
    #[arg(long, value_name = "FILE", conflicts_with_all = ["event", "event_id"])]
    body: Option<PathBuf>,
}

#[derive(Clone)]
enum Events {
    All,
    Of(String),
}

impl FromStr for Events {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if name == "all" {
            return Ok(Self::All);
        }
        let event_type: EventType = name.parse().map_err(|error| format!("{error}, or all"))?;
        Ok(Self::Of(event_type.to_string()))
    }
}

/// More answers than this are summed up instead of printed.
const PRINTED: usize = 20;

pub(crate) async fn run(options: Fire) -> anyhow::Result<ExitCode> {
    let secret = options.secret.as_deref().with_context(|| format!("{SECRET_VARIABLE} is not set"))?;
    let secret = SigningSecret::new(secret).with_context(|| SECRET_VARIABLE.to_owned())?;
    let bodies = bodies(&options)?;
    let total = bodies.len();
    // A short queue is printed answer by answer, a long one shows a bar and a summary.
    let progress = if total > PRINTED { bar(total) } else { ProgressBar::hidden() };

    let queue = Arc::new(Mutex::new(bodies.into_iter()));
    let client = Client::builder().timeout(Duration::from_secs(10)).build()?;
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
                    println!("{answer}");
                }
                answers.push(answer);
                progress.inc(1);
            }
            answers
        });
    }
    let answers: Vec<Answer> = senders.join_all().await.into_iter().flatten().collect();
    progress.finish_and_clear();
    if total > PRINTED {
        summarise(&answers, start.elapsed());
    }
    let lost = answers.iter().any(|answer| answer.status.is_err());
    Ok(if lost { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The bodies to send, copies of one next to each other.
fn bodies(options: &Fire) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut bodies = Vec::new();
    let types: Vec<EventType> = match &options.event {
        Events::All => EventType::ALL.to_vec(),
        Events::Of(name) => vec![name.parse()?],
    };
    for _ in 0..options.count {
        match &options.body {
            Some(path) => bodies.push(std::fs::read(path).with_context(|| format!("reading {}", path.display()))?),
            None => bodies.extend(types.iter().map(|event_type| {
                let sample = Sample::new(*event_type);
                options.event_id.iter().fold(sample, |sample, id| sample.event_id(id)).body()
            })),
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

async fn send(client: &Client, options: &Fire, secret: &SigningSecret, mut body: Vec<u8>) -> Answer {
    let event = match SendarixEvent::decode(body.clone()) {
        Ok(event) => format!("{} {}", event.type_name(), event.event_id),
        Err(_) => format!("{} bytes", body.len()),
    };
    let age = Duration::from_secs(if options.stale { 600 } else { 0 });
    let headers = signed_headers(secret, &body, SystemTime::now() - age);
    if options.tamper {
        body.push(b' ');
    }
    let mut request = client.post(options.url.clone()).header("content-type", "application/json").body(body);
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

fn summarise(answers: &[Answer], took: Duration) {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for answer in answers {
        let label = match &answer.status {
            Ok((status, text)) => format!("{status} {}", text.escape_debug()),
            Err(error) => format!("no answer: {error}"),
        };
        *counts.entry(label).or_default() += 1;
    }
    for (label, count) in counts {
        println!("{count:>9} × {label}");
    }
    let mut latencies: Vec<f64> = answers.iter().map(|answer| answer.took.as_secs_f64() * 1000.0).collect();
    latencies.sort_unstable_by(f64::total_cmp);
    let [p50, p90, p99, max] = [50, 90, 99, 100].map(|percent| {
        let rank = (latencies.len() * percent).div_ceil(100).saturating_sub(1);
        latencies.get(rank).copied().unwrap_or_default()
    });
    println!(
        "{} requests in {:.2} s, {:.0} a second",
        answers.len(),
        took.as_secs_f64(),
        answers.len() as f64 / took.as_secs_f64()
    );
    println!("latency in ms: p50 {p50:.1}, p90 {p90:.1}, p99 {p99:.1}, max {max:.1}");
}
