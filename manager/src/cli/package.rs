//! `sutler package`: software.

use super::{
    describe, diff,
    error::CliError,
    names,
    output::{self, Column, Format, OutputArg, Record},
    plan, push,
    session::{Session, call, pages, request_id},
    source::{self, SourceArgs},
    when::{bytes, moment},
};
use clap::Subcommand;
use std::path::PathBuf;
use sutler_proto::{convert::json_struct, v1};

/// Examples of the noun.
pub const EXAMPLES: &str = "Examples:
  sutler package push ./clamav
  sutler package lint ./vendor_1.2_amd64.deb
  sutler package list
  sutler package show clamav
  sutler package plan clamav --client CLIENT";

/// What can be done with packages.
#[derive(Debug, Subcommand)]
pub enum PackageCommand {
    /// Sign a package and send what the manager lacks of it
    ///
    /// It is made of a folder with a package.toml (name, version, files, installation directory, steps, detection rules), of a
    /// .deb, a .rpm, a program for Linux (static or an AppImage), or a tar archive (plain, .gz, .xz, .zst). What such a file says of
    /// itself is filled in; `package init` writes that to a folder, `package lint` says what is wrong. It is signed here, with the
    /// publisher's key of your profile; the key stays here.
    #[command(
        disable_version_flag = true,
        after_help = "Examples:
  sutler package push ./clamav
  sutler package push ./clamav --publisher-key /media/key/publisher.key
  sutler package push ./clamav --release 1767225600
  sutler package push ./vendor_1.2_amd64.deb
  sutler package push ./tool --name tool --version 1.2.3
  sutler package push ./tool-1.2.3.tar.gz --name tool --version 1.2.3 --with more.toml"
    )]
    Push {
        /// What it is made of
        path: PathBuf,
        /// What is said besides
        #[command(flatten)]
        source: SourceArgs,
        /// With what and as what it is signed
        #[command(flatten)]
        sign: push::SignArgs,
    },
    /// Write a package.toml to start from
    ///
    /// A folder that is new or empty gets an example with every key; one with files a package.toml that fits them. Of a .deb, a .rpm, a
    /// program or an archive a folder is made that says and holds the same, to be changed and then pushed.
    #[command(
        disable_version_flag = true,
        after_help = "Examples:
  sutler package init ./hello
  sutler package init ./vendor_1.2_amd64.deb ./vendor
  sutler package init ./tool --name tool --version 1.2.3"
    )]
    Init {
        /// The folder, or the file to make one of
        path: PathBuf,
        /// The folder to make of a file [default: ./NAME]
        folder: Option<PathBuf>,
        /// What is said besides
        #[command(flatten)]
        source: SourceArgs,
    },
    /// Say what is wrong with packages, before anything is sent; exit code 1 if one can't be pushed
    #[command(
        disable_version_flag = true,
        after_help = "Examples:
  sutler package lint ./clamav ./vendor_1.2_amd64.deb
  sutler package lint ./tool --name tool --version 1.2.3 -o json"
    )]
    Lint {
        /// What they are made of
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// What is said besides
        #[command(flatten)]
        source: SourceArgs,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// List packages
    #[command(after_help = "Examples:
  sutler package list")]
    List {
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show a version of a package: the newest unless another is named
    #[command(after_help = "Examples:
  sutler package show clamav
  sutler package show clamav@1.0.7 -o json")]
    Show {
        /// NAME or NAME@VERSION
        #[arg(value_name = "NAME[@VERSION]", value_parser = names::package)]
        package: String,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Compare two packages: files, conditions, steps, and what a client that has A is sent for B
    ///
    /// Each is a version on the manager, or what push would take. The options are about what is on this machine.
    #[command(
        disable_version_flag = true,
        after_help = "Examples:
  sutler package diff clamav@1.0.6 clamav@1.0.7
  sutler package diff clamav ./clamav
  sutler package diff ./vendor_1.1_amd64.deb ./vendor_1.2_amd64.deb -o json"
    )]
    Diff {
        /// NAME, NAME@VERSION, or a path
        a: String,
        /// The same of what may take its place
        b: String,
        /// What is said besides
        #[command(flatten)]
        source: SourceArgs,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Say what a job with a package would do on a client: what else is installed, in which order, and why
    ///
    /// What the package depends on comes first, in versions that go together; what the client has already and will do is left alone.
    /// It goes by what the client last reported: what only the machine can tell is said to be unknown.
    #[command(after_help = "Examples:
  sutler package plan clamav --client CLIENT
  sutler package plan clamav@1.0.7 --client CLIENT -o json")]
    Plan {
        /// NAME or NAME@VERSION
        #[arg(value_name = "NAME[@VERSION]", value_parser = names::package)]
        package: String,
        /// Where
        #[arg(long, value_parser = names::client)]
        client: String,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// List the versions of a package, the newest release first
    #[command(after_help = "Examples:
  sutler package versions clamav")]
    Versions {
        /// The package
        #[arg(value_parser = names::package_alone)]
        name: String,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Offer a version to nobody any more; what runs goes on, what has not started waits
    #[command(after_help = "Examples:
  sutler package withdraw clamav@1.0.7 --reason 'crashes on start'
  sutler package withdraw clamav@1.0.7 --cancel")]
    Withdraw {
        /// NAME@VERSION
        #[arg(value_name = "NAME@VERSION", value_parser = names::package_version)]
        package: String,
        /// For people: why
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        /// Cancel what has not started of jobs with this version, too
        #[arg(long)]
        cancel: bool,
    },
    /// Take a withdrawal back; what waits goes on
    #[command(after_help = "Examples:
  sutler package reinstate clamav@1.0.7")]
    Reinstate {
        /// NAME@VERSION
        #[arg(value_name = "NAME@VERSION", value_parser = names::package_version)]
        package: String,
    },
    /// Delete a version or a whole package; refused while a job refers to it or another package needs it
    #[command(after_help = "Examples:
  sutler package delete clamav@1.0.7
  sutler package delete clamav")]
    Delete {
        /// NAME or NAME@VERSION
        #[arg(value_name = "NAME[@VERSION]", value_parser = names::package)]
        package: String,
    },
}

impl Record for v1::Package {
    const TYPE: &'static str = "sutler.v1.Package";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("name", |p| names::short(&p.name).to_owned()),
        Column::new("newest_version", |p| p.newest_version.clone()),
        Column::new("versions", |p| p.version_count.to_string()),
        Column::new("created", |p| moment(&p.create_time)),
        Column::wide("uid", |p| p.uid.clone()),
    ];
}

impl Record for v1::PackageVersion {
    const TYPE: &'static str = "sutler.v1.PackageVersion";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("version", |v| names::package_word(&v.name)),
        Column::new("release", |v| v.release.to_string()),
        Column::new("size", |v| bytes(u64::try_from(v.total_bytes).unwrap_or_default())),
        Column::new("files", |v| v.file_count.to_string()),
        Column::new("pushed", |v| moment(&v.create_time)),
        Column::new("creator", |v| names::short(&v.creator).to_owned()),
        Column::new("description", |v| v.description.clone()),
        Column::wide("bytes", |v| v.total_bytes.to_string()),
        Column::wide("expires", |v| moment(&v.expire_time)),
        Column::new("withdrawn", |v| moment(&v.withdraw_time)),
        Column::wide("withdrawn because", |v| v.withdraw_reason.clone()),
        Column::wide("manifest_digest", |v| v.manifest_digest.clone()),
        Column::wide("damaged", |v| match v.damaged_objects {
            0 => String::new(),
            n => format!("{n} stored objects; push the package again"),
        }),
        Column::wide("uid", |v| v.uid.clone()),
    ];
}

/// Runs a command of this noun.
pub async fn run(command: PackageCommand, session: &Session) -> Result<u8, CliError> {
    match command {
        PackageCommand::Push { path, source, sign } => push::push(session, &path, &source.into(), &sign).await?,
        PackageCommand::Init { path, folder, source } => source::init(session, &path, folder.as_deref(), &source.into())?,
        PackageCommand::Diff { a, b, source, output } => diff::diff(session, &a, &b, &source.into(), output.format).await?,
        PackageCommand::Lint { paths, source, output } => return source::lint(session, &paths, &source.into(), output.format),
        PackageCommand::List { output } => {
            let packages = pages!(session, packages.list_packages(v1::ListPackagesRequest::default()) -> packages, "list the packages");
            output::list(&packages, output.format)?;
        }
        PackageCommand::Show { package, output } => {
            let name = if package.contains("/versions/") { package } else { format!("{package}/versions/latest") };
            let request = v1::GetPackageVersionRequest { name: name.clone(), ..Default::default() };
            let answer = call!(session, packages.get_package_version(request), "show the package {}", names::package_word(&name))?;
            show(&answer.version.unwrap_or_default(), output.format)?;
        }
        PackageCommand::Versions { name, output } => {
            let request = v1::ListPackageVersionsRequest { parent: name.clone(), ..Default::default() };
            let tried = format!("list the versions of {}", names::short(&name));
            let versions = pages!(session, packages.list_package_versions(request) -> versions, "{tried}");
            output::list(&versions, output.format)?;
        }
        PackageCommand::Plan { package, client, output } => plan::plan(session, package, client, output.format).await?,
        PackageCommand::Withdraw { package, reason, cancel } => {
            let tried = format!("withdraw the package {}", names::package_word(&package));
            let request = v1::WithdrawPackageVersionRequest { name: package.clone(), reason, cancel, request_id: request_id()? };
            call!(session, packages.withdraw_package_version(request), "{tried}")?;
            session.done(&package, "withdrawn: it is offered to nobody any more")?;
        }
        PackageCommand::Reinstate { package } => {
            let tried = format!("reinstate the package {}", names::package_word(&package));
            let request = v1::ReinstatePackageVersionRequest { name: package.clone(), request_id: request_id()? };
            call!(session, packages.reinstate_package_version(request), "{tried}")?;
            session.done(&package, "reinstated")?;
        }
        PackageCommand::Delete { package } => {
            let tried = format!("delete the package {}", names::package_word(&package));
            let (name, request_id) = (package.clone(), request_id()?);
            if package.contains("/versions/") {
                call!(session, packages.delete_package_version(v1::DeletePackageVersionRequest { name, request_id }), "{tried}")?;
            } else {
                call!(session, packages.delete_package(v1::DeletePackageRequest { name, request_id }), "{tried}")?;
            }
            session.done(&package, "deleted")?;
        }
    }
    Ok(0)
}

/// A version; in the view for people also what it will do on a machine.
fn show(version: &v1::PackageVersion, format: Format) -> Result<(), CliError> {
    let mut text = output::show_text(version, format);
    if format == Format::Table
        && let Some(manifest) = &version.manifest
        && let Ok(manifest) = serde_json::from_value(json_struct(manifest))
    {
        text.push_str(&output::aligned(&describe::lines(&manifest)));
    }
    output::print(&text)
}
