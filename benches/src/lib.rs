//! What the benches share: the event that they send, how candidates take turns, and the rows of the table in
//! `docs/performance.md`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::indexing_slicing, missing_docs)]
#![allow(clippy::missing_panics_doc)]

pub mod load;
pub mod server;
pub mod slices;

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use sendarix_webhooks::inbox::Delivering;
use sendarix_webhooks::receiver::Refusal;
use sendarix_webhooks::testing::signed_headers;
use sendarix_webhooks::{HandlerError, Head, Receiver, SigningSecret};

pub const SECRET: &[u8] = b"whsec_0123456789abcdef";

/// A request as it comes from Sendarix, with an event that never came before.
#[derive(Debug)]
pub struct Event {
    headers: [(&'static str, String); 2],
    pub body: Vec<u8>,
}

impl Event {
    /// The documented bounce, compact, with an id of the same length: 282 bytes.
    pub fn bounce(id: usize) -> Self {
        let body = format!(
            r#"{{"event_id":"evt_{id:012}","event_type":"bounce","timestamp":"2026-04-19T14:30:45Z","message_id":"msg_abc123xyz","recipient":"invalid@example.com","data":{{"bounce_type":"hard","bounce_category":"invalid_email","smtp_code":550,"smtp_message":"No such user","was_automatic":true}}}}"#
        );
        assert_eq!(body.len(), 282);
        let body = body.into_bytes();
        Self { headers: signed_headers(&secret(), &body, SystemTime::now()), body }
    }

    /// The same with a signature that is wrong in its last digit.
    pub fn forged(mut self) -> Self {
        let (name, signature) = &mut self.headers[0];
        assert_eq!(*name, "x-sendarix-signature");
        let digit = if signature.pop() == Some('0') { '1' } else { '0' };
        signature.push(digit);
        self
    }

    /// Everything that the receiver does but for HTTP, up to the delivery: like `read`, it copies the body.
    ///
    /// # Errors
    ///
    /// The signature is wrong.
    pub fn deliver(&self, receiver: &Receiver) -> Result<Delivering<()>, Refusal> {
        let headers = self.headers.iter().map(|(name, value)| (*name, value.as_bytes()));
        let verified = receiver.admit(&Head::new("POST", headers))?.verify(self.body.clone())?;
        Ok(verified.deliver(|delivery| async move {
            drop(std::hint::black_box(delivery));
            Ok::<(), HandlerError>(())
        }))
    }

    /// As it goes over the wire of HTTP/1.1.
    pub fn request(&self) -> Vec<u8> {
        let mut request = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n".to_vec();
        for (name, value) in &self.headers {
            request.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        request.extend_from_slice(format!("content-length: {}\r\n\r\n", self.body.len()).as_bytes());
        request.extend_from_slice(&self.body);
        request
    }
}

pub fn secret() -> SigningSecret {
    SigningSecret::new(SECRET).unwrap()
}

/// What candidates took that had turns in rounds: whatever else the machine does hits them alike.
#[derive(Debug, Default)]
pub struct Rounds<const CANDIDATES: usize>(Vec<[Duration; CANDIDATES]>);

impl<const CANDIDATES: usize> Rounds<CANDIDATES> {
    pub fn add(&mut self, took: [Duration; CANDIDATES]) {
        self.0.push(took);
    }

    /// In which order the candidates have their turns in the next round: in every round another one begins.
    pub fn order(&self) -> impl Iterator<Item = usize> + use<CANDIDATES> {
        let first = self.0.len();
        (first..first + CANDIDATES).map(|turn| turn % CANDIDATES)
    }

    /// Gives each candidate a turn.
    pub fn add_turns(&mut self, mut turn: impl FnMut(usize) -> Duration) {
        let mut took = [Duration::ZERO; CANDIDATES];
        self.order().for_each(|candidate| took[candidate] = turn(candidate));
        self.add(took);
    }

    /// The median.
    pub fn seconds(&self, candidate: usize) -> f64 {
        median(self.0.iter().map(|round| round[candidate].as_secs_f64()))
    }

    /// The median of the differences within a round.
    pub fn more_seconds(&self, candidate: usize, than: usize) -> f64 {
        median(self.0.iter().map(|round| round[candidate].as_secs_f64() - round[than].as_secs_f64()))
    }

    /// The median of the ratios within a round.
    pub fn ratio(&self, candidate: usize, to: usize) -> f64 {
        median(self.0.iter().map(|round| round[candidate].as_secs_f64() / round[to].as_secs_f64()))
    }
}

pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

pub fn timed(step: impl FnOnce()) -> Duration {
    let start = Instant::now();
    step();
    start.elapsed()
}

/// What a figure is to be.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
}

/// Prints a row of the table, which `benches/run` collects.
pub fn row(what: &str, against: &str, target: Target, figure: f64) {
    let (reached, digits) = match target {
        Target::AtMost(limit) => (figure <= limit, 2),
        Target::AtLeast(limit) => (figure >= limit, if limit > 10.0 { 1 } else { 2 }),
    };
    let reached = if reached { "yes" } else { "**no**" };
    println!("| {what} | {against} | {target} | {figure:.digits$} | {reached} |");
}

/// Prints a row with a figure that has no target.
pub fn counted(what: &str, figure: impl fmt::Display) {
    println!("| {what} | | counted | {figure} | |");
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "≤ {limit}"),
            Self::AtLeast(limit) => write!(f, "≥ {limit}"),
        }
    }
}
