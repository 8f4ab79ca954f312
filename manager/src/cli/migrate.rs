//! `sutler migrate`: moves the database of a manager that exists, on the manager's host.

use super::{
    ask,
    error::{CliError, causes},
    output,
    session::Globals,
};
use crate::{folder::FolderError, migrate, migrate::MigrateError, world::World};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::path::PathBuf;
use sutler_store::{Phase, Progress};

/// Where the address may stand that `serve` takes, too.
const VARIABLE: &str = "SUTLER_DATABASE";

/// Which kind of database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Database {
    /// The file in the manager's folder
    Sqlite,
    /// A server, which several managers may share
    Postgres,
}

/// Moves a manager's database.
#[derive(Debug, Args)]
#[command(after_help = "Make a backup and stop the manager before; agents and operators come back to it afterwards and
notice nothing but the pause. The installation is the same: identity, CAs, clients, jobs, audit.

All rows are copied, then read back and compared one by one, in one transaction of the new
database. Only when all of them are the same, manager.toml is exchanged for one that names the new
database. The old one stays as it is, and `serve` refuses it from then on. If this ends in between,
whatever the reason, the manager is still the old one: begin again.

The new database has to be empty:
  CREATE DATABASE sutler OWNER sutler ENCODING 'UTF8' TEMPLATE template0
Its address goes into manager.toml, with its password if it has one there. An address with a
password is read from a file, the standard input or SUTLER_DATABASE, never taken from the command
line, which every user of this machine can read.

Examples:
  sutler migrate --dir D --from sqlite --to postgres --database postgres://db/sutler
  sutler migrate --dir D --from sqlite --to postgres --database-file /root/address
  sutler migrate --dir D --from sqlite --to postgres --database-file - < /root/address")]
pub struct MigrateArgs {
    /// The manager's folder
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// What its database is
    #[arg(long, value_enum, value_name = "KIND")]
    from: Database,
    /// What it is to be
    #[arg(long, value_enum, value_name = "KIND")]
    to: Database,
    /// The new database: postgres://USER@HOST/DATABASE, without a password [default: what SUTLER_DATABASE says]
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// A file whose first line is the new database's address; `-` for the standard input
    #[arg(long, value_name = "FILE", conflicts_with = "database")]
    database_file: Option<PathBuf>,
}

/// `sutler migrate`
pub fn run(args: MigrateArgs, globals: &Globals) -> Result<u8, CliError> {
    if (args.from, args.to) != (Database::Sqlite, Database::Postgres) {
        return Err(CliError::usage_hint("a database is moved from sqlite to postgres alone", "say --from sqlite --to postgres"));
    }
    let database = match (&args.database_file, args.database) {
        (Some(file), _) => ask::read_secret(file)?,
        (None, Some(url)) if has_password(&url) => {
            return Err(CliError::usage_hint(
                "the address on the command line has a password in it, which every user of this machine can read there",
                format!("write it into a file that is yours alone, and name that with --database-file; or set {VARIABLE}"),
            ));
        }
        (None, Some(url)) => url,
        (None, None) => std::env::var(VARIABLE).map_err(|_| {
            CliError::usage(format!("where the new database is, is said by --database URL, --database-file FILE or {VARIABLE}"))
        })?,
    };
    let dir = output::printable(&args.dir.display().to_string());
    let tried = format!("move the database of the manager in {}", args.dir.display());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| CliError::local("start", &e))?;
    let bar = bar(globals);
    let moved = runtime.block_on(migrate::migrate(&args.dir, &database, &World::system(), &mut |progress| show(&bar, progress)));
    bar.finish_and_clear();
    let report = moved.map_err(|e| CliError::Local { tried, why: causes(&e), hint: hint(&e) })?;
    if globals.quiet {
        output::print(&format!("{dir}\n"))?;
    } else {
        let rows: Vec<Vec<String>> = report.rows.tables.iter().map(|(table, rows)| vec![table.clone(), rows.to_string()]).collect();
        output::print(&output::table_text(&["table", "rows"], &rows))?;
        let total: u64 = report.rows.tables.iter().map(|(_, rows)| rows).sum();
        let how = if report.rows.was_there {
            "were there from an earlier run and are the same"
        } else {
            "were moved, read back, and are the same"
        };
        eprintln!("{total} rows of {} tables {how}. manager.toml names the new database.", report.rows.tables.len());
        eprintln!(
            "The old one, {}, is as it was, and is not served any more: keep it for as long as you may want to look at it.",
            output::printable(&report.old.display().to_string())
        );
        eprintln!("next: sutler serve --dir {dir}");
    }
    if let Some(why) = report.untold {
        eprintln!("warning: the audit log does not say it: {}", output::printable(&why));
    }
    Ok(0)
}

/// Whether the address of a PostgreSQL has a password in it.
fn has_password(url: &str) -> bool {
    let (_, rest) = url.split_once("://").unwrap_or(("", url));
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let user = place.split('/').next().and_then(|host| host.rsplit_once('@')).map(|(user, _)| user);
    user.is_some_and(|user| user.contains(':')) || query.split('&').any(|pair| pair.starts_with("password="))
}

fn hint(error: &MigrateError) -> Option<String> {
    match error {
        MigrateError::Folder(FolderError::InUse { .. }) => {
            Some("with a service: systemctl stop sutler, and start it again afterwards".into())
        }
        _ => None,
    }
}

/// A bar on the standard error; nothing where nobody looks, or with `--quiet`.
fn bar(globals: &Globals) -> ProgressBar {
    let target = if globals.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let style = ProgressStyle::with_template("{msg:32} [{bar:30}] {human_pos} of {human_len} rows, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(0), target).with_style(style.progress_chars("=> "))
}

fn show(bar: &ProgressBar, progress: Progress<'_>) {
    let what = match progress.phase {
        Phase::Examine => "looking at the old database".to_owned(),
        Phase::Copy => format!("writing {}", progress.table),
        Phase::Index => "making indexes".to_owned(),
        Phase::Check => format!("comparing {}", progress.table),
    };
    // Each row twice: written, and read back.
    let before = if progress.phase == Phase::Check { progress.total } else { 0 };
    bar.set_length(progress.total * 2);
    bar.set_position(before + progress.done);
    bar.set_message(what);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_an_address_is_noticed() {
        for with in [
            "postgres://u:p@h/d",
            "postgres://u:@h/d",
            "postgresql://u:p@h:5432",
            "postgres://h/d?user=u&password=p",
            "postgres://u:p%40@h",
        ] {
            assert!(has_password(with), "{with}");
        }
        for without in
            ["postgres://u@h/d", "postgres://h:5432/d", "postgres://u@h:5432/d?sslmode=verify-full", "postgres:///d?host=/run/x:y@z"]
        {
            assert!(!has_password(without), "{without}");
        }
    }
}
