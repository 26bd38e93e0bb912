//! What goes back to the sender.

use std::borrow::Cow;
use std::time::Duration;

use crate::inbox::Settlement;
use crate::outcome::{Outcome, RefusalKind, Settled};

/// An answer that the receiver gives by itself: a status, a few headers, one line of plain text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Answer {
    outcome: Outcome,
    refusal: Option<RefusalKind>,
    status: u16,
    retry_after: Option<Duration>,
    text: &'static str,
}

impl Answer {
    pub(super) fn new(settled: &Settled) -> Self {
        let Settled { outcome, status, retry_after, .. } = *settled;
        Self { outcome, refusal: None, status, retry_after, text: outcome.text() }
    }

    pub(super) fn because(self, refusal: RefusalKind) -> Self {
        Self { refusal: Some(refusal), text: refusal.text(), ..self }
    }

    /// As HTTP asks of an answer to HEAD. Not every server takes a body off: over HTTP/2, hyper does not.
    pub(super) fn without_text(self) -> Self {
        Self { text: "", ..self }
    }

    /// What became of the delivery.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Why the request was refused, if it was refused before its signature was proven or while draining.
    #[must_use]
    pub fn refusal(&self) -> Option<RefusalKind> {
        self.refusal
    }

    /// The HTTP status, between 200 and 599.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The headers, with names in lower case.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, Cow<'static, str>)> {
        let allow = (self.outcome == Outcome::MethodNotAllowed).then_some(("allow", Cow::Borrowed("POST")));
        // Whole seconds, rounded up: never 0, which would ask for a retry at once.
        let seconds = self.retry_after.map(|time| (time.as_millis().div_ceil(1000)).max(1));
        let retry_after = seconds.map(|seconds| ("retry-after", Cow::Owned(seconds.to_string())));
        let content_type = ("content-type", Cow::Borrowed("text/plain; charset=utf-8"));
        // RFC 9110, 15.5.2: a 401 names the scheme that it asks for.
        let challenge = (self.status == 401).then_some(("www-authenticate", Cow::Borrowed(CHALLENGE)));
        std::iter::once(content_type).chain(challenge).chain(allow).chain(retry_after)
    }

    /// The body: one short line without its line break, or nothing where the method or the status allows no body.
    #[must_use]
    pub fn text(&self) -> &'static str {
        if matches!(self.status, 204 | 205 | 304) { "" } else { self.text }
    }
}

/// There is no registered scheme for a signature over the body. The realm is the same for every endpoint: it tells nothing.
const CHALLENGE: &str = "Sendarix-Signature realm=\"webhooks\"";

impl<R> Settlement<R> {
    /// What goes back to the sender: the handler's response, or else the receiver's answer.
    ///
    /// # Errors
    ///
    /// The handler did not run, returned an error, or is still running.
    pub fn into_response(self) -> Result<R, Answer> {
        self.response.ok_or_else(|| Answer::new(&self.settled))
    }
}

/// For handlers that return `()`.
impl Settlement {
    /// The answer to send.
    pub fn into_answer(self) -> Answer {
        Answer::new(&self.settled)
    }
}
