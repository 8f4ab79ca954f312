//! Several managers on one database: who was cut off by one is cut off by all, and work is given once.

use super::*;
use sutler_tests::harness::programs;

#[test]
fn a_revocation_on_one_manager_ends_the_open_stream_on_another() {
    let Some(postgres) = Postgres::shared() else { return };
    let (first, second) = two_managers(postgres, "");
    let (cli, there) = (first.cli(), first.cli().at(second.addresses().operators.to_string()));
    let mut agents: Vec<Agent> = ["one", "two"].iter().map(|name| Agent::new(name)).collect();
    for agent in &mut agents {
        agent.enroll(there.ok("token create").trim());
        agent.start();
        wait_until("the machine to be connected", PATIENCE, || is_connected(agent));
        assert!(agent.status()["connected"].to_string().contains(&second.addresses().agents.to_string()), "{}", agent.status());
    }
    let said = |agent: &Agent, word: &str| agent.status().to_string().contains(word);
    let id = agents[0].id();
    cli.ok(&format!("client quarantine {id} --reason test"));
    wait_until("the quarantine to be known at the other manager", REVOKED_WITHIN, || said(&agents[0], "QUARANTINED"));
    cli.ok(&format!("client release {id}"));
    wait_until("the release to be known at the other manager", REVOKED_WITHIN + REVOKED_WITHIN, || said(&agents[0], "ACTIVE"));
    cli.ok(&format!("client remove {id} --yes"));
    wait_until("the removed machine to be cut off", REVOKED_WITHIN, || !is_connected(&agents[0]));
    // Who waits for approval is let in on the stream that it has at the other manager.
    let mut newcomer = Agent::new("three");
    newcomer.enroll(there.ok("token create --uses 2 --ttl 1h --network 10.99.0.0/16").trim());
    newcomer.start();
    wait_until("the newcomer to wait for approval", PATIENCE, || is_connected(&newcomer) && said(&newcomer, "PENDING"));
    cli.ok(&format!("client approve {}", newcomer.id()));
    wait_until("the approval to be known at the other manager", REVOKED_WITHIN, || said(&newcomer, "ACTIVE"));
    // A certificate alone can be revoked, too: its client goes on with another one.
    let id = agents[1].id();
    let replacement = Agent::new("replacement");
    replacement.enroll(cli.ok(&format!("token create --replaces {id}")).trim());
    wait_until("the replaced machine to be cut off", REVOKED_WITHIN, || !is_connected(&agents[1]));
    assert_eq!(state(&there, &id), "CLIENT_STATE_ACTIVE");
}

#[test]
fn a_manager_that_cant_read_who_was_revoked_serves_nothing_and_keeps_its_streams() {
    let Some(postgres) = Postgres::shared() else { return };
    let (line, to_database) = (Proxy::new(), Proxy::new());
    to_database.leads_to(([127, 0, 0, 1], postgres.port()).into());
    let url = postgres.create_database();
    let over_the_line = url.replace(&format!("127.0.0.1:{}", postgres.port()), &to_database.address());
    let setup = |database: String| Setup { database: Some(database), advertise: vec![line.address()], ..Setup::default() };
    let first = Manager::start_with(setup(url));
    let second = Manager::joining(&first, setup(over_the_line));
    line.leads_to(second.addresses().agents);
    let cli = first.cli();
    let package = PackageFolder::counting("large", "1.0");
    package.noise("noise", 16 << 20, 7);
    cli.ok(&format!("package push {}", package.path().display()));
    let agent = Agent::enrolled("machine", &first);
    let client = agent.id();
    wait_until("the machine to be connected", PATIENCE, || is_connected(&agent));
    // So slow that what is on its way is not all of what was asked for when nobody may be answered any more.
    line.now(Line::Slow(Duration::from_millis(50)));
    let job = cli.id(&format!("job run --package large --client {client}"));
    JobView::wait_for_row(&cli, &job, &client, "DOWNLOADING");
    let bytes = || second.metric("sutler_chunks_bytes_total").unwrap_or_default();
    wait_until("the bytes of the package to flow", PATIENCE, || bytes() > f64::from(1 << 20));

    // Quarantined, where the other manager can't read it: it goes on with nothing, and lets nobody go for that.
    to_database.now(Line::Silent);
    cli.ok(&format!("client quarantine {client} --reason test"));
    wait_until("the transfer to be broken off", PATIENCE, || agent.log().contains("transfer put off"));
    assert!(agent.log().contains("who may still read can't be read"), "{}", agent.log());
    line.now(Line::Open);
    assert!(agent.status().to_string().contains("ACTIVE") && is_connected(&agent), "{:#}", agent.status());
    assert!(agent.read("opt/large.runs").is_none());
    to_database.now(Line::Open);
    wait_until("the quarantine to be known", REVOKED_WITHIN + REVOKED_WITHIN, || agent.status().to_string().contains("QUARANTINED"));
    assert!(agent.read("opt/large.runs").is_none());
    assert_eq!(agent.log().lines().filter(|line| line.contains(" connected ")).count(), 1, "{}", agent.log());
    cli.ok(&format!("client release {client}"));
    let row = JobView::wait_for_row(&cli, &job, &client, "SUCCEEDED");
    assert_eq!((row.attempts, agent.read("opt/large.runs").as_deref()), (1, Some("run\n")));

    // What it says of itself after an installation can't be written down there, either, and would end its session.
    let has = format!("client list --filter 'client.id == \"{client}\" && facts.software.exists(s, s.name == \"large\")' --columns id");
    wait_until("its facts to tell of the package", PATIENCE, || cli.json(&has).as_array().is_some_and(|rows| rows.len() == 1));
    // Removed, while every connection to the database breaks: nobody is answered there, and as soon as it can be read, it is.
    to_database.now(Line::Cut);
    cli.ok(&format!("client remove {client} --yes"));
    let there = cli.at(second.addresses().operators.to_string());
    there.fails(1, "client list --retry-for 1s");
    assert!(is_connected(&agent));
    to_database.now(Line::Open);
    wait_until("the removed machine to be cut off", REVOKED_WITHIN + REVOKED_WITHIN, || !is_connected(&agent));
}

#[test]
fn several_managers_make_one_attempt_of_each_execution_and_roll_their_cas_over_together() {
    let Some(postgres) = Postgres::shared() else { return };
    let (mut first, second) = two_managers(postgres, "agent_certificate = \"1h\"");
    let (cli, there) = (first.cli(), first.cli().at(second.addresses().operators.to_string()));
    let mut agents: Vec<Agent> = (0..4).map(|n| Agent::new(&format!("machine-{n}"))).collect();
    let (_package, job) = standing_job(&cli, "machines");
    for (n, agent) in agents.iter_mut().enumerate() {
        let at = if n % 2 == 0 { &cli } else { &there };
        agent.enroll(at.ok("token create --group machines").trim());
        agent.start();
    }
    let all = JobView::wait(&cli, &job, "every machine to be done", PATIENCE, |view| view.counters() == "total=4 finished=4");
    for agent in &agents {
        assert_eq!(all.row(&agent.id()).unwrap().attempts, 1);
        assert_eq!(agent.read("opt/hello.runs").as_deref(), Some("run\n"), "{}", agent.name());
    }
    let view = JobView::of(&there, &job);
    assert_eq!(view.counters(), "total=4 finished=4");

    // What the first manager issues with its new CA is accepted by the other at once.
    let folder = first.folder();
    let new = || fs_err::read_to_string(folder.join("ca/agents.pem")).unwrap();
    let before = new();
    cli.ok(&format!("ca rotate --dir {0} --root-key {0}/ca/root.key", folder.display()));
    assert_ne!(before, new());
    let mut late = Agent::new("late");
    wait_until("a certificate of the new CA", PATIENCE, || {
        let machine = Agent::new("late");
        machine.enroll(cli.ok("token create --group machines").trim());
        let of_the_new = fs_err::read_to_string(machine.state().join("credential.pem")).unwrap().contains(new().trim());
        if of_the_new {
            late = machine;
        }
        of_the_new
    });
    first.kill();
    late.start();
    wait_until("the machine to be taken by the other manager", PATIENCE, || is_connected(&late));
    JobView::wait_for_row(&there, &job, &late.id(), "SUCCEEDED");
    assert!(!late.log().contains("no trusted connection"), "{}", late.log());
}

#[test]
fn a_machine_that_is_half_open_at_one_manager_gets_its_work_from_the_other_and_once() {
    let Some(postgres) = Postgres::shared() else { return };
    let line = Proxy::new();
    let port = Port::new();
    let there = port.address();
    let setup = |agents: String| Setup { agents, advertise: vec![line.address(), there.to_string()], ..Setup::default() };
    // They notice within 45 s that a machine is gone: until then the first one takes it for connected.
    let first = Manager::start_with(Setup { database: Some(postgres.create_database()), ..setup("127.0.0.1:0".into()) });
    line.leads_to(first.addresses().agents);
    let second = Manager::joining(&first, setup(there.to_string()));
    let cli = first.cli();
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    let mut agent = Agent::new("machine");
    agent.configure(
        "[limits]\nkeep_alive = \"1s\"\nkeep_alive_timeout = \"1s\"\nhandshake = \"2s\"\nreconnect = \"100ms\"\nreconnect_most = \"1s\"\n",
    );
    agent.enroll(cli.ok("token create").trim());
    agent.start();
    let at = |agent: &Agent, address: &str| agent.status()["connected"].as_str().is_some_and(|a| a == address);
    wait_until("the machine to be connected over the line", PATIENCE, || at(&agent, &line.address()));
    line.now(Line::Silent);
    wait_until("the machine to be connected to the other manager", PATIENCE, || at(&agent, &there.to_string()));
    // The first manager hears nothing of that, and takes the machine for connected until it has read of the other session.
    let job = cli.id(&format!("job run --package hello --client {}", agent.id()));
    let row = JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
    assert_eq!((row.attempts, agent.read("opt/hello.runs").as_deref()), (1, Some("run\n")));
    wait_until("the first manager to let go of the old session", REVOKED_WITHIN, || first.metric("sutler_sessions") == Some(0.0));
    line.now(Line::Open);
    assert_eq!(state(&cli, &agent.id()), "CLIENT_STATE_ACTIVE");
    assert!(second.log().lines().all(|line| !line.contains("copy")), "{}", second.log());
}

#[test]
fn a_job_starts_at_its_time_also_where_one_of_the_managers_is_ahead() {
    let Some(postgres) = Postgres::shared() else { return };
    if tools::skip_without("faketime") {
        return;
    }
    let line = Proxy::new();
    let setup = || Setup { advertise: vec![line.address()], ..Setup::default() };
    let first = Manager::start_with(Setup { database: Some(postgres.create_database()), ..setup() });
    let mut second = Manager::joining(&first, setup());
    second.stop();
    second.within(&programs::by_clock("+60s"));
    second.serve();
    let here = first.cli();
    let package = PackageFolder::counting("hello", "1.0");
    here.ok(&format!("package push {}", package.path().display()));
    // It is at the one that is ahead.
    line.leads_to(second.addresses().agents);
    let mut agent = Agent::new("machine");
    agent.enroll(here.ok("token create").trim());
    agent.start();
    wait_until("the machine to be connected", PATIENCE, || is_connected(&agent));
    for prefetch in ["", "--prefetch 1h"] {
        let job = here.id(&format!("job run --package hello --replace always --client {} --at 20s {prefetch}", agent.id()));
        let start: jiff::Timestamp =
            here.json(&format!("job show {job}"))["terms"]["schedule"]["startTime"].as_str().unwrap().parse().unwrap();
        let runs = || agent.read("opt/hello.runs").unwrap_or_default().lines().count();
        let before = runs();
        wait_until("it to be installed", PATIENCE, || runs() > before);
        let now = jiff::Timestamp::now();
        assert!(now >= start, "it ran at {now}, and was to start at {start}");
        JobView::wait_for_row(&here, &job, &agent.id(), "SUCCEEDED");
    }
}

#[test]
fn a_cancellation_is_not_final_early_because_the_manager_that_was_asked_for_it_is_behind() {
    let Some(postgres) = Postgres::shared() else { return };
    if tools::skip_without("faketime") {
        return;
    }
    let line = Proxy::new();
    let setup = || Setup { advertise: vec![line.address()], config: table("lease = \"10s\""), ..Setup::default() };
    let first = Manager::start_with(Setup { database: Some(postgres.create_database()), ..setup() });
    let served = Instant::now();
    line.leads_to(first.addresses().agents);
    // A minute behind is more than a lease.
    let mut second = Manager::joining(&first, setup());
    second.stop();
    second.within(&programs::by_clock("-60s"));
    second.serve();
    let here = first.cli();
    let there = here.at(second.addresses().operators.to_string());
    let (slow, next) = (PackageFolder::counting("slow", "1.0"), PackageFolder::counting("next", "1.0"));
    slow.file("bin/install", "#!/bin/sh\nread -r line <../../etc/go\n");
    for package in [&slow, &next] {
        here.ok(&format!("package push {}", package.path().display()));
    }
    let mut agent = Agent::new("machine");
    let pipe = agent.root().join("etc/go");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR, 0).unwrap();
    agent.enroll(here.ok("token create").trim());
    agent.start();
    let id = agent.id();
    let busy = here.id(&format!("job run --package slow --client {id}"));
    JobView::wait_for_row(&here, &busy, &id, "INSTALLING");
    let job = here.id(&format!("job run --package next --client {id}"));
    JobView::wait_for_row(&here, &job, &id, "WAITING");
    // No manager stops counting a lease before it has itself seen a whole one pass.
    wait_until("the first manager to have served for a lease", PATIENCE, || served.elapsed() > Duration::from_secs(16));

    line.now(Line::Cut);
    wait_until("the machine to be without a manager", PATIENCE, || !is_connected(&agent));
    there.ok(&format!("job cancel {job} --yes"));
    let rounds = || first.metric("sutler_rounds_total{worker=\"jobs\"}").unwrap_or_default();
    let before = rounds();
    wait_until("the first manager to look at what is due", PATIENCE, || rounds() > before + 2.0);
    let row = JobView::of(&here, &job).row(&id).cloned().unwrap();
    assert_ne!(row.state, "CANCELED", "the machine still holds its lease");
    JobView::wait_for_row(&here, &job, &id, "CANCELED");
    fs_err::write(&pipe, "go\n").unwrap();
    line.now(Line::Open);
    JobView::wait_for_row(&here, &busy, &id, "SUCCEEDED");
    assert_eq!(agent.read("opt/next.runs"), None, "it was shown as canceled, and ran");
}
