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
//! | `GET` that path | `{"letters": […], "next": "…"}`: a page, without bodies. Its query may have `after` (the `next` of the page before), `limit` (50, at most 100), and [a filter](#a-filter) |
//! | `GET /count` | how many letters there are by reason, such as `{"failed": 3}` |
//! | `GET /letter?event_id=…` | one letter with its body, as a [file of dead letters](crate::dead_letter::FileDeadLetters) has it |
//! | `POST /redrive` `{"event_id": "…"}` | `{"event_id": "…", "outcome": "processed"}` |
//! | `POST /redrive-all` `{…}` | a line of JSON for each letter as soon as it is done: with its `outcome`, or the `error` for which it was left alone. The body is [a filter](#a-filter), and may have `at_most` and `per_second`. After a letter that fails again it pauses, from 1 s up to a minute. It ends when the client goes away |
//! | `POST /discard` `{"event_id": "…", "last_at": "…", "because": "…"}` | `{"discarded": 1}`. `last_at` is that of the letter as it was listed; one that has failed again since is 409 |
//! | `POST /discard-all` `{"because": "…", …}` | `{"discarded": 17}`. The body has [a filter](#a-filter) as well. It ends when the client goes away |
//!
//! A letter that is not there is 404, one that cannot be redriven 409, and a store that fails or a process that is shutting down
//! 503, each with `{"error": "…"}`. What axum itself refuses has a text for a body. The requests that change something need
//! `Content-Type: application/json`, which no form on another site can send.
//!
//! # A filter
//!
//! `reason` and `event_type` are exact, `error` is a part of the error's text, and `failed_since` and `failed_before` are times as
//! in RFC 3339. What is missing takes every letter. An unknown member is refused, since a misspelled filter would take every
//! letter.

use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ::axum::Router;
use ::axum::body::Body;
use ::axum::extract::{Json, Query, State};
use ::axum::http::{HeaderValue, StatusCode, header};
use ::axum::middleware::map_response;
use ::axum::response::{IntoResponse, Response};
use ::axum::routing::{get, post};
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::dead_letter::{DeadLetter, LetterFilter, ListedLetter, StoredLetter, key_of};
use crate::event::Timestamp;
use crate::inbox::{
    Delivery, HandlerError, HandlerResponse, Inbox, LettersError, RedriveError, RedriveErrorKind, Redriven,
};
use crate::logging::{Chain, TARGET};
use crate::outcome::Outcome;

/// An axum router that lists, shows, redrives and discards the dead letters of an inbox. `on_event` is the application's own
/// handler.
///
/// The letters of a [`FanOut`](crate::destination::FanOut) are those of its destinations. Give each a router, with
/// [its inbox](Inbox::destination) and its handler.
pub fn letters<H, F, R>(inbox: Inbox, on_event: H) -> Router
where
    H: Fn(Delivery) -> F + Send + Sync + 'static,
    F: Future<Output = Result<R, HandlerError>> + Send + 'static,
    R: HandlerResponse + Send + 'static,
{
    let on_event = Arc::new(on_event);
    let on_event: Handler = Arc::new(move |delivery| {
        let handled = on_event(delivery);
        Box::pin(async move { handled.await.map(|response| Status(response.status())) })
    });
    Router::new()
        .route("/", get(list))
        .route("/count", get(count))
        .route("/letter", get(show))
        .route("/redrive", post(redrive))
        .route("/redrive-all", post(redrive_all))
        .route("/discard", post(discard))
        .route("/discard-all", post(discard_all))
        .layer(map_response(forbid_caching))
        .with_state(OperatorState { inbox, on_event })
}

type Handler =
    Arc<dyn Fn(Delivery) -> Pin<Box<dyn Future<Output = Result<Status, HandlerError>> + Send>> + Send + Sync>;

/// What is left of the handler's response: one that is not 2xx is a failure.
struct Status(u16);

impl HandlerResponse for Status {
    fn status(&self) -> u16 {
        self.0
    }
}

#[derive(Clone)]
struct OperatorState {
    inbox: Inbox,
    on_event: Handler,
}

/// Letters hold personal data.
async fn forbid_caching(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// [`LetterFilter`] as a request has it. It stands flat in each request: `serde(flatten)` fails where an application switches on
/// `serde_json`'s `arbitrary_precision`.
macro_rules! request_with_filter {
    ($name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct $name {
            $($field: $type,)*
            reason: Option<String>,
            event_type: Option<String>,
            error: Option<String>,
            failed_since: Option<Timestamp>,
            failed_before: Option<Timestamp>,
        }

        impl $name {
            fn filter(&self) -> LetterFilter {
                LetterFilter {
                    reasons: self.reason.iter().cloned().map(Into::into).collect(),
                    event_types: self.event_type.iter().cloned().collect(),
                    error: self.error.clone(),
                    since: self.failed_since,
                    before: self.failed_before,
                }
            }
        }
    };
}

request_with_filter!(PageQuery { after: Option<String>, limit: Option<usize>, });
request_with_filter!(RedriveAll { at_most: Option<u64>, per_second: Option<NonZeroU32>, });
request_with_filter!(DiscardAll { because: String });

/// What the handler needs may still be broken.
const PAUSE: Duration = Duration::from_secs(1);

const LIMIT: usize = 50;
const MAX_LIMIT: usize = 100;

async fn list(State(state): State<OperatorState>, Query(query): Query<PageQuery>) -> Result<Json<Value>, Failure> {
    let filter = query.filter();
    let limit = query.limit.unwrap_or(LIMIT).clamp(1, MAX_LIMIT);
    let page = state.inbox.list_letters(query.after.as_deref(), limit).await?;
    let next = page.last().map(|last| key_of(last).event_id());
    let letters: Vec<Value> = page.iter().filter(|listed| filter.matches_listed(listed)).map(summary).collect();
    Ok(Json(json!({ "letters": letters, "next": next })))
}

fn summary(listed: &ListedLetter) -> Value {
    match listed {
        Ok(letter) => json!({
            "event_id": letter.key.event_id(),
            "event_type": letter.event_type(),
            "reason": letter.reason.as_str(),
            "error": letter.error,
            "attempts": letter.attempts,
            "first_at": letter.first_at,
            "last_at": letter.last_at,
            "is_retrying": letter.is_retrying(),
        }),
        Err(letter) => json!({ "event_id": letter.key.event_id(), "unreadable": Chain(letter).to_string() }),
    }
}

async fn count(State(state): State<OperatorState>) -> Result<Response, Failure> {
    Ok(Json(state.inbox.count_letters().await?).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventId {
    event_id: String,
}

async fn show(
    State(state): State<OperatorState>,
    Query(EventId { event_id }): Query<EventId>,
) -> Result<Response, Failure> {
    let letter = state.find(&event_id).await?;
    Ok(Json(StoredLetter::new(&letter)).into_response())
}

async fn redrive(
    State(state): State<OperatorState>,
    Json(EventId { event_id }): Json<EventId>,
) -> Result<Json<Value>, Failure> {
    let letter = state.find(&event_id).await?;
    let redelivery = state.inbox.redrive(letter)?;
    let outcome = redelivery.deliver(move |delivery| (state.on_event)(delivery)).await.outcome();
    Ok(Json(redriven(&event_id, Ok(outcome))))
}

/// What became of a letter, or why it was left alone.
fn redriven(event_id: &str, result: Result<Outcome, RedriveError>) -> Value {
    match result {
        Ok(outcome) => json!({ "event_id": event_id, "outcome": outcome.as_str() }),
        Err(error) => json!({ "event_id": event_id, "error": error.to_string() }),
    }
}

async fn redrive_all(State(state): State<OperatorState>, Json(asked): Json<RedriveAll>) -> Result<Response, Failure> {
    let on_event = state.on_event;
    let redrives = state.inbox.redrive_all(move |delivery| on_event(delivery))?;
    let mut redrives = redrives.only(asked.filter()).pause_after_failure(PAUSE);
    if let Some(letters) = asked.at_most {
        redrives = redrives.at_most(letters);
    }
    if let Some(letters) = asked.per_second {
        redrives = redrives.every(Duration::from_secs(1) / letters.get());
    }
    let lines = stream::unfold(Some(redrives), |redrives| async move {
        let mut redrives = redrives?;
        match redrives.next().await {
            Ok(Some(Redriven { key, result })) => {
                Some((Ok(format!("{}\n", redriven(key.event_id(), result))), Some(redrives)))
            }
            Ok(None) => None,
            // The client learns from the broken answer that it is not the whole.
            Err(error) => {
                tracing::error!(target: TARGET, error = %Chain(&error), "redriving dead letters ended early");
                Some((Err(error), None))
            }
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Discard {
    event_id: String,
    last_at: Timestamp,
    because: String,
}

async fn discard(State(state): State<OperatorState>, Json(asked): Json<Discard>) -> Result<Json<Value>, Failure> {
    let letter = state.find(&asked.event_id).await?;
    if letter.last_at != asked.last_at || !state.inbox.discard(&letter, &asked.because).await? {
        return Err(Failure::Changed);
    }
    Ok(Json(json!({ "discarded": 1 })))
}

async fn discard_all(
    State(state): State<OperatorState>,
    Json(asked): Json<DiscardAll>,
) -> Result<Json<Value>, Failure> {
    let discarded = state.inbox.discard_all(&asked.filter(), &asked.because).await?;
    Ok(Json(json!({ "discarded": discarded })))
}

impl OperatorState {
    async fn find(&self, event_id: &str) -> Result<DeadLetter, Failure> {
        self.inbox.letter(event_id).await?.ok_or(Failure::NotThere)
    }
}

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("there is no such dead letter")]
    NotThere,
    #[error("the letter is gone or has changed since it was listed; list it again")]
    Changed,
    #[error(transparent)]
    Letters(#[from] LettersError),
    #[error(transparent)]
    Redrive(#[from] RedriveError),
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::NotThere => StatusCode::NOT_FOUND,
            Self::Changed => StatusCode::CONFLICT,
            Self::Letters(error) => {
                tracing::error!(target: TARGET, error = %Chain(error), "dead letters cannot be read or changed");
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Redrive(error) => match error.kind() {
                RedriveErrorKind::Draining | RedriveErrorKind::DeadLetters | RedriveErrorKind::NoDeadLetters => {
                    StatusCode::SERVICE_UNAVAILABLE
                }
                _ => StatusCode::CONFLICT,
            },
        };
        (status, Json(json!({ "error": self.to_string() }))).into_response()
    }
}
