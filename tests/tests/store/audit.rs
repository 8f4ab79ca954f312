//! The audit log's chains of hashes, as they stand in the database.

use crate::*;
use sutler_core::audit::{AuditSegment, ChainEnd, Check, Seal};
use sutler_store::{Page, unit};

fn entry(n: i64) -> AuditEntry {
    AuditEntry {
        sequence: 0,
        time: at(1000 + n),
        actor: "operators/eve".into(),
        action: "create_group".into(),
        object: format!("groups/{n}"),
        detail: "nul \0 and \"quotes\"".into(),
    }
}

async fn append(store: &Store, n: i64) {
    let entry = entry(n);
    // What is changed beside it shares the unit.
    write(
        store,
        unit!(
            [entry] | tx | {
                tx.put_setting(&entry.object, b"1").await?;
                tx.audit(&entry).await
            }
        ),
    )
    .await
    .unwrap();
}

async fn log(store: &Store) -> Vec<sutler_core::audit::AuditRecord> {
    let page = Page { after: None, limit: 1000 };
    read(store, unit!([page] | tx | { tx.audit_after(&page).await })).await
}

async fn segments(store: &Store) -> Vec<AuditSegment> {
    let page = Page { after: None, limit: 1000 };
    read(store, unit!([page] | tx | { tx.list_audit_segments(&page).await })).await
}

async fn faults(store: &Store, wanted: &[ChainEnd]) -> Vec<String> {
    let mut check = Check::new(segments(store).await, wanted.to_vec());
    log(store).await.iter().for_each(|record| check.add(record));
    check.finish().faults
}

async fn seal(store: &Store) -> AuditSegment {
    write(
        store,
        unit!(
            [] | tx | {
                let last = tx.last_audit_segment().await?;
                let page = Page { after: last.as_ref().map(|s| s.last.to_string()), limit: 1000 };
                let mut seal = Seal::after(last.as_ref());
                tx.audit_after(&page).await?.iter().for_each(|record| seal.add(record));
                let segment = seal.close(at(5)).expect("there are entries");
                tx.insert_audit_segment(&segment).await?;
                Ok(segment)
            }
        ),
    )
    .await
    .unwrap()
}

/// Statements that let a test do what only somebody past the store can do.
async fn open_up(db: &Database) {
    db.sql(match db.store.kind() {
        Kind::Sqlite => {
            "DROP TRIGGER audit_is_never_changed; DROP TRIGGER audit_is_kept_until_dropped; CREATE TABLE kept AS SELECT * FROM audit"
        }
        Kind::Postgres => "DROP TRIGGER audit_keep ON audit; CREATE TABLE kept AS SELECT * FROM audit",
    })
    .await;
}

pub(crate) async fn whatever_is_changed_in_the_audit_log_is_found(db: Database) {
    // One manager ends, then two run side by side.
    let first = Store::open(&db.url).await.unwrap();
    for n in 0..4 {
        append(&first, n).await;
    }
    first.close().await;
    let second = Store::open(&db.url).await.unwrap();
    for n in 4..12 {
        append(if n % 3 == 0 { &db.store } else { &second }, n).await;
    }
    let ends = [db.store.audit_end().unwrap(), second.audit_end().unwrap()];
    assert_ne!(ends[0].chain, ends[1].chain, "every process has a chain of its own");
    assert_eq!(faults(&db.store, &ends).await, [""; 0]);
    assert_eq!(log(&db.store).await.len(), 12);

    // Past the store, too, the database refuses while nobody has taken its own rules away.
    for sql in ["UPDATE audit SET detail = 'x'", "DELETE FROM audit"] {
        assert!(db.try_sql(sql).await.is_err(), "{sql}");
    }
    open_up(&db).await;
    for (sql, word) in [
        ("UPDATE audit SET detail = 'nothing' WHERE object = 'groups/2'", "edited"),
        ("UPDATE audit SET actor = 'operators/adam' WHERE object = 'groups/7'", "edited"),
        ("UPDATE audit SET time_ms = time_ms + 1 WHERE object = 'groups/11'", "edited"),
        ("UPDATE audit SET hash = previous WHERE object = 'groups/5'", "edited"),
        ("DELETE FROM audit WHERE object = 'groups/1'", "removed"),
        ("DELETE FROM audit WHERE object = 'groups/3'", "removed"),
        ("DELETE FROM audit WHERE object IN ('groups/10', 'groups/11')", "cut off"),
        ("UPDATE audit SET sequence = 1000000 + sequence WHERE object = 'groups/8'", "edited"),
        (
            "INSERT INTO audit (sequence, time_ms, actor, action, object, detail) SELECT sequence + 500000, time_ms, actor, action, object, detail \
             FROM audit WHERE object = 'groups/6'",
            "inserted",
        ),
        ("DELETE FROM audit", "cut off"),
    ] {
        db.sql(sql).await;
        let found = faults(&db.store, &ends).await;
        assert!(found.iter().any(|fault| fault.contains(word)), "{sql}: {word} is not among {found:?}");
        db.sql("DELETE FROM audit; INSERT INTO audit SELECT * FROM kept").await;
        assert_eq!(faults(&db.store, &ends).await, [""; 0], "{sql} was undone");
    }
    second.close().await;
}

pub(crate) async fn a_unit_that_is_not_kept_leaves_no_gap_in_its_chain(db: Database) {
    append(&db.store, 0).await;
    let tasks: Vec<_> = (1..60)
        .map(|n| {
            let (store, entry) = (db.store.clone(), entry(n));
            tokio::spawn(async move {
                let done = write(
                    &store,
                    unit!(
                        [entry] | tx | {
                            tx.audit(&entry).await?;
                            if n % 3 == 0 { Err(StoreError::Statement("no".into())) } else { tx.audit(&entry).await }
                        }
                    ),
                )
                .await;
                assert_eq!(done.is_err(), n % 3 == 0);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let log = log(&db.store).await;
    assert_eq!(log.len(), 1 + 2 * 40);
    assert!(log.iter().all(|record| record.chain == log[0].chain), "one process, one chain");
    assert_eq!(log.iter().map(|record| record.number).collect::<Vec<_>>(), (1..=81).collect::<Vec<_>>());
    assert_eq!(faults(&db.store, &[db.store.audit_end().unwrap()]).await, [""; 0]);
    assert_eq!(db.store.audit_end(), Some(log[80].end()));
}

pub(crate) async fn entries_go_only_with_their_sealed_segment(db: Database) {
    for n in 0..5 {
        append(&db.store, n).await;
    }
    let first = seal(&db.store).await;
    for n in 5..8 {
        append(&db.store, n).await;
    }
    let end = db.store.audit_end().unwrap();
    let second = AuditSegment { number: 2, ..first.clone() };
    let unsealed = write(&db.store, unit!([second] | tx | { tx.drop_audit_segment(&second, at(6)).await })).await;
    assert!(unsealed.is_err(), "a segment that was not sealed has nothing to drop");
    assert_eq!(write(&db.store, unit!([first] | tx | { tx.drop_audit_segment(&first, at(6)).await })).await.unwrap(), 5);
    let again = write(&db.store, unit!([first] | tx | { tx.drop_audit_segment(&first, at(6)).await })).await;
    assert!(again.is_err(), "it goes once");
    assert_eq!(log(&db.store).await.len(), 3);
    assert_eq!(faults(&db.store, &[end]).await, [""; 0]);
    // What is left is as protected as before.
    assert!(db.try_sql("DELETE FROM audit").await.is_err());
    open_up(&db).await;
    db.sql("DELETE FROM audit WHERE object = 'groups/5'").await;
    let found = faults(&db.store, &[end]).await;
    assert!(found.iter().any(|fault| fault.contains("removed")), "{found:?}");
}
