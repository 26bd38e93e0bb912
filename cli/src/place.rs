//! Where events, dead letters and mail state are kept.

use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use sendarix_webhooks::store::{DedupStore, MemoryStore};

/// How the application's store is found.
#[derive(Args)]
pub(crate) struct StoreOptions {
    /// Where the application remembers events: memory, sqlite:PATH, redis://… or postgres://…
    ///
    /// Set the variable rather than the option where the place has a password: other users of the machine can read a process's
    /// arguments.
    #[arg(long, env = "SENDARIX_STORE", hide_env_values = true, value_name = "PLACE")]
    store: Option<String>,

    /// PostgreSQL: the schema of the tables
    #[arg(long, value_name = "NAME")]
    schema: Option<String>,

    /// PostgreSQL: the table of claims
    #[arg(long, value_name = "NAME")]
    claims_table: Option<String>,

    /// PostgreSQL: the table of dead letters
    #[arg(long, value_name = "NAME")]
    dead_letters_table: Option<String>,

    /// PostgreSQL: what the names of the tables of mail state begin with
    #[arg(long, value_name = "PREFIX")]
    mail_tables: Option<String>,

    /// PostgreSQL: the server is reached through a pooler in transaction mode
    #[arg(long)]
    behind_pooler: bool,

    /// Redis: what the keys begin with
    #[arg(long, value_name = "PREFIX")]
    redis_prefix: Option<String>,
}

/// A store, by the name of its place.
pub(crate) enum Place {
    Memory(MemoryStore),
    #[cfg(feature = "sqlite")]
    Sqlite(sendarix_webhooks::SqliteStore),
    #[cfg(feature = "redis")]
    Redis(sendarix_webhooks::RedisStore),
    #[cfg(feature = "postgres")]
    Postgres(sendarix_webhooks::PostgresStore),
}

/// What a place may begin with.
const ENGINES: [&str; 5] = ["sqlite", "redis", "rediss", "postgres", "postgresql"];

impl StoreOptions {
    /// The store, if one is named.
    pub(crate) fn open(&self) -> anyhow::Result<Option<Place>> {
        self.store.as_deref().map(|place| self.parse(place).context("--store")).transpose()
    }

    fn parse(&self, place: &str) -> anyhow::Result<Place> {
        Ok(match place.split_once(':') {
            None if place == "memory" => Place::Memory(MemoryStore::new()),
            #[cfg(feature = "sqlite")]
            Some(("sqlite", path)) => {
                anyhow::ensure!(std::path::Path::new(path).exists(), "{path} is not there");
                Place::Sqlite(sendarix_webhooks::SqliteStore::open(path)?)
            }
            #[cfg(feature = "redis")]
            Some(("redis" | "rediss", _)) => {
                let store = sendarix_webhooks::RedisStore::open(place)?;
                Place::Redis(match &self.redis_prefix {
                    Some(prefix) => store.prefix(prefix),
                    None => store,
                })
            }
            #[cfg(feature = "postgres")]
            Some(("postgres" | "postgresql", _)) => Place::Postgres(self.postgres(place)?),
            Some((engine, _)) if ENGINES.contains(&engine) => {
                anyhow::bail!(
                    "this build knows no {engine}; `cargo install --locked --path cli --no-default-features \
                     --features {engine}` installs one that does"
                )
            }
            // What was found may have a password in it.
            _ => anyhow::bail!("it must be memory, sqlite:PATH, redis://… or postgres://…"),
        })
    }

    #[cfg(feature = "postgres")]
    fn postgres(&self, url: &str) -> anyhow::Result<sendarix_webhooks::PostgresStore> {
        // The tables are the application's.
        let mut builder = sendarix_webhooks::PostgresStore::builder(url)?.without_migration();
        if let Some(schema) = &self.schema {
            builder = builder.schema(schema);
        }
        if let Some(table) = &self.claims_table {
            builder = builder.claims_table(table);
        }
        if let Some(table) = &self.dead_letters_table {
            builder = builder.dead_letters_table(table);
        }
        if let Some(prefix) = &self.mail_tables {
            builder = builder.mail_tables(prefix);
        }
        if self.behind_pooler {
            builder = builder.behind_pooler();
        }
        Ok(builder.build()?)
    }
}

impl Place {
    pub(crate) fn store(self) -> Arc<dyn DedupStore> {
        match self {
            Self::Memory(store) => Arc::new(store),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(store) => Arc::new(store),
            #[cfg(feature = "redis")]
            Self::Redis(store) => Arc::new(store),
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => Arc::new(store),
        }
    }
}
