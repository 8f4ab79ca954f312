//! Draws tables without lines and colours: columns of words, a row per record.

use super::printable;
use comfy_table::{ContentArrangement, Table, presets};
use rustix::termios::tcgetwinsize;
use std::io::{self, IsTerminal};

/// The columns and lines of the terminal that the standard output is, if it is one.
pub fn terminal_size() -> Option<(u16, u16)> {
    let out = io::stdout();
    if !out.is_terminal() {
        return None;
    }
    let size = tcgetwinsize(&out).ok()?;
    // A terminal that does not know its size says 0.
    Some((if size.ws_col < 20 { 80 } else { size.ws_col }, if size.ws_row < 5 { 24 } else { size.ws_row }))
}

/// A table. With a width, what is too long is wrapped inside its column; without one every row is a line.
pub(super) fn table(header: &[&str], rows: &[Vec<String>], width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    match width {
        Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    table.set_header(header.iter().map(|h| h.replace('_', " ").to_uppercase()));
    for row in rows {
        table.add_row(row.iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { printable(cell) }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// Names and values, one pair a line; what is empty is left out. A value of several lines is shown indented below its name.
pub fn aligned(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().filter(|(_, value)| !value.is_empty()).map(|(name, _)| name.len() + 1).max().unwrap_or_default();
    let mut text = String::new();
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        let label = format!("{}:", name.replace('_', " "));
        text.push_str(&format!("{label:width$}  {}\n", printable(value)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_empty_is_left_out_and_the_rest_is_aligned() {
        let pairs = [("name", "groups/x".to_owned()), ("description", String::new()), ("join_mode", "OPEN".to_owned())];
        assert_eq!(aligned(&pairs), "name:       groups/x\njoin mode:  OPEN\n");
    }

    #[test]
    fn a_row_is_one_line_where_no_width_is_given() {
        let text = table(&["name", "last_seen"], &[vec!["a\nb".into(), String::new()]], None);
        assert_eq!(text, "NAME  LAST SEEN\na\\nb  -\n");
    }
}
