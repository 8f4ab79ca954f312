//! Installations at a start and at the stop of the machine, and restarts that packages ask for.

use super::*;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use sutler_tests::harness::{Line, Proxy, Setup};
use sutler_tests::tools;

/// Runs what is appended to it in a mount namespace of its own, in which the file that is `$0` says which boot it is.
const IN_A_BOOT: &str = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";

/// A machine whose starts are what the test says.
struct Booting {
    agent: Agent,
    boots: u32,
}

impl Booting {
    /// None where nobody may give a machine another boot id.
    fn new(manager: &Manager, toml: &str) -> Option<Booting> {
        let agent = Agent::new("one");
        let mut booting = Booting { agent, boots: 0 };
        booting.boot();
        let path = booting.file().display().to_string();
        let within = ["unshare", "--mount", "--propagation", "private", "sh", "-c", IN_A_BOOT, &path];
        if !Command::new(within[0]).args(&within[1..]).arg("true").status().is_ok_and(|status| status.success()) {
            tools::skip("needs the right to give a machine another boot id (unshare --mount)");
            return None;
        }
        booting.agent.configure(toml);
        booting.agent.enroll(manager.cli().ok("token create").trim());
        booting.agent.within(&within);
        booting.agent.start();
        Some(booting)
    }

    fn file(&self) -> std::path::PathBuf {
        self.agent.scratch().join("boot")
    }

    /// The next start of the machine.
    fn boot(&mut self) {
        self.boots += 1;
        fs_err::write(self.file(), format!("5b1f0a52-0000-4000-8000-{:012}\n", self.boots)).unwrap();
    }

    /// The machine goes away and comes back.
    fn restart(&mut self) {
        self.agent.kill();
        self.boot();
        self.agent.start();
    }
}

/// A package whose step asks for a restart, with one after it.
fn push_restarting(cli: &Cli, name: &str, how: &str) {
    let package = PackageFolder::with(name, "1.0", "");
    package.file("bin/load", "#!/bin/sh\necho run >>\"$(pwd -P).runs\"\nexit 101\n");
    package.file("bin/use", "#!/bin/sh\necho run >>\"$(pwd -P).used\"\n");
    package.append(&format!(
        "[[step]]\nname = \"load\"\nargv = [\"bin/load\"]\nexit_codes = {{ 0 = \"success\", 101 = \"reboot_{how}\" }}\n\n\
         [[step]]\nname = \"use\"\nargv = [\"bin/use\"]\n"
    ));
    cli.ok(&format!("package push {}", package.path().display()));
}

#[test]
fn what_is_ordered_for_the_next_start_begins_then_also_without_contact() {
    let line = Proxy::new();
    let config = "[net]\nkeep_alive = \"1s\"\nkeep_alive_timeout = \"2s\"\n[limits]\nlease = \"5s\"\n".into();
    let manager = Manager::start_with(Setup { advertise: vec![line.address()], config, ..Setup::default() });
    line.leads_to(manager.addresses().agents);
    let cli = manager.cli();
    ["hello", "other"].iter().for_each(|name| push(&cli, name));
    let limits = "[limits]\nkeep_alive = \"1s\"\nkeep_alive_timeout = \"2s\"\nreconnect = \"100ms\"\nreconnect_most = \"1s\"\n";
    let Some(mut machine) = Booting::new(&manager, limits) else { return };
    let id = machine.agent.id();
    let job = cli.id(&format!("job run --package hello --package other --client {id} --timing at-boot"));
    let row = waits(&cli, &job, &machine.agent, "REBOOT");
    assert!(row.detail.contains("next start"), "{row:#?}");
    assert!(cli.ok(&format!("job show {job}")).contains("begins at the next start of each machine"));
    // The agent alone starts again.
    machine.agent.kill_and_start();
    waits(&cli, &job, &machine.agent, "REBOOT");
    assert_eq!(runs(&machine.agent, "hello"), 0);
    // The longest lease, longer than this manager's usual one of five seconds, came with the offer.
    line.now(Line::Cut);
    wait_until("the machine to be without a manager", PATIENCE, || !machine.agent.status()["connected"].is_string());
    let since = std::time::Instant::now();
    wait_until("the usual lease to be over", PATIENCE, || since.elapsed() > Duration::from_secs(6));
    machine.restart();
    // Both of its packages are there.
    wait_until("it to be installed without contact", LONG, || runs(&machine.agent, "hello") == 1 && runs(&machine.agent, "other") == 1);
    assert!(!machine.agent.status()["connected"].is_string());
    line.now(Line::Open);
    let row = JobView::wait_for_row(&cli, &job, &id, "SUCCEEDED");
    assert_eq!((row.attempts, runs(&machine.agent, "hello")), (1, 1));
}

#[test]
fn a_cancellation_of_what_is_ordered_for_the_next_start_waits_for_the_machine() {
    let line = Proxy::new();
    let config = "[net]\nkeep_alive = \"1s\"\nkeep_alive_timeout = \"2s\"\n[limits]\nlease = \"5s\"\n".into();
    let manager = Manager::start_with(Setup { advertise: vec![line.address()], config, ..Setup::default() });
    line.leads_to(manager.addresses().agents);
    let cli = manager.cli();
    push(&cli, "hello");
    let mut agent = Agent::new("one");
    agent.configure("[limits]\nkeep_alive = \"1s\"\nkeep_alive_timeout = \"2s\"\nreconnect = \"100ms\"\nreconnect_most = \"1s\"\n");
    agent.enroll(cli.ok("token create").trim());
    agent.start();
    let job = cli.id(&format!("job run --package hello --client {} --timing at-boot", agent.id()));
    waits(&cli, &job, &agent, "REBOOT");
    line.now(Line::Cut);
    wait_until("the machine to be without a manager", PATIENCE, || !agent.status()["connected"].is_string());
    cli.ok(&format!("job cancel {job} --yes"));
    let deadline = JobView::of(&cli, &job).row(&agent.id()).unwrap().json["cancelDeadline"].as_str().unwrap().to_owned();
    let deadline: jiff::Timestamp = deadline.parse().unwrap();
    let ahead = deadline.duration_since(jiff::Timestamp::now()).as_secs();
    assert!((23 * 3600 - 600..=24 * 3600 + 60).contains(&ahead), "it may begin within a day: {ahead}");
    line.now(Line::Open);
    JobView::wait_for_row(&cli, &job, &agent.id(), "CANCELED");
    assert_eq!(runs(&agent, "hello"), 0);
}

#[test]
fn what_is_ordered_for_the_stop_begins_when_the_machine_goes_down_and_in_bounded_time() {
    let (_manager, cli, agent) = machine(&["hello"]);
    let slow = PackageFolder::with("slow", "1.0", "");
    slow.file("bin/run", "#!/bin/sh\nwhile [ ! -e \"$(pwd -P).go\" ]; do sleep 0.1; done\n");
    slow.append("[[step]]\nname = \"run\"\nargv = [\"bin/run\"]\n");
    cli.ok(&format!("package push {}", slow.path().display()));
    let id = agent.id();
    let [job, slow] = ["hello", "slow"].map(|name| cli.id(&format!("job run --package {name} --client {id} --timing at-shutdown")));
    let row = waits(&cli, &job, &agent, "REBOOT");
    assert!(row.detail.contains("goes down"), "{row:#?}");
    waits(&cli, &slow, &agent, "REBOOT");
    assert_eq!(runs(&agent, "hello"), 0);
    // What does not end holds the machine up no longer than it is said.
    agent.run("shutdown --within 20").ends_with(1).says(&["the time is over"]);
    assert_eq!(runs(&agent, "hello"), 1);
    JobView::wait_for_row(&cli, &job, &id, "SUCCEEDED");
    fs_err::write(agent.root().join("opt/slow.go"), "").unwrap();
    agent.ok("shutdown --within 60");
    JobView::wait_for_row(&cli, &slow, &id, "SUCCEEDED");
    agent.ok("shutdown --within 60");
}

#[test]
fn a_soft_restart_is_shown_of_the_client_until_it_happened() {
    let manager = Manager::start();
    let cli = manager.cli();
    push_restarting(&cli, "driver", "soft");
    push(&cli, "hello");
    let Some(mut machine) = Booting::new(&manager, "") else { return };
    let id = machine.agent.id();
    let job = cli.id(&format!("job run --package driver --package hello --client {id}"));
    JobView::wait_for_row(&cli, &job, &id, "SUCCEEDED");
    let listed = || cli.ok("client list --filter facts.reboot.needed --columns id,reboot,facts.reboot.by -o csv");
    wait_until("the client to be listed", PATIENCE, || listed().contains(&id));
    // What was installed after it asked for nothing.
    let line = listed().lines().find(|line| line.starts_with(&id)).unwrap().to_owned();
    assert_eq!(line, format!("{id},true,driver"));
    assert!(cli.ok(&format!("job executions {job} --client {id}")).contains("must be restarted"));
    machine.agent.kill_and_start();
    wait_until("the agent to be back", PATIENCE, || machine.agent.status()["connected"].is_string());
    assert!(listed().contains(&id), "the agent alone was started again");
    machine.restart();
    wait_until("the client to be listed no more", PATIENCE, || !listed().contains(&id));
}

/// What stands for the program that restarts a machine: it notes that it was called.
fn restarter(machine: &std::path::Path) -> (std::path::PathBuf, String) {
    let (called, script) = (machine.join("called"), machine.join("restart"));
    fs_err::write(&script, format!("#!/bin/sh\necho called >>{}\n", called.display())).unwrap();
    fs_err::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    (called, format!("reboot = [\"{}\"]\n", script.display()))
}

#[test]
fn a_job_has_machines_restarted_where_it_says_so_and_the_machine_lets_it() {
    let manager = Manager::start();
    let cli = manager.cli();
    push_restarting(&cli, "driver", "soft");
    push_restarting(&cli, "kernel", "hard");
    push_restarting(&cli, "patch", "soft");
    let (called, toml) = restarter(manager.scratch());
    let calls = || fs_err::read_to_string(&called).unwrap_or_default().lines().count();
    let Some(mut machine) = Booting::new(&manager, &toml) else { return };
    let id = machine.agent.id();
    // A soft one: all is done, and the row waits for the restart.
    let job = cli.id(&format!("job run --package driver --client {id} --reboot-in-window"));
    wait_until("the machine to be restarted", PATIENCE, || calls() == 1);
    waits(&cli, &job, &machine.agent, "REBOOT");
    machine.restart();
    JobView::wait_for_row(&cli, &job, &id, "SUCCEEDED");
    // A hard one: what follows in the package goes on after it.
    let job = cli.id(&format!("job run --package kernel --client {id} --reboot-in-window"));
    wait_until("the machine to be restarted again", PATIENCE, || calls() == 2);
    assert_eq!(machine.agent.read("opt/kernel.used"), None);
    machine.restart();
    let row = JobView::wait_for_row(&cli, &job, &id, "SUCCEEDED");
    assert_eq!((row.attempts, runs(&machine.agent, "kernel"), machine.agent.read("opt/kernel.used")), (1, 1, Some("run\n".into())));
    // The machine's own administrator forbids it.
    let policy = machine.agent.scratch().join("policy.toml");
    fs_err::write(&policy, "allow_reboot = false\n").unwrap();
    fs_err::set_permissions(&policy, PermissionsExt::from_mode(0o644)).unwrap();
    let job = cli.id(&format!("job run --package patch --client {id} --reboot-in-window"));
    JobView::wait_for_row(&cli, &job, &id, "SUCCEEDED");
    assert_eq!(calls(), 2);
    wait_until("it to be said", PATIENCE, || cli.ok("client list --filter facts.reboot.needed").contains(&id));
}
