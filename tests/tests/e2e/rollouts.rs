//! Rollouts over a real manager: what a mistake costs, with hundreds of real agents on simulated machines.

use sutler::config::Config;
use sutler_base::{PackageName, state::ClientState};
use sutler_proto::v1::{self, ExecutionState as S, JobState};
use sutler_tests::fleet::{Database, Machine, Manager, Operator, Packages};
use sutler_tests::harness::{self, Agent, JobView, PATIENCE, PackageFolder, wait_until};
use sutler_tests::postgres::Postgres;
use tokio::runtime::Runtime;
use tonic::Code;

pub(crate) const SOAK_MS: i64 = 15 * 60 * 1000 + 1000;

pub(crate) fn hello() -> PackageName {
    "hello".parse().unwrap()
}

/// A manager with a package and a group, and machines that are in the group.
pub(crate) struct Crew {
    pub(crate) machines: Vec<Machine>,
    pub(crate) operator: Operator,
    pub(crate) manager: Manager,
    pub(crate) runtime: Runtime,
    pub(crate) token: String,
}

impl Crew {
    pub(crate) fn new(database: Database) -> Crew {
        Crew::tuned(database, |_| {})
    }

    /// The same with a manager that is set up otherwise.
    pub(crate) fn tuned(database: Database, tune: impl FnOnce(&mut Config)) -> Crew {
        let manager = Manager::tuned(database, None, tune);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut operator = Operator::new(&manager, runtime.handle());
        let packages = Packages::new(&["hello"]);
        let package = packages.sign(&manager.profile()).remove(0);
        operator.push(&manager, &package).unwrap();
        let group = v1::CreateGroupRequest { group_id: "all".into(), ..Default::default() };
        operator.groups(&manager, |mut g| async move { g.create_group(group).await }).unwrap();
        let request = v1::CreateEnrollmentTokensRequest {
            uses: 1000,
            ttl: Some(prost_types::Duration { seconds: 3 * 86_400, nanos: 0 }),
            networks: vec!["127.0.0.0/8".into()],
            groups: vec!["groups/all".into()],
            ..Default::default()
        };
        let made = operator.tokens(&manager, |mut t| async move { t.create_enrollment_tokens(request).await }).unwrap();
        let token = made.tokens[0].secret.clone();
        Crew { machines: Vec::new(), operator, manager, runtime, token }
    }

    /// The same with so many machines that are connected.
    pub(crate) fn of(database: Database, machines: usize) -> Crew {
        let mut crew = Crew::new(database);
        (0..machines).for_each(|_| crew.join(true));
        crew
    }

    pub(crate) fn join(&mut self, online: bool) {
        let n = self.machines.len();
        let mut machine = Machine::enroll(&format!("machine-{n}"), n as u64 + 1, &self.token, self.runtime.handle());
        if online {
            machine.start(ClientState::Active);
        }
        self.machines.push(machine);
    }

    /// Ends the agents of these machines, and waits until the manager knows.
    pub(crate) fn lose(&mut self, machines: std::ops::Range<usize>) {
        self.machines[machines.clone()].iter_mut().for_each(Machine::kill);
        let live = &self.manager.app().live;
        let gone = || self.machines[machines.clone()].iter().all(|machine| !live.is_connected(machine.client()));
        wait_until("the manager to see that they are gone", PATIENCE, gone);
    }

    /// Every step of the package fails on every machine.
    pub(crate) fn breaks(&self) {
        self.machines.iter().for_each(|machine| machine.simulated.machine.fail(&hello(), 1, None));
    }

    pub(crate) fn run(&mut self, rollout: Option<v1::Rollout>) -> String {
        self.order(v1::RunJobRequest {
            terms: rollout.map(|rollout| v1::JobTerms { rollout: Some(rollout), ..Default::default() }),
            ..Default::default()
        })
    }

    /// Runs a job for the package on the group.
    pub(crate) fn order(&mut self, request: v1::RunJobRequest) -> String {
        let request = v1::RunJobRequest {
            packages: vec![v1::JobPackage { package: "packages/hello".into(), ..Default::default() }],
            destinations: vec!["groups/all".into()],
            ..request
        };
        self.operator.jobs(&self.manager, |mut j| async move { j.run_job(request).await }).unwrap().job.unwrap().name
    }

    /// A job with these terms, which installs it also where it is.
    pub(crate) fn order_on(&mut self, destinations: Vec<String>, terms: v1::JobTerms) -> String {
        let package = v1::JobPackage { package: "packages/hello".into(), replace: v1::Replace::Always.into(), ..Default::default() };
        let request = v1::RunJobRequest { packages: vec![package], destinations, terms: Some(terms), ..Default::default() };
        self.operator.jobs(&self.manager, |mut j| async move { j.run_job(request).await }).unwrap().job.unwrap().name
    }

    pub(crate) fn job(&mut self, name: &str) -> v1::Job {
        let request = v1::GetJobRequest { name: name.into() };
        self.operator.jobs(&self.manager, |mut j| async move { j.get_job(request).await }).unwrap().job.unwrap()
    }

    pub(crate) fn resume(&mut self, name: &str) {
        let request = v1::ResumeJobRequest { name: name.into(), ..Default::default() };
        self.operator.jobs(&self.manager, |mut j| async move { j.resume_job(request).await }).unwrap();
    }

    pub(crate) fn rows(&mut self, name: &str) -> Vec<v1::Execution> {
        let request = v1::ListExecutionsRequest { parent: name.into(), page_size: 1000, ..Default::default() };
        self.operator.jobs(&self.manager, |mut j| async move { j.list_executions(request).await }).unwrap().executions
    }

    pub(crate) fn until(&mut self, what: &str, name: &str, mut holds: impl FnMut(&v1::Job) -> bool) -> v1::Job {
        let mut last = v1::Job::default();
        wait_until(what, 2 * PATIENCE, || {
            last = self.job(name);
            holds(&last)
        });
        last
    }

    /// How many machines ran a step; none of them ran one twice.
    pub(crate) fn hurt(&self) -> usize {
        for machine in &self.machines {
            assert_eq!(machine.simulated.machine.twice(), [], "{}", machine.client());
        }
        self.machines.iter().filter(|machine| !machine.simulated.machine.runs().is_empty()).count()
    }

    /// Waits until so many machines have begun their step: `running` counts those that still fetch, too.
    pub(crate) fn until_begun(&self, machines: usize) {
        wait_until("machines to have begun their step", 2 * PATIENCE, || self.hurt() == machines);
    }

    /// Waits until managers have looked at all rollouts several times.
    pub(crate) fn settle(&mut self, others: &[&Manager]) {
        for manager in std::iter::once(&self.manager).chain(others.iter().copied()) {
            let from = manager.rounds("staged");
            wait_until("managers to have looked", PATIENCE, || manager.rounds("staged") > from + 3);
        }
    }

    pub(crate) fn explained(&mut self, client: String) -> String {
        let request = v1::ExplainClientRequest { name: client };
        let answer = self.operator.clients(&self.manager, |mut c| async move { c.explain_client(request).await }).unwrap();
        answer.jobs[0].sentence.clone()
    }
}

pub(crate) fn counters(job: &v1::Job) -> v1::Counters {
    job.counters.unwrap_or_default()
}

pub(crate) fn status(job: &v1::Job) -> v1::RolloutStatus {
    job.rollout.clone().unwrap_or_default()
}

#[test]
fn a_bad_package_sent_to_two_hundred_clients_stops_by_itself_at_the_first_twenty_and_says_why() {
    let mut crew = Crew::of(Database::Sqlite, 200);
    crew.breaks();
    let job = crew.run(None);
    let halted =
        crew.until("the job to be halted", &job, |job| job.state() == JobState::Paused && counters(job).running == 0 && job.canceling == 0);
    crew.settle(&[]);
    let hurt = crew.hurt();
    assert!((3..=20).contains(&hurt), "{hurt} were hurt");
    let (c, at) = (counters(&crew.job(&job)), status(&halted));
    assert_eq!((c.total, c.error as usize), (200, hurt), "{c:?}");
    assert_eq!(at.halt_by, "gate");
    assert!(at.halt.contains("of 20 clients in stage 1 of 5") && at.halt.contains("exit code 1"), "{}", at.halt);
    // Whoever asks why a machine gets nothing is told.
    let rows = crew.rows(&job);
    let waiting = rows.iter().find(|row| row.state() == S::Queued).unwrap();
    assert_eq!(waiting.reason, "PAUSED");
    let why = crew.explained(waiting.client.clone());
    assert!(why.contains("paused") && why.contains("stage 1 of 5"), "{why}");
    // It stays so, whatever time passes and whoever comes.
    crew.manager.step_clock(6 * 3600 * 1000);
    crew.join(true);
    crew.settle(&[]);
    assert_eq!((crew.hurt(), crew.job(&job).state()), (hurt, JobState::Paused));

    // The machines are mended and the job goes on: failures count anew, and there are stages still to come.
    crew.machines.iter().for_each(|machine| machine.simulated.machine.mend(&hello()));
    crew.resume(&job);
    let canary = crew.until("the canary to soak", &job, |job| status(job).stage == 2 && status(job).soak_end_time.is_some());
    assert_eq!((status(&canary).let_go, status(&canary).failed, crew.hurt()), (5, 0, 25), "{canary:?}");
    assert_eq!(status(&canary).halt, "");
    let rows = crew.rows(&job);
    let waiting = rows.iter().find(|row| row.state() == S::Queued).unwrap();
    assert_eq!(waiting.reason, "STAGE");
    let why = crew.explained(waiting.client.clone());
    assert!(why.contains("waits for its stage") && why.contains("stage 2 of 5") && why.contains("soaks until"), "{why}");
    crew.manager.step_clock(SOAK_MS);
    // 10 % of 201 have been let go by then.
    crew.until("half of them to soak", &job, |job| status(job).stage == 4 && status(job).soak_end_time.is_some());
    assert_eq!(crew.hurt(), 101);
    crew.manager.step_clock(SOAK_MS);
    let done = crew.until("all to have it", &job, |job| counters(job).waiting + counters(job).running == 0);
    assert_eq!((counters(&done).finished + counters(&done).error, crew.hurt()), (201, 201));
    assert_eq!(status(&done).stage, 5);
    // Who comes now starts at once.
    crew.join(true);
    crew.until("a late joiner to have it", &job, |job| counters(job).total == 202 && counters(job).waiting + counters(job).running == 0);
}

#[test]
fn a_bad_package_on_a_group_that_fills_one_client_at_a_time_stops_as_early() {
    let mut crew = Crew::new(Database::Sqlite);
    let job = crew.run(None);
    for n in 1..=40 {
        crew.join(false);
        crew.breaks();
        crew.machines[n - 1].start(ClientState::Active);
        if n <= 3 {
            crew.until("it to fail", &job, |job| counters(job).error == n as i64);
        }
    }
    let halted = crew.until("the job to be halted", &job, |job| job.state() == JobState::Paused && counters(job).total == 40);
    crew.settle(&[]);
    assert!(crew.hurt() <= 25, "{} were hurt: {halted:?}", crew.hurt());
    assert!(status(&halted).halt.contains("failed of 20 clients in stage 1 of 5"), "{halted:?}");
}

#[test]
fn who_is_offline_holds_up_nobody_and_is_let_go_when_it_comes() {
    let mut crew = Crew::new(Database::Sqlite);
    for n in 0..60 {
        crew.join(n % 10 >= 3);
    }
    let job = crew.run(None);
    let canary = crew.until("the canary to soak", &job, |job| status(job).stage == 2 && status(job).soak_end_time.is_some());
    // Their places were taken by the next.
    assert_eq!((counters(&canary).finished, crew.hurt()), (25, 25));
    crew.manager.step_clock(SOAK_MS);
    // Half of 60 are 30.
    crew.until("half of them to soak", &job, |job| status(job).stage == 4 && status(job).soak_end_time.is_some());
    assert_eq!(crew.hurt(), 30);
    crew.manager.step_clock(SOAK_MS);
    crew.until("all that are there to have it", &job, |job| counters(job).finished == 42);
    for n in (0..60).filter(|n| n % 10 < 3) {
        crew.machines[n].start(ClientState::Active);
    }
    let done = crew.until("all to have it", &job, |job| counters(job).finished == 60);
    assert_eq!(done.state(), JobState::Active);
}

#[test]
fn who_goes_before_it_accepted_gives_its_place_to_the_next() {
    let mut crew = Crew::of(Database::Sqlite, 4);
    // All of them are offline when the first two would be let go: nobody is.
    crew.lose(0..4);
    let two = v1::Rollout { stages: vec![v1::RolloutStage { count: 2, ..Default::default() }], ..Default::default() };
    let job = crew.run(Some(two));
    crew.settle(&[]);
    assert_eq!(status(&crew.job(&job)).let_go, 0);
    for machine in &crew.machines {
        machine.simulated.machine.hold_steps(true);
    }
    crew.machines[0].start(ClientState::Active);
    crew.until("the one that is there to begin", &job, |job| counters(job).running == 1);
    crew.until_begun(1);
    crew.machines[1].start(ClientState::Active);
    crew.until("the second to begin", &job, |job| counters(job).running == 2);
    crew.until_begun(2);
    // The stage is full: who comes now waits.
    crew.machines[2].start(ClientState::Active);
    crew.settle(&[]);
    assert_eq!((crew.hurt(), status(&crew.job(&job)).let_go), (2, 2));
    for machine in &crew.machines {
        machine.simulated.machine.hold_steps(false);
    }
    crew.until("the three to have it", &job, |job| counters(job).finished == 3);
}

#[test]
fn silence_halts_a_rollout_as_failures_do() {
    let mut crew = Crew::of(Database::Sqlite, 30);
    for machine in &crew.machines {
        machine.simulated.machine.hold_steps(true);
    }
    let job = crew.run(None);
    crew.until("twenty to begin", &job, |job| counters(job).running == 20);
    crew.until_begun(20);
    // Three of them die without a word, and the others do well.
    let begun: Vec<usize> = (0..30).filter(|n| !crew.machines[*n].simulated.machine.runs().is_empty()).collect();
    assert_eq!(begun.len(), 20);
    for n in &begun[..3] {
        crew.machines[*n].kill();
    }
    for n in &begun[3..] {
        crew.machines[*n].simulated.machine.hold_steps(false);
    }
    crew.until("the others to have it", &job, |job| counters(job).finished == 17);
    crew.manager.step_clock(50 * 60 * 1000);
    crew.settle(&[]);
    assert_eq!(crew.job(&job).state(), JobState::Active);
    crew.manager.step_clock(11 * 60 * 1000);
    let halted = crew.until("silence to be noticed", &job, |job| job.state() == JobState::Paused);
    assert!(status(&halted).halt.starts_with("3 fell silent of 20 clients in stage 1 of 5"), "{halted:?}");
    assert_eq!(crew.hurt(), 20);
}

#[test]
fn a_clock_that_is_set_ahead_makes_nobody_silent_and_time_that_passes_does() {
    let mut crew = Crew::of(Database::Sqlite, 24);
    for machine in &crew.machines {
        machine.simulated.machine.hold_steps(true);
    }
    let job = crew.run(None);
    crew.until("twenty to begin", &job, |job| counters(job).running == 20);
    crew.until_begun(20);
    crew.settle(&[]);
    // By three times the silence that the gate tolerates.
    crew.manager.set_clock(3 * 3600 * 1000);
    crew.settle(&[]);
    let at = crew.job(&job);
    assert_eq!((at.state(), status(&at).silent), (JobState::Active, 0), "{at:?}");
    crew.manager.step_clock(59 * 60 * 1000);
    crew.settle(&[]);
    assert_eq!(crew.job(&job).state(), JobState::Active);
    crew.manager.step_clock(2 * 60 * 1000);
    let halted = crew.until("silence to be noticed", &job, |job| job.state() == JobState::Paused);
    assert!(status(&halted).halt.starts_with("20 fell silent of 20 clients in stage 1 of 5"), "{halted:?}");
}

#[test]
fn a_manager_that_is_killed_in_the_middle_of_a_stage_goes_on_where_it_was() {
    let mut crew = Crew::of(Database::Sqlite, 40);
    for machine in &crew.machines {
        machine.simulated.machine.hold_steps(true);
    }
    let job = crew.run(None);
    crew.until("twenty to begin", &job, |job| counters(job).running == 20);
    crew.until_begun(20);
    for _ in 0..3 {
        crew.operator.hang_up();
        crew.manager.crash();
        // Nobody could be heard meanwhile: that is no silence.
        crew.manager.step_clock(70 * 60 * 1000);
        crew.manager.start_again();
        crew.machines.iter().for_each(Machine::connected);
        crew.settle(&[]);
        let job = crew.job(&job);
        assert_eq!((crew.hurt(), status(&job).let_go, job.state()), (20, 20, JobState::Active));
    }
    for machine in &crew.machines {
        machine.simulated.machine.hold_steps(false);
    }
    crew.until("the canary to soak", &job, |job| status(job).stage == 2 && status(job).soak_end_time.is_some());
    crew.operator.hang_up();
    crew.manager.crash();
    crew.manager.step_clock(SOAK_MS);
    crew.manager.start_again();
    crew.until("all to have it", &job, |job| {
        let soaks = status(job).soak_end_time.is_some();
        assert!(!soaks || counters(job).finished <= 25, "{job:?}");
        counters(job).finished == 40
    });
    assert_eq!(crew.hurt(), 40);
}

#[test]
fn two_managers_have_one_opinion_of_a_rollout() {
    let Some(postgres) = Postgres::shared() else { return };
    let mut crew = Crew::of(Database::Postgres(postgres), 60);
    let second = crew.manager.second();
    let job = crew.run(None);
    let mut most = 0;
    crew.until("the canary to soak", &job, |job| {
        let at = status(job);
        most = most.max(if at.stage == 1 { at.let_go } else { 20 + at.let_go });
        at.stage == 2 && at.soak_end_time.is_some()
    });
    crew.settle(&[&second]);
    assert_eq!((crew.hurt(), most), (25, 25));
    crew.manager.step_clock(SOAK_MS);
    crew.until("half of them to soak", &job, |job| status(job).stage == 4 && status(job).soak_end_time.is_some());
    crew.settle(&[&second]);
    assert_eq!(crew.hurt(), 30);
    crew.breaks();
    crew.manager.step_clock(SOAK_MS);
    let halted = crew.until("the rest to be halted", &job, |job| job.state() == JobState::Paused && counters(job).running == 0);
    crew.settle(&[&second]);
    assert!(status(&halted).halt.contains("of the newest 50"), "{halted:?}");
    let request = v1::ListAuditEntriesRequest { page_size: 1000, ..Default::default() };
    let log = crew.operator.audit(&crew.manager, |mut a| async move { a.list_audit_entries(request).await }).unwrap();
    assert_eq!(log.entries.iter().filter(|entry| entry.action == "halt_job").count(), 1, "it was halted once");
}

#[test]
fn members_of_a_group_go_first() {
    let mut crew = Crew::of(Database::Sqlite, 10);
    let group = v1::CreateGroupRequest { group_id: "pilots".into(), ..Default::default() };
    crew.operator.groups(&crew.manager, |mut g| async move { g.create_group(group).await }).unwrap();
    let pilots: Vec<String> = crew.machines[..3].iter().map(|m| format!("clients/{}", m.client())).collect();
    let add = v1::AddMembersRequest { name: "groups/pilots".into(), clients: pilots, ..Default::default() };
    crew.operator.groups(&crew.manager, |mut g| async move { g.add_members(add).await }).unwrap();
    let soak = Some(prost_types::Duration { seconds: 3600, nanos: 0 });
    let stage = v1::RolloutStage { groups: vec!["groups/pilots".into()], soak, ..Default::default() };
    let job = crew.run(Some(v1::Rollout { stages: vec![stage], ..Default::default() }));
    crew.until("the pilots to soak", &job, |job| status(job).soak_end_time.is_some());
    crew.settle(&[]);
    assert_eq!(crew.hurt(), 3);
    assert!(crew.machines[..3].iter().all(|m| !m.simulated.machine.runs().is_empty()));
    crew.manager.step_clock(3600 * 1000);
    crew.until("all to have it", &job, |job| counters(job).finished == 10);
}

#[test]
fn an_operator_pauses_resumes_promotes_and_aborts() {
    let mut crew = Crew::of(Database::Sqlite, 6);
    for machine in &crew.machines {
        machine.simulated.machine.hold_steps(true);
    }
    let one = v1::RolloutStage { count: 1, ..Default::default() };
    let job = crew.run(Some(v1::Rollout { stages: vec![one, v1::RolloutStage { count: 3, ..Default::default() }], ..Default::default() }));
    crew.until("the first to begin", &job, |job| counters(job).running == 1);
    crew.until_begun(1);
    let promote = |all| v1::PromoteJobRequest { name: job.clone(), all, ..Default::default() };
    let next = promote(false);
    crew.operator.jobs(&crew.manager, |mut j| async move { j.promote_job(next).await }).unwrap();
    crew.until("three to have begun", &job, |job| counters(job).running == 3);
    crew.until_begun(3);
    let pause = v1::PauseJobRequest { name: job.clone(), ..Default::default() };
    let paused = crew.operator.jobs(&crew.manager, |mut j| async move { j.pause_job(pause).await }).unwrap().job.unwrap();
    assert_eq!((paused.state(), status(&paused).halt.as_str()), (JobState::Paused, "operators/anna paused it"));
    let all = promote(true);
    let refused = crew.operator.jobs(&crew.manager, |mut j| async move { j.promote_job(all).await }).unwrap_err();
    assert_eq!(refused.code, Code::FailedPrecondition);
    // What has begun goes to its end, and nothing else begins.
    for machine in &crew.machines {
        machine.simulated.machine.hold_steps(false);
    }
    crew.until("what had begun to end", &job, |job| counters(job).finished == 3 && counters(job).running == 0);
    crew.settle(&[]);
    assert_eq!(crew.hurt(), 3);
    for machine in &crew.machines {
        machine.simulated.machine.hold_steps(true);
    }
    crew.resume(&job);
    crew.until("the rest to begin", &job, |job| status(job).stage == 3 && counters(job).running == 3);
    crew.until_begun(6);
    let all = promote(true);
    let refused = crew.operator.jobs(&crew.manager, |mut j| async move { j.promote_job(all).await }).unwrap_err();
    assert_eq!(refused.code, Code::FailedPrecondition);
    let abort = v1::AbortJobRequest { name: job.clone(), ..Default::default() };
    crew.operator.jobs(&crew.manager, |mut j| async move { j.abort_job(abort).await }).unwrap();
    crew.join(true);
    for machine in &crew.machines {
        machine.simulated.machine.hold_steps(false);
    }
    let over = crew.until("what had begun to end", &job, |job| counters(job).finished == 6);
    assert_eq!((over.state(), counters(&over).total), (JobState::Canceled, 6));
}

#[test]
fn all_at_once_is_said_to_everybody_and_kept_in_the_audit_log() {
    let manager = harness::Manager::start();
    let cli = manager.cli();
    for name in ["hello", "other"] {
        let package = PackageFolder::counting(name, "1.0");
        cli.ok(&format!("package push {}", package.path().display()));
    }
    cli.ok("group create all");
    let job = cli.id("job run --package hello --group all --rollout all-at-once");
    assert!(cli.ok(&format!("job show {job}")).contains("all at once: no stages, and nothing stops it"));
    cli.fails(34, &format!("job status {job}"));
    assert!(cli.ok("job list").contains("ALL AT ONCE"));
    assert!(cli.ok("audit list").contains("all at once: no stages"));
    cli.fails(1, &format!("job promote {job}")).says(&["no further stage"]);
    // It can be paused all the same.
    assert!(cli.ok(&format!("job pause {job}")).contains("paused"));
    let mut agent = Agent::new("one");
    agent.enroll(cli.ok("token create --group all").trim());
    agent.start();
    wait_until("the machine to be connected", PATIENCE, || agent.status()["connected"].is_string());
    // What is ordered after it is installed: by then it would have been offered, too.
    let other = cli.id(&format!("job run --package other --client {}", agent.id()));
    JobView::wait_for_row(&cli, &other, &agent.id(), "SUCCEEDED");
    let row = JobView::of(&cli, &job).row(&agent.id()).cloned().unwrap();
    assert_eq!((row.state.as_str(), row.json["reason"].as_str()), ("QUEUED", Some("PAUSED")));
    assert!(cli.ok(&format!("client explain {}", agent.id())).contains("nothing starts until `job resume`"));
    cli.fails(31, &format!("job status {job} --wait")).says(&[]);
    cli.ok(&format!("job resume {job}"));
    JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
    cli.ok(&format!("job abort {job} --yes"));
    assert_eq!(JobView::of(&cli, &job).state, "CANCELED");

    // Stages as they are given are shown as they are given.
    let staged =
        cli.id("job create --package hello --group all --stage 3 --stage +5,1%:15m --stage group=all:1d --max-failures 2 --silence 2h");
    let shown = cli.ok(&format!("job show {staged}"));
    assert!(shown.contains("stages: 3 +5,1%:15m group=all:1d, then the rest"), "{shown}");
    assert!(shown.contains("halts at more than 2 failures in a stage; who is silent for 2h is one"), "{shown}");
    cli.fails(2, "job create --package hello --group all --stage 5,");
    cli.fails(1, "job create --package hello --group all --stage 5 --rollout all-at-once").says(&["one of both"]);
    cli.fails(1, "job create --package hello --group all --stage group=nobody").says(&["nobody"]);
}
