//! What is kept when the manager's disk is full or damaged, when its database goes away, and when all of it is put back to an
//! older state.

use fs_err as fs;
use std::path::{Path, PathBuf};
use sutler_proto::v1;
use sutler_tests::{
    api_call,
    harness::{Agent, Api, JobView, Line, Manager, PATIENCE, PackageFolder, Proxy, Setup, wait_until},
    postgres::Postgres,
};
use tonic_types::StatusExt as _;

fn push(cli: &sutler_tests::harness::Cli, package: &PackageFolder) -> String {
    cli.ok(&format!("package push {}", package.path().display()))
}

fn objects(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { objects(&path, found) } else { found.push(path) }
    }
}

/// Changes a byte in the middle of one large chunk that is stored.
fn damage_a_chunk(manager: &Manager) {
    let mut all = Vec::new();
    objects(&manager.folder().join("content/objects"), &mut all);
    let largest = all.into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(&largest, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(&largest, bytes).unwrap();
}

#[test]
fn a_damaged_chunk_is_found_by_the_scrub_and_whoever_waits_for_it_goes_on_when_it_is_pushed_again() {
    let mut manager = Manager::start_with(Setup { config: "[limits]\nscrub_rate = \"1GiB\"".into(), ..Setup::default() });
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    package.noise("noise", 2 << 20, 3);
    push(&cli, &package);
    cli.ok("content scrub --wait");
    damage_a_chunk(&manager);
    let found = cli.run("content scrub --wait -o json").ends_with(1);
    let found: serde_json::Value = serde_json::from_str(&found.stdout).unwrap();
    assert_eq!(found["damagedObjects"].as_array().map(Vec::len), Some(1), "{found:#}");
    assert_eq!(found["damagedVersions"][0], "packages/hello/versions/1.0", "{found:#}");
    // It is still known after a restart, without another scrub.
    manager.kill_and_serve();
    wait_until("what was found to be known again", PATIENCE, || cli.json("package show hello@1.0")["damagedObjects"] == 1);
    let agent = Agent::enrolled("one", &manager);
    for group in ["machines", "others"] {
        cli.ok(&format!("group create {group}"));
    }
    cli.ok(&format!("group add machines {}", agent.id()));
    let job = cli.id("job run --package hello --group machines");
    let waits = JobView::wait(&cli, &job, "the row to say what it waits for", PATIENCE, |view| {
        view.row(&agent.id()).is_some_and(|row| row.reason == "DATA_LOSS")
    });
    assert_eq!(waits.row(&agent.id()).unwrap().state, "WAITING");
    assert!(!agent.root().join("opt/hello").exists());
    // So does the job, with what to do; that no client can begin it would not be true.
    assert_eq!(waits.json["damagedVersions"], serde_json::json!(["packages/hello/versions/1.0"]), "{:#}", waits.json);
    assert!(waits.json["unavailable"].as_str().unwrap_or_default().is_empty(), "{:#}", waits.json);
    let other = PackageFolder::counting("other", "1.0");
    push(&cli, &other);
    let whole = cli.id("job run --package other --group others");
    assert_eq!(cli.json(&format!("job show {whole}"))["damagedVersions"], serde_json::json!([]), "nothing of it is damaged");
    assert_eq!(cli.json(&format!("job show {job}"))["damagedVersions"][0], "packages/hello/versions/1.0");
    let told = cli.run(&format!("job status {job}")).ends_with(31).stdout;
    assert!(told.contains("damaged or missing; push again: hello@1.0"), "{told}");
    assert!(manager.metric("sutler_damaged_objects").is_some_and(|n| n == 1.0));

    // Pushed again: the one chunk is sent, and nobody has to touch the job.
    let said = push(&cli, &package);
    assert!(said.contains("1 of "), "{said}");
    let row = JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
    assert_eq!(row.attempts, 1);
    assert_eq!(agent.read("opt/hello.runs").as_deref(), Some("run\n"));
    cli.ok("content status");
    assert_eq!(cli.json("package show hello@1.0")["damagedObjects"], 0);
    // A job that still stands says nothing of it any more.
    let told = cli.ok(&format!("job status {job}"));
    assert!(!told.contains("damaged"), "{told}");
}

#[test]
fn a_chunk_that_is_gone_is_found_by_the_scrub_and_sent_again() {
    let manager = Manager::start_with(Setup { config: "[limits]\nscrub_rate = \"1GiB\"".into(), ..Setup::default() });
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    package.noise("noise", 1 << 20, 3);
    push(&cli, &package);
    let mut all = Vec::new();
    objects(&manager.folder().join("content/objects"), &mut all);
    fs::remove_file(all.iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()).unwrap();
    assert_eq!(cli.run("content scrub --wait").ends_with(1).stdout.matches("hello@1.0").count(), 1);
    push(&cli, &package);
    cli.ok("content scrub --wait");
}

#[test]
fn a_full_disk_refuses_what_is_new_and_goes_on_with_revocations_and_renewals_until_there_is_room_again() {
    let mut manager = Manager::init(Setup { config: "[limits]\ndisk_reserve = \"8MiB\"".into(), ..Setup::default() });
    if !manager.on_a_small_disk(64) {
        return;
    }
    manager.serve();
    let cli = manager.cli();
    let agents = [Agent::enrolled("one", &manager), Agent::enrolled("two", &manager)];
    cli.ok("group create before");
    let package = PackageFolder::counting("hello", "1.0");
    push(&cli, &package);

    // Somebody fills the disk, to the last byte.
    manager.disk().fill(0);
    wait_until("the disk to count as full", PATIENCE, || cli.run("group create while-full").stderr.contains("disk is full"));
    let api = Api::operator(&manager);
    let group = v1::CreateGroupRequest { group_id: "more".into(), ..Default::default() };
    let refused = api_call!(api, group_service_client::GroupServiceClient, create_group(group)).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused:?}");
    assert_eq!(refused.get_details_error_info().map(|info| info.reason).as_deref(), Some("DISK_FULL"), "{refused:?}");
    let other = PackageFolder::counting("other", "1.0");
    cli.fails(1, &format!("package push {}", other.path().display())).says(&["full"]);

    // Reads, renewals and revocations go on, and stand in the log.
    assert!(cli.ok("client list").contains(&agents[0].id()));
    let key = sutler_certs::PrivateKey::generate().unwrap();
    let renewal = v1::RenewOperatorCertificateRequest { csr: key.csr().unwrap().into() };
    api_call!(api, operator_service_client::OperatorServiceClient, renew_operator_certificate(renewal)).unwrap();
    let id = agents[0].id();
    cli.ok(&format!("client quarantine {id} --reason disk"));
    wait_until("the agent to hear of it", PATIENCE, || cli.json(&format!("client show {id}"))["state"] == "CLIENT_STATE_QUARANTINED");
    cli.ok(&format!("client remove {} --yes", agents[1].id()));
    let log = cli.ok("audit list --limit 0");
    for word in ["renew_certificate", "quarantine", "remove"] {
        assert!(log.contains(word), "{word}: {log}");
    }
    cli.ok("audit verify");

    // There is room again: everything goes on, and nobody started anything anew.
    manager.disk().make_room();
    wait_until("everything to be written again", PATIENCE, || cli.run("group create after").code == 0);
    push(&cli, &other);
    cli.ok(&format!("client release {id}"));
    let job = cli.id(&format!("job run --package hello --client {id}"));
    JobView::wait_for_row(&cli, &job, &id, "SUCCEEDED");
}

/// Counts its run, then waits for whoever opens a pipe of the machine.
const WAITS: &str = "#!/bin/sh\necho run >>\"$(pwd -P).runs\"\nread -r line <../../etc/go\necho \"$line\" >>\"$(pwd -P).runs\"\n";

#[test]
fn a_restored_manager_is_brought_up_to_date_by_its_agents_and_nothing_runs_twice() {
    restored_is_brought_up_to_date(None);
}

#[test]
fn a_manager_restored_with_a_dump_of_postgresql_is_brought_up_to_date_by_its_agents_and_nothing_runs_twice() {
    if let Some(postgres) = Postgres::shared() {
        restored_is_brought_up_to_date(Some(postgres));
    }
}

/// Backs up a manager, with its database dumped before that where it is no file in its folder, and restores it after more has
/// happened.
fn restored_is_brought_up_to_date(postgres: Option<&Postgres>) {
    let database = postgres.map(|server| (server, server.create_database()));
    let mut manager = Manager::start_with(Setup { database: database.as_ref().map(|(_, url)| url.clone()), ..Setup::default() });
    let cli = manager.cli();
    let (done, slow) = (PackageFolder::counting("done", "1.0"), PackageFolder::counting("slow", "1.0"));
    slow.file("bin/install", WAITS);
    push(&cli, &done);
    push(&cli, &slow);
    cli.ok("group create machines");
    let mut agents = [Agent::enrolled("finishes", &manager), Agent::enrolled("works", &manager)];
    agents.iter_mut().for_each(Agent::stop);
    cli.ok(&format!("group add machines {}", agents[0].id()));
    let ids = [agents[0].id(), agents[1].id()];
    // Both jobs stand and nobody has begun.
    let first = cli.id("job run --package done --group machines");
    let second = cli.id(&format!("job run --package slow --client {} --priority 9", ids[1]));
    let (backup, dump) = (manager.scratch().join("backup"), manager.scratch().join("dump"));
    let dumped = sutler_base::Timestamp::now();
    if let Some((server, url)) = &database {
        server.dump(url, &dump);
    }
    cli.ok(&format!("backup --dir {} {}", manager.folder().display(), backup.display()));
    cli.fails(1, &format!("backup --dir {} {}", manager.folder().display(), backup.display())).says(&["not empty"]);

    // After the backup: one finishes, one is in the middle, and one is new.
    let pipe = agents[1].root().join("etc/go");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR, 0).unwrap();
    agents.iter_mut().for_each(Agent::start);
    JobView::wait_for_row(&cli, &first, &ids[0], "SUCCEEDED");
    JobView::wait_for_row(&cli, &second, &ids[1], "INSTALLING");
    wait_until("the step to run", PATIENCE, || agents[1].read("opt/slow.runs").is_some());
    let newcomer = Agent::enrolled("newcomer", &manager);
    let export = manager.scratch().join("export.jsonl");
    cli.ok(&format!("audit export {}", export.display()));

    // The manager is lost, and last night's backup takes its place.
    manager.kill();
    fs::rename(manager.folder(), manager.scratch().join("lost")).unwrap();
    let restore = format!("restore {} --dir {}", backup.display(), manager.folder().display());
    if let Some((server, url)) = &database {
        cli.fails(1, &restore).says(&["--dumped"]);
        server.load(url, &dump);
        cli.ok(&format!("{restore} --dumped {dumped}"));
    } else {
        cli.fails(1, &format!("{restore} --dumped {dumped}")).says(&["--dumped is for PostgreSQL"]);
        cli.ok(&restore);
    }
    manager.serve();
    let row = JobView::wait_for_end(&cli, &first, &ids[0]);
    assert_eq!((row.state.as_str(), row.attempts), ("SUCCEEDED", 1), "what had run was reported again");
    JobView::wait_for_row(&cli, &second, &ids[1], "INSTALLING");
    fs::write(&pipe, "went on\n").unwrap();
    let row = JobView::wait_for_row(&cli, &second, &ids[1], "SUCCEEDED");
    assert_eq!(row.attempts, 1);
    assert_eq!(agents[0].read("opt/done.runs").as_deref(), Some("run\n"));
    assert_eq!(agents[1].read("opt/slow.runs").as_deref(), Some("run\nwent on\n"));

    // Who enrolled since is not locked out, but somebody has to say that it belongs here.
    let new = newcomer.id();
    let known = || cli.run(&format!("client show {new}")).code == 0;
    wait_until("the newcomer to be back", PATIENCE, || known() || newcomer.log().contains("refuses this machine"));
    assert!(known(), "{}", newcomer.log());
    let shown = cli.json(&format!("client show {new}"));
    assert_eq!(shown["state"], "CLIENT_STATE_PENDING", "{shown:#}");
    assert!(shown["notice"].as_str().unwrap().contains("after the backup"), "{shown:#}");
    cli.ok(&format!("client approve {new}"));
    let third = cli.id(&format!("job run --package done --client {new}"));
    JobView::wait_for_row(&cli, &third, &new, "SUCCEEDED");
    // The log goes on with numbers that none had before, and says that it is another one.
    cli.ok("audit verify");
    assert!(cli.fails(1, &format!("audit verify {}", export.display())).stdout.contains("cut off or changed"));
    assert!(cli.ok("audit list --limit 0").contains("restore"));
}

#[test]
fn a_machine_whose_certificate_was_renewed_after_the_backup_is_let_in_by_the_restored_manager() {
    let config = "[limits]\nagent_certificate = \"20s\"\n".into();
    let mut manager = Manager::start_with(Setup { config, ..Setup::default() });
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    push(&cli, &package);
    let agent = Agent::enrolled("machine", &manager);
    let shown = || fs::read(agent.state().join("credential.pem")).unwrap();
    let before = shown();
    let backup = manager.scratch().join("backup");
    cli.ok(&format!("backup --dir {} {}", manager.folder().display(), backup.display()));
    wait_until("the next certificate to be in use", PATIENCE, || shown() != before);
    manager.kill();
    fs::rename(manager.folder(), manager.scratch().join("lost")).unwrap();
    cli.ok(&format!("restore {} --dir {}", backup.display(), manager.folder().display()));
    manager.serve();
    // Nobody is asked: it is a client that was there, and the certificate is of this installation and not older than the backup.
    let connected = || !agent.status()["connected"].is_null();
    wait_until("the machine to hear from the manager", PATIENCE, || connected() || agent.log().contains("refuses this machine"));
    assert!(connected(), "{}", agent.log());
    let job = cli.id(&format!("job run --package hello --client {}", agent.id()));
    JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
    let log = cli.ok("audit list --limit 0");
    assert!(log.lines().any(|entry| entry.contains("adopt_certificate") && entry.contains(&agent.id())), "{log}");
}

#[test]
fn a_backup_that_was_not_finished_is_not_restored_and_damage_is_not_copied() {
    let manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    package.noise("noise", 1 << 20, 3);
    push(&cli, &package);
    let backup = manager.scratch().join("backup");
    cli.ok(&format!("backup --dir {} {}", manager.folder().display(), backup.display()));
    fs::remove_file(backup.join("backup.json")).unwrap();
    let target = manager.scratch().join("restored");
    cli.fails(1, &format!("restore {} --dir {}", backup.display(), target.display())).says(&["not finished"]);
    damage_a_chunk(&manager);
    let second = manager.scratch().join("second");
    cli.fails(1, &format!("backup --dir {} {}", manager.folder().display(), second.display())).says(&["damaged"]);
    // Whoever has nothing better can restore it, and is told again what is missing.
    cli.fails(1, &format!("restore {} --dir {}", second.display(), target.display())).says(&["damaged"]);
    assert!(target.join("manager.db").exists());
}

#[test]
fn a_database_that_is_killed_below_a_running_manager_costs_time_and_nothing_else() {
    let Some(mut postgres) = Postgres::start() else { return };
    let manager = Manager::start_with(Setup { database: Some(postgres.create_database()), ..Setup::default() });
    let cli = manager.cli();
    let slow = PackageFolder::counting("slow", "1.0");
    slow.file("bin/install", WAITS);
    push(&cli, &slow);
    let agent = Agent::enrolled("machine", &manager);
    let pipe = agent.root().join("etc/go");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR, 0).unwrap();
    let job = cli.id(&format!("job run --package slow --client {}", agent.id()));
    JobView::wait_for_row(&cli, &job, &agent.id(), "INSTALLING");
    wait_until("the step to run", PATIENCE, || agent.read("opt/slow.runs").is_some());

    postgres.kill();
    let api = Api::operator(&manager);
    let group = v1::CreateGroupRequest { group_id: "while-gone".into(), request_id: "the-same".into(), ..Default::default() };
    let refused = api_call!(api, group_service_client::GroupServiceClient, create_group(group.clone())).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused:?}");
    assert!(refused.get_details_retry_info().is_some(), "it says when to come back: {refused:?}");
    // The agent goes on with what it holds, and ends what it had begun.
    fs::write(&pipe, "went on\n").unwrap();
    wait_until("the step to end", PATIENCE, || agent.read("opt/slow.runs").as_deref() == Some("run\nwent on\n"));

    postgres.start_again();
    // The same request settles what became of it, however often it is sent.
    let mut answers = Vec::new();
    wait_until("the database to be used again", PATIENCE, || {
        let answer = api_call!(api, group_service_client::GroupServiceClient, create_group(group.clone()));
        answers.extend(answer.ok().and_then(|a| a.group));
        answers.len() == 2
    });
    assert_eq!(answers[0], answers[1]);
    let row = JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
    assert_eq!(row.attempts, 1);
    assert_eq!(agent.read("opt/slow.runs").as_deref(), Some("run\nwent on\n"));
    cli.ok("audit verify");
}

/// Fails, and says a word that is in no other transaction.
const TELLS: &str = "#!/bin/sh\necho run >>\"$(pwd -P).runs\"\necho unmistakable\nexit 3\n";

#[test]
fn a_commit_of_postgresql_whose_answer_is_lost_is_settled_by_asking_again_and_counts_once() {
    let Some(postgres) = Postgres::shared() else { return };
    let line = Proxy::new();
    line.leads_to(([127, 0, 0, 1], postgres.port()).into());
    let database =
        postgres.create_database().replace(&format!(":{}/", postgres.port()), &format!(":{}/", line.address().rsplit(':').next().unwrap()));
    assert!(database.contains(&line.address()), "{database}");
    let manager = Manager::start_with(Setup { database: Some(database), ..Setup::default() });
    let cli = manager.cli();

    // An operator's change: whether it was done, the manager can't know; the same request settles it.
    let api = Api::operator(&manager);
    line.now(Line::LosesCommitOf("settled"));
    let group = v1::CreateGroupRequest { group_id: "settled".into(), request_id: "the-same".into(), ..Default::default() };
    let refused = api_call!(api, group_service_client::GroupServiceClient, create_group(group.clone())).unwrap_err();
    assert!(line.is(Line::Open), "nothing was lost: {refused:?}");
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused:?}");
    assert!(refused.get_details_retry_info().is_some(), "it says when to come back: {refused:?}");
    let made = [0, 1].map(|_| api_call!(api, group_service_client::GroupServiceClient, create_group(group.clone())).unwrap().group);
    assert!(made[0].is_some() && made[0] == made[1], "{made:?}");
    let log = cli.ok("audit list --limit 0");
    assert_eq!(log.lines().filter(|entry| entry.contains("groups/settled")).count(), 1, "{log}");

    // A machine's outcome: told again, and counted once.
    let package = PackageFolder::counting("tells", "1.0");
    package.file("bin/install", TELLS);
    push(&cli, &package);
    let agent = Agent::enrolled("machine", &manager);
    line.now(Line::LosesCommitOf("unmistakable"));
    let job = cli.id(&format!("job run --package tells --client {}", agent.id()));
    let row = JobView::wait_for_row(&cli, &job, &agent.id(), "FAILED");
    assert!(line.is(Line::Open), "nothing was lost");
    wait_until("the machine to hear that its outcome is kept", PATIENCE, || {
        fs::read_dir(agent.state().join("attempts")).unwrap().all(|e| e.unwrap().file_name().to_string_lossy().starts_with('.'))
    });
    assert_eq!((row.attempts, JobView::of(&cli, &job).counters().as_str()), (1, "total=1 error=1"));
    assert_eq!(agent.read("opt/tells.runs").as_deref(), Some("run\n"));
    cli.ok("audit verify");
}
