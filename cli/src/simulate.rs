//! A simulated Sendarix, for staging.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::Args;
use reqwest::{Client, Url};
use sendarix_webhooks::testing::{Sample, SimulatedRequest, Simulation};
use sendarix_webhooks::{EventType, SigningSecret};

use crate::client::{self, Endpoint};
use crate::output;

#[derive(Args)]
#[command(after_help = "Examples:
  sendarix simulate --lose-answers 0.05 --duplicate 0.01   a bad day, in some seconds
  sendarix simulate --messages 100000 --rate 170           10,000 events a minute
  sendarix simulate --compress 1                           Sendarix's own pace, up to 7 h 35 min
  sendarix simulate --also http://127.0.0.1:3000/webhooks/sendarix-staging=SENDARIX_STAGING_SECRET

An event that is given up may have been handled: its last answer may be the one that was lost.

Exits with 1 if an event was given up.")]
pub(crate) struct Simulate {
    #[command(flatten)]
    endpoint: Endpoint,

    /// Send the same events to another endpoint as well, signed with the secret in this variable
    #[arg(long, value_name = "URL=VARIABLE", value_parser = other_endpoint)]
    also: Vec<(Url, String)>,

    /// How many messages to send events of, three or four each
    #[arg(long, default_value_t = 100, value_name = "N")]
    messages: usize,

    /// Decides everything that is left to chance: the same seed gives the same ids, types and faults again, with current
    /// times [default: a new one, which is printed]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// How many times faster the schedule passes. By default its six attempts take 4 min 33 s, longer than the lease of 60 s
    /// that a crashed receiver leaves behind; above 450 events are lost to it
    #[arg(long, default_value_t = 100.0, value_name = "TIMES")]
    compress: f64,

    /// The share by which pauses are longer or shorter
    #[arg(long, default_value_t = 0.1, value_name = "SHARE")]
    jitter: f64,

    /// The share of answers that are lost on their way back
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    lose_answers: f64,

    /// The share of requests that a load balancer sends twice
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    duplicate: f64,

    /// Events overtake each other within this many seconds of the schedule
    #[arg(long, default_value_t = 0.0, value_name = "SECONDS")]
    reorder: f64,

    /// How many events a second; without it, as many as there are connections for
    #[arg(long, value_name = "N")]
    rate: Option<f64>,

    /// How many events begin at the same moment
    #[arg(long, default_value_t = 1, value_name = "N")]
    burst: usize,

    /// How many requests at the same time
    #[arg(long, default_value_t = 16, value_name = "N")]
    connections: usize,
}

/// The secret's variable has no `=` in it, as a URL may.
fn other_endpoint(text: &str) -> anyhow::Result<(Url, String)> {
    let (url, variable) = text.rsplit_once('=').context("there is no =VARIABLE with the endpoint's secret")?;
    Ok((url.parse()?, variable.to_owned()))
}

pub(crate) async fn run(options: Simulate) -> anyhow::Result<ExitCode> {
    let seed = options.seed.unwrap_or_else(rand::random);
    let reorder = Duration::try_from_secs_f64(options.reorder).context("--reorder")?;
    anyhow::ensure!(options.rate.is_none_or(|rate| rate > 0.0), "--rate must be more than 0");
    let mut endpoints = vec![(options.endpoint.url.clone(), options.endpoint.secret()?)];
    for (url, variable) in &options.also {
        let secret = std::env::var(variable).with_context(|| variable.clone())?;
        endpoints.push((url.clone(), SigningSecret::new(&secret).with_context(|| variable.clone())?));
    }
    let client = client::builder().pool_max_idle_per_host(options.connections).build()?;
    let simulation = |secret| {
        Simulation::new(secret)
            .seed(seed)
            .compress(options.compress)
            .jitter(options.jitter)
            .lose_answers(options.lose_answers)
            .duplicate(options.duplicate)
            .reorder(reorder)
            .pace(options.rate.unwrap_or(f64::INFINITY), options.burst)
            .connections(options.connections)
    };
    let mut runs = Vec::new();
    for (url, secret) in endpoints {
        let messages = (0..options.messages).flat_map(move |number| message(seed, number));
        let (client, to) = (client.clone(), url.clone());
        let send = move |request| {
            let sent = send(client.clone(), to.clone(), request);
            async move { sent.await.map_err(|error| format!("{error:#}")) }
        };
        runs.push((url, tokio::spawn(simulation(secret).run(messages, send))));
    }
    let (several, mut given_up) = (runs.len() > 1, 0);
    for (url, run) in runs {
        let ledger = run.await?;
        if several {
            output::print(&url)?;
        }
        output::print(&ledger)?;
        for event in ledger.events().iter().filter(|event| event.acknowledged_by().is_none()) {
            output::print(format_args!("given up, may have been handled: {}", event.event_id))?;
        }
        given_up += ledger.given_up();
    }
    output::print(format_args!("seed {seed}"))?;
    Ok(if given_up == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Sends a request, and returns the status of its answer.
async fn send(client: Client, url: Url, request: SimulatedRequest) -> anyhow::Result<u16> {
    let post = client.post(url).body(request.body);
    let post = request.headers.into_iter().fold(post, |post, (name, value)| post.header(name, value));
    Ok(post.send().await?.status().as_u16())
}

/// What happens to a message: most are delivered and opened, some are not.
fn message(seed: u64, number: usize) -> Vec<Vec<u8>> {
    use EventType::{Accepted, Bounce, Click, Complaint, Deferred, Delivered, Open, SoftBounce, Unsubscribe};
    let events: &[EventType] = match number % 50 {
        3 => &[Accepted, Bounce],
        7 => &[Accepted, Deferred, SoftBounce, Delivered],
        11 => &[Accepted, Delivered, Open, Unsubscribe],
        13 if number % 500 == 13 => &[Accepted, Delivered, Complaint],
        0..25 => &[Accepted, Delivered, Open, Click],
        _ => &[Accepted, Delivered, Open],
    };
    let (id, now) = (format!("msg_{seed:016x}_{number}"), SystemTime::now());
    let recipient = format!("user{number}@example.com");
    let bodies = events.iter().zip(0_u32..).map(|(event_type, second)| {
        let sample = Sample::new(*event_type).event_id(format!("evt_{seed:016x}_{number}_{second}"));
        let sample = sample.message_id(&*id).recipient(&*recipient);
        sample.timestamp(now + Duration::from_secs(second.into())).body()
    });
    bodies.collect()
}
