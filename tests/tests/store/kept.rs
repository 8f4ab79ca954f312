//! What is kept when the process, the disk or the version changes.

use crate::{Database, read, write};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
};
use sutler_store::{Kind, Options, Store, StoreError, unit};

/// Tells the child which database to write to.
const CHILD: &str = "SUTLER_TEST_STORE_CHILD";

/// Not a test by itself: the process that others kill. Says each number after its unit was answered OK.
#[test]
fn child_that_writes() {
    let Ok(url) = std::env::var(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(&url).await.unwrap();
        let next = std::sync::Arc::new(AtomicU64::new(0));
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let (store, next) = (store.clone(), next.clone());
                tokio::spawn(async move {
                    loop {
                        let n = next.fetch_add(1, Ordering::SeqCst);
                        let value = vec![7; 2000];
                        let done = write(&store, unit!([n, value] | tx | { tx.put_setting(&format!("n{n}"), &value).await })).await;
                        if done.is_err() {
                            return;
                        }
                        if writeln!(std::io::stdout(), "\nkept {n}").is_err() {
                            return;
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            let _ = task.await;
        }
    });
}

fn child(url: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "kept::child_that_writes", "--nocapture", "--test-threads=1"]);
    command.env(CHILD, url).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn assert_kept(store: &Store, said: &[u64]) {
    for &n in said {
        let found = read(store, unit!([n] | tx | { tx.setting(&format!("n{n}")).await })).await;
        assert!(found.is_some(), "{n} was answered OK and is not there");
    }
}

pub(crate) async fn a_committed_unit_survives_the_death_of_the_process(db: Database) {
    let mut child = child(&db.url).spawn().unwrap();
    let (said, _) = tokio::task::block_in_place(|| {
        let mut said = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
            if let Some(n) = line.strip_prefix("kept ") {
                said.push(n.parse().unwrap());
            }
            if said.len() == 300 {
                child.kill().unwrap();
            }
        }
        (said, child.wait().unwrap())
    });
    assert!(said.len() >= 300, "the child ended early");
    assert_kept(&db.store, &said).await;
    let again = Store::open(&db.url).await.unwrap();
    assert_kept(&again, &said).await;
    write(&again, unit!([] | tx | { tx.put_setting("after", b"1").await })).await.unwrap();
    again.close().await;
}

pub(crate) async fn a_newer_database_is_refused(db: Database) {
    db.sql(match db.store.kind() {
        Kind::Sqlite => {
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'later', TRUE, x'00', 0)"
        }
        Kind::Postgres => {
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'later', TRUE, '\\x00', 0)"
        }
    })
    .await;
    let refused = Store::open(&db.url).await.map(|_| ()).unwrap_err();
    assert!(matches!(refused, StoreError::Corrupt(_)), "{refused:?}");
    assert!(refused.to_string().contains("9999") && refused.to_string().contains("newer sutler"), "{refused}");
}

pub(crate) async fn a_full_disk_refuses_writes_and_keeps_the_rest(db: Database) {
    let path = db.folder().join("small.db");
    let options = Options { max_bytes: Some(2 << 20), ..Options::default() };
    let small = Store::open_with(path.to_str().unwrap(), &options).await.unwrap();
    let mut kept = Vec::new();
    let full = loop {
        let n = kept.len() as u64;
        let value = vec![1; 20_000];
        match write(&small, unit!([n, value] | tx | { tx.put_setting(&format!("n{n}"), &value).await })).await {
            Ok(()) => kept.push(n),
            Err(error) => break error,
        }
        assert!(n < 10_000, "it was never full");
    };
    assert!(matches!(full, StoreError::Full(_)), "{full:?}");
    assert!(!kept.is_empty());
    assert_kept(&small, &kept).await;
    // What needs no more room is still written, and the store has not given up.
    write(&small, unit!([] | tx | { tx.put_setting("n0", b"smaller").await })).await.unwrap();
    assert_eq!(read(&small, unit!([] | tx | { tx.setting("n0").await })).await.as_deref(), Some(&b"smaller"[..]));
    small.close().await;
}

/// A limit on the size of files makes every further write fail with an error that is not *disk full*, as a broken disk would.
pub(crate) async fn a_failed_disk_ends_the_process(db: Database) {
    let path = db.folder().join("broken.db");
    let direct = child(path.to_str().unwrap());
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "trap '' XFSZ; ulimit -c 0; ulimit -f 4000; exec \"$0\" \"$@\""]).arg(direct.get_program()).args(direct.get_args());
    command.env(CHILD, &path).stdin(Stdio::null());
    let output = tokio::task::block_in_place(|| command.output().unwrap());
    use std::os::unix::process::ExitStatusExt as _;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(6), "{:?} {stderr}", output.status);
    assert!(stderr.contains("the disk under the database failed"), "{stderr}");
    let said: Vec<u64> =
        String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| line.strip_prefix("kept ")?.parse().ok()).collect();
    assert!(!said.is_empty());
    let again = Store::open(path.to_str().unwrap()).await.unwrap();
    assert_kept(&again, &said).await;
    again.close().await;
}
