//! Bad input in tables and generated from the API's description: the right code, a text that is bounded and harmless, and not one
//! row of the database that is another one than before.

mod agents;
mod calls;
mod commands;
mod corpora;
mod fields;
mod frames;
mod software;

use sutler_base::token::TokenString;
use sutler_tests::harness::{Api, Cli, Manager, PackageFolder, Reader, Rows};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// A manager that has one of everything.
struct World {
    manager: Manager,
    cli: Cli,
    api: Api,
    reader: Reader,
    client: String,
    job: String,
    token: TokenString,
    // Its connection is the client's: not used, and so nothing happens by itself.
    _agent: Api,
}

impl World {
    fn new() -> World {
        let manager = Manager::start();
        let (cli, api) = (manager.cli(), Api::operator(&manager));
        cli.ok("group create machines");
        cli.ok("group create secure --restricted");
        cli.ok("policy create everybody --group machines --when 'facts.os.family == \"linux\"'");
        cli.ok("question create room --prompt 'Which room?'");
        let package = PackageFolder::counting("hello", "1.0");
        cli.ok(&format!("package push {}", package.path().display()));
        let (agent, client) = Api::client(&TokenString::parse(&cli.ok("token create")).unwrap(), "machine-1");
        let job = cli.id("job run --package hello --group machines");
        let token = TokenString::parse(&cli.ok("token create")).unwrap();
        let reader = Reader::open(&manager);
        World { manager, cli, api, reader, client, job, token, _agent: agent }
    }

    /// A text of a table with what its variables stand for.
    fn filled(&self, text: &str) -> String {
        let letters = |count| "x".repeat(count);
        text.replace("$CLIENT", &self.client)
            .replace("$JOB", &self.job)
            .replace("$TOKEN", self.token.id.as_str())
            .replace("$64", &letters(65))
            .replace("$1K", &letters(1025))
            .replace("$2K", &letters(2049))
    }
}

/// The lines of a table, each with its cells.
fn table(text: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split(" | ").map(str::trim).collect())
}

/// The code as the API's description writes it.
fn word(code: Code) -> String {
    let name = format!("{code:?}");
    let words =
        name.chars().enumerate().flat_map(|(n, c)| (n > 0 && c.is_uppercase()).then_some('_').into_iter().chain([c.to_ascii_uppercase()]));
    words.collect()
}

/// Everything that a status says.
fn said(status: &Status) -> String {
    let details = status.get_error_details();
    let mut text = status.message().to_owned();
    for v in details.bad_request().map(|b| b.field_violations.as_slice()).unwrap_or_default() {
        text += &format!("\n{}: {}", v.field, v.description);
    }
    for v in details.precondition_failure().map(|p| p.violations.as_slice()).unwrap_or_default() {
        text += &format!("\n{} {}: {}", v.r#type, v.subject, v.description);
    }
    if let Some(info) = details.error_info() {
        text += &format!("\n{}", info.reason);
    }
    text
}

/// What is wrong with a refusal, whatever was sent: a code that is always a bug, a text without bound or with something in it that
/// does something to a terminal, or details that its code promises and that aren't there.
fn faults(status: &Status) -> Vec<String> {
    let mut faults = Vec::new();
    let text = said(status);
    if matches!(status.code(), Code::Unknown | Code::Internal) {
        faults.push(format!("{} is always a bug", word(status.code())));
    }
    if text.len() > 12 << 10 {
        faults.push(format!("its texts have {} bytes", text.len()));
    }
    if let Some(c) = text.chars().find(|c| *c != '\n' && sutler_base::is_harmful(*c)) {
        faults.push(format!("its text has {c:?}"));
    }
    let details = status.get_error_details();
    match status.code() {
        Code::InvalidArgument if details.bad_request().is_none_or(|b| b.field_violations.is_empty()) => {
            faults.push("it names no field".into());
        }
        Code::FailedPrecondition if details.precondition_failure().is_none_or(|p| p.violations.is_empty()) => {
            faults.push("it names no precondition".into());
        }
        _ => {}
    }
    faults
}

/// What changed in the database although it must not have.
fn changed(before: &Rows, after: &Rows) -> Option<String> {
    before.difference(after).map(|difference| format!("{difference:.20000}"))
}

/// What the command line prints does nothing to a terminal, and its CSV nothing to a spreadsheet.
///
/// # Panics
///
/// When it does.
fn harmless(what: &str, text: &str) {
    let harm = text.chars().find(|c| *c != '\n' && sutler_base::is_harmful(*c));
    assert!(harm.is_none(), "`{what}` prints {harm:?}: {text:.2000}");
    if what.contains("csv") {
        // As a spreadsheet reads it: quotation marks keep a cell together, two of them are one.
        let (mut cells, mut quoted, mut chars) = (vec![String::new()], false, text.chars().peekable());
        while let Some(c) = chars.next() {
            match c {
                '"' if quoted && chars.peek() == Some(&'"') => cells.last_mut().expect("there is one").extend(chars.next()),
                '"' => quoted = !quoted,
                ',' | '\n' if !quoted => cells.push(String::new()),
                c => cells.last_mut().expect("there is one").push(c),
            }
        }
        for cell in cells {
            assert!(!cell.trim_start().starts_with(['=', '+', '@']), "`{what}` prints a formula: {cell}");
        }
    }
}
