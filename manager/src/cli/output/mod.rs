//! Shows records as a table, as JSON or as CSV. Data go to the standard output, everything else to the standard error.
//!
//! A record says its columns once; the three formats, and the list and the single view, come from there. Whatever a
//! record holds may have come from a client: [`printable`] makes it harmless before it reaches a terminal, a log or a
//! spreadsheet. Nothing needs colour to be understood.

mod csv;
mod json;
mod table;

use super::error::CliError;
use clap::{Args, ValueEnum};
use prost::Message;
use std::io::{self, IsTerminal, Write};
use sutler_base::is_harmful;

pub use csv::csv_row;
pub use json::{json_line, json_of, json_text};
pub use table::{aligned, terminal_size};

/// How records are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// The JSON of the API, with the same member names as grpcurl shows.
    Json,
    /// For spreadsheets: a header and a row per record.
    Csv,
}

/// The option `-o`, the same wherever records are shown.
#[derive(Debug, Clone, Copy, Args)]
pub struct OutputArg {
    /// How to show it: a table for people, the JSON of the API (same names as grpcurl), or CSV for spreadsheets
    #[arg(short = 'o', long = "output", value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

/// In which views a column stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Everywhere.
    Everywhere,
    /// Not in a table with a row per record, where width is scarce.
    Wide,
}

/// A column of a kind of record.
pub struct Column<R> {
    name: &'static str,
    place: Place,
    value: fn(&R) -> String,
}

impl<R> Column<R> {
    /// A column of every view.
    pub const fn new(name: &'static str, value: fn(&R) -> String) -> Self {
        Column { name, place: Place::Everywhere, value }
    }

    /// A column of CSV and of the view of a single record.
    pub const fn wide(name: &'static str, value: fn(&R) -> String) -> Self {
        Column { name, place: Place::Wide, value }
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What makes a record's text there.
    pub fn value(&self) -> fn(&R) -> String {
        self.value
    }

    /// Its name and what the record has there.
    pub fn pair(&self, record: &R) -> (&'static str, String) {
        (self.name, (self.value)(record))
    }
}

/// What can be shown: a message of the API with its columns.
pub trait Record: Message + Sized + 'static {
    /// The message's full name.
    const TYPE: &'static str;
    /// Its columns, the most important first.
    const COLUMNS: &'static [Column<Self>];
}

/// Many records: a table with a row each, a JSON array, or CSV.
pub fn list<R: Record>(records: &[R], format: Format) -> Result<(), CliError> {
    print(&list_text(records, format, terminal_size().map(|(columns, _)| columns)))
}

/// The text of [`list`]; a table is fitted into `width` columns, if it is given.
pub fn list_text<R: Record>(records: &[R], format: Format, width: Option<u16>) -> String {
    match format {
        Format::Table => {
            let columns: Vec<_> = R::COLUMNS.iter().filter(|c| c.place == Place::Everywhere).collect();
            let header: Vec<&str> = columns.iter().map(|c| c.name).collect();
            let rows: Vec<_> = records.iter().map(|r| columns.iter().map(|c| (c.value)(r)).collect()).collect();
            table::table(&header, &rows, width)
        }
        Format::Json => json_text(&serde_json::Value::Array(records.iter().map(json_of).collect())),
        Format::Csv => csv_row(R::COLUMNS.iter().map(|c| c.name)) + &csv_rows(records),
    }
}

/// Records as CSV without the header.
pub fn csv_rows<R: Record>(records: &[R]) -> String {
    let row = |r: &R| csv_row(R::COLUMNS.iter().map(|c| (c.value)(r)).collect::<Vec<_>>().iter().map(String::as_str));
    records.iter().map(row).collect()
}

/// One record: a line per column, a JSON object, or CSV with one row.
pub fn show<R: Record>(record: &R, format: Format) -> Result<(), CliError> {
    print(&show_text(record, format))
}

/// The text of [`show`].
pub fn show_text<R: Record>(record: &R, format: Format) -> String {
    match format {
        Format::Table => aligned(&R::COLUMNS.iter().map(|c| c.pair(record)).collect::<Vec<_>>()),
        Format::Json => json_text(&json_of(record)),
        Format::Csv => list_text(std::slice::from_ref(record), format, None),
    }
}

/// Rows that are no messages of the API, in any format; the names of the columns are the members in JSON.
pub fn rows(header: &[&str], rows: &[Vec<String>], format: Format) -> Result<(), CliError> {
    print(&match format {
        Format::Table => table_text(header, rows),
        Format::Csv => {
            let csv = std::iter::once(csv_row(header.iter().copied()));
            csv.chain(rows.iter().map(|row| csv_row(row.iter().map(String::as_str)))).collect()
        }
        Format::Json => {
            let object = |row: &Vec<String>| header.iter().zip(row).map(|(name, value)| (camel_case(name), value.clone().into())).collect();
            json_text(&serde_json::Value::Array(rows.iter().map(|row| serde_json::Value::Object(object(row))).collect()))
        }
    })
}

/// The name of a column as a member in JSON: `trustDomain` for `trust_domain`.
fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| name + &word[..1].to_ascii_uppercase() + &word[1..])
}

/// The word of an enum of the API without its prefix: `ACTIVE` for `CLIENT_STATE_ACTIVE`; empty for the zero value.
pub fn short_word(name: Option<&'static str>, prefix: &str) -> String {
    let word = name.unwrap_or("?").strip_prefix(prefix).unwrap_or("?").trim_start_matches('_');
    if word == "UNSPECIFIED" { String::new() } else { word.to_owned() }
}

/// The word of an enum's number: `word!(ClientState, "CLIENT_STATE", client.state)`.
macro_rules! word {
    ($type:ident, $prefix:literal, $value:expr) => {
        $crate::cli::output::short_word(sutler_proto::v1::$type::try_from($value).ok().map(|v| v.as_str_name()), $prefix)
    };
}
pub(crate) use word;

/// A table of texts that are no records.
pub fn table_text(header: &[&str], rows: &[Vec<String>]) -> String {
    table::table(header, rows, terminal_size().map(|(columns, _)| columns))
}

/// Writes data to the standard output.
pub fn print(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CliError::Output)
}

/// Whether a person looks at the standard output.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// `text` as one line that does nothing to a terminal: control, bidirectional and invisible characters are written as escapes.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmful(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// As [`printable`], but lines stay lines and tabs tabs: for the output of programs.
pub fn printable_lines(text: &str) -> String {
    text.lines().map(|line| line.split('\t').map(printable).collect::<Vec<_>>().join("\t")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use sutler_proto::v1;

    fn client() -> v1::Client {
        v1::Client {
            name: "clients/abc".into(),
            hostname: "=cmd|' /c calc'!A1\u{1b}]0;x\u{7}".into(),
            state: v1::ClientState::Active.into(),
            ..Default::default()
        }
    }

    #[test]
    fn nothing_that_a_client_says_reaches_the_terminal_as_an_escape() {
        for format in [Format::Table, Format::Json, Format::Csv] {
            for text in [list_text(&[client()], format, Some(80)), list_text(&[client()], format, None), show_text(&client(), format)] {
                assert!(text.contains("calc"), "{text}");
                assert!(text.chars().all(|c| c == '\n' || !is_harmful(c)), "{format:?} {text:?}");
            }
        }
        assert_eq!(printable("a\u{202e}b\r\n"), "a\\u{202e}b\\r\\n");
        assert_eq!(printable_lines("a\tb\nc\u{1b}[0m"), "a\tb\nc\\u{1b}[0m");
    }

    #[test]
    fn a_spreadsheet_sees_no_formula_in_what_a_client_says() {
        let text = list_text(&[client()], Format::Csv, None);
        assert!(text.contains(",\"'=cmd|"), "{text}");
        assert!(text.starts_with("id,hostname,"), "{text}");
    }

    #[test]
    fn members_of_json_are_written_as_the_api_writes_them() {
        assert_eq!(["name", "trust_domain", "a_b_c"].map(camel_case), ["name", "trustDomain", "aBC"]);
    }

    #[test]
    fn json_has_the_names_and_values_of_the_api() {
        let json = json_of(&client());
        assert_eq!(json["state"], "CLIENT_STATE_ACTIVE");
        assert_eq!(json["agentVersion"], "");
        assert_eq!(json["online"], false);
    }

    #[test]
    fn a_table_fits_the_width_of_the_terminal_and_is_not_cut_where_nobody_looks() {
        let mut client = client();
        client.hostname = "h".repeat(300);
        let text = list_text(&[client.clone()], Format::Table, Some(80));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(list_text(&[client.clone()], Format::Table, None).contains(&client.hostname));
    }
}
