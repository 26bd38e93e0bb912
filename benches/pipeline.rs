//! The pipeline without HTTP (admit, verify, decode, claim, handler, complete) for the documented bounce of 282 bytes, with
//! a new id each time: against what two other crates take to verify the same bytes alone; against the limit, which is
//! HMAC and a borrowed decode of the same bytes; and what refusing a forged request takes of accepting a true one.
//!
//! ```sh
//! cargo bench --package sendarix-webhooks-benches --bench pipeline
//! ```

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::hint::black_box;
use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use sendarix_webhooks::{Outcome, Receiver};
use sendarix_webhooks_benches::Target::AtMost;
use sendarix_webhooks_benches::{Event, Rounds, SECRET, row, secret, timed};
use serde::Deserialize;
use sha2::Sha256;
use subtle::ConstantTimeEq;

const ROUNDS: usize = 400;
const EVENTS: usize = 500;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let receiver = Receiver::builder(secret()).dangerously_without_dead_letters().build().unwrap();
    let svix = svix::webhooks::Webhook::from_bytes(SECRET.to_vec()).unwrap();
    let standard = standardwebhooks::Webhook::from_bytes(SECRET.to_vec()).unwrap();
    let limit = Limit::new();

    let mut rounds = Rounds::<5>::default();
    for round in 0..ROUNDS {
        let events: Vec<Event> = (0..EVENTS).map(|event| Event::bounce(round * EVENTS + event)).collect();
        let forged: Vec<Event> = (0..EVENTS).map(|event| Event::bounce(event).forged()).collect();
        let signed: Vec<(HeaderMap, [u8; 32], &[u8])> = events
            .iter()
            .map(|event| (peer_headers(&svix, &event.body), limit.sign(&event.body), &*event.body))
            .collect();
        rounds.add_turns(|candidate| {
            timed(|| match candidate {
                0 => signed.iter().for_each(|(headers, _, body)| svix.verify(black_box(body), headers).unwrap()),
                1 => signed.iter().for_each(|(headers, _, body)| standard.verify(black_box(body), headers).unwrap()),
                2 => signed.iter().for_each(|(_, signature, body)| limit.verify_and_decode(signature, black_box(body))),
                3 => runtime.block_on(async {
                    for event in &events {
                        assert_eq!(event.deliver(&receiver).unwrap().await.outcome(), Outcome::Processed);
                    }
                }),
                _ => forged.iter().for_each(|event| drop(event.deliver(&receiver).unwrap_err())),
            })
        });
    }

    println!("pipeline without HTTP, {EVENTS} events of 282 bytes a round, {ROUNDS} rounds");
    let names = [
        "svix, verify alone",
        "standardwebhooks, verify alone",
        "HMAC and a borrowed decode",
        "the whole pipeline",
        "a forged request",
    ];
    for (candidate, name) in names.into_iter().enumerate() {
        println!("  {name:<32}{:>6.0} ns", rounds.seconds(candidate) * 1e9 / EVENTS as f64);
    }
    row("pipeline without HTTP, time an event", "`svix` verifying the same bytes", AtMost(0.40), rounds.ratio(3, 0));
    row("the same", "HMAC and a borrowed decode, nothing else", AtMost(1.5), rounds.ratio(3, 2));
    row("refusing a forged request", "accepting a true one", AtMost(0.7), rounds.ratio(4, 3));
}

/// Under the names that both crates look for.
fn peer_headers(svix: &svix::webhooks::Webhook, body: &[u8]) -> HeaderMap {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let signature = svix.sign("msg_1", i64::try_from(now).unwrap(), body).unwrap();
    let mut headers = HeaderMap::new();
    for (name, value) in [("id", "msg_1"), ("timestamp", &now.to_string()), ("signature", &signature)] {
        for provider in ["svix", "webhook"] {
            headers.insert(http::HeaderName::try_from(format!("{provider}-{name}")).unwrap(), value.parse().unwrap());
        }
    }
    headers
}

/// What no receiver of typed events can do without, with the same libraries.
struct Limit(Hmac<Sha256>);

#[derive(Deserialize)]
#[expect(dead_code, reason = "reading is what is measured")]
struct Borrowed<'a> {
    event_id: &'a str,
    event_type: &'a str,
    timestamp: &'a str,
    message_id: &'a str,
    recipient: &'a str,
    #[serde(borrow)]
    data: BorrowedBounce<'a>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "reading is what is measured")]
struct BorrowedBounce<'a> {
    bounce_type: &'a str,
    bounce_category: &'a str,
    smtp_code: u16,
    smtp_message: &'a str,
    was_automatic: bool,
}

impl Limit {
    fn new() -> Self {
        Self(Hmac::new_from_slice(SECRET).unwrap())
    }

    fn sign(&self, body: &[u8]) -> [u8; 32] {
        self.0.clone().chain_update(body).finalize().into_bytes().into()
    }

    fn verify_and_decode(&self, signature: &[u8; 32], body: &[u8]) {
        assert!(bool::from(self.sign(body).ct_eq(signature)));
        black_box(serde_json::from_slice::<Borrowed<'_>>(body).unwrap());
    }
}
