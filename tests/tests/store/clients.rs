//! What the tables of clients promise beyond their rows: questions and who answered them, archived clients, likeness.

use crate::*;
use sutler_base::question::AnswerRule;
use sutler_store::{Besides, Page, unit};

fn all() -> Page {
    Page { after: None, limit: 1000 }
}

fn question(n: u64, name: &str, rule: AnswerRule) -> Question {
    Question { uid: uid(n), name: name.parse().unwrap(), prompt: "Which \"room\"? ü".into(), rule, created: at(5), change: 0 }
}

async fn add(store: &Store, ids: std::ops::Range<u64>) {
    let clients: Vec<Client> = ids.map(client).collect();
    write(
        store,
        unit!(
            [clients] | tx | {
                for client in &clients {
                    tx.insert_client(client).await?;
                }
                Ok(())
            }
        ),
    )
    .await
    .unwrap();
}

pub(crate) async fn questions_have_a_revision_and_know_who_answered_them(db: Database) {
    add(&db.store, 0..4).await;
    let room = question(1, "room", AnswerRule::String { pattern: Some("[A-Z][0-9]+".parse().unwrap()) });
    let floor = question(2, "floor", AnswerRule::choice(vec!["1".into(), "it's 2".into()]).unwrap());
    let revision = async || read(&db.store, unit!([] | tx | { tx.questions_revision().await })).await;
    assert_eq!(revision().await, 0);
    write(
        &db.store,
        unit!(
            [room, floor] | tx | {
                tx.insert_question(&room).await?;
                tx.insert_question(&floor).await
            }
        ),
    )
    .await
    .unwrap();
    let again = Question { uid: uid(3), ..room.clone() };
    let taken = write(&db.store, unit!([again] | tx | { tx.insert_question(&again).await })).await;
    assert!(matches!(taken, Err(StoreError::Exists("question"))), "{taken:?}");
    let listed = read(&db.store, unit!([] | tx | { tx.list_questions(&all()).await })).await;
    assert_eq!(
        listed.iter().map(|q| (&q.uid, &q.prompt, &q.rule)).collect::<Vec<_>>(),
        [(&floor.uid, &floor.prompt, &floor.rule), (&room.uid, &room.prompt, &room.rule)]
    );
    let first = revision().await;
    write(
        &db.store,
        unit!(
            [room, floor] | tx | {
                for n in [2, 0] {
                    let mut client = tx.client(&client_id(n)).await?.unwrap();
                    client.answers = BTreeMap::from([("room".to_owned(), "B'7".to_owned()), ("floor".to_owned(), "1".to_owned())]);
                    tx.save_client(&client).await?;
                    for question in [&room, &floor, &room] {
                        tx.note_answer(&question.uid, &client.id).await?;
                    }
                }
                tx.save_question(&Question { prompt: "Where?".into(), ..room.clone() }).await
            }
        ),
    )
    .await
    .unwrap();
    let second = revision().await;
    assert!(second > first);
    let answered = async |question: &Question| {
        let uid = question.uid.clone();
        read(&db.store, unit!([uid] | tx | { tx.clients_that_answered(&uid, &Page { after: None, limit: 9 }).await })).await
    };
    let mut both = [client_id(0), client_id(2)];
    both.sort();
    assert_eq!(answered(&room).await, both);
    let left = BTreeMap::from([("floor".to_owned(), "1".to_owned())]);
    let dropped: Vec<_> = both.iter().map(|id| (id.clone(), left.clone())).collect();
    write(
        &db.store,
        unit!(
            [room, dropped] | tx | {
                tx.drop_answers(&room.uid, &dropped).await?;
                tx.delete_question(&room.uid, at(9)).await
            }
        ),
    )
    .await
    .unwrap();
    assert_eq!((answered(&room).await, answered(&floor).await), (vec![], both.to_vec()));
    for n in [0, 2] {
        let client = read(&db.store, unit!([n] | tx | { tx.client(&client_id(n)).await })).await.unwrap();
        assert_eq!(client.answers, left);
    }
    assert!(revision().await > second, "a deletion is a change");
    // The name is free again, the uid is not.
    write(&db.store, unit!([again] | tx | { tx.insert_question(&again).await })).await.unwrap();
    assert!(write(&db.store, unit!([room] | tx | { tx.save_question(&room).await })).await.is_err());
}

pub(crate) async fn archived_clients_are_in_no_list_and_get_no_executions(db: Database) {
    add(&db.store, 0..3).await;
    let (job, group) = (job(1), group(1, "machines"));
    let archived = Client { archived: Some(at(77)), state: ClientState::Active, ..client(1) };
    write(
        &db.store,
        unit!(
            [job, group, archived] | tx | {
                tx.insert_group(&group).await?;
                tx.insert_job(&job, &[], &[]).await?;
                for n in 0..3 {
                    let found = tx.client(&client_id(n)).await?.unwrap();
                    tx.save_client(&Client { state: ClientState::Active, ..found }).await?;
                }
                tx.save_client(&archived).await?;
                tx.insert_memberships(&[0, 1, 2].map(|n| membership(&group.uid, n))).await?;
                Ok(())
            }
        ),
    )
    .await
    .unwrap();
    let mut there = [client_id(0), client_id(2)];
    there.sort();
    let ids = |clients: Vec<Client>| clients.into_iter().map(|c| c.id).collect::<Vec<_>>();
    let uid = group.uid.clone();
    let (without, of_group, with, active, seen, by_name) = read(
        &db.store,
        unit!(
            [uid] | tx | {
                let too = Besides { archived: true, ..Besides::default() };
                Ok((
                    tx.list_clients(&all(), Besides::default(), None).await?,
                    tx.list_clients(&all(), Besides::default(), Some(&uid)).await?,
                    tx.list_clients(&all(), too, None).await?,
                    tx.list_clients_in(&all(), ClientState::Active).await?,
                    tx.silent_since(&all()).await?,
                    tx.clients_by_hostname("host-1").await?,
                ))
            }
        ),
    )
    .await;
    assert_eq!((ids(without), ids(of_group), ids(active)), (there.to_vec(), there.to_vec(), there.to_vec()));
    assert!(with.len() == 3 && with.iter().any(|c| c.archived == Some(at(77))));
    assert_eq!(seen.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>(), there);
    assert_eq!(seen.iter().map(|(_, time)| *time).max(), Some(at(12)));
    assert_eq!(by_name, []);
    let (some, rest) = write(
        &db.store,
        unit!(
            [job, group] | tx | {
                let some = tx.insert_executions(&job.id, &[client_id(0), client_id(1)], at(9)).await?;
                Ok((some, tx.insert_executions_for_group(&job.id, &group.uid, at(9)).await?))
            }
        ),
    )
    .await
    .unwrap();
    assert_eq!((some, rest), (vec![client_id(0)], 1));
}

pub(crate) async fn clients_are_alike_by_the_keys_that_they_have_now(db: Database) {
    add(&db.store, 0..4).await;
    let keep = async |n: u64, keys: &[&str]| {
        let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        write(&db.store, unit!([n, keys] | tx | { tx.save_likeness(&[(client_id(n), keys)]).await })).await.unwrap();
    };
    let alike = async || {
        let mut found =
            read(&db.store, unit!([] | tx | { tx.alike(&[client_id(0), client_id(1), client_id(2), client_id(3), client_id(99)]).await }))
                .await;
        found.sort();
        found
    };
    let pairs = |pairs: &[(u64, u64)]| {
        let mut pairs: Vec<_> = pairs.iter().map(|(a, b)| (client_id(*a), client_id(*b))).collect();
        pairs.sort();
        pairs
    };
    keep(0, &["pc mac 1", "pc mac 2", "pc firmware 'x'"]).await;
    keep(1, &["pc mac 2", "pc firmware 'x'"]).await;
    keep(2, &["pc mac 3"]).await;
    assert_eq!(alike().await, pairs(&[(0, 1), (1, 0)]), "each other one once, by however many keys");
    keep(2, &["pc mac 1"]).await;
    assert_eq!(alike().await, pairs(&[(0, 1), (0, 2), (1, 0), (2, 0)]));
    keep(0, &[]).await;
    assert_eq!(alike().await, []);
}

pub(crate) async fn what_is_known_of_clients_in_brief_is_what_their_rows_say(db: Database) {
    add(&db.store, 0..3).await;
    let archived = Client { archived: Some(at(7)), hostname: "é \"x\"".into(), ..client(1) };
    let touched = (client(2).id, at(90));
    write(
        &db.store,
        unit!(
            [archived, touched] | tx | {
                tx.save_client(&archived).await?;
                tx.touch_clients(std::slice::from_ref(&touched)).await
            }
        ),
    )
    .await
    .unwrap();
    let ids: Vec<_> = (0..4).map(|n| client(n).id).collect();
    let (whole, brief) = read(&db.store, unit!([ids] | tx | { Ok((tx.clients(&ids).await?, tx.clients_in_brief(&ids).await?)) })).await;
    let expected = whole.into_iter().map(|c| sutler_core::model::ClientBrief {
        id: c.id,
        state: c.state,
        hostname: c.hostname,
        last_seen: c.last_seen,
        archived: c.archived,
    });
    assert_eq!(brief, expected.collect::<Vec<_>>());
    assert!(brief.len() == 3 && brief.iter().any(|c| c.archived == Some(at(7))) && brief.iter().any(|c| c.last_seen == at(90)));
}
