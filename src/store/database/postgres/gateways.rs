//! The gateways that share a database of PostgreSQL.

use crate::policy::time::UnixTime;
use crate::store::database::error::DatabaseError;
use crate::store::database::gateways::{
    GatewayDriver, GatewayIdentity, GatewayList, GatewayReport, SeenGateway,
};
use crate::store::database::people::{PeopleDriver, SqlRow, statement, text};
use crate::store::database::postgres::Postgres;
use crate::store::database::statements::SqlValue;

const REPORT_GATEWAY: &str = include_str!("report_gateway.sql");
const GATEWAYS: &str = include_str!("gateways.sql");
const REMOVE_GATEWAY: &str = include_str!("remove_gateway.sql");

/// The column of the newest revision, which is the same in all rows.
const NEWEST_REVISION: usize = 9;

impl GatewayDriver for Postgres {
    fn report_gateway(&mut self, report: &GatewayReport) -> Result<(), DatabaseError> {
        let GatewayReport {
            gateway:
                GatewayIdentity {
                    name,
                    instance,
                    started_at,
                },
            version,
            revision,
            database_behind,
            lag_ms,
            in_flight,
        } = report;
        let number = |number: Option<i64>| number.map_or(SqlValue::Null, SqlValue::Integer);
        let revision = revision.map(|revision| i64::try_from(revision).unwrap_or(i64::MAX));
        let values = [
            text(instance),
            text(name),
            text(version),
            SqlValue::Integer(started_at.seconds().saturating_mul(1000)),
            number(revision),
            SqlValue::Integer((*database_behind).into()),
            number(*lag_ms),
            SqlValue::Integer(*in_flight),
        ];
        self.ask(&statement(REPORT_GATEWAY, values)).map(drop)
    }

    fn gateways(&mut self) -> Result<Option<GatewayList>, DatabaseError> {
        let rows = self.ask(&statement(GATEWAYS, []))?;
        let newest = rows.first().and_then(|row| revision(row, NEWEST_REVISION));
        let gateways: Vec<SeenGateway> = rows.iter().map(seen_gateway).collect();
        let is_any = gateways
            .iter()
            .any(|gateway| gateway.report.revision.is_some());
        Ok(Some(GatewayList {
            revision: newest.filter(|_| is_any),
            gateways,
        }))
    }

    fn remove_gateway(&mut self, instance: &str) -> Result<(), DatabaseError> {
        self.ask(&statement(REMOVE_GATEWAY, [text(instance)]))
            .map(drop)
    }
}

fn seen_gateway(row: &SqlRow) -> SeenGateway {
    let text = |column| row.text(column).unwrap_or_default();
    let number = |column| row.number(column).unwrap_or(0);
    SeenGateway {
        report: GatewayReport {
            gateway: GatewayIdentity {
                instance: text(0),
                name: text(1),
                started_at: UnixTime::from_seconds(number(3).div_euclid(1000)),
            },
            version: text(2),
            revision: revision(row, 4),
            database_behind: row.number(10) == Some(1),
            lag_ms: row.number(5),
            in_flight: number(6),
        },
        seen_at: UnixTime::from_seconds(number(7)),
        unseen_ms: number(8),
    }
}

fn revision(row: &SqlRow, column: usize) -> Option<u64> {
    row.number(column)
        .and_then(|revision| u64::try_from(revision).ok())
}
