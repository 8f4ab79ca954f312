//! The network between machines and their manager, in which connections are cut, replies get lost, and all is slow.
//!
//! It carries bytes of TLS: it can stop, delay or cut them, but not repeat one message or leave one out, which TLS would
//! notice. Whatever is said twice is said twice by one of the ends, after a reply was lost.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime,
    sync::watch,
    task::JoinHandle,
};

/// How much later bytes arrive while the network is slow.
const DELAY: Duration = Duration::from_millis(15);

/// What happens to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Weather {
    /// They arrive.
    #[default]
    Fine,
    /// They arrive later.
    Slow,
    /// What machines say arrives, what the manager says is lost.
    Deaf,
    /// Nothing arrives: connections end, and none is made.
    Cut,
}

/// A network with one manager in it.
pub struct Network {
    address: SocketAddr,
    manager: watch::Sender<Option<SocketAddr>>,
    weather: watch::Sender<Weather>,
    /// Bytes of the manager that were lost.
    lost: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Network {
    /// A network that leads nowhere yet.
    ///
    /// # Panics
    ///
    /// When no port can be bound.
    pub fn new(runtime: &runtime::Handle) -> Network {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port can be bound");
        let address = listener.local_addr().expect("it is bound");
        let (manager, weather, lost) = (watch::Sender::new(None), watch::Sender::new(Weather::Fine), watch::Sender::new(0));
        let task = runtime.spawn(carry(listener, manager.clone(), weather.clone(), lost.clone()));
        Network { address, manager, weather, lost, task }
    }

    /// Where machines reach their manager.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on the manager is there.
    pub fn lead_to(&self, manager: SocketAddr) {
        self.manager.send_replace(Some(manager));
    }

    /// From now on it is like this.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Lets what the manager says get lost, until it has said something, or has had nothing to say for so long; then the
    /// connections are cut.
    pub fn lose_replies(&self, patience: Duration) {
        let before = *self.lost.borrow();
        self.set(Weather::Deaf);
        let end = Instant::now() + patience;
        while *self.lost.borrow() == before && Instant::now() < end {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        self.set(Weather::Cut);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(
    listener: TcpListener,
    manager: watch::Sender<Option<SocketAddr>>,
    weather: watch::Sender<Weather>,
    lost: watch::Sender<u64>,
) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((machine, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let Some(manager) = manager.borrow().filter(|_| *weather.borrow() != Weather::Cut) else { continue };
        let (mut cut, lost, weather) = (weather.subscribe(), lost.clone(), Arc::new(weather.clone()));
        connections.spawn(async move {
            let both = async {
                let Ok(other) = TcpStream::connect(manager).await else { return };
                let _ = (machine.set_nodelay(true), other.set_nodelay(true));
                let ((from_machine, to_machine), (from_manager, to_manager)) = (machine.into_split(), other.into_split());
                let nowhere = watch::Sender::new(0);
                tokio::select! {
                    () = pass(from_machine, to_manager, &weather, &nowhere, false) => {}
                    () = pass(from_manager, to_machine, &weather, &lost, true) => {}
                }
            };
            tokio::select! {
                () = both => {}
                _ = cut.wait_for(|weather| *weather == Weather::Cut) => {}
            }
        });
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, weather: &watch::Sender<Weather>, lost: &watch::Sender<u64>, down: bool) {
    let mut bytes = vec![0; 64 << 10];
    // What was lost once leaves a hole that nothing may follow.
    let mut hole = false;
    loop {
        let Ok(read) = from.read(&mut bytes).await else { return };
        if read == 0 {
            return;
        }
        let now = *weather.borrow();
        hole |= down && now == Weather::Deaf;
        if hole {
            lost.send_modify(|n| *n += read as u64);
            continue;
        }
        if now == Weather::Slow {
            tokio::time::sleep(DELAY).await;
        }
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
