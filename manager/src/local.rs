//! Commands on the manager's own host, which need no operator: who can use the manager's folder can be helped when no
//! operator can.
//!
//! While the manager runs they reach it over a socket in its folder (`local.sock`, mode 0600 in a folder of mode 0700); while
//! it doesn't, they take the folder's lock and do the same work themselves. The network has no way here.

use crate::{
    app::{App, operators},
    config::Config,
    folder::{Folder, FolderError},
    serve::{ServeError, open},
    world::World,
};
use serde::{Deserialize, Serialize};
use std::{io, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc, time::Duration};
use sutler_base::OperatorName;
use sutler_certs::{pem, public_key_of_csr};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    task::JoinSet,
};

/// The longest question or answer (bytes).
const MAX: u64 = 64 << 10;
/// How long one question and its answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many may ask at the same time.
const AT_ONCE: usize = 16;

/// What is asked on the manager's host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// A certificate for an operator whose key was lost; the earlier ones are revoked.
    IssueOperator {
        /// The operator.
        name: OperatorName,
        /// A certificate request in its armour.
        request: String,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// The operator's certificate and its issuer, in their armour.
    Issued {
        /// The chain.
        certificates: String,
    },
    /// It was not done.
    Refused {
        /// Why.
        why: String,
    },
}

/// Why nothing was answered.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The socket is there and can't be used.
    #[error("the manager's socket {} can't be used: {source}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The manager does not run, and the folder can't be used without it.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The manager does not run, and what it needs can't be opened.
    #[error(transparent)]
    Open(#[from] ServeError),
}

/// Answers a question.
pub async fn answer(app: &App, question: Question) -> Told {
    let Question::IssueOperator { name, request } = question;
    let key = match pem::parse_request(request.as_bytes()).map_err(|e| e.to_string()) {
        Ok(der) => public_key_of_csr(&der).map_err(|e| e.to_string()),
        Err(e) => Err(e),
    };
    let key = match key {
        Ok(key) => key,
        Err(why) => return Told::Refused { why },
    };
    let input = (name, key, app.ca());
    let issued =
        app.change("manager", "issue_operator", input, |tx, env, (name, key, ca)| Box::pin(operators::issue(tx, env, ca, name, key)));
    match issued.await {
        Ok((_, chain)) => {
            let chain: Vec<_> = chain.into_iter().map(Into::into).collect();
            Told::Issued { certificates: pem::encode_chain(&chain) }
        }
        Err(e) => Told::Refused { why: e.to_string() },
    }
}

/// Asks the manager in this folder, or does its work where none runs.
pub async fn ask(config: &Config, question: Question, world: World) -> Result<Told, LocalError> {
    let path = config.folder.local_socket();
    let failed = |source| LocalError::Socket { path: path.clone(), source };
    match UnixStream::connect(&path).await {
        Ok(stream) => tokio::time::timeout(PATIENCE, exchange(stream, &question))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(failed),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            let lock = config.folder.lock()?;
            let app = open(config, config.agents, world).await?;
            let told = answer(&app, question).await;
            app.store.close().await;
            drop(lock);
            Ok(told)
        }
        Err(e) => Err(failed(e)),
    }
}

async fn exchange(mut stream: UnixStream, question: &Question) -> io::Result<Told> {
    stream.write_all(&serde_json::to_vec(question)?).await?;
    stream.shutdown().await?;
    let mut bytes = Vec::new();
    stream.take(MAX).read_to_end(&mut bytes).await?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// Answers on the folder's socket, as long as the set lives. The folder's lock is held, so what lies there is left over.
pub fn listen(app: Arc<App>, folder: &Folder) -> io::Result<JoinSet<()>> {
    let path = folder.local_socket();
    match fs_err::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    fs_err::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
    let mut set = JoinSet::new();
    set.spawn(async move {
        let mut asking = JoinSet::new();
        loop {
            while asking.len() >= AT_ONCE {
                asking.join_next().await;
            }
            match listener.accept().await {
                Ok((stream, _)) => {
                    let app = app.clone();
                    asking.spawn(async move {
                        match tokio::time::timeout(PATIENCE, hear(&app, stream)).await {
                            Ok(Ok(())) => {}
                            Ok(Err(e)) => tracing::info!("a question on the local socket: {e}"),
                            Err(_) => tracing::info!("a question on the local socket took too long"),
                        }
                    });
                }
                Err(e) => {
                    tracing::warn!("the local socket: {e}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    });
    Ok(set)
}

async fn hear(app: &App, mut stream: UnixStream) -> io::Result<()> {
    let mut bytes = Vec::new();
    (&mut stream).take(MAX).read_to_end(&mut bytes).await?;
    let told = match serde_json::from_slice(&bytes) {
        Ok(question) => answer(app, question).await,
        Err(e) => Told::Refused { why: format!("this manager does not understand the question: {e}") },
    };
    stream.write_all(&serde_json::to_vec(&told)?).await?;
    stream.shutdown().await
}
