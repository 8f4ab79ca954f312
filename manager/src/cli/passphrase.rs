//! Passphrases of private keys: from a file, or asked for at the terminal, where they are not shown.
//!
//! The rule, for every key that a command makes: with `--passphrase-file` (or `SUTLER_PASSPHRASE_FILE`) it is encrypted with
//! the file's first line; at a terminal the passphrase is asked for; `--no-passphrase` leaves it unencrypted. Where there is
//! neither a file nor a terminal, nobody could say it again later: the key is left unencrypted, and the command says so.

use super::{ask, error::CliError, session::Globals};
use clap::Args;
use rustix::termios::{self, LocalModes, OptionalActions, SpecialCodeIndex, Termios};
use std::io::{self, BufRead, IsTerminal, Write};
use sutler_certs::{Passphrase, PublisherKey, passphrase::SHORTEST, publisher::PublisherKeyError};
use zeroize::Zeroizing;

/// What Ctrl-C types.
const CTRL_C: u8 = 3;
/// How often a person may mistype.
const TRIES: usize = 3;

/// Of commands that make keys.
#[derive(Debug, Clone, Args)]
pub struct NewKeyArgs {
    /// Leave the key unencrypted; whoever reads its file can use it
    #[arg(long)]
    pub no_passphrase: bool,
}

/// The passphrase for a new key (what `of` says); none if it is to stay unencrypted.
pub fn for_new_key(of: &str, args: &NewKeyArgs, globals: &Globals) -> Result<Option<Passphrase>, CliError> {
    let long_enough = |p: &Passphrase| p.is_long_enough();
    if args.no_passphrase {
        return Ok(None);
    }
    if let Some(passphrase) = from_file(globals)? {
        return match long_enough(&passphrase) {
            true => Ok(Some(passphrase)),
            false => {
                Err(CliError::usage(format!("the passphrase in the file is too short; it should have at least {SHORTEST} characters")))
            }
        };
    }
    if !is_terminal() {
        eprintln!(
            "note: {of} is not encrypted, since there is no terminal to ask for a passphrase; --passphrase-file FILE gives one, \
             `sutler publisher passphrase` encrypts a publisher's key later"
        );
        return Ok(None);
    }
    for _ in 0..TRIES {
        let first = prompt(&format!("Passphrase for {of} (at least {SHORTEST} characters): "))?;
        match Passphrase::new(&first) {
            Ok(passphrase) if long_enough(&passphrase) => {
                if *prompt("The same again: ")? == *first {
                    return Ok(Some(passphrase));
                }
                eprintln!("These were two different ones.");
            }
            _ => eprintln!("That is too short. With --no-passphrase the key stays unencrypted."),
        }
    }
    Err(CliError::Declined)
}

/// The passphrase of a key that is there.
pub fn for_existing_key(of: &str, globals: &Globals) -> Result<Passphrase, CliError> {
    if let Some(passphrase) = from_file(globals)? {
        return Ok(passphrase);
    }
    if !is_terminal() {
        return Err(CliError::Local {
            tried: format!("use {of}"),
            why: "it is encrypted, and there is no terminal to ask for the passphrase".into(),
            hint: Some("--passphrase-file FILE or SUTLER_PASSPHRASE_FILE names a file whose first line is the passphrase".into()),
        });
    }
    Passphrase::new(&prompt(&format!("Passphrase of {of}: "))?).map_err(|e| CliError::usage(e.0))
}

/// The publisher's key in a file, opened with its passphrase where it has one.
pub fn open_publisher_key(path: &std::path::Path, globals: &Globals) -> Result<PublisherKey, CliError> {
    let of = format!("the publisher's key {}", path.display());
    let key = match PublisherKey::load(path) {
        Err(e) if e.is_encrypted() => PublisherKey::load_with(path, &for_existing_key(&of, globals)?),
        other => other,
    };
    key.map_err(|e: PublisherKeyError| CliError::Local {
        tried: format!("use {of}"),
        why: super::error::causes(&e),
        hint: Some("--publisher-key FILE names another; the one of the first operator is made by `sutler init`".into()),
    })
}

fn from_file(globals: &Globals) -> Result<Option<Passphrase>, CliError> {
    let Some(path) = &globals.passphrase_file else { return Ok(None) };
    let line = Zeroizing::new(ask::read_secret(path)?);
    Passphrase::new(&line).map(Some).map_err(|e| CliError::usage(format!("the first line of {}: {}", path.display(), e.0)))
}

/// Whether somebody can be asked.
pub fn is_terminal() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// What is typed after `question`, which the terminal does not show.
fn prompt(question: &str) -> Result<Zeroizing<String>, CliError> {
    let failed = |source| CliError::File { tried: "read", path: "the passphrase".into(), source };
    // First: whoever sees the question may type, and nothing of that is to be shown or lost.
    let _silence = Silence::begin().map_err(failed)?;
    eprint!("{}", super::output::printable(question));
    let _ = io::stderr().flush();
    let mut line = Zeroizing::new(String::with_capacity(256));
    let read = io::stdin().lock().read_line(&mut line).map_err(failed)?;
    eprintln!();
    if read == 0 || line.as_bytes().contains(&CTRL_C) {
        return Err(CliError::Declined);
    }
    while line.ends_with(['\n', '\r']) {
        line.pop();
    }
    Ok(line)
}

/// While it lives the terminal shows nothing of what is typed. Ctrl-C ends the line then, and not the program, which could not
/// make the terminal show anything again.
struct Silence(Termios);

impl Silence {
    fn begin() -> io::Result<Silence> {
        let before = termios::tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
        silent.special_codes[SpecialCodeIndex::VEOL] = CTRL_C;
        termios::tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Silence(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
