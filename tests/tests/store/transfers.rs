//! What the tables of transfers promise: limits and suspensions read back as they were written, and go with their group.

use crate::*;
use sutler_core::transfer::{Hours, Limit, Scope, Suspension, Written};
use sutler_store::unit;

pub(crate) async fn limits_and_suspensions_read_back_and_go_with_their_group(db: Database) {
    let hours: Hours =
        Written { days: "mon-fri".into(), from: "08:00".into(), to: "18:00".into(), zone: "Europe/Berlin".into() }.try_into().unwrap();
    let limit =
        |n: u64, scope: Scope, hours: Hours| Limit {
            uid: uid(n), scope, rate: 4096 + n, hours, creator: "ü \"x\"".into(), created: at(5)
        };
    let (one, two) = (group(1, "one"), group(2, "two"));
    let limits = vec![
        limit(3, Scope::Manager, Hours::always()),
        limit(4, Scope::Group(one.uid.clone()), hours),
        limit(5, Scope::EachClient, Hours::always()),
    ];
    let suspended = |group: &Group| Suspension { group: group.uid.clone(), creator: "ann".into(), since: at(9) };
    let (first, second) = (suspended(&one), suspended(&two));
    let noted = write(
        &db.store,
        unit!(
            [one, two, limits, first, second] | tx | {
                tx.insert_group(&one).await?;
                tx.insert_group(&two).await?;
                for limit in &limits {
                    tx.insert_transfer_limit(limit).await?;
                }
                Ok([tx.insert_suspension(&first).await?, tx.insert_suspension(&second).await?, tx.insert_suspension(&first).await?])
            }
        ),
    );
    assert_eq!(noted.await.unwrap(), [true, true, false]);
    let there = async || read(&db.store, unit!([] | tx | { Ok((tx.transfer_limits().await?, tx.suspensions().await?)) })).await;
    let mut expected = limits.clone();
    expected.sort_by(|a, b| a.uid.cmp(&b.uid));
    let mut both = vec![first.clone(), second.clone()];
    both.sort_by(|a, b| a.group.cmp(&b.group));
    assert_eq!(there().await, (expected.clone(), both));
    let gone = one.uid.clone();
    write(&db.store, unit!([gone] | tx | { tx.delete_group(&gone, at(10)).await })).await.unwrap();
    expected.retain(|limit| limit.uid != uid(4));
    assert_eq!(there().await, (expected, vec![second.clone()]));
    let (each, two) = (uid(5), two.uid.clone());
    let deleted = write(
        &db.store,
        unit!(
            [each, two] | tx | {
                let limits = [tx.delete_transfer_limit(&each).await?, tx.delete_transfer_limit(&each).await?];
                Ok((limits, [tx.delete_suspension(&two).await?, tx.delete_suspension(&two).await?]))
            }
        ),
    );
    assert_eq!(deleted.await.unwrap(), ([true, false], [true, false]));
    assert_eq!(there().await, (vec![limits[0].clone()], vec![]));
}
