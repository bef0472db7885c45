//! A file of SQLite is of one gateway, so nothing is kept of gateways.

use crate::store::database::error::DatabaseError;
use crate::store::database::gateways::{GatewayDriver, GatewayList, GatewayReport};
use crate::store::database::sqlite::Sqlite;

impl GatewayDriver for Sqlite {
    fn report_gateway(&mut self, _: &GatewayReport) -> Result<(), DatabaseError> {
        Ok(())
    }

    fn gateways(&mut self) -> Result<Option<GatewayList>, DatabaseError> {
        Ok(None)
    }

    fn remove_gateway(&mut self, _: &str) -> Result<(), DatabaseError> {
        Ok(())
    }
}
