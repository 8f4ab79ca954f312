//! What a job would come to before there is one: a plan, and what of it must still be so when it is run.

use crate::{
    rollout::{Rollout, Share},
    share,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use sutler_base::{
    ClientId, JobId, Timestamp, Uid,
    state::{PlanVerdict, Presence},
};

/// A plan that is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct JobPlan {
    /// For ever.
    pub id: Uid,
    /// Who made it: `operators/NAME`.
    pub creator: String,
    /// The order, as it was sent.
    pub order: Vec<u8>,
    /// What it would come to.
    pub summary: Summary,
    /// When it was made.
    pub created: Timestamp,
    /// Until when it can be run.
    pub expires: Timestamp,
}

/// What a job would come to, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// How many clients it would reach.
    pub clients: u64,
    /// Of how many that could be reached.
    pub fleet: u64,
    /// How many clients of each verdict.
    pub verdicts: BTreeMap<String, u64>,
    /// How many clients of each presence.
    pub presences: BTreeMap<String, u64>,
    /// Bytes that would be fetched, all together.
    pub bytes: u64,
    /// The stages in their order, the rest last, with how many clients each would let go.
    pub stages: Vec<(String, u64)>,
    /// When windows open, and for how many clients; the first hundred.
    pub openings: Vec<(i64, u64)>,
    /// The versions that it would pin.
    pub packages: Vec<Pinned>,
    /// The rules that bring clients into its groups, and the windows of those: what is compared when it is run.
    pub rules: BTreeMap<String, i64>,
    /// What else it needs: `APPROVAL`, `CONFIRM`, or nothing.
    pub needs: String,
    /// The id of the job: the order of clients in its stages goes by it.
    pub job: Option<JobId>,
}

/// A version that a plan pinned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pinned {
    /// Which, for ever.
    pub version: Option<Uid>,
    /// `NAME@VERSION`, for people.
    pub name: String,
}

/// What a plan says of one client.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedClient {
    /// Which.
    pub client: ClientId,
    /// What would come of it.
    pub verdict: PlanVerdict,
    /// Whether it is in contact.
    pub presence: Presence,
    /// The stage that would let it go, from 1; 0 while it is not in contact, and where there is nothing to do.
    pub stage: u32,
    /// Bytes that it would fetch.
    pub bytes: u64,
    /// When its window opens, if it has to wait for one.
    pub opens: Option<Timestamp>,
    /// One sentence.
    pub why: String,
}

/// A client as stages see it.
#[derive(Debug, Clone)]
pub struct Seat {
    /// Its place in the order of the job.
    pub turn: i64,
    /// Whether it takes a place: it is in contact, and there is something to do.
    pub takes_place: bool,
    /// The groups that it is in.
    pub groups: BTreeSet<Uid>,
}

/// The stage of each of these clients if all goes well and nobody comes or goes, from 1, the rest last; 0 for those that take no place.
/// `total` is how many clients the job reaches.
pub fn stages(rollout: &Rollout, total: u64, seats: &[Seat]) -> Vec<u32> {
    let mut order: Vec<usize> = (0..seats.len()).filter(|n| seats[*n].takes_place).collect();
    order.sort_by_key(|n| seats[*n].turn);
    let mut stages = vec![0; seats.len()];
    let mut number = 0;
    for stage in rollout.stages() {
        number += 1;
        let before = (seats.iter().filter(|s| s.takes_place).count() - order.len()) as u64;
        let let_go: Vec<usize> = match (&stage.share, stage.share.places(before, total)) {
            (Share::Members(pilots), _) => {
                let groups: BTreeSet<&Uid> = pilots.iter().filter_map(|p| p.uid.as_ref()).collect();
                order.iter().filter(|n| seats[**n].groups.iter().any(|g| groups.contains(g))).copied().collect()
            }
            (_, places) => order.iter().take(usize::try_from(places.unwrap_or_default()).unwrap_or(usize::MAX)).copied().collect(),
        };
        for n in let_go {
            stages[n] = number;
        }
        order.retain(|n| stages[*n] == 0);
    }
    for n in order {
        stages[n] = number + 1;
    }
    stages
}

/// What is different by now from a plan, a sentence for each; nothing if it can be run.
///
/// `strangers` are clients that would be reached and that the plan does not name, of which `example` is one.
pub fn outdated(plan: &Summary, now: &Summary, strangers: u64, example: Option<&ClientId>) -> Vec<String> {
    let mut changed = Vec::new();
    if strangers > share::slack(plan.clients) {
        let such = example.map(|id| format!(", such as clients/{id}")).unwrap_or_default();
        changed.push(format!("{strangers} clients would be reached that it does not name{such}"));
    }
    for pinned in &now.packages {
        if !plan.packages.contains(pinned) {
            changed.push(format!("{} would be installed, which it does not have", pinned.name));
        }
    }
    for pinned in plan.packages.iter().filter(|p| !now.packages.contains(p)) {
        changed.push(format!("{} would not be installed any more", pinned.name));
    }
    for (rule, change) in &now.rules {
        match plan.rules.get(rule) {
            Some(before) if before == change => {}
            Some(_) => changed.push(format!("{rule} was changed")),
            None => changed.push(format!("{rule} is new")),
        }
    }
    changed.extend(plan.rules.keys().filter(|rule| !now.rules.contains_key(*rule)).map(|rule| format!("{rule} is gone")));
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::Stage;
    use proptest::prelude::*;

    fn seat(turn: i64, takes_place: bool) -> Seat {
        Seat { turn, takes_place, groups: BTreeSet::new() }
    }

    #[test]
    fn who_is_in_contact_gets_the_places_in_the_order_of_the_job() {
        let seats: Vec<Seat> = (0..100).map(|n| seat(100 - n, n % 10 != 0)).collect();
        let of = |rollout: &Rollout| {
            let stages = stages(rollout, 100, &seats);
            (0..=5).map(|n| stages.iter().filter(|s| **s == n).count()).collect::<Vec<_>>()
        };
        // 20 freely, a canary of 5, then 10 % and 50 % in all, then the rest.
        assert_eq!(of(&Rollout::default()), [10, 20, 5, 0, 25, 40]);
        let staged = stages(&Rollout::default(), 100, &seats);
        assert!(staged[99] == 1 && staged[1] == 5 && staged[0] == 0, "{staged:?}");
        assert_eq!(of(&Rollout { all_at_once: true, ..Rollout::default() }), [10, 90, 0, 0, 0, 0]);
    }

    proptest! {
        #[test]
        fn no_stage_lets_go_more_than_its_share(takes in proptest::collection::vec(any::<bool>(), 0..200), count in 0_u32..50, percent in 0_u32..100) {
            let seats: Vec<Seat> = takes.iter().enumerate().map(|(n, takes)| seat((n as i64 * 7919) % 211, *takes)).collect();
            let stage = Stage { share: Share::UpTo { count, percent }, soak_seconds: 0 };
            let staged = stages(&Rollout { stages: vec![stage], ..Rollout::default() }, seats.len() as u64, &seats);
            let most = u64::from(count).max((seats.len() as u64 * u64::from(percent)).div_ceil(100));
            prop_assert!(staged.iter().filter(|n| **n == 1).count() as u64 <= most);
            for (n, takes) in staged.iter().zip(&takes) {
                prop_assert_eq!(*n == 0, !takes);
            }
        }
    }

    fn plan(clients: u64) -> Summary {
        let pinned = Pinned { version: None, name: "clamav@1".into() };
        Summary { clients, packages: vec![pinned], rules: [("policies/p".into(), 3)].into(), ..Summary::default() }
    }

    #[test]
    fn a_fleet_may_move_by_a_percent_and_rules_and_versions_not_at_all() {
        let of = |strangers| outdated(&plan(1000), &plan(1000), strangers, None);
        assert_eq!((of(0), of(10), of(11).len()), (vec![], vec![], 1));
        assert_eq!(outdated(&plan(3), &plan(4), 1, None), Vec::<String>::new());
        assert_eq!(outdated(&plan(3), &plan(5), 2, None).len(), 1);

        let mut now = plan(1000);
        now.packages[0].name = "clamav@2".into();
        now.rules = [("policies/p".into(), 4), ("policies/q".into(), 5)].into();
        let changed = outdated(&plan(1000), &now, 0, None);
        assert_eq!(changed.len(), 4, "{changed:?}");
        assert!(changed.iter().any(|c| c.contains("policies/p was changed")) && changed.iter().any(|c| c.contains("policies/q is new")));
        now.rules.clear();
        assert!(outdated(&plan(1000), &now, 0, None).iter().any(|c| c.contains("policies/p is gone")));
    }
}
