//! `sutler events`: what happened, and what happens, across breaks of the connection.

use super::{
    error::CliError,
    output::{self, Column, Format, OutputArg, Record, printable, word},
    session::{Session, call, service},
    when::{self, moment},
};
use clap::Args;
use sutler_base::{Timestamp, state::EventKind};
use sutler_proto::{
    convert::{Word, wire_time},
    v1,
};
use tonic::{Code, Streaming};

/// How long after one look the next one begins at the earliest.
const PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// Below the options.
pub const HELP: &str = "Each event has a cursor. `--since CURSOR` goes on after it and misses nothing; events that are not kept
any more (limits.events of the manager) are an error, never a gap. With --follow the connection may break and
the manager be started again: every event comes once.

Examples:
  sutler events
  sutler events --since 24h --kind JOB_ENDED --kind EXECUTION_FAILED
  sutler events --object jobs/JOB
  sutler events --follow --since 48151623 -o json";

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// After this event.
    Cursor(i64),
    /// So long ago.
    Ago(std::time::Duration),
    /// At this moment.
    At(Timestamp),
}

/// A cursor (`48151623`), an age (`24h`) or a moment (`2027-01-31T12:00:00Z`).
fn since(text: &str) -> Result<Since, String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map(Since::Cursor).map_err(|_| "a cursor is a number that the column CURSOR shows".to_owned());
    }
    if let Ok(time) = text.parse() {
        return Ok(Since::At(time));
    }
    when::duration(text).map(Since::Ago).map_err(|e| format!("give the cursor of an event (a number), an age (24h) or a time; {e}"))
}

/// A kind of events: `JOB_ENDED`, `job-ended`.
fn kind(text: &str) -> Result<EventKind, String> {
    text.to_ascii_uppercase().replace('-', "_").parse().map_err(|e: sutler_base::Invalid| e.0)
}

/// What is asked for.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Print events as they happen, until it is interrupted
    #[arg(short, long)]
    follow: bool,
    /// Begin after this cursor, so long ago (24h), or at a time [default: the last 100; with --follow: now]
    #[arg(long, value_name = "CURSOR|AGE", value_parser = since)]
    since: Option<Since>,
    /// Only events of this kind (such as JOB_ENDED, EXECUTION_FAILED, CLIENT_OVERDUE); may be given several times
    #[arg(long, value_parser = kind)]
    kind: Vec<EventKind>,
    /// Only events about this object (jobs/ID, clients/ID)
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    object: String,
    /// How to show it
    #[command(flatten)]
    output: OutputArg,
}

impl EventsArgs {
    fn kinds(&self) -> Vec<i32> {
        self.kind.iter().map(|kind| kind.to_wire()).collect()
    }

    /// The cursor and the time that it begins with.
    fn begin(&self, now: Timestamp) -> (String, Option<prost_types::Timestamp>) {
        match self.since {
            None => (String::new(), None),
            Some(Since::Cursor(cursor)) => (cursor.to_string(), None),
            Some(Since::Ago(age)) => (String::new(), Some(wire_time(now.checked_sub(age).unwrap_or(Timestamp::UNIX_EPOCH)))),
            Some(Since::At(time)) => (String::new(), Some(wire_time(time))),
        }
    }
}

impl Record for v1::Event {
    const TYPE: &'static str = "sutler.v1.Event";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("cursor", |e| e.cursor.clone()),
        Column::new("time", |e| moment(&e.time)),
        Column::new("severity", severity),
        Column::new("kind", kind_word),
        Column::wide("object", |e| e.object.clone()),
        Column::new("sentence", |e| e.sentence.clone()),
        Column::wide("attributes", |e| {
            let mut pairs: Vec<_> = e.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
            pairs.sort();
            pairs.join(" ")
        }),
    ];
}

fn severity(e: &v1::Event) -> String {
    word!(Severity, "SEVERITY", e.severity)
}

fn kind_word(e: &v1::Event) -> String {
    word!(EventKind, "EVENT_KIND", e.kind)
}

/// Runs the command.
pub async fn run(args: EventsArgs, session: &Session) -> Result<u8, CliError> {
    if args.follow {
        follow(args, session).await?
    } else {
        list(args, session).await?
    }
    Ok(0)
}

async fn list(args: EventsArgs, session: &Session) -> Result<(), CliError> {
    let (after_cursor, start_time) = args.begin(session.now());
    let page_size = if args.since.is_some() { sutler_base::limits::PAGE_MAX } else { 100 };
    let mut request = v1::ListEventsRequest {
        page_size: page_size as i32,
        kinds: args.kinds(),
        object: args.object.clone(),
        after_cursor,
        start_time,
        ..Default::default()
    };
    let mut events: Vec<v1::Event> = Vec::new();
    loop {
        let page = call!(session, events.list_events(request.clone()), "list the events")?;
        events.extend(page.events);
        // A page may be short where only some of the events are reached.
        if page.next_page_token.is_empty() || (args.since.is_none() && events.len() >= page_size as usize) {
            break;
        }
        request.page_token = page.next_page_token;
    }
    // The newest at the bottom, as in a log.
    events.reverse();
    output::list(&events, args.output.format)
}

async fn follow(args: EventsArgs, session: &Session) -> Result<(), CliError> {
    let (cursor, start_time) = args.begin(session.now());
    let mut request = v1::WatchEventsRequest { cursor, start_time, kinds: args.kinds(), object: args.object.clone() };
    let format = args.output.format;
    if format == Format::Csv {
        output::list::<v1::Event>(&[], format)?;
    }
    loop {
        let mut stream = open(session, &request).await?;
        let opened = tokio::time::Instant::now();
        loop {
            match stream.message().await {
                Ok(Some(message)) => {
                    output::print(&text(&message.events, format))?;
                    // Only after that: what could not be printed was not seen.
                    request.cursor = message.cursor;
                    request.start_time = None;
                }
                Ok(None) => break,
                // The manager stops or the way breaks: go on where it was.
                Err(status) if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted) => {
                    break;
                }
                Err(status) => return Err(CliError::Call { tried: "watch the events".into(), status: Box::new(status) }),
            }
        }
        // One that breaks again and again is not asked without pause.
        tokio::time::sleep_until(opened + PAUSE).await;
    }
}

async fn open(session: &Session, request: &v1::WatchEventsRequest) -> Result<Streaming<v1::WatchEventsResponse>, CliError> {
    let connection = session.connection().await?;
    let origin = connection.origin();
    connection
        .patiently("watch the events", |channel| {
            let (request, origin) = (request.clone(), origin.clone());
            async move { service::events(channel, origin).watch_events(request).await }
        })
        .await
}

fn text(events: &[v1::Event], format: Format) -> String {
    let line = |e: &v1::Event| {
        let words = [e.cursor.clone(), moment(&e.time), severity(e), kind_word(e), e.sentence.clone()];
        printable(&words.join("  ")) + "\n"
    };
    match format {
        Format::Table => events.iter().map(line).collect(),
        Format::Json => events.iter().map(|e| output::json_line(&output::json_of(e))).collect(),
        Format::Csv => output::csv_rows(events),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_at_a_cursor_an_age_or_a_time() {
        assert_eq!(since("4711"), Ok(Since::Cursor(4711)));
        assert_eq!(since("24h"), Ok(Since::Ago(std::time::Duration::from_secs(86_400))));
        assert!(matches!(since("2027-01-31T12:00:00Z"), Ok(Since::At(_))));
        for bad in ["", "yesterday", "-1", "99999999999999999999"] {
            assert!(since(bad).is_err(), "{bad}");
        }
        assert_eq!(kind("job-ended"), Ok(EventKind::JobEnded));
        assert!(kind("job").unwrap_err().contains("JOB_ENDED"));
    }
}
