//! What stands between a socket and the first call: a bounded list of silent sockets, a line of those that have spoken, and places for
//! handshakes.
//!
//! A socket that sends nothing costs a descriptor and nothing else, and the oldest of them goes when there are too many. Those that
//! have sent something get places for their handshakes in the order in which they came, the addresses in turns: a fleet that lost its
//! manager comes back in one moment, and whoever were turned away would come again, and again, and keep out the rest. When all places
//! are taken and somebody waits, the handshake that has made the manager wait the longest loses its place, so that sockets which send
//! one byte and no more keep nobody out.

use super::{Limits, census::Holder, lines::Lines};
use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// The gate of one port.
#[derive(Debug)]
pub(crate) struct Gate {
    places: Arc<Semaphore>,
    /// Who waits for a place.
    lines: Arc<Lines>,
    silent_max: usize,
    patience: Duration,
    state: Mutex<State>,
    /// Told when a connection has ended, for those who wait for descriptors.
    pub(crate) freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    silent: BTreeMap<u64, Arc<Notify>>,
    handshakes: BTreeMap<u64, (Arc<Notify>, Arc<Waited>)>,
}

impl Gate {
    pub(crate) fn new(limits: &Limits) -> Arc<Gate> {
        Arc::new(Gate {
            places: Arc::new(Semaphore::new(limits.handshakes)),
            lines: Lines::new(limits.waiting_sockets),
            silent_max: limits.silent_sockets,
            patience: limits.handshake_patience,
            state: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// A socket has come; if that is one too many, the oldest silent one is told to go.
    pub(crate) fn arrive(self: &Arc<Self>) -> Silent {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        if state.silent.len() >= self.silent_max
            && let Some((_, oldest)) = state.silent.pop_first()
        {
            oldest.notify_one();
        }
        let go = Arc::new(Notify::new());
        state.silent.insert(id, go.clone());
        Silent { gate: self.clone(), id, go }
    }

    /// Tells the oldest silent socket to go; whether there was one.
    fn drop_oldest_silent(&self) -> bool {
        match self.lock().silent.pop_first() {
            Some((_, oldest)) => {
                oldest.notify_one();
                true
            }
            None => false,
        }
    }

    /// Tells the handshake to go that has made the manager wait the longest, if that is longer than it may; whether there was one.
    fn drop_slowest(&self) -> bool {
        let (slowest, waited) = self.slowest();
        let slowest = slowest.filter(|_| waited >= self.patience).and_then(|id| self.lock().handshakes.remove(&id));
        slowest.is_some_and(|(go, _)| {
            go.notify_one();
            true
        })
    }

    /// Makes room for a newcomer on a port that is full: whoever has said nothing goes, else who keeps the manager waiting. Whether
    /// there was somebody.
    pub(crate) fn make_room(&self) -> bool {
        self.drop_oldest_silent() || self.drop_slowest()
    }

    /// Whether all places are taken.
    pub(crate) fn is_full(&self) -> bool {
        self.places.available_permits() == 0
    }

    /// A place for a handshake, as soon as there is one and whoever came before has one; none if too many wait. Whoever waits at the
    /// same address, `from`, waits in one line.
    pub(crate) async fn place(self: &Arc<Self>, from: IpAddr) -> Option<Place> {
        let turn = self.lines.turn(Holder::of(None, from)).await?;
        let permit = self.permit().await;
        drop(turn);
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        let (go, waited) = (Arc::new(Notify::new()), Arc::new(Waited::default()));
        state.handshakes.insert(id, (go.clone(), waited.clone()));
        Some(Place { gate: self.clone(), id, go, waited, _permit: permit })
    }

    /// For whose turn it is.
    async fn permit(&self) -> OwnedSemaphorePermit {
        let mut permit = pin!(self.places.clone().acquire_owned());
        loop {
            let patience = match self.places.available_permits() {
                0 => self.patience.saturating_sub(self.slowest().1),
                _ => self.patience,
            };
            tokio::select! {
                biased;
                permit = &mut permit => match permit {
                    Ok(permit) => return permit,
                    // Never: the semaphore is not closed while the gate is there.
                    Err(_) => std::future::pending().await,
                },
                () = tokio::time::sleep(patience) => {
                    self.drop_slowest();
                }
            }
        }
    }

    /// The handshake that has made the manager wait the longest, and for how long.
    fn slowest(&self) -> (Option<u64>, Duration) {
        let (state, now) = (self.lock(), Instant::now());
        let slowest = state.handshakes.iter().map(|(id, (_, waited))| (Some(*id), waited.total(now))).max_by_key(|(_, total)| *total);
        slowest.unwrap_or((None, Duration::ZERO))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That a socket stands in the list of silent ones.
#[derive(Debug)]
pub(crate) struct Silent {
    gate: Arc<Gate>,
    id: u64,
    go: Arc<Notify>,
}

impl Silent {
    /// Ends when the socket has to go.
    pub(crate) async fn must_go(&self) {
        self.go.notified().await;
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.gate.lock().silent.remove(&self.id);
    }
}

/// A place for one handshake.
#[derive(Debug)]
pub(crate) struct Place {
    gate: Arc<Gate>,
    id: u64,
    go: Arc<Notify>,
    waited: Arc<Waited>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// Ends when the handshake has to go.
    pub(crate) async fn must_go(&self) {
        self.go.notified().await;
    }

    /// The stream on which the handshake is made, with a clock on it.
    pub(crate) fn watch<S>(&self, stream: S) -> Watched<S> {
        Watched { stream, waited: self.waited.clone() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.lock().handshakes.remove(&self.id);
    }
}

/// For how long one handshake has made the manager wait, all pauses together. The manager's own slowness is not in it.
#[derive(Debug)]
struct Waited {
    start: Instant,
    /// Microseconds of pauses that have ended.
    ended: AtomicU64,
    /// When the pause began that has not ended: microseconds since `start`, plus one; 0 for none.
    since: AtomicU64,
}

impl Default for Waited {
    fn default() -> Self {
        Waited { start: Instant::now(), ended: AtomicU64::new(0), since: AtomicU64::new(0) }
    }
}

impl Waited {
    fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    fn at(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_micros().try_into().unwrap_or(u64::MAX - 1)
    }

    fn pause(&self) {
        let _ = self.since.compare_exchange(0, self.now() + 1, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn go_on(&self) {
        let since = self.since.swap(0, Ordering::Relaxed);
        if since > 0 {
            self.ended.fetch_add(self.now().saturating_sub(since - 1), Ordering::Relaxed);
        }
    }

    fn total(&self, now: Instant) -> Duration {
        let since = self.since.load(Ordering::Relaxed);
        let open = if since > 0 { self.at(now).saturating_sub(since - 1) } else { 0 };
        Duration::from_micros(self.ended.load(Ordering::Relaxed) + open)
    }
}

/// A stream that notes how long its other side keeps it waiting.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    stream: S,
    waited: Arc<Waited>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if polled.is_pending() {
            self.waited.pause()
        } else {
            self.waited.go_on()
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const PATIENCE: Duration = Duration::from_millis(50);
    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn gate(handshakes: usize, silent_sockets: usize) -> Arc<Gate> {
        Gate::new(&Limits { handshakes, silent_sockets, handshake_patience: PATIENCE, ..Limits::default() })
    }

    #[tokio::test]
    async fn of_too_many_silent_sockets_the_oldest_goes() {
        let gate = gate(1, 2);
        let first = gate.arrive();
        let second = gate.arrive();
        let _third = gate.arrive();
        first.must_go().await;
        assert!(gate.drop_oldest_silent());
        second.must_go().await;
        assert!(gate.drop_oldest_silent());
        assert!(!gate.drop_oldest_silent());
    }

    #[tokio::test]
    async fn a_handshake_that_keeps_the_manager_waiting_loses_its_place_to_one_who_waits() {
        let gate = gate(2, 10);
        let slow = gate.place(HERE).await.unwrap();
        let (_other_side, socket) = tokio::io::duplex(64);
        let mut stalled = slow.watch(socket);
        let (mut lively_side, socket) = tokio::io::duplex(64);
        let lively = gate.place(HERE).await.unwrap();
        let mut lively_socket = lively.watch(socket);
        let stall = tokio::spawn(async move { stalled.read_u8().await });
        lively_side.write_u8(1).await.unwrap();
        lively_socket.read_u8().await.unwrap();
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { gate.place(HERE).await.unwrap() }
        });
        slow.must_go().await;
        assert!(!waiting.is_finished(), "the place is given back first");
        drop(slow);
        waiting.await.unwrap();
        stall.abort();
        assert!(tokio::time::timeout(4 * PATIENCE, lively.must_go()).await.is_err(), "nobody waits any more");
    }

    #[tokio::test]
    async fn a_slow_handshake_keeps_its_place_while_there_are_others() {
        let gate = gate(2, 10);
        let slow = gate.place(HERE).await.unwrap();
        let (_other_side, socket) = tokio::io::duplex(64);
        let mut stalled = slow.watch(socket);
        let _ = tokio::time::timeout(4 * PATIENCE, stalled.read_u8()).await;
        let _other = gate.place(HERE).await.unwrap();
        assert!(tokio::time::timeout(4 * PATIENCE, slow.must_go()).await.is_err());
    }
}
