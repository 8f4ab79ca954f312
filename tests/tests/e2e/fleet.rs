//! Many machines at once, that nobody attends to.

use std::time::Duration;
use sutler_base::token::TokenString;
use sutler_tests::harness::{Agent, Cli, JobView, Manager, PATIENCE, PackageFolder, Setup, wait_until};
use sutler_tests::tools;

const MACHINES: usize = 50;

fn state(cli: &Cli, client: &str) -> String {
    cli.json(&format!("client show {client}"))["state"].as_str().unwrap_or_default().trim_start_matches("CLIENT_STATE_").to_owned()
}

#[test]
fn fifty_agents_enrol_with_one_token_and_one_from_elsewhere_waits_for_approval() {
    // The one from elsewhere comes over IPv6, from outside the token's network.
    let has_ipv6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    if !has_ipv6 && tools::skip("needs IPv6 on the loopback for a machine outside of the token's network") {
        return;
    }
    let manager = Manager::start_with(Setup { agents: "[::]:0".into(), ..Setup::default() });
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    package.noise("noise", 1 << 20, 1);
    cli.ok(&format!("package push {}", package.path().display()));
    cli.ok("group create new-clients");
    cli.ok("policy create everybody --group new-clients --trigger new-client");
    let job = cli.id("job run --package hello --group new-clients --rollout all-at-once");
    let token = cli.ok(&format!("token create --uses {} --ttl 1h --network 127.0.0.0/8", MACHINES + 1));

    let mut foreign = TokenString::parse(&token).unwrap();
    foreign.addresses = vec![format!("[::1]:{}", manager.addresses().agents.port())];
    let mut outsider = Agent::new("outsider");
    outsider.enroll(&foreign.encode());
    outsider.start();

    let mut agents = Vec::new();
    for n in 0..MACHINES {
        let mut agent = Agent::new(&format!("machine-{n}"));
        agent.enroll(token.trim());
        agent.start();
        agents.push(agent);
    }
    let view = JobView::wait(&cli, &job, "fifty installations", 3 * PATIENCE, |view| {
        view.count("finished") == MACHINES as i64 || view.count("error") > 0
    });
    assert_eq!(
        view.counters(),
        format!("total={MACHINES} finished={MACHINES}"),
        "{:#?}",
        view.rows.iter().find(|row| row.state != "SUCCEEDED")
    );
    for agent in &agents {
        let row = view.row(&agent.id()).unwrap();
        assert_eq!((row.attempts, agent.read("opt/hello.runs").as_deref()), (1, Some("run\n")), "{}", agent.name());
    }

    let id = outsider.id();
    wait_until("the one from elsewhere to be connected", PATIENCE, || cli.json(&format!("client show {id}"))["online"] == true);
    assert_eq!(state(&cli, &id), "PENDING");
    assert!(!cli.ok("group members new-clients").contains(&id));
    assert!(view.row(&id).is_none());
    assert!(!outsider.root().join("opt").exists(), "it was given something");

    // Approved it is as new as the others were.
    cli.ok(&format!("client approve {id}"));
    JobView::wait_for_row(&cli, &job, &id, "SUCCEEDED");
    assert_eq!(state(&cli, &id), "ACTIVE");
    // The token is used up.
    Agent::new("too late").try_enroll(token.trim()).ends_with(1);
}

#[test]
fn two_hundred_tokens_make_a_table_for_a_spreadsheet() {
    let manager = Manager::start();
    let cli = manager.cli();
    let csv = cli.ok("token create --count 200 -o csv");
    let rows: Vec<_> = csv.lines().collect();
    assert_eq!(rows.len(), 201, "a header and a row for each");
    let column = rows[0].split(',').position(|name| name == "secret").unwrap();
    let mut secrets: Vec<_> = rows[1..].iter().map(|row| row.split(',').nth(column).unwrap().to_owned()).collect();
    let some = secrets[117].clone();
    secrets.sort();
    secrets.dedup();
    assert_eq!(secrets.len(), 200);
    Agent::new("one of them").enroll(&some);
    assert_eq!(cli.json("token list").as_array().unwrap().iter().filter(|token| token["used"] == 1).count(), 1);
}

#[test]
fn an_agent_enrols_by_itself_at_its_first_boot_and_the_file_is_removed() {
    let manager = Manager::start();
    let cli = manager.cli();
    let agent = Agent::new("golden image");
    let file = agent.scratch().join("enrolment-token");
    fs_err::write(&file, cli.ok("token create")).unwrap();
    fs_err::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    agent.ok(&format!("enroll --token-file {} --remove-token-file", file.display()));
    assert!(!file.exists());
    wait_until("the client to be listed", Duration::from_secs(10), || cli.ok("client list").contains(&agent.id()));
}
