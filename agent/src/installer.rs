//! What the agent needs from the machine that it installs on, and this machine as the one that really does it.
//!
//! Nothing here decides whether to do something: the journal holds that it was decided before it is called.

use crate::install::{
    self, ChunkLists, Detected, Ended, Exchange, ExchangeState, Host, Layout, LogEnd, OldTree, Place, Reserve, Source, Staging, StepEnd,
    StepId, StepSpec, Supervisor, TreeRecord, Workshop, logs,
};
use crate::{facts::Collector, limits::Limits, machine::Restored};
use std::{
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};
use sutler_base::{
    AttemptId, Digest,
    chunks::Chunk,
    facts::{Facts, Software},
    limits,
    manifest::{
        Manifest, Phase, Present,
        relations::Values,
        requirement::{Requirement, Verdict, ask},
    },
    outcome::Failure,
    path::InstallPath,
    state::ErrorKind,
};

/// A future of an installer.
pub type Doing<'a, T> = Pin<Box<dyn Future<Output = Result<T, Trouble>> + Send + 'a>>;

/// Why the installer could not do something.
#[derive(Debug, Clone, PartialEq)]
pub enum Trouble {
    /// It failed, and the package with it.
    Failed(Failure),
    /// Nobody can say what is on the disk any more: the process must end.
    Fatal(String),
}

/// A failure of this kind with this sentence, and nothing else.
pub fn failure(kind: ErrorKind, message: impl Into<String>) -> Failure {
    Failure {
        kind,
        message: message.into(),
        step: None,
        exit_code: None,
        signal: None,
        output: String::new(),
        output_cut: 0,
        restored: None,
    }
}

impl From<install::Error> for Trouble {
    fn from(error: install::Error) -> Self {
        if error.is_fatal() { Trouble::Fatal(error.to_string()) } else { Trouble::Failed(failure(error.kind(), error.to_string())) }
    }
}

/// One package of an attempt.
#[derive(Debug, Clone)]
pub struct Item {
    /// The attempt.
    pub attempt: AttemptId,
    /// Which of its packages, from 0.
    pub index: usize,
    /// The package.
    pub manifest: Arc<Manifest>,
    /// The digest of its manifest.
    pub digest: Digest,
    /// The values of its parameters, all of them.
    pub values: Values,
}

/// A package that was installed before at the place of a new one.
#[derive(Debug, Clone)]
pub struct OldPackage {
    /// Its manifest.
    pub manifest: Arc<Manifest>,
    /// Its chunk lists, as far as they are known.
    pub lists: Arc<ChunkLists>,
    /// Where it lies, if that is not the place of the new one.
    pub at: Option<PathBuf>,
}

/// A tree in the making. Its methods block.
pub trait Tree: Send {
    /// The chunks that are not there yet, in the order to fetch them.
    fn missing(&self) -> Vec<Chunk>;
    /// Takes what a tree that is installed has of it; returns how many bytes that made.
    fn reuse(&mut self, old: &OldPackage) -> Result<u64, Trouble>;
    /// Verifies chunks and writes them.
    fn write(&mut self, chunks: &[(Digest, &[u8])]) -> Result<(), Trouble>;
    /// Verifies the whole and makes it durable.
    fn finish(self: Box<Self>) -> Result<(), Trouble>;
}

/// Puts packages on a machine.
pub trait Installer: Send + Sync + 'static {
    /// The facts of the machine; `software` is what the agent installed.
    fn facts(&self, software: Vec<Software>) -> Doing<'_, Facts>;
    /// Whether the package's requirements hold, and these, which the job has; `own` is what the agent installed.
    fn requirements<'a>(&'a self, item: &'a Item, narrower: &'a [Requirement], own: Vec<Present>) -> Doing<'a, Verdict>;
    /// Whether the package's detection rules hold.
    fn detect<'a>(&'a self, item: &'a Item) -> Doing<'a, Detected>;
    /// The manifest of what the agent installed at the package's directory; none if it did not, or if it has none.
    fn installed<'a>(&'a self, item: &'a Item) -> Doing<'a, Option<Digest>>;
    /// Where a delta makes files from those of this package, which is installed, and whose manifest has these bytes; none if it isn't
    /// there, or deltas are not for this machine.
    fn workshop<'a>(&'a self, _old: &'a Item, _signed: Vec<u8>) -> Doing<'a, Option<Box<Workshop>>> {
        Box::pin(async { Ok(None) })
    }
    /// How much of the disk nothing may take.
    fn reserve(&self) -> Reserve {
        Reserve::default()
    }
    /// Makes room for the package, or opens what an earlier try left, or what is kept of it.
    fn stage<'a>(&'a self, item: &'a Item, lists: &'a ChunkLists) -> Doing<'a, Box<dyn Tree>>;
    /// What is staged of the package is kept for a later attempt, whole or not. Asked again it does nothing.
    fn keep<'a>(&'a self, item: &'a Item) -> Doing<'a, ()>;
    /// What is kept of the manifest with this digest goes, whose package has this directory. Asked again it does nothing.
    fn drop_kept<'a>(&'a self, directory: Option<&'a InstallPath>, manifest: &'a Digest) -> Doing<'a, ()>;
    /// The program of the staged package, which is a new agent.
    fn staged_agent<'a>(&'a self, item: &'a Item) -> Doing<'a, PathBuf>;
    /// The staged tree takes its place. Asked again it does nothing.
    fn exchange<'a>(&'a self, item: &'a Item) -> Doing<'a, ()>;
    /// The package stays. Asked again it does nothing.
    fn commit<'a>(&'a self, item: &'a Item) -> Doing<'a, ()>;
    /// What was there before is put back, what was staged goes. Asked again it does nothing.
    fn restore<'a>(&'a self, item: &'a Item) -> Doing<'a, Restored>;
    /// The package's tree goes. Asked again it does nothing.
    fn remove<'a>(&'a self, item: &'a Item) -> Doing<'a, ()>;
    /// What was staged for the attempt goes, and what is kept of its steps: it is over.
    fn forget<'a>(&'a self, attempt: &'a AttemptId, items: &'a [Item]) -> Doing<'a, ()>;
    /// Keeps the ends of the package's log files until the attempt is over. Asked again it does nothing.
    fn keep_logs<'a>(&'a self, item: &'a Item) -> Doing<'a, ()>;
    /// What is kept of the log files of the package with this number of an attempt.
    fn logs<'a>(&'a self, attempt: &'a AttemptId, item: usize) -> Doing<'a, Vec<LogEnd>>;
    /// Runs a step of the package and waits for its end. A run that was started before is refused.
    fn start<'a>(&'a self, item: &'a Item, step: usize, run: u32) -> Doing<'a, Ended>;
    /// Waits for the end of a run that was started before; none if nothing is known of it.
    fn pick_up<'a>(&'a self, item: &'a Item, step: usize, run: u32) -> Doing<'a, Option<Ended>>;
}

/// This machine.
#[derive(Debug, Clone)]
pub struct Machine {
    layout: Arc<Layout>,
    supervisor: Supervisor,
    reserve: Reserve,
    output_tail: usize,
    /// Becomes the machine's id if nothing else tells it apart.
    fresh: [u8; 16],
    /// The program that this agent was started from; none if it can't be exchanged.
    program: Option<PathBuf>,
    collector: Arc<Mutex<Collector>>,
}

impl Machine {
    /// The machine whose places are in `layout`; steps are run under `supervisor`.
    pub fn new(layout: Layout, supervisor: Supervisor, fresh: [u8; 16]) -> Machine {
        let (reserve, output_tail) = (Reserve::default(), limits::OUTPUT_TAIL_MAX);
        install::remove_made(&layout);
        Machine { layout: Arc::new(layout), supervisor, reserve, output_tail, fresh, program: None, collector: Arc::default() }
    }

    /// The same with an agent that runs from this file, without links in its path: a package that is an agent may take its
    /// place.
    pub fn running(self, program: PathBuf) -> Machine {
        Machine { program: Some(program), ..self }
    }

    /// The same, taking of the disk and keeping of outputs what these limits say.
    pub fn within(mut self, limits: &Limits) -> Machine {
        self.reserve = Reserve { bytes: limits.disk_reserve, percent: limits.disk_reserve_percent };
        self.output_tail = limits.output_tail;
        self
    }

    fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Layout) -> Result<T, install::Error> + Send + 'static) -> Doing<'static, T> {
        let layout = self.layout.clone();
        Box::pin(async move {
            match tokio::task::spawn_blocking(move || work(&layout)).await {
                Ok(result) => result.map_err(Trouble::from),
                Err(e) => Err(Trouble::Failed(failure(ErrorKind::ClientIo, format!("the agent's own work stopped: {e}")))),
            }
        })
    }

    /// Each run of a step has a number of its own, and so a gate of its own.
    fn step_id(item: &Item, step: usize, run: u32) -> StepId {
        StepId { attempt: item.attempt.clone(), item: item.index, step: step + run as usize * limits::STEPS_MAX }
    }
}

fn exchange_of<'a>(layout: &'a Layout, item: &'a Item) -> Option<Exchange<'a>> {
    let directory = item.manifest.directory.as_ref()?;
    let exchange = Exchange::new(layout, directory, &item.manifest.name, &item.attempt, item.index);
    Some(exchange.superseding(&item.manifest.supersedes).over_agent(item.manifest.agent.as_ref()))
}

/// A new agent takes the place of the one that runs and of no other: there is one on a machine.
fn takes_our_place(layout: &Layout, manifest: &Manifest, running: Option<&Path>) -> Result<Verdict, install::Error> {
    let (Some(program), Some(directory)) = (&manifest.agent, &manifest.directory) else { return Ok(Verdict::Met) };
    let installed = layout.installed(directory)?.map(|there| there.join(program.as_str()));
    if installed.is_some() && installed.as_deref() == running {
        return Ok(Verdict::Met);
    }
    let place = layout.root().join(directory.below_root()).join(program.as_str());
    Ok(Verdict::NotMet {
        wanted: format!("an agent that runs from {}, whose place it takes", place.display()),
        found: running.map_or("one that can't be exchanged".into(), |path| path.display().to_string()),
    })
}

/// Where a step of this phase finds the package's files at this moment.
fn place(layout: &Layout, item: &Item, phase: Phase) -> Result<Place, install::Error> {
    let installed = match (phase, exchange_of(layout, item), &item.manifest.directory) {
        (Phase::Before, ..) | (_, None, _) | (_, _, None) => false,
        (Phase::Install | Phase::After, ..) | (Phase::Restore, ..) => true,
        // What runs on an error finds its files wherever they are by then.
        (Phase::OnError, Some(exchange), _) => exchange.state()? == ExchangeState::Exchanged,
        // What was never put there by the agent has been staged for this.
        (Phase::Uninstall, _, Some(directory)) => {
            TreeRecord::read(layout, directory)?.is_some_and(|record| record.package == item.manifest.name)
        }
    };
    Ok(if installed { Place::Installed } else { Place::Staged })
}

struct RealTree {
    layout: Arc<Layout>,
    staging: Staging,
    item: Item,
}

impl Tree for RealTree {
    fn missing(&self) -> Vec<Chunk> {
        self.staging.missing()
    }

    fn reuse(&mut self, old: &OldPackage) -> Result<u64, Trouble> {
        let path = match (&old.at, &self.item.manifest.directory) {
            (Some(at), _) => Some(at.clone()),
            (None, Some(directory)) => self.layout.installed(directory)?,
            (None, None) => None,
        };
        let Some(path) = path else { return Ok(0) };
        Ok(self.staging.reuse(&OldTree { path: &path, manifest: &old.manifest, lists: &old.lists })?)
    }

    fn write(&mut self, chunks: &[(Digest, &[u8])]) -> Result<(), Trouble> {
        self.staging.write(chunks)?;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), Trouble> {
        self.staging.finish()?;
        Ok(())
    }
}

impl Installer for Machine {
    fn facts(&self, software: Vec<Software>) -> Doing<'_, Facts> {
        let (fresh, collector) = (self.fresh, self.collector.clone());
        self.blocking(move |layout| collector.lock().unwrap_or_else(PoisonError::into_inner).collect(layout, software, fresh))
    }

    fn requirements<'a>(&'a self, item: &'a Item, narrower: &'a [Requirement], own: Vec<Present>) -> Doing<'a, Verdict> {
        let narrower = narrower.to_vec();
        let (manifest, reserve, fresh, collector) = (item.manifest.clone(), self.reserve, self.fresh, self.collector.clone());
        let program = self.program.clone();
        self.blocking(move |layout| {
            match takes_our_place(layout, &manifest, program.as_deref())? {
                Verdict::Met => {}
                not_met => return Ok(not_met),
            }
            let software = own.iter().map(|own| Software { name: own.package.to_string(), version: own.version.to_string() });
            let software: Vec<Software> = software.collect();
            let measure = || {
                let mut collector = collector.lock().unwrap_or_else(PoisonError::into_inner);
                collector.collect(layout, software.clone(), fresh).map_err(|e| e.to_string())
            };
            let host = Host::new(layout, reserve, manifest.directory.as_ref(), &own, measure);
            let mut all = manifest.conditions();
            all.extend(narrower);
            Ok(ask(&all, &host))
        })
    }

    fn detect<'a>(&'a self, item: &'a Item) -> Doing<'a, Detected> {
        let manifest = item.manifest.clone();
        self.blocking(move |layout| install::detect(layout, &manifest))
    }

    fn installed<'a>(&'a self, item: &'a Item) -> Doing<'a, Option<Digest>> {
        let manifest = item.manifest.clone();
        self.blocking(move |layout| match &manifest.directory {
            Some(directory) => Ok(TreeRecord::read(layout, directory)?.filter(|r| r.package == manifest.name).map(|r| r.manifest)),
            None => Ok(None),
        })
    }

    fn workshop<'a>(&'a self, old: &'a Item, signed: Vec<u8>) -> Doing<'a, Option<Box<Workshop>>> {
        let old = old.clone();
        self.blocking(move |layout| Ok(Workshop::open(layout, old.manifest, old.digest, signed, &old.attempt, old.index)?.map(Box::new)))
    }

    fn reserve(&self) -> Reserve {
        self.reserve
    }

    fn stage<'a>(&'a self, item: &'a Item, lists: &'a ChunkLists) -> Doing<'a, Box<dyn Tree>> {
        let (item, lists, layout, reserve) = (item.clone(), lists.clone(), self.layout.clone(), self.reserve);
        self.blocking(move |_| {
            install::take(&layout, item.manifest.directory.as_ref(), &item.digest, &item.attempt, item.index)?;
            let source = Source { manifest: item.manifest.clone(), digest: item.digest };
            let staging = Staging::open(&layout, source, &lists, &item.attempt, item.index, reserve)?;
            Ok(Box::new(RealTree { layout, staging, item }) as Box<dyn Tree>)
        })
    }

    fn keep<'a>(&'a self, item: &'a Item) -> Doing<'a, ()> {
        let item = item.clone();
        self.blocking(move |layout| match exchange_of(layout, &item) {
            // The staging place may hold the tree that was there before.
            Some(exchange) if exchange.state()? != ExchangeState::Before => Ok(()),
            _ => install::keep(layout, item.manifest.directory.as_ref(), &item.digest, &item.attempt, item.index),
        })
    }

    fn drop_kept<'a>(&'a self, directory: Option<&'a InstallPath>, manifest: &'a Digest) -> Doing<'a, ()> {
        let (directory, manifest) = (directory.cloned(), *manifest);
        self.blocking(move |layout| install::drop_kept(layout, directory.as_ref(), &manifest))
    }

    fn staged_agent<'a>(&'a self, item: &'a Item) -> Doing<'a, PathBuf> {
        let item = item.clone();
        self.blocking(move |layout| {
            let none = || install::Error::Manifest("it is no agent".into());
            let (program, exchange) = item.manifest.agent.as_ref().zip(exchange_of(layout, &item)).ok_or_else(none)?;
            Ok(exchange.staged()?.join(program.as_str()))
        })
    }

    fn exchange<'a>(&'a self, item: &'a Item) -> Doing<'a, ()> {
        let item = item.clone();
        self.blocking(move |layout| exchange_of(layout, &item).map_or(Ok(()), |e| e.exchange()))
    }

    fn commit<'a>(&'a self, item: &'a Item) -> Doing<'a, ()> {
        let item = item.clone();
        self.blocking(move |layout| exchange_of(layout, &item).map_or(Ok(()), |e| e.commit()))
    }

    fn restore<'a>(&'a self, item: &'a Item) -> Doing<'a, Restored> {
        let item = item.clone();
        self.blocking(move |layout| {
            let Some(exchange) = exchange_of(layout, &item) else { return Ok(Restored::Untouched) };
            match exchange.state()? {
                ExchangeState::Before => exchange.discard().map(|()| Restored::Untouched),
                ExchangeState::Exchanged | ExchangeState::Restored => {
                    let old = exchange.had_old()?;
                    exchange.restore().map(|()| if old { Restored::Old } else { Restored::Empty })
                }
                ExchangeState::Committed => Ok(Restored::Untouched),
            }
        })
    }

    fn remove<'a>(&'a self, item: &'a Item) -> Doing<'a, ()> {
        let item = item.clone();
        self.blocking(move |layout| match &item.manifest.directory {
            Some(directory) => install::remove_installed(layout, directory, &item.manifest.name),
            None => Ok(()),
        })
    }

    fn forget<'a>(&'a self, attempt: &'a AttemptId, items: &'a [Item]) -> Doing<'a, ()> {
        let (attempt, items) = (attempt.clone(), items.to_vec());
        self.blocking(move |layout| {
            for item in &items {
                if let Some(exchange) = exchange_of(layout, item)
                    && exchange.state()? != ExchangeState::Exchanged
                {
                    exchange.discard()?;
                }
            }
            install::forget(layout, &attempt)
        })
    }

    fn keep_logs<'a>(&'a self, item: &'a Item) -> Doing<'a, ()> {
        let item = item.clone();
        self.blocking(move |layout| logs::keep(layout, &item.manifest, &item.attempt, item.index))
    }

    fn logs<'a>(&'a self, attempt: &'a AttemptId, item: usize) -> Doing<'a, Vec<LogEnd>> {
        let attempt = attempt.clone();
        self.blocking(move |layout| logs::kept(layout, &attempt, item))
    }

    fn start<'a>(&'a self, item: &'a Item, step: usize, run: u32) -> Doing<'a, Ended> {
        let (item, supervisor, output_tail) = (item.clone(), self.supervisor.clone(), self.output_tail);
        Box::pin(async move {
            let running = self.blocking(move |layout| {
                let planned = item.manifest.steps.get(step);
                let planned = planned.ok_or_else(|| install::Error::Manifest(format!("it has no step with the number {step}")))?;
                let planned = planned.filled(&item.values).map_err(|e| install::Error::Manifest(e.0))?;
                let place = place(layout, &item, planned.phase)?;
                let spec = StepSpec::new(layout, Machine::step_id(&item, step, run), &item.manifest, &planned, place)?.keeping(output_tail);
                install::start(layout, &supervisor, &spec)
            });
            Ok(running.await?.wait().await?)
        })
    }

    fn pick_up<'a>(&'a self, item: &'a Item, step: usize, run: u32) -> Doing<'a, Option<Ended>> {
        let id = Machine::step_id(item, step, run);
        Box::pin(async move {
            match self.blocking(move |layout| install::pick_up(layout, &id)).await? {
                Some(running) => {
                    let ended = running.wait().await?;
                    // Cut off before its supervisor did anything: it is not started again, whatever the reason.
                    let cut_off = matches!(ended.end, StepEnd::NotStarted(_)) && ended.finished.is_none();
                    Ok(Some(ended).filter(|_| !cut_off))
                }
                None => Ok(None),
            }
        })
    }
}
