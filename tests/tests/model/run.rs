//! Runs a list of operations on the real thing and on the model, and compares them.

use crate::{
    check,
    expect::{Access, CLOSED, ClientNumber, Expected, Policy},
    plan::{GROUPS, MACHINES, MachineNumber, Op, Order, PACKAGES, Step, Wish},
};
use std::collections::BTreeMap;
use sutler_agent::agent::Answer;
use sutler_base::{ClientId, GroupName, Timestamp, state::ClientState};
use sutler_proto::{convert::wire_time, v1};
use sutler_tests::{
    fleet::{Database, Machine, Manager, Network, Operator, Packages, Refused, Weather},
    harness::{PATIENCE, wait_until},
};
use tokio::runtime::Runtime;
use tonic::Code;

/// For how long what the manager says may get lost, should it have nothing to say.
const LOSING: std::time::Duration = std::time::Duration::from_millis(100);

/// A manager, its machines, and what is expected of them.
pub(crate) struct Case {
    pub(crate) expected: Expected,
    /// The agents of clients that are not removed.
    pub(crate) machines: BTreeMap<ClientNumber, Machine>,
    /// What machines had run whose clients were removed, and all others at the end.
    pub(crate) retired: Vec<(ClientNumber, Machine)>,
    /// The ids of the clients, by number.
    pub(crate) ids: Vec<ClientId>,
    /// The names of the jobs, by number.
    pub(crate) jobs: Vec<String>,
    pub(crate) manager: Manager,
    pub(crate) operator: Operator,
    pub(crate) network: Network,
    runtime: Runtime,
    seeds: u64,
    /// How many changes an operator has asked for.
    requests: u64,
    /// Whether the reply to those that follow is lost.
    twice: bool,
    /// How many minutes clocks are ahead: the machines', by number, and the manager's.
    ahead: BTreeMap<Option<ClientNumber>, i64>,
}

fn group(number: usize) -> GroupName {
    GROUPS[number].parse().expect("it is a group's name")
}

/// An answer that must be one.
pub(crate) fn ok<T>(what: &str, result: Result<T, Refused>) -> T {
    result.unwrap_or_else(|e| panic!("{what} was refused: {e:?}"))
}

fn refused<T>(what: &str, code: Code, result: Result<T, Refused>) {
    match result {
        Ok(_) => panic!("{what} was done, and should be refused with {code:?}"),
        Err(e) => assert_eq!(e.code, code, "{what}: {}", e.message),
    }
}

/// Asks for a change. Where the reply is lost, the same is asked again, and has to have the same answer; or what is given of
/// it, where it shows what goes on changing.
macro_rules! order {
    ($case:ident . $service:ident . $method:ident($request:expr)) => {
        order!($case.$service.$method($request), |answer| answer)
    };
    ($case:ident . $service:ident . $method:ident($request:expr), |$answer:ident| $same:expr) => {{
        let mut request = $request;
        $case.requests += 1;
        request.request_id = format!("request-{}", $case.requests);
        let again = request.clone();
        let first = $case.operator.$service(&$case.manager, |mut service| async move { service.$method(request).await });
        if $case.twice {
            let what = format!("{again:?}");
            let second = $case.operator.$service(&$case.manager, |mut service| async move { service.$method(again).await });
            match (&first, &second) {
                (Ok(first), Ok(second)) => {
                    let [first, second] = [first, second].map(|$answer| $same);
                    assert_eq!(first, second, "the answers to {what}, which was asked twice");
                }
                (Err(first), Err(second)) => assert_eq!(first.code, second.code, "{what}: {} and {}", first.message, second.message),
                both => panic!("{what} was asked twice, and the answers are {both:?}"),
            }
        }
        first
    }};
}

impl Case {
    /// A new manager with the groups and packages of the plan.
    pub(crate) fn new(database: Database, packages: &Packages) -> Case {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime can be made");
        let network = Network::new(runtime.handle());
        let manager = Manager::start(database, Some(&network));
        let mut operator = Operator::new(&manager, runtime.handle());
        for package in packages.sign(&manager.profile()) {
            ok("a push", operator.push(&manager, &package));
        }
        for (n, name) in GROUPS.into_iter().enumerate() {
            let join_mode = if n == CLOSED { v1::JoinMode::Closed } else { v1::JoinMode::Open };
            let request = v1::CreateGroupRequest { group_id: name.into(), join_mode: join_mode.into(), ..Default::default() };
            ok("a group", operator.groups(&manager, |mut g| async move { g.create_group(request).await }));
        }
        Case {
            expected: Expected::default(),
            machines: BTreeMap::new(),
            retired: Vec::new(),
            ids: Vec::new(),
            jobs: Vec::new(),
            manager,
            operator,
            network,
            runtime,
            seeds: 1,
            requests: 0,
            twice: false,
            ahead: BTreeMap::new(),
        }
    }

    /// The answer to something that has to be waited for.
    pub(crate) fn wait_for<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Does all of it, lets everybody come to rest with all agents running, and compares.
    pub(crate) fn play(&mut self, steps: &[Step]) {
        for step in steps {
            self.twice = step.twice;
            self.act(&step.op);
            self.expected.go_on();
            if step.settle {
                self.settle();
            }
        }
    }

    /// Everybody may work to the end: what is left open has a reason.
    pub(crate) fn finish(&mut self) {
        self.network.set(Weather::Fine);
        for client in 0..self.ids.len() {
            if self.expected.clients[client].access == Access::Removed {
                continue;
            }
            self.hold(client, false);
            self.start(client);
            self.expected.go_on();
        }
        self.settle();
        check::at_the_end(self);
    }

    /// Waits until everybody has done what can be done, and compares.
    fn settle(&mut self) {
        self.expected.go_on();
        let busy: Vec<ClientNumber> = (0..self.ids.len()).filter(|n| self.works(*n)).collect();
        // Where steps don't end one of them is begun, and the others wait for their turn.
        let running = |n: &ClientNumber| self.expected.clients[*n].access == Access::Active && self.expected.clients[*n].running;
        let held: Vec<ClientNumber> = (0..self.ids.len()).filter(|n| running(n) && !self.works(*n)).collect();
        let mut hurry = std::time::Instant::now();
        wait_until("open executions of connected clients to end", PATIENCE, || {
            if hurry.elapsed().as_millis() > 400 {
                busy.iter().for_each(|n| self.machines[n].hurry());
                hurry = std::time::Instant::now();
            }
            let mut open = check::open_of(self, &busy, &[]);
            open.extend(check::open_of(self, &held, &[v1::ExecutionState::Installing, v1::ExecutionState::Waiting]));
            if std::env::var_os("SUTLER_MODEL_TRACE").is_some() && !open.is_empty() {
                eprintln!("open: {open:?}");
            }
            open.is_empty()
        });
        check::compare(self);
    }

    /// Whether nothing keeps the client from working.
    fn works(&self, client: ClientNumber) -> bool {
        let c = &self.expected.clients[client];
        c.access == Access::Active && c.running && !c.held
    }

    fn client_name(&self, client: ClientNumber) -> String {
        format!("clients/{}", self.ids[client])
    }

    fn act(&mut self, op: &Op) {
        if std::env::var_os("SUTLER_MODEL_TRACE").is_some() {
            eprintln!("{op:?}");
        }
        match op {
            Op::Enrol { machine, pending, even, group, online } => self.enrol(*machine, *pending, *even, *group, *online),
            Op::Run(order) => self.run(order),
            Op::CreatePolicy { policy, group, when } => {
                let request = v1::CreatePolicyRequest {
                    policy_id: format!("policy-{policy}"),
                    group: format!("groups/{}", GROUPS[*group]),
                    trigger: v1::Trigger::NewClient.into(),
                    condition: when.condition().into(),
                    ..Default::default()
                };
                let made = order!(self.policies.create_policy(request));
                let same = self.expected.policies.values().any(|p| (p.group, p.when) == (*group, *when));
                if same || self.expected.policies.contains_key(policy) {
                    return refused("the same policy twice", Code::AlreadyExists, made);
                }
                let uid = ok("a policy", made).policy.expect("it is in the answer").uid;
                self.expected.policies.insert(*policy, Policy { uid, group: *group, when: *when });
            }
            Op::DeletePolicy(policy) => {
                let request = v1::DeletePolicyRequest { name: format!("policies/policy-{policy}"), ..Default::default() };
                let deleted = order!(self.policies.delete_policy(request));
                match self.expected.policies.remove(policy) {
                    Some(_) => drop(ok("a deletion", deleted)),
                    None => refused("a policy that is not there", Code::NotFound, deleted),
                }
            }
            Op::Apply(policy) => {
                let request = v1::ApplyPoliciesRequest { names: vec![format!("policies/policy-{policy}")], ..Default::default() };
                let applied = order!(self.policies.apply_policies(request));
                if !self.expected.policies.contains_key(policy) {
                    return refused("a policy that is not there", Code::NotFound, applied);
                }
                let applied = ok("applying a policy", applied).policies.remove(0);
                assert_eq!((applied.matched, applied.added), self.expected.apply(*policy), "matched and added by policy-{policy}");
            }
            Op::CancelJob(job) => self.cancel_job(*job),
            Op::Retry { job, waiting, machine, revive } => self.retry(*job, *waiting, *machine, *revive),
            Op::Restart { crash, wish } => self.restart(*crash, *wish),
            Op::Outage { lose_replies, wish } => self.outage(*lose_replies, *wish),
            Op::Slow(slow) => self.network.set(if *slow { Weather::Slow } else { Weather::Fine }),
            Op::SetClock { machine, minutes } => self.set_clock(*machine, *minutes),
            Op::Approve(machine)
            | Op::Add(_, machine)
            | Op::TakeOut(_, machine)
            | Op::ReleaseMember(_, machine)
            | Op::Wish(machine, _)
            | Op::Remove(machine)
            | Op::Quarantine(machine)
            | Op::Release(machine)
            | Op::Kill(machine)
            | Op::Start(machine)
            | Op::LoseJournal(machine)
            | Op::Fail(machine, ..)
            | Op::Hold(machine, _) => {
                if let Some(client) = self.expected.on(*machine) {
                    self.act_on(op, client);
                }
            }
        }
    }

    fn act_on(&mut self, op: &Op, client: ClientNumber) {
        let name = self.client_name(client);
        let access = self.expected.clients[client].access;
        match op {
            Op::Approve(_) => {
                let request = v1::ApproveClientsRequest { names: vec![name], ..Default::default() };
                let approved = order!(self.clients.approve_clients(request));
                if access == Access::Quarantined {
                    return refused("an approval of who is quarantined", Code::FailedPrecondition, approved);
                }
                assert_eq!(ok("an approval", approved).names.len(), usize::from(access == Access::Pending));
                self.expected.approve(client);
            }
            Op::Add(group, _) => {
                let request =
                    v1::AddMembersRequest { name: format!("groups/{}", GROUPS[*group]), clients: vec![name], ..Default::default() };
                let added = ok("adding a member", order!(self.groups.add_members(request)));
                assert_eq!(added.added, i32::from(self.expected.add(client, *group)), "added to {}", GROUPS[*group]);
            }
            Op::TakeOut(group, _) => {
                let name_of = format!("groups/{}", GROUPS[*group]);
                let request = v1::RemoveMembersRequest { name: name_of, clients: vec![name], ..Default::default() };
                let removed = order!(self.groups.remove_members(request));
                let was_in = self.expected.take_out(client, *group);
                assert_eq!(ok("taking out a member", removed).removed, i32::from(was_in), "taken out of {}", GROUPS[*group]);
            }
            Op::ReleaseMember(group, _) => {
                let request = v1::ReleaseMemberRequest { name: format!("groups/{}", GROUPS[*group]), client: name, ..Default::default() };
                let released = order!(self.groups.release_member(request));
                match self.expected.release_member(client, *group) {
                    true => drop(ok("a release", released)),
                    false => refused("a release of who is free", Code::FailedPrecondition, released),
                }
            }
            Op::Wish(_, wish) => {
                if self.expected.clients[client].running {
                    self.wish(client, *wish);
                }
            }
            Op::Remove(_) => {
                let request = v1::RemoveClientRequest { name, ..Default::default() };
                ok("removing a client", order!(self.clients.remove_client(request), |a| a.client.as_ref().map(|c| (&c.name, c.state))));
                self.expected.remove(client);
                if let Some(mut machine) = self.machines.remove(&client) {
                    machine.kill();
                    self.retired.push((client, machine));
                }
            }
            Op::Quarantine(_) => {
                let request = v1::QuarantineClientRequest { name, ..Default::default() };
                let done = order!(self.clients.quarantine_client(request), |a| a.client.as_ref().map(|c| (&c.name, c.state)));
                if access == Access::Pending {
                    return refused("a quarantine of who waits", Code::FailedPrecondition, done);
                }
                ok("a quarantine", done);
                self.expected.clients[client].access = Access::Quarantined;
            }
            Op::Release(_) => {
                let request = v1::ReleaseClientRequest { name, ..Default::default() };
                let done = order!(self.clients.release_client(request), |a| a.client.as_ref().map(|c| (&c.name, c.state)));
                if access == Access::Pending {
                    return refused("a release of who waits", Code::FailedPrecondition, done);
                }
                ok("a release", done);
                self.expected.release(client);
            }
            Op::Kill(_) => {
                self.machines.get_mut(&client).expect("it has a machine").kill();
                let client = &mut self.expected.clients[client];
                client.fading |= std::mem::take(&mut client.running);
            }
            Op::Start(_) => self.start(client),
            Op::LoseJournal(_) => {
                let machine = self.machines.get_mut(&client).expect("it has a machine");
                machine.kill();
                machine.simulated.journal.lose();
                self.expected.clients[client].lost = true;
                if std::mem::take(&mut self.expected.clients[client].running) {
                    self.start(client);
                }
            }
            Op::Fail(_, package, fails) => {
                let machine = &self.machines[&client].simulated.machine;
                let name = PACKAGES[*package].parse().expect("it is a package's name");
                if *fails {
                    machine.fail(&name, 1, None);
                    self.expected.clients[client].failing.insert(*package);
                } else {
                    machine.mend(&name);
                    self.expected.clients[client].failing.remove(package);
                }
            }
            Op::Hold(_, held) => self.hold(client, *held),
            _ => unreachable!("it is not about one client"),
        }
    }

    fn hold(&mut self, client: ClientNumber, held: bool) {
        self.machines[&client].simulated.machine.hold_steps(held);
        self.expected.clients[client].held = held;
    }

    fn start(&mut self, client: ClientNumber) {
        let state = match self.expected.clients[client].access {
            Access::Pending => ClientState::Pending,
            Access::Active => ClientState::Active,
            Access::Quarantined => ClientState::Quarantined,
            Access::Removed => ClientState::Removed,
        };
        self.machines.get_mut(&client).expect("it has a machine").start(state);
        let name = self.client_name(client);
        wait_until("the facts of a connected client", PATIENCE, || {
            let request = v1::GetClientRequest { name: name.clone() };
            let shown = ok("a client", self.operator.clients(&self.manager, |mut c| async move { c.get_client(request).await }));
            shown.client.is_some_and(|c| c.facts_time.is_some())
        });
        self.expected.connect(client);
    }

    fn enrol(&mut self, machine: MachineNumber, pending: bool, even: bool, token_group: Option<usize>, online: bool) {
        assert!(machine < MACHINES);
        if self.expected.on(machine).is_some() {
            return;
        }
        let request = v1::CreateEnrollmentTokensRequest {
            uses: if pending { 2 } else { 1 },
            groups: token_group.iter().map(|g| format!("groups/{}", GROUPS[*g])).collect(),
            labels: [("ring".to_owned(), if even { "even" } else { "odd" }.to_owned())].into(),
            ..Default::default()
        };
        let made = self.operator.tokens(&self.manager, |mut t| async move { t.create_enrollment_tokens(request).await });
        let token = ok("a token", made).tokens.pop().expect("it is in the answer").secret;
        self.seeds += 1;
        let enrolled = Machine::enroll(&format!("machine-{machine}"), self.seeds, &token, self.runtime.handle());
        let client = self.expected.enrol(machine, pending, even, token_group);
        self.ids.push(enrolled.client().clone());
        self.machines.insert(client, enrolled);
        if online {
            self.start(client);
        }
    }

    fn run(&mut self, order: &Order) {
        let client = order.machine.and_then(|machine| self.expected.on(machine));
        if self.jobs.len() == crate::plan::JOBS || (order.groups.is_empty() && client.is_none()) {
            return;
        }
        let replace = if order.always { v1::Replace::Always } else { v1::Replace::IfMissing };
        let packages: Vec<_> = order
            .packages
            .iter()
            .map(|p| v1::JobPackage { package: format!("packages/{}", PACKAGES[*p]), replace: replace.into(), ..Default::default() })
            .collect();
        let mut destinations: Vec<String> = order.groups.iter().map(|g| format!("groups/{}", GROUPS[*g])).collect();
        destinations.extend(client.map(|c| self.client_name(c)));
        // What stages and gates hold back is another story.
        let terms = Some(v1::JobTerms { rollout: Some(v1::Rollout { all_at_once: true, ..Default::default() }), ..Default::default() });
        let started = if order.draft {
            let request = v1::CreateJobRequest { packages, destinations, terms, ..Default::default() };
            let made = ok("a draft", order!(self.jobs.create_job(request), |a| a.job.as_ref().map(|j| &j.name)));
            let name = made.job.expect("it is in the answer").name;
            let request = v1::StartJobRequest { name, ..Default::default() };
            order!(self.jobs.start_job(request), |a| a.job.as_ref().map(|j| &j.name)).map(|a| a.job)
        } else {
            let request = v1::RunJobRequest { packages, destinations, terms, ..Default::default() };
            order!(self.jobs.run_job(request), |a| a.job.as_ref().map(|j| &j.name)).map(|a| a.job)
        };
        if self.expected.is_second(order) {
            return refused("a second job for the same package on the same group", Code::FailedPrecondition, started);
        }
        self.jobs.push(ok("a job", started).expect("it is in the answer").name);
        self.expected.run(order.clone(), client);
    }

    fn cancel_job(&mut self, job: usize) {
        let Some(name) = self.jobs.get(job).cloned() else { return };
        let request = v1::CancelJobRequest { name, ..Default::default() };
        match order!(self.jobs.cancel_job(request), |a| a.job.as_ref().map(|j| &j.name)) {
            Ok(_) => self.expected.cancel_job(job),
            // A job for machines alone may be complete by now.
            Err(e) if e.code == Code::FailedPrecondition && self.expected.is_complete(job, false) => {}
            Err(e) => panic!("a cancellation was refused: {e:?}"),
        }
    }

    fn retry(&mut self, job: usize, waiting: bool, machine: Option<MachineNumber>, revive: bool) {
        let Some(name) = self.jobs.get(job).cloned() else { return };
        let only = machine.and_then(|m| self.expected.on(m));
        let mut kinds = vec![v1::RetryKind::Error.into()];
        kinds.extend(waiting.then_some(i32::from(v1::RetryKind::Waiting)));
        // The certificates are this machine's, so its clock is the manager's.
        let later = Timestamp::now().checked_add(jiff::SignedDuration::from_hours(1)).expect("it is a time");
        let clients = only.map(|c| self.client_name(c)).into_iter().collect();
        let expire_time = revive.then(|| wire_time(later));
        let request = v1::RetryJobRequest { name, kinds, clients, expire_time, ..Default::default() };
        let retried = order!(self.jobs.retry_job(request), |a| (a.job.as_ref().map(|j| &j.name), a.retried));
        if !self.expected.jobs[job].active && !revive {
            return refused("running a canceled job again", Code::FailedPrecondition, retried);
        }
        if only.is_some_and(|c| !self.expected.jobs[job].rows.contains_key(&c)) {
            return refused("running again what never was", Code::NotFound, retried);
        }
        let order = &self.expected.jobs[job].order;
        if !self.expected.jobs[job].active && self.expected.is_second(order) {
            return refused("a second job for the same package on the same group", Code::FailedPrecondition, retried);
        }
        let (least, most) = self.expected.retry(job, only);
        let retried = ok("running a job again", retried).retried;
        assert!((least..=most).contains(&retried), "{retried} executions were run again, not {least} to {most}");
    }

    fn wish(&mut self, client: ClientNumber, wish: Wish) {
        let machine = &self.machines[&client];
        let (answer, may) = match wish {
            Wish::Join(g) => (machine.join(&group(g)), self.expected.wish_join(client, g)),
            Wish::Leave(g) => (machine.leave(&group(g)), self.expected.wish_leave(client, g)),
        };
        match (answer, may) {
            (Answer::Done { .. }, true) | (Answer::Refused { .. }, false) => {}
            // Whoever is let in again connects anew, and asks then.
            (Answer::Queued, _) => wait_until("a queued request to be answered", PATIENCE, || machine.waiting_requests() == 0),
            (answer, may) => panic!("client {client} wished {wish:?}, and the answer is {answer:?}; whether it may: {may}"),
        }
    }

    fn set_clock(&mut self, machine: Option<MachineNumber>, minutes: i64) {
        let client = machine.and_then(|machine| self.expected.on(machine));
        if machine.is_some() && client.is_none() {
            return;
        }
        let step = 60_000 * (minutes - self.ahead.insert(client, minutes).unwrap_or(0));
        match client {
            Some(client) => self.machines[&client].simulated.clock.step(step),
            None => self.manager.step_clock(step),
        }
    }

    fn restart(&mut self, crash: bool, wish: Option<(MachineNumber, Wish)>) {
        self.operator.hang_up();
        if crash {
            self.manager.crash()
        } else {
            self.manager.stop()
        }
        self.expected.clients.iter_mut().for_each(|client| client.fading = false);
        self.without_manager(wish, |case| case.manager.start_again());
    }

    fn outage(&mut self, lose_replies: bool, wish: Option<(MachineNumber, Wish)>) {
        if lose_replies {
            self.network.lose_replies(LOSING);
        } else {
            self.network.set(Weather::Cut);
        }
        self.without_manager(wish, |case| case.network.set(Weather::Fine));
    }

    /// What a machine wishes while it has no connection, and how all find back once there is one again.
    fn without_manager(&mut self, wish: Option<(MachineNumber, Wish)>, end: impl FnOnce(&mut Case)) {
        let running: Vec<ClientNumber> = (0..self.ids.len()).filter(|c| self.expected.clients[*c].running).collect();
        for client in &running {
            self.machines[client].disconnected();
        }
        // Asked for while there is no manager: kept, and done at the next contact.
        let asked = wish.and_then(|(machine, wish)| Some((self.expected.on(machine).filter(|c| self.expected.clients[*c].running)?, wish)));
        if let Some((client, wish)) = asked {
            let machine = &self.machines[&client];
            let answer = match wish {
                Wish::Join(g) => machine.join(&group(g)),
                Wish::Leave(g) => machine.leave(&group(g)),
            };
            assert_eq!(answer, Answer::Queued, "without a manager");
        }
        self.expected.go_on();
        end(self);
        for client in &running {
            self.machines[client].connected();
        }
        if let Some((client, wish)) = asked {
            let machine = &self.machines[&client];
            wait_until("a queued request to be answered", PATIENCE, || machine.waiting_requests() == 0);
            match wish {
                Wish::Join(g) => drop(self.expected.wish_join(client, g)),
                Wish::Leave(g) => drop(self.expected.wish_leave(client, g)),
            }
        }
    }
}
