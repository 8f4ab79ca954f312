//! `job logs`: what the log files of a package that failed say at their end.

use super::super::{
    error::CliError,
    names,
    output::{self, printable, printable_lines},
    session::{Session, call},
};
use std::io::Write;
use sutler_proto::v1;

/// Writes the files one after the other, each under a line with its name. On a terminal, what would control it is written out;
/// into a file goes what the files have.
pub(super) async fn show(session: &Session, job: &str, client: &str, attempt: i32) -> Result<(), CliError> {
    let tried = format!("show the logs of {} on {}", names::short(job), names::short(client));
    let name = format!("{job}/executions/{}", names::short(client));
    let mut stream = call!(session, jobs.read_logs(v1::ReadLogsRequest { name, attempt }), "{tried}")?;
    let (mut file, mut data) = (None, Vec::new());
    loop {
        let part = stream.message().await.map_err(|status| CliError::Call { tried: tried.clone(), status: Box::new(status) })?;
        let is_next = part.as_ref().is_none_or(|part| part.file.is_some());
        if is_next && let Some(file) = file.take() {
            write(&file, &std::mem::take(&mut data))?;
        }
        let Some(part) = part else { return Ok(()) };
        file = part.file.or(file);
        data.extend_from_slice(&part.data);
    }
}

fn write(file: &v1::LogFile, data: &[u8]) -> Result<(), CliError> {
    let cut = match file.cut_bytes {
        0 => String::new(),
        before => format!(" (its end; {before} bytes before it were not kept)"),
    };
    let head = format!("{}, {}{cut}:", names::package_word(&file.package), file.path);
    output::print(&format!("{}\n", printable(&head)))?;
    if output::is_terminal() {
        return output::print(&format!("{}\n\n", printable_lines(&String::from_utf8_lossy(data))));
    }
    std::io::stdout().lock().write_all(data).map_err(CliError::Output)?;
    output::print(if data.ends_with(b"\n") { "\n" } else { "\n\n" })
}
