//! What an operator does about a rollout: stops it, goes on with it, hurries it, ends it.

use super::super::{
    error::CliError,
    names,
    session::{Session, call, request_id},
};
use sutler_proto::v1;

/// `sutler job pause`
pub(super) async fn pause(session: &Session, name: String) -> Result<(), CliError> {
    let tried = format!("pause the job {}", names::short(&name));
    let answer = call!(session, jobs.pause_job(v1::PauseJobRequest { name, request_id: request_id()? }), "{tried}")?;
    let job = answer.job.unwrap_or_default();
    let sentence = match job.canceling {
        0 => "paused".to_owned(),
        n => {
            format!("paused: {n} clients that had not begun did not say yet that they stopped; `sutler job status` shows when it is final")
        }
    };
    session.done(&job.name, &sentence)
}

/// `sutler job resume`
pub(super) async fn resume(session: &Session, name: String) -> Result<(), CliError> {
    let tried = format!("resume the job {}", names::short(&name));
    let answer = call!(session, jobs.resume_job(v1::ResumeJobRequest { name, request_id: request_id()? }), "{tried}")?;
    said(session, &answer.job.unwrap_or_default(), "goes on")
}

/// `sutler job promote`
pub(super) async fn promote(session: &Session, name: String, all: bool) -> Result<(), CliError> {
    let tried = format!("promote the job {}", names::short(&name));
    let answer = call!(session, jobs.promote_job(v1::PromoteJobRequest { name, all, request_id: request_id()? }), "{tried}")?;
    said(session, &answer.job.unwrap_or_default(), "promoted")
}

/// `sutler job abort`
pub(super) async fn abort(session: &Session, name: String, yes: bool) -> Result<(), CliError> {
    super::confirm_end(session, "Abort", &name, yes).await?;
    let tried = format!("abort the job {}", names::short(&name));
    let answer = call!(session, jobs.abort_job(v1::AbortJobRequest { name, request_id: request_id()? }), "{tried}")?;
    super::called_off(session, &answer.job.unwrap_or_default(), "aborted")
}

fn said(session: &Session, job: &v1::Job, word: &str) -> Result<(), CliError> {
    let status = job.rollout.as_ref().map(|rollout| format!(": {}", rollout.sentence)).unwrap_or_default();
    session.done(&job.name, &format!("{word}{status}"))
}
