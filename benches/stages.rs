//! Where the time of an event goes: each stage of the pipeline by itself, with criterion.
//!
//! ```sh
//! cargo bench --package sendarix-webhooks-benches --bench stages
//! ```
//!
//! Each is measured over and over with nothing else in between, and so at its fastest: among all that a server does,
//! everything is farther away from the processor.

#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use sendarix_webhooks::store::{ClaimToken, DedupStore, EventKey, MemoryStore};
use sendarix_webhooks::{Receiver, SendarixEvent};
use sendarix_webhooks_benches::{Event, secret};

fn stages(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (secret, receiver) =
        (secret(), Receiver::builder(secret()).dangerously_without_dead_letters().build().unwrap());
    let event = Event::bounce(0);
    let ids = std::cell::Cell::new(1);
    let next = || Event::bounce(ids.replace(ids.get() + 1));

    criterion
        .bench_function("HMAC-SHA256 of 282 bytes", |bencher| bencher.iter(|| secret.sign(black_box(&event.body))));
    let decode = || SendarixEvent::decode(black_box(event.body.clone())).unwrap();
    criterion.bench_function("decode into an event that owns its fields", |bencher| bencher.iter(decode));

    let store = MemoryStore::new();
    let key = || (EventKey::new("default", format!("evt_{:012}", ids.replace(ids.get() + 1))), ClaimToken::random());
    criterion.bench_function("claim and complete in MemoryStore", |bencher| {
        let claim_and_complete = |(key, token): &mut (EventKey, ClaimToken)| {
            runtime.block_on(async {
                let _ = black_box(store.claim(key, *token, Duration::from_secs(60)).await.unwrap());
                store.complete(key, *token, Duration::from_secs(24 * 60 * 60)).await.unwrap()
            })
        };
        bencher.iter_batched_ref(key, claim_and_complete, BatchSize::SmallInput);
    });

    let forged = Event::bounce(0).forged();
    criterion.bench_function("refuse a forged request", |bencher| {
        bencher.iter(|| black_box(&forged).deliver(&receiver).unwrap_err());
    });
    criterion.bench_function("the whole pipeline", |bencher| {
        let deliver = |event: &mut Event| runtime.block_on(event.deliver(&receiver).unwrap()).outcome();
        bencher.iter_batched_ref(next, deliver, BatchSize::SmallInput);
    });
}

criterion_group!(benches, stages);
criterion_main!(benches);
