//! What people call jobs, and what was put there by files.

use crate::*;
use sutler_base::JobAlias;
use sutler_store::unit;

async fn put(store: &Store, alias: &JobAlias, job: u64, before: Option<u64>) -> Result<(), StoreError> {
    let (job, before) = (self::job(job).id, before.map(|n| self::job(n).id));
    write(store, unit!([alias, job, before] | tx | { tx.put_alias(&alias, &job, before.as_ref()).await })).await
}

pub(crate) async fn an_alias_is_one_jobs_and_goes_over_to_another_from_the_one_that_had_it(db: Database) {
    let jobs: Vec<Job> = (0..3).map(job).collect();
    let added = unit!(
        [jobs] | tx | {
            for job in &jobs {
                tx.insert_job(job, &[], &[]).await?;
            }
            Ok(())
        }
    );
    write(&db.store, added).await.unwrap();
    let (web, mail): (JobAlias, JobAlias) = ("web".parse().unwrap(), "mail".parse().unwrap());
    put(&db.store, &web, 0, None).await.unwrap();
    put(&db.store, &mail, 1, None).await.unwrap();
    for wrong in [None, Some(1), Some(2)] {
        let taken = put(&db.store, &web, 2, wrong).await;
        assert!(matches!(taken, Err(StoreError::Exists(_))), "{taken:?}");
    }
    put(&db.store, &web, 2, Some(0)).await.unwrap();
    let all = read(&db.store, unit!([] | tx | { tx.aliases().await })).await;
    assert_eq!(all, [(mail, jobs[1].id.clone()), (web.clone(), jobs[2].id.clone())]);
    let (first, last) = (jobs[0].id.clone(), jobs[2].id.clone());
    let of = read(
        &db.store,
        unit!([first, last, web] | tx | { Ok((tx.alias(&first).await?, tx.alias(&last).await?, tx.job_by_alias(&web).await?)) }),
    )
    .await;
    assert_eq!(of, (None, Some(web.clone()), Some(last.clone())));
    write(&db.store, unit!([last] | tx | { tx.drop_alias(&last).await })).await.unwrap();
    assert_eq!(read(&db.store, unit!([web] | tx | { tx.job_by_alias(&web).await })).await, None);
}

pub(crate) async fn what_was_put_there_by_files_is_known_by_its_kind(db: Database) {
    let configure = unit!(
        [] | tx | {
            tx.configure("group", "b").await?;
            tx.configure("group", "a").await?;
            tx.configure("group", "a").await?;
            tx.configure("job", "a").await?;
            tx.configure("group", "c").await?;
            tx.forget_configured("group", "c").await
        }
    );
    write(&db.store, configure).await.unwrap();
    let known = read(&db.store, unit!([] | tx | { Ok((tx.configured("group").await?, tx.configured("policy").await?)) })).await;
    assert_eq!(known, (vec!["a".to_owned(), "b".to_owned()], vec![]));
}
