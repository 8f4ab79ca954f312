//! `sutler publisher`: signing packages, and whom agents trust to sign.

use super::{
    error::CliError,
    output::{self, Column, Format, OutputArg, Record},
    passphrase::{self, NewKeyArgs},
    push::{self, SignArgs},
    session::{Globals, Session, call},
    trust,
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
  sutler publisher revoke --package clamav@1.4.3 -o revocations.json
  sutler publisher publish ./revocations.json
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
    /// Sign the package in a folder, or add your signature to what others signed: a package, a trust document, a revocation list
    ///
    /// A package is written as a file with a message of PackageService.PushPackage a line, all content included, which any
    /// client of the API can upload. No manager is needed: carry the file from one publisher to the next.
    #[command(after_help = "Examples:
  sutler publisher sign ./clamav -o clamav.jsonl
  sutler publisher sign ./clamav --publisher-key /media/key/publisher.key -o clamav.jsonl
  sutler publisher sign ./clamav.jsonl --publisher-key ./second.key
  sutler publisher sign ./trust-2.json --publisher-key ./second.key")]
    Sign {
        /// The folder with package.toml, or the file that others signed
        source: PathBuf,
        /// The file to write [default: the signed file itself]
        #[arg(short = 'o', long = "output", value_name = "FILE")]
        output: Option<PathBuf>,
        /// With what and as what it is signed
        #[command(flatten)]
        sign: SignArgs,
    },
    /// Say what a signed package, trust document or revocation list says, whether it is whole, and whether enough publishers signed it
    ///
    /// Ends with 1 if agents would refuse it.
    #[command(after_help = "Examples:
  sutler publisher verify ./clamav.jsonl
  sutler publisher verify ./trust-2.json --trust ./trust.json")]
    Verify {
        /// The file
        file: PathBuf,
        /// The trust document that agents hold [default: the one of your profile]
        #[arg(long, value_name = "FILE")]
        trust: Option<PathBuf>,
    },
    /// Make the next trust document: other keys, threshold, prefixes or end
    ///
    /// It needs the signatures of enough keys before and after it: `publisher sign` adds them, `publisher publish` hands it on.
    #[command(after_help = "Examples:
  sutler publisher rotate --add-key cm9sbC1vdmVyLW9mLWtleXMtaW4tYmFzZTY0LTMyYnk= -o trust-2.json
  sutler publisher rotate --remove-key 0123456789abcdef0123456789abcdef -o trust-3.json
  sutler publisher rotate --remove-set drivers -o trust-4.json")]
    Rotate(trust::RotateArgs),
    /// Take signed packages back: make the next revocation list
    ///
    /// Agents then refuse what is revoked or older than the minimum, whatever a manager offers. When the list ends, they
    /// install nothing before they got a newer one.
    #[command(after_help = "Examples:
  sutler publisher revoke --package clamav@1.4.3 --reason 'CVE-2026-1234' -o revocations.json
  sutler publisher revoke --minimum clamav=1700000000 --expires 90d -o revocations.json
  sutler publisher revoke --expires 90d -o revocations.json")]
    Revoke(trust::RevokeArgs),
    /// Hand a signed trust document or revocation list to the manager, which hands it to all agents
    #[command(after_help = "Examples:
  sutler publisher publish ./trust-2.json
  sutler publisher publish ./revocations.json")]
    Publish {
        /// The file
        file: PathBuf,
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
        PublisherCommand::Sign { source, output, sign } if source.is_file() => {
            let (key, _) = push::publisher_key(session, sign.publisher_key.as_deref())?;
            trust::add_signature(session, &source, output.as_deref().unwrap_or(&source), &key)?;
        }
        PublisherCommand::Sign { source, output, sign } => {
            let Some(output) = output else { return Err(CliError::usage("say with -o FILE where the signed package is to be written")) };
            let package = push::build_and_sign(session, &source, &sign, session.now())?;
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
        PublisherCommand::Verify { file, trust } => trust::verify(session, &file, trust.as_deref())?,
        PublisherCommand::Rotate(args) => trust::rotate(session, args)?,
        PublisherCommand::Revoke(args) => trust::revoke(session, args)?,
        PublisherCommand::Publish { file } => trust::publish(session, &file).await?,
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
