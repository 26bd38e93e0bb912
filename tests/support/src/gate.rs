//! A gate in a handler, at which a test holds it.

use std::sync::Arc;

use tokio::sync::Notify;

/// A handler waits here until the test opens the gate, once for each handler.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<Sides>);

#[derive(Debug, Default)]
struct Sides {
    reached: Notify,
    opened: Notify,
}

impl Gate {
    /// The handler is here, and goes on once the gate is opened.
    pub async fn pass(&self) {
        self.0.reached.notify_one();
        self.0.opened.notified().await;
    }

    /// Waits until a handler is here.
    pub async fn reached(&self) {
        self.0.reached.notified().await;
    }

    /// Lets one handler go on.
    pub fn open(&self) {
        self.0.opened.notify_one();
    }

    /// A handler that passes the gate and succeeds.
    pub fn handler<T>(
        &self,
    ) -> impl Fn(T) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync + 'static {
        let gate = self.clone();
        move |_| {
            let gate = gate.clone();
            Box::pin(async move { gate.pass().await })
        }
    }
}
