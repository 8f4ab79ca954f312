//! `sutler group`: named destinations.

use super::{
    approval::ConfirmArg,
    ask,
    client::source,
    error::CliError,
    import, names,
    output::{self, Column, OutputArg, Record, word},
    session::{Session, call, pages, request_id},
    when::moment,
};
use clap::{Subcommand, ValueEnum};
use std::path::PathBuf;
use sutler_base::limits;
use sutler_proto::v1;

/// Examples of the noun.
pub const EXAMPLES: &str = "Examples:
  sutler group create new-clients
  sutler group add new-clients CLIENT
  sutler group members new-clients";

/// Who may join a group from a client.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Join {
    /// Any client
    Open,
    /// Any client that gives the group's password
    Password,
    /// None
    Closed,
}

impl Join {
    fn wire(self) -> i32 {
        match self {
            Join::Open => v1::JoinMode::Open,
            Join::Password => v1::JoinMode::Password,
            Join::Closed => v1::JoinMode::Closed,
        }
        .into()
    }
}

/// What can be done with groups.
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// Create a group
    #[command(after_help = "Examples:
  sutler group create new-clients
  sutler group create kiosks --description 'the kiosks in the halls' --restricted
  sutler group create testers --join password --join-password-file ./password")]
    Create {
        /// Its name: 1 to 63 of a-z 0-9 and -
        #[arg(value_parser = names::group)]
        name: String,
        /// For people
        #[arg(long, default_value = "", hide_default_value = true)]
        description: String,
        /// What a client says of itself can't place it here
        #[arg(long)]
        restricted: bool,
        /// Who may join from a client
        #[arg(long, value_enum, default_value = "closed")]
        join: Join,
        /// The file whose first line is the password, for `--join password`; - for the standard input
        #[arg(long, value_name = "FILE", required_if_eq("join", "password"))]
        join_password_file: Option<PathBuf>,
    },
    /// List groups
    #[command(after_help = "Examples:
  sutler group list
  sutler group list -o csv")]
    List {
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show one group
    #[command(after_help = "Examples:
  sutler group show new-clients")]
    Show {
        /// The group
        #[arg(value_parser = names::group)]
        name: String,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Change what is given
    #[command(group = clap::ArgGroup::new("change").required(true).multiple(true).args(["description", "restricted", "join", "join_password_file"]),
        after_help = "Examples:
  sutler group update new-clients --description 'machines of this quarter'
  sutler group update new-clients --restricted true --join closed")]
    Update {
        /// The group
        #[arg(value_parser = names::group)]
        name: String,
        /// For people
        #[arg(long)]
        description: Option<String>,
        /// Whether what a client says of itself can place it here (false) or not (true)
        #[arg(long)]
        restricted: Option<bool>,
        /// Who may join from a client
        #[arg(long, value_enum)]
        join: Option<Join>,
        /// The file whose first line is the new password; - for the standard input
        #[arg(long, value_name = "FILE")]
        join_password_file: Option<PathBuf>,
        /// Only if the group still has this etag
        #[arg(long, default_value = "", hide_default_value = true)]
        etag: String,
    },
    /// Delete a group and its policies; refused while a job is active there, or one that is still to start excludes it
    #[command(after_help = "Examples:
  sutler group delete new-clients
  sutler group delete new-clients --force")]
    Delete {
        /// The group
        #[arg(value_parser = names::group)]
        name: String,
        /// Also then: the jobs lose this destination, or this exclusion
        #[arg(long)]
        force: bool,
        /// Confirms how many clients that reaches
        #[command(flatten)]
        confirm: ConfirmArg,
    },
    /// Add clients to a group: all or none
    #[command(after_help = "Examples:
  sutler group add new-clients CLIENT
  sutler group add new-clients web-1 label:site=berlin
  sutler group add new-clients --file machines.txt --skip-bad")]
    Add {
        /// The group
        #[arg(value_parser = names::group)]
        group: String,
        /// Clients: ids, host names, or label:KEY=VALUE for all that have the label
        #[arg(value_name = "CLIENT", required_unless_present = "file")]
        clients: Vec<String>,
        /// A file with one of them a line (lines that start with # are passed over); - for the standard input
        #[arg(long, value_name = "FILE", conflicts_with = "clients")]
        file: Option<PathBuf>,
        /// Leave out what is unknown or ambiguous instead of refusing all
        #[arg(long)]
        skip_bad: bool,
        /// Confirms how many clients that reaches
        #[command(flatten)]
        confirm: ConfirmArg,
    },
    /// Take clients out; they stay out, whatever policies say, until they are released or added again
    #[command(after_help = "Examples:
  sutler group remove new-clients CLIENT")]
    Remove {
        /// The group
        #[arg(value_parser = names::group)]
        group: String,
        /// The clients' ids
        #[arg(value_name = "CLIENT", required = true, value_parser = names::client)]
        clients: Vec<String>,
        /// Confirms how many clients that reaches
        #[command(flatten)]
        confirm: ConfirmArg,
    },
    /// Let policies put a client back that was taken out
    #[command(after_help = "Examples:
  sutler group release new-clients CLIENT")]
    Release {
        /// The group
        #[arg(value_parser = names::group)]
        group: String,
        /// The client's id
        #[arg(value_parser = names::client)]
        client: String,
    },
    /// Who is in a group, and how that came about
    #[command(after_help = "Examples:
  sutler group members new-clients
  sutler group members new-clients -o json")]
    Members {
        /// The group
        #[arg(value_parser = names::group)]
        group: String,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
}

impl Record for v1::Group {
    const TYPE: &'static str = "sutler.v1.Group";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("name", |g| names::short(&g.name).to_owned()),
        Column::new("members", |g| g.member_count.to_string()),
        Column::new("join", |g| word!(JoinMode, "JOIN_MODE", g.join_mode)),
        Column::new("restricted", |g| if g.restricted { "yes" } else { "no" }.to_owned()),
        Column::new("description", |g| g.description.clone()),
        Column::wide("created", |g| moment(&g.create_time)),
        Column::wide("uid", |g| g.uid.clone()),
        Column::wide("etag", |g| g.etag.clone()),
    ];
}

impl Record for v1::Membership {
    const TYPE: &'static str = "sutler.v1.Membership";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("client", |m| names::short(&m.client).to_owned()),
        Column::new("through", source),
        Column::new("since", |m| moment(&m.join_time)),
        Column::wide("group", |m| names::short(&m.group).to_owned()),
    ];
}

/// Runs a command of this noun.
pub async fn run(command: GroupCommand, session: &Session) -> Result<u8, CliError> {
    match command {
        GroupCommand::Create { name, description, restricted, join, join_password_file } => {
            let request = v1::CreateGroupRequest {
                group_id: names::short(&name).to_owned(),
                description,
                restricted,
                join_mode: join.wire(),
                join_password: join_password_file.map(|f| ask::read_secret(&f)).transpose()?.unwrap_or_default(),
                request_id: request_id()?,
            };
            let answer = call!(session, groups.create_group(request), "create the group {}", names::short(&name))?;
            session.done(&answer.group.unwrap_or_default().name, "created")?;
        }
        GroupCommand::List { output } => {
            let groups = pages!(session, groups.list_groups(v1::ListGroupsRequest::default()) -> groups, "list the groups");
            output::list(&groups, output.format)?;
        }
        GroupCommand::Show { name, output } => {
            let answer =
                call!(session, groups.get_group(v1::GetGroupRequest { name: name.clone() }), "show the group {}", names::short(&name))?;
            output::show(&answer.group.unwrap_or_default(), output.format)?;
        }
        GroupCommand::Update { name, description, restricted, join, join_password_file, etag } => {
            let tried = format!("update the group {}", names::short(&name));
            let request = v1::UpdateGroupRequest {
                name,
                description,
                restricted,
                join_mode: join.map(Join::wire),
                join_password: join_password_file.map(|f| ask::read_secret(&f)).transpose()?,
                etag,
                request_id: request_id()?,
            };
            let answer = call!(session, groups.update_group(request), "{tried}")?;
            session.done(&answer.group.unwrap_or_default().name, "updated")?;
        }
        GroupCommand::Delete { name, force, confirm } => {
            let request = v1::DeleteGroupRequest { name: name.clone(), force, request_id: request_id()?, confirm: confirm.confirm };
            let answer = call!(session, groups.delete_group(request), "delete the group {}", names::short(&name))?;
            let policies = names::words(&answer.deleted_policies);
            session.done(
                &name,
                &if policies.is_empty() { "deleted".to_owned() } else { format!("deleted, and with it the policies: {policies}") },
            )?;
        }
        GroupCommand::Add { group, clients, file, skip_bad, confirm } => add(session, group, clients, file, (skip_bad, confirm)).await?,
        GroupCommand::Remove { group, clients, confirm } => {
            let request = v1::RemoveMembersRequest { name: group.clone(), clients, request_id: request_id()?, confirm: confirm.confirm };
            let answer = call!(session, groups.remove_members(request), "take clients out of the group {}", names::short(&group))?;
            session.done(&group, &format!("{} taken out", answer.removed))?;
        }
        GroupCommand::Release { group, client } => {
            let request = v1::ReleaseMemberRequest { name: group.clone(), client: client.clone(), request_id: request_id()? };
            call!(session, groups.release_member(request), "release {client} for the group {}", names::short(&group))?;
            session.done(&client, &format!("policies may put it into {} again", names::short(&group)))?;
        }
        GroupCommand::Members { group, output } => {
            let request = v1::ListMembersRequest { name: group.clone(), ..Default::default() };
            let members = pages!(session, groups.list_members(request) -> members, "list the members of {}", names::short(&group));
            output::list(&members, output.format)?;
        }
    }
    Ok(0)
}

const HINT: &str = "a row is a client's id, a host name that one client has, or label:KEY=VALUE; --skip-bad leaves the bad rows out";

async fn add(
    session: &Session,
    group: String,
    clients: Vec<String>,
    file: Option<PathBuf>,
    (skip_bad, confirm): (bool, ConfirmArg),
) -> Result<(), CliError> {
    let (clients, lines) = match &file {
        Some(file) => {
            let rows = import::lines(&ask::read_text(file, import::FILE_MAX)?);
            if rows.is_empty() || rows.len() > limits::IMPORT_ROWS_MAX {
                let max = limits::IMPORT_ROWS_MAX;
                return Err(CliError::usage(format!("{} has {} rows; there must be 1 to {max}", file.display(), rows.len())));
            }
            let (lines, rows): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
            (rows, lines)
        }
        None => (clients, vec![]),
    };
    let count = clients.len();
    let request = v1::AddMembersRequest { name: group.clone(), clients, skip_bad, request_id: request_id()?, confirm: confirm.confirm };
    let answer = match (call!(session, groups.add_members(request), "add clients to the group {}", names::short(&group)), &file) {
        (Err(e), Some(file)) => return Err(import::with_lines(e, "clients", file, &lines, HINT)),
        (answer, _) => answer?,
    };
    for bad in &answer.skipped {
        let row = usize::try_from(bad.row).unwrap_or_default();
        let place = row.checked_sub(1).and_then(|i| lines.get(i)).map_or(format!("row {row}"), |line| format!("line {line}"));
        // What was left out is said even with --quiet: nobody else will.
        eprintln!("warning: {}", output::printable(&format!("{place} left out: {}: {}", bad.value, bad.reason)));
    }
    let sentence = match answer.skipped.len() {
        0 => format!("{} added", answer.added),
        left_out => format!("{} added, {left_out} of {count} rows left out", answer.added),
    };
    session.done(&group, &sentence)
}
