//! `sutler software`: what is installed across the fleet.

use super::{
    error::CliError,
    names,
    output::{self, Column, OutputArg, Record},
    session::{Session, pages},
};
use clap::{Subcommand, ValueEnum};
use sutler_proto::v1;

/// Examples of the noun.
pub const EXAMPLES: &str = "Examples:
  sutler software list bash
  sutler software list 'openssl*' --clients";

/// Who installed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Manager {
    /// Debian's package manager
    Dpkg,
    /// Red Hat's and SUSE's package manager
    Rpm,
    /// This product
    Sutler,
}

/// What can be done with the inventory of software.
#[derive(Debug, Subcommand)]
pub enum SoftwareCommand {
    /// List software by name and version, with how many clients have it
    #[command(after_help = "Examples:
  sutler software list bash
  sutler software list 'openssl*' --manager rpm --group new-clients
  sutler software list bash --clients -o csv")]
    List {
        /// Only what is called so; with a * at its end, what begins so
        #[arg(default_value = "", hide_default_value = true)]
        name: String,
        /// Only what this manager installed
        #[arg(long, value_enum)]
        manager: Option<Manager>,
        /// Only what members of this group have
        #[arg(long, value_parser = names::group)]
        group: Option<String>,
        /// A row for each client that has it
        #[arg(long, requires = "name")]
        clients: bool,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
}

impl Record for v1::Software {
    const TYPE: &'static str = "sutler.v1.Software";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("name", |s| s.title.clone()),
        Column::new("version", |s| s.version.clone()),
        Column::new("architecture", |s| s.architecture.clone()),
        Column::new("manager", |s| s.manager.clone()),
        Column::new("clients", |s| s.clients.to_string()),
        Column::wide("id", |s| names::short(&s.name).to_owned()),
    ];
}

/// Runs a command of this noun.
pub async fn run(command: SoftwareCommand, session: &Session) -> Result<u8, CliError> {
    let SoftwareCommand::List { name, manager, group, clients, output } = command;
    let manager = manager.and_then(|m| m.to_possible_value()).map(|m| m.get_name().to_owned()).unwrap_or_default();
    let group = group.unwrap_or_default();
    let request = v1::ListSoftwareRequest { title: name, manager, group: group.clone(), ..Default::default() };
    let software = pages!(session, software.list_software(request) -> software, "list the software");
    if !clients {
        output::list(&software, output.format)?;
        return Ok(0);
    }
    let mut rows = Vec::new();
    for software in software {
        let request = v1::ListInstallationsRequest { parent: software.name.clone(), group: group.clone(), ..Default::default() };
        let installations =
            pages!(session, software.list_installations(request) -> installations, "list the clients that have {}", software.title);
        rows.extend(installations.iter().map(|i| {
            let client = names::short(&i.client).to_owned();
            vec![software.title.clone(), software.version.clone(), software.manager.clone(), client, i.hostname.clone()]
        }));
    }
    output::rows(&["name", "version", "manager", "client", "hostname"], &rows, output.format)?;
    Ok(0)
}
