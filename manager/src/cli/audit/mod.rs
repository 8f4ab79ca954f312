//! `sutler audit`: who did what, when; whether the log is as it was written; and how parts of it leave the database.
//!
//! The check is made here, from what the manager hands out: it does not rest on the manager's word that all is well.

mod file;

use super::{
    error::CliError,
    output::{self, Column, OutputArg, Record},
    session::{Session, call},
    when::moment,
};
use crate::{
    app::audit::drop_segments,
    config::{Config, Overrides},
    folder::Folder,
    world::World,
};
use clap::Subcommand;
use std::path::PathBuf;
use sutler_base::{Digest, limits};
use sutler_core::{
    audit::{AuditRecord, AuditSegment, ChainEnd, Check, Verdict},
    model::AuditEntry,
};
use sutler_proto::{convert, v1};
use sutler_store::{Store, unit};

/// Examples of the noun.
pub const EXAMPLES: &str = "Examples:
  sutler audit list
  sutler audit list --object groups/new-clients
  sutler audit verify
  sutler audit export audit-2027-01.jsonl";

/// What can be done with the audit log. Nothing changes an entry.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// List entries, the newest first
    #[command(after_help = "Examples:
  sutler audit list
  sutler audit list --limit 0 -o csv > audit.csv
  sutler audit list --object groups/new-clients")]
    List {
        /// Only entries about this object (such as groups/new-clients, jobs/ID, clients/ID)
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        object: String,
        /// At most so many entries; 0 for all
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Check that no entry was edited, removed, inserted or moved since it was written
    #[command(after_help = "The whole log is read, and compared with what the running manager remembers. With an export, that
is checked too, and the log must have everything that the export has: keep exports where nobody can change them. Ends with 1 if
anything is wrong.

Examples:
  sutler audit verify
  sutler audit verify audit-2027-01.jsonl
  sutler audit verify audit-2027-01.jsonl --offline")]
    Verify {
        /// An export to check, and to compare the log with
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// Check the export alone
        #[arg(long, requires = "file")]
        offline: bool,
    },
    /// Write the whole log into a new file, checked on the way
    #[command(after_help = "Examples:
  sutler audit export audit-2027-01.jsonl")]
    Export {
        /// The file: it must not be there
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// On the manager's host: drop the entries of sealed segments that an export holds
    #[command(after_help = "Sealed are segments that are full (1000 entries) or whose first entry is older than limits.audit_seal (a day).
Their records stay, so that the rest can still be checked. The manager may go on running meanwhile.

Examples:
  sutler audit drop audit-2027-01.jsonl --dir D")]
    Drop {
        /// The export
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The manager's folder
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The database, if it isn't the one that manager.toml names
        #[arg(long, value_name = "URL", env = "SUTLER_DATABASE", hide_env_values = true)]
        database: Option<String>,
    },
}

impl Record for v1::AuditEntry {
    const TYPE: &'static str = "sutler.v1.AuditEntry";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("sequence", |e| e.sequence.to_string()),
        Column::new("time", |e| moment(&e.time)),
        Column::new("actor", |e| e.actor.clone()),
        Column::new("action", |e| e.action.clone()),
        Column::new("object", |e| e.object.clone()),
        Column::new("detail", |e| e.detail.clone()),
        Column::wide("chain", |e| e.chain.to_string()),
        Column::wide("number", |e| e.number.to_string()),
        Column::wide("hash", |e| e.hash.clone()),
    ];
}

/// Runs a command of this noun.
pub async fn run(command: AuditCommand, session: &Session) -> Result<u8, CliError> {
    match command {
        AuditCommand::List { object, limit, output } => list(object, limit, output, session).await,
        AuditCommand::Verify { file, offline } => verify(file, offline, session).await,
        AuditCommand::Export { file } => {
            let (segments, end) = segments(session).await?;
            let mut writer = file::Writer::create(&file, segments, end.into_iter().collect())?;
            each(session, |record| writer.add(record)).await?;
            let verdict = writer.finish()?;
            session.done(&file.display().to_string(), &format!("{} entries", verdict.entries))?;
            judge(&verdict, "the audit log", session)
        }
        AuditCommand::Drop { file, dir, database } => drop_held(file, dir, database, session).await,
    }
}

async fn list(object: String, limit: usize, output: OutputArg, session: &Session) -> Result<u8, CliError> {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let mut request = v1::ListAuditEntriesRequest { object, ..Default::default() };
    let mut entries = Vec::new();
    loop {
        request.page_size = (limit - entries.len()).min(limits::PAGE_MAX as usize) as i32;
        let page = call!(session, audit.list_audit_entries(request.clone()), "list the audit log")?;
        entries.extend(page.entries);
        if page.next_page_token.is_empty() || entries.len() >= limit {
            break;
        }
        request.page_token = page.next_page_token;
    }
    entries.truncate(limit);
    output::list(&entries, output.format)?;
    Ok(0)
}

async fn verify(path: Option<PathBuf>, offline: bool, session: &Session) -> Result<u8, CliError> {
    let mut wanted = Vec::new();
    if let Some(path) = &path {
        let export = file::read(path)?;
        let code = judge(&export.verdict, &format!("the export {}", path.display()), session)?;
        if offline || code != 0 {
            return Ok(code);
        }
        wanted = export.ends;
    }
    let (segments, end) = segments(session).await?;
    wanted.extend(end);
    let mut check = Check::new(segments, wanted);
    each(session, |record| {
        check.add(record);
        Ok(())
    })
    .await?;
    judge(&check.finish(), "the audit log", session)
}

/// Says what a check found: 0 if nothing is wrong.
fn judge(verdict: &Verdict, what: &str, session: &Session) -> Result<u8, CliError> {
    if verdict.faults.is_empty() {
        let mut sentence = format!("good: {} entries, {} sealed segments", verdict.entries, verdict.segments);
        if verdict.dropped > 0 {
            sentence += &format!(", {} more of which only exports have the entries", verdict.dropped);
        }
        if verdict.unchained > 0 {
            sentence += &format!("; {} entries are older than the chains and can't be checked", verdict.unchained);
        }
        session.tell(&format!("{what} is {sentence}"));
        return Ok(0);
    }
    let faults: Vec<String> = verdict.faults.iter().map(|fault| format!("{}\n", output::printable(fault))).collect();
    output::print(&faults.concat())?;
    session.tell(&format!("{what} is not as it was written: somebody changed it past the manager"));
    Ok(1)
}

async fn drop_held(path: PathBuf, dir: PathBuf, database: Option<String>, session: &Session) -> Result<u8, CliError> {
    let tried = || format!("drop entries of the audit log of {}", dir.display());
    let export = file::read(&path)?;
    if judge(&export.verdict, &format!("the export {}", path.display()), session)? != 0 {
        return Ok(1);
    }
    let folder = Folder::open(&dir).map_err(|e| CliError::local(tried(), &e))?;
    let config = Config::load(folder, &Overrides { database, ..Overrides::default() }).map_err(|e| CliError::local(tried(), &e))?;
    let store = Store::open(&config.database).await.map_err(|e| CliError::local(tried(), &e))?;
    let (held, now) = (export.held, World::system().now());
    let dropped = store.write("drop_audit", unit!([held, now] | tx | { drop_segments(tx, now, &held).await })).await;
    store.close().await;
    let dropped = dropped.map_err(|e| CliError::local(tried(), &e))?;
    session.done("audit", &format!("{dropped} entries dropped that {} holds", path.display()))?;
    Ok(0)
}

/// The sealed segments, and the end that the manager remembers; to be asked for before the entries.
async fn segments(session: &Session) -> Result<(Vec<AuditSegment>, Option<ChainEnd>), CliError> {
    let mut request = v1::ListAuditSegmentsRequest { page_size: limits::PAGE_MAX as i32, ..Default::default() };
    let (mut all, mut first) = (Vec::new(), None);
    loop {
        let page = call!(session, audit.list_audit_segments(request.clone()), "list the segments of the audit log")?;
        first.get_or_insert(page.end);
        for segment in page.segments {
            all.push(segment_of(segment).map_err(unreadable)?);
        }
        if page.next_page_token.is_empty() {
            let end = first.flatten().map(|e| end_of(&e)).transpose().map_err(unreadable)?;
            return Ok((all, end));
        }
        request.page_token = page.next_page_token;
    }
}

/// Goes over the log from its oldest entry on.
async fn each(session: &Session, mut visit: impl FnMut(&AuditRecord) -> Result<(), CliError>) -> Result<(), CliError> {
    let mut request = v1::ListAuditEntriesRequest { page_size: limits::PAGE_MAX as i32, oldest_first: true, ..Default::default() };
    loop {
        let page = call!(session, audit.list_audit_entries(request.clone()), "read the audit log")?;
        for entry in page.entries {
            visit(&record_of(entry).map_err(unreadable)?)?;
        }
        if page.next_page_token.is_empty() {
            return Ok(());
        }
        request.page_token = page.next_page_token;
    }
}

fn unreadable(why: sutler_base::Invalid) -> CliError {
    CliError::Local { tried: "read the manager's answer".into(), why: why.0, hint: None }
}

fn time_of(time: Option<prost_types::Timestamp>) -> Result<sutler_base::Timestamp, sutler_base::Invalid> {
    convert::time(&time.unwrap_or_default())
}

fn record_of(entry: v1::AuditEntry) -> Result<AuditRecord, sutler_base::Invalid> {
    Ok(AuditRecord {
        chain: entry.chain,
        number: entry.number,
        previous: entry.previous_hash.parse::<Digest>()?,
        hash: entry.hash.parse::<Digest>()?,
        entry: AuditEntry {
            sequence: entry.sequence,
            time: time_of(entry.time)?,
            actor: entry.actor,
            action: entry.action,
            object: entry.object,
            detail: entry.detail,
        },
    })
}

fn end_of(end: &v1::AuditChainEnd) -> Result<ChainEnd, sutler_base::Invalid> {
    Ok(ChainEnd { chain: end.chain, number: end.number, hash: end.hash.parse()? })
}

fn segment_of(segment: v1::AuditSegment) -> Result<AuditSegment, sutler_base::Invalid> {
    Ok(AuditSegment {
        number: segment.number,
        first: segment.first,
        last: segment.last,
        entries: segment.entries,
        hash: segment.hash.parse()?,
        ends: segment.ends.iter().map(end_of).collect::<Result<_, _>>()?,
        sealed: time_of(segment.seal_time)?,
        dropped: segment.drop_time.map(|t| convert::time(&t)).transpose()?,
    })
}
