//! `sutler init`, `serve`, `doctor`, `backup` and `restore`: what is done on the manager's host, without a profile.

use super::{
    error::CliError,
    output,
    passphrase::{self, NewKeyArgs},
    session::{Globals, profile_error},
};
use crate::{
    backup::{self, BackupError},
    config::{Config, Overrides, TelemetryAt},
    doctor,
    folder::Folder,
    init::{self, InitOptions},
    profile::{self, ProfileName},
    serve,
    telemetry::{self, LogFormat},
    world::World,
};
use clap::Args;
use ipnet::IpNet;
use std::{net::SocketAddr, path::PathBuf};
use sutler_base::{Invalid, OperatorName};
use sutler_certs::{Host, TrustDomain};
use sutler_core::admission;

/// Reads a value by its type's own rule.
fn parsed<T: std::str::FromStr<Err = Invalid>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|e: Invalid| e.0)
}

fn network(text: &str) -> Result<IpNet, String> {
    admission::network(text).map_err(|e| e.0)
}

/// Where the ports are and what else both commands can be told.
#[derive(Debug, Args)]
pub struct Places {
    /// Where agents connect; port 0 takes a free one [default: 0.0.0.0:7443]
    #[arg(long, value_name = "ADDR:PORT")]
    agents: Option<SocketAddr>,
    /// Where operators connect [default: 0.0.0.0:7444]
    #[arg(long, value_name = "ADDR:PORT")]
    operators: Option<SocketAddr>,
    /// Where metrics and health are, in plain HTTP; `off` for nowhere [default: 127.0.0.1:7480]
    #[arg(long, value_name = "ADDR:PORT", value_parser = parsed::<TelemetryAt>)]
    telemetry: Option<TelemetryAt>,
    /// The database: sqlite:PATH (relative to the folder) or postgres://… [default: SQLite in the folder]
    #[arg(long, value_name = "URL", env = "SUTLER_DATABASE", hide_env_values = true)]
    database: Option<String>,
    /// An address that agents are told to connect to; several are tried in turn [default: the hosts, with the agents' port]
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Vec<String>,
    /// A network of balancers, which say with the PROXY protocol who calls; several may be given [default: none]
    #[arg(long, value_name = "CIDR", value_parser = network)]
    proxy_protocol_from: Vec<IpNet>,
}

/// Makes a manager's folder and the first operator's profile.
#[derive(Debug, Args)]
#[command(after_help = "The profile is called like the trust domain; --profile NAME gives it another name. What --agents and its
neighbours say goes into manager.toml.

Examples:
  sutler init --dir D --trust-domain acme.example --host manager.acme.example
  sutler init --dir D --trust-domain acme.example --host 10.0.0.5 --operator ann --profile acme
  sutler init --dir D --join bundle --host m2.acme.example --database postgres://db/sutler")]
pub struct InitArgs {
    /// The manager's folder: not there yet, or empty
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The name that every identity is below, such as acme.example; it never changes
    #[arg(long, value_name = "DOMAIN", value_parser = parsed::<TrustDomain>, required_unless_present = "join")]
    trust_domain: Option<TrustDomain>,
    /// Make one more manager of an installation: the file that `sutler ca export` wrote on another one. Needs the database that they share
    #[arg(long, value_name = "BUNDLE", conflicts_with_all = ["trust_domain", "operator"], requires = "database")]
    join: Option<PathBuf>,
    /// Where packages' bytes lie: a folder, or s3://BUCKET/PREFIX, which several managers share [default: in the manager's folder]
    #[arg(long, value_name = "PLACE")]
    content: Option<String>,
    /// A name or address under which the manager is reached; several may be given, the first goes into the profile
    #[arg(long, value_name = "HOST", required = true, value_parser = parsed::<Host>)]
    host: Vec<Host>,
    /// The first operator's name [default: your user's]
    #[arg(long, value_name = "NAME", value_parser = parsed::<OperatorName>)]
    operator: Option<OperatorName>,
    /// Whether the keys of the profile are encrypted
    #[command(flatten)]
    keys: NewKeyArgs,
    /// Where the manager listens
    #[command(flatten)]
    places: Places,
}

/// Runs the manager.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints the addresses that it is bound to. What is not said here is as manager.toml says. SUTLER_LOG sets what is logged,
such as info or sutler=debug,info. Ends with SIGTERM or Ctrl-C.

Examples:
  sutler serve --dir D
  sutler serve --dir D --database postgres://sutler@db.acme.example/sutler
  sutler serve --dir D --agents 127.0.0.1:0 --operators 127.0.0.1:0 --telemetry off
  sutler serve --dir D --advertise manager.acme.example:7443 --log-format json
  sutler serve --dir D --proxy-protocol-from 10.1.2.0/24"
)]
pub struct ServeArgs {
    /// The manager's folder
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Where the manager listens
    #[command(flatten)]
    places: Places,
    /// How the log is written, on the standard error
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
}

/// Looks at a manager's folder, and at the manager if it serves; without a folder, at your profile and the manager that it leads to.
#[derive(Debug, Args)]
#[command(
    after_help = "Changes nothing, and works whether the manager serves or not. What `serve` is told on its command line has to be said here, too.
Ends with 0 if all is well, with 30 if something is wrong.

Examples:
  sutler doctor
  sutler doctor --profile acme -o json
  sutler doctor --dir D
  sutler doctor --dir D -o json
  sutler doctor --dir D --agents 127.0.0.1:17443 --operators 127.0.0.1:17444 --telemetry off"
)]
pub struct DoctorArgs {
    /// The manager's folder [default: none, your profile is looked at]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where the manager listens
    #[command(flatten)]
    places: Places,
    /// How it is shown
    #[arg(short = 'o', long = "output", value_enum, default_value = "text")]
    format: DoctorFormat,
}

/// How a checkup is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum DoctorFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Places {
    fn overrides(&self) -> Overrides {
        Overrides {
            agents: self.agents,
            operators: self.operators,
            telemetry: self.telemetry,
            database: self.database.clone(),
            advertise: self.advertise.clone(),
            proxy_protocol_from: self.proxy_protocol_from.clone(),
        }
    }
}

/// `sutler doctor`
pub fn doctor(args: DoctorArgs, globals: &Globals) -> Result<u8, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| CliError::local("examine the manager", &e))?;
    let world = World::system();
    let checkup = match &args.dir {
        Some(dir) => {
            let config = doctor::configuration(dir, |folder| Config::load(folder, &args.places.overrides()));
            runtime.block_on(doctor::examine(dir, config, &world))
        }
        // The database alone may come from the environment, where it is somebody else's.
        None if Overrides { database: None, ..args.places.overrides() } != Overrides::default() => {
            return Err(CliError::usage("where a manager listens and what it is told is of its folder, which --dir names"));
        }
        None => runtime.block_on(super::examine::examine(globals, world.now())),
    };
    match args.format {
        DoctorFormat::Text => output::print(&checkup.text())?,
        DoctorFormat::Json => output::print(&format!("{}\n", checkup.json()))?,
    }
    Ok(checkup.exit_code())
}

/// `sutler init`
pub fn init(args: InitArgs, globals: &Globals) -> Result<u8, CliError> {
    let config = profile::config_folder(globals.config_dir.as_deref(), |name| std::env::var_os(name)).map_err(profile_error)?;
    let user = std::env::var("USER").ok();
    let operator = args.operator.unwrap_or_else(|| init::default_operator(user.as_deref()));
    let bundle = args.join.as_deref().map(super::ca::read_bundle).transpose()?;
    let Some(domain) = args.trust_domain.or_else(|| bundle.as_ref().map(|b| b.trust_domain().clone())) else {
        return Err(CliError::usage("--trust-domain or --join is needed"));
    };
    let mut options = InitOptions::new(args.dir, domain, args.host, operator, config);
    options.content = args.content.map(|place| match std::path::absolute(&place) {
        Ok(path) if !place.contains("://") => path.to_string_lossy().into_owned(),
        _ => place,
    });
    if let Some(name) = &globals.profile {
        options.profile = name.parse::<ProfileName>().map_err(|e| CliError::usage(e.0))?;
    }
    options.passphrase = passphrase::for_new_key("each key of the profile", &args.keys, globals)?;
    let places = args.places;
    options.agents = places.agents.unwrap_or(options.agents);
    options.operators = places.operators.unwrap_or(options.operators);
    options.telemetry = places.telemetry.unwrap_or(options.telemetry);
    options.database = places.database.unwrap_or(options.database);
    options.advertise = places.advertise;
    options.proxy_protocol_from = places.proxy_protocol_from;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| CliError::local("start", &e))?;
    if let Some(bundle) = bundle {
        let joined = runtime
            .block_on(init::join(&options, &bundle, &World::system()))
            .map_err(|e| CliError::local(format!("make one more manager in {}", options.folder.display()), &e))?;
        output::print(&output::aligned(&[("folder", joined.folder.display().to_string()), ("root", joined.root_pin.to_string())]))?;
        eprintln!("next: delete the bundle, and `sutler serve --dir {}`", output::printable(&joined.folder.display().to_string()));
        return Ok(0);
    }
    let report = runtime
        .block_on(init::init(&options, &World::system()))
        .map_err(|e| CliError::local(format!("make a manager in {}", options.folder.display()), &e))?;
    let folder = report.folder.display();
    if globals.quiet {
        output::print(&format!("{}\n", output::printable(&folder.to_string())))?;
        return Ok(0);
    }
    let pairs = [
        ("folder", folder.to_string()),
        ("profile", format!("{}{}", report.profile, if report.is_current { ", used from now on" } else { "" })),
        ("profile_folder", report.profile_folder.display().to_string()),
        ("operators_port", report.address.clone()),
        ("root", report.root_pin.to_string()),
        ("publisher_key", report.publisher.as_ref().map(ToString::to_string).unwrap_or_default()),
    ];
    output::print(&output::aligned(&pairs))?;
    eprintln!("next: sutler serve --dir {}", output::printable(&folder.to_string()));
    eprintln!(
        "The root's key, {}, is needed for `sutler ca rotate` alone: take it to a place that is not on the network, and remove it here.",
        output::printable(&report.folder.join("ca/root.key").display().to_string())
    );
    eprintln!("The publisher's key signs what runs on every machine: it belongs to the profile, never on the manager's host.");
    Ok(0)
}

/// `sutler serve`
pub fn serve(args: ServeArgs) -> Result<u8, CliError> {
    let tried = || format!("run the manager in {}", args.dir.display());
    let filter = std::env::var("SUTLER_LOG").ok();
    telemetry::start_log(args.log_format, filter.as_deref()).map_err(|e| CliError::local(tried(), &e))?;
    let folder = Folder::open(&args.dir).map_err(|e| CliError::local(tried(), &e))?;
    let config = Config::load(folder, &args.places.overrides()).map_err(|e| CliError::local(tried(), &e))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| CliError::local(tried(), &e))?;
    runtime.block_on(serve::run(config)).map_err(|e| CliError::local(tried(), &e))?;
    Ok(0)
}

/// Copies a manager.
#[derive(Debug, Args)]
#[command(
    after_help = "The manager may run meanwhile. The folder then holds the CAs' keys: keep it as safe as the manager's own. Publishers'
keys and operators' profiles are not in it. A database in PostgreSQL is dumped with its own tools (pg_dump) before this.

Examples:
  sutler backup --dir D /backup/sutler-2027-01-31"
)]
pub struct BackupArgs {
    /// The manager's folder
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The database, if it isn't the one that manager.toml names
    #[arg(long, value_name = "URL", env = "SUTLER_DATABASE", hide_env_values = true)]
    database: Option<String>,
    /// The folder to make
    #[arg(value_name = "FOLDER")]
    target: PathBuf,
}

/// Makes a manager of a backup.
#[derive(Debug, Args)]
#[command(
    after_help = "Agents tell a restored manager what happened since the backup, so that nothing runs again. Machines that enrolled since
are PENDING until you approve them. What only the database knew is as it was: repeat the removals and revocations that were made
since (an export of the audit log has them). Stop the old manager for good before the new one serves.

Examples:
  sutler restore /backup/sutler-2027-01-31 --dir D
  sutler restore /backup/sutler-2027-01-31 --dir D --dumped 2027-01-31T02:00:00Z"
)]
pub struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FOLDER")]
    backup: PathBuf,
    /// The manager's folder to make: not there yet, or empty
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The database, if it isn't the one that the backup's manager.toml names
    #[arg(long, value_name = "URL", env = "SUTLER_DATABASE", hide_env_values = true)]
    database: Option<String>,
    /// For PostgreSQL, which was put back before: when its dump was begun
    #[arg(long, value_name = "TIME")]
    dumped: Option<sutler_base::Timestamp>,
}

/// Runs what copies a manager.
fn copied(tried: String, work: impl Future<Output = Result<backup::Report, BackupError>>) -> Result<backup::Report, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| CliError::local("start", &e))?;
    runtime.block_on(work).map_err(|e| CliError::local(tried, &e))
}

/// Says what could not be copied: 1 if there is anything.
fn complete(report: &backup::Report) -> u8 {
    if report.damaged.is_empty() {
        return 0;
    }
    eprintln!("warning: {} stored objects are damaged or missing and were left out:", report.damaged.len());
    report.damaged.iter().take(20).for_each(|digest| eprintln!("  {digest}"));
    eprintln!("hint: `sutler content status` names the packages to push again");
    1
}

/// `sutler backup`
pub fn backup(args: BackupArgs, globals: &Globals) -> Result<u8, CliError> {
    let tried = format!("back up the manager in {}", args.dir.display());
    let report = copied(tried, backup::back_up(&args.dir, args.database, &args.target, &World::system()))?;
    let target = output::printable(&args.target.display().to_string());
    if globals.quiet {
        output::print(&format!("{target}\n"))?;
    } else {
        let what =
            if report.note.database { "with its database" } else { "WITHOUT its database, which is a PostgreSQL: keep its dump with this" };
        output::print(&format!("{target}  {} objects, {what}\n", report.note.objects))?;
    }
    Ok(complete(&report))
}

/// `sutler restore`
pub fn restore(args: RestoreArgs, globals: &Globals) -> Result<u8, CliError> {
    let tried = format!("restore the backup {}", args.backup.display());
    let report = copied(tried, backup::restore(&args.backup, &args.dir, args.database, args.dumped, &World::system()))?;
    let folder = output::printable(&args.dir.display().to_string());
    if globals.quiet {
        output::print(&format!("{folder}\n"))?;
    } else {
        output::print(&format!("{folder}  {} objects\n", report.note.objects))?;
        eprintln!("next: sutler serve --dir {folder}");
    }
    Ok(complete(&report))
}
