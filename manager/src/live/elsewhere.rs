//! What managers on one database tell each other: for whom there may be something to do, so that it is not found only when somebody
//! looks anyway.
//!
//! What is said is a hint and nothing else: what is to be done stands in the database, and who acts on it reads and locks it there. A
//! word that is lost costs time.

use super::{Live, lock};
use crate::{
    app::{App, AppError, Wakes},
    telemetry::Metrics,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use sutler_base::{ClientId, JobId};
use sutler_store::{StoreError, WORD_MAX};

/// How long what is to be told is gathered.
const GATHER: Duration = Duration::from_millis(20);
/// How long after it could not be listened it is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How many ids one word has at most.
const IDS: usize = 150;
// The longest id, with quotation marks and a comma, and what else stands in a word.
const _: () = assert!(IDS * 40 + 200 <= WORD_MAX);
/// For more clients than that it is not said which they are: whoever hears it looks for all that have something to do.
const CLIENTS: usize = 10 * IDS;

/// One word.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Word {
    /// Who says it.
    from: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    clients: Vec<ClientId>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    run_now: Vec<ClientId>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    jobs: Vec<JobId>,
    /// There are too many clients to name them.
    #[serde(skip_serializing_if = "is_not")]
    anybody: bool,
    #[serde(skip_serializing_if = "is_not")]
    events: bool,
    #[serde(skip_serializing_if = "is_not")]
    brakes: bool,
    #[serde(skip_serializing_if = "is_not")]
    deltas: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks like that")]
fn is_not(flag: &bool) -> bool {
    !flag
}

/// What there is to say, in words that are short enough.
fn words(from: &str, wakes: Wakes) -> Vec<Word> {
    let Wakes { clients, run_now, access: _, jobs, events, brakes, deltas } = wakes;
    let word = || Word { from: from.to_owned(), ..Word::default() };
    let anybody = clients.len() > CLIENTS;
    let mut words = Vec::new();
    if anybody || events || brakes || deltas {
        words.push(Word { anybody, events, brakes, deltas, ..word() });
    }
    let ids = |set: BTreeSet<ClientId>| set.into_iter().collect::<Vec<_>>();
    let clients = if anybody { vec![] } else { ids(clients) };
    words.extend(clients.chunks(IDS).map(|clients| Word { clients: clients.to_vec(), ..word() }));
    words.extend(ids(run_now).chunks(IDS).map(|run_now| Word { run_now: run_now.to_vec(), ..word() }));
    words.extend(jobs.into_iter().collect::<Vec<_>>().chunks(IDS).map(|jobs| Word { jobs: jobs.to_vec(), ..word() }));
    words
}

impl Live {
    /// Notes what other managers have to hear of a unit of work that is committed; nothing where there can't be others.
    pub(crate) fn tell_others(&self, wakes: &Wakes) {
        if !self.tells.load(Ordering::Relaxed) {
            return;
        }
        let mut told = lock(&self.to_tell);
        // Who is connected here is told here.
        told.clients.extend(wakes.clients.iter().filter(|client| !self.is_connected(client)).cloned());
        told.run_now.extend(wakes.run_now.iter().filter(|client| !self.is_connected(client)).cloned());
        // Not who may be connected: every manager reads that every other second, and of two machines that nothing tells apart, let in
        // again at two managers in one moment, neither would get its own key before the other comes.
        told.jobs.extend(wakes.jobs.iter().cloned());
        told.events |= wakes.events;
        told.brakes |= wakes.brakes;
        told.deltas |= wakes.deltas;
        if !told.is_empty() {
            self.told_due.notify_one();
        }
    }

    /// Acts on what another manager says.
    fn hear(&self, word: Word) {
        for job in word.jobs {
            // Who watches it looks again. What is due in it is done by the manager that changed it, or found by whoever looks anyway.
            let _ = self.changed.send(job);
        }
        let here = |ids: Vec<ClientId>| ids.into_iter().filter(|client| self.is_connected(client)).collect();
        self.wake(Wakes {
            clients: here(word.clients),
            run_now: here(word.run_now),
            access: BTreeSet::new(),
            jobs: BTreeSet::new(),
            events: word.events,
            brakes: word.brakes,
            deltas: word.deltas,
        });
    }
}

/// Tells other managers what they have to hear of units of work of this one. What can't be told is not kept: they find it.
pub(super) async fn tell(app: Arc<App>, me: String, metrics: Arc<Metrics>) {
    app.live.tells.store(true, Ordering::Relaxed);
    loop {
        app.live.told_due.notified().await;
        tokio::time::sleep(GATHER).await;
        let wakes = std::mem::take(&mut *lock(&app.live.to_tell));
        let said = words(&me, wakes).iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>();
        let result = match said {
            Ok(words) if words.is_empty() => continue,
            Ok(words) => app.store.tell(&words).await,
            Err(error) => Err(StoreError::Statement(error.to_string())),
        };
        metrics.round("tell_others", result.is_ok());
        if let Err(error) = result {
            tracing::warn!(%error, "other managers could not be told what there is to do; they find it when they look anyway");
        }
    }
}

/// Listens to other managers.
pub(super) async fn hear(app: Arc<App>, me: String, metrics: Arc<Metrics>) {
    loop {
        let result = listen(&app, &me).await;
        metrics.round("hear_others", result.is_ok());
        match result {
            Ok(()) => return,
            Err(error) => tracing::warn!(%error, "it can't be heard what other managers say; it is tried again"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Listens until that fails; ends well where there are no others.
async fn listen(app: &Arc<App>, me: &str) -> Result<(), AppError> {
    let Some(mut listener) = app.store.listen().await? else { return Ok(()) };
    // What was said before was not heard.
    super::workers::find_queued(app.clone()).await?;
    loop {
        let heard = listener.next().await?;
        let word = match serde_json::from_str::<Word>(&heard) {
            Ok(word) if word.from == me => continue,
            Ok(word) => word,
            // One of another version may say more than this one knows, or what this one does not.
            Err(error) => {
                tracing::debug!(%error, "what another manager says can't be read");
                continue;
            }
        };
        let anybody = word.anybody;
        app.live.hear(word);
        if anybody {
            super::workers::find_queued(app.clone()).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_managers_tell_each_other_is_whole_and_each_word_is_short() {
        let client = |n: u16| {
            let mut bytes = [0; 16];
            bytes[..2].copy_from_slice(&n.to_be_bytes());
            ClientId::from_random(bytes)
        };
        let all: BTreeSet<ClientId> = (0..CLIENTS as u16).map(client).collect();
        let jobs: BTreeSet<JobId> = (0..200).map(|n| JobId::from_random([n; 16])).collect();
        let wakes = || Wakes { clients: all.clone(), run_now: all.clone(), jobs: jobs.clone(), ..Wakes::default() };
        let said = words("0123456789abcdef0123456789abcdef", wakes());
        assert!(said.iter().all(|word| serde_json::to_string(word).unwrap().len() <= WORD_MAX));
        assert_eq!(said.iter().flat_map(|word| &word.clients).collect::<BTreeSet<_>>(), all.iter().collect());
        assert_eq!(said.iter().flat_map(|word| &word.run_now).collect::<BTreeSet<_>>(), all.iter().collect());
        assert_eq!(said.iter().flat_map(|word| &word.jobs).collect::<BTreeSet<_>>(), jobs.iter().collect());
        let heard: Vec<Word> = said.iter().map(|word| serde_json::from_str(&serde_json::to_string(word).unwrap()).unwrap()).collect();
        assert_eq!(heard, said);

        // More than that are not named.
        let more = Wakes { clients: all.iter().cloned().chain([client(u16::MAX)]).collect(), brakes: true, ..Wakes::default() };
        assert_eq!(words("a", more), [Word { from: "a".into(), anybody: true, brakes: true, ..Word::default() }]);
        assert!(words("a", Wakes::default()).is_empty());
    }
}
