//! `sutler audit`: who did what, when.

use super::{
    error::CliError,
    output::{self, Column, OutputArg, Record},
    session::{Session, call},
    when::moment,
};
use clap::Subcommand;
use sutler_base::limits;
use sutler_proto::v1;

/// Examples of the noun.
pub const EXAMPLES: &str = "Examples:
  sutler audit list
  sutler audit list --object groups/new-clients";

/// What can be done with the audit log: read it.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// List entries, the newest first
    #[command(after_help = "Examples:
  sutler audit list
  sutler audit list --limit 0 -o csv > audit.csv
  sutler audit list --object groups/new-clients")]
    List {
        /// Only entries about this object (such as groups/new-clients, jobs/ID, clients/ID)
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        object: String,
        /// At most so many entries; 0 for all
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
}

impl Record for v1::AuditEntry {
    const TYPE: &'static str = "sutler.v1.AuditEntry";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("sequence", |e| e.sequence.to_string()),
        Column::new("time", |e| moment(&e.time)),
        Column::new("actor", |e| e.actor.clone()),
        Column::new("action", |e| e.action.clone()),
        Column::new("object", |e| e.object.clone()),
        Column::new("detail", |e| e.detail.clone()),
    ];
}

/// Runs a command of this noun.
pub async fn run(command: AuditCommand, session: &Session) -> Result<u8, CliError> {
    let AuditCommand::List { object, limit, output } = command;
    let limit = if limit == 0 { usize::MAX } else { limit };
    let mut request = v1::ListAuditEntriesRequest { object, ..Default::default() };
    let mut entries = Vec::new();
    loop {
        request.page_size = (limit - entries.len()).min(limits::PAGE_MAX as usize) as i32;
        let page = call!(session, audit.list_audit_entries(request.clone()), "list the audit log")?;
        entries.extend(page.entries);
        if page.next_page_token.is_empty() || entries.len() >= limit {
            break;
        }
        request.page_token = page.next_page_token;
    }
    entries.truncate(limit);
    output::list(&entries, output.format)?;
    Ok(0)
}
