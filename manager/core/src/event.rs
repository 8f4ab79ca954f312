//! Events: what happened that somebody may want to hear of, and which of them are old enough to go.

use std::collections::BTreeMap;
use sutler_base::{
    JobId, Timestamp,
    state::{EventKind, Severity},
};

/// How many bytes of a sentence, and of each attribute, are kept: part of them may be an agent's words.
const TEXT_MAX: usize = 2048;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its place in the order of all events, from the one sequence of the manager; given by the store.
    pub cursor: i64,
    /// When; given by whoever emits it.
    pub time: Timestamp,
    /// What happened.
    pub kind: EventKind,
    /// To what: `jobs/ID`, `jobs/ID/executions/CLIENT`, `clients/ID` …
    pub object: String,
    /// The job that it is about: who reaches that job sees the event, and of the others nobody with a scope.
    pub job: Option<JobId>,
    /// How much it matters.
    pub severity: Severity,
    /// One sentence for people.
    pub sentence: String,
    /// The same for programs.
    pub attributes: BTreeMap<String, String>,
}

impl Event {
    /// An event of this kind about `object`, as it is emitted. It is about a job if the object's name says so.
    pub fn new(kind: EventKind, object: impl ToString, sentence: impl ToString) -> Event {
        let object = object.to_string();
        let job = object.strip_prefix("jobs/").and_then(|rest| rest.split('/').next()).and_then(|id| id.parse().ok());
        Event {
            cursor: 0,
            time: Timestamp::UNIX_EPOCH,
            kind,
            object,
            job,
            severity: kind.severity(),
            sentence: cut(sentence.to_string()),
            attributes: BTreeMap::new(),
        }
    }

    /// The same with an attribute; one that is empty says nothing and is left out.
    pub fn with(mut self, key: &str, value: impl ToString) -> Event {
        let value = value.to_string();
        if !value.is_empty() {
            self.attributes.insert(key.to_owned(), cut(value));
        }
        self
    }

    /// The same where it matters more or less than others of its kind.
    pub fn matters(mut self, severity: Severity) -> Event {
        self.severity = severity;
        self
    }

    /// The same where another object is meant, and who reaches this job is to see it.
    pub fn of_job(mut self, job: &JobId) -> Event {
        self.job = Some(job.clone());
        self
    }
}

fn cut(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        let end = (0..=TEXT_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// Which events are meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventFilter {
    /// Of these kinds; none: of all.
    pub kinds: Vec<EventKind>,
    /// About this object; empty: about any. A job's are also those of its executions.
    pub object: String,
}

/// Up to which of these, the oldest events in their order, all are from before `before`. What is dropped is always a beginning of
/// the order, so that one cursor says what is gone; an event whose manager had its clock ahead keeps those behind it a while.
pub fn droppable(oldest: &[(i64, Timestamp)], before: Timestamp) -> Option<i64> {
    oldest.iter().take_while(|(_, time)| *time < before).last().map(|(cursor, _)| *cursor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_about_the_job_that_its_object_names() {
        let of = |object: &str| Event::new(EventKind::JobHalted, object, "x").job.map(|job| job.to_string());
        let id = JobId::from_random([1; 16]);
        assert_eq!(of(&format!("jobs/{id}")), Some(id.to_string()));
        assert_eq!(of(&format!("jobs/{id}/executions/c")), Some(id.to_string()));
        assert_eq!(of(&format!("clients/{id}")), None);
        let event = Event::new(EventKind::BreakerOpened, "packages/a/versions/1", "x".repeat(5000))
            .of_job(&id)
            .with("k", "")
            .with("l", "ü".repeat(5000));
        assert_eq!((event.job, event.sentence.len(), event.severity), (Some(id), TEXT_MAX, Severity::Error));
        assert_eq!(event.attributes.into_iter().map(|(k, v)| (k, v.len())).collect::<Vec<_>>(), [("l".to_owned(), TEXT_MAX)]);
    }

    #[test]
    fn what_is_dropped_is_a_beginning_of_the_order() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let oldest = [(3, at(10)), (4, at(12)), (9, at(50)), (10, at(13))];
        assert_eq!(droppable(&oldest, at(10)), None);
        assert_eq!(droppable(&oldest, at(13)), Some(4));
        assert_eq!(droppable(&oldest, at(20)), Some(4), "one from a clock that was ahead keeps those behind it");
        assert_eq!(droppable(&oldest, at(51)), Some(10));
        assert_eq!(droppable(&[], at(51)), None);
    }
}
