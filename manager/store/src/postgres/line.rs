//! The way to the server: who gets a connection, what each is set to, and what becomes of those that say nothing any more.
//!
//! Units that write have connections of their own, and wait for one in the order in which they came. However many of them stand in
//! line for a lock, what is only read is read at once: who was revoked, above all.

use crate::{StoreError, failure::Failure, failure::Remedy};
use sqlx::{
    ConnectOptions as _, Executor as _, PgConnection, Postgres,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions},
};
use std::{
    io,
    ops::{Deref, DerefMut},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a unit waits for its turn: less than a caller waits for its answer.
const TURN: Duration = Duration::from_secs(25);
/// How long it may take to connect.
const CONNECT: Duration = Duration::from_secs(6);
/// How long a server may take to start while a manager starts.
const STARTS: Duration = Duration::from_secs(10);
/// How soon after connections were given up those that were made since may be.
const RENEWED: Duration = Duration::from_secs(10);
/// After how long without a word it is asked whether there is still somebody at the other end.
const QUIET: Duration = Duration::from_secs(10);
/// Where managers hear of each other.
const CHANNEL: &str = "sutler";

/// Waits for an answer, and no longer than that.
pub(super) async fn answered_within<T>(most: Duration, statement: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    tokio::time::timeout(most, statement).await.unwrap_or_else(|_| {
        let why = format!("there was no answer within {} s", most.as_secs());
        Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, why)))
    })
}

/// Whether nothing came at all, as from a server that is gone without having ended its connections.
fn is_silence(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut)
}

/// Whether the connection is lost, and another one may do better.
fn is_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| code.starts_with("57P") || code == "25P03"),
        _ => false,
    }
}

/// Connects to a server that may be about to start.
pub(super) async fn connect(to: &PgConnectOptions) -> sqlx::Result<PgConnection> {
    let begun = Instant::now();
    loop {
        let error = match answered_within(STARTS, to.connect()).await {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        let starts = match &error {
            sqlx::Error::Io(error) => error.kind() == io::ErrorKind::ConnectionRefused,
            sqlx::Error::Database(error) => error.code().is_some_and(|code| code == "57P03"),
            _ => false,
        };
        if !starts || begun.elapsed() > STARTS {
            return Err(error);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Sets a new connection up.
pub(super) async fn prepare(connection: &mut PgConnection) -> sqlx::Result<()> {
    // Never weaker than `on`; what an administrator made stronger stays.
    //
    // Every statement here is a walk along an index. A planner that knows nothing yet of a table that has just grown would rather read
    // all of it, and sort.
    let sql = "SELECT set_config('synchronous_commit', 'on', false) FROM (SELECT 1) AS one \
               WHERE current_setting('synchronous_commit') IN ('off', 'local')";
    let settings = [
        ("enable_seqscan", "off"),
        ("enable_bitmapscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        ("enable_sort", "off"),
        ("jit", "off"),
        ("statement_timeout", super::STATEMENT),
        ("idle_in_transaction_session_timeout", super::STANDS_STILL),
        // So that the server notices, too, that nobody is there any more.
        ("tcp_keepalives_idle", "10"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
        ("tcp_user_timeout", "20000"),
    ];
    answered_within(CONNECT, sqlx::query(sql).execute(&mut *connection)).await?;
    let (names, values): (Vec<&str>, Vec<&str>) = settings.into_iter().unzip();
    let sql = "SELECT set_config(name, value, false) FROM unnest($1::text[], $2::text[]) AS s(name, value)";
    answered_within(CONNECT, sqlx::query(sql).bind(names).bind(values).fetch_all(&mut *connection)).await?;
    let standby = sqlx::query_as("SELECT pg_is_in_recovery()").fetch_one(&mut *connection);
    let (standby,): (bool,) = answered_within(CONNECT, standby).await?;
    if standby {
        // What it knows may be old, and it takes nothing.
        let why = "the server is a standby that follows another one; it serves once it is promoted";
        return Err(sqlx::Error::Configuration(why.into()));
    }
    Ok(())
}

/// For what a connection is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// A unit that may write.
    Write,
    /// A unit that reads.
    Read,
    /// To tell others something.
    Tell,
}

impl Use {
    fn begin(self) -> &'static str {
        match self {
            Use::Write => "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
            Use::Read => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            // Lost, it costs time: nobody waits for the disk, or for a standby, because of it.
            Use::Tell => "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL synchronous_commit = off",
        }
    }
}

/// Some connections, and a queue for them.
struct Lane {
    pool: PgPool,
    turns: Arc<Semaphore>,
}

impl Lane {
    fn new(connect: &PgConnectOptions, connections: u32) -> Lane {
        let options = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(CONNECT)
            // How it is shows when the transaction begins.
            .test_before_acquire(false)
            .after_connect(|connection, _| Box::pin(prepare(connection)));
        Lane { pool: options.connect_lazy_with(connect.clone()), turns: Arc::new(Semaphore::new(connections as usize)) }
    }

    async fn close(&self) {
        self.turns.close();
        self.pool.close().await;
    }
}

/// All connections that were made since some moment.
struct Lanes {
    made: Instant,
    writers: Lane,
    readers: Lane,
}

impl Lanes {
    fn new(connect: &PgConnectOptions, connections: u32) -> Arc<Lanes> {
        Arc::new(Lanes { made: Instant::now(), writers: Lane::new(connect, connections), readers: Lane::new(connect, connections) })
    }

    fn of(&self, wanted: Use) -> &Lane {
        match wanted {
            Use::Write => &self.writers,
            Use::Read | Use::Tell => &self.readers,
        }
    }

    async fn close(&self) {
        tokio::join!(self.writers.close(), self.readers.close());
    }
}

struct Inner {
    connect: PgConnectOptions,
    connections: u32,
    lanes: Mutex<Arc<Lanes>>,
    closed: AtomicBool,
}

/// The way to one server; cheap to clone.
#[derive(Clone)]
pub(super) struct Line(Arc<Inner>);

impl Line {
    /// With so many connections for those that write, and so many for those that read.
    pub(super) fn new(connect: PgConnectOptions, connections: u32) -> Line {
        let lanes = Mutex::new(Lanes::new(&connect, connections));
        Line(Arc::new(Inner { connect, connections, lanes, closed: AtomicBool::new(false) }))
    }

    fn lanes(&self) -> Arc<Lanes> {
        self.0.lanes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes all connections anew: one of these says nothing any more, and the others will do no better. What runs on them runs to
    /// its end.
    fn renew(&self, silent: &Arc<Lanes>) {
        let mut now = self.0.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&now, silent) || silent.made.elapsed() < RENEWED || self.0.closed.load(Ordering::SeqCst) {
            return;
        }
        tracing::warn!("the database does not answer on a connection that was open; all connections are made anew");
        let old = std::mem::replace(&mut *now, Lanes::new(&self.0.connect, self.0.connections));
        tokio::spawn(async move { old.close().await });
    }

    /// Begins a transaction.
    pub(super) async fn begin(&self, wanted: Use) -> sqlx::Result<Open> {
        let (mut lost, mut silent) = (0, false);
        loop {
            let lanes = self.lanes();
            let lane = lanes.of(wanted);
            let turn = match tokio::time::timeout(TURN, lane.turns.clone().acquire_owned()).await {
                Ok(Ok(turn)) => turn,
                Ok(Err(_)) if self.0.closed.load(Ordering::SeqCst) => return Err(sqlx::Error::PoolClosed),
                Ok(Err(_)) => continue,
                Err(_) => return Err(sqlx::Error::PoolTimedOut),
            };
            let mut connection = match lane.pool.acquire().await {
                Ok(connection) => connection,
                Err(sqlx::Error::PoolClosed) if !self.0.closed.load(Ordering::SeqCst) => continue,
                Err(error) => return Err(error),
            };
            let error = match answered_within(super::BEGIN, connection.execute(wanted.begin())).await {
                Ok(_) => return Ok(Open { held: Some((connection, turn)), state: State::Open }),
                Err(error) => error,
            };
            connection.close_on_drop();
            // Nothing was asked of it yet. The connection may have lain here since before the server ended; so may the others.
            lost += 1;
            if is_silence(&error) {
                self.renew(&lanes);
                if std::mem::replace(&mut silent, true) {
                    return Err(error);
                }
            }
            if !is_lost(&error) || lost > self.0.connections {
                return Err(error);
            }
        }
    }

    /// Says these words to all who listen.
    pub(super) async fn tell(&self, words: &[String]) -> sqlx::Result<()> {
        let mut open = self.begin(Use::Tell).await?;
        let told = sqlx::query("SELECT pg_notify($1, word) FROM unnest($2::text[]) AS w(word)").bind(CHANNEL).bind(words);
        match super::answered(told.fetch_all(&mut *open)).await {
            Ok(_) => open.commit().await,
            Err(error) => Err(error),
        }
    }

    /// Listens, on a connection of its own.
    pub(super) async fn listen(&self) -> sqlx::Result<Listener> {
        let options = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(CONNECT)
            .max_lifetime(None)
            .idle_timeout(None)
            .after_connect(|connection, _| Box::pin(prepare(connection)));
        let pool = options.connect_lazy_with(self.0.connect.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        answered_within(CONNECT, listener.listen(CHANNEL)).await?;
        Ok(Listener(listener))
    }

    pub(super) async fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
        self.lanes().close().await;
    }
}

/// How a transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It goes on.
    Open,
    /// It was committed or undone.
    Over,
    /// Nobody knows, for its connection is not what it was.
    Lost,
}

/// A transaction that has begun. Dropped in the middle, it is undone: whoever wanted it waits no longer.
pub(super) struct Open {
    /// There until it is dropped.
    held: Option<(PoolConnection<Postgres>, OwnedSemaphorePermit)>,
    state: State,
}

impl Open {
    pub(super) async fn commit(mut self) -> sqlx::Result<()> {
        self.state = State::Lost;
        super::answered(self.deref_mut().execute("COMMIT")).await?;
        self.state = State::Over;
        Ok(())
    }

    /// Undoes it after it failed like this, if it did.
    pub(super) async fn roll_back(mut self, failure: Option<&Failure>) {
        let gone = |failure: &Failure| failure.remedy != Remedy::Again && matches!(failure.error, StoreError::Unavailable(_));
        self.state = State::Lost;
        if !failure.is_some_and(gone) && answered_within(super::BEGIN, self.deref_mut().execute("ROLLBACK")).await.is_ok() {
            self.state = State::Over;
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Some((mut connection, turn)) = self.held.take() else { return };
        match (self.state, tokio::runtime::Handle::try_current()) {
            (State::Over, _) => {}
            (State::Open, Ok(runtime)) => {
                runtime.spawn(async move {
                    if answered_within(super::BEGIN, connection.execute("ROLLBACK")).await.is_err() {
                        connection.close_on_drop();
                    }
                    drop((connection, turn));
                });
            }
            _ => connection.close_on_drop(),
        }
    }
}

impl Deref for Open {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.held.as_ref().expect("it is held until it is dropped").0
    }
}

impl DerefMut for Open {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.held.as_mut().expect("it is held until it is dropped").0
    }
}

/// Hears what managers say.
pub(crate) struct Listener(PgListener);

impl Listener {
    /// The next word. After an error something may have been missed, and this one hears nothing more.
    pub(crate) async fn next(&mut self) -> Result<String, StoreError> {
        loop {
            match tokio::time::timeout(QUIET, self.0.try_recv()).await {
                Ok(Ok(Some(heard))) => return Ok(heard.payload().to_owned()),
                Ok(Ok(None)) => return Err(StoreError::Unavailable("the connection to the database on which it listened is lost".into())),
                Ok(Err(error)) => return Err(super::classify(error).error),
                Err(_) => {
                    let asked = sqlx::query("SELECT 1").execute(&mut self.0);
                    answered_within(super::BEGIN, asked).await.map_err(|e| super::classify(e).error)?;
                }
            }
        }
    }
}
