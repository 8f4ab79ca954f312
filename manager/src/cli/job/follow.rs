//! Follows a job while it changes, across breaks of the connection.

use super::{
    super::{
        error::CliError,
        names,
        output::{self, Format, word},
        session::{Session, service},
    },
    view,
};
use std::collections::HashMap;
use sutler_proto::v1;
use tonic::{Code, Streaming};

/// What the manager says about a job, as it happens.
pub(super) struct Following<'a> {
    session: &'a Session,
    name: String,
    stream: Option<Streaming<v1::WatchJobResponse>>,
    known: HashMap<String, v1::Execution>,
}

/// Something changed.
pub(super) struct Change {
    /// The job now.
    pub job: v1::Job,
    /// The rows that differ from what was known.
    pub rows: Vec<v1::Execution>,
}

impl<'a> Following<'a> {
    pub(super) fn new(session: &'a Session, name: &str) -> Self {
        Following { session, name: name.to_owned(), stream: None, known: HashMap::new() }
    }

    async fn open(&self) -> Result<Streaming<v1::WatchJobResponse>, CliError> {
        let connection = self.session.connection().await?;
        let origin = connection.origin();
        let request = v1::WatchJobRequest { name: self.name.clone() };
        connection
            .patiently(&format!("watch the job {}", names::short(&self.name)), |channel| {
                let (request, origin) = (request.clone(), origin.clone());
                async move { service::jobs(channel, origin).watch_job(request).await }
            })
            .await
    }

    /// The next change; nothing when the job has ended. May be dropped while it waits: nothing is lost.
    pub(super) async fn next(&mut self) -> Result<Option<Change>, CliError> {
        loop {
            if self.stream.is_none() {
                self.stream = Some(self.open().await?);
            }
            let Some(stream) = self.stream.as_mut() else { continue };
            match stream.message().await {
                Ok(Some(message)) => return Ok(Some(self.changed(message))),
                Ok(None) => return Ok(None),
                // The manager stops or the way breaks: ask again. The first message then has all rows; those that are known
                // already are no change.
                Err(status) if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted) => {
                    self.stream = None;
                }
                Err(status) => {
                    let tried = format!("watch the job {}", names::short(&self.name));
                    return Err(CliError::Call { tried, status: Box::new(status) });
                }
            }
        }
    }

    fn changed(&mut self, message: v1::WatchJobResponse) -> Change {
        let mut rows = Vec::new();
        for row in message.executions {
            if self.known.get(&row.client) != Some(&row) {
                self.known.insert(row.client.clone(), row.clone());
                rows.push(row);
            }
        }
        Change { job: message.job.unwrap_or_default(), rows }
    }

    /// All rows that are known.
    pub(super) fn rows(&self) -> Vec<&v1::Execution> {
        let mut rows: Vec<_> = self.known.values().collect();
        rows.sort_by(|a, b| a.client.cmp(&b.client));
        rows
    }
}

/// `sutler job watch`
pub(super) async fn changes(session: &Session, name: &str, format: Format) -> Result<(), CliError> {
    let mut following = Following::new(session, name);
    let mut log = Log::new(format);
    log.begin()?;
    while let Some(change) = following.next().await? {
        log.write(&change)?;
    }
    Ok(())
}

/// Writes changes, one a line.
pub(super) struct Log {
    format: Format,
    last: String,
}

impl Log {
    pub(super) fn new(format: Format) -> Log {
        Log { format, last: String::new() }
    }

    /// The header of CSV.
    pub(super) fn begin(&self) -> Result<(), CliError> {
        if self.format == Format::Csv { output::list::<v1::Execution>(&[], Format::Csv) } else { Ok(()) }
    }

    pub(super) fn write(&mut self, change: &Change) -> Result<(), CliError> {
        let text = match self.format {
            Format::Table => {
                let mut text: String = change.rows.iter().map(view::line).collect();
                let state = word!(JobState, "JOB_STATE", change.job.state);
                let summary = format!("{}  {state}  {}\n", change.job.name, view::counters_line(&view::counters(&change.job)));
                if summary != self.last {
                    text.push_str(&output::printable(summary.trim_end()));
                    text.push('\n');
                    self.last = summary;
                }
                text
            }
            Format::Json => {
                let message = v1::WatchJobResponse { job: Some(change.job.clone()), executions: change.rows.clone() };
                output::json_line(&output::json_of(&message))
            }
            Format::Csv => output::csv_rows(&change.rows),
        };
        output::print(&text)
    }
}
