//! `client explain` in every state in which something waits: what it waits for, as a word and in a sentence, the same on the command line
//! and in JSON. Each state is made with the real parts.

use serde_json::Value;
use std::{collections::BTreeSet, os::unix::fs::PermissionsExt, time::Instant};
use sutler_base::{
    state::{Awaited, ExecutionState},
    token::TokenString,
};
use sutler_proto::{
    convert::Word,
    v1::{self, connect_request::Message as Up, connect_response::Message as Down},
};
use sutler_tests::harness::{
    Agent, Api, Cli, JobView, Manager, PATIENCE, PackageFolder, Session, Setup, wait_for, wait_for_value, wait_until,
};
use tokio::runtime::Runtime;

/// How many clients a change needs a second person for, with [`CROWD`] of them.
const CROWD: usize = 12;
/// Two attempts at a time are all that one client gets; what fails twice opens a breaker; a lease is over within seconds.
const LIMITS: &str =
    "[limits]\nopen_attempts = 2\nbreaker_attempts = 1\nlease = \"5s\"\nsecond_person_clients = 12\nsecond_person_rest = \"0s\"\n";

/// Waits for a file beside its own folder.
const WAITS: &str = "#!/bin/sh\nwhile [ ! -e \"$(pwd -P).go\" ]; do sleep 0.1; done\n";

/// A client that waits.
struct Case {
    /// Of which job; of none where a sentence about the client is to be there, whatever the job.
    job: String,
    /// Who.
    client: String,
}

/// What lets go what a case holds.
type Undo = Box<dyn FnOnce(&mut World)>;

/// A manager with machines, and what their cases have left behind.
struct World {
    cli: Cli,
    machines: Vec<Agent>,
    /// One whose agent the test is.
    thin: Agent,
    session: Option<Session>,
    token: TokenString,
    undo: Vec<Undo>,
    packages: u32,
    runtime: Runtime,
    manager: Manager,
}

impl World {
    fn new() -> World {
        let manager = Manager::start_with(Setup { config: LIMITS.into(), ..Setup::default() });
        let cli = manager.cli();
        cli.ok("group create all");
        cli.ok("group create crowd");
        let join = |name: &str| {
            let mut agent = Agent::new(name);
            agent.configure("");
            agent.enroll(cli.ok("token create --group all").trim());
            agent
        };
        let mut machines: Vec<Agent> = ["one", "two", "three"].into_iter().map(join).collect();
        machines.iter_mut().for_each(Agent::start);
        let thin = join("thin");
        for agent in &machines {
            wait_until("the machine and its facts to be known", PATIENCE, || {
                let shown = cli.json(&format!("client show {}", agent.id()));
                shown["online"] == true && shown["facts"].is_object()
            });
        }
        let token = cli.ok("token create --uses 100 --ttl 1h --network 127.0.0.0/8 --group crowd");
        let token = TokenString::parse(token.trim()).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        World { cli, machines, thin, session: None, token, undo: vec![], packages: 0, runtime, manager }
    }

    fn id(&self, n: usize) -> String {
        self.machines[n].id()
    }

    /// A new package with this script as its step, and this more in its `package.toml`.
    fn package(&mut self, script: &str, more: &str) -> String {
        self.packages += 1;
        let name = format!("package-{}", self.packages);
        let package = PackageFolder::with(&name, "1.0", "");
        package.file("bin/install", script);
        package.append(&format!("[[step]]\nname = \"install\"\nargv = [\"bin/install\"]\n{more}"));
        package.noise("noise", 300_000, self.packages.into());
        self.cli.ok(&format!("package push {}", package.path().display()));
        name
    }

    fn good(&mut self) -> String {
        self.package("#!/bin/sh\nexit 0\n", "")
    }

    fn bad(&mut self) -> String {
        self.package("#!/bin/sh\nexit 1\n", "")
    }

    /// Runs a job with these options; it is canceled after the case.
    fn run(&mut self, options: &str) -> String {
        let job = self.cli.id(&format!("job run {options}"));
        let again = job.clone();
        self.after(move |world| drop(world.cli.run(&format!("job cancel {again} --yes"))));
        job
    }

    /// Does this after the case, before what was said earlier.
    fn after(&mut self, undo: impl FnOnce(&mut World) + 'static) {
        self.undo.push(Box::new(undo));
    }

    /// Lets the package's step go on after the case, on this machine.
    fn lets_go(&mut self, n: usize, package: &str) {
        let opt = self.machines[n].root().join("opt");
        let file = opt.join(format!("{package}.go"));
        self.after(move |_| {
            fs_err::create_dir_all(opt).unwrap();
            fs_err::write(file, "").unwrap();
        });
    }

    /// A job of a new package on the first machine, with these options.
    fn one(&mut self, options: &str) -> Case {
        let package = self.good();
        let client = self.id(0);
        Case { job: self.run(&format!("--package {package} --client {client} {options}")), client }
    }

    /// The rules of a machine hold installations until the end of the case.
    fn hold(&mut self, n: usize) {
        let policy = self.machines[n].scratch().join("policy.toml");
        fs_err::write(&policy, "hold = true\n").unwrap();
        self.after(move |_| fs_err::remove_file(policy).unwrap());
    }

    /// The group of all has a window that is closed, until the end of the case.
    fn close_window(&mut self) {
        let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
        let hour = |ahead: i8| format!("{:02}:00", (now.hour() + ahead) % 24);
        self.cli.ok(&format!("window create nights --group all --zone UTC --on daily --from {} --to {}", hour(6), hour(8)));
        self.after(|world| drop(world.cli.ok("window delete nights")));
    }

    /// One of these clients whose row waits at the manager.
    fn queued(&self, job: &str, reason: &str) -> String {
        wait_for("one of them to wait", PATIENCE, || {
            JobView::of(&self.cli, job).rows.into_iter().find(|row| row.state == "QUEUED" && row.reason == reason).map(|row| row.client)
        })
    }

    /// A session with the thin machine's key, until the end of the case; `change` is made to its hello.
    fn connect(&mut self, change: impl FnOnce(&mut v1::Hello)) {
        let session = self.runtime.block_on(Session::open(&self.thin, change)).unwrap();
        self.session = Some(session);
        self.after(|world| world.session = None);
    }

    /// The attempt that the thin machine is offered.
    fn offered(&mut self) -> String {
        let (runtime, session) = (&self.runtime, self.session.as_mut().expect("it is connected"));
        runtime.block_on(async {
            loop {
                if let Down::Offer(offer) = session.next().await.unwrap() {
                    return offer.attempt;
                }
            }
        })
    }

    /// The thin machine has accepted an attempt, and says where it is.
    fn says(&mut self, attempt: &str, state: ExecutionState, wait_reason: &str) {
        let progress =
            v1::AttemptProgress { attempt: attempt.into(), state: state.to_wire(), wait_reason: wait_reason.into(), ..Default::default() };
        let session = self.session.as_ref().expect("it is connected");
        self.runtime.block_on(async {
            session.say(Up::Accepted(v1::AttemptAccepted { attempt: attempt.into() })).await;
            session.say(Up::Progress(progress)).await;
        });
    }

    /// A job of a new package on the thin machine, and the attempt that it was offered.
    fn thin(&mut self) -> (Case, String) {
        self.connect(|_| {});
        let (package, client) = (self.good(), self.thin.id());
        let job = self.run(&format!("--package {package} --client {client}"));
        let attempt = self.offered();
        (Case { job, client }, attempt)
    }
}

/// What is awaited, in which state, and words of the sentence about it.
struct Row {
    awaits: Awaited,
    state: &'static str,
    says: &'static [&'static str],
    make: fn(&mut World) -> Case,
}

const fn row(awaits: Awaited, state: &'static str, says: &'static [&'static str], make: fn(&mut World) -> Case) -> Row {
    Row { awaits, state, says, make }
}

/// Every value of [`Awaited`] stands here, so every reason of a hold or a wait does: see the end of the test.
const TABLE: &[Row] = &[
    row(Awaited::Stage, "QUEUED", &["waits for its stage of the rollout", "stage 1 of 2"], |w| {
        let package = w.package(WAITS, "");
        (0..2).for_each(|n| w.lets_go(n, &package));
        let (one, two) = (w.id(0), w.id(1));
        let job = w.run(&format!("--package {package} --client {one} --client {two} --stage 1"));
        let client = w.queued(&job, "STAGE");
        Case { job, client }
    }),
    row(Awaited::Paused, "QUEUED", &["the job is paused", "failed of 1 clients in stage 1 of 2", "job resume"], |w| {
        let (package, one, two) = (w.bad(), w.id(0), w.id(1));
        let job = w.run(&format!("--package {package} --client {one} --client {two} --stage 1 --max-failures 0"));
        let client = w.queued(&job, "PAUSED");
        Case { job, client }
    }),
    row(Awaited::Paused, "QUEUED", &["the job is paused (operators/", "job resume"], |w| {
        w.close_window();
        let case = w.one("");
        JobView::wait_for_row(&w.cli, &case.job, &case.client, "WAITING");
        w.cli.ok(&format!("job pause {}", case.job));
        JobView::wait_for_row(&w.cli, &case.job, &case.client, "QUEUED");
        case
    }),
    row(Awaited::Stopped, "QUEUED", &["groups/all is stopped", "exams", "sutler resume --group all"], |w| {
        w.cli.ok("stop --group all --reason exams");
        w.after(|w| drop(w.cli.ok("resume --group all")));
        w.one("")
    }),
    row(Awaited::Breaker, "QUEUED", &["the breaker of packages/", "is open since", "breaker close"], |w| {
        let (package, one, two, three) = (w.bad(), w.id(0), w.id(1), w.id(2));
        let job = w.run(&format!("--package {package} --client {one} --client {two} --client {three} --stage 2 --max-failures 1000"));
        let client = w.queued(&job, "BREAKER");
        Case { job, client }
    }),
    row(Awaited::Budget, "QUEUED", &["1 clients an hour, is used up", "the next ones go at 2"], |w| {
        let (package, one, two) = (w.good(), w.id(0), w.id(1));
        let job = w.run(&format!("--package {package} --client {one} --client {two} --budget 1/h --rollout all-at-once"));
        let client = w.queued(&job, "BUDGET");
        Case { job, client }
    }),
    row(Awaited::Retry, "QUEUED", &["retry 1 of 2 comes at 2", "STEP_FAILED"], |w| {
        let (package, client) = (w.bad(), w.id(0));
        let job = w.run(&format!("--package {package} --client {client} --retries 2 --retry-after 1h --retry-on STEP_FAILED"));
        w.queued(&job, "RETRY");
        Case { job, client }
    }),
    row(Awaited::Retry, "WAITING", &["waits for its next try", "--kind waiting"], |w| {
        let package = w.package("#!/bin/sh\n[ -e \"$(pwd -P).go\" ] || exit 75\n", "exit_codes = { 0 = \"success\", 75 = \"retry\" }\n");
        w.lets_go(0, &package);
        let client = w.id(0);
        Case { job: w.run(&format!("--package {package} --client {client}")), client }
    }),
    row(Awaited::User, "QUEUED", &["offered to the user", "has not chosen it"], |w| w.one("--available")),
    row(Awaited::User, "WAITING", &["announced to the user; begins at 20"], |w| w.one("--announce 'Save your work' --countdown 1h")),
    row(Awaited::User, "WAITING", &["the user put it off until 20"], |w| {
        let case = w.one("--announce 'Save your work' --countdown 1h --deferrals 1 --defer-for 1h");
        wait_until("it to be announced", PATIENCE, || w.machines[0].ok("announcements").contains("Save your work"));
        w.machines[0].ok(&format!("defer {}", case.job));
        case
    }),
    row(Awaited::Turn, "WAITING", &["waits for another installation on this machine"], |w| {
        let package = w.package(WAITS, "");
        w.lets_go(0, &package);
        let client = w.id(0);
        let first = w.run(&format!("--package {package} --client {client}"));
        JobView::wait_for_row(&w.cli, &first, &client, "INSTALLING");
        w.one("")
    }),
    row(Awaited::Window, "WAITING", &["waits for the window nights of groups/all, which opens"], |w| {
        w.close_window();
        w.one("")
    }),
    row(Awaited::Window, "WAITING", &["no window of its groups opens before its deadline"], |w| {
        w.close_window();
        w.one("--deadline 1h")
    }),
    row(Awaited::StartTime, "QUEUED", &["scheduled for"], |w| w.one("--at 3h")),
    row(Awaited::StartTime, "WAITING", &["scheduled for"], |w| w.one("--at 3h --prefetch 4h")),
    row(Awaited::LocalHold, "WAITING", &["the machine's own administrator holds installations"], |w| {
        w.hold(0);
        w.one("")
    }),
    row(Awaited::Reboot, "WAITING", &["waits for the next start of the machine"], |w| w.one("--timing at-boot")),
    row(Awaited::Reboot, "WAITING", &["waits until the machine goes down"], |w| w.one("--timing at-shutdown")),
    row(Awaited::Lease, "WAITING", &["the permission to start has run out"], |w| {
        let (case, attempt) = w.thin();
        w.says(&attempt, ExecutionState::Waiting, "LEASE");
        case
    }),
    row(Awaited::TransferSuspended, "WAITING", &["the transfers of a group that the client is in are suspended", "transfer resume"], |w| {
        w.cli.ok("transfer suspend --group all");
        w.after(|w| drop(w.cli.ok("transfer resume --group all")));
        w.one("")
    }),
    row(Awaited::Agent, "QUEUED", &["can't fetch what is installed another time", "update it"], |w| {
        w.connect(|_| {});
        let (package, client) = (w.good(), w.thin.id());
        Case { job: w.run(&format!("--fetch {package} --client {client}")), client }
    }),
    row(Awaited::Agent, "QUEUED", &["knows no maintenance windows", "update it"], |w| {
        w.close_window();
        w.connect(|_| {});
        let (package, client) = (w.good(), w.thin.id());
        Case { job: w.run(&format!("--package {package} --client {client}")), client }
    }),
    row(Awaited::Agent, "QUEUED", &["can't offer anything to the user", "update it"], |w| {
        w.connect(|_| {});
        let (package, client) = (w.good(), w.thin.id());
        Case { job: w.run(&format!("--package {package} --client {client} --available")), client }
    }),
    row(Awaited::PackageUnavailable, "QUEUED", &["was withdrawn", "is out of contact since"], |w| {
        w.machines[0].stop();
        let (package, client) = (w.good(), w.id(0));
        let job = w.run(&format!("--package {package} --client {client}"));
        w.cli.ok(&format!("package withdraw {package}@1.0 --reason broken"));
        w.after(|w| w.machines[0].start());
        Case { job, client }
    }),
    row(Awaited::DataLoss, "WAITING", &["stored bytes that are damaged or missing", "push the package again"], |w| {
        let content = w.manager.folder().join("content");
        let before = walk(&content);
        let (package, client) = (w.good(), w.id(0));
        let after = walk(&content);
        let largest = after.difference(&before).max_by_key(|file| fs_err::metadata(file).unwrap().len()).unwrap();
        fs_err::set_permissions(largest, PermissionsExt::from_mode(0o600)).unwrap();
        let length = fs_err::metadata(largest).unwrap().len() as usize;
        fs_err::write(largest, vec![0; length]).unwrap();
        Case { job: w.run(&format!("--package {package} --client {client}")), client }
    }),
    row(Awaited::ClientApproval, "QUEUED", &["the client waits for approval", "client approve"], |w| {
        let token = w.cli.ok("token create --uses 2 --expect somebody-else --group all");
        let token = TokenString::parse(token.trim()).unwrap();
        let (_, client) = Api::client(&token, "unexpected");
        let package = w.good();
        Case { job: w.run(&format!("--package {package} --client {client}")), client }
    }),
    row(Awaited::ClientRelease, "QUEUED", &["the client is quarantined (it looks odd)", "client release"], |w| {
        let client = w.id(1);
        w.cli.ok(&format!("client quarantine {client} --reason 'it looks odd'"));
        let again = client.clone();
        w.after(move |w| drop(w.cli.ok(&format!("client release {again}"))));
        let package = w.good();
        Case { job: w.run(&format!("--package {package} --client {client}")), client }
    }),
    row(Awaited::Contact, "QUEUED", &["the client is offline since", "at its next contact"], |w| {
        w.machines[0].stop();
        w.after(|w| w.machines[0].start());
        w.one("")
    }),
    row(Awaited::Contact, "INSTALLING", &["step \"install\" was running when contact was lost"], |w| {
        let package = w.package(WAITS, "");
        w.lets_go(2, &package);
        let client = w.id(2);
        let job = w.run(&format!("--package {package} --client {client}"));
        JobView::wait_for_row(&w.cli, &job, &client, "INSTALLING");
        w.machines[2].kill();
        w.after(|w| w.machines[2].start());
        Case { job, client }
    }),
    row(Awaited::Facts, "QUEUED", &["facts.os.family", "facts have not come yet"], |w| {
        w.connect(|_| {});
        let (package, client) = (w.good(), w.thin.id());
        Case { job: w.run(&format!("--package {package} --client {client} --when 'facts.os.family == \"linux\"'")), client }
    }),
    row(Awaited::Room, "QUEUED", &["2 others are under way at the client"], |w| {
        for _ in 0..2 {
            let case = w.one("--timing at-boot");
            JobView::wait_for_row(&w.cli, &case.job, &case.client, "WAITING");
        }
        w.one("")
    }),
    row(Awaited::Settlement, "QUEUED", &["is asked what became of the attempt before"], |w| {
        let (case, attempt) = w.thin();
        w.says(&attempt, ExecutionState::Waiting, "TURN");
        JobView::wait_for_row(&w.cli, &case.job, &case.client, "WAITING");
        w.session = None;
        // It is called back, and can't be told; the lease runs out.
        w.cli.ok(&format!("job update {} --priority 3", case.job));
        JobView::wait_for_row(&w.cli, &case.job, &case.client, "QUEUED");
        let open = v1::OpenAttempt { attempt, state: ExecutionState::Waiting.to_wire(), ..Default::default() };
        w.connect(|hello| hello.open_attempts = vec![open]);
        case
    }),
    row(Awaited::Acceptance, "OFFERED", &["was offered; the agent has not accepted it yet"], |w| w.thin().0),
    row(Awaited::Download, "DOWNLOADING", &["downloads: ", " bytes"], |w| {
        let limit = w.cli.id("transfer limit set 4KiB/s --each-client");
        w.after(move |w| drop(w.cli.ok(&format!("transfer limit clear {limit}"))));
        w.one("")
    }),
    row(Awaited::Step, "INSTALLING", &["step \"install\" runs"], |w| {
        let package = w.package(WAITS, "");
        w.lets_go(0, &package);
        let client = w.id(0);
        Case { job: w.run(&format!("--package {package} --client {client}")), client }
    }),
    // What it depends on comes first.
    row(Awaited::Step, "INSTALLING", &["package 1 of 2, ", " 1.0, which ", " depends on: step \"install\" runs"], |w| {
        let base = w.package(WAITS, "");
        w.lets_go(0, &base);
        let package = w.package("#!/bin/sh\nexit 0\n", &format!("[[depends_on]]\npackage = \"{base}\"\nversions = \"any\"\n"));
        let client = w.id(0);
        Case { job: w.run(&format!("--package {package} --client {client}")), client }
    }),
    row(Awaited::Detection, "VERIFYING", &["the detection rules run"], |w| {
        let (case, attempt) = w.thin();
        w.says(&attempt, ExecutionState::Verifying, "");
        // What it does not know any more when it comes back is over.
        w.after(|w| w.connect(|_| {}));
        case
    }),
    row(Awaited::Restoration, "RESTORING", &["what was there before is being put back"], |w| {
        let package = w.package(
            "#!/bin/sh\nif [ \"$1\" = back ]; then while [ ! -e \"$(pwd -P).go\" ]; do sleep 0.1; done; exit 0; fi\nexit 1\n",
            "[[step]]\nname = \"back\"\nphase = \"onerror\"\nargv = [\"bin/install\", \"back\"]\n",
        );
        w.lets_go(0, &package);
        let client = w.id(0);
        Case { job: w.run(&format!("--package {package} --client {client}")), client }
    }),
    row(Awaited::Cancellation, "WAITING", &["canceled (JOB_CANCELED): awaits the end of its lease at 2"], |w| {
        w.hold(0);
        let case = w.one("");
        JobView::wait_for_row(&w.cli, &case.job, &case.client, "WAITING");
        w.machines[0].kill();
        w.after(|w| w.machines[0].start());
        wait_until("it to be out of contact", PATIENCE, || w.cli.json(&format!("client show {}", case.client))["online"] == false);
        w.cli.ok(&format!("job cancel {} --yes", case.job));
        case
    }),
    // The last one, since from now on two may agree.
    row(Awaited::Approval, "QUEUED", &["until another operator agrees", "12 of 1", "operators/dan ordered it", "job approve"], |w| {
        let crowd: Vec<String> = (0..CROWD).map(|n| Api::client(&w.token, &format!("crowd-{n}")).1).collect();
        let operator = |name: &str, roles: &str| {
            let scratch = w.manager.scratch();
            let cli = Cli::new(&scratch.join(name)).at(w.manager.addresses().operators.to_string());
            let (request, bundle) = (scratch.join(format!("{name}.request")), scratch.join(format!("{name}.bundle")));
            cli.ok(&format!("profile request acme -o {}", request.display()));
            w.cli.ok(&format!("operator create {name} {roles} --request {} -o {}", request.display(), bundle.display()));
            cli.ok(&format!("profile import {}", bundle.display()));
            cli
        };
        let dan = operator("dan", "--role deployer --role approver");
        operator("bea", "--role approver");
        let package = w.good();
        let job = dan.id(&format!("job run --package {package} --group crowd"));
        Case { job, client: crowd[0].clone() }
    }),
];

/// The files below a folder.
fn walk(folder: &std::path::Path) -> BTreeSet<std::path::PathBuf> {
    let mut files = BTreeSet::new();
    for entry in fs_err::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(walk(&path));
        } else {
            files.insert(path);
        }
    }
    files
}

/// Whether `client explain` says of a case what its row does, in JSON and to people; else what it says.
fn check(cli: &Cli, case: &Case, row: &Row) -> Result<(), String> {
    let json = cli.json(&format!("client explain {}", case.client));
    let name = format!("jobs/{}", case.job);
    let jobs = json["jobs"].as_array().cloned().unwrap_or_default();
    let Some(job) = jobs.into_iter().find(|job| job["job"] == name.as_str()) else { return Err(format!("{json:#}")) };
    let sentence = job["sentence"].as_str().unwrap_or_default();
    let says = job["awaits"] == format!("AWAITED_{}", row.awaits)
        && job["state"] == format!("EXECUTION_STATE_{}", row.state)
        && row.says.iter().all(|words| sentence.contains(words));
    if !says {
        return Err(format!("{job:#}"));
    }
    let text = cli.ok(&format!("client explain {}", case.client));
    let lines: Vec<&str> = text.lines().collect();
    let at = lines.iter().position(|line| line.trim_start().starts_with(case.job.as_str())).ok_or_else(|| text.clone())?;
    let heading = format!(": {} ({}), since ", row.state, row.awaits);
    // Unless something went on meanwhile.
    let same = lines[at].contains(&heading) && lines.get(at + 1).is_some_and(|line| line.trim() == sentence);
    if same { Ok(()) } else { Err(text) }
}

#[test]
fn explain_says_of_whatever_waits_what_it_waits_for_and_every_reason_has_its_row() {
    // Of a reason of a hold or a wait that is new, the compiler asks which of these it is.
    let missing: Vec<_> = Awaited::ALL.iter().filter(|awaited| !TABLE.iter().any(|row| row.awaits == **awaited)).collect();
    assert!(missing.is_empty(), "no row of the table makes these states: {missing:?}");
    let mut world = World::new();
    let mut wrong = Vec::new();
    for (n, row) in TABLE.iter().enumerate() {
        let case = (row.make)(&mut world);
        let what = format!("row {n}, {} while {}", row.awaits, row.state);
        // All that is wrong is said at once.
        let begun = Instant::now();
        let seen = wait_for_value(&what, PATIENCE, || check(&world.cli, &case, row), |seen| seen.is_ok() || begun.elapsed() > PATIENCE / 4);
        wrong.extend(seen.err().map(|said| format!("{what}: {said}")));
        while let Some(undo) = world.undo.pop() {
            undo(&mut world);
        }
        // Nothing of it is in the way of the next one.
        if row.awaits != Awaited::Approval {
            let jobs = || world.cli.json(&format!("client explain {}", case.client))["jobs"].clone();
            let is_over = |job: &serde_json::Value| job["awaits"] == "AWAITED_UNSPECIFIED";
            wait_for_value(&format!("the end of {what}"), PATIENCE, jobs, |jobs| jobs.as_array().unwrap().iter().all(is_over));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A package whose step waits for a file, one that counts its runs, and a job of both on the machine of this number, in the first.
fn of_two(world: &mut World, n: usize, options: &str) -> (Case, String, String) {
    let first = world.package(WAITS, "[[step]]\nname = \"after\"\nargv = [\"bin/install\"]\n");
    world.lets_go(n, &first);
    let next = world.package(sutler_tests::harness::COUNTING, "");
    let client = world.id(n);
    let job = world.run(&format!("--package {first} --package {next} --client {client} {options}"));
    JobView::wait_for_row(&world.cli, &job, &client, "INSTALLING");
    (Case { job, client }, first, next)
}

/// Lets a package's step go on now.
fn go(world: &World, n: usize, package: &str) {
    fs_err::write(world.machines[n].root().join(format!("opt/{package}.go")), "").unwrap();
}

#[test]
fn of_a_cancellation_that_is_not_final_it_is_said_everywhere_what_it_waits_for() {
    let mut world = World::new();
    // One is asked, one can't be, and one has begun the first of two packages.
    let (asked, attempt) = world.thin();
    world.says(&attempt, ExecutionState::Waiting, "TURN");
    world.hold(1);
    let (package, client) = (world.good(), world.id(1));
    let away = Case { job: world.run(&format!("--package {package} --client {client}")), client };
    let (begun, first, next) = of_two(&mut world, 0, "");
    for case in [&asked, &away] {
        JobView::wait_for_row(&world.cli, &case.job, &case.client, "WAITING");
    }
    world.machines[1].kill();
    let gone = || world.cli.json(&format!("client show {}", away.client))["online"] == false;
    wait_until("the second to be out of contact", PATIENCE, gone);
    for case in [&asked, &away, &begun] {
        world.cli.ok(&format!("job cancel {} --yes", case.job));
    }
    let expected = [
        (&asked, "ACKNOWLEDGEMENT", "canceled (JOB_CANCELED): awaits the agent's acknowledgement, or the end of its lease at 2", true),
        (&away, "LEASE_END", "canceled (JOB_CANCELED): awaits the end of its lease at 2", true),
        (&begun, "PACKAGE_END", "the package that has begun goes on to its end, and nothing follows it", false),
    ];
    for (case, word, sentence, timed) in expected {
        let says = |json: &Value| json["cancelAwaits"] == format!("CANCEL_AWAITS_{word}") && json["cancelDeadline"].is_string() == timed;
        let row = || JobView::of(&world.cli, &case.job).row(&case.client).unwrap().json.clone();
        let json = wait_for_value(word, PATIENCE, row, |row| says(row) && row["detail"].as_str().unwrap_or_default().contains(sentence));
        assert_eq!(json["cancelReason"], "JOB_CANCELED", "{json:#}");
        let told = world.cli.run(&format!("job status {}", case.job)).ends_with(33).stdout;
        assert!(told.contains(sentence), "{told}");
        let listed = world.cli.json(&format!("job executions {}", case.job));
        assert!(says(&listed[0]), "{listed:#}");
        let explained = world.cli.json(&format!("client explain {}", case.client));
        let verdict = explained["jobs"].as_array().unwrap().iter().find(|job| job["job"] == format!("jobs/{}", case.job)).cloned();
        let verdict = verdict.unwrap_or_else(|| panic!("{explained:#}"));
        assert!(says(&verdict) && verdict["sentence"].as_str().unwrap().contains(sentence), "{verdict:#}");
        assert!(world.cli.ok(&format!("client explain {}", case.client)).contains(sentence));
    }
    // The end of a lease makes it final; so does the end of what had begun.
    for case in [&asked, &away] {
        let row = JobView::wait_for_row(&world.cli, &case.job, &case.client, "CANCELED");
        assert_eq!(row.json["cancelAwaits"], "CANCEL_AWAITS_UNSPECIFIED", "{row:#?}");
    }
    go(&world, 0, &first);
    let row = JobView::wait_for_row(&world.cli, &begun.job, &begun.client, "CANCELED");
    assert_eq!((row.reason.as_str(), world.machines[0].read(&format!("opt/{next}.runs"))), ("JOB_CANCELED", None), "{row:#?}");
    world.machines[1].start();
    while let Some(undo) = world.undo.pop() {
        undo(&mut world);
    }
}

#[test]
fn one_cancel_during_the_first_of_several_packages_is_final_for_those_that_follow() {
    let mut world = World::new();
    let (case, first, next) = of_two(&mut world, 0, "");
    world.cli.ok(&format!("job cancel {} --yes", case.job));
    let row = || JobView::of(&world.cli, &case.job).row(&case.client).unwrap().json.clone();
    let awaits = |row: &Value| row["cancelAwaits"] == "CANCEL_AWAITS_PACKAGE_END";
    wait_for_value("the agent to say that nothing follows", PATIENCE, row, awaits);
    // Its lease goes on, for what has begun has one more step; and that nothing follows is kept through the end of the agent.
    let begun = Instant::now();
    wait_until("more than a lease to pass", PATIENCE, || begun.elapsed().as_secs() > 12);
    assert!(awaits(&row()), "{:#}", row());
    world.machines[0].kill_and_start();
    go(&world, 0, &first);
    let row = JobView::wait_for_row(&world.cli, &case.job, &case.client, "CANCELED");
    let items = row.json["items"].as_array().unwrap();
    assert_eq!((row.reason.as_str(), items.len(), row.attempts), ("JOB_CANCELED", 1, 1), "{row:#?}");
    assert_eq!(items[0]["state"], "EXECUTION_STATE_SUCCEEDED");
    assert!(row.detail.contains("it was called off between two packages"), "{row:#?}");
    assert_eq!(world.machines[0].read(&format!("opt/{next}.runs")), None, "what was called off has run");
    // Of one that is out of contact it holds once the lease is over, whatever its step does.
    let (case, first, next) = of_two(&mut world, 1, "");
    world.machines[1].kill();
    world.cli.ok(&format!("job cancel {} --yes", case.job));
    let row = || JobView::of(&world.cli, &case.job).row(&case.client).unwrap().json.clone();
    let ended = wait_for_value("the lease to be over", PATIENCE, row, awaits);
    assert_eq!(ended["state"], "EXECUTION_STATE_INSTALLING", "{ended:#}");
    go(&world, 1, &first);
    world.machines[1].start();
    let row = JobView::wait_for_row(&world.cli, &case.job, &case.client, "CANCELED");
    assert_eq!((row.reason.as_str(), world.machines[1].read(&format!("opt/{next}.runs"))), ("JOB_CANCELED", None), "{row:#?}");
    while let Some(undo) = world.undo.pop() {
        undo(&mut world);
    }
}

#[test]
fn what_is_paused_between_two_packages_keeps_its_place_in_the_stage() {
    let mut world = World::new();
    let (case, first, next) = of_two(&mut world, 0, "--stage 1 --stage 2");
    let let_go = |world: &World| JobView::of(&world.cli, &case.job).json["rollout"]["letGo"].as_str().map(str::to_owned);
    assert_eq!(let_go(&world).as_deref(), Some("1"));
    // The second one is held, as it would be by a window that is closed.
    world.hold(0);
    go(&world, 0, &first);
    JobView::wait_for_row(&world.cli, &case.job, &case.client, "WAITING");
    world.cli.ok(&format!("job pause {}", case.job));
    let row = JobView::wait_for_row(&world.cli, &case.job, &case.client, "QUEUED");
    assert_eq!((row.reason.as_str(), let_go(&world).as_deref()), ("PAUSED", Some("1")), "{row:#?}");
    world.undo.pop().expect("the hold")(&mut world);
    world.cli.ok(&format!("job resume {}", case.job));
    let row = JobView::wait_for_row(&world.cli, &case.job, &case.client, "SUCCEEDED");
    assert_eq!((row.attempts, world.machines[0].read(&format!("opt/{next}.runs")).as_deref()), (2, Some("run\n")), "{row:#?}");
    while let Some(undo) = world.undo.pop() {
        undo(&mut world);
    }
}
