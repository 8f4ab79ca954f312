//! `sutler client label`: what operators say about clients.

use super::{
    approval::ConfirmArg,
    ask,
    error::CliError,
    import::{self, Row},
    names,
    session::{Session, call, pages, request_id},
};
use clap::Subcommand;
use std::{collections::HashMap, path::PathBuf};
use sutler_base::{ClientId, limits, quoted};
use sutler_proto::v1;

/// Examples of the noun.
pub const EXAMPLES: &str = "Examples:
  sutler client label set CLIENT site=berlin role=kiosk
  sutler client label unset CLIENT role
  sutler client label import labels.csv";

/// What can be done with labels.
#[derive(Debug, Subcommand)]
pub enum LabelCommand {
    /// Set labels of a client
    #[command(after_help = "Examples:
  sutler client label set CLIENT site=berlin role=kiosk")]
    Set {
        /// The client's id
        #[arg(value_parser = names::client)]
        client: String,
        /// Labels
        #[arg(value_name = "KEY=VALUE", required = true, value_parser = names::label)]
        labels: Vec<(String, String)>,
    },
    /// Remove labels of a client
    #[command(after_help = "Examples:
  sutler client label unset CLIENT site role")]
    Unset {
        /// The client's id
        #[arg(value_parser = names::client)]
        client: String,
        /// Keys of labels
        #[arg(value_name = "KEY", required = true, value_parser = names::label_key)]
        keys: Vec<String>,
    },
    /// Set labels of many clients from a CSV file, all or none
    ///
    /// A row is CLIENT,KEY=VALUE… or CLIENT,KEY,VALUE, where CLIENT is an id or a host name that one client has. Empty lines and
    /// lines that start with # are passed over. A row that can't be used refuses the whole file, and its line is named.
    #[command(after_help = "Examples:
  sutler client label import labels.csv
  sutler client label import - < labels.csv")]
    Import {
        /// The file; - for the standard input
        file: PathBuf,
        /// Confirms how many clients that reaches
        #[command(flatten)]
        confirm: ConfirmArg,
    },
}

/// Runs a command of this noun.
pub async fn run(command: LabelCommand, session: &Session) -> Result<(), CliError> {
    let mut confirmed = 0;
    let (changes, tried, lines) = match command {
        LabelCommand::Set { client, labels } => {
            let tried = format!("set labels of {client}");
            (vec![v1::LabelChange { client, set: labels.into_iter().collect(), unset: vec![] }], tried, None)
        }
        LabelCommand::Unset { client, keys } => {
            let tried = format!("unset labels of {client}");
            (vec![v1::LabelChange { client, set: HashMap::new(), unset: keys }], tried, None)
        }
        LabelCommand::Import { file, confirm } => {
            confirmed = confirm.confirm;
            let rows = import::csv(&ask::read_text(&file, import::FILE_MAX)?);
            let ids = if rows.iter().any(needs_host_names) { host_names(session).await? } else { HashMap::new() };
            let (changes, lines) =
                label_rows(&rows, &ids).map_err(|rows| CliError::Rows { path: file.clone(), rows, hint: HINT.into() })?;
            if changes.is_empty() {
                return Err(CliError::usage(format!("{} has no rows", file.display())));
            }
            (changes, format!("set labels from {}", file.display()), Some((file, lines)))
        }
    };
    let names: Vec<String> = if lines.is_none() { changes.iter().map(|c| c.client.clone()).collect() } else { vec![] };
    let request = v1::SetLabelsRequest { changes, request_id: request_id()?, confirm: confirmed };
    let answer = call!(session, clients.set_labels(request), "{tried}");
    let answer = match (answer, &lines) {
        (Err(e), Some((file, lines))) => return Err(import::with_lines(e, "changes", file, lines, HINT)),
        (answer, _) => answer?,
    };
    match names.first() {
        Some(name) => session.done(name, if answer.changed == 0 { "had these labels already" } else { "labels changed" }),
        None => session.done(&answer.changed.to_string(), "clients changed"),
    }
}

const HINT: &str =
    "a row is CLIENT,KEY=VALUE or CLIENT,KEY,VALUE; CLIENT is an id of `sutler client list`, or a host name that one client has";

fn id_of(text: &str) -> Option<String> {
    names::client(text).ok()
}

fn needs_host_names(row: &Row) -> bool {
    row.cells.first().is_some_and(|client| id_of(client).is_none())
}

/// The clients of each host name.
async fn host_names(session: &Session) -> Result<HashMap<String, Vec<String>>, CliError> {
    let clients = pages!(session, clients.list_clients(v1::ListClientsRequest::default()) -> clients, "look up host names");
    let mut ids: HashMap<String, Vec<String>> = HashMap::new();
    for client in clients {
        ids.entry(client.hostname).or_default().push(client.name);
    }
    Ok(ids)
}

type Changes = (Vec<v1::LabelChange>, Vec<usize>);

/// The changes that the rows of a file ask for, with the line of each; or a sentence for every bad row.
fn label_rows(rows: &[Row], host_names: &HashMap<String, Vec<String>>) -> Result<Changes, Vec<String>> {
    let (mut changes, mut lines, mut bad): (Vec<v1::LabelChange>, Vec<usize>, Vec<String>) = Default::default();
    let mut places: HashMap<String, usize> = HashMap::new();
    if rows.len() > limits::IMPORT_ROWS_MAX {
        return Err(vec![format!("there are {} rows; at most {} are taken at once", rows.len(), limits::IMPORT_ROWS_MAX)]);
    }
    for row in rows {
        match label_row(row, host_names) {
            Ok((client, labels)) => {
                let place = *places.entry(client.clone()).or_insert_with(|| {
                    changes.push(v1::LabelChange { client, ..Default::default() });
                    lines.push(row.line);
                    changes.len() - 1
                });
                for (key, value) in labels {
                    if changes[place].set.get(&key).is_some_and(|v| *v != value) {
                        bad.push(format!("line {}: {} gets two values for the label {key}", row.line, quoted(&row.cells[0])));
                    }
                    changes[place].set.insert(key, value);
                }
            }
            Err(sentence) => bad.push(format!("line {}: {sentence}", row.line)),
        }
    }
    if bad.is_empty() { Ok((changes, lines)) } else { Err(bad) }
}

type LabelRow = (String, Vec<(String, String)>);

fn label_row(row: &Row, host_names: &HashMap<String, Vec<String>>) -> Result<LabelRow, String> {
    let [client, cells @ ..] = row.cells.as_slice() else { return Err("it is empty".into()) };
    let client = match (id_of(client), host_names.get(client).map(Vec::as_slice)) {
        (Some(id), _) => id,
        (None, Some([name])) => name.clone(),
        (None, None | Some([])) => return Err(format!("no client is called {}", quoted(client))),
        (None, Some(many)) => {
            let ids = many.iter().take(4).map(|n| names::short(n)).collect::<Vec<_>>().join(" ");
            return Err(format!("{} clients are called {}: {ids}", many.len(), quoted(client)));
        }
    };
    debug_assert!(names::short(&client).parse::<ClientId>().is_ok() || !host_names.is_empty());
    let labels = match cells {
        [] => return Err("it names no label".into()),
        [key, value] if !key.contains('=') => vec![names::label(&format!("{key}={value}"))?],
        pairs => pairs.iter().filter(|p| !p.is_empty()).map(|pair| names::label(pair)).collect::<Result<_, _>>()?,
    };
    Ok((client, labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_labels_is_taken_whole_or_its_bad_lines_are_named() {
        let ids = HashMap::from([
            ("web-1".to_owned(), vec!["clients/0123456789abcdef".to_owned()]),
            ("twin".to_owned(), vec!["a".into(), "b".into()]),
        ]);
        let (changes, lines) = label_rows(
            &import::csv("# client,label\n0123456789abcdeg,site,berlin\n\nweb-1,site=x,role=\"a, b\"\nclients/0123456789abcdeg,role=y\n"),
            &ids,
        )
        .unwrap();
        assert_eq!(lines, [2, 4]);
        assert_eq!(changes[0].client, "clients/0123456789abcdeg");
        assert_eq!((changes[0].set["site"].as_str(), changes[0].set["role"].as_str()), ("berlin", "y"));
        assert_eq!(changes[1].set["role"], "a, b");
        let bad =
            label_rows(&import::csv("web-1,site=x\nnobody,site=x\ntwin,site=x\nweb-1,Site,x\nweb-1\nweb-1,site=y"), &ids).unwrap_err();
        assert_eq!(bad.len(), 5, "{bad:?}");
        for (sentence, line) in bad.iter().zip([2, 3, 4, 5, 6]) {
            assert!(sentence.starts_with(&format!("line {line}:")), "{sentence}");
        }
    }
}
