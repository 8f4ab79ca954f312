//! `sutler stop`, `sutler resume`, `sutler breaker`: what holds work back over all jobs.

use super::{
    error::CliError,
    names,
    output::{self, Column, OutputArg, Record},
    session::{Session, call, request_id},
    when::moment,
};
use clap::{Args, Subcommand, ValueEnum};
use sutler_proto::v1;

/// Examples of `stop`.
pub const STOP_EXAMPLES: &str = "Examples:
  sutler stop everything --reason 'the network is being rebuilt'
  sutler stop --group branch --reason 'exams until Friday'
  sutler stop --package clamav@1.4.2 --reason 'it breaks mail'
  sutler stop

What was offered and has not begun is called back. That is final once the agent has acknowledged
it or its lease has run out: `job status` says how many are awaited. What has begun goes on.";
/// Examples of `resume`.
pub const RESUME_EXAMPLES: &str = "Examples:
  sutler resume everything
  sutler resume --group branch
  sutler resume --package clamav@1.4.2";

/// Examples of `breaker`.
pub const BREAKER_EXAMPLES: &str = "Examples:
  sutler breaker list
  sutler breaker close 01kb3c5m2n8p4q6r7s9t0v1w2x";

/// What can be done with breakers.
#[derive(Debug, Subcommand)]
pub enum BreakerCommand {
    /// List those that are open: which version is not installed where any more, and why
    #[command(after_help = "Examples:
  sutler breaker list
  sutler breaker list -o json")]
    List {
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Close breakers once what made the version fail is mended: they count anew
    #[command(after_help = "Examples:
  sutler breaker close 01kb3c5m2n8p4q6r7s9t0v1w2x")]
    Close {
        /// Which; `breaker list` shows the ids
        #[arg(required = true, value_name = "ID", value_parser = names::breaker)]
        names: Vec<String>,
    },
}

/// The word for everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Everything {
    /// Whatever is done anywhere
    Everything,
}

/// What is meant.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct Work {
    /// The word `everything`: whatever is done anywhere
    #[arg(value_enum, value_name = "everything", hide_possible_values = true)]
    everything: Option<Everything>,
    /// Whatever would be done on the members of this group
    #[arg(long, value_name = "GROUP", value_parser = names::group)]
    group: Option<String>,
    /// A package, whatever would be done with it; or a version, that it is installed (it may be taken off, or replaced)
    #[arg(long, value_name = "PACKAGE[@VERSION]", value_parser = names::package)]
    package: Option<String>,
}

impl Work {
    fn wire(&self) -> Option<v1::StoppedWork> {
        let work = v1::StoppedWork {
            everything: self.everything.is_some(),
            group: self.group.clone().unwrap_or_default(),
            package: self.package.clone().unwrap_or_default(),
        };
        (work != v1::StoppedWork::default()).then_some(work)
    }
}

/// What to stop.
#[derive(Debug, Args)]
pub struct StopArgs {
    #[command(flatten)]
    work: Work,
    /// Why, for whoever finds it stopped
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    output: OutputArg,
}

/// What is to go on.
#[derive(Debug, Args)]
pub struct ResumeArgs {
    #[command(flatten)]
    work: Work,
}

/// What it is, in a word or two.
fn what(work: &v1::StoppedWork) -> String {
    match (work.everything, work.group.as_str(), work.package.as_str()) {
        (true, ..) => "everything".to_owned(),
        (false, "", package) => names::package_word(package),
        (false, group, _) => group.to_owned(),
    }
}

impl Record for v1::Stop {
    const TYPE: &'static str = "sutler.v1.Stop";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("what", |s| s.work.as_ref().map(what).unwrap_or_default()),
        Column::new("reason", |s| s.reason.clone()),
        Column::new("by", |s| names::short(&s.creator).to_owned()),
        Column::new("since", |s| moment(&s.stop_time)),
    ];
}

/// Stops something, or shows what is stopped.
pub async fn stop(args: StopArgs, session: &Session) -> Result<u8, CliError> {
    let Some(work) = args.work.wire() else {
        if args.reason.is_some() {
            return Err(CliError::usage("say what to stop: everything, --group or --package"));
        }
        let stops = call!(session, brakes.list_stops(v1::ListStopsRequest {}), "show what is stopped")?.stops;
        output::list(&stops, args.output.format)?;
        return Ok(0);
    };
    let Some(reason) = args.reason else {
        return Err(CliError::usage("say why with --reason: whoever finds it stopped wants to know"));
    };
    let request = v1::StopWorkRequest { work: Some(work.clone()), reason, request_id: request_id()? };
    let answer = call!(session, brakes.stop_work(request), "stop {}", what(&work))?;
    let stop = answer.stop.unwrap_or_default();
    let told = format!(
        "stopped by {} since {}: {}; {} called back that had not begun",
        names::short(&stop.creator),
        moment(&stop.stop_time),
        stop.reason,
        answer.called_back
    );
    session.done(&what(&work), &told)?;
    Ok(0)
}

/// Lets something go on.
pub async fn resume(args: ResumeArgs, session: &Session) -> Result<u8, CliError> {
    let Some(work) = args.work.wire() else {
        return Err(CliError::usage("say what is to go on: everything, --group or --package; `sutler stop` shows what is stopped"));
    };
    let request = v1::ResumeWorkRequest { work: Some(work.clone()), request_id: request_id()? };
    let answer = call!(session, brakes.resume_work(request), "resume {}", what(&work))?;
    session.done(&what(&work), if answer.was_stopped { "goes on" } else { "was not stopped" })?;
    Ok(0)
}

impl Record for v1::Breaker {
    const TYPE: &'static str = "sutler.v1.Breaker";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("id", |b| names::short(&b.name).to_owned()),
        Column::new("package", |b| names::package_word(&b.package)),
        Column::new("on", |b| b.scope.clone()),
        Column::new("failed", |b| format!("{} of {}", b.failures, b.attempts)),
        Column::new("since", |b| moment(&b.open_time)),
        Column::new("why", |b| b.why.clone()),
    ];
}

/// Lists or closes breakers.
pub async fn breaker(command: BreakerCommand, session: &Session) -> Result<u8, CliError> {
    match command {
        BreakerCommand::List { output } => {
            let breakers = call!(session, brakes.list_breakers(v1::ListBreakersRequest {}), "list the breakers")?.breakers;
            output::list(&breakers, output.format)?;
        }
        BreakerCommand::Close { names } => {
            for name in names {
                let request = v1::CloseBreakerRequest { name: name.clone(), request_id: request_id()? };
                let closed = call!(session, brakes.close_breaker(request), "close the breaker {}", names::short(&name))?;
                let closed = closed.breaker.unwrap_or_default();
                session.done(&name, &format!("closed: {} goes on, on {}", names::package_word(&closed.package), closed.scope))?;
            }
        }
    }
    Ok(0)
}
