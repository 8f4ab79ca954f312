//! `sutler package`: software.

use super::{
    error::CliError,
    names,
    output::{self, Column, Format, OutputArg, Record},
    push,
    session::{Session, call, pages, request_id},
    when::{bytes, moment},
};
use clap::Subcommand;
use std::path::PathBuf;
use sutler_proto::{convert::json_struct, v1};

/// Examples of the noun.
pub const EXAMPLES: &str = "Examples:
  sutler package push ./clamav
  sutler package list
  sutler package show clamav";

/// What can be done with packages.
#[derive(Debug, Subcommand)]
pub enum PackageCommand {
    /// Sign the package in a folder and send what the manager lacks of it
    ///
    /// The folder has a package.toml: name, version, files, installation directory, steps, detection rules. It is signed here,
    /// with the publisher's key of your profile; the key stays here.
    #[command(after_help = "Examples:
  sutler package push ./clamav
  sutler package push ./clamav --publisher-key /media/key/publisher.key
  sutler package push ./clamav --release 1767225600")]
    Push {
        /// The folder with package.toml
        folder: PathBuf,
        /// With what and as what it is signed
        #[command(flatten)]
        sign: push::SignArgs,
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
    /// Delete a version, or a package with all its versions; refused while a job refers to one
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
        PackageCommand::Push { folder, sign } => push::push(session, &folder, &sign).await?,
        PackageCommand::List { output } => {
            let packages = pages!(session, packages.list_packages(v1::ListPackagesRequest::default()) -> packages, "list the packages");
            output::list(&packages, output.format)?;
        }
        PackageCommand::Show { package, output } => {
            let name = if package.contains("/versions/") { package } else { format!("{package}/versions/latest") };
            let request = v1::GetPackageVersionRequest { name: name.clone() };
            let answer = call!(session, packages.get_package_version(request), "show the package {}", names::package_word(&name))?;
            show(&answer.version.unwrap_or_default(), output.format)?;
        }
        PackageCommand::Versions { name, output } => {
            let request = v1::ListPackageVersionsRequest { parent: name.clone(), ..Default::default() };
            let tried = format!("list the versions of {}", names::short(&name));
            let versions = pages!(session, packages.list_package_versions(request) -> versions, "{tried}");
            output::list(&versions, output.format)?;
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
    {
        text.push_str(&actions(&json_struct(manifest)));
    }
    output::print(&text)
}

/// Where the files go, the steps with their command lines, the detection rules.
fn actions(manifest: &serde_json::Value) -> String {
    let mut pairs = Vec::new();
    let mut add = |name: &'static str, value: String| pairs.push((name, value));
    let platform = &manifest["platform"];
    if let (Some(os), Some(arch)) = (platform["os"].as_str(), platform["arch"].as_str()) {
        add("platform", format!("{os} {arch}"));
    }
    add("directory", manifest["directory"].as_str().unwrap_or_default().to_owned());
    for step in manifest["steps"].as_array().into_iter().flatten() {
        let phase = step["phase"].as_str().unwrap_or("install");
        let limit = step["time_limit"].as_u64().unwrap_or_default();
        add("step", format!("{} ({phase}, at most {limit} s): {}", step["name"].as_str().unwrap_or_default(), words(&step["argv"])));
    }
    for rule in manifest["detection"].as_array().into_iter().flatten() {
        let what = if rule["argv"].is_array() { words(&rule["argv"]) } else { rule["path"].as_str().unwrap_or_default().to_owned() };
        add("detected by", what);
    }
    output::aligned(&pairs)
}

/// An argument vector with a quotation mark around every argument that has more than plain characters.
fn words(argv: &serde_json::Value) -> String {
    let plain = |a: &str| !a.is_empty() && a.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-=+:,@%".contains(&b));
    let argv = argv.as_array().into_iter().flatten().filter_map(serde_json::Value::as_str);
    argv.map(|a| if plain(a) { a.to_owned() } else { format!("{a:?}") }).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_lines_of_a_package_are_shown_word_by_word() {
        let manifest = serde_json::json!({
            "directory": "/opt/x",
            "steps": [{"name": "set up", "phase": "install", "argv": ["bin/x", "--name=a b", ""], "time_limit": 60}],
            "detection": [{"kind": "file", "path": "bin/x"}],
        });
        let text = actions(&manifest);
        assert!(text.contains("set up (install, at most 60 s): bin/x \"--name=a b\" \"\""), "{text}");
        assert!(text.contains("detected by:  bin/x"), "{text}");
    }
}
