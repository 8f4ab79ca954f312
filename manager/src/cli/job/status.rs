//! `sutler job status`: the counters, each client's row, and an exit code that says how it went.

use super::{
    super::{
        error::CliError,
        names,
        output::{self, Format, OutputArg},
        session::Session,
        when,
    },
    follow::{Change, Following, Log},
    view,
};
use clap::Args;
use std::time::Duration;
use sutler_proto::v1;
use tokio::time::{Instant, timeout_at};

/// The end of the help page.
pub(super) const HELP: &str = "Examples:
  sutler job status JOB
  sutler job status JOB --watch
  sutler job status JOB --wait --timeout 30m
  sutler job status JOB -o csv > status.csv

Exit codes:
  0   all well: every execution finished (or was rejected or canceled, which are counted apart)
  30  some failed, were interrupted or expired; none waits or runs
  31  some wait or run, none failed (also when --timeout ends the waiting)
  32  both
  33  it is being canceled: some clients did not say yet that they stopped
  34  no client yet
  2   wrong usage
  1   anything else: the state is not known";

/// What is asked for.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The job's id
    #[arg(value_parser = names::job)]
    pub(super) job: String,
    /// Go on showing it, live, until the job has ended
    #[arg(long)]
    watch: bool,
    /// Wait until every execution that exists is at an end, or the job is paused or halted and nothing runs
    #[arg(long)]
    wait: bool,
    /// Wait no longer than this (such as 10m); while there is no client yet, wait for the first
    #[arg(long, value_name = "DURATION", requires = "wait", value_parser = when::duration)]
    timeout: Option<Duration>,
    /// How to show it
    #[command(flatten)]
    output: OutputArg,
}

/// How a job went, as the process's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// 0: every execution finished, or was rejected or canceled.
    AllWell,
    /// 30: some ended in error, none waits or runs.
    Failed,
    /// 31: some wait or run, none ended in error.
    Open,
    /// 32: some wait or run, and some ended in error.
    OpenAndFailed,
    /// 33: clients were asked to stop and did not say yet that they have.
    Canceling,
    /// 34: there is no execution.
    NoClient,
}

impl ExitStatus {
    /// How this job went.
    pub fn of(job: &v1::Job) -> ExitStatus {
        let c = job.counters.unwrap_or_default();
        match (c.waiting + c.running > 0, c.error > 0) {
            _ if job.canceling > 0 => ExitStatus::Canceling,
            _ if c.total == 0 => ExitStatus::NoClient,
            (false, false) => ExitStatus::AllWell,
            (false, true) => ExitStatus::Failed,
            (true, false) => ExitStatus::Open,
            (true, true) => ExitStatus::OpenAndFailed,
        }
    }

    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            ExitStatus::AllWell => 0,
            ExitStatus::Failed => 30,
            ExitStatus::Open => 31,
            ExitStatus::OpenAndFailed => 32,
            ExitStatus::Canceling => 33,
            ExitStatus::NoClient => 34,
        }
    }
}

/// Whether `--wait` has what it waits for. With a time limit it also waits for the first client.
fn is_settled(job: &v1::Job, limited: bool) -> bool {
    match ExitStatus::of(job) {
        ExitStatus::AllWell | ExitStatus::Failed => true,
        // What was halted or paused goes on when somebody says so, and not by itself.
        ExitStatus::Open | ExitStatus::OpenAndFailed
            if job.state() == v1::JobState::Paused && job.counters.is_some_and(|c| c.running == 0) =>
        {
            true
        }
        ExitStatus::Open | ExitStatus::OpenAndFailed | ExitStatus::Canceling => false,
        ExitStatus::NoClient => !limited,
    }
}

/// Runs `sutler job status`.
pub(super) async fn run(session: &Session, args: StatusArgs) -> Result<u8, CliError> {
    // A moment that is too far away to be told is no limit.
    let deadline = args.timeout.and_then(|t| Instant::now().checked_add(t));
    if args.watch || args.wait {
        follow(session, &args, deadline).await?;
    }
    let job = super::get(session, &args.job).await?;
    if !args.watch {
        let rows = super::executions(session, &args.job, &[]).await?;
        match args.output.format {
            Format::Table => {
                let mut text = view::heading(&job);
                if !rows.is_empty() {
                    text.push('\n');
                }
                output::print(&text)?;
                if !rows.is_empty() {
                    output::print(&view::rows(&rows, output::terminal_size().map(|(width, _)| width)))?;
                }
            }
            Format::Json => output::show(&v1::WatchJobResponse { job: Some(job.clone()), executions: rows }, Format::Json)?,
            Format::Csv => output::list(&rows, Format::Csv)?,
        }
    }
    Ok(ExitStatus::of(&job).code())
}

/// Follows the job until what is waited for has come, the time is over, or the job has ended.
async fn follow(session: &Session, args: &StatusArgs, deadline: Option<Instant>) -> Result<(), CliError> {
    let mut following = Following::new(session, &args.job);
    let screen = args.output.format == Format::Table && output::is_terminal();
    let mut log = Log::new(args.output.format);
    let mut drawn = 0;
    if args.watch && !screen {
        log.begin()?;
    }
    loop {
        let change = match deadline {
            Some(deadline) => match timeout_at(deadline, following.next()).await {
                Ok(change) => change?,
                Err(_) => return Ok(()),
            },
            None => following.next().await?,
        };
        let Some(change) = change else { return Ok(()) };
        if args.watch && screen {
            draw(&mut drawn, &change, &following.rows())?;
        } else if args.watch {
            log.write(&change)?;
        }
        if args.wait && is_settled(&change.job, deadline.is_some()) {
            return Ok(());
        }
    }
}

/// How interesting a row is: what runs, then what failed, then what waits, then the rest.
fn rank(row: &v1::Execution) -> u8 {
    use v1::ExecutionState as S;
    match row.state() {
        S::Downloading | S::Installing | S::Verifying | S::Restoring => 0,
        S::Failed | S::Interrupted | S::Expired => 1,
        S::Queued | S::Offered | S::Waiting => 2,
        _ => 3,
    }
}

/// Draws the status over the one before. Rows that do not fit the terminal are counted.
fn draw(drawn: &mut u16, change: &Change, rows: &[&v1::Execution]) -> Result<(), CliError> {
    let (width, height) = output::terminal_size().unwrap_or((80, 24));
    let mut rows: Vec<v1::Execution> = rows.iter().map(|r| (*r).clone()).collect();
    rows.sort_by_key(rank);
    let text = screen(&change.job, &rows, width, height);
    let up = if *drawn > 0 { format!("\u{1b}[{drawn}A\r\u{1b}[J") } else { String::new() };
    *drawn = u16::try_from(text.lines().count()).unwrap_or(u16::MAX);
    output::print(&(up + &text))
}

fn screen(job: &v1::Job, rows: &[v1::Execution], width: u16, height: u16) -> String {
    let cut = |line: &str| line.chars().take(usize::from(width)).collect::<String>() + "\n";
    let heading: Vec<String> = view::heading(job).lines().map(cut).collect();
    // One line each for the heading's end, what does not fit, and the cursor.
    let room = usize::from(height).saturating_sub(heading.len() + 3);
    let table = view::rows(rows, Some(width));
    let lines: Vec<&str> = table.lines().collect();
    let mut text: String = heading.concat() + "\n";
    if rows.is_empty() {
        return text + "no client yet\n";
    }
    for line in lines.iter().take(room) {
        text.push_str(&cut(line));
    }
    if lines.len() > room {
        text.push_str("… more than fits; `sutler job status` without --watch shows all\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(total: i64, error: i64, waiting: i64, running: i64, canceling: i64) -> v1::Job {
        let finished = total - error - waiting - running;
        v1::Job {
            counters: Some(v1::Counters { total, error, waiting, running, finished, ..Default::default() }),
            canceling,
            ..Default::default()
        }
    }

    #[test]
    fn the_exit_code_says_how_the_job_went() {
        for (job, code) in [
            (job(3, 0, 0, 0, 0), 0),
            (job(3, 1, 0, 0, 0), 30),
            (job(3, 0, 1, 0, 0), 31),
            (job(3, 0, 0, 1, 0), 31),
            (job(3, 1, 1, 0, 0), 32),
            (job(3, 1, 0, 1, 1), 33),
            (job(0, 0, 0, 0, 0), 34),
            (v1::Job::default(), 34),
        ] {
            assert_eq!(ExitStatus::of(&job).code(), code, "{:?}", job.counters);
        }
    }

    #[test]
    fn a_rejection_or_a_cancellation_is_no_failure() {
        let counters = v1::Counters { total: 3, rejected: 1, canceled: 1, finished: 1, ..Default::default() };
        assert_eq!(ExitStatus::of(&v1::Job { counters: Some(counters), ..Default::default() }).code(), 0);
    }

    #[test]
    fn waiting_ends_when_every_execution_is_at_an_end_and_with_a_limit_not_before_the_first() {
        assert!(is_settled(&job(3, 1, 0, 0, 0), true));
        assert!(!is_settled(&job(3, 0, 1, 0, 0), true));
        assert!(!is_settled(&job(3, 0, 0, 1, 1), false));
        assert!(is_settled(&job(0, 0, 0, 0, 0), false));
        assert!(!is_settled(&job(0, 0, 0, 0, 0), true));
    }

    #[test]
    fn what_is_drawn_fits_the_terminal() {
        let rows: Vec<_> = (0..100)
            .map(|n| v1::Execution {
                client: format!("clients/{n:016}"),
                hostname: "h".repeat(60),
                detail: "d".repeat(200),
                ..Default::default()
            })
            .collect();
        let text = screen(&job(100, 0, 100, 0, 0), &rows, 80, 24);
        assert!(text.lines().count() < 24, "{text}");
        assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
    }
}
