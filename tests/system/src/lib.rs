//! Servers, processes and a proxy between them; and what the processes of `src/bin` have in common.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::missing_panics_doc)]
#![allow(
    missing_docs,
    missing_debug_implementations,
    clippy::missing_errors_doc,
    clippy::new_without_default,
    clippy::print_stderr
)]

pub mod application;
mod delivery;
pub mod lease;
mod pooler;
mod process;
mod proxy;
pub mod serve;
mod server;
pub mod store;

use std::time::{Duration, Instant};

pub use self::delivery::{deliver, deliver_body, receiver, secret};
pub use self::pooler::PgBouncer;
pub use self::process::{Instance, SECRET, Sent, program};
pub use self::proxy::{Fault, Proxy};
pub use self::server::{Backend, Kind, PATIENCE, TempDir, as_nobody, libfaketime, signal};

/// Waits until a condition holds, and returns how long it took.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) -> Duration {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    start.elapsed()
}
