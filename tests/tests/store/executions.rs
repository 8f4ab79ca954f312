//! What is promised about executions, attempts and the change sequence.

use crate::*;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use sutler_base::state::CancelReason;
use sutler_store::{ExecutionChange, Page, QueuedAfter, unit};
use tokio::sync::Barrier;

fn change(job: &JobId, n: u64, from: ExecutionState, to: ExecutionState) -> ExecutionChange {
    ExecutionChange {
        job: job.clone(),
        client: client_id(n),
        from,
        to,
        reason: String::new(),
        detail: String::new(),
        entered: at(1000),
        attempt: None,
        progress: None,
        cancel: None,
        purpose: None,
    }
}

/// The counters as kept and as counted, and every row.
async fn counts(store: &Store, job: &JobId) -> (Counts, Counts, Vec<Execution>) {
    read(
        store,
        unit!(
            [job] | tx | {
                let kept = tx.counts(&job).await?;
                let mut rows: Vec<Execution> = Vec::new();
                loop {
                    let after = rows.last().map(|r| r.client.to_string());
                    let more = tx.list_executions(&job, &Page { after, limit: 100 }, &[]).await?;
                    if more.is_empty() {
                        break;
                    }
                    rows.extend(more);
                }
                let mut counted = Counts::default();
                for row in &rows {
                    *counted.0.entry(row.state).or_default() += 1;
                }
                Ok((kept, counted, rows))
            }
        ),
    )
    .await
}

pub(crate) async fn there_is_one_execution_per_job_and_client(db: Database) {
    add_clients(&db.store, 0..50).await;
    let job = add_job(&db.store, 1).await;
    write(
        &db.store,
        unit!(
            [] | tx | {
                tx.insert_group(&group(1, "one")).await?;
                let all: Vec<_> = (20..50).map(|n| membership(&uid(1), n)).collect();
                tx.insert_memberships(&all).await
            }
        ),
    )
    .await
    .unwrap();
    let mut tasks = Vec::new();
    for task in 0..12u64 {
        let (store, job) = (db.store.clone(), job.id.clone());
        tasks.push(tokio::spawn(async move {
            let one = unit!(
                [job] | tx | {
                    if task % 3 == 0 {
                        return tx.insert_executions_for_group(&job, &uid(1), at(5)).await;
                    }
                    // Twice in one list, and one that does not exist.
                    let some: Vec<_> = (task * 3..task * 3 + 15).chain(task * 3..task * 3 + 2).chain([999]).map(client_id).collect();
                    Ok(tx.insert_executions(&job, &some, at(5)).await?.len() as u64)
                }
            );
            write(&store, one).await.unwrap()
        }));
    }
    let mut added = 0;
    for task in tasks {
        added += task.await.unwrap();
    }
    let (kept, counted, rows) = counts(&db.store, &job.id).await;
    assert_eq!(added, rows.len() as u64, "each was added by one");
    assert_eq!(kept, counted);
    assert!(rows.is_sorted_by(|a, b| a.client < b.client));
}

#[derive(Debug, Clone)]
enum Op {
    Insert(Vec<u64>),
    Group,
    /// Clients (by their place among the executions) with their next states; kept, or not.
    Change(Vec<(usize, usize)>, bool),
}

pub(crate) async fn counters_add_up_after_any_changes(db: Database) {
    add_clients(&db.store, 0..40).await;
    write(
        &db.store,
        unit!(
            [] | tx | {
                tx.insert_group(&group(1, "one")).await?;
                let all: Vec<_> = (10..30).map(|n| membership(&uid(1), n)).collect();
                tx.insert_memberships(&all).await
            }
        ),
    )
    .await
    .unwrap();
    let op = prop_oneof![
        2 => prop::collection::vec(0u64..45, 0..12).prop_map(Op::Insert),
        1 => Just(Op::Group),
        4 => (prop::collection::vec((0usize..60, 0usize..ExecutionState::ALL.len()), 0..30), prop::bool::weighted(0.8))
            .prop_map(|(list, keep)| Op::Change(list, keep)),
    ];
    let mut next = 0;
    let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
    let next = std::cell::RefCell::new(&mut next);
    let result = tokio::task::block_in_place(|| {
        runner.run(&prop::collection::vec(op, 1..12), |ops| {
            **next.borrow_mut() += 1;
            let n = 1000 + **next.borrow();
            tokio::runtime::Handle::current().block_on(run_ops(&db.store, n, ops));
            Ok(())
        })
    });
    result.unwrap();
}

async fn run_ops(store: &Store, n: u64, ops: Vec<Op>) {
    let job = add_job(store, n).await.id;
    let mut model: BTreeMap<ClientId, ExecutionState> = BTreeMap::new();
    let keep_model = |numbers: &mut dyn Iterator<Item = u64>, model: &mut BTreeMap<ClientId, ExecutionState>| {
        for n in numbers.filter(|n| *n < 40) {
            model.entry(client_id(n)).or_insert(ExecutionState::Queued);
        }
    };
    for op in ops {
        match op {
            Op::Insert(numbers) => {
                keep_model(&mut numbers.iter().copied(), &mut model);
                let ids: Vec<_> = numbers.into_iter().map(client_id).collect();
                write(store, unit!([job, ids] | tx | { tx.insert_executions(&job, &ids, at(5)).await })).await.unwrap();
            }
            Op::Group => {
                keep_model(&mut (10..30), &mut model);
                write(store, unit!([job] | tx | { tx.insert_executions_for_group(&job, &uid(1), at(5)).await })).await.unwrap();
            }
            Op::Change(list, keep) => {
                let mut after = model.clone();
                let mut changes = Vec::new();
                for (place, state) in list {
                    let Some((id, from)) = after.iter_mut().nth(place) else { continue };
                    let to = ExecutionState::ALL[state];
                    changes.push(ExecutionChange { client: id.clone(), ..change(&job, 0, *from, to) });
                    *from = to;
                }
                let result: Result<(), StoreError> = write(
                    store,
                    unit!(
                        [changes] | tx | {
                            tx.change_executions(&changes).await?;
                            if keep { Ok(()) } else { Err(StoreError::Full("only said".into())) }
                        }
                    ),
                )
                .await;
                assert_eq!(result.is_ok(), keep, "{result:?}");
                if keep {
                    model = after;
                }
            }
        }
        let (kept, counted, rows) = counts(store, &job).await;
        assert_eq!(kept, counted);
        assert_eq!(rows.into_iter().map(|r| (r.client, r.state)).collect::<BTreeMap<_, _>>(), model);
    }
    // A page of some states is that part of the whole.
    let states = [ExecutionState::Queued, ExecutionState::Failed, ExecutionState::Succeeded, ExecutionState::Queued];
    let some = read(store, unit!([job, states] | tx | { tx.list_executions(&job, &Page { after: None, limit: 7 }, &states).await })).await;
    let expected = model.iter().filter(|(_, s)| states.contains(s)).map(|(id, _)| id).take(7);
    assert!(some.iter().map(|r| &r.client).eq(expected));
}

pub(crate) async fn the_oldest_logs_go_first_and_what_stays_is_counted(db: Database) {
    let job = add_job(&db.store, 1).await.id;
    let attempts = [1, 2].map(|n| attempt(n, &job, &client_id(n), 1));
    let part =
        |n: usize, path: &str, part: u32| LogPart { attempt: attempts[n].id.clone(), item: 0, path: path.into(), part, cut: 7, size: 3 };
    let parts = [part(1, "b", 1), part(1, "b", 0), part(1, "/a", 0), part(0, "c", 0)];
    write(
        &db.store,
        unit!(
            [attempts, parts] | tx | {
                tx.insert_attempts(&attempts).await?;
                for part in &parts {
                    tx.insert_log(part, b"abc").await?;
                    // Once more is nothing.
                    tx.insert_log(part, b"xyz").await?;
                }
                assert_eq!(tx.log_bytes().await?, 12);
                let [first, second, third, _] = &parts;
                assert_eq!(
                    tx.logs_of(&[attempts[1].id.clone(), attempts[1].id.clone()]).await?,
                    [third.clone(), second.clone(), first.clone()]
                );
                assert_eq!(tx.log_data(first).await?.as_deref(), Some(&b"abc"[..]));
                assert_eq!(tx.drop_oldest_logs().await?, Some((attempts[0].id.clone(), 3)));
                assert_eq!((tx.log_bytes().await?, tx.logs_of(&[attempts[0].id.clone()]).await?), (9, vec![]));
                assert_eq!(tx.drop_oldest_logs().await?, Some((attempts[1].id.clone(), 9)));
                assert_eq!((tx.drop_oldest_logs().await?, tx.log_bytes().await?), (None, 0));
                Ok(())
            }
        ),
    )
    .await
    .unwrap();
}

pub(crate) async fn an_outcome_is_never_overwritten(db: Database) {
    let job = add_job(&db.store, 1).await.id;
    let (one, two, three) = (attempt(1, &job, &client_id(1), 1), attempt(2, &job, &client_id(1), 2), attempt(3, &job, &client_id(2), 1));
    let end = |attempt: &Attempt, state, outcome: &[u8]| Attempt {
        state,
        ended: Some(at(50)),
        outcome: outcome.to_vec(),
        signature: vec![9],
        ..attempt.clone()
    };
    let (done, other) = (end(&one, ExecutionState::Succeeded, b"done"), end(&one, ExecutionState::Failed, b"other"));
    write(
        &db.store,
        unit!(
            [one, two, three, done, other, job] | tx | {
                tx.insert_attempts(&[one.clone(), two.clone(), three.clone()]).await?;
                assert!(matches!(tx.insert_attempts(std::slice::from_ref(&one)).await, Err(StoreError::Exists(_))));
                // Two reports in one list, and then another one.
                tx.finish_attempts(&[done.clone(), other.clone()]).await?;
                tx.finish_attempts(std::slice::from_ref(&other)).await?;
                tx.set_attempt_states(&[(one.id.clone(), ExecutionState::Waiting), (two.id.clone(), ExecutionState::Waiting)]).await?;
                tx.set_attempt_states(&[(two.id.clone(), ExecutionState::Canceled), (three.id.clone(), ExecutionState::Canceled)]).await
            }
        ),
    )
    .await
    .unwrap();
    let concurrent = (0..8u8).map(|n| {
        let (store, report) = (db.store.clone(), Attempt { outcome: vec![n, 1], state: ExecutionState::Failed, ..two.clone() });
        tokio::spawn(async move { write(&store, unit!([report] | tx | { tx.finish_attempts(&[report]).await })).await.unwrap() })
    });
    for task in concurrent.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    read(
        &db.store,
        unit!(
            [one, two, three, done, job] | tx | {
                assert_eq!(tx.attempt(&one.id).await?.unwrap(), done);
                assert_eq!(tx.attempts(&[one.id.clone(), one.id.clone(), three.id.clone()]).await?.len(), 2);
                let all = tx.attempts_of(&job, &client_id(1)).await?;
                assert_eq!(all.iter().map(|a| a.number).collect::<Vec<_>>(), [2, 1]);
                assert_eq!((all[0].state, all[0].outcome.len()), (ExecutionState::Failed, 2));
                assert_eq!(tx.attempt(&two.id).await?.unwrap().id, two.id);
                Ok(())
            }
        ),
    )
    .await;
}

pub(crate) async fn the_change_feed_loses_nothing(db: Database) {
    add_clients(&db.store, 0..60).await;
    let job = add_job(&db.store, 1).await.id;
    let done = Arc::new(AtomicBool::new(false));
    let reader = {
        let (store, job, done) = (db.store.clone(), job.clone(), done.clone());
        tokio::spawn(async move {
            let (mut last, mut seen) = (0, BTreeMap::new());
            loop {
                let end = done.load(Ordering::SeqCst);
                let page = read(&store, unit!([job, last] | tx | { tx.executions_changed_since(&job, last, 5).await })).await;
                assert!(page.iter().all(|r| r.change > last) && page.is_sorted_by_key(|r| r.change));
                if let Some(row) = page.last() {
                    last = row.change;
                } else if end {
                    return seen;
                }
                seen.extend(page.into_iter().map(|row| (row.client.clone(), row)));
            }
        })
    };
    let writers: Vec<_> = (0..6u64)
        .map(|task| {
            let (store, job) = (db.store.clone(), job.clone());
            tokio::spawn(async move {
                for round in 0..25u64 {
                    let one = unit!(
                        [job] | tx | {
                            let mine: Vec<_> = (task * 10..task * 10 + 1 + round % 10).map(client_id).collect();
                            tx.insert_executions(&job, &mine, at(5)).await?;
                            let keys: Vec<_> = mine.iter().map(|c| (job.clone(), c.clone())).collect();
                            let rows = tx.executions(&keys).await?;
                            let to = if round % 2 == 0 { ExecutionState::Offered } else { ExecutionState::Downloading };
                            let changes: Vec<_> = rows
                                .into_iter()
                                .map(|r| ExecutionChange {
                                    client: r.client,
                                    progress: Some((1, round, 100, format!("step {round}"))),
                                    ..change(&job, 0, r.state, to)
                                })
                                .collect();
                            tx.change_executions(&changes).await
                        }
                    );
                    write(&store, one).await.unwrap();
                }
            })
        })
        .collect();
    for task in writers {
        task.await.unwrap();
    }
    done.store(true, Ordering::SeqCst);
    let seen = reader.await.unwrap();
    let (kept, counted, rows) = counts(&db.store, &job).await;
    assert_eq!(kept, counted);
    assert_eq!(rows.len(), 60);
    assert!(seen.into_values().eq(rows));
}

pub(crate) async fn a_page_of_changes_never_ends_inside_a_number(db: Database) {
    add_clients(&db.store, 0..30).await;
    let job = add_job(&db.store, 1).await.id;
    for some in [0..10u64, 10..20, 20..30] {
        write(
            &db.store,
            unit!(
                [job, some] | tx | {
                    let ids: Vec<_> = some.map(client_id).collect();
                    tx.insert_executions(&job, &ids, at(5)).await
                }
            ),
        )
        .await
        .unwrap();
    }
    for (limit, expected) in [(1, 10), (10, 10), (11, 20), (25, 30), (100, 30)] {
        let page = read(&db.store, unit!([job] | tx | { tx.executions_changed_since(&job, 0, limit).await })).await;
        assert_eq!(page.len(), expected, "limit {limit}");
    }
    let all = read(&db.store, unit!([] | tx | { tx.clients_changed_since(0, 3).await })).await;
    assert_eq!(all.len(), 30, "they were added by one unit");
}

pub(crate) async fn only_what_may_run_is_queued_in_its_order(db: Database) {
    add_clients(&db.store, 0..4).await;
    let jobs = [
        Job { priority: 5, created: at(300), ..job(1) },
        Job { priority: 5, created: at(200), ..job(2) },
        Job { priority: 1, created: at(400), ..job(3) },
        Job { state: JobState::Paused, ..job(4) },
    ];
    let everyone: Vec<_> = (0..4).map(client_id).collect();
    write(
        &db.store,
        unit!(
            [jobs, everyone] | tx | {
                for job in &jobs {
                    tx.insert_job(job, &[], &[]).await?;
                    tx.insert_executions(&job.id, &everyone, at(1)).await?;
                }
                let mut held = tx.client(&client_id(2)).await?.unwrap();
                held.state = ClientState::Quarantined;
                tx.save_client(&held).await?;
                let cancel = Some(Some(CancelRequest::asked(CancelReason::JobCanceled, at(9))));
                let queued = ExecutionState::Queued;
                tx.change_executions(&[
                    change(&jobs[0].id, 1, queued, ExecutionState::Offered),
                    ExecutionChange { cancel, ..change(&jobs[1].id, 1, queued, queued) },
                ])
                .await
            }
        ),
    )
    .await
    .unwrap();
    let of = [client_id(0), client_id(1), client_id(2), client_id(77)];
    let queued = read(&db.store, unit!([of] | tx | { tx.queued_for(&of, None, 100).await })).await;
    // Page by page it is the same.
    let mut after = None;
    for (row, job) in &queued {
        let next = read(&db.store, unit!([of, after] | tx | { tx.queued_for(&of, after.as_ref(), 1).await })).await;
        assert_eq!((&next[0].0, &next[0].1.id), (row, &job.id));
        after = Some(QueuedAfter::of(row, job));
    }
    assert!(read(&db.store, unit!([of, after] | tx | { tx.queued_for(&of, after.as_ref(), 1).await })).await.is_empty());
    let mut expected = vec![(client_id(0), 3), (client_id(0), 2), (client_id(0), 1), (client_id(1), 3)];
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(queued.iter().all(|(e, j)| e.job == j.id && e.state == ExecutionState::Queued));
    let found: Vec<_> = queued.into_iter().map(|(e, j)| (e.client, j.id)).collect();
    assert_eq!(found, expected.into_iter().map(|(c, n)| (c, job(n).id)).collect::<Vec<_>>());
    let mut able = [client_id(0), client_id(1), client_id(3)];
    able.sort();
    let after = able[0].clone();
    let (all, some, of_job) = read(
        &db.store,
        unit!(
            [after] | tx | {
                let all = tx.clients_with_queued(None, 9).await?;
                let some = tx.clients_with_queued(Some(&after), 1).await?;
                Ok((all, some, tx.queued_clients_of(&job(1).id, None, 9).await?))
            }
        ),
    )
    .await;
    assert_eq!((all.as_slice(), some.as_slice()), (&able[..], &able[1..2]));
    assert_eq!(of_job.len(), 3, "one was offered");
    let (all, open) =
        read(&db.store, unit!([] | tx | { Ok((tx.executions_of(&client_id(1), 3).await?, tx.open_executions_of(&client_id(1)).await?)) }))
            .await;
    assert_eq!(all.iter().map(|e| e.job.clone()).collect::<Vec<_>>(), [job(3).id, job(1).id, job(2).id]);
    assert_eq!(open.len(), 4);
}

pub(crate) async fn a_change_from_another_state_is_refused(db: Database) {
    add_clients(&db.store, 0..2).await;
    let job = add_job(&db.store, 1).await.id;
    write(&db.store, unit!([job] | tx | { tx.insert_executions(&job, &[client_id(0), client_id(1)], at(1)).await })).await.unwrap();
    let refused: Result<(), StoreError> = write(
        &db.store,
        unit!(
            [job] | tx | {
                let queued = ExecutionState::Queued;
                let wrong = change(&job, 1, ExecutionState::Offered, ExecutionState::Failed);
                let _ = tx.change_executions(&[change(&job, 0, queued, ExecutionState::Offered), wrong]).await;
                Ok(())
            }
        ),
    )
    .await;
    assert!(matches!(refused, Err(StoreError::Statement(_))), "{refused:?}");
    let (kept, counted, rows) = counts(&db.store, &job).await;
    assert_eq!(kept, counted);
    assert!(rows.iter().all(|r| r.state == ExecutionState::Queued));
}

/// Both have read that it is queued before either writes.
pub(crate) async fn of_two_managers_that_offer_the_same_execution_one_makes_its_attempt(db: Database) {
    add_clients(&db.store, 0..1).await;
    let job = add_job(&db.store, 1).await.id;
    write(&db.store, unit!([job] | tx | { tx.insert_executions(&job, &[client_id(0)], at(1)).await })).await.unwrap();
    let other = Store::open(&db.url).await.unwrap();
    let both = Arc::new(Barrier::new(2));
    let mut managers = Vec::new();
    for (n, store) in [(1, db.store.clone()), (2, other.clone())] {
        let (job, both, met) = (job.clone(), both.clone(), Arc::new(AtomicBool::new(false)));
        let offer = unit!(
            [job, both, met] | tx | {
                let queued = tx.queued_for(&[client_id(0)], None, 10).await?;
                // A deadlock runs it again, and then alone.
                if !met.swap(true, Ordering::SeqCst) {
                    both.wait().await;
                }
                let (mut attempts, mut changes) = (Vec::new(), Vec::new());
                for (row, _) in queued {
                    let made = attempt(n, &row.job, &row.client, row.attempts + 1);
                    let offered = change(&job, 0, row.state, ExecutionState::Offered);
                    changes.push(ExecutionChange { attempt: Some((made.id.clone(), made.number, made.revision)), ..offered });
                    attempts.push(made);
                }
                tx.insert_attempts(&attempts).await?;
                tx.change_executions(&changes).await?;
                Ok(attempts.len())
            }
        );
        managers.push(tokio::spawn(async move { write(&store, offer).await }));
    }
    let mut offered = 0;
    for manager in managers {
        offered += manager.await.unwrap().unwrap_or_default();
    }
    let attempts = read(&db.store, unit!([job] | tx | { tx.attempts_of(&job, &client_id(0)).await })).await;
    assert_eq!((offered, attempts.len()), (1, 1), "{attempts:?}");
    other.close().await;
}

pub(crate) async fn a_cancellation_waits_until_it_is_ended(db: Database) {
    add_clients(&db.store, 0..2).await;
    let job = add_job(&db.store, 1).await.id;
    let request = CancelRequest::asked(CancelReason::LeftGroup, at(500));
    let attempt = attempt(1, &job, &client_id(0), 1).id;
    let (offered, canceled) = (ExecutionState::Offered, ExecutionState::Canceled);
    write(
        &db.store,
        unit!(
            [job, request, attempt] | tx | {
                tx.insert_executions(&job, &[client_id(0), client_id(1)], at(1)).await?;
                let first = change(&job, 0, ExecutionState::Queued, offered);
                tx.change_executions(&[
                    ExecutionChange { attempt: Some((attempt.clone(), 1, 7)), progress: Some((1, 2, 3, "a".into())), ..first },
                    ExecutionChange { cancel: Some(Some(request.clone())), reason: "r\0".into(), ..change(&job, 0, offered, offered) },
                ])
                .await
            }
        ),
    )
    .await
    .unwrap();
    let (row, waiting, early, overdue) = read(
        &db.store,
        unit!(
            [job] | tx | {
                let row = tx.execution(&job, &client_id(0)).await?.unwrap();
                Ok((row, tx.canceling(&job).await?, tx.cancels_overdue(at(499), 9).await?, tx.cancels_overdue(at(500), 9).await?))
            }
        ),
    )
    .await;
    assert_eq!((row.attempt.clone(), row.attempts, row.revision), (Some(attempt), 1, 7));
    assert_eq!((row.item, row.bytes_done, row.bytes_total, row.step.as_str()), (1, 2, 3, "a"));
    assert_eq!((row.cancel.as_ref(), row.reason.as_str(), row.entered), (Some(&request), "r\u{fffd}", at(1000)));
    assert_eq!((waiting, early, overdue), (1, vec![], vec![row]));
    write(
        &db.store,
        unit!([job] | tx | { tx.change_executions(&[ExecutionChange { cancel: Some(None), ..change(&job, 0, offered, canceled) }]).await }),
    )
    .await
    .unwrap();
    let (row, waiting) =
        read(&db.store, unit!([job] | tx | { Ok((tx.execution(&job, &client_id(0)).await?.unwrap(), tx.canceling(&job).await?)) })).await;
    assert_eq!((row.cancel, row.attempts, row.step.as_str(), waiting), (None, 1, "a", 0));
}

pub(crate) async fn what_clients_have_of_jobs_is_looked_up_for_many_at_once(db: Database) {
    add_clients(&db.store, 0..4).await;
    let [one, two, over] = [add_job(&db.store, 1).await, add_job(&db.store, 2).await, add_job(&db.store, 3).await];
    let everyone: Vec<_> = (0..4).map(client_id).collect();
    write(
        &db.store,
        unit!(
            [one, two, over, everyone] | tx | {
                tx.insert_group(&group(1, "one")).await?;
                tx.insert_memberships(&[membership(&uid(1), 0), membership(&uid(1), 1)]).await?;
                tx.add_targets(&one.id, &[Target::Group(uid(1)), Target::Client(client_id(0)), Target::Client(client_id(2))]).await?;
                tx.add_targets(&over.id, &[Target::Group(uid(1))]).await?;
                tx.add_exclusions(&two.id, &[Target::Group(uid(1))]).await?;
                tx.add_exclusions(&over.id, &[Target::Group(uid(1))]).await?;
                tx.add_listed(&two.id, &[client_id(3)]).await?;
                for (job, state) in [(&one, JobState::Active), (&two, JobState::Paused), (&over, JobState::Canceled)] {
                    tx.save_job(&Job { state, ..job.clone() }).await?;
                    tx.insert_executions(&job.id, &everyone, at(1)).await?;
                }
                let mut attempts = Vec::new();
                let mut changes = Vec::new();
                for (n, client, number) in [(1, 0, 1), (2, 0, 2), (3, 1, 1)] {
                    attempts.push(attempt(n, &one.id, &client_id(client), number));
                    let id = attempts.last().unwrap().id.clone();
                    let from = if number == 1 { ExecutionState::Queued } else { ExecutionState::Failed };
                    changes
                        .push(ExecutionChange { attempt: Some((id, number, 1)), ..change(&one.id, client, from, ExecutionState::Failed) });
                }
                tx.insert_attempts(&attempts).await?;
                tx.change_executions(&changes).await
            }
        ),
    )
    .await
    .unwrap();
    let (attempts, ended, holding) = read(
        &db.store,
        unit!(
            [one, two, everyone] | tx | {
                let attempts = tx.attempts_of_all(&one.id, &everyone).await?;
                let ended = tx.ended_elsewhere(&two.id, &everyone).await?;
                Ok((attempts, ended, tx.jobs_holding(&everyone, &[JobState::Active, JobState::Paused]).await?))
            }
        ),
    )
    .await;
    let found: Vec<_> = attempts.iter().map(|a| (a.client.clone(), a.number)).collect();
    let mut expected = vec![(client_id(0), 2), (client_id(0), 1), (client_id(1), 1)];
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(found, expected, "of each client the newest first");
    let mut clients = vec![(one.id.clone(), client_id(0)), (one.id.clone(), client_id(1))];
    clients.sort();
    assert_eq!(ended, clients, "what is open, and what is of the job itself, is not meant");
    let mut expected: Vec<_> = (0..3).map(|n| (one.id.clone(), client_id(n))).chain([(two.id.clone(), client_id(3))]).collect();
    expected.sort();
    assert_eq!(holding, expected, "each once, and of jobs in these states");
    // A group that goes leaves its place among what a job that has ended excludes.
    write(&db.store, unit!([] | tx | { tx.drop_target(&Target::Group(uid(1))).await.map(drop) })).await.unwrap();
    let left = read(&db.store, unit!([two, over] | tx | { Ok((tx.exclusions(&two.id).await?, tx.exclusions(&over.id).await?)) })).await;
    assert_eq!(left, (vec![], vec![Target::Group(uid(1))]));
}

pub(crate) async fn members_get_executions_once(db: Database) {
    add_clients(&db.store, 0..1200).await;
    let one = add_job(&db.store, 1).await.id;
    let added = write(
        &db.store,
        unit!(
            [one] | tx | {
                tx.insert_group(&group(1, "one")).await?;
                let all: Vec<_> = (0..1200).map(|n| membership(&uid(1), n)).collect();
                tx.insert_memberships(&all).await?;
                for (n, state) in [(0, ClientState::Pending), (1, ClientState::Removed), (2, ClientState::Quarantined)] {
                    tx.save_client(&Client { state, ..client(n) }).await?;
                }
                let first = tx.insert_executions_for_group(&one, &uid(1), at(1)).await?;
                let again = tx.insert_executions_for_group(&one, &uid(1), at(1)).await?;
                Ok((first, again))
            }
        ),
    )
    .await
    .unwrap();
    assert_eq!(added, (1198, 0));
    let (kept, counted, rows) = counts(&db.store, &one).await;
    assert_eq!((kept.0[&ExecutionState::Queued], rows.len()), (1198, 1198));
    assert_eq!(kept, counted);
    let other = read(&db.store, unit!([] | tx | { tx.counts(&job(2).id).await })).await;
    assert!(other.0.is_empty());
    assert!(matches!(db.store.kind(), Kind::Sqlite | Kind::Postgres));
}
