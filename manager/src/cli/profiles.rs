//! `sutler profile`: the operator's profiles on this machine.

use super::{
    bundle::{self, Bundle},
    error::CliError,
    output::{self, OutputArg},
    passphrase::{self, NewKeyArgs},
    renew,
    session::{Session, profile_error},
};
use crate::profile::{self, Profile, ProfileName};
use clap::Subcommand;
use std::path::{Path, PathBuf};
use sutler_certs::{PeerCertificate, RootPin};

/// Examples of the noun.
pub const EXAMPLES: &str = "Examples:
  sutler profile list
  sutler profile use acme
  sutler profile renew
  sutler profile request acme -o bea.request
  sutler profile import bea.bundle";

fn name(text: &str) -> Result<ProfileName, String> {
    text.parse().map_err(|e: sutler_base::Invalid| e.0)
}

/// What can be done with profiles.
#[derive(Debug, Subcommand)]
pub enum ProfileCommand {
    /// List your profiles
    #[command(after_help = "Examples:
  sutler profile list")]
    List {
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show one profile [default: the one in use] with the files of its keys
    #[command(after_help = "Examples:
  sutler profile show
  sutler profile show acme -o json")]
    Show {
        /// The profile
        #[arg(value_parser = name)]
        name: Option<ProfileName>,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Choose the profile that is used when none is named
    #[command(after_help = "Examples:
  sutler profile use acme")]
    Use {
        /// The profile
        #[arg(value_parser = name)]
        name: ProfileName,
    },
    /// Ask to become an operator, or for a new certificate after a lost key: make a key, which stays here, and a request
    ///
    /// An administrator makes a bundle of the request with `sutler operator create` (or `operator issue`), and `sutler profile
    /// import` here makes the profile of the bundle. The same command again gives the same request.
    #[command(after_help = "Examples:
  sutler profile request acme -o bea.request
  sutler profile request acme > bea.request")]
    Request {
        /// The name that the profile will have here
        #[arg(value_parser = name)]
        name: ProfileName,
        /// The file to write [default: the standard output]
        #[arg(short = 'o', long = "output", value_name = "FILE")]
        output: Option<PathBuf>,
        /// Whether the key is encrypted
        #[command(flatten)]
        key: NewKeyArgs,
    },
    /// Make the profile of the bundle that an administrator gave for your request
    ///
    /// The bundle says by what the manager is known: take it only from somebody you trust, and compare the root with them.
    #[command(after_help = "Examples:
  sutler profile import bea.bundle
  sutler profile import - < bea.bundle")]
    Import {
        /// The bundle; - for the standard input
        bundle: PathBuf,
    },
    /// Get a new certificate for the profile now
    ///
    /// Every command does so by itself when a third of the certificate's time is gone, up to 30 days after it ended.
    #[command(after_help = "Examples:
  sutler profile renew
  sutler profile renew --profile acme")]
    Renew,
}

const HEADER: [&str; 6] = ["name", "in_use", "operator", "address", "trust_domain", "certificate_expires"];

/// Runs a command of this noun.
pub async fn run(command: ProfileCommand, session: &Session) -> Result<u8, CliError> {
    let folder = session.globals().config_folder()?;
    match command {
        ProfileCommand::List { output } => {
            let mut rows = Vec::new();
            for name in profile::list(&folder).map_err(profile_error)? {
                match renew::load(&folder, &name) {
                    Ok(profile) => rows.push(row(&profile, in_use(session, &name))),
                    Err(e) => eprintln!("warning: the profile {name} can't be used: {}", output::printable(&e.to_string())),
                }
            }
            output::rows(&HEADER, &rows, output.format)?;
        }
        ProfileCommand::Show { name, output } => {
            let name = name.map_or_else(|| session.globals().profile_name(), Ok)?;
            let profile = renew::load(&folder, &name).map_err(profile_error)?;
            let files = profile::folder_of(&folder, &name);
            let path = |file: &str| files.join(file).display().to_string();
            let exists = |file: &Path| if file.exists() { file.display().to_string() } else { String::new() };
            let mut header = HEADER.to_vec();
            header.extend(["certificate_file", "key_file", "root_file", "publisher_key_file", "trust_document_file"]);
            let mut row = row(&profile, in_use(session, &name));
            row.extend([path("operator.pem"), path("operator.key"), path("root.pem")]);
            row.extend([exists(&profile.publisher_key_path), exists(&profile.trust_document_path)]);
            match output.format {
                output::Format::Table => {
                    let pairs: Vec<_> = header.iter().zip(row).map(|(name, value)| (*name, value)).collect();
                    output::print(&output::aligned(&pairs))?;
                }
                format => output::rows(&header, &[row], format)?,
            }
        }
        ProfileCommand::Use { name } => {
            profile::set_current(&folder, &name).map_err(profile_error)?;
            session.done(name.as_str(), "is used from now on")?;
        }
        ProfileCommand::Request { name, output, key } => {
            let request = match profile::requested(&folder, &name).map_err(profile_error)? {
                Some(request) => request,
                None => {
                    let passphrase = passphrase::for_new_key("the key", &key, session.globals())?;
                    profile::request(&folder, &name, passphrase.as_ref()).map_err(profile_error)?
                }
            };
            bundle::write(&request, output.as_deref())?;
            session.tell("next, an administrator: sutler operator create NAME --role ROLE --request FILE -o BUNDLE");
        }
        ProfileCommand::Import { bundle } => {
            let bundle = Bundle::read(&bundle)?;
            let profile = renew::import(&folder, &bundle).map_err(profile_error)?;
            if profile::current(&folder).is_err() {
                profile::set_current(&folder, &profile.name).map_err(profile_error)?;
            }
            session.done(profile.name.as_str(), &format!("you are {} at {}", bundle.operator, profile.address))?;
            session.tell(&format!("the manager's root is {}", RootPin::of(&profile.root)));
        }
        ProfileCommand::Renew => {
            let name = session.globals().profile_name()?;
            let serial =
                |profile: &Profile| PeerCertificate::parse(&profile.certificate_chain[0], &profile.trust_domain).ok().map(|c| c.serial);
            let before = serial(&session.globals().load_profile()?);
            let connection = session.connection().await?;
            // Connecting may have renewed it already.
            if serial(&session.globals().load_profile()?) == before {
                let _guard = renew::begin(&folder, &name, true);
                renew::renew(connection, &folder, &name, session.passphrase()).await?;
            }
            let row = row(&session.globals().load_profile()?, true);
            session.done(name.as_str(), &format!("renewed until {}", row[5]))?;
        }
    }
    Ok(0)
}

fn in_use(session: &Session, name: &ProfileName) -> bool {
    session.globals().profile_name().is_ok_and(|used| used == *name)
}

fn row(profile: &Profile, in_use: bool) -> Vec<String> {
    let leaf = profile.certificate_chain.first().and_then(|der| PeerCertificate::parse(der, &profile.trust_domain).ok());
    let (operator, expires) = match &leaf {
        Some(leaf) => {
            let uri = leaf.identity.uri(&profile.trust_domain);
            (uri.rsplit('/').next().unwrap_or_default().to_owned(), leaf.not_after.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
        }
        None => ("?".to_owned(), "?".to_owned()),
    };
    let used = if in_use { "yes" } else { "no" };
    vec![profile.name.to_string(), used.to_owned(), operator, profile.address.clone(), profile.trust_domain.to_string(), expires]
}
