//! What the tables of changes that are not made yet promise: approvals that are pending are told from others, and plans go as a whole.

use crate::*;
use sutler_base::{
    Digest,
    state::{ApprovalState, PlanVerdict, Presence},
};
use sutler_core::{
    approval::Approval,
    planned::{JobPlan, Pinned, PlannedClient, Summary},
};
use sutler_store::{Answer, Page, unit};

fn approval(n: u64, requester: &str, about: Option<&JobId>) -> Approval {
    Approval {
        id: uid(n),
        state: ApprovalState::Pending,
        requester: requester.into(),
        method: "JobService/StartJob".into(),
        what: "it's a start".into(),
        job: about.cloned(),
        fingerprint: Digest::of(&[n as u8]),
        clients: 120,
        fleet: 500,
        jobs: [(job(0).id, 120)].into(),
        created: at(1),
        expires: at(100 + n as i64),
        decided: None,
        decider: String::new(),
        reason: String::new(),
        plan: about.map(|_| uid(77)),
        packages: vec![Pinned { version: Some(uid(4)), name: "a@1".into() }],
    }
}

pub(crate) async fn an_approval_is_pending_until_it_is_decided_and_is_kept_for_a_while(db: Database) {
    let one = job(0);
    let of_job = approval(1, "operators/a", Some(&one.id));
    let other = approval(2, "operators/a", None);
    let third = approval(3, "operators/b", None);
    write(
        &db.store,
        unit!(
            [one, of_job, other, third] | tx | {
                tx.insert_job(&one, &[], &[]).await?;
                for approval in [&of_job, &other, &third] {
                    tx.put_approval(approval).await?;
                }
                tx.put_request("operators/a", "r", &Digest::of(b"b"), &Answer::Waits(of_job.id.clone()), at(1)).await?;
                Ok(())
            }
        ),
    )
    .await
    .unwrap();
    let list = async |after: Option<Uid>, all: bool| {
        let page = Page { after: after.map(|id| id.to_string()), limit: 2 };
        read(&db.store, unit!([page] | tx | { tx.list_approvals(&page, all).await })).await
    };
    assert_eq!(list(None, false).await, [third.clone(), other.clone()], "the newest first");
    assert_eq!(list(Some(uid(2)), false).await, std::slice::from_ref(&of_job));
    let id = one.id.clone();
    let of = async || read(&db.store, unit!([id] | tx | { tx.approval_of(&id).await })).await;
    assert_eq!(of().await, Some(of_job.clone()));
    assert_eq!(read(&db.store, unit!([] | tx | { tx.approvals_pending("operators/a").await })).await, 2);
    // What was sent is read where it is asked for, and tells one from another.
    let sent = vec![0_u8, 1, 255];
    let uid_of = other.id.clone();
    write(&db.store, unit!([sent, uid_of] | tx | { tx.set_approval_request(&uid_of, &sent).await })).await.unwrap();
    assert_eq!(read(&db.store, unit!([uid_of] | tx | { tx.approval_request(&uid_of).await })).await, sent);
    let like = async |request: &[u8], about: Option<JobId>| {
        let request = request.to_vec();
        let unit =
            unit!([request, about] | tx | { tx.approval_like("operators/a", "JobService/StartJob", &request, about.as_ref()).await });
        read(&db.store, unit).await.map(|approval| approval.id)
    };
    assert_eq!(like(&sent, None).await, Some(other.id.clone()));
    assert_eq!((like(&[], None).await, like(&[], Some(one.id.clone())).await), (None, Some(of_job.id.clone())));
    assert_eq!(read(&db.store, unit!([] | tx | { tx.approvals_overdue(at(102), 5).await })).await, [of_job.clone(), other.clone()]);
    // Whoever asks again hears what became of it as long as it waits, and for a while after that.
    let forgotten = async |before: i64| write(&db.store, unit!([] | tx | { tx.drop_requests(at(before)).await })).await.unwrap();
    assert_eq!(forgotten(1000).await, 0);
    let kept = read(&db.store, unit!([] | tx | { tx.request("operators/a", "r").await })).await;
    assert_eq!(kept, Some((Digest::of(b"b"), Answer::Waits(of_job.id.clone()))));
    let decided = Approval {
        state: ApprovalState::Rejected,
        decided: Some(at(50)),
        decider: "operators/b".into(),
        reason: "no".into(),
        clients: 7,
        ..of_job.clone()
    };
    write(&db.store, unit!([decided] | tx | { tx.put_approval(&decided).await })).await.unwrap();
    assert_eq!((of().await, list(Some(uid(2)), false).await.len()), (None, 0));
    assert_eq!(list(Some(uid(2)), true).await, [decided]);
    assert_eq!((forgotten(50).await, forgotten(51).await), (0, 1));
    assert_eq!(write(&db.store, unit!([] | tx | { tx.drop_approvals(at(50)).await })).await.unwrap(), 0);
    assert_eq!(write(&db.store, unit!([] | tx | { tx.drop_approvals(at(51)).await })).await.unwrap(), 1);
    assert_eq!(list(None, true).await, [third, other]);
}

pub(crate) async fn a_plan_is_read_as_it_was_written_and_goes_with_its_clients(db: Database) {
    let plan = |n: u64| JobPlan {
        id: uid(n),
        creator: "operators/a".into(),
        order: vec![9, 0, 255],
        summary: Summary {
            clients: 700,
            packages: vec![Pinned { version: Some(uid(4)), name: "a@1".into() }],
            rules: [("policies/p".into(), 3)].into(),
            job: Some(job(0).id),
            ..Summary::default()
        },
        created: at(1),
        expires: at(50 + n as i64),
    };
    let client = |n: u64| PlannedClient {
        client: client_id(n),
        verdict: PlanVerdict::Unknown,
        presence: Presence::Overdue,
        stage: 3,
        bytes: 1 << 40,
        opens: n.is_multiple_of(2).then(|| at(9)),
        why: "it's unknown".into(),
    };
    let mut clients: Vec<PlannedClient> = (0..700).map(client).collect();
    clients.sort_by(|a, b| a.client.cmp(&b.client));
    let (one, two) = (plan(1), plan(2));
    let some = clients[..3].to_vec();
    write(
        &db.store,
        unit!(
            [one, two, clients, some] | tx | {
                tx.insert_plan(&one, &clients).await?;
                tx.insert_plan(&two, &some).await
            }
        ),
    )
    .await
    .unwrap();
    let id = one.id.clone();
    assert_eq!(read(&db.store, unit!([id] | tx | { tx.plan(&id).await })).await, Some(one.clone()));
    let page = Page { after: Some(clients[499].client.to_string()), limit: 1000 };
    assert_eq!(read(&db.store, unit!([id, page] | tx | { tx.plan_clients(&id, &page).await })).await, clients[500..]);
    let asked = vec![clients[5].client.clone(), client_id(9000)];
    let among = read(&db.store, unit!([id, asked] | tx | { tx.planned_among(&id, &asked).await })).await;
    assert_eq!(among, [clients[5].client.clone()]);
    let kept = async || read(&db.store, unit!([] | tx | { tx.plans_kept().await })).await;
    assert_eq!(kept().await, [(uid(1), at(51), 700), (uid(2), at(52), 3)]);
    write(&db.store, unit!([id] | tx | { tx.delete_plan(&id).await })).await.unwrap();
    assert_eq!(kept().await, [(uid(2), at(52), 3)]);
    let page = Page { after: None, limit: 5 };
    assert_eq!(read(&db.store, unit!([id, page] | tx | { tx.plan_clients(&id, &page).await })).await, []);
}
