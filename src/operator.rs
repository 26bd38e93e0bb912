//! An axum [`Router`] for the people who operate the application: dead letters to look at, redrive and discard.
//!
//! **Put it behind your own login.** Letters hold personal data, and redriving changes what is handled.
//!
//! ```no_run
//! use axum::Router;
//! use sendarix_webhooks::{Delivery, HandlerError, Receiver, operator};
//!
//! async fn on_event(delivery: Delivery) -> Result<(), HandlerError> {
//!     println!("{}", delivery.event().type_name());
//!     Ok(())
//! }
//!
//! fn admin(receiver: &Receiver) -> Router {
//!     // Add the layer of your login here.
//!     Router::new().nest("/admin/letters", operator::letters(receiver.inbox().clone(), on_event))
//! }
//! ```
//!
//! Below the path at which it is nested, `/admin/letters` here:
//!
//! | request | answer |
//! |---|---|
//! | `GET` that path | `{"letters": […], "next": "…"}`: a page, without bodies. Its query may have `after` (the `next` of the page before), `limit` (50, at most 100), and [a choice](#a-choice) |
//! | `GET /count` | how many letters there are by reason, such as `{"failed": 3}` |
//! | `GET /letter?event_id=…` | one letter with its body, as a [file of dead letters](crate::dead_letter::FileDeadLetters) has it |
//! | `POST /redrive` `{"event_id": "…"}` | `{"event_id": "…", "outcome": "processed"}` |
//! | `POST /redrive-all` `{…}` | a line of JSON for each letter as soon as it is done: with its `outcome`, or the `error` for which it was left alone. The body is [a choice](#a-choice), and may have `at_most` and `per_second`. Redriving ends when the client goes away |
//! | `POST /discard` `{"event_id": "…", "because": "…"}` | `{"discarded": true}`; `false` if the event has failed again meanwhile |
//!
//! A letter that is not there is 404, one that cannot be redriven 409, and a store that fails 503, each with
//! `{"error": "…"}`. A member that is not known is refused: misspelled, it would choose every letter. The requests that change something need `Content-Type: application/json`, which no form on another
//! site can send.
//!
//! # A choice
//!
//! `reason` and `event_type` are exact, and `error` is a part of the error's text. What is missing chooses every letter.

use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ::axum::Router;
use ::axum::body::{Body, Bytes};
use ::axum::extract::{Json, Query, State};
use ::axum::http::{HeaderValue, StatusCode, header};
use ::axum::middleware::map_response;
use ::axum::response::{IntoResponse, Response};
use ::axum::routing::{get, post};
use futures_util::stream;
use serde::{Deserialize, Serialize};

use crate::dead_letter::{DeadLetter, LetterFilter, ListedLetter, StoredLetter, key_of};
use crate::inbox::{Delivery, HandlerError, HandlerResponse, Inbox, LettersError, RedriveError, Redriven};
use crate::logging::{Chain, TARGET};

/// The dead letters of an inbox. `on_event` redrives them: the application's own handler.
///
/// The letters of a [`FanOut`](crate::destination::FanOut) are those of its destinations: give each a router.
pub fn letters<H, F, R>(inbox: Inbox, on_event: H) -> Router
where
    H: Fn(Delivery) -> F + Send + Sync + 'static,
    F: Future<Output = Result<R, HandlerError>> + Send + 'static,
    R: HandlerResponse + Send + 'static,
{
    let on_event = Arc::new(on_event);
    let on_event: Handler = Arc::new(move |delivery| {
        let handled = on_event(delivery);
        Box::pin(async move { handled.await.map(drop) })
    });
    Router::new()
        .route("/", get(list))
        .route("/count", get(count))
        .route("/letter", get(show))
        .route("/redrive", post(redrive))
        .route("/redrive-all", post(redrive_all))
        .route("/discard", post(discard))
        .layer(map_response(not_stored))
        .with_state(Desk { inbox, on_event })
}

type Handler = Arc<dyn Fn(Delivery) -> Pin<Box<dyn Future<Output = Result<(), HandlerError>> + Send>> + Send + Sync>;

#[derive(Clone)]
struct Desk {
    inbox: Inbox,
    on_event: Handler,
}

/// Letters hold personal data.
async fn not_stored(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn choice(reason: Option<String>, event_type: Option<String>, error: Option<String>) -> LetterFilter {
    let mut filter = LetterFilter::new();
    if let Some(reason) = reason {
        filter = filter.reason(reason.into());
    }
    if let Some(event_type) = event_type {
        filter = filter.event_type(event_type);
    }
    match error {
        Some(text) => filter.error_contains(text),
        None => filter,
    }
}

const LIMIT: usize = 50;
const MAX_LIMIT: usize = 100;

/// A member that is misspelled must not choose every letter.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    after: Option<String>,
    limit: Option<usize>,
    reason: Option<String>,
    event_type: Option<String>,
    error: Option<String>,
}

#[derive(Serialize)]
struct Page {
    letters: Vec<Summary>,
    next: Option<String>,
}

/// A letter without its body.
#[derive(Serialize)]
#[serde(untagged)]
enum Summary {
    Readable {
        event_id: String,
        event_type: Option<String>,
        reason: String,
        error: String,
        attempts: u32,
        first_at: String,
        last_at: String,
        is_retrying: bool,
    },
    Unreadable {
        event_id: String,
        unreadable: String,
    },
}

async fn list(State(desk): State<Desk>, Query(query): Query<PageQuery>) -> Result<Json<Page>, Failure> {
    let PageQuery { after, limit, reason, event_type, error } = query;
    let filter = choice(reason, event_type, error);
    let limit = limit.unwrap_or(LIMIT).clamp(1, MAX_LIMIT);
    let page = desk.inbox.list_letters(after.as_deref(), limit).await?;
    let next = page.last().map(|last| key_of(last).event_id().to_owned());
    let letters = page.into_iter().filter(|listed| filter.matches_listed(listed)).map(Summary::from).collect();
    Ok(Json(Page { letters, next }))
}

impl From<ListedLetter> for Summary {
    fn from(listed: ListedLetter) -> Self {
        match listed {
            Ok(letter) => Self::Readable {
                event_id: letter.key.event_id().to_owned(),
                event_type: letter.event_type(),
                reason: letter.reason.as_str().to_owned(),
                attempts: letter.attempts,
                first_at: letter.first_at.to_string(),
                last_at: letter.last_at.to_string(),
                is_retrying: letter.is_retrying(),
                error: letter.error,
            },
            Err(letter) => {
                Self::Unreadable { event_id: letter.key.event_id().to_owned(), unreadable: Chain(&letter).to_string() }
            }
        }
    }
}

async fn count(State(desk): State<Desk>) -> Result<Response, Failure> {
    Ok(Json(desk.inbox.count_letters().await?).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfEvent {
    event_id: String,
}

async fn show(State(desk): State<Desk>, Query(OfEvent { event_id }): Query<OfEvent>) -> Result<Response, Failure> {
    let letter = desk.find(&event_id).await?;
    Ok(Json(StoredLetter::new(&letter)).into_response())
}

/// What became of a letter, or why it was left alone.
#[derive(Serialize)]
struct Done {
    event_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

async fn redrive(State(desk): State<Desk>, Json(OfEvent { event_id }): Json<OfEvent>) -> Result<Json<Done>, Failure> {
    let letter = desk.find(&event_id).await?;
    let redelivery = desk.inbox.redrive(letter)?;
    let outcome = redelivery.deliver(move |delivery| (desk.on_event)(delivery)).await.outcome();
    Ok(Json(Done { event_id, outcome: Some(outcome.as_str()), error: None }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RedriveAll {
    reason: Option<String>,
    event_type: Option<String>,
    error: Option<String>,
    at_most: Option<u64>,
    per_second: Option<NonZeroU32>,
}

async fn redrive_all(State(desk): State<Desk>, Json(asked): Json<RedriveAll>) -> Result<Response, Failure> {
    let on_event = desk.on_event;
    let redrives = desk.inbox.redrive_all(move |delivery| on_event(delivery))?;
    let mut redrives = redrives.only(choice(asked.reason, asked.event_type, asked.error));
    if let Some(letters) = asked.at_most {
        redrives = redrives.at_most(letters);
    }
    if let Some(letters) = asked.per_second {
        redrives = redrives.every(Duration::from_secs(1) / letters.get());
    }
    let lines = stream::unfold(Some(redrives), |redrives| async move {
        let mut redrives = redrives?;
        match redrives.next().await {
            Ok(redriven) => Some((Ok(line(&Done::from(redriven?))), Some(redrives))),
            // The client learns from the broken answer that it is not the whole.
            Err(error) => {
                let error_chain = Chain(&error);
                tracing::error!(target: TARGET, error = %error_chain, "redriving dead letters ended early");
                Some((Err(error), None))
            }
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

fn line(done: &Done) -> Bytes {
    let mut line = serde_json::to_vec(done).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

impl From<Redriven> for Done {
    fn from(redriven: Redriven) -> Self {
        let event_id = redriven.key.event_id().to_owned();
        match redriven.result {
            Ok(outcome) => Self { event_id, outcome: Some(outcome.as_str()), error: None },
            Err(error) => Self { event_id, outcome: None, error: Some(error.to_string()) },
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Discard {
    event_id: String,
    because: String,
}

#[derive(Serialize)]
struct Discarded {
    discarded: bool,
}

async fn discard(State(desk): State<Desk>, Json(asked): Json<Discard>) -> Result<Json<Discarded>, Failure> {
    let letter = desk.find(&asked.event_id).await?;
    let discarded = desk.inbox.discard(&letter, &asked.because).await?;
    Ok(Json(Discarded { discarded }))
}

impl Desk {
    async fn find(&self, event_id: &str) -> Result<DeadLetter, Failure> {
        self.inbox.letter(event_id).await?.ok_or(Failure::NotThere)
    }
}

/// Why a request was not done.
enum Failure {
    NotThere,
    Letters(LettersError),
    Redrive(RedriveError),
}

impl From<LettersError> for Failure {
    fn from(error: LettersError) -> Self {
        Self::Letters(error)
    }
}

impl From<RedriveError> for Failure {
    fn from(error: RedriveError) -> Self {
        Self::Redrive(error)
    }
}

#[derive(Serialize)]
struct ErrorText {
    error: String,
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, error) = match self {
            Self::NotThere => (StatusCode::NOT_FOUND, "there is no such dead letter".to_owned()),
            Self::Letters(error) => {
                let chain = Chain(&error);
                tracing::error!(target: TARGET, error = %chain, "dead letters cannot be read or changed");
                (StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            }
            Self::Redrive(error) => (StatusCode::CONFLICT, error.to_string()),
        };
        (status, Json(ErrorText { error })).into_response()
    }
}
