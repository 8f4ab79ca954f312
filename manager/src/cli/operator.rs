//! `sutler operator`: people and programs that administer.

use super::{
    ask::confirm,
    bundle::{self, Bundle},
    error::CliError,
    names,
    output::{self, Column, OutputArg, Record},
    session::{Session, call, pages, request_id},
    when::{self, moment},
};
use crate::{
    config::{self, Config, Overrides},
    folder::Folder,
    local::{self, Question, Told},
    world::World,
};
use clap::Subcommand;
use std::path::{Path, PathBuf};
use sutler_base::{OperatorName, state::Role};
use sutler_certs::{CaBundle, ca::Authority, pem};
use sutler_proto::{convert::Word, v1};

/// Examples of the noun.
pub const EXAMPLES: &str = "Examples:
  sutler operator show
  sutler operator create bea --role deployer:new-clients --request bea.request -o bea.bundle
  sutler operator list
  sutler operator revoke bea --yes

Roles: viewer (reads), auditor (reads the audit log), enroller (lets machines in), uploader (packages), deployer (jobs, groups,
policies), approver (second person), admin (everything). ROLE:GROUP,… limits where its jobs may run.";

/// The roles on the command line.
#[derive(Debug, clap::Args)]
pub struct Roles {
    /// What the operator may do: viewer, auditor, enroller, uploader, deployer, approver or admin; after a colon, the groups
    /// where its jobs may run
    #[arg(long = "role", value_name = "ROLE[:GROUP,…]", required = true, value_parser = grant)]
    roles: Vec<v1::RoleGrant>,
}

/// What can be done with operators.
#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Make an operator from the request of its profile
    ///
    /// The key never leaves the new operator's machine: `sutler profile request` there writes a request, this command makes
    /// a bundle of it, and `sutler profile import` there takes the bundle.
    #[command(after_help = "Examples:
  sutler operator create bea --role deployer:new-clients --request bea.request -o bea.bundle
  sutler operator create ci --role uploader --request ci.request > ci.bundle")]
    Create {
        /// The operator's name, for ever
        #[arg(value_parser = names::operator)]
        name: String,
        /// What it may do
        #[command(flatten)]
        roles: Roles,
        /// What `sutler profile request` wrote; - for the standard input
        #[arg(long, value_name = "FILE")]
        request: PathBuf,
        /// Where to write the bundle for `sutler profile import` [default: the standard output]
        #[arg(short = 'o', long = "output", value_name = "BUNDLE")]
        output: Option<PathBuf>,
    },
    /// List operators, those that were revoked among them
    #[command(after_help = "Examples:
  sutler operator list
  sutler operator list -o csv")]
    List {
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show an operator; without a name who you are to the manager, and until when your certificate is good
    #[command(after_help = "Examples:
  sutler operator show
  sutler operator show bea -o json")]
    Show {
        /// The operator [default: you]
        #[arg(value_parser = names::operator)]
        name: Option<String>,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Give an operator other roles, in place of those that it has, or another budget
    #[command(after_help = "Examples:
  sutler operator update bea --role deployer --role viewer
  sutler operator update bea --role deployer:new-clients,servers
  sutler operator update bea --budget 500/h")]
    Update {
        /// The operator
        #[arg(value_parser = names::operator)]
        name: String,
        /// What it may do from now on, as with `operator create`
        #[arg(long = "role", value_name = "ROLE[:GROUP,…]", value_parser = grant, required_unless_present = "budget")]
        roles: Vec<v1::RoleGrant>,
        /// How many clients its jobs let go within an hour, over all of them but those that stand, which have as many each; 0/h for any
        #[arg(long, value_name = "N/h", value_parser = when::per_hour)]
        budget: Option<i32>,
    },
    /// Cut operators off for ever, within seconds, also what they watch
    #[command(after_help = "Examples:
  sutler operator revoke bea --yes")]
    Revoke {
        /// The operators
        #[arg(value_name = "NAME", required = true, value_parser = names::operator)]
        operators: Vec<String>,
        /// Don't ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Give an operator whose key was lost a certificate for a new one; the old ones are revoked
    ///
    /// Another administrator can, or with --dir whoever has the manager's folder, on its host: also when no administrator is left.
    #[command(after_help = "Examples:
  sutler operator issue bea --request bea.request -o bea.bundle
  sutler operator issue ann --dir D --request ann.request -o ann.bundle")]
    Issue {
        /// The operator
        #[arg(value_parser = names::operator)]
        name: String,
        /// What `sutler profile request` wrote; - for the standard input
        #[arg(long, value_name = "FILE")]
        request: PathBuf,
        /// Where to write the bundle for `sutler profile import` [default: the standard output]
        #[arg(short = 'o', long = "output", value_name = "BUNDLE")]
        output: Option<PathBuf>,
        /// The manager's folder, on its host: no profile is needed
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// `ROLE` or `ROLE:GROUP,GROUP…`
fn grant(text: &str) -> Result<v1::RoleGrant, String> {
    let (role, groups) = match text.split_once(':') {
        Some((role, groups)) => (role, groups.split(',').map(names::group).collect::<Result<Vec<_>, _>>()?),
        None => (text, vec![]),
    };
    let known = || Role::ALL.iter().map(|r| r.as_str().to_ascii_lowercase()).collect::<Vec<_>>().join(", ");
    let role: Role =
        role.to_ascii_uppercase().parse().map_err(|_| format!("a role is one of {}, not {}", known(), sutler_base::quoted(role)))?;
    Ok(v1::RoleGrant { role: role.to_wire(), scoped: !groups.is_empty(), groups })
}

/// The roles as the command line takes them; one whose groups are all gone reaches nothing.
pub(super) fn roles(grants: &[v1::RoleGrant]) -> String {
    let word = |g: &v1::RoleGrant| {
        let role = Role::from_wire(g.role).ok().flatten().map_or_else(|| "?".into(), |r| r.as_str().to_ascii_lowercase());
        match (g.scoped, g.groups.is_empty()) {
            (false, _) => role,
            (true, true) => format!("{role}:(groups that were deleted)"),
            (true, false) => format!("{role}:{}", g.groups.iter().map(|g| names::short(g)).collect::<Vec<_>>().join(",")),
        }
    };
    grants.iter().map(word).collect::<Vec<_>>().join(" ")
}

impl Record for v1::GetSelfResponse {
    const TYPE: &'static str = "sutler.v1.GetSelfResponse";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("operator", |s| names::short(&s.name).to_owned()),
        Column::new("roles", |s| roles(&s.roles)),
        Column::new("certificate_expires", |s| moment(&s.certificate_expire_time)),
        Column::new("trust_domain", |s| s.trust_domain.clone()),
        Column::new("manager_version", |s| s.manager_version.clone()),
    ];
}

impl Record for v1::Operator {
    const TYPE: &'static str = "sutler.v1.Operator";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("operator", |o| names::short(&o.name).to_owned()),
        Column::new("roles", |o| roles(&o.roles)),
        Column::new("created", |o| moment(&o.create_time)),
        Column::new("creator", |o| names::short(&o.creator).to_owned()),
        Column::new("revoked", |o| moment(&o.revoke_time)),
        Column::wide("budget", |o| o.budget.map(|n| format!("{n}/h")).unwrap_or_default()),
    ];
}

/// Runs a command of this noun.
pub async fn run(command: OperatorCommand, session: &Session) -> Result<u8, CliError> {
    match command {
        OperatorCommand::Create { name, roles, request, output } => {
            let request = v1::CreateOperatorRequest {
                operator_id: names::short(&name).to_owned(),
                roles: roles.roles,
                csr: bundle::read_request(&request)?.into(),
                request_id: request_id()?,
            };
            let answer = call!(session, operators.create_operator(request), "make the operator {}", names::short(&name))?;
            give(session, &name, answer.certificates, output)?;
        }
        OperatorCommand::List { output } => {
            let request = v1::ListOperatorsRequest::default();
            let operators = pages!(session, operators.list_operators(request) -> operators, "list the operators");
            output::list(&operators, output.format)?;
        }
        OperatorCommand::Show { name: None, output } => {
            let answer = call!(session, operators.get_self(v1::GetSelfRequest {}), "ask who you are")?;
            output::show(&answer, output.format)?;
        }
        OperatorCommand::Show { name: Some(name), output } => {
            let request = v1::GetOperatorRequest { name: name.clone() };
            let answer = call!(session, operators.get_operator(request), "show the operator {}", names::short(&name))?;
            output::show(&answer.operator.unwrap_or_default(), output.format)?;
        }
        OperatorCommand::Update { name, roles: wanted, budget } => {
            let request =
                v1::UpdateOperatorRequest { name: name.clone(), roles: wanted, etag: String::new(), request_id: request_id()?, budget };
            let answer = call!(session, operators.update_operator(request), "change the operator {}", names::short(&name))?;
            let operator = answer.operator.unwrap_or_default();
            let budget = operator.budget.map(|n| format!(", lets {n} clients go within an hour")).unwrap_or_default();
            session.done(&name, &format!("{}{budget}", roles(&operator.roles)))?;
        }
        OperatorCommand::Revoke { operators, yes } => {
            confirm(&format!("Cut off {} for ever? The name is not free again.", names::words(&operators)), yes)?;
            for name in operators {
                let request = v1::RevokeOperatorRequest { name: name.clone(), request_id: request_id()? };
                call!(session, operators.revoke_operator(request), "revoke the operator {}", names::short(&name))?;
                session.done(&name, "revoked")?;
            }
        }
        OperatorCommand::Issue { name, request, output, dir: Some(dir) } => {
            issue_here(session, &name, &request, &dir, output).await?;
        }
        OperatorCommand::Issue { name, request, output, dir: None } => {
            let request = v1::IssueOperatorCertificateRequest {
                name: name.clone(),
                csr: bundle::read_request(&request)?.into(),
                request_id: request_id()?,
            };
            let tried = format!("issue a certificate for the operator {}", names::short(&name));
            let answer = call!(session, operators.issue_operator_certificate(request), "{tried}")?;
            give(session, &name, answer.certificates, output)?;
        }
    }
    Ok(0)
}

/// Issues a certificate on the manager's host, through its folder.
async fn issue_here(session: &Session, name: &str, request: &Path, dir: &Path, output: Option<PathBuf>) -> Result<(), CliError> {
    let tried = format!("issue a certificate for the operator {}", names::short(name));
    let failed = |e: &dyn std::error::Error| CliError::local(tried.clone(), e);
    let folder = Folder::open(dir).map_err(|e| failed(&e))?;
    let config = Config::load(folder, &Overrides::default()).map_err(|e| failed(&e))?;
    let ca = {
        let _lock = config.folder.lock_ca().map_err(|e| failed(&e))?;
        CaBundle::load(&config.folder.ca()).map_err(|e| failed(&e))?
    };
    let operator: OperatorName = names::short(name).parse().map_err(|e: sutler_base::Invalid| failed(&e))?;
    let question = Question::IssueOperator {
        name: operator,
        request: pem::encode("CERTIFICATE REQUEST", &bundle::read_request(request)?).to_string(),
    };
    let certificates = match local::ask(&config, question, World::system()).await.map_err(|e| failed(&e))? {
        Told::Issued { certificates } => certificates,
        Told::Refused { why } => return Err(CliError::Local { tried, why, hint: None }),
    };
    let address = match (&session.globals().address, config.hosts.first()) {
        (Some(address), _) => address.clone(),
        (None, Some(host)) => config::address(host, config.operators.port()),
        (None, None) => String::new(),
    };
    let bundle = Bundle {
        operator: names::short(name).to_owned(),
        address,
        trust_domain: config.trust_domain.to_string(),
        root: ca.certificate(Authority::Root).clone(),
        chain: pem::parse_chain(certificates.as_bytes()).map_err(|e| failed(&e))?,
    };
    hand_over(session, name, &bundle, output)
}

/// Writes the bundle that makes a profile of the operator's request.
fn give(session: &Session, name: &str, chain: Vec<bytes::Bytes>, output: Option<PathBuf>) -> Result<(), CliError> {
    let profile = session.globals().load_profile()?;
    let bundle = Bundle {
        operator: names::short(name).to_owned(),
        address: session.globals().address.clone().unwrap_or(profile.address),
        trust_domain: profile.trust_domain.to_string(),
        root: profile.root,
        chain: chain.into_iter().map(|der| der.to_vec().into()).collect(),
    };
    hand_over(session, name, &bundle, output)
}

fn hand_over(session: &Session, name: &str, bundle: &Bundle, output: Option<PathBuf>) -> Result<(), CliError> {
    bundle::write(&bundle.encode(), output.as_deref())?;
    if let Some(path) = output {
        session.done(name, &format!("bundle in {}; next, where the request was made: sutler profile import FILE", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_typed_as_it_is_shown() {
        for text in ["viewer", "deployer:new-clients", "admin:a,b"] {
            assert_eq!(roles(&[grant(text).unwrap()]), text);
        }
        for bad in ["", "root", "deployer:", "deployer:a,", "deployer:../x", "deployer:A"] {
            assert!(grant(bad).is_err(), "{bad:?}");
        }
        assert!(grant("root").unwrap_err().contains("deployer"));
        let emptied = v1::RoleGrant { role: Role::Deployer.to_wire(), groups: vec![], scoped: true };
        assert_ne!(roles(&[emptied]), "deployer", "never looks like one that reaches everything");
    }
}
