//! PostgreSQL servers for tests: each its own, on a free port, in a temporary folder, gone with the test process.
//!
//! A server is the child of a small shell script that waits for the end of its standard input, which this process holds:
//! however the process ends, the kernel closes that end, and the script stops the server and removes its folder.

use crate::harness::{Port, wait_until};
use crate::tools;
use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use sutler_store::Store;

/// How long a server may take to start beside busy neighbours, and a statement to be answered.
const PATIENCE: Duration = Duration::from_secs(120);

/// Lines of the server's log that are kept for the message of a failure.
const LOG_LINES: usize = 40;

/// Whether the server waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// `fsync` on, as in production.
    Durable,
    /// `fsync` off: faster, and safe as long as the machine itself keeps running.
    Fast,
}

/// A running server. Stopped at once, and its folder removed, when it is dropped or this process ends in any way.
#[derive(Debug)]
pub struct Postgres {
    supervisor: Child,
    pid: u32,
    port: Port,
    folder: PathBuf,
    databases: AtomicU32,
    /// The database with the store's tables that others are copied from.
    tables: OnceLock<String>,
    log: Log,
}

type Log = Arc<Mutex<VecDeque<String>>>;

/// What a supervisor does: $1 is the server, $2 its folder, the rest its options. It tells the server's id, and waits for its
/// standard input to end; for each line of that it starts the server anew.
const SUPERVISOR: &str = r#"
server=$1 folder=$2
shift 2
"$server" -D "$folder/data" "$@" </dev/null >/dev/null &
echo "$!"
exec >/dev/null 2>&1
while read -r line; do "$server" -D "$folder/data" "$@" </dev/null & done
kill -QUIT "$!"
wait "$!"
rm -rf "$folder"
"#;

impl Postgres {
    /// Starts a durable server of the test's own. `None`, after having said so, where PostgreSQL isn't installed.
    ///
    /// # Panics
    ///
    /// When it is installed and doesn't start, or is missing and must not be (see [`tools::skip_without`]).
    pub fn start() -> Option<Postgres> {
        Postgres::start_with(Durability::Durable)
    }

    /// Starts a server of the test's own; see [`Postgres::start`].
    pub fn start_with(durability: Durability) -> Option<Postgres> {
        if tools::skip_without("postgres") {
            return None;
        }
        let (initdb, postgres) = (tools::tool("initdb")?, tools::tool("postgres")?);
        let owner = Owner::of_servers();
        let folder = new_folder(owner);
        init(&initdb, &folder, owner);
        Some(launch(&postgres, &folder, owner, durability))
    }

    /// The server that all tests of this process share, started by whoever asks first; each makes a database of its own with
    /// [`create_database`](Postgres::create_database). `None` as for [`Postgres::start`].
    pub fn shared() -> Option<&'static Postgres> {
        static SHARED: OnceLock<Option<Postgres>> = OnceLock::new();
        SHARED.get_or_init(Postgres::start).as_ref()
    }

    /// Where `database` is: `postgres://postgres@127.0.0.1:PORT/DATABASE`. Every server has a database `postgres`.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port())
    }

    /// Makes an empty database with a name that none had before on this server, and returns its URL.
    ///
    /// # Panics
    ///
    /// When the server refuses it.
    pub fn create_database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.execute(&format!("CREATE DATABASE {name} TEMPLATE template0"));
        self.url(&name)
    }

    /// The same with the store's tables in it: a copy of a database that was made once, by the store itself.
    ///
    /// # Panics
    ///
    /// When the server refuses it.
    pub fn create_store(&self) -> String {
        let tables = self.tables.get_or_init(|| {
            let url = self.create_database();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
            runtime.block_on(async {
                Store::open(&url).await.expect("an empty database gets its tables").close().await;
            });
            url.rsplit('/').next().unwrap_or_default().to_owned()
        });
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.execute(&format!("CREATE DATABASE {name} TEMPLATE {tables}"));
        self.url(&name)
    }

    /// Removes a database, whoever is connected to it.
    ///
    /// # Panics
    ///
    /// When the server refuses it.
    pub fn drop_database(&self, url: &str) {
        let name = url.rsplit('/').next().unwrap_or_default();
        self.execute(&format!("DROP DATABASE {name} WITH (FORCE)"));
    }

    /// Runs one statement in the database `postgres`, for what concerns the server as a whole.
    ///
    /// # Panics
    ///
    /// When the server can't be reached or refuses the statement.
    pub fn execute(&self, sql: &str) {
        let result = Session::open(self.port()).and_then(|mut session| session.execute(sql));
        if let Err(error) = result {
            panic!("{sql}: {error}; the end of the server's log:\n{}", tail(&self.log));
        }
    }

    /// Dumps a database into a file, with the server's own tool.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn dump(&self, url: &str, file: &Path) {
        self.client("pg_dump", &["--format=custom", "--file", &file.to_string_lossy(), url]);
    }

    /// Puts what was dumped in place of the database, whoever is connected to it.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn load(&self, url: &str, file: &Path) {
        let name = url.rsplit('/').next().unwrap_or_default();
        self.drop_database(url);
        self.execute(&format!("CREATE DATABASE {name} TEMPLATE template0"));
        self.client("pg_restore", &["--exit-on-error", "--dbname", url, &file.to_string_lossy()]);
    }

    fn client(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(tools::tool(program).unwrap_or_else(|| panic!("{program} comes with the server")));
        command.args(arguments);
        let done = crate::harness::run(command, b"");
        assert_eq!(done.code, 0, "{program} {arguments:?}: {done:?}");
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The server's process, for tests that stop (`SIGSTOP`) or kill it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A second server that follows this one. When this returns, no commit here is acknowledged before it is on the disk there, too.
    ///
    /// # Panics
    ///
    /// When it can't be made, or does not follow.
    pub fn standby(&self) -> Postgres {
        let owner = Owner::of_servers();
        let folder = new_folder(owner);
        let program = |name: &str| tools::tool(name).unwrap_or_else(|| panic!("{name} comes with the server"));
        let mut copy = owner.command(&program("pg_basebackup"));
        let from = format!("host=127.0.0.1 port={} user=postgres application_name=standby", self.port());
        copy.arg("-D").arg(folder.join("data")).args(["-d", &from, "-X", "stream", "-c", "fast", "-R", "--no-sync"]);
        let done = crate::harness::run(copy, b"");
        assert_eq!(done.code, 0, "pg_basebackup: {done:?}");
        let standby = launch(&program("postgres"), &folder, owner, Durability::Durable);
        self.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'");
        self.execute("SELECT pg_reload_conf()");
        let follows = "DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync') \
                       THEN RAISE EXCEPTION 'it does not follow'; END IF; END $$";
        wait_until("the standby to follow", PATIENCE, || {
            Session::open(self.port()).and_then(|mut session| session.execute(follows)).is_ok()
        });
        standby
    }

    /// Makes a standby the server that is written to.
    ///
    /// # Panics
    ///
    /// When it does not become that.
    pub fn promote(&self) {
        self.execute("DO $$ BEGIN IF NOT pg_promote(true, 60) THEN RAISE EXCEPTION 'it is not promoted'; END IF; END $$");
    }

    /// Kills the server and all its processes with SIGKILL; it is gone when this returns.
    ///
    /// # Panics
    ///
    /// When it doesn't go.
    pub fn kill(&mut self) {
        let mut doomed = children_of(self.pid);
        doomed.push(self.pid);
        doomed.iter().rev().filter_map(|pid| rustix::process::Pid::from_raw(*pid as i32)).for_each(|pid| {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        });
        wait_until("the killed server to be gone", PATIENCE, || doomed.iter().all(|pid| is_gone(*pid)));
    }

    /// Starts the server again that was killed, on the same port and data. Returns when it answers.
    ///
    /// # Panics
    ///
    /// When it doesn't come up.
    pub fn start_again(&mut self) {
        use std::io::Write as _;
        self.supervisor.stdin.as_mut().expect("it is piped").write_all(b"start\n").expect("the supervisor reads");
        wait_until("the server to be back", PATIENCE, || Session::open(self.port()).and_then(|mut s| s.execute("SELECT 1")).is_ok());
        let file = self.folder.join("data/postmaster.pid");
        let text = fs_err::read_to_string(&file).expect("a running server has one");
        self.pid = text.lines().next().and_then(|line| line.trim().parse().ok()).expect("its first line is the server's id");
    }

    /// The folder with the server's data and its socket.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// The processes whose parent is `pid`.
fn children_of(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs_err::read_dir("/proc") else { return Vec::new() };
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| stat(*id).is_some_and(|(_, parent)| parent == pid)).collect()
}

/// The state and the parent of a process.
fn stat(pid: u32) -> Option<(char, u32)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut words = text.rsplit_once(") ")?.1.split(' ');
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

/// Whether a process is gone, or waits for nothing but its parent.
fn is_gone(pid: u32) -> bool {
    stat(pid).is_none_or(|(state, _)| state == 'Z')
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The end of its standard input is the supervisor's order to stop the server.
        drop(self.supervisor.stdin.take());
        let _ = self.supervisor.wait();
    }
}

/// Who a server runs as: it refuses to run as root.
#[derive(Debug, Clone, Copy)]
enum Owner {
    Myself,
    Other { uid: u32, gid: u32 },
}

impl Owner {
    fn of_servers() -> Owner {
        if !rustix::process::geteuid().is_root() {
            return Owner::Myself;
        }
        let users = fs_err::read_to_string("/etc/passwd").expect("/etc/passwd can be read");
        let find = |name: &str| {
            let fields: Vec<&str> = users.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|f| f[0] == name)?;
            Some(Owner::Other { uid: fields.get(2)?.parse().ok()?, gid: fields.get(3)?.parse().ok()? })
        };
        find("postgres").or_else(|| find("nobody")).expect("there is a user postgres or nobody to run a server as")
    }

    fn command(self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if let Owner::Other { uid, gid } = self {
            command.uid(uid).gid(gid);
        }
        // The log is read by this module: in English. A tester's own PG… variables are not meant for these servers.
        command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8").current_dir("/");
        command
    }
}

/// A folder that belongs to `owner` and that nobody else can look into.
fn new_folder(owner: Owner) -> PathBuf {
    let wanted = std::env::temp_dir();
    // Another user has to get there.
    let open = |path: &Path| fs_err::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0);
    let parent = match owner {
        Owner::Other { .. } if !wanted.ancestors().all(open) => PathBuf::from("/tmp"),
        _ => wanted,
    };
    let folder = tempfile::Builder::new().prefix("sutler-postgres-").tempdir_in(&parent);
    // The supervisor removes it, also when this process is killed.
    let folder = folder.unwrap_or_else(|error| panic!("no folder in {}: {error}", parent.display())).keep();
    if let Owner::Other { uid, gid } = owner {
        chown(&folder, Some(uid), Some(gid)).unwrap_or_else(|error| panic!("{} can't be given away: {error}", folder.display()));
    }
    folder
}

fn init(initdb: &Path, folder: &Path, owner: Owner) {
    let run = |locale: &[&str]| {
        let mut command = owner.command(initdb);
        command.arg("-D").arg(folder.join("data"));
        command.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]).args(locale);
        command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{} can't be run: {error}", initdb.display()))
    };
    // Sorted as in a dictionary by default, which is not how names are to be compared: that has to be said in the SQL, and is
    // tested by being wrong here. A server without ICU can't, and sorts by bytes.
    let mut output = run(&["--locale-provider=icu", "--icu-locale=en"]);
    if !output.status.success() {
        let _ = fs_err::remove_dir_all(folder.join("data"));
        output = run(&[]);
    }
    if !output.status.success() {
        let _ = fs_err::remove_dir_all(folder);
        panic!("initdb ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
}

/// Starts a server on the data of a folder, on a free port.
///
/// # Panics
///
/// When it ends before it is ready, or isn't in time; with the end of its log.
fn launch(postgres: &Path, folder: &Path, owner: Owner, durability: Durability) -> Postgres {
    let port = Port::new();
    let fsync = if durability == Durability::Durable { "fsync=on" } else { "fsync=off" };
    let mut command = owner.command(Path::new("/bin/sh"));
    command.args(["-c", SUPERVISOR, "postgres-for-tests"]).arg(postgres).arg(folder);
    command.arg("-p").arg(port.number().to_string()).arg("-k").arg(folder);
    for setting in [fsync, "listen_addresses=127.0.0.1", "max_connections=200", "shared_buffers=32MB", "lc_messages=C", "autovacuum=off"] {
        command.args(["-c", setting]);
    }
    let mut supervisor = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A terminal's Ctrl-C is for the tests; the server then ends with them.
        .process_group(0)
        .spawn()
        .unwrap_or_else(|error| panic!("/bin/sh can't be run: {error}"));
    let pid = first_line(&mut supervisor);
    let log = Log::default();
    let (sender, receiver) = mpsc::channel();
    let stderr = supervisor.stderr.take().expect("it is piped");
    let kept = Arc::clone(&log);
    std::thread::spawn(move || follow(stderr, &kept, &sender));
    let databases = AtomicU32::new(0);
    let server = Postgres { supervisor, pid, port, folder: folder.to_owned(), databases, tables: OnceLock::new(), log };
    if let Err(reason) = receiver.recv_timeout(PATIENCE) {
        let how = if reason == RecvTimeoutError::Timeout { "was not ready in time" } else { "did not start" };
        panic!("postgres in {} {how}; the end of its log:\n{}", folder.display(), tail(&server.log));
    }
    server
}

/// The server's id, which the supervisor prints first.
fn first_line(supervisor: &mut Child) -> u32 {
    let mut line = String::new();
    let stdout = supervisor.stdout.take().expect("it is piped");
    BufReader::new(stdout).read_line(&mut line).expect("the supervisor tells the server's id");
    line.trim().parse().unwrap_or_else(|_| panic!("the supervisor said {line:?} and no process id"))
}

/// Reads the server's log to its end; says when the server is ready, and by letting go of `ready` that it has ended.
fn follow(stderr: ChildStderr, log: &Log, ready: &Sender<()>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let is_ready = line.contains("database system is ready to accept");
        {
            let mut log = log.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            log.push_back(line);
            if log.len() > LOG_LINES {
                log.pop_front();
            }
        }
        if is_ready {
            let _ = ready.send(());
        }
    }
}

fn tail(log: &Log) -> String {
    let log = log.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    log.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
}

/// A connection that speaks just enough of PostgreSQL's protocol to run a statement, so that the harness needs no driver and
/// no runtime.
struct Session {
    stream: TcpStream,
}

impl Session {
    fn open(port: u16) -> Result<Session, String> {
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let stream = TcpStream::connect_timeout(&address.into(), PATIENCE).map_err(|error| format!("{address}: {error}"))?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
        let mut session = Session { stream };
        let mut start = 196_608_u32.to_be_bytes().to_vec();
        start.extend_from_slice(b"user\0postgres\0database\0postgres\0\0");
        session.send(None, &start)?;
        session.until_ready()?;
        Ok(session)
    }

    fn execute(&mut self, sql: &str) -> Result<(), String> {
        let mut body = sql.as_bytes().to_vec();
        body.push(0);
        self.send(Some(b'Q'), &body)?;
        self.until_ready()
    }

    fn send(&mut self, kind: Option<u8>, body: &[u8]) -> Result<(), String> {
        let len = u32::try_from(body.len() + 4).map_err(|_| "the message is too long".to_owned())?;
        let mut message: Vec<u8> = kind.into_iter().collect();
        message.extend_from_slice(&len.to_be_bytes());
        message.extend_from_slice(body);
        self.stream.write_all(&message).map_err(|error| format!("the server can't be written to: {error}"))
    }

    /// Reads answers until the server waits for the next statement; the first error among them is the result.
    fn until_ready(&mut self) -> Result<(), String> {
        let mut result = Ok(());
        loop {
            let mut head = [0; 5];
            self.stream.read_exact(&mut head).map_err(|error| match &result {
                Ok(()) => format!("the server can't be read from: {error}"),
                Err(refused) => String::clone(refused),
            })?;
            let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]).saturating_sub(4);
            let mut body = Vec::new();
            (&mut self.stream).take(len.into()).read_to_end(&mut body).map_err(|error| error.to_string())?;
            match head[0] {
                b'Z' => return result,
                b'E' if result.is_ok() => {
                    let fields = body.split(|byte| *byte == 0).filter(|field| matches!(field.first(), Some(b'C' | b'M')));
                    let words: Vec<_> = fields.map(|field| String::from_utf8_lossy(&field[1..]).into_owned()).collect();
                    result = Err(words.join(": "));
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_server_gives_each_test_a_database_of_its_own() {
        let Some(server) = Postgres::shared() else { return };
        let (one, other) = (server.create_database(), server.create_database());
        assert_ne!(one, other);
        assert!(one.starts_with(&format!("postgres://postgres@127.0.0.1:{}/test_", server.port())));
        assert!(server.folder().join("data/PG_VERSION").exists());
        let refused = Session::open(server.port()).and_then(|mut session| session.execute("SELECT nonsense"));
        assert!(refused.unwrap_err().contains("nonsense"));
        assert!(server.folder().join(format!(".s.PGSQL.{}", server.port())).exists());
    }

    /// Waits until a server is gone: its connections end when it does.
    fn wait_for_end(mut session: Session, folder: &Path) {
        let mut rest = Vec::new();
        let _ = session.stream.read_to_end(&mut rest);
        let end = Instant::now() + PATIENCE;
        while folder.exists() {
            assert!(Instant::now() < end, "{} is still there", folder.display());
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_dropped_server_is_stopped_and_leaves_nothing() {
        let Some(server) = Postgres::start_with(Durability::Fast) else { return };
        let (session, folder, port) = (Session::open(server.port()).unwrap(), server.folder().to_owned(), server.port());
        drop(server);
        assert!(!folder.exists());
        wait_for_end(session, &folder);
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
    }

    const CHILD: &str = "SUTLER_TEST_POSTGRES_CHILD";

    /// Not a test by itself: the process that the next one kills.
    #[test]
    fn holds_a_server_until_it_is_killed() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        let server = Postgres::start_with(Durability::Fast).expect("the parent has found it");
        println!("\nserver {} {}", server.port(), server.folder().display());
        let mut nothing = Vec::new();
        let _ = std::io::stdin().read_to_end(&mut nothing);
        unreachable!("the parent kills this process before it closes the pipe");
    }

    #[test]
    fn a_server_does_not_outlive_a_test_process_that_is_killed() {
        if tools::skip_without("postgres") {
            return;
        }
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("{}::holds_a_server_until_it_is_killed", module_path!().split_once("::").unwrap().1), "--nocapture"])
            .env(CHILD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let said = lines.into_iter().find_map(|line| line.strip_prefix("server ").map(str::to_owned)).expect("the child starts a server");
        let (port, folder) = said.split_once(' ').unwrap();
        let session = Session::open(port.parse().unwrap()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        wait_for_end(session, Path::new(folder));
    }
}
