//! What an operator may do: its roles, and how far each of them reaches.

use crate::model::{Grant, Membership, Target};
use std::collections::BTreeSet;
use sutler_base::{Uid, state::Role};

/// How far somebody reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Everywhere.
    Everywhere,
    /// These groups, and clients that are members of one of them; perhaps none.
    Groups(BTreeSet<Uid>),
}

impl Reach {
    /// Whether a job with these destinations lies within: every group is one of these, and every client is now a member of
    /// one. `memberships` are those of the clients among the destinations.
    ///
    /// A job without destinations lies within nobody's scope: it may have lost those of another one.
    pub fn covers(&self, targets: &[Target], memberships: &[Membership]) -> bool {
        let Reach::Groups(groups) = self else { return true };
        let within = |target: &Target| match target {
            Target::Group(uid) => groups.contains(uid),
            Target::Client(id) => memberships.iter().any(|m| m.client == *id && groups.contains(&m.group)),
        };
        !targets.is_empty() && targets.iter().all(within)
    }
}

/// How far an operator with these grants reaches by way of these roles; `None` if it has none of them.
pub fn reach(grants: &[Grant], roles: &BTreeSet<Role>) -> Option<Reach> {
    let mut reached: Option<BTreeSet<Uid>> = None;
    for grant in grants.iter().filter(|g| roles.contains(&g.role)) {
        match &grant.groups {
            None => return Some(Reach::Everywhere),
            Some(groups) => reached.get_or_insert_default().extend(groups.iter().cloned()),
        }
    }
    reached.map(Reach::Groups)
}

/// Whether somebody with these grants can make and revoke operators.
pub fn governs(grants: &[Grant]) -> bool {
    grants.iter().any(|g| g.role == Role::Admin && g.groups.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sutler_base::{ClientId, Timestamp, state::Source};

    fn uid(n: u8) -> Uid {
        Uid::new(Timestamp::UNIX_EPOCH, [n; 16])
    }

    fn grant(role: Role, groups: Option<&[u8]>) -> Grant {
        Grant { role, groups: groups.map(|g| g.iter().map(|n| uid(*n)).collect()) }
    }

    #[test]
    fn a_role_reaches_as_far_as_its_scope_and_several_reach_together() {
        let roles = BTreeSet::from([Role::Deployer, Role::Admin]);
        let groups = |ns: &[u8]| Some(Reach::Groups(ns.iter().map(|n| uid(*n)).collect()));
        assert_eq!(reach(&[], &roles), None);
        assert_eq!(reach(&[grant(Role::Viewer, None)], &roles), None);
        assert_eq!(reach(&[grant(Role::Deployer, Some(&[1])), grant(Role::Admin, Some(&[2]))], &roles), groups(&[1, 2]));
        assert_eq!(reach(&[grant(Role::Deployer, Some(&[1])), grant(Role::Admin, None)], &roles), Some(Reach::Everywhere));
        // Groups that were deleted leave a scope that reaches nothing, never one that reaches everything.
        assert_eq!(reach(&[grant(Role::Deployer, Some(&[]))], &roles), groups(&[]));
        assert!(governs(&[grant(Role::Admin, None)]) && !governs(&[grant(Role::Admin, Some(&[1])), grant(Role::Deployer, None)]));
    }

    #[test]
    fn a_job_lies_within_a_scope_with_all_of_its_destinations_or_not_at_all() {
        let client = |n: u8| ClientId::from_random([n; 16]);
        let member = |n: u8, group: u8| Membership {
            group: uid(group),
            client: client(n),
            source: Source::Operator,
            source_name: "ann".into(),
            since: Timestamp::UNIX_EPOCH,
        };
        let reach = Reach::Groups([uid(1), uid(2)].into());
        let memberships = [member(1, 1), member(2, 3)];
        let covers = |targets: &[Target]| reach.covers(targets, &memberships);
        assert!(covers(&[Target::Group(uid(1)), Target::Group(uid(2)), Target::Client(client(1))]));
        assert!(!covers(&[Target::Group(uid(1)), Target::Group(uid(3))]));
        assert!(!covers(&[Target::Client(client(2))]), "a member of another group");
        assert!(!covers(&[Target::Client(client(3))]), "in no group");
        assert!(!covers(&[]));
        assert!(Reach::Everywhere.covers(&[], &[]) && Reach::Everywhere.covers(&[Target::Client(client(3))], &[]));
    }
}
