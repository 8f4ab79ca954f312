//! How much of a fleet one change may reach before somebody else has to agree, and how far what it reaches may be from what was
//! agreed to.

/// From how many clients on somebody else has to agree. Both have to be reached: of a small fleet a large share is a few machines, of
/// a large one fifty are a pilot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// So many clients.
    pub clients: u32,
    /// So many percent of the fleet.
    pub percent: u32,
}

impl Bounds {
    /// Whether a change that reaches so many clients of a fleet needs somebody else.
    pub fn are_reached(self, clients: u64, fleet: u64) -> bool {
        clients >= u64::from(self.clients) && u128::from(clients) * 100 >= u128::from(fleet) * u128::from(self.percent)
    }
}

/// How many clients more or less than what was agreed to are no other change: one percent, and one in any case. A fleet is never still.
pub fn slack(agreed: u64) -> u64 {
    (agreed / 100).max(1)
}

/// Whether a change reaches more than was agreed to.
pub fn is_beyond(agreed: u64, now: u64) -> bool {
    now > agreed.saturating_add(slack(agreed))
}

/// Whether the number that somebody confirms is that of the clients that are reached. A number that is far too large confirms nothing:
/// whoever gives it has not looked.
pub fn is_confirmed(confirmed: u64, now: u64) -> bool {
    confirmed.abs_diff(now) <= slack(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const USUAL: Bounds = Bounds { clients: 50, percent: 10 };

    #[test]
    fn both_bounds_have_to_be_reached() {
        for (clients, fleet, needs) in
            [(49, 49, false), (50, 50, true), (50, 500, true), (50, 501, false), (99, 1000, false), (0, 0, false)]
        {
            assert_eq!(USUAL.are_reached(clients, fleet), needs, "{clients} of {fleet}");
        }
        let everything = Bounds { clients: 1, percent: 0 };
        assert!(everything.are_reached(1, 1_000_000) && !everything.are_reached(0, 10));
    }

    #[test]
    fn a_number_is_confirmed_by_one_that_is_near_and_by_no_other() {
        for (confirmed, now, holds) in
            [(120, 120, true), (119, 120, true), (121, 120, true), (118, 120, false), (0, 50, false), (990, 1000, true)]
        {
            assert_eq!(is_confirmed(confirmed, now), holds, "{confirmed} for {now}");
        }
        assert!(!is_confirmed(u64::MAX, 1000));
    }

    proptest! {
        #[test]
        fn what_was_agreed_to_is_never_exceeded_by_more_than_a_percent_or_one(agreed in 0_u64..1_000_000, now in 0_u64..2_000_000) {
            if !is_beyond(agreed, now) {
                prop_assert!(now <= agreed + 1 || (now - agreed) * 100 <= agreed);
            }
            // Fewer than that are no other change.
            prop_assert!(now > agreed || !is_beyond(agreed, now));
        }

        #[test]
        fn whoever_reaches_more_needs_no_less(clients in 0_u64..10_000, more in 0_u64..10_000, fleet in 0_u64..100_000) {
            prop_assert!(!USUAL.are_reached(clients, fleet) || USUAL.are_reached(clients + more, fleet));
        }
    }
}
