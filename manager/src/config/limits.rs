//! The bounds of what the manager does with what it was sent: the table `[limits]` of `manager.toml`.

use serde::Deserialize;
use std::time::Duration;
use sutler_base::limits;
use sutler_base::quantity::{size, span};
use sutler_certs::{issue, tls};
use sutler_core::{
    brake::{breaker, budget::BUDGET_MAX},
    share::Bounds,
};

/// Bounds above the listeners. Those of the listeners are [`net::Limits`](crate::net::Limits).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The largest message of a newcomer (bytes).
    #[serde(deserialize_with = "size")]
    pub enroll_message: usize,
    /// The largest message of an agent (bytes).
    #[serde(deserialize_with = "size")]
    pub agent_message: usize,
    /// The largest message of an operator (bytes).
    #[serde(deserialize_with = "size")]
    pub operator_message: usize,
    /// The largest report of facts (bytes).
    #[serde(deserialize_with = "size")]
    pub facts: usize,
    /// How long a lease lasts that nobody renews.
    #[serde(deserialize_with = "span")]
    pub lease: Duration,
    /// How many attempts are offered to one client and not at an end.
    pub open_attempts: u32,
    /// How often open streams are asked whether their caller is still welcome.
    #[serde(deserialize_with = "span")]
    pub recheck: Duration,
    /// For how long bytes are served without having read who may still get them.
    #[serde(deserialize_with = "span")]
    pub revocations: Duration,
    /// How long an agent's certificate lasts.
    #[serde(deserialize_with = "span")]
    pub agent_certificate: Duration,
    /// How long after its end an agent's certificate can still be renewed.
    #[serde(deserialize_with = "span")]
    pub agent_grace: Duration,
    /// How long an operator's certificate lasts.
    #[serde(deserialize_with = "span")]
    pub operator_certificate: Duration,
    /// How long after its end an operator's certificate can still be renewed.
    #[serde(deserialize_with = "span")]
    pub operator_grace: Duration,
    /// How many certificates one client, or one operator, may be given within a third of the time that they last, an hour at most.
    pub renewals: u32,
    /// How long an enrolment token lasts unless its maker says otherwise.
    #[serde(deserialize_with = "span")]
    pub token: Duration,
    /// How long the answer to a `request_id` is kept.
    #[serde(deserialize_with = "span")]
    pub request_memory: Duration,
    /// For how long a client may be silent before it is overdue.
    #[serde(deserialize_with = "span")]
    pub overdue: Duration,
    /// For how long a client is silent before it is archived; 0: none is by itself.
    #[serde(deserialize_with = "span")]
    pub archive_after: Duration,
    /// How old an entry of the audit log becomes before it is sealed with those after it.
    #[serde(deserialize_with = "span")]
    pub audit_seal: Duration,
    /// How long events are kept.
    #[serde(deserialize_with = "span")]
    pub events: Duration,
    /// How many events are kept at the most; the oldest go first.
    pub events_max: u32,
    /// How much is kept of the log files of packages that failed (bytes, all together); the oldest go first.
    #[serde(deserialize_with = "size")]
    pub logs: u64,
    /// How many of the newest 50 attempts to install a version on a group may fail before its circuit breaker opens; 0 for any.
    pub breaker_failures: u32,
    /// How many may fail within an hour in which none succeeds; 0 for any.
    pub breaker_attempts: u32,
    /// How much those may fetch (bytes); 0 for anything.
    #[serde(deserialize_with = "size")]
    pub breaker_bytes: u64,
    /// How many clients all jobs of an operator, and each job that stands, let go within an hour; 0 for no such budget. None by default:
    /// stages, gates and breakers bound what a mistake costs, and a number that fits a fleet of a hundred keeps a security update from
    /// one of a hundred thousand for weeks.
    pub budget: u32,
    /// How many bytes a second the scrub of stored content reads.
    #[serde(deserialize_with = "size")]
    pub scrub_rate: u64,
    /// How long after a scrub of everything the next one begins.
    #[serde(deserialize_with = "span")]
    pub scrub_every: Duration,
    /// From how many clients on a change needs a second person …
    pub second_person_clients: u32,
    /// … if they are so many percent of the fleet, too.
    pub second_person_percent: u32,
    /// How many changes of one operator wait for a second person at the most.
    pub pending_approvals: u32,
    /// How long nobody is a second person whom another operator made one, and everybody counts as one who was.
    #[serde(deserialize_with = "span")]
    pub second_person_rest: Duration,
    /// Space that is kept on the disk for revocation, renewal and audit (bytes); 0 for none. The disk counts as full when less
    /// than a quarter of it is left besides.
    #[serde(deserialize_with = "size")]
    pub disk_reserve: u64,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Limits {
            enroll_message: limits::ENROLL_MESSAGE_MAX,
            agent_message: limits::AGENT_MESSAGE_MAX,
            operator_message: limits::OPERATOR_MESSAGE_MAX,
            facts: limits::FACTS_MAX,
            lease: seconds(limits::LEASE_SECONDS.into()),
            open_attempts: limits::OPEN_ATTEMPTS_MAX as u32,
            recheck: seconds(2),
            revocations: seconds(5),
            agent_certificate: issue::AGENT_VALIDITY,
            agent_grace: tls::AGENT_GRACE,
            operator_certificate: issue::OPERATOR_VALIDITY,
            operator_grace: tls::OPERATOR_GRACE,
            renewals: 10,
            token: seconds(3600),
            request_memory: seconds(24 * 3600),
            overdue: seconds(14 * 24 * 3600),
            archive_after: Duration::ZERO,
            audit_seal: seconds(24 * 3600),
            events: seconds(30 * 24 * 3600),
            events_max: 200_000,
            logs: 256 << 20,
            breaker_failures: 25,
            breaker_attempts: 20,
            breaker_bytes: 10 << 30,
            budget: 0,
            scrub_rate: 8 << 20,
            scrub_every: seconds(7 * 24 * 3600),
            second_person_clients: 50,
            second_person_percent: 10,
            second_person_rest: seconds(24 * 3600),
            pending_approvals: 100,
            disk_reserve: 64 << 20,
        }
    }
}

impl Limits {
    /// From how much of the fleet on a change needs a second person.
    pub fn second_person(&self) -> Bounds {
        Bounds { clients: self.second_person_clients, percent: self.second_person_percent }
    }

    /// The first rule that these limits break, as a sentence.
    pub fn broken_rule(&self) -> Option<String> {
        // By name and without a rest: a limit that nobody gave a range is no limit.
        let Limits {
            enroll_message,
            agent_message,
            operator_message,
            facts,
            lease,
            open_attempts,
            recheck,
            revocations,
            agent_certificate,
            agent_grace,
            operator_certificate,
            operator_grace,
            renewals,
            token,
            request_memory,
            overdue,
            archive_after,
            audit_seal,
            events,
            events_max,
            logs,
            breaker_failures,
            breaker_attempts,
            breaker_bytes,
            budget,
            scrub_rate,
            scrub_every,
            second_person_clients,
            second_person_percent,
            second_person_rest,
            pending_approvals,
            disk_reserve,
        } = *self;
        let sizes = [
            ("enroll_message", enroll_message as u64, 4 << 10, 1 << 20),
            // A chunk and what goes around it must fit.
            ("agent_message", agent_message as u64, 320 << 10, 64 << 20),
            ("operator_message", operator_message as u64, 320 << 10, 64 << 20),
            ("facts", facts as u64, 4 << 10, agent_message as u64),
            ("logs", logs, 0, 1 << 40),
            ("breaker_bytes", breaker_bytes, 0, 1 << 50),
            ("scrub_rate", scrub_rate, 1 << 10, 1 << 40),
            ("disk_reserve", disk_reserve, 0, 1 << 50),
        ];
        if let Some((name, value, low, high)) = sizes.iter().find(|(_, v, low, high)| v < low || v > high) {
            return Some(format!("limits.{name} is {value} bytes; give {low} to {high}"));
        }
        let day = Duration::from_secs(86_400);
        let spans = [
            ("lease", lease, Duration::from_secs(5), day),
            ("recheck", recheck, Duration::from_millis(10), Duration::from_secs(5)),
            ("revocations", revocations, Duration::from_secs(1), Duration::from_secs(5)),
            ("agent_certificate", agent_certificate, Duration::from_secs(5), 398 * day),
            ("agent_grace", agent_grace, Duration::ZERO, 398 * day),
            ("operator_certificate", operator_certificate, Duration::from_secs(60), 30 * day),
            ("operator_grace", operator_grace, Duration::ZERO, 90 * day),
            ("token", token, Duration::from_secs(1), 398 * day),
            ("request_memory", request_memory, Duration::from_secs(60), 30 * day),
            ("scrub_every", scrub_every, Duration::from_secs(1), 398 * day),
            ("overdue", overdue, Duration::from_secs(1), 3980 * day),
            ("archive_after", archive_after, Duration::ZERO, 3980 * day),
            ("audit_seal", audit_seal, Duration::from_millis(100), 398 * day),
            ("events", events, Duration::from_secs(1), 398 * day),
            ("second_person_rest", second_person_rest, Duration::ZERO, 30 * day),
        ];
        if let Some((name, value, low, high)) = spans.iter().find(|(_, v, low, high)| v < low || v > high) {
            return Some(format!("limits.{name} is {value:?}; give {low:?} to {high:?}"));
        }
        let counts = [
            ("open_attempts", open_attempts, 1, limits::OPEN_ATTEMPTS_MAX as u32),
            // One that is lost on the way, and the next one.
            ("renewals", renewals, 2, 1000),
            ("events_max", events_max, 10, 10_000_000),
            ("breaker_failures", breaker_failures, 0, breaker::WINDOW as u32),
            ("breaker_attempts", breaker_attempts, 0, 1_000_000),
            ("budget", budget, 0, BUDGET_MAX),
            // More clients than there are: nothing needs a second person.
            ("second_person_clients", second_person_clients, 1, 1_000_000_000),
            ("second_person_percent", second_person_percent, 0, 100),
            ("pending_approvals", pending_approvals, 1, 10_000),
        ];
        let broken = counts.iter().find(|(_, v, low, high)| v < low || v > high);
        broken.map(|(name, value, low, high)| format!("limits.{name} is {value}; give {low} to {high}"))
    }
}
