//! `sutler client`: managed machines.

use super::{
    approval::ConfirmArg,
    ask::confirm,
    columns::{self, Wanted},
    error::CliError,
    label::{self, LabelCommand},
    names,
    output::{self, Column, Format, OutputArg, Record, word},
    session::{Session, call, pages, request_id},
    when::{self, moment},
};
use clap::Subcommand;
use std::time::Duration;
use sutler_proto::{convert::json_struct, v1};

/// Examples of the noun.
pub const EXAMPLES: &str = "Examples:
  sutler client list
  sutler client explain CLIENT
  sutler client list --filter 'client.presence == \"OVERDUE\"'
  sutler client approve --filter 'labels.site == \"berlin\"'";

/// From how many seconds on `explain` says that a clock is off.
const SKEW_NOTED: i64 = 60;

/// What can be done with clients. A client is named by its id; host names are what machines say of themselves.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// List clients, the oldest first
    #[command(after_help = "Examples:
  sutler client list
  sutler client list --group new-clients --filter 'facts.os.family == \"linux\"'
  sutler client list --filter 'client.state == \"PENDING\"' -o csv
  sutler client list --columns id,hostname,facts.os.pretty_name,labels.site")]
    List {
        /// Only clients for which this condition holds: CEL over facts, labels, answers and client, as in a policy
        #[arg(long, value_name = "CEL", default_value = "", hide_default_value = true)]
        filter: String,
        /// Only members of this group
        #[arg(long, value_parser = names::group)]
        group: Option<String>,
        /// Removed clients, too
        #[arg(long)]
        all: bool,
        /// Archived clients, too
        #[arg(long)]
        archived: bool,
        /// Only these columns, in this order: those of -o csv, facts.PATH, labels.KEY and answers.NAME
        #[arg(long, value_name = "COLUMN,…", value_delimiter = ',', value_parser = columns::wanted)]
        columns: Vec<Wanted>,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show one client with its labels and facts
    #[command(after_help = "Examples:
  sutler client show CLIENT
  sutler client show CLIENT -o json")]
    Show {
        /// The client's id
        #[arg(value_parser = names::client)]
        client: String,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Let pending clients in: those named, or all that a filter matches
    #[command(after_help = "Examples:
  sutler client approve CLIENT
  sutler client approve --filter 'labels.site == \"berlin\"'
  sutler client approve CLIENT --machine 4c4c4544004b3510")]
    Approve {
        /// The clients' ids
        #[arg(value_name = "CLIENT", value_parser = names::client, required_unless_present = "filter", conflicts_with = "filter")]
        clients: Vec<String>,
        /// All pending clients for which this condition holds
        #[arg(long, value_name = "CEL")]
        filter: Option<String>,
        /// For a client that is quarantined as a copy: the machine that keeps the identity
        #[arg(long, value_name = "MACHINE", conflicts_with = "filter")]
        machine: Option<String>,
        /// Confirms how many clients that brings within reach of jobs
        #[command(flatten)]
        confirm: ConfirmArg,
    },
    /// Give a client no more work and no bytes until it is released
    #[command(after_help = "Examples:
  sutler client quarantine CLIENT --reason 'the disk is failing'")]
    Quarantine {
        /// The client's id
        #[arg(value_parser = names::client)]
        client: String,
        /// Why; it is shown with the client
        #[arg(long)]
        reason: String,
    },
    /// End a quarantine
    #[command(after_help = "Examples:
  sutler client release CLIENT")]
    Release {
        /// The client's id
        #[arg(value_parser = names::client)]
        client: String,
    },
    /// Remove a client for ever: its certificate is refused, its memberships end, its open work is canceled
    #[command(after_help = "Examples:
  sutler client remove CLIENT
  sutler client remove CLIENT --yes")]
    Remove {
        /// The client's id
        #[arg(value_parser = names::client)]
        client: String,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Take a client out of the lists and out of the reach of jobs until it connects again; its groups stay
    #[command(after_help = "Examples:
  sutler client archive CLIENT
  sutler client list --archived")]
    Archive {
        /// The client's id
        #[arg(value_parser = names::client)]
        client: String,
    },
    /// Take an archived client back before it connects
    #[command(after_help = "Examples:
  sutler client unarchive CLIENT")]
    Unarchive {
        /// The client's id
        #[arg(value_parser = names::client)]
        client: String,
    },
    /// Why a client is in its groups, and what each of its jobs waits for
    #[command(after_help = "Examples:
  sutler client explain CLIENT")]
    Explain {
        /// The client's id
        #[arg(value_parser = names::client)]
        client: String,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Labels: what operators say about clients
    #[command(subcommand, after_help = label::EXAMPLES)]
    Label(LabelCommand),
}

impl Record for v1::Client {
    const TYPE: &'static str = "sutler.v1.Client";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("id", |c| names::short(&c.name).to_owned()),
        Column::new("hostname", |c| c.hostname.clone()),
        Column::new("state", |c| word!(ClientState, "CLIENT_STATE", c.state)),
        Column::new("presence", |c| word!(Presence, "PRESENCE", c.presence)),
        Column::new("last_seen", |c| moment(&c.last_seen_time)),
        Column::new("groups", |c| names::words(&c.groups)),
        Column::new("labels", |c| sorted(&c.labels)),
        Column::wide("kind", |c| word!(ClientKind, "CLIENT_KIND", c.kind)),
        Column::wide("address", |c| c.address.clone()),
        Column::wide("enrolled", |c| moment(&c.enroll_time)),
        Column::wide("active_since", |c| moment(&c.active_time)),
        Column::wide("token", |c| names::short(&c.token).to_owned()),
        Column::wide("agent_version", |c| c.agent_version.clone()),
        Column::wide("machine_id", |c| c.machine_id.clone()),
        Column::wide("duplicate_of", |c| names::short(&c.duplicate_of).to_owned()),
        Column::wide("duplicates", |c| names::words(&c.duplicates)),
        Column::wide("site", |c| c.site.clone()),
        Column::wide("notice", |c| c.notice.clone()),
        Column::wide("machines", machines),
        Column::wide("clock_skew", |c| skew(c).unwrap_or_default()),
        Column::wide("replaced", |c| moment(&c.replace_time)),
        Column::wide("archived", |c| moment(&c.archive_time)),
        Column::wide("facts_time", |c| moment(&c.facts_time)),
        Column::wide("answers", |c| sorted(&c.answers)),
    ];
}

/// The machines that have the client's key, where that are several.
fn machines(client: &v1::Client) -> String {
    let of = |m: &v1::ClientMachine| {
        let kept = if m.kept { ", the one that was chosen" } else { "" };
        format!("{} (start {}, from {}, seen {}{kept})", m.machine_id, m.boot_id, m.address, moment(&m.see_time))
    };
    client.machines.iter().map(of).collect::<Vec<_>>().join("; ")
}

/// How far off the machine's clock is, from a second on.
fn skew(client: &v1::Client) -> Option<String> {
    let seconds = client.clock_skew.as_ref()?.seconds;
    let word = if seconds > 0 { "ahead" } else { "behind" };
    (seconds != 0).then(|| format!("{} {word}", when::span(Duration::from_secs(seconds.unsigned_abs()))))
}

/// `k=v` pairs in the order of their keys.
pub fn sorted(map: &std::collections::HashMap<String, String>) -> String {
    let mut pairs: Vec<_> = map.iter().map(|(k, v)| format!("{k}={v}")).collect();
    pairs.sort();
    pairs.join(" ")
}

/// Runs a command of this noun.
pub async fn run(command: ClientCommand, session: &Session) -> Result<u8, CliError> {
    match command {
        ClientCommand::List { filter, group, all, archived, columns, output } => {
            let request = v1::ListClientsRequest {
                filter,
                group: group.unwrap_or_default(),
                show_removed: all,
                show_archived: archived,
                ..Default::default()
            };
            let clients = pages!(session, clients.list_clients(request) -> clients, "list the clients");
            if columns.is_empty() {
                output::list(&clients, output.format)?;
            } else {
                output::print(&columns::list_text(&clients, &columns, output.format))?;
            }
        }
        ClientCommand::Show { client, output } => {
            let answer = call!(session, clients.get_client(v1::GetClientRequest { name: client.clone() }), "show the client {client}")?;
            show(&answer.client.unwrap_or_default(), output.format)?;
        }
        ClientCommand::Approve { clients, filter, machine, confirm } => {
            let request = v1::ApproveClientsRequest {
                names: clients,
                filter: filter.unwrap_or_default(),
                machine_id: machine.unwrap_or_default(),
                request_id: request_id()?,
                confirm: confirm.confirm,
            };
            let answer = call!(session, clients.approve_clients(request), "approve clients")?;
            for name in &answer.names {
                session.done(name, "approved")?;
            }
            if answer.names.is_empty() {
                session.tell("no pending client was approved");
            }
        }
        ClientCommand::Quarantine { client, reason } => {
            let request = v1::QuarantineClientRequest { name: client.clone(), reason, request_id: request_id()? };
            let answer = call!(session, clients.quarantine_client(request), "quarantine the client {client}")?;
            changed(session, answer.client)?;
        }
        ClientCommand::Release { client } => {
            let request = v1::ReleaseClientRequest { name: client.clone(), request_id: request_id()? };
            let answer = call!(session, clients.release_client(request), "release the client {client}")?;
            changed(session, answer.client)?;
        }
        ClientCommand::Remove { client, yes } => {
            if !yes {
                let answer =
                    call!(session, clients.get_client(v1::GetClientRequest { name: client.clone() }), "remove the client {client}")?;
                let hostname = answer.client.unwrap_or_default().hostname;
                confirm(&format!("Remove {client} ({hostname}) for ever? It will have to enrol again."), yes)?;
            }
            let request = v1::RemoveClientRequest { name: client.clone(), request_id: request_id()? };
            let answer = call!(session, clients.remove_client(request), "remove the client {client}")?;
            changed(session, answer.client)?;
        }
        ClientCommand::Archive { client } => {
            let request = v1::ArchiveClientRequest { name: client.clone(), request_id: request_id()? };
            let answer = call!(session, clients.archive_client(request), "archive the client {client}")?;
            let client = answer.client.unwrap_or_default();
            session.done(&client.name, &format!("{} archived", client.hostname))?;
        }
        ClientCommand::Unarchive { client } => {
            let request = v1::UnarchiveClientRequest { name: client.clone(), request_id: request_id()? };
            let answer = call!(session, clients.unarchive_client(request), "take the client {client} back")?;
            changed(session, answer.client)?;
        }
        ClientCommand::Explain { client, output } => {
            let request = v1::ExplainClientRequest { name: client.clone() };
            let answer = call!(session, clients.explain_client(request), "explain the client {client}")?;
            explain(&answer, output.format)?;
        }
        ClientCommand::Label(command) => label::run(command, session).await?,
    }
    Ok(0)
}

fn changed(session: &Session, client: Option<v1::Client>) -> Result<(), CliError> {
    let client = client.unwrap_or_default();
    session.done(&client.name, &format!("{} {}", client.hostname, word!(ClientState, "CLIENT_STATE", client.state)))
}

/// A client; in the view for people its facts too, each under the name that conditions use.
fn show(client: &v1::Client, format: Format) -> Result<(), CliError> {
    let mut text = output::show_text(client, format);
    if format == Format::Table
        && let Some(facts) = &client.facts
    {
        let mut pairs = Vec::new();
        flatten("facts", &json_struct(facts), &mut pairs);
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        text.push('\n');
        text.push_str(
            &pairs.iter().map(|(name, value)| format!("{}: {}\n", output::printable(name), output::printable(value))).collect::<String>(),
        );
    }
    output::print(&text)
}

/// How many items of a list of objects are shown: installed software can be thousands.
const ITEMS_SHOWN: usize = 20;

fn flatten(path: &str, value: &serde_json::Value, pairs: &mut Vec<(String, String)>) {
    use serde_json::Value;
    match value {
        Value::Object(members) => members.iter().for_each(|(name, value)| flatten(&format!("{path}.{name}"), value, pairs)),
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (n, item) in items.iter().take(ITEMS_SHOWN).enumerate() {
                pairs.push((format!("{path}[{n}]"), item.to_string()));
            }
            if items.len() > ITEMS_SHOWN {
                pairs.push((path.to_owned(), format!("… and {} more; -o json shows all", items.len() - ITEMS_SHOWN)));
            }
        }
        Value::String(text) => pairs.push((path.to_owned(), text.clone())),
        other => pairs.push((path.to_owned(), other.to_string())),
    }
}

impl Record for v1::ExplainClientResponse {
    const TYPE: &'static str = "sutler.v1.ExplainClientResponse";
    const COLUMNS: &'static [Column<Self>] = &[];
}

/// What put a client into a group: `policy all-linux`.
pub fn source(member: &v1::Membership) -> String {
    let kind = word!(Source, "SOURCE", member.source).to_ascii_lowercase();
    let name = names::short(&member.source_name);
    if name.is_empty() { kind } else { format!("{kind} {name}") }
}

fn explain(answer: &v1::ExplainClientResponse, format: Format) -> Result<(), CliError> {
    if format == Format::Json {
        return output::print(&output::json_text(&output::json_of(answer)));
    }
    let mut rows: Vec<Vec<String>> = Vec::new();
    for m in &answer.memberships {
        rows.push(vec![
            "group".into(),
            names::short(&m.group).into(),
            source(m),
            "member".into(),
            moment(&m.join_time),
            String::new(),
            String::new(),
        ]);
    }
    for p in &answer.policies {
        let state = if p.matches { "matches" } else { "does not match" };
        rows.push(vec![
            "policy".into(),
            names::short(&p.policy).into(),
            p.group.clone(),
            state.into(),
            String::new(),
            p.sentence.clone(),
            String::new(),
        ]);
    }
    for j in &answer.jobs {
        let packages = j.packages.iter().map(|p| names::package_word(p)).collect::<Vec<_>>().join(" ");
        let state = word!(ExecutionState, "EXECUTION_STATE", j.state);
        let name = format!("{} {packages}", names::short(&j.job));
        let awaits = if j.awaits == 0 { String::new() } else { word!(Awaited, "AWAITED", j.awaits) };
        rows.push(vec!["job".into(), name, j.destination.clone(), state, moment(&j.enter_time), j.sentence.clone(), awaits]);
    }
    if format == Format::Csv {
        return output::rows(&["kind", "name", "through", "state", "since", "sentence", "awaits"], &rows, format);
    }
    let client = answer.client.clone().unwrap_or_default();
    let state = word!(ClientState, "CLIENT_STATE", client.state);
    let seen = moment(&client.last_seen_time);
    let contact = match v1::Presence::try_from(client.presence) {
        Ok(v1::Presence::Online) => "online".to_owned(),
        Ok(v1::Presence::Overdue) => format!("overdue, last seen {seen}"),
        _ => format!("last seen {seen}"),
    };
    let mut text = output::printable(&format!("{}  {}  {state}, {contact}", client.name, client.hostname)) + "\n";
    if !client.notice.is_empty() {
        text.push_str(&format!("notice: {}\n", output::printable(&client.notice)));
    }
    if client.archive_time.is_some() {
        text.push_str(&format!("archived: {}, until it connects again\n", moment(&client.archive_time)));
    }
    if let Some(other) = client.duplicates.first() {
        let other = names::short(other);
        text.push_str(&format!(
            "duplicates: {}, by the host name and the hardware; if it is gone for good: sutler client remove {other}\n",
            names::words(&client.duplicates)
        ));
    }
    if !client.machines.is_empty() {
        text.push_str(&format!("machines: {}\n", output::printable(&machines(&client))));
    }
    if let Some(skew) = skew(&client).filter(|_| client.clock_skew.is_some_and(|s| s.seconds.abs() >= SKEW_NOTED)) {
        text.push_str(&format!("clock: {skew}, when it last connected; its certificate and its schedules go by the manager's clock\n"));
    }
    for (kind, title, none) in [
        ("group", "In these groups", "It is in no group."),
        ("policy", "Policies", "There is no policy."),
        ("job", "Jobs", "No job reaches it."),
    ] {
        let of_kind: Vec<_> = rows.iter().filter(|row| row[0] == kind).collect();
        text.push_str(&format!("\n{}\n", if of_kind.is_empty() { none } else { title }));
        for row in of_kind {
            let since = if row[4].is_empty() { String::new() } else { format!(", since {}", row[4]) };
            let awaits = if row[6].is_empty() { String::new() } else { format!(" ({})", row[6]) };
            let line = match kind {
                "group" => format!("  {}: by {}{since}", row[1], row[2]),
                "policy" => format!("  {} (into {}): {}", row[1], names::short(&row[2]), row[3]),
                _ if row[2].is_empty() => format!("  {} (no longer reached): {}{awaits}{since}", row[1], row[3]),
                _ => format!("  {} (through {}): {}{awaits}{since}", row[1], row[2], row[3]),
            };
            text.push_str(&output::printable(&line));
            text.push('\n');
            if !row[5].is_empty() {
                text.push_str(&format!("    {}\n", output::printable(&row[5])));
            }
        }
    }
    output::print(&text)
}
