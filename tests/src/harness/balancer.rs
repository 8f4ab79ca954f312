//! A plain TCP load balancer before several managers: it hands each connection to the next one that takes it, in turns, and knows nothing
//! of what passes.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

/// How long a manager may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Managers {
    all: Vec<SocketAddr>,
    next: usize,
}

/// The balancer; ends with everything on it when it is dropped.
#[derive(Debug)]
pub struct Balancer {
    address: SocketAddr,
    managers: Arc<Mutex<Managers>>,
    _end: oneshot::Sender<()>,
}

impl Default for Balancer {
    fn default() -> Self {
        Balancer::new()
    }
}

impl Balancer {
    /// One before nobody yet.
    ///
    /// # Panics
    ///
    /// When it can't be made.
    pub fn new() -> Balancer {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        listener.set_nonblocking(true).expect("it can be set");
        let address = listener.local_addr().expect("it is bound");
        let managers = Arc::<Mutex<Managers>>::default();
        let (end, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
        let known = managers.clone();
        std::thread::spawn(move || {
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("it can be listened");
                tokio::select! {
                    () = accept(listener, known) => {}
                    _ = ended => {}
                }
            });
        });
        Balancer { address, managers, _end: end }
    }

    /// Where to connect.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on new connections go to these, in turns.
    pub fn leads_to(&self, managers: impl IntoIterator<Item = SocketAddr>) {
        self.managers.lock().unwrap_or_else(PoisonError::into_inner).all = managers.into_iter().collect();
    }
}

async fn accept(listener: TcpListener, managers: Arc<Mutex<Managers>>) {
    loop {
        if let Ok((mut caller, _)) = listener.accept().await {
            let managers = managers.clone();
            tokio::spawn(async move {
                if let Ok(mut manager) = connect(&managers).await {
                    let _ = (caller.set_nodelay(true), manager.set_nodelay(true));
                    let _ = tokio::io::copy_bidirectional(&mut caller, &mut manager).await;
                }
            });
        }
    }
}

/// The next one that takes a connection. One that is stopped does: the kernel takes it.
async fn connect(managers: &Mutex<Managers>) -> io::Result<TcpStream> {
    let in_turn: Vec<SocketAddr> = {
        let mut managers = managers.lock().unwrap_or_else(PoisonError::into_inner);
        managers.next = managers.next.wrapping_add(1);
        let all = managers.all.len();
        (0..all).map(|n| managers.all[(managers.next.wrapping_add(n)) % all]).collect()
    };
    for manager in in_turn {
        if let Ok(Ok(stream)) = tokio::time::timeout(CONNECT, TcpStream::connect(manager)).await {
            return Ok(stream);
        }
    }
    Err(io::ErrorKind::ConnectionRefused.into())
}
