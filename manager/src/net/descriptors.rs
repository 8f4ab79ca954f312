//! How many files and sockets this process may have open, and how the ports share them.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many connections each port may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// On the agents' port.
    pub agents: usize,
    /// On the operators' port: a share of its own, so that no crowd of agents keeps operators out.
    pub operators: usize,
}

impl Budget {
    /// The shares of a process that may have this many descriptors, less a reserve for the database, the content and the log.
    pub fn of(descriptors: u64) -> Budget {
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX).min(1 << 20);
        let reserve = (descriptors / 4).clamp(16, 512);
        let rest = descriptors.saturating_sub(reserve).max(8);
        let operators = (rest / 8).clamp(2, 1024);
        Budget { agents: rest - operators, operators }
    }
}

/// Raises the limit of open files as far as it goes without privileges; gives back what it is now.
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(e) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!("the limit of open files stays at {:?}: {e}", limit.current);
    }
    // None: without a limit.
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_have_a_share_of_their_own_and_something_is_kept_in_reserve() {
        for descriptors in [0, 20, 40, 256, 1024, 20_000, u64::MAX] {
            let budget = Budget::of(descriptors);
            assert!(budget.operators >= 2 && budget.agents >= 4, "{descriptors}: {budget:?}");
            assert!(descriptors < 64 || ((budget.agents + budget.operators) as u64) < descriptors, "{descriptors}: {budget:?}");
        }
        assert_eq!(Budget::of(20_000), Budget { agents: 18_464, operators: 1024 });
    }
}
