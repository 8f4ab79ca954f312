//! What a policy says of one client.

use crate::{
    condition::{Condition, Input, Outcome},
    model::{Client, Policy},
};
use std::collections::BTreeMap;
use sutler_base::Timestamp;
use sutler_base::facts::Package;
use sutler_base::state::{AppliesTo, ClientKind, OnMismatch, Presence, Trigger};

/// A client as conditions see it.
pub struct Subject {
    facts: serde_json::Value,
    labels: BTreeMap<String, String>,
    contact: Option<(Presence, Timestamp)>,
    duplicate: Option<bool>,
}

impl Subject {
    /// What conditions see of this client.
    pub fn of(client: &Client) -> Subject {
        let facts = serde_json::from_str(&client.facts).unwrap_or(serde_json::Value::Object(Default::default()));
        let labels = client.labels.iter().map(|(k, v)| (k.to_string(), v.clone())).collect();
        Subject { facts, labels, contact: None, duplicate: None }
    }

    /// The same with what a filter may ask besides: whether the client is in contact, when it was last heard of, and whether
    /// another one is probably the same machine.
    pub fn of_the_moment(self, contact: (Presence, Timestamp), duplicate: Option<bool>) -> Subject {
        Subject { contact: Some(contact), duplicate, ..self }
    }

    /// The same with the packages of its machine, for conditions that name them.
    pub fn with_packages(mut self, packages: &[Package]) -> Subject {
        if let serde_json::Value::Object(facts) = &mut self.facts
            && !facts.is_empty()
        {
            facts.insert("packages".into(), packages.iter().map(Package::to_value).collect());
        }
        self
    }

    /// The input of a condition.
    pub fn input<'a>(&'a self, client: &'a Client) -> Input<'a> {
        Input {
            facts: &self.facts,
            labels: &self.labels,
            answers: &client.answers,
            client: crate::condition::ClientFields {
                id: client.id.as_str(),
                name: &client.hostname,
                kind: client.kind.as_str(),
                state: client.state.as_str(),
                created: client.enrolled,
                contact: self.contact,
                duplicate: self.duplicate,
            },
        }
    }
}

/// What happened to a client that makes policies look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It is active and its first full facts and labels are in; happens once.
    New,
    /// Its facts or labels changed.
    Inventory,
    /// An operator applies the policy to those that exist.
    Apply,
}

/// What a policy wants for one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It does not look at this client now.
    Silent,
    /// The client belongs to the group.
    Join,
    /// The condition does not hold: a membership that this policy made ends.
    Leave,
    /// The condition does not hold, and nothing follows.
    NoMatch,
}

/// What `policy` wants for `client` after `event`.
///
/// A relay is never registered by a policy. On `INVENTORY` a `NEW_ONLY` policy looks only at clients that became active after
/// it was made: an older client never trickles in through a changed fact.
pub fn decide(policy: &Policy, condition: &Condition, client: &Client, subject: &Subject, event: Event) -> Verdict {
    if client.kind == ClientKind::Relay || !looks(policy, client, event) {
        return Verdict::Silent;
    }
    match condition.evaluate(&subject.input(client)) {
        Outcome::Matched => Verdict::Join,
        _ if event == Event::Inventory && policy.on_mismatch == OnMismatch::Remove => Verdict::Leave,
        _ => Verdict::NoMatch,
    }
}

fn looks(policy: &Policy, client: &Client, event: Event) -> bool {
    let newer = client.activated.is_some_and(|a| a >= policy.created);
    match (event, policy.trigger) {
        // Who is new is new for every policy that exists, also for one that was made while the client waited for approval.
        (Event::New, _) | (Event::Apply, _) => true,
        (Event::Inventory, Trigger::Inventory) => newer || policy.applies_to == AppliesTo::All,
        (Event::Inventory, Trigger::NewClient) => false,
    }
}
