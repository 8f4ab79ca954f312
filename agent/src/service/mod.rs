//! The local socket: how the commands on this machine speak to the running agent.
//!
//! One line of JSON each way. The kernel says who calls (`SO_PEERCRED`): any local user may read, may join and leave
//! groups and answer what operators ask; root and the agent's own user may do the rest. Each user has so many places, all users
//! together have some more, and root has its own: whatever others do, it is heard. The client side is here, too.

mod places;
mod protocol;

pub use protocol::{Call, Reply};

use crate::agent::Handle;
use places::{Caller, Places};
use std::{
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

/// The longest call (bytes).
const CALL_MAX: u64 = 64 << 10;
/// The longest reply (bytes): facts, and a list of what is installed.
const REPLY_MAX: u64 = 8 << 20;
/// How long a caller may take to say what it wants, and to take the reply.
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
    let places = Places::default();
    let own = rustix::process::geteuid().as_raw();
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                // Out of descriptors: the connection to the manager matters more.
                tracing::warn!("the local socket can't take a caller: {e}");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let caller = match stream.peer_cred().map(|c| c.uid()) {
            Ok(uid) if uid == 0 || uid == own => Caller::Privileged,
            Ok(uid) => Caller::User(uid),
            Err(e) => {
                tracing::debug!("nobody knows who a local caller is: {e}");
                continue;
            }
        };
        let Some(place) = places.take(caller) else {
            refuse(stream);
            continue;
        };
        let handle = handle.clone();
        tasks.spawn(async move {
            let _place = place;
            if let Err(e) = answer(stream, &handle, caller == Caller::Privileged).await {
                tracing::debug!("a local caller: {e}");
            }
        });
    }
}

/// Says to a caller that there is no place for it. Waits for nothing: whoever calls next is looked at at once.
fn refuse(stream: UnixStream) {
    let reply = Reply::error("this user has too many calls under way, or all users together have; try again when some have ended");
    let said = serde_json::to_vec(&reply).map_err(io::Error::from).and_then(|mut bytes| {
        bytes.push(b'\n');
        stream.into_std()?.write_all(&bytes)
    });
    if let Err(e) = said {
        tracing::debug!("a local caller that was refused: {e}");
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
    let said = async {
        write.write_all(&bytes).await?;
        write.shutdown().await
    };
    tokio::time::timeout(CALL_TIMEOUT, said).await?
}

/// Asks the agent that listens on the socket.
pub async fn call(path: &Path, call: &Call) -> Result<Reply, ServiceError> {
    let stream = UnixStream::connect(path).await.map_err(|source| ServiceError::Connect { path: path.into(), source })?;
    let broken = |why: String| ServiceError::Answer { path: path.into(), why };
    let (read, mut write) = stream.into_split();
    let mut line = serde_json::to_string(call).map_err(|e| broken(e.to_string()))?;
    line.push('\n');
    match write.write_all(line.as_bytes()).await {
        // It was refused before it was heard, and that is said.
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(broken(e.to_string())),
        _ => {}
    }
    let mut answer = String::new();
    let mut reader = BufReader::new(read.take(REPLY_MAX));
    reader.read_line(&mut answer).await.map_err(|e| broken(e.to_string()))?;
    serde_json::from_str(&answer).map_err(|e| broken(e.to_string()))
}
