//! Many copies of many events at the same time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use sendarix_webhooks::testing::Sample;
use sendarix_webhooks::{Delivery, EventType};
use tokio::task::JoinSet;

use crate::support::{Endpoint, Front, Post, parity};

parity! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    of_8_racing_copies_of_each_event_one_is_handled,
}

const COPIES: usize = 8;
const PIPELINED: usize = 50;

async fn of_8_racing_copies_of_each_event_one_is_handled(front: Front) {
    // As many as the promise names once, and enough to race everywhere else.
    let events = if front == Front::ANY { 10_000 } else { 1_000 };
    let handled: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let counts = Arc::clone(&handled);
    let handler = move |delivery: Delivery| {
        let counts = Arc::clone(&counts);
        async move {
            // Gives the other copies every chance to come in between.
            tokio::task::yield_now().await;
            *counts.lock().unwrap().entry(delivery.event().event_id.clone()).or_default() += 1;
            tokio::task::yield_now().await;
        }
    };
    let endpoint = Endpoint::start(front, |builder| builder, handler).await;
    let posts: Vec<Post> = (0..events)
        .map(|id| Post::signed(&Sample::new(EventType::Open).event_id(format!("evt_{id}")).body()))
        .collect();
    let posts = Arc::new(posts);
    let mut senders = JoinSet::new();
    for _ in 0..COPIES {
        let posts = Arc::clone(&posts);
        let mut client = endpoint.connect().await;
        // Every connection sends every event, so that the copies of one arrive together.
        senders.spawn(async move {
            let mut statuses: HashMap<(u16, String), usize> = HashMap::new();
            for batch in posts.chunks(PIPELINED) {
                for reply in client.send_all(batch).await {
                    *statuses.entry((reply.status, reply.body)).or_default() += 1;
                }
            }
            statuses
        });
    }
    let mut statuses: HashMap<(u16, String), usize> = HashMap::new();
    for (status, count) in senders.join_all().await.into_iter().flatten() {
        *statuses.entry(status).or_default() += count;
    }
    let handled = handled.lock().unwrap();
    assert_eq!((handled.len(), endpoint.handled()), (events, events));
    assert!(handled.values().all(|count| *count == 1));
    assert_eq!(statuses.remove(&(200, String::new())), Some(events), "one copy of each was handled");
    let duplicates = statuses.remove(&(200, "already processed".to_owned())).unwrap_or(0);
    let in_flight = (503, "another delivery of this event is being processed".to_owned());
    let in_flight = statuses.remove(&in_flight).unwrap_or(0);
    assert_eq!(duplicates + in_flight, events * (COPIES - 1), "and {statuses:?}");
}
