//! What a PostgreSQL store can be told.

use std::fmt;

use sqlx::postgres::PgConnectOptions;

use super::PostgresStore;
use super::database::Database;
use super::schema::{Table, VERSIONS};
use crate::storage::StoreConfigError;

/// Builds a [`PostgresStore`].
#[derive(Clone)]
#[must_use]
pub struct PostgresBuilder {
    options: PgConnectOptions,
    max_connections: usize,
    behind_pooler: bool,
    schema: Option<String>,
    claims: String,
    letters: String,
    mail: String,
    migrate: bool,
}

impl PostgresBuilder {
    pub(super) fn new(options: PgConnectOptions) -> Self {
        Self {
            options,
            max_connections: 8,
            behind_pooler: false,
            schema: None,
            claims: "sendarix_claims".to_owned(),
            letters: "sendarix_dead_letters".to_owned(),
            mail: "sendarix".to_owned(),
            migrate: true,
        }
    }

    /// The schema of the tables, which must be there. Default: the first of the connection's `search_path`.
    pub fn schema(mut self, name: impl Into<String>) -> Self {
        self.schema = Some(name.into());
        self
    }

    /// The name of the table of claims. Default: `sendarix_claims`.
    pub fn claims_table(mut self, name: impl Into<String>) -> Self {
        self.claims = name.into();
        self
    }

    /// The name of the table of dead letters. Default: `sendarix_dead_letters`.
    pub fn dead_letters_table(mut self, name: impl Into<String>) -> Self {
        self.letters = name.into();
        self
    }

    /// What the names of the tables of a [`Mail`](crate::mail::Mail) begin with. Default: `sendarix`, for `sendarix_events`,
    /// `sendarix_messages`, `sendarix_suppressions` and `sendarix_rates`.
    #[cfg(feature = "mail")]
    #[cfg_attr(docsrs, doc(cfg(feature = "mail")))]
    pub fn mail_tables(mut self, prefix: impl Into<String>) -> Self {
        self.mail = prefix.into();
        self
    }

    /// How many connections may be open at the same time. Default: 8. A claim takes one for as long as one statement
    /// takes, so this is not the number of events that are handled at the same time.
    pub fn max_connections(mut self, max: usize) -> Self {
        self.max_connections = max;
        self
    }

    /// Reaches the server through a pooler in transaction mode, such as `PgBouncer`. Each step is then a transaction with a
    /// time limit, without prepared statements: four round trips instead of one. Without this call the store refuses a
    /// pooler: it does not pass on a session's time limit.
    pub fn behind_pooler(mut self) -> Self {
        self.behind_pooler = true;
        self
    }

    /// Leaves the tables to you: see [`PostgresStore::migration`]. Default: the store makes them.
    pub fn without_migration(mut self) -> Self {
        self.migrate = false;
        self
    }

    /// Checks the names. Does not connect yet.
    ///
    /// # Errors
    ///
    /// A name is not made of 1 to 57 ASCII letters, digits and underscores, or begins with a digit; two tables have the
    /// same name; no connection is allowed.
    pub fn build(self) -> Result<PostgresStore, StoreConfigError> {
        if self.max_connections == 0 {
            return Err(refused("`max_connections` is 0; a store needs at least one connection"));
        }
        if self.claims == self.letters {
            return Err(refused(format!("both tables are called `{}`", self.claims)));
        }
        let is_of_mail = |name: &String| {
            ["events", "messages", "suppressions", "rates"]
                .iter()
                .any(|table| *name == format!("{}_{table}", self.mail))
        };
        if let Some(name) = [&self.claims, &self.letters].into_iter().find(|name| is_of_mail(name)) {
            return Err(refused(format!("a table is called `{name}`, as one of mail state is: see `mail_tables`")));
        }
        if [&self.claims, &self.letters].into_iter().any(|name| name == VERSIONS) {
            return Err(refused(format!("a table is called `{VERSIONS}`, which is that of the version")));
        }
        let longest = format!("{}_suppressions", self.mail);
        for (setting, name) in
            [("claims_table", &self.claims), ("dead_letters_table", &self.letters), ("mail_tables", &longest)]
                .into_iter()
                .chain(self.schema.iter().map(|name| ("schema", name)))
        {
            check_name(setting, name)?;
        }
        let table = |name| Table { schema: self.schema.clone(), name };
        let (claims, letters) = (table(self.claims), table(self.letters));
        let Self { options, max_connections, behind_pooler, migrate, .. } = self;
        let database = Database::new(options, max_connections, behind_pooler, claims, letters, migrate);
        Ok(PostgresStore::new(database, &self.mail))
    }
}

/// `PostgreSQL` cuts names at 63 bytes, and that of the index has 6 more than the table's.
const MAX_NAME: usize = 57;

fn refused(message: impl Into<String>) -> StoreConfigError {
    StoreConfigError::new(message, None)
}

fn check_name(setting: &str, name: &str) -> Result<(), StoreConfigError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let digit_first = name.starts_with(|first: char| first.is_ascii_digit());
    if (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(allowed) && !digit_first {
        return Ok(());
    }
    Err(refused(format!(
        "`{setting}` is {name:?}; a name has 1 to {MAX_NAME} ASCII letters, digits and underscores, and no digit first"
    )))
}

impl fmt::Debug for PostgresBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresBuilder")
            .field("schema", &self.schema)
            .field("claims", &self.claims)
            .finish_non_exhaustive()
    }
}
