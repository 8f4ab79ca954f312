//! Deltas between versions: made after a push, and fetched by whoever has the old one.

use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use sutler_tests::harness::{Agent, Cli, JobView, Manager, PATIENCE, PackageFolder, noise, wait_for_value};

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
    let manager = Manager::start();
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
}
