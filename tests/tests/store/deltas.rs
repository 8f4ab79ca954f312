//! What the table of deltas promises.

use crate::*;
use sutler_store::unit;

fn of(n: u64) -> Digest {
    Digest::of(&n.to_le_bytes())
}

/// One that is asked for, between the versions of these numbers.
fn asked(old: u64, new: u64, package: &Package, ms: i64) -> Delta {
    Delta::asked(of(old), of(new), package.uid.clone(), at(ms))
}

pub(crate) async fn a_delta_is_asked_for_once_taken_by_one_and_made_once(db: Database) {
    let clam = package(1, "clamav");
    let (first, second) = (asked(2, 4, &clam, 10), asked(3, 4, &clam, 20));
    let made = MadeDelta { digest: Digest::of(b"delta"), length: 70, bytes: 1 << 40 };
    write(
        &db.store,
        unit!(
            [clam, first, second, made] | tx | {
                tx.insert_package(&clam).await?;
                let later = Delta { asked: at(99), ..first.clone() };
                let news = [tx.ask_delta(&second).await?, tx.ask_delta(&first).await?, tx.ask_delta(&later).await?];
                assert_eq!(news, [true, true, false]);
                assert_eq!(tx.delta(&first.old, &first.new).await?, Some(first.clone()), "when it was first asked for");
                assert_eq!(tx.delta(&first.new, &first.old).await?, None);
                assert_eq!(tx.count_deltas(&clam.uid).await?, 2);

                // Of two that have read the same one takes it, until its claim runs out.
                assert_eq!(tx.delta_due(at(0)).await?, Some(first.clone()));
                assert!(tx.take_delta(&first, at(100)).await?);
                assert!(!tx.take_delta(&first, at(100)).await?);
                assert_eq!(tx.delta_due(at(100)).await?, Some(second.clone()));
                assert!(tx.take_delta(&second, at(101)).await?);
                assert_eq!(tx.delta_due(at(100)).await?, None);
                assert!(tx.keep_delta(&second, at(101), at(150)).await?);
                assert!(!tx.keep_delta(&second, at(101), at(160)).await?, "it is another's by now");
                let over = tx.delta_due(at(120)).await?.unwrap();
                assert_eq!(over, Delta { taken: Some(at(100)), tries: 1, ..first.clone() });
                assert!(tx.take_delta(&over, at(200)).await?);

                assert!(tx.note_delta(&first.old, &first.new, Some(&made), at(210)).await?);
                assert!(!tx.note_delta(&first.old, &first.new, None, at(220)).await?, "it is made already");
                assert!(tx.note_delta(&second.old, &second.new, None, at(230)).await?);
                let is = Delta { taken: Some(at(200)), tries: 2, made: Some(at(210)), found: Some(made), ..first.clone() };
                assert_eq!(tx.delta(&first.old, &first.new).await?, Some(is));
                let of_no_use = tx.delta(&second.old, &second.new).await?.unwrap();
                assert_eq!((of_no_use.made, of_no_use.found), (Some(at(230)), None));
                assert_eq!(tx.delta_due(at(9999)).await?, None, "neither is made again");
                assert_eq!(tx.deltas_to(&[of(7), of(4)]).await?, [made.digest]);
                assert!(!tx.ask_delta(&second).await?);

                assert_eq!(tx.drop_oldest_deltas(&clam.uid, 1).await?, 1);
                assert_eq!((tx.delta(&first.old, &first.new).await?, tx.count_deltas(&clam.uid).await?), (None, 1));
                Ok(())
            }
        ),
    )
    .await
    .unwrap();
}

pub(crate) async fn a_delta_lives_while_both_its_versions_do(db: Database) {
    let clam = package(1, "clamav");
    let digest = |n: u64| Digest::of(format!("delta {n}").as_bytes());
    let live = write(
        &db.store,
        unit!(
            [clam] | tx | {
                tx.insert_package(&clam).await?;
                for n in 2..=5 {
                    tx.insert_version(&version(n, &clam, &n.to_string(), n)).await?;
                }
                for (old, new) in [(2, 5), (3, 5), (4, 5), (9, 5)] {
                    tx.ask_delta(&asked(old, new, &clam, 10)).await?;
                    let made = MadeDelta { digest: digest(old), length: 1, bytes: 1 };
                    tx.note_delta(&of(old), &of(new), Some(&made), at(11)).await?;
                }
                tx.ask_delta(&asked(2, 4, &clam, 10)).await?;
                assert_eq!(tx.version_of_manifest(&of(3)).await?.map(|v| v.uid), Some(uid(3)));
                tx.delete_version(&uid(3), at(12)).await?;
                assert_eq!(tx.version_of_manifest(&of(3)).await?, None);
                let mut live = tx.live_deltas().await?;
                live.sort();
                assert_eq!(tx.drop_deltas().await?, 2, "of what was deleted, and of what never was");
                assert_eq!(tx.count_deltas(&clam.uid).await?, 3);
                tx.forget_delta(&digest(4)).await?;
                assert_eq!(tx.live_deltas().await?, [digest(2)]);
                assert!(tx.ask_delta(&asked(4, 5, &clam, 10)).await?, "it may be made anew");
                Ok(live)
            }
        ),
    );
    let mut both = vec![digest(2), digest(4)];
    both.sort();
    assert_eq!(live.await.unwrap(), both);
    let gone = clam.uid.clone();
    write(&db.store, unit!([gone] | tx | { tx.delete_package(&gone, at(13)).await })).await.unwrap();
    assert_eq!(read(&db.store, unit!([] | tx | { tx.live_deltas().await })).await, []);
}
