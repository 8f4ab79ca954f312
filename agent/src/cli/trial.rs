//! Tries a new agent before it takes the place of this one.
//!
//! The old agent lets go of its folder and runs the staged program as its child, with its own words and `--trial`. The new one
//! finds its trial in the journal. When the manager has welcomed it, it writes that down, puts itself in the old one's place,
//! and ends; the old process then becomes the program that lies there now, so that whoever started the service sees one process
//! throughout. However else the new one ends, or if it takes too long, the old one goes on, and reports it. So a machine is
//! never left with an agent that has not reached its manager: until then nothing of the old one was touched.

use crate::agent::Trial;
use std::{
    io::Write,
    os::unix::{
        fs::MetadataExt,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::AsyncReadExt,
    process::{ChildStderr, Command},
};

/// The word by which a program is told that it is the new agent. Part of what agents of different versions agree on.
pub(super) const FLAG: &str = "--trial";

/// How long an agent that is to end has before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// How long its last words are waited for once it has ended: something that it started may hold them open.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The program that this process was started from.
#[derive(Debug)]
pub(super) struct Program {
    path: PathBuf,
}

impl Program {
    /// Asked at the start, before anything can take its place.
    pub(super) fn current() -> Result<Program, String> {
        let path = std::env::current_exe().map_err(|e| format!("cannot tell which file this program is: {e}"))?;
        Ok(Program { path })
    }

    /// Where it lies, without links.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether another file lies there now.
    pub(super) fn is_replaced(&self) -> bool {
        let file = |path: &Path| path.metadata().map(|found| (found.dev(), found.ino()));
        match (file(&self.path), file(Path::new("/proc/self/exe"))) {
            (Ok(there), Ok(running)) => there != running,
            // Nothing lies there: then nothing can be run.
            _ => false,
        }
    }

    /// Becomes the program that lies there now, with the same words. Returns only if that fails.
    pub(super) fn exec(&self) -> String {
        let words = std::env::args_os().skip(1).filter(|word| word != FLAG);
        let error = std::process::Command::new(&self.path).args(words).exec();
        format!("cannot run the agent that is installed at {}: {error}", self.path.display())
    }
}

/// How a trial ended.
#[derive(Debug)]
pub(super) enum Tried {
    /// The new agent has ended. Which one lies in the place now says whether it has passed; if not, this is why.
    Ended(Trial),
    /// This agent itself is to end.
    Stopped,
}

/// Runs `program` as the new agent for at most `limit`, unless `stop` comes first. Keeps `output_max` bytes of the end of what
/// it writes to standard error, all of which goes to this program's own.
pub(super) async fn run(program: &Path, limit: Duration, output_max: usize, stop: impl Future<Output = ()>) -> Tried {
    let failed = |why: String| Tried::Ended(Trial::Failed(why, String::new()));
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1)).arg(FLAG).stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    // The service manager hears from this process alone.
    command.env_remove("NOTIFY_SOCKET");
    let parent = rustix::process::getpid();
    // SAFETY: two system calls, which are allowed between fork and exec. Should this process be killed, its child must not go on
    // beside the agent that is started next.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(std::io::ErrorKind::Interrupted.into()) }
        });
    }
    tracing::info!(program = %program.display(), "a new agent is tried; this one waits for it");
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(e) => return failed(format!("the new agent could not be started: {e}")),
    };
    let words = child.stderr.take().map(|stderr| tokio::spawn(copy(stderr, output_max)));
    let ended = tokio::select! {
        status = child.wait() => Some(status),
        () = tokio::time::sleep(limit) => None,
        () = stop => {
            end(&mut child).await;
            return Tried::Stopped;
        }
    };
    let why = match ended {
        Some(Ok(status)) => format!("the new agent {} before it had reached the manager", describe(status)),
        Some(Err(e)) => format!("how the new agent ended can't be told: {e}"),
        None => {
            end(&mut child).await;
            format!("the new agent did not reach the manager within {} s", limit.as_secs())
        }
    };
    let output = match words {
        Some(mut words) => match tokio::time::timeout(LAST_WORDS, &mut words).await {
            Ok(output) => output.unwrap_or_default(),
            Err(_) => {
                words.abort();
                String::new()
            }
        },
        None => String::new(),
    };
    Tried::Ended(Trial::Failed(why, output))
}

/// Ends it, kindly first.
async fn end(child: &mut tokio::process::Child) {
    if let Some(pid) = child.id().and_then(|id| rustix::process::Pid::from_raw(id as i32)) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (_, Some(signal)) => format!("was ended by signal {signal}"),
        _ => "ended".into(),
    }
}

/// Passes everything on, and keeps the end of it.
async fn copy(mut from: ChildStderr, max: usize) -> String {
    let (mut kept, mut buffer) = (Vec::new(), vec![0; 8 << 10]);
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let _ = std::io::stderr().write_all(&buffer[..read]);
        kept.extend_from_slice(&buffer[..read]);
        kept.drain(..kept.len().saturating_sub(max));
    }
    String::from_utf8_lossy(&kept).into_owned()
}
