//! What the tables of mail state are asked, and how an event is added.

use std::sync::Arc;

use crate::postgres::schema::Table;
use crate::sql::mail::{MailDialect, MailStatements, MailTables, RECORD_PARAMETERS, Recording, copy_suppression};

/// What a store knows of its tables of mail state.
#[derive(Debug)]
pub(in crate::postgres) struct MailDatabase {
    pub(super) tables: MailTables<Table>,
    pub(super) statements: MailStatements,
    /// Adds an event and completes its claim. Binds a record, whether to announce a change, and a step of the claim.
    pub(super) record: Arc<str>,
    /// Adds an event in the application's own transaction. Binds a record, and whether to announce a change.
    pub(super) record_within: Arc<str>,
    /// Asks for the name of the channel on which changes of status are announced.
    pub(super) channel: Arc<str>,
    /// Deletes a suppression and keeps it under another address. Binds both.
    pub(super) move_suppression: Arc<str>,
}

const DIALECT: MailDialect = MailDialect {
    // Whole seconds and what is left of one: an interval is a product of floating-point numbers, which keep both exactly.
    time: |micros| {
        format!(
            "(timestamptz 'epoch' + ({micros} / 1000000) * interval '1 second' + ({micros} % 1000000) * interval '1 microsecond')"
        )
    },
    micros: |column| format!("CAST(extract(epoch FROM {column}) * 1000000 AS bigint)"),
    span: |micros| format!("{micros} * interval '1 microsecond'"),
    least: |a, b| format!("least({a}, {b})"),
    greatest: |a, b| format!("greatest({a}, {b})"),
    list: |parameter| format!("= ANY ({parameter})"),
    given: "unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::text[])
        AS given (address, recipient, reason, since, event_id, message_id, erased)",
    shard: "pg_backend_pid() % 16",
};

impl MailDatabase {
    pub(in crate::postgres) fn new(claims: &Table, prefix: &str) -> Self {
        let table = |name: &str| Table { schema: claims.schema.clone(), name: format!("{prefix}_{name}") };
        let tables = MailTables {
            events: table("events"),
            messages: table("messages"),
            suppressions: table("suppressions"),
            rates: table("rates"),
        };
        // By the table and not by its name, which may be that of another one in another schema.
        let channel = format!("'sendarix_changes_' || to_regclass('{}')::oid", tables.messages);
        // What is deleted is what is kept, also where an event changes it at the same time.
        let suppressions = &tables.suppressions;
        let move_suppression = format!(
            "WITH deleted AS (DELETE FROM {suppressions} WHERE address = $1 RETURNING reason, since, released_at) {}",
            copy_suppression(suppressions, "deleted", DIALECT.greatest)
        );
        let completed = complete(claims);
        Self {
            record: record(&tables, Some(&completed), &channel).into(),
            record_within: record(&tables, None, &channel).into(),
            statements: MailStatements::new(&tables, &DIALECT),
            channel: format!("SELECT {channel} AS channel").into(),
            move_suppression: move_suppression.into(),
            tables,
        }
    }
}

/// Completes a live claim, or finds it completed by this token: the statement may be sent again.
fn complete(claims: &Table) -> String {
    let [endpoint, event_id, token, retention] = [2, 3, 4, 5].map(|next| RECORD_PARAMETERS + next);
    format!(
        "completed AS (UPDATE {claims} SET state = 'completed', until = clock_timestamp() + ${retention} * interval '1 microsecond'
            WHERE endpoint = ${endpoint} AND event_id = ${event_id} AND token = ${token}::uuid AND state IN ('live', 'completed')
            RETURNING 1)"
    )
}

/// One statement: the parts see the tables as they were before it, and the rows that other parts return.
fn record(tables: &MailTables<Table>, completed: Option<&str>, channel: &str) -> String {
    let first = completed.map_or("true", |_| "EXISTS (SELECT FROM completed)");
    let Recording { values, event, message, suppression, rates } =
        Recording::new(tables, &DIALECT, first, "EXISTS (SELECT FROM recorded)");
    let (completed, is_completed) = match completed {
        Some(completed) => (format!("{completed},"), "EXISTS (SELECT FROM completed)"),
        None => (String::new(), "true"),
    };
    // The status before may be an older one than that which the row has been merged with: then a change is told twice, and
    // none is missed, since a status never goes back.
    let changed = "message.status IS NOT NULL AND message.status IS DISTINCT FROM before.status";
    let (announces, messages) = (RECORD_PARAMETERS + 1, &tables.messages);
    format!(
        "WITH {values}, {completed}
            recorded AS ({event}), message AS ({message}), suppressed AS ({suppression}), counted AS ({rates}),
            before AS (SELECT m.status FROM {messages} AS m JOIN v USING (message_id, address))
         SELECT {is_completed} AS completed, CASE WHEN {changed} THEN message.status END AS status,
            CASE WHEN ${announces}::boolean AND {changed} THEN pg_notify({channel}, json_build_object('message_id', v.message_id,
                'address', v.address, 'status', message.status)::text)::text END
         FROM v LEFT JOIN message ON true LEFT JOIN before ON true"
    )
}
