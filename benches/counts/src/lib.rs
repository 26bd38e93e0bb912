//! The event that the benches send, and the secret that it is signed with.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing, clippy::missing_panics_doc, missing_docs)]

use std::fmt;
use std::time::SystemTime;

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

/// Prints a row with a figure that has no target.
pub fn counted(what: &str, figure: impl fmt::Display) {
    println!("| {what} | | counted | {figure} | |");
}
