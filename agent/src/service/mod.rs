//! The local socket: how the commands on this machine speak to the running agent.
//!
//! One line of JSON each way. The kernel says who calls (`SO_PEERCRED`): any local user may read, may join and leave
//! groups and answer what operators ask; root and the agent's own user may do the rest. The client side is here, too.

mod protocol;

pub use protocol::{Call, Reply};

use crate::agent::Handle;
use std::{
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};

/// The longest call (bytes).
const CALL_MAX: u64 = 64 << 10;
/// The longest reply (bytes): facts, and a list of what is installed.
const REPLY_MAX: u64 = 8 << 20;
/// How many callers are served at a time.
const CALLERS_MAX: usize = 32;
/// How long a caller may take to say what it wants.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a command can't speak to the agent.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The socket can't be made.
    #[error("cannot listen on {path}: {source}")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody listens there.
    #[error("no agent answers on {path}: {source}; is `sutler-agent run` running, with the same --dir or --socket?")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The agent's reply is not one.
    #[error("the agent on {path} gave no usable answer: {why}")]
    Answer {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// Makes the socket. Whoever holds the state folder's lock may remove what an earlier agent left.
pub fn listen(path: &Path) -> Result<UnixListener, ServiceError> {
    let failed = |source| ServiceError::Listen { path: path.into(), source };
    if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty() && !f.exists()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(failed)?;
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(failed)?;
    Ok(listener)
}

/// Serves callers until the future is dropped.
pub async fn serve(listener: UnixListener, handle: Handle) {
    let slots = Arc::new(Semaphore::new(CALLERS_MAX));
    let own = rustix::process::geteuid().as_raw();
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                // Out of descriptors: the connection to the manager matters more.
                tracing::warn!("the local socket can't take a caller: {e}");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let handle = handle.clone();
        tasks.spawn(async move {
            let _slot = slot;
            let uid = stream.peer_cred().map(|c| c.uid());
            let privileged = uid.is_ok_and(|uid| uid == 0 || uid == own);
            if let Err(e) = answer(stream, &handle, privileged).await {
                tracing::debug!("a local caller: {e}");
            }
        });
    }
}

async fn answer(stream: UnixStream, handle: &Handle, privileged: bool) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(read.take(CALL_MAX));
    let read = tokio::time::timeout(CALL_TIMEOUT, reader.read_line(&mut line)).await;
    let reply = match read {
        Err(_) => Reply::error("nothing was asked in time"),
        Ok(read) => {
            read?;
            match serde_json::from_str::<Call>(&line) {
                Err(e) => Reply::error(format!("the call can't be read: {e}")),
                Ok(call) if call.needs_root() && !privileged => {
                    Reply::error("only root and the agent's own user may do this; try again with sudo")
                }
                Ok(call) => protocol::perform(call, handle).await,
            }
        }
    };
    let mut bytes = serde_json::to_vec(&reply)?;
    bytes.push(b'\n');
    write.write_all(&bytes).await?;
    write.shutdown().await
}

/// Asks the agent that listens on the socket.
pub async fn call(path: &Path, call: &Call) -> Result<Reply, ServiceError> {
    let stream = UnixStream::connect(path).await.map_err(|source| ServiceError::Connect { path: path.into(), source })?;
    let broken = |why: String| ServiceError::Answer { path: path.into(), why };
    let (read, mut write) = stream.into_split();
    let mut line = serde_json::to_string(call).map_err(|e| broken(e.to_string()))?;
    line.push('\n');
    write.write_all(line.as_bytes()).await.map_err(|e| broken(e.to_string()))?;
    let mut answer = String::new();
    let mut reader = BufReader::new(read.take(REPLY_MAX));
    reader.read_line(&mut answer).await.map_err(|e| broken(e.to_string()))?;
    serde_json::from_str(&answer).map_err(|e| broken(e.to_string()))
}
