//! Several managers behind a plain TCP balancer, on a real PostgreSQL, with machines that know the balancer's address alone. No manager is
//! special: whichever is killed, stopped or cut off, the others go on, and when the faults are over everything is as if there had been
//! none.

mod database;
mod faults;
mod leaders;

use sqlx::Connection as _;
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use sutler_agent::limits::Limits;
use sutler_base::state::ClientState;
use sutler_proto::v1;
use sutler_tests::fleet::Machine;
use sutler_tests::harness::{Agent, Api, Balancer, Cli, Manager, PATIENCE, PackageFolder, Setup, wait_for, wait_until};
use tokio::runtime::Runtime;
use tonic::{Code, Status};

/// How long a manager may take to answer a call before it is made again, at another one.
const ANSWER: Duration = Duration::from_secs(10);

/// Silent connections are noticed in seconds here, not in three quarters of a minute.
const CONFIG: &str = "[net]\nkeep_alive = \"1s\"\nkeep_alive_timeout = \"2s\"\n[limits]\nsecond_person_clients = 1000000000\n";
const AGENT: &str = "[limits]\nkeep_alive = \"1s\"\nkeep_alive_timeout = \"2s\"\nhandshake = \"2s\"\nunary_call = \"15s\"\n\
                     reconnect = \"100ms\"\nreconnect_most = \"1s\"\n";

/// The stages of a job that has some, before the rest.
const STAGES: [i64; 2] = [4, 8];

fn limits() -> Limits {
    let ms = Duration::from_millis;
    Limits {
        keep_alive: ms(1000),
        keep_alive_timeout: ms(2000),
        connect: ms(2000),
        handshake: ms(2000),
        unary_call: ms(15_000),
        reconnect: ms(100),
        reconnect_most: ms(1000),
        ..Limits::default()
    }
}

/// Managers, machines, and what stands between them.
struct Bed {
    machines: Vec<Machine>,
    agents: Vec<Agent>,
    managers: Vec<Manager>,
    /// Before the agents' ports.
    balancer: Balancer,
    /// Before the operators' ports.
    front: Balancer,
    runtime: Runtime,
}

impl Bed {
    /// So many managers on this database, of which each knows that machines reach it through the balancer.
    fn new(database: &str, managers: usize) -> Bed {
        let (balancer, front) = (Balancer::new(), Balancer::new());
        let setup = || Setup { advertise: vec![balancer.address()], config: CONFIG.into(), ..Setup::default() };
        let first = Manager::start_with(Setup { database: Some(database.to_owned()), ..setup() });
        let mut all = vec![first];
        for _ in 1..managers {
            let one = Manager::joining(&all[0], setup());
            all.push(one);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let bed = Bed { machines: vec![], agents: vec![], managers: all, balancer, front, runtime };
        bed.all_serve();
        let package = PackageFolder::counting("hello", "1.0");
        bed.cli().ok(&format!("package push {}", package.path().display()));
        bed
    }

    /// Connections go to all of them.
    fn all_serve(&self) {
        self.balancer.leads_to(self.managers.iter().map(|manager| manager.addresses().agents));
        self.front.leads_to(self.managers.iter().map(|manager| manager.addresses().operators));
    }

    /// An operator's, through whichever manager.
    fn cli(&self) -> Cli {
        Cli::new(&self.managers[0].config()).at(self.front.address())
    }

    /// So many machines that are simulated, and so many that are real, all connected.
    fn populate(&mut self, simulated: usize, real: usize) {
        let token = self.cli().ok(&format!("token create --uses {} --ttl 1h --network 127.0.0.0/8", simulated + real));
        for n in 0..simulated {
            let mut machine = Machine::enroll(&format!("machine-{n}"), n as u64 + 1, token.trim(), self.runtime.handle());
            machine.simulated.limits = limits();
            machine.start(ClientState::Active);
            self.machines.push(machine);
        }
        for n in 0..real {
            let mut agent = Agent::new(&format!("real-{n}"));
            agent.configure(AGENT);
            agent.enroll(token.trim());
            agent.start();
            wait_until("the machine to be connected", PATIENCE, || !agent.status()["connected"].is_null());
            self.agents.push(agent);
        }
    }

    /// All machines, as a job names them.
    fn clients(&self) -> Vec<String> {
        let simulated = self.machines.iter().map(|machine| format!("clients/{}", machine.client()));
        simulated.chain(self.agents.iter().map(|agent| format!("clients/{}", agent.id()))).collect()
    }

    /// Waits until these managers have sessions of all machines.
    fn all_are_at(&self, managers: &[usize]) {
        let all = (self.machines.len() + self.agents.len()) as f64;
        let sessions = |n: &usize| self.managers[*n].metric("sutler_sessions").unwrap_or_default();
        wait_until("the machines to be at the managers that are left", PATIENCE, || managers.iter().map(sessions).sum::<f64>() >= all);
    }

    fn orders(&self) -> Orders {
        Orders {
            config: self.managers[0].config(),
            address: self.front.address(),
            clients: self.clients(),
            over: AtomicBool::new(false),
            given: Mutex::default(),
        }
    }

    /// Waits until every job that was acknowledged has come to its end by itself, and looks whether the promises held.
    fn settle(&self, orders: &Orders, database: &str) {
        let given = orders.given();
        assert!(!given.is_empty(), "nobody ordered anything");
        for job in given.keys() {
            wait_until(&format!("{job} to come to its end without anybody's help"), PATIENCE, || orders.is_done(&orders.job(job)));
        }
        let (jobs, clients) = (given.len(), orders.clients.len() as i64);
        let rows = |sql: &str| self.rows(database, sql);

        // Nothing that was acknowledged is lost, and each execution has one outcome.
        let succeeded = rows("SELECT 'jobs/' || job, count(*) FROM execution WHERE state = 'SUCCEEDED' GROUP BY job");
        assert_eq!(succeeded, given.keys().map(|job| (job.clone(), clients)).collect(), "each job, and each of its rows");
        assert_eq!(rows("SELECT state, count(*) FROM execution WHERE state <> 'SUCCEEDED' GROUP BY state"), BTreeMap::new());
        assert_eq!(
            rows("SELECT state, sum(n)::bigint FROM job_counter WHERE state <> 'SUCCEEDED' GROUP BY state HAVING sum(n) <> 0"),
            BTreeMap::new()
        );
        let several =
            "SELECT job || ' ' || client, count(*) FROM attempt WHERE state = 'SUCCEEDED' GROUP BY job, client HAVING count(*) <> 1";
        assert_eq!(rows(several), BTreeMap::new(), "one outcome of each execution");
        // A place in a stage may have been given to another; nothing of such an attempt ran.
        let others = rows("SELECT state, count(*) FROM attempt WHERE state NOT IN ('SUCCEEDED', 'CANCELED') GROUP BY state");
        assert_eq!(others, BTreeMap::new(), "attempts that came to no end");

        // Stages were never larger than they are.
        for (n, size) in STAGES.iter().enumerate() {
            let stage = n + 1;
            for (job, let_go) in rows(&format!("SELECT 'jobs/' || job, count(*) FROM execution WHERE stage = {stage} GROUP BY job")) {
                assert!(!given[&job] || let_go <= *size, "stage {stage} of {job} let {let_go} clients go, and not {size}");
            }
        }

        // No step ran a second time, and none that nobody ordered.
        for machine in &self.machines {
            let runs = machine.simulated.machine.runs();
            assert_eq!(machine.simulated.machine.twice(), [], "{}", machine.client());
            assert_eq!(runs.len(), jobs, "{}: {runs:?}", machine.client());
        }
        for agent in &self.agents {
            assert_eq!(agent.read("opt/hello.runs").unwrap_or_default(), "run\n".repeat(jobs), "{}", agent.name());
        }
        let verified = self.cli().ok("audit verify --retry-for 30s");
        println!("{jobs} jobs on {clients} machines; {verified}");
    }

    /// Texts and numbers, read from the database past the managers.
    fn rows(&self, database: &str, sql: &str) -> BTreeMap<String, i64> {
        self.runtime.block_on(async {
            let mut connection = sqlx::PgConnection::connect(database).await.unwrap();
            let rows: Vec<(String, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(sql.to_owned())).fetch_all(&mut connection).await.unwrap();
            connection.close().await.unwrap();
            rows.into_iter().collect()
        })
    }
}

/// An operator who orders one job after another on all machines, through whichever manager answers.
struct Orders {
    config: PathBuf,
    address: String,
    clients: Vec<String>,
    over: AtomicBool,
    /// The jobs that were acknowledged, and whether they have stages.
    given: Mutex<BTreeMap<String, bool>>,
}

impl Orders {
    /// Orders until it is over. Every third job has stages.
    fn go_on(&self) {
        let mut n = 0;
        while !self.over.load(Ordering::SeqCst) {
            let job = self.order(n % 3 == 1);
            wait_until("the job to be done, or the test to be over", 2 * PATIENCE, || {
                self.over.load(Ordering::SeqCst) || self.is_done(&self.job(&job))
            });
            n += 1;
        }
    }

    fn over(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    fn given(&self) -> BTreeMap<String, bool> {
        self.given.lock().unwrap().clone()
    }

    /// Orders a job, with the same request until it is acknowledged.
    fn order(&self, staged: bool) -> String {
        let stage = |count: &i64| v1::RolloutStage { count: *count as i32, beyond: true, ..Default::default() };
        let rollout = match staged {
            true => v1::Rollout { stages: STAGES.iter().map(stage).collect(), ..Default::default() },
            false => v1::Rollout { all_at_once: true, ..Default::default() },
        };
        let package = v1::JobPackage { package: "packages/hello".into(), replace: v1::Replace::Always.into(), ..Default::default() };
        let request = v1::RunJobRequest {
            packages: vec![package],
            destinations: self.clients.clone(),
            request_id: format!("order-{}", self.given().len()),
            terms: Some(v1::JobTerms { rollout: Some(rollout), ..Default::default() }),
            ..Default::default()
        };
        let answer = self.ask(|connection, origin| {
            let request = request.clone();
            async move { v1::job_service_client::JobServiceClient::with_origin(connection, origin).run_job(request).await }
        });
        let job = answer.job.unwrap().name;
        self.given.lock().unwrap().insert(job.clone(), staged);
        job
    }

    fn job(&self, name: &str) -> v1::Job {
        let request = v1::GetJobRequest { name: name.to_owned() };
        let answer = self.ask(|connection, origin| {
            let request = request.clone();
            async move { v1::job_service_client::JobServiceClient::with_origin(connection, origin).get_job(request).await }
        });
        answer.job.unwrap()
    }

    /// Whether a job is done; that its open stage is no larger than it may be.
    fn is_done(&self, job: &v1::Job) -> bool {
        let counters = job.counters.unwrap_or_default();
        let astray = counters.error + counters.rejected + counters.canceled;
        assert_eq!(astray, 0, "{job:?}");
        assert_eq!(counters.total, self.clients.len() as i64, "a row is missing: {job:?}");
        if let Some(open) = job.rollout.as_ref().filter(|rollout| !rollout.all_at_once) {
            assert_eq!(open.halt, "", "{job:?}");
            if let Some(size) = usize::try_from(open.stage - 1).ok().and_then(|n| STAGES.get(n)) {
                assert!(open.let_go <= *size, "{open:?}");
            }
        }
        counters.finished == counters.total
    }

    /// The answer to a call, which is made again on a new connection until there is one.
    fn ask<T, F: Future<Output = Result<tonic::Response<T>, Status>>>(
        &self,
        call: impl Fn(sutler_agent::link::Connection, http::Uri) -> F,
    ) -> T {
        wait_for("a manager to answer", 2 * PATIENCE, || {
            let api = Api::try_operator_at(&self.config, &self.address).ok()?;
            let in_time = |connection, origin| {
                let answer = call(connection, origin);
                async move {
                    let late = |_| Err(Status::deadline_exceeded("there was no answer"));
                    tokio::time::timeout(ANSWER, answer).await.unwrap_or_else(late)
                }
            };
            match api.call(in_time) {
                Ok(answer) => Some(answer),
                Err(status) if is_passing(&status) => None,
                Err(status) => panic!("{status:?}"),
            }
        })
    }
}

/// Whether this is what one hears of a manager that is gone, or without its database.
fn is_passing(status: &Status) -> bool {
    let broken = status.message().contains("h2 protocol error") || status.message().contains("transport error");
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown) || broken
}
