//! What must hold by the domain's rules, as plain data: who is in which group and why, and for each job and client where
//! the execution may be.
//!
//! Memberships are exact. An execution has a set of places where it may be ([`Row`]), since agents work while the list of
//! operations goes on; every observation narrows the set, and an empty set is a broken promise.

use crate::plan::{GROUPS, GroupNumber, MachineNumber, Order, PackageNumber, When};
use std::collections::{BTreeMap, BTreeSet};

/// The number of a client: every enrolment makes another.
pub(crate) type ClientNumber = usize;
/// The group that no client joins or leaves by itself.
pub(crate) const CLOSED: GroupNumber = GROUPS.len() - 1;

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Access {
    Pending,
    Active,
    Quarantined,
    Removed,
}

/// What put a client into a group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Why {
    /// The policy of this uid.
    Policy(String),
    Operator,
    Token,
    Client,
}

/// A client.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) machine: MachineNumber,
    pub(crate) access: Access,
    /// Whether it was ever let in.
    pub(crate) admitted: bool,
    /// Whether its facts are in.
    pub(crate) facts: bool,
    /// Whether the policies for new clients have looked at it.
    pub(crate) greeted: bool,
    /// The group that its token names.
    pub(crate) token_group: Option<GroupNumber>,
    /// The label that its token gave.
    pub(crate) even: bool,
    pub(crate) groups: BTreeMap<GroupNumber, Why>,
    /// Groups that an operator took it out of.
    pub(crate) held_out: BTreeSet<GroupNumber>,
    /// Whether its agent runs; it is then connected, but for the time in which the manager is away.
    pub(crate) running: bool,
    /// Whether it was killed, and the manager may still take its connection for one: what is queued may be offered to it.
    pub(crate) fading: bool,
    /// Whether steps that start don't end.
    pub(crate) held: bool,
    pub(crate) failing: BTreeSet<PackageNumber>,
    /// Whether its journal was lost and the manager does not know it yet.
    pub(crate) lost: bool,
    /// Whether a journal of it was ever lost: then something may be installed that nobody recorded.
    pub(crate) murky: bool,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Good,
    Failed,
    Interrupted,
}

/// Why an execution was canceled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    LeftGroup,
    JobCanceled,
    ClientRemoved,
}

/// Where an execution may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Queued,
    /// The agent may have it, and has started nothing.
    Offered,
    /// A step was started; so many packages are done.
    Started(u8),
    /// It ended; told: the manager knows.
    Ended {
        end: End,
        told: bool,
    },
    Canceled(Reason),
}

/// One possibility of an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    pub(crate) place: Place,
    /// A cancellation that its agent has not answered.
    pub(crate) cancel: Option<Reason>,
    /// Whether an earlier attempt had started.
    pub(crate) tried: bool,
    /// The packages that earlier attempts installed, as bits.
    pub(crate) done: u8,
}

const NEW: Row = Row { place: Place::Queued, cancel: None, tried: false, done: 0 };

/// A job.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) order: Order,
    /// The client that it names.
    pub(crate) client: Option<ClientNumber>,
    /// Whether it stands; one that is complete stands, too.
    pub(crate) active: bool,
    pub(crate) rows: BTreeMap<ClientNumber, BTreeSet<Row>>,
}

/// A policy.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) uid: String,
    pub(crate) group: GroupNumber,
    pub(crate) when: When,
}

/// Everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expected {
    pub(crate) clients: Vec<Client>,
    pub(crate) jobs: Vec<Job>,
    pub(crate) policies: BTreeMap<usize, Policy>,
}

impl Expected {
    /// The client that the machine is now.
    pub(crate) fn on(&self, machine: MachineNumber) -> Option<ClientNumber> {
        self.clients.iter().rposition(|c| c.machine == machine && c.access != Access::Removed)
    }

    /// Whether a destination of the job holds the client.
    pub(crate) fn is_reached(&self, job: &Job, client: ClientNumber) -> bool {
        job.client == Some(client) || job.order.groups.iter().any(|g| self.clients[client].groups.contains_key(g))
    }

    fn each_row(&mut self, client: ClientNumber, mut change: impl FnMut(&Job, Row) -> Vec<Row>) {
        for job in 0..self.jobs.len() {
            let Some(rows) = self.jobs[job].rows.remove(&client) else { continue };
            let rows = rows.into_iter().flat_map(|row| change(&self.jobs[job], row)).collect();
            self.jobs[job].rows.insert(client, rows);
        }
    }

    /// Every job that stands and has the client in reach has an execution there; one that had left comes back.
    fn reach(&mut self, client: ClientNumber) {
        if !self.clients[client].admitted || self.clients[client].access == Access::Removed {
            return;
        }
        for n in 0..self.jobs.len() {
            let job = &self.jobs[n];
            if !job.active || !self.is_reached(job, client) {
                continue;
            }
            let rows = self.jobs[n].rows.entry(client).or_insert_with(|| [NEW].into());
            let back = |mut row: Row| {
                if row.place == Place::Canceled(Reason::LeftGroup) {
                    row.place = Place::Queued;
                }
                row
            };
            *rows = std::mem::take(rows).into_iter().map(back).collect();
        }
    }

    fn join(&mut self, client: ClientNumber, group: GroupNumber, why: Why) -> bool {
        let c = &mut self.clients[client];
        if c.access == Access::Removed || c.groups.contains_key(&group) {
            return false;
        }
        c.groups.insert(group, why);
        self.reach(client);
        true
    }

    fn leave(&mut self, client: ClientNumber, group: GroupNumber) -> bool {
        if self.clients[client].groups.remove(&group).is_none() {
            return false;
        }
        let reached: Vec<bool> = self.jobs.iter().map(|job| self.is_reached(job, client)).collect();
        for (n, job) in self.jobs.iter_mut().enumerate() {
            if !job.active || reached[n] || !job.order.groups.contains(&group) {
                continue;
            }
            let Some(rows) = job.rows.get_mut(&client) else { continue };
            *rows = std::mem::take(rows).into_iter().flat_map(|row| called_off(row, Reason::LeftGroup)).collect();
        }
        true
    }

    fn admit(&mut self, client: ClientNumber) {
        self.clients[client].admitted = true;
        if let Some(group) = self.clients[client].token_group
            && !self.clients[client].held_out.contains(&group)
        {
            self.join(client, group, Why::Token);
        }
        self.reach(client);
        self.greet(client);
    }

    fn greet(&mut self, client: ClientNumber) {
        let c = &mut self.clients[client];
        if c.access != Access::Active || !c.facts || c.greeted {
            return;
        }
        c.greeted = true;
        let policies: Vec<Policy> = self.policies.values().cloned().collect();
        for policy in policies {
            let c = &self.clients[client];
            if policy.when.holds(c.even) && !c.held_out.contains(&policy.group) {
                self.join(client, policy.group, Why::Policy(policy.uid));
            }
        }
    }

    /// A machine enrolled. Gives back its client.
    pub(crate) fn enrol(&mut self, machine: MachineNumber, pending: bool, even: bool, token_group: Option<GroupNumber>) -> ClientNumber {
        self.clients.push(Client {
            machine,
            access: if pending { Access::Pending } else { Access::Active },
            admitted: false,
            facts: false,
            greeted: false,
            token_group,
            even,
            groups: BTreeMap::new(),
            held_out: BTreeSet::new(),
            running: false,
            fading: false,
            held: false,
            failing: BTreeSet::new(),
            lost: false,
            murky: false,
        });
        let client = self.clients.len() - 1;
        if !pending {
            self.admit(client);
        }
        client
    }

    /// Its agent runs and is connected, and its facts are in.
    pub(crate) fn connect(&mut self, client: ClientNumber) {
        let c = &mut self.clients[client];
        (c.running, c.fading, c.facts) = (true, false, true);
        if std::mem::take(&mut c.lost) {
            c.murky = true;
            let expected = self.clone();
            self.each_row(client, |job, row| forgotten(job.active, expected.is_reached(job, client), row));
        }
        self.greet(client);
    }

    /// An operator let it in.
    pub(crate) fn approve(&mut self, client: ClientNumber) {
        if self.clients[client].access == Access::Pending {
            self.clients[client].access = Access::Active;
            self.admit(client);
        }
    }

    /// An operator put it into a group. Gives back whether it is new there.
    pub(crate) fn add(&mut self, client: ClientNumber, group: GroupNumber) -> bool {
        self.clients[client].held_out.remove(&group);
        self.join(client, group, Why::Operator)
    }

    /// An operator took it out. Gives back whether it was in.
    pub(crate) fn take_out(&mut self, client: ClientNumber, group: GroupNumber) -> bool {
        self.clients[client].held_out.insert(group);
        self.leave(client, group)
    }

    /// An operator lets policies put it back. Gives back whether they could not before.
    pub(crate) fn release_member(&mut self, client: ClientNumber, group: GroupNumber) -> bool {
        self.clients[client].held_out.remove(&group)
    }

    /// The client asks to join. Gives back whether it may.
    pub(crate) fn wish_join(&mut self, client: ClientNumber, group: GroupNumber) -> bool {
        let c = &self.clients[client];
        let may = c.access == Access::Active && group != CLOSED && !c.held_out.contains(&group);
        if may {
            self.join(client, group, Why::Client);
        }
        may
    }

    /// The client asks to leave. Gives back whether it may.
    pub(crate) fn wish_leave(&mut self, client: ClientNumber, group: GroupNumber) -> bool {
        let may = group != CLOSED && self.clients[client].groups.contains_key(&group);
        if may {
            self.leave(client, group);
        }
        may
    }

    /// A policy is applied. Gives back how many match and how many were added.
    pub(crate) fn apply(&mut self, policy: usize) -> (i32, i32) {
        let policy = self.policies[&policy].clone();
        let (mut matched, mut added) = (0, 0);
        for client in 0..self.clients.len() {
            let c = &self.clients[client];
            // Without facts a condition over them is unknown, which never matches.
            let known = c.facts || !policy.when.condition().contains("facts");
            if c.access != Access::Active || !known || !policy.when.holds(c.even) {
                continue;
            }
            matched += 1;
            if !c.held_out.contains(&policy.group) && self.join(client, policy.group, Why::Policy(policy.uid.clone())) {
                added += 1;
            }
        }
        (matched, added)
    }

    /// Whether a job that stands installs one of these packages on one of these groups.
    pub(crate) fn is_second(&self, order: &Order) -> bool {
        let meets = |job: &&Job| {
            job.order.groups.iter().any(|g| order.groups.contains(g)) && job.order.packages.iter().any(|p| order.packages.contains(p))
        };
        self.jobs.iter().filter(|job| job.active).any(|job| meets(&job))
    }

    /// A job was started.
    pub(crate) fn run(&mut self, order: Order, client: Option<ClientNumber>) {
        self.jobs.push(Job { order, client, active: true, rows: BTreeMap::new() });
        (0..self.clients.len()).for_each(|client| self.reach(client));
    }

    /// A job was canceled.
    pub(crate) fn cancel_job(&mut self, job: usize) {
        let job = &mut self.jobs[job];
        job.active = false;
        for rows in job.rows.values_mut() {
            *rows = std::mem::take(rows).into_iter().flat_map(|row| called_off(row, Reason::JobCanceled)).collect();
        }
    }

    /// A job is run again where it ended in error. Gives back the least and the most executions that get a new attempt.
    pub(crate) fn retry(&mut self, job: usize, only: Option<ClientNumber>) -> (i32, i32) {
        let revived = !std::mem::replace(&mut self.jobs[job].active, true);
        let (mut least, mut most) = (0, 0);
        let clients: Vec<ClientNumber> = self.jobs[job].rows.keys().copied().collect();
        for client in clients {
            if only.is_some_and(|o| o != client) || !self.is_reached(&self.jobs[job], client) {
                continue;
            }
            let meant = |row: &Row| matches!(row.place, Place::Ended { end: End::Failed | End::Interrupted, told: true });
            let rows = self.jobs[job].rows.get_mut(&client).expect("it is a key");
            least += i32::from(rows.iter().all(meant));
            most += i32::from(rows.iter().any(meant));
            let again = |row: Row| if meant(&row) { Row { place: Place::Queued, cancel: None, tried: true, ..row } } else { row };
            *rows = std::mem::take(rows).into_iter().map(again).collect();
        }
        if revived {
            (0..self.clients.len()).for_each(|client| self.reach(client));
        }
        (least, most)
    }

    /// An operator ended its quarantine.
    pub(crate) fn release(&mut self, client: ClientNumber) {
        self.clients[client].access = Access::Active;
        self.greet(client);
    }

    /// Whether every execution that the job will ever have may be at its end; or, with `surely`, is.
    pub(crate) fn is_complete(&self, job: usize, surely: bool) -> bool {
        let ended = |row: &Row| matches!(row.place, Place::Ended { told: true, .. } | Place::Canceled(_));
        let job = &self.jobs[job];
        let Some(client) = job.client.filter(|_| job.active && job.order.groups.is_empty()) else { return false };
        match job.rows.get(&client) {
            Some(rows) if surely => rows.iter().all(ended),
            Some(rows) => rows.iter().any(ended),
            // It was removed before it was let in.
            None => self.clients[client].access == Access::Removed,
        }
    }

    /// A client is no more.
    pub(crate) fn remove(&mut self, client: ClientNumber) {
        let c = &mut self.clients[client];
        (c.access, c.running) = (Access::Removed, false);
        c.groups.clear();
        self.each_row(client, |_, row| match row.place {
            Place::Ended { told: true, .. } | Place::Canceled(_) => vec![row],
            _ => vec![Row { place: Place::Canceled(Reason::ClientRemoved), cancel: None, ..row }],
        });
    }

    /// Agents and manager do what they may, however far.
    pub(crate) fn go_on(&mut self) {
        loop {
            let before = self.jobs.clone();
            for (n, job) in before.iter().enumerate() {
                for (client, rows) in job.rows.clone() {
                    let mut all: BTreeSet<Row> = rows.clone();
                    let mut fresh: Vec<Row> = rows.into_iter().collect();
                    while let Some(row) = fresh.pop() {
                        for next in self.next(n, client, row) {
                            if all.insert(next) {
                                fresh.push(next);
                            }
                        }
                    }
                    self.jobs[n].rows.insert(client, all);
                }
            }
            if self.jobs.iter().zip(&before).all(|(a, b)| a.rows == b.rows) {
                return;
            }
        }
    }

    fn next(&self, job: usize, client: ClientNumber, row: Row) -> Vec<Row> {
        let (c, j) = (&self.clients[client], &self.jobs[job]);
        let mut out = Vec::new();
        if !c.running {
            if c.fading && row.place == Place::Queued && c.access == Access::Active && j.active {
                out.push(Row { place: Place::Offered, ..row });
            }
            return out;
        }
        match (row.place, row.cancel) {
            (Place::Queued, _) if c.access == Access::Active && j.active => out.push(Row { place: Place::Offered, ..row }),
            (Place::Offered, Some(reason)) => out.push(acknowledged(j.active, self.is_reached(j, client), reason, row)),
            (Place::Offered, None) => {
                out.push(Row { place: Place::Started(0), ..row });
                self.step(job, client, row, 0, &mut out);
            }
            (Place::Started(at), cancel) => {
                self.step(job, client, row, at, &mut out);
                if let Some(reason) = cancel.filter(|_| at > 0) {
                    let off = acknowledged(j.active, self.is_reached(j, client), reason, Row { tried: true, ..row });
                    // Nothing of it had really to be done, or its results are here.
                    out.extend([off, Row { done: row.done | ((1 << at) - 1), ..off }]);
                }
            }
            (Place::Ended { end, told: false }, _) => {
                out.push(Row { place: Place::Ended { end, told: true }, cancel: None, ..row });
            }
            _ => {}
        }
        out
    }

    /// What may come of the package that is next.
    fn step(&self, job: usize, client: ClientNumber, row: Row, at: u8, out: &mut Vec<Row>) {
        let (c, order) = (&self.clients[client], &self.jobs[job].order);
        let package = order.packages[usize::from(at)];
        let skipped = row.done & (1 << at) != 0;
        let there = !order.always && self.may_be_installed(job, client, package);
        let good = skipped || there || (!c.held && !c.failing.contains(&package));
        let bad = !skipped && !c.held && c.failing.contains(&package);
        if good {
            let last = usize::from(at) + 1 == order.packages.len();
            let place = if last { Place::Ended { end: End::Good, told: false } } else { Place::Started(at + 1) };
            out.push(Row { place, ..row });
        }
        if bad {
            let done = row.done | ((1 << at) - 1);
            out.push(Row { place: Place::Ended { end: End::Failed, told: false }, done, ..row });
        }
    }

    /// Whether the package may be on the machine already, by this job or another one.
    fn may_be_installed(&self, job: usize, client: ClientNumber, package: PackageNumber) -> bool {
        let touched = |row: &Row| row.tried || !matches!(row.place, Place::Queued | Place::Offered | Place::Canceled(_));
        self.clients[client].murky
            || self.jobs.iter().enumerate().any(|(n, other)| {
                n != job && other.order.packages.contains(&package) && other.rows.get(&client).is_some_and(|rows| rows.iter().any(touched))
            })
    }
}

/// What has not started is called off: at once if nobody was told of it, else when its agent says so. So may be what comes after the
/// packages that are done.
fn called_off(row: Row, reason: Reason) -> Vec<Row> {
    match (row.place, row.cancel) {
        (Place::Queued, _) => vec![Row { place: Place::Canceled(reason), ..row }],
        (Place::Offered, None) => vec![Row { cancel: Some(reason), ..row }],
        (Place::Started(_), None) => vec![row, Row { cancel: Some(reason), ..row }],
        _ => vec![row],
    }
}

/// The agent said that it starts nothing more.
fn acknowledged(active: bool, reached: bool, reason: Reason, row: Row) -> Row {
    let place = match (reason, reached, active) {
        (Reason::LeftGroup, true, true) => Place::Queued,
        (Reason::LeftGroup, true, false) => Place::Canceled(Reason::JobCanceled),
        _ => Place::Canceled(reason),
    };
    Row { place, cancel: None, ..row }
}

/// The agent's journal was lost: what it had accepted is interrupted, the rest gets a new attempt.
fn forgotten(active: bool, reached: bool, row: Row) -> Vec<Row> {
    let interrupted = Row { place: Place::Ended { end: End::Interrupted, told: true }, cancel: None, tried: true, ..row };
    let again = Row { place: Place::Queued, cancel: None, ..row };
    match (row.place, row.cancel) {
        (Place::Offered, Some(reason)) => vec![acknowledged(active, reached, reason, row)],
        (Place::Offered | Place::Started(_) | Place::Ended { told: false, .. }, _) => {
            let mut out = vec![interrupted];
            let off = |reason| Row { place: Place::Canceled(reason), cancel: None, ..row };
            // A cancellation may have waited that the agent can't answer any more.
            out.push(if !active { off(Reason::JobCanceled) } else { again });
            if !reached {
                out.push(off(Reason::LeftGroup));
            }
            out
        }
        _ => vec![row],
    }
}
