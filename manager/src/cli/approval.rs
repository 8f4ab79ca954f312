//! `sutler approval`: changes that need a second person; and the number that confirms one while there is none.

use super::{
    ask,
    error::CliError,
    names,
    output::{self, Column, OutputArg, Record, word},
    session::{Session, call, pages, request_id},
    when::moment,
};
use clap::{Args, Subcommand};
use std::io::{self, IsTerminal as _};
use sutler_proto::v1;

/// Examples of the noun.
pub const EXAMPLES: &str = "Examples:
  sutler approval list
  sutler approval show APPROVAL
  sutler approval approve APPROVAL";

/// Confirms how many clients a change reaches.
#[derive(Debug, Clone, Copy, Args)]
pub struct ConfirmArg {
    /// How many clients this reaches, where that has to be confirmed: the refusal names the number
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(i64).range(0..))]
    pub confirm: i64,
}

/// What somebody saw who decides.
#[derive(Debug, Clone, Default, Args)]
pub struct SeenArg {
    /// Only if it still has this etag, as `approval show -o json` says it; without one it is shown first
    #[arg(long, default_value = "", hide_default_value = true)]
    pub etag: String,
}

/// What can be done with changes that wait.
#[derive(Debug, Subcommand)]
pub enum ApprovalCommand {
    /// List changes that wait until another operator agrees, the newest first
    #[command(after_help = "Examples:
  sutler approval list
  sutler approval list --decided -o json")]
    List {
        /// Also those that were decided in the last 30 days
        #[arg(long)]
        decided: bool,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show one of them, with what was ordered
    #[command(after_help = "Examples:
  sutler approval show APPROVAL")]
    Show {
        /// The approval's id
        #[arg(value_parser = names::approval)]
        approval: String,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Agree: the change is made, if it still is what was ordered. Not by the operator who ordered it
    #[command(after_help = "Examples:
  sutler approval approve APPROVAL
  sutler approval approve APPROVAL --etag ETAG")]
    Approve {
        /// The approval's id
        #[arg(value_parser = names::approval)]
        approval: String,
        /// What was seen of it
        #[command(flatten)]
        seen: SeenArg,
    },
    /// Do not agree: the change is never made
    #[command(after_help = "Examples:
  sutler approval reject APPROVAL --reason 'not before the audit'")]
    Reject {
        /// The approval's id
        #[arg(value_parser = names::approval)]
        approval: String,
        /// Why, for the one who ordered it
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        /// What was seen of it
        #[command(flatten)]
        seen: SeenArg,
    },
}

fn reaches(a: &v1::Approval) -> String {
    a.reaches.iter().map(|r| format!("{}: {}", names::short(&r.job), r.clients)).collect::<Vec<_>>().join(", ")
}

fn versions(a: &v1::Approval) -> String {
    a.packages.iter().map(|p| p.replacen("packages/", "", 1).replacen("/versions/", "@", 1)).collect::<Vec<_>>().join(", ")
}

impl Record for v1::Approval {
    const TYPE: &'static str = "sutler.v1.Approval";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("id", |a| names::short(&a.name).to_owned()),
        Column::new("state", |a| word!(ApprovalState, "APPROVAL_STATE", a.state)),
        Column::new("requester", |a| names::short(&a.requester).to_owned()),
        Column::new("what", |a| a.sentence.clone()),
        Column::new("clients", |a| format!("{} of {}", a.clients, a.fleet_clients)),
        Column::new("until", |a| moment(&a.expire_time)),
        Column::wide("reaches", reaches),
        Column::wide("packages", versions),
        Column::wide("plan", |a| names::short(&a.plan).to_owned()),
        Column::wide("created", |a| moment(&a.create_time)),
        Column::wide("decided", |a| moment(&a.decide_time)),
        Column::wide("decider", |a| names::short(&a.decider).to_owned()),
        Column::wide("reason", |a| a.reason.clone()),
        Column::wide("etag", |a| a.etag.clone()),
        Column::wide("request", |a| a.request.clone()),
    ];
}

/// Runs a command of this noun.
pub async fn run(command: ApprovalCommand, session: &Session) -> Result<u8, CliError> {
    match command {
        ApprovalCommand::List { decided, output } => {
            let request = v1::ListApprovalsRequest { show_decided: decided, ..Default::default() };
            let approvals = pages!(session, approvals.list_approvals(request) -> approvals, "list the approvals");
            output::list(&approvals, output.format)?;
        }
        ApprovalCommand::Show { approval, output } => {
            let request = v1::GetApprovalRequest { name: approval.clone() };
            let answer = call!(session, approvals.get_approval(request), "show the approval {}", names::short(&approval))?;
            output::show(&answer.approval.unwrap_or_default(), output.format)?;
        }
        ApprovalCommand::Approve { approval, seen } => approve(session, approval, seen).await?,
        ApprovalCommand::Reject { approval, reason, seen } => reject(session, approval, reason, seen).await?,
    }
    Ok(0)
}

/// Agrees to a change: to what was seen of it, or else to what it is shown to be now.
pub async fn approve(session: &Session, name: String, seen: SeenArg) -> Result<(), CliError> {
    let tried = format!("approve {}", names::short(&name));
    let mut etag = seen.etag;
    if etag.is_empty() {
        let request = v1::GetApprovalRequest { name: name.clone() };
        let approval = call!(session, approvals.get_approval(request), "{tried}")?.approval.unwrap_or_default();
        let installs = if approval.packages.is_empty() { String::new() } else { format!("; with {}", versions(&approval)) };
        let what = format!(
            "{} wants to {}, which reaches {} of {} clients (by {}){installs}",
            names::short(&approval.requester),
            approval.sentence,
            approval.clients,
            approval.fleet_clients,
            reaches(&approval)
        );
        session.tell(&what);
        if io::stdin().is_terminal() {
            ask::confirm("Agree?", false)?;
        }
        etag = approval.etag;
    }
    let request = v1::ApproveChangeRequest { name, request_id: request_id()?, etag };
    let approval = call!(session, approvals.approve_change(request), "{tried}")?.approval.unwrap_or_default();
    session.done(&approval.name, &format!("approved and done: {}, {} clients", approval.sentence, approval.clients))
}

/// Does not agree to a change.
pub async fn reject(session: &Session, name: String, reason: String, seen: SeenArg) -> Result<(), CliError> {
    let tried = format!("reject {}", names::short(&name));
    let request = v1::RejectChangeRequest { name, reason, request_id: request_id()?, etag: seen.etag };
    let approval = call!(session, approvals.reject_change(request), "{tried}")?.approval.unwrap_or_default();
    session.done(&approval.name, &format!("rejected: {}", approval.sentence))
}

/// The approval that is pending about a job.
pub fn of_job(job: &v1::Job) -> Result<String, CliError> {
    match &job.approval {
        Some(approval) => Ok(approval.name.clone()),
        None => Err(CliError::Local {
            tried: format!("decide about the job {}", names::short(&job.name)),
            why: "nothing about it waits for a second person".into(),
            hint: Some("`sutler approval list` shows what does".into()),
        }),
    }
}
