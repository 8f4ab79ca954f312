//! The publisher's side of packages: from what people have to signed bytes that can be sent.
//!
//! [`source`] recognises a folder, a `.deb`, a `.rpm`, a program or an archive and says what the package is; [`definition`] reads
//! and writes `package.toml`, [`build`] turns it and the files into a manifest and chunks, [`sign`] signs
//! the manifest with the publisher's key, and [`bundle`] hands out what a manager gets: object by object, or as a file that
//! any client of the API can upload. [`signed_file`] reads such a file back. Nothing here speaks with a manager.

pub mod build;
pub mod bundle;
pub mod definition;
mod document;
mod found;
pub mod init;
pub mod lint;
pub mod pattern;
pub mod sign;
pub mod signed_file;
pub mod source;

pub use build::{BuildError, Built, Progress, build};
pub use bundle::{BundleError, Object, Summary, write_bundle};
pub use definition::{Definition, DefinitionError};
pub use found::Files;
pub use init::{InitError, init, init_of};
pub use lint::{Finding, Severity, lint};
pub use sign::{SignedPackage, sign};
pub use source::{Source, SourceError, Wanted};

/// A whole `package.toml`, with every key that there is: it installs a tool that is a shell script.
pub const EXAMPLE: &str = include_str!("example.toml");

/// The tool that [`EXAMPLE`] installs.
pub const EXAMPLE_TOOL: &str = include_str!("example-hello.sh");

/// Makes the package that [`EXAMPLE`] describes in `folder`, which must be there: `package.toml` and the tool.
pub fn write_example(folder: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let bin = folder.join("files/bin");
    fs_err::create_dir_all(&bin)?;
    fs_err::write(folder.join(definition::FILE), EXAMPLE)?;
    fs_err::write(bin.join("hello"), EXAMPLE_TOOL)?;
    fs_err::set_permissions(bin.join("hello"), PermissionsExt::from_mode(0o755))
}
