//! `sutler job`: orders to install packages on groups and clients.

mod change;
mod follow;
mod logs;
mod order;
mod plan;
mod report;
mod rollback;
mod rollout;
mod status;
mod terms;
mod view;

use super::{
    approval::{self, ConfirmArg},
    ask::confirm,
    error::CliError,
    names,
    output::{self, Format, OutputArg},
    session::{Session, call, pages, request_id},
    when::{self, Until},
};
use clap::{Subcommand, ValueEnum};
use order::OrderArgs;
use status::StatusArgs;
use sutler_base::JobId;
use sutler_proto::v1;

pub use status::ExitStatus;

/// Examples of the noun.
pub const EXAMPLES: &str = "Examples:
  sutler job run --package clamav --group new-clients
  sutler job status JOB --watch
  sutler job retry JOB";

/// Which executions a retry means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Those at an error: a new attempt
    Error,
    /// Those that wait: offered again at once, without a new attempt
    Waiting,
    /// Those whose error was the way between client and manager: a new attempt
    Communication,
    /// Those that a rule said no to: a new attempt
    Rejected,
}

impl Kind {
    fn wire(self) -> i32 {
        match self {
            Kind::Error => v1::RetryKind::Error,
            Kind::Waiting => v1::RetryKind::Waiting,
            Kind::Communication => v1::RetryKind::Communication,
            Kind::Rejected => v1::RetryKind::Rejected,
        }
        .into()
    }
}

/// A state of executions: `failed`, `ALREADY_INSTALLED`, `already-installed`.
fn state(text: &str) -> Result<v1::ExecutionState, String> {
    let word = text.to_ascii_uppercase().replace('-', "_");
    match v1::ExecutionState::from_str_name(&format!("EXECUTION_STATE_{word}")) {
        Some(state) if state != v1::ExecutionState::Unspecified => Ok(state),
        _ => {
            let all: Vec<_> = sutler_base::state::ExecutionState::ALL.iter().map(|s| s.as_str().to_ascii_lowercase()).collect();
            Err(format!("the state of an execution is one of {}", all.join(", ")))
        }
    }
}

/// What can be done with jobs. A job is archived, never deleted.
#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// Make a draft: it can be changed and reaches nobody
    #[command(after_help = "Examples:
  sutler job create --package clamav --group new-clients
  sutler job create --package base@2.1 --package clamav@latest --client CLIENT --priority 2")]
    Create(Box<OrderArgs>),
    /// Start a draft: pins the versions and reaches the destinations
    #[command(after_help = "Examples:
  sutler job start JOB")]
    Start {
        /// The job's id
        #[arg(value_parser = names::job)]
        job: String,
        /// Confirms how many clients that reaches
        #[command(flatten)]
        confirm: ConfirmArg,
    },
    /// Say what a job would come to: whom it reaches, in which stages, what they fetch; `run --plan` runs exactly that
    #[command(after_help = "Examples:
  sutler job plan --package clamav --group new-clients
  sutler job plan --package clamav --group new-clients --clients -o csv
  sutler job run --plan PLAN

A plan can be run once, within a day. It is refused by then if it would reach other clients (more than one percent, or one),
install other versions, or if a policy or a maintenance window of its groups is another one.")]
    Plan(Box<plan::PlanArgs>),
    /// Make a job and start it; prints its id and the versions that it pinned
    #[command(after_help = "Examples:
  sutler job run --package clamav --group new-clients
  sutler job run --package clamav@1.0.7 --client CLIENT
  sutler job run --package clamav --group new-clients --expires 30d --replaces JOB
  sutler job run --package web --set port=8080 --group web-servers
  sutler job run --package clamav --group all --stage group=pilots:1d --stage 10%:1h
  sutler job run --package hotfix --group all --rollout all-at-once
  sutler job run --package web --group web-servers --at 2027-01-31T22:00:00+01:00 --prefetch 2h
  sutler job run --fetch web@2.0 --group web-servers
  sutler job run --inventory --group laptops
  sutler job run --plan PLAN
  sutler job run --uninstall clamav --group retired")]
    Run(Box<order::RunArgs>),
    /// Agree to what about a job waits for a second person: its start, or a change. Not by the one who ordered it
    #[command(after_help = "Examples:
  sutler job list --waiting-for-approval
  sutler job approve JOB")]
    Approve {
        /// The job's id
        #[arg(value_parser = names::job)]
        job: String,
    },
    /// Do not agree to it: it is never done, and a job that waits stays a draft
    #[command(after_help = "Examples:
  sutler job reject JOB --reason 'not before the audit'")]
    Reject {
        /// The job's id
        #[arg(value_parser = names::job)]
        job: String,
        /// Why, for the one who ordered it
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// List jobs, the newest first
    #[command(after_help = "Examples:
  sutler job list
  sutler job list --waiting-for-approval
  sutler job list --archived -o json")]
    List {
        /// Archived ones, too
        #[arg(long)]
        archived: bool,
        /// Only those about which something waits until another operator agrees
        #[arg(long, conflicts_with = "archived")]
        waiting_for_approval: bool,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show one job
    #[command(after_help = "Examples:
  sutler job show JOB")]
    Show {
        /// The job's id
        #[arg(value_parser = names::job)]
        job: String,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Make a draft with the order of another job; what is given is different
    #[command(after_help = "Examples:
  sutler job clone JOB
  sutler job clone JOB --package clamav@1.0.8 --group pilots")]
    Clone(Box<change::CloneArgs>),
    /// Change what is given, for clients that have not started: they get a new revision
    #[command(after_help = "Examples:
  sutler job update JOB --expires 90d
  sutler job update JOB --description 'second wave' --priority 3
  sutler job update JOB --package clamav@1.0.8 --set clamav:level=high
  sutler job update JOB --add-group pilots --remove-group retired
  sutler job update JOB --at 2027-01-31T22:00:00+01:00 --deadline 2027-02-07T22:00:00+01:00
  sutler job update JOB --exclude-group kiosks")]
    Update(Box<change::UpdateArgs>),
    /// Start nothing more until `resume`: what was offered and has not begun is called back
    #[command(after_help = "Examples:
  sutler job pause JOB")]
    Pause {
        /// The job's id
        #[arg(value_parser = names::job)]
        job: String,
    },
    /// Go on with a job that was paused, or halted by its gate: then failures count anew from now
    #[command(after_help = "Examples:
  sutler job resume JOB")]
    Resume {
        /// The job's id
        #[arg(value_parser = names::job)]
        job: String,
    },
    /// Open the next stage of a job's rollout now, or all of them
    #[command(after_help = "Examples:
  sutler job promote JOB
  sutler job promote JOB --all")]
    Promote {
        /// The job's id
        #[arg(value_parser = names::job)]
        job: String,
        /// Not only the next stage: everybody
        #[arg(long)]
        all: bool,
    },
    /// End a job because its rollout went wrong: as `cancel`, and its rows say so
    #[command(after_help = "Examples:
  sutler job abort JOB
  sutler job abort JOB --yes")]
    Abort {
        /// The job's id
        #[arg(value_parser = names::job)]
        job: String,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// End a job: what has not started never will, what has goes to its end
    #[command(after_help = "Examples:
  sutler job cancel JOB
  sutler job cancel JOB --yes")]
    Cancel {
        /// The job's id
        #[arg(value_parser = names::job)]
        job: String,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Take a job that has ended, or a draft, out of the lists; it is never erased
    #[command(after_help = "Examples:
  sutler job archive JOB")]
    Archive {
        /// The job's id
        #[arg(value_parser = names::job)]
        job: String,
    },
    /// Run it again where it ended in error, and only there
    #[command(after_help = "Examples:
  sutler job retry JOB
  sutler job retry JOB --kind error --kind waiting
  sutler job retry JOB --kind rejected --client CLIENT
  sutler job retry JOB --error-kind STEP_FAILED --expires 7d")]
    Retry {
        /// The job's id
        #[arg(value_parser = names::job)]
        job: String,
        /// Which executions; may be given several times [default: error and communication]
        #[arg(long, value_enum)]
        kind: Vec<Kind>,
        /// Only these clients
        #[arg(long, value_parser = names::client)]
        client: Vec<String>,
        /// Only members of these groups
        #[arg(long, value_parser = names::group)]
        group: Vec<String>,
        /// Only those with this kind of error, as `job status` shows it under REASON
        #[arg(long, default_value = "", hide_default_value = true)]
        error_kind: String,
        /// On a job that was canceled or has expired: until when it is to stand again
        #[arg(long, value_name = "WHEN", value_parser = when::until)]
        expires: Option<Until>,
        /// Confirms how many clients that reaches
        #[command(flatten)]
        confirm: ConfirmArg,
    },
    /// Put back what each client had before a job changed it, as another job
    #[command(after_help = "Examples:
  sutler job rollback JOB --dry-run
  sutler job rollback JOB --yes")]
    Rollback(rollback::RollbackArgs),
    /// Show the counters and each client's row; the exit code says how it went
    #[command(after_help = status::HELP)]
    Status(StatusArgs),
    /// Print every change, one a line, until the job has ended
    #[command(after_help = "Examples:
  sutler job watch JOB
  sutler job watch JOB -o json")]
    Watch {
        /// The job's id
        #[arg(value_parser = names::job)]
        job: String,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Print every client of a job with what came of each package, for a spreadsheet or a program
    #[command(after_help = "CSV has a row for each client and package; a client that has none yet has one row.

Examples:
  sutler job report JOB > report.csv
  sutler job report JOB -o json > report.json")]
    Report {
        /// The job's id
        #[arg(value_parser = names::job)]
        job: String,
        /// How to show it: CSV, or the JSON of the API
        #[arg(short = 'o', long = "output", value_enum, default_value_t, value_name = "FORMAT")]
        output: report::As,
    },
    /// Show the ends of the log files that a package names, of a client on which it failed
    #[command(after_help = "Examples:
  sutler job logs JOB --client CLIENT
  sutler job logs JOB --client CLIENT --attempt 2 > logs")]
    Logs {
        /// The job's id
        #[arg(value_parser = names::job)]
        job: String,
        /// Whose
        #[arg(long, value_parser = names::client)]
        client: String,
        /// Which try, from 1; the newest that has logs unless given
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        attempt: i32,
    },
    /// List the rows of clients, or show one client's attempts with their output
    #[command(after_help = "Examples:
  sutler job executions JOB --state failed
  sutler job executions JOB --client CLIENT")]
    Executions {
        /// The job's id
        #[arg(value_parser = names::job)]
        job: String,
        /// Only rows in these states (such as failed, waiting, succeeded)
        #[arg(long, value_parser = state)]
        state: Vec<v1::ExecutionState>,
        /// Only this client, with its attempts and the end of their output
        #[arg(long, value_parser = names::client, conflicts_with = "state")]
        client: Option<String>,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
}

impl JobCommand {
    /// The job that it names.
    fn job(&mut self) -> Option<&mut String> {
        match self {
            JobCommand::Create(order) => order.replaces.as_mut(),
            JobCommand::Plan(args) => args.order.replaces.as_mut(),
            JobCommand::Run(args) => args.order.replaces.as_mut(),
            JobCommand::List { .. } => None,
            JobCommand::Clone(args) => Some(&mut args.job),
            JobCommand::Update(args) => Some(&mut args.job),
            JobCommand::Rollback(args) => Some(&mut args.job),
            JobCommand::Status(args) => Some(&mut args.job),
            JobCommand::Start { job, .. }
            | JobCommand::Approve { job }
            | JobCommand::Reject { job, .. }
            | JobCommand::Show { job, .. }
            | JobCommand::Pause { job }
            | JobCommand::Resume { job }
            | JobCommand::Promote { job, .. }
            | JobCommand::Abort { job, .. }
            | JobCommand::Report { job, .. }
            | JobCommand::Cancel { job, .. }
            | JobCommand::Archive { job }
            | JobCommand::Retry { job, .. }
            | JobCommand::Watch { job, .. }
            | JobCommand::Logs { job, .. }
            | JobCommand::Executions { job, .. } => Some(job),
        }
    }
}

/// Runs a command of this noun.
pub async fn run(mut command: JobCommand, session: &Session) -> Result<u8, CliError> {
    // Whoever names a job by its alias means the one that has it now, however long the command takes.
    if let Some(job) = command.job().filter(|job| names::short(job).parse::<JobId>().is_err()) {
        *job = get(session, job).await?.name;
    }
    match command {
        JobCommand::Create(order) => order::create(session, *order).await?,
        JobCommand::Plan(args) => plan::run(session, *args).await?,
        JobCommand::Run(args) => order::run(session, *args).await?,
        JobCommand::Start { job, confirm } => {
            let request = v1::StartJobRequest { name: job.clone(), request_id: request_id()?, confirm: confirm.confirm };
            let answer = call!(session, jobs.start_job(request), "start the job {}", names::short(&job))?;
            order::started(session, &answer.job.unwrap_or_default())?;
        }
        JobCommand::List { archived, waiting_for_approval, output } => {
            let request = v1::ListJobsRequest { show_archived: archived, waiting_for_approval, ..Default::default() };
            let jobs = pages!(session, jobs.list_jobs(request) -> jobs, "list the jobs");
            output::list(&jobs, output.format)?;
        }
        JobCommand::Approve { job } => {
            let approval = approval::of_job(&get(session, &job).await?)?;
            approval::approve(session, approval, approval::SeenArg::default()).await?;
        }
        JobCommand::Reject { job, reason } => {
            let approval = approval::of_job(&get(session, &job).await?)?;
            approval::reject(session, approval, reason, approval::SeenArg::default()).await?;
        }
        JobCommand::Show { job, output } => output::show(&get(session, &job).await?, output.format)?,
        JobCommand::Clone(args) => change::clone(session, *args).await?,
        JobCommand::Update(args) => change::update(session, *args).await?,
        JobCommand::Pause { job } => rollout::pause(session, job).await?,
        JobCommand::Resume { job } => rollout::resume(session, job).await?,
        JobCommand::Promote { job, all } => rollout::promote(session, job, all).await?,
        JobCommand::Abort { job, yes } => rollout::abort(session, job, yes).await?,
        JobCommand::Cancel { job, yes } => cancel(session, job, yes).await?,
        JobCommand::Archive { job } => {
            let request = v1::ArchiveJobRequest { name: job.clone(), request_id: request_id()? };
            let answer = call!(session, jobs.archive_job(request), "archive the job {}", names::short(&job))?;
            session.done(&answer.job.unwrap_or_default().name, "archived")?;
        }
        JobCommand::Retry { job, kind, client, group, error_kind, expires, confirm } => {
            let tried = format!("retry the job {}", names::short(&job));
            let request = v1::RetryJobRequest {
                name: job,
                kinds: kind.into_iter().map(Kind::wire).collect(),
                clients: client,
                groups: group,
                error_kind,
                expire_time: expires.map(|e| e.wire(session.now())),
                request_id: request_id()?,
                confirm: confirm.confirm,
            };
            let answer = call!(session, jobs.retry_job(request), "{tried}")?;
            let sentence = format!("{} get a new attempt, {} offered again", answer.retried, answer.offered_again);
            session.done(&answer.job.unwrap_or_default().name, &sentence)?;
        }
        JobCommand::Rollback(args) => rollback::run(session, args).await?,
        JobCommand::Status(args) => return status::run(session, args).await,
        JobCommand::Watch { job, output } => follow::changes(session, &job, output.format).await?,
        JobCommand::Report { job, output } => report::print(session, &job, output).await?,
        JobCommand::Logs { job, client, attempt } => logs::show(session, &job, &client, attempt).await?,
        JobCommand::Executions { job, state, client, output } => match client {
            Some(client) => {
                let name = format!("{job}/executions/{}", names::short(&client));
                let tried = format!("show the execution of {} on {client}", names::short(&job));
                let answer = call!(session, jobs.get_execution(v1::GetExecutionRequest { name }), "{tried}")?;
                match output.format {
                    Format::Table => output::print(&view::attempts(&answer))?,
                    Format::Json => output::show(&answer, output.format)?,
                    Format::Csv => output::list(&answer.execution.into_iter().collect::<Vec<_>>(), output.format)?,
                }
            }
            None => output::list(&executions(session, &job, &state).await?, output.format)?,
        },
    }
    Ok(0)
}

/// One job with its counters.
async fn get(session: &Session, job: &str) -> Result<v1::Job, CliError> {
    let answer = call!(session, jobs.get_job(v1::GetJobRequest { name: job.to_owned() }), "show the job {}", names::short(job))?;
    Ok(answer.job.unwrap_or_default())
}

/// All rows, or those in some states.
async fn executions(session: &Session, job: &str, states: &[v1::ExecutionState]) -> Result<Vec<v1::Execution>, CliError> {
    let states = states.iter().map(|s| (*s).into()).collect();
    let request = v1::ListExecutionsRequest { parent: job.to_owned(), states, ..Default::default() };
    Ok(pages!(session, jobs.list_executions(request) -> executions, "list the executions of {}", names::short(job)))
}

async fn cancel(session: &Session, name: String, yes: bool) -> Result<(), CliError> {
    confirm_end(session, "Cancel", &name, yes).await?;
    let request = v1::CancelJobRequest { name: name.clone(), request_id: request_id()? };
    let answer = call!(session, jobs.cancel_job(request), "cancel the job {}", names::short(&name))?;
    called_off(session, &answer.job.unwrap_or_default(), "canceled")
}

/// Asks before a job is ended.
async fn confirm_end(session: &Session, verb: &str, name: &str, yes: bool) -> Result<(), CliError> {
    if !yes {
        let job = get(session, name).await?;
        let counters = job.counters.unwrap_or_default();
        let question = format!(
            "{verb} {name} ({} on {})? What has not begun to install ({} wait, {} download or run) never will; what has goes to its end.",
            view::packages(&job),
            view::destinations(&job),
            counters.waiting,
            counters.running
        );
        confirm(&question, yes)?;
    }
    Ok(())
}

/// Says that a job was ended.
fn called_off(session: &Session, job: &v1::Job, word: &str) -> Result<(), CliError> {
    let sentence = match job.canceling {
        0 => word.to_owned(),
        n => format!("being {word}: {n} clients did not say yet that they stopped; `sutler job status` shows when it is final"),
    };
    session.done(&job.name, &sentence)
}
