//! A simulated Sendarix, for staging.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::Args;
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use sendarix_webhooks::testing::{Sample, SimulatedRequest, Simulation};
use sendarix_webhooks::verify::SECRET_VARIABLE;
use sendarix_webhooks::{EventType, SigningSecret};

#[derive(Args)]
#[command(after_help = "Exits with 1 if an event was given up.")]
pub(crate) struct Simulate {
    /// The endpoint
    #[arg(long, default_value = "http://127.0.0.1:3000/webhooks/sendarix")]
    url: Url,

    /// The secret that the endpoint shares with Sendarix
    #[arg(env = SECRET_VARIABLE, long, hide_env_values = true, hide = true)]
    secret: String,

    /// How many messages to send events of, three or four each
    #[arg(long, default_value_t = 100, value_name = "N")]
    messages: usize,

    /// Decides all that is left to chance
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,

    /// The schedule passes so many times faster; 1 takes up to 7 h 35 min, and more than a retry of the receiver's 503
    /// should take loses events
    #[arg(long, default_value_t = 1000.0, value_name = "TIMES")]
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

    /// Events overtake each other within so many seconds of the schedule
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

pub(crate) async fn run(options: Simulate) -> anyhow::Result<ExitCode> {
    let secret = SigningSecret::new(&options.secret).with_context(|| SECRET_VARIABLE.to_owned())?;
    let reorder = Duration::try_from_secs_f64(options.reorder).context("--reorder")?;
    anyhow::ensure!(options.rate.is_none_or(|rate| rate > 0.0), "--rate must be more than 0");
    // To Sendarix a redirect is a failure.
    let client = Client::builder().redirect(Policy::none()).pool_max_idle_per_host(options.connections).build()?;
    let url = options.url;
    let send = move |request: SimulatedRequest| {
        let mut post = client.post(url.clone()).body(request.body);
        for (name, value) in request.headers {
            post = post.header(name, value);
        }
        async move {
            let answer = post.send().await.map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
            Ok::<u16, String>(answer.status().as_u16())
        }
    };
    let simulation = Simulation::new(secret)
        .seed(options.seed)
        .compress(options.compress)
        .jitter(options.jitter)
        .lose_answers(options.lose_answers)
        .duplicate(options.duplicate)
        .reorder(reorder)
        .pace(options.rate.unwrap_or(f64::INFINITY), options.burst)
        .connections(options.connections);
    let ledger = simulation.run((0..options.messages).flat_map(message), send).await;
    println!("{ledger}");
    for event in ledger.events().iter().filter(|event| event.acknowledged_by().is_none()) {
        println!("given up: {}", event.event_id);
    }
    Ok(if ledger.given_up() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What happens to a message: most are delivered and opened, some are not.
fn message(number: usize) -> Vec<Vec<u8>> {
    use EventType::{Accepted, Bounce, Click, Complaint, Deferred, Delivered, Open, SoftBounce, Unsubscribe};
    let events: &[EventType] = match number % 50 {
        3 => &[Accepted, Bounce],
        7 => &[Accepted, Deferred, SoftBounce, Delivered],
        11 => &[Accepted, Delivered, Open, Unsubscribe],
        13 if number % 500 == 13 => &[Accepted, Delivered, Complaint],
        0..25 => &[Accepted, Delivered, Open, Click],
        _ => &[Accepted, Delivered, Open],
    };
    let (id, now) = (format!("msg_{:016x}", rand::random::<u64>()), SystemTime::now());
    let recipient = format!("user{number}@example.com");
    let bodies = events.iter().zip(0..).map(|(event_type, second)| {
        let sample = Sample::new(*event_type).message_id(&*id).recipient(&*recipient);
        sample.timestamp(now + Duration::from_secs(second)).body()
    });
    bodies.collect()
}
