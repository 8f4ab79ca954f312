//! How many callers of the local socket are served at a time, by who they are.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Of all users together.
const USERS_MAX: usize = 32;
/// Of one user: the others have places besides.
const USER_MAX: usize = 8;
/// Of root and the agent's own user.
const PRIVILEGED_MAX: usize = 16;

/// Who calls, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Caller {
    /// Root, or the agent's own user.
    Privileged,
    /// Any other user, by the number.
    User(u32),
}

/// The places that are taken.
#[derive(Debug, Clone, Default)]
pub(super) struct Places(Arc<Mutex<HashMap<Caller, usize>>>);

/// A place; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    caller: Caller,
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, HashMap<Caller, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for this caller; none if those are taken that it may have.
    pub(super) fn take(&self, caller: Caller) -> Option<Place> {
        let mut taken = self.lock();
        let own = taken.get(&caller).copied().unwrap_or(0);
        let free = match caller {
            Caller::Privileged => own < PRIVILEGED_MAX,
            Caller::User(_) => {
                let of_users = taken.iter().filter(|(caller, _)| **caller != Caller::Privileged);
                own < USER_MAX && of_users.map(|(_, n)| n).sum::<usize>() < USERS_MAX
            }
        };
        if !free {
            return None;
        }
        taken.insert(caller, own + 1);
        drop(taken);
        Some(Place { places: self.clone(), caller })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        match taken.get_mut(&self.caller) {
            Some(n) if *n > 1 => *n -= 1,
            _ => drop(taken.remove(&self.caller)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_user_takes_the_places_of_others_nor_all_of_them_that_of_root() {
        let places = Places::default();
        let all_of = |caller| std::iter::from_fn(|| places.take(caller)).collect::<Vec<_>>();
        let one = all_of(Caller::User(1000));
        assert_eq!(one.len(), USER_MAX);
        let others: Vec<_> = (1001..1100).flat_map(|uid| all_of(Caller::User(uid))).collect();
        assert_eq!(one.len() + others.len(), USERS_MAX);
        let root = all_of(Caller::Privileged);
        assert_eq!(root.len(), PRIVILEGED_MAX);
        // What is given back is there for whoever comes.
        drop(one);
        assert_eq!(all_of(Caller::User(2000)).len(), USER_MAX);
        drop((others, root));
        assert!(places.lock().is_empty());
    }
}
