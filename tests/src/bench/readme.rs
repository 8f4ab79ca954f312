//! The table and the picture in README.md's section *Performance*.

use super::{
    line::{COLUMNS, Line},
    plot, root, run,
};
use std::fmt::Write as _;

const BEGIN: &str = "<!-- The table is made by: cargo run --release -p sutler-tests --bin bench -- all --write -->\n";
const END: &str = "<!-- End of the table of figures. -->\n";
/// The section comes before this one.
const NEXT: &str = "## Operators\n";

const TEXT: &str = "## Performance

Each figure is measured beside a peer or a limit in the same run, with the real programs as processes and default settings;
rounds of both alternate, medians with their spread. `cargo run --release -p sutler-tests --bin bench -- all` does it on your
machine (`list` says what there is).

";

/// Puts the table into README.md, and the picture beside it; makes the section where there is none.
pub(super) fn write(lines: &[Line]) {
    let file = root().join("README.md");
    let text = fs_err::read_to_string(&file).unwrap_or_else(|e| panic!("{e}"));
    fs_err::write(&file, with_table(&text, &table(lines))).unwrap_or_else(|e| panic!("{e}"));
    fs_err::write(root().join(plot::FILE), plot::svg(lines)).unwrap_or_else(|e| panic!("{e}"));
}

fn table(lines: &[Line]) -> String {
    let picture = format!("![Of each figure, how far it is from what has to be reached]({})", plot::FILE);
    let mut text = format!("{}\n\n{picture}\n\n| {} |\n|{}\n", run::describe(false), COLUMNS.join(" | "), "---|".repeat(COLUMNS.len()));
    for line in lines {
        let columns: Vec<String> = line.columns().iter().map(|column| column.replace('|', "\\|")).collect();
        let _ = writeln!(text, "| {} |", columns.join(" | "));
    }
    text
}

fn with_table(readme: &str, table: &str) -> String {
    if let Some((before, rest)) = readme.split_once(BEGIN)
        && let Some((_, after)) = rest.split_once(END)
    {
        return format!("{before}{BEGIN}\n{table}\n{END}{after}");
    }
    let section = format!("{TEXT}{BEGIN}\n{table}\n{END}\n");
    match readme.split_once(NEXT) {
        Some((before, after)) => format!("{before}{section}{NEXT}{after}"),
        None => format!("{readme}\n{section}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_is_made_once_and_its_table_is_replaced() {
        let first = with_table("# X\n\n## Operators\n\ntext\n", "one");
        assert!(first.contains("## Performance\n") && first.ends_with("## Operators\n\ntext\n") && first.contains("\none\n"));
        let second = with_table(&first, "two");
        assert_eq!(second, first.replace("\none\n", "\ntwo\n"));
        // The place is there in this repository.
        assert!(fs_err::read_to_string(root().join("README.md")).unwrap().contains(NEXT));
    }
}
