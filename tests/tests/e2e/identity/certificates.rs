//! Certificates that are renewed or have ended, and CAs that are exchanged while everything runs.

use super::*;
use sutler_tests::harness::programs;

#[test]
fn certificates_are_renewed_again_and_again_and_nobody_is_locked_out() {
    let mut manager = with_limits("agent_certificate = \"6s\"");
    let cli = manager.cli();
    let mut agent = Agent::enrolled("machine", &manager);
    let client = agent.id();
    let mut seen = vec![credential(&agent)];
    for round in 0..4 {
        // Killed on the way, either of the two: whatever was on its way is lost.
        match round {
            1 => agent.kill_and_start(),
            2 => manager.kill_and_serve(),
            _ => {}
        }
        wait_until("the next key to be in use", PATIENCE, || !seen.contains(&credential(&agent)));
        seen.push(credential(&agent));
    }
    assert_eq!(state(&cli, &client), "CLIENT_STATE_ACTIVE");
    let (_package, job) = standing_job(&cli, "machines");
    cli.ok(&format!("group add machines {client}"));
    JobView::wait_for_row(&cli, &job, &client, "SUCCEEDED");
}

#[test]
fn a_machine_that_slept_past_its_certificate_comes_back_as_its_manager_says() {
    let limits = |policy: &str, grace: &str| Setup {
        config: table(&format!("agent_certificate = \"5s\"\nagent_grace = \"{grace}\"")),
        expired_agents: Some(policy.into()),
        ..Setup::default()
    };
    let policies = [("automatic", "1h"), ("approved", "1h"), ("off", "1h"), ("automatic", "1s")];
    let managers: Vec<Manager> = policies.iter().map(|(policy, grace)| Manager::start_with(limits(policy, grace))).collect();
    let mut agents: Vec<Agent> = managers.iter().map(|manager| Agent::enrolled("sleeper", manager)).collect();
    for agent in &mut agents {
        wait_until("the machine to be connected", PATIENCE, || is_connected(agent));
        agent.stop();
    }
    // One whose client is removed while it sleeps.
    let mut gone = Agent::enrolled("gone", &managers[0]);
    wait_until("the machine to be connected", PATIENCE, || is_connected(&gone));
    gone.stop();
    managers[0].cli().ok(&format!("client remove {} --yes", gone.id()));
    let asleep = Instant::now();
    wait_until("the certificates, and the short grace, to be over", PATIENCE, || asleep.elapsed() > Duration::from_secs(8));
    agents.iter_mut().for_each(Agent::start);
    gone.start();
    let id = |n: usize| agents[n].id();
    wait_until("the machine to be back by itself", PATIENCE, || is_connected(&agents[0]));
    assert_eq!(state(&managers[0].cli(), &id(0)), "CLIENT_STATE_ACTIVE");

    let (renewed, refused) = ("had ended and was renewed", "could not be renewed");
    wait_until("the removed machine to have asked", PATIENCE, || [renewed, refused].iter().any(|said| gone.log().contains(said)));
    assert!(gone.log().contains(refused), "{}", gone.log());

    let asking = || state(&managers[1].cli(), &id(1)) != "CLIENT_STATE_ACTIVE" || is_connected(&agents[1]);
    wait_until("the machine to have asked", PATIENCE, asking);
    assert_eq!(state(&managers[1].cli(), &id(1)), "CLIENT_STATE_PENDING");
    managers[1].cli().ok(&format!("client approve {}", id(1)));
    wait_for_state(&managers[1].cli(), &id(1), "CLIENT_STATE_ACTIVE");
    wait_until("the machine to be back after the approval", PATIENCE, || is_connected(&agents[1]));

    for n in [2, 3] {
        wait_until("the machine to be refused", PATIENCE, || agents[n].log().contains(refused));
        assert!(!is_connected(&agents[n]), "{:?}", policies[n]);
        // Who comes too late has shown its key, so that it is known who it is: that stands in the audit log, and not without end.
        let refusals = || {
            let audit = managers[n].cli().json(&format!("audit list --object clients/{}", id(n)));
            assert!(!audit.to_string().contains("renew_expired_certificate"), "{audit:#}");
            let refused = |e: &&serde_json::Value| e["action"] == "certificate_refused" && e["actor"] == format!("clients/{}", id(n));
            audit.as_array().unwrap().iter().filter(refused).cloned().collect::<Vec<_>>()
        };
        let noted = wait_for_value("the refusal in the audit log", PATIENCE, &refusals, |noted| !noted.is_empty());
        assert!(noted[0]["detail"].as_str().unwrap().contains("ended at"), "{noted:#?}");
    }
}

#[test]
fn a_machine_whose_clock_is_off_by_days_works_and_its_skew_is_shown() {
    if tools::skip_without("faketime") {
        return;
    }
    let manager = with_limits("agent_certificate = \"15s\"");
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    cli.ok("group create machines");
    // By the clock of a machine that is days ahead this is over.
    let job = cli.id("job run --package hello --group machines --expires 1d");
    let machines = [("+3d", 3i64), ("-3d", -3)].map(|(offset, days)| {
        let mut agent = Agent::new("skewed");
        agent.enroll(cli.ok("token create --group machines").trim());
        let first = credential(&agent);
        agent.within(&programs::by_clock(offset));
        agent.start();
        (agent, days, first)
    });
    for (agent, days, _) in &machines {
        let client = agent.id();
        let row = JobView::wait_for_end(&cli, &job, &client);
        assert_eq!(row.state, "SUCCEEDED", "{days} days: the schedule is the manager's");
        let shown = cli.json(&format!("client show {client}"));
        let skew: f64 = shown["clockSkew"].as_str().unwrap().trim_end_matches('s').parse().unwrap();
        assert!((skew - (days * 86_400) as f64).abs() < 60.0, "{shown:#}");
        let (explained, word) = (cli.ok(&format!("client explain {client}")), if *days > 0 { "ahead" } else { "behind" });
        assert!(explained.lines().any(|line| line.starts_with("clock: ") && line.contains(word)), "{days}: {explained}");
        assert!(agent.ok("status").contains(" the manager's"), "{}", agent.ok("status"));
    }
    for (agent, _, first) in &machines {
        wait_until("the certificate to be renewed by the manager's clock", PATIENCE, || credential(agent) != *first);
    }
    // In time: neither had ended before.
    let audit = cli.ok("audit list");
    assert!(!audit.contains("renew_expired_certificate"), "{audit}");
}

#[test]
fn issuing_cas_are_rolled_over_while_everything_runs_and_nobody_is_refused() {
    let mut manager = with_limits("agent_certificate = \"8s\"");
    let cli = manager.cli();
    let mut agent = Agent::enrolled("machine", &manager);
    let early = cli.ok("token create");
    wait_until("the machine to be connected", PATIENCE, || is_connected(&agent));
    // The root's key is elsewhere.
    let root_key = manager.scratch().join("root.key");
    fs_err::rename(manager.folder().join("ca/root.key"), &root_key).unwrap();
    let old = fs_err::read_to_string(manager.folder().join("ca/agents.pem")).unwrap();
    let folder = manager.folder();
    let other_key = manager.folder().join("ca/agents.key");
    cli.fails(1, &format!("ca rotate --dir {} --root-key {}", folder.display(), other_key.display()));
    cli.ok(&format!("ca rotate --dir {} --root-key {}", folder.display(), root_key.display()));
    let new = fs_err::read_to_string(manager.folder().join("ca/agents.pem")).unwrap();
    assert_ne!(old, new);
    let issued_by_the_new =
        |agent: &Agent| fs_err::read_to_string(agent.state().join("credential.pem")).is_ok_and(|c| c.contains(new.trim()));
    assert!(!issued_by_the_new(&agent));
    wait_until("the next certificate to be one of the new CA", PATIENCE, || issued_by_the_new(&agent));
    // The operator's certificate is one of the CA before; a token of before lets a machine in.
    let late = Agent::new("late");
    late.enroll(early.trim());
    assert!(issued_by_the_new(&late));
    assert_eq!(state(&cli, &agent.id()), "CLIENT_STATE_ACTIVE");
    for log in [agent.log(), late.log()] {
        assert!(!log.contains("refuses") && !log.contains("no trusted connection"), "{log}");
    }
    // The same after a restart, and once more.
    manager.kill_and_serve();
    cli.ok(&format!("ca rotate --dir {} --root-key {}", folder.display(), root_key.display()));
    agent.kill_and_start();
    wait_until("the machine to be back", PATIENCE, || is_connected(&agent));
    cli.ok("client list");
    assert!(!manager.folder().join("ca/root.key").exists());
}

#[test]
fn cas_are_exchanged_one_after_the_other_however_many_commands_come_at_once() {
    let manager = Manager::start();
    let cli = manager.cli();
    let agent = Agent::enrolled("machine", &manager);
    let (dir, scratch) = (manager.folder(), manager.scratch());
    let (shown, root_key) = (dir.display(), dir.join("ca/root.key"));
    let before = scratch.join("before");
    cli.ok(&format!("ca export --dir {shown} --output {}", before.display()));
    for round in 0..4 {
        let line = |n: usize| match n % 4 {
            0 | 1 => format!("ca rotate --dir {shown} --root-key {}", root_key.display()),
            2 => format!("ca export --dir {shown} --output {}", scratch.join(format!("bundle-{round}-{n}")).display()),
            _ => format!("ca import --dir {shown} {}", before.display()),
        };
        std::thread::scope(|scope| {
            (0..8).for_each(|n| {
                drop(scope.spawn({
                    let (cli, line) = (&cli, line(n));
                    move || cli.ok(&line)
                }))
            });
            scope.spawn(|| cli.ok(&format!("backup --dir {shown} {}", scratch.join(format!("backup-{round}")).display())));
        });
        // What lies there, and what was given away, is whole and of one making.
        let of_one_making = |ca: sutler_certs::CaBundle| {
            use sutler_certs::ca::Authority::{Agents, Operators, Servers};
            let began: Vec<_> = [Agents, Operators, Servers].map(|a| ca.review(a, ca.certificate(a)).unwrap()).into();
            assert!(began.iter().all(|at| at.duration_since(began[0]).abs() < jiff::SignedDuration::from_millis(1500)), "{began:?}");
        };
        of_one_making(sutler_certs::CaBundle::load(&dir.join("ca")).unwrap());
        of_one_making(sutler_certs::CaBundle::load(&scratch.join(format!("backup-{round}/ca"))).unwrap());
        for n in [2, 6] {
            let text = fs_err::read_to_string(scratch.join(format!("bundle-{round}-{n}"))).unwrap();
            of_one_making(sutler_certs::CaBundle::from_text(&text).unwrap());
        }
        assert!(root_key.exists() && !dir.join(".ca.new").exists());
    }
    let mut late = Agent::enrolled("late", &manager);
    wait_until("a machine of now to be connected", PATIENCE, || is_connected(&late));
    assert!(is_connected(&agent) && late.is_running());
    // One that never ends is named, and nothing is done beside it.
    let lock = std::fs::File::options().write(true).open(dir.join("ca.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let held = fs_err::read(dir.join("ca/agents.pem")).unwrap();
    let refused = cli.fails(1, &format!("ca rotate --dir {shown} --root-key {}", root_key.display()));
    refused.says(&["another process works with the CAs", "try again"]);
    assert_eq!(fs_err::read(dir.join("ca/agents.pem")).unwrap(), held);
}

#[test]
fn the_managers_own_certificate_is_rolled_over_without_a_restart_and_nobody_is_refused() {
    let mut manager = Manager::start();
    let cli = manager.cli();
    let (_package, job) = standing_job(&cli, "machines");
    let early = cli.ok("token create");
    let mut agent = Agent::enrolled("machine", &manager);
    wait_until("the machine to be connected", PATIENCE, || is_connected(&agent));
    let (pid, folder) = (manager.pid(), manager.folder());
    let ca = || CaBundle::load(&folder.join("ca")).unwrap();
    let (before, trust_domain) = (ca().certificate(Authority::Servers).clone(), ca().trust_domain().clone());
    // Who trusts one servers CA and nothing else gets through to a manager with a certificate of that one.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let address = manager.addresses().agents.to_string();
    let shows = |anchor: &CertificateDer<'static>| {
        let trust = ServerTrust::Anchors { anchors: vec![anchor.clone()], trust_domain: trust_domain.clone() };
        let tls = tls::agent_client(None, &trust, tls::Clock::system()).unwrap();
        runtime.block_on(sutler_agent::link::connect(&address, tls)).is_ok()
    };
    assert!(shows(&before));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // An operator and newcomers who come all the while.
        let operator = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                cli.ok("group list");
            }
        });
        let newcomers = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                Agent::new("newcomer").enroll(cli.ok("token create").trim());
            }
        });
        let over = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..2 {
                cli.ok(&format!("ca rotate --dir {0} --root-key {0}/ca/root.key", folder.display()));
                let after = ca().certificate(Authority::Servers).clone();
                wait_until("the manager to show a certificate of the new CA", PATIENCE, || shows(&after));
                assert!(!shows(&before));
            }
        }));
        done.store(true, Ordering::Relaxed);
        operator.join().unwrap();
        newcomers.join().unwrap();
        over.unwrap();
    });
    assert!(manager.is_running() && manager.pid() == pid);
    // On the connection that it had all the while.
    cli.ok(&format!("group add machines {}", agent.id()));
    JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
    assert_eq!(agent.log().lines().filter(|line| line.contains(" connected ")).count(), 1, "{}", agent.log());
    // And on new ones, with what was given out before.
    Agent::new("late").enroll(early.trim());
    agent.kill_and_start();
    wait_until("the machine to be back", PATIENCE, || is_connected(&agent));
    assert!(!agent.log().contains("no trusted connection"), "{}", agent.log());
}
