//! What can happen, as a list that proptest makes and shrinks.
//!
//! Operations name machines, groups, policies and jobs by number, so that every shorter list is one, too. What makes no
//! sense at its place (a machine that is not enrolled approves nothing) is passed over, by the model and the product alike.

use proptest::{
    collection::vec,
    option, prop_oneof,
    strategy::{BoxedStrategy, Just, Strategy},
};

/// How many machines there are.
pub(crate) const MACHINES: usize = 6;
/// The groups; nobody joins the last one from a client.
pub(crate) const GROUPS: [&str; 3] = ["red", "green", "closed"];
/// The packages.
pub(crate) const PACKAGES: [&str; 2] = ["alpha", "beta"];
/// How many names policies have.
pub(crate) const POLICIES: usize = 3;
/// How many jobs are made at the most.
pub(crate) const JOBS: usize = 4;

/// The number of a machine.
pub(crate) type MachineNumber = usize;
/// The number of a group.
pub(crate) type GroupNumber = usize;
/// The number of a package.
pub(crate) type PackageNumber = usize;

/// Whom a policy means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Every client.
    Always,
    /// Those whose token said `ring: even`.
    Even,
    /// Those whose token said `ring: odd`.
    Odd,
    /// Nobody.
    Windows,
}

impl When {
    /// The condition.
    pub(crate) fn condition(self) -> &'static str {
        match self {
            When::Always => "",
            When::Even => "labels.ring == 'even'",
            When::Odd => "labels.ring == 'odd' && facts.os.family == 'linux'",
            When::Windows => "facts.os.family == 'windows'",
        }
    }

    /// Whether it holds.
    pub(crate) fn holds(self, even: bool) -> bool {
        match self {
            When::Always => true,
            When::Even => even,
            When::Odd => !even,
            When::Windows => false,
        }
    }
}

/// What a machine asks for by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// To be in a group.
    Join(GroupNumber),
    /// To be out of it.
    Leave(GroupNumber),
}

/// What a job is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    /// Its groups.
    pub(crate) groups: Vec<GroupNumber>,
    /// A machine that is named by itself.
    pub(crate) machine: Option<MachineNumber>,
    /// Its packages, in their order.
    pub(crate) packages: Vec<PackageNumber>,
    /// Install also where it is there already.
    pub(crate) always: bool,
    /// First a draft, then a start.
    pub(crate) draft: bool,
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    /// A machine that was never seen before enrols.
    Enrol { machine: MachineNumber, pending: bool, even: bool, group: Option<GroupNumber>, online: bool },
    /// An operator lets it in.
    Approve(MachineNumber),
    /// An operator puts it into a group.
    Add(GroupNumber, MachineNumber),
    /// An operator takes it out.
    TakeOut(GroupNumber, MachineNumber),
    /// An operator lets policies put it back.
    ReleaseMember(GroupNumber, MachineNumber),
    /// The machine asks by itself.
    Wish(MachineNumber, Wish),
    /// A policy is made.
    CreatePolicy { policy: usize, group: GroupNumber, when: When },
    /// A policy is deleted.
    DeletePolicy(usize),
    /// A policy is applied to clients that are there.
    Apply(usize),
    /// A job is run.
    Run(Order),
    /// A job is canceled.
    CancelJob(usize),
    /// A job is run again where it ended in error; `revive`: also if it was canceled.
    Retry { job: usize, waiting: bool, machine: Option<MachineNumber>, revive: bool },
    /// An operator removes the client.
    Remove(MachineNumber),
    /// An operator stops it.
    Quarantine(MachineNumber),
    /// An operator lets it go on.
    Release(MachineNumber),
    /// The manager ends, in order or not, and starts again; a machine may ask for something in between.
    Restart { crash: bool, wish: Option<(MachineNumber, Wish)> },
    /// The network is cut, perhaps after replies of the manager were lost, and there again; a machine may ask for something
    /// in between.
    Outage { lose_replies: bool, wish: Option<(MachineNumber, Wish)> },
    /// From now on the network is slow, or isn't.
    Slow(bool),
    /// The clock of a machine, or of the manager, is set to so many minutes ahead of this machine's. Not further than a
    /// certificate begins in the past, and than a lease lasts: what comes beyond that is no matter of order.
    SetClock { machine: Option<MachineNumber>, minutes: i64 },
    /// The agent is killed.
    Kill(MachineNumber),
    /// The agent is started.
    Start(MachineNumber),
    /// The agent's journal is lost while it does not run.
    LoseJournal(MachineNumber),
    /// From now on the package's steps fail there, or don't.
    Fail(MachineNumber, PackageNumber, bool),
    /// From now on steps that start don't end there, or do again.
    Hold(MachineNumber, bool),
}

/// An operation, and whether everybody may come to rest before the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// What happens.
    pub(crate) op: Op,
    /// Whether there is time afterwards.
    pub(crate) settle: bool,
    /// Whether the reply to what an operator asks is lost, so that the same is asked again.
    pub(crate) twice: bool,
}

fn machine() -> impl Strategy<Value = MachineNumber> {
    // Few machines to which much happens, and some more.
    prop_oneof![5 => Just(0), 3 => Just(1), 2 => Just(2), 2 => 3..MACHINES]
}

fn job() -> impl Strategy<Value = usize> {
    prop_oneof![4 => Just(0), 2 => Just(1), 1 => 2..JOBS]
}

fn group() -> impl Strategy<Value = GroupNumber> {
    // The first ones more often: things have to meet.
    prop_oneof![4 => Just(0), 3 => Just(1), 1 => Just(2)]
}

fn enrol() -> impl Strategy<Value = Op> {
    let pending = prop_oneof![3 => Just(false), 1 => Just(true)];
    let online = prop_oneof![4 => Just(true), 1 => Just(false)];
    (machine(), pending, proptest::bool::ANY, option::weighted(0.3, group()), online)
        .prop_map(|(machine, pending, even, group, online)| Op::Enrol { machine, pending, even, group, online })
}

fn wish() -> impl Strategy<Value = Wish> {
    prop_oneof![group().prop_map(Wish::Join), group().prop_map(Wish::Leave)]
}

/// A job for groups alone, or for a machine, or both.
pub(crate) fn order() -> impl Strategy<Value = Order> {
    let groups = prop_oneof![5 => group().prop_map(|g| vec![g]), 2 => Just(vec![0, 1]), 1 => Just(vec![])];
    let packages = prop_oneof![3 => Just(vec![0]), 2 => Just(vec![1]), 2 => Just(vec![0, 1]), 1 => Just(vec![1, 0])];
    (groups, option::weighted(0.2, machine()), packages, proptest::bool::ANY, proptest::bool::ANY).prop_map(
        |(groups, machine, packages, always, draft)| {
            let machine = if groups.is_empty() { machine.or(Some(0)) } else { machine };
            Order { groups, machine, packages, always, draft }
        },
    )
}

/// A policy.
pub(crate) fn policy() -> impl Strategy<Value = Op> {
    let when = prop_oneof![3 => Just(When::Always), 2 => Just(When::Even), 2 => Just(When::Odd), 1 => Just(When::Windows)];
    (0..POLICIES, group(), when).prop_map(|(policy, group, when)| Op::CreatePolicy { policy, group, when })
}

fn op() -> BoxedStrategy<Op> {
    let members = prop_oneof![
        3 => (group(), machine()).prop_map(|(g, m)| Op::Add(g, m)),
        3 => (group(), machine()).prop_map(|(g, m)| Op::TakeOut(g, m)),
        1 => (group(), machine()).prop_map(|(g, m)| Op::ReleaseMember(g, m)),
        3 => (machine(), wish()).prop_map(|(m, w)| Op::Wish(m, w)),
    ];
    let policies = prop_oneof![
        3 => policy(),
        1 => (0..POLICIES).prop_map(Op::DeletePolicy),
        2 => (0..POLICIES).prop_map(Op::Apply),
    ];
    let jobs = prop_oneof![
        4 => order().prop_map(Op::Run),
        2 => job().prop_map(Op::CancelJob),
        3 => (job(), proptest::bool::ANY, option::weighted(0.2, machine()), proptest::bool::weighted(0.3))
            .prop_map(|(job, waiting, machine, revive)| Op::Retry { job, waiting, machine, revive }),
    ];
    let clients = prop_oneof![
        3 => machine().prop_map(Op::Approve),
        1 => machine().prop_map(Op::Remove),
        1 => machine().prop_map(Op::Quarantine),
        1 => machine().prop_map(Op::Release),
    ];
    let world = prop_oneof![
        2 => (proptest::bool::ANY, option::weighted(0.3, (machine(), wish()))).prop_map(|(crash, wish)| Op::Restart { crash, wish }),
        2 => (proptest::bool::ANY, option::weighted(0.3, (machine(), wish())))
            .prop_map(|(lose_replies, wish)| Op::Outage { lose_replies, wish }),
        1 => proptest::bool::ANY.prop_map(Op::Slow),
        1 => (option::of(machine()), -4i64..=4).prop_map(|(machine, minutes)| Op::SetClock { machine, minutes }),
        2 => machine().prop_map(Op::Kill),
        3 => machine().prop_map(Op::Start),
        1 => machine().prop_map(Op::LoseJournal),
        4 => (machine(), 0..PACKAGES.len(), proptest::bool::weighted(0.7)).prop_map(|(m, p, fail)| Op::Fail(m, p, fail)),
        2 => (machine(), proptest::bool::ANY).prop_map(|(m, held)| Op::Hold(m, held)),
    ];
    prop_oneof![3 => enrol(), 5 => members, 3 => policies, 5 => jobs, 3 => clients, 5 => world].boxed()
}

fn steps(op: BoxedStrategy<Op>, length: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Step>> {
    let flags = (proptest::bool::weighted(0.4), proptest::bool::weighted(0.2));
    vec((op, flags).prop_map(|(op, (settle, twice))| Step { op, settle, twice }), length)
}

/// A whole life: some machines first, then anything.
pub(crate) fn life() -> impl Strategy<Value = Vec<Step>> {
    (steps(enrol().boxed(), 1..4), steps(op(), 8..30)).prop_map(|(mut first, rest)| {
        first.extend(rest);
        first
    })
}

/// What comes before, the job, the policy, and what comes after. Everybody comes to rest after each, so that nothing but
/// the order of job and policy can make a difference.
#[derive(Debug, Clone)]
pub(crate) struct TwoOrders {
    /// Before both.
    pub(crate) before: Vec<Step>,
    /// The job.
    pub(crate) job: Op,
    /// The policy.
    pub(crate) policy: Op,
    /// Whether the policy is applied to those that are there.
    pub(crate) apply: bool,
    /// After both.
    pub(crate) after: Vec<Step>,
}

/// A story with a job and a policy in it.
pub(crate) fn two_orders() -> impl Strategy<Value = TwoOrders> {
    let settled = |mut steps: Vec<Step>| {
        steps.iter_mut().for_each(|s| s.settle = true);
        steps
    };
    let job = order().prop_map(|order| Op::Run(Order { draft: false, ..order }));
    (steps(enrol().boxed(), 0..3), job, policy(), proptest::bool::ANY, steps(enrol().boxed(), 1..3), steps(op(), 0..6)).prop_map(
        move |(before, job, policy, apply, newcomers, rest)| TwoOrders {
            before: settled(before),
            job,
            policy,
            apply,
            after: settled([newcomers, rest].concat()),
        },
    )
}
