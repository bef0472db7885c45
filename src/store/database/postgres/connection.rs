//! Connections to the server: how they are made, how long anything waits, and the pauses while the server is away.
//!
//! Invariant: no call waits for longer than its limit, also where the server accepts everything and answers nothing.

use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Row, Transaction};

use crate::store::database::error::DatabaseError;
use crate::store::database::people::statement;
use crate::store::database::postgres::advisory_lock::AdvisoryLock;
use crate::store::database::postgres::error::CallError;
use crate::store::database::postgres::migrations;
use crate::store::database::postgres::tls::TlsHandshakes;
use crate::store::database::postgres::url::{PostgresTls, PostgresUrl};
use crate::store::database::postgres::value::{ColumnKind, Columns};
use crate::store::database::queue::lock;
use crate::store::database::statements::{SqlValue, Statement};

/// How long a connection may take until it can be used.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a statement may take: one that writes, and a question.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// One about leases: who waits for it waits on behalf of requests.
const LEASE_TIMEOUT: Duration = Duration::from_secs(1);
/// The server ends a statement at its limit, and says so. One that says nothing is waited for so much longer.
const ANSWER_MARGIN: Duration = Duration::from_secs(1);
/// Rows that one statement adds.
const ROWS_AT_ONCE: usize = 2_000;
/// The first pause after the server could not be reached, and the longest; they double. The longest is shorter than that of
/// the writer, so that the writer finds the server in each of its tries once it is back.
pub(crate) const PAUSE: [Duration; 2] = [Duration::from_millis(250), Duration::from_millis(2500)];

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Write,
    /// It may change nothing.
    Read,
    /// It writes, and waits for a short time only.
    Lease,
}

impl Use {
    fn limit(self) -> Duration {
        match self {
            Self::Write => WRITE_TIMEOUT,
            Self::Read => READ_TIMEOUT,
            Self::Lease => LEASE_TIMEOUT,
        }
    }
}

/// A server, with what all connections to it share.
pub(crate) struct PostgresServer {
    url: PostgresUrl,
    config: Config,
    tls: Option<TlsHandshakes>,
    /// Of the thread that moves the bytes of all connections, so that one that breaks is noticed while nobody asks it.
    runtime: Handle,
    /// Dropped, it ends that thread.
    _running: oneshot::Sender<()>,
    away: Mutex<Option<Away>>,
}

/// How far a database's schema is.
#[derive(Clone, Debug)]
pub struct SchemaStatus {
    /// The version of the server.
    pub server: String,
    /// The newest migration that was applied; None: it is empty.
    pub applied: Option<i64>,
    /// The newest migration that this program knows.
    pub known: i64,
    /// Migrations that are to be applied.
    pub missing: Vec<i64>,
}

/// The server could not be reached.
struct Away {
    why: String,
    pause: Duration,
    /// Until then nobody tries again.
    until: Instant,
}

impl PostgresServer {
    /// Does not connect yet. `gateway` is this gateway's name, which the server shows beside its connections.
    pub(crate) fn new(url: &PostgresUrl, gateway: &str) -> Result<Self, DatabaseError> {
        let tls = match &url.tls {
            PostgresTls::Disabled => None,
            PostgresTls::Required { roots } => {
                let tls = TlsHandshakes::trusting(roots.as_deref());
                Some(tls.map_err(|source| DatabaseError::Roots {
                    file: roots.clone(),
                    source,
                })?)
            }
        };
        let (runtime, running) =
            start_runtime().map_err(|source| DatabaseError::Thread { source })?;
        Ok(Self {
            config: config(url, gateway),
            url: url.clone(),
            tls,
            runtime,
            _running: running,
            away: Mutex::new(None),
        })
    }

    pub(crate) fn url(&self) -> &PostgresUrl {
        &self.url
    }

    /// A connection that can be used: the schema is the newest.
    fn connect(&self, use_for: Use) -> Result<Client, DatabaseError> {
        if let Some(away) = &*lock(&self.away)
            && Instant::now() < away.until
        {
            return Err(self.unreachable(away.why.clone()));
        }
        let connected = self.runtime.block_on(self.prepared(use_for));
        match connected {
            Ok(client) => {
                *lock(&self.away) = None;
                Ok(client)
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    async fn prepared(&self, use_for: Use) -> Result<Client, CallError> {
        let opened = async {
            let client = self.open(use_for).await?;
            let missing = migrations::missing(&client, &self.url).await?;
            Ok((client, missing))
        };
        let opened = timeout(CONNECT_TIMEOUT, opened).await;
        let (mut client, missing) = opened.unwrap_or(Err(CallError::NoAnswer))?;
        if !missing.is_empty() {
            let migrated = migrations::migrate(&mut client, &self.url);
            let migrated = timeout(migrations::TIMEOUT, migrated).await;
            migrated.unwrap_or(Err(CallError::NoAnswer))?;
        }
        Ok(client)
    }

    async fn open(&self, use_for: Use) -> Result<Client, CallError> {
        let mut config = self.config.clone();
        config.options(settings(use_for));
        match &self.tls {
            None => {
                let (client, connection) = config.connect(NoTls).await?;
                self.runtime.spawn(connection);
                Ok(client)
            }
            Some(tls) => {
                let (client, connection) = config.connect(tls.clone()).await?;
                self.runtime.spawn(connection);
                Ok(client)
            }
        }
    }

    /// A connection for notifications, and its end. They are made known by `notified` for as long as it lives.
    pub(crate) async fn open_for_notifications(
        &self,
        notified: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<(Client, JoinHandle<()>), CallError> {
        let opened = async {
            match &self.tls {
                None => {
                    let (client, connection) = self.config.connect(NoTls).await?;
                    Ok((client, self.runtime.spawn(deliver(connection, notified))))
                }
                Some(tls) => {
                    let (client, connection) = self.config.connect(tls.clone()).await?;
                    Ok((client, self.runtime.spawn(deliver(connection, notified))))
                }
            }
        };
        let opened = timeout(CONNECT_TIMEOUT, opened).await;
        opened.unwrap_or(Err(CallError::NoAnswer))
    }

    /// The migrations that the database has, those that it lacks, and the server's version. It changes nothing.
    pub(crate) fn schema(&self) -> Result<SchemaStatus, DatabaseError> {
        let asked = async {
            let client = self.open(Use::Read).await?;
            let missing = migrations::missing(&client, &self.url).await?;
            let server = client.query_typed_one("SHOW server_version", &[]).await?;
            Ok(SchemaStatus {
                server: server.try_get(0)?,
                applied: migrations::applied(&client).await?.into_iter().max(),
                known: migrations::known(),
                missing: missing.into_iter().map(|(version, _)| version).collect(),
            })
        };
        let asked = self.runtime.block_on(async {
            timeout(CONNECT_TIMEOUT, asked)
                .await
                .unwrap_or(Err(CallError::NoAnswer))
        });
        asked.map_err(|error| self.failed(error))
    }

    /// Applies the migrations that are missing.
    pub(crate) fn migrate(&self) -> Result<(), DatabaseError> {
        self.connect(Use::Write).map(drop)
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Turns an error into one with its remedy. After one that says that the server is away, nobody asks it for a while.
    fn failed(&self, error: CallError) -> DatabaseError {
        let error = error.explained(&self.url);
        if let DatabaseError::Unreachable { why, .. } = &error {
            let mut away = lock(&self.away);
            let pause = away
                .as_ref()
                .map_or(PAUSE[0], |before| (before.pause * 2).min(PAUSE[1]));
            *away = Some(Away {
                why: why.clone(),
                pause,
                until: Instant::now() + pause.mul_f64(jitter()),
            });
        }
        error
    }

    fn unreachable(&self, why: String) -> DatabaseError {
        DatabaseError::Unreachable {
            place: self.url.place(),
            why,
        }
    }
}

/// Moves the bytes of a connection, and makes each notification known.
async fn deliver<S, T>(
    mut connection: tokio_postgres::Connection<S, T>,
    notified: Arc<dyn Fn() + Send + Sync>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if let AsyncMessage::Notification(_) = message {
            notified();
        }
    }
}

/// Between a half and one, so that several gateways do not come back at the same instant.
pub(crate) fn jitter() -> f64 {
    let mut byte = [0];
    // Without randomness it is the longest.
    let byte = getrandom::fill(&mut byte).map_or(255, |()| byte[0]);
    0.5 + f64::from(byte) / 510.0
}

/// Starts the thread that moves the bytes.
fn start_runtime() -> io::Result<(Handle, oneshot::Sender<()>)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let handle = runtime.handle().clone();
    let (running, ended) = oneshot::channel::<()>();
    std::thread::Builder::new()
        .name("postgres".to_owned())
        .spawn(move || {
            // Ends when the sender is dropped.
            let _ = runtime.block_on(ended);
        })?;
    Ok((handle, running))
}

/// What the server is told when a connection is made, not by statements: behind a pooler those would be about the connection
/// of somebody else.
fn settings(use_for: Use) -> String {
    let milliseconds = use_for.limit().as_millis();
    let read_only = match use_for {
        Use::Read => " -c default_transaction_read_only=on",
        Use::Write | Use::Lease => "",
    };
    // The second ends a transaction whose gateway is gone, so that its locks hold nobody up.
    format!(
        "-c statement_timeout={milliseconds} \
         -c idle_in_transaction_session_timeout={milliseconds}{read_only}"
    )
}

fn config(url: &PostgresUrl, gateway: &str) -> Config {
    let PostgresUrl {
        user,
        password,
        host,
        port,
        name,
        tls,
    } = url;
    let mut config = Config::new();
    config
        .user(user)
        .host(host)
        .port(*port)
        .dbname(name)
        .application_name(format!("keygate/{gateway}"))
        .connect_timeout(CONNECT_TIMEOUT)
        .ssl_mode(match tls {
            PostgresTls::Disabled => SslMode::Disable,
            PostgresTls::Required { .. } => SslMode::Require,
        })
        // A machine that is gone is noticed within 5 s, whether something was sent to it or not.
        .tcp_user_timeout(Duration::from_secs(5))
        .keepalives(true)
        .keepalives_idle(Duration::from_secs(2))
        .keepalives_interval(Duration::from_secs(1))
        .keepalives_retries(3);
    if let Some(password) = password {
        config.password(password.as_bytes());
    }
    config
}

/// One connection. It is made where it is needed, and made again after a failure.
pub(crate) struct Connection {
    server: Arc<PostgresServer>,
    use_for: Use,
    client: Option<Client>,
}

impl Connection {
    pub(crate) fn new(server: &Arc<PostgresServer>, use_for: Use) -> Self {
        Self {
            server: Arc::clone(server),
            use_for,
            client: None,
        }
    }

    pub(crate) fn url(&self) -> &PostgresUrl {
        self.server.url()
    }

    pub(crate) fn server(&self) -> &Arc<PostgresServer> {
        &self.server
    }

    /// The rows that a question finds.
    pub(crate) fn ask<T>(
        &mut self,
        question: &Statement,
        read: impl Fn(&Row) -> Result<T, CallError>,
    ) -> Result<Vec<T>, DatabaseError> {
        self.run(async |client, limit| {
            let values = question.parameters();
            let rows = within(limit, client.query_typed(&question.sql, &values)).await?;
            rows.iter().map(&read).collect()
        })
    }

    /// The rows that a question finds which takes a whole column in each of its values.
    pub(crate) fn ask_columns<T>(
        &mut self,
        sql: &str,
        columns: &Columns,
        read: impl Fn(&Row) -> Result<T, CallError>,
    ) -> Result<Vec<T>, DatabaseError> {
        self.run(async |client, limit| {
            let values = columns.parameters();
            let rows = within(limit, client.query_typed(sql, &values)).await?;
            rows.iter().map(&read).collect()
        })
    }

    /// Runs statements in one transaction. With a `condition` that is run first, and where it changes no row, the others are
    /// not run; what it asks stays true until the end, since one gateway at a time runs those that have one. How many rows
    /// each has changed that was run.
    pub(crate) fn change(
        &mut self,
        condition: Option<&Statement>,
        statements: &[Statement],
    ) -> Result<Vec<usize>, DatabaseError> {
        self.transaction(async |work| {
            let mut changed = Vec::with_capacity(statements.len() + 1);
            if let Some(condition) = condition {
                work.lock(AdvisoryLock::Condition).await?;
                changed.push(work.changed(condition).await?);
            }
            if changed != [0] {
                for statement in statements {
                    changed.push(work.changed(statement).await?);
                }
            }
            Ok(changed)
        })
    }

    /// Runs a transaction. It is on the server's disk when this returns.
    pub(crate) fn transaction<T>(
        &mut self,
        work: impl AsyncFnOnce(&Work<'_>) -> Result<T, CallError>,
    ) -> Result<T, DatabaseError> {
        self.run(async |client, limit| {
            let transaction = within(limit, client.transaction()).await?;
            let running = Work { transaction, limit };
            let done = work(&running).await?;
            within(limit, running.transaction.commit()).await?;
            Ok(done)
        })
    }

    /// Whether a connection is there, as far as it is known.
    pub(crate) fn is_open(&self) -> bool {
        self.client.is_some()
    }

    /// Runs work on the connection that is there already. Without it, what was begun on it has ended.
    pub(crate) fn run_on_same<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Client, Duration) -> Result<T, CallError>,
    ) -> Result<T, DatabaseError> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            let why = "the connection was lost".to_owned();
            return Err(self.server.unreachable(why));
        }
        self.run(work)
    }

    /// A connection on which something failed is not used again: nobody knows what it still does.
    pub(crate) fn run<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Client, Duration) -> Result<T, CallError>,
    ) -> Result<T, DatabaseError> {
        let client = self.client.take().filter(|client| !client.is_closed());
        let mut client = match client {
            Some(client) => client,
            None => self.server.connect(self.use_for)?,
        };
        let work = work(&mut client, self.use_for.limit());
        let done = self.server.runtime.block_on(work);
        match done {
            Ok(done) => {
                self.client = Some(client);
                Ok(done)
            }
            Err(error) => Err(self.server.failed(error)),
        }
    }
}

/// A transaction that runs.
pub(crate) struct Work<'c> {
    transaction: Transaction<'c>,
    limit: Duration,
}

impl<'c> Work<'c> {
    pub(crate) fn client(&self) -> &Transaction<'c> {
        &self.transaction
    }

    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    pub(crate) async fn execute(&self, statement: &Statement) -> Result<u64, CallError> {
        let values = statement.parameters();
        within(
            self.limit,
            self.transaction.execute_typed(&statement.sql, &values),
        )
        .await
    }

    async fn changed(&self, statement: &Statement) -> Result<usize, CallError> {
        let count = self.execute(statement).await?;
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }

    pub(crate) async fn query(&self, statement: &Statement) -> Result<Vec<Row>, CallError> {
        let values = statement.parameters();
        within(
            self.limit,
            self.transaction.query_typed(&statement.sql, &values),
        )
        .await
    }

    /// Runs a statement that takes a whole column in each of its values, for as many rows at a time as it has time for.
    pub(crate) async fn execute_columns<const N: usize>(
        &self,
        sql: &str,
        kinds: &[ColumnKind; N],
        mut rows: impl Iterator<Item = [SqlValue; N]>,
    ) -> Result<(), CallError> {
        let mut columns = Columns::of(kinds);
        while columns.fill(&mut rows, ROWS_AT_ONCE) {
            let values = columns.parameters();
            within(self.limit, self.transaction.execute_typed(sql, &values)).await?;
        }
        Ok(())
    }

    /// Waits until no other transaction holds this lock; it is held until the end of this one.
    pub(crate) async fn lock(&self, what: AdvisoryLock) -> Result<(), CallError> {
        let lock = [SqlValue::Integer(what.number())];
        let lock = statement("SELECT pg_advisory_xact_lock($1)", lock);
        self.execute(&lock).await.map(drop)
    }

    /// Takes a lock, unless another transaction holds it.
    pub(crate) async fn try_lock(&self, what: AdvisoryLock) -> Result<bool, CallError> {
        let lock = [SqlValue::Integer(what.number())];
        let lock = statement("SELECT pg_try_advisory_xact_lock($1)", lock);
        let rows = self.query(&lock).await?;
        let is_taken: Option<bool> = rows.first().map(|row| row.try_get(0)).transpose()?;
        Ok(is_taken == Some(true))
    }
}

pub(crate) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, CallError> {
    let answer = timeout(limit + ANSWER_MARGIN, call).await;
    Ok(answer.map_err(|_| CallError::NoAnswer)??)
}
