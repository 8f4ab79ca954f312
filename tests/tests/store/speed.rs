//! How many rows a second: not a test, `cargo test -p sutler-tests --test store speed -- --ignored --nocapture`.

use crate::*;
use std::time::Instant;
use sutler_store::{ExecutionChange, unit};

const CLIENTS: u64 = 100_000;

async fn measure(db: Database) {
    let kind = db.store.kind();
    let say = |what: &str, rows: u64, start: Instant| {
        let seconds = start.elapsed().as_secs_f64();
        println!("{kind:?}: {what}: {rows} rows in {seconds:.2} s, {:.0} rows/s", rows as f64 / seconds);
    };
    let start = Instant::now();
    add_clients(&db.store, 0..CLIENTS).await;
    say("insert_client, 500 to a unit", CLIENTS, start);
    let one = add_job(&db.store, 1).await.id;
    write(&db.store, unit!([] | tx | { tx.insert_group(&group(1, "one")).await })).await.unwrap();
    let start = Instant::now();
    let all: Vec<_> = (0..CLIENTS).map(|n| membership(&uid(1), n)).collect();
    for some in all.chunks(5000) {
        write(&db.store, unit!([some] | tx | { tx.insert_memberships(&some).await })).await.unwrap();
    }
    say("insert_memberships, 5000 to a unit", CLIENTS, start);
    let start = Instant::now();
    let added = write(&db.store, unit!([one] | tx | { tx.insert_executions_for_group(&one, &uid(1), at(1)).await })).await.unwrap();
    say("insert_executions_for_group, one unit", added, start);
    let start = Instant::now();
    for first in (0..CLIENTS).step_by(256) {
        let changes: Vec<_> = (first..(first + 256).min(CLIENTS))
            .map(|n| ExecutionChange {
                job: one.clone(),
                client: client_id(n),
                from: ExecutionState::Queued,
                to: ExecutionState::Downloading,
                reason: String::new(),
                detail: "half of it is there".into(),
                entered: at(5),
                attempt: Some((attempt(n, &one, &client_id(n), 1).id, 1, 1)),
                progress: Some((0, n, 1 << 30, "copy".into())),
                cancel: None,
                purpose: None,
            })
            .collect();
        write(&db.store, unit!([changes] | tx | { tx.change_executions(&changes).await })).await.unwrap();
    }
    say("change_executions, 256 to a unit", CLIENTS, start);
    let start = Instant::now();
    for first in (0..CLIENTS).step_by(1000) {
        let seen: Vec<_> = (first..first + 1000).map(|n| (client_id(n), at(1_000_000))).collect();
        write(&db.store, unit!([seen] | tx | { tx.touch_clients(&seen).await })).await.unwrap();
    }
    say("touch_clients, 1000 to a unit", CLIENTS, start);
    let start = Instant::now();
    let tasks: Vec<_> = (0..64)
        .map(|task| {
            let store = db.store.clone();
            tokio::spawn(async move {
                for n in 0..100 {
                    write(&store, unit!([] | tx | { tx.put_setting(&format!("{task}/{n}"), b"1").await })).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    say("units of one row, 64 at a time", 6400, start);
}

/// Units of one row with an entry of the audit log each, beside units of two rows without.
async fn measure_audit(db: Database) {
    let kind = db.store.kind();
    for audited in [false, true, false, true] {
        let start = Instant::now();
        let tasks: Vec<_> = (0..64)
            .map(|task| {
                let store = db.store.clone();
                tokio::spawn(async move {
                    for n in 0..100 {
                        let entry = AuditEntry {
                            sequence: 0,
                            time: at(n),
                            actor: "operators/eve".into(),
                            action: "update_group".into(),
                            object: format!("groups/group-{task}"),
                            detail: "a sentence about what was changed, as they are".into(),
                        };
                        let unit = unit!(
                            [entry] | tx | {
                                tx.put_setting(&format!("{task}/{n}"), b"1").await?;
                                if audited { tx.audit(&entry).await } else { tx.put_setting(&format!("{task}/{n}/2"), b"1").await }
                            }
                        );
                        write(&store, unit).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let seconds = start.elapsed().as_secs_f64();
        println!("{kind:?}: {}: {:.0} units/s", if audited { "audited" } else { "not audited" }, 6400.0 / seconds);
    }
}

#[test]
#[ignore = "a measurement"]
fn the_cost_of_the_audit_log_on_sqlite() {
    run(async || Some(Database::sqlite().await), measure_audit);
}

#[test]
#[ignore = "a measurement"]
fn the_cost_of_the_audit_log_on_postgres() {
    run(Database::postgres, measure_audit);
}

#[test]
#[ignore = "a measurement"]
fn rows_per_second_on_sqlite() {
    run(async || Some(Database::sqlite().await), measure);
}

#[test]
#[ignore = "a measurement"]
fn rows_per_second_on_postgres() {
    run(Database::postgres, measure);
}
