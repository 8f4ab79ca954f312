//! An installation that began with SQLite moves to PostgreSQL, and nobody notices anything but the pause.

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use sutler_tests::harness::{Agent, JobView, Manager, PATIENCE, PackageFolder, Reader, wait_until, words};
use sutler_tests::postgres::Postgres;

/// A session of somebody else's on the new database.
struct Session {
    runtime: tokio::runtime::Runtime,
    connection: PgConnection,
}

impl Session {
    fn open(url: &str) -> Session {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let connection = runtime.block_on(PgConnection::connect(url)).unwrap();
        Session { runtime, connection }
    }

    fn run(&mut self, sql: &str) {
        self.runtime.block_on(sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut self.connection)).unwrap();
    }

    fn count(&mut self, sql: &str) -> i64 {
        let (count,): (i64,) =
            self.runtime.block_on(sqlx::query_as(AssertSqlSafe(sql.to_owned())).fetch_one(&mut self.connection)).unwrap();
        count
    }

    /// How many sessions of `sutler migrate` there are that this is true of.
    fn migrating(&mut self, what: &str) -> i64 {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sutler-migrate' AND datname = current_database()";
        self.count(&format!("{sql} AND {what}"))
    }
}

fn migrate(manager: &Manager, rest: &str) -> String {
    format!("migrate --dir {} --from sqlite --to postgres {rest}", manager.folder().display())
}

/// A file with the address of a database, for its owner alone.
fn address(manager: &Manager, url: &str) -> PathBuf {
    let file = manager.scratch().join("address");
    fs_err::write(&file, format!("{url}\n")).unwrap();
    fs_err::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    file
}

/// Takes out what contact alone changes.
fn without_contact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            ["lastSeenTime", "noContactTime", "online"].iter().for_each(|key| drop(fields.remove(*key)));
            fields.values_mut().for_each(without_contact);
        }
        Value::Array(values) => values.iter_mut().for_each(without_contact),
        _ => {}
    }
}

fn toml(manager: &Manager) -> String {
    fs_err::read_to_string(manager.folder().join("manager.toml")).unwrap()
}

#[test]
fn an_installation_that_is_moved_to_postgresql_lives_on_as_it_was() {
    let Some(server) = Postgres::shared() else { return };
    let mut manager = Manager::start();
    let cli = manager.cli();
    let (done, fails) = (PackageFolder::counting("done", "1.0"), PackageFolder::counting("fails", "1.0"));
    fails.file("bin/install", "#!/bin/sh\necho run >>\"$(pwd -P).runs\"\nexit 3\n");
    for package in [&done, &fails] {
        cli.ok(&format!("package push {}", package.path().display()));
    }
    cli.ok("group create machines");
    cli.ok("policy create all-linux --group machines --when 'facts.os.family == \"linux\"'");
    let standing = cli.id("job run --package done --group machines");
    let mut agents = [Agent::enrolled("here", &manager), Agent::enrolled("away", &manager)];
    let ids: Vec<String> = agents.iter().map(Agent::id).collect();
    ids.iter().for_each(|id| drop(JobView::wait_for_row(&cli, &standing, id, "SUCCEEDED")));
    let failed = cli.id(&format!("job run --package fails --client {}", ids[0]));
    JobView::wait_for_row(&cli, &failed, &ids[0], "FAILED");
    agents[1].stop();
    let waits = cli.id(&format!("job run --package fails --client {}", ids[1]));
    cli.ok(&format!("client label set {} site=north", ids[0]));
    let token = cli.ok("token create --group machines");
    let export = manager.scratch().join("export.jsonl");
    cli.ok(&format!("audit export {}", export.display()));
    let lists = || {
        let nouns = ["group list", "group members machines", "policy list", "package list", "job list", "token list", "operator list"];
        let reports = [&standing, &failed, &waits].map(|job| format!("job report {job}"));
        let shown = |line: String| {
            let mut value = cli.json(&line);
            without_contact(&mut value);
            (line, value)
        };
        nouns.iter().map(|line| (*line).to_owned()).chain(reports).map(shown).collect::<Vec<_>>()
    };
    let shown = |id: &str| {
        let client = cli.json(&format!("client show {id}"));
        ["name", "state", "hostname", "labels", "groups", "enrollTime"].map(|key| client[key].clone())
    };
    let (before, client) = (lists(), shown(&ids[0]));
    let log = cli.ok("audit list --limit 0 -o csv");
    let credential = fs_err::read(agents[0].state().join("credential.pem")).unwrap();

    let url = server.create_database();
    let file = address(&manager, &url);
    let order = migrate(&manager, &format!("--database-file {}", file.display()));
    let configuration = toml(&manager);
    cli.fails(1, &order).says(&["another process uses the manager's folder", "systemctl stop sutler"]);
    assert_eq!(
        (Session::open(&url).count("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"), toml(&manager)),
        (0, configuration)
    );
    manager.stop();
    let rows = Reader::open(&manager).rows();
    let told = cli.run(&order).ends_with(0);
    assert!(told.stderr.contains("read back, and are the same"), "{told:?}");
    let counted: Vec<&str> = told.stdout.lines().find(|line| line.starts_with("client ")).unwrap().split_whitespace().collect();
    assert_eq!(counted, ["client", "2"], "{told:?}");
    assert!(told.stdout.lines().any(|line| line.split_whitespace().collect::<Vec<_>>() == ["job", "3"]), "{told:?}");
    assert_eq!(Reader::open(&manager).rows(), rows, "the old one is as it was");
    let file = manager.folder().join("manager.toml");
    assert!(toml(&manager).contains(&format!("moved_from = \"sqlite:manager.db\"\ndatabase = \"{url}\"")), "{}", toml(&manager));
    assert_eq!(fs_err::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    // Nobody serves the old one by mistake, and it is not moved twice.
    let serve = format!("serve --dir {} --database sqlite:manager.db", manager.folder().display());
    let mut command = cli.command(&words(&format!("{serve} --agents 127.0.0.1:0 --operators 127.0.0.1:0 --telemetry off")));
    let mut serve = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the old database to be refused", PATIENCE, || serve.try_wait().unwrap().is_some());
    let said = serve.wait_with_output().unwrap();
    let said = (said.status.code(), String::from_utf8_lossy(&said.stderr).into_owned());
    assert!(said.0 == Some(1) && said.1.contains("moved_from"), "{said:?}");
    cli.fails(1, &order).says(&["PostgreSQL", "nothing to move"]);

    manager.serve();
    wait_until("the agent to be back", PATIENCE, || cli.json(&format!("client show {}", ids[0]))["online"] == true);
    for ((line, before), (_, after)) in before.into_iter().zip(lists()) {
        assert_eq!(before, after, "`{line}` after the move");
    }
    assert_eq!(shown(&ids[0]), client);
    assert_eq!(fs_err::read(agents[0].state().join("credential.pem")).unwrap(), credential, "it is the same client with the same key");
    cli.ok("audit verify");
    cli.ok(&format!("audit verify {}", export.display()));
    let entries = cli.ok("audit list --limit 0 -o csv");
    let missing: Vec<&str> = log.lines().filter(|entry| !entries.lines().any(|line| line == *entry)).collect();
    assert!(missing.is_empty() && entries.contains("migrate"), "{missing:?}\n{entries}");

    // It goes on: what waited, what stands, who has a token from before; and nothing runs twice.
    agents[1].start();
    JobView::wait_for_row(&cli, &waits, &ids[1], "FAILED");
    let newcomer = Agent::new("newcomer");
    newcomer.enroll(token.trim());
    let mut newcomer = newcomer;
    newcomer.start();
    JobView::wait_for_row(&cli, &standing, &newcomer.id(), "SUCCEEDED");
    let later = PackageFolder::counting("later", "1.0");
    cli.ok(&format!("package push {}", later.path().display()));
    let new = cli.id("job run --package later --group machines");
    for agent in agents.iter().chain([&newcomer]) {
        JobView::wait_for_row(&cli, &new, &agent.id(), "SUCCEEDED");
        assert_eq!(agent.read("opt/done.runs").as_deref(), Some("run\n"), "{}", agent.name());
    }
    assert_eq!(agents[0].read("opt/fails.runs").as_deref(), Some("run\n"));
    cli.ok("audit verify");
    manager.kill_and_serve();
    cli.ok("audit verify");

    // If the new database is lost, what lies in the old one's place is no reason to begin anew with nobody in it.
    manager.stop();
    let name = url.rsplit('/').next().unwrap();
    server.execute(&format!("DROP DATABASE {name} WITH (FORCE)"));
    server.execute(&format!("CREATE DATABASE {name} TEMPLATE template0"));
    let refused = manager.try_serve().unwrap_err();
    assert!(refused.contains("holds no installation") && refused.contains("backup"), "{refused}");
}

#[test]
fn a_move_that_is_killed_leaves_the_old_manager_as_it_was_or_a_new_one_that_is_whole() {
    let Some(server) = Postgres::shared() else { return };
    let mut manager = Manager::start();
    let cli = manager.cli();
    cli.ok("group create machines");
    manager.stop();
    let url = server.create_store();
    let file = address(&manager, &url);
    let order = migrate(&manager, &format!("--database-file {}", file.display()));
    let begin = || -> Child {
        let mut command = cli.command(&words(&order));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let configuration = toml(&manager);
    let mut session = Session::open(&url);
    // Stands still where the trigger is until this lock is given back.
    session.run(
        "CREATE FUNCTION stand() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN NEW; END $$",
    );
    let kill_at = |session: &mut Session, trigger: &str| {
        session.run(trigger);
        let mut other = Session::open(&url);
        other.run("SELECT pg_advisory_lock(4711)");
        let mut child = begin();
        wait_until("the move to come there", PATIENCE, || session.migrating("wait_event = 'advisory'") == 1);
        child.kill().unwrap();
        child.wait().unwrap();
        other.run("SELECT pg_advisory_unlock(4711)");
        wait_until("the server to notice", PATIENCE, || session.migrating("true") == 0);
        assert_eq!(toml(&manager), configuration);
    };

    // Among the rows.
    kill_at(&mut session, "CREATE TRIGGER stand BEFORE INSERT ON operator FOR EACH ROW EXECUTE FUNCTION stand()");
    assert_eq!(session.count("SELECT count(*) FROM client_group") + session.count("SELECT count(*) FROM site"), 0);
    session.run("DROP TRIGGER stand ON operator");
    // While it commits: the server does so, and nobody hears of it.
    kill_at(
        &mut session,
        "CREATE CONSTRAINT TRIGGER stand AFTER INSERT ON setting DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION stand()",
    );
    assert_eq!(session.count("SELECT count(*) FROM client_group"), 1);
    session.run("DROP TRIGGER stand ON setting");

    // The next run finds all of it there, and ends what was begun.
    let told = cli.run(&order).ends_with(0);
    assert!(told.stderr.contains("were there from an earlier run"), "{told:?}");
    manager.serve();
    assert!(cli.ok("group list").contains("machines"));
    cli.ok("audit verify");
    assert_eq!(session.count("SELECT count(*) FROM audit WHERE action = 'migrate'"), 1);
}

#[test]
fn what_can_not_be_moved_is_refused_by_name_and_the_old_manager_serves_on() {
    let Some(server) = Postgres::shared() else { return };
    let mut manager = Manager::start();
    let cli = manager.cli();
    cli.ok("group create machines");
    manager.stop();
    let configuration = toml(&manager);
    let folder = manager.folder();
    let secret = "postgres://sutler:verysecret@127.0.0.1/sutler";
    // Nothing of a secret is taken from where others can read it, or said again.
    let refused = cli.fails(2, &migrate(&manager, &format!("--database {secret}"))).says(&["password", "--database-file"]);
    assert!(!refused.stderr.contains("verysecret"), "{refused:?}");
    cli.fails(2, &format!("migrate --dir {} --from postgres --to sqlite --database postgres:///x", folder.display()))
        .says(&["to postgres alone"]);
    cli.fails(2, &migrate(&manager, "")).says(&["--database-file"]);
    cli.fails(1, &migrate(&manager, "--database sqlite:other.db")).says(&["postgres://USER@HOST/DATABASE"]);
    cli.fails(1, &migrate(&manager, "--database postgres://127.0.0.1:1/none")).says(&["the PostgreSQL database"]);

    // A database with something in it.
    let taken = server.create_database();
    let mut session = Session::open(&taken);
    session.run("CREATE TABLE invoices (id INT)");
    let order = |url: &str| migrate(&manager, &format!("--database {url}"));
    cli.fails(1, &order(&taken)).says(&["not empty", "invoices", "CREATE DATABASE"]);
    // One that makes something else of what it is given.
    let url = server.create_store();
    let mut session = Session::open(&url);
    session.run(
        "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.description := 'spoiled'; RETURN NEW; END $$;
         CREATE TRIGGER spoil BEFORE INSERT ON client_group FOR EACH ROW EXECUTE FUNCTION spoil()",
    );
    cli.fails(1, &order(&url)).says(&["not the same", "client_group", "is another in description", "Nothing of it was kept"]);
    assert_eq!(session.count("SELECT count(*) FROM client_group"), 0);
    // What people wrote into the file stays.
    fs_err::write(folder.join("manager.toml"), configuration.replace("hosts = [", "hosts = [ # mine\n")).unwrap();
    let own = toml(&manager);
    cli.fails(1, &order(&taken)).says(&["not empty"]);
    assert_eq!(toml(&manager), own);
    manager.serve();
    assert!(cli.ok("group list").contains("machines"));
    manager.stop();
    session.run("DROP TRIGGER spoil ON client_group");
    // From the standard input.
    let command = cli.command(&words(&migrate(&manager, "--database-file -")));
    sutler_tests::harness::run(command, format!("{url}\n").as_bytes()).ends_with(0);
    assert!(toml(&manager).contains("hosts = [ # mine\n"), "{}", toml(&manager));
    manager.serve();
    assert!(cli.ok("group list").contains("machines"));
}
