//! Asks a person before something that can't be undone.

use super::error::CliError;
use std::io::{self, BufRead, IsTerminal, Write};

/// Asks `question`; anything but yes is no. With `yes` nothing is asked. Where nobody can answer it is refused.
pub fn confirm(question: &str, yes: bool) -> Result<(), CliError> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(CliError::usage_hint(
            format!("this needs an answer, and nobody can give one here: {question}"),
            "say --yes if you mean it",
        ));
    }
    eprint!("{} [y/N] ", super::output::printable(question));
    let _ = io::stderr().flush();
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(|source| CliError::File { tried: "read", path: "the answer".into(), source })?;
    if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") { Ok(()) } else { Err(CliError::Declined) }
}

/// The content of a file of at most `limit` bytes, `-` for the standard input.
pub fn read_text(path: &std::path::Path, limit: u64) -> Result<String, CliError> {
    use std::io::Read;
    let failed = |source| CliError::File { tried: "read", path: path.into(), source };
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        io::stdin().lock().take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        std::fs::File::open(path).and_then(|f| f.take(limit + 1).read_to_end(&mut bytes)).map_err(failed)?;
    }
    if bytes.len() as u64 > limit {
        return Err(failed(io::Error::other(format!("it has more than {limit} bytes"))));
    }
    String::from_utf8(bytes).map_err(|_| failed(io::Error::other("it is not UTF-8")))
}

/// The first line of a file, without its end: a password. Never an argument, which every user of the machine can read.
pub fn read_secret(path: &std::path::Path) -> Result<String, CliError> {
    let text = read_text(path, 4096)?;
    let line = text.lines().next().unwrap_or_default().to_owned();
    if line.is_empty() {
        return Err(CliError::usage(format!("the first line of {} is empty; it should be the password", path.display())));
    }
    Ok(line)
}
