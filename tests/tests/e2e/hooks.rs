//! Hooks: whoever is to be told of events is told, however long it takes, and nobody waits for that.

use crate::access::callers::Bed;
use prost::Message as _;
use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use sutler::app::{events, hooks};
use sutler::config::{Hook, hooks::Way};
use sutler_base::state::{EventKind, Role};
use sutler_proto::v1;
use sutler_tests::{
    fleet::{Database, Packages},
    harness::{Agent, JobView, Manager, PATIENCE, PackageFolder, Setup, wait_until},
    postgres::Postgres,
};

/// What was posted: the headers by their names in small letters, and the body.
#[derive(Debug, Clone)]
struct Posted {
    headers: Vec<(String, String)>,
    body: String,
}

impl Posted {
    fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }
}

/// A receiver of what is posted, which can be made to refuse it.
struct Receiver {
    address: String,
    posted: Arc<Mutex<Vec<Posted>>>,
    accepts: Arc<AtomicBool>,
}

impl Receiver {
    fn new() -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let receiver = Receiver {
            address: format!("http://{}/events?from=sutler", listener.local_addr().unwrap()),
            posted: Arc::default(),
            accepts: Arc::default(),
        };
        let (posted, accepts) = (receiver.posted.clone(), receiver.accepts.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = serve(&stream.unwrap(), &posted, &accepts);
            }
        });
        receiver
    }

    fn posted(&self) -> Vec<Posted> {
        self.posted.lock().unwrap().clone()
    }
}

fn serve(mut stream: &TcpStream, posted: &Mutex<Vec<Posted>>, accepts: &AtomicBool) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    assert!(line.starts_with("POST /events?from=sutler HTTP/1.1"), "{line}");
    let mut headers = vec![];
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((key, value)) = line.trim().split_once(':') else { break };
        headers.push((key.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length: usize = headers.iter().find(|(key, _)| key == "content-length").unwrap().1.parse().unwrap();
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    posted.lock().unwrap().push(Posted { headers, body: String::from_utf8(body).unwrap() });
    let status = if accepts.load(Ordering::SeqCst) { "204 No Content" } else { "503 Not Now" };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

/// A program that writes what it is told into a file, once there is a folder for it.
fn program(folder: &Path) -> (String, PathBuf) {
    let (script, told) = (folder.join("hook"), folder.join("told/events"));
    let text = format!("#!/bin/sh\n# {{}}\ncat >>{} || exit 7\necho \"told $1 in $PWD by $USER\"\n", told.display());
    fs_err::write(&script, text).unwrap();
    fs_err::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    (script.display().to_string(), told)
}

fn lines(file: &Path) -> Vec<Value> {
    let text = fs_err::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// The value of a metric with this label.
fn deliveries(manager: &Manager, outcome: &str) -> f64 {
    manager.metric(&format!("sutler_hook_deliveries_total{{outcome=\"{outcome}\"}}")).unwrap_or(0.0)
}

#[test]
fn hooks_are_told_that_a_job_ended_with_errors_and_are_tried_again_while_jobs_go_on() {
    let mut manager = Manager::init(Setup::default());
    let receiver = Receiver::new();
    let (script, told) = program(manager.scratch());
    let secret = manager.folder().join("hook.secret");
    fs_err::write(&secret, "a secret that is long enough\n").unwrap();
    fs_err::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let config = manager.folder().join("manager.toml");
    let text = fs_err::read_to_string(&config).unwrap();
    let hooks = format!(
        "{text}\n[[hook]]\nname = \"program\"\nevents = [\"JOB_ENDED\", \"EXECUTION_FAILED\"]\nargv = [\"{script}\", \"two words; $(false)\"]\n\
         [[hook]]\nname = \"address\"\nevents = [\"JOB_ENDED\"]\nurl = \"{}\"\nsecret_file = \"hook.secret\"\n",
        receiver.address
    );
    fs_err::write(&config, hooks).unwrap();
    manager.serve();
    let cli = manager.cli();
    let agent = Agent::enrolled("one", &manager);
    let bad = PackageFolder::with("bad", "1.0", "[[step]]\nname = \"install\"\nargv = [\"bin/install\"]\n");
    bad.file("bin/install", "#!/bin/sh\necho it broke\nexit 3\n");
    cli.ok(&format!("package push {}", bad.path().display()));
    let good = PackageFolder::counting("good", "1.0");
    cli.ok(&format!("package push {}", good.path().display()));

    let job = cli.id(&format!("job run --package bad --client {}", agent.id()));
    assert_eq!(JobView::wait_for_end(&cli, &job, &agent.id()).state, "FAILED");
    wait_until("both to be tried twice", PATIENCE, || receiver.posted().len() >= 2 && deliveries(&manager, "failed") >= 4.0);
    // Neither has taken anything; jobs go on, and the doctor says it.
    let next = cli.id(&format!("job run --package good --client {}", agent.id()));
    JobView::wait(&cli, &next, "the next job to be over", PATIENCE, |view| view.state == "COMPLETED");
    let addresses = manager.addresses();
    let ports = format!("--agents {} --operators {} --telemetry {}", addresses.agents, addresses.operators, addresses.telemetry);
    let doctor = format!("doctor --dir {} {ports}", manager.folder().display());
    let found = cli.fails(30, &doctor).stdout;
    for word in ["the hook program", "ended with exit status: 7", "the hook address", "answered 503"] {
        assert!(found.contains(word), "{word} is not in {found}");
    }
    assert_eq!(deliveries(&manager, "delivered"), 0.0);

    // They work again, and the manager is killed besides.
    fs_err::create_dir(told.parent().unwrap()).unwrap();
    receiver.accepts.store(true, Ordering::SeqCst);
    manager.kill_and_serve();
    let kinds = |file: &Path| -> Vec<String> { lines(file).iter().map(|e| e["kind"].as_str().unwrap().to_owned()).collect() };
    wait_until("the program to be told", PATIENCE, || lines(&told).len() >= 3);
    assert_eq!(kinds(&told), ["EVENT_KIND_EXECUTION_FAILED", "EVENT_KIND_JOB_ENDED", "EVENT_KIND_JOB_ENDED"], "in order, one at a time");
    let failed = &lines(&told)[0];
    assert_eq!(failed["object"], format!("jobs/{job}/executions/{}", agent.id()));
    assert_eq!((&failed["attributes"]["reason"], &failed["attributes"]["state"]), (&"STEP_FAILED".into(), &"FAILED".into()));
    assert_eq!(lines(&told)[1]["attributes"]["result"], "WITH_ERRORS");
    let good = |p: &&Posted| p.body.contains("JOB_ENDED");
    let ended =
        |receiver: &Receiver| receiver.posted().iter().filter(good).map(|p| p.header("sutler-event").to_owned()).collect::<Vec<_>>();
    wait_until("the address to be told of both", PATIENCE, || ended(&receiver).last() == ended_at(&lines(&told), 2).as_ref());
    let posted = receiver.posted();
    let first = ended_at(&lines(&told), 1).unwrap();
    assert!(posted.iter().filter(|p| p.header("sutler-event") == first).count() >= 3, "the same again, by which it is known");
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"a secret that is long enough");
    for p in &posted {
        let signature: String = ring::hmac::sign(&key, p.body.as_bytes()).as_ref().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(p.header("sutler-signature"), format!("sha256={signature}"));
        assert_eq!(serde_json::from_str::<Value>(&p.body).unwrap()["cursor"], p.header("sutler-event"));
    }
    wait_until("the doctor to be content", PATIENCE, || cli.run(&doctor).code == 0);
    assert!(
        manager.log().contains("told two words; $(false) in / by"),
        "what the program said stands in the log, and no shell read its words"
    );

    // The report of the job that failed.
    let csv = cli.ok(&format!("job report {job}"));
    let rows: Vec<&str> = csv.lines().collect();
    assert!(rows.len() == 2 && rows[0].starts_with("client,hostname,state,reason"), "{csv}");
    assert!(rows[1].starts_with(&format!("{},", agent.id())) && rows[1].contains("bad@1.0,FAILED,STEP_FAILED"), "{csv}");
    let json = cli.json(&format!("job report {job}"));
    let row = &json[0];
    assert_eq!((&row["execution"]["items"][0]["exitCode"], &row["execution"]["items"][0]["output"]), (&3.into(), &"".into()), "{json}");
    assert!(row["attemptTime"].is_string() && row["endTime"].is_string(), "{json}");
    cli.fails(1, "job report 0000000000").says(&["there is no job 0000000000"]);
}

#[test]
fn a_page_of_a_report_has_a_hundred_rows_however_many_are_asked_for() {
    let mut bed = Bed::new(Database::Sqlite);
    for signed in Packages::new(&["hello"]).sign(&bed.manager.profile()) {
        bed.admin.push(&bed.manager, &signed).unwrap();
    }
    let group = v1::CreateGroupRequest { group_id: "machines".into(), ..Default::default() };
    bed.admin.groups(&bed.manager, |mut c| async move { c.create_group(group).await }).unwrap();
    let clients: Vec<String> = (0..101).map(|_| format!("clients/{}", bed.client().0)).collect();
    let members = v1::AddMembersRequest { name: "groups/machines".into(), clients: clients.clone(), ..Default::default() };
    bed.admin.groups(&bed.manager, |mut c| async move { c.add_members(members).await }).unwrap();
    let run = v1::RunJobRequest {
        packages: vec![v1::JobPackage { package: "packages/hello".into(), ..Default::default() }],
        destinations: vec!["groups/machines".into()],
        ..Default::default()
    };
    let job = bed.admin.jobs(&bed.manager, |mut c| async move { c.run_job(run).await }).unwrap().job.unwrap().name;
    let credential = bed.operator("bea", &[(Role::Viewer, &[])]);
    let caller = bed.at_operators(&bed.manager, Some(&credential)).unwrap();
    let (mut seen, mut pages) = (Vec::new(), Vec::new());
    let mut request = v1::ListReportRowsRequest { parent: job, page_size: 1000, ..Default::default() };
    loop {
        let answer = bed.call(&caller, "/sutler.v1.ReportService/ListReportRows", request.encode_to_vec().into()).unwrap();
        let page = v1::ListReportRowsResponse::decode(answer).unwrap();
        pages.push(page.rows.len());
        seen.extend(page.rows.into_iter().map(|row| row.execution.unwrap()));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(pages, [100, 1]);
    let names: std::collections::BTreeSet<_> = seen.iter().map(|e| e.client.clone()).collect();
    assert_eq!(names, clients.into_iter().collect());
    assert!(seen.iter().all(|e| e.hostname == "machine" && e.last_seen_time.is_some()), "{seen:?}");
}

/// The cursor of the n-th event.
fn ended_at(events: &[Value], n: usize) -> Option<String> {
    events.get(n).map(|e| e["cursor"].as_str().unwrap().to_owned())
}

#[test]
fn a_hook_that_names_what_is_not_there_keeps_the_manager_from_starting_and_says_so() {
    let mut manager = Manager::init(Setup::default());
    let config = manager.folder().join("manager.toml");
    let text = fs_err::read_to_string(&config).unwrap();
    let head = format!("{text}\n[[hook]]\nname = \"chat\"\nevents = [\"JOB_ENDED\"]\n");
    fs_err::write(manager.folder().join("open"), "a secret that is long enough\n").unwrap();
    fs_err::set_permissions(manager.folder().join("open"), std::fs::Permissions::from_mode(0o644)).unwrap();
    for (hook, word) in [
        ("url = \"http://hooks.example/\"\n", "loopback"),
        ("url = \"https://127.0.0.1:1/\"\nca = \"none.pem\"\n", "none.pem"),
        ("url = \"http://127.0.0.1:1/\"\nsecret_file = \"open\"\n", "chmod"),
        ("argv = [\"tell\"]\n", "absolute"),
    ] {
        fs_err::write(&config, format!("{head}{hook}")).unwrap();
        let why = manager.try_serve().unwrap_err();
        assert!(why.contains(word) && why.contains("chat"), "{hook}: {why}");
    }
}

/// A hook of this program, as a configuration.
fn hook(script: &str, retry_for: Duration) -> Hook {
    Hook {
        name: "program".into(),
        events: vec![EventKind::ClientEnrolled],
        way: Way::Program(vec![script.to_owned(), "x".to_owned()]),
        time_limit: Duration::from_secs(30),
        retry_for,
    }
}

#[test]
fn of_two_managers_one_delivers_each_event() {
    let Some(server) = Postgres::shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (script, told) = program(folder.path());
    fs_err::create_dir(told.parent().unwrap()).unwrap();
    let mut bed = Bed::tuned(Database::Postgres(server), |config| config.hooks = vec![hook(&script, Duration::from_secs(3600))]);
    let second = bed.manager.second();
    // A hook begins with what comes once it is known.
    let known = |bed: &Bed| {
        let app = bed.manager.app().clone();
        let asked = app.view("manager", "hook", (), |tx, _env, ()| Box::pin(async move { Ok(tx.hook("program").await?) }));
        bed.runtime.block_on(asked).unwrap()
    };
    wait_until("the hook to be known", PATIENCE, || known(&bed).is_some());
    let clients: Vec<String> = (0..30).map(|_| format!("clients/{}", bed.client().0)).collect();
    wait_until("all to be told of", PATIENCE, || known(&bed).is_some_and(|hook| hook.delivered >= 30));
    drop(second);
    let objects: Vec<String> = lines(&told).iter().map(|e| e["object"].as_str().unwrap().to_owned()).collect();
    assert_eq!(objects, clients);
}

#[test]
fn where_no_other_manager_can_be_nobody_waits_for_one_that_was_killed() {
    let bed = Bed::new(Database::Sqlite);
    let app = bed.manager.app().clone();
    let asking = hooks::Asking {
        name: "program".into(),
        kinds: vec![EventKind::JobEnded],
        me: "this one".into(),
        time_limit: Duration::from_secs(3600),
    };
    let killed = app.change("manager", "killed", asking.clone(), |tx, env, asking| {
        Box::pin(async move {
            let mut hook = sutler_core::hook::Hook::new(&asking.name, tx.last_change().await?);
            tx.insert_hook(&hook).await?;
            hook.take("the one before", env.now, asking.time_limit);
            tx.save_hook(&hook).await?;
            events::emit(tx, env, sutler_core::event::Event::new(EventKind::JobEnded, "jobs/0000000000", "over")).await
        })
    });
    bed.runtime.block_on(killed).unwrap();
    let taken = app.change("manager", "take_hook", asking, |tx, env, asking| Box::pin(hooks::take(tx, env, asking)));
    assert!(bed.runtime.block_on(taken).unwrap().is_some());
}

#[test]
fn of_two_managers_with_other_events_for_a_hook_the_one_that_was_started_last_delivers() {
    let Some(server) = Postgres::shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (script, told) = program(folder.path());
    fs_err::create_dir(told.parent().unwrap()).unwrap();
    let mut bed = Bed::tuned(Database::Postgres(server), |config| config.hooks = vec![hook(&script, Duration::from_secs(3600))]);
    let state = |bed: &Bed| {
        let app = bed.manager.app().clone();
        let asked = app.view("manager", "hook", (), |tx, _env, ()| {
            Box::pin(async move { Ok((tx.hook("program").await?, tx.setting("hook/program/events").await?)) })
        });
        bed.runtime.block_on(asked).unwrap()
    };
    wait_until("the hook to be known", PATIENCE, || state(&bed).0.is_some());
    // The first one would pass over what only the second one wants.
    let second = bed.manager.second_tuned(|config| config.hooks[0].events.push(EventKind::ClientQuarantined));
    wait_until("its events to count", PATIENCE, || state(&bed).1.is_some_and(|events| events == b"CLIENT_ENROLLED,CLIENT_QUARANTINED"));
    let mut expected = Vec::new();
    for _ in 0..15 {
        let name = format!("clients/{}", bed.client().0);
        let request = v1::QuarantineClientRequest { name: name.clone(), reason: "lent".into(), ..Default::default() };
        bed.admin.clients(&bed.manager, |mut c| async move { c.quarantine_client(request).await }).unwrap();
        expected.extend([("EVENT_KIND_CLIENT_ENROLLED".to_owned(), name.clone()), ("EVENT_KIND_CLIENT_QUARANTINED".to_owned(), name)]);
    }
    wait_until("all to be told of", PATIENCE, || state(&bed).0.is_some_and(|hook| hook.delivered >= 30));
    drop(second);
    let word = |event: &Value, member: &str| event[member].as_str().unwrap().to_owned();
    let seen: Vec<_> = lines(&told).iter().map(|e| (word(e, "kind"), word(e, "object"))).collect();
    assert_eq!(seen, expected);
}

#[test]
fn an_event_that_never_arrives_is_given_up_after_its_time_and_the_next_one_goes() {
    let folder = tempfile::tempdir().unwrap();
    let (script, told) = program(folder.path());
    let mut bed = Bed::tuned(Database::Sqlite, |config| config.hooks = vec![hook(&script, Duration::from_secs(3600))]);
    let state = |bed: &Bed| {
        let app = bed.manager.app().clone();
        let asked = app.view("manager", "hook", (), |tx, _env, ()| Box::pin(async move { Ok(tx.hook("program").await?) }));
        bed.runtime.block_on(asked).unwrap()
    };
    wait_until("the hook to be known", PATIENCE, || state(&bed).is_some());
    bed.client();
    wait_until("it to fail", PATIENCE, || state(&bed).unwrap().attempts >= 2);
    let second = format!("clients/{}", bed.client().0);
    bed.manager.step_clock(3_700_000);
    wait_until("it to be given up", PATIENCE, || state(&bed).unwrap().given_up == 1);
    fs_err::create_dir(told.parent().unwrap()).unwrap();
    wait_until("the next one to arrive", PATIENCE, || state(&bed).unwrap().delivered == 1);
    assert_eq!(lines(&told).iter().map(|e| e["object"].as_str().unwrap()).collect::<Vec<_>>(), [second]);
}
