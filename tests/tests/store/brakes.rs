//! What the tables of brakes promise: what is stopped, open, waited for and spent reads back as it was written, and what is held is
//! offered to nobody.

use crate::*;
use sutler_base::state::HoldReason;
use sutler_core::brake::{
    Stop, Stopped,
    breaker::{Scope, Tried},
    budget::Purse,
};
use sutler_store::{Awaited, Retried, unit};

pub(crate) async fn what_is_stopped_reads_back_and_what_is_held_is_offered_to_nobody(db: Database) {
    add_clients(&db.store, 0..4).await;
    let job = add_job(&db.store, 1).await.id;
    let everyone: Vec<_> = (0..4).map(client_id).collect();
    let (hello, one) = ("hello".parse::<sutler_base::PackageName>().unwrap(), "1:2~3".parse().unwrap());
    let whats = [Stopped::Everything, Stopped::Group(uid(7)), Stopped::Package(hello.clone()), Stopped::Version(hello, one)];
    let stops = whats.map(|what| Stop { what, reason: "ü \"x\"".into(), creator: "operators/ann".into(), since: at(5) }).to_vec();
    let keys: Vec<_> = everyone.iter().map(|client| (job.clone(), client.clone())).collect();
    let noted = write(
        &db.store,
        unit!(
            [job, everyone, stops, keys] | tx | {
                tx.insert_executions(&job, &everyone, at(5)).await?;
                let mut new = Vec::new();
                for stop in stops.iter().rev().chain(&stops[..1]) {
                    new.push(tx.insert_stop(stop).await?);
                }
                let held = [tx.hold(&keys[..3], HoldReason::Stopped).await?, tx.hold(&keys[2..], HoldReason::Budget).await?];
                Ok((new, held))
            }
        ),
    );
    assert_eq!(noted.await.unwrap(), (vec![true, true, true, true, false], [3, 1]), "what is held is not held by something else");
    let seen = read(
        &db.store,
        unit!(
            [job, everyone] | tx | {
                let stopped = tx.held(HoldReason::Stopped, None, 2).await?;
                let last = stopped.last().map(|row| (row.job.clone(), row.client.clone()));
                let more = tx.held(HoldReason::Stopped, last.as_ref().map(|(job, client)| (job, client)), 9).await?;
                let budget = (tx.next_held_job(HoldReason::Budget, None).await?, tx.held_of(&job, HoldReason::Budget, 9).await?);
                let after = tx.next_held_job(HoldReason::Budget, Some(&job)).await?;
                Ok((tx.stops().await?, stopped.len(), more.len(), budget, after, tx.queued_for(&everyone, None, 9).await?.len()))
            }
        ),
    )
    .await;
    assert_eq!(seen, (stops.clone(), 2, 1, (Some(job.clone()), vec![client_id(3)]), None, 0));
    let freed = write(
        &db.store,
        unit!(
            [stops, keys] | tx | {
                let gone = [tx.delete_stop(&stops[3].what).await?, tx.delete_stop(&stops[3].what).await?];
                Ok((gone, tx.release(&keys, HoldReason::Stopped, Timestamp::UNIX_EPOCH).await?, tx.stops().await?.len()))
            }
        ),
    );
    assert_eq!(freed.await.unwrap(), ([true, false], 3, 3));
    // What ends is held by nothing any more.
    let last = keys[3].clone();
    let end = write(
        &db.store,
        unit!(
            [last] | tx | {
                let row = tx.execution(&last.0, &last.1).await?.unwrap();
                let change = |row: &sutler_core::model::Execution, to| sutler_store::ExecutionChange {
                    job: row.job.clone(),
                    client: row.client.clone(),
                    from: row.state,
                    to,
                    reason: String::new(),
                    detail: String::new(),
                    entered: at(6),
                    attempt: None,
                    progress: None,
                    cancel: None,
                    purpose: None,
                };
                tx.change_executions(&[change(&row, ExecutionState::Canceled)]).await?;
                let row = tx.execution(&last.0, &last.1).await?.unwrap();
                tx.change_executions(&[change(&row, ExecutionState::Queued)]).await?;
                Ok(tx.execution(&last.0, &last.1).await?.unwrap().hold)
            }
        ),
    );
    assert_eq!(end.await.unwrap(), None);
}

pub(crate) async fn breakers_retries_and_budgets_read_back(db: Database) {
    let (job, client) = (add_job(&db.store, 1).await.id, client_id(1));
    let key = [(job.clone(), client.clone())];
    let scope = Scope::Job(job.clone());
    let (first, again) = write(
        &db.store,
        unit!(
            [scope] | tx | {
                let first = tx.breaker_of(&uid(1), &scope, &uid(2)).await?;
                Ok((first, tx.breaker_of(&uid(1), &scope, &uid(3)).await?))
            }
        ),
    )
    .await
    .unwrap();
    assert_eq!((&first, first.uid.clone(), first.opened.is_none()), (&again, uid(2), true));
    let mut open = first.clone();
    open.counted.count(Tried { failed: true, bytes: 5 }, at(5));
    open.opened = Some((at(6), "ü".into()));
    let listed = write(
        &db.store,
        unit!(
            [open] | tx | {
                tx.save_breaker(&open).await?;
                Ok((tx.open_breakers().await?, tx.breaker(&open.uid).await?))
            }
        ),
    );
    assert_eq!(listed.await.unwrap(), (vec![open.clone()], Some(open)));
    let retried = Retried { job: job.clone(), client: client.clone(), used: 2, due: Some(at(9)) };
    let seen = write(
        &db.store,
        unit!(
            [retried, key, job, client] | tx | {
                tx.put_retries(&Retried { used: 1, ..retried.clone() }).await?;
                tx.put_retries(&retried).await?;
                let before = (tx.retries(&key).await?, tx.retries_due(at(8), 9).await?, tx.retries_due(at(9), 9).await?);
                let early = tx.retries_done(&key, at(8)).await?;
                assert_eq!((early, tx.retries_due(at(9), 9).await?.len()), (vec![], 1), "not before its time");
                assert_eq!(tx.retries_done(&key, at(9)).await?, key);
                assert_eq!(tx.retries_done(&key, at(9)).await?, [], "once");
                let after = (tx.retries(&key).await?[0].used, tx.retries_due(at(9), 9).await?.len());
                tx.forget_retries(&key).await?;
                tx.put_awaited(&job, &[client.clone(), client_id(2)], at(3)).await?;
                tx.put_awaited(&job, std::slice::from_ref(&client), at(4)).await?;
                let awaited = tx.awaited(&job, &[client.clone(), client_id(3)]).await?;
                let all = [client.clone(), client_id(2)];
                tx.hold_awaited(&job, &all[..1], at(10)).await?;
                tx.hold_awaited(&job, &all, at(20)).await?;
                let held = tx.awaited(&job, &all).await?.into_iter().map(|noted| (noted.since, noted.held)).collect::<Vec<_>>();
                assert_eq!(held, [(at(3), Some(at(20))), (at(4), Some(at(10)))]);
                tx.resume_awaited(&job, &all, at(30)).await?;
                tx.resume_awaited(&job, &all, at(50)).await?;
                let resumed = tx.awaited(&job, &all).await?.into_iter().map(|noted| (noted.since, noted.held)).collect::<Vec<_>>();
                assert_eq!(resumed, [(at(13), None), (at(24), None)], "as much later as it was held");
                tx.hold_all_awaited(&job, at(100)).await?;
                tx.resume_awaited(&job, &all, at(90)).await?;
                let resumed = tx.awaited(&job, &all).await?.into_iter().map(|noted| (noted.since, noted.held)).collect::<Vec<_>>();
                assert_eq!(resumed, [(at(13), None), (at(24), None)], "also by a clock that is behind");
                tx.forget_awaited(&key).await?;
                Ok((before, after, tx.retries(&key).await?[0].used, awaited, tx.awaited(&job, &[client]).await?.len()))
            }
        ),
    );
    let before = (vec![retried], vec![], key.to_vec());
    assert_eq!(seen.await.unwrap(), (before, (2, 0), 0, vec![Awaited { client, since: at(4), held: None }], 0));
    let (ann, purse) = ("ann".parse::<sutler_base::OperatorName>().unwrap(), Purse::Job(job));
    let spent = write(
        &db.store,
        unit!(
            [ann, purse] | tx | {
                tx.lock_purse(&purse).await?;
                tx.lock_purse(&purse).await?;
                for (at, n) in [(5, 1), (7, 2), (7, 3), (9, 4)] {
                    tx.spend(&purse, at, n, 5).await?;
                }
                tx.set_operator_budget(&ann, Some(5)).await?;
                tx.set_operator_budget(&ann, Some(6)).await?;
                let six = tx.operator_budget(&ann).await?;
                tx.set_operator_budget(&ann, None).await?;
                Ok((tx.spent(&purse, 0).await?, tx.spent(&purse, 7).await?, six, tx.operator_budget(&ann).await?))
            }
        ),
    );
    assert_eq!(spent.await.unwrap(), (vec![(7, 5), (9, 4)], vec![(9, 4)], Some(6), None));
}
