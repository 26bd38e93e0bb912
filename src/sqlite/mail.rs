//! Mail state in SQLite, beside the claims.

use std::sync::{Arc, LazyLock};

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row};

use super::connection::Query;
use super::statements::COMPLETE;
use super::{SqliteStore, bind_step};
use crate::event::{SendarixEvent, Timestamp};
use crate::mail::{
    Address, Backend, Changes, ErasedRange, GivenEntry, Mail, Message, MessageStatus, Rates, Record, Recorded,
    SoftBounceRule, StatusChanges, SuppressionEntry,
};
use crate::sql::mail::{
    MailDialect, MailStatements, MailTables, Recording, bind_record, copy_suppression, entry, message, page_start,
    rates, soft_bounce_parameters,
};
use crate::sql::{in_batches, units};
use crate::storage::StoreError;
use crate::store::{ClaimHandle, ClaimState};

const TABLES: MailTables<&str> = MailTables {
    events: "sendarix_events",
    messages: "sendarix_messages",
    suppressions: "sendarix_suppressions",
    rates: "sendarix_rates",
};

const DIALECT: MailDialect = MailDialect {
    time: str::to_owned,
    micros: str::to_owned,
    span: str::to_owned,
    least: |a, b| format!("min(coalesce({a}, {b}), coalesce({b}, {a}))"),
    greatest: |a, b| format!("max(coalesce({a}, {b}), coalesce({b}, {a}))"),
    given: "(SELECT $1 AS address, $2 AS recipient, $3 AS reason, $4 AS since, $5 AS event_id, $6 AS message_id, $7 AS erased)
        AS given",
    list: |parameter| format!("IN (SELECT value FROM json_each({parameter}))"),
    shard: "0",
};

static STATEMENTS: LazyLock<MailStatements> = LazyLock::new(|| MailStatements::new(&TABLES, &DIALECT));

/// Keeps a suppression under another address. Binds both.
static COPY_SUPPRESSION: LazyLock<Arc<str>> = LazyLock::new(|| {
    let rows = "sendarix_suppressions WHERE address = $1";
    copy_suppression(&TABLES.suppressions, rows, DIALECT.greatest).into()
});

/// What adds an event: one statement after the other, the first of which says whether the event is new.
static RECORD: LazyLock<[Arc<str>; 5]> = LazyLock::new(|| {
    let Recording { values, event, message, suppression, rates } = Recording::new(&TABLES, &DIALECT, "1 = 1", "1 = 1");
    let before = "SELECT m.status FROM sendarix_messages AS m JOIN v USING (message_id, address)".to_owned();
    [event, before, message, suppression, rates].map(|sql| format!("WITH {values} {sql}").into())
});

fn query<'q>(sql: &Arc<str>) -> Query<'q> {
    sqlx::query(AssertSqlSafe(Arc::clone(sql)))
}

/// Adds an event and what follows from it, in the transaction that is open. Returns the message's status if it has changed.
async fn add(
    connection: &mut SqliteConnection,
    record: &Record<'_>,
    rule: Option<SoftBounceRule>,
) -> Result<Option<MessageStatus>, sqlx::Error> {
    let [event, before, message, suppression, rates] = &*RECORD;
    let run = |sql| bind_record!(query(sql), record);
    if run(event).fetch_all(&mut *connection).await?.is_empty() {
        return Ok(None);
    }
    let status = |rows: Vec<SqliteRow>| rows.first().map(|row| row.try_get::<Option<String>, _>("status")).transpose();
    let before = status(run(before).fetch_all(&mut *connection).await?)?.flatten();
    let after = status(run(message).fetch_all(&mut *connection).await?)?.flatten();
    if record.reason.is_some() {
        run(suppression).execute(&mut *connection).await?;
    }
    if record.counted.is_some() {
        run(rates).execute(&mut *connection).await?;
    }
    if let Some(rule) = rule.filter(|_| record.concerns_soft_bounces()) {
        let (others, within) = soft_bounce_parameters(rule);
        let address = record.address.as_str();
        let erased = record.erased.as_ref().map(Address::as_str);
        if record.may_lift_soft_bounces() {
            let lift = query(&STATEMENTS.lift_soft_bounces).bind(address).bind(record.at.unix_micros()).bind(within);
            lift.bind(erased).execute(&mut *connection).await?;
        }
        let apply = query(&STATEMENTS.apply_soft_bounces).bind(address).bind(others).bind(within).bind(erased);
        apply.execute(&mut *connection).await?;
    }
    Ok(after.filter(|after| Some(after) != before.as_ref()).and_then(|status| status.parse().ok()))
}

impl SqliteStore {
    async fn mail_rows<'q, T>(
        &self,
        sql: &Arc<str>,
        bind: impl FnOnce(Query<'q>) -> Query<'q>,
        read: impl Fn(&SqliteRow) -> Result<T, sqlx::Error>,
    ) -> Result<Vec<T>, StoreError> {
        let rows = self.0.database.mail.run(AssertSqlSafe(Arc::clone(sql)), bind).await?;
        rows.iter().map(read).collect::<Result<_, _>>().map_err(StoreError::new)
    }

    async fn delete_all<'q>(&self, sql: &Arc<str>, bind: impl Fn(Query<'q>) -> Query<'q>) -> Result<u64, StoreError> {
        in_batches(|| self.mail_rows(sql, &bind, |_| Ok(()))).await
    }
}

impl Mail<SqliteStore> {
    /// Makes the tables now, unless they are there. Without this they are made when they are first needed.
    ///
    /// # Errors
    ///
    /// The file cannot be opened or written.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        self.store().entry(&Address::new("")).await.map(drop)
    }

    /// Records an event in the application's own transaction, next to whatever else the application writes in it. Then call
    /// [`SqliteStore::commit`].
    ///
    /// ```no_run
    /// # use sendarix_webhooks::{Delivery, HandlerError, SqliteStore, mail::Mail};
    /// async fn on_event(delivery: Delivery, mail: Mail<SqliteStore>, pool: sqlx::SqlitePool) -> Result<(), HandlerError> {
    ///     let event = delivery.event();
    ///     let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    ///     sqlx::query("UPDATE orders SET mailed = 1 WHERE message_id = ?1").bind(&event.message_id).execute(&mut *tx).await?;
    ///     mail.record_in(&mut tx, event).await?;
    ///     mail.store().commit(tx, delivery.claim()).await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// The tables must be there: [`migrate`](Self::migrate) makes them at the start. [`changes`](Self::changes) does not tell
    /// what is recorded here, since the transaction may still be rolled back.
    ///
    /// # Errors
    ///
    /// The database failed. Then roll the transaction back.
    pub async fn record_in(&self, tx: &mut SqliteConnection, event: &SendarixEvent) -> Result<(), StoreError> {
        add(tx, &self.record_of(event), self.soft_bounces()).await.map(drop).map_err(StoreError::new)
    }
}

impl Backend for SqliteStore {
    async fn record(
        &self,
        record: &Record<'_>,
        claim: &ClaimHandle,
        rule: Option<SoftBounceRule>,
        _: &Changes,
    ) -> Result<Recorded, StoreError> {
        self.purge_if_due();
        let add = async |connection: &mut SqliteConnection| {
            let retention = units(claim.retention(), 1000);
            let complete = bind_step(sqlx::query(COMPLETE), claim.key(), claim.token(), retention);
            if complete.fetch_all(&mut *connection).await?.is_empty() {
                return Ok(Recorded::default());
            }
            let status = add(connection, record, rule).await?;
            Ok(Recorded { completed: true, status })
        };
        self.0.database.mail.run_all(add).await
    }

    async fn claim_state(&self, claim: &ClaimHandle) -> Result<Option<ClaimState>, StoreError> {
        self.state(claim).await
    }

    async fn suppressed(&self, addresses: &[&str], own: &ErasedRange) -> Result<Vec<String>, StoreError> {
        let list = serde_json::to_string(addresses).map_err(StoreError::new)?;
        let bind = |query: Query<'static>| query.bind(list).bind(&*own.from).bind(&*own.to);
        self.mail_rows(&STATEMENTS.suppressed, bind, |row| row.try_get("address")).await
    }

    async fn entry(&self, address: &Address) -> Result<Option<SuppressionEntry>, StoreError> {
        Ok(self.mail_rows(&STATEMENTS.entry, |query| query.bind(address.as_str()), entry).await?.pop())
    }

    async fn suppressions(&self, after: &str, limit: usize) -> Result<Vec<SuppressionEntry>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.mail_rows(&STATEMENTS.suppressions, |query| query.bind(after).bind(limit), entry).await
    }

    async fn suppress(&self, entries: &[GivenEntry]) -> Result<(), StoreError> {
        let suppress = async |connection: &mut SqliteConnection| {
            for GivenEntry { address, recipient, suppressed, erased } in entries {
                let query = query(&STATEMENTS.suppress)
                    .bind(address.as_str())
                    .bind(recipient)
                    .bind(suppressed.reason.as_str())
                    .bind(suppressed.since.unix_micros())
                    .bind(suppressed.event_id.as_deref())
                    .bind(suppressed.message_id.as_deref())
                    .bind(erased.as_ref().map(Address::as_str));
                query.execute(&mut *connection).await?;
            }
            Ok(())
        };
        self.0.database.mail.run_all(suppress).await
    }

    async fn release_unlisted(&self, address: &Address, at: Timestamp, because: &str) -> Result<bool, StoreError> {
        let bind = |query| bind_release(query, address, at, because);
        Ok(!self.mail_rows(&STATEMENTS.release_unlisted, bind, |_| Ok(())).await?.is_empty())
    }

    async fn release(&self, address: &Address, at: Timestamp, because: &str) -> Result<bool, StoreError> {
        let bind = |query| bind_release(query, address, at, because);
        Ok(!self.mail_rows(&STATEMENTS.release, bind, |_| Ok(())).await?.is_empty())
    }

    async fn messages(&self, message_id: &str, address: Option<&Address>) -> Result<Vec<Message>, StoreError> {
        match address {
            Some(address) => {
                let address = address.as_str();
                self.mail_rows(&STATEMENTS.message, |query| query.bind(message_id).bind(address), message).await
            }
            None => self.mail_rows(&STATEMENTS.messages, |query| query.bind(message_id), message).await,
        }
    }

    async fn messages_to(
        &self,
        address: &Address,
        after: Option<(Timestamp, &str)>,
        limit: usize,
    ) -> Result<Vec<Message>, StoreError> {
        self.mail_rows(&STATEMENTS.messages_to, |query| bind_page(query, address, after, limit), message).await
    }

    async fn timeline(
        &self,
        address: &Address,
        after: Option<(Timestamp, &str)>,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let bind = |query| bind_page(query, address, after, limit);
        self.mail_rows(&STATEMENTS.timeline, bind, |row| row.try_get("body")).await
    }

    async fn rates(&self, key: &str, since: Timestamp) -> Result<Rates, StoreError> {
        let since = since.unix_micros();
        let rates = self.mail_rows(&STATEMENTS.rates, |query| query.bind(key).bind(since), rates).await?.pop();
        Ok(rates.unwrap_or_default())
    }

    async fn purge(&self, before: Timestamp) -> Result<u64, StoreError> {
        let before = before.unix_micros();
        let MailStatements { purge_events, purge_messages, purge_rates, .. } = &*STATEMENTS;
        let purged = self.delete_all(purge_events, |query| query.bind(before)).await?;
        self.delete_all(purge_messages, |query| query.bind(before)).await?;
        self.delete_all(purge_rates, |query| query.bind(before)).await?;
        Ok(purged)
    }

    async fn erase(&self, address: &Address, erased: &Address) -> Result<u64, StoreError> {
        let (address, erased) = (address.as_str(), erased.as_str());
        let MailStatements { erase_events, erase_messages, .. } = &*STATEMENTS;
        let events = self.delete_all(erase_events, |query| query.bind(address)).await?;
        self.delete_all(erase_messages, |query| query.bind(address)).await?;
        let move_suppression = async |connection: &mut SqliteConnection| {
            query(&COPY_SUPPRESSION).bind(address).bind(erased).execute(&mut *connection).await?;
            sqlx::query("DELETE FROM sendarix_suppressions WHERE address = $1")
                .bind(address)
                .execute(&mut *connection)
                .await?;
            Ok(())
        };
        self.0.database.mail.run_all(move_suppression).await?;
        Ok(events)
    }

    async fn changes(&self, changes: &Changes) -> Result<StatusChanges, StoreError> {
        Ok(changes.local())
    }
}

/// Binds what is released, when and why.
fn bind_release<'q>(query: Query<'q>, address: &'q Address, at: Timestamp, because: &'q str) -> Query<'q> {
    query.bind(address.as_str()).bind(at.unix_micros()).bind(because)
}

/// Binds where a page begins, and its length.
fn bind_page<'q>(
    query: Query<'q>,
    address: &'q Address,
    after: Option<(Timestamp, &'q str)>,
    limit: usize,
) -> Query<'q> {
    let (at, id) = page_start(after);
    query.bind(address.as_str()).bind(at).bind(id).bind(i64::try_from(limit).unwrap_or(i64::MAX))
}
