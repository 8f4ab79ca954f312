//! A database that is away, says nothing, or becomes another one.

use super::{faults::Over, *};
use sutler_tests::harness::{JobView, Line, Proxy};
use sutler_tests::postgres::Postgres;

/// The way to the database over this line.
fn over(line: &Proxy, postgres: &Postgres, database: &str) -> String {
    line.leads_to(([127, 0, 0, 1], postgres.port()).into());
    database.replace(&format!("127.0.0.1:{}", postgres.port()), &line.address())
}

#[test]
fn managers_whose_database_is_slow_or_gone_or_says_nothing_go_on_by_themselves_and_keep_their_streams() {
    let Some(postgres) = Postgres::shared() else { return };
    let line = Proxy::new();
    let mut bed = Bed::new(&over(&line, postgres, &postgres.create_database()), 2);
    bed.populate(0, 1);
    let (cli, agent) = (bed.cli(), &bed.agents[0]);
    let client = agent.id();
    let installs = |n: usize| {
        let job = cli.id(&format!("job run --package hello --replace always --client {client} --retry-for 60s"));
        JobView::wait_for_row(&cli, &job, &client, "SUCCEEDED");
        assert_eq!(agent.read("opt/hello.runs").unwrap_or_default(), "run\n".repeat(n));
    };
    installs(1);
    // What it says of itself after that is written down before the database is away: else it would have to come again.
    let has = format!("client list --filter 'client.id == \"{client}\" && facts.software.exists(s, s.name == \"hello\")' --columns id");
    wait_until("its facts to tell of the package", PATIENCE, || cli.json(&has).as_array().is_some_and(|rows| rows.len() == 1));

    // Connections that nobody ends and on which nothing comes any more: whoever waits for them would wait for a quarter of an hour.
    line.strand();
    installs(2);
    line.now(Line::Slow(Duration::from_millis(50)));
    installs(3);
    line.now(Line::Cut);
    cli.fails(1, "client list --retry-for 1s");
    line.now(Line::Open);
    installs(4);
    assert_eq!(agent.log().lines().filter(|line| line.contains(" connected ")).count(), 1, "{}", agent.log());
}

#[test]
fn managers_go_on_with_a_standby_that_takes_the_place_of_a_database_that_is_gone_and_nothing_acknowledged_is_lost() {
    let Some(mut primary) = Postgres::start() else { return };
    let database = primary.create_database();
    let standby = primary.standby();
    let line = Proxy::new();
    let mut bed = Bed::new(&over(&line, &primary, &database), 2);
    bed.populate(16, 1);
    let orders = bed.orders();
    std::thread::scope(|scope| {
        let end = Over(&orders);
        scope.spawn(|| orders.go_on());
        let given = |n: usize| wait_until("jobs to be acknowledged", 2 * PATIENCE, || orders.given().len() >= n);
        given(3);
        // In the middle of whatever is under way.
        primary.kill();
        standby.promote();
        line.leads_to(([127, 0, 0, 1], standby.port()).into());
        given(6);
        drop(end);
    });
    bed.settle(&orders, &database.replace(&primary.port().to_string(), &standby.port().to_string()));
}

#[test]
fn a_standby_that_follows_another_server_is_not_taken_for_the_database() {
    let Some(primary) = Postgres::start() else { return };
    let database = primary.create_database();
    let standby = primary.standby();
    let line = Proxy::new();
    let bed = Bed::new(&over(&line, &primary, &database), 1);
    let cli = bed.cli();
    cli.ok("group create before");
    // What it says may be old: who was revoked, above all.
    line.leads_to(([127, 0, 0, 1], standby.port()).into());
    line.now(Line::Cut);
    line.now(Line::Open);
    cli.fails(1, "group list --retry-for 1s");
    line.leads_to(([127, 0, 0, 1], primary.port()).into());
    assert!(cli.ok("group list --retry-for 60s").contains("before"));
}
