//! How many connections everybody has: agents and operators by identity, the others by address.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use sutler_certs::Identity;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

/// Whose connections are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    /// Those of an identity: offices share addresses.
    Identity(Identity),
    /// Those without an identity from one address (IPv6: from one network of 64 bits, which one machine has for itself).
    Address(IpAddr),
}

impl Holder {
    /// The holder of a connection.
    pub(crate) fn of(identity: Option<&Identity>, address: IpAddr) -> Holder {
        match (identity, address.to_canonical()) {
            (Some(identity), _) => Holder::Identity(identity.clone()),
            (None, IpAddr::V6(v6)) => Holder::Address(IpAddr::V6((u128::from(v6) & (!0 << 64)).into())),
            (None, v4) => Holder::Address(v4),
        }
    }
}

/// What happens to one connection too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TooMany {
    /// The oldest one goes: it is half open, or a copy's.
    OldestGoes,
    /// The new one is refused.
    NewestRefused,
}

/// The count.
#[derive(Debug, Default)]
pub(crate) struct Census {
    seats: Mutex<Seats>,
    /// Told when a seat is given back.
    freed: Notify,
}

#[derive(Debug, Default)]
struct Seats {
    next: u64,
    taken: HashMap<Holder, BTreeMap<u64, Arc<Notify>>>,
}

impl Census {
    /// Counts a connection, until the seat is dropped; none, if it is one too many.
    pub(crate) fn enter(self: &Arc<Self>, holder: Holder, limit: usize, too_many: TooMany) -> Option<Seat> {
        let mut seats = self.lock();
        let id = seats.next;
        seats.next += 1;
        let taken = seats.taken.entry(holder.clone()).or_default();
        if taken.len() >= limit {
            match too_many {
                TooMany::NewestRefused => return None,
                TooMany::OldestGoes => {
                    if let Some((_, oldest)) = taken.pop_first() {
                        oldest.notify_one();
                    }
                }
            }
        }
        let leave = Arc::new(Notify::new());
        taken.insert(id, leave.clone());
        Some(Seat { census: self.clone(), holder, id, leave })
    }

    /// As [`Census::enter`], but waits for its turn for at most `patience`.
    pub(crate) async fn wait(self: &Arc<Self>, holder: Holder, limit: usize, patience: Duration) -> Option<Seat> {
        let deadline = Instant::now() + patience;
        loop {
            let mut freed = pin!(self.freed.notified());
            // From here on no seat that is given back is missed.
            freed.as_mut().enable();
            if let Some(seat) = self.enter(holder.clone(), limit, TooMany::NewestRefused) {
                return Some(seat);
            }
            timeout_at(deadline, freed).await.ok()?;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That a connection is counted.
#[derive(Debug)]
pub(crate) struct Seat {
    census: Arc<Census>,
    holder: Holder,
    id: u64,
    leave: Arc<Notify>,
}

impl Seat {
    /// Ends when the connection has to go in favour of a newer one.
    pub(crate) async fn must_leave(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.census.lock();
        if let Some(taken) = seats.taken.get_mut(&self.holder) {
            taken.remove(&self.id);
            if taken.is_empty() {
                seats.taken.remove(&self.holder);
            }
        }
        drop(seats);
        self.census.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent() -> Holder {
        Holder::of(Some(&Identity::Agent("0123456789abcdef".parse().unwrap())), "10.0.0.1".parse().unwrap())
    }

    #[tokio::test]
    async fn of_too_many_connections_of_an_agent_the_oldest_goes() {
        let census = Arc::new(Census::default());
        let first = census.enter(agent(), 2, TooMany::OldestGoes).unwrap();
        let _second = census.enter(agent(), 2, TooMany::OldestGoes).unwrap();
        let _third = census.enter(agent(), 2, TooMany::OldestGoes).unwrap();
        first.must_leave().await;
        drop(first);
        assert_eq!(census.lock().taken[&agent()].len(), 2);
    }

    #[test]
    fn one_address_does_not_take_anothers_place_and_a_seat_is_given_back() {
        let census = Arc::new(Census::default());
        let nobody = |text: &str| Holder::of(None, text.parse().unwrap());
        let enter = |text| census.enter(nobody(text), 1, TooMany::NewestRefused);
        let first = enter("10.0.0.1").unwrap();
        assert!(enter("::ffff:10.0.0.1").is_none(), "the same address written as IPv6");
        let _other = enter("10.0.0.2").unwrap();
        drop(first);
        let _again = enter("10.0.0.1").unwrap();
        let _six = enter("2001:db8::1").unwrap();
        assert!(enter("2001:db8::ffff:1").is_none(), "the same network of 64 bits");
        assert_ne!(agent(), nobody("10.0.0.1"));
    }

    #[test]
    fn nothing_is_kept_of_those_who_left() {
        let census = Arc::new(Census::default());
        drop(census.enter(agent(), 1, TooMany::OldestGoes));
        assert!(census.lock().taken.is_empty());
    }
}
