//! The pipeline without HTTP (admit, verify, decode, claim, handler, complete) for the documented bounce of 282 bytes,
//! with a new id each time, against what two other crates take to verify the same bytes alone.
//!
//! ```sh
//! cargo bench --bench pipeline
//! ```
//!
//! The candidates take turns in short rounds, so that whatever else the machine does hits them alike; a figure is the
//! median of its rounds, and a ratio the median of the ratios within a round.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing, missing_docs)]

use std::hint::black_box;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use sendarix_webhooks::testing::signed_headers;
use sendarix_webhooks::{HandlerError, Head, Outcome, Receiver, SigningSecret};

const ROUNDS: usize = 400;
const EVENTS: usize = 500;

type Headers = [(&'static str, String); 2];

/// The documented sample, compact, with an id of the same length.
fn bounce(id: usize) -> Vec<u8> {
    let body = format!(
        r#"{{"event_id":"evt_{id:012}","event_type":"bounce","timestamp":"2026-04-19T14:30:45Z","message_id":"msg_abc123xyz","recipient":"invalid@example.com","data":{{"bounce_type":"hard","bounce_category":"invalid_email","smtp_code":550,"smtp_message":"No such user","was_automatic":true}}}}"#
    );
    assert_eq!(body.len(), 282);
    body.into_bytes()
}

async fn pipeline(receiver: &Receiver, headers: &Headers, body: Vec<u8>) -> Outcome {
    let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
    let admitted = receiver.admit(&Head::new("POST", headers)).unwrap();
    let verified = admitted.verify(body).unwrap();
    let handler = |delivery| async move {
        drop(black_box(delivery));
        Ok::<(), HandlerError>(())
    };
    verified.deliver(handler).await.outcome()
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let secret = SigningSecret::new("whsec_0123456789abcdef").unwrap();
    let receiver = Receiver::builder(secret.clone()).build().unwrap();

    let key = b"whsec_0123456789abcdef".to_vec();
    let svix = svix::webhooks::Webhook::from_bytes(key.clone()).unwrap();
    let standard = standardwebhooks::Webhook::from_bytes(key).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let body = bounce(0);
    let signature = svix.sign("msg_1", i64::try_from(now).unwrap(), &body).unwrap();
    let mut headers = HeaderMap::new();
    for (name, value) in [("id", "msg_1"), ("timestamp", &now.to_string()), ("signature", &signature)] {
        for provider in ["svix", "webhook"] {
            headers.insert(http::HeaderName::try_from(format!("{provider}-{name}")).unwrap(), value.parse().unwrap());
        }
    }

    let mut rounds: Vec<[Duration; 3]> = Vec::new();
    for round in 0..ROUNDS {
        let svix_took = timed(|| svix.verify(black_box(&body), &headers).unwrap());
        let standard_took = timed(|| standard.verify(black_box(&body), &headers).unwrap());
        let events: Vec<(Headers, Vec<u8>)> = (0..EVENTS)
            .map(|event| bounce(round * EVENTS + event))
            .map(|body| (signed_headers(&secret, &body, SystemTime::now()), body))
            .collect();
        let pipeline_took = runtime.block_on(async {
            let start = Instant::now();
            for (headers, body) in events {
                assert_eq!(pipeline(&receiver, &headers, body).await, Outcome::Processed);
            }
            start.elapsed()
        });
        rounds.push([svix_took, standard_took, pipeline_took]);
    }

    let nanos =
        |candidate: usize| median(rounds.iter().map(|round| round[candidate].as_secs_f64() * 1e9 / EVENTS as f64));
    let ratio = |peer: usize| median(rounds.iter().map(|round| round[2].as_secs_f64() / round[peer].as_secs_f64()));
    println!("pipeline without HTTP, {EVENTS} events of 282 bytes a round, {ROUNDS} rounds");
    println!("  svix, verify alone              {:>6.0} ns", nanos(0));
    println!("  standardwebhooks, verify alone  {:>6.0} ns", nanos(1));
    println!("  this crate, the whole pipeline  {:>6.0} ns", nanos(2));
    println!("  ratio to svix                   {:>6.2}", ratio(0));
    println!("  ratio to standardwebhooks       {:>6.2}", ratio(1));
}

fn timed(mut step: impl FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..EVENTS {
        step();
    }
    start.elapsed()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
