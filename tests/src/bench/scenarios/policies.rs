//! `policies`: every policy applied to every client, beside evaluating the conditions alone; then one client changes.

use super::Scenario;
use crate::{
    api_call,
    bench::{
        filled::{self, Filling},
        line::{Reach, Samples},
        measure, ours,
        run::Run,
    },
    harness::{Api, Manager},
};
use std::time::Instant;
use sutler_base::Uid;
use sutler_core::{
    condition::{Condition, Schema},
    policy::Subject,
};
use sutler_proto::v1;

pub(super) const SCENARIO: Scenario =
    Scenario { name: "policies", what: "100,000 clients × 100 policies applied; then one client changes", run };

/// Meets every hundredth client, and reads a fact more than that.
fn condition(n: u64) -> String {
    format!("facts.os.family == \"linux\" && (facts.hostname.endsWith(\"-{:02}\") || labels.room == \"{n}\")", n % 100)
}

fn run(run: &mut Run) {
    let (clients, policies) = run.pick((2_000, 10), (100_000, 100));
    let manager = filled(clients);
    let api = Api::operator(&manager);
    create(&api, policies);
    let cpu = measure::cpu(&[manager.pid()]);
    let begin = Instant::now();
    let names = (0..policies).map(|n| format!("policies/p{n}")).collect();
    let request = v1::ApplyPoliciesRequest { names, ..Default::default() };
    let answer = api_call!(api, policy_service_client::PolicyServiceClient, apply_policies(request)).expect("they can be applied");
    let added: u64 = answer.policies.iter().map(|applied| applied.added as u64).sum();
    let applied = begin.elapsed();
    let cpu = measure::cpu(&[manager.pid()]) - cpu;
    assert_eq!(added, policies * clients / 100, "every policy adds every hundredth client");
    let peak = measure::peak(manager.pid());
    let (evaluated, matched) = evaluate(clients, policies);
    assert_eq!(matched, added, "evaluating alone comes to the same");
    // Whoever got into a group is looked at once more, after the answer.
    measure::until_at_rest(manager.pid(), ours::LONG);
    let changed = changes(run, &api);
    drop((api, manager));

    // The same with a fleet of a hundredth.
    let little = clients / 100;
    let manager = filled(little);
    let api = Api::operator(&manager);
    create(&api, policies);
    let changed_little = changes(run, &api);

    let peer = "evaluating alone";
    let seconds = applied.as_secs_f64().into();
    run.against("all policies applied to all clients", "s", seconds, (peer, evaluated.into()), Reach::Times(3.0));
    run.alone("CPU of the manager for that", "s", cpu.into(), Reach::Nothing);
    run.alone("peak memory of the manager", "MiB", (peak / measure::MIB).into(), Reach::Nothing);
    let peer = format!("with {little} clients");
    run.against("one client changes, until it has another group", "ms", changed, (&peer, changed_little), Reach::Times(1.5));
}

/// A manager with so many clients.
fn filled(clients: u64) -> Manager {
    let mut manager = Manager::init(ours::setup());
    let filling = Filling::open(&manager);
    filling.clients(0..clients);
    filling.close();
    manager.serve();
    manager
}

/// So many policies, each on a group of its own.
fn create(api: &Api, policies: u64) {
    for n in 0..policies {
        let request = v1::CreateGroupRequest { group_id: format!("g{n}"), ..Default::default() };
        api_call!(api, group_service_client::GroupServiceClient, create_group(request)).expect("the group is new");
        let request = v1::CreatePolicyRequest {
            policy_id: format!("p{n}"),
            group: format!("groups/g{n}"),
            trigger: v1::Trigger::Inventory.into(),
            condition: condition(n),
            applies_to: v1::AppliesTo::All.into(),
            ..Default::default()
        };
        api_call!(api, policy_service_client::PolicyServiceClient, create_policy(request)).expect("the policy is new");
    }
}

/// The conditions decided for every client, with nothing read and nothing written; seconds, and how many are met.
fn evaluate(clients: u64, policies: u64) -> (f64, u64) {
    let site = Uid::new(jiff::Timestamp::now(), [0; 16]);
    let all: Vec<_> = (0..clients).map(|n| filled::client(n, &site)).map(|client| (Subject::of(&client), client)).collect();
    let conditions: Vec<_> = (0..policies).map(|n| Condition::compile(&condition(n), &Schema::standard()).expect("it compiles")).collect();
    let (begin, mut matched) = (Instant::now(), 0);
    for condition in &conditions {
        for (subject, client) in &all {
            matched += u64::from(condition.evaluate(&subject.input(client)).matched());
        }
    }
    (begin.elapsed().as_secs_f64(), matched)
}

/// A label of one client after another changes, which all policies look at: milliseconds until the answer. It is in its new group then.
fn changes(run: &Run, api: &Api) -> Samples {
    let members = || {
        let request = v1::GetGroupRequest { name: "groups/g3".into() };
        let answer = api_call!(api, group_service_client::GroupServiceClient, get_group(request)).expect("the group is there");
        answer.group.expect("there is a group").member_count
    };
    let mut samples = Samples::default();
    // None of them is in that group: their names have another end.
    for n in 0..run.pick(3, 15) {
        let (client, before) = (filled::client_id(4 + n), members());
        let change = v1::LabelChange {
            client: format!("clients/{client}"),
            set: [("room".to_owned(), "3".to_owned())].into(),
            ..Default::default()
        };
        let request = v1::SetLabelsRequest { changes: vec![change], ..Default::default() };
        let begin = Instant::now();
        let answer = api_call!(api, client_service_client::ClientServiceClient, set_labels(request)).expect("it can be set");
        samples.push(begin.elapsed().as_secs_f64() * 1e3);
        assert_eq!((answer.changed, members()), (1, before + 1), "the client is in the group whose policy asks for the label");
    }
    samples
}
