//! `sutler window`: when the machines of groups may be disturbed.

use super::{
    error::CliError,
    names,
    output::{self, Column, OutputArg, Record},
    session::{Session, call, pages, request_id},
    when::{self, moment},
};
use clap::{Args, Subcommand};
use std::time::Duration;
use sutler_base::quoted;
use sutler_core::window::{Day, clock, minutes};
use sutler_proto::v1;

/// Examples of the noun.
pub const EXAMPLES: &str = "Examples:
  sutler window create nights --group offices --on mon-fri --from 22:00 --to 05:00
  sutler window create weekend --group lines --on sat,sun --from 00:00 --for 24h
  sutler job run --package clamav --group offices --deadline 14d";

/// Days of the week as they are typed: `mon-fri`, `sat,sun`, `daily`.
fn days(text: &str) -> Result<Vec<i32>, String> {
    let refused = || format!("days are such as mon, mon-fri, sat,sun or daily, not {}", quoted(text));
    let day = |word: &str| {
        let word = word.trim();
        let fits = |day: &Day| word.eq_ignore_ascii_case(day.short()) || word.eq_ignore_ascii_case(&format!("{day:?}"));
        Day::ALL.iter().position(fits).ok_or_else(refused)
    };
    if text.eq_ignore_ascii_case("daily") {
        return Ok((1..=7).collect());
    }
    let mut all = std::collections::BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (day(first)?, day(last)?),
            None => (day(part)?, day(part)?),
        };
        let mut at = first;
        loop {
            all.insert(at as i32 + 1);
            if at == last {
                break;
            }
            at = (at + 1) % 7;
        }
    }
    Ok(all.into_iter().collect())
}

/// A time of day, in the way in which it is sent.
fn time_of_day(text: &str) -> Result<String, String> {
    minutes(text).map(clock).map_err(|e| e.0)
}

/// When a window is open.
#[derive(Debug, Args)]
pub struct Open {
    /// On which days it opens: mon-fri, sat,sun, daily
    #[arg(long, value_name = "DAYS", value_parser = days_value)]
    on: Option<Days>,
    /// When it opens, by the clock on the wall
    #[arg(long, value_name = "HH:MM", value_parser = time_of_day)]
    from: Option<String>,
    /// When it closes; on the next day if that is not later
    #[arg(long, value_name = "HH:MM", value_parser = time_of_day)]
    to: Option<String>,
    /// For how long it is open by that clock, in place of --to: 30m to 24h
    #[arg(long = "for", value_name = "DURATION", value_parser = when::some_duration, conflicts_with = "to", requires = "from")]
    length: Option<Duration>,
    /// In which zone: `client` for that of each machine, or such as Europe/Berlin [default: client]
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
}

/// Days of the week, by their numbers.
#[derive(Debug, Clone)]
pub struct Days(Vec<i32>);

fn days_value(text: &str) -> Result<Days, String> {
    days(text).map(Days)
}

impl Open {
    /// As it is sent; what is not given is left empty.
    fn wire(self) -> Result<v1::Hours, CliError> {
        let to = match (self.to, self.length) {
            (Some(to), _) => to,
            (None, Some(length)) => {
                let minutes_long = length.as_secs() / 60;
                if minutes_long * 60 != length.as_secs() || !(1..=24 * 60).contains(&minutes_long) {
                    return Err(CliError::Local {
                        tried: "read how long the window is open".into(),
                        why: "it is whole minutes, at most 24h".into(),
                        hint: Some("for longer name several days: they follow each other as one".into()),
                    });
                }
                let from = self.from.as_deref().and_then(|from| minutes(from).ok()).unwrap_or(0);
                clock(((u64::from(from) + minutes_long) % (24 * 60)) as u16)
            }
            (None, None) => String::new(),
        };
        Ok(v1::Hours {
            weekdays: self.on.map(|days| days.0).unwrap_or_default(),
            from: self.from.unwrap_or_default(),
            to,
            zone: self.zone.unwrap_or_default(),
        })
    }
}

/// What can be done with windows.
#[derive(Debug, Subcommand)]
pub enum WindowCommand {
    /// Make a window: from then on jobs begin on the clients of the group only in its windows
    #[command(group = clap::ArgGroup::new("end").required(true).args(["to", "length"]), after_help = "Examples:
  sutler window create nights --group offices --on mon-fri --from 22:00 --to 05:00
  sutler window create sunday --group plant --on sun --from 06:00 --for 4h --zone Asia/Tokyo")]
    Create {
        /// Its name: 1 to 63 of a-z 0-9 and -
        #[arg(value_parser = names::window)]
        name: String,
        /// Whose machines it is for
        #[arg(long, value_parser = names::group)]
        group: String,
        /// When it is open
        #[command(flatten)]
        open: Open,
        /// For people
        #[arg(long, default_value = "", hide_default_value = true)]
        description: String,
    },
    /// List windows
    #[command(after_help = "Examples:
  sutler window list")]
    List {
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show one window
    #[command(after_help = "Examples:
  sutler window show nights")]
    Show {
        /// The window
        #[arg(value_parser = names::window)]
        name: String,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Change what is given; connected agents go by it within 5 seconds
    #[command(group = clap::ArgGroup::new("change").required(true).multiple(true).args(["on", "from", "to", "zone", "description"]),
        after_help = "Examples:
  sutler window update nights --to 06:00
  sutler window update nights --on daily --zone client")]
    Update {
        /// The window
        #[arg(value_parser = names::window)]
        name: String,
        /// When it is open
        #[command(flatten)]
        open: Open,
        /// For people
        #[arg(long)]
        description: Option<String>,
        /// Only if the window still has this etag
        #[arg(long, default_value = "", hide_default_value = true)]
        etag: String,
    },
    /// Delete a window; what waits for it begins at once, unless other windows hold it up
    #[command(after_help = "Examples:
  sutler window delete nights")]
    Delete {
        /// The window
        #[arg(value_parser = names::window)]
        name: String,
    },
}

fn on(window: &v1::Window) -> String {
    let days = window.hours.iter().flat_map(|h| &h.weekdays).filter_map(|n| Day::ALL.get(usize::try_from(*n).ok()?.checked_sub(1)?));
    days.map(|day| day.short()).collect::<Vec<_>>().join(",")
}

impl Record for v1::Window {
    const TYPE: &'static str = "sutler.v1.Window";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("name", |w| names::short(&w.name).to_owned()),
        Column::new("group", |w| names::short(&w.group).to_owned()),
        Column::new("on", on),
        Column::new("from", |w| w.hours.as_ref().map(|h| h.from.clone()).unwrap_or_default()),
        Column::new("to", |w| w.hours.as_ref().map(|h| h.to.clone()).unwrap_or_default()),
        Column::new("zone", |w| w.hours.as_ref().map(|h| h.zone.clone()).unwrap_or_default()),
        Column::wide("description", |w| w.description.clone()),
        Column::wide("created", |w| moment(&w.create_time)),
        Column::wide("uid", |w| w.uid.clone()),
        Column::wide("etag", |w| w.etag.clone()),
    ];
}

/// Runs a command of this noun.
pub async fn run(command: WindowCommand, session: &Session) -> Result<u8, CliError> {
    match command {
        WindowCommand::Create { name, group, open, description } => {
            let id = names::short(&name).to_owned();
            let tried = format!("create the window {id}");
            let hours = Some(open.wire()?);
            let request = v1::CreateWindowRequest { window_id: id, group: group.clone(), hours, description, request_id: request_id()? };
            let answer = call!(session, windows.create_window(request), "{tried}")?;
            let sentence = format!("created: jobs begin on the clients of {group} only in its windows");
            session.done(&answer.window.unwrap_or_default().name, &sentence)?;
        }
        WindowCommand::List { output } => {
            let request = v1::ListWindowsRequest::default();
            let windows = pages!(session, windows.list_windows(request) -> windows, "list the windows");
            output::list(&windows, output.format)?;
        }
        WindowCommand::Show { name, output } => {
            let request = v1::GetWindowRequest { name: name.clone() };
            let answer = call!(session, windows.get_window(request), "show the window {}", names::short(&name))?;
            output::show(&answer.window.unwrap_or_default(), output.format)?;
        }
        WindowCommand::Update { name, open, description, etag } => {
            let tried = format!("update the window {}", names::short(&name));
            let request = v1::UpdateWindowRequest { name, hours: Some(open.wire()?), description, etag, request_id: request_id()? };
            let answer = call!(session, windows.update_window(request), "{tried}")?;
            session.done(&answer.window.unwrap_or_default().name, "updated")?;
        }
        WindowCommand::Delete { name } => {
            let request = v1::DeleteWindowRequest { name: name.clone(), request_id: request_id()? };
            call!(session, windows.delete_window(request), "delete the window {}", names::short(&name))?;
            session.done(&name, "deleted")?;
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_typed_as_people_say_them() {
        assert_eq!(days("mon-fri").unwrap(), [1, 2, 3, 4, 5]);
        assert_eq!(days("Sat,sunday").unwrap(), [6, 7]);
        assert_eq!(days("fri-mon").unwrap(), [1, 5, 6, 7]);
        assert_eq!(days("daily").unwrap().len(), 7);
        for bad in ["", "mon-", "weekdays", "1", "mon;tue"] {
            assert!(days(bad).is_err(), "{bad}");
        }
    }
}
