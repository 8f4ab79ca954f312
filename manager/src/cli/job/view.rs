//! How jobs, executions and attempts look.

use super::super::{
    names,
    output::{Column, Format, Record, aligned, list_text, printable, printable_lines, word},
    when::{bytes, moment},
};
use super::terms;
use sutler_base::manifest::requirement;
use sutler_proto::v1;

/// The packages of a job with their versions: `clamav@1.0.7`, or `clamav@latest (1.0.7)` where it follows the newest; after what
/// nobody asked for stands whom it is there for: `lib@1.5 (for clamav)`.
pub(super) fn packages(job: &v1::Job) -> String {
    let one = |p: &v1::JobPackage| {
        let word = names::package_word(&p.package);
        let word = match p.intent() {
            v1::Intent::Uninstall => format!("-{word}"),
            v1::Intent::Prefetch => format!("fetch:{word}"),
            _ => word,
        };
        // A version comes as itself or as the resource's name.
        let version = p.version.rsplit('/').next().unwrap_or_default();
        let word = match (version, word.split_once('@')) {
            ("", _) => word,
            (version, None) => format!("{word}@{version}"),
            (version, Some((_, "latest"))) => format!("{word} ({version})"),
            _ => word,
        };
        let mut by: Vec<_> = p.needed.iter().map(|need| names::short(&need.by)).collect();
        by.dedup();
        if by.is_empty() { word } else { format!("{word} (for {})", by.join(", ")) }
    };
    if job.terms.as_ref().is_some_and(|terms| terms.inventory) {
        return "facts".into();
    }
    job.packages.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Whom a job reaches: `groups/all, where facts.os == "linux", without groups/kiosks`.
pub(super) fn destinations(job: &v1::Job) -> String {
    let mut parts = vec![];
    parts.extend((!job.destinations.is_empty()).then(|| names::words(&job.destinations)));
    parts.extend((!job.clients_where.is_empty()).then(|| format!("where {}", job.clients_where)));
    parts.extend((!job.rolls_back.is_empty()).then(|| format!("clients of {}, which it rolls back", job.rolls_back)));
    parts.extend((!job.exclusions.is_empty()).then(|| format!("without {}", names::words(&job.exclusions))));
    parts.join(", ")
}

/// A job's counters.
pub(super) fn counters(job: &v1::Job) -> v1::Counters {
    job.counters.unwrap_or_default()
}

/// How many of the executions are at an end (percent).
pub(super) fn percent(c: &v1::Counters) -> i64 {
    let ended = c.finished + c.error + c.rejected + c.canceled;
    if c.total > 0 { ended * 100 / c.total } else { 0 }
}

/// The counters as a sentence, in the words of the domain.
pub(super) fn counters_line(c: &v1::Counters) -> String {
    let mut so: Vec<String> = Vec::new();
    so.extend((c.already_installed > 0).then(|| format!("{} were there already", c.already_installed)));
    so.extend((c.already_absent > 0).then(|| format!("{} had nothing to uninstall", c.already_absent)));
    let already = if so.is_empty() { String::new() } else { format!(" ({})", so.join(", ")) };
    format!(
        "Finished {}{already}, Error {}, Rejected {}, Canceled {}, Waiting {}, Running {}; Total {}, {} % at an end",
        c.finished,
        c.error,
        c.rejected,
        c.canceled,
        c.waiting,
        c.running,
        c.total,
        percent(c)
    )
}

/// What stands above the rows: the job, its counters, and what an operator should know.
pub(super) fn heading(job: &v1::Job) -> String {
    let state = word!(JobState, "JOB_STATE", job.state);
    let mut lines = vec![format!("{}  {state}  {} on {}", job.name, packages(job), destinations(job)), counters_line(&counters(job))];
    if !job.condition.is_empty() {
        lines.push(format!("only clients with {}", job.condition));
    }
    lines.extend(requirements(job).iter().map(|one| format!("requires {one}")));
    lines.extend(job.terms.iter().flat_map(terms::lines));
    lines.extend(job.held_back.iter().cloned());
    lines.extend(terms::status(job));
    if job.drift_count > 0 {
        lines.push(format!("what it installed was found missing {} times, and installed again", job.drift_count));
    }
    if job.canceling > 0 && job.state() != v1::JobState::Paused {
        lines.push(format!("being canceled: {} did not say yet that they stopped", job.canceling));
    }
    if !job.unavailable.is_empty() {
        lines.push(format!("no client can start it: {}", job.unavailable));
    } else if !job.unavailable_soon.is_empty() {
        lines.push(format!("in 14 days no client can start it any more: {}", job.unavailable_soon));
    }
    if !job.damaged_versions.is_empty() {
        let which: Vec<_> = job.damaged_versions.iter().map(|v| names::package_word(v)).collect();
        lines.push(format!("clients wait for stored bytes that are damaged or missing; push again: {}", which.join(" ")));
    }
    lines.iter().map(|line| printable(line) + "\n").collect()
}

/// What a job requires of a machine, as a package's are shown.
fn requirements(job: &v1::Job) -> Vec<String> {
    let all = requirement::from_json(job.requirements.as_bytes()).unwrap_or_default();
    all.iter().map(ToString::to_string).collect()
}

impl Record for v1::Job {
    const TYPE: &'static str = "sutler.v1.Job";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("id", |j| names::short(&j.name).to_owned()),
        Column::new("alias", |j| j.alias.clone()),
        Column::new("state", |j| word!(JobState, "JOB_STATE", j.state)),
        Column::new("packages", packages),
        Column::new("destinations", destinations),
        Column::new("total", |j| counters(j).total.to_string()),
        Column::new("finished", |j| counters(j).finished.to_string()),
        Column::new("error", |j| counters(j).error.to_string()),
        Column::new("rejected", |j| counters(j).rejected.to_string()),
        Column::new("canceled", |j| counters(j).canceled.to_string()),
        Column::new("waiting", |j| counters(j).waiting.to_string()),
        Column::new("running", |j| counters(j).running.to_string()),
        Column::new("rollout", terms::word),
        Column::wide("already_installed", |j| counters(j).already_installed.to_string()),
        Column::wide("description", |j| j.description.clone()),
        Column::wide("priority", |j| j.priority.to_string()),
        Column::wide("continue_on_failure", |j| if j.continue_on_failure { "yes" } else { "no" }.to_owned()),
        Column::wide("terms", |j| j.terms.iter().flat_map(terms::lines).collect::<Vec<_>>().join("; ")),
        Column::wide("expires", |j| moment(&j.expire_time)),
        Column::wide("creator", |j| names::short(&j.creator).to_owned()),
        Column::wide("created", |j| moment(&j.create_time)),
        Column::wide("started", |j| moment(&j.start_time)),
        Column::wide("ended", |j| moment(&j.end_time)),
        Column::wide("revision", |j| j.revision.to_string()),
        Column::wide("archived", |j| if j.archived { "yes" } else { "no" }.to_owned()),
        Column::wide("condition", |j| j.condition.clone()),
        Column::wide("requires", |j| requirements(j).join(", ")),
        Column::wide("terms", |j| j.terms.iter().flat_map(terms::lines).collect::<Vec<_>>().join("; ")),
        Column::wide("rollout is", |j| j.rollout.as_ref().map(|r| r.sentence.clone()).unwrap_or_default()),
        Column::wide("halted", |j| j.rollout.as_ref().map(|r| r.halt.clone()).unwrap_or_default()),
        Column::wide("held back", |j| j.held_back.join("; ")),
        Column::wide("unavailable", |j| j.unavailable.clone()),
        Column::wide("waits for", |j| j.approval.as_ref().map(|a| format!("{}: {}", a.name, a.sentence)).unwrap_or_default()),
        Column::wide("unavailable soon", |j| j.unavailable_soon.clone()),
        Column::wide("push again", |j| j.damaged_versions.iter().map(|v| names::package_word(v)).collect::<Vec<_>>().join(" ")),
        Column::wide("canceling", |j| j.canceling.to_string()),
        Column::wide("etag", |j| j.etag.clone()),
    ];
}

/// When the client was last heard of; since when a running one has not been.
fn contact(e: &v1::Execution) -> String {
    match &e.no_contact_time {
        Some(_) => format!("NO CONTACT since {}", moment(&e.no_contact_time)),
        None => moment(&e.last_seen_time),
    }
}

/// Everything that people want to know of a row, in one sentence.
fn detail(e: &v1::Execution) -> String {
    let mut parts = Vec::new();
    if !e.mark.is_empty() {
        parts.push(e.mark.clone());
    }
    if !e.detail.is_empty() {
        parts.push(e.detail.clone());
    }
    parts.join("; ")
}

/// The state of an execution as a word.
pub(super) fn state(e: &v1::Execution) -> String {
    word!(ExecutionState, "EXECUTION_STATE", e.state)
}

impl Record for v1::Execution {
    const TYPE: &'static str = "sutler.v1.Execution";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("client", |e| names::short(&e.client).to_owned()),
        Column::new("hostname", |e| e.hostname.clone()),
        Column::new("state", state),
        Column::new("reason", |e| e.reason.clone()),
        Column::new("progress", |e| format!("{}%", e.progress_percent)),
        Column::new("attempts", |e| e.attempt_count.to_string()),
        Column::new("since", |e| moment(&e.enter_time)),
        Column::new("contact", contact),
        Column::new("detail", detail),
        Column::wide("mark", |e| e.mark.clone()),
        Column::wide("cancel_awaits", |e| {
            if e.cancel_awaits == 0 { String::new() } else { word!(CancelAwaits, "CANCEL_AWAITS", e.cancel_awaits) }
        }),
        Column::wide("cancel_deadline", |e| moment(&e.cancel_deadline)),
    ];
}

impl Record for v1::GetExecutionResponse {
    const TYPE: &'static str = "sutler.v1.GetExecutionResponse";
    const COLUMNS: &'static [Column<Self>] = &[];
}

impl Record for v1::WatchJobResponse {
    const TYPE: &'static str = "sutler.v1.WatchJobResponse";
    const COLUMNS: &'static [Column<Self>] = &[];
}

/// From how many columns on a terminal has room for everything in one line.
const WIDE: u16 = 150;

/// The rows for people: a table, or on a narrow terminal two lines each.
pub(super) fn rows(rows: &[v1::Execution], width: Option<u16>) -> String {
    if width.is_none_or(|width| width >= WIDE) {
        return list_text(rows, Format::Table, width);
    }
    let header = ["CLIENT", "HOSTNAME", "STATE", "REASON", "PROGRESS"].map(str::to_owned);
    let cells = |e: &v1::Execution| {
        let progress = format!("{}%", e.progress_percent);
        let cells = [names::short(&e.client).to_owned(), e.hostname.clone(), state(e), e.reason.clone(), progress];
        cells.map(|cell| if cell.is_empty() { "-".to_owned() } else { printable(&cell) })
    };
    let lines: Vec<_> = std::iter::once(header).chain(rows.iter().map(cells)).collect();
    let widths: Vec<usize> = (0..5).map(|n| lines.iter().map(|cells| cells[n].chars().count()).max().unwrap_or_default()).collect();
    let mut text = String::new();
    for (n, cells) in lines.iter().enumerate() {
        let line: String = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  ")).collect();
        text.push_str(&format!("{}\n", line.trim_end()));
        let Some(e) = n.checked_sub(1).map(|n| &rows[n]) else { continue };
        let attempts = if e.attempt_count == 1 { "1 attempt".to_owned() } else { format!("{} attempts", e.attempt_count) };
        let heard = if e.no_contact_time.is_some() { contact(e) } else { format!("last contact {}", contact(e)) };
        let more = [format!("since {}", moment(&e.enter_time)), attempts, heard, detail(e)];
        let more: Vec<_> = more.iter().filter(|part| !part.is_empty()).map(|part| printable(part)).collect();
        text.push_str(&format!("    {}\n", more.join(", ")));
    }
    text
}

/// A row as a line of a log.
pub(super) fn line(e: &v1::Execution) -> String {
    let words = [moment(&e.enter_time), names::short(&e.client).to_owned(), e.hostname.clone(), state(e), e.reason.clone()];
    let mut words: Vec<_> = words.into_iter().filter(|w| !w.is_empty()).collect();
    if (1..100).contains(&e.progress_percent) {
        words.push(format!("{}%", e.progress_percent));
    }
    if e.no_contact_time.is_some() {
        words.push(contact(e));
    }
    let detail = detail(e);
    if !detail.is_empty() {
        words.push(detail);
    }
    printable(&words.join("  ")) + "\n"
}

/// One client's row with its attempts, and the end of the output of what failed.
pub(super) fn attempts(answer: &v1::GetExecutionResponse) -> String {
    let execution = answer.execution.clone().unwrap_or_default();
    let columns = v1::Execution::COLUMNS;
    let mut text = aligned(&columns.iter().map(|c| c.pair(&execution)).collect::<Vec<_>>());
    for attempt in &answer.attempts {
        let state = word!(ExecutionState, "EXECUTION_STATE", attempt.state);
        let end = if attempt.end_time.is_some() { format!(" to {}", moment(&attempt.end_time)) } else { String::new() };
        let line = format!("attempt {}: {state}, from {}{end}, {}", attempt.number, moment(&attempt.create_time), attempt.id);
        text.push_str(&format!("\n{}\n", printable(&line)));
        for item in &attempt.items {
            text.push_str(&self::item(item));
        }
        for log in &attempt.logs {
            let kept = bytes(u64::try_from(log.kept_bytes).unwrap_or_default());
            let of = names::package_word(&log.package);
            text.push_str(&format!("  log of {}: {}, {kept} (sutler job logs)\n", printable(&of), printable(&log.path)));
        }
    }
    text
}

fn item(item: &v1::ItemResult) -> String {
    let fetched = |n: i64| bytes(u64::try_from(n).unwrap_or_default());
    let mut pairs = vec![
        ("result", word!(ExecutionState, "EXECUTION_STATE", item.state)),
        ("error", item.error_kind.clone()),
        ("message", item.message.clone()),
        ("step", item.step.clone()),
        ("exit_code", item.exit_code.map(|c| c.to_string()).unwrap_or_default()),
        ("restored", item.restored.map(|r| if r { "yes" } else { "no" }.to_owned()).unwrap_or_default()),
        ("fetched", format!("{} of {}", fetched(item.fetched_bytes), fetched(item.total_bytes))),
        ("took", format!("{:.1} s", item.duration_ms as f64 / 1000.0)),
    ];
    if item.reboot {
        pairs.push(("reboot", "the machine must be restarted".to_owned()));
    }
    let mut text = format!("  {}\n", printable(&names::package_word(&item.package)));
    text.push_str(&aligned(&pairs).lines().map(|l| format!("    {l}\n")).collect::<String>());
    if !item.output.is_empty() {
        let cut = match item.output_cut_bytes {
            0 => String::new(),
            before => format!(" (its end; {before} bytes before it were not kept)"),
        };
        text.push_str(&format!("    output{cut}:\n"));
        text.push_str(&printable_lines(&item.output).lines().map(|l| format!("      {l}\n")).collect::<String>());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_shows_the_version_that_it_pinned() {
        let package =
            |package: &str, version: &str| v1::JobPackage { package: package.into(), version: version.into(), ..Default::default() };
        let gone = v1::JobPackage { intent: v1::Intent::Uninstall.into(), ..package("packages/f", "6") };
        let for_b = v1::Need { by: "packages/b".into(), package: "packages/g".into(), versions: "any".into() };
        let job = v1::Job {
            packages: vec![
                v1::JobPackage { needed: vec![for_b.clone(), for_b], ..package("packages/g/versions/7", "7") },
                package("packages/a", "1.0"),
                package("packages/b/versions/2", "2"),
                package("packages/c/versions/latest", "3"),
                package("packages/d", ""),
                package("packages/e", "packages/e/versions/5"),
                gone,
            ],
            ..Default::default()
        };
        assert_eq!(packages(&job), "g@7 (for b) a@1.0 b@2 c@latest (3) d e@5 -f@6");
    }

    #[test]
    fn on_a_narrow_terminal_a_row_has_two_lines_and_nothing_is_lost() {
        let row = v1::Execution {
            client: "clients/c".into(),
            hostname: "h\u{1b}[0m".into(),
            attempt_count: 2,
            no_contact_time: Some(prost_types::Timestamp::default()),
            detail: "step x".into(),
            ..Default::default()
        };
        let text = rows(std::slice::from_ref(&row), Some(80));
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.ends_with("2 attempts, NO CONTACT since 1970-01-01T00:00:00Z, step x\n"), "{text}");
        assert!(!text.contains('\u{1b}'));
        assert!(rows(&[row], None).contains("ATTEMPTS"));
    }

    #[test]
    fn counters_say_how_much_is_at_an_end() {
        let c = v1::Counters {
            total: 8,
            finished: 3,
            error: 1,
            rejected: 1,
            canceled: 1,
            waiting: 1,
            running: 1,
            already_installed: 2,
            already_absent: 0,
        };
        assert_eq!(
            counters_line(&c),
            "Finished 3 (2 were there already), Error 1, Rejected 1, Canceled 1, Waiting 1, Running 1; Total 8, 75 % at an end"
        );
        assert_eq!(percent(&v1::Counters::default()), 0);
    }

    #[test]
    fn the_output_of_a_failed_step_is_shown_line_by_line_and_harmless() {
        let result = v1::ItemResult {
            package: "packages/x/versions/1".into(),
            output: "one\n\u{1b}[2Jtwo".into(),
            exit_code: Some(3),
            ..Default::default()
        };
        let answer = v1::GetExecutionResponse {
            execution: Some(v1::Execution { client: "clients/c".into(), ..Default::default() }),
            attempts: vec![v1::Attempt { number: 2, items: vec![result], ..Default::default() }],
        };
        let text = attempts(&answer);
        assert!(text.contains("\nattempt 2: "), "{text}");
        assert!(text.contains("exit code:  3\n"), "{text}");
        assert!(text.contains("    output:\n      one\n      \\u{1b}[2Jtwo\n"), "{text}");
    }
}
