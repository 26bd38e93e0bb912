//! The simulated Sendarix does what the contract says, and its ledger is right.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sendarix_webhooks::contract::ATTEMPTS;
use sendarix_webhooks::testing::{AttemptResult, Sample, SimulatedRequest, Simulation};
use sendarix_webhooks::{EventType, SendarixEvent};

use crate::support::{Endpoint, Front, Post, secret};

/// Fast enough for a test, and slow enough for its order to show.
const COMPRESSION: f64 = 100_000.0;

fn bodies(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| Sample::new(EventType::Open).event_id(format!("evt_{number}")).body()).collect()
}

fn id(request: &SimulatedRequest) -> String {
    SendarixEvent::decode(request.body.clone()).unwrap().event_id.clone()
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_never_taken_is_tried_six_times_on_schedule() {
    let send = |_: SimulatedRequest| async { Ok::<u16, String>(503) };
    let ledger = Simulation::new(secret()).run(bodies(3), send).await;
    assert_eq!((ledger.acknowledged(), ledger.given_up()), (0, 3));
    for event in ledger.events() {
        let numbers: Vec<usize> = event.attempts.iter().map(|attempt| attempt.number).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
        let times = event.attempts.windows(2).map(|pair| pair[1].at - pair[0].at);
        for (pause, expected) in times.zip(&ATTEMPTS[1..]) {
            // As fine as the runtime's timer.
            assert!(pause.abs_diff(*expected) < Duration::from_millis(5), "{pause:?} of {expected:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_no_2xx_does_not_come_or_is_lost_brings_the_event_again() {
    let seen = Arc::new(Mutex::new(HashMap::<String, Vec<usize>>::new()));
    let noted = Arc::clone(&seen);
    let send = move |request: SimulatedRequest| {
        noted.lock().unwrap().entry(id(&request)).or_default().push(request.attempt);
        async move {
            match (id(&request).as_str(), request.attempt) {
                ("evt_0", 1) => Ok(500),
                ("evt_1", 1) => std::future::pending().await,
                ("evt_2", 1) => Err("connection refused".to_owned()),
                _ => Ok(204),
            }
        }
    };
    let simulation = Simulation::new(secret()).compress(COMPRESSION).timeout(Duration::from_millis(50));
    let ledger = simulation.run(bodies(4), send).await;
    let results: Vec<Vec<AttemptResult>> = ledger
        .events()
        .iter()
        .map(|event| event.attempts.iter().map(|attempt| attempt.result.clone()).collect())
        .collect();
    let taken = AttemptResult::Answered(204);
    assert_eq!(results[0], [AttemptResult::Answered(500), taken.clone()]);
    assert_eq!(results[1], [AttemptResult::TimedOut, taken.clone()]);
    assert_eq!(results[2], [AttemptResult::Failed("connection refused".to_owned()), taken.clone()]);
    assert_eq!(results[3], [taken]);
    assert_eq!(ledger.acknowledged(), 4);
    let seen = seen.lock().unwrap();
    for event in ledger.events() {
        let numbers: Vec<usize> = event.attempts.iter().map(|attempt| attempt.number).collect();
        assert_eq!(seen[&event.event_id], numbers);
        assert_eq!(event.acknowledged_by(), numbers.last().copied());
    }
}

/// A load balancer waits for its second copy, and passes that answer on.
#[tokio::test]
async fn the_sender_sees_the_answer_to_the_last_copy() {
    let copies = Arc::new(Mutex::new(HashMap::<usize, usize>::new()));
    let send = move |request: SimulatedRequest| {
        let mut copies = copies.lock().unwrap();
        let copy = copies.entry(request.attempt).or_default();
        *copy += 1;
        let is_first = *copy == 1;
        async move { Ok::<u16, String>(if is_first { 200 } else { 503 }) }
    };
    let ledger = Simulation::new(secret()).compress(1e9).connections(1).duplicate(1.0).run(bodies(1), send).await;
    assert_eq!((ledger.given_up(), ledger.events()[0].attempts.len()), (1, 12), "{ledger}");
}

#[tokio::test]
async fn chance_follows_from_the_seed() {
    let run = async |seed: u64| {
        let send = |_: SimulatedRequest| async { Ok::<u16, String>(200) };
        let simulation =
            Simulation::new(secret()).compress(1e9).seed(seed).jitter(0.5).lose_answers(0.3).duplicate(0.3);
        let ledger = simulation.reorder(Duration::from_secs(60)).run(bodies(200), send).await;
        let results = ledger.events().iter().flat_map(|event| &event.attempts);
        results.map(|attempt| (attempt.number, attempt.result.clone())).collect::<Vec<_>>()
    };
    let (one, two) = (run(1).await, run(2).await);
    let requests = one.len();
    assert_eq!(one, run(1).await);
    assert!((300..500).contains(&requests), "200 events, 1.3 copies of 1.4 attempts: {requests}");
    assert_ne!(one, two);
}

#[tokio::test]
async fn a_receiver_stands_all_of_it() {
    let handled = Arc::new(Mutex::new(HashMap::<String, usize>::new()));
    let effects = Arc::clone(&handled);
    let endpoint = Endpoint::start(
        Front::ANY,
        |builder| builder,
        move |delivery| {
            *effects.lock().unwrap().entry(delivery.event().event_id.clone()).or_default() += 1;
            async {}
        },
    );
    let addr = endpoint.await.addr;
    let send = move |request: SimulatedRequest| async move {
        let post = Post { headers: Vec::new(), ..Post::signed(&request.body) };
        let post = request.headers.iter().fold(post, |post, (name, value)| post.with(name, value.as_bytes()));
        let post = post.with("host", "localhost").with("content-length", request.body.len().to_string());
        let reply = crate::support::Connection::open(addr).await.exchange(&post.bytes()).await;
        Ok::<u16, String>(reply.status)
    };
    let simulation = Simulation::new(secret()).compress(1e4).jitter(0.5).lose_answers(0.1).duplicate(0.2);
    let ledger = simulation.reorder(Duration::from_secs(60)).pace(5000.0, 100).run(bodies(1000), send).await;
    let handled = handled.lock().unwrap();
    assert_eq!(handled.len(), 1000);
    assert!(handled.values().all(|count| *count == 1), "{ledger}");
    for event in ledger.events() {
        assert!(event.acknowledged_by().is_some(), "{event:?}");
    }
    assert!(ledger.answer_time(0.99).unwrap() <= ledger.answer_time(1.0).unwrap());
    let shown = ledger.to_string();
    assert!(shown.starts_with("1000 events in ") && shown.contains(" 1000 acknowledged, 0 given up"), "{shown}");
}
