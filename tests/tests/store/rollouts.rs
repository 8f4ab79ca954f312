//! What stages hold and let go.

use crate::{Database, add_clients, add_job, at, client_id, read, write};
use sutler_base::{
    AttemptId, ClientId, JobId,
    state::{ExecutionState, HoldReason, Purpose, WaitReason},
};
use sutler_core::rollout::{Position, may_wait, turn};
use sutler_store::{ExecutionChange, unit};

pub(crate) async fn what_a_stage_holds_is_offered_to_nobody_and_let_go_in_its_order(db: Database) {
    add_clients(&db.store, 0..6).await;
    let (job, other) = (add_job(&db.store, 1).await.id, add_job(&db.store, 2).await.id);
    let everyone: Vec<ClientId> = (0..6).map(client_id).collect();
    let position = Position { stage: 1, before: 3, passed: vec![3], ..Position::default() };
    let kept = position.clone();
    write(
        &db.store,
        unit!(
            [job, other, everyone, kept] | tx | {
                tx.put_rollout(&job, &Position::default(), Some(HoldReason::Stage)).await?;
                tx.put_rollout(&job, &kept, Some(HoldReason::Stage)).await?;
                tx.insert_executions(&job, &everyone, at(5)).await?;
                tx.insert_executions(&other, &everyone[..1], at(5)).await
            }
        ),
    )
    .await
    .unwrap();
    let mut order = everyone.clone();
    order.sort_by_key(|client| turn(&job, client.as_str()));
    let (found, queued, held, later, active) = read(
        &db.store,
        unit!(
            [job, everyone] | tx | {
                let held = tx.held_by_stage(&job, &[], None, 2).await?;
                let last = held.last().map(|h| (h.turn, h.client.clone()));
                let later = tx.held_by_stage(&job, &[], last.as_ref().map(|(turn, client)| (*turn, client)), 9).await?;
                Ok((tx.rollout(&job).await?, tx.queued_for(&everyone, None, 99).await?, held, later, tx.rollouts_active(None, 9).await?))
            }
        ),
    )
    .await;
    assert_eq!((found, active), (Some(position), vec![job.clone()]));
    assert_eq!(queued.iter().map(|(row, _)| row.job.clone()).collect::<Vec<_>>(), [other]);
    assert_eq!(held.into_iter().chain(later).map(|h| h.client).collect::<Vec<_>>(), order);

    let first = order[..2].to_vec();
    let (let_go, again, back) = write(
        &db.store,
        unit!(
            [job, first] | tx | {
                let let_go = tx.release_to_stage(&job, &first, 2, at(7)).await?;
                let again = tx.release_to_stage(&job, &first, 3, at(8)).await?;
                Ok((let_go, again, tx.hold_by_stage(&job, &first[..1], ExecutionState::Queued).await?))
            }
        ),
    )
    .await
    .unwrap();
    assert_eq!((let_go, again, back), (2, 0, 1));
    let (counts, waiting, rows, stopped) = read(
        &db.store,
        unit!(
            [job, first] | tx | {
                let keys: Vec<_> = first.iter().map(|client| (job.clone(), client.clone())).collect();
                let stopped = tx.stopped_among(std::slice::from_ref(&job)).await?;
                Ok((tx.stage_counts(&job, 2).await?, tx.stage_waiting(&job, 2, None, 9).await?, tx.executions(&keys).await?, stopped))
            }
        ),
    )
    .await;
    assert_eq!(counts, [(ExecutionState::Queued, 1)]);
    assert_eq!(waiting.iter().map(|row| &row.execution.client).collect::<Vec<_>>(), [&first[1]]);
    let of = |client: &ClientId| rows.iter().find(|row| row.client == *client).map(|row| (row.hold, row.stage));
    assert_eq!((of(&first[0]), of(&first[1])), (Some((Some(HoldReason::Stage), 0)), Some((None, 2))));
    assert!(stopped.is_empty());
}

fn change(job: &JobId, n: u64, from: ExecutionState, to: ExecutionState, reason: &str, second: i64) -> ExecutionChange {
    let offered = to == ExecutionState::Offered;
    ExecutionChange {
        job: job.clone(),
        client: client_id(n),
        from,
        to,
        reason: reason.into(),
        detail: String::new(),
        entered: at(second),
        attempt: offered.then(|| (AttemptId::new(at(second), [n as u8; 16]), 1, 1)),
        progress: None,
        cancel: None,
        purpose: None,
    }
}

pub(crate) async fn silence_counts_since_the_offer_or_the_last_wait_that_may_last(db: Database) {
    use ExecutionState::*;
    add_clients(&db.store, 0..8).await;
    let job = add_job(&db.store, 1).await.id;
    let everyone: Vec<ClientId> = (0..8).map(client_id).collect();
    let mut changes: Vec<ExecutionChange> = (0..5).map(|n| change(&job, n, Queued, Offered, "", 100)).collect();
    // One flips all the time, one waited for its window until 500 and one still does, one says nothing, and one has ended.
    changes.push(change(&job, 0, Offered, Downloading, "", 110));
    changes.push(change(&job, 0, Downloading, Waiting, "RETRY", 400));
    changes.push(change(&job, 0, Waiting, Downloading, "", 700));
    changes.push(change(&job, 1, Offered, Waiting, "WINDOW", 110));
    changes.push(change(&job, 1, Waiting, Installing, "", 500));
    changes.push(change(&job, 2, Offered, Waiting, "WINDOW", 110));
    changes.push(change(&job, 4, Offered, Failed, "STEP_FAILED", 120));
    write(
        &db.store,
        unit!(
            [job, everyone, changes] | tx | {
                tx.put_rollout(&job, &Position::default(), Some(HoldReason::Stage)).await?;
                tx.insert_executions(&job, &everyone, at(5)).await?;
                tx.release_to_stage(&job, &everyone, 1, at(98)).await?;
                // Also what is held by something else waits for its stage first.
                tx.hold(&[(job.clone(), everyone[0].clone())], HoldReason::Budget).await?;
                assert_eq!(tx.hold_queued(&job).await?, 8);
                tx.release_to_stage(&job, &everyone[..4], 1, at(99)).await?;
                tx.change_executions(&changes).await
            }
        ),
    )
    .await
    .unwrap();
    let (early, later, since, failed, newest) = read(
        &db.store,
        unit!(
            [job] | tx | {
                let (early, later) = (tx.silent(&job, at(499)).await?, tx.silent(&job, at(500)).await?);
                let failed = (tx.failed_after(&job, 0).await?, tx.failed_after(&job, i64::MAX - 1).await?);
                Ok((early, later, tx.silent_last(&job, 0, at(500), 2).await?, failed, tx.newest_outcomes(&job, 0, 9).await?))
            }
        ),
    )
    .await;
    assert_eq!(early, [(1, Offered, 1), (1, Downloading, 1)]);
    assert_eq!(later, [(1, Offered, 1), (1, Downloading, 1), (1, Installing, 1)]);
    assert_eq!(since, [at(500), at(100)]);
    assert_eq!(failed, (vec![(0, 1)], vec![]));
    assert_eq!(newest.iter().map(|row| &row.client).collect::<Vec<_>>(), [&client_id(4)]);
    // What is uninstalled because its client left says nothing of the package.
    let counts = read(&db.store, unit!([job] | tx | { tx.stage_counts(&job, 1).await })).await;
    assert_eq!(counts, [(Offered, 1), (Downloading, 1), (Waiting, 1), (Installing, 1)]);
    let leaves = |change| ExecutionChange { purpose: Some(Purpose::Leave), ..change };
    let left = [leaves(change(&job, 4, Failed, Failed, "STEP_FAILED", 130)), leaves(change(&job, 1, Installing, Installing, "", 130))];
    write(&db.store, unit!([left] | tx | { tx.change_executions(&left).await })).await.unwrap();
    let counts = read(&db.store, unit!([job] | tx | { tx.stage_counts(&job, 1).await })).await;
    assert_eq!(counts, [(Offered, 1), (Downloading, 1), (Waiting, 1)]);
    let nothing = read(
        &db.store,
        unit!(
            [job] | tx | {
                let waiting = tx.silent_waiting(&job, at(109), None, 9).await?;
                Ok((tx.failed_after(&job, 0).await?, tx.newest_outcomes(&job, 0, 9).await?, waiting))
            }
        ),
    )
    .await;
    assert_eq!(nothing, (vec![], vec![], vec![]));
}

/// The words of the statements are those of the rule.
pub(crate) async fn what_may_last_is_known_to_the_statements(db: Database) {
    use ExecutionState::*;
    let reasons = WaitReason::ALL;
    add_clients(&db.store, 0..reasons.len() as u64).await;
    let job = add_job(&db.store, 1).await.id;
    let everyone: Vec<ClientId> = (0..reasons.len() as u64).map(client_id).collect();
    let mut changes: Vec<ExecutionChange> = (0..reasons.len() as u64).map(|n| change(&job, n, Queued, Offered, "", 100)).collect();
    changes.extend(reasons.iter().zip(0..).map(|(reason, n)| change(&job, n, Offered, Waiting, reason.as_str(), 110)));
    write(
        &db.store,
        unit!(
            [job, everyone, changes] | tx | {
                tx.insert_executions(&job, &everyone, at(5)).await?;
                tx.change_executions(&changes).await
            }
        ),
    )
    .await
    .unwrap();
    let silent = read(&db.store, unit!([job] | tx | { tx.silent(&job, at(200)).await })).await;
    let none_may = reasons.iter().filter(|reason| !may_wait(**reason)).count() as i64;
    assert_eq!(silent, [(0, Waiting, none_may)]);
}
