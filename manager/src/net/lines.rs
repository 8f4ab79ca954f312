//! Whose turn it is, where many wait for one thing: a line for each address, in the order of arrival, and the lines take turns.
//!
//! So whoever fills one line keeps nobody in another waiting for longer than one turn, and of too many the last of the longest line
//! goes.

use super::census::Holder;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;

/// The lines of one port.
#[derive(Debug)]
pub(crate) struct Lines {
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Somebody has the turn.
    taken: bool,
    waiting: usize,
    /// None of them is empty.
    lines: HashMap<Holder, VecDeque<oneshot::Sender<Turn>>>,
    /// Each line once.
    order: VecDeque<Holder>,
}

impl Lines {
    /// At most so many wait in all of them together.
    pub(crate) fn new(most: usize) -> Arc<Lines> {
        Arc::new(Lines { most, state: Mutex::default() })
    }

    /// Waits for a turn in the line of this holder; none if too many wait there. The next one has it when this one's is dropped.
    pub(crate) async fn turn(self: &Arc<Self>, holder: Holder) -> Option<Turn> {
        let (sender, turn) = oneshot::channel();
        {
            let mut state = self.lock();
            if !std::mem::replace(&mut state.taken, true) {
                return Some(Turn { lines: self.clone(), passes: true });
            }
            if state.waiting >= self.most && !state.make_room(&holder) {
                return None;
            }
            state.waiting += 1;
            let State { lines, order, .. } = &mut *state;
            let line = lines.entry(holder).or_insert_with_key(|holder| {
                order.push_back(holder.clone());
                VecDeque::new()
            });
            line.push_back(sender);
        }
        turn.await.ok()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The last of the longest line goes in favour of one in the line of this holder, if that is shorter with it still.
    fn make_room(&mut self, holder: &Holder) -> bool {
        let own = self.lines.get(holder).map_or(0, VecDeque::len);
        let longest = self.lines.values_mut().max_by_key(|line| line.len()).filter(|line| line.len() > own + 1);
        let gone = longest.and_then(VecDeque::pop_back).is_some();
        self.waiting -= usize::from(gone);
        gone
    }

    /// Whose turn it is next.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let holder = self.order.pop_front()?;
        let line = self.lines.get_mut(&holder)?;
        let first = line.pop_front();
        if line.is_empty() {
            self.lines.remove(&holder);
        } else {
            self.order.push_back(holder);
        }
        self.waiting -= usize::from(first.is_some());
        first
    }
}

/// That it is somebody's turn.
#[derive(Debug)]
pub(crate) struct Turn {
    lines: Arc<Lines>,
    /// The next one has it afterwards. Not, if nobody ever had this one.
    passes: bool,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.passes {
            return;
        }
        let mut state = self.lines.lock();
        while let Some(next) = state.next() {
            match next.send(Turn { lines: self.lines.clone(), passes: true }) {
                Ok(()) => return,
                // It does not wait any more.
                Err(mut turn) => turn.passes = false,
            }
        }
        state.taken = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    fn at(address: &str) -> Holder {
        Holder::of(None, address.parse().unwrap())
    }

    /// Lets these wait, one after the other; whoever has a turn says so, and whoever has to go.
    async fn wait(lines: &Arc<Lines>, holders: &[&'static str]) -> mpsc::UnboundedReceiver<(usize, bool)> {
        let (had, all) = mpsc::unbounded_channel();
        for (n, holder) in holders.iter().copied().enumerate() {
            let (own, had) = (lines.clone(), had.clone());
            // On one thread, a task that is not ready when it is let go on first stands in its line then.
            tokio::spawn(async move {
                let turn = own.turn(at(holder)).await;
                let _ = had.send((n, turn.is_some()));
            });
            tokio::task::yield_now().await;
        }
        all
    }

    #[tokio::test]
    async fn in_a_line_goes_first_who_came_first_and_the_lines_take_turns() {
        let lines = Lines::new(100);
        let turn = lines.turn(at("10.0.0.1")).await.unwrap();
        let mut had = wait(&lines, &["10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.2", "10.0.0.3"]).await;
        drop(turn);
        let mut order = Vec::new();
        while let Some((n, true)) = had.recv().await {
            order.push(n);
        }
        assert_eq!(order, [0, 3, 5, 1, 4, 2]);
        assert!(lines.turn(at("10.0.0.9")).await.is_some(), "nobody has the turn");
    }

    #[tokio::test]
    async fn of_too_many_the_last_of_the_longest_line_goes_or_the_newest() {
        let lines = Lines::new(3);
        let turn = lines.turn(at("10.0.0.1")).await.unwrap();
        let mut had = wait(&lines, &["10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.2"]).await;
        // The third had to go for the fourth; the fifth would have made its line as long as the other.
        assert_eq!(had.recv().await.unwrap(), (2, false));
        assert_eq!(had.recv().await.unwrap(), (4, false));
        drop(turn);
        let mut order = Vec::new();
        while let Some((n, true)) = had.recv().await {
            order.push(n);
        }
        assert_eq!(order, [0, 3, 1]);
    }

    #[tokio::test]
    async fn who_no_longer_waits_is_passed_over() {
        let lines = Lines::new(100);
        let turn = lines.turn(at("10.0.0.1")).await.unwrap();
        let gone = tokio::spawn({
            let lines = lines.clone();
            async move { lines.turn(at("10.0.0.1")).await }
        });
        while lines.lock().waiting == 0 {
            tokio::task::yield_now().await;
        }
        gone.abort();
        let _ = gone.await;
        drop(turn);
        assert!(lines.turn(at("10.0.0.1")).await.is_some());
    }
}
