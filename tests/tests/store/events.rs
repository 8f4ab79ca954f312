//! Events and hooks, as they stand in the database.

use crate::*;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use sutler_base::state::EventKind;
use sutler_core::{
    event::{Event, EventFilter},
    hook::Hook,
};
use sutler_store::unit;

fn event(kind: EventKind, object: &str) -> Event {
    Event { time: at(5), ..Event::new(kind, object, "nul \0 and é").with("key", "value \0") }
}

/// How many write at the same time, and how many units each writes.
const WRITERS: usize = 6;
const UNITS: usize = 25;

/// Units of different length that write at the same time, one to three events each, and somebody who reads after the number up to
/// which everything was read: nothing comes late below it.
pub(crate) async fn a_reader_of_events_misses_none_that_commits_late(db: Database) {
    let store = db.store.clone();
    let written = Arc::new(AtomicUsize::new(0));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (store, written) = (store.clone(), written.clone());
        writers.spawn(async move {
            for n in 0..UNITS {
                let (count, name) = (1 + (writer + n) % 3, format!("jobs/{writer}-{n}"));
                let done = write(
                    &store,
                    unit!(
                        [name, count] | tx | {
                            tx.put_setting(&name, b"1").await?;
                            for n in 0..count {
                                tx.insert_event(&event(EventKind::JobEnded, &format!("{name}/{n}"))).await?;
                                tx.put_setting(&name, b"2").await?;
                            }
                            Ok(())
                        }
                    ),
                );
                done.await.unwrap();
                written.fetch_add(count, Ordering::SeqCst);
            }
        });
    }
    let (mut cursor, mut seen) = (0, Vec::new());
    loop {
        let is_over = writers.is_empty();
        let (events, last) = read(
            &store,
            unit!(
                [cursor] | tx | {
                    let last = tx.last_change().await?;
                    Ok((tx.events_after(cursor, &EventFilter::default(), 1000).await?, last))
                }
            ),
        )
        .await;
        assert!(events.iter().all(|e| e.cursor > cursor && e.cursor <= last));
        seen.extend(events.into_iter().map(|e| e.object));
        cursor = last;
        if is_over {
            break;
        }
        while let Some(done) = writers.try_join_next() {
            done.unwrap();
        }
        tokio::task::yield_now().await;
    }
    let all = seen.len();
    assert_eq!(all, written.load(Ordering::SeqCst));
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), all, "none came twice");
}

pub(crate) async fn events_are_found_by_kind_object_and_time_and_dropped_from_the_beginning(db: Database) {
    let job = JobId::from_random(bits(1));
    let (of_job, row) = (format!("jobs/{job}"), format!("jobs/{job}/executions/c"));
    let names = (of_job.clone(), row.clone());
    let all = write(
        &db.store,
        unit!(
            [names] | tx | {
                tx.insert_event(&event(EventKind::JobStarted, &names.0)).await?;
                tx.insert_event(&event(EventKind::ExecutionFailed, &names.1)).await?;
                tx.insert_event(&Event { time: at(9), ..event(EventKind::ClientOverdue, "clients/c") }).await?;
                tx.events_after(0, &EventFilter::default(), 10).await
            }
        ),
    )
    .await
    .unwrap();
    assert_eq!(all.iter().map(|e| e.object.as_str()).collect::<Vec<_>>(), [of_job.as_str(), &row, "clients/c"]);
    assert!(all.is_sorted_by(|a, b| a.cursor < b.cursor));
    assert_eq!((all[1].job.as_ref(), all[2].job.as_ref()), (Some(&job), None));
    assert_eq!((all[0].sentence.as_str(), all[0].attributes["key"].as_str()), ("nul \u{fffd} and é", "value \0"));
    let cursors: Vec<i64> = all.iter().map(|e| e.cursor).collect();
    for (kinds, object, expected) in [
        (vec![], "", vec![0, 1, 2]),
        (vec![EventKind::ClientOverdue, EventKind::JobStarted], "", vec![0, 2]),
        (vec![], of_job.as_str(), vec![0, 1]),
        (vec![], row.as_str(), vec![1]),
        (vec![EventKind::JobStarted], "clients/c", vec![]),
    ] {
        let filter = EventFilter { kinds, object: object.to_owned() };
        let (up, down) = read(
            &db.store,
            unit!([filter] | tx | { Ok((tx.events_after(0, &filter, 10).await?, tx.list_events(0, i64::MAX, &filter, 10).await?)) }),
        )
        .await;
        let expected: Vec<i64> = expected.into_iter().map(|n| cursors[n]).collect();
        assert_eq!(up.iter().map(|e| e.cursor).collect::<Vec<_>>(), expected);
        assert_eq!(down.iter().rev().map(|e| e.cursor).collect::<Vec<_>>(), expected);
    }
    let second = cursors[1];
    let (since, oldest, too_many, none) = read(
        &db.store,
        unit!(
            [] | tx | {
                let since = tx.first_event_since(at(6)).await?;
                Ok((since, tx.oldest_events(2).await?, tx.event_before_newest(1).await?, tx.event_before_newest(3).await?))
            }
        ),
    )
    .await;
    assert_eq!((since, too_many, none), (Some(cursors[2]), Some(second), None));
    assert_eq!(oldest, [(cursors[0], at(5)), (second, at(5))]);
    let dropped = write(
        &db.store,
        unit!([second] | tx | { Ok((tx.drop_events(second).await?, tx.drop_events(1).await?, tx.events_dropped().await?)) }),
    );
    assert_eq!(dropped.await.unwrap(), (2, 0, second), "what is gone stays gone");
    // A clock that was stepped: the first of those that are new enough, whichever is the oldest by its time.
    let (since, stepped) = write(
        &db.store,
        unit!(
            [] | tx | {
                for seconds in [5, 20, 10] {
                    tx.insert_event(&Event { time: at(seconds), ..event(EventKind::JobEnded, "jobs/x") }).await?;
                }
                Ok((tx.first_event_since(at(10)).await?, tx.events_after(0, &EventFilter::default(), 10).await?))
            }
        ),
    )
    .await
    .unwrap();
    assert_eq!(since, stepped.iter().find(|e| e.time == at(20)).map(|e| e.cursor));
    assert_eq!(read(&db.store, unit!([] | tx | { tx.first_event_since(at(21)).await })).await, None);
}

pub(crate) async fn an_occurrence_is_told_once_and_a_hook_reads_back(db: Database) {
    let told = |key: &str, occurrence: &str| {
        let pair = (key.to_owned(), occurrence.to_owned());
        write(&db.store, unit!([pair] | tx | { tx.mark_event(&pair.0, &pair.1).await }))
    };
    for (key, occurrence, is_new) in [("a", "1", true), ("a", "1", false), ("b", "1", true), ("a", "2", true), ("a", "2", false)] {
        assert_eq!(told(key, occurrence).await.unwrap(), is_new, "{key} {occurrence}");
    }
    let keys: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
    let marks = read(&db.store, unit!([keys] | tx | { tx.event_marks(&keys).await })).await;
    assert_eq!(marks.into_iter().collect::<Vec<_>>(), [("a".to_owned(), "2".to_owned()), ("b".to_owned(), "1".to_owned())]);
    write(&db.store, unit!([] | tx | { tx.unmark_event("a").await })).await.unwrap();
    assert!(told("a", "2").await.unwrap());

    let hook = Hook {
        attempts: 3,
        began: Some(at(1)),
        next: Some(at(2)),
        error: "it said no".into(),
        holder: "me".into(),
        until: Some(at(3)),
        delivered: 4,
        given_up: 5,
        ..Hook::new("chat", 7)
    };
    let begun = write(
        &db.store,
        unit!(
            [hook] | tx | {
                tx.insert_hook(&Hook::new("chat", 7)).await?;
                let begun = tx.hook("chat").await?;
                tx.save_hook(&hook).await?;
                Ok(begun)
            }
        ),
    )
    .await
    .unwrap();
    assert_eq!(begun, Some(Hook::new("chat", 7)));
    assert_eq!(read(&db.store, unit!([] | tx | { tx.hook("chat").await })).await, Some(hook));
    let again = write(&db.store, unit!([] | tx | { tx.insert_hook(&Hook::new("chat", 9)).await })).await;
    assert!(matches!(again, Err(StoreError::Exists("hook"))));
}
