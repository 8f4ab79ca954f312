//! Rows of CSV (RFC 4180) that a spreadsheet takes as text and nothing else.

use super::printable;

/// A row with its line end. What a spreadsheet would take for a formula gets a quotation mark in front, and control
/// characters are written as escapes.
pub fn csv_row<'a>(cells: impl IntoIterator<Item = &'a str>) -> String {
    let mut row = cells.into_iter().map(cell).collect::<Vec<_>>().join(",");
    row.push('\n');
    row
}

fn cell(text: &str) -> String {
    let mut text = printable(text);
    if text.trim_start().starts_with(['=', '+', '-', '@', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}']) {
        text.insert(0, '\'');
    }
    if text.contains(['"', ',', ';']) || text.starts_with(' ') || text.ends_with(' ') {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_formula_becomes_text() {
        assert_eq!(csv_row(["=1+1", "+1", "-1", "@x", " =1", "a=b"]), "'=1+1,'+1,'-1,'@x,' =1,a=b\n");
    }

    #[test]
    fn commas_quotes_and_line_ends_stay_in_their_cell() {
        assert_eq!(csv_row(["a,b", "say \"x\"", "1\n2", "\u{1b}[31m", ""]), "\"a,b\",\"say \"\"x\"\"\",1\\n2,\\u{1b}[31m,\n");
    }
}
