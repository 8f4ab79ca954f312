//! A whole life of one client, with one program that is hurt on the way, and what must hold of it afterwards.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use sutler::package::{self, SignedPackage};
use sutler::profile::{self, Profile};
use sutler_base::Timestamp;
use sutler_certs::PublisherKey;
use sutler_proto::v1::{self, ExecutionState as S};
use sutler_tests::api_call;
use sutler_tests::fleet;
use sutler_tests::harness::{Agent, Api, Manager, PATIENCE, PackageFolder, Setup, wait_for, wait_until};
use tonic::{Code, Status};

/// The program that hurts.
pub(crate) const INJECT: &str = env!("CARGO_BIN_EXE_inject");

/// How long an agent that has something to do is left alone before it is told not to wait for its next try.
const NUDGE: Duration = Duration::from_millis(700);
/// How often a program that ends by itself is started again, as systemd would.
const STARTS: usize = 4;

/// Says which attempt ran: the same line twice is a step that ran twice.
const INSTALL: &str = "#!/bin/sh\necho \"$SUTLER_ATTEMPT\" >>\"$(pwd -P).runs\"\n";

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Hit {
    /// How many calls were counted.
    pub(crate) calls: u64,
    /// Whether the program was hurt.
    pub(crate) hit: bool,
    /// How the first attempt ended.
    pub(crate) end: String,
}

/// Something that can be lived many times.
pub(crate) trait Life {
    /// Once, hurt at this call; 0 is none.
    fn run(&mut self, call: &str, fault: &str, nth: u64) -> Hit;

    /// Once, on a disk of [`DISK_MIB`] with so many KiB left, until somebody was told that it is full; then there is room again.
    /// None where nobody may mount.
    fn run_on_a_full_disk(&mut self, kib: u64) -> Option<Hit>;
}

/// How large the disk is that fills up.
const DISK_MIB: u32 = 64;

/// The orders to `inject`, and where it writes what it counted.
struct Injector {
    words: Vec<String>,
    nth: u64,
    log: PathBuf,
    /// Whether a process must end whose call this is.
    ends: bool,
}

impl Injector {
    fn new(call: &str, fault: &str, nth: u64, log: PathBuf, below: &[PathBuf]) -> Injector {
        let mut words: Vec<String> = [INJECT, "--call", call, "--fault", fault, "--nth"].map(str::to_owned).to_vec();
        words.extend([nth.to_string(), "--log".into(), log.to_string_lossy().into_owned()]);
        for folder in below {
            words.extend(["--below".to_owned(), folder.to_string_lossy().into_owned()]);
        }
        words.push("--".into());
        Injector { words, nth, log, ends: fault == "EIO" && matches!(call, "fsync" | "fdatasync") }
    }

    fn wrapper(&self) -> Vec<&str> {
        self.words.iter().map(String::as_str).collect()
    }

    fn lines(&self) -> Vec<String> {
        fs_err::read_to_string(&self.log).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    fn calls(&self) -> u64 {
        self.lines().iter().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).count() as u64
    }

    /// The process that was hurt.
    fn hurt(&self) -> Option<String> {
        self.lines().iter().find_map(|line| line.strip_prefix("hurt ").map(str::to_owned))
    }

    /// Whether what failed was SQLite's own `fsync` of its folder, which it makes once with the first commit after it was opened and
    /// takes no notice of. Nothing rests on it: the manager made its own before, and that one ends it.
    fn is_sqlites_own(&self) -> bool {
        let folder = |line: &String| line.split(' ').nth(3).is_some_and(|path| Path::new(path).join("manager.db").exists());
        let (nth, lines) = (format!("{} ", self.nth), self.lines());
        let Some(at) = lines.iter().position(|line| line.starts_with(&nth)) else { return false };
        folder(&lines[at]) && lines[..at].iter().any(folder)
    }

    /// After a failed `fsync` a process says no more that something is kept: it ends by itself (an abort is signal 6), and not as
    /// if all were well.
    fn check(&self) {
        let Some(pid) = self.hurt().filter(|_| self.ends && !self.is_sqlites_own()) else { return };
        let exit = format!("exit {pid} ");
        let call = format!("{} ", self.nth);
        let at = self.lines().into_iter().find(|line| line.starts_with(&call)).unwrap_or_default();
        let ended = wait_for(&format!("a process to end whose fsync had failed: {at}"), PATIENCE / 6, || {
            self.lines().iter().find_map(|line| line.strip_prefix(&exit).map(str::to_owned))
        });
        assert!(ended != "0" && ended != "signal 9", "after an fsync that failed it ended with {ended}: {at}");
    }
}

fn is_end(state: S) -> bool {
    !matches!(state, S::Unspecified | S::Queued | S::Offered | S::Downloading | S::Waiting | S::Installing | S::Verifying | S::Restoring)
}

fn is_good(state: S) -> bool {
    matches!(state, S::Succeeded | S::AlreadyInstalled)
}

/// A manager with its operator, who asks again as people do: the same request, until there is an answer. Told that the disk is
/// full, he makes room.
struct Site {
    manager: Manager,
    /// Whether the manager's disk is full, or soon will be.
    full: bool,
    api: Option<Api>,
    /// How often it was started again.
    starts: usize,
}

impl Site {
    fn new(manager: Manager) -> Site {
        Site { manager, full: false, api: None, starts: 0 }
    }

    fn make_room(&mut self) {
        if std::mem::take(&mut self.full) {
            self.manager.disk().make_room();
        }
    }

    /// Starts the manager again if it has ended.
    fn revive(&mut self) {
        if !self.manager.is_running() {
            self.starts += 1;
            assert!(self.starts < STARTS, "the manager ends again and again:\n{}", self.manager.log());
            self.api = None;
            self.make_room();
            self.manager.within(&[]);
            self.manager.serve();
        }
    }

    fn ask<T>(&mut self, what: &str, call: impl Fn(&Api) -> Result<T, Status>) -> T {
        self.try_ask(what, call).unwrap_or_else(|e| panic!("{what}: {e}"))
    }

    /// The answer, however often the manager dies before it gives one.
    fn try_ask<T>(&mut self, what: &str, call: impl Fn(&Api) -> Result<T, Status>) -> Result<T, Status> {
        wait_for(&format!("an answer to {what}"), PATIENCE, || {
            self.revive();
            if self.api.is_none() {
                self.api = Api::try_operator(&self.manager).ok();
            }
            match call(self.api.as_ref()?) {
                Ok(answer) => Some(Ok(answer)),
                // A call that was cut off says so in one of these words.
                Err(e)
                    if matches!(
                        e.code(),
                        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::ResourceExhausted | Code::Aborted
                    ) =>
                {
                    if e.code() == Code::ResourceExhausted {
                        self.make_room();
                    }
                    self.api = None;
                    None
                }
                Err(e) => Some(Err(e)),
            }
        })
    }

    fn group(&mut self) -> v1::Group {
        let request = v1::CreateGroupRequest { group_id: "machines".into(), request_id: "group".into(), ..Default::default() };
        let made = self.ask("a group", |api| api_call!(api, group_service_client::GroupServiceClient, create_group(request.clone())));
        made.group.expect("it is in the answer")
    }

    fn push(&mut self, package: &SignedPackage) {
        wait_until("a push to be taken", PATIENCE, || {
            let pushed = self.try_ask("a push", |api| {
                let messages = fleet::push(package);
                api_call!(api, package_service_client::PackageServiceClient, push_package(tokio_stream::iter(messages)))
            });
            match pushed {
                Ok(_) => true,
                Err(e) if e.code() == Code::AlreadyExists => true,
                // Bytes that the disk does not give back are mended by who pushes them again, and is told so.
                Err(e) if e.code() == Code::DataLoss && e.message().contains("push") => false,
                Err(e) => panic!("a push: {e}"),
            }
        });
    }

    fn job(&mut self) -> String {
        let request = v1::RunJobRequest {
            packages: vec![v1::JobPackage { package: "packages/tiny".into(), ..Default::default() }],
            destinations: vec!["groups/machines".into()],
            request_id: "job".into(),
            // Stages would have those wait that come after the first twenty.
            terms: Some(v1::JobTerms { rollout: Some(v1::Rollout { all_at_once: true, ..Default::default() }), ..Default::default() }),
            ..Default::default()
        };
        let made = self.ask("a job", |api| api_call!(api, job_service_client::JobServiceClient, run_job(request.clone())));
        made.job.expect("it is in the answer").name
    }

    /// A token. Its secret is shown once: whose answer was lost asks for another.
    fn token(&mut self, request_id: &str) -> String {
        let mut tries = 0..;
        let made = wait_for("a token", PATIENCE, || {
            let request = v1::CreateEnrollmentTokensRequest {
                groups: vec!["groups/machines".into()],
                request_id: format!("{request_id}-{}", tries.next()?),
                ..Default::default()
            };
            let made = self.try_ask("a token", |api| {
                api_call!(api, enrollment_token_service_client::EnrollmentTokenServiceClient, create_enrollment_tokens(request.clone()))
            });
            match made {
                Err(e) if e.code() == Code::AlreadyExists => None,
                made => Some(made.unwrap_or_else(|e| panic!("a token: {e}"))),
            }
        });
        made.tokens.into_iter().next().expect("it is in the answer").secret
    }

    fn execution(&mut self, name: &str) -> Option<v1::GetExecutionResponse> {
        let request = v1::GetExecutionRequest { name: name.into() };
        let shown =
            self.try_ask("an execution", |api| api_call!(api, job_service_client::JobServiceClient, get_execution(request.clone())));
        match shown {
            Ok(shown) => Some(shown),
            Err(e) if e.code() == Code::NotFound => None,
            Err(e) => panic!("{name}: {e}"),
        }
    }

    fn retry(&mut self, job: &str, client: &str, request_id: &str) {
        let kinds = [v1::RetryKind::Error, v1::RetryKind::Communication, v1::RetryKind::Rejected].map(i32::from).to_vec();
        let clients = vec![format!("clients/{client}")];
        let request = v1::RetryJobRequest { name: job.into(), kinds, clients, request_id: request_id.into(), ..Default::default() };
        let retried = self.ask("a retry", |api| api_call!(api, job_service_client::JobServiceClient, retry_job(request.clone())));
        assert_eq!(retried.retried, 1, "{retried:?}");
    }

    /// Waits until the execution is at an end and its agent knows that this is recorded. Whoever ended by itself is started
    /// again, and who waits for another try is told to go on.
    fn settle(&mut self, name: &str, agent: &mut Agent) -> v1::GetExecutionResponse {
        let (mut starts, mut nudged) = (0, Instant::now());
        wait_for(&format!("{name} to come to its end"), PATIENCE, || {
            if !agent.is_running() {
                starts += 1;
                assert!(starts < STARTS, "the agent ends again and again:\n{}", agent.log());
                agent.kill();
                agent.within(&[]);
                agent.start();
            }
            if nudged.elapsed() > NUDGE {
                let _ = agent.run("run-now");
                nudged = Instant::now();
            }
            let shown = self.execution(name)?;
            let ended = is_end(shown.execution.as_ref()?.state());
            (ended && open(agent).is_empty()).then_some(shown)
        })
    }

    /// What must hold in the end; says how the first attempt had ended.
    fn check(&mut self, job: &str, agent: &mut Agent) -> String {
        let client = agent.id();
        let name = format!("{job}/executions/{client}");
        let first = self.settle(&name, agent);
        let state = first.execution.as_ref().expect("it is in the answer").state();
        assert_eq!(first.attempts.len(), 1, "nobody asked for another attempt: {first:?}");
        if !is_good(state) {
            self.retry(job, &client, &client);
            wait_until("a retry to be offered", PATIENCE, || {
                self.execution(&name).and_then(|shown| shown.execution).is_some_and(|row| row.attempt_count == 2)
            });
            let second = self.settle(&name, agent);
            let ended = second.execution.as_ref().expect("it is in the answer").state();
            assert!(is_good(ended), "after {first:?} the retry ended so: {second:?}");
        }
        let shown = self.execution(&name).expect("it was there");
        let known: BTreeSet<&str> = shown.attempts.iter().map(|a| a.id.as_str()).collect();
        assert!(shown.attempts.iter().all(|a| is_end(a.state())), "{shown:?}");
        let runs = agent.read("opt/tiny.runs").unwrap_or_default();
        let ran: Vec<&str> = runs.lines().collect();
        let once: BTreeSet<&str> = ran.iter().copied().collect();
        assert_eq!(once.len(), ran.len(), "a step ran twice: {ran:?} of {shown:?}");
        assert!(once.is_subset(&known), "what ran was no attempt: {ran:?} of {shown:?}");
        assert!(!ran.is_empty(), "it is said to be installed, and nothing ran: {shown:?}");
        for attempt in shown.attempts.iter().filter(|a| a.state() == S::Succeeded) {
            assert!(once.contains(attempt.id.as_str()), "it succeeded and did not run: {attempt:?}");
        }
        let word = |text: &str| text.trim_start_matches("EXECUTION_STATE_").to_owned();
        let reason = &first.execution.as_ref().expect("it is in the answer").reason;
        if reason.is_empty() || is_good(state) { word(state.as_str_name()) } else { format!("{} ({reason})", word(state.as_str_name())) }
    }
}

/// The attempts that the agent has not done with.
fn open(agent: &Agent) -> Vec<String> {
    let Ok(entries) = fs_err::read_dir(agent.state().join("attempts")) else { return vec!["no journal".into()] };
    entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).filter(|name| !name.starts_with('.')).collect()
}

fn tiny() -> PackageFolder {
    let package = PackageFolder::counting("tiny", "1.0");
    package.file("bin/install", INSTALL);
    package.noise("data", 40 << 10, 1);
    package
}

fn sign(package: &PackageFolder, config: &Path) -> SignedPackage {
    let profile = Profile::load(config, &profile::current(config).expect("a profile is chosen")).expect("it can be read");
    let key = PublisherKey::load(&profile.publisher_key_path).expect("the publisher's key can be read");
    let built = package::build(package.path(), Timestamp::now(), &mut |_| {}).unwrap_or_else(|e| panic!("{e}"));
    package::sign(built, &key)
}

/// Enrols until the machine is a client.
fn enrol(site: &mut Site, agent: &mut Agent, token: &str) {
    wait_for("the enrolment", PATIENCE, || {
        site.revive();
        let done = agent.try_enroll(token);
        let is_client = done.code == 0 || done.stderr.contains("enrolled already");
        agent.within(&[]);
        assert!(is_client || !done.stderr.contains("refused the enrolment"), "{done:?}");
        is_client.then_some(())
    });
}

/// Lives with one manager that nobody hurts, and an agent that is.
pub(crate) struct AgentLife {
    site: Site,
    job: String,
    _package: PackageFolder,
    lives: usize,
    enrolment: bool,
}

impl AgentLife {
    /// The enrolment is hurt.
    pub(crate) fn of_enrolment() -> AgentLife {
        AgentLife::new(true)
    }

    /// The agent that runs is hurt.
    pub(crate) fn of_agent() -> AgentLife {
        AgentLife::new(false)
    }

    fn new(enrolment: bool) -> AgentLife {
        let mut site = Site::new(Manager::start());
        let package = tiny();
        site.group();
        site.push(&sign(&package, &site.manager.config()));
        let job = site.job();
        AgentLife { site, job, _package: package, lives: 0, enrolment }
    }
}

impl AgentLife {
    fn token(&mut self) -> String {
        self.lives += 1;
        self.site.token(&format!("life-{}", self.lives))
    }

    fn check(&mut self, agent: &mut Agent) -> String {
        let end = self.site.check(&self.job, agent);
        assert_eq!(self.site.starts, 0, "the manager was hurt");
        end
    }

    /// Whether the agent has come to its end, or to say so, on a disk that is full.
    fn has_told(&mut self, agent: &mut Agent) -> bool {
        let name = format!("{}/executions/{}", self.job, agent.id());
        let ended = |shown: v1::GetExecutionResponse| shown.execution.is_some_and(|row| is_end(row.state()));
        !agent.is_running() || agent.log().contains("disk is full") || self.site.execution(&name).is_some_and(ended)
    }
}

impl Life for AgentLife {
    fn run(&mut self, call: &str, fault: &str, nth: u64) -> Hit {
        let token = self.token();
        let mut agent = Agent::new("machine");
        let injector = Injector::new(call, fault, nth, agent.scratch().join("calls"), &[agent.state(), agent.root()]);
        if self.enrolment {
            agent.within(&injector.wrapper());
        }
        enrol(&mut self.site, &mut agent, &token);
        if !self.enrolment {
            agent.within(&injector.wrapper());
        }
        agent.start();
        let end = self.check(&mut agent);
        injector.check();
        Hit { calls: injector.calls(), hit: injector.hurt().is_some(), end }
    }

    fn run_on_a_full_disk(&mut self, kib: u64) -> Option<Hit> {
        let token = self.token();
        let mut agent = Agent::new("machine");
        // Nothing is kept free that the agent could fall back on.
        agent.configure("[limits]\ndisk_reserve = 0\ndisk_reserve_percent = 0\n");
        if !agent.on_a_small_disk(DISK_MIB) {
            return None;
        }
        if self.enrolment {
            agent.disk().fill(kib << 10);
            let done = agent.try_enroll(&token);
            assert!(done.code == 0 || done.stderr.contains("No space left"), "{done:?}");
            agent.disk().make_room();
        }
        enrol(&mut self.site, &mut agent, &token);
        if !self.enrolment {
            agent.disk().fill(kib << 10);
        }
        agent.start();
        if !self.enrolment {
            wait_until("the agent to tell what came of a full disk", PATIENCE, || self.has_told(&mut agent));
            agent.disk().make_room();
        }
        Some(Hit { calls: 0, hit: true, end: self.check(&mut agent) })
    }
}

/// Lives with an agent that nobody hurts, and a manager that is.
pub(crate) struct ManagerLife {
    template: Manager,
    _package: PackageFolder,
    signed: SignedPackage,
}

impl ManagerLife {
    pub(crate) fn new() -> ManagerLife {
        // On a disk of 64 MiB the default would never be there.
        let template = Manager::init(Setup { config: "[limits]\ndisk_reserve = \"2MiB\"\n".into(), ..Setup::default() });
        let package = tiny();
        let signed = sign(&package, &template.config());
        ManagerLife { template, _package: package, signed }
    }
}

impl ManagerLife {
    /// All of a life with a manager that serves, or is started again by the first who asks.
    fn live(&self, mut site: Site, injector: Option<&Injector>) -> (Site, String) {
        let group = site.group();
        site.push(&self.signed);
        let job = site.job();
        let token = site.token("token");
        let mut agent = Agent::new("machine");
        enrol(&mut site, &mut agent, &token);
        agent.start();
        let end = site.check(&job, &mut agent);
        assert_eq!(end, "SUCCEEDED", "whatever happens to the manager, the agent's one attempt goes on");
        if site.starts == 0 {
            // Hurt by one of its last calls it ends by itself, and has to be let.
            injector.into_iter().for_each(Injector::check);
            site.manager.kill();
        }
        // Acknowledged is kept: the same request is the same object, and not another one.
        assert_eq!((site.group().uid, site.job()), (group.uid, job.clone()));
        let shown = site.execution(&format!("{job}/executions/{}", agent.id())).expect("its outcome was acknowledged");
        assert_eq!(shown.execution.map(|row| row.state()), Some(S::Succeeded));
        (site, end)
    }
}

impl Life for ManagerLife {
    fn run(&mut self, call: &str, fault: &str, nth: u64) -> Hit {
        let mut manager = self.template.copy();
        let injector = Injector::new(call, fault, nth, manager.scratch().join("calls"), &[manager.folder()]);
        manager.within(&injector.wrapper());
        let _ = manager.try_serve();
        let (_site, end) = self.live(Site::new(manager), Some(&injector));
        injector.check();
        Hit { calls: injector.calls(), hit: injector.hurt().is_some(), end }
    }

    fn run_on_a_full_disk(&mut self, kib: u64) -> Option<Hit> {
        let mut manager = self.template.copy();
        if !manager.on_a_small_disk(DISK_MIB) {
            return None;
        }
        manager.disk().fill(kib << 10);
        if let Err(why) = manager.try_serve() {
            assert!(why.contains("full"), "a manager that does not start on a full disk says why: {why}");
        }
        let (site, end) = self.live(Site { full: true, ..Site::new(manager) }, None);
        // Whether anybody had to make room.
        Some(Hit { calls: 0, hit: !site.full, end })
    }
}
