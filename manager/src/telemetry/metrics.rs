//! Every figure that the manager gives about itself, in one place.
//!
//! Labels have fixed sets of values: ports, methods of the API, status codes, states, names of units of work. Never a
//! client's, a group's or an operator's name, so that the page stays small and tells nothing about the fleet.

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};
use std::{sync::Arc, time::Duration};
use sutler_base::state::ExecutionState;

/// A label: which listener, `agents` or `operators`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Port {
    /// The listener.
    pub port: &'static str,
}

/// A label: which limit of `[net]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Limit {
    /// Its name in the configuration.
    pub limit: &'static str,
}

/// Labels: who called (`nobody`, `agent`, `operator`, …), which method of the API (`other` for what is none), what came out (`OK`, …).
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Call {
    /// Who called.
    pub caller: &'static str,
    /// The method, `Service/Method`.
    pub method: &'static str,
    /// The status code's word.
    pub code: &'static str,
}

/// A label: which method of the API.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Method {
    /// The method, `Service/Method`.
    pub method: &'static str,
}

/// A label: how an attempt to get through ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// One of a fixed set of words.
    pub outcome: &'static str,
}

/// A label: a state of an execution.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct State {
    /// The word.
    pub state: &'static str,
}

/// Labels: which unit of work, and whether it was committed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UnitOfWork {
    /// The name, as in `store.write("create_job", …)`.
    pub unit: &'static str,
    /// `committed` or `failed`.
    pub outcome: &'static str,
}

/// A label: which reconciler or other work that goes on by itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Worker {
    /// The name.
    pub worker: &'static str,
}

/// How an enrolment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enrolled {
    /// The client is `ACTIVE`.
    Active,
    /// The client waits for an operator.
    Pending,
    /// The token was refused.
    Refused,
}

/// The figures. Cheap to use from everywhere; share it in an [`Arc`].
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Connections that are open, by port; silent ones and handshakes included.
    pub connections: Family<Port, Gauge>,
    /// Connections that were taken, by port.
    pub accepted: Family<Port, Counter>,
    /// Handshakes that failed or were given up, by port.
    pub handshakes_failed: Family<Port, Counter>,
    /// Connections that were closed because of a limit, by port.
    pub connections_refused: Family<Port, Counter>,
    /// How often each limit ended a connection, or kept it from being made.
    pub limits_reached: Family<Limit, Counter>,
    /// Bytes of answers that were handed to connections, by port.
    pub bytes_sent: Family<Port, Counter>,
    /// Calls that ended, by caller, method and status code.
    pub calls: Family<Call, Counter>,
    /// How long calls took, by method; streams are not in it.
    pub call_seconds: Family<Method, Histogram, fn() -> Histogram>,
    /// Panics in handlers: always a bug.
    pub panics: Counter,
    /// Agents that are connected.
    pub sessions: Gauge,
    /// Enrolments; count with [`Metrics::enrolled`].
    pub enrollments: Family<Outcome, Counter>,
    /// Certificates that were renewed.
    pub renewals: Counter,
    /// Reports of facts that came, whole or what changed.
    pub facts_reports: Counter,
    /// What agents said of whether what they installed is still there.
    pub checks: Counter,
    /// Their bytes.
    pub facts_bytes: Counter,
    /// Attempts that were offered.
    pub offers: Counter,
    /// Outcomes that were recorded, by the state they led to; count with [`Metrics::outcome`].
    pub outcomes: Family<State, Counter>,
    /// Bytes of chunks that were sent to agents.
    pub chunk_bytes: Counter,
    /// Bytes of stored content that the scrub has read.
    pub scrubbed_bytes: Counter,
    /// Stored objects that are known to be damaged or missing.
    pub damaged_objects: Gauge,
    /// Units of work; count with [`Metrics::unit`].
    pub units: Family<UnitOfWork, Counter>,
    /// How long units of work took until they were committed.
    pub unit_seconds: Family<UnitOfWork, Histogram, fn() -> Histogram>,
    /// Deliveries to hooks, by how they ended; count with [`Metrics::delivery`].
    pub deliveries: Family<Outcome, Counter>,
    /// Runs of reconcilers, by name.
    pub rounds: Family<Worker, Counter>,
    /// Runs of reconcilers that failed, by name.
    pub rounds_failed: Family<Worker, Counter>,
}

fn histogram() -> Histogram {
    // 0.5 ms to 65 s.
    Histogram::new(exponential_buckets(0.0005, 2.5, 13))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("sutler");
        let r = &mut registry;
        r.register("build", "The version that runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        let build = |f: fn() -> Histogram| f;
        let metrics = Metrics {
            connections: Family::default(),
            accepted: Family::default(),
            handshakes_failed: Family::default(),
            connections_refused: Family::default(),
            limits_reached: Family::default(),
            bytes_sent: Family::default(),
            calls: Family::default(),
            call_seconds: Family::new_with_constructor(build(histogram)),
            panics: Counter::default(),
            sessions: Gauge::default(),
            enrollments: Family::default(),
            renewals: Counter::default(),
            facts_reports: Counter::default(),
            checks: Counter::default(),
            facts_bytes: Counter::default(),
            offers: Counter::default(),
            outcomes: Family::default(),
            chunk_bytes: Counter::default(),
            scrubbed_bytes: Counter::default(),
            damaged_objects: Gauge::default(),
            units: Family::default(),
            unit_seconds: Family::new_with_constructor(build(histogram)),
            deliveries: Family::default(),
            rounds: Family::default(),
            rounds_failed: Family::default(),
            registry: Registry::default(),
        };
        r.register("connections", "Connections that are open", metrics.connections.clone());
        r.register("connections_accepted", "Connections that were taken", metrics.accepted.clone());
        r.register("handshakes_failed", "Handshakes that failed or were given up", metrics.handshakes_failed.clone());
        r.register("connections_refused", "Connections closed because of a limit", metrics.connections_refused.clone());
        r.register("limits_reached", "Connections that a limit ended, or kept from being made", metrics.limits_reached.clone());
        r.register_with_unit("sent", "Bytes of answers handed to connections", Unit::Bytes, metrics.bytes_sent.clone());
        r.register("calls", "Calls that ended", metrics.calls.clone());
        r.register_with_unit("call", "How long unary calls took", Unit::Seconds, metrics.call_seconds.clone());
        r.register("panics", "Panics in handlers", metrics.panics.clone());
        r.register("sessions", "Agents that are connected", metrics.sessions.clone());
        r.register("enrollments", "Enrolments", metrics.enrollments.clone());
        r.register("renewals", "Certificates that were renewed", metrics.renewals.clone());
        r.register("checks", "Answers of agents to whether what they installed is still there", metrics.checks.clone());
        r.register("facts_reports", "Reports of facts, whole or what changed", metrics.facts_reports.clone());
        r.register_with_unit("facts", "Bytes of those reports", Unit::Bytes, metrics.facts_bytes.clone());
        r.register("offers", "Attempts that were offered", metrics.offers.clone());
        r.register("outcomes", "Outcomes that were recorded", metrics.outcomes.clone());
        r.register_with_unit("chunks", "Bytes of chunks sent to agents", Unit::Bytes, metrics.chunk_bytes.clone());
        r.register_with_unit("scrubbed", "Bytes of stored content that the scrub has read", Unit::Bytes, metrics.scrubbed_bytes.clone());
        r.register("damaged_objects", "Stored objects known to be damaged or missing", metrics.damaged_objects.clone());
        r.register("units", "Units of work", metrics.units.clone());
        r.register_with_unit("unit", "How long units of work took until committed", Unit::Seconds, metrics.unit_seconds.clone());
        r.register("hook_deliveries", "Deliveries of events to hooks", metrics.deliveries.clone());
        r.register("rounds", "Runs of reconcilers", metrics.rounds.clone());
        r.register("rounds_failed", "Runs of reconcilers that failed", metrics.rounds_failed.clone());
        Metrics { registry, ..metrics }
    }
}

impl Metrics {
    /// All figures at zero.
    pub fn new() -> Arc<Metrics> {
        Arc::default()
    }

    /// Counts that a limit ended a connection, or kept it from being made.
    pub fn limit(&self, limit: &'static str) {
        self.limits_reached.get_or_create(&Limit { limit }).inc();
    }

    /// Counts an outcome that was recorded.
    pub fn outcome(&self, state: ExecutionState) {
        self.outcomes.get_or_create(&State { state: state.as_str() }).inc();
    }

    /// Counts an enrolment.
    pub fn enrolled(&self, how: Enrolled) {
        let outcome = match how {
            Enrolled::Active => "active",
            Enrolled::Pending => "pending",
            Enrolled::Refused => "refused",
        };
        self.enrollments.get_or_create(&Outcome { outcome }).inc();
    }

    /// Counts a delivery to a hook: `delivered`, `failed`, `given_up`, or `overtaken` by another manager.
    pub fn delivery(&self, outcome: &'static str) {
        self.deliveries.get_or_create(&Outcome { outcome }).inc();
    }

    /// Counts a unit of work and how long it took.
    pub fn unit(&self, unit: &'static str, committed: bool, took: Duration) {
        let labels = UnitOfWork { unit, outcome: if committed { "committed" } else { "failed" } };
        self.units.get_or_create(&labels).inc();
        self.unit_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Counts a run of something that goes on by itself.
    pub fn round(&self, worker: &'static str, went_well: bool) {
        let labels = Worker { worker };
        self.rounds.get_or_create(&labels).inc();
        if !went_well {
            self.rounds_failed.get_or_create(&labels).inc();
        }
    }

    /// All figures in OpenMetrics text.
    pub fn text(&self) -> String {
        let mut page = String::new();
        // Writing into a string can't fail; a metric that can't be encoded is left out with what follows.
        let _ = text::encode(&mut page, &self.registry);
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_what_was_counted() {
        let metrics = Metrics::new();
        metrics.sessions.inc();
        metrics.bytes_sent.get_or_create(&Port { port: "agents" }).inc_by(7);
        metrics.unit("create_job", true, Duration::from_millis(3));
        metrics.enrolled(Enrolled::Pending);
        metrics.outcome(ExecutionState::Succeeded);
        metrics.round("offers", false);
        let page = metrics.text();
        for line in [
            "sutler_sessions 1",
            "sutler_sent_bytes_total{port=\"agents\"} 7",
            "sutler_units_total{unit=\"create_job\",outcome=\"committed\"} 1",
            "sutler_enrollments_total{outcome=\"pending\"} 1",
            "sutler_rounds_failed_total{worker=\"offers\"} 1",
            "# EOF",
        ] {
            assert!(page.contains(line), "{line} is missing from\n{page}");
        }
    }
}
