//! One page that shows events as they arrive, what has become of each message, the bounce rate, and the dead letters.
//!
//! ```sh
//! SENDARIX_WEBHOOK_SECRET=try-it-out cargo run --package live-page-example
//! SENDARIX_WEBHOOK_SECRET=try-it-out sendarix simulate --rate 5
//! ```
//!
//! Open <http://127.0.0.1:3000> and send it some. Events for addresses at `broken.example` fail for good until the box on the
//! page is ticked, and can then be redriven. The page shows recipients and changes what is handled: as it is, it is for
//! this machine, and elsewhere it belongs behind your own login.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use axum::extract::{Json, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse};
use axum::routing::{get, post};
use axum::{Router, middleware};
use sendarix_webhooks::dead_letter::{DeadLetters, FileDeadLetters};
use sendarix_webhooks::mail::MessageState;
use sendarix_webhooks::mail::{BOUNCE_THRESHOLD, Reputation};
use sendarix_webhooks::store::EventKey;
use sendarix_webhooks::{Delivery, HandlerError, Receiver, SendarixEvent, SendarixLayer, SigningSecrets, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::{Stream, StreamExt};

const PAGE: &str = include_str!("page.html");

/// What is shown of each at most, the newest first.
const MESSAGES: usize = 50;
const EVENTS: usize = 30;
const LETTERS: usize = 50;
const POINTS: usize = 120;

/// How often the rates are measured and the dead letters looked at.
const EVERY: Duration = Duration::from_secs(1);

const WINDOW: Duration = Duration::from_secs(60 * 60);

/// All that the page shows, and its viewers.
struct Board {
    shown: Mutex<Shown>,
    changes: broadcast::Sender<Change>,
    reputation: Reputation,
    receiver: Receiver,
    letters: Arc<FileDeadLetters>,
    is_mended: AtomicBool,
}

type Shared = Arc<Board>;

/// What a new viewer is told first.
#[derive(Clone, Default, Serialize)]
struct Shown {
    messages: VecDeque<Message>,
    events: VecDeque<Arrival>,
    letters: Vec<Letter>,
    rates: VecDeque<Point>,
    threshold: f64,
    is_mended: bool,
    #[serde(skip)]
    states: HashMap<String, MessageState>,
}

/// What everybody is told who looks already.
#[derive(Clone, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Change {
    Shown(Shown),
    Event { message: Message, event: Arrival },
    Letters { letters: Vec<Letter> },
    Rates { point: Point },
    Mended { is_mended: bool },
}

#[derive(Clone, Serialize)]
struct Message {
    id: String,
    recipient: String,
    /// `None`: nothing is known of it but events of unknown types.
    status: Option<&'static str>,
    marks: Vec<&'static str>,
}

#[derive(Clone, Serialize)]
struct Arrival {
    at: Timestamp,
    event_type: String,
    event_id: String,
    message_id: String,
}

#[derive(Clone, PartialEq, Serialize)]
struct Letter {
    event_id: String,
    reason: String,
    error: String,
    attempts: u32,
}

#[derive(Clone, Copy, Serialize)]
struct Point {
    at: i64,
    bounces: Option<f64>,
    complaints: Option<f64>,
}

async fn on_event(board: Shared, delivery: Delivery) -> Result<(), HandlerError> {
    let event = delivery.event();
    if event.recipient.ends_with("@broken.example") && !board.is_mended.load(Ordering::Relaxed) {
        return Err(HandlerError::permanent("nobody knows what to do with broken.example"));
    }
    // Last, since an event whose handler fails comes again.
    board.reputation.record(event);
    let change = board.shown().add(event);
    // There may be no viewer.
    let _ = board.changes.send(change);
    Ok(())
}

impl Board {
    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Measures and looks, for as long as the process runs.
    async fn watch(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(EVERY);
        loop {
            ticks.tick().await;
            self.look_at_letters().await;
            let rates = self.reputation.rates(WINDOW).unwrap_or_default();
            let at = Timestamp::from(SystemTime::now()).unix_seconds();
            let point = Point { at, bounces: rates.bounce_rate(), complaints: rates.complaint_rate() };
            keep(&mut self.shown().rates, point, POINTS);
            let _ = self.changes.send(Change::Rates { point });
        }
    }

    async fn look_at_letters(&self) {
        // The file is this process's own, so an error says that it cannot be read any more; the log has more of it.
        let Ok(letters) = self.letters.list("default", None, LETTERS).await else { return };
        let letters: Vec<Letter> = letters
            .into_iter()
            .map(|listed| match listed {
                Ok(letter) => Letter {
                    event_id: letter.key.event_id().to_owned(),
                    reason: letter.reason.as_str().to_owned(),
                    error: letter.error,
                    attempts: letter.attempts,
                },
                Err(unreadable) => Letter {
                    event_id: unreadable.key.event_id().to_owned(),
                    reason: "unreadable".to_owned(),
                    error: unreadable.source.to_string(),
                    attempts: 0,
                },
            })
            .collect();
        let mut shown = self.shown();
        if shown.letters != letters {
            shown.letters.clone_from(&letters);
            let _ = self.changes.send(Change::Letters { letters });
        }
    }
}

impl Shown {
    fn add(&mut self, event: &SendarixEvent) -> Change {
        let state = self.states.entry(event.message_id.clone()).or_default();
        state.apply(event);
        let marks = [
            (state.opened().is_some(), "opened"),
            (state.clicked().is_some(), "clicked"),
            (state.complained_at().is_some(), "complained"),
            (state.unsubscribed_at().is_some(), "unsubscribed"),
        ];
        let message = Message {
            id: event.message_id.clone(),
            recipient: event.recipient.clone(),
            status: state.status().map(|status| status.as_str()),
            marks: marks.into_iter().filter_map(|(is_there, mark)| is_there.then_some(mark)).collect(),
        };
        let arrival = Arrival {
            at: event.timestamp,
            event_type: event.type_name().to_owned(),
            event_id: event.event_id.clone(),
            message_id: event.message_id.clone(),
        };
        self.messages.retain(|shown| shown.id != message.id);
        if let Some(oldest) = keep(&mut self.messages, message.clone(), MESSAGES) {
            self.states.remove(&oldest.id);
        }
        keep(&mut self.events, arrival.clone(), EVENTS);
        Change::Event { message, event: arrival }
    }
}

/// Puts one in front, and returns the one that there is no room for any more.
fn keep<T>(all: &mut VecDeque<T>, new: T, at_most: usize) -> Option<T> {
    all.push_front(new);
    if all.len() > at_most { all.pop_back() } else { None }
}

/// Everything so far, and then each change.
async fn changes(State(board): State<Shared>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    // First, so that nothing is missed in between. What comes twice changes nothing.
    let changes = BroadcastStream::new(board.changes.subscribe());
    let shown = board.shown().clone();
    let changes = changes.map(move |change| match change {
        Ok(change) => change,
        // Too slow for the changes, and told everything anew.
        Err(_) => Change::Shown(board.shown().clone()),
    });
    let all = tokio_stream::once(Change::Shown(shown)).chain(changes);
    let event = |change| Ok(Event::default().json_data(change).unwrap_or_default());
    Sse::new(all.map(event)).keep_alive(KeepAlive::default())
}

#[derive(Deserialize)]
struct Redrive {
    event_id: String,
}

/// Handles a dead letter again, and says what became of it.
async fn redrive(State(board): State<Shared>, Json(redrive): Json<Redrive>) -> Result<String, (StatusCode, String)> {
    let failed = |error: &dyn std::fmt::Display| (StatusCode::SERVICE_UNAVAILABLE, error.to_string());
    let key = EventKey::new("default", redrive.event_id);
    let letter = board.letters.get(&key).await.map_err(|error| failed(&error))?;
    let letter = letter.ok_or((StatusCode::NOT_FOUND, "it is gone".to_owned()))?;
    let handler = {
        let board = Arc::clone(&board);
        move |delivery| on_event(board, delivery)
    };
    let delivery = board.receiver.inbox().redrive(letter).map_err(|error| failed(&error))?;
    let outcome = delivery.deliver(handler).await.outcome();
    board.look_at_letters().await;
    Ok(outcome.to_string())
}

#[derive(Deserialize)]
struct Mended {
    is_mended: bool,
}

async fn mend(State(board): State<Shared>, Json(Mended { is_mended }): Json<Mended>) {
    board.is_mended.store(is_mended, Ordering::Relaxed);
    board.shown().is_mended = is_mended;
    let _ = board.changes.send(Change::Mended { is_mended });
}

/// Only the page itself may change anything: another site's cannot send this header without asking first.
async fn from_the_page(
    headers: HeaderMap,
    request: axum::extract::Request,
    next: middleware::Next,
) -> impl IntoResponse {
    if headers.contains_key(HeaderName::from_static("x-live-status")) {
        next.run(request).await
    } else {
        StatusCode::FORBIDDEN.into_response()
    }
}

async fn page() -> impl IntoResponse {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
        form-action 'none'; frame-ancestors 'none'; base-uri 'none'";
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(PAGE))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let letters = Arc::new(FileDeadLetters::open("live-page-example.dead-letters.jsonl")?);
    let secrets = SigningSecrets::from_env()?; // SENDARIX_WEBHOOK_SECRET
    let receiver = Receiver::builder(secrets).dead_letters(letters.clone()).build()?;
    let board = Arc::new(Board {
        shown: Mutex::new(Shown { threshold: BOUNCE_THRESHOLD, ..Shown::default() }),
        changes: broadcast::Sender::new(256),
        reputation: Reputation::builder().window(WINDOW).build(),
        receiver: receiver.clone(),
        letters,
        is_mended: AtomicBool::new(false),
    });
    tokio::spawn(Arc::clone(&board).watch());

    let webhook = {
        let board = Arc::clone(&board);
        post(move |delivery: Delivery| on_event(Arc::clone(&board), delivery))
    };
    let guarded = Router::new()
        .route("/letters/redrive", post(redrive))
        .route("/mended", post(mend))
        .layer(middleware::from_fn(from_the_page));
    let app = Router::new()
        .route("/", get(page))
        .route("/changes", get(changes))
        .merge(guarded)
        .with_state(board)
        .route("/webhooks/sendarix", webhook.layer(SendarixLayer::new(receiver.clone())));

    let address = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(&address).await?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}/webhooks/sendarix\nopen http://{address}");
    let mut server = tokio::spawn(async move { axum::serve(listener, app).await });
    tokio::select! {
        ended = &mut server => ended??,
        () = terminated() => {
            // New deliveries are answered 503, and every handler runs to its end. Then the last answers go out.
            receiver.drain().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    Ok(())
}

/// Waits for Ctrl-C or for SIGTERM, by which systemd, Docker and Kubernetes stop a process.
async fn terminated() {
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be caught");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
