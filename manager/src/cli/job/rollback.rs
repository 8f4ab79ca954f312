//! Puts back what clients had before a job changed it.

use super::{
    super::{
        approval::ConfirmArg,
        ask::confirm,
        error::CliError,
        names, output,
        session::{Session, call, request_id},
    },
    order,
};
use clap::Args;
use sutler_proto::v1;

/// What is put back.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// The job's id
    #[arg(value_parser = names::job)]
    pub(super) job: String,
    /// Only say what would be put back, and on how many clients
    #[arg(long)]
    dry_run: bool,
    /// For people
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Confirms how many clients that reaches
    #[command(flatten)]
    confirm: ConfirmArg,
}

/// `sutler job rollback`
pub(super) async fn run(session: &Session, args: RollbackArgs) -> Result<(), CliError> {
    let tried = format!("roll back the job {}", names::short(&args.job));
    let mut request = v1::RollbackJobRequest { name: args.job.clone(), dry_run: true, description: args.description, ..Default::default() };
    let plan = call!(session, jobs.rollback_job(request.clone()), "{tried}")?;
    let mut text: String = plan.steps.iter().map(|step| line(step) + "\n").collect();
    text.extend(plan.had_none.iter().map(|who| format!("taken off: {}\n", output::printable(who))));
    text.extend(plan.left.iter().map(|why| format!("left alone: {}\n", output::printable(why))));
    if args.dry_run {
        if text.is_empty() {
            text = "the job changed nothing that can be put back\n".into();
        }
        return output::print(&text);
    }
    if !plan.steps.is_empty() {
        eprint!("{text}");
        confirm(&format!("Put that back, and end {}?", args.job), args.yes)?;
    }
    request.dry_run = false;
    request.request_id = request_id()?;
    request.confirm = args.confirm.confirm;
    let answer = call!(session, jobs.rollback_job(request), "{tried}")?;
    order::started(session, &answer.job.unwrap_or_default())
}

/// One thing that is put back.
fn line(step: &v1::RollbackStep) -> String {
    let package = names::package_word(&step.package);
    let what = match step.intent() {
        v1::Intent::Uninstall => format!("take off {package}, for it was not there"),
        _ => format!("put back {package}"),
    };
    format!("{what}: {} {}", step.clients, if step.clients == 1 { "client" } else { "clients" })
}
