//! `sutler content`: whether the bytes that the manager stores are as they were pushed.

use super::{
    error::CliError,
    names,
    output::{self, Column, OutputArg, Record},
    session::{Session, call, request_id},
    when::{bytes, moment},
};
use clap::Subcommand;
use std::time::Duration;
use sutler_proto::v1;

/// Examples of the noun.
pub const EXAMPLES: &str = "Examples:
  sutler content status
  sutler content scrub --wait";

/// How long to wait before the next look.
const LOOK: Duration = Duration::from_millis(300);

/// What can be done with stored bytes.
#[derive(Debug, Subcommand)]
pub enum ContentCommand {
    /// Show how far the scrub is, and what is damaged; ends with 1 if anything is
    #[command(after_help = "What is damaged is never sent to a machine. Push its package again: only what is damaged is sent, and whoever
waits for it goes on.

Examples:
  sutler content status
  sutler content status -o json")]
    Status {
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Read everything that is stored now, rather than when it is due
    #[command(after_help = "The manager does so by itself (limits.scrub_every) as fast as limits.scrub_rate says.

Examples:
  sutler content scrub
  sutler content scrub --wait")]
    Scrub {
        /// Wait until it is done, and end as `content status` does
        #[arg(long)]
        wait: bool,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
}

impl Record for v1::ContentStatus {
    const TYPE: &'static str = "sutler.v1.ContentStatus";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("scrub", |s| s.round.to_string()),
        Column::new("done", |s| format!("{} %", s.percent)),
        Column::new("objects", |s| s.objects.to_string()),
        Column::new("read", |s| bytes(u64::try_from(s.bytes).unwrap_or_default())),
        Column::new("began", |s| moment(&s.start_time)),
        Column::new("ended", |s| moment(&s.end_time)),
        Column::new("damaged", |s| s.damaged_objects.len().to_string()),
        Column::new("push again", |s| s.damaged_versions.iter().map(|v| names::package_word(v)).collect::<Vec<_>>().join(" ")),
    ];
}

/// Runs a command of this noun.
pub async fn run(command: ContentCommand, session: &Session) -> Result<u8, CliError> {
    let (status, output) = match command {
        ContentCommand::Status { output } => (status(session).await?, output),
        ContentCommand::Scrub { wait, output } => {
            let request = v1::ScrubContentRequest { request_id: request_id()? };
            let round = call!(session, packages.scrub_content(request), "scrub the stored content")?.round;
            if !wait {
                session.done("content", "is being read; `sutler content status` shows how far it is")?;
                return Ok(0);
            }
            loop {
                let now = status(session).await?;
                if now.round >= round && now.end_time.is_some() {
                    break (now, output);
                }
                tokio::time::sleep(LOOK).await;
            }
        }
    };
    output::show(&status, output.format)?;
    Ok(u8::from(!status.damaged_objects.is_empty()))
}

async fn status(session: &Session) -> Result<v1::ContentStatus, CliError> {
    let request = v1::GetContentStatusRequest {};
    Ok(call!(session, packages.get_content_status(request), "show the stored content")?.status.unwrap_or_default())
}
