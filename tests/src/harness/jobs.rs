//! A job as `sutler job status -o json` shows it.

use super::cli::Cli;
use super::wait::{PATIENCE, wait_for_value};
use serde_json::Value;
use std::time::Duration;

/// One client's row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The client's id, without `clients/`.
    pub client: String,
    /// The state without its prefix: `SUCCEEDED`.
    pub state: String,
    /// The word for why.
    pub reason: String,
    /// One sentence.
    pub detail: String,
    /// How many attempts there have been.
    pub attempts: i64,
    /// The whole row as JSON.
    pub json: Value,
}

/// A job with its counters and rows.
#[derive(Debug, Clone)]
pub struct JobView {
    /// The state without its prefix: `ACTIVE`.
    pub state: String,
    /// The job as JSON.
    pub json: Value,
    /// Its rows.
    pub rows: Vec<Row>,
}

impl JobView {
    /// The job as it is now.
    pub fn of(cli: &Cli, job: &str) -> JobView {
        let answer = cli.json(&format!("job status {job}"));
        let rows = answer["executions"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let row = |row: Value| Row {
            client: text(&row["client"]).trim_start_matches("clients/").to_owned(),
            state: text(&row["state"]).trim_start_matches("EXECUTION_STATE_").to_owned(),
            reason: text(&row["reason"]),
            detail: text(&row["detail"]),
            attempts: row["attemptCount"].as_i64().unwrap_or_default(),
            json: row,
        };
        let rows = rows.into_iter().map(row).collect();
        JobView { state: text(&answer["job"]["state"]).trim_start_matches("JOB_STATE_").to_owned(), json: answer["job"].clone(), rows }
    }

    /// Waits until the job is as wanted.
    ///
    /// # Panics
    ///
    /// When it isn't after `timeout`.
    pub fn wait(cli: &Cli, job: &str, what: &str, timeout: Duration, wanted: impl Fn(&JobView) -> bool) -> JobView {
        wait_for_value(what, timeout, || JobView::of(cli, job), wanted)
    }

    /// Waits until the row of `client` is in `state`.
    pub fn wait_for_row(cli: &Cli, job: &str, client: &str, state: &str) -> Row {
        let view = JobView::wait(cli, job, &format!("{client} to be {state} in job {job}"), PATIENCE, |view| {
            view.row(client).is_some_and(|row| row.state == state)
        });
        view.row(client).cloned().expect("it is there")
    }

    /// Waits until the row of `client` is at an end, whichever.
    pub fn wait_for_end(cli: &Cli, job: &str, client: &str) -> Row {
        const ENDS: [&str; 8] =
            ["SUCCEEDED", "ALREADY_INSTALLED", "ALREADY_ABSENT", "FAILED", "REJECTED", "CANCELED", "EXPIRED", "INTERRUPTED"];
        let ended = |view: &JobView| view.row(client).is_some_and(|row| ENDS.contains(&row.state.as_str()));
        let view = JobView::wait(cli, job, &format!("{client} to be done with job {job}"), PATIENCE, ended);
        view.row(client).cloned().expect("it is there")
    }

    /// The row of a client.
    pub fn row(&self, client: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.client == client)
    }

    /// A counter: `total`, `finished`, `error`, `rejected`, `canceled`, `waiting`, `running`, `alreadyInstalled`.
    pub fn count(&self, counter: &str) -> i64 {
        // 64-bit numbers are texts in the JSON of the API.
        let value = &self.json["counters"][counter];
        value.as_i64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default()
    }

    /// All counters that aren't zero, as `finished=2 total=3`, in the order of the domain's text.
    pub fn counters(&self) -> String {
        let names = ["total", "finished", "error", "rejected", "canceled", "waiting", "running", "alreadyInstalled"];
        let parts: Vec<String> = names.iter().filter(|n| self.count(n) != 0).map(|n| format!("{n}={}", self.count(n))).collect();
        parts.join(" ")
    }
}
