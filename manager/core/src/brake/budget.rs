//! Budgets: how many clients are let go within an hour, over all jobs of an operator; a job that stands for whoever joins a group has one
//! of its own. What is let go is an attempt that is made. The hour slides: in none, whenever it begins, there are more.

use sutler_base::{JobId, OperatorName};

/// The largest budget (clients per hour).
pub const BUDGET_MAX: u32 = 1_000_000;
/// An hour (milliseconds).
pub const HOUR_MS: i64 = 3_600_000;

/// Whose budget it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purse {
    /// All jobs of an operator that do not stand.
    Operator(OperatorName),
    /// One job.
    Job(JobId),
}

impl std::fmt::Display for Purse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Purse::Operator(name) => write!(f, "operators/{name}"),
            Purse::Job(id) => write!(f, "jobs/{id}"),
        }
    }
}

/// From which purses the clients of a job are let go, each with how many it has in an hour. 0 is no budget.
///
/// `own` is what the job says, `operators` what its maker has, and else `default`. A job that stands spends from a purse of its own,
/// which is as large as its maker's unless it says so itself; another one spends from its maker's, and, if it says something itself, from
/// its own, too.
pub fn purses(job: &JobId, maker: Option<OperatorName>, stands: bool, own: u32, operators: Option<u32>, default: u32) -> Vec<(Purse, u32)> {
    let makers = operators.unwrap_or(default);
    let mut purses = Vec::new();
    match maker.filter(|_| !stands) {
        Some(maker) => {
            purses.push((Purse::Operator(maker), makers));
            purses.push((Purse::Job(job.clone()), own));
        }
        None => purses.push((Purse::Job(job.clone()), if own > 0 { own } else { makers })),
    }
    purses.retain(|(_, budget)| *budget > 0);
    purses
}

/// What was spent: when (milliseconds since 1970), and how much.
pub type Spent = [(i64, u32)];

/// How many more may be let go now.
pub fn room(spent: &Spent, budget: u32, now_ms: i64) -> u32 {
    let within = spent.iter().filter(|(at, _)| *at > now_ms - HOUR_MS);
    budget.saturating_sub(within.fold(0u32, |sum, (_, n)| sum.saturating_add(*n)))
}

/// When the next may be let go, if there is no room now (milliseconds since 1970). `spent` is in the order of time.
pub fn next(spent: &Spent, budget: u32, now_ms: i64) -> i64 {
    let later = spent.iter().map(|(at, _)| at + HOUR_MS).filter(|at| *at > now_ms);
    later.into_iter().find(|at| room(spent, budget, *at) > 0).unwrap_or(now_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_standing_job_has_a_purse_of_its_own_and_others_spend_from_their_makers() {
        let (job, ann) = (JobId::from_random([1; 16]), "ann".parse::<OperatorName>().unwrap());
        let of = |stands, own, operators, default| {
            purses(&job, Some(ann.clone()), stands, own, operators, default)
                .into_iter()
                .map(|(p, n)| (p.to_string(), n))
                .collect::<Vec<_>>()
        };
        let (maker, itself) = ("operators/ann".to_owned(), format!("jobs/{job}"));
        assert_eq!(of(false, 0, None, 0), []);
        assert_eq!(of(false, 0, None, 9), [(maker.clone(), 9)]);
        assert_eq!(of(false, 3, Some(7), 9), [(maker, 7), (itself.clone(), 3)]);
        assert_eq!(of(true, 0, Some(7), 9), [(itself.clone(), 7)]);
        assert_eq!(of(true, 3, Some(7), 9), [(itself, 3)]);
        assert_eq!(of(false, 0, Some(0), 9), [], "0 is none");
    }

    proptest! {
        /// In no hour more is let go than the budget, however many ask and whenever; and at the time that is named there is room.
        #[test]
        fn a_budget_is_exceeded_in_no_hour(budget in 1..20u32, asks in prop::collection::vec((0..1_500_000i64, 1..30u32), 1..60)) {
            let (mut spent, mut now) = (Vec::<(i64, u32)>::new(), 0);
            for (after, wanted) in asks {
                now += after;
                let go = wanted.min(room(&spent, budget, now));
                if go > 0 {
                    spent.push((now, go));
                }
                if room(&spent, budget, now) == 0 {
                    let at = next(&spent, budget, now);
                    prop_assert!(at > now && at <= now + HOUR_MS && room(&spent, budget, at) > 0);
                    prop_assert_eq!(room(&spent, budget, at - 1), 0);
                }
            }
            for (begin, _) in &spent {
                let within: u32 = spent.iter().filter(|(at, _)| (*begin..begin + HOUR_MS).contains(at)).map(|(_, n)| n).sum();
                prop_assert!(within <= budget, "{within} from {begin} on");
            }
        }
    }
}
