//! Does what the machine decided: fetches and verifies packages, performs ops, and says what came of it.
//!
//! Everything here may be cut off at any point and asked for again. What it needs again after that (manifests and chunk
//! lists, which are signed or verified) is kept in the vault under its digest.

mod check;
mod content;
mod found;
mod perform;
mod prefetched;
mod prepare;
mod record;
mod relations;

pub(crate) use record::as_facts;
pub use record::{Installed, InstalledRecord};

use crate::{
    clock::Clock,
    identity::Identity,
    installer::{Installer, Trouble},
    link::Connection,
    machine::{Event, OfferedItem, Op, OpReport, Record},
    policy::Policy,
    vault::{Vault, VaultError},
};
use content::Content;
use found::FoundRecord;
use perform::Performed;
use prefetched::{Prefetched, PrefetchedRecord};
use prepare::When;
use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};
use sutler_base::AttemptId;
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
};

/// What a worker tells the loop.
#[derive(Debug)]
pub enum Told {
    /// Something came to an end, or went on.
    Event(Box<Event>),
    /// What is installed has changed, and so have the facts.
    Installed,
    /// What an attempt that is over left on the machine is gone.
    Forgotten(AttemptId),
    /// What of what a job installed is missing.
    Checked {
        /// The job, as it was asked.
        job: String,
        /// What is missing, a sentence each.
        missing: Vec<String>,
    },
    /// A new agent is staged at this path, and is to run in the place of this one.
    Handover(PathBuf),
    /// Nobody can say what is on the disk any more: the process must end.
    Fatal(String),
}

/// What all work shares.
pub(crate) struct Shared {
    pub(crate) identity: Arc<Identity>,
    pub(crate) installer: Arc<dyn Installer>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) policy: Policy,
    pub(crate) platform: (String, String),
    pub(crate) installed: InstalledRecord,
    prefetched: PrefetchedRecord,
    found: FoundRecord,
    pub(crate) content: Content,
    pub(crate) connection: watch::Receiver<Option<Connection>>,
    pub(crate) told: mpsc::UnboundedSender<Told>,
}

/// Performs effects in tasks of their own.
pub struct Worker {
    shared: Arc<Shared>,
    fetches: HashMap<AttemptId, AbortHandle>,
    /// All that runs: it ends with the worker, as it would with the process.
    tasks: JoinSet<()>,
}

/// What a worker is made of.
pub struct Parts {
    /// Who the machine is.
    pub identity: Arc<Identity>,
    /// What it installs with.
    pub installer: Arc<dyn Installer>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What the machine's own administrator allows.
    pub policy: Policy,
    /// The operating system's family and the processor's architecture.
    pub platform: (String, String),
    /// Where the record of installed software and content are kept.
    pub vault: Arc<dyn Vault>,
    /// The connection, while there is one.
    pub connection: watch::Receiver<Option<Connection>>,
    /// Where results go.
    pub told: mpsc::UnboundedSender<Told>,
}

impl Worker {
    /// A worker of these parts.
    pub fn new(parts: Parts) -> Result<Worker, VaultError> {
        let shared = Shared {
            identity: parts.identity,
            installer: parts.installer,
            clock: parts.clock,
            policy: parts.policy,
            platform: parts.platform,
            installed: InstalledRecord::load(parts.vault.clone())?,
            prefetched: PrefetchedRecord::load(parts.vault.clone())?,
            found: FoundRecord::load(parts.vault.clone())?,
            content: Content::new(parts.vault),
            connection: parts.connection,
            told: parts.told,
        };
        Ok(Worker { shared: Arc::new(shared), fetches: HashMap::new(), tasks: JoinSet::new() })
    }

    /// Takes a manifest that came with an offer.
    pub fn hand(&self, manifest: &[u8]) {
        self.shared.content.hand(manifest);
    }

    /// What is installed.
    pub fn installed(&self) -> Vec<Installed> {
        self.shared.installed.all()
    }

    /// Removes content that neither an attempt nor what is installed or kept needs any more.
    pub fn collect_garbage<'a>(&self, records: impl Iterator<Item = &'a Record>) {
        let mut kept = self.shared.prefetched.manifests();
        kept.extend(self.shared.found.all());
        self.shared.content.keep_only(records, &self.shared.installed.all(), kept);
    }

    /// Removes what was only fetched, and that for too long.
    pub fn drop_overdue(&mut self) {
        let gone = self.shared.prefetched.over(self.shared.clock.now().wall).unwrap_or_default();
        if !gone.is_empty() {
            let shared = self.shared.clone();
            self.reap();
            self.tasks.spawn(async move { shared.drop_kept(gone).await });
        }
    }

    /// Fetches the package with this number.
    pub fn prepare(&mut self, record: &Record, item: usize) {
        self.fetch(record, item, When::Now);
    }

    /// Fetches the bytes of the package with this number before it is its turn.
    pub fn fetch_ahead(&mut self, record: &Record, item: usize) {
        self.fetch(record, item, When::Ahead);
    }

    fn fetch(&mut self, record: &Record, item: usize, when: When) {
        let (shared, id) = (self.shared.clone(), record.id().clone());
        let Some(offered) = record.offer.items.get(item).cloned() else { return };
        self.fetches.retain(|_, task| !task.is_finished());
        self.reap();
        let attempt = id.clone();
        let task = self.tasks.spawn(async move {
            match prepare::prepare(&shared, &attempt, item, &offered, when).await {
                Ok(prepared) => shared.tell(Event::Prepared(attempt, prepared)),
                Err(why) => shared.fatal(why),
            }
        });
        self.fetches.insert(id, task);
    }

    /// Performs an op of the package with this number.
    pub fn perform(&mut self, record: &Record, item: usize, op: Op, run: u32) {
        self.spawn(record, move |shared, record| async move { perform::perform(&shared, &record, item, op, run).await });
    }

    /// Finds out how a step ended that an earlier agent started.
    pub fn pick_up(&mut self, record: &Record, item: usize, step: usize, run: u32) {
        self.spawn(
            record,
            move |shared, record| async move { perform::pick_up(&shared, &record, item, step, run).await.map(Performed::Ended) },
        );
    }

    /// Finds out whether what a job installed is still there.
    pub fn check(&mut self, job: String, items: Vec<OfferedItem>) {
        let shared = self.shared.clone();
        self.reap();
        self.tasks.spawn(async move {
            match check::missing(&shared, &items).await {
                Ok(missing) => drop(shared.told.send(Told::Checked { job, missing })),
                // Nobody can tell; it is asked again.
                Err(Trouble::Failed(failure)) => tracing::warn!(job, "cannot tell what is installed: {}", failure.message),
                Err(Trouble::Fatal(why)) => shared.fatal(why),
            }
        });
    }

    fn spawn<F>(&mut self, record: &Record, work: impl FnOnce(Arc<Shared>, Record) -> F + Send + 'static)
    where
        F: Future<Output = Result<Performed, Trouble>> + Send + 'static,
    {
        let (shared, record) = (self.shared.clone(), record.clone());
        self.reap();
        self.tasks.spawn(async move {
            let id = record.id().clone();
            match work(shared.clone(), record).await {
                Ok(Performed::Ended(report)) => shared.tell(Event::OpEnded(id, report)),
                Ok(Performed::Handover(program)) => drop(shared.told.send(Told::Handover(program))),
                Err(Trouble::Failed(failure)) => shared.tell(Event::OpEnded(id, OpReport::Failed(failure))),
                Err(Trouble::Fatal(why)) => shared.fatal(why),
            }
        });
    }

    /// Ends what runs, and waits until it has.
    pub async fn end(&mut self) {
        self.tasks.shutdown().await;
    }

    fn reap(&mut self) {
        while self.tasks.try_join_next().is_some() {}
    }

    /// Stops fetching for an attempt.
    pub fn stop(&mut self, attempt: &AttemptId) {
        if let Some(task) = self.fetches.get(attempt) {
            task.abort();
        }
    }

    /// Stops fetching for an attempt, and removes what is staged and kept for it.
    pub fn forget(&mut self, record: &Record) {
        let (shared, record) = (self.shared.clone(), record.clone());
        if let Some(task) = self.fetches.remove(record.id()) {
            task.abort();
        }
        self.reap();
        self.tasks.spawn(async move {
            let items = perform::known_items(&shared, &record).await;
            // What was fetched before it was needed stays for the next attempt, unless it was installed.
            for item in items.iter().filter(|item| shared.prefetched.has(&item.digest)) {
                match shared.installer.keep(item).await {
                    Err(Trouble::Fatal(why)) => return shared.fatal(why),
                    Err(Trouble::Failed(failure)) => tracing::warn!(attempt = %record.id(), "it is not kept: {}", failure.message),
                    Ok(()) => {}
                }
            }
            for last in [false, false, true] {
                match shared.installer.forget(record.id(), &items).await {
                    Ok(()) => break,
                    Err(Trouble::Failed(failure)) if last => {
                        tracing::warn!(attempt = %record.id(), "not all was cleaned up: {}", failure.message);
                    }
                    // A thread that was writing for it may not have noticed yet that nobody wants it any more.
                    Err(Trouble::Failed(_)) => tokio::time::sleep(Duration::from_secs(1)).await,
                    Err(Trouble::Fatal(why)) => return shared.fatal(why),
                }
            }
            let _ = shared.told.send(Told::Forgotten(record.id().clone()));
        });
    }
}

impl Shared {
    pub(crate) fn tell(&self, event: Event) {
        let _ = self.told.send(Told::Event(Box::new(event)));
    }

    pub(crate) fn fatal(&self, why: String) {
        let _ = self.told.send(Told::Fatal(why));
    }

    /// Removes what was kept of these: best effort.
    async fn drop_kept(&self, gone: Vec<Prefetched>) {
        for kept in gone {
            match self.installer.drop_kept(kept.directory.as_ref(), &kept.manifest).await {
                Ok(()) => tracing::info!(package = %kept.package, "what was fetched of it before it was needed is removed"),
                Err(Trouble::Failed(failure)) => {
                    tracing::warn!(package = %kept.package, "what was fetched of it before it was needed stays: {}", failure.message);
                }
                Err(Trouble::Fatal(why)) => self.fatal(why),
            }
        }
    }

    /// The connection, as soon as there is one.
    pub(crate) async fn connected(&self) -> Option<Connection> {
        let mut connection = self.connection.clone();
        let up = connection.wait_for(Option::is_some).await.ok()?;
        up.clone()
    }

    /// An error of the vault, as what it means for the work.
    pub(crate) fn vault_trouble(error: &VaultError) -> Trouble {
        if error.is_full() {
            Trouble::Failed(crate::installer::failure(sutler_base::state::ErrorKind::NoSpace, error.to_string()))
        } else {
            Trouble::Fatal(error.to_string())
        }
    }
}
