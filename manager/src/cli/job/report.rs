//! `sutler job report`: every client of a job with what came of each package.

use super::{
    super::{
        error::CliError,
        names,
        output::{self, Column, Record, csv_row, json_line, json_of, word},
        session::{Session, call},
        when::moment,
    },
    view,
};
use clap::ValueEnum;
use sutler_proto::v1;

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub enum As {
    /// For spreadsheets
    #[default]
    Csv,
    /// The JSON of the API, with the same member names as grpcurl shows
    Json,
}

const HEADER: [&str; 18] = [
    "client",
    "hostname",
    "state",
    "reason",
    "detail",
    "mark",
    "attempts",
    "since",
    "attempt_from",
    "attempt_to",
    "last_contact",
    "package",
    "result",
    "error",
    "message",
    "step",
    "exit_code",
    "seconds",
];

impl Record for v1::ReportRow {
    const TYPE: &'static str = "sutler.v1.ReportRow";
    const COLUMNS: &'static [Column<Self>] = &[];
}

/// Prints the report, page after page: a job may have more clients than one wants to hold.
pub(super) async fn print(session: &Session, job: &str, output: As) -> Result<(), CliError> {
    let mut request =
        v1::ListReportRowsRequest { parent: job.to_owned(), page_size: sutler_base::limits::PAGE_MAX as i32, ..Default::default() };
    let mut before = match output {
        As::Csv => csv_row(HEADER),
        As::Json => "[".to_owned(),
    };
    loop {
        let page = call!(session, reports.list_report_rows(request.clone()), "report on {}", names::short(job))?;
        for row in &page.rows {
            match output {
                As::Csv => before.push_str(&csv(row)),
                As::Json => before.push_str(&format!("\n{},", json_line(&json_of(row)).trim_end())),
            }
        }
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
        output::print(&std::mem::take(&mut before))?;
    }
    if output == As::Json {
        // The last row has nothing after it.
        before = format!("{}\n]\n", before.strip_suffix(',').unwrap_or(&before));
    }
    output::print(&before)
}

/// A row for each package of a client; one without a package where there is none yet.
fn csv(row: &v1::ReportRow) -> String {
    let e = row.execution.clone().unwrap_or_default();
    let client = [
        names::short(&e.client).to_owned(),
        e.hostname.clone(),
        view::state(&e),
        e.reason.clone(),
        e.detail.clone(),
        e.mark.clone(),
        e.attempt_count.to_string(),
        moment(&e.enter_time),
        moment(&row.attempt_time),
        moment(&row.end_time),
        moment(&e.last_seen_time),
    ];
    let package = |item: &v1::ItemResult| {
        [
            names::package_word(&item.package),
            word!(ExecutionState, "EXECUTION_STATE", item.state),
            item.error_kind.clone(),
            item.message.clone(),
            item.step.clone(),
            item.exit_code.map(|code| code.to_string()).unwrap_or_default(),
            format!("{:.1}", item.duration_ms as f64 / 1000.0),
        ]
    };
    let line = |package: [String; 7]| csv_row(client.iter().chain(&package).map(String::as_str));
    if e.items.is_empty() { line(Default::default()) } else { e.items.iter().map(|item| line(package(item))).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_a_row_for_each_package_and_a_spreadsheet_sees_no_formula() {
        let item = |package: &str| v1::ItemResult { package: package.into(), exit_code: Some(3), duration_ms: 1500, ..Default::default() };
        let execution = v1::Execution {
            client: "clients/c".into(),
            hostname: "=cmd|' /c calc'!A1".into(),
            items: vec![item("packages/a/versions/1"), item("packages/b/versions/2")],
            ..Default::default()
        };
        let row = v1::ReportRow { execution: Some(execution), ..Default::default() };
        let text = csv(&row);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.lines().all(|line| line.starts_with("c,'=cmd|") && line.ends_with(",3,1.5")), "{text}");
        assert!(text.contains("a@1") && text.contains("b@2"), "{text}");
        let columns = |line: &str| line.matches(',').count();
        assert_eq!(columns(&csv(&v1::ReportRow::default())), HEADER.len() - 1);
        assert_eq!(columns(&csv_row(HEADER)), HEADER.len() - 1);
    }
}
