//! What the commands print.

use crate::{
    agent::{Announcement, Answer, Available, Question, Status, span},
    service::{Call, Reply},
};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use std::{
    io::{self, BufRead, Write},
    process::ExitCode,
};
use sutler_base::question::AnswerRule;

/// Prints what the agent answered to a call.
pub(super) fn reply(call: &Call, reply: &Reply, json: bool) -> ExitCode {
    match reply {
        Reply::Status { status } if json => print_json(status),
        Reply::Status { status } => {
            print!("{}", status_text(status));
            ExitCode::SUCCESS
        }
        Reply::Facts { facts } if json => print_json(facts),
        Reply::Facts { facts } => {
            print!("{}", facts_text(facts));
            ExitCode::SUCCESS
        }
        Reply::Questions { questions } if json => print_json(questions),
        Reply::Questions { questions } => {
            print!("{}", questions_text(questions));
            ExitCode::SUCCESS
        }
        Reply::Answer { answer } => answer_text(call, answer, json),
        Reply::Available { available } if json => print_json(available),
        Reply::Available { available } => {
            print!("{}", available_text(available));
            ExitCode::SUCCESS
        }
        Reply::Announcements { announcements } if json => print_json(announcements),
        Reply::Announcements { announcements } => {
            announcements.iter().for_each(|told| print!("{}", announcement_text(told)));
            ExitCode::SUCCESS
        }
        Reply::Said { sentence } => {
            eprintln!("{sentence}");
            ExitCode::SUCCESS
        }
        Reply::Done => ExitCode::SUCCESS,
        Reply::Error { error } => {
            eprintln!("sutler-agent: {error}");
            ExitCode::from(1)
        }
    }
}

fn print_json(value: &impl serde::Serialize) -> ExitCode {
    match serde_json::to_string_pretty(value) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("sutler-agent: {e}");
            ExitCode::from(1)
        }
    }
}

fn answer_text(call: &Call, answer: &Answer, json: bool) -> ExitCode {
    match answer {
        Answer::Done { groups } if matches!(call, Call::Groups) => {
            if json {
                return print_json(groups);
            }
            groups.iter().for_each(|g| println!("{g}"));
            ExitCode::SUCCESS
        }
        Answer::Done { groups } => {
            match call {
                Call::Unenroll => eprintln!("this machine has left its manager"),
                Call::Answer { .. } => eprintln!("answered"),
                Call::Install { .. } => eprintln!("it is installed as soon as it may be; see sutler-agent status"),
                _ => eprintln!("done; this client is now in: {}", if groups.is_empty() { "no group".into() } else { groups.join(", ") }),
            }
            ExitCode::SUCCESS
        }
        Answer::Queued => {
            eprintln!("queued: the manager can't be reached now, and is asked as soon as it can");
            ExitCode::SUCCESS
        }
        Answer::Refused { why } | Answer::NotKept { why } => {
            eprintln!("sutler-agent: {why}");
            ExitCode::from(1)
        }
    }
}

fn status_text(s: &Status) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    let mut row = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<12} {value}");
    };
    row("client", format!("{} of {}", s.client, s.trust_domain));
    row("state", s.state.map_or("not known yet".into(), |s| s.to_string()));
    row("manager", s.connected.as_ref().map_or("not connected".into(), |a| format!("connected to {a}")));
    if let Some(at) = s.last_contact {
        row("last contact", at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string());
    }
    if let Some(days) = s.silent_days {
        row("silence", format!("nothing was heard from the manager for {days} days: it is away, or somebody keeps it away"));
    }
    if let Some(problem) = &s.problem {
        row("problem", problem.clone());
    }
    if let Some(skew) = s.clock_skew_seconds.filter(|skew| skew.abs() > 30) {
        row("clock", format!("{} s {} the manager's", skew.abs(), if skew > 0 { "ahead of" } else { "behind" }));
    }
    if let Some(ends) = s.certificate_ends {
        row("certificate", format!("until {}", ends.strftime("%Y-%m-%d %H:%M UTC")));
    }
    for sentence in &s.trust {
        row("trust", sentence.clone());
    }
    if s.hold && s.hold_reason.is_empty() {
        row("hold", "installations are held by this machine's policy.toml".into());
    } else if s.hold {
        row("hold", s.hold_reason.clone());
    }
    for a in &s.attempts {
        let wait = a.wait.map(|w| format!(" ({w})")).unwrap_or_default();
        let step = if a.step.is_empty() { String::new() } else { format!(", step {}", a.step) };
        let share = if a.bytes.1 > 0 && a.bytes.0 < a.bytes.1 { format!(", {} %", a.bytes.0 * 100 / a.bytes.1) } else { String::new() };
        row("work", format!("{} package {} of {}: {}{wait}{step}{share}", a.job, a.package.0, a.package.1, a.state));
    }
    for told in &s.announcements {
        let when = if told.put_off { "announced anew" } else { "begins" };
        row("announced", format!("{} {}: {when} in {} (sutler-agent announcements)", told.job, told.package, span(told.seconds)));
    }
    for request in &s.requests {
        row("queued", request.clone());
    }
    for i in &s.installed {
        let directory = i.directory.as_ref().map(|d| format!(" in {d}")).unwrap_or_default();
        row("installed", format!("{} {}{directory}", i.package, i.version));
    }
    out
}

/// Each on a line, in columns.
fn available_text(available: &[Available]) -> String {
    let size = |bytes: u64| match bytes {
        0..1_048_576 => format!("{} KiB", bytes.div_ceil(1024)),
        _ => format!("{} MiB", bytes.div_ceil(1 << 20)),
    };
    let width = |of: fn(&Available) -> &str| available.iter().map(|item| of(item).chars().count()).max().unwrap_or(0);
    let (name, version) = (width(|item| &item.package), width(|item| &item.version));
    let line = |item: &Available| {
        let queued = if item.queued { " (is asked for)" } else { "" };
        let line =
            format!("{:name$}  {:version$}  {:>10}  {}{queued}", item.package, item.version, size(item.total_bytes), item.description);
        format!("{}\n", line.trim_end())
    };
    available.iter().map(line).collect()
}

/// What is announced on a line, what it says and what may be answered below.
fn announcement_text(told: &Announcement) -> String {
    let job = told.job.strip_prefix("jobs/").unwrap_or(&told.job);
    let does = if told.uninstall { "is taken off" } else { "is installed" };
    let when = match told.put_off {
        true => format!("was put off, and is announced anew in {}", span(told.seconds)),
        false => format!("{does} in {}", span(told.seconds)),
    };
    let mut may = vec!["now"];
    may.extend(told.may_defer.then_some("defer"));
    may.extend(told.may_refuse.then_some("refuse"));
    let often = if told.deferrals > 0 { format!("; put off {} of {} times", told.deferred, told.deferrals) } else { String::new() };
    format!("{job}: {} {when}\n  {}\n  you may: {}{often}\n", told.package, told.text, may.join(", "))
}

/// Each question on a line, and its answer below.
fn questions_text(questions: &[Question]) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    for Question { name, prompt, rule, answer, queued } in questions {
        let may_be = match rule {
            AnswerRule::String { pattern: None } => "any text".into(),
            AnswerRule::String { pattern: Some(pattern) } => format!("a text that matches {pattern}"),
            AnswerRule::Integer => "a whole number".into(),
            AnswerRule::Boolean => "true or false".into(),
            AnswerRule::Choice { choices } => choices.join(", "),
        };
        let _ = writeln!(out, "{name}: {prompt} ({may_be})");
        match (answer, queued) {
            (_, Some(queued)) => {
                let _ = writeln!(out, "    {queued} (waits for the manager)");
            }
            (Some(answer), None) => {
                let _ = writeln!(out, "    {answer}");
            }
            (None, None) => out.push_str("    not answered yet\n"),
        }
    }
    if questions.is_empty() {
        eprintln!("nothing is asked");
    }
    out
}

/// `os.family = linux`, a line for each.
fn facts_text(facts: &serde_json::Value) -> String {
    fn walk(path: &str, value: &serde_json::Value, out: &mut String) {
        use std::fmt::Write;
        let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        match value {
            serde_json::Value::Object(map) => map.iter().for_each(|(name, value)| walk(&below(name), value, out)),
            serde_json::Value::Array(all) if all.iter().any(|v| v.is_object()) => {
                all.iter().enumerate().for_each(|(n, value)| walk(&below(&n.to_string()), value, out));
            }
            serde_json::Value::Array(all) => {
                let texts: Vec<String> = all.iter().map(|v| v.as_str().map_or(v.to_string(), str::to_owned)).collect();
                let _ = writeln!(out, "{path} = {}", texts.join(", "));
            }
            serde_json::Value::String(text) => {
                let _ = writeln!(out, "{path} = {text}");
            }
            other => {
                let _ = writeln!(out, "{path} = {other}");
            }
        }
    }
    let mut out = String::new();
    walk("", facts, &mut out);
    out
}

/// Asks at the terminal, without showing what is typed.
pub(super) fn password(prompt: &str) -> io::Result<String> {
    let stdin = io::stdin();
    eprint!("{prompt}");
    io::stderr().flush()?;
    let before = tcgetattr(&stdin)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Flush, &silent)?;
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    tcsetattr(&stdin, OptionalActions::Flush, &before)?;
    eprintln!();
    read?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
