//! The page's own requests. Those that change something need `Content-Type: application/json`, which no other site can send
//! without asking first.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Json, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::{Stream, StreamExt};

use crate::board::{Board, Change, EventView, Recipient};

const PAGE: &str = include_str!("page.html");

pub(crate) fn page(board: Arc<Board>) -> Router {
    Router::new()
        .route("/", get(html))
        .route("/changes", get(changes))
        .route("/recipient", get(recipient))
        .route("/timeline", get(timeline))
        .route("/release", post(release))
        .route("/mended", post(mend))
        .with_state(board)
}

async fn html() -> impl IntoResponse {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
        form-action 'none'; frame-ancestors 'none'; base-uri 'none'";
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(PAGE))
}

/// Lets requests through that name this machine. Another site whose name leads here for a moment names itself.
pub(crate) async fn of_this_machine(State(port): State<u16>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if ["127.0.0.1", "localhost", "[::1]"].iter().any(|name| host == format!("{name}:{port}")) {
        next.run(request).await
    } else {
        (StatusCode::FORBIDDEN, "this page is for its own machine").into_response()
    }
}

/// Everything so far, and then each change.
async fn changes(State(board): State<Arc<Board>>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    // First, so that nothing is missed in between. What comes twice changes nothing.
    let changes = BroadcastStream::new(board.viewer());
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
struct Address {
    address: String,
}

async fn recipient(
    State(board): State<Arc<Board>>,
    Query(Address { address }): Query<Address>,
) -> Result<Json<Recipient>, (StatusCode, String)> {
    board.recipient(&address).await.map(Json).map_err(failed)
}

#[derive(Deserialize)]
struct MessageTo {
    message_id: String,
    address: String,
}

async fn timeline(
    State(board): State<Arc<Board>>,
    Query(MessageTo { message_id, address }): Query<MessageTo>,
) -> Result<Json<Vec<EventView>>, (StatusCode, String)> {
    board.timeline(&message_id, &address).await.map(Json).map_err(failed)
}

#[derive(Serialize)]
struct Released {
    released: bool,
}

async fn release(
    State(board): State<Arc<Board>>,
    Json(Address { address }): Json<Address>,
) -> Result<Json<Released>, (StatusCode, String)> {
    let released = board.mail().release(&address, "released on the live page").await.map_err(failed)?;
    board.read_lists().await.map_err(failed)?;
    Ok(Json(Released { released }))
}

fn failed(error: impl std::fmt::Display) -> (StatusCode, String) {
    (StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

#[derive(Deserialize)]
struct Mended {
    is_mended: bool,
}

async fn mend(State(board): State<Arc<Board>>, Json(Mended { is_mended }): Json<Mended>) {
    board.mend(is_mended);
}
