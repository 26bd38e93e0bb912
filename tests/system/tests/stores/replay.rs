//! An outage of five days, by the recipe of the guide's page on outages.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::{Router, routing::post};
use sendarix_webhooks::testing::{Ledger, Sample, Simulation};
use sendarix_webhooks::{Delivery, EventType, HandlerError, Outcome, Receiver, SendarixLayer};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;

use crate::support::{Backend, Kind, secret};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How often the handler succeeded with each event, and whether it is broken.
#[derive(Clone, Default)]
struct Handler(Arc<Mutex<HashMap<String, usize>>>, Arc<AtomicBool>);

impl Handler {
    async fn handle(self, delivery: Delivery) -> Result<(), HandlerError> {
        if self.1.load(Ordering::SeqCst) {
            return Err(HandlerError::retry("broken by a deploy"));
        }
        *self.0.lock().unwrap().entry(delivery.event().event_id.clone()).or_default() += 1;
        Ok(())
    }
}

/// The application, until it is dropped.
struct Running {
    url: String,
    receiver: Receiver,
    server: JoinHandle<()>,
}

impl Running {
    async fn start(backend: &Backend, handler: &Handler) -> Self {
        let receiver = Receiver::builder(secret())
            .store(backend.store())
            .retention(WEEK + Duration::from_secs(5 * 60))
            .max_event_age(WEEK)
            .build()
            .unwrap();
        let handler = handler.clone();
        let on_event = post(move |delivery: Delivery| handler.clone().handle(delivery));
        let app = Router::new().route("/", on_event.layer(SendarixLayer::new(receiver.clone())));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, receiver, server }
    }

    async fn stop(self) {
        self.receiver.drain().await;
        self.server.abort();
        let _ = self.server.await;
    }
}

/// Sendarix, with its schedule passing in no time.
async fn sendarix(url: &str, bodies: &[Vec<u8>]) -> Ledger {
    let (client, url) = (reqwest::Client::new(), url.to_owned());
    let send = move |request: sendarix_webhooks::testing::SimulatedRequest| {
        let mut post = client.post(&url).body(request.body);
        for (name, value) in request.headers {
            post = post.header(name, value);
        }
        async move { post.send().await.map(|answer| answer.status().as_u16()) }
    };
    Simulation::new(secret()).compress(1e6).run(bodies.to_vec(), send).await
}

/// Events from this many days ago.
fn events(name: &str, days: u32, count: usize) -> Vec<Vec<u8>> {
    let sample = |number: usize| {
        let at = SystemTime::now() - DAY * days + Duration::from_secs(number as u64);
        Sample::new(EventType::Delivered).event_id(format!("evt_{name}_{number}")).timestamp(at).body()
    };
    (0..count).map(sample).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_outage_of_five_days_each_event_is_handled_once() {
    for kind in Kind::ALL {
        let (backend, handler) = (Backend::start(kind), Handler::default());
        let (before, broken, during) = (events("before", 6, 40), events("broken", 5, 10), events("during", 3, 40));
        let application = Running::start(&backend, &handler).await;
        assert_eq!(sendarix(&application.url, &before).await.given_up(), 0, "{kind:?}");
        handler.1.store(true, Ordering::SeqCst);
        assert_eq!(sendarix(&application.url, &broken).await.given_up(), 10, "{kind:?}");
        application.stop().await;
        // A port that is taken, and where nothing listens.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let url = format!("http://{}", socket.local_addr().unwrap());
        assert_eq!(sendarix(&url, &during).await.given_up(), 40, "{kind:?}: nothing is there to answer");

        // 1. The cause is fixed.
        handler.1.store(false, Ordering::SeqCst);
        let application = Running::start(&backend, &handler).await;
        // 2. The whole outage is replayed, and some of what was before it; but for a part whose letters are there.
        let replayed = [before, broken[..6].to_vec(), during].concat();
        let ledger = sendarix(&application.url, &replayed).await;
        assert_eq!((ledger.acknowledged(), ledger.given_up()), (86, 0), "{kind:?}");
        // 3. The letters that are left are redriven.
        let redrive = handler.clone();
        let mut redrives =
            application.receiver.inbox().redrive_all(move |delivery| redrive.clone().handle(delivery)).unwrap();
        let mut redriven = Vec::new();
        while let Some(letter) = redrives.next().await.unwrap() {
            redriven.push(letter.result.unwrap());
        }
        assert_eq!(redriven, [Outcome::Processed; 4], "{kind:?}");
        assert_eq!(application.receiver.inbox().list_letters(None, 10).await.unwrap().len(), 0, "{kind:?}");
        application.stop().await;
        let handled = handler.0.lock().unwrap();
        assert_eq!(handled.len(), 90, "{kind:?}");
        assert!(handled.values().all(|times| *times == 1), "{kind:?}: {handled:?}");
    }
}
