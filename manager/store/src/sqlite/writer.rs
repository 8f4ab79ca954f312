//! The one task that writes: takes units from a queue, groups them into commits, and answers after the commit.

use super::{Access, Connection, Unit, classify};
use crate::{
    DiskErrorHook, StoreError, Tx, Work,
    chain::{Chain, Ends},
    failure::{Failure, Remedy},
};
use futures_util::FutureExt;
use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Mutex,
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

/// The most units that wait; more are told to come back later, so that memory stays bounded.
const QUEUE: usize = 4096;
/// The most units in one commit.
const BATCH: usize = 64;
/// A commit takes no further unit after this long.
const BATCH_TIME: Duration = Duration::from_millis(20);
/// The log is written back into the database at least this often while there are commits.
const CHECKPOINT_TIME: Duration = Duration::from_secs(1);
/// And after this many commits.
const CHECKPOINT_COMMITS: u32 = 200;

/// A unit while it runs.
type Run<'a> = Pin<Box<dyn Future<Output = (bool, Option<Failure>)> + Send + 'a>>;

/// A unit that waits for its turn or for its commit.
pub(super) trait Queued: Send {
    /// Runs the unit; says what became of it: whether it is to be kept, and the failure of a statement.
    fn run<'a>(&'a mut self, connection: &'a mut Connection, chain: &'a mut Chain) -> Run<'a>;
    /// Gives its result to whoever waits, or this error in place of it.
    fn answer(self: Box<Self>, error: Option<StoreError>);
}

/// A unit with its types.
pub(super) struct Entry<T, E, F> {
    name: &'static str,
    unit: F,
    result: Option<Result<T, E>>,
    reply: oneshot::Sender<Result<T, E>>,
}

impl<T, E, F> Entry<T, E, F> {
    pub(super) fn new(name: &'static str, unit: F) -> (Self, oneshot::Receiver<Result<T, E>>) {
        let (reply, answer) = oneshot::channel();
        (Entry { name, unit, result: None, reply }, answer)
    }
}

impl<T, E, F> Queued for Entry<T, E, F>
where
    F: for<'a> Fn(&'a mut dyn Tx) -> Work<'a, T, E> + Send + Sync + 'static,
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
{
    fn run<'a>(&'a mut self, connection: &'a mut Connection, chain: &'a mut Chain) -> Run<'a> {
        Box::pin(async move {
            let mark = chain.mark().await;
            let mut unit = Unit::new(connection, Access::Write, std::mem::take(chain));
            let run = async { (self.unit)(&mut unit).await };
            let result = match AssertUnwindSafe(run).catch_unwind().await {
                Ok(result) => result,
                Err(_) => Err(StoreError::Statement(format!("the unit of work {} panicked", self.name)).into()),
            };
            let failure;
            (*chain, failure) = unit.into_parts();
            // A unit that passes over a failed statement must not be kept half.
            let result = match (result, &failure) {
                (Ok(_), Some(failure)) => Err(failure.error.clone().into()),
                (result, _) => result,
            };
            let good = result.is_ok();
            if !good {
                chain.set_back(mark);
            }
            self.result = Some(result);
            (good, failure)
        })
    }

    fn answer(self: Box<Self>, error: Option<StoreError>) {
        let result = match (error, self.result) {
            (Some(error), _) => Err(error.into()),
            (None, Some(result)) => result,
            (None, None) => Err(StoreError::Unavailable(format!("the unit of work {} was not run", self.name)).into()),
        };
        // Who no longer waits does not hear of it; the unit counts all the same.
        let _ = self.reply.send(result);
    }
}

enum Order {
    Unit(Box<dyn Queued>),
    Close,
}

/// A handle to the task.
pub(super) struct Writer {
    orders: mpsc::Sender<Order>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub(super) fn start(connection: Connection, on_disk_error: DiskErrorHook, ends: Ends) -> Writer {
        let (orders, queue) = mpsc::channel(QUEUE);
        let state = State { connection, queue, on_disk_error, ends, commits: 0, checkpoint: Instant::now(), broken: None, closing: false };
        Writer { orders, task: Mutex::new(Some(tokio::spawn(state.run()))) }
    }

    pub(super) fn queue(&self, unit: Box<dyn Queued>) -> Result<(), StoreError> {
        self.orders.try_send(Order::Unit(unit)).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => {
                StoreError::Unavailable(format!("{QUEUE} units of work wait for the disk already; try again later"))
            }
            mpsc::error::TrySendError::Closed(_) => StoreError::Unavailable("the database is closed".into()),
        })
    }

    /// Ends the task after everything that waits is done.
    pub(super) async fn close(&self) {
        let task = self.task.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = self.orders.send(Order::Close).await;
            let _ = task.await;
        }
    }
}

struct State {
    connection: Connection,
    queue: mpsc::Receiver<Order>,
    on_disk_error: DiskErrorHook,
    /// The end of this process' chain of the audit log.
    ends: Ends,
    /// Commits since the last checkpoint, and when that was.
    commits: u32,
    checkpoint: Instant,
    /// The disk failed, and the hook did not end the process: nothing is written any more.
    broken: Option<StoreError>,
    closing: bool,
}

impl State {
    async fn run(mut self) {
        while let Some(order) = self.queue.recv().await {
            match order {
                Order::Unit(unit) => self.batch(unit).await,
                Order::Close => self.close(),
            }
            if self.closing && self.queue.is_empty() {
                break;
            }
        }
        super::hang_up(self.connection).await;
    }

    fn close(&mut self) {
        self.closing = true;
        self.queue.close();
    }

    /// Runs one statement that begins, ends or divides a transaction.
    async fn control(&mut self, sql: &'static str) -> Result<(), Failure> {
        sqlx::query(sql).execute(&mut self.connection).await.map(|_| ()).map_err(classify)
    }

    /// An error of the disk: nobody may be told that something is kept, and what the next `fsync` says means nothing.
    fn look_at(&mut self, failure: &Failure) {
        if failure.remedy == Remedy::Stop && self.broken.is_none() {
            self.broken = Some(failure.error.clone());
            (self.on_disk_error)(&failure.error.to_string());
        }
    }

    fn next(&mut self, done: usize, started: Instant) -> Option<Box<dyn Queued>> {
        if done >= BATCH || started.elapsed() >= BATCH_TIME {
            return None;
        }
        match self.queue.try_recv() {
            Ok(Order::Unit(unit)) => Some(unit),
            Ok(Order::Close) => {
                self.close();
                None
            }
            Err(_) => None,
        }
    }

    async fn batch(&mut self, first: Box<dyn Queued>) {
        if let Some(error) = &self.broken {
            return first.answer(Some(error.clone()));
        }
        let started = Instant::now();
        let mut done = Vec::new();
        let mut chain = self.ends.unit();
        let outcome = self.fill(first, &mut done, started, &mut chain).await;
        let outcome = match outcome {
            Ok(true) => {
                chain.committing();
                let committed = self.control("COMMIT").await;
                if committed.is_ok() {
                    chain.committed();
                }
                committed
            }
            Ok(false) => Ok(()),
            Err(failure) => Err(failure),
        };
        let error = outcome.err().map(|failure| {
            self.look_at(&failure);
            failure.error
        });
        if error.is_some() {
            // Where SQLite has rolled back by itself this fails, and that is fine.
            let _ = self.control("ROLLBACK").await;
        } else {
            self.commits += 1;
        }
        // An answer may rest on what another unit of the batch did: nobody is answered before the commit.
        for unit in done {
            unit.answer(error.clone());
        }
        self.checkpoint_if_due().await;
    }

    /// Runs units inside one transaction; true if it is open at the end and holds something to keep.
    async fn fill(
        &mut self,
        first: Box<dyn Queued>,
        done: &mut Vec<Box<dyn Queued>>,
        started: Instant,
        chain: &mut Chain,
    ) -> Result<bool, Failure> {
        let mut open = false;
        let mut next = Some(first);
        while let Some(unit) = next {
            done.push(unit);
            if open {
                self.control("SAVEPOINT unit").await?;
            } else {
                self.control("BEGIN IMMEDIATE").await?;
            }
            let unit = done.last_mut().expect("pushed above");
            let (good, failure) = unit.run(&mut self.connection, chain).await;
            if let Some(failure) = failure.filter(|f| f.remedy == Remedy::Stop) {
                return Err(failure);
            }
            match (good, open) {
                // The first unit to succeed needs no savepoint: there is nothing before it to keep.
                (true, false) => open = true,
                (true, true) => self.control("RELEASE unit").await?,
                (false, true) => {
                    self.control("ROLLBACK TO unit").await?;
                    self.control("RELEASE unit").await?;
                }
                // SQLite rolls back by itself when the disk is full; then this fails.
                (false, false) => drop(self.control("ROLLBACK").await),
            }
            next = self.next(done.len(), started);
        }
        Ok(open)
    }

    async fn checkpoint_if_due(&mut self) {
        if self.broken.is_some() || self.commits == 0 || (self.commits < CHECKPOINT_COMMITS && self.checkpoint.elapsed() < CHECKPOINT_TIME)
        {
            return;
        }
        self.commits = 0;
        self.checkpoint = Instant::now();
        if let Err(failure) = self.control("PRAGMA wal_checkpoint(PASSIVE)").await {
            self.look_at(&failure);
            tracing::warn!("the database's log could not be written back: {}", failure.error);
        }
    }
}
