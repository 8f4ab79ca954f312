//! The doctors: one fault at a time is named, and nothing else; mended, the doctor is content.

use serde_json::Value;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use sutler_tests::harness::{Agent, Cli, Done, Manager, PATIENCE, programs, run, wait_until, words};
use sutler_tests::tools;

fn wrong(done: &Done) -> Vec<(String, String)> {
    let checks: Vec<Value> = serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", done.stdout, done.stderr));
    assert!(checks.len() >= 5, "{}", done.stdout);
    let text = |check: &Value, member: &str| check[member].as_str().unwrap().to_owned();
    for check in &checks {
        assert_eq!(check["what_to_do"] == "", check["verdict"] != "WRONG", "{check}");
        assert!(!text(check, "looked_at").is_empty() && !text(check, "found").is_empty(), "{check}");
    }
    let wrong: Vec<_> = checks.iter().filter(|c| c["verdict"] == "WRONG").map(|c| (text(c, "check"), text(c, "found"))).collect();
    assert_eq!(done.code, if wrong.is_empty() { 0 } else { 30 }, "{}", done.stdout);
    wrong
}

/// The doctor names this and nothing else.
fn names(done: &Done, check: &str, word: &str) {
    let wrong = wrong(done);
    let [(named, found)] = wrong.as_slice() else { panic!("{check} is to be named and nothing else, not {wrong:#?}") };
    assert_eq!(named, check, "{found}");
    assert!(found.contains(word), "{word:?} is not in {found:?}");
}

fn content(done: &Done) {
    assert_eq!(wrong(done), []);
}

fn mode(path: &Path, mode: u32) {
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Puts other bytes into a file while this runs, and then its own again.
fn with_other_bytes(path: &Path, bytes: &[u8], meanwhile: impl FnOnce()) {
    let own = fs_err::read(path).unwrap();
    fs_err::write(path, bytes).unwrap();
    meanwhile();
    fs_err::write(path, own).unwrap();
}

fn without(path: &Path, meanwhile: impl FnOnce()) {
    let aside = path.with_extension("aside");
    fs_err::rename(path, &aside).unwrap();
    meanwhile();
    fs_err::rename(&aside, path).unwrap();
}

#[test]
fn the_managers_doctor_names_one_fault_at_a_time_and_nothing_else() {
    let mut manager = Manager::start();
    let addresses = manager.addresses();
    let folder = manager.folder();
    let line = |format: &str, folder: &Path| {
        let at = [("agents", addresses.agents), ("operators", addresses.operators), ("telemetry", addresses.telemetry)];
        let at: String = at.iter().map(|(port, address)| format!(" --{port} {address}")).collect();
        format!("doctor --dir {} -o {format}{at}", folder.display())
    };
    let cli = manager.cli();
    let doctor = || cli.run(&line("json", &folder));
    let text = cli.run(&line("text", &folder)).ends_with(0).stdout;
    assert!(text.contains("all is well") && text.contains("database"), "{text}");
    content(&doctor());

    let toml = folder.join("manager.toml");
    with_other_bytes(&toml, b"hosts = 7", || names(&doctor(), "configuration", "hosts"));
    let key = folder.join("ca/agents.key");
    for bad in [0o640, 0o604] {
        mode(&key, bad);
        names(&doctor(), "folder", "open to other users");
        mode(&key, 0o600);
    }
    mode(&folder, 0o755);
    names(&doctor(), "folder", "open to other users");
    mode(&folder, 0o700);
    let publisher = manager.config().join("profiles/acme.example/publisher.key");
    fs_err::copy(&publisher, folder.join("notes.txt")).unwrap();
    names(&doctor(), "folder", "publisher's key");
    fs_err::remove_file(folder.join("notes.txt")).unwrap();
    without(&folder.join("ca/agents.pem"), || names(&doctor(), "certificates", "agents.pem"));
    with_other_bytes(&folder.join("server/identity.pem"), b"nothing", || names(&doctor(), "certificates", "identity.pem"));
    let own = fs_err::read_to_string(&toml).unwrap();
    fs_err::write(&toml, own.replace("\n[limits]\n", "\n[limits]\ndisk_reserve = \"1048576GiB\"\n")).unwrap();
    names(&doctor(), "disk", "limits.disk_reserve");
    fs_err::write(&toml, &own).unwrap();
    let elsewhere = line("json", &folder).replace(&addresses.operators.to_string(), "127.0.0.1:1");
    names(&cli.run(&elsewhere), "ports", "nobody answers");
    content(&doctor());

    manager.stop();
    names(&doctor(), "service", "no manager serves");
    let found = |done: &Done| wrong(done).into_iter().filter(|(check, _)| check != "service").collect::<Vec<_>>();
    let taken = std::net::TcpListener::bind(addresses.agents).unwrap();
    let wrong_now = found(&doctor());
    assert!(matches!(&wrong_now[..], [(check, why)] if check == "ports" && why.contains("in use")), "{wrong_now:?}");
    drop(taken);
    without(&folder.join("manager.db"), || {
        let wrong_now = found(&doctor());
        assert!(matches!(&wrong_now[..], [(check, _)] if check == "database"), "{wrong_now:?}");
    });
    let database = fs_err::read(folder.join("manager.db")).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(folder.join("manager.db")).unwrap();
    for page in 2..database.len() as u64 / 4096 {
        file.write_all_at(&[0x5a; 256], page * 4096).unwrap();
    }
    let wrong_now = found(&doctor());
    assert!(
        matches!(&wrong_now[..], [(check, why)] if check == "database" && (why.contains("damaged") || why.contains("malformed"))),
        "{wrong_now:?}"
    );
    fs_err::write(folder.join("manager.db"), &database).unwrap();
    manager.serve();
    content(&doctor());
    let nowhere = manager.scratch().join("nowhere");
    names(&cli.run(&line("json", &nowhere)), "configuration", "there is no folder");
}

#[test]
fn the_agents_doctor_names_one_fault_at_a_time_and_nothing_else() {
    let mut manager = Manager::start();
    let cli = manager.cli();
    let mut agent = Agent::new("one");
    // Before it is enrolled that is what is wrong, and nothing else can be.
    names(&agent.run("doctor -o json"), "folder", "not there");
    agent.enroll(cli.ok("token create").trim());
    agent.start();
    let state = agent.state();
    let content_soon = |agent: &Agent| {
        wait_until("the doctor to be content, and the agent connected", PATIENCE, || {
            let seen = agent.run("doctor");
            seen.code == 0 && seen.stdout.contains("all is well") && seen.stdout.contains("the agent runs, connected to")
        });
        content(&agent.run("doctor -o json"));
    };
    content_soon(&agent);

    let toml = agent.scratch().join("bad.toml");
    fs_err::write(&toml, "hold = 7\n").unwrap();
    names(&run(agent.command(&["doctor", "-o", "json", "--config", toml.to_str().unwrap()]), b""), "configuration", "hold");
    let rules = agent.scratch().join("policy.toml");
    fs_err::write(&rules, "hold = 7\n").unwrap();
    fs_err::write(&toml, "").unwrap();
    names(&run(agent.command(&["doctor", "-o", "json", "--config", toml.to_str().unwrap()]), b""), "policy", "hold");
    fs_err::remove_file(&rules).unwrap();
    for (file, bad) in [("credential.pem", 0o604), ("pins.json", 0o660)] {
        mode(&state.join(file), bad);
        names(&agent.run("doctor -o json"), "folder", "open to other users");
        mode(&state.join(file), 0o600);
    }
    without(&state.join("pins.json"), || names(&agent.run("doctor -o json"), "enrolment", "pins.json"));
    with_other_bytes(&state.join("credential.pem"), b"nothing", || names(&agent.run("doctor -o json"), "enrolment", "credential.pem"));
    with_other_bytes(&state.join("generation"), b"another", || names(&agent.run("doctor -o json"), "journal", "was lost"));
    content_soon(&agent);

    agent.stop();
    names(&agent.run("doctor -o json"), "service", "no agent runs");
    agent.configure("[limits]\ndisk_reserve = \"1TiB\"\n".replace("1TiB", "1024GiB").as_str());
    agent.start();
    names(&agent.run("doctor -o json"), "disk", "are needed");
    agent.stop();
    agent.configure("");
    agent.start();
    content_soon(&agent);

    // The manager is away, then it is another one, then it does not know the client any more.
    manager.stop();
    names(&agent.run("doctor -o json"), "manager", "cannot connect");
    let other = Manager::start();
    let addresses = fs_err::read_to_string(state.join("addresses.json")).unwrap();
    let elsewhere = addresses.replace(&manager.addresses().agents.to_string(), &other.addresses().agents.to_string());
    with_other_bytes(&state.join("addresses.json"), elsewhere.as_bytes(), || {
        names(&agent.run("doctor -o json"), "manager", "no trusted connection");
    });
    manager.serve();
    content_soon(&agent);
    cli.ok(&format!("client remove {} --yes", agent.id()));
    names(&agent.run("doctor -o json"), "manager", "removed");
}

#[test]
fn the_operators_doctor_names_one_fault_at_a_time_and_nothing_else() {
    let mut manager = Manager::start();
    let cli = manager.cli();
    let profile = cli.profile();
    let doctor = || cli.run("doctor -o json");
    let text = cli.ok("doctor");
    assert!(text.contains("all is well") && text.contains(": admin"), "{text}");
    content(&doctor());

    let nobody = Cli::new(&manager.scratch().join("nobody"));
    names(&nobody.run("doctor -o json"), "profile", "no profile is chosen");
    for (file, bad) in [("operator.key", 0o640), ("publisher.key", 0o604)] {
        mode(&profile.join(file), bad);
        names(&doctor(), "folder", "open to other users");
        mode(&profile.join(file), 0o600);
    }
    mode(&profile, 0o755);
    names(&doctor(), "folder", "open to other users");
    mode(&profile, 0o700);
    with_other_bytes(&profile.join("profile.toml"), b"address = 7", || names(&doctor(), "profile", "profile.toml"));
    without(&profile.join("operator.pem"), || names(&doctor(), "profile", "operator.pem"));
    let other = Manager::start();
    names(&cli.at(other.addresses().operators.to_string()).run("doctor -o json"), "manager", "cannot reach the manager");
    content(&doctor());

    if !tools::skip_without("faketime") {
        let ahead = |later: &str| run(programs::within(&programs::by_clock(later), cli.command(&words("doctor -o json"))), b"");
        // The certificate is not over: it is the clock that says so.
        names(&ahead("+13h"), "clock", "ahead of the manager");
        // The manager goes along: then it is the certificate that is over.
        manager.stop();
        manager.within(&programs::by_clock("+13h"));
        manager.serve();
        names(&ahead("+13h"), "certificate", "it ended at");
        manager.kill();
        manager.within(&[]);
        manager.serve();
    }
    manager.stop();
    names(&doctor(), "manager", "cannot reach the manager");
    manager.serve();
    content(&doctor());
}
