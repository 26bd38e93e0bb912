//! Values and statements as text, for the protocol that takes nothing else.

use std::fmt::{self, Display};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::sql::units;
use crate::store::{ClaimToken, EventKey};

/// A text as an SQL expression: nothing but hex digits comes from outside.
pub(super) struct Text<'a>(pub(super) &'a str);

/// A claim's token as an SQL expression.
pub(super) struct Token(pub(super) ClaimToken);

/// The condition that a row is that of a key.
pub(super) struct Key<'a>(pub(super) &'a EventKey);

/// A statement that is prepared in the language itself, under a name that no other statement can have. So it does not
/// matter which session of the server a pooler takes: it knows the statement, or says that it does not.
#[derive(Debug)]
pub(super) struct Statement {
    name: String,
    parameters: &'static str,
    text: String,
}

impl Statement {
    pub(super) fn new(parameters: &'static str, text: String) -> Self {
        let digest = const_hex::encode(Sha256::digest(&text));
        let digest = digest.get(..32).unwrap_or_default();
        Self { name: format!("sendarix_{digest}"), parameters, text }
    }

    pub(super) fn prepare(&self) -> String {
        format!("PREPARE {} ({}) AS {}", self.name, self.parameters, self.text)
    }

    pub(super) fn execute(&self, arguments: impl Display) -> String {
        format!("EXECUTE {} ({arguments})", self.name)
    }
}

/// What every step of a claim is told: the event, the token, and a time in microseconds.
pub(super) struct Arguments<'a>(pub(super) &'a EventKey, pub(super) ClaimToken, pub(super) Duration);

impl Display for Arguments<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(key, token, time) = self;
        let (endpoint, event_id) = (Text(key.endpoint()), Text(key.event_id()));
        write!(f, "{endpoint}, {event_id}, {}, {}", Token(*token), units(*time, 1_000_000))
    }
}

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // With `E`, so that no setting changes it.
        write!(f, "convert_from(E'\\\\x{}'::bytea, 'UTF8')", const_hex::encode(self.0))
    }
}

impl Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}'::uuid", const_hex::encode(self.0.to_bytes()))
    }
}

impl Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (endpoint, event_id) = (Text(self.0.endpoint()), Text(self.0.event_id()));
        write!(f, "endpoint = {endpoint} AND event_id = {event_id}")
    }
}
