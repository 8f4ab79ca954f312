//! Maintenance windows.

use super::*;

/// A manager with a group of machines whose only window is far from now, and one of them.
fn closed() -> (Manager, Cli, Agent) {
    let manager = Manager::start();
    let cli = manager.cli();
    cli.ok("group create offices");
    cli.ok(&format!("window create nights --group offices {} --zone UTC", far_from_now()));
    for name in ["one", "two", "three"] {
        push(&cli, name, "");
    }
    let agent = member(&manager, "offices");
    (manager, cli, agent)
}

#[test]
fn a_window_holds_up_every_job_of_its_clients_until_it_is_changed_and_opens() {
    let (_manager, cli, agent) = closed();
    let job = cli.id("job run --package one --group offices");
    let sentence = waits(&cli, &job, &agent);
    assert!(sentence.contains("the window nights of groups/offices, which opens"), "{sentence}");
    let explained = cli.ok(&format!("client explain {}", agent.id()));
    assert!(explained.contains("waits for the window nights of groups/offices"), "{explained}");
    // Also one that is for the client itself. What ignores windows is seen to.
    let ignoring = cli.id(&format!("job run --package two --client {} --ignore-windows", agent.id()));
    installed(&cli, &ignoring, &agent, "two");
    assert!(cli.ok(&format!("job show {ignoring}")).contains("ignores maintenance windows"));
    assert!(cli.ok("audit list").contains("ignoring maintenance windows"));
    assert_eq!(runs(&agent, "one"), 0);
    // Another window beside it: the union holds.
    cli.ok(&format!("window create days --group offices {} --zone UTC", around_now("UTC")));
    installed(&cli, &job, &agent, "one");
    cli.ok("window delete days");
    let job = cli.id("job run --package three --group offices");
    waits(&cli, &job, &agent);
    cli.ok(&format!("window update nights {}", around_now("UTC")));
    installed(&cli, &job, &agent, "three");
    let audit = cli.ok("audit list");
    assert!(["create_window", "update_window", "delete_window"].iter().all(|action| audit.contains(action)), "{audit}");
}

#[test]
fn a_window_opens_by_itself() {
    let (_manager, cli, agent) = closed();
    let job = cli.id("job run --package one --group offices");
    waits(&cli, &job, &agent);
    // The next minute but one, as the manager's clock has it: it opens when nobody says anything.
    let next = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(65);
    let clock = |at: jiff::Timestamp| at.strftime("%H:%M").to_string();
    let (from, to) = (clock(next), clock(next + jiff::SignedDuration::from_mins(2)));
    cli.ok(&format!("window update nights --from {from} --to {to}"));
    installed(&cli, &job, &agent, "one");
    let ended = moment(&JobView::of(&cli, &job).row(&agent.id()).unwrap().json["enterTime"]);
    assert!(ended.as_second() >= next.as_second() / 60 * 60, "{ended} is before {from}");
}

#[test]
fn from_its_deadline_on_windows_hold_nothing_up() {
    let (_manager, cli, agent) = closed();
    let job = cli.id("job run --package one --group offices --deadline 12s");
    let sentence = waits(&cli, &job, &agent);
    assert!(sentence.contains("before its deadline"), "{sentence}");
    installed(&cli, &job, &agent, "one");
    let shown = cli.json(&format!("job show {job}"));
    let ended = moment(&JobView::of(&cli, &job).row(&agent.id()).unwrap().json["enterTime"]);
    assert!(ended >= moment(&shown["terms"]["schedule"]["deadlineTime"]));
    // A deadline that is set later does the same.
    let job = cli.id("job run --package two --group offices");
    waits(&cli, &job, &agent);
    cli.ok(&format!("job update {job} --deadline 3s"));
    installed(&cli, &job, &agent, "two");
}

#[test]
fn windows_go_by_the_clock_of_each_machine_or_by_a_fixed_one() {
    let manager = Manager::start();
    let cli = manager.cli();
    cli.ok("group create offices");
    push(&cli, "one", "");
    // Half a day apart, whatever their clocks do in summer.
    cli.ok(&format!("window create local --group offices {}", around_now("Asia/Tokyo")));
    let (tokyo, new_york) = (in_zone(&manager, "offices", "Asia/Tokyo"), in_zone(&manager, "offices", "America/New_York"));
    let job = cli.id("job run --package one --group offices");
    installed(&cli, &job, &tokyo, "one");
    let sentence = waits(&cli, &job, &new_york);
    assert!(sentence.contains("America/New_York"), "{sentence}");
    cli.ok("window update local --zone Asia/Tokyo");
    installed(&cli, &job, &new_york, "one");
}

#[test]
fn what_does_not_fit_waits_and_what_never_fits_is_said() {
    let (_manager, cli, agent) = closed();
    push(&cli, "long", "duration = \"3h\"\n");
    push(&cli, "short", "duration = \"30m\"\n");
    let long = cli.id("job run --package long --group offices");
    let sentence = waits(&cli, &long, &agent);
    assert!(sentence.contains("180 minutes") && sentence.contains("it never fits"), "{sentence}");
    // Open for a while yet, but not for as long.
    cli.ok(&format!("window create days --group offices {} --zone UTC", around_now("UTC")));
    let short = cli.id("job run --package short --group offices");
    installed(&cli, &short, &agent, "short");
    let sentence = waits(&cli, &long, &agent);
    assert!(sentence.contains("does not fit any more into the window that is open"), "{sentence}");
    cli.ok("window update days --from 00:00 --to 00:00");
    installed(&cli, &long, &agent, "long");
}

#[test]
fn a_client_that_joins_a_group_with_windows_is_held_up_by_them_and_a_group_takes_them_along() {
    let (manager, cli, _agent) = closed();
    let other = Agent::enrolled("other", &manager);
    connected(&other);
    let job = cli.id(&format!("job run --package one --client {} --at 30s --prefetch 1h", other.id()));
    assert!(waits(&cli, &job, &other).starts_with("scheduled for"));
    cli.ok(&format!("group add offices {}", other.id()));
    wait_until("it to wait for the window", PATIENCE, || waits(&cli, &job, &other).contains("the window nights"));
    wait_until("its start time to be over", LONG, || jiff::Timestamp::now() > start_of(&cli, &job) + jiff::SignedDuration::from_secs(2));
    assert_eq!(runs(&other, "one"), 0);
    cli.ok("group delete offices --force");
    assert!(!cli.ok("window list").contains("nights"));
    installed(&cli, &job, &other, "one");
}

#[test]
fn there_is_an_end_to_how_many_windows_a_group_has() {
    let manager = Manager::start();
    let cli = manager.cli();
    cli.ok("group create offices");
    for n in 0..sutler_core::window::OF_A_GROUP_MAX {
        cli.ok(&format!("window create w{n} --group offices --on mon --from 01:00 --for 1h"));
    }
    cli.fails(1, "window create more --group offices --on mon --from 01:00 --for 1h").says(&["16 windows already", "delete one"]);
    cli.fails(1, "window create w1 --group offices --on mon --from 01:00 --for 1h").says(&["16 windows already"]);
    cli.fails(1, "window update w1 --zone Mars/Olympus").says(&["Europe/Berlin"]);
    cli.fails(2, "window create w --group offices --on mon --from 25:00 --for 1h").says(&["HH:MM"]);
    let table = cli.ok("window list");
    assert!(table.contains("Mon") && table.contains("02:00") && table.contains("client"), "{table}");
}
