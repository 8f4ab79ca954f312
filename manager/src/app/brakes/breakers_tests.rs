//! What an attempt counts for, whatever its agent says.

use super::*;
use crate::app::outcomes::tests::{client, job, manager};
use sutler_base::{AttemptId, ClientId, JobId, outcome::ItemResult, state::Intent};
use sutler_certs::PrivateKey;
use sutler_core::model::{JobPackage, Package, PackageVersion, Terms};

/// Bytes of the files of the version, and of its manifest.
const BYTES: u64 = 1000;

fn version(env: &Env, package: &Package) -> PackageVersion {
    PackageVersion {
        uid: env.world.uid(),
        package: package.uid.clone(),
        name: package.name.clone(),
        version: "1".parse().unwrap(),
        release: 1,
        description: String::new(),
        envelope: vec![1],
        manifest: Digest::of(b"manifest"),
        manifest_length: 100,
        total_bytes: BYTES - 100,
        files: 1,
        expires: None,
        terms: Terms::default(),
        withdrawn: None,
        created: env.now,
        creator: "operators/ann".into(),
    }
}

fn attempt(env: &Env, job: &JobId, client: &ClientId) -> Attempt {
    Attempt {
        id: env.world.attempt_id(),
        job: job.clone(),
        client: client.clone(),
        number: 1,
        revision: 1,
        purpose: Purpose::Order,
        state: ExecutionState::Installing,
        created: env.now,
        ended: None,
        outcome: vec![],
        signature: vec![],
    }
}

/// An outcome that says three times of the version that it failed, and that so much was fetched each time.
fn outcome(attempt: &AttemptId, client: &ClientId, env: &Env, fetched_bytes: u64) -> Outcome {
    let item = ItemResult {
        package: "hello".parse().unwrap(),
        version: "1".parse().unwrap(),
        manifest: Digest::of(b"manifest"),
        state: ExecutionState::Failed,
        failure: None,
        reboot: false,
        fetched_bytes,
        total_bytes: BYTES,
        duration_ms: 0,
        before: None,
    };
    let (attempt, client) = (attempt.clone(), client.clone());
    Outcome { attempt, client, state: ExecutionState::Failed, items: vec![item; 3], finished: env.now }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_counts_once_and_for_what_it_was_given_whatever_its_agent_says() {
    let folder = tempfile::tempdir().unwrap();
    let manager = manager(folder.path()).await;
    let app = manager.app().clone();
    let machine = client(&app, &PrivateKey::generate().unwrap()).await;
    let order = job(&app);
    let counted = app
        .change("manager", "count", (order, machine), |tx, env, (job, machine)| {
            Box::pin(async move {
                let package = Package { uid: env.world.uid(), name: "hello".parse().unwrap(), created: env.now };
                tx.insert_package(&package).await?;
                let version = version(env, &package);
                tx.insert_version(&version).await?;
                let packages = [JobPackage {
                    package: package.name,
                    version: Some(version.uid.clone()),
                    version_text: "1".into(),
                    follow: false,
                    replace_always: false,
                    intent: Intent::Install,
                    values: Default::default(),
                    needed: vec![],
                }];
                tx.insert_job(job, &packages, &[Target::Client(machine.clone())]).await?;
                let scope = Scope::Job(job.id.clone());
                let mut counted = Vec::new();
                // What it says; what this manager gave it.
                for (says, given) in [(1 << 60, None), (70, None), (0, Some(300)), (1 << 60, Some(0)), (5, Some(1 << 60))] {
                    let attempt = attempt(env, &job.id, machine);
                    if let Some(given) = given {
                        env.live.transfers.note_served(&attempt.id, &version.manifest, given);
                    }
                    count(tx, env, &[(&attempt, &outcome(&attempt.id, machine, env, says))]).await?;
                    env.live.transfers.forget_served(&attempt.id);
                    let breaker = tx.breaker_of(&version.uid, &scope, &env.world.uid()).await?;
                    let bytes: u64 = breaker.counted.failing.iter().map(|(.., bytes)| bytes).sum();
                    counted.push((breaker.counted.newest.len(), bytes));
                }
                Ok(counted)
            })
        })
        .await
        .unwrap();
    let expected = [(1, BYTES), (2, BYTES + 70), (3, BYTES + 370), (4, BYTES + 370), (5, 2 * BYTES + 370)];
    assert_eq!(counted, expected);
    manager.stop().await;
}
