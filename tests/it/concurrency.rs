//! Many copies of many events at the same time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use sendarix_webhooks::testing::Sample;
use sendarix_webhooks::{Delivery, EventType};
use tokio::task::JoinSet;

use crate::support::{Connection, Endpoint, Post};

const EVENTS: usize = 10_000;
const COPIES: usize = 8;
const PIPELINED: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_8_racing_copies_of_10_000_events_one_each_is_handled() {
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
    let endpoint = Endpoint::start(|builder| builder, handler).await;
    let posts: Vec<Vec<u8>> = (0..EVENTS)
        .map(|id| Post::signed(&Sample::new(EventType::Open).event_id(format!("evt_{id}")).body()).bytes())
        .collect();
    let posts = Arc::new(posts);
    let mut senders = JoinSet::new();
    for _ in 0..COPIES {
        let posts = Arc::clone(&posts);
        let addr = endpoint.addr;
        // Every connection sends every event, so that the copies of one arrive together.
        senders.spawn(async move {
            let mut connection = Connection::open(addr).await;
            let mut statuses: HashMap<(u16, String), usize> = HashMap::new();
            for batch in posts.chunks(PIPELINED) {
                connection.write(&batch.concat()).await;
                for _ in batch {
                    let reply = connection.read().await;
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
    assert_eq!((handled.len(), endpoint.handled()), (EVENTS, EVENTS));
    assert!(handled.values().all(|count| *count == 1));
    assert_eq!(statuses.remove(&(200, String::new())), Some(EVENTS), "one copy of each was handled");
    let duplicates = statuses.remove(&(200, "already processed".to_owned())).unwrap_or(0);
    let in_flight = (503, "another delivery of this event is being processed".to_owned());
    let in_flight = statuses.remove(&in_flight).unwrap_or(0);
    assert_eq!(duplicates + in_flight, EVENTS * (COPIES - 1), "and {statuses:?}");
}
