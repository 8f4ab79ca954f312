//! What every command has: the options that all share, the operator's profile, and the services of the manager.

use super::{
    connection::{Channel, Connection},
    error::{CliError, causes},
    passphrase, renew, when,
};
use crate::profile::{self, Profile, ProfileName};
use clap::Args;
use std::{path::PathBuf, sync::OnceLock, time::Duration};
use sutler_base::Timestamp;
use sutler_certs::{Passphrase, tls::ServerTrust};
use sutler_proto::v1;
use tokio::sync::OnceCell;

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// The profile to use: who you are, and to which manager you speak [default: the one chosen by `sutler profile use`]
    #[arg(long, global = true, value_name = "NAME", env = "SUTLER_PROFILE")]
    pub profile: Option<String>,
    /// The folder with your profiles [default: $XDG_CONFIG_HOME/sutler or ~/.config/sutler]
    #[arg(long, global = true, value_name = "DIR", env = "SUTLER_CONFIG_DIR")]
    pub config_dir: Option<PathBuf>,
    /// The manager's operators' port, instead of the one in the profile
    #[arg(long, global = true, value_name = "HOST:PORT", env = "SUTLER_ADDRESS")]
    pub address: Option<String>,
    /// For how long a manager that is away is tried again (such as 10s, 2m)
    #[arg(long, global = true, value_name = "DURATION", default_value = "10s", value_parser = when::duration)]
    pub retry_for: Duration,
    /// A file whose first line is the passphrase of the keys that are used or made [default: asked for at the terminal]
    #[arg(long, global = true, value_name = "FILE", env = "SUTLER_PASSPHRASE_FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Print names and data alone: no progress, no sentences
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

impl Globals {
    /// The folder with the profiles.
    pub fn config_folder(&self) -> Result<PathBuf, CliError> {
        profile::config_folder(self.config_dir.as_deref(), |name| std::env::var_os(name)).map_err(profile_error)
    }

    /// The name of the profile that is used.
    pub fn profile_name(&self) -> Result<ProfileName, CliError> {
        match &self.profile {
            Some(name) => name.parse().map_err(|e: sutler_base::Invalid| CliError::usage(e.0)),
            None => profile::current(&self.config_folder()?).map_err(profile_error),
        }
    }

    /// The profile that is used, after an interrupted renewal of it was finished.
    pub fn load_profile(&self) -> Result<Profile, CliError> {
        let (folder, name) = (self.config_folder()?, self.profile_name()?);
        renew::load(&folder, &name).map_err(profile_error)
    }

    /// As [`Globals::load_profile`], with its key opened.
    pub fn open_profile(&self) -> Result<Profile, CliError> {
        let mut profile = self.load_profile()?;
        if profile.key.is_none() {
            let passphrase = passphrase::for_existing_key(&format!("the key of the profile {}", profile.name), self)?;
            profile.unlock(&self.config_folder()?, passphrase).map_err(profile_error)?;
        }
        Ok(profile)
    }
}

/// A profile's error as one of the command line.
pub fn profile_error(error: profile::ProfileError) -> CliError {
    CliError::Profile { sentence: causes(&error), hint: None }
}

/// A command's way to the manager.
pub struct Session {
    globals: Globals,
    connection: OnceCell<Connection>,
    /// What opened the profile's key for the connection, so that nobody is asked for it twice.
    passphrase: OnceLock<Passphrase>,
    now: Timestamp,
}

impl Session {
    /// A session that connects with its first call. `now` is the moment that durations on the command line count from.
    pub fn new(globals: Globals, now: Timestamp) -> Session {
        Session { globals, connection: OnceCell::new(), passphrase: OnceLock::new(), now }
    }

    /// The moment at which the command started.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Whether only names and data are wanted.
    pub fn quiet(&self) -> bool {
        self.globals.quiet
    }

    /// The options of every command.
    pub fn globals(&self) -> &Globals {
        &self.globals
    }

    /// Says something to the person, on the standard error.
    pub fn tell(&self, text: &str) {
        if !self.globals.quiet {
            eprintln!("{}", super::output::printable(text));
        }
    }

    /// Prints a resource's name and, unless names alone are wanted, a sentence about it.
    pub fn done(&self, name: &str, sentence: &str) -> Result<(), CliError> {
        let (name, sentence) = (super::output::printable(name), super::output::printable(sentence));
        super::output::print(&if self.globals.quiet || sentence.is_empty() { format!("{name}\n") } else { format!("{name}  {sentence}\n") })
    }

    /// The way to the manager, with a certificate that is not about to end.
    pub async fn connection(&self) -> Result<&Connection, CliError> {
        self.connection.get_or_try_init(|| self.connect()).await
    }

    /// The passphrase that opened the profile's key for the connection; none before there is one, or if the key is not encrypted.
    pub fn passphrase(&self) -> Option<&Passphrase> {
        self.passphrase.get()
    }

    async fn connect(&self) -> Result<Connection, CliError> {
        let mut profile = self.globals.open_profile()?;
        if let Some(passphrase) = &profile.passphrase {
            self.passphrase.get_or_init(|| passphrase.clone());
        }
        let open = |profile: Profile| {
            let address = self.globals.address.clone().unwrap_or_else(|| profile.address.clone());
            let trust = ServerTrust::from_root(&profile.root).map_err(|e| CliError::Profile { sentence: causes(&e), hint: None })?;
            Connection::new(&address, &profile.credential().map_err(profile_error)?, &trust, self.globals.retry_for, self.globals.quiet)
        };
        if renew::is_due(&profile, self.now) {
            let folder = self.globals.config_folder()?;
            let name = profile.name.clone();
            let expired = renew::is_over(&profile, self.now);
            if let Some(_guard) = renew::begin(&folder, &name, expired) {
                // Somebody else may have done it while we came here.
                let passphrase = profile.passphrase.take();
                profile = self.reload(passphrase.as_ref())?;
                if renew::is_due(&profile, self.now) {
                    let connection = open(profile)?;
                    match renew::renew(&connection, &folder, &name, passphrase.as_ref()).await {
                        Ok(()) => {}
                        // A certificate that is still good for hours is no reason to fail.
                        Err(e) if !expired => {
                            self.tell(&format!("warning: the certificate of the profile {name} could not be renewed: {e}"));
                            return Ok(connection);
                        }
                        Err(e) => return Err(e),
                    }
                    profile = self.reload(passphrase.as_ref())?;
                }
            }
        }
        open(profile)
    }

    /// The profile as it is now, opened with the passphrase that opened it before.
    fn reload(&self, passphrase: Option<&Passphrase>) -> Result<Profile, CliError> {
        let mut profile = self.globals.load_profile()?;
        if let (None, Some(passphrase)) = (&profile.key, passphrase) {
            profile.unlock(&self.globals.config_folder()?, passphrase.clone()).map_err(profile_error)?;
        }
        Ok(profile)
    }
}

/// A random id that makes a mutation idempotent, however often it has to be sent.
pub fn request_id() -> Result<String, CliError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| CliError::Local {
        tried: "make a request id".into(),
        why: format!("the system gave no randomness: {e}"),
        hint: None,
    })?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// The longest answer that is read: a package version with its whole manifest (bytes).
const ANSWER_MAX: usize = 256 << 20;

macro_rules! services {
    ($($(#[$doc:meta])* $name:ident: $module:ident :: $client:ident;)+) => {
        /// The services of the manager, on a connection.
        pub mod service {
            use super::*;
            $(
                $(#[$doc])*
                pub fn $name(channel: Channel, origin: http::Uri) -> v1::$module::$client<Channel> {
                    v1::$module::$client::with_origin(channel, origin).max_decoding_message_size(ANSWER_MAX)
                }
            )+
        }
    };
}

services! {
    /// Managed machines.
    clients: client_service_client::ClientServiceClient;
    /// Named destinations.
    groups: group_service_client::GroupServiceClient;
    /// Rules that register clients.
    policies: policy_service_client::PolicyServiceClient;
    /// What users are asked.
    questions: question_service_client::QuestionServiceClient;
    /// When machines may be disturbed.
    windows: window_service_client::WindowServiceClient;
    /// What holds work back.
    brakes: brake_service_client::BrakeServiceClient;
    /// How fast bytes flow.
    transfers: transfer_service_client::TransferServiceClient;
    /// Software.
    packages: package_service_client::PackageServiceClient;
    /// Changes that need a second person.
    approvals: approval_service_client::ApprovalServiceClient;
    /// What jobs would come to.
    plans: plan_service_client::PlanServiceClient;
    /// Orders.
    jobs: job_service_client::JobServiceClient;
    /// What lets machines in.
    tokens: enrollment_token_service_client::EnrollmentTokenServiceClient;
    /// What is installed.
    software: software_service_client::SoftwareServiceClient;
    /// People and programs.
    operators: operator_service_client::OperatorServiceClient;
    /// A fleet as it stands in files.
    configuration: configuration_service_client::ConfigurationServiceClient;
    /// Who did what.
    audit: audit_service_client::AuditServiceClient;
    /// What happened.
    events: event_service_client::EventServiceClient;
    /// Jobs as whole lists.
    reports: report_service_client::ReportServiceClient;
}

/// Makes a call: `call!(session, groups.get_group(request), "show the group {name}")`.
macro_rules! call {
    ($session:expr, $service:ident . $method:ident ($request:expr), $($tried:tt)+) => {{
        let request = $request;
        let connection = $session.connection().await?;
        let origin = connection.origin();
        connection
            .call(&format!($($tried)+), |channel| {
                let (request, origin) = (request.clone(), origin.clone());
                async move { $crate::cli::session::service::$service(channel, origin).$method(request).await }
            })
            .await
    }};
}
pub(crate) use call;

/// Asks for every page of a list: `pages!(session, groups.list_groups(request) -> groups, "list the groups")`.
macro_rules! pages {
    ($session:expr, $service:ident . $method:ident ($request:expr) -> $field:ident, $($tried:tt)+) => {{
        let mut request = $request;
        #[allow(clippy::field_reassign_with_default, reason = "a macro does not know what it is given")]
        {
            request.page_size = sutler_base::limits::PAGE_MAX as i32;
        }
        let mut all = Vec::new();
        loop {
            let page = $crate::cli::session::call!($session, $service.$method(request.clone()), $($tried)+)?;
            all.extend(page.$field);
            if page.next_page_token.is_empty() {
                break all;
            }
            request.page_token = page.next_page_token;
        }
    }};
}
pub(crate) use pages;
