//! `sutler operator`: people and programs that administer.

use super::{
    error::CliError,
    names,
    output::{self, Column, OutputArg, Record},
    session::{Session, call},
    when::moment,
};
use clap::Subcommand;
use sutler_proto::v1;

/// Examples of the noun.
pub const EXAMPLES: &str = "Examples:
  sutler operator show";

/// What can be done with operators.
#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Show who you are to the manager, and until when your certificate is good
    #[command(after_help = "Examples:
  sutler operator show
  sutler operator show -o json")]
    Show {
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
}

impl Record for v1::GetSelfResponse {
    const TYPE: &'static str = "sutler.v1.GetSelfResponse";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("operator", |s| names::short(&s.name).to_owned()),
        Column::new("certificate_expires", |s| moment(&s.certificate_expire_time)),
        Column::new("trust_domain", |s| s.trust_domain.clone()),
        Column::new("manager_version", |s| s.manager_version.clone()),
    ];
}

/// Runs a command of this noun.
pub async fn run(command: OperatorCommand, session: &Session) -> Result<u8, CliError> {
    let OperatorCommand::Show { output } = command;
    let answer = call!(session, operators.get_self(v1::GetSelfRequest {}), "ask who you are")?;
    output::show(&answer, output.format)?;
    Ok(0)
}
