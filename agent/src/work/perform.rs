//! Performs the ops of an installation, and puts what came of them into the words of the manifest.

use super::{Installed, Shared, Told, prepare};
use crate::{
    install::{Detected, Ended, StepEnd},
    installer::{Item, Trouble, failure},
    machine::{Course, Op, OpReport, Record, Stage, StepReport},
};
use sutler_base::{
    manifest::{ExitMeaning, Step},
    outcome::Failure,
    state::ErrorKind,
};

/// Does an op of the package with this number.
pub(super) async fn perform(shared: &Shared, record: &Record, index: usize, op: Op, run: u32) -> Result<OpReport, Trouble> {
    let mut item = item(shared, record, index);
    if matches!(&record.stage, Stage::Installing(i) if i.course == Course::Forward && i.at == 0 && i.run == 0) {
        // Nothing of it has run yet.
        item = item.and_then(|item| {
            prepare::check_again(shared, &record.offer.items[index].envelope, &item).map_err(Trouble::Failed)?;
            Ok(item)
        });
        if let Err(Trouble::Failed(failure)) = item {
            return Ok(OpReport::Refused(failure));
        }
    }
    let item = item?;
    match op {
        Op::Step(n) => {
            let step = step(&item, n)?;
            match shared.installer.start(&item, n, run).await {
                Ok(ended) => Ok(OpReport::Step(judge(shared, &item, step, ended).await?)),
                Err(Trouble::Failed(failure)) => {
                    Ok(OpReport::Step(StepReport::Failed(Failure { step: Some(step.name.clone()), ..failure })))
                }
                Err(fatal) => Err(fatal),
            }
        }
        Op::Exchange => {
            shared.installer.exchange(&item).await?;
            Ok(OpReport::Exchanged { detected: detected(shared, &item).await? })
        }
        Op::Verify => match shared.installer.detect(&item).await? {
            Detected::Yes | Detected::NoRules => Ok(OpReport::Done),
            Detected::No(why) => {
                let message = format!("after the installation the detection rules do not find it: {why}");
                Ok(OpReport::Failed(failure(ErrorKind::NotDetected, message)))
            }
        },
        Op::Commit => {
            // Remembered before the old tree goes: an agent that is killed in between does both again.
            let manifest = &item.manifest;
            let installed = Installed {
                package: manifest.name.clone(),
                version: manifest.version.clone(),
                manifest: item.digest,
                directory: manifest.directory.clone(),
                release: manifest.release,
            };
            shared.installed.add(installed).map_err(|e| Shared::vault_trouble(&e))?;
            shared.identity.installed(&manifest.name, manifest.release).map_err(|e| Shared::vault_trouble(&e))?;
            shared.installer.commit(&item).await?;
            let _ = shared.told.send(Told::Installed);
            Ok(OpReport::Done)
        }
        Op::Restore => shared.installer.restore(&item).await.map(OpReport::Restored),
    }
}

/// Finds out how a step ended that an earlier agent started.
pub(super) async fn pick_up(shared: &Shared, record: &Record, index: usize, n: usize, run: u32) -> Result<OpReport, Trouble> {
    let item = item(shared, record, index)?;
    let step = step(&item, n)?;
    let report = match shared.installer.pick_up(&item, n, run).await? {
        Some(ended) => judge(shared, &item, step, ended).await?,
        None => StepReport::Interrupted { detected: detected(shared, &item).await? },
    };
    tracing::info!(attempt = %record.id(), step = step.name, ?report, "picked up a step that had been started before");
    Ok(OpReport::Step(report))
}

/// The packages of an attempt whose manifests are known here.
pub(super) async fn known_items(shared: &Shared, record: &Record) -> Vec<Item> {
    (0..record.offer.items.len()).filter_map(|index| item(shared, record, index).ok()).collect()
}

fn item(shared: &Shared, record: &Record, index: usize) -> Result<Item, Trouble> {
    let planned = match &record.stage {
        Stage::Fetched(plan) if record.results.len() == index => Some(plan.manifest),
        Stage::Installing(installing) if record.results.len() == index => Some(installing.plan.manifest),
        _ => None,
    };
    let offered = record.offer.items.get(index).and_then(|i| sutler_certs::Envelope::from_json(&i.envelope).ok()).map(|e| e.digest);
    let none = || Trouble::Failed(failure(ErrorKind::ClientIo, format!("the attempt names no package with the number {index}")));
    let digest = planned.or(offered).ok_or_else(none)?;
    let kept = shared.content.manifest(&digest).map_err(|e| Trouble::Failed(prepare::not_kept(&digest, Some(e))))?;
    let manifest = kept.ok_or_else(|| Trouble::Failed(prepare::not_kept(&digest, None)))?;
    Ok(Item { attempt: record.id().clone(), index, manifest, digest })
}

fn step(item: &Item, n: usize) -> Result<&Step, Trouble> {
    let missing = || Trouble::Failed(failure(ErrorKind::ManifestInvalid, format!("the manifest has no step with the number {n}")));
    item.manifest.steps.get(n).ok_or_else(missing)
}

async fn detected(shared: &Shared, item: &Item) -> Result<bool, Trouble> {
    Ok(shared.installer.detect(item).await? == Detected::Yes)
}

async fn judge(shared: &Shared, item: &Item, step: &Step, ended: Ended) -> Result<StepReport, Trouble> {
    let fail = |kind: ErrorKind, message: String, exit_code: Option<i32>, signal: Option<i32>| Failure {
        step: Some(step.name.clone()),
        exit_code,
        signal,
        output: ended.output.clone(),
        output_cut: ended.output_cut,
        ..failure(kind, message)
    };
    Ok(match &ended.end {
        StepEnd::Exited { code } => match step.meaning(*code) {
            ExitMeaning::Success => StepReport::Done,
            ExitMeaning::RebootSoft | ExitMeaning::RebootHard => StepReport::Reboot,
            ExitMeaning::Retry => {
                let message = format!("step {} ended with exit code {code}, which means \"later\", at every try", step.name);
                StepReport::Later(fail(ErrorKind::StepFailed, message, Some(*code), None))
            }
            ExitMeaning::Failure => {
                let message = format!("step {} ended with exit code {code}", step.name);
                StepReport::Failed(fail(ErrorKind::StepFailed, message, Some(*code), None))
            }
        },
        StepEnd::Signaled { signal } => {
            StepReport::Failed(fail(ErrorKind::StepFailed, format!("step {} was ended by signal {signal}", step.name), None, Some(*signal)))
        }
        StepEnd::TimedOut => {
            let message = format!("step {} ran longer than its limit of {} s", step.name, step.time_limit);
            StepReport::Failed(fail(ErrorKind::StepTimeout, message, None, None))
        }
        StepEnd::NotStarted(why) => {
            StepReport::Failed(fail(ErrorKind::StepNotStarted, format!("step {} could not be started: {why}", step.name), None, None))
        }
        StepEnd::Interrupted => StepReport::Interrupted { detected: detected(shared, item).await? },
    })
}
