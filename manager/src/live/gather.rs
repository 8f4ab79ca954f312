//! What many clients bring in one moment is done together: while one unit of work goes on, whatever comes waits, and is done by
//! the next one. What comes alone waits for nobody.

use crate::app::{App, AppError};
use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use sutler_store::StoreError;
use tokio::sync::oneshot;

type Outputs<O> = Pin<Box<dyn Future<Output = Result<Vec<O>, AppError>> + Send>>;

/// Does many inputs in one unit of work, and gives as many outputs in their order.
type Together<I, O> = fn(Arc<App>, Vec<I>) -> Outputs<O>;

/// Who waits, with what it brought.
type Waiting<I, O> = (I, oneshot::Sender<Result<O, AppError>>);

struct Queue<I, O> {
    waiting: VecDeque<Waiting<I, O>>,
    /// Somebody works on it.
    at_work: bool,
}

/// Where inputs wait for the next unit of work.
pub struct Gather<I, O> {
    queue: Mutex<Queue<I, O>>,
    most: usize,
    together: Together<I, O>,
}

impl<I, O> Gather<I, O>
where
    I: Clone + Send + 'static,
    O: Send + 'static,
{
    /// At most so many are done in one unit of work.
    pub fn new(most: usize, together: Together<I, O>) -> Arc<Gather<I, O>> {
        Arc::new(Gather { queue: Mutex::new(Queue { waiting: VecDeque::new(), at_work: false }), most, together })
    }

    fn queue(&self) -> MutexGuard<'_, Queue<I, O>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has this done with whatever else waits. It is done also for who no longer waits for it.
    ///
    /// # Errors
    ///
    /// What it would have come to alone: one that fails takes no other with it.
    pub async fn add(self: &Arc<Self>, app: &Arc<App>, input: I) -> Result<O, AppError> {
        let (sender, answer) = oneshot::channel();
        if self.queue_up(input, sender) {
            // On a task of its own: who began may be cut off, and others wait.
            tokio::spawn(self.clone().work(app.clone()));
        }
        let cut_off = |_| Err(StoreError::Unavailable("what was waiting to be written was cut off; try again".into()).into());
        answer.await.unwrap_or_else(cut_off)
    }

    /// Gives back whether nobody works on it yet.
    fn queue_up(&self, input: I, sender: oneshot::Sender<Result<O, AppError>>) -> bool {
        let mut queue = self.queue();
        queue.waiting.push_back((input, sender));
        !std::mem::replace(&mut queue.at_work, true)
    }

    /// The next batch; none if nobody waits, and then nobody works on it any more.
    fn next(&self) -> Option<Vec<Waiting<I, O>>> {
        let mut queue = self.queue();
        let count = queue.waiting.len().min(self.most);
        queue.at_work = count > 0;
        queue.at_work.then(|| queue.waiting.drain(..count).collect())
    }

    async fn work(self: Arc<Self>, app: Arc<App>) {
        let _released = Released(&self);
        while let Some(batch) = self.next() {
            let (inputs, mut senders): (Vec<I>, Vec<_>) = batch.into_iter().unzip();
            match (self.together)(app.clone(), inputs.clone()).await {
                Ok(outputs) => senders.into_iter().zip(outputs).for_each(|(sender, output)| drop(sender.send(Ok(output)))),
                // Nobody gets through: there is no use in trying one after the other.
                Err(AppError::Store(error @ StoreError::Unavailable(_))) => {
                    senders.into_iter().for_each(|sender| drop(sender.send(Err(error.clone().into()))));
                }
                Err(error) if senders.len() == 1 => drop(senders.pop().map(|sender| sender.send(Err(error)))),
                // One of them is at fault, or what they are together.
                Err(_) => {
                    for (input, sender) in inputs.into_iter().zip(senders) {
                        let done = (self.together)(app.clone(), vec![input]).await;
                        let _ = sender.send(done.and_then(|mut outputs| outputs.pop().ok_or_else(nothing)));
                    }
                }
            }
        }
    }
}

fn nothing() -> AppError {
    AppError::Bug("a unit of work gave nothing for its input".into())
}

/// However the work ends: those who wait are not left waiting, and the next one begins anew.
struct Released<'a, I, O>(&'a Gather<I, O>);

impl<I, O> Drop for Released<'_, I, O> {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.at_work && std::thread::panicking() {
            queue.at_work = false;
            queue.waiting.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::outcomes::tests::manager;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Notify;

    /// Where the first batch waits, so that whoever comes meanwhile is in the next one.
    static GO: Notify = Notify::const_new();
    static BATCHES: AtomicUsize = AtomicUsize::new(0);

    /// Doubles numbers; not with 13 among them, and 99 is the end of everything.
    fn doubled(_: Arc<App>, numbers: Vec<u32>) -> Outputs<u32> {
        Box::pin(async move {
            if BATCHES.fetch_add(1, Ordering::SeqCst) == 0 {
                GO.notified().await;
            }
            assert!(!numbers.contains(&99), "this is what the test is about");
            if numbers.contains(&13) {
                return Err(AppError::Bug("of 13".into()));
            }
            Ok(numbers.into_iter().map(|n| 2 * n).collect())
        })
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_comes_while_others_are_at_work_is_done_with_them_and_one_that_fails_takes_no_other_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let manager = manager(folder.path()).await;
        let gather = Gather::new(100, doubled);
        let add = |n: u32| {
            let (gather, app) = (gather.clone(), manager.app().clone());
            tokio::spawn(async move { gather.add(&app, n).await })
        };
        let come = async |count: usize| {
            while gather.queue().waiting.len() < count {
                tokio::task::yield_now().await
            }
        };
        let first = add(1);
        while BATCHES.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let others: Vec<_> = (2..=50).map(add).collect();
        come(49).await;
        // Who begins may be cut off: it is done all the same, and nobody else is left waiting.
        first.abort();
        GO.notify_one();
        for (n, answer) in (2..).zip(others) {
            match answer.await.unwrap() {
                Ok(output) => assert_eq!((output, n == 13), (2 * n, false)),
                Err(error) => assert_eq!((error.to_string().as_str(), n), ("of 13", 13)),
            }
        }
        // One alone, all together, and each of those since they failed together.
        assert_eq!(BATCHES.load(Ordering::SeqCst), 1 + 1 + 49);

        // Whatever becomes of the work, nobody waits for it for ever, and the next one begins anew.
        let lost = add(99).await.unwrap().unwrap_err();
        assert!(lost.to_string().contains("cut off"), "{lost}");
        assert_eq!(add(4).await.unwrap().unwrap(), 8);
        manager.stop().await;
    }
}
