//! Reads rows from files, and says in which line a row was that the manager refused.

use super::error::CliError;
use std::path::Path;
use tonic_types::StatusExt;

/// The longest file of rows (bytes).
pub const FILE_MAX: u64 = 16 << 20;

/// A row with the line, from 1, on which it starts.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// The line.
    pub line: usize,
    /// Its cells without the white space around them.
    pub cells: Vec<String>,
}

/// The rows of a CSV text (RFC 4180). Empty lines and lines that start with `#` are passed over.
pub fn csv(text: &str) -> Vec<Row> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut rows = Vec::new();
    let mut chars = text.chars().peekable();
    let mut line = 1;
    while chars.peek().is_some() {
        let start = line;
        let (mut cells, mut cell, mut quoted, mut was_quoted) = (vec![], String::new(), false, false);
        loop {
            match chars.next() {
                Some('"') if quoted && chars.peek() == Some(&'"') => {
                    chars.next();
                    cell.push('"');
                }
                Some('"') if quoted => quoted = false,
                // Also within a cell, as in key="a, b": what stands in quotes is text.
                Some('"') => (quoted, was_quoted) = (true, true),
                Some(',') if !quoted => cells.push(std::mem::take(&mut cell).trim().to_owned()),
                Some('\n') if !quoted => break,
                None => break,
                Some(c) => {
                    line += usize::from(c == '\n');
                    cell.push(c);
                }
            }
        }
        line += 1;
        cells.push(cell.trim().to_owned());
        let empty = cells.iter().all(String::is_empty) && !was_quoted;
        if !empty && !cells[0].starts_with('#') {
            rows.push(Row { line: start, cells });
        }
    }
    rows
}

/// The rows of a text with one value a line. Empty lines and lines that start with `#` are passed over.
pub fn lines(text: &str) -> Vec<(usize, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().enumerate().map(|(n, line)| (n + 1, line.trim().to_owned()));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect()
}

/// The error of a call whose repeated field `field` came from a file: its violations as lines of that file.
pub fn with_lines(error: CliError, field: &str, file: &Path, lines: &[usize], hint: &str) -> CliError {
    let CliError::Call { status, .. } = &error else { return error };
    let violations = status.get_error_details().bad_request().map(|b| b.field_violations.clone()).unwrap_or_default();
    let rows: Vec<String> = violations
        .iter()
        .filter_map(|v| {
            // How many more there are.
            if v.field.is_empty() {
                return Some(v.description.clone());
            }
            let (index, _) = v.field.strip_prefix(field)?.strip_prefix('[')?.split_once(']')?;
            let line = lines.get(index.parse::<usize>().ok()?)?;
            // The manager counts the rows that it got; here the lines of the file count.
            let description =
                v.description.strip_prefix("row ").and_then(|d| d.split_once(": ")).map_or(v.description.as_str(), |(_, d)| d);
            Some(format!("line {line}: {description}"))
        })
        .collect();
    if rows.is_empty() { error } else { CliError::Rows { path: file.into(), rows, hint: hint.into() } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::{Code, Status};
    use tonic_types::ErrorDetails;

    #[test]
    fn rows_know_their_lines() {
        let rows = csv("\u{feff}a, b\r\n\n# no\n\"x\ny\",\"say \"\"z\"\"\"\n,\nlast");
        let found: Vec<_> = rows.iter().map(|r| (r.line, r.cells.iter().map(String::as_str).collect::<Vec<_>>())).collect();
        assert_eq!(found, [(1, vec!["a", "b"]), (4, vec!["x\ny", "say \"z\""]), (7, vec!["last"])]);
        assert_eq!(lines("a\n\n #x\n b \n"), [(1, "a".to_owned()), (4, "b".to_owned())]);
    }

    #[test]
    fn a_refused_row_is_named_by_its_line() {
        let details = ErrorDetails::with_bad_request_violation("clients[1]", "row 2: no client is called \"x\"");
        let status = Status::with_error_details(Code::InvalidArgument, "1 row is wrong", details);
        let error = CliError::Call { tried: "add".into(), status: Box::new(status) };
        match with_lines(error, "clients", Path::new("f"), &[3, 7], "") {
            CliError::Rows { rows, .. } => assert_eq!(rows, ["line 7: no client is called \"x\""]),
            other => panic!("{other}"),
        }
    }
}
