//! Threads of a port's own.

use std::{io, thread, time::Duration};
use tokio::runtime::{Builder, Handle, Runtime};

/// More of them wait for nothing but each other: what operators do is little, and rarely at the same time.
const MOST: usize = 4;
/// How long their end is waited for: work that waits for nothing is not interrupted.
const END: Duration = Duration::from_secs(1);

/// Threads that run what is bound among them and nothing else. Those who share threads stand in one line: when a fleet comes back, each
/// step of an operator's call would wait behind a thousand handshakes of agents. The kernel gives these their share of the processor.
///
/// When this is dropped, what they run ends where it waits, and their ports are free.
#[derive(Debug)]
pub struct Threads {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Threads {
    /// As many as there are processors, up to four, under this name.
    pub fn start(name: &str) -> io::Result<Threads> {
        let count = thread::available_parallelism().map_or(1, |n| n.get().min(MOST));
        let runtime = Builder::new_multi_thread().worker_threads(count).thread_name(name).enable_all().build()?;
        Ok(Threads { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// Binds among them: what `bind` makes is run by them.
    pub fn run<T>(&self, bind: impl FnOnce() -> T) -> T {
        let _among = self.handle.enter();
        bind()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A runtime may not wait for the end of another one on its own threads; and whoever starts next binds the same port.
            let ended = thread::spawn(move || runtime.shutdown_timeout(END));
            let _ = ended.join();
        }
    }
}
