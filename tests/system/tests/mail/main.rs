//! Mail state on every store: the same rules on PostgreSQL, on SQLite, and in memory.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, unreachable_pub)]

use sendarix_webhooks_system_tests as support;

mod changes;
mod erasure;
mod fold;
mod messages;
mod rates;
mod shop;
mod suppressions;
mod transactions;

/// Each of these tests on each store.
macro_rules! on_every_store {
    ($($test:ident),* $(,)?) => {
        mod in_memory { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(crate::shop::Shop::in_memory().await).await; }
        )* }
        mod on_sqlite { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(crate::shop::Shop::on_sqlite().await).await; }
        )* }
        mod on_strict_postgres { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(crate::shop::Shop::on_strict_postgres().await).await; }
        )* }
        mod behind_pooler { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(crate::shop::Shop::behind_pooler().await).await; }
        )* }
        mod on_postgres { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(crate::shop::Shop::on_postgres().await).await; }
        )* }
    };
}
pub(crate) use on_every_store;
