//! `sutler publisher`: signing packages, and whom agents trust to sign.

use super::{
    error::CliError,
    output::{self, Column, Format, OutputArg, Record},
    passphrase::{self, NewKeyArgs},
    push::{self, SignArgs},
    session::{Globals, Session, call},
    when::bytes,
};
use crate::package;
use clap::Subcommand;
use std::path::{Path, PathBuf};
use sutler_certs::{Passphrase, PublisherKey, publisher::PublisherKeyError};
use sutler_proto::{convert::json_struct, v1};

/// Examples of the noun.
pub const EXAMPLES: &str = "Examples:
  sutler publisher show
  sutler publisher sign ./clamav -o clamav.jsonl
  sutler publisher trust show";

/// What a publisher does.
#[derive(Debug, Subcommand)]
pub enum PublisherCommand {
    /// Make a new publisher's key on this machine
    ///
    /// It signs nothing that agents take before the trust document names it: see `sutler publisher rotate`.
    #[command(after_help = "Examples:
  sutler publisher new /media/key/publisher.key
  sutler publisher new ./second.key --passphrase-file ./passphrase")]
    New {
        /// The file to write; one that is there is left alone
        file: PathBuf,
        /// Whether it is encrypted
        #[command(flatten)]
        keys: NewKeyArgs,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Encrypt a key with a new passphrase, or leave it unencrypted with --no-passphrase
    #[command(after_help = "Examples:
  sutler publisher passphrase
  sutler publisher passphrase --publisher-key ./second.key --new-passphrase-file ./passphrase")]
    Passphrase {
        /// The publisher's key [default: the one of your profile]
        #[arg(long, value_name = "FILE")]
        publisher_key: Option<PathBuf>,
        /// A file whose first line is the new passphrase [default: asked for at the terminal]
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
        /// Whether it is encrypted
        #[command(flatten)]
        keys: NewKeyArgs,
    },
    /// Sign the package in a folder and write what any client of the API can upload
    ///
    /// The file has a message of PackageService.PushPackage a line, all content included.
    #[command(after_help = "Examples:
  sutler publisher sign ./clamav -o clamav.jsonl
  sutler publisher sign ./clamav --publisher-key /media/key/publisher.key -o clamav.jsonl")]
    Sign {
        /// The folder with package.toml
        folder: PathBuf,
        /// The file to write
        #[arg(short = 'o', long = "output", value_name = "FILE")]
        output: PathBuf,
        /// With what and as what it is signed
        #[command(flatten)]
        sign: SignArgs,
    },
    /// Show the id and the public half of the key that you sign with
    #[command(after_help = "Examples:
  sutler publisher show
  sutler publisher show --publisher-key /media/key/publisher.key")]
    Show {
        /// The publisher's key [default: the one of your profile]
        #[arg(long, value_name = "FILE")]
        publisher_key: Option<PathBuf>,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// The document that says whose signatures agents accept
    #[command(
        subcommand,
        after_help = "Examples:
  sutler publisher trust show"
    )]
    Trust(TrustCommand),
}

/// What can be done with the trust document.
#[derive(Debug, Subcommand)]
pub enum TrustCommand {
    /// Show the trust document that the manager hands out
    #[command(after_help = "Examples:
  sutler publisher trust show
  sutler publisher trust show -o json")]
    Show {
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
}

impl Record for v1::GetTrustDocumentResponse {
    const TYPE: &'static str = "sutler.v1.GetTrustDocumentResponse";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("digest", |t| t.digest.clone()),
        Column::new("document", |t| t.document.as_ref().map(|d| json_struct(d).to_string()).unwrap_or_default()),
    ];
}

/// Runs a command of this noun.
pub async fn run(command: PublisherCommand, session: &Session) -> Result<u8, CliError> {
    match command {
        PublisherCommand::Sign { folder, output, sign } => {
            let package = push::build_and_sign(session, &folder, &sign, session.now())?;
            let summary = package::write_bundle(&package, &output, &mut |_| {})
                .map_err(|e| CliError::local(format!("write the signed package {}", output.display()), &e))?;
            let manifest = &package.built.manifest;
            session.done(
                &output.display().to_string(),
                &format!(
                    "{}@{} release {}, signed: {} objects of {}, {} messages",
                    manifest.name,
                    manifest.version,
                    manifest.release,
                    summary.objects,
                    bytes(summary.bytes),
                    summary.messages
                ),
            )?;
        }
        PublisherCommand::New { file, keys, output } => {
            let made = |e: PublisherKeyError| CliError::local(format!("make the publisher's key {}", file.display()), &e);
            let passphrase = passphrase::for_new_key(&format!("the publisher's key {}", file.display()), &keys, session.globals())?;
            let key = PublisherKey::generate().map_err(made)?;
            save(&key, &file, passphrase.as_ref()).map_err(made)?;
            show_key(&key, &file, output)?;
        }
        PublisherCommand::Passphrase { publisher_key, new_passphrase_file, keys } => {
            let (key, path) = push::publisher_key(session, publisher_key.as_deref())?;
            let globals = Globals { passphrase_file: new_passphrase_file, ..session.globals().clone() };
            if globals.passphrase_file.is_none() && !keys.no_passphrase && !passphrase::is_terminal() {
                return Err(CliError::usage_hint(
                    "there is no terminal to ask for the new passphrase",
                    "name a file with --new-passphrase-file, or say --no-passphrase",
                ));
            }
            let passphrase = passphrase::for_new_key(&format!("the publisher's key {}", path.display()), &keys, &globals)?;
            let failed = |e: PublisherKeyError| CliError::local(format!("write the publisher's key {}", path.display()), &e);
            key.rewrite(&path, passphrase.as_ref()).map_err(failed)?;
            let how = if passphrase.is_some() { "encrypted with the new passphrase" } else { "not encrypted any more" };
            session.done(&path.display().to_string(), how)?;
        }
        PublisherCommand::Show { publisher_key, output } => {
            let (key, path) = push::publisher_key(session, publisher_key.as_deref())?;
            show_key(&key, &path, output)?;
        }
        PublisherCommand::Trust(TrustCommand::Show { output }) => {
            let answer = call!(session, packages.get_trust_document(v1::GetTrustDocumentRequest {}), "show the trust document")?;
            match output.format {
                Format::Table => {
                    let document = answer.document.as_ref().map(json_struct).unwrap_or_default();
                    let text = output::aligned(&[("digest", answer.digest.clone())]);
                    output::print(&(text + &output::json_text(&document)))?;
                }
                format => output::show(&answer, format)?,
            }
        }
    }
    Ok(0)
}

fn save(key: &PublisherKey, path: &Path, passphrase: Option<&Passphrase>) -> Result<(), PublisherKeyError> {
    match passphrase {
        Some(passphrase) => key.save_with(path, passphrase),
        None => key.save(path),
    }
}

fn show_key(key: &PublisherKey, path: &Path, output: OutputArg) -> Result<(), CliError> {
    let header = ["key_id", "public_key", "file"];
    let row = vec![key.key_id().to_string(), key.public_key().to_string(), path.display().to_string()];
    match output.format {
        Format::Table => {
            let pairs: Vec<_> = header.into_iter().zip(row).collect();
            output::print(&output::aligned(&pairs))
        }
        format => output::rows(&header, &[row], format),
    }
}
