//! What the tables of maintenance windows promise beyond their rows: a revision, and leases that are written down.

use crate::*;
use sutler_core::{
    model::LongLease,
    window::{Day, Hours, Window, Zone},
};
use sutler_store::unit;

fn window(n: u64, name: &str, group: u64) -> Window {
    Window {
        uid: uid(n),
        name: name.parse().unwrap(),
        group: uid(group),
        hours: Hours { days: vec![Day::Monday, Day::Sunday], from: 60, to: 30, zone: Zone::Named("Europe/Berlin".into()) },
        description: "it's night".into(),
        created: at(5),
        change: 0,
    }
}

pub(crate) async fn windows_have_a_revision_and_long_leases_are_kept_until_they_are_over(db: Database) {
    let (night, day) = (window(1, "night", 7), window(2, "day", 8));
    let revision = async || read(&db.store, unit!([] | tx | { tx.windows_revision().await })).await;
    assert_eq!(revision().await, 0);
    write(
        &db.store,
        unit!(
            [night, day] | tx | {
                tx.insert_window(&night).await?;
                tx.insert_window(&day).await
            }
        ),
    )
    .await
    .unwrap();
    let again = Window { uid: uid(3), ..night.clone() };
    let taken = write(&db.store, unit!([again] | tx | { tx.insert_window(&again).await })).await;
    assert!(matches!(taken, Err(StoreError::Exists("maintenance_window"))), "{taken:?}");
    let first = revision().await;
    let of = async |groups: Vec<Uid>| {
        let windows = read(&db.store, unit!([groups] | tx | { tx.windows_of(&groups).await })).await;
        windows.into_iter().map(|w| (w.name.to_string(), w.hours, w.description)).collect::<Vec<_>>()
    };
    assert_eq!(of(vec![uid(7), uid(9)]).await, [("night".to_owned(), night.hours.clone(), night.description.clone())]);
    let changed = Window { hours: Hours { zone: Zone::Client, ..night.hours.clone() }, ..night.clone() };
    write(&db.store, unit!([changed] | tx | { tx.save_window(&changed).await })).await.unwrap();
    assert_eq!(of(vec![uid(7)]).await[0].1.zone, Zone::Client);
    let second = revision().await;
    assert!(second > first);
    write(&db.store, unit!([night] | tx | { tx.delete_window(&night.uid, at(9)).await })).await.unwrap();
    assert!(revision().await > second && of(vec![uid(7)]).await.is_empty());
    write(&db.store, unit!([night] | tx | { tx.insert_window(&Window { uid: uid(4), ..night.clone() }).await })).await.unwrap();

    let lease = |n: u8, until: i64| LongLease { attempt: AttemptId::new(at(1), [n; 16]), until: at(until), seconds: 7 };
    let (one, two) = (lease(1, 50), lease(2, 60));
    write(&db.store, unit!([one, two] | tx | { tx.put_long_leases(&[one.clone(), two.clone()]).await })).await.unwrap();
    let longer = lease(1, 70);
    write(&db.store, unit!([longer] | tx | { tx.put_long_leases(std::slice::from_ref(&longer)).await })).await.unwrap();
    let ids = vec![one.attempt.clone(), two.attempt.clone(), lease(3, 1).attempt];
    let leases = async || read(&db.store, unit!([ids] | tx | { tx.long_leases(&ids).await })).await;
    assert_eq!(leases().await, [longer.clone(), two.clone()]);
    // The agent keeps the longest that it was given; so it is what is waited for.
    let shorter = LongLease { seconds: 3, ..lease(1, 50) };
    write(&db.store, unit!([shorter] | tx | { tx.put_long_leases(std::slice::from_ref(&shorter)).await })).await.unwrap();
    assert_eq!(leases().await, [longer.clone(), two]);
    assert_eq!(write(&db.store, unit!([] | tx | { tx.drop_long_leases(at(65)).await })).await.unwrap(), 1);
    assert_eq!(leases().await, [longer]);
}
