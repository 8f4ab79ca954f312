//! What the manager tells about itself: its log, its figures, and whether it is well.

pub mod http;
pub mod metrics;

pub use http::{ReadyCheck, TelemetryServer, serve};
pub use metrics::{Enrolled, Metrics};

use std::io::IsTerminal;
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// How lines of the log look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not understood.
    #[error("SUTLER_LOG is no filter: {0}; write a level like info, or sutler=debug,info")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Something else in the process has a log already.
    #[error("the log is set up already: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Sends the log to standard error, from now on and once per process. `filter` is the value of `SUTLER_LOG`; without it,
/// everything from `info` on is written. Panics are written to the log, too.
///
/// Secrets never get into it, whatever the filter: types that hold one don't show it.
pub fn start_log(format: LogFormat, filter: Option<&str>) -> Result<(), LogError> {
    let filter: Targets = filter.filter(|f| !f.is_empty()).unwrap_or("info").parse()?;
    let log = tracing_subscriber::registry().with(filter);
    let lines = fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with(lines.with_ansi(std::io::stderr().is_terminal())).try_init()?,
        LogFormat::Json => log.with(lines.json().flatten_event(true)).try_init()?,
    }
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.payload_as_str().unwrap_or("no text");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        tracing::error!(place, thread = thread.name().unwrap_or_default(), "panic: {text}");
    }));
    Ok(())
}
