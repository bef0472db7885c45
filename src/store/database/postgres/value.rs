//! Values on their way to the server and back.
//!
//! A statement is sent with the types of its values, all at once and without a name: the server is asked once, and a pooler
//! may send each statement over another connection.

use bytes::BytesMut;
use tokio_postgres::Row;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use crate::store::database::people::SqlRow;
use crate::store::database::postgres::error::CallError;
use crate::store::database::statements::{SqlValue, Statement};

/// A value and its type.
pub(crate) type SqlParameter<'v> = (&'v (dyn ToSql + Sync), Type);

type EncodeError = Box<dyn std::error::Error + Sync + Send>;

impl Statement {
    pub(crate) fn parameters(&self) -> Vec<SqlParameter<'_>> {
        let values = self.values.iter();
        values
            .map(|value| (value as &(dyn ToSql + Sync), value.kind()))
            .collect()
    }
}

impl SqlValue {
    fn kind(&self) -> Type {
        match self {
            Self::Integer(_) => Type::INT8,
            Self::Text(_) => Type::TEXT,
            // The server knows what belongs there.
            Self::Null => Type::UNKNOWN,
        }
    }
}

impl ToSql for SqlValue {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, EncodeError> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Text(text) => storable(text).to_sql(kind, out),
            Self::Integer(number) => number.to_sql(kind, out),
        }
    }

    fn accepts(kind: &Type) -> bool {
        [Type::INT8, Type::TEXT, Type::UNKNOWN].contains(kind)
    }

    to_sql_checked!();
}

/// PostgreSQL keeps no U+0000 in a text. A batch that it refuses would be sent for ever.
pub(crate) fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// A row as the shared code reads it.
pub(crate) fn row_values(row: &Row) -> Result<SqlRow, CallError> {
    let value = |(at, column): (usize, &tokio_postgres::Column)| {
        let value = match *column.type_() {
            Type::INT8 => row.try_get::<_, Option<i64>>(at)?.map(SqlValue::Integer),
            Type::INT4 => {
                let number = row.try_get::<_, Option<i32>>(at)?;
                number.map(|number| SqlValue::Integer(number.into()))
            }
            _ => row.try_get::<_, Option<String>>(at)?.map(SqlValue::Text),
        };
        Ok(value.unwrap_or(SqlValue::Null))
    };
    let values: Result<Vec<_>, CallError> = row.columns().iter().enumerate().map(value).collect();
    Ok(SqlRow(values?))
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ColumnKind {
    Integer,
    Text,
}

impl ColumnKind {
    /// The type of an array of them.
    pub(crate) fn array(self) -> &'static str {
        match self {
            Self::Integer => "bigint[]",
            Self::Text => "text[]",
        }
    }
}

/// Rows, column by column.
#[derive(Debug)]
pub(crate) struct Columns(Vec<ColumnValues>);

#[derive(Debug)]
enum ColumnValues {
    Integers(Vec<Option<i64>>),
    Texts(Vec<Option<String>>),
}

impl Columns {
    pub(crate) fn of(kinds: &[ColumnKind]) -> Self {
        let columns = kinds.iter().map(|kind| match kind {
            ColumnKind::Integer => ColumnValues::Integers(Vec::new()),
            ColumnKind::Text => ColumnValues::Texts(Vec::new()),
        });
        Self(columns.collect())
    }

    /// Replaces the rows by the next ones, at most `most`. Returns whether there are any.
    pub(crate) fn fill<const N: usize>(
        &mut self,
        rows: &mut impl Iterator<Item = [SqlValue; N]>,
        most: usize,
    ) -> bool {
        self.0.iter_mut().for_each(ColumnValues::clear);
        let mut is_any = false;
        for row in rows.take(most) {
            is_any = true;
            for (column, value) in self.0.iter_mut().zip(row) {
                column.push(value);
            }
        }
        is_any
    }

    pub(crate) fn parameters(&self) -> Vec<SqlParameter<'_>> {
        self.0.iter().map(ColumnValues::parameter).collect()
    }
}

impl ColumnValues {
    fn parameter(&self) -> SqlParameter<'_> {
        match self {
            Self::Integers(values) => (values, Type::INT8_ARRAY),
            Self::Texts(values) => (values, Type::TEXT_ARRAY),
        }
    }

    fn clear(&mut self) {
        match self {
            Self::Integers(values) => values.clear(),
            Self::Texts(values) => values.clear(),
        }
    }

    /// A value of another kind is not kept: it would shift the rows behind it.
    fn push(&mut self, value: SqlValue) {
        match (self, value) {
            (Self::Integers(values), SqlValue::Integer(number)) => values.push(Some(number)),
            (Self::Texts(values), SqlValue::Text(text)) => values.push(Some(storable(&text))),
            (Self::Integers(values), _) => values.push(None),
            (Self::Texts(values), _) => values.push(None),
        }
    }
}
