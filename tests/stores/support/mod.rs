//! Servers, processes and a proxy between them.

mod delivery;
mod process;
mod proxy;
mod server;

use std::time::{Duration, Instant};

pub use self::delivery::{deliver, deliver_body, receiver, secret};
pub use self::process::{Instance, Sent, example};
pub use self::proxy::{Fault, Proxy};
pub use self::server::{Backend, Kind, PATIENCE, TempDir, as_nobody, signal};

/// Waits until a condition holds, and returns how long it took.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) -> Duration {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    start.elapsed()
}
