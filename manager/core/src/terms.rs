//! How a job is carried out: when, in which order of clients, and what follows from how it goes.

use crate::{
    brake::{offline::Offline, retry::Retries},
    rollout::Rollout,
    schedule::Schedule,
    user::UserTerms,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use sutler_base::state::OnLeave;

/// The terms of a job, as they are kept: what is missing has its default, so that a newer manager reads what an older one wrote.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobTerms {
    /// The stages in which it reaches its clients, and what stops it.
    pub rollout: Rollout,
    /// When.
    pub schedule: Schedule,
    /// What it means for the user of a machine.
    pub user: UserTerms,
    /// Its bytes flow although the transfers of a group that the client is in are suspended.
    pub through_suspended: bool,
    /// How often what it installed is detected again, and installed again where it is gone; never if none.
    pub keep: Option<Duration>,
    /// What becomes of what it installed on a client that leaves its reach.
    pub on_leave: OnLeave,
    /// In place of packages: clients measure their facts and report what changed.
    pub inventory: bool,
    /// What failed is run again by itself; never if none.
    pub retries: Option<Retries>,
    /// What becomes of a client that is out of contact when its turn comes.
    pub offline: Offline,
    /// How many clients are let go within an hour; 0 for no budget of its own.
    pub budget: u32,
}

impl JobTerms {
    /// These terms with what `given` has that is not as it is by default, after the members named in `reset` have got their default
    /// back. Else which name is no member.
    pub fn updated(&self, given: &JobTerms, reset: &[String]) -> Result<JobTerms, String> {
        let members = |terms: &JobTerms| match serde_json::to_value(terms) {
            Ok(serde_json::Value::Object(members)) => members,
            _ => Default::default(),
        };
        let (mut new, default) = (members(self), members(&JobTerms::default()));
        for name in reset {
            let Some(value) = default.get(name) else {
                let all: Vec<&str> = default.keys().map(String::as_str).collect();
                return Err(format!("{name:?} is no member of the terms; they are {}", all.join(", ")));
            };
            new.insert(name.clone(), value.clone());
        }
        new.extend(members(given).into_iter().filter(|(name, value)| default.get(name) != Some(value)));
        serde_json::from_value(serde_json::Value::Object(new)).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_that_are_given_take_the_place_of_those_that_are_there_and_others_stay() {
        let day = Some(Duration::from_secs(86_400));
        let now = JobTerms { keep: day, ..Default::default() };
        let given = JobTerms { on_leave: OnLeave::Uninstall, ..Default::default() };
        let both = JobTerms { keep: day, on_leave: OnLeave::Uninstall, ..Default::default() };
        assert_eq!(now.updated(&given, &[]), Ok(both.clone()));
        assert_eq!(both.updated(&JobTerms::default(), &["keep".into()]), Ok(given));
        assert!(both.updated(&JobTerms::default(), &["kepe".into()]).unwrap_err().contains("keep, offline, on_leave"));
    }
}
