//! A database for a test, of one kind or the other, so that one test says what both do.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tempfile::TempDir;

use super::server::TestServer;
use super::{KEEP, START};
use crate::store::database::driver::Driver;
use crate::store::database::postgres::{Postgres, PostgresServer};
use crate::store::database::sqlite::Sqlite;
use crate::store::database::{
    Database, DatabaseObserver, DatabaseUrl, KeepFor, PostgresUrl, audit_key_beside,
};

/// Makes two tests of each function: one for each kind of database.
macro_rules! on_both {
    ($($test:ident),+ $(,)?) => {
        mod sqlite {
            $(#[test] fn $test() { super::$test(&crate::store::database::tests::fixture::Fixture::sqlite()); })+
        }
        mod postgres {
            $(#[test] fn $test() { super::$test(&crate::store::database::tests::fixture::Fixture::postgres()); })+
        }
    };
}
pub(crate) use on_both;

/// One server for all tests of this process, each of which has a database of its own.
fn server() -> &'static TestServer {
    static SERVER: OnceLock<TestServer> = OnceLock::new();
    SERVER.get_or_init(TestServer::start)
}

/// An empty database.
pub(crate) struct Fixture {
    folder: TempDir,
    url: DatabaseUrl,
}

impl Fixture {
    pub(crate) fn sqlite() -> Self {
        let folder = TempDir::new().unwrap();
        let url = DatabaseUrl::Sqlite(folder.path().join("keygate.db"));
        Self { folder, url }
    }

    pub(crate) fn postgres() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        server().create_database(&name);
        Self {
            folder: TempDir::new().unwrap(),
            url: of_server(&server().url(&name)),
        }
    }

    /// Another one of the same kind.
    pub(crate) fn another(&self) -> Self {
        match self.url {
            DatabaseUrl::Sqlite(_) => Self::sqlite(),
            DatabaseUrl::Postgres(_) => Self::postgres(),
        }
    }

    pub(crate) fn url(&self) -> &DatabaseUrl {
        &self.url
    }

    pub(crate) fn audit_key(&self) -> PathBuf {
        audit_key_beside(&self.folder.path().join("keygate.db"))
    }

    pub(crate) fn open(&self, instance: &str) -> Database {
        self.open_with(instance, KEEP, Box::new(|_| {}))
    }

    pub(crate) fn open_with(
        &self,
        instance: &str,
        keep: KeepFor,
        observer: DatabaseObserver,
    ) -> Database {
        Database::open(&self.url, &self.audit_key(), "g1", instance, keep, observer).unwrap()
    }

    /// A connection that writes.
    pub(crate) fn driver(&self) -> Box<dyn Driver> {
        match &self.url {
            DatabaseUrl::Sqlite(path) => Box::new(Sqlite::open_to_write(path, START).unwrap()),
            DatabaseUrl::Postgres(url) => Box::new(Postgres::to_write(&connections(url))),
        }
    }

    /// A connection that reads.
    pub(crate) fn reader(&self) -> Box<dyn Driver> {
        match &self.url {
            DatabaseUrl::Sqlite(path) => Box::new(Sqlite::open_to_read(path).unwrap()),
            DatabaseUrl::Postgres(url) => Box::new(Postgres::to_read(&connections(url))),
        }
    }

    /// What a statement answers in PostgreSQL, as text.
    pub(crate) fn query(&self, sql: &str) -> String {
        match &self.url {
            DatabaseUrl::Sqlite(_) => panic!("a file answers no text"),
            DatabaseUrl::Postgres(url) => server().query(&url.name, sql),
        }
    }

    /// Changes the database behind the gateway's back.
    pub(crate) fn edit(&self, sql: &str) {
        match &self.url {
            DatabaseUrl::Sqlite(path) => {
                let connection = rusqlite::Connection::open(path).unwrap();
                connection.execute_batch(sql).unwrap();
            }
            DatabaseUrl::Postgres(url) => drop(server().query(&url.name, sql)),
        }
    }
}

/// The URL of a database for tests.
pub(crate) fn of_server(url: &str) -> DatabaseUrl {
    let place = url.strip_prefix("postgres://").unwrap();
    DatabaseUrl::Postgres(PostgresUrl::parse(place, "".as_ref()).unwrap())
}

pub(crate) fn connections(url: &PostgresUrl) -> Arc<PostgresServer> {
    Arc::new(PostgresServer::new(url, "g1").unwrap())
}
