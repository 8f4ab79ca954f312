//! `sutler policy`: rules that register clients into a group by themselves.

use super::{
    approval::ConfirmArg,
    error::CliError,
    names,
    output::{self, Column, OutputArg, Record, word},
    session::{Session, call, pages, request_id},
    when::moment,
};
use clap::{Subcommand, ValueEnum};
use sutler_proto::v1;

/// Examples of the noun.
pub const EXAMPLES: &str = "Examples:
  sutler policy create all-linux --group new-clients --when 'facts.os.family == \"linux\"'
  sutler policy preview all-linux
  sutler policy apply all-linux";

/// What makes a policy look at a client.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Trigger {
    /// Once per client, when it is active and its first facts are in
    NewClient,
    /// Whenever its facts or labels change
    Inventory,
}

/// Which clients a policy means.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum AppliesTo {
    /// Clients that became active after the policy was made
    NewOnly,
    /// Those that were there already, too
    All,
}

/// What happens to a member that no longer matches.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum OnMismatch {
    /// It stays
    Keep,
    /// It leaves, if this policy had registered it
    Remove,
}

impl Trigger {
    fn wire(self) -> i32 {
        match self {
            Trigger::NewClient => v1::Trigger::NewClient,
            Trigger::Inventory => v1::Trigger::Inventory,
        }
        .into()
    }
}

impl AppliesTo {
    fn wire(self) -> i32 {
        match self {
            AppliesTo::NewOnly => v1::AppliesTo::NewOnly,
            AppliesTo::All => v1::AppliesTo::All,
        }
        .into()
    }
}

impl OnMismatch {
    fn wire(self) -> i32 {
        match self {
            OnMismatch::Keep => v1::OnMismatch::Keep,
            OnMismatch::Remove => v1::OnMismatch::Remove,
        }
        .into()
    }
}

/// What can be done with policies.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Create a policy
    #[command(after_help = "Examples:
  sutler policy create all-linux --group new-clients --when 'facts.os.family == \"linux\"'
  sutler policy create berlin --group berlin --trigger inventory --when 'labels.site == \"berlin\"'
  sutler policy create kiosks --group kiosks --when 'labels.kiosk == \"yes\"' --applies-to all
  sutler policy create everybody --group new-clients")]
    Create {
        /// Its name: 1 to 63 of a-z 0-9 and -
        #[arg(value_parser = names::policy)]
        name: String,
        /// The group that clients are registered into
        #[arg(long, value_parser = names::group)]
        group: String,
        /// What makes it look at a client
        #[arg(long, value_enum, default_value = "new-client")]
        trigger: Trigger,
        /// The condition: a CEL expression over facts, labels, answers and client [default: every client]
        #[arg(long, value_name = "CEL", default_value = "", hide_default_value = true)]
        when: String,
        /// Which clients it means
        #[arg(long, value_enum, default_value = "new-only")]
        applies_to: AppliesTo,
        /// What happens to a member that no longer matches
        #[arg(long, value_enum, default_value = "keep")]
        on_mismatch: OnMismatch,
        /// For people
        #[arg(long, default_value = "", hide_default_value = true)]
        description: String,
        /// Confirms how many clients that reaches
        #[command(flatten)]
        confirm: ConfirmArg,
    },
    /// List policies
    #[command(after_help = "Examples:
  sutler policy list
  sutler policy list --group new-clients")]
    List {
        /// Only this group's
        #[arg(long, value_parser = names::group)]
        group: Option<String>,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show one policy
    #[command(after_help = "Examples:
  sutler policy show all-linux")]
    Show {
        /// The policy
        #[arg(value_parser = names::policy)]
        name: String,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Change what is given; group and trigger stay as they are
    #[command(group = clap::ArgGroup::new("change").required(true).multiple(true).args(["when", "applies_to", "on_mismatch", "description"]),
        after_help = "Examples:
  sutler policy update all-linux --when 'facts.arch in [\"x86_64\", \"aarch64\"]'")]
    Update {
        /// The policy
        #[arg(value_parser = names::policy)]
        name: String,
        /// The new condition; '' for every client
        #[arg(long, value_name = "CEL")]
        when: Option<String>,
        /// Which clients it means
        #[arg(long, value_enum)]
        applies_to: Option<AppliesTo>,
        /// What happens to a member that no longer matches
        #[arg(long, value_enum)]
        on_mismatch: Option<OnMismatch>,
        /// For people
        #[arg(long)]
        description: Option<String>,
        /// Only if the policy still has this etag
        #[arg(long, default_value = "", hide_default_value = true)]
        etag: String,
        /// Confirms how many clients that reaches
        #[command(flatten)]
        confirm: ConfirmArg,
    },
    /// Delete a policy; the members that it registered stay
    #[command(after_help = "Examples:
  sutler policy delete all-linux")]
    Delete {
        /// The policy
        #[arg(value_parser = names::policy)]
        name: String,
    },
    /// Who would match, and why; changes nothing
    #[command(after_help = "Examples:
  sutler policy preview all-linux
  sutler policy preview --group new-clients --when 'facts.memory.total_bytes >= 8000000000' --all")]
    Preview {
        /// A policy that exists
        #[arg(value_parser = names::policy, required_unless_present = "group", conflicts_with_all = ["when", "group"])]
        name: Option<String>,
        /// Or a condition to try
        #[arg(long, value_name = "CEL", requires = "group")]
        when: Option<String>,
        /// For this group
        #[arg(long, value_parser = names::group)]
        group: Option<String>,
        /// Clients that do not match, too
        #[arg(long)]
        all: bool,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Register the clients that exist already and match
    #[command(after_help = "Examples:
  sutler policy apply all-linux
  sutler policy apply all-linux berlin")]
    Apply {
        /// The policies; every client is looked at once for all of them
        #[arg(value_parser = names::policy, required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Confirms how many clients that reaches
        #[command(flatten)]
        confirm: ConfirmArg,
    },
}

impl Record for v1::Policy {
    const TYPE: &'static str = "sutler.v1.Policy";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("name", |p| names::short(&p.name).to_owned()),
        Column::new("group", |p| names::short(&p.group).to_owned()),
        Column::new("trigger", |p| word!(Trigger, "TRIGGER", p.trigger)),
        Column::new("applies_to", |p| word!(AppliesTo, "APPLIES_TO", p.applies_to)),
        Column::new("on_mismatch", |p| word!(OnMismatch, "ON_MISMATCH", p.on_mismatch)),
        Column::new("condition", |p| if p.condition.is_empty() { "(every client)".to_owned() } else { p.condition.clone() }),
        Column::wide("description", |p| p.description.clone()),
        Column::wide("created", |p| moment(&p.create_time)),
        Column::wide("uid", |p| p.uid.clone()),
        Column::wide("etag", |p| p.etag.clone()),
    ];
}

impl Record for v1::PolicyMatch {
    const TYPE: &'static str = "sutler.v1.PolicyMatch";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("client", |m| names::short(&m.client).to_owned()),
        Column::new("hostname", |m| m.hostname.clone()),
        Column::new("matches", |m| if m.matches { "yes" } else { "no" }.to_owned()),
        Column::new("would_join", |m| if m.would_join { "yes" } else { "no" }.to_owned()),
        Column::new("why", |m| m.why.join("; ")),
    ];
}

/// Runs a command of this noun.
pub async fn run(command: PolicyCommand, session: &Session) -> Result<u8, CliError> {
    match command {
        PolicyCommand::Create { name, group, trigger, when, applies_to, on_mismatch, description, confirm } => {
            let sentence = format!("created: registers clients into {}", names::short(&group));
            let request = v1::CreatePolicyRequest {
                policy_id: names::short(&name).to_owned(),
                group,
                trigger: trigger.wire(),
                condition: when,
                applies_to: applies_to.wire(),
                on_mismatch: on_mismatch.wire(),
                description,
                request_id: request_id()?,
                confirm: confirm.confirm,
            };
            let answer = call!(session, policies.create_policy(request), "create the policy {}", names::short(&name))?;
            session.done(&answer.policy.unwrap_or_default().name, &sentence)?;
        }
        PolicyCommand::List { group, output } => {
            let request = v1::ListPoliciesRequest { group: group.unwrap_or_default(), ..Default::default() };
            let policies = pages!(session, policies.list_policies(request) -> policies, "list the policies");
            output::list(&policies, output.format)?;
        }
        PolicyCommand::Show { name, output } => {
            let request = v1::GetPolicyRequest { name: name.clone() };
            let answer = call!(session, policies.get_policy(request), "show the policy {}", names::short(&name))?;
            output::show(&answer.policy.unwrap_or_default(), output.format)?;
        }
        PolicyCommand::Update { name, when, applies_to, on_mismatch, description, etag, confirm } => {
            let tried = format!("update the policy {}", names::short(&name));
            let request = v1::UpdatePolicyRequest {
                name,
                condition: when,
                applies_to: applies_to.map(AppliesTo::wire),
                on_mismatch: on_mismatch.map(OnMismatch::wire),
                description,
                etag,
                request_id: request_id()?,
                confirm: confirm.confirm,
            };
            let answer = call!(session, policies.update_policy(request), "{tried}")?;
            session.done(&answer.policy.unwrap_or_default().name, "updated")?;
        }
        PolicyCommand::Delete { name } => {
            let request = v1::DeletePolicyRequest { name: name.clone(), request_id: request_id()? };
            call!(session, policies.delete_policy(request), "delete the policy {}", names::short(&name))?;
            session.done(&name, "deleted; its members stay")?;
        }
        PolicyCommand::Preview { name, when, group, all, output } => {
            let request = v1::PreviewPolicyRequest {
                name: name.unwrap_or_default(),
                condition: when.unwrap_or_default(),
                group: group.unwrap_or_default(),
                ..Default::default()
            };
            let mut clients = pages!(session, policies.preview_policy(request) -> clients, "preview the policy");
            let (seen, matching) = (clients.len(), clients.iter().filter(|c| c.matches).count());
            let joining = clients.iter().filter(|c| c.would_join).count();
            clients.retain(|c| all || c.matches);
            output::list(&clients, output.format)?;
            session.tell(&format!("{matching} of {seen} clients match, {joining} would join"));
        }
        PolicyCommand::Apply { names, confirm } => {
            let request = v1::ApplyPoliciesRequest { names: names.clone(), request_id: request_id()?, confirm: confirm.confirm };
            let short: Vec<&str> = names.iter().map(|name| names::short(name)).collect();
            let answer = call!(session, policies.apply_policies(request), "apply the policies {}", short.join(", "))?;
            for applied in answer.policies {
                session.done(&applied.policy, &format!("{} clients match, {} added", applied.matched, applied.added))?;
            }
        }
    }
    Ok(0)
}
