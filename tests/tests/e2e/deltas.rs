//! Deltas between versions: made after a push, and fetched by whoever has the old one.

use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use sutler_base::{
    Digest,
    delta::{Delta, Piece, Unit},
};
use sutler_content::{Content, Kind};
use sutler_tests::harness::{Agent, Cli, JobView, Manager, PATIENCE, PackageFolder, Row, noise, wait_for_value, wait_until};

/// Bytes that look like a program that was linked to lie at `base`: code that recurs, and between it addresses that move with it.
pub(crate) fn program(seed: u64, length: usize, base: u32) -> Vec<u8> {
    let (code, order) = (noise(1 << 16, 77), noise(length / 16 * 2 + 2, seed));
    let mut out = Vec::with_capacity(length + 16);
    for (n, pair) in order.chunks_exact(2).enumerate() {
        let at = usize::from(u16::from_le_bytes([pair[0], pair[1]])).min(code.len() - 12);
        out.extend_from_slice(&code[at..at + 12]);
        out.extend_from_slice(&(base + n as u32 * 16).to_le_bytes());
    }
    out.truncate(length);
    out
}

/// Pushes a version of a package with one large program.
pub(crate) fn push(cli: &Cli, name: &str, version: &str, base: u32) {
    let package = PackageFolder::counting(name, version);
    package.file("bin/tool", program(1, 1 << 20, base));
    cli.ok(&format!("package push {}", package.path().display()));
}

/// The manager's database, beside the manager.
pub(crate) struct Database {
    runtime: tokio::runtime::Runtime,
    pool: SqlitePool,
}

impl Database {
    pub(crate) fn of(manager: &Manager) -> Database {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let options = SqliteConnectOptions::new().filename(manager.folder().join("manager.db"));
        let pool = runtime.block_on(SqlitePool::connect_with(options)).unwrap();
        Database { runtime, pool }
    }

    /// Runs a statement; how many rows it changed.
    pub(crate) fn run(&self, sql: &'static str) -> u64 {
        self.runtime.block_on(sqlx::query(sql).execute(&self.pool)).unwrap().rows_affected()
    }

    /// From which version to which there are deltas, and what became of each.
    fn deltas(&self) -> Vec<String> {
        let sql = "SELECT o.version || ' to ' || n.version || CASE WHEN d.made_ms IS NULL THEN ' asked' WHEN d.digest IS NULL \
                   THEN ' of no use' ELSE ' made' END FROM delta d JOIN package_version o ON o.manifest = d.old_manifest \
                   JOIN package_version n ON n.manifest = d.new_manifest ORDER BY 1";
        self.runtime.block_on(sqlx::query_scalar(sql).fetch_all(&self.pool)).unwrap()
    }
}

#[test]
fn a_push_asks_for_deltas_from_the_versions_that_clients_report_or_from_the_one_before() {
    let mut manager = Manager::start();
    let (cli, database) = (manager.cli(), Database::of(&manager));
    let agent = Agent::enrolled("machine", &manager);
    push(&cli, "tool", "1.0", 0x40_0000);
    push(&cli, "tool", "1.1", 0x40_1000);
    let made = |expected: &[&str]| {
        wait_for_value("the deltas to be made", PATIENCE, || database.deltas(), |deltas| deltas == expected);
    };
    made(&["1.0 to 1.1 made"]);
    let job = cli.id(&format!("job run --package tool@1.0 --client {}", agent.id()));
    JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
    wait_for_value("what is installed to be known", PATIENCE, || cli.ok("software list tool"), |listed| listed.contains("1.0"));
    push(&cli, "tool", "2.0", 0x40_2000);
    made(&["1.0 to 1.1 made", "1.0 to 2.0 made"]);

    // The same again is no other version, and one that differs in nothing but its name spares nothing.
    push(&cli, "tool", "2.0", 0x40_2000);
    push(&cli, "tool", "2.1", 0x40_0000);
    made(&["1.0 to 1.1 made", "1.0 to 2.0 made", "1.0 to 2.1 of no use"]);

    // What can't be made is noted, and nothing waits for it.
    push(&cli, "lost", "7.0", 0x40_0000);
    let digest = cli.json("package show lost@7.0")["manifestDigest"].as_str().unwrap().to_owned();
    fs_err::remove_file(manager.folder().join("content/objects").join(&digest[..2]).join(&digest[2..])).unwrap();
    // What was read lately would come from memory.
    manager.kill_and_serve();
    let cli = manager.cli();
    push(&cli, "lost", "8.0", 0x40_1000);
    made(&["1.0 to 1.1 made", "1.0 to 2.0 made", "1.0 to 2.1 of no use", "7.0 to 8.0 of no use"]);
}

/// What the tool's file is on this machine.
fn installed(agent: &Agent) -> Vec<u8> {
    fs_err::read(agent.root().join("opt/tool/bin/tool")).unwrap()
}

/// Runs the job that installs this version; how many bytes that took.
fn update(cli: &Cli, agent: &Agent, version: &str) -> u64 {
    let job = cli.id(&format!("job run --package tool@{version} --client {}", agent.id()));
    fetched(&JobView::wait_for_row(cli, &job, &agent.id(), "SUCCEEDED"))
}

fn fetched(row: &Row) -> u64 {
    let bytes = &row.json["items"][0]["fetchedBytes"];
    bytes.as_u64().or_else(|| bytes.as_str()?.parse().ok()).unwrap()
}

/// What deltas made on this machine and is still there.
fn left(agent: &Agent) -> usize {
    fs_err::read_dir(agent.state().join("made")).map_or(0, |all| all.count())
}

const BASES: [u32; 3] = [0x40_0000, 0x40_1000, 0x40_2000];

#[test]
fn an_update_comes_as_a_delta_and_what_was_damaged_or_is_hostile_comes_as_chunks() {
    let manager = Manager::start();
    let (cli, database) = (manager.cli(), Database::of(&manager));
    let [agent, damaged, fresh] = ["machine", "damaged", "fresh"].map(|name| Agent::enrolled(name, &manager));
    push(&cli, "tool", "1.0", BASES[0]);
    for agent in [&agent, &damaged] {
        update(&cli, agent, "1.0");
    }
    push(&cli, "tool", "2.0", BASES[1]);
    wait_for_value("the delta to be made", PATIENCE, || database.deltas(), |deltas| deltas == &["1.0 to 2.0 made"]);
    let program_2 = program(1, 1 << 20, BASES[1]);

    let whole = update(&cli, &fresh, "2.0");
    let little = update(&cli, &agent, "2.0");
    assert_eq!((installed(&agent) == program_2, installed(&fresh) == program_2), (true, true));
    assert!(little * 2 < whole, "{little} bytes, and {whole} without a delta");
    assert!(agent.log().contains("were made by a delta"), "{}", agent.log());
    assert_eq!(left(&agent), 0, "nothing of it stays");

    // A file that is not as it was installed can't be built upon.
    let file = damaged.root().join("opt/tool/bin/tool");
    let mut bytes = installed(&damaged);
    for at in (1000..bytes.len()).step_by(3000) {
        bytes[at] ^= 0xff;
    }
    fs_err::write(&file, &bytes).unwrap();
    let again = update(&cli, &damaged, "2.0");
    assert!(installed(&damaged) == program_2 && again > little, "{again} bytes, and {little} for what was whole");
    assert_eq!(left(&damaged), 0);

    // Whatever a delta says, what comes out is what the publisher signed.
    push(&cli, "tool", "3.0", BASES[2]);
    wait_for_value("the next delta", PATIENCE, || database.deltas(), |deltas| deltas.iter().any(|delta| delta == "2.0 to 3.0 made"));
    let content = Content::open_folder(&manager.folder().join("content")).unwrap();
    let evil = vec![b'x'; 1 << 20];
    let (_, frame) = sutler_content::encoding::encode(evil.into());
    let put = |bytes: bytes::Bytes| {
        let digest = Digest::of(&bytes);
        database.runtime.block_on(content.put(digest, Kind::Document, bytes)).unwrap();
        digest
    };
    let length = frame.len() as u32;
    let frame = put(frame);
    let piece = |file, length| Piece { file, offset: 0, length };
    let unit = |new: Vec<Piece>| Unit { old: vec![], new, frame, length };
    let hostile = Delta { units: vec![unit(vec![piece(0, 500)]), unit(vec![piece(2, 1 << 20)]), unit(vec![piece(3, 9), piece(77, 9)])] };
    let encoded = hostile.encode();
    let length = encoded.len() as i64;
    let digest = put(encoded.into());
    let sql = "UPDATE delta SET digest = ?1, length = ?2 WHERE new_manifest = (SELECT manifest FROM package_version WHERE version = '3.0')";
    let query = sqlx::query(sql).bind(digest.as_bytes().to_vec()).bind(length);
    assert!(database.runtime.block_on(query.execute(&database.pool)).unwrap().rows_affected() > 0);
    update(&cli, &agent, "3.0");
    assert!(installed(&agent) == program(1, 1 << 20, BASES[2]));
    assert_eq!(left(&agent), 0);
}

#[test]
fn an_agent_that_is_killed_while_a_delta_comes_goes_on_and_leaves_nothing() {
    let manager = Manager::start();
    let (cli, database) = (manager.cli(), Database::of(&manager));
    let mut agent = Agent::enrolled("machine", &manager);
    push(&cli, "tool", "1.0", BASES[0]);
    update(&cli, &agent, "1.0");
    push(&cli, "tool", "2.0", BASES[1]);
    wait_for_value("the delta to be made", PATIENCE, || database.deltas(), |deltas| deltas == &["1.0 to 2.0 made"]);
    let limit = cli.id("transfer limit set 4KiB/s --each-client");
    let job = cli.id(&format!("job run --package tool@2.0 --client {}", agent.id()));
    wait_until("the delta to come", PATIENCE, || left(&agent) > 0);
    agent.kill();
    cli.ok(&format!("transfer limit clear {limit}"));
    agent.start();
    JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
    assert!(installed(&agent) == program(1, 1 << 20, BASES[1]));
    assert_eq!(left(&agent), 0);
}
