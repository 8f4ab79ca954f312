//! What stages hold and let go.

use crate::{Database, add_clients, add_job, at, client_id, read, write};
use sutler_base::{
    ClientId,
    state::{ExecutionState, HoldReason},
};
use sutler_core::rollout::{Position, turn};
use sutler_store::unit;

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
                let let_go = tx.release_to_stage(&job, &first, 2).await?;
                let again = tx.release_to_stage(&job, &first, 3).await?;
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
