//! The SQL that both dialects share, and the questions that are put together from it. Placeholders are `$1`, `$2`, …

use crate::policy::audit::AuditAction;
use crate::store::database::audit::AuditQuery;
use crate::store::database::query::{Bucket, RecordsQuery, SumsQuery};

/// Where the rows stand that a statement adds.
pub(crate) const ROWS: &str = "/*rows*/";

pub(crate) const CLAIM_BATCH: &str = include_str!("sql/claim_batch.sql");
pub(crate) const ADD_RECORD: &str = include_str!("sql/add_record.sql");
pub(crate) const ADD_SUMS: &str = include_str!("sql/add_sums.sql");
pub(crate) const ADD_KEY_USE: &str = include_str!("sql/add_key_use.sql");
pub(crate) const KEY_USES: &str = include_str!("sql/key_uses.sql");
pub(crate) const DELETE_RECORDS: &str = include_str!("sql/delete_records.sql");
pub(crate) const DELETE_WRITERS: &str = include_str!("sql/delete_writers.sql");
pub(crate) const RESET_BUDGET: &str = include_str!("sql/reset_budget.sql");
pub(crate) const BUDGET_RESET: &str = include_str!("sql/budget_reset.sql");
pub(crate) const ACCOUNTS: &str = include_str!("sql/accounts.sql");
pub(crate) const PUT_ACCOUNT: &str = include_str!("sql/put_account.sql");
pub(crate) const DELETE_ACCOUNT: &str = include_str!("sql/delete_account.sql");
pub(crate) const ADD_ALERT: &str = include_str!("sql/add_alert.sql");
pub(crate) const DUE_ALERTS: &str = include_str!("sql/due_alerts.sql");
pub(crate) const END_ATTEMPT: &str = include_str!("sql/end_attempt.sql");
pub(crate) const ALERT_SUMMARY: &str = include_str!("sql/alert_summary.sql");
pub(crate) const TOLD_UPSTREAMS: &str = include_str!("sql/told_upstreams.sql");
pub(crate) const DELETE_ALERTS: &str = include_str!("sql/delete_alerts.sql");
pub(crate) const ADD_AUDIT_ROW: &str = include_str!("sql/add_audit_row.sql");
pub(crate) const LAST_AUDIT_ROW: &str = include_str!("sql/last_audit_row.sql");
pub(crate) const ALL_AUDIT_ROWS: &str = include_str!("sql/all_audit_rows.sql");
pub(crate) const AUDIT_HASH: &str = include_str!("sql/audit_hash.sql");
pub(crate) const FIRST_AUDIT_TIME: &str = include_str!("sql/first_audit_time.sql");
pub(crate) const AUDIT_CUT: &str = include_str!("sql/audit_cut.sql");
pub(crate) const DELETE_AUDIT: &str = include_str!("sql/delete_audit.sql");
const AUDIT_ROWS: &str = include_str!("sql/audit_rows.sql");
const SUMS: &str = include_str!("sql/sums.sql");
const RECORDS: &str = include_str!("sql/records.sql");

/// The statement that adds one row of so many columns. How several rows are added at once is the dialect's.
pub(crate) fn one_row(sql: &str, columns: usize) -> String {
    let places: Vec<String> = (1..=columns).map(|place| format!("${place}")).collect();
    sql.replace(ROWS, &format!("VALUES ({})", places.join(", ")))
}

/// What a row of the sums is about; see the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SumsScope {
    All = 0,
    Account = 1,
    Key = 2,
}

/// A value of a placeholder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SqlValue {
    Integer(i64),
    Text(String),
    Null,
}

/// A statement with the values of its placeholders, in their order.
pub(crate) struct Statement {
    pub(crate) sql: String,
    pub(crate) values: Vec<SqlValue>,
}

impl Statement {
    fn condition(&mut self, conditions: &mut Vec<String>, before: &str, value: SqlValue) {
        self.values.push(value);
        conditions.push(format!("{before} ${}", self.values.len()));
    }
}

/// The statement of a question for sums.
pub(crate) fn sums(query: &SumsQuery) -> Statement {
    let scope = if query.group_by.key || !query.keys.is_empty() {
        SumsScope::Key
    } else if query.group_by.account || query.account.is_some() {
        SumsScope::Account
    } else {
        SumsScope::All
    };
    let mut statement = Statement {
        sql: String::new(),
        values: Vec::new(),
    };
    // The rows of one subject are found by the index of the subjects. A plain `scope =` would make SQLite walk the
    // rows of all subjects instead, and so the plus keeps it from that.
    let by_subject =
        !query.keys.is_empty() || (scope == SumsScope::Account && query.account.is_some());
    let mut conditions = vec![match by_subject {
        true => format!("+scope = {}", scope as i64),
        false => format!("scope = {}", scope as i64),
    }];
    let (from, to) = query.range();
    for (before, value) in [
        ("width =", query.bucket.width()),
        ("start >=", from),
        ("start <", to),
    ] {
        statement.condition(&mut conditions, before, SqlValue::Integer(value));
    }
    if !query.keys.is_empty() {
        let places: Vec<String> = query
            .keys
            .iter()
            .map(|key| {
                statement.values.push(SqlValue::Text(key.clone()));
                format!("${}", statement.values.len())
            })
            .collect();
        conditions.push(format!("subject IN ({})", places.join(", ")));
    }
    let account_column = match scope {
        SumsScope::Account => "subject =",
        SumsScope::All | SumsScope::Key => "account =",
    };
    for (before, value) in [
        (account_column, &query.account),
        ("model =", &query.model),
        ("upstream =", &query.upstream),
    ] {
        if let Some(value) = value {
            statement.condition(&mut conditions, before, SqlValue::Text(value.clone()));
        }
    }
    let column = |grouped: bool, name: &'static str| match grouped {
        true => name,
        false => "CAST(NULL AS TEXT)",
    };
    let start = match query.bucket {
        Bucket::Hour | Bucket::Day => "start".to_owned(),
        Bucket::WholeDays | Bucket::WholeHours => format!("CAST({from} AS BIGINT)"),
    };
    statement.sql = SUMS
        .replace("/*start*/", &start)
        .replace("/*key*/", column(query.group_by.key, "subject"))
        .replace(
            "/*account*/",
            column(
                query.group_by.account,
                &account_column[..account_column.len() - 2],
            ),
        )
        .replace("/*model*/", column(query.group_by.model, "model"))
        .replace("/*upstream*/", column(query.group_by.upstream, "upstream"))
        .replace("/*where*/", &conditions.join(" AND "));
    statement
}

/// The statement of a question for records.
pub(crate) fn records(query: &RecordsQuery) -> Statement {
    let mut statement = Statement {
        sql: String::new(),
        values: vec![SqlValue::Integer(i64::from(query.limit))],
    };
    let mut conditions = Vec::new();
    let after = query.after.unwrap_or(i64::MAX);
    statement.condition(&mut conditions, "id <", SqlValue::Integer(after));
    let end = query.end.map(|end| end.label().to_owned());
    for (before, value) in [
        ("key_id =", &query.key_id),
        ("account =", &query.account),
        ("model =", &query.model),
        ("upstream =", &query.upstream),
        ("end_kind =", &end),
    ] {
        if let Some(value) = value {
            statement.condition(&mut conditions, before, SqlValue::Text(value.clone()));
        }
    }
    for (before, seconds) in [("ended_at >=", query.from), ("ended_at <", query.to)] {
        if let Some(seconds) = seconds {
            let milliseconds = SqlValue::Integer(seconds.saturating_mul(1000));
            statement.condition(&mut conditions, before, milliseconds);
        }
    }
    statement.sql = RECORDS.replace("/*where*/", &conditions.join(" AND "));
    statement
}

/// The statement of a question for audit rows.
pub(crate) fn audit_rows(query: &AuditQuery) -> Statement {
    let mut statement = Statement {
        sql: String::new(),
        values: vec![SqlValue::Integer(i64::from(query.limit))],
    };
    let mut conditions = Vec::new();
    let after = query.after.unwrap_or(i64::MAX);
    statement.condition(&mut conditions, "n <", SqlValue::Integer(after));
    for (before, value) in [
        ("account =", &query.account),
        ("actor =", &query.actor),
        ("action =", &query.action),
    ] {
        if let Some(value) = value {
            statement.condition(&mut conditions, before, SqlValue::Text(value.clone()));
        }
    }
    if let Some(key_id) = &query.key_id {
        statement.values.push(SqlValue::Text(key_id.clone()));
        let target = statement.values.len();
        // The objects of a reload have a member for each key.
        let member = format!("\"{key_id}\":{{");
        statement.values.push(SqlValue::Text(member));
        let member = statement.values.len();
        let has = |column| format!("REPLACE({column}, ${member}, '') <> {column}");
        conditions.push(format!(
            "(target = ${target} OR (action IN ('{}', '{}') AND ({} OR {})))",
            AuditAction::Reload.label(),
            AuditAction::ForcedDrop.label(),
            has("before"),
            has("after"),
        ));
    }
    for (before, seconds) in [("at >=", query.from), ("at <", query.to)] {
        if let Some(seconds) = seconds {
            let milliseconds = SqlValue::Integer(seconds.saturating_mul(1000));
            statement.condition(&mut conditions, before, milliseconds);
        }
    }
    statement.sql = AUDIT_ROWS.replace("/*where*/", &conditions.join(" AND "));
    statement
}
