//! What a unit of work promises.

use crate::{Database, add_clients, client, client_id, group, membership, read, uid, write};
use futures_util::FutureExt as _;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};
use sutler_core::model::Group;
use sutler_store::{Page, StoreError, unit};
use tokio::sync::{Barrier, Notify};

pub(crate) async fn a_unit_that_fails_leaves_no_trace(db: Database) {
    let failed: Result<(), StoreError> = write(
        &db.store,
        unit!(
            [] | tx | {
                tx.put_setting("a", b"1").await?;
                tx.insert_client(&client(1)).await?;
                Err(StoreError::Statement("the unit does not want it".into()))
            }
        ),
    )
    .await;
    assert!(matches!(failed, Err(StoreError::Statement(_))));
    let (setting, found, change) =
        read(&db.store, unit!([] | tx | { Ok((tx.setting("a").await?, tx.client(&client_id(1)).await?, tx.last_change().await?)) })).await;
    assert_eq!((setting, found, change), (None, None, 0));
}

pub(crate) async fn a_unit_that_passes_over_a_failed_statement_is_not_kept(db: Database) {
    let result: Result<(), StoreError> = write(
        &db.store,
        unit!(
            [] | tx | {
                tx.put_setting("a", b"1").await?;
                tx.insert_group(&group(1, "one")).await?;
                // There is no such client.
                assert!(tx.insert_memberships(&[membership(&uid(1), 1)]).await.is_err());
                assert!(tx.put_setting("b", b"1").await.is_err());
                Ok(())
            }
        ),
    )
    .await;
    assert!(matches!(result, Err(StoreError::Statement(_))), "{result:?}");
    assert_eq!(read(&db.store, unit!([] | tx | { tx.setting("a").await })).await, None);
}

pub(crate) async fn units_that_are_committed_together_fail_alone(db: Database) {
    let mut tasks = Vec::new();
    for n in 0..200u64 {
        let store = db.store.clone();
        tasks.push(tokio::spawn(async move {
            let one = unit!(
                [n] | tx | {
                    tx.put_setting(&format!("n{n}"), &n.to_le_bytes()).await?;
                    if n % 3 == 0 { Err(StoreError::Full("only said".into())) } else { Ok(()) }
                }
            );
            write(&store, one).await
        }));
    }
    for (n, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.unwrap().is_err(), n % 3 == 0);
    }
    for n in 0..200u64 {
        let found = read(&db.store, unit!([n] | tx | { tx.setting(&format!("n{n}")).await })).await;
        assert_eq!(found.is_none(), n % 3 == 0, "{n}");
    }
}

pub(crate) async fn a_name_that_is_taken_does_not_end_the_unit(db: Database) {
    write(
        &db.store,
        unit!(
            [] | tx | {
                tx.insert_group(&group(1, "one")).await?;
                assert!(matches!(tx.insert_group(&group(2, "one")).await, Err(StoreError::Exists("group"))));
                tx.insert_group(&group(3, "three")).await
            }
        ),
    )
    .await
    .unwrap();
    let names = read(&db.store, unit!([] | tx | { tx.list_groups(&Page { after: None, limit: 9 }).await })).await;
    assert_eq!(names.iter().map(|g| g.name.as_str()).collect::<Vec<_>>(), ["one", "three"]);
    // Renaming to a taken name fails the whole unit.
    let mut renamed: Group = names[1].clone();
    renamed.name = "one".parse().unwrap();
    let refused = write(&db.store, unit!([renamed] | tx | { tx.save_group(&renamed).await })).await;
    assert!(matches!(refused, Err(StoreError::Exists("group"))), "{refused:?}");
}

pub(crate) async fn what_is_read_for_update_is_not_lost_to_a_neighbour(db: Database) {
    write(&db.store, unit!([] | tx | { tx.insert_group(&Group { description: "0".into(), ..group(1, "one") }).await })).await.unwrap();
    let mut tasks = Vec::new();
    for _ in 0..40 {
        let store = db.store.clone();
        tasks.push(tokio::spawn(async move {
            let one = unit!(
                [] | tx | {
                    let mut group = tx.group(&"one".parse().unwrap()).await?.unwrap();
                    group.description = (group.description.parse::<u32>().unwrap() + 1).to_string();
                    tx.save_group(&group).await
                }
            );
            write(&store, one).await.unwrap();
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let group = read(&db.store, unit!([] | tx | { tx.group(&"one".parse().unwrap()).await })).await.unwrap();
    assert_eq!(group.description, "40");
}

pub(crate) async fn a_write_through_a_read_unit_is_refused(db: Database) {
    let refused: Result<(), StoreError> = db.store.read("test", unit!([] | tx | { tx.put_setting("a", b"1").await })).await;
    assert!(matches!(refused, Err(StoreError::Statement(_))), "{refused:?}");
    let swallowed: Result<(), StoreError> = db
        .store
        .read(
            "test",
            unit!(
                [] | tx | {
                    let _ = tx.put_setting("a", b"1").await;
                    Ok(())
                }
            ),
        )
        .await;
    assert!(matches!(swallowed, Err(StoreError::Statement(_))), "{swallowed:?}");
    assert_eq!(read(&db.store, unit!([] | tx | { tx.setting("a").await })).await, None);
}

pub(crate) async fn a_read_unit_sees_one_state(db: Database) {
    write(&db.store, unit!([] | tx | { tx.put_setting("a", b"1").await })).await.unwrap();
    let (begun, written) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let reader = {
        let (store, begun, written) = (db.store.clone(), begun.clone(), written.clone());
        tokio::spawn(async move {
            let one = unit!(
                [begun, written] | tx | {
                    let first = tx.setting("a").await?;
                    begun.notify_one();
                    written.notified().await;
                    Ok((first, tx.setting("a").await?, tx.last_change().await?))
                }
            );
            read(&store, one).await
        })
    };
    begun.notified().await;
    write(
        &db.store,
        unit!(
            [] | tx | {
                tx.put_setting("a", b"2").await?;
                tx.insert_group(&group(1, "one")).await
            }
        ),
    )
    .await
    .unwrap();
    written.notify_one();
    assert_eq!(reader.await.unwrap(), (Some(b"1".to_vec()), Some(b"1".to_vec()), 0));
    assert_eq!(read(&db.store, unit!([] | tx | { tx.setting("a").await })).await, Some(b"2".to_vec()));
}

pub(crate) async fn a_closed_store_says_so(db: Database) {
    let other = db.store.clone();
    db.store.close().await;
    let refused: Result<(), StoreError> = write(&other, unit!([] | tx | { tx.put_setting("a", b"1").await })).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    let refused: Result<i64, StoreError> = other.read("test", unit!([] | tx | { tx.last_change().await })).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
}

pub(crate) async fn the_queue_of_writers_is_bounded(db: Database) {
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = {
        let (store, begun, go) = (db.store.clone(), begun.clone(), go.clone());
        tokio::spawn(async move {
            let one = unit!(
                [begun, go] | tx | {
                    begun.notify_one();
                    go.notified().await;
                    tx.put_setting("slow", b"1").await
                }
            );
            write(&store, one).await
        })
    };
    begun.notified().await;
    // A unit that finds room waits, also when nobody waits for its answer; one that finds none is refused at once.
    let mut refused = 0;
    for _ in 0..5000 {
        match write(&db.store, unit!([] | tx | { tx.put_setting("a", b"1").await })).now_or_never() {
            None => {}
            Some(Err(StoreError::Unavailable(_))) => refused += 1,
            Some(other) => panic!("{other:?}"),
        }
    }
    go.notify_one();
    slow.await.unwrap().unwrap();
    assert_eq!(refused, 5000 - 4096);
    write(&db.store, unit!([] | tx | { tx.put_setting("after", b"1").await })).await.unwrap();
}

pub(crate) async fn a_deadlock_is_run_again(db: Database) {
    add_clients(&db.store, 1..3).await;
    let (barrier, runs) = (Arc::new(Barrier::new(2)), Arc::new(AtomicU32::new(0)));
    let mut tasks = Vec::new();
    for (first, second) in [(1, 2), (2, 1)] {
        let (store, barrier, runs, met) = (db.store.clone(), barrier.clone(), runs.clone(), Arc::new(AtomicBool::new(false)));
        tasks.push(tokio::spawn(async move {
            let one = unit!(
                [barrier, runs, met] | tx | {
                    runs.fetch_add(1, Ordering::SeqCst);
                    let mut one = tx.client(&client_id(first)).await?.unwrap();
                    if !met.swap(true, Ordering::SeqCst) {
                        barrier.wait().await;
                    }
                    let mut two = tx.client(&client_id(second)).await?.unwrap();
                    one.notice += "x";
                    two.notice += "x";
                    tx.save_client(&one).await?;
                    tx.save_client(&two).await
                }
            );
            write(&store, one).await
        }));
    }
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert!(runs.load(Ordering::SeqCst) >= 3, "there was no deadlock");
    let clients = read(&db.store, unit!([] | tx | { tx.clients(&[client_id(1), client_id(2)]).await })).await;
    assert!(clients.iter().all(|c| c.notice == "xx"), "{clients:?}");
}

/// The server would notice after a minute that they wait for each other.
pub(crate) async fn units_that_wait_for_each_other_and_for_the_change_sequence_part_before_the_server_notices(db: Database) {
    db.sql("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET deadlock_timeout = %L', current_database(), '1min'); END $$").await;
    let add = unit!(
        [] | tx | {
            tx.insert_group(&group(1, "one")).await?;
            tx.insert_group(&group(2, "two")).await
        }
    );
    write(&db.store, add).await.unwrap();
    let (barrier, runs) = (Arc::new(Barrier::new(2)), Arc::new(AtomicU32::new(0)));
    let mut tasks = Vec::new();
    // One has the row and wants the sequence, as whoever gives a group work; the other one has the sequence and wants the row.
    for row_first in [true, false] {
        let (store, barrier, runs, met) = (db.store.clone(), barrier.clone(), runs.clone(), Arc::new(AtomicBool::new(false)));
        tasks.push(tokio::spawn(async move {
            let one = unit!(
                [barrier, runs, met] | tx | {
                    runs.fetch_add(1, Ordering::SeqCst);
                    let meet = async || {
                        if !met.swap(true, Ordering::SeqCst) {
                            barrier.wait().await;
                        }
                    };
                    let (one, two) = (group(1, "one"), group(2, "two"));
                    if row_first {
                        tx.lock_groups(std::slice::from_ref(&one.uid)).await?;
                        meet().await;
                        tx.save_group(&one).await
                    } else {
                        tx.save_group(&two).await?;
                        meet().await;
                        tx.lock_groups(std::slice::from_ref(&one.uid)).await.map(drop)
                    }
                }
            );
            write(&store, one).await
        }));
    }
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert!(runs.load(Ordering::SeqCst) >= 3, "they were not in each other's way");
}

/// As a manager that is stopped, or cut off, in the middle of a unit.
pub(crate) async fn a_unit_that_stands_still_is_undone_and_run_again_and_holds_nobody_up(db: Database) {
    write(&db.store, unit!([] | tx | { tx.insert_group(&group(1, "one")).await })).await.unwrap();
    let (begun, go, runs) = (Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::new(AtomicU32::new(0)));
    let still = {
        let (store, begun, go, runs) = (db.store.clone(), begun.clone(), go.clone(), runs.clone());
        tokio::spawn(async move {
            let one = unit!(
                [begun, go, runs] | tx | {
                    let mut one = tx.group(&"one".parse().unwrap()).await?.unwrap();
                    one.description += "still ";
                    tx.save_group(&one).await?;
                    if runs.fetch_add(1, Ordering::SeqCst) == 0 {
                        begun.notify_one();
                        go.notified().await;
                    }
                    Ok(())
                }
            );
            write(&store, one).await
        })
    };
    begun.notified().await;
    // It has the group and the change sequence, and does nothing with them.
    let other = unit!(
        [] | tx | {
            let mut one = tx.group(&"one".parse().unwrap()).await?.unwrap();
            one.description += "other ";
            tx.save_group(&one).await
        }
    );
    write(&db.store, other).await.unwrap();
    go.notify_one();
    still.await.unwrap().unwrap();
    assert_eq!(runs.load(Ordering::SeqCst), 2);
    let group = read(&db.store, unit!([] | tx | { tx.group(&"one".parse().unwrap()).await })).await.unwrap();
    assert_eq!(group.description, "a groupother still ", "what it had read was not there any more");
}

/// Whatever managers tell each other.
pub(crate) async fn what_is_said_to_all_is_heard_by_who_listens(db: Database) {
    let mut listener = db.store.listen().await.unwrap().expect("there may be others");
    let words = ["one".to_owned(), "x".repeat(sutler_store::WORD_MAX)];
    db.store.tell(&words).await.unwrap();
    for word in words {
        assert_eq!(listener.next().await.unwrap(), word);
    }
}
