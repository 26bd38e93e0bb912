//! `--store`, which says where events are remembered.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use sendarix_webhooks::dead_letter::FileDeadLetters;
use sendarix_webhooks::store::{DedupStore, MemoryStore};
use sendarix_webhooks::{PostgresStore, RedisStore, SqliteStore};

/// Where events are remembered, and what could not be handled.
#[derive(Clone)]
pub enum Store {
    Memory,
    Sqlite(SqliteStore),
    Redis(RedisStore),
    Postgres(PostgresStore),
}

impl FromStr for Store {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        Ok(match text.split_once(':') {
            None if text == "memory" => Self::Memory,
            Some(("sqlite", path)) => Self::Sqlite(SqliteStore::open(path)?),
            Some(("redis" | "rediss", _)) => Self::Redis(RedisStore::open(text)?),
            Some(("postgres" | "postgresql", _)) => Self::Postgres(PostgresStore::open(text)?),
            // What was found may have a password in it.
            _ => anyhow::bail!("--store must be memory, sqlite:PATH, redis://… or postgres://…"),
        })
    }
}

impl Store {
    pub fn events(&self) -> Arc<dyn DedupStore> {
        match self.clone() {
            Self::Memory => Arc::new(MemoryStore::new()),
            Self::Sqlite(store) => Arc::new(store),
            Self::Redis(store) => Arc::new(store),
            Self::Postgres(store) => Arc::new(store),
        }
    }

    /// The file of the letters, if they are not in the store itself. A memory has no place for them: they go to `otherwise`.
    pub fn letters_apart(&self, file: Option<&Path>, otherwise: &Path) -> anyhow::Result<Option<FileDeadLetters>> {
        let otherwise = matches!(self, Self::Memory).then_some(otherwise);
        Ok(file.or(otherwise).map(FileDeadLetters::open).transpose()?)
    }
}
