//! Where events and dead letters are kept.

use std::str::FromStr;
use std::sync::Arc;

use sendarix_webhooks::store::{DedupStore, MemoryStore};

/// A store, by the name of its place.
#[derive(Clone)]
pub(crate) struct Place(pub(crate) Arc<dyn DedupStore>);

impl FromStr for Place {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        Ok(Self(match text.split_once(':') {
            None if text == "memory" => Arc::new(MemoryStore::new()),
            #[cfg(feature = "sqlite")]
            Some(("sqlite", path)) => {
                anyhow::ensure!(std::path::Path::new(path).exists(), "{path} is not there");
                Arc::new(sendarix_webhooks::SqliteStore::open(path)?)
            }
            #[cfg(feature = "redis")]
            Some(("redis" | "rediss", _)) => Arc::new(sendarix_webhooks::RedisStore::open(text)?),
            #[cfg(feature = "postgres")]
            Some(("postgres" | "postgresql", _)) => {
                // The tables are the application's.
                Arc::new(sendarix_webhooks::PostgresStore::builder(text)?.without_migration().build()?)
            }
            // What was found may have a password in it.
            _ => anyhow::bail!(
                "it must be memory, sqlite:PATH, redis://… or postgres://…, as far as this build knows them"
            ),
        }))
    }
}
