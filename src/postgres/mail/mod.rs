//! Mail state in PostgreSQL, beside the claims.

mod statements;

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions, PgRow};
use sqlx::{PgConnection, Row};
use tokio::time::sleep;

pub(super) use self::statements::MailDatabase;
use super::database::{Query, query};
use super::schema::Schema;
use super::{PostgresStore, bind_step};
use crate::event::{SendarixEvent, Timestamp};
use crate::mail::{
    Address, Backend, Changes, ErasedRange, GivenEntry, Mail, Message, MissedChanges, Rates, Record, Recorded,
    SoftBounceRule, StatusChange, StatusChanges, SuppressionEntry,
};
use crate::sql::in_batches;
use crate::sql::mail::{MailStatements, bind_record, entry, message, page_start, rates, soft_bounce_parameters};
use crate::storage::StoreError;
use crate::store::{ClaimHandle, ClaimState};

const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended('sendarix soft bounces ' || $1, 0))";

impl PostgresStore {
    /// What follows an event if there is a rule for soft bounces: the rule is applied to all that is committed, by one
    /// connection after the other.
    fn soft_bounces<'q>(&self, rule: Option<SoftBounceRule>, record: &'q Record<'_>) -> Vec<Query<'q>> {
        let Some(rule) = rule.filter(|_| record.concerns_soft_bounces()) else { return Vec::new() };
        let (address, statements) = (record.address.as_str(), &self.0.mail.statements);
        let (others, within) = soft_bounce_parameters(rule);
        let lock = self.lock(address);
        let erased = record.erased.as_ref().map(Address::as_str);
        let lift = query(&statements.lift_soft_bounces).bind(address).bind(record.at.unix_micros()).bind(within);
        let lift = lift.bind(erased);
        let apply = query(&statements.apply_soft_bounces).bind(address).bind(others).bind(within).bind(erased);
        let lift = record.may_lift_soft_bounces().then_some(lift);
        [Some(lock), lift, Some(apply)].into_iter().flatten().collect()
    }

    /// Makes transactions that change the suppression of an address by soft bounces, or move it, take turns.
    fn lock<'q>(&self, address: &str) -> Query<'q> {
        sqlx::query(LOCK).bind(format!("{} {address}", self.0.mail.tables.suppressions))
    }

    async fn delete_all(
        &self,
        sql: &Arc<str>,
        bind: impl Fn(Query<'static>) -> Query<'static>,
    ) -> Result<u64, StoreError> {
        in_batches(|| self.0.database.run_sql(sql, &bind)).await
    }

    async fn mail_rows<'q, T>(
        &self,
        statement: impl FnOnce(&MailStatements) -> &Arc<str>,
        bind: impl Fn(Query<'q>) -> Query<'q>,
        read: impl Fn(&PgRow) -> Result<T, sqlx::Error>,
    ) -> Result<Vec<T>, StoreError> {
        let rows = self.0.database.run_sql(statement(&self.0.mail.statements), bind).await?;
        rows.iter().map(read).collect::<Result<_, _>>().map_err(StoreError::new)
    }
}

impl Mail<PostgresStore> {
    /// The SQL that makes the tables. It changes nothing where they are.
    #[must_use]
    pub fn migration(&self) -> String {
        Schema::of_mail(&self.store().0.mail.tables).migration
    }

    /// Makes the tables now, unless they are there. Without this they are made when they are first needed.
    ///
    /// # Errors
    ///
    /// The database cannot be reached, or its role may not make tables.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        self.store().migrate().await
    }

    /// Records an event in the application's own transaction, next to whatever else the application writes in it. Then call
    /// [`PostgresStore::commit`].
    ///
    /// ```no_run
    /// # use sendarix_webhooks::{Delivery, HandlerError, PostgresStore, mail::Mail};
    /// async fn on_event(delivery: Delivery, mail: Mail<PostgresStore>, pool: sqlx::PgPool) -> Result<(), HandlerError> {
    ///     let event = delivery.event();
    ///     let mut tx = pool.begin().await?;
    ///     sqlx::query("UPDATE orders SET mailed = true WHERE message_id = $1").bind(&event.message_id).execute(&mut *tx).await?;
    ///     mail.record_in(&mut tx, event).await?;
    ///     mail.store().commit(tx, delivery.claim()).await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// The transaction's role needs SELECT, INSERT and UPDATE on the tables, which must be there: [`migrate`](Self::migrate)
    /// makes them at the start. With a [rule for soft bounces](crate::mail::MailBuilder::soft_bounces), the transaction must be
    /// `READ COMMITTED`, PostgreSQL's default: a stricter one does not see what another one has just counted.
    ///
    /// # Errors
    ///
    /// The database failed. Then roll the transaction back.
    pub async fn record_in(&self, tx: &mut PgConnection, event: &SendarixEvent) -> Result<(), StoreError> {
        let (store, record) = (self.store(), self.record_of(event));
        let add = bind_record!(query(&store.0.mail.record_within), &record).bind(self.changes_sink().announced);
        for query in [vec![add], store.soft_bounces(self.soft_bounces(), &record)].into_iter().flatten() {
            query.persistent(!store.0.database.behind_pooler).execute(&mut *tx).await.map_err(StoreError::new)?;
        }
        Ok(())
    }
}

impl Backend for PostgresStore {
    fn prepare(&self) {
        self.0.database.need_mail(|| Schema::of_mail(&self.0.mail.tables));
    }

    async fn record(
        &self,
        record: &Record<'_>,
        claim: &ClaimHandle,
        rule: Option<SoftBounceRule>,
        changes: &Changes,
    ) -> Result<Recorded, StoreError> {
        self.purge_if_due();
        let queries = || {
            let add = bind_record!(query(&self.0.mail.record), record).bind(changes.announced);
            let add = bind_step(add, claim.key(), claim.token(), claim.retention());
            let mut queries = self.soft_bounces(rule, record);
            queries.insert(0, add);
            queries
        };
        let answers = self.0.database.run_all(queries).await?;
        let row =
            answers.first().and_then(|rows| rows.first()).ok_or_else(|| StoreError::new(sqlx::Error::RowNotFound))?;
        let status: Option<&str> = row.try_get("status").map_err(StoreError::new)?;
        let completed = row.try_get("completed").map_err(StoreError::new)?;
        Ok(Recorded { completed, status: status.and_then(|status| status.parse().ok()) })
    }

    async fn claim_state(&self, claim: &ClaimHandle) -> Result<Option<ClaimState>, StoreError> {
        self.state(claim).await
    }

    async fn suppressed(&self, addresses: &[&str], own: &ErasedRange) -> Result<Vec<String>, StoreError> {
        let bind = |query: Query<'static>| query.bind(addresses).bind(&*own.from).bind(&*own.to);
        self.mail_rows(|sql| &sql.suppressed, bind, |row| row.try_get("address")).await
    }

    async fn entry(&self, address: &Address) -> Result<Option<SuppressionEntry>, StoreError> {
        Ok(self.mail_rows(|sql| &sql.entry, |query| query.bind(address.as_str().to_owned()), entry).await?.pop())
    }

    async fn suppressions(&self, after: &str, limit: usize) -> Result<Vec<SuppressionEntry>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.mail_rows(|sql| &sql.suppressions, |query| query.bind(after.to_owned()).bind(limit), entry).await
    }

    async fn suppress(&self, entries: &[GivenEntry]) -> Result<(), StoreError> {
        fn column<T>(entries: &[GivenEntry], value: impl Fn(&GivenEntry) -> T) -> Vec<T> {
            entries.iter().map(value).collect()
        }
        let bind = |query: Query<'static>| {
            query
                .bind(column(entries, |entry| entry.address.as_str().to_owned()))
                .bind(column(entries, |entry| entry.recipient.clone()))
                .bind(column(entries, |entry| entry.suppressed.reason.as_str()))
                .bind(column(entries, |entry| entry.suppressed.since.unix_micros()))
                .bind(column(entries, |entry| entry.suppressed.event_id.clone()))
                .bind(column(entries, |entry| entry.suppressed.message_id.clone()))
                .bind(column(entries, |entry| entry.erased.as_ref().map(|erased| erased.as_str().to_owned())))
        };
        self.0.database.run_sql(&self.0.mail.statements.suppress, bind).await.map(drop)
    }

    async fn release_unlisted(&self, address: &Address, at: Timestamp, because: &str) -> Result<bool, StoreError> {
        let bind = bind_release(address, at, because);
        Ok(!self.mail_rows(|sql| &sql.release_unlisted, bind, |_| Ok(())).await?.is_empty())
    }

    async fn release(&self, address: &Address, at: Timestamp, because: &str) -> Result<bool, StoreError> {
        let bind = bind_release(address, at, because);
        Ok(!self.mail_rows(|sql| &sql.release, bind, |_| Ok(())).await?.is_empty())
    }

    async fn messages(&self, message_id: &str, address: Option<&Address>) -> Result<Vec<Message>, StoreError> {
        match address {
            Some(address) => {
                let bind = |query: Query<'static>| query.bind(message_id.to_owned()).bind(address.as_str().to_owned());
                self.mail_rows(|sql| &sql.message, bind, message).await
            }
            None => self.mail_rows(|sql| &sql.messages, |query| query.bind(message_id.to_owned()), message).await,
        }
    }

    async fn messages_to(
        &self,
        address: &Address,
        after: Option<(Timestamp, &str)>,
        limit: usize,
    ) -> Result<Vec<Message>, StoreError> {
        self.mail_rows(|sql| &sql.messages_to, bind_page(address, after, limit), message).await
    }

    async fn timeline(
        &self,
        address: &Address,
        after: Option<(Timestamp, &str)>,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        self.mail_rows(|sql| &sql.timeline, bind_page(address, after, limit), |row| row.try_get("body")).await
    }

    async fn rates(&self, key: &str, since: Timestamp) -> Result<Rates, StoreError> {
        let bind = |query: Query<'static>| query.bind(key.to_owned()).bind(since.unix_micros());
        Ok(self.mail_rows(|sql| &sql.rates, bind, rates).await?.pop().unwrap_or_default())
    }

    async fn purge(&self, before: Timestamp) -> Result<u64, StoreError> {
        let before = before.unix_micros();
        let MailStatements { purge_events, purge_messages, purge_rates, .. } = &self.0.mail.statements;
        let purged = self.delete_all(purge_events, |query| query.bind(before)).await?;
        self.delete_all(purge_messages, |query| query.bind(before)).await?;
        self.delete_all(purge_rates, |query| query.bind(before)).await?;
        Ok(purged)
    }

    async fn erase(&self, address: &Address, erased: &Address) -> Result<u64, StoreError> {
        let (address, erased) = (address.as_str().to_owned(), erased.as_str().to_owned());
        let MailStatements { erase_events, erase_messages, .. } = &self.0.mail.statements;
        let events = self.delete_all(erase_events, |query| query.bind(address.clone())).await?;
        self.delete_all(erase_messages, |query| query.bind(address.clone())).await?;
        // A delivery that comes meanwhile must see the suppression at one of both places.
        let queries = || {
            let move_suppression = query(&self.0.mail.move_suppression).bind(address.clone()).bind(erased.clone());
            vec![self.lock(&address), move_suppression]
        };
        self.0.database.run_all(queries).await?;
        Ok(events)
    }

    async fn changes(&self, changes: &Changes) -> Result<StatusChanges, StoreError> {
        if !changes.announced {
            let message = "changes of status are not announced: call MailBuilder::announce_changes in every instance";
            return Err(StoreError::new(message));
        }
        if self.0.database.behind_pooler {
            let message = "a pooler in transaction mode does not pass on LISTEN: call changes() on a store that reaches the server directly";
            return Err(StoreError::new(message));
        }
        let channel = self.0.database.run_sql(&self.0.mail.channel, |query| query).await?;
        let channel =
            channel.first().ok_or(sqlx::Error::RowNotFound).and_then(|row| row.try_get::<String, _>("channel"));
        let channel = channel.map_err(StoreError::new)?;
        // A connection for as long as the stream is read, which opens itself again.
        let pool =
            PgPoolOptions::new().max_connections(1).connect_lazy_with(self.0.database.connections.options.clone());
        let mut listener = PgListener::connect_with(&pool).await.map_err(StoreError::new)?;
        listener.listen(&channel).await.map_err(StoreError::new)?;
        Ok(StatusChanges::from_task(|changes| async move {
            loop {
                let change = match listener.try_recv().await {
                    Ok(Some(notification)) => StatusChange::announced(notification.payload()),
                    Ok(None) => Err(MissedChanges),
                    Err(_) => {
                        sleep(RECONNECT_PAUSE).await;
                        Err(MissedChanges)
                    }
                };
                // The stream ends the task.
                let _ = changes.send(change);
            }
        }))
    }
}

const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// Binds what is released, when and why.
fn bind_release(address: &Address, at: Timestamp, because: &str) -> impl Fn(Query<'static>) -> Query<'static> + use<> {
    let (address, because) = (address.as_str().to_owned(), because.to_owned());
    move |query| query.bind(address.clone()).bind(at.unix_micros()).bind(because.clone())
}

/// Binds where a page begins, and its length.
fn bind_page<'q>(
    address: &Address,
    after: Option<(Timestamp, &str)>,
    limit: usize,
) -> impl Fn(Query<'q>) -> Query<'q> + use<'q> {
    let (at, id) = page_start(after);
    let (address, id) = (address.as_str().to_owned(), id.to_owned());
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    move |query| query.bind(address.clone()).bind(at).bind(id.clone()).bind(limit)
}
