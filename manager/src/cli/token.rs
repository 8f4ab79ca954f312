//! `sutler token`: what lets machines in.

use super::{
    client::sorted,
    error::CliError,
    names,
    output::{self, Column, Format, OutputArg, Record},
    session::{Session, call, pages, request_id},
    when::{self, moment},
};
use clap::{Args, Subcommand};
use std::time::Duration;
use sutler_base::limits;
use sutler_proto::v1;

/// Examples of the noun.
pub const EXAMPLES: &str = "Examples:
  sutler token create
  sutler token create --count 200 -o csv > tokens.csv
  sutler token list";

/// What can be done with tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make one token or many; each string is shown now and never again
    ///
    /// One string a line, or all columns with -o csv. A token for more than one use needs networks or expected machines: what
    /// matches is active at once, anything else waits until it is approved.
    #[command(after_help = "Examples:
  sutler token create
  sutler token create > token && chmod 600 token
  sutler token create --count 200 --ttl 7d -o csv > tokens.csv
  sutler token create --uses 50 --ttl 30d --network 10.20.0.0/16 --label site=berlin
  sutler token create --uses 3 --expect web-1 --expect web-2 --expect web-3
  sutler token create --replaces CLIENT")]
    Create(CreateArgs),
    /// List tokens, the newest first, without their secrets
    #[command(after_help = "Examples:
  sutler token list")]
    List {
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show one token, without its secret
    #[command(after_help = "Examples:
  sutler token show TOKEN")]
    Show {
        /// The token's id
        #[arg(value_parser = names::token)]
        token: String,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// End tokens at once; clients that enrolled with them stay
    #[command(after_help = "Examples:
  sutler token revoke TOKEN")]
    Revoke {
        /// The tokens' ids
        #[arg(value_name = "TOKEN", required = true, value_parser = names::token)]
        tokens: Vec<String>,
    },
}

/// What a new token is to be.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// How many tokens
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=limits::TOKENS_MAX as i64))]
    count: u32,
    /// How often each can be used
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=limits::TOKEN_USES_MAX as i64))]
    uses: u32,
    /// For how long they are good (such as 1h, 7d)
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = when::some_duration)]
    ttl: Duration,
    /// Clients outside these networks wait for an approval
    #[arg(long, value_name = "CIDR")]
    network: Vec<String>,
    /// Clients that are not among these host names or machine ids wait for an approval
    #[arg(long, value_name = "NAME")]
    expect: Vec<String>,
    /// Groups that clients are put into
    #[arg(long, value_parser = names::group)]
    group: Vec<String>,
    /// Labels that clients get
    #[arg(long, value_name = "KEY=VALUE", value_parser = names::label)]
    label: Vec<(String, String)>,
    /// A client whose machine was set up anew: what enrols with the token becomes that client, in its groups, with its history
    #[arg(long, value_name = "CLIENT", value_parser = names::client)]
    replaces: Option<String>,
    /// For people
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// How to show it
    #[command(flatten)]
    output: OutputArg,
}

impl Record for v1::EnrollmentToken {
    const TYPE: &'static str = "sutler.v1.EnrollmentToken";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("id", |t| names::short(&t.name).to_owned()),
        Column::new("used", |t| format!("{} of {}", t.used, t.uses)),
        Column::new("expires", |t| moment(&t.expire_time)),
        Column::new("revoked", |t| moment(&t.revoke_time)),
        Column::new("groups", |t| names::words(&t.groups)),
        Column::new("labels", |t| sorted(&t.labels)),
        Column::new("description", |t| t.description.clone()),
        Column::wide("networks", |t| t.networks.join(" ")),
        Column::wide("expected_machines", |t| t.expected_machines.join(" ")),
        Column::wide("created", |t| moment(&t.create_time)),
        Column::wide("creator", |t| names::short(&t.creator).to_owned()),
        Column::wide("replaces", |t| names::short(&t.replaces).to_owned()),
    ];
}

fn token(new: &v1::NewEnrollmentToken) -> v1::EnrollmentToken {
    new.token.clone().unwrap_or_default()
}

impl Record for v1::NewEnrollmentToken {
    const TYPE: &'static str = "sutler.v1.NewEnrollmentToken";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("secret", |t| t.secret.clone()),
        Column::new("id", |t| names::short(&token(t).name).to_owned()),
        Column::new("uses", |t| token(t).uses.to_string()),
        Column::new("expires", |t| moment(&token(t).expire_time)),
        Column::new("groups", |t| names::words(&token(t).groups)),
        Column::new("labels", |t| sorted(&token(t).labels)),
        Column::new("networks", |t| token(t).networks.join(" ")),
        Column::new("expected_machines", |t| token(t).expected_machines.join(" ")),
        Column::new("description", |t| token(t).description),
    ];
}

/// Runs a command of this noun.
pub async fn run(command: TokenCommand, session: &Session) -> Result<u8, CliError> {
    match command {
        TokenCommand::Create(args) => {
            let format = args.output.format;
            let request = v1::CreateEnrollmentTokensRequest {
                count: args.count as i32,
                uses: args.uses as i32,
                ttl: Some(prost_types::Duration { seconds: args.ttl.as_secs() as i64, nanos: 0 }),
                networks: args.network,
                expected_machines: args.expect,
                groups: args.group,
                labels: args.label.into_iter().collect(),
                description: args.description,
                replaces: args.replaces.unwrap_or_default(),
                request_id: request_id()?,
            };
            let answer = call!(session, tokens.create_enrollment_tokens(request), "create {} enrolment token(s)", args.count)?;
            match format {
                // The string and nothing else: it goes into a file or a variable.
                Format::Table => output::print(&answer.tokens.iter().map(|t| output::printable(&t.secret) + "\n").collect::<String>())?,
                format => output::list(&answer.tokens, format)?,
            }
        }
        TokenCommand::List { output } => {
            let request = v1::ListEnrollmentTokensRequest::default();
            let tokens = pages!(session, tokens.list_enrollment_tokens(request) -> tokens, "list the enrolment tokens");
            output::list(&tokens, output.format)?;
        }
        TokenCommand::Show { token, output } => {
            let request = v1::GetEnrollmentTokenRequest { name: token.clone() };
            let answer = call!(session, tokens.get_enrollment_token(request), "show the token {}", names::short(&token))?;
            output::show(&answer.token.unwrap_or_default(), output.format)?;
        }
        TokenCommand::Revoke { tokens } => {
            for token in tokens {
                let request = v1::RevokeEnrollmentTokenRequest { name: token.clone(), request_id: request_id()? };
                call!(session, tokens.revoke_enrollment_token(request), "revoke the token {}", names::short(&token))?;
                session.done(&token, "revoked")?;
            }
        }
    }
    Ok(0)
}
