//! `sutler package lint` and `sutler package init`: what a package is made of, looked at and written before it is pushed.

use super::{
    error::CliError,
    output::{self, Format, printable},
    session::Session,
};
use crate::package::{self, Severity, Source, Wanted};
use clap::Args;
use std::path::{Path, PathBuf};
use sutler_base::{PackageName, Version, path::InstallPath};

/// What is said beside what a file says of itself. It goes before that.
#[derive(Debug, Clone, Args)]
pub struct SourceArgs {
    /// The package's name [default: as the file says; of a program and of an archive needed]
    #[arg(long, value_name = "NAME")]
    name: Option<PackageName>,
    /// Its version [default: as the file says; of a program and of an archive needed]
    #[arg(id = "package_version", long = "version", value_name = "VERSION")]
    version: Option<Version>,
    /// Where its files go on each client [default: as the file says, else /opt/NAME]
    #[arg(long, value_name = "DIR")]
    directory: Option<InstallPath>,
    /// A file with keys as in package.toml; each takes the place of what the file says of itself
    #[arg(long, value_name = "FILE")]
    with: Option<PathBuf>,
}

impl From<SourceArgs> for Wanted {
    fn from(args: SourceArgs) -> Self {
        Wanted { name: args.name, version: args.version, directory: args.directory, with: args.with }
    }
}

/// `sutler package lint`: 1 if anything can't be pushed.
pub fn lint(session: &Session, paths: &[PathBuf], wanted: &Wanted, format: Format) -> Result<u8, CliError> {
    let (mut rows, mut code) = (Vec::new(), 0);
    for path in paths {
        for finding in package::lint(path, wanted, session.now()) {
            if finding.severity == Severity::Error {
                code = 1;
            }
            let shown = printable(&path.display().to_string());
            rows.push(vec![finding.severity.as_str().to_owned(), shown, printable(&finding.sentence)]);
        }
    }
    output::rows(&["severity", "path", "finding"], &rows, format)?;
    Ok(code)
}

/// `sutler package init`
pub fn init(session: &Session, path: &Path, folder: Option<&Path>, wanted: &Wanted) -> Result<(), CliError> {
    if path.is_file() {
        let tried = format!("make a folder of {}", path.display());
        let source = Source::open(path, wanted).map_err(|e| CliError::local(&tried, &e))?;
        let folder = folder.map_or_else(|| PathBuf::from(source.definition.name.as_str()), Path::to_owned);
        package::init_of(&source, &folder).map_err(|e| CliError::local(&tried, &e))?;
        return session.done(&folder.display().to_string(), &format!("{}@{}", source.definition.name, source.definition.version));
    }
    if let Some(other) = folder {
        return Err(CliError::usage_hint(
            format!("{} is no file that a package could be made of, so {} is one folder too many", path.display(), other.display()),
            "name the file first, then the folder to make of it; or a folder alone",
        ));
    }
    package::init(path).map_err(|e| CliError::local(format!("make a package's folder of {}", path.display()), &e))?;
    session.done(&path.display().to_string(), "has a package.toml to start from")
}
