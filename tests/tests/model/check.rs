//! Compares what the manager says with what is expected, through the same calls that people use.

use crate::{
    expect::{Access, ClientNumber, End, Place, Reason, Row, Why},
    plan::GROUPS,
    run::{Case, ok},
};
use std::collections::{BTreeMap, BTreeSet};
use sutler_base::AttemptId;
use sutler_proto::v1::{self, ExecutionState as S};
use sutler_tests::harness::{PATIENCE, wait_until};

/// An execution, as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Queued,
    /// The agent has it, and nobody knows more.
    Taken,
    /// The agent said that a step had started.
    Installing,
    Ended(End),
    Canceled(Reason),
}

fn is_end(state: S) -> bool {
    !matches!(state, S::Queued | S::Offered | S::Downloading | S::Waiting | S::Installing | S::Verifying | S::Restoring)
}

fn seen(row: &v1::Execution) -> Seen {
    match row.state() {
        S::Queued => Seen::Queued,
        S::Offered | S::Downloading | S::Waiting => Seen::Taken,
        S::Installing | S::Verifying | S::Restoring => Seen::Installing,
        S::Succeeded | S::AlreadyInstalled | S::AlreadyAbsent => Seen::Ended(End::Good),
        S::Failed if row.reason == "STEP_FAILED" => Seen::Ended(End::Failed),
        S::Interrupted => Seen::Ended(End::Interrupted),
        S::Canceled => Seen::Canceled(match row.reason.as_str() {
            "LEFT_GROUP" => Reason::LeftGroup,
            "JOB_CANCELED" => Reason::JobCanceled,
            "CLIENT_REMOVED" => Reason::ClientRemoved,
            other => panic!("canceled for {other:?}: {row:?}"),
        }),
        S::Unspecified | S::Failed | S::Rejected | S::Expired => panic!("nothing here ends so: {row:?}"),
    }
}

/// Whether an execution in this place may be shown so.
fn fits(row: &Row, seen: Seen) -> bool {
    match (row.place, seen) {
        (Place::Queued, Seen::Queued) | (Place::Offered, Seen::Taken) => true,
        // What its agent has done is not known here until it says so.
        (Place::Started(_) | Place::Ended { told: false, .. }, Seen::Taken | Seen::Installing) => true,
        (Place::Ended { end, told: true }, Seen::Ended(shown)) => end == shown,
        (Place::Canceled(reason), Seen::Canceled(shown)) => reason == shown,
        _ => false,
    }
}

fn job(case: &mut Case, n: usize) -> v1::Job {
    let request = v1::GetJobRequest { name: case.jobs[n].clone() };
    ok("a job", case.operator.jobs(&case.manager, |mut j| async move { j.get_job(request).await })).job.expect("it is in the answer")
}

fn rows(case: &mut Case, n: usize) -> Vec<v1::Execution> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        // Pages of two: nothing may fall between them.
        let request = v1::ListExecutionsRequest { parent: case.jobs[n].clone(), page_size: 2, page_token, ..Default::default() };
        let page = ok("executions", case.operator.jobs(&case.manager, |mut j| async move { j.list_executions(request).await }));
        all.extend(page.executions);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return all;
        }
    }
}

/// The open executions of these clients, as sentences; but those in one of these states that no cancellation waits for.
pub(crate) fn open_of(case: &mut Case, clients: &[ClientNumber], but: &[S]) -> Vec<String> {
    let names: BTreeSet<String> = clients.iter().map(|c| format!("clients/{}", case.ids[*c])).collect();
    let mut open = Vec::new();
    for n in 0..case.jobs.len() {
        for row in rows(case, n) {
            let rests = but.contains(&row.state()) && row.cancel_deadline.is_none();
            if !is_end(row.state()) && !rests && names.contains(&row.client) {
                open.push(format!("{} {:?} {} {}", row.name, row.state(), row.reason, row.detail));
            }
        }
    }
    open
}

/// Compares everything, and narrows down where executions may be to where they are.
pub(crate) fn compare(case: &mut Case) {
    clients(case);
    members(case);
    for n in 0..case.jobs.len() {
        executions(case, n);
    }
    explanations(case);
    completion(case);
}

fn clients(case: &mut Case) {
    for (n, expected) in case.expected.clients.clone().into_iter().enumerate() {
        let request = v1::GetClientRequest { name: format!("clients/{}", case.ids[n]) };
        let shown = ok("a client", case.operator.clients(&case.manager, |mut c| async move { c.get_client(request).await }));
        let state = match expected.access {
            Access::Pending => v1::ClientState::Pending,
            Access::Active => v1::ClientState::Active,
            Access::Quarantined => v1::ClientState::Quarantined,
            Access::Removed => v1::ClientState::Removed,
        };
        let shown = shown.client.expect("it is in the answer");
        assert_eq!(shown.state(), state, "client {n}: {shown:?}");
        assert_eq!(shown.duplicate_of, "", "every machine is another one");
        let twice = case.machines.get(&n).map(|m| m.simulated.machine.twice()).unwrap_or_default();
        assert!(twice.is_empty(), "client {n} was told to run these steps again: {twice:?}");
    }
}

/// What the API says of why a client is in a group.
fn source(case: &Case, client: ClientNumber, why: &Why) -> (v1::Source, Option<String>) {
    let policy = |uid: &String| {
        let found = case.expected.policies.iter().find(|(_, p)| p.uid == *uid);
        found.map(|(n, _)| format!("policies/policy-{n}"))
    };
    match why {
        Why::Policy(uid) => (v1::Source::Policy, policy(uid)),
        Why::Operator => (v1::Source::Operator, Some("operators/anna".into())),
        Why::Token => (v1::Source::Token, None),
        Why::Client => (v1::Source::Client, Some(format!("clients/{}", case.ids[client]))),
    }
}

fn members(case: &mut Case) {
    for (g, name) in GROUPS.into_iter().enumerate() {
        let request = v1::ListMembersRequest { name: format!("groups/{name}"), page_size: 1000, ..Default::default() };
        let shown = ok("members", case.operator.groups(&case.manager, |mut g| async move { g.list_members(request).await })).members;
        let shown: BTreeMap<String, v1::Source> = shown.iter().map(|m| (m.client.clone(), m.source())).collect();
        let clients = case.expected.clients.iter().enumerate();
        let expected: BTreeMap<String, v1::Source> =
            clients.filter_map(|(n, c)| Some((format!("clients/{}", case.ids[n]), source(case, n, c.groups.get(&g)?).0))).collect();
        assert_eq!(shown, expected, "the members of {name}");
        let request = v1::GetGroupRequest { name: format!("groups/{name}") };
        let group = ok("a group", case.operator.groups(&case.manager, |mut g| async move { g.get_group(request).await })).group;
        assert_eq!(group.expect("it is in the answer").member_count, expected.len() as i64, "how many members {name} has");
    }
}

fn executions(case: &mut Case, n: usize) {
    let mut before = job(case, n);
    // The rows and the counters are two calls: what a client without rest changes in between is not looked at.
    let shown = loop {
        let shown = rows(case, n);
        let after = job(case, n);
        if before.counters == after.counters {
            break shown;
        }
        before = after;
    };
    add_up(&before, &shown);
    let names: BTreeMap<String, ClientNumber> = case.ids.iter().enumerate().map(|(n, id)| (format!("clients/{id}"), n)).collect();
    let mut by_client = BTreeMap::new();
    for row in shown {
        let client = names[&row.client];
        assert!(by_client.insert(client, row).is_none(), "client {client} has two executions of {}", before.name);
    }
    let expected: BTreeSet<ClientNumber> = case.expected.jobs[n].rows.keys().copied().collect();
    assert_eq!(by_client.keys().copied().collect::<BTreeSet<_>>(), expected, "the clients that have an execution of job {n}");
    for (client, row) in by_client {
        let reached = case.expected.is_reached(&case.expected.jobs[n], client);
        let mark = match case.expected.clients[client].access {
            Access::Removed => "REMOVED",
            Access::Quarantined => "QUARANTINED",
            _ if !reached => "LEFT_GROUP",
            _ => "",
        };
        assert_eq!(row.mark, mark, "{row:?}");
        let possible = &case.expected.jobs[n].rows[&client];
        let narrowed: BTreeSet<Row> = possible.iter().copied().filter(|p| fits(p, seen(&row))).collect();
        assert!(
            !narrowed.is_empty(),
            "the execution of job {n} on client {client} is {row:?}\nand by the rules it may be one of {possible:?}"
        );
        case.expected.jobs[n].rows.insert(client, narrowed);
    }
}

/// The counters are what the rows say.
fn add_up(job: &v1::Job, rows: &[v1::Execution]) {
    let count = |states: &[S]| rows.iter().filter(|r| states.contains(&r.state())).count() as i64;
    let expected = v1::Counters {
        total: rows.len() as i64,
        finished: count(&[S::Succeeded, S::AlreadyInstalled, S::AlreadyAbsent]),
        error: count(&[S::Failed, S::Interrupted, S::Expired]),
        rejected: count(&[S::Rejected]),
        canceled: count(&[S::Canceled]),
        waiting: count(&[S::Queued, S::Offered, S::Waiting]),
        running: count(&[S::Downloading, S::Installing, S::Verifying, S::Restoring]),
        already_installed: count(&[S::AlreadyInstalled]),
        already_absent: count(&[S::AlreadyAbsent]),
    };
    let shown = job.counters.expect("a job has counters");
    assert_eq!(shown, expected, "the counters of {} beside its rows {rows:#?}", job.name);
    let sum = shown.finished + shown.error + shown.rejected + shown.canceled + shown.waiting + shown.running;
    assert_eq!(shown.total, sum, "{shown:?}");
    assert_eq!(job.canceling, rows.iter().filter(|r| !r.cancel_reason.is_empty()).count() as i64, "{job:?}");
}

/// Every client's explanation says the same as the lists.
fn explanations(case: &mut Case) {
    for client in 0..case.ids.len() {
        let request = v1::ExplainClientRequest { name: format!("clients/{}", case.ids[client]) };
        let explained = ok("an explanation", case.operator.clients(&case.manager, |mut c| async move { c.explain_client(request).await }));
        let shown: BTreeMap<_, _> = explained.memberships.iter().map(|m| (m.group.clone(), (m.source(), m.source_name.clone()))).collect();
        let groups = case.expected.clients[client].groups.clone();
        assert_eq!(shown.len(), groups.len(), "{shown:?}");
        for (g, why) in &groups {
            let (source, name) = source(case, client, why);
            let shown = &shown[&format!("groups/{}", GROUPS[*g])];
            assert_eq!(shown.0, source);
            assert!(name.is_none_or(|name| name == shown.1), "why client {client} is in {}: {shown:?}", GROUPS[*g]);
        }
        let shown: BTreeMap<_, _> = explained.jobs.iter().map(|j| (j.job.clone(), j)).collect();
        let jobs = case.expected.jobs.iter().enumerate().filter(|(_, job)| job.rows.contains_key(&client));
        let mut expected: BTreeSet<String> = jobs.clone().map(|(n, _)| case.jobs[n].clone()).collect();
        // Who waits for approval is told of the jobs that wait for that, too.
        if case.expected.clients[client].access == Access::Pending {
            let ahead = case.expected.jobs.iter().enumerate().filter(|(_, job)| job.active && case.expected.is_reached(job, client));
            expected.extend(ahead.map(|(n, _)| case.jobs[n].clone()));
        }
        assert_eq!(shown.keys().cloned().collect::<BTreeSet<_>>(), expected, "the jobs of client {client}");
        for (n, job) in jobs {
            let verdict = shown[&case.jobs[n]];
            assert!(!verdict.sentence.is_empty(), "{verdict:?}");
            let reached = case.expected.is_reached(job, client) && case.expected.clients[client].access != Access::Removed;
            if reached {
                assert!(!verdict.destination.is_empty(), "{verdict:?}");
            }
        }
    }
}

/// A job for machines alone is complete when all of its executions are at an end; others stand until they are ended.
fn completion(case: &mut Case) {
    for n in 0..case.jobs.len() {
        let expected = case.expected.jobs[n].clone();
        let state = if !expected.active {
            v1::JobState::Canceled
        } else if case.expected.is_complete(n, true) {
            v1::JobState::Completed
        } else if case.expected.is_complete(n, false) {
            continue;
        } else {
            v1::JobState::Active
        };
        wait_until(&format!("job {n} to be {state:?}"), PATIENCE / 4, || job(case, n).state() == state);
    }
}

/// What holds of the attempts, once nothing goes on any more.
pub(crate) fn at_the_end(case: &mut Case) {
    let mut runs = BTreeMap::new();
    let machines = case.machines.iter().map(|(n, m)| (*n, m)).chain(case.retired.iter().map(|(n, m)| (*n, m)));
    for (client, machine) in machines {
        assert!(machine.simulated.machine.twice().is_empty(), "client {client}: {:?}", machine.simulated.machine.twice());
        for run in machine.simulated.machine.runs() {
            runs.entry(run.attempt.clone()).or_insert_with(|| (client, BTreeSet::new())).1.insert((run.item, run.step, run.run));
        }
    }
    for n in 0..case.jobs.len() {
        for row in rows(case, n) {
            attempts(case, &row, &mut runs);
        }
    }
    assert!(runs.is_empty(), "steps of attempts that the manager does not know were run: {runs:?}");
}

type Runs = BTreeMap<AttemptId, (ClientNumber, BTreeSet<(usize, usize, u32)>)>;

fn attempts(case: &mut Case, row: &v1::Execution, runs: &mut Runs) {
    let request = v1::GetExecutionRequest { name: row.name.clone() };
    let shown = ok("an execution", case.operator.jobs(&case.manager, |mut j| async move { j.get_execution(request).await }));
    let mut attempts = shown.attempts;
    attempts.reverse();
    let numbers: Vec<i32> = attempts.iter().map(|a| a.number).collect();
    assert_eq!(numbers, (1..=row.attempt_count).collect::<Vec<_>>(), "the attempts of {}", row.name);
    let client = case.ids.iter().position(|id| row.client == format!("clients/{id}")).expect("it is a client");
    let access = case.expected.clients[client].access;
    let removed = access == Access::Removed;
    let murky = case.expected.clients[client].murky;
    let mut installed = BTreeSet::new();
    for attempt in &attempts {
        let id: AttemptId = attempt.id.parse().expect("it is an attempt's id");
        // Who is quarantined goes on when it is released.
        assert!(is_end(attempt.state()) || access != Access::Active, "an attempt is left open: {attempt:?} of {row:?}");
        let (on, ran) = runs.remove(&id).unwrap_or((client, BTreeSet::new()));
        assert_eq!(on, client, "the attempt {id} was for another client");
        // What was called off before its start never starts, nor what comes after the packages that it says it had done. Of a removed
        // client nobody asks any more.
        if attempt.state() == S::Canceled && !removed && !murky {
            let done = |(item, ..): &(usize, usize, u32)| *item < attempt.items.len();
            assert!(ran.iter().all(done), "a canceled attempt ran {ran:?}: {attempt:?}");
        }
        for (item, ..) in &ran {
            assert!(!installed.contains(item), "package {item} of {} was installed by an earlier attempt and run again", row.name);
        }
        let good = |i: &v1::ItemResult| matches!(i.state(), S::Succeeded | S::AlreadyInstalled);
        installed.extend(attempt.items.iter().enumerate().filter(|(_, i)| good(i)).map(|(n, _)| n));
        if attempt.state() == S::Succeeded {
            assert!(!ran.is_empty(), "nothing was run, and it is said to have been installed: {attempt:?}");
        }
    }
    if let Some(last) = attempts.last()
        && is_end(row.state())
        && row.state() != S::Canceled
    {
        assert_eq!(last.state(), row.state(), "an execution's state is that of its newest attempt: {row:?}");
    }
}

/// What can be compared between two runs: per machine its access, why it is in which group, and how each job ended there.
pub(crate) fn end_state(case: &mut Case) -> Vec<String> {
    let mut out = Vec::new();
    for n in 0..case.jobs.len() {
        for row in rows(case, n) {
            let client = case.ids.iter().position(|id| row.client == format!("clients/{id}")).expect("it is a client");
            out.push(format!("client {client}, job {n}: {:?}, {}", seen(&row), row.mark));
        }
    }
    for (client, c) in case.expected.clients.iter().enumerate() {
        let kind = |why: &Why| if let Why::Policy(_) = why { "policy".to_owned() } else { format!("{why:?}") };
        let groups: BTreeMap<usize, String> = c.groups.iter().map(|(g, why)| (*g, kind(why))).collect();
        out.push(format!("client {client} on machine {}: {:?} in {groups:?}", c.machine, c.access));
    }
    out.sort();
    out
}
