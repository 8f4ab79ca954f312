//! How fast bytes flow, and whose stand still: limits that several share, by the time of day, and groups that are suspended.

use std::time::{Duration, Instant};
use sutler_tests::harness::{Agent, Cli, JobView, Manager, PATIENCE, PackageFolder, Row, wait_for_value, wait_until};

/// How soon what is changed has to be felt.
const SOON: Duration = Duration::from_secs(5);

fn push(cli: &Cli, name: &str, bytes: usize) -> PackageFolder {
    let package = PackageFolder::counting(name, "1.0");
    package.noise("data", bytes, name.bytes().map(u64::from).sum());
    cli.ok(&format!("package push {}", package.path().display()));
    package
}

fn members(cli: &Cli, group: &str, agents: &[&Agent]) {
    cli.ok(&format!("group create {group}"));
    for agent in agents {
        cli.ok(&format!("group add {group} {}", agent.id()));
    }
}

fn number(value: &serde_json::Value) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default()
}

/// The id of the limit that was set.
fn limit(cli: &Cli, line: &str) -> String {
    cli.id(&format!("transfer limit set {line}"))
}

#[test]
fn the_members_of_a_group_share_its_rate_and_a_limit_that_is_cleared_is_felt_on_open_transfers() {
    let manager = Manager::start();
    let cli = manager.cli();
    let agents = [Agent::enrolled("one", &manager), Agent::enrolled("two", &manager)];
    members(&cli, "branch", &[&agents[0], &agents[1]]);
    // Of what does not hold at this hour, or for others, nothing is felt.
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    let hour = |after: i8| format!("{:02}:00", (now.hour() + after) % 24);
    limit(&cli, &format!("4KiB/s --manager --from {} --to {} --zone UTC", hour(8), hour(10)));
    members(&cli, "elsewhere", &[]);
    limit(&cli, "4KiB/s --group elsewhere");
    push(&cli, "quick", 1 << 20);
    let quick = cli.id("job run --package quick --group branch");
    for agent in &agents {
        JobView::wait_for_row(&cli, &quick, &agent.id(), "SUCCEEDED");
    }

    let rate = 128 << 10;
    let shared = limit(&cli, "128KiB/s --group branch");
    push(&cli, "shared", 384 << 10);
    let began = Instant::now();
    let job = cli.id("job run --package shared --group branch");
    let rows = agents.each_ref().map(|agent| JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED"));
    let took = began.elapsed();
    let bytes: u64 = rows.iter().map(|row| number(&row.json["items"][0]["fetchedBytes"])).sum();
    assert!(bytes > 760 << 10, "{bytes}: {rows:#?}");
    // What may go ahead of its time: a piece of each, and the tenth of a second that a bucket keeps.
    let least = Duration::from_secs_f64((bytes - (64 << 10)) as f64 / f64::from(rate));
    assert!(took >= least, "{bytes} bytes came in {took:?}, and had to take {least:?}");

    // Each of two limits holds: at the lower one this would take eight minutes.
    let lower = limit(&cli, "4KiB/s --each-client");
    push(&cli, "long", 2 << 20);
    let job = cli.id("job run --package long --group branch");
    wait_until("both to get bytes", PATIENCE, || cli.json("transfer status")["transferring"] == 2);
    let listed = cli.ok("transfer limit list");
    assert!(listed.contains("4KiB/s") && listed.contains("128KiB/s"), "{listed}");
    let early = JobView::of(&cli, &job);
    assert!(early.rows.iter().all(|row| row.state != "SUCCEEDED"), "{early:#?}");
    cli.ok(&format!("transfer limit clear {lower} {shared}"));
    for agent in &agents {
        JobView::wait(&cli, &job, "what is not limited any more to be done", 4 * SOON, |view| {
            view.row(&agent.id()).is_some_and(|row| row.state == "SUCCEEDED")
        });
    }
    cli.fails(1, &format!("transfer limit clear {lower}")).says(&["no transfer limit"]);
    cli.fails(2, "transfer limit set 4KB --manager").says(&["a rate is like"]);
    cli.fails(1, "transfer limit set 1KiB/s --manager").says(&["4096"]);
    cli.fails(1, "transfer limit set 1MiB/s --manager --zone Mars/Olympus").says(&["Mars/Olympus"]);
}

/// The row of this job, once it waits because transfers are suspended.
fn suspended(cli: &Cli, job: &str, agent: &Agent, timeout: Duration) -> Row {
    let waits = |row: &Row| row.state == "WAITING" && row.reason == "TRANSFER_SUSPENDED";
    let view = JobView::wait(cli, job, "the row to say that it is suspended", timeout, |v| v.row(&agent.id()).is_some_and(waits));
    view.row(&agent.id()).cloned().unwrap()
}

#[test]
fn a_suspended_group_gets_no_bytes_across_restarts_and_goes_on_from_what_it_has_when_it_is_resumed() {
    let mut manager = Manager::start();
    let cli = manager.cli();
    let mut agent = Agent::enrolled("one", &manager);
    let other = Agent::enrolled("two", &manager);
    members(&cli, "branch", &[&agent]);
    push(&cli, "here", 256 << 10);
    let here = cli.id(&format!("job run --package here --client {}", agent.id()));
    JobView::wait_for_row(&cli, &here, &agent.id(), "SUCCEEDED");

    let slow = limit(&cli, "128KiB/s --each-client");
    let size = 6 << 20;
    push(&cli, "large", size);
    let job = cli.id(&format!("job run --package large --group branch --client {}", other.id()));
    let percent = |agent: &Agent| JobView::of(&cli, &job).row(&agent.id()).map_or(0, |row| number(&row.json["progressPercent"]));
    // Of the bytes four fifths of the progress are made.
    wait_until("a good part to be there", PATIENCE, || percent(&agent) >= 15);
    let told = cli.ok("transfer suspend --group branch");
    assert!(told.contains("no bytes"), "{told}");
    let row = suspended(&cli, &job, &agent, SOON);
    assert_eq!(row.attempts, 1);
    assert_eq!(JobView::of(&cli, &job).row(&other.id()).unwrap().state, "DOWNLOADING", "the other one is not in the group");
    cli.ok(&format!("transfer limit clear {slow}"));
    let status = cli.json("transfer status");
    assert_eq!(status["suspensions"][0]["group"], "groups/branch", "{status}");
    let explained = cli.ok(&format!("client explain {}", agent.id()));
    assert!(explained.contains("transfers of a group") && explained.contains("transfer resume"), "{explained}");
    wait_until("the agent to say so", PATIENCE, || agent.ok("status").contains("TRANSFER_SUSPENDED"));

    // Nothing of it is forgotten by anybody.
    manager.kill();
    agent.kill();
    manager.serve();
    agent.start();
    suspended(&cli, &job, &agent, PATIENCE);
    cli.ok(&format!("job retry {job} --kind waiting"));
    suspended(&cli, &job, &agent, PATIENCE);
    JobView::wait_for_row(&cli, &job, &other.id(), "SUCCEEDED");

    // What needs no bytes is installed, and what says so gets them.
    let again = cli.id(&format!("job run --package here --replace always --client {}", agent.id()));
    JobView::wait_for_row(&cli, &again, &agent.id(), "SUCCEEDED");
    assert_eq!(agent.read("opt/here.runs").as_deref(), Some("run\nrun\n"));
    push(&cli, "urgent", 256 << 10);
    let urgent = cli.id("job run --package urgent --group branch --through-suspended");
    JobView::wait_for_row(&cli, &urgent, &agent.id(), "SUCCEEDED");
    assert!(cli.run(&format!("job status {urgent}")).stdout.contains("although transfers are suspended"));
    suspended(&cli, &job, &agent, PATIENCE);

    // Who leaves the group goes on as soon; by itself it would ask again after minutes, when it was refused often enough.
    let refused = Instant::now();
    push(&cli, "left", 256 << 10);
    let mut leaver = Agent::enrolled("three", &manager);
    cli.ok(&format!("group add branch {}", leaver.id()));
    let left = cli.id(&format!("job run --package left --client {}", leaver.id()));
    suspended(&cli, &left, &leaver, PATIENCE);
    wait_until("it to have been refused several times", PATIENCE, || refused.elapsed() > Duration::from_secs(25));
    cli.ok(&format!("group remove branch {}", leaver.id()));
    JobView::wait(&cli, &left, "who left to be done", 2 * SOON, |v| v.row(&leaver.id()).is_some_and(|r| r.state == "SUCCEEDED"));
    leaver.kill();

    cli.ok("transfer resume --group branch");
    let row = wait_for_value(
        "what was stopped to be done",
        PATIENCE,
        || JobView::of(&cli, &job).row(&agent.id()).cloned().unwrap(),
        |row| row.state == "SUCCEEDED",
    );
    assert_eq!(row.attempts, 1);
    let fetched = number(&row.json["items"][0]["fetchedBytes"]);
    assert!(fetched > 0 && fetched < size as u64 - (512 << 10), "it began anew: {fetched} bytes of {size} came after it was resumed");
    assert_eq!(cli.json("transfer status")["suspensions"].as_array().map_or(0, Vec::len), 0);
    for action in ["suspend_transfers", "resume_transfers", "create_transfer_limit", "delete_transfer_limit"] {
        assert!(cli.ok("audit list").contains(action), "{action}");
    }
}
