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
