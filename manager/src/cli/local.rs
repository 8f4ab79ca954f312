//! `sutler init` and `sutler serve`: what is done on the manager's host, without a profile.

use super::{error::CliError, session::Globals};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Makes a manager's folder and the first operator's profile.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sutler init --dir D --trust-domain acme.example --host manager.acme.example
  sutler init --dir D --trust-domain acme.example --host 10.0.0.5 --operator ann")]
pub struct InitArgs {
    /// The manager's folder, which must not exist or be empty
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The name that every identity is below, such as acme.example; it never changes
    #[arg(long, value_name = "DOMAIN")]
    pub trust_domain: String,
    /// A name or address under which agents and operators reach the manager; the first goes into the profile
    #[arg(long, value_name = "HOST", required = true)]
    pub host: Vec<String>,
    /// The first operator's name
    #[arg(long, value_name = "NAME", default_value = "admin")]
    pub operator: String,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people
    Text,
    /// A JSON object a line
    Json,
}

/// Runs the manager.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sutler serve --dir D
  sutler serve --dir D --database postgres://sutler@db.acme.example/sutler
  sutler serve --dir D --agents 127.0.0.1:0 --operators 127.0.0.1:0 --telemetry 127.0.0.1:0
  sutler serve --dir D --advertise manager.acme.example:7443 --log-format json")]
pub struct ServeArgs {
    /// The manager's folder
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The database [default: SQLite in the manager's folder]
    #[arg(long, value_name = "URL", env = "SUTLER_DATABASE", hide_env_values = true)]
    pub database: Option<String>,
    /// Where agents connect; port 0 takes a free one [default: what manager.toml says, else [::]:7443]
    #[arg(long, value_name = "ADDR:PORT")]
    pub agents: Option<std::net::SocketAddr>,
    /// Where operators connect [default: what manager.toml says, else [::]:7444]
    #[arg(long, value_name = "ADDR:PORT")]
    pub operators: Option<std::net::SocketAddr>,
    /// Where metrics and health are, without TLS; `off` for nowhere [default: what manager.toml says, else 127.0.0.1:7480]
    #[arg(long, value_name = "ADDR:PORT")]
    pub telemetry: Option<String>,
    /// An address that agents are told to connect to; several are tried in turn [default: the hosts of `init`]
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Vec<String>,
    /// How the log is written, on the standard error
    #[arg(long, value_enum, default_value = "text")]
    pub log_format: LogFormat,
}

/// `sutler init`
pub fn init(_args: &InitArgs, _globals: &Globals) -> Result<u8, CliError> {
    Err(CliError::Local { tried: "make a manager's folder".into(), why: "this build has no server".into(), hint: None })
}

/// `sutler serve`
pub fn serve(_args: &ServeArgs) -> Result<u8, CliError> {
    Err(CliError::Local { tried: "run the manager".into(), why: "this build has no server".into(), hint: None })
}
