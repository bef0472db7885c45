//! What the gateway's database says, read from its file as any tool may read it.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Map, Value};

use super::gateway::Gateway;
use super::{DEADLINE, eventually};

/// Waits until there are so many usage records, and returns them in the order in which they were written.
#[track_caller]
pub fn records(gateway: &Gateway, count: usize) -> Vec<Value> {
    eventually("the usage records", DEADLINE, || {
        let rows = rows(gateway, "SELECT * FROM usage_records ORDER BY id")?;
        (rows.len() >= count).then_some(rows)
    })
}

/// The last of so many records.
#[track_caller]
pub fn last_record(gateway: &Gateway, count: usize) -> Value {
    let mut records = records(gateway, count);
    assert_eq!(records.len(), count, "{records:#?}");
    records.pop().unwrap_or_default()
}

/// The rows of a query; None while the database cannot be read.
pub fn rows(gateway: &Gateway, query: &str) -> Option<Vec<Value>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let database = Connection::open_with_flags(gateway.path("keygate.db"), flags).ok()?;
    let mut statement = database.prepare(query).ok()?;
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let rows = statement.query_map([], |row| {
        let mut object = Map::new();
        for (at, name) in names.iter().enumerate() {
            let value = match row.get_ref(at)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(number) => number.into(),
                ValueRef::Real(number) => number.into(),
                ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
                ValueRef::Blob(bytes) => bytes.len().into(),
            };
            object.insert(name.clone(), value);
        }
        Ok(Value::Object(object))
    });
    rows.ok()?.collect::<Result<_, _>>().ok()
}
