//! Performs the ops of an installation, and puts what came of them into the words of the manifest.

use super::{Installed, Shared, Told, prepare, relations as others};
use crate::{
    install::{Detected, Ended, StepEnd},
    installer::{Item, Trouble, failure},
    machine::{Course, Leaving, Op, OpReport, Record, Restored, Stage, StepReport},
};
use std::path::PathBuf;
use sutler_base::{
    Invalid,
    manifest::{ExitMeaning, Step, relations},
    outcome::Failure,
    state::{ErrorKind, Intent},
};

/// What doing an op came to.
pub(super) enum Performed {
    /// It has ended.
    Ended(OpReport),
    /// This program has to make room for the one at this path, a new agent, which says what came of it.
    Handover(PathBuf),
}

/// Does an op of the package with this number.
pub(super) async fn perform(shared: &Shared, record: &Record, index: usize, op: Op, run: u32) -> Result<Performed, Trouble> {
    let mut item = item(shared, record, index);
    if matches!(&record.stage, Stage::Installing(i) if i.course == Course::Forward && i.at == 0 && i.run == 0) {
        // Nothing of it has run yet.
        if let Ok(found) = &item
            && let Err(refused) = prepare::check_again(shared, &record.offer.items[index], found).await
        {
            item = Err(refused);
        }
        if let Err(Trouble::Failed(failure)) = item {
            return Ok(Performed::Ended(OpReport::Refused(failure)));
        }
    }
    let item = item?;
    let report = match op {
        Op::Trial => return Ok(Performed::Handover(shared.installer.staged_agent(&item).await?)),
        Op::Step(n) => {
            let (item, n) = step_item(shared, record, item, n)?;
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
            shared.installed.add(Installed::of(&item)).map_err(|e| Shared::vault_trouble(&e))?;
            shared.identity.installed(&manifest.name, manifest.release).map_err(|e| Shared::vault_trouble(&e))?;
            shared.installer.commit(&item).await?;
            let kept = shared.prefetched.installed(&manifest.name, manifest.release).map_err(|e| Shared::vault_trouble(&e))?;
            shared.drop_kept(kept).await;
            let _ = shared.told.send(Told::Installed);
            Ok(OpReport::Done)
        }
        Op::Logs => {
            // They help people: a package ends the same with and without them.
            if let Err(Trouble::Failed(failure)) = shared.installer.keep_logs(&item).await {
                tracing::warn!(attempt = %record.id(), "its log files are not sent: {}", failure.message);
            }
            Ok(OpReport::Done)
        }
        Op::Restore => {
            let restored = shared.installer.restore(&item).await?;
            // Without a tree only the record tells whether there is a version to go back to.
            let goes_back = item.manifest.directory.is_none() && touched(record) && shared.installed.of(&item.manifest.name).is_some();
            Ok(OpReport::Restored(if goes_back { Restored::Old } else { restored }))
        }
        Op::Remove => leave(shared, &item, Leaving::Remove).await,
        Op::VerifyGone => leave(shared, &item, Leaving::VerifyGone).await,
        Op::Forget => leave(shared, &item, Leaving::Forget).await,
        Op::Displace(number, how) => leave(shared, &displaced(shared, record, &item, number)?, how).await,
    };
    report.map(Performed::Ended)
}

/// What is left to do of a package whose steps to uninstall it have run.
async fn leave(shared: &Shared, item: &Item, how: Leaving) -> Result<OpReport, Trouble> {
    match how {
        Leaving::Remove => shared.installer.remove(item).await.map(|()| OpReport::Done),
        Leaving::VerifyGone => match shared.installer.detect(item).await? {
            Detected::Yes => {
                let message = "after the uninstallation the detection rules still find it";
                Ok(OpReport::Failed(failure(ErrorKind::StillDetected, message)))
            }
            Detected::No(_) | Detected::NoRules => Ok(OpReport::Done),
        },
        Leaving::Forget => {
            shared.installed.remove(&item.manifest.name).map_err(|e| Shared::vault_trouble(&e))?;
            let _ = shared.told.send(Told::Installed);
            Ok(OpReport::Done)
        }
    }
}

/// Finds out how a step ended that an earlier agent started.
pub(super) async fn pick_up(shared: &Shared, record: &Record, index: usize, n: usize, run: u32) -> Result<OpReport, Trouble> {
    let (item, n) = step_item(shared, record, item(shared, record, index)?, n)?;
    let step = step(&item, n)?;
    let report = match shared.installer.pick_up(&item, n, run).await? {
        Some(ended) => judge(shared, &item, step, ended).await?,
        None => StepReport::Interrupted { detected: detected(shared, &item).await? },
    };
    tracing::info!(attempt = %record.id(), step = step.name, ?report, "picked up a step that had been started before");
    Ok(OpReport::Step(report))
}

/// Whether a step that installs had been begun before it turned back.
fn touched(record: &Record) -> bool {
    matches!(&record.stage, Stage::Installing(installing) if installing.touched)
}

/// The packages of an attempt whose manifests are known here.
pub(super) async fn known_items(shared: &Shared, record: &Record) -> Vec<Item> {
    (0..record.offer.items.len()).filter_map(|index| item(shared, record, index).ok()).collect()
}

/// The package whose step has this number in the plan, with the step's number in its manifest.
fn step_item(shared: &Shared, record: &Record, item: Item, n: usize) -> Result<(Item, usize), Trouble> {
    let Stage::Installing(installing) = &record.stage else { return Ok((item, n)) };
    match installing.plan.displaced_step(n) {
        Some((number, n)) => Ok((displaced(shared, record, &item, number)?, n)),
        None => Ok((item, n)),
    }
}

/// The displaced package with this number.
fn displaced(shared: &Shared, record: &Record, item: &Item, number: usize) -> Result<Item, Trouble> {
    let Stage::Installing(installing) = &record.stage else { return Err(none(number)) };
    let old = installing.plan.displaced.get(number).ok_or_else(|| none(number))?;
    others::displaced_item(shared, item, number, &old.manifest)
}

fn none(number: usize) -> Trouble {
    Trouble::Failed(failure(ErrorKind::ClientIo, format!("the attempt names no package with the number {number}")))
}

fn item(shared: &Shared, record: &Record, index: usize) -> Result<Item, Trouble> {
    let planned = match &record.stage {
        Stage::Fetched(plan) if record.results.len() == index => Some(plan.manifest),
        Stage::Installing(installing) if record.results.len() == index => Some(installing.plan.manifest),
        _ => None,
    };
    let offered = record.offer.items.get(index).and_then(|i| sutler_certs::Envelope::from_json(&i.envelope).ok()).map(|e| e.digest);
    let digest = planned.or(offered).ok_or_else(|| none(index))?;
    let kept = shared.content.manifest(&digest).map_err(|e| Trouble::Failed(prepare::not_kept(&digest, Some(e))))?;
    let manifest = kept.ok_or_else(|| Trouble::Failed(prepare::not_kept(&digest, None)))?;
    let invalid = |e: Invalid| Trouble::Failed(failure(ErrorKind::ParameterInvalid, e.0));
    let offered = &record.offer.items[index];
    let mut given = offered.values.clone();
    if offered.intent == Intent::Uninstall {
        // The version that is there may have other parameters than the one that the job names.
        given.retain(|name, _| manifest.parameters.contains_key(name));
    }
    let values = relations::fill(&manifest.parameters, &given).map_err(invalid)?;
    Ok(Item { attempt: record.id().clone(), index, manifest, digest, values })
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
            ExitMeaning::RebootSoft => StepReport::RebootSoft,
            ExitMeaning::RebootHard => StepReport::RebootHard,
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
        StepEnd::NoSpace(why) => {
            StepReport::Failed(fail(ErrorKind::NoSpace, format!("step {} could not be started: {why}; make room", step.name), None, None))
        }
        StepEnd::Interrupted => StepReport::Interrupted { detected: detected(shared, item).await? },
    })
}
