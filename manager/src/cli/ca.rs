//! `sutler ca`: the issuing CAs, on the manager's host.

use super::{error::CliError, output};
use crate::{
    authorities,
    folder::{Folder, FolderLock},
    world::World,
};
use clap::Subcommand;
use std::path::{Path, PathBuf};
use sutler_certs::{
    CaBundle, PrivateKey,
    ca::Authority,
    durable::{self, Readers},
};

/// Examples of the noun.
pub const EXAMPLES: &str = "Examples:
  sutler ca rotate --dir D --root-key /media/safe/root.key
  sutler ca export --dir D --output bundle
  sutler ca import --dir D bundle";

/// The longest bundle that is read (bytes).
const BUNDLE_MAX: u64 = 64 << 10;

/// What can be done with the issuing CAs. These commands work on the manager's folder, whether the manager runs or not.
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Make new issuing CAs under the root
    ///
    /// A manager that runs takes them up within seconds, and nobody is refused: what the CAs before have issued is accepted until
    /// the last of it is out. Other managers accept the new ones by themselves, and get their keys with `ca export` and `ca import`.
    #[command(after_help = "Examples:
  sutler ca rotate --dir D --root-key D/ca/root.key
  sutler ca rotate --dir D --root-key /media/safe/root.key")]
    Rotate {
        /// The manager's folder
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The root's key: `ca/root.key` in the folder, or wherever it was taken to
        #[arg(long, value_name = "FILE")]
        root_key: PathBuf,
    },
    /// Write what another manager of this installation needs: the CAs with their keys, without the root's
    ///
    /// The file is not encrypted, and whoever has it can issue certificates: it is made readable for you alone. Take it to the other
    /// host over a channel that you trust, and delete it.
    #[command(after_help = "Examples:
  sutler ca export --dir D --output bundle")]
    Export {
        /// The manager's folder
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The file to be written: not there yet
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Put the CAs of a bundle into the folder of a manager that has others of the same root
    #[command(after_help = "Examples:
  sutler ca import --dir D bundle")]
    Import {
        /// The manager's folder
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// What `ca export` wrote on another manager
        #[arg(value_name = "BUNDLE")]
        bundle: PathBuf,
    },
}

/// The CAs in a bundle that only its owner can read.
pub fn read_bundle(path: &Path) -> Result<CaBundle, CliError> {
    let tried = || format!("read the bundle {}", path.display());
    let bytes = durable::read_private(path, BUNDLE_MAX).map_err(|e| CliError::local(tried(), &e))?;
    CaBundle::from_text(&String::from_utf8_lossy(&bytes)).map_err(|e| CliError::local(tried(), &e))
}

/// The folder's CAs, and that nobody else reads or exchanges them meanwhile.
fn open(dir: &Path) -> Result<(Folder, FolderLock, CaBundle), Box<dyn std::error::Error>> {
    let folder = Folder::open(dir)?;
    let lock = folder.lock_ca()?;
    let ca = CaBundle::load(&folder.ca())?;
    Ok((folder, lock, ca))
}

/// Runs a command of this noun.
pub fn run(command: CaCommand) -> Result<u8, CliError> {
    match command {
        CaCommand::Rotate { dir, root_key } => {
            let tried = || format!("make new issuing CAs in {}", dir.display());
            let (folder, _lock, ca) = open(&dir).map_err(|e| CliError::local(tried(), &*e))?;
            let key = PrivateKey::load(&root_key).map_err(|e| CliError::local(tried(), &e))?;
            let new = ca.rotate(&key, World::system().now()).map_err(|e| CliError::local(tried(), &e))?;
            authorities::exchange(&new, &folder.ca()).map_err(|e| CliError::local(tried(), &e))?;
            told(&new, "made")?;
            eprintln!(
                "A manager that runs takes them up within seconds. Other managers: `sutler ca export`, and there `sutler ca import`."
            );
        }
        CaCommand::Export { dir, output } => {
            let tried = || format!("write the CAs of {} to {}", dir.display(), output.display());
            let (_, _lock, ca) = open(&dir).map_err(|e| CliError::local(tried(), &*e))?;
            if output.symlink_metadata().is_ok() {
                return Err(CliError::Local {
                    tried: tried(),
                    why: "the file is there already".into(),
                    hint: Some("name a new one".into()),
                });
            }
            durable::write(&output, ca.to_text().as_bytes(), Readers::Owner).map_err(|e| CliError::local(tried(), &e))?;
            super::output::print(&format!("{}\n", super::output::printable(&output.display().to_string())))?;
            eprintln!(
                "Whoever has this file can issue certificates: take it to the other manager over a channel that you trust, then delete it."
            );
        }
        CaCommand::Import { dir, bundle } => {
            let tried = || format!("put the CAs of {} into {}", bundle.display(), dir.display());
            let (folder, _lock, ca) = open(&dir).map_err(|e| CliError::local(tried(), &*e))?;
            let new = read_bundle(&bundle)?;
            if new.root_pin() != ca.root_pin() {
                let why = format!("their root is {}, and that of this manager {}", new.root_pin(), ca.root_pin());
                return Err(CliError::Local {
                    tried: tried(),
                    why,
                    hint: Some("a bundle is for managers of the same installation".into()),
                });
            }
            let new = new.with_root_key_of(ca);
            authorities::exchange(&new, &folder.ca()).map_err(|e| CliError::local(tried(), &e))?;
            told(&new, "taken over")?;
        }
    }
    Ok(0)
}

fn told(ca: &CaBundle, what: &str) -> Result<(), CliError> {
    let began = ca.review(Authority::Agents, ca.certificate(Authority::Agents)).map(|t| t.to_string()).unwrap_or_default();
    output::print(&output::aligned(&[
        ("issuing_cas", what.to_owned()),
        ("root", ca.root_pin().to_string()),
        ("valid_from", began),
        ("valid_until", ca.ends().to_string()),
    ]))
}
