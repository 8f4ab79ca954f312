//! `sutler transfer`: how fast bytes flow to clients, and whose stand still.

use super::{
    error::CliError,
    names,
    output::{self, Column, OutputArg, Record},
    session::{Session, call, request_id},
    when::moment,
};
use clap::{Args, Subcommand};
use sutler_base::quantity::parse_size;
use sutler_proto::v1;

/// Examples of the noun.
pub const EXAMPLES: &str = "Examples:
  sutler transfer limit set 2MiB/s --group branch --from 08:00 --to 18:00 --days mon-fri
  sutler transfer suspend --group branch
  sutler transfer status";

/// `2MiB/s` as bytes per second.
fn rate(text: &str) -> Result<i64, String> {
    let size = text.strip_suffix("/s").unwrap_or(text);
    let bytes = parse_size(size).map_err(|_| format!("a rate is like 500KiB/s or 2MiB/s, not {}", sutler_base::quoted(text)))?;
    i64::try_from(bytes).map_err(|e| e.to_string())
}

/// A rate as people say it.
fn per_second(bytes: i64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = units.iter().find(|(_, size)| bytes >= *size && bytes % size == 0);
    unit.map_or_else(|| format!("{bytes}B/s"), |(name, size)| format!("{}{name}/s", bytes / size))
}

/// Whose bytes a limit counts.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Whose {
    /// All members of this group together
    #[arg(long, value_name = "GROUP", value_parser = names::group)]
    group: Option<String>,
    /// All clients together; where there are several managers, at each of them
    #[arg(long)]
    manager: bool,
    /// Each client by itself
    #[arg(long)]
    each_client: bool,
}

/// What can be done with limits.
#[derive(Debug, Subcommand)]
pub enum LimitCommand {
    /// Limit how fast bytes flow. Of several limits that hold for a client the lowest counts
    #[command(after_help = "Examples:
  sutler transfer limit set 2MiB/s --group branch --from 08:00 --to 18:00 --days mon-fri
  sutler transfer limit set 20MiB/s --manager --from 08:00 --to 18:00 --zone Europe/Berlin
  sutler transfer limit set 256KiB/s --each-client")]
    Set {
        /// Bytes per second, at least 4KiB/s
        #[arg(value_name = "RATE", value_parser = rate)]
        rate: i64,
        /// Whose bytes it counts
        #[command(flatten)]
        whose: Whose,
        /// When it begins, local time [default: always]
        #[arg(long, value_name = "HH:MM", requires = "to")]
        from: Option<String>,
        /// When it ends; if that is not later, on the next day
        #[arg(long, value_name = "HH:MM", requires = "from")]
        to: Option<String>,
        /// On which days it begins, like mon-fri or sat,sun [default: every day]
        #[arg(long, value_name = "DAYS")]
        days: Option<String>,
        /// By whose clock: that of each client, or of a zone like Europe/Berlin
        #[arg(long, value_name = "ZONE", default_value = "client")]
        zone: String,
    },
    /// List limits
    #[command(after_help = "Examples:
  sutler transfer limit list")]
    List {
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Take limits away
    #[command(after_help = "Examples:
  sutler transfer limit clear 01kb3c5m2n8p4q6r7s9t0v1w2x")]
    Clear {
        /// Which; `transfer limit list` shows the ids
        #[arg(required = true, value_name = "ID", value_parser = names::transfer_limit)]
        names: Vec<String>,
    },
}

/// What can be done with transfers.
#[derive(Debug, Subcommand)]
pub enum TransferCommand {
    /// How fast bytes flow, by the time of day: set, list, clear
    #[command(
        subcommand,
        after_help = "Examples:
  sutler transfer limit list
  sutler transfer limit set 256KiB/s --each-client"
    )]
    Limit(LimitCommand),
    /// Give the members of a group no bytes until `resume`; what has all its bytes is installed all the same
    #[command(after_help = "Examples:
  sutler transfer suspend --group branch")]
    Suspend {
        /// The group
        #[arg(long, value_name = "GROUP", value_parser = names::group)]
        group: String,
    },
    /// Give them bytes again: what was stopped goes on from what it has
    #[command(after_help = "Examples:
  sutler transfer resume --group branch")]
    Resume {
        /// The group
        #[arg(long, value_name = "GROUP", value_parser = names::group)]
        group: String,
    },
    /// Show which groups are suspended, which limits there are, and how many clients get bytes now
    #[command(after_help = "Examples:
  sutler transfer status
  sutler transfer status -o json")]
    Status {
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
}

fn whose(limit: &v1::TransferLimit) -> String {
    match limit.scope() {
        v1::TransferScope::Group => format!("{} together", names::short(&limit.group)),
        v1::TransferScope::EachClient => "each client".to_owned(),
        _ => "all together".to_owned(),
    }
}

fn hours(limit: &v1::TransferLimit) -> String {
    let days = if limit.days.is_empty() { "every day".to_owned() } else { limit.days.clone() };
    match limit.from.as_str() {
        "" if limit.days.is_empty() => "always".to_owned(),
        "" => format!("{days} ({})", limit.zone),
        from => format!("{days} {from}-{} ({})", limit.to, limit.zone),
    }
}

fn holds(limit: &v1::TransferLimit) -> String {
    match limit.holds {
        Some(true) => "yes".to_owned(),
        Some(false) => "no".to_owned(),
        None if limit.from.is_empty() && limit.days.is_empty() => "yes".to_owned(),
        None => "by client".to_owned(),
    }
}

impl Record for v1::TransferLimit {
    const TYPE: &'static str = "sutler.v1.TransferLimit";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("id", |l| names::short(&l.name).to_owned()),
        Column::new("whose", whose),
        Column::new("rate", |l| per_second(l.bytes_per_second)),
        Column::new("when", hours),
        Column::new("holds", holds),
        Column::wide("creator", |l| l.creator.clone()),
        Column::wide("created", |l| moment(&l.create_time)),
    ];
}

impl Record for v1::GetTransferStatusResponse {
    const TYPE: &'static str = "sutler.v1.GetTransferStatusResponse";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("suspended", |s| {
            let one = |s: &v1::TransferSuspension| format!("{} (by {} since {})", names::short(&s.group), s.creator, moment(&s.since));
            if s.suspensions.is_empty() { "no group".to_owned() } else { s.suspensions.iter().map(one).collect::<Vec<_>>().join(", ") }
        }),
        Column::new("transferring", |s| match s.transferring {
            1 => "1 client".to_owned(),
            n => format!("{n} clients"),
        }),
        Column::new("limits", |s| {
            let one =
                |l: &v1::TransferLimit| format!("{}: {}, {} (holds: {})", whose(l), per_second(l.bytes_per_second), hours(l), holds(l));
            if s.limits.is_empty() { "none".to_owned() } else { s.limits.iter().map(one).collect::<Vec<_>>().join("; ") }
        }),
    ];
}

/// Runs a command of this noun.
pub async fn run(command: TransferCommand, session: &Session) -> Result<u8, CliError> {
    match command {
        TransferCommand::Limit(LimitCommand::Set { rate, whose, from, to, days, zone }) => {
            let scope = match (&whose.group, whose.manager) {
                (Some(_), _) => v1::TransferScope::Group,
                (None, true) => v1::TransferScope::Manager,
                (None, false) => v1::TransferScope::EachClient,
            };
            let limit = v1::TransferLimit {
                scope: scope.into(),
                group: whose.group.unwrap_or_default(),
                bytes_per_second: rate,
                from: from.unwrap_or_default(),
                to: to.unwrap_or_default(),
                days: days.unwrap_or_default(),
                zone,
                ..Default::default()
            };
            let request = v1::CreateTransferLimitRequest { limit: Some(limit), request_id: request_id()? };
            let limit = call!(session, transfers.create_transfer_limit(request), "limit transfers")?.limit.unwrap_or_default();
            let told = format!("{}: {}, {}", self::whose(&limit), per_second(limit.bytes_per_second), hours(&limit));
            session.done(&limit.name, &told)?;
        }
        TransferCommand::Limit(LimitCommand::List { output }) => {
            let request = v1::ListTransferLimitsRequest {};
            let limits = call!(session, transfers.list_transfer_limits(request), "list the limits of transfers")?.limits;
            output::list(&limits, output.format)?;
        }
        TransferCommand::Limit(LimitCommand::Clear { names }) => {
            for name in names {
                let request = v1::DeleteTransferLimitRequest { name: name.clone(), request_id: request_id()? };
                call!(session, transfers.delete_transfer_limit(request), "take the limit {} away", names::short(&name))?;
                session.done(&name, "taken away")?;
            }
        }
        TransferCommand::Suspend { group } => {
            let request = v1::SuspendTransfersRequest { group: group.clone(), request_id: request_id()? };
            let made = call!(session, transfers.suspend_transfers(request), "suspend the transfers of {}", names::short(&group))?;
            let since = made.suspension.map(|s| format!("by {} since {}", s.creator, moment(&s.since))).unwrap_or_default();
            session.done(&group, &format!("its members get no bytes until `transfer resume` ({since})"))?;
        }
        TransferCommand::Resume { group } => {
            let request = v1::ResumeTransfersRequest { group: group.clone(), request_id: request_id()? };
            call!(session, transfers.resume_transfers(request), "resume the transfers of {}", names::short(&group))?;
            session.done(&group, "its members get bytes again")?;
        }
        TransferCommand::Status { output } => {
            let request = v1::GetTransferStatusRequest {};
            let status = call!(session, transfers.get_transfer_status(request), "show how transfers stand")?;
            output::show(&status, output.format)?;
        }
    }
    Ok(0)
}
