//! A line between machines and their manager, or between a manager and its database, that a test can make as bad as it likes.
//!
//! It passes bytes of TCP connections on. What can't be done to a connection without ending it (a byte that is doubled, bytes that
//! change places) is done, too: the connection has to notice and end.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How the line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// Everything passes.
    Open,
    /// Nothing passes, and nobody is told: what is sent waits, new connections are taken and hang.
    Silent,
    /// Every connection ends at once, new ones too.
    Cut,
    /// Everything passes so much later.
    Slow(Duration),
    /// After so many bytes from the manager nothing passes any more.
    StopsAfter(usize),
    /// Nothing passes from the manager; what machines send arrives.
    DeafToManager,
    /// Nothing passes to the manager; what it sends arrives.
    DeafToMachines,
    /// Every hundredth part that passes comes twice.
    Doubles,
    /// Every hundredth part that passes changes places with the next.
    Swaps,
    /// For a database: the first transaction in which these bytes stand is committed, and the answer to that does not pass:
    /// its connection ends instead. The line is open then.
    LosesCommitOf(&'static str),
}

#[derive(Debug)]
struct State {
    line: Line,
    /// What it says to the manager at the start of every connection.
    header: String,
    to: Option<SocketAddr>,
    passed: usize,
    still: bool,
    /// Grows when connections have to end.
    cuts: u64,
    /// Grows when nothing is ever heard again on the connections that there are.
    stranded: u64,
    /// What the first machine said on its last connection, to be said once more.
    heard: Vec<u8>,
    connections: usize,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    over: AtomicBool,
}

/// The line; ends with everything on it when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What the line had been through when a connection was made.
#[derive(Clone, Copy)]
struct Born {
    cuts: u64,
    stranded: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToManager,
    ToMachine,
}

impl Default for Proxy {
    fn default() -> Self {
        Proxy::new()
    }
}

impl Proxy {
    /// A line that leads nowhere yet.
    pub fn new() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let state = State {
            line: Line::Open,
            header: String::new(),
            to: None,
            passed: 0,
            still: false,
            cuts: 0,
            stranded: 0,
            heard: Vec::new(),
            connections: 0,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), over: AtomicBool::new(false) });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if accepting.over.load(Ordering::SeqCst) {
                    return;
                }
                let shared = accepting.clone();
                std::thread::spawn(move || shared.connect(socket));
            }
        });
        Proxy { address, shared }
    }

    /// Where machines connect to.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on it leads there.
    pub fn leads_to(&self, manager: SocketAddr) {
        self.shared.lock().to = Some(manager);
    }

    /// From now on it says of every connection, as balancers do, that it comes from this address.
    pub fn says_it_comes_from(&self, address: Ipv4Addr) {
        self.shared.lock().header = format!("PROXY TCP4 {address} {address} 4711 4712\r\n");
    }

    /// From now on the line is like this.
    pub fn now(&self, line: Line) {
        self.shared.now(line);
    }

    /// On the connections that there are nothing passes any more, not even their end, as when the machine at the other end is gone or
    /// somebody between has forgotten them. New ones are as the line is.
    pub fn strand(&self) {
        self.shared.lock().stranded += 1;
    }

    /// Whether it is like this.
    pub fn is(&self, line: Line) -> bool {
        self.shared.lock().line == line
    }

    /// Whether bytes wait on it.
    pub fn stands_still(&self) -> bool {
        self.shared.lock().still
    }

    /// How many connections were made over it.
    pub fn connections(&self) -> usize {
        self.shared.lock().connections
    }

    /// Says to the manager once more, on a connection of its own, what a machine said on its last one. How many bytes come back.
    pub fn say_again(&self) -> usize {
        let (to, heard) = {
            let state = self.shared.lock();
            (state.to.expect("it leads somewhere"), state.heard.clone())
        };
        assert!(!heard.is_empty(), "nothing was said");
        let mut socket = TcpStream::connect(to).expect("the manager takes connections");
        socket.set_read_timeout(Some(super::PATIENCE)).expect("it can be set");
        let _ = socket.write_all(&heard);
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        answer.len()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.shared.lock().cuts += 1;
        self.shared.changed.notify_all();
        // Wakes the one that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self, line: Line) {
        let mut state = self.lock();
        state.line = line;
        (state.passed, state.still) = (0, false);
        if line == Line::Cut {
            state.cuts += 1;
        }
        self.changed.notify_all();
    }

    fn connect(self: Arc<Shared>, machine: TcpStream) {
        let (to, header, born) = {
            let mut state = self.lock();
            if state.line == Line::Cut {
                return;
            }
            state.connections += 1;
            state.heard.clear();
            (state.to, state.header.clone(), Born { cuts: state.cuts, stranded: state.stranded })
        };
        let Some(Ok(mut manager)) = to.map(TcpStream::connect) else { return };
        if manager.write_all(header.as_bytes()).is_err() {
            return;
        }
        let ends = [(&machine, &manager, Direction::ToManager), (&manager, &machine, Direction::ToMachine)];
        let loses = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for (from, to, direction) in ends {
                let (shared, loses) = (&self, &loses);
                scope.spawn(move || {
                    shared.pass(from, to, direction, born, loses);
                    let _ = from.shutdown(Shutdown::Both);
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        });
    }

    /// Passes bytes on until either side has ended, the line was cut, or what the other side answers next is to be lost.
    fn pass(&self, mut from: &TcpStream, mut to: &TcpStream, direction: Direction, born: Born, loses: &AtomicBool) {
        let mut buffer = vec![0; 16 << 10];
        let mut marked = false;
        let mut parts = 0_u64;
        let mut kept: Option<Vec<u8>> = None;
        // So that a cut is noticed by who waits for bytes.
        let _ = from.set_read_timeout(Some(Duration::from_millis(50)));
        let _ = to.set_nodelay(true);
        loop {
            let read = match from.read(&mut buffer) {
                Ok(0) => return self.until_heard_of(born),
                Ok(n) => n,
                Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                    if self.lock().cuts != born.cuts {
                        return;
                    }
                    continue;
                }
                Err(_) => return self.until_heard_of(born),
            };
            let Some(line) = self.wait(direction, read, born) else { return };
            let part = &buffer[..read];
            parts += 1;
            match (line, direction) {
                (Line::LosesCommitOf(text), Direction::ToManager) => {
                    marked |= contains(part, text);
                    if marked && contains(part, "COMMIT") {
                        loses.store(true, Ordering::SeqCst);
                        self.now(Line::Open);
                    }
                }
                (_, Direction::ToMachine) if loses.load(Ordering::SeqCst) => return,
                _ => {}
            }
            let written = match (line, parts % 100) {
                (Line::Doubles, 0) => to.write_all(part).and_then(|()| to.write_all(part)),
                (Line::Swaps, 0) => {
                    kept = Some(part.to_vec());
                    Ok(())
                }
                _ => to.write_all(part),
            };
            let written = written.and_then(|()| match kept.take_if(|_| !parts.is_multiple_of(100)) {
                Some(kept) => to.write_all(&kept),
                None => Ok(()),
            });
            if written.is_err() {
                return self.until_heard_of(born);
            }
            if direction == Direction::ToManager {
                let mut state = self.lock();
                if state.heard.len() < 1 << 20 {
                    state.heard.extend_from_slice(part);
                }
            }
        }
    }

    /// One side has ended: the other one hears of it, unless the connection is stranded. Then it lasts until everything is cut.
    fn until_heard_of(&self, born: Born) {
        let mut state = self.lock();
        while state.stranded != born.stranded && state.cuts == born.cuts {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until so many bytes may pass; none when the connection has to end.
    fn wait(&self, direction: Direction, bytes: usize, born: Born) -> Option<Line> {
        let mut state = self.lock();
        let mut waited = false;
        loop {
            if state.cuts != born.cuts {
                return None;
            }
            let line = state.line;
            let held = match line {
                _ if state.stranded != born.stranded => true,
                Line::Silent => true,
                Line::StopsAfter(most) => direction == Direction::ToMachine && state.passed + bytes > most,
                Line::DeafToManager => direction == Direction::ToMachine,
                Line::DeafToMachines => direction == Direction::ToManager,
                Line::Slow(_) => !std::mem::replace(&mut waited, true),
                _ => false,
            };
            if !held {
                if direction == Direction::ToMachine {
                    state.passed += bytes;
                }
                return Some(line);
            }
            if let (Line::Slow(by), true) = (line, state.stranded == born.stranded) {
                state = self.changed.wait_timeout(state, by).unwrap_or_else(PoisonError::into_inner).0;
            } else {
                state.still = true;
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}
