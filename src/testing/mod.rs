//! For your tests: signed requests, sample events, a clock to set, a simulated Sendarix, and the suites that stores must pass.
//!
//! Switch the feature `testing` on for tests alone:
//!
//! ```toml
//! [dev-dependencies]
//! sendarix-webhooks = { version = "0.1", features = ["testing"] }
//! ```
//!
//! A handler is tested through the layer, without a network:
//!
//! ```
//! # #[cfg(feature = "axum")]
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use axum::{Router, body::Body, routing::post};
//! use sendarix_webhooks::testing::{Sample, signed_request};
//! use sendarix_webhooks::{EventType, HandlerError, Receiver, SendarixEvent, SendarixLayer, SigningSecret};
//! use tower::ServiceExt;
//!
//! async fn on_event(event: SendarixEvent) -> Result<(), HandlerError> {
//!     if event.recipient.ends_with("@blocked.example") { Err("blocked")? }
//!     Ok(())
//! }
//!
//! let secret = SigningSecret::new("test")?;
//! let layer = SendarixLayer::new(Receiver::builder(secret.clone()).dangerously_without_dead_letters().build()?);
//! let app: Router = Router::new().route("/hook", post(on_event).layer(layer));
//!
//! let sample = Sample::new(EventType::Bounce).recipient("a@blocked.example");
//! let response = app.oneshot(signed_request::<Body>(&secret, "/hook", sample.body())).await?;
//! assert_eq!(response.status(), 503);
//! # Ok(()) }
//! # #[cfg(not(feature = "axum"))] fn main() {}
//! ```

mod clock;
pub mod conformance;
mod random;
mod sample;
mod simulation;

use std::time::{SystemTime, UNIX_EPOCH};

use crate::contract::{SIGNATURE_HEADER, TIMESTAMP_HEADER};
use crate::verify::{SigningSecret, SigningSecrets};

pub use self::clock::ManualClock;
pub use self::sample::Sample;
pub use self::simulation::{Attempt, AttemptResult, Ledger, LedgerEntry, SimulatedRequest, Simulation};

/// A secret of any bytes, for test vectors whose keys no dashboard would show: none of the checks of
/// [`SigningSecret::new`] is made.
#[must_use]
pub fn secret_of_bytes(key: &[u8]) -> SigningSecret {
    SigningSecret::of_bytes(key)
}

/// The two headers with which Sendarix would send this body at this time.
#[must_use]
pub fn signed_headers(secret: &SigningSecret, body: &[u8], at: SystemTime) -> [(&'static str, String); 2] {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    [(SIGNATURE_HEADER, secret.sign(body).to_string()), (TIMESTAMP_HEADER, seconds.to_string())]
}

/// A shell command that sends this sample to this URL as Sendarix would, at any later time: the signature covers the body
/// alone, and the shell writes the timestamp.
///
/// ```
/// use sendarix_webhooks::testing::{Sample, curl};
/// use sendarix_webhooks::{EventType, SigningSecret, SigningSecrets};
///
/// let secrets = SigningSecrets::from(SigningSecret::new("try-it-out")?);
/// let command = curl(&secrets, "http://127.0.0.1:3000/webhooks/sendarix", &Sample::new(EventType::Open));
/// assert!(command.starts_with("curl -i 'http://127.0.0.1:3000/webhooks/sendarix' "));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn curl(secrets: &SigningSecrets, url: &str, sample: &Sample) -> String {
    let body = sample.body();
    let signature = secrets.current().map(|secret| secret.sign(&body).to_string()).unwrap_or_default();
    let quoted = |text: &str| text.replace('\'', r"'\''");
    let (url, body) = (quoted(url), quoted(&String::from_utf8_lossy(&body)));
    format!(
        r#"curl -i '{url}' -H "{SIGNATURE_HEADER}: {signature}" -H "{TIMESTAMP_HEADER}: $(date +%s)" --data-raw '{body}'"#
    )
}

/// A request as Sendarix would send it now.
///
/// # Panics
///
/// The path cannot be part of a URI.
#[cfg(feature = "tower")]
#[cfg_attr(docsrs, doc(cfg(feature = "tower")))]
pub fn signed_request<B: From<Vec<u8>>>(secret: &SigningSecret, path: &str, body: Vec<u8>) -> http::Request<B> {
    let mut request = http::Request::builder().method("POST").uri(path).header("content-type", "application/json");
    for (name, value) in signed_headers(secret, &body, SystemTime::now()) {
        request = request.header(name, value);
    }
    #[expect(clippy::expect_used, reason = "a test should stop here")]
    request.body(B::from(body)).expect("the path can be part of a URI")
}
