//! The administrator's command line: nouns and verbs over the operators' API.
//!
//! Data go to the standard output, everything else to the standard error; no colour is needed to understand either.
//! Every noun has a file. A command parses what was typed into resource names and types, makes calls, shows the answer;
//! it decides nothing that the manager decides.

pub mod apply;
pub mod approval;
pub mod ask;
pub mod audit;
pub mod brake;
pub mod bundle;
pub mod ca;
pub mod client;
pub mod columns;
pub mod connection;
pub mod content;
pub mod describe;
pub mod diff;
pub mod error;
pub mod events;
mod examine;
pub mod group;
pub mod import;
pub mod job;
pub mod label;
#[cfg(test)]
mod live_tests;
pub mod local;
pub mod migrate;
pub mod names;
pub mod operator;
pub mod output;
pub mod package;
pub mod passphrase;
pub mod plan;
pub mod policy;
pub mod profiles;
pub mod publisher;
pub mod push;
pub mod question;
pub mod renew;
pub mod session;
pub mod software;
pub mod source;
pub mod token;
pub mod transfer;
pub mod trust;
pub mod when;
pub mod window;

use clap::{CommandFactory, Parser, Subcommand};
use error::CliError;
use session::{Globals, Session};
use std::{ffi::OsString, process::ExitCode};
use sutler_base::Timestamp;

/// Gets software to machines: the manager, and the commands of its administrators.
#[derive(Debug, Parser)]
#[command(
    name = "sutler",
    version,
    propagate_version = true,
    disable_help_subcommand = true,
    max_term_width = 120,
    after_help = "Examples, the main job from an empty folder:
  sutler init --dir D --trust-domain acme.example --host manager.acme.example
  sutler serve --dir D
  sutler group create new-clients
  sutler package push ./clamav
  sutler policy create all-linux --group new-clients --when 'facts.os.family == \"linux\"'
  sutler job run --package clamav --group new-clients
  sutler token create
  sutler job status JOB --watch

Exit codes: 0 done, 1 not done, 2 wrong usage; `job status` and `doctor` have more of their own (see their help)."
)]
pub struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// The nouns.
#[derive(Debug, Subcommand)]
enum Command {
    /// Make a manager's folder (CAs, database) and the first operator's profile
    Init(local::InitArgs),
    /// Run the manager
    Serve(local::ServeArgs),
    /// Say in plain words what is wrong with a manager, or with a profile; ends with 0 if nothing is, with 30 otherwise
    Doctor(local::DoctorArgs),
    /// Copy a manager, while it runs
    Backup(local::BackupArgs),
    /// Make a manager of such a copy
    Restore(local::RestoreArgs),
    /// Move the database of a manager from SQLite to a PostgreSQL, checked row by row
    Migrate(migrate::MigrateArgs),
    /// The issuing CAs, on the manager's host: roll over, give to another manager
    #[command(subcommand, after_help = ca::EXAMPLES)]
    Ca(ca::CaCommand),
    /// Managed machines: list, approve, quarantine, label, explain
    #[command(subcommand, after_help = client::EXAMPLES)]
    Client(client::ClientCommand),
    /// Named destinations for jobs: create, list, members
    #[command(subcommand, after_help = group::EXAMPLES)]
    Group(group::GroupCommand),
    /// Rules that register clients into a group by themselves
    #[command(subcommand, after_help = policy::EXAMPLES)]
    Policy(policy::PolicyCommand),
    /// What the users of machines are asked: create, list, change, delete
    #[command(subcommand, after_help = question::EXAMPLES)]
    Question(question::QuestionCommand),
    /// Maintenance windows of groups: when jobs may begin on their clients
    #[command(subcommand, after_help = window::EXAMPLES)]
    Window(window::WindowCommand),
    /// Software: push, list, show, delete
    #[command(subcommand, after_help = package::EXAMPLES)]
    Package(package::PackageCommand),
    /// Stored bytes: whether they are as they were pushed
    #[command(subcommand, after_help = content::EXAMPLES)]
    Content(content::ContentCommand),
    /// Orders to install packages on groups and clients
    #[command(subcommand, after_help = job::EXAMPLES)]
    Job(Box<job::JobCommand>),
    /// Changes that need a second person: list, approve, reject
    #[command(subcommand, after_help = approval::EXAMPLES)]
    Approval(approval::ApprovalCommand),
    /// Make groups, policies, questions and jobs be as files say: shows what will change, asks, and does all of it or nothing
    #[command(after_help = apply::APPLY_EXAMPLES)]
    Apply(apply::ApplyArgs),
    /// Write groups, policies, questions and jobs as files; applied again they change nothing
    #[command(after_help = apply::EXPORT_EXAMPLES)]
    Export(apply::ExportArgs),
    /// What is installed across the fleet: which versions, and where
    #[command(subcommand, after_help = software::EXAMPLES)]
    Software(software::SoftwareCommand),
    /// Stop everything, a group or a package at once, on every manager, until `resume`; without any of them show what is stopped
    #[command(after_help = brake::STOP_EXAMPLES)]
    Stop(brake::StopArgs),
    /// Let what was stopped go on
    #[command(after_help = brake::RESUME_EXAMPLES)]
    Resume(brake::ResumeArgs),
    /// Circuit breakers: list those that are open, close them
    #[command(subcommand, after_help = brake::BREAKER_EXAMPLES)]
    Breaker(brake::BreakerCommand),
    /// How fast bytes flow to clients: limits by time of day, suspend and resume
    #[command(subcommand, after_help = transfer::EXAMPLES)]
    Transfer(transfer::TransferCommand),
    /// Enrolment tokens: what lets machines in
    #[command(subcommand, after_help = token::EXAMPLES)]
    Token(token::TokenCommand),
    /// Sign packages, and whom agents trust to sign
    #[command(subcommand, after_help = publisher::EXAMPLES)]
    Publisher(publisher::PublisherCommand),
    /// Your profiles on this machine: who you are, and to which manager you speak
    #[command(subcommand, after_help = profiles::EXAMPLES)]
    Profile(profiles::ProfileCommand),
    /// People and programs that administer
    #[command(subcommand, after_help = operator::EXAMPLES)]
    Operator(operator::OperatorCommand),
    /// Who did what, when
    #[command(subcommand, after_help = audit::EXAMPLES)]
    Audit(audit::AuditCommand),
    /// What happened, and what happens: jobs that ended, clients that are overdue, certificates near their end
    #[command(after_help = events::HELP)]
    Events(events::EventsArgs),
    /// Print the completions for a shell
    #[command(after_help = "Examples:
  sutler completion bash > /etc/bash_completion.d/sutler
  sutler completion zsh > \"${fpath[1]}/_sutler\"")]
    Completion {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// Runs the command line `args` (the program's name first) and says with which code the process is to end.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version go to the standard output with 0, usage errors to the standard error with 2.
            if e.use_stderr() {
                // It repeats what was typed, which a script may have taken from anywhere.
                eprintln!("{}", output::printable_lines(&e.render().to_string()));
            } else {
                let _ = e.print();
            }
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2));
        }
    };
    match dispatch(cli) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            if !e.is_broken_pipe() {
                eprint!("{}", e.report());
            }
            ExitCode::from(e.exit_code())
        }
    }
}

fn dispatch(cli: Cli) -> Result<u8, CliError> {
    match cli.command {
        // A server has threads of its own and needs no operator.
        Command::Init(args) => return local::init(args, &cli.globals),
        Command::Serve(args) => return local::serve(args),
        Command::Doctor(args) => return local::doctor(args, &cli.globals),
        Command::Backup(args) => return local::backup(args, &cli.globals),
        Command::Restore(args) => return local::restore(args, &cli.globals),
        Command::Migrate(args) => return migrate::run(args, &cli.globals),
        Command::Ca(command) => return ca::run(command),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "sutler", &mut script);
            output::print(&String::from_utf8_lossy(&script))?;
            return Ok(0);
        }
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| CliError::Local {
        tried: "start".into(),
        why: e.to_string(),
        hint: None,
    })?;
    let session = Session::new(cli.globals, Timestamp::now());
    runtime.block_on(async {
        match cli.command {
            Command::Client(command) => client::run(command, &session).await,
            Command::Group(command) => group::run(command, &session).await,
            Command::Policy(command) => policy::run(command, &session).await,
            Command::Question(command) => question::run(command, &session).await,
            Command::Window(command) => window::run(command, &session).await,
            Command::Stop(args) => brake::stop(args, &session).await,
            Command::Resume(args) => brake::resume(args, &session).await,
            Command::Breaker(command) => brake::breaker(command, &session).await,
            Command::Transfer(command) => transfer::run(command, &session).await,
            Command::Package(command) => package::run(command, &session).await,
            Command::Content(command) => content::run(command, &session).await,
            Command::Job(command) => job::run(*command, &session).await,
            Command::Approval(command) => approval::run(command, &session).await,
            Command::Apply(args) => apply::apply(args, &session).await,
            Command::Export(args) => apply::export(args, &session).await,
            Command::Software(command) => software::run(command, &session).await,
            Command::Token(command) => token::run(command, &session).await,
            Command::Publisher(command) => publisher::run(command, &session).await,
            Command::Profile(command) => profiles::run(command, &session).await,
            Command::Operator(command) => operator::run(command, &session).await,
            Command::Audit(command) => audit::run(command, &session).await,
            Command::Events(args) => events::run(args, &session).await,
            Command::Init(_)
            | Command::Serve(_)
            | Command::Ca(_)
            | Command::Doctor(_)
            | Command::Backup(_)
            | Command::Restore(_)
            | Command::Migrate(_)
            | Command::Completion { .. } => Ok(0),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Every command below `command` with its words.
    fn walk(words: &str, command: &mut clap::Command, visit: &mut dyn FnMut(&str, &mut clap::Command)) {
        visit(words, command);
        for sub in command.get_subcommands_mut() {
            let words = format!("{words} {}", sub.get_name());
            walk(&words, sub, visit);
        }
    }

    #[test]
    fn every_help_page_renders_and_has_an_example_that_the_command_line_takes() {
        let mut command = Cli::command();
        command.build();
        let (mut pages, mut examples) = (0, 0);
        walk("sutler", &mut command, &mut |words, command| {
            pages += 1;
            let help = command.render_long_help().to_string();
            let (_, after) = help.split_once("Example").unwrap_or_else(|| panic!("`{words} --help` has no example"));
            assert!(
                after.lines().skip(1).any(|line| line.trim_start().starts_with(words)),
                "`{words} --help` has no example of its own: {after}"
            );
            for line in after.lines().map(str::trim).filter(|line| line.starts_with("sutler ")) {
                examples += 1;
                // What follows a redirection is the shell's.
                let line = [" > ", " < "].iter().fold(line, |line, mark| line.split(mark).next().unwrap_or(line));
                let args = split(line);
                if let Err(e) = Cli::try_parse_from(&args) {
                    panic!("the example `{line}` of `{words} --help` is refused: {e}");
                }
                for condition in args.windows(2).filter(|w| w[0] == "--when" || w[0] == "--filter").map(|w| &w[1]) {
                    let schema = sutler_core::condition::Schema::standard();
                    sutler_core::condition::Condition::compile(condition, &schema).unwrap();
                }
            }
        });
        assert!(pages > 60 && examples > pages, "{pages} pages, {examples} examples");
    }

    /// The words of a line, as a shell would split it: quotes and nothing else.
    fn split(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quote, mut open) = (vec![], String::new(), None, false);
        for c in line.chars() {
            match (quote, c) {
                (None, '\'' | '"') => (quote, open) = (Some(c), true),
                (Some(q), c) if c == q => quote = None,
                (None, ' ') => {
                    if open || !word.is_empty() {
                        words.push(std::mem::take(&mut word));
                    }
                    open = false;
                }
                _ => word.push(c),
            }
        }
        if open || !word.is_empty() {
            words.push(word);
        }
        // Letters in capitals stand for an id or a name.
        let stands = |w: &String| match w.as_str() {
            "JOB" => "k3v9x0abcd".to_owned(),
            "APPROVAL" | "PLAN" => "01hzx0kqk3v9x0abcdk3v9x0ab".to_owned(),
            "CLIENT" => "0123456789abcdef".to_owned(),
            "TOKEN" => "k3v9x0abcd".to_owned(),
            _ => w.clone(),
        };
        words.iter().map(stands).collect()
    }

    #[test]
    fn what_makes_no_sense_is_a_usage_error() {
        for line in [
            "sutler",
            "sutler group",
            "sutler group create ../x",
            "sutler job status",
            "sutler client approve",
            "sutler job run --package clamav",
            "sutler token create --ttl 10",
            "sutler job status k3v9x0abcd --timeout 10m",
            "sutler policy preview",
            "sutler group update new-clients",
        ] {
            match Cli::try_parse_from(split(line)) {
                Ok(_) => panic!("`{line}` is taken"),
                Err(e) => assert_eq!(e.exit_code(), 2, "{line}"),
            }
        }
    }
}
