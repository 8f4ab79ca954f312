//! The commands. Data goes to standard output, everything else to standard error.
//!
//! Exit codes: 0 done (or queued), 1 not done, 2 wrong usage; `doctor` ends with 30 where something is wrong.

mod run;
mod show;
mod trial;

use crate::{
    agent::Answer,
    clock::{Clock, SystemClock},
    config::{self, Config, ConfigError, Overrides},
    doctor,
    machine::UserAnswer,
    service::{self, Call, Reply},
};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{
    io::{IsTerminal, Read},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};
use sutler_base::{GroupName, QuestionName};

const EXAMPLES: &str = "\
Examples:
  sutler-agent enroll --token-file /root/token    make this machine a client
  sutler-agent run                                do its work (the service does this)
  sutler-agent status                             where it is
  sutler-agent doctor                             what is wrong with it
  sutler-agent join new-clients                   join a group, asking for its password if need be
  sutler-agent defer 4f2k                         put off what is announced (sutler-agent announcements)
  sutler-agent install editor                     have installed what is offered (sutler-agent available)
  sutler-agent answer room B7                     answer what operators ask (sutler-agent questions)";

/// Installs what a Sutler manager offers this machine.
#[derive(Parser)]
#[command(name = "sutler-agent", version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    places: Places,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Places {
    /// The configuration; /etc/sutler/agent.toml if it is there
    #[arg(long, global = true, value_name = "FILE", env = "SUTLER_AGENT_CONFIG")]
    config: Option<PathBuf>,
    /// Where the agent keeps its things (mode 0700) [default: /var/lib/sutler-agent]
    #[arg(long, global = true, value_name = "DIR", env = "SUTLER_AGENT_DIR")]
    dir: Option<PathBuf>,
    /// Below which packages are installed [default: /]
    #[arg(long, global = true, value_name = "DIR", env = "SUTLER_AGENT_ROOT")]
    root: Option<PathBuf>,
    /// The local socket [default: in --dir; /run/sutler-agent/agent.sock for the default one]
    #[arg(long, global = true, value_name = "SOCKET", env = "SUTLER_AGENT_SOCKET")]
    socket: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Make this machine a client of a manager
    #[command(
        after_help = "A token is a secret, and other users can see the arguments of a program: prefer --token-file, or - for standard input.\n\n\
        Examples:\n  sutler-agent enroll --token-file /root/token\n  ssh manager sutler token create | sutler-agent enroll -"
    )]
    Enroll(Enroll),
    /// Do the work, until it is ended
    Run {
        /// How the log is written to standard error
        #[arg(long, value_enum, default_value_t = LogFormat::Text)]
        log_format: LogFormat,
        /// Be the new agent that the old one tries
        #[arg(long, hide = true)]
        trial: bool,
    },
    /// Where the agent is, and what it works on
    Status(Output),
    /// What this machine reports about itself
    Facts(Output),
    /// The groups that this client is in
    Groups(Output),
    /// Join a group
    Join {
        /// The group's name
        group: GroupName,
        /// Read the group's password from this file (- for standard input); without it a terminal is asked if need be
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Leave a group
    Leave {
        /// The group's name
        group: GroupName,
    },
    /// What operators ask the users of this machine, with the answers
    Questions(Output),
    /// Answer a question; while the manager can't be reached the answer waits
    Answer {
        /// The question's name
        question: QuestionName,
        /// The answer
        #[arg(allow_hyphen_values = true)]
        answer: String,
    },
    /// What the users of this machine may have installed
    Available(Output),
    /// Install something that is offered; while the manager can't be reached the wish waits
    Install {
        /// Its name, or its job, as `available` shows them
        name: String,
    },
    /// What is about to begin on this machine, and what its users may answer
    Announcements(Output),
    /// Let what is announced begin at once
    Now {
        /// The job, as `announcements` shows it
        job: String,
    },
    /// Put off what is announced, as often as its job allows it
    Defer {
        /// The job, as `announcements` shows it
        job: String,
    },
    /// Refuse what is announced, where its job allows it
    Refuse {
        /// The job, as `announcements` shows it
        job: String,
    },
    /// Do what is ordered for the machine's stop, now that it goes down; sutler-agent-shutdown.service calls it
    Shutdown {
        /// Wait so long at the most (seconds)
        #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
        within: u64,
    },
    /// Try again at once whatever waits for its next try
    RunNow,
    /// Say in plain words what is wrong with this agent; ends with 0 if nothing is, with 30 otherwise
    Doctor(Output),
    /// Leave the manager: the client is removed, its memberships and open work end
    Unenroll,
}

#[derive(Args)]
struct Enroll {
    /// The token, or - to read it from standard input
    #[arg(value_name = "TOKEN", required_unless_present = "token_file", conflicts_with = "token_file")]
    token: Option<String>,
    /// Read the token from this file
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Remove the token file once the machine is enrolled
    #[arg(long, requires = "token_file")]
    remove_token_file: bool,
    /// Enrol again although this machine is a client: it becomes a new one
    #[arg(long)]
    force: bool,
}

#[derive(Args)]
struct Output {
    /// How it is shown
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let places = cli.places;
    let file = places.config.clone().unwrap_or_else(|| config::DEFAULT_FILE.into());
    let config = Config::load(Overrides { config: places.config, dir: places.dir, root: places.root, socket: places.socket });
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return failed(format!("the runtime can't be started: {e}")),
    };
    let code = match (cli.command, config) {
        // Whoever asks the doctor may have a configuration that can't be used.
        (Command::Doctor(output), config) => runtime.block_on(examine(config, &file, output.output)),
        (_, Err(e)) => failed(e),
        (command, Ok(config)) => runtime.block_on(perform(command, config)),
    };
    // Not a drop: that would wait for the threads that wait for steps.
    runtime.shutdown_background();
    code
}

fn failed(why: impl std::fmt::Display) -> ExitCode {
    eprintln!("sutler-agent: {why}");
    ExitCode::from(1)
}

async fn perform(command: Command, config: Config) -> ExitCode {
    match command {
        Command::Enroll(enroll) => match run::enroll(&config, enroll).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => failed(e),
        },
        Command::Run { log_format, trial } => match run::run(&config, log_format, trial).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => failed(e),
        },
        Command::Status(output) => ask(&config, Call::Status, output.output).await,
        Command::Facts(output) => ask(&config, Call::Facts, output.output).await,
        Command::Groups(output) => ask(&config, Call::Groups, output.output).await,
        Command::Join { group, password_file } => join(&config, group, password_file).await,
        Command::Leave { group } => ask(&config, Call::Leave { group }, Format::Text).await,
        Command::Questions(output) => ask(&config, Call::Questions, output.output).await,
        Command::Answer { question, answer } => ask(&config, Call::Answer { question, answer }, Format::Text).await,
        Command::Available(output) => ask(&config, Call::Available, output.output).await,
        Command::Install { name } => ask(&config, Call::Install { name }, Format::Text).await,
        Command::Announcements(output) => ask(&config, Call::Announcements, output.output).await,
        Command::Now { job } => ask(&config, Call::User { job, answer: UserAnswer::Now }, Format::Text).await,
        Command::Defer { job } => ask(&config, Call::User { job, answer: UserAnswer::Defer }, Format::Text).await,
        Command::Refuse { job } => ask(&config, Call::User { job, answer: UserAnswer::Refuse }, Format::Text).await,
        Command::Shutdown { within } => ask(&config, Call::Shutdown { seconds: within }, Format::Text).await,
        Command::RunNow => ask(&config, Call::RunNow, Format::Text).await,
        // Taken before.
        Command::Doctor(_) => ExitCode::SUCCESS,
        Command::Unenroll => ask(&config, Call::Unenroll, Format::Text).await,
    }
}

async fn examine(config: Result<Config, ConfigError>, file: &Path, format: Format) -> ExitCode {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let checkup = doctor::examine(config, file, &clock).await;
    match format {
        Format::Json => println!("{}", checkup.json()),
        Format::Text => print!("{}", checkup.text()),
    }
    ExitCode::from(checkup.exit_code())
}

async fn ask(config: &Config, call: Call, format: Format) -> ExitCode {
    match service::call(&config.socket, &call).await {
        Ok(reply) => show::reply(&call, &reply, format == Format::Json),
        Err(e) => failed(e),
    }
}

async fn join(config: &Config, group: GroupName, password_file: Option<PathBuf>) -> ExitCode {
    let given = match password_file.as_deref().map(read_secret).transpose() {
        Ok(given) => given,
        Err(e) => return failed(e),
    };
    let asks_for_it = given.is_none();
    let call = Call::Join { group: group.clone(), password: given.unwrap_or_default() };
    let reply = match service::call(&config.socket, &call).await {
        Ok(reply) => reply,
        Err(e) => return failed(e),
    };
    // The manager alone knows whether the group has a password: so the question comes after the first answer.
    if let Reply::Answer { answer: Answer::Refused { why } } = &reply
        && asks_for_it
        && why.contains("password")
        && std::io::stdin().is_terminal()
    {
        eprintln!("{why}");
        return match show::password(&format!("Password of the group {group}: ")) {
            Ok(password) => ask(config, Call::Join { group, password }, Format::Text).await,
            Err(e) => failed(format!("the password can't be read: {e}")),
        };
    }
    show::reply(&call, &reply, false)
}

/// The first line of a file or of standard input (`-`); at most 64 KiB.
fn read_secret(path: &Path) -> Result<String, String> {
    let shown = |e: std::io::Error| format!("cannot read {}: {e}", path.display());
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().take(64 << 10).read_to_string(&mut text).map_err(shown)?;
    } else {
        std::fs::File::open(path).map_err(shown)?.take(64 << 10).read_to_string(&mut text).map_err(shown)?;
    }
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
