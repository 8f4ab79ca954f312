//! An agent without a machine: everything but the connection is in memory. For tests that run many agents in one process
//! over real TLS. Nothing of it is in the program that is shipped.
//!
//! What outlives a kill of the agent (drop the future of [`Agent::run`]) is shared by clones: files, journal, and what
//! the machine has run.

use crate::{
    agent::{Agent, AgentError, Deps, Handle, Trial},
    clock::{Clock, SystemClock},
    identity::{self, EnrollError, Enrolled},
    install::{ChunkLists, Detected, Ended, LogEnd, StepEnd},
    installer::{Doing, Installer, Item, OldPackage, Tree, Trouble, failure},
    journal::{Answered, Journal, JournalError, Loaded},
    limits::Limits,
    link,
    machine::{Now, Record, Restored},
    vault::{Vault, VaultError},
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};
use sutler_base::{
    AttemptId, Digest, PackageName,
    chunks::Chunk,
    facts::{Facts, Software},
    manifest::{EntryKind, Manifest, Present, Requirement, requirement::Verdict},
    path::InstallPath,
    state::ErrorKind,
    token::TokenString,
};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::watch,
};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From how many addresses this process connects; 0 from whichever the system takes.
static ADDRESSES: AtomicU16 = AtomicU16::new(0);

/// From now on connections of this process come in turns from so many addresses of the loopback, from 127.1.0.0 on: one machine
/// that stands for many would have one address's share of what a manager lets callers without a certificate do, and one address's
/// ports.
pub fn connect_from(addresses: u16) {
    ADDRESSES.store(addresses, Ordering::Relaxed);
}

/// Connects to `host:port`.
pub(crate) async fn dial(address: &str) -> io::Result<TcpStream> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let to = address.parse::<SocketAddr>().ok().filter(|to| to.ip().is_ipv4() && to.ip().is_loopback());
    let (Some(to), addresses @ 1..) = (to, ADDRESSES.load(Ordering::Relaxed)) else { return TcpStream::connect(address).await };
    let [high, low] = (NEXT.fetch_add(1, Ordering::Relaxed) % addresses).to_be_bytes();
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::new(127, 1, high, low), 0).into())?;
    socket.connect(to).await
}

/// Files in memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryVault(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

impl Vault for MemoryVault {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, VaultError> {
        Ok(lock(&self.0).get(name).cloned())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), VaultError> {
        lock(&self.0).insert(name.into(), bytes.into());
        Ok(())
    }

    fn cache(&self, name: &str, bytes: &[u8]) -> Result<(), VaultError> {
        self.write(name, bytes)
    }

    fn remove(&self, name: &str) -> Result<(), VaultError> {
        lock(&self.0).remove(name);
        Ok(())
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, VaultError> {
        let prefix = format!("{folder}/");
        Ok(lock(&self.0).keys().filter_map(|name| name.strip_prefix(&prefix)).map(str::to_owned).collect())
    }
}

#[derive(Debug, Default)]
struct Ledger {
    open: BTreeMap<AttemptId, Record>,
    answers: BTreeMap<AttemptId, Record>,
    lost: bool,
}

/// A journal in memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryJournal(Arc<Mutex<Ledger>>);

impl MemoryJournal {
    /// What is in it.
    pub fn records(&self) -> Vec<Record> {
        lock(&self.0).open.values().cloned().collect()
    }

    /// Loses everything, as a damaged disk would; the next agent that loads it is told.
    pub fn lose(&self) {
        *lock(&self.0) = Ledger { lost: true, ..Ledger::default() };
    }
}

impl Journal for MemoryJournal {
    fn load(&mut self) -> Result<Loaded, JournalError> {
        let ledger = lock(&self.0);
        Ok(Loaded { records: ledger.open.values().cloned().collect(), retired: Vec::new(), damaged: Vec::new(), lost: ledger.lost })
    }

    fn settle(&mut self) -> Result<(), JournalError> {
        lock(&self.0).lost = false;
        Ok(())
    }

    fn write(&mut self, record: &Record) -> Result<(), JournalError> {
        lock(&self.0).open.insert(record.id().clone(), record.clone());
        Ok(())
    }

    fn retire(&mut self, record: &Record) -> Result<(), JournalError> {
        let mut ledger = lock(&self.0);
        ledger.open.remove(record.id());
        ledger.answers.insert(record.id().clone(), record.clone());
        Ok(())
    }

    fn discard(&mut self, attempt: &AttemptId) -> Result<(), JournalError> {
        lock(&self.0).open.remove(attempt);
        Ok(())
    }

    fn make_room(&mut self) {}

    fn keep_room(&mut self) -> bool {
        true
    }

    fn answer(&self, attempt: &AttemptId) -> Answered {
        lock(&self.0).answers.get(attempt).cloned().map_or(Answered::No, |record| Answered::Yes(Box::new(record)))
    }

    fn answers_from(&self, first: &AttemptId) -> Vec<Record> {
        lock(&self.0).answers.range(first..).map(|(_, record)| record.clone()).collect()
    }
}

/// One run of a step.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Run {
    /// The attempt.
    pub attempt: AttemptId,
    /// Which of its packages.
    pub item: usize,
    /// Which step of the package.
    pub step: usize,
    /// Which run of it: more than one only where its exit code means *later*.
    pub run: u32,
    /// The package.
    pub package: PackageName,
}

#[derive(Debug, Default)]
struct Inside {
    runs: Vec<Run>,
    ended: HashMap<(AttemptId, usize, usize, u32), i32>,
    twice: Vec<Run>,
    exchanged: HashMap<(AttemptId, usize), Option<Digest>>,
    installed: BTreeMap<PackageName, Digest>,
    staged: HashSet<(AttemptId, usize)>,
    kept: HashSet<Digest>,
    exit_codes: HashMap<PackageName, (i32, Option<u32>)>,
    facts: Facts,
}

/// A machine that installs in no time, remembers what it ran, and fails when it is told to.
#[derive(Debug, Clone)]
pub struct SimulatedMachine {
    inside: Arc<Mutex<Inside>>,
    /// While it is true, steps that were started don't end.
    held: watch::Sender<bool>,
}

impl SimulatedMachine {
    /// A machine with these facts.
    pub fn new(facts: Facts) -> SimulatedMachine {
        SimulatedMachine { inside: Arc::new(Mutex::new(Inside { facts, ..Inside::default() })), held: watch::Sender::new(false) }
    }

    /// Every run of a step that was started, in order.
    pub fn runs(&self) -> Vec<Run> {
        lock(&self.inside).runs.clone()
    }

    /// Runs that somebody tried to start a second time: must stay empty.
    pub fn twice(&self) -> Vec<Run> {
        lock(&self.inside).twice.clone()
    }

    /// The manifests that are installed.
    pub fn installed(&self) -> BTreeMap<PackageName, Digest> {
        lock(&self.inside).installed.clone()
    }

    /// Lets every step of a package that ends from now on end with this exit code: so many times, or always.
    pub fn fail(&self, package: &PackageName, exit_code: i32, times: Option<u32>) {
        lock(&self.inside).exit_codes.insert(package.clone(), (exit_code, times));
    }

    /// Lets the steps of a package end well again.
    pub fn mend(&self, package: &PackageName) {
        lock(&self.inside).exit_codes.remove(package);
    }

    /// Changes the facts; the agent sees it when it collects them next.
    pub fn set_facts(&self, facts: Facts) {
        lock(&self.inside).facts = facts;
    }

    /// From now on steps that are started don't end, until they are let go.
    pub fn hold_steps(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// Waits for the end of a step; none of one that was never started. How it ends is decided then, and once.
    async fn end(&self, item: &Item, step: usize, run: u32) -> Option<Ended> {
        let mut held = self.held.subscribe();
        let _ = held.wait_for(|held| !held).await;
        let mut inside = lock(&self.inside);
        if !inside.runs.contains(&run_of(item, step, run)) {
            return None;
        }
        let key = (item.attempt.clone(), item.index, step, run);
        let code = match inside.ended.get(&key) {
            Some(code) => *code,
            None => inside.decide(key, item),
        };
        Some(Ended { end: StepEnd::Exited { code }, output: String::new(), output_cut: 0, duration: Duration::ZERO, finished: None })
    }
}

fn run_of(item: &Item, step: usize, run: u32) -> Run {
    Run { attempt: item.attempt.clone(), item: item.index, step, run, package: item.manifest.name.clone() }
}

impl Inside {
    /// How a step ends that ends now.
    fn decide(&mut self, key: (AttemptId, usize, usize, u32), item: &Item) -> i32 {
        let code = match self.exit_codes.get_mut(&item.manifest.name) {
            Some((_, Some(0))) | None => 0,
            Some((code, times)) => {
                if let Some(times) = times {
                    *times -= 1;
                }
                *code
            }
        };
        self.ended.insert(key, code);
        // What an installer without a directory of its own puts on the machine.
        if code == 0 && item.manifest.directory.is_none() {
            self.installed.insert(item.manifest.name.clone(), item.digest);
        }
        code
    }
}

struct SimulatedTree {
    missing: Vec<Chunk>,
    lacking: HashSet<Digest>,
}

impl Tree for SimulatedTree {
    fn missing(&self) -> Vec<Chunk> {
        self.missing.clone()
    }

    fn reuse(&mut self, _: &OldPackage) -> Result<u64, Trouble> {
        Ok(0)
    }

    fn write(&mut self, chunks: &[(Digest, &[u8])]) -> Result<(), Trouble> {
        for (digest, bytes) in chunks {
            if Digest::of(bytes) != *digest {
                return Err(Trouble::Failed(failure(ErrorKind::ContentMismatch, format!("what came for {digest} is something else"))));
            }
            self.lacking.remove(digest);
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), Trouble> {
        if self.lacking.is_empty() {
            Ok(())
        } else {
            Err(Trouble::Failed(failure(ErrorKind::ContentMismatch, format!("{} chunks are missing", self.lacking.len()))))
        }
    }
}

fn chunks(manifest: &Manifest, lists: &ChunkLists) -> Vec<Chunk> {
    let mut all = Vec::new();
    for entry in &manifest.files {
        match &entry.kind {
            EntryKind::File { size, blake3, chunks: None, .. } if *size > 0 => all.push(Chunk { digest: *blake3, length: *size as u32 }),
            EntryKind::File { chunks: Some(list), .. } => all.extend(lists.get(list).map(|l| l.0.clone()).unwrap_or_default()),
            _ => {}
        }
    }
    let mut seen = HashSet::new();
    all.retain(|c| seen.insert(c.digest));
    all
}

fn now<T: Send + 'static>(value: T) -> Doing<'static, T> {
    Box::pin(async move { Ok(value) })
}

impl Installer for SimulatedMachine {
    fn facts(&self, software: Vec<Software>) -> Doing<'_, Facts> {
        now(Facts { software, ..lock(&self.inside).facts.clone() })
    }

    fn detect<'a>(&'a self, item: &'a Item) -> Doing<'a, Detected> {
        let there = lock(&self.inside).installed.get(&item.manifest.name) == Some(&item.digest);
        now(match (item.manifest.detection.is_empty(), there) {
            (true, _) => Detected::NoRules,
            (false, true) => Detected::Yes,
            (false, false) => Detected::No("it was never installed on this simulated machine".into()),
        })
    }

    fn installed<'a>(&'a self, item: &'a Item) -> Doing<'a, Option<Digest>> {
        now(lock(&self.inside).installed.get(&item.manifest.name).copied())
    }

    fn stage<'a>(&'a self, item: &'a Item, lists: &'a ChunkLists) -> Doing<'a, Box<dyn Tree>> {
        let mut inside = lock(&self.inside);
        let kept = inside.kept.remove(&item.digest);
        inside.staged.insert((item.attempt.clone(), item.index));
        let missing = if kept { Vec::new() } else { chunks(&item.manifest, lists) };
        let lacking = missing.iter().map(|c| c.digest).collect();
        now(Box::new(SimulatedTree { missing, lacking }) as Box<dyn Tree>)
    }

    fn keep<'a>(&'a self, item: &'a Item) -> Doing<'a, ()> {
        let mut inside = lock(&self.inside);
        let key = (item.attempt.clone(), item.index);
        if inside.staged.remove(&key) && !inside.exchanged.contains_key(&key) {
            inside.kept.insert(item.digest);
        }
        now(())
    }

    fn drop_kept<'a>(&'a self, _: Option<&'a InstallPath>, manifest: &'a Digest) -> Doing<'a, ()> {
        lock(&self.inside).kept.remove(manifest);
        now(())
    }

    fn exchange<'a>(&'a self, item: &'a Item) -> Doing<'a, ()> {
        let mut inside = lock(&self.inside);
        let key = (item.attempt.clone(), item.index);
        if !inside.exchanged.contains_key(&key) {
            let old = inside.installed.insert(item.manifest.name.clone(), item.digest);
            inside.exchanged.insert(key, old);
        }
        now(())
    }

    fn commit<'a>(&'a self, item: &'a Item) -> Doing<'a, ()> {
        lock(&self.inside).installed.insert(item.manifest.name.clone(), item.digest);
        now(())
    }

    fn requirements<'a>(&'a self, item: &'a Item, _: &'a [Requirement], _: Vec<Present>) -> Doing<'a, Verdict> {
        now(match &item.manifest.agent {
            Some(_) => Verdict::NotMet { wanted: "an agent that is a program".into(), found: "a simulated one".into() },
            None => Verdict::Met,
        })
    }

    fn keep_logs<'a>(&'a self, _: &'a Item) -> Doing<'a, ()> {
        now(())
    }

    fn logs<'a>(&'a self, _: &'a AttemptId, _: usize) -> Doing<'a, Vec<LogEnd>> {
        now(Vec::new())
    }

    fn staged_agent<'a>(&'a self, _: &'a Item) -> Doing<'a, PathBuf> {
        Box::pin(async { Err(Trouble::Failed(failure(ErrorKind::ClientIo, "a simulated machine has no programs"))) })
    }

    fn restore<'a>(&'a self, item: &'a Item) -> Doing<'a, Restored> {
        let mut inside = lock(&self.inside);
        let Some(old) = inside.exchanged.remove(&(item.attempt.clone(), item.index)) else { return now(Restored::Untouched) };
        let Some(digest) = old else {
            inside.installed.remove(&item.manifest.name);
            return now(Restored::Empty);
        };
        inside.installed.insert(item.manifest.name.clone(), digest);
        now(Restored::Old)
    }

    fn remove<'a>(&'a self, item: &'a Item) -> Doing<'a, ()> {
        lock(&self.inside).installed.remove(&item.manifest.name);
        now(())
    }

    fn forget<'a>(&'a self, _: &'a AttemptId, _: &'a [Item]) -> Doing<'a, ()> {
        now(())
    }

    fn start<'a>(&'a self, item: &'a Item, step: usize, run: u32) -> Doing<'a, Ended> {
        let entry = run_of(item, step, run);
        {
            let mut inside = lock(&self.inside);
            if inside.runs.contains(&entry) {
                inside.twice.push(entry);
                return Box::pin(async { Err(Trouble::Failed(failure(ErrorKind::ClientIo, "the step has been started before"))) });
            }
            inside.runs.push(entry);
        }
        Box::pin(async move {
            self.end(item, step, run).await.ok_or_else(|| Trouble::Failed(failure(ErrorKind::ClientIo, "the simulated step is not known")))
        })
    }

    fn pick_up<'a>(&'a self, item: &'a Item, step: usize, run: u32) -> Doing<'a, Option<Ended>> {
        Box::pin(async move { Ok(self.end(item, step, run).await) })
    }
}

/// The clocks of this machine, with a time of day that can be stepped; the one that counts since the start can't be.
#[derive(Debug, Clone, Default)]
pub struct SteppedClock {
    system: SystemClock,
    ahead: Arc<AtomicI64>,
}

impl SteppedClock {
    /// Steps the time of day.
    pub fn step(&self, millis: i64) {
        self.ahead.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for SteppedClock {
    fn now(&self) -> Now {
        let now = self.system.now();
        let ahead = jiff::SignedDuration::from_millis(self.ahead.load(Ordering::SeqCst));
        Now { wall: now.wall.saturating_add(ahead).unwrap_or(now.wall), ..now }
    }
}

/// A simulated machine with its agent's files: enrol it, start it, kill it, start it again.
#[derive(Debug, Clone)]
pub struct Simulated {
    /// Its files.
    pub vault: MemoryVault,
    /// Its journal.
    pub journal: MemoryJournal,
    /// The machine.
    pub machine: SimulatedMachine,
    /// Its clocks.
    pub clock: SteppedClock,
    /// What its agent keeps to when it is started next.
    pub limits: Limits,
    seed: u64,
}

impl Simulated {
    /// A machine that was never seen before. `seed` makes its randomness, so that a run can be repeated.
    pub fn new(name: &str, seed: u64) -> Simulated {
        let facts = Facts {
            os: sutler_base::facts::Os {
                family: "linux".into(),
                id: "debian".into(),
                name: "Debian".into(),
                version: "12".into(),
                kernel: "6.1".into(),
                ..Default::default()
            },
            arch: std::env::consts::ARCH.into(),
            hostname: name.into(),
            machine_id: format!("{seed:032x}"),
            boot_id: format!("boot-{seed}"),
            ..Facts::default()
        };
        let machine = SimulatedMachine::new(facts);
        Simulated {
            vault: MemoryVault::default(),
            journal: MemoryJournal::default(),
            machine,
            clock: SteppedClock::default(),
            limits: Limits::default(),
            seed,
        }
    }

    /// Enrols it.
    pub async fn enroll(&self, token: &TokenString) -> Result<Enrolled, EnrollError> {
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let (hostname, machine_id) = {
            let facts = &lock(&self.machine.inside).facts;
            (facts.hostname.clone(), facts.machine_id.clone())
        };
        identity::enroll(&self.vault, token, &hostname, &machine_id, false, link::tls_clock(&link::ManagerTime::new(clock))).await
    }

    /// Its agent, to be run. Dropping the future of [`Agent::run`] is a kill.
    pub async fn agent(&self) -> Result<(Agent, Handle), AgentError> {
        let state = AtomicU64::new(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Agent::new(Deps {
            vault: Arc::new(self.vault.clone()),
            journal: Box::new(self.journal.clone()),
            installer: Arc::new(self.machine.clone()),
            clock: Arc::new(self.clock.clone()),
            random: Arc::new(move || mix(state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed))),
            policy: crate::policy::LocalPolicy::default().into(),
            programs: Default::default(),
            limits: self.limits.clone(),
            trial: Trial::Unknown,
        })
        .await
    }
}

/// splitmix64.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
